//! `--check`, and the health of the application.

use std::{net::TcpListener, os::unix::process::ExitStatusExt};

use nix::sys::signal::Signal;

use crate::support::{Place, Running, answering, init};

#[test]
fn a_check_says_whether_the_application_is_healthy() {
    let cases = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 0, ""),
        ("HTTP/1.1 204 No Content\r\n\r\n", 0, ""),
        ("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", 0, ""),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", 1, "404"),
        ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", 1, "503"),
        ("SSH-2.0-OpenSSH_9.2\r\n", 1, "no HTTP answer"),
        ("", 1, "no answer within 300ms"),
    ];
    for (answer, code, message) in cases {
        let url = answering(answer);
        let output = init(Place::Normal, &["--check", &url, "--check-timeout", "300ms"]).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{answer:?}: {log}");
        assert!(log.contains(message), "{answer:?}: {log}");
        assert!(code == 0 || log.contains(&url), "{log}");
    }
}

#[test]
fn a_check_of_a_port_that_nobody_listens_on_fails() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = init(Place::Normal, &["--check", &format!("http://{free}/health")]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("refused"));
}

#[test]
fn a_check_in_the_environment_leaves_the_command_alone() {
    let url = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let run = |arguments| init(Place::Normal, arguments).env("INIT_CHECK", &url).status().unwrap().code();
    assert_eq!(run(&["sh", "-c", "exit 3"]), Some(3));
    assert_eq!(run(&[]), Some(0));
}

#[test]
fn a_stop_signal_ends_a_check() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut running = Running::start(Place::Normal, &["--check", &url, "--check-timeout", "1h"]);
    let _connection = listener.accept().unwrap();
    running.signal(Signal::SIGTERM);
    assert_eq!(running.exit_status().signal(), Some(libc::SIGTERM));
}

//! Who it says it is, what it logs, and what keeps it from starting.

use std::{io::BufRead, net::TcpListener, thread, time::Duration};

use serde_json::Value;

use crate::support::{Running, back, hostname, metadata};

#[test]
fn the_task_is_named_by_its_flags() {
    let running = Running::start(&mut back(&["--task-id", "0d1e2f", "--revision", "7"]));
    let answer = running.get("/");
    assert!(answer.contains("x-task-id: 0d1e2f\r\n") && answer.ends_with("\r\n\r\nbackend 0d1e2f 7\n"), "{answer}");
    assert!(running.get("/health").starts_with("HTTP/1.1 200 "));
}

#[test]
fn the_task_is_named_by_the_ecs_metadata() {
    let body = r#"{"Cluster":"back","TaskARN":"arn:aws:ecs:eu-west-1:111122223333:task/back/158d1c8083dd49d6","Revision":"3"}"#;
    let answer: &str = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).leak();
    let url = metadata(answer);
    let running = Running::start(back(&[]).env("ECS_CONTAINER_METADATA_URI_V4", url));
    assert!(running.get("/").ends_with("\r\n\r\nbackend 158d1c8083dd49d6 3\n"));
}

#[test]
fn a_flag_wins_over_the_metadata() {
    let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"TaskARN\":\"a/b\",\"Revision\":\"3\"}";
    let running = Running::start(back(&["--task-id", "mine"]).env("ECS_CONTAINER_METADATA_URI_V4", metadata(answer)));
    assert_eq!((running.serving["task_id"].as_str(), running.serving["revision"].as_str()), (Some("mine"), Some("3")));
}

#[test]
fn without_metadata_the_task_is_named_by_its_host() {
    let running = Running::start(&mut back(&[]));
    assert!(running.get("/").ends_with(&format!("\r\n\r\nbackend {} local\n", hostname())));
}

#[test]
fn metadata_that_fail_are_replaced_by_the_hostname_and_the_log_says_why() {
    for (answer, reason) in [
        ("", "no answer within"),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "404"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "no TaskARN"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "invalid HTTP"),
    ] {
        let mut running = Running::start(&mut back(&["--metadata-uri", &metadata(answer)]));
        let warning = running.warning.take().expect("the fallback is logged");
        assert!(warning["error"].as_str().unwrap().contains(reason), "{warning}");
        assert_eq!(running.serving["task_id"].as_str(), Some(hostname().as_str()));
    }
}

#[test]
fn requests_are_logged_with_their_task_and_health_checks_are_not() {
    let mut running = Running::start(&mut back(&["--task-id", "0d1e2f"]));
    running.get("/health");
    running.get("/");
    let mut line = String::new();
    running.log.read_line(&mut line).unwrap();
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((event["path"].as_str(), event["task_id"].as_str()), (Some("/"), Some("0d1e2f")));
}

#[test]
fn what_keeps_it_from_starting_is_said_with_the_value_and_is_125() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let cases: [(&[&str], [&str; 2]); 6] = [
        (&["--listen", &address], [&address, "--listen"]),
        (&["--listen", "1235"], ["1235", "--listen"]),
        (&["--lisen", "127.0.0.1:0"], ["--lisen", "--listen"]),
        (&["--drain-timeout", "soon"], ["soon", "such as 30s"]),
        (&["--task-id", "a b"], ["a b", "visible ASCII"]),
        (&["--metadata-uri", "http://example.com/"], ["example.com", "IP address"]),
    ];
    for (arguments, parts) in cases {
        let output = back(arguments).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }
}

#[test]
fn json_says_where_the_task_runs() {
    let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
        {\"TaskARN\":\"a/b\",\"Family\":\"shop\",\"Revision\":\"3\",\"AvailabilityZone\":\"eu-west-1a\"}";
    let running = Running::start(back(&[]).env("ECS_CONTAINER_METADATA_URI_V4", metadata(answer)));
    let answer = running.send("GET / HTTP/1.1\r\nhost: back\r\nconnection: close\r\naccept: application/json\r\n\r\n");
    let answer: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let got = ["task_id", "family", "revision", "availability_zone"].map(|field| answer[field].as_str());
    assert_eq!(got, ["b", "shop", "3", "eu-west-1a"].map(Some));
}

#[test]
fn a_task_that_starts_slowly_refuses_callers_until_it_listens_and_can_be_stopped() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listen = free.to_string();
    let mut slow = back(&["--listen", &listen, "--start-delay", "300ms"]).spawn().unwrap();
    assert!(std::net::TcpStream::connect(free).is_err());
    while std::net::TcpStream::connect(free).is_err() {
        thread::sleep(Duration::from_millis(2));
    }
    slow.kill().unwrap();
    slow.wait().unwrap();

    let arguments = ["--start-delay", "1h", "--admin-listen", "0"];
    let mut never = Running::admin(&mut back(&arguments));
    assert!(never.get("/ready").ends_with("not ready: it does not listen yet\n"));
    never.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(never.exit_code(), Some(0));
}

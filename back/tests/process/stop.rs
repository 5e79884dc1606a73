//! How it stops: whoever is being answered is answered to the end.

use std::io::{Read, Write};

use nix::sys::signal::Signal;

use crate::support::{Running, back, event, read_all};

#[test]
fn sigusr1_makes_it_a_lame_duck_that_still_answers() {
    let mut running = Running::start(&mut back(&[]));
    running.signal(Signal::SIGUSR1);
    event(&mut running.log, "lame duck");
    for _ in 0..3 {
        let mut stream = running.connect();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: back\r\n\r\n").unwrap();
        let answer = read_all(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
    }
}

#[test]
fn sigterm_and_sigint_finish_what_is_in_flight_and_exit_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut running = Running::start(&mut back(&["--drain-timeout", "1h"]));
        let mut stream = running.connect();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: ba").unwrap();
        // Accepted in order, so the one before has been too.
        running.get("/health");
        running.signal(signal);
        event(&mut running.log, "stopping");
        stream.write_all(b"ck\r\n\r\n").unwrap();
        assert!(read_all(&mut stream).starts_with("HTTP/1.1 200 "));
        assert_eq!(running.exit_code(), Some(0), "{signal}");
        event(&mut running.log, "stopped: every request was answered");
    }
}

#[test]
fn a_body_that_nobody_wants_does_not_cost_the_answer() {
    let running = Running::start(&mut back(&[]));
    let body = "x".repeat(1_000_000);
    for _ in 0..10 {
        let mut stream = running.connect();
        write!(
            stream,
            "POST / HTTP/1.1\r\nhost: back\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        assert!(read_all(&mut stream).starts_with("HTTP/1.1 405 "));
    }
}

#[test]
fn a_stop_in_the_middle_of_a_body_waits_for_its_end_and_answers() {
    let mut running = Running::start(&mut back(&["--drain-timeout", "1h"]));
    let mut stream = running.connect();
    stream.write_all(b"POST /x HTTP/1.1\r\nhost: back\r\ncontent-length: 10\r\n\r\nhello").unwrap();
    running.get("/health");
    running.signal(Signal::SIGTERM);
    event(&mut running.log, "stopping");
    stream.write_all(b"world").unwrap();
    let answer = read_all(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("connection: close"), "{answer}");
    assert_eq!(running.exit_code(), Some(0));
}

#[test]
fn of_pipelined_requests_the_one_that_is_being_answered_is_answered_and_the_connection_says_so() {
    let mut running = Running::start(&mut back(&["--enable-faults", "--admin-listen", "0", "--drain-timeout", "1h"]));
    assert!(running.fault(r#"{"fault":"latency","latency":"200ms"}"#).starts_with("HTTP/1.1 200 "));
    let mut stream = running.connect();
    stream.write_all("GET / HTTP/1.1\r\nhost: back\r\n\r\n".repeat(3).as_bytes()).unwrap();
    running.get("/health");
    running.signal(Signal::SIGTERM);
    let answers = read_all(&mut stream);
    assert!(answers.contains("connection: close"), "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 1, "{answers}");
    assert_eq!(running.exit_code(), Some(0));
}

#[test]
fn an_idle_connection_is_closed() {
    let mut running = Running::start(&mut back(&["--drain-timeout", "1h"]));
    let mut idle = running.connect();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: back\r\n\r\n").unwrap();
    assert!(idle.read(&mut [0; 512]).unwrap() > 0);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.exit_code(), Some(0));
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0);
}

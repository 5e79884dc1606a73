//! What it does wrong on purpose, and only if it may.

use std::{
    io::{Read, Write},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Running, ask, back, event};

fn breakable() -> Running {
    Running::start(&mut back(&["--enable-faults", "--admin-listen", "0", "--drain-timeout", "100ms"]))
}

impl Running {
    /// Sets this fault, and expects that it is taken.
    fn breaks(&self, fault: &str) {
        let answer = self.fault(fault);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    fn status(&self, path: &str) -> String {
        self.get(path).split(' ').nth(1).unwrap_or("none").to_owned()
    }
}

#[test]
fn nobody_breaks_a_task_that_takes_no_faults() {
    let running = Running::start(&mut back(&["--admin-listen", "0"]));
    let answer = running.fault(r#"{"fault":"hang"}"#);
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("--enable-faults"), "{answer}");
    assert_eq!((running.status("/error"), running.status("/")), ("404".to_owned(), "200".to_owned()));
}

#[test]
fn a_status_is_given_until_the_fault_is_taken_back() {
    let running = breakable();
    running.breaks(r#"[{"fault":"status","status":503,"path":"/"}]"#);
    let answer = running.get("/");
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("x-task-id: "), "{answer}");
    assert_eq!((running.status("/other"), running.status("/health")), ("404".to_owned(), "200".to_owned()));
    let admin = running.admin_address.unwrap();
    let on = ask(admin, "GET", "/fault", "");
    assert!(on.ends_with("[{\"fault\":\"status\",\"path\":\"/\",\"status\":503}]\n"), "{on}");
    assert!(ask(admin, "DELETE", "/fault", "").ends_with("\r\n\r\n[]\n"));
    assert_eq!(running.status("/"), "200");
}

#[test]
fn an_unhealthy_task_answers_all_the_rest() {
    let running = breakable();
    running.breaks(r#"{"fault":"unhealthy"}"#);
    assert_eq!((running.status("/health"), running.status("/")), ("503".to_owned(), "200".to_owned()));
}

#[test]
fn the_articles_error_is_turned_on_and_off_by_a_get() {
    let running = breakable();
    assert_eq!(running.status("/error"), "200");
    assert_eq!((running.status("/"), running.status("/health")), ("500".to_owned(), "500".to_owned()));
    assert_eq!(running.status("/error"), "200");
    assert_eq!(running.status("/"), "200");
}

#[test]
fn latency_delays_an_answer_and_a_fault_ends_with_its_time() {
    let running = breakable();
    running.breaks(r#"{"fault":"latency","latency":"150ms","for":"1h"}"#);
    let started = Instant::now();
    assert_eq!(running.status("/"), "200");
    assert!(started.elapsed() >= Duration::from_millis(150));
    running.breaks(r#"{"fault":"status","for":"100ms"}"#);
    assert_eq!(running.status("/"), "500");
    thread::sleep(Duration::from_millis(110));
    assert_eq!(running.status("/"), "200");
}

#[test]
fn connections_are_closed_without_a_word_or_in_the_middle_or_never() {
    let running = breakable();
    running.breaks(r#"{"fault":"abort"}"#);
    assert_eq!(running.get("/"), "");
    running.breaks(r#"{"fault":"cut"}"#);
    let answer = running.get("/");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let length: usize = head.split_once("content-length: ").unwrap().1.split("\r\n").next().unwrap().parse().unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && body.len() == length / 2 && !body.is_empty(), "{answer}");
    running.breaks(r#"{"fault":"hang"}"#);
    let mut stream = running.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: back\r\n\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
    assert!(stream.read(&mut [0; 1]).is_err());
    assert_eq!(running.status("/health"), "200");
}

#[test]
fn a_share_of_the_requests_is_hit() {
    let running = breakable();
    running.breaks(r#"{"fault":"status","percent":50}"#);
    let failed = (0..200).filter(|_| running.status("/") == "500").count();
    // Seven standard deviations.
    assert!((50..=150).contains(&failed), "{failed} of 200");
    let metrics = ask(running.admin_address.unwrap(), "GET", "/metrics", "");
    assert!(metrics.contains(&format!("back_faults_total{{fault=\"status\"}} {failed}\n")), "{metrics}");
    assert!(metrics.contains(&format!("back_requests_total{{code=\"500\",kind=\"request\"}} {failed}\n")), "{metrics}");
}

#[test]
fn a_crash_has_its_exit_code_or_its_signal() {
    let mut running = breakable();
    running.fault(r#"{"fault":"crash","exit_code":42}"#);
    assert_eq!(running.exit_code(), Some(42));
    for signal in [9, 11, 15] {
        let mut running = breakable();
        running.fault(&format!("{{\"fault\":\"crash\",\"signal\":{signal}}}"));
        assert_eq!(running.exit_code(), None, "{signal}");
    }
}

#[test]
fn a_signal_to_stop_is_ignored_if_that_is_asked_for() {
    let mut running = breakable();
    running.breaks(r#"{"fault":"ignore_stop"}"#);
    running.signal(Signal::SIGTERM);
    event(&mut running.log, "a signal to stop is ignored");
    assert_eq!(running.status("/"), "200");
    running.breaks("[]");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.exit_code(), Some(0));
}

#[test]
fn memory_is_taken_and_kept() {
    let running = breakable();
    let resident = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = resident();
    running.breaks(r#"{"fault":"leak","mebibytes":16}"#);
    assert!(resident() >= before + 16 * 1024, "{before} and then {}", resident());
}

#[test]
fn what_is_no_fault_is_refused_and_says_why() {
    let running = breakable();
    let admin = running.admin_address.unwrap();
    for (body, says) in [
        ("", "expected a fault such as"),
        ("{\"fault\":\"typo\"}", "unknown variant `typo`"),
        ("{\"fault\":\"hang\",\"pat\":\"/\"}", "unknown field `pat`"),
        ("[{\"fault\":\"hang\",\"percent\":-1}]", "fault 1, hang: percent"),
    ] {
        let answer = running.fault(body);
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains(says), "{body}: {answer}");
    }
    assert!(ask(admin, "POST", "/fault", "").starts_with("HTTP/1.1 405 "));
}

#[test]
fn requests_say_whether_they_were_health_checks() {
    let mut running = Running::start(&mut back(&["--log-level", "debug"]));
    running.get("/health");
    running.get("/");
    let seen: Vec<Value> = ["health check", "request"].map(|name| event(&mut running.log, name)).into();
    assert_eq!((&seen[0]["health_check"], &seen[1]["health_check"]), (&Value::Bool(true), &Value::Bool(false)));
}

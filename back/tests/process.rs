//! `back` as a real process: who it says it is, how it stops, and what it says when it cannot start.

#![expect(clippy::disallowed_methods, reason = "these tests watch real processes, so they read the clock and wait")]
#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking, as the test itself does")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStderr, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// How long anything may take before the test fails. Never waited for in a run that passes.
const PATIENCE: Duration = Duration::from_secs(20);

fn back(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_back"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BACK_") || name == "ECS_CONTAINER_METADATA_URI_V4" {
            command.env_remove(name);
        }
    }
    command.env("BACK_LISTEN", "127.0.0.1:0").env("BACK_LOG_FORMAT", "json").args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A `back` that serves. Killed with its handle.
struct Running {
    process: Child,
    log: BufReader<ChildStderr>,
    address: SocketAddr,
    /// What it logged when it began to serve, and a warning before that.
    serving: Value,
    warning: Option<Value>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut process = command.spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let address = ([0; 4], 0).into();
        let mut running = Self { process, log, address, serving: Value::Null, warning: None };
        running.serving = event(&mut running.log, "");
        if running.serving["level"] == "WARN" {
            running.warning = Some(running.serving.take());
            running.serving = event(&mut running.log, "serving");
        }
        running.address = running.serving["address"].as_str().unwrap().parse().unwrap();
        running
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.process.id()).unwrap()), signal).unwrap();
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// One answer on a connection that is closed after it.
    fn get(&self, path: &str) -> String {
        let mut stream = self.connect();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: back\r\nconnection: close\r\n\r\n").unwrap();
        read_all(&mut stream)
    }

    fn exit_code(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < PATIENCE, "back does not end");
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The next event of this name in the log.
fn event(log: &mut BufReader<ChildStderr>, name: &str) -> Value {
    let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    lines.find(|event| event["message"].as_str().unwrap().starts_with(name)).expect("the log has the event")
}

fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// An ECS metadata endpoint that gives this answer to `/v4/x/task`, or accepts and says nothing.
fn metadata(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v4/x", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let read = stream.read(&mut request).unwrap();
        assert!(request[..read].starts_with(b"GET /v4/x/task HTTP/1.1\r\n"));
        let _ = stream.write_all(answer.as_bytes());
        if answer.is_empty() {
            let _ = stream.read(&mut request);
        }
    });
    url
}

fn hostname() -> String {
    nix::unistd::gethostname().unwrap().into_string().unwrap()
}

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

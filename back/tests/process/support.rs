//! What the tests share: `back` as a process, and an ECS metadata endpoint.

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
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn back(arguments: &[&str]) -> Command {
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
pub(crate) struct Running {
    pub(crate) process: Child,
    pub(crate) log: BufReader<ChildStderr>,
    pub(crate) address: SocketAddr,
    /// What it logged when it began to serve, and a warning before that.
    pub(crate) serving: Value,
    pub(crate) warning: Option<Value>,
    pub(crate) admin_address: Option<SocketAddr>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut running = Self::spawn(command);
        loop {
            let event = event(&mut running.log, "");
            match event["message"].as_str().unwrap() {
                "admin" => running.admin_address = Some(event["address"].as_str().unwrap().parse().unwrap()),
                "serving" => {
                    running.address = event["address"].as_str().unwrap().parse().unwrap();
                    running.serving = event;
                    return running;
                }
                _ => running.warning = Some(event),
            }
        }
    }

    /// One that does not serve yet: requests go to its admin listener.
    pub(crate) fn admin(command: &mut Command) -> Self {
        let mut running = Self::spawn(command);
        let event = event(&mut running.log, "admin");
        running.address = event["address"].as_str().unwrap().parse().unwrap();
        running
    }

    fn spawn(command: &mut Command) -> Self {
        let mut process = command.spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let address = ([0; 4], 0).into();
        Self { process, log, address, serving: Value::Null, warning: None, admin_address: None }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.process.id()).unwrap()), signal).unwrap();
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// One answer on a connection that is closed after it.
    pub(crate) fn get(&self, path: &str) -> String {
        ask(self.address, "GET", path, "")
    }

    pub(crate) fn fault(&self, body: &str) -> String {
        ask(self.admin_address.unwrap(), "PUT", "/fault", body)
    }

    pub(crate) fn send(&self, request: &str) -> String {
        send_to(self.address, request)
    }

    pub(crate) fn exit_code(&mut self) -> Option<i32> {
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

/// The answer to a request, on a connection that is closed after it.
pub(crate) fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: back\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    send_to(address, &format!("{head}{body}"))
}

/// The answer to the request, with all that comes until the connection ends.
fn send_to(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A crash may reset the connection.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The next event of this name in the log.
pub(crate) fn event(log: &mut BufReader<ChildStderr>, name: &str) -> Value {
    let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    lines.find(|event| event["message"].as_str().unwrap().starts_with(name)).expect("the log has the event")
}

pub(crate) fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// An ECS metadata endpoint that gives this answer to `/v4/x/task`, or accepts and says nothing.
pub(crate) fn metadata(answer: &'static str) -> String {
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

pub(crate) fn hostname() -> String {
    nix::unistd::gethostname().unwrap().into_string().unwrap()
}

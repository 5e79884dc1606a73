//! What the tests share: `front` as a process, and the answers that it gives.

mod backend;

use std::{net::SocketAddr, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
    time::timeout,
};

pub(crate) use backend::{Dns, Hanging, Network, Says, Task, raw_task, task_that_tires};

/// How long anything may take before the test fails. Never waited for in a run that passes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("not after {PATIENCE:?}: {what}"));
}

pub(crate) fn front(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_front"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FRONT_") {
            command.env_remove(name);
        }
    }
    command.env("FRONT_LISTEN", "127.0.0.1:0").env("FRONT_LOG_FORMAT", "json").args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// A `front` that serves. Killed with its handle.
pub(crate) struct Front {
    process: Child,
    log: Lines<BufReader<ChildStderr>>,
    pub(crate) address: SocketAddr,
}

impl Front {
    /// A front for the network's name, with lookups ten times a second, once it has had its first answer.
    pub(crate) async fn start(network: &Network, dns: &Dns, arguments: &[&str]) -> Self {
        let backend = format!("http://back.test:{}", network.port);
        let resolver = dns.address.to_string();
        let mut all = vec!["--backend", &backend, "--resolver", &resolver, "--dns-min-ttl", "100ms"];
        all.extend(["--dns-max-ttl", "100ms", "--dns-timeout", "200ms"]);
        if !arguments.contains(&"--wait-for-task") {
            all.extend(["--wait-for-task", "0"]);
        }
        all.extend(arguments);
        let front = Self::run(&mut front(&all)).await;
        dns.round().await;
        front
    }

    pub(crate) async fn run(command: &mut Command) -> Self {
        let mut process = command.spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut front = Self { process, log, address: ([0; 4], 0).into() };
        front.address = front.event("serving").await["address"].as_str().unwrap().parse().unwrap();
        front
    }

    /// The next event of this name in the log.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        let found = async {
            loop {
                let line = self.log.next_line().await.unwrap().expect("the log has the event");
                let event: Value = serde_json::from_str(&line).unwrap();
                if event["message"].as_str().unwrap().starts_with(name) {
                    return event;
                }
            }
        };
        timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no event {name:?}"))
    }

    /// The names of all events in the log up to the next one of this name.
    pub(crate) async fn events_until(&mut self, name: &str) -> Vec<String> {
        let found = async {
            let mut names = Vec::new();
            while names.last().is_none_or(|last| last != name) {
                let line = self.log.next_line().await.unwrap().expect("the log has the event");
                let event = serde_json::from_str::<Value>(&line).unwrap();
                names.push(event["message"].as_str().unwrap_or_default().to_owned());
            }
            names
        };
        timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{name:?} is not in the log"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.process.id().expect("it runs");
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        timeout(PATIENCE, self.process.wait()).await.expect("front ends").unwrap().code()
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The answer to a request without a body, on a connection of its own.
    pub(crate) async fn ask(&self, method: &str, path: &str) -> Answer {
        self.send(&format!("{method} {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n")).await
    }

    pub(crate) async fn send(&self, request: &str) -> Answer {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        Answer::read(&mut stream).await
    }
}

/// An answer, read to the end of its connection.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) async fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection ends").unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn has(&self, line: &str) -> bool {
        self.head.lines().any(|found| found == line)
    }

    /// Our own answer's JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

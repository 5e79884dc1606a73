//! The server over real sockets on the loopback, through the phases of a stop.

#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking, as the test itself does")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{Request, Response, body::Bytes};
use service::{
    phase::{Asked, Phase},
    server::{Stopped, serve},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};

/// Longer than any test waits.
const LONG: Duration = Duration::from_hours(1);

/// How long anything may take before the test fails. Never waited for in a run that passes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server of one route: `/slow` is answered when the test says so, everything else at once.
struct Server {
    address: SocketAddr,
    phase: watch::Sender<Phase>,
    asked: Arc<Notify>,
    release: Arc<Notify>,
    serving: JoinHandle<Stopped>,
}

impl Server {
    async fn start(drain_timeout: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::with(listener, Phase::Serving, drain_timeout)
    }

    fn with(listener: TcpListener, phase: Phase, drain_timeout: Duration) -> Self {
        let address = listener.local_addr().unwrap();
        let (phase, watched) = watch::channel(phase);
        let (asked, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (told, gate) = (Arc::clone(&asked), Arc::clone(&release));
        let handler = move |request: Request<_>, _| {
            let (told, gate) = (Arc::clone(&told), Arc::clone(&gate));
            async move {
                if request.uri().path() == "/slow" {
                    told.notify_one();
                    gate.notified().await;
                }
                Response::new(Full::new(Bytes::from_static(b"answer")))
            }
        };
        let serving = tokio::spawn(serve(listener, watched, drain_timeout, handler));
        Self { address, phase, asked, release, serving }
    }

    fn ask(&self, asked: Asked) {
        self.phase.send_modify(|phase| *phase = phase.after(asked));
    }

    async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    async fn stopped(self) -> Stopped {
        timeout(PATIENCE, self.serving).await.expect("the server stops").unwrap()
    }
}

struct Client(TcpStream);

impl Client {
    async fn send(&mut self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: back\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
    }

    /// One answer, whose end is its body's text.
    async fn receive(&mut self) -> String {
        let mut answer = Vec::new();
        while !answer.ends_with(b"answer") {
            let read = timeout(PATIENCE, self.0.read_buf(&mut answer)).await.expect("an answer comes").unwrap();
            assert_ne!(read, 0, "cut off after {:?}", String::from_utf8_lossy(&answer));
        }
        String::from_utf8(answer).unwrap()
    }

    async fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("the connection ends").is_ok() && rest.is_empty()
    }
}

#[tokio::test]
async fn a_connection_is_kept_alive_while_serving() {
    let server = Server::start(LONG).await;
    let mut client = server.connect().await;
    for _ in 0..3 {
        client.send("/").await;
        assert!(!client.receive().await.contains("connection: close"));
    }
}

#[tokio::test]
async fn a_lame_duck_accepts_and_says_connection_close() {
    let server = Server::start(LONG).await;
    let mut old = server.connect().await;
    old.send("/").await;
    old.receive().await;
    server.ask(Asked::LameDuck);
    for mut client in [old, server.connect().await] {
        client.send("/").await;
        assert!(client.receive().await.contains("connection: close"));
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn a_request_in_flight_is_finished_and_nobody_new_is_accepted() {
    let server = Server::start(LONG).await;
    let mut client = server.connect().await;
    client.send("/slow").await;
    server.asked.notified().await;
    server.ask(Asked::Stop);
    let refused = async { while TcpStream::connect(server.address).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("the port is closed");
    server.release.notify_one();
    assert!(client.receive().await.contains("connection: close"));
    assert!(client.is_closed().await);
    assert_eq!(server.stopped().await, Stopped { cut_off: 0 });
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_stop() {
    let server = Server::start(LONG).await;
    let mut kept_alive = server.connect().await;
    kept_alive.send("/").await;
    kept_alive.receive().await;
    let _never_used = server.connect().await;
    // Accepted in order, so the one before has been too.
    let mut last = server.connect().await;
    last.send("/").await;
    last.receive().await;
    server.ask(Asked::Stop);
    assert!(kept_alive.is_closed().await);
    assert_eq!(server.stopped().await, Stopped { cut_off: 0 });
}

#[tokio::test]
async fn a_first_request_that_comes_while_stopping_is_answered() {
    let server = Server::start(LONG).await;
    let mut early = server.connect().await;
    let mut last = server.connect().await;
    last.send("/").await;
    last.receive().await;
    server.ask(Asked::Stop);
    assert!(last.is_closed().await);
    early.send("/").await;
    assert!(early.receive().await.contains("connection: close"));
    assert_eq!(server.stopped().await, Stopped { cut_off: 0 });
}

#[tokio::test]
async fn whoever_waits_to_be_accepted_is_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client(TcpStream::connect(address).await.unwrap());
        client.send("/").await;
        clients.push(client);
    }
    let server = Server::with(listener, Phase::Stopping, LONG);
    for client in &mut clients {
        client.receive().await;
    }
    assert_eq!(server.stopped().await, Stopped { cut_off: 0 });
}

#[tokio::test]
async fn those_who_outlast_the_drain_timeout_are_cut_off_and_counted() {
    let server = Server::start(Duration::from_millis(100)).await;
    let mut client = server.connect().await;
    client.send("/slow").await;
    server.asked.notified().await;
    server.ask(Asked::Stop);
    assert!(client.is_closed().await);
    assert_eq!(server.stopped().await, Stopped { cut_off: 1 });
}

#[tokio::test]
async fn a_second_stop_does_not_wait() {
    let server = Server::start(LONG).await;
    let mut client = server.connect().await;
    client.send("/slow").await;
    server.asked.notified().await;
    server.ask(Asked::Stop);
    server.ask(Asked::Stop);
    assert_eq!(server.stopped().await, Stopped { cut_off: 1 });
}

#[tokio::test]
async fn a_caller_that_sends_no_http_is_told_and_others_are_served() {
    let server = Server::start(LONG).await;
    let mut garbage = server.connect().await;
    garbage.0.write_all(b"\x16\x03\x01 hello\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, garbage.0.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let mut client = server.connect().await;
    client.send("/").await;
    client.receive().await;
}

#[tokio::test]
async fn a_head_without_end_is_refused_and_takes_no_more_memory() {
    let server = Server::start(LONG).await;
    for (field, status) in [(40 * 1024, "200"), (200 * 1024, "431")] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: {}\r\n\r\n", "a".repeat(field));
        // It may close before all has been sent.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:?}");
    }
}

//! The server over real sockets on the loopback, through the phases of a stop.

#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking, as the test itself does")]

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    client::conn::http2::{self, SendRequest},
    upgrade,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use service::{
    connection::Switched,
    phase::{Asked, Phase},
    server::{Limits, Stopped, serve},
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

/// A server: `/slow` is answered when the test says so, `/endless` has no end, `/switch` switches to an echo of one byte at a
/// time, and everything else is answered at once.
struct Server {
    address: SocketAddr,
    phase: watch::Sender<Phase>,
    asked: Arc<Notify>,
    release: Arc<Notify>,
    serving: JoinHandle<Stopped>,
}

impl Server {
    async fn start(drain_timeout: Duration) -> Self {
        Self::granting(Limits { drain_timeout, ..Limits::default() }).await
    }

    async fn granting(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::with(listener, Phase::Serving, limits)
    }

    fn with(listener: TcpListener, phase: Phase, limits: Limits) -> Self {
        let address = listener.local_addr().unwrap();
        let (phase, watched) = watch::channel(phase);
        let (asked, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (told, gate) = (Arc::clone(&asked), Arc::clone(&release));
        let handler = move |request: Request<_>, _| {
            let (told, gate) = (Arc::clone(&told), Arc::clone(&gate));
            async move {
                match request.uri().path() {
                    "/slow" => {
                        told.notify_one();
                        gate.notified().await;
                    }
                    "/endless" => {
                        told.notify_one();
                        return Response::new(endless(gate));
                    }
                    "/switch" => return switch(request),
                    _ => {}
                }
                Response::new(Full::new(Bytes::from_static(b"answer")).boxed())
            }
        };
        let serving = tokio::spawn(serve(listener, watched, limits, handler));
        Self { address, phase, asked, release, serving }
    }

    async fn connect_http_2(&self) -> SendRequest<Empty<Bytes>> {
        let stream = TokioIo::new(TcpStream::connect(self.address).await.unwrap());
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        sender
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

/// Zeros for as long as somebody takes them. It is told when nobody does any more.
fn endless(gone: Arc<Notify>) -> BoxBody<Bytes, Infallible> {
    struct Gone(Arc<Notify>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let gone = Gone(gone);
    let frames = futures_util::stream::repeat_with(move || {
        let _held = &gone;
        Ok(Frame::data(Bytes::from_static(&[0; 16 * 1024])))
    });
    BodyExt::boxed(StreamBody::new(frames))
}

fn switch(mut request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    let switched = upgrade::on(&mut request);
    let mut response = Response::new(Empty::new().boxed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("connection", "upgrade".parse().unwrap());
    response.headers_mut().insert("upgrade", "echo".parse().unwrap());
    response.extensions_mut().insert(Switched::new(async move {
        let mut stream = TokioIo::new(switched.await.unwrap());
        while let Ok(byte) = stream.read_u8().await {
            if stream.write_u8(byte).await.is_err() {
                break;
            }
        }
    }));
    response
}

fn get(address: SocketAddr, path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://{address}{path}")).body(Empty::new()).unwrap()
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
    let server = Server::with(listener, Phase::Stopping, Limits::default());
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

#[tokio::test]
async fn http_2_is_served_on_the_same_port_and_each_request_is_finished_when_it_stops() {
    let server = Server::start(LONG).await;
    let mut sender = server.connect_http_2().await;
    let answer = sender.send_request(get(server.address, "/")).await.unwrap();
    assert_eq!(answer.version(), hyper::Version::HTTP_2);
    let in_flight = sender.send_request(get(server.address, "/slow"));
    let in_flight = tokio::spawn(in_flight);
    server.asked.notified().await;
    server.ask(Asked::Stop);
    server.release.notify_one();
    let answer = timeout(PATIENCE, in_flight).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "answer");
    assert_eq!(server.stopped().await, Stopped { cut_off: 0 });
}

#[tokio::test]
async fn a_lame_duck_sends_callers_of_http_2_away_and_answers_new_ones_once() {
    let server = Server::start(LONG).await;
    let mut idle = server.connect_http_2().await;
    idle.send_request(get(server.address, "/")).await.unwrap();
    server.ask(Asked::LameDuck);
    let is_sent_away = async |sender: &mut SendRequest<_>| {
        let gone = async {
            while sender.ready().await.is_ok() && !sender.is_closed() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("it is told to go");
    };
    is_sent_away(&mut idle).await;
    let mut new = server.connect_http_2().await;
    assert_eq!(new.send_request(get(server.address, "/")).await.unwrap().status(), 200);
    is_sent_away(&mut new).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_to_come_again_and_then_served() {
    let server = Server::granting(Limits { max_connections: 2, ..Limits::default() }).await;
    let mut within = Vec::new();
    for _ in 0..2 {
        let mut client = server.connect().await;
        client.send("/").await;
        client.receive().await;
        within.push(client);
    }
    let mut beyond = server.connect().await;
    beyond.send("/").await;
    let mut answer = String::new();
    timeout(PATIENCE, beyond.0.read_to_string(&mut answer)).await.expect("it is closed").unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    within[0].send("/").await;
    within[0].receive().await;
    within.pop();
    let comes_again = async {
        loop {
            let mut client = server.connect().await;
            client.send("/").await;
            let mut answer = [0; 12];
            client.0.read_exact(&mut answer).await.unwrap();
            if &answer == b"HTTP/1.1 200" {
                break;
            }
        }
    };
    timeout(PATIENCE, comes_again).await.expect("there is room again");
}

#[tokio::test]
async fn a_slow_head_ends_its_connection_and_an_idle_one_may_wait_longer() {
    let head_timeout = Duration::from_millis(100);
    let server = Server::granting(Limits { head_timeout, ..Limits::default() }).await;
    let mut idle = server.connect().await;
    idle.send("/").await;
    idle.receive().await;
    let mut slow = server.connect().await;
    slow.send("/").await;
    slow.receive().await;
    slow.0.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
    assert!(slow.is_closed().await);
    let mut slow = server.connect().await;
    slow.0.write_all(b"GET / HT").await.unwrap();
    assert!(slow.is_closed().await);
    idle.send("/").await;
    idle.receive().await;
}

#[tokio::test]
async fn a_connection_that_never_begins_is_closed() {
    let server = Server::granting(Limits { idle_timeout: Duration::from_millis(100), ..Limits::default() }).await;
    let mut silent = server.connect().await;
    assert!(silent.is_closed().await);
}

#[tokio::test]
async fn a_caller_that_takes_nothing_is_cut_off() {
    let body_idle_timeout = Duration::from_millis(300);
    let server = Server::granting(Limits { body_idle_timeout, ..Limits::default() }).await;
    let mut client = server.connect().await;
    client.send("/endless").await;
    timeout(PATIENCE, server.release.notified()).await.expect("nobody waits for it");
}

#[tokio::test]
async fn a_caller_that_never_reads_is_cut_off_when_the_drain_timeout_is_over() {
    let server = Server::start(Duration::from_millis(100)).await;
    let mut deaf = server.connect().await;
    deaf.send("/endless").await;
    server.asked.notified().await;
    server.ask(Asked::Stop);
    assert_eq!(server.stopped().await, Stopped { cut_off: 1 });
}

#[tokio::test]
async fn what_a_connection_switched_to_is_finished_when_it_stops_or_cut_off_in_the_end() {
    for (drain_timeout, ends, cut_off) in [(LONG, true, 0), (Duration::from_millis(100), false, 1)] {
        let server = Server::start(drain_timeout).await;
        let mut client = server.connect().await;
        let request = b"GET /switch HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n!";
        client.0.write_all(request).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n!") {
            answer.push(char::from(timeout(PATIENCE, client.0.read_u8()).await.unwrap().unwrap()));
        }
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        server.ask(Asked::Stop);
        client.0.write_all(b"x").await.unwrap();
        assert_eq!(timeout(PATIENCE, client.0.read_u8()).await.unwrap().unwrap(), b'x');
        let stays = (!ends).then_some(client);
        assert_eq!(server.stopped().await, Stopped { cut_off });
        drop(stays);
    }
}

#[tokio::test]
async fn many_who_come_at_once_are_queued_until_they_are_accepted() {
    let (_listener, address) = service::process::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let coming = async {
        let mut queue = Vec::new();
        for _ in 0..300 {
            queue.push(TcpStream::connect(address).await.unwrap());
        }
    };
    timeout(PATIENCE, coming).await.expect("nobody is left waiting");
}

#[tokio::test]
async fn an_answer_of_http_2_that_nobody_takes_is_let_go_of_while_its_neighbours_go_on() {
    let limits = Limits { body_idle_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = Server::granting(limits).await;
    let mut caller = server.connect_http_2().await;
    let request = |path| Request::get(format!("http://server{path}")).body(Empty::<Bytes>::new()).unwrap();
    let mut untaken = caller.send_request(request("/endless")).await.unwrap();
    timeout(PATIENCE, server.release.notified()).await.expect("it is let go of");

    let answer = timeout(PATIENCE, caller.send_request(request("/"))).await.unwrap().unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "answer");
    let rest = async { while untaken.frame().await.expect("it does not end as if it were whole").is_ok() {} };
    timeout(PATIENCE, rest).await.expect("it is reset");
}

#[tokio::test]
async fn an_answer_of_http_2_that_is_taken_slowly_is_not_let_go_of() {
    let limits = Limits { body_idle_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = Server::granting(limits).await;
    let mut caller = server.connect_http_2().await;
    let request = Request::get("http://server/endless").body(Empty::<Bytes>::new()).unwrap();
    let mut body = caller.send_request(request).await.unwrap();
    // Several times what the window holds, and longer than the limit.
    for _ in 0..24 {
        let mut taken = 0;
        while taken < 1 << 19 {
            taken += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

#[tokio::test]
async fn a_connection_of_http_2_without_a_request_ends_even_where_the_caller_does_not_answer() {
    const SETTINGS: u8 = 4;
    const HEADERS: u8 = 1;
    const GOAWAY: u8 = 7;
    let limits = Limits { idle_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = Server::granting(limits).await;
    let beginning = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
    // One says nothing more, and one begins a head without an end: ":method: GET" as it is in HPACK.
    for more in [vec![], frame(HEADERS, 0, 1, &[0x82])] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&beginning).await.unwrap();
        stream.write_all(&more).await.unwrap();
        let mut bytes = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("it ends").unwrap();
        let mut kinds = Vec::new();
        while let Some(&[a, b, c, kind, ..]) = bytes.first_chunk::<9>() {
            kinds.push(kind);
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            bytes.drain(..9 + length);
        }
        assert!(kinds.contains(&GOAWAY), "{kinds:?}");
    }
}

#[tokio::test]
async fn a_connection_of_http_2_is_not_idle_while_a_request_is_answered() {
    let limits = Limits { idle_timeout: Duration::from_millis(50), ..Limits::default() };
    let server = Server::granting(limits).await;
    let mut caller = server.connect_http_2().await;
    let request = Request::get("http://server/slow").body(Empty::<Bytes>::new()).unwrap();
    let answer = tokio::spawn(caller.send_request(request));
    server.asked.notified().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.release.notify_one();
    assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::OK);
    let closed = async {
        while caller.ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("it is closed when it has been idle");
}

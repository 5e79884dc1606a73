//! What may be spoken besides plain requests of HTTP/1.1: HTTP/2, other protocols that are switched to, and bodies that wait.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::{
    HeaderMap, Request, Version,
    body::{Bytes, Frame},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};

use crate::support::{Answer, Front, Hanging, Network, PATIENCE, Task, eventually, raw_task};

const H2C: [&str; 2] = ["--backend-protocol", "h2c"];

async fn http_2<B>(front: &Front) -> SendRequest<B>
where
    B: hyper::body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(front.connect().await)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://shop{path}")).body(Empty::new()).unwrap()
}

/// Reads until what was read ends so, and returns all of it.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        while !bytes.ends_with(end.as_bytes()) {
            let read = stream.read_buf(&mut bytes).await.unwrap();
            assert_ne!(read, 0, "it ends with {:?}, not with {end:?}", String::from_utf8_lossy(&bytes));
        }
    };
    timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("there is no {end:?}"));
    String::from_utf8(bytes).unwrap()
}

/// Releases all who wait, and who come to wait.
fn release(task: &Task) -> JoinHandle<()> {
    let release = Arc::clone(&task.release);
    tokio::spawn(async move {
        loop {
            release.notify_waiters();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

#[tokio::test]
async fn a_caller_of_http_2_has_many_requests_in_flight_to_tasks_of_http_1() {
    let network = Network::new(44).await;
    let task = Task::start(&network, 1).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    let mut sender = http_2(&front).await;
    let asked: Vec<_> = (0..20).map(|_| tokio::spawn(sender.send_request(get("/slow")))).collect();
    eventually("all are in flight", || task.requests() == 20).await;
    let mut request = get("/a?b");
    request.headers_mut().append("cookie", "a=b".parse().unwrap());
    request.headers_mut().append("cookie", "c=d".parse().unwrap());
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (Version::HTTP_2, 200));
    for (name, value) in [("x-echo", "GET /a?b"), ("x-got-host", "shop"), ("x-got-cookie", "a=b; c=d")] {
        assert_eq!(answer.headers()[name], value);
    }
    let releasing = release(&task);
    for asked in asked {
        assert_eq!(timeout(PATIENCE, asked).await.unwrap().unwrap().unwrap().status(), 200);
    }
    releasing.abort();
}

#[tokio::test]
async fn tasks_of_http_2_share_connections_of_a_hundred_requests_each() {
    let network = Network::new(45).await;
    let task = Task::start(&network, 1).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &H2C).await;
    let mut asked = Vec::new();
    for _ in 0..250 {
        let mut stream = front.connect().await;
        stream.write_all(b"GET /slow HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").await.unwrap();
        asked.push(stream);
    }
    eventually("all are in flight", || task.requests() == 250).await;
    let shares: Vec<_> = task.callers.lock().unwrap().values().copied().collect();
    assert!(shares.len() == 3 && shares.iter().all(|share| *share <= 100), "{shares:?}");
    let releasing = release(&task);
    for mut stream in asked {
        assert_eq!(Answer::read(&mut stream).await.status, 200);
    }
    releasing.abort();
}

#[tokio::test]
async fn a_call_as_grpc_makes_it_passes_with_its_trailers_from_http_2_to_http_2() {
    let network = Network::new(46).await;
    let _task = Task::start(&network, 1).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &H2C).await;
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let frames = [Frame::data(Bytes::from_static(b"message")), Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, std::convert::Infallible>)));
    let request = Request::post("http://shop/package.Service/Method").header("te", "trailers").body(body).unwrap();
    let answer = http_2(&front).await.send_request(request).await.unwrap();
    assert_eq!(answer.headers()["x-got-te"], "trailers");
    let body = answer.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "message");
}

/// A task of HTTP/2 that refuses every request before it acts on it, and counts them.
async fn refusing_task(network: &Network, host: u8) -> JoinHandle<()> {
    let listener = network.listen(host).await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            });
        }
    })
}

#[tokio::test]
async fn what_a_task_of_http_2_refuses_is_done_by_another_one_whatever_it_is() {
    let network = Network::new(47).await;
    let (_refuses, task) = (refusing_task(&network, 1).await, Task::start(&network, 2).await);
    let arguments = [H2C[0], H2C[1], "--balance", "round-robin"];
    let front = Front::start(&network, &network.dns(&[1, 2]).await, &arguments).await;
    for _ in 0..6 {
        assert_eq!(front.ask("POST", "/").await.status, 200);
    }
    assert_eq!(task.requests(), 6);
}

#[tokio::test]
async fn what_a_task_refuses_while_it_ends_a_connection_is_sent_to_it_again_with_its_body() {
    let network = Network::new(85).await;
    let listener = network.listen(1).await;
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut ending = h2::server::handshake(stream).await.unwrap();
        let (_, mut respond) = ending.accept().await.unwrap().unwrap();
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        ending.graceful_shutdown();
        let ended = tokio::spawn(async move { while ending.accept().await.is_some() {} });
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let answered = async {
            let mut body = request.into_body();
            let bytes = body.data().await.unwrap().unwrap();
            respond.send_response(hyper::Response::new(()), false).unwrap().send_data(bytes, true).unwrap();
        };
        let (driven, ()) = tokio::join!(async { connection.accept().await.is_none() }, answered);
        ended.abort();
        driven
    });
    let front = Front::start(&network, &network.dns(&[1]).await, &H2C).await;
    let request = "POST / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    let answer = front.send(request).await;
    assert_eq!((answer.status, answer.body.contains("hi")), (200, true), "{answer:?}");
    task.abort();
}

/// A task that switches protocols and then echoes, and the head that it got.
fn switching_task(listener: tokio::net::TcpListener) -> JoinHandle<String> {
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_until(&mut stream, "\r\n\r\n").await;
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nx-accept: 7\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut bytes = [0; 64];
        while let Ok(read @ 1..) = stream.read(&mut bytes).await {
            stream.write_all(&bytes[..read]).await.unwrap();
        }
        head
    })
}

const SWITCH: &[u8] =
    b"GET /chat HTTP/1.1\r\nhost: shop\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\r\n";

#[tokio::test]
async fn a_web_socket_passes_both_ways_until_it_ends_and_then_has_its_line() {
    let network = Network::new(48).await;
    let task = switching_task(network.listen(1).await);
    let mut front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    let mut stream = front.connect().await;
    stream.write_all(SWITCH).await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("\r\nx-accept: 7\r\n"), "{head}");
    assert!(head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n"), "{head}");
    for said in ["hello", "again"] {
        stream.write_all(said.as_bytes()).await.unwrap();
        read_until(&mut stream, said).await;
    }
    stream.shutdown().await.unwrap();
    assert_eq!(timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap().unwrap(), 0, "the task has ended, too");
    let head = task.await.unwrap();
    assert!(
        head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nsec-websocket-version: 13\r\n"),
        "{head}"
    );
    let line = front.event("request").await;
    assert_eq!((line["status"].as_u64(), line["bytes"].as_u64()), (Some(101), Some(10)), "{line}");
    assert_eq!(line["outcome"], "answered");
}

#[tokio::test]
async fn a_web_socket_that_nobody_uses_is_closed_and_one_that_is_used_is_cut_off_by_a_stop() {
    let network = Network::new(49).await;
    let _task = switching_task(network.listen(1).await);
    let mut front = Front::start(&network, &network.dns(&[1]).await, &["--tunnel-idle-timeout", "100ms"]).await;
    let mut stream = front.connect().await;
    stream.write_all(SWITCH).await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
    assert_eq!(front.event("request").await["outcome"], "nothing came for too long");

    let network = Network::new(50).await;
    let _task = switching_task(network.listen(1).await);
    let mut front = Front::start(&network, &network.dns(&[1]).await, &["--drain-timeout", "100ms"]).await;
    let mut stream = front.connect().await;
    stream.write_all(SWITCH).await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    front.signal(Signal::SIGTERM);
    assert_eq!(front.event("stopped").await["cut_off"], 1);
    assert_eq!(front.exit_code().await, Some(0));
}

const WAITING: &[u8] =
    b"PUT / HTTP/1.1\r\nhost: shop\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_body_that_waits_is_asked_for_when_the_task_asks_for_it() {
    let network = Network::new(51).await;
    let listener = network.listen(1).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &["--continue-timeout", "1h"]).await;
    let mut stream = front.connect().await;
    stream.write_all(WAITING).await.unwrap();
    let (mut task, _) = listener.accept().await.unwrap();
    let head = read_until(&mut task, "\r\n\r\n").await;
    assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
    assert!(timeout(Duration::from_millis(100), stream.read_u8()).await.is_err(), "nobody has asked for it yet");
    task.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
    assert_eq!(read_until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    read_until(&mut task, "hello").await;
    task.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(Answer::read(&mut stream).await.body, "ok");
}

#[tokio::test]
async fn a_body_that_waits_is_sent_to_a_task_that_does_not_ask_for_it() {
    let network = Network::new(57).await;
    let listener = network.listen(1).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &["--continue-timeout", "0"]).await;
    let mut stream = front.connect().await;
    stream.write_all(WAITING).await.unwrap();
    let (mut task, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    stream.write_all(b"hello").await.unwrap();
    read_until(&mut task, "\r\n\r\nhello").await;
}

#[tokio::test]
async fn a_body_that_waits_is_sent_to_a_task_that_answers_well_before_it_has_it() {
    let network = Network::new(84).await;
    let listener = network.listen(1).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &["--continue-timeout", "1h"]).await;
    let mut stream = front.connect().await;
    stream.write_all(WAITING).await.unwrap();
    let (mut task, _) = listener.accept().await.unwrap();
    read_until(&mut task, "\r\n\r\n").await;
    task.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    stream.write_all(b"hello").await.unwrap();
    read_until(&mut task, "hello").await;
    task.write_all(b"taken").await.unwrap();
    read_until(&mut stream, "taken").await;
}

#[tokio::test]
async fn a_body_that_waits_is_not_asked_for_if_there_is_no_task_or_it_answers_at_once() {
    let network = Network::new(52).await;
    let _task = raw_task(&network, 1, b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 3\r\n\r\nno\n").await;
    let front = Front::start(&network, &network.dns(&[1]).await, &["--continue-timeout", "1h"]).await;
    let waits_for_leave = String::from_utf8_lossy(WAITING).replace("connection: close\r\n", "");
    let answer = front.send(&waits_for_leave).await;
    assert_eq!(
        (answer.status, answer.body.as_str(), answer.has("connection: close")),
        (417, "no\n", true),
        "{answer:?}"
    );

    let network = Network::new(53).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    assert_eq!(front.send(&String::from_utf8_lossy(WAITING)).await.status, 502);
}

const STALL: [&str; 2] = ["--body-idle-timeout", "150ms"];

#[tokio::test]
async fn a_body_that_stalls_is_a_408() {
    let network = Network::new(55).await;
    let _hangs = Hanging::start(&network, 1).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &STALL).await;
    let answer = front.send("POST / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhel").await;
    assert_eq!(answer.status, 408, "{answer:?}");
    assert!(answer.json()["cause"].as_str().unwrap().contains("nothing came for 150ms"), "{answer:?}");
}

#[tokio::test]
async fn an_answer_that_stalls_is_cut_off() {
    let network = Network::new(56).await;
    let listener = network.listen(1).await;
    let mut front = Front::start(&network, &network.dns(&[1]).await, &STALL).await;
    let mut stream = front.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await.unwrap();
    let (mut task, _) = listener.accept().await.unwrap();
    read_until(&mut task, "\r\n\r\n").await;
    task.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is cut off").unwrap();
    assert!(String::from_utf8(answer).unwrap().ends_with("\r\n\r\nhel"));
    assert_eq!(front.event("request").await["outcome"], "nothing came for too long");
}

#[tokio::test]
async fn a_caller_of_http_2_that_takes_nothing_gives_its_place_to_others() {
    let network = Network::new(86).await;
    // The second byte waits until the caller has taken the first one.
    let _task =
        raw_task(&network, 1, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
            .await;
    let options = ["--max-in-flight", "1", "--body-idle-timeout", "200ms"];
    let front = Front::start(&network, &network.dns(&[1]).await, &options).await;
    let stream = TokioIo::new(front.connect().await);
    let (mut caller, connection) =
        http2::Builder::new(TokioExecutor::new()).initial_stream_window_size(0).handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let untaken = caller.send_request(get("/")).await.unwrap();
    assert_eq!(untaken.status(), 200);
    assert_eq!(front.ask("GET", "/").await.status, 503, "its place is taken");
    let served = async {
        while front.ask("GET", "/").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, served).await.expect("its place is free again");
    drop(untaken);
}

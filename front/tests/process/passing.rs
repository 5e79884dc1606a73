//! What passes between a caller and a task, and over which connections.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::support::{Front, Network, PATIENCE, Task, eventually, front, raw_task};

#[tokio::test]
async fn method_target_headers_and_body_pass_both_ways() {
    let network = Network::new(2).await;
    let _task = Task::start(&network, 1).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    let answer = front
        .send(
            "PUT /a%20b?c=d HTTP/1.1\r\nhost: shop\r\ntraceparent: 00-1-2-01\r\nx-forwarded-for: 192.0.2.1\r\n\
             connection: close, x-hop\r\nx-hop: 1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        )
        .await;
    assert_eq!(answer.status, 200);
    for line in [
        "x-echo: put /a%20b?c=d",
        "x-task-id: task-1",
        "x-got-host: shop",
        "x-got-traceparent: 00-1-2-01",
        "x-got-x-forwarded-for: 192.0.2.1",
        "x-got-x-forwarded-for: 127.0.0.1",
    ] {
        assert!(answer.has(line), "{line:?} is not in {answer:?}");
    }
    assert!(!answer.head.contains("x-got-x-hop") && !answer.head.contains("keep-alive"), "{answer:?}");
    assert!(answer.body.contains("hello") && answer.body.contains(" world"), "{answer:?}");
}

#[tokio::test]
async fn bodies_are_streamed_in_both_directions() {
    let network = Network::new(3).await;
    let _task = Task::start(&network, 1).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    let mut stream = front.connect().await;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    for part in ["first", "later", "third"] {
        stream.write_all(format!("5\r\n{part}\r\n").as_bytes()).await.unwrap();
        // The task echoes each part before it has the next.
        while !answer.contains(part) {
            let mut bytes = [0; 1024];
            let read = timeout(PATIENCE, stream.read(&mut bytes)).await.expect("an echo comes").unwrap();
            assert_ne!(read, 0);
            answer.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    }
}

#[tokio::test]
async fn fields_after_a_body_pass_both_ways() {
    let network = Network::new(43).await;
    let listener = network.listen(1).await;
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"x-sum: 41\r\n\r\n") {
            assert_ne!(timeout(PATIENCE, stream.read_buf(&mut request)).await.unwrap().unwrap(), 0);
        }
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n";
        stream.write_all(format!("{head}5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n").as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    });
    let front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    let head = "POST / HTTP/1.1\r\nhost: shop\r\nte: trailers\r\nconnection: te, close\r\ntrailer: x-sum\r\n";
    let body = "transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 41\r\n\r\n";
    let answer = front.send(&format!("{head}{body}")).await;
    assert!(answer.status == 200 && answer.body.ends_with("x-sum: 42\r\n\r\n"), "{answer:?}");
    assert!(seen.await.unwrap().to_lowercase().contains("te: trailers"));
}

#[tokio::test]
async fn answers_without_a_body_pass() {
    let network = Network::new(25).await;
    let _one = raw_task(&network, 1, b"HTTP/1.1 204 No Content\r\n\r\n").await;
    let front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    let answer = front.ask("GET", "/").await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    let network = Network::new(26).await;
    let _two = raw_task(&network, 1, b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n").await;
    let front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    let answer = front.ask("HEAD", "/").await;
    assert!(answer.status == 200 && answer.has("content-length: 10") && answer.body.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn a_length_that_contradicts_the_framing_is_not_passed_on() {
    let network = Network::new(22).await;
    let answer =
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n";
    let _task = raw_task(&network, 1, answer).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    let answer = front.ask("GET", "/").await;
    assert!(!answer.head.contains("content-length") && answer.body.contains("0123456789"), "{answer:?}");
}

#[tokio::test]
async fn a_caller_cannot_name_another_backend() {
    let network = Network::new(20).await;
    let _task = Task::start(&network, 1).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    let answer = front.send("GET http://other.test/x HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").await;
    assert!(answer.has("x-task-id: task-1") && answer.has("x-got-host: other.test"), "{answer:?}");
    let answer = front.send("CONNECT other.test:443 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(answer.status, 501);
}

#[tokio::test]
async fn a_connection_to_a_task_is_used_again_and_a_closed_one_is_not() {
    let network = Network::new(4).await;
    let task = Task::start(&network, 1).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    for _ in 0..10 {
        assert_eq!(front.ask("GET", "/").await.status, 200);
    }
    assert_eq!(task.callers.lock().unwrap().values().collect::<Vec<_>>(), [&10]);
    task.stop().await;
    let _successor = Task::start(&network, 1).await;
    for method in ["POST", "GET"] {
        assert_eq!(front.ask(method, "/").await.status, 200);
    }
}

#[tokio::test]
async fn idle_connections_are_closed_when_their_time_is_over() {
    let network = Network::new(28).await;
    let task = Task::start(&network, 1).await;
    let backend = format!("http://127.77.28.1:{}", network.port);
    let front = Front::run(&mut front(&["--backend", &backend, "--idle-timeout", "100ms"])).await;
    front.ask("GET", "/").await;
    let caller = *task.callers.lock().unwrap().keys().next().unwrap();
    // Its port is free again when the connection is gone on both sides.
    let hex = format!(":{:04X}", caller.port());
    eventually("the connection is closed", || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        !table.lines().any(|line| line.split_whitespace().nth(3) == Some("01") && line.contains(&hex))
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_used_no_longer_than_its_age() {
    let network = Network::new(42).await;
    let task = Task::start(&network, 1).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &["--connection-max-age", "100ms"]).await;
    let asked_until = tokio::time::Instant::now() + Duration::from_millis(400);
    while tokio::time::Instant::now() < asked_until {
        assert_eq!(front.ask("GET", "/").await.status, 200);
    }
    let connections = task.callers.lock().unwrap().len();
    assert!((2..=6).contains(&connections), "{connections} for {} requests", task.requests());
}

//! What a caller is told whose request gets no whole answer from a task.

use tokio::io::AsyncWriteExt;

use crate::support::{Answer, Front, Network, Task, eventually, raw_task};

#[tokio::test]
async fn when_every_address_refuses_the_answer_is_502_and_names_them() {
    let network = Network::new(7).await;
    let front = Front::start(&network, &network.dns(&[1, 2]).await, &[]).await;
    let answer = front.ask("GET", "/").await;
    assert_eq!(answer.status, 502);
    let json = answer.json();
    let mut addresses: Vec<_> =
        json["attempts"].as_array().unwrap().iter().map(|attempt| attempt["address"].as_str().unwrap()).collect();
    addresses.sort_unstable();
    assert_eq!(addresses, [format!("127.77.7.1:{}", network.port), format!("127.77.7.2:{}", network.port)]);
    assert!(json["cause"].as_str().unwrap().contains("refused"), "{json}");
}

#[tokio::test]
async fn a_task_that_answers_garbage_is_a_502_that_names_it() {
    let network = Network::new(9).await;
    let _task = raw_task(&network, 1, b"SSH-2.0-OpenSSH_9.2\r\n").await;
    let mut front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    let answer = front.ask("GET", "/").await;
    assert_eq!(answer.status, 502);
    let cause = answer.json()["cause"].as_str().unwrap().to_owned();
    assert!(cause.contains(&format!("127.77.9.1:{}", network.port)) && cause.contains("invalid HTTP"), "{cause}");
    assert_eq!(front.event("request").await["cause"].as_str(), Some(cause.as_str()));
}

#[tokio::test]
async fn a_task_that_does_not_answer_is_a_504_at_the_deadline() {
    let network = Network::new(10).await;
    let _task = Task::start(&network, 1).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &["--request-timeout", "200ms"]).await;
    let answer = front.ask("GET", "/slow").await;
    assert_eq!(answer.status, 504);
    assert!(answer.json()["cause"].as_str().unwrap().contains("no answer within 200ms"), "{answer:?}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_made_to_look_whole() {
    let network = Network::new(11).await;
    let _task = raw_task(&network, 1, b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this").await;
    let mut front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    let answer = front.ask("GET", "/").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "only this"));
    assert!(answer.has("content-length: 100"));
    assert_eq!(front.event("request").await["outcome"].as_str(), Some("cut off by the task"));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_the_callers_fault() {
    let network = Network::new(27).await;
    let _task = Task::start(&network, 1).await;
    let mut front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    let answer =
        front.send("POST /slow HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n").await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(front.event("request").await["cause"].as_str().unwrap().contains("body broke off"));
}

#[tokio::test]
async fn the_version_is_our_own_and_a_protocol_nobody_asked_for_is_a_502() {
    for (number, answer, status) in [
        (23, b"HTTP/1.0 200 OK\r\n\r\nold".as_slice(), 200),
        (24, b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", 502),
    ] {
        let network = Network::new(number).await;
        let _task = raw_task(&network, 1, answer).await;
        let front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
        let answer = front.ask("GET", "/").await;
        assert!(answer.status == status && answer.head.starts_with("http/1.1 "), "{answer:?}");
    }
}

#[tokio::test]
async fn more_requests_than_may_be_in_flight_are_refused_at_once_and_later_ones_are_not() {
    let network = Network::new(40).await;
    let task = Task::start(&network, 1).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &["--max-in-flight", "2"]).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut stream = front.connect().await;
        stream.write_all(b"GET /slow HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").await.unwrap();
        waiting.push(stream);
    }
    eventually("both are in flight", || task.requests() == 2).await;
    let refused = front.ask("GET", "/").await;
    assert!(refused.status == 503 && refused.has("retry-after: 1"), "{refused:?}");
    assert!(refused.json()["cause"].as_str().unwrap().contains("--max-in-flight"));
    // Front's own health is no request of a caller's.
    assert_eq!(front.ask("GET", "/health").await.status, 200);
    task.release.notify_waiters();
    for mut stream in waiting {
        assert_eq!(Answer::read(&mut stream).await.status, 200);
    }
    assert_eq!(front.ask("GET", "/").await.status, 200);
}

//! What whoever runs it sees: why it does not start, its log, its admin port, and how it stops.

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::support::{Answer, Front, Network, PATIENCE, Task, eventually, front};

#[tokio::test]
async fn what_keeps_it_from_starting_is_said_with_the_value_and_is_125() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let cases: [(&[&str], [&str; 2]); 6] = [
        (&[], ["--backend", "Usage"]),
        (&["--backend", "back:1235"], ["back:1235", "such as http://"]),
        (&["--backend", "http://back", "--listen", &address], [&address, "--listen"]),
        (&["--backend", "http://back", "--dns-max-ttl", "soon"], ["soon", "such as 30s"]),
        (&["--backend", "http://back", "--resolver", "dns"], ["dns", "such as 169.254.169.253"]),
        (&["--backend", "http://back", "--bakend", "x"], ["--bakend", "--backend"]),
    ];
    for (arguments, parts) in cases {
        let output = timeout(PATIENCE, front(arguments).output()).await.unwrap().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }
}

#[tokio::test]
async fn a_request_is_logged_with_the_task_that_answered() {
    let network = Network::new(16).await;
    let _task = Task::start(&network, 1).await;
    let mut front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    front.ask("GET", "/health").await;
    let answer = front.ask("GET", "/x?secret=1").await;
    let event = front.event("request").await;
    // By which the caller and the task know it too.
    let id = event["request_id"].as_str().unwrap();
    assert!(id.len() == 32 && answer.has(&format!("x-request-id: {id}")), "{answer:?}");
    assert!(answer.has(&format!("x-got-x-request-id: {id}")), "{answer:?}");
    assert_eq!(event["task_id"].as_str(), Some("task-1"));
    assert_eq!(event["path"].as_str(), Some("/x"));
    assert_eq!(event["status"].as_u64(), Some(200));
    assert_eq!(event["address"].as_str(), Some(format!("127.77.16.1:{}", network.port).as_str()));
    assert_eq!(event["outcome"].as_str(), Some("answered"));
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_no_request() {
    let network = Network::new(29).await;
    let _task = Task::start(&network, 1).await;
    // A pipe holds 64 KiB, about 250 lines.
    let mut front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    for _ in 0..500 {
        assert_eq!(front.ask("GET", "/").await.status, 200);
    }
    front.signal(Signal::SIGTERM);
    assert_eq!(front.exit_code().await, Some(0));
}

#[tokio::test]
async fn whoever_runs_it_sees_what_it_counts_and_knows() {
    let network = Network::new(38).await;
    let _task = Task::start(&network, 1).await;
    let flags = ["--admin-listen", "0", "--balance", "first"];
    let mut front = Front::start(&network, &network.dns(&[2, 1]).await, &flags).await;
    let address = front.event("admin").await["address"].as_str().unwrap().parse::<SocketAddr>().unwrap();
    assert!(address.ip().is_loopback());
    let admin = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Answer::read(&mut stream).await
    };
    assert_eq!(admin("/ready").await.status, 200);
    for _ in 0..3 {
        assert_eq!(front.ask("GET", "/").await.status, 200);
    }
    let metrics = admin("/metrics").await;
    assert!(metrics.has("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{metrics:?}");
    for line in [
        "front_requests_total{code=\"200\",method=\"GET\"} 3",
        "front_attempts_total{result=\"not_connected\"} 1",
        "front_attempts_total{result=\"ok\"} 3",
        "front_retries_total{reason=\"failed\"} 1",
        "front_endpoints{state=\"in_use\"} 1",
        "front_endpoints{state=\"set_aside\"} 1",
        "front_set_aside_total 1",
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "{line}\n{}", metrics.body);
    }
    let endpoints = admin("/debug/endpoints").await.json();
    let of = |host: u8| {
        let address = SocketAddr::from((network.ip(host), network.port)).to_string();
        endpoints.as_array().unwrap().iter().find(|known| known["address"] == *address).unwrap().clone()
    };
    assert_eq!((&of(1)["in_use"], &of(2)["in_use"]), (&Value::Bool(true), &Value::Bool(false)));
    assert_eq!(of(2)["set_aside_times"], 1);
    front.signal(Signal::SIGUSR1);
    front.event("lame duck").await;
    assert_eq!(admin("/ready").await.status, 503);
    assert_eq!(front.ask("GET", "/health").await.status, 200);
}

#[tokio::test]
async fn sigusr1_makes_it_a_lame_duck_that_still_answers() {
    let network = Network::new(17).await;
    let _task = Task::start(&network, 1).await;
    let mut front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    front.signal(Signal::SIGUSR1);
    front.event("lame duck").await;
    for path in ["/", "/health"] {
        let answer = front.send(&format!("GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n")).await;
        assert!(answer.status == 200 && answer.has("connection: close"), "{answer:?}");
    }
}

#[tokio::test]
async fn sigterm_finishes_what_is_in_flight_and_exits_0() {
    let network = Network::new(18).await;
    let task = Task::start(&network, 1).await;
    let mut front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    let mut stream = front.connect().await;
    stream.write_all(b"POST /slow HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
    eventually("the task has the request", || task.requests() == 1).await;
    front.signal(Signal::SIGTERM);
    front.event("stopping").await;
    let address = front.address;
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("the port is closed");
    task.release.notify_one();
    let answer = Answer::read(&mut stream).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    assert_eq!(front.exit_code().await, Some(0));
}

#[tokio::test]
async fn long_names_of_callers_leave_the_log_whole() {
    let network = Network::new(83).await;
    let _task = Task::start(&network, 1).await;
    let mut front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    let long = "x".repeat(5000);
    let head = format!("GET /{long} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\nx-request-id: {long}\r\n\r\n");
    for _ in 0..2 {
        assert_eq!(front.send(&head).await.status, 200);
        let line = front.event("request").await;
        assert_eq!(["path", "request_id"].map(|name| line[name].as_str().unwrap().len()), [512, 512]);
    }
}

#[tokio::test]
async fn at_debug_front_tells_of_itself_and_its_dns_library_only_at_trace() {
    let network = Network::new(87).await;
    for (level, has_others) in [("debug", false), ("trace", true)] {
        let dns = network.dns(&[1, 2]).await;
        let mut front = Front::start(&network, &dns, &["--log-level", level]).await;
        assert_eq!(front.ask("GET", "/").await.status, 502);
        let mut events = front.events_until("attempt failed").await;
        events.retain(|event| event != "the backend's addresses changed" && event != "attempt failed");
        assert_eq!(!events.is_empty(), has_others, "{level}: {events:?}");
    }
}

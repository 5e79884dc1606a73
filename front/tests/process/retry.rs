//! Which requests another task gets when the first one fails, and which not.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use tokio::io::AsyncWriteExt;

use crate::support::{Answer, Dns, Front, Hanging, Network, Says, Task, eventually, front, raw_task, task_that_tires};

#[tokio::test]
async fn an_address_that_refuses_costs_no_request_of_any_method() {
    let network = Network::new(5).await;
    let task = Task::start(&network, 1).await;
    // Without setting aside, half of the requests meet the dead address first.
    let front = Front::start(&network, &network.dns(&[1, 2]).await, &["--set-aside", "0"]).await;
    for method in ["GET", "POST", "PUT", "DELETE"].repeat(10) {
        assert_eq!(front.ask(method, "/").await.status, 200, "{method}");
    }
    assert_eq!(task.requests(), 40);
}

#[tokio::test]
async fn a_request_whose_body_waits_survives_a_refused_connection() {
    let network = Network::new(6).await;
    let _task = Task::start(&network, 1).await;
    let front = Front::start(&network, &network.dns(&[1, 2]).await, &["--set-aside", "0"]).await;
    for _ in 0..20 {
        let answer =
            front.send("POST / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    }
}

#[tokio::test]
async fn a_connection_that_dies_before_the_answer_is_retried_only_where_that_is_safe() {
    let network = Network::new(8).await;
    let task = Task::start(&network, 1).await;
    let _dying = raw_task(&network, 2, b"").await;
    let front = Front::start(&network, &network.dns(&[1, 2]).await, &["--set-aside", "0"]).await;
    for _ in 0..20 {
        assert_eq!(front.ask("GET", "/").await.status, 200);
    }
    assert_eq!(task.requests(), 20);
    let mut statuses = BTreeMap::new();
    for _ in 0..40 {
        *statuses.entry(front.ask("POST", "/").await.status).or_insert(0) += 1;
    }
    // Those that met the dying task fail, since it may have acted on them.
    assert_eq!(statuses.keys().collect::<Vec<_>>(), [&200, &502]);
    assert_eq!(task.requests(), 20 + statuses[&200]);
}

#[tokio::test]
async fn a_connection_that_ends_as_it_is_used_again_says_nothing_about_the_only_task() {
    let network = Network::new(21).await;
    let _task = task_that_tires(&network, 1).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    for _ in 0..10 {
        assert_eq!(front.ask("GET", "/").await.status, 200);
    }
    // A POST may have been acted upon.
    assert_eq!(front.ask("POST", "/").await.status, 502);
}

#[tokio::test]
async fn a_task_that_hangs_costs_a_request_that_may_be_repeated_a_moment_and_is_then_passed_over() {
    let network = Network::new(32).await;
    let task = Task::start(&network, 1).await;
    let hanging = Hanging::start(&network, 2).await;
    let dns = network.dns(&[2, 1]).await;
    let front = Front::start(&network, &dns, &["--answer-timeout", "50ms", "--balance", "first"]).await;
    for _ in 0..20 {
        assert_eq!(front.ask("GET", "/").await.status, 200);
    }
    assert_eq!((task.requests(), hanging.connections()), (20, 1));
}

#[tokio::test]
async fn a_request_that_may_not_be_repeated_waits_for_its_task_alone() {
    let network = Network::new(33).await;
    let task = Task::start(&network, 1).await;
    let hanging = Hanging::start(&network, 2).await;
    let dns = network.dns(&[2, 1]).await;
    let flags = ["--answer-timeout", "20ms", "--request-timeout", "200ms", "--balance", "first"];
    let front = Front::start(&network, &dns, &flags).await;
    assert_eq!(front.ask("POST", "/").await.status, 504);
    assert_eq!((task.requests(), hanging.connections()), (0, 1));
}

#[tokio::test]
async fn whoever_waits_for_a_task_that_has_failed_for_somebody_else_is_served_by_another() {
    let network = Network::new(34).await;
    let _task = Task::start(&network, 1).await;
    let mut hanging = Hanging::start(&network, 2).await;
    let dns = network.dns(&[2, 1]).await;
    // So long that nothing but the other's failure can be the reason.
    let flags = ["--answer-timeout", "1h", "--request-timeout", "1h", "--balance", "first"];
    let front = Front::start(&network, &dns, &flags).await;
    let mut waiting = front.connect().await;
    waiting.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").await.unwrap();
    eventually("it waits", || hanging.connections() == 1).await;
    hanging.refuse().await;
    assert_eq!(front.ask("POST", "/").await.status, 200);
    let answer = Answer::read(&mut waiting).await;
    assert_eq!(answer.status, 200);
    assert!(answer.has("x-task-id: task-1"), "{answer:?}");
}

#[tokio::test]
async fn what_was_sent_is_repeated_only_as_far_as_the_budget_goes() {
    let network = Network::new(35).await;
    let task = Task::start(&network, 1).await;
    let _dying = raw_task(&network, 2, b"").await;
    let flags = ["--retry-percent", "0", "--retry-per-second", "0", "--set-aside", "0", "--balance", "round-robin"];
    let front = Front::start(&network, &network.dns(&[1, 2, 3]).await, &flags).await;
    let mut statuses = BTreeMap::new();
    for _ in 0..12 {
        *statuses.entry(front.ask("GET", "/").await.status).or_insert(0) += 1;
    }
    // One third went to the task that dies. The third that met nobody has cost nothing, and was sent elsewhere.
    assert_eq!(statuses.keys().collect::<Vec<_>>(), [&200, &502]);
    assert!(statuses[&200] >= 6, "{statuses:?}");
    assert_eq!(task.requests(), statuses[&200]);
}

#[tokio::test]
async fn a_small_body_of_an_idempotent_request_is_sent_again() {
    let network = Network::new(36).await;
    let _task = Task::start(&network, 1).await;
    let _dying = raw_task(&network, 2, b"").await;
    let flags = ["--set-aside", "0", "--balance", "round-robin"];
    let front = Front::start(&network, &network.dns(&[1, 2]).await, &flags).await;
    for _ in 0..6 {
        let head = "PUT / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n";
        let answer = front.send(&format!("{head}content-length: 5\r\n\r\nhello")).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    }
}

#[tokio::test]
async fn with_one_attempt_it_does_what_a_naive_client_does() {
    let network = Network::new(41).await;
    let task = Task::start(&network, 1).await;
    let flags = ["--max-attempts", "1", "--balance", "first", "--set-aside", "0"];
    let front = Front::start(&network, &network.dns(&[2, 1]).await, &flags).await;
    for _ in 0..3 {
        assert_eq!(front.ask("GET", "/").await.status, 502);
    }
    assert_eq!(task.requests(), 0);
}

#[tokio::test]
async fn what_was_sent_to_nobody_waits_until_dns_names_somebody() {
    let network = Network::new(80).await;
    let _task = Task::start(&network, 3).await;
    let dns = network.dns(&[1, 2]).await;
    let front = Front::start(&network, &dns, &["--wait-for-task", "1h"]).await;
    let mut asked = Vec::new();
    for method in ["GET", "POST"] {
        let mut stream = front.connect().await;
        let request = format!("{method} / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi");
        stream.write_all(request.as_bytes()).await.unwrap();
        asked.push(stream);
    }
    dns.round().await;
    dns.say(network.says(&[3]));
    for mut stream in asked {
        let answer = Answer::read(&mut stream).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "hi"));
    }
}

#[tokio::test]
async fn a_task_that_is_started_again_where_it_was_is_waited_for_but_not_for_ever() {
    let network = Network::new(81).await;
    let backend = format!("http://{}:{}", network.ip(1), network.port);
    let front = Front::run(&mut front(&["--backend", &backend, "--wait-for-task", "300ms"])).await;
    let answer = front.ask("GET", "/").await;
    assert_eq!((answer.status, answer.json()["attempts"].as_array().unwrap().len()), (502, 2), "{answer:?}");
    let mut stream = front.connect().await;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let _task = Task::start(&network, 1).await;
    assert_eq!(Answer::read(&mut stream).await.status, 200);
}

#[tokio::test]
async fn a_request_that_comes_before_the_first_answer_of_dns_waits_for_it() {
    let network = Network::new(82).await;
    let (_task, dns) = (Task::start(&network, 1).await, Dns::start(Says::Nothing).await);
    let (backend, resolver) = (format!("http://back.test:{}", network.port), dns.address.to_string());
    let front =
        Front::run(&mut front(&["--backend", &backend, "--resolver", &resolver, "--dns-timeout", "100ms"])).await;
    let mut stream = front.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").await.unwrap();
    eventually("it has been asked", || dns.asked.load(Ordering::SeqCst) > 0).await;
    dns.say(network.says(&[1]));
    assert_eq!(Answer::read(&mut stream).await.status, 200);
}

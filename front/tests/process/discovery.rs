//! Which tasks there are, as DNS says it, and that all of them are used.

use std::sync::atomic::Ordering;

use hickory_resolver::proto::op::ResponseCode;

use crate::support::{Dns, Front, Network, Says, Task, eventually, front};

#[tokio::test]
async fn requests_reach_every_task_whatever_order_dns_gives() {
    let network = Network::new(1).await;
    let mut tasks = Vec::new();
    for host in 1..=4 {
        tasks.push(Task::start(&network, host).await);
    }
    let front = Front::start(&network, &network.dns(&[1, 2, 3, 4]).await, &[]).await;
    for _ in 0..200 {
        assert_eq!(front.ask("GET", "/").await.status, 200);
    }
    let counts: Vec<_> = tasks.iter().map(Task::requests).collect();
    assert_eq!(counts.iter().sum::<usize>(), 200);
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_a_503_until_it_does() {
    let network = Network::new(12).await;
    let dns = Dns::start(Says::Code(ResponseCode::NXDomain)).await;
    let mut front = Front::start(&network, &dns, &[]).await;
    front.event("the backend's name has no address").await;
    let answer = front.ask("GET", "/").await;
    assert_eq!(answer.status, 503);
    assert!(answer.has("retry-after: 1"), "{answer:?}");
    assert!(answer.json()["cause"].as_str().unwrap().contains("no address"), "{answer:?}");
    assert_eq!(front.ask("GET", "/health").await.status, 200);

    let _task = Task::start(&network, 1).await;
    dns.say(network.says(&[1]));
    front.event("the backend's addresses changed").await;
    assert_eq!(front.ask("GET", "/").await.status, 200);
}

#[tokio::test]
async fn dns_that_fails_costs_no_request_while_the_tasks_are_there() {
    let network = Network::new(13).await;
    let _task = Task::start(&network, 1).await;
    let dns = network.dns(&[1]).await;
    let front = Front::start(&network, &dns, &[]).await;
    assert_eq!(front.ask("GET", "/").await.status, 200);
    for says in [
        Says::Code(ResponseCode::ServFail),
        Says::Code(ResponseCode::NXDomain),
        Says::Addresses(vec![]),
        Says::Garbage,
        Says::Nothing,
    ] {
        dns.say(says.clone());
        dns.round().await;
        for _ in 0..5 {
            assert_eq!(front.ask("GET", "/").await.status, 200, "{says:?}");
        }
    }
}

#[tokio::test]
async fn dns_that_never_answered_is_a_503_that_says_so() {
    let network = Network::new(14).await;
    let dns = Dns::start(Says::Code(ResponseCode::ServFail)).await;
    let mut front = Front::start(&network, &dns, &[]).await;
    front.event("the backend's name cannot be looked up").await;
    let answer = front.ask("GET", "/").await;
    assert_eq!(answer.status, 503);
    assert!(answer.json()["cause"].as_str().unwrap().contains("cannot be looked up"), "{answer:?}");
}

#[tokio::test]
async fn an_address_that_leaves_dns_gets_no_more_requests_and_a_new_one_gets_some() {
    let network = Network::new(15).await;
    let (old, new) = (Task::start(&network, 1).await, Task::start(&network, 2).await);
    let dns = network.dns(&[1]).await;
    let mut front = Front::start(&network, &dns, &[]).await;
    assert_eq!(front.ask("GET", "/").await.status, 200);
    // DNS says 600 seconds; the clamp says 100 milliseconds.
    dns.say(network.says(&[2]));
    front.event("the backend's addresses changed").await; // The first ones.
    front.event("the backend's addresses changed").await;
    for _ in 0..10 {
        assert_eq!(front.ask("GET", "/").await.status, 200);
    }
    assert_eq!((old.requests(), new.requests()), (1, 10));
}

#[tokio::test]
async fn a_backend_can_be_an_address() {
    let network = Network::new(19).await;
    let _task = Task::start(&network, 1).await;
    let backend = format!("http://127.77.19.1:{}", network.port);
    let front = Front::run(&mut front(&["--backend", &backend])).await;
    assert_eq!(front.ask("GET", "/").await.status, 200);
}

#[tokio::test]
async fn an_answer_is_used_for_its_time_and_dns_is_asked_once() {
    let network = Network::new(30).await;
    let _task = Task::start(&network, 1).await;
    let dns = network.dns(&[1]).await;
    let (backend, resolver) = (format!("http://back.test:{}", network.port), dns.address.to_string());
    let mut front = Front::run(&mut front(&["--backend", &backend, "--resolver", &resolver])).await;
    front.event("the backend's addresses changed").await;
    for _ in 0..50 {
        assert_eq!(front.ask("GET", "/").await.status, 200);
    }
    assert_eq!(dns.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_address_that_refuses_makes_front_look_again_and_the_request_waits_for_it() {
    let network = Network::new(31).await;
    let _task = Task::start(&network, 1).await;
    let dns = network.dns(&[2]).await;
    let (backend, resolver) = (format!("http://back.test:{}", network.port), dns.address.to_string());
    let mut front =
        Front::run(&mut front(&["--backend", &backend, "--resolver", &resolver, "--dns-max-ttl", "1h"])).await;
    front.event("the backend's addresses changed").await;
    dns.say(network.says(&[1]));
    assert_eq!(front.ask("POST", "/").await.status, 200);
}

#[tokio::test]
async fn of_eight_addresses_that_change_with_every_answer_all_are_used() {
    let network = Network::new(37).await;
    let mut tasks = Vec::new();
    for host in 1..=20 {
        tasks.push(Task::start(&network, host).await);
    }
    let dns = network.dns(&[1, 2, 3, 4, 5, 6, 7, 8]).await;
    let front = Front::start(&network, &dns, &[]).await;
    for first in [7, 13] {
        let sample: Vec<_> = (first..first + 8).collect();
        dns.say(network.says(&sample));
        dns.round().await;
    }
    for _ in 0..400 {
        assert_eq!(front.ask("GET", "/").await.status, 200);
    }
    let idle = tasks.iter().filter(|task| task.requests() == 0).count();
    assert_eq!(idle, 0);
}

#[tokio::test]
async fn srv_records_bring_the_port_and_the_weight_and_the_first_priority_counts() {
    let network = Network::new(39).await;
    let [heavy, light, spare] =
        [Task::start(&network, 1).await, Task::start(&network, 2).await, Task::start(&network, 3).await];
    let of = |priority, weight, host| (priority, weight, network.port, network.ip(host));
    let dns = Dns::start(Says::Services(vec![of(1, 30, 1), of(1, 10, 2), of(2, 90, 3)])).await;
    let resolver = dns.address.to_string();
    let flags = ["--backend", "srv+http://_http._tcp.back.test", "--resolver", &resolver, "--balance", "round-robin"];
    let front = Front::run(&mut front(&flags)).await;
    eventually("the targets are looked up", || dns.asked.load(Ordering::SeqCst) >= 3).await;
    // The first answer may still be on its way.
    while front.ask("GET", "/").await.status == 503 {}
    let before = heavy.requests() + light.requests();
    for _ in 0..40 {
        assert_eq!(front.ask("GET", "/").await.status, 200);
    }
    assert_eq!(heavy.requests() + light.requests(), before + 40);
    assert!((29..=31).contains(&heavy.requests()), "{}", heavy.requests());
    assert_eq!(spare.requests(), 0);
}

#[tokio::test]
async fn whatever_damaged_answers_dns_sends_the_last_good_one_is_used() {
    const SEED: u64 = 1;
    let network = Network::new(70).await;
    let _task = Task::start(&network, 1).await;
    let dns = network.dns(&[1]).await;
    let timing = ["--dns-min-ttl", "1ms", "--dns-max-ttl", "1ms", "--dns-timeout", "10ms"];
    let backend = format!("http://back.test:{}", network.port);
    let resolver = dns.address.to_string();
    let mut all = vec!["--backend", &backend, "--resolver", &resolver];
    all.extend(timing);
    let front = Front::run(&mut front(&all)).await;
    dns.round().await;
    assert_eq!(front.ask("GET", "/").await.status, 200);
    dns.say(Says::Damaged(vec![network.ip(1)], SEED));
    loop {
        let asked = dns.asked.load(Ordering::SeqCst);
        assert_eq!(front.ask("GET", "/").await.status, 200, "after {asked} questions with seed {SEED}");
        if asked >= 100 {
            break;
        }
    }
}

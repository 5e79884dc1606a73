//! Load on loopback: tasks and a DNS server of this process, with every fault that a deploy brings.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, rdata::SOA},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    time::{sleep, timeout},
};

use super::*;
use crate::client::{Order, Profile, Reuse};

const NAME: &str = "back.example.test";

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A network of 254 addresses of loopback for one test, all with the same free port.
struct Net {
    third: u8,
    port: u16,
}

impl Net {
    async fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let third = NEXT.fetch_add(1, Ordering::Relaxed);
        let probe = TcpListener::bind((Ipv4Addr::new(127, 61, third, 254), 0)).await.unwrap();
        Self { third, port: probe.local_addr().unwrap().port() }
    }

    fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 61, self.third, host)
    }

    fn all(&self, hosts: &[u8]) -> Vec<Ipv4Addr> {
        hosts.iter().map(|host| self.address(*host)).collect()
    }

    /// A task at this address. It says `task-<host>`.
    async fn task(&self, host: u8, kind: Kind) -> Arc<AtomicU64> {
        let listener = TcpListener::bind((self.address(host), self.port)).await.unwrap();
        let connections = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, host, kind));
            }
        });
        connections
    }
}

/// What a task does.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Answers,
    AnswersAfter(Duration),
    /// Answers, says that it will close the connection, and does.
    AnswersOnce,
    /// Answers, and closes the connection as soon as it is idle, without a word.
    ClosesIdle,
    /// Answers the first request of a connection, and closes it when there is a second one.
    DropsSecond,
    Drops,
    CutsOff,
    Hangs,
    /// As `front` does when it asked two tasks in vain.
    RefusesAsFront,
    /// As `front` does when DNS names nobody.
    HasNobody,
    /// Not HTTP at all.
    Babbles,
}

async fn serve(stream: TcpStream, host: u8, kind: Kind) {
    let mut stream = BufReader::new(stream);
    let mut served = 0;
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("get /some/path http/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nhost: "), "{head}");
        served += 1;
        let answer = |status: &str, more: &str, body: &str| {
            let length = body.len();
            format!("HTTP/1.1 {status}\r\nx-task-id: task-{host}\r\n{more}content-length: {length}\r\n\r\n{body}")
        };
        let json = "content-type: application/json\r\n";
        let text = match kind {
            Kind::Answers | Kind::ClosesIdle => answer("200 OK", "", "hello"),
            Kind::AnswersAfter(time) => {
                sleep(time).await;
                answer("200 OK", "", "hello")
            }
            Kind::AnswersOnce => answer("200 OK", "Connection: close\r\n", "hello"),
            Kind::DropsSecond if served == 1 => answer("200 OK", "", "hello"),
            Kind::DropsSecond | Kind::Drops => return,
            Kind::CutsOff => answer("200 OK", "", "hello").replace("content-length: 5", "content-length: 50"),
            Kind::Hangs => {
                let _closed = stream.read_u8().await;
                return;
            }
            Kind::RefusesAsFront => answer(
                "502 Bad Gateway",
                json,
                r#"{"error":"Bad Gateway","status":502,"backend":"http://b:1235","cause":"none of 2 addresses could be asked",
                "attempts":[{"address":"127.0.1.1:1235","cause":"cannot connect: Connection refused (os error 111)"},
                            {"address":"127.0.1.2:1235","cause":"no connection within 1s"}]}"#,
            ),
            Kind::HasNobody => answer(
                "503 Service Unavailable",
                json,
                r#"{"error":"Service Unavailable","status":503,"cause":"its name has no address","attempts":[]}"#,
            ),
            Kind::Babbles => "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(),
        };
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
        if matches!(kind, Kind::CutsOff | Kind::AnswersOnce | Kind::Babbles) {
            return;
        }
        if kind == Kind::ClosesIdle {
            // Not in the same moment as the answer: the client has put the connection into its pool.
            sleep(millis(2)).await;
            return;
        }
    }
}

/// What DNS says.
#[derive(Clone)]
enum Told {
    Addresses(Vec<Ipv4Addr>, u32),
    /// No such name, for so many seconds.
    NxDomain(u32),
    NoData(u32),
    ServFail,
    Nothing,
}

/// A DNS server with one name. It counts what it is asked.
struct Dns {
    address: SocketAddr,
    asked: Arc<AtomicU64>,
}

impl Dns {
    async fn new(told: Told) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                count.fetch_add(1, Ordering::Relaxed);
                if let Some(response) = respond(&buffer[..length], &told) {
                    socket.send_to(&response, client).await.unwrap();
                }
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

fn respond(question: &[u8], told: &Told) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).unwrap();
    assert!(question.edns.is_none());
    let [query] = &question.queries[..] else { panic!("{question:?}") };
    let asked = (query.name().to_ascii(), query.query_type().to_string());
    assert_eq!(asked, (format!("{NAME}."), "A".to_owned()));
    let mut response = question.clone().into_response();
    let negative = |ttl| {
        let zone = Name::from_ascii("example.test.").unwrap();
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 60, 60, 60, ttl);
        Record::from_rdata(zone, ttl, RData::SOA(soa))
    };
    match told {
        Told::Addresses(addresses, ttl) => {
            for address in addresses {
                response.add_answer(Record::from_rdata(query.name().clone(), *ttl, RData::A((*address).into())));
            }
        }
        Told::NxDomain(ttl) => {
            response.metadata.response_code = ResponseCode::NXDomain;
            response.add_authority(negative(*ttl));
        }
        Told::NoData(ttl) => {
            response.add_authority(negative(*ttl));
        }
        Told::ServFail => response.metadata.response_code = ResponseCode::ServFail,
        Told::Nothing => return None,
    }
    Some(response.to_vec().unwrap())
}

/// As the profile, but in the order of the answer: a test that names who is tried first.
fn in_order(profile: Profile) -> Behaviour {
    Behaviour { order: Order::AsAnswered, ..profile.behaviour() }
}

/// 200 requests a second.
fn load(senders: Vec<Sender>) -> Load {
    Load {
        clock: Clock::new(Instant::now(), 1.0),
        rate: 200.0,
        clients: senders,
        path: "/some/path".to_owned(),
        timeouts: Timeouts { dns: millis(50), connect: millis(100), request: millis(250) },
        most_in_flight: NonZeroUsize::new(1000).unwrap(),
        seed: 7,
    }
}

fn asks_names(behaviour: Behaviour, net: &Net, dns: &Dns) -> Sender {
    Sender { behaviour, target: Target::Name { name: NAME.to_owned(), port: net.port, dns: dns.address } }
}

/// Sends until there are this many.
async fn send(load: Load, requests: u64) -> Sent {
    let running = load.start().unwrap();
    let enough = async {
        while running.counts().sent < requests {
            sleep(millis(1)).await;
        }
    };
    timeout(Duration::from_secs(10), enough).await.unwrap();
    let sent = timeout(Duration::from_secs(10), running.finish()).await.unwrap().unwrap();
    assert!(sent.requests.len() as u64 >= requests);
    assert_eq!(sent.lateness.count(), sent.requests.len() as u64);
    for request in &sent.requests {
        assert!(request.intended <= request.sent && request.sent <= request.done, "{request:?}");
        assert!(request.attempts.is_sorted_by_key(|attempt| attempt.at), "{request:?}");
    }
    sent
}

/// One client of tasks that DNS names in this order.
async fn ask_tasks(behaviour: Behaviour, net: &Net, hosts: &[u8], requests: u64) -> (Sent, u64) {
    let dns = Dns::new(Told::Addresses(net.all(hosts), 30)).await;
    let sent = send(load(vec![asks_names(behaviour, net, &dns)]), requests).await;
    (sent, dns.asked())
}

async fn ask_nobody(behaviour: Behaviour, told: Told, requests: u64) -> (Sent, u64) {
    let net = Net::new().await;
    let dns = Dns::new(told).await;
    let sent = send(load(vec![asks_names(behaviour, &net, &dns)]), requests).await;
    (sent, dns.asked())
}

fn failures(request: &Request) -> Vec<(Ipv4Addr, Failure, bool)> {
    request.attempts.iter().map(|attempt| (attempt.address, attempt.failure, attempt.was_reused)).collect()
}

fn cause(request: &Request) -> &str {
    match &request.outcome {
        Outcome::Failed { cause } => cause,
        Outcome::Answered { status } => panic!("answered: {status}"),
    }
}

fn answered_by(request: &Request) -> &str {
    assert_eq!(request.outcome, Outcome::Answered { status: 200 }, "{request:?}");
    request.task.as_deref().unwrap()
}

#[tokio::test]
async fn requests_are_answered_by_all_tasks_with_a_lookup_and_a_connection_each() {
    let net = Net::new().await;
    let mut connections = 0;
    let mut counts = Vec::new();
    for host in 1..=4 {
        counts.push(net.task(host, Kind::Answers).await);
    }
    let (sent, asked) = ask_tasks(Profile::TryNext.behaviour(), &net, &[1, 2, 3, 4], 40).await;
    for count in counts {
        let count = count.load(Ordering::Relaxed);
        assert!(count > 0);
        connections += count;
    }
    let requests = sent.requests.len() as u64;
    assert_eq!(connections, requests);
    // Two questions in one moment share an answer, and a busy machine sends several requests in one.
    assert!(asked <= requests && asked > requests / 2, "{asked} of {requests}");
    for request in &sent.requests {
        assert!(answered_by(request).starts_with("task-"));
        assert!(request.is_good() && request.attempts.is_empty());
        let lookup = request.lookup.as_ref().unwrap();
        assert_eq!((&lookup.addresses, &lookup.failure), (&net.all(&[1, 2, 3, 4]), &None));
        assert!(lookup.at >= request.sent && lookup.at <= request.done);
    }
    assert_eq!(sent.not_sent, 0);
}

#[tokio::test]
async fn clients_take_turns_at_their_rate() {
    let net = Net::new().await;
    net.task(1, Kind::Answers).await;
    let dns = Dns::new(Told::Addresses(net.all(&[1]), 30)).await;
    let sender = || asks_names(Profile::TryNext.behaviour(), &net, &dns);
    let sent = send(load(vec![sender(), sender()]), 20).await;
    let first = sent.requests[0].intended;
    for (turn, request) in sent.requests.iter().enumerate() {
        assert_eq!(request.client, turn % 2);
        // 200 a second each, 400 a second together.
        let due = Duration::from_micros(2500 * turn as u64);
        let wrong = (request.intended.checked_sub(first).unwrap()).abs_diff(due);
        assert!(wrong < Duration::from_micros(1), "{turn}: {wrong:?}");
    }
}

#[tokio::test]
async fn times_are_those_of_the_rehearsed_service() {
    let net = Net::new().await;
    net.task(1, Kind::AnswersAfter(millis(30))).await;
    let dns = Dns::new(Told::Addresses(net.all(&[1]), 30)).await;
    let mut load = load(vec![asks_names(Profile::TryNext.behaviour(), &net, &dns)]);
    load.clock = Clock::new(Instant::now(), 10.0);
    let sent = send(load, 5).await;
    let gap = sent.requests[1].intended.checked_sub(sent.requests[0].intended).unwrap();
    assert!(gap.abs_diff(millis(50)) < millis(1), "200 a second at ten times the speed: {gap:?}");
    for request in &sent.requests {
        let took = request.done.checked_sub(request.sent).unwrap();
        assert!(took >= millis(300), "30 ms at ten times the speed: {took:?}");
        assert!(took < millis(2500), "{took:?}");
    }
}

#[tokio::test]
async fn a_refused_connection_makes_way_for_the_next_address() {
    let net = Net::new().await;
    net.task(2, Kind::Answers).await;
    let (sent, _) = ask_tasks(in_order(Profile::TryNext), &net, &[1, 2], 5).await;
    for request in &sent.requests {
        assert_eq!(answered_by(request), "task-2");
        assert_eq!(failures(request), [(net.address(1), Failure::Refused, false)]);
    }
}

#[tokio::test]
async fn a_request_fails_when_all_addresses_refuse_and_names_each() {
    let net = Net::new().await;
    let (sent, _) = ask_tasks(in_order(Profile::TryNext), &net, &[1, 2, 3], 5).await;
    for request in &sent.requests {
        let refused = [1, 2, 3].map(|host| (net.address(host), Failure::Refused, false));
        assert_eq!(failures(request), refused);
        assert_eq!(cause(request), format!("{}: cannot connect: Connection refused (os error 111)", net.address(3)));
        assert_eq!(request.task, None);
    }
}

#[tokio::test]
async fn first_only_fails_though_the_next_address_would_have_answered() {
    let net = Net::new().await;
    net.task(2, Kind::Answers).await;
    let (sent, _) = ask_tasks(in_order(Profile::FirstOnly), &net, &[1, 2], 5).await;
    for request in &sent.requests {
        assert_eq!(failures(request), [(net.address(1), Failure::Refused, false)]);
        assert!(!request.is_good());
    }
}

#[tokio::test]
async fn an_address_that_takes_no_connection_costs_its_share_of_the_time_and_not_more() {
    let net = Net::new().await;
    net.task(2, Kind::Answers).await;
    // As nobody accepts and its queue is full, the kernel drops what more comes.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((net.address(1), net.port).into()).unwrap();
    let _deaf = socket.listen(0).unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(millis(20), TcpStream::connect((net.address(1), net.port))).await {
        queued.push(stream.unwrap());
        assert!(queued.len() < 10);
    }
    let (sent, _) = ask_tasks(in_order(Profile::TryNext), &net, &[1, 2], 5).await;
    for request in &sent.requests {
        assert_eq!(answered_by(request), "task-2");
        assert_eq!(failures(request), [(net.address(1), Failure::Unreachable, false)]);
        let took = request.attempts[0].at.checked_sub(request.sent).unwrap();
        assert!(took >= millis(45) && took < millis(100), "half of 100 ms: {took:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_no_answer_and_nobody_else_is_asked() {
    let net = Net::new().await;
    net.task(1, Kind::CutsOff).await;
    net.task(2, Kind::Answers).await;
    let (sent, _) = ask_tasks(in_order(Profile::TryNext), &net, &[1, 2], 5).await;
    for request in &sent.requests {
        assert_eq!(failures(request), [(net.address(1), Failure::CutOff, false)]);
        assert!(cause(request).starts_with(&format!("{}: ", net.address(1))), "{}", cause(request));
    }
}

#[tokio::test]
async fn a_new_connection_that_ends_before_the_answer_is_told_apart_and_nobody_else_is_asked() {
    let net = Net::new().await;
    net.task(1, Kind::Drops).await;
    net.task(2, Kind::Answers).await;
    let (sent, _) = ask_tasks(in_order(Profile::KeepAlive), &net, &[1, 2], 5).await;
    for request in &sent.requests {
        assert_eq!(failures(request), [(net.address(1), Failure::NoAnswer, false)]);
        assert!(!request.is_good());
    }
}

#[tokio::test]
async fn what_is_not_http_fails_in_another_way() {
    let net = Net::new().await;
    net.task(1, Kind::Babbles).await;
    let (sent, _) = ask_tasks(in_order(Profile::TryNext), &net, &[1], 3).await;
    for request in &sent.requests {
        assert_eq!(failures(request), [(net.address(1), Failure::Other, false)]);
    }
}

#[tokio::test]
async fn a_request_without_an_answer_ends_with_its_time() {
    let net = Net::new().await;
    net.task(1, Kind::Hangs).await;
    let (sent, _) = ask_tasks(in_order(Profile::TryNext), &net, &[1], 3).await;
    for request in &sent.requests {
        assert_eq!(failures(request), [(net.address(1), Failure::TimedOut, false)]);
        assert_eq!(cause(request), format!("{}: no answer within 250ms", net.address(1)));
        let took = request.done.checked_sub(request.sent).unwrap();
        assert!(took >= millis(250) && took < millis(400), "{took:?}");
    }
}

#[tokio::test]
async fn a_name_without_addresses_fails_with_what_dns_said() {
    for (told, said) in
        [(Told::NxDomain(30), "NXDOMAIN"), (Told::NoData(30), "NODATA"), (Told::Addresses(Vec::new(), 30), "NODATA")]
    {
        let (sent, _) = ask_nobody(Profile::TryNext.behaviour(), told, 3).await;
        for request in &sent.requests {
            assert_eq!(cause(request), format!("DNS: {said}"));
            let lookup = request.lookup.as_ref().unwrap();
            assert_eq!((lookup.addresses.as_slice(), lookup.failure.as_deref()), ([].as_slice(), Some(said)));
            assert!(request.attempts.is_empty());
        }
    }
}

#[tokio::test]
async fn a_resolver_that_fails_or_is_silent_fails_the_request_in_bounded_time() {
    for told in [Told::ServFail, Told::Nothing] {
        let (sent, _) = ask_nobody(Profile::TryNext.behaviour(), told, 2).await;
        for request in &sent.requests {
            assert!(cause(request).starts_with("DNS: "), "{}", cause(request));
            assert!(request.lookup.as_ref().unwrap().failure.is_some());
            assert!(
                request.done.checked_sub(request.sent).unwrap() < millis(240),
                "the request's own time was not over"
            );
        }
    }
}

#[tokio::test]
async fn a_request_whose_time_is_over_while_dns_is_silent_says_so() {
    let net = Net::new().await;
    let dns = Dns::new(Told::Nothing).await;
    let mut load = load(vec![asks_names(Profile::TryNext.behaviour(), &net, &dns)]);
    load.timeouts.request = millis(30);
    let sent = send(load, 2).await;
    for request in &sent.requests {
        assert_eq!(cause(request), "DNS: no answer within 30ms");
        assert_eq!(request.lookup.as_ref().unwrap().failure.as_deref(), Some("no answer within 30ms"));
    }
}

#[tokio::test]
async fn fixed_order_asks_dns_once_in_a_ttl_and_one_task_only() {
    let net = Net::new().await;
    net.task(1, Kind::Answers).await;
    net.task(2, Kind::Answers).await;
    let dns = Dns::new(Told::Addresses(net.all(&[2, 1]), 2)).await;
    let mut load = load(vec![asks_names(Profile::FixedOrder.behaviour(), &net, &dns)]);
    // The answer's two seconds are real ones, twenty of the service's: ten times as long as these requests take.
    load.clock = Clock::new(Instant::now(), 20.0);
    let sent = send(load, 30).await;
    assert_eq!(dns.asked(), 1);
    for request in &sent.requests {
        assert_eq!(answered_by(request), "task-2");
        assert_eq!(request.lookup.as_ref().unwrap().addresses, net.all(&[2, 1]));
    }
}

#[tokio::test]
async fn fixed_order_keeps_no_answer_beyond_its_ttl_and_negative_ones_for_theirs() {
    let (sent, asked) = ask_nobody(Profile::FixedOrder.behaviour(), Told::NxDomain(30), 10).await;
    assert!(sent.requests.len() >= 10);
    assert_eq!(asked, 1);
    let (sent, asked) = ask_nobody(Profile::FixedOrder.behaviour(), Told::NxDomain(0), 10).await;
    assert!(asked > sent.requests.len() as u64 / 2, "{asked}");
}

#[tokio::test]
async fn keep_alive_stays_with_one_task_on_a_connection_or_two() {
    let net = Net::new().await;
    let first = net.task(1, Kind::Answers).await;
    let second = net.task(2, Kind::Answers).await;
    let (sent, asked) = ask_tasks(in_order(Profile::KeepAlive), &net, &[1, 2], 20).await;
    // More than one where a busy machine sends several requests in one moment.
    let connections = first.load(Ordering::Relaxed);
    assert!((1..10).contains(&connections), "{connections}");
    assert!((1..=connections).contains(&asked), "{asked}");
    assert_eq!(second.load(Ordering::Relaxed), 0);
    assert!(sent.requests[0].lookup.is_some());
    let without_lookup = sent.requests.iter().filter(|request| request.lookup.is_none()).count() as u64;
    assert_eq!(without_lookup, sent.requests.len() as u64 - connections);
    assert!(sent.requests.iter().all(|request| answered_by(request) == "task-1"));
}

#[tokio::test]
async fn a_connection_that_its_task_closes_with_a_word_is_not_used_again() {
    let net = Net::new().await;
    let connections = net.task(1, Kind::AnswersOnce).await;
    let (sent, _) = ask_tasks(in_order(Profile::KeepAlive), &net, &[1], 10).await;
    assert_eq!(connections.load(Ordering::Relaxed), sent.requests.len() as u64);
    for request in &sent.requests {
        assert_eq!((answered_by(request), failures(request)), ("task-1", vec![]));
    }
}

#[tokio::test]
async fn a_connection_that_its_task_closes_while_it_is_idle_fails_nobody() {
    let net = Net::new().await;
    net.task(1, Kind::ClosesIdle).await;
    let dns = Dns::new(Told::Addresses(net.all(&[1]), 30)).await;
    let mut load = load(vec![asks_names(in_order(Profile::KeepAlive), &net, &dns)]);
    load.rate = 50.0;
    let sent = send(load, 12).await;
    assert!(sent.requests.iter().all(|request| answered_by(request) == "task-1"));
    // Its end and the next request may pass each other.
    let unaware = sent.requests.iter().filter(|request| !request.attempts.is_empty()).count();
    assert!(unaware < sent.requests.len() / 2, "{unaware}");
}

#[tokio::test]
async fn a_reused_connection_that_ends_before_the_answer_is_replaced_by_a_new_one() {
    let net = Net::new().await;
    net.task(1, Kind::DropsSecond).await;
    // As many as it takes for one that finds a connection idle, on a machine that is busy too.
    let (sent, _) = ask_tasks(in_order(Profile::KeepAlive), &net, &[1], 60).await;
    let mut replaced = 0;
    for request in &sent.requests {
        assert_eq!(answered_by(request), "task-1");
        for attempt in failures(request) {
            assert_eq!(attempt, (net.address(1), Failure::NoAnswer, true));
            replaced += 1;
        }
    }
    assert!(replaced > 0);
}

#[tokio::test]
async fn a_client_that_does_not_retry_fails_when_its_connection_ends() {
    let net = Net::new().await;
    net.task(1, Kind::DropsSecond).await;
    let reuse = Reuse { retries_reused: false, ..Reuse::GO };
    let (sent, _) = ask_tasks(Behaviour { reuse: Some(reuse), ..in_order(Profile::KeepAlive) }, &net, &[1], 6).await;
    let (good, failed): (Vec<_>, Vec<_>) = sent.requests.iter().partition(|request| request.is_good());
    assert!(!good.is_empty() && !failed.is_empty());
    assert!(good.iter().all(|request| request.attempts.is_empty()));
    for request in failed {
        assert_eq!(failures(request), [(net.address(1), Failure::NoAnswer, true)]);
    }
}

#[tokio::test]
async fn a_front_is_asked_without_dns_and_what_it_tells_of_its_tasks_is_kept() {
    for (kind, status) in [(Kind::Answers, 200), (Kind::RefusesAsFront, 502), (Kind::HasNobody, 503)] {
        let net = Net::new().await;
        let connections = net.task(1, kind).await;
        let target = Target::Front(SocketAddrV4::new(net.address(1), net.port));
        let sent = send(load(vec![Sender { behaviour: Profile::Front.behaviour(), target }]), 5).await;
        assert!(connections.load(Ordering::Relaxed) < 5, "they are kept");
        for request in &sent.requests {
            assert_eq!(request.outcome, Outcome::Answered { status });
            let refused = [
                (Ipv4Addr::new(127, 0, 1, 1), Failure::Refused, false),
                (Ipv4Addr::new(127, 0, 1, 2), Failure::Unreachable, false),
            ];
            let failed = if kind == Kind::RefusesAsFront { refused.to_vec() } else { vec![] };
            assert_eq!(failures(request), failed);
            let nobody = request.lookup.as_ref().and_then(|lookup| lookup.failure.as_deref());
            assert_eq!(nobody, (kind == Kind::HasNobody).then_some("its name has no address"));
        }
    }
}

#[tokio::test]
async fn what_a_task_answers_is_not_taken_for_a_front_refusal() {
    let net = Net::new().await;
    net.task(1, Kind::RefusesAsFront).await;
    let (sent, _) = ask_tasks(Profile::TryNext.behaviour(), &net, &[1], 3).await;
    for request in &sent.requests {
        assert_eq!((&request.outcome, failures(request)), (&Outcome::Answered { status: 502 }, vec![]));
        assert_eq!(request.task.as_deref(), Some("task-1"));
    }
}

#[test]
fn the_words_of_front_say_how_an_attempt_failed() {
    for (cause, failure) in [
        ("cannot connect: Connection refused (os error 111)", Failure::Refused),
        ("cannot connect: No route to host (os error 113)", Failure::Unreachable),
        ("no connection within 1s", Failure::Unreachable),
        ("no answer within 10s", Failure::TimedOut),
        ("connection closed before message completed", Failure::NoAnswer),
        ("connection error: Connection reset by peer (os error 104)", Failure::NoAnswer),
        ("invalid HTTP version parsed", Failure::Other),
    ] {
        let json = serde_json::json!({"cause": "", "attempts": [{"address": "127.0.1.9:1235", "cause": cause}]});
        let refusal: Refusal = serde_json::from_value(json).unwrap();
        let mut trip = Trip::default();
        trip.learn(&refusal, millis(5));
        let expected = Attempt { address: Ipv4Addr::new(127, 0, 1, 9), at: millis(5), failure, was_reused: false };
        assert_eq!((trip.attempts, trip.lookup), (vec![expected], None));
    }
}

#[tokio::test]
async fn a_service_that_hangs_slows_nothing_down() {
    let net = Net::new().await;
    net.task(1, Kind::Hangs).await;
    let (sent, _) = ask_tasks(Profile::TryNext.behaviour(), &net, &[1], 30).await;
    // The thirtieth was sent long before the first one was given up.
    let (first, last) = (&sent.requests[0], &sent.requests[29]);
    assert_eq!(failures(first).len(), 1);
    assert!(last.sent < first.done, "{:?} {:?}", last.sent, first.done);
}

#[tokio::test]
async fn what_is_too_much_is_not_sent_and_counted() {
    let net = Net::new().await;
    net.task(1, Kind::Hangs).await;
    let dns = Dns::new(Told::Addresses(net.all(&[1]), 30)).await;
    let mut load = load(vec![asks_names(Profile::TryNext.behaviour(), &net, &dns)]);
    load.most_in_flight = NonZeroUsize::new(3).unwrap();
    let running = load.start().unwrap();
    let too_many = async {
        while running.counts().not_sent < 5 {
            sleep(millis(1)).await;
        }
    };
    timeout(Duration::from_secs(5), too_many).await.unwrap();
    let counts = running.counts();
    let sent = running.finish().await.unwrap();
    assert_eq!((counts.sent, sent.requests.len(), sent.lateness.count()), (3, 3, 3));
    assert!(sent.not_sent >= 5);
}

#[tokio::test]
async fn the_end_waits_for_requests_in_flight() {
    let net = Net::new().await;
    net.task(1, Kind::AnswersAfter(millis(150))).await;
    let dns = Dns::new(Told::Addresses(net.all(&[1]), 30)).await;
    let running = load(vec![asks_names(Profile::TryNext.behaviour(), &net, &dns)]).start().unwrap();
    while running.counts().sent < 5 {
        sleep(millis(1)).await;
    }
    let counts = running.counts();
    assert_eq!((counts.good, counts.failed), (0, 0), "all are in flight");
    let sent = running.finish().await.unwrap();
    assert!(sent.requests.len() >= 5);
    assert!(sent.requests.iter().all(Request::is_good));
}

#[tokio::test]
async fn a_load_that_is_dropped_ends_at_once_with_its_connections() {
    let net = Net::new().await;
    let listener = TcpListener::bind((net.address(1), net.port)).await.unwrap();
    let dns = Dns::new(Told::Addresses(net.all(&[1]), 30)).await;
    let mut load = load(vec![asks_names(Profile::TryNext.behaviour(), &net, &dns)]);
    load.timeouts.request = Duration::from_mins(1);
    let running = load.start().unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    drop(running);
    let mut all = Vec::new();
    let _reset = timeout(Duration::from_secs(5), stream.read_to_end(&mut all)).await.unwrap();
}

#[tokio::test]
async fn counts_tell_good_from_failed_while_it_runs() {
    let net = Net::new().await;
    net.task(1, Kind::Answers).await;
    let dns = Dns::new(Told::Addresses(net.all(&[1, 2]), 30)).await;
    let running = load(vec![asks_names(Profile::FirstOnly.behaviour(), &net, &dns)]).start().unwrap();
    let both = async {
        while running.counts().good == 0 || running.counts().failed == 0 {
            sleep(millis(1)).await;
        }
    };
    timeout(Duration::from_secs(10), both).await.unwrap();
    running.finish().await.unwrap();
}

#[tokio::test]
async fn without_clients_nothing_is_sent() {
    let running = load(Vec::new()).start().unwrap();
    assert!(running.finish().await.unwrap().requests.is_empty());
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_said_before_anything_is_sent() {
    let mut no_path = load(Vec::new());
    no_path.path = "health".to_owned();
    assert_eq!(
        no_path.start().unwrap_err().to_string(),
        "\"health\" is no path that can be asked for: it begins with a slash, as in /health"
    );
    let target = Target::Name { name: "a..b".to_owned(), port: 1, dns: ([127, 0, 0, 1], 1).into() };
    let no_name = load(vec![Sender { behaviour: Profile::TryNext.behaviour(), target }]);
    assert!(no_name.start().unwrap_err().to_string().starts_with("\"a..b\" is no name"));
}

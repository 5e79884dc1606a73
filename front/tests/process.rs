//! `front` as a real process, with a DNS server whose answers the test writes and tasks that the test runs.
//!
//! Every test has a network of its own: 127.77.N.0/24, where N is the test's number.

#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking, as the test itself does")]

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{RData, Record, RecordType, rdata},
};
use hyper::{Request, Response, body::Incoming};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use service::{phase::Phase, server};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpListener, TcpStream, UdpSocket},
    process::{Child, ChildStderr, Command},
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};

/// How long anything may take before the test fails. Never waited for in a run that passes.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the DNS server says.
#[derive(Clone, Debug)]
enum Says {
    Addresses(Vec<Ipv4Addr>),
    /// SRV records: priority, weight, port, and the address of a target that has its name from it.
    Services(Vec<(u16, u16, u16, Ipv4Addr)>),
    Code(ResponseCode),
    Garbage,
    Nothing,
}

/// A DNS server that answers every question for A records as the test says, with a TTL of 600 as Docker's does.
struct Dns {
    address: SocketAddr,
    says: Arc<Mutex<Says>>,
    asked: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Dns {
    async fn start(says: Says) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let says = Arc::new(Mutex::new(says));
        let asked = Arc::new(AtomicUsize::new(0));
        let (script, count) = (Arc::clone(&says), Arc::clone(&asked));
        let serving = tokio::spawn(async move {
            let mut packet = [0; 1500];
            loop {
                let (length, peer) = socket.recv_from(&mut packet).await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let says = script.lock().unwrap().clone();
                if let Some(answer) = reply(&packet[..length], says) {
                    socket.send_to(&answer, peer).await.unwrap();
                }
            }
        });
        Self { address, says, asked, serving }
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// Waits until a question that came after this call has been answered, and another has come.
    async fn round(&self) {
        let before = self.asked.load(Ordering::SeqCst);
        eventually("front asks DNS", || self.asked.load(Ordering::SeqCst) >= before + 2).await;
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn reply(question: &[u8], says: Says) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).unwrap();
    let query = question.queries[0].clone();
    let mut answer = question.into_response();
    match says {
        Says::Addresses(addresses) if query.query_type() == RecordType::A => {
            for address in addresses {
                let record = Record::from_rdata(query.name().clone(), 600, RData::A(rdata::A(address)));
                answer.answers.push(record);
            }
        }
        Says::Services(services) if query.query_type() == RecordType::SRV => {
            for (priority, weight, port, address) in services {
                let target = format!("task-{}.back.test.", address.to_string().replace('.', "-")).parse().unwrap();
                let service = rdata::SRV::new(priority, weight, port, target);
                answer.answers.push(Record::from_rdata(query.name().clone(), 600, RData::SRV(service)));
            }
        }
        Says::Services(_) if query.query_type() == RecordType::A => {
            let name = query.name().to_string();
            let address = name.strip_prefix("task-").unwrap().split('.').next().unwrap().replace('-', ".");
            let address = rdata::A(address.parse().unwrap());
            answer.answers.push(Record::from_rdata(query.name().clone(), 600, RData::A(address)));
        }
        Says::Addresses(_) | Says::Services(_) => {}
        Says::Code(code) => answer.metadata.response_code = code,
        Says::Garbage => return Some(b"\x00".to_vec()),
        Says::Nothing => return None,
    }
    Some(answer.to_vec().unwrap())
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("not after {PATIENCE:?}: {what}"));
}

/// A test's own network: addresses that share one free port.
struct Network {
    number: u8,
    port: u16,
}

impl Network {
    async fn new(number: u8) -> Self {
        let probe = TcpListener::bind((Ipv4Addr::new(127, 77, number, 254), 0)).await.unwrap();
        Self { number, port: probe.local_addr().unwrap().port() }
    }

    fn ip(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 77, self.number, host)
    }

    async fn listen(&self, host: u8) -> TcpListener {
        TcpListener::bind((self.ip(host), self.port)).await.unwrap()
    }

    /// A DNS server that names these hosts.
    async fn dns(&self, hosts: &[u8]) -> Dns {
        Dns::start(self.says(hosts)).await
    }

    fn says(&self, hosts: &[u8]) -> Says {
        Says::Addresses(hosts.iter().map(|host| self.ip(*host)).collect())
    }
}

/// A task: answers with what it got, as `x-task-id: task-HOST`; `/slow` waits until it is released.
struct Task {
    phase: watch::Sender<Phase>,
    requests: Arc<AtomicUsize>,
    callers: Arc<Mutex<BTreeMap<SocketAddr, usize>>>,
    release: Arc<Notify>,
    serving: JoinHandle<server::Stopped>,
}

impl Task {
    async fn start(network: &Network, host: u8) -> Self {
        let listener = network.listen(host).await;
        let (phase, watched) = watch::channel(Phase::default());
        let (requests, callers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(BTreeMap::new())));
        let release = Arc::new(Notify::new());
        let (count, seen, gate) = (Arc::clone(&requests), Arc::clone(&callers), Arc::clone(&release));
        let handler = move |request: Request<Incoming>, caller| {
            count.fetch_add(1, Ordering::SeqCst);
            *seen.lock().unwrap().entry(caller).or_default() += 1;
            let gate = Arc::clone(&gate);
            async move {
                if request.uri().path() == "/slow" {
                    gate.notified().await;
                }
                echo(request, host)
            }
        };
        let serving = tokio::spawn(server::serve(listener, watched, PATIENCE, handler));
        Self { phase, requests, callers, release, serving }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Stops as a task does: nobody new, idle connections closed.
    async fn stop(self) {
        self.phase.send_replace(Phase::Stopping);
        self.serving.await.unwrap();
    }
}

/// The request line and headers as headers of the answer, and the body, streamed as it comes.
fn echo(request: Request<Incoming>, host: u8) -> Response<Incoming> {
    let (parts, body) = request.into_parts();
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert("x-task-id", format!("task-{host}").parse().unwrap());
    headers.insert("x-echo", format!("{} {}", parts.method, parts.uri).parse().unwrap());
    headers.insert("keep-alive", "timeout=5".parse().unwrap());
    for (name, value) in &parts.headers {
        headers.append(format!("x-got-{name}").parse::<hyper::header::HeaderName>().unwrap(), value.clone());
    }
    response
}

/// A task that does this with each connection, after it has read a request's head.
async fn raw_task(network: &Network, host: u8, answer: &'static [u8]) -> JoinHandle<()> {
    let listener = network.listen(host).await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.unwrap() == 0 {
                    break;
                }
            }
            stream.write_all(answer).await.unwrap();
        }
    })
}

/// A `front` that serves. Killed with its handle.
struct Front {
    process: Child,
    log: Lines<BufReader<ChildStderr>>,
    address: SocketAddr,
}

fn front(arguments: &[&str]) -> Command {
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

impl Front {
    /// A front for the network's name, with lookups ten times a second, once it has had its first answer.
    async fn start(network: &Network, dns: &Dns, arguments: &[&str]) -> Self {
        let backend = format!("http://back.test:{}", network.port);
        let resolver = dns.address.to_string();
        let mut all = vec!["--backend", &backend, "--resolver", &resolver, "--dns-min-ttl", "100ms"];
        all.extend(["--dns-max-ttl", "100ms", "--dns-timeout", "200ms"]);
        all.extend(arguments);
        let front = Self::run(&mut front(&all)).await;
        dns.round().await;
        front
    }

    async fn run(command: &mut Command) -> Self {
        let mut process = command.spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut front = Self { process, log, address: ([0; 4], 0).into() };
        front.address = front.event("serving").await["address"].as_str().unwrap().parse().unwrap();
        front
    }

    /// The next event of this name in the log.
    async fn event(&mut self, name: &str) -> Value {
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

    fn signal(&self, signal: Signal) {
        let pid = self.process.id().expect("it runs");
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    async fn exit_code(&mut self) -> Option<i32> {
        timeout(PATIENCE, self.process.wait()).await.expect("front ends").unwrap().code()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The answer to a request without a body, on a connection of its own.
    async fn ask(&self, method: &str, path: &str) -> Answer {
        self.send(&format!("{method} {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n")).await
    }

    async fn send(&self, request: &str) -> Answer {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        Answer::read(&mut stream).await
    }
}

/// An answer, read to the end of its connection.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    async fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection ends").unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn has(&self, line: &str) -> bool {
        self.head.lines().any(|found| found == line)
    }

    /// Our own answer's JSON.
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

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
async fn a_backend_can_be_an_address() {
    let network = Network::new(19).await;
    let _task = Task::start(&network, 1).await;
    let backend = format!("http://127.77.19.1:{}", network.port);
    let front = Front::run(&mut front(&["--backend", &backend])).await;
    assert_eq!(front.ask("GET", "/").await.status, 200);
}

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
async fn a_caller_cannot_name_another_backend() {
    let network = Network::new(20).await;
    let _task = Task::start(&network, 1).await;
    let front = Front::start(&network, &network.dns(&[1]).await, &[]).await;
    let answer = front.send("GET http://other.test/x HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").await;
    assert!(answer.has("x-task-id: task-1") && answer.has("x-got-host: other.test"), "{answer:?}");
    let answer = front.send("CONNECT other.test:443 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(answer.status, 501);
}

/// A task that answers the first request of each connection and closes it on the second.
async fn task_that_tires(network: &Network, host: u8) -> JoinHandle<()> {
    let listener = network.listen(host).await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                for answer in [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".as_slice(), b""] {
                    let mut request = Vec::new();
                    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                        if stream.read_buf(&mut request).await.unwrap() == 0 {
                            return;
                        }
                    }
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    })
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
async fn an_address_that_refuses_makes_front_look_again() {
    let network = Network::new(31).await;
    let _task = Task::start(&network, 1).await;
    let dns = network.dns(&[2]).await;
    let (backend, resolver) = (format!("http://back.test:{}", network.port), dns.address.to_string());
    let mut front =
        Front::run(&mut front(&["--backend", &backend, "--resolver", &resolver, "--dns-max-ttl", "1h"])).await;
    front.event("the backend's addresses changed").await;
    dns.say(network.says(&[1]));
    assert_eq!(front.ask("GET", "/").await.status, 502);
    front.event("the backend's addresses changed").await;
    assert_eq!(front.ask("GET", "/").await.status, 200);
}

/// A task that takes connections and says nothing, until it is dropped. Then its address refuses, while the connections that
/// it has stay as they are.
struct Hanging {
    accepting: JoinHandle<()>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Hanging {
    async fn start(network: &Network, host: u8) -> Self {
        let listener = network.listen(host).await;
        let connections = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                taken.lock().unwrap().push(stream);
            }
        });
        Self { accepting, connections }
    }

    fn connections(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    async fn refuse(&mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }
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

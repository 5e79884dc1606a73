//! The backend that the tests run: a network of their own, a DNS server that says what the test wrote, and tasks.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{RData, Record, RecordType, rdata},
};
use hyper::{Request, Response, body::Incoming};
use service::{phase::Phase, server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Notify, watch},
    task::JoinHandle,
};

use super::eventually;

/// A test's own network: addresses that share one free port.
pub(crate) struct Network {
    number: u8,
    pub(crate) port: u16,
}

impl Network {
    pub(crate) async fn new(number: u8) -> Self {
        let probe = TcpListener::bind((Ipv4Addr::new(127, 77, number, 254), 0)).await.unwrap();
        Self { number, port: probe.local_addr().unwrap().port() }
    }

    pub(crate) fn ip(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 77, self.number, host)
    }

    pub(crate) async fn listen(&self, host: u8) -> TcpListener {
        TcpListener::bind((self.ip(host), self.port)).await.unwrap()
    }

    /// A DNS server that names these hosts.
    pub(crate) async fn dns(&self, hosts: &[u8]) -> Dns {
        Dns::start(self.says(hosts)).await
    }

    pub(crate) fn says(&self, hosts: &[u8]) -> Says {
        Says::Addresses(hosts.iter().map(|host| self.ip(*host)).collect())
    }
}

/// What the DNS server says.
#[derive(Clone, Debug)]
pub(crate) enum Says {
    Addresses(Vec<Ipv4Addr>),
    /// SRV records: priority, weight, port, and the address of a target that has its name from it.
    Services(Vec<(u16, u16, u16, Ipv4Addr)>),
    Code(ResponseCode),
    Garbage,
    /// An answer with these addresses, of which most are damaged on the way by random numbers of this seed.
    Damaged(Vec<Ipv4Addr>, u64),
    Nothing,
}

/// A DNS server that answers every question for A records as the test says, with a TTL of 600 as Docker's does.
pub(crate) struct Dns {
    pub(crate) address: SocketAddr,
    says: Arc<Mutex<Says>>,
    pub(crate) asked: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Dns {
    pub(crate) async fn start(says: Says) -> Self {
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
                let mut says = script.lock().unwrap().clone();
                if let Says::Damaged(addresses, seed) = says {
                    let asked = count.load(Ordering::SeqCst);
                    // front asks twice, and pauses where both are in vain, which is to happen but not often.
                    let is_damaged = asked.is_multiple_of(2) || asked % 60 < 3;
                    says = if is_damaged {
                        Says::Damaged(addresses, seed + asked as u64)
                    } else {
                        Says::Addresses(addresses)
                    };
                }
                if let Some(answer) = reply(&packet[..length], says) {
                    socket.send_to(&answer, peer).await.unwrap();
                }
            }
        });
        Self { address, says, asked, serving }
    }

    pub(crate) fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// Waits until a question that came after this call has been answered, and another has come.
    pub(crate) async fn round(&self) {
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
    if let Says::Damaged(addresses, seed) = says {
        return Some(damaged(reply(&question.to_vec().unwrap(), Says::Addresses(addresses))?, seed));
    }
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
        Says::Addresses(_) | Says::Services(_) | Says::Damaged(..) => {}
        Says::Code(code) => answer.metadata.response_code = code,
        Says::Garbage => return Some(b"\x00".to_vec()),
        Says::Nothing => return None,
    }
    Some(answer.to_vec().unwrap())
}

/// A few bytes changed, cut off or doubled, but not those of the answer's number, code and addresses, which would make of it
/// a good answer that says something else.
fn damaged(mut packet: Vec<u8>, seed: u64) -> Vec<u8> {
    const RECORD: usize = 16;
    let mut random = fastrand::Rng::with_seed(seed);
    let end = packet.len() - RECORD;
    match random.u8(..4) {
        0 => packet.truncate(random.usize(..packet.len())),
        1 => packet[4..12].fill_with(|| random.u8(..)),
        2 => packet[12..end].fill_with(|| random.u8(..)),
        _ => packet = (0..random.usize(..600)).map(|_| random.u8(..)).collect(),
    }
    packet
}

/// A task: answers with what it got, as `x-task-id: task-HOST`; `/slow` waits until it is released.
pub(crate) struct Task {
    phase: watch::Sender<Phase>,
    requests: Arc<AtomicUsize>,
    pub(crate) callers: Arc<Mutex<BTreeMap<SocketAddr, usize>>>,
    pub(crate) release: Arc<Notify>,
    serving: JoinHandle<server::Stopped>,
}

impl Task {
    pub(crate) async fn start(network: &Network, host: u8) -> Self {
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
        let serving = tokio::spawn(server::serve(listener, watched, server::Limits::default(), handler));
        Self { phase, requests, callers, release, serving }
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Stops as a task does: nobody new, idle connections closed.
    pub(crate) async fn stop(self) {
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
pub(crate) async fn raw_task(network: &Network, host: u8, answer: &'static [u8]) -> JoinHandle<()> {
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

/// A task that answers the first request of each connection and closes it on the second.
pub(crate) async fn task_that_tires(network: &Network, host: u8) -> JoinHandle<()> {
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

/// A task that takes connections and says nothing, until it is dropped. Then its address refuses, while the connections that
/// it has stay as they are.
pub(crate) struct Hanging {
    accepting: JoinHandle<()>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Hanging {
    pub(crate) async fn start(network: &Network, host: u8) -> Self {
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

    pub(crate) fn connections(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    pub(crate) async fn refuse(&mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }
}

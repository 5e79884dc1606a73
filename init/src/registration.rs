//! The edge to DNS: asks once what callers are told of a name, and whether they are told of us. When to ask, and what
//! an answer means, is decided in [`crate::evidence`].
//!
//! Not a full resolver: it asks a recursive one and keeps nothing, since every lookup must show what DNS says now. A
//! resolver library that does more makes the binary half as large again.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, TYPE,
    rdata::{OPT, RData},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::evidence::Answer;

/// Where a system says which DNS servers to ask.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How long a server may take for one question. A resolver on the same network answers within milliseconds.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often all servers are asked before a lookup has failed.
const ROUNDS: usize = 2;

/// All that one lookup may take, over servers, rounds, search domains and targets.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer over UDP that we announce, which passes every network unfragmented (DNS flag day 2020).
const UDP_SIZE: u16 = 1232;

/// SRV targets whose addresses are looked up; more than any answer of a service discovery holds.
const MOST_TARGETS: usize = 16;

/// A DNS name to be watched. One whose first label begins with an underscore has SRV records, any other addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DnsName(String);

impl FromStr for DnsName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let labels = text.strip_suffix('.').unwrap_or(text).split('.');
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if text.len() > 253 || !labels.clone().all(is_label) || Name::new(text).is_err() {
            return Err(format!(
                "{text:?} is no DNS name: expected one such as back.internal or _http._tcp.back.internal"
            ));
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(format!("{text:?} is an address: expected the name that callers look up"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An address of this task as DNS names it: `IP`, or `IP:PORT` where several tasks share an address and differ by the port
/// of their SRV records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OwnAddress {
    address: IpAddr,
    port: Option<u16>,
}

impl OwnAddress {
    /// Whether a record of this address, and with this port if it has one, is ours.
    fn is(&self, address: IpAddr, port: Option<u16>) -> bool {
        self.address == address && self.port.zip(port).is_none_or(|(own, port)| own == port)
    }
}

impl From<IpAddr> for OwnAddress {
    fn from(address: IpAddr) -> Self {
        Self { address, port: None }
    }
}

impl FromStr for OwnAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let with_port = || text.parse::<SocketAddr>().map(|own| Self { address: own.ip(), port: Some(own.port()) });
        text.parse::<IpAddr>().map(Self::from).or_else(|_| with_port()).map_err(|_| {
            format!("{text:?} is no address: expected one such as 10.0.0.7, 10.0.0.7:32768 or [fd00::7]:80")
        })
    }
}

/// How to look a name up, and how to know ourselves in the answer.
#[derive(Clone, Debug)]
pub struct Registration {
    name: DnsName,
    servers: Vec<SocketAddr>,
    /// The names to try, in order, the first one with an answer being the one that callers find.
    candidates: Vec<String>,
    own: Vec<OwnAddress>,
}

impl Registration {
    /// Looks `name` up at `servers`, or at those of `/etc/resolv.conf` if there are none. `own` are our addresses, or
    /// those of our network interfaces if there are none.
    ///
    /// Without any server every lookup fails, and says why: a task must start without DNS.
    #[must_use]
    pub fn new(name: DnsName, servers: &[SocketAddr], own: Vec<OwnAddress>) -> Self {
        let config = std::fs::read(RESOLV_CONF).ok().and_then(|text| resolv_conf::Config::parse(text).ok());
        let config = config.unwrap_or_default();
        let search: Vec<String> = config.get_last_search_or_domain().map(ToString::to_string).collect();
        let candidates = candidates(&name.0, config.ndots, &search);
        let servers = if servers.is_empty() {
            const DNS: u16 = 53;
            config.nameservers.iter().map(|server| SocketAddr::new(server.into(), DNS)).collect()
        } else {
            servers.to_vec()
        };
        Self { name, servers, candidates, own }
    }

    /// Asks once. All of it takes at most five seconds.
    pub async fn look_up(&self) -> Answer {
        if self.servers.is_empty() {
            return Answer::Failed(format!("no DNS server: {RESOLV_CONF} names none, and --resolver was not given"));
        }
        let own = if self.own.is_empty() { interface_addresses() } else { self.own.clone() };
        let lookup = async {
            let mut absent = Answer::Absent { ttl: None };
            for candidate in &self.candidates {
                match self.look_up_as(candidate, &own).await {
                    Ok(answer @ Answer::Records { .. }) => return Ok(answer),
                    Ok(answer) => absent = answer,
                    Err(error) => return Err(error),
                }
            }
            Ok(absent)
        };
        match timeout(LOOKUP_TIMEOUT, lookup).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Failed(error.to_string()),
            Err(_) => Answer::Failed(format!("no answer within {LOOKUP_TIMEOUT:?}")),
        }
    }

    async fn look_up_as(&self, name: &str, own: &[OwnAddress]) -> io::Result<Answer> {
        if self.name.0.starts_with('_') {
            let found = self.ask(name, TYPE::SRV).await?;
            return self.services(found, own).await;
        }
        let four = self.ask(name, TYPE::A).await?;
        // Most networks have no IPv6 tasks: do not ask twice as often for nothing.
        let may_be_six = own.iter().any(|own| own.address.is_ipv6());
        let six = if four.records.is_empty() {
            Some(self.ask(name, TYPE::AAAA).await?)
        } else if may_be_six {
            match self.ask(name, TYPE::AAAA).await {
                Ok(found) => Some(found),
                // What is known of IPv4 holds; that we are in neither would not be known.
                Err(_) if four.names(own) => None,
                Err(error) => return Err(error),
            }
        } else {
            None
        };
        let all = [Some(&four), six.as_ref()].into_iter().flatten();
        let ours = all.clone().any(|found| found.names(own));
        let count = all.clone().map(|found| found.records.len()).max().unwrap_or_default();
        let ttl = all.filter_map(|found| found.ttl).max();
        Ok(if count == 0 {
            Answer::Absent { ttl }
        } else {
            Answer::Records { ours, count, ttl: ttl.unwrap_or_default() }
        })
    }

    /// An SRV record is ours if its target is one of our addresses, in the same answer or by another question, and its port
    /// is ours too where we know it.
    async fn services(&self, found: Found, own: &[OwnAddress]) -> io::Result<Answer> {
        let count = found.records.len();
        let Some(mut ttl) = found.ttl.filter(|_| count > 0) else { return Ok(Answer::Absent { ttl: found.ttl }) };
        let mut ours = false;
        for record in found.records.iter().take(MOST_TARGETS) {
            let Record::Service { target, port } = record else { continue };
            let mut addresses = Vec::new();
            for (_, address, lives) in found.additional.iter().filter(|(name, ..)| name.eq_ignore_ascii_case(target)) {
                addresses.push(*address);
                ttl = ttl.max(*lives);
            }
            if addresses.is_empty() {
                let asked = self.ask(target, TYPE::A).await?;
                addresses = asked.records.iter().filter_map(Record::address).collect();
                // Who has the service's record looks the target up when it likes.
                ttl = ttl.max(asked.ttl.unwrap_or_default());
            }
            ours |= addresses.iter().any(|address| own.iter().any(|own| own.is(*address, Some(*port))));
        }
        Ok(Answer::Records { ours, count, ttl })
    }

    /// Puts one question to each server until one answers it, twice round.
    async fn ask(&self, name: &str, record_type: TYPE) -> io::Result<Found> {
        let mut failure = None;
        for server in self.servers.iter().cycle().take(self.servers.len() * ROUNDS) {
            match timeout(ATTEMPT_TIMEOUT, ask_server(*server, name, record_type)).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) => failure = Some(format!("{server}: {error}")),
                Err(_) => failure = Some(format!("{server}: no answer within {ATTEMPT_TIMEOUT:?}")),
            }
        }
        Err(io::Error::other(failure.unwrap_or_default()))
    }
}

/// The names that a resolver would try for `name`, in order (resolv.conf(5), `search` and `ndots`).
fn candidates(name: &str, ndots: u32, search: &[String]) -> Vec<String> {
    if let Some(absolute) = name.strip_suffix('.') {
        return vec![absolute.to_owned()];
    }
    let searched = search.iter().map(|domain| format!("{name}.{}", domain.trim_matches('.')));
    let searched = searched.filter(|candidate| Name::new(candidate).is_ok());
    let dots = name.matches('.').count();
    if u32::try_from(dots).is_ok_and(|dots| dots >= ndots) {
        std::iter::once(name.to_owned()).chain(searched).collect()
    } else {
        searched.chain(std::iter::once(name.to_owned())).collect()
    }
}

/// The addresses of our network interfaces, as callers may know them.
fn interface_addresses() -> Vec<OwnAddress> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return vec![] };
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let four = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        four.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    addresses.filter(|address| !address.is_loopback() && !is_link_local(address)).map(OwnAddress::from).collect()
}

const fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Record {
    Address(IpAddr),
    Service { target: String, port: u16 },
}

impl Record {
    const fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Service { .. } => None,
        }
    }
}

/// What a server said of one question.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Found {
    records: Vec<Record>,
    /// The addresses of SRV targets that came along.
    additional: Vec<(String, IpAddr, Duration)>,
    /// How long a cache may hold what was asked for. A CNAME on the way may expire earlier: who follows it again finds the
    /// same record still cached. Of an answer without records, what its SOA says (RFC 2308).
    ttl: Option<Duration>,
}

impl Found {
    /// Whether one of these addresses is in it.
    fn names(&self, own: &[OwnAddress]) -> bool {
        self.records.iter().filter_map(Record::address).any(|address| own.iter().any(|own| own.is(address, None)))
    }
}

async fn ask_server(server: SocketAddr, name: &str, record_type: TYPE) -> io::Result<Found> {
    // Seeded by the system at random; with the random source port it keeps forged answers out.
    let [high, low, ..] = RandomState::new().hash_one(server).to_ne_bytes();
    let id = u16::from_ne_bytes([high, low]);
    let question = question(id, name, record_type)?;
    let local = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut packet = [0; UDP_SIZE as usize];
    loop {
        let length = socket.recv(&mut packet).await?;
        match read(&packet[..length], id, name, record_type) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => return ask_over_tcp(server, &question, id, name, record_type).await,
            // Late, or forged: the right one may still come.
            Err(Refused::NotOurs) => {}
            Err(Refused::Error(error)) => return Err(error),
        }
    }
}

/// The answer was too long for UDP.
async fn ask_over_tcp(
    server: SocketAddr,
    question: &[u8],
    id: u16,
    name: &str,
    record_type: TYPE,
) -> io::Result<Found> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    match read(&answer, id, name, record_type) {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(io::Error::other("the answer is truncated even over TCP")),
        Err(Refused::NotOurs) => Err(io::Error::other("the answer is to another question")),
        Err(Refused::Error(error)) => Err(error),
    }
}

fn question(id: u16, name: &str, record_type: TYPE) -> io::Result<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).map_err(|error| io::Error::other(format!("{name:?} is no DNS name: {error}")))?;
    packet.questions.push(Question::new(name, QTYPE::TYPE(record_type), CLASS::IN.into(), false));
    *packet.opt_mut() = Some(OPT { opt_codes: vec![], udp_packet_size: UDP_SIZE, version: 0 });
    packet.build_bytes_vec().map_err(|error| io::Error::other(error.to_string()))
}

/// Why an answer is none.
enum Refused {
    /// It does not belong to our question.
    NotOurs,
    /// It does, and the server could not answer.
    Error(io::Error),
}

/// Reads an answer. `None`: it is truncated.
fn read(bytes: &[u8], id: u16, name: &str, record_type: TYPE) -> Result<Option<Found>, Refused> {
    let packet = Packet::parse(bytes).map_err(|_| Refused::NotOurs)?;
    let asked = |question: &Question<'_>| {
        question.qname.to_string().eq_ignore_ascii_case(name.trim_end_matches('.'))
            && question.qtype == QTYPE::TYPE(record_type)
    };
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) || !packet.questions.iter().all(asked) {
        return Err(Refused::NotOurs);
    }
    if packet.has_flags(PacketFlag::TRUNCATION) {
        return Ok(None);
    }
    match packet.rcode() {
        RCODE::NoError | RCODE::NameError => {}
        code @ (RCODE::FormatError
        | RCODE::ServerFailure
        | RCODE::NotImplemented
        | RCODE::Refused
        | RCODE::YXDOMAIN
        | RCODE::YXRRSET
        | RCODE::NXRRSET
        | RCODE::NOTAUTH
        | RCODE::NOTZONE
        | RCODE::BADVERS
        | RCODE::Reserved) => {
            return Err(Refused::Error(io::Error::other(format!("answered {code:?}"))));
        }
    }
    let mut found = Found::default();
    for answer in &packet.answers {
        if let Some(address) = address_of(&answer.rdata) {
            found.records.push(Record::Address(address));
        } else if let RData::SRV(service) = &answer.rdata {
            found.records.push(Record::Service { target: service.target.to_string(), port: service.port });
        }
    }
    let is_asked_for = |data: &RData<'_>| address_of(data).is_some() || matches!(data, RData::SRV(_));
    let longest = packet.answers.iter().filter(|answer| is_asked_for(&answer.rdata)).map(|answer| answer.ttl).max();
    let negative = packet
        .name_servers
        .iter()
        .find_map(|record| if let RData::SOA(soa) = &record.rdata { Some(soa.minimum.min(record.ttl)) } else { None });
    let ttl = if found.records.is_empty() { negative } else { longest };
    found.ttl = ttl.map(|seconds| Duration::from_secs(seconds.into()));
    for record in &packet.additional_records {
        if let Some(address) = address_of(&record.rdata) {
            let lives = Duration::from_secs(record.ttl.into());
            found.additional.push((record.name.to_string(), address, lives));
        }
    }
    Ok(Some(found))
}

fn address_of(data: &RData<'_>) -> Option<IpAddr> {
    if let RData::A(address) = data {
        Some(Ipv4Addr::from(address.address).into())
    } else if let RData::AAAA(address) = data {
        Some(Ipv6Addr::from(address.address).into())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_callers_look_up_are_accepted() {
        for name in ["back", "back.internal", "back.internal.", "_http._tcp.back.internal", "my_app", "1.example"] {
            assert_eq!(name.parse(), Ok(DnsName(name.to_owned())));
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_value() {
        let long = "a".repeat(64);
        for name in ["", ".", "a..b", "a b", "http://back", "back:80", "bäck", "10.0.0.1", &long] {
            let error = name.parse::<DnsName>().unwrap_err();
            assert!(error.contains(&format!("{name:?}")), "{error}");
        }
    }

    #[test]
    fn an_own_address_may_have_a_port() {
        let parsed = |text: &str| text.parse::<OwnAddress>();
        let (ip, other) = ("10.0.0.7".parse().unwrap(), "10.0.0.8".parse().unwrap());
        let any_port = parsed("10.0.0.7").unwrap();
        assert!(any_port.is(ip, None) && any_port.is(ip, Some(80)) && !any_port.is(other, None));
        let one_port = parsed("10.0.0.7:80").unwrap();
        assert!(one_port.is(ip, Some(80)) && !one_port.is(ip, Some(81)));
        // An address record has none, so that the address alone must do.
        assert!(one_port.is(ip, None));
        assert!(parsed("[fd00::7]:80").is_ok() && parsed("fd00::7").is_ok());
        for text in ["", "back", "10.0.0.7:", "10.0.0.7:http", "10.0.0.256"] {
            assert!(parsed(text).unwrap_err().contains(&format!("{text:?}")));
        }
    }

    #[test]
    fn search_domains_are_tried_as_resolv_conf_says() {
        let search = vec!["one.test".to_owned(), "two.test.".to_owned()];
        let tried = |name, ndots| candidates(name, ndots, &search);
        assert_eq!(tried("back", 1), ["back.one.test", "back.two.test", "back"]);
        assert_eq!(tried("back.internal", 1), ["back.internal", "back.internal.one.test", "back.internal.two.test"]);
        assert_eq!(tried("back.internal", 5), ["back.internal.one.test", "back.internal.two.test", "back.internal"]);
        assert_eq!(tried("back.internal.", 5), ["back.internal"]);
        assert_eq!(candidates("back", 1, &[]), ["back"]);
    }

    /// An answer with every kind of record that is read, and compressed names.
    fn reply() -> Vec<u8> {
        use simple_dns::{
            ResourceRecord,
            rdata::{A, AAAA, CNAME, SOA, SRV},
        };

        let question = question(7, "back.test", TYPE::A).unwrap();
        let mut packet = Packet::parse(&question).unwrap().into_reply();
        let record = |ttl, rdata| ResourceRecord::new(Name::new_unchecked("back.test"), CLASS::IN, ttl, rdata);
        let target = Name::new_unchecked("task.back.test");
        packet.answers.push(record(300, RData::CNAME(CNAME(target.clone()))));
        packet.answers.push(record(60, RData::A(A { address: Ipv4Addr::new(10, 0, 0, 7).into() })));
        packet.answers.push(record(60, RData::AAAA(AAAA { address: Ipv6Addr::LOCALHOST.into() })));
        packet.answers.push(record(60, RData::SRV(SRV { priority: 1, weight: 1, port: 80, target: target.clone() })));
        packet.name_servers.push(record(
            900,
            RData::SOA(SOA {
                mname: target.clone(),
                rname: target,
                serial: 1,
                refresh: 2,
                retry: 3,
                expire: 4,
                minimum: 5,
            }),
        ));
        packet.build_bytes_vec_compressed().unwrap()
    }

    #[test]
    fn an_answer_holds_as_long_as_its_addresses_and_not_as_the_alias() {
        let Ok(Some(found)) = read(&reply(), 7, "BACK.test", TYPE::A) else { panic!("it is an answer") };
        assert_eq!(found.ttl, Some(Duration::from_mins(1)));
        assert_eq!(found.records[0], Record::Address("10.0.0.7".parse().unwrap()));
    }

    #[test]
    fn an_answer_to_another_question_is_not_ours() {
        for (id, name, record_type) in
            [(8, "back.test", TYPE::A), (7, "other.test", TYPE::A), (7, "back.test", TYPE::AAAA)]
        {
            assert!(matches!(read(&reply(), id, name, record_type), Err(Refused::NotOurs)));
        }
        assert!(matches!(
            read(&question(7, "back.test", TYPE::A).unwrap(), 7, "back.test", TYPE::A),
            Err(Refused::NotOurs)
        ));
    }

    #[test]
    fn bytes_of_any_kind_are_read_or_refused_and_never_a_panic() {
        let mut random = 7_u64;
        let mut next = || {
            // Knuth's MMIX generator: the same bytes in every run.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 56) as u8
        };
        let reply = reply();
        for round in 0..200_000 {
            let mut bytes = reply.clone();
            for _ in 0..=next() % 8 {
                let at = (usize::from(next()) << 8 | usize::from(next())) % bytes.len();
                bytes[at] = next();
            }
            if round % 3 == 0 {
                bytes.truncate(usize::from(next()));
            }
            let _ = read(&bytes, 7, "back.test", TYPE::A);
        }
    }
}

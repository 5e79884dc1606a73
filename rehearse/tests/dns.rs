//! The DNS server as its clients see it: what it says to questions of all kinds, and to what is none.

#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking, as the test itself does")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
};
use hickory_server::proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};
use rehearse::{
    cache::Cache,
    cluster::{Addresses, Cluster, Fact},
    dns::{Authority, Names, Order, Resolver, Role, Server, Source, Terms},
    rules::Rules,
    timeline::TaskId,
    zone::Answer,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{sleep, timeout},
};

const SERVICE: &str = "fsde-back.internal.";
/// Bounds a wait for an answer that should be there at once.
const PATIENCE: Duration = Duration::from_secs(10);

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn terms(role: Role, speed: f64) -> Terms {
    let names = Names { service: "fsde-back".to_owned(), namespace: "internal".to_owned() };
    Terms { role, names, task_port: 1235, negative_ttl: secs(300), speed }
}

fn start(role: Role, speed: f64, source: impl Source) -> Server {
    Server::start("127.0.0.1:0".parse().unwrap(), terms(role, speed), Arc::new(source)).unwrap()
}

/// Not in the order of their numbers.
fn addresses(count: u8) -> Vec<Ipv4Addr> {
    (1..=count).rev().map(|host| Ipv4Addr::new(127, 0, 1, host)).collect()
}

fn naming(count: u8) -> impl Source {
    move || Some(Answer::Addresses { addresses: addresses(count), ttl: secs(60) })
}

fn naming_none() -> impl Source {
    || Some(Answer::NoName { ttl: secs(300) })
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.metadata.recursion_desired = true;
    message
}

fn with_edns(mut question: Message, size: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size).set_version(0);
    question.edns = Some(edns);
    question
}

async fn over_udp(server: SocketAddr, question: &Message) -> (Message, Vec<u8>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question.to_vec().unwrap(), server).await.unwrap();
    let mut answer = vec![0; 65_535];
    let (length, from) = timeout(PATIENCE, socket.recv_from(&mut answer)).await.unwrap().unwrap();
    assert_eq!(from, server);
    answer.truncate(length);
    let message = Message::from_vec(&answer).unwrap();
    assert_eq!((message.metadata.id, message.metadata.message_type), (question.metadata.id, MessageType::Response));
    (message, answer)
}

async fn over_tcp(stream: &mut TcpStream, question: &Message) -> Message {
    let bytes = question.to_vec().unwrap();
    stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = vec![0; timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

async fn ask(server: &Server, name: &str, kind: RecordType) -> Message {
    over_udp(server.address(), &question(name, kind)).await.0
}

/// A message as text: its code and flags, then a line a record.
fn told(message: &Message) -> Vec<String> {
    let it = &message.metadata;
    let flags = [(it.authoritative, " aa"), (it.truncation, " tc"), (it.recursion_available, " ra")];
    let flags = flags.into_iter().filter_map(|(is_set, flag)| is_set.then_some(flag)).collect::<String>();
    let mut lines = vec![format!("{:?}{flags}", it.response_code)];
    for (section, records) in
        [("", &message.answers), ("authority: ", &message.authorities), ("additional: ", &message.additionals)]
    {
        lines.extend(
            records.iter().map(|it| format!("{section}{} {} {} {}", it.name, it.ttl, it.record_type(), it.data)),
        );
    }
    lines
}

fn found(message: &Message) -> Vec<Ipv4Addr> {
    let address = |data: &RData| if let RData::A(address) = data { Some(address.0) } else { None };
    message.answers.iter().filter_map(|record| address(&record.data)).collect()
}

const SOA: &str = "internal. 300 SOA ns.internal. hostmaster.internal. 1 7200 900 1209600 300";

#[tokio::test]
async fn the_service_has_the_addresses_given_in_the_order_given() {
    for (role, flag) in [(Role::Authority, "aa"), (Role::Resolver, "ra")] {
        let server = start(role, 1.0, naming(3));
        let expected = [
            &format!("NoError {flag}"),
            "fsde-back.internal. 60 A 127.0.1.3",
            "fsde-back.internal. 60 A 127.0.1.2",
            "fsde-back.internal. 60 A 127.0.1.1",
        ];
        assert_eq!(told(&ask(&server, SERVICE, RecordType::A).await), expected);
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        for _ in 0..2 {
            assert_eq!(told(&over_tcp(&mut stream, &question(SERVICE, RecordType::A)).await), expected);
        }
    }
}

#[tokio::test]
async fn instances_have_names_of_their_own_which_srv_records_tell() {
    let server = start(Role::Authority, 1.0, naming(2));
    let expected = [
        "NoError aa",
        "fsde-back.internal. 60 SRV 1 1 1235 ip-127-0-1-2.fsde-back.internal.",
        "fsde-back.internal. 60 SRV 1 1 1235 ip-127-0-1-1.fsde-back.internal.",
        "additional: ip-127-0-1-2.fsde-back.internal. 60 A 127.0.1.2",
        "additional: ip-127-0-1-1.fsde-back.internal. 60 A 127.0.1.1",
    ];
    assert_eq!(told(&ask(&server, SERVICE, RecordType::SRV).await), expected);
    let instance = "ip-127-0-1-2.fsde-back.internal.";
    let expected = ["NoError aa", "ip-127-0-1-2.fsde-back.internal. 60 A 127.0.1.2"];
    assert_eq!(told(&ask(&server, instance, RecordType::A).await), expected);
    assert_eq!(told(&ask(&server, instance, RecordType::SRV).await), ["NoError aa", &format!("authority: {SOA}")]);
    let any = told(&ask(&server, SERVICE, RecordType::ANY).await);
    assert_eq!(any.iter().filter(|line| line.starts_with(SERVICE)).count(), 4, "{any:?}");
}

#[tokio::test]
async fn the_zone_has_an_authority() {
    let server = start(Role::Authority, 1.0, naming(1));
    assert_eq!(told(&ask(&server, "internal.", RecordType::SOA).await), ["NoError aa", SOA]);
    let expected = ["NoError aa", "internal. 172800 NS ns.internal.", "additional: ns.internal. 172800 A 127.0.0.1"];
    assert_eq!(told(&ask(&server, "internal.", RecordType::NS).await), expected);
    assert_eq!(
        told(&ask(&server, "ns.internal.", RecordType::A).await),
        ["NoError aa", "ns.internal. 172800 A 127.0.0.1"]
    );
}

#[tokio::test]
async fn a_name_without_such_a_record_and_no_such_name_come_with_the_zones_soa() {
    let authority = format!("authority: {SOA}");
    let server = start(Role::Authority, 1.0, naming(1));
    for (name, kind) in [
        (SERVICE, RecordType::AAAA),
        (SERVICE, RecordType::TXT),
        ("internal.", RecordType::A),
        ("ns.internal.", RecordType::AAAA),
    ] {
        assert_eq!(told(&ask(&server, name, kind).await), ["NoError aa", &authority], "{name} {kind}");
    }
    for name in [
        "fsde-front.internal.",
        "ip-127-0-1-9.fsde-back.internal.",
        "task7.fsde-back.internal.",
        "a.ip-127-0-1-1.fsde-back.internal.",
        "ip-127-0-1-1.a.fsde-back.internal.",
        "ip-127-0-1-1.internal.",
    ] {
        for kind in [RecordType::A, RecordType::AAAA] {
            assert_eq!(told(&ask(&server, name, kind).await), ["NXDomain aa", &authority], "{name} {kind}");
        }
    }
    let server = start(Role::Authority, 1.0, naming_none());
    for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV] {
        assert_eq!(told(&ask(&server, SERVICE, kind).await), ["NXDomain aa", &authority], "{kind}");
    }
}

#[tokio::test]
async fn ttls_are_shortened_by_the_speed() {
    let server = start(Role::Authority, 10.0, naming(1));
    assert_eq!(told(&ask(&server, SERVICE, RecordType::A).await)[1], "fsde-back.internal. 6 A 127.0.1.1");
    let soa = "authority: internal. 30 SOA ns.internal. hostmaster.internal. 1 7200 900 1209600 30";
    assert_eq!(told(&ask(&server, SERVICE, RecordType::AAAA).await)[1], soa);
    let server = start(Role::Authority, 100.0, || Some(Answer::NoName { ttl: secs(150) }));
    // A resolver's: the rest of the time, of a record that says what it has always said.
    let soa = "authority: internal. 2 SOA ns.internal. hostmaster.internal. 1 7200 900 1209600 3";
    assert_eq!(told(&ask(&server, SERVICE, RecordType::A).await), ["NXDomain aa", soa]);
}

#[tokio::test]
async fn the_case_of_a_question_is_kept_and_does_not_matter() {
    let server = start(Role::Authority, 1.0, naming(1));
    let mixed = "FsDe-BaCk.iNtErNaL.";
    let question = question(mixed, RecordType::A);
    let (answer, bytes) = over_udp(server.address(), &question).await;
    assert_eq!(found(&answer), addresses(1));
    assert!(answer.queries[0].name().eq_case(&Name::from_ascii(mixed).unwrap()), "{answer}");
    assert!(answer.answers[0].name.eq_case(&Name::from_ascii(mixed).unwrap()), "{answer}");
    let asked = question.to_vec().unwrap();
    assert_eq!(bytes[12..asked.len()], asked[12..]);
    assert_eq!(found(&ask(&server, "IP-127-0-1-1.fsde-BACK.Internal.", RecordType::A).await), addresses(1));
}

#[tokio::test]
async fn edns_is_answered_in_version_0_and_only_to_those_who_speak_it() {
    let server = start(Role::Authority, 1.0, naming(1));
    assert!(ask(&server, SERVICE, RecordType::A).await.edns.is_none());

    let mut question = with_edns(question(SERVICE, RecordType::A), 4096);
    let (answer, _) = over_udp(server.address(), &question).await;
    let edns = answer.edns.clone().unwrap();
    assert_eq!((edns.version(), edns.max_payload(), edns.flags().dnssec_ok), (0, 1232, false));
    assert_eq!(found(&answer), addresses(1));

    question.edns.as_mut().unwrap().set_dnssec_ok(true);
    let (answer, _) = over_udp(server.address(), &question).await;
    assert!(answer.edns.unwrap().flags().dnssec_ok, "RFC 3225: copied");

    question.edns.as_mut().unwrap().set_version(1);
    let (answer, _) = over_udp(server.address(), &question).await;
    // BADVERS, which has the number of BADSIG.
    assert_eq!((u16::from(answer.metadata.response_code), answer.edns.unwrap().version()), (16, 0));
    assert!(answer.answers.is_empty());
}

#[tokio::test]
async fn what_a_client_does_not_take_over_udp_is_truncated_and_whole_over_tcp() {
    let server = start(Role::Authority, 1.0, naming(70));
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    for (size, takes, is_whole) in
        [(None, 512, false), (Some(0), 512, false), (Some(800), 800, false), (Some(4096), 1232, true)]
    {
        for count in [70, 48] {
            let server = start(Role::Authority, 1.0, naming(count));
            let question = question(SERVICE, RecordType::A);
            let question = if let Some(size) = size { with_edns(question, size) } else { question };
            let (answer, bytes) = over_udp(server.address(), &question).await;
            assert!(bytes.len() <= takes);
            assert_eq!(answer.edns.is_some(), size.is_some(), "OPT is never cut off");
            if is_whole {
                assert_eq!((answer.metadata.truncation, found(&answer)), (false, addresses(count)));
            } else {
                assert_eq!(told(&answer), ["NoError aa tc"], "{size:?} {count}");
            }
        }
    }
    let answer = over_tcp(&mut stream, &question(SERVICE, RecordType::A)).await;
    assert_eq!((answer.metadata.truncation, found(&answer)), (false, addresses(70)));
    // 1232 bytes: a head, a question, an OPT record, the name in full, and 72 addresses of 16 bytes each.
    let most = start(Role::Authority, 1.0, naming(72));
    let (answer, bytes) = over_udp(most.address(), &with_edns(question(SERVICE, RecordType::A), 1232)).await;
    assert_eq!(
        (answer.metadata.truncation, answer.answers.len(), bytes.len()),
        (false, 72, 12 + 24 + 11 + 18 + 72 * 16)
    );
    let more = start(Role::Authority, 1.0, naming(73));
    let (answer, _) = over_udp(more.address(), &with_edns(question(SERVICE, RecordType::A), 4096)).await;
    assert_eq!(told(&answer), ["NoError aa tc"]);

    // The addresses beside SRV records go first, and nobody has to ask again for that.
    let eight = start(Role::Authority, 1.0, naming(8));
    let answer = ask(&eight, SERVICE, RecordType::SRV).await;
    assert_eq!((answer.metadata.truncation, answer.answers.len(), answer.additionals.len()), (false, 8, 0));
    let (answer, _) = over_udp(eight.address(), &with_edns(question(SERVICE, RecordType::SRV), 1232)).await;
    assert_eq!((answer.metadata.truncation, answer.answers.len(), answer.additionals.len()), (false, 8, 8));
}

#[tokio::test]
async fn what_is_not_the_servers_to_answer_is_declined() {
    let server = start(Role::Authority, 1.0, naming(1));
    for (name, kind) in [
        ("fsde-back.elsewhere.", RecordType::A),
        ("fsde-back.internal.example.", RecordType::A),
        ("notinternal.", RecordType::SOA),
        (".", RecordType::NS),
        ("internal.", RecordType::AXFR),
        ("internal.", RecordType::IXFR),
    ] {
        assert_eq!(told(&ask(&server, name, kind).await), ["Refused"], "{name} {kind}");
    }
    for class in [DNSClass::CH, DNSClass::ANY] {
        let mut question = question(SERVICE, RecordType::A);
        question.queries[0].set_query_class(class);
        assert_eq!(told(&over_udp(server.address(), &question).await.0), ["Refused"], "{class}");
    }
    for code in [OpCode::Status, OpCode::Notify, OpCode::Update, OpCode::Unknown(9)] {
        let mut question = question("internal.", RecordType::SOA);
        question.metadata.op_code = code;
        let (answer, _) = over_udp(server.address(), &question).await;
        assert_eq!((told(&answer), answer.metadata.op_code), (vec!["NotImp".to_owned()], code));
    }
    let server = start(Role::Resolver, 1.0, || None);
    assert_eq!(told(&ask(&server, SERVICE, RecordType::A).await), ["ServFail ra"]);
    assert_eq!(told(&ask(&server, "ip-127-0-1-1.fsde-back.internal.", RecordType::A).await)[0], "ServFail ra");
}

#[tokio::test]
async fn a_message_without_a_question_or_with_two_is_malformed() {
    let server = start(Role::Authority, 1.0, naming(1));
    let mut message = question(SERVICE, RecordType::A);
    message.queries.clear();
    assert_eq!(over_udp(server.address(), &message).await.0.metadata.response_code, ResponseCode::FormErr);
    let mut message = question(SERVICE, RecordType::A);
    message.add_query(Query::query(Name::from_ascii(SERVICE).unwrap(), RecordType::AAAA));
    assert_eq!(over_udp(server.address(), &message).await.0.metadata.response_code, ResponseCode::FormErr);
}

#[tokio::test]
async fn nonsense_does_not_disturb() {
    let server = start(Role::Authority, 1.0, naming(2));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.address()).await.unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    let good = with_edns(question(SERVICE, RecordType::A), 1232).to_vec().unwrap();
    let mut answer = [0; 4096];
    for round in 0..3000 {
        let mut bytes = good.clone();
        if round % 2 == 0 {
            bytes.resize(random.usize(..200), 0);
            bytes.fill_with(|| random.u8(..));
        } else {
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(..=bytes.len() * 2));
        }
        socket.send(&bytes).await.unwrap();
        // Whatever comes back is an answer.
        while let Ok(length) = socket.try_recv(&mut answer) {
            assert_eq!(answer[2] & 0x80, 0x80, "{:?}", &answer[..length]);
        }
    }
    // What says that it is an answer is not answered: two servers would never stop.
    let mut reply = question(SERVICE, RecordType::A);
    reply.metadata.message_type = MessageType::Response;
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    silent.send_to(&reply.to_vec().unwrap(), server.address()).await.unwrap();
    assert_eq!(found(&ask(&server, SERVICE, RecordType::A).await), addresses(2));
    assert!(silent.try_recv(&mut answer).is_err());

    // A connection that ends in the middle of a question, or that says nothing.
    let mut cut = TcpStream::connect(server.address()).await.unwrap();
    cut.write_all(&[0, 200, 1, 2, 3]).await.unwrap();
    drop(cut);
    let _idle = TcpStream::connect(server.address()).await.unwrap();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    assert_eq!(found(&over_tcp(&mut stream, &question(SERVICE, RecordType::A)).await), addresses(2));
}

fn client(server: &Server) -> TokioResolver {
    let mut udp = ConnectionConfig::udp();
    let mut tcp = ConnectionConfig::tcp();
    udp.port = server.address().port();
    tcp.port = server.address().port();
    let config = NameServerConfig::new(server.address().ip(), true, vec![udp, tcp]);
    let config = ResolverConfig::from_parts(None, vec![], vec![config]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().attempts = 1;
    builder.options_mut().timeout = PATIENCE;
    builder.options_mut().case_randomization = true;
    builder.build().unwrap()
}

#[tokio::test]
async fn hickorys_resolver_understands_it() {
    let server = start(Role::Resolver, 1.0, naming(70));
    let looked_up = client(&server).ipv4_lookup(SERVICE).await.unwrap();
    assert_eq!(looked_up.answers().len(), 70, "over TCP if need be");
    let looked_up = client(&server).srv_lookup(SERVICE).await.unwrap();
    assert_eq!(looked_up.answers().len(), 70);

    let server = start(Role::Resolver, 10.0, naming_none());
    let error = client(&server).ipv4_lookup(SERVICE).await.unwrap_err();
    let NetError::Dns(hickory_resolver::net::DnsError::NoRecordsFound(none)) = error else { panic!("{error}") };
    assert_eq!((none.response_code, none.negative_ttl), (ResponseCode::NXDomain, Some(30)));
}

/// A clock that a test turns, and the seconds that it shows.
fn clock() -> (Arc<AtomicU64>, impl Fn() -> Duration + Clone + Send + Sync + 'static) {
    let seconds = Arc::new(AtomicU64::new(0));
    (Arc::clone(&seconds), move || secs(seconds.load(Relaxed)))
}

#[tokio::test]
async fn the_authority_says_what_the_zone_says_at_the_time() {
    let (seconds, now) = clock();
    let rules = Rules { desired: 20, ..Rules::default() };
    let room = Addresses { first: Ipv4Addr::new(127, 0, 1, 1), count: 100 };
    let cluster = Arc::new(Mutex::new(Cluster::steady(rules, room, 1).0));
    let server = start(Role::Authority, 1.0, Authority::new(Arc::clone(&cluster), now));
    assert_eq!(found(&ask(&server, SERVICE, RecordType::A).await).len(), 8);
    for address in addresses(20) {
        let name = format!("ip-{}.fsde-back.internal.", address.to_string().replace('.', "-"));
        let found = found(&ask(&server, &name, RecordType::A).await);
        assert_eq!(found, [address], "whether or not it is one of the eight");
    }
    let first = "ip-127-0-1-1.fsde-back.internal.";
    cluster.lock().unwrap().handle(Fact::Stop(TaskId(1)), secs(10));
    assert_eq!(found(&ask(&server, first, RecordType::A).await), addresses(1), "its time has not come");
    seconds.store(60, Relaxed);
    assert_eq!(told(&ask(&server, first, RecordType::A).await), ["NXDomain aa", &format!("authority: {SOA}")]);
    for _ in 0..20 {
        assert!(!found(&ask(&server, SERVICE, RecordType::A).await).contains(&addresses(1)[0]));
    }
}

#[tokio::test]
async fn a_resolver_hands_out_the_rest_of_the_time_from_its_caches() {
    let (seconds, now) = clock();
    let host = Arc::new(AtomicU64::new(1));
    let latest = Arc::clone(&host);
    let authority = move || {
        let address = Ipv4Addr::new(127, 0, 1, u8::try_from(latest.load(Relaxed)).unwrap());
        Some(Answer::Addresses { addresses: vec![address], ttl: secs(60) })
    };
    // The second one's first answer is over after fifteen seconds.
    let caches = vec![Cache::in_phase(1.0), Cache::in_phase(0.25)];
    let random = fastrand::Rng::with_seed(1);
    let resolver = Arc::new(Resolver::new(Arc::new(authority), caches, Order::Given, random, now));
    let shared: Arc<dyn Source> = resolver.clone();
    let server = Server::start("127.0.0.1:0".parse().unwrap(), terms(Role::Resolver, 1.0), shared).unwrap();
    let answers = async || {
        let mut lines = Vec::new();
        for _ in 0..40 {
            lines.push(told(&ask(&server, SERVICE, RecordType::A).await)[1].clone());
        }
        lines.sort();
        lines.dedup();
        lines
    };
    assert_eq!(answers().await, ["fsde-back.internal. 15 A 127.0.1.1", "fsde-back.internal. 60 A 127.0.1.1"]);
    assert_eq!((resolver.questions(), resolver.passed_on()), (40, 2));
    host.store(2, Relaxed);
    seconds.store(14, Relaxed);
    assert_eq!(answers().await, ["fsde-back.internal. 1 A 127.0.1.1", "fsde-back.internal. 46 A 127.0.1.1"]);
    seconds.store(15, Relaxed);
    assert_eq!(answers().await, ["fsde-back.internal. 45 A 127.0.1.1", "fsde-back.internal. 60 A 127.0.1.2"]);
    assert_eq!((resolver.questions(), resolver.passed_on()), (120, 3));
}

#[tokio::test]
async fn a_resolver_sends_what_it_keeps_in_any_order_or_in_one() {
    for (order, expected) in [(Order::Given, 1), (Order::Shuffled, 6)] {
        for caches in [vec![], vec![Cache::in_phase(1.0)]] {
            let (_, now) = clock();
            let cached = !caches.is_empty();
            let random = fastrand::Rng::with_seed(1);
            let resolver = Arc::new(Resolver::new(Arc::new(naming(3)), caches, order, random, now));
            let shared: Arc<dyn Source> = resolver.clone();
            let server = Server::start("127.0.0.1:0".parse().unwrap(), terms(Role::Resolver, 1.0), shared).unwrap();
            let mut orders = Vec::new();
            for _ in 0..100 {
                orders.push(found(&ask(&server, SERVICE, RecordType::A).await));
            }
            orders.sort();
            orders.dedup();
            assert_eq!(orders.len(), expected, "{order:?}: {orders:?}");
            assert_eq!((resolver.questions(), resolver.passed_on()), (100, if cached { 1 } else { 100 }));
        }
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_and_free_again_when_the_server_is_dropped() {
    let server = start(Role::Authority, 1.0, naming(1));
    let address = server.address();
    assert_ne!(address.port(), 0);
    let again = || Server::start(address, terms(Role::Authority, 1.0), Arc::new(naming(1)));
    assert_eq!(again().err().unwrap().kind(), std::io::ErrorKind::AddrInUse);
    let mut idle = TcpStream::connect(address).await.unwrap();
    drop(server);
    // Its connections end as well.
    assert_eq!(timeout(PATIENCE, idle.read(&mut [0])).await.unwrap().unwrap_or(0), 0);
    for _ in 0..200 {
        if again().is_ok() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("still taken");
}

#[tokio::test]
async fn names_that_are_none_are_refused() {
    let mut terms = terms(Role::Authority, 1.0);
    terms.names.service = "a..b".to_owned();
    let refused = Server::start("127.0.0.1:0".parse().unwrap(), terms, Arc::new(naming(1)));
    assert_eq!(refused.err().unwrap().kind(), std::io::ErrorKind::InvalidInput);
}

//! What `init` learns of a name from real DNS servers on loopback: Hickory in this process, and Knot, which nobody here
//! wrote. Both serve the same zone file.

#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking, as the test itself does")]

use std::{
    fmt::Write,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use hickory_server::{
    Server,
    net::runtime::TokioRuntimeProvider,
    proto::{rr::Name, serialize::txt::Parser},
    store::in_memory::InMemoryZoneHandler,
    zone_handler::{AxfrPolicy, Catalog, ZoneType},
};
use init::{
    evidence::Answer,
    registration::{OwnAddress, Registration},
};
use tokio::{
    net::{TcpListener, UdpSocket},
    time::sleep,
};

/// More records than fit in 1232 bytes: the answer over UDP is truncated.
const MANY: usize = 120;

fn zone() -> String {
    let mut zone = "\
$ORIGIN example.test.
@                300 IN SOA   ns hostmaster 1 3600 600 86400 30
@                300 IN NS    ns
ns               300 IN A     127.0.0.1
back              60 IN A     10.0.0.7
back              60 IN A     10.0.0.8
alias             20 IN CNAME back
six               45 IN AAAA  fd00::7
text             300 IN TXT   \"no address\"
_http._tcp.back   15 IN SRV   1 1 80 task7.back
_http._tcp.back   15 IN SRV   1 1 80 task8.back
task7.back        15 IN A     10.0.0.7
task8.back        15 IN A     10.0.0.8
"
    .to_owned();
    for host in 1..=MANY {
        writeln!(zone, "many 60 IN A 10.0.1.{host}").unwrap();
    }
    zone
}

/// Hickory's server with the zone.
async fn hickory() -> (Server<Catalog>, SocketAddr) {
    let origin = Name::from_ascii("example.test.").unwrap();
    let (_, records) = Parser::new(zone(), None, Some(origin.clone())).parse().unwrap();
    let zone =
        InMemoryZoneHandler::<TokioRuntimeProvider>::new(origin.clone(), records, ZoneType::Primary, AxfrPolicy::Deny)
            .unwrap();
    let mut catalog = Catalog::new();
    catalog.upsert(origin.into(), vec![Arc::new(zone)]);
    let mut server = Server::new(catalog);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    server.register_socket(UdpSocket::bind(address).await.unwrap());
    server.register_listener(listener, Duration::from_secs(5), 4096);
    (server, address)
}

/// Knot's server with the zone. Killed with its handle.
struct Knot {
    process: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Knot {
    /// `None` if it is not installed, which only a developer's machine may lack.
    async fn start() -> Option<Self> {
        if !Path::new("/usr/sbin/knotd").exists() {
            assert!(std::env::var_os("CI").is_none(), "knotd is not installed: apt-get install knot");
            return None;
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("knot-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("example.test.zone"), zone()).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let (path, port) = (folder.display(), address.port());
        let config = format!(
            "server:\n  listen: 127.0.0.1@{port}\n  rundir: {path}\n  udp-workers: 1\n  tcp-workers: 1\n  \
             background-workers: 1\ndatabase:\n  storage: {path}\ntemplate:\n  - id: default\n    storage: {path}\n    \
             file: \"%s.zone\"\nzone:\n  - domain: example.test\n"
        );
        fs::write(folder.join("knot.conf"), config).unwrap();
        let process = Command::new("/usr/sbin/knotd")
            .arg("-c")
            .arg(folder.join("knot.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let knot = Self { process, folder, address };
        for _ in 0..400 {
            if let Answer::Records { .. } = look_up(&[address], "back.example.test", &[]).await {
                return Some(knot);
            }
            sleep(Duration::from_millis(25)).await;
        }
        panic!("knotd does not answer");
    }
}

impl Drop for Knot {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

async fn look_up(servers: &[SocketAddr], name: &str, own: &[&str]) -> Answer {
    let own = own.iter().map(|address| address.parse().unwrap()).collect::<Vec<OwnAddress>>();
    // An address that is nobody's, so that the machine's own do not count.
    let own = if own.is_empty() { vec!["192.0.2.1".parse().unwrap()] } else { own };
    Registration::new(name.parse().unwrap(), servers, own).look_up().await
}

const fn records(ours: bool, count: usize, ttl: u64) -> Answer {
    Answer::Records { ours, count, ttl: Duration::from_secs(ttl) }
}

async fn check(server: SocketAddr) {
    let ask = async |name, own: &[&str]| look_up(&[server], name, own).await;
    let absent = Answer::Absent { ttl: Some(Duration::from_secs(30)) };

    // Addresses, ours among them or not; the name absolute or not.
    assert_eq!(ask("back.example.test", &["10.0.0.7"]).await, records(true, 2, 60));
    assert_eq!(ask("back.example.test.", &["10.0.0.9", "10.0.0.8"]).await, records(true, 2, 60));
    assert_eq!(ask("BACK.example.test", &["10.0.0.9"]).await, records(false, 2, 60));
    // Of an alias the address lives on in caches when the alias has expired.
    assert_eq!(ask("alias.example.test", &["10.0.0.7"]).await, records(true, 2, 60));
    // Ours may be an IPv4 address, whatever else we have.
    assert_eq!(ask("back.example.test", &["10.0.0.7", "fd00::9"]).await, records(true, 2, 60));
    // Only AAAA records.
    assert_eq!(ask("six.example.test", &["fd00::7"]).await, records(true, 1, 45));
    assert_eq!(ask("six.example.test", &["10.0.0.7"]).await, records(false, 1, 45));
    // SRV records, whose targets are ours or not.
    assert_eq!(ask("_http._tcp.back.example.test", &["10.0.0.8"]).await, records(true, 2, 15));
    assert_eq!(ask("_http._tcp.back.example.test", &["10.0.0.9"]).await, records(false, 2, 15));
    // Another task on the same host has the same address.
    assert_eq!(ask("_http._tcp.back.example.test", &["10.0.0.8:80"]).await, records(true, 2, 15));
    assert_eq!(ask("_http._tcp.back.example.test", &["10.0.0.8:81"]).await, records(false, 2, 15));
    // Too long for UDP, so it comes over TCP.
    assert_eq!(ask("many.example.test", &["10.0.1.120"]).await, records(true, MANY, 60));
    // No such name, and a name without addresses.
    assert_eq!(ask("none.example.test", &["10.0.0.7"]).await, absent);
    assert_eq!(ask("text.example.test", &["10.0.0.7"]).await, absent);
    // A zone that is not the server's.
    assert!(matches!(ask("back.elsewhere.test", &["10.0.0.7"]).await, Answer::Failed(_)));
}

#[tokio::test]
async fn hickory_is_understood() {
    let (_server, address) = hickory().await;
    check(address).await;
}

#[tokio::test]
async fn knot_is_understood() {
    if let Some(knot) = Knot::start().await {
        check(knot.address).await;
    }
}

#[tokio::test]
async fn a_server_that_is_down_or_talks_nonsense_is_passed_over() {
    let (_server, good) = hickory().await;
    let down = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(look_up(&[down, good], "back.example.test", &["10.0.0.7"]).await, records(true, 2, 60));

    let nonsense = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = nonsense.local_addr().unwrap();
    let talking = tokio::spawn(async move {
        let mut question = [0; 512];
        loop {
            let (length, peer) = nonsense.recv_from(&mut question).await.unwrap();
            // Garbage, an echo of the question, and an answer to another one.
            nonsense.send_to(b"\x00\xff", peer).await.unwrap();
            nonsense.send_to(&question[..length], peer).await.unwrap();
            question[0] ^= 1;
            question[2] |= 0x80;
            nonsense.send_to(&question[..length], peer).await.unwrap();
        }
    });
    assert_eq!(look_up(&[address, good], "back.example.test", &["10.0.0.7"]).await, records(true, 2, 60));
    talking.abort();
}

#[tokio::test]
async fn without_a_server_that_answers_the_lookup_fails_and_says_why() {
    let down = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let Answer::Failed(error) = look_up(&[down], "back.example.test", &[]).await else { panic!("there is no server") };
    assert!(error.contains(&down.to_string()) && error.contains("refused"), "{error}");
}

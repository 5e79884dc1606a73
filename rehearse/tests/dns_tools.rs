//! The DNS server as seen by clients that nobody here wrote: BIND's `dig`, Knot's `kdig`, and `dnsperf`.

#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking, as the test itself does")]

use std::{io::ErrorKind, net::Ipv4Addr, process::Stdio, sync::Arc, time::Duration};

use rehearse::{
    dns::{Names, Role, Server, Source, Terms},
    zone::Answer,
};
use tokio::{io::AsyncWriteExt, process::Command};

const SERVICE: &str = "fsde-back.internal";
const SOA: &str = "internal. 300 IN SOA ns.internal. hostmaster.internal. 1 7200 900 1209600 300";

fn start(role: Role, source: impl Source) -> Server {
    let names = Names { service: "fsde-back".to_owned(), namespace: "internal".to_owned() };
    let terms = Terms { role, names, task_port: 1235, negative_ttl: Duration::from_mins(5), speed: 1.0 };
    // An address of its own, as an authority's and a resolver's have in a rehearsal.
    Server::start("127.0.0.53:0".parse().unwrap(), terms, Arc::new(source)).unwrap()
}

fn naming(count: u8) -> impl Source {
    let addresses = (1..=count).rev().map(|host| Ipv4Addr::new(127, 0, 1, host)).collect::<Vec<_>>();
    move || Some(Answer::Addresses { addresses: addresses.clone(), ttl: Duration::from_mins(1) })
}

/// What a tool writes, with one space between columns. `None` if it is not installed, which only a developer's machine
/// may lack.
async fn said(tool: &str, server: &Server, arguments: &str, input: &str) -> Option<String> {
    let mut command = Command::new(tool);
    command.arg("-p").arg(server.address().port().to_string()).args(arguments.split_whitespace());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let packages = "bind9-dnsutils knot-dnsutils dnsperf";
            assert!(std::env::var_os("CI").is_none(), "{tool} is not installed: apt-get install {packages}");
            return None;
        }
        Err(error) => panic!("{tool}: {error}"),
    };
    let mut stdin = child.stdin.take().unwrap();
    // It may have ended without reading.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = tokio::time::timeout(Duration::from_mins(1), child.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{tool} {arguments}\n{said}{}", String::from_utf8_lossy(&output.stderr));
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n";
    Some(said.lines().map(line).collect())
}

async fn dig(server: &Server, arguments: &str) -> Option<String> {
    let arguments = format!("@{} +tries=1 +time=5 +norecurse +nocookie {arguments}", server.address().ip());
    let said = said("dig", server, &arguments, "").await?;
    assert!(!said.contains(";; WARNING") && !said.contains(";; Warning"), "{arguments}\n{said}");
    Some(said)
}

async fn kdig(server: &Server, arguments: &str) -> Option<String> {
    let arguments = format!("@{} +retry=0 +time=5 {arguments}", server.address().ip());
    let said = said("kdig", server, &arguments, "").await?;
    assert!(!said.contains(";; WARNING") && !said.contains(";; ERROR"), "{arguments}\n{said}");
    Some(said)
}

/// Checks an answer for each of these.
fn has(said: &str, expected: &[&str]) {
    for it in expected {
        assert!(said.contains(it), "{it}\nis not in\n{said}");
    }
}

#[tokio::test]
async fn dig_gets_addresses_instances_and_the_zones_records() {
    let server = start(Role::Authority, naming(3));
    let Some(said) = dig(&server, SERVICE).await else { return };
    has(&said, &["opcode: QUERY, status: NOERROR", "flags: qr aa; QUERY: 1, ANSWER: 3, AUTHORITY: 0, ADDITIONAL: 1"]);
    has(&said, &["EDNS: version: 0, flags:; udp: 1232"]);
    let lines = [3, 2, 1].map(|host| format!("{SERVICE}. 60 IN A 127.0.1.{host}\n")).concat();
    has(&said, &[&lines]);

    let said = dig(&server, &format!("{SERVICE} SRV +noedns")).await.unwrap();
    has(&said, &["ANSWER: 3, AUTHORITY: 0, ADDITIONAL: 3", "60 IN SRV 1 1 1235 ip-127-0-1-3.fsde-back.internal."]);
    has(&said, &["ip-127-0-1-3.fsde-back.internal. 60 IN A 127.0.1.3"]);
    let said = dig(&server, "+short ip-127-0-1-2.fsde-back.internal").await.unwrap();
    assert_eq!(said, "127.0.1.2\n");
    has(&dig(&server, "internal SOA").await.unwrap(), &["flags: qr aa; QUERY: 1, ANSWER: 1", SOA]);
    let said = dig(&server, "internal NS").await.unwrap();
    has(&said, &["172800 IN NS ns.internal.", "ns.internal. 172800 IN A 127.0.0.53"]);

    has(
        &dig(&server, "FSDE-back.InterNal").await.unwrap(),
        &[";FSDE-back.InterNal. IN A", "FSDE-back.InterNal. 60 IN A"],
    );
}

#[tokio::test]
async fn dig_gets_the_soa_where_there_is_no_record_or_no_name() {
    let server = start(Role::Authority, naming(3));
    let Some(said) = dig(&server, &format!("{SERVICE} AAAA")).await else { return };
    has(&said, &["status: NOERROR", "flags: qr aa; QUERY: 1, ANSWER: 0, AUTHORITY: 1", SOA]);
    has(&dig(&server, "fsde-front.internal").await.unwrap(), &["status: NXDOMAIN", "qr aa;", SOA]);
    let none = start(Role::Authority, || Some(Answer::NoName { ttl: Duration::from_mins(5) }));
    has(&dig(&none, SERVICE).await.unwrap(), &["status: NXDOMAIN", "qr aa;", SOA]);
    let failing = start(Role::Authority, || None);
    has(&dig(&failing, SERVICE).await.unwrap(), &["status: SERVFAIL", "flags: qr;"]);
}

#[tokio::test]
async fn dig_is_declined_what_is_not_the_servers_to_answer() {
    let server = start(Role::Authority, naming(3));
    let Some(said) = dig(&server, "back.example").await else { return };
    has(&said, &["status: REFUSED", "flags: qr; QUERY: 1, ANSWER: 0, AUTHORITY: 0, ADDITIONAL: 1"]);
    has(&dig(&server, "-c CH version.bind TXT").await.unwrap(), &["status: REFUSED"]);
    has(&dig(&server, "+opcode=STATUS internal SOA").await.unwrap(), &["opcode: STATUS, status: NOTIMP"]);
    has(&dig(&server, "+opcode=NOTIFY internal SOA").await.unwrap(), &["opcode: NOTIFY, status: NOTIMP"]);
    has(&dig(&server, "+edns=1 +noednsneg internal SOA").await.unwrap(), &["status: BADVERS", "EDNS: version: 0,"]);
    // Options and flags that nobody knows are passed over (RFC 6891, sections 6.1.2 and 6.1.4).
    let strange = format!("+ednsopt=65001:beef +ednsflags=0x40 +cookie +nsid +subnet=192.0.2.0/24 {SERVICE}");
    has(
        &dig(&server, &strange).await.unwrap(),
        &["status: NOERROR", "ANSWER: 3", "EDNS: version: 0, flags:; udp: 1232"],
    );
}

#[tokio::test]
async fn dig_and_kdig_get_over_tcp_what_does_not_fit() {
    let server = start(Role::Authority, naming(100));
    let Some(said) = dig(&server, &format!("+ignore {SERVICE}")).await else { return };
    has(&said, &["flags: qr aa tc; QUERY: 1, ANSWER: 0, AUTHORITY: 0, ADDITIONAL: 1"]);
    let said = dig(&server, SERVICE).await.unwrap();
    has(&said, &["Truncated, retrying in TCP mode.", "flags: qr aa; QUERY: 1, ANSWER: 100", "(TCP)"]);
    // Three questions on one connection.
    let three = format!("+tcp +keepopen {SERVICE} {SERVICE} SRV {SERVICE} AAAA");
    has(
        &dig(&server, &three).await.unwrap(),
        &["ANSWER: 100, AUTHORITY: 0, ADDITIONAL: 1\n", "ANSWER: 100, AUTHORITY: 0, ADDITIONAL: 101\n", SOA],
    );

    let server = start(Role::Authority, naming(40));
    has(&dig(&server, &format!("+ignore +bufsize=600 {SERVICE}")).await.unwrap(), &["aa tc;"]);
    has(&dig(&server, &format!("+ignore +bufsize=800 {SERVICE}")).await.unwrap(), &["aa; QUERY: 1, ANSWER: 40"]);
    has(
        &dig(&server, &format!("+ignore +noedns {SERVICE}")).await.unwrap(),
        &["aa tc; QUERY: 1, ANSWER: 0, AUTHORITY: 0, ADDITIONAL: 0"],
    );

    let Some(said) = kdig(&server, &format!("+noedns {SERVICE}")).await else { return };
    has(&said, &["Flags: qr aa rd; QUERY: 1; ANSWER: 40", "(TCP)"]);
}

#[tokio::test]
async fn kdig_gets_the_same() {
    let server = start(Role::Resolver, naming(2));
    let Some(said) = kdig(&server, &format!("+edns {SERVICE}")).await else { return };
    has(
        &said,
        &[
            "status: NOERROR",
            "Flags: qr rd ra; QUERY: 1; ANSWER: 2",
            "Version: 0; flags: ; UDP size: 1232 B; ext-rcode: NOERROR",
        ],
    );
    has(&kdig(&server, &format!("+short {SERVICE}")).await.unwrap(), &["127.0.1.2\n127.0.1.1\n"]);
    has(
        &kdig(&server, &format!("+short {SERVICE} SRV")).await.unwrap(),
        &["1 1 1235 ip-127-0-1-2.fsde-back.internal.\n"],
    );
    has(&kdig(&server, &format!("{SERVICE} AAAA")).await.unwrap(), &["status: NOERROR", "ANSWER: 0; AUTHORITY: 1"]);
    has(&kdig(&server, "none.internal").await.unwrap(), &["status: NXDOMAIN", "ANSWER: 0; AUTHORITY: 1"]);
    has(&kdig(&server, "+edns=1 internal SOA").await.unwrap(), &["ext-rcode: BADVERS"]);
    has(&kdig(&server, "back.example").await.unwrap(), &["status: REFUSED"]);
    let padded = kdig(&server, &format!("+tcp +padding=128 +nsid +cookie {SERVICE}")).await.unwrap();
    has(&padded, &["Flags: qr rd ra; QUERY: 1; ANSWER: 2", "(TCP)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dnsperf_loses_no_answer() {
    let server = start(Role::Resolver, naming(4));
    let questions = format!("{SERVICE} A\n{SERVICE} AAAA\n{SERVICE} SRV\nip-127-0-1-1.{SERVICE} A\n").repeat(500);
    for mode in ["udp", "tcp"] {
        let arguments = format!("-s {} -m {mode} -e -c 20 -n 1 -t 10", server.address().ip());
        let Some(said) = said("dnsperf", &server, &arguments, &questions).await else { return };
        has(&said, &["Queries sent: 2000", "Queries completed: 2000 (100.00%)", "Queries lost: 0 (0.00%)"]);
        has(&said, &["Response codes: NOERROR 2000 (100.00%)"]);
    }
}

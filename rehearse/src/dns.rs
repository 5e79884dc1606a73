//! A DNS server on loopback for one service of one private namespace, over UDP and TCP: the authority, or a resolver before
//! it.
//!
//! It asks its [`Source`] anew for each question, since what Cloud Map and a resolver's cache say depends on the moment and on
//! chance. What an answer looks like is decided in `reply`. It knows no other zone and no recursion.

mod reply;
mod source;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hickory_server::{
    net::{runtime::Time, xfer::Protocol},
    proto::{
        op::{Edns, HeaderCounts, Metadata, ResponseCode},
        serialize::binary::BinEncoder,
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::net::{TcpListener, UdpSocket};
use tracing::debug;

use self::reply::{Reply, Zone};
pub use self::source::{Authority, Order, Resolver, Source};

/// How long a connection may say nothing (RFC 7766, section 6.2.3: a few seconds).
const TCP_IDLE: Duration = Duration::from_secs(10);
/// How many answers may wait for a connection's client to read.
const TCP_ANSWERS: usize = 128;
/// What is sent over UDP at most, whatever a client takes: no fragments on an Ethernet, as on DNS Flag Day 2020.
const UDP_MOST: u16 = 1232;
/// How often a port that is free for TCP is asked for until it is free for UDP too.
const ATTEMPTS: usize = 64;

/// What the server is named in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Names {
    /// The service, such as `fsde-back`.
    pub service: String,
    /// The namespace, which is the zone, such as `internal`.
    pub namespace: String,
}

/// Whose place the server takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// The zone's own server: answers with authority, and does not recurse.
    Authority,
    /// A resolver: no authority, and recursion to be had.
    Resolver,
}

/// What is the same for all answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// Whose place it takes.
    pub role: Role,
    /// Which names it knows.
    pub names: Names,
    /// The port in SRV records.
    pub task_port: u16,
    /// The SOA record's last field, and its TTL where the source does not say.
    pub negative_ttl: Duration,
    /// How many of the service's seconds pass in one of the clients': their TTLs are shorter by that, in whole seconds.
    pub speed: f64,
}

/// A server. Closed when dropped.
pub struct Server {
    address: SocketAddr,
    _server: hickory_server::Server<Handler>,
}

impl Server {
    /// Listens on both UDP and TCP, on the same port, of its own choice if none is given. Runs on the Tokio runtime in which
    /// it is called.
    ///
    /// # Errors
    ///
    /// If there is no such address, the port is in use, or the names are none.
    pub fn start(bind: SocketAddr, terms: Terms, source: Arc<dyn Source>) -> io::Result<Self> {
        let (tcp, udp) = sockets(bind)?;
        let address = tcp.local_addr()?;
        let zone =
            Zone::new(terms, address.ip()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let mut server = hickory_server::Server::new(Handler { zone, source });
        server.register_socket(UdpSocket::from_std(udp)?);
        server.register_listener(TcpListener::from_std(tcp)?, TCP_IDLE, TCP_ANSWERS);
        Ok(Self { address, _server: server })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Sockets of both kinds with the same port.
fn sockets(bind: SocketAddr) -> io::Result<(std::net::TcpListener, std::net::UdpSocket)> {
    let mut attempts = if bind.port() == 0 { ATTEMPTS } else { 1 };
    loop {
        let tcp = std::net::TcpListener::bind(bind)?;
        attempts -= 1;
        match std::net::UdpSocket::bind(tcp.local_addr()?) {
            Ok(udp) => {
                tcp.set_nonblocking(true)?;
                udp.set_nonblocking(true)?;
                return Ok((tcp, udp));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

struct Handler {
    zone: Zone,
    source: Arc<dyn Source>,
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    // What does not parse has been answered FORMERR by then, and answers that somebody sends have been dropped.
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut handle: R) -> ResponseInfo {
        let mut reply = self.zone.reply(request, &*self.source);
        let edns = request.edns.as_ref().map(|theirs| {
            let mut ours = Edns::new();
            ours.set_max_payload(UDP_MOST).set_version(0).set_dnssec_ok(theirs.flags().dnssec_ok);
            ours
        });
        if request.protocol() == Protocol::Udp {
            // Hickory would cut in the middle of the records, and cut off OPT with them.
            reply = fitted(reply, request, edns.as_ref());
        }
        let response = MessageResponseBuilder::new(&request.queries, edns.as_ref()).build(
            reply.metadata,
            &reply.answers,
            &reply.authority,
            [],
            &reply.additional,
        );
        handle.send_response(response).await.unwrap_or_else(|error| {
            debug!(%error, "an answer is not sent: the client has gone");
            let mut metadata = Metadata::response_from_request(&request.metadata);
            metadata.response_code = ResponseCode::ServFail;
            hickory_server::proto::op::Header { metadata, counts: HeaderCounts::default() }.into()
        })
    }
}

/// As much of a reply as the client takes over UDP. Additional records can go without being missed; without the others it is
/// to ask again over TCP (RFC 2181, section 9).
fn fitted(mut reply: Reply, request: &Request, edns: Option<&Edns>) -> Reply {
    // At least 512 bytes, whatever it says, and if it says nothing (RFC 6891, section 6.2.3).
    let takes = request.max_payload().min(UDP_MOST);
    if size(&reply, request, edns) > takes.into() {
        reply.additional.clear();
        if size(&reply, request, edns) > takes.into() {
            reply.answers.clear();
            reply.authority.clear();
            reply.metadata.truncation = true;
        }
    }
    reply
}

/// How many bytes it takes. What does not even fit into a message takes more than any client does.
fn size(reply: &Reply, request: &Request, edns: Option<&Edns>) -> usize {
    let mut bytes = Vec::with_capacity(UDP_MOST.into());
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(u16::MAX);
    let written = MessageResponseBuilder::new(&request.queries, edns)
        .build(reply.metadata, &reply.answers, &reply.authority, [], &reply.additional)
        .destructive_emit(&mut encoder);
    if written.is_ok() { bytes.len() } else { usize::MAX }
}

//! The edge to DNS: one lookup at a time, in the background, no policy.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use hickory_resolver::{
    Resolver as Hickory, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, RecordType},
    },
};
use tokio::time::Instant;

use crate::{
    endpoints::{Answer, Target},
    error::Error,
};

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Records {
    /// Addresses, of tasks that all listen on this port.
    Addresses {
        /// The port.
        port: u16,
    },
    /// SRV records, which bring ports and weights (RFC 2782).
    Services,
}

/// Targets of SRV records that are looked up; more than any answer of a service discovery holds.
const MOST_SERVICES: usize = 64;

/// Looks the backend's name up.
pub struct Resolver {
    hickory: TokioResolver,
    name: Name,
    records: Records,
}

impl Resolver {
    /// A resolver for `name` that asks `servers`, or those of `/etc/resolv.conf` if there are none.
    ///
    /// # Errors
    ///
    /// [`Error::Name`] if the name is none, [`Error::Resolver`] if there is no server to ask.
    pub fn new(name: &str, records: Records, servers: &[SocketAddr], timeout: Duration) -> Result<Self, Error> {
        let parsed =
            Name::from_utf8(name).map_err(|error| Error::Name { name: name.to_owned(), reason: error.to_string() })?;
        let unusable = |error: NetError| Error::Resolver(error.to_string());
        let provider = TokioRuntimeProvider::default();
        let mut builder = if servers.is_empty() {
            Hickory::builder(provider).map_err(unusable)?
        } else {
            let servers = servers.iter().copied().map(name_server).collect();
            Hickory::builder_with_config(ResolverConfig::from_name_servers(servers), provider)
        };
        let options = builder.options_mut();
        // We keep answers ourselves, and each lookup must see what DNS says now.
        options.cache_size = 0;
        // Off unless resolv.conf says otherwise: answers above 512 bytes would each need TCP.
        options.edns0 = true;
        options.timeout = timeout;
        // Retries after the first attempt, so the server is asked twice.
        options.attempts = 1;
        Ok(Self { hickory: builder.build().map_err(unusable)?, name: parsed, records })
    }

    /// Asks once, retries included. A records, or AAAA records if there is none; or SRV records, and the addresses of their
    /// targets.
    pub async fn lookup(&self) -> Answer {
        match self.records {
            Records::Addresses { port } => self.addresses(&self.name, port, 1).await,
            Records::Services => self.services().await,
        }
    }

    /// The addresses of one name, each of this weight.
    async fn addresses(&self, name: &Name, port: u16, weight: u16) -> Answer {
        let found = |lookup: &Lookup| {
            let targets: Vec<_> = lookup
                .answers()
                .iter()
                .filter_map(|record| record.data.ip_addr())
                .map(|address| Target { address: SocketAddr::new(address, port), weight })
                .collect();
            of(targets, ttl(lookup))
        };
        match self.ask(name, RecordType::A, found).await {
            // Only if DNS says so: a name whose A records could not be had is not one without.
            answer @ Answer::Absent { .. } => match self.ask(name, RecordType::AAAA, found).await {
                Answer::Absent { .. } => answer,
                other @ (Answer::Addresses { .. } | Answer::Failed(_)) => other,
            },
            answer @ (Answer::Addresses { .. } | Answer::Failed(_)) => answer,
        }
    }

    /// The tasks that SRV records name. Of several priorities the first one counts: the others are for when it has nobody.
    async fn services(&self) -> Answer {
        let lookup = match self.hickory.lookup(self.name.clone(), RecordType::SRV).await {
            Ok(lookup) => lookup,
            Err(error) => return refused(&error),
        };
        let services: Vec<_> = lookup
            .answers()
            .iter()
            .filter_map(|record| if let RData::SRV(service) = &record.data { Some(service) } else { None })
            // A target of "." says that there is no such service.
            .filter(|service| !service.target.is_root())
            .collect();
        let first = services.iter().map(|service| service.priority).min();
        let of_first = services.iter().filter(|service| Some(service.priority) == first).take(MOST_SERVICES);
        let asked = of_first.map(|service| self.addresses(&service.target, service.port, service.weight));
        let (mut all, mut shortest, mut failure) = (Vec::new(), ttl(&lookup), None);
        for answer in join_all(asked).await {
            match answer {
                Answer::Addresses { targets, ttl } => {
                    all.extend(targets);
                    shortest = shortest.min(ttl);
                }
                // One that has just gone: its record has not yet.
                Answer::Absent { .. } => {}
                Answer::Failed(reason) => failure = Some(reason),
            }
        }
        match failure {
            // The others are there: better than none.
            Some(reason) if all.is_empty() => Answer::Failed(reason),
            Some(_) | None => of(all, shortest),
        }
    }

    async fn ask(&self, name: &Name, record_type: RecordType, found: impl Fn(&Lookup) -> Answer) -> Answer {
        match self.hickory.lookup(name.clone(), record_type).await {
            Ok(lookup) => found(&lookup),
            Err(error) => refused(&error),
        }
    }
}

fn of(targets: Vec<Target>, ttl: Duration) -> Answer {
    if targets.is_empty() { Answer::Absent { ttl: Some(ttl) } } else { Answer::Addresses { targets, ttl } }
}

fn ttl(lookup: &Lookup) -> Duration {
    lookup.valid_until().saturating_duration_since(Instant::now().into_std())
}

fn refused(error: &NetError) -> Answer {
    if let NetError::Dns(DnsError::NoRecordsFound(none)) = error
        && matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError)
    {
        return Answer::Absent { ttl: none.negative_ttl.map(|seconds| Duration::from_secs(seconds.into())) };
    }
    Answer::Failed(error.to_string())
}

/// A server that is asked over UDP, and over TCP if the answer is truncated.
fn name_server(address: SocketAddr) -> NameServerConfig {
    let on_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![on_port(ConnectionConfig::udp()), on_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

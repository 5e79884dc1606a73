//! The edge to DNS: one lookup at a time, in the background, no policy.

use std::{net::SocketAddr, time::Duration};

use hickory_resolver::{
    Resolver as Hickory, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RecordType},
    },
};
use tokio::time::Instant;

use crate::{
    endpoints::{Answer, Target},
    error::Error,
};

/// Looks the backend's name up.
pub struct Resolver {
    hickory: TokioResolver,
    name: Name,
    port: u16,
}

impl Resolver {
    /// A resolver for `name` that asks `servers`, or those of `/etc/resolv.conf` if there are none.
    ///
    /// # Errors
    ///
    /// [`Error::Name`] if the name is none, [`Error::Resolver`] if there is no server to ask.
    pub fn new(name: &str, port: u16, servers: &[SocketAddr], timeout: Duration) -> Result<Self, Error> {
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
        Ok(Self { hickory: builder.build().map_err(unusable)?, name: parsed, port })
    }

    /// Asks once, retries included. A records, or AAAA records if there is none.
    pub async fn lookup(&self) -> Answer {
        let answer = self.ask(RecordType::A).await;
        match answer {
            // Only if DNS says so: a name whose A records could not be had is not one without.
            Answer::Absent { .. } => match self.ask(RecordType::AAAA).await {
                Answer::Absent { .. } => answer,
                other @ (Answer::Addresses { .. } | Answer::Failed(_)) => other,
            },
            Answer::Addresses { .. } | Answer::Failed(_) => answer,
        }
    }

    async fn ask(&self, record_type: RecordType) -> Answer {
        match self.hickory.lookup(self.name.clone(), record_type).await {
            Ok(lookup) => self.addresses(&lookup),
            Err(NetError::Dns(DnsError::NoRecordsFound(none)))
                if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
            {
                Answer::Absent { ttl: none.negative_ttl.map(|seconds| Duration::from_secs(seconds.into())) }
            }
            Err(error) => Answer::Failed(error.to_string()),
        }
    }

    fn addresses(&self, lookup: &Lookup) -> Answer {
        let targets: Vec<_> = lookup
            .answers()
            .iter()
            .filter_map(|record| record.data.ip_addr())
            .map(|address| Target::new(SocketAddr::new(address, self.port)))
            .collect();
        let ttl = lookup.valid_until().saturating_duration_since(Instant::now().into_std());
        if targets.is_empty() { Answer::Absent { ttl: Some(ttl) } } else { Answer::Addresses { targets, ttl } }
    }
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

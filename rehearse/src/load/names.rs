//! The edge to DNS: one question over UDP, TCP if the answer is truncated; no cache, no search domains, A records alone.

use std::{net::SocketAddr, time::Duration};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, RecordType},
    },
};

use super::Error;
use crate::client::Answer;

/// Looks one name up, at one server.
pub(super) struct Names {
    hickory: TokioResolver,
    name: Name,
}

impl Names {
    pub(super) fn new(name: &str, server: SocketAddr, timeout: Duration) -> Result<Self, Error> {
        let mut parsed =
            Name::from_utf8(name).map_err(|error| Error::Name { name: name.to_owned(), reason: error.to_string() })?;
        // No search domains.
        parsed.set_fqdn(true);
        let on_port = |mut connection: ConnectionConfig| {
            connection.port = server.port();
            connection
        };
        let connections = vec![on_port(ConnectionConfig::udp()), on_port(ConnectionConfig::tcp())];
        let server = NameServerConfig::new(server.ip(), true, connections);
        let config = ResolverConfig::from_name_servers(vec![server]);
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        // As getaddrinfo asks, unless it is told otherwise.
        options.edns0 = false;
        options.timeout = timeout;
        // Retries after the first attempt, so the server is asked twice.
        options.attempts = 1;
        let hickory = builder.build().map_err(|error| Error::Resolver(error.to_string()))?;
        Ok(Self { hickory, name: parsed })
    }

    /// Asks. The TTL of the answer is in real time. Questions in the same moment share an answer: Hickory sends one.
    pub(super) async fn look_up(&self) -> Answer {
        let lookup = match self.hickory.lookup(self.name.clone(), RecordType::A).await {
            Ok(lookup) => lookup,
            Err(error) => return nothing(&error),
        };
        let mut answer = Answer::default();
        let mut ttl = None;
        for record in lookup.answers() {
            if let RData::A(address) = &record.data {
                answer.addresses.push(address.0);
            }
            // An alias ends the answer's time, too.
            ttl = Some(ttl.map_or(record.ttl, |ttl: u32| ttl.min(record.ttl)));
        }
        answer.ttl = Duration::from_secs(ttl.unwrap_or_default().into());
        if answer.addresses.is_empty() {
            answer.failure = Some(NO_DATA.to_owned());
        }
        answer
    }
}

/// What RFC 2308 calls a name that exists and has no record of the kind.
const NO_DATA: &str = "NODATA";

fn nothing(error: &NetError) -> Answer {
    let NetError::Dns(DnsError::NoRecordsFound(none)) = error else {
        return Answer { failure: Some(error.to_string()), ..Answer::default() };
    };
    let failure = if none.response_code == ResponseCode::NXDomain {
        "NXDOMAIN".to_owned()
    } else if none.response_code == ResponseCode::NoError {
        NO_DATA.to_owned()
    } else {
        none.response_code.to_string()
    };
    let ttl = Duration::from_secs(none.negative_ttl.unwrap_or_default().into());
    Answer { addresses: Vec::new(), failure: Some(failure), ttl }
}

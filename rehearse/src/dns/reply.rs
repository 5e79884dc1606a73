//! What a question is answered. Pure but for its source.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use hickory_server::{
    proto::{
        ProtoError,
        op::{LowerQuery, Metadata, OpCode, ResponseCode},
        rr::{
            DNSClass, LowerName, Name, RData, Record, RecordType,
            rdata::{A, AAAA, NS, SOA, SRV},
        },
    },
    server::Request,
};

use super::{Names, Role, Source, Terms};
use crate::zone::Answer;

/// What Route 53 writes into a SOA record, beside its TTLs: serial number, refresh, retry, expire.
///
/// Source: <https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/SOA-NSrecords.html>.
const SOA_NUMBERS: (u32, i32, i32, i32) = (1, 7200, 900, 1_209_600);
/// The TTL that Route 53 gives the NS record.
const NS_TTL: Duration = Duration::from_hours(48);
/// A TTL has 31 bits (RFC 2181, section 8).
const MOST_TTL: f64 = 2_147_483_647.0;

/// An answer but for its question and OPT, which are the request's.
pub(super) struct Reply {
    pub(super) metadata: Metadata,
    pub(super) answers: Vec<Record>,
    pub(super) authority: Vec<Record>,
    pub(super) additional: Vec<Record>,
}

/// The names of a zone with one service, and what their records have in common.
pub(super) struct Zone {
    terms: Terms,
    apex: LowerName,
    service: LowerName,
    server: LowerName,
    server_address: IpAddr,
}

/// Whose name is asked for.
enum Asked {
    Apex,
    Server,
    Service,
    Instance(Ipv4Addr),
    Nobody,
    OtherZone,
}

/// What is known of a name.
enum Found {
    /// It is there, with these records of the kind that was asked for, and these that help with them.
    Name {
        records: Vec<Record>,
        additional: Vec<Record>,
    },
    /// It is not there, and this is how long that may be kept.
    NoName(Duration),
    Error(ResponseCode),
}

impl Zone {
    /// `address` is the server's own.
    pub(super) fn new(terms: Terms, address: IpAddr) -> Result<Self, ProtoError> {
        let Names { service, namespace } = &terms.names;
        let mut apex = Name::from_ascii(namespace)?;
        apex.set_fqdn(true);
        let service = Name::parse(service, Some(&apex))?.into();
        let server = apex.prepend_label("ns")?.into();
        Ok(Self { apex: apex.into(), service, server, server_address: address, terms })
    }

    pub(super) fn reply(&self, request: &Request, source: &dyn Source) -> Reply {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        match self.terms.role {
            Role::Authority => {}
            Role::Resolver => metadata.recursion_available = true,
        }
        let (mut answers, mut authority, mut additional) = (vec![], vec![], vec![]);
        match self.find(request, source) {
            Found::Name { records, additional: helping } if !records.is_empty() => {
                (answers, additional) = (records, helping);
            }
            Found::Name { .. } => authority.push(self.soa(self.terms.negative_ttl)),
            Found::NoName(ttl) => {
                metadata.response_code = ResponseCode::NXDomain;
                authority.push(self.soa(ttl));
            }
            Found::Error(code) => metadata.response_code = code,
        }
        metadata.authoritative = self.terms.role == Role::Authority && !(answers.is_empty() && authority.is_empty());
        Reply { metadata, answers, authority, additional }
    }

    fn find(&self, request: &Request, source: &dyn Source) -> Found {
        if request.version() > 0 {
            return Found::Error(ResponseCode::BADVERS);
        }
        if request.metadata.op_code != OpCode::Query {
            return Found::Error(ResponseCode::NotImp);
        }
        let [query] = request.queries.queries() else { return Found::Error(ResponseCode::FormErr) };
        let kind = query.query_type();
        if query.query_class() != DNSClass::IN || kind == RecordType::AXFR || kind == RecordType::IXFR {
            return Found::Error(ResponseCode::Refused);
        }
        match self.asked(query.name()) {
            Asked::Apex => self.at_apex(query),
            Asked::Server => self.at_server(query),
            Asked::Service => self.at_service(query, source),
            Asked::Instance(address) => match self.known(source.instance(address)) {
                Ok((addresses, ttl)) => Found::Name { records: a_records(query, &addresses, ttl), additional: vec![] },
                Err(Found::NoName(_)) => Found::NoName(self.terms.negative_ttl),
                Err(error) => error,
            },
            Asked::Nobody => Found::NoName(self.terms.negative_ttl),
            Asked::OtherZone => Found::Error(ResponseCode::Refused),
        }
    }

    fn asked(&self, name: &LowerName) -> Asked {
        if !self.apex.zone_of(name) {
            Asked::OtherZone
        } else if *name == self.apex {
            Asked::Apex
        } else if *name == self.service {
            Asked::Service
        } else if *name == self.server {
            Asked::Server
        } else if name.base_name() == self.service {
            name.iter().next().and_then(address_of).map_or(Asked::Nobody, Asked::Instance)
        } else {
            Asked::Nobody
        }
    }

    fn at_apex(&self, query: &LowerQuery) -> Found {
        let mut records = Vec::new();
        let mut additional = Vec::new();
        if asks_for(query, RecordType::SOA) {
            records.push(self.soa(self.terms.negative_ttl));
        }
        if asks_for(query, RecordType::NS) {
            let (owner, ttl) = (query.original().name().clone(), self.wire(NS_TTL));
            records.push(Record::from_rdata(owner, ttl, RData::NS(NS((&self.server).into()))));
            additional.push(self.server_record((&self.server).into()));
        }
        Found::Name { records, additional }
    }

    fn at_server(&self, query: &LowerQuery) -> Found {
        let record = self.server_record(query.original().name().clone());
        let records = if asks_for(query, record.record_type()) { vec![record] } else { vec![] };
        Found::Name { records, additional: vec![] }
    }

    fn at_service(&self, query: &LowerQuery, source: &dyn Source) -> Found {
        let (addresses, ttl) = match self.known(source.answer()) {
            Ok(known) => known,
            Err(none) => return none,
        };
        let owner = query.original().name();
        let mut records = a_records(query, &addresses, ttl);
        let mut additional = Vec::new();
        if asks_for(query, RecordType::SRV) {
            for address in addresses {
                // A label of at most eighteen letters does not fit below a name of two hundred and forty only.
                let Ok(instance) = self.service.prepend_label(label_of(address)) else {
                    return Found::Error(ResponseCode::ServFail);
                };
                let srv = SRV::new(1, 1, self.terms.task_port, instance.clone());
                records.push(Record::from_rdata(owner.clone(), ttl, RData::SRV(srv)));
                additional.push(a(instance, ttl, address));
            }
        }
        Found::Name { records, additional }
    }

    /// Addresses, and their TTL for the client; or why there are none.
    fn known(&self, said: Option<Answer>) -> Result<(Vec<Ipv4Addr>, u32), Found> {
        match said {
            Some(Answer::Addresses { addresses, ttl }) => Ok((addresses, self.wire(ttl))),
            Some(Answer::NoName { ttl }) => Err(Found::NoName(ttl)),
            None => Err(Found::Error(ResponseCode::ServFail)),
        }
    }

    fn server_record(&self, owner: Name) -> Record {
        let data = match self.server_address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        Record::from_rdata(owner, self.wire(NS_TTL), data)
    }

    /// In the answer or, with what is left of the time for which "no" may be kept, beside none.
    fn soa(&self, left: Duration) -> Record {
        let (serial, refresh, retry, expire) = SOA_NUMBERS;
        let mailbox = self.apex.prepend_label("hostmaster").unwrap_or_else(|_| self.apex.clone().into());
        let least = self.wire(self.terms.negative_ttl);
        let data = SOA::new((&self.server).into(), mailbox, serial, refresh, retry, expire, least);
        Record::from_rdata((&self.apex).into(), self.wire(left), RData::SOA(data))
    }

    /// A TTL in the clients' seconds, which are whole ones. The authority rounds up, so that nothing is not to be kept at all. A
    /// resolver rounds what is left down, as resolvers do: nobody keeps an answer for longer than the resolver itself.
    fn wire(&self, ttl: Duration) -> u32 {
        // Without the microseconds a quotient such as 30 / 0.3 would come out above its whole number.
        let seconds = (ttl.as_secs_f64() / self.terms.speed * 1e6).round() / 1e6;
        let whole = match self.terms.role {
            Role::Authority => seconds.ceil().max(1.0),
            Role::Resolver => seconds.floor(),
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 2^31 - 1")]
        let whole = whole.min(MOST_TTL) as u32;
        whole
    }
}

fn a_records(query: &LowerQuery, addresses: &[Ipv4Addr], ttl: u32) -> Vec<Record> {
    let owner = query.original().name();
    let all = || addresses.iter().map(|address| a(owner.clone(), ttl, *address)).collect();
    if asks_for(query, RecordType::A) { all() } else { vec![] }
}

fn asks_for(query: &LowerQuery, kind: RecordType) -> bool {
    query.query_type() == kind || query.query_type() == RecordType::ANY
}

fn a(owner: Name, ttl: u32, address: Ipv4Addr) -> Record {
    Record::from_rdata(owner, ttl, RData::A(A(address)))
}

/// The name of an instance. Cloud Map's is a task's id; what tells tasks apart here is their address.
fn label_of(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("ip-{a}-{b}-{c}-{d}")
}

/// Lower case, as labels of a [`LowerName`] are.
fn address_of(label: &[u8]) -> Option<Ipv4Addr> {
    let label = str::from_utf8(label).ok()?.strip_prefix("ip-")?;
    if label.contains('.') { None } else { label.replace('-', ".").parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(speed: f64) -> Zone {
        zone_of(Role::Authority, speed)
    }

    fn zone_of(role: Role, speed: f64) -> Zone {
        let names = Names { service: "fsde-back".to_owned(), namespace: "internal".to_owned() };
        let negative_ttl = Duration::from_mins(5);
        let terms = Terms { role, names, task_port: 1235, negative_ttl, speed };
        Zone::new(terms, Ipv4Addr::LOCALHOST.into()).unwrap()
    }

    #[test]
    fn a_ttl_is_in_the_clients_seconds_rounded_up_and_never_zero() {
        let wire = |seconds, speed| zone(speed).wire(Duration::from_secs_f64(seconds));
        assert_eq!([wire(60.0, 1.0), wire(60.0, 10.0), wire(59.9, 10.0), wire(60.1, 10.0)], [60, 6, 6, 7]);
        assert_eq!([wire(3.0, 10.0), wire(0.0, 1.0), wire(1e15, 0.5)], [1, 1, 2_147_483_647]);
        assert_eq!([wire(30.0, 0.3), wire(2.1, 0.7)], [100, 3], "despite of binary fractions");
    }

    #[test]
    fn a_resolver_tells_no_more_than_what_is_left() {
        let wire = |seconds, speed| zone_of(Role::Resolver, speed).wire(Duration::from_secs_f64(seconds));
        assert_eq!([wire(60.0, 10.0), wire(59.9, 10.0), wire(9.9, 10.0)], [6, 5, 0]);
        assert_eq!([wire(30.0, 0.3), wire(2.1, 0.7), wire(1e15, 0.5)], [100, 3, 2_147_483_647]);
    }

    #[test]
    fn an_instance_is_named_after_its_address_in_one_way_only() {
        let address = Ipv4Addr::new(127, 0, 1, 3);
        assert_eq!(label_of(address), "ip-127-0-1-3");
        assert_eq!(address_of(b"ip-127-0-1-3"), Some(address));
        for other in ["127-0-1-3", "ip-127-0-1", "ip-127-0-1-03", "ip-127.0.1.3", "ip-127-0-1-256", "ip-", "\u{e9}"] {
            assert_eq!(address_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for (service, namespace) in [("a..b", "internal"), ("fsde-back", "a..b"), (&"a".repeat(64) as &str, "internal")]
        {
            let names = Names { service: service.to_owned(), namespace: namespace.to_owned() };
            let terms = Terms { names, ..zone(1.0).terms };
            assert!(Zone::new(terms, Ipv4Addr::LOCALHOST.into()).is_err(), "{service}.{namespace}");
        }
    }
}

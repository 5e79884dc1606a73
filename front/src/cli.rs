//! The command line and its environment variables.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use clap::Parser;
use console::{
    dns_server, duration,
    log::{self, LogFormat},
};
use hyper::{Uri, header::HeaderValue};
use service::admin;
use tracing::level_filters::LevelFilter;

use crate::{
    backend::Protocol,
    endpoints::{Balance, Policy},
};

/// Passes every request on to one of the tasks behind a DNS name, and survives records that are stale.
///
/// GET /health is front's own; everything else goes to the backend. The name is looked up in the background; each
/// request chooses among all addresses; an address that refuses is passed over. SIGUSR1: every answer says Connection:
/// close. SIGTERM or SIGINT: no new connections, requests in flight are finished, exit 0. Exit 125: it could not
/// start.
#[derive(Clone, Debug, Parser)]
#[command(name = "front", version = console::VERSION, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// Where to listen. Port 0 takes a free port and logs it.
    #[arg(long, env = "FRONT_LISTEN", value_name = "IP:PORT", default_value = "0.0.0.0:1234")]
    pub listen: SocketAddr,

    /// Where to answer those who run front: /metrics, /debug/endpoints, /ready, /health [default: nowhere].
    ///
    /// A port alone is one of the loopback interface. What is said there is not for callers: do not publish it.
    #[arg(long, env = "FRONT_ADMIN_LISTEN", value_name = "[IP:]PORT", value_parser = admin::address)]
    pub admin_listen: Option<SocketAddr>,

    /// Where requests go: http://NAME:PORT, whose A records (AAAA if there is none) are the tasks; `srv+http://NAME`,
    /// whose SRV records name them with port and weight; or `http://IP:PORT`.
    ///
    /// A name that does not exist yet is no error: front answers 503 until it does.
    #[arg(long, env = "FRONT_BACKEND", value_name = "URL")]
    pub backend: BackendUrl,

    /// What the tasks speak. Callers may speak either, whatever this is.
    ///
    /// gRPC needs h2c; WebSocket, and leave to send a body (Expect: 100-continue), need http1.
    #[arg(long, env = "FRONT_BACKEND_PROTOCOL", value_name = "PROTOCOL", value_enum, default_value_t)]
    pub backend_protocol: Protocol,

    /// A DNS server to ask [default: those of /etc/resolv.conf]. May be repeated, or separated by commas.
    #[arg(long, env = "FRONT_RESOLVER", value_name = "IP[:PORT]", value_delimiter = ',', value_parser = dns_server::parse)]
    pub resolver: Vec<SocketAddr>,

    /// How long a DNS server may take to answer; it is asked twice.
    #[arg(long, env = "FRONT_DNS_TIMEOUT", value_name = "DURATION", value_parser = duration::positive, default_value = "1s")]
    pub dns_timeout: Duration,

    /// An answer is used at least this long, whatever its TTL. Too short: a TTL of 0 floods the DNS server.
    #[arg(long, env = "FRONT_DNS_MIN_TTL", value_name = "DURATION", value_parser = duration::parse, default_value = "1s")]
    pub dns_min_ttl: Duration,

    /// An answer is used at most this long, whatever its TTL.
    ///
    /// Too long: new tasks get no requests, and those that ended get them still. Docker's own DNS says 600s.
    #[arg(long, env = "FRONT_DNS_MAX_TTL", value_name = "DURATION", value_parser = duration::parse, default_value = "10s")]
    pub dns_max_ttl: Duration,

    /// How long the last good answer is used while DNS does not answer. After that front answers 503.
    #[arg(long, env = "FRONT_DNS_STALE_MAX", value_name = "DURATION", value_parser = duration::parse, default_value = "5m")]
    pub dns_stale_max: Duration,

    /// How long the last good answer is used while DNS says that the name has no address. After that front answers
    /// 503.
    #[arg(long, env = "FRONT_DNS_ABSENT_GRACE", value_name = "DURATION", value_parser = duration::parse, default_value = "30s")]
    pub dns_absent_grace: Duration,

    /// How long a connection to a task may take before another task is tried.
    ///
    /// Too short: a lost packet costs a task its turn. Too long: requests wait on tasks whose address is gone.
    #[arg(long, env = "FRONT_CONNECT_TIMEOUT", value_name = "DURATION", value_parser = duration::positive, default_value = "500ms")]
    pub connect_timeout: Duration,

    /// An answer with exactly this many addresses is a sample of them: Cloud Map never gives more than eight. 0: none is.
    ///
    /// Addresses that a sample leaves out stay for three TTLs, at least 30s, or until they fail. Where DNS gives all
    /// addresses, set it to 0, or a service of just eight tasks keeps the ended ones for as long.
    #[arg(long, env = "FRONT_DNS_SAMPLE", value_name = "COUNT", default_value = "8")]
    pub dns_sample: usize,

    /// Who gets the next request.
    #[arg(long, env = "FRONT_BALANCE", value_name = "HOW", value_enum, default_value_t)]
    pub balance: Balance,

    /// How long an address that failed is passed over, at first; each further failure doubles it. 0 tries it again at once.
    #[arg(long, env = "FRONT_SET_ASIDE", value_name = "DURATION", value_parser = duration::parse, default_value = "5s")]
    pub set_aside: Duration,

    /// How long an address that fails again and again is passed over at the most. Too long: a task that is well again waits
    /// for its requests.
    #[arg(long, env = "FRONT_SET_ASIDE_MAX", value_name = "DURATION", value_parser = duration::parse, default_value = "1m")]
    pub set_aside_max: Duration,

    /// If more than this share of the addresses is set aside, all are used: so many failures are rather the network's, and
    /// the few that are left would get everything. 100: only if all are set aside.
    #[arg(long, env = "FRONT_PANIC_PERCENT", value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100), default_value = "50")]
    pub panic_percent: u8,

    /// After how many answers of 500 and above in a row an address is set aside [default: never].
    ///
    /// Not asked for, such an answer is the application's business. Too low: one bad request takes tasks away.
    #[arg(long, env = "FRONT_EJECT_5XX", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub eject_5xx: Option<u32>,

    /// At most this share of the addresses is set aside for such answers.
    #[arg(long, env = "FRONT_EJECT_5XX_PERCENT", value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100), default_value = "50")]
    pub eject_5xx_percent: u8,

    /// How many requests may be in flight at once. One more is refused with 503 at once.
    ///
    /// Too low: requests are refused that the tasks would have answered. Too high: while tasks hang, front's memory grows.
    #[arg(long, env = "FRONT_MAX_IN_FLIGHT", value_name = "COUNT", value_parser = in_flight, default_value = "1024")]
    pub max_in_flight: usize,

    /// How many connections callers may have. One more is answered with 503 and closed.
    ///
    /// Too low: callers are sent away. Too high: where descriptors or memory end first, all of them suffer.
    #[arg(long, env = "FRONT_MAX_CONNECTIONS", value_name = "COUNT", value_parser = attempts, default_value = "4096")]
    pub max_connections: usize,

    /// How long a caller's connection may be idle before it is closed. Longer than the load balancer before front keeps its own
    /// (an AWS one: 60s), or it sends requests on connections that front is closing.
    #[arg(long, env = "FRONT_CALLER_IDLE_TIMEOUT", value_name = "DURATION", value_parser = duration::positive, default_value = "75s")]
    pub caller_idle_timeout: Duration,

    /// How long the head of a request may take, from its first byte on. Of HTTP/2 it may take as long as a connection may be
    /// idle. Too long: who sends them slowly keeps connections busy for little.
    #[arg(long, env = "FRONT_HEAD_TIMEOUT", value_name = "DURATION", value_parser = duration::positive, default_value = "10s")]
    pub head_timeout: Duration,

    /// How long a body may bring nothing, in either direction, and how long a caller may take nothing of an answer, before
    /// the request is given up. 0: for ever.
    ///
    /// Too short: streams that are silent now and then are cut off. Too long: those that nobody sends on are kept.
    #[arg(long, env = "FRONT_BODY_IDLE_TIMEOUT", value_name = "DURATION", value_parser = duration::parse, default_value = "1m")]
    pub body_idle_timeout: Duration,

    /// How long a body that waits to be asked for (Expect: 100-continue) is withheld from a task that does not ask. Many never
    /// do. Too long: requests to those take as much longer.
    #[arg(long, env = "FRONT_CONTINUE_TIMEOUT", value_name = "DURATION", value_parser = duration::parse, default_value = "1s")]
    pub continue_timeout: Duration,

    /// How long a WebSocket, or another protocol that was switched to, may be silent in both directions before it is closed.
    /// 0: for ever. Each counts as a request in flight.
    #[arg(long, env = "FRONT_TUNNEL_IDLE_TIMEOUT", value_name = "DURATION", value_parser = duration::parse, default_value = "1h")]
    pub tunnel_idle_timeout: Duration,

    /// How long a request may take until its answer begins, over all attempts. After that front answers 504.
    #[arg(long, env = "FRONT_REQUEST_TIMEOUT", value_name = "DURATION", value_parser = duration::positive, default_value = "10s")]
    pub request_timeout: Duration,

    /// How long one task may take to answer before another is asked beside it, where asking twice is safe: idempotent methods
    /// without a body, or with one of 64 KiB at most. The first answer wins.
    ///
    /// Too short: slow requests are done twice, as far as the retry budget goes. Too long: they wait on a task that hangs.
    #[arg(long, env = "FRONT_ANSWER_TIMEOUT", value_name = "DURATION", value_parser = duration::parse, default_value = "3s")]
    pub answer_timeout: Duration,

    /// How long a request waits for DNS to name another task, if none of those that it names can be connected to. All of them
    /// are asked again with each answer, and at the end.
    ///
    /// Too short: where all tasks are replaced at once, requests fail. Too long: while there are none, requests pile up as
    /// far as --max-in-flight allows. 0: not at all.
    #[arg(long, env = "FRONT_WAIT_FOR_TASK", value_name = "DURATION", value_parser = duration::parse, default_value = "2s")]
    pub wait_for_task: Duration,

    /// To how many addresses one request may go, those that could not be connected to included. 1: no retry at all, as clients
    /// without one do.
    #[arg(long, env = "FRONT_MAX_ATTEMPTS", value_name = "COUNT", value_parser = attempts, default_value = "1024")]
    pub max_attempts: usize,

    /// How many requests may be sent to a second task after the first may have seen them: these percent of the requests of the
    /// last ten seconds, and --retry-per-second more. What was not sent is retried free of this.
    ///
    /// Too high: tasks that are slow for want of power get more to do.
    #[arg(long, env = "FRONT_RETRY_PERCENT", value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100), default_value = "20")]
    pub retry_percent: u32,

    /// How many requests may be sent to a second task each second, however few there are.
    #[arg(long, env = "FRONT_RETRY_PER_SECOND", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(0..=100_000), default_value = "10")]
    pub retry_per_second: u32,

    /// How long what was sent to a task may stay unacknowledged, counted from the first retransmission (after about 0.4s), before
    /// its connection is given up. 0: as long as the kernel likes, which is a quarter of an hour.
    ///
    /// Too short: where the network stutters for that long, requests that must not be repeated fail. Too long: requests wait on
    /// a task whose address is gone.
    #[arg(long, env = "FRONT_TCP_USER_TIMEOUT", value_name = "DURATION", value_parser = duration::parse, default_value = "150ms")]
    pub tcp_user_timeout: Duration,

    /// How long an idle connection to a task is kept. Keep it below the task's own limit, or requests are sent on
    /// connections that it is closing. 0 makes a new connection for every request.
    #[arg(long, env = "FRONT_IDLE_TIMEOUT", value_name = "DURATION", value_parser = duration::parse, default_value = "30s")]
    pub idle_timeout: Duration,

    /// How long a connection to a task is used at all, more or less a tenth.
    ///
    /// Too short: requests wait for new connections. Too long: whatever lies between front and its tasks, and spreads
    /// connections, sees few new ones.
    #[arg(long, env = "FRONT_CONNECTION_MAX_AGE", value_name = "DURATION", value_parser = duration::parse, default_value = "5m")]
    pub connection_max_age: Duration,

    /// How long requests in flight may take to finish after a stop signal. Those that take longer are cut off and
    /// counted in the log.
    #[arg(long, env = "FRONT_DRAIN_TIMEOUT", value_name = "DURATION", value_parser = duration::parse, default_value = "20s")]
    pub drain_timeout: Duration,

    /// How log lines look. They go to stderr.
    #[arg(long, env = "FRONT_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// The least level that is logged: off, error, warn, info, debug or trace.
    ///
    /// Requests are logged at info, health checks and attempts that failed at debug. At trace libraries tell of
    /// their own insides, too: many lines for each of ours.
    #[arg(long, env = "FRONT_LOG_LEVEL", value_name = "LEVEL", value_parser = log::level, default_value = "info")]
    pub log_level: LevelFilter,
}

const AFTER_HELP: &str = "Durations take units (30s, 1m30s, 250ms); a bare number is seconds.";

impl Cli {
    /// The knobs of the endpoints.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            min_ttl: self.dns_min_ttl.min(self.dns_max_ttl),
            max_ttl: self.dns_max_ttl,
            stale_max: self.dns_stale_max,
            absent_grace: self.dns_absent_grace,
            sample: self.dns_sample,
            set_aside: self.set_aside,
            set_aside_max: self.set_aside_max,
            panic_percent: self.panic_percent,
            eject_5xx: self.eject_5xx,
            eject_5xx_percent: self.eject_5xx_percent,
            balance: self.balance,
        }
    }
}

fn attempts(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "expected a number from 1 on".to_owned())
}

fn in_flight(text: &str) -> Result<usize, String> {
    let most = tokio::sync::Semaphore::MAX_PERMITS;
    text.parse()
        .ok()
        .filter(|count| (1..=most).contains(count))
        .ok_or_else(|| format!("expected a number from 1 to {most}"))
}

/// Where requests go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendUrl {
    /// Who answers.
    pub host: Host,
    /// On which port.
    pub port: u16,
    /// Both, as a `Host` header has them.
    pub authority: HeaderValue,
}

/// The host of a backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Host {
    /// A name to be looked up.
    Name(String),
    /// A name whose SRV records name the tasks and their ports.
    Service(String),
    /// One address, for ever.
    Address(IpAddr),
}

impl FromStr for BackendUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected a URL such as http://fsde-back.internal:1235";
        let url: Uri = text.parse().map_err(|error| format!("{error}: {EXPECTED}"))?;
        let is_service = match url.scheme_str() {
            Some("http") => false,
            Some("srv+http") => true,
            Some(_) | None => return Err(format!("it begins neither with http:// nor with srv+http://: {EXPECTED}")),
        };
        if url.path_and_query().is_some_and(|rest| rest.as_str() != "/") {
            return Err(format!("it has a path, and each request brings its own: {EXPECTED}"));
        }
        let authority = url.authority().ok_or(EXPECTED)?;
        if authority.as_str().contains('@') {
            return Err(format!("it has a user name, which front does not send: {EXPECTED}"));
        }
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = match bare.parse() {
            Ok(_) if is_service => return Err(format!("an address has no SRV records: {EXPECTED}")),
            Ok(address) => Host::Address(address),
            Err(_) if bare.is_empty() => return Err(format!("it has no host: {EXPECTED}")),
            Err(_) if is_service => Host::Service(bare.to_owned()),
            Err(_) => Host::Name(bare.to_owned()),
        };
        let port = match (authority.port_u16(), authority.as_str().rsplit_once(':')) {
            (Some(_), _) if is_service => return Err(format!("SRV records bring the port: {EXPECTED}")),
            (Some(0), _) => return Err(format!("port 0 is nobody's: {EXPECTED}")),
            (Some(port), _) => port,
            // "name:" and "name:99999", which the parser lets pass.
            (None, Some((_, port))) if !port.contains(']') => return Err(format!("{port:?} is no port: {EXPECTED}")),
            (None, _) => 80,
        };
        let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| EXPECTED)?;
        Ok(Self { host, port, authority })
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Service(name) => write!(f, "srv+http://{name}"),
            Host::Name(name) => write!(f, "http://{name}:{}", self.port),
            Host::Address(address) => write!(f, "http://{}", SocketAddr::new(*address, self.port)),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent_and_every_flag_has_an_environment_variable() {
        Cli::command().debug_assert();
        for argument in Cli::command().get_arguments() {
            let Some(long) = argument.get_long() else { continue };
            if !["help", "version"].contains(&long) {
                let expected = format!("FRONT_{}", long.replace('-', "_").to_uppercase());
                assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(expected.as_str()));
            }
        }
    }

    #[test]
    fn a_backend_is_a_name_or_an_address_with_a_port() {
        let parse = |text: &str| text.parse::<BackendUrl>().unwrap();
        let name = parse("http://fsde-back.internal:1235/");
        assert_eq!((name.host, name.port), (Host::Name("fsde-back.internal".to_owned()), 1235));
        assert_eq!(parse("http://back").port, 80);
        let service = parse("srv+http://_http._tcp.back.internal");
        assert_eq!(service.host, Host::Service("_http._tcp.back.internal".to_owned()));
        assert_eq!(service.to_string(), "srv+http://_http._tcp.back.internal");
        assert_eq!(parse("http://[::1]:1235").host, Host::Address("::1".parse().unwrap()));
        assert_eq!(parse("http://[::1]").port, 80);
        assert_eq!(parse("http://127.0.0.1:1235").to_string(), "http://127.0.0.1:1235");
    }

    #[test]
    fn what_is_no_backend_is_refused_with_an_example() {
        for text in [
            "",
            "back:1235",
            "https://back:1235",
            "srv+http://back:80",
            "srv+http://10.0.0.7",
            "http://back:1235/api",
            "http://user@back:1235",
            "http://back:",
            "http://back:99999",
            "http://back:0",
            "http://:1235",
        ] {
            let error = text.parse::<BackendUrl>().unwrap_err();
            assert!(error.contains("such as http://"), "{text:?}: {error}");
        }
    }

    #[test]
    fn clamps_that_cross_are_no_panic() {
        let cli = ["front", "--backend", "http://back", "--dns-min-ttl", "20s", "--dns-max-ttl", "2s"];
        let policy = Cli::try_parse_from(cli).unwrap().policy();
        assert!(policy.min_ttl <= policy.max_ttl);
    }
}

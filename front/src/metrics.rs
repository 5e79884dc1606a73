//! What front counts, in the text format that Prometheus reads.
//!
//! Labels are bounded: addresses come from DNS and go with it, methods are those of the standard, all else is a list of
//! ours.

use std::{
    fmt::{self, Write},
    net::SocketAddr,
    time::Duration,
};

use hyper::{Method, StatusCode};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use tokio::time::Instant;

use crate::{
    endpoints::{Answer, Endpoint, Endpoints},
    retry::Failure,
};

/// The upper bounds of the latency histogram in seconds: finer where a service in the same network answers, coarser up to the
/// deadline.
const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RequestLabels {
    code: u16,
    method: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct AddressLabel {
    address: Address,
}

/// Made into text when somebody reads the metrics, not at each request.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Address(SocketAddr);

impl EncodeLabelValue for Address {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        write!(encoder, "{}", self.0)
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct StateLabel {
    state: &'static str,
}

/// Why a request was sent to another task.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Retry {
    /// The task before could not be asked or did not answer.
    Failed,
    /// It took long.
    Late,
    /// Its address failed for another request.
    AddressFailed,
    /// All that there were had been asked in vain.
    NobodyLeft,
}

/// All counters. Shared by whoever counts.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<AddressLabel, Histogram>,
    attempts: Family<ResultLabel, Counter>,
    retries: Family<ReasonLabel, Counter>,
    budget_spent: Counter,
    connections: Counter,
    lookups: Family<ResultLabel, Counter>,
    set_aside: Counter,
    endpoints: Family<StateLabel, Gauge>,
    in_flight: Gauge,
    answer_age: Gauge<f64, std::sync::atomic::AtomicU64>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(SECONDS);
        let mut metrics = Self {
            registry: Registry::with_prefix("front"),
            requests: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            attempts: Family::default(),
            retries: Family::default(),
            budget_spent: Counter::default(),
            connections: Counter::default(),
            lookups: Family::default(),
            set_aside: Counter::default(),
            endpoints: Family::default(),
            in_flight: Gauge::default(),
            answer_age: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "requests",
            "Requests by what was answered; 499: the caller went away",
            metrics.requests.clone(),
        );
        let help = "From a request to the end of its answer, by the address that answered";
        registry.register_with_unit("request_duration", help, Unit::Seconds, metrics.seconds.clone());
        registry.register("attempts", "Requests to tasks by how they ended", metrics.attempts.clone());
        registry.register("retries", "Requests to another task by why", metrics.retries.clone());
        registry.register(
            "retry_budget_spent",
            "Requests that the budget did not let go to another task",
            metrics.budget_spent.clone(),
        );
        registry.register("connections", "Connections to tasks that were made", metrics.connections.clone());
        registry.register("dns_lookups", "Lookups by what they brought", metrics.lookups.clone());
        registry.register("set_aside", "Times that an address was set aside", metrics.set_aside.clone());
        registry.register("endpoints", "Addresses known now", metrics.endpoints.clone());
        registry.register(
            "in_flight",
            "Requests that tasks have and have not answered in full",
            metrics.in_flight.clone(),
        );
        let help = "Since DNS gave addresses last; -1 before it did, and for an address that needs none";
        registry.register_with_unit("dns_answer_age", help, Unit::Seconds, metrics.answer_age.clone());
        metrics
    }
}

impl Metrics {
    /// A request has ended: with this answer, or none; from this address, or from us.
    pub fn request(&self, method: &Method, code: u16, address: Option<SocketAddr>, took: Duration) {
        self.requests.get_or_create(&RequestLabels { code, method: known(method) }).inc();
        if let Some(address) = address {
            self.seconds.get_or_create(&label(address)).observe(took.as_secs_f64());
        }
    }

    /// An attempt has ended: with an answer of this status, or with a failure.
    pub fn attempt(&self, result: Result<StatusCode, Failure>) {
        let result = match result {
            Ok(status) if status.is_server_error() => "5xx",
            Ok(_) => "ok",
            Err(Failure::NotConnected) => "not_connected",
            Err(Failure::NotSent) => "not_sent",
            Err(Failure::Refused) => "refused",
            Err(Failure::NoAnswer) => "no_answer",
            Err(Failure::LateBody) => "late_request_body",
            Err(Failure::BadBody) => "bad_request_body",
            Err(Failure::Garbage) => "garbage",
            Err(Failure::TimedOut) => "timed_out",
        };
        self.attempts.get_or_create(&ResultLabel { result }).inc();
    }

    /// A request goes to another task.
    pub fn retry(&self, reason: Retry) {
        let reason = match reason {
            Retry::Failed => "failed",
            Retry::Late => "late",
            Retry::AddressFailed => "address_failed",
            Retry::NobodyLeft => "nobody_left",
        };
        self.retries.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// It would, but for the budget.
    pub fn budget_spent(&self) {
        self.budget_spent.inc();
    }

    /// A connection to a task has been made.
    pub fn connected(&self) {
        self.connections.inc();
    }

    /// A lookup has ended.
    pub fn lookup(&self, answer: &Answer) {
        let result = match answer {
            Answer::Addresses { .. } => "addresses",
            Answer::Absent { .. } => "absent",
            Answer::Failed(_) => "failed",
        };
        self.lookups.get_or_create(&ResultLabel { result }).inc();
    }

    /// These addresses are used no more: nor are their labels.
    pub fn forget(&self, removed: &[SocketAddr]) {
        for address in removed {
            self.seconds.remove(&label(*address));
        }
    }

    /// All of it as text, with what is known of the addresses now.
    #[must_use]
    pub fn text(&self, endpoints: &Endpoints, now: Instant) -> String {
        let now = now.into_std();
        let count = |is: fn(&Endpoint, std::time::Instant) -> bool| {
            i64::try_from(endpoints.known().iter().filter(|endpoint| is(endpoint, now)).count()).unwrap_or(i64::MAX)
        };
        let state = |state| self.endpoints.get_or_create(&StateLabel { state });
        state("in_use").set(count(|endpoint, now| !endpoint.is_set_aside(now)));
        state("set_aside").set(count(Endpoint::is_set_aside));
        state("not_in_last_answer").set(count(|endpoint, _| !endpoint.is_named));
        let in_flight: usize = endpoints.known().iter().map(|endpoint| endpoint.in_flight).sum();
        self.in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
        self.answer_age.set(endpoints.good_at().map_or(-1.0, |at| now.saturating_duration_since(at).as_secs_f64()));
        self.set_aside.inner().store(endpoints.times_set_aside(), std::sync::atomic::Ordering::Relaxed);
        let mut text = String::new();
        // Fails only if the text cannot grow.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn label(address: SocketAddr) -> AddressLabel {
    AddressLabel { address: Address(address) }
}

/// A method of RFC 9110 or PATCH; callers may invent others, without end.
fn known(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| method.as_str() == *known).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_said_and_an_address_that_is_gone_leaves_no_label() {
        let metrics = Metrics::default();
        let address: SocketAddr = ([10, 0, 0, 7], 1235).into();
        metrics.request(&Method::GET, 200, Some(address), Duration::from_millis(3));
        metrics.request(&Method::from_bytes(b"BREW").unwrap(), 499, None, Duration::ZERO);
        metrics.attempt(Err(Failure::NotConnected));
        metrics.retry(Retry::Late);
        metrics.lookup(&Answer::Absent { ttl: None });
        let now = Instant::now();
        let endpoints = Endpoints::fixed(crate::endpoints::tests::POLICY, address, now.into_std());
        let text = metrics.text(&endpoints, now);
        for line in [
            "front_requests_total{code=\"200\",method=\"GET\"} 1",
            "front_requests_total{code=\"499\",method=\"other\"} 1",
            "front_request_duration_seconds_bucket{le=\"0.005\",address=\"10.0.0.7:1235\"} 1",
            "front_attempts_total{result=\"not_connected\"} 1",
            "front_retries_total{reason=\"late\"} 1",
            "front_dns_lookups_total{result=\"absent\"} 1",
            "front_endpoints{state=\"in_use\"} 1",
            "front_in_flight 0",
            "front_dns_answer_age_seconds -1.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        metrics.forget(&[address]);
        assert!(!metrics.text(&endpoints, now).contains("10.0.0.7"));
    }
}

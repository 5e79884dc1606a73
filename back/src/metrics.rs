//! What back counts, in the text format that Prometheus reads. Health checks are apart, so that they do not count as load.

use std::time::Duration;

use hyper::StatusCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// The upper bounds of the latency histogram in seconds.
const SECONDS: [f64; 11] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RequestLabels {
    code: u16,
    kind: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct FaultLabel {
    fault: &'static str,
}

/// All counters.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Histogram,
    in_flight: Gauge,
    faults: Family<FaultLabel, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("back");
        let requests = Family::default();
        let seconds = Histogram::new(SECONDS);
        let (in_flight, faults) = (Gauge::default(), Family::default());
        registry.register("requests", "Requests answered, by kind: request or health_check", requests.clone());
        let help = "How long it took until an answer began, health checks not counted";
        registry.register_with_unit("request_duration", help, Unit::Seconds, seconds.clone());
        registry.register("in_flight", "Requests that wait for their answer", in_flight.clone());
        registry.register("faults", "Requests that a fault has hit", faults.clone());
        Self { registry, requests, seconds, in_flight, faults }
    }
}

/// A request that waits for its answer, until this is dropped.
#[derive(Debug)]
pub struct Waiting(Gauge);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// A request has come.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        self.in_flight.inc();
        Waiting(self.in_flight.clone())
    }

    /// A request is answered so.
    pub fn answered(&self, status: StatusCode, is_health_check: bool, took: Duration) {
        let kind = if is_health_check { "health_check" } else { "request" };
        self.requests.get_or_create(&RequestLabels { code: status.as_u16(), kind }).inc();
        if !is_health_check {
            self.seconds.observe(took.as_secs_f64());
        }
    }

    /// A fault has hit a request.
    pub fn fault(&self, fault: &'static str) {
        self.faults.get_or_create(&FaultLabel { fault }).inc();
    }

    /// All of it as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Fails only if the text cannot grow.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

//! What front tells those who run it: metrics, what it knows of each address, and whether it is ready. Not for callers.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use service::{
    admin::{JSON, METRICS, TEXT, said},
    phase::Phase,
};
use tokio::{sync::watch, time::Instant};

use crate::{discovery::Discovery, endpoints::Endpoint, metrics::Metrics};

/// All that is needed to answer.
#[derive(Debug)]
pub struct Admin {
    /// Which addresses there are.
    pub discovery: Arc<Discovery>,
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// Whether callers are welcome.
    pub phase: watch::Receiver<Phase>,
}

impl Admin {
    /// Answers one request.
    pub fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return said(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET is allowed\n".to_owned());
        }
        let now = Instant::now();
        match request.uri().path() {
            "/metrics" => {
                let text = self.metrics.text(&self.discovery.endpoints(), now);
                said(StatusCode::OK, METRICS, text)
            }
            "/debug/endpoints" => {
                let known = self.discovery.endpoints().known().iter().map(|endpoint| in_json(endpoint, now)).collect();
                said(StatusCode::OK, JSON, format!("{}\n", serde_json::Value::Array(known)))
            }
            "/health" => said(StatusCode::OK, TEXT, "healthy\n".to_owned()),
            "/ready" => match self.objection() {
                None => said(StatusCode::OK, TEXT, "ready\n".to_owned()),
                Some(why) => said(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {why}\n")),
            },
            _ => said(
                StatusCode::NOT_FOUND,
                TEXT,
                "there are /metrics, /debug/endpoints, /ready and /health\n".to_owned(),
            ),
        }
    }

    fn objection(&self) -> Option<&'static str> {
        if *self.phase.borrow() != Phase::Serving {
            return Some("it has been told that it is to be stopped");
        }
        self.discovery.endpoints().empty().map(|_| "the backend's name has no address")
    }
}

fn in_json(endpoint: &Endpoint, now: Instant) -> serde_json::Value {
    let now = now.into_std();
    let left = endpoint.set_aside_until.map(|until| until.saturating_duration_since(now).as_secs_f64());
    json!({
        "address": endpoint.address.to_string(),
        "weight": endpoint.weight,
        "in_flight": endpoint.in_flight,
        "in_use": !endpoint.is_set_aside(now),
        "set_aside_for_seconds": left.filter(|left| *left > 0.0),
        "set_aside_times": endpoint.set_aside_times,
        "errors_in_a_row": endpoint.errors,
        "in_last_answer": endpoint.is_named,
        "seen_seconds_ago": now.saturating_duration_since(endpoint.seen_at).as_secs_f64(),
    })
}

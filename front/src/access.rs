//! One log line for each request, written when its answer has been sent or has failed.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use console::log::write_json;
use hyper::{Method, Request, StatusCode, header::HeaderValue};
use serde::Serialize;
use tokio::time::Instant;
use tracing::info;

use crate::metrics::Metrics;

/// The status in the log for a caller that went away before an answer began. No such answer is sent; the number is
/// the one that nginx uses.
const CALLER_GONE: u16 = 499;

/// The longest text of somebody else's in a line, in bytes.
const LONGEST: usize = 512;

/// How the answer ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// All of it was handed over.
    Answered,
    /// The task ended the connection in the middle of the body, and so did we.
    CutOff,
    /// Nothing came, from the task or from either side of a tunnel, for too long.
    Stalled,
    /// The caller closed the connection first.
    CallerGone,
}

impl Outcome {
    const fn words(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::CutOff => "cut off by the task",
            Self::Stalled => "nothing came for too long",
            Self::CallerGone => "the caller went away",
        }
    }
}

/// What is known of a request. The line is logged when it is dropped.
#[derive(Debug)]
pub struct Access {
    metrics: Arc<Metrics>,
    started: Instant,
    caller: IpAddr,
    method: Method,
    path: String,
    id: HeaderValue,
    /// What was answered, if anything.
    pub status: Option<StatusCode>,
    /// Who answered, by its own account.
    pub task_id: Option<String>,
    /// The address that answered.
    pub address: Option<SocketAddr>,
    /// How many addresses were asked.
    pub attempts: usize,
    /// The bytes of the body that were handed over.
    pub bytes: usize,
    /// How it ended.
    pub outcome: Outcome,
    /// Why no task's answer was passed on.
    pub cause: Option<String>,
}

impl Access {
    /// The line for `request`, which has just arrived.
    pub fn new<B>(request: &Request<B>, caller: IpAddr, id: &HeaderValue, metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            started: Instant::now(),
            caller,
            method: request.method().clone(),
            path: shortened(request.uri().path()).to_owned(),
            id: id.clone(),
            status: None,
            task_id: None,
            address: None,
            attempts: 0,
            bytes: 0,
            outcome: Outcome::CallerGone,
            cause: None,
        }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let status = self.status.map_or(CALLER_GONE, |status| status.as_u16());
        let took = self.started.elapsed();
        self.metrics.request(&self.method, status, self.address, took);
        let id = String::from_utf8_lossy(self.id.as_bytes());
        let line = Line {
            status,
            task_id: self.task_id.as_deref().map(shortened),
            address: self.address,
            attempts: self.attempts,
            method: shortened(self.method.as_str()),
            path: &self.path,
            request_id: shortened(&id),
            caller: self.caller,
            bytes: self.bytes,
            duration_ms: (took.as_secs_f64() * 1e6).round() / 1e3,
            cause: self.cause.as_deref(),
            outcome: self.outcome.words(),
        };
        if !write_json("request", &line) {
            line.tell();
        }
    }
}

/// What somebody else has chosen, so short that a line stays whole: a pipe takes 4,096 bytes at once.
fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST)]
}

/// The line of a request. Fields without a value are left out.
#[derive(Serialize)]
struct Line<'a> {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
    attempts: usize,
    method: &'a str,
    path: &'a str,
    request_id: &'a str,
    caller: IpAddr,
    bytes: usize,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    outcome: &'static str,
}

impl Line<'_> {
    /// For people, who see fewer of them.
    fn tell(&self) {
        info!(
            status = self.status,
            task_id = self.task_id,
            address = self.address.map(tracing::field::display),
            attempts = self.attempts,
            method = self.method,
            path = self.path,
            request_id = self.request_id,
            caller = %self.caller,
            bytes = self.bytes,
            duration_ms = self.duration_ms,
            cause = self.cause,
            outcome = self.outcome,
            "request"
        );
    }
}

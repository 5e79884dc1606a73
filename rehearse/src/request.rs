//! What happened to one request of the load, as its client saw it. Pure.

use std::{net::Ipv4Addr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::record::seconds;

/// One request, from when it should have been sent to its end.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Request {
    /// Whose it is: an index into [`crate::record::Record::clients`].
    pub client: usize,
    /// When it should have been sent. Latency counts from here, so that a slow answer cannot hide behind requests that were
    /// not sent meanwhile.
    #[serde(with = "seconds")]
    pub intended: Duration,
    /// When it was sent.
    #[serde(with = "seconds")]
    pub sent: Duration,
    /// When its answer was complete, or its failure known.
    #[serde(with = "seconds")]
    pub done: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// Who answered, by the `x-task-id` of the answer, or else by the address that it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Where the answer came from. None where the client asks a front, which knows better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// What DNS had told the client. None where the client leaves that to a front, unless the front
    /// says that it had no address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookup: Option<Lookup>,
    /// Attempts that failed, in their order; a request that was answered may have some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
}

impl Request {
    /// Whether the caller got what it had asked for.
    #[must_use]
    pub fn is_good(&self) -> bool {
        matches!(self.outcome, Outcome::Answered { status } if status < 500)
    }
}

/// How a request ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With a whole answer.
    Answered {
        /// Its status.
        status: u16,
    },
    /// Without one.
    Failed {
        /// What failed at last, in words.
        cause: String,
    },
}

/// An answer of DNS that a client acted on.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Lookup {
    /// In the order in which the client had them.
    pub addresses: Vec<Ipv4Addr>,
    /// When the client asked for it, or took it from its own cache.
    #[serde(with = "seconds")]
    pub at: Duration,
    /// What DNS said instead of addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// An attempt that failed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Attempt {
    /// At whom.
    pub address: Ipv4Addr,
    /// When it was over.
    #[serde(with = "seconds")]
    pub at: Duration,
    /// How.
    pub failure: Failure,
    /// On a connection that had served before.
    pub was_reused: bool,
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Nobody listens there.
    Refused,
    /// No connection was made in time.
    Unreachable,
    /// The connection ended before an answer began.
    NoAnswer,
    /// The connection ended within the answer.
    CutOff,
    /// No answer came in time.
    TimedOut,
    /// It failed in another way.
    Other,
}

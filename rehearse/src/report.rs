//! What a person, or a pipeline, gets of a rehearsal: answers, figures and pictures. Pure: whoever runs it writes the files.

pub mod html;
pub mod json;
mod markup;
mod plot;
pub mod summary;
pub mod sweep;
pub mod text;
pub mod words;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::record::{Record, seconds};

/// All of a rehearsal. `report.json` is this, described in `report-schema.md`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// What its fields mean.
    pub schema: Schema,
    /// The version of the program that wrote it.
    pub version: String,
    /// The command line that led to it.
    pub command: String,
    /// When it began, as RFC 3339 has it.
    pub started: String,
    /// It was stopped before its end: what follows is what was seen until then.
    pub was_interrupted: bool,
    /// Where it ran.
    pub machine: Machine,
    /// What was asked, and what came out.
    pub answers: Vec<Answer>,
    /// What was done to find out.
    pub runs: Vec<Judged>,
}

/// The only schema that this version writes and reads.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Schema;

impl Schema {
    /// Its name. The number goes up when a field changes its meaning or goes; new fields may come without.
    pub const NAME: &str = "lameduck.rehearse/1";
}

impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Self::NAME)
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        expect_schema(deserializer, "a report", Self::NAME).map(|()| Self)
    }
}

/// Passes over the name of the one schema that can be read.
fn expect_schema<'de, D: Deserializer<'de>>(deserializer: D, what: &str, wanted: &str) -> Result<(), D::Error> {
    let name = String::deserialize(deserializer)?;
    if name == wanted {
        return Ok(());
    }
    Err(D::Error::custom(format_args!("this is {what} of schema {name:?}; only {wanted:?} can be read")))
}

/// The machine of a rehearsal: figures of two of them cannot be compared.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Machine {
    /// The kernel and its release.
    pub system: String,
    /// Such as `x86_64`.
    pub architecture: String,
    /// The name of its processor.
    pub processor: String,
    /// How many cores could be used.
    pub cores: usize,
    /// How much memory there was, in MiB.
    pub memory_mib: u64,
}

/// A question that a rehearsal was to answer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Answer {
    /// As a person would ask it.
    pub question: String,
    /// In a sentence, with figures.
    pub answer: String,
    /// What should come out, and why.
    pub expectation: String,
    /// Whether that came out.
    pub held: bool,
    /// The figures, as pairs of name and value.
    pub rows: Vec<(String, String)>,
}

/// A run, and why its requests failed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Judged {
    /// What happened.
    pub record: Record,
    /// For each request of the record why it failed, in one word such as `stale-all-dead`. None for those that did not.
    pub causes: Vec<Option<String>>,
    /// What the clients of each profile saw, in the order in which the record names the profiles.
    pub summaries: Vec<Summary>,
}

/// What the clients of one profile saw in a run.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Summary {
    /// The clients' profile.
    pub profile: String,
    /// How many requests they had to send.
    pub requests: u64,
    /// How many of them failed.
    pub failed: u64,
    /// How many failed for each cause.
    pub by_cause: BTreeMap<String, u64>,
    /// How long the requests of one client kept failing, at worst: see [`Judged::new`].
    #[serde(with = "seconds")]
    pub longest_failing: Duration,
    /// From when a request should have been sent to its end, of those that did not fail.
    pub latency: Quantiles,
    /// How much later than they should requests were sent. Where this is not small beside the latency, the machine was too
    /// slow for the load, and nothing is known of the service.
    pub lateness: Quantiles,
}

/// How long something took: half of the cases, nine of ten, 99 of 100, and all of them took no longer.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Quantiles {
    /// The median.
    #[serde(with = "seconds")]
    pub p50: Duration,
    /// The 90th percentile.
    #[serde(with = "seconds")]
    pub p90: Duration,
    /// The 99th percentile.
    #[serde(with = "seconds")]
    pub p99: Duration,
    /// The longest.
    #[serde(with = "seconds")]
    pub max: Duration,
}

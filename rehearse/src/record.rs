//! All that is known of a run: what is judged, reported, and written to `report.json`. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{request::Request, timeline::Event};

/// A run of one service under load.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Record {
    /// What it shows, in a few words.
    pub title: String,
    /// The settings it ran with, as pairs of name and value, in an order that reads well.
    pub settings: Vec<(String, String)>,
    /// How many of its seconds passed in one.
    pub speed: f64,
    /// Who sent requests.
    pub clients: Vec<Client>,
    /// What happened to tasks and records.
    pub events: Vec<Event>,
    /// What happened to requests, in the order in which they should have been sent.
    pub requests: Vec<Request>,
    /// How long it took.
    #[serde(with = "seconds")]
    pub length: Duration,
}

/// A client of a run.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Client {
    /// Its kind, such as `try-next`, `first-only` or `front`: those of one kind are judged together.
    pub profile: String,
    /// Which one of its kind, such as `cache phase 3/8`. Empty where there is one.
    pub name: String,
}

/// Durations as numbers of seconds.
pub mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes it, to the microsecond.
    ///
    /// # Errors
    ///
    /// The serializer's own.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e6)
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// If it is no number of seconds.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

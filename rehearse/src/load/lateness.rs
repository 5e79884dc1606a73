//! How far the load generator itself was behind.

use std::time::Duration;

use hdrhistogram::Histogram;

/// How late requests were sent, in real time. It tells an overloaded rehearsal machine from a slow service.
#[derive(Clone, Debug)]
pub struct Lateness {
    /// In microseconds.
    histogram: Histogram<u64>,
}

/// The longest lateness that is told apart from a longer one: an hour.
const MOST: Duration = Duration::from_hours(1);

impl Default for Lateness {
    fn default() -> Self {
        let most = micros(MOST);
        Self { histogram: Histogram::new_with_max(most, 3).expect("an hour at three digits is within its bounds") }
    }
}

impl Lateness {
    /// Adds a request.
    pub fn add(&mut self, lateness: Duration) {
        self.histogram.saturating_record(micros(lateness));
    }

    /// How many requests were sent.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// At least this share of all requests was not later than this, to three digits. `at(0.99)` is the 99th percentile.
    #[must_use]
    pub fn at(&self, share: f64) -> Duration {
        Duration::from_micros(self.histogram.value_at_quantile(share))
    }

    /// The latest of all.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.histogram.max())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_counts_and_the_late_ones_are_at_the_end() {
        let mut lateness = Lateness::default();
        for micros in 1..=98 {
            lateness.add(Duration::from_micros(micros));
        }
        lateness.add(Duration::from_millis(7));
        lateness.add(Duration::from_hours(2));
        assert_eq!(lateness.count(), 100);
        assert_eq!(lateness.at(0.5), Duration::from_micros(50));
        let near = |found: Duration, right: Duration| found.abs_diff(right) < right / 500;
        assert!(near(lateness.at(0.99), Duration::from_millis(7)), "{:?}", lateness.at(0.99));
        assert!(near(lateness.max(), MOST), "{:?}", lateness.max());
    }
}

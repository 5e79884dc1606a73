//! What the clients of each profile saw, counted from their requests.

use std::time::Duration;

use super::{Judged, Quantiles, Summary};
use crate::{record::Record, request::Request};

/// Failures of one client that are no further apart than this belong together: a client that takes turns among addresses
/// has answers between them while some of its addresses are dead.
const APART: Duration = Duration::from_secs(5);

/// More than this between when requests should have been sent and when they were, in one of a hundred cases and in the time of
/// the machine, and it is too slow for the load. It is far below what a caller would notice.
pub const LATE: Duration = Duration::from_millis(5);

/// The same in the time of a service that lives so fast.
pub(super) fn late(speed: f64) -> Duration {
    LATE.mul_f64(speed.max(1.0))
}

impl Judged {
    /// Sums a run up.
    ///
    /// The longest failing span is, over all clients of a profile, the longest time from when a failed request should have been
    /// sent to the end of a later one, with never more than five seconds from one failed request to the next.
    ///
    /// `causes` are those of the record's requests, in their order; a request beyond them has none.
    #[must_use]
    pub fn new(record: Record, mut causes: Vec<Option<String>>) -> Self {
        causes.resize(record.requests.len(), None);
        let mut counts: Vec<Count> = Vec::new();
        let mut of_client = Vec::with_capacity(record.clients.len());
        for client in &record.clients {
            let place = counts.iter().position(|count| count.summary.profile == client.profile);
            of_client.push(place.unwrap_or(counts.len()));
            if place.is_none() {
                counts.push(Count::new(&client.profile));
            }
        }
        let mut streaks: Vec<Option<Streak>> = vec![None; record.clients.len()];
        for (request, cause) in record.requests.iter().zip(&causes) {
            // A client that the record does not name belongs to no profile.
            let Some(&profile) = of_client.get(request.client) else { continue };
            counts[profile].add(request, cause.as_deref(), &mut streaks[request.client]);
        }
        let summaries = counts.into_iter().map(Count::sum).collect();
        Self { record, causes, summaries }
    }

    /// How many requests there were, and how many of them failed.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        self.summaries
            .iter()
            .fold((0, 0), |(requests, failed), summary| (requests + summary.requests, failed + summary.failed))
    }
}

/// Failures of one client that belong together.
#[derive(Clone, Copy)]
struct Streak {
    first: Duration,
    last: Duration,
}

struct Count {
    summary: Summary,
    latency: Vec<Duration>,
    lateness: Vec<Duration>,
}

impl Count {
    fn new(profile: &str) -> Self {
        let summary = Summary { profile: profile.to_owned(), ..Summary::default() };
        Self { summary, latency: Vec::new(), lateness: Vec::new() }
    }

    fn add(&mut self, request: &Request, cause: Option<&str>, streak: &mut Option<Streak>) {
        let summary = &mut self.summary;
        summary.requests += 1;
        self.lateness.push(request.sent.saturating_sub(request.intended));
        if request.is_good() {
            self.latency.push(request.done.saturating_sub(request.intended));
            return;
        }
        summary.failed += 1;
        *summary.by_cause.entry(cause.unwrap_or("unknown").to_owned()).or_default() += 1;
        let first = match *streak {
            Some(Streak { first, last }) if request.intended.saturating_sub(last) <= APART => first,
            Some(_) | None => request.intended,
        };
        *streak = Some(Streak { first, last: request.intended });
        summary.longest_failing = summary.longest_failing.max(request.done.saturating_sub(first));
    }

    fn sum(mut self) -> Summary {
        self.summary.latency = quantiles(self.latency);
        self.summary.lateness = quantiles(self.lateness);
        self.summary
    }
}

fn quantiles(mut values: Vec<Duration>) -> Quantiles {
    values.sort_unstable();
    // The nearest rank: a value that was seen, never one between two.
    let at = |percent: usize| {
        let rank = (values.len() * percent).div_ceil(100);
        values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    };
    Quantiles { p50: at(50), p90: at(90), p99: at(99), max: at(100) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{record::Client, request::Outcome};

    fn request(client: usize, second: u64, status: u16) -> Request {
        let intended = Duration::from_secs(second);
        Request {
            client,
            intended,
            sent: intended + Duration::from_millis(2),
            done: intended + Duration::from_millis(10),
            outcome: Outcome::Answered { status },
            task: None,
            address: None,
            lookup: None,
            attempts: Vec::new(),
        }
    }

    fn judged(clients: &[&str], requests: Vec<Request>) -> Judged {
        let clients =
            clients.iter().map(|&profile| Client { profile: profile.to_owned(), name: String::new() }).collect();
        let causes = requests.iter().map(|request| (!request.is_good()).then(|| "app-error".to_owned())).collect();
        Judged::new(Record { clients, requests, ..Record::default() }, causes)
    }

    #[test]
    fn clients_of_one_profile_are_counted_together_and_the_others_apart() {
        let judged = judged(&["a", "b", "a"], vec![request(0, 0, 200), request(1, 0, 500), request(2, 1, 500)]);
        let seen: Vec<_> = judged.summaries.iter().map(|it| (it.profile.as_str(), it.requests, it.failed)).collect();
        assert_eq!(seen, [("a", 2, 1), ("b", 1, 1)]);
        assert_eq!(judged.summaries[0].by_cause["app-error"], 1);
        assert_eq!(judged.totals(), (3, 2));
    }

    #[test]
    fn a_failing_span_goes_on_through_answers_but_not_over_more_than_five_seconds() {
        let failed = [0, 5, 10, 16].map(|second| request(0, second, 500));
        let judged = judged(&["a"], failed.into_iter().chain([request(0, 7, 200)]).collect());
        assert_eq!(judged.summaries[0].longest_failing, Duration::from_millis(10_010));
    }

    #[test]
    fn a_failing_span_is_that_of_one_client() {
        let judged = judged(&["a", "a"], vec![request(0, 0, 500), request(1, 4, 500), request(0, 4, 200)]);
        assert_eq!(judged.summaries[0].longest_failing, Duration::from_millis(10));
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let of = |count: u64| quantiles((1..=count).rev().map(Duration::from_secs).collect());
        let secs = Duration::from_secs;
        assert_eq!(of(200), Quantiles { p50: secs(100), p90: secs(180), p99: secs(198), max: secs(200) });
        assert_eq!(of(1), Quantiles { p50: secs(1), p90: secs(1), p99: secs(1), max: secs(1) });
        assert_eq!(of(0), Quantiles::default());
    }

    #[test]
    fn lateness_is_counted_apart_from_latency_which_contains_it() {
        let judged = judged(&["a"], vec![request(0, 0, 200)]);
        assert_eq!(judged.summaries[0].lateness.max, Duration::from_millis(2));
        assert_eq!(judged.summaries[0].latency.max, Duration::from_millis(10));
    }

    #[test]
    fn a_failed_request_without_a_cause_is_counted_as_unknown() {
        let record = Record {
            clients: vec![Client { profile: "a".to_owned(), name: String::new() }],
            requests: vec![request(0, 0, 500)],
            ..Record::default()
        };
        assert_eq!(Judged::new(record, Vec::new()).summaries[0].by_cause["unknown"], 1);
    }
}

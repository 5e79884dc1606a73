//! Causes and quantities as a person reads them.

use std::time::Duration;

/// What a cause means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Explanation {
    /// What happened.
    pub what: &'static str,
    /// What would have helped.
    pub helps: &'static str,
}

/// What is meant by a cause such as `stale-all-dead`. One that is not known is explained as `unknown`.
#[must_use]
pub fn explain(cause: &str) -> Explanation {
    let (what, helps) = match cause {
        "stale-all-dead" => (
            "Every address in the DNS answer that the client held was that of a task which was gone.",
            "No retry helps, because there is nobody else in the answer. Keep a stopping task serving until no cache can name \
             it any more: run it under init, with a drain of at least the record's TTL. A shorter TTL shortens the failure, \
             and does not end it.",
        ),
        "stale-first-dead" => (
            "The client asked the first address of its DNS answer only, and that task was gone, while another task in the \
             same answer was there.",
            "Try the next address when a connection cannot be made, as front does; and keep stopping tasks serving for \
             a TTL, as init does.",
        ),
        "pinned-closed" => (
            "The client kept to a connection that it had used before, and the task closed it as it stopped.",
            "Let a stopping task answer with “Connection: close” while it still serves (init --drain-signal tells it when), \
             and send what may be sent twice again on a new connection, as front does.",
        ),
        "app-error" => (
            "The task was there, and answered with a status of 500 or above, or broke its answer off.",
            "This is the task's own failure, not the deployment's. A health check that asks for the same thing finds the \
             task; the time until it is replaced depends on the check's interval and retries.",
        ),
        "killed-in-flight" => (
            "The task was told to stop, or was killed, or ended by itself, while it was answering.",
            "Finish what is in flight before exiting on SIGTERM, and make the stop timeout longer than the drain and the \
             longest request together.",
        ),
        "no-address" => (
            "DNS named no task, or did not answer.",
            "Keep the last good answer when a lookup fails, as front does; and let the minimum healthy percent leave tasks in \
             service during a deployment.",
        ),
        "timed-out" => (
            "There was no connection, or no answer, within the client's time limit.",
            "Look at the latency and at how many requests a task had at a time; a time limit for connecting that is shorter \
             than the one for answering leaves time to ask another task.",
        ),
        "wrong-service" => (
            "The address was that of a task which was gone, and another service had got it and answered.",
            "Keep a stopping task serving until no cache can name it any more, so that nobody else gets its address before;              and have callers look at who answers, by a certificate or a header.",
        ),
        "not-yet-listening" => (
            "DNS named a task whose process did not listen yet: ECS registers a task before it runs.",
            "Try the next address when a connection is refused, as front does; and make the process listen sooner after its \
             start.",
        ),
        _ => (
            "None of the reasons that are looked for fits.",
            "The request, its attempts and what DNS had said are in report.json, beside what happened to the tasks.",
        ),
    };
    Explanation { what, helps }
}

/// A number with its thousands apart.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time of a run, to a tenth of a second.
#[must_use]
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// A latency, to three digits or so.
#[must_use]
pub fn latency(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1e3;
    match millis {
        _ if duration.is_zero() => "–".to_owned(),
        ..1.0 => format!("{:.0} µs", millis * 1e3),
        ..10.0 => format!("{millis:.1} ms"),
        ..1000.0 => format!("{millis:.0} ms"),
        _ => format!("{:.2} s", millis / 1e3),
    }
}

/// A part of a whole in percent; what is not nothing is never written as nothing.
#[must_use]
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    #[expect(clippy::cast_precision_loss, reason = "a tenth of a percent of it is shown")]
    let percent = part as f64 * 100.0 / whole as f64;
    match percent {
        0.0 => "0%".to_owned(),
        ..0.05 => "<0.1%".to_owned(),
        99.95.. if part < whole => ">99.9%".to_owned(),
        _ => format!("{percent:.1}%"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::verdict::Cause;

    #[test]
    fn quantities_read_well_at_every_size() {
        assert_eq!([0, 7, 1_000, 12_345_678].map(count), ["0", "7", "1,000", "12,345,678"]);
        assert_eq!(
            [(0, 9), (1, 9), (1, 100_000), (99_999, 100_000), (9, 9), (0, 0)].map(|(a, b)| share(a, b)),
            ["0%", "11.1%", "<0.1%", ">99.9%", "100.0%", "–"]
        );
        assert_eq!(
            [0, 12, 1_240, 62_400, 3_456_000].map(|it| latency(Duration::from_micros(it))),
            ["–", "12 µs", "1.2 ms", "62 ms", "3.46 s"]
        );
    }

    #[test]
    fn each_cause_has_words_of_its_own() {
        let explained: HashSet<&str> = Cause::ALL.iter().map(|cause| explain(&cause.to_string()).what).collect();
        assert_eq!(explained.len(), Cause::ALL.len());
        assert_eq!(explain("unknown"), explain("something else"));
    }
}

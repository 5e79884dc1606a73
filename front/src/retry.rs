//! Whether a request that got no answer may be sent again. Pure.

use std::time::Instant;

/// How an attempt ended without an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failure {
    /// No connection could be made: nothing was sent.
    NotConnected,
    /// The connection ended before the request was written: nothing was sent.
    NotSent,
    /// The connection ended after the request, or a part of it, was written and before an answer began. The task may
    /// have acted on it.
    NoAnswer,
    /// The task says that it has not acted on the request, though it was sent: it is leaving (HTTP/2 only).
    Refused,
    /// The caller's own body stalled. No task can help that.
    LateBody,
    /// The caller's own body broke off or was malformed. No task can help that.
    BadBody,
    /// The answer was no HTTP. The task has acted on the request.
    Garbage,
    /// No answer began in time. The task may still be acting on it.
    TimedOut,
}

impl Failure {
    /// Whether a task may have seen any of the request.
    #[must_use]
    pub const fn may_have_been_sent(self) -> bool {
        match self {
            Self::NotConnected | Self::NotSent | Self::Refused => false,
            Self::NoAnswer | Self::LateBody | Self::BadBody | Self::Garbage | Self::TimedOut => true,
        }
    }
}

/// To how many tasks one request may be sent. A request that ends the task it is sent to must not end them all.
pub const MOST_SENT: usize = 3;

/// Whether the request may be sent again, to another address, when `sent` tasks may have seen it.
///
/// What was not sent may be sent again whatever it asks for. What may have been acted upon may be only if acting twice
/// is the same as acting once (RFC 9110, section 9.2.2), and if there is no body or it is still here to be sent again.
#[must_use]
pub const fn may_retry(failure: Failure, is_idempotent: bool, is_replayable: bool, sent: usize) -> bool {
    match failure {
        Failure::NotConnected | Failure::NotSent => true,
        Failure::Refused => is_replayable,
        Failure::NoAnswer => is_idempotent && is_replayable && sent < MOST_SENT,
        // Asking for more of the same would double the load on tasks that are late already; and the deadline is here.
        Failure::TimedOut | Failure::Garbage | Failure::LateBody | Failure::BadBody => false,
    }
}

/// How many requests may be sent a second time: an outage must not be made worse by asking twice. What was not sent does
/// not count, as it has cost the tasks nothing.
#[derive(Clone, Copy, Debug)]
pub struct BudgetPolicy {
    /// These percent of the requests of the last ten seconds.
    pub percent: u32,
    /// And this many a second in any case, so that a service with few requests has some.
    pub per_second: u32,
}

/// Seconds that the budget looks back.
const WINDOW: usize = 10;

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    requests: u64,
    retries: u64,
}

/// What is left of the budget.
#[derive(Clone, Debug)]
pub struct Budget {
    policy: BudgetPolicy,
    started: Instant,
    /// The last seconds, each at its number modulo their count.
    seconds: [Second; WINDOW],
    /// The number of the newest one.
    newest: u64,
}

impl Budget {
    /// Nothing has been asked yet.
    #[must_use]
    pub fn new(policy: BudgetPolicy, now: Instant) -> Self {
        Self { policy, started: now, seconds: [Second::default(); WINDOW], newest: 0 }
    }

    /// A request has come.
    pub fn request(&mut self, now: Instant) {
        self.second(now).requests += 1;
    }

    /// Whether one more may be sent a second time; if so it counts.
    pub fn take(&mut self, now: Instant) -> bool {
        self.second(now);
        let sum = |of: fn(&Second) -> u64| self.seconds.iter().map(of).sum::<u64>();
        let allowed = sum(|second| second.requests) * u64::from(self.policy.percent) / 100
            + u64::from(self.policy.per_second) * WINDOW as u64;
        let is_left = sum(|second| second.retries) < allowed;
        self.second(now).retries += u64::from(is_left);
        is_left
    }

    /// The second that it is `now`; those that have passed since the last call begin anew.
    fn second(&mut self, now: Instant) -> &mut Second {
        let number = now.saturating_duration_since(self.started).as_secs();
        for passed in 1..=number.saturating_sub(self.newest).min(WINDOW as u64) {
            self.seconds[place(self.newest + passed)] = Second::default();
        }
        if number.saturating_sub(self.newest) >= WINDOW as u64 {
            self.seconds = [Second::default(); WINDOW];
        }
        self.newest = self.newest.max(number);
        &mut self.seconds[place(self.newest)]
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number % WINDOW as u64).expect("it is below the window")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_not_sent_is_retried_whatever_it_asks_for() {
        for failure in [Failure::NotConnected, Failure::NotSent] {
            for (idempotent, replayable) in [(false, false), (false, true), (true, false), (true, true)] {
                assert!(may_retry(failure, idempotent, replayable, 2));
            }
        }
    }

    #[test]
    fn what_may_have_been_acted_upon_is_retried_only_if_twice_is_once() {
        assert!(may_retry(Failure::NoAnswer, true, true, 1));
        assert!(!may_retry(Failure::NoAnswer, false, true, 1));
        assert!(!may_retry(Failure::NoAnswer, true, false, 1));
    }

    #[test]
    fn what_was_not_written_was_not_sent() {
        for failure in [Failure::NotConnected, Failure::NotSent] {
            assert!(!failure.may_have_been_sent());
        }
        for failure in [Failure::NoAnswer, Failure::BadBody, Failure::Garbage, Failure::TimedOut] {
            assert!(failure.may_have_been_sent());
        }
    }

    #[test]
    fn a_request_that_ends_its_tasks_does_not_end_them_all() {
        assert!(may_retry(Failure::NoAnswer, true, true, 2));
        assert!(!may_retry(Failure::NoAnswer, true, true, 3));
    }

    #[test]
    fn what_was_answered_badly_or_late_is_not_retried() {
        for failure in [Failure::Garbage, Failure::TimedOut, Failure::BadBody] {
            assert!(!may_retry(failure, true, true, 1));
        }
    }

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn taken(budget: &mut Budget, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.take(now)).count()
    }

    #[test]
    fn the_budget_is_a_share_of_the_requests_and_a_little_more() {
        let now = tokio::time::Instant::now().into_std();
        let mut budget = Budget::new(BudgetPolicy { percent: 20, per_second: 2 }, now);
        assert_eq!(taken(&mut budget, now), 20);
        (0..1000).for_each(|_| budget.request(now + secs(3)));
        assert_eq!(taken(&mut budget, now + secs(4)), 200);
        assert_eq!(taken(&mut budget, now + secs(9)), 0);
        // The first second is forgotten, and with it what was taken then.
        assert_eq!(taken(&mut budget, now + secs(10)), 20);
        // The requests of the fourth count no more, nor what was taken since.
        assert_eq!(taken(&mut budget, now + secs(21)), 20);
        assert_eq!(taken(&mut budget, now + secs(4_000)), 20);
        // A clock that was read before another's is no new second.
        assert_eq!(taken(&mut budget, now), 0);
    }

    #[test]
    fn without_a_budget_nothing_is_sent_twice() {
        let now = tokio::time::Instant::now().into_std();
        let mut budget = Budget::new(BudgetPolicy { percent: 0, per_second: 0 }, now);
        budget.request(now);
        assert!(!budget.take(now));
    }

    /// Whatever comes when: within ten seconds never more than the share and the rest.
    #[test]
    fn the_budget_holds_in_every_window() {
        let mut random = fastrand::Rng::with_seed(1);
        let start = tokio::time::Instant::now().into_std();
        let mut budget = Budget::new(BudgetPolicy { percent: 20, per_second: 3 }, start);
        let (mut now, mut requests, mut retries) = (start, Vec::new(), Vec::new());
        for _ in 0..5_000 {
            now += Duration::from_millis(random.u64(..200));
            let second = now.duration_since(start).as_secs();
            if random.u8(..3) == 0 {
                if budget.take(now) {
                    retries.push(second);
                }
            } else {
                budget.request(now);
                requests.push(second);
            }
            let within = |seconds: &Vec<u64>, last| seconds.iter().filter(|at| **at + last > second).count();
            // A request may have left the window since a retry was allowed for it.
            assert!(within(&retries, 10) <= within(&requests, 20) / 5 + 30);
        }
        assert!(retries.len() > 300, "{}", retries.len());
    }
}

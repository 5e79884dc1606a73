//! Whether a request that got no answer may be sent again. Pure.

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
            Self::NotConnected | Self::NotSent => false,
            Self::NoAnswer | Self::BadBody | Self::Garbage | Self::TimedOut => true,
        }
    }
}

/// To how many tasks one request may be sent. A request that ends the task it is sent to must not end them all.
const MOST_SENT: usize = 3;

/// Whether the request may be sent again, to another address, when `sent` tasks may have seen it.
///
/// What was not sent may be sent again whatever it asks for. What may have been acted upon may be only if acting twice
/// is the same as acting once (RFC 9110, section 9.2.2), and if there is no body or it is still here to be sent again.
#[must_use]
pub const fn may_retry(failure: Failure, is_idempotent: bool, is_replayable: bool, sent: usize) -> bool {
    match failure {
        Failure::NotConnected | Failure::NotSent => true,
        Failure::NoAnswer => is_idempotent && is_replayable && sent < MOST_SENT,
        // Asking for more of the same would double the load on tasks that are late already; and the deadline is here.
        Failure::TimedOut | Failure::Garbage | Failure::BadBody => false,
    }
}

#[cfg(test)]
mod tests {
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
}

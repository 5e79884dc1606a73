//! The division of the platform's stop timeout between the lame duck and the child.

use std::{fmt, time::Duration};

/// How long the lame duck lasts when nobody said: the TTL that the service's DNS record commonly has.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

/// The child's share of the stop timeout when nobody said.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// What the stop timeout is taken to be when nobody said. It is the default of ECS (`stopTimeout`) and of Kubernetes
/// (`terminationGracePeriodSeconds`); `docker stop` and Compose wait only 10 seconds.
pub const ASSUMED_STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long before the stop timeout a child that is still there is killed: time to reap it, to say so in the log and
/// to exit with a code of our own choosing before the platform kills us both.
const KILL_MARGIN: Duration = Duration::from_millis(200);

/// The share of a short stop timeout that the margin may take at most: one tenth.
const KILL_MARGIN_SHARE: u32 = 10;

/// The platform's time from SIGTERM to SIGKILL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StopTimeout {
    /// The user told us, so it can be acted upon.
    Given(Duration),
    /// [`ASSUMED_STOP_TIMEOUT`]: good enough for the sum, not for killing anybody.
    Assumed,
}

impl StopTimeout {
    /// How long it is.
    #[must_use]
    pub const fn duration(self) -> Duration {
        match self {
            Self::Given(duration) => duration,
            Self::Assumed => ASSUMED_STOP_TIMEOUT,
        }
    }
}

impl fmt::Display for StopTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.duration()))?;
        match self {
            Self::Given(_) => Ok(()),
            Self::Assumed => f.write_str(" (assumed, as none was given)"),
        }
    }
}

/// A division of the stop timeout that leaves the child time to stop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StopBudget {
    stop_timeout: StopTimeout,
    grace: Duration,
    drain_limit: Duration,
    kill_after: Option<Duration>,
}

impl StopBudget {
    /// Divides `stop_timeout`: `grace` at its end is the child's, and the lame duck gets at most what is left.
    ///
    /// # Errors
    ///
    /// [`Overspent`] if the grace alone is longer than the stop timeout: then no division is right.
    pub fn new(stop_timeout: StopTimeout, grace: Duration) -> Result<Self, Overspent> {
        let Some(left) = stop_timeout.duration().checked_sub(grace) else {
            return Err(Overspent { stop_timeout, grace });
        };
        let kill_after = match stop_timeout {
            StopTimeout::Given(timeout) => Some(timeout.saturating_sub(KILL_MARGIN.min(timeout / KILL_MARGIN_SHARE))),
            StopTimeout::Assumed => None,
        };
        // A grace shorter than the margin would have the child killed before it was told to stop.
        let drain_limit = kill_after.map_or(left, |kill_after| left.min(kill_after));
        Ok(Self { stop_timeout, grace, drain_limit, kill_after })
    }

    /// How long the lame duck may last at most.
    #[must_use]
    pub const fn drain_limit(&self) -> Duration {
        self.drain_limit
    }

    /// How long after the first stop signal a child that is still there is killed. `None`: never, the stop timeout was
    /// only assumed and the platform decides.
    #[must_use]
    pub const fn kill_after(&self) -> Option<Duration> {
        self.kill_after
    }

    /// The child's own time at the end of the stop timeout.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        self.grace
    }

    /// The platform's time from SIGTERM to SIGKILL, as given or assumed.
    #[must_use]
    pub const fn stop_timeout(&self) -> StopTimeout {
        self.stop_timeout
    }

    /// What to warn about, if a lame duck of `asked` does not fit.
    #[must_use]
    pub fn cut(&self, asked: Duration) -> Option<Cut> {
        let Self { stop_timeout, grace, drain_limit: effective, kill_after: _ } = *self;
        (effective < asked).then_some(Cut { asked, effective, stop_timeout, grace })
    }
}

/// A drain that had to be shortened. Its text is the warning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cut {
    asked: Duration,
    effective: Duration,
    stop_timeout: StopTimeout,
    grace: Duration,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, effective, stop_timeout, grace } = *self;
        write!(
            f,
            "a drain of {} and a grace of {} do not fit in a stop timeout of {stop_timeout}: the lame duck lasts only \
             {}. Callers with an older DNS answer will be refused. Raise the platform's stop timeout and \
             --stop-timeout to at least {}, or lower the DNS TTL and --drain",
            humantime::format_duration(asked),
            humantime::format_duration(grace),
            humantime::format_duration(effective),
            humantime::format_duration(asked.saturating_add(grace)),
        )
    }
}

/// A grace that does not fit in the stop timeout.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "a grace of {} does not fit in a stop timeout of {stop_timeout}: the platform would kill the task first. Lower \
     --grace, or raise the platform's stop timeout and --stop-timeout to more than {}",
    humantime::format_duration(*grace),
    humantime::format_duration(*grace)
)]
pub struct Overspent {
    stop_timeout: StopTimeout,
    grace: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn given(stop_timeout: u64, grace: u64) -> StopBudget {
        StopBudget::new(StopTimeout::Given(secs(stop_timeout)), secs(grace)).unwrap()
    }

    #[test]
    fn the_lame_duck_gets_at_most_the_stop_timeout_less_the_grace() {
        assert_eq!(given(70, 10).drain_limit(), secs(60));
        assert_eq!(given(30, 30).drain_limit(), secs(0));
    }

    #[test]
    fn a_drain_that_fits_is_no_cut() {
        assert_eq!(given(70, 10).cut(secs(60)), None);
        assert!(given(70, 10).cut(secs(61)).is_some());
    }

    #[test]
    fn a_cut_names_the_numbers_and_both_knobs() {
        let warning = given(30, 15).cut(secs(60)).unwrap().to_string();
        for part in ["drain of 1m", "grace of 15s", "stop timeout of 30s", "only 15s", "at least 1m 15s"] {
            assert!(warning.contains(part), "{part:?} is not in {warning:?}");
        }
        assert!(warning.contains("--stop-timeout") && warning.contains("--drain"), "{warning:?}");
    }

    #[test]
    fn an_assumed_stop_timeout_cuts_the_drain_but_kills_nobody() {
        let budget = StopBudget::new(StopTimeout::Assumed, secs(5)).unwrap();
        assert_eq!((budget.drain_limit(), budget.kill_after()), (secs(25), None));
        assert!(budget.cut(secs(30)).unwrap().to_string().contains("30s (assumed"));
    }

    #[test]
    fn the_kill_comes_just_before_a_stop_timeout_that_was_given() {
        assert_eq!(given(60, 5).kill_after(), Some(Duration::from_millis(59_800)));
    }

    #[test]
    fn the_margin_of_a_short_stop_timeout_is_a_tenth_of_it() {
        assert_eq!(given(1, 0).kill_after(), Some(Duration::from_millis(900)));
    }

    #[test]
    fn without_a_grace_the_child_is_still_told_before_it_is_killed() {
        let budget = given(30, 0);
        assert_eq!(Some(budget.drain_limit()), budget.kill_after());
    }

    #[test]
    fn a_grace_longer_than_the_stop_timeout_is_refused_with_the_numbers() {
        let error = StopBudget::new(StopTimeout::Assumed, secs(40)).unwrap_err().to_string();
        for part in ["grace of 40s", "stop timeout of 30s (assumed", "more than 40s"] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }

    #[test]
    fn the_longest_durations_do_not_overflow() {
        assert!(!given(30, 5).cut(Duration::MAX).unwrap().to_string().is_empty());
    }
}

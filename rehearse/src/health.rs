//! The container health check of one task: when it is probed, and what that says of it. Pure.
//!
//! Source: the `HealthCheck` of a container definition,
//! <https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_HealthCheck.html>, and Docker's own, on which it runs,
//! <https://docs.docker.com/reference/dockerfile/#healthcheck>.

use std::time::Duration;

use crate::timeline::Status;

/// How tasks are probed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Check {
    /// From the end of a probe to the next one, and from the start of the container to the first one.
    pub interval: Duration,
    /// After which a probe has failed.
    pub timeout: Duration,
    /// How many failures in a row make a task unhealthy.
    pub retries: u32,
    /// How long failures do not count after the start, unless a probe has succeeded before.
    pub start_period: Duration,
}

/// What is known of one task, and when it is probed next.
#[derive(Clone, Debug)]
pub struct Health {
    check: Check,
    started: Duration,
    status: Status,
    failures: u32,
    /// None while a probe is under way.
    next_probe: Option<Duration>,
}

impl Health {
    /// The health of a container that started then.
    #[must_use]
    pub fn new(check: Check, started: Duration) -> Self {
        Self { check, started, status: Status::Unknown, failures: 0, next_probe: Some(started + check.interval) }
    }

    /// The health of a container that has been healthy for long, and is probed next then.
    #[must_use]
    pub fn steady(check: Check, next_probe: Duration) -> Self {
        let started = Duration::ZERO;
        Self { check, started, status: Status::Healthy, failures: 0, next_probe: Some(next_probe) }
    }

    /// When it is probed next. None while a probe is under way.
    #[must_use]
    pub fn next_probe(&self) -> Option<Duration> {
        self.next_probe
    }

    /// What the probes say so far.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status
    }

    /// A probe begins.
    pub fn probing(&mut self) {
        self.next_probe = None;
    }

    /// A probe has ended. Returns the status if it is a new one.
    pub fn probed(&mut self, is_good: bool, now: Duration) -> Option<Status> {
        self.next_probe = Some(now + self.check.interval);
        let before = self.status;
        if is_good {
            self.failures = 0;
            self.status = Status::Healthy;
        } else if before != Status::Unknown || now >= self.started + self.check.start_period {
            self.failures += 1;
            if self.failures >= self.check.retries {
                self.status = Status::Unhealthy;
            }
        }
        (self.status != before).then_some(self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const CHECK: Check = Check { interval: secs(30), timeout: secs(15), retries: 2, start_period: secs(5) };

    #[test]
    fn the_first_probe_comes_one_interval_after_the_start_and_the_next_one_after_its_end() {
        let mut health = Health::new(CHECK, secs(16));
        assert_eq!(health.next_probe(), Some(secs(46)));
        health.probing();
        assert_eq!(health.next_probe(), None);
        assert_eq!(health.probed(true, secs(50)), Some(Status::Healthy));
        assert_eq!(health.next_probe(), Some(secs(80)));
    }

    #[test]
    fn one_success_is_enough_and_as_many_failures_in_a_row_as_retries() {
        let mut health = Health::new(CHECK, secs(0));
        assert_eq!(health.probed(false, secs(30)), None);
        assert_eq!(health.probed(true, secs(60)), Some(Status::Healthy));
        assert_eq!(health.probed(false, secs(90)), None);
        assert_eq!(health.probed(true, secs(120)), None);
        assert_eq!(health.probed(false, secs(150)), None, "the success between them counts");
        assert_eq!(health.probed(false, secs(180)), Some(Status::Unhealthy));
        assert_eq!(health.probed(false, secs(210)), None);
        assert_eq!(health.probed(true, secs(240)), Some(Status::Healthy));
    }

    #[test]
    fn failures_in_the_start_period_count_only_after_a_success() {
        let check = Check { start_period: secs(100), ..CHECK };
        let mut health = Health::new(check, secs(0));
        assert_eq!((health.probed(false, secs(30)), health.probed(false, secs(60))), (None, None));
        assert_eq!(health.probed(false, secs(99)), None);
        assert_eq!((health.probed(false, secs(100)), health.probed(false, secs(130))), (None, Some(Status::Unhealthy)));

        let mut health = Health::new(check, secs(0));
        health.probed(true, secs(10));
        assert_eq!((health.probed(false, secs(30)), health.probed(false, secs(60))), (None, Some(Status::Unhealthy)));
    }
}

//! The life of one task, from its first state to its last. Pure.
//!
//! Source: <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-lifecycle-explanation.html>.

use std::{collections::VecDeque, net::Ipv4Addr, time::Duration};

use crate::{
    health::Health,
    rollout::Standing,
    rules::Rules,
    timeline::{State, Status, TaskId},
};

/// What is due in a task's life.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// It goes on to this state.
    Moved(State),
    /// Its container starts, and it is registered.
    Start,
    /// It is not to be named any more.
    Deregister,
    /// Its process gets SIGTERM.
    Terminate,
    /// Its process gets SIGKILL.
    Kill,
    /// Its container is probed.
    Probe,
    /// The scheduler learns of its health.
    Seen(Status),
}

#[derive(Clone, Copy, Debug)]
enum Life {
    Provisioning { until: Duration },
    Pending { until: Duration },
    Activating { start: Option<Duration>, until: Duration },
    Running { since: Duration },
    Deactivating { until: Duration },
    Stopping { kill: Option<Duration> },
    Deprovisioning { until: Duration },
    Stopped,
}

/// A task.
#[derive(Clone, Debug)]
pub struct Task {
    /// Which.
    pub id: TaskId,
    /// Of which revision.
    pub revision: u32,
    /// Where it listens.
    pub address: Ipv4Addr,
    /// In which availability zone.
    pub zone: u8,
    /// When it was to be started.
    pub created: Duration,
    /// Whether it has ever been healthy in the eyes of the scheduler.
    pub was_healthy: bool,
    life: Life,
    health: Option<Health>,
    seen: Status,
    /// Health that the scheduler does not know of yet.
    reports: VecDeque<(Duration, Status)>,
    /// What is to be done before time goes on.
    due: VecDeque<Step>,
}

impl Task {
    /// A task that is to be started.
    #[must_use]
    pub fn new(id: TaskId, revision: u32, address: Ipv4Addr, now: Duration, takes: Duration) -> Self {
        Self {
            id,
            revision,
            address,
            zone: u8::try_from(id.0 % 2).unwrap_or(0),
            created: now,
            was_healthy: false,
            life: Life::Provisioning { until: now + takes },
            health: None,
            seen: Status::Unknown,
            reports: VecDeque::new(),
            due: VecDeque::new(),
        }
    }

    /// A task that has been running and healthy for long, and is probed next at `probe`.
    #[must_use]
    pub fn steady(id: TaskId, revision: u32, address: Ipv4Addr, rules: &Rules, probe: Duration) -> Self {
        let mut task = Self::new(id, revision, address, Duration::ZERO, Duration::ZERO);
        task.life = Life::Running { since: Duration::ZERO };
        task.seen = Status::Healthy;
        task.was_healthy = true;
        task.health = rules.check().map(|check| Health::steady(check, probe));
        task
    }

    /// In which state it is.
    #[must_use]
    pub fn state(&self) -> State {
        match self.life {
            Life::Provisioning { .. } => State::Provisioning,
            Life::Pending { .. } => State::Pending,
            Life::Activating { .. } => State::Activating,
            Life::Running { .. } => State::Running,
            Life::Deactivating { .. } => State::Deactivating,
            Life::Stopping { .. } => State::Stopping,
            Life::Deprovisioning { .. } => State::Deprovisioning,
            Life::Stopped => State::Stopped,
        }
    }

    /// Whether it counts for the scheduler: it is there, and nobody has asked it to stop.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state() < State::Deactivating
    }

    /// What it counts for.
    #[must_use]
    pub fn standing(&self, rules: &Rules, now: Duration) -> Standing {
        let is_steady = match self.life {
            Life::Running { since } => since + rules.steady_without_check <= now,
            Life::Provisioning { .. }
            | Life::Pending { .. }
            | Life::Activating { .. }
            | Life::Deactivating { .. }
            | Life::Stopping { .. }
            | Life::Deprovisioning { .. }
            | Life::Stopped => false,
        };
        match self.seen {
            Status::Healthy if self.state() == State::Running => Standing::Healthy,
            Status::Unhealthy => Standing::Unhealthy,
            Status::Unknown if !rules.has_health_check && is_steady => Standing::Healthy,
            Status::Healthy | Status::Unknown => Standing::Starting,
        }
    }

    /// When something is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        if !self.due.is_empty() {
            return Some(Duration::ZERO);
        }
        let life = match self.life {
            Life::Provisioning { until }
            | Life::Pending { until }
            | Life::Deactivating { until }
            | Life::Deprovisioning { until } => Some(until),
            Life::Activating { start, until } => Some(start.unwrap_or(until)),
            Life::Stopping { kill } => kill,
            Life::Running { .. } | Life::Stopped => None,
        };
        let probe = self.health.as_ref().filter(|_| self.is_live()).and_then(Health::next_probe);
        let report = self.reports.front().map(|(at, _)| *at);
        [life, probe, report].into_iter().flatten().min()
    }

    /// The next step that is due. To be called until there is none.
    pub fn advance(&mut self, now: Duration, rules: &Rules, random: &mut fastrand::Rng) -> Option<Step> {
        if let Some(step) = self.due.pop_front() {
            return Some(step);
        }
        let mut about = |time: Duration| about(time, rules.jitter, random);
        let (life, step) = match self.life {
            Life::Provisioning { until } if until <= now => {
                (Life::Pending { until: until + about(rules.pending) }, Step::Moved(State::Pending))
            }
            Life::Pending { until } if until <= now => {
                let (start, end) = (until + rules.container_start, until + about(rules.activating));
                (Life::Activating { start: Some(start), until: end.max(start) }, Step::Moved(State::Activating))
            }
            Life::Activating { start: Some(start), until } if start <= now => {
                self.health = rules.check().map(|check| Health::new(check, start));
                (Life::Activating { start: None, until }, Step::Start)
            }
            Life::Activating { start: None, until } if until <= now => {
                (Life::Running { since: until }, Step::Moved(State::Running))
            }
            Life::Deactivating { until } if until <= now => {
                self.due.push_back(Step::Terminate);
                (Life::Stopping { kill: Some(until + rules.stop_timeout) }, Step::Moved(State::Stopping))
            }
            Life::Stopping { kill: Some(kill) } if kill <= now => (Life::Stopping { kill: None }, Step::Kill),
            Life::Deprovisioning { until } if until <= now => {
                if rules.deregister_last {
                    self.due.push_back(Step::Deregister);
                }
                (Life::Stopped, Step::Moved(State::Stopped))
            }
            Life::Provisioning { .. }
            | Life::Pending { .. }
            | Life::Activating { .. }
            | Life::Running { .. }
            | Life::Deactivating { .. }
            | Life::Stopping { .. }
            | Life::Deprovisioning { .. }
            | Life::Stopped => return self.check(now),
        };
        self.life = life;
        Some(step)
    }

    fn check(&mut self, now: Duration) -> Option<Step> {
        if let Some((_, status)) = self.reports.pop_front_if(|(at, _)| *at <= now) {
            self.seen = status;
            self.was_healthy |= status == Status::Healthy;
            return Some(Step::Seen(status));
        }
        let is_live = self.is_live();
        let health = self.health.as_mut().filter(|_| is_live)?;
        if health.next_probe().is_some_and(|at| at <= now) {
            health.probing();
            return Some(Step::Probe);
        }
        None
    }

    /// A probe has ended. Returns the status if it is a new one; the scheduler knows it later.
    pub fn probed(&mut self, is_good: bool, now: Duration, rules: &Rules) -> Option<Status> {
        let is_live = self.is_live();
        let status = self.health.as_mut().filter(|_| is_live)?.probed(is_good, now)?;
        self.reports.push_back((now + rules.health_report_lag, status));
        Some(status)
    }

    /// It is to be stopped. False if it is on its way already.
    pub fn stop(&mut self, now: Duration, rules: &Rules) -> bool {
        let has_started = match self.life {
            Life::Provisioning { .. } | Life::Pending { .. } | Life::Activating { start: Some(_), .. } => false,
            Life::Activating { start: None, .. } | Life::Running { .. } => true,
            Life::Deactivating { .. } | Life::Stopping { .. } | Life::Deprovisioning { .. } | Life::Stopped => {
                return false;
            }
        };
        self.reports.clear();
        if has_started {
            self.life = Life::Deactivating { until: now + rules.deregister_first };
            self.due.push_back(Step::Moved(State::Deactivating));
            if !rules.deregister_last {
                self.due.push_back(Step::Deregister);
            }
        } else {
            self.end(now, rules);
        }
        true
    }

    /// Its process has ended. Returns whether nobody had asked it to.
    pub fn exited(&mut self, now: Duration, rules: &Rules) -> bool {
        let was_asked = match self.life {
            Life::Deactivating { .. } | Life::Stopping { .. } => true,
            Life::Provisioning { .. } | Life::Pending { .. } | Life::Activating { .. } | Life::Running { .. } => {
                self.due.push_back(Step::Deregister);
                false
            }
            Life::Deprovisioning { .. } | Life::Stopped => return false,
        };
        // Not what was to be done for a process that is gone.
        self.due.retain(|step| *step != Step::Terminate);
        self.reports.clear();
        self.end(now, rules);
        !was_asked
    }

    fn end(&mut self, now: Duration, rules: &Rules) {
        self.life = Life::Deprovisioning { until: now + rules.deprovisioning };
        self.due.push_back(Step::Moved(State::Deprovisioning));
    }
}

/// A time that may be that much longer or shorter.
pub(crate) fn about(time: Duration, jitter: Duration, random: &mut fastrand::Rng) -> Duration {
    (time + jitter.mul_f64(2.0 * random.f64())).saturating_sub(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rules() -> Rules {
        Rules { jitter: secs(0), ..Rules::default() }
    }

    fn task() -> Task {
        Task::new(TaskId(1), 2, Ipv4Addr::new(127, 0, 1, 5), secs(0), rules().provisioning)
    }

    /// Steps until `end`, each with its second.
    fn live(task: &mut Task, end: u64) -> Vec<String> {
        let (rules, mut random, mut said) = (rules(), fastrand::Rng::with_seed(1), Vec::new());
        let mut now = Duration::ZERO;
        while let Some(deadline) = task.deadline().filter(|deadline| *deadline <= secs(end)) {
            now = now.max(deadline);
            while let Some(step) = task.advance(now, &rules, &mut random) {
                said.push(format!("{} {step:?}", now.as_secs()));
            }
        }
        said
    }

    #[test]
    fn a_task_starts_within_eighteen_seconds_and_is_probed_thirty_after_its_container() {
        let mut task = task();
        let expected = ["8 Moved(Pending)", "14 Moved(Activating)", "16 Start", "18 Moved(Running)", "46 Probe"]
            .map(str::to_owned);
        assert_eq!(live(&mut task, 100), expected);
        assert_eq!(task.standing(&rules(), secs(46)), Standing::Starting);
        assert_eq!(task.probed(true, secs(46), &rules()), Some(Status::Healthy));
        assert_eq!(task.standing(&rules(), secs(46)), Standing::Starting, "the scheduler does not know it yet");
        assert_eq!(live(&mut task, 60), ["54 Seen(Healthy)"]);
        assert_eq!(task.standing(&rules(), secs(54)), Standing::Healthy);
    }

    #[test]
    fn a_stop_deregisters_and_terminates_at_once_and_kills_after_the_stop_timeout() {
        let mut task = task();
        live(&mut task, 20);
        assert!(task.stop(secs(20), &rules()));
        assert!(!task.stop(secs(21), &rules()), "it is on its way");
        let steps = live(&mut task, 60);
        assert_eq!(steps[..4], ["0 Moved(Deactivating)", "0 Deregister", "20 Moved(Stopping)", "20 Terminate"]);
        assert_eq!(steps[4..], ["50 Kill"]);
        assert!(!task.exited(secs(50), &rules()), "it was asked to");
        assert_eq!(live(&mut task, 70), ["0 Moved(Deprovisioning)", "60 Moved(Stopped)"]);
        assert_eq!(task.deadline(), None);
    }

    #[test]
    fn a_task_that_is_deregistered_last_is_named_until_it_is_stopped() {
        let rules = Rules { deregister_last: true, ..rules() };
        let (mut task, mut random, mut said) = (task(), fastrand::Rng::with_seed(1), Vec::new());
        live(&mut task, 20);
        assert!(task.stop(secs(20), &rules));
        for now in [20, 50] {
            while let Some(step) = task.advance(secs(now), &rules, &mut random) {
                said.push(step);
            }
        }
        assert!(!said.contains(&Step::Deregister), "{said:?}");
        task.exited(secs(50), &rules);
        while let Some(step) = task.advance(secs(60), &rules, &mut random) {
            said.push(step);
        }
        let last = [Step::Moved(State::Deprovisioning), Step::Moved(State::Stopped), Step::Deregister];
        assert!(said.ends_with(&last), "{said:?}");
    }

    #[test]
    fn a_task_without_a_process_is_just_taken_away() {
        let mut task = task();
        live(&mut task, 10);
        assert!(task.stop(secs(10), &rules()));
        assert_eq!(live(&mut task, 70), ["0 Moved(Deprovisioning)", "20 Moved(Stopped)"]);
    }

    #[test]
    fn a_process_that_ends_by_itself_is_deregistered() {
        let mut task = task();
        live(&mut task, 20);
        assert!(task.exited(secs(20), &rules()));
        assert!(!task.is_live());
        assert_eq!(live(&mut task, 70), ["0 Deregister", "0 Moved(Deprovisioning)", "30 Moved(Stopped)"]);
        assert!(!task.exited(secs(70), &rules()), "twice is once");
    }

    #[test]
    fn without_a_health_check_a_task_counts_forty_seconds_after_it_runs() {
        let rules = Rules { has_health_check: false, ..rules() };
        let mut task = task();
        let mut random = fastrand::Rng::with_seed(1);
        for now in [8, 14, 16, 18] {
            while task.advance(secs(now), &rules, &mut random).is_some() {}
        }
        assert_eq!(task.standing(&rules, secs(57)), Standing::Starting);
        assert_eq!(task.standing(&rules, secs(58)), Standing::Healthy);
    }
}

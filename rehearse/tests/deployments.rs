//! Whole deployments on a clock of the test: scripts of events, and the timelines that come of them.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use rehearse::{
    cluster::{Action, Addresses, Cluster, Fact},
    rules::{Replacement, Rules},
    timeline::{Event, TaskId, What, lines, records_and_tasks},
};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Rules without chance.
fn rules() -> Rules {
    let none = Duration::ZERO;
    Rules { jitter: none, register_lag_least: none, register_lag: none, deregister_lag: none, ..Rules::default() }
}

/// A service whose processes do as they are told: they listen at once, and end so long after SIGTERM.
struct Script {
    cluster: Cluster,
    drain: Duration,
    now: Duration,
    /// What is yet to come.
    facts: Vec<(Duration, Fact)>,
    /// Tasks whose processes have ended.
    ended: BTreeSet<TaskId>,
    /// Revisions whose processes end at once.
    broken: BTreeSet<u32>,
    /// Tasks that fail their probes.
    unhealthy: BTreeSet<TaskId>,
    events: Vec<Event>,
}

impl Script {
    fn new(rules: Rules, drain: Duration) -> Self {
        let addresses = Addresses { first: Ipv4Addr::new(127, 0, 1, 1), count: 400 };
        let (cluster, actions) = Cluster::steady(rules, addresses, 1);
        let (facts, now) = (vec![], secs(0));
        let mut script = Self {
            cluster,
            drain,
            now,
            facts,
            ended: BTreeSet::new(),
            broken: BTreeSet::new(),
            unhealthy: BTreeSet::new(),
            events: vec![],
        };
        script.act(actions);
        script
    }

    fn at(mut self, seconds: u64, fact: Fact) -> Self {
        self.facts.push((secs(seconds), fact));
        self
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Start { task, revision, .. } if self.broken.contains(&revision) => {
                    self.facts.push((self.now, Fact::Exited { task, how: "exit code 1".to_owned() }));
                }
                Action::Start { .. } => {}
                Action::Terminate(task) if self.ended.contains(&task) => {}
                Action::Terminate(task) => {
                    self.facts.push((self.now + self.drain, Fact::Exited { task, how: "exit code 0".to_owned() }));
                }
                Action::Kill(task) => {
                    self.facts.retain(|(_, fact)| !matches!(fact, Fact::Exited { task: it, .. } if *it == task));
                    self.facts.push((self.now, Fact::Exited { task, how: "SIGKILL".to_owned() }));
                }
                Action::Probe { task, .. } => {
                    let is_good = !self.unhealthy.contains(&task);
                    self.facts.push((self.now, Fact::Probed { task, is_good }));
                }
            }
        }
    }

    fn until(mut self, seconds: u64) -> Vec<Event> {
        loop {
            let next =
                self.facts.iter().enumerate().min_by_key(|(index, (at, _))| (*at, *index)).map(|(index, _)| index);
            let wake = self.cluster.deadline().max(self.now);
            let fact = if let Some(index) = next.filter(|index| self.facts[*index].0 <= wake) {
                let (at, fact) = self.facts.remove(index);
                self.now = self.now.max(at);
                fact
            } else {
                self.now = wake;
                Fact::Wake
            };
            if self.now > secs(seconds) {
                return self.events;
            }
            if let Fact::Exited { task, .. } = &fact {
                self.ended.insert(*task);
            }
            let actions = self.cluster.handle(fact, self.now);
            self.events.extend(self.cluster.events());
            self.act(actions);
        }
    }
}

/// Without the tasks' small steps, which every deployment has.
fn told(events: &[Event]) -> String {
    let is_told = |event: &&Event| match &event.what {
        What::Moved { .. } | What::Created { .. } => false,
        What::Registered { .. }
        | What::Deregistered { .. }
        | What::Health { .. }
        | What::Listens { .. }
        | What::Signalled { .. }
        | What::Exited { .. }
        | What::DeploymentStarted { .. }
        | What::DeploymentCompleted { .. }
        | What::DeploymentFailed { .. }
        | What::Note { .. } => event.at > secs(0),
    };
    lines(&events.iter().filter(is_told).cloned().collect::<Vec<_>>())
}

#[test]
fn the_article_s_deployment_has_the_article_s_timeline() {
    let events = Script::new(rules(), secs(0)).at(10, Fact::Deploy { revision: 2 }).until(120);
    let expected = r#"00:00:00 Route53: ["127.0.1.1"] ["127.0.1.2"] ["127.0.1.3"] ["127.0.1.4"] | ECS: 127.0.1.1 127.0.1.2 127.0.1.3 127.0.1.4
00:00:10 Route53: ["127.0.1.3"] ["127.0.1.4"] | ECS: 127.0.1.3 127.0.1.4 127.0.1.5 127.0.1.6 127.0.1.7 127.0.1.8
00:00:26 Route53: ["127.0.1.3"] ["127.0.1.4"] ["127.0.1.5"] ["127.0.1.6"] ["127.0.1.7"] ["127.0.1.8"] | ECS: 127.0.1.3 127.0.1.4 127.0.1.5 127.0.1.6 127.0.1.7 127.0.1.8
00:01:04 Route53: ["127.0.1.5"] ["127.0.1.6"] ["127.0.1.7"] ["127.0.1.8"] | ECS: 127.0.1.5 127.0.1.6 127.0.1.7 127.0.1.8
"#;
    assert_eq!(records_and_tasks(&events), expected);
}

/// A timeline that a person has read and found right.
macro_rules! timeline {
    ($name:literal) => {
        include_str!(concat!("timelines/", $name, ".txt"))
    };
}

fn deploying(rules: Rules, drain: Duration) -> Script {
    Script::new(rules, drain).at(10, Fact::Deploy { revision: 2 })
}

fn bounded(minimum_healthy_percent: u32, maximum_percent: u32) -> Rules {
    Rules { minimum_healthy_percent, maximum_percent, ..rules() }
}

#[test]
fn a_task_that_takes_longer_than_the_stop_timeout_is_killed() {
    let events = deploying(rules(), secs(35)).until(120);
    assert_eq!(told(&events), timeline!("a-drain-as-long-as-the-stop-timeout"));
}

#[test]
fn three_tasks_that_do_not_become_healthy_end_a_deployment_and_bring_the_last_revision_back() {
    let mut script = deploying(rules(), secs(0));
    script.broken.insert(2);
    assert_eq!(told(&script.until(300)), timeline!("a-revision-that-ends-at-once"));
}

#[test]
fn a_revision_that_never_becomes_healthy_is_given_up_as_soon_as_three_tasks_have_shown_it() {
    let mut script = deploying(rules(), secs(0));
    script.unhealthy.extend((5..40).map(TaskId));
    // The fifth to eighth task begin at 26 s, fail their second probe at 86 s, and are known to have at 94 s.
    let events = script.until(100);
    let failed = events.iter().find(|event| matches!(event.what, What::DeploymentFailed { revision: 2, .. })).unwrap();
    assert!((94..=97).contains(&failed.at.as_secs()), "{failed:?}");
}

#[test]
fn without_a_rollback_nothing_more_is_started_once_a_deployment_was_given_up() {
    let mut script = deploying(Rules { rollback: false, ..rules() }, secs(0));
    script.broken.insert(2);
    let events = script.until(600);
    let given_up = events.iter().position(|event| matches!(event.what, What::DeploymentFailed { .. })).unwrap();
    assert!(!events[given_up..].iter().any(|event| matches!(event.what, What::Created { .. })));
}

#[test]
fn an_unhealthy_task_is_stopped_and_replaced_or_replaced_and_stopped() {
    let sick = |unhealthy_replacement| {
        let mut script = Script::new(Rules { unhealthy_replacement, ..rules() }, secs(0));
        script.unhealthy.insert(TaskId(2));
        told(&script.until(200))
    };
    assert_eq!(sick(Replacement::Legacy), timeline!("an-unhealthy-task-legacy"));
    assert_eq!(sick(Replacement::Modern), timeline!("an-unhealthy-task-modern"));
}

#[test]
fn bounds_may_let_all_go_at_once_or_none() {
    assert_eq!(told(&deploying(bounded(0, 100), secs(0)).until(120)), timeline!("all-at-once"));
    assert_eq!(told(&deploying(bounded(100, 100), secs(0)).until(60)), timeline!("no-room"));
}

#[test]
fn a_service_is_scaled_in_and_a_task_that_crashed_is_replaced() {
    assert_eq!(told(&Script::new(rules(), secs(2)).at(10, Fact::Desired(2)).until(60)), timeline!("scale-in"));
    let crash = Fact::Exited { task: TaskId(1), how: "SIGSEGV".to_owned() };
    assert_eq!(told(&Script::new(rules(), secs(2)).at(10, crash).until(100)), timeline!("a-crash"));
}

#[test]
fn without_a_health_check_tasks_count_forty_seconds_after_they_run() {
    let rules = Rules { has_health_check: false, ..rules() };
    assert_eq!(told(&deploying(rules, secs(0)).until(120)), timeline!("no-health-check"));
}

#[test]
fn the_same_seed_gives_the_same_timeline_and_another_one_another() {
    let of = |seed| {
        let addresses = Addresses { first: Ipv4Addr::new(127, 0, 1, 1), count: 400 };
        let (mut cluster, _) = Cluster::steady(Rules::default(), addresses, seed);
        let mut now = secs(10);
        cluster.handle(Fact::Deploy { revision: 2 }, now);
        while now < secs(60) {
            now = cluster.deadline().max(now);
            cluster.handle(Fact::Wake, now);
        }
        lines(&cluster.events())
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

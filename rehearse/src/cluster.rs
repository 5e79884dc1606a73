//! One service of a cluster: its tasks, its records and its deployments, driven by what is observed and by time. Pure: it
//! says what is to be done to processes, and somebody else does it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use crate::{
    rollout::{self, Bounds, Candidate, Standing},
    rules::Rules,
    task::{Step, Task, about},
    timeline::{Event, State, Status, TaskId, What},
    zone::{Answer, Zone},
};

/// What was observed, or is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fact {
    /// Time has passed.
    Wake,
    /// Deploy this revision.
    Deploy {
        /// Which one.
        revision: u32,
    },
    /// Have that many tasks.
    Desired(u32),
    /// Stop this task, as ECS's `StopTask` does.
    Stop(TaskId),
    /// A task's process listens.
    Listens(TaskId),
    /// A task's process has ended.
    Exited {
        /// Whose.
        task: TaskId,
        /// How.
        how: String,
    },
    /// A probe has ended.
    Probed {
        /// Of which task.
        task: TaskId,
        /// Whether it was answered as it should be.
        is_good: bool,
    },
    /// Something to remember, for those who read the timeline.
    Note(String),
}

/// What is to be done to processes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Start one.
    Start {
        /// As which task.
        task: TaskId,
        /// Of which revision.
        revision: u32,
        /// Where it is to listen.
        address: Ipv4Addr,
    },
    /// Send it SIGTERM.
    Terminate(TaskId),
    /// Send it SIGKILL.
    Kill(TaskId),
    /// Probe its health.
    Probe {
        /// Which.
        task: TaskId,
        /// Where.
        address: Ipv4Addr,
    },
}

/// Where the tasks of a service listen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Addresses {
    /// The first one.
    pub first: Ipv4Addr,
    /// How many there are. Beyond them the first is used again, if nobody has it.
    pub count: u32,
}

impl Addresses {
    /// The one with this number, from 0 on.
    #[must_use]
    pub fn nth(self, index: u32) -> Ipv4Addr {
        // Neither .0 nor .255, which look like a network and a broadcast.
        let first = u32::from(self.first);
        let (block, host) = (index / 254, index % 254);
        Ipv4Addr::from(first + block * 256 + host)
    }
}

#[derive(Clone, Copy, Debug)]
struct Deployment {
    revision: u32,
    failures: u32,
    is_stuck: bool,
    is_over: bool,
    /// It was given up, and nothing came in its place.
    has_failed: bool,
}

/// A service.
#[derive(Debug)]
pub struct Cluster {
    rules: Rules,
    random: fastrand::Rng,
    /// Apart, as questions come when they like, and change nothing else.
    order: fastrand::Rng,
    addresses: Addresses,
    tasks: BTreeMap<TaskId, Task>,
    /// When something is due, and for whom, with what is noted there for each.
    due: BTreeSet<(Duration, TaskId)>,
    noted: BTreeMap<TaskId, Duration>,
    taken: BTreeSet<Ipv4Addr>,
    created: u32,
    zone: Zone,
    deployment: Deployment,
    completed: Option<u32>,
    deployments: u32,
    next_tick: Duration,
    /// Tasks in a row that failed to become healthy, and until when nothing is started because of them.
    failures: u32,
    paused_until: Duration,
    events: Vec<Event>,
}

impl Cluster {
    /// A service of revision 1 in a steady state, and how to get there: its tasks have been running for long when its time
    /// begins.
    #[must_use]
    pub fn steady(rules: Rules, addresses: Addresses, seed: u64) -> (Self, Vec<Action>) {
        let mut cluster = Self {
            random: fastrand::Rng::with_seed(seed),
            order: fastrand::Rng::with_seed(!seed),
            addresses,
            tasks: BTreeMap::new(),
            due: BTreeSet::new(),
            noted: BTreeMap::new(),
            taken: BTreeSet::new(),
            created: 0,
            zone: Zone::new(rules.terms()),
            deployment: Deployment { revision: 1, failures: 0, is_stuck: false, is_over: true, has_failed: false },
            completed: Some(1),
            deployments: 0,
            next_tick: rules.tick,
            failures: 0,
            paused_until: Duration::ZERO,
            events: Vec::new(),
            rules,
        };
        let mut actions = Vec::new();
        for _ in 0..cluster.rules.desired {
            let (id, address) = cluster.next_task();
            let probe = cluster.rules.health_interval.mul_f64(cluster.random.f64());
            cluster.tell(Duration::ZERO, What::Created { task: id, revision: 1, address });
            cluster.tell(Duration::ZERO, What::Moved { task: id, to: State::Running, reason: None });
            if cluster.rules.has_health_check {
                cluster.tell(Duration::ZERO, What::Health { task: id, status: Status::Healthy });
            }
            cluster.add(Task::steady(id, 1, address, &cluster.rules, probe));
            cluster.zone.register(id, address, Duration::ZERO);
            cluster.zone.known_healthy(id);
            actions.push(Action::Start { task: id, revision: 1, address });
        }
        (cluster, actions)
    }

    /// Takes note of what was observed, and of the time; says what is to be done now.
    pub fn handle(&mut self, fact: Fact, now: Duration) -> Vec<Action> {
        match fact {
            Fact::Wake => {}
            Fact::Deploy { revision } => self.deploy(revision, now),
            Fact::Desired(desired) => {
                self.rules.desired = desired;
                self.next_tick = now;
            }
            Fact::Stop(id) => self.stop(id, now),
            Fact::Listens(task) => self.tell(now, What::Listens { task }),
            Fact::Exited { task, how } => self.exited(task, how, now),
            Fact::Probed { task: id, is_good } => {
                let status = self.tasks.get_mut(&id).and_then(|task| task.probed(is_good, now, &self.rules));
                self.note(id);
                if let Some(status) = status {
                    self.tell(now, What::Health { task: id, status });
                }
            }
            Fact::Note(text) => self.tell(now, What::Note { text }),
        }
        self.pass(now)
    }

    /// When something is due.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        let tasks = self.due.first().map(|(at, _)| *at);
        [tasks, self.zone.next_change()].into_iter().flatten().fold(self.next_tick, Duration::min)
    }

    /// What the authority says now.
    pub fn answer(&mut self, now: Duration) -> Answer {
        self.zone.answer(now, &mut self.order)
    }

    /// Who is named now.
    #[must_use]
    pub fn named(&self, now: Duration) -> BTreeMap<TaskId, Ipv4Addr> {
        self.zone.addresses(now)
    }

    /// What has happened since this was last asked.
    pub fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The tasks that are not over.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values()
    }

    /// Whether nothing more will come of it: the last deployment is over and every task is as it should be, or it can go
    /// neither on nor back.
    #[must_use]
    pub fn is_settled(&self, now: Duration) -> bool {
        self.deployment.is_stuck || self.deployment.has_failed || self.is_steady(now)
    }

    /// Whether DNS shows all that it has been told.
    #[must_use]
    pub fn has_nothing_to_show(&self) -> bool {
        self.zone.next_change().is_none()
    }

    /// How many deployments have begun.
    #[must_use]
    pub fn deployments(&self) -> u32 {
        self.deployments
    }

    fn is_steady(&self, now: Duration) -> bool {
        self.deployment.is_over
            && self.tasks.len() == usize::try_from(self.rules.desired).unwrap_or(usize::MAX)
            && self.tasks.values().all(|task| task.standing(&self.rules, now) == Standing::Healthy)
    }

    /// The rules that it follows.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    fn next_task(&mut self) -> (TaskId, Ipv4Addr) {
        let count = self.addresses.count.max(1);
        let next = (0..count).map(|more| self.addresses.nth((self.created + more) % count));
        let free = next.into_iter().find(|address| !self.taken.contains(address));
        let address = free.unwrap_or_else(|| self.addresses.nth(self.created % count));
        self.created += 1;
        (TaskId(self.created), address)
    }

    fn deploy(&mut self, revision: u32, now: Duration) {
        self.deployments += 1;
        self.deployment = Deployment { revision, failures: 0, is_stuck: false, is_over: false, has_failed: false };
        self.failures = 0;
        self.paused_until = now;
        self.next_tick = now;
        self.tell(now, What::DeploymentStarted { revision });
    }

    fn stop(&mut self, id: TaskId, now: Duration) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let was_healthy = task.was_healthy;
        let is_stopped = task.stop(now, &self.rules);
        self.note(id);
        if is_stopped && !was_healthy {
            self.failed(id, now);
        }
    }

    fn exited(&mut self, id: TaskId, how: String, now: Duration) {
        self.tell(now, What::Exited { task: id, how });
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let was_healthy = task.was_healthy;
        let is_early = task.exited(now, &self.rules);
        self.note(id);
        if is_early {
            self.next_tick = now;
            if !was_healthy {
                self.failed(id, now);
            }
        }
    }

    /// A task ended that never was healthy.
    fn failed(&mut self, id: TaskId, now: Duration) {
        if self.tasks.get(&id).is_none_or(|task| task.revision != self.deployment.revision) {
            return;
        }
        self.failures += 1;
        // Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-throttle-logic.html.
        if let Some(more) = self.failures.checked_sub(3) {
            let pause = self.rules.restart_pause * 2_u32.saturating_pow(more.min(16));
            self.paused_until = now + pause.min(self.rules.restart_pause_most);
        }
        if self.deployment.is_over {
            return;
        }
        self.deployment.failures += 1;
        if self.deployment.failures < self.rules.breaker_threshold() {
            return;
        }
        let revision = self.deployment.revision;
        let reason = format!("{} tasks in a row did not become healthy", self.deployment.failures);
        self.tell(now, What::DeploymentFailed { revision, reason });
        self.deployment.is_over = true;
        self.deployment.has_failed = true;
        if let Some(completed) = self.completed.filter(|completed| self.rules.rollback && *completed != revision) {
            self.deploy(completed, now);
        }
    }

    /// Lets time pass: whatever is due, until nothing is.
    fn pass(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        loop {
            let mut due: Vec<_> = self.due.range(..=(now, TaskId(u32::MAX))).map(|(_, task)| *task).collect();
            due.sort_unstable();
            for id in due {
                while let Some((step, address)) = self.next_step(id, now) {
                    self.take(id, address, &step, now, &mut actions);
                }
                self.note(id);
            }
            for change in self.zone.advance(now) {
                let task = change.task;
                let what = if change.is_named { What::Registered { task } } else { What::Deregistered { task } };
                self.tell(change.at, what);
            }
            if now < self.next_tick {
                return actions;
            }
            self.tick(now);
        }
    }

    fn add(&mut self, task: Task) {
        let id = task.id;
        self.taken.insert(task.address);
        self.tasks.insert(id, task);
        self.note(id);
    }

    /// Notes when something is due for a task, after whatever has changed that. Forgets one that is over.
    fn note(&mut self, id: TaskId) {
        if let Some(before) = self.noted.remove(&id) {
            self.due.remove(&(before, id));
        }
        let Some(task) = self.tasks.get(&id) else { return };
        if let Some(at) = task.deadline() {
            self.noted.insert(id, at);
            self.due.insert((at, id));
        } else if task.state() == State::Stopped {
            self.taken.remove(&task.address);
            self.tasks.remove(&id);
        }
    }

    fn next_step(&mut self, id: TaskId, now: Duration) -> Option<(Step, Ipv4Addr)> {
        let task = self.tasks.get_mut(&id)?;
        let step = task.advance(now, &self.rules, &mut self.random)?;
        Some((step, task.address))
    }

    fn take(&mut self, id: TaskId, address: Ipv4Addr, step: &Step, now: Duration, actions: &mut Vec<Action>) {
        let Some(task) = self.tasks.get(&id) else { return };
        match *step {
            Step::Moved(to) => self.tell(now, What::Moved { task: id, to, reason: None }),
            Step::Start => {
                actions.push(Action::Start { task: id, revision: task.revision, address });
                let shows = now + between(self.rules.register_lag_least, self.rules.register_lag, &mut self.random);
                self.zone.register(id, address, shows);
            }
            Step::Deregister => {
                let shows = now + between(self.rules.deregister_lag_least, self.rules.deregister_lag, &mut self.random);
                self.zone.deregister(id, shows);
            }
            Step::Terminate => {
                self.tell(now, What::Signalled { task: id, signal: "SIGTERM".to_owned() });
                actions.push(Action::Terminate(id));
            }
            Step::Kill => {
                self.tell(now, What::Signalled { task: id, signal: "SIGKILL".to_owned() });
                actions.push(Action::Kill(id));
            }
            Step::Probe => actions.push(Action::Probe { task: id, address }),
            Step::Seen(status) => {
                if status == Status::Healthy && task.revision == self.deployment.revision {
                    self.failures = 0;
                    self.deployment.failures = 0;
                }
                self.zone.report(id, status == Status::Healthy, now);
            }
        }
    }

    /// The scheduler decides.
    fn tick(&mut self, now: Duration) {
        self.next_tick = now + self.rules.tick;
        let candidate = |task: &Task| Candidate {
            task: task.id,
            is_current: task.revision == self.deployment.revision,
            zone: task.zone,
            created: task.created,
            standing: task.standing(&self.rules, now),
            was_healthy: task.was_healthy,
        };
        let live: Vec<_> = self.tasks.values().filter(|task| task.is_live()).map(candidate).collect();
        for healthy in live.iter().filter(|it| it.standing == Standing::Healthy) {
            if let Some(task) = self.tasks.get_mut(&healthy.task) {
                task.was_healthy = true;
            }
        }
        let bounds = Bounds {
            desired: self.rules.desired,
            minimum_healthy_percent: self.rules.minimum_healthy_percent,
            maximum_percent: self.rules.maximum_percent,
        };
        let plan = rollout::plan(&live, &bounds, self.rules.unhealthy_replacement);
        for id in plan.stop {
            self.stop(id, now);
        }
        if self.paused_until <= now && !self.deployment.has_failed {
            for _ in 0..plan.start {
                let revision = self.deployment.revision;
                let (task, address) = self.next_task();
                let takes = about(self.rules.provisioning, self.rules.jitter, &mut self.random);
                self.add(Task::new(task, revision, address, now, takes));
                self.tell(now, What::Created { task, revision, address });
            }
        }
        if !self.deployment.is_over && plan.is_complete {
            self.deployment.is_over = true;
            self.completed = Some(self.deployment.revision);
            self.tell(now, What::DeploymentCompleted { revision: self.deployment.revision });
        }
        if !self.deployment.is_over && plan.is_stuck && !self.deployment.is_stuck {
            // The event that ECS itself writes then.
            let text =
                "unable to stop or start tasks during a deployment because of the service deployment configuration";
            self.tell(now, What::Note { text: text.to_owned() });
        }
        self.deployment.is_stuck = plan.is_stuck;
    }

    fn tell(&mut self, at: Duration, what: What) {
        self.events.push(Event { at, what });
    }
}

/// A time between these.
fn between(least: Duration, most: Duration, random: &mut fastrand::Rng) -> Duration {
    least + most.saturating_sub(least).mul_f64(random.f64())
}

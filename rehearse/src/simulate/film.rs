//! A deployment as its clients meet it: who listened where and when, and whom DNS named. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    time::Duration,
};

use crate::{
    cluster::{Action, Addresses, Cluster, Fact},
    rules::Rules,
    timeline::{Event, TaskId, What},
    verdict::Cause,
};

/// What is deployed.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The rules.
    pub rules: Rules,
    /// How long a task goes on serving after SIGTERM.
    pub drain: Duration,
    /// How long a task takes from the start of its container until it listens.
    pub boot: Duration,
    /// How long clients send requests before the deployment begins.
    pub warm_up: Duration,
    /// How long a task works on a request.
    pub answers_in: Duration,
    /// Whether a task that has drained finishes the requests that it still has, before it exits.
    pub finishes: bool,
    /// How long after a task's end its address drops packets; before that it refuses. None: it refuses for ever.
    pub silent_after: Option<Duration>,
    /// How long after a task's end another service listens at its address. None: never.
    pub reused_after: Option<Duration>,
    /// What is special about the tasks of a revision.
    pub conduct: BTreeMap<u32, Conduct>,
    /// When a film ends at the latest.
    pub longest: Duration,
}

/// What is special about the tasks of a revision. Times count from the start of a task's container.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Conduct {
    /// How long a task takes until it listens, if that is not the same for all.
    pub boot: Option<Duration>,
    /// Its process runs, and never listens.
    pub never_listens: bool,
    /// Its process exits by itself then.
    pub crashes_after: Option<Duration>,
    /// It answers with errors from then on, also its health check.
    pub sickens_after: Option<Duration>,
}

impl Model {
    /// These rules, with tasks that listen soon, drain for so long, and answer at once.
    #[must_use]
    pub fn new(rules: Rules, drain: Duration) -> Self {
        Self {
            rules,
            drain,
            boot: Duration::from_millis(200),
            warm_up: Duration::from_secs(10),
            answers_in: Duration::ZERO,
            finishes: true,
            silent_after: None,
            reused_after: None,
            conduct: BTreeMap::new(),
            longest: Duration::from_hours(24),
        }
    }
}

/// Something that is done to a service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cue {
    /// When.
    pub when: When,
    /// What.
    pub act: Act,
}

/// When something is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum When {
    /// So long after clients have begun.
    At(Duration),
    /// So long after the completion of a deployment that no other cue has waited for.
    Deployed(Duration),
}

/// What is done to a service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Act {
    /// This revision is deployed.
    Deploy(u32),
    /// The service is to have so many tasks.
    Scale(u32),
    /// So many tasks are stopped, from outside: the oldest ones.
    Stop(u32),
    /// An availability zone is gone, with its tasks and all that is sent to them.
    LoseZone {
        /// Which: 0 or 1.
        zone: u8,
        /// How long it takes until the scheduler takes its tasks for ended.
        noticed_after: Duration,
    },
    /// So many tasks answer with errors from now on, also their health checks: the oldest ones.
    Sicken(u32),
    /// The authority does not answer the resolvers.
    SilenceDns {
        /// For so long.
        lasts: Duration,
        /// Whether a resolver then hands out what is over (RFC 8767).
        is_stale_served: bool,
    },
}

/// An address, by its number in a film.
pub(super) type Place = u32;

/// When somebody listened at an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Shift {
    from: Duration,
    until: Option<Duration>,
    /// From when on it answers with errors.
    sick: Option<Duration>,
    /// When whoever waits for an answer loses it.
    cut: Option<Duration>,
    /// From when on nothing comes back from the address at all.
    silent: Option<Duration>,
    /// It is another service.
    is_other: bool,
}

impl Shift {
    fn new(from: Duration) -> Self {
        Self { from, until: None, sick: None, cut: None, silent: None, is_other: false }
    }

    fn end(&mut self, at: Duration) {
        self.until = Some(self.until.map_or(at, |until| until.min(at)).max(self.from));
    }
}

/// From when to when.
type Span = (Duration, Duration);

/// Who is met at an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Met {
    /// A task that answers. It listens until then.
    Task(Duration),
    /// Somebody who takes the connection, and from whom no good answer comes. He listens until then.
    Bad(Cause, Duration),
    /// Nobody: the connection is refused.
    Nobody,
    /// Nobody, nor any sign of that.
    Silence,
}

/// A time for which the authority does not answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    from: Duration,
    pub until: Duration,
    pub is_stale_served: bool,
}

/// From when on DNS names somebody, or does not any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Naming {
    pub at: Duration,
    pub task: TaskId,
    pub address: Ipv4Addr,
    pub is_named: bool,
}

/// A deployment, as its clients meet it.
#[derive(Clone, Debug)]
pub struct Film {
    shifts: Vec<Vec<Shift>>,
    /// For each address when a request to it does harm: it fails or waits, rather than being refused or answered.
    harms: Vec<Vec<Span>>,
    has_harms: bool,
    answers_in: Duration,
    places: BTreeMap<Ipv4Addr, Place>,
    named: Vec<Naming>,
    outages: Vec<Outage>,
    /// When the first thing was done.
    begun: Duration,
    /// How long something went on. What caches remember of it is over later.
    pub length: Duration,
    /// What happened.
    pub events: Vec<Event>,
}

impl Film {
    /// A deployment of revision 2, from its beginning to its end. The TTL changes nothing in it.
    #[must_use]
    pub fn of_deploy(model: &Model, seed: u64) -> Self {
        Self::of(model, &[Cue { when: When::At(model.warm_up), act: Act::Deploy(2) }], seed)
    }

    /// What comes of these cues, until the service is as it should be again, or can go neither on nor back.
    #[must_use]
    pub fn of(model: &Model, cues: &[Cue], seed: u64) -> Self {
        let addresses = Addresses { first: Ipv4Addr::new(10, 0, 1, 1), count: 60_000 };
        let (mut cluster, actions) = Cluster::steady(model.rules.clone(), addresses, seed);
        let mut film = Self {
            shifts: Vec::new(),
            harms: Vec::new(),
            has_harms: false,
            answers_in: model.answers_in,
            places: BTreeMap::new(),
            named: Vec::new(),
            outages: Vec::new(),
            begun: Duration::MAX,
            length: Duration::ZERO,
            events: Vec::new(),
        };
        let mut stage = Stage {
            film: &mut film,
            model,
            due: BTreeMap::new(),
            next: 0,
            waiting: VecDeque::new(),
            addresses: BTreeMap::new(),
            lost: BTreeSet::new(),
            sick: BTreeSet::new(),
            now: Duration::ZERO,
        };
        for action in actions {
            if let Action::Start { task, address, .. } = action {
                stage.open(task, address, Some(Duration::ZERO));
            }
        }
        for cue in cues {
            match cue.when {
                When::At(at) => stage.later(at, Due::Act(cue.act)),
                When::Deployed(wait) => stage.waiting.push_back((wait, cue.act)),
            }
        }
        stage.play(&mut cluster);
        film.harms = film.shifts.iter().map(|shifts| harms(shifts, model.answers_in)).collect();
        film.has_harms = film.harms.iter().any(|harms| !harms.is_empty());
        film
    }

    /// Whom DNS named, change by change.
    pub(super) fn namings(&self) -> &[Naming] {
        &self.named
    }

    pub(super) fn place(&self, address: Ipv4Addr) -> Option<Place> {
        self.places.get(&address).copied()
    }

    fn shifts(&self, place: Place) -> &[Shift] {
        usize::try_from(place).ok().and_then(|index| self.shifts.get(index)).map_or(&[], Vec::as_slice)
    }

    /// The outage of the authority at that time, if there is one.
    pub(super) fn outage(&self, at: Duration) -> Option<&Outage> {
        self.outages.iter().find(|outage| outage.from <= at && at < outage.until)
    }

    /// Whether resolvers hand out what is over.
    pub(super) fn is_stale_served(&self) -> bool {
        self.outages.iter().any(|outage| outage.is_stale_served)
    }

    /// Whom a request meets that is sent to this address then.
    pub(super) fn meet(&self, place: Place, at: Duration) -> Met {
        let shifts = self.shifts(place);
        let is_on = |shift: &&Shift| shift.from <= at && shift.until.is_none_or(|until| at < until);
        if let Some(shift) = shifts.iter().find(is_on) {
            let until = shift.until.unwrap_or(Duration::MAX);
            return if shift.is_other {
                Met::Bad(Cause::WrongService, until)
            } else if shift.sick.is_some_and(|sick| sick <= at) {
                Met::Bad(Cause::AppError, until)
            } else if shift.cut.is_some_and(|cut| cut < at + self.answers_in) {
                Met::Bad(Cause::KilledInFlight, until)
            } else {
                Met::Task(until)
            };
        }
        let last = shifts.iter().rev().find(|shift| shift.until.is_some_and(|until| until <= at));
        let is_silent = last.and_then(|shift| shift.silent).is_some_and(|silent| silent <= at);
        if is_silent { Met::Silence } else { Met::Nobody }
    }

    /// Until when somebody listens there without a break. None if nobody does.
    pub(super) fn served_until(&self, place: Place, at: Duration) -> Option<Duration> {
        let is_on = |shift: &&Shift| shift.from <= at && shift.until.is_none_or(|until| at < until);
        self.shifts(place).iter().find(is_on).map(|shift| shift.until.unwrap_or(Duration::MAX))
    }

    /// Until when a request to this address is answered at once, or refused at once. Not after `at` if it is neither.
    pub(super) fn harmless_until(&self, place: Place, at: Duration) -> Duration {
        if !self.has_harms {
            return Duration::MAX;
        }
        let harms = usize::try_from(place).ok().and_then(|index| self.harms.get(index)).map_or(&[][..], Vec::as_slice);
        harms.iter().find(|(_, until)| at < *until).map_or(Duration::MAX, |(from, _)| (*from).max(at))
    }

    /// Whether a connection to this address, which would have been good until then, hangs rather than being closed.
    pub(super) fn hangs_at(&self, place: Place, end: Duration) -> bool {
        self.shifts(place).iter().any(|shift| shift.until == Some(end) && shift.silent == Some(end))
    }

    /// Whether somebody listened there before.
    pub(super) fn is_over(&self, place: Place, at: Duration) -> bool {
        self.shifts(place).iter().any(|shift| !shift.is_other && shift.until.is_some_and(|until| until <= at))
    }

    /// From the first thing that was done until the last process that it ended had gone.
    #[must_use]
    pub fn took(&self) -> Option<Duration> {
        let ended = self.events.iter().rev().find(|event| {
            matches!(event.what, What::Exited { .. } | What::DeploymentCompleted { .. } | What::DeploymentFailed { .. })
        });
        ended.and_then(|event| event.at.checked_sub(self.begun))
    }

    /// The least and the most tasks that DNS named at a time, from the first thing that was done on.
    #[must_use]
    pub fn named(&self) -> (usize, usize) {
        let changes = self.named.iter().map(|naming| (naming.at, naming.is_named));
        extremes(changes.collect(), self.begun)
    }

    /// The least and the most tasks that listened at a time, from the first thing that was done on.
    #[must_use]
    pub fn serving(&self) -> (usize, usize) {
        let ours = self.shifts.iter().flatten().filter(|shift| !shift.is_other);
        let changes = ours.flat_map(|shift| {
            let end = shift.until.into_iter().chain(shift.sick).min();
            [Some((shift.from, true)), end.map(|end| (end, false))].into_iter().flatten()
        });
        extremes(changes.collect(), self.begun)
    }

    /// From the first new record to the SIGTERM of the last old task: the gap of the law, before any drain.
    #[must_use]
    pub fn gap(&self) -> Option<Duration> {
        let begun = self.events.iter().find(|event| matches!(event.what, What::DeploymentStarted { .. }))?.at;
        let is_first = |event: &&Event| event.at > begun && matches!(event.what, What::Registered { .. });
        let named = self.events.iter().find(is_first)?.at;
        let stopped = self.events.iter().rev().find(|event| matches!(event.what, What::Signalled { .. }))?.at;
        stopped.checked_sub(named)
    }
}

/// The least and the most of what comes and goes, from a time on.
fn extremes(mut changes: Vec<(Duration, bool)>, begun: Duration) -> (usize, usize) {
    changes.sort_by_key(|(at, _)| *at);
    let (mut count, mut least, mut most) = (0_usize, None, None);
    let mut changes = changes.into_iter().peekable();
    while let Some((at, is_more)) = changes.next() {
        count = if is_more { count + 1 } else { count.saturating_sub(1) };
        // What comes and what goes at one moment is one change; what was there as it began counts as well.
        let next = changes.peek().map(|(next, _)| *next);
        if next != Some(at) && next.is_none_or(|next| next > begun) {
            least = Some(least.map_or(count, |least: usize| least.min(count)));
            most = Some(most.map_or(count, |most: usize| most.max(count)));
        }
    }
    (least.unwrap_or(0), most.unwrap_or(0))
}

/// When a request to an address with these shifts neither is answered at once nor refused at once.
fn harms(shifts: &[Shift], answers_in: Duration) -> Vec<Span> {
    let mut harms = Vec::new();
    for (index, shift) in shifts.iter().enumerate() {
        let until = shift.until.unwrap_or(Duration::MAX);
        let sick = if shift.is_other { Some(shift.from) } else { shift.sick };
        harms.extend(sick.map(|sick| (sick, until)));
        harms.extend(shift.cut.map(|cut| (cut.saturating_sub(answers_in), until.min(cut))));
        let next = shifts.get(index + 1).map_or(Duration::MAX, |next| next.from);
        harms.extend(shift.silent.map(|silent| (silent, next)));
    }
    harms.retain(|(from, until)| from < until);
    harms.sort_unstable();
    harms
}

/// What is yet to come.
enum Due {
    Fact(Fact),
    Act(Act),
}

/// Processes that do as they are told.
struct Stage<'a> {
    film: &'a mut Film,
    model: &'a Model,
    /// What is yet to come, in the order in which it was foreseen where it comes at once.
    due: BTreeMap<(Duration, u64), Due>,
    next: u64,
    /// What waits for the completion of a deployment, and for so long after it.
    waiting: VecDeque<(Duration, Act)>,
    addresses: BTreeMap<TaskId, Ipv4Addr>,
    /// Whose machine is gone, and nobody has noticed.
    lost: BTreeSet<TaskId>,
    /// Whose answers are errors.
    sick: BTreeSet<TaskId>,
    now: Duration,
}

impl Stage<'_> {
    fn later(&mut self, at: Duration, due: Due) {
        self.due.insert((at, self.next), due);
        self.next += 1;
    }

    fn play(&mut self, cluster: &mut Cluster) {
        while self.now < self.model.longest {
            let wake = cluster.deadline().max(self.now);
            let due = self.due.first_key_value().map(|(key, _)| *key).filter(|(at, _)| *at <= wake);
            self.now = due.map_or(wake, |(at, _)| self.now.max(at));
            let fact = match due.and_then(|key| self.due.remove(&key)) {
                Some(Due::Fact(fact)) => fact,
                Some(Due::Act(act)) => {
                    self.film.begun = self.film.begun.min(self.now);
                    self.perform(act, cluster)
                }
                None => Fact::Wake,
            };
            if let Fact::Exited { task, .. } = &fact {
                self.close(*task);
            }
            let actions = cluster.handle(fact, self.now);
            for event in cluster.events() {
                self.record(event);
            }
            for action in actions {
                self.act(action);
            }
            if self.film.begun <= self.now && self.due.is_empty() && self.is_over(cluster) {
                break;
            }
        }
        self.film.length = self.now;
    }

    fn is_over(&self, cluster: &Cluster) -> bool {
        // Who is sick is found by a health check, and by nothing else.
        let is_sick = |id| self.model.rules.has_health_check && self.sick.contains(&id);
        cluster.is_settled(self.now)
            && cluster.has_nothing_to_show()
            && !cluster.tasks().any(|task| task.is_live() && is_sick(task.id))
    }

    /// Does what is asked for, and says what the cluster is told of that at once.
    fn perform(&mut self, act: Act, cluster: &Cluster) -> Fact {
        let live = |count: u32| -> Vec<TaskId> {
            let live = cluster.tasks().filter(|task| task.is_live()).map(|task| task.id);
            live.take(usize::try_from(count).unwrap_or(usize::MAX)).collect()
        };
        match act {
            Act::Deploy(revision) => Fact::Deploy { revision },
            Act::Scale(desired) => Fact::Desired(desired),
            Act::Stop(count) => {
                for task in live(count) {
                    self.later(self.now, Due::Fact(Fact::Stop(task)));
                }
                Fact::Note(format!("{count} tasks are stopped from outside"))
            }
            Act::LoseZone { zone, noticed_after } => {
                let gone: Vec<_> = cluster.tasks().filter(|task| task.zone == zone).map(|task| task.id).collect();
                for task in gone {
                    self.lose(task, noticed_after);
                }
                Fact::Note(format!("availability zone {zone} is gone"))
            }
            Act::Sicken(count) => {
                for task in live(count) {
                    self.sicken(task, self.now);
                }
                Fact::Note(format!("{count} tasks answer with errors"))
            }
            Act::SilenceDns { lasts, is_stale_served } => {
                let until = self.now + lasts;
                self.film.outages.push(Outage { from: self.now, until, is_stale_served });
                self.later(until, Due::Fact(Fact::Note("the authority answers again".to_owned())));
                Fact::Note("the authority does not answer".to_owned())
            }
        }
    }

    fn record(&mut self, event: Event) {
        let naming = match event.what {
            What::Created { task, address, .. } => {
                self.addresses.insert(task, address);
                None
            }
            What::Registered { task } => Some((task, true)),
            What::Deregistered { task } => Some((task, false)),
            What::DeploymentCompleted { .. } => {
                if let Some((wait, act)) = self.waiting.pop_front() {
                    self.later(event.at + wait, Due::Act(act));
                }
                None
            }
            What::Moved { .. }
            | What::Health { .. }
            | What::Listens { .. }
            | What::Signalled { .. }
            | What::Exited { .. }
            | What::DeploymentStarted { .. }
            | What::DeploymentFailed { .. }
            | What::Note { .. } => None,
        };
        if let Some((task, is_named)) = naming
            && let Some(address) = self.addresses.get(&task).copied()
        {
            self.film.named.push(Naming { at: event.at, task, address, is_named });
        }
        self.film.events.push(event);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start { task, revision, address } => self.start(task, revision, address),
            Action::Terminate(task) | Action::Kill(task) if self.lost.contains(&task) => {}
            Action::Terminate(task) => {
                let deaf = self.now + self.model.drain;
                let busy = if self.model.finishes { self.model.answers_in } else { Duration::ZERO };
                let finishes = self.model.finishes;
                if let Some(shift) = self.shift(task) {
                    shift.end(deaf);
                    shift.cut = if finishes { shift.cut } else { Some(deaf) };
                }
                // It may end earlier by itself.
                let is_its = |due: &Due| matches!(due, Due::Fact(Fact::Exited { task: it, .. }) if *it == task);
                if !self.due.iter().any(|((at, _), due)| *at <= deaf + busy && is_its(due)) {
                    self.due.retain(|_, due| !is_its(due));
                    self.later(deaf + busy, Due::Fact(Fact::Exited { task, how: "exit code 0".to_owned() }));
                }
            }
            Action::Kill(task) => {
                self.due.retain(|_, due| !matches!(due, Due::Fact(Fact::Exited { task: it, .. }) if *it == task));
                let now = self.now;
                if let Some(shift) = self.shift(task) {
                    shift.end(now);
                    shift.cut = Some(now);
                }
                self.later(now, Due::Fact(Fact::Exited { task, how: "SIGKILL".to_owned() }));
            }
            Action::Probe { task, .. } if self.lost.contains(&task) => {}
            Action::Probe { task, address } => {
                let met = self.film.place(address).map(|place| self.film.meet(place, self.now));
                let is_good = match met {
                    Some(Met::Task(_)) => true,
                    // Only those requests are cut that take as long as the others; a probe does not.
                    Some(Met::Bad(cause, _)) => cause == Cause::KilledInFlight,
                    Some(Met::Nobody | Met::Silence) | None => false,
                };
                self.later(self.now, Due::Fact(Fact::Probed { task, is_good }));
            }
        }
    }

    /// A task's process starts.
    fn start(&mut self, task: TaskId, revision: u32, address: Ipv4Addr) {
        let conduct = self.model.conduct.get(&revision).copied().unwrap_or_default();
        let listens = self.now + conduct.boot.unwrap_or(self.model.boot);
        self.open(task, address, (!conduct.never_listens).then_some(listens));
        if let Some(after) = conduct.crashes_after {
            let how = "exit code 1".to_owned();
            self.later(self.now + after, Due::Fact(Fact::Exited { task, how }));
        }
        if let Some(after) = conduct.sickens_after {
            self.sicken(task, self.now + after);
        }
    }

    /// A task has an address, and listens there from then on, if ever.
    fn open(&mut self, task: TaskId, address: Ipv4Addr, from: Option<Duration>) {
        self.addresses.insert(task, address);
        let next = Place::try_from(self.film.shifts.len()).unwrap_or(Place::MAX);
        let place = *self.film.places.entry(address).or_insert(next);
        if place == next {
            self.film.shifts.push(Vec::new());
        }
        let index = usize::try_from(place).ok();
        if let Some(shifts) = index.and_then(|index| self.film.shifts.get_mut(index)) {
            shifts.extend(from.map(Shift::new));
        }
    }

    fn shifts(&mut self, task: TaskId) -> Option<&mut Vec<Shift>> {
        let place = self.addresses.get(&task).and_then(|address| self.film.place(*address))?;
        self.film.shifts.get_mut(usize::try_from(place).ok()?)
    }

    /// A task's time at its address.
    fn shift(&mut self, task: TaskId) -> Option<&mut Shift> {
        self.shifts(task)?.iter_mut().rev().find(|shift| !shift.is_other)
    }

    fn sicken(&mut self, task: TaskId, at: Duration) {
        self.sick.insert(task);
        if let Some(shift) = self.shift(task) {
            shift.sick = Some(at);
        }
    }

    /// A task's machine is gone, and with it whoever would tell of that.
    fn lose(&mut self, task: TaskId, noticed_after: Duration) {
        let now = self.now;
        self.lost.insert(task);
        self.due.retain(|_, due| !matches!(due, Due::Fact(Fact::Exited { task: it, .. }) if *it == task));
        if let Some(shift) = self.shift(task) {
            shift.end(now);
            shift.cut = Some(now);
            shift.silent = shift.until;
        }
        let how = "lost with its availability zone".to_owned();
        self.later(now + noticed_after, Due::Fact(Fact::Exited { task, how }));
    }

    /// A task's process is gone.
    fn close(&mut self, task: TaskId) {
        let (now, silent, reused) = (self.now, self.model.silent_after, self.model.reused_after);
        let is_lost = self.lost.contains(&task);
        if let Some(shift) = self.shift(task) {
            // Nobody had asked it to: what it was at is lost.
            if shift.until.is_none_or(|until| now < until) {
                shift.end(now);
                shift.cut = Some(now);
            }
            if !is_lost {
                shift.silent = silent.map(|after| now + after);
            }
        }
        if let Some(after) = reused.filter(|_| !is_lost)
            && let Some(shifts) = self.shifts(task)
        {
            shifts.push(Shift { is_other: true, ..Shift::new(now + after) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_gap_is_what_the_article_saw() {
        let film = Film::of_deploy(&Model::new(Rules::default(), secs(0)), 1);
        let gap = film.gap().unwrap();
        assert!((secs(35)..=secs(41)).contains(&gap), "{gap:?}");
    }

    #[test]
    fn a_drain_makes_a_deployment_longer_by_itself() {
        let took = |drain| {
            let rules = Rules { stop_timeout: secs(120), ..Rules::default() };
            Film::of_deploy(&Model::new(rules, drain), 1).took().unwrap()
        };
        // Up to a tick passes anyway until the scheduler sees that all is done.
        assert!((secs(61)..=secs(65)).contains(&took(secs(65)).saturating_sub(took(secs(0)))));
    }

    #[test]
    fn a_task_is_reached_from_its_start_to_its_end() {
        let film = Film::of_deploy(&Model::new(Rules::default(), secs(20)), 1);
        let at = |wanted: fn(&What) -> bool| film.events.iter().find(|event| wanted(&event.what)).unwrap().at;
        let first = film.place(Ipv4Addr::new(10, 0, 1, 1)).unwrap();
        let stopped = at(|what| matches!(what, What::Signalled { task: TaskId(1), .. }));
        assert_eq!(film.served_until(first, secs(0)), Some(stopped + secs(20)));
        assert_eq!(film.served_until(first, stopped + secs(20)), None);
        assert!(film.is_over(first, stopped + secs(20)) && !film.is_over(first, stopped + secs(19)));
        let new = film.place(Ipv4Addr::new(10, 0, 1, 5)).unwrap();
        assert_eq!(film.served_until(new, secs(10)), None);
        assert_eq!(film.served_until(new, film.length), Some(Duration::MAX));
        assert!(!film.is_over(new, film.length));
    }

    fn of(model: &Model, acts: &[(u64, Act)]) -> Film {
        let cues: Vec<_> = acts.iter().map(|(at, act)| Cue { when: When::At(secs(*at)), act: *act }).collect();
        Film::of(model, &cues, 1)
    }

    fn exits(film: &Film, how: &str) -> Vec<(Duration, TaskId)> {
        let is_so = |it: &str| it == how;
        let exited = film.events.iter().filter_map(|event| {
            if let What::Exited { task, how } = &event.what { is_so(how).then_some((event.at, *task)) } else { None }
        });
        exited.collect()
    }

    fn plain() -> Model {
        Model::new(Rules { stop_timeout: secs(30), ..Rules::default() }, secs(0))
    }

    #[test]
    fn what_is_asked_for_is_done_when_it_is_asked_for_and_the_film_ends_when_all_is_well() {
        let film = of(&plain(), &[(10, Act::Scale(2)), (50, Act::Scale(3))]);
        assert_eq!((film.named(), film.serving()), ((2, 4), (2, 3)));
        assert_eq!(exits(&film, "exit code 0").iter().map(|(at, _)| at.as_secs()).collect::<Vec<_>>(), [10, 10]);
        assert!(secs(100) < film.length && film.length < secs(140), "{:?}", film.length);
        let cue = |when, act| Cue { when, act };
        let cues = [cue(When::At(secs(10)), Act::Deploy(2)), cue(When::Deployed(secs(7)), Act::Deploy(3))];
        let film = Film::of(&plain(), &cues, 1);
        let at = |what: &What| film.events.iter().find(|event| event.what == *what).unwrap().at;
        let (first, second) = (What::DeploymentCompleted { revision: 2 }, What::DeploymentStarted { revision: 3 });
        assert_eq!(at(&second), at(&first) + secs(7));
        assert!(film.events.iter().any(|event| event.what == What::DeploymentCompleted { revision: 3 }));
    }

    #[test]
    fn a_lost_zone_is_silent_and_noticed_later() {
        let film = of(&plain(), &[(10, Act::LoseZone { zone: 1, noticed_after: secs(60) })]);
        let lost = film.place(Ipv4Addr::new(10, 0, 1, 1)).unwrap();
        let left = film.place(Ipv4Addr::new(10, 0, 1, 2)).unwrap();
        assert_eq!(film.meet(lost, secs(9)), Met::Task(secs(10)));
        assert_eq!((film.meet(lost, secs(10)), film.meet(left, secs(10))), (Met::Silence, Met::Task(Duration::MAX)));
        assert!(film.hangs_at(lost, secs(10)) && !film.hangs_at(left, secs(10)));
        assert_eq!((film.harmless_until(lost, secs(3)), film.harmless_until(lost, secs(12))), (secs(10), secs(12)));
        assert_eq!(film.harmless_until(left, secs(3)), Duration::MAX);
        let lost = exits(&film, "lost with its availability zone");
        assert_eq!(lost, [(secs(70), TaskId(1)), (secs(70), TaskId(3))]);
    }

    #[test]
    fn a_task_that_crashes_or_never_listens_ends_a_deployment() {
        let how = |conduct| {
            let mut model = plain();
            model.conduct.insert(2, conduct);
            of(&model, &[(10, Act::Deploy(2))])
        };
        let has_failed = |film: &Film| film.events.iter().any(|it| matches!(it.what, What::DeploymentFailed { .. }));
        let film = how(Conduct { crashes_after: Some(secs(5)), ..Conduct::default() });
        assert!(exits(&film, "exit code 1").len() >= 3 && has_failed(&film));
        let film = how(Conduct { never_listens: true, ..Conduct::default() });
        assert!(exits(&film, "exit code 1").is_empty() && has_failed(&film));
        assert_eq!(film.serving(), (2, 4));
        let film = how(Conduct { sickens_after: Some(secs(1)), ..Conduct::default() });
        assert!(has_failed(&film), "its health check fails");
        assert!(!has_failed(&how(Conduct::default())));
    }

    #[test]
    fn what_is_in_flight_is_finished_or_cut() {
        let met = |model: Model, before: u64| {
            let film = of(&model, &[(10, Act::Stop(1))]);
            let place = film.place(Ipv4Addr::new(10, 0, 1, 1)).unwrap();
            let ended = film.events.iter().find(|event| matches!(event.what, What::Exited { .. })).unwrap().at;
            (film.meet(place, secs(40 - before)), ended)
        };
        let slow = Model { answers_in: secs(2), drain: secs(30), ..plain() };
        let cut = Met::Bad(Cause::KilledInFlight, secs(40));
        assert_eq!(met(slow.clone(), 1), (cut, secs(40)), "the stop timeout is over as it finishes");
        assert_eq!(met(slow.clone(), 3), (Met::Task(secs(40)), secs(40)));
        let rules = Rules { stop_timeout: secs(45), ..Rules::default() };
        let patient = Model { rules, ..slow };
        assert_eq!(met(patient.clone(), 1), (Met::Task(secs(40)), secs(42)));
        assert_eq!(met(Model { finishes: false, ..patient }, 1), (cut, secs(40)));
    }

    #[test]
    fn an_address_refuses_then_is_silent_and_may_be_anothers_later() {
        let model = Model { silent_after: Some(secs(10)), reused_after: Some(secs(20)), ..plain() };
        let film = of(&model, &[(10, Act::Stop(1))]);
        let place = film.place(Ipv4Addr::new(10, 0, 1, 1)).unwrap();
        let other = Met::Bad(Cause::WrongService, Duration::MAX);
        assert_eq!(
            [10, 19, 20, 29, 30].map(|at| film.meet(place, secs(at))),
            [Met::Nobody, Met::Nobody, Met::Silence, Met::Silence, other]
        );
        assert!(film.is_over(place, secs(30)));
    }

    #[test]
    fn sick_tasks_are_replaced_and_meanwhile_are_met_as_such() {
        let film = of(&plain(), &[(10, Act::Sicken(1))]);
        let place = film.place(Ipv4Addr::new(10, 0, 1, 1)).unwrap();
        assert!(matches!(film.meet(place, secs(10)), Met::Bad(Cause::AppError, _)));
        let ended = exits(&film, "exit code 0");
        assert_eq!((ended.len(), ended[0].1), (1, TaskId(1)), "the sick one, and no other");
        assert_eq!(film.serving().0, 3);
    }
}

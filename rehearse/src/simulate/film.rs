//! A deployment as its clients meet it: who listened where and when, and whom DNS named. Pure.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use crate::{
    cluster::{Action, Addresses, Cluster, Fact},
    rules::Rules,
    timeline::{Event, TaskId, What},
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
}

impl Model {
    /// These rules, with tasks that listen soon and drain for so long.
    #[must_use]
    pub fn new(rules: Rules, drain: Duration) -> Self {
        Self { rules, drain, boot: Duration::from_millis(200), warm_up: Duration::from_secs(10) }
    }
}

/// An address, by its number in a film.
pub(super) type Place = u32;

/// When somebody listened at an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Shift {
    from: Duration,
    until: Option<Duration>,
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
    places: BTreeMap<Ipv4Addr, Place>,
    named: Vec<Naming>,
    /// How long something went on. What caches remember of it is over later.
    pub length: Duration,
    /// What happened.
    pub events: Vec<Event>,
}

impl Film {
    /// A deployment of revision 2, from its beginning to its end. The TTL changes nothing in it.
    #[must_use]
    pub fn of_deploy(model: &Model, seed: u64) -> Self {
        let addresses = Addresses { first: Ipv4Addr::new(10, 0, 1, 1), count: 60_000 };
        let (mut cluster, actions) = Cluster::steady(model.rules.clone(), addresses, seed);
        let mut film = Self {
            shifts: Vec::new(),
            places: BTreeMap::new(),
            named: Vec::new(),
            length: Duration::ZERO,
            events: Vec::new(),
        };
        let mut stage = Stage {
            film: &mut film,
            model,
            facts: BTreeMap::new(),
            next: 0,
            addresses: BTreeMap::new(),
            now: Duration::ZERO,
        };
        for action in actions {
            if let Action::Start { task, address, .. } = action {
                stage.open(task, address, Duration::ZERO);
            }
        }
        stage.later(model.warm_up, Fact::Deploy { revision: 2 });
        stage.play(&mut cluster);
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

    /// Until when somebody listens there without a break. None if nobody does.
    pub(super) fn served_until(&self, place: Place, at: Duration) -> Option<Duration> {
        let is_on = |shift: &&Shift| shift.from <= at && shift.until.is_none_or(|until| at < until);
        self.shifts(place).iter().find(is_on).map(|shift| shift.until.unwrap_or(Duration::MAX))
    }

    /// Whether somebody listened there before.
    pub(super) fn is_over(&self, place: Place, at: Duration) -> bool {
        self.shifts(place).iter().any(|shift| shift.until.is_some_and(|until| until <= at))
    }

    /// From the beginning of the deployment until the last process that it ended had gone.
    #[must_use]
    pub fn took(&self) -> Option<Duration> {
        let begun = self.events.iter().find(|event| matches!(event.what, What::DeploymentStarted { .. }))?.at;
        let ended = self.events.iter().rev().find(|event| {
            matches!(event.what, What::Exited { .. } | What::DeploymentCompleted { .. } | What::DeploymentFailed { .. })
        });
        ended.map(|event| event.at.saturating_sub(begun))
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

/// Processes that do as they are told.
struct Stage<'a> {
    film: &'a mut Film,
    model: &'a Model,
    /// What is yet to come, in the order in which it was foreseen where it comes at once.
    facts: BTreeMap<(Duration, u64), Fact>,
    next: u64,
    addresses: BTreeMap<TaskId, Ipv4Addr>,
    now: Duration,
}

impl Stage<'_> {
    fn later(&mut self, at: Duration, fact: Fact) {
        self.facts.insert((at, self.next), fact);
        self.next += 1;
    }

    fn play(&mut self, cluster: &mut Cluster) {
        const LONGEST: Duration = Duration::from_hours(24);
        while self.now < LONGEST {
            let wake = cluster.deadline().max(self.now);
            let due = self.facts.first_key_value().map(|(key, _)| *key).filter(|(at, _)| *at <= wake);
            self.now = due.map_or(wake, |(at, _)| self.now.max(at));
            let fact = due.and_then(|key| self.facts.remove(&key)).unwrap_or(Fact::Wake);
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
            if cluster.deployments() > 0 && cluster.is_settled(self.now) && self.facts.is_empty() {
                break;
            }
        }
        self.film.length = self.now;
    }

    fn record(&mut self, event: Event) {
        let naming = match event.what {
            What::Created { task, address, .. } => {
                self.addresses.insert(task, address);
                None
            }
            What::Registered { task } => Some((task, true)),
            What::Deregistered { task } => Some((task, false)),
            What::Moved { .. }
            | What::Health { .. }
            | What::Listens { .. }
            | What::Signalled { .. }
            | What::Exited { .. }
            | What::DeploymentStarted { .. }
            | What::DeploymentCompleted { .. }
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
            Action::Start { task, address, .. } => self.open(task, address, self.now + self.model.boot),
            Action::Terminate(task) => {
                let how = "exit code 0".to_owned();
                self.later(self.now + self.model.drain, Fact::Exited { task, how });
            }
            Action::Kill(task) => {
                self.facts.retain(|_, fact| !matches!(fact, Fact::Exited { task: it, .. } if *it == task));
                self.later(self.now, Fact::Exited { task, how: "SIGKILL".to_owned() });
            }
            Action::Probe { task, address } => {
                let place = self.film.place(address);
                let is_good = place.is_some_and(|place| self.film.served_until(place, self.now).is_some());
                self.later(self.now, Fact::Probed { task, is_good });
            }
        }
    }

    /// A task listens at an address from then on.
    fn open(&mut self, task: TaskId, address: Ipv4Addr, from: Duration) {
        self.addresses.insert(task, address);
        let next = Place::try_from(self.film.shifts.len()).unwrap_or(Place::MAX);
        let place = *self.film.places.entry(address).or_insert(next);
        if place == next {
            self.film.shifts.push(Vec::new());
        }
        let index = usize::try_from(place).ok();
        if let Some(shifts) = index.and_then(|index| self.film.shifts.get_mut(index)) {
            shifts.push(Shift { from, until: None });
        }
    }

    /// Nobody listens at a task's address any more.
    fn close(&mut self, task: TaskId) {
        let place = self.addresses.get(&task).and_then(|address| self.film.place(*address));
        let index = place.and_then(|place| usize::try_from(place).ok());
        let shift = index.and_then(|index| self.film.shifts.get_mut(index)?.last_mut());
        if let Some(shift) = shift.filter(|shift| shift.until.is_none()) {
            shift.until = Some(self.now);
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
}

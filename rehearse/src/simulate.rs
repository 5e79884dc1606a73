//! Deployments in virtual time: the same rules, zone, caches and clients' choices as with real processes, without the
//! processes. Thousands of them in seconds, each with caches in phases of its own. Pure: one seed, one result.
//!
//! A deployment is simulated once, as a film of who listened when and whom DNS named; then any number of clients watch it. A
//! client changes nothing in it: what it would need for that, load on the tasks, is not modelled.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    cache::Cache,
    client::{Order, Profile, Tries},
    cluster::{Action, Addresses, Cluster, Fact},
    rules::Rules,
    timeline::{Event, TaskId, What},
    verdict::Cause,
    zone::Answer,
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

/// When somebody listened at an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Shift {
    from: Duration,
    until: Option<Duration>,
}

/// A deployment, as its clients meet it.
#[derive(Clone, Debug)]
pub struct Film {
    shifts: BTreeMap<Ipv4Addr, Vec<Shift>>,
    /// Whom DNS named, from each moment on.
    named: Vec<(Duration, Vec<Ipv4Addr>)>,
    ttl: Duration,
    negative_ttl: Duration,
    most_answers: usize,
    /// How long there is something to see.
    pub length: Duration,
    /// What happened.
    pub events: Vec<Event>,
}

impl Film {
    /// A deployment of revision 2, from its beginning to its end and until every cache has forgotten what was before.
    #[must_use]
    pub fn of_deploy(model: &Model, seed: u64) -> Self {
        let addresses = Addresses { first: Ipv4Addr::new(10, 0, 1, 1), count: 60_000 };
        let (mut cluster, actions) = Cluster::steady(model.rules.clone(), addresses, seed);
        let mut film = Self {
            shifts: BTreeMap::new(),
            named: Vec::new(),
            ttl: model.rules.ttl,
            negative_ttl: model.rules.negative_ttl,
            most_answers: model.rules.most_answers,
            length: Duration::ZERO,
            events: Vec::new(),
        };
        let mut stage = Stage {
            film: &mut film,
            model,
            facts: BTreeMap::new(),
            next: 0,
            places: BTreeMap::new(),
            now: Duration::ZERO,
        };
        for action in actions {
            if let Action::Start { task, address, .. } = action {
                stage.places.insert(task, address);
                stage.film.shifts.entry(address).or_default().push(Shift { from: Duration::ZERO, until: None });
            }
        }
        stage.later(model.warm_up, Fact::Deploy { revision: 2 });
        stage.play(&mut cluster);
        film.length += model.rules.ttl + model.rules.deregister_lag + Duration::from_secs(5);
        film
    }

    fn is_served(&self, address: Ipv4Addr, at: Duration) -> bool {
        let shifts = self.shifts.get(&address).map_or(&[][..], Vec::as_slice);
        shifts.iter().any(|shift| shift.from <= at && shift.until.is_none_or(|until| at < until))
    }

    /// Whether somebody listened there before.
    fn is_over(&self, address: Ipv4Addr, at: Duration) -> bool {
        self.shifts
            .get(&address)
            .is_some_and(|shifts| shifts.iter().any(|shift| shift.until.is_some_and(|until| until <= at)))
    }

    /// Until when whoever listens there goes on.
    fn ends(&self, address: Ipv4Addr, at: Duration) -> Option<Duration> {
        let shifts = self.shifts.get(&address)?;
        shifts.iter().find(|shift| shift.from <= at && shift.until.is_none_or(|until| at < until))?.until
    }

    /// What the authority says then.
    fn answer(&self, at: Duration, random: &mut fastrand::Rng) -> Answer {
        let index = self.named.partition_point(|(from, _)| *from <= at);
        let named = index.checked_sub(1).map_or(&[][..], |index| self.named[index].1.as_slice());
        if named.is_empty() {
            return Answer::NoName { ttl: self.negative_ttl };
        }
        let mut addresses = named.to_vec();
        random.shuffle(&mut addresses);
        addresses.truncate(self.most_answers);
        Answer::Addresses { addresses, ttl: self.ttl }
    }
}

/// Processes that do as they are told.
struct Stage<'a> {
    film: &'a mut Film,
    model: &'a Model,
    /// What is yet to come, in the order in which it was foreseen where it comes at once.
    facts: BTreeMap<(Duration, u64), Fact>,
    next: u64,
    places: BTreeMap<TaskId, Ipv4Addr>,
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
            self.film.events.extend(cluster.events());
            let named: Vec<_> = cluster.named(self.now).into_values().collect();
            if self.film.named.last().is_none_or(|(_, last)| *last != named) {
                self.film.named.push((self.now, named));
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

    fn act(&mut self, action: Action) {
        match action {
            Action::Start { task, address, .. } => {
                self.places.insert(task, address);
                let from = self.now + self.model.boot;
                self.film.shifts.entry(address).or_default().push(Shift { from, until: None });
            }
            Action::Terminate(task) => {
                let how = "exit code 0".to_owned();
                self.later(self.now + self.model.drain, Fact::Exited { task, how });
            }
            Action::Kill(task) => {
                self.facts.retain(|_, fact| !matches!(fact, Fact::Exited { task: it, .. } if *it == task));
                self.later(self.now, Fact::Exited { task, how: "SIGKILL".to_owned() });
            }
            Action::Probe { task, address } => {
                let is_good = self.film.is_served(address, self.now);
                self.later(self.now, Fact::Probed { task, is_good });
            }
        }
    }

    fn close(&mut self, task: TaskId) {
        let now = self.now;
        let shifts = self.places.get(&task).and_then(|address| self.film.shifts.get_mut(address));
        if let Some(shift) = shifts.and_then(|shifts| shifts.last_mut()).filter(|shift| shift.until.is_none()) {
            shift.until = Some(now);
        }
    }
}

/// How long a client keeps an answer of its own accord.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OwnCache {
    /// Not at all: it asks its resolver for each connection.
    None,
    /// For what is left of the TTL, but so long at most.
    Ttl(Duration),
    /// For so long, whatever the TTL.
    Fixed(Duration),
    /// For ever.
    Forever,
}

/// What a simulated client does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Habit {
    /// Its name.
    pub name: &'static str,
    /// How many addresses it tries.
    pub tries: Tries,
    /// In which order.
    pub order: Order,
    /// How long it keeps answers.
    pub own: OwnCache,
    /// Whether it keeps its connection for as long as the task does.
    pub is_pinned: bool,
    /// How long it goes on asking its resolver when nobody was there.
    pub waits: Duration,
    /// What it stands for.
    pub stands_for: &'static str,
}

const NO_WAIT: Duration = Duration::ZERO;

/// Clients, by what they are known for: see ecs.md of the design, and the sources named in [`crate::client`].
pub const HABITS: [Habit; 8] = [
    Habit {
        name: "front",
        tries: Tries::Next,
        order: Order::Shuffled,
        own: OwnCache::Ttl(Duration::from_secs(10)),
        is_pinned: false,
        waits: Duration::from_secs(2),
        stands_for: "this product's front",
    },
    Habit {
        name: "try-next",
        tries: Tries::Next,
        order: Order::Shuffled,
        own: OwnCache::None,
        is_pinned: false,
        waits: NO_WAIT,
        stands_for: "Go without keep-alive, curl, Node, Python",
    },
    Habit {
        name: "first-only",
        tries: Tries::First,
        order: Order::Shuffled,
        own: OwnCache::None,
        is_pinned: false,
        waits: NO_WAIT,
        stands_for: "whoever takes one address of an answer",
    },
    Habit {
        name: "fixed-order",
        tries: Tries::Next,
        order: Order::AsAnswered,
        own: OwnCache::Ttl(Duration::MAX),
        is_pinned: false,
        waits: NO_WAIT,
        stands_for: "reqwest with Hickory's cache",
    },
    Habit {
        name: "jvm",
        tries: Tries::Next,
        order: Order::AsAnswered,
        own: OwnCache::Fixed(Duration::from_secs(30)),
        is_pinned: false,
        waits: NO_WAIT,
        stands_for: "the JVM: networkaddress.cache.ttl is 30 s",
    },
    Habit {
        name: "envoy",
        tries: Tries::First,
        order: Order::Shuffled,
        own: OwnCache::Fixed(Duration::from_secs(5)),
        is_pinned: false,
        waits: NO_WAIT,
        stands_for: "Envoy's STRICT_DNS, every 5 s, without retries",
    },
    Habit {
        name: "nginx",
        tries: Tries::Next,
        order: Order::AsAnswered,
        own: OwnCache::Forever,
        is_pinned: false,
        waits: NO_WAIT,
        stands_for: "nginx with a name in proxy_pass: resolved at its start",
    },
    Habit {
        name: "keep-alive",
        tries: Tries::Next,
        order: Order::Shuffled,
        own: OwnCache::None,
        is_pinned: true,
        waits: NO_WAIT,
        stands_for: "Go's default: a connection is kept for as long as the task keeps it",
    },
];

/// The habit of that name.
///
/// # Errors
///
/// If there is none, with those that there are.
pub fn habit(name: &str) -> Result<Habit, String> {
    let all = || HABITS.iter().map(|habit| habit.name).collect::<Vec<_>>().join(", ");
    HABITS
        .into_iter()
        .find(|habit| habit.name == name)
        .ok_or_else(|| format!("{name:?} is no client: there are {}", all()))
}

/// What clients of one habit saw of one deployment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// How many requests they sent.
    pub requests: u64,
    /// How many of them failed, for each cause.
    pub failed: BTreeMap<Cause, u64>,
    /// From the first to the last failure in a row of one client, with never more than five seconds between two.
    pub longest: Duration,
}

impl Seen {
    /// How many requests failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// A client that watches a film.
struct Watcher<'a> {
    film: &'a Film,
    habit: Habit,
    resolver: Cache,
    /// When the resolver asks again: others keep it busy, so that it does as soon as its answer is over.
    asks_again: Duration,
    own: Option<(Vec<Ipv4Addr>, Duration)>,
    /// The first answer of its own is kept for this share of its time only: it has been there for long.
    share: f64,
    pinned: Option<(Ipv4Addr, Option<Duration>)>,
    random: fastrand::Rng,
}

impl Watcher<'_> {
    fn resolve(&mut self, at: Duration) -> (Vec<Ipv4Addr>, Duration) {
        while self.asks_again <= at {
            let (_, left) = self.told(self.asks_again);
            self.asks_again += left.max(Duration::from_secs(1));
        }
        self.told(at)
    }

    fn told(&mut self, at: Duration) -> (Vec<Ipv4Addr>, Duration) {
        let (film, random) = (self.film, &mut self.random);
        let shuffled = &mut random.fork();
        let reply = self.resolver.answer(at, || Some(film.answer(at, random)), |addresses| shuffled.shuffle(addresses));
        match reply.map(|reply| reply.answer) {
            Some(Answer::Addresses { addresses, ttl }) => (addresses, ttl),
            Some(Answer::NoName { ttl }) => (Vec::new(), ttl),
            None => (Vec::new(), Duration::ZERO),
        }
    }

    fn known(&mut self, at: Duration) -> Vec<Ipv4Addr> {
        if let Some((addresses, until)) = &self.own
            && at < *until
        {
            return addresses.clone();
        }
        let (addresses, ttl) = self.resolve(at);
        let kept = match self.habit.own {
            OwnCache::None => None,
            OwnCache::Ttl(most) => Some(ttl.min(most)),
            OwnCache::Fixed(time) => Some(time),
            OwnCache::Forever => Some(Duration::MAX / 4),
        };
        // What is not there is asked for again.
        let kept =
            kept.filter(|_| !addresses.is_empty()).map(|kept| kept.mul_f64(std::mem::replace(&mut self.share, 1.0)));
        self.own = kept.map(|kept| (addresses.clone(), at.saturating_add(kept)));
        addresses
    }

    /// Why a request that is sent then fails. None if it does not.
    fn ask(&mut self, at: Duration) -> Option<Cause> {
        if let Some((_, until)) = self.pinned
            && until.is_none_or(|until| at < until)
        {
            return None;
        }
        self.pinned = None;
        let mut addresses = self.known(at);
        if self.habit.order == Order::Shuffled {
            self.random.shuffle(&mut addresses);
        }
        let tried = match self.habit.tries {
            Tries::First => addresses.len().min(1),
            Tries::Next => addresses.len(),
        };
        let reached = addresses[..tried].iter().find(|address| self.film.is_served(**address, at)).copied();
        if let Some(address) = reached {
            if self.habit.is_pinned {
                self.pinned = Some((address, self.film.ends(address, at)));
            }
            return None;
        }
        if !self.habit.waits.is_zero() {
            self.own = None;
            let later = at + self.habit.waits;
            let (addresses, _) = self.resolve(later);
            if addresses.iter().any(|address| self.film.is_served(*address, later)) {
                return None;
            }
        }
        Some(match addresses.first() {
            None => Cause::NoAddress,
            Some(_) if addresses[..tried].iter().any(|address| !self.film.is_over(*address, at)) => {
                Cause::NotYetListening
            }
            Some(_) if tried < addresses.len() => Cause::StaleFirstDead,
            Some(_) => Cause::StaleAllDead,
        })
    }
}

/// What `clients` of a habit see of a film, each sending `rate` requests a second through a resolver's cache in a phase of
/// its own.
#[must_use]
pub fn watch(film: &Film, habit: Habit, clients: usize, rate: f64, chance: u64) -> Seen {
    let mut seen = Seen::default();
    let mut random = fastrand::Rng::with_seed(chance);
    let interval = Duration::from_secs_f64(1.0 / rate);
    for _ in 0..clients {
        let resolver = Cache::in_phase(1.0 - random.f64());
        let share = if habit.own == OwnCache::Forever { 1.0 } else { 1.0 - random.f64() };
        let asks_again = Duration::ZERO;
        let mut watcher =
            Watcher { film, habit, resolver, asks_again, own: None, share, pinned: None, random: random.fork() };
        let mut at = interval.mul_f64(random.f64());
        let mut failing: Option<(Duration, Duration)> = None;
        while at < film.length {
            seen.requests += 1;
            if let Some(cause) = watcher.ask(at) {
                *seen.failed.entry(cause).or_default() += 1;
                let begun =
                    failing.filter(|(_, last)| at <= *last + Duration::from_secs(5)).map_or(at, |(begun, _)| begun);
                failing = Some((begun, at));
                seen.longest = seen.longest.max(at.saturating_sub(begun) + interval);
            }
            at += interval;
        }
    }
    seen
}

/// What came of many deployments.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Forecast {
    /// The clients' habit.
    pub client: String,
    /// How many deployments there were.
    pub deploys: usize,
    /// In which share of them a request failed.
    pub any: f64,
    /// How many requests failed in one, on average.
    pub mean: f64,
    /// In how many of a hundred deployments no more failed: in 95.
    pub p95: u64,
    /// How many failed in the worst of them.
    pub worst: u64,
    /// How many were sent in one, on average.
    pub requests: f64,
    /// For how long the requests of one client failed at worst, in seconds.
    pub longest: f64,
    /// How many failed for each cause, on average.
    pub by_cause: BTreeMap<String, f64>,
}

/// What clients of each habit see of so many deployments, each of which has chances and cache phases of its own.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts of requests and deployments")]
pub fn forecast(
    model: &Model,
    habits: &[Habit],
    deploys: usize,
    clients: usize,
    rate: f64,
    chance: u64,
) -> Vec<Forecast> {
    let mut seen: Vec<Vec<Seen>> = vec![Vec::with_capacity(deploys); habits.len()];
    let mut random = fastrand::Rng::with_seed(chance);
    for _ in 0..deploys {
        let film = Film::of_deploy(model, random.u64(..));
        for (habit, seen) in habits.iter().zip(&mut seen) {
            seen.push(watch(&film, *habit, clients, rate, random.u64(..)));
        }
    }
    let count = deploys.max(1) as f64;
    let sum = |(habit, seen): (&Habit, Vec<Seen>)| {
        let mut failures: Vec<_> = seen.iter().map(Seen::failures).collect();
        failures.sort_unstable();
        let mut by_cause = BTreeMap::new();
        for (cause, failed) in seen.iter().flat_map(|seen| &seen.failed) {
            *by_cause.entry(cause.to_string()).or_insert(0.0) += *failed as f64 / count;
        }
        let last = failures.len().saturating_sub(1);
        Forecast {
            client: habit.name.to_owned(),
            deploys,
            any: failures.iter().filter(|failed| **failed > 0).count() as f64 / count,
            mean: failures.iter().sum::<u64>() as f64 / count,
            p95: failures.get((last * 95).div_ceil(100)).copied().unwrap_or(0),
            worst: failures.last().copied().unwrap_or(0),
            requests: seen.iter().map(|seen| seen.requests).sum::<u64>() as f64 / count,
            longest: seen.iter().map(|seen| seen.longest).max().unwrap_or_default().as_secs_f64(),
            by_cause,
        }
    };
    habits.iter().zip(seen).map(sum).collect()
}

/// Whether a profile of real clients has a habit of that name: the two are compared.
#[must_use]
pub fn of_profile(profile: Profile) -> Option<Habit> {
    habit(profile.name()).ok()
}

/// When the first new record was named, and when the last old task ended: the gap of the law, before any drain.
#[must_use]
pub fn gap(film: &Film) -> Option<Duration> {
    let begun = film.events.iter().find(|event| matches!(event.what, What::DeploymentStarted { .. }))?.at;
    let named = film.events.iter().find(|event| event.at > begun && matches!(event.what, What::Registered { .. }))?.at;
    let stopped = film.events.iter().rev().find(|event| matches!(event.what, What::Signalled { .. }))?.at;
    stopped.checked_sub(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn forecasts(ttl: u64, drain: u64, names: &[&str]) -> Vec<Forecast> {
        let rules = Rules { ttl: secs(ttl), stop_timeout: secs(200), ..Rules::default() };
        let habits: Vec<_> = names.iter().map(|name| habit(name).unwrap()).collect();
        forecast(&Model::new(rules, secs(drain)), &habits, 120, 1, 10.0, 1)
    }

    #[test]
    fn a_drain_beyond_the_ttl_is_enough_for_whoever_honours_it() {
        for forecast in forecasts(30, 35, &["front", "try-next", "first-only", "fixed-order", "keep-alive"]) {
            assert_eq!(forecast.worst, 0, "{forecast:?}");
        }
        // It keeps what it has for 5 s more than it may, which the margin for a late deregistration is not meant for.
        assert!((0.001..0.1).contains(&forecasts(30, 35, &["envoy"])[0].any));
        assert_eq!(forecasts(30, 40, &["envoy"])[0].worst, 0);
        let forecast = &forecasts(30, 35, &["nginx"])[0];
        assert!(forecast.any > 0.99, "it never asks again: {forecast:?}");
    }

    #[test]
    fn without_a_drain_the_ttl_decides_and_the_gap() {
        let long = forecasts(60, 0, &["front", "try-next", "first-only"]);
        assert!((0.3..0.7).contains(&long[1].any), "{long:?}");
        assert!(long[1].longest <= 30.0, "{long:?}");
        assert!(long[0].mean < long[1].mean, "front asks again: {long:?}");
        assert!(long[2].any > 0.99, "{long:?}");
        let short = forecasts(15, 0, &["try-next", "first-only"]);
        assert_eq!(short[0].worst, 0, "{short:?}");
        assert!(short[1].any > 0.99, "{short:?}");
    }

    #[test]
    fn who_keeps_answers_longer_than_they_are_good_for_fails_for_longer() {
        let forecasts = forecasts(60, 0, &["try-next", "jvm", "nginx"]);
        assert!(forecasts[1].mean > 1.5 * forecasts[0].mean, "{forecasts:?}");
        assert!((30.0..60.0).contains(&forecasts[1].longest), "{forecasts:?}");
        assert!(forecasts[2].mean > forecasts[1].mean, "{forecasts:?}");
    }

    #[test]
    fn one_seed_gives_one_result() {
        assert_eq!(forecasts(60, 0, &["try-next"]), forecasts(60, 0, &["try-next"]));
    }

    #[test]
    fn the_gap_is_what_the_article_saw() {
        let film = Film::of_deploy(&Model::new(Rules::default(), secs(0)), 1);
        let gap = gap(&film).unwrap();
        assert!((secs(35)..=secs(41)).contains(&gap), "{gap:?}");
    }
}

//! What the authority says of a service: Cloud Map's instances and Route 53's answers. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use crate::timeline::TaskId;

/// How answers are made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Terms {
    /// The TTL of the records.
    pub ttl: Duration,
    /// How long "no such name" and "no such record" may be kept: the least of the SOA record's TTL and its last field (RFC
    /// 2308, section 5).
    pub negative_ttl: Duration,
    /// How many records an answer has at most.
    pub most_answers: usize,
    /// How long a change of health takes to show, from the first report that differs.
    pub health_delay: Duration,
    /// Whether an instance is healthy until it is reported on.
    pub is_healthy_at_first: bool,
}

/// An instance that is registered, or was, or will be.
#[derive(Clone, Debug)]
struct Instance {
    address: Ipv4Addr,
    from: Duration,
    until: Option<Duration>,
    is_healthy: bool,
    /// A health that was reported and does not show yet.
    reported: Option<(Duration, bool)>,
}

impl Instance {
    fn is_named(&self, now: Duration) -> bool {
        self.from <= now && self.until.is_none_or(|until| now < until)
    }

    fn is_healthy(&self, now: Duration) -> bool {
        match self.reported {
            Some((from, is_healthy)) if from <= now => is_healthy,
            Some(_) | None => self.is_healthy,
        }
    }
}

/// Addresses for a name, or why there are none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// Records.
    Addresses {
        /// In the order in which they are sent.
        addresses: Vec<Ipv4Addr>,
        /// How long they may be kept.
        ttl: Duration,
    },
    /// The name is not there.
    NoName {
        /// How long that may be kept.
        ttl: Duration,
    },
}

impl Answer {
    /// The same, with that much left of its time, and in this order.
    #[must_use]
    pub fn left(&self, left: Duration, shuffle: impl FnOnce(&mut [Ipv4Addr])) -> Self {
        match self {
            Self::Addresses { addresses, .. } => {
                let mut addresses = addresses.clone();
                shuffle(&mut addresses);
                Self::Addresses { addresses, ttl: left }
            }
            Self::NoName { .. } => Self::NoName { ttl: left },
        }
    }

    /// How long it may be kept.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        match self {
            Self::Addresses { ttl, .. } | Self::NoName { ttl } => *ttl,
        }
    }
}

/// A change that answers show.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Change {
    /// From when on.
    pub at: Duration,
    /// Of which task.
    pub task: TaskId,
    /// Whether it is named from then on.
    pub is_named: bool,
}

/// An answer for a service of which these are named: up to so many of them, in any order; if there are none, that there is no
/// such name. Changes their order, and costs no more for many than for a few.
///
/// Source: the routing policy MULTIVALUE, <https://docs.aws.amazon.com/cloud-map/latest/api/API_DnsConfig.html>.
pub fn answered(named: &mut [Ipv4Addr], terms: &Terms, random: &mut fastrand::Rng) -> Answer {
    if named.is_empty() {
        return Answer::NoName { ttl: terms.negative_ttl };
    }
    let most = named.len().min(terms.most_answers);
    for index in 0..most {
        named.swap(index, random.usize(index..named.len()));
    }
    Answer::Addresses { addresses: named[..most].to_vec(), ttl: terms.ttl }
}

/// The records of one service.
#[derive(Clone, Debug)]
pub struct Zone {
    terms: Terms,
    instances: BTreeMap<TaskId, Instance>,
    /// When something begins to show that does not yet.
    changes: BTreeSet<(Duration, TaskId)>,
    /// Who was registered when this was last looked at: the healthy, and the others.
    healthy: BTreeSet<TaskId>,
    others: BTreeSet<TaskId>,
}

impl Zone {
    /// No records yet.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        let (healthy, others) = (BTreeSet::new(), BTreeSet::new());
        Self { terms, instances: BTreeMap::new(), changes: BTreeSet::new(), healthy, others }
    }

    /// A task is named from then on.
    pub fn register(&mut self, task: TaskId, address: Ipv4Addr, from: Duration) {
        let is_healthy = self.terms.is_healthy_at_first;
        self.instances.insert(task, Instance { address, from, until: None, is_healthy, reported: None });
        self.changes.insert((from, task));
    }

    /// A task's health is known already: it shows at once.
    pub fn known_healthy(&mut self, task: TaskId) {
        if let Some(instance) = self.instances.get_mut(&task) {
            instance.is_healthy = true;
        }
    }

    /// A task is not named from then on. One that is not named yet never is.
    pub fn deregister(&mut self, task: TaskId, until: Duration) {
        if let Some(instance) = self.instances.get_mut(&task) {
            let until = instance.until.map_or(until, |earlier| earlier.min(until));
            instance.until = Some(until);
            self.changes.insert((until, task));
        }
    }

    /// A task's health is reported. It shows after a while; reports of the same meanwhile change nothing.
    ///
    /// Source: `HealthCheckCustomConfig`, <https://docs.aws.amazon.com/cloud-map/latest/api/API_HealthCheckCustomConfig.html>.
    pub fn report(&mut self, task: TaskId, is_healthy: bool, now: Duration) {
        let Some(instance) = self.instances.get_mut(&task) else { return };
        instance.is_healthy = instance.is_healthy(now);
        instance.reported = match instance.reported.filter(|(from, _)| now < *from) {
            Some((from, reported)) if reported == is_healthy => Some((from, reported)),
            Some(_) | None if instance.is_healthy == is_healthy => None,
            Some(_) | None => Some((now + self.terms.health_delay, is_healthy)),
        };
        if let Some((from, _)) = instance.reported {
            self.changes.insert((from, task));
        }
    }

    /// What has changed in what answers show, in the order of time. Forgets what never shows again.
    pub fn advance(&mut self, now: Duration) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some(at) = self.changes.first().map(|(at, _)| *at).filter(|at| *at <= now) {
            let mut tasks = Vec::new();
            while let Some((_, task)) = self.changes.first().filter(|(first, _)| *first == at).copied() {
                self.changes.pop_first();
                tasks.push(task);
            }
            self.look(at, &tasks, &mut changes);
        }
        changes
    }

    /// What these tasks' changes at that moment show.
    fn look(&mut self, at: Duration, tasks: &[TaskId], changes: &mut Vec<Change>) {
        let all_before = self.healthy.is_empty();
        let before: BTreeSet<_> = tasks.iter().filter(|task| self.shown().contains(task)).copied().collect();
        for task in tasks {
            self.healthy.remove(task);
            self.others.remove(task);
            let Some(instance) = self.instances.get(task) else { continue };
            if instance.is_named(at) {
                let _ = if instance.is_healthy(at) { self.healthy.insert(*task) } else { self.others.insert(*task) };
            } else if instance.until.is_some_and(|until| until <= at) {
                self.instances.remove(task);
            }
        }
        // That the first one has become healthy, or the last one has ceased to be, shows on all.
        let (before, after) = match (all_before, self.healthy.is_empty()) {
            (true, true) | (false, false) => {
                let after = tasks.iter().filter(|task| self.shown().contains(task)).copied().collect();
                (before, after)
            }
            (true, false) => {
                let unchanged = self.others.iter().filter(|task| !tasks.contains(task)).copied();
                (before.into_iter().chain(unchanged).collect(), self.healthy.clone())
            }
            (false, true) => (before, self.others.clone()),
        };
        let change = |is_named| move |task: &TaskId| Change { at, task: *task, is_named };
        changes.extend(before.difference(&after).map(change(false)));
        changes.extend(after.difference(&before).map(change(true)));
    }

    /// Who was named when this was last looked at: the healthy; if there are none, all.
    fn shown(&self) -> &BTreeSet<TaskId> {
        if self.healthy.is_empty() { &self.others } else { &self.healthy }
    }

    /// When something begins to show next.
    #[must_use]
    pub fn next_change(&self) -> Option<Duration> {
        self.changes.first().map(|(at, _)| *at)
    }

    /// Who is named: the healthy; if there are none, all.
    fn named(&self, now: Duration) -> impl Iterator<Item = (TaskId, Ipv4Addr)> {
        let all = move || self.instances.iter().filter(move |(_, instance)| instance.is_named(now));
        let is_any_healthy = all().any(|(_, instance)| instance.is_healthy(now));
        let named = all().filter(move |(_, instance)| !is_any_healthy || instance.is_healthy(now));
        named.map(|(task, instance)| (*task, instance.address))
    }

    /// The addresses of all who are named, of which an answer has eight at most.
    #[must_use]
    pub fn addresses(&self, now: Duration) -> BTreeMap<TaskId, Ipv4Addr> {
        self.named(now).collect()
    }

    /// What a question for the service's name is answered.
    pub fn answer(&self, now: Duration, random: &mut fastrand::Rng) -> Answer {
        let mut addresses: Vec<_> = self.named(now).map(|(_, address)| address).collect();
        answered(&mut addresses, &self.terms, random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const TERMS: Terms = Terms {
        ttl: secs(60),
        negative_ttl: secs(300),
        most_answers: 8,
        health_delay: secs(30),
        is_healthy_at_first: true,
    };

    fn address(number: u32) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, 1, u8::try_from(number).unwrap())
    }

    fn zone(tasks: u32) -> Zone {
        let mut zone = Zone::new(TERMS);
        for number in 1..=tasks {
            zone.register(TaskId(number), address(number), secs(0));
        }
        zone
    }

    fn answered(zone: &Zone, now: Duration) -> Vec<Ipv4Addr> {
        match zone.answer(now, &mut fastrand::Rng::with_seed(1)) {
            Answer::Addresses { mut addresses, ttl } => {
                assert_eq!(ttl, secs(60));
                addresses.sort();
                addresses
            }
            Answer::NoName { ttl } => {
                assert_eq!(ttl, secs(300));
                vec![]
            }
        }
    }

    #[test]
    fn a_task_is_named_from_its_registration_to_its_deregistration() {
        let mut zone = zone(1);
        zone.register(TaskId(2), address(2), secs(18));
        assert_eq!(zone.next_change(), Some(secs(0)));
        assert_eq!(answered(&zone, secs(17)), [address(1)]);
        assert_eq!(answered(&zone, secs(18)), [address(1), address(2)]);
        zone.deregister(TaskId(1), secs(22));
        assert_eq!(answered(&zone, secs(21)), [address(1), address(2)]);
        assert_eq!(answered(&zone, secs(22)), [address(2)]);
        let shown = |change: Change| (change.at.as_secs(), change.task.0, change.is_named);
        let changes: Vec<_> = zone.advance(secs(60)).into_iter().map(shown).collect();
        assert_eq!(changes, [(0, 1, true), (18, 2, true), (22, 1, false)]);
        assert_eq!((zone.advance(secs(61)), zone.next_change()), (vec![], None));
        zone.deregister(TaskId(2), secs(70));
        assert!(answered(&zone, secs(70)).is_empty());
    }

    #[test]
    fn a_task_that_is_deregistered_before_it_shows_never_does() {
        let mut zone = zone(0);
        zone.register(TaskId(1), address(1), secs(18));
        zone.deregister(TaskId(1), secs(17));
        assert!(answered(&zone, secs(20)).is_empty());
        assert_eq!(zone.advance(secs(20)), []);
    }

    #[test]
    fn an_answer_has_eight_records_of_more_and_each_of_them_in_its_turn() {
        let zone = zone(12);
        let mut random = fastrand::Rng::with_seed(7);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..1200 {
            let Answer::Addresses { addresses, .. } = zone.answer(secs(1), &mut random) else {
                panic!("there are some")
            };
            assert_eq!(addresses.len(), 8);
            for address in addresses {
                *counts.entry(address).or_insert(0) += 1;
            }
        }
        assert_eq!(counts.len(), 12);
        assert!(counts.values().all(|count| (720..880).contains(count)), "800 expected of each: {counts:?}");
    }

    #[test]
    fn the_unhealthy_are_not_named_after_a_while_unless_all_are() {
        let mut zone = zone(2);
        zone.report(TaskId(1), true, secs(5));
        zone.report(TaskId(1), false, secs(10));
        zone.report(TaskId(1), false, secs(25));
        assert_eq!(answered(&zone, secs(39)).len(), 2);
        assert_eq!(answered(&zone, secs(40)), [address(2)], "thirty seconds after the first report");
        zone.report(TaskId(2), false, secs(40));
        assert_eq!(answered(&zone, secs(69)), [address(2)]);
        assert_eq!(answered(&zone, secs(70)).len(), 2, "all of them, as none is healthy");
        zone.report(TaskId(1), true, secs(80));
        zone.report(TaskId(1), false, secs(90));
        assert_eq!(answered(&zone, secs(120)).len(), 2, "taken back before it showed");
        zone.report(TaskId(1), true, secs(130));
        assert_eq!(answered(&zone, secs(160)), [address(1)]);
    }

    #[test]
    fn what_answers_show_changes_with_health_too() {
        let mut zone = zone(2);
        let advance = |zone: &mut Zone, now| -> Vec<_> {
            let shown = |change: Change| (change.at.as_secs(), change.task.0, change.is_named);
            zone.advance(secs(now)).into_iter().map(shown).collect()
        };
        assert_eq!(advance(&mut zone, 1), [(0, 1, true), (0, 2, true)]);
        zone.report(TaskId(1), false, secs(10));
        assert_eq!(zone.next_change(), Some(secs(40)));
        assert_eq!(advance(&mut zone, 45), [(40, 1, false)]);
        zone.report(TaskId(2), false, secs(50));
        assert_eq!(advance(&mut zone, 90), [(80, 1, true)], "none is healthy");
        zone.deregister(TaskId(2), secs(90));
        assert_eq!(advance(&mut zone, 90), [(90, 2, false)]);
        assert_eq!(zone.next_change(), None);
    }

    #[test]
    fn what_is_told_of_changes_adds_up_to_what_answers_show() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut zone = Zone::new(Terms { is_healthy_at_first: random.bool(), ..TERMS });
            let mut named = BTreeSet::new();
            for now in 0..120 {
                let task = TaskId(random.u32(1..6));
                match random.u8(..6) {
                    0 if !zone.instances.contains_key(&task) => {
                        zone.register(task, address(task.0), secs(now + random.u64(..4)));
                    }
                    1 => zone.deregister(task, secs(now + random.u64(..4))),
                    2 | 3 => zone.report(task, random.bool(), secs(now)),
                    _ => {}
                }
                for change in zone.advance(secs(now)) {
                    assert!(change.at <= secs(now));
                    let is_new = if change.is_named { named.insert(change.task) } else { named.remove(&change.task) };
                    assert!(is_new, "seed {seed}: {change:?} changes nothing");
                }
                let shown: BTreeSet<_> = zone.addresses(secs(now)).into_keys().collect();
                assert_eq!(named, shown, "seed {seed}, {now} s");
                assert!(zone.next_change().is_none_or(|at| secs(now) < at));
            }
        }
    }
}

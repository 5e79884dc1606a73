//! Which addresses there are, when to ask DNS again, and which address gets the next request.
//!
//! Pure: the time, DNS answers and random numbers come in.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// The least time between two lookups that failed connections ask for: an outage must not become a flood of queries.
const FORCED_LOOKUP_PAUSE: Duration = Duration::from_secs(1);

/// After a failed lookup the next follows quickly, since the record may be fine, then ever more slowly.
const FAILED_LOOKUP_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A name without addresses is asked for again at least this often: the VPC resolver may say to wait for 300 seconds
/// (the SOA minimum of Cloud Map's zones), and a service that has just come up should not.
const ABSENT_LOOKUP_PAUSE: Duration = Duration::from_secs(5);

/// An address that is missing in samples is kept for this many TTLs, and at least this long: so many draws would have
/// brought it again if it were still there, more likely than not.
const SAMPLED_TTLS: u32 = 3;
const SAMPLED_LEAST: Duration = Duration::from_secs(30);

/// More addresses than any answer of a service discovery holds; what is beyond is not used.
const MOST_ADDRESSES: usize = 1024;

/// Who gets the next request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Balance {
    /// Two are drawn, and the one with fewer requests in flight wins: an address that hangs gets little, and one that is
    /// new is not flooded.
    #[default]
    LeastOfTwo,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// Always the first of DNS's answer, as clients without load balancing do. To imitate them.
    First,
}

/// The knobs of the endpoints.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// An answer is used at least this long, whatever its TTL: a TTL of 0 must not become a lookup without end.
    pub min_ttl: Duration,
    /// An answer is used at most this long: Docker's resolver says 600 seconds.
    pub max_ttl: Duration,
    /// How long the last good answer is used while lookups fail.
    pub stale_max: Duration,
    /// How long the last good answer is used while DNS says that there is no address.
    pub absent_grace: Duration,
    /// An answer with this many addresses is a sample of those that there are. 0: none is.
    pub sample: usize,
    /// How long an address that failed is passed over, at first. 0: not at all.
    pub set_aside: Duration,
    /// How long at the most, as it fails again and again.
    pub set_aside_max: Duration,
    /// If more than these percent of the addresses are set aside, all are used.
    pub panic_percent: u8,
    /// After how many answers of 500 and above in a row an address is set aside. `None`: never.
    pub eject_5xx: Option<u32>,
    /// At most these percent of the addresses are set aside for such answers.
    pub eject_5xx_percent: u8,
    /// Who gets the next request.
    pub balance: Balance,
}

/// An address as DNS gives it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Target {
    /// Where the task listens.
    pub address: SocketAddr,
    /// Its share of the requests, next to that of the others (SRV records; RFC 2782).
    pub weight: u16,
}

impl Target {
    /// One like all others, as an address record is.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self { address, weight: 1 }
    }
}

/// What a lookup brought.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The name has these addresses.
    Addresses {
        /// One for each task, in the order of the answer.
        targets: Vec<Target>,
        /// How long DNS says that this holds.
        ttl: Duration,
    },
    /// The name does not exist, or has no address.
    Absent {
        /// How long DNS says that this holds, if it does.
        ttl: Option<Duration>,
    },
    /// No answer, or one that is none: a timeout, SERVFAIL, REFUSED, garbage.
    Failed(String),
}

/// Why there is nobody to ask.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Empty {
    /// No lookup has ended yet.
    NotAskedYet,
    /// The name does not exist, or has no address.
    Absent,
    /// The lookup failed, for this reason.
    Failed(String),
}

/// What has changed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Change {
    /// Addresses that are new.
    pub added: Vec<SocketAddr>,
    /// Addresses that are to be used no more.
    pub removed: Vec<SocketAddr>,
}

/// An address and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// Where the task listens.
    pub address: SocketAddr,
    /// Its share, next to that of the others.
    pub weight: u16,
    /// Requests that it has been sent and has not answered yet.
    pub in_flight: usize,
    /// Until when it is passed over.
    pub set_aside_until: Option<Instant>,
    /// How often in a row it has been set aside.
    pub set_aside_times: u32,
    /// Answers of 500 and above in a row.
    pub errors: u32,
    /// When DNS named it last.
    pub seen_at: Instant,
    /// Whether DNS named it in its last answer.
    pub is_named: bool,
    /// Its place in that answer.
    place: usize,
    /// What smooth weighted round robin owes it.
    owed: i64,
}

impl Endpoint {
    const fn new(target: Target, place: usize, now: Instant) -> Self {
        Self {
            address: target.address,
            weight: target.weight,
            in_flight: 0,
            set_aside_until: None,
            set_aside_times: 0,
            errors: 0,
            seen_at: now,
            is_named: true,
            place,
            owed: 0,
        }
    }

    /// Whether it is passed over. One whose pause is over is on probation: it gets one request, and more when that one
    /// has been answered.
    #[must_use]
    pub fn is_set_aside(&self, now: Instant) -> bool {
        self.set_aside_until.is_some_and(|until| now < until) || self.set_aside_times > 0 && self.in_flight > 0
    }

    /// Its share in a draw. One of 0 is drawn little rather than never (RFC 2782).
    const fn share(&self) -> usize {
        if self.weight == 0 { 1 } else { self.weight as usize }
    }
}

/// The addresses behind one name.
#[derive(Debug)]
pub struct Endpoints {
    policy: Policy,
    known: Vec<Endpoint>,
    empty: Empty,
    good_at: Option<Instant>,
    absent_since: Option<Instant>,
    failures: u32,
    times_set_aside: u64,
    largest_ttl: Duration,
    looked_up_at: Option<Instant>,
    lookup_at: Option<Instant>,
}

impl Endpoints {
    /// No address is known; the first lookup is due.
    #[must_use]
    pub const fn new(policy: Policy) -> Self {
        Self {
            policy,
            known: Vec::new(),
            empty: Empty::NotAskedYet,
            good_at: None,
            absent_since: None,
            failures: 0,
            times_set_aside: 0,
            largest_ttl: Duration::ZERO,
            looked_up_at: None,
            lookup_at: None,
        }
    }

    /// One address that needs no DNS, for ever.
    #[must_use]
    pub fn fixed(policy: Policy, address: SocketAddr, now: Instant) -> Self {
        let mut endpoints = Self::new(policy);
        endpoints.known.push(Endpoint::new(Target::new(address), 0, now));
        endpoints
    }

    /// When the next lookup is due. `None`: now.
    #[must_use]
    pub const fn lookup_at(&self) -> Option<Instant> {
        self.lookup_at
    }

    /// Why there is no address, if there is none.
    #[must_use]
    pub const fn empty(&self) -> Option<&Empty> {
        if self.known.is_empty() { Some(&self.empty) } else { None }
    }

    /// All that is known, in no order.
    #[must_use]
    pub fn known(&self) -> &[Endpoint] {
        &self.known
    }

    /// When DNS gave addresses last.
    #[must_use]
    pub const fn good_at(&self) -> Option<Instant> {
        self.good_at
    }

    /// How often any address has been set aside.
    #[must_use]
    pub const fn times_set_aside(&self) -> u64 {
        self.times_set_aside
    }

    /// Takes note of a lookup that ended `now`.
    pub fn answered(&mut self, answer: Answer, now: Instant) -> Change {
        self.looked_up_at = Some(now);
        match answer {
            Answer::Addresses { targets, ttl } => {
                self.good_at = Some(now);
                self.absent_since = None;
                self.failures = 0;
                // A resolver on the way says how long its answer still holds, so the largest is nearest to the truth.
                self.largest_ttl = self.largest_ttl.max(ttl);
                self.lookup_at = Some(now + ttl.clamp(self.policy.min_ttl, self.policy.max_ttl));
                let added = self.note(targets, now);
                Change { added, removed: self.forget(now) }
            }
            Answer::Absent { ttl } => {
                let least = self.policy.min_ttl;
                self.failures = 0;
                self.lookup_at = Some(now + ttl.unwrap_or(least).clamp(least, ABSENT_LOOKUP_PAUSE.max(least)));
                let since = *self.absent_since.get_or_insert(now);
                for endpoint in &mut self.known {
                    endpoint.is_named = false;
                }
                // Between two deploys, or while the zone is loaded again, tasks that answer are better evidence.
                if now.duration_since(since) < self.policy.absent_grace && !self.known.is_empty() {
                    return Change::default();
                }
                self.empty = Empty::Absent;
                self.forget_all()
            }
            Answer::Failed(reason) => {
                let (least, most) = FAILED_LOOKUP_PAUSE;
                let pause = least.saturating_mul(2_u32.saturating_pow(self.failures)).min(most);
                self.failures = self.failures.saturating_add(1);
                self.lookup_at = Some(now + pause);
                self.empty = Empty::Failed(reason);
                if self.good_at.is_some_and(|good_at| now.duration_since(good_at) < self.policy.stale_max) {
                    return Change::default();
                }
                self.forget_all()
            }
        }
    }

    /// Takes the addresses of an answer in; those that were known keep what is known of them. Returns the new ones.
    fn note(&mut self, targets: Vec<Target>, now: Instant) -> Vec<SocketAddr> {
        let is_sample = self.policy.sample > 0 && targets.len() == self.policy.sample;
        for endpoint in &mut self.known {
            endpoint.is_named = false;
            endpoint.place = usize::MAX;
        }
        let mut added = Vec::new();
        for (place, target) in targets.into_iter().enumerate() {
            if let Some(endpoint) = self.find(target.address) {
                endpoint.weight = target.weight;
                endpoint.seen_at = now;
                endpoint.is_named = true;
                endpoint.place = endpoint.place.min(place);
            } else if self.known.len() < MOST_ADDRESSES {
                self.known.push(Endpoint::new(target, place, now));
                added.push(target.address);
            }
        }
        if !is_sample {
            // The whole truth: who is not in it is not there.
            let past = now.checked_sub(self.sampled_for()).unwrap_or(now);
            for endpoint in self.known.iter_mut().filter(|endpoint| !endpoint.is_named) {
                endpoint.seen_at = past;
            }
        }
        added
    }

    /// How long an address is kept that is missing in samples.
    fn sampled_for(&self) -> Duration {
        (self.largest_ttl * SAMPLED_TTLS).max(SAMPLED_LEAST)
    }

    fn forget(&mut self, now: Instant) -> Vec<SocketAddr> {
        let kept_for = self.sampled_for();
        let is_kept = |endpoint: &Endpoint| endpoint.is_named || now.duration_since(endpoint.seen_at) < kept_for;
        let removed =
            self.known.iter().filter(|endpoint| !is_kept(endpoint)).map(|endpoint| endpoint.address).collect();
        self.known.retain(is_kept);
        removed
    }

    fn forget_all(&mut self) -> Change {
        let removed = self.known.drain(..).map(|endpoint| endpoint.address).collect();
        Change { added: vec![], removed }
    }

    /// The address for the next attempt, which counts as in flight until [`release`](Self::release); none if each has
    /// been `tried`.
    ///
    /// Those set aside are left out, unless no other is left or too many are set aside: then they are the best there is.
    /// `random(n)` is a number below n.
    pub fn choose(
        &mut self,
        tried: &[SocketAddr],
        now: Instant,
        random: impl FnMut(usize) -> usize,
    ) -> Option<SocketAddr> {
        let set_aside = self.known.iter().filter(|endpoint| endpoint.is_set_aside(now)).count();
        let panics = set_aside * 100 > self.known.len() * usize::from(self.policy.panic_percent);
        let untried = |endpoint: &&mut Endpoint| !tried.contains(&endpoint.address);
        let mut candidates: Vec<_> =
            self.known.iter_mut().filter(untried).filter(|endpoint| panics || !endpoint.is_set_aside(now)).collect();
        if candidates.is_empty() {
            candidates = self.known.iter_mut().filter(untried).collect();
        }
        let chosen = pick(&mut candidates, self.policy.balance, random)?;
        let chosen = &mut *candidates[chosen];
        chosen.in_flight += 1;
        Some(chosen.address)
    }

    /// Whether `address` has failed lately, and is waited for no longer than it must be.
    #[must_use]
    pub fn is_set_aside(&self, address: SocketAddr, now: Instant) -> bool {
        let found = self.known.iter().find(|endpoint| endpoint.address == address);
        found.is_none_or(|endpoint| endpoint.set_aside_until.is_some_and(|until| now < until))
    }

    /// An attempt that [`choose`](Self::choose) counted is over.
    pub fn release(&mut self, address: SocketAddr) {
        if let Some(endpoint) = self.find(address) {
            // An address that left DNS and came back while the attempt was under way counts from zero.
            endpoint.in_flight = endpoint.in_flight.saturating_sub(1);
        }
    }

    /// No connection to `address` could be made, or no answer came from it: it is passed over for a while, which grows
    /// as it happens again, and DNS may know more. One that DNS no longer names is gone at once.
    pub fn failed(&mut self, address: SocketAddr, now: Instant) -> Change {
        let earliest = self.looked_up_at.map_or(now, |at| (at + FORCED_LOOKUP_PAUSE).max(now));
        self.lookup_at = self.lookup_at.map(|at| at.min(earliest));
        let Some(position) = self.known.iter().position(|endpoint| endpoint.address == address) else {
            return Change::default();
        };
        if !self.known[position].is_named && self.known.len() > 1 {
            self.known.swap_remove(position);
            return Change { added: vec![], removed: vec![address] };
        }
        self.set_aside(position, now);
        Change::default()
    }

    /// An answer came from `address`, of 500 and above or below.
    pub fn succeeded(&mut self, address: SocketAddr, is_5xx: bool, now: Instant) {
        let Some(position) = self.known.iter().position(|endpoint| endpoint.address == address) else { return };
        let endpoint = &mut self.known[position];
        endpoint.errors = if is_5xx { endpoint.errors.saturating_add(1) } else { 0 };
        if self.policy.eject_5xx.is_none_or(|limit| self.known[position].errors < limit) {
            let endpoint = &mut self.known[position];
            // Whoever was asked before it was set aside says nothing of what came later.
            if endpoint.set_aside_until.is_none_or(|until| until <= now) && !is_5xx {
                endpoint.set_aside_times = 0;
                endpoint.set_aside_until = None;
            }
            return;
        }
        let set_aside = self.known.iter().filter(|endpoint| endpoint.is_set_aside(now)).count();
        let would_be = (set_aside + 1) * 100;
        if would_be <= self.known.len() * usize::from(self.policy.eject_5xx_percent) {
            self.known[position].errors = 0;
            self.set_aside(position, now);
        }
    }

    fn set_aside(&mut self, position: usize, now: Instant) {
        let endpoint = &mut self.known[position];
        if self.policy.set_aside.is_zero() || endpoint.set_aside_until.is_some_and(|until| now < until) {
            // Requests that were under way together fail together, which is one failure.
            return;
        }
        let pause = self.policy.set_aside.saturating_mul(2_u32.saturating_pow(endpoint.set_aside_times));
        endpoint.set_aside_until = Some(now + pause.min(self.policy.set_aside_max.max(self.policy.set_aside)));
        endpoint.set_aside_times = endpoint.set_aside_times.saturating_add(1);
        self.times_set_aside += 1;
    }

    fn find(&mut self, address: SocketAddr) -> Option<&mut Endpoint> {
        self.known.iter_mut().find(|endpoint| endpoint.address == address)
    }
}

/// The place of the one that gets the request.
fn pick(candidates: &mut [&mut Endpoint], balance: Balance, mut random: impl FnMut(usize) -> usize) -> Option<usize> {
    if candidates.is_empty() {
        return None;
    }
    Some(match balance {
        Balance::LeastOfTwo => {
            let first = draw(candidates, None, &mut random);
            let second = if candidates.len() == 1 { first } else { draw(candidates, Some(first), &mut random) };
            // Each in units of its own share.
            let load = |place: usize, other: usize| candidates[place].in_flight * candidates[other].share();
            if load(second, first) < load(first, second) { second } else { first }
        }
        Balance::Random => draw(candidates, None, &mut random),
        Balance::RoundRobin => {
            // Smooth and weighted: everybody is owed its share, and whoever is owed most gets the request.
            let mut total = 0;
            for candidate in candidates.iter_mut() {
                let share = i64::from(candidate.weight.max(1));
                candidate.owed += share;
                total += share;
            }
            let most = (0..candidates.len()).rev().max_by_key(|&place| candidates[place].owed)?;
            candidates[most].owed -= total;
            most
        }
        Balance::First => (0..candidates.len()).min_by_key(|&place| candidates[place].place)?,
    })
}

/// One of them, each as likely as its share says, but not the one at `other`.
fn draw(candidates: &[&mut Endpoint], other: Option<usize>, random: &mut impl FnMut(usize) -> usize) -> usize {
    let others = || candidates.iter().enumerate().filter(|(place, _)| Some(*place) != other);
    let mut ticket = random(others().map(|(_, candidate)| candidate.share()).sum());
    for (place, candidate) in others() {
        if ticket < candidate.share() {
            return place;
        }
        ticket -= candidate.share();
    }
    // Only if `random` gave more than it was asked for.
    0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    pub(crate) const POLICY: Policy = Policy {
        min_ttl: secs(1),
        max_ttl: secs(10),
        stale_max: secs(300),
        absent_grace: secs(30),
        sample: 8,
        set_aside: secs(5),
        set_aside_max: secs(60),
        panic_percent: 50,
        eject_5xx: None,
        eject_5xx_percent: 50,
        balance: Balance::LeastOfTwo,
    };

    /// The time, which pure code takes and never reads.
    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 1, last], 1235))
    }

    fn answer(tasks: impl IntoIterator<Item = u8>, ttl: u64) -> Answer {
        Answer::Addresses { targets: tasks.into_iter().map(address).map(Target::new).collect(), ttl: secs(ttl) }
    }

    fn endpoints(tasks: impl IntoIterator<Item = u8>, now: Instant) -> Endpoints {
        let mut endpoints = Endpoints::new(POLICY);
        endpoints.answered(answer(tasks, 10), now);
        endpoints
    }

    /// All that can be chosen now, in order.
    fn all(endpoints: &mut Endpoints, now: Instant) -> Vec<SocketAddr> {
        let mut tried = Vec::new();
        while let Some(address) = endpoints.choose(&tried, now, |_| 0) {
            endpoints.release(address);
            tried.push(address);
        }
        tried.sort_unstable();
        tried
    }

    #[test]
    fn the_first_lookup_is_due_at_once_and_until_it_ends_there_is_nobody() {
        let mut endpoints = Endpoints::new(POLICY);
        assert_eq!((endpoints.lookup_at(), endpoints.empty()), (None, Some(&Empty::NotAskedYet)));
        assert_eq!(endpoints.choose(&[], now(), |_| 0), None);
    }

    #[test]
    fn the_ttl_is_honoured_between_its_clamps() {
        for (ttl, expected) in [(0, 1), (1, 1), (7, 7), (10, 10), (600, 10)] {
            let now = now();
            let mut endpoints = Endpoints::new(POLICY);
            endpoints.answered(answer([1], ttl), now);
            assert_eq!(endpoints.lookup_at(), Some(now + secs(expected)), "a TTL of {ttl}");
        }
    }

    #[test]
    fn an_answer_says_who_came_and_who_left() {
        let now = now();
        let mut endpoints = endpoints([1, 2, 2, 1], now);
        assert_eq!(all(&mut endpoints, now), [address(1), address(2)]);
        let change = endpoints.answered(answer([3, 2], 10), now);
        assert_eq!(change, Change { added: vec![address(3)], removed: vec![address(1)] });
        assert_eq!(all(&mut endpoints, now), [address(2), address(3)]);
    }

    #[test]
    fn the_order_of_the_records_does_not_matter() {
        let mut counts = [0; 4];
        let mut endpoints = endpoints([1, 2, 3, 4], now());
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..4000 {
            let chosen = endpoints.choose(&[], now(), |n| random.usize(..n)).unwrap();
            counts[(1..=4).position(|task| address(task) == chosen).unwrap()] += 1;
            endpoints.release(chosen);
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }

    #[test]
    fn of_two_the_one_with_fewer_requests_in_flight_is_chosen() {
        let now = now();
        let mut endpoints = endpoints([1, 2], now);
        for first in [0, 1] {
            let busy = endpoints.choose(&[], now, |n| first % n).unwrap();
            let other = endpoints.choose(&[], now, |n| first % n).unwrap();
            assert_ne!(busy, other);
            endpoints.release(busy);
            endpoints.release(other);
        }
    }

    #[test]
    fn a_request_that_is_over_no_longer_counts_and_a_tie_is_the_first_ones() {
        let now = now();
        let mut endpoints = endpoints([1, 2], now);
        for _ in 0..3 {
            assert_eq!(endpoints.choose(&[], now, |_| 0), Some(address(1)));
            endpoints.release(address(1));
        }
    }

    #[test]
    fn an_address_is_tried_once_for_a_request() {
        let now = now();
        let mut endpoints = endpoints([1, 2], now);
        assert_eq!(endpoints.choose(&[address(1)], now, |_| 0), Some(address(2)));
        assert_eq!(endpoints.choose(&[address(1), address(2)], now, |_| 0), None);
    }

    #[test]
    fn an_unreachable_address_is_set_aside_for_a_while() {
        let now = now();
        let mut endpoints = endpoints([1, 2], now);
        endpoints.failed(address(1), now);
        for random in [0, 1] {
            let chosen = endpoints.choose(&[], now + secs(4), |n| random % n).unwrap();
            assert_eq!(chosen, address(2));
        }
        assert_eq!(endpoints.choose(&[address(2)], now + secs(5), |_| 0), Some(address(1)));
    }

    #[test]
    fn when_all_are_set_aside_all_are_used() {
        let now = now();
        let mut endpoints = endpoints([1, 2], now);
        endpoints.failed(address(1), now);
        endpoints.failed(address(2), now);
        assert_eq!(all(&mut endpoints, now), [address(1), address(2)]);
    }

    #[test]
    fn an_unreachable_address_forces_a_lookup_but_not_a_flood() {
        let now = now();
        let mut endpoints = endpoints([1], now);
        endpoints.failed(address(1), now);
        assert_eq!(endpoints.lookup_at(), Some(now + secs(1)));
        endpoints.failed(address(1), now + secs(3));
        assert_eq!(endpoints.lookup_at(), Some(now + secs(1)));
        endpoints.answered(answer([1], 10), now + secs(3));
        endpoints.failed(address(1), now + secs(8));
        assert_eq!(endpoints.lookup_at(), Some(now + secs(8)));
    }

    #[test]
    fn a_failed_lookup_keeps_the_last_good_answer_but_not_for_ever() {
        let now = now();
        let mut endpoints = endpoints([1], now);
        let failed = || Answer::Failed("timed out".to_owned());
        assert_eq!(endpoints.answered(failed(), now + secs(299)), Change::default());
        assert_eq!(endpoints.empty(), None);
        assert_eq!(endpoints.answered(failed(), now + secs(300)).removed, [address(1)]);
        assert_eq!(endpoints.empty(), Some(&Empty::Failed("timed out".to_owned())));
    }

    #[test]
    fn failed_lookups_come_ever_more_slowly() {
        let now = now();
        let mut endpoints = endpoints([1], now);
        for millis in [200, 400, 800, 1600, 3200, 5000, 5000] {
            endpoints.answered(Answer::Failed(String::new()), now);
            assert_eq!(endpoints.lookup_at(), Some(now + Duration::from_millis(millis)));
        }
        endpoints.answered(answer([1], 10), now);
        endpoints.answered(Answer::Failed(String::new()), now);
        assert_eq!(endpoints.lookup_at(), Some(now + Duration::from_millis(200)));
    }

    #[test]
    fn an_absent_name_keeps_the_last_good_answer_for_a_grace() {
        let now = now();
        let mut endpoints = endpoints([1], now);
        let absent = Answer::Absent { ttl: Some(secs(300)) };
        assert_eq!(endpoints.answered(absent.clone(), now + secs(10)), Change::default());
        assert_eq!(endpoints.lookup_at(), Some(now + secs(15)));
        assert_eq!(endpoints.answered(absent.clone(), now + secs(39)), Change::default());
        assert_eq!(endpoints.answered(absent, now + secs(40)).removed, [address(1)]);
        assert_eq!(endpoints.empty(), Some(&Empty::Absent));
    }

    #[test]
    fn a_name_that_comes_back_starts_a_new_grace() {
        let now = now();
        let mut endpoints = endpoints([1], now);
        endpoints.answered(Answer::Absent { ttl: None }, now);
        endpoints.answered(answer([1], 10), now + secs(29));
        assert_eq!(endpoints.answered(Answer::Absent { ttl: None }, now + secs(40)), Change::default());
    }

    #[test]
    fn a_name_that_never_existed_is_absent_at_once_and_asked_for_again_soon() {
        let now = now();
        let mut endpoints = Endpoints::new(POLICY);
        endpoints.answered(Answer::Absent { ttl: Some(secs(900)) }, now);
        assert_eq!((endpoints.empty(), endpoints.lookup_at()), (Some(&Empty::Absent), Some(now + secs(5))));
    }

    #[test]
    fn an_answer_of_eight_is_a_sample_and_what_it_leaves_out_stays_for_a_while() {
        let now = now();
        let mut endpoints = endpoints(1..=8, now);
        let change = endpoints.answered(answer(2..=9, 20), now + secs(20));
        assert_eq!(change, Change { added: vec![address(9)], removed: vec![] });
        assert_eq!(all(&mut endpoints, now + secs(20)).len(), 9);
        // Three times the TTL after it was last seen.
        assert_eq!(endpoints.answered(answer(2..=9, 20), now + secs(59)).removed, []);
        assert_eq!(endpoints.answered(answer(2..=9, 20), now + secs(60)).removed, [address(1)]);
        // Any other number is the whole truth.
        assert_eq!(endpoints.answered(answer(2..=8, 20), now + secs(61)).removed, [address(9)]);
    }

    #[test]
    fn an_address_that_dns_no_longer_names_and_that_fails_is_gone() {
        let now = now();
        let mut endpoints = endpoints(1..=8, now);
        endpoints.answered(answer(2..=9, 20), now + secs(1));
        assert_eq!(endpoints.failed(address(1), now + secs(1)).removed, [address(1)]);
        assert_eq!(endpoints.failed(address(2), now + secs(1)).removed, []);
        // The same while the name is absent; but the last one is better than none.
        endpoints.answered(Answer::Absent { ttl: None }, now + secs(2));
        for task in 2..=8 {
            assert_eq!(endpoints.failed(address(task), now + secs(2)).removed, [address(task)]);
        }
        assert_eq!(endpoints.failed(address(9), now + secs(2)).removed, []);
    }

    #[test]
    fn the_pause_grows_with_each_failure_and_an_answer_ends_that() {
        let start = now();
        let mut endpoints = endpoints([1, 2, 3], start);
        let mut now = start;
        let is_used = |endpoints: &Endpoints, now| !endpoints.known[0].is_set_aside(now);
        for pause in [5, 10, 20, 40, 60, 60] {
            endpoints.failed(address(1), now);
            // Requests that were under way fail as well, and count as one.
            endpoints.failed(address(1), now);
            assert!(!is_used(&endpoints, now + secs(pause).saturating_sub(Duration::from_millis(1))), "{pause}");
            now += secs(pause);
            assert!(is_used(&endpoints, now), "{pause}");
        }
        endpoints.succeeded(address(1), false, now);
        endpoints.failed(address(1), now);
        assert!(is_used(&endpoints, now + secs(5)));
    }

    #[test]
    fn after_its_pause_an_address_gets_one_request_until_that_one_is_answered() {
        let now = now();
        let mut endpoints = endpoints([1, 2, 3], now);
        endpoints.failed(address(1), now);
        let later = now + secs(5);
        let others = [address(2), address(3)];
        assert_eq!(endpoints.choose(&others, later, |_| 0), Some(address(1)));
        // On probation it is among the others only when nobody else is left.
        for random in 0..3 {
            let chosen = endpoints.choose(&[], later, |n| random % n).unwrap();
            assert_ne!(chosen, address(1));
            endpoints.release(chosen);
        }
        endpoints.succeeded(address(1), false, later);
        assert!(!endpoints.known[0].is_set_aside(later));
    }

    #[test]
    fn when_most_are_set_aside_all_are_used() {
        let now = now();
        let mut endpoints = endpoints([1, 2, 3, 4], now);
        let chosen = |endpoints: &mut Endpoints| {
            let mut seen: Vec<_> = (0..16)
                .filter_map(|seed| {
                    let mut random = fastrand::Rng::with_seed(seed);
                    let chosen = endpoints.choose(&[], now, |n| random.usize(..n))?;
                    endpoints.release(chosen);
                    Some(chosen)
                })
                .collect();
            seen.sort_unstable();
            seen.dedup();
            seen.len()
        };
        endpoints.failed(address(1), now);
        endpoints.failed(address(2), now);
        assert_eq!(chosen(&mut endpoints), 2);
        endpoints.failed(address(3), now);
        assert_eq!(chosen(&mut endpoints), 4);
    }

    #[test]
    fn answers_of_500_set_an_address_aside_only_if_asked_for_and_never_most_of_them() {
        let now = now();
        let mut asked = endpoints([1, 2, 3, 4], now);
        let set_aside = |endpoints: &Endpoints| endpoints.known.iter().filter(|known| known.is_set_aside(now)).count();
        let fail_all = |endpoints: &mut Endpoints| {
            for _ in 0..5 {
                (1..=4).for_each(|task| endpoints.succeeded(address(task), true, now));
            }
        };
        fail_all(&mut asked);
        assert_eq!(set_aside(&asked), 0);
        asked.policy.eject_5xx = Some(5);
        asked.succeeded(address(1), false, now);
        for _ in 0..4 {
            asked.succeeded(address(1), true, now);
        }
        assert_eq!(set_aside(&asked), 0);
        fail_all(&mut asked);
        assert_eq!(set_aside(&asked), 2);
    }

    #[test]
    fn each_way_of_balancing_does_what_it_says() {
        let now = now();
        let targets = [3, 1, 2].map(|task| Target { address: address(task), weight: u16::from(task) });
        let mut endpoints = Endpoints::new(POLICY);
        endpoints.answered(Answer::Addresses { targets: targets.to_vec(), ttl: secs(10) }, now);
        let mut random = fastrand::Rng::with_seed(3);
        let mut shares = |endpoints: &mut Endpoints, balance| {
            endpoints.policy.balance = balance;
            let mut counts = [0; 3];
            for _ in 0..6_000 {
                let chosen = endpoints.choose(&[], now, |n| random.usize(..n)).unwrap();
                counts[(1..=3).position(|task| address(task) == chosen).unwrap()] += 1;
                endpoints.release(chosen);
            }
            counts
        };
        assert_eq!(shares(&mut endpoints, Balance::RoundRobin), [1000, 2000, 3000]);
        assert_eq!(shares(&mut endpoints, Balance::First), [0, 0, 6000]);
        let random = shares(&mut endpoints, Balance::Random);
        assert!((900..1100).contains(&random[0]) && (2850..3150).contains(&random[2]), "{random:?}");
        // With as many in flight at each, the one with the larger share has less to do.
        endpoints.policy.balance = Balance::LeastOfTwo;
        for endpoint in &mut endpoints.known {
            endpoint.in_flight = 6;
        }
        let tried = [address(2)];
        for random in 0..4 {
            assert_eq!(endpoints.choose(&tried, now, |n| random % n), Some(address(3)));
            endpoints.release(address(3));
        }
    }

    /// Anything may happen in any order.
    #[test]
    fn whatever_happens_a_request_finds_an_address_as_long_as_there_is_one() {
        let mut random = fastrand::Rng::with_seed(9);
        for _ in 0..300 {
            let mut now = now();
            let balance = [Balance::LeastOfTwo, Balance::RoundRobin, Balance::Random, Balance::First];
            let policy = Policy { balance: balance[random.usize(..4)], eject_5xx: Some(2), ..POLICY };
            let mut endpoints = Endpoints::new(policy);
            let mut under_way: Vec<SocketAddr> = Vec::new();
            for _ in 0..200 {
                now += Duration::from_millis(random.u64(..5_000));
                let someone = address(random.u8(1..12));
                match random.u8(..6) {
                    0 => {
                        let tasks: Vec<_> = (0..random.u8(1..12)).map(|_| random.u8(1..12)).collect();
                        let change = endpoints.answered(answer(tasks.clone(), random.u64(..90)), now);
                        assert!(tasks.iter().all(|task| endpoints.find(address(*task)).is_some()));
                        assert!(change.removed.iter().all(|address| endpoints.find(*address).is_none()));
                        assert!(change.added.iter().all(|address| endpoints.find(*address).is_some()));
                    }
                    1 => {
                        let bad = [Answer::Failed(String::new()), Answer::Absent { ttl: None }];
                        endpoints.answered(bad[random.usize(..2)].clone(), now);
                    }
                    2 => drop(endpoints.failed(someone, now)),
                    3 => endpoints.succeeded(someone, random.bool(), now),
                    4 => {
                        let chosen = endpoints.choose(&under_way, now, |n| random.usize(..n));
                        let left = endpoints.known.iter().any(|known| !under_way.contains(&known.address));
                        assert_eq!(chosen.is_some(), left);
                        assert!(chosen.is_none_or(|chosen| !under_way.contains(&chosen)));
                        under_way.extend(chosen);
                    }
                    _ => {
                        if let Some(done) = under_way.pop() {
                            endpoints.release(done);
                        }
                    }
                }
                assert!(endpoints.known.iter().all(|known| known.in_flight <= under_way.len()));
                assert!(endpoints.lookup_at().is_none_or(|at| at <= now + POLICY.max_ttl));
                assert_eq!(endpoints.empty().is_some(), endpoints.known().is_empty());
            }
        }
    }
}

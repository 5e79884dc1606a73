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
pub(crate) mod tests;

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

/// More addresses than any answer of a service discovery holds; what is beyond is not used.
const MOST_ADDRESSES: usize = 1024;

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
    /// How long an address that could not be connected to is passed over.
    pub set_aside: Duration,
}

/// What a lookup brought.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The name has these addresses.
    Addresses {
        /// One for each task, in any order.
        addresses: Vec<SocketAddr>,
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

/// What an answer changed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Change {
    /// Addresses that are new.
    pub added: Vec<SocketAddr>,
    /// Addresses that are to be used no more.
    pub removed: Vec<SocketAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Endpoint {
    address: SocketAddr,
    in_flight: usize,
    set_aside_until: Option<Instant>,
}

impl Endpoint {
    fn is_set_aside(&self, now: Instant) -> bool {
        self.set_aside_until.is_some_and(|until| now < until)
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
            looked_up_at: None,
            lookup_at: None,
        }
    }

    /// One address that needs no DNS, for ever.
    #[must_use]
    pub fn fixed(policy: Policy, address: SocketAddr) -> Self {
        let mut endpoints = Self::new(policy);
        endpoints.replace(vec![address]);
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

    /// Takes note of a lookup that ended `now`.
    pub fn answered(&mut self, answer: Answer, now: Instant) -> Change {
        self.looked_up_at = Some(now);
        match answer {
            Answer::Addresses { addresses, ttl } => {
                self.good_at = Some(now);
                self.absent_since = None;
                self.failures = 0;
                self.lookup_at = Some(now + ttl.clamp(self.policy.min_ttl, self.policy.max_ttl));
                self.replace(addresses)
            }
            Answer::Absent { ttl } => {
                let least = self.policy.min_ttl;
                self.failures = 0;
                self.lookup_at = Some(now + ttl.unwrap_or(least).clamp(least, ABSENT_LOOKUP_PAUSE.max(least)));
                let since = *self.absent_since.get_or_insert(now);
                // Between two deploys, or while the zone is loaded again, tasks that answer are better evidence.
                if now.duration_since(since) < self.policy.absent_grace && !self.known.is_empty() {
                    return Change::default();
                }
                self.empty = Empty::Absent;
                self.replace(Vec::new())
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
                self.replace(Vec::new())
            }
        }
    }

    /// Makes `addresses` the known ones; those that stay keep what is known of them.
    fn replace(&mut self, mut addresses: Vec<SocketAddr>) -> Change {
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MOST_ADDRESSES);
        let mut change = Change::default();
        self.known.retain(|endpoint| {
            let stays = addresses.binary_search(&endpoint.address).is_ok();
            if !stays {
                change.removed.push(endpoint.address);
            }
            stays
        });
        for address in addresses {
            if self.position(address).is_none() {
                self.known.push(Endpoint { address, in_flight: 0, set_aside_until: None });
                change.added.push(address);
            }
        }
        change
    }

    /// The address for the next attempt, which counts as in flight until [`release`](Self::release); none if each has
    /// been `tried`.
    ///
    /// Two are drawn and the one with fewer requests in flight wins: an address that hangs gets little, and one that
    /// is new is not flooded. Those set aside are left out, unless no other is left: then they are the best there is.
    /// `random(n)` is a number below n.
    pub fn choose(
        &mut self,
        tried: &[SocketAddr],
        now: Instant,
        mut random: impl FnMut(usize) -> usize,
    ) -> Option<SocketAddr> {
        let untried = |endpoint: &&mut Endpoint| !tried.contains(&endpoint.address);
        let mut candidates: Vec<_> =
            self.known.iter_mut().filter(untried).filter(|endpoint| !endpoint.is_set_aside(now)).collect();
        if candidates.is_empty() {
            candidates = self.known.iter_mut().filter(untried).collect();
        }
        let chosen = match candidates.len() {
            0 => return None,
            1 => 0,
            count => {
                let first = random(count);
                // One of the others, each as likely.
                let second = (first + 1 + random(count - 1)) % count;
                if candidates[second].in_flight < candidates[first].in_flight { second } else { first }
            }
        };
        let chosen = &mut *candidates[chosen];
        chosen.in_flight += 1;
        Some(chosen.address)
    }

    /// An attempt that [`choose`](Self::choose) counted is over.
    pub fn release(&mut self, address: SocketAddr) {
        if let Some(position) = self.position(address) {
            // An address that left DNS and came back while the attempt was under way counts from zero.
            self.known[position].in_flight = self.known[position].in_flight.saturating_sub(1);
        }
    }

    /// No connection to `address` could be made: it is passed over for a while, and DNS may know more.
    pub fn unreachable(&mut self, address: SocketAddr, now: Instant) {
        if let Some(position) = self.position(address) {
            self.known[position].set_aside_until = Some(now + self.policy.set_aside);
        }
        let earliest = self.looked_up_at.map_or(now, |at| (at + FORCED_LOOKUP_PAUSE).max(now));
        self.lookup_at = self.lookup_at.map(|at| at.min(earliest));
    }

    fn position(&self, address: SocketAddr) -> Option<usize> {
        self.known.iter().position(|endpoint| endpoint.address == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const POLICY: Policy = Policy {
        min_ttl: secs(1),
        max_ttl: secs(10),
        stale_max: secs(300),
        absent_grace: secs(30),
        set_aside: secs(5),
    };

    /// The time, which pure code takes and never reads.
    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 1, last], 1235))
    }

    fn answer(tasks: impl IntoIterator<Item = u8>, ttl: u64) -> Answer {
        Answer::Addresses { addresses: tasks.into_iter().map(address).collect(), ttl: secs(ttl) }
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
        endpoints.unreachable(address(1), now);
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
        endpoints.unreachable(address(1), now);
        endpoints.unreachable(address(2), now);
        assert_eq!(all(&mut endpoints, now), [address(1), address(2)]);
    }

    #[test]
    fn an_unreachable_address_forces_a_lookup_but_not_a_flood() {
        let now = now();
        let mut endpoints = endpoints([1], now);
        endpoints.unreachable(address(1), now);
        assert_eq!(endpoints.lookup_at(), Some(now + secs(1)));
        endpoints.unreachable(address(1), now + secs(3));
        assert_eq!(endpoints.lookup_at(), Some(now + secs(1)));
        endpoints.answered(answer([1], 10), now + secs(3));
        endpoints.unreachable(address(1), now + secs(8));
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
}

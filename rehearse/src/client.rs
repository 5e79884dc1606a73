//! Which addresses a client tries, in which order, and when it gives up: what the clients of the field do by default. Pure.
//!
//! The load generator and the simulation both decide with this. Whoever looks names up, connects and sends is elsewhere.

use std::{fmt, net::Ipv4Addr, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::request::Failure;

/// A kind of client, by the name it has on the command line and in reports.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// A new connection for each request, a lookup for each, and the next address if nobody listens at one: Python's urllib,
    /// curl, or a Go client without keep-alive.
    TryNext,
    /// The same with the first address alone: whoever passes one address of `gethostbyname` to `connect`, and stops there.
    FirstOnly,
    /// Go's default: a few idle connections are kept, and names are looked up for new connections only. At a steady rate all
    /// requests go to one task for as long as it lives.
    /// Source: `DefaultTransport` and `DefaultMaxIdleConnsPerHost` in
    /// <https://github.com/golang/go/blob/go1.19.8/src/net/http/transport.go>, and `dialSerial` in
    /// <https://github.com/golang/go/blob/go1.19.8/src/net/dial.go>.
    KeepAlive,
    /// A cache of its own that keeps the answer's order for as long as its TTL: reqwest with
    /// <https://github.com/hickory-dns/hickory-dns>. All new connections go to the same task for one TTL.
    FixedOrder,
    /// All requests go to one address, the front's, which does the rest. Connections are kept as Go and k6 do.
    Front,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::TryNext, Self::FirstOnly, Self::KeepAlive, Self::FixedOrder, Self::Front];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TryNext => "try-next",
            Self::FirstOnly => "first-only",
            Self::KeepAlive => "keep-alive",
            Self::FixedOrder => "fixed-order",
            Self::Front => "front",
        }
    }

    /// What it does.
    #[must_use]
    pub const fn behaviour(self) -> Behaviour {
        let naive =
            Behaviour { tries: Tries::Next, order: Order::Shuffled, lookups: Lookups::PerConnection, reuse: None };
        match self {
            Self::TryNext => naive,
            Self::FirstOnly => Behaviour { tries: Tries::First, ..naive },
            Self::KeepAlive | Self::Front => Behaviour { reuse: Some(Reuse::GO), ..naive },
            Self::FixedOrder => Behaviour { order: Order::AsAnswered, lookups: Lookups::Cached, ..naive },
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, UnknownProfile> {
        Self::ALL.into_iter().find(|profile| profile.name() == name).ok_or_else(|| UnknownProfile(name.to_owned()))
    }
}

/// No client has this name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no client: there are try-next, first-only, keep-alive, fixed-order and front")]
pub struct UnknownProfile(pub String);

/// The knobs of a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Behaviour {
    /// How many addresses of an answer it tries.
    pub tries: Tries,
    /// In which order.
    pub order: Order,
    /// When it asks DNS.
    pub lookups: Lookups,
    /// Whether it keeps connections, and how. None: a new connection for each request.
    pub reuse: Option<Reuse>,
}

/// How many addresses a client tries until one takes the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tries {
    /// The first one.
    First,
    /// One after the other, each of them once.
    Next,
}

/// In which order a client tries the addresses of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// Another one each time. Route 53 answers so for a multivalue record, whatever lies between asks it or shuffles itself.
    /// Source: <https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/routing-policy-multivalue.html>.
    Shuffled,
    /// As DNS gave them.
    AsAnswered,
}

/// When a client asks DNS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lookups {
    /// For each request that needs a new connection.
    PerConnection,
    /// The same, unless its own cache has an answer that is not older than its TTL.
    Cached,
}

/// How a client keeps connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reuse {
    /// How many idle ones, over all addresses of the name. What is beyond is closed.
    pub most_idle: usize,
    /// How long an idle one is kept.
    pub idle_timeout: Duration,
    /// Whether a request goes to another connection if one that had served before ends before an answer begins.
    /// Only for requests that may be sent twice (RFC 9110, section 9.2.2); those of the load are.
    pub retries_reused: bool,
}

impl Reuse {
    /// As Go does without being told.
    pub const GO: Self = Self { most_idle: 2, idle_timeout: Duration::from_secs(90), retries_reused: true };
}

/// What a client does after an attempt that failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Connects to the next address of the answer, if there is one.
    NextAddress,
    /// Starts again: another idle connection, or a lookup and a new one.
    Again,
    /// Tells its user.
    GiveUp,
}

impl Behaviour {
    /// The addresses of an answer that a request tries, in their order.
    #[must_use]
    pub fn candidates(&self, answered: &[Ipv4Addr], rng: &mut fastrand::Rng) -> Vec<Ipv4Addr> {
        let mut candidates = answered.to_vec();
        match self.order {
            Order::Shuffled => rng.shuffle(&mut candidates),
            Order::AsAnswered => {}
        }
        match self.tries {
            Tries::First => candidates.truncate(1),
            Tries::Next => {}
        }
        candidates
    }

    /// What comes after an attempt that failed like this.
    #[must_use]
    pub fn after(&self, failure: Failure, was_reused: bool) -> Next {
        match failure {
            Failure::Refused | Failure::Unreachable => match self.tries {
                Tries::First => Next::GiveUp,
                Tries::Next => Next::NextAddress,
            },
            // It was most likely closed while it was idle, and the request was on its way.
            Failure::NoAnswer if was_reused && self.reuse.is_some_and(|reuse| reuse.retries_reused) => Next::Again,
            // The task may have acted on it.
            Failure::NoAnswer | Failure::CutOff | Failure::TimedOut | Failure::Other => Next::GiveUp,
        }
    }
}

/// How long one address may take to be connected to, with so much time left for all those that are left. Go and hyper
/// divide it so: an address that answers nothing costs its share, and not everything.
/// Source: `partialDeadline` in <https://github.com/golang/go/blob/go1.19.8/src/net/dial.go>, and `HttpConnector` in
/// <https://github.com/hyperium/hyper-util/blob/master/src/client/legacy/connect/http.rs>.
#[must_use]
pub fn share(time_left: Duration, addresses_left: usize) -> Duration {
    time_left / u32::try_from(addresses_left).unwrap_or(u32::MAX).max(1)
}

/// What DNS told.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// In the order of the answer.
    pub addresses: Vec<Ipv4Addr>,
    /// What it said instead of addresses.
    pub failure: Option<String>,
    /// For how long it holds. Zero if it must not be kept.
    pub ttl: Duration,
}

/// A client's own cache, for the one name that it asks for.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    kept: Option<(Answer, Duration)>,
}

impl Cache {
    /// The answer that still holds at `now`, in the order in which it came.
    #[must_use]
    pub fn answer(&self, now: Duration) -> Option<&Answer> {
        self.kept.as_ref().filter(|(_, until)| now < *until).map(|(answer, _)| answer)
    }

    /// Keeps an answer that came at `now`.
    pub fn keep(&mut self, answer: Answer, now: Duration) {
        let until = now + answer.ttl;
        self.kept = Some((answer, until));
    }
}

/// The idle connections of a client.
#[derive(Clone, Debug)]
pub struct Pool<C> {
    reuse: Reuse,
    /// The one used last is the last one.
    idle: Vec<Idle<C>>,
}

#[derive(Clone, Debug)]
struct Idle<C> {
    address: Ipv4Addr,
    connection: C,
    until: Duration,
}

impl<C> Pool<C> {
    /// No connections.
    #[must_use]
    pub const fn new(reuse: Reuse) -> Self {
        Self { reuse, idle: Vec::new() }
    }

    /// The connection that was used last, and to whom it is. Those that have been idle for too long are closed.
    pub fn take(&mut self, now: Duration) -> Option<(Ipv4Addr, C)> {
        self.idle.retain(|idle| now < idle.until);
        self.idle.pop().map(|Idle { address, connection, .. }| (address, connection))
    }

    /// Keeps a connection whose answer was complete at `now`, or closes it if there are enough.
    pub fn keep(&mut self, address: Ipv4Addr, connection: C, now: Duration) {
        self.idle.retain(|idle| now < idle.until);
        if self.idle.len() < self.reuse.most_idle {
            self.idle.push(Idle { address, connection, until: now + self.reuse.idle_timeout });
        }
    }

    /// Closes those that their other end has closed; a client that reads notices it at once.
    pub fn drop_closed(&mut self, mut is_closed: impl FnMut(Ipv4Addr, &C) -> bool) {
        self.idle.retain(|idle| !is_closed(idle.address, &idle.connection));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: [Ipv4Addr; 4] = [
        Ipv4Addr::new(127, 0, 1, 1),
        Ipv4Addr::new(127, 0, 1, 2),
        Ipv4Addr::new(127, 0, 1, 3),
        Ipv4Addr::new(127, 0, 1, 4),
    ];

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn answer(ttl: u64) -> Answer {
        Answer { addresses: ANSWER.to_vec(), failure: None, ttl: secs(ttl) }
    }

    #[test]
    fn every_client_is_found_by_its_name_and_another_name_is_told_apart() {
        for profile in Profile::ALL {
            assert_eq!(profile.to_string().parse(), Ok(profile));
            assert_eq!(serde_json::to_value(profile).unwrap(), profile.name());
        }
        let error = "first".parse::<Profile>().unwrap_err().to_string();
        for profile in Profile::ALL {
            assert!(error.contains(profile.name()), "{error}");
        }
        assert_eq!(format!("{:>8}|", Profile::Front), "   front|");
    }

    #[test]
    fn a_client_that_shuffles_begins_with_each_address_equally_often_and_tries_each_once() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut firsts = [0_u32; 4];
        for _ in 0..4000 {
            let mut candidates = Profile::TryNext.behaviour().candidates(&ANSWER, &mut rng);
            let first = ANSWER.iter().position(|address| *address == candidates[0]).unwrap();
            firsts[first] += 1;
            candidates.sort();
            assert_eq!(candidates, ANSWER);
        }
        // 1000 each, give or take four standard deviations.
        assert!(firsts.iter().all(|count| (890..1110).contains(count)), "{firsts:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_order() {
        let order = |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            (0..8).map(|_| Profile::TryNext.behaviour().candidates(&ANSWER, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }

    #[test]
    fn first_only_tries_one_address_of_all_and_does_not_go_on() {
        let mut rng = fastrand::Rng::with_seed(7);
        let behaviour = Profile::FirstOnly.behaviour();
        let mut seen: Vec<_> = (0..200).flat_map(|_| behaviour.candidates(&ANSWER, &mut rng)).collect();
        assert_eq!(seen.len(), 200);
        seen.sort();
        seen.dedup();
        assert_eq!(seen, ANSWER);
        assert_eq!(behaviour.after(Failure::Refused, false), Next::GiveUp);
        assert_eq!(behaviour.after(Failure::Unreachable, false), Next::GiveUp);
    }

    #[test]
    fn fixed_order_keeps_the_order_of_the_answer_and_goes_on_to_the_next() {
        let mut rng = fastrand::Rng::with_seed(7);
        let behaviour = Profile::FixedOrder.behaviour();
        for _ in 0..50 {
            assert_eq!(behaviour.candidates(&ANSWER, &mut rng), ANSWER);
        }
        assert_eq!(behaviour.after(Failure::Refused, false), Next::NextAddress);
    }

    #[test]
    fn an_answer_without_addresses_leaves_nothing_to_try() {
        let mut rng = fastrand::Rng::with_seed(7);
        for profile in Profile::ALL {
            assert!(profile.behaviour().candidates(&[], &mut rng).is_empty());
        }
    }

    #[test]
    fn only_an_address_that_took_no_connection_makes_way_for_the_next_one() {
        let behaviour = Profile::TryNext.behaviour();
        for was_reused in [false, true] {
            for failure in [Failure::Refused, Failure::Unreachable] {
                assert_eq!(behaviour.after(failure, was_reused), Next::NextAddress);
            }
            for failure in [Failure::NoAnswer, Failure::CutOff, Failure::TimedOut, Failure::Other] {
                assert_eq!(behaviour.after(failure, was_reused), Next::GiveUp);
            }
        }
    }

    #[test]
    fn a_reused_connection_that_ends_before_the_answer_is_replaced_and_a_new_one_is_not() {
        let keep_alive = Profile::KeepAlive.behaviour();
        assert_eq!(keep_alive.after(Failure::NoAnswer, true), Next::Again);
        assert_eq!(keep_alive.after(Failure::NoAnswer, false), Next::GiveUp);
        assert_eq!(keep_alive.after(Failure::CutOff, true), Next::GiveUp);
        assert_eq!(keep_alive.after(Failure::TimedOut, true), Next::GiveUp);
        let stubborn = Behaviour { reuse: Some(Reuse { retries_reused: false, ..Reuse::GO }), ..keep_alive };
        assert_eq!(stubborn.after(Failure::NoAnswer, true), Next::GiveUp);
    }

    #[test]
    fn the_time_to_connect_is_divided_over_the_addresses_that_are_left() {
        assert_eq!(share(secs(30), 3), secs(10));
        assert_eq!(share(secs(20), 1), secs(20));
        assert_eq!(share(secs(20), 0), secs(20));
    }

    #[test]
    fn a_cached_answer_holds_until_its_ttl_is_over_and_not_at_that_moment() {
        let mut cache = Cache::default();
        assert_eq!(cache.answer(secs(0)), None);
        cache.keep(answer(30), secs(10));
        assert_eq!(cache.answer(secs(10)), Some(&answer(30)));
        assert_eq!(cache.answer(Duration::from_nanos(39_999_999_999)), Some(&answer(30)));
        assert_eq!(cache.answer(secs(40)), None);
        cache.keep(answer(0), secs(50));
        assert_eq!(cache.answer(secs(50)), None, "it must not be kept");
    }

    #[test]
    fn the_connection_used_last_is_used_again() {
        let mut pool = Pool::new(Reuse::GO);
        assert_eq!(pool.take(secs(0)), None);
        pool.keep(ANSWER[0], 'a', secs(0));
        pool.keep(ANSWER[1], 'b', secs(1));
        assert_eq!(pool.take(secs(2)), Some((ANSWER[1], 'b')));
        assert_eq!(pool.take(secs(2)), Some((ANSWER[0], 'a')));
        assert_eq!(pool.take(secs(2)), None);
    }

    #[test]
    fn no_more_connections_are_kept_than_allowed_and_none_for_too_long() {
        let mut pool = Pool::new(Reuse { most_idle: 2, idle_timeout: secs(90), retries_reused: true });
        for (now, connection) in (0_u64..).zip(['a', 'b', 'c']) {
            pool.keep(ANSWER[0], connection, secs(now));
        }
        assert_eq!(pool.take(secs(90)), Some((ANSWER[0], 'b')), "'a' has been idle for 90 s, 'c' was one too many");
        assert_eq!(pool.take(secs(90)), None);
    }

    #[test]
    fn a_connection_that_has_made_room_by_its_age_leaves_it_to_a_new_one() {
        let mut pool = Pool::new(Reuse { most_idle: 1, idle_timeout: secs(90), retries_reused: true });
        pool.keep(ANSWER[0], 'a', secs(0));
        pool.keep(ANSWER[0], 'b', secs(90));
        assert_eq!(pool.take(secs(91)), Some((ANSWER[0], 'b')));
    }

    #[test]
    fn connections_that_were_closed_are_not_used_again() {
        let mut pool = Pool::new(Reuse::GO);
        pool.keep(ANSWER[0], 'a', secs(0));
        pool.keep(ANSWER[1], 'b', secs(0));
        pool.drop_closed(|address, connection| address == ANSWER[1] && *connection == 'b');
        assert_eq!(pool.take(secs(1)), Some((ANSWER[0], 'a')));
        assert_eq!(pool.take(secs(1)), None);
    }
}

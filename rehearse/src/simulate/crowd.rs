//! Clients that watch a film through resolvers, each of which knows what it was told and no more. Pure.

use std::{collections::BTreeMap, time::Duration};

use super::{
    film::{Film, Place},
    habit::{Habit, OwnCache},
    resolver::Resolver,
};
use crate::{
    client::{Order, Tries},
    verdict::Cause,
};

/// Who watches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crowd {
    /// How many processes of a client there are.
    pub clients: usize,
    /// How many resolvers they ask, each of them one; a resolver has as many caches as the rule resolver-caches says.
    pub resolvers: usize,
    /// How many requests each sends in a second.
    pub rate: f64,
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
    /// How many of the clients had a failed request.
    pub clients: u64,
}

impl Seen {
    /// How many requests failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// Failures with less than this between them are one span.
const SPAN: Duration = Duration::from_secs(5);

struct Client<'a> {
    film: &'a Film,
    habit: Habit,
    /// The caches of its resolver, of which each question meets one.
    caches: &'a [Resolver],
    own: Option<(Vec<Place>, Duration)>,
    /// The first answer of its own is kept for this share of its time only: it has been there for long.
    share: f64,
    pinned: Option<(Place, Duration)>,
    random: fastrand::Rng,
}

impl<'a> Client<'a> {
    /// What its resolver tells, and for how much longer.
    fn told(&mut self, at: Duration) -> (&'a [Place], Duration) {
        let index = if self.caches.len() > 1 { self.random.usize(..self.caches.len()) } else { 0 };
        let told = self.caches.get(index).and_then(|cache| cache.told(at));
        told.map_or((&[], Duration::ZERO), |told| (&told.places, told.until.saturating_sub(at)))
    }

    fn is_served(&self, place: Place, at: Duration) -> bool {
        self.film.served_until(place, at).is_some()
    }

    /// What it knows when it sends a request, in the order in which it would try it.
    fn known(&mut self, at: Duration) -> Vec<Place> {
        if let Some((places, until)) = &self.own
            && at < *until
        {
            return self.ordered(places.clone());
        }
        let (places, left) = self.told(at);
        let kept = match self.habit.own {
            OwnCache::None => return self.ordered(places.to_vec()),
            OwnCache::Ttl(most) => left.min(most),
            OwnCache::Fixed(time) => time,
            OwnCache::Forever => Duration::MAX / 4,
        };
        // The answer comes in another order each time; what is not there is asked for again.
        let mut places = places.to_vec();
        self.random.shuffle(&mut places);
        let kept = kept.mul_f64(std::mem::replace(&mut self.share, 1.0));
        self.own = (!places.is_empty()).then(|| (places.clone(), at.saturating_add(kept)));
        self.ordered(places)
    }

    fn ordered(&mut self, mut places: Vec<Place>) -> Vec<Place> {
        // Without a cache of its own the answer has come in an order of its own.
        if self.habit.order == Order::Shuffled || self.habit.own == OwnCache::None {
            self.random.shuffle(&mut places);
        }
        places
    }

    /// Until when no request can fail and nothing new is learnt, if that is later than `at`.
    fn calm_until(&self, at: Duration) -> Duration {
        if let Some((_, until)) = self.pinned {
            return until;
        }
        if self.habit.is_pinned {
            return at;
        }
        if let Some((places, until)) = self.own.as_ref().filter(|(_, until)| at < *until) {
            return self.safe_until(places, at).min(*until);
        }
        if self.habit.own != OwnCache::None {
            return at;
        }
        let of = |cache: &Resolver| cache.told(at).map_or(at, |told| self.safe_until(&told.places, at).min(told.until));
        self.caches.iter().map(of).min().unwrap_or(at)
    }

    /// Until when whoever knows these addresses reaches somebody.
    fn safe_until(&self, places: &[Place], at: Duration) -> Duration {
        let mut ends = places.iter().map(|place| self.film.served_until(*place, at));
        let is_ordered = self.habit.order == Order::AsAnswered && self.habit.own != OwnCache::None;
        match self.habit.tries {
            Tries::Next => ends.flatten().max().unwrap_or(at),
            Tries::First if is_ordered => ends.next().flatten().unwrap_or(at),
            Tries::First => ends.map(|end| end.unwrap_or(at)).min().unwrap_or(at),
        }
    }

    /// Why a request that is sent then fails. None if it does not.
    fn ask(&mut self, at: Duration) -> Option<Cause> {
        if let Some((_, until)) = self.pinned
            && at < until
        {
            return None;
        }
        self.pinned = None;
        let places = self.known(at);
        let tried = match self.habit.tries {
            Tries::First => places.len().min(1),
            Tries::Next => places.len(),
        };
        let reached = places.iter().take(tried).find_map(|place| Some((*place, self.film.served_until(*place, at)?)));
        if let Some(reached) = reached {
            self.pinned = Some(reached).filter(|_| self.habit.is_pinned);
            return None;
        }
        if !self.habit.waits.is_zero() {
            self.own = None;
            let later = at + self.habit.waits;
            let (places, _) = self.told(later);
            if places.iter().any(|place| self.is_served(*place, later)) {
                return None;
            }
        }
        let mut tried_places = places.iter().take(tried);
        Some(match places.first() {
            None => Cause::NoAddress,
            Some(_) if tried_places.any(|place| !self.film.is_over(*place, at)) => Cause::NotYetListening,
            Some(_) if tried < places.len() => Cause::StaleFirstDead,
            Some(_) => Cause::StaleAllDead,
        })
    }
}

/// What the clients of a crowd see of a film until then, if all of them have that habit. `caches` are those of all their
/// resolvers, in turn.
#[must_use]
pub fn watch(
    film: &Film,
    habit: Habit,
    crowd: &Crowd,
    caches: &[Resolver],
    until: Duration,
    random: &mut fastrand::Rng,
) -> Seen {
    let mut seen = Seen::default();
    let interval = Duration::from_secs_f64(1.0 / crowd.rate);
    let each = (caches.len() / crowd.resolvers.max(1)).max(1);
    let resolvers: Vec<_> = caches.chunks(each).collect();
    for number in 0..crowd.clients {
        let share = if habit.own == OwnCache::Forever { 1.0 } else { 1.0 - random.f64() };
        let caches = resolvers.get(number % resolvers.len().max(1)).copied().unwrap_or_default();
        let mut client = Client { film, habit, caches, own: None, share, pinned: None, random: random.fork() };
        let first = interval.mul_f64(random.f64());
        let mut sent: u32 = 0;
        let mut failing: Option<(Duration, Duration)> = None;
        loop {
            let at = first + interval * sent;
            if at >= until {
                break;
            }
            let calm = client.calm_until(at).min(until);
            if at < calm {
                // What would all go well is not asked one by one.
                let quiet = u32::try_from(calm.saturating_sub(at).as_nanos().div_ceil(interval.as_nanos().max(1)));
                sent = sent.saturating_add(quiet.unwrap_or(u32::MAX).max(1));
                continue;
            }
            if let Some(cause) = client.ask(at) {
                *seen.failed.entry(cause).or_default() += 1;
                let begun = failing.filter(|(_, last)| at <= *last + SPAN).map_or(at, |(begun, _)| begun);
                failing = Some((begun, at));
                seen.longest = seen.longest.max(at.saturating_sub(begun) + interval);
            }
            sent = sent.saturating_add(1);
        }
        seen.requests += u64::from(sent);
        seen.clients += u64::from(failing.is_some());
    }
    seen
}

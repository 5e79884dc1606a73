//! Clients that watch a film through resolvers, each of which knows what it was told and no more. Pure.

use std::{collections::BTreeMap, time::Duration};

use super::{
    film::{Film, Met, Place},
    habit::{Connects, Habit, OwnCache},
    resolver::Resolver,
};
use crate::{
    client::{Order, Tries, share},
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
    /// How many requests took more than [`SLOW`] to find the task that answered them.
    pub slow: u64,
    /// The longest time that one of these took for that.
    pub slowest: Duration,
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

/// A request that took this long to find its task is slow.
pub const SLOW: Duration = Duration::from_millis(500);

/// How a request went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Went {
    /// Why it failed, if it did.
    cause: Option<Cause>,
    /// How long it took until a task had it, or until it failed.
    waited: Duration,
}

/// Where a connection is kept to, and until when somebody listens there.
#[derive(Clone, Copy, Debug)]
struct Kept {
    place: Place,
    until: Duration,
}

struct Client<'a> {
    film: &'a Film,
    habit: Habit,
    /// The caches of its resolver, of which each question meets one.
    caches: &'a [Resolver],
    own: Option<(Vec<Place>, Duration)>,
    /// The first answer of its own is kept for this share of its time only: it has been there for long.
    share: f64,
    pinned: Option<Kept>,
    /// Whom it passes over, and until when.
    aside: Vec<(Place, Duration)>,
    random: fastrand::Rng,
}

impl<'a> Client<'a> {
    /// What its resolver tells, and for how much longer. None if it does not answer.
    fn told(&mut self, at: Duration) -> Option<(&'a [Place], Duration)> {
        let index = if self.caches.len() > 1 { self.random.usize(..self.caches.len()) } else { 0 };
        let told = self.caches.get(index).and_then(|cache| cache.told(at))?;
        Some((&told.places, told.stale_for.unwrap_or_else(|| told.until.saturating_sub(at))))
    }

    fn is_served(&self, place: Place, at: Duration) -> bool {
        match self.film.meet(place, at) {
            Met::Task(_) => true,
            Met::Bad(..) | Met::Nobody | Met::Silence => false,
        }
    }

    /// What it knows when it sends a request, in the order in which it would try it.
    fn known(&mut self, at: Duration) -> Vec<Place> {
        if let Some((places, until)) = &self.own
            && at < *until
        {
            return self.ordered(places.clone(), at);
        }
        let told = self.told(at);
        if told.is_none()
            && self.habit.keeps_last
            && let Some((places, _)) = &self.own
        {
            return self.ordered(places.clone(), at);
        }
        let (places, left) = told.unwrap_or((&[], Duration::ZERO));
        let kept = match self.habit.own {
            OwnCache::None => return self.ordered(places.to_vec(), at),
            OwnCache::Ttl(most) => left.min(most),
            OwnCache::Fixed(time) => time,
            OwnCache::Forever => Duration::MAX / 4,
        };
        // The answer comes in another order each time; what is not there is asked for again.
        let mut places = places.to_vec();
        self.random.shuffle(&mut places);
        let kept = kept.mul_f64(std::mem::replace(&mut self.share, 1.0));
        self.own = (!places.is_empty()).then(|| (places.clone(), at.saturating_add(kept)));
        self.ordered(places, at)
    }

    fn ordered(&mut self, mut places: Vec<Place>, at: Duration) -> Vec<Place> {
        // Without a cache of its own the answer has come in an order of its own.
        if self.habit.order == Order::Shuffled || self.habit.own == OwnCache::None {
            self.random.shuffle(&mut places);
        }
        if !self.aside.is_empty() {
            self.aside.retain(|(_, until)| at < *until);
            places.sort_by_key(|place| self.aside.iter().any(|(aside, _)| aside == place));
        }
        places
    }

    /// Until when no request can fail or wait and nothing new is learnt, if that is later than `at`.
    fn calm_until(&self, at: Duration) -> Duration {
        if let Some(Kept { place, until }) = self.pinned {
            return until.min(self.film.harmless_until(place, at));
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

    /// Until when whoever knows these addresses reaches somebody at once.
    fn safe_until(&self, places: &[Place], at: Duration) -> Duration {
        let harmless =
            || places.iter().map(|place| self.film.harmless_until(*place, at)).min().unwrap_or(Duration::MAX);
        let mut ends = places.iter().map(|place| {
            let end = self.film.served_until(*place, at)?;
            Some(end.min(self.film.harmless_until(*place, at)))
        });
        let is_ordered = self.habit.order == Order::AsAnswered && self.habit.own != OwnCache::None;
        match self.habit.tries {
            // Whom it happens to try before is met as well.
            Tries::Next => ends.flatten().max().unwrap_or(at).min(harmless()),
            Tries::First if is_ordered => ends.next().flatten().unwrap_or(at),
            Tries::First => ends.map(|end| end.unwrap_or(at)).min().unwrap_or(at),
        }
    }

    /// Sends a request then.
    fn ask(&mut self, at: Duration) -> Went {
        let went = self.send(at);
        if went.waited > self.habit.gives_up {
            return Went { cause: Some(Cause::TimedOut), waited: self.habit.gives_up };
        }
        went
    }

    fn send(&mut self, at: Duration) -> Went {
        if let Some(Kept { place, until }) = self.pinned {
            if at < until {
                return self.on_kept(place, at);
            }
            self.pinned = None;
            if self.film.hangs_at(place, until) {
                // Nobody has told it that there is nobody any more.
                return Went { cause: Some(Cause::TimedOut), waited: self.habit.gives_up };
            }
        }
        let places = self.known(at);
        let tried = match self.habit.tries {
            Tries::First => places.len().min(1),
            Tries::Next => places.len(),
        };
        let mut now = at;
        let mut is_last_silent = false;
        for (index, place) in places.iter().take(tried).enumerate() {
            match self.film.meet(*place, now) {
                Met::Task(until) => return self.reached(Kept { place: *place, until }, None, now.saturating_sub(at)),
                Met::Bad(cause, until) => {
                    return self.reached(Kept { place: *place, until }, Some(cause), now.saturating_sub(at));
                }
                Met::Nobody => is_last_silent = false,
                Met::Silence => {
                    is_last_silent = true;
                    now += match self.habit.connects {
                        Connects::Shared(all) => share((at + all).saturating_sub(now), tried - index),
                        Connects::Each(limit) => limit,
                    };
                    if !self.habit.sets_aside.is_zero() {
                        self.aside.push((*place, now + self.habit.sets_aside));
                    }
                }
            }
        }
        if !self.habit.waits.is_zero() {
            self.own = self.own.take().filter(|_| self.habit.keeps_last).map(|(places, _)| (places, Duration::ZERO));
            now += self.habit.waits;
            let again = self.told(now).map_or(&[][..], |(places, _)| places);
            if again.iter().any(|place| self.is_served(*place, now)) {
                return Went { cause: None, waited: now.saturating_sub(at) };
            }
        }
        let mut tried_places = places.iter().take(tried);
        let cause = match places.first() {
            None => Cause::NoAddress,
            Some(_) if is_last_silent => Cause::TimedOut,
            Some(_) if tried_places.any(|place| !self.film.is_over(*place, at)) => Cause::NotYetListening,
            Some(_) if tried < places.len() => Cause::StaleFirstDead,
            Some(_) => Cause::StaleAllDead,
        };
        Went { cause: Some(cause), waited: now.saturating_sub(at) }
    }

    /// Somebody has taken the connection.
    fn reached(&mut self, kept: Kept, cause: Option<Cause>, waited: Duration) -> Went {
        // Who breaks off ends the connection; who answers badly keeps it.
        self.pinned = Some(kept).filter(|_| self.habit.is_pinned && cause != Some(Cause::KilledInFlight));
        Went { cause, waited }
    }

    /// A request on a connection that is kept.
    fn on_kept(&mut self, place: Place, at: Duration) -> Went {
        let cause = match self.film.meet(place, at) {
            Met::Task(_) | Met::Nobody | Met::Silence => None,
            Met::Bad(cause, _) => Some(cause),
        };
        self.pinned = self.pinned.filter(|_| cause != Some(Cause::KilledInFlight));
        Went { cause, waited: Duration::ZERO }
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
        let mut client =
            Client { film, habit, caches, own: None, share, pinned: None, aside: Vec::new(), random: random.fork() };
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
            let went = client.ask(at);
            if let Some(cause) = went.cause {
                *seen.failed.entry(cause).or_default() += 1;
                let begun = failing.filter(|(_, last)| at <= *last + SPAN).map_or(at, |(begun, _)| begun);
                failing = Some((begun, at));
                seen.longest = seen.longest.max(at.saturating_sub(begun) + interval);
            } else if went.waited > Duration::ZERO {
                seen.slow += u64::from(went.waited > SLOW);
                seen.slowest = seen.slowest.max(went.waited);
            }
            sent = sent.saturating_add(1);
        }
        seen.requests += u64::from(sent);
        seen.clients += u64::from(failing.is_some());
    }
    seen
}

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

#[derive(Clone, Debug)]
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
            Some(_) if tried_places.any(|place| !self.film.is_over(*place, now)) => Cause::NotYetListening,
            Some(_) if tried < places.len() => Cause::StaleFirstDead,
            Some(_) => Cause::StaleAllDead,
        };
        Went { cause: Some(cause), waited: now.saturating_sub(at) }
    }

    /// Somebody has taken the connection.
    fn reached(&mut self, kept: Kept, cause: Option<Cause>, waited: Duration) -> Went {
        // Who answers badly keeps the connection; and who will break off has not done so yet.
        self.pinned = Some(kept).filter(|_| self.habit.is_pinned);
        Went { cause, waited }
    }

    /// A request on a connection that is kept.
    fn on_kept(&self, place: Place, at: Duration) -> Went {
        let cause = match self.film.meet(place, at) {
            Met::Task(_) | Met::Nobody | Met::Silence => None,
            Met::Bad(cause, _) => Some(cause),
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rules::Rules,
        simulate::{
            Act, Cue, HABITS, Model, When, habit,
            resolver::{Phases, resolvers},
        },
    };

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn cues(acts: &[Act]) -> Vec<Cue> {
        acts.iter().map(|act| Cue { when: When::At(secs(10)), act: *act }).collect()
    }

    /// Services in which addresses do everything that they can: refuse, wait, answer badly, and break off.
    fn films() -> Vec<(Model, Film)> {
        let rules = Rules { ttl: secs(20), resolver_caches: 2, ..Rules::default() };
        let plain = Model::new(rules, secs(0));
        let silent = Model { silent_after: Some(secs(5)), ..plain.clone() };
        let reused = Model { reused_after: Some(secs(5)), ..plain.clone() };
        let busy = Model { answers_in: secs(2), finishes: false, ..plain.clone() };
        let lost = Act::LoseZone { zone: 1, noticed_after: secs(40) };
        let dumb = Act::SilenceDns { lasts: secs(50), is_stale_served: true };
        let of = |model: &Model, acts: &[Act]| (model.clone(), Film::of(model, &cues(acts), 3));
        vec![
            of(&plain, &[Act::Deploy(2)]),
            of(&plain, &[Act::Deploy(2), lost]),
            of(&plain, &[Act::Deploy(2), dumb]),
            of(&plain, &[Act::Sicken(1)]),
            of(&silent, &[Act::Deploy(2)]),
            of(&reused, &[Act::Deploy(2)]),
            of(&busy, &[Act::Deploy(2)]),
        ]
    }

    fn clients<'a>(film: &'a Film, caches: &'a [Resolver]) -> impl Iterator<Item = Client<'a>> {
        let (share, random) = (0.5, fastrand::Rng::with_seed(5));
        HABITS.into_iter().map(move |habit| {
            let (own, pinned, aside) = (None, None, Vec::new());
            Client { film, habit, caches, own, share, pinned, aside, random: random.clone() }
        })
    }

    #[test]
    fn a_request_that_is_not_asked_one_by_one_would_neither_have_failed_nor_waited() {
        let (mut calm, mut other) = (0, 0);
        for (model, film) in films() {
            let until = film.length + secs(30);
            let mut random = fastrand::Rng::with_seed(7);
            let caches = resolvers(&film, &model.rules.terms(), 2, Phases::Random, until, &mut random);
            for mut client in clients(&film, &caches) {
                let mut at = secs(0);
                while at < until {
                    if at < client.calm_until(at) {
                        calm += 1;
                        let mut bold = Client { random: random.fork(), ..client.clone() };
                        let went = bold.ask(at);
                        assert_eq!((went.cause, went.waited), (None, secs(0)), "{} at {at:?}", client.habit.name);
                    } else {
                        let went = client.ask(at);
                        other += u32::from(went.cause.is_some() || !went.waited.is_zero());
                    }
                    at += Duration::from_millis(170);
                }
            }
        }
        assert!(calm > 10_000 && other > 1000, "{calm} {other}");
    }

    #[test]
    fn an_address_that_is_silent_costs_a_share_of_the_time_to_connect_and_once_what_front_waits() {
        let model = Model::new(Rules { ttl: secs(60), ..Rules::default() }, secs(0));
        let film = Film::of(&model, &cues(&[Act::LoseZone { zone: 0, noticed_after: secs(60) }]), 1);
        let mut random = fastrand::Rng::with_seed(7);
        let caches = resolvers(&film, &model.rules.terms(), 1, Phases::Random, secs(100), &mut random);
        let mut waits = |name| {
            let mut client = clients(&film, &caches).find(|client| client.habit.name == name).unwrap();
            client.random = random.fork();
            let went: Vec<_> = (0..40).map(|number| client.ask(secs(11) + secs(1) * number / 20)).collect();
            let mut waited: Vec<_> = went.iter().map(|went| went.waited.as_millis()).collect();
            waited.sort_unstable();
            waited.dedup();
            (waited, went.iter().filter(|went| went.cause.is_some()).count())
        };
        assert_eq!(waits("try-next"), (vec![0, 7500, 15_000], 0), "30 s over four, and what is left over three");
        let (waited, failed) = waits("first-only");
        assert_eq!(waited, [0, 30_000]);
        assert!((8..32).contains(&failed), "{failed}");
        let (waited, failed) = waits("front");
        assert!(waited.iter().all(|waited| [0, 500, 1000].contains(waited)), "{waited:?}");
        assert_eq!(failed, 0);
    }

    #[test]
    fn who_gives_up_before_it_has_found_a_task_has_failed() {
        let model = Model::new(Rules::default(), secs(0));
        let film = Film::of(&model, &cues(&[Act::LoseZone { zone: 0, noticed_after: secs(60) }]), 1);
        let mut random = fastrand::Rng::with_seed(7);
        let caches = resolvers(&film, &model.rules.terms(), 1, Phases::Random, secs(100), &mut random);
        let hasty = Habit { gives_up: secs(8), ..habit("try-next").unwrap() };
        let crowd = Crowd { clients: 1, resolvers: 1, rate: 10.0 };
        let seen = watch(&film, hasty, &crowd, &caches, secs(60), &mut random);
        assert!(seen.failed[&Cause::TimedOut] > 50, "{seen:?}");
        assert_eq!(seen.slowest, Duration::from_millis(7500));
    }
}

//! What the resolvers' caches between clients and the authority tell while a film goes on. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use super::film::{Film, Place};
use crate::{
    cache::Cache,
    timeline::TaskId,
    zone::{Answer, Terms, answered},
};

/// An answer, and when a cache gave it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Told {
    /// From when on.
    pub from: Duration,
    /// Until when.
    pub until: Duration,
    /// For how long it may be kept from any moment on, if that is not what is left: it was over, and handed out again.
    pub stale_for: Option<Duration>,
    /// In the order in which the authority named them. None if there was no such name.
    pub places: Vec<Place>,
}

/// All that one cache tells. It is in constant use: as soon as an answer is over, somebody asks for the next one.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    told: Vec<Told>,
}

impl Resolver {
    /// How many addresses an answer had at most.
    #[must_use]
    pub fn most(&self) -> usize {
        self.told.iter().map(|told| told.places.len()).max().unwrap_or(0)
    }

    /// What it tells at that time.
    pub(super) fn told(&self, at: Duration) -> Option<&Told> {
        let next = self.told.partition_point(|told| told.from <= at);
        next.checked_sub(1).and_then(|index| self.told.get(index)).filter(|told| at < told.until)
    }
}

/// In which phases the caches are when a film begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phases {
    /// Each in one of its own, by chance.
    Random,
    /// Spread evenly, as those of a rehearsal with real processes.
    Even,
}

/// The shortest time for which a cache keeps anything: a TTL of zero would be asked for without end.
const LEAST: Duration = Duration::from_secs(1);

/// So many caches, which ask the authority of a film until then.
#[must_use]
pub fn resolvers(
    film: &Film,
    terms: &Terms,
    count: usize,
    phases: Phases,
    until: Duration,
    random: &mut fastrand::Rng,
) -> Vec<Resolver> {
    #[expect(clippy::cast_precision_loss, reason = "some caches")]
    let mut caches: Vec<_> = (0..count)
        .map(|index| match phases {
            Phases::Random => 1.0 - random.f64(),
            Phases::Even => (index as f64 + 0.5) / count as f64,
        })
        .map(|share| (Cache::in_phase(share).serving_stale(film.is_stale_served()), Resolver::default()))
        .collect();
    let mut asking: BTreeSet<(Duration, usize)> = (0..count).map(|index| (Duration::ZERO, index)).collect();
    let mut namings = film.namings().iter().peekable();
    let mut named: Vec<Ipv4Addr> = Vec::new();
    let mut tasks: BTreeMap<TaskId, Ipv4Addr> = BTreeMap::new();
    while let Some((at, index)) = asking.pop_first().filter(|(at, _)| *at < until) {
        while let Some(naming) = namings.next_if(|naming| naming.at <= at) {
            // Two tasks may have had one address, one after the other.
            let gone = if naming.is_named {
                tasks.insert(naming.task, naming.address);
                named.push(naming.address);
                None
            } else {
                tasks.remove(&naming.task)
            };
            if let Some(place) = gone.and_then(|gone| named.iter().position(|address| *address == gone)) {
                named.swap_remove(place);
            }
        }
        let Some((cache, resolver)) = caches.get_mut(index) else { continue };
        let outage = film.outage(at).copied();
        let reply = cache.answer(at, || outage.is_none().then(|| answered(&mut named, terms, random)), |_| {});
        // Whoever gets no answer, or one that is over, asks again as soon as there is a new one.
        let Some(reply) = reply else {
            asking.extend(outage.map(|outage| (outage.until, index)));
            continue;
        };
        let until = outage.map_or(at + reply.answer.ttl().max(LEAST), |outage| outage.until);
        let stale_for = outage.map(|_| reply.answer.ttl());
        let places = match reply.answer {
            Answer::Addresses { addresses, .. } => {
                addresses.into_iter().filter_map(|address| film.place(address)).collect()
            }
            Answer::NoName { .. } => Vec::new(),
        };
        asking.insert((until, index));
        resolver.told.push(Told { from: at, until, stale_for, places });
    }
    caches.into_iter().map(|(_, resolver)| resolver).collect()
}

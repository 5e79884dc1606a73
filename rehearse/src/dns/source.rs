//! Who knows what the service's name is answered: the zone, or caches before it.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use fastrand::Rng;

use crate::{cache::Cache, cluster::Cluster, zone::Answer};

/// What a server says, now.
pub trait Source: Send + Sync + 'static {
    /// What a question for the service's name is answered. `None`: the server fails, as one that does not reach its zone.
    fn answer(&self) -> Option<Answer>;

    /// What a question for the name of the instance with this address is answered. How long a "no" may be kept is not looked
    /// at: the server's terms say so.
    fn instance(&self, address: Ipv4Addr) -> Option<Answer> {
        Some(match self.answer()? {
            Answer::Addresses { addresses, ttl } if addresses.contains(&address) => only(address, ttl),
            Answer::Addresses { ttl, .. } | Answer::NoName { ttl } => Answer::NoName { ttl },
        })
    }
}

impl<F: Fn() -> Option<Answer> + Send + Sync + 'static> Source for F {
    fn answer(&self) -> Option<Answer> {
        self()
    }
}

/// The zone itself, which somebody else changes as time passes.
pub struct Authority<C> {
    cluster: Arc<Mutex<Cluster>>,
    now: C,
}

impl<C: Fn() -> Duration + Send + Sync + 'static> Authority<C> {
    /// `now` is the time of the service.
    pub fn new(cluster: Arc<Mutex<Cluster>>, now: C) -> Self {
        Self { cluster, now }
    }
}

impl<C: Fn() -> Duration + Send + Sync + 'static> Source for Authority<C> {
    fn answer(&self) -> Option<Answer> {
        // The time is read under the lock: nobody is answered with what was, after somebody with what is.
        Some(locked(&self.cluster).answer((self.now)()))
    }

    // An instance that is named has its record whether or not it is one of the eight of this answer.
    fn instance(&self, address: Ipv4Addr) -> Option<Answer> {
        let (cluster, now) = (locked(&self.cluster), (self.now)());
        let is_named = cluster.named(now).values().any(|named| *named == address);
        let rules = cluster.rules();
        Some(if is_named { only(address, rules.ttl) } else { Answer::NoName { ttl: rules.negative_ttl } })
    }
}

/// In which order a resolver sends the records that it keeps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// As the authority gave them.
    Given,
    /// Any, each time.
    Shuffled,
}

/// A resolver: some caches, of which any one answers a question, as the members of a fleet do.
///
/// A cache keeps one answer, for all kinds of questions about the service's name.
pub struct Resolver<C> {
    authority: Arc<dyn Source>,
    order: Order,
    caches: Mutex<(Vec<Cache>, Rng)>,
    now: C,
    questions: AtomicU64,
    passed_on: AtomicU64,
}

impl<C: Fn() -> Duration + Send + Sync + 'static> Resolver<C> {
    /// `now` is the time of the service. Without a cache it passes all questions on.
    pub fn new(authority: Arc<dyn Source>, caches: Vec<Cache>, order: Order, random: Rng, now: C) -> Self {
        let (questions, passed_on) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { authority, order, caches: Mutex::new((caches, random)), now, questions, passed_on }
    }

    /// How many questions it was asked about the service.
    pub fn questions(&self) -> u64 {
        self.questions.load(Relaxed)
    }

    /// How many of them the authority was asked.
    pub fn passed_on(&self) -> u64 {
        self.passed_on.load(Relaxed)
    }

    /// Asks again for what is over, in each cache: others use the resolver too, and do so all the time.
    pub fn refresh(&self) {
        let (caches, _) = &mut *locked(&self.caches);
        let now = (self.now)();
        for cache in caches {
            // For the cache alone.
            let _ = cache.answer(now, || self.ask(), |_| {});
        }
    }

    fn ask(&self) -> Option<Answer> {
        self.passed_on.fetch_add(1, Relaxed);
        self.authority.answer()
    }
}

impl<C: Fn() -> Duration + Send + Sync + 'static> Source for Resolver<C> {
    fn answer(&self) -> Option<Answer> {
        self.questions.fetch_add(1, Relaxed);
        // The time is read under the lock: a cache is never asked with an earlier time than before.
        let (caches, random) = &mut *locked(&self.caches);
        let mut order = random.fork();
        let shuffle = |addresses: &mut [Ipv4Addr]| match self.order {
            Order::Given => {}
            Order::Shuffled => order.shuffle(addresses),
        };
        match random.choice(caches) {
            Some(cache) => cache.answer((self.now)(), || self.ask(), shuffle).map(|reply| reply.answer),
            None => self.ask().map(|answer| answer.left(answer.ttl(), shuffle)),
        }
    }

    // Not kept: nobody in a rehearsal asks by an instance's name but to look.
    fn instance(&self, address: Ipv4Addr) -> Option<Answer> {
        self.questions.fetch_add(1, Relaxed);
        self.passed_on.fetch_add(1, Relaxed);
        self.authority.instance(address)
    }
}

fn only(address: Ipv4Addr, ttl: Duration) -> Answer {
    Answer::Addresses { addresses: vec![address], ttl }
}

/// What a thread that panicked has left is whole: nothing here is changed in two steps.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

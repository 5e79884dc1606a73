//! What DNS has shown of this task: how long a caller may hold an answer with our address, and since when nobody gets
//! one. Pure.
//!
//! A resolver on the way caches answers and reports the TTL that is left, so the largest TTL seen is the best estimate
//! of the record's own. Every lookup is an observation of what a caller that asks now would be told.

use std::time::{Duration, Instant};

/// Cloud Map answers with at most this many records, a sample of those that there are. In an answer of this size,
/// absence is no evidence. Source: AWS Cloud Map Developer Guide, "Routing policy" (MULTIVALUE).
pub const SAMPLE: usize = 8;

/// How often the name is looked up while the task is a lame duck. A resolver that caches answers from its memory.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The least time between two lookups while the task runs, should its TTL be shorter.
const LEAST_INTERVAL: Duration = Duration::from_secs(5);

/// How soon to look again after a lookup that brought nothing.
const RETRY_INTERVAL: Duration = Duration::from_secs(15);

/// What a lookup brought.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The name has records.
    Records {
        /// Whether one of them is ours.
        ours: bool,
        /// How many there are.
        count: usize,
        /// How long DNS says that they hold, from now.
        ttl: Duration,
    },
    /// The name does not exist or has no such record.
    Absent {
        /// How long DNS says that this holds, if it does.
        ttl: Option<Duration>,
    },
    /// No answer, or one that is none.
    Failed(String),
}

/// The knobs.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long the lame duck lasts if no TTL was ever learned.
    pub fallback: Duration,
    /// Added to the TTL: what deregistration and propagation take.
    pub margin: Duration,
}

/// All that has been observed.
#[derive(Clone, Debug)]
pub struct Evidence {
    settings: Settings,
    started: Instant,
    largest_ttl: Option<Duration>,
    last_sighting: Option<Instant>,
    was_sampled: bool,
    was_absent: bool,
    watches_closely: bool,
    /// `None`: a lookup is under way.
    lookup_at: Option<Instant>,
}

impl Evidence {
    /// Nothing observed yet of a task that has just `started`. The first lookup is due at once.
    #[must_use]
    pub const fn new(settings: Settings, started: Instant) -> Self {
        Self {
            settings,
            started,
            largest_ttl: None,
            last_sighting: None,
            was_sampled: false,
            was_absent: false,
            watches_closely: false,
            lookup_at: Some(started),
        }
    }

    /// When the next lookup is due. `None`: one is under way.
    #[must_use]
    pub const fn lookup_at(&self) -> Option<Instant> {
        self.lookup_at
    }

    /// Whether a lookup is due `now`; if so it counts as under way, and its answer is awaited.
    pub fn begin_lookup(&mut self, now: Instant) -> bool {
        let is_due = self.lookup_at.is_some_and(|at| at <= now);
        if is_due {
            self.lookup_at = None;
        }
        is_due
    }

    /// The lame duck has begun: from now on every second counts.
    pub fn watch_closely(&mut self, now: Instant) {
        self.watches_closely = true;
        self.lookup_at = self.lookup_at.map(|_| now);
    }

    /// Takes note of an answer that came `now`. Returns whether DNS has just shown in full that we are not there.
    pub fn answered(&mut self, answer: &Answer, now: Instant) -> bool {
        let mut is_absent = false;
        let pause = match *answer {
            Answer::Records { ours, count, ttl } => {
                self.largest_ttl = self.largest_ttl.max(Some(ttl));
                if ours {
                    self.last_sighting = Some(now);
                } else if count >= SAMPLE || count == 1 {
                    // One foreign address may stand for all: a load balancer, a virtual address, a weighted record.
                    self.was_sampled = true;
                } else {
                    is_absent = true;
                    self.not_there(ttl, now);
                }
                // When what we were told expires, the next answer is fresh and shows the full TTL.
                ttl
            }
            Answer::Absent { ttl } => {
                is_absent = true;
                self.not_there(ttl.unwrap_or(self.settings.fallback), now);
                RETRY_INTERVAL
            }
            Answer::Failed(_) => RETRY_INTERVAL,
        };
        let pause = if self.watches_closely { WATCH_INTERVAL } else { pause.max(LEAST_INTERVAL) };
        self.lookup_at = Some(now + pause);
        is_absent
    }

    /// DNS did not name us. It proves something only if it cannot be an answer from before we were registered, which
    /// the platform does as it starts us.
    fn not_there(&mut self, ttl: Duration, now: Instant) {
        let ttl = ttl.max(self.largest_ttl.unwrap_or_default());
        if now >= self.started + ttl + self.settings.margin {
            self.was_absent = true;
        }
    }

    /// Whether DNS has named us at any time.
    #[must_use]
    pub const fn was_sighted(&self) -> bool {
        self.last_sighting.is_some()
    }

    /// Whether nobody can have learned our address: DNS answered, late enough and in full, and never named us.
    #[must_use]
    pub const fn proves_absence(&self) -> bool {
        self.was_absent && self.last_sighting.is_none() && !self.was_sampled
    }

    /// How long the lame duck lasts if our address leaves DNS as the stop is asked for.
    #[must_use]
    pub fn needed(&self) -> Duration {
        self.largest_ttl.map_or(self.settings.fallback, |ttl| ttl + self.settings.margin)
    }

    /// When a lame duck that began at `asked_at` may end: when the last answer that named us has expired everywhere.
    #[must_use]
    pub fn lame_duck_ends(&self, asked_at: Instant) -> Instant {
        self.last_sighting.map_or(asked_at, |seen| seen.max(asked_at)) + self.needed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const SETTINGS: Settings = Settings { fallback: secs(30), margin: secs(5) };

    /// The time, which pure code takes and never reads.
    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    const fn records(ours: bool, count: usize, ttl: u64) -> Answer {
        Answer::Records { ours, count, ttl: secs(ttl) }
    }

    #[test]
    fn the_largest_ttl_seen_is_the_records_own() {
        let now = now();
        let mut evidence = Evidence::new(SETTINGS, now);
        for (ttl, needed) in [(13, 18), (60, 65), (41, 65)] {
            evidence.answered(&records(true, 4, ttl), now);
            assert_eq!(evidence.needed(), secs(needed));
        }
    }

    #[test]
    fn without_an_answer_the_fallback_holds() {
        let now = now();
        let mut evidence = Evidence::new(SETTINGS, now);
        evidence.answered(&Answer::Failed("timed out".to_owned()), now);
        assert_eq!(evidence.lame_duck_ends(now), now + secs(30));
        assert!(!evidence.proves_absence());
    }

    #[test]
    fn the_lame_duck_ends_a_ttl_and_a_margin_after_the_stop_or_after_the_last_sighting() {
        let now = now();
        let mut evidence = Evidence::new(SETTINGS, now);
        evidence.answered(&records(true, 4, 30), now);
        let stop = now + secs(100);
        assert_eq!(evidence.lame_duck_ends(stop), stop + secs(35));
        evidence.answered(&records(true, 4, 12), stop + secs(3));
        assert_eq!(evidence.lame_duck_ends(stop), stop + secs(38));
        // It has left DNS: that lengthens nothing, and shortens nothing.
        evidence.answered(&records(false, 3, 30), stop + secs(4));
        assert_eq!(evidence.lame_duck_ends(stop), stop + secs(38));
    }

    #[test]
    fn a_lookup_follows_when_the_last_answer_expires_and_every_second_once_it_counts() {
        let now = now();
        let mut evidence = Evidence::new(SETTINGS, now);
        assert!(evidence.begin_lookup(now));
        assert_eq!((evidence.lookup_at(), evidence.begin_lookup(now + secs(9))), (None, false));
        for (answer, pause) in [
            (records(true, 4, 41), 41),
            (records(true, 4, 0), 5),
            (Answer::Absent { ttl: Some(secs(300)) }, 15),
            (Answer::Failed(String::new()), 15),
        ] {
            evidence.answered(&answer, now);
            assert_eq!(evidence.lookup_at(), Some(now + secs(pause)));
        }
        evidence.watch_closely(now + secs(2));
        assert_eq!(evidence.lookup_at(), Some(now + secs(2)));
        evidence.answered(&records(true, 4, 41), now + secs(3));
        assert_eq!(evidence.lookup_at(), Some(now + secs(4)));
    }

    #[test]
    fn watching_closely_waits_for_the_lookup_that_is_under_way() {
        let now = now();
        let mut evidence = Evidence::new(SETTINGS, now);
        evidence.begin_lookup(now);
        evidence.watch_closely(now);
        assert_eq!(evidence.lookup_at(), None);
    }

    #[test]
    fn a_task_that_dns_never_named_is_proven_absent() {
        let now = now();
        for answer in [records(false, 3, 30), Answer::Absent { ttl: Some(secs(30)) }, Answer::Absent { ttl: None }] {
            let mut evidence = Evidence::new(SETTINGS, now);
            // It may be an answer from before we were registered.
            evidence.answered(&answer, now + secs(34));
            assert!(!evidence.proves_absence(), "{answer:?}");
            evidence.answered(&answer, now + secs(35));
            assert!(evidence.proves_absence(), "{answer:?}");
        }
    }

    #[test]
    fn one_sighting_is_enough_for_ever() {
        let now = now();
        let mut evidence = Evidence::new(SETTINGS, now);
        evidence.answered(&records(true, 4, 30), now);
        evidence.answered(&Answer::Absent { ttl: None }, now + secs(1000));
        assert!(!evidence.proves_absence());
    }

    #[test]
    fn absence_from_a_sample_is_no_evidence() {
        let now = now();
        let mut evidence = Evidence::new(SETTINGS, now);
        evidence.answered(&records(false, 8, 30), now + secs(500));
        assert!(!evidence.proves_absence());
        let mut evidence = Evidence::new(SETTINGS, now);
        evidence.answered(&records(false, 1, 30), now + secs(500));
        assert!(!evidence.proves_absence());
        // The service shrank below a sample only as we left it.
        assert!(evidence.answered(&records(false, 7, 30), now + secs(1000)));
        assert!(!evidence.proves_absence());
    }
}

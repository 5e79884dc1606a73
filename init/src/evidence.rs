//! What DNS has shown of this task: how long a caller may hold an answer with our address, and since when nobody gets
//! one. Pure.
//!
//! A resolver on the way caches answers and reports the TTL that is left, so the largest TTL seen is the best estimate
//! of the record's own. Every lookup is an observation of what a caller that asks now would be told.
//!
//! An absence says nothing about the time until the next lookup: a record may come and go in between, and callers who were
//! told of it hold it long after. So it is evidence only as one of an unbroken row, from the start on, each asked for soon
//! after the one before. What such a row can miss is a record that was in DNS for less than the pause between two lookups,
//! or for less than our resolver keeps an answer and only callers of another one were told.

use std::time::{Duration, Instant};

/// Cloud Map answers with at most this many records, a sample of those that there are. In an answer of this size,
/// absence is no evidence. Source: AWS Cloud Map Developer Guide, "Routing policy" (MULTIVALUE).
pub const SAMPLE: usize = 8;

/// How often the name is looked up while the task is a lame duck. A resolver that caches answers from its memory.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The least time between two lookups while the task runs, should its TTL be shorter.
const LEAST_INTERVAL: Duration = Duration::from_secs(5);

/// How soon to look again after a lookup that brought nothing, and the longest time between two lookups as long as DNS does
/// not name us: whoever resolves elsewhere may be told of us before our resolver asks again.
const RETRY_INTERVAL: Duration = Duration::from_secs(15);

/// How late a lookup may be begun, for a slow answer to the one before or a busy machine. Later, nobody watched.
const LATE: Duration = Duration::from_secs(5);

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
    /// When the last answer was asked for that showed in full that we are not there.
    absent_at: Option<Instant>,
    /// How long such an answer held at most.
    absent_for: Duration,
    /// When such an answer must be asked for lest there be a gap.
    watched_until: Instant,
    had_gap: bool,
    watches_closely: bool,
    /// When the last lookup began.
    asked_at: Instant,
    /// `None`: a lookup is under way.
    lookup_at: Option<Instant>,
}

impl Evidence {
    /// Nothing observed yet of a task that has just `started`. The first lookup is due at once.
    #[must_use]
    pub fn new(settings: Settings, started: Instant) -> Self {
        Self {
            settings,
            started,
            largest_ttl: None,
            last_sighting: None,
            was_sampled: false,
            absent_at: None,
            absent_for: Duration::ZERO,
            watched_until: started + LATE,
            had_gap: false,
            watches_closely: false,
            asked_at: started,
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
            self.asked_at = now;
        }
        is_due
    }

    /// The lame duck has begun: from now on every second counts.
    pub fn watch_closely(&mut self, now: Instant) {
        self.watches_closely = true;
        self.lookup_at = self.lookup_at.map(|_| now);
    }

    /// Takes note of an answer that came `now`.
    pub fn answered(&mut self, answer: &Answer, now: Instant) {
        let pause = match *answer {
            Answer::Records { ours, count, ttl } => {
                self.largest_ttl = self.largest_ttl.max(Some(ttl));
                if ours {
                    self.last_sighting = Some(now);
                } else if count >= SAMPLE || count == 1 {
                    // One foreign address may stand for all: a load balancer, a virtual address, a weighted record.
                    self.was_sampled = true;
                } else {
                    return self.not_there(ttl, now);
                }
                // When what we were told expires, the next answer is fresh and shows the full TTL.
                ttl
            }
            Answer::Absent { ttl } => return self.not_there(ttl.unwrap_or(RETRY_INTERVAL), now),
            Answer::Failed(_) => RETRY_INTERVAL,
        };
        self.look_up_after(pause.max(LEAST_INTERVAL), now);
    }

    fn look_up_after(&mut self, pause: Duration, now: Instant) {
        self.lookup_at = Some(now + if self.watches_closely { WATCH_INTERVAL } else { pause });
    }

    /// DNS did not name us, in an answer that holds for `ttl`.
    fn not_there(&mut self, ttl: Duration, now: Instant) {
        let pause = ttl.clamp(LEAST_INTERVAL, RETRY_INTERVAL);
        // As of when it was asked for: it may have been on its way for seconds.
        self.had_gap |= self.asked_at > self.watched_until;
        self.watched_until = self.asked_at + pause + LATE;
        self.absent_at = Some(self.asked_at);
        self.absent_for = self.absent_for.max(ttl);
        self.look_up_after(pause, now);
    }

    /// Whether DNS has named us at any time.
    #[must_use]
    pub const fn was_sighted(&self) -> bool {
        self.last_sighting.is_some()
    }

    /// Whether nobody can have learned our address. DNS has said so since we were started, in full, without a gap in which a
    /// record could have come and gone; said it once more when asked at `stop` or later; and then no answer was left
    /// from before we were registered, which the platform does as it starts us.
    #[must_use]
    pub fn proves_absence(&self, stop: Instant) -> bool {
        let oldest_is_gone = self.started + self.needed().max(self.absent_for + self.settings.margin);
        self.absent_at.is_some_and(|asked_at| asked_at >= stop.max(oldest_is_gone))
            && self.last_sighting.is_none()
            && !self.was_sampled
            && !self.had_gap
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
        assert!(!evidence.proves_absence(now));
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
            // As long as we are not there, other resolvers may know before ours: it asks more often.
            (records(false, 4, 41), 15),
            (Answer::Absent { ttl: Some(secs(300)) }, 15),
            (Answer::Absent { ttl: Some(secs(9)) }, 9),
            (Answer::Absent { ttl: Some(secs(1)) }, 5),
            (Answer::Absent { ttl: None }, 15),
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

    /// Evidence of a task that has `started`, and of these answers, each asked for and got so many seconds later.
    fn evidence(started: Instant, answers: &[(u64, &Answer)]) -> Evidence {
        let mut evidence = Evidence::new(SETTINGS, started);
        for (at, answer) in answers {
            ask(&mut evidence, started + secs(*at), answer);
        }
        evidence
    }

    /// A lookup when it is due, or late, and its answer at once.
    fn ask(evidence: &mut Evidence, now: Instant, answer: &Answer) {
        assert!(evidence.begin_lookup(now), "it is due at {:?}, and it is {now:?}", evidence.lookup_at());
        evidence.answered(answer, now);
    }

    #[test]
    fn a_task_that_dns_never_named_is_proven_absent() {
        let now = now();
        for (answer, needed) in [
            (records(false, 3, 30), 35),
            (Answer::Absent { ttl: Some(secs(30)) }, 35),
            // Nothing is known of a record's TTL: the fallback holds.
            (Answer::Absent { ttl: Some(secs(15)) }, 30),
            (Answer::Absent { ttl: None }, 30),
        ] {
            let mut before = evidence(now, &[(0, &answer), (15, &answer)]);
            let mut evidence = before.clone();
            // It may be an answer from before we were registered.
            before.watch_closely(now + secs(needed - 1));
            ask(&mut before, now + secs(needed - 1), &answer);
            assert!(!before.proves_absence(now), "{answer:?}");
            evidence.watch_closely(now + secs(needed));
            ask(&mut evidence, now + secs(needed), &answer);
            assert!(evidence.proves_absence(now + secs(needed)), "{answer:?}");
            // It says nothing of what came after it was asked for.
            assert!(!evidence.proves_absence(now + secs(needed + 1)), "{answer:?}");
        }
    }

    #[test]
    fn a_row_of_absences_with_a_gap_proves_nothing_for_a_record_may_have_come_and_gone_in_it() {
        let now = now();
        let absent = Answer::Absent { ttl: Some(secs(5)) };
        let failed = Answer::Failed(String::new());
        let row = |answers: &[(u64, &Answer)]| evidence(now, answers).proves_absence(now);
        let [first, second, third, fourth] = [10, 20, 30, 40].map(|at| (at, &absent));
        // As late as it may be, and later.
        assert!(row(&[(0, &absent), first, second, third]));
        assert!(!row(&[(0, &absent), first, second, (31, &absent), (41, &absent)]));
        // The start counts as well.
        assert!(!row(&[first, second, third, fourth]));
        // Nobody was there while DNS did not answer.
        assert!(!row(&[(0, &failed), (15, &absent), (25, &absent), (35, &absent), (45, &absent)]));
        assert!(!row(&[(0, &absent), (10, &failed), (25, &absent), (35, &absent), (45, &absent)]));
    }

    #[test]
    fn the_longest_absence_counts_as_a_cache_may_have_kept_the_others() {
        let now = now();
        let [nearly_over, fresh] = [2, 60].map(|ttl| Answer::Absent { ttl: Some(secs(ttl)) });
        let mut evidence = evidence(now, &[(0, &nearly_over), (5, &fresh), (20, &fresh), (35, &fresh), (50, &fresh)]);
        evidence.watch_closely(now + secs(64));
        ask(&mut evidence, now + secs(64), &nearly_over);
        assert!(!evidence.proves_absence(now));
        ask(&mut evidence, now + secs(65), &nearly_over);
        assert!(evidence.proves_absence(now));
    }

    #[test]
    fn one_sighting_is_enough_for_ever() {
        let now = now();
        let [ours, absent] = [records(true, 4, 15), Answer::Absent { ttl: None }];
        assert!(evidence(now, &[(0, &absent), (15, &absent), (30, &absent)]).proves_absence(now));
        assert!(!evidence(now, &[(0, &absent), (15, &ours), (30, &absent), (45, &absent)]).proves_absence(now));
    }

    #[test]
    fn absence_from_a_sample_is_no_evidence() {
        let now = now();
        let small = records(false, 7, 15);
        assert!(evidence(now, &[(0, &small), (15, &small), (30, &small)]).proves_absence(now));
        for sample in [records(false, 8, 15), records(false, 1, 15)] {
            assert!(!evidence(now, &[(0, &sample), (15, &sample), (30, &sample)]).proves_absence(now));
            // The service shrank below a sample only as we left it.
            assert!(!evidence(now, &[(0, &sample), (15, &small), (30, &small)]).proves_absence(now));
        }
    }
}

//! The law behind the tables: how long a drain has to be so that nobody who honours TTLs fails. Pure.
//!
//! A task must not end before the last client has forgotten it. Whoever tries one address of an answer alone needs that of
//! every task: the drain has to be as long as an answer may be old, and the time DNS takes to show a deregistration. Whoever
//! goes on to the next address fails only when all of an answer's tasks have ended, and new tasks are named before the last
//! old ones are stopped: that gap is a drain that comes for nothing.

use std::time::Duration;

use super::habit::{Habit, OwnCache};
use crate::{client::Tries, rules::Rules};

/// How old the answer may be with which a client sends a request. None if there is no limit.
#[must_use]
pub fn knowledge(habit: &Habit, ttl: Duration) -> Option<Duration> {
    match habit.own {
        // What a resolver hands out counts down, and a cache that honours that adds nothing.
        OwnCache::None | OwnCache::Ttl(_) => Some(ttl),
        OwnCache::Fixed(time) => Some(ttl + time),
        OwnCache::Forever => None,
    }
}

/// The least drain with which a client's requests do not fail: TTL + lag for the first address alone, TTL + lag − gap for
/// all of them one after the other. None if no drain is long enough.
///
/// `gap` is from the first new record to the SIGTERM of the last old task; see [`super::Film::gap`].
#[must_use]
pub fn least_drain(habit: &Habit, rules: &Rules, gap: Duration) -> Option<Duration> {
    let known = knowledge(habit, rules.ttl)? + rules.deregister_lag;
    Some(match habit.tries {
        Tries::First => known,
        Tries::Next => known.saturating_sub(gap).saturating_sub(habit.waits),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::habit::habit, *};

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_drain_is_what_an_answer_may_be_old_less_the_gap_where_the_next_address_is_tried() {
        let least = |name: &str, ttl| {
            let rules = Rules { ttl: secs(ttl), ..Rules::default() };
            least_drain(&habit(name).unwrap(), &rules, secs(37)).map(|drain| drain.as_secs())
        };
        let table = [
            ("first-only", 15, Some(18)),
            ("first-only", 60, Some(63)),
            ("envoy", 60, Some(68)),
            ("try-next", 15, Some(0)),
            ("try-next", 30, Some(0)),
            ("try-next", 60, Some(26)),
            ("keep-alive", 60, Some(26)),
            ("fixed-order", 60, Some(26)),
            ("front", 60, Some(24)),
            ("jvm", 60, Some(56)),
            ("nginx", 5, None),
        ];
        for (client, ttl, expected) in table {
            assert_eq!(least(client, ttl), expected, "{client}, TTL {ttl}");
        }
    }
}

//! A resolver's cache between clients and the authority, such as the one of a VPC. Pure.

use std::{net::Ipv4Addr, time::Duration};

use crate::zone::Answer;

/// The TTL of what is handed out though it is over (RFC 8767, section 4).
const STALE: Duration = Duration::from_secs(30);

/// One cache: it asks the authority when what it has is over, and hands out the rest of its time.
#[derive(Clone, Debug)]
pub struct Cache {
    kept: Option<Kept>,
    /// The first answer is over after this share of its time, as if it had been asked for earlier.
    first: Option<f64>,
    may_serve_stale: bool,
}

#[derive(Clone, Debug)]
struct Kept {
    answer: Answer,
    asked: Duration,
    until: Duration,
}

/// An answer from the cache.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reply {
    /// The answer, with the time that is left of it.
    pub answer: Answer,
    /// When the authority gave it.
    pub asked: Duration,
}

impl Cache {
    /// An empty cache whose first answer is kept for this share of its TTL only. Caches with different shares are in
    /// different phases when a deployment begins.
    #[must_use]
    pub fn in_phase(share: f64) -> Self {
        Self { kept: None, first: Some(share.clamp(0.0, 1.0)), may_serve_stale: false }
    }

    /// Whether an answer that is over is handed out where the authority does not answer (RFC 8767).
    #[must_use]
    pub fn serving_stale(mut self, may: bool) -> Self {
        self.may_serve_stale = may;
        self
    }

    /// Answers a question. `authority` is asked if nothing is kept; it may not answer. `shuffle` orders each answer anew.
    pub fn answer(
        &mut self,
        now: Duration,
        authority: impl FnOnce() -> Option<Answer>,
        shuffle: impl FnOnce(&mut [Ipv4Addr]),
    ) -> Option<Reply> {
        if self.kept.as_ref().is_none_or(|kept| kept.until <= now) {
            match authority() {
                Some(answer) => {
                    let share = self.first.take().unwrap_or(1.0);
                    let until = now + answer.ttl().mul_f64(share);
                    self.kept = Some(Kept { answer, asked: now, until });
                }
                None if !self.may_serve_stale => return None,
                None => {}
            }
        }
        let kept = self.kept.as_ref()?;
        let left = kept.until.checked_sub(now).filter(|left| !left.is_zero()).unwrap_or(STALE);
        Some(Reply { answer: kept.answer.left(left, shuffle), asked: kept.asked })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn says(host: u8, ttl: u64) -> Answer {
        Answer::Addresses { addresses: vec![Ipv4Addr::new(127, 0, 1, host)], ttl: secs(ttl) }
    }

    #[test]
    fn an_answer_is_kept_for_its_ttl_and_handed_out_with_what_is_left_of_it() {
        let mut cache = Cache::in_phase(1.0);
        let ask = |cache: &mut Cache, now, host| cache.answer(secs(now), || Some(says(host, 60)), |_| {}).unwrap();
        assert_eq!(ask(&mut cache, 10, 1), Reply { answer: says(1, 60), asked: secs(10) });
        assert_eq!(ask(&mut cache, 69, 2), Reply { answer: says(1, 1), asked: secs(10) });
        assert_eq!(ask(&mut cache, 70, 3), Reply { answer: says(3, 60), asked: secs(70) });
    }

    #[test]
    fn a_phase_shortens_the_first_answer_only() {
        let mut cache = Cache::in_phase(0.25);
        let ask =
            |cache: &mut Cache, now, host| cache.answer(secs(now), || Some(says(host, 60)), |_| {}).unwrap().answer;
        assert_eq!(ask(&mut cache, 0, 1), says(1, 15));
        assert_eq!(ask(&mut cache, 15, 2), says(2, 60));
        assert_eq!(ask(&mut cache, 74, 3), says(2, 1));
    }

    #[test]
    fn no_such_name_is_kept_as_well() {
        let mut cache = Cache::in_phase(1.0);
        let none = Answer::NoName { ttl: secs(300) };
        cache.answer(secs(0), || Some(none.clone()), |_| {});
        let reply = cache.answer(secs(299), || Some(says(1, 60)), |_| {}).unwrap();
        assert_eq!(reply.answer, Answer::NoName { ttl: secs(1) });
        assert_eq!(cache.answer(secs(300), || Some(says(1, 60)), |_| {}).unwrap().answer, says(1, 60));
    }

    #[test]
    fn what_is_over_is_handed_out_only_where_it_may_be_and_the_authority_is_silent() {
        for may in [false, true] {
            let mut cache = Cache::in_phase(1.0).serving_stale(may);
            assert_eq!(cache.answer(secs(0), || None, |_| {}), None);
            cache.answer(secs(0), || Some(says(1, 60)), |_| {});
            let stale = cache.answer(secs(90), || None, |_| {});
            assert_eq!(stale.map(|reply| reply.answer), may.then(|| says(1, 30)));
            assert_eq!(cache.answer(secs(91), || Some(says(2, 60)), |_| {}).unwrap().answer, says(2, 60));
        }
    }
}

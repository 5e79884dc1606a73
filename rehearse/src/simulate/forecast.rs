//! What comes of many deployments, each with chances and cache phases of its own. Pure.

use std::{collections::BTreeMap, num::NonZeroUsize, thread, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    crowd::{Crowd, Seen, watch},
    film::{Film, Model},
    habit::Habit,
    resolver::{Phases, resolvers},
};
use crate::rules::Rules;

/// What came of many deployments.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Forecast {
    /// The clients' habit.
    pub client: String,
    /// How many deployments there were.
    pub deploys: usize,
    /// In which share of them a request failed.
    pub any: f64,
    /// How many requests failed in one, on average.
    pub mean: f64,
    /// In how many of a hundred deployments no more failed: in 95.
    pub p95: u64,
    /// How many failed in the worst of them.
    pub worst: u64,
    /// How many were sent in one, on average.
    pub requests: f64,
    /// For how long the requests of one client failed at worst, in seconds.
    pub longest: f64,
    /// In which share of the clients' processes a request failed.
    pub clients: f64,
    /// How many that did not fail took more than half a second to find their task, on average.
    #[serde(default)]
    pub slow: f64,
    /// How long one of these took for that at worst, in seconds.
    #[serde(default)]
    pub slowest: f64,
    /// How many failed for each cause, on average.
    pub by_cause: BTreeMap<String, f64>,
}

/// How long it takes until nobody who honours TTLs remembers what was before the end of a film.
pub(super) fn afterwards(film: &Film, rules: &Rules) -> Duration {
    let kept = if film.named().0 == 0 { rules.ttl.max(rules.negative_ttl) } else { rules.ttl };
    kept + rules.deregister_lag + Duration::from_secs(5)
}

/// The chances of one deployment of many: another one's are not like them.
pub(super) fn chance_of(seed: u64, deploy: usize) -> fastrand::Rng {
    let mut random = fastrand::Rng::with_seed(seed);
    let salt = random.u64(..);
    fastrand::Rng::with_seed(salt.wrapping_add(u64::try_from(deploy).unwrap_or(0).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

/// What clients of each habit see of one deployment.
#[must_use]
pub fn one(model: &Model, habits: &[Habit], crowd: &Crowd, phases: Phases, seed: u64, deploy: usize) -> Vec<Seen> {
    let mut random = chance_of(seed, deploy);
    let film = Film::of_deploy(model, random.u64(..));
    see(&film, &model.rules, habits, crowd, phases, &mut random)
}

/// What clients of each habit see of a film, with these rules' TTLs and resolvers.
#[must_use]
pub fn see(
    film: &Film,
    rules: &Rules,
    habits: &[Habit],
    crowd: &Crowd,
    phases: Phases,
    random: &mut fastrand::Rng,
) -> Vec<Seen> {
    let until = film.length + afterwards(film, rules);
    let each = usize::try_from(rules.resolver_caches).unwrap_or(1).max(1);
    let caches = resolvers(film, &rules.terms(), crowd.resolvers.max(1) * each, phases, until, random);
    habits.iter().map(|habit| watch(film, *habit, crowd, &caches, until, random)).collect()
}

/// What clients of each habit see of so many deployments: for each habit, a list of them.
#[must_use]
pub fn all(
    model: &Model,
    habits: &[Habit],
    crowd: &Crowd,
    phases: Phases,
    deploys: usize,
    seed: u64,
) -> Vec<Vec<Seen>> {
    let deploys: Vec<_> = (0..deploys).collect();
    let by_deploy = side_by_side(&deploys, |deploy| one(model, habits, crowd, phases, seed, *deploy));
    let mut by_habit: Vec<Vec<Seen>> = vec![Vec::with_capacity(deploys.len()); habits.len()];
    for seen in by_deploy {
        for (habit, seen) in by_habit.iter_mut().zip(seen) {
            habit.push(seen);
        }
    }
    by_habit
}

/// Each of these, on all processors; the results are in the order of what they are of.
pub(super) fn side_by_side<T: Sync, R: Send>(of: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = of.len().div_ceil(processors).max(1);
    thread::scope(|scope| {
        let threads: Vec<_> =
            of.chunks(share).map(|some| scope.spawn(|| some.iter().map(&each).collect::<Vec<_>>())).collect();
        let results = threads.into_iter().map(thread::ScopedJoinHandle::join);
        results.flat_map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

impl Forecast {
    /// What came of these deployments for a crowd of clients of a habit.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of requests and deployments")]
    pub fn of(habit: &Habit, crowd: &Crowd, seen: &[Seen]) -> Self {
        let count = seen.len().max(1) as f64;
        let mut failures: Vec<_> = seen.iter().map(Seen::failures).collect();
        failures.sort_unstable();
        let mut by_cause = BTreeMap::new();
        for (cause, failed) in seen.iter().flat_map(|seen| &seen.failed) {
            *by_cause.entry(cause.to_string()).or_insert(0.0) += *failed as f64 / count;
        }
        let last = failures.len().saturating_sub(1);
        Self {
            client: habit.name.to_owned(),
            deploys: seen.len(),
            any: failures.iter().filter(|failed| **failed > 0).count() as f64 / count,
            mean: failures.iter().sum::<u64>() as f64 / count,
            p95: failures.get((last * 95).div_ceil(100)).copied().unwrap_or(0),
            worst: failures.last().copied().unwrap_or(0),
            requests: seen.iter().map(|seen| seen.requests).sum::<u64>() as f64 / count,
            longest: seen.iter().map(|seen| seen.longest).max().unwrap_or_default().as_secs_f64(),
            clients: seen.iter().map(|seen| seen.clients).sum::<u64>() as f64 / count / crowd.clients.max(1) as f64,
            slow: seen.iter().map(|seen| seen.slow).sum::<u64>() as f64 / count,
            slowest: seen.iter().map(|seen| seen.slowest).max().unwrap_or_default().as_secs_f64(),
            by_cause,
        }
    }
}

/// What clients of each habit see of so many deployments, each of which has chances and cache phases of its own.
#[must_use]
pub fn forecast(model: &Model, habits: &[Habit], crowd: &Crowd, deploys: usize, seed: u64) -> Vec<Forecast> {
    let all = all(model, habits, crowd, Phases::Random, deploys, seed);
    habits.iter().zip(all).map(|(habit, seen)| Forecast::of(habit, crowd, &seen)).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::habit::habit, *};

    const ONE: Crowd = Crowd { clients: 1, resolvers: 1, rate: 10.0 };

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn forecasts(ttl: u64, drain: u64, names: &[&str]) -> Vec<Forecast> {
        let rules = Rules { ttl: secs(ttl), stop_timeout: secs(200), ..Rules::default() };
        let habits: Vec<_> = names.iter().map(|name| habit(name).unwrap()).collect();
        forecast(&Model::new(rules, secs(drain)), &habits, &ONE, 120, 1)
    }

    #[test]
    fn a_drain_beyond_the_ttl_is_enough_for_whoever_honours_it() {
        for forecast in forecasts(30, 35, &["front", "try-next", "first-only", "fixed-order", "keep-alive"]) {
            assert_eq!(forecast.worst, 0, "{forecast:?}");
        }
        // It keeps what it has for 5 s more than it may, which the margin for a late deregistration is not meant for.
        assert!((0.001..0.1).contains(&forecasts(30, 35, &["envoy"])[0].any));
        assert_eq!(forecasts(30, 40, &["envoy"])[0].worst, 0);
        let forecast = &forecasts(30, 35, &["nginx"])[0];
        assert!(forecast.any > 0.99, "it never asks again: {forecast:?}");
    }

    #[test]
    fn without_a_drain_the_ttl_decides_and_the_gap() {
        let long = forecasts(60, 0, &["front", "try-next", "first-only"]);
        assert!((0.3..0.7).contains(&long[1].any), "{long:?}");
        assert!(long[1].longest <= 30.0, "{long:?}");
        assert!(long[0].mean < long[1].mean, "front asks again: {long:?}");
        assert!(long[2].any > 0.99, "{long:?}");
        let short = forecasts(15, 0, &["try-next", "first-only"]);
        assert_eq!(short[0].worst, 0, "{short:?}");
        assert!(short[1].any > 0.99, "{short:?}");
    }

    #[test]
    fn who_keeps_answers_longer_than_they_are_good_for_fails_for_longer() {
        let forecasts = forecasts(60, 0, &["try-next", "jvm", "nginx"]);
        assert!(forecasts[1].mean > 1.5 * forecasts[0].mean, "{forecasts:?}");
        assert!((30.0..60.0).contains(&forecasts[1].longest), "{forecasts:?}");
        assert!(forecasts[2].mean > forecasts[1].mean, "{forecasts:?}");
    }

    #[test]
    fn one_seed_gives_one_result() {
        assert_eq!(forecasts(60, 0, &["try-next"]), forecasts(60, 0, &["try-next"]));
    }
}

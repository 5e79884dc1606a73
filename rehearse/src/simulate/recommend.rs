//! The smallest drain with which nobody's requests fail, and what it costs. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    crowd::Crowd,
    film::{Film, Model},
    forecast::{Forecast, all, chance_of, side_by_side},
    habit::Habit,
    law::{knowledge, least_drain},
    resolver::Phases,
};
use crate::{record::seconds, rules::Rules};

/// The service as it is, and what is asked of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Its rules.
    pub rules: Rules,
    /// Its clients.
    pub habits: Vec<Habit>,
    /// How many processes of each there are, and how many resolvers.
    pub crowd: Crowd,
    /// What the drain has beyond what is needed.
    pub margin: Duration,
    /// What a task needs after its drain to finish what is in flight.
    pub grace: Duration,
    /// The longest stop timeout that the platform allows.
    pub most_stop_timeout: Duration,
    /// How many deployments decide.
    pub deploys: usize,
    /// Where chance comes from.
    pub seed: u64,
}

/// What one client needs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Need {
    /// The client.
    pub client: String,
    /// Without a drain.
    pub without: Forecast,
    /// The least drain by the law, in seconds. None if no drain is long enough.
    pub by_law: Option<f64>,
    /// The least drain of whole seconds with which no deployment failed, in seconds. None as above.
    pub simulated: Option<f64>,
}

/// What to set, and why.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Recommendation {
    /// What each client needs.
    pub needs: Vec<Need>,
    /// The greatest need and the margin. What no drain is long enough for is not in it.
    #[serde(with = "seconds")]
    pub drain: Duration,
    /// The margin in it.
    #[serde(with = "seconds")]
    pub margin: Duration,
    /// What a task needs after it.
    #[serde(with = "seconds")]
    pub grace: Duration,
    /// The stop timeout that both need.
    #[serde(with = "seconds")]
    pub stop_timeout: Duration,
    /// Whether the platform allows it.
    pub fits: bool,
    /// The longest TTL with which it would. None if none does.
    pub most_ttl: Option<f64>,
    /// How long a deployment takes without a drain, until the last old task has gone: on average, in seconds.
    pub took_without: f64,
    /// And with it.
    pub took_with: f64,
    /// What came of deployments with the drain, with chances of their own: the proof.
    pub proof: Vec<Forecast>,
}

/// How many of the deployments the proof has for each one that decided.
const PROOF: usize = 4;

/// Recommends a drain.
#[must_use]
pub fn recommend(wanted: &Wanted) -> Recommendation {
    let Wanted { rules, habits, margin, grace, deploys, seed, .. } = wanted;
    let gap = (0..(*deploys).min(50))
        .filter_map(|deploy| Film::of_deploy(&model(wanted, Duration::ZERO), chance_of(*seed, deploy).u64(..)).gap())
        .min()
        .unwrap_or_default();
    let without = forecasts(wanted, habits, Duration::ZERO, *deploys, *seed);
    let need = |(habit, without): (&Habit, Forecast)| Need {
        client: habit.name.to_owned(),
        without,
        by_law: least_drain(habit, rules, gap).map(|drain| drain.as_secs_f64()),
        simulated: least_simulated(wanted, habit).map(|drain| drain.as_secs_f64()),
    };
    let needs: Vec<_> = habits.iter().zip(without).map(need).collect();
    let longest = needs.iter().flat_map(|need| [need.by_law, need.simulated]).flatten().fold(0.0, f64::max);
    let drain = Duration::from_secs_f64(longest.ceil()) + *margin;
    let stop_timeout = drain + *grace;
    let fits = stop_timeout <= wanted.most_stop_timeout;
    // What the drain has beyond the TTL stays as it is.
    let beyond = stop_timeout.saturating_sub(rules.ttl);
    let most_ttl = wanted.most_stop_timeout.checked_sub(beyond).filter(|ttl| !ttl.is_zero());
    Recommendation {
        needs,
        drain,
        margin: *margin,
        grace: *grace,
        stop_timeout,
        fits,
        most_ttl: most_ttl.map(|ttl| ttl.as_secs_f64().floor()),
        took_without: took(wanted, Duration::ZERO),
        took_with: took(wanted, drain),
        proof: forecasts(wanted, &honest(habits, rules.ttl), drain, deploys * PROOF, !seed),
    }
}

impl Recommendation {
    /// Clients for which no drain is long enough.
    pub fn hopeless(&self) -> impl Iterator<Item = &str> {
        self.needs.iter().filter(|need| need.simulated.is_none()).map(|need| need.client.as_str())
    }
}

/// Those who forget at last.
fn honest(habits: &[Habit], ttl: Duration) -> Vec<Habit> {
    habits.iter().filter(|habit| knowledge(habit, ttl).is_some()).copied().collect()
}

fn model(wanted: &Wanted, drain: Duration) -> Model {
    let rules = &wanted.rules;
    // It is the drain that is looked for, and not what a stop timeout would cut off it.
    let stop_timeout = rules.stop_timeout.max(drain + wanted.grace);
    Model::new(Rules { stop_timeout, ..rules.clone() }, drain)
}

fn forecasts(wanted: &Wanted, habits: &[Habit], drain: Duration, deploys: usize, seed: u64) -> Vec<Forecast> {
    super::forecast::forecast(&model(wanted, drain), habits, &wanted.crowd, deploys, seed)
}

/// The least drain of whole seconds with which no deployment fails a request of that client.
fn least_simulated(wanted: &Wanted, habit: &Habit) -> Option<Duration> {
    let known = knowledge(habit, wanted.rules.ttl)?;
    let fails = |drain: u64| {
        let model = model(wanted, Duration::from_secs(drain));
        let seen = all(&model, &[*habit], &wanted.crowd, Phases::Random, wanted.deploys, wanted.seed);
        seen.iter().flatten().any(|seen| seen.failures() > 0)
    };
    // Longer than anybody can know an address.
    let beyond = known + wanted.rules.deregister_lag + wanted.rules.tick;
    let (mut short, mut enough) = (0, beyond.as_secs() + 1);
    if !fails(short) {
        return Some(Duration::ZERO);
    }
    if fails(enough) {
        return None;
    }
    while enough - short > 1 {
        let middle = u64::midpoint(short, enough);
        if fails(middle) { short = middle } else { enough = middle }
    }
    Some(Duration::from_secs(enough))
}

/// How long deployments take until the last old task has gone: on average, in seconds.
#[expect(clippy::cast_precision_loss, reason = "a count of deployments")]
fn took(wanted: &Wanted, drain: Duration) -> f64 {
    let model = model(wanted, drain);
    let deploys: Vec<_> = (0..wanted.deploys.min(200)).collect();
    let times = side_by_side(&deploys, |deploy| {
        Film::of_deploy(&model, chance_of(wanted.seed, *deploy).u64(..)).took().unwrap_or_default().as_secs_f64()
    });
    times.iter().sum::<f64>() / times.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::{super::habit::habit, *};

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn wanted(ttl: u64, clients: &[&str]) -> Wanted {
        Wanted {
            rules: Rules { ttl: secs(ttl), ..Rules::default() },
            habits: clients.iter().map(|name| habit(name).unwrap()).collect(),
            crowd: Crowd { clients: 1, resolvers: 1, rate: 10.0 },
            margin: secs(5),
            grace: secs(7),
            most_stop_timeout: secs(120),
            deploys: 150,
            seed: 1,
        }
    }

    #[test]
    fn the_drain_is_what_the_most_exacting_client_needs_and_a_margin() {
        let said = recommend(&wanted(60, &["try-next", "first-only"]));
        let [next, first] = &said.needs[..] else { panic!("{said:?}") };
        let (next, first) = (next.simulated.unwrap(), first.simulated.unwrap());
        // Chance stays below the law, but not by much.
        assert!((15.0..=28.0).contains(&next), "{next}");
        assert!((58.0..=63.0).contains(&first), "{first}");
        assert_eq!((said.drain, said.stop_timeout, said.fits), (secs(68), secs(75), true));
        assert!(said.proof.iter().all(|forecast| forecast.deploys == 600 && forecast.worst == 0), "{:?}", said.proof);
        assert!(said.took_with > said.took_without + 55.0, "{} {}", said.took_with, said.took_without);
        assert_eq!(recommend(&wanted(60, &["try-next", "first-only"])), said, "one seed, one result");
    }

    #[test]
    fn what_needs_no_drain_gets_the_margin_alone() {
        let said = recommend(&wanted(15, &["try-next"]));
        assert_eq!((said.needs[0].simulated, said.needs[0].by_law), (Some(0.0), Some(0.0)));
        assert_eq!(said.drain, secs(5));
    }

    #[test]
    fn a_stop_timeout_that_the_platform_does_not_allow_is_told_with_the_ttl_that_would_do() {
        let said = recommend(&wanted(120, &["first-only"]));
        assert_eq!((said.stop_timeout, said.fits, said.most_ttl), (secs(135), false, Some(105.0)));
        let fitting = recommend(&wanted(105, &["first-only"]));
        assert_eq!((fitting.stop_timeout, fitting.fits), (secs(120), true));
    }

    #[test]
    fn a_client_that_never_asks_again_is_hopeless_and_decides_nothing() {
        let said = recommend(&wanted(15, &["nginx", "first-only"]));
        assert_eq!(said.hopeless().collect::<Vec<_>>(), ["nginx"]);
        assert_eq!(said.needs[0].by_law, None);
        assert_eq!(said.drain, secs(23));
        assert_eq!(said.proof.len(), 1, "of those who forget");
    }
}

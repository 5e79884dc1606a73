//! What comes of cues for a service and its clients, over many plays. Pure.

use std::time::Duration;

use serde::Serialize;

use super::{
    crowd::{Crowd, Seen, watch},
    film::{Cue, Film, Model},
    forecast::{Forecast, afterwards, chance_of, side_by_side},
    habit::Habit,
    resolver::{Phases, resolvers},
};
use crate::timeline::What;

/// The least and the most of something.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Range {
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Range {
    /// One value.
    #[must_use]
    pub const fn only(value: f64) -> Self {
        Self { least: value, most: value }
    }

    /// Those of several. None if there are none.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        values
            .map(Self::only)
            .reduce(|range, next| Self { least: range.least.min(next.least), most: range.most.max(next.most) })
    }
}

/// What became of a service in one play.
#[expect(clippy::struct_excessive_bools, reason = "each is counted by itself")]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Fate {
    completes: bool,
    gives_up: bool,
    is_stuck: bool,
    has_killed: bool,
    named: (usize, usize),
    serving: (usize, usize),
    most_in_answer: usize,
    took: Option<Duration>,
    gap: Option<Duration>,
}

impl Fate {
    fn of(film: &Film, most_in_answer: usize) -> Self {
        let any = |wanted: fn(&What) -> bool| film.events.iter().any(|event| wanted(&event.what));
        let last = |wanted: fn(&What) -> bool| film.events.iter().rposition(|event| wanted(&event.what));
        let completed = last(|what| matches!(what, What::DeploymentCompleted { .. }));
        Self {
            completes: completed.is_some() && completed > last(|what| matches!(what, What::DeploymentStarted { .. })),
            gives_up: any(|what| matches!(what, What::DeploymentFailed { .. })),
            is_stuck: any(|what| matches!(what, What::Note { text } if text.starts_with("unable to"))),
            has_killed: any(|what| matches!(what, What::Signalled { signal, .. } if signal == "SIGKILL")),
            named: film.named(),
            serving: film.serving(),
            most_in_answer,
            took: film.took(),
            gap: film.gap(),
        }
    }
}

/// What became of a service in many plays. Shares are in percent of the plays, times in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fates {
    /// In which share of the plays the last deployment that was begun was completed.
    pub completes: f64,
    /// In which share of them the circuit breaker gave a deployment up.
    pub gives_up: f64,
    /// In which share of them a deployment could not go on.
    pub stuck: f64,
    /// In which share of them a task got SIGKILL.
    pub killed: f64,
    /// The least number of tasks that DNS named at a time.
    pub least_named: Range,
    /// The most.
    pub most_named: Range,
    /// The least number of tasks that listened, and were not sick, at a time.
    pub least_serving: Range,
    /// The most addresses in an answer of a resolver.
    pub most_in_answer: Range,
    /// How long it took, until the last process that ended had gone. None if nothing ended.
    pub takes: Option<Range>,
    /// From the first new record to the last SIGTERM. None if there was none of these.
    pub gap: Option<Range>,
}

impl Fates {
    #[expect(clippy::cast_precision_loss, reason = "counts of tasks and plays")]
    fn of(fates: &[Fate]) -> Self {
        let share = |of: fn(&Fate) -> bool| {
            100.0 * fates.iter().filter(|fate| of(fate)).count() as f64 / fates.len().max(1) as f64
        };
        let range =
            |of: fn(&Fate) -> usize| Range::of(fates.iter().map(|fate| of(fate) as f64)).unwrap_or(Range::only(0.0));
        Self {
            completes: share(|fate| fate.completes),
            gives_up: share(|fate| fate.gives_up),
            stuck: share(|fate| fate.is_stuck),
            killed: share(|fate| fate.has_killed),
            least_named: range(|fate| fate.named.0),
            most_named: range(|fate| fate.named.1),
            least_serving: range(|fate| fate.serving.0),
            most_in_answer: range(|fate| fate.most_in_answer),
            takes: Range::of(fates.iter().filter_map(|fate| fate.took).map(|took| took.as_secs_f64())),
            gap: Range::of(fates.iter().filter_map(|fate| fate.gap).map(|gap| gap.as_secs_f64())),
        }
    }
}

/// What came of many plays.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Played {
    /// What clients of each habit saw.
    pub clients: Vec<Forecast>,
    /// What became of the service.
    pub service: Fates,
}

/// Plays these cues so often, each time with chances and cache phases of its own.
#[must_use]
pub fn play(model: &Model, cues: &[Cue], habits: &[Habit], crowd: &Crowd, plays: usize, seed: u64) -> Played {
    let numbers: Vec<_> = (0..plays).collect();
    let each = usize::try_from(model.rules.resolver_caches).unwrap_or(1).max(1);
    let one = |number: &usize| -> (Vec<Seen>, Fate) {
        let mut random = chance_of(seed, *number);
        let film = Film::of(model, cues, random.u64(..));
        let until = film.length + afterwards(&film, &model.rules);
        let count = crowd.resolvers.max(1) * each;
        let caches = resolvers(&film, &model.rules.terms(), count, Phases::Random, until, &mut random);
        let each = habits.iter().map(|habit| watch(&film, *habit, crowd, &caches, until, &mut random)).collect();
        let most = caches.iter().map(super::resolver::Resolver::most).max().unwrap_or(0);
        (each, Fate::of(&film, most))
    };
    let mut by_habit = vec![Vec::with_capacity(plays); habits.len()];
    let mut fates = Vec::with_capacity(plays);
    for (seen, fate) in side_by_side(&numbers, one) {
        for (habit, seen) in by_habit.iter_mut().zip(seen) {
            habit.push(seen);
        }
        fates.push(fate);
    }
    let clients = habits.iter().zip(by_habit).map(|(habit, seen)| Forecast::of(habit, crowd, &seen)).collect();
    Played { clients, service: Fates::of(&fates) }
}

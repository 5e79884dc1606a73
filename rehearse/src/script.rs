//! A named scenario as a small file of data: what is done to a service, who watches, and what is expected of it. Pure.
//!
//! One file is a script. It has one case, or several that differ in some settings; each case is played many times.

mod format;
mod library;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;

pub use library::{embedded, list, names};

use crate::{
    rules::Setting,
    simulate::{Crowd, Cue, Fates, Forecast, Habit, Model, Played, Range, play},
    verdict::Cause,
};

/// What is wrong with a script.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{file}:{line}: {what}")]
pub struct Fault {
    /// Which file.
    pub file: String,
    /// In which line, from 1 on.
    pub line: usize,
    /// What is wrong, and what to do.
    pub what: String,
}

/// A scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// Its name: that of its file.
    pub name: String,
    /// What happens, in a few words.
    pub title: String,
    /// What happens and why it matters, in some lines.
    pub about: String,
    /// Where the expectations come from.
    pub source: String,
    /// What is played. Never none.
    pub cases: Vec<Case>,
}

/// One setting of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Its name. Empty for the only one.
    pub name: String,
    /// The service.
    pub model: Model,
    /// What is done to it.
    pub cues: Vec<Cue>,
    /// Its clients.
    pub habits: Vec<Habit>,
    /// How many of each.
    pub crowd: Crowd,
    /// What is expected. Never nothing.
    pub expectations: Vec<Expectation>,
}

/// What is expected of one figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    /// Whose: the name of a client's habit, or nothing for the service's.
    pub client: Option<String>,
    /// Which.
    pub figure: Figure,
    /// What it is to be.
    pub bounds: Range,
}

/// A figure of what came of a case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Figure {
    /// Plays in which a request failed, in percent.
    FailingPlays,
    /// Failed requests of a play, on average.
    Mean,
    /// Failed requests of the worst play.
    Worst,
    /// For how long the requests of one client failed at worst, in seconds.
    Longest,
    /// Requests that took more than half a second to find their task, on average.
    Slow,
    /// How long one of these took for that at worst, in seconds.
    Slowest,
    /// Failed requests of this cause, on average.
    Of(Cause),
    /// Plays in which the last deployment was completed, in percent.
    Completes,
    /// Plays in which the circuit breaker gave a deployment up, in percent.
    GivesUp,
    /// Plays in which a deployment could not go on, in percent.
    Stuck,
    /// Plays in which a task got SIGKILL, in percent.
    Killed,
    /// The least number of tasks that DNS named.
    LeastNamed,
    /// The most.
    MostNamed,
    /// The least number of tasks that listened and were not sick.
    LeastServing,
    /// The most addresses in an answer.
    MostInAnswer,
    /// How long it took, in seconds.
    Takes,
    /// From the first new record to the last SIGTERM, in seconds.
    Gap,
}

impl Figure {
    /// Those of clients, with their names in files.
    const OF_CLIENTS: [(&'static str, Self); 6] = [
        ("failing-plays", Self::FailingPlays),
        ("mean", Self::Mean),
        ("worst", Self::Worst),
        ("longest", Self::Longest),
        ("slow", Self::Slow),
        ("slowest", Self::Slowest),
    ];
    /// Those of the service, with their names in files.
    const OF_SERVICE: [(&'static str, Self); 10] = [
        ("completes", Self::Completes),
        ("gives-up", Self::GivesUp),
        ("stuck", Self::Stuck),
        ("killed", Self::Killed),
        ("least-named", Self::LeastNamed),
        ("most-named", Self::MostNamed),
        ("least-serving", Self::LeastServing),
        ("most-in-answer", Self::MostInAnswer),
        ("takes", Self::Takes),
        ("gap", Self::Gap),
    ];

    /// Its name in files.
    #[must_use]
    pub fn name(self) -> String {
        if let Self::Of(cause) = self {
            return cause.to_string();
        }
        let all = Self::OF_CLIENTS.iter().chain(&Self::OF_SERVICE);
        all.into_iter().find(|(_, figure)| *figure == self).map_or_else(String::new, |(name, _)| (*name).to_owned())
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::FailingPlays | Self::Completes | Self::GivesUp | Self::Stuck | Self::Killed => " %",
            Self::Longest | Self::Slowest | Self::Takes | Self::Gap => " s",
            Self::Mean
            | Self::Worst
            | Self::Slow
            | Self::Of(_)
            | Self::LeastNamed
            | Self::MostNamed
            | Self::LeastServing
            | Self::MostInAnswer => "",
        }
    }

    /// What it was for clients.
    fn of_client(self, seen: &Forecast) -> Option<Range> {
        #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
        let worst = seen.worst as f64;
        let value = match self {
            Self::FailingPlays => 100.0 * seen.any,
            Self::Mean => seen.mean,
            Self::Worst => worst,
            Self::Longest => seen.longest,
            Self::Slow => seen.slow,
            Self::Slowest => seen.slowest,
            Self::Of(cause) => seen.by_cause.get(&cause.to_string()).copied().unwrap_or(0.0),
            Self::Completes
            | Self::GivesUp
            | Self::Stuck
            | Self::Killed
            | Self::LeastNamed
            | Self::MostNamed
            | Self::LeastServing
            | Self::MostInAnswer
            | Self::Takes
            | Self::Gap => return None,
        };
        Some(Range::only(value))
    }

    /// What it was for the service.
    fn of_service(self, fates: &Fates) -> Option<Range> {
        match self {
            Self::Completes => Some(Range::only(fates.completes)),
            Self::GivesUp => Some(Range::only(fates.gives_up)),
            Self::Stuck => Some(Range::only(fates.stuck)),
            Self::Killed => Some(Range::only(fates.killed)),
            Self::LeastNamed => Some(fates.least_named),
            Self::MostNamed => Some(fates.most_named),
            Self::LeastServing => Some(fates.least_serving),
            Self::MostInAnswer => Some(fates.most_in_answer),
            Self::Takes => fates.takes,
            Self::Gap => fates.gap,
            Self::FailingPlays
            | Self::Mean
            | Self::Worst
            | Self::Longest
            | Self::Slow
            | Self::Slowest
            | Self::Of(_) => None,
        }
    }
}

/// What came of an expectation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Whose figure it is: a client's, or the service's if there is none.
    pub client: Option<String>,
    /// Which.
    pub figure: String,
    /// What was expected: all of what was seen between these.
    pub expected: Range,
    /// What was seen. None if there was nothing to see, which is not what was expected.
    pub seen: Option<Range>,
    /// Whether it held.
    pub held: bool,
    #[serde(skip)]
    unit: &'static str,
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaseResult {
    /// Its name. Empty for the only one.
    pub case: String,
    /// What was expected, and what was seen.
    pub expectations: Vec<Finding>,
    /// All that was seen.
    #[serde(flatten)]
    pub played: Played,
}

/// What came of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScriptResult {
    /// Its name.
    pub scenario: String,
    /// What happens in it.
    pub title: String,
    /// How often each case was played.
    pub plays: usize,
    /// Whether all was as expected.
    pub held: bool,
    /// Case by case.
    pub cases: Vec<CaseResult>,
}

impl Script {
    /// What a file says.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in which line, and what to do.
    pub fn parse(name: &str, file: &str, text: &str) -> Result<Self, Fault> {
        format::parse(name, file, text)
    }

    /// Changes rules in all cases, beyond what the file says.
    ///
    /// # Errors
    ///
    /// If one cannot be set so, or does not fit to the others.
    pub fn set(&mut self, settings: &[Setting]) -> Result<(), String> {
        for case in &mut self.cases {
            for setting in settings {
                case.model.rules.set(setting)?;
            }
            case.model.rules.check_together().map_err(|error| format!("{}: {error}", self.name))?;
        }
        Ok(())
    }

    /// Plays all cases so often, and compares.
    #[must_use]
    pub fn play(&self, plays: usize, seed: u64) -> ScriptResult {
        let cases: Vec<_> = self.cases.iter().map(|case| case.play(plays, seed)).collect();
        let held = cases.iter().flat_map(|case| &case.expectations).all(|finding| finding.held);
        ScriptResult { scenario: self.name.clone(), title: self.title.clone(), plays, held, cases }
    }
}

impl Case {
    fn play(&self, plays: usize, seed: u64) -> CaseResult {
        let played = play(&self.model, &self.cues, &self.habits, &self.crowd, plays, seed);
        let finding = |expectation: &Expectation| {
            let Expectation { client, figure, bounds } = expectation;
            let value = match client {
                Some(client) => {
                    let forecast = played.clients.iter().find(|forecast| forecast.client == *client);
                    forecast.and_then(|forecast| figure.of_client(forecast))
                }
                None => figure.of_service(&played.service),
            };
            Finding {
                client: client.clone(),
                figure: figure.name(),
                expected: *bounds,
                seen: value,
                held: value.is_some_and(|value| bounds.least <= value.least && value.most <= bounds.most),
                unit: figure.unit(),
            }
        };
        let expectations = self.expectations.iter().map(finding).collect();
        CaseResult { case: self.name.clone(), expectations, played }
    }
}

/// A number, to a tenth if it is not a whole one.
fn number(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn range(range: &Range, unit: &str) -> String {
    let (least, most) = (number(range.least), number(range.most));
    if least == most { format!("{least}{unit}") } else { format!("{least} to {most}{unit}") }
}

impl fmt::Display for ScriptResult {
    /// A table of what was expected and what was seen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.held { "as expected" } else { "NOT as expected" };
        writeln!(f, "{}: {} ({} plays, {word})", self.scenario, self.title, self.plays)?;
        let rows: Vec<_> = self
            .cases
            .iter()
            .flat_map(|case| case.expectations.iter().map(move |finding| (case.case.as_str(), finding)))
            .map(|(case, finding)| {
                let seen = finding.seen.as_ref().map_or("nothing".to_owned(), |seen| range(seen, finding.unit));
                let of = finding.client.as_deref().unwrap_or("service");
                let held = if finding.held { "yes" } else { "NO" };
                [
                    case.to_owned(),
                    of.to_owned(),
                    finding.figure.clone(),
                    range(&finding.expected, finding.unit),
                    seen,
                    held.to_owned(),
                ]
            })
            .collect();
        let heads = ["case", "of", "figure", "expected", "seen", "held"].map(str::to_owned);
        let width = |column: usize| {
            rows.iter().chain([&heads]).filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<_> = (0..heads.len()).map(|column| width(column).unwrap_or(0)).collect();
        let has_cases = self.cases.len() > 1;
        for row in [&heads].into_iter().chain(&rows) {
            let cells = row.iter().zip(&widths).skip(usize::from(!has_cases));
            let line = cells.fold(String::new(), |line, (cell, width)| line + &format!("  {cell:<width$}"));
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

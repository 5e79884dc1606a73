//! The four questions of the article that this began with: what is run to answer each, and what the answer is.

use std::{collections::BTreeMap, time::Duration};

use console::duration;
use humantime::format_duration;

use crate::{
    client::Profile,
    error::Error,
    record::Record,
    report::{Answer, Judged, Summary},
    rules::{Replacement, Rules},
    run::{Deed, Run},
    scenario::{Entrypoint, FrontChoice, GRACE, MARGIN, Scenario, Stage},
    timeline::{Event, Status, TaskId, What},
    verdict::Tenancies,
};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// An experiment: what is run for it, and how that is read.
pub struct Experiment {
    /// Its name on the command line.
    pub name: &'static str,
    /// Runs that follow each other.
    pub series: Vec<Run>,
    /// Runs that go on side by side, after those.
    pub parallel: Vec<Run>,
    /// What is read from them, in that order.
    pub answers: Vec<fn(&[&Judged]) -> Answer>,
}

impl std::fmt::Debug for Experiment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Experiment").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The names of all experiments, in their order.
pub const NAMES: [&str; 3] = ["distribution", "deploy", "unhealthy"];

/// The experiment of that name.
///
/// # Errors
///
/// If there is none, or its settings do not fit together.
pub fn named(name: &str, stage: &Stage) -> Result<Experiment, Error> {
    match name {
        "distribution" => distribution(stage),
        "deploy" => deploy(stage),
        "unhealthy" => unhealthy(stage),
        _ => Err(Error::Settings(format!("there is no experiment {name:?}: there are {}", NAMES.join(", ")))),
    }
}

fn scenario(stage: &Stage, title: &str, rules: Rules, drain: Option<Duration>) -> Result<Scenario, Error> {
    let drain = drain.unwrap_or(Duration::ZERO);
    Ok(Scenario {
        title: title.to_owned(),
        entrypoint: Entrypoint::Init { drain, grace: GRACE.min(rules.stop_timeout), skips_unhealthy: false },
        rules,
        task: stage.back(),
        probe: "http://{ip}:{port}/health".parse().map_err(Error::Settings)?,
        front: FrontChoice::Ours,
        clients: Vec::new(),
        path: "/".to_owned(),
        deed: Deed::Deploy,
        warm_up: secs(10),
    })
}

fn distribution(stage: &Stage) -> Result<Experiment, Error> {
    let rules = stage.rules.clone();
    let watch = Deed::Watch(secs(60));
    let clients = vec![(Profile::Front, 1), (Profile::TryNext, 1), (Profile::KeepAlive, 1), (Profile::FixedOrder, 1)];
    let scenario = Scenario { clients, deed: watch, warm_up: secs(0), ..scenario(stage, "steady state", rules, None)? };
    let series = vec![stage.run(scenario, 0)?];
    Ok(Experiment { name: "distribution", series, parallel: vec![], answers: vec![spread] })
}

fn deploy(stage: &Stage) -> Result<Experiment, Error> {
    let clients = vec![
        (Profile::TryNext, stage.phases),
        (Profile::FirstOnly, stage.phases),
        // Each is a process of its own.
        (Profile::Front, stage.phases.div_ceil(2)),
    ];
    let run = |ttl: Duration, drain: Option<Duration>| {
        let stop_timeout =
            drain.map_or(stage.rules.stop_timeout, |drain| stage.rules.stop_timeout.max(drain + 2 * GRACE));
        let rules = Rules { stop_timeout, ttl, ..stage.rules.clone() };
        let title = match drain {
            Some(drain) => format!("deploy, TTL {}, init drains {}", format_duration(ttl), format_duration(drain)),
            None => format!("deploy, TTL {}, no drain", format_duration(ttl)),
        };
        stage.run(Scenario { clients: clients.clone(), ..scenario(stage, &title, rules, drain)? }, 0)
    };
    let series = vec![run(secs(60), None)?, run(secs(15), None)?, run(secs(30), Some(secs(30) + MARGIN))?];
    Ok(Experiment { name: "deploy", series, parallel: vec![], answers: vec![registration, failures] })
}

fn unhealthy(stage: &Stage) -> Result<Experiment, Error> {
    let ttl = secs(30);
    let drain = ttl + MARGIN;
    let stop_timeout = stage.rules.stop_timeout.max(drain + 2 * GRACE);
    let clients = vec![(Profile::TryNext, 2), (Profile::KeepAlive, 1), (Profile::Front, 1)];
    let run = |unhealthy_replacement, skips_unhealthy, number| {
        let rules = Rules { unhealthy_replacement, stop_timeout, ttl, ..stage.rules.clone() };
        let whom = if skips_unhealthy { "healthy tasks" } else { "all tasks" };
        let title = format!("one task fails, {unhealthy_replacement} replacement, init drains {whom}");
        let plain = scenario(stage, &title, rules, Some(drain))?;
        let entrypoint = match plain.entrypoint {
            Entrypoint::Init { drain, grace, .. } => Entrypoint::Init { drain, grace, skips_unhealthy },
            other @ (Entrypoint::None | Entrypoint::Other(_)) => other,
        };
        let deed = Deed::Break("/error".to_owned());
        stage.run(Scenario { clients: clients.clone(), deed, entrypoint, ..plain }, number)
    };
    let parallel = vec![
        run(Replacement::Legacy, false, 0)?,
        run(Replacement::Legacy, true, 1)?,
        run(Replacement::Modern, false, 2)?,
        run(Replacement::Modern, true, 3)?,
    ];
    Ok(Experiment { name: "unhealthy", series: vec![], parallel, answers: vec![replacement] })
}

/// How many good answers came from each task, of the clients of a profile.
fn by_task(record: &Record, profile: Profile) -> BTreeMap<&str, u64> {
    let is_its = |client: usize| record.clients.get(client).is_some_and(|it| it.profile == profile.name());
    let mut counts = BTreeMap::new();
    for request in record.requests.iter().filter(|request| is_its(request.client)) {
        if let Some(task) = &request.task {
            *counts.entry(task.as_str()).or_insert(0) += 1;
        }
    }
    counts
}

/// Pearson's statistic of an even spread over so many tasks.
#[expect(clippy::cast_precision_loss, reason = "counts of requests")]
fn chi_square(counts: &BTreeMap<&str, u64>, tasks: usize) -> f64 {
    let total: u64 = counts.values().sum();
    let expected = (total as f64 / tasks as f64).max(f64::MIN_POSITIVE);
    let seen = counts.values().copied().chain(std::iter::repeat(0)).take(tasks.max(counts.len()));
    seen.map(|count| (count as f64 - expected).powi(2) / expected).sum()
}

/// What chance alone stays below in 999 of 1000 cases, after Wilson and Hilferty (1931).
#[expect(clippy::cast_precision_loss, reason = "a few tasks")]
fn chi_square_limit(tasks: usize) -> f64 {
    /// The standard normal distribution's quantile of 0.999.
    const Z: f64 = 3.090_232;
    let degrees = tasks.saturating_sub(1).max(1) as f64;
    let spread = 2.0 / (9.0 * degrees);
    degrees * Z.mul_add(spread.sqrt(), 1.0 - spread).powi(3)
}

fn spread(runs: &[&Judged]) -> Answer {
    let mut rows = Vec::new();
    let mut held = true;
    let mut said = Vec::new();
    for judged in runs {
        let record = &judged.record;
        let tasks = record.events.iter().filter(|it| matches!(it.what, What::Created { .. })).count();
        for (profile, is_even) in [
            (Profile::Front, true),
            (Profile::TryNext, true),
            (Profile::KeepAlive, false),
            (Profile::FixedOrder, false),
        ] {
            let counts = by_task(record, profile);
            let total: u64 = counts.values().sum();
            let shown: Vec<_> = counts.values().map(u64::to_string).collect();
            let (chi, limit) = (chi_square(&counts, tasks), chi_square_limit(tasks));
            held &= total > 0 && (tasks < 2 || (chi <= limit) == is_even);
            let word = if chi <= limit { "even" } else { "not even" };
            rows.push((
                profile.to_string(),
                format!(
                    "{} of {tasks} tasks: {}; chi-square {chi:.1}, {word} (limit {limit:.1})",
                    counts.len(),
                    shown.join(" ")
                ),
            ));
            if chi <= limit {
                said.push(profile.name());
            }
        }
    }
    Answer {
        question: "Are requests spread over the tasks?".to_owned(),
        answer: match said.as_slice() {
            [] => "by no client".to_owned(),
            even => {
                format!("evenly by {}; not by clients that keep a connection or an answer's order", even.join(" and "))
            }
        },
        expectation:
            "front and whoever looks up for each request spread them evenly; a kept connection pins one task, and a \
                      kept order one task for each TTL"
                .to_owned(),
        held,
        rows,
    }
}

/// When something happened to a task, for each task to which it did.
fn times(events: &[Event], of: impl Fn(&What) -> Option<TaskId>) -> BTreeMap<TaskId, Duration> {
    let mut times = BTreeMap::new();
    for event in events {
        if let Some(task) = of(&event.what) {
            times.entry(task).or_insert(event.at);
        }
    }
    times
}

fn created(what: &What) -> Option<TaskId> {
    if let What::Created { task, .. } = what { Some(*task) } else { None }
}

fn registered(what: &What) -> Option<TaskId> {
    if let What::Registered { task } = what { Some(*task) } else { None }
}

fn deregistered(what: &What) -> Option<TaskId> {
    if let What::Deregistered { task } = what { Some(*task) } else { None }
}

fn signalled(what: &What) -> Option<TaskId> {
    if let What::Signalled { task, .. } = what { Some(*task) } else { None }
}

fn unhealthy_at(what: &What) -> Option<TaskId> {
    if let What::Health { task, status: Status::Unhealthy } = what { Some(*task) } else { None }
}

/// From the one to the other, for each task that has both.
fn lags(from: &BTreeMap<TaskId, Duration>, to: &BTreeMap<TaskId, Duration>) -> Vec<Duration> {
    from.iter().filter_map(|(task, from)| to.get(task)?.checked_sub(*from)).collect()
}

/// The least and the most, in seconds.
fn range(lags: &[Duration]) -> String {
    match (lags.iter().min(), lags.iter().max()) {
        (Some(least), Some(most)) => format!("{:.1} to {:.1} s", least.as_secs_f64(), most.as_secs_f64()),
        _ => "never".to_owned(),
    }
}

/// How many records there were, each time that it changed within a second.
fn record_counts(events: &[Event]) -> Vec<usize> {
    let (mut named, mut counts): (usize, Vec<(u64, usize)>) = (0, Vec::new());
    for event in events {
        named = match event.what {
            What::Registered { .. } => named + 1,
            What::Deregistered { .. } => named.saturating_sub(1),
            What::Created { .. }
            | What::Moved { .. }
            | What::Health { .. }
            | What::Listens { .. }
            | What::Signalled { .. }
            | What::Exited { .. }
            | What::DeploymentStarted { .. }
            | What::DeploymentCompleted { .. }
            | What::DeploymentFailed { .. }
            | What::Note { .. } => continue,
        };
        let at = event.at.as_secs();
        if counts.last().is_some_and(|(second, _)| *second == at) {
            counts.pop();
        }
        counts.push((at, named));
    }
    let mut counts: Vec<_> = counts.into_iter().map(|(_, count)| count).collect();
    counts.dedup();
    counts
}

fn registration(runs: &[&Judged]) -> Answer {
    let (mut rows, mut held) = (Vec::new(), true);
    let (mut appear, mut wait, mut disappear, mut kept) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for judged in runs {
        let record = &judged.record;
        let new: BTreeMap<_, _> = times(&record.events, created).into_iter().filter(|(_, at)| !at.is_zero()).collect();
        let named = times(&record.events, registered);
        let gone = times(&record.events, deregistered);
        let stopped = times(&record.events, signalled);
        let first = new.keys().filter_map(|task| named.get(task)).min().copied();
        let last = stopped.values().max().copied();
        let (starts, ends) = (lags(&new, &named), lags(&stopped, &gone));
        wait.extend(first.zip(last).and_then(|(first, last)| last.checked_sub(first)));
        let counts: Vec<_> = record_counts(&record.events).iter().map(usize::to_string).collect();
        rows.push((record.title.clone(), format!("records: {}", counts.join(" → "))));
        held &= !new.is_empty() && starts.len() == new.len() && ends.len() == stopped.len();
        // The article's time: 17 to 19 s with its settings, and what its script's polls of two to three seconds hide.
        let path =
            ["provisioning", "pending", "container-start"].map(|name| rule(record, name)).iter().sum::<Duration>();
        let (shortest, longest) = (rule(record, "register-lag-least"), rule(record, "register-lag"));
        let (jitter, slack) = (2 * rule(record, "jitter"), secs(1));
        let expected = (path + shortest).saturating_sub(jitter + slack)..=path + longest + jitter + slack;
        held &= starts.iter().all(|lag| expected.contains(lag));
        held &= ends.iter().all(|lag| *lag <= rule(record, "deregister-lag") + slack);
        appear.extend(starts);
        disappear.extend(ends);
        // What clients were told is the same thing, seen from the other side.
        let told = told(record);
        for (task, registered) in &named {
            let Some((first, last)) = told.get(task) else {
                held = false;
                continue;
            };
            held &= *first + slack >= *registered;
            if let Some(gone) = gone.get(task) {
                kept.extend(last.checked_sub(*gone));
                held &= *last <= *gone + rule(record, "ttl") + slack;
            }
        }
    }
    rows.push(("from the start of a task to its record".to_owned(), range(&appear)));
    rows.push(("from the first new record to the last old task's SIGTERM".to_owned(), range(&wait)));
    rows.push(("from SIGTERM to the record's end".to_owned(), range(&disappear)));
    rows.push(("from the record's end to the last client that is told of it".to_owned(), range(&kept)));
    Answer {
        question: "When are records registered and deregistered during a deploy?".to_owned(),
        answer: format!(
            "a new task is named {} after its start, before it is known to be healthy; an old one is named up to {} after its \
             SIGTERM, and for a TTL more by caches",
            range(&appear),
            disappear.iter().max().map_or("no time".to_owned(), |most| format!("{:.1} s", most.as_secs_f64())),
        ),
        expectation:
            "named 17 to 19 s after the start (13 to 22 s here), gone within 3 s of the stop (4 s here): nearly at \
                      once, as the article saw"
                .to_owned(),
        held,
        rows,
    }
}

/// When clients were told of each task's address, first and last.
fn told(record: &Record) -> BTreeMap<TaskId, (Duration, Duration)> {
    let tenancies = Tenancies::of(&record.events, record.speed);
    let mut told: BTreeMap<TaskId, (Duration, Duration)> = BTreeMap::new();
    for lookup in record.requests.iter().filter_map(|request| request.lookup.as_ref()) {
        for task in lookup.addresses.iter().filter_map(|address| tenancies.task(*address, lookup.at)) {
            let (first, last) = told.entry(task).or_insert((lookup.at, lookup.at));
            (*first, *last) = ((*first).min(lookup.at), (*last).max(lookup.at));
        }
    }
    told
}

fn summary(judged: &Judged, profile: Profile) -> Option<&Summary> {
    judged.summaries.iter().find(|summary| summary.profile == profile.name())
}

/// How many clients of a profile there were, and how many of them saw a failure.
fn clients(judged: &Judged, profile: Profile) -> (usize, usize) {
    let its: Vec<_> = (0..judged.record.clients.len())
        .filter(|client| judged.record.clients[*client].profile == profile.name())
        .collect();
    let failing = its.iter().filter(|client| {
        judged
            .record
            .requests
            .iter()
            .zip(&judged.causes)
            .any(|(request, cause)| request.client == **client && cause.is_some())
    });
    (its.len(), failing.count())
}

/// A rule that is a time, as the run had it.
fn rule(record: &Record, name: &str) -> Duration {
    duration::parse(setting(record, name)).unwrap_or_default()
}

fn setting<'a>(record: &'a Record, name: &str) -> &'a str {
    record.settings.iter().find(|(it, _)| it == name).map_or("", |(_, value)| value)
}

fn failures(runs: &[&Judged]) -> Answer {
    let (mut rows, mut held, mut said) = (Vec::new(), true, Vec::new());
    for judged in runs {
        let record = &judged.record;
        let has_drain = !setting(record, "entrypoint").contains("drain 0s");
        let is_long = setting(record, "ttl") == "1m";
        let (mut failed, mut by_hand) = (0, 0);
        for profile in [Profile::TryNext, Profile::FirstOnly, Profile::Front] {
            let Some(summary) = summary(judged, profile) else { continue };
            let (all, failing) = clients(judged, profile);
            let causes: Vec<_> = summary.by_cause.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
            let mut text = format!("{} of {} failed", summary.failed, summary.requests);
            if summary.failed > 0 {
                text = format!(
                    "{text}, for {failing} of {all} caches, for up to {:.0} s: {}",
                    summary.longest_failing.as_secs_f64(),
                    causes.join(", ")
                );
            }
            rows.push((format!("{}: {profile}", record.title), text));
            failed += summary.failed;
            held &= match profile {
                // With a drain beyond the TTL nobody meets a stale record, whatever the client does.
                Profile::TryNext | Profile::FirstOnly | Profile::Front if has_drain => summary.failed == 0,
                Profile::FirstOnly => failing == all,
                // TTL + propagation against the 37 s or so from the first new record to the old tasks' end.
                // In six phases there is one that is hit; of fewer all may be spared.
                Profile::TryNext if is_long => failing > 0 || all < 6,
                // It cannot know what its resolver does not say, but it waits a moment, and asks again.
                Profile::Front if is_long => summary.failed <= by_hand,
                Profile::TryNext | Profile::Front => summary.failed == 0,
                Profile::KeepAlive | Profile::FixedOrder => true,
            };
            if profile == Profile::TryNext {
                by_hand = summary.failed;
            }
        }
        said.push(format!("{}: {failed} failed", record.title));
    }
    Answer {
        question: "Do requests fail during a deploy?".to_owned(),
        answer: said.join("; "),
        expectation: "without a drain a client that tries one address fails for up to a TTL; one that tries all of them, and front, \
                      only where a cache that names none but old tasks outlives them (TTL 60 s, in about half of the phases); with a \
                      drain of TTL + 5 s nobody fails"
            .to_owned(),
        held,
        rows,
    }
}

fn replacement(runs: &[&Judged]) -> Answer {
    let (mut rows, mut held, mut said) = (Vec::new(), true, Vec::new());
    for judged in runs {
        let record = &judged.record;
        let events = &record.events;
        let broken = events.iter().find(|event| matches!(event.what, What::Note { .. })).map(|event| event.at);
        let found = times(events, unhealthy_at).into_iter().min_by_key(|(_, at)| *at);
        let (Some(broken), Some((task, found))) = (broken, found) else {
            held = false;
            rows.push((record.title.clone(), "the task was not found unhealthy".to_owned()));
            continue;
        };
        let after = |at: Option<&Duration>| at.and_then(|at| at.checked_sub(broken));
        let detected = found.saturating_sub(broken);
        let out = after(times(events, deregistered).get(&task));
        let stopped = after(times(events, signalled).get(&task));
        let successor = times(events, created).into_iter().filter(|(_, at)| *at > broken).map(|(task, _)| task).min();
        let named = successor.and_then(|successor| after(times(events, registered).get(&successor)));
        let failing = record.requests.iter().zip(&judged.causes).filter(|(_, cause)| cause.is_some());
        let recovered = after(failing.map(|(request, _)| request.intended).max().as_ref());
        let failed: u64 = judged.summaries.iter().map(|summary| summary.failed).sum();
        let show =
            |time: Option<Duration>| time.map_or("never".to_owned(), |time| format!("{:.0} s", time.as_secs_f64()));
        rows.push((
            record.title.clone(),
            format!(
                "unhealthy after {}, not named after {}, SIGTERM after {}, replacement named after {}, last failure after {}; \
                 {failed} failed",
                show(Some(detected)),
                show(out),
                show(stopped),
                show(named),
                show(recovered)
            ),
        ));
        // As many failed probes as it takes, the first of which comes within an interval; the last may hang.
        let (interval, slack) = (rule(record, "health-interval"), secs(3));
        let retries: u32 = setting(record, "health-retries").parse().unwrap_or(1);
        let least = (interval * retries.saturating_sub(1)).saturating_sub(slack);
        let most = interval * retries + rule(record, "health-timeout") + slack;
        held &= (least..=most).contains(&detected) && out.is_some();
        // Legacy stops and then starts; modern the other way round.
        let is_legacy = setting(record, "unhealthy-replacement") == "legacy";
        held &= stopped.zip(named).is_some_and(|(stopped, named)| (stopped < named) == is_legacy);
        // A cache names it for a TTL after its record's end, unless its end comes first.
        let end = out.map(|out| out + rule(record, "ttl") + slack);
        held &= recovered.zip(end).is_some_and(|(recovered, end)| recovered <= end);
        let skips = setting(record, "entrypoint").contains("unless it is unhealthy");
        if skips {
            // It goes at its SIGTERM, and nobody fails after that.
            held &= recovered.zip(stopped).is_some_and(|(recovered, stopped)| recovered <= stopped + slack);
        }
        said.push(format!("{} by {}", show(recovered), record.title.trim_start_matches("one task fails, ")));
    }
    Answer {
        question: "Is an unhealthy task replaced?".to_owned(),
        answer: format!("yes; the last request failed after {}", said.join(", ")),
        expectation: "found after 30 to 60 s (two probes of 30 s), replaced, and named by caches for a TTL after its record's end, unless it ends before; \
                      in the legacy order it goes first, in the modern one its replacement comes first; not drained, it ends with its \
                      SIGTERM"
            .to_owned(),
        held,
        rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_chance_is_that_of_the_tables() {
        for (tasks, expected) in [(2, 10.83), (4, 16.27), (8, 24.32), (101, 149.45)] {
            let limit = chi_square_limit(tasks);
            assert!((limit - expected).abs() < 0.04 * expected, "{tasks}: {limit}");
        }
    }

    #[test]
    fn chi_square_counts_those_who_got_nothing() {
        let counts = |counts: &[u64]| -> BTreeMap<&'static str, u64> {
            ["a", "b", "c", "d"].into_iter().zip(counts.iter().copied()).collect()
        };
        assert!(chi_square(&counts(&[100, 100, 100, 100]), 4).abs() < 1e-9);
        assert!((chi_square(&counts(&[400]), 4) - 1200.0).abs() < 1e-9);
        assert!((chi_square(&counts(&[110, 90, 100, 100]), 4) - 2.0).abs() < 1e-9);
    }
}

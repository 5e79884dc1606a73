//! The same deployments with real processes and in virtual time: where the two differ, the model is wrong.

use std::time::Duration;

use console::log;
use futures_util::future::join_all;
use humantime::format_duration;
use tokio::sync::watch;

use crate::{
    client::Profile,
    error::Error,
    rehearsal::{Display, run, warnings},
    rules::Rules,
    run::{Deed, Ran},
    scenario::{Entrypoint, FrontChoice, GRACE, Scenario, Stage},
    simulate::{
        Crowd, Grid, Habit, Model, Phases, Seen, Sweep,
        forecast::all,
        sweep::{Real, rules_of},
    },
    timeline::{self, Event, What},
};

/// How many deployments go on side by side at most, and how many requests all of them may send in a second.
const SIDE_BY_SIDE: usize = 4;
const MOST_REQUESTS: f64 = 3000.0;

/// How many cells are run at most: each takes ten seconds or more.
pub const MOST_CELLS: usize = 48;

/// How long clients send requests before a deployment begins.
const WARM_UP: Duration = Duration::from_secs(10);

/// How many simulated deployments say what is to be expected of a real one.
const EXPECTED_BY: usize = 400;

/// How often a run that says nothing is repeated, by itself.
const TRIES: usize = 2;

/// By how much a process may be later than it is in the simulation, in real time: it is started, ends, and is waited for.
const PROCESS: Duration = Duration::from_millis(50);

/// One cell, for all clients at once.
#[derive(Clone, Copy, Debug)]
struct Place {
    minimum: u32,
    interval: Duration,
    ttl: Duration,
    drain: Duration,
}

impl Place {
    fn rules(&self, stage: &Stage) -> Rules {
        Rules { ttl: self.ttl, ..rules_of(&stage.rules, self.minimum, self.interval, self.drain) }
    }

    fn scenario(&self, stage: &Stage, profiles: &[Profile]) -> Result<Scenario, Error> {
        let rules = self.rules(stage);
        let title = format!(
            "deploy, TTL {}, drain {}, minimum healthy {} %, check every {}",
            format_duration(self.ttl),
            format_duration(self.drain),
            self.minimum,
            format_duration(self.interval)
        );
        Ok(Scenario {
            title,
            entrypoint: Entrypoint::Init { drain: self.drain, grace: GRACE, skips_unhealthy: false },
            rules,
            task: stage.back(),
            probe: "http://{ip}:{port}/health".parse().map_err(Error::Settings)?,
            front: if profiles.contains(&Profile::Front) { FrontChoice::Ours } else { FrontChoice::None },
            clients: profiles.iter().map(|profile| (*profile, stage.phases)).collect(),
            path: "/".to_owned(),
            deed: Deed::Deploy,
            warm_up: WARM_UP,
        })
    }
}

/// Those clients that there are for real, too.
fn profiles(habits: &[Habit]) -> Vec<(Habit, Profile)> {
    habits.iter().filter_map(|habit| Some((*habit, habit.name.parse().ok()?))).collect()
}

/// How many cells a grid has for real processes: clients share one.
#[must_use]
pub fn cells(grid: &Grid) -> usize {
    grid.ttls.len() * grid.drains.len() * grid.minimums.len() * grid.intervals.len()
}

/// Runs each cell of a sweep with real processes, and notes what came of it beside what was to be expected. Stops early if
/// it is cancelled.
///
/// # Errors
///
/// If a run cannot begin.
pub async fn run_cells(
    stage: &Stage,
    grid: &Grid,
    sweep: &mut Sweep,
    display: &Display,
    cancelled: &watch::Receiver<bool>,
) -> Result<(), Error> {
    let real = profiles(&grid.habits);
    let callers: Vec<_> = real.iter().map(|(_, profile)| *profile).collect();
    let mut places = Vec::with_capacity(cells(grid));
    for minimum in grid.minimums.iter().copied() {
        for interval in grid.intervals.iter().copied() {
            for ttl in grid.ttls.iter().copied() {
                places.extend(grid.drains.iter().map(|drain| Place { minimum, interval, ttl, drain: *drain }));
            }
        }
    }
    for some in places.chunks(side_by_side(stage, callers.len())) {
        let runs = (0..).zip(some).map(|(number, place)| stage.run(place.scenario(stage, &callers)?, number));
        let runs = runs.collect::<Result<Vec<_>, _>>()?;
        let ran = join_all(runs.into_iter().map(|one| run(one, display, cancelled.clone()))).await;
        for (place, ran) in some.iter().zip(ran) {
            let mut ran = ran?;
            for _ in 0..TRIES {
                let Some(why) = useless(&ran).filter(|_| !*cancelled.borrow()) else { break };
                log::tell(&format!("rehearse: {}: {why}, which says nothing; once more", ran.record.title));
                ran = run(stage.run(place.scenario(stage, &callers)?, 0)?, display, cancelled.clone()).await?;
            }
            if *cancelled.borrow() {
                return Ok(());
            }
            for warning in warnings(&ran.record.title, &ran.lateness, ran.not_sent) {
                log::tell(&format!("rehearse: {warning}"));
            }
            for ((habit, _), real) in real.iter().zip(compare(stage, place, &real, &ran)) {
                let panel = sweep.panels.iter_mut().find(|panel| {
                    panel.client == habit.name
                        && panel.minimum_healthy_percent == place.minimum
                        && panel.health_interval == place.interval
                });
                let column = panel.and_then(|it| it.columns.iter_mut().find(|column| column.ttl == place.ttl));
                let cell = column.and_then(|it| it.cells.iter_mut().find(|cell| cell.drain == place.drain));
                if let Some(cell) = cell {
                    cell.real = Some(real);
                }
            }
        }
    }
    Ok(())
}

/// Why a run says more of the machine than of the rules.
fn useless(ran: &Ran) -> Option<String> {
    if let Some(ending) = timeline::not_deployed(&ran.record.events) {
        return Some(format!("revision 2 was not deployed, {ending}"));
    }
    let late = ran.lateness.at(0.99);
    (ran.not_sent > 0 || late > PROCESS).then(|| format!("one request in a hundred was sent {late:.1?} late or more"))
}

/// As many as the machine can send requests to on time.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a few thousand requests"
)]
fn side_by_side(stage: &Stage, kinds: usize) -> usize {
    let each = stage.rate * stage.speed * stage.phases as f64 * kinds.max(1) as f64;
    ((MOST_REQUESTS / each) as usize).clamp(1, SIDE_BY_SIDE)
}

/// For each client what was seen, beside what was to be expected.
fn compare(stage: &Stage, place: &Place, real: &[(Habit, Profile)], ran: &Ran) -> Vec<Real> {
    let crowd = Crowd { clients: stage.phases, resolvers: stage.phases, rate: stage.rate };
    // The caches' phases are counted from the beginning: what matters is when in them the deployment began.
    let is_begun = |event: &&Event| matches!(event.what, What::DeploymentStarted { .. });
    let begun = ran.record.events.iter().find(is_begun).map_or(WARM_UP, |event| event.at);
    let model = Model { warm_up: begun, ..Model::new(place.rules(stage), place.drain) };
    let habits: Vec<_> = real.iter().map(|(habit, _)| *habit).collect();
    let seen = all(&model, &habits, &crowd, Phases::Even, EXPECTED_BY, stage.seed);
    let beside = |((_, profile), seen): (&(Habit, Profile), Vec<Seen>)| {
        let (mut requests, mut failed) = (0, 0);
        let is_its = |client: usize| ran.record.clients.get(client).is_some_and(|it| it.profile == profile.name());
        for request in ran.record.requests.iter().filter(|request| is_its(request.client)) {
            requests += 1;
            failed += u64::from(!request.is_good());
        }
        let counts = || seen.iter().map(Seen::failures);
        let (low, high) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
        // What never fails in virtual time must not fail at all.
        let slack = if high == 0 { 0 } else { slack(stage) };
        let (low, high) = (low.saturating_sub(slack), high + slack);
        Real { requests, failed, low, high, agrees: (low..=high).contains(&failed) }
    };
    real.iter().zip(seen).map(beside).collect()
}

/// How many requests all clients of a kind send while a process is as late as it may be.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few requests")]
fn slack(stage: &Stage) -> u64 {
    let each = stage.rate * stage.speed * PROCESS.as_secs_f64();
    (each.ceil() as u64) * u64::try_from(stage.phases).unwrap_or(u64::MAX)
}

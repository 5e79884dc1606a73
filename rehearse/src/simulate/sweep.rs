//! Deployments over a grid of TTLs, drains, clients, minimum healthy percents and health check intervals. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    crowd::{Crowd, Seen},
    film::{Film, Model},
    forecast::{Forecast, chance_of, see, side_by_side},
    habit::Habit,
    law::least_drain,
    resolver::Phases,
};
use crate::{record::seconds, rules::Rules};

/// What is swept over.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// TTLs of the records.
    pub ttls: Vec<Duration>,
    /// How long tasks go on serving after SIGTERM.
    pub drains: Vec<Duration>,
    /// Minimum healthy percents.
    pub minimums: Vec<u32>,
    /// Intervals of the container health check.
    pub intervals: Vec<Duration>,
    /// Clients.
    pub habits: Vec<Habit>,
}

/// What came of a sweep.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Sweep {
    /// How many deployments each cell has.
    pub deploys: usize,
    /// How many processes of a client watch each, behind how many resolvers.
    pub clients: usize,
    /// Resolvers.
    pub resolvers: usize,
    /// Requests per second and client.
    pub rate: f64,
    /// Where chance came from.
    pub seed: u64,
    /// Tasks of the service.
    pub desired: u32,
    /// One for each client, minimum healthy percent and interval.
    pub panels: Vec<Panel>,
}

/// One client with one minimum healthy percent and one interval, for all TTLs and drains.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Panel {
    /// The client.
    pub client: String,
    /// The minimum healthy percent.
    pub minimum_healthy_percent: u32,
    /// The interval of the container health check.
    #[serde(with = "seconds")]
    pub health_interval: Duration,
    /// From the first new record to the SIGTERM of the last old task: the shortest of all deployments.
    #[serde(with = "seconds")]
    pub gap: Duration,
    /// For each TTL, in its order.
    pub columns: Vec<Column>,
}

/// One TTL.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Column {
    /// The TTL.
    #[serde(with = "seconds")]
    pub ttl: Duration,
    /// The least drain without failures by the law, in seconds. None if no drain is long enough.
    pub law: Option<f64>,
    /// For each drain, in its order.
    pub cells: Vec<Cell>,
}

/// One cell.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Cell {
    /// How long tasks go on serving after SIGTERM.
    #[serde(with = "seconds")]
    pub drain: Duration,
    /// What came of it in virtual time.
    pub simulated: Forecast,
    /// What came of it with real processes, if it was run with those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real: Option<Real>,
}

/// A cell with real processes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Real {
    /// How many requests were sent.
    pub requests: u64,
    /// How many failed.
    pub failed: u64,
    /// The fewest failures to be expected of it, by as many simulated deployments with the same number of clients in the
    /// same phases.
    pub low: u64,
    /// And the most.
    pub high: u64,
    /// Whether it had as many as were to be expected.
    pub agrees: bool,
}

/// The rules for one setting. A stop timeout that is too short for the drain is made longer: it is the drain that is swept.
#[must_use]
pub fn rules_of(rules: &Rules, minimum: u32, interval: Duration, drain: Duration) -> Rules {
    Rules {
        minimum_healthy_percent: minimum,
        health_interval: interval,
        stop_timeout: rules.stop_timeout.max(drain + crate::scenario::GRACE),
        ..rules.clone()
    }
}

/// One deployment's films serve all TTLs.
struct Setting {
    minimum: u32,
    interval: Duration,
    drain: Duration,
}

/// Deploys so often in each cell.
#[must_use]
pub fn sweep(rules: &Rules, grid: &Grid, crowd: &Crowd, deploys: usize, seed: u64) -> Sweep {
    let mut settings = Vec::new();
    for minimum in &grid.minimums {
        for interval in &grid.intervals {
            settings.extend(grid.drains.iter().map(|drain| Setting {
                minimum: *minimum,
                interval: *interval,
                drain: *drain,
            }));
        }
    }
    let results = side_by_side(&settings, |setting| cells(rules, grid, crowd, deploys, seed, setting));
    let mut panels = Vec::new();
    let rows = grid.drains.len().max(1);
    for (setting, rows) in settings.iter().step_by(rows).zip(results.chunks(rows)) {
        let gap = rows.iter().map(|(gap, _)| *gap).min().unwrap_or_default();
        for (number, habit) in grid.habits.iter().enumerate() {
            let column = |(index, ttl): (usize, &Duration)| {
                let rules = Rules { ttl: *ttl, ..rules_of(rules, setting.minimum, setting.interval, setting.drain) };
                let cell = |(drain, (_, row)): (&Duration, &(Duration, Vec<Vec<Forecast>>))| Cell {
                    drain: *drain,
                    simulated: row[index][number].clone(),
                    real: None,
                };
                Column {
                    ttl: *ttl,
                    law: least_drain(habit, &rules, gap).map(|drain| drain.as_secs_f64()),
                    cells: grid.drains.iter().zip(rows).map(cell).collect(),
                }
            };
            panels.push(Panel {
                client: habit.name.to_owned(),
                minimum_healthy_percent: setting.minimum,
                health_interval: setting.interval,
                gap,
                columns: grid.ttls.iter().enumerate().map(column).collect(),
            });
        }
    }
    panels.sort_by_key(|panel: &Panel| grid.habits.iter().position(|habit| habit.name == panel.client));
    let Crowd { clients, resolvers, rate } = *crowd;
    Sweep { deploys, clients, resolvers, rate, seed, desired: rules.desired, panels }
}

/// For each TTL what each client sees, and the shortest gap.
fn cells(
    rules: &Rules,
    grid: &Grid,
    crowd: &Crowd,
    deploys: usize,
    seed: u64,
    setting: &Setting,
) -> (Duration, Vec<Vec<Forecast>>) {
    let rules = rules_of(rules, setting.minimum, setting.interval, setting.drain);
    let model = Model::new(rules.clone(), setting.drain);
    let mut by_ttl: Vec<Vec<Vec<Seen>>> = vec![vec![Vec::with_capacity(deploys); grid.habits.len()]; grid.ttls.len()];
    let mut shortest: Option<Duration> = None;
    for deploy in 0..deploys {
        let mut random = chance_of(seed, deploy);
        let film = Film::of_deploy(&model, random.u64(..));
        let gap = film.gap().unwrap_or_default();
        shortest = Some(shortest.map_or(gap, |shortest| shortest.min(gap)));
        for (ttl, of_ttl) in grid.ttls.iter().zip(&mut by_ttl) {
            let rules = Rules { ttl: *ttl, ..rules.clone() };
            let by_habit = see(&film, &rules, &grid.habits, crowd, Phases::Random, &mut random);
            for (habit, one) in of_ttl.iter_mut().zip(by_habit) {
                habit.push(one);
            }
        }
    }
    let of_ttl = |seen: Vec<Vec<Seen>>| {
        grid.habits.iter().zip(seen).map(|(habit, seen)| Forecast::of(habit, crowd, &seen)).collect()
    };
    (shortest.unwrap_or_default(), by_ttl.into_iter().map(of_ttl).collect())
}

#[cfg(test)]
mod tests {
    use super::{super::habit::habit, *};

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const ONE: Crowd = Crowd { clients: 1, resolvers: 1, rate: 10.0 };

    fn grid() -> Grid {
        Grid {
            ttls: vec![secs(15), secs(60), secs(120)],
            drains: vec![secs(0), secs(20), secs(65), secs(125)],
            minimums: vec![50, 100],
            intervals: vec![secs(30), secs(5)],
            habits: ["try-next", "first-only"].iter().map(|name| habit(name).unwrap()).collect(),
        }
    }

    #[test]
    fn beyond_the_law_nothing_fails_and_well_below_it_something_does() {
        let sweep = sweep(&Rules::default(), &grid(), &ONE, 60, 1);
        assert_eq!(sweep.panels.len(), 8);
        let mut failing = 0;
        for panel in &sweep.panels {
            for column in &panel.columns {
                let law = column.law.unwrap();
                for cell in &column.cells {
                    let drain = cell.drain.as_secs_f64();
                    let what = format!("{} {:?} {drain}: {:?}", panel.client, column.ttl, cell.simulated);
                    if drain >= law {
                        assert_eq!(cell.simulated.worst, 0, "{what}");
                    }
                    if drain < law - 10.0 {
                        assert!(cell.simulated.any > 0.0, "law {law}: {what}");
                        failing += 1;
                    }
                }
            }
        }
        assert!(failing > 20, "{failing}");
    }

    #[test]
    fn faster_health_checks_make_a_deploy_without_a_drain_worse() {
        let grid = Grid { ttls: vec![secs(30)], drains: vec![secs(0)], minimums: vec![100], ..grid() };
        let sweep = sweep(&Rules::default(), &grid, &ONE, 60, 1);
        let of = |interval| {
            let panel = sweep.panels.iter().find(|it| it.client == "try-next" && it.health_interval == secs(interval));
            panel.unwrap().columns[0].cells[0].simulated.mean
        };
        assert!(of(5) > of(30) + 20.0, "{} {}", of(5), of(30));
    }
}

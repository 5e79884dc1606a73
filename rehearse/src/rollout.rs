//! What the service scheduler does next: how many tasks to start, and which to stop. Pure.
//!
//! Sources: `DeploymentConfiguration`, <https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_DeploymentConfiguration.html>;
//! rolling updates, <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-type-ecs.html>.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{rules::Replacement, timeline::TaskId};

/// What the scheduler thinks of a task.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It is not healthy yet.
    Starting,
    /// It counts.
    Healthy,
    /// It does not count any more.
    Unhealthy,
}

/// A task that is not being stopped.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Which.
    pub task: TaskId,
    /// Whether it is of the revision that the service should run.
    pub is_current: bool,
    /// In which availability zone.
    pub zone: u8,
    /// Since when it has been there.
    pub created: Duration,
    /// What it counts for.
    pub standing: Standing,
    /// Whether it has ever been healthy.
    pub was_healthy: bool,
}

/// How far a deployment may go.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Tasks that the service should have.
    pub desired: u32,
    /// Percent of them that stay healthy.
    pub minimum_healthy_percent: u32,
    /// Percent of them that may be there.
    pub maximum_percent: u32,
}

impl Bounds {
    /// The least number of healthy tasks: rounded up.
    #[must_use]
    pub fn lower(&self) -> usize {
        share(self.desired, self.minimum_healthy_percent, u64::div_ceil)
    }

    /// The greatest number of tasks: rounded down.
    #[must_use]
    pub fn upper(&self) -> usize {
        share(self.desired, self.maximum_percent, |product, by| product / by)
    }
}

fn share(of: u32, percent: u32, divide: fn(u64, u64) -> u64) -> usize {
    usize::try_from(divide(u64::from(of) * u64::from(percent), 100)).unwrap_or(usize::MAX)
}

/// What to do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// How many tasks of the current revision to start.
    pub start: usize,
    /// Which tasks to stop.
    pub stop: Vec<TaskId>,
    /// All desired tasks are healthy and current, and no other is there.
    pub is_complete: bool,
    /// Nothing can be done, and nothing is on its way: the bounds do not let it.
    pub is_stuck: bool,
}

/// Decides from who is there. Until a deployment is complete there are tasks that are not current, or current ones are
/// missing; the same rules then keep the desired count.
#[must_use]
pub fn plan(live: &[Candidate], bounds: &Bounds, replacement: Replacement) -> Plan {
    let desired = usize::try_from(bounds.desired).unwrap_or(usize::MAX);
    // Those that never became healthy go at once: nothing is lost with them.
    let has_failed = |it: &&Candidate| it.is_current && it.standing == Standing::Unhealthy && !it.was_healthy;
    let failed: Vec<_> = live.iter().filter(has_failed).map(|it| it.task).collect();
    if !failed.is_empty() {
        let rest: Vec<_> = live.iter().filter(|it| !has_failed(it)).copied().collect();
        let mut planned = plan(&rest, bounds, replacement);
        planned.stop.extend(failed);
        return planned;
    }
    let count = |is_current: bool, standing: Standing| {
        live.iter().filter(|it| it.is_current == is_current && it.standing == standing).count()
    };
    let healthy = count(true, Standing::Healthy) + count(false, Standing::Healthy);
    let current = live.iter().filter(|it| it.is_current).count();
    let unhealthy = count(true, Standing::Unhealthy);
    let mut stop: Vec<&Candidate> = Vec::new();

    // Those of the current revision that have turned unhealthy.
    let room = bounds.upper().saturating_sub(live.len());
    let replaced = match replacement {
        Replacement::Legacy => unhealthy,
        Replacement::Modern if count(true, Standing::Healthy) >= desired => unhealthy,
        // No room for a replacement: one by one, as long as enough are healthy.
        Replacement::Modern if room == 0 && count(true, Standing::Starting) == 0 && healthy >= bounds.lower() => {
            unhealthy.min(1)
        }
        Replacement::Modern => 0,
    };
    stop.extend(live.iter().filter(|it| it.is_current && it.standing == Standing::Unhealthy).take(replaced));

    // A deployment takes away what is not current: whatever is not healthy, and as many healthy ones as can be spared.
    let others = in_order(live.iter().filter(|it| !it.is_current));
    let spared = count(false, Standing::Starting) + count(false, Standing::Unhealthy);
    let spared = spared + healthy.saturating_sub(bounds.lower()).min(count(false, Standing::Healthy));
    stop.extend(others.into_iter().take(spared));

    // More than are desired: the service was scaled in, or a replacement has become healthy.
    let good = current - unhealthy;
    let surplus = in_order(live.iter().filter(|it| it.is_current && it.standing != Standing::Unhealthy));
    stop.extend(surplus.into_iter().take(good.saturating_sub(desired)));

    let wanted = match replacement {
        Replacement::Legacy => desired.saturating_sub(good),
        // An unhealthy task is there until its replacement is healthy.
        Replacement::Modern => (desired + unhealthy - replaced).saturating_sub(current - replaced).min(desired),
    };
    // What is stopped now makes room at once: only tasks that run or are to run count (API DeploymentConfiguration).
    let gone = if live.iter().any(|it| !it.is_current) { 0 } else { stop.len() };
    let start = wanted.min(bounds.upper().saturating_sub(live.len() - gone));
    let is_complete = live.len() == desired && count(true, Standing::Healthy) == desired;
    let is_stuck =
        !is_complete && start == 0 && stop.is_empty() && live.iter().all(|it| it.standing != Standing::Starting);
    Plan { start, stop: stop.into_iter().map(|it| it.task).collect(), is_complete, is_stuck }
}

/// In the order in which they are stopped: the unhealthy, then those of the availability zone with the most, then the
/// oldest.
fn in_order<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> Vec<&'a Candidate> {
    let mut candidates: Vec<_> = candidates.collect();
    candidates.sort_by_key(|it| (it.created, it.task));
    let mut zones: BTreeMap<u8, usize> = BTreeMap::new();
    for candidate in &candidates {
        *zones.entry(candidate.zone).or_default() += 1;
    }
    let mut ordered = Vec::with_capacity(candidates.len());
    let (healthy, others): (Vec<&Candidate>, Vec<&Candidate>) =
        candidates.into_iter().partition(|it| it.standing == Standing::Healthy);
    for rest in [others, healthy] {
        // The oldest of each zone first, with its place in the order of age.
        let mut queues: BTreeMap<u8, VecDeque<(usize, &Candidate)>> = BTreeMap::new();
        for (index, candidate) in rest.into_iter().enumerate() {
            queues.entry(candidate.zone).or_default().push_back((index, candidate));
        }
        loop {
            let of_most = |zone: &u8| Reverse(zones.get(zone).copied().unwrap_or(0));
            let heads = queues.iter().filter_map(|(zone, queue)| Some((*zone, queue.front()?.0)));
            let Some((zone, _)) = heads.min_by_key(|(zone, index)| (of_most(zone), *index)) else { break };
            let Some((_, candidate)) = queues.get_mut(&zone).and_then(VecDeque::pop_front) else { break };
            if let Some(count) = zones.get_mut(&zone) {
                *count -= 1;
            }
            ordered.push(candidate);
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(minimum_healthy_percent: u32, maximum_percent: u32) -> Bounds {
        Bounds { desired: 4, minimum_healthy_percent, maximum_percent }
    }

    /// Old tasks in small letters, current ones in capitals: h healthy, s starting, u unhealthy, f
    /// unhealthy without ever having been healthy.
    fn live(text: &str) -> Vec<Candidate> {
        let candidate = |(index, letter): (usize, char)| Candidate {
            task: TaskId(u32::try_from(index).unwrap() + 1),
            is_current: letter.is_uppercase(),
            zone: u8::try_from(index % 2).unwrap(),
            created: Duration::from_secs(index as u64),
            standing: match letter.to_ascii_lowercase() {
                'h' => Standing::Healthy,
                's' => Standing::Starting,
                'u' | 'f' => Standing::Unhealthy,
                other => panic!("{other}"),
            },
            was_healthy: !letter.eq_ignore_ascii_case(&'f'),
        };
        text.chars().enumerate().map(candidate).collect()
    }

    fn shown(text: &str, bounds: &Bounds, replacement: Replacement) -> String {
        let plan = plan(&live(text), bounds, replacement);
        let stop: Vec<_> = plan.stop.iter().map(|task| task.0.to_string()).collect();
        let mut said =
            format!("start {} stop {}", plan.start, if stop.is_empty() { "-".into() } else { stop.join(",") });
        if plan.is_complete {
            said.push_str(" complete");
        }
        if plan.is_stuck {
            said.push_str(" stuck");
        }
        said
    }

    #[test]
    fn a_deployment_goes_as_far_as_its_bounds() {
        let table = [
            // CDK's defaults: half of them go at once, the rest when new ones are healthy.
            (50, 200, "hhhh", "start 4 stop 1,2"),
            (50, 200, "hhSSSS", "start 0 stop -"),
            (50, 200, "hhHSSS", "start 0 stop 1"),
            (50, 200, "hhHHHH", "start 0 stop 1,2"),
            (50, 200, "HHHH", "start 0 stop - complete"),
            // The API's defaults.
            (100, 200, "hhhh", "start 4 stop -"),
            (100, 200, "hhhhSSSS", "start 0 stop -"),
            (100, 200, "hhhhHHSS", "start 0 stop 1,2"),
            (100, 200, "hhhhHHHH", "start 0 stop 1,2,3,4"),
            // By twos.
            (100, 150, "hhhh", "start 2 stop -"),
            (100, 150, "hhhhHH", "start 0 stop 1,2"),
            (100, 150, "hhHH", "start 2 stop -"),
            // Nothing may go, and nothing may come.
            (100, 100, "hhhh", "start 0 stop - stuck"),
            // All at once: nobody serves.
            (0, 100, "hhhh", "start 0 stop 1,2,3,4"),
            (0, 100, "", "start 4 stop -"),
            // What is not healthy goes first, and whatever the bounds say.
            (100, 200, "huhh", "start 4 stop 2"),
            (50, 200, "hshh", "start 4 stop 2,1"),
        ];
        for (minimum, maximum, tasks, expected) in table {
            let said = shown(tasks, &bounds(minimum, maximum), Replacement::Modern);
            assert_eq!(said, expected, "{minimum}/{maximum} {tasks}");
        }
    }

    #[test]
    fn an_unhealthy_task_is_replaced_before_it_goes_or_after() {
        let table = [
            (Replacement::Legacy, 50, 200, "HHHU", "start 1 stop 4"),
            (Replacement::Legacy, 50, 200, "HHHS", "start 0 stop -"),
            (Replacement::Modern, 50, 200, "HHHU", "start 1 stop -"),
            (Replacement::Modern, 50, 200, "HHHUS", "start 0 stop -"),
            (Replacement::Modern, 50, 200, "HHHUH", "start 0 stop 4"),
            // No room to start another one first.
            (Replacement::Modern, 50, 100, "HHUU", "start 1 stop 3"),
            (Replacement::Modern, 50, 100, "HHUS", "start 0 stop -"),
            // Fewer than must be healthy: none can be spared.
            (Replacement::Modern, 100, 100, "HHHU", "start 0 stop - stuck"),
            // Two that never became healthy.
            (Replacement::Modern, 50, 200, "hhFFSS", "start 2 stop 3,4"),
            (Replacement::Legacy, 50, 200, "hhFFSS", "start 2 stop 3,4"),
            // One that was gone by itself.
            (Replacement::Modern, 100, 200, "HHH", "start 1 stop -"),
        ];
        for (replacement, minimum, maximum, tasks, expected) in table {
            let said = shown(tasks, &bounds(minimum, maximum), replacement);
            assert_eq!(said, expected, "{replacement} {minimum}/{maximum} {tasks}");
        }
    }

    #[test]
    fn a_service_that_is_scaled_in_loses_its_oldest_tasks_evenly_over_its_zones() {
        assert_eq!(shown("HHHHHH", &bounds(50, 200), Replacement::Modern), "start 0 stop 1,2");
        assert_eq!(shown("HHHHHU", &bounds(50, 200), Replacement::Modern), "start 0 stop 6,1");
    }

    #[test]
    fn bounds_are_rounded_towards_safety() {
        let bounds = Bounds { desired: 3, minimum_healthy_percent: 50, maximum_percent: 150 };
        assert_eq!((bounds.lower(), bounds.upper()), (2, 4));
    }
}

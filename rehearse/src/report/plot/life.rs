//! What is known of each task of a run, gathered from its events and requests.

use std::{collections::HashMap, net::Ipv4Addr, time::Duration};

use crate::{
    record::Record,
    request::Request,
    timeline::{Event, State, Status, TaskId, What},
};

/// A task from its creation to its end.
pub(in crate::report) struct Life {
    pub(in crate::report) task: TaskId,
    pub(in crate::report) revision: u32,
    pub(in crate::report) address: Ipv4Addr,
    /// The states it went through, each from then on.
    pub(in crate::report) states: Vec<(Duration, State)>,
    /// From when to when DNS named it.
    pub(in crate::report) registered: Vec<(Duration, Option<Duration>)>,
    pub(in crate::report) health: Vec<(Duration, Status)>,
    pub(in crate::report) listens: Option<Duration>,
    pub(in crate::report) signals: Vec<(Duration, String)>,
    pub(in crate::report) exited: Option<(Duration, String)>,
    /// When somebody asked it for the last time, whether it was still there or not.
    pub(in crate::report) last_asked: Option<Duration>,
    /// How many requests it answered.
    pub(in crate::report) answered: u64,
}

impl Life {
    /// When it went on to that state, or to a later one.
    pub(in crate::report) fn reached(&self, wanted: State) -> Option<Duration> {
        self.states.iter().find(|(_, state)| *state >= wanted).map(|(at, _)| *at)
    }

    /// When DNS named it for the last time, if it does not any more.
    pub(in crate::report) fn deregistered(&self) -> Option<Duration> {
        self.registered.last().and_then(|(_, until)| *until)
    }
}

/// All tasks of a run, in the order of their numbers.
pub(in crate::report) fn lives(record: &Record) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    let mut places: HashMap<TaskId, usize> = HashMap::new();
    for event in &record.events {
        follow(event, &mut lives, &mut places);
    }
    lives.sort_by_key(|life| life.task);
    let places = lives.iter().enumerate().map(|(place, life)| (life.task, place));
    let ids: HashMap<String, usize> = places.map(|(task, place)| (task.to_string(), place)).collect();
    let mut addresses: HashMap<Ipv4Addr, Vec<usize>> = HashMap::new();
    for (place, life) in lives.iter().enumerate() {
        addresses.entry(life.address).or_default().push(place);
    }
    for request in &record.requests {
        ask(request, &mut lives, &ids, &addresses);
    }
    lives
}

fn follow(Event { at, what }: &Event, lives: &mut Vec<Life>, places: &mut HashMap<TaskId, usize>) {
    let at = *at;
    let (task, then): (_, &dyn Fn(&mut Life)) = match what {
        What::Created { task, revision, address } => {
            places.insert(*task, lives.len());
            lives.push(Life {
                task: *task,
                revision: *revision,
                address: *address,
                states: vec![(at, State::Provisioning)],
                registered: Vec::new(),
                health: Vec::new(),
                listens: None,
                signals: Vec::new(),
                exited: None,
                last_asked: None,
                answered: 0,
            });
            return;
        }
        What::Moved { task, to, .. } => (task, &move |life| life.states.push((at, *to))),
        What::Registered { task } => (task, &move |life| life.registered.push((at, None))),
        What::Deregistered { task } => (task, &move |life| {
            if let Some((_, until)) = life.registered.last_mut() {
                until.get_or_insert(at);
            }
        }),
        What::Health { task, status } => (task, &move |life| life.health.push((at, *status))),
        What::Listens { task } => (task, &move |life| {
            life.listens.get_or_insert(at);
        }),
        What::Signalled { task, signal } => (task, &move |life| life.signals.push((at, signal.clone()))),
        What::Exited { task, how } => (task, &move |life| life.exited = Some((at, how.clone()))),
        What::DeploymentStarted { .. }
        | What::DeploymentCompleted { .. }
        | What::DeploymentFailed { .. }
        | What::Note { .. } => return,
    };
    // Of a task that was never created nothing can be drawn.
    if let Some(place) = places.get(task) {
        then(&mut lives[*place]);
    }
}

fn ask(request: &Request, lives: &mut [Life], ids: &HashMap<String, usize>, addresses: &HashMap<Ipv4Addr, Vec<usize>>) {
    if let Some(&place) = request.task.as_ref().and_then(|task| ids.get(task)) {
        lives[place].answered += 1;
        lives[place].last_asked = lives[place].last_asked.max(Some(request.sent));
    }
    for attempt in &request.attempts {
        let Some(places) = addresses.get(&attempt.address) else { continue };
        // An address may have gone to a later task.
        let holds = |place: &&usize| lives[**place].states[0].0 <= attempt.at;
        if let Some(&place) = places.iter().filter(holds).max_by_key(|place| lives[**place].states[0].0) {
            lives[place].last_asked = lives[place].last_asked.max(Some(attempt.at));
        }
    }
}

/// When deployments began and ended, in words.
pub(in crate::report) fn deployments(record: &Record) -> Vec<(Duration, String)> {
    let words = |what: &What| match what {
        What::DeploymentStarted { revision } => Some(format!("revision {revision}: deployment begins")),
        What::DeploymentCompleted { revision } => Some(format!("revision {revision}: steady state")),
        What::DeploymentFailed { revision, .. } => Some(format!("revision {revision}: deployment given up")),
        What::Created { .. }
        | What::Moved { .. }
        | What::Registered { .. }
        | What::Deregistered { .. }
        | What::Health { .. }
        | What::Listens { .. }
        | What::Signalled { .. }
        | What::Exited { .. }
        | What::Note { .. } => None,
    };
    record.events.iter().filter_map(|event| Some((event.at, words(&event.what)?))).collect()
}

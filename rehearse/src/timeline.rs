//! What happened to tasks and their records during a run, in the order of time. Pure.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::record::seconds;

/// A task of a run, by its number: the first one is 1.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct TaskId(pub u32);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task-{}", self.0)
    }
}

/// A state of a task's life.
///
/// Source: <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-lifecycle-explanation.html>.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// Its network interface is made.
    Provisioning,
    /// It waits for its agent.
    Pending,
    /// Its image is pulled, its containers are created, and it is registered.
    Activating,
    /// It runs.
    Running,
    /// It is taken off load balancers. With DNS alone it takes no time.
    Deactivating,
    /// It has got SIGTERM, and will get SIGKILL.
    Stopping,
    /// Its network interface is deleted.
    Deprovisioning,
    /// It is over.
    Stopped,
}

/// What the container health check says of a task.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Nothing yet.
    Unknown,
    /// It answers.
    Healthy,
    /// It has failed as often as is allowed.
    Unhealthy,
}

/// Something that happened, and when.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Event {
    /// When, counted from the start of the run.
    #[serde(with = "seconds")]
    pub at: Duration,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What can happen to tasks, records and deployments.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A task is to be started.
    Created {
        /// Which.
        task: TaskId,
        /// Of which revision.
        revision: u32,
        /// Where it will listen.
        address: Ipv4Addr,
    },
    /// A task goes on to another state.
    Moved {
        /// Which.
        task: TaskId,
        /// To which state.
        to: State,
        /// Why, where it is not simply the next one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// DNS names the task from now on.
    Registered {
        /// Which.
        task: TaskId,
    },
    /// DNS does not name the task any more.
    Deregistered {
        /// Which.
        task: TaskId,
    },
    /// The container health check says something new.
    Health {
        /// Of which task.
        task: TaskId,
        /// What.
        status: Status,
    },
    /// Its process listens.
    Listens {
        /// Which.
        task: TaskId,
    },
    /// Its process got a signal from the platform.
    Signalled {
        /// Which.
        task: TaskId,
        /// SIGTERM or SIGKILL.
        signal: String,
    },
    /// Its process ended.
    Exited {
        /// Which.
        task: TaskId,
        /// How, such as "exit code 0" or "SIGKILL".
        how: String,
    },
    /// A deployment has begun.
    DeploymentStarted {
        /// Of this revision.
        revision: u32,
    },
    /// A deployment is over: the service is in a steady state.
    DeploymentCompleted {
        /// Of this revision.
        revision: u32,
    },
    /// The circuit breaker gave a deployment up.
    DeploymentFailed {
        /// Of this revision.
        revision: u32,
        /// Why.
        reason: String,
    },
    /// Something a person should know, such as a fault that was asked for.
    Note {
        /// In words.
        text: String,
    },
}

/// Who was named by DNS and who was in the cluster, a line for each moment at which that changed: the format of the article
/// that this began with, whose clock here begins at the start of the run.
///
/// ```text
/// 00:00:21 Route53: ["127.0.1.3"] ["127.0.1.4"] | ECS: 127.0.1.3 127.0.1.4 127.0.1.5
/// ```
#[must_use]
pub fn records_and_tasks(events: &[Event]) -> String {
    let mut addresses = BTreeMap::new();
    let (mut named, mut live): (Vec<TaskId>, Vec<TaskId>) = (Vec::new(), Vec::new());
    let mut told: Vec<(u64, String)> = Vec::new();
    for event in events {
        match &event.what {
            What::Created { task, address, .. } => {
                addresses.insert(*task, *address);
                live.push(*task);
            }
            What::Moved { task, to, .. } if *to >= State::Deactivating => live.retain(|it| it != task),
            What::Registered { task } => named.push(*task),
            What::Deregistered { task } => named.retain(|it| it != task),
            What::Moved { .. }
            | What::Health { .. }
            | What::Listens { .. }
            | What::Signalled { .. }
            | What::Exited { .. }
            | What::DeploymentStarted { .. }
            | What::DeploymentCompleted { .. }
            | What::DeploymentFailed { .. }
            | What::Note { .. } => continue,
        }
        let of = |tasks: &[TaskId], show: fn(&Ipv4Addr) -> String| {
            let mut shown: Vec<_> = tasks.iter().filter_map(|task| addresses.get(task)).collect();
            shown.sort();
            shown.into_iter().map(show).collect::<Vec<_>>().join(" ")
        };
        let (route53, ecs) = (of(&named, |it| format!("[\"{it}\"]")), of(&live, Ipv4Addr::to_string));
        let said = format!("Route53: {route53} | ECS: {ecs}");
        // One line a second, the last one of it: what the article's script would have seen.
        let at = event.at.as_secs();
        if told.last().is_some_and(|(second, _)| *second == at) {
            told.pop();
        }
        if told.last().is_none_or(|(_, last)| *last != said) {
            told.push((at, said));
        }
    }
    text(told.iter().map(|(at, line)| (Duration::from_secs(*at), line)))
}

/// Why revision 2 is not what runs at the end. None if it is.
#[must_use]
pub fn not_deployed(events: &[Event]) -> Option<String> {
    if events.iter().any(|event| event.what == What::DeploymentCompleted { revision: 2 }) {
        return None;
    }
    let reason = events.iter().rev().find_map(|event| {
        if let What::DeploymentFailed { revision: 2, reason } = &event.what {
            return Some(reason.clone());
        }
        if let What::Note { text } = &event.what { text.contains("unable to").then(|| text.clone()) } else { None }
    });
    let end = events.iter().rev().find_map(|event| {
        if let What::Exited { how, .. } = &event.what { (how != "exit code 0").then_some(how) } else { None }
    });
    let reason = reason.unwrap_or_else(|| "it was not steady in time".to_owned());
    Some(end.map_or(reason.clone(), |end| format!("{reason}; the last task that failed: {end}")))
}

/// Hours, minutes and seconds of a run.
#[must_use]
pub fn clock(at: Duration) -> String {
    let seconds = at.as_secs();
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created { task, revision, address } => {
                write!(f, "{task} of revision {revision} is created: {address}")
            }
            Self::Moved { task, to, reason } => {
                write!(f, "{task} {to}")?;
                reason.iter().try_for_each(|reason| write!(f, ": {reason}"))
            }
            Self::Registered { task } => write!(f, "{task} is named by DNS"),
            Self::Deregistered { task } => write!(f, "{task} is not named by DNS any more"),
            Self::Health { task, status } => write!(f, "{task} is {status}"),
            Self::Listens { task } => write!(f, "{task} listens"),
            Self::Signalled { task, signal } => write!(f, "{task} gets {signal}"),
            Self::Exited { task, how } => write!(f, "{task} has ended: {how}"),
            Self::DeploymentStarted { revision } => write!(f, "deployment of revision {revision}"),
            Self::DeploymentCompleted { revision } => write!(f, "deployment of revision {revision} is complete"),
            Self::DeploymentFailed { revision, reason } => {
                write!(f, "deployment of revision {revision} has failed: {reason}")
            }
            Self::Note { text } => f.write_str(text),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Provisioning => "PROVISIONING",
            Self::Pending => "PENDING",
            Self::Activating => "ACTIVATING",
            Self::Running => "RUNNING",
            Self::Deactivating => "DEACTIVATING",
            Self::Stopping => "STOPPING",
            Self::Deprovisioning => "DEPROVISIONING",
            Self::Stopped => "STOPPED",
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "UNKNOWN",
            Self::Healthy => "HEALTHY",
            Self::Unhealthy => "UNHEALTHY",
        })
    }
}

/// The events as lines, each with its second.
#[must_use]
pub fn lines(events: &[Event]) -> String {
    text(events.iter().map(|event| (event.at, &event.what)))
}

fn text(lines: impl Iterator<Item = (Duration, impl fmt::Display)>) -> String {
    lines.fold(String::new(), |text, (at, line)| text + &format!("{} {line}\n", clock(at)))
}

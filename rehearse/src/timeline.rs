//! What happened to tasks and their records during a run, in the order of time. Pure.

use std::{fmt, net::Ipv4Addr, time::Duration};

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

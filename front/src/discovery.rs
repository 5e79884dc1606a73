//! The loop that keeps the known addresses fresh: wait until a lookup is due, ask, take note, tell.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use crate::{
    backend::Backend,
    endpoints::{Change, Empty, Endpoints},
    metrics::Metrics,
    resolver::Resolver,
};

/// The addresses that requests choose among, shared with the loop that refreshes them.
#[derive(Debug)]
pub struct Discovery {
    endpoints: Mutex<Endpoints>,
    changed: Notify,
    failing: Notify,
    answered: Notify,
    metrics: Arc<Metrics>,
}

impl Discovery {
    /// Shares `endpoints`.
    #[must_use]
    pub fn new(endpoints: Endpoints, metrics: Arc<Metrics>) -> Self {
        let [changed, failing, answered] = std::array::from_fn(|_| Notify::new());
        Self { endpoints: Mutex::new(endpoints), changed, failing, answered, metrics }
    }

    /// The addresses, for a moment: nobody may hold this while waiting for anything.
    pub fn endpoints(&self) -> MutexGuard<'_, Endpoints> {
        // Nothing panics while it holds the lock, so whatever is in there is whole.
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that `address` could not be asked.
    pub fn failed(&self, address: SocketAddr, backend: &Backend) {
        let change = self.endpoints().failed(address, Instant::now().into_std());
        self.follow(backend, &change);
        // The next lookup may have become due earlier.
        self.changed.notify_one();
        self.failing.notify_waiters();
    }

    /// Waits until an address fails: whoever waits for an answer of the same one need wait no longer.
    pub async fn failure(&self) {
        self.failing.notified().await;
    }

    /// Waits until DNS has answered the next time.
    pub async fn answer(&self) {
        self.answered.notified().await;
    }

    /// Takes note that an answer came from `address`.
    pub fn succeeded(&self, address: SocketAddr, is_5xx: bool) {
        self.endpoints().succeeded(address, is_5xx, Instant::now().into_std());
    }

    /// Keeps the addresses fresh. Runs until it is dropped.
    pub async fn refresh(&self, resolver: &Resolver, backend: &Arc<Backend>) -> std::convert::Infallible {
        // Said once, not every few seconds.
        let mut said = None;
        loop {
            self.until_due().await;
            let answer = resolver.lookup().await;
            self.metrics.lookup(&answer);
            let (change, empty) = {
                let mut endpoints = self.endpoints();
                let change = endpoints.answered(answer, Instant::now().into_std());
                (change, endpoints.empty().cloned())
            };
            self.follow(backend, &change);
            self.answered.notify_waiters();
            if !change.added.is_empty() || !change.removed.is_empty() {
                info!(added = ?change.added, removed = ?change.removed, "the backend's addresses changed");
            }
            if empty != said {
                match &empty {
                    Some(Empty::Absent) => warn!("the backend's name has no address: answering 503 until it has one"),
                    Some(Empty::Failed(error)) => {
                        warn!(error, "the backend's name cannot be looked up: answering 503 until it can");
                    }
                    Some(Empty::NotAskedYet) | None => {}
                }
                said = empty;
            }
        }
    }

    fn follow(&self, backend: &Backend, change: &Change) {
        backend.follow(&change.added, &change.removed);
        self.metrics.forget(&change.removed);
    }

    async fn until_due(&self) {
        loop {
            let due = self.endpoints().lookup_at();
            let Some(due) = due else { return };
            tokio::select! {
                () = sleep_until(due.into()) => return,
                () = self.changed.notified() => {}
            }
        }
    }
}

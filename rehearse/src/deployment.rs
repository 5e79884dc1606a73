//! A service that runs on this machine: waits for what happens, lets the rules decide, and does what they say.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    agent::{Agent, Launch},
    clock::Clock,
    cluster::{Action, Addresses, Cluster, Fact},
    error::Error,
    probe::ProbeUrl,
    rules::Rules,
    timeline::{Event, TaskId},
};

/// How long the first tasks may take until they listen, in real time.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is deployed, and by which rules.
#[derive(Clone, Debug)]
pub struct Service {
    /// The rules.
    pub rules: Rules,
    /// Where its tasks listen.
    pub addresses: Addresses,
    /// How they are started.
    pub launch: Launch,
    /// Where they are probed, if they have a health check.
    pub probe: ProbeUrl,
    /// What chance comes from.
    pub seed: u64,
}

/// A service whose tasks run. They end with it.
#[derive(Debug)]
pub struct Deployment {
    cluster: Arc<Mutex<Cluster>>,
    clock: Clock,
    facts: mpsc::UnboundedSender<Fact>,
    settled: watch::Receiver<Settled>,
    stop: watch::Sender<bool>,
    running: JoinHandle<Vec<Event>>,
}

impl Deployment {
    /// Starts the tasks of revision 1, and waits until all of them listen. The clock of the service starts then.
    ///
    /// # Errors
    ///
    /// If an address is in use, or a task ends or does not listen in time; with the last lines that it wrote.
    pub async fn start(service: Service, speed: f64) -> Result<Self, Error> {
        let (mut cluster, actions) = Cluster::steady(service.rules.clone(), service.addresses, service.seed);
        let (mut agent, mut seen) = Agent::new(service.launch.clone());
        let tasks: Vec<TaskId> = cluster.tasks().map(|task| task.id).collect();
        let starts = || {
            actions.iter().filter_map(|action| match action {
                Action::Start { task, revision, address } => Some((*task, *revision, *address)),
                Action::Terminate(_) | Action::Kill(_) | Action::Probe { .. } => None,
            })
        };
        // All of them before any is started.
        let rules = &service.rules;
        let most =
            rules.desired.saturating_mul(rules.maximum_percent.max(100)).div_ceil(100).saturating_add(rules.desired);
        for index in 0..most.min(service.addresses.count) {
            free(SocketAddr::from((service.addresses.nth(index), service.launch.port)))?;
        }
        for (task, revision, address) in starts() {
            agent.start(task, revision, address);
        }
        let mut silent = tasks.clone();
        let begin = async {
            while !silent.is_empty() {
                match seen.recv().await {
                    Some(Fact::Listens(task)) => silent.retain(|it| *it != task),
                    Some(Fact::Exited { task, how }) => return Err((task, how)),
                    Some(_) | None => {}
                }
            }
            Ok(())
        };
        let failed = match timeout(PATIENCE, begin).await {
            Ok(Ok(())) => None,
            Ok(Err((task, how))) => Some((task, how)),
            Err(_) => {
                let how = format!("does not listen at port {} after {PATIENCE:?}", service.launch.port);
                silent.first().map(|task| (*task, how))
            }
        };
        if let Some((task, how)) = failed {
            let lines = agent.last_lines(task);
            agent.clean_up().await;
            return Err(Error::Task { task, how, lines });
        }
        for task in tasks {
            cluster.handle(Fact::Listens(task), Duration::ZERO);
        }
        let clock = Clock::new(Instant::now(), speed);
        let cluster = Arc::new(Mutex::new(cluster));
        let (facts, asked) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let (tell, settled) = watch::channel(Settled { deployments: 0, is_settled: true });
        let edge =
            Edge { cluster: Arc::clone(&cluster), clock, agent, probe: service.probe, port: service.launch.port };
        let running = tokio::spawn(edge.run(seen, asked, stopped, tell));
        Ok(Self { cluster, clock, facts, settled, stop, running })
    }

    /// The service's clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The service's state, for a DNS server.
    #[must_use]
    pub fn cluster(&self) -> Arc<Mutex<Cluster>> {
        Arc::clone(&self.cluster)
    }

    /// Where the rules are told of something.
    #[must_use]
    pub fn facts(&self) -> mpsc::UnboundedSender<Fact> {
        self.facts.clone()
    }

    /// Tells the rules of something.
    pub fn tell(&self, fact: Fact) {
        // It is over, if nobody listens.
        let _ = self.facts.send(fact);
    }

    /// Deploys a revision, and waits until nothing more comes of it, or until `limit` of the service's time has passed.
    pub async fn deploy(&mut self, revision: u32, limit: Duration) {
        let before = self.settled.borrow().deployments;
        self.tell(Fact::Deploy { revision });
        let over = self.settled.wait_for(|now| now.deployments > before && now.is_settled);
        // What is there by then is reported, be it over or not.
        let _ = timeout(self.clock.real(limit), over).await;
    }

    /// Waits until the service has left its steady state and come back to it, or until `limit` of its time has passed.
    pub async fn steady_again(&mut self, limit: Duration) {
        let again = async {
            let _ = self.settled.wait_for(|now| !now.is_settled).await;
            let _ = self.settled.wait_for(|now| now.is_settled).await;
        };
        let _ = timeout(self.clock.real(limit), again).await;
    }

    /// Ends all tasks. Returns all that has happened.
    pub async fn stop(self) -> Vec<Event> {
        let _ = self.stop.send(true);
        match self.running.await {
            Ok(events) => events,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Vec::new(),
            },
        }
    }
}

/// What has become of all deployments so far.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Settled {
    deployments: u32,
    is_settled: bool,
}

/// Whoever has it has the address for a moment only: the task gets it after that.
fn free(address: SocketAddr) -> Result<(), Error> {
    std::net::TcpListener::bind(address).map(drop).map_err(|source| Error::Address { address, source })
}

struct Edge {
    cluster: Arc<Mutex<Cluster>>,
    clock: Clock,
    agent: Agent,
    probe: ProbeUrl,
    port: u16,
}

impl Edge {
    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(
        mut self,
        mut seen: mpsc::UnboundedReceiver<Fact>,
        mut asked: mpsc::UnboundedReceiver<Fact>,
        mut stopped: watch::Receiver<bool>,
        tell: watch::Sender<Settled>,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        let mut probes: JoinSet<Fact> = JoinSet::new();
        loop {
            let deadline = self.clock.until(self.cluster().deadline());
            let fact = tokio::select! {
                biased;
                _ = stopped.wait_for(|is_stopped| *is_stopped) => break,
                Some(fact) = seen.recv() => fact,
                Some(fact) = asked.recv() => fact,
                Some(Ok(fact)) = probes.join_next() => fact,
                () = sleep_until(deadline) => Fact::Wake,
            };
            let now = self.clock.now();
            let (actions, settled) = {
                let mut cluster = self.cluster();
                let actions = cluster.handle(fact, now);
                events.extend(cluster.events());
                (actions, Settled { deployments: cluster.deployments(), is_settled: cluster.is_settled(now) })
            };
            tell.send_if_modified(|before| std::mem::replace(before, settled) != settled);
            for action in actions {
                self.act(action, &mut probes);
            }
        }
        probes.shutdown().await;
        self.agent.clean_up().await;
        events
    }

    fn act(&mut self, action: Action, probes: &mut JoinSet<Fact>) {
        match action {
            Action::Start { task, revision, address } => self.agent.start(task, revision, address),
            Action::Terminate(task) => self.agent.terminate(task),
            Action::Kill(task) => self.agent.kill(task),
            Action::Probe { task, address } => {
                let (probe, port) = (self.probe.clone(), self.port);
                let limit = self.clock.real(self.cluster().rules().health_timeout);
                probes.spawn(async move { Fact::Probed { task, is_good: probe.is_good(address, port, limit).await } });
            }
        }
    }
}

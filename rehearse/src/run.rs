//! One run: a service, its DNS, its clients and their load, and what is done to it; all of it on this machine.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    num::NonZeroUsize,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, interval, sleep_until, timeout},
};

use crate::{
    agent::{Agent, Launch},
    cache::Cache,
    client::Profile,
    clock::Clock,
    cluster::Fact,
    deployment::{Deployment, Service},
    dns::{self, Authority, Names, Order, Resolver, Role, Server, Source},
    error::Error,
    load::{Counts, Lateness, Load, Sender, Target, Timeouts},
    probe::ProbeUrl,
    record::{Client, Record},
    timeline::TaskId,
};

/// How long a front may take until it listens, in real time.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often others ask a resolver, in real time. Each of its caches is in use all the time, as those of a VPC are.
const BUSY: Duration = Duration::from_millis(10);

/// How often a progress is told of, in real time.
const PROGRESS: Duration = Duration::from_millis(100);

/// A client of a run, and the cache between it and the zone.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What it does.
    pub profile: Profile,
    /// Which one of its kind it is, for people.
    pub name: String,
    /// The phase of its resolver's cache: an answer is over after this share of the first TTL, and each TTL after that.
    pub phase: f64,
    /// How many caches there are, of which each question meets one.
    pub caches: usize,
}

/// What is done to the service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Deed {
    /// Nothing, for so long.
    Watch(Duration),
    /// A new revision is deployed.
    Deploy,
    /// One of its tasks is asked to fail: a GET of this path at its address, such as `/error`.
    Break(String),
}

/// A run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it shows, in a few words.
    pub title: String,
    /// Settings for people, besides the rules.
    pub settings: Vec<(String, String)>,
    /// The service.
    pub service: Service,
    /// How a front is started, if a client needs one; `{resolver}` stands for its DNS server, and `{backend}` for the
    /// service's name and port.
    pub front: Option<Launch>,
    /// Where that front listens.
    pub front_address: Ipv4Addr,
    /// What DNS calls the service.
    pub names: Names,
    /// Who sends requests.
    pub callers: Vec<Caller>,
    /// How many each of them sends in a second of the service.
    pub rate: f64,
    /// What they ask for.
    pub path: String,
    /// How many of the service's seconds pass in one.
    pub speed: f64,
    /// How long requests come before anything is done.
    pub warm_up: Duration,
    /// What is done.
    pub deed: Deed,
    /// How long it may take until the service is steady again.
    pub limit: Duration,
    /// How long requests come after that.
    pub cool_down: Duration,
}

/// Where a run is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// The service's time.
    pub now: Duration,
    /// Tasks that run or are to run.
    pub tasks: usize,
    /// Tasks that DNS names.
    pub named: usize,
    /// Requests so far.
    pub counts: Counts,
}

/// What came of a run.
#[derive(Debug)]
pub struct Ran {
    /// All that was seen.
    pub record: Record,
    /// How late requests were sent, in real time: what they say of the machine, not of the service.
    pub lateness: Lateness,
    /// How many were not sent, as too many were in flight.
    pub not_sent: u64,
    /// Whether it was ended before its time.
    pub is_cut_short: bool,
}

/// A resolver that is there and in use. Until it is dropped.
struct Resolving {
    _server: Server,
    busy: AbortHandle,
}

impl Drop for Resolving {
    fn drop(&mut self) {
        self.busy.abort();
    }
}

impl Run {
    /// Runs it. `progress` is told how it goes; when `cancelled` says so, it ends early, with what was seen so far.
    ///
    /// # Errors
    ///
    /// If it could not begin. Nothing is left of it then.
    pub async fn run(self, progress: impl Fn(Progress), mut cancelled: watch::Receiver<bool>) -> Result<Ran, Error> {
        let mut deployment = tokio::select! {
            biased;
            _ = cancelled.wait_for(|is_cancelled| *is_cancelled) => return Ok(self.nothing()),
            deployment = Deployment::start(self.service.clone(), self.speed) => deployment?,
        };
        let begun = self.begin(&deployment).await;
        let (servers, fronts, running) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                deployment.stop().await;
                return Err(error);
            }
        };
        let clock = deployment.clock();
        let cluster = deployment.cluster();
        let watching = async {
            let mut ticks = interval(PROGRESS);
            loop {
                ticks.tick().await;
                let now = clock.now();
                let (tasks, named) = {
                    let cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
                    (cluster.tasks().filter(|task| task.is_live()).count(), cluster.named(now).len())
                };
                progress(Progress { now, tasks, named, counts: running.counts() });
            }
        };
        let is_cut_short = tokio::select! {
            biased;
            _ = cancelled.wait_for(|is_cancelled| *is_cancelled) => true,
            () = self.deeds(&mut deployment) => false,
            () = watching => false,
        };
        let length = clock.now();
        let sent = running.finish().await;
        for front in fronts {
            front.clean_up().await;
        }
        let events = deployment.stop().await;
        drop(servers);
        let sent = sent?;
        let record = Record {
            title: self.title,
            settings: self.settings,
            speed: self.speed,
            clients: self
                .callers
                .iter()
                .map(|caller| Client { profile: caller.profile.to_string(), name: caller.name.clone() })
                .collect(),
            // What was done to clean up is not the service's life.
            events: events.into_iter().filter(|event| event.at <= length).collect(),
            requests: sent.requests,
            length,
        };
        Ok(Ran { record, lateness: sent.lateness, not_sent: sent.not_sent, is_cut_short })
    }

    /// What came of it when somebody had enough before it began.
    fn nothing(self) -> Ran {
        let record = Record { title: self.title, settings: self.settings, speed: self.speed, ..Record::default() };
        Ran { record, lateness: Lateness::default(), not_sent: 0, is_cut_short: true }
    }

    /// Starts what is around the service: its DNS, a front, the load.
    async fn begin(
        &self,
        deployment: &Deployment,
    ) -> Result<(Vec<Resolving>, Vec<Agent>, crate::load::Running), Error> {
        let clock = deployment.clock();
        let authority: Arc<dyn Source> = Arc::new(Authority::new(deployment.cluster(), move || clock.now()));
        let (mut servers, mut senders, mut fronts) = (Vec::new(), Vec::new(), Vec::new());
        for (number, caller) in self.callers.iter().enumerate() {
            let (server, busy) = self.resolver(caller, number, clock, Arc::clone(&authority))?;
            let dns = server.address();
            servers.push(Resolving { _server: server, busy });
            let target = if caller.profile == Profile::Front {
                let (agent, address) = self.start_front(dns, deployment).await?;
                fronts.push(agent);
                Target::Front(address)
            } else {
                let Names { service, namespace } = &self.names;
                let name = format!("{service}.{namespace}");
                Target::Name { name, port: self.service.launch.port, dns }
            };
            senders.push(Sender { behaviour: caller.profile.behaviour(), target });
        }
        let load = Load {
            clock,
            rate: self.rate * self.speed,
            clients: senders,
            path: self.path.clone(),
            timeouts: Timeouts {
                dns: Duration::from_secs(2),
                connect: Duration::from_secs(5),
                request: Duration::from_secs(10),
            },
            most_in_flight: NonZeroUsize::new(10_000).unwrap_or(NonZeroUsize::MIN),
            seed: self.service.seed,
        };
        let running = match load.start() {
            Ok(running) => running,
            Err(error) => {
                for front in fronts {
                    front.clean_up().await;
                }
                return Err(error.into());
            }
        };
        Ok((servers, fronts, running))
    }

    fn resolver(
        &self,
        caller: &Caller,
        number: usize,
        clock: Clock,
        authority: Arc<dyn Source>,
    ) -> Result<(Server, AbortHandle), Error> {
        let terms = dns::Terms {
            role: Role::Resolver,
            names: self.names.clone(),
            task_port: self.service.launch.port,
            negative_ttl: self.service.rules.negative_ttl,
            speed: self.speed,
        };
        // Several caches are in phases of their own, spread evenly. All of them are counted from the beginning of the run's time.
        let ttl = self.service.rules.ttl.as_secs_f64();
        let gone = clock.now().as_secs_f64() / ttl.max(f64::MIN_POSITIVE);
        let caches: Vec<_> = (0..caller.caches.max(1))
            .map(|index| {
                #[expect(clippy::cast_precision_loss, reason = "a few caches")]
                let phase = caller.phase + index as f64 / caller.caches.max(1) as f64;
                let left = (phase - gone).rem_euclid(1.0);
                Cache::in_phase(if left == 0.0 { 1.0 } else { left })
            })
            .collect();
        let random = fastrand::Rng::with_seed(self.service.seed.wrapping_add(number as u64));
        let source = Arc::new(Resolver::new(authority, caches, Order::Shuffled, random, move || clock.now()));
        let address = SocketAddr::from((self.front_address, 0));
        let server = Server::start(address, terms, Arc::clone(&source) as Arc<dyn Source>)
            .map_err(|source| Error::Dns { address, source })?;
        let busy = tokio::spawn(async move {
            let mut ticks = interval(BUSY);
            loop {
                ticks.tick().await;
                source.refresh();
            }
        });
        Ok((server, busy.abort_handle()))
    }

    async fn start_front(&self, dns: SocketAddr, deployment: &Deployment) -> Result<(Agent, SocketAddrV4), Error> {
        let Some(launch) = &self.front else {
            return Err(Error::Settings("a client needs a front, and there is none".to_owned()));
        };
        let free = std::net::TcpListener::bind((self.front_address, 0))?;
        let port = free.local_addr()?.port();
        drop(free);
        let name = format!("{}.{}:{}", self.names.service, self.names.namespace, self.service.launch.port);
        let fill = |word: &String| word.replace("{resolver}", &dns.to_string()).replace("{backend}", &name);
        let command = launch.command.iter().map(fill).collect();
        let (mut agent, mut seen) = Agent::new(Launch { command, port, ..launch.clone() });
        let front = TaskId(0);
        agent.start(front, 0, self.front_address);
        let how = match timeout(PATIENCE, seen.recv()).await {
            Ok(Some(Fact::Listens(_))) => {
                let facts = deployment.facts();
                tokio::spawn(async move {
                    while let Some(fact) = seen.recv().await {
                        if let Fact::Exited { how, .. } = fact {
                            // Nobody listens any more when the run is over.
                            let _ = facts.send(Fact::Note(format!("a front has ended: {how}")));
                        }
                    }
                });
                return Ok((agent, SocketAddrV4::new(self.front_address, port)));
            }
            Ok(Some(Fact::Exited { how, .. })) => how,
            Ok(_) | Err(_) => format!("it does not listen at {}:{port} after {PATIENCE:?}", self.front_address),
        };
        let lines = agent.last_lines(front);
        agent.clean_up().await;
        Err(Error::Front { how, lines })
    }

    /// What is done, in its time.
    async fn deeds(&self, deployment: &mut Deployment) {
        let clock = deployment.clock();
        let pass = |time: Duration| sleep_until(Instant::now() + clock.real(time));
        pass(self.warm_up).await;
        match &self.deed {
            Deed::Watch(time) => pass(*time).await,
            Deed::Deploy => {
                deployment.deploy(2, self.limit).await;
            }
            Deed::Break(path) => {
                let first = {
                    let cluster = deployment.cluster();
                    let cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
                    cluster.tasks().next().map(|task| (task.id, task.address))
                };
                if let Some((task, address)) = first {
                    let text = format!("{task} is asked to fail: GET {path}");
                    let url = format!("http://{{ip}}:{{port}}{path}").parse::<ProbeUrl>();
                    let limit = Duration::from_secs(1);
                    let is_good = match url {
                        Ok(url) => url.is_good(address, self.service.launch.port, limit).await,
                        Err(_) => false,
                    };
                    deployment.tell(Fact::Note(if is_good { text } else { format!("{text}, and does not answer") }));
                    deployment.steady_again(self.limit).await;
                }
            }
        }
        pass(self.cool_down).await;
    }
}

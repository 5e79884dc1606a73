//! Open-loop load: requests are sent when their time has come, whatever became of those before. The edge to the service as
//! its callers see it; which address comes next is decided in [`crate::client`].
//!
//! Latency counts from when a request should have been sent, so that a service that stands still cannot hide the requests
//! that would have been sent meanwhile. How late the generator itself is, it reports apart ([`Lateness`]).

mod connection;
mod lateness;
mod names;
mod timer;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    num::NonZeroUsize,
    panic::resume_unwind,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{
    Request as HttpRequest, Uri,
    header::{CONNECTION, HOST, HeaderValue},
};
use tokio::{
    runtime,
    sync::oneshot,
    task::{JoinError, JoinSet, yield_now},
    time::{Instant, timeout_at},
};

pub use lateness::Lateness;

use crate::{
    client::{Answer, Behaviour, Cache, Lookups, Next, Pool, share},
    clock::Clock,
    request::{Attempt, Failure, Lookup, Outcome, Request},
};
use connection::{Open, Refusal, Reply, Trouble};
use names::Names;
use timer::Timer;

/// Who sends what, how often, and for how long it waits.
#[derive(Clone, Debug)]
pub struct Load {
    /// The times of the run, in which requests are recorded. All other times here are real.
    pub clock: Clock,
    /// How many requests each client sends in a real second. Above zero.
    pub rate: f64,
    /// The clients, in the order of [`crate::record::Record::clients`]. They take turns: each sends at a regular interval, and
    /// no two at once.
    pub clients: Vec<Sender>,
    /// What they ask for, such as `/`.
    pub path: String,
    /// How long they wait.
    pub timeouts: Timeouts,
    /// How many requests may be in flight, over all clients. What is beyond is not sent, and counted.
    pub most_in_flight: NonZeroUsize,
    /// What the clients' orders of addresses come from.
    pub seed: u64,
}

/// One client.
#[derive(Clone, Debug)]
pub struct Sender {
    /// What it does.
    pub behaviour: Behaviour,
    /// Whom it asks.
    pub target: Target,
}

/// Whom a client asks.
#[derive(Clone, Debug)]
pub enum Target {
    /// The tasks that DNS names.
    Name {
        /// The name, without search domains.
        name: String,
        /// The port at which all of them listen.
        port: u16,
        /// The DNS server that it asks.
        dns: SocketAddr,
    },
    /// A front that asks them. No DNS is asked.
    Front(SocketAddrV4),
}

/// How long clients wait, in real time.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For an answer of DNS to one of at most two questions.
    pub dns: Duration,
    /// For a connection, over all addresses of an answer: each of them gets its share.
    pub connect: Duration,
    /// For a whole answer, from when the request is sent, with all that it takes.
    pub request: Duration,
}

/// A load that cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name is none.
    #[error("{name:?} is no name that DNS could know: {reason}")]
    Name {
        /// The name.
        name: String,
        /// Why.
        reason: String,
    },
    /// There can be no resolver.
    #[error("names cannot be looked up: {0}")]
    Resolver(String),
    /// What is asked for is no path.
    #[error("{path:?} is no path that can be asked for: it begins with a slash, as in /health")]
    Path {
        /// The path.
        path: String,
    },
    /// The system gives no thread, or no timer.
    #[error("the load cannot be sent: {0}")]
    System(#[from] io::Error),
}

/// What came of a load.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// All requests, in the order in which they should have been sent.
    pub requests: Vec<Request>,
    /// How late they were sent.
    pub lateness: Lateness,
    /// How many were not sent, as too many were in flight: they are not among the requests.
    pub not_sent: u64,
}

/// How many requests there are so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// That were sent.
    pub sent: u64,
    /// That got what they had asked for.
    pub good: u64,
    /// That did not.
    pub failed: u64,
    /// That were not sent, as too many were in flight.
    pub not_sent: u64,
}

/// A load that is being sent, by a thread of its own. Requests in flight are abandoned if it is dropped.
#[derive(Debug)]
pub struct Running {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<Result<Sent, Error>>,
    thread: thread::JoinHandle<()>,
    counts: Arc<Mutex<Counts>>,
}

impl Running {
    /// How many requests there are so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *lock(&self.counts)
    }

    /// Sends no more requests, and waits for those in flight: not longer than for [`Timeouts::request`].
    ///
    /// # Errors
    ///
    /// [`Error`], if it could not be sent.
    pub async fn finish(self) -> Result<Sent, Error> {
        // If it has ended with an error, nobody is there to be told.
        let _ = self.stop.send(());
        let result = self.ended.await;
        // It ended, or will at once: nothing comes after its result.
        if let Err(panic) = self.thread.join() {
            resume_unwind(panic);
        }
        result.unwrap_or_else(|_| Err(io::Error::other("its thread is gone").into()))
    }
}

impl Load {
    /// Begins to send, on a thread of its own: nothing else that goes on in this process makes it late, but for the CPUs.
    ///
    /// # Errors
    ///
    /// [`Error`], if it cannot be sent at all.
    pub fn start(self) -> Result<Running, Error> {
        let clients = self.clients()?;
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let counts = Arc::new(Mutex::new(Counts::default()));
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let shared = Arc::clone(&counts);
        let thread = thread::Builder::new().name("load".to_owned()).spawn(move || {
            let result = runtime.block_on(self.send(&clients, stopped, &shared));
            drop((clients, runtime));
            // Whoever dropped the handle does not want to know.
            let _ = end.send(result);
        })?;
        Ok(Running { stop, ended, thread, counts })
    }

    fn clients(&self) -> Result<Vec<Arc<Client>>, Error> {
        let path: Uri = self.path.parse().map_err(|_| Error::Path { path: self.path.clone() })?;
        if path.scheme().is_some() || !self.path.starts_with('/') {
            return Err(Error::Path { path: self.path.clone() });
        }
        let clients = self.clients.iter().zip(0_u64..).enumerate();
        let clients = clients.map(|(index, (sender, number))| {
            let rng = fastrand::Rng::with_seed(self.seed.wrapping_add(number));
            let pool = sender.behaviour.reuse.map(Pool::new);
            let (way, port, host) = match &sender.target {
                Target::Name { name, port, dns } => {
                    let names = Names::new(name, *dns, self.timeouts.dns)?;
                    (Way::Names(Box::new(names)), *port, format!("{name}:{port}"))
                }
                Target::Front(address) => (Way::Front(*address.ip()), address.port(), address.to_string()),
            };
            let host = HeaderValue::from_str(&host)
                .map_err(|error| Error::Name { name: host.clone(), reason: error.to_string() })?;
            Ok(Arc::new(Client {
                index,
                behaviour: sender.behaviour,
                way,
                port,
                path: path.clone(),
                host,
                clock: self.clock,
                timeouts: self.timeouts,
                state: Mutex::new(State { rng, cache: Cache::default(), pool }),
            }))
        });
        clients.collect()
    }

    async fn send(
        self,
        clients: &[Arc<Client>],
        mut stop: oneshot::Receiver<()>,
        counts: &Mutex<Counts>,
    ) -> Result<Sent, Error> {
        let begin = Instant::now();
        let mut timer = Timer::new()?;
        let mut flying = JoinSet::new();
        let mut collector = Collector { sent: Sent::default(), counts };
        for (turn, client) in (0_u64..).zip(clients.iter().cycle()) {
            let due = begin + self.after(turn);
            loop {
                tokio::select! {
                    biased;
                    told = &mut stop => {
                        // Nobody waits for the result if the handle was dropped.
                        if told.is_ok() {
                            while let Some(done) = flying.join_next().await {
                                collector.take(done);
                            }
                        }
                        return Ok(collector.finish());
                    }
                    waited = timer.wait_until(due) => {
                        waited?;
                        break;
                    }
                    Some(done) = flying.join_next() => collector.take(done),
                }
            }
            // Those that are late are sent without a wait in between.
            while let Some(done) = flying.try_join_next() {
                collector.take(done);
            }
            if flying.len() < self.most_in_flight.get() {
                flying.spawn(Arc::clone(client).send(due));
                lock(counts).sent += 1;
            } else {
                lock(counts).not_sent += 1;
            }
            yield_now().await;
        }
        // There is no client.
        let _ = stop.await;
        Ok(collector.finish())
    }

    /// When the first, second, third request of all is due, as clients take turns.
    fn after(&self, turn: u64) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a nanosecond after many years of requests")]
        let (turn, clients) = (turn as f64, self.clients.len() as f64);
        Duration::from_secs_f64(turn / (self.rate * clients))
    }
}

/// What came back so far.
struct Collector<'a> {
    sent: Sent,
    counts: &'a Mutex<Counts>,
}

impl Collector<'_> {
    fn take(&mut self, done: Result<(Request, Duration), JoinError>) {
        let (request, lateness) = match done {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // Nobody cancels it.
                Err(_) => return,
            },
        };
        self.sent.lateness.add(lateness);
        let mut counts = lock(self.counts);
        if request.is_good() {
            counts.good += 1;
        } else {
            counts.failed += 1;
        }
        self.sent.requests.push(request);
    }

    fn finish(mut self) -> Sent {
        self.sent.requests.sort_by_key(|request| (request.intended, request.client));
        self.sent.not_sent = lock(self.counts).not_sent;
        self.sent
    }
}

/// A client at work.
struct Client {
    index: usize,
    behaviour: Behaviour,
    way: Way,
    port: u16,
    path: Uri,
    host: HeaderValue,
    clock: Clock,
    timeouts: Timeouts,
    state: Mutex<State>,
}

/// How a client finds whom to ask.
enum Way {
    Names(Box<Names>),
    Front(Ipv4Addr),
}

/// What a client knows from earlier requests.
struct State {
    rng: fastrand::Rng,
    cache: Cache,
    pool: Option<Pool<Open>>,
}

/// One request on its way: what is known of it, whenever it ends.
#[derive(Default)]
struct Trip {
    doing: Doing,
    lookup: Option<Lookup>,
    attempts: Vec<Attempt>,
}

/// What a request is waiting for.
#[derive(Clone, Copy, Default)]
enum Doing {
    #[default]
    Nothing,
    LookingUp {
        since: Duration,
    },
    Connecting {
        to: Ipv4Addr,
    },
    Asking {
        whom: Ipv4Addr,
        was_reused: bool,
    },
}

impl Client {
    /// Sends one request. It says how late it was sent, too.
    async fn send(self: Arc<Self>, intended: Instant) -> (Request, Duration) {
        let sent = Instant::now();
        let mut trip = Trip::default();
        let result = timeout_at(sent + self.timeouts.request, self.ask(&mut trip)).await;
        let done = self.clock.now();
        let result = result.unwrap_or_else(|_| Err(self.time_out(&mut trip, done)));
        let (outcome, task) = match result {
            Ok(reply) => {
                if let Some(refusal) = reply.refusal {
                    trip.learn(&refusal, done);
                }
                (Outcome::Answered { status: reply.status }, reply.task)
            }
            Err(cause) => (Outcome::Failed { cause }, None),
        };
        let address = match (&self.way, trip.doing, &outcome) {
            (Way::Names(_), Doing::Asking { whom, .. }, Outcome::Answered { .. }) => Some(whom),
            (
                Way::Names(_) | Way::Front(_),
                Doing::Nothing | Doing::LookingUp { .. } | Doing::Connecting { .. } | Doing::Asking { .. },
                Outcome::Answered { .. } | Outcome::Failed { .. },
            ) => None,
        };
        let request = Request {
            client: self.index,
            intended: self.clock.at(intended),
            sent: self.clock.at(sent),
            done,
            outcome,
            task,
            address,
            lookup: trip.lookup,
            attempts: trip.attempts,
        };
        (request, sent.saturating_duration_since(intended))
    }

    /// Asks one task after the other, as far as this client does that. The error is what failed at last.
    async fn ask(&self, trip: &mut Trip) -> Result<Reply, String> {
        while let Some((address, open)) = self.idle(trip).await {
            match self.get(trip, address, open, true).await {
                Ok(reply) => return Ok(reply),
                Err((Next::Again, _)) => {}
                Err((Next::NextAddress | Next::GiveUp, cause)) => return Err(cause),
            }
        }
        let addresses = match &self.way {
            Way::Names(names) => self.look_up(names, trip).await?,
            Way::Front(address) => vec![*address],
        };
        let candidates = {
            let State { rng, .. } = &mut *self.state();
            self.behaviour.candidates(&addresses, rng)
        };
        let mut last = "DNS names no address".to_owned();
        let connected_by = Instant::now() + self.timeouts.connect;
        for (tried, &address) in candidates.iter().enumerate() {
            trip.doing = Doing::Connecting { to: address };
            let left = connected_by.saturating_duration_since(Instant::now());
            let limit = share(left, candidates.len() - tried);
            let result = match Open::to(SocketAddrV4::new(address, self.port), limit).await {
                Ok(open) => self.get(trip, address, open, false).await,
                Err(trouble) => Err(self.failed(trip, address, false, &trouble)),
            };
            match result {
                Ok(reply) => return Ok(reply),
                Err((Next::NextAddress, cause)) => last = cause,
                Err((Next::Again | Next::GiveUp, cause)) => return Err(cause),
            }
        }
        Err(last)
    }

    /// A connection from earlier that still stands.
    async fn idle(&self, trip: &mut Trip) -> Option<(Ipv4Addr, Open)> {
        loop {
            let (address, mut open) = self.state().pool.as_mut()?.take(self.clock.now())?;
            trip.doing = Doing::Asking { whom: address, was_reused: true };
            if open.is_ready().await {
                return Some((address, open));
            }
        }
    }

    async fn get(
        &self,
        trip: &mut Trip,
        address: Ipv4Addr,
        mut open: Open,
        was_reused: bool,
    ) -> Result<Reply, (Next, String)> {
        trip.doing = Doing::Asking { whom: address, was_reused };
        let is_front = match self.way {
            Way::Front(_) => true,
            Way::Names(_) => false,
        };
        match open.get(self.request(), is_front).await {
            Ok(reply) => {
                // One that its task will close is closed by then, or found to be when its turn comes.
                if let Some(pool) = &mut self.state().pool {
                    pool.drop_closed(|_, open| open.is_closed());
                    pool.keep(address, open, self.clock.now());
                }
                Ok(reply)
            }
            Err(trouble) => Err(self.failed(trip, address, was_reused, &trouble)),
        }
    }

    fn request(&self) -> HttpRequest<Empty<Bytes>> {
        let mut request = HttpRequest::new(Empty::new());
        *request.uri_mut() = self.path.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        if self.behaviour.reuse.is_none() {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        request
    }

    /// What DNS, or this client's own cache, says.
    async fn look_up(&self, names: &Names, trip: &mut Trip) -> Result<Vec<Ipv4Addr>, String> {
        let at = self.clock.now();
        trip.doing = Doing::LookingUp { since: at };
        let cached = match self.behaviour.lookups {
            Lookups::Cached => self.state().cache.answer(at).cloned(),
            Lookups::PerConnection => None,
        };
        let Answer { addresses, failure, .. } = if let Some(answer) = cached {
            answer
        } else {
            let mut answer = names.look_up().await;
            answer.ttl = self.clock.lived(answer.ttl);
            match self.behaviour.lookups {
                Lookups::Cached => self.state().cache.keep(answer.clone(), self.clock.now()),
                Lookups::PerConnection => {}
            }
            answer
        };
        trip.lookup = Some(Lookup { addresses: addresses.clone(), at, failure: failure.clone() });
        match failure {
            Some(failure) => Err(format!("DNS: {failure}")),
            None => Ok(addresses),
        }
    }

    /// Notes an attempt that failed. It says what comes next, and the words for it if nothing does.
    fn failed(&self, trip: &mut Trip, address: Ipv4Addr, was_reused: bool, trouble: &Trouble) -> (Next, String) {
        let Trouble { failure, ref cause } = *trouble;
        trip.attempts.push(Attempt { address, at: self.clock.now(), failure, was_reused });
        (self.behaviour.after(failure, was_reused), format!("{address}: {cause}"))
    }

    /// Notes that the time for the whole request was over. It says what it had waited for.
    fn time_out(&self, trip: &mut Trip, at: Duration) -> String {
        let limit = humantime::format_duration(self.timeouts.request);
        let (address, failure, was_reused, missed) = match trip.doing {
            Doing::Nothing => return format!("nothing happened within {limit}"),
            Doing::LookingUp { since } => {
                let failure = format!("no answer within {limit}");
                trip.lookup = Some(Lookup { addresses: Vec::new(), at: since, failure: Some(failure.clone()) });
                return format!("DNS: {failure}");
            }
            Doing::Connecting { to } => (to, Failure::Unreachable, false, "connection"),
            Doing::Asking { whom, was_reused } => (whom, Failure::TimedOut, was_reused, "answer"),
        };
        trip.attempts.push(Attempt { address, at, failure, was_reused });
        format!("{address}: no {missed} within {limit}")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Trip {
    /// Takes over what a front says of its own attempts. When each of them was, it does not say.
    fn learn(&mut self, refusal: &Refusal, at: Duration) {
        self.attempts.extend(refusal.attempts.iter().filter_map(|attempt| {
            let (address, failure) = (attempt.address()?, attempt.failure());
            Some(Attempt { address, at, failure, was_reused: false })
        }));
        // It had nobody to ask, and says so: "its name has no address".
        if refusal.cause.starts_with("its name ") {
            self.lookup = Some(Lookup { addresses: Vec::new(), at, failure: Some(refusal.cause.clone()) });
        }
    }
}

/// Nothing panics while it holds the lock, so whatever is in there is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

//! The edge to the tasks: connections, a pool of idle ones for each address, requests out and answers in. It decides
//! nothing about retries.

mod answer;
mod open;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use clap::ValueEnum;
use futures_util::future::{BoxFuture, FutureExt, Shared};
use hyper::{
    Request, Response, StatusCode,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    sync::oneshot,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, timeout},
};
use tracing::debug;

pub use answer::Answer;
use answer::Lease;
use open::{Kept, Multiplexed, Open, Sender, Using};

use crate::{
    body::{RequestBody, Stalled},
    error::causes,
    metrics::Metrics,
    retry::Failure,
};

/// Idle connections are looked through about as often as their time is long, within these.
const LEAST_SWEEP: Duration = Duration::from_millis(100);
const MOST_SWEEP: Duration = Duration::from_secs(5);

/// A cap on the idle connections of one address. What is beyond is closed rather than kept.
const MOST_KEPT: usize = 128;

/// How often one request looks for a connection of HTTP/2 that is not full before it takes a full one: more often than as
/// many requests as may be in flight fill one.
const MOST_LOOKS: usize = 64;

/// How often a connection of HTTP/2 with requests in flight is asked whether the task is still there, and how long that may
/// take: TCP alone says nothing about a process that hangs.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// What is spoken with the tasks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1: one request at a time on a connection.
    #[default]
    Http1,
    /// HTTP/2 without TLS, as one that knows that the tasks speak it (RFC 9113, section 3.3): for gRPC.
    H2c,
}

/// The knobs of connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What is spoken.
    pub protocol: Protocol,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// How long a connection is used at all, more or less a tenth: not all of them end in the same moment.
    pub max_age: Duration,
    /// How long what was sent may stay unacknowledged (RFC 5482). Zero: as long as the kernel likes.
    pub tcp_user_timeout: Duration,
}

/// An attempt that brought no answer.
#[derive(Debug)]
pub struct Failed {
    /// In which of the ways that matter for a retry.
    pub failure: Failure,
    /// In words, for people.
    pub cause: String,
    /// The request, if it was not sent.
    pub request: Option<Request<RequestBody>>,
    /// The connection had served before: that it ended says nothing about the task.
    pub was_reused: bool,
}

/// Which connection a request may be sent on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Connection {
    /// An idle one if there is one.
    Any,
    /// A new one.
    New,
}

/// The connections to all tasks.
#[derive(Debug)]
pub struct Backend {
    limits: Limits,
    metrics: Arc<Metrics>,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    /// An entry for each address that DNS names; others are not kept.
    kept: HashMap<SocketAddr, Vec<Kept>>,
    /// Connections that are being made, for all who wait for one.
    making: HashMap<SocketAddr, Making>,
    /// What drives each connection, idle or not. They end with their connection, and with us.
    drivers: JoinSet<()>,
}

/// A connection of HTTP/2 that is being made.
type Making = Shared<BoxFuture<'static, Result<Multiplexed, String>>>;

impl Backend {
    /// No connections yet.
    #[must_use]
    pub fn new(limits: Limits, metrics: Arc<Metrics>) -> Self {
        Self { limits, metrics, connections: Mutex::default() }
    }

    /// Follows DNS: connections to `added` addresses are kept from now on, and those to `removed` ones are closed when
    /// they are idle.
    pub fn follow(&self, added: &[SocketAddr], removed: &[SocketAddr]) {
        let mut connections = self.lock();
        for address in removed {
            connections.kept.remove(address);
        }
        for address in added {
            connections.kept.entry(*address).or_default();
        }
    }

    /// Closes what has been idle for too long.
    fn sweep(&self) {
        for kept in self.lock().kept.values_mut() {
            kept.retain(|kept| kept.is_good(&self.limits));
        }
    }

    /// Sends `request` to the task at `address`, on an idle connection or a new one, and waits for an answer to begin.
    ///
    /// # Errors
    ///
    /// [`Failed`], with the request if it can be sent elsewhere as it is.
    pub async fn send(
        self: &Arc<Self>,
        address: SocketAddr,
        mut request: Request<RequestBody>,
        connection: Connection,
    ) -> Result<Response<Answer>, Box<Failed>> {
        while connection == Connection::Any
            && let Some(open) = self.take(address)
        {
            match self.send_on(address, open, request, true).await {
                // The task closed it while it was idle. That says nothing about the task.
                Err(failed) if failed.failure == Failure::NotSent => match failed.request {
                    Some(unsent) => request = unsent,
                    None => return Err(failed),
                },
                result => return result,
            }
        }
        let open = match self.limits.protocol {
            Protocol::Http1 => self.connect(address).await,
            Protocol::H2c => self.connect_for_all(address).await,
        };
        match open {
            Ok(open) => self.send_on(address, open, request, false).await,
            Err(cause) => {
                let request = Some(request);
                Err(Box::new(Failed { failure: Failure::NotConnected, cause, request, was_reused: false }))
            }
        }
    }

    async fn send_on(
        self: &Arc<Self>,
        address: SocketAddr,
        mut open: Open,
        request: Request<RequestBody>,
        was_reused: bool,
    ) -> Result<Response<Answer>, Box<Failed>> {
        match open.sender.send(request).await {
            Ok(response) => {
                let goes_on = response.status() != StatusCode::SWITCHING_PROTOCOLS;
                let lease = goes_on.then(|| Lease { backend: Arc::clone(self), address, open, is_last: false });
                Ok(response.map(|body| Answer::new(body, lease)))
            }
            Err(mut error) => {
                let request = error.take_message();
                let error = error.into_error();
                // The task did not close it while it was idle: it did not take what was sent.
                let was_reused = was_reused && !is_time_out(&error);
                let failure = match request {
                    Some(_) => Failure::NotSent,
                    None if Stalled::is_behind(&error) => Failure::LateBody,
                    None if was_refused(&error) => Failure::Refused,
                    None if error.is_user() => Failure::BadBody,
                    None if error.is_parse() => Failure::Garbage,
                    None => Failure::NoAnswer,
                };
                Err(Box::new(Failed { failure, cause: in_words(&error), request, was_reused }))
            }
        }
    }

    /// The connection to `address` that was used last and is still good.
    fn take(&self, address: SocketAddr) -> Option<Open> {
        let mut connections = self.lock();
        let kept = connections.kept.get_mut(&address)?;
        match self.limits.protocol {
            Protocol::Http1 => loop {
                let last = kept.pop()?;
                if last.is_good(&self.limits) && last.open.sender.is_ready() {
                    return Some(last.open);
                }
            },
            Protocol::H2c => {
                let is_fit = |kept: &&mut Kept| kept.is_good(&self.limits) && kept.open.sender.is_ready();
                let last = kept.iter_mut().rev().find(is_fit)?;
                last.used_at = Instant::now();
                Multiplexed::of(&last.open).map(Multiplexed::used)
            }
        }
    }

    /// Closes idle connections as their time comes. Runs until it is dropped.
    pub async fn sweep_for_ever(&self) -> std::convert::Infallible {
        loop {
            sleep(self.limits.idle_timeout.clamp(LEAST_SWEEP, MOST_SWEEP)).await;
            self.sweep();
        }
    }

    async fn connect(&self, address: SocketAddr) -> Result<Open, String> {
        let limit = self.limits.connect_timeout;
        let stream = timeout(limit, TcpStream::connect(address))
            .await
            .map_err(|_| format!("no connection within {}", humantime::format_duration(limit)))?
            .map_err(|error| format!("cannot connect: {error}"))?;
        self.metrics.connected();
        self.set_options(address, &stream);
        let stream = TokioIo::new(stream);
        let (sender, driver) = match self.limits.protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(stream).await.map_err(|error| in_words(&error))?;
                (Sender::Http1(sender), self.drive(address, connection.with_upgrades()))
            }
            Protocol::H2c => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .keep_alive_interval(PING_INTERVAL)
                    .keep_alive_timeout(PING_TIMEOUT)
                    .handshake(stream)
                    .await
                    .map_err(|error| in_words(&error))?;
                (Sender::H2c(sender, Using::one_of(&Arc::default())), self.drive(address, connection))
            }
        };
        let ends_at = Instant::now() + self.limits.max_age.mul_f64(0.9 + 0.2 * fastrand::f64());
        Ok(Open { sender, ends_at, driver })
    }

    fn drive<C>(&self, address: SocketAddr, connection: C) -> AbortHandle
    where
        C: Future<Output = hyper::Result<()>> + Send + 'static,
    {
        let mut connections = self.lock();
        while connections.drivers.try_join_next().is_some() {} // Forgets those that have ended.
        connections.drivers.spawn(async move {
            if let Err(error) = connection.await {
                debug!(%address, %error, "connection ended");
            }
        })
    }

    /// A connection of HTTP/2 with a stream to spare. Those who ask while one is being made wait for it.
    async fn connect_for_all(self: &Arc<Self>, address: SocketAddr) -> Result<Open, String> {
        let mut looks = 0;
        loop {
            let open = self.making(address).await?;
            looks += 1;
            if let Some(spare) = self.take(address) {
                return Ok(spare);
            }
            // DNS has dropped the address, so that its connections are not kept; or there are very few streams.
            if looks == MOST_LOOKS || !self.lock().kept.contains_key(&address) {
                return Ok(open.used());
            }
        }
    }

    fn making(self: &Arc<Self>, address: SocketAddr) -> Making {
        let mut connections = self.lock();
        if let Some(making) = connections.making.get(&address) {
            return making.clone();
        }
        let (made, receiver) = oneshot::channel();
        let backend = Arc::clone(self);
        // Apart from those who wait: they may go away, and others wait on.
        connections.drivers.spawn(async move {
            let result = backend.connect(address).await.and_then(|open| {
                let shared = Multiplexed::of(&open).ok_or("a connection of HTTP/1 is not for several")?;
                backend.keep(address, open);
                Ok(shared)
            });
            backend.lock().making.remove(&address);
            let _nobody_waits_any_more = made.send(result);
        });
        let making = receiver.map(|result| result.unwrap_or_else(|_| Err("front is being stopped".to_owned())));
        let making = making.boxed().shared();
        connections.making.insert(address, making.clone());
        making
    }

    fn set_options(&self, address: SocketAddr, stream: &TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%address, %error, "requests may be delayed");
        }
        let unacknowledged = self.limits.tcp_user_timeout;
        if !unacknowledged.is_zero()
            && let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(unacknowledged))
        {
            debug!(%address, %error, "a task that is gone may be noticed late");
        }
    }

    /// Keeps a connection, if DNS still names its address.
    fn keep(&self, address: SocketAddr, open: Open) {
        if let Some(kept) = self.lock().kept.get_mut(&address)
            && kept.len() < MOST_KEPT
        {
            kept.push(Kept { open, used_at: Instant::now() });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        // Nothing panics while it holds the lock, so whatever is in there is whole.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the kernel gave the connection up, since nobody acknowledged what was sent.
fn is_time_out(error: &hyper::Error) -> bool {
    let is_one = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    causes(error).filter_map(|cause| cause.downcast_ref()).any(is_one)
}

/// Whether the task says that it has not acted on the request (RFC 9113, section 8.7).
fn was_refused(error: &hyper::Error) -> bool {
    let says_so = |error: &h2::Error| {
        let is_leaving = error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
        is_leaving || error.reason() == Some(h2::Reason::REFUSED_STREAM)
    };
    causes(error).filter_map(|cause| cause.downcast_ref()).any(says_so)
}

/// An error with its causes: hyper's own words alone do not say what the kernel said.
fn in_words(error: &hyper::Error) -> String {
    let words: Vec<_> = causes(error).map(ToString::to_string).collect();
    words.join(": ")
}

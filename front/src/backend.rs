//! The edge to the tasks: connections, a pool of idle ones for each address, requests out and answers in. It decides
//! nothing about retries.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use crate::{metrics::Metrics, retry::Failure};

/// The body of a request to a task: the caller's as it comes, or one that is here and can be sent again.
pub type RequestBody = Either<Incoming, Full<Bytes>>;

/// Idle connections are looked through about as often as their time is long, within these.
const LEAST_SWEEP: Duration = Duration::from_millis(100);
const MOST_SWEEP: Duration = Duration::from_secs(5);

/// A cap on the idle connections of one address. What is beyond is closed rather than kept.
const MOST_IDLE: usize = 128;

/// The knobs of connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
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
    idle: HashMap<SocketAddr, Vec<Idle>>,
    /// What drives each connection, idle or not. They end with their connection, and with us.
    drivers: JoinSet<()>,
}

/// A connection that a request can be sent on.
#[derive(Debug)]
struct Open {
    sender: SendRequest<RequestBody>,
    /// When it is used no more.
    ends_at: Instant,
}

#[derive(Debug)]
struct Idle {
    open: Open,
    since: Instant,
}

impl Idle {
    fn is_good(&self, limits: &Limits) -> bool {
        self.since.elapsed() < limits.idle_timeout
            && Instant::now() < self.open.ends_at
            && !self.open.sender.is_closed()
    }
}

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
            connections.idle.remove(address);
        }
        for address in added {
            connections.idle.entry(*address).or_default();
        }
    }

    /// Closes what has been idle for too long.
    fn sweep(&self) {
        for idle in self.lock().idle.values_mut() {
            idle.retain(|idle| idle.is_good(&self.limits));
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
            && let Some(open) = self.take_idle(address)
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
        match self.connect(address).await {
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
        match open.sender.try_send_request(request).await {
            Ok(response) => {
                let lease = Lease { backend: Arc::clone(self), address, open };
                Ok(response.map(|body| Answer::new(body, lease)))
            }
            Err(mut error) => {
                let request = error.take_message();
                let error = error.into_error();
                // The task did not close it while it was idle: it did not take what was sent.
                let was_reused = was_reused && !is_time_out(&error);
                let failure = match request {
                    Some(_) => Failure::NotSent,
                    None if error.is_user() => Failure::BadBody,
                    None if error.is_parse() => Failure::Garbage,
                    None => Failure::NoAnswer,
                };
                Err(Box::new(Failed { failure, cause: in_words(&error), request, was_reused }))
            }
        }
    }

    /// The idle connection to `address` that was used last and is still good.
    fn take_idle(&self, address: SocketAddr) -> Option<Open> {
        loop {
            let idle = self.lock().idle.get_mut(&address)?.pop()?;
            if idle.is_good(&self.limits) && idle.open.sender.is_ready() {
                return Some(idle.open);
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
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| in_words(&error))?;
        let mut connections = self.lock();
        while connections.drivers.try_join_next().is_some() {} // Forgets those that have ended.
        connections.drivers.spawn(async move {
            if let Err(error) = connection.await {
                debug!(%address, %error, "connection ended");
            }
        });
        let ends_at = Instant::now() + self.limits.max_age.mul_f64(0.9 + 0.2 * fastrand::f64());
        Ok(Open { sender, ends_at })
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

    /// Keeps an idle connection, if DNS still names its address.
    fn keep(&self, address: SocketAddr, open: Open) {
        if let Some(idle) = self.lock().idle.get_mut(&address)
            && idle.len() < MOST_IDLE
        {
            idle.push(Idle { open, since: Instant::now() });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        // Nothing panics while it holds the lock, so whatever is in there is whole.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the kernel gave the connection up, since nobody acknowledged what was sent.
fn is_time_out(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return true;
        }
        source = cause.source();
    }
    false
}

/// An error with its causes: hyper's own words alone do not say what the kernel said.
fn in_words(error: &hyper::Error) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}

/// A connection that is carrying an answer.
#[derive(Debug)]
struct Lease {
    backend: Arc<Backend>,
    address: SocketAddr,
    open: Open,
}

impl Lease {
    /// The answer has been read to its end: the connection may serve another request as soon as it has sent all of this
    /// one, whose body a task need not have waited for.
    fn give_back(self) {
        let Self { backend, address, mut open } = self;
        if backend.limits.idle_timeout.is_zero() || open.sender.is_closed() {
            return;
        }
        if open.sender.is_ready() {
            backend.keep(address, open);
            return;
        }
        let waiting = Arc::clone(&backend);
        backend.lock().drivers.spawn(async move {
            if open.sender.ready().await.is_ok() {
                waiting.keep(address, open);
            }
        });
    }
}

/// The body of an answer. Its connection goes back to the pool at its end, and is closed if it is dropped before.
#[derive(Debug)]
pub struct Answer {
    body: Incoming,
    lease: Option<Lease>,
}

impl Answer {
    fn new(body: Incoming, lease: Lease) -> Self {
        let mut answer = Self { body, lease: Some(lease) };
        answer.give_back_at_end();
        answer
    }

    fn give_back_at_end(&mut self) {
        if self.body.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(_)) => self.give_back_at_end(),
            Some(Err(_)) => drop(self.lease.take()),
            None => {
                if let Some(lease) = self.lease.take() {
                    lease.give_back();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! An HTTP server that goes through the phases without cutting anybody off: who is accepted, and when it ends.

use std::{future::Future, net::SocketAddr, pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use hyper::{
    Request, Response,
    body::{Body, Incoming},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::sleep,
};
use tracing::{info, warn};

use crate::{
    connection::{self, Admission, past_accepting},
    phase::Phase,
};

/// How long to wait when no connection can be accepted, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections beyond the limit that are told to come again. Those beyond these wait in the kernel's queue.
const REFUSED_AT_ONCE: usize = 64;

/// What callers are granted.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many connections there may be. One more is answered with 503 and closed.
    pub max_connections: usize,
    /// How long a connection may be idle, and how long it may take to begin.
    ///
    /// Longer than a load balancer keeps its idle connections (60 seconds for an AWS Application Load Balancer), or it
    /// would send requests on connections that we are closing.
    pub idle_timeout: Duration,
    /// How long a request's head may take, from its first byte on. HTTP/1 only.
    pub head_timeout: Duration,
    /// How long a caller may take nothing of what is sent to it.
    pub body_idle_timeout: Duration,
    /// How long what is in flight may take to finish after a stop.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            idle_timeout: Duration::from_secs(75),
            head_timeout: Duration::from_secs(10),
            body_idle_timeout: Duration::from_mins(1),
            drain_timeout: Duration::from_secs(20),
        }
    }
}

/// How the stop went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stopped {
    /// Connections that were still in use and were cut off: at the drain timeout, or by a second stop signal.
    pub cut_off: usize,
}

/// Serves until the phase is past accepting and every request in flight is answered, or the drain timeout after that.
pub async fn serve<H, F, B>(
    listener: TcpListener,
    mut phase: watch::Receiver<Phase>,
    limits: Limits,
    handler: H,
) -> Stopped
where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let start = |connections: &mut JoinSet<()>, admission, stream: TcpStream, peer| {
        connections.spawn(connection::serve(stream, peer, admission, phase.clone(), limits, handler.clone()));
    };
    let mut stop = phase.clone();
    let mut stopping = pin!(past_accepting(&mut stop));
    let mut before = Admission::Within;
    loop {
        // Forgets those that have ended.
        while connections.try_join_next().is_some() {}
        tokio::select! {
            biased;
            () = &mut stopping => break,
            accepted = listener.accept(), if connections.len() < limits.max_connections.saturating_add(REFUSED_AT_ONCE) => match accepted {
                Ok((stream, peer)) => {
                    let admission = if connections.len() < limits.max_connections { Admission::Within } else { Admission::Beyond };
                    tell(before, admission, limits.max_connections);
                    before = admission;
                    start(&mut connections, admission, stream, peer);
                }
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    // Whoever is in the queue has connected: closing the socket now would reset them.
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        start(&mut connections, Admission::Within, stream, peer);
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    tokio::select! {
        biased;
        () = finished => {}
        () = sleep(limits.drain_timeout) => {}
        _ = phase.wait_for(|phase| *phase == Phase::Leaving) => {}
    }
    let cut_off = connections.len();
    connections.shutdown().await;
    Stopped { cut_off }
}

/// Tells of a change once, not of each connection: there are many when it happens.
fn tell(before: Admission, now: Admission, max_connections: usize) {
    match (before, now) {
        (Admission::Within, Admission::Beyond) => {
            warn!(max_connections, "as many connections as are allowed: those beyond are answered with 503");
        }
        (Admission::Beyond, Admission::Within) => info!(max_connections, "connections are within their limit again"),
        (Admission::Within, Admission::Within) | (Admission::Beyond, Admission::Beyond) => {}
    }
}

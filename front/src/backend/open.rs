//! Connections that a request can be sent on: of HTTP/1.1 for one, of HTTP/2 for many at once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use tokio::{task::AbortHandle, time::Instant};

use super::Limits;
use crate::body::RequestBody;

/// How many requests are in flight on one connection of HTTP/2 before another one is made: a task should allow at least as
/// many (RFC 9113, section 6.5.2), and all of them suffer when its packets are lost.
const MOST_STREAMS: usize = 100;

/// A connection that a request can be sent on.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) sender: Sender,
    /// When it is used no more.
    pub(super) ends_at: Instant,
    pub(super) driver: AbortHandle,
}

#[derive(Debug)]
pub(super) enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    H2c(http2::SendRequest<RequestBody>, Using),
}

/// One of those who use a connection of HTTP/2: its requests in flight, and the pool.
#[derive(Debug)]
pub(super) struct Using(Arc<AtomicUsize>);

impl Using {
    pub(super) fn one_of(users: &Arc<AtomicUsize>) -> Self {
        users.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(users))
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection of HTTP/2 that can be used.
#[derive(Clone, Debug)]
pub(super) struct Multiplexed {
    sender: http2::SendRequest<RequestBody>,
    users: Arc<AtomicUsize>,
    pub(super) ends_at: Instant,
    pub(super) driver: AbortHandle,
}

impl Multiplexed {
    pub(super) fn of(open: &Open) -> Option<Self> {
        let (ends_at, driver) = (open.ends_at, open.driver.clone());
        match &open.sender {
            Sender::Http1(_) => None,
            Sender::H2c(sender, using) => {
                Some(Self { sender: sender.clone(), users: Arc::clone(&using.0), ends_at, driver })
            }
        }
    }

    pub(super) fn used(self) -> Open {
        let sender = Sender::H2c(self.sender, Using::one_of(&self.users));
        Open { sender, ends_at: self.ends_at, driver: self.driver }
    }
}

impl Sender {
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::H2c(sender, _) => sender.try_send_request(request).await,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::H2c(sender, _) => sender.is_closed(),
        }
    }

    /// Whether a request would be sent now.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::H2c(sender, using) => sender.is_ready() && using.0.load(Ordering::Relaxed) <= MOST_STREAMS,
        }
    }
}

#[derive(Debug)]
pub(super) struct Kept {
    pub(super) open: Open,
    pub(super) used_at: Instant,
}

impl Kept {
    pub(super) fn is_good(&self, limits: &Limits) -> bool {
        self.used_at.elapsed() < limits.idle_timeout
            && Instant::now() < self.open.ends_at
            && !self.open.sender.is_closed()
    }
}

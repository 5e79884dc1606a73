//! Answers on their way from a task, and what becomes of their connections.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{
    Backend,
    open::{Open, Sender},
};

/// A connection that is carrying an answer.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) backend: Arc<Backend>,
    pub(super) address: SocketAddr,
    pub(super) open: Open,
    pub(super) is_last: bool,
}

impl Lease {
    /// The answer has been read to its end: the connection may serve another request as soon as it has sent all of this
    /// one, whose body a task need not have waited for.
    fn give_back(self) {
        let Self { backend, address, mut open, is_last } = self;
        if is_last {
            open.driver.abort();
            return;
        }
        let Sender::Http1(sender) = &mut open.sender else { return };
        if backend.limits.idle_timeout.is_zero() || sender.is_closed() {
            return;
        }
        if sender.is_ready() {
            backend.keep(address, open);
            return;
        }
        let waiting = Arc::clone(&backend);
        backend.lock().drivers.spawn(async move {
            if let Sender::Http1(sender) = &mut open.sender
                && sender.ready().await.is_ok()
            {
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
    pub(super) fn new(body: Incoming, lease: Option<Lease>) -> Self {
        Self { body, lease }
    }

    /// Ends the connection after this answer, and with it a body that it has not been sent.
    pub fn is_last(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.is_last = true;
        }
    }

    fn end(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // The server does not ask again for a body that said it was at its end.
        if self.body.is_end_stream() {
            self.end();
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
            Some(Ok(_)) => {
                if self.body.is_end_stream() {
                    self.end();
                }
            }
            Some(Err(_)) => drop(self.lease.take()),
            None => self.end(),
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

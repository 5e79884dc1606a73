//! The bodies of answers on their way to a caller, who may not take them.

use std::{
    error::Error,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use crate::pace::Answering;

type BodyError = Box<dyn Error + Send + Sync>;

/// The caller took nothing of an answer for too long.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the caller took nothing for too long")]
struct Untaken;

pin_project! {
    /// The body of an answer. The connection is idle again when it is gone.
    #[project = AnsweredProjection]
    pub(crate) enum Answered<B> {
        /// The only one on its connection. The kernel sees whether it is taken.
        Alone {
            #[pin]
            body: B,
            answering: Answering,
        },
        /// One of several. Its stream has a window of its own (RFC 9113, section 5.2), which the caller may never open, and
        /// nobody asks for the body as long as it is closed.
        Stream {
            slot: Arc<Mutex<Slot<B>>>,
        },
    }
}

/// What is there of an answer while it is not in the caller's window.
pub(crate) struct Slot<B> {
    /// None when its time was over: whatever it holds, such as a connection to a task, is free again.
    held: Option<(Pin<Box<B>>, Answering)>,
    /// Since when the caller could have asked for more. None while it is we who make it wait.
    untaken_since: Option<Instant>,
}

/// The answers that are on their way on one connection.
pub(crate) struct Streams<B> {
    slots: Mutex<Vec<Weak<Mutex<Slot<B>>>>>,
    added: Notify,
}

impl<B> Default for Streams<B> {
    fn default() -> Self {
        Self { slots: Mutex::default(), added: Notify::new() }
    }
}

impl<B> Streams<B> {
    /// An answer of HTTP/2 that [`Streams::watch`] looks after.
    pub(crate) fn add(&self, body: B, answering: Answering) -> Answered<B> {
        let held = Some((Box::pin(body), answering));
        let slot = Arc::new(Mutex::new(Slot { held, untaken_since: Some(Instant::now()) }));
        let mut slots = lock(&self.slots);
        // Those that are over go before more memory is taken, so that it follows the streams that a caller has at once.
        if slots.len() == slots.capacity() {
            slots.retain(|slot| slot.strong_count() > 0);
        }
        slots.push(Arc::downgrade(&slot));
        drop(slots);
        self.added.notify_one();
        Answered::Stream { slot }
    }

    /// Lets go of answers of which the caller has taken nothing for `limit`, and up to a quarter of it more; zero is for ever.
    /// Their streams stay as they are until the caller opens their window, and are reset then.
    pub(crate) async fn watch(&self, limit: Duration) -> ! {
        if limit.is_zero() {
            std::future::pending::<()>().await;
        }
        loop {
            if lock(&self.slots).is_empty() {
                self.added.notified().await;
            }
            sleep(limit / 4).await;
            self.let_go(limit);
        }
    }

    fn let_go(&self, limit: Duration) {
        let now = Instant::now();
        let mut untaken = Vec::new();
        lock(&self.slots).retain(|slot| {
            let Some(slot) = slot.upgrade() else { return false };
            let mut slot = lock(&slot);
            if slot.untaken_since.is_some_and(|since| now.duration_since(since) >= limit) {
                untaken.push(slot.held.take());
            }
            slot.held.is_some()
        });
        // Here, where nothing is locked: what is let go of may do whatever it likes.
        drop(untaken);
    }
}

impl<B: Body<Data = Bytes, Error: Into<BodyError>>> Body for Answered<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = match self.project() {
            AnsweredProjection::Alone { body, .. } => body.poll_frame(context),
            AnsweredProjection::Stream { slot } => {
                let mut slot = lock(slot);
                let Some((body, _)) = &mut slot.held else {
                    return Poll::Ready(Some(Err(Untaken.into())));
                };
                let polled = body.as_mut().poll_frame(context);
                slot.untaken_since = polled.is_ready().then(Instant::now);
                polled
            }
        };
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Alone { body, .. } => body.is_end_stream(),
            Self::Stream { slot } => lock(slot).held.as_ref().is_some_and(|(body, _)| body.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Alone { body, .. } => body.size_hint(),
            Self::Stream { slot } => lock(slot).held.as_ref().map(|(body, _)| body.size_hint()).unwrap_or_default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A body that panicked is not asked again, and the rest is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

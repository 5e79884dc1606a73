//! What a caller and a task say to each other once they have switched to another protocol (RFC 9110, section 7.8).

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional},
    time::sleep,
};

use crate::access::{Access, Outcome};

/// Joins both sides until both have ended, either has failed, or nothing has been said for `idle_timeout` (zero: for ever).
/// Then `access` is complete.
pub(crate) async fn join(caller: OnUpgrade, task: OnUpgrade, idle_timeout: Duration, mut access: Access) {
    let (Ok(caller), Ok(task)) = tokio::join!(caller, task) else { return };
    let (sent, received) = (Counter::default(), Counter::default());
    let mut caller = Counted { side: TokioIo::new(caller), read: sent.clone() };
    let mut task = Counted { side: TokioIo::new(task), read: received.clone() };
    tokio::select! {
        biased;
        ended = copy_bidirectional(&mut caller, &mut task) => {
            access.outcome = if ended.is_ok() { Outcome::Answered } else { Outcome::CutOff };
        }
        () = silence(&sent, &received, idle_timeout) => access.outcome = Outcome::Stalled,
    }
    access.bytes = received.so_far();
}

/// Ends when neither side has said anything for as long as `idle_timeout`, or up to twice that.
async fn silence(sent: &Counter, received: &Counter, idle_timeout: Duration) {
    if idle_timeout.is_zero() {
        std::future::pending::<()>().await;
    }
    let mut before = None;
    loop {
        let now = (sent.so_far(), received.so_far());
        if before == Some(now) {
            return;
        }
        before = Some(now);
        sleep(idle_timeout).await;
    }
}

#[derive(Clone, Debug, Default)]
struct Counter(Arc<AtomicUsize>);

impl Counter {
    fn so_far(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One side, and how many bytes it has said.
struct Counted {
    side: TokioIo<Upgraded>,
    read: Counter,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.side).poll_read(context, into);
        self.read.0.fetch_add(into.filled().len() - before, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.side).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_shutdown(context)
    }
}

//! Bodies on their way through: none stalls for ever, and one that waits to be asked for is not asked for too early.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};

use crate::error::causes;

/// Why a body broke off.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// Nothing came for too long.
#[derive(Debug, thiserror::Error)]
#[error("nothing came for {}", humantime::format_duration(*.0))]
pub struct Stalled(pub Duration);

impl Stalled {
    /// Whether it is the reason for `error`.
    #[must_use]
    pub fn is_behind(error: &(dyn Error + 'static)) -> bool {
        causes(error).any(<dyn Error>::is::<Self>)
    }
}

pin_project! {
    /// A body that fails with [`Stalled`] if it brings nothing for so long while it is waited for. Time in which nobody asks
    /// does not count. Other than tower-http's `TimeoutBody` it keeps the body's length.
    #[derive(Debug)]
    pub struct Timed<B> {
        #[pin]
        body: B,
        limit: Duration,
        is_waiting: bool,
        #[pin]
        timer: Option<Sleep>,
    }
}

impl<B> Timed<B> {
    /// A body that may be silent for `limit`; zero is for ever.
    pub fn new(body: B, limit: Duration) -> Self {
        Self { body, limit, is_waiting: false, timer: None }
    }
}

impl<B: Body<Error: Into<BodyError>>> Body for Timed<B> {
    type Data = B::Data;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        if let Poll::Ready(frame) = this.body.poll_frame(context) {
            *this.is_waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if this.limit.is_zero() {
            return Poll::Pending;
        }
        if !*this.is_waiting {
            *this.is_waiting = true;
            // The timer is made once, and only for bodies that do not come at once.
            match this.timer.as_mut().as_pin_mut() {
                Some(timer) => timer.reset(Instant::now() + *this.limit),
                None => this.timer.set(Some(sleep(*this.limit))),
            }
        }
        if let Some(timer) = this.timer.as_pin_mut() {
            ready!(timer.poll(context));
        }
        Poll::Ready(Some(Err(Stalled(*this.limit).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a body waits for before it is asked for.
pub type Signal = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// The body of a request to a task.
pub enum RequestBody {
    /// All of it is here.
    Whole(Full<Bytes>),
    /// As it comes from the caller.
    Streamed(Pin<Box<Timed<Held>>>),
}

impl RequestBody {
    /// A body that is here.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        Self::Whole(Full::new(bytes))
    }

    /// The caller's body, which may be silent for `limit`. A caller that expects to be told to go on (RFC 9110, section
    /// 10.1.1) is told so when its body is first asked for: that is after `signal`.
    #[must_use]
    pub fn streamed(body: Incoming, signal: Option<Signal>, limit: Duration) -> Self {
        Self::Streamed(Box::pin(Timed::new(Held { body, signal }, limit)))
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(_) => f.write_str("Whole"),
            Self::Streamed(_) => f.write_str("Streamed"),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Whole(body) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                Poll::Ready(frame.map(|frame| frame.map_err(|never| match never {})))
            }
            Self::Streamed(body) => body.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Streamed(body) => body.size_hint(),
        }
    }
}

/// A body that is asked for when its signal is there.
pub struct Held {
    body: Incoming,
    signal: Option<Signal>,
}

impl Body for Held {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(signal) = &mut self.signal {
            ready!(signal.as_mut().poll(context));
            self.signal = None;
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::mpsc;

    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, BodyError>>;

    fn timed(limit: Duration) -> (Frames, Pin<Box<impl Body<Data = Bytes, Error = BodyError>>>) {
        let (frames, mut receiver) = mpsc::unbounded_channel();
        let stream = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
        (frames, Box::pin(Timed::new(StreamBody::new(stream), limit)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_brings_nothing_fails_after_its_limit_counted_anew_from_each_frame() {
        let (frames, mut body) = timed(LIMIT);
        let started = Instant::now();
        let bringing = tokio::spawn(async move {
            for _ in 0..3 {
                sleep(Duration::from_secs(50)).await;
                frames.send(Ok(Frame::data(Bytes::from_static(b"x")))).unwrap();
            }
            std::future::pending::<()>().await;
        });
        for _ in 0..3 {
            assert!(body.frame().await.unwrap().is_ok());
        }
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(Stalled::is_behind(error.as_ref()), "{error}");
        assert_eq!(started.elapsed().as_secs(), 210);
        bringing.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_asks_does_not_count() {
        let (frames, mut body) = timed(LIMIT);
        sleep(LIMIT * 3).await;
        let wait = tokio::time::timeout(LIMIT / 2, body.frame()).await;
        assert!(wait.is_err(), "it waits");
        frames.send(Ok(Frame::data(Bytes::from_static(b"x")))).unwrap();
        assert!(body.frame().await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_it_waits() {
        let (_frames, mut body) = timed(Duration::ZERO);
        assert!(tokio::time::timeout(Duration::from_hours(24), body.frame()).await.is_err());
    }

    #[test]
    fn a_timed_body_keeps_its_length() {
        let body = Timed::new(Full::new(Bytes::from_static(b"four")), LIMIT);
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(4), false));
    }
}

//! The patience that a connection has with its caller. hyper has one timer for a head that comes slowly and for a
//! connection that is idle, and these need different times.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::{Instant, Sleep, sleep, sleep_until},
};

/// How a connection of HTTP/2 begins (RFC 9113, section 3.4).
const HTTP_2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Waiting {
    /// For the first byte.
    #[default]
    ToBegin,
    /// For the next request.
    Idle,
    /// For the rest of a request's head.
    ForHead,
    /// For an answer, and for the caller to take it.
    ForAnswer,
    /// For several things at once, as HTTP/2 does.
    ForStreams,
    /// For what is not HTTP: its time ends elsewhere.
    Otherwise,
}

#[derive(Debug)]
struct State {
    waiting: Waiting,
    is_used: bool,
    /// Requests that are being answered.
    in_flight: usize,
    /// Since when a connection of HTTP/2 has had none.
    idle_since: Option<Instant>,
    /// What is to come yet of the beginning of HTTP/2, if nothing else has come so far.
    preface: &'static [u8],
}

impl Default for State {
    fn default() -> Self {
        Self { waiting: Waiting::default(), is_used: false, in_flight: 0, idle_since: None, preface: HTTP_2 }
    }
}

/// What a connection is waiting for, shared by whoever reads from it and whoever answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// A connection of HTTP/2 has become idle.
    idle: Notify,
}

impl Pace {
    /// A request has come. Its answer has been sent when what this returns is dropped.
    pub(crate) fn request(&self, is_alone: bool) -> Answering {
        let mut state = self.state();
        state.is_used = true;
        state.in_flight += 1;
        state.idle_since = None;
        state.waiting = if is_alone { Waiting::ForAnswer } else { Waiting::ForStreams };
        Answering(self.clone())
    }

    /// Whether a request has ever come.
    pub(crate) fn is_used(&self) -> bool {
        self.state().is_used
    }

    /// Whether it may carry several requests at once.
    pub(crate) fn is_shared(&self) -> bool {
        self.state().waiting == Waiting::ForStreams
    }

    /// Waits until a connection of HTTP/2 has had no request in flight for `limit`, counted from now at the earliest. A head
    /// that is never finished is no request, and nothing else can come after it (RFC 9113, section 6.10). Connections of
    /// HTTP/1.1 never end this.
    pub(crate) async fn idle_for(&self, limit: Duration) {
        let begun = Instant::now();
        loop {
            let since = self.state().idle_since;
            match since {
                Some(since) => {
                    sleep_until(since.max(begun) + limit).await;
                    if self.state().idle_since == Some(since) {
                        return;
                    }
                }
                None => self.0.idle.notified().await,
            }
        }
    }

    fn is_idle(&self, state: &mut State) {
        state.idle_since = Some(Instant::now());
        self.0.idle.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, so whatever is in there is whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Answering(Pace);

impl Answering {
    /// What follows the answer is no HTTP.
    pub(crate) fn switches(&self) {
        self.0.state().waiting = Waiting::Otherwise;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.in_flight -= 1;
        match state.waiting {
            Waiting::ForAnswer => state.waiting = Waiting::Idle,
            Waiting::ForStreams if state.in_flight == 0 => self.0.is_idle(&mut state),
            Waiting::ToBegin | Waiting::Idle | Waiting::ForHead | Waiting::ForStreams | Waiting::Otherwise => {}
        }
    }
}

/// A stream that fails with [`io::ErrorKind::TimedOut`] where its caller takes too long to begin, or to send a head once it
/// has begun.
#[derive(Debug)]
pub(crate) struct Paced<S> {
    stream: S,
    pace: Pace,
    head_timeout: Duration,
    runs_out: Pin<Box<Sleep>>,
}

impl<S> Paced<S> {
    /// A stream whose caller may take `begin_timeout` for its first byte, and `head_timeout` for the rest of each head.
    pub(crate) fn new(stream: S, pace: Pace, begin_timeout: Duration, head_timeout: Duration) -> Self {
        Self { stream, pace, head_timeout, runs_out: Box::pin(sleep(begin_timeout)) }
    }

    /// Takes note of what was read.
    fn have_read(&mut self, bytes: &[u8]) {
        let mut state = self.pace.state();
        let begins = match state.waiting {
            Waiting::ToBegin | Waiting::Idle => true,
            Waiting::ForHead => false,
            Waiting::ForAnswer | Waiting::ForStreams | Waiting::Otherwise => return,
        };
        state.waiting = Waiting::ForHead;
        let length = bytes.len().min(state.preface.len());
        let (expected, rest) = state.preface.split_at(length);
        let is_so_far = length > 0 && expected == &bytes[..length];
        state.preface = if is_so_far { rest } else { &[] };
        // All of it, as a caller that stopped on the way would never be looked at again.
        if is_so_far && rest.is_empty() {
            state.waiting = Waiting::ForStreams;
            self.pace.is_idle(&mut state);
        }
        drop(state);
        if begins {
            self.runs_out.as_mut().reset(Instant::now() + self.head_timeout);
        }
    }

    fn has_run_out(&mut self, context: &mut Context<'_>) -> bool {
        let waiting = self.pace.state().waiting;
        match waiting {
            Waiting::ToBegin | Waiting::ForHead => self.runs_out.as_mut().poll(context).is_ready(),
            Waiting::Idle | Waiting::ForAnswer | Waiting::ForStreams | Waiting::Otherwise => false,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if read.is_pending() {
            let error = || io::Error::new(io::ErrorKind::TimedOut, "the head of a request took too long");
            return if self.has_run_out(context) { Poll::Ready(Err(error())) } else { Poll::Pending };
        }
        if into.filled().len() > before {
            self.have_read(&into.filled()[before..]);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const BEGIN: Duration = Duration::from_secs(75);
    const HEAD: Duration = Duration::from_secs(10);

    fn paced() -> (DuplexStream, Paced<DuplexStream>, Pace) {
        let (caller, stream) = duplex(1024);
        let pace = Pace::default();
        (caller, Paced::new(stream, pace.clone(), BEGIN, HEAD), pace)
    }

    /// When reading failed for want of patience; None if it would have gone on for a day.
    async fn fails_after(stream: &mut Paced<DuplexStream>) -> Option<Duration> {
        let started = Instant::now();
        let mut bytes = [0; 64];
        let reading = async {
            while let Ok(read) = stream.read(&mut bytes).await {
                assert_ne!(read, 0, "the caller is still there");
            }
        };
        tokio::time::timeout(Duration::from_hours(24), reading).await.ok().map(|()| started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_says_nothing_is_waited_for_until_it_should_have_begun() {
        let (_caller, mut stream, _) = paced();
        assert_eq!(fails_after(&mut stream).await.map(|time| time.as_secs()), Some(75));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_from_its_first_byte_on_however_often_another_one_comes() {
        let (mut caller, mut stream, _) = paced();
        let trickle = tokio::spawn(async move {
            while caller.write_all(b"x").await.is_ok() {
                sleep(Duration::from_secs(3)).await;
            }
        });
        assert_eq!(fails_after(&mut stream).await.map(|time| time.as_secs()), Some(10));
        trickle.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_as_long_as_it_takes_and_then_the_next_head_has_its_time() {
        let (mut caller, mut stream, pace) = paced();
        caller.write_all(b"GET").await.unwrap();
        stream.read_u8().await.unwrap();
        let answering = pace.request(true);
        assert_eq!(fails_after(&mut stream).await, None);
        drop(answering);
        assert_eq!(fails_after(&mut stream).await, None, "hyper looks after a connection that is idle");
        caller.write_all(b"GET").await.unwrap();
        assert_eq!(fails_after(&mut stream).await.map(|time| time.as_secs()), Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_stops_while_it_begins_with_http_2_has_the_time_of_a_head() {
        for length in 1..HTTP_2.len() {
            let (mut caller, mut stream, _) = paced();
            caller.write_all(&HTTP_2[..length]).await.unwrap();
            assert_eq!(fails_after(&mut stream).await.map(|time| time.as_secs()), Some(10), "{length}");
        }
        let (mut caller, mut stream, _) = paced();
        caller.write_all(b"PRI /").await.unwrap();
        assert_eq!(fails_after(&mut stream).await.map(|time| time.as_secs()), Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_http_2_and_those_that_switched_are_left_alone() {
        let (mut caller, mut stream, _) = paced();
        for part in [&HTTP_2[..2], &HTTP_2[2..]] {
            caller.write_all(part).await.unwrap();
            assert_ne!(stream.read(&mut [0; 64]).await.unwrap(), 0);
        }
        assert_eq!(fails_after(&mut stream).await, None);

        let (mut caller, mut stream, pace) = paced();
        pace.request(true).switches();
        caller.write_all(b"hello").await.unwrap();
        assert_eq!(fails_after(&mut stream).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_of_http_2_is_idle_from_its_beginning_and_from_its_last_answer_on() {
        let (mut caller, mut stream, pace) = paced();
        let idle_for = |limit| tokio::time::timeout(Duration::from_hours(24), pace.idle_for(limit));
        let started = Instant::now();
        assert!(idle_for(BEGIN).await.is_err(), "nothing has begun");

        caller.write_all(HTTP_2).await.unwrap();
        assert_ne!(stream.read(&mut [0; 64]).await.unwrap(), 0);
        let began = Instant::now();
        assert_eq!((began - started).as_secs(), 24 * 3600);
        idle_for(BEGIN).await.unwrap();
        assert_eq!(began.elapsed(), BEGIN);

        let (first, second) = (pace.request(false), pace.request(false));
        assert!(idle_for(BEGIN).await.is_err(), "two requests are in flight");
        drop(first);
        assert!(idle_for(BEGIN).await.is_err(), "one request is in flight");
        drop(second);
        let ended = Instant::now();
        sleep(BEGIN).await;
        idle_for(HEAD).await.unwrap();
        assert_eq!(ended.elapsed(), BEGIN + HEAD, "whoever waits anew waits from now on");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_while_a_connection_is_idle_begins_its_time_anew() {
        let (mut caller, mut stream, pace) = paced();
        caller.write_all(HTTP_2).await.unwrap();
        assert_ne!(stream.read(&mut [0; 64]).await.unwrap(), 0);
        let requests = async {
            sleep(Duration::from_secs(70)).await;
            let answering = pace.request(false);
            sleep(Duration::from_secs(100)).await;
            drop(answering);
        };
        let started = Instant::now();
        tokio::join!(requests, pace.idle_for(BEGIN));
        assert_eq!(started.elapsed(), Duration::from_secs(70 + 100) + BEGIN);
    }
}

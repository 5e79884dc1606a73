//! One connection of a caller, from its first byte to its last: HTTP/1.1, HTTP/2 without TLS, or what it switched to.

use std::{
    fmt,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    Request, Response, StatusCode, Version,
    body::{Body, Incoming},
    header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
    time::sleep,
};
use tracing::debug;

use crate::{
    answer::{Answered, Streams},
    pace::{Pace, Paced},
    phase::Phase,
    server::Limits,
};

/// About the largest head of a request, in bytes: hyper looks after each read, and who sends more gets 431. Eight times
/// what load balancers and servers allow for one field, and little enough for many connections at once.
const LARGEST_HEAD: usize = 64 * 1024;

/// How many requests of HTTP/2 a caller may have in flight on one connection: the number that RFC 9113, section 6.5.2, has
/// as the least to recommend.
const MOST_STREAMS: u32 = 100;

/// How often a caller of HTTP/2 that says nothing is asked whether it is still there, and how long it has to answer. It would
/// not be noticed otherwise, as its connection has no idle time.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a caller of HTTP/2 whose connection was idle has to say that it knows of the end. Requests that were on the way
/// to us come meanwhile.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long a connection that has never carried a request may bring its first while we stop. It was accepted in good
/// faith a moment ago, and its request may be on the way; hyper alone would close it at once.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// What a connection does after an answer of 101, until both its sides have ended. A handler puts it into the extensions of
/// that answer, so that the server waits for it when it stops, and cuts it off in the end.
#[derive(Clone)]
pub struct Switched(Arc<Mutex<Option<Tunnel>>>);

type Tunnel = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Switched {
    /// Runs `tunnel` once the answer is sent.
    pub fn new(tunnel: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::pin(tunnel)))))
    }

    fn none() -> Self {
        Self(Arc::default())
    }

    fn put(&self, tunnel: Option<Tunnel>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = tunnel;
    }

    fn take(&self) -> Option<Tunnel> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// In the extensions of an answer: the connection is closed instead of it, as by a process that has died.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the handler would not answer")]
pub struct Aborted;

impl fmt::Debug for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switched").finish_non_exhaustive()
    }
}

/// Whether a connection is within the limit of how many there may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Admission {
    /// Its requests are answered.
    Within,
    /// It is told to come again.
    Beyond,
}

/// Serves one connection to its end.
pub(crate) async fn serve<H, F, B>(
    stream: TcpStream,
    peer: SocketAddr,
    admission: Admission,
    phase: watch::Receiver<Phase>,
    limits: Limits,
    handler: H,
) where
    H: Fn(Request<Incoming>, SocketAddr) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    set_options(&stream, peer, &limits);
    let (pace, switched, streams) = (Pace::default(), Switched::none(), Arc::new(Streams::default()));
    // A request of HTTP/2 was answered after callers have been told to look elsewhere.
    let asked_late = Arc::new(Notify::new());
    let stream = Paced::new(stream, pace.clone(), limits.idle_timeout, limits.head_timeout);
    let service =
        service_fn(|request: Request<Incoming>| {
            let is_http_1 = request.version() != Version::HTTP_2;
            let answering = pace.request(is_http_1);
            let answer = match admission {
                Admission::Within => Ok(handler(request, peer)),
                Admission::Beyond => Err(too_many()),
            };
            let (phase, switched) = (phase.clone(), switched.clone());
            let (asked_late, streams) = (Arc::clone(&asked_late), Arc::clone(&streams));
            async move {
                let mut response = match answer {
                    Ok(answer) => answer.await.map(Either::Left),
                    Err(refusal) => refusal.map(Either::Right),
                };
                if let Some(aborted) = response.extensions_mut().remove::<Aborted>() {
                    return Err(aborted);
                }
                let is_last = !phase.borrow().keeps_alive() || admission == Admission::Beyond;
                if is_last && is_http_1 {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                } else if is_last {
                    // HTTP/2 has a frame for it instead of a field (RFC 9113, section 6.8).
                    asked_late.notify_one();
                }
                if let Some(next) = response.extensions_mut().remove::<Switched>() {
                    answering.switches();
                    switched.put(next.take());
                }
                Ok::<_, Aborted>(response.map(|body| {
                    if is_http_1 { Answered::Alone { body, answering } } else { streams.add(body, answering) }
                }))
            }
        });
    let builder = builder(&limits);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let (mut stop, mut duck) = (phase.clone(), phase.clone());
    let lame_duck = async {
        if duck.wait_for(|phase| !phase.keeps_alive()).await.is_err() || !pace.is_used() || !pace.is_shared() {
            asked_late.notified().await;
        }
    };
    let until_end = async {
        tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = past_accepting(&mut stop) => {
                let first_request = async {
                    if !pace.is_used() {
                        sleep(FIRST_REQUEST).await;
                    }
                };
                tokio::select! {
                    biased;
                    // Its answer, should there be one, says Connection: close, so that it ends by itself.
                    ended = connection.as_mut() => ended,
                    () = first_request => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            }
            () = lame_duck => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = pace.idle_for(limits.idle_timeout) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    biased;
                    ended = connection.as_mut() => ended,
                    () = pace.idle_for(FAREWELL.min(limits.idle_timeout)) => Ok(()),
                }
            }
        }
    };
    let ended = tokio::select! {
        biased;
        ended = until_end => ended,
        never = streams.watch(limits.body_idle_timeout) => never,
    };
    match ended {
        Ok(()) => {
            if let Some(tunnel) = switched.take() {
                tunnel.await;
            }
        }
        // The caller went away, or sent what is no HTTP. Neither is our fault, and both are common.
        Err(error) => debug!(%peer, %error, "connection ended"),
    }
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.idle_timeout).max_buf_size(LARGEST_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MOST_STREAMS)
        .max_header_list_size(u32::try_from(LARGEST_HEAD).unwrap_or(u32::MAX));
    builder
}

fn set_options(stream: &TcpStream, peer: SocketAddr, limits: &Limits) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, %error, "answers may be delayed");
    }
    // For a caller that is gone, and for one that takes nothing: the kernel counts a window that stays closed, too.
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(limits.body_idle_timeout)) {
        debug!(%peer, %error, "a caller that takes nothing may be noticed late");
    }
}

pub(crate) async fn past_accepting(phase: &mut watch::Receiver<Phase>) {
    // It fails when nobody can change the phase any more: then nobody can ask for a stop either.
    if phase.wait_for(|phase| !phase.accepts()).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn too_many() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("too many connections\n"));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

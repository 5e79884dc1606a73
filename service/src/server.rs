//! An HTTP/1.1 server that goes through the phases without cutting anybody off.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::sleep,
};
use tracing::{debug, warn};

use crate::phase::Phase;

/// How long a connection may take for a request's head, and how long it may be idle: hyper has one timer for both.
///
/// Longer than a load balancer keeps its idle connections (60 seconds for an AWS Application Load Balancer), or it
/// would send requests on connections that we are closing.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);

/// About the largest head of a request, in bytes: hyper looks after each read, and who sends more gets 431. Eight times what load balancers and servers allow
/// for one field, and little enough for many connections at once.
const LARGEST_HEAD: usize = 64 * 1024;

/// How long a connection that has never carried a request may bring its first while we stop. It was accepted in good
/// faith a moment ago, and its request may be on the way; hyper alone would close it at once.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// How long to wait when no connection can be accepted, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How the stop went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stopped {
    /// Connections that were still in use and were cut off: at the drain timeout, or by a second stop signal.
    pub cut_off: usize,
}

/// Serves until the phase is past accepting and every request in flight is answered, or `drain_timeout` after that.
pub async fn serve<H, F, B>(
    listener: TcpListener,
    mut phase: watch::Receiver<Phase>,
    drain_timeout: Duration,
    handler: H,
) -> Stopped
where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let start = |connections: &mut JoinSet<()>, stream, peer| {
        connections.spawn(connection(stream, peer, phase.clone(), handler.clone()));
    };
    let mut stop = phase.clone();
    let mut stopping = pin!(past_accepting(&mut stop));
    loop {
        tokio::select! {
            biased;
            () = &mut stopping => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => start(&mut connections, stream, peer),
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            // Forgets those that have ended.
            Some(_) = connections.join_next() => {}
        }
    }
    // Whoever is in the queue has connected: closing the socket now would reset them.
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        start(&mut connections, stream, peer);
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    tokio::select! {
        biased;
        () = finished => {}
        () = sleep(drain_timeout) => {}
        _ = phase.wait_for(|phase| *phase == Phase::Leaving) => {}
    }
    let cut_off = connections.len();
    connections.shutdown().await;
    Stopped { cut_off }
}

async fn past_accepting(phase: &mut watch::Receiver<Phase>) {
    // It fails when nobody can change the phase any more: then nobody can ask for a stop either.
    if phase.wait_for(|phase| !phase.accepts()).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Serves one connection to its end.
async fn connection<H, F, B>(stream: TcpStream, peer: SocketAddr, phase: watch::Receiver<Phase>, handler: H)
where
    H: Fn(Request<Incoming>, SocketAddr) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, %error, "answers may be delayed");
    }
    let used = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request| {
        used.store(true, Ordering::Relaxed);
        let answer = handler(request, peer);
        let phase = phase.clone();
        async move {
            let mut response = answer.await;
            if !phase.borrow().keeps_alive() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut stop = phase.clone();
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = past_accepting(&mut stop) => {
            if !used.load(Ordering::Relaxed) {
                // Its answer, should there be one, says Connection: close, so that it ends by itself.
                tokio::select! {
                    biased;
                    _ = connection.as_mut() => return,
                    () = sleep(FIRST_REQUEST) => {}
                }
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // The caller went away, or sent what is no HTTP. Neither is our fault, and both are common.
        debug!(%peer, %error, "connection ended");
    }
}

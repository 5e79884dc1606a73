//! The edge to the tasks: one connection, requests out and answers in. It decides nothing.

use std::{
    error::Error as _,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{CONTENT_TYPE, HeaderName},
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpStream, task::AbortHandle, time::timeout};

use crate::request::Failure;

/// The header in which a task says who it is.
const TASK_ID: HeaderName = HeaderName::from_static("x-task-id");

/// The largest refusal of a front that is read for its causes.
const MOST_READ: usize = 64 * 1024;

/// A connection. It is closed with its handle.
#[derive(Debug)]
pub(super) struct Open {
    sender: SendRequest<Empty<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) failure: Failure,
    /// In words.
    pub(super) cause: String,
}

/// An answer that came to its end.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// Who answered.
    pub(super) task: Option<String>,
    /// What a front said of the tasks that it asked in vain.
    pub(super) refusal: Option<Refusal>,
}

/// A front's own answer in place of a task's: `front` writes it so, other fronts may.
#[derive(Debug, Deserialize)]
pub(super) struct Refusal {
    /// In words.
    pub(super) cause: String,
    #[serde(default)]
    pub(super) attempts: Vec<RefusedAttempt>,
}

/// One of a front's attempts.
#[derive(Debug, Deserialize)]
pub(super) struct RefusedAttempt {
    address: SocketAddr,
    cause: String,
}

impl RefusedAttempt {
    /// At whom it was. None for an address of IPv6, which a rehearsal does not have.
    pub(super) fn address(&self) -> Option<Ipv4Addr> {
        match self.address {
            SocketAddr::V4(address) => Some(*address.ip()),
            SocketAddr::V6(_) => None,
        }
    }

    /// How it failed, by the words of `front`.
    pub(super) fn failure(&self) -> Failure {
        let words = [
            ("Connection refused", Failure::Refused),
            ("no connection within", Failure::Unreachable),
            ("No route to host", Failure::Unreachable),
            ("Network is unreachable", Failure::Unreachable),
            ("no answer within", Failure::TimedOut),
            // hyper's words, and the kernel's.
            ("connection closed before message completed", Failure::NoAnswer),
            ("connection was not ready", Failure::NoAnswer),
            ("operation was canceled", Failure::NoAnswer),
            ("Connection reset", Failure::NoAnswer),
            ("Broken pipe", Failure::NoAnswer),
        ];
        let found = words.into_iter().find(|(words, _)| self.cause.contains(words));
        found.map_or(Failure::Other, |(_, failure)| failure)
    }
}

impl Open {
    /// Connects, within `limit`.
    pub(super) async fn to(address: SocketAddrV4, limit: Duration) -> Result<Self, Trouble> {
        let stream = match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let failure = not_connected(error.kind());
                return Err(Trouble { failure, cause: format!("cannot connect: {error}") });
            }
            Err(_) => {
                let cause = format!("no connection within {}", humantime::format_duration(limit));
                return Err(Trouble { failure: Failure::Unreachable, cause });
            }
        };
        let other = |cause| Trouble { failure: Failure::Other, cause };
        stream.set_nodelay(true).map_err(|error| other(error.to_string()))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| other(in_words(&error)))?;
        let driver = tokio::spawn(async move {
            // Whoever uses the connection is told.
            let _ = connection.await;
        });
        Ok(Self { sender, driver: driver.abort_handle() })
    }

    /// Whether its other end has closed it.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until what came before is behind it. False if it was closed.
    pub(super) async fn is_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Asks, and reads the answer to its end. A refusal is that of a front alone.
    pub(super) async fn get(&mut self, request: Request<Empty<Bytes>>, is_front: bool) -> Result<Reply, Trouble> {
        let mut response = self.sender.send_request(request).await.map_err(|error| {
            // The end of a connection within the head counts as one before it: hyper does not tell them apart, and a head
            // is one write, so that no task is killed within it.
            let failure = if error.is_parse() || error.is_user() { Failure::Other } else { Failure::NoAnswer };
            Trouble { failure, cause: in_words(&error) }
        })?;
        let headers = response.headers();
        let task = headers.get(TASK_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let is_json = headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
        let status = response.status().as_u16();
        let may_be_refusal = is_front && is_json && matches!(status, 502..=504);
        let body = read(&mut response, if may_be_refusal { MOST_READ } else { 0 }).await?;
        let refusal = if may_be_refusal { serde_json::from_slice(&body).ok() } else { None };
        Ok(Reply { status, task, refusal })
    }
}

fn not_connected(kind: ErrorKind) -> Failure {
    use ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut};
    if kind == ConnectionRefused {
        Failure::Refused
    } else if matches!(kind, HostUnreachable | NetworkUnreachable | TimedOut) {
        Failure::Unreachable
    } else if kind == ConnectionReset {
        // The kernel had accepted it, and the process ended before it took it.
        Failure::NoAnswer
    } else {
        Failure::Other
    }
}

/// Reads a body to its end, and keeps its first bytes.
async fn read(response: &mut Response<Incoming>, most_kept: usize) -> Result<Vec<u8>, Trouble> {
    let mut kept = Vec::new();
    while let Some(frame) = response.frame().await {
        let frame = frame.map_err(|error| Trouble { failure: Failure::CutOff, cause: in_words(&error) })?;
        if let Some(data) = frame.data_ref() {
            kept.extend_from_slice(&data[..data.len().min(most_kept - kept.len())]);
        }
    }
    Ok(kept)
}

/// An error with its causes: hyper's own words alone do not say what the kernel said.
fn in_words(error: &hyper::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        words = format!("{words}: {cause}");
        next = cause.source();
    }
    words
}

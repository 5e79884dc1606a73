//! Who answers a request: front itself, or one of the tasks.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{Either, Empty as NoBody, Full};
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Body, Frame, Incoming, SizeHint},
    header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::{
    access::{Access, Outcome},
    backend::{Answer, Backend, Connection, Failed},
    cli::BackendUrl,
    discovery::Discovery,
    endpoints::Empty,
    headers::{Outgoing, drop_hop_by_hop, objection},
    retry::{Failure, may_retry},
};

/// The header in which a task says who it is.
const TASK_ID: HeaderName = HeaderName::from_static("x-task-id");

/// The body of an answer: our own, or a task's.
pub type AnswerBody = Either<Full<Bytes>, Passing>;

/// All that is needed to answer.
#[derive(Debug)]
pub struct Front {
    /// Where requests go.
    pub url: BackendUrl,
    /// Which addresses there are.
    pub discovery: Arc<Discovery>,
    /// The connections to them.
    pub backend: Arc<Backend>,
    /// How long a request may take until its answer begins.
    pub request_timeout: Duration,
}

/// One address that was asked in vain.
struct Attempt {
    address: SocketAddr,
    cause: String,
}

impl Front {
    /// Answers one request of `caller`.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>, caller: SocketAddr) -> Response<AnswerBody> {
        match request.uri().path() {
            "/health" => own_health(request.method()),
            _ => self.pass_on(request, caller).await,
        }
    }

    /// Sends the request to one task after the other until one answers, as far as that is safe.
    async fn pass_on(&self, request: Request<Incoming>, caller: SocketAddr) -> Response<AnswerBody> {
        let mut access = Access::new(&request, caller.ip());
        if let Some((status, cause)) = objection(&request) {
            return self.refuse(access, status, cause, &[]);
        }
        let deadline = Instant::now() + self.request_timeout;
        let outgoing = Outgoing::new(&request, caller.ip(), &self.url.authority);
        let body = request.into_body();
        let is_replayable = body.is_end_stream();
        let mut next = outgoing.request(Either::Left(body));
        let mut tried = Vec::new();
        let mut attempts: Vec<Attempt> = Vec::new();
        let mut sent = 0;
        loop {
            let Some(in_flight) = InFlight::choose(&self.discovery, &tried) else {
                return self.nobody_left(access, &attempts);
            };
            let address = in_flight.address;
            tried.push(address);
            access.attempts = tried.len();
            let is_repeatable = outgoing.is_idempotent() && is_replayable;
            let sending = async {
                match self.backend.send(address, next, Connection::Any).await {
                    // The task closed a connection that had been idle, just as the request came. It may be well.
                    Err(failed) if failed.was_reused && failed.failure == Failure::NoAnswer && is_repeatable => {
                        let again = outgoing.request(Either::Right(NoBody::new()));
                        self.backend.send(address, again, Connection::New).await
                    }
                    result => result,
                }
            };
            let failed = match timeout_at(deadline, sending).await {
                // Nobody asked for another protocol, and what follows would be in it.
                Ok(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    let cause = "switched to another protocol unasked".to_owned();
                    Failed { failure: Failure::Garbage, cause, request: None, was_reused: false }
                }
                Ok(Ok(mut response)) => {
                    drop_hop_by_hop(response.headers_mut());
                    // The version is that of the connection, not of the message (RFC 9110, section 2.5).
                    *response.version_mut() = Version::HTTP_11;
                    access.status = Some(response.status());
                    access.address = Some(address);
                    self.discovery.succeeded(address, response.status().is_server_error());
                    access.task_id = response.headers().get(TASK_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
                    return response.map(|body| Either::Right(Passing { body, access, _in_flight: in_flight }));
                }
                Ok(Err(failed)) => *failed,
                Err(_) => {
                    let cause = format!("no answer within {}", humantime::format_duration(self.request_timeout));
                    Failed { failure: Failure::TimedOut, cause, request: None, was_reused: false }
                }
            };
            let Failed { failure, cause, request, was_reused: _ } = failed;
            if failure == Failure::NotConnected {
                self.discovery.failed(address, &self.backend);
            }
            debug!(%address, cause, ?failure, "attempt failed");
            attempts.push(Attempt { address, cause });
            sent += usize::from(failure.may_have_been_sent());
            if !may_retry(failure, outgoing.is_idempotent(), is_replayable, sent) {
                let status = match failure {
                    Failure::TimedOut => StatusCode::GATEWAY_TIMEOUT,
                    Failure::BadBody => StatusCode::BAD_REQUEST,
                    Failure::NotConnected | Failure::NotSent | Failure::NoAnswer | Failure::Garbage => {
                        StatusCode::BAD_GATEWAY
                    }
                };
                let cause = match failure {
                    Failure::BadBody => format!("the request's body broke off: {}", attempts[attempts.len() - 1].cause),
                    Failure::NotConnected
                    | Failure::NotSent
                    | Failure::NoAnswer
                    | Failure::Garbage
                    | Failure::TimedOut => format!("{address}: {}", attempts[attempts.len() - 1].cause),
                };
                return self.refuse(access, status, &cause, &attempts);
            }
            next = request.unwrap_or_else(|| outgoing.request(Either::Right(NoBody::new())));
        }
    }

    /// Every address has been tried, or there is none.
    fn nobody_left(&self, access: Access, attempts: &[Attempt]) -> Response<AnswerBody> {
        if let Some(last) = attempts.last() {
            let cause =
                format!("none of {} addresses could be asked; {}: {}", attempts.len(), last.address, last.cause);
            return self.refuse(access, StatusCode::BAD_GATEWAY, &cause, attempts);
        }
        let cause = match self.discovery.endpoints().empty() {
            Some(Empty::NotAskedYet) => "its name has not been looked up yet".to_owned(),
            Some(Empty::Failed(error)) => format!("its name cannot be looked up: {error}"),
            Some(Empty::Absent) | None => "its name has no address".to_owned(),
        };
        self.refuse(access, StatusCode::SERVICE_UNAVAILABLE, &cause, attempts)
    }

    /// Our own answer in place of a task's: what went wrong, as JSON and in the log.
    fn refuse(
        &self,
        mut access: Access,
        status: StatusCode,
        cause: &str,
        attempts: &[Attempt],
    ) -> Response<AnswerBody> {
        let attempts: Vec<_> = attempts
            .iter()
            .map(|Attempt { address, cause }| json!({ "address": address.to_string(), "cause": cause }))
            .collect();
        let body = json!({
            "error": status.canonical_reason(),
            "status": status.as_u16(),
            "backend": self.url.to_string(),
            "cause": cause,
            "attempts": attempts,
        });
        let body = format!("{body}\n");
        access.status = Some(status);
        access.cause = Some(cause.to_owned());
        access.bytes = body.len();
        access.outcome = Outcome::Answered;
        let mut response = own(status, "application/json", body);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Front's own health, for the load balancer before it. It does not speak for the backend: taking front away would not
/// bring a task back.
fn own_health(method: &Method) -> Response<AnswerBody> {
    debug!(%method, "health check");
    if [Method::GET, Method::HEAD].contains(method) {
        return own(StatusCode::OK, "text/plain; charset=utf-8", "healthy\n".to_owned());
    }
    let body = format!("{method} is not allowed: GET is\n");
    let mut response = own(StatusCode::METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", body);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn own(status: StatusCode, content_type: &'static str, body: String) -> Response<AnswerBody> {
    let mut response = Response::new(Either::Left(Full::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A request on its way to an address, which counts until this is dropped.
#[derive(Debug)]
struct InFlight {
    discovery: Arc<Discovery>,
    address: SocketAddr,
}

impl InFlight {
    fn choose(discovery: &Arc<Discovery>, tried: &[SocketAddr]) -> Option<Self> {
        let now = Instant::now().into_std();
        let address = discovery.endpoints().choose(tried, now, |n| fastrand::usize(..n))?;
        Some(Self { discovery: Arc::clone(discovery), address })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.discovery.endpoints().release(self.address);
    }
}

/// A task's body on its way to the caller. Its end ends the request: in the log, and among those in flight.
#[derive(Debug)]
pub struct Passing {
    body: Answer,
    access: Access,
    _in_flight: InFlight,
}

impl Body for Passing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => self.access.bytes += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) => self.access.outcome = Outcome::CutOff,
            None => self.access.outcome = Outcome::Answered,
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

impl Drop for Passing {
    fn drop(&mut self) {
        // The server does not ask again for a body that said it was at its end.
        if self.access.outcome == Outcome::CallerGone && self.body.is_end_stream() {
            self.access.outcome = Outcome::Answered;
        }
    }
}

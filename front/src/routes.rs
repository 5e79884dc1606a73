//! Who answers a request: front itself, or one of the tasks.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tracing::debug;

use crate::{
    access::{Access, Outcome},
    backend::{Answer, Backend},
    calls::{Attempt, Calls, Gone, InFlight, Sendable},
    cli::BackendUrl,
    discovery::Discovery,
    endpoints::Empty,
    headers::{Outgoing, X_REQUEST_ID, objection, request_id},
    metrics::Metrics,
    retry::Budget,
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
    /// How long one task may take before another is asked beside it, where that is safe.
    pub answer_timeout: Duration,
    /// To how many addresses one request may go at the most.
    pub max_attempts: usize,
    /// How many requests may be sent twice.
    pub budget: Mutex<Budget>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// A permit for each request that may be in flight.
    pub permits: Arc<Semaphore>,
}

/// The largest body that is kept, so that it can be sent again.
const MOST_KEPT: u64 = 64 * 1024;

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
        let id = request_id(&request, fastrand::u128(..));
        let mut response = self.ask_tasks(request, caller, &id).await;
        response.headers_mut().entry(X_REQUEST_ID).or_insert(id);
        response
    }

    async fn ask_tasks(
        &self,
        request: Request<Incoming>,
        caller: SocketAddr,
        id: &HeaderValue,
    ) -> Response<AnswerBody> {
        let mut access = Access::new(&request, caller.ip(), id, Arc::clone(&self.metrics));
        if let Some((status, cause)) = objection(&request) {
            return self.refuse(access, status, cause, &[]);
        }
        // Refused at once, as those that wait would only fill the memory.
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            let cause = "as many requests as --max-in-flight allows are in flight";
            return self.refuse(access, StatusCode::SERVICE_UNAVAILABLE, cause, &[]);
        };
        let deadline = Instant::now() + self.request_timeout;
        self.budget().request(Instant::now().into_std());
        let outgoing = Outgoing::new(&request, caller.ip(), &self.url.authority, id);
        let body = match self.take_body(request.into_body(), outgoing.is_idempotent(), deadline).await {
            Ok(body) => body,
            Err((status, cause)) => return self.refuse(access, status, &cause, &[]),
        };
        let mut calls = Calls { front: self, outgoing: &outgoing, body, tried: vec![], failed: vec![], sent: 0 };
        let result = calls.first_answer(deadline).await;
        access.attempts = calls.tried.len();
        match result {
            Ok((in_flight, response)) => {
                access.status = Some(response.status());
                access.address = Some(in_flight.address);
                access.task_id = response.headers().get(TASK_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
                response.map(|body| Either::Right(Passing { body, access, _in_flight: in_flight, _permit: permit }))
            }
            Err(Gone::Refused(status, cause)) => self.refuse(access, status, &cause, &calls.failed),
            Err(Gone::NobodyLeft) => self.nobody_left(access, &calls.failed),
        }
    }

    /// The body of a request, here if it is small and may have to be sent again.
    async fn take_body(
        &self,
        body: Incoming,
        is_idempotent: bool,
        deadline: Instant,
    ) -> Result<Sendable, (StatusCode, String)> {
        if body.is_end_stream() {
            return Ok(Sendable::AgainAndAgain(Bytes::new()));
        }
        if !is_idempotent || body.size_hint().exact().is_none_or(|length| length > MOST_KEPT) {
            return Ok(Sendable::Once(Some(body)));
        }
        match timeout_at(deadline, body.collect()).await {
            Ok(Ok(whole)) => Ok(Sendable::AgainAndAgain(whole.to_bytes())),
            Ok(Err(error)) => Err((StatusCode::BAD_REQUEST, format!("the request's body broke off: {error}"))),
            Err(_) => {
                let limit = humantime::format_duration(self.request_timeout);
                Err((StatusCode::REQUEST_TIMEOUT, format!("the request's body did not come within {limit}")))
            }
        }
    }

    pub(crate) fn budget(&self) -> MutexGuard<'_, Budget> {
        // Nothing panics while it holds the lock, so whatever is in there is whole.
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A task's body on its way to the caller. Its end ends the request: in the log, and among those in flight.
#[derive(Debug)]
pub struct Passing {
    body: Answer,
    access: Access,
    _in_flight: InFlight,
    _permit: OwnedSemaphorePermit,
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

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
    Method, Request, Response, StatusCode, Version,
    body::{Body, Frame, Incoming, SizeHint},
    header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, UPGRADE},
    upgrade::{self, OnUpgrade},
};
use pin_project_lite::pin_project;
use serde_json::json;
use service::connection::Switched;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tracing::debug;

use crate::{
    access::{Access, Outcome},
    backend::{Answer, Backend, Protocol},
    body::{BodyError, Stalled, Timed},
    calls::{Attempt, Calls, Gone, InFlight, Sendable},
    cli::BackendUrl,
    discovery::Discovery,
    endpoints::Empty,
    headers::{Outgoing, X_REQUEST_ID, objection, request_id},
    metrics::Metrics,
    retry::Budget,
    tunnel,
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
    /// What they speak.
    pub protocol: Protocol,
    /// How long a request may take until its answer begins.
    pub request_timeout: Duration,
    /// How long one task may take before another is asked beside it, where that is safe.
    pub answer_timeout: Duration,
    /// How long a task may take to say whether it wants a body that waits for it.
    pub continue_timeout: Duration,
    /// How long a body may bring nothing, in either direction.
    pub body_idle_timeout: Duration,
    /// How long caller and task may both say nothing, once they have switched to another protocol.
    pub tunnel_idle_timeout: Duration,
    /// How long a request to which nobody is left waits for DNS to name somebody.
    pub wait_for_task: Duration,
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
        mut request: Request<Incoming>,
        caller: SocketAddr,
        id: &HeaderValue,
    ) -> Response<AnswerBody> {
        let mut access = Access::new(&request, caller.ip(), id, Arc::clone(&self.metrics));
        if let Some((status, cause)) = objection(&request) {
            let mut refusal = self.refuse(access, status, cause, &[]);
            if request.version() != Version::HTTP_2 {
                // Whoever passed it on to us may see its end elsewhere, and then what follows is no request either.
                refusal.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            return refusal;
        }
        // Refused at once, as those that wait would only fill the memory.
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            let cause = "as many requests as --max-in-flight allows are in flight";
            return self.refuse(access, StatusCode::SERVICE_UNAVAILABLE, cause, &[]);
        };
        let deadline = Instant::now() + self.request_timeout;
        self.budget().request(Instant::now().into_std());
        let caller_side = request.headers().contains_key(UPGRADE).then(|| upgrade::on(&mut request));
        let (head, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        let outgoing = Outgoing::new(head, has_body, caller.ip(), &self.url.authority, id, self.protocol);
        let body = match self.take_body(body, &outgoing, deadline).await {
            Ok(body) => body,
            Err((status, cause)) => return self.refuse(access, status, &cause, &[]),
        };
        let mut calls = Calls::new(self, outgoing, body);
        let result = calls.first_answer(deadline).await;
        access.attempts = calls.attempts;
        match result {
            Ok((in_flight, response)) => {
                access.status = Some(response.status());
                access.address = Some(in_flight.address);
                access.task_id = response.headers().get(TASK_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
                if let Some(caller_side) = caller_side
                    && response.status() == StatusCode::SWITCHING_PROTOCOLS
                {
                    return self.switch(response, caller_side, access, (in_flight, permit));
                }
                let body_idle_timeout = self.body_idle_timeout;
                response.map(|body| {
                    let body = Timed::new(body, body_idle_timeout);
                    Either::Right(Passing { body, access, in_flight, permit })
                })
            }
            Err(Gone::Refused(status, cause)) => self.refuse(access, status, &cause, &calls.failed),
            Err(Gone::NobodyLeft) => self.nobody_left(access, &calls.failed),
        }
    }

    /// Lets caller and task speak to each other. `held` counts as in flight for as long as they do.
    fn switch(
        &self,
        mut response: Response<Answer>,
        caller_side: OnUpgrade,
        access: Access,
        held: (InFlight, OwnedSemaphorePermit),
    ) -> Response<AnswerBody> {
        let task_side = upgrade::on(&mut response);
        let idle_timeout = self.tunnel_idle_timeout;
        let mut response = response.map(|_nothing| Either::Left(Full::default()));
        response.extensions_mut().insert(Switched::new(async move {
            tunnel::join(caller_side, task_side, idle_timeout, access).await;
            drop(held);
        }));
        response
    }

    /// The body of a request, here if it is small and may have to be sent again. One that waits for a task's leave does so.
    async fn take_body(
        &self,
        body: Incoming,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<Sendable, (StatusCode, String)> {
        if body.is_end_stream() {
            return Ok(Sendable::AgainAndAgain(Bytes::new()));
        }
        let is_small = body.size_hint().exact().is_some_and(|length| length <= MOST_KEPT);
        // With HTTP/2 a task may say that it has not acted on a request, and then any of them is sent again.
        let may_be_sent_again = outgoing.is_idempotent() || self.protocol == Protocol::H2c;
        if !is_small || !may_be_sent_again || outgoing.expects_continue() {
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

pin_project! {
    /// A task's body on its way to the caller. Its end ends the request: in the log, and among those in flight.
    #[derive(Debug)]
    pub struct Passing {
        #[pin]
        body: Timed<Answer>,
        access: Access,
        in_flight: InFlight,
        permit: OwnedSemaphorePermit,
    }

    impl PinnedDrop for Passing {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            // The server does not ask again for a body that said it was at its end.
            // Nor for one of HTTP/2 that has all its bytes, though its end may come in a frame of its own.
            let is_whole = this.body.is_end_stream() || this.body.size_hint().exact() == Some(0);
            if this.access.outcome == Outcome::CallerGone && is_whole {
                this.access.outcome = Outcome::Answered;
            }
        }
    }
}

impl Body for Passing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(context));
        match &frame {
            Some(Ok(frame)) => this.access.bytes += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(error)) if Stalled::is_behind(error.as_ref()) => this.access.outcome = Outcome::Stalled,
            Some(Err(_)) => this.access.outcome = Outcome::CutOff,
            None => this.access.outcome = Outcome::Answered,
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

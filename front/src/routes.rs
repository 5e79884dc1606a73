//! Who answers a request: front itself, or one of the tasks.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http_body_util::{BodyExt, Either, Full};
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Body, Frame, Incoming, SizeHint},
    header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout_at},
};
use tracing::debug;

use crate::{
    access::{Access, Outcome},
    backend::{Answer, Backend, Connection, Failed, RequestBody},
    cli::BackendUrl,
    discovery::Discovery,
    endpoints::Empty,
    headers::{Outgoing, X_REQUEST_ID, drop_hop_by_hop, objection, request_id},
    metrics::{Metrics, Retry},
    retry::{Budget, Failure, MOST_SENT, may_retry},
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
        let id = request_id(&request, fastrand::u128(..));
        let mut response = self.first_answer(request, caller, &id).await;
        response.headers_mut().entry(X_REQUEST_ID).or_insert(id);
        response
    }

    async fn first_answer(
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

    fn budget(&self) -> MutexGuard<'_, Budget> {
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

/// A request's body.
enum Sendable {
    /// As it comes from the caller.
    Once(Option<Incoming>),
    /// All of it is here.
    AgainAndAgain(Bytes),
}

/// Why there is no task's answer.
enum Gone {
    /// This is to be said.
    Refused(StatusCode, String),
    /// Every address has been tried, or there is none.
    NobodyLeft,
}

/// One request on its way to one task after the other, or to several.
struct Calls<'a> {
    front: &'a Front,
    outgoing: &'a Outgoing,
    body: Sendable,
    tried: Vec<SocketAddr>,
    failed: Vec<Attempt>,
    /// To how many tasks it was sent, so far as they may have seen it.
    sent: usize,
}

/// What to wait for.
#[expect(clippy::large_enum_variant, reason = "it lives for a moment, on the stack")]
enum Next {
    Ended(InFlight, Result<Response<Answer>, Box<Failed>>),
    /// Those that are asked are taking long.
    Late,
    /// Some address has failed.
    Failure,
    Deadline,
}

impl Calls<'_> {
    /// Asks one task, and another one as long as that is safe: at once where the first one failed, and beside it where it
    /// is late or its address has failed for somebody else. The first answer wins.
    async fn first_answer(&mut self, deadline: Instant) -> Result<(InFlight, Response<Answer>), Gone> {
        let front = self.front;
        let mut under_way = FuturesUnordered::new();
        let mut unsent = None;
        let mut asks = true;
        let mut late_at = None;
        // Those that were late, or have failed for others.
        let mut doubted: Vec<SocketAddr> = Vec::new();
        loop {
            if asks {
                let next = || InFlight::choose(&front.discovery, &self.tried);
                if let Some(in_flight) = (self.tried.len() < front.max_attempts).then(next).flatten() {
                    self.tried.push(in_flight.address);
                    late_at = self.is_repeatable().then(|| Instant::now() + front.answer_timeout);
                    let request = unsent.take().or_else(|| self.request());
                    // None only if a body that came once was asked for twice, which no rule allows.
                    let Some(request) = request else { return Err(Gone::NobodyLeft) };
                    under_way.push(self.ask(in_flight, request));
                } else if under_way.is_empty() {
                    return Err(Gone::NobodyLeft);
                }
                asks = false;
            }
            let next = tokio::select! {
                biased;
                Some((in_flight, result)) = under_way.next() => Next::Ended(in_flight, result),
                () = sleep_until(deadline) => Next::Deadline,
                () = sleep_until(late_at.unwrap_or(deadline)), if late_at.is_some() => Next::Late,
                () = front.discovery.failure(), if late_at.is_some() => Next::Failure,
            };
            match next {
                Next::Ended(in_flight, Ok(response)) => {
                    front.metrics.attempt(Ok(response.status()));
                    front.discovery.succeeded(in_flight.address, response.status().is_server_error());
                    // Somebody else has answered the same question: it is not the question that takes long.
                    let has_failed = |address| self.failed.iter().any(|attempt| attempt.address == address);
                    for address in doubted {
                        if address != in_flight.address && !has_failed(address) {
                            front.discovery.failed(address, &front.backend);
                        }
                    }
                    return Ok((in_flight, response));
                }
                Next::Ended(in_flight, Err(failed)) => {
                    let address = in_flight.address;
                    drop(in_flight);
                    asks = self.may_ask_again(address, &failed);
                    let failure = failed.failure;
                    self.failed.push(Attempt { address, cause: failed.cause });
                    unsent = failed.request;
                    if !asks && under_way.is_empty() {
                        return Err(self.refused(failure));
                    }
                }
                Next::Late => {
                    late_at = None;
                    doubted.clone_from(&self.tried);
                    asks = self.may_ask_beside(under_way.len(), Retry::Late);
                }
                Next::Failure => {
                    let now = Instant::now().into_std();
                    let endpoints = front.discovery.endpoints();
                    let is_doubtful = |address: &&SocketAddr| endpoints.is_set_aside(**address, now);
                    let news = self
                        .tried
                        .iter()
                        .filter(|address| !doubted.contains(address))
                        .any(|address| is_doubtful(&address));
                    drop(endpoints);
                    if news {
                        doubted.clone_from(&self.tried);
                        asks = self.may_ask_beside(under_way.len(), Retry::AddressFailed);
                    }
                }
                Next::Deadline => {
                    front.metrics.attempt(Err(Failure::TimedOut));
                    let cause = format!("no answer within {}", humantime::format_duration(front.request_timeout));
                    if let Some(address) = self.tried.last() {
                        self.failed.push(Attempt { address: *address, cause });
                    }
                    return Err(self.refused(Failure::TimedOut));
                }
            }
        }
    }

    /// Whether asking twice is the same as asking once, and the body is here.
    fn is_repeatable(&self) -> bool {
        self.outgoing.is_idempotent() && matches!(self.body, Sendable::AgainAndAgain(_))
    }

    fn request(&mut self) -> Option<Request<RequestBody>> {
        let body = match &mut self.body {
            Sendable::Once(body) => Either::Left(body.take()?),
            Sendable::AgainAndAgain(body) => Either::Right(Full::new(body.clone())),
        };
        Some(self.outgoing.request(body))
    }

    /// Asks the task of `in_flight`. Nothing of `self` is held meanwhile.
    fn ask<'b>(
        &self,
        in_flight: InFlight,
        request: Request<RequestBody>,
    ) -> impl Future<Output = (InFlight, Result<Response<Answer>, Box<Failed>>)> + use<'b>
    where
        Self: 'b,
    {
        let backend = Arc::clone(&self.front.backend);
        let once_more = match &self.body {
            Sendable::AgainAndAgain(body) if self.outgoing.is_idempotent() => {
                Some(self.outgoing.request(Either::Right(Full::new(body.clone()))))
            }
            Sendable::AgainAndAgain(_) | Sendable::Once(_) => None,
        };
        async move {
            let address = in_flight.address;
            let mut result = backend.send(address, request, Connection::Any).await;
            // The task closed a connection that had been idle, just as the request came. It may be well.
            if let (Err(failed), Some(again)) = (&result, once_more)
                && failed.was_reused
                && failed.failure == Failure::NoAnswer
            {
                result = backend.send(address, again, Connection::New).await;
            }
            (in_flight, result.and_then(acceptable))
        }
    }

    /// Takes note of a failure. Whether another task may be asked.
    fn may_ask_again(&mut self, address: SocketAddr, failed: &Failed) -> bool {
        let Failed { failure, cause, was_reused, .. } = failed;
        debug!(%address, cause, ?failure, "attempt failed");
        self.front.metrics.attempt(Err(*failure));
        // That a connection ended which had served before says nothing about the task.
        if *failure == Failure::NotConnected || *failure == Failure::NoAnswer && !was_reused {
            self.front.discovery.failed(address, &self.front.backend);
        }
        self.sent += usize::from(failure.may_have_been_sent());
        let is_replayable = matches!(self.body, Sendable::AgainAndAgain(_));
        let may = may_retry(*failure, self.outgoing.is_idempotent(), is_replayable, self.sent)
            && (!failure.may_have_been_sent() || self.takes_from_budget());
        if may {
            self.front.metrics.retry(Retry::Failed);
        }
        may
    }

    /// Whether another task may be asked while `under_way` others have the request.
    fn may_ask_beside(&self, under_way: usize, reason: Retry) -> bool {
        let may = self.sent + under_way < MOST_SENT && self.takes_from_budget();
        if may {
            self.front.metrics.retry(reason);
        }
        may
    }

    fn takes_from_budget(&self) -> bool {
        let is_left = self.front.budget().take(Instant::now().into_std());
        if !is_left {
            self.front.metrics.budget_spent();
        }
        is_left
    }

    fn refused(&self, failure: Failure) -> Gone {
        let Some(Attempt { address, cause }) = self.failed.last() else { return Gone::NobodyLeft };
        match failure {
            Failure::TimedOut => Gone::Refused(StatusCode::GATEWAY_TIMEOUT, format!("{address}: {cause}")),
            Failure::BadBody => {
                Gone::Refused(StatusCode::BAD_REQUEST, format!("the request's body broke off: {cause}"))
            }
            Failure::NotConnected | Failure::NotSent | Failure::NoAnswer | Failure::Garbage => {
                Gone::Refused(StatusCode::BAD_GATEWAY, format!("{address}: {cause}"))
            }
        }
    }
}

/// A task's answer as the caller may have it.
fn acceptable(mut response: Response<Answer>) -> Result<Response<Answer>, Box<Failed>> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked for another protocol, and what follows would be in it.
        let cause = "switched to another protocol unasked".to_owned();
        return Err(Box::new(Failed { failure: Failure::Garbage, cause, request: None, was_reused: false }));
    }
    drop_hop_by_hop(response.headers_mut());
    // The version is that of the connection, not of the message (RFC 9110, section 2.5).
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
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

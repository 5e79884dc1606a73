//! One request on its way to the tasks: whom it goes to, when another one is asked, and which answer counts.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper::{
    Request, Response, StatusCode, Version,
    body::Incoming,
    ext::on_informational,
    header::{CONNECTION, HeaderValue, UPGRADE},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tracing::debug;

use crate::{
    backend::{Answer, Connection, Failed},
    body::{RequestBody, Signal},
    discovery::Discovery,
    endpoints::Empty,
    headers::{Outgoing, drop_hop_by_hop, settle_length},
    metrics::Retry,
    retry::{Failure, MOST_SENT, may_retry},
    routes::Front,
};

/// One address that was asked in vain.
pub(crate) struct Attempt {
    pub(crate) address: SocketAddr,
    pub(crate) cause: String,
}

/// A request's body.
pub(crate) enum Sendable {
    /// As it comes from the caller.
    Once(Option<Incoming>),
    /// All of it is here.
    AgainAndAgain(Bytes),
}

/// Why there is no task's answer.
pub(crate) enum Gone {
    /// This is to be said.
    Refused(StatusCode, String),
    /// Every address has been tried, or there is none.
    NobodyLeft,
}

/// One request on its way to one task after the other, or to several.
pub(crate) struct Calls<'a> {
    front: &'a Front,
    outgoing: Arc<Outgoing>,
    body: Sendable,
    /// Who has been asked since DNS last answered.
    tried: Vec<SocketAddr>,
    /// How often somebody was asked.
    pub(crate) attempts: usize,
    pub(crate) failed: Vec<Attempt>,
    /// To how many tasks it was sent, so far as they may have seen it.
    sent: usize,
    /// Nobody is waited for any more.
    is_last_round: bool,
    leave: Arc<Leave>,
}

/// A task's leave to send a body that waits for it.
#[derive(Debug, Default)]
struct Leave {
    said: Notify,
    is_sent: AtomicBool,
}

impl Leave {
    /// Ends when the task says that the body is to come, or says nothing for `limit`.
    fn signal(self: &Arc<Self>, limit: Duration) -> Signal {
        let leave = Arc::clone(self);
        Box::pin(async move {
            let _nothing_said = timeout(limit, leave.said.notified()).await;
            leave.is_sent.store(true, Ordering::Relaxed);
        })
    }

    fn is_sent(&self) -> bool {
        self.is_sent.load(Ordering::Relaxed)
    }
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

impl<'a> Calls<'a> {
    /// Nobody has been asked yet.
    pub(crate) fn new(front: &'a Front, outgoing: Outgoing, body: Sendable) -> Self {
        Self {
            front,
            outgoing: Arc::new(outgoing),
            body,
            tried: vec![],
            attempts: 0,
            failed: vec![],
            sent: 0,
            is_last_round: false,
            leave: Arc::default(),
        }
    }

    /// Asks one task, and another one as long as that is safe: at once where the first one failed, and beside it where it
    /// is late or its address has failed for somebody else. The first answer wins.
    pub(crate) async fn first_answer(&mut self, deadline: Instant) -> Result<(InFlight, Response<Answer>), Gone> {
        let front = self.front;
        let mut under_way = FuturesUnordered::new();
        let wait_until = deadline.min(Instant::now() + front.wait_for_task);
        let mut unsent = None;
        let mut asks = true;
        let mut late_at = None;
        // Those that were late, or have failed for others.
        let mut doubted: Vec<SocketAddr> = Vec::new();
        loop {
            if asks {
                let next = || InFlight::choose(&front.discovery, &self.tried);
                if let Some(in_flight) = (self.attempts < front.max_attempts).then(next).flatten() {
                    self.tried.push(in_flight.address);
                    self.attempts += 1;
                    late_at = self.is_repeatable().then(|| Instant::now() + front.answer_timeout);
                    let request = unsent.take().or_else(|| self.request());
                    // None only if a body that came once was asked for twice, which no rule allows.
                    let Some(request) = request else { return Err(Gone::NobodyLeft) };
                    under_way.push(self.ask(in_flight, request));
                } else if under_way.is_empty() {
                    if self.starts_over(wait_until).await {
                        continue;
                    }
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
                    return Ok((in_flight, self.ended(response)));
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

    /// Waits until DNS answers, and then all may be asked again that it names: tasks that were replaced all at once are not
    /// known yet. Once more in the end, for one that has been started again where it was. Only if nothing was sent.
    async fn starts_over(&mut self, until: Instant) -> bool {
        let front = self.front;
        let may_come = match front.discovery.endpoints().empty() {
            None | Some(Empty::NotAskedYet | Empty::Failed(_)) => true,
            Some(Empty::Absent) => false,
        };
        if !may_come
            || self.sent > 0
            || self.is_last_round
            || self.attempts >= front.max_attempts
            || front.wait_for_task.is_zero()
        {
            return false;
        }
        self.is_last_round = timeout_at(until, front.discovery.answer()).await.is_err();
        self.tried.clear();
        front.metrics.retry(Retry::NobodyLeft);
        true
    }

    /// Whether asking twice is the same as asking once, and the body is here.
    fn is_repeatable(&self) -> bool {
        self.outgoing.is_idempotent() && matches!(self.body, Sendable::AgainAndAgain(_))
    }

    fn request(&mut self) -> Option<Request<RequestBody>> {
        let body = match &mut self.body {
            Sendable::Once(body) => {
                let signal = self.outgoing.expects_continue().then(|| self.leave.signal(self.front.continue_timeout));
                RequestBody::streamed(body.take()?, signal, self.front.body_idle_timeout)
            }
            Sendable::AgainAndAgain(body) => RequestBody::whole(body.clone()),
        };
        let mut request = self.outgoing.request(body);
        if self.outgoing.expects_continue() {
            let leave = Arc::clone(&self.leave);
            on_informational(&mut request, move |said| {
                if said.status() == StatusCode::CONTINUE {
                    leave.said.notify_one();
                }
            });
        }
        Some(request)
    }

    /// The answer of a task that has not asked for the body that waits for it. If it refuses the request the body is not sent
    /// any more; if not, it takes the body without having asked.
    fn ended(&self, mut response: Response<Answer>) -> Response<Answer> {
        if !self.outgoing.expects_continue() || self.leave.is_sent() {
            return response;
        }
        if response.status().is_success() {
            self.leave.said.notify_one();
        } else {
            response.body_mut().is_last();
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
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
        let (backend, outgoing) = (Arc::clone(&self.front.backend), Arc::clone(&self.outgoing));
        let body = match &self.body {
            Sendable::AgainAndAgain(body) => Some(body.clone()),
            Sendable::Once(_) => None,
        };
        async move {
            let address = in_flight.address;
            let mut result = backend.send(address, request, Connection::Any).await;
            if let (Err(failed), Some(body)) = (&result, body) {
                let is_its_end = match failed.failure {
                    // The task closed a connection that had been idle, just as the request came. It may be well.
                    Failure::NoAnswer => failed.was_reused && outgoing.is_idempotent(),
                    // It ends the connection, or has enough on it, and has not acted on the request.
                    Failure::Refused => true,
                    Failure::NotConnected
                    | Failure::NotSent
                    | Failure::LateBody
                    | Failure::BadBody
                    | Failure::Garbage
                    | Failure::TimedOut => false,
                };
                if is_its_end {
                    let again = outgoing.request(RequestBody::whole(body));
                    result = backend.send(address, again, Connection::New).await;
                }
            }
            let may_switch = outgoing.asks_to_switch();
            (in_flight, result.and_then(|response| acceptable(response, may_switch)))
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
            Failure::LateBody => {
                Gone::Refused(StatusCode::REQUEST_TIMEOUT, format!("the request's body did not come: {cause}"))
            }
            Failure::NotConnected | Failure::NotSent | Failure::Refused | Failure::NoAnswer | Failure::Garbage => {
                Gone::Refused(StatusCode::BAD_GATEWAY, format!("{address}: {cause}"))
            }
        }
    }
}

/// A task's answer as the caller may have it.
fn acceptable(mut response: Response<Answer>, may_switch: bool) -> Result<Response<Answer>, Box<Failed>> {
    let garbage = |cause: &str| {
        Err(Box::new(Failed { failure: Failure::Garbage, cause: cause.to_owned(), request: None, was_reused: false }))
    };
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = response.headers().get(UPGRADE).filter(|_| switches && may_switch).cloned();
    if switches && protocol.is_none() {
        // Nobody asked for another protocol, or nobody knows which one, and what follows would be in it.
        return garbage("switched to another protocol unasked");
    }
    drop_hop_by_hop(response.headers_mut());
    if !settle_length(response.headers_mut()) {
        return garbage("gave no length, or several, in content-length");
    }
    if let Some(protocol) = protocol {
        response.headers_mut().insert(UPGRADE, protocol);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    // The version is that of the connection, not of the message (RFC 9110, section 2.5).
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}

/// A request on its way to an address, which counts until this is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    discovery: Arc<Discovery>,
    pub(crate) address: SocketAddr,
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

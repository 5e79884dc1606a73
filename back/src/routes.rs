//! What is answered to whom, and what goes wrong on purpose.

use std::{
    error::Error,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame},
    header::{ACCEPT, ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde_json::json;
use service::connection::Aborted;
use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};
use tracing::{debug, info};

use crate::{
    faults::{Done, Faults, HEALTH, Verdict},
    identity::Identity,
    metrics::Metrics,
};

/// The header that names the task in every answer.
pub const TASK_ID: HeaderName = HeaderName::from_static("x-task-id");

/// The most that is read of a request's body. A caller that sends more may find its connection closed on it.
const MOST_READ: usize = 16 * 1024 * 1024;

/// Reads what the caller sends along, and forgets it. An answer before the end of the request could get lost: the
/// connection is closed then, and the caller's own writing fails before it reads.
pub async fn read_to_end<B: Body<Error: Into<Box<dyn Error + Send + Sync>>>>(body: B) {
    let mut body = pin!(Limited::new(body, MOST_READ));
    while let Some(Ok(_)) = body.frame().await {}
}

/// The body of an answer, which a fault may break off.
pub type AnswerBody = BoxBody<Bytes, Aborted>;

/// A task: who it is, what it counts, and what it does wrong.
#[derive(Debug)]
pub struct Task {
    /// Who it is.
    pub identity: Identity,
    /// What it counts.
    pub metrics: Metrics,
    /// Whether callers can reach it.
    pub is_listening: AtomicBool,
    /// None if it takes no faults.
    faults: Option<Mutex<Faults>>,
}

impl Task {
    /// A task that does nothing wrong, and takes faults if it is told so.
    #[must_use]
    pub fn new(identity: Identity, takes_faults: bool) -> Self {
        let faults = takes_faults.then(Mutex::default);
        Self { identity, metrics: Metrics::default(), is_listening: AtomicBool::new(false), faults }
    }

    /// Its faults, if it takes any.
    pub fn faults(&self) -> Option<MutexGuard<'_, Faults>> {
        // Nothing panics while it holds the lock, so whatever is in there is whole.
        self.faults.as_ref().map(|faults| faults.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether signals to stop are ignored now.
    pub fn ignores_stop(&self) -> bool {
        self.faults().is_some_and(|mut faults| faults.ignores_stop(Instant::now().into_std()))
    }

    /// Answers a request, whose body is read and forgotten. One log line each; health checks only at debug, so that they do
    /// not count as load.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<AnswerBody>
    where
        B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
    {
        let (started, _waiting) = (Instant::now(), self.metrics.waiting());
        let (head, body) = request.into_parts();
        read_to_end(body).await;
        let request = Request::from_parts(head, ());
        let is_health_check = request.uri().path() == HEALTH;
        let response = match self.toggled(&request) {
            Some(response) => response.map(|body| body.map_err(|never| match never {}).boxed()),
            None => self.answer_or_fail(&request).await,
        };
        let took = started.elapsed();
        self.metrics.answered(response.status(), is_health_check, took);
        let Identity { task_id, revision, .. } = &self.identity;
        let (method, path, status) = (request.method().as_str(), request.uri().path(), response.status().as_u16());
        let duration_ms = (took.as_secs_f64() * 1e6).round() / 1e3;
        if is_health_check {
            debug!(task_id, revision, method, path, status, duration_ms, health_check = true, "health check");
        } else {
            info!(task_id, revision, method, path, status, duration_ms, health_check = false, "request");
        }
        response
    }

    /// The article's error, turned on or off by those who may.
    fn toggled(&self, request: &Request<()>) -> Option<Response<Full<Bytes>>> {
        if request.uri().path() != "/error" || request.method() != Method::GET {
            return None;
        }
        let is_on = self.faults()?.toggle_error();
        let words = if is_on { "everything fails from now on\n" } else { "nothing fails any more\n" };
        Some(self.named(text(StatusCode::OK, words.to_owned())))
    }

    async fn answer_or_fail(&self, request: &Request<()>) -> Response<AnswerBody> {
        let now = Instant::now().into_std();
        let path = request.uri().path();
        let verdict = self.faults().map_or_else(Verdict::default, |mut faults| faults.judge(path, now, fastrand::f64));
        if !verdict.delay.is_zero() {
            self.metrics.fault("latency");
            sleep(verdict.delay).await;
        }
        let response = self.named(answer(&self.identity, request));
        let whole = |response: Response<Full<Bytes>>| response.map(|body| body.map_err(|never| match never {}).boxed());
        match verdict.done {
            None => whole(response),
            Some(Done::Status(status)) => {
                self.metrics.fault("status");
                whole(self.named(text(status, format!("{status}, as was asked for\n"))))
            }
            Some(Done::Hang) => {
                self.metrics.fault("hang");
                std::future::pending().await
            }
            Some(Done::Abort) => {
                self.metrics.fault("abort");
                let mut response = whole(response);
                response.extensions_mut().insert(Aborted);
                response
            }
            Some(Done::Cut) => {
                self.metrics.fault("cut");
                cut(response)
            }
        }
    }

    fn named(&self, mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
        if let Ok(task_id) = HeaderValue::from_str(&self.identity.task_id) {
            response.headers_mut().insert(TASK_ID, task_id);
        }
        response
    }
}

/// The answer with the first half of its body, and nothing after that.
fn cut(response: Response<Full<Bytes>>) -> Response<AnswerBody> {
    let (mut head, body) = response.into_parts();
    let length = body.size_hint().exact().unwrap_or_default();
    head.headers.insert(CONTENT_LENGTH, length.into());
    let half = async move {
        let Ok(whole) = body.collect().await;
        let whole = whole.to_bytes();
        Ok(Frame::data(whole.slice(..whole.len() / 2)))
    };
    let end = async {
        // What is there is sent while nothing more comes.
        yield_now().await;
        Err(Aborted)
    };
    let frames = stream::StreamExt::chain(stream::once(half), stream::once(end));
    Response::from_parts(head, BodyExt::boxed(StreamBody::new(frames)))
}

fn answer(identity: &Identity, request: &Request<()>) -> Response<Full<Bytes>> {
    let (method, path) = (request.method(), request.uri().path());
    let reads = [Method::GET, Method::HEAD].contains(method);
    match path {
        "/" | HEALTH if !reads => {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not allowed: GET is\n"));
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        "/" if wants_json(request) => {
            let Identity { task_id, family, revision, availability_zone } = identity;
            let body = json!({
                "service": "backend",
                "task_id": task_id,
                "family": family,
                "revision": revision,
                "availability_zone": availability_zone,
            });
            typed(StatusCode::OK, "application/json", format!("{body}\n"))
        }
        "/" => text(StatusCode::OK, format!("backend {} {}\n", identity.task_id, identity.revision)),
        HEALTH => text(StatusCode::OK, "healthy\n".to_owned()),
        _ => text(StatusCode::NOT_FOUND, "not found: there are / and /health\n".to_owned()),
    }
}

fn wants_json<B>(request: &Request<B>) -> bool {
    let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .any(|range| range.split(';').next().is_some_and(|range| range.trim().eq_ignore_ascii_case("application/json")))
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(method: Method, path: &str, accept: &'static str) -> Response<AnswerBody> {
        let identity = Identity { task_id: "0d1e2f".to_owned(), revision: "7".to_owned(), ..Identity::default() };
        let request = Request::builder().method(method).uri(path).header(ACCEPT, accept);
        Task::new(identity, false).answer(request.body(String::new()).unwrap()).await
    }

    async fn body(response: Response<AnswerBody>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_root_names_the_task_and_its_revision() {
        let response = ask(Method::GET, "/", "*/*").await;
        assert_eq!((response.status(), &response.headers()[TASK_ID]), (StatusCode::OK, &"0d1e2f".parse().unwrap()));
        assert_eq!(body(response).await, "backend 0d1e2f 7\n");
    }

    #[tokio::test]
    async fn the_root_answers_json_to_those_who_ask_for_it() {
        let response = ask(Method::GET, "/?x=1", "text/html, Application/JSON;q=0.9").await;
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let value: serde_json::Value = serde_json::from_str(&body(response).await).unwrap();
        assert_eq!((value["task_id"].as_str(), value["revision"].as_str()), (Some("0d1e2f"), Some("7")));
    }

    #[tokio::test]
    async fn every_answer_names_the_task() {
        for (method, path, status) in [
            (Method::GET, "/health", StatusCode::OK),
            (Method::HEAD, "/health", StatusCode::OK),
            (Method::GET, "/nowhere", StatusCode::NOT_FOUND),
            (Method::POST, "/", StatusCode::METHOD_NOT_ALLOWED),
            (Method::DELETE, "/health", StatusCode::METHOD_NOT_ALLOWED),
        ] {
            let response = ask(method, path, "").await;
            assert_eq!((response.status(), response.headers()[TASK_ID].to_str().unwrap()), (status, "0d1e2f"));
        }
    }
}

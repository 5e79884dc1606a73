//! What is answered to whom.

use std::{error::Error, pin::pin};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes},
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde_json::json;
use tracing::{debug, info};

use crate::identity::Identity;

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

/// The answer to a request, without regard to its body. One log line each; health checks only at debug, so that they
/// do not count as load.
pub fn answer<B>(identity: &Identity, request: &Request<B>) -> Response<Full<Bytes>> {
    let (method, path) = (request.method(), request.uri().path());
    let is_health_check = path == "/health";
    let reads = [Method::GET, Method::HEAD].contains(method);
    let mut response = match path {
        "/" | "/health" if !reads => {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not allowed: GET is\n"));
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        "/" if wants_json(request) => {
            let Identity { task_id, revision } = identity;
            let body = json!({ "service": "backend", "task_id": task_id, "revision": revision });
            typed(StatusCode::OK, "application/json", format!("{body}\n"))
        }
        "/" => text(StatusCode::OK, format!("backend {} {}\n", identity.task_id, identity.revision)),
        "/health" => text(StatusCode::OK, "healthy\n".to_owned()),
        _ => text(StatusCode::NOT_FOUND, "not found: there are / and /health\n".to_owned()),
    };
    if let Ok(task_id) = HeaderValue::from_str(&identity.task_id) {
        response.headers_mut().insert(TASK_ID, task_id);
    }
    let Identity { task_id, revision } = identity;
    let status = response.status().as_u16();
    if is_health_check {
        debug!(task_id, revision, %method, path, status, "health check");
    } else {
        info!(task_id, revision, %method, path, status, "request");
    }
    response
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

    fn ask(method: Method, path: &str, accept: &'static str) -> Response<Full<Bytes>> {
        let identity = Identity { task_id: "0d1e2f".to_owned(), revision: "7".to_owned() };
        let request = Request::builder().method(method).uri(path).header(ACCEPT, accept).body(()).unwrap();
        answer(&identity, &request)
    }

    async fn body(response: Response<Full<Bytes>>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_root_names_the_task_and_its_revision() {
        let response = ask(Method::GET, "/", "*/*");
        assert_eq!((response.status(), &response.headers()[TASK_ID]), (StatusCode::OK, &"0d1e2f".parse().unwrap()));
        assert_eq!(body(response).await, "backend 0d1e2f 7\n");
    }

    #[tokio::test]
    async fn the_root_answers_json_to_those_who_ask_for_it() {
        let response = ask(Method::GET, "/?x=1", "text/html, Application/JSON;q=0.9");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let value: serde_json::Value = serde_json::from_str(&body(response).await).unwrap();
        assert_eq!((value["task_id"].as_str(), value["revision"].as_str()), (Some("0d1e2f"), Some("7")));
    }

    #[test]
    fn every_answer_names_the_task() {
        for (method, path, status) in [
            (Method::GET, "/health", StatusCode::OK),
            (Method::HEAD, "/health", StatusCode::OK),
            (Method::GET, "/nowhere", StatusCode::NOT_FOUND),
            (Method::POST, "/", StatusCode::METHOD_NOT_ALLOWED),
            (Method::DELETE, "/health", StatusCode::METHOD_NOT_ALLOWED),
        ] {
            let response = ask(method, path, "");
            assert_eq!((response.status(), response.headers()[TASK_ID].to_str().unwrap()), (status, "0d1e2f"));
        }
    }
}

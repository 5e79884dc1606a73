//! What back tells those who run it, and the faults that they ask for. Not for callers.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Body, header::ALLOW, header::HeaderValue};
use service::{
    admin::{JSON, METRICS, TEXT, said},
    phase::Phase,
};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use crate::{
    faults::{Act, Wanted},
    process,
    routes::Task,
};

/// The most that faults may be asked for with.
const LARGEST: usize = 64 * 1024;

/// All that is needed to answer.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The task that is run.
    pub task: Arc<Task>,
    /// Whether callers are welcome.
    pub phase: watch::Receiver<Phase>,
}

impl Admin {
    /// Answers one request.
    pub async fn answer<B>(self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data: Send, Error: std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>> + Send,
    {
        let path = request.uri().path().to_owned();
        let is_read = [Method::GET, Method::HEAD].contains(request.method());
        match path.as_str() {
            "/fault" => self.faults(request).await,
            "/metrics" | "/health" | "/ready" if !is_read => not_allowed("GET, HEAD"),
            "/metrics" => said(StatusCode::OK, METRICS, self.task.metrics.text()),
            "/health" => said(StatusCode::OK, TEXT, "healthy\n"),
            "/ready" => match self.objection() {
                None => said(StatusCode::OK, TEXT, "ready\n"),
                Some(why) => said(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {why}\n")),
            },
            _ => said(StatusCode::NOT_FOUND, TEXT, "there are /metrics, /fault, /ready and /health\n"),
        }
    }

    fn objection(&self) -> Option<&'static str> {
        if *self.phase.borrow() != Phase::Serving {
            return Some("it has been told that it is to be stopped");
        }
        (!self.task.is_listening.load(Ordering::Relaxed)).then_some("it does not listen yet")
    }

    /// The faults that are on; others in their place; or none.
    async fn faults<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data: Send, Error: std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>> + Send,
    {
        if self.task.faults().is_none() {
            let why = "this task takes no faults: start it with --enable-faults (BACK_ENABLE_FAULTS=true)\n";
            return said(StatusCode::FORBIDDEN, TEXT, why);
        }
        let acts = match request.method().as_str() {
            "GET" | "HEAD" => vec![],
            "DELETE" => match self.set(vec![]) {
                Ok(acts) => acts,
                Err(error) => return said(StatusCode::BAD_REQUEST, TEXT, format!("{error}\n")),
            },
            "PUT" => {
                let body = match Limited::new(request.into_body(), LARGEST).collect().await {
                    Ok(body) => body.to_bytes(),
                    Err(error) => return said(StatusCode::BAD_REQUEST, TEXT, format!("the body broke off: {error}\n")),
                };
                match read(&body).and_then(|wanted| self.set(wanted)) {
                    Ok(acts) => acts,
                    Err(error) => return said(StatusCode::BAD_REQUEST, TEXT, format!("{error}\n")),
                }
            }
            _ => return not_allowed("GET, HEAD, PUT, DELETE"),
        };
        let on = self.task.faults().map_or(serde_json::Value::Null, |mut faults| {
            let on: Vec<_> = faults.on(Instant::now().into_std()).collect();
            serde_json::json!(on)
        });
        for act in acts {
            warn!(?act, "a fault that was asked for");
            match act {
                Act::Exit(code) => process::exit(code),
                Act::Signal(signal) => process::raise(signal),
                Act::Leak(mebibytes) => process::leak(mebibytes).await,
            }
        }
        said(StatusCode::OK, JSON, format!("{on}\n"))
    }

    fn set(&self, wanted: Vec<Wanted>) -> Result<Vec<Act>, String> {
        let Some(mut faults) = self.task.faults() else { return Ok(vec![]) };
        let count = wanted.len();
        let acts = faults.set(wanted, Instant::now().into_std())?;
        info!(count, "faults were set");
        Ok(acts)
    }
}

/// One fault, or a list.
fn read(body: &[u8]) -> Result<Vec<Wanted>, String> {
    let is_list = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let wanted = if is_list { serde_json::from_slice(body) } else { serde_json::from_slice(body).map(|one| vec![one]) };
    wanted.map_err(|error| {
        format!("expected a fault such as {{\"fault\":\"status\",\"status\":503}}, or a list: {error}")
    })
}

fn not_allowed(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = said(StatusCode::METHOD_NOT_ALLOWED, TEXT, format!("allowed are {allowed}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

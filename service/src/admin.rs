//! What a service tells those who run it, on a listener of its own: it is not for callers.

use std::{convert::Infallible, future::Future, net::SocketAddr};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
};
use tokio::sync::watch;
use tracing::info;

use crate::{
    phase::Phase,
    process::{self, StartError},
    server::{self, Limits},
};

/// Text for people.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// JSON.
pub const JSON: &str = "application/json";

/// What Prometheus reads.
pub const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How many connections of those who run a service there may be.
const MOST_CONNECTIONS: usize = 64;

/// An address to listen on, or a port of the loopback interface.
///
/// # Errors
///
/// What was expected.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let of_loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
    text.parse()
        .map(of_loopback)
        .or_else(|_| text.parse())
        .map_err(|_| "expected one such as 9090 or 0.0.0.0:9090".to_owned())
}

/// Answers on `listen`, if anywhere, for as long as the process lives: also while it stops, when it matters most.
///
/// # Errors
///
/// [`StartError::Listen`] if the kernel refuses.
pub fn serve<H, F>(listen: Option<SocketAddr>, handler: H) -> Result<impl Future<Output = Infallible>, StartError>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let listener = listen.map(process::listen).transpose()?;
    Ok(async move {
        if let Some((listener, address)) = listener {
            info!(%address, "admin");
            let (_never_sent, phase) = watch::channel(Phase::default());
            let limits = Limits { max_connections: MOST_CONNECTIONS, ..Limits::default() };
            server::serve(listener, phase, limits, move |request, _| handler(request)).await;
        }
        std::future::pending().await
    })
}

/// An answer of this type.
pub fn said(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_one_of_the_loopback_interface() {
        assert_eq!(address("9090"), Ok(([127, 0, 0, 1], 9090).into()));
        assert_eq!(address("0.0.0.0:9090"), Ok(([0; 4], 9090).into()));
        assert_eq!(address("[::]:9090").map(|address| address.port()), Ok(9090));
        for text in ["", "localhost", "127.0.0.1", "70000"] {
            assert!(address(text).is_err(), "{text:?}");
        }
    }
}

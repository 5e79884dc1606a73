//! `init --check URL`: an HTTP probe for images that have no curl.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use http_body_util::Empty;
use hyper::{Method, Request, StatusCode, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// Where to ask whether the application is healthy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CheckUrl {
    uri: Uri,
    addresses: Vec<SocketAddr>,
}

impl FromStr for CheckUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let invalid = |reason| InvalidUrl { url: text.to_owned(), reason };
        let uri: Uri = text.parse().map_err(|_| invalid("it is not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(invalid("it does not begin with http://"));
        }
        let host = uri.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        // A port that is too large counts as none, and would silently become 80.
        let has_port = uri.authority().and_then(|authority| authority.as_str().rsplit(']').next());
        let port = match uri.port_u16() {
            None if has_port.is_some_and(|rest| rest.contains(':')) => return Err(invalid("its port is none")),
            port => port.unwrap_or(80),
        };
        let addresses: Vec<IpAddr> = match host.parse() {
            Ok(address) => vec![address],
            // RFC 6761, section 6.3: always the loopback, whatever a resolver says.
            Err(_) if host.eq_ignore_ascii_case("localhost") => {
                vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            }
            // A check is of one's own container. A name could lead to another, healthier one.
            Err(_) => return Err(invalid("its host is neither an IP address nor localhost")),
        };
        let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
        Ok(Self { uri, addresses })
    }
}

impl fmt::Display for CheckUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

/// A URL that cannot be probed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{url:?} cannot be checked: {reason}. Give a URL such as http://127.0.0.1:1235/health")]
pub struct InvalidUrl {
    url: String,
    reason: &'static str,
}

/// Why the application is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// It answered with a status that is not a success or a redirection.
    #[error("answered {0}")]
    Status(StatusCode),
    /// No TCP connection could be made.
    #[error("cannot connect: {0}")]
    Connect(#[source] std::io::Error),
    /// Something answered, and it was not HTTP.
    #[error("no HTTP answer: {0}")]
    Http(#[source] hyper::Error),
    /// Nothing answered in time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
}

/// Asks `url` once. Healthy is any answer from 200 to 399, as for a Kubernetes HTTP probe; redirections are not
/// followed.
///
/// # Errors
///
/// [`Unhealthy`] says why the answer was none or a bad one. All of it takes at most `limit`.
pub async fn check(url: &CheckUrl, limit: Duration) -> Result<(), Unhealthy> {
    timeout(limit, ask(url)).await.map_err(|_| Unhealthy::TimedOut(limit))?
}

async fn ask(url: &CheckUrl) -> Result<(), Unhealthy> {
    let stream = TcpStream::connect(url.addresses.as_slice()).await.map_err(Unhealthy::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Unhealthy::Http)?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::GET;
    let authority = url.uri.authority().map_or("", |authority| authority.as_str());
    let headers = request.headers_mut();
    headers.insert(header::HOST, authority.parse().expect("an authority is visible ASCII, which any header may hold"));
    headers.insert(header::USER_AGENT, header::HeaderValue::from_static("lameduck-init-check"));
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    let target = url.uri.path_and_query().map_or("/", |target| target.as_str());
    *request.uri_mut() = target.parse().expect("the path of a URL is a request target");
    // The connection is driven here rather than in a task of its own: it ends with the probe.
    let mut connection = std::pin::pin!(connection);
    let response = tokio::select! {
        biased;
        response = sender.send_request(request) => response.map_err(Unhealthy::Http)?,
        Err(error) = &mut connection => return Err(Unhealthy::Http(error)),
    };
    match response.status() {
        status if status.is_success() || status.is_redirection() => Ok(()),
        status => Err(Unhealthy::Status(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_localhost_can_be_checked() {
        let addresses = |url: &str| url.parse::<CheckUrl>().unwrap().addresses;
        assert_eq!(addresses("http://127.0.0.1:1235/health"), ["127.0.0.1:1235".parse().unwrap()]);
        assert_eq!(addresses("http://[::1]/"), ["[::1]:80".parse().unwrap()]);
        assert_eq!(
            addresses("http://LOCALHOST:8080"),
            ["127.0.0.1:8080".parse().unwrap(), "[::1]:8080".parse().unwrap()]
        );
    }

    #[test]
    fn anything_else_is_refused_with_the_value_and_an_example() {
        for (url, reason) in [
            ("https://127.0.0.1/", "http://"),
            ("127.0.0.1:1235/health", "not a URL"),
            ("/health", "http://"),
            ("http://127.0.0.1:99999/", "port"),
            ("http://example.com/", "neither an IP address nor localhost"),
            ("", "not a URL"),
        ] {
            let error = url.parse::<CheckUrl>().unwrap_err().to_string();
            assert!(error.contains(&format!("{url:?}")) && error.contains(reason), "{error}");
            assert!(error.contains("such as http://"), "{error}");
        }
    }
}

//! What a request and an answer may carry across a proxy. Pure.

use std::net::IpAddr;

use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE},
    http::uri::PathAndQuery,
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// By which callers, front and tasks speak of the same request.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Fields of one connection, which a proxy does not pass on even where `Connection` does not name them (RFC 9110,
/// section 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    TE,
    UPGRADE,
];

/// What a task gets of a request: all of it but the body, which can be sent only once.
#[derive(Clone, Debug)]
pub struct Outgoing {
    method: Method,
    target: Uri,
    headers: HeaderMap,
}

impl Outgoing {
    /// Makes what the task gets of `request`, which `caller` sent. `authority` is the backend's, for a caller that
    /// named no host; `id` is the request's.
    pub fn new<B>(request: &Request<B>, caller: IpAddr, authority: &HeaderValue, id: &HeaderValue) -> Self {
        let mut headers = request.headers().clone();
        let takes_trailers = takes_trailers(&headers);
        drop_hop_by_hop(&mut headers);
        if takes_trailers {
            // We pass trailers on, and say so on our own connection (RFC 9110, section 10.1.4).
            headers.insert(TE, HeaderValue::from_static("trailers"));
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
        // The server answers it, once the body is asked for.
        headers.remove(EXPECT);
        // The target of a request to a proxy names the host, and wins over the field (RFC 9112, section 3.2.2).
        // Without the user name and password that it may hold.
        let named = request.uri().authority().and_then(|named| named.as_str().rsplit('@').next());
        let named = named.and_then(|named| HeaderValue::from_str(named).ok());
        if let Some(named) = named {
            headers.insert(HOST, named);
        } else if !headers.contains_key(HOST) {
            headers.insert(HOST, authority.clone());
        }
        headers.insert(X_REQUEST_ID, id.clone());
        headers.append(X_FORWARDED_FOR, address_value(caller));
        headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        Self { method: request.method().clone(), target: Uri::from(path), headers }
    }

    /// The request with this body.
    pub fn request<B>(&self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// Whether doing it twice is the same as doing it once (RFC 9110, section 9.2.2).
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        self.method.is_idempotent()
    }
}

/// Whether the caller takes fields after a body.
fn takes_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// The request's own id: the caller's, or else a new one from this random number.
pub fn request_id<B>(request: &Request<B>, random: u128) -> HeaderValue {
    let given = request.headers().get(X_REQUEST_ID).filter(|id| !id.is_empty());
    // Hexadecimal digits may be in any field, so that there is always one.
    let new = || HeaderValue::try_from(format!("{random:032x}")).unwrap_or(HeaderValue::from_static("-"));
    given.cloned().unwrap_or_else(new)
}

/// Takes out of an answer, or of a request, what was meant for one connection.
pub fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    // A length beside a transfer coding is a lie of the sender's, and the body is framed anew (RFC 9112, section 6.3).
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    for name in named.iter().filter(|name| **name != HOST).chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Why a request is refused rather than guessed at, if it is (RFC 9112, sections 3.2 and 6.1).
pub fn objection<B>(request: &Request<B>) -> Option<(StatusCode, &'static str)> {
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Some((StatusCode::BAD_REQUEST, "a request has one Host field"));
    }
    if request.method() == Method::CONNECT {
        return Some((StatusCode::NOT_IMPLEMENTED, "CONNECT asks for a tunnel, and front passes requests on"));
    }
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if !request.headers().get_all(TRANSFER_ENCODING).iter().all(is_chunked) {
        return Some((StatusCode::NOT_IMPLEMENTED, "of the transfer codings only chunked is known"));
    }
    None
}

fn address_value(address: IpAddr) -> HeaderValue {
    HeaderValue::try_from(address.to_string()).expect("an address is visible ASCII, which any header may hold")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

    fn outgoing(uri: &str, headers: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::builder().uri(uri).body(()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        let id = request_id(&request, 7);
        Outgoing::new(&request, CALLER, &HeaderValue::from_static("back:1235"), &id).request(())
    }

    fn values<'a>(request: &'a Request<()>, name: &str) -> Vec<&'a str> {
        request.headers().get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn the_target_and_end_to_end_fields_pass() {
        let request = outgoing("/a%20b?c=d", &[("host", "shop"), ("traceparent", "00-1-2-01"), ("cookie", "a=b")]);
        assert_eq!(request.uri(), "/a%20b?c=d");
        for (name, value) in [("host", "shop"), ("traceparent", "00-1-2-01"), ("cookie", "a=b")] {
            assert_eq!(values(&request, name), [value]);
        }
    }

    #[test]
    fn a_request_has_one_id_the_callers_or_a_new_one() {
        assert_eq!(values(&outgoing("/", &[("x-request-id", "abc")]), "x-request-id"), ["abc"]);
        let new = ["00000000000000000000000000000007"];
        assert_eq!(values(&outgoing("/", &[]), "x-request-id"), new);
        assert_eq!(values(&outgoing("/", &[("x-request-id", "")]), "x-request-id"), new);
    }

    #[test]
    fn fields_of_one_connection_stay_behind() {
        let request = outgoing(
            "/",
            &[
                ("connection", "close, x-private"),
                ("connection", "X-Other"),
                ("x-private", "1"),
                ("x-other", "1"),
                ("keep-alive", "timeout=5"),
                ("te", "trailers"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("proxy-authorization", "Basic eDp5"),
                ("expect", "100-continue"),
            ],
        );
        let mut left: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        // Of these two, what we say to the task ourselves.
        assert_eq!(left, ["connection", "host", "te", "x-forwarded-for", "x-forwarded-proto", "x-request-id"]);
        assert_eq!((values(&request, "connection"), values(&request, "te")), (vec!["te"], vec!["trailers"]));
        let without = outgoing("/", &[("te", "gzip"), ("connection", "te")]);
        assert!(values(&without, "te").is_empty() && values(&without, "connection").is_empty());
    }

    #[test]
    fn a_length_beside_a_transfer_coding_stays_behind_and_the_host_does_not() {
        let headers =
            [("host", "shop"), ("connection", "host"), ("content-length", "3"), ("transfer-encoding", "chunked")];
        let request = outgoing("/", &headers);
        assert_eq!((values(&request, "host"), values(&request, "content-length")), (vec!["shop"], vec![]));
        assert_eq!(values(&outgoing("/", &[("content-length", "3")]), "content-length"), ["3"]);
    }

    #[test]
    fn a_request_that_could_be_read_in_two_ways_is_refused() {
        let status = |method, headers: &[(&'static str, &'static str)]| {
            let mut request = Request::builder().method(method).uri("/").body(()).unwrap();
            for (name, value) in headers {
                request.headers_mut().append(*name, HeaderValue::from_static(value));
            }
            objection(&request).map(|(status, _)| status.as_u16())
        };
        assert_eq!(status(Method::GET, &[("host", "shop")]), None);
        assert_eq!(status(Method::POST, &[("host", "shop"), ("transfer-encoding", "Chunked")]), None);
        assert_eq!(status(Method::GET, &[]), Some(400));
        assert_eq!(status(Method::GET, &[("host", "shop"), ("host", "other")]), Some(400));
        assert_eq!(status(Method::CONNECT, &[("host", "shop")]), Some(501));
        assert_eq!(status(Method::POST, &[("host", "shop"), ("transfer-encoding", "gzip, chunked")]), Some(501));
    }

    #[test]
    fn the_caller_is_added_to_those_before_it() {
        let request = outgoing("/", &[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")]);
        assert_eq!(values(&request, "x-forwarded-for"), ["192.0.2.1", "10.0.0.7"]);
        assert_eq!(values(&request, "x-forwarded-proto"), ["https"]);
    }

    #[test]
    fn the_host_is_the_targets_else_the_callers_else_the_backends() {
        assert_eq!(values(&outgoing("http://shop:80/x", &[("host", "other")]), "host"), ["shop:80"]);
        assert_eq!(outgoing("http://shop:80/x", &[]).uri(), "/x");
        assert_eq!(values(&outgoing("http://user:secret@shop/x", &[]), "host"), ["shop"]);
        assert_eq!(values(&outgoing("/", &[("host", "shop")]), "host"), ["shop"]);
        assert_eq!(values(&outgoing("/", &[]), "host"), ["back:1235"]);
    }
}

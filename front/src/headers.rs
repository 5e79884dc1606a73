//! What a request and an answer may carry across a proxy. Pure.

use std::net::IpAddr;

use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri, Version,
    body::Body,
    header::{
        CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
    },
    http::{
        request,
        uri::{Authority, Parts, PathAndQuery, Scheme},
    },
};

use crate::backend::Protocol;

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
    target: PathAndQuery,
    headers: HeaderMap,
    protocol: Protocol,
    expects_continue: bool,
    asks_to_switch: bool,
}

impl Outgoing {
    /// Makes what a task that speaks `protocol` gets of a request with the `head` that `caller` sent, and with a body or none.
    /// `authority` is the backend's, for a caller that named no host; `id` is the request's.
    pub fn new(
        head: request::Parts,
        has_body: bool,
        caller: IpAddr,
        authority: &HeaderValue,
        id: &HeaderValue,
        protocol: Protocol,
    ) -> Self {
        let upgrade = upgrade(&head, has_body).filter(|_| protocol == Protocol::Http1);
        let expects_continue = protocol == Protocol::Http1 && has_body && expects_continue(&head);
        let request::Parts { method, uri, mut headers, .. } = head;
        let takes_trailers = takes_trailers(&headers);
        drop_hop_by_hop(&mut headers);
        if takes_trailers {
            // We pass trailers on, and say so on our own connection (RFC 9110, section 10.1.4).
            headers.insert(TE, HeaderValue::from_static("trailers"));
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
        let asks_to_switch = upgrade.is_some();
        if let Some(upgrade) = upgrade {
            headers.append(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, upgrade);
        }
        if !expects_continue {
            headers.remove(EXPECT);
        }
        join_cookies(&mut headers);
        // The target of a request to a proxy names the host, and wins over the field (RFC 9112, section 3.2.2).
        // Without the user name and password that it may hold.
        let named = uri.authority().and_then(|named| named.as_str().rsplit('@').next());
        let named = named.and_then(|named| HeaderValue::from_str(named).ok());
        if let Some(named) = named {
            headers.insert(HOST, named);
        } else if headers.get(HOST).is_none_or(|host| protocol == Protocol::H2c && as_authority(host).is_none()) {
            headers.insert(HOST, authority.clone());
        }
        headers.insert(X_REQUEST_ID, id.clone());
        headers.append(X_FORWARDED_FOR, address_value(caller));
        headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
        let target = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        Self { method, target, headers, protocol, expects_continue, asks_to_switch }
    }

    /// The request with this body.
    pub fn request<B: Body>(&self, body: B) -> Request<B> {
        let is_of_unknown_length = !body.is_end_stream() && body.size_hint().exact().is_none();
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        match self.protocol {
            Protocol::Http1 => {
                *request.version_mut() = Version::HTTP_11;
                *request.uri_mut() = Uri::from(self.target.clone());
                if is_of_unknown_length && !self.headers.contains_key(CONTENT_LENGTH) {
                    // hyper leaves the body of a GET away if nothing says that there is one.
                    request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
            }
            Protocol::H2c => {
                *request.version_mut() = Version::HTTP_2;
                *request.uri_mut() = self.whole_target();
                // Which the target holds (RFC 9113, section 8.3.1).
                request.headers_mut().remove(HOST);
                request.headers_mut().remove(CONNECTION);
            }
        }
        request
    }

    /// The target with the host in it.
    fn whole_target(&self) -> Uri {
        let mut parts = Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.path_and_query = Some(self.target.clone());
        parts.authority = self.headers.get(HOST).and_then(as_authority);
        // A path and a host that were each taken apart from a target are one together.
        Uri::from_parts(parts).unwrap_or_else(|_| Uri::from(self.target.clone()))
    }

    /// Whether the caller waits to be told to send its body (RFC 9110, section 10.1.1).
    #[must_use]
    pub const fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// Whether the caller would like to speak another protocol after this request (RFC 9110, section 7.8).
    #[must_use]
    pub const fn asks_to_switch(&self) -> bool {
        self.asks_to_switch
    }

    /// Whether doing it twice is the same as doing it once (RFC 9110, section 9.2.2).
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        self.method.is_idempotent()
    }
}

/// Whether this is a host, with or without a port: nobody, who has none, says so with an empty field.
fn is_host(value: &HeaderValue) -> bool {
    value.is_empty() || as_authority(value).is_some_and(|host| !host.as_str().contains('@'))
}

fn as_authority(host: &HeaderValue) -> Option<Authority> {
    Authority::try_from(host.as_bytes()).ok()
}

/// Whether the caller takes fields after a body.
fn takes_trailers(headers: &HeaderMap) -> bool {
    tokens(headers, &TE).any(|coding| coding.eq_ignore_ascii_case("trailers"))
}

/// The members of a field that is a list, of all its lines.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// To what the caller would like to switch. A request with a body is not switched, nor is one to HTTP/2: tasks that speak
/// it do so from the start, and its requests would pass front unseen (RFC 9113, section 3.1, has withdrawn that switch).
fn upgrade(head: &request::Parts, has_body: bool) -> Option<HeaderValue> {
    let headers = &head.headers;
    let is_asked = !has_body
        && head.version == Version::HTTP_11
        && headers.contains_key(UPGRADE)
        && tokens(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"))
        && !tokens(headers, &UPGRADE).any(|protocol| protocol.to_ascii_lowercase().starts_with("h2"));
    headers.get(UPGRADE).filter(|_| is_asked).cloned()
}

fn expects_continue(head: &request::Parts) -> bool {
    let is_expected = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    head.version == Version::HTTP_11 && head.headers.get(EXPECT).is_some_and(is_expected)
}

/// HTTP/2 may split this one field, of which HTTP/1 has one (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
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
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION).filter_map(|name| name.parse().ok()).collect();
    // A length beside a transfer coding is a lie of the sender's, and the body is framed anew (RFC 9112, section 6.3).
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    for name in named.iter().filter(|name| **name != HOST).chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Leaves one length of those that an answer may give more than once. Whether they are lengths, and the same: also an answer
/// without a body gives that of the one that it could have had (RFC 9112, section 6.3).
#[must_use]
pub fn settle_length(headers: &mut HeaderMap) -> bool {
    let mut all = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = all.next().cloned() else { return true };
    let is_length = first.as_bytes().iter().all(u8::is_ascii_digit)
        && first.to_str().is_ok_and(|length| length.parse::<u64>().is_ok());
    if !is_length || all.any(|other| other != first) {
        return false;
    }
    headers.insert(CONTENT_LENGTH, first);
    true
}

/// Why a request is refused rather than guessed at, if it is (RFC 9112, sections 3.2 and 6.1).
pub fn objection<B>(request: &Request<B>) -> Option<(StatusCode, &'static str)> {
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Some((StatusCode::BAD_REQUEST, "a request has one Host field"));
    }
    if !request.headers().get(HOST).is_none_or(is_host) {
        return Some((StatusCode::BAD_REQUEST, "the Host field names no host"));
    }
    if request.method() == Method::CONNECT {
        return Some((StatusCode::NOT_IMPLEMENTED, "CONNECT asks for a tunnel, and front passes requests on"));
    }
    if request.uri().authority().is_some() && request.uri().scheme().is_none() {
        // A path without its slash is read as a host, as CONNECT has it (section 3.2.3).
        return Some((StatusCode::BAD_REQUEST, "the target of a request begins with a slash, or is a whole URL"));
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

    /// What a task that speaks `protocol` gets.
    fn outgoing_by(protocol: Protocol, uri: &str, headers: &[(&'static str, &'static str)]) -> Request<String> {
        let mut request = Request::builder().uri(uri).body(()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        let id = request_id(&request, 7);
        let head = request.into_parts().0;
        Outgoing::new(head, false, CALLER, &HeaderValue::from_static("back:1235"), &id, protocol).request(String::new())
    }

    fn outgoing(uri: &str, headers: &[(&'static str, &'static str)]) -> Request<String> {
        outgoing_by(Protocol::Http1, uri, headers)
    }

    fn values<'a>(request: &'a Request<String>, name: &str) -> Vec<&'a str> {
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
    fn an_answer_has_one_length() {
        let settled = |lengths: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for length in lengths {
                headers.append(CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            settle_length(&mut headers).then(|| headers.get_all(CONTENT_LENGTH).iter().count())
        };
        assert_eq!((settled(&[]), settled(&["3"]), settled(&["3", "3"])), (Some(0), Some(1), Some(1)));
        for lengths in [&["3", "4"][..], &["x"], &["+3"], &[""], &["3, 3"], &["18446744073709551616"]] {
            assert_eq!(settled(lengths), None, "{lengths:?}");
        }
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
        for host in ["", "shop", "shop:80", "[::1]:80", "a_b.test", "127.0.0.1"] {
            assert_eq!(status(Method::GET, &[("host", host)]), None, "{host}");
        }
        for host in ["shop, other", "user@shop", "shop/x", "shop?", "sh op", "sh\tp", "http://shop"] {
            assert_eq!(status(Method::GET, &[("host", host)]), Some(400), "{host}");
        }
        let pathless = Request::builder().uri("shop").header("host", "shop").body(()).unwrap();
        assert_eq!(objection(&pathless).map(|(status, _)| status.as_u16()), Some(400));
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

    #[test]
    fn a_switch_of_protocols_passes_but_not_to_http_2_and_not_with_a_body() {
        let asked = |protocol| [("host", "shop"), ("connection", "keep-alive, Upgrade"), ("upgrade", protocol)];
        let request = outgoing("/", &asked("websocket"));
        assert_eq!((values(&request, "upgrade"), values(&request, "connection")), (vec!["websocket"], vec!["upgrade"]));
        for protocol in ["h2c", "websocket, H2C", "h2"] {
            let request = outgoing("/", &asked(protocol));
            assert!(values(&request, "upgrade").is_empty() && values(&request, "connection").is_empty(), "{protocol}");
        }
        assert!(values(&outgoing("/", &[("upgrade", "websocket")]), "upgrade").is_empty(), "it was not for us");
        assert!(values(&outgoing_by(Protocol::H2c, "/", &asked("websocket")), "upgrade").is_empty());
        let head = Request::builder().header("connection", "upgrade").header("upgrade", "websocket").body(()).unwrap();
        let head = head.into_parts().0;
        assert!(upgrade(&head, false).is_some() && upgrade(&head, true).is_none());
    }

    #[test]
    fn cookies_that_came_apart_are_joined() {
        let request = outgoing("/", &[("cookie", "a=b"), ("cookie", "c=d; e=f"), ("cookie", "g=h")]);
        assert_eq!(values(&request, "cookie"), ["a=b; c=d; e=f; g=h"]);
    }

    #[test]
    fn a_task_that_speaks_http_2_gets_the_host_in_the_target() {
        let request = outgoing_by(Protocol::H2c, "/a?b", &[("host", "shop:81"), ("te", "trailers")]);
        assert_eq!((request.uri().to_string(), request.version()), ("http://shop:81/a?b".to_owned(), Version::HTTP_2));
        assert_eq!((values(&request, "host").len(), values(&request, "connection").len()), (0, 0));
        assert_eq!(values(&request, "te"), ["trailers"], "gRPC asks for it");
        let request = outgoing_by(Protocol::H2c, "/", &[("host", "no host")]);
        assert_eq!(request.uri(), "http://back:1235/");
    }

    /// Whatever fields a caller sends.
    #[test]
    fn any_fields_become_one_request_of_our_own_connection() {
        const NAMES: [&str; 16] = [
            "connection",
            "keep-alive",
            "te",
            "transfer-encoding",
            "content-length",
            "upgrade",
            "x",
            "proxy-connection",
            "proxy-authorization",
            "expect",
            "cookie",
            "x-forwarded-for",
            "x-request-id",
            "trailer",
            "x-private",
            "date",
        ];
        const VALUES: [&str; 16] = [
            "",
            "close",
            "keep-alive, X-Private",
            "host, content-length",
            "upgrade",
            "te",
            "trailers",
            "chunked",
            "gzip, chunked",
            "websocket",
            "h2c",
            "100-continue",
            "5",
            ",,\t, =",
            "shop:80",
            "x-request-id,x-forwarded-for",
        ];
        for seed in 0..20_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut request =
                Request::builder().uri(["/", "http://u:p@shop:1/x", "*"][random.usize(..3)]).header("host", "shop");
            for _ in 0..random.u8(..8) {
                let value = VALUES[random.usize(..16)].as_bytes().to_vec();
                let noise = (random.u8(..8) == 0).then(|| random.u8(128..));
                let value: Vec<u8> = value.into_iter().chain(noise).collect();
                request = request.header(NAMES[random.usize(..16)], value);
            }
            let request = request.body(["", "body"][random.usize(..2)].to_owned()).unwrap();
            if objection(&request).is_some() {
                continue;
            }
            let protocol = [Protocol::Http1, Protocol::H2c][random.usize(..2)];
            let (id, back) = (request_id(&request, 7), HeaderValue::from_static("back:1235"));
            let (head, body) = request.clone().into_parts();
            let made = Outgoing::new(head, !body.is_empty(), CALLER, &back, &id, protocol).request(body);
            let count = |name: &str| made.headers().get_all(name).iter().count();
            let case = format!("seed {seed}: {request:?} became {made:?}");
            let hosts = usize::from(protocol == Protocol::Http1);
            assert_eq!((count("host"), made.uri().authority().is_some()), (hosts, hosts == 0), "{case}");
            for name in ["keep-alive", "proxy-connection", "proxy-authorization", "transfer-encoding"] {
                assert_eq!(count(name), 0, "{case}");
            }
            let ours = tokens(made.headers(), &CONNECTION).all(|option| ["te", "upgrade"].contains(&option));
            assert!(ours && (protocol == Protocol::Http1 || count("connection") + count("upgrade") == 0), "{case}");
            assert!(made.headers().get_all(TE).iter().all(|te| te == "trailers") && count("te") <= 1, "{case}");
            assert_eq!((count("x-request-id"), count("cookie") <= 1), (1, true), "{case}");
            if request.headers().contains_key(TRANSFER_ENCODING) {
                assert_eq!(count("content-length"), 0, "{case}");
            }
            if tokens(request.headers(), &CONNECTION).any(|option| option.eq_ignore_ascii_case("x-private")) {
                assert_eq!(count("x-private"), 0, "{case}");
            }
        }
    }
}

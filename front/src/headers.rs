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
mod tests;

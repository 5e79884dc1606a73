//! What crosses the proxy and what does not, by example and at random.

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
    let headers = [("host", "shop"), ("connection", "host"), ("content-length", "3"), ("transfer-encoding", "chunked")];
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

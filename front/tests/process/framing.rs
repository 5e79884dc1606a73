//! Where one message ends and the next begins. Callers and tasks send what is ambiguous or broken, byte by byte, and a
//! strict reader looks at all that front makes of it: nobody gets a request or an answer that nobody has sent.

mod reader;

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};

use self::reader::Message;
use crate::support::{Front, Network, PATIENCE, front};

/// What an attacker would like to get through.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: shop\r\n\r\n";
/// What follows on the same connection, and ends it.
const AFTER: &str = "GET /after HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";

/// What a task got: whole requests, and what is none.
type Seen = Arc<Mutex<Vec<Result<Message, String>>>>;

/// A task that notes what it gets, and answers `/bad` as it is told.
struct Recorder {
    seen: Seen,
    bad: Arc<Mutex<Vec<u8>>>,
    accepting: JoinHandle<()>,
}

impl Recorder {
    async fn start(network: &Network) -> Self {
        let listener = network.listen(1).await;
        let (seen, bad) = (Seen::default(), Arc::<Mutex<Vec<u8>>>::default());
        let (all, script) = (Arc::clone(&seen), Arc::clone(&bad));
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(record(stream, Arc::clone(&all), Arc::clone(&script)));
            }
        });
        Self { seen, bad, accepting }
    }

    /// What it got since the last call. None of it may be no request.
    fn take(&self) -> Vec<Message> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        seen.into_iter().map(|seen| seen.expect("front writes what a strict reader takes")).collect()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn record(mut stream: TcpStream, seen: Seen, bad: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = Vec::new();
    while let Some(request) = Message::read(&mut stream, &mut buffer, None).await.transpose() {
        let answer = match &request {
            Ok(request) if request.start.contains(" /bad ") => bad.lock().unwrap().clone(),
            Ok(request) if request.method() == "HEAD" => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n".to_vec(),
            Ok(_) => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec(),
            Err(_) => return seen.lock().unwrap().push(request),
        };
        seen.lock().unwrap().push(request);
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// A front before one recorder.
async fn recorded(number: u8) -> (Front, Recorder) {
    let network = Network::new(number).await;
    let recorder = Recorder::start(&network).await;
    let backend = format!("http://127.77.{number}.1:{}", network.port);
    (Front::run(&mut front(&["--backend", &backend])).await, recorder)
}

/// All answers to these bytes, until front closes the connection.
async fn answers(front: &Front, bytes: &[u8], methods: &[&str]) -> Vec<Message> {
    let mut stream = front.connect().await;
    // It may be closed before all of it is sent.
    let _ = stream.write_all(bytes).await;
    let (mut buffer, mut answers, mut asked) = (Vec::new(), Vec::new(), methods.iter());
    let mut method = asked.next().copied();
    while let Some(answer) = Message::read(&mut stream, &mut buffer, method.or(Some("GET"))).await.unwrap() {
        if answer.status() >= 200 {
            method = asked.next().copied();
        }
        answers.push(answer);
    }
    answers
}

/// Sends each request, and a good one after it on the same connection. Both may be answered, or the first be refused and the
/// connection closed; what was in a body never gets to the task as a request.
async fn try_all<R: AsRef<str>>(number: u8, cases: &[(R, &[u16])]) {
    let (front, recorder) = recorded(number).await;
    let mut wrong = Vec::new();
    for (request, expected) in cases {
        let request = request.as_ref();
        let methods = [request.split(' ').next().unwrap(), "GET"];
        let answers = answers(&front, format!("{request}{AFTER}").as_bytes(), &methods).await;
        let statuses: Vec<_> = answers.iter().map(Message::status).collect();
        let seen = recorder.take();
        let passed = statuses.iter().filter(|status| **status == 200).count();
        let is_smuggled = seen.iter().any(|request| request.start.contains("/smuggled"));
        if statuses != *expected || is_smuggled || seen.len() != passed {
            wrong.push(format!("{request:?}: {statuses:?}, the task got {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(front.ask("GET", "/").await.status, 200);
}

fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: shop\r\n{fields}\r\n{body}")
}

#[tokio::test]
async fn a_body_has_one_length() {
    let cases = [
        ("content-length: 38\r\ncontent-length: 0\r\n", SMUGGLED, &[400][..]),
        ("content-length: 0\r\ncontent-length: 38\r\n", SMUGGLED, &[400]),
        ("content-length: 38, 0\r\n", SMUGGLED, &[400]),
        ("content-length: 38\r\ncontent-length: 38\r\n", SMUGGLED, &[200, 200]),
        ("content-length: 38, 38\r\n", SMUGGLED, &[400]),
        ("content-length: +38\r\n", SMUGGLED, &[400]),
        ("content-length: -1\r\n", SMUGGLED, &[400]),
        ("content-length: 3 8\r\n", SMUGGLED, &[400]),
        ("content-length: \t38 \t\r\n", SMUGGLED, &[200, 200]),
        ("content-length: 038\r\n", SMUGGLED, &[200, 200]),
        ("content-length: 0x26\r\n", SMUGGLED, &[400]),
        ("content-length: 38.0\r\n", SMUGGLED, &[400]),
        ("content-length: 1e1\r\n", SMUGGLED, &[400]),
        ("content-length: 18446744073709551654\r\n", SMUGGLED, &[400]),
        ("content-length: 18446744073709551615\r\n", SMUGGLED, &[431]),
        ("content-length:\r\n", SMUGGLED, &[400]),
        ("content-length: \r\n", SMUGGLED, &[400]),
        ("content-length: 38;\r\n", SMUGGLED, &[400]),
        ("content-length: \u{661}\r\n", SMUGGLED, &[400]),
        ("content-length : 38\r\n", SMUGGLED, &[400]),
        ("content-length\t: 38\r\n", SMUGGLED, &[400]),
        (" content-length: 38\r\n", SMUGGLED, &[400]),
        ("content_length: 38\r\n", "", &[200, 200]),
        ("content-length: 38\r\n", SMUGGLED, &[200, 200]),
    ]
    .map(|(fields, body, expected)| (post(fields, body), expected));
    try_all(60, &cases).await;
}

#[tokio::test]
async fn a_length_beside_a_transfer_coding_ends_the_connection() {
    let chunked = format!("26\r\n{SMUGGLED}\r\n0\r\n\r\n");
    let cases = [
        ("content-length: 4\r\ntransfer-encoding: chunked\r\n", &*chunked, &[200][..]),
        ("transfer-encoding: chunked\r\ncontent-length: 4\r\n", &chunked, &[200]),
        ("transfer-encoding: chunked\r\ncontent-length: 48\r\n", &chunked, &[200]),
        ("transfer-encoding: chunked\r\ncontent-length: 0\r\n", &chunked, &[200]),
        ("transfer-encoding: chunked\r\ncontent-length: x\r\n", &chunked, &[200]),
        ("content-length: x\r\ntransfer-encoding: chunked\r\n", &chunked, &[400]),
        ("content-length: 4\r\ntransfer-encoding: identity\r\n", &chunked, &[400]),
        ("content-length: 4\r\nconnection: content-length\r\n", "body", &[200, 200]),
        ("transfer-encoding: chunked\r\nconnection: transfer-encoding\r\n", &chunked, &[200, 200]),
    ]
    .map(|(fields, body, expected)| (post(fields, body), expected));
    try_all(61, &cases).await;
}

#[tokio::test]
async fn of_the_transfer_codings_only_chunked_is_taken() {
    let chunked = format!("26\r\n{SMUGGLED}\r\n0\r\n\r\n");
    let cases = [
        ("transfer-encoding: chunked\r\n", &[200, 200][..]),
        ("Transfer-Encoding: CHUNKED\r\n", &[200, 200]),
        ("transfer-encoding:\tchunked \r\n", &[200, 200]),
        ("transfer-encoding: chunked, chunked\r\n", &[501]),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", &[200, 200]),
        ("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", &[400]),
        ("transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n", &[501]),
        ("transfer-encoding: identity\r\n", &[400]),
        ("transfer-encoding: xchunked\r\n", &[400]),
        ("transfer-encoding: gzip, chunked\r\n", &[501]),
        ("transfer-encoding: chunked, gzip\r\n", &[400]),
        ("transfer-encoding: \"chunked\"\r\n", &[400]),
        ("transfer-encoding: chunked;q=1\r\n", &[400]),
        ("transfer-encoding: \u{b}chunked\r\n", &[400]),
        ("transfer-encoding:\r\n", &[400]),
        ("transfer-encoding: ,chunked\r\n", &[501]),
        ("transfer-encoding : chunked\r\n", &[400]),
        ("transfer-encoding\t: chunked\r\n", &[400]),
        ("transfer-encoding:\r\n chunked\r\n", &[400]),
        ("transfer-encoding: x\r\n\tchunked\r\n", &[400]),
        ("x: y\r\n transfer-encoding: chunked\r\n", &[400]),
        ("x: y\ntransfer-encoding: chunked\r\n", &[200, 200]),
        ("x: y\rtransfer-encoding: chunked\r\n", &[400]),
        ("\0transfer-encoding: chunked\r\n", &[400]),
        ("transfer-encoding\0: chunked\r\n", &[400]),
    ]
    .map(|(fields, expected)| (post(fields, &chunked), expected));
    try_all(62, &cases).await;
    let old = format!("POST / HTTP/1.0\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n{chunked}");
    try_all(63, &[(&old, &[400])]).await;
}

#[tokio::test]
async fn chunks_are_taken_apart_strictly() {
    let cases = [
        ("4\r\nbody\r\n0\r\n\r\n", &[200, 200][..]),
        ("0004\r\nbody\r\n000\r\n\r\n", &[200, 200]),
        ("4;a=b;c=\"d\"\r\nbody\r\n0;x\r\n\r\n", &[200, 200]),
        ("4 \r\nbody\r\n0\r\n\r\n", &[200, 200]),
        (" 4\r\nbody\r\n0\r\n\r\n", &[400]),
        ("-4\r\nbody\r\n0\r\n\r\n", &[400]),
        ("+4\r\nbody\r\n0\r\n\r\n", &[400]),
        ("0x4\r\nbody\r\n0\r\n\r\n", &[400]),
        ("4_0\r\nbody\r\n0\r\n\r\n", &[400]),
        ("10000000000000004\r\nbody\r\n0\r\n\r\n", &[400]),
        ("\r\nbody\r\n0\r\n\r\n", &[400]),
        ("g\r\nbody\r\n0\r\n\r\n", &[400]),
        ("4\nbody\r\n0\r\n\r\n", &[400]),
        ("4\rbody\r\n0\r\n\r\n", &[400]),
        ("4;\nbody\r\n0\r\n\r\n", &[400]),
        ("4;a\rb\r\nbody\r\n0\r\n\r\n", &[400]),
        ("4\r\nbody0\r\n\r\n", &[400]),
        ("4\r\nbody\n0\r\n\r\n", &[400]),
        ("4\r\nbodyxx\r\n0\r\n\r\n", &[400]),
        ("4\r\nbody\r\n0\n\n", &[400]),
        ("4\r\nbody\r\n0\r\nx-a: 1\r\ncontent-length: 38\r\n\r\n", &[200, 200]),
        ("4\r\nbody\r\n0\r\ntransfer-encoding: chunked\r\nhost: other\r\n\r\n", &[200, 200]),
        ("4\r\nbody\r\n0\r\nbroken\r\n\r\n", &[400]),
    ]
    .map(|(body, expected)| (post("transfer-encoding: chunked\r\nconnection: te\r\nte: trailers\r\n", body), expected));
    try_all(64, &cases).await;
}

#[tokio::test]
async fn a_head_is_taken_apart_strictly() {
    let long = format!("GET /{} HTTP/1.1\r\nhost: shop\r\n\r\n", "x".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\nhost: shop\r\n{}\r\n", "a: b\r\n".repeat(200));
    let cases: &[(&str, &[u16])] = &[
        ("GET / HTTP/1.1\r\nhost: shop\r\nx: a\0b\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: shop\r\nx: a\rb\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: shop\r\nx\0y: a\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: shop\r\nx\ry: a\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: shop\r\nx\ny: a\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: shop\r\nx : a\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: shop\r\n: a\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: shop\r\nx\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: shop\r\nx: a\r\n b\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\n host: shop\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: shop\r\nx(y): a\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: shop\r\nx: \u{7f}\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: shop\r\nx: \u{1}\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: shop\r\nhost: other\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nx: y\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: shop, other\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: user@shop\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: shop/x\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost:\r\n\r\n", &[200, 200]),
        ("GET http://user:secret@other/ HTTP/1.1\r\nhost: shop\r\n\r\n", &[200, 200]),
        ("GET http://other/ HTTP/1.1\r\nhost: shop\r\n\r\n", &[200, 200]),
        ("GET https://other/ HTTP/1.1\r\nhost: shop\r\n\r\n", &[200, 200]),
        ("OPTIONS * HTTP/1.1\r\nhost: shop\r\n\r\n", &[200, 200]),
        ("GET * HTTP/1.1\r\nhost: shop\r\n\r\n", &[200, 200]),
        ("CONNECT other:443 HTTP/1.1\r\nhost: other\r\n\r\n", &[501]),
        ("CONNECT / HTTP/1.1\r\nhost: other\r\n\r\n", &[501]),
        ("GET  / HTTP/1.1\r\nhost: shop\r\n\r\n", &[400]),
        ("GET / x HTTP/1.1\r\nhost: shop\r\n\r\n", &[400]),
        ("GET /\tx HTTP/1.1\r\nhost: shop\r\n\r\n", &[400]),
        ("GET / HTTP/1.1 \r\nhost: shop\r\n\r\n", &[400]),
        (" GET / HTTP/1.1\r\nhost: shop\r\n\r\n", &[400]),
        ("GET /\r\nhost: shop\r\n\r\n", &[400]),
        ("GET / HTTP/0.9\r\nhost: shop\r\n\r\n", &[400]),
        ("GET / HTTP/1.2\r\nhost: shop\r\n\r\n", &[400]),
        ("GET / HTTP/3.0\r\nhost: shop\r\n\r\n", &[400]),
        ("GET / http/1.1\r\nhost: shop\r\n\r\n", &[400]),
        ("GET / HTTP/1.10\r\nhost: shop\r\n\r\n", &[400]),
        ("GET x HTTP/1.1\r\nhost: shop\r\n\r\n", &[400]),
        ("GET /\0 HTTP/1.1\r\nhost: shop\r\n\r\n", &[400]),
        ("G(T / HTTP/1.1\r\nhost: shop\r\n\r\n", &[400]),
        ("G\0T / HTTP/1.1\r\nhost: shop\r\n\r\n", &[400]),
        ("SPLIT / HTTP/1.1\r\nhost: shop\r\n\r\n", &[200, 200]),
        ("\r\nGET / HTTP/1.1\r\nhost: shop\r\n\r\n", &[200, 200]),
        ("GET / HTTP/1.1\nhost: shop\n\n", &[200, 200]),
        (&long, &[431]),
        (&many, &[431]),
    ];
    try_all(65, cases).await;
}

#[tokio::test]
async fn a_body_passes_with_methods_that_mostly_have_none() {
    let (front, recorder) = recorded(66).await;
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        for body in ["content-length: 38\r\n\r\n", "transfer-encoding: chunked\r\n\r\n26\r\n"] {
            let end = if body.ends_with("26\r\n") { "\r\n0\r\n\r\n" } else { "" };
            let request = format!("{method} / HTTP/1.1\r\nhost: shop\r\n{body}{SMUGGLED}{end}{AFTER}");
            let answers = answers(&front, request.as_bytes(), &[method, "GET"]).await;
            assert_eq!(answers.iter().map(Message::status).collect::<Vec<_>>(), [200, 200], "{request:?}");
            let bodies: Vec<_> =
                recorder.take().into_iter().map(|seen| String::from_utf8(seen.body).unwrap()).collect();
            assert_eq!(bodies, [SMUGGLED, ""], "{request:?}");
        }
    }
}

const SMUGGLED_ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled";

/// Has the task answer so, and asks for something else after it, on the same connection of the caller. `None` is an answer that
/// breaks off: it may not look whole to the caller.
async fn answer_all<R: AsRef<str>>(number: u8, method: &str, cases: &[(R, Option<(u16, &str)>)]) {
    let (front, recorder) = recorded(number).await;
    let mut wrong = Vec::new();
    for (bad, expected) in cases {
        let bad = bad.as_ref();
        *recorder.bad.lock().unwrap() = format!("{bad}{SMUGGLED_ANSWER}").into_bytes();
        let request = format!("{method} /bad HTTP/1.1\r\nhost: shop\r\n\r\n{AFTER}");
        let answers = answers(&front, request.as_bytes(), &[method, "GET"]).await;
        let got: Vec<_> = answers
            .iter()
            .filter(|answer| answer.status() >= 200)
            .map(|answer| (answer.status(), String::from_utf8_lossy(&answer.body).into_owned()))
            .collect();
        let is_well = match (expected, got.as_slice()) {
            // Its head may be there, as far as it was well.
            (None, []) => true,
            (Some((502, _)), [(502, _), after]) => *after == (200, "ok".to_owned()),
            (Some((status, body)), [first, rest @ ..]) => {
                *first == (*status, (*body).to_owned()) && (rest.is_empty() || rest == [(200, "ok".to_owned())])
            }
            (None, _) | (Some(_), []) => false,
        };
        if !is_well {
            wrong.push(format!("{bad:.200?}: {got:?}"));
        }
        recorder.take();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(front.ask("GET", "/").await.status, 200);
}

#[tokio::test]
async fn what_follows_an_answer_of_a_task_is_nobodys() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let large = format!("{ok}x: {}\r\ncontent-length: 2\r\n\r\nok", "y".repeat(100 * 1024));
    let many = format!("{ok}{}content-length: 2\r\n\r\nok", "x: y\r\n".repeat(5_000));
    let infos =
        format!("{}{ok}content-length: 2\r\n\r\nok", "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".repeat(1_000));
    let head = |fields: &str, body: &str| format!("{ok}{fields}\r\n{body}");
    let bad = Some((502, ""));
    let chunked = "transfer-encoding: chunked\r\n";
    let cases = [
        (head("content-length: 2\r\n", "ok"), Some((200, "ok"))),
        (head("content-length: 2\r\ncontent-length: 2\r\n", "ok"), Some((200, "ok"))),
        (head("content-length: 2\r\ncontent-length: 0\r\n", "ok"), bad),
        (head("content-length: 2, 0\r\n", "ok"), bad),
        (head("content-length: +2\r\n", "ok"), bad),
        (head("content-length: -2\r\n", "ok"), bad),
        (head("content-length: 0x2\r\n", "ok"), bad),
        (head("content-length: 18446744073709551618\r\n", "ok"), bad),
        (head("content-length:\r\n", "ok"), bad),
        (head("content-length: 2\r\ntransfer-encoding: chunked\r\n", "3\r\nyes\r\n0\r\n\r\n"), Some((200, "yes"))),
        (head("transfer-encoding: chunked\r\ncontent-length: 2\r\n", "3\r\nyes\r\n0\r\n\r\n"), Some((200, "yes"))),
        (head(chunked, "3;a=b\r\nyes\r\n0\r\nx: y\r\n\r\n"), Some((200, "yes"))),
        (head(chunked, "-3\r\nyes\r\n0\r\n\r\n"), None),
        (head(chunked, "0x3\r\nyes\r\n0\r\n\r\n"), None),
        (head(chunked, "3\r\nyesx\r\n0\r\n\r\n"), None),
        (head(chunked, "3\nyes\n0\n\n"), None),
        (head(chunked, "10000000000000003\r\nyes\r\n0\r\n\r\n"), None),
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), Some((204, ""))),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok".to_owned(), Some((204, ""))),
        (
            "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
            Some((204, "")),
        ),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\nok".to_owned(), Some((304, ""))),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned(), bad),
        ("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_owned(), bad),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n".to_owned(),
            Some((204, "")),
        ),
        (infos, Some((200, "ok"))),
        (head("x: y\r\n z\r\ncontent-length: 2\r\n", "ok"), bad),
        (head("x: \u{1}\r\ncontent-length: 2\r\n", "ok"), bad),
        (head("x: \0\r\ncontent-length: 2\r\n", "ok"), bad),
        (head("x: a\rb\r\ncontent-length: 2\r\n", "ok"), bad),
        (head("x\0y: a\r\ncontent-length: 2\r\n", "ok"), bad),
        (head("x : a\r\ncontent-length: 2\r\n", "ok"), bad),
        (head(": a\r\ncontent-length: 2\r\n", "ok"), bad),
        ("HTTP/1.1 99 Low\r\n\r\n".to_owned(), bad),
        ("HTTP/1.1 20 Low\r\n\r\n".to_owned(), bad),
        ("HTTP/1.1 2000 High\r\n\r\n".to_owned(), bad),
        ("HTTP/2.0 200 OK\r\n\r\n".to_owned(), bad),
        ("ICY 200 OK\r\n\r\n".to_owned(), bad),
        ("<html>hello</html>\r\n".to_owned(), bad),
        ("\0\0\0\0".to_owned(), bad),
        (large, Some((200, "ok"))),
        (many, bad),
    ];
    answer_all(67, "GET", &cases).await;
}

#[tokio::test]
async fn an_answer_to_a_head_request_has_no_body_whatever_it_says() {
    let cases = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n", Some((200, ""))),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n", Some((200, ""))),
        ("HTTP/1.1 200 OK\r\n\r\n", Some((200, ""))),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n", Some((502, ""))),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n", Some((200, ""))),
        ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", Some((502, ""))),
    ];
    answer_all(68, "HEAD", &cases).await;
}

/// A frame of HTTP/2 on this stream.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Fields as HPACK has them where nothing is compressed: any byte may be in them.
fn fields(all: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    all.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// Fields, the body in its frames, and what front should make of it.
type OverHttp2<'a> = (Vec<(&'a str, &'a str)>, &'a [&'a str], &'a str);

/// What front made of a request on stream 1: the status, of which HPACK has one byte, or an end of the stream or of all.
async fn outcome_over_http_2(front: &Front, all: &[(&str, &str)], bodies: &[&str]) -> String {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    let mut stream = front.connect().await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(HEADERS, if bodies.is_empty() { 5 } else { 4 }, 1, &fields(all)));
    for (place, body) in bodies.iter().enumerate() {
        bytes.extend(frame(DATA, u8::from(place + 1 == bodies.len()), 1, body.as_bytes()));
    }
    stream.write_all(&bytes).await.unwrap();
    loop {
        let mut head = [0; 9];
        let Ok(read) = timeout(PATIENCE, stream.read_exact(&mut head)).await.expect("an answer comes") else {
            return "closed".to_owned();
        };
        assert_eq!(read, 9);
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        match head[3] {
            HEADERS if payload[0] == 0x88 => return "200".to_owned(),
            HEADERS if payload[0] == 0x8c => return "400".to_owned(),
            HEADERS => return "another status".to_owned(),
            RST_STREAM | GOAWAY => return "refused".to_owned(),
            _ => {}
        }
    }
}

#[tokio::test]
async fn what_http_2_may_carry_and_http_1_may_not_does_not_split_a_request() {
    const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "shop")];
    let (front, recorder) = recorded(69).await;
    let with = |field: (&'static str, &'static str)| [&GET[..], &[field]].concat();
    let but = |place: usize, value: &'static str| {
        let mut all = GET.to_vec();
        all[place].1 = value;
        all
    };
    let splits = "x\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: shop\r\n\r\n";
    let cases: [OverHttp2<'_>; 36] = [
        (GET.to_vec(), &[], "200"),
        (with(("x", "y")), &[], "200"),
        (with(("x", splits)), &[], "refused"),
        (with(("x", "a\nb")), &[], "refused"),
        (with(("x", "a\rb")), &[], "refused"),
        (with(("x", "a\0b")), &[], "refused"),
        (with(("x\r\ny", "z")), &[], "refused"),
        (with(("x: y", "z")), &[], "refused"),
        (with(("x y", "z")), &[], "refused"),
        (with(("", "z")), &[], "refused"),
        (with(("X", "z")), &[], "refused"),
        (but(0, splits), &[], "refused"),
        (but(0, "GET / HTTP/1.1"), &[], "refused"),
        (but(2, splits), &[], "refused"),
        (but(2, "/ HTTP/1.1\r\nx: y"), &[], "refused"),
        (but(2, "/ HTTP/1.1"), &[], "refused"),
        (but(3, splits), &[], "refused"),
        (but(3, "shop\r\nx: y"), &[], "refused"),
        (but(3, "shop/x"), &[], "refused"),
        (with(("host", "other")), &[], "200"),
        (with(("host", splits)), &[], "refused"),
        (with(("transfer-encoding", "chunked")), &["body"], "refused"),
        (with(("connection", "close")), &[], "refused"),
        (with(("upgrade", "h2c")), &[], "refused"),
        (with(("keep-alive", "5")), &[], "refused"),
        (with(("te", "gzip")), &[], "refused"),
        (with(("te", "trailers")), &[], "200"),
        (with(("content-length", "4")), &["body"], "200"),
        (with(("content-length", "4")), &["bo", "dy"], "200"),
        (with(("content-length", "2")), &["body"], "refused"),
        (with(("content-length", "0")), &[SMUGGLED], "refused"),
        (with(("content-length", "42")), &["body"], "refused"),
        (with(("content-length", "4")), &[], "refused"),
        (with(("content-length", "+4")), &["body"], "refused"),
        (with(("content-length", "4, 4")), &["body"], "refused"),
        (with(("x", "y")), &["body", SMUGGLED], "200"),
    ];
    let mut wrong = Vec::new();
    for (all, bodies, expected) in cases {
        let outcome = outcome_over_http_2(&front, &all, bodies).await;
        let seen = recorder.take();
        let is_as_sent = seen.iter().all(|request| {
            request.start == "GET / HTTP/1.1"
                && request.values("host") == ["shop"]
                && request.body == bodies.concat().as_bytes()
        });
        if outcome != expected || !is_as_sent || seen.len() != usize::from(outcome == "200") {
            wrong.push(format!("{all:?}: {outcome}, the task got {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

//! A reader that takes nothing but what front itself should write.

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::support::PATIENCE;

/// A message as a reader finds it that takes nothing but what front itself should write.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) start: String,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: String,
}

impl Message {
    /// The first message of `bytes` and its length; none if more is to come. `ends` is how an answer without a length does.
    pub(super) fn first(bytes: &[u8], asked: Option<&str>, ends: bool) -> Result<Option<(Self, usize)>, String> {
        let Some(head) = position(bytes, b"\r\n\r\n") else { return Ok(None) };
        let text: String = bytes[..head].iter().map(|byte| char::from(*byte)).collect();
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let mut message = Self { start, fields: vec![], body: vec![], trailers: String::new() };
        for line in lines {
            let (name, value) = line.split_once(": ").ok_or(format!("no field: {line:?}"))?;
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
                return Err(format!("no name: {line:?}"));
            }
            message.fields.push((name.to_lowercase(), value.to_owned()));
        }
        if text.replace("\r\n", "").contains(['\r', '\n', '\0']) {
            return Err(format!("control characters in {text:?}"));
        }
        let bytes = &bytes[head + 4..];
        let status = message.status();
        let is_bare = asked == Some("HEAD") || [204, 304].contains(&status) || (100..200).contains(&status);
        let body = match (&*message.values("content-length"), &*message.values("transfer-encoding")) {
            ([], []) if asked.is_some() && !is_bare => ends.then(|| (bytes.to_vec(), bytes.len())),
            _ if is_bare => Some((vec![], 0)),
            ([], []) => Some((vec![], 0)),
            ([length], []) => {
                let length: usize = length.parse().map_err(|_| format!("a length of {length:?}"))?;
                (bytes.len() >= length).then(|| (bytes[..length].to_vec(), length))
            }
            ([], ["chunked"]) => match chunked(bytes)? {
                Some((body, trailers, length)) => {
                    message.trailers = trailers;
                    Some((body, length))
                }
                None => None,
            },
            both => return Err(format!("framed by {both:?}")),
        };
        Ok(body.map(|(body, length)| (Self { body, ..message }, head + 4 + length)))
    }

    /// The next message of the stream; none when it ends.
    pub(super) async fn read(
        stream: &mut TcpStream,
        buffer: &mut Vec<u8>,
        asked: Option<&str>,
    ) -> Result<Option<Self>, String> {
        let mut ends = false;
        loop {
            if let Some((message, length)) = Self::first(buffer, asked, ends)? {
                buffer.drain(..length);
                return Ok(Some(message));
            }
            if ends {
                return Ok(None);
            }
            let read = timeout(PATIENCE, stream.read_buf(buffer)).await.expect("the connection ends");
            ends = read.unwrap_or(0) == 0;
        }
    }

    pub(super) fn values(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect()
    }

    pub(super) fn status(&self) -> u16 {
        self.start.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0)
    }

    pub(super) fn method(&self) -> &str {
        self.start.split(' ').next().unwrap()
    }
}

fn position(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|found| found == part)
}

/// A chunked body, the fields after it, and the length of both.
fn chunked(bytes: &[u8]) -> Result<Option<(Vec<u8>, String, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = position(&bytes[at..], b"\r\n") else { return Ok(None) };
        let size = String::from_utf8_lossy(&bytes[at..at + end]).into_owned();
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("a chunk of {size:?}"));
        }
        let size = usize::from_str_radix(&size, 16).map_err(|error| error.to_string())?;
        if size == 0 {
            let Some(rest) = position(&bytes[at + end..], b"\r\n\r\n") else { return Ok(None) };
            let trailers = String::from_utf8_lossy(&bytes[at + end..at + end + rest]).into_owned();
            return Ok(Some((body, trailers, at + end + rest + 4)));
        }
        at += end + 2;
        if bytes.len() < at + size + 2 {
            return Ok(None);
        }
        body.extend(&bytes[at..at + size]);
        at += size;
        if &bytes[at..at + 2] != b"\r\n" {
            return Err("a chunk without an end".to_owned());
        }
        at += 2;
    }
}

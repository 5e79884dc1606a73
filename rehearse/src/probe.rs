//! The health check's probe: an HTTP request, as `curl -f` or `init --check` make it.

use std::{net::Ipv4Addr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Uri, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// Where tasks are probed: a URL in which `{ip}` and `{port}` stand for the task's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProbeUrl(String);

impl std::str::FromStr for ProbeUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected a URL such as http://{ip}:{port}/health";
        let filled = Self(text.to_owned()).filled(Ipv4Addr::LOCALHOST, 1);
        let url: Uri = filled.parse().map_err(|error| format!("{error}: {EXPECTED}"))?;
        if url.scheme_str() != Some("http") || url.host().is_none_or(|host| host.parse::<Ipv4Addr>().is_err()) {
            return Err(EXPECTED.to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Display for ProbeUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl ProbeUrl {
    fn filled(&self, address: Ipv4Addr, port: u16) -> String {
        self.0.replace("{ip}", &address.to_string()).replace("{port}", &port.to_string())
    }

    /// Whether the task answers with a status below 400 within `limit`.
    pub async fn is_good(&self, address: Ipv4Addr, port: u16, limit: Duration) -> bool {
        timeout(limit, self.ask(address, port)).await.ok().flatten().is_some_and(|status| status < 400)
    }

    async fn ask(&self, address: Ipv4Addr, port: u16) -> Option<u16> {
        let url: Uri = self.filled(address, port).parse().ok()?;
        let host: Ipv4Addr = url.host()?.parse().ok()?;
        let stream = TcpStream::connect((host, url.port_u16().unwrap_or(80))).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path).header(HOST, url.authority()?.as_str()).body(Empty::<Bytes>::new()).ok()?;
        let asking = async {
            let response = sender.send_request(request).await.ok()?;
            let status = response.status().as_u16();
            response.into_body().collect().await.ok()?;
            Some(status)
        };
        let driving = async {
            // Whoever asks sees how it ended.
            let _ = connection.await;
            std::future::pending().await
        };
        tokio::select! {
            status = asking => status,
            never = driving => never,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn answers(answer: &'static str) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_ne!(stream.read(&mut [0; 1024]).await.unwrap(), 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
            if answer.is_empty() {
                std::future::pending::<()>().await;
            }
        });
        let url: ProbeUrl = "http://{ip}:{port}/health".parse().unwrap();
        let is_good = url.is_good(Ipv4Addr::LOCALHOST, port, Duration::from_millis(300)).await;
        serving.abort();
        is_good
    }

    #[tokio::test]
    async fn a_probe_is_good_below_400_and_in_time() {
        assert!(answers("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await);
        assert!(answers("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n").await);
        assert!(!answers("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await);
        assert!(!answers("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n").await);
        assert!(!answers("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ncut").await);
        assert!(!answers("").await, "it is too late");
        let nobody: ProbeUrl = "http://{ip}:1/".parse().unwrap();
        assert!(!nobody.is_good(Ipv4Addr::LOCALHOST, 1, Duration::from_millis(300)).await);
    }

    #[test]
    fn a_url_names_an_address() {
        for text in ["", "/health", "https://{ip}:{port}/", "http://task/health", "{ip}:{port}"] {
            assert!(text.parse::<ProbeUrl>().unwrap_err().contains("http://{ip}:{port}/health"), "{text}");
        }
    }
}

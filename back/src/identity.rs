//! Who this task is: told by flags, by the ECS metadata, or by the hostname, in this order.

use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tracing::warn;

/// How long the metadata may take. It is served by the host itself; if it does not answer, the task starts without.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);

/// An answer that is longer is no task metadata.
const METADATA_LIMIT: usize = 1024 * 1024;

/// The revision of a task that nobody gave one.
const LOCAL: &str = "local";

/// What tells this task from the others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// The last part of the ECS task ARN, or what stands in for it.
    pub task_id: String,
    /// The family of its task definition, on ECS.
    pub family: Option<String>,
    /// Where it runs, on ECS.
    pub availability_zone: Option<String>,
    /// What the task runs: the task definition's revision on ECS.
    pub revision: String,
}

impl Identity {
    /// Takes `task_id` and `revision` as they are, and the rest from the metadata, if there is any.
    ///
    /// A metadata endpoint that fails is reported in the log and replaced: a task without its proper name is better
    /// than no task.
    pub async fn discover(task_id: Option<String>, revision: Option<String>, metadata: Option<&Uri>) -> Self {
        let known = match metadata {
            Some(url) => ask(url).await.unwrap_or_else(|error| {
                warn!(%url, error, "no ECS metadata: falling back to the hostname");
                Metadata::default()
            }),
            None => Metadata::default(),
        };
        Self {
            task_id: task_id.or(known.task_id).unwrap_or_else(hostname),
            revision: revision.or(known.revision).unwrap_or_else(|| LOCAL.to_owned()),
            family: known.family,
            availability_zone: known.availability_zone,
        }
    }
}

/// The hostname, which is the container's short id under Docker.
fn hostname() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// What the metadata of a task say of its identity.
#[derive(Debug, Default, Eq, PartialEq)]
struct Metadata {
    task_id: Option<String>,
    revision: Option<String>,
    family: Option<String>,
    availability_zone: Option<String>,
}

impl Metadata {
    /// Reads a "task" document of the ECS task metadata endpoint version 4.
    fn read(document: &[u8]) -> Result<Self, String> {
        let document: Value = serde_json::from_slice(document).map_err(|error| format!("no JSON: {error}"))?;
        // arn:aws:ecs:REGION:ACCOUNT:task/CLUSTER/ID, or without the cluster in the old format.
        let arn = document["TaskARN"].as_str().ok_or("no TaskARN")?;
        let task_id = arn.rsplit_once('/').and_then(|(_, task_id)| visible(task_id).ok());
        let task_id = task_id.ok_or_else(|| format!("TaskARN {arn:?} has no task id"))?;
        let revision = match &document["Revision"] {
            Value::String(revision) => visible(revision).ok(),
            Value::Number(revision) => Some(revision.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        let text = |field: &str| document[field].as_str().and_then(|text| visible(text).ok());
        let (family, availability_zone) = (text("Family"), text("AvailabilityZone"));
        Ok(Self { task_id: Some(task_id), revision, family, availability_zone })
    }
}

/// Where an endpoint is whose host needs no resolver. `None` if it does, or if its port is none.
pub fn address_of(endpoint: &Uri) -> Option<SocketAddr> {
    const HTTP: u16 = 80;
    let authority = endpoint.authority()?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    // A port that is too large counts as none, and would silently become 80.
    let has_port = authority.as_str().rsplit(']').next().is_some_and(|rest| rest.contains(':'));
    match authority.port_u16() {
        None if has_port => None,
        port => Some(SocketAddr::new(host, port.unwrap_or(HTTP))),
    }
}

/// Text that can stand in a header and in one line of an answer.
///
/// # Errors
///
/// What was expected.
pub fn visible(text: &str) -> Result<String, &'static str> {
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err("expected visible ASCII characters without spaces") }
}

/// Asks the endpoint once. All of it takes at most [`METADATA_TIMEOUT`].
async fn ask(endpoint: &Uri) -> Result<Metadata, String> {
    let document = timeout(METADATA_TIMEOUT, get(endpoint))
        .await
        .map_err(|_| format!("no answer within {METADATA_TIMEOUT:?}"))?
        .map_err(|error| error.to_string())?;
    Metadata::read(&document)
}

async fn get(endpoint: &Uri) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    let address = address_of(endpoint).ok_or("its host is no address")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
    let request = Request::get(format!("{}/task", endpoint.path().trim_end_matches('/')))
        .header(header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(format!("answered {}", response.status()).into());
        }
        Ok(Limited::new(response.into_body(), METADATA_LIMIT).collect().await?.to_bytes())
    };
    // The connection is driven here rather than in a task of its own: it ends with the answer.
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(task_id: &str, revision: Option<&str>) -> Metadata {
        Metadata { task_id: Some(task_id.to_owned()), revision: revision.map(str::to_owned), ..Metadata::default() }
    }

    #[test]
    fn the_task_id_is_the_end_of_the_task_arn() {
        let new = br#"{"TaskARN": "arn:aws:ecs:ap-northeast-1:111122223333:task/Back/0d1e2f", "Revision": "7"}"#;
        assert_eq!(Metadata::read(new), Ok(metadata("0d1e2f", Some("7"))));
        let old = br#"{"TaskARN": "arn:aws:ecs:ap-northeast-1:111122223333:task/0d1e2f"}"#;
        assert_eq!(Metadata::read(old), Ok(metadata("0d1e2f", None)));
        let number = br#"{"TaskARN": "task/0d1e2f", "Revision": 7}"#;
        assert_eq!(Metadata::read(number), Ok(metadata("0d1e2f", Some("7"))));
    }

    #[test]
    fn the_family_and_the_zone_are_told_where_they_are_known() {
        let whole = br#"{"TaskARN": "task/0d1e2f", "Family": "shop", "AvailabilityZone": "eu-west-1a"}"#;
        let read = Metadata::read(whole).unwrap();
        assert_eq!((read.family.as_deref(), read.availability_zone.as_deref()), (Some("shop"), Some("eu-west-1a")));
    }

    #[test]
    fn what_is_no_task_metadata_is_refused() {
        for document in [
            "",
            "[]",
            "{}",
            r#"{"TaskARN": 7}"#,
            r#"{"TaskARN": "none"}"#,
            r#"{"TaskARN": "a/"}"#,
            r#"{"TaskARN": "a/b\nc"}"#,
        ] {
            assert!(Metadata::read(document.as_bytes()).is_err(), "{document}");
        }
    }
}

//! The `back` binary: learns who it is and serves until it is told to stop.

use std::{process::ExitCode, sync::Arc};

use back::{cli::Cli, identity::Identity, routes};
use hyper::Request;
use service::{
    phase::Phase,
    process::{self, StartError},
    server::{self, Limits, Stopped},
};
use tokio::sync::watch;
use tracing::info;

fn main() -> ExitCode {
    process::run("back", |cli: &Cli| (cli.log_format, cli.log_level), serve)
}

async fn serve(cli: Cli, phase: watch::Receiver<Phase>) -> Result<Stopped, StartError> {
    let identity = Arc::new(Identity::discover(cli.task_id, cli.revision, cli.metadata_uri.as_ref()).await);
    let (listener, address) = process::listen(cli.listen)?;
    info!(%address, task_id = identity.task_id, revision = identity.revision, "serving");
    let handler = move |request: Request<_>, _caller| {
        let identity = Arc::clone(&identity);
        async move {
            let (parts, body) = request.into_parts();
            routes::read_to_end(body).await;
            routes::answer(&identity, &Request::from_parts(parts, ()))
        }
    };
    let limits = Limits { drain_timeout: cli.drain_timeout, ..Limits::default() };
    Ok(server::serve(listener, phase, limits, handler).await)
}

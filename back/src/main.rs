//! The `back` binary: reads the flags, learns who it is, serves until it is told to stop.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use back::{cli::Cli, error::Error, identity::Identity, routes};
use clap::Parser;
use service::{log, phase::Phase, server, signals::Signals};
use tokio::{net::TcpListener, sync::watch};
use tracing::{info, warn};

/// The exit code of a service that could not start.
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // The help or the version, on stdout; or what is wrong with the flags, on stderr.
            let _ = error.print();
            return if error.use_stderr() { OWN_FAILURE.into() } else { ExitCode::SUCCESS };
        }
    };
    log::start(cli.log_format, cli.log_level);
    let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::EventLoop);
    match event_loop.and_then(|event_loop| event_loop.block_on(serve(cli))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "back: {error}");
            OWN_FAILURE.into()
        }
    }
}

async fn serve(cli: Cli) -> Result<(), Error> {
    let signals = Signals::install().map_err(Error::Signals)?;
    let (phase, watched) = watch::channel(Phase::default());
    let serving = async {
        let identity = Arc::new(Identity::discover(cli.task_id, cli.revision, cli.metadata_uri.as_ref()).await);
        let failed = |source| Error::Listen { address: cli.listen, source };
        let listener = TcpListener::bind(cli.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        info!(%address, task_id = identity.task_id, revision = identity.revision, "serving");
        let handler = move |request, _peer| {
            let identity = Arc::clone(&identity);
            async move { routes::answer(&identity, &request) }
        };
        Ok(server::serve(listener, watched, cli.drain_timeout, handler).await)
    };
    let stopped = tokio::select! {
        stopped = serving => stopped?,
        never = signals.publish(phase) => match never {},
    };
    if stopped.cut_off == 0 {
        info!("stopped: every request was answered");
    } else {
        warn!(cut_off = stopped.cut_off, "stopped: connections were still in use and have been cut off");
    }
    Ok(())
}

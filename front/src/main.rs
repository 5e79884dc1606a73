//! The `front` binary: reads the flags, looks its backend up, serves until it is told to stop.

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
};

use clap::Parser;
use front::{
    backend::{Backend, Limits},
    cli::{Cli, Host},
    discovery::Discovery,
    endpoints::Endpoints,
    error::Error,
    resolver::Resolver,
    routes::Front,
};
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
            let _ = writeln!(io::stderr(), "front: {error}");
            OWN_FAILURE.into()
        }
    }
}

async fn serve(cli: Cli) -> Result<(), Error> {
    let signals = Signals::install().map_err(Error::Signals)?;
    let (phase, watched) = watch::channel(Phase::default());
    let limits = Limits { connect_timeout: cli.connect_timeout, idle_timeout: cli.idle_timeout };
    let backend = Arc::new(Backend::new(limits));
    let mut endpoints = Endpoints::new(cli.policy());
    let resolver = match &cli.backend.host {
        Host::Name(name) => Some(Resolver::new(name, cli.backend.port, &cli.resolver, cli.dns_timeout)?),
        Host::Address(address) => {
            let address = SocketAddr::new(*address, cli.backend.port);
            endpoints = Endpoints::fixed(cli.policy(), address);
            backend.follow(&[address], &[]);
            None
        }
    };
    let discovery = Arc::new(Discovery::new(endpoints));
    let refreshing = async {
        match &resolver {
            Some(resolver) => discovery.refresh(resolver, &backend).await,
            None => std::future::pending().await,
        }
    };
    let failed = |source| Error::Listen { address: cli.listen, source };
    let listener = TcpListener::bind(cli.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    info!(%address, backend = %cli.backend, "serving");
    let front = Arc::new(Front {
        url: cli.backend.clone(),
        discovery: Arc::clone(&discovery),
        backend: Arc::clone(&backend),
        request_timeout: cli.request_timeout,
    });
    let handler = move |request, caller| Arc::clone(&front).answer(request, caller);
    let stopped = tokio::select! {
        stopped = server::serve(listener, watched, cli.drain_timeout, handler) => stopped,
        never = signals.publish(phase) => match never {},
        never = refreshing => match never {},
    };
    if stopped.cut_off == 0 {
        info!("stopped: every request was answered");
    } else {
        warn!(cut_off = stopped.cut_off, "stopped: connections were still in use and have been cut off");
    }
    Ok(())
}

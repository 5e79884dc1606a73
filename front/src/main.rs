//! The `front` binary: looks its backend up and serves until it is told to stop.

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, Mutex},
};

use front::{
    admin::Admin,
    backend::{Backend, Limits},
    cli::{Cli, Host},
    discovery::Discovery,
    endpoints::Endpoints,
    error::Error,
    metrics::Metrics,
    resolver::{Records, Resolver},
    retry::{Budget, BudgetPolicy},
    routes::Front,
};
use service::{
    admin,
    phase::Phase,
    process,
    server::{self, Stopped},
};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tracing::info;

fn main() -> ExitCode {
    process::run("front", |cli: &Cli| (cli.log_format, cli.log_level), serve)
}

async fn serve(cli: Cli, phase: watch::Receiver<Phase>) -> Result<Stopped, Error> {
    let limits = Limits {
        protocol: cli.backend_protocol,
        connect_timeout: cli.connect_timeout,
        idle_timeout: cli.idle_timeout,
        max_age: cli.connection_max_age,
        tcp_user_timeout: cli.tcp_user_timeout,
    };
    let budget = BudgetPolicy { percent: cli.retry_percent, per_second: cli.retry_per_second };
    let metrics = Arc::new(Metrics::default());
    let backend = Arc::new(Backend::new(limits, Arc::clone(&metrics)));
    let mut endpoints = Endpoints::new(cli.policy());
    let resolver = match &cli.backend.host {
        Host::Name(name) => {
            let records = Records::Addresses { port: cli.backend.port };
            Some(Resolver::new(name, records, &cli.resolver, cli.dns_timeout)?)
        }
        Host::Service(name) => Some(Resolver::new(name, Records::Services, &cli.resolver, cli.dns_timeout)?),
        Host::Address(address) => {
            let address = SocketAddr::new(*address, cli.backend.port);
            endpoints = Endpoints::fixed(cli.policy(), address, Instant::now().into_std());
            backend.follow(&[address], &[]);
            None
        }
    };
    let discovery = Arc::new(Discovery::new(endpoints, Arc::clone(&metrics)));
    let refreshing = async {
        match &resolver {
            Some(resolver) => discovery.refresh(resolver, &backend).await,
            None => std::future::pending().await,
        }
    };
    let admin = Admin { discovery: Arc::clone(&discovery), metrics: Arc::clone(&metrics), phase: phase.clone() };
    let admin = Arc::new(admin);
    let admin = admin::serve(cli.admin_listen, move |request| {
        let answer = admin.answer(&request);
        async { answer }
    })?;
    let (listener, address) = process::listen(cli.listen)?;
    info!(%address, backend = %cli.backend, "serving");
    let front = Arc::new(Front {
        url: cli.backend,
        discovery: Arc::clone(&discovery),
        backend: Arc::clone(&backend),
        protocol: cli.backend_protocol,
        request_timeout: cli.request_timeout,
        continue_timeout: cli.continue_timeout,
        body_idle_timeout: cli.body_idle_timeout,
        tunnel_idle_timeout: cli.tunnel_idle_timeout,
        answer_timeout: cli.answer_timeout,
        wait_for_task: cli.wait_for_task,
        max_attempts: cli.max_attempts,
        budget: Mutex::new(Budget::new(budget, Instant::now().into_std())),
        metrics,
        permits: Arc::new(Semaphore::new(cli.max_in_flight)),
    });
    let granted = server::Limits {
        max_connections: cli.max_connections,
        idle_timeout: cli.caller_idle_timeout,
        head_timeout: cli.head_timeout,
        body_idle_timeout: cli.body_idle_timeout,
        drain_timeout: cli.drain_timeout,
    };
    let handler = move |request, caller| Arc::clone(&front).answer(request, caller);
    tokio::select! {
        stopped = server::serve(listener, phase, granted, handler) => Ok(stopped),
        never = refreshing => match never {},
        never = backend.sweep_for_ever() => match never {},
        never = admin => match never {},
    }
}

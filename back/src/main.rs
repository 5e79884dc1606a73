//! The `back` binary: learns who it is and serves until it is told to stop.

use std::{
    convert::Infallible,
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
};

use back::{admin::Admin, cli::Cli, identity::Identity, routes::Task};
use service::{
    admin,
    phase::Phase,
    process::{self, StartError},
    server::{self, Limits, Stopped},
};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

fn main() -> ExitCode {
    process::run("back", |cli: &Cli| (cli.log_format, cli.log_level), serve)
}

async fn serve(cli: Cli, asked: watch::Receiver<Phase>) -> Result<Stopped, StartError> {
    let identity = Identity::discover(cli.task_id.clone(), cli.revision.clone(), cli.metadata_uri.as_ref()).await;
    let task = Arc::new(Task::new(identity, cli.enable_faults));
    let (phase, watched) = watch::channel(Phase::default());
    let admin = Admin { task: Arc::clone(&task), phase: watched.clone() };
    let admin = admin::serve(cli.admin_listen, move |request| admin.clone().answer(request))?;
    tokio::select! {
        stopped = serve_callers(&cli, &task, watched) => stopped,
        never = follow(asked, phase, &task) => match never {},
        never = admin => match never {},
    }
}

async fn serve_callers(cli: &Cli, task: &Arc<Task>, phase: watch::Receiver<Phase>) -> Result<Stopped, StartError> {
    let mut stop = phase.clone();
    tokio::select! {
        biased;
        () = sleep(cli.start_delay) => {}
        _ = stop.wait_for(|phase| !phase.accepts()) => return Ok(Stopped { cut_off: 0 }),
    }
    let (listener, address) = process::listen(cli.listen)?;
    let Identity { task_id, family, revision, availability_zone } = &task.identity;
    info!(%address, task_id, family, revision, availability_zone, "serving");
    task.is_listening.store(true, Ordering::Relaxed);
    let limits = Limits { drain_timeout: cli.drain_timeout, ..Limits::default() };
    let task = Arc::clone(task);
    let handler = move |request, _caller| {
        let task = Arc::clone(&task);
        async move { task.answer(request).await }
    };
    Ok(server::serve(listener, phase, limits, handler).await)
}

/// Passes on what is asked of the process, unless a fault ignores it.
async fn follow(mut asked: watch::Receiver<Phase>, phase: watch::Sender<Phase>, task: &Task) -> Infallible {
    while asked.changed().await.is_ok() {
        let next = *asked.borrow_and_update();
        if task.ignores_stop() {
            warn!("a signal to stop is ignored: a fault says so");
        } else {
            phase.send_replace(next);
        }
    }
    std::future::pending().await
}

//! Signals become phases.

use std::{convert::Infallible, io};

use futures_util::StreamExt;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use tokio::sync::watch;
use tracing::info;

use crate::phase::{Asked, Phase};

/// The handlers of the signals that a service knows: SIGUSR1, SIGTERM and SIGINT.
pub struct Signals(signal_hook_tokio::Signals);

impl Signals {
    /// Installs the handlers. Do it before anything else: a signal that comes earlier ends the process.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn install() -> io::Result<Self> {
        signal_hook_tokio::Signals::new([SIGINT, SIGTERM, SIGUSR1]).map(Self)
    }

    /// Publishes the phase that each signal leads to. Runs until it is dropped.
    pub async fn publish(mut self, phase: watch::Sender<Phase>) -> Infallible {
        loop {
            // The stream ends when somebody closes its handle, and nobody has one.
            let Some(signal) = self.0.next().await else { std::future::pending().await };
            let asked = if signal == SIGUSR1 { Asked::LameDuck } else { Asked::Stop };
            let before = *phase.borrow();
            let after = before.after(asked);
            if after != before {
                match after {
                    Phase::Serving => {}
                    Phase::LameDuck => info!("lame duck: serving, with Connection: close"),
                    Phase::Stopping => info!("stopping: finishing what is in flight"),
                    Phase::Leaving => info!("asked to stop again: leaving at once"),
                }
                phase.send_replace(after);
            }
        }
    }
}

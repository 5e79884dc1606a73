//! The life of a service's process: flags, logs, signals, the event loop, and the exit code.

use std::{fmt::Display, io, net::SocketAddr, process::ExitCode};

use clap::Parser;
use console::log::{self, LogFormat};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::Builder,
    sync::watch,
};
use tracing::{debug, info, level_filters::LevelFilter, warn};

use crate::{phase::Phase, server::Stopped, signals::Signals};

/// The exit code of a service that could not start. One that was stopped ends with 0.
const OWN_FAILURE: u8 = 125;

/// Connections that the kernel keeps until they are accepted, as far as its own limit (net.core.somaxconn) goes. The standard
/// library's 128 overflow when many callers come at once, and whose packet was dropped tries again after a second.
const QUEUE: u32 = 4096;

/// Why a service could not start. Its text says what, which value, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The event loop could not be made.
    #[error("cannot create the event loop: {0}")]
    EventLoop(#[source] io::Error),
    /// The signal handlers could not be installed.
    #[error("cannot install the signal handlers: {0}")]
    Signals(#[source] io::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}. Choose another --listen, or stop what is listening there")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Runs the service `name` from its flags to its exit code: 0 when it was told to stop, 125 when it could not start.
///
/// `logs` picks the log's format and level from the flags. `serve` serves until the phase it watches says to stop; the
/// signal handlers are there before it begins.
pub fn run<C: Parser, E: Display + From<StartError>>(
    name: &str,
    logs: impl FnOnce(&C) -> (LogFormat, LevelFilter),
    serve: impl AsyncFnOnce(C, watch::Receiver<Phase>) -> Result<Stopped, E>,
) -> ExitCode {
    let flags = match C::try_parse() {
        Ok(flags) => flags,
        Err(error) => {
            // The help or the version, on stdout; or what is wrong with the flags, on stderr.
            let _ = error.print();
            return if error.use_stderr() { OWN_FAILURE.into() } else { ExitCode::SUCCESS };
        }
    };
    let (format, level) = logs(&flags);
    log::start(format, level);
    allow_descriptors();
    log::gather();
    let event_loop =
        Builder::new_current_thread().enable_all().on_thread_park(log::flush).build().map_err(StartError::EventLoop);
    let stopped = event_loop.map_err(E::from).and_then(|event_loop| {
        event_loop.block_on(async {
            let signals = Signals::install().map_err(StartError::Signals)?;
            let (phase, watched) = watch::channel(Phase::default());
            tokio::select! {
                stopped = serve(flags, watched) => stopped,
                never = signals.publish(phase) => match never {},
            }
        })
    });
    let code = match stopped {
        Ok(Stopped { cut_off: 0 }) => {
            info!("stopped: every request was answered");
            ExitCode::SUCCESS
        }
        Ok(Stopped { cut_off }) => {
            warn!(cut_off, "stopped: connections were still in use and have been cut off");
            ExitCode::SUCCESS
        }
        Err(error) => {
            log::tell(&format!("{name}: {error}"));
            OWN_FAILURE.into()
        }
    };
    log::flush();
    code
}

/// Raises the soft limit of descriptors to the hard one: each connection takes one, and the soft one is 1,024 in many
/// containers for the sake of programs that use `select`.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        debug!(%error, "the limit of open descriptors stays as it is");
    }
}

/// Listens on `address`. The address that is returned has the port that was given, or a free one in place of 0.
///
/// # Errors
///
/// [`StartError::Listen`] if the kernel refuses.
pub fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listening = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Whoever was here before has left connections behind that take a minute to go.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(QUEUE)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    listening().map_err(|source| StartError::Listen { address, source })
}

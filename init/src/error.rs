//! What can go wrong before the child runs, and the exit code of each.

use std::{ffi::OsString, io};

use crate::{budget::Overspent, exit, signal::Signal};

/// Why init itself ended. Its text says what, which value, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a command nor `--check`.
    #[error("no command was given: nothing to run. Usage: init [OPTIONS] [--] COMMAND [ARG]...")]
    NoCommand,
    /// The durations contradict each other.
    #[error(transparent)]
    Budget(#[from] Overspent),
    /// An automatic drain without a name to look up.
    #[error("--drain auto has no name to look up: give the one that callers use as --dns-name (INIT_DNS_NAME)")]
    NoDnsName,
    /// The kernel refused the signal for a parent's death.
    #[error("cannot have {signal} sent when the parent dies: {source}")]
    ParentDeathSignal {
        /// The signal.
        signal: Signal,
        /// What the kernel said.
        source: io::Error,
    },
    /// The event loop could not be made.
    #[error("cannot create the event loop: {0}")]
    EventLoop(#[source] io::Error),
    /// The signals could not be taken.
    #[error("cannot take signals: {0}")]
    Signals(#[source] io::Error),
    /// COMMAND could not be started.
    #[error("cannot run {command:?}: {source}{}", hint(source))]
    Spawn {
        /// The command's first word.
        command: OsString,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// The exit code that says whose fault it was: 125 ours, 126 and 127 the command's.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Spawn { source, .. } => exit::of_spawn_failure(source),
            Self::NoCommand
            | Self::Budget(_)
            | Self::NoDnsName
            | Self::ParentDeathSignal { .. }
            | Self::EventLoop(_)
            | Self::Signals(_) => exit::OWN_FAILURE,
        }
    }
}

/// What to look at, where the kernel's words alone mislead.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => {
            ". Check that it is in the image and on PATH, and for a script or a dynamic binary that its interpreter is too"
        }
        Some(libc::ENOEXEC) => {
            ". It must be built for this architecture; a script needs a first line such as #!/bin/sh, or that shell in the image"
        }
        Some(libc::EAGAIN) => {
            ". There may be no more processes: look at the limits of this user (ulimit -u) and of the container (pids)"
        }
        Some(libc::EACCES) => ". It must be a file that this user may execute",
        _ => "",
    }
}

//! Why a rehearsal could not be run.

use std::{io, net::SocketAddr, path::PathBuf};

use crate::{load, script::Fault, timeline::TaskId};

/// Why a rehearsal could not be run: its exit code is 2 then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else has an address.
    #[error("{address} cannot be used: {source}; choose others with --net, or another port with --task-port")]
    Address {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A task of the first revision does not run.
    #[error("{task} of revision 1 is no good: {how}{}", shown(.lines))]
    Task {
        /// Which.
        task: TaskId,
        /// What became of it.
        how: String,
        /// What it wrote last.
        lines: Vec<String>,
    },
    /// The front does not run.
    #[error("the front is no good: {how}{}", shown(.lines))]
    Front {
        /// What became of it.
        how: String,
        /// What it wrote last.
        lines: Vec<String>,
    },
    /// There is no such program.
    #[error("there is no {}: build it with `cargo build --release`, or say where it is with --{name}-binary", .path.display())]
    NoBinary {
        /// Which.
        name: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The DNS server cannot be started.
    #[error("the DNS server cannot be started at {address}: {source}")]
    Dns {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The load cannot be sent.
    #[error(transparent)]
    Load(#[from] load::Error),
    /// A scenario's file is wrong.
    #[error(transparent)]
    Script(#[from] Fault),
    /// Settings that do not fit together.
    #[error("{0}")]
    Settings(String),
    /// The report cannot be written.
    #[error("{} cannot be written: {source}", .path.display())]
    Report {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system refuses something.
    #[error(transparent)]
    System(#[from] io::Error),
}

fn shown(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    format!("; it wrote last:\n  {}", lines.join("\n  "))
}

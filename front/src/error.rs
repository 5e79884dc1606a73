//! Why `front` could not start. Each is exit code 125.

use std::{io, net::SocketAddr};

/// Its text says what, which value, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The event loop could not be made.
    #[error("cannot create the event loop: {0}")]
    EventLoop(#[source] io::Error),
    /// The signal handlers could not be installed.
    #[error("cannot install the signal handlers: {0}")]
    Signals(#[source] io::Error),
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}. Choose another --listen (FRONT_LISTEN), or stop what is listening there"
    )]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no DNS server to ask.
    #[error(
        "cannot set up the resolver: {0}. Check /etc/resolv.conf, or name a DNS server with --resolver (FRONT_RESOLVER)"
    )]
    Resolver(String),
    /// The backend's name cannot be asked for.
    #[error("{name:?} is no DNS name: {reason}. Correct --backend (FRONT_BACKEND)")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

//! Why `front` could not start. Each is exit code 125.

use service::process::StartError;

/// Its text says what, which value, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What can keep any service from starting.
    #[error(transparent)]
    Start(#[from] StartError),
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

/// An error and what is behind it, from the outermost to the first cause.
pub(crate) fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

//! How the binaries speak with their operator: durations and DNS servers on the command line, log lines on stderr.
//!
//! The rules are the same for all of them, so that what is learned of one holds for the others.

pub mod dns_server;
pub mod duration;
pub mod log;

/// What `--version` says: the version and, of a build that was given `LAMEDUCK_COMMIT`, the commit.
pub const VERSION: &str = env!("LAMEDUCK_VERSION");

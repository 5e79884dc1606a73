//! The scenarios that come with this program.

use std::fmt::Write;

use super::{Fault, Script};

macro_rules! library {
    ($($name:literal)*) => {
        /// Their names and files, in the order in which they are listed.
        const FILES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../scenarios/", $name, ".toml")))),*];
    };
}

library! {
    "scale-in"
    "availability-zone-loss"
    "spot-interruption"
    "rollback-in-mid-deploy"
    "back-to-back-deploys"
    "address-reuse"
    "slow-start-without-health-check"
    "circuit-breaker"
    "deregister-before-sigterm"
    "resolver-serves-stale"
    "unhealthy-task"
    "stop-timeout-race"
    "process-one"
    "percent-matrix"
    "faster-health-checks"
    "cloud-map-unhealthy-at-first"
    "more-than-eight"
    "resolver-caches"
    "caches-of-clients"
    "silent-addresses"
}

/// The names of all scenarios that come with this program.
pub fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

/// The file of a scenario that comes with this program.
#[must_use]
pub fn embedded(name: &str) -> Option<&'static str> {
    FILES.iter().find(|(it, _)| *it == name).map(|(_, text)| *text)
}

/// All of them, in a line each.
///
/// # Errors
///
/// If one of them is wrong.
pub fn list() -> Result<String, Fault> {
    let width = names().map(str::len).max().unwrap_or(0);
    let mut text = String::new();
    for (name, file) in FILES {
        let script = Script::parse(name, &format!("{name}.toml"), file)?;
        // To a text nothing is refused.
        let _ = writeln!(text, "{name:width$}  {}", script.title);
    }
    Ok(text)
}

//! `init` with real children, as a normal process and as PID 1 of a PID namespace.
//!
//! Everything is bounded: a process that outlives its test's patience is killed, by number, and the test fails.

#![expect(clippy::disallowed_methods, reason = "these tests watch real processes, so they read the clock and wait")]
#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking, as the test itself does")]

mod check;
mod compatibility;
mod exits;
mod explanation;
mod robustness;
mod signals;
mod stop;
mod support;

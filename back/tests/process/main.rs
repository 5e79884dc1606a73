//! `back` as a real process: who it says it is, what it does wrong on purpose, how it stops.

#![expect(clippy::disallowed_methods, reason = "these tests watch real processes, so they read the clock and wait")]
#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking, as the test itself does")]

mod faults;
mod start;
mod stop;
mod support;

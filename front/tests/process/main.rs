//! `front` as a real process, with a DNS server whose answers the test writes and tasks that the test runs.
//!
//! Every test has a network of its own: 127.77.N.0/24, where N is the test's number, counted across these files.

#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking, as the test itself does")]

mod discovery;
mod failures;
mod framing;
mod operation;
mod passing;
mod protocols;
mod retry;
mod support;

//! What `front` and `back` have in common as services behind a load balancer or DNS: the way from the flags to the exit
//! code, the phases of a stop, and an HTTP server that goes through them without cutting anybody off.
//!
//! What they answer is their own.

pub mod admin;
mod answer;
pub mod connection;
mod pace;
pub mod phase;
pub mod process;
pub mod server;
pub mod signals;

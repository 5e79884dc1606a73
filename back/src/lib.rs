//! The called side, and the model of a well-behaved task: answers with its task id, tells its health, and stops without
//! cutting anybody off. It does wrong only what it is asked to.
//!
//! [`faults`] is pure. [`routes`] answers callers, [`admin`] those who run the task.

pub mod admin;
pub mod cli;
pub mod faults;
pub mod identity;
pub mod metrics;
mod process;
pub mod routes;

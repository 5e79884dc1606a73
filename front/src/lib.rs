//! The calling side of DNS service discovery: HTTP in, DNS-discovered tasks out, stale records survived.
//!
//! The pure decisions are in [`endpoints`] (which addresses there are, which one gets a request), [`retry`] and
//! [`headers`]. [`resolver`] and [`backend`] are the edges to DNS and to the tasks; [`discovery`] joins them;
//! [`routes`] answers requests, `calls` takes one to the tasks, and [`admin`] those of whoever runs front.

pub mod access;
pub mod admin;
pub mod backend;
pub mod body;
mod calls;
pub mod cli;
pub mod discovery;
pub mod endpoints;
pub mod error;
pub mod headers;
pub mod metrics;
pub mod resolver;
pub mod retry;
pub mod routes;
mod tunnel;

//! A PID-1 entrypoint that keeps a task serving until no DNS cache can name it any more.
//!
//! On a stop signal the task becomes a lame duck: its child keeps serving for the drain time, because callers may hold
//! its address in a cached DNS answer. Then the signal goes on, the child stops, and its exit code is ours. The pure
//! decisions are in [`lifecycle`], [`evidence`], [`budget`] and [`exit`]; [`host`], [`registration`] and [`check`] are the
//! edges to the kernel, to DNS and to the application; [`run`] joins them.

pub mod budget;
pub mod check;
pub mod cli;
pub mod error;
pub mod evidence;
pub mod exit;
pub mod explain;
pub mod host;
pub mod lifecycle;
pub mod personality;
pub mod registration;
pub mod run;
pub mod signal;

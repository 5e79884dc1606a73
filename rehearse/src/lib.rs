//! An ECS rolling deploy on one machine: real processes, real DNS, real load, ECS's rules; and for each request that failed
//! the reason.
//!
//! The rules are pure: they take the time and what was observed, and say what is to be done. Times are those of the service
//! that is rehearsed, counted from the start of the run; a run at `--speed 10` lives through ten of its seconds in one.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "rehearse gives each task an address of 127.0.0.0/8 and reads /proc, as Linux has them: use `docker compose run --rm rehearse`"
);

pub mod agent;
pub mod agreement;
pub mod cache;
pub mod cli;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod deployment;
pub mod dns;
pub mod error;
pub mod experiments;
pub mod health;
pub mod load;
pub mod nursery;
pub mod predict;
pub mod probe;
pub mod record;
pub mod rehearsal;
pub mod report;
pub mod request;
pub mod rollout;
pub mod rules;
pub mod run;
pub mod scenario;
pub mod scenarios;
pub mod script;
pub mod simulate;
pub mod task;
pub mod timeline;
pub mod verdict;
pub mod zone;

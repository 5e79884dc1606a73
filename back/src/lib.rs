//! The called side, and the model of a well-behaved task: answers with its task id, tells its health, and stops without
//! cutting anybody off.

pub mod cli;
pub mod identity;
pub mod routes;

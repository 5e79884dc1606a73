//! Deployments in virtual time: the same rules, zone, caches and clients' choices as with real processes, without the
//! processes. Thousands of them in seconds, each with caches in phases of its own. Pure: one seed, one result.
//!
//! A deployment is simulated once, as a [`film`] of who listened when and whom DNS named; then [`resolver`]s follow it, and
//! any number of [`crowd`]s of clients watch it through them. A client changes nothing in it: what it would need for that,
//! load on the tasks, is not modelled.

pub mod crowd;
pub mod film;
pub mod forecast;
pub mod habit;
pub mod law;
pub mod play;
pub mod recommend;
pub mod resolver;
pub mod sweep;

pub use crowd::{Crowd, SLOW, Seen, watch};
pub use film::{Act, Conduct, Cue, Film, Model, When};
pub use forecast::{Forecast, forecast};
pub use habit::{Connects, HABITS, Habit, OwnCache, habit};
pub use play::{Fates, Played, Range, play};
pub use recommend::{Recommendation, Wanted, recommend};
pub use resolver::{Phases, Resolver, resolvers};
pub use sweep::{Grid, Sweep, sweep};

//! What simulated clients do: which answers they keep, how many addresses they try, and in which order. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::{Order, Tries};

/// How long a client keeps an answer of its own accord.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OwnCache {
    /// Not at all: it asks its resolver for each connection.
    None,
    /// For what is left of the TTL, but so long at most.
    Ttl(Duration),
    /// For so long, whatever the TTL.
    Fixed(Duration),
    /// For ever.
    Forever,
}

/// What a simulated client does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Habit {
    /// Its name.
    pub name: &'static str,
    /// How many addresses it tries.
    pub tries: Tries,
    /// In which order.
    pub order: Order,
    /// How long it keeps answers.
    pub own: OwnCache,
    /// Whether it keeps its connection for as long as the task does.
    pub is_pinned: bool,
    /// How long it goes on asking its resolver when nobody was there.
    pub waits: Duration,
    /// What it stands for.
    pub stands_for: &'static str,
}

const NO_WAIT: Duration = Duration::ZERO;

/// Clients, by what they are known for: see ecs.md of the design, and the sources named in [`crate::client`].
pub const HABITS: [Habit; 8] = [
    Habit {
        name: "front",
        tries: Tries::Next,
        order: Order::Shuffled,
        own: OwnCache::Ttl(Duration::from_secs(10)),
        is_pinned: false,
        waits: Duration::from_secs(2),
        stands_for: "this product's front",
    },
    Habit {
        name: "try-next",
        tries: Tries::Next,
        order: Order::Shuffled,
        own: OwnCache::None,
        is_pinned: false,
        waits: NO_WAIT,
        stands_for: "Go without keep-alive, curl, Node, Python",
    },
    Habit {
        name: "first-only",
        tries: Tries::First,
        order: Order::Shuffled,
        own: OwnCache::None,
        is_pinned: false,
        waits: NO_WAIT,
        stands_for: "whoever takes one address of an answer",
    },
    Habit {
        name: "fixed-order",
        tries: Tries::Next,
        order: Order::AsAnswered,
        own: OwnCache::Ttl(Duration::MAX),
        is_pinned: false,
        waits: NO_WAIT,
        stands_for: "reqwest with Hickory's cache",
    },
    Habit {
        name: "jvm",
        tries: Tries::Next,
        order: Order::AsAnswered,
        own: OwnCache::Fixed(Duration::from_secs(30)),
        is_pinned: false,
        waits: NO_WAIT,
        stands_for: "the JVM: networkaddress.cache.ttl is 30 s",
    },
    Habit {
        name: "envoy",
        tries: Tries::First,
        order: Order::Shuffled,
        own: OwnCache::Fixed(Duration::from_secs(5)),
        is_pinned: false,
        waits: NO_WAIT,
        stands_for: "Envoy's STRICT_DNS, every 5 s, without retries",
    },
    Habit {
        name: "nginx",
        tries: Tries::Next,
        order: Order::AsAnswered,
        own: OwnCache::Forever,
        is_pinned: false,
        waits: NO_WAIT,
        stands_for: "nginx with a name in proxy_pass: resolved at its start",
    },
    Habit {
        name: "keep-alive",
        tries: Tries::Next,
        order: Order::Shuffled,
        own: OwnCache::None,
        is_pinned: true,
        waits: NO_WAIT,
        stands_for: "Go's default: a connection is kept for as long as the task keeps it",
    },
];

/// The habit of that name.
///
/// # Errors
///
/// If there is none, with those that there are.
pub fn habit(name: &str) -> Result<Habit, String> {
    let all = || HABITS.iter().map(|habit| habit.name).collect::<Vec<_>>().join(", ");
    HABITS
        .into_iter()
        .find(|habit| habit.name == name)
        .ok_or_else(|| format!("{name:?} is no client: there are {}", all()))
}

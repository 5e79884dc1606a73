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
    /// How long it waits for a connection.
    pub connects: Connects,
    /// How long a request may take. What is not answered by then has failed.
    pub gives_up: Duration,
    /// How long it passes over an address that nothing came back from, if there are others.
    pub sets_aside: Duration,
    /// Whether it goes on with what it knew where DNS does not answer.
    pub keeps_last: bool,
    /// What it stands for.
    pub stands_for: &'static str,
}

/// How long a client waits for a connection where nothing comes back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Connects {
    /// For so long, divided over the addresses that are left (see [`crate::client::share`]).
    Shared(Duration),
    /// For so long at each address.
    Each(Duration),
}

/// Go's `DefaultTransport`. Source: <https://github.com/golang/go/blob/go1.19.8/src/net/http/transport.go>.
const GO: Connects = Connects::Shared(Duration::from_secs(30));
/// A client without a limit of its own waits for the kernel, which sends SYN seven times. Source: `tcp_syn_retries` in
/// <https://docs.kernel.org/networking/ip-sysctl.html>.
const LINUX: Connects = Connects::Each(Duration::from_secs(127));
/// Envoy's `connect_timeout` of a cluster and `timeout` of a route, where they are not set.
/// Source: <https://www.envoyproxy.io/docs/envoy/latest/faq/configuration/timeouts>.
const ENVOY: (Connects, Duration) = (Connects::Each(Duration::from_secs(5)), Duration::from_secs(15));
/// Source: `proxy_connect_timeout` in <https://nginx.org/en/docs/http/ngx_http_proxy_module.html>.
const NGINX: Connects = Connects::Each(Duration::from_mins(1));

const NO_WAIT: Duration = Duration::ZERO;

/// Clients, by what they are known for. Sources, besides those named in [`crate::client`]: the JVM's `networkaddress.cache.ttl`,
/// <https://docs.oracle.com/en/java/javase/21/core/java-networking.html>; Envoy's `STRICT_DNS`,
/// <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/service_discovery>; nginx,
/// <https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_pass>.
pub const HABITS: [Habit; 8] = [
    Habit {
        name: "front",
        tries: Tries::Next,
        order: Order::Shuffled,
        own: OwnCache::Ttl(Duration::from_secs(10)),
        is_pinned: false,
        waits: Duration::from_secs(2),
        connects: Connects::Each(Duration::from_millis(500)),
        gives_up: Duration::from_secs(10),
        sets_aside: Duration::from_secs(5),
        keeps_last: true,
        stands_for: "this product's front",
    },
    Habit {
        name: "try-next",
        tries: Tries::Next,
        order: Order::Shuffled,
        own: OwnCache::None,
        is_pinned: false,
        waits: NO_WAIT,
        connects: GO,
        gives_up: Duration::MAX,
        sets_aside: NO_WAIT,
        keeps_last: false,
        stands_for: "Go without keep-alive, curl, Node, Python",
    },
    Habit {
        name: "first-only",
        tries: Tries::First,
        order: Order::Shuffled,
        own: OwnCache::None,
        is_pinned: false,
        waits: NO_WAIT,
        connects: GO,
        gives_up: Duration::MAX,
        sets_aside: NO_WAIT,
        keeps_last: false,
        stands_for: "whoever takes one address of an answer",
    },
    Habit {
        name: "fixed-order",
        tries: Tries::Next,
        order: Order::AsAnswered,
        own: OwnCache::Ttl(Duration::MAX),
        is_pinned: false,
        waits: NO_WAIT,
        connects: LINUX,
        gives_up: Duration::MAX,
        sets_aside: NO_WAIT,
        keeps_last: false,
        stands_for: "reqwest with Hickory's cache",
    },
    Habit {
        name: "jvm",
        tries: Tries::Next,
        order: Order::AsAnswered,
        own: OwnCache::Fixed(Duration::from_secs(30)),
        is_pinned: false,
        waits: NO_WAIT,
        connects: LINUX,
        gives_up: Duration::MAX,
        sets_aside: NO_WAIT,
        keeps_last: false,
        stands_for: "the JVM: networkaddress.cache.ttl is 30 s",
    },
    Habit {
        name: "envoy",
        tries: Tries::First,
        order: Order::Shuffled,
        own: OwnCache::Fixed(Duration::from_secs(5)),
        is_pinned: false,
        waits: NO_WAIT,
        connects: ENVOY.0,
        gives_up: ENVOY.1,
        sets_aside: NO_WAIT,
        keeps_last: false,
        stands_for: "Envoy's STRICT_DNS, every 5 s, without retries",
    },
    Habit {
        name: "nginx",
        tries: Tries::Next,
        order: Order::AsAnswered,
        own: OwnCache::Forever,
        is_pinned: false,
        waits: NO_WAIT,
        connects: NGINX,
        gives_up: Duration::MAX,
        sets_aside: NO_WAIT,
        keeps_last: false,
        stands_for: "nginx with a name in proxy_pass: resolved at its start",
    },
    Habit {
        name: "keep-alive",
        tries: Tries::Next,
        order: Order::Shuffled,
        own: OwnCache::None,
        is_pinned: true,
        waits: NO_WAIT,
        connects: GO,
        gives_up: Duration::MAX,
        sets_aside: NO_WAIT,
        keeps_last: false,
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

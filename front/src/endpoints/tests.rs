//! Which addresses, which one next, and when to look again, with times that the tests give.

use super::*;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) const POLICY: Policy = Policy {
    min_ttl: secs(1),
    max_ttl: secs(10),
    stale_max: secs(300),
    absent_grace: secs(30),
    sample: 8,
    set_aside: secs(5),
    set_aside_max: secs(60),
    panic_percent: 50,
    eject_5xx: None,
    eject_5xx_percent: 50,
    balance: Balance::LeastOfTwo,
};

/// The time, which pure code takes and never reads.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 1, last], 1235))
}

fn answer(tasks: impl IntoIterator<Item = u8>, ttl: u64) -> Answer {
    Answer::Addresses { targets: tasks.into_iter().map(address).map(Target::new).collect(), ttl: secs(ttl) }
}

fn endpoints(tasks: impl IntoIterator<Item = u8>, now: Instant) -> Endpoints {
    let mut endpoints = Endpoints::new(POLICY);
    endpoints.answered(answer(tasks, 10), now);
    endpoints
}

/// All that can be chosen now, in order.
fn all(endpoints: &mut Endpoints, now: Instant) -> Vec<SocketAddr> {
    let mut tried = Vec::new();
    while let Some(address) = endpoints.choose(&tried, now, |_| 0) {
        endpoints.release(address);
        tried.push(address);
    }
    tried.sort_unstable();
    tried
}

#[test]
fn the_first_lookup_is_due_at_once_and_until_it_ends_there_is_nobody() {
    let mut endpoints = Endpoints::new(POLICY);
    assert_eq!((endpoints.lookup_at(), endpoints.empty()), (None, Some(&Empty::NotAskedYet)));
    assert_eq!(endpoints.choose(&[], now(), |_| 0), None);
}

#[test]
fn the_ttl_is_honoured_between_its_clamps() {
    for (ttl, expected) in [(0, 1), (1, 1), (7, 7), (10, 10), (600, 10)] {
        let now = now();
        let mut endpoints = Endpoints::new(POLICY);
        endpoints.answered(answer([1], ttl), now);
        assert_eq!(endpoints.lookup_at(), Some(now + secs(expected)), "a TTL of {ttl}");
    }
}

#[test]
fn an_answer_says_who_came_and_who_left() {
    let now = now();
    let mut endpoints = endpoints([1, 2, 2, 1], now);
    assert_eq!(all(&mut endpoints, now), [address(1), address(2)]);
    let change = endpoints.answered(answer([3, 2], 10), now);
    assert_eq!(change, Change { added: vec![address(3)], removed: vec![address(1)] });
    assert_eq!(all(&mut endpoints, now), [address(2), address(3)]);
}

#[test]
fn the_order_of_the_records_does_not_matter() {
    let mut counts = [0; 4];
    let mut endpoints = endpoints([1, 2, 3, 4], now());
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..4000 {
        let chosen = endpoints.choose(&[], now(), |n| random.usize(..n)).unwrap();
        counts[(1..=4).position(|task| address(task) == chosen).unwrap()] += 1;
        endpoints.release(chosen);
    }
    assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
}

#[test]
fn of_two_the_one_with_fewer_requests_in_flight_is_chosen() {
    let now = now();
    let mut endpoints = endpoints([1, 2], now);
    for first in [0, 1] {
        let busy = endpoints.choose(&[], now, |n| first % n).unwrap();
        let other = endpoints.choose(&[], now, |n| first % n).unwrap();
        assert_ne!(busy, other);
        endpoints.release(busy);
        endpoints.release(other);
    }
}

#[test]
fn a_request_that_is_over_no_longer_counts_and_a_tie_is_the_first_ones() {
    let now = now();
    let mut endpoints = endpoints([1, 2], now);
    for _ in 0..3 {
        assert_eq!(endpoints.choose(&[], now, |_| 0), Some(address(1)));
        endpoints.release(address(1));
    }
}

#[test]
fn an_address_is_tried_once_for_a_request() {
    let now = now();
    let mut endpoints = endpoints([1, 2], now);
    assert_eq!(endpoints.choose(&[address(1)], now, |_| 0), Some(address(2)));
    assert_eq!(endpoints.choose(&[address(1), address(2)], now, |_| 0), None);
}

#[test]
fn an_unreachable_address_is_set_aside_for_a_while() {
    let now = now();
    let mut endpoints = endpoints([1, 2], now);
    endpoints.failed(address(1), now);
    for random in [0, 1] {
        let chosen = endpoints.choose(&[], now + secs(4), |n| random % n).unwrap();
        assert_eq!(chosen, address(2));
    }
    assert_eq!(endpoints.choose(&[address(2)], now + secs(5), |_| 0), Some(address(1)));
}

#[test]
fn when_all_are_set_aside_all_are_used() {
    let now = now();
    let mut endpoints = endpoints([1, 2], now);
    endpoints.failed(address(1), now);
    endpoints.failed(address(2), now);
    assert_eq!(all(&mut endpoints, now), [address(1), address(2)]);
}

#[test]
fn an_unreachable_address_forces_a_lookup_but_not_a_flood() {
    let now = now();
    let mut endpoints = endpoints([1], now);
    endpoints.failed(address(1), now);
    assert_eq!(endpoints.lookup_at(), Some(now + secs(1)));
    endpoints.failed(address(1), now + secs(3));
    assert_eq!(endpoints.lookup_at(), Some(now + secs(1)));
    endpoints.answered(answer([1], 10), now + secs(3));
    endpoints.failed(address(1), now + secs(8));
    assert_eq!(endpoints.lookup_at(), Some(now + secs(8)));
}

#[test]
fn a_failed_lookup_keeps_the_last_good_answer_but_not_for_ever() {
    let now = now();
    let mut endpoints = endpoints([1], now);
    let failed = || Answer::Failed("timed out".to_owned());
    assert_eq!(endpoints.answered(failed(), now + secs(299)), Change::default());
    assert_eq!(endpoints.empty(), None);
    assert_eq!(endpoints.answered(failed(), now + secs(300)).removed, [address(1)]);
    assert_eq!(endpoints.empty(), Some(&Empty::Failed("timed out".to_owned())));
}

#[test]
fn failed_lookups_come_ever_more_slowly() {
    let now = now();
    let mut endpoints = endpoints([1], now);
    for millis in [200, 400, 800, 1600, 3200, 5000, 5000] {
        endpoints.answered(Answer::Failed(String::new()), now);
        assert_eq!(endpoints.lookup_at(), Some(now + Duration::from_millis(millis)));
    }
    endpoints.answered(answer([1], 10), now);
    endpoints.answered(Answer::Failed(String::new()), now);
    assert_eq!(endpoints.lookup_at(), Some(now + Duration::from_millis(200)));
}

#[test]
fn an_absent_name_keeps_the_last_good_answer_for_a_grace() {
    let now = now();
    let mut endpoints = endpoints([1], now);
    let absent = Answer::Absent { ttl: Some(secs(300)) };
    assert_eq!(endpoints.answered(absent.clone(), now + secs(10)), Change::default());
    assert_eq!(endpoints.lookup_at(), Some(now + secs(15)));
    assert_eq!(endpoints.answered(absent.clone(), now + secs(39)), Change::default());
    assert_eq!(endpoints.answered(absent, now + secs(40)).removed, [address(1)]);
    assert_eq!(endpoints.empty(), Some(&Empty::Absent));
}

#[test]
fn a_name_that_comes_back_starts_a_new_grace() {
    let now = now();
    let mut endpoints = endpoints([1], now);
    endpoints.answered(Answer::Absent { ttl: None }, now);
    endpoints.answered(answer([1], 10), now + secs(29));
    assert_eq!(endpoints.answered(Answer::Absent { ttl: None }, now + secs(40)), Change::default());
}

#[test]
fn a_name_that_never_existed_is_absent_at_once_and_asked_for_again_soon() {
    let now = now();
    let mut endpoints = Endpoints::new(POLICY);
    endpoints.answered(Answer::Absent { ttl: Some(secs(900)) }, now);
    assert_eq!((endpoints.empty(), endpoints.lookup_at()), (Some(&Empty::Absent), Some(now + secs(5))));
}

#[test]
fn an_answer_of_eight_is_a_sample_and_what_it_leaves_out_stays_for_a_while() {
    let now = now();
    let mut endpoints = endpoints(1..=8, now);
    let change = endpoints.answered(answer(2..=9, 20), now + secs(20));
    assert_eq!(change, Change { added: vec![address(9)], removed: vec![] });
    assert_eq!(all(&mut endpoints, now + secs(20)).len(), 9);
    // Three times the TTL after it was last seen.
    assert_eq!(endpoints.answered(answer(2..=9, 20), now + secs(59)).removed, []);
    assert_eq!(endpoints.answered(answer(2..=9, 20), now + secs(60)).removed, [address(1)]);
    // Any other number is the whole truth.
    assert_eq!(endpoints.answered(answer(2..=8, 20), now + secs(61)).removed, [address(9)]);
}

#[test]
fn an_address_that_dns_no_longer_names_and_that_fails_is_gone() {
    let now = now();
    let mut endpoints = endpoints(1..=8, now);
    endpoints.answered(answer(2..=9, 20), now + secs(1));
    assert_eq!(endpoints.failed(address(1), now + secs(1)).removed, [address(1)]);
    assert_eq!(endpoints.failed(address(2), now + secs(1)).removed, []);
    // The same while the name is absent; but the last one is better than none.
    endpoints.answered(Answer::Absent { ttl: None }, now + secs(2));
    for task in 2..=8 {
        assert_eq!(endpoints.failed(address(task), now + secs(2)).removed, [address(task)]);
    }
    assert_eq!(endpoints.failed(address(9), now + secs(2)).removed, []);
}

#[test]
fn the_pause_grows_with_each_failure_and_an_answer_ends_that() {
    let start = now();
    let mut endpoints = endpoints([1, 2, 3], start);
    let mut now = start;
    let is_used = |endpoints: &Endpoints, now| !endpoints.known[0].is_set_aside(now);
    for pause in [5, 10, 20, 40, 60, 60] {
        endpoints.failed(address(1), now);
        // Requests that were under way fail as well, and count as one.
        endpoints.failed(address(1), now);
        assert!(!is_used(&endpoints, now + secs(pause).saturating_sub(Duration::from_millis(1))), "{pause}");
        now += secs(pause);
        assert!(is_used(&endpoints, now), "{pause}");
    }
    endpoints.succeeded(address(1), false, now);
    endpoints.failed(address(1), now);
    assert!(is_used(&endpoints, now + secs(5)));
}

#[test]
fn after_its_pause_an_address_gets_one_request_until_that_one_is_answered() {
    let now = now();
    let mut endpoints = endpoints([1, 2, 3], now);
    endpoints.failed(address(1), now);
    let later = now + secs(5);
    let others = [address(2), address(3)];
    assert_eq!(endpoints.choose(&others, later, |_| 0), Some(address(1)));
    // On probation it is among the others only when nobody else is left.
    for random in 0..3 {
        let chosen = endpoints.choose(&[], later, |n| random % n).unwrap();
        assert_ne!(chosen, address(1));
        endpoints.release(chosen);
    }
    endpoints.succeeded(address(1), false, later);
    assert!(!endpoints.known[0].is_set_aside(later));
}

#[test]
fn when_most_are_set_aside_all_are_used() {
    let now = now();
    let mut endpoints = endpoints([1, 2, 3, 4], now);
    let chosen = |endpoints: &mut Endpoints| {
        let mut seen: Vec<_> = (0..16)
            .filter_map(|seed| {
                let mut random = fastrand::Rng::with_seed(seed);
                let chosen = endpoints.choose(&[], now, |n| random.usize(..n))?;
                endpoints.release(chosen);
                Some(chosen)
            })
            .collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len()
    };
    endpoints.failed(address(1), now);
    endpoints.failed(address(2), now);
    assert_eq!(chosen(&mut endpoints), 2);
    endpoints.failed(address(3), now);
    assert_eq!(chosen(&mut endpoints), 4);
}

#[test]
fn answers_of_500_set_an_address_aside_only_if_asked_for_and_never_most_of_them() {
    let now = now();
    let mut asked = endpoints([1, 2, 3, 4], now);
    let set_aside = |endpoints: &Endpoints| endpoints.known.iter().filter(|known| known.is_set_aside(now)).count();
    let fail_all = |endpoints: &mut Endpoints| {
        for _ in 0..5 {
            (1..=4).for_each(|task| endpoints.succeeded(address(task), true, now));
        }
    };
    fail_all(&mut asked);
    assert_eq!(set_aside(&asked), 0);
    asked.policy.eject_5xx = Some(5);
    asked.succeeded(address(1), false, now);
    for _ in 0..4 {
        asked.succeeded(address(1), true, now);
    }
    assert_eq!(set_aside(&asked), 0);
    fail_all(&mut asked);
    assert_eq!(set_aside(&asked), 2);
}

#[test]
fn each_way_of_balancing_does_what_it_says() {
    let now = now();
    let targets = [3, 1, 2].map(|task| Target { address: address(task), weight: u16::from(task) });
    let mut endpoints = Endpoints::new(POLICY);
    endpoints.answered(Answer::Addresses { targets: targets.to_vec(), ttl: secs(10) }, now);
    let mut random = fastrand::Rng::with_seed(3);
    let mut shares = |endpoints: &mut Endpoints, balance| {
        endpoints.policy.balance = balance;
        let mut counts = [0; 3];
        for _ in 0..6_000 {
            let chosen = endpoints.choose(&[], now, |n| random.usize(..n)).unwrap();
            counts[(1..=3).position(|task| address(task) == chosen).unwrap()] += 1;
            endpoints.release(chosen);
        }
        counts
    };
    assert_eq!(shares(&mut endpoints, Balance::RoundRobin), [1000, 2000, 3000]);
    assert_eq!(shares(&mut endpoints, Balance::First), [0, 0, 6000]);
    let random = shares(&mut endpoints, Balance::Random);
    assert!((900..1100).contains(&random[0]) && (2850..3150).contains(&random[2]), "{random:?}");
    // With as many in flight at each, the one with the larger share has less to do.
    endpoints.policy.balance = Balance::LeastOfTwo;
    for endpoint in &mut endpoints.known {
        endpoint.in_flight = 6;
    }
    let tried = [address(2)];
    for random in 0..4 {
        assert_eq!(endpoints.choose(&tried, now, |n| random % n), Some(address(3)));
        endpoints.release(address(3));
    }
}

/// Anything may happen in any order.
#[test]
fn whatever_happens_a_request_finds_an_address_as_long_as_there_is_one() {
    let mut random = fastrand::Rng::with_seed(9);
    for _ in 0..300 {
        let mut now = now();
        let balance = [Balance::LeastOfTwo, Balance::RoundRobin, Balance::Random, Balance::First];
        let policy = Policy { balance: balance[random.usize(..4)], eject_5xx: Some(2), ..POLICY };
        let mut endpoints = Endpoints::new(policy);
        let mut under_way: Vec<SocketAddr> = Vec::new();
        for _ in 0..200 {
            now += Duration::from_millis(random.u64(..5_000));
            let someone = address(random.u8(1..12));
            match random.u8(..6) {
                0 => {
                    let tasks: Vec<_> = (0..random.u8(1..12)).map(|_| random.u8(1..12)).collect();
                    let change = endpoints.answered(answer(tasks.clone(), random.u64(..90)), now);
                    assert!(tasks.iter().all(|task| endpoints.find(address(*task)).is_some()));
                    assert!(change.removed.iter().all(|address| endpoints.find(*address).is_none()));
                    assert!(change.added.iter().all(|address| endpoints.find(*address).is_some()));
                }
                1 => {
                    let bad = [Answer::Failed(String::new()), Answer::Absent { ttl: None }];
                    endpoints.answered(bad[random.usize(..2)].clone(), now);
                }
                2 => drop(endpoints.failed(someone, now)),
                3 => endpoints.succeeded(someone, random.bool(), now),
                4 => {
                    let chosen = endpoints.choose(&under_way, now, |n| random.usize(..n));
                    let left = endpoints.known.iter().any(|known| !under_way.contains(&known.address));
                    assert_eq!(chosen.is_some(), left);
                    assert!(chosen.is_none_or(|chosen| !under_way.contains(&chosen)));
                    under_way.extend(chosen);
                }
                _ => {
                    if let Some(done) = under_way.pop() {
                        endpoints.release(done);
                    }
                }
            }
            assert!(endpoints.known.iter().all(|known| known.in_flight <= under_way.len()));
            assert!(endpoints.lookup_at().is_none_or(|at| at <= now + POLICY.max_ttl));
            assert_eq!(endpoints.empty().is_some(), endpoints.known().is_empty());
        }
    }
}

/// Whatever DNS says, whoever fails and answers, in any order and at any pace.
#[test]
fn in_any_order_of_events_the_choice_is_known_and_untried_and_what_is_counted_is_in_flight() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut now = now();
        let balance = [Balance::LeastOfTwo, Balance::RoundRobin, Balance::Random, Balance::First][random.usize(..4)];
        let (panic_percent, eject_5xx) = (random.u8(..=100), random.bool().then_some(2));
        let mut endpoints = Endpoints::new(Policy { panic_percent, eject_5xx, balance, ..POLICY });
        let mut under_way: Vec<SocketAddr> = Vec::new();
        for step in 0..500 {
            let case = format!("seed {seed}, step {step}");
            now += Duration::from_millis(random.u64(..4000));
            let some = address(random.u8(..12));
            match random.u8(..12) {
                0 => {
                    let target = |random: &mut fastrand::Rng| Target {
                        address: address(random.u8(..12)),
                        weight: random.u16(..3),
                    };
                    let targets = (0..random.usize(1..12)).map(|_| target(&mut random)).collect();
                    endpoints.answered(Answer::Addresses { targets, ttl: secs(random.u64(..40)) }, now);
                }
                1 => drop(endpoints.answered(Answer::Absent { ttl: random.bool().then(|| secs(1)) }, now)),
                2 => drop(endpoints.answered(Answer::Failed("no".to_owned()), now)),
                3 => drop(endpoints.failed(some, now)),
                4 | 5 => endpoints.succeeded(some, random.bool(), now),
                6..=8 => {
                    if !under_way.is_empty() {
                        endpoints.release(under_way.swap_remove(random.usize(..under_way.len())));
                    }
                }
                _ => {
                    let tried: Vec<_> = (0..random.u8(..12)).map(|_| address(random.u8(..12))).collect();
                    let before = endpoints.known.clone();
                    let is_left = |known: &&Endpoint| !tried.contains(&known.address);
                    let set_aside = before.iter().filter(|known| known.is_set_aside(now)).count();
                    let panics = set_aside * 100 > before.len() * usize::from(panic_percent);
                    let chosen = endpoints.choose(&tried, now, |n| random.usize(..n));
                    let chosen = chosen.map(|chosen| before.iter().find(|known| known.address == chosen).expect(&case));
                    assert_eq!(chosen.is_some(), before.iter().any(|known| is_left(&known)), "{case}");
                    if let Some(chosen) = chosen {
                        assert!(is_left(&chosen), "{case}");
                        let is_better = |known: &Endpoint| is_left(&known) && !known.is_set_aside(now);
                        assert!(panics || is_better(chosen) || !before.iter().any(is_better), "{case}");
                        under_way.push(chosen.address);
                    }
                }
            }
            for known in &endpoints.known {
                // An address that left and came back counts from zero.
                let counted = under_way.iter().filter(|address| **address == known.address).count();
                assert!(known.in_flight <= counted, "{case}: {known:?} of {counted}");
            }
            let mut addresses: Vec<_> = endpoints.known.iter().map(|known| known.address).collect();
            addresses.sort_unstable();
            addresses.dedup();
            assert_eq!(addresses.len(), endpoints.known.len(), "{case}");
            assert!(endpoints.lookup_at().is_none_or(|at| at <= now + secs(10)), "{case}");
        }
    }
}

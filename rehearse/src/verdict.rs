//! Why each request failed, from what its client saw and what happened to the tasks meanwhile. Pure.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    request::{Attempt, Failure, Outcome, Request},
    timeline::{Event, State, TaskId, What},
};

/// Why a request failed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// All addresses that the client had were those of tasks that had ended.
    StaleAllDead,
    /// The only address that the client tried was that of a task that had ended; it had others.
    StaleFirstDead,
    /// The address was that of a task that did not listen yet.
    NotYetListening,
    /// A connection that had served before was closed as the request came.
    PinnedClosed,
    /// The task was stopped, or ended, with the request in its hands.
    KilledInFlight,
    /// A task that was alive answered with an error, or broke off.
    AppError,
    /// DNS named nobody.
    NoAddress,
    /// There was no connection, or no answer, in time.
    TimedOut,
    /// Another service had got the address, and answered. It is told in simulations alone: a rehearsal has one service.
    WrongService,
    /// None of these: the evidence is in the report.
    Unknown,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::StaleAllDead,
        Self::StaleFirstDead,
        Self::NotYetListening,
        Self::PinnedClosed,
        Self::KilledInFlight,
        Self::AppError,
        Self::NoAddress,
        Self::TimedOut,
        Self::WrongService,
        Self::Unknown,
    ];
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::StaleAllDead => "stale-all-dead",
            Self::StaleFirstDead => "stale-first-dead",
            Self::NotYetListening => "not-yet-listening",
            Self::PinnedClosed => "pinned-closed",
            Self::KilledInFlight => "killed-in-flight",
            Self::AppError => "app-error",
            Self::NoAddress => "no-address",
            Self::TimedOut => "timed-out",
            Self::WrongService => "wrong-service",
            Self::Unknown => "unknown",
        })
    }
}

/// Who had an address, and when.
#[derive(Clone, Copy, Debug)]
struct Tenancy {
    task: TaskId,
    from: Duration,
    listens: Option<Duration>,
    told_to_stop: Option<Duration>,
    ended: Option<Duration>,
}

/// Who had which address when, as far as events tell.
#[derive(Clone, Debug, Default)]
pub struct Tenancies {
    of: BTreeMap<Ipv4Addr, Vec<Tenancy>>,
    notice: Duration,
}

/// An end is noticed a little after it has happened: in the service's time, and in that of the machine.
const NOTICE: Duration = Duration::from_secs(1);
const NOTICE_REAL: Duration = Duration::from_millis(100);

impl Tenancies {
    /// What `events` tell, of a run at this speed.
    #[must_use]
    pub fn of(events: &[Event], speed: f64) -> Self {
        let mut tenancies = Self { of: BTreeMap::new(), notice: NOTICE.max(NOTICE_REAL.mul_f64(speed)) };
        let mut addresses: BTreeMap<TaskId, Ipv4Addr> = BTreeMap::new();
        for Event { at, what } in events {
            let (task, note): (_, fn(&mut Tenancy, Duration)) = match what {
                What::Created { task, address, .. } => {
                    addresses.insert(*task, *address);
                    let (listens, told_to_stop, ended) = (None, None, None);
                    let tenancy = Tenancy { task: *task, from: *at, listens, told_to_stop, ended };
                    tenancies.of.entry(*address).or_default().push(tenancy);
                    continue;
                }
                What::Listens { task } => (task, |it, at| it.listens = it.listens.or(Some(at))),
                What::Signalled { task, .. } => (task, |it, at| it.told_to_stop = it.told_to_stop.or(Some(at))),
                What::Exited { task, .. } => (task, |it, at| it.ended = it.ended.or(Some(at))),
                What::Moved { task, to: State::Deprovisioning | State::Stopped, .. } => {
                    (task, |it, at| it.ended = it.ended.or(Some(at)))
                }
                What::Moved { .. }
                | What::Registered { .. }
                | What::Deregistered { .. }
                | What::Health { .. }
                | What::DeploymentStarted { .. }
                | What::DeploymentCompleted { .. }
                | What::DeploymentFailed { .. }
                | What::Note { .. } => continue,
            };
            let tenants = addresses.get(task).and_then(|address| tenancies.of.get_mut(address));
            if let Some(tenancy) = tenants.into_iter().flatten().find(|it| it.task == *task) {
                note(tenancy, *at);
            }
        }
        tenancies
    }

    /// Who had the address last before then.
    fn tenant(&self, address: Ipv4Addr, at: Duration) -> Option<&Tenancy> {
        self.of.get(&address)?.iter().rev().find(|it| it.from <= at)
    }

    /// The task that had the address last before then.
    #[must_use]
    pub fn task(&self, address: Ipv4Addr, at: Duration) -> Option<TaskId> {
        self.tenant(address, at).map(|tenancy| tenancy.task)
    }

    /// Why `request` failed. None if it did not.
    #[must_use]
    pub fn cause(&self, request: &Request) -> Option<Cause> {
        if request.is_good() {
            return None;
        }
        // Whatever was tried before: it is a task that said no at last.
        if matches!(request.outcome, Outcome::Answered { .. }) && (request.task.is_some() || request.address.is_some())
        {
            return Some(Cause::AppError);
        }
        if request.lookup.as_ref().is_some_and(|lookup| lookup.addresses.is_empty()) {
            return Some(Cause::NoAddress);
        }
        if let Outcome::Answered { status } = request.outcome
            && request.attempts.is_empty()
        {
            // A gateway's own words: what it knows is not ours to guess.
            return Some(if [502, 503, 504].contains(&status) { Cause::Unknown } else { Cause::AppError });
        }
        let Some(last) = request.attempts.last() else { return Some(Cause::Unknown) };
        Some(match last.failure {
            Failure::Refused => self.refused(request),
            Failure::NoAnswer | Failure::CutOff => self.broken(last),
            Failure::Unreachable | Failure::TimedOut => Cause::TimedOut,
            Failure::Other => Cause::Unknown,
        })
    }

    fn refused(&self, request: &Request) -> Cause {
        let refused = request.attempts.iter().filter(|attempt| attempt.failure == Failure::Refused);
        let is_new = |attempt: &Attempt| {
            let tenant = self.tenant(attempt.address, attempt.at);
            tenant.is_some_and(|it| {
                let end = it.told_to_stop.into_iter().chain(it.ended).min();
                it.listens.is_none_or(|listens| attempt.at < listens) && end.is_none_or(|end| attempt.at < end)
            })
        };
        let is_gone = |attempt: &Attempt| {
            let tenant = self.tenant(attempt.address, attempt.at);
            tenant
                .and_then(|it| it.ended.into_iter().chain(it.told_to_stop).min())
                .is_some_and(|end| end <= attempt.at + self.notice)
        };
        let (mut new, mut gone, mut other) = (0, 0, 0);
        for attempt in refused {
            if is_new(attempt) {
                new += 1;
            } else if is_gone(attempt) {
                gone += 1;
            } else {
                other += 1;
            }
        }
        let had = request.lookup.as_ref().map_or(0, |lookup| lookup.addresses.len());
        if other > 0 || new + gone == 0 {
            Cause::Unknown
        } else if new > 0 {
            Cause::NotYetListening
        } else if gone < had {
            Cause::StaleFirstDead
        } else {
            Cause::StaleAllDead
        }
    }

    fn broken(&self, attempt: &Attempt) -> Cause {
        let tenant = self.tenant(attempt.address, attempt.at);
        let end = tenant.and_then(|it| it.told_to_stop.into_iter().chain(it.ended).min());
        match end.filter(|end| *end <= attempt.at + self.notice) {
            Some(_) if attempt.was_reused && attempt.failure == Failure::NoAnswer => Cause::PinnedClosed,
            Some(_) => Cause::KilledInFlight,
            None if tenant.is_some() => Cause::AppError,
            None => Cause::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Lookup;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn address(host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, 1, host)
    }

    /// Task 1 is told to stop at 50 and ends at 60; task 2 is there all along; task 3 comes at 70 and listens at 90.
    fn tenancies() -> Tenancies {
        let event = |at, what| Event { at: secs(at), what };
        let created = |number: u8| What::Created { task: TaskId(number.into()), revision: 1, address: address(number) };
        let (one, two, three) = (TaskId(1), TaskId(2), TaskId(3));
        Tenancies::of(
            &[
                event(0, created(1)),
                event(0, created(2)),
                event(0, What::Listens { task: one }),
                event(0, What::Listens { task: two }),
                event(50, What::Signalled { task: one, signal: "SIGTERM".to_owned() }),
                event(60, What::Exited { task: one, how: "exit code 0".to_owned() }),
                event(70, created(3)),
                event(90, What::Listens { task: three }),
            ],
            1.0,
        )
    }

    fn failed(at: u64, had: &[u8], attempts: &[(u8, Failure, bool)]) -> Request {
        let lookup = Lookup { addresses: had.iter().copied().map(address).collect(), at: secs(at), failure: None };
        let attempt = |&(host, failure, was_reused): &(u8, Failure, bool)| Attempt {
            address: address(host),
            at: secs(at),
            failure,
            was_reused,
        };
        Request {
            client: 0,
            intended: secs(at),
            sent: secs(at),
            done: secs(at),
            outcome: Outcome::Failed { cause: "it failed".to_owned() },
            task: None,
            address: None,
            lookup: Some(lookup),
            attempts: attempts.iter().map(attempt).collect(),
        }
    }

    #[test]
    fn who_refused_decides_what_it_was() {
        use Failure::Refused;
        let cause = |at, had: &[u8], tried: &[u8]| {
            let attempts: Vec<_> = tried.iter().map(|host| (*host, Refused, false)).collect();
            tenancies().cause(&failed(at, had, &attempts)).unwrap()
        };
        assert_eq!(cause(65, &[1], &[1]), Cause::StaleAllDead);
        assert_eq!(cause(65, &[1, 2], &[1]), Cause::StaleFirstDead);
        assert_eq!(
            cause(55, &[1], &[1]),
            Cause::StaleAllDead,
            "it had been told to stop, and does not listen any more"
        );
        assert_eq!(cause(80, &[3], &[3]), Cause::NotYetListening);
        assert_eq!(cause(80, &[1, 3], &[1, 3]), Cause::NotYetListening);
        assert_eq!(cause(65, &[2], &[2]), Cause::Unknown, "it is there");
        assert_eq!(cause(65, &[9], &[9]), Cause::Unknown, "nobody has ever been there");
    }

    #[test]
    fn a_connection_that_ends_tells_of_its_task() {
        use Failure::{CutOff, NoAnswer};
        let cause = |at, attempt| tenancies().cause(&failed(at, &[1, 2], &[attempt])).unwrap();
        assert_eq!(cause(60, (1, NoAnswer, true)), Cause::PinnedClosed);
        assert_eq!(cause(60, (1, NoAnswer, false)), Cause::KilledInFlight);
        assert_eq!(cause(60, (1, CutOff, true)), Cause::KilledInFlight);
        assert_eq!(cause(60, (2, CutOff, true)), Cause::AppError, "nobody has stopped it");
        assert_eq!(cause(40, (1, NoAnswer, true)), Cause::AppError, "nobody has stopped it yet");
        assert_eq!(cause(60, (9, CutOff, true)), Cause::Unknown);
    }

    #[test]
    fn the_rest_is_plain() {
        let cause = |request: &Request| tenancies().cause(request);
        assert_eq!(cause(&failed(5, &[1], &[(1, Failure::TimedOut, false)])), Some(Cause::TimedOut));
        assert_eq!(cause(&failed(5, &[1], &[(1, Failure::Unreachable, false)])), Some(Cause::TimedOut));
        assert_eq!(cause(&failed(5, &[1], &[(1, Failure::Other, false)])), Some(Cause::Unknown));
        assert_eq!(cause(&failed(5, &[], &[])), Some(Cause::NoAddress));
        let answered = |status, task: Option<&str>| Request {
            outcome: Outcome::Answered { status },
            task: task.map(str::to_owned),
            lookup: None,
            ..failed(5, &[], &[])
        };
        assert_eq!(cause(&answered(200, Some("task-1"))), None);
        assert_eq!(cause(&answered(404, Some("task-1"))), None);
        assert_eq!(cause(&answered(500, Some("task-1"))), Some(Cause::AppError));
        assert_eq!(cause(&answered(503, None)), Some(Cause::Unknown), "a gateway says so");
        assert_eq!(cause(&answered(500, None)), Some(Cause::AppError), "it passed a task's answer on");
        let nobody = Lookup { addresses: vec![], at: secs(5), failure: Some("no such name".to_owned()) };
        assert_eq!(cause(&Request { lookup: Some(nobody), ..answered(503, None) }), Some(Cause::NoAddress));
        let after_a_refusal = Request {
            attempts: failed(65, &[], &[(1, Failure::Refused, false)]).attempts,
            ..answered(500, Some("task-2"))
        };
        assert_eq!(cause(&after_a_refusal), Some(Cause::AppError));
        let by_somebody = Request { address: Some(address(2)), ..answered(503, None) };
        assert_eq!(cause(&by_somebody), Some(Cause::AppError));
        let through_front = Request {
            outcome: Outcome::Answered { status: 502 },
            lookup: None,
            ..failed(65, &[], &[(1, Failure::Refused, false)])
        };
        assert_eq!(cause(&through_front), Some(Cause::StaleAllDead));
    }

    #[test]
    fn an_address_is_that_of_its_last_task() {
        let mut events = vec![];
        for (number, at) in [(1, 0), (2, 70)] {
            let what = What::Created { task: TaskId(number), revision: 1, address: address(1) };
            events.push(Event { at: secs(at), what });
        }
        let tenancies = Tenancies::of(&events, 1.0);
        let task = |host, at| tenancies.task(address(host), secs(at)).map(|task| task.0);
        assert_eq!((task(1, 69), task(1, 70), task(2, 70)), (Some(1), Some(2), None));
    }

    #[test]
    fn causes_are_written_as_they_are_read() {
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_string(&cause).unwrap(), format!("\"{cause}\""));
        }
    }
}

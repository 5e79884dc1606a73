//! What happens next: events and the time come in, at most one action goes out.
//!
//! No clock, signal, process or log is touched here; [`crate::run`] does that.

use std::time::Instant;

use crate::{budget::StopBudget, exit::ExitStatus, signal::Signal};

/// Something that happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// SIGTERM or SIGINT: somebody wants the task to end.
    Stop(Signal),
    /// Any other signal that can be caught.
    Other(Signal),
    /// The child has ended and has been reaped: nothing may be sent to it any more.
    Exited(ExitStatus),
    /// The time that [`Lifecycle::deadline`] gave has come, or an older one has.
    Wake,
}

/// Something to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// The lame duck began: the child keeps serving until then, unless something ends it earlier.
    Drain {
        /// When the stop signal is passed on.
        until: Instant,
    },
    /// Send this to the child now.
    Forward(Signal),
    /// The child outlived the stop timeout: kill it before the platform kills us both.
    Kill,
    /// The child is gone: end with its status.
    Exit(ExitStatus),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Running,
    LameDuck { asked: Signal, until: Instant, kill_at: Option<Instant> },
    Stopping { kill_at: Option<Instant> },
}

/// Running, then lame duck, then stopping; the child's death ends any of them.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    budget: StopBudget,
    phase: Phase,
}

impl Lifecycle {
    /// The life of a child that has just been started.
    #[must_use]
    pub const fn new(budget: StopBudget) -> Self {
        Self { budget, phase: Phase::Running }
    }

    /// When to call [`handle`](Self::handle) with [`Event::Wake`]. `None`: not before another event.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running => None,
            Phase::LameDuck { until, .. } => Some(until),
            Phase::Stopping { kill_at } => kill_at,
        }
    }

    /// Takes note of `event`, which happened `now`, and says what to do about it.
    pub fn handle(&mut self, event: Event, now: Instant) -> Option<Action> {
        use Phase::{LameDuck, Running, Stopping};

        match (self.phase, event) {
            (Running, Event::Stop(asked)) => {
                let until = now + self.budget.drain();
                // Counted from the first stop signal, as the platform does.
                let kill_at = self.budget.kill_after().map(|after| now + after);
                if self.budget.drain().is_zero() {
                    self.phase = Stopping { kill_at };
                    return Some(Action::Forward(asked));
                }
                // Callers may resolve our address until their cached answer expires: keep serving.
                self.phase = LameDuck { asked, until, kill_at };
                Some(Action::Drain { until })
            }
            (LameDuck { until, .. }, Event::Wake) if now < until => None,
            (LameDuck { asked, kill_at, .. }, Event::Wake) => {
                self.phase = Stopping { kill_at };
                Some(Action::Forward(asked))
            }
            // Asked twice, somebody is waiting; losing a few requests is now their choice.
            (LameDuck { kill_at, .. }, Event::Stop(again)) => {
                self.phase = Stopping { kill_at };
                Some(Action::Forward(again))
            }
            (Stopping { .. }, Event::Stop(again)) => Some(Action::Forward(again)),
            (Stopping { kill_at: Some(kill_at) }, Event::Wake) if kill_at <= now => {
                // Once is enough: nothing survives it but a child that the kernel cannot end yet.
                self.phase = Stopping { kill_at: None };
                Some(Action::Kill)
            }
            // A timer that was set before the phase changed.
            (Running | Stopping { .. }, Event::Wake) => None,
            (Running | LameDuck { .. } | Stopping { .. }, Event::Other(signal)) => Some(Action::Forward(signal)),
            (Running | LameDuck { .. } | Stopping { .. }, Event::Exited(status)) => Some(Action::Exit(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::budget::StopTimeout;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lifecycle(drain: u64, stop_timeout: StopTimeout) -> Lifecycle {
        Lifecycle::new(StopBudget::new(Some(secs(drain)), stop_timeout, secs(5)).unwrap())
    }

    /// A lifecycle in each phase, at the given time.
    fn in_each_phase(now: Instant) -> [Lifecycle; 3] {
        let running = lifecycle(30, StopTimeout::Given(secs(60)));
        let mut lame_duck = running.clone();
        assert_eq!(lame_duck.handle(Event::Stop(Signal::TERM), now), Some(Action::Drain { until: now + secs(30) }));
        let mut stopping = lame_duck.clone();
        assert_eq!(stopping.handle(Event::Stop(Signal::TERM), now), Some(Action::Forward(Signal::TERM)));
        [running, lame_duck, stopping]
    }

    /// The time, which pure code takes and never reads.
    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn nothing_is_due_until_somebody_asks_for_a_stop() {
        let mut lifecycle = lifecycle(30, StopTimeout::Given(secs(60)));
        assert_eq!(lifecycle.deadline(), None);
        assert_eq!(lifecycle.handle(Event::Wake, now()), None);
        assert_eq!(lifecycle.deadline(), None);
    }

    #[test]
    fn a_stop_starts_the_lame_duck_and_the_signal_goes_on_when_it_ends() {
        let now = now();
        let mut lifecycle = lifecycle(30, StopTimeout::Given(secs(60)));
        assert_eq!(lifecycle.handle(Event::Stop(Signal::TERM), now), Some(Action::Drain { until: now + secs(30) }));
        assert_eq!(lifecycle.deadline(), Some(now + secs(30)));
        assert_eq!(lifecycle.handle(Event::Wake, now + secs(29)), None);
        assert_eq!(lifecycle.deadline(), Some(now + secs(30)));
        assert_eq!(lifecycle.handle(Event::Wake, now + secs(30)), Some(Action::Forward(Signal::TERM)));
        assert_eq!(lifecycle.deadline(), Some(now + Duration::from_millis(59_800)));
    }

    #[test]
    fn the_signal_that_goes_on_is_the_one_that_asked() {
        let now = now();
        let mut lifecycle = lifecycle(30, StopTimeout::Assumed);
        lifecycle.handle(Event::Stop(Signal::INT), now);
        assert_eq!(lifecycle.handle(Event::Wake, now + secs(25)), Some(Action::Forward(Signal::INT)));
    }

    #[test]
    fn without_a_drain_the_signal_goes_on_at_once() {
        let now = now();
        let mut lifecycle = lifecycle(0, StopTimeout::Assumed);
        assert_eq!(lifecycle.handle(Event::Stop(Signal::TERM), now), Some(Action::Forward(Signal::TERM)));
        assert_eq!(lifecycle.deadline(), None);
    }

    #[test]
    fn a_second_stop_ends_the_lame_duck() {
        let now = now();
        let [_, mut lame_duck, _] = in_each_phase(now);
        assert_eq!(lame_duck.handle(Event::Stop(Signal::INT), now + secs(1)), Some(Action::Forward(Signal::INT)));
        // The kill is still counted from the first.
        assert_eq!(lame_duck.deadline(), Some(now + Duration::from_millis(59_800)));
    }

    #[test]
    fn a_third_stop_is_passed_on_too() {
        let now = now();
        let [_, _, mut stopping] = in_each_phase(now);
        assert_eq!(stopping.handle(Event::Stop(Signal::TERM), now), Some(Action::Forward(Signal::TERM)));
    }

    #[test]
    fn a_timer_of_an_earlier_phase_does_nothing() {
        let now = now();
        let [_, _, mut stopping] = in_each_phase(now);
        assert_eq!(stopping.handle(Event::Wake, now + secs(30)), None);
        assert_eq!(stopping.deadline(), Some(now + Duration::from_millis(59_800)));
    }

    #[test]
    fn a_child_that_outlives_the_stop_timeout_is_killed_once() {
        let now = now();
        let [_, _, mut stopping] = in_each_phase(now);
        let due = now + Duration::from_millis(59_800);
        assert_eq!(stopping.handle(Event::Wake, now + Duration::from_millis(59_799)), None);
        assert_eq!(stopping.handle(Event::Wake, due), Some(Action::Kill));
        assert_eq!(stopping.deadline(), None);
        assert_eq!(stopping.handle(Event::Wake, due + secs(60)), None);
    }

    #[test]
    fn nobody_is_killed_on_an_assumed_stop_timeout() {
        let now = now();
        let mut lifecycle = lifecycle(30, StopTimeout::Assumed);
        lifecycle.handle(Event::Stop(Signal::TERM), now);
        lifecycle.handle(Event::Wake, now + secs(25));
        assert_eq!(lifecycle.deadline(), None);
        assert_eq!(lifecycle.handle(Event::Wake, now + secs(3600)), None);
    }

    #[test]
    fn other_signals_go_on_at_once_and_change_nothing_in_any_phase() {
        let now = now();
        for mut lifecycle in in_each_phase(now) {
            let before = (lifecycle.phase, lifecycle.deadline());
            for signal in [Signal::HUP, Signal::USR1, Signal::WINCH, Signal::new(37)] {
                assert_eq!(lifecycle.handle(Event::Other(signal), now + secs(1)), Some(Action::Forward(signal)));
            }
            assert_eq!((lifecycle.phase, lifecycle.deadline()), before);
        }
    }

    #[test]
    fn the_childs_death_ends_every_phase_with_its_status() {
        let now = now();
        for mut lifecycle in in_each_phase(now) {
            let status = ExitStatus::Exited(7);
            assert_eq!(lifecycle.handle(Event::Exited(status), now + secs(1)), Some(Action::Exit(status)));
        }
    }
}

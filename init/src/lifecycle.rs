//! What happens next: events and the time come in, actions go out.
//!
//! No clock, signal, process or log is touched here; [`crate::run`] does that.

use std::time::{Duration, Instant};

use crate::{
    budget::{Cut, StopBudget},
    evidence::{Answer, Evidence},
    exit::ExitStatus,
    signal::{Rewrites, Signal},
};

/// Something that happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// One of the signals that ask the task to end: SIGTERM or SIGINT unless other ones were chosen.
    Stop(Signal),
    /// Any other signal that can be caught.
    Other(Signal),
    /// DNS answered a lookup that [`Action::LookUp`] asked for.
    Answered(Answer),
    /// The application was asked for its health as the lame duck began, and is well.
    Healthy,
    /// It was, and is not.
    Unhealthy(String),
    /// The child has ended and has been reaped: nothing may be sent to it any more.
    Exited(ExitStatus),
    /// The child has ended and no other process is left to be reaped.
    Alone,
    /// The time that [`Lifecycle::deadline`] gave has come, or an older one has.
    Wake,
}

/// Something to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// The lame duck began: the child keeps serving until then, unless something changes it.
    Drain {
        /// When the stop signal is passed on.
        until: Instant,
    },
    /// DNS names us: for the first time, or still while we are a lame duck.
    Sighted {
        /// How many records the answer has.
        count: usize,
        /// How long whoever got that answer may hold it.
        ttl: Duration,
        /// When the stop signal is passed on now, if the lame duck has begun.
        until: Option<Instant>,
    },
    /// The lame duck lasts longer: DNS gave a longer TTL than it had before.
    Extend {
        /// When the stop signal is passed on now.
        until: Instant,
    },
    /// The lame duck is over. The signal that goes on comes as [`Action::Forward`].
    Stop(Reason),
    /// Send this to the child now.
    Forward(Signal),
    /// The record lives longer than the budget allows the lame duck to last.
    WarnOfCut(Cut),
    /// Ask DNS for the name once; the answer comes as [`Event::Answered`].
    LookUp,
    /// The child outlived the stop timeout: kill it before the platform kills us both.
    Kill,
    /// The child is gone and others are left: ask them to end.
    TerminateOthers,
    /// All is over: end with the child's status.
    Exit(ExitStatus),
}

/// Why the lame duck is over, or never was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reason {
    /// Its time is up.
    Drained,
    /// No drain was asked for.
    NoDrain,
    /// Somebody asked a second time.
    AskedAgain,
    /// The application is not well, and would only serve errors.
    Unhealthy(String),
    /// Our address was never in DNS, so nobody can have cached it.
    NeverRegistered,
}

/// How the end of the lame duck is found.
#[derive(Clone, Debug)]
pub enum Drain {
    /// It lasts this long.
    Fixed(Duration),
    /// It follows what DNS says.
    Auto(Evidence),
}

/// What the lifecycle is told by the flags.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The division of the stop timeout.
    pub budget: StopBudget,
    /// How the end of the lame duck is found. It never exceeds the budget.
    pub drain: Drain,
    /// Sent to the child in place of the signal that asked for the stop.
    pub stop_signal: Option<Signal>,
    /// Sent to the child as the lame duck begins.
    pub drain_signal: Option<Signal>,
    /// The application is asked for its health then. The drain signal waits for the answer: it may change it.
    pub asks_health: bool,
    /// Signals that are passed on as others, or not at all.
    pub rewrites: Rewrites,
    /// How long the processes that are left when the child ends may take to end.
    pub leftover_timeout: Duration,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Running,
    LameDuck { asked: Signal, asked_at: Instant, until: Instant },
    Stopping,
    Leaving { status: ExitStatus, until: Instant, was_asked: bool },
}

/// Running, then lame duck, then stopping; the child's death ends any of them, and then the others are seen off.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    plan: Plan,
    phase: Phase,
    /// When a child that is still there is killed. Not before a stop was asked for, nor without a given stop timeout,
    /// and not twice.
    kill_at: Option<Instant>,
}

impl Lifecycle {
    /// The life of a child that has just been started.
    #[must_use]
    pub const fn new(plan: Plan) -> Self {
        Self { plan, phase: Phase::Running, kill_at: None }
    }

    /// When to call [`handle`](Self::handle) with [`Event::Wake`]. `None`: not before another event.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let (phase_ends, looks_up) = match self.phase {
            Phase::Running => (None, true),
            Phase::LameDuck { until, .. } => (Some(until), true),
            Phase::Stopping => (self.kill_at, false),
            Phase::Leaving { until, .. } => (Some(until), false),
        };
        let lookup_at = match &self.plan.drain {
            Drain::Auto(evidence) if looks_up => evidence.lookup_at(),
            Drain::Auto(_) | Drain::Fixed(_) => None,
        };
        phase_ends.into_iter().chain(lookup_at).min()
    }

    /// Takes note of `event`, which happened `now`, and says what to do about it, in order.
    #[expect(clippy::match_same_arms, reason = "each pair that has no consequence says why")]
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        use Phase::{LameDuck, Leaving, Running, Stopping};

        match (self.phase, event) {
            (Running, Event::Stop(asked)) => self.begin(asked, now),
            // Asked twice, somebody is waiting; losing a few requests is now their choice.
            (LameDuck { .. }, Event::Stop(again)) => self.stop(again, Reason::AskedAgain),
            (Stopping, Event::Stop(again)) => self.forward_stop(again),

            (LameDuck { until, asked, .. }, Event::Wake) if until <= now => self.stop(asked, Reason::Drained),
            (Running | LameDuck { .. }, Event::Wake) => self.look_up_if_due(now),
            (Stopping, Event::Wake) if self.kill_at.is_some_and(|kill_at| kill_at <= now) => {
                // Once is enough: nothing survives it but a child that the kernel cannot end yet.
                self.kill_at = None;
                vec![Action::Kill]
            }
            (Leaving { status, until, .. }, Event::Wake) if until <= now => vec![Action::Exit(status)],
            // A timer that was set before the phase changed.
            (Stopping | Leaving { .. }, Event::Wake) => vec![],

            (LameDuck { asked, .. }, Event::Unhealthy(why)) => self.stop(asked, Reason::Unhealthy(why)),
            (LameDuck { .. }, Event::Healthy) => self.plan.drain_signal.map(Action::Forward).into_iter().collect(),
            // The probe was slower than the stop.
            (Running | Stopping | Leaving { .. }, Event::Unhealthy(_) | Event::Healthy) => vec![],

            (Running | LameDuck { .. }, Event::Answered(answer)) => self.answered(&answer, now),
            // The lookup was slower than the stop.
            (Stopping | Leaving { .. }, Event::Answered(_)) => vec![],

            (Running | LameDuck { .. } | Stopping, Event::Other(signal)) => {
                self.plan.rewrites.apply(signal).map(Action::Forward).into_iter().collect()
            }

            (Running | LameDuck { .. } | Stopping, Event::Exited(status)) => self.leave(status, now),
            (Leaving { status, until, was_asked: false }, Event::Stop(_)) => {
                // The others have been told already, and have their time.
                self.phase = Leaving { status, until, was_asked: true };
                vec![]
            }
            // Asked once more while the others are seen off: nobody waits for them any longer.
            (Leaving { status, was_asked: true, .. }, Event::Stop(_)) => vec![Action::Exit(status)],
            (Leaving { status, .. }, Event::Alone) => vec![Action::Exit(status)],
            // The child is gone, so there is nobody to pass it on to.
            (Leaving { .. }, Event::Other(_)) => vec![],
            // The child ends once, and is there until then.
            (Leaving { .. }, Event::Exited(_)) | (Running | LameDuck { .. } | Stopping, Event::Alone) => vec![],
        }
    }

    /// Somebody wants the task to end.
    fn begin(&mut self, asked: Signal, now: Instant) -> Vec<Action> {
        // Counted from the first stop signal, as the platform does.
        self.kill_at = self.plan.budget.kill_after().map(|after| now + after);
        let until = self.lame_duck_ends(now);
        if until <= now {
            return self.stop(asked, Reason::NoDrain);
        }
        // Callers may resolve our address until their cached answer expires: keep serving.
        self.phase = Phase::LameDuck { asked, asked_at: now, until };
        let mut actions = vec![Action::Drain { until }];
        actions.extend(self.plan.drain_signal.filter(|_| !self.plan.asks_health).map(Action::Forward));
        if let Drain::Auto(evidence) = &mut self.plan.drain {
            evidence.watch_closely(now);
        }
        actions.extend(self.look_up_if_due(now));
        actions
    }

    fn lame_duck_ends(&self, asked_at: Instant) -> Instant {
        let latest = asked_at + self.plan.budget.drain_limit();
        match &self.plan.drain {
            Drain::Fixed(drain) => (asked_at + *drain).min(latest),
            Drain::Auto(evidence) => evidence.lame_duck_ends(asked_at).min(latest),
        }
    }

    fn look_up_if_due(&mut self, now: Instant) -> Vec<Action> {
        match &mut self.plan.drain {
            Drain::Auto(evidence) => evidence.begin_lookup(now).then_some(Action::LookUp).into_iter().collect(),
            Drain::Fixed(_) => vec![],
        }
    }

    fn answered(&mut self, answer: &Answer, now: Instant) -> Vec<Action> {
        let Drain::Auto(evidence) = &mut self.plan.drain else { return vec![] };
        let needed_before = evidence.needed();
        let is_first = !evidence.was_sighted();
        evidence.answered(answer, now);
        let needed = evidence.needed();
        let sighted = match *answer {
            Answer::Records { ours: true, count, ttl } => Some((count, ttl)),
            Answer::Records { ours: false, .. } | Answer::Absent { .. } | Answer::Failed(_) => None,
        };
        let mut actions = Vec::new();
        // Told when it is learned, long before the deploy that it would spoil.
        if needed > needed_before {
            actions.extend(self.plan.budget.cut(needed).map(Action::WarnOfCut));
        }
        if let Phase::LameDuck { asked, asked_at, until } = self.phase {
            // An answer from before the stop may be too old: the task may have been registered since.
            if evidence.proves_absence(asked_at) {
                return self.stop(asked, Reason::NeverRegistered);
            }
            let ends = self.lame_duck_ends(asked_at);
            self.phase = Phase::LameDuck { asked, asked_at, until: ends };
            if let Some((count, ttl)) = sighted {
                actions.push(Action::Sighted { count, ttl, until: Some(ends) });
            } else if ends > until {
                actions.push(Action::Extend { until: ends });
            }
        } else if let Some((count, ttl)) = sighted.filter(|_| is_first) {
            actions.push(Action::Sighted { count, ttl, until: None });
        }
        actions
    }

    fn stop(&mut self, signal: Signal, reason: Reason) -> Vec<Action> {
        self.phase = Phase::Stopping;
        let mut actions = vec![Action::Stop(reason)];
        actions.extend(self.forward_stop(signal));
        actions
    }

    fn forward_stop(&self, asked: Signal) -> Vec<Action> {
        let signal = self.plan.stop_signal.or_else(|| self.plan.rewrites.apply(asked));
        signal.map(Action::Forward).into_iter().collect()
    }

    /// The child is gone; other processes may be left.
    fn leave(&mut self, status: ExitStatus, now: Instant) -> Vec<Action> {
        if self.plan.leftover_timeout.is_zero() {
            return vec![Action::Exit(status)];
        }
        let until = now + self.plan.leftover_timeout;
        let until = self.kill_at.map_or(until, |kill_at| until.min(kill_at));
        let was_asked = self.phase != Phase::Running;
        self.phase = Phase::Leaving { status, until, was_asked };
        vec![Action::TerminateOthers]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{budget::StopTimeout, evidence::Settings};

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// When a child with a stop timeout of 60 seconds is killed.
    const KILLED: Duration = Duration::from_millis(59_800);

    const STATUS: ExitStatus = ExitStatus::Exited(7);

    fn plan(drain: Drain, stop_timeout: StopTimeout) -> Plan {
        Plan {
            budget: StopBudget::new(stop_timeout, secs(5)).unwrap(),
            drain,
            stop_signal: None,
            drain_signal: None,
            asks_health: false,
            rewrites: Rewrites::default(),
            leftover_timeout: secs(2),
        }
    }

    fn lifecycle(drain: u64) -> Lifecycle {
        Lifecycle::new(plan(Drain::Fixed(secs(drain)), StopTimeout::Given(secs(60))))
    }

    fn following_dns(now: Instant) -> Lifecycle {
        let evidence = Evidence::new(Settings { fallback: secs(30), margin: secs(5) }, now);
        Lifecycle::new(plan(Drain::Auto(evidence), StopTimeout::Given(secs(60))))
    }

    /// The time, which pure code takes and never reads.
    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    /// Running, lame duck, stopping and leaving, each reached at `now`.
    fn in_each_phase(now: Instant) -> [Lifecycle; 4] {
        let running = lifecycle(30);
        let mut lame_duck = running.clone();
        assert_eq!(lame_duck.handle(Event::Stop(Signal::TERM), now), [Action::Drain { until: now + secs(30) }]);
        let mut stopping = lame_duck.clone();
        stopping.handle(Event::Stop(Signal::TERM), now);
        let mut leaving = stopping.clone();
        assert_eq!(leaving.handle(Event::Exited(STATUS), now), [Action::TerminateOthers]);
        [running, lame_duck, stopping, leaving]
    }

    #[test]
    fn nothing_is_due_until_somebody_asks_for_a_stop() {
        let mut lifecycle = lifecycle(30);
        assert_eq!(lifecycle.deadline(), None);
        assert_eq!(lifecycle.handle(Event::Wake, now()), []);
        assert_eq!(lifecycle.deadline(), None);
    }

    #[test]
    fn a_stop_starts_the_lame_duck_and_the_signal_goes_on_when_it_ends() {
        let now = now();
        let mut lifecycle = lifecycle(30);
        lifecycle.handle(Event::Stop(Signal::INT), now);
        assert_eq!(lifecycle.deadline(), Some(now + secs(30)));
        assert_eq!(lifecycle.handle(Event::Wake, now + secs(29)), []);
        assert_eq!(lifecycle.deadline(), Some(now + secs(30)));
        // The signal that goes on is the one that asked.
        let expected = [Action::Stop(Reason::Drained), Action::Forward(Signal::INT)];
        assert_eq!(lifecycle.handle(Event::Wake, now + secs(30)), expected);
        assert_eq!(lifecycle.deadline(), Some(now + KILLED));
    }

    #[test]
    fn without_a_drain_the_signal_goes_on_at_once() {
        let now = now();
        let mut lifecycle = lifecycle(0);
        let expected = [Action::Stop(Reason::NoDrain), Action::Forward(Signal::TERM)];
        assert_eq!(lifecycle.handle(Event::Stop(Signal::TERM), now), expected);
        assert_eq!(lifecycle.deadline(), Some(now + KILLED));
    }

    #[test]
    fn a_second_stop_ends_the_lame_duck_and_the_kill_is_still_counted_from_the_first() {
        let now = now();
        let [_, mut lame_duck, ..] = in_each_phase(now);
        let expected = [Action::Stop(Reason::AskedAgain), Action::Forward(Signal::INT)];
        assert_eq!(lame_duck.handle(Event::Stop(Signal::INT), now + secs(1)), expected);
        assert_eq!(lame_duck.deadline(), Some(now + KILLED));
    }

    #[test]
    fn a_stop_while_stopping_is_passed_on() {
        let now = now();
        let [_, _, mut stopping, _] = in_each_phase(now);
        assert_eq!(stopping.handle(Event::Stop(Signal::TERM), now), [Action::Forward(Signal::TERM)]);
        assert_eq!(stopping.deadline(), Some(now + KILLED));
    }

    #[test]
    fn a_timer_of_an_earlier_phase_does_nothing() {
        let now = now();
        let [_, _, mut stopping, mut leaving] = in_each_phase(now);
        assert_eq!(stopping.handle(Event::Wake, now + secs(30)), []);
        assert_eq!(stopping.deadline(), Some(now + KILLED));
        assert_eq!(leaving.handle(Event::Wake, now + secs(1)), []);
        assert_eq!(leaving.deadline(), Some(now + secs(2)));
    }

    #[test]
    fn a_child_that_outlives_the_stop_timeout_is_killed_once() {
        let now = now();
        let [_, _, mut stopping, _] = in_each_phase(now);
        assert_eq!(stopping.handle(Event::Wake, now + Duration::from_millis(59_799)), []);
        assert_eq!(stopping.handle(Event::Wake, now + KILLED), [Action::Kill]);
        assert_eq!(stopping.deadline(), None);
        assert_eq!(stopping.handle(Event::Wake, now + secs(90)), []);
    }

    #[test]
    fn nobody_is_killed_on_an_assumed_stop_timeout() {
        let now = now();
        let mut lifecycle = Lifecycle::new(plan(Drain::Fixed(secs(30)), StopTimeout::Assumed));
        assert_eq!(lifecycle.handle(Event::Stop(Signal::TERM), now), [Action::Drain { until: now + secs(25) }]);
        lifecycle.handle(Event::Wake, now + secs(25));
        assert_eq!(lifecycle.deadline(), None);
        assert_eq!(lifecycle.handle(Event::Wake, now + secs(3600)), []);
    }

    #[test]
    fn other_signals_go_on_at_once_and_change_nothing_while_the_child_lives() {
        let now = now();
        let [.., mut leaving] = in_each_phase(now);
        for mut lifecycle in in_each_phase(now).into_iter().take(3) {
            let before = (lifecycle.phase, lifecycle.deadline());
            for signal in [Signal::HUP, Signal::USR1, Signal::WINCH, Signal::new(37)] {
                assert_eq!(lifecycle.handle(Event::Other(signal), now + secs(1)), [Action::Forward(signal)]);
            }
            assert_eq!((lifecycle.phase, lifecycle.deadline()), before);
        }
        assert_eq!(leaving.handle(Event::Other(Signal::HUP), now), []);
    }

    #[test]
    fn the_childs_death_ends_every_phase_and_its_status_is_the_end() {
        let now = now();
        for mut lifecycle in in_each_phase(now).into_iter().take(3) {
            assert_eq!(lifecycle.handle(Event::Exited(STATUS), now + secs(1)), [Action::TerminateOthers]);
            assert_eq!(lifecycle.deadline(), Some(now + secs(3)));
            assert_eq!(lifecycle.handle(Event::Alone, now + secs(1)), [Action::Exit(STATUS)]);
        }
    }

    #[test]
    fn those_who_are_left_get_their_time_and_no_more() {
        let now = now();
        for (event, at) in [(Event::Wake, 2), (Event::Alone, 0), (Event::Stop(Signal::TERM), 1)] {
            let [.., mut leaving] = in_each_phase(now);
            assert_eq!(leaving.handle(event, now + secs(at)), [Action::Exit(STATUS)]);
        }
    }

    #[test]
    fn those_who_are_left_are_gone_before_the_stop_timeout() {
        let now = now();
        let [_, _, mut stopping, _] = in_each_phase(now);
        stopping.handle(Event::Exited(STATUS), now + secs(59));
        assert_eq!(stopping.deadline(), Some(now + KILLED));
    }

    #[test]
    fn a_bad_bill_of_health_ends_a_lame_duck_and_nothing_else() {
        let now = now();
        let unhealthy = || Event::Unhealthy("answered 503".to_owned());
        let [mut running, mut lame_duck, mut stopping, mut leaving] = in_each_phase(now);
        let reason = Reason::Unhealthy("answered 503".to_owned());
        let expected = [Action::Stop(reason), Action::Forward(Signal::TERM)];
        assert_eq!(lame_duck.handle(unhealthy(), now), expected);
        for lifecycle in [&mut running, &mut stopping, &mut leaving] {
            assert_eq!(lifecycle.handle(unhealthy(), now), []);
        }
    }

    #[test]
    fn dns_is_asked_at_once_and_again_when_the_answer_expires_but_not_twice_at_a_time() {
        let now = now();
        let mut lifecycle = following_dns(now);
        assert_eq!(lifecycle.deadline(), Some(now));
        assert_eq!(lifecycle.handle(Event::Wake, now), [Action::LookUp]);
        assert_eq!(lifecycle.deadline(), None);
        assert_eq!(lifecycle.handle(Event::Wake, now), []);
        let answer = Answer::Records { ours: true, count: 4, ttl: secs(20) };
        lifecycle.handle(Event::Answered(answer), now);
        assert_eq!(lifecycle.deadline(), Some(now + secs(20)));
    }

    #[test]
    fn a_sighting_lengthens_the_lame_duck_and_an_absence_does_not_shorten_it() {
        let now = now();
        let mut lifecycle = following_dns(now);
        let answer = |ours| Event::Answered(Answer::Records { ours, count: 4, ttl: secs(20) });
        lifecycle.handle(answer(true), now);
        let actions = lifecycle.handle(Event::Stop(Signal::TERM), now);
        assert_eq!(actions, [Action::Drain { until: now + secs(25) }, Action::LookUp]);
        let until = now + secs(27);
        let expected = [Action::Sighted { count: 4, ttl: secs(20), until: Some(until) }];
        assert_eq!(lifecycle.handle(answer(true), now + secs(2)), expected);
        assert_eq!(lifecycle.handle(answer(false), now + secs(3)), []);
        assert_eq!(lifecycle.handle(Event::Wake, now + secs(4)), [Action::LookUp]);
        let expected = [Action::Stop(Reason::Drained), Action::Forward(Signal::TERM)];
        assert_eq!(lifecycle.handle(Event::Wake, now + secs(27)), expected);
    }

    #[test]
    fn a_longer_ttl_lengthens_the_lame_duck_whoever_is_in_the_answer() {
        let now = now();
        let mut lifecycle = following_dns(now);
        let answer = |ours, ttl| Event::Answered(Answer::Records { ours, count: 4, ttl });
        lifecycle.handle(answer(true, secs(20)), now);
        lifecycle.handle(Event::Stop(Signal::TERM), now);
        let expected = [Action::Extend { until: now + secs(35) }];
        assert_eq!(lifecycle.handle(answer(false, secs(30)), now + secs(1)), expected);
    }

    #[test]
    fn the_first_sighting_is_told_and_each_one_in_the_lame_duck() {
        let now = now();
        let mut lifecycle = following_dns(now);
        let seen = |until| vec![Action::Sighted { count: 4, ttl: secs(20), until }];
        let ours = || Event::Answered(Answer::Records { ours: true, count: 4, ttl: secs(20) });
        assert_eq!(lifecycle.handle(ours(), now), seen(None));
        assert_eq!(lifecycle.handle(ours(), now + secs(20)), []);
        lifecycle.handle(Event::Stop(Signal::TERM), now + secs(30));
        for second in [31, 32] {
            let until = now + secs(second + 20 + 5);
            assert_eq!(lifecycle.handle(ours(), now + secs(second)), seen(Some(until)));
        }
    }

    #[test]
    fn the_budget_ends_what_dns_would_not() {
        let now = now();
        let mut lifecycle = following_dns(now);
        let answer = Event::Answered(Answer::Records { ours: true, count: 4, ttl: secs(120) });
        // The warning comes with the first answer, long before the deploy that it would spoil.
        let cut = lifecycle.plan.budget.cut(secs(125)).unwrap();
        let sighted = Action::Sighted { count: 4, ttl: secs(120), until: None };
        assert_eq!(lifecycle.handle(answer.clone(), now), [Action::WarnOfCut(cut), sighted]);
        assert_eq!(lifecycle.handle(answer, now), []);
        let actions = lifecycle.handle(Event::Stop(Signal::TERM), now);
        assert_eq!(actions[0], Action::Drain { until: now + secs(55) });
    }

    /// Lets the lifecycle look DNS up whenever it wants to until `end`, each time with this answer at once.
    fn look_up_until(lifecycle: &mut Lifecycle, end: Instant, answer: &Answer) {
        while let Some(at) = lifecycle.deadline().filter(|at| *at < end) {
            assert_eq!(lifecycle.handle(Event::Wake, at), [Action::LookUp]);
            assert_eq!(lifecycle.handle(Event::Answered(answer.clone()), at), []);
        }
    }

    #[test]
    fn a_task_that_dns_never_named_stops_when_a_fresh_answer_says_so_too() {
        let now = now();
        let absent = Answer::Absent { ttl: None };
        let mut lifecycle = following_dns(now);
        look_up_until(&mut lifecycle, now + secs(101), &absent);
        let actions = lifecycle.handle(Event::Stop(Signal::TERM), now + secs(101));
        assert_eq!(actions, [Action::Drain { until: now + secs(131) }, Action::LookUp]);
        let mut registered_since = lifecycle.clone();
        let expected = [Action::Stop(Reason::NeverRegistered), Action::Forward(Signal::TERM)];
        assert_eq!(lifecycle.handle(Event::Answered(absent), now + secs(101)), expected);
        let answer = Answer::Records { ours: true, count: 4, ttl: secs(40) };
        let actions = registered_since.handle(Event::Answered(answer), now + secs(101));
        let until = Some(now + secs(146));
        assert_eq!(actions, [Action::Sighted { count: 4, ttl: secs(40), until }]);
    }

    #[test]
    fn an_answer_that_was_asked_for_before_the_stop_is_not_the_fresh_one() {
        let now = now();
        let absent = || Event::Answered(Answer::Absent { ttl: None });
        let mut lifecycle = following_dns(now);
        look_up_until(&mut lifecycle, now + secs(90), &Answer::Absent { ttl: None });
        assert_eq!(lifecycle.handle(Event::Wake, now + secs(90)), [Action::LookUp]);
        lifecycle.handle(Event::Stop(Signal::TERM), now + secs(92));
        assert_eq!(lifecycle.handle(absent(), now + secs(93)), []);
        assert_eq!(lifecycle.handle(Event::Wake, now + secs(94)), [Action::LookUp]);
        let expected = [Action::Stop(Reason::NeverRegistered), Action::Forward(Signal::TERM)];
        assert_eq!(lifecycle.handle(absent(), now + secs(94)), expected);
    }

    #[test]
    fn a_task_that_is_registered_and_deregistered_between_two_lookups_is_drained() {
        let now = now();
        let absent = Answer::Absent { ttl: Some(secs(4)) };
        let mut lifecycle = following_dns(now);
        // Absent for 4 seconds. At 6 DNS names it, at 9 no longer; at 10 it is stopped.
        look_up_until(&mut lifecycle, now + secs(10), &absent);
        assert_eq!(lifecycle.deadline(), Some(now + secs(10)));
        let actions = lifecycle.handle(Event::Stop(Signal::TERM), now + secs(10));
        assert_eq!(actions, [Action::Drain { until: now + secs(40) }, Action::LookUp]);
        assert_eq!(lifecycle.handle(Event::Answered(absent), now + secs(10)), []);
        assert_eq!(lifecycle.deadline(), Some(now + secs(11)));
    }

    /// A DNS server, or a resolver that keeps answers, and all that callers were told by it of a record's coming and going.
    struct Dns {
        registered: std::ops::Range<Instant>,
        ttl: Duration,
        absent_ttl: Duration,
        caches: bool,
        cached: Option<(bool, Instant)>,
    }

    impl Dns {
        /// Whether it names us, and until when that holds.
        fn ask(&mut self, now: Instant) -> (bool, Instant) {
            if let Some(cached) = self.cached.filter(|(_, until)| *until > now) {
                return cached;
            }
            let ours = self.registered.contains(&now);
            let fresh = (ours, now + if ours { self.ttl } else { self.absent_ttl });
            self.cached = self.caches.then_some(fresh);
            fresh
        }

        fn look_up(&mut self, now: Instant) -> Answer {
            match self.ask(now) {
                (true, until) => Answer::Records { ours: true, count: 4, ttl: until - now },
                (false, until) => Answer::Absent { ttl: Some(until - now) },
            }
        }
    }

    /// Of a caching resolver any record counts, as its callers are told what it has; of a server that is asked afresh each time
    /// one that it has for at least as long as two lookups are apart, the second being as late as it may be.
    #[test]
    fn no_lame_duck_is_skipped_while_a_caller_holds_our_address() {
        const STEP: Duration = Duration::from_millis(500);
        let start = now();
        let mut random = fastrand::Rng::with_seed(3);
        let (mut skipped, mut drained) = (0, 0);
        for _ in 0..5_000 {
            let caches = random.bool();
            let registered_at = start + secs(random.u64(..120));
            let lasts = if caches { random.u64(..40) } else { 20 + random.u64(..40) };
            let mut dns = Dns {
                registered: registered_at..registered_at + secs(if random.u32(..4) == 0 { 0 } else { lasts }),
                ttl: secs(random.u64(1..30)),
                absent_ttl: secs(random.u64(..60)),
                caches,
                cached: None,
            };
            let stop = dns.registered.end + secs(random.u64(..3));
            let mut lifecycle = following_dns(start);
            let (mut now, mut held_until, mut answer) = (start, start, None);
            let reason = loop {
                if random.u32(..3) == 0
                    && let (true, until) = dns.ask(now)
                {
                    held_until = held_until.max(until);
                }
                let event = if now >= stop && lifecycle.phase == Phase::Running {
                    Event::Stop(Signal::TERM)
                } else if let Some(answer) = answer.take() {
                    Event::Answered(answer)
                } else {
                    Event::Wake
                };
                let actions = lifecycle.handle(event, now);
                if actions.contains(&Action::LookUp) {
                    let fails = random.u32(..20) == 0;
                    answer = Some(if fails { Answer::Failed(String::new()) } else { dns.look_up(now) });
                }
                if let Some(Action::Stop(reason)) = actions.into_iter().find(|action| matches!(action, Action::Stop(_)))
                {
                    break reason;
                }
                now += STEP;
            };
            if reason == Reason::NeverRegistered {
                skipped += 1;
                assert!(now >= held_until, "{:?} too early: {lifecycle:?}", held_until - now);
            } else {
                drained += 1;
            }
        }
        assert!(skipped > 100 && drained > 100, "{skipped} skipped, {drained} drained");
    }

    #[test]
    fn the_drain_signal_waits_until_the_application_has_said_that_it_is_well() {
        let now = now();
        let plan = Plan { drain_signal: Some(Signal::USR1), asks_health: true, ..lifecycle(30).plan };
        let mut lifecycle = Lifecycle::new(plan);
        assert_eq!(lifecycle.handle(Event::Stop(Signal::TERM), now), [Action::Drain { until: now + secs(30) }]);
        assert_eq!(lifecycle.handle(Event::Healthy, now), [Action::Forward(Signal::USR1)]);
        lifecycle.handle(Event::Wake, now + secs(30));
        assert_eq!(lifecycle.handle(Event::Healthy, now + secs(30)), []);
    }

    #[test]
    fn the_first_request_to_stop_does_not_take_their_time_from_those_who_are_left() {
        let now = now();
        let mut lifecycle = lifecycle(30);
        lifecycle.handle(Event::Exited(STATUS), now);
        assert_eq!(lifecycle.handle(Event::Stop(Signal::TERM), now), []);
        assert_eq!(lifecycle.deadline(), Some(now + secs(2)));
        assert_eq!(lifecycle.handle(Event::Stop(Signal::TERM), now), [Action::Exit(STATUS)]);
    }

    #[test]
    fn an_answer_that_comes_too_late_changes_nothing() {
        let now = now();
        let [.., mut stopping, mut leaving] = in_each_phase(now);
        for lifecycle in [&mut stopping, &mut leaving] {
            let before = lifecycle.deadline();
            assert_eq!(lifecycle.handle(Event::Answered(Answer::Absent { ttl: None }), now), []);
            assert_eq!(lifecycle.deadline(), before);
        }
    }

    /// A child that ends some time after a signal, in a world where anything may happen in any order.
    #[test]
    fn whatever_happens_the_promises_hold() {
        let start = now();
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..20_000 {
            let mut lifecycle = if random.bool() { lifecycle(random.u64(..90)) } else { following_dns(start) };
            let mut now = start;
            let (mut first_stop, mut stops, mut forwarded, mut killed) = (None, 0, 0, 0);
            let mut exited = None;
            let ended = loop {
                now += Duration::from_millis(random.u64(..8000));
                if let Some(deadline) = lifecycle.deadline() {
                    now = now.min(deadline.max(start));
                }
                let event = match random.u32(..12) {
                    0 => Event::Stop(Signal::TERM),
                    1 => Event::Other(Signal::HUP),
                    2 => Event::Unhealthy(String::new()),
                    3 => Event::Answered(Answer::Records {
                        ours: random.bool(),
                        count: random.usize(..12),
                        ttl: secs(random.u64(..90)),
                    }),
                    4 => Event::Answered(Answer::Failed(String::new())),
                    5 if exited.is_none() && random.u32(..8) == 0 => Event::Exited(STATUS),
                    6 if exited.is_some() => Event::Alone,
                    _ => Event::Wake,
                };
                if let Event::Stop(_) = event {
                    stops += 1;
                    first_stop.get_or_insert(now);
                }
                if let Event::Exited(_) = event {
                    exited = Some(now);
                }
                let mut end = None;
                for action in lifecycle.handle(event, now) {
                    match action {
                        Action::Forward(Signal::TERM) => forwarded += 1,
                        Action::Kill => killed += 1,
                        Action::Exit(status) => end = Some(status),
                        Action::Forward(_)
                        | Action::Drain { .. }
                        | Action::Sighted { .. }
                        | Action::Extend { .. }
                        | Action::WarnOfCut(_)
                        | Action::Stop(_)
                        | Action::LookUp
                        | Action::TerminateOthers => {}
                    }
                }
                // Never forwards unasked, nor more often than it was asked.
                assert!(forwarded <= stops, "{lifecycle:?}");
                assert!(killed <= 1 && (killed == 0 || first_stop.is_some_and(|at| now >= at + KILLED)));
                if let Some(status) = end {
                    break status;
                }
                // A child that is still there at the stop timeout has been told to stop, and is killed at the next wake.
                if let Some(at) = first_stop.filter(|at| now >= *at + secs(60) && exited.is_none()) {
                    assert!(forwarded >= 1, "{lifecycle:?}");
                    lifecycle.handle(Event::Wake, now);
                    assert!(lifecycle.kill_at.is_none(), "{at:?} {lifecycle:?}");
                    exited = Some(now);
                    lifecycle.handle(Event::Exited(STATUS), now);
                }
            };
            // Always ends with the child's status, and only after its end.
            assert_eq!(ended, STATUS);
            assert!(exited.is_some());
        }
    }
}

//! The loop: wait, classify, decide, act.

use std::{future::Future, io};

use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::{
    exit::ExitStatus,
    lifecycle::{Action, Event, Lifecycle, Reason},
    signal::Signal,
};

/// What the loop needs of the world. The real one is [`crate::host::Child`].
pub trait Host {
    /// The next signal, answer, or end of a process. Never [`Event::Wake`], which is the loop's own. A call that is
    /// dropped before it is ready loses no event.
    fn next_event(&mut self) -> impl Future<Output = Event>;

    /// Sends `signal` to the child, or does nothing if it has been reaped.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, such as `EPERM` if the child has become another user.
    fn forward(&mut self, signal: Signal) -> io::Result<()>;

    /// The child is about to get the stop signal: makes sure that it can act on it.
    fn begin_stop(&mut self);

    /// The lame duck has begun: starts whatever was to be started then, and waits for none of it.
    fn begin_drain(&mut self);

    /// Asks DNS once; the answer is an event.
    fn look_up(&mut self);

    /// Asks every process that is left to end, and looks whether there is one.
    fn terminate_others(&mut self);
}

/// Lives the child's life to its end and returns how it ended.
///
/// A signal that cannot be sent is reported and survived: whatever happens, somebody has to reap the child and pass
/// its exit code on.
pub async fn run(mut lifecycle: Lifecycle, host: &mut impl Host) -> ExitStatus {
    loop {
        let deadline = lifecycle.deadline();
        let wake = async {
            match deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            biased; // A child that exits as the timer fires has exited: report that, signal nobody.
            event = host.next_event() => event,
            () = wake => Event::Wake,
        };
        let now = Instant::now().into_std();
        tell(&event);
        for action in lifecycle.handle(event, now) {
            match action {
                Action::Drain { until } => {
                    let drain = humantime::format_duration(until - now).to_string();
                    info!(drain, "lame duck: serving until cached DNS answers expire");
                    host.begin_drain();
                }
                Action::Sighted { count, ttl, until } => {
                    let ttl = humantime::format_duration(ttl).to_string();
                    if let Some(until) = until {
                        let left = humantime::format_duration(until - now).to_string();
                        info!(records = count, ttl, left, "lame duck: our address is still in DNS");
                    } else {
                        info!(records = count, ttl, "our address is in DNS");
                    }
                }
                Action::Extend { until } => {
                    let left = humantime::format_duration(until - now).to_string();
                    info!(left, "lame duck: DNS gives a longer TTL, so it lasts longer");
                }
                Action::WarnOfCut(cut) => warn!("{cut}"),
                Action::Stop(reason) => {
                    info!("stopping: {}", in_words(&reason));
                    host.begin_stop();
                }
                Action::Forward(signal) => {
                    // First the signal, then its line: whoever sent it waits.
                    if send(host, signal) {
                        info!(%signal, "forwarded");
                    }
                }
                Action::LookUp => host.look_up(),
                Action::Kill => {
                    if send(host, Signal::KILL) {
                        warn!("killed: the child outlived the stop timeout, and the platform would have killed it now");
                    }
                }
                Action::TerminateOthers => host.terminate_others(),
                Action::Exit(status) => return status,
            }
        }
    }
}

/// Notes what is worth a line by itself, whatever follows from it.
fn tell(event: &Event) {
    match event {
        Event::Answered(answer) => debug!("DNS: {answer:?}"),
        Event::Exited(status) => debug!("the child {status}"),
        Event::Stop(signal) => info!(%signal, "asked to stop"),
        Event::Other(_) | Event::Healthy | Event::Unhealthy(_) | Event::Alone | Event::Wake => {}
    }
}

fn in_words(reason: &Reason) -> String {
    match reason {
        Reason::Drained => "the lame duck is over".to_owned(),
        Reason::NoDrain => "there is nothing to drain".to_owned(),
        Reason::AskedAgain => "asked again, so the lame duck is over".to_owned(),
        Reason::Unhealthy(why) => format!("the application is not healthy, so there is no lame duck: {why}"),
        Reason::NeverRegistered => "our address was never in DNS, so there is no lame duck".to_owned(),
    }
}

/// Whether it could be sent.
fn send(host: &mut impl Host, signal: Signal) -> bool {
    let sent = host.forward(signal);
    if let Err(error) = &sent {
        warn!(%signal, %error, "the child could not be signalled");
    }
    sent.is_ok()
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, time::Duration};

    use super::*;
    use crate::{
        budget::{StopBudget, StopTimeout},
        evidence::{Answer, Evidence, Settings},
        lifecycle::{Drain, Plan},
        signal::Rewrites,
    };

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A host whose events were written down beforehand and that notes what is sent to the child.
    struct Script {
        started: Instant,
        events: VecDeque<(Duration, Event)>,
        forwarded: Vec<(Signal, Duration)>,
        /// When the lame duck began, and when the others were asked to end.
        drained: Vec<Duration>,
        terminated: Vec<Duration>,
        lookups: Vec<Duration>,
        /// What DNS answers, at the time of the question.
        dns: fn(Duration) -> Answer,
        /// Whether processes are left when the child has ended.
        has_others: bool,
        /// How the child answers a signal: after this long, with this status. `None`: it ignores it.
        answer: fn(Signal) -> Option<(Duration, ExitStatus)>,
    }

    impl Script {
        fn new(events: impl IntoIterator<Item = (Duration, Event)>) -> Self {
            Self {
                started: Instant::now(),
                events: events.into_iter().collect(),
                forwarded: Vec::new(),
                drained: Vec::new(),
                terminated: Vec::new(),
                lookups: Vec::new(),
                dns: |_| Answer::Failed("no DNS here".to_owned()),
                has_others: false,
                answer: |signal| (signal == Signal::TERM).then_some((secs(1), ExitStatus::Exited(0))),
            }
        }

        /// A child that only SIGKILL ends.
        fn stubborn(events: impl IntoIterator<Item = (Duration, Event)>) -> Self {
            let answer = |signal| (signal == Signal::KILL).then_some((Duration::ZERO, ExitStatus::Signaled(signal)));
            Self { answer, ..Self::new(events) }
        }

        /// Runs to the end; returns the exit code and when it was known.
        async fn run(&mut self, plan: Plan) -> (u8, Duration) {
            let code = run(Lifecycle::new(plan), self).await.code();
            (code, self.started.elapsed())
        }

        /// Something happens after this long; what is due in the same moment comes after it.
        fn after(&mut self, pause: Duration, event: Event) {
            let at = self.started.elapsed() + pause;
            let place = self.events.iter().position(|(other, _)| *other > at).unwrap_or(self.events.len());
            self.events.insert(place, (at, event));
        }
    }

    impl Host for Script {
        async fn next_event(&mut self) -> Event {
            match self.events.front() {
                Some((at, _)) => {
                    sleep_until(self.started + *at).await;
                    self.events.pop_front().expect("it is there").1
                }
                None => std::future::pending().await,
            }
        }

        fn forward(&mut self, signal: Signal) -> io::Result<()> {
            let at = self.started.elapsed();
            self.forwarded.push((signal, at));
            if let Some((after, status)) = (self.answer)(signal) {
                self.after(after, Event::Exited(status));
            }
            Ok(())
        }

        fn begin_stop(&mut self) {}

        fn begin_drain(&mut self) {
            self.drained.push(self.started.elapsed());
        }

        fn look_up(&mut self) {
            let now = self.started.elapsed();
            self.lookups.push(now);
            self.after(Duration::from_millis(1), Event::Answered((self.dns)(now)));
        }

        fn terminate_others(&mut self) {
            self.terminated.push(self.started.elapsed());
            if !self.has_others {
                self.after(Duration::ZERO, Event::Alone);
            }
        }
    }

    fn plan(drain: u64, stop_timeout: StopTimeout) -> Plan {
        Plan {
            budget: StopBudget::new(stop_timeout, secs(5)).unwrap(),
            drain: Drain::Fixed(secs(drain)),
            stop_signal: None,
            drain_signal: None,
            asks_health: false,
            rewrites: Rewrites::default(),
            leftover_timeout: secs(2),
        }
    }

    /// A plan that follows DNS, for a record of which nothing is known yet.
    fn auto(stop_timeout: u64) -> Plan {
        let evidence = Evidence::new(Settings { fallback: secs(30), margin: secs(5) }, Instant::now().into_std());
        Plan { drain: Drain::Auto(evidence), ..plan(0, StopTimeout::Given(secs(stop_timeout))) }
    }

    const GIVEN: StopTimeout = StopTimeout::Given(secs(60));

    #[tokio::test(start_paused = true)]
    async fn forwards_exactly_after_the_drain_and_propagates_the_exit_code() {
        let mut host = Script::new([(secs(3), Event::Stop(Signal::TERM))]);
        let (code, ended) = host.run(plan(30, GIVEN)).await;
        assert_eq!(host.forwarded, [(Signal::TERM, secs(33))]);
        assert_eq!((code, ended), (0, secs(34)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_stop_signal_ends_the_lame_duck_at_once() {
        for second in [Signal::TERM, Signal::INT] {
            let mut host = Script::new([(secs(0), Event::Stop(Signal::TERM)), (secs(2), Event::Stop(second))]);
            host.answer = |_| Some((secs(1), ExitStatus::Exited(0)));
            assert_eq!(host.run(plan(30, GIVEN)).await, (0, secs(3)));
            assert_eq!(host.forwarded, [(second, secs(2))]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_dies_in_the_lame_duck_ends_it_at_once_with_its_code() {
        let mut host =
            Script::new([(secs(0), Event::Stop(Signal::TERM)), (secs(4), Event::Exited(ExitStatus::Exited(7)))]);
        assert_eq!(host.run(plan(30, GIVEN)).await, (7, secs(4)));
        assert_eq!(host.forwarded, []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_dies_while_running_ends_us_with_its_code() {
        let mut host = Script::new([(secs(9), Event::Exited(ExitStatus::Signaled(Signal::new(11))))]);
        assert_eq!(host.run(plan(30, GIVEN)).await, (139, secs(9)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_exits_as_the_drain_ends_is_not_signalled() {
        let mut host =
            Script::new([(secs(0), Event::Stop(Signal::TERM)), (secs(30), Event::Exited(ExitStatus::Exited(3)))]);
        assert_eq!(host.run(plan(30, GIVEN)).await, (3, secs(30)));
        assert_eq!(host.forwarded, []);
    }

    #[tokio::test(start_paused = true)]
    async fn hup_usr1_and_winch_pass_at_once_in_every_phase() {
        let signals = [Signal::HUP, Signal::USR1, Signal::WINCH];
        let at = |second: u64| signals.map(|signal| (secs(second), Event::Other(signal)));
        let mut events = Vec::from(at(1)); // Running.
        events.push((secs(2), Event::Stop(Signal::TERM)));
        events.extend(at(3)); // Lame duck.
        events.extend(at(35)); // Stopping.
        events.push((secs(36), Event::Exited(ExitStatus::Exited(0))));
        let mut host = Script::stubborn(events);
        assert_eq!(host.run(plan(30, GIVEN)).await, (0, secs(36)));
        let passed = |second: u64| signals.map(|signal| (signal, secs(second)));
        let expected = [passed(1).as_slice(), &passed(3), &[(Signal::TERM, secs(32))], &passed(35)].concat();
        assert_eq!(host.forwarded, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn the_child_gets_its_grace_even_when_the_drain_asks_for_all_of_the_stop_timeout() {
        for stop_timeout in [StopTimeout::Given(secs(30)), StopTimeout::Assumed] {
            let mut host = Script::new([(secs(0), Event::Stop(Signal::TERM))]);
            host.answer = |_| Some((Duration::from_millis(4_700), ExitStatus::Exited(0)));
            assert_eq!(host.run(plan(30, stop_timeout)).await, (0, Duration::from_millis(29_700)));
            assert_eq!(host.forwarded, [(Signal::TERM, secs(25))]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_ignores_sigterm_is_killed_just_before_the_stop_timeout_and_the_code_says_so() {
        let mut host = Script::stubborn([(secs(0), Event::Stop(Signal::TERM))]);
        let just_before = Duration::from_millis(59_800);
        assert_eq!(host.run(plan(30, GIVEN)).await, (137, just_before));
        assert_eq!(host.forwarded, [(Signal::TERM, secs(30)), (Signal::KILL, just_before)]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_killed_when_the_stop_timeout_was_only_assumed() {
        let mut host = Script::stubborn([
            (secs(0), Event::Stop(Signal::TERM)),
            (secs(3600), Event::Exited(ExitStatus::Exited(0))),
        ]);
        assert_eq!(host.run(plan(30, StopTimeout::Assumed)).await, (0, secs(3600)));
        assert_eq!(host.forwarded, [(Signal::TERM, secs(25))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_that_cannot_be_sent_does_not_end_the_watch() {
        struct Refusing(Script);
        impl Host for Refusing {
            async fn next_event(&mut self) -> Event {
                self.0.next_event().await
            }
            fn forward(&mut self, _: Signal) -> io::Result<()> {
                Err(io::Error::from_raw_os_error(libc::EPERM))
            }
            fn begin_stop(&mut self) {}
            fn begin_drain(&mut self) {}
            fn look_up(&mut self) {}
            fn terminate_others(&mut self) {
                self.0.terminate_others();
            }
        }
        let mut host = Refusing(Script::new([
            (secs(0), Event::Stop(Signal::TERM)),
            (secs(90), Event::Exited(ExitStatus::Exited(5))),
        ]));
        let status = run(Lifecycle::new(plan(30, StopTimeout::Assumed)), &mut host).await;
        assert_eq!(status, ExitStatus::Exited(5));
    }

    #[tokio::test(start_paused = true)]
    async fn the_drain_signal_comes_at_the_start_and_the_stop_signal_in_place_of_sigterm_at_the_end() {
        let mut host = Script::new([(secs(1), Event::Stop(Signal::TERM))]);
        host.answer = |signal| (signal == Signal::INT).then_some((secs(1), ExitStatus::Exited(0)));
        let plan = Plan { drain_signal: Some(Signal::USR1), stop_signal: Some(Signal::INT), ..plan(30, GIVEN) };
        assert_eq!(host.run(plan).await, (0, secs(32)));
        assert_eq!(host.forwarded, [(Signal::USR1, secs(1)), (Signal::INT, secs(31))]);
        assert_eq!(host.drained, [secs(1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_lame_duck_there_is_no_drain_signal() {
        let mut host = Script::new([(secs(1), Event::Stop(Signal::TERM))]);
        let plan = Plan { drain_signal: Some(Signal::USR1), ..plan(0, GIVEN) };
        assert_eq!(host.run(plan).await, (0, secs(2)));
        assert_eq!((host.forwarded, host.drained), (vec![(Signal::TERM, secs(1))], vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rewritten_signal_goes_on_as_another_and_a_swallowed_one_not_at_all() {
        let mut host = Script::new([
            (secs(1), Event::Other(Signal::HUP)),
            (secs(2), Event::Other(Signal::WINCH)),
            (secs(3), Event::Stop(Signal::TERM)),
            (secs(4), Event::Exited(ExitStatus::Exited(0))),
        ]);
        host.answer = |_| None;
        let rewrites = ["HUP:USR1", "WINCH:0", "TERM:INT"].map(|rewrite| rewrite.parse().unwrap());
        let plan = Plan { rewrites: Rewrites::new(rewrites.to_vec()), ..plan(0, GIVEN) };
        host.run(plan).await;
        assert_eq!(host.forwarded, [(Signal::USR1, secs(1)), (Signal::INT, secs(3))]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_is_not_healthy_is_no_lame_duck() {
        let unhealthy = Event::Unhealthy("answered 503".to_owned());
        let mut host = Script::new([(secs(1), Event::Stop(Signal::TERM)), (secs(2), unhealthy.clone())]);
        assert_eq!(host.run(plan(30, GIVEN)).await, (0, secs(3)));
        assert_eq!(host.forwarded, [(Signal::TERM, secs(2))]);
        // Slower than the stop: it must not be stopped twice.
        let stops = [(secs(1), Event::Stop(Signal::TERM)), (secs(1), Event::Stop(Signal::TERM))];
        let mut host = Script::new(stops.into_iter().chain([(secs(1), unhealthy)]));
        assert_eq!(host.run(plan(30, GIVEN)).await, (0, secs(2)));
        assert_eq!(host.forwarded, [(Signal::TERM, secs(1))]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_others_are_asked_to_end_and_waited_for_but_not_for_long() {
        let ended = (secs(3), Event::Exited(ExitStatus::Exited(4)));
        let mut host = Script::new([ended.clone(), (secs(4), Event::Alone)]);
        host.has_others = true;
        assert_eq!(host.run(plan(30, GIVEN)).await, (4, secs(4)));
        assert_eq!(host.terminated, [secs(3)]);
        let mut host = Script::new([ended.clone()]);
        host.has_others = true;
        assert_eq!(host.run(plan(30, GIVEN)).await, (4, secs(5)));
        let mut host = Script::new([ended]);
        assert_eq!(host.run(Plan { leftover_timeout: Duration::ZERO, ..plan(30, GIVEN) }).await, (4, secs(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_others_do_not_outlive_the_stop_timeout() {
        let mut host = Script::stubborn([(secs(0), Event::Stop(Signal::TERM))]);
        host.has_others = true;
        assert_eq!(host.run(plan(30, GIVEN)).await, (137, Duration::from_millis(59_800) + secs(2)));
        let mut host =
            Script::new([(secs(0), Event::Stop(Signal::TERM)), (secs(59), Event::Exited(ExitStatus::Exited(0)))]);
        host.answer = |_| None;
        host.has_others = true;
        assert_eq!(host.run(plan(30, GIVEN)).await, (0, Duration::from_millis(59_800)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_drain_follows_the_ttl_that_was_learned_and_the_last_sighting() {
        // Our address leaves DNS 3 seconds after the stop.
        let mut host = Script::new([(secs(100), Event::Stop(Signal::TERM))]);
        host.dns = |now| Answer::Records { ours: now < secs(103), count: 4, ttl: secs(20) };
        let (code, ended) = host.run(auto(120)).await;
        // Seen last 2 seconds and 2 round trips after the stop; then a TTL, a margin, and a second for the child.
        assert_eq!((code, ended), (0, Duration::from_millis(128_003)));
        // Once a TTL while running, and every second while it counts.
        let before: Vec<_> = host.lookups.iter().filter(|at| **at < secs(100)).collect();
        assert_eq!(before.len(), 5, "{before:?}");
        assert!(host.lookups.len() > 25, "{:?}", host.lookups);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_was_never_registered_is_no_lame_duck() {
        let mut host = Script::new([(secs(300), Event::Stop(Signal::TERM))]);
        host.dns = |_| Answer::Absent { ttl: Some(secs(60)) };
        assert_eq!(host.run(auto(120)).await, (0, Duration::from_millis(301_001)));
    }

    #[tokio::test(start_paused = true)]
    async fn without_dns_the_drain_is_the_fallback() {
        let mut host = Script::new([(secs(300), Event::Stop(Signal::TERM))]);
        assert_eq!(host.run(auto(120)).await, (0, secs(331)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_never_leaves_dns_keeps_the_child_only_as_long_as_the_budget() {
        let mut host = Script::new([(secs(100), Event::Stop(Signal::TERM))]);
        host.dns = |_| Answer::Records { ours: true, count: 4, ttl: secs(30) };
        assert_eq!(host.run(auto(60)).await, (0, secs(156)));
        assert_eq!(host.forwarded, [(Signal::TERM, secs(155))]);
    }
}

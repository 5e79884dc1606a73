//! The loop: wait, classify, decide, act.

use std::{future::Future, io};

use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::{
    exit::ExitStatus,
    lifecycle::{Action, Event, Lifecycle},
    signal::Signal,
};

/// What the loop needs of the world. The real one is [`crate::host::Child`].
pub trait Host {
    /// The next signal, or the child's end. Never [`Event::Wake`], which is the loop's own. A call that is dropped
    /// before it is ready loses no event.
    fn next_event(&mut self) -> impl Future<Output = Event>;

    /// Sends `signal` to the child, or does nothing if it has been reaped.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, such as `EPERM` if the child has become another user.
    fn forward(&mut self, signal: Signal) -> io::Result<()>;
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
        match lifecycle.handle(event, now) {
            Some(Action::Drain { until }) => {
                let drain = humantime::format_duration(until - now).to_string();
                info!(drain, "lame duck: serving until cached DNS answers expire");
            }
            Some(Action::Forward(signal)) => match event {
                Event::Other(_) => {
                    debug!(%signal, "forwarded");
                    send(host, signal);
                }
                Event::Stop(_) | Event::Wake | Event::Exited(_) => {
                    info!(%signal, reason = reason(event), "stopping: forwarded");
                    send(host, signal);
                }
            },
            Some(Action::Kill) => {
                warn!("killed: the child outlived the stop timeout, and the platform would have killed it now");
                send(host, Signal::KILL);
            }
            Some(Action::Exit(status)) => return status,
            None => {}
        }
    }
}

/// Why a stop signal is passed on now, for the log.
fn reason(event: Event) -> &'static str {
    match event {
        Event::Wake => "the lame duck is over",
        Event::Stop(_) => "asked to stop",
        Event::Other(_) | Event::Exited(_) => "passed on",
    }
}

fn send(host: &mut impl Host, signal: Signal) {
    if let Err(error) = host.forward(signal) {
        warn!(%signal, %error, "the child could not be signalled");
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, time::Duration};

    use super::*;
    use crate::budget::{StopBudget, StopTimeout};

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A host whose events were written down beforehand and that notes what is sent to the child.
    struct Script {
        started: Instant,
        events: VecDeque<(Duration, Event)>,
        forwarded: Vec<(Signal, Duration)>,
        /// How the child answers a signal: after this long, with this status. `None`: it ignores it.
        answer: fn(Signal) -> Option<(Duration, ExitStatus)>,
    }

    impl Script {
        fn new(events: impl IntoIterator<Item = (Duration, Event)>) -> Self {
            Self {
                started: Instant::now(),
                events: events.into_iter().collect(),
                forwarded: Vec::new(),
                answer: |signal| (signal == Signal::TERM).then_some((secs(1), ExitStatus::Exited(0))),
            }
        }

        /// A child that only SIGKILL ends.
        fn stubborn(events: impl IntoIterator<Item = (Duration, Event)>) -> Self {
            let answer = |signal| (signal == Signal::KILL).then_some((Duration::ZERO, ExitStatus::Signaled(signal)));
            Self { answer, ..Self::new(events) }
        }

        /// Runs to the end; returns the exit code and when it was known.
        async fn run(&mut self, budget: StopBudget) -> (u8, Duration) {
            let code = run(Lifecycle::new(budget), self).await.code();
            (code, self.started.elapsed())
        }
    }

    impl Host for Script {
        async fn next_event(&mut self) -> Event {
            match self.events.front() {
                Some(&(at, event)) => {
                    sleep_until(self.started + at).await;
                    self.events.pop_front();
                    event
                }
                None => std::future::pending().await,
            }
        }

        fn forward(&mut self, signal: Signal) -> io::Result<()> {
            let at = self.started.elapsed();
            self.forwarded.push((signal, at));
            if let Some((after, status)) = (self.answer)(signal) {
                self.events.push_back((at + after, Event::Exited(status)));
            }
            Ok(())
        }
    }

    fn budget(drain: u64, stop_timeout: StopTimeout) -> StopBudget {
        StopBudget::new(Some(secs(drain)), stop_timeout, secs(5)).unwrap()
    }

    const GIVEN: StopTimeout = StopTimeout::Given(secs(60));

    #[tokio::test(start_paused = true)]
    async fn forwards_exactly_after_the_drain_and_propagates_the_exit_code() {
        let mut host = Script::new([(secs(3), Event::Stop(Signal::TERM))]);
        let (code, ended) = host.run(budget(30, GIVEN)).await;
        assert_eq!(host.forwarded, [(Signal::TERM, secs(33))]);
        assert_eq!((code, ended), (0, secs(34)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_stop_signal_ends_the_lame_duck_at_once() {
        for second in [Signal::TERM, Signal::INT] {
            let mut host = Script::new([(secs(0), Event::Stop(Signal::TERM)), (secs(2), Event::Stop(second))]);
            host.answer = |_| Some((secs(1), ExitStatus::Exited(0)));
            assert_eq!(host.run(budget(30, GIVEN)).await, (0, secs(3)));
            assert_eq!(host.forwarded, [(second, secs(2))]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_dies_in_the_lame_duck_ends_it_at_once_with_its_code() {
        let mut host =
            Script::new([(secs(0), Event::Stop(Signal::TERM)), (secs(4), Event::Exited(ExitStatus::Exited(7)))]);
        assert_eq!(host.run(budget(30, GIVEN)).await, (7, secs(4)));
        assert_eq!(host.forwarded, []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_dies_while_running_ends_us_with_its_code() {
        let mut host = Script::new([(secs(9), Event::Exited(ExitStatus::Signaled(Signal::new(11))))]);
        assert_eq!(host.run(budget(30, GIVEN)).await, (139, secs(9)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_exits_as_the_drain_ends_is_not_signalled() {
        let mut host =
            Script::new([(secs(0), Event::Stop(Signal::TERM)), (secs(30), Event::Exited(ExitStatus::Exited(3)))]);
        assert_eq!(host.run(budget(30, GIVEN)).await, (3, secs(30)));
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
        assert_eq!(host.run(budget(30, GIVEN)).await, (0, secs(36)));
        let passed = |second: u64| signals.map(|signal| (signal, secs(second)));
        let expected = [passed(1).as_slice(), &passed(3), &[(Signal::TERM, secs(32))], &passed(35)].concat();
        assert_eq!(host.forwarded, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn the_child_gets_its_grace_even_when_the_drain_asks_for_all_of_the_stop_timeout() {
        for stop_timeout in [StopTimeout::Given(secs(30)), StopTimeout::Assumed] {
            let mut host = Script::new([(secs(0), Event::Stop(Signal::TERM))]);
            host.answer = |_| Some((Duration::from_millis(4_700), ExitStatus::Exited(0)));
            assert_eq!(host.run(budget(30, stop_timeout)).await, (0, Duration::from_millis(29_700)));
            assert_eq!(host.forwarded, [(Signal::TERM, secs(25))]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_ignores_sigterm_is_killed_just_before_the_stop_timeout_and_the_code_says_so() {
        let mut host = Script::stubborn([(secs(0), Event::Stop(Signal::TERM))]);
        let just_before = Duration::from_millis(59_800);
        assert_eq!(host.run(budget(30, GIVEN)).await, (137, just_before));
        assert_eq!(host.forwarded, [(Signal::TERM, secs(30)), (Signal::KILL, just_before)]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_killed_when_the_stop_timeout_was_only_assumed() {
        let mut host = Script::stubborn([
            (secs(0), Event::Stop(Signal::TERM)),
            (secs(3600), Event::Exited(ExitStatus::Exited(0))),
        ]);
        assert_eq!(host.run(budget(30, StopTimeout::Assumed)).await, (0, secs(3600)));
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
        }
        let mut host = Refusing(Script::new([
            (secs(0), Event::Stop(Signal::TERM)),
            (secs(90), Event::Exited(ExitStatus::Exited(5))),
        ]));
        let status = run(Lifecycle::new(budget(30, StopTimeout::Assumed)), &mut host).await;
        assert_eq!(status, ExitStatus::Exited(5));
    }
}

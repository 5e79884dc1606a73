//! What reaches the child, and what does not.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask},
    unistd::Pid,
};

use crate::support::{
    ECHO_SIGNALS, Output, Place, Running, await_line, children, eventually, holds_sigterm, line, places,
};

#[test]
fn a_real_time_signal_passes() {
    for &place in places() {
        let script = "trap 'exit 4' 37; echo ready; while :; do sleep 1 >/dev/null 2>&1 & wait $!; done";
        let (mut running, _output) = Running::ready(place, &["sh", "-c", script]);
        let sent = Command::new("sh").args(["-c", &format!("kill -37 {}", running.pid())]).status().unwrap();
        assert!(sent.success());
        assert_eq!(running.exit_code(), Some(4), "{place:?}");
    }
}

/// A child that says the number of each signal it gets. A shell cannot count them.
const COUNT_SIGNALS: &str = "
import signal
signals = set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, 32, 33}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
print('ready', flush=True)
while True:
    print(signal.sigwaitinfo(signals).si_signo, flush=True)
";

#[test]
fn every_signal_that_can_be_caught_is_passed_on() {
    for &place in places() {
        let (running, mut output) = Running::ready(place, &["--drain", "0", "python3", "-c", COUNT_SIGNALS]);
        let pid = running.pid();
        for number in (1..=64).filter(|number| ![9, 17, 19, 32, 33].contains(number)) {
            assert!(Command::new("sh").args(["-c", &format!("kill -{number} {pid}")]).status().unwrap().success());
            assert_eq!(line(&mut output), number.to_string(), "{place:?}");
        }
        // Nobody's but ours.
        running.signal(Signal::SIGCHLD);
        running.signal(Signal::SIGUSR1);
        assert_eq!(line(&mut output), "10", "{place:?}");
    }
}

#[test]
fn twenty_equal_real_time_signals_stay_twenty_and_keep_their_order() {
    for &place in places() {
        let (running, mut output) = Running::ready(place, &["python3", "-c", COUNT_SIGNALS]);
        let pid = running.pid();
        // Stopped, it takes none before all are there.
        running.signal(Signal::SIGSTOP);
        for number in [36, 34, 35] {
            let send = format!("i=0; while [ $i -lt 20 ]; do kill -{number} {pid}; i=$((i+1)); done");
            assert!(Command::new("sh").args(["-c", &send]).status().unwrap().success());
        }
        running.signal(Signal::SIGCONT);
        assert_eq!(line(&mut output), "18", "{place:?}");
        for number in [34, 35, 36] {
            for _ in 0..20 {
                assert_eq!(line(&mut output), number.to_string(), "{place:?}");
            }
        }
    }
}

/// The window from our first instruction to the child's: signals are blocked, then handled, and never dropped.
#[test]
fn a_stop_signal_that_arrives_while_the_child_starts_is_not_lost() {
    for &place in places() {
        for round in 0..100 {
            let mut running = Running::start(place, &["--drain", "20ms", "sleep", "30"]);
            let pid = running.pid();
            // Before this the kernel itself decides: PID 1 never sees the signal, another process dies of it.
            eventually("SIGTERM is blocked or caught", || holds_sigterm(pid).then_some(()));
            thread::sleep(Duration::from_micros(round * 30));
            let asked = Instant::now();
            running.signal(Signal::SIGTERM);
            assert_eq!(running.exit_code(), Some(143), "{place:?}, round {round}");
            assert!(asked.elapsed() >= Duration::from_millis(20), "{place:?}: the drain was skipped");
        }
    }
}

#[test]
fn the_child_finds_the_signal_state_that_init_was_started_with() {
    let show = "grep -E '^Sig(Blk|Ign)' /proc/self/status";
    for ignored in ["", "trap '' PIPE;", "trap '' HUP INT CHLD TTOU;", "trap '' USR1 PIPE TERM;"] {
        for blocked in
            [SigSet::empty(), SigSet::from_iter([Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD]), SigSet::all()]
        {
            let run = |through: &str| {
                let mut before = SigSet::empty();
                pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&blocked), Some(&mut before)).unwrap();
                let child = Command::new("sh")
                    .args(["-c", &format!("{ignored} exec {through} sh -c \"{show}\"")])
                    .env("INIT_LOG_LEVEL", "off")
                    .stdout(Stdio::piped())
                    .spawn();
                pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None).unwrap();
                let output = child.unwrap().wait_with_output().unwrap();
                assert!(output.status.success());
                String::from_utf8(output.stdout).unwrap()
            };
            assert_eq!(run(env!("CARGO_BIN_EXE_init")), run("env"), "{ignored:?} {blocked:?}");
        }
    }
}

#[test]
fn signals_are_rewritten_or_swallowed_and_others_may_ask_for_a_stop() {
    for &place in places() {
        let flags = ["-r", "HUP:WINCH", "-r", "INT:0", "--stop-on", "USR1", "--drain", "1h", "sh", "-c", ECHO_SIGNALS];
        let (mut running, mut output) = Running::ready(place, &flags);
        running.signal(Signal::SIGINT);
        running.signal(Signal::SIGHUP);
        assert_eq!(line(&mut output), "WINCH", "{place:?}");
        // No longer a stop.
        running.signal(Signal::SIGTERM);
        assert_eq!(line(&mut output), "TERM", "{place:?}");
        let mut log = Output::of(running.outer.stderr.take().unwrap());
        running.signal(Signal::SIGUSR1);
        await_line(&mut log, "lame duck");
        running.signal(Signal::SIGHUP);
        assert_eq!(line(&mut output), "WINCH", "{place:?}");
        running.signal(Signal::SIGUSR1);
        assert_eq!(line(&mut output), "USR1", "{place:?}");
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(9), "{place:?}");
    }
}

#[test]
fn a_process_that_is_not_ours_is_never_signalled() {
    let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
    let mut running = Running::start(Place::Normal, &["sh", "-c", "exit 3"]);
    assert_eq!(running.exit_code(), Some(3));
    assert!(bystander.try_wait().unwrap().is_none());
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn the_process_group_gets_the_signal_if_asked_for() {
    for &place in places() {
        for (flags, heard) in [(vec!["-g"], true), (vec![], false), (vec!["-g", "-c"], false)] {
            let script = "trap 'echo child' USR1; trap 'exit 9' USR2; \
                          sh -c 'trap \"echo group; exit\" USR1; echo ready; while :; do sleep 0.02; done' & \
                          while :; do sleep 1 >/dev/null 2>&1 & wait $!; done";
            let (mut running, mut output) = Running::ready(place, &[flags, vec!["sh", "-c", script]].concat());
            running.signal(Signal::SIGUSR1);
            let mut lines = vec![line(&mut output)];
            if heard {
                lines.push(line(&mut output));
            }
            lines.sort();
            assert_eq!(lines, if heard { vec!["child", "group"] } else { vec!["child"] }, "{place:?}");
            running.signal(Signal::SIGUSR2);
            assert_eq!(running.exit_code(), Some(9), "{place:?}");
        }
    }
}

#[test]
fn the_death_of_the_parent_is_a_stop_if_asked_for() {
    let binary = env!("CARGO_BIN_EXE_init");
    let script = format!("{binary} -p TERM --drain 0 sh -c \"$ECHO_SIGNALS\" & read x");
    let mut parent = Command::new("sh")
        .args(["-c", &script])
        .env("ECHO_SIGNALS", ECHO_SIGNALS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = Output::of(parent.stdout.take().unwrap());
    assert_eq!(line(&mut output), "ready");
    let parent_pid = Pid::from_raw(i32::try_from(parent.id()).unwrap());
    let orphan = children(parent_pid)[0];
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert_eq!(line(&mut output), "TERM");
    kill(orphan, Signal::SIGUSR2).unwrap();
}

#[test]
fn signals_that_come_as_the_child_ends_do_not_keep_init_from_ending() {
    for &place in places() {
        for signal in [Signal::SIGTERM, Signal::SIGWINCH, Signal::SIGCHLD] {
            for _ in 0..40 {
                let script = "trap 'exit 5' USR2; echo ready; while :; do sleep 0.05 >/dev/null 2>&1 & wait $!; done";
                let (mut running, _output) = Running::ready(place, &["--drain", "0", "sh", "-c", script]);
                let pid = running.pid();
                running.signal(Signal::SIGUSR2);
                let status = eventually("init ends", || {
                    let _ = kill(pid, signal);
                    running.outer.try_wait().unwrap()
                });
                assert!([Some(5), Some(143)].contains(&status.code()), "{place:?} {signal} {status}");
            }
        }
    }
}

#[test]
fn a_stopped_child_gets_the_stop_signal_too() {
    for &place in places() {
        let (mut running, mut output) = Running::ready(place, &["--drain", "0", "sh", "-c", ECHO_SIGNALS]);
        let child = children(running.pid())[0];
        kill(child, Signal::SIGSTOP).unwrap();
        eventually("the child is stopped", || {
            let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap();
            status.contains("State:\tT").then_some(())
        });
        running.signal(Signal::SIGTERM);
        assert_eq!(line(&mut output), "TERM", "{place:?}");
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(9), "{place:?}");
    }
}

#[test]
fn ten_thousand_signals_while_processes_come_and_go_leave_nothing_behind() {
    for &place in places() {
        let script = "trap : HUP USR1 WINCH CONT; trap 'exit 9' USR2; echo ready; \
                      while :; do (sleep 0.001 &) ; sleep 0.01 >/dev/null 2>&1 & wait $!; done";
        let (mut running, _output) = Running::ready(place, &["--drain", "1h", "sh", "-c", script]);
        let pid = running.pid();
        let signals = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGWINCH, Signal::SIGCONT, Signal::SIGCHLD];
        for round in 0..10_000 {
            kill(pid, signals[round % signals.len()]).unwrap();
        }
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(9), "{place:?}");
    }
}

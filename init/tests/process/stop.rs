//! From the stop signal to the end.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::support::{
    ECHO_SIGNALS, Output, Place, Running, Scratch, answering, await_line, children, eventually, init, line, places,
};

#[test]
fn a_thousand_orphans_are_reaped_and_the_child_lives_on() {
    let scratch = Scratch::new("orphans");
    let gate = scratch.path("gate");
    // Each orphan waits at the gate, so that all die in the same moment.
    let script = format!(
        "mkfifo {gate}; i=0; while [ $i -lt 1000 ]; do (read x <{gate} &) ; i=$((i+1)); done; \
         trap 'exit 5' TERM; echo ready; while :; do sleep 1 >/dev/null 2>&1 & wait $!; done"
    );
    for &place in places() {
        let (mut running, _output) = Running::ready(place, &["--drain", "0", "sh", "-c", &script]);
        let pid = running.pid();
        eventually("every orphan has come to init", || (children(pid).len() == 1001).then_some(()));
        drop(fs::File::options().write(true).open(&gate).unwrap());
        eventually("every orphan is reaped", || (children(pid).len() == 1).then_some(()));
        running.signal(Signal::SIGTERM);
        assert_eq!(running.exit_code(), Some(5), "{place:?}");
        fs::remove_file(&gate).unwrap();
    }
}

#[test]
fn the_child_serves_through_the_drain_and_other_signals_pass_at_once() {
    for &place in places() {
        let (mut running, mut output) = Running::ready(place, &["--drain", "300ms", "sh", "-c", ECHO_SIGNALS]);
        let asked = Instant::now();
        running.signal(Signal::SIGTERM);
        for (signal, name) in [(Signal::SIGHUP, "HUP"), (Signal::SIGUSR1, "USR1"), (Signal::SIGWINCH, "WINCH")] {
            running.signal(signal);
            assert_eq!(line(&mut output), name, "{place:?}");
        }
        assert_eq!(line(&mut output), "TERM", "{place:?}");
        assert!(asked.elapsed() >= Duration::from_millis(300), "{place:?}: {:?}", asked.elapsed());
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(9), "{place:?}");
    }
}

#[test]
fn a_second_stop_signal_ends_the_drain() {
    for &place in places() {
        let (mut running, mut output) =
            Running::ready(place, &["--drain", "1h", "--stop-timeout", "2h", "sh", "-c", ECHO_SIGNALS]);
        let mut log = Output::of(running.outer.stderr.take().unwrap());
        running.signal(Signal::SIGTERM);
        await_line(&mut log, "lame duck");
        running.signal(Signal::SIGINT);
        assert_eq!(line(&mut output), "INT", "{place:?}");
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(9), "{place:?}");
    }
}

#[test]
fn a_child_that_dies_in_the_drain_ends_it_with_its_code() {
    for &place in places() {
        let (mut running, mut output) =
            Running::ready(place, &["--drain", "1h", "--stop-timeout", "2h", "sh", "-c", ECHO_SIGNALS]);
        running.signal(Signal::SIGTERM);
        running.signal(Signal::SIGUSR1);
        assert_eq!(line(&mut output), "USR1");
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(9), "{place:?}");
    }
}

#[test]
fn without_a_drain_the_stop_signal_passes_at_once() {
    for &place in places() {
        let (mut running, mut output) = Running::ready(place, &["--drain", "0", "sh", "-c", ECHO_SIGNALS]);
        for _ in 0..3 {
            running.signal(Signal::SIGTERM);
            assert_eq!(line(&mut output), "TERM", "{place:?}");
        }
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(9), "{place:?}");
    }
}

#[test]
fn a_child_that_ignores_sigterm_is_killed_before_a_given_stop_timeout() {
    for &place in places() {
        let arguments = ["--drain", "50ms", "--grace", "50ms", "--stop-timeout", "300ms", "sh", "-c", ECHO_SIGNALS];
        let (mut running, mut output) = Running::ready(place, &arguments);
        running.signal(Signal::SIGTERM);
        assert_eq!(line(&mut output), "TERM", "{place:?}");
        assert_eq!(running.exit_code(), Some(137), "{place:?}");
        assert!(running.log().contains("outlived the stop timeout"), "{place:?}");
    }
}

#[test]
fn nobody_is_killed_when_no_stop_timeout_was_given() {
    for &place in places() {
        let (mut running, mut output) = Running::ready(place, &["--drain", "0", "sh", "-c", ECHO_SIGNALS]);
        running.signal(Signal::SIGTERM);
        assert_eq!(line(&mut output), "TERM", "{place:?}");
        thread::sleep(Duration::from_millis(300));
        assert!(running.outer.try_wait().unwrap().is_none(), "{place:?}");
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(9), "{place:?}");
    }
}

#[test]
fn the_drain_signal_comes_first_and_the_stop_signal_in_place_of_the_one_that_asked() {
    for &place in places() {
        let flags = ["--drain", "100ms", "--drain-signal", "USR1", "--stop-signal", "HUP", "sh", "-c", ECHO_SIGNALS];
        let (mut running, mut output) = Running::ready(place, &flags);
        running.signal(Signal::SIGTERM);
        assert_eq!([line(&mut output), line(&mut output)], ["USR1", "HUP"], "{place:?}");
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(9), "{place:?}");
    }
}

#[test]
fn an_unhealthy_application_is_not_kept_alive() {
    for answer in ["HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", "nonsense\r\n\r\n"] {
        let url = answering(answer);
        let flags = ["--drain", "1h", "--stop-timeout", "2h", "--health-url", &url, "sh", "-c", ECHO_SIGNALS];
        let (mut running, mut output) = Running::ready(Place::Normal, &flags);
        running.signal(Signal::SIGTERM);
        assert_eq!(line(&mut output), "TERM");
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(9));
        assert!(running.log().contains("not healthy"));
    }
}

#[test]
fn a_healthy_application_drains() {
    let url = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let flags = ["--drain", "300ms", "--health-url", &url, "sh", "-c", ECHO_SIGNALS];
    let (running, mut output) = Running::ready(Place::Normal, &flags);
    let asked = Instant::now();
    running.signal(Signal::SIGTERM);
    assert_eq!(line(&mut output), "TERM");
    assert!(asked.elapsed() >= Duration::from_millis(300));
}

#[test]
fn the_drain_hook_runs_as_the_lame_duck_begins_and_nobody_waits_for_it() {
    let scratch = Scratch::new("hook");
    let (began, hook) =
        (scratch.path("began"), format!("sh -c 'echo \"$0 $$\" >{}; sleep 60' 'a b'", scratch.path("began")));
    for &place in places() {
        let flags = ["--drain", "100ms", "--leftover-timeout", "50ms", "--on-drain", &hook, "sh", "-c", ECHO_SIGNALS];
        let (mut running, mut output) = Running::ready(place, &flags);
        running.signal(Signal::SIGTERM);
        assert_eq!(line(&mut output), "TERM", "{place:?}");
        let said =
            eventually("the hook has run", || fs::read_to_string(&began).ok().filter(|said| said.ends_with('\n')));
        assert!(said.starts_with("a b "), "{said}");
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(9), "{place:?}");
        fs::remove_file(&began).unwrap();
    }
}

#[test]
fn a_hook_that_cannot_run_does_not_spoil_the_stop() {
    let flags = ["--drain", "50ms", "--on-drain", "/nowhere/hook", "sh", "-c", ECHO_SIGNALS];
    let (mut running, mut output) = Running::ready(Place::Normal, &flags);
    running.signal(Signal::SIGTERM);
    assert_eq!(line(&mut output), "TERM");
    running.signal(Signal::SIGUSR2);
    assert_eq!(running.exit_code(), Some(9));
    assert!(running.log().contains("/nowhere/hook"));
}

#[test]
fn processes_that_are_left_get_a_sigterm_and_are_waited_for() {
    let scratch = Scratch::new("left");
    let told = scratch.path("told");
    let orphan = format!(
        "trap 'sleep 0.2; echo told >{told}; exit' TERM; echo ready; while :; do sleep 1 >/dev/null 2>&1 & wait $!; done"
    );
    for &place in places() {
        let script =
            format!("sh -c \"{}\" & while :; do sleep 1 >/dev/null 2>&1 & wait $!; done", orphan.replace('$', "\\$"));
        let script = format!("trap 'exit 6' USR2; {script}");
        let (mut running, _output) = Running::ready(place, &["--leftover-timeout", "20s", "sh", "-c", &script]);
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(6), "{place:?}");
        assert_eq!(fs::read_to_string(&told).unwrap(), "told\n", "{place:?}: it was not waited for");
        fs::remove_file(&told).unwrap();
    }
}

#[test]
fn processes_that_will_not_go_are_not_waited_for_beyond_the_timeout() {
    for &place in places() {
        let script = "sh -c 'trap \"\" TERM; echo ready; sleep 60' & sleep 0.1; while :; do sleep 0.05; done";
        let script = format!("trap 'exit 6' USR2; {script}");
        let (mut running, _output) = Running::ready(place, &["--leftover-timeout", "200ms", "sh", "-c", &script]);
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(6), "{place:?}");
    }
}

#[test]
fn an_automatic_drain_needs_a_name_and_starts_without_dns() {
    let mut running = Running::start(Place::Normal, &["--drain", "auto", "true"]);
    assert_eq!(running.exit_code(), Some(125));
    assert!(running.log().contains("--dns-name"));
    let flags =
        ["--dns-name", "back.test", "--resolver", "127.0.0.1:1", "--dns-fallback", "200ms", "sh", "-c", ECHO_SIGNALS];
    let (mut running, mut output) = Running::ready(Place::Normal, &flags);
    let asked = Instant::now();
    running.signal(Signal::SIGTERM);
    assert_eq!(line(&mut output), "TERM");
    assert!(asked.elapsed() >= Duration::from_millis(200));
    running.signal(Signal::SIGUSR2);
    assert_eq!(running.exit_code(), Some(9));
}

#[test]
fn the_hook_runs_where_init_was_started() {
    let scratch = Scratch::new("hook-folder");
    let hook = scratch.path("hook");
    fs::write(&hook, "#!/bin/sh\npwd >ran\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = init(Place::Normal, &["--drain", "50ms", "--on-drain", "./hook", "sh", "-c", ECHO_SIGNALS]);
    command.current_dir(&scratch.0).stdout(Stdio::piped());
    let mut running = Running { outer: command.spawn().unwrap(), place: Place::Normal };
    let mut output = Output::of(running.outer.stdout.take().unwrap());
    assert_eq!(line(&mut output), "ready");
    running.signal(Signal::SIGTERM);
    assert_eq!(line(&mut output), "TERM");
    eventually("the hook has run", || fs::read_to_string(scratch.path("ran")).ok().filter(|said| !said.is_empty()));
}

#[test]
fn children_of_those_who_are_left_are_asked_to_end_too() {
    for &place in places() {
        let script = "setsid sh -c 'echo ready; sleep 50; :' & sleep 0.3; exit 7";
        let (mut running, _output) = Running::ready(place, &["--leftover-timeout", "25s", "sh", "-c", script]);
        let asked = Instant::now();
        assert_eq!(running.exit_code(), Some(7), "{place:?}");
        assert!(asked.elapsed() < Duration::from_secs(20), "{place:?}: the sleep was not asked");
    }
}

#[test]
fn a_short_stop_timeout_alone_is_enough() {
    for timeout in ["3s", "1", "0"] {
        let mut running = Running::start(Place::Normal, &["--stop-timeout", timeout, "true"]);
        assert_eq!(running.exit_code(), Some(0), "{timeout}");
    }
}

#[test]
fn the_drain_is_measured_from_the_signal_even_if_init_was_stopped_meanwhile() {
    let (running, mut output) = Running::ready(Place::Normal, &["--drain", "400ms", "sh", "-c", ECHO_SIGNALS]);
    running.signal(Signal::SIGTERM);
    // In time to take it, and not to see the drain end.
    thread::sleep(Duration::from_millis(100));
    running.signal(Signal::SIGSTOP);
    thread::sleep(Duration::from_millis(350));
    let continued = Instant::now();
    running.signal(Signal::SIGCONT);
    assert_eq!(line(&mut output), "TERM");
    let waited = continued.elapsed();
    assert!(waited < Duration::from_millis(250), "{waited:?} more after the drain was over");
}

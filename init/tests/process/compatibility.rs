//! Called by the name of another init.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{ECHO_SIGNALS, Output, Place, Running, Scratch, children, eventually, init, line};

/// A link to `init` under another's name.
fn called(scratch: &Scratch, name: &str) -> Command {
    let link = scratch.path(name);
    if !Path::new(&link).exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_init"), &link).unwrap();
    }
    let command = init(Place::Normal, &[]);
    let mut named = Command::new(link);
    named.stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => named.env(name, value),
            None => named.env_remove(name),
        };
    }
    named
}

#[test]
fn called_tini_it_is_tini() {
    let scratch = Scratch::new("tini");
    let output = called(&scratch, "docker-init").arg("--version").output().unwrap();
    assert!(output.stdout.starts_with(b"tini version 0.19.0"));
    for (arguments, code) in [
        (vec!["--", "sh", "-c", "exit 7"], 7),
        (vec!["sh", "-c", "exit 7"], 7),
        (vec!["-e", "143", "sh", "-c", "exit 143"], 0),
        (vec!["-s", "--", "sh", "-c", "kill -TERM $$"], 143),
        (vec!["/nowhere/command"], 127),
        (vec!["/proc"], 126),
        (vec!["-x", "true"], 1),
        (vec![], 1),
    ] {
        let output = called(&scratch, "tini").args(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let output = called(&scratch, "tini").arg("/nowhere/command").output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("[FATAL tini (") && message.contains("exec /nowhere/command failed: No such file"),
        "{message}"
    );
}

#[test]
fn called_tini_it_does_not_warn_if_it_was_made_a_subreaper_before() {
    use std::os::unix::process::CommandExt;

    let scratch = Scratch::new("tini-subreaper");
    for is_subreaper in [true, false] {
        let mut command = called(&scratch, "tini");
        command.arg("true");
        // SAFETY: one system call, between fork and exec.
        #[expect(unsafe_code, reason = "only the process itself can make itself a subreaper, and exec keeps it one")]
        unsafe {
            command.pre_exec(move || Ok(nix::sys::prctl::set_child_subreaper(is_subreaper)?));
        }
        let output = command.output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(log.contains("neither PID 1 nor a subreaper"), !is_subreaper, "{log}");
    }
}

#[test]
fn called_tini_it_says_in_tinis_words_who_is_reaped_and_who_cannot_be() {
    let scratch = Scratch::new("tini-words");
    // The orphan has ended before its foster parent's child does.
    let script = "(sleep 0.1 & exec true); sleep 0.5";
    for (flags, said, unsaid) in [
        ("-sw", "Reaped zombie process with pid=", "reaping won't work"),
        ("-w", "zombie reaping won't work", "Reaped"),
    ] {
        let output = called(&scratch, "tini").args([flags, "--", "sh", "-c", script]).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(log.contains(said) && !log.contains(unsaid), "{flags}: {log}");
        assert_eq!(output.status.code(), Some(0), "{flags}: {log}");
    }
}

#[test]
fn called_tini_it_passes_sigterm_at_once_unless_our_variables_say_otherwise() {
    let scratch = Scratch::new("tini-drain");
    for drain in [None, Some("300ms")] {
        let mut command = called(&scratch, "tini");
        command.args(["-s", "--", "sh", "-c", ECHO_SIGNALS]).stdout(Stdio::piped());
        if let Some(drain) = drain {
            command.env("INIT_DRAIN", drain);
        }
        let mut running = Running { outer: command.spawn().unwrap(), place: Place::Normal };
        let mut output = Output::of(running.outer.stdout.take().unwrap());
        assert_eq!(line(&mut output), "ready");
        let asked = Instant::now();
        running.signal(Signal::SIGTERM);
        assert_eq!(line(&mut output), "TERM");
        assert!(drain.is_none() || asked.elapsed() >= Duration::from_millis(300));
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(9));
    }
}

#[test]
fn called_dumb_init_it_is_dumb_init() {
    let scratch = Scratch::new("dumb-init");
    let output = called(&scratch, "dumb-init").arg("-V").output().unwrap();
    assert!(output.stderr.starts_with(b"dumb-init v1.2.5"));
    for (arguments, code) in [
        (vec!["sh", "-c", "exit 7"], 7),
        (vec!["-c", "-v", "sh", "-c", "exit 7"], 7),
        (vec!["/nowhere/command"], 2),
        (vec!["-r", "x", "true"], 1),
        (vec![], 1),
    ] {
        let output = called(&scratch, "dumb-init").args(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn called_dumb_init_it_signals_the_whole_session_and_stops_with_it() {
    let scratch = Scratch::new("dumb-init-session");
    let script = "trap 'echo child' USR1; trap 'exit 9' USR2; \
                  sh -c 'trap \"echo group; exit\" USR1; echo ready; while :; do sleep 0.02; done' & \
                  while :; do sleep 1 >/dev/null 2>&1 & wait $!; done";
    let mut command = called(&scratch, "dumb-init");
    command.args(["sh", "-c", script]).stdout(Stdio::piped());
    let mut running = Running { outer: command.spawn().unwrap(), place: Place::Normal };
    let mut output = Output::of(running.outer.stdout.take().unwrap());
    assert_eq!(line(&mut output), "ready");
    let pid = running.pid();
    let child = children(pid)[0];
    assert_eq!(nix::unistd::getsid(Some(child)).unwrap(), child);
    let is_stopped = |pid: Pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains("State:\tT")
    };
    running.signal(Signal::SIGTSTP);
    eventually("both are stopped", || (is_stopped(pid) && is_stopped(child)).then_some(()));
    running.signal(Signal::SIGCONT);
    eventually("both go on", || (!is_stopped(pid) && !is_stopped(child)).then_some(()));
    running.signal(Signal::SIGUSR1);
    let mut lines = [line(&mut output), line(&mut output)];
    lines.sort();
    assert_eq!(lines, ["child", "group"]);
    running.signal(Signal::SIGUSR2);
    assert_eq!(running.exit_code(), Some(9));
}

#[test]
fn called_dumb_init_for_a_single_child_it_leaves_the_others_alone_when_the_child_ends() {
    let scratch = Scratch::new("dumb-init-single");
    let script = "trap 'exit 9' USR2; (trap 'echo TERM; exit' TERM; trap 'echo USR1; exit' USR1; \
                  echo ready $(exec sh -c 'echo $PPID'); while :; do sleep 0.02; done) & while :; do sleep 0.02; done";
    for is_flag in [true, false] {
        let mut command = called(&scratch, "dumb-init");
        if is_flag {
            command.arg("-c");
        } else {
            command.env("DUMB_INIT_SETSID", "0");
        }
        command.args(["sh", "-c", script]).stdout(Stdio::piped());
        let mut running = Running { outer: command.spawn().unwrap(), place: Place::Normal };
        let mut output = Output::of(running.outer.stdout.take().unwrap());
        let ready = line(&mut output);
        let left = ready.strip_prefix("ready ").unwrap().parse().unwrap();
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(9));
        // It lives, and was asked for nothing before this.
        kill(Pid::from_raw(left), Signal::SIGUSR1).unwrap();
        assert_eq!(line(&mut output), "USR1");
    }
}

/// As with ECS `initProcessEnabled` and ours as the entrypoint: the platform's init is PID 1 and passes SIGTERM on.
#[test]
fn behind_the_platforms_init_it_drains_all_the_same() {
    let scratch = Scratch::new("behind");
    let mut command = called(&scratch, "docker-init");
    command.args(["-s", "--", env!("CARGO_BIN_EXE_init"), "--drain", "300ms", "--", "sh", "-c", ECHO_SIGNALS]);
    let mut running = Running { outer: command.stdout(Stdio::piped()).spawn().unwrap(), place: Place::Normal };
    let mut output = Output::of(running.outer.stdout.take().unwrap());
    assert_eq!(line(&mut output), "ready");
    let asked = Instant::now();
    running.signal(Signal::SIGTERM);
    assert_eq!(line(&mut output), "TERM");
    assert!(asked.elapsed() >= Duration::from_millis(300), "{:?}", asked.elapsed());
    let inner = children(running.pid())[0];
    kill(children(inner)[0], Signal::SIGUSR2).unwrap();
    assert_eq!(running.exit_code(), Some(9));
}

#[test]
fn of_two_that_could_drain_only_the_outer_one_does() {
    let inner = env!("CARGO_BIN_EXE_init");
    let script = format!("echo drain=$INIT_DRAIN name=$INIT_DNS_NAME; exec {inner} sh -c \"$ECHO_SIGNALS\"");
    let mut command = init(Place::Normal, &["--", "sh", "-c", &script]);
    command.env("INIT_DRAIN", "300ms").env("ECHO_SIGNALS", ECHO_SIGNALS);
    let mut running = Running { outer: command.stdout(Stdio::piped()).spawn().unwrap(), place: Place::Normal };
    let mut output = Output::of(running.outer.stdout.take().unwrap());
    assert_eq!(line(&mut output), "drain=0 name=");
    assert_eq!(line(&mut output), "ready");
    let asked = Instant::now();
    running.signal(Signal::SIGTERM);
    assert_eq!(line(&mut output), "TERM");
    // The inner one's own drain would be 25 seconds.
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let inner = children(running.pid())[0];
    kill(children(inner)[0], Signal::SIGUSR2).unwrap();
    assert_eq!(running.exit_code(), Some(9));
    // One that does not drain leaves the environment alone.
    let output = init(Place::Normal, &["--drain", "0", "env"]).env("INIT_DNS_NAME", "").output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("INIT_DRAIN"));
}

#[test]
fn called_dumb_init_a_terminals_stop_suspends_it_whatever_is_passed_on() {
    let scratch = Scratch::new("dumb-init-suspend");
    for flags in [["-c", "-r", "20:0"], ["-r", "20:1", "--"]] {
        let mut command = called(&scratch, "dumb-init");
        command.args(flags).args(["sh", "-c", ECHO_SIGNALS]).stdout(Stdio::piped());
        let mut running = Running { outer: command.spawn().unwrap(), place: Place::Normal };
        let mut output = Output::of(running.outer.stdout.take().unwrap());
        assert_eq!(line(&mut output), "ready");
        let pid = running.pid();
        let state = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default().contains("State:\tT");
        running.signal(Signal::SIGTSTP);
        eventually("it is stopped", || state().then_some(()));
        running.signal(Signal::SIGCONT);
        eventually("it goes on", || (!state()).then_some(()));
        if flags[1] == "20:1" {
            assert_eq!(line(&mut output), "HUP");
        }
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(9), "{flags:?}");
    }
}

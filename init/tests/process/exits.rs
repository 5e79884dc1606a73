//! Exit codes, the command's and our own.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::support::{Place, Running, Scratch, init, places};

#[test]
fn every_exit_code_is_passed_on() {
    for &place in places() {
        for code in 0..=255 {
            let mut running = Running::start(place, &["sh", "-c", &format!("exit {code}")]);
            assert_eq!(running.exit_code(), Some(code), "{place:?}");
        }
    }
}

#[test]
fn a_death_by_any_signal_is_128_plus_its_number() {
    let harmless = [
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGURG,
        libc::SIGWINCH,
    ];
    for &place in places() {
        for signal in (1..32).chain(34..=64).filter(|signal| !harmless.contains(signal)) {
            let mut running = Running::start(place, &["sh", "-c", &format!("ulimit -c 0; kill -{signal} $$")]);
            assert_eq!(running.exit_code(), Some(128 + signal), "{place:?}");
        }
    }
}

#[test]
fn a_command_that_cannot_run_is_126_or_127_and_the_message_names_it() {
    let scratch = Scratch::new("cannot-run");
    let script = |name: &str, content: &str, mode: u32| {
        let path = scratch.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let no_permission = script("no-permission", "#!/bin/sh\n", 0o644);
    let no_interpreter = script("no-interpreter", "#!/nowhere/sh\n", 0o755);
    let cases = [
        ("/nowhere/command", 127),
        ("no-such-command-on-path", 127),
        ("", 127),
        (no_interpreter.as_str(), 127),
        (no_permission.as_str(), 126),
        ("/proc", 126),
    ];
    for &place in places() {
        for (command, code) in cases {
            let mut running = Running::start(place, &["--", command]);
            assert_eq!(running.exit_code(), Some(code), "{place:?} {command:?}");
            let log = running.log();
            assert!(log.contains(&format!("cannot run {command:?}")), "{log}");
        }
    }
}

#[test]
fn our_own_failures_are_125_and_say_what_and_which_value() {
    let cases: [(&[&str], &[&str]); 7] = [
        (&[], &["no command", "Usage"]),
        (&["--drian", "1s", "true"], &["--drian"]),
        (&["--drain", "soon", "true"], &["--drain", "soon", "such as 30s"]),
        (&["--drain", "-1s", "true"], &["-1"]),
        (&["--stop-on", "CHLD", "true"], &["--stop-on", "SIGCHLD"]),
        (&["--grace", "1m", "true"], &["grace of 1m", "stop timeout of 30s"]),
        (&["--check", "ftp://127.0.0.1/"], &["ftp://127.0.0.1/", "such as http://"]),
    ];
    for &place in places() {
        for (arguments, parts) in cases {
            let mut running = Running::start(place, arguments);
            assert_eq!(running.exit_code(), Some(125), "{place:?} {arguments:?}");
            let log = running.log();
            for part in parts {
                assert!(log.contains(part), "{part:?} is not in {log:?}");
            }
        }
    }
}

#[test]
fn an_empty_variable_is_refused_and_never_a_silent_zero() {
    let output = init(Place::Normal, &["true"]).env("INIT_DRAIN", "").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--drain"));
}

#[test]
fn help_and_version_go_to_stdout_and_succeed() {
    for flag in ["--help", "--version"] {
        let output = init(Place::Normal, &[flag]).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
        assert!(String::from_utf8_lossy(&output.stdout).contains("init"));
    }
}

#[test]
fn a_script_without_a_first_line_is_the_shells() {
    let scratch = Scratch::new("script");
    let script = scratch.path("script");
    fs::write(&script, "exit $1\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    for &place in places() {
        assert_eq!(Running::start(place, &["--", &script, "42"]).exit_code(), Some(42), "{place:?}");
        let mut command = init(place, &["--", "script", "43"]);
        command.env("PATH", format!("/nowhere:{}:{}", scratch.path(""), std::env::var("PATH").unwrap()));
        assert_eq!(command.status().unwrap().code(), Some(43), "{place:?}");
    }
}

#[test]
fn an_exit_code_is_remapped_if_asked_for() {
    for (flags, code, expected) in
        [("-e=143", 143, 0), ("-e=143:7", 143, 7), ("-e=143", 142, 142), ("-e=1,2:9", 2, 9), ("-e=0:3", 0, 3)]
    {
        let mut running = Running::start(Place::Normal, &[flags, "sh", "-c", &format!("exit {code}")]);
        assert_eq!(running.exit_code(), Some(expected), "{flags}");
    }
    let mut running = Running::start(Place::Normal, &["-e", "256", "true"]);
    assert_eq!(running.exit_code(), Some(125));
}

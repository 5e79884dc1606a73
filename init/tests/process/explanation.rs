//! `--explain`.

use crate::support::{Place, init};

#[test]
fn the_plan_is_explained() {
    let flags =
        ["--explain", "--drain", "60s", "--stop-timeout", "30s", "--drain-signal", "USR1", "-r", "HUP:0", "-e", "143"];
    let output = init(Place::Normal, &flags).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    for part in [
        "drain          25s",
        "at least 1m 5s",
        "29s 800ms",
        "SIGUSR1 goes to the command",
        "SIGHUP       is swallowed",
        "143 becomes 0",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn without_a_drain_the_explanation_promises_nothing_at_its_start() {
    let flags = ["--drain", "0", "--drain-signal", "USR1", "--on-drain", "deregister", "--explain"];
    let text = String::from_utf8(init(Place::Normal, &flags).output().unwrap().stdout).unwrap();
    assert!(text.contains("it never does") && !text.contains("deregister"), "{text}");
}

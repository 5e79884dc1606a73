//! `rehearse scenarios`, as a program: what it prints, and its exit codes.

use std::{
    fs,
    process::{Command, Output},
};

fn rehearse(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rehearse"));
    command.arg("scenarios").args(arguments).output().expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_scenario_can_be_listed_shown_changed_and_played() {
    let listed = rehearse(&[]);
    assert_eq!((listed.status.code(), text(&listed.stdout)), (Some(0), include_str!("scenarios.txt").to_owned()));

    let shown = rehearse(&["--show", "circuit-breaker"]);
    assert_eq!(shown.status.code(), Some(0));
    let directory = std::env::temp_dir().join(format!("rehearse-scenarios-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).expect("a file");
        path.to_string_lossy().into_owned()
    };
    let own = write("mine.toml", &text(&shown.stdout));
    let wrong = write("wrong.toml", &text(&shown.stdout).replacen("gives-up = 100", "gives-up = 0", 1));
    let bad = write("bad.toml", &text(&shown.stdout).replacen("gives-up = 100", "gives-in = 100", 1));

    let played = rehearse(&[&own, "--deploys", "10"]);
    let said = text(&played.stdout);
    assert_eq!(played.status.code(), Some(0), "{said}");
    assert!(said.contains("mine: A revision that never becomes healthy (10 plays, as expected)"), "{said}");
    let again = rehearse(&[&own, "--deploys", "10", "--json"]);
    assert_eq!(text(&again.stdout), text(&rehearse(&[&own, "--deploys", "10", "--json"]).stdout), "one seed");
    let json: serde_json::Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!((&json[0]["scenario"], &json[0]["held"], &json[0]["plays"]), (&"mine".into(), &true.into(), &10.into()));

    assert_eq!(rehearse(&[&wrong, "--deploys", "10"]).status.code(), Some(1));
    for (arguments, expected) in [
        (&[bad.as_str()][..], "bad.toml:23: unknown field `gives-in`"),
        (&["no-such"], "there is no scenario \"no-such\": there are all, scale-in"),
        (&["--show", "no-such"], "there is no scenario \"no-such\""),
        (&["no-such.toml"], "no-such.toml cannot be read"),
        (&["scale-in", "--set", "ttl=soon"], "ttl cannot be \"soon\""),
    ] {
        let refused = rehearse(arguments);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains(expected) && refused.stdout.is_empty(), "{said}");
    }
    fs::remove_dir_all(directory).expect("it is ours");
}

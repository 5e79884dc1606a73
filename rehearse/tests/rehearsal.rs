//! Whole rehearsals with real processes, fifty times as fast as the service lives.

#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking, as the test itself does")]

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use rehearse::report::{Report, json};
use rustix::process::{Pid, Signal, kill_process};

/// One rehearsal's network and folder. Each has its own, as they run side by side.
struct Place {
    number: u8,
    folder: PathBuf,
}

impl Place {
    fn new(number: u8) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rehearsal-{number}"));
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        Self { number, folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let own = Path::new(env!("CARGO_BIN_EXE_rehearse"));
        for name in ["init", "front", "back"] {
            let beside = own.with_file_name(name);
            assert!(beside.is_file(), "{} is not built: run `cargo build --workspace` first", beside.display());
        }
        let mut command = Command::new(own);
        command
            .args(arguments)
            .args(["--net", &self.ip(1).to_string(), "--rate", "2", "--phases", "4", "--output"])
            .arg(&self.folder)
            .env("REHEARSE_SPEED", "50")
            .stdin(Stdio::null());
        command
    }

    fn ip(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.number, 1, host)
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended { code: status.code(), said: text(stdout), complained: text(stderr) }
    }

    fn report(&self) -> Report {
        json::read(&fs::read(self.folder.join("report.json")).unwrap()).unwrap()
    }

    /// Whether nobody listens where tasks did.
    fn is_empty(&self) -> bool {
        (1..=8).all(|host| TcpListener::bind((self.ip(host), 1235)).is_ok())
    }
}

#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    said: String,
    complained: String,
}

fn failed(report: &Report) -> u64 {
    report.runs.iter().flat_map(|run| &run.summaries).map(|summary| summary.failed).sum()
}

fn causes(report: &Report) -> Vec<String> {
    let all = report.runs.iter().flat_map(|run| &run.summaries).flat_map(|summary| summary.by_cause.keys().cloned());
    all.collect()
}

#[test]
fn with_init_no_client_fails_and_nothing_is_left() {
    let place = Place::new(131);
    let ended = place.run(&["deploy", "--ttl", "30s", "--clients", "try-next,first-only"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.said.contains("objective: revision 2, and at most 0 failed requests: kept, with 0"), "{ended:?}");
    let report = place.report();
    let requests = report.runs[0].record.requests.len();
    assert!((1000..6000).contains(&requests), "{requests}");
    let tasks = report.runs[0].record.requests.iter().filter_map(|request| request.task.as_deref());
    let tasks: std::collections::BTreeSet<_> = tasks.collect();
    assert_eq!(tasks.len(), 8, "both revisions answered: {tasks:?}");
    assert!(place.is_empty());
    let page = fs::read_to_string(place.folder.join("report.html")).unwrap();
    assert!(page.contains("</html>"));
    assert_eq!(fs::read_dir(&place.folder).unwrap().count(), 2);
}

#[test]
fn without_a_drain_a_client_of_the_first_address_fails_and_each_failure_has_its_cause() {
    let place = Place::new(132);
    let arguments = ["deploy", "--entrypoint", "none", "--front", "none", "--ttl", "60s", "--objective", "3"];
    let ended = place.run(&arguments);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.said.contains("objective: revision 2, and at most 3 failed requests: broken, with"), "{ended:?}");
    let report = place.report();
    let first_only = report.runs[0].summaries.iter().find(|summary| summary.profile == "first-only").unwrap();
    assert!(first_only.by_cause["stale-first-dead"] > 20, "{first_only:?}");
    assert!(!causes(&report).contains(&"unknown".to_owned()), "{:?}", report.runs[0].summaries);
    assert!(place.is_empty());
}

#[test]
fn a_task_that_cannot_run_is_shown_with_what_it_wrote() {
    let place = Place::new(133);
    let ended = place.run(&["deploy", "--task", "sh -c 'echo no database at {ip} >&2; exit 3'"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.complained.contains("is no good: exit code 3"), "{ended:?}");
    assert!(ended.complained.contains("no database at 127.133.1."), "{ended:?}");
    let ended = place.run(&["deploy", "--entrypoint", "none", "--task", "/nowhere/server"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.complained.contains("/nowhere/server cannot be started: No such file"), "{ended:?}");
    assert!(!place.folder.exists());
}

#[test]
fn an_address_in_use_and_settings_that_do_not_fit_are_told_before_anything_runs() {
    let place = Place::new(134);
    let taken = TcpListener::bind((place.ip(3), 1235)).unwrap();
    let ended = place.run(&["deploy"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.complained.contains("127.134.1.3:1235 cannot be used: Address already in use"), "{ended:?}");
    drop(taken);
    assert!(place.is_empty());
    let ended = place.run(&["deploy", "--drain", "30s", "--stop-timeout", "30s"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.complained.contains("need 35s, and the stop timeout is 30s"), "{ended:?}");
    let ended = place.run(&["--set", "ttl=soon"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.complained.contains("ttl cannot be \"soon\""), "{ended:?}");
    let ended = place.run(&["--only", "nothing"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.complained.contains("distribution, deploy, unhealthy"), "{ended:?}");
    let ended = place.run(&["deploy", "--init-binary", "/nowhere/init"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.complained.contains("cargo build --release"), "{ended:?}");
    assert!(!place.folder.exists());
}

#[test]
fn a_rehearsal_that_is_interrupted_reports_what_it_saw_and_leaves_nothing() {
    let place = Place::new(135);
    let mut child = place.command(&["deploy"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while std::net::TcpStream::connect_timeout(&(place.ip(5), 1235).into(), Duration::from_millis(50)).is_err() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was asked to");
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let report = place.report();
    assert!(report.was_interrupted);
    assert!(!report.runs[0].record.requests.is_empty());
    assert!(place.is_empty());
}

#[test]
fn a_revision_that_does_not_run_is_rolled_back() {
    let place = Place::new(136);
    let back = Path::new(env!("CARGO_BIN_EXE_rehearse")).with_file_name("back");
    let serve = format!("exec {} --listen {{ip}}:{{port}} --task-id {{task}} --log-level warn", back.display());
    let task = format!("sh -c '[ {{revision}} = 1 ] && {serve}; echo no such table; exit 4'");
    let ended = place.run(&["deploy", "--task", &task, "--ttl", "15s", "--health", "http://{ip}:{port}/health"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.said.contains("revision 2 was not deployed: 3 tasks in a row did not become healthy"), "{ended:?}");
    assert!(ended.said.contains("exit code 4: no such table"), "{ended:?}");
    let report = place.report();
    assert_eq!(failed(&report), 0);
    let events = serde_json::to_string(&report.runs[0].record.events).unwrap();
    assert!(events.contains("3 tasks in a row did not become healthy"), "{events}");
    assert!(events.contains("exit code 4: no such table"), "{events}");
    assert!(events.contains(r#""event":"deployment_completed","revision":1"#), "{events}");
}

/// The entrypoint of the article that this began with, after AWS's example: on SIGTERM it sleeps, and then passes it on.
const ENTRYPOINT: &str = r#"#!/bin/sh
sigterm_handler() {
  if [ "$pid" -ne 0 ]; then
    sleep "$SLEEP"
    kill -15 "$pid"
    wait "$pid"
  fi
  exit 143
}
trap 'sigterm_handler' TRAPPED
"$@" &
pid="$!"
while true; do
  tail -f /dev/null & wait $!
done
"#;

#[test]
fn a_sleep_in_an_entrypoint_is_rehearsed_with_its_defects() {
    let place = Place::new(137);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let run = |name: &str, signal: &str, ttl: &str| {
        let script = folder.join(format!("entrypoint-{name}.sh"));
        fs::write(&script, ENTRYPOINT.replace("TRAPPED", signal).replace("$SLEEP", "0.5")).unwrap();
        let entrypoint = format!("sh {}", script.display());
        let ended = place.run(&["deploy", "--ttl", ttl, "--front", "none", "--entrypoint", &entrypoint]);
        (ended, place.report())
    };
    // Thirty seconds of the service, before the platform kills it: the sleep is as long as the TTL.
    let (ended, report) = run("sleeps", "TERM", "30s");
    assert!(failed(&report) < 20, "{ended:?}");
    assert!(!causes(&report).contains(&"stale-all-dead".to_owned()), "{ended:?}");
    let events = serde_json::to_string(&report.runs[0].record.events).unwrap();
    assert!(events.contains("exit code 143"), "{events}");
    // dash does not know SIGTERM by that name: there is no handler, and the first process of a container ignores it then.
    let (ended, report) = run("dash", "SIGTERM", "60s");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let events = serde_json::to_string(&report.runs[0].record.events).unwrap();
    assert!(events.contains("has no handler for SIGTERM"), "{events}");
    assert!(events.contains(r#""signal":"SIGKILL""#), "{events}");
}

#[test]
fn a_program_that_is_not_ours_is_kept_from_dropping_requests() {
    let place = Place::new(138);
    // It has no handler for SIGTERM: without init the platform would have to kill it. It takes a while to start, too.
    let task = "python3 -m http.server --bind {ip} {port}";
    let ended = place.run(&["deploy", "--speed", "10", "--ttl", "15s", "--clients", "try-next", "--task", task]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report = place.report();
    let tasks: std::collections::BTreeSet<_> =
        report.runs[0].record.requests.iter().filter_map(|request| request.task.as_deref()).collect();
    assert!(tasks.contains("task-1") && tasks.contains("task-8"), "both revisions answered: {tasks:?}");
    assert!(place.is_empty());
}

#[test]
fn nginx_drops_requests_without_init_and_none_with_it() {
    let has_nginx = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).any(|folder| folder.join("nginx").is_file())
    });
    if !has_nginx {
        assert!(std::env::var_os("CI").is_none(), "nginx is not installed: apt-get install nginx-light");
        return;
    }
    let place = Place::new(139);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nginx");
    fs::create_dir_all(&folder).unwrap();
    let (folder, settings) = (folder.display(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nginx.conf"));
    let fill = "sed -e 's/IP/{ip}/; s/PORT/{port}/; s/TASK/{task}/' -e \"s|FOLDER|$0|\"";
    let run = "PATH=$PATH:/usr/sbin exec nginx -e stderr -c $0/{task}.conf";
    let script = format!("{fill} {} >$0/{{task}}.conf && {run}", settings.display());
    let task = format!("sh -c {} {folder}", shell_words::quote(&script));
    let arguments = ["deploy", "--ttl", "60s", "--front", "none", "--task", &task];
    let with_init = place.run(&arguments);
    assert_eq!(with_init.code, Some(0), "{with_init:?}");
    let without = place.run(&[&arguments[..], &["--entrypoint", "none"]].concat());
    assert_eq!(without.code, Some(1), "{without:?}");
    let report = place.report();
    assert!(failed(&report) > 20, "{without:?}");
    let good = report.runs[0].record.requests.iter().filter(|request| request.is_good());
    let tasks: std::collections::BTreeSet<_> = good.map(|request| request.task.as_deref().unwrap()).collect();
    assert_eq!(tasks.len(), 8, "its answers do not say which task they are of, but their addresses do: {tasks:?}");
    assert!(place.is_empty());
}

#[test]
fn a_deployment_for_which_there_is_no_room_ends_at_once_and_is_not_kept() {
    let place = Place::new(140);
    let set = "minimum-healthy-percent=100,maximum-percent=100,ttl=5s";
    let ended = place.run(&["deploy", "--set", set]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.said.contains("revision 2 was not deployed: unable to stop or start tasks"), "{ended:?}");
    assert!(place.report().runs[0].record.length < Duration::from_mins(1));
}

#[test]
fn what_one_task_leaves_behind_goes_with_it_and_what_others_have_stays() {
    let place = Place::new(141);
    // Each task has a helper beside it that answers at the next port, and does not go by itself.
    let back = Path::new(env!("CARGO_BIN_EXE_rehearse")).with_file_name("back");
    let helper = format!("(setsid {} --listen {{ip}}:1236 --log-level error &)", back.display());
    let task = format!("sh -c '{helper}; exec {} --listen {{ip}}:{{port}} --log-level error'", back.display());
    let arguments =
        ["deploy", "--ttl", "5s", "--task", &task, "--entrypoint", "none", "--health", "http://{ip}:1236/health"];
    let ended = place.run(&arguments);
    assert!(ended.said.contains("objective: revision 2"), "{ended:?}");
    let report = place.report();
    let events = serde_json::to_string(&report.runs[0].record.events).unwrap();
    assert!(events.contains(r#""event":"deployment_completed","revision":2"#), "the helpers went on: {events}");
    assert!(!events.contains("UNHEALTHY"), "{events}");
    assert!((1..=8).all(|host| TcpListener::bind((place.ip(host), 1236)).is_ok()), "helpers are left");
    assert!(place.is_empty());
}

#[test]
fn another_front_is_told_where_to_listen_and_whom_to_ask() {
    let place = Place::new(142);
    let front = Path::new(env!("CARGO_BIN_EXE_rehearse")).with_file_name("front");
    let options =
        "--listen {ip}:{port} --backend http://{backend} --resolver {resolver} --dns-max-ttl 200ms --log-level warn";
    let front = format!("{} {options}", front.display());
    let ended = place.run(&["deploy", "--ttl", "30s", "--front", &front]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(place.report().runs[0].record.requests.iter().all(|request| request.task.is_some()));
    let ended = place.run(&["deploy", "--front", "sh -c 'echo no such backend; exit 7'"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.complained.contains("the front is no good: exit code 7"), "{ended:?}");
    assert!(place.is_empty());
}

#[test]
fn a_simulation_says_how_likely_a_deploy_fails_and_is_the_same_each_time() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_rehearse")).arg("simulate").args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let arguments = ["--deploys", "50", "--clients", "try-next,first-only", "--set", "ttl=60s", "--json"];
    let (code, said, _) = run(&arguments);
    let forecasts: Vec<rehearse::simulate::Forecast> = serde_json::from_str(&said).unwrap();
    assert_eq!((code, forecasts.len()), (Some(0), 2));
    assert!((0.1..0.8).contains(&forecasts[0].any) && forecasts[1].any > 0.99, "{said}");
    assert_eq!(run(&arguments).1, said);
    assert_ne!(run(&[&arguments[..], &["--seed", "2"]].concat()).1, said);
    let (_, table, _) = run(&["--deploys", "20", "--set", "ttl=15s,stop-timeout=30s", "--drain", "20s"]);
    assert!(table.contains("20 deploys, TTL 15s, drain 20s") && table.contains("nginx"), "{table}");
    let (code, _, complained) = run(&["--drain", "31s"]);
    assert_eq!(code, Some(2));
    assert!(complained.contains("a drain of 31s is longer than the stop timeout of 30s"), "{complained}");
    assert!(run(&["--clients", "lynx"]).2.contains("there are front, try-next"));
}

#[test]
fn a_sweep_writes_its_page_and_refuses_what_would_take_for_ever() {
    let place = Place::new(143);
    let small =
        ["--ttls", "15s,60s", "--drains", "0s,65s", "--minimums", "100", "--intervals", "30s", "--deploys", "40"];
    let ended = place.run(&[&["sweep", "--clients", "try-next,first-only"], &small[..]].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.said.contains("try-next, minimum healthy 100 %, health check every 30s"), "{ended:?}");
    let bytes = fs::read(place.folder.join("sweep.json")).unwrap();
    let file = rehearse::report::sweep::SweepFile::read(&bytes).unwrap();
    let worst =
        |panel: usize, column: usize, row: usize| file.sweep.panels[panel].columns[column].cells[row].simulated.worst;
    assert_eq!([worst(0, 0, 0), worst(0, 0, 1), worst(0, 1, 1), worst(1, 1, 1)], [0; 4]);
    assert!(worst(0, 1, 0) > 0 && worst(1, 0, 0) > 0 && worst(1, 1, 0) > 0, "{ended:?}");
    assert!(fs::read_to_string(place.folder.join("sweep.html")).unwrap().contains("first-only"));
    let ended = place.run(&["sweep", "--real", "--deploys", "1"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended.complained.contains("160 cells with real processes would take long, and 48 is the most"),
        "{ended:?}"
    );
    let ended = place.run(&["sweep", "--ttls", "0s"]);
    assert!(ended.code == Some(2) && ended.complained.contains("Give 1s or more"), "{ended:?}");
}

#[test]
fn a_recommendation_exits_with_1_if_no_drain_does_it() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_rehearse"))
            .args(["recommend", "--deploys", "40"])
            .args(arguments)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = run(&[]);
    assert!(code == Some(0) && said.contains("INIT_DRAIN=68s"), "{said}");
    let (code, said) = run(&["--clients", "nginx,try-next"]);
    assert!(code == Some(1) && said.contains("keeps an address for ever"), "{said}");
    let (code, said) = run(&["--set", "ttl=120s"]);
    assert!(code == Some(1) && said.contains("does not fit"), "{said}");
    let (code, said) = run(&["--set", "ttl=120s", "--most-stop-timeout", "200s", "--json"]);
    let said: rehearse::simulate::Recommendation = serde_json::from_str(&said).unwrap();
    assert_eq!((code, said.drain), (Some(0), Duration::from_secs(128)));
}

#[test]
fn the_rules_are_listed_with_their_sources() {
    let output = Command::new(env!("CARGO_BIN_EXE_rehearse")).args(["rules", "--set", "ttl=15s"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(said.contains("ttl ") && said.contains("15s"), "{said}");
    assert!(said.contains("source: AWS CDK's default: 60 s"), "{said}");
}

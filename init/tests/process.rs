//! `init` with real children, as a normal process and as PID 1 of a PID namespace.
//!
//! Everything is bounded: a process that outlives its test's patience is killed, by number, and the test fails.

#![expect(clippy::disallowed_methods, reason = "these tests watch real processes, so they read the clock and wait")]
#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking, as the test itself does")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask},
    unistd::Pid,
};

/// How long anything may take before the test fails. Generous: it is never waited for in a run that passes.
const PATIENCE: Duration = Duration::from_secs(30);

/// How `init` is started.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Normal,
    Pid1,
}

/// Every place that this machine offers. CI must offer both.
fn places() -> &'static [Place] {
    if namespace().is_some() {
        return &[Place::Normal, Place::Pid1];
    }
    assert!(std::env::var_os("CI").is_none(), "this machine allows no PID namespace, so nothing was tested as PID 1");
    &[Place::Normal]
}

/// The `unshare` arguments that make a PID namespace: as root, or else with a user namespace.
fn namespace() -> Option<&'static [&'static str]> {
    static FOUND: OnceLock<Option<&'static [&'static str]>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let ways: [&[&str]; 2] =
            [&["--pid", "--fork", "--kill-child"], &["--user", "--map-root-user", "--pid", "--fork", "--kill-child"]];
        ways.into_iter().find(|way| {
            let tried = Command::new("unshare").args(*way).arg("true").stderr(Stdio::null()).status();
            tried.is_ok_and(|status| status.success())
        })
    })
}

/// A command that runs `init` with these arguments, its logs as text.
fn init(place: Place, arguments: &[&str]) -> Command {
    let binary = env!("CARGO_BIN_EXE_init");
    let mut command = match place {
        Place::Normal => Command::new(binary),
        Place::Pid1 => {
            let mut command = Command::new("unshare");
            command.args(namespace().expect("places() offered a namespace")).arg(binary);
            command
        }
    };
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("INIT_") {
            command.env_remove(name);
        }
    }
    command.env("INIT_LOG_FORMAT", "text").args(arguments).stdin(Stdio::null());
    command
}

/// A running `init`. Killed with its handle.
struct Running {
    /// `init`, or the `unshare` that waits for it.
    outer: Child,
    place: Place,
}

impl Running {
    fn start(place: Place, arguments: &[&str]) -> Self {
        let outer = init(place, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { outer, place }
    }

    /// Starts it and waits until its child has said `ready`.
    fn ready(place: Place, arguments: &[&str]) -> (Self, Output) {
        let mut running = Self::start(place, arguments);
        let mut output = Output::of(running.outer.stdout.take().unwrap());
        assert_eq!(line(&mut output), "ready");
        (running, output)
    }

    /// The number of `init` itself, as seen from here.
    fn pid(&self) -> Pid {
        let outer = Pid::from_raw(i32::try_from(self.outer.id()).unwrap());
        match self.place {
            Place::Normal => outer,
            Place::Pid1 => eventually("unshare has a child", || children(outer).first().copied()),
        }
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    fn exit_status(&mut self) -> ExitStatus {
        eventually("init ends", || self.outer.try_wait().unwrap())
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.exit_status().code()
    }

    /// All that it wrote to stderr. Call it when it has ended.
    fn log(&mut self) -> String {
        let mut log = String::new();
        self.outer.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A namespace ends with its PID 1. A child of a normal process would be left behind.
        if self.place == Place::Normal && self.outer.try_wait().is_ok_and(|ended| ended.is_none()) {
            for child in children(self.pid()) {
                let _ = kill(child, Signal::SIGKILL);
            }
        }
        let _ = self.outer.kill();
        let _ = self.outer.wait();
    }
}

/// Asks until there is an answer.
fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "not after {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What a process writes, line by line. A thread reads it, so that a line that never comes is a failure and no hang.
struct Output(mpsc::Receiver<String>);

impl Output {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (lines, receiver) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        Self(receiver)
    }
}

/// Waits for a line of the log. Of two signals that are sent at once the one with the lower number comes first, and two of
/// the same are one: a test that sends another must know that init has taken the one before.
fn await_line(log: &mut Output, part: &str) {
    while !line(log).contains(part) {}
}

/// The next line of the child, without its end.
fn line(output: &mut Output) -> String {
    output.0.recv_timeout(PATIENCE).expect("the child writes a line")
}

/// The living and dead children of a process.
fn children(parent: Pid) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

/// Whether this is `init` already and blocks or catches SIGTERM. `unshare` blocks it too, before it becomes `init`.
fn holds_sigterm(pid: Pid) -> bool {
    let term = 1_u64 << (Signal::SIGTERM as i32 - 1);
    // One read, so that all of it is of the same moment.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let has_term = |set| u64::from_str_radix(value(set).unwrap_or("0"), 16).unwrap() & term != 0;
    value("Name:") == Some("init") && (has_term("SigBlk:") || has_term("SigCgt:"))
}

/// A folder of this test's own, removed with its handle.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A shell that prints each signal it gets and ends only with `kill -KILL` or USR2 (exit 9).
const ECHO_SIGNALS: &str = "for s in HUP INT TERM USR1 WINCH; do trap \"echo $s\" $s; done; trap 'exit 9' USR2; \
     echo ready; while :; do sleep 1 >/dev/null 2>&1 & wait $!; done";

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
        (&["--stop-on", "PIPE", "true"], &["--stop-on", "SIGPIPE"]),
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
fn a_real_time_signal_passes() {
    for &place in places() {
        let script = "trap 'exit 4' 37; echo ready; while :; do sleep 1 >/dev/null 2>&1 & wait $!; done";
        let (mut running, _output) = Running::ready(place, &["sh", "-c", script]);
        let sent = Command::new("sh").args(["-c", &format!("kill -37 {}", running.pid())]).status().unwrap();
        assert!(sent.success());
        assert_eq!(running.exit_code(), Some(4), "{place:?}");
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
fn arguments_and_variables_pass_through_unchanged() {
    for &place in places() {
        let output = init(place, &["sh", "-c", "printf '%s|' \"$@\" \"$ODD\"", "sh", "", "a b", "--drain", "*"])
            .env("ODD", "two\nlines")
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "|a b|--drain|*|two\nlines|", "{place:?}");
    }
}

#[test]
fn a_closed_or_broken_stderr_changes_nothing() {
    let (reader, broken) = std::io::pipe().unwrap();
    drop(reader);
    let status = init(Place::Normal, &["sh", "-c", "exit 6"]).stderr(broken).status().unwrap();
    assert_eq!(status.code(), Some(6));
    let closed = format!("exec {} sh -c 'exit 6' 0<&- 1>&- 2>&-", env!("CARGO_BIN_EXE_init"));
    assert_eq!(Command::new("sh").args(["-c", &closed]).status().unwrap().code(), Some(6));
}

#[test]
fn a_full_stderr_that_nobody_reads_does_not_hold_up_the_stop() {
    let (_reader, mut full) = std::io::pipe().unwrap();
    let flags = nix::fcntl::fcntl(&full, nix::fcntl::FcntlArg::F_GETFL).unwrap();
    let flags = nix::fcntl::OFlag::from_bits_retain(flags);
    let set = |flags| nix::fcntl::fcntl(&full, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
    set(flags | nix::fcntl::OFlag::O_NONBLOCK);
    while full.try_clone().unwrap().write(&[b'x'; 4096]).is_ok() {}
    set(flags);
    for &place in places() {
        let outer = init(place, &["--drain", "50ms", "sh", "-c", ECHO_SIGNALS])
            .stdout(Stdio::piped())
            .stderr(full.try_clone().unwrap())
            .spawn()
            .unwrap();
        let mut running = Running { outer, place };
        let mut output = Output::of(running.outer.stdout.take().unwrap());
        assert_eq!(line(&mut output), "ready");
        running.signal(Signal::SIGTERM);
        assert_eq!(line(&mut output), "TERM", "{place:?}");
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.exit_code(), Some(9), "{place:?}");
    }
    full.flush().unwrap();
}

#[test]
fn it_can_run_under_itself() {
    let binary = env!("CARGO_BIN_EXE_init");
    for &place in places() {
        let mut running = Running::start(place, &["--", binary, "--", "sh", "-c", "exit 8"]);
        assert_eq!(running.exit_code(), Some(8), "{place:?}");
    }
}

/// A server that answers one connection with these bytes, or accepts and says nothing.
fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/health", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let read = stream.read(&mut request).unwrap();
        assert!(request[..read].starts_with(b"GET /health HTTP/1.1\r\n"));
        stream.write_all(answer.as_bytes()).unwrap();
        if answer.is_empty() {
            // Until the probe gives up and closes.
            let _ = stream.read(&mut request);
        }
    });
    url
}

#[test]
fn a_check_says_whether_the_application_is_healthy() {
    let cases = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 0, ""),
        ("HTTP/1.1 204 No Content\r\n\r\n", 0, ""),
        ("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", 0, ""),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", 1, "404"),
        ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", 1, "503"),
        ("SSH-2.0-OpenSSH_9.2\r\n", 1, "no HTTP answer"),
        ("", 1, "no answer within 300ms"),
    ];
    for (answer, code, message) in cases {
        let url = answering(answer);
        let output = init(Place::Normal, &["--check", &url, "--check-timeout", "300ms"]).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{answer:?}: {log}");
        assert!(log.contains(message), "{answer:?}: {log}");
        assert!(code == 0 || log.contains(&url), "{log}");
    }
}

#[test]
fn a_check_of_a_port_that_nobody_listens_on_fails() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = init(Place::Normal, &["--check", &format!("http://{free}/health")]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("refused"));
}

#[test]
fn a_check_in_the_environment_leaves_the_command_alone() {
    let url = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let run = |arguments| init(Place::Normal, arguments).env("INIT_CHECK", &url).status().unwrap().code();
    assert_eq!(run(&["sh", "-c", "exit 3"]), Some(3));
    assert_eq!(run(&[]), Some(0));
}

#[test]
fn a_stop_signal_ends_a_check() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut running = Running::start(Place::Normal, &["--check", &url, "--check-timeout", "1h"]);
    let _connection = listener.accept().unwrap();
    running.signal(Signal::SIGTERM);
    assert_eq!(running.exit_status().signal(), Some(libc::SIGTERM));
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
            let script = "sh -c 'trap \"echo group; exit\" USR1; echo ready; while :; do sleep 0.02; done' & \
                          trap 'echo child' USR1; trap 'exit 9' USR2; while :; do sleep 1 >/dev/null 2>&1 & wait $!; done";
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

#[test]
fn descriptors_and_the_folder_are_the_childs() {
    let scratch = Scratch::new("descriptors");
    let file = scratch.path("file");
    let script = format!(
        "cd {}; exec 7>file; exec {} sh -c 'echo here >&7; pwd; echo ready; exec sleep 60'",
        scratch.path(""),
        env!("CARGO_BIN_EXE_init")
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env("INIT_LOG_LEVEL", "off").stdout(Stdio::piped());
    let mut running = Running { outer: command.spawn().unwrap(), place: Place::Normal };
    let mut output = Output::of(running.outer.stdout.take().unwrap());
    assert_eq!(Path::new(&line(&mut output)), scratch.0.canonicalize().unwrap());
    assert_eq!(line(&mut output), "ready");
    assert_eq!(fs::read_to_string(&file).unwrap(), "here\n");
    let pid = running.pid();
    eventually("init holds neither the file nor the folder", || {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let holds = open.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == file));
        let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        (!holds && folder == Path::new("/")).then_some(())
    });
    kill(children(pid)[0], Signal::SIGKILL).unwrap();
    assert_eq!(running.exit_code(), Some(137));
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
fn it_needs_neither_proc_nor_resolv_conf_nor_a_writable_file_system() {
    if !places().contains(&Place::Pid1) {
        return;
    }
    let hide = "mount --bind /dev/null /etc/resolv.conf && mount --bind -o ro / / && mount -t tmpfs none /proc";
    let script = format!(
        "{hide} && exec {} --dns-name back.test --drain-signal USR1 sh -c 'exit 7'",
        env!("CARGO_BIN_EXE_init")
    );
    let arguments = ["--mount", "--", "sh", "-c", &script];
    let output = Command::new("unshare")
        .args(namespace().unwrap())
        .args(arguments)
        .env("INIT_LOG_FORMAT", "text")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn out_of_descriptors_it_says_so() {
    let script = format!("ulimit -n 4; exec {} true", env!("CARGO_BIN_EXE_init"));
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{message}");
    assert!(message.contains("Too many open files"), "{message}");
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
fn a_log_that_may_not_grow_does_not_end_the_child() {
    let scratch = Scratch::new("limit");
    let script = format!(
        "head -c 1024 /dev/zero >{log}; ulimit -f 1; exec {init} --log-level debug sh -c 'sleep 0.2; exit 5' 2>>{log}",
        log = scratch.path("log"),
        init = env!("CARGO_BIN_EXE_init")
    );
    let outer = Command::new("sh").args(["-c", &script]).spawn().unwrap();
    assert_eq!(Running { outer, place: Place::Normal }.exit_code(), Some(5));
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
    let script = "sh -c 'trap \"echo group; exit\" USR1; echo ready; while :; do sleep 0.02; done' & \
                  trap 'echo child' USR1; trap 'exit 9' USR2; while :; do sleep 1 >/dev/null 2>&1 & wait $!; done";
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
fn without_a_drain_the_explanation_promises_nothing_at_its_start() {
    let flags = ["--drain", "0", "--drain-signal", "USR1", "--on-drain", "deregister", "--explain"];
    let text = String::from_utf8(init(Place::Normal, &flags).output().unwrap().stdout).unwrap();
    assert!(text.contains("it never does") && !text.contains("deregister"), "{text}");
}

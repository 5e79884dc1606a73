//! What the tests share: `init` as a process, with a child that says what it sees.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long anything may take before the test fails. Generous: it is never waited for in a run that passes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How `init` is started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Place {
    Normal,
    Pid1,
}

/// Every place that this machine offers. CI must offer both.
pub(crate) fn places() -> &'static [Place] {
    if namespace().is_some() {
        return &[Place::Normal, Place::Pid1];
    }
    assert!(std::env::var_os("CI").is_none(), "this machine allows no PID namespace, so nothing was tested as PID 1");
    &[Place::Normal]
}

/// The `unshare` arguments that make a PID namespace: as root, or else with a user namespace.
pub(crate) fn namespace() -> Option<&'static [&'static str]> {
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
pub(crate) fn init(place: Place, arguments: &[&str]) -> Command {
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
pub(crate) struct Running {
    /// `init`, or the `unshare` that waits for it.
    pub(crate) outer: Child,
    pub(crate) place: Place,
}

impl Running {
    pub(crate) fn start(place: Place, arguments: &[&str]) -> Self {
        let outer = init(place, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { outer, place }
    }

    /// Starts it and waits until its child has said `ready`.
    pub(crate) fn ready(place: Place, arguments: &[&str]) -> (Self, Output) {
        let mut running = Self::start(place, arguments);
        let mut output = Output::of(running.outer.stdout.take().unwrap());
        assert_eq!(line(&mut output), "ready");
        (running, output)
    }

    /// The number of `init` itself, as seen from here.
    pub(crate) fn pid(&self) -> Pid {
        let outer = Pid::from_raw(i32::try_from(self.outer.id()).unwrap());
        match self.place {
            Place::Normal => outer,
            Place::Pid1 => eventually("unshare has a child", || children(outer).first().copied()),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn exit_status(&mut self) -> ExitStatus {
        eventually("init ends", || self.outer.try_wait().unwrap())
    }

    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.exit_status().code()
    }

    /// All that it wrote to stderr. Call it when it has ended.
    pub(crate) fn log(&mut self) -> String {
        let mut log = String::new();
        self.outer.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A namespace ends with its PID 1. The children of a normal process would be left behind.
        if self.place == Place::Normal && self.outer.try_wait().is_ok_and(|ended| ended.is_none()) {
            for process in descendants(self.pid()) {
                let _ = kill(process, Signal::SIGKILL);
            }
        }
        let _ = self.outer.kill();
        let _ = self.outer.wait();
    }
}

/// Asks until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
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
pub(crate) struct Output(mpsc::Receiver<String>);

impl Output {
    pub(crate) fn of(stream: impl Read + Send + 'static) -> Self {
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
pub(crate) fn await_line(log: &mut Output, part: &str) {
    while !line(log).contains(part) {}
}

/// The next line of the child, without its end.
pub(crate) fn line(output: &mut Output) -> String {
    output.0.recv_timeout(PATIENCE).expect("the child writes a line")
}

/// The living and dead children of a process.
pub(crate) fn children(parent: Pid) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

/// Its children, and theirs.
fn descendants(parent: Pid) -> Vec<Pid> {
    let children = children(parent);
    let further: Vec<_> = children.iter().flat_map(|&child| descendants(child)).collect();
    [children, further].concat()
}

/// Whether this is `init` already and blocks or catches SIGTERM. `unshare` blocks it too, before it becomes `init`.
pub(crate) fn holds_sigterm(pid: Pid) -> bool {
    let term = 1_u64 << (Signal::SIGTERM as i32 - 1);
    // One read, so that all of it is of the same moment.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let has_term = |set| u64::from_str_radix(value(set).unwrap_or("0"), 16).unwrap() & term != 0;
    value("Name:") == Some("init") && (has_term("SigBlk:") || has_term("SigCgt:"))
}

/// A folder of this test's own, removed with its handle.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(test: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A shell that prints each signal it gets and ends only with `kill -KILL` or USR2 (exit 9).
pub(crate) const ECHO_SIGNALS: &str = "for s in HUP INT TERM USR1 WINCH; do trap \"echo $s\" $s; done; trap 'exit 9' USR2; \
     echo ready; while :; do sleep 1 >/dev/null 2>&1 & wait $!; done";

/// A server that answers one connection with these bytes, or accepts and says nothing.
pub(crate) fn answering(answer: &'static str) -> String {
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

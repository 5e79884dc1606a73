//! `init` on a terminal: who has the foreground, Ctrl-C, Ctrl-Z, and a shell with job control on either side of it.

#![expect(clippy::disallowed_methods, reason = "these tests watch real processes, so they read the clock and wait")]
#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking, as the test itself does")]

use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, Command},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    pty::openpty,
    unistd::{Pid, getpid, setsid, tcgetpgrp, tcsetpgrp},
};

/// How long anything may take before the test fails. Never waited for in a run that passes.
const PATIENCE: Duration = Duration::from_secs(20);

const INIT: &str = env!("CARGO_BIN_EXE_init");

/// A terminal and the leader of its session.
struct Terminal {
    master: File,
    leader: Child,
    output: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// Starts a command as `docker run -it` does: in a session of its own, in the foreground of a new terminal.
    fn run(command: &[&str]) -> Self {
        let ends = openpty(None, None).unwrap();
        let slave = |end: &OwnedFd| File::from(end.try_clone().unwrap());
        let (stdin, stdout, stderr) = (slave(&ends.slave), slave(&ends.slave), slave(&ends.slave));
        let mut starting = Command::new(command[0]);
        starting.args(&command[1..]).env("INIT_LOG_LEVEL", "off").env("PS1", "$ ").env_remove("ENV");
        starting.stdin(stdin).stdout(stdout).stderr(stderr);
        // SAFETY: system calls only, and no allocation.
        #[expect(unsafe_code, reason = "only the child itself can take a terminal, and only before exec")]
        unsafe {
            starting.pre_exec(|| {
                setsid()?;
                // The first terminal that a session's leader opens becomes its own.
                let terminal = std::fs::File::options().read(true).write(true).open("/proc/self/fd/0")?;
                tcsetpgrp(&terminal, getpid())?;
                Ok(())
            });
        }
        let leader = starting.spawn().unwrap();
        let master = File::from(ends.master);
        let (sender, output) = mpsc::channel();
        let mut reader = master.try_clone().unwrap();
        thread::spawn(move || {
            let mut bytes = [0; 1024];
            // It fails when the last process has left the terminal.
            while let Ok(read @ 1..) = reader.read(&mut bytes) {
                if sender.send(bytes[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { master, leader, output, seen: String::new() }
    }

    fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads until `text` comes, and forgets all up to it.
    fn expect(&mut self, text: &str) {
        let started = Instant::now();
        loop {
            if let Some(found) = self.seen.find(text) {
                self.seen.drain(..found + text.len());
                return;
            }
            let left = PATIENCE.checked_sub(started.elapsed()).unwrap_or_default();
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("{error}: {text:?} did not come, but {:?}", self.seen),
            }
        }
    }

    /// Whose keys they are.
    fn foreground(&self) -> Pid {
        tcgetpgrp(&self.master).unwrap()
    }

    /// Waits until the keys are this group's: what is typed before goes to another.
    fn await_foreground(&self, group: Pid) {
        let started = Instant::now();
        while self.foreground() != group {
            assert!(started.elapsed() < PATIENCE, "{group} does not get the terminal");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn exit_code(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.leader.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < PATIENCE, "it does not end; seen: {:?}", self.seen);
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.leader.kill();
        let _ = self.leader.wait();
    }
}

#[test]
fn the_child_reads_from_the_terminal_and_ctrl_c_is_its_own() {
    let mut terminal = Terminal::run(&[INIT, "sh", "-c", "read line; echo \"got $line\"; exec sleep 60"]);
    terminal.type_in("hello\n");
    terminal.expect("got hello");
    terminal.type_in("\x03");
    assert_eq!(terminal.exit_code(), Some(130));
}

#[test]
fn an_interactive_shell_has_job_control() {
    let mut terminal = Terminal::run(&[INIT, "sh", "-i"]);
    terminal.expect("$ ");
    terminal.type_in("sh -c 'echo be''gun; exec sleep 60'\n");
    terminal.expect("begun");
    let job = terminal.foreground();
    terminal.type_in("\x1a");
    terminal.expect("Stopped");
    terminal.type_in("echo al''ive; fg\n");
    terminal.expect("alive");
    terminal.await_foreground(job);
    terminal.type_in("\x03");
    terminal.expect("$ ");
    terminal.type_in("exit 3\n");
    assert_eq!(terminal.exit_code(), Some(3));
}

#[test]
fn a_new_window_size_reaches_the_child_once() {
    let script = "trap 'echo resized' WINCH; echo ready; while :; do sleep 0.1; done";
    let mut terminal = Terminal::run(&[INIT, "sh", "-c", script]);
    terminal.expect("ready");
    let size = nix::pty::Winsize { ws_row: 50, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, nix::pty::Winsize);
    // SAFETY: the pointer is to a live value of the type that the request takes.
    #[expect(unsafe_code, reason = "there is no safe wrapper of TIOCSWINSZ")]
    unsafe { set_size(std::os::fd::AsRawFd::as_raw_fd(&terminal.master), &raw const size) }.unwrap();
    terminal.expect("resized");
    terminal.type_in("\x03");
    assert_eq!(terminal.exit_code(), Some(130));
    assert!(!terminal.seen.contains("resized"), "{:?}", terminal.seen);
}

#[test]
fn ctrl_z_stops_init_with_its_child_and_the_shell_can_continue_them() {
    let mut terminal = Terminal::run(&["sh", "-i"]);
    terminal.expect("$ ");
    terminal.type_in(&format!("{INIT} sh -c 'echo be''gun; exec sleep 60'\n"));
    terminal.expect("begun");
    let child = terminal.foreground();
    terminal.type_in("\x1a");
    terminal.expect("Stopped");
    assert_ne!(terminal.foreground(), child);
    terminal.type_in("echo al''ive; fg\n");
    terminal.expect("alive");
    // The shell gives the keys to init, and init to its child.
    terminal.await_foreground(child);
    terminal.type_in("\x03");
    terminal.expect("$ ");
    terminal.type_in("echo code $?; exit 4\n");
    terminal.expect("code 130");
    assert_eq!(terminal.exit_code(), Some(4));
}

#[test]
fn started_in_the_background_it_does_not_take_the_terminal() {
    let mut terminal = Terminal::run(&["sh", "-i"]);
    terminal.expect("$ ");
    terminal.type_in(&format!("{INIT} --drain 0 sh -c 'echo be''gun; exec sleep 60' &\n"));
    terminal.expect("begun");
    let leader = Pid::from_raw(i32::try_from(terminal.leader.id()).unwrap());
    assert_eq!(terminal.foreground(), leader);
    terminal.type_in("echo al''ive; kill -INT %1; wait; exit 5\n");
    terminal.expect("alive");
    assert_eq!(terminal.exit_code(), Some(5));
}

#[test]
fn called_dumb_init_the_childs_session_has_the_terminal() {
    let link = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("terminal-{}", std::process::id()));
    std::fs::create_dir_all(&link).unwrap();
    let path = link.join("dumb-init");
    std::os::unix::fs::symlink(INIT, &path).unwrap();
    let mut terminal = Terminal::run(&[path.to_str().unwrap(), "sh", "-i"]);
    terminal.expect("$ ");
    terminal.type_in("sh -c 'echo be''gun; exec sleep 60'\n");
    terminal.expect("begun");
    terminal.type_in("\x03");
    terminal.expect("$ ");
    terminal.type_in("exit 6\n");
    assert_eq!(terminal.exit_code(), Some(6));
    std::fs::remove_dir_all(&link).unwrap();
}

#[test]
fn whoever_reads_after_init_has_the_terminal_back() {
    let mut terminal = Terminal::run(&["sh", "-c", &format!("{INIT} true; echo next; read x; echo got $x")]);
    terminal.expect("next");
    terminal.type_in("hello\n");
    terminal.expect("got hello");
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn whoever_reads_after_a_command_that_cannot_run_has_the_terminal_back() {
    let script = format!("{INIT} /no/such/command; echo \"code $?\"; read line; echo \"got $line\"");
    let mut terminal = Terminal::run(&["sh", "-c", &script]);
    terminal.expect("code 127");
    terminal.type_in("hello\n");
    terminal.expect("got hello");
}

#[test]
fn ctrl_z_stops_an_init_inside_another_and_the_outer_one_too() {
    let mut terminal = Terminal::run(&["bash", "--norc", "-i"]);
    terminal.type_in(&format!("{INIT} {INIT} sh -c 'echo up; read line; echo \"got $line\"'\n"));
    terminal.expect("up\r\n");
    terminal.type_in("\x1a");
    terminal.expect("Stopped");
    terminal.type_in("fg\n");
    terminal.expect("sh -c");
    terminal.type_in("hello\n");
    terminal.expect("got hello");
    terminal.type_in("exit 3\n");
    assert_eq!(terminal.exit_code(), Some(3));
}

#[test]
fn ctrl_z_does_nothing_where_nobody_could_continue() {
    let script = format!("{INIT} sh -c 'echo up; read line; echo \"got $line\"'; exit 4");
    let mut terminal = Terminal::run(&["sh", "-c", &script]);
    terminal.expect("up\r\n");
    terminal.type_in("\x1a");
    terminal.expect("^Z");
    terminal.type_in("hello\n");
    terminal.expect("got hello");
    assert_eq!(terminal.exit_code(), Some(4));
}

#[test]
fn started_in_the_background_it_stops_for_its_childs_input_and_fg_gives_it_the_keys() {
    let mut terminal = Terminal::run(&["sh", "-i"]);
    terminal.expect("$ ");
    terminal.type_in(&format!("{INIT} sh -c 'read x; echo go''t $x' &\n"));
    terminal.expect("$ ");
    // The shell is told that its job wants to read, as by any other command.
    let leader = Pid::from_raw(i32::try_from(terminal.leader.id()).unwrap());
    let children = std::fs::read_to_string(format!("/proc/{leader}/task/{leader}/children")).unwrap();
    let is_stopped = || std::fs::read_to_string(format!("/proc/{}/stat", children.trim())).unwrap().contains(") T ");
    let started = Instant::now();
    while !is_stopped() {
        assert!(started.elapsed() < PATIENCE, "the job does not stop");
        thread::sleep(Duration::from_millis(2));
    }
    terminal.type_in("jobs; fg\n");
    terminal.expect("Stopped");
    let started = Instant::now();
    while terminal.foreground() == leader {
        assert!(started.elapsed() < PATIENCE, "the job does not get the terminal");
        thread::sleep(Duration::from_millis(2));
    }
    terminal.type_in("hello\n");
    terminal.expect("got hello");
    terminal.expect("$ ");
    terminal.type_in("exit 7\n");
    assert_eq!(terminal.exit_code(), Some(7));
}

#[test]
fn a_child_whose_input_is_a_pipe_can_still_ask_on_the_terminal() {
    let script = format!("echo data | {INIT} sh -c 'read x </dev/tty; echo got $x; cat'; read y; echo and $y");
    let mut terminal = Terminal::run(&["sh", "-c", &script]);
    terminal.type_in("hello\n");
    terminal.expect("got hello");
    terminal.expect("data");
    terminal.type_in("more\n");
    terminal.expect("and more");
    assert_eq!(terminal.exit_code(), Some(0));
}

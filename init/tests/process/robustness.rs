//! Whatever the world looks like, it works.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use nix::sys::signal::{Signal, kill};

use crate::support::{
    ECHO_SIGNALS, Output, PATIENCE, Place, Running, Scratch, children, eventually, init, line, namespace, places,
};

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
fn out_of_descriptors_it_says_so_and_leaves_nothing_running() {
    // Too few to start the command, for the event loop, for the signals.
    for limit in [4, 5, 8] {
        let script = format!("ulimit -n {limit}; exec {} sleep 60", env!("CARGO_BIN_EXE_init"));
        let started = Instant::now();
        // Returns when nobody holds the pipe any more, a command that was already started included.
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(started.elapsed() < PATIENCE, "the command was left behind");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{limit}: {message}");
        assert!(message.contains("Too many open files"), "{limit}: {message}");
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
fn sockets_that_were_passed_to_it_are_the_commands() {
    let show = "echo $$ $LISTEN_PID $LISTEN_FDS ${LISTEN_PIDFDID-gone}";
    let script = format!("export LISTEN_PID=$$; exec {} -- sh -c '{show}'", env!("CARGO_BIN_EXE_init"));
    let run = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("LISTEN_FDS", "2").env("LISTEN_PIDFDID", "7").env("INIT_LOG_LEVEL", "off");
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let seen = run(&script);
    let words: Vec<_> = seen.split_whitespace().collect();
    assert!(matches!(words[..], [own, listen, "2", "gone"] if own == listen), "{seen:?}");
    // What was passed to somebody else stays his.
    let seen = run(&script.replace("LISTEN_PID=$$", "LISTEN_PID=1"));
    assert!(seen.ends_with(" 1 2 7\n"), "{seen:?}");
}

#[test]
fn without_room_for_another_process_it_says_so() {
    let scratch = Scratch::new("processes");
    let binary = scratch.path("init");
    fs::copy(env!("CARGO_BIN_EXE_init"), &binary).unwrap();
    // The limit does not hold for root, and counts all processes of a user: one that nobody else is.
    let script = format!(
        "if [ $(id -u) = 0 ]; then as='setpriv --reuid 54321 --clear-groups'; fi; exec $as prlimit --nproc=1 {binary} true"
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{message}");
    assert!(message.contains("no more processes"), "{message}");
}

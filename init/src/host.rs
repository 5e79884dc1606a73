//! The edge to the kernel: signals in, the child's start, signals out, reaping, lookups and probes. It decides nothing.

mod descriptors;
mod environment;
mod inherited;
mod memory;
mod signals;
mod terminal;

use std::{
    collections::{HashSet, VecDeque},
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use inherited::SignalState;
pub use inherited::before_main;
use nix::{
    sys::prctl,
    unistd::{Pid, getpgrp, getpid, setsid},
};
use signal_hook::consts::{SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};
use signals::Signals;
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use crate::{
    check::{CheckUrl, check},
    error::Error,
    exit::ExitStatus,
    lifecycle::Event,
    registration::Registration,
    run::Host,
    signal::Signal,
};

/// What the edge is told by the flags.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Setup {
    /// The signals that ask the task to end.
    pub stop_on: Vec<Signal>,
    /// We serve as a lame duck before the child is stopped.
    pub drains: bool,
    /// Signals go to the child's whole process group.
    pub to_group: bool,
    /// The child gets a session of its own.
    pub has_session: bool,
    /// TSTP, TTIN and TTOU suspend us as well as whoever they are passed on to.
    pub suspends: bool,
    /// Orphans of the child come to us even if we are not PID 1.
    pub is_subreaper: bool,
    /// Sent to us when our parent dies, and to the child when we do.
    pub parent_death_signal: Option<Signal>,
    /// Say so when an orphan is reaped.
    pub warns_on_reap: bool,
    /// Asked for the application's health when the lame duck begins.
    pub health: Option<(CheckUrl, Duration)>,
    /// Run when the lame duck begins.
    pub on_drain: Vec<OsString>,
    /// Where the name of this task is looked up.
    pub registration: Option<Arc<Registration>>,
}

/// The child and all that concerns it. The only place where processes are reaped.
///
/// Not `Clone`: two owners of reaping would steal each other's exit codes.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Child {
    setup: Setup,
    /// Gone once it has been reaped, since its number may then be another process's.
    pid: Option<libc::pid_t>,
    /// Its number, and so its group's, also after it has been reaped: the group lives on while it has members.
    group: libc::pid_t,
    had_foreground: bool,
    /// Where we were started, for the hook.
    folder: Option<PathBuf>,
    /// Processes that have been asked to end after the child did.
    told: Option<HashSet<libc::pid_t>>,
    /// The child is stopped, by Ctrl-Z or by a SIGSTOP.
    is_child_stopped: bool,
    /// Ctrl-Z has stopped the child's group, and us with it.
    is_stopped: bool,
    /// A signal has come that suspends us too, once it has been passed on.
    is_to_suspend: bool,
    signals: Signals,
    events: VecDeque<Event>,
    /// Lookups and probes under way. They end with us.
    questions: JoinSet<Option<Event>>,
    /// When the start is over. `None`: it is.
    settles_at: Option<Instant>,
}

/// A command that lives this long after its start is not one that is over at once.
const SETTLED: Duration = Duration::from_millis(200);

impl Child {
    /// Starts `command` and takes every signal; also those that arrive while it starts are kept. Returns the event loop in
    /// which it is to be watched, too.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`] if the command cannot be started; [`Error::EventLoop`] and [`Error::Signals`] if there is not
    /// enough left of what the kernel gives, and then the command is killed.
    pub fn start(command: &[OsString], setup: Setup) -> Result<(Runtime, Self), Error> {
        let inherited = SignalState::block_all().for_children();
        if setup.has_session {
            terminal::let_go();
        }
        // Orphans come to us as PID 1 of their namespace, or because we asked for them.
        if getpid().as_raw() != 1 {
            if setup.is_subreaper {
                if let Err(error) = prctl::set_child_subreaper(true) {
                    warn!(%error, "not a subreaper: orphans of the command will not be reaped here");
                }
            } else if !prctl::get_child_subreaper().unwrap_or(false) {
                // Whoever started us may have made us one, which lasts through exec.
                // "zombie reaping won't work" is what scripts look for in the log of tini.
                warn!("neither PID 1 nor a subreaper: zombie reaping won't work for orphans of the command");
            }
        }
        if let Some(signal) = setup.parent_death_signal {
            set_parent_death_signal(signal).map_err(|source| Error::ParentDeathSignal { signal, source })?;
        }
        let had_foreground = terminal::is_ours_to_give();
        let place = match (setup.has_session, had_foreground) {
            (true, _) => Place::Session,
            (false, true) => Place::Foreground,
            (false, false) => Place::Group,
        };
        if setup.drains {
            environment::tell_that_we_drain();
        }
        // It takes the foreground before it is executed, and who reads from the terminal after us needs it.
        let give_up = || {
            if place == Place::Foreground {
                terminal::give_foreground(getpgrp());
            }
        };
        let pid = spawn(command, inherited, place, setup.parent_death_signal).inspect_err(|_| give_up())?;
        // All else can be done while the command starts: the signals wait.
        descriptors::close_inherited();
        let folder = std::env::current_dir().ok();
        // Nor do we keep a file system busy.
        let _ = nix::unistd::chdir("/");
        let (event_loop, signals) = listen(inherited, &setup).inspect_err(|_| {
            // Nobody would pass signals on to it, or its exit code on to anybody.
            let _ = kill(pid, Signal::KILL);
            give_up();
        })?;
        let child = Self {
            setup,
            pid: Some(pid),
            group: pid,
            had_foreground,
            folder,
            told: None,
            is_child_stopped: false,
            is_stopped: false,
            is_to_suspend: false,
            signals,
            events: VecDeque::new(),
            questions: JoinSet::new(),
            settles_at: Some(Instant::now() + SETTLED),
        };
        Ok((event_loop, child))
    }

    /// Where signals go, until the child has been reaped.
    fn target(&self) -> Option<libc::pid_t> {
        self.pid.map(|pid| if self.setup.to_group { -self.group } else { pid })
    }

    /// Its process number, until it has been reaped.
    #[must_use]
    pub const fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Reaps whatever has ended: our child, and orphans that became ours.
    fn reap(&mut self) {
        let mut orphans = 0_u32;
        // SIGCHLD stands for any number of deaths, so ask until nobody else is dead.
        let is_alone = loop {
            match wait_any() {
                Waited::Ended(pid, status) if self.pid == Some(pid) => {
                    self.pid = None;
                    if self.had_foreground && !self.setup.has_session {
                        // Who reads from the terminal after us must not be in the background.
                        terminal::take_back(Pid::from_raw(self.group));
                    }
                    self.events.push_back(Event::Exited(status));
                }
                Waited::Ended(pid, status) => {
                    orphans += 1;
                    if self.setup.warns_on_reap {
                        // As tini says it, for the same scripts.
                        warn!("Reaped zombie process with pid={pid}: {status}");
                    }
                }
                Waited::Stopped(pid, signal) if self.pid == Some(pid) => {
                    self.is_child_stopped = true;
                    self.stop_with_child(signal);
                }
                Waited::Continued(pid) if self.pid == Some(pid) => self.is_child_stopped = false,
                Waited::Stopped(..) | Waited::Continued(_) => {}
                Waited::AllAlive => break false,
                Waited::NoChildren => break true,
            }
        };
        if orphans > 0 {
            debug!(orphans, "reaped");
        }
        // Children of those who have just ended are ours now.
        self.tell_adopted();
        if is_alone && self.pid.is_none() {
            self.events.push_back(Event::Alone);
        }
    }

    /// The terminal has stopped the child: by Ctrl-Z, or because it is in the background and wants to read or write. The
    /// shell that started us waits for us to do the same.
    fn stop_with_child(&mut self, signal: Signal) {
        let wants_terminal = [SIGTTIN, SIGTTOU].contains(&signal.number());
        if self.setup.has_session
            || !terminal::is_there()
            || !(wants_terminal || signal == Signal::TSTP && self.had_foreground)
        {
            return;
        }
        if wants_terminal && terminal::is_in_foreground() {
            // It is ours to give: we had not, because our standard input is not the terminal, or have come to the
            // foreground since.
            self.continue_with_child();
        } else if terminal::can_be_continued() {
            self.is_stopped = true;
            if self.had_foreground {
                terminal::give_foreground(getpgrp());
            }
            // Returns when somebody continues us; SIGCONT is then among the signals.
            let was_stopped = inherited::stop_group(signal.number());
            if !was_stopped && signal == Signal::TSTP {
                // No shell with job control: without us, Ctrl-Z would have done nothing.
                self.continue_with_child();
            }
        }
    }

    /// The shell has made us its foreground job again, or lets us run in the background.
    fn continue_with_child(&mut self) {
        if terminal::is_in_foreground() {
            self.had_foreground = true;
            terminal::give_foreground(Pid::from_raw(self.group));
        }
        self.is_stopped = false;
        let _ = kill(-self.group, Signal::new(SIGCONT));
    }

    /// Starts the drain hook. It is reaped like any orphan, and nobody waits for it.
    fn run_hook(&self) {
        let [program, arguments @ ..] = self.setup.on_drain.as_slice() else { return };
        let mut hook = Command::new(program);
        hook.args(arguments).stdin(Stdio::null());
        if let Some(folder) = &self.folder {
            hook.current_dir(folder);
        }
        restore_signals(&mut hook, self.signals.inherited());
        // Between fork and exec the hook would run our handlers.
        inherited::block_all();
        let started = hook.spawn();
        self.signals.unblock();
        match started {
            Ok(hook) => debug!(pid = hook.id(), "the drain hook runs"),
            Err(error) => warn!(%error, "the drain hook {program:?} could not be started"),
        }
    }

    /// Asks those to end who have become ours since the child has ended.
    fn tell_adopted(&mut self) {
        if let Some(told) = &mut self.told {
            for pid in children() {
                if told.insert(pid) {
                    let _ = kill(pid, Signal::TERM);
                }
            }
        }
    }

    /// Asks for the application's health, if somebody wants to know.
    fn probe(&mut self) {
        let Some((url, limit)) = self.setup.health.clone() else { return };
        self.questions.spawn(async move {
            Some(check(&url, limit).await.map_or_else(|error| Event::Unhealthy(error.to_string()), |()| Event::Healthy))
        });
    }
}

impl Host for Child {
    async fn next_event(&mut self) -> Event {
        if std::mem::take(&mut self.is_to_suspend) {
            // What the signal brought about has been done. SIGCONT, which goes on like any other, continues us.
            let _ = kill(getpid().as_raw(), Signal::new(SIGSTOP));
        }
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let signal = tokio::select! {
                biased;
                signal = self.signals.next() => signal,
                Some(answer) = self.questions.join_next() => match answer {
                    Ok(Some(event)) => return event,
                    // A question that ended with a panic: nothing to tell.
                    Ok(None) | Err(_) => continue,
                },
                () = sleep_until(self.settles_at.unwrap_or_else(Instant::now)), if self.settles_at.is_some() => {
                    self.settles_at = None;
                    // Not under a debugger: its breakpoints are changes to the code.
                    if !cfg!(debug_assertions) {
                        memory::give_back_code();
                    }
                    continue;
                }
            };
            if signal == SIGCHLD {
                self.reap();
            } else if signal == SIGCONT && self.is_stopped {
                self.continue_with_child();
            } else {
                self.is_to_suspend = self.setup.suspends && [SIGTSTP, SIGTTIN, SIGTTOU].contains(&signal);
                let signal = Signal::new(signal);
                let asks_to_stop = self.setup.stop_on.contains(&signal);
                return if asks_to_stop { Event::Stop(signal) } else { Event::Other(signal) };
            }
        }
    }

    fn forward(&mut self, signal: Signal) -> io::Result<()> {
        let Some(target) = self.target() else { return Ok(()) };
        kill(target, signal)?;
        if signal == Signal::HUP && self.is_child_stopped {
            // As the kernel does when a terminal goes away: a stopped process would never hear of it.
            kill(target, Signal::new(SIGCONT))?;
        }
        Ok(())
    }

    fn begin_stop(&mut self) {
        // The news that it has stopped may be waiting behind the signal that asks for its end.
        self.reap();
        if self.is_child_stopped
            && let Some(target) = self.target()
        {
            // A stopped process acts on nothing but SIGKILL, so the stop signal would wait for ever.
            let _ = kill(target, Signal::new(SIGCONT));
        }
    }

    fn begin_drain(&mut self) {
        self.run_hook();
        self.probe();
    }

    fn look_up(&mut self) {
        let Some(registration) = self.setup.registration.clone() else { return };
        self.questions.spawn(async move { Some(Event::Answered(registration.look_up().await)) });
    }

    fn terminate_others(&mut self) {
        if self.events.contains(&Event::Alone) {
            return;
        }
        if getpid().as_raw() == 1 {
            // Everything in our namespace, and nothing else.
            let _ = kill(-1, Signal::TERM);
        } else {
            // Orphans are ours by now; whoever else shares our namespace is none of our business.
            self.told = Some(HashSet::new());
        }
        self.reap();
    }
}

/// An event loop of one thread.
///
/// # Errors
///
/// [`Error::EventLoop`] if the kernel has no descriptors for it.
pub fn event_loop() -> Result<Runtime, Error> {
    Builder::new_current_thread().enable_all().build().map_err(Error::EventLoop)
}

/// The event loop, and in it the signals, which from here on are handled.
fn listen(inherited: SignalState, setup: &Setup) -> Result<(Runtime, Signals), Error> {
    let event_loop = event_loop()?;
    let inside = event_loop.enter();
    let signals = Signals::new(inherited, &setup.stop_on, setup.has_session).map_err(Error::Signals)?;
    signals.unblock();
    drop(inside);
    Ok((event_loop, signals))
}

/// Lets signals end this process as they would any other, for a command that is over at once and has no child.
pub fn accept_signals() {
    inherited::unblock_all();
}

/// Where the child lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// In a process group of its own.
    Group,
    /// In one that gets the terminal's foreground from us.
    Foreground,
    /// In a session of its own, with the terminal if there is one.
    Session,
}

/// Starts the command in a place of its own, with the signal state that we were started with. When this returns, the
/// command has been executed, so its group exists.
fn spawn(
    command: &[OsString],
    inherited: SignalState,
    place: Place,
    parent_death_signal: Option<Signal>,
) -> Result<libc::pid_t, Error> {
    let [program, arguments @ ..] = command else { return Err(Error::NoCommand) };
    let started = |program: &OsString, arguments: &[OsString], first: Option<&OsString>| {
        let mut spawn = Command::new(program);
        spawn.args(first).args(arguments);
        match place {
            Place::Group => {
                spawn.process_group(0);
            }
            Place::Foreground => {
                spawn.process_group(0);
                in_child(&mut spawn, || {
                    terminal::take_foreground();
                    Ok(())
                });
            }
            Place::Session => in_child(&mut spawn, || {
                setsid()?;
                terminal::take();
                Ok(())
            }),
        }
        if environment::has_sockets() {
            in_child(&mut spawn, || {
                environment::take_sockets();
                Ok(())
            });
        }
        if let Some(signal) = parent_death_signal {
            in_child(&mut spawn, move || set_parent_death_signal(signal));
        }
        restore_signals(&mut spawn, inherited);
        spawn.spawn()
    };
    let child = match started(program, arguments, None) {
        // A script without a first line is the shell's, as for execvp and so for every shell and init (POSIX, exec).
        Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => match find(program) {
            Some(path) => started(&"/bin/sh".into(), arguments, Some(&path)).map_err(|_| error),
            None => Err(error),
        },
        result => result,
    };
    let child = child.map_err(|source| Error::Spawn { command: program.clone(), source })?;
    // The handle is dropped: it neither kills nor waits, and `reap` is the one place that waits.
    Ok(libc::pid_t::try_from(child.id()).expect("a process number came from a pid_t"))
}

/// Where `program` is: as it is if it has a slash, else the first on PATH that may be executed.
fn find(program: &OsString) -> Option<OsString> {
    use std::os::unix::{ffi::OsStrExt, fs::PermissionsExt};

    if program.as_bytes().contains(&b'/') {
        return Some(program.clone());
    }
    let path = std::env::var_os("PATH")?;
    let is_executable = |candidate: &std::path::PathBuf| {
        candidate.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(is_executable).map(Into::into)
}

/// Has the child of `command` find the signal state that we were started with.
fn restore_signals(command: &mut Command, inherited: SignalState) {
    in_child(command, move || {
        inherited.restore();
        Ok(())
    });
}

/// Has the child of `command` do this between fork and exec. It must be fit for that: system calls, and nothing that waits
/// for another thread.
fn in_child(command: &mut Command, act: impl Fn() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: all callers are in this file. What they pass makes system calls, and in one case changes the environment; we
    // have one thread, so that the child inherits no lock that another one holds.
    #[expect(unsafe_code, reason = "only the child itself can change its own state, and only before exec")]
    unsafe {
        command.pre_exec(act);
    }
}

/// What waiting for any child brought.
enum Waited {
    Ended(libc::pid_t, ExitStatus),
    Stopped(libc::pid_t, Signal),
    Continued(libc::pid_t),
    /// There are children, and none has changed.
    AllAlive,
    NoChildren,
}

/// One child that has ended or stopped, if there is one. The wrappers of `nix` refuse a death by a real-time signal.
fn wait_any() -> Waited {
    let mut status = 0;
    // SAFETY: the pointer is to a live local, and no other memory is touched.
    #[expect(unsafe_code, reason = "nix's waitpid fails with EINVAL, and loses the status, for a real-time signal")]
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED) };
    match pid {
        0 => Waited::AllAlive,
        // With WNOHANG there is no other reason than that there is nobody.
        ..0 => Waited::NoChildren,
        pid if libc::WIFCONTINUED(status) => Waited::Continued(pid),
        pid if libc::WIFSTOPPED(status) => Waited::Stopped(pid, Signal::new(libc::WSTOPSIG(status))),
        pid if libc::WIFSIGNALED(status) => {
            Waited::Ended(pid, ExitStatus::Signaled(Signal::new(libc::WTERMSIG(status))))
        }
        pid => {
            let code = u8::try_from(libc::WEXITSTATUS(status)).expect("the kernel keeps 8 bits of an exit code");
            Waited::Ended(pid, ExitStatus::Exited(code))
        }
    }
}

/// Sends a signal to one process that has not been reaped, or to a group (negative) that has members.
fn kill(pid: libc::pid_t, signal: Signal) -> io::Result<()> {
    // SAFETY: kill takes two numbers and touches no memory of ours.
    #[expect(unsafe_code, reason = "nix's kill has no real-time signals")]
    let result = unsafe { libc::kill(pid, signal.number()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel send `signal` to the calling process when its parent dies.
fn set_parent_death_signal(signal: Signal) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes one number and touches no memory of ours.
    #[expect(unsafe_code, reason = "nix's prctl has no real-time signals")]
    let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal.number()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Our own children. None if `/proc` is not there.
fn children() -> Vec<libc::pid_t> {
    let own = getpid();
    let list = std::fs::read_to_string(format!("/proc/self/task/{own}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

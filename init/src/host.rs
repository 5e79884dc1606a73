//! The edge to the kernel: signals in, the child's start, signals out, reaping. It decides nothing.

mod inherited;

use std::{collections::VecDeque, ffi::OsString, future::poll_fn, io, os::unix::process::CommandExt, process::Command};

use futures_util::stream::StreamExt;
use inherited::SignalState;
pub use inherited::before_main;
use nix::sys::prctl;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGKILL, SIGSTOP, SIGTERM, SIGTTIN, SIGTTOU};
use signal_hook_tokio::Signals;
use tracing::{debug, warn};

use crate::{error::Error, exit::ExitStatus, lifecycle::Event, run::Host, signal::Signal};

/// Faults of the process itself. Sent by another process they mean nothing that could be passed on, and a handler for a
/// real one would loop for ever.
const FAULTS: [i32; 7] =
    [libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGSYS, libc::SIGTRAP];

/// The child and all that concerns it. The only place where processes are reaped.
///
/// Not `Clone`: two owners of reaping would steal each other's exit codes.
pub struct Child {
    /// Gone once it has been reaped, since its number may then be another process's.
    pid: Option<libc::pid_t>,
    signals: Signals,
    events: VecDeque<Event>,
}

impl Child {
    /// Installs the signal handlers and starts `command`, in this order: a stop signal that arrives while the child
    /// starts is kept.
    ///
    /// # Errors
    ///
    /// [`Error::Signals`] if the handlers cannot be installed, [`Error::Spawn`] if the command cannot be started.
    pub fn start(command: &[OsString]) -> Result<Self, Error> {
        let inherited = SignalState::block_all();
        let signals = Signals::new(caught()).map_err(Error::Signals)?;
        inherited::ignore_terminal_stops();
        // Orphans come to us as PID 1 of their namespace, or because we asked for them.
        if nix::unistd::getpid().as_raw() != 1
            && let Err(error) = prctl::set_child_subreaper(true)
        {
            warn!(%error, "not a subreaper: orphans of the command will not be reaped here");
        }
        let pid = spawn(command, inherited)?;
        // Only now: between fork and exec the child would have run our handlers.
        inherited::unblock_all();
        Ok(Self { pid: Some(pid), signals, events: VecDeque::new() })
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
        while let Some((pid, status)) = wait_any() {
            if self.pid == Some(pid) {
                self.pid = None;
                self.events.push_back(Event::Exited(status));
            } else {
                orphans += 1;
            }
        }
        if orphans > 0 {
            debug!(orphans, "reaped");
        }
    }
}

impl Host for Child {
    async fn next_event(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            match poll_fn(|context| self.signals.poll_next_unpin(context)).await {
                Some(SIGCHLD) => self.reap(),
                Some(signal @ (SIGTERM | SIGINT)) => return Event::Stop(Signal::new(signal)),
                Some(signal) => return Event::Other(Signal::new(signal)),
                // The stream ends when somebody closes its handle, and nobody has one.
                None => std::future::pending().await,
            }
        }
    }

    fn forward(&mut self, signal: Signal) -> io::Result<()> {
        match self.pid {
            Some(pid) => kill(pid, signal),
            None => Ok(()),
        }
    }
}

/// Lets signals end this process as they would any other, for a command that is over at once and has no child.
pub fn accept_signals() {
    inherited::unblock_all();
}

/// Every signal that can be caught and passed on, and SIGCHLD.
fn caught() -> impl Iterator<Item = i32> {
    // The numbers below SIGRTMIN that are no standard signal belong to the C library.
    (1..32)
        .chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
        .filter(|signal| !FAULTS.contains(signal) && ![SIGKILL, SIGSTOP, SIGTTIN, SIGTTOU].contains(signal))
}

/// Starts the command with the signal state that we were started with.
fn spawn(command: &[OsString], inherited: SignalState) -> Result<libc::pid_t, Error> {
    let [program, arguments @ ..] = command else { return Err(Error::NoCommand) };
    let mut spawn = Command::new(program);
    spawn.args(arguments);
    // SAFETY: `restore` makes only async-signal-safe system calls and allocates nothing, as code between fork and exec
    // must.
    #[expect(unsafe_code, reason = "only the child itself can restore its signal state, and only before exec")]
    unsafe {
        spawn.pre_exec(move || inherited.restore());
    }
    let child = spawn.spawn().map_err(|source| Error::Spawn { command: program.clone(), source })?;
    // The handle is dropped: it neither kills nor waits, and `reap` is the one place that waits.
    Ok(libc::pid_t::try_from(child.id()).expect("a process number came from a pid_t"))
}

/// One process that has ended, if there is one. The wrappers of `nix` refuse a death by a real-time signal.
fn wait_any() -> Option<(libc::pid_t, ExitStatus)> {
    let mut status = 0;
    // SAFETY: the pointer is to a live local, and no other memory is touched.
    #[expect(unsafe_code, reason = "nix's waitpid fails with EINVAL, and loses the status, for a real-time signal")]
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None; // Nobody has ended, or there is nobody: with WNOHANG there is no other reason.
    }
    let status = if libc::WIFSIGNALED(status) {
        ExitStatus::Signaled(Signal::new(libc::WTERMSIG(status)))
    } else {
        // Stops and continuations are reported only to those who ask, so this is an exit.
        ExitStatus::Exited(u8::try_from(libc::WEXITSTATUS(status)).expect("the kernel keeps 8 bits of an exit code"))
    };
    Some((pid, status))
}

/// Sends a signal to one process that has not been reaped, so that its number is still its own.
fn kill(pid: libc::pid_t, signal: Signal) -> io::Result<()> {
    // SAFETY: kill takes two numbers and touches no memory of ours.
    #[expect(unsafe_code, reason = "nix's kill has no real-time signals")]
    let result = unsafe { libc::kill(pid, signal.number()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

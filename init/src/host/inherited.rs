//! The signal state that we were started with, which the command must find again.
//!
//! Whoever starts us may have blocked or ignored signals on purpose (`nohup`, a supervisor, a shell's background job).
//! An entrypoint that changes this changes what the command does.

use std::{ptr, sync::OnceLock};

/// The last signal number of Linux.
pub(super) const LAST: i32 = 64;

static BEFORE_MAIN: OnceLock<SignalState> = OnceLock::new();

/// To be called before Rust's own start-up, which sets SIGPIPE to ignored: notes the state as it was inherited and
/// blocks every signal, so that a stop signal waits until somebody takes it.
///
/// As PID 1 this matters most: the kernel throws away an unblocked signal that has no handler yet.
pub extern "C" fn before_main() {
    BEFORE_MAIN.get_or_init(SignalState::capture);
}

/// A set of signals as the kernel keeps it: bit N - 1 for signal N.
///
/// Not the C library's: that one leaves out the numbers that the library takes for itself, which with musl includes
/// SIGRTMIN as everybody else knows it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct SignalSet(pub(super) u64);

impl SignalSet {
    pub(super) const ALL: Self = Self(u64::MAX);

    pub(super) const fn of(signal: i32) -> Self {
        Self(1 << (signal - 1))
    }

    pub(super) const fn contains(self, signal: i32) -> bool {
        self.0 & Self::of(signal).0 != 0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = i32> {
        (1..=LAST).filter(move |&signal| self.contains(signal))
    }

    pub(super) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl FromIterator<i32> for SignalSet {
    fn from_iter<T: IntoIterator<Item = i32>>(signals: T) -> Self {
        Self(signals.into_iter().fold(0, |set, signal| set | Self::of(signal).0))
    }
}

/// What a process was started with and what of it has been changed since.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignalState {
    mask: SignalSet,
    /// The signals whose disposition has been changed.
    changed: SignalSet,
    /// Those of them that were ignored.
    ignored: SignalSet,
}

impl SignalState {
    /// The inherited state. From here on every signal is blocked.
    pub(super) fn block_all() -> Self {
        let state = *BEFORE_MAIN.get_or_init(Self::capture);
        // Rust's start-up installs handlers, for which musl unblocks the signals that it takes for itself.
        block(SignalSet::ALL);
        state
    }

    fn capture() -> Self {
        let mask = block(SignalSet::ALL);
        // Rust's start-up ignores it.
        Self { mask, changed: SignalSet::default(), ignored: SignalSet::default() }.noting(SignalSet::of(libc::SIGPIPE))
    }

    /// Has the kernel keep the exit codes of our children, which it throws away if whoever started us ignored SIGCHLD.
    /// Called before the first child is started.
    pub(super) fn for_children(self) -> Self {
        let noted = self.noting(SignalSet::of(libc::SIGCHLD));
        set_handler(libc::SIGCHLD, libc::SIG_DFL);
        noted
    }

    /// To be called before the disposition of these is changed.
    pub(super) fn noting(self, signals: SignalSet) -> Self {
        let signals = signals.without(self.changed);
        let ignored = signals.iter().filter(|&signal| is_ignored(signal)).collect();
        Self { changed: self.changed.with(signals), ignored: self.ignored.with(ignored), ..self }
    }

    /// Gives the calling process this state. Called in the child between fork and exec: async-signal-safe, no
    /// allocation.
    pub(super) fn restore(self) {
        for signal in self.changed.iter() {
            set_handler(signal, if self.ignored.contains(signal) { libc::SIG_IGN } else { libc::SIG_DFL });
        }
        block(self.mask);
    }
}

/// Blocks every signal, around a fork: the child would run our handlers.
pub(super) fn block_all() {
    block(SignalSet::ALL);
}

/// Lets every signal through, also those that were blocked when we started.
pub(super) fn unblock_all() {
    block(SignalSet::default());
}

/// Blocks exactly these, and returns what was blocked before. Async-signal-safe.
pub(super) fn block(set: SignalSet) -> SignalSet {
    let mut before = SignalSet::default();
    // SAFETY: both pointers are to live locals of the size that the last argument says. It fails for nothing but a wrong
    // argument, and these are right.
    #[expect(unsafe_code, reason = "the wrappers of the C library leave signals out")]
    unsafe {
        let size = size_of::<SignalSet>();
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const set, &raw mut before, size);
    }
    before
}

/// Stops our process group by this signal, as the terminal does: whoever waits for us sees which one it was, and a group
/// that nobody could continue (an orphaned one) goes on. Returns once somebody has continued us, or false at once.
pub(super) fn stop_group(signal: i32) -> bool {
    let signal = if disposition(signal) == Some(libc::SIG_DFL) { signal } else { libc::SIGSTOP };
    // SAFETY: all take numbers, or a pointer to a live local of the size that is said.
    #[expect(unsafe_code, reason = "nix has no such set of signals")]
    unsafe {
        // Which throws away a SIGCONT that waits, so one that waits afterwards has continued us.
        libc::kill(0, signal);
        let before = block(SignalSet::ALL.without(SignalSet::of(signal)));
        let mut pending = SignalSet::default();
        libc::syscall(libc::SYS_rt_sigpending, &raw mut pending, size_of::<SignalSet>());
        block(before);
        pending.contains(libc::SIGCONT)
    }
}

/// Forgets what has come of these since signals were blocked.
pub(super) fn forget_pending(signals: &[i32]) {
    for &signal in signals {
        let handler = if is_ignored(signal) { libc::SIG_IGN } else { libc::SIG_DFL };
        set_handler(signal, libc::SIG_IGN); // Which throws away those that wait.
        set_handler(signal, handler);
    }
}

fn is_ignored(signal: i32) -> bool {
    disposition(signal) == Some(libc::SIG_IGN)
}

fn disposition(signal: i32) -> Option<libc::sighandler_t> {
    // SAFETY: a zeroed sigaction is a valid one; the null pointer asks for no change; the other is to a live local.
    #[expect(
        unsafe_code,
        reason = "nix cannot ask for a disposition without changing it, nor for a real-time signal's"
    )]
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(signal, ptr::null(), &raw mut action) == 0).then_some(action.sa_sigaction)
    }
}

/// Sets `SIG_DFL` or `SIG_IGN`. A signal that cannot be set (SIGKILL, SIGSTOP, those of the C library) stays as it is.
fn set_handler(signal: i32, handler: libc::sighandler_t) {
    debug_assert!(handler == libc::SIG_DFL || handler == libc::SIG_IGN);
    // SAFETY: neither disposition runs any code of ours, and signal is async-signal-safe.
    #[expect(unsafe_code, reason = "nix has no real-time signals")]
    unsafe {
        libc::signal(signal, handler);
    }
}

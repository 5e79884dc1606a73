//! The signal state that we were started with, which the command must find again.
//!
//! Whoever starts us may have blocked or ignored signals on purpose (`nohup`, a supervisor, a shell's background job).
//! An entrypoint that changes this changes what the command does.

use std::{io, ptr, sync::OnceLock};

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

/// The last signal number of Linux.
const LAST: i32 = 64;

static BEFORE_MAIN: OnceLock<SignalState> = OnceLock::new();

/// To be called before Rust's own start-up, which sets SIGPIPE to ignored: notes the state as it was inherited and
/// blocks every signal, so that a stop signal waits until somebody handles it.
///
/// As PID 1 this matters most: the kernel throws away an unblocked signal that has no handler yet.
pub extern "C" fn before_main() {
    BEFORE_MAIN.get_or_init(SignalState::capture);
}

/// The mask and the ignored signals of a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignalState {
    mask: SigSet,
    /// Bit N - 1 for signal N.
    ignored: u64,
}

impl SignalState {
    /// The inherited state. From here on every signal is blocked.
    pub(super) fn block_all() -> Self {
        *BEFORE_MAIN.get_or_init(Self::capture)
    }

    fn capture() -> Self {
        let mut mask = SigSet::empty();
        // Fails only for an unknown `how`; the constant is a known one.
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut mask));
        let ignored = (1..=LAST).filter(|&signal| is_ignored(signal)).fold(0, |set, signal| set | bit(signal));
        Self { mask, ignored }
    }

    /// Gives the calling process this state. Called in the child between fork and exec: async-signal-safe, no
    /// allocation.
    pub(super) fn restore(self) -> io::Result<()> {
        for signal in 1..=LAST {
            let handler = if self.ignored & bit(signal) == 0 { libc::SIG_DFL } else { libc::SIG_IGN };
            set_handler(signal, handler);
        }
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None).map_err(io::Error::from)
    }
}

/// Blocks every signal once more, around another fork.
pub(super) fn block_again() {
    // Fails only for an unknown `how`; the constant is a known one.
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
}

/// Lets every signal through, also those that were blocked when we started: an init that waits for a signal which
/// cannot arrive would hang.
pub(super) fn unblock_all() {
    // Fails only for an unknown `how`; the constant is a known one.
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Ignores what our own reading and writing may bring about: a log line must neither stop nor end us.
///
/// Of a session that is not ours the terminal cannot stop us, and its signals are passed on.
pub(super) fn ignore_own_consequences(has_session: bool) {
    for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
        set_handler(signal, libc::SIG_IGN);
    }
    if !has_session {
        set_handler(libc::SIGTTIN, libc::SIG_IGN);
        set_handler(libc::SIGTTOU, libc::SIG_IGN);
    }
}

/// Forgets what has come of these since signals were blocked.
pub(super) fn forget_pending(signals: &[i32]) {
    for &signal in signals {
        set_handler(signal, libc::SIG_IGN); // Which throws away those that wait.
        set_handler(signal, libc::SIG_DFL);
    }
}

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: a zeroed sigaction is a valid one; the null pointer asks for no change; the other is to a live local.
    #[expect(
        unsafe_code,
        reason = "nix cannot ask for a disposition without changing it, nor for a real-time signal's"
    )]
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
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

//! How the child's end becomes our exit code, and which codes are our own.
//!
//! The numbers are the shell's (POSIX "Shell Command Language", 2.8.2) and those of `env`, `timeout` and `docker run`.

use std::{fmt, io};

use crate::signal::Signal;

/// We failed, not the child: bad flags, no memory for a process, no signal handlers.
pub const OWN_FAILURE: u8 = 125;
/// COMMAND exists and cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// COMMAND, or the interpreter that its first line names, does not exist.
pub const NOT_FOUND: u8 = 127;
/// Added to a signal's number when the child was killed by it.
const SIGNALED: u8 = 128;

/// How the child ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExitStatus {
    /// It exited with this code.
    Exited(u8),
    /// This signal killed it.
    Signaled(Signal),
}

impl ExitStatus {
    /// The exit code that tells of it: the child's own, or 128 plus the number of the signal that killed it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            // Linux has 64 signals, so the sum fits; a number that did not fit would still end as a failure.
            Self::Signaled(signal) => u8::try_from(signal.number()).map_or(u8::MAX, |n| n.saturating_add(SIGNALED)),
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with {code}"),
            Self::Signaled(signal) => write!(f, "killed by {signal}"),
        }
    }
}

/// The exit code for a COMMAND that could not be started because of `error`.
///
/// `fork` and `execve` report through the same call. What only a full machine causes is counted as ours, so that 126
/// always means that COMMAND itself is at fault.
#[must_use]
pub fn of_spawn_failure(error: &io::Error) -> u8 {
    match error.raw_os_error() {
        Some(libc::ENOENT) => NOT_FOUND,
        None | Some(libc::EAGAIN | libc::EMFILE | libc::ENFILE | libc::ENOMEM) => OWN_FAILURE,
        Some(_) => NOT_EXECUTABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_passed_on_as_it_is() {
        for code in 0..=255 {
            assert_eq!(ExitStatus::Exited(code).code(), code);
        }
    }

    #[test]
    fn a_death_by_signal_is_128_plus_its_number() {
        assert_eq!(ExitStatus::Signaled(Signal::TERM).code(), 143);
        assert_eq!(ExitStatus::Signaled(Signal::KILL).code(), 137);
        assert_eq!(ExitStatus::Signaled(Signal::new(34)).code(), 162);
        assert_eq!(ExitStatus::Signaled(Signal::new(64)).code(), 192);
    }

    #[test]
    fn a_missing_command_is_127_and_one_that_cannot_run_is_126() {
        let code = |errno| of_spawn_failure(&io::Error::from_raw_os_error(errno));
        assert_eq!(code(libc::ENOENT), NOT_FOUND);
        for errno in [libc::EACCES, libc::ENOEXEC, libc::EISDIR, libc::ELOOP, libc::ENOTDIR, libc::E2BIG] {
            assert_eq!(code(errno), NOT_EXECUTABLE);
        }
    }

    #[test]
    fn a_full_machine_is_our_own_failure() {
        let code = |errno| of_spawn_failure(&io::Error::from_raw_os_error(errno));
        for errno in [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE] {
            assert_eq!(code(errno), OWN_FAILURE);
        }
    }
}

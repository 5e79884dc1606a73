//! The controlling terminal: the child gets the foreground if we have it, and a job that is stopped stops as one.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use nix::unistd::{Pid, getpgrp, getsid, tcgetpgrp, tcsetpgrp};

/// Whether standard input is our controlling terminal and we are in its foreground, so that the child gets it at once.
/// Started in the background we must not take it, or the shell that started us would lose its keyboard; in the middle of a
/// pipeline, whoever reads from the terminal is another.
pub(super) fn is_ours_to_give() -> bool {
    tcgetpgrp(io::stdin().as_fd()).is_ok_and(|foreground| foreground == getpgrp())
}

/// Does something with our controlling terminal, whatever standard input is.
fn with_terminal<T>(act: impl FnOnce(BorrowedFd<'_>) -> nix::Result<T>) -> nix::Result<T> {
    // Its name may be missing in an image; std closes it on exec, and as it is ours already, nobody gets it by opening.
    match File::open("/dev/tty") {
        Ok(terminal) => act(terminal.as_fd()),
        Err(_) => act(io::stdin().as_fd()),
    }
}

/// Whether we have a controlling terminal.
pub(super) fn is_there() -> bool {
    with_terminal(|terminal| tcgetpgrp(terminal)).is_ok()
}

/// Whether we are in the foreground of our controlling terminal.
pub(super) fn is_in_foreground() -> bool {
    with_terminal(|terminal| tcgetpgrp(terminal)).is_ok_and(|foreground| foreground == getpgrp())
}

/// Makes `group` the terminal's foreground: Ctrl-C and Ctrl-Z go there, and it may read.
///
/// SIGTTOU must be ignored or blocked, as for any process that does this from the background. A terminal that is gone
/// by now has no foreground, which is no failure of ours.
pub(super) fn give_foreground(group: Pid) {
    let _ = with_terminal(|terminal| tcsetpgrp(terminal, group));
}

/// Makes the calling process's group the foreground of the terminal on standard input. Async-signal-safe.
pub(super) fn take_foreground() {
    let _ = tcsetpgrp(io::stdin().as_fd(), getpgrp());
}

nix::ioctl_none_bad!(detach, libc::TIOCNOTTY);
nix::ioctl_write_int_bad!(attach, libc::TIOCSCTTY);

/// Gives up our controlling terminal, so that the child's session can have it.
///
/// If we lead our session, the kernel tells its foreground of it by SIGHUP and SIGCONT. They are not meant for the child.
/// Signals must be blocked, and their handlers not there yet.
pub(super) fn let_go() {
    // SAFETY: the request has no argument.
    #[expect(unsafe_code, reason = "there is no safe wrapper of TIOCNOTTY")]
    let given_up = unsafe { detach(io::stdin().as_raw_fd()) };
    if given_up.is_ok() && getsid(None).is_ok_and(|session| session == nix::unistd::getpid()) {
        super::inherited::forget_pending(&[libc::SIGHUP, libc::SIGCONT]);
    }
}

/// Takes the terminal on standard input for our own session, which has none. Async-signal-safe. If it is another's, or
/// no terminal, the session stays without.
pub(super) fn take() {
    // SAFETY: the request's argument is a number: 0, do not take it from another session.
    #[expect(unsafe_code, reason = "there is no safe wrapper of TIOCSCTTY")]
    let _ = unsafe { attach(libc::STDIN_FILENO, 0) };
}

/// Takes the foreground back from `group`, which has ended, unless somebody else has it by now.
pub(super) fn take_back(group: Pid) {
    if with_terminal(|terminal| tcgetpgrp(terminal)).is_ok_and(|foreground| foreground == group) {
        give_foreground(getpgrp());
    }
}

/// Whether somebody could continue us if we stopped: a shell of our session with job control, in another group.
///
/// A session leader, and PID 1, would stop for good.
pub(super) fn can_be_continued() -> bool {
    getsid(None).is_ok_and(|session| session != nix::unistd::getpid()) && nix::unistd::getpid().as_raw() != 1
}

//! The controlling terminal: the child gets the foreground if we have it, and a job that is stopped stops as one.

use std::{io, os::fd::AsFd};

use nix::unistd::{Pid, getpgrp, getsid, tcgetpgrp, tcsetpgrp};

/// Whether standard input is our controlling terminal and we are in its foreground. Started in the background we must
/// not take it, or the shell that started us would lose its keyboard.
pub(super) fn is_in_foreground() -> bool {
    tcgetpgrp(io::stdin().as_fd()).is_ok_and(|foreground| foreground == getpgrp())
}

/// Makes `group` the terminal's foreground: Ctrl-C and Ctrl-Z go there, and it may read.
///
/// SIGTTOU must be ignored or blocked, as for any process that does this from the background. A terminal that is gone
/// by now has no foreground, which is no failure of ours.
pub(super) fn give_foreground(group: Pid) {
    let _ = tcsetpgrp(io::stdin().as_fd(), group);
}

/// Whether somebody could continue us if we stopped: a shell of our session with job control, in another group.
///
/// A session leader, and PID 1, would stop for good.
pub(super) fn can_be_continued() -> bool {
    getsid(None).is_ok_and(|session| session != nix::unistd::getpid()) && nix::unistd::getpid().as_raw() != 1
}

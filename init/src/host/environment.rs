//! The two things that the command must find otherwise in its environment than we did.

use std::{env, ffi::CStr, io::Write, process};

const LISTEN_PID: &CStr = c"LISTEN_PID";
const LISTEN_PIDFDID: &CStr = c"LISTEN_PIDFDID";

/// Tells an init inside the command that this one drains already: two would serve twice as long as was asked for.
pub(super) fn tell_that_we_drain() {
    // SAFETY: we have one thread, which is here.
    #[expect(unsafe_code, reason = "another thread could read the environment meanwhile, and there is none")]
    unsafe {
        env::set_var("INIT_DRAIN", "0");
        env::remove_var("INIT_DNS_NAME");
    }
}

/// Whether sockets were passed to this process (`sd_listen_fds`(3)). They are for the command, which takes them only if it
/// finds its own number beside them.
pub(super) fn has_sockets() -> bool {
    env::var("LISTEN_PID").is_ok_and(|pid| pid == process::id().to_string())
}

/// Makes the calling process the one that sockets were passed to. Called in the child between fork and exec.
pub(super) fn take_sockets() {
    let pid = nix::unistd::getpid().as_raw();
    let mut text = [0_u8; 12];
    // Cannot fail: a process number has ten digits at the most.
    let _ = write!(text.as_mut_slice(), "{pid}");
    // SAFETY: the child of a process with one thread may do all that its parent might; the names are C strings, and so is
    // the text, which ends with a zero.
    #[expect(unsafe_code, reason = "std holds its lock on the environment while it starts a process")]
    unsafe {
        libc::setenv(LISTEN_PID.as_ptr(), text.as_ptr().cast(), 1);
        // The same said by another number, which we cannot know before the command runs.
        libc::unsetenv(LISTEN_PIDFDID.as_ptr());
    }
}

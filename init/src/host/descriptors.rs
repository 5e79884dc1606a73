//! Descriptors beyond stdin, stdout and stderr that we were started with. They are for the child.

use std::os::fd::RawFd;

/// Without /proc, as many as a process has at the most by default on old systems.
const GUESS: RawFd = 256;

/// Those that are open now and will reach the child. To be called before any of our own is open.
pub(super) fn inherited() -> Vec<RawFd> {
    let candidates: Vec<RawFd> = match std::fs::read_dir("/proc/self/fd") {
        Ok(open) => open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect(),
        Err(_) => (3..GUESS).collect(),
    };
    candidates.into_iter().filter(|&descriptor| descriptor > 2 && reaches_child(descriptor)).collect()
}

/// Whether it is open and stays open across exec. Rust's own descriptors do not.
fn reaches_child(descriptor: RawFd) -> bool {
    // SAFETY: F_GETFD takes a number and touches no memory of ours; a closed descriptor is an error, not a fault.
    #[expect(unsafe_code, reason = "nix's fcntl wants a descriptor that is known to be open")]
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// Closes our copies.
pub(super) fn close(descriptors: &[RawFd]) {
    for &descriptor in descriptors {
        // SAFETY: it was open when we started, before anything of ours was, so nothing of ours has this number.
        #[expect(unsafe_code, reason = "nobody owns a descriptor that was inherited")]
        unsafe {
            libc::close(descriptor);
        }
    }
}

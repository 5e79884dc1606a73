//! Descriptors beyond stdin, stdout and stderr that we were started with. They are for the child.

use std::os::fd::RawFd;

/// The first that is neither stdin, stdout nor stderr.
const FIRST: RawFd = 3;

/// Without `close_range` (before Linux 5.9, or forbidden), as many as a process has at the most by default.
const MOST: RawFd = 1024;

/// Closes them: held here, they would keep pipes and sockets open after the child's end. To be called once the child has
/// them, and before we open any of our own.
pub(super) fn close_inherited() {
    // SAFETY: it takes three numbers, and none of these descriptors is ours.
    #[expect(unsafe_code, reason = "neither std nor nix has close_range")]
    let result = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
    if result != 0 {
        (FIRST..MOST).for_each(close);
    }
}

fn close(descriptor: RawFd) {
    // SAFETY: if it is open, it was inherited, so nothing of ours has this number.
    #[expect(unsafe_code, reason = "nobody owns a descriptor that was inherited")]
    unsafe {
        libc::close(descriptor);
    }
}

//! The memory that starting has taken and watching does not need.

use std::ffi::c_void;

use nix::unistd::{SysconfVar, sysconf};

#[expect(unsafe_code, reason = "the linker's own names for where the program's code begins and ends")]
unsafe extern "C" {
    safe static __executable_start: u8;
    safe static etext: u8;
}

/// Gives back the pages of our own code: most of it reads flags or tells what they mean, and that is over. What is used
/// again comes back from the page cache.
pub(super) fn give_back_code() {
    let (start, end) = (&raw const __executable_start as usize, &raw const etext as usize);
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| usize::try_from(size).ok());
    let Some(page) = page else { return };
    let start = start.next_multiple_of(page);
    let end = end / page * page;
    let advise = |advice| {
        // SAFETY: these pages are only ever read, and each caller says why its advice leaves what they hold as it is.
        #[expect(unsafe_code, reason = "it takes an address")]
        let result = unsafe { libc::madvise(start as *mut c_void, end.saturating_sub(start), advice) };
        result == 0
    };
    // Only anonymous memory takes this advice, which means something to our children alone and is taken back at once: a
    // program that a packer has unpacked is there, and dropped it would be gone.
    if advise(libc::MADV_WIPEONFORK) {
        advise(libc::MADV_KEEPONFORK);
        return;
    }
    // Mapped from a file, in which the kernel finds again what it drops (madvise(2)).
    advise(libc::MADV_DONTNEED);
}

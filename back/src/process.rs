//! What a fault does to the whole process.

use std::sync::{Mutex, PoisonError};

use tokio::task::yield_now;
use tracing::warn;

/// Memory that was taken and is never given back.
static LEAKED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Ends the process at once, as a crash does: nothing is finished.
#[expect(clippy::disallowed_methods, reason = "nothing is finished: that is what it is for")]
pub(crate) fn exit(code: u8) -> ! {
    console::log::flush();
    std::process::exit(code.into())
}

/// Ends the process by a signal: a handler of ours or of Rust's own, which expects that a fault comes again, is passed by.
pub(crate) fn raise(signal: i32) {
    console::log::flush();
    if let Err(error) = signal_hook::low_level::emulate_default_handler(signal) {
        warn!(signal, %error, "the signal could not be sent");
    }
}

/// Takes so much memory, and writes to it so that it is really taken. Requests are answered in between.
pub(crate) async fn leak(mebibytes: u64) {
    const MEBIBYTE: usize = 1024 * 1024;
    for _ in 0..mebibytes {
        let piece = vec![1; MEBIBYTE];
        LEAKED.lock().unwrap_or_else(PoisonError::into_inner).push(piece);
        yield_now().await;
    }
}

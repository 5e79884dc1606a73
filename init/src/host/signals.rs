//! The signals that come to us, as one stream.
//!
//! Those that ask for a stop have handlers. All others stay blocked and are read from a descriptor: nothing has to be set
//! up for each, a burst of dead children costs one read each, and the kernel keeps every one of several equal real-time
//! signals, where a handler with a flag makes them one.

use std::{
    fs::File,
    io::{self, Read},
    mem::ManuallyDrop,
    os::fd::FromRawFd,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::stream::{self, Stream, StreamExt};
use signal_hook::consts::{SIGCHLD, SIGTTIN, SIGTTOU};
use tokio::io::{Interest, unix::AsyncFd};

use super::inherited::{SignalSet, SignalState, block};
use crate::signal::Signal;

/// Every signal that is passed on, and SIGCHLD.
pub(super) struct Signals {
    /// Never dropped: the handlers write to its pipe for as long as the process lives, and with the other end closed each
    /// of them would raise SIGPIPE.
    stream: ManuallyDrop<Pin<Box<dyn Stream<Item = i32>>>>,
    /// What we were started with, which whatever we start gets.
    inherited: SignalState,
    /// Those that stay blocked for as long as we live.
    blocked: SignalSet,
}

impl Signals {
    /// Takes every signal from here on, those included that are waiting. To be called with all of them blocked.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, such as no descriptor left.
    pub(super) fn new(inherited: SignalState, stop_on: &[Signal], has_session: bool) -> io::Result<Self> {
        let passed_on: SignalSet = SignalSet::ALL.iter().filter(|&signal| is_passed_on(signal, has_session)).collect();
        let stops = stop_on.iter().map(|signal| signal.number()).filter(|&signal| passed_on.contains(signal));
        let handled: SignalSet = stops.filter(|&signal| is_standard(signal)).collect();
        let inherited = inherited.noting(handled);
        let deciding = signal_hook_tokio::Signals::new(handled.iter())?;
        let queue = queue(passed_on.with(SignalSet::of(SIGCHLD)).without(handled))?;
        // SAFETY: a File owns its descriptor, which is the same one until it is dropped.
        #[expect(unsafe_code, reason = "whose descriptor it is cannot be said in types")]
        let mut queue = unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) }?;
        // In turns, so that a flood of one kind does not keep the other waiting.
        let stream = stream::select(deciding, stream::poll_fn(move |context| next(&mut queue, context)));
        // A fault is ours, and must end us.
        let faults = [libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV].into_iter().collect();
        let blocked = SignalSet::ALL.without(handled).without(faults);
        Ok(Self { stream: ManuallyDrop::new(Box::pin(stream)), inherited, blocked })
    }

    /// The state that the command, and whatever else we start, must find.
    pub(super) const fn inherited(&self) -> SignalState {
        self.inherited
    }

    /// Lets the handlers run. What has no handler stays blocked: what our own writes bring about (SIGPIPE, SIGXFSZ,
    /// SIGTTOU) must neither stop nor end us.
    pub(super) fn unblock(&self) {
        block(self.blocked);
    }

    /// The next one. Dropped before it is ready, it loses none.
    pub(super) async fn next(&mut self) -> i32 {
        match self.stream.next().await {
            Some(signal) => signal,
            // The streams end when somebody closes their handles, and nobody has one.
            None => std::future::pending().await,
        }
    }
}

const fn is_standard(signal: i32) -> bool {
    signal < 32
}

fn is_passed_on(signal: i32, has_session: bool) -> bool {
    match signal {
        // A terminal can stop us only in the session that we have let go.
        SIGTTIN | SIGTTOU => has_session,
        signal => !Signal::new(signal).is_kept(),
    }
}

/// A descriptor from which these signals are read, one by one, as long as they are blocked (signalfd(2)).
fn queue(signals: SignalSet) -> io::Result<File> {
    // SAFETY: the pointer is to a live local of the size that the third argument says; -1 asks for a new descriptor.
    #[expect(unsafe_code, reason = "nix's signalfd takes the C library's set, which leaves signals out")]
    let descriptor = unsafe {
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        libc::syscall(libc::SYS_signalfd4, -1, &raw const signals, size_of::<SignalSet>(), flags)
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = i32::try_from(descriptor).expect("descriptors are ints");
    // SAFETY: the kernel has just made it, for us alone.
    #[expect(unsafe_code, reason = "a new descriptor is a number")]
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

fn next(queue: &mut AsyncFd<File>, context: &mut Context<'_>) -> Poll<Option<i32>> {
    loop {
        let Ok(mut ready) = ready!(queue.poll_read_ready_mut(context)) else { return Poll::Ready(None) };
        let mut record = [0; size_of::<libc::signalfd_siginfo>()];
        match ready.get_inner_mut().read_exact(&mut record) {
            // The kernel gives whole records, and the number is the first field.
            Ok(()) => return Poll::Ready(Some(i32::from_ne_bytes([record[0], record[1], record[2], record[3]]))),
            Err(_) => ready.clear_ready(),
        }
    }
}

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
use nix::unistd::getpid;
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
        // Those of which the sender matters are read, since a handler is not told.
        let has_handler = |signal: &Signal| signal.is_standard() && !signal.is_kept() && !signal.may_be_own_doing();
        let handled: SignalSet = stop_on.iter().copied().filter(has_handler).map(Signal::number).collect();
        let is_read = |&signal: &i32| !Signal::new(signal).is_kept() || signal == SIGCHLD;
        let read: SignalSet = SignalSet::ALL.without(handled).iter().filter(is_read).collect();
        let inherited = inherited.noting(handled);
        let deciding = signal_hook_tokio::Signals::new(handled.iter())?;
        let queue = queue(read)?;
        // SAFETY: a File owns its descriptor, which is the same one until it is dropped.
        #[expect(unsafe_code, reason = "whose descriptor it is cannot be said in types")]
        let mut queue = unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) }?;
        // In turns, so that a flood of one kind does not keep the other waiting.
        let stream = stream::select(deciding, stream::poll_fn(move |context| next(&mut queue, has_session, context)));
        // A fault of ours ends us all the same: the kernel sees to that, blocked or not.
        let blocked = SignalSet::ALL.without(handled);
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

fn next(queue: &mut AsyncFd<File>, has_session: bool, context: &mut Context<'_>) -> Poll<Option<i32>> {
    loop {
        let Ok(mut ready) = ready!(queue.poll_read_ready_mut(context)) else { return Poll::Ready(None) };
        let mut record = [0; size_of::<libc::signalfd_siginfo>()];
        match ready.get_inner_mut().read_exact(&mut record) {
            // The kernel gives whole records.
            Ok(()) => {
                let received = Received::read(&record);
                if !received.is_own_doing(has_session) {
                    return Poll::Ready(Some(received.signal));
                }
            }
            Err(_) => ready.clear_ready(),
        }
    }
}

/// What is used of `struct signalfd_siginfo` (signalfd(2)).
struct Received {
    signal: i32,
    /// Above zero if the kernel sent it by itself.
    code: i32,
    /// Who sent it, or 0 for a process of another PID namespace.
    pid: i32,
}

impl Received {
    fn read(record: &[u8]) -> Self {
        let field = |at: usize| i32::from_ne_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
        Self { signal: field(0), code: field(8), pid: field(12) }
    }

    /// Whether it is a consequence of what we do, and nobody's wish.
    ///
    /// In a session that is not the terminal's any more, the terminal means the child.
    fn is_own_doing(&self, has_session: bool) -> bool {
        let is_terminals = [SIGTTIN, SIGTTOU].contains(&self.signal);
        Signal::new(self.signal).may_be_own_doing()
            && !(has_session && is_terminals)
            && (self.code > 0 || self.pid == getpid().as_raw())
    }
}

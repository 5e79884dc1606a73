//! A timer that is on time: the runtime's own counts whole milliseconds, which is two requests at 2,000 a second.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

/// One timer of the kernel's.
#[derive(Debug)]
pub(super) struct Timer {
    fd: AsyncFd<OwnedFd>,
    /// When it will go off.
    set_to: Option<Instant>,
}

impl Timer {
    pub(super) fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "what replaces it is unsafe, for descriptors that could change: an OwnedFd stays open, and the same"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Self { fd, set_to: None })
    }

    /// Waits until `instant`. Whoever drops the future and asks again for the same instant costs no system call.
    pub(super) async fn wait_until(&mut self, instant: Instant) -> io::Result<()> {
        loop {
            let left = instant.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            if self.set_to != Some(instant) {
                timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once_in(left))?;
                self.set_to = Some(instant);
            }
            let mut guard = self.fd.readable().await?;
            let mut expirations = [0; 8];
            if guard.try_io(|fd| Ok(rustix::io::read(fd, &mut expirations)?)).is_ok_and(|read| read.is_ok()) {
                self.set_to = None;
            }
        }
    }
}

fn once_in(left: Duration) -> Itimerspec {
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    // What is too long for the kernel is longer than any run.
    Itimerspec { it_interval: never, it_value: left.try_into().unwrap_or(never) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_never_goes_off_early_and_can_be_set_anew() {
        let mut timer = Timer::new().unwrap();
        let start = Instant::now();
        for after in [300, 700, 700, 2000, 100] {
            let instant = start + Duration::from_micros(after);
            timer.wait_until(instant).await.unwrap();
            assert!(Instant::now() >= instant);
        }
        // It was set to a far instant, and that is not what is wanted any more.
        let far = timer.wait_until(start + Duration::from_mins(1));
        assert!(tokio::time::timeout(Duration::from_millis(1), far).await.is_err());
        let soon = Instant::now() + Duration::from_millis(2);
        tokio::time::timeout(Duration::from_secs(5), timer.wait_until(soon)).await.unwrap().unwrap();
    }
}

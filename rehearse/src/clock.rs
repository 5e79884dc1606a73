//! The times of a run and those of the machine. Pure but for [`Clock::now`].

use std::time::Duration;

use tokio::time::Instant;

/// A clock of the rehearsed service: it stands at zero when the run starts, and at `speed` 10 it lives through ten seconds in
/// one.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    speed: f64,
}

impl Clock {
    /// A clock that stood at zero at `start`.
    ///
    /// `speed` is above zero: whoever reads it from a command line checks that.
    #[must_use]
    pub fn new(start: Instant, speed: f64) -> Self {
        debug_assert!(speed.is_finite() && speed > 0.0, "a speed of {speed}");
        Self { start, speed }
    }

    /// How many of the service's seconds pass in one.
    #[must_use]
    pub const fn speed(&self) -> f64 {
        self.speed
    }

    /// What it shows.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.at(Instant::now())
    }

    /// What it shows at an instant. Zero before the start.
    #[must_use]
    pub fn at(&self, instant: Instant) -> Duration {
        self.lived(instant.saturating_duration_since(self.start))
    }

    /// The instant at which it shows this.
    #[must_use]
    pub fn until(&self, model: Duration) -> Instant {
        self.start + self.real(model)
    }

    /// How long a time of the service takes on this machine.
    #[must_use]
    pub fn real(&self, model: Duration) -> Duration {
        model.div_f64(self.speed)
    }

    /// How much of the service's time passes in a time of this machine.
    #[must_use]
    pub fn lived(&self, real: Duration) -> Duration {
        real.mul_f64(self.speed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn ten_of_its_seconds_pass_in_one_at_speed_ten() {
        let start = Instant::now();
        let clock = Clock::new(start, 10.0);
        assert_eq!(clock.now(), secs(0));
        tokio::time::advance(secs(3)).await;
        assert_eq!(clock.now(), secs(30));
        assert_eq!(clock.until(secs(50)), start + secs(5));
        assert_eq!(clock.at(start + secs(5)), secs(50));
        assert_eq!((clock.real(secs(60)), clock.lived(secs(6))), (secs(6), secs(60)));
    }

    #[tokio::test(start_paused = true)]
    async fn it_shows_zero_before_the_start() {
        let clock = Clock::new(Instant::now() + secs(5), 2.0);
        assert_eq!(clock.now(), secs(0));
        tokio::time::advance(secs(6)).await;
        assert_eq!(clock.now(), secs(2));
    }
}

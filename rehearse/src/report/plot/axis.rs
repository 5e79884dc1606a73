//! The time of a run as places on a drawing, and as slices to count in.

use std::time::Duration;

use crate::record::Record;

/// All drawings are that wide, in units of their own.
pub(in crate::report) const WIDTH: f64 = 1000.0;
/// What is left of the drawn area, for the names of values.
pub(in crate::report) const LEFT: f64 = 48.0;
/// What is right of it, for half of the name of the last tick.
pub(in crate::report) const RIGHT: f64 = 16.0;
/// What is below it, for the names of ticks.
pub(in crate::report) const BOTTOM: f64 = 22.0;

/// Slices of time, in seconds. One of them is used for the whole of a run.
const SLICES: [u64; 12] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
/// At most so many slices: more of them could not be told apart, and a file of a run of hours must stay small.
const MOST: u64 = 240;

/// The axis of time that all drawings of a run share.
pub(in crate::report) struct Axis {
    length: Duration,
    slice: u64,
}

impl Axis {
    pub(in crate::report) fn new(record: &Record) -> Self {
        let seen = record.events.iter().map(|event| event.at);
        // Of a run that was interrupted the length may be unknown.
        let last = seen.chain(record.requests.iter().map(|request| request.done)).max().unwrap_or_default();
        let length = record.length.max(last).max(Duration::from_secs(1));
        let whole = length.as_secs() + u64::from(length.subsec_nanos() > 0);
        let fits = SLICES.into_iter().find(|slice| whole.div_ceil(*slice) <= MOST);
        Self { length, slice: fits.unwrap_or(whole.div_ceil(MOST)) }
    }

    /// How long a slice is, in seconds.
    pub(in crate::report) fn slice(&self) -> u64 {
        self.slice
    }

    /// How many slices there are.
    pub(in crate::report) fn slices(&self) -> usize {
        self.slice_of(self.length.saturating_sub(Duration::from_nanos(1))) + 1
    }

    /// The slice in which that time lies. What comes after the end lies in the last one.
    pub(in crate::report) fn slice_of(&self, at: Duration) -> usize {
        let end = self.length.saturating_sub(Duration::from_nanos(1));
        usize::try_from(at.min(end).as_secs() / self.slice).expect("there are a few hundred slices")
    }

    /// When that slice begins.
    pub(in crate::report) fn start(&self, slice: usize) -> Duration {
        Duration::from_secs(u64::try_from(slice).expect("there are a few hundred slices") * self.slice)
    }

    /// Where that time is drawn.
    pub(in crate::report) fn x(&self, at: Duration) -> f64 {
        let part = at.min(self.length).as_secs_f64() / self.length.as_secs_f64();
        LEFT + part * (WIDTH - LEFT - RIGHT)
    }

    /// Where that slice is drawn: its beginning and its width.
    pub(in crate::report) fn place(&self, slice: usize) -> (f64, f64) {
        let (from, to) = (self.x(self.start(slice)), self.x(self.start(slice + 1)));
        (from, to - from)
    }

    /// Where the axis has names.
    pub(in crate::report) fn ticks(&self) -> Vec<Duration> {
        let step =
            SLICES.into_iter().find(|step| self.length.as_secs() / step <= 14).unwrap_or(self.length.as_secs() / 14);
        (0..=self.length.as_secs() / step).map(|tick| Duration::from_secs(tick * step)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(millis: u64) -> Axis {
        Axis::new(&Record { length: Duration::from_millis(millis), ..Record::default() })
    }

    #[test]
    fn a_run_of_any_length_has_a_few_hundred_slices_at_most() {
        for millis in [0, 1, 999, 1000, 1001, 240_000, 240_001, 3_600_000, 86_400_000, 864_000_000_000] {
            let axis = axis(millis);
            assert!((1..=240).contains(&axis.slices()), "{millis}: {}", axis.slices());
            assert_eq!(axis.slice_of(Duration::MAX), axis.slices() - 1, "{millis}");
            assert!((1..=15).contains(&axis.ticks().len()), "{millis}: {}", axis.ticks().len());
        }
    }

    #[test]
    fn each_second_of_a_short_run_is_a_slice() {
        let axis = axis(90_500);
        assert_eq!((axis.slice(), axis.slices()), (1, 91));
        assert_eq!(axis.slice_of(Duration::from_millis(1999)), 1);
        assert_eq!(axis.start(2), Duration::from_secs(2));
    }
}

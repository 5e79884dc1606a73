//! Shares, counts and drains, short enough for a cell.

use std::time::Duration;

use crate::{
    report::words::{self, count},
    simulate::Forecast,
};

/// How many deploys of a cell fail a request, as one of a few colours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Level {
    /// None of those that were simulated.
    None,
    /// No more than one of a hundred.
    Rare,
    /// No more than one of twenty.
    Seldom,
    /// No more than one of five.
    Some,
    /// No more than half.
    Many,
    /// No more than nine of ten.
    Most,
    /// More than that.
    All,
}

impl Level {
    /// From the least.
    pub(super) const ALL: [Self; 7] =
        [Self::None, Self::Rare, Self::Seldom, Self::Some, Self::Many, Self::Most, Self::All];

    /// That of a share of deploys.
    pub(super) fn of(share: f64) -> Self {
        match share {
            ..=0.0 => Self::None,
            ..=0.01 => Self::Rare,
            ..=0.05 => Self::Seldom,
            ..=0.2 => Self::Some,
            ..=0.5 => Self::Many,
            ..=0.9 => Self::Most,
            _ => Self::All,
        }
    }

    /// Its name in the style sheet.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::None => "s0",
            Self::Rare => "s1",
            Self::Seldom => "s2",
            Self::Some => "s3",
            Self::Many => "s4",
            Self::Most => "s5",
            Self::All => "s6",
        }
    }

    /// Which shares it stands for.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Rare => "up to 1%",
            Self::Seldom => "1–5%",
            Self::Some => "5–20%",
            Self::Many => "20–50%",
            Self::Most => "50–90%",
            Self::All => "over 90%",
        }
    }
}

/// A share in percent. What is not nothing is never written as nothing, and what is not all never as all.
pub(super) fn share(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        ..=0.0 => "0".to_owned(),
        ..0.1 => "<0.1%".to_owned(),
        ..9.95 => format!("{percent:.1}%"),
        ..99.5 => format!("{percent:.0}%"),
        ..100.0 => ">99%".to_owned(),
        _ => "100%".to_owned(),
    }
}

/// A mean number of requests, in no more than six characters.
pub(super) fn failures(mean: f64) -> String {
    match mean {
        ..=0.0 => "0".to_owned(),
        ..0.05 => "<0.1".to_owned(),
        ..9.95 => format!("{mean:.1}"),
        ..99_999.5 => count(whole(mean)),
        ..999_500.0 => format!("{:.0}k", mean / 1e3),
        _ => format!("{:.1}M", mean / 1e6),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count below 100,000")]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

/// A setting in seconds, to the millisecond if it needs that.
pub(super) fn time(duration: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "no setting has so many milliseconds")]
    let millis = duration.as_millis() as f64;
    format!("{} s", millis / 1e3)
}

/// The least drain by law, rounded up to a whole second: a shorter one would not do.
pub(super) fn law_in_words(law: Option<f64>) -> String {
    // A millionth of a second is what is written of it to a file.
    law.map_or_else(|| "none".to_owned(), |law| format!("{:.0} s", (law - 1e-6).ceil().max(0.0) + 0.0))
}

/// How many of the deploys of a cell failed a request.
pub(super) fn deploys_failing(forecast: &Forecast) -> String {
    let all = number(forecast.deploys);
    if forecast.worst == 0 {
        return format!("none of {all} deploys failed a request");
    }
    format!("{} of {all} deploys failed a request", share(forecast.any))
}

/// How often a thing may still happen that none of so many deploys showed, with a confidence of 95 %: three in so many, since
/// (1 − 3/n)ⁿ is less than 0.05.
pub(super) fn at_most(deploys: usize) -> String {
    words::share(3, u64::try_from(deploys).unwrap_or(u64::MAX).max(3))
}

/// A number with its thousands apart.
pub(super) fn number(number: usize) -> String {
    count(u64::try_from(number).unwrap_or(u64::MAX))
}

/// A number of things.
pub(super) fn several(of: usize, one: &str, many: &str) -> String {
    format!("{} {}", number(of), if of == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_nothing_or_all_only_where_it_is() {
        assert_eq!(
            [0.0, 0.0001, 0.001, 0.0449, 0.45, 0.9899, 0.9999, 1.0].map(share),
            ["0", "<0.1%", "0.1%", "4.5%", "45%", "99%", ">99%", "100%"]
        );
        let levels = [0.0, 0.000_01, 0.01, 0.05, 0.2, 0.5, 0.9, 0.91].map(|share| Level::of(share).class());
        assert_eq!(levels, ["s0", "s1", "s1", "s2", "s3", "s4", "s5", "s6"]);
    }

    #[test]
    fn a_mean_fits_into_a_cell() {
        let means = [0.0, 0.001, 0.44, 9.94, 9.96, 1234.4, 99_999.4, 123_456.0, 999_499.0, 12_345_678.0].map(failures);
        assert_eq!(means, ["0", "<0.1", "0.4", "9.9", "10", "1,234", "99,999", "123k", "999k", "12.3M"]);
    }

    #[test]
    fn a_least_drain_is_never_rounded_to_a_shorter_one() {
        assert_eq!([Some(0.0), Some(25.01), Some(26.0), None].map(law_in_words), ["0 s", "26 s", "26 s", "none"]);
    }

    #[test]
    fn settings_keep_what_they_were_given() {
        assert_eq!([15_000, 250, 1_500].map(|it| time(Duration::from_millis(it))), ["15 s", "0.25 s", "1.5 s"]);
    }

    #[test]
    fn what_was_not_seen_may_still_be() {
        assert_eq!([60, 1000, 3, 0].map(at_most), ["5.0%", "0.3%", "100.0%", "100.0%"]);
    }
}

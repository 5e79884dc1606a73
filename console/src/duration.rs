//! Durations on the command line.

use std::time::Duration;

/// A duration with units (`30s`, `1m30s`, `250ms`), or a number of seconds.
///
/// # Errors
///
/// What is wrong with `text`, and what was expected.
pub fn parse(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a duration such as 30s, 1m30s or 250ms, or a number of seconds";
    /// No sum of durations below this can overflow the clock.
    const LONGEST: Duration = Duration::from_hours(366 * 24);
    let parsed = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text).map_err(|error| format!("{error}: {EXPECTED}"))?,
    };
    if parsed > LONGEST {
        return Err(format!("longer than {}: {EXPECTED}", humantime::format_duration(LONGEST)));
    }
    Ok(parsed)
}

/// A duration as in [`parse`], but not zero: for times in which something has to happen.
///
/// # Errors
///
/// What is wrong with `text`, and what was expected.
pub fn positive(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        Duration::ZERO => Err("no time at all, so that nothing could be done in it: give one such as 1s".to_owned()),
        some => Ok(some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_units_and_a_bare_number_is_seconds() {
        for (text, expected) in
            [("30", 30_000), ("30s", 30_000), ("1m30s", 90_000), ("250ms", 250), ("0", 0), ("31622400", 31_622_400_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(expected)), "{text}");
        }
    }

    #[test]
    fn a_time_in_which_something_has_to_happen_is_not_zero() {
        assert_eq!(positive("1ns"), Ok(Duration::from_nanos(1)));
        for text in ["0", "0s", "0m0s"] {
            assert!(positive(text).unwrap_err().contains("such as 1s"), "{text}");
        }
        assert!(positive("soon").is_err());
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in
            ["", " ", "abc", "-1", "-1s", "1.5", "30 parsecs", "18446744073709551615", "31622401", "999999999999y", "s"]
        {
            let error = parse(text).unwrap_err();
            assert!(error.contains("such as 30s"), "{text:?}: {error}");
        }
    }

    #[test]
    fn whatever_is_written_means_what_it_says_or_is_refused() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..20_000 {
            let meant = Duration::from_millis(random.u64(0..=LONGEST_MILLIS));
            assert_eq!(parse(&humantime::format_duration(meant).to_string()), Ok(meant));
            let seconds = random.u64(..) >> random.u32(0..64);
            assert_eq!(parse(&seconds.to_string()).is_ok(), seconds <= LONGEST_MILLIS / 1000, "{seconds}");
            // Much that looks like a duration, and is none, or overflows.
            let letters = ['0', '1', '9', ' ', 's', 'm', 'h', 'd', 'y', '.', '-', '+', 'e', 'u', 'n', '\u{b5}', '\0'];
            let text: String = (0..random.usize(0..12)).filter_map(|_| random.choice(letters)).collect();
            match parse(&text) {
                Ok(read) => assert!(read <= Duration::from_millis(LONGEST_MILLIS), "{text:?}"),
                Err(error) => assert!(error.contains("such as 30s"), "{text:?}: {error}"),
            }
        }
    }

    const LONGEST_MILLIS: u64 = 366 * 24 * 3600 * 1000;
}

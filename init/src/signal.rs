//! A signal by number, as it goes from the kernel through the decisions and back.

use std::{fmt, str::FromStr};

use signal_hook::low_level::signal_name;

/// A signal number.
///
/// Not an enumeration: real-time signals have no names of their own, and they pass like any other (`docker stop`
/// of an image with `STOPSIGNAL SIGRTMIN+3` sends one).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Signal(i32);

impl Signal {
    /// Reload, by convention, or the terminal is gone.
    pub const HUP: Self = Self(signal_hook::consts::SIGHUP);
    /// Ctrl-C.
    pub const INT: Self = Self(signal_hook::consts::SIGINT);
    /// The end that cannot be refused.
    pub const KILL: Self = Self(signal_hook::consts::SIGKILL);
    /// The platform's request to stop.
    pub const TERM: Self = Self(signal_hook::consts::SIGTERM);
    /// Ctrl-Z.
    pub const TSTP: Self = Self(signal_hook::consts::SIGTSTP);
    /// The application's own meaning.
    pub const USR1: Self = Self(signal_hook::consts::SIGUSR1);
    /// The terminal has a new size.
    pub const WINCH: Self = Self(signal_hook::consts::SIGWINCH);

    /// The signal with this number.
    #[must_use]
    pub const fn new(number: i32) -> Self {
        Self(number)
    }

    /// Whether init keeps it to itself: nobody can catch KILL and STOP, CHLD is the news of a child, and 32 and 33 are the C
    /// library's.
    #[must_use]
    pub const fn is_kept(self) -> bool {
        use signal_hook::consts as number;
        matches!(self.0, number::SIGKILL | number::SIGSTOP | number::SIGCHLD | 32 | 33)
    }

    /// Whether it is none of the real-time signals.
    #[must_use]
    pub const fn is_standard(self) -> bool {
        self.0 < 32
    }

    /// Whether it may be a consequence of what init itself does, and then is nobody's wish: a fault, a write to a closed pipe
    /// or beyond a limit, the terminal's answer to a background job.
    #[must_use]
    pub const fn may_be_own_doing(self) -> bool {
        use signal_hook::consts as number;
        matches!(
            self.0,
            number::SIGBUS
                | number::SIGFPE
                | number::SIGILL
                | number::SIGSEGV
                | number::SIGPIPE
                | number::SIGXFSZ
                | number::SIGTTIN
                | number::SIGTTOU
        )
    }

    /// The number that the kernel knows it by.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }
}

/// The name of a standard signal, the two that `signal_hook` leaves out included.
fn name(number: i32) -> Option<&'static str> {
    match number {
        libc::SIGSTKFLT => Some("SIGSTKFLT"),
        libc::SIGPWR => Some("SIGPWR"),
        number => signal_name(number),
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (name(self.0), self.0) {
            (Some(name), _) => f.pad(name),
            (None, 34) => f.pad("SIGRTMIN"),
            (None, number @ 35..=64) => f.pad(&format!("SIGRTMIN+{}", number - 34)),
            (None, number) => f.pad(&format!("signal {number}")),
        }
    }
}

impl FromStr for Signal {
    type Err = String;

    /// A signal by name, with or without `SIG`, or by number. Real-time signals count from glibc's `SIGRTMIN`, 34, as
    /// Docker and systemd do.
    fn from_str(text: &str) -> Result<Self, String> {
        const REAL_TIME: (i32, i32) = (34, 64);
        let unknown =
            || format!("{text:?} is no signal: expected a name such as TERM or SIGRTMIN+3, or a number from 1 to 64");
        let name = text.to_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        if let Ok(number) = name.parse() {
            return if (1..=REAL_TIME.1).contains(&number) { Ok(Self(number)) } else { Err(unknown()) };
        }
        let offset = |text: &str| if text.is_empty() { Ok(0) } else { text[1..].parse::<i32>().map_err(|_| unknown()) };
        let number = if let Some(above) =
            name.strip_prefix("RTMIN").filter(|rest| rest.is_empty() || rest.starts_with('+'))
        {
            REAL_TIME.0.checked_add(offset(above)?)
        } else if let Some(below) = name.strip_prefix("RTMAX").filter(|rest| rest.is_empty() || rest.starts_with('-')) {
            REAL_TIME.1.checked_sub(offset(below)?)
        } else {
            (1..32).find(|&number| self::name(number).and_then(|full| full.strip_prefix("SIG")) == Some(name))
        };
        match number {
            Some(number) if number < 32 || (REAL_TIME.0..=REAL_TIME.1).contains(&number) => Ok(Self(number)),
            Some(_) | None => Err(unknown()),
        }
    }
}

/// A signal that is passed on as another one, or not at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rewrite {
    from: Signal,
    to: Option<Signal>,
}

impl Rewrite {
    /// The signal that is passed on as something else.
    #[must_use]
    pub const fn from(self) -> Signal {
        self.from
    }
}

impl FromStr for Rewrite {
    type Err = String;

    /// `FROM:TO`, each a signal; a TO of 0 swallows it.
    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text
            .split_once(':')
            .ok_or_else(|| format!("{text:?} is no rewrite: expected FROM:TO, such as TERM:QUIT"))?;
        let to = if to == "0" { None } else { Some(to.parse()?) };
        Ok(Self { from: from.parse()?, to })
    }
}

/// All rewrites. The last one for a signal counts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rewrites(Vec<Rewrite>);

impl Rewrites {
    /// These, in order.
    #[must_use]
    pub const fn new(rewrites: Vec<Rewrite>) -> Self {
        Self(rewrites)
    }

    /// What `signal` is passed on as. `None`: it is not.
    #[must_use]
    pub fn apply(&self, signal: Signal) -> Option<Signal> {
        self.0.iter().rev().find(|rewrite| rewrite.from == signal).map_or(Some(signal), |rewrite| rewrite.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_has_a_name_and_numbers_the_rest() {
        assert_eq!(Signal::TERM.to_string(), "SIGTERM");
        assert_eq!(Signal::new(37).to_string(), "SIGRTMIN+3");
        assert_eq!(Signal::new(33).to_string(), "signal 33");
    }

    #[test]
    fn a_signal_is_read_by_name_or_number() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("term", 15),
            ("15", 15),
            ("SIGRTMIN+3", 37),
            ("RTMIN", 34),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(text.parse(), Ok(Signal::new(number)), "{text}");
        }
    }

    #[test]
    fn what_is_no_signal_is_refused_with_the_value() {
        for text in ["", "SIG", "TERMS", "0", "65", "-1", "RTMIN+31", "RTMAX-31", "RTMIN+x", "TERM+1", "1.5"] {
            let error = text.parse::<Signal>().unwrap_err();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn a_name_is_read_as_it_is_shown() {
        for number in (1..32).chain(34..=64) {
            assert_eq!(Signal::new(number).to_string().parse(), Ok(Signal::new(number)));
        }
    }

    #[test]
    fn the_last_rewrite_of_a_signal_counts_and_0_swallows() {
        let rewrites = ["TERM:QUIT", "HUP:0", "15:USR1"].map(|text| text.parse().unwrap());
        let rewrites = Rewrites::new(rewrites.to_vec());
        assert_eq!(rewrites.apply(Signal::TERM), Some(Signal::USR1));
        assert_eq!(rewrites.apply(Signal::HUP), None);
        assert_eq!(rewrites.apply(Signal::INT), Some(Signal::INT));
        for text in ["", "TERM", "TERM:", "0:TERM", "TERM:QUIT:HUP"] {
            assert!(text.parse::<Rewrite>().is_err(), "{text:?}");
        }
    }
}

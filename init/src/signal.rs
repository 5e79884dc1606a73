//! A signal by number, as it goes from the kernel through the decisions and back.

use std::fmt;

use signal_hook::low_level::signal_name;

/// A signal number.
///
/// Not an enumeration: real-time signals have no names of their own, and they must pass like any other (`docker stop`
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
    /// The application's own meaning.
    pub const USR1: Self = Self(signal_hook::consts::SIGUSR1);
    /// The terminal has a new size.
    pub const WINCH: Self = Self(signal_hook::consts::SIGWINCH);

    /// The signal with this number.
    #[must_use]
    pub const fn new(number: i32) -> Self {
        Self(number)
    }

    /// The number that the kernel knows it by.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match signal_name(self.0) {
            Some(name) => f.write_str(name),
            None => write!(f, "signal {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_has_a_name_and_numbers_the_rest() {
        assert_eq!(Signal::TERM.to_string(), "SIGTERM");
        assert_eq!(Signal::new(37).to_string(), "signal 37");
    }
}

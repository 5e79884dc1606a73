//! The phases of a service on its way out. Pure.

/// What somebody asks of a service that is running.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asked {
    /// SIGUSR1, which `init --drain-signal USR1` sends: we are about to be stopped, and callers should look for another task.
    LameDuck,
    /// SIGTERM, or SIGINT from a terminal.
    Stop,
}

/// How a service treats its callers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Phase {
    /// Everybody is welcome.
    #[default]
    Serving,
    /// Everybody is answered, with `Connection: close`: pooled connections empty themselves, and who resolves our name
    /// again gets another task.
    LameDuck,
    /// Nobody new; those in flight are finished.
    Stopping,
    /// Asked to stop once more: somebody is waiting, so those in flight are cut off.
    Leaving,
}

impl Phase {
    /// The phase after somebody asked. It never goes back.
    #[must_use]
    pub const fn after(self, asked: Asked) -> Self {
        match (self, asked) {
            (Self::Serving | Self::LameDuck, Asked::LameDuck) => Self::LameDuck,
            (Self::Serving | Self::LameDuck, Asked::Stop) | (Self::Stopping, Asked::LameDuck) => Self::Stopping,
            (Self::Stopping, Asked::Stop) | (Self::Leaving, Asked::LameDuck | Asked::Stop) => Self::Leaving,
        }
    }

    /// Whether new connections are accepted.
    #[must_use]
    pub const fn accepts(self) -> bool {
        match self {
            Self::Serving | Self::LameDuck => true,
            Self::Stopping | Self::Leaving => false,
        }
    }

    /// Whether a connection may serve another request after this one.
    #[must_use]
    pub const fn keeps_alive(self) -> bool {
        match self {
            Self::Serving => true,
            Self::LameDuck | Self::Stopping | Self::Leaving => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lame_duck_accepts_but_keeps_no_connection() {
        let phase = Phase::Serving.after(Asked::LameDuck);
        assert_eq!((phase, phase.accepts(), phase.keeps_alive()), (Phase::LameDuck, true, false));
    }

    #[test]
    fn a_stop_ends_accepting_with_or_without_a_lame_duck() {
        for before in [Phase::Serving, Phase::LameDuck] {
            let phase = before.after(Asked::Stop);
            assert_eq!((phase, phase.accepts(), phase.keeps_alive()), (Phase::Stopping, false, false));
        }
    }

    #[test]
    fn a_second_stop_does_not_wait_for_those_in_flight() {
        assert_eq!(Phase::Stopping.after(Asked::Stop), Phase::Leaving);
    }

    #[test]
    fn no_phase_goes_back() {
        assert_eq!(Phase::LameDuck.after(Asked::LameDuck), Phase::LameDuck);
        assert_eq!(Phase::Stopping.after(Asked::LameDuck), Phase::Stopping);
        for asked in [Asked::LameDuck, Asked::Stop] {
            assert_eq!(Phase::Leaving.after(asked), Phase::Leaving);
        }
    }
}

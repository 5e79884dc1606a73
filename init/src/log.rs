//! Log lines on stderr that never block and never end PID 1.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use tracing::level_filters::LevelFilter;

/// The longest piece that a pipe takes whole, so that a line is written in one go or not at all (`PIPE_BUF` of Linux).
const PIPE_BUF: usize = 4096;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Sends all events at `level` and above to stderr.
pub fn start(format: LogFormat, level: LevelFilter) {
    let terminal = io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt()
        .with_writer(|| Stderr)
        .with_max_level(level)
        .with_ansi(terminal)
        .with_target(false)
        // It would complain about a broken stderr on stderr.
        .log_internal_errors(false);
    if json {
        lines.json().flatten_event(true).init();
    } else {
        lines.init();
    }
}

/// Tells a person who reads stderr. A stderr that is broken or full is not told: there is nobody to read it.
pub fn tell(message: &dyn std::fmt::Display) {
    let _ = Stderr.write_all(format!("init: {message}\n").as_bytes());
}

/// Standard error, dropping what cannot be written at once.
///
/// The descriptor is not made non-blocking, as it is shared with the child, which must not see such a change.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let writable = poll(&mut ready, PollTimeout::ZERO).is_ok()
            && ready[0].revents().is_some_and(|events| events == PollFlags::POLLOUT);
        if writable {
            let piece = &line[..line.len().min(PIPE_BUF)];
            let _ = stderr.lock().write_all(piece);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

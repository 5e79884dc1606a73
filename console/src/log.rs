//! Log lines on stderr: text for people, JSON for machines. Nobody waits for them: a line that cannot be written at once is
//! dropped, since a log that nobody reads must stop neither a request nor PID 1.

use std::{
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
};

use clap::ValueEnum;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::level_filters::LevelFilter;

/// The longest piece that a pipe takes whole (`PIPE_BUF` of Linux). What is longer is cut.
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

/// Sends all events at `level` and above to stderr. To be called once: a second call panics.
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
        // Flat, so that `stats count() by task_id` finds the field at the top.
        lines.json().flatten_event(true).init();
    } else {
        lines.init();
    }
}

/// A level by name.
///
/// # Errors
///
/// The names that there are.
pub fn level(text: &str) -> Result<LevelFilter, &'static str> {
    match text {
        "off" => Ok(LevelFilter::OFF),
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        _ => Err("expected off, error, warn, info or debug"),
    }
}

/// Tells a person who reads stderr: one line, as it is.
pub fn tell(line: &str) {
    let _ = Stderr.write_all(format!("{line}\n").as_bytes());
}

/// Standard error, dropping what cannot be written at once.
///
/// The descriptor is not made non-blocking, as it is shared with other processes, which must not see such a change. One
/// that fills the pipe between our look and our write can still make us wait for its reader.
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

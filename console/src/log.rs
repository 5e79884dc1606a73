//! Log lines on stderr: text for people, JSON for machines. Nobody waits for them: a line that cannot be written at once is
//! dropped, since a log that nobody reads must stop neither a request nor PID 1.

use std::{
    io::{self, IoSlice, IsTerminal, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::OnceLock,
};

use clap::ValueEnum;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::{
    fs::{FileType, fstat},
    io::{Errno, ReadWriteFlags, pwritev2},
};
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
/// The descriptor is not made non-blocking, as it is shared with other processes, which must not see such a change.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr().lock();
        let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let writable = poll(&mut ready, PollTimeout::ZERO).is_ok()
            && ready[0].revents().is_some_and(|events| events == PollFlags::POLLOUT);
        if writable {
            write_now(stderr.as_fd(), stderr_is_pipe(), &line[..line.len().min(PIPE_BUF)]);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to a descriptor that had room a moment ago, or drops the piece if somebody else has filled the pipe since.
///
/// Linux before 6.4 cannot be told not to wait for a pipe, and there we may have to, until it is read.
fn write_now(stderr: BorrowedFd<'_>, is_pipe: bool, piece: &[u8]) {
    // Of other kinds only a pipe fills up behind our back; and a file may refuse at once what it takes a moment later.
    let written = if is_pipe { write_to_pipe(stderr, piece) } else { Err(Errno::OPNOTSUPP) };
    if matches!(written, Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)) {
        let _ = rustix::io::write(stderr, piece);
    }
}

fn write_to_pipe(pipe: BorrowedFd<'_>, piece: &[u8]) -> Result<usize, Errno> {
    /// Where the descriptor stands, for what has such a place (pwritev2(2)).
    const HERE: u64 = u64::MAX;
    pwritev2(pipe, &[IoSlice::new(piece)], HERE, ReadWriteFlags::NOWAIT)
}

fn stderr_is_pipe() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| fstat(io::stderr()).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_fifo()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_somebody_has_filled_meanwhile_is_not_waited_for() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        if write_to_pipe(writer.as_fd(), b"") == Err(Errno::OPNOTSUPP) {
            return; // Linux before 6.4.
        }
        writer.write_all(&vec![b'x'; 65_536 - PIPE_BUF]).unwrap();
        write_now(writer.as_fd(), true, &[b'y'; PIPE_BUF]);
        // Full now. Had it to wait, this test would never end.
        write_now(writer.as_fd(), true, &[b'z'; PIPE_BUF]);
        drop(writer);
        let mut all = Vec::new();
        io::Read::read_to_end(&mut reader, &mut all).unwrap();
        assert_eq!((all.len(), all.last()), (65_536, Some(&b'y')));
    }
}

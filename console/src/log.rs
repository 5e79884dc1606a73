//! Log lines on stderr: text for people, JSON for machines. Nobody waits for them: a line that cannot be written at once is
//! dropped, since a log that nobody reads must stop neither a request nor PID 1.

use std::{
    cell::RefCell,
    io::{self, IoSlice, IsTerminal, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::OnceLock,
    time::SystemTime,
};

use clap::ValueEnum;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::{
    fs::{FileType, fstat},
    io::{Errno, ReadWriteFlags, pwritev2},
};
use serde::{Serialize, Serializer};
use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{filter::FilterFn, layer::SubscriberExt, util::SubscriberInitExt};

/// The longest piece that a pipe takes whole (`PIPE_BUF` of Linux). What is longer is cut.
const PIPE_BUF: usize = 4096;

/// Our own crates, whose events are logged at the level that was asked for.
const OURS: [&str; 6] = ["back", "console", "front", "init", "rehearse", "service"];

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

/// Sends all events of our own crates at `level` and above to stderr, and those of others if they warn of something or
/// `level` is trace. To be called once: a second call panics.
pub fn start(format: LogFormat, level: LevelFilter) {
    let terminal = io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let _ = IS_JSON.set(json);
    let chosen =
        FilterFn::new(move |event| is_logged(event.target(), *event.level(), level)).with_max_level_hint(level);
    let lines = tracing_subscriber::fmt()
        .with_writer(|| Stderr)
        .with_max_level(level)
        .with_ansi(terminal)
        .with_target(false)
        // It would complain about a broken stderr on stderr.
        .log_internal_errors(false);
    if json {
        // Flat, so that `stats count() by task_id` finds the field at the top.
        lines.json().flatten_event(true).finish().with(chosen).init();
    } else {
        lines.finish().with(chosen).init();
    }
}

/// Whether an event is logged. At debug Hickory alone writes about nine lines a lookup, in which ours would drown.
fn is_logged(target: &str, event: Level, level: LevelFilter) -> bool {
    let krate = target.split_once("::").map_or(target, |(krate, _)| krate);
    let least = if OURS.contains(&krate) || level == LevelFilter::TRACE { level } else { level.min(LevelFilter::WARN) };
    event <= least
}

thread_local! {
    /// What this thread gathers, if it does.
    static GATHERED: RefCell<Option<Gathered>> = const { RefCell::new(None) };
}

/// Whole lines that are still to be written, together not longer than a pipe takes whole.
#[derive(Default)]
struct Gathered(Vec<u8>);

impl Gathered {
    /// Adds a line. What was gathered goes to `write` first if there is no room for it.
    fn add(&mut self, line: &[u8], write: impl FnOnce(&[u8])) {
        if self.0.len() + line.len() > PIPE_BUF {
            self.hand_over(write);
        }
        self.0.extend_from_slice(line);
    }

    fn hand_over(&mut self, write: impl FnOnce(&[u8])) {
        if !self.0.is_empty() {
            write(&self.0);
            self.0.clear();
        }
    }
}

/// From now on this thread gathers its lines until [`flush`], or until there is no room: an event loop that answers many
/// requests in one turn need not ask the kernel for each of them.
pub fn gather() {
    GATHERED.set(Some(Gathered::default()));
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        flush();
        report(panic);
    }));
}

/// Writes what this thread has gathered. To be called before it waits for anything.
pub fn flush() {
    // Fails only if the thread is about to end, or if it panicked in here.
    let _ = GATHERED.try_with(|gathered| {
        if let Ok(mut gathered) = gathered.try_borrow_mut()
            && let Some(gathered) = gathered.as_mut()
        {
            gathered.hand_over(write_lines);
        }
    });
}

/// Writes a line at level info that has these fields, and is like any other, but costs a third: for what is logged once a
/// request. Whether it did so or need not; if not, lines are for people, and are to be written as events.
pub fn write_json(message: &str, fields: &impl Serialize) -> bool {
    #[derive(Serialize)]
    struct Line<'a, F> {
        timestamp: Rfc3339Timestamp,
        level: &'static str,
        message: &'a str,
        #[serde(flatten)]
        fields: &'a F,
    }
    if LevelFilter::current() < LevelFilter::INFO {
        return true;
    }
    if !IS_JSON.get().is_some_and(|is_json| *is_json) {
        return false;
    }
    #[expect(clippy::disallowed_methods, reason = "it is for people, and decides nothing")]
    let timestamp = Rfc3339Timestamp(SystemTime::now());
    let mut line = Vec::with_capacity(512);
    // Fails only if a field's own serialisation does.
    if serde_json::to_writer(&mut line, &Line { timestamp, level: "INFO", message, fields }).is_ok() {
        line.push(b'\n');
        let _ = Stderr.write_all(&line);
    }
    true
}

struct Rfc3339Timestamp(SystemTime);

impl Serialize for Rfc3339Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_micros(self.0))
    }
}

/// Whether lines are JSON, once it is known.
static IS_JSON: OnceLock<bool> = OnceLock::new();

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
        "trace" => Ok(LevelFilter::TRACE),
        _ => Err("expected off, error, warn, info, debug or trace"),
    }
}

/// Tells a person who reads stderr: one line, as it is.
pub fn tell(line: &str) {
    let _ = Stderr.write_all(format!("{line}\n").as_bytes());
    flush();
}

/// Standard error, dropping what cannot be written at once.
///
/// The descriptor is not made non-blocking, as it is shared with other processes, which must not see such a change.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let cut;
        let piece = if line.len() > PIPE_BUF {
            // The next line begins one of its own in any case.
            cut = [&line[..PIPE_BUF - 1], b"\n"].concat();
            &cut[..]
        } else {
            line
        };
        let is_gathered = GATHERED.try_with(|gathered| {
            let Ok(mut gathered) = gathered.try_borrow_mut() else { return false };
            gathered.as_mut().map(|gathered| gathered.add(piece, write_lines)).is_some()
        });
        if is_gathered != Ok(true) {
            write_lines(piece);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes lines, together not longer than a pipe takes whole, or drops them if nobody takes them.
fn write_lines(lines: &[u8]) {
    let stderr = io::stderr().lock();
    let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let writable = poll(&mut ready, PollTimeout::ZERO).is_ok()
        && ready[0].revents().is_some_and(|events| events == PollFlags::POLLOUT);
    if writable {
        write_now(stderr.as_fd(), stderr_is_pipe(), lines);
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
    fn at_debug_our_own_crates_are_heard_and_of_others_only_what_they_warn_of() {
        for (target, event, level, expected) in [
            ("front::calls", Level::DEBUG, LevelFilter::DEBUG, true),
            ("front", Level::DEBUG, LevelFilter::DEBUG, true),
            ("front::calls", Level::DEBUG, LevelFilter::INFO, false),
            ("front::calls", Level::TRACE, LevelFilter::TRACE, true),
            ("hickory_net::udp", Level::DEBUG, LevelFilter::DEBUG, false),
            ("hickory_net::udp", Level::INFO, LevelFilter::DEBUG, false),
            ("hickory_net::udp", Level::WARN, LevelFilter::DEBUG, true),
            ("hickory_net::udp", Level::WARN, LevelFilter::ERROR, false),
            ("hickory_net::udp", Level::ERROR, LevelFilter::OFF, false),
            ("hickory_net::udp", Level::TRACE, LevelFilter::TRACE, true),
            // It only begins like one of ours.
            ("frontier::edge", Level::DEBUG, LevelFilter::DEBUG, false),
        ] {
            assert_eq!(is_logged(target, event, level), expected, "{target} {event} at {level}");
        }
    }

    #[test]
    fn our_own_crates_are_those_of_the_workspace() {
        let manifest = include_str!("../../Cargo.toml");
        let members = manifest.lines().find_map(|line| line.strip_prefix("members = ")).unwrap();
        assert_eq!(members, format!("{OURS:?}"));
    }

    #[test]
    fn lines_are_gathered_whole_and_in_order_until_there_is_no_room_or_somebody_asks() {
        let (mut gathered, mut written) = (Gathered::default(), Vec::new());
        for line in 0..100 {
            gathered.add(format!("{line:0>99}\n").as_bytes(), |lines| written.push(lines.to_vec()));
        }
        assert_eq!(written.iter().map(Vec::len).collect::<Vec<_>>(), [4000, 4000]);
        gathered.hand_over(|lines| written.push(lines.to_vec()));
        gathered.hand_over(|_| panic!("there is nothing left"));
        let text = String::from_utf8(written.concat()).unwrap();
        assert!(text.lines().map(|line| line.parse::<usize>().unwrap()).eq(0..100));
    }

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

//! Log lines on stderr: text for people, JSON for machines.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;

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
///
/// To be called once: a second call panics.
pub fn start(format: LogFormat, level: LevelFilter) {
    let terminal = io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(level)
        .with_ansi(terminal)
        .with_target(false)
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

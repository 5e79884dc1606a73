//! The command line and its environment variables.

use std::{ffi::OsString, time::Duration};

use clap::{CommandFactory, FromArgMatches, Parser, error::ErrorKind, parser::ValueSource};
use tracing::level_filters::LevelFilter;

use crate::{
    budget::{Overspent, StopBudget, StopTimeout},
    check::CheckUrl,
    log::LogFormat,
};

/// No sum of durations below this can overflow the clock, and nobody waits longer for a container to stop.
const LONGEST: Duration = Duration::from_hours(366 * 24);

/// Runs COMMAND as its child and, when told to stop, keeps it serving until no DNS cache can name this task any more.
///
/// On SIGTERM or SIGINT the task becomes a lame duck: COMMAND keeps serving for the drain time, and only then gets the
/// signal. A second stop signal ends the lame duck at once. Every other signal goes to COMMAND at once. Orphans are
/// reaped. The exit code is COMMAND's own, or 128+N if signal N killed it; 125: init itself failed; 126: COMMAND cannot
/// be executed; 127: COMMAND was not found.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "init",
    version,
    max_term_width = 100,
    override_usage = "init [OPTIONS] [--] COMMAND [ARG]...\n       init --check URL",
    after_help = AFTER_HELP
)]
pub struct Cli {
    /// How long to keep serving after a stop signal before passing it on [default: 30s, or what the stop timeout
    /// leaves].
    ///
    /// Use at least the TTL of the DNS record that names this task, plus what deregistration takes. Too short: callers
    /// with an older answer are refused. Too long for the stop timeout: it is cut, with a warning. 0 passes the signal
    /// on at once.
    #[arg(long, env = "INIT_DRAIN", value_name = "DURATION", value_parser = duration)]
    pub drain: Option<Duration>,

    /// When the platform kills the task after SIGTERM [default: 30s is assumed].
    ///
    /// Set it to what the platform is set to: ECS stopTimeout, docker stop --timeout, Compose `stop_grace_period`,
    /// Kubernetes terminationGracePeriodSeconds. A COMMAND that is still there just before it is killed, and the log
    /// says so. Not given: 30s is assumed for the drain, and nobody is ever killed by init.
    #[arg(long, env = "INIT_STOP_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub stop_timeout: Option<Duration>,

    /// The end of the stop timeout that is kept for COMMAND, to finish requests in flight and exit.
    ///
    /// The drain gets at most the stop timeout less this. Too short: requests in flight are cut off by the platform's
    /// SIGKILL.
    #[arg(long, env = "INIT_GRACE", value_name = "DURATION", value_parser = duration, default_value = "5s")]
    pub grace: Duration,

    /// Ask URL once and exit: 0 if it answers 200 to 399, 1 if it does not.
    ///
    /// A health check for images without curl. ECS: `["CMD", "/init", "--check", "http://127.0.0.1:1235/health"]`. The
    /// host is an IP address or localhost. As an environment variable it is used when there is no COMMAND, so that the
    /// same variables can serve the task and its health check.
    #[arg(long, env = "INIT_CHECK", value_name = "URL")]
    pub check: Option<CheckUrl>,

    /// How long a check may take before it counts as failed.
    ///
    /// Keep it below the platform's own timeout for health checks, so that the reason is printed.
    #[arg(long, env = "INIT_CHECK_TIMEOUT", value_name = "DURATION", value_parser = duration, default_value = "2s")]
    pub check_timeout: Duration,

    /// How log lines look. They go to stderr.
    #[arg(long, env = "INIT_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// The least level that is logged: off, error, warn, info or debug.
    ///
    /// At warn only trouble is logged; at debug every forwarded signal and reaped orphan is.
    #[arg(long, env = "INIT_LOG_LEVEL", value_name = "LEVEL", value_parser = log_level, default_value = "info")]
    pub log_level: LevelFilter,

    /// The program to run, with its arguments.
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

const AFTER_HELP: &str = "Durations take units (30s, 1m30s, 250ms); a bare number is seconds.";

impl Cli {
    /// Reads the command line, the program's name first, and the environment.
    ///
    /// # Errors
    ///
    /// What is wrong with them, or the text of `--help` or `--version`.
    pub fn read(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches_from(arguments)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        if !cli.command.is_empty() && cli.check.take().is_some() {
            // A check in the environment is for the health check's own call, which has no command.
            if matches.value_source("check") == Some(ValueSource::CommandLine) {
                let message = "--check asks once and exits, so it takes no COMMAND: give one or the other";
                return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
            }
        }
        Ok(cli)
    }

    /// The division of the stop timeout that these flags ask for.
    ///
    /// # Errors
    ///
    /// [`Overspent`] if they contradict each other.
    pub fn budget(&self) -> Result<StopBudget, Overspent> {
        let stop_timeout = self.stop_timeout.map_or(StopTimeout::Assumed, StopTimeout::Given);
        StopBudget::new(self.drain, stop_timeout, self.grace)
    }
}

/// A duration with units, or a number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a duration such as 30s, 1m30s or 250ms, or a number of seconds";
    let parsed = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text).map_err(|error| format!("{error}: {EXPECTED}"))?,
    };
    if parsed > LONGEST {
        return Err(format!("longer than {}: {EXPECTED}", humantime::format_duration(LONGEST)));
    }
    Ok(parsed)
}

fn log_level(text: &str) -> Result<LevelFilter, &'static str> {
    text.parse().map_err(|_| "expected off, error, warn, info or debug")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::read([&["init"], arguments].concat())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable() {
        for argument in Cli::command().get_arguments().filter(|argument| !argument.is_positional()) {
            let long = argument.get_long().unwrap();
            if !["help", "version"].contains(&long) {
                let expected = format!("INIT_{}", long.replace('-', "_").to_uppercase());
                assert_eq!(argument.get_env(), Some(OsString::from(expected).as_os_str()));
            }
        }
    }

    #[test]
    fn the_command_begins_at_the_first_word_that_is_no_option() {
        let cli = parse(&["--drain", "9s", "sh", "-c", "exit 7", "--drain", "1s"]).unwrap();
        assert_eq!(cli.drain, Some(Duration::from_secs(9)));
        assert_eq!(cli.command, ["sh", "-c", "exit 7", "--drain", "1s"]);
    }

    #[test]
    fn after_two_dashes_everything_is_the_command() {
        assert_eq!(parse(&["--", "--drain", "9s"]).unwrap().command, ["--drain", "9s"]);
        assert_eq!(parse(&["--", "sh", "--", "x"]).unwrap().command, ["sh", "--", "x"]);
    }

    #[test]
    fn a_command_need_not_be_unicode() {
        use std::os::unix::ffi::OsStringExt;
        let odd = OsString::from_vec(vec![b'a', 0xff]);
        let cli = Cli::read([OsString::from("init"), "--".into(), "echo".into(), odd.clone()]).unwrap();
        assert_eq!(cli.command, ["echo".into(), odd]);
    }

    #[test]
    fn durations_take_units_and_a_bare_number_is_seconds() {
        for (text, expected) in [("30", 30_000), ("30s", 30_000), ("1m30s", 90_000), ("250ms", 250), ("0", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(expected)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_and_never_zero() {
        for text in ["", " ", "abc", "-1", "-1s", "1.5", "30 parsecs", "18446744073709551615", "999999999999y", "s"] {
            let error = duration(text).unwrap_err();
            assert!(error.contains("such as 30s"), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_check_and_a_command_exclude_each_other() {
        let url = "http://127.0.0.1:1/";
        assert!(parse(&["--check", url]).unwrap().check.is_some());
        let error = parse(&["--check", url, "true"]).unwrap_err().to_string();
        assert!(error.contains("no COMMAND"), "{error}");
    }

    #[test]
    fn an_unknown_flag_and_a_bad_duration_are_refused_by_name() {
        let error = parse(&["--drian", "9s", "true"]).unwrap_err().to_string();
        assert!(error.contains("--drian"), "{error}");
        let error = parse(&["--drain", "soon", "true"]).unwrap_err().to_string();
        assert!(error.contains("--drain") && error.contains("soon"), "{error}");
    }
}

//! The command line and its environment variables.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use console::{
    duration,
    log::{self, LogFormat},
};
use hyper::Uri;
use service::admin;
use tracing::level_filters::LevelFilter;

use crate::identity::{address_of, visible};

/// Answers with its task id and revision, tells its health, and stops without cutting anybody off.
///
/// GET / answers "backend TASK-ID REVISION" (JSON if asked for), GET /health answers 200. SIGUSR1: every answer says
/// Connection: close. SIGTERM or SIGINT: no new connections, requests in flight are finished, exit 0. Exit 125: it
/// could not start.
#[derive(Clone, Debug, Parser)]
#[command(name = "back", version = console::VERSION, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// Where to listen. Port 0 takes a free port and logs it.
    #[arg(long, env = "BACK_LISTEN", value_name = "IP:PORT", default_value = "0.0.0.0:1235")]
    pub listen: SocketAddr,

    /// The name of this task in answers, logs and the x-task-id header [default: from the ECS metadata, else the
    /// hostname].
    ///
    /// Two tasks of one name cannot be told apart in a distribution by task.
    #[arg(long, env = "BACK_TASK_ID", value_name = "ID", value_parser = visible)]
    pub task_id: Option<String>,

    /// The revision that this task runs [default: the task definition's from the ECS metadata, else "local"].
    #[arg(long, env = "BACK_REVISION", value_name = "REVISION", value_parser = visible)]
    pub revision: Option<String>,

    /// The ECS task metadata endpoint, version 4. The ECS agent sets the variable; without it none is asked.
    #[arg(long, env = "ECS_CONTAINER_METADATA_URI_V4", value_name = "URL", value_parser = metadata_url)]
    pub metadata_uri: Option<Uri>,

    /// How long to wait before listening, as a task that starts slowly does. Until then callers are refused.
    #[arg(long, env = "BACK_START_DELAY", value_name = "DURATION", value_parser = duration::parse, default_value = "0")]
    pub start_delay: Duration,

    /// Where to answer those who run back: /metrics, /ready, /health and, with --enable-faults, /fault [default: nowhere].
    ///
    /// A port alone is one of the loopback interface. What is said there is not for callers: do not publish it.
    #[arg(long, env = "BACK_ADMIN_LISTEN", value_name = "[IP:]PORT", value_parser = admin::address)]
    pub admin_listen: Option<SocketAddr>,

    /// Lets faults be asked for: PUT, GET and DELETE /fault where --admin-listen says, and GET /error here, which turns 500 for
    /// everything on and off.
    ///
    /// Whoever reaches /error, or the admin listener, can then break this task: never in production.
    #[arg(long, env = "BACK_ENABLE_FAULTS", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    pub enable_faults: bool,

    /// How long requests in flight may take to finish after a stop signal.
    ///
    /// Those that take longer are cut off and counted in the log. Under init keep it at or below the grace.
    #[arg(long, env = "BACK_DRAIN_TIMEOUT", value_name = "DURATION", value_parser = duration::parse, default_value = "20s")]
    pub drain_timeout: Duration,

    /// How log lines look. They go to stderr.
    #[arg(long, env = "BACK_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// The least level that is logged: off, error, warn, info, debug or trace.
    ///
    /// Requests are logged at info, health checks at debug, so that they do not count as load.
    /// At trace libraries tell of their own insides, too: many lines for each of ours.
    #[arg(long, env = "BACK_LOG_LEVEL", value_name = "LEVEL", value_parser = log::level, default_value = "info")]
    pub log_level: LevelFilter,
}

const AFTER_HELP: &str = "Durations take units (30s, 1m30s, 250ms); a bare number is seconds.";

/// A URL whose host needs no resolver.
fn metadata_url(text: &str) -> Result<Uri, &'static str> {
    const EXPECTED: &str = "expected a URL such as http://169.254.170.2/v4/ID, with an IP address as its host";
    let url: Uri = text.parse().map_err(|_| EXPECTED)?;
    if url.scheme_str() == Some("http") && address_of(&url).is_some() { Ok(url) } else { Err(EXPECTED) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent_and_every_flag_has_an_environment_variable() {
        Cli::command().debug_assert();
        for argument in Cli::command().get_arguments() {
            let named = argument.get_env().is_some() || ["help", "version"].contains(&argument.get_id().as_str());
            assert!(named, "{argument:?}");
        }
    }

    #[test]
    fn a_task_id_must_fit_in_a_header_and_a_line() {
        assert_eq!(visible("0d1e2f"), Ok("0d1e2f".to_owned()));
        for text in ["", "a b", "a\nb", "é"] {
            assert!(visible(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_metadata_is_asked_of_an_address_over_http() {
        for text in ["http://169.254.170.2/v4/x", "http://[fd00:ec2::23]/v4/x", "http://127.0.0.1:8080/"] {
            assert!(metadata_url(text).is_ok(), "{text:?}");
        }
        for text in ["", "http://127.0.0.1:99999/", "https://169.254.170.2/v4/x", "http://example.com/", "/v4/x"] {
            assert!(metadata_url(text).is_err(), "{text:?}");
        }
    }
}

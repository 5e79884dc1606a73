//! The command line and its environment variables.

use std::{
    ffi::OsString,
    fmt,
    net::SocketAddr,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{CommandFactory, FromArgMatches, Parser, error::ErrorKind, parser::ValueSource};
use console::{
    dns_server, duration,
    log::{self, LogFormat},
};
use tracing::level_filters::LevelFilter;

use crate::{
    budget::{DEFAULT_DRAIN, DEFAULT_GRACE, StopBudget, StopTimeout},
    check::CheckUrl,
    error::Error,
    evidence::{Evidence, Settings},
    exit::ExitStatus,
    host::Setup,
    lifecycle::{Drain, Plan},
    registration::{DnsName, OwnAddress, Registration},
    signal::{Rewrite, Rewrites, Signal},
};

/// How long the application may take to say that it is healthy. The lame duck goes on meanwhile, so that this delays
/// nothing; and an application that takes longer is not one to send requests to.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs COMMAND as its child and, when told to stop, keeps it serving until no DNS cache can name this task any more.
///
/// On SIGTERM or SIGINT the task becomes a lame duck: COMMAND keeps serving for the drain time, and only then gets the
/// signal. A second stop signal ends the lame duck at once. Every other signal goes to COMMAND at once. Orphans are
/// reaped. The exit code is COMMAND's own, or 128+N if signal N killed it; 125: init itself failed; 126: COMMAND cannot
/// be executed; 127: COMMAND was not found.
#[derive(Clone, Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[command(
    name = "init",
    version = console::VERSION,
    max_term_width = 100,
    override_usage = "init [OPTIONS] [--] COMMAND [ARG]...\n       init --check URL",
    after_help = AFTER_HELP
)]
pub struct Cli {
    /// How long to keep serving after a stop signal before passing it on: a duration, or auto [default: 30s, or what
    /// the stop timeout leaves].
    ///
    /// A duration: use at least the TTL of the DNS record that names this task, plus what deregistration takes. Too
    /// short: callers with an older answer are refused. Too long for the stop timeout: it is cut, with a warning. 0
    /// passes the signal on at once. auto: as long as DNS says, see --dns-name.
    #[arg(long, env = "INIT_DRAIN", value_name = "DURATION|auto", value_parser = drain)]
    pub drain: Option<DrainFlag>,

    /// The name by which callers find this task; drains automatically.
    ///
    /// It is looked up once a TTL to learn the TTL and whether our address is in the answer, and every second after a
    /// stop signal. The lame duck ends one TTL and --dns-margin after the stop or after our address was last seen,
    /// whichever is later. If every lookup since the start said that we are not there, and one after the stop says so too,
    /// it ends at once. A first label with an underscore asks for SRV records.
    #[arg(long, env = "INIT_DNS_NAME", value_name = "NAME")]
    pub dns_name: Option<DnsName>,

    /// Added to the TTL of an automatic drain: what deregistration and propagation take.
    #[arg(long, env = "INIT_DNS_MARGIN", value_name = "DURATION", value_parser = duration::parse, default_value = "5s")]
    pub dns_margin: Duration,

    /// How long an automatic drain lasts if DNS never answered.
    #[arg(long, env = "INIT_DNS_FALLBACK", value_name = "DURATION", value_parser = duration::parse, default_value = "30s")]
    pub dns_fallback: Duration,

    /// A DNS server to ask [default: those of /etc/resolv.conf]. May be repeated, or separated by commas.
    #[arg(long, env = "INIT_RESOLVER", value_name = "IP[:PORT]", value_delimiter = ',', value_parser = dns_server::parse)]
    pub resolver: Vec<SocketAddr>,

    /// Our address as DNS names it [default: those of the network interfaces]. May be repeated, or separated by commas.
    ///
    /// Needed where it is not on an interface: behind a NAT, as with ECS bridge networking, where the host's address
    /// is registered. Without it such a task may take itself for one that was never registered. With a port, only an SRV
    /// record that has it too is ours: other tasks on the same host have the same address.
    #[arg(long, env = "INIT_OWN_ADDRESS", value_name = "IP[:PORT]", value_delimiter = ',')]
    pub own_address: Vec<OwnAddress>,

    /// When the platform kills the task after SIGTERM [default: 30s is assumed].
    ///
    /// Set it to what the platform is set to: ECS stopTimeout, docker stop --timeout, Compose `stop_grace_period`,
    /// Kubernetes terminationGracePeriodSeconds. A COMMAND that is still there just before it is killed, and the log
    /// says so. Not given: 30s is assumed for the drain, and nobody is ever killed by init.
    #[arg(long, env = "INIT_STOP_TIMEOUT", value_name = "DURATION", value_parser = duration::parse)]
    pub stop_timeout: Option<Duration>,

    /// The end of the stop timeout that is kept for COMMAND, to finish requests in flight and exit [default: 5s, or half
    /// of a stop timeout below 10s].
    ///
    /// The drain gets at most the stop timeout less this. Too short: requests in flight are cut off by the platform's
    /// SIGKILL.
    #[arg(long, env = "INIT_GRACE", value_name = "DURATION", value_parser = duration::parse)]
    pub grace: Option<Duration>,

    /// Sent to COMMAND as the lame duck begins, for an application that can answer "Connection: close" from then on, so
    /// that pooled connections empty themselves. One that does not know the signal may die of it.
    #[arg(long, env = "INIT_DRAIN_SIGNAL", value_name = "SIGNAL")]
    pub drain_signal: Option<Signal>,

    /// Sent to COMMAND in place of the signal that asked for the stop, such as QUIT for nginx.
    #[arg(long, env = "INIT_STOP_SIGNAL", value_name = "SIGNAL")]
    pub stop_signal: Option<Signal>,

    /// The signals that ask for a stop: they start the lame duck, and a second one ends it.
    ///
    /// Add the image's STOPSIGNAL if it has one. All others go to COMMAND at once.
    #[arg(long, env = "INIT_STOP_ON", value_name = "SIGNAL", value_delimiter = ',', value_parser = caught, default_value = "TERM,INT")]
    pub stop_on: Vec<Signal>,

    /// Passes a signal on as another one; a TO of 0 swallows it. May be repeated, or separated by commas.
    #[arg(short = 'r', long, env = "INIT_REWRITE", value_name = "FROM:TO", value_delimiter = ',')]
    pub rewrite: Vec<Rewrite>,

    /// Asked as the lame duck begins: an application that does not answer 200 to 399 is not kept alive to serve errors.
    #[arg(long, env = "INIT_HEALTH_URL", value_name = "URL")]
    pub health_url: Option<CheckUrl>,

    /// A program to run as the lame duck begins, with its arguments, quoted as in a shell: to deregister by hand, for
    /// example. Nobody waits for it.
    #[arg(long, env = "INIT_ON_DRAIN", value_name = "COMMAND", value_parser = words)]
    pub on_drain: Option<Words>,

    /// How long processes that are left when COMMAND ends may take to end after a SIGTERM, before init exits. 0 does
    /// not ask them.
    #[arg(long, env = "INIT_LEFTOVER_TIMEOUT", value_name = "DURATION", value_parser = duration::parse, default_value = "2s")]
    pub leftover_timeout: Duration,

    /// Sends signals to COMMAND's whole process group.
    #[arg(short = 'g', long, env = "INIT_PROCESS_GROUP", overrides_with = "single_child")]
    pub process_group: bool,

    /// Sends signals to COMMAND only. This is the default; it overrides -g.
    #[arg(short = 'c', long, env = "INIT_SINGLE_CHILD", overrides_with = "process_group")]
    pub single_child: bool,

    /// COMMAND gets a session of its own, with the terminal if there is one. Includes --suspend.
    #[arg(long, env = "INIT_SESSION")]
    pub session: bool,

    /// A TSTP, TTIN or TTOU that init gets suspends init too, after it has been passed on.
    ///
    /// For a shell that waits for its job to stop. Sent by hand, it also stops a drain from ending until SIGCONT.
    #[arg(long, env = "INIT_SUSPEND")]
    pub suspend: bool,

    /// Orphans of COMMAND are reaped even if init is not PID 1. false leaves them to the system.
    #[arg(
        short = 's',
        long,
        env = "INIT_SUBREAPER",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true"
    )]
    pub subreaper: bool,

    /// Sent to init when its parent dies, and to COMMAND when init does.
    #[arg(short = 'p', long, env = "INIT_PARENT_DEATH_SIGNAL", value_name = "SIGNAL")]
    pub parent_death_signal: Option<Signal>,

    /// Exit with TO, or 0, where COMMAND's exit code is CODE: 143 for a JVM that ends well on SIGTERM. May be repeated,
    /// or separated by commas.
    #[arg(short = 'e', long, env = "INIT_REMAP_EXIT", value_name = "CODE[:TO]", value_delimiter = ',')]
    pub remap_exit: Vec<Remap>,

    /// Say so when an orphan is reaped.
    #[arg(short = 'w', long, env = "INIT_WARN_ON_REAP")]
    pub warn_on_reap: bool,

    /// Print what these flags and variables mean, what each signal does and when, and exit. For a reviewer, before a
    /// deploy.
    #[arg(long, env = "INIT_EXPLAIN")]
    pub explain: bool,

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
    #[arg(long, env = "INIT_CHECK_TIMEOUT", value_name = "DURATION", value_parser = duration::parse, default_value = "2s")]
    pub check_timeout: Duration,

    /// How log lines look. They go to stderr.
    #[arg(long, env = "INIT_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// The least level that is logged: off, error, warn, info, debug or trace.
    ///
    /// At warn only trouble is logged; at debug every DNS answer and reaped orphan is. At trace libraries tell of
    /// their own insides, too.
    #[arg(long, env = "INIT_LOG_LEVEL", value_name = "LEVEL", value_parser = log::level, default_value = "info")]
    pub log_level: LevelFilter,

    /// Log at debug, whatever --log-level says.
    #[arg(short = 'v', long, action = clap::ArgAction::Count)]
    pub verbose: u8,

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

    /// What the lifecycle is to do, for a child that starts `now`.
    ///
    /// # Errors
    ///
    /// What contradicts itself.
    pub fn plan(&self, now: Instant) -> Result<Plan, Error> {
        let stop_timeout = self.stop_timeout.map_or(StopTimeout::Assumed, StopTimeout::Given);
        let grace = self.grace.unwrap_or(DEFAULT_GRACE.min(stop_timeout.duration() / 2));
        let budget = StopBudget::new(stop_timeout, grace)?;
        let drain = match (&self.drain, &self.dns_name) {
            (Some(DrainFlag::Fixed(drain)), _) => Drain::Fixed(*drain),
            (Some(DrainFlag::Auto), None) => return Err(Error::NoDnsName),
            (Some(DrainFlag::Auto) | None, Some(_)) => {
                let settings = Settings { fallback: self.dns_fallback, margin: self.dns_margin };
                Drain::Auto(Evidence::new(settings, now))
            }
            // Nobody asked for more than there is, so it is no cut.
            (None, None) => Drain::Fixed(DEFAULT_DRAIN.min(budget.drain_limit())),
        };
        Ok(Plan {
            budget,
            drain,
            stop_signal: self.stop_signal,
            drain_signal: self.drain_signal,
            asks_health: self.health_url.is_some(),
            rewrites: Rewrites::new(self.rewrites()),
            leftover_timeout: self.leftover_timeout,
        })
    }

    /// The rewrites that were asked for, and those of a session: it has no shell that could continue a job, so one that
    /// stops must stop for everybody. What was asked for comes last, and so counts.
    fn rewrites(&self) -> Vec<Rewrite> {
        let stops = ["TSTP:STOP", "TTIN:STOP", "TTOU:STOP"];
        let of_session = if self.session { stops.as_slice() } else { &[] };
        let of_session = of_session.iter().map(|rewrite| rewrite.parse().expect("these are two names of signals"));
        of_session.chain(self.rewrite.iter().copied()).collect()
    }

    /// Whether signals go to the command's process group: asked for, and not overridden, by a flag or a variable.
    #[must_use]
    pub const fn signals_group(&self) -> bool {
        self.process_group && !self.single_child
    }

    /// What the host is to do.
    #[must_use]
    pub fn setup(&self, plan: &Plan) -> Setup {
        let registration = match (&plan.drain, &self.dns_name) {
            (Drain::Auto(_), Some(name)) => {
                Some(Arc::new(Registration::new(name.clone(), &self.resolver, self.own_address.clone())))
            }
            (Drain::Auto(_), None) | (Drain::Fixed(_), _) => None,
        };
        let drains = match &plan.drain {
            Drain::Fixed(drain) => !(*drain).min(plan.budget.drain_limit()).is_zero(),
            Drain::Auto(_) => true,
        };
        Setup {
            drains,
            stop_on: self.stop_on.clone(),
            to_group: self.signals_group(),
            has_session: self.session,
            suspends: self.session || self.suspend,
            is_subreaper: self.subreaper,
            parent_death_signal: self.parent_death_signal,
            warns_on_reap: self.warn_on_reap,
            health: self.health_url.clone().map(|url| (url, HEALTH_TIMEOUT)),
            on_drain: self.on_drain.clone().map(|words| words.0).unwrap_or_default(),
            registration,
        }
    }

    /// The least level that is logged.
    #[must_use]
    pub fn level(&self) -> LevelFilter {
        if self.verbose > 0 { self.log_level.max(LevelFilter::DEBUG) } else { self.log_level }
    }

    /// The exit code that tells of `status`, remapped if that was asked for.
    #[must_use]
    pub fn exit_code(&self, status: ExitStatus) -> u8 {
        let code = status.code();
        self.remap_exit.iter().rev().find(|remap| remap.code == code).map_or(code, |remap| remap.to)
    }
}

/// How the end of the lame duck is found, as a flag.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DrainFlag {
    /// It lasts this long.
    Fixed(Duration),
    /// As long as DNS says.
    Auto,
}

/// An exit code that becomes another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Remap {
    code: u8,
    to: u8,
}

impl fmt::Display for Remap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} becomes {}", self.code, self.to)
    }
}

impl FromStr for Remap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (code, to) = text.split_once(':').unwrap_or((text, "0"));
        let code_of =
            |text: &str| text.parse().map_err(|_| format!("{text:?} is no exit code: expected one from 0 to 255"));
        Ok(Self { code: code_of(code)?, to: code_of(to)? })
    }
}

/// A command line in one piece of text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Words(Vec<OsString>);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.0.iter().map(|word| word.to_string_lossy());
        f.write_str(&shell_words::join(words))
    }
}

fn words(text: &str) -> Result<Words, String> {
    let words = shell_words::split(text).map_err(|error| format!("{error}: quote it as in a shell"))?;
    if words.is_empty() {
        Err("it names no program".to_owned())
    } else {
        Ok(Words(words.into_iter().map(Into::into).collect()))
    }
}

/// A signal that init can be asked to act upon.
fn caught(text: &str) -> Result<Signal, String> {
    let signal: Signal = text.parse()?;
    if signal.is_kept() { Err(format!("{signal} is never acted upon or passed on by init")) } else { Ok(signal) }
}

fn drain(text: &str) -> Result<DrainFlag, String> {
    if text == "auto" {
        return Ok(DrainFlag::Auto);
    }
    duration::parse(text).map(DrainFlag::Fixed).map_err(|error| format!("{error}, or auto"))
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
            // Verbosity is a level, which has one.
            if !["help", "version", "verbose"].contains(&long) {
                let expected = format!("INIT_{}", long.replace('-', "_").to_uppercase());
                assert_eq!(argument.get_env(), Some(OsString::from(expected).as_os_str()));
            }
        }
    }

    #[test]
    fn the_command_begins_at_the_first_word_that_is_no_option() {
        let cli = parse(&["--drain", "9s", "sh", "-c", "exit 7", "--drain", "1s"]).unwrap();
        assert_eq!(cli.drain, Some(DrainFlag::Fixed(Duration::from_secs(9))));
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
    fn single_child_overrides_the_process_group() {
        for (flags, expected) in [
            (vec![], false),
            (vec!["-g"], true),
            (vec!["-c"], false),
            (vec!["-g", "-c"], false),
            (vec!["-c", "-g"], true),
        ] {
            assert_eq!(parse(&[&flags[..], &["true"]].concat()).unwrap().signals_group(), expected, "{flags:?}");
        }
        // As the variable and the flag together give it.
        let both = Cli { process_group: true, single_child: true, ..parse(&["true"]).unwrap() };
        assert!(!both.signals_group());
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

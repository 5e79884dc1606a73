//! The command line, the environment, and what they mean.

use std::{collections::BTreeSet, net::Ipv4Addr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use console::duration;

use crate::{
    client::Profile,
    error::Error,
    probe::ProbeUrl,
    rules::{Rules, Setting},
    run::Deed,
    scenario::{Binaries, Entrypoint, FrontChoice, MARGIN, Scenario, Stage},
    scenarios::Scenarios,
    simulate::{Crowd, Grid, HABITS, Habit, habit},
};

/// Replays an ECS rolling deploy on this machine, with real processes, DNS and load, and says which requests fail and why.
///
/// Without a command it answers four questions with this product's own programs: are requests spread over the tasks, when are
/// records registered and deregistered, do requests fail during a deploy, and is an unhealthy task replaced. Exit 0: as
/// expected, or within the objective. Exit 1: not. Exit 2: it could not be run.
#[derive(Debug, Parser)]
#[command(version = console::VERSION, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// What all of them have.
    #[command(flatten)]
    pub options: Options,

    /// The experiments to run, of distribution, deploy and unhealthy [default: all of them].
    #[arg(long, env = "REHEARSE_ONLY", value_name = "EXPERIMENT", value_delimiter = ',')]
    pub only: Vec<String>,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Deploys a service of your own, and counts the requests that fail.
    Deploy(Box<Deploy>),
    /// Deploys thousands of times in virtual time, by the same rules: how likely a deploy fails requests, and how many.
    Simulate(Simulate),
    /// Does so for each of many TTLs, drains, clients, minimum healthy percents and health check intervals, and draws the bound
    /// beyond which nothing fails. Writes sweep.html and sweep.json into the output directory.
    Sweep(SweepOptions),
    /// Says how long the drain of a service has to be, what stop timeout that needs, and what it costs. Exit 1: no drain does it.
    Recommend(RecommendOptions),
    /// Plays what can go wrong beside a plain deploy, in virtual time, and compares it with what is expected of it.
    ///
    /// Without a name it lists the scenarios. Each is a small file, and --show prints one, to write your own. A file says its own rules
    /// and rate; --set changes rules on top of that. Exit 0: all as expected. Exit 1: not. Exit 2: it could not be played.
    Scenarios(Scenarios),
    /// Lists the rules that are followed, each with its value and source. Change one with --set NAME=VALUE.
    Rules,
}

/// What all commands have.
#[derive(Args, Debug)]
pub struct Options {
    /// How many seconds of the service pass in one. What is measured then is scaled back.
    ///
    /// Times inside of your own programs, such as a sleep in an entrypoint, do not go faster: use 1 for those. Too fast: the
    /// machine is late, which the report says.
    #[arg(long, env = "REHEARSE_SPEED", value_name = "FACTOR", value_parser = speed, default_value = "10", global = true)]
    pub speed: f64,

    /// How many requests each client sends in a second of the service.
    #[arg(long, env = "REHEARSE_RATE", value_name = "NUMBER", value_parser = rate, default_value = "10", global = true)]
    pub rate: f64,

    /// How many clients of a kind there are, each with a resolver's cache in a phase of its own.
    ///
    /// One clean deploy proves nothing: whether requests fail depends on when the cache asked last.
    #[arg(long, env = "REHEARSE_PHASES", value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=100), default_value = "6", global = true)]
    pub phases: u16,

    /// What chance comes from. The same seed makes the same choices, though processes take their own time.
    #[arg(long, env = "REHEARSE_SEED", value_name = "NUMBER", default_value = "1", global = true)]
    pub seed: u64,

    /// Changes a rule: `rehearse rules` lists them. Can be given several times.
    #[arg(long = "set", env = "REHEARSE_SET", value_name = "NAME=VALUE", value_delimiter = ',', global = true)]
    pub set: Vec<Setting>,

    /// Where the reports go: report.html for people, report.json for programs. Nothing else is written.
    #[arg(long, short, env = "REHEARSE_OUTPUT", value_name = "DIRECTORY", default_value = "rehearsal", global = true)]
    pub output: PathBuf,

    /// The first address of the tasks: they are on the loopback, one address each.
    #[arg(long, env = "REHEARSE_NET", value_name = "ADDRESS", value_parser = net, default_value = "127.0.1.1", global = true)]
    pub net: Ipv4Addr,

    /// Where tasks listen, each on its own address.
    #[arg(long, env = "REHEARSE_TASK_PORT", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..), default_value = "1235", global = true)]
    pub task_port: u16,

    /// The init to rehearse with [default: the one beside rehearse].
    #[arg(long, env = "REHEARSE_INIT_BINARY", value_name = "PATH", global = true)]
    pub init_binary: Option<PathBuf>,

    /// The front to rehearse with [default: the one beside rehearse].
    #[arg(long, env = "REHEARSE_FRONT_BINARY", value_name = "PATH", global = true)]
    pub front_binary: Option<PathBuf>,

    /// The back to rehearse with [default: the one beside rehearse].
    #[arg(long, env = "REHEARSE_BACK_BINARY", value_name = "PATH", global = true)]
    pub back_binary: Option<PathBuf>,
}

/// A service of your own.
#[derive(Args, Debug)]
pub struct Deploy {
    /// The task's command, in which {ip}, {port}, {task} and {revision} stand for its own [default: back].
    #[arg(long, env = "REHEARSE_TASK", value_name = "COMMAND", value_parser = words)]
    pub task: Option<Words>,

    /// What stands before the task's command: init, none, or a command such as an entrypoint script.
    #[arg(long, env = "REHEARSE_ENTRYPOINT", value_name = "init|none|COMMAND", default_value = "init")]
    pub entrypoint: String,

    /// Where a task is probed, as the container health check does [default: http://{ip}:{port}/health for back, else /].
    #[arg(long, env = "REHEARSE_HEALTH", value_name = "URL")]
    pub health: Option<ProbeUrl>,

    /// What stands between clients and tasks: front, none, or a command, in which {ip} and {port} say where it is to listen,
    /// {resolver} is its DNS server, and {backend} the name and port of the service.
    #[arg(long, env = "REHEARSE_FRONT", value_name = "front|none|COMMAND", default_value = "front")]
    pub front: String,

    /// Clients that find tasks by themselves, without a front [default: try-next and first-only if there is no front].
    #[arg(long, env = "REHEARSE_CLIENTS", value_name = "PROFILE", value_delimiter = ',')]
    pub clients: Vec<Profile>,

    /// Tasks that the service should have [default: the rule's].
    #[arg(long, env = "REHEARSE_DESIRED", value_name = "COUNT")]
    pub desired: Option<u32>,

    /// The TTL of the records [default: the rule's].
    #[arg(long, env = "REHEARSE_TTL", value_name = "DURATION", value_parser = duration::parse)]
    pub ttl: Option<Duration>,

    /// How long init keeps a task serving after SIGTERM [default: the TTL and 5s].
    #[arg(long, env = "REHEARSE_DRAIN", value_name = "DURATION", value_parser = duration::parse)]
    pub drain: Option<Duration>,

    /// How long a task may take to stop after that.
    #[arg(long, env = "REHEARSE_GRACE", value_name = "DURATION", value_parser = duration::parse, default_value = "5s")]
    pub grace: Duration,

    /// From SIGTERM to SIGKILL [default: what the drain and the grace need, if the rule stop-timeout is not set]. Fargate allows 120s
    /// at most.
    #[arg(long, env = "REHEARSE_STOP_TIMEOUT", value_name = "DURATION", value_parser = duration::parse)]
    pub stop_timeout: Option<Duration>,

    /// What clients ask for.
    #[arg(long, env = "REHEARSE_PATH", value_name = "PATH", default_value = "/")]
    pub path: String,

    /// How many requests may fail. One more, and the exit code is 1.
    #[arg(long, env = "REHEARSE_OBJECTIVE", value_name = "COUNT", default_value = "0")]
    pub objective: u64,
}

/// Deployments in virtual time.
#[derive(Args, Debug)]
pub struct Simulate {
    /// What is simulated.
    #[command(flatten)]
    pub crowd: CrowdOptions,

    /// How long a task goes on serving after SIGTERM.
    #[arg(long, env = "REHEARSE_DRAIN", value_name = "DURATION", value_parser = duration::parse, default_value = "0s")]
    pub drain: Duration,
}

/// How many deployments are simulated, and who watches them.
#[derive(Args, Debug)]
pub struct CrowdOptions {
    /// How many deployments, each with chances and cache phases of its own. More of them see what is rarer.
    #[arg(long, env = "REHEARSE_DEPLOYS", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000), default_value = "1000")]
    pub deploys: u32,

    /// Clients, of front, try-next, first-only, fixed-order, jvm, envoy, nginx and keep-alive [default: all of them, or those that
    /// honour TTLs where that is what it is about].
    #[arg(long, env = "REHEARSE_CLIENTS", value_name = "CLIENT", value_delimiter = ',', value_parser = habit)]
    pub clients: Vec<Habit>,

    /// How many processes of each client there are.
    #[arg(long, env = "REHEARSE_PROCESSES", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000), default_value = "1")]
    pub processes: u32,

    /// How many resolvers they share, whose caches are in phases of their own [default: one for each process].
    #[arg(long, env = "REHEARSE_RESOLVERS", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub resolvers: Option<u32>,

    /// Write the figures as JSON instead of tables.
    #[arg(long, env = "REHEARSE_JSON")]
    pub json: bool,
}

/// A grid of settings.
#[derive(Args, Debug)]
pub struct SweepOptions {
    /// What is simulated in each cell.
    #[command(flatten)]
    pub crowd: CrowdOptions,

    /// TTLs of the records.
    #[arg(long, env = "REHEARSE_TTLS", value_name = "DURATION", value_delimiter = ',', value_parser = duration::parse, default_value = "5s,15s,30s,60s,120s")]
    pub ttls: Vec<Duration>,

    /// How long tasks go on serving after SIGTERM.
    #[arg(long, env = "REHEARSE_DRAINS", value_name = "DURATION", value_delimiter = ',', value_parser = duration::parse, default_value = "0s,10s,20s,35s,50s,65s,95s,125s")]
    pub drains: Vec<Duration>,

    /// Minimum healthy percents [default: 50 and 100].
    #[arg(long, env = "REHEARSE_MINIMUMS", value_name = "PERCENT", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(0..=100), default_value = "50,100")]
    pub minimums: Vec<u32>,

    /// Intervals of the container health check.
    #[arg(long, env = "REHEARSE_INTERVALS", value_name = "DURATION", value_delimiter = ',', value_parser = duration::parse, default_value = "30s,5s")]
    pub intervals: Vec<Duration>,

    /// Virtual time for all cells, which is what it does unless told otherwise.
    #[arg(long, env = "REHEARSE_SIMULATED", conflicts_with = "real")]
    pub simulated: bool,

    /// Real processes too, for clients that there are for real, and whether what they saw is what the simulation expects.
    /// Each cell takes ten seconds or more, so that there may be 48 of them.
    #[arg(long, env = "REHEARSE_REAL")]
    pub real: bool,
}

/// A service as it is, and what is asked of it. Its rules are set with --set.
#[derive(Args, Debug)]
pub struct RecommendOptions {
    /// What decides.
    #[command(flatten)]
    pub crowd: CrowdOptions,

    /// What the drain is to have beyond what is needed: DNS may be later than it is in the rules.
    #[arg(long, env = "REHEARSE_MARGIN", value_name = "DURATION", value_parser = duration::parse, default_value = "5s")]
    pub margin: Duration,

    /// What a task needs after its drain to finish what is in flight: its longest request, and a little.
    #[arg(long, env = "REHEARSE_GRACE", value_name = "DURATION", value_parser = duration::parse, default_value = "5s")]
    pub grace: Duration,

    /// The longest time from SIGTERM to SIGKILL that the platform allows. On Fargate it is 120s.
    #[arg(long, env = "REHEARSE_MOST_STOP_TIMEOUT", value_name = "DURATION", value_parser = duration::parse, default_value = "120s")]
    pub most_stop_timeout: Duration,
}

impl CrowdOptions {
    /// How many deployments.
    #[must_use]
    pub fn deploys(&self) -> usize {
        count(self.deploys)
    }

    /// Who watches, each sending so many requests a second.
    #[must_use]
    pub fn crowd(&self, rate: f64) -> Crowd {
        let clients = count(self.processes);
        Crowd { clients, resolvers: self.resolvers.map_or(clients, count), rate }
    }

    /// The clients that were asked for, or these.
    #[must_use]
    pub fn clients(&self, or: &[&str]) -> Vec<Habit> {
        if !self.clients.is_empty() {
            return self.clients.clone();
        }
        HABITS.into_iter().filter(|habit| or.is_empty() || or.contains(&habit.name)).collect()
    }
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl SweepOptions {
    /// What is swept over, in order.
    ///
    /// # Errors
    ///
    /// If it cannot be.
    pub fn grid(&self) -> Result<Grid, Error> {
        let times = |times: &[Duration]| times.iter().copied().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
        let (ttls, intervals) = (times(&self.ttls), times(&self.intervals));
        if let Some(zero) = ttls.first().filter(|ttl| ttl.is_zero()) {
            return Err(Error::Settings(format!(
                "a TTL of {zero:?} is no TTL: nobody may keep the answer. Give 1s or more"
            )));
        }
        let minimums = self.minimums.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let habits = self.crowd.clients(&["front", "try-next", "first-only"]);
        Ok(Grid { ttls, drains: times(&self.drains), minimums, intervals, habits })
    }
}

/// A command and its arguments.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Words(pub Vec<String>);

fn words(text: &str) -> Result<Words, String> {
    let words = shell_words::split(text).map_err(|error| error.to_string())?;
    if words.is_empty() { Err("expected a command".to_owned()) } else { Ok(Words(words)) }
}

fn speed(text: &str) -> Result<f64, String> {
    let range = 0.1..=100.0;
    text.parse()
        .ok()
        .filter(|speed| range.contains(speed))
        .ok_or_else(|| "expected a factor from 0.1 to 100".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let range = 0.01..=100_000.0;
    text.parse()
        .ok()
        .filter(|rate| range.contains(rate))
        .ok_or_else(|| "expected a number from 0.01 to 100000".to_owned())
}

fn net(text: &str) -> Result<Ipv4Addr, String> {
    text.parse()
        .ok()
        // Each of the runs that go on side by side has the addresses of another second byte.
        .filter(|address: &Ipv4Addr| address.is_loopback() && address.octets()[1] < 250 && address.octets()[3] > 0)
        .ok_or_else(|| "expected an address from 127.0.0.1 to 127.249.255.255, such as 127.0.1.1".to_owned())
}

impl Options {
    /// The rules, as they are set.
    ///
    /// # Errors
    ///
    /// If one cannot be set so, or they do not fit together.
    pub fn rules(&self) -> Result<Rules, Error> {
        let mut rules = Rules::default();
        for setting in &self.set {
            rules.set(setting).map_err(Error::Settings)?;
        }
        rules.check_together().map_err(Error::Settings)?;
        Ok(rules)
    }

    /// The stage on which all runs are.
    ///
    /// # Errors
    ///
    /// If a rule cannot be set so.
    pub fn stage(&self) -> Result<Stage, Error> {
        let rules = self.rules()?;
        let beside = std::env::current_exe()?;
        let path = |name: &str, given: &Option<PathBuf>| given.clone().unwrap_or_else(|| beside.with_file_name(name));
        let binaries = Binaries {
            init: path("init", &self.init_binary),
            front: path("front", &self.front_binary),
            back: path("back", &self.back_binary),
        };
        Ok(Stage {
            binaries,
            speed: self.speed,
            rate: self.rate,
            phases: self.phases.into(),
            seed: self.seed,
            net: self.net,
            task_port: self.task_port,
            rules,
        })
    }
}

impl Deploy {
    /// What is rehearsed.
    ///
    /// # Errors
    ///
    /// If its parts do not fit together.
    pub fn scenario(&self, stage: &Stage) -> Result<Scenario, Error> {
        let mut rules = stage.rules.clone();
        rules.desired = self.desired.unwrap_or(rules.desired);
        rules.ttl = self.ttl.unwrap_or(rules.ttl);
        let drain = self.drain.unwrap_or(rules.ttl + MARGIN);
        let needed = if self.entrypoint == "init" { drain + self.grace } else { Duration::ZERO };
        // What somebody has set is not what somebody has forgotten.
        let is_unset = rules.stop_timeout == Rules::default().stop_timeout;
        let enough = if is_unset { rules.stop_timeout.max(needed) } else { rules.stop_timeout };
        rules.stop_timeout = self.stop_timeout.unwrap_or(enough);
        let entrypoint = match self.entrypoint.as_str() {
            "init" => Entrypoint::Init { drain, grace: self.grace, skips_unhealthy: false },
            "none" => Entrypoint::None,
            command => Entrypoint::Other(words(command).map_err(Error::Settings)?.0),
        };
        let front = match self.front.as_str() {
            "front" => FrontChoice::Ours,
            "none" => FrontChoice::None,
            command => FrontChoice::Other(words(command).map_err(Error::Settings)?.0),
        };
        let path = if self.task.is_none() { "/health" } else { "/" };
        let probe = match &self.health {
            Some(probe) => probe.clone(),
            None => format!("http://{{ip}}:{{port}}{path}").parse().map_err(Error::Settings)?,
        };
        let naive = |profile: &Profile| (*profile, stage.phases);
        let mut clients: Vec<_> =
            self.clients.iter().filter(|profile| **profile != Profile::Front).map(naive).collect();
        if front != FrontChoice::None {
            clients.push((Profile::Front, 1));
        } else if clients.is_empty() {
            clients.extend([Profile::TryNext, Profile::FirstOnly].iter().map(naive));
        }
        Ok(Scenario {
            title: "deploy".to_owned(),
            rules,
            entrypoint,
            task: self.task.clone().map_or_else(|| stage.back(), |words| words.0),
            probe,
            front,
            clients,
            path: self.path.clone(),
            deed: Deed::Deploy,
            warm_up: Duration::from_secs(10),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_flag_has_a_variable_of_its_name() {
        let check = |command: &clap::Command| {
            for argument in command.get_arguments().filter(|it| !["help", "version"].contains(&it.get_id().as_str())) {
                // What has no flag is named after itself.
                let flag = argument.get_long().unwrap_or(argument.get_id().as_str());
                let expected = format!("REHEARSE_{}", flag.to_uppercase().replace('-', "_"));
                assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(expected.as_str()), "--{flag}");
            }
        };
        let command = Cli::command();
        command.clone().debug_assert();
        check(&command);
        command.get_subcommands().for_each(check);
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_could() {
        for (arguments, expected) in [
            (&["--speed", "0"][..], "from 0.1 to 100"),
            (&["--rate", "0"], "from 0.01"),
            (&["--net", "10.0.0.1"], "127.0.1.1"),
            (&["--net", "127.0.1.0"], "127.0.1.1"),
            (&["--set", "ttl"], "ttl=15s"),
            (&["--task-port", "0"], "1.."),
            (&["deploy", "--clients", "curl"], "try-next"),
            (&["deploy", "--task", ""], "expected a command"),
            (&["deploy", "--health", "/"], "http://{ip}:{port}/health"),
        ] {
            let refused = Cli::try_parse_from([&["rehearse"], arguments].concat()).unwrap_err().to_string();
            assert!(refused.contains(expected), "{arguments:?}: {refused}");
        }
    }
}

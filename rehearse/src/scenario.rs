//! What is rehearsed, from settings that fit together to runs that can be run. Pure but for the paths of the programs.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use humantime::format_duration;

use crate::{
    agent::Launch,
    client::Profile,
    cluster::Addresses,
    deployment::Service,
    dns::Names,
    error::Error,
    probe::ProbeUrl,
    rules::{RULES, Rules},
    run::{Caller, Deed, Run},
};

/// How long a task may take from the signal that init passes on to its end, unless told otherwise: init's own default.
pub const GRACE: Duration = Duration::from_secs(5);

/// What a drain should have beyond the TTL: DNS shows a deregistration late. As init's `--dns-margin`.
pub const MARGIN: Duration = Duration::from_secs(5);

/// The programs of this product, which are rehearsed as whatever else is: from outside.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Binaries {
    /// The entrypoint.
    pub init: PathBuf,
    /// The calling side.
    pub front: PathBuf,
    /// The called side.
    pub back: PathBuf,
}

/// What stands before a task's own command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Entrypoint {
    /// Nothing.
    None,
    /// init.
    Init {
        /// How long it keeps the task serving.
        drain: Duration,
        /// How long the task has after that.
        grace: Duration,
        /// Whether a task that is unhealthy already is not kept.
        skips_unhealthy: bool,
    },
    /// Another program, with its arguments.
    Other(Vec<String>),
}

/// What stands between the clients and the tasks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FrontChoice {
    /// Nothing: clients find the tasks by themselves.
    None,
    /// front.
    Ours,
    /// Another program, with its arguments.
    Other(Vec<String>),
}

/// What all runs of a rehearsal share.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The programs.
    pub binaries: Binaries,
    /// How many seconds of the service pass in one.
    pub speed: f64,
    /// How many requests each client sends in a second of the service.
    pub rate: f64,
    /// How many clients of a kind there are, each with a cache in a phase of its own.
    pub phases: usize,
    /// What chance comes from.
    pub seed: u64,
    /// The first address of the first run's tasks.
    pub net: Ipv4Addr,
    /// Where tasks listen.
    pub task_port: u16,
    /// The rules, where a run does not set them.
    pub rules: Rules,
}

/// One run, in the words of its settings.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it shows.
    pub title: String,
    /// Its rules.
    pub rules: Rules,
    /// What stands before a task's command.
    pub entrypoint: Entrypoint,
    /// The task's own command.
    pub task: Vec<String>,
    /// Where it is probed.
    pub probe: ProbeUrl,
    /// What stands between clients and tasks.
    pub front: FrontChoice,
    /// The clients, with how many of each there are.
    pub clients: Vec<(Profile, usize)>,
    /// What they ask for.
    pub path: String,
    /// What is done.
    pub deed: Deed,
    /// How long requests come before.
    pub warm_up: Duration,
}

impl Stage {
    /// A time of the service as init or front are told it.
    fn scaled(&self, time: Duration) -> String {
        let real = time.div_f64(self.speed);
        // To the millisecond: nothing needs to be exact beyond that, and it can be read.
        format_duration(Duration::from_millis(u64::try_from(real.as_millis()).unwrap_or(u64::MAX))).to_string()
    }

    /// How many at once front is told, of so many at speed 1: more requests come in a second, and none is answered sooner.
    fn scaled_count(&self, count: u32) -> String {
        format!("{:.0}", (f64::from(count) * self.speed).ceil())
    }

    /// back's command.
    #[must_use]
    pub fn back(&self) -> Vec<String> {
        let words =
            ["--listen", "{ip}:{port}", "--task-id", "{task}", "--revision", "{revision}", "--log-level", "warn"];
        let own = self.binaries.back.to_string_lossy().into_owned();
        [own].into_iter().chain(words.map(str::to_owned)).chain(["--enable-faults".to_owned()]).collect()
    }

    fn front(&self, choice: &FrontChoice, names: &Names) -> Option<Launch> {
        let command = match choice {
            FrontChoice::None => return None,
            FrontChoice::Other(command) => command.clone(),
            FrontChoice::Ours => {
                let backend = format!("http://{}.{}:{}", names.service, names.namespace, self.task_port);
                let secs = Duration::from_secs;
                // What front counts in the seconds of DNS goes as fast as DNS does here.
                let options = [
                    ("--listen", "{ip}:{port}".to_owned()),
                    ("--backend", backend),
                    ("--resolver", "{resolver}".to_owned()),
                    ("--dns-min-ttl", self.scaled(secs(1))),
                    ("--dns-max-ttl", self.scaled(secs(10))),
                    ("--dns-absent-grace", self.scaled(secs(30))),
                    ("--set-aside", self.scaled(secs(5))),
                    ("--set-aside-max", self.scaled(secs(60))),
                    ("--wait-for-task", self.scaled(secs(2))),
                    ("--max-in-flight", self.scaled_count(1024)),
                    ("--max-connections", self.scaled_count(4096)),
                    ("--log-level", "warn".to_owned()),
                ];
                let own = self.binaries.front.to_string_lossy().into_owned();
                let options = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
                [own].into_iter().chain(options).collect()
            }
        };
        Some(Launch { command, environment: Vec::new(), port: 0 })
    }

    /// The words before the task's command.
    fn entrypoint(&self, scenario: &Scenario) -> Vec<String> {
        match &scenario.entrypoint {
            Entrypoint::None => Vec::new(),
            Entrypoint::Other(command) => command.clone(),
            Entrypoint::Init { drain, grace, skips_unhealthy } => {
                let mut words = vec![
                    self.binaries.init.to_string_lossy().into_owned(),
                    "--drain".to_owned(),
                    self.scaled(*drain),
                    "--stop-timeout".to_owned(),
                    self.scaled(scenario.rules.stop_timeout),
                    "--grace".to_owned(),
                    self.scaled(*grace),
                    "--log-level".to_owned(),
                    "warn".to_owned(),
                ];
                if *skips_unhealthy {
                    words.extend(["--health-url".to_owned(), scenario.probe.to_string()]);
                }
                words.push("--".to_owned());
                words
            }
        }
    }

    /// Whether the programs of this product that a scenario needs are there.
    fn check_programs(&self, scenario: &Scenario) -> Result<(), Error> {
        let needs_init = matches!(scenario.entrypoint, Entrypoint::Init { .. });
        let needed = [
            ("init", &self.binaries.init, needs_init),
            ("front", &self.binaries.front, scenario.front == FrontChoice::Ours),
            ("back", &self.binaries.back, scenario.task == self.back()),
        ];
        match needed.into_iter().find(|(_, path, is_needed)| *is_needed && !path.is_file()) {
            Some((name, path, _)) => Err(Error::NoBinary { name, path: path.clone() }),
            None => Ok(()),
        }
    }

    /// The run of a scenario. Runs that go on at the same time have numbers of their own, and with them addresses.
    ///
    /// # Errors
    ///
    /// If its settings do not fit together, with the arithmetic.
    pub fn run(&self, scenario: Scenario, number: u8) -> Result<Run, Error> {
        let rules = &scenario.rules;
        rules.check_together().map_err(Error::Settings)?;
        if let Entrypoint::Init { drain, grace, .. } = scenario.entrypoint {
            let needed = drain + grace;
            if needed > rules.stop_timeout {
                return Err(Error::Settings(format!(
                    "a drain of {} and a grace of {} need {}, and the stop timeout is {}: the platform would kill tasks while \
                     they serve. Set stop-timeout={} or more, or shorten the drain",
                    format_duration(drain),
                    format_duration(grace),
                    format_duration(needed),
                    format_duration(rules.stop_timeout),
                    format_duration(needed),
                )));
            }
        }
        self.check_programs(&scenario)?;
        let names = Names { service: "fsde-back".to_owned(), namespace: "internal".to_owned() };
        let command = [self.entrypoint(&scenario), scenario.task.clone()].concat();
        let first = Ipv4Addr::from(u32::from(self.net) + (u32::from(number) << 16));
        let front_address = Ipv4Addr::from(u32::from(first) + (200 << 8));
        let callers = scenario
            .clients
            .iter()
            .flat_map(|(profile, count)| callers(*profile, *count, rules.resolver_caches))
            .collect();
        let mut settings: Vec<_> = [
            ("entrypoint", in_words(&scenario.entrypoint)),
            ("task", scenario.task.join(" ")),
            (
                "front",
                match &scenario.front {
                    FrontChoice::None => "none".to_owned(),
                    FrontChoice::Ours => "front".to_owned(),
                    FrontChoice::Other(command) => command.join(" "),
                },
            ),
            ("requests per second and client", self.rate.to_string()),
            ("speed", self.speed.to_string()),
            ("seed", self.seed.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        settings.extend(RULES.iter().map(|rule| (rule.name.to_owned(), (rule.get)(rules))));
        let cool_down = rules.ttl + rules.deregister_lag + Duration::from_secs(5);
        Ok(Run {
            title: scenario.title,
            settings,
            front: self.front(&scenario.front, &names),
            front_address,
            names,
            callers,
            rate: self.rate,
            path: scenario.path,
            speed: self.speed,
            warm_up: scenario.warm_up,
            cool_down: match scenario.deed {
                Deed::Watch(_) => Duration::ZERO,
                Deed::Deploy | Deed::Break(_) => cool_down,
            },
            deed: scenario.deed,
            limit: Duration::from_mins(15),
            service: Service {
                addresses: Addresses { first, count: 190 * 254 },
                launch: Launch { command, environment: Vec::new(), port: self.task_port },
                probe: scenario.probe,
                seed: self.seed,
                rules: scenario.rules,
            },
        })
    }
}

fn in_words(entrypoint: &Entrypoint) -> String {
    match entrypoint {
        Entrypoint::None => "none".to_owned(),
        Entrypoint::Init { drain, skips_unhealthy, .. } => {
            let unless = if *skips_unhealthy { ", unless it is unhealthy" } else { "" };
            format!("init, drain {}{unless}", format_duration(*drain))
        }
        Entrypoint::Other(command) => command.join(" "),
    }
}

/// Clients of a kind whose caches are in phases that are spread evenly.
fn callers(profile: Profile, count: usize, caches: u32) -> impl Iterator<Item = Caller> {
    (0..count).map(move |index| {
        let name = if count == 1 { String::new() } else { format!("cache phase {} of {count}", index + 1) };
        #[expect(clippy::cast_precision_loss, reason = "a few clients")]
        let phase = (index as f64 + 0.5) / count as f64;
        Caller { profile, name, phase, caches: usize::try_from(caches).unwrap_or(1) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage() -> Stage {
        // Any file will do: none of them is run.
        let file = |name: &str| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let binaries = Binaries { init: file("Cargo.toml"), front: file("src/lib.rs"), back: file("src/main.rs") };
        let (net, rules) = (Ipv4Addr::new(127, 0, 1, 1), Rules::default());
        Stage { binaries, speed: 10.0, rate: 10.0, phases: 4, seed: 1, net, task_port: 1235, rules }
    }

    fn scenario(drain: u64) -> Scenario {
        let drain = Duration::from_secs(drain);
        Scenario {
            title: "a deployment".to_owned(),
            rules: Rules::default(),
            entrypoint: Entrypoint::Init { drain, grace: GRACE, skips_unhealthy: true },
            task: stage().back(),
            probe: "http://{ip}:{port}/health".parse().unwrap(),
            front: FrontChoice::Ours,
            clients: vec![(Profile::TryNext, 4), (Profile::Front, 1)],
            path: "/".to_owned(),
            deed: Deed::Deploy,
            warm_up: Duration::from_secs(10),
        }
    }

    #[test]
    fn times_that_our_programs_are_told_go_as_fast_as_the_service() {
        let run = stage().run(scenario(25), 0).unwrap();
        let command = run.service.launch.command.join(" ");
        assert!(command.contains("/Cargo.toml --drain 2s 500ms --stop-timeout 3s --grace 500ms"), "{command}");
        assert!(command.contains("--health-url http://{ip}:{port}/health -- "), "{command}");
        assert!(command.contains("/src/main.rs --listen {ip}:{port}"), "{command}");
        let front = run.front.unwrap().command.join(" ");
        assert!(front.contains("--dns-max-ttl 1s"), "{front}");
        assert!(front.contains("--max-in-flight 10240"), "{front}");
        assert!(front.contains("--backend http://fsde-back.internal:1235 --resolver {resolver}"), "{front}");
    }

    #[test]
    fn a_drain_that_does_not_fit_is_refused_with_the_sum() {
        let refused = stage().run(scenario(30), 0).unwrap_err().to_string();
        for part in ["a drain of 30s", "a grace of 5s", "need 35s", "stop timeout is 30s", "stop-timeout=35s"] {
            assert!(refused.contains(part), "{part:?} is not in {refused:?}");
        }
    }

    #[test]
    fn a_program_that_is_needed_and_not_there_is_told_with_its_place() {
        let mut stage = stage();
        stage.binaries.init = "/nowhere/init".into();
        let refused = stage.run(scenario(20), 0).unwrap_err().to_string();
        assert!(refused.contains("/nowhere/init") && refused.contains("--init-binary"), "{refused}");
        let without = Scenario { entrypoint: Entrypoint::None, ..scenario(20) };
        assert!(stage.run(without, 0).is_ok());
    }

    #[test]
    fn caches_of_a_kind_are_in_phases_that_are_spread_evenly() {
        let run = stage().run(scenario(20), 3).unwrap();
        let phases: Vec<_> = run.callers.iter().map(|caller| caller.phase).collect();
        assert_eq!(phases, [0.125, 0.375, 0.625, 0.875, 0.5]);
        assert_eq!(run.callers[1].name, "cache phase 2 of 4");
        assert_eq!(run.service.addresses.first, Ipv4Addr::new(127, 3, 1, 1));
    }
}

//! The `rehearse` binary: reads the flags, runs what they ask for, says what came of it.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::SystemTime,
};

use clap::Parser;
use console::log;
use humantime::format_duration;
use rehearse::{
    agreement,
    cli::{Cli, Command, Deploy, Options, RecommendOptions, Simulate, SweepOptions},
    error::Error,
    experiments::{self, Experiment},
    nursery, predict,
    rehearsal::{Display, Findings, machine, write, write_sweep},
    report::{
        Report,
        sweep::{Head, SweepFile, SweepSchema},
        text::{Look, summary},
    },
    rules::{RULES, Rules},
    scenario::Stage,
    simulate::{self, Model, Wanted},
    timeline,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// It was run, and what came out is not what should have.
const BROKEN: u8 = 1;
/// It could not be run.
const NOT_RUN: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // The help or the version, on stdout; or what is wrong with the flags, on stderr.
            let _ = error.print();
            return if error.use_stderr() { NOT_RUN.into() } else { ExitCode::SUCCESS };
        }
    };
    allow_descriptors();
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        // A release does not unwind: what is left has to go here.
        nursery::end();
    }));
    let adopted = nursery::adopt().map_err(Error::from);
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(Error::from);
    let code = adopted.and(runtime).and_then(|runtime| runtime.block_on(rehearse(cli)));
    // Whatever way it ended.
    nursery::end();
    code.unwrap_or_else(|error| {
        log::tell(&format!("rehearse: {error}"));
        NOT_RUN.into()
    })
}

/// Raises the soft limit of open files to the hard one: each request in flight has one.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // What is there has to do, if not.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

async fn rehearse(cli: Cli) -> Result<ExitCode, Error> {
    match cli.command {
        Some(Command::Rules) => {
            list_rules(&cli.options.rules()?);
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Simulate(simulate)) => simulate_deploys(&simulate, &cli.options),
        Some(Command::Sweep(sweep)) => sweep_cells(&sweep, &cli.options).await,
        Some(Command::Recommend(recommend)) => recommend_drain(&recommend, &cli.options),
        Some(Command::Scenarios(scenarios)) => {
            let said = scenarios.run(&cli.options.set, cli.options.seed)?;
            say(&said.text);
            Ok(if said.held { ExitCode::SUCCESS } else { BROKEN.into() })
        }
        Some(Command::Deploy(deploy)) => own_service(&deploy, &cli.options, &cli.options.stage()?).await,
        None => four_questions(&cli.only, &cli.options, &cli.options.stage()?).await,
    }
}

async fn four_questions(only: &[String], options: &Options, stage: &Stage) -> Result<ExitCode, Error> {
    let chosen: Vec<&str> =
        if only.is_empty() { experiments::NAMES.to_vec() } else { only.iter().map(String::as_str).collect() };
    // All of them first: what does not fit is said before anything is run.
    let experiments =
        chosen.into_iter().map(|name| experiments::named(name, stage)).collect::<Result<Vec<_>, Error>>()?;
    let report = conduct(experiments, options).await?;
    let has_held = !report.was_interrupted && report.answers.iter().all(|answer| answer.held);
    Ok(if has_held { ExitCode::SUCCESS } else { BROKEN.into() })
}

async fn own_service(deploy: &Deploy, options: &Options, stage: &Stage) -> Result<ExitCode, Error> {
    let run = stage.run(deploy.scenario(stage)?, 0)?;
    let experiment = Experiment { name: "deploy", series: vec![run], parallel: vec![], answers: vec![] };
    let report = conduct(vec![experiment], options).await?;
    let failed: u64 = report.runs.iter().flat_map(|run| &run.summaries).map(|summary| summary.failed).sum();
    let ending = report.runs.first().and_then(|run| timeline::not_deployed(&run.record.events));
    let has_held = !report.was_interrupted && failed <= deploy.objective && ending.is_none();
    let word = if has_held { "kept" } else { "broken" };
    say(&format!("\nobjective: revision 2, and at most {} failed requests: {word}, with {failed}\n", deploy.objective));
    if let Some(ending) = ending.filter(|_| !report.was_interrupted) {
        say(&format!("revision 2 was not deployed: {ending}\n"));
    }
    Ok(if has_held { ExitCode::SUCCESS } else { BROKEN.into() })
}

/// Runs experiments, and reports on them; also on what was seen until somebody had enough.
async fn conduct(experiments: Vec<Experiment>, options: &Options) -> Result<Report, Error> {
    let started = now();
    let cancelled = until_stopped()?;
    let display = Display::new(io::stderr().is_terminal());
    let mut findings = Findings::default();
    let mut failed = None;
    for experiment in experiments {
        if let Err(error) = findings.add(experiment, &display, &cancelled).await {
            failed = Some(error);
            break;
        }
    }
    if let Some(error) = failed.take_if(|_| findings.runs.is_empty()) {
        return Err(error);
    }
    findings.is_cut_short |= failed.is_some();
    for warning in &findings.warnings {
        log::tell(&format!("rehearse: {warning}"));
    }
    let report = findings.report(command(), started, machine());
    let is_terminal = io::stdout().is_terminal();
    let columns = rustix::termios::tcgetwinsize(io::stdout()).map_or(100, |size| usize::from(size.ws_col).max(40));
    say(&summary(&report, Look { is_coloured: is_terminal && std::env::var_os("NO_COLOR").is_none(), columns }));
    write(&report, &options.output)?;
    say(&format!("\nreport: {}\n", options.output.join("report.html").display()));
    failed.map_or(Ok(report), Err)
}

/// The date, for people.
fn now() -> String {
    #[expect(clippy::disallowed_methods, reason = "the date of a report is for people; nothing is decided by it")]
    let now = SystemTime::now();
    humantime::format_rfc3339_seconds(now).to_string()
}

/// This command, as it was given.
fn command() -> String {
    let words: Vec<_> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    shell_words::join(words)
}

/// Whether somebody had enough.
fn until_stopped() -> Result<watch::Receiver<bool>, Error> {
    let (cancel, cancelled) = watch::channel(false);
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
            _ = hung_up.recv() => {}
            _ = quit.recv() => {}
        }
        log::tell("rehearse: stopping; the report tells of what was seen");
        cancel.send_replace(true);
        // Kept, as whoever watches would take its end for nothing.
        std::future::pending::<()>().await;
    });
    Ok(cancelled)
}

/// Deploys in virtual time, and tells what came of it.
fn simulate_deploys(cli: &Simulate, options: &Options) -> Result<ExitCode, Error> {
    let rules = options.rules()?;
    if cli.drain > rules.stop_timeout {
        let (drain, stop_timeout) = (format_duration(cli.drain), format_duration(rules.stop_timeout));
        return Err(Error::Settings(format!(
            "a drain of {drain} is longer than the stop timeout of {stop_timeout}: the platform would kill tasks while they serve. \
             Set stop-timeout={drain} or more, or shorten the drain"
        )));
    }
    let deploys = cli.crowd.deploys();
    let title = format!(
        "{deploys} deploys, TTL {}, drain {}; failed requests of one deploy\n\n",
        format_duration(rules.ttl),
        format_duration(cli.drain)
    );
    let model = Model::new(rules, cli.drain);
    let crowd = cli.crowd.crowd(options.rate);
    let forecasts = simulate::forecast(&model, &cli.crowd.clients(&[]), &crowd, deploys, options.seed);
    if cli.crowd.json {
        say_json(&forecasts)?;
    } else {
        say(&format!("{title}{}", predict::forecasts(&forecasts)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Deploys in each cell of a grid, in virtual time, and with real processes where that is asked for.
async fn sweep_cells(cli: &SweepOptions, options: &Options) -> Result<ExitCode, Error> {
    let grid = cli.grid()?;
    let stage = options.stage()?;
    let cells = agreement::cells(&grid);
    if cli.real && cells > agreement::MOST_CELLS {
        return Err(Error::Settings(format!(
            "{cells} cells with real processes would take long, and {} is the most: give fewer --ttls, --drains, --minimums or \
             --intervals",
            agreement::MOST_CELLS
        )));
    }
    let crowd = cli.crowd.crowd(options.rate);
    let mut sweep = simulate::sweep(&stage.rules, &grid, &crowd, cli.crowd.deploys(), options.seed);
    let cancelled = until_stopped()?;
    if cli.real {
        let display = Display::new(io::stderr().is_terminal());
        agreement::run_cells(&stage, &grid, &mut sweep, &display, &cancelled).await?;
    }
    let command = command();
    let (started, machine) = (now(), machine());
    let head = Head {
        command: &command,
        version: console::VERSION,
        // In virtual time the same seed gives the same page, whenever and wherever that is.
        started: cli.real.then_some(started.as_str()),
        machine: cli.real.then_some(&machine),
    };
    let file = SweepFile { schema: SweepSchema, version: console::VERSION.to_owned(), command: command.clone(), sweep };
    write_sweep(&file, &head, &options.output)?;
    let sweep = &file.sweep;
    if cli.crowd.json {
        say_json(sweep)?;
    } else {
        say(&predict::sweep(sweep));
        if cli.real {
            say(&format!("\nwith real processes, at {} times the speed\n{}", options.speed, predict::agreement(sweep)));
        }
        say(&format!("\nsweep: {}\n", options.output.join("sweep.html").display()));
    }
    let cells = sweep.panels.iter().flat_map(|panel| &panel.columns).flat_map(|column| &column.cells);
    let agrees = cells.filter_map(|cell| cell.real.as_ref()).all(|real| real.agrees);
    Ok(if agrees && !*cancelled.borrow() { ExitCode::SUCCESS } else { BROKEN.into() })
}

/// Says what to set.
fn recommend_drain(cli: &RecommendOptions, options: &Options) -> Result<ExitCode, Error> {
    let wanted = Wanted {
        rules: options.rules()?,
        habits: cli.crowd.clients(&["front", "try-next", "first-only", "fixed-order", "keep-alive"]),
        crowd: cli.crowd.crowd(options.rate),
        margin: cli.margin,
        grace: cli.grace,
        most_stop_timeout: cli.most_stop_timeout,
        deploys: cli.crowd.deploys(),
        seed: options.seed,
    };
    let said = simulate::recommend(&wanted);
    if cli.crowd.json {
        say_json(&said)?;
    } else {
        say(&predict::recommendation(&said, &wanted));
    }
    let is_enough = said.fits && said.hopeless().next().is_none();
    Ok(if is_enough { ExitCode::SUCCESS } else { BROKEN.into() })
}

fn say_json(value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    say(&format!("{text}\n"));
    Ok(())
}

fn list_rules(rules: &Rules) {
    let name = RULES.iter().map(|rule| rule.name.len()).max().unwrap_or(0);
    let value = RULES.iter().map(|rule| (rule.get)(rules).len()).max().unwrap_or(0);
    for rule in RULES {
        let set = (rule.get)(rules);
        say(&format!(
            "{:name$}  {set:value$}  {}\n{:name$}  {:value$}  source: {}\n",
            rule.name, rule.meaning, "", "", rule.source
        ));
    }
}

/// To stdout. Whoever has closed it does not want to know.
fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

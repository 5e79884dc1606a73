//! A rehearsal from its first run to its report.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use futures_util::future::join_all;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;

use crate::{
    error::Error,
    experiments::Experiment,
    load::Lateness,
    report::{
        Answer, Judged, Machine, Report, Schema, html, json,
        summary::LATE,
        sweep::{Head, SweepFile, page},
    },
    run::{Progress, Ran, Run},
    timeline::clock,
    verdict::Tenancies,
};

/// What a rehearsal has come to so far.
#[derive(Debug, Default)]
pub struct Findings {
    /// Answers.
    pub answers: Vec<Answer>,
    /// Runs.
    pub runs: Vec<Judged>,
    /// What a person should know of the machine.
    pub warnings: Vec<String>,
    /// It was ended before its time.
    pub is_cut_short: bool,
}

/// Shows how runs go on a terminal; elsewhere a line when each begins and ends.
#[derive(Debug)]
pub struct Display {
    bars: MultiProgress,
    is_terminal: bool,
}

impl Display {
    /// On stderr.
    #[must_use]
    pub fn new(is_terminal: bool) -> Self {
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), is_terminal }
    }

    fn line(&self, text: &str) {
        if self.is_terminal {
            // It cannot be helped if it cannot be shown.
            let _ = self.bars.println(text);
        } else {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    fn bar(&self, title: &str) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new_spinner());
        // A template of this program that is wrong shows as the default.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}  {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(title.to_owned());
        bar
    }
}

fn told(progress: &Progress) -> String {
    let Progress { now, tasks, named, counts } = progress;
    format!("{} · {tasks} tasks, {named} in DNS · {} requests, {} failed", clock(*now), counts.sent, counts.failed)
}

/// Runs it, and shows how it goes.
pub(crate) async fn run(run: Run, display: &Display, cancelled: watch::Receiver<bool>) -> Result<Ran, Error> {
    let title = run.title.clone();
    if !display.is_terminal {
        display.line(&format!("{title} ..."));
    }
    let bar = display.bar(&title);
    let ran = run.run(
        |progress| {
            bar.set_message(told(&progress));
            bar.tick();
        },
        cancelled,
    );
    let ran = ran.await;
    bar.finish_and_clear();
    if let Ok(ran) = &ran {
        let failed = ran.record.requests.iter().filter(|request| !request.is_good()).count();
        let word = if ran.is_cut_short { "cut short" } else { "done" };
        let length = clock(ran.record.length);
        display
            .line(&format!("{title}: {word} after {length}, {} requests, {failed} failed", ran.record.requests.len()));
    }
    ran
}

/// What a person should know of how the machine kept up with a run.
pub(crate) fn warnings(title: &str, lateness: &Lateness, not_sent: u64) -> Vec<String> {
    let mut warnings = Vec::new();
    let late = lateness.at(0.99);
    if late > LATE {
        warnings.push(format!(
            "{title}: this machine sent one request in a hundred {late:.1?} late or more: it is too slow for the load. \
             Lower --speed, --rate or --phases"
        ));
    }
    if not_sent > 0 {
        warnings.push(format!(
            "{title}: {not_sent} requests were not sent, as too many were in flight: lower --speed, --rate or --phases"
        ));
    }
    warnings
}

impl Findings {
    /// Runs an experiment, and answers its questions.
    ///
    /// # Errors
    ///
    /// If a run could not begin.
    pub async fn add(
        &mut self,
        experiment: Experiment,
        display: &Display,
        cancelled: &watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let mut judged = Vec::new();
        for one in experiment.series {
            if *cancelled.borrow() {
                break;
            }
            let ran = run(one, display, cancelled.clone()).await?;
            judged.push(self.judge(ran));
        }
        if !*cancelled.borrow() {
            let runs = experiment.parallel.into_iter().map(|one| run(one, display, cancelled.clone()));
            for ran in join_all(runs).await {
                judged.push(self.judge(ran?));
            }
        }
        self.is_cut_short |= *cancelled.borrow();
        // Half of a run answers nothing.
        if !self.is_cut_short {
            let all: Vec<_> = judged.iter().collect();
            self.answers.extend(experiment.answers.iter().map(|answer| answer(&all)));
        }
        self.runs.extend(judged);
        Ok(())
    }

    fn judge(&mut self, ran: Ran) -> Judged {
        let Ran { mut record, lateness, not_sent, .. } = ran;
        self.warnings.extend(warnings(&record.title, &lateness, not_sent));
        let tenancies = Tenancies::of(&record.events, record.speed);
        // Programs that are not ours do not say which task they are.
        for request in record.requests.iter_mut().filter(|request| request.task.is_none()) {
            request.task =
                request.address.and_then(|address| tenancies.task(address, request.done)).map(|it| it.to_string());
        }
        let causes = record.requests.iter().map(|request| tenancies.cause(request).map(|cause| cause.to_string()));
        let causes = causes.collect();
        Judged::new(record, causes)
    }

    /// The report of all of it.
    #[must_use]
    pub fn report(self, command: String, started: String, machine: Machine) -> Report {
        Report {
            schema: Schema,
            version: console::VERSION.to_owned(),
            command,
            started,
            was_interrupted: self.is_cut_short,
            machine,
            answers: self.answers,
            runs: self.runs,
        }
    }
}

/// Writes `report.html` and `report.json` into a directory, which is made if it is not there.
///
/// # Errors
///
/// If that is not possible.
pub fn write(report: &Report, directory: &Path) -> Result<(), Error> {
    write_both(directory, "report", &html::page(report), |file| json::write(report, file))
}

/// Writes `sweep.html` and `sweep.json` into a directory, which is made if it is not there.
///
/// # Errors
///
/// If that is not possible.
pub fn write_sweep(file: &SweepFile, head: &Head, directory: &Path) -> Result<(), Error> {
    write_both(directory, "sweep", &page(&file.sweep, head), |to| file.write(to))
}

/// The page for people and the file for programs.
fn write_both(
    directory: &Path,
    name: &str,
    page: &str,
    data: impl FnOnce(&mut io::BufWriter<fs::File>) -> io::Result<()>,
) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Report { path, source }
    };
    fs::create_dir_all(directory).map_err(failed(directory))?;
    let path = directory.join(format!("{name}.html"));
    fs::write(&path, page).map_err(failed(&path))?;
    let path = directory.join(format!("{name}.json"));
    let file = fs::File::create(&path).map_err(failed(&path))?;
    let mut file = io::BufWriter::new(file);
    data(&mut file).and_then(|()| file.flush()).map_err(failed(&path))
}

/// This machine, as far as it tells.
#[must_use]
pub fn machine() -> Machine {
    let system = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let field = |file: &str, name: &str| {
        let content = fs::read_to_string(file).unwrap_or_default();
        let line = content.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
        Some(line.trim().to_owned())
    };
    let kib = field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    Machine {
        system: format!("{} {}", text(system.sysname()), text(system.release())),
        architecture: text(system.machine()),
        processor: field("/proc/cpuinfo", "model name").unwrap_or_default(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_mib: kib.unwrap_or(0) / 1024,
    }
}

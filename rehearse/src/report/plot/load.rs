//! Requests by the task that answered them, and those that failed by their cause: counted in slices of time.

use std::{collections::BTreeMap, time::Duration};

use super::{
    axis::{Axis, BOTTOM, LEFT, RIGHT, WIDTH},
    deployments, drawing, hint, life, line, rect, round_up, text, time_axis, value_axis,
};
use crate::report::{
    Judged,
    markup::{Element, Tenths, element},
    words::{count, share},
};

/// More tasks than this cannot be told apart by eye: then revisions are drawn in their place.
const DRAWN_APART: usize = 16;

/// How failures are filled where they stand on answers.
const FAILED: &str = "url(#failed)";

/// The height of a bar of failures, however few they are.
const LEAST: f64 = 2.0;

/// What was counted in each slice of a run.
pub(in crate::report) struct Load {
    /// Those that answered, from the bottom up.
    pub(in crate::report) answered: Vec<Series>,
    /// The causes of failures.
    pub(in crate::report) failed: Vec<Series>,
    /// All failures.
    pub(in crate::report) all_failed: Vec<u64>,
}

/// Counts of one kind.
pub(in crate::report) struct Series {
    pub(in crate::report) name: String,
    /// The colour it is filled with.
    pub(in crate::report) fill: String,
    /// How many in each slice.
    pub(in crate::report) counts: Vec<u64>,
}

impl Series {
    fn new(name: &str, fill: String, axis: &Axis) -> Self {
        Self { name: name.to_owned(), fill, counts: vec![0; axis.slices()] }
    }

    /// How many in all.
    pub(in crate::report) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl Load {
    pub(in crate::report) fn new(judged: &Judged, lives: &[life::Life], axis: &Axis) -> Self {
        let (mut answered, of_task) = answering(lives, axis);
        let mut unnamed = Series::new("a task that was not named", "var(--faint)".to_owned(), axis);
        let mut failed: BTreeMap<&str, Series> = BTreeMap::new();
        let mut all_failed = vec![0; axis.slices()];
        for (request, cause) in judged.record.requests.iter().zip(&judged.causes) {
            let slice = axis.slice_of(request.intended);
            if request.is_good() {
                let series = request.task.as_ref().and_then(|task| of_task.get(task)).map(|at| &mut answered[*at]);
                series.unwrap_or(&mut unnamed).counts[slice] += 1;
            } else {
                let cause = cause.as_deref().unwrap_or("unknown");
                let series = failed.entry(cause);
                let series = series.or_insert_with(|| Series::new(cause, FAILED.to_owned(), axis));
                series.counts[slice] += 1;
                all_failed[slice] += 1;
            }
        }
        answered.push(unnamed);
        answered.retain(|series| series.total() > 0);
        let mut failed: Vec<Series> = failed.into_values().collect();
        failed.sort_by_key(|series| std::cmp::Reverse(series.total()));
        Self { answered, failed, all_failed }
    }
}

/// A series for each task, or each revision, and which of them counts the answers of a task.
fn answering(lives: &[life::Life], axis: &Axis) -> (Vec<Series>, BTreeMap<String, usize>) {
    let mut revisions: BTreeMap<u32, usize> = BTreeMap::new();
    for life in lives {
        *revisions.entry(life.revision).or_default() += 1;
    }
    let mut series: Vec<Series> = Vec::new();
    let mut of_task = BTreeMap::new();
    for (place, (revision, tasks)) in revisions.into_iter().enumerate() {
        let of_revision = lives.iter().filter(|life| life.revision == revision);
        if lives.len() > DRAWN_APART {
            of_task.extend(of_revision.map(|life| (life.task.to_string(), series.len())));
            series.push(Series::new(&format!("revision {revision}"), fill(place, 0, 1), axis));
        } else {
            for (nth, life) in of_revision.enumerate() {
                of_task.insert(life.task.to_string(), series.len());
                let name = format!("{} (revision {revision})", life.task);
                series.push(Series::new(&name, fill(place, nth, tasks), axis));
            }
        }
    }
    (series, of_task)
}

/// Revisions differ in hue, and tasks of one revision in lightness; either way on light and on dark ground.
pub(in crate::report) fn fill(revision: usize, nth: usize, of: usize) -> String {
    const HUES: [u16; 6] = [212, 32, 160, 288, 55, 340];
    let hue = HUES[revision % HUES.len()];
    let lightness = if of < 2 { 52 } else { 40 + 32 * nth / (of - 1) };
    format!("hsl({hue} 62% {lightness}%)")
}

/// Requests per second, by the task that answered; failures on top.
pub(in crate::report) fn requests(load: &Load, axis: &Axis, marks: &[(Duration, String)]) -> Element {
    const HEIGHT: f64 = 230.0;
    let (floor, ceiling) = (HEIGHT - BOTTOM, 10.0);
    let all: Vec<&Series> = load.answered.iter().chain(&load.failed).collect();
    let sums: Vec<u64> = (0..axis.slices()).map(|slice| all.iter().map(|series| series.counts[slice]).sum()).collect();
    let most = sums.iter().copied().max().unwrap_or(0);
    let top = round_up(most.div_ceil(axis.slice()));
    let height = |number: u64| (floor - ceiling) * real(number) / (real(top) * real(axis.slice()));

    let mut below = vec![0; axis.slices()];
    let mut cells = Vec::new();
    for series in &all {
        let mut path = String::new();
        for (slice, &number) in series.counts.iter().enumerate() {
            if number > 0 {
                let (x, width) = axis.place(slice);
                cell(&mut path, x, floor - height(below[slice] + number), width, height(number));
                below[slice] += number;
            }
        }
        cells.push(element("path").with("fill", &series.fill).with("d", path));
    }
    let hints = sums.iter().enumerate().filter(|(_, sum)| **sum > 0).map(|(slice, _)| {
        let (x, width) = axis.place(slice);
        let parts: Vec<String> = all
            .iter()
            .filter(|series| series.counts[slice] > 0)
            .map(|series| format!("{}: {}", series.name, series.counts[slice]))
            .collect();
        let words = format!("from {} s\n{}", axis.start(slice).as_secs(), parts.join("\n"));
        rect(x, ceiling, width, floor - ceiling).child(hint(words))
    });
    let failed: u64 = load.all_failed.iter().sum();
    let description = format!(
        "{} requests of which {} failed, at most {} in {} s. The table below has the numbers.",
        count(sums.iter().sum()),
        count(failed),
        count(most),
        axis.slice()
    );
    drawing(WIDTH, HEIGHT, "Requests per second by the task that answered", &description)
        .child(time_axis(axis, HEIGHT))
        .child(value_axis(top, floor, ceiling))
        .children(cells)
        .child(deployments(axis, marks, HEIGHT))
        .child(element("g").with("class", "hints").children(hints))
}

/// Failures per second, a row for each cause, all to one scale.
pub(in crate::report) fn failures(load: &Load, axis: &Axis, marks: &[(Duration, String)]) -> Element {
    const ROW: f64 = 58.0;
    const BARS: f64 = 36.0;
    let height = ROW * real(load.failed.len() as u64) + BOTTOM;
    let most = load.failed.iter().flat_map(|series| &series.counts).copied().max().unwrap_or(0);
    let top = round_up(most.div_ceil(axis.slice()));
    let rows = load.failed.iter().enumerate().flat_map(|(place, series)| {
        let floor = ROW * real(place as u64 + 1);
        let mut path = String::new();
        let mut hints = Vec::new();
        for (slice, &number) in series.counts.iter().enumerate().filter(|(_, number)| **number > 0) {
            let (x, width) = axis.place(slice);
            // One failure among many is still to be seen.
            let high = (BARS * real(number) / (real(top) * real(axis.slice()))).max(LEAST);
            cell(&mut path, x, floor - high, width, high);
            let words = format!("from {} s\n{}: {number}", axis.start(slice).as_secs(), series.name);
            hints.push(rect(x, floor - BARS, width, BARS).child(hint(words)));
        }
        let name = format!("{}: {}", series.name, count(series.total()));
        [
            text(LEFT, floor - BARS - 6.0, name),
            value_axis(top, floor, floor - BARS),
            element("path").with("class", "bad").with("d", path),
            element("g").with("class", "hints").children(hints),
        ]
    });
    let causes: Vec<String> =
        load.failed.iter().map(|series| format!("{} {}", series.name, count(series.total()))).collect();
    drawing(WIDTH, height, "Failures per second by cause", &causes.join(", "))
        .child(time_axis(axis, height))
        .children(rows)
        .child(deployments(axis, marks, height))
}

/// All failures, as a strip below something else.
pub(super) fn strip(load: &Load, axis: &Axis, floor: f64, height: f64) -> Element {
    let most = load.all_failed.iter().copied().max().unwrap_or(0).max(1);
    let mut path = String::new();
    for (slice, &number) in load.all_failed.iter().enumerate().filter(|(_, number)| **number > 0) {
        let (x, width) = axis.place(slice);
        let high = (height * real(number) / real(most)).max(LEAST);
        cell(&mut path, x, floor - high, width, high);
    }
    element("g")
        .child(line(LEFT, floor, WIDTH - RIGHT, floor).with("class", "floor"))
        .child(element("path").with("class", "bad").with("d", path))
}

/// The numbers of the drawings, a row for each slice in which there were requests.
pub(in crate::report) fn table(load: &Load, axis: &Axis) -> Element {
    let heads = ["from", "answered", "failed"].map(str::to_owned);
    let heads = heads.into_iter().chain(load.failed.iter().map(|series| series.name.clone()));
    let head = element("tr").children(heads.map(|name| element("th").with("scope", "col").text(name)));
    let answered = |slice: usize| load.answered.iter().map(|series| series.counts[slice]).sum::<u64>();
    let busy = (0..axis.slices()).filter(|slice| answered(*slice) + load.all_failed[*slice] > 0);
    let rows = busy.map(|slice| {
        let numbers = [answered(slice), load.all_failed[slice]];
        let numbers = numbers.into_iter().chain(load.failed.iter().map(|series| series.counts[slice]));
        element("tr")
            .child(element("th").with("scope", "row").text(format_args!("{} s", axis.start(slice).as_secs())))
            .children(numbers.map(|number| element("td").text(count(number))))
    });
    element("table").child(element("thead").child(head)).child(element("tbody").children(rows))
}

/// Who answered how much, and how much nobody did.
pub(in crate::report) fn shares(load: &Load) -> Element {
    let failed: u64 = load.all_failed.iter().sum();
    let all: u64 = load.answered.iter().map(Series::total).sum();
    let failed = (failed > 0).then_some(("failed", FAILED, failed));
    let answered = load.answered.iter().map(|series| (series.name.as_str(), series.fill.as_str(), series.total()));
    element("ul").with("class", "legend").children(answered.chain(failed).map(|(name, fill, total)| {
        let share = if name == "failed" { String::new() } else { format!(" ({})", share(total, all)) };
        element("li").child(swatch(fill)).text(format_args!("{name}: {}{share}", count(total)))
    }))
}

/// A patch of colour beside its name.
pub(in crate::report) fn swatch(fill: &str) -> Element {
    element("svg")
        .with("viewBox", "0 0 12 12")
        .with("width", 12)
        .with("height", 12)
        .with("aria-hidden", "true")
        .child(rect(0.0, 0.0, 12.0, 12.0).with("fill", fill))
}

fn cell(path: &mut String, x: f64, y: f64, width: f64, height: f64) {
    use std::fmt::Write;
    // A gap shows where slices meet, as long as there is something between gaps.
    let width = if width > 4.0 { width - 0.8 } else { width };
    write!(path, "M{} {}h{}v{}h-{}z", Tenths(x), Tenths(y), Tenths(width), Tenths(height), Tenths(width))
        .expect("a String takes all");
}

#[expect(clippy::cast_precision_loss, reason = "what is made of it are heights in pixels")]
fn real(number: u64) -> f64 {
    number as f64
}

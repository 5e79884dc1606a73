//! A heat map of one client and one setting: TTLs from left to right, drains from the bottom up, and the law drawn over it.

use std::time::Duration;

use super::words::{Level, deploys_failing, failures, law_in_words, share, time};
use crate::{
    report::{
        markup::{Element, Tenths, element},
        plot::{drawing, hint, line, rect, text},
        words::count,
    },
    simulate::sweep::{Cell, Column, Panel, Real},
};

/// What is left of the cells, for the names of drains.
const LEFT: f64 = 44.0;
/// What is right of them.
const RIGHT: f64 = 4.0;
/// What is above them, for the law's own figures.
const HEAD: f64 = 26.0;
/// What is below them, for the names of TTLs.
const FOOT: f64 = 40.0;
/// How wide a cell is.
const WIDE: f64 = 44.0;
/// How high it is.
const HIGH: f64 = 36.0;

/// The columns of a panel by their TTLs, and the drains of its rows, both from the least.
pub(super) struct Axes<'a> {
    /// By TTL.
    pub(super) columns: Vec<&'a Column>,
    /// Each once.
    pub(super) drains: Vec<Duration>,
}

impl<'a> Axes<'a> {
    pub(super) fn of(panel: &'a Panel) -> Self {
        let mut columns: Vec<_> = panel.columns.iter().collect();
        columns.sort_by_key(|column| column.ttl);
        let cells = columns.iter().flat_map(|column| &column.cells);
        let mut drains: Vec<_> = cells.map(|cell| cell.drain).collect();
        drains.sort_unstable();
        drains.dedup();
        Self { columns, drains }
    }

    /// The drains in seconds.
    fn rows(&self) -> Vec<f64> {
        self.drains.iter().map(Duration::as_secs_f64).collect()
    }
}

/// Where the law puts the bound of a column, in rows from the bottom.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    /// So high: a row's middle is its drain, and between two middles drains are in proportion.
    At(f64),
    /// Above all rows: a longer drain than those of the grid would do.
    Above,
    /// Nowhere: no drain is long enough.
    Nowhere,
}

/// Where a drain lies between these, which are in order; below all of them it lies at the bottom.
fn bound(law: Option<f64>, rows: &[f64]) -> Bound {
    let Some(law) = law else { return Bound::Nowhere };
    if rows.first().is_some_and(|least| law < *least) {
        return Bound::At(0.0);
    }
    let middles = || std::iter::successors(Some(0.5), |middle| Some(middle + 1.0));
    if let Some((_, middle)) = rows.iter().zip(middles()).find(|(row, _)| (**row - law).abs() < 1e-9) {
        return Bound::At(middle);
    }
    let between = rows.windows(2).zip(middles()).find_map(|(pair, middle)| match pair {
        [low, high] if (*low..*high).contains(&law) => Some(middle + (law - low) / (high - low)),
        _ => None,
    });
    between.map_or(Bound::Above, Bound::At)
}

/// The line of the law: level across each column, and upright where it steps to the next.
fn path(bounds: &[Bound], floor: f64) -> String {
    use std::fmt::Write;
    let mut path = String::new();
    let mut is_drawing = false;
    for (bound, left) in bounds.iter().zip(columns()) {
        let y = match bound {
            Bound::At(rows) => floor - rows * HIGH,
            // Just above the cells, and below the law's own figure.
            Bound::Above => HEAD - 3.0,
            Bound::Nowhere => {
                is_drawing = false;
                continue;
            }
        };
        let step = if is_drawing { format!("V{}", Tenths(y)) } else { format!("M{} {}", Tenths(left), Tenths(y)) };
        write!(path, "{step}H{}", Tenths(left + WIDE)).expect("a String takes all");
        is_drawing = true;
    }
    path
}

/// Where columns begin.
fn columns() -> impl Iterator<Item = f64> {
    std::iter::successors(Some(LEFT), |x| Some(x + WIDE))
}

/// The picture.
pub(super) fn map(panel: &Panel, title: &str) -> Element {
    let axes = Axes::of(panel);
    let rows = axes.rows();
    let tops: Vec<f64> = std::iter::successors(Some(HEAD), |y| Some(y + HIGH)).take(rows.len() + 1).collect();
    let floor = tops.last().copied().unwrap_or(HEAD);
    let right = columns().nth(axes.columns.len()).unwrap_or(LEFT);
    let height = floor + FOOT;

    let mut cells = element("g");
    let mut figures = element("g").with("class", "figures");
    for (column, x) in axes.columns.iter().zip(columns()) {
        for (drain, y) in axes.drains.iter().zip(tops.iter().rev().skip(1)) {
            let Some(cell) = column.cells.iter().find(|cell| cell.drain == *drain) else { continue };
            let level = Level::of(cell.simulated.any).class();
            let patch = rect(x + 1.0, y + 1.0, WIDE - 2.0, HIGH - 2.0).with("rx", 3).with("class", level);
            cells = cells.child(patch.child(hint(in_words(column, cell))));
            figures = figures.children(self::figures(cell, level, x, *y));
            figures = figures.children(cell.real.as_ref().map(|real| mark(real, x, *y)));
        }
    }
    let bounds: Vec<Bound> = axes.columns.iter().map(|column| bound(column.law, &rows)).collect();
    let law = path(&bounds, floor);
    let halo = element("path").with("class", "halo").with("d", &law);
    drawing(right + RIGHT, height, title, &described(&axes))
        .with("width", format_args!("{:.0}", right + RIGHT))
        .with("height", format_args!("{height:.0}"))
        .child(cells)
        .child(element("g").with("class", "law").child(halo).child(element("path").with("d", law)))
        .child(figures)
        .child(names(&axes, &bounds, &tops))
}

/// What is written around the cells: drains, TTLs, and the law of each.
fn names(axes: &Axes, bounds: &[Bound], tops: &[f64]) -> Element {
    let floor = tops.last().copied().unwrap_or(HEAD);
    let drains = axes.drains.iter().zip(tops.iter().rev().skip(1));
    let drains =
        drains.map(|(drain, y)| text(LEFT - 6.0, y + HIGH / 2.0 + 4.0, time(*drain)).with("text-anchor", "end"));
    let middles = || columns().map(|x| x + WIDE / 2.0);
    let ttls = axes.columns.iter().zip(middles());
    let ttls = ttls.map(|(column, x)| text(x, floor + 16.0, time(column.ttl)).with("text-anchor", "middle"));
    let laws = axes.columns.iter().zip(bounds).zip(middles()).map(|((column, bound), x)| {
        let arrow = if *bound == Bound::Above { "↑" } else { "" };
        text(x, HEAD - 10.0, format_args!("{arrow}{}", law_in_words(column.law)))
            .with("text-anchor", "middle")
            .with("class", "said")
    });
    let end = columns().nth(axes.columns.len()).unwrap_or(LEFT);
    element("g")
        .with("class", "names")
        .child(text(LEFT - 6.0, HEAD - 10.0, "law").with("text-anchor", "end").with("class", "said"))
        .children(laws)
        .children(drains)
        .children(ttls)
        .child(text(0.0, floor + 16.0, "drain ↑"))
        .child(text(f64::midpoint(LEFT, end), floor + 33.0, "TTL →").with("text-anchor", "middle"))
}

/// What is written in a cell: the share of deploys, and below it how many requests fail in one.
fn figures(cell: &Cell, level: &'static str, x: f64, y: f64) -> Vec<Element> {
    let write = |y: f64, words: String, class: &str| {
        text(x + WIDE / 2.0, y, words).with("text-anchor", "middle").with("class", format_args!("{class}{level}"))
    };
    let forecast = &cell.simulated;
    if forecast.worst == 0 {
        return vec![write(y + HIGH / 2.0 + 4.5, share(forecast.any), "")];
    }
    vec![write(y + 16.0, share(forecast.any), ""), write(y + 29.0, failures(forecast.mean), "less ")]
}

/// A cell that real processes had, too: framed, with a check or a cross in its corner.
fn mark(real: &Real, x: f64, y: f64) -> Element {
    let frame = |class| rect(x + 2.0, y + 2.0, WIDE - 4.0, HIGH - 4.0).with("rx", 2).with("class", class);
    element("g")
        .with("class", if real.agrees { "real" } else { "real differs" })
        .child(frame("frame halo"))
        .child(frame("frame"))
        .child(badge(real.agrees, x + WIDE - 7.0, y + HIGH - 7.0))
}

fn badge(agrees: bool, x: f64, y: f64) -> Element {
    let sign = if agrees {
        format!("M{} {}l2 2l3.4 -4", Tenths(x - 2.8), Tenths(y + 0.2))
    } else {
        format!("M{} {}l4.4 4.4m0 -4.4l-4.4 4.4", Tenths(x - 2.2), Tenths(y - 2.2))
    };
    element("g")
        .with("class", "badge")
        .child(element("circle").at("cx", x).at("cy", y).with("r", 5.5))
        .child(element("path").with("d", sign))
}

/// All that is known of a cell.
fn in_words(column: &Column, cell: &Cell) -> String {
    let it = &cell.simulated;
    let mut lines = vec![format!("TTL {}, drain {}: {}", time(column.ttl), time(cell.drain), deploys_failing(it))];
    if it.worst > 0 {
        lines.push(format!(
            "Failed requests of one deploy: {} on average, {} or fewer in 95 of 100, {} in the worst, of {}",
            failures(it.mean),
            count(it.p95),
            count(it.worst),
            failures(it.requests)
        ));
        lines.push(format!("One client's failed for up to {:.1} s", it.longest));
        lines.extend(it.by_cause.iter().map(|(cause, mean)| format!("{cause}: {} on average", failures(*mean))));
    }
    lines.push(format!("Least drain by law: {}", law_in_words(column.law)));
    lines.extend(cell.real.as_ref().map(|real| {
        format!(
            "With real processes: {} of {} requests failed; {} to {} were expected",
            count(real.failed),
            count(real.requests),
            count(real.low),
            count(real.high)
        )
    }));
    lines.join("\n")
}

/// The picture for those who cannot see it.
fn described(axes: &Axes) -> String {
    let cells = || axes.columns.iter().flat_map(|column| &column.cells);
    let failing = cells().filter(|cell| cell.simulated.worst > 0).count();
    let laws: Vec<String> = axes
        .columns
        .iter()
        .map(|column| format!("{} for a TTL of {}", law_in_words(column.law), time(column.ttl)))
        .collect();
    format!(
        "In {failing} of {} cells a deploy failed requests. Least drain by law: {}. The table below has each cell.",
        cells().count(),
        laws.join(", ")
    )
}

/// What the forms and colours mean.
pub(super) fn legend() -> Element {
    let picture = |width: u32, content: Element| {
        let svg = element("svg").with("viewBox", format_args!("0 0 {width} 16")).with("width", width);
        let svg = svg.with("height", 16).with("aria-hidden", "true").with("class", "map");
        svg.child(content)
    };
    let levels = Level::ALL.iter().map(|level| {
        let patch = rect(0.5, 0.5, 25.0, 15.0).with("rx", 3).with("class", level.class());
        element("li").child(picture(26, patch)).text(level.words())
    });
    let stroke = element("g").with("class", "law").child(line(0.0, 8.0, 26.0, 8.0));
    let real = |agrees| {
        let class = if agrees { "real" } else { "real differs" };
        let frame = rect(1.0, 1.0, 24.0, 14.0).with("rx", 2).with("class", "frame");
        element("g").with("class", class).child(frame).child(badge(agrees, 13.0, 8.0))
    };
    let forms = [
        (stroke, "the law: on it and above it nothing should fail"),
        (real(true), "run with real processes, too, and as expected"),
        (real(false), "run with real processes, and not as expected"),
    ];
    let forms = forms.into_iter().map(|(content, words)| element("li").child(picture(26, content)).text(words));
    element("div")
        .child(element("p").with("class", "fine scale").text("Deploys that fail a request:"))
        .child(element("ul").with("class", "legend").children(levels))
        .child(element("ul").with("class", "legend").children(forms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [f64; 4] = [0.0, 15.0, 30.0, 90.0];

    #[test]
    fn a_drain_lies_between_the_middles_of_the_rows_in_proportion() {
        let heights = [0.0, 15.0, 20.0, 30.0, 60.0, 90.0].map(|law| bound(Some(law), &ROWS));
        let expected = [0.5, 1.5, 1.5 + 1.0 / 3.0, 2.5, 3.0, 3.5];
        for (height, expected) in heights.into_iter().zip(expected) {
            let Bound::At(height) = height else { panic!("{height:?}") };
            assert!((height - expected).abs() < 1e-9, "{height} {expected}");
        }
    }

    #[test]
    fn beyond_the_rows_a_bound_is_at_the_bottom_above_or_nowhere() {
        assert_eq!(bound(Some(90.5), &ROWS), Bound::Above);
        assert_eq!(bound(Some(4.0), &ROWS[1..]), Bound::At(0.0));
        assert_eq!(bound(None, &ROWS), Bound::Nowhere);
        assert_eq!([bound(Some(7.0), &[7.0]), bound(Some(8.0), &[7.0])], [Bound::At(0.5), Bound::Above]);
        assert_eq!(bound(Some(7.0), &[]), Bound::Above);
    }

    #[test]
    fn the_line_steps_from_column_to_column_and_is_broken_where_no_drain_is_long_enough() {
        let bounds = [Bound::At(0.5), Bound::At(1.5), Bound::Nowhere, Bound::Above];
        assert_eq!(path(&bounds, 100.0), "M44 82H88V46H132M176 23H220");
        assert_eq!(path(&[], 100.0), "");
    }
}

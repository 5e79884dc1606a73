//! Latencies of each profile on one axis, whose steps are factors: from microseconds to the time limit of a client.

use std::time::Duration;

use super::{drawing, hint, line, rect, text};
use crate::report::{
    Summary,
    markup::{Element, element},
    words,
};

const WIDTH: f64 = 520.0;
const ROW: f64 = 40.0;
const FOOT: f64 = 24.0;

/// The percentiles of each profile, a row each.
pub(in crate::report) fn latency(summaries: &[Summary]) -> Element {
    let seen = || summaries.iter().filter(|summary| !summary.latency.max.is_zero());
    let least = seen().map(|summary| summary.latency.p50).min().unwrap_or_default();
    let most = seen().map(|summary| summary.latency.max).max().unwrap_or_default();
    let low = least.as_secs_f64().max(1e-6).log10().floor();
    let high = most.as_secs_f64().max(1e-6).log10().ceil().max(low + 1.0);
    let place = |at: Duration| 20.0 + (at.as_secs_f64().max(1e-6).log10() - low) / (high - low) * (WIDTH - 50.0);
    let rows: u32 = seen().map(|_| 1).sum();
    let height = f64::from(rows) * ROW + FOOT;

    let decades = std::iter::successors(Some(low), |decade| Some(decade + 1.0)).take_while(|decade| *decade <= high);
    let axis = decades.flat_map(|decade| {
        let at = Duration::from_secs_f64(10_f64.powf(decade));
        let name = match decade {
            ..-3.5 => format!("{:.0} µs", at.as_secs_f64() * 1e6),
            ..-0.5 => format!("{:.0} ms", at.as_secs_f64() * 1e3),
            _ => format!("{:.0} s", at.as_secs_f64()),
        };
        let x = place(at);
        [line(x, 0.0, x, height - FOOT), text(x, height - 8.0, name).with("text-anchor", "middle")]
    });
    let rows = std::iter::successors(Some(0.0), |y| Some(y + ROW)).zip(seen()).map(|(y, summary)| {
        let it = &summary.latency;
        let (middle, [p50, p90, p99, max]) = (y + 27.0, [it.p50, it.p90, it.p99, it.max].map(place));
        let diamond = format!("M{p90:.1} {:.1}l5 5l-5 5l-5 -5z", middle - 5.0);
        element("g")
            .with("class", "latency")
            .child(text(4.0, y + 14.0, &summary.profile))
            .child(line(p50, middle, max, middle))
            .child(element("circle").at("cx", p50).at("cy", middle).with("r", 4.5))
            .child(element("path").with("d", diamond))
            .child(rect(p99 - 4.0, middle - 4.0, 8.0, 8.0))
            .child(line(max, middle - 6.0, max, middle + 6.0).with("class", "end"))
            .child(hint(in_words(summary)))
    });
    let described: Vec<String> = seen().map(in_words).collect();
    drawing(WIDTH, height, "Latency by client", &described.join("; "))
        .child(element("g").with("class", "axis").children(axis))
        .children(rows)
}

fn in_words(summary: &Summary) -> String {
    let it = &summary.latency;
    let [p50, p90, p99, max] = [it.p50, it.p90, it.p99, it.max].map(words::latency);
    format!("{}: p50 {p50}, p90 {p90}, p99 {p99}, longest {max}", summary.profile)
}

//! Pictures of a run, all on one axis of time, drawn as SVG.

pub(super) mod axis;
pub(super) mod latency;
pub(super) mod life;
pub(super) mod load;
pub(super) mod tasks;

use std::time::Duration;

use self::axis::{Axis, BOTTOM, LEFT, RIGHT, WIDTH};
use super::markup::{Element, element};

/// A drawing of that size, with what it shows in words for those who cannot see it.
pub(super) fn drawing(width: f64, height: f64, title: &str, description: &str) -> Element {
    element("svg")
        .with("viewBox", format_args!("0 0 {width:.0} {height:.0}"))
        .with("role", "img")
        .with("aria-label", format_args!("{title}. {description}"))
}

/// A rectangle.
pub(super) fn rect(x: f64, y: f64, width: f64, height: f64) -> Element {
    element("rect").at("x", x).at("y", y).at("width", width).at("height", height)
}

/// A line.
pub(super) fn line(x1: f64, y1: f64, x2: f64, y2: f64) -> Element {
    element("line").at("x1", x1).at("y1", y1).at("x2", x2).at("y2", y2)
}

/// Text that begins there.
pub(super) fn text(x: f64, y: f64, text: impl std::fmt::Display) -> Element {
    element("text").at("x", x).at("y", y).text(text)
}

/// What a pointer that rests there is shown.
pub(super) fn hint(text: impl std::fmt::Display) -> Element {
    element("title").text(text)
}

/// The axis of time: its ticks over the whole height, and their names below.
fn time_axis(axis: &Axis, height: f64) -> Element {
    let floor = height - BOTTOM;
    let ticks = axis.ticks();
    let last = ticks.last().copied().unwrap_or_default();
    element("g").with("class", "axis").children(ticks.into_iter().flat_map(|at| {
        let x = axis.x(at);
        let unit = if at == last { " s" } else { "" };
        let name = text(x, floor + 15.0, format_args!("{}{unit}", at.as_secs())).with("text-anchor", "middle");
        [line(x, 4.0, x, floor), name]
    }))
}

/// Where deployments begin and end.
fn deployments(axis: &Axis, marks: &[(Duration, String)], height: f64) -> Element {
    element("g").with("class", "deployment").children(marks.iter().map(|(at, words)| {
        let x = axis.x(*at);
        line(x, 0.0, x, height - BOTTOM).child(hint(words))
    }))
}

/// The names of the values on the vertical axis, and lines at their height.
fn value_axis(top: u64, floor: f64, ceiling: f64) -> Element {
    let values = if top < 2 { vec![0, top] } else { vec![0, top / 2, top] };
    element("g").with("class", "axis").children(values.into_iter().flat_map(|value| {
        #[expect(clippy::cast_precision_loss, reason = "a height in pixels")]
        let y = floor - (floor - ceiling) * value as f64 / top.max(1) as f64;
        let name = text(LEFT - 6.0, y + 4.0, value).with("text-anchor", "end");
        [line(LEFT, y, WIDTH - RIGHT, y), name]
    }))
}

/// The smallest number of the form 2, 4, 10, 20, 40, 100, … that is no less: its half is whole.
fn round_up(most: u64) -> u64 {
    let mut decade = 1;
    loop {
        for factor in [2, 4, 6, 10] {
            if factor * decade >= most {
                return factor * decade;
            }
        }
        decade *= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_of_values_ends_at_an_even_round_number() {
        assert_eq!([0, 1, 2, 3, 5, 7, 10, 11, 101, 2_000].map(round_up), [2, 2, 2, 4, 6, 10, 10, 20, 200, 2_000]);
    }
}

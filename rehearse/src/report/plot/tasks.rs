//! The life of each task: its states, when DNS named it, its health, and how it ended; with the failures below.

use std::time::Duration;

use super::{
    axis::{Axis, BOTTOM, LEFT, RIGHT, WIDTH},
    deployments, drawing, hint,
    life::Life,
    line,
    load::{Load, strip},
    rect, text, time_axis,
};
use crate::{
    report::{
        markup::{Element, element},
        words,
    },
    timeline::{State, Status},
};

/// More tasks than this are drawn without names, so that the picture still fits a screen or two.
const NAMED: usize = 24;

/// The height of a task's parts.
struct Row {
    height: f64,
    name: Option<f64>,
    dns: f64,
    bar: f64,
    thickness: f64,
}

impl Row {
    fn of(tasks: usize) -> Self {
        if tasks <= NAMED {
            return Self { height: 44.0, name: Some(13.0), dns: 19.0, bar: 24.0, thickness: 13.0 };
        }
        // Two screens are looked through; ten are not.
        let height = (1600.0 / f64::from(u32::try_from(tasks).unwrap_or(u32::MAX))).clamp(3.0, 10.0);
        Self { height, name: None, dns: height * 0.2, bar: height * 0.4, thickness: height * 0.5 }
    }
}

/// A bar for each task, on the same axis as requests and failures.
pub(in crate::report) fn tasks(lives: &[Life], load: &Load, axis: &Axis, marks: &[(Duration, String)]) -> Element {
    const STRIP: f64 = 34.0;
    let row = Row::of(lives.len());
    let lanes = lanes(axis, marks);
    let head = 18.0 * f64::from(lanes.iter().map(|(lane, _)| lane + 1).max().unwrap_or(0)) + 4.0;
    let places: Vec<f64> = std::iter::successors(Some(head), |y| Some(y + row.height)).take(lives.len() + 1).collect();
    let end = places.last().copied().unwrap_or(head);
    let height = end + STRIP + 20.0 + BOTTOM;
    let names = lanes.iter().zip(marks).map(|((lane, is_left), (at, words))| {
        let (x, anchor) = if *is_left { (axis.x(*at) - 5.0, "end") } else { (axis.x(*at) + 5.0, "start") };
        text(x, 13.0 + 18.0 * f64::from(*lane), words).with("text-anchor", anchor)
    });
    let described: Vec<String> = lives.iter().map(in_words).collect();
    let description =
        if lives.len() > NAMED { "The table below has their times.".to_owned() } else { described.join("; ") };
    drawing(WIDTH, height, "Tasks over time", &description)
        .child(time_axis(axis, height))
        .child(deployments(axis, marks, height))
        .child(element("g").with("class", "deployment").children(names))
        .children(lives.iter().zip(&places).map(|(life, y)| task(life, axis, &row, *y)))
        .child(text(LEFT, end + 14.0, "failed requests"))
        .child(strip(load, axis, end + STRIP + 20.0, STRIP))
}

/// In which line, and on which side of its mark, the words of each deployment mark go so that no two overlap.
fn lanes(axis: &Axis, marks: &[(Duration, String)]) -> Vec<(u32, bool)> {
    let mut taken: Vec<f64> = Vec::new();
    let place = |(at, words): &(Duration, String)| {
        let x = axis.x(*at);
        #[expect(clippy::cast_precision_loss, reason = "a width in pixels")]
        let width = words.chars().count() as f64 * 7.6;
        let is_left = x + width > WIDTH;
        let from = if is_left { x - width } else { x };
        let free = taken.iter().position(|end| *end < from);
        let lane = free.unwrap_or(taken.len());
        if free.is_none() {
            taken.push(0.0);
        }
        taken[lane] = from + width;
        (u32::try_from(lane).expect("there are a few"), is_left)
    };
    marks.iter().map(place).collect()
}

fn task(life: &Life, axis: &Axis, row: &Row, y: f64) -> Element {
    let end = Duration::MAX;
    let begin = life.states.first().map_or(Duration::ZERO, |(at, _)| *at);
    let mut group =
        element("g").with("class", if row.name.is_some() { "task" } else { "task slim" }).child(hint(in_words(life)));
    if let Some(name) = row.name {
        let words = format!("{} · revision {} · {}", life.task, life.revision, life.address);
        let x = axis.x(begin);
        // Near the right end there is no room for it on that side.
        let (x, anchor) = if x > WIDTH * 0.72 { (WIDTH - RIGHT, "end") } else { (x, "start") };
        group = group.child(text(x, y + name, words).with("text-anchor", anchor));
    }
    let untils = life.states.iter().skip(1).map(|(at, _)| *at).chain([end]);
    for ((from, state), until) in life.states.iter().zip(untils) {
        let Some(class) = class(*state) else { continue };
        let (left, right) = (axis.x(*from), axis.x(until));
        // What is about to come or to go is thinner: colour is not all that tells.
        let thickness = if matches!(class, "starting" | "ending") { row.thickness / 2.0 } else { row.thickness };
        let top = y + row.bar + (row.thickness - thickness) / 2.0;
        group = group.child(rect(left, top, (right - left).max(0.8), thickness).with("class", class));
    }
    let dns = y + row.dns;
    for (from, until) in &life.registered {
        group = group.child(line(axis.x(*from), dns, axis.x(until.unwrap_or(end)), dns).with("class", "dns"));
    }
    if let (Some(gone), Some(asked)) = (life.deregistered(), life.last_asked)
        && asked > gone
    {
        group = group.child(line(axis.x(gone), dns, axis.x(asked), dns).with("class", "stale"));
    }
    marks(group, life, axis, row, y)
}

/// What happens to a task at one moment: each has a form of its own.
fn marks(mut group: Element, life: &Life, axis: &Axis, row: &Row, y: f64) -> Element {
    let (top, bottom) = (y + row.bar, y + row.bar + row.thickness);
    let middle = f64::midpoint(top, bottom);
    let size = row.thickness / 2.0;
    if let Some((at, _)) = &life.exited {
        let x = axis.x(*at);
        group = group.child(line(x, top - 2.0, x, bottom + row.height * 0.1).with("class", "exit"));
    }
    if row.name.is_none() {
        // There is room for nothing that is no line.
        return group;
    }
    if let Some(at) = life.listens {
        group = group.child(glyph(Glyph::Listens, axis.x(at), bottom + 4.5, 4.0));
    }
    for (at, status) in &life.health {
        let glyph = match status {
            Status::Healthy => self::glyph(Glyph::Healthy, axis.x(*at), middle, size),
            Status::Unhealthy => self::glyph(Glyph::Unhealthy, axis.x(*at), middle, size),
            Status::Unknown => continue,
        };
        group = group.child(glyph);
    }
    for (at, signal) in &life.signals {
        let kind = if signal == "SIGKILL" { Glyph::Sigkill } else { Glyph::Sigterm };
        group = group.child(glyph(kind, axis.x(*at), middle - 1.0, size - 1.0));
    }
    group
}

#[derive(Clone, Copy)]
enum Glyph {
    Listens,
    Healthy,
    Unhealthy,
    Sigterm,
    Sigkill,
}

fn glyph(glyph: Glyph, x: f64, y: f64, size: f64) -> Element {
    let half = size * 0.5;
    let circle = || element("circle").at("cx", x).at("cy", y).at("r", size);
    let cross = |size: f64| {
        let path = format!("M{:.1} {:.1}l{s:.1} {s:.1}m0 -{s:.1}l-{s:.1} {s:.1}", x - size, y - size, s = 2.0 * size);
        element("path").with("d", path)
    };
    let group = element("g");
    match glyph {
        Glyph::Listens => {
            let path = format!("M{x:.1} {:.1}l{size:.1} {:.1}h-{:.1}z", y - size, 1.6 * size, 2.0 * size);
            group.with("class", "listens").child(element("path").with("d", path))
        }
        Glyph::Healthy => {
            let check = format!("M{:.1} {y:.1}l{h:.1} {h:.1}l{size:.1} -{size:.1}", x - half * 1.3, h = half * 0.9);
            group.with("class", "healthy").child(circle()).child(element("path").with("d", check))
        }
        Glyph::Unhealthy => group.with("class", "unhealthy").child(circle()).child(cross(half)),
        Glyph::Sigterm => {
            let path = format!("M{:.1} {:.1}h{:.1}l-{size:.1} {:.1}z", x - size, y - size, 2.0 * size, 2.0 * size);
            group.with("class", "sigterm").child(element("path").with("d", path))
        }
        Glyph::Sigkill => group.with("class", "sigkill").child(cross(size)),
    }
}

/// How a state is drawn. One that is over is not.
fn class(state: State) -> Option<&'static str> {
    match state {
        State::Provisioning | State::Pending | State::Activating => Some("starting"),
        State::Running => Some("running"),
        State::Deactivating | State::Stopping => Some("stopping"),
        State::Deprovisioning => Some("ending"),
        State::Stopped => None,
    }
}

fn in_words(life: &Life) -> String {
    let mut parts = vec![format!("{} of revision {} at {}", life.task, life.revision, life.address)];
    let mut say = |what: &str, at: Option<Duration>| {
        if let Some(at) = at {
            parts.push(format!("{what} {}", words::seconds(at)));
        }
    };
    say("RUNNING from", life.states.iter().find(|(_, state)| *state == State::Running).map(|(at, _)| *at));
    say("in DNS from", life.registered.first().map(|(from, _)| *from));
    say("until", life.deregistered());
    say(
        "asked for the last time at",
        life.last_asked.filter(|asked| life.deregistered().is_some_and(|at| *asked > at)),
    );
    say("STOPPING from", life.reached(State::Stopping));
    say("ended at", life.exited.as_ref().map(|(at, _)| *at));
    parts.join(", ")
}

/// What the forms and colours mean.
pub(in crate::report) fn legend() -> Element {
    let picture = |content: Element| {
        let wide = [("viewBox", "0 0 26 14"), ("width", "26"), ("height", "14"), ("aria-hidden", "true")];
        let svg = wide.into_iter().fold(element("svg"), |svg, (name, value)| svg.with(name, value));
        svg.child(element("g").with("class", "task").child(content))
    };
    let bar = |class, thickness| rect(0.0, 7.0 - thickness / 2.0, 26.0, thickness).with("class", class);
    let entries = [
        (line(0.0, 7.0, 26.0, 7.0).with("class", "dns"), "DNS names it"),
        (line(0.0, 7.0, 26.0, 7.0).with("class", "stale"), "DNS does not, and somebody still asks it"),
        (bar("starting", 6.0), "PROVISIONING, PENDING, ACTIVATING"),
        (bar("running", 12.0), "RUNNING"),
        (bar("stopping", 12.0), "STOPPING"),
        (bar("ending", 6.0), "DEPROVISIONING"),
        (glyph(Glyph::Listens, 13.0, 7.0, 4.0), "its process listens"),
        (glyph(Glyph::Healthy, 13.0, 7.0, 6.0), "HEALTHY"),
        (glyph(Glyph::Unhealthy, 13.0, 7.0, 6.0), "UNHEALTHY"),
        (glyph(Glyph::Sigterm, 13.0, 7.0, 6.0), "SIGTERM"),
        (glyph(Glyph::Sigkill, 13.0, 7.0, 6.0), "SIGKILL"),
        (line(13.0, 0.0, 13.0, 14.0).with("class", "exit"), "its process ended"),
    ];
    let items = entries.into_iter().map(|(content, words)| element("li").child(picture(content)).text(words));
    element("ul").with("class", "legend").children(items)
}

/// The times of the drawing, a row a task.
pub(in crate::report) fn table(lives: &[Life]) -> Element {
    const HEADS: [&str; 13] = [
        "task",
        "revision",
        "address",
        "created",
        "listens",
        "in DNS",
        "HEALTHY",
        "RUNNING",
        "SIGTERM",
        "out of DNS",
        "last asked",
        "ended",
        "how",
    ];
    let class = |name: &str| if name == "how" { "words" } else { "" };
    let head = element("tr")
        .children(HEADS.map(|name| element("th").with("scope", "col").with("class", class(name)).text(name)));
    let time = |at: Option<Duration>| element("td").text(at.map_or_else(|| "–".to_owned(), words::seconds));
    let rows = lives.iter().map(|life| {
        let first = |wanted: State| life.states.iter().find(|(_, state)| *state == wanted).map(|(at, _)| *at);
        let healthy = life.health.iter().find(|(_, status)| *status == Status::Healthy).map(|(at, _)| *at);
        element("tr")
            .child(element("th").with("scope", "row").text(life.task))
            .child(element("td").text(life.revision))
            .child(element("td").text(life.address))
            .child(time(life.states.first().map(|(at, _)| *at)))
            .child(time(life.listens))
            .child(time(life.registered.first().map(|(from, _)| *from)))
            .child(time(healthy))
            .child(time(first(State::Running)))
            .child(time(life.signals.first().map(|(at, _)| *at)))
            .child(time(life.deregistered()))
            .child(time(life.last_asked))
            .child(time(life.exited.as_ref().map(|(at, _)| *at)))
            .child(element("td").with("class", "words").text(life.exited.as_ref().map_or("–", |(_, how)| how)))
    });
    element("table").child(element("thead").child(head)).child(element("tbody").children(rows))
}

//! `report.html`: one file that asks nobody for anything, and runs no script.

use std::collections::BTreeSet;

use super::{
    Answer, Judged, Report, Summary,
    markup::{Element, element, style},
    plot::{
        axis::Axis,
        latency::latency,
        life,
        load::{self, Load},
        tasks,
    },
    summary,
    words::{self, count, seconds, share},
};
use crate::timeline;

/// The whole page.
#[must_use]
pub fn page(report: &Report) -> String {
    let held = report.answers.iter().filter(|answer| answer.held).count();
    let headline = match (held, report.answers.len()) {
        (_, 0) => "A rehearsed deployment".to_owned(),
        (held, all) if held == all => "What was expected held".to_owned(),
        (held, all) => format!("{} of {all} expectations did not hold", all - held),
    };
    let body = element("body")
        .child(patterns())
        .child(
            element("main")
                .child(introduction(report, &headline))
                .children((!report.answers.is_empty()).then(|| answers(&report.answers)))
                .children((report.runs.len() > 1).then(|| overview(&report.runs)))
                .children(report.runs.iter().enumerate().map(|(place, judged)| run(place, judged))),
        )
        .child(footer(report));
    document(&headline, &[], body)
}

/// A page of that title, with the style sheet of all pages and further ones.
pub(super) fn document(title: &str, sheets: &[&'static str], body: Element) -> String {
    let header = element("head")
        .child(element("meta").with("charset", "utf-8"))
        .child(element("meta").with("name", "viewport").with("content", "width=device-width, initial-scale=1"))
        .child(element("meta").with("name", "color-scheme").with("content", "light dark"))
        // Nothing is loaded even if somebody should find a way to write an address into it.
        .child(
            element("meta")
                .with("http-equiv", "Content-Security-Policy")
                .with("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:"),
        )
        .child(element("link").with("rel", "icon").with("href", "data:,"))
        .child(element("title").text(format_args!("rehearse: {title}")))
        .child(style(include_str!("html/style.css")))
        .children(sheets.iter().map(|sheet| style(sheet)));
    format!("<!DOCTYPE html>\n{}\n", element("html").with("lang", "en").child(header).child(body))
}

/// Hatching, so that colour is not all that tells.
fn patterns() -> Element {
    let hatch = |id, ground, stroke| {
        element("pattern")
            .with("id", id)
            .with("width", 5)
            .with("height", 5)
            .with("patternUnits", "userSpaceOnUse")
            .with("patternTransform", "rotate(45)")
            .child(element("rect").with("width", 5).with("height", 5).with("class", ground))
            .child(element("rect").with("width", 2).with("height", 5).with("class", stroke))
    };
    element("svg").with("class", "patterns").with("aria-hidden", "true").child(
        element("defs").child(hatch("failed", "bad-ground", "bad")).child(hatch("stopping", "stop-ground", "stop")),
    )
}

fn introduction(report: &Report, headline: &str) -> Element {
    let header = element("header").child(element("h1").text(headline));
    let header = if report.was_interrupted {
        header.child(element("p").with("class", "warning").text("Interrupted: this is what was seen until then."))
    } else {
        header
    };
    header.child(
        element("p")
            .with("class", "fine")
            .child(element("code").text(&report.command))
            .text(format_args!(" · rehearse {} · {}", report.version, report.started)),
    )
}

fn answers(answers: &[Answer]) -> Element {
    let cards = answers.iter().map(|answer| {
        let (class, word) = if answer.held { ("held", "✓ held") } else { ("broken", "✗ did not hold") };
        let rows = answer.rows.iter().flat_map(|(name, value)| [element("dt").text(name), element("dd").text(value)]);
        element("section")
            .with("class", format_args!("card {class}"))
            .child(element("p").with("class", "badge").text(word))
            .child(element("h2").text(&answer.question))
            .child(element("p").with("class", "answer").text(&answer.answer))
            .child(element("p").child(element("b").text("Expected: ")).text(&answer.expectation))
            .children((!answer.rows.is_empty()).then(|| element("dl").children(rows)))
    });
    element("div").with("class", "cards").children(cards)
}

/// A table that scrolls by itself where it is wider than the page.
pub(super) fn scrolled(label: &str, table: Element) -> Element {
    scroller("scroll", label).child(table)
}

/// What scrolls must be reachable by keyboard, and then has to have a name.
pub(super) fn scroller(class: &str, label: &str) -> Element {
    element("div").with("class", class).with("tabindex", 0).with("role", "group").with("aria-label", label)
}

pub(super) fn heads(names: &[&str]) -> Element {
    element("thead")
        .child(element("tr").children(names.iter().map(|name| element("th").with("scope", "col").text(name))))
}

fn overview(runs: &[Judged]) -> Element {
    let groups = runs.iter().enumerate().map(|(place, judged)| {
        let title = element("th")
            .with("scope", "rowgroup")
            .with("class", "words")
            .with("colspan", 7)
            .child(element("a").with("href", format_args!("#run-{place}")).text(&judged.record.title));
        let rows = judged.summaries.iter().map(|summary| {
            let profile = element("th").with("scope", "row").with("class", "words").text(&summary.profile);
            failed(element("tr").child(profile), summary)
                .child(element("td").text(words::latency(summary.latency.p50)))
                .child(element("td").text(words::latency(summary.latency.p99)))
        });
        element("tbody").child(element("tr").child(title)).children(rows)
    });
    let names = ["client", "requests", "failed", "share", "failing for up to", "p50", "p99"];
    let table = element("table").with("class", "grouped").child(heads(&names)).children(groups);
    element("section").child(element("h2").text("Runs")).child(scrolled("Runs", table))
}

/// Requests and failures of a profile, as cells.
fn failed(row: Element, summary: &Summary) -> Element {
    let class = if summary.failed > 0 { "some" } else { "none" };
    let longest = if summary.failed > 0 { seconds(summary.longest_failing) } else { "–".to_owned() };
    row.child(element("td").text(count(summary.requests)))
        .child(element("td").with("class", class).text(count(summary.failed)))
        .child(element("td").text(share(summary.failed, summary.requests)))
        .child(element("td").text(longest))
}

fn run(place: usize, judged: &Judged) -> Element {
    let record = &judged.record;
    let axis = Axis::new(record);
    let lives = life::lives(record);
    let marks = life::deployments(record);
    let load = Load::new(judged, &lives, &axis);
    let (requests, failures) = judged.totals();
    let verdict = match failures {
        0 => format!("None of {} requests failed.", count(requests)),
        _ => format!("{} of {} requests failed ({}).", count(failures), count(requests), share(failures, requests)),
    };
    let late = judged.summaries.iter().map(|summary| summary.lateness.p99).max().unwrap_or_default();
    let warning = (late > summary::late(judged.record.speed)).then(|| {
        element("p").with("class", "warning").text(format_args!(
            "This machine was too slow for the load: one request of a hundred was sent {} late or later. Nothing is known \
             of the service's latency.",
            words::latency(late)
        ))
    });
    let pictures = scroller("scroll pictures", "Pictures of the run")
        .child(
            figure("Requests per second, by the task that answered")
                .child(load::shares(&load))
                .child(load::requests(&load, &axis, &marks)),
        )
        .children(
            (!load.failed.is_empty())
                .then(|| figure("Failures per second, by cause").child(load::failures(&load, &axis, &marks))),
        )
        .child(figure("Tasks").child(tasks::legend()).child(tasks::tasks(&lives, &load, &axis, &marks)));
    element("section")
        .with("class", "run")
        .with("id", format_args!("run-{place}"))
        .child(element("h2").text(&record.title))
        .child(element("p").with("class", if failures > 0 { "verdict some" } else { "verdict none" }).text(verdict))
        .children(warning)
        .child(settings(judged))
        .child(element("p").with("class", "fine").text(time_in_words(record.speed, axis.slice())))
        .child(pictures)
        .child(details("The same in numbers: requests", scrolled("Requests", load::table(&load, &axis))))
        .child(details("The same in numbers: tasks", scrolled("Tasks", tasks::table(&lives))))
        .children((failures > 0).then(|| causes(&judged.summaries)))
        .child(latencies(&judged.summaries))
        .child(details("What happened, line by line", pre("What happened", timeline::lines(&record.events))))
        .child(details(
            "What DNS named, and the tasks that ECS had",
            pre("Records and tasks", timeline::records_and_tasks(&record.events)),
        ))
}

fn time_in_words(speed: f64, slice: u64) -> String {
    let time = if (speed - 1.0).abs() < 1e-9 || speed <= 0.0 {
        "Times are in seconds since the start of the run".to_owned()
    } else {
        format!("Times are the service's, in seconds since the start of the run: {speed} of them took one")
    };
    match slice {
        1 => format!("{time}. Dashed vertical lines: a deployment begins, or ends."),
        _ => format!(
            "{time}; each step of a picture is {slice} of them. Dashed vertical lines: a deployment begins, or ends."
        ),
    }
}

fn figure(caption: &str) -> Element {
    element("figure").child(element("figcaption").child(element("h3").text(caption)))
}

pub(super) fn details(summary: &str, content: Element) -> Element {
    element("details").child(element("summary").text(summary)).child(content)
}

fn pre(label: &str, text: String) -> Element {
    scroller("lines", label).child(element("pre").text(text))
}

fn settings(judged: &Judged) -> Element {
    let record = &judged.record;
    let profiles = judged.summaries.iter().map(|summary| &summary.profile);
    let clients: Vec<String> = profiles
        .map(|profile| {
            let number = record.clients.iter().filter(|client| client.profile == *profile).count();
            format!("{number} × {profile}")
        })
        .collect();
    let given = record.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
    let ours = [("clients", clients.join(", ")), ("length", seconds(record.length))];
    let pairs = given
        .chain(ours)
        .map(|(name, value)| element("div").child(element("dt").text(name)).child(element("dd").text(value)));
    element("dl").with("class", "settings").children(pairs)
}

/// Why requests failed, in words, and how often for each profile.
fn causes(summaries: &[Summary]) -> Element {
    let causes: BTreeSet<&str> = summaries.iter().flat_map(|it| it.by_cause.keys().map(String::as_str)).collect();
    let names: Vec<&str> = ["cause"].into_iter().chain(summaries.iter().map(|it| it.profile.as_str())).collect();
    let rows = causes.iter().map(|cause| {
        let numbers = summaries.iter().map(|it| it.by_cause.get(*cause).copied().unwrap_or_default());
        element("tr").child(element("th").with("scope", "row").with("class", "words").text(cause)).children(
            numbers.map(|number| element("td").with("class", if number > 0 { "some" } else { "" }).text(count(number))),
        )
    });
    let explained = causes.iter().map(|cause| {
        let words = words::explain(cause);
        element("div").child(element("dt").text(cause)).child(
            element("dd")
                .text(words.what)
                .child(element("br"))
                .child(element("b").text("What helps: "))
                .text(words.helps),
        )
    });
    element("div")
        .child(element("h3").text("Why requests failed"))
        .child(scrolled(
            "Failures by cause and client",
            element("table").child(heads(&names)).child(element("tbody").children(rows)),
        ))
        .child(element("dl").with("class", "causes").children(explained))
}

fn latencies(summaries: &[Summary]) -> Element {
    let rows = summaries.iter().map(|summary| {
        let it = &summary.latency;
        let values = [it.p50, it.p90, it.p99, it.max, summary.lateness.p99].map(words::latency);
        element("tr")
            .child(element("th").with("scope", "row").with("class", "words").text(&summary.profile))
            .children(values.map(|value| element("td").text(value)))
    });
    let names = ["client", "p50 ●", "p90 ◆", "p99 ■", "longest ❙", "sent late, p99"];
    element("div").child(element("h3").text("Latency of the requests that did not fail")).child(
        element("div")
            .with("class", "beside")
            .child(scrolled(
                "Latency by client",
                element("table").child(heads(&names)).child(element("tbody").children(rows)),
            ))
            .child(element("div").with("class", "small").child(latency(summaries))),
    )
}

fn footer(report: &Report) -> Element {
    let machine = &report.machine;
    element("footer").child(element("p").with("class", "fine").text(format_args!(
        "Measured on {} × {} ({}), {} MiB, {}. Latency counts from when a request should have been sent. Every request, with \
         what is known of it, is in report.json.",
        machine.cores, machine.processor, machine.architecture, machine.memory_mib, machine.system
    )))
}

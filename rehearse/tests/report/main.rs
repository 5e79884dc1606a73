//! What is made of a rehearsal: `report.json`, `report.html` and the summary on a terminal.

mod sample;
mod sweep;

use std::collections::BTreeSet;

use rehearse::{
    record::Record,
    report::{Judged, Report, html, json, text},
};
use roxmltree::{Document, ParsingOptions};
use serde_json::Value;

/// As a tree: a page that is well-formed as XML is read by every browser as it was meant.
fn tree(page: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(page, options).expect("the page is well-formed")
}

fn wide(is_coloured: bool) -> text::Look {
    text::Look { columns: 100, is_coloured }
}

#[test]
fn the_page_is_well_formed_and_its_names_are_its_own() {
    let page = html::page(&sample::report());
    // To be looked at: .ci/report-look does.
    std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/report.html"), &page).unwrap();
    let page = tree(&page);
    let ids: Vec<&str> = page.descendants().filter_map(|node| node.attribute("id")).collect();
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(ids.len(), unique.len(), "{ids:?}");
    for link in page.descendants().filter_map(|node| node.attribute("href")).filter_map(|href| href.strip_prefix('#')) {
        assert!(unique.contains(link), "{link}");
    }
}

#[test]
fn the_page_loads_nothing_and_runs_nothing() {
    let text = html::page(&sample::report());
    let page = tree(&text);
    for node in page.descendants().filter(roxmltree::Node::is_element) {
        assert!(
            !matches!(node.tag_name().name(), "script" | "img" | "iframe" | "object" | "use" | "image"),
            "{node:?}"
        );
        for attribute in node.attributes() {
            assert!(!attribute.name().starts_with("on") && attribute.name() != "src", "{node:?}");
            assert!(attribute.name() != "href" || attribute.value().starts_with(['#', 'd']), "{node:?}");
        }
    }
    assert!(!text.contains("@import") && !text.contains("http://") && !text.contains("https://"));
}

#[test]
fn texts_of_others_are_shown_and_not_obeyed() {
    let text = html::page(&sample::report());
    let page = tree(&text);
    let shown = page.descendants().any(|node| node.text() == Some("TTL 60 s, no drain <script>alert(1)</script>"));
    assert!(shown);
    assert!(!text.contains("<script") && !text.contains("<b>latency"));
}

#[test]
fn each_picture_is_told_in_words_too() {
    let text = html::page(&sample::report());
    let page = tree(&text);
    let pictures: Vec<_> = page.descendants().filter(|node| node.has_tag_name("svg")).collect();
    let told: Vec<&str> = pictures.iter().filter_map(|node| node.attribute("aria-label")).collect();
    assert!(
        pictures.iter().all(|node| node.attribute("aria-label").is_some() != node.attribute("aria-hidden").is_some())
    );
    // Of the run without failures there is no picture of them.
    assert_eq!(told.len(), 7, "{told:?}");
    assert!(
        told[0].starts_with("Requests per second by the task that answered. 3,150 requests of which "),
        "{}",
        told[0]
    );
}

#[test]
fn the_page_says_what_the_record_says() {
    let report = sample::report();
    let text = html::page(&report);
    let page = tree(&text);
    let texts: Vec<&str> = page.descendants().filter(roxmltree::Node::is_text).filter_map(|node| node.text()).collect();
    let (requests, failed) = report.runs[0].totals();
    let verdict = format!("{failed} of 3,150 requests failed ");
    assert_eq!(requests, 3150);
    for wanted in [
        "1 of 4 expectations did not hold",
        "✗ did not hold",
        "Do requests fail during a deploy?",
        "stale-first-dead",
        "None of 3,150 requests failed.",
        "30 per second, open loop",
        "task-8 · revision 2 · 127.0.1.8",
        "revision 2: steady state",
        &verdict,
        "Route53: [\"127.0.1.1\"]",
        "task-4 gets SIGKILL",
    ] {
        assert!(texts.iter().any(|text| text.contains(wanted)), "{wanted}");
    }
}

#[test]
fn the_table_of_a_run_adds_up_to_its_requests() {
    let report = sample::report();
    let text = html::page(&report);
    let page = tree(&text);
    let tables: Vec<_> = page.descendants().filter(|node| node.attribute("aria-label") == Some("Requests")).collect();
    assert_eq!(tables.len(), 2);
    for (table, run) in tables.iter().zip(&report.runs) {
        let rows = table.descendants().filter(|node| node.has_tag_name("tr"));
        let sums = rows.fold((0, 0), |(answered, failed), row| {
            let cells: Vec<u64> = row
                .children()
                .filter(|node| node.has_tag_name("td"))
                .map(|cell| cell.text().unwrap().parse().unwrap())
                .collect();
            let Some((first, second)) = cells.first().zip(cells.get(1)) else { return (answered, failed) };
            assert_eq!(*second, cells[2..].iter().sum::<u64>(), "failures and their causes");
            (answered + first, failed + second)
        });
        let (requests, failed) = run.totals();
        assert_eq!(sums, (requests - failed, failed));
    }
}

#[test]
fn a_task_that_is_asked_after_dns_has_dropped_it_is_marked() {
    let report = sample::report();
    let text = html::page(&Report { runs: report.runs[..1].to_vec(), ..report });
    let page = tree(&text);
    let marked: Vec<&str> = page
        .descendants()
        .filter(|node| node.attribute("class") == Some("task"))
        .filter(|task| task.children().any(|node| node.attribute("class") == Some("stale")))
        .filter_map(|task| task.children().find(|node| node.has_tag_name("text"))?.text())
        .collect();
    assert_eq!(marked.len(), 4, "{marked:?}");
    assert!(marked.iter().all(|name| name.contains("revision 1")), "{marked:?}");
}

#[test]
fn the_page_of_a_large_run_stays_small() {
    for (tasks, rate) in [(4, 2000), (200, 200)] {
        let run = sample::judged("large", sample::Settings { tasks, ttl: 60, drain: 0, rate });
        assert_eq!(run.record.requests.len() > 200_000, tasks == 4);
        let page = html::page(&Report { runs: vec![run], ..sample::report() });
        std::fs::write(format!("{}/report-of-{tasks}-tasks.html", env!("CARGO_TARGET_TMPDIR")), &page).unwrap();
        assert!(page.len() < 1_000_000, "{tasks} tasks: {} bytes", page.len());
        tree(&page);
    }
}

#[test]
fn a_run_that_saw_nothing_can_be_reported() {
    let runs = vec![Judged::new(Record::default(), Vec::new())];
    let report = Report { runs, answers: Vec::new(), was_interrupted: true, ..sample::report() };
    let page = html::page(&report);
    tree(&page);
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    assert!(page.contains("Interrupted"));
    assert!(text::summary(&report, wide(false)).ends_with("Interrupted: this is what was seen until then.\n"));
}

#[test]
fn what_was_written_as_json_is_read_as_it_was() {
    let report = sample::report();
    let mut written = Vec::new();
    json::write(&report, &mut written).unwrap();
    assert_eq!(json::read(&written).unwrap(), report);
}

#[test]
fn a_report_of_another_schema_is_refused_by_name() {
    let mut report = serde_json::to_value(sample::report()).unwrap();
    report["schema"] = Value::from("lameduck.rehearse/2");
    let refused = json::read(report.to_string().as_bytes()).unwrap_err().to_string();
    assert!(refused.contains("\"lameduck.rehearse/2\"; only \"lameduck.rehearse/1\""), "{refused}");
}

/// Every place of a value in a report, such as `runs[].record.title`.
fn places(value: &Value, place: &str, found: &mut BTreeSet<String>) {
    match value {
        // Its names are data.
        Value::Object(_) if place.ends_with(".by_cause") => {
            found.insert(place.to_owned());
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                places(value, &if place.is_empty() { name.clone() } else { format!("{place}.{name}") }, found);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for item in items {
                places(item, &format!("{place}[]"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            found.insert(place.to_owned());
        }
    }
}

#[test]
fn the_fields_that_are_documented_are_those_that_are_written() {
    use rehearse::timeline::{Event, What};
    let mut report = sample::report();
    let given_up = What::DeploymentFailed { revision: 3, reason: "tasks failed to start".to_owned() };
    report.runs[0].record.events.push(Event { at: std::time::Duration::ZERO, what: given_up });
    let request = &mut report.runs[0].record.requests[0];
    request.lookup.as_mut().unwrap().failure = Some("NXDOMAIN".to_owned());
    let mut written = BTreeSet::new();
    places(&serde_json::to_value(&report).unwrap(), "", &mut written);
    let (of_a_report, _) = SCHEMAS.split_once("\n# sweep.json").unwrap();
    let documented = documented(of_a_report);
    let missing: Vec<&String> = written.difference(&documented).collect();
    let obsolete: Vec<&String> = documented.difference(&written).collect();
    assert!(missing.is_empty() && obsolete.is_empty(), "not documented: {missing:#?}\nnot written: {obsolete:#?}");
}

/// What is said of the fields of both files.
const SCHEMAS: &str = include_str!("../../report-schema.md");

/// The fields that a part of it names.
fn documented(part: &str) -> BTreeSet<String> {
    let fields = part.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    fields.map(|(place, _)| place.to_owned()).collect()
}

#[test]
fn the_summary_on_a_wide_terminal() {
    let summary = text::summary(&sample::report(), wide(false));
    std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/wide.txt"), &summary).unwrap();
    assert_eq!(summary, include_str!("wide.txt"));
}

#[test]
fn the_summary_on_a_narrow_terminal() {
    let narrow = text::Look { columns: 50, is_coloured: false };
    let summary = text::summary(&sample::report(), narrow);
    std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/narrow.txt"), &summary).unwrap();
    assert_eq!(summary, include_str!("narrow.txt"));
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    use unicode_width::UnicodeWidthStr;
    for columns in 40..140 {
        for line in text::summary(&sample::report(), text::Look { columns, is_coloured: false }).lines() {
            assert!(line.width() <= columns, "{columns}: {line}");
        }
    }
}

#[test]
fn colour_adds_nothing_but_colour() {
    let coloured = text::summary(&sample::report(), wide(true));
    let mut plain = coloured.clone();
    for code in ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[2m", "\u{1b}[31m", "\u{1b}[32m"] {
        assert!(plain.contains(code), "{code:?}");
        plain = plain.replace(code, "");
    }
    let plain: Vec<&str> = plain.lines().map(str::trim_end).collect();
    let expected = text::summary(&sample::report(), wide(false));
    assert_eq!(plain, expected.lines().collect::<Vec<_>>());
}

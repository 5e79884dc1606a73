//! What is made of a rehearsal: `report.json` and the summary on a terminal.

mod sample;

use std::collections::BTreeSet;

use rehearse::report::{json, text};
use serde_json::Value;

fn wide(is_coloured: bool) -> text::Look {
    text::Look { columns: 100, is_coloured }
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
    let documented: BTreeSet<String> = include_str!("../../report-schema.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(place, _)| place.to_owned())
        .collect();
    let missing: Vec<&String> = written.difference(&documented).collect();
    let obsolete: Vec<&String> = documented.difference(&written).collect();
    assert!(missing.is_empty() && obsolete.is_empty(), "not documented: {missing:#?}\nnot written: {obsolete:#?}");
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

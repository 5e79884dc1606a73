//! What is made of a sweep: `sweep.json` and `sweep.html`.

use std::{collections::BTreeSet, sync::LazyLock, time::Duration};

use rehearse::{
    report::{
        Machine,
        sweep::{Head, SweepFile, SweepSchema, page},
    },
    rules::Rules,
    simulate::{
        Crowd, Grid, Sweep, habit,
        sweep::{Cell, Column, Panel, sweep},
    },
};
use roxmltree::{Document, Node};
use serde_json::{Value, json};

use super::{SCHEMAS, documented, places, tree};

const HEAD: Head = Head {
    command: "rehearse sweep --ttls '15s,60s,120s'",
    version: "0.1.0",
    started: Some("2026-01-02T03:04:05Z"),
    machine: None,
};

fn secs(of: &[u64]) -> Vec<Duration> {
    of.iter().copied().map(Duration::from_secs).collect()
}

/// Four clients, of which one never asks again and one keeps what it knows for too long; rows that are not evenly spaced; and
/// a TTL for which the longest drain is too short.
static SAMPLE: LazyLock<Sweep> = LazyLock::new(|| {
    let grid = Grid {
        ttls: secs(&[15, 60, 120]),
        drains: secs(&[0, 20, 30, 65, 90]),
        minimums: vec![50, 100],
        intervals: secs(&[30, 5]),
        habits: ["try-next", "first-only", "envoy", "nginx"]
            .iter()
            .map(|name| habit(name).expect("there is such a client"))
            .collect(),
    };
    let crowd = Crowd { clients: 1, resolvers: 1, rate: 10.0 };
    let mut sweep = sweep(&Rules::default(), &grid, &crowd, 40, 1);
    let reals = [
        (0, 1, 0, json!({ "requests": 3150, "failed": 12, "low": 0, "high": 260, "agrees": true })),
        (1, 1, 1, json!({ "requests": 1234, "failed": 321, "low": 400, "high": 460, "agrees": false })),
    ];
    for (panel, column, cell, real) in reals {
        sweep.panels[panel].columns[column].cells[cell].real =
            Some(serde_json::from_value(real).expect("it has all fields"));
    }
    sweep
});

fn sample() -> Sweep {
    SAMPLE.clone()
}

fn cells(sweep: &Sweep) -> impl Iterator<Item = (&Panel, &Column, &Cell)> {
    sweep.panels.iter().flat_map(|panel| {
        panel.columns.iter().flat_map(move |column| column.cells.iter().map(move |cell| (panel, column, cell)))
    })
}

/// The pictures of the panels, in the order of the page.
fn maps<'a>(page: &'a Document) -> Vec<Node<'a, 'a>> {
    page.descendants().filter(|node| node.has_tag_name("svg") && node.attribute("role") == Some("img")).collect()
}

fn of_class<'a>(node: Node<'a, 'a>, class: &'a str) -> impl Iterator<Item = Node<'a, 'a>> {
    node.descendants().filter(move |it| it.attribute("class").is_some_and(|it| it.split(' ').any(|one| one == class)))
}

fn number(node: Node, name: &str) -> f64 {
    node.attribute(name).and_then(|it| it.parse().ok()).expect("a number")
}

/// All text in a node.
fn text_of(node: Node) -> String {
    node.descendants().filter(Node::is_text).filter_map(|it| it.text()).collect()
}

#[test]
fn the_page_of_a_sweep_is_well_formed_and_loads_and_runs_nothing() {
    let text = page(&sample(), &HEAD);
    // To be looked at: .ci/report-look does.
    std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/sweep.html"), &text).unwrap();
    let page = tree(&text);
    let ids: Vec<&str> = page.descendants().filter_map(|node| node.attribute("id")).collect();
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(ids.len(), unique.len(), "{ids:?}");
    for node in page.descendants().filter(Node::is_element) {
        let name = node.tag_name().name();
        assert!(!matches!(name, "script" | "img" | "iframe" | "object" | "use" | "image"), "{node:?}");
        for attribute in node.attributes() {
            assert!(!attribute.name().starts_with("on") && attribute.name() != "src", "{node:?}");
            let target = attribute.value().strip_prefix('#');
            assert!(
                attribute.name() != "href" || name == "link" || target.is_some_and(|id| unique.contains(id)),
                "{node:?}"
            );
        }
    }
    assert!(!text.contains("@import") && !text.contains("url(h") && !text.contains("url(/") && !text.contains("://"));
    assert!(!text.contains("NaN") && !text.contains("inf "));
}

#[test]
fn each_cell_has_its_figure_and_all_that_is_known_of_it() {
    let sweep = sample();
    let text = page(&sweep, &HEAD);
    let page = tree(&text);
    let maps = maps(&page);
    assert_eq!(maps.len(), sweep.panels.len());
    // The grid is in order, and the page draws columns from the left and rows from the bottom.
    for (map, panel) in maps.iter().zip(&sweep.panels) {
        let label = map.attribute("aria-label").unwrap();
        assert!(label.starts_with(&format!("{}: minimum healthy {}%", panel.client, panel.minimum_healthy_percent)));
        let patches: Vec<Node> = map.descendants().filter(|it| it.has_tag_name("rect") && it.has_children()).collect();
        let names: Vec<Node> = of_class(*map, "names").next().unwrap().children().collect();
        let figures: Vec<Node> = of_class(*map, "figures").next().unwrap().children().collect();
        assert_eq!(patches.len(), 15);
        let cells = panel.columns.iter().flat_map(|column| column.cells.iter().map(move |cell| (column, cell)));
        for ((column, cell), patch) in cells.zip(patches) {
            let (left, top) = (number(patch, "x"), number(patch, "y"));
            let is_within = |it: &&Node| {
                it.has_tag_name("text")
                    && (left..left + 44.0).contains(&number(**it, "x"))
                    && (top..top + 36.0).contains(&number(**it, "y"))
            };
            let written: Vec<String> = figures.iter().filter(is_within).map(|it| text_of(*it)).collect();
            // The drain stands left of the row, the TTL below the column, and the law's own figure above it.
            let drain = format!("{} s", cell.drain.as_secs());
            let is_beside = |it: &Node| {
                number(*it, "x") < 44.0 && (top..top + 36.0).contains(&number(*it, "y")) && text_of(*it) == drain
            };
            assert!(names.iter().any(is_beside), "{drain}");
            let in_column: Vec<String> = names
                .iter()
                .filter(|it| (left..left + 42.0).contains(&number(**it, "x")))
                .map(|it| text_of(*it))
                .filter(|it| !it.contains("TTL"))
                .collect();
            let law = column
                .law
                .map_or("none".to_owned(), |law| format!("{}{} s", if law > 90.0 { "↑" } else { "" }, law.ceil()));
            assert_eq!(in_column, [law, format!("{} s", column.ttl.as_secs())]);
            let hint = text_of(patch);
            let it = &cell.simulated;
            assert!(
                hint.starts_with(&format!("TTL {} s, drain {} s: ", column.ttl.as_secs(), cell.drain.as_secs())),
                "{hint}"
            );
            if it.worst == 0 {
                assert_eq!(written, ["0"]);
                assert_eq!(patch.attribute("class"), Some("s0"));
                assert!(hint.contains("none of 40 deploys"), "{hint}");
                continue;
            }
            assert_ne!(patch.attribute("class"), Some("s0"));
            let share: f64 = written[0].trim_matches(['>', '%']).parse().unwrap();
            assert!((share - it.any * 100.0).abs() < 0.51, "{written:?} {it:?}");
            let mean: f64 = written[1].trim_start_matches('<').replace(',', "").parse().unwrap();
            assert!((mean - it.mean).abs() < 0.51, "{written:?} {it:?}");
            let worst = hint.replace(',', "").contains(&format!(" {} in the worst", it.worst));
            let p95 = hint.replace(',', "").contains(&format!(" {} or fewer in 95 of 100", it.p95));
            assert!(worst && p95 && hint.contains(&format!("for up to {:.1} s", it.longest)), "{hint} {it:?}");
            assert!(it.by_cause.keys().all(|cause| hint.contains(cause.as_str())), "{hint}");
        }
    }
}

/// The levels of a line of the law, column by column; and where it begins.
fn levels(path: &str) -> (f64, Vec<f64>) {
    let (start, rest) = path.strip_prefix('M').and_then(|it| it.split_once(' ')).expect("it begins somewhere");
    let level = |step: &str| step.split_once('H').and_then(|(level, _)| level.parse().ok()).expect("a level");
    (start.parse().expect("a number"), rest.split('V').map(level).collect())
}

#[test]
fn the_law_is_drawn_where_its_drain_lies_among_the_rows() {
    let sweep = sample();
    let text = page(&sweep, &HEAD);
    let page = tree(&text);
    let mut lines = 0;
    for (map, panel) in maps(&page).iter().zip(&sweep.panels) {
        let law = of_class(*map, "law").next().unwrap();
        let path = law.children().rfind(Node::is_element).unwrap().attribute("d").unwrap();
        if panel.client == "nginx" {
            assert_eq!(path, "", "no drain is long enough for it");
            assert!(text_of(*map).contains("none"));
            continue;
        }
        // The middles of the rows, as they are drawn.
        let patches = map.descendants().filter(|it| it.has_tag_name("rect") && it.has_children()).take(5);
        let middles: Vec<f64> = patches.map(|it| number(it, "y") + number(it, "height") / 2.0).collect();
        let top = middles[4] - 18.0;
        let (start, levels) = levels(path);
        assert!((start - 44.0).abs() < 0.01 && levels.len() == 3, "{path}");
        for (column, level) in panel.columns.iter().zip(levels) {
            let law = column.law.unwrap();
            let above = column.cells.iter().filter(|cell| cell.drain.as_secs_f64() > law);
            let rows_above = above.count();
            let what = format!("{} {:?}: {law} at {level}, rows {middles:?}", panel.client, column.ttl);
            if rows_above == 0 {
                assert!(level < top, "{what}");
                continue;
            }
            let (low, high) = (4 - rows_above, 5 - rows_above);
            let drain = |row: usize| column.cells[row].drain.as_secs_f64();
            let part = (law - drain(low)) / (drain(high) - drain(low));
            let expected = middles[low] + part * (middles[high] - middles[low]);
            assert!((level - expected).abs() < 0.11, "{what}, not at {expected}");
            lines += 1;
        }
    }
    assert!(lines > 20, "{lines}");
}

/// The rows of the table of that name, cell by cell.
fn rows(page: &Document, label: &str) -> Vec<Vec<String>> {
    let table = page.descendants().find(|node| node.attribute("aria-label") == Some(label)).expect("there is a table");
    let rows = table.descendants().filter(|node| node.has_tag_name("tr"));
    rows.map(|row| row.children().filter(Node::is_element).map(text_of).collect()).collect()
}

#[test]
fn the_answer_comes_first_and_is_the_least_drain_beyond_which_nothing_failed() {
    let sweep = sample();
    let text = page(&sweep, &HEAD);
    let page = tree(&text);
    let main = page.descendants().find(|node| node.has_tag_name("main")).unwrap();
    let first = main.descendants().find(|node| node.has_tag_name("table")).unwrap();
    let head = text_of(first.descendants().find(|it| it.has_tag_name("thead")).unwrap());
    assert!(head.trim_end().ends_with("TTL 120 s"), "{head}");
    let headline = text_of(page.descendants().find(|node| node.has_tag_name("h1")).unwrap());
    assert_eq!(headline, "A drain of 90 s was not always enough for any of 4 clients");
    let rows = rows(&page, "Least drain by client and TTL");
    let of = |client: &str| {
        let at = rows.iter().position(|row| row[0].starts_with(client)).expect("it has rows");
        rows[at + 1].clone()
    };
    // TTL + 3 s, which the grid has 20 and 65 s for, and nothing for the last.
    assert_eq!(of("first-only"), ["all settings", "20 s\nlaw 18 s", "65 s\nlaw 63 s", "over 90 s\nlaw 123 s"]);
    assert_eq!(of("nginx"), ["all settings", "over 90 s\nlaw none", "over 90 s\nlaw none", "over 90 s\nlaw none"]);
    let with_a_fast_check = rows.iter().find(|row| row[0].contains("50%,\u{a0}5\u{a0}s")).unwrap();
    assert_eq!(with_a_fast_check[3].chars().take(7).collect::<String>(), "over 90", "{with_a_fast_check:?}");
}

#[test]
fn the_numbers_have_a_row_for_each_cell() {
    let sweep = sample();
    let text = page(&sweep, &HEAD);
    let page = tree(&text);
    for client in ["try-next", "first-only", "envoy", "nginx"] {
        let rows = rows(&page, &format!("Cells of {client}"));
        let rows: Vec<_> = rows.iter().skip(1).filter(|row| row.len() > 1).collect();
        let expected: Vec<_> = cells(&sweep).filter(|(panel, ..)| panel.client == client).collect();
        assert_eq!(rows.len(), expected.len());
        for (row, (_, column, cell)) in rows.iter().zip(expected) {
            assert_eq!(row[0], format!("{} s", column.ttl.as_secs()));
            assert_eq!(row[1], format!("{} s", cell.drain.as_secs()));
            assert_eq!(row[6].replace(',', ""), cell.simulated.worst.to_string());
        }
    }
}

#[test]
fn what_fails_beyond_the_law_is_named() {
    let sweep = sample();
    let beyond = cells(&sweep).filter(|(_, column, cell)| {
        column.law.is_some_and(|law| cell.drain.as_secs_f64() >= law) && cell.simulated.worst > 0
    });
    let beyond = beyond.count();
    let text = page(&sweep, &HEAD);
    if beyond > 0 {
        assert_eq!(rows(&tree(&text), "Failures beyond the law").len(), beyond + 1);
    } else {
        assert!(text.contains("Nowhere: in none of "));
    }
    // One that there would be if the law asked for less.
    let mut broken = sweep;
    let column = &mut broken.panels[1].columns[1];
    assert!(column.cells[0].simulated.worst > 0);
    column.law = Some(0.0);
    let added = column.cells.iter().filter(|cell| cell.simulated.worst > 0).count();
    assert_eq!(rows(&tree(&page(&broken, &HEAD)), "Failures beyond the law").len(), beyond + added + 1);
    assert!(page(&broken, &HEAD).contains("▲: more than the law asks for"));
}

#[test]
fn cells_with_real_processes_are_marked_and_listed() {
    let sweep = sample();
    let text = page(&sweep, &HEAD);
    let page_of_both = tree(&text);
    let marked: usize = maps(&page_of_both).into_iter().map(|map| of_class(map, "real").count()).sum();
    assert_eq!(marked, 2);
    let table = rows(&page_of_both, "Cells with real processes");
    let place = |row: usize| table[row][5..].to_vec();
    assert_eq!(table.len(), 3);
    assert_eq!(place(1), ["3,150", "12", "0–260", "✓ agrees"]);
    assert_eq!(place(2), ["1,234", "321", "400–460", "✗ differs"]);
    assert_eq!(table[1][..5], [sweep.panels[0].client.as_str(), "50%", "30 s", "60 s", "0 s"]);
    assert!(text.contains("✗ ") && text_of(page_of_both.root()).contains("1 of 2 cells"));
    let mut without = sweep;
    for panel in &mut without.panels {
        for column in &mut panel.columns {
            column.cells.iter_mut().for_each(|cell| cell.real = None);
        }
    }
    assert!(!page(&without, &HEAD).contains("agreement"));
}

#[test]
fn one_sweep_gives_one_page() {
    assert_eq!(page(&sample(), &HEAD), page(&sample(), &HEAD));
    let machine = Machine { processor: "A <processor>".to_owned(), cores: 2, ..Machine::default() };
    let elsewhere = page(&sample(), &Head { machine: Some(&machine), started: None, ..HEAD });
    assert!(elsewhere.contains("2 × A &lt;processor&gt;") && !elsewhere.contains("2026"));
}

#[test]
fn an_order_of_the_grid_that_is_not_from_the_least_changes_nothing_in_a_map() {
    let sweep = sample();
    let mut turned = sweep.clone();
    for panel in &mut turned.panels {
        panel.columns.reverse();
        panel.columns.iter_mut().for_each(|column| column.cells.reverse());
    }
    let drawn = |sweep: &Sweep| {
        let text = page(sweep, &HEAD);
        let pictures = text.split("<svg ").filter_map(|part| part.split_once("</svg>"));
        pictures.map(|(picture, _)| picture.to_owned()).filter(|it| it.contains("role=\"img\"")).collect::<Vec<_>>()
    };
    assert_eq!(drawn(&sweep).len(), 16);
    assert_eq!(drawn(&sweep), drawn(&turned));
}

#[test]
fn a_sweep_of_nothing_can_be_shown() {
    let nothing = Sweep { panels: Vec::new(), deploys: 0, ..sample() };
    let text = page(&nothing, &HEAD);
    tree(&text);
    assert!(text.contains("Nothing was swept"));
    let mut hollow = sample();
    hollow.panels.iter_mut().for_each(|panel| panel.columns.clear());
    tree(&page(&hollow, &HEAD));
}

#[test]
fn the_page_of_a_large_sweep_stays_small() {
    // Eight clients with twice as many TTLs and drains.
    let mut sweep = sample();
    for panel in &mut sweep.panels {
        for (column, ttl) in panel.columns.clone().into_iter().zip([10, 30, 300]) {
            panel.columns.push(Column { ttl: Duration::from_secs(ttl), ..column });
        }
        for column in &mut panel.columns {
            for (cell, drain) in column.cells.clone().into_iter().zip([10, 45, 75, 120, 300]) {
                column.cells.push(Cell { drain: Duration::from_secs(drain), ..cell });
            }
        }
    }
    let panels = sweep.panels.clone();
    for (name, panels) in ["front", "fixed-order", "jvm", "keep-alive"].into_iter().zip(panels.chunks(4)) {
        sweep.panels.extend(panels.iter().map(|panel| Panel { client: name.to_owned(), ..panel.clone() }));
    }
    assert_eq!((sweep.panels.len(), cells(&sweep).count()), (32, 1920));
    let text = page(&sweep, &HEAD);
    std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/large-sweep.html"), &text).unwrap();
    assert!(text.len() < 2_000_000, "{} bytes", text.len());
    tree(&text);
}

fn file() -> SweepFile {
    let mut sweep = sample();
    // A file has them to the microsecond.
    for panel in &mut sweep.panels {
        panel.gap = Duration::from_micros(u64::try_from((panel.gap.as_nanos() + 500) / 1000).expect("a few seconds"));
    }
    SweepFile { schema: SweepSchema, version: HEAD.version.to_owned(), command: HEAD.command.to_owned(), sweep }
}

#[test]
fn a_sweep_that_was_written_as_json_is_read_as_it_was() {
    let mut written = Vec::new();
    file().write(&mut written).unwrap();
    let read = SweepFile::read(&written).unwrap();
    let mut again = Vec::new();
    read.write(&mut again).unwrap();
    assert_eq!(again, written);
    assert_eq!(read, file());
    assert_eq!(page(&read.sweep, &HEAD), page(&sample(), &HEAD));
}

#[test]
fn a_sweep_of_another_schema_is_refused_by_name() {
    let mut file = serde_json::to_value(file()).unwrap();
    file["schema"] = Value::from("lameduck.rehearse/1");
    let refused = SweepFile::read(file.to_string().as_bytes()).unwrap_err().to_string();
    assert!(
        refused.contains("a sweep of schema \"lameduck.rehearse/1\"; only \"lameduck.rehearse.sweep/1\""),
        "{refused}"
    );
}

#[test]
fn the_fields_of_a_sweep_that_are_documented_are_those_that_are_written() {
    let mut written = BTreeSet::new();
    places(&serde_json::to_value(file()).unwrap(), "", &mut written);
    let (_, of_a_sweep) = SCHEMAS.split_once("\n# sweep.json").unwrap();
    let documented = documented(of_a_sweep);
    let missing: Vec<&String> = written.difference(&documented).collect();
    let obsolete: Vec<&String> = documented.difference(&written).collect();
    assert!(missing.is_empty() && obsolete.is_empty(), "not documented: {missing:#?}\nnot written: {obsolete:#?}");
}

//! What simulations came to, in words and tables for people. Pure.

use std::{fmt::Write, time::Duration};

use serde_json::json;

use crate::{
    report::words::count,
    rules::Rules,
    simulate::{
        Forecast,
        recommend::{Recommendation, Wanted},
        sweep::{Cell, Panel, Sweep},
    },
};

/// A duration in whole seconds, as it is set.
fn shown(time: Duration) -> String {
    format!("{}s", time.as_secs())
}

/// A time in seconds, rounded up to whole ones, as it is set.
fn seconds(time: f64) -> String {
    shown(Duration::from_secs_f64(time.max(0.0).ceil()))
}

/// Columns: names and then numbers to the right.
fn aligned(rows: &[Vec<String>], names: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if index == 0 { "" } else { "  " };
            let space = " ".repeat(width.saturating_sub(cell.chars().count()));
            let cell = if index < names { format!("{cell}{space}") } else { format!("{space}{cell}") };
            line.push_str(gap);
            line.push_str(&cell);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn percent(share: f64) -> String {
    match 100.0 * share {
        share if share == 0.0 || share >= 10.0 => format!("{share:.0} %"),
        share => format!("{share:.1} %"),
    }
}

fn number(mean: f64) -> String {
    if mean == 0.0 || mean >= 10.0 { format!("{mean:.0}") } else { format!("{mean:.1}") }
}

fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A line for each client.
#[must_use]
pub fn forecasts(forecasts: &[Forecast]) -> String {
    let mut rows = vec![header(&["client", "deploys that fail", "mean", "95 %", "worst", "for up to", ""])];
    rows.extend(forecasts.iter().map(|forecast| {
        let causes: Vec<_> =
            forecast.by_cause.iter().map(|(cause, mean)| format!("{cause} {}", number(*mean))).collect();
        vec![
            forecast.client.clone(),
            percent(forecast.any),
            number(forecast.mean),
            count(forecast.p95),
            count(forecast.worst),
            format!("{:.0} s", forecast.longest),
            causes.join(", "),
        ]
    }));
    aligned(&rows, 1)
}

fn cell(cell: &Cell) -> String {
    let forecast = &cell.simulated;
    if forecast.worst == 0 {
        return "0".to_owned();
    }
    format!("{} in {}", number(forecast.mean), percent(forecast.any).replace(' ', ""))
}

/// A table for each client, minimum healthy percent and interval.
#[must_use]
pub fn sweep(sweep: &Sweep) -> String {
    let mut text = format!(
        "{} deploys of {} tasks in each cell, {} of each client, {} requests a second each: failed requests of one deploy on average, \
         and the share of deploys in which any failed\n",
        count(u64::try_from(sweep.deploys).unwrap_or(u64::MAX)),
        sweep.desired,
        sweep.clients,
        sweep.rate
    );
    for panel in &sweep.panels {
        let _ = writeln!(
            text,
            "\n{}, minimum healthy {} %, health check every {}: new tasks are named {} before the last old ones are stopped",
            panel.client,
            panel.minimum_healthy_percent,
            shown(panel.health_interval),
            shown(panel.gap)
        );
        text.push_str(&table(panel));
    }
    text
}

fn table(panel: &Panel) -> String {
    let mut rows = vec![vec!["drain".to_owned()]];
    rows[0].extend(panel.columns.iter().map(|column| format!("TTL {}", shown(column.ttl))));
    let drains = panel.columns.first().map_or(0, |column| column.cells.len());
    for index in 0..drains {
        let cells: Vec<_> = panel.columns.iter().filter_map(|column| column.cells.get(index)).collect();
        let mut row = vec![cells.first().map_or(String::new(), |cell| shown(cell.drain))];
        row.extend(cells.into_iter().map(cell));
        rows.push(row);
    }
    let mut law = vec!["least".to_owned()];
    law.extend(panel.columns.iter().map(|column| column.law.map_or("none".to_owned(), seconds)));
    rows.push(law);
    aligned(&rows, 1)
}

/// The cells that were run with real processes, beside what was to be expected of them.
#[must_use]
pub fn agreement(sweep: &Sweep) -> String {
    let head = ["client", "TTL", "drain", "minimum", "interval", "requests", "failed", "expected", "agrees"];
    let mut rows = vec![header(&head)];
    for panel in &sweep.panels {
        for column in &panel.columns {
            for cell in &column.cells {
                let Some(real) = &cell.real else { continue };
                rows.push(vec![
                    panel.client.clone(),
                    shown(column.ttl),
                    shown(cell.drain),
                    format!("{} %", panel.minimum_healthy_percent),
                    shown(panel.health_interval),
                    count(real.requests),
                    count(real.failed),
                    format!("{} to {}", count(real.low), count(real.high)),
                    if real.agrees { "yes" } else { "NO" }.to_owned(),
                ]);
            }
        }
    }
    aligned(&rows, 1)
}

fn rules_in_words(rules: &Rules) -> String {
    let check = if rules.has_health_check {
        format!("health check every {}", shown(rules.health_interval))
    } else {
        "no health check".to_owned()
    };
    format!(
        "{} tasks, TTL {}, {check}, minimum healthy {} %, maximum {} %, stop timeout {}",
        rules.desired,
        shown(rules.ttl),
        rules.minimum_healthy_percent,
        rules.maximum_percent,
        shown(rules.stop_timeout)
    )
}

/// What to set, and why.
#[must_use]
pub fn recommendation(said: &Recommendation, wanted: &Wanted) -> String {
    let rules = &wanted.rules;
    let mut text = format!("{}\n\n", rules_in_words(rules));
    let mut rows = vec![header(&["client", "fails without a drain", "mean", "worst", "least drain: law", "simulated"])];
    let least = |drain: Option<f64>| drain.map_or("none is enough".to_owned(), seconds);
    rows.extend(said.needs.iter().map(|need| {
        vec![
            need.client.clone(),
            percent(need.without.any),
            number(need.without.mean),
            count(need.without.worst),
            least(need.by_law),
            least(need.simulated),
        ]
    }));
    text.push_str(&aligned(&rows, 1));
    for client in said.hopeless() {
        let _ = writeln!(
            text,
            "\n{client} keeps an address for ever: no drain is long enough for it. Have it resolve again, or put front before it."
        );
    }
    let proof: u64 = said.proof.iter().map(|forecast| forecast.worst).max().unwrap_or(0);
    let proven = said.proof.first().map_or(0, |forecast| forecast.deploys);
    let _ = writeln!(
        text,
        "\ndrain         {}: the greatest of these, and {} of margin\nstop timeout  {}: the drain, and {} for what is in flight{}\nprice         \
         a deploy takes {} instead of {} until the last old task has gone\nproof         {} other deploys with it: {}",
        shown(said.drain),
        shown(said.margin),
        shown(said.stop_timeout),
        shown(said.grace),
        if rules.stop_timeout < said.stop_timeout {
            format!(
                "; it is {} now, of which init could use {} to drain",
                shown(rules.stop_timeout),
                shown(rules.stop_timeout.saturating_sub(said.grace))
            )
        } else {
            String::new()
        },
        seconds(said.took_with),
        seconds(said.took_without),
        count(u64::try_from(proven).unwrap_or(u64::MAX)),
        if proof == 0 { "no request failed".to_owned() } else { format!("up to {} requests failed", count(proof)) },
    );
    if !said.fits {
        let _ = writeln!(
            text,
            "\nThis does not fit: {} is more than the {} that the platform allows from SIGTERM to SIGKILL. {}",
            shown(said.stop_timeout),
            shown(wanted.most_stop_timeout),
            said.most_ttl.map_or_else(
                || "No TTL is short enough: shorten --grace or --margin, or use other clients.".to_owned(),
                |ttl| format!(
                    "With a TTL of {} or less it would: set that, and ask again.",
                    shown(Duration::from_secs_f64(ttl))
                )
            )
        );
        return text;
    }
    let _ = write!(text, "\nFor init's environment:\n");
    for (name, value) in environment(said) {
        let _ = writeln!(text, "  {name}={value}");
    }
    let _ = write!(text, "\nFor an ECS task definition:\n{}\n", task_definition(said, rules));
    text
}

fn environment(said: &Recommendation) -> [(&'static str, String); 3] {
    [
        ("INIT_DRAIN", shown(said.drain)),
        ("INIT_GRACE", shown(said.grace)),
        ("INIT_STOP_TIMEOUT", shown(said.stop_timeout)),
    ]
}

/// The part of a container definition that says it to ECS and init.
#[must_use]
pub fn task_definition(said: &Recommendation, rules: &Rules) -> String {
    let environment = environment(said).map(|(name, value)| json!({ "name": name, "value": value }));
    let mut container = json!({
        "entryPoint": ["/init", "--"],
        "stopTimeout": said.stop_timeout.as_secs(),
        "environment": environment,
    });
    if rules.has_health_check {
        container["healthCheck"] = json!({
            "command": ["CMD", "/init", "--check", "http://127.0.0.1:1235/health"],
            "interval": rules.health_interval.as_secs(),
            "timeout": rules.health_timeout.as_secs(),
            "retries": rules.health_retries,
            "startPeriod": rules.health_start_period.as_secs(),
        });
    }
    let definition = json!({ "containerDefinitions": [container] });
    // A value that was made here can be written.
    serde_json::to_string_pretty(&definition).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::{Crowd, habit, recommend};

    fn said(ttl: u64, clients: &[&str]) -> (Recommendation, Wanted) {
        let wanted = Wanted {
            rules: Rules { ttl: Duration::from_secs(ttl), ..Rules::default() },
            habits: clients.iter().map(|name| habit(name).unwrap()).collect(),
            crowd: Crowd { clients: 1, resolvers: 1, rate: 10.0 },
            margin: Duration::from_secs(5),
            grace: Duration::from_secs(5),
            most_stop_timeout: Duration::from_mins(2),
            deploys: 40,
            seed: 1,
        };
        (recommend(&wanted), wanted)
    }

    #[test]
    fn a_recommendation_can_be_set_as_it_is_printed() {
        let (said, wanted) = said(60, &["first-only"]);
        let text = recommendation(&said, &wanted);
        for expected in [
            "INIT_DRAIN=68s\n",
            "INIT_GRACE=5s\n",
            "INIT_STOP_TIMEOUT=73s\n",
            "it is 30s now, of which init could use 25s to drain",
            "160 other deploys with it: no request failed",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        let definition: serde_json::Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
        let container = &definition["containerDefinitions"][0];
        assert_eq!(container["stopTimeout"], 73);
        assert_eq!(container["entryPoint"], json!(["/init", "--"]));
        assert_eq!(container["environment"][0], json!({ "name": "INIT_DRAIN", "value": "68s" }));
        assert_eq!(container["healthCheck"]["interval"], 30);
    }

    #[test]
    fn what_cannot_be_set_is_not_printed_as_if_it_could() {
        let (said, wanted) = said(120, &["first-only", "nginx"]);
        let text = recommendation(&said, &wanted);
        assert!(text.contains("133s is more than the 120s"), "{text}");
        assert!(text.contains("With a TTL of 107s or less it would"), "{text}");
        assert!(text.contains("nginx keeps an address for ever"), "{text}");
        assert!(!text.contains("INIT_DRAIN=") && !text.contains("stopTimeout"), "{text}");
    }

    #[test]
    fn columns_are_aligned_whatever_is_in_them() {
        let rows = [["client", "mean"], ["first-only", "1,000"], ["é", "0"]].map(|row| header(&row));
        assert_eq!(aligned(&rows, 1), "client       mean\nfirst-only  1,000\né               0\n");
    }
}

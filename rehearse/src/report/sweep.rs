//! `sweep.html` and `sweep.json`: how many deploys fail requests for each TTL, drain, client and setting, with the law of the
//! least drain drawn over it. The page asks nobody for anything, and runs no script.

mod map;
mod words;

use std::{collections::BTreeSet, io::Write, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::{
    map::{Axes, legend, map},
    words::{at_most, failures, law_in_words, number, several, share, time},
};
use super::{
    Machine, expect_schema,
    html::{details, document, heads, scrolled, scroller},
    markup::{Element, element},
    words::count,
};
use crate::simulate::{
    HABITS,
    sweep::{Cell, Column, Panel, Real, Sweep},
};

/// All of a sweep. `sweep.json` is this, described in `report-schema.md`. It has no time and no machine: of the same settings
/// and seed in virtual time come the same bytes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SweepFile {
    /// What its fields mean.
    pub schema: SweepSchema,
    /// The version of the program that wrote it.
    pub version: String,
    /// The command line that led to it.
    pub command: String,
    /// What came of it.
    pub sweep: Sweep,
}

impl SweepFile {
    /// Writes it, on one line.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn write(&self, mut to: impl Write) -> std::io::Result<()> {
        serde_json::to_writer(&mut to, self)?;
        to.write_all(b"\n")
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// If it is no sweep of the schema that this version knows.
    pub fn read(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// The only schema of a sweep that this version writes and reads.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SweepSchema;

impl SweepSchema {
    /// Its name. The number goes up when a field changes its meaning or goes; new fields may come without.
    pub const NAME: &str = "lameduck.rehearse.sweep/1";
}

impl Serialize for SweepSchema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Self::NAME)
    }
}

impl<'de> Deserialize<'de> for SweepSchema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        expect_schema(deserializer, "a sweep", Self::NAME).map(|()| Self)
    }
}

/// Where a page comes from.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The command line that led to it.
    pub command: &'a str,
    /// The version of the program that wrote it.
    pub version: &'a str,
    /// When it began, as RFC 3339 has it. Without it, and without a machine, a page of the same sweep has the same bytes.
    pub started: Option<&'a str>,
    /// Where cells were run with real processes. A simulation is the same everywhere.
    pub machine: Option<&'a Machine>,
}

/// The whole page.
#[must_use]
pub fn page(sweep: &Sweep, head: &Head) -> String {
    let clients = clients(sweep);
    let headline = headline(&clients);
    let body = element("body")
        .child(
            element("main")
                .child(introduction(sweep, head, &headline))
                .children((!clients.is_empty()).then(|| {
                    element("div").with("class", "beside").child(answer(sweep, &clients)).child(how_to_read(sweep))
                }))
                .children(clients.iter().map(client))
                .children((!clients.is_empty()).then(|| beyond_the_law(sweep)))
                .children(agreement(sweep)),
        )
        .child(footer(sweep, head));
    document(&headline, &[include_str!("sweep/style.css")], body)
}

/// All panels of a client, with its place among the others.
struct Client<'a> {
    place: usize,
    name: &'a str,
    panels: Vec<&'a Panel>,
}

/// In the order in which they come first.
fn clients(sweep: &Sweep) -> Vec<Client<'_>> {
    let mut clients: Vec<Client> = Vec::new();
    for panel in &sweep.panels {
        match clients.iter_mut().find(|client| client.name == panel.client) {
            Some(client) => client.panels.push(panel),
            None => clients.push(Client { place: clients.len(), name: &panel.client, panels: vec![panel] }),
        }
    }
    clients
}

/// The least drain of the grid from which on no deploy failed a request. None if there is none.
fn least(column: &Column) -> Option<Duration> {
    let mut cells: Vec<&Cell> = column.cells.iter().collect();
    cells.sort_by_key(|cell| cell.drain);
    cells.iter().rev().take_while(|cell| cell.simulated.worst == 0).last().map(|cell| cell.drain)
}

/// Whether a drain is long enough by law.
fn is_enough(column: &Column, drain: Duration) -> bool {
    column.law.is_some_and(|law| drain.as_secs_f64() >= law - 1e-6)
}

fn columns<'a>(clients: &[Client<'a>]) -> impl Iterator<Item = &'a Column> {
    clients.iter().flat_map(|client| client.panels.clone()).flat_map(|panel| &panel.columns)
}

fn headline(clients: &[Client]) -> String {
    let needed: Vec<Option<Duration>> = columns(clients).map(least).collect();
    if needed.is_empty() {
        return "Nothing was swept".to_owned();
    }
    if let Some(all) = needed.iter().copied().collect::<Option<Vec<_>>>() {
        return match all.into_iter().max().filter(|drain| !drain.is_zero()) {
            Some(drain) => format!("With a drain of {} or more no deploy failed a request", time(drain)),
            None => "No deploy failed a request, with or without a drain".to_owned(),
        };
    }
    let longest = columns(clients).flat_map(|column| &column.cells).map(|cell| cell.drain).max().unwrap_or_default();
    let fails = |client: &&Client| client.panels.iter().flat_map(|panel| &panel.columns).any(|it| least(it).is_none());
    let names: Vec<&str> = clients.iter().filter(fails).map(|client| client.name).collect();
    let whom = match names.len() {
        1 | 2 => names.join(" and "),
        all if all == clients.len() => format!("any of {} clients", number(all)),
        some => format!("{} of {} clients", number(some), number(clients.len())),
    };
    format!("A drain of {} was not always enough for {whom}", time(longest))
}

fn cells(sweep: &Sweep) -> impl Iterator<Item = (&Panel, &Column, &Cell)> {
    sweep.panels.iter().flat_map(|panel| {
        panel.columns.iter().flat_map(move |column| column.cells.iter().map(move |cell| (panel, column, cell)))
    })
}

/// The values that a setting has in a sweep, from the least.
fn values<T: Ord>(sweep: &Sweep, of: impl Fn(&Panel, &Column, &Cell) -> T) -> BTreeSet<T> {
    cells(sweep).map(|(panel, column, cell)| of(panel, column, cell)).collect()
}

fn introduction(sweep: &Sweep, head: &Head, headline: &str) -> Element {
    let started = head.started.map(|started| format!(" · {started}")).unwrap_or_default();
    let header = element("header").child(element("h1").text(headline)).child(
        element("p")
            .with("class", "fine")
            .child(element("code").text(head.command))
            .text(format_args!(" · rehearse {}{started}", head.version)),
    );
    let (ttls, drains) = (values(sweep, |_, it, _| it.ttl).len(), values(sweep, |_, _, it| it.drain).len());
    let swept = format!(
        "{}, {}, {}, {} and {}: {}. In each, {} of {} in virtual time; {} of the client, behind {}, {} {} requests per second.",
        several(clients(sweep).len(), "client", "clients"),
        several(ttls, "TTL", "TTLs"),
        several(drains, "drain", "drains"),
        several(
            values(sweep, |it, _, _| it.minimum_healthy_percent).len(),
            "minimum healthy percent",
            "minimum healthy percents"
        ),
        several(values(sweep, |it, _, _| it.health_interval).len(), "health check interval", "health check intervals"),
        several(cells(sweep).count(), "cell", "cells"),
        several(sweep.deploys, "deploy", "deploys"),
        several(usize::try_from(sweep.desired).unwrap_or(usize::MAX), "task", "tasks"),
        several(sweep.clients, "process", "processes"),
        several(sweep.resolvers, "resolver", "resolvers"),
        if sweep.clients == 1 { "sends" } else { "each send" },
        sweep.rate
    );
    let reals: Vec<&Real> = cells(sweep).filter_map(|(_, _, cell)| cell.real.as_ref()).collect();
    let agreeing = reals.iter().filter(|real| real.agrees).count();
    let all_agree = agreeing == reals.len();
    let verdict = (!reals.is_empty()).then(|| {
        let sign = if all_agree { "✓" } else { "✗" };
        let link = element("a").with("href", "#agreement").text(format_args!(
            "{} of {}",
            number(agreeing),
            several(reals.len(), "cell", "cells")
        ));
        element("p")
            .with("class", if all_agree { "none" } else { "some" })
            .text(format_args!("{sign} "))
            .child(link)
            .text(" that were run with real processes, too, had as many failures as are expected of them.")
    });
    header.child(element("p").text(swept)).children(verdict)
}

/// The least drain of each client for each TTL, by simulation and by law.
fn answer(sweep: &Sweep, clients: &[Client]) -> Element {
    let ttls: Vec<Duration> = values(sweep, |_, column, _| column.ttl).into_iter().collect();
    let longest = values(sweep, |_, _, cell| cell.drain).into_iter().next_back().unwrap_or_default();
    let mut is_more = false;
    let mut groups = Vec::new();
    for client in clients {
        let link = element("a").with("href", format_args!("#client-{}", client.place)).text(client.name);
        let title = element("th")
            .with("scope", "rowgroup")
            .with("class", "words")
            .with("colspan", ttls.len() + 1)
            .child(link)
            .children(stands_for(client.name).map(|it| element("span").with("class", "fine").text(format!(" · {it}"))));
        let mut rows: Vec<(Vec<Least>, Vec<&Panel>)> = Vec::new();
        for panel in &client.panels {
            let leasts: Vec<Least> = ttls.iter().map(|ttl| Least::of(panel, *ttl)).collect();
            match rows.iter_mut().find(|(known, _)| *known == leasts) {
                Some((_, panels)) => panels.push(panel),
                None => rows.push((leasts, vec![panel])),
            }
        }
        let is_one = rows.len() == 1 && client.panels.len() > 1;
        let rows = rows.into_iter().map(|(leasts, panels)| {
            let setting = if is_one { "all settings".to_owned() } else { settings(&panels) };
            is_more |= leasts.iter().any(|it| it.is_more);
            element("tr")
                .child(element("th").with("scope", "row").with("class", "words").text(setting))
                .children(leasts.into_iter().map(|it| it.cell(longest)))
        });
        let rows: Vec<Element> = rows.collect();
        groups.push(element("tbody").child(element("tr").child(title)).children(rows));
    }
    let names: Vec<String> = ["minimum healthy, health check".to_owned()]
        .into_iter()
        .chain(ttls.iter().map(|ttl| format!("TTL {}", time(*ttl))))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let table = element("table").with("class", "grouped least").child(heads(&names)).children(groups);
    let more = if is_more { " ▲: more than the law asks for." } else { "" };
    element("section").child(element("h2").text("The least drain without a failed request")).child(
        element("p").with("class", "fine").text(format_args!(
            "Large: from this drain on, of those swept, none of {} failed a request, which means with a confidence of 95% that \
             less than {} of all do. Small: the least drain by law.{more}",
            several(sweep.deploys, "deploy", "deploys"),
            at_most(sweep.deploys)
        )),
    )
    .child(scrolled("Least drain by client and TTL", table))
}

/// The least drain of a panel for a TTL.
#[derive(Eq, PartialEq)]
struct Least {
    /// None if that TTL was not swept there.
    law: Option<String>,
    simulated: Option<Duration>,
    /// A drain that is long enough by law was not.
    is_more: bool,
}

impl Least {
    fn of(panel: &Panel, ttl: Duration) -> Self {
        let column = panel.columns.iter().find(|column| column.ttl == ttl);
        let fails =
            |column: &Column| column.cells.iter().any(|cell| cell.simulated.worst > 0 && is_enough(column, cell.drain));
        Self {
            law: column.map(|column| law_in_words(column.law)),
            simulated: column.and_then(least),
            is_more: column.is_some_and(fails),
        }
    }

    fn cell(self, longest: Duration) -> Element {
        let Some(law) = self.law else { return element("td").text("–") };
        let more = if self.is_more { " ▲" } else { "" };
        let (class, words) = match self.simulated {
            Some(drain) => ("is", format!("{}{more}", time(drain))),
            None => ("is some", format!("over {}{more}", time(longest))),
        };
        element("td")
            .child(element("span").with("class", class).text(words))
            .child(element("br"))
            .child(element("span").with("class", "fine").text(format_args!("law {law}")))
    }
}

fn setting(panel: &Panel) -> String {
    // Lines are broken between settings alone.
    format!("{}%, {}", panel.minimum_healthy_percent, time(panel.health_interval)).replace(' ', "\u{a0}")
}

fn settings(panels: &[&Panel]) -> String {
    panels.iter().map(|panel| setting(panel)).collect::<Vec<_>>().join("; ")
}

fn stands_for(client: &str) -> Option<&'static str> {
    HABITS.iter().find(|habit| habit.name == client).map(|habit| habit.stands_for)
}

fn how_to_read(sweep: &Sweep) -> Element {
    element("section")
        .child(element("h2").text("How to read the maps"))
        .child(element("p").text(format_args!(
            "Each map is of one client and one setting, each cell of one TTL and one drain. The upper figure is the share of {} \
             that failed at least one request, the lower one how many requests failed in a deploy on average. A pointer that \
             rests on a cell shows more, and so does the table below the maps of each client.",
            several(sweep.deploys, "deploy", "deploys")
        )))
        .child(legend())
        .child(element("p").text(
            "The law: nobody may still know a task that has ended. A client that tries one address needs a drain of the TTL and \
             the time that DNS takes to show a deregistration; one that goes on to the next address needs less by the gap, \
             the time from the first new record to the SIGTERM of the last old task, since new tasks are in its answer by \
             then. What a client keeps for longer than the TTL is added. The line lies between the middles of two rows as the \
             law's drain lies between theirs.",
        ))
}

fn client(client: &Client) -> Element {
    let maps = client.panels.iter().map(|panel| {
        let title = format!(
            "{}: minimum healthy {}%, health check every {}",
            panel.client,
            panel.minimum_healthy_percent,
            time(panel.health_interval)
        );
        let none = "No drain is long enough: it keeps what it knows for ever.";
        let nowhere = (!panel.columns.is_empty() && panel.columns.iter().all(|column| column.law.is_none()))
            .then(|| element("p").with("class", "fine").text(none));
        element("figure")
            .child(
                element("figcaption")
                    .child(element("h3").text(format_args!(
                        "Minimum healthy {}%, health check every {}",
                        panel.minimum_healthy_percent,
                        time(panel.health_interval)
                    )))
                    .child(element("p").with("class", "fine").text(format_args!("The gap is {} or more.", gap(panel))))
                    .children(nowhere),
            )
            .child(scroller("scroll map", &title).child(map(panel, &title)))
    });
    element("section")
        .with("class", "run")
        .with("id", format_args!("client-{}", client.place))
        .child(element("h2").text(client.name))
        .children(stands_for(client.name).map(|words| element("p").with("class", "fine").text(words)))
        .child(element("div").with("class", "maps").children(maps))
        .child(details("The same in numbers", scrolled(&format!("Cells of {}", client.name), numbers(client))))
}

fn gap(panel: &Panel) -> String {
    format!("{:.1} s", panel.gap.as_secs_f64())
}

fn causes(cell: &Cell) -> String {
    let causes = cell.simulated.by_cause.iter().map(|(cause, mean)| format!("{cause} {}", failures(*mean)));
    causes.collect::<Vec<_>>().join(", ")
}

/// A row for each cell of a client.
fn numbers(client: &Client) -> Element {
    const NAMES: [&str; 10] = [
        "TTL",
        "drain",
        "law",
        "deploys that fail",
        "failures, mean",
        "95 of 100",
        "worst",
        "failing for up to",
        "processes that fail",
        "causes, mean",
    ];
    let groups = client.panels.iter().map(|panel| {
        let title = element("th").with("scope", "rowgroup").with("class", "words").with("colspan", NAMES.len()).text(
            format_args!(
                "Minimum healthy {}%, health check every {}, gap {}",
                panel.minimum_healthy_percent,
                time(panel.health_interval),
                gap(panel)
            ),
        );
        let axes = Axes::of(panel);
        let rows = axes.columns.into_iter().flat_map(|column| {
            axes.drains
                .iter()
                .filter_map(|drain| column.cells.iter().find(|cell| cell.drain == *drain))
                .map(move |cell| row(column, cell))
        });
        let rows: Vec<Element> = rows.collect();
        element("tbody").child(element("tr").child(title)).children(rows)
    });
    let groups: Vec<Element> = groups.collect();
    element("table").with("class", "grouped numbers").child(heads(&NAMES)).children(groups)
}

fn row(column: &Column, cell: &Cell) -> Element {
    let it = &cell.simulated;
    let class = if it.worst > 0 { "some" } else { "none" };
    let figures =
        [failures(it.mean), count(it.p95), count(it.worst), format!("{:.1} s", it.longest), share(it.clients)];
    element("tr")
        .child(element("th").with("scope", "row").text(time(column.ttl)))
        .child(element("td").text(time(cell.drain)))
        .child(element("td").text(law_in_words(column.law)))
        .child(element("td").with("class", class).text(share(it.any)))
        .children(figures.map(|figure| element("td").text(figure)))
        .child(element("td").with("class", "words").text(causes(cell)))
}

/// What names a cell, as the first columns of a table.
const PLACE: [&str; 5] = ["client", "minimum healthy", "health check", "TTL", "drain"];

fn place(panel: &Panel, column: &Column, cell: &Cell) -> Element {
    let values = [time(panel.health_interval), time(column.ttl), time(cell.drain)];
    element("tr")
        .child(element("th").with("scope", "row").with("class", "words").text(&panel.client))
        .child(element("td").text(format_args!("{}%", panel.minimum_healthy_percent)))
        .children(values.map(|value| element("td").text(value)))
}

/// The cells that should not have failed a request, and did in virtual time.
fn beyond_the_law(sweep: &Sweep) -> Element {
    let mut beyond: Vec<_> = cells(sweep).filter(|(_, column, cell)| is_enough(column, cell.drain)).collect();
    let all = beyond.len();
    beyond.retain(|(_, _, cell)| cell.simulated.worst > 0);
    let section = element("section").child(element("h2").text("Where the law is not enough"));
    if beyond.is_empty() {
        return section.child(element("p").text(format_args!(
            "Nowhere: in none of {} whose drain is long enough by law did a deploy fail a request.",
            several(all, "cell", "cells")
        )));
    }
    let names: Vec<&str> =
        PLACE.into_iter().chain(["law", "deploys that fail", "failures, mean", "worst", "causes, mean"]).collect();
    let rows = beyond.iter().map(|(panel, column, cell)| {
        place(panel, column, cell)
            .child(element("td").text(law_in_words(column.law)))
            .child(element("td").with("class", "some").text(share(cell.simulated.any)))
            .child(element("td").text(failures(cell.simulated.mean)))
            .child(element("td").text(count(cell.simulated.worst)))
            .child(element("td").with("class", "words").text(causes(cell)))
    });
    let table = element("table").child(heads(&names)).child(element("tbody").children(rows));
    section
        .child(element("p").text(format_args!(
            "In {} of {} whose drain is long enough by law a deploy failed a request nevertheless. The law is about clients that \
             forget an address as soon as its time is over, and about tasks that are stopped once.",
            number(beyond.len()),
            several(all, "cell", "cells")
        )))
        .child(scrolled("Failures beyond the law", table))
}

/// The cells that were run with real processes, beside what was expected of them.
fn agreement(sweep: &Sweep) -> Option<Element> {
    let rows: Vec<Element> = cells(sweep)
        .filter_map(|(panel, column, cell)| {
            let real = cell.real.as_ref()?;
            let (class, word) = if real.agrees { ("none", "✓ agrees") } else { ("some", "✗ differs") };
            Some(
                place(panel, column, cell)
                    .child(element("td").text(count(real.requests)))
                    .child(element("td").text(count(real.failed)))
                    .child(element("td").text(format_args!("{}–{}", count(real.low), count(real.high))))
                    .child(element("td").with("class", class).text(word)),
            )
        })
        .collect();
    if rows.is_empty() {
        return None;
    }
    let names: Vec<&str> = PLACE.into_iter().chain(["requests", "failed", "expected", "verdict"]).collect();
    let table = element("table").child(heads(&names)).child(element("tbody").children(rows));
    Some(
        element("section")
            .with("id", "agreement")
            .child(element("h2").text("With real processes"))
            .child(element("p").text(
                "Each of these cells was run once with real tasks, DNS and requests. Expected are as many failures as simulated \
                 deploys with the same number of clients had, from the fewest to the most, and a few for processes that start \
                 or end late.",
            ))
            .child(scrolled("Cells with real processes", table)),
    )
}

fn footer(sweep: &Sweep, head: &Head) -> Element {
    let machine = head.machine.map_or_else(String::new, |it| {
        format!(
            " Real processes ran on {} × {} ({}), {} MiB, {}.",
            it.cores, it.processor, it.architecture, it.memory_mib, it.system
        )
    });
    element("footer").child(element("p").with("class", "fine").text(format_args!(
        "Simulated with seed {}: the same settings and seed give the same figures. All of them are in sweep.json.{machine}",
        sweep.seed
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::Forecast;

    /// Drains, and how many requests failed in the worst deploy of each.
    fn column(law: Option<f64>, cells: &[(u64, u64)]) -> Column {
        let cell = |(drain, worst): &(u64, u64)| Cell {
            drain: Duration::from_secs(*drain),
            simulated: Forecast { worst: *worst, ..Forecast::default() },
            real: None,
        };
        Column { ttl: Duration::from_mins(1), law, cells: cells.iter().map(cell).collect() }
    }

    #[test]
    fn the_least_drain_is_one_beyond_which_nothing_failed() {
        let secs = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(least(&column(None, &[(0, 5), (30, 1), (60, 0), (90, 0)])), secs(60));
        // By chance nothing failed at 30 s, where something may.
        assert_eq!(least(&column(None, &[(60, 1), (0, 5), (30, 0), (90, 0)])), secs(90));
        assert_eq!(least(&column(None, &[(0, 0), (30, 0)])), secs(0));
        assert_eq!(least(&column(None, &[(0, 5), (30, 1)])), None);
    }

    #[test]
    fn a_drain_that_is_the_laws_own_is_enough() {
        let enough = |law| is_enough(&column(law, &[]), Duration::from_secs(63));
        assert_eq!([Some(62.9), Some(63.0), Some(63.1), None].map(enough), [true, true, false, false]);
    }

    /// The contrast of two colours as WCAG 2 has it, of those written `#rrggbb`.
    fn contrast(one: &str, other: &str) -> f64 {
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    fn luminance(colour: &str) -> f64 {
        let part = |at: usize| {
            let part = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    }

    #[test]
    fn more_is_always_further_from_the_ground_and_can_be_read() {
        let sheet = include_str!("sweep/style.css");
        let value = |block: &str, name: &str| {
            let (_, rest) = block.split_once(&format!("{name}: ")).expect(name);
            rest[..7].to_owned()
        };
        let (light, dark) = sheet.split_once("prefers-color-scheme: dark").unwrap();
        for (block, ground) in [(light, "#fdfdfc"), (dark, "#161715")] {
            assert!(include_str!("html/style.css").contains(&format!("--ground: {ground}")));
            let mut before = 1.0;
            for level in 1..=6 {
                let (fill, ink) = (value(block, &format!("--s{level}")), value(block, &format!("--i{level}")));
                let far = contrast(&fill, ground);
                assert!(far > before * 1.15, "level {level}: {fill} is as far from {ground} as the one before");
                assert!(contrast(&fill, &ink) >= 4.5, "level {level}: {ink} on {fill}: {}", contrast(&fill, &ink));
                before = far;
            }
        }
    }
}

//! The summary on a terminal, or in the log of a pipeline.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{
    Report, Summary, summary,
    words::{count, latency, seconds, share},
};

/// How it is to look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Look {
    /// How many columns there are. Below 40 lines get longer than that.
    pub columns: usize,
    /// Whether to send colour codes. Nothing is said by colour alone.
    pub is_coloured: bool,
}

/// The answers, and what the clients of each run saw.
#[must_use]
pub fn summary(report: &Report, look: Look) -> String {
    let look = Look { columns: look.columns.max(40), ..look };
    let mut lines = Vec::new();
    answers(report, look, &mut lines);
    runs(report, look, &mut lines);
    if report.was_interrupted {
        lines.push("Interrupted: this is what was seen until then.".to_owned());
    }
    let mut text = String::new();
    for line in lines {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn answers(report: &Report, look: Look, lines: &mut Vec<String>) {
    const MARGIN: usize = 14;
    for answer in &report.answers {
        let (word, colour) = if answer.held { ("held", Colour::Good) } else { ("DID NOT HOLD", Colour::Bad) };
        // Beside the text where there is room for both.
        let is_beside = look.columns >= 60;
        let margin = if is_beside { MARGIN } else { 2 };
        let width = look.columns - margin;
        let mut body: Vec<String> =
            wrap(&answer.question, width).into_iter().map(|line| Colour::Strong.on(&line, look)).collect();
        body.extend(wrap(&answer.answer, width));
        if !answer.held {
            body.extend(wrap(&format!("Expected: {}", answer.expectation), width));
        }
        body.extend(pairs(&answer.rows, width).into_iter().map(|line| Colour::Faint.on(&line, look)));
        if is_beside {
            let first = if body.is_empty() { String::new() } else { body.remove(0) };
            lines.push(format!("{}{first}", colour.on(&pad(word, MARGIN), look)));
        } else {
            lines.push(colour.on(word, look));
        }
        lines.extend(body.into_iter().map(|line| format!("{:margin$}{line}", "")));
        lines.push(String::new());
    }
}

/// Names and values below each other, the values in a column of their own.
fn pairs(rows: &[(String, String)], width: usize) -> Vec<String> {
    let names = rows.iter().map(|(name, _)| clean(name).width()).max().unwrap_or_default().min(width / 2);
    let values = width - names - 2;
    let mut lines = Vec::new();
    for (name, value) in rows {
        let mut name = wrap(name, names).into_iter();
        let mut value = wrap(value, values).into_iter();
        loop {
            match (name.next(), value.next()) {
                (None, None) => break,
                (left, right) => {
                    let (left, right) = (left.unwrap_or_default(), right.unwrap_or_default());
                    lines.push(format!("{}  {right}", pad(&left, names)));
                }
            }
        }
    }
    lines
}

/// A column of the table of runs.
struct Column {
    name: &'static str,
    value: fn(&Summary) -> String,
    is_number: bool,
    /// How many columns of the terminal there must be for it.
    from: usize,
}

const COLUMNS: [Column; 8] = [
    Column { name: "client", value: |it| clean(&it.profile), is_number: false, from: 0 },
    Column { name: "requests", value: |it| count(it.requests), is_number: true, from: 0 },
    Column { name: "failed", value: |it| count(it.failed), is_number: true, from: 0 },
    Column { name: "", value: |it| share(it.failed, it.requests), is_number: true, from: 56 },
    Column { name: "for up to", value: longest, is_number: true, from: 56 },
    Column { name: "p50", value: |it| latency(it.latency.p50), is_number: true, from: 92 },
    Column { name: "p99", value: |it| latency(it.latency.p99), is_number: true, from: 68 },
    Column { name: "max", value: |it| latency(it.latency.max), is_number: true, from: 92 },
];

fn longest(summary: &Summary) -> String {
    if summary.failed == 0 { "–".to_owned() } else { seconds(summary.longest_failing) }
}

fn runs(report: &Report, look: Look, lines: &mut Vec<String>) {
    let columns: Vec<&Column> = COLUMNS.iter().filter(|it| it.from <= look.columns).collect();
    let summaries = report.runs.iter().flat_map(|run| &run.summaries);
    let widths: Vec<usize> = columns
        .iter()
        .map(|column| {
            summaries.clone().map(|it| (column.value)(it).width()).max().unwrap_or(0).max(column.name.width())
        })
        .collect();
    let line = |cells: Vec<String>| {
        let cells = columns.iter().zip(&widths).zip(cells);
        cells.fold(String::new(), |line, ((column, &width), cell)| {
            let space = " ".repeat(width.saturating_sub(cell.width()));
            let (left, right) = if column.is_number { (&space, &cell) } else { (&cell, &space) };
            line + "  " + left + right
        })
    };
    for run in &report.runs {
        lines.extend(wrap(&run.record.title, look.columns).into_iter().map(|line| Colour::Strong.on(&line, look)));
        let names = columns.iter().map(|column| column.name.to_owned()).collect();
        lines.push(Colour::Faint.on(&line(names), look));
        for summary in &run.summaries {
            let text = line(columns.iter().map(|column| (column.value)(summary)).collect());
            lines.push(if summary.failed > 0 { Colour::Bad.on(&text, look) } else { text });
            let causes: Vec<String> =
                summary.by_cause.iter().map(|(cause, failed)| format!("{cause} {}", count(*failed))).collect();
            lines.extend(wrap(&causes.join(", "), look.columns - 4).into_iter().map(|line| format!("    {line}")));
            if summary.lateness.p99 > summary::late(run.record.speed) {
                let late = format!(
                    "This machine was too slow for the load: one request of a hundred was sent {} late or later.",
                    latency(summary.lateness.p99)
                );
                lines.extend(wrap(&late, look.columns - 4).into_iter().map(|line| format!("    {line}")));
            }
        }
        lines.push(String::new());
    }
}

/// What is said by words too.
#[derive(Clone, Copy)]
enum Colour {
    Good,
    Bad,
    Strong,
    Faint,
}

impl Colour {
    fn on(self, text: &str, look: Look) -> String {
        let code = match self {
            _ if !look.is_coloured || text.trim().is_empty() => return text.to_owned(),
            Self::Good => "32",
            Self::Bad => "31",
            Self::Strong => "1",
            Self::Faint => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

/// Without what a terminal would obey: some texts come from the programs that are rehearsed.
fn clean(text: &str) -> String {
    text.chars().map(|it| if it.is_control() { char::REPLACEMENT_CHARACTER } else { it }).collect()
}

/// Lines no wider than that, broken at spaces, and within a word where there is none.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace().map(clean) {
        if !line.is_empty() && line.width() + 1 + word.width() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        for character in word.chars() {
            if !line.is_empty() && line.width() + character.width().unwrap_or(0) > width {
                lines.push(std::mem::take(&mut line));
            }
            line.push(character);
        }
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_at_spaces_and_words_only_where_they_must() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(wrap("", 4), Vec::<String>::new());
    }

    #[test]
    fn a_wide_character_takes_two_columns() {
        assert_eq!(wrap("リクエスト", 4), ["リク", "エス", "ト"]);
        assert_eq!(pad("分散", 6), "分散  ");
    }

    #[test]
    fn a_terminal_obeys_nothing_that_a_rehearsed_program_said() {
        assert_eq!(wrap("\u{1b}[2J gone", 20), ["\u{fffd}[2J gone"]);
    }
}

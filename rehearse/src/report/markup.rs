//! HTML and SVG, well-formed and escaped by construction.
//!
//! The template crates that would do bring a second version of syn into the build, for what these lines do.

use std::fmt::{self, Display, Write};

/// An element. Names are the program's own; values and texts may be anybody's.
pub(super) struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    children: Vec<Node>,
}

enum Node {
    Element(Element),
    Text(String),
    Style(&'static str),
}

/// Starts an element.
pub(super) fn element(name: &'static str) -> Element {
    Element { name, attributes: Vec::new(), children: Vec::new() }
}

/// The page's style sheet, which is not escaped, as HTML has it: it must not contain `<` or `&`.
pub(super) fn style(sheet: &'static str) -> Element {
    Element { name: "style", attributes: Vec::new(), children: vec![Node::Style(sheet)] }
}

impl Element {
    /// Gives it an attribute.
    pub(super) fn with(mut self, name: &'static str, value: impl Display) -> Self {
        self.attributes.push((name, value.to_string()));
        self
    }

    /// Gives it an attribute that is a length in user units, to a tenth.
    pub(super) fn at(self, name: &'static str, value: f64) -> Self {
        self.with(name, Tenths(value))
    }

    /// Puts text into it.
    pub(super) fn text(mut self, text: impl Display) -> Self {
        self.children.push(Node::Text(text.to_string()));
        self
    }

    /// Puts an element into it.
    pub(super) fn child(mut self, child: Self) -> Self {
        self.children.push(Node::Element(child));
        self
    }

    /// Puts elements into it.
    pub(super) fn children(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children.into_iter().map(Node::Element));
        self
    }
}

impl Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}", self.name)?;
        for (name, value) in &self.attributes {
            write!(f, " {name}=\"")?;
            escape(f, value)?;
            f.write_char('"')?;
        }
        if matches!(self.name, "br" | "col" | "link" | "meta") {
            return f.write_str("/>\n");
        }
        f.write_char('>')?;
        for child in &self.children {
            match child {
                Node::Element(element) => element.fmt(f)?,
                Node::Text(text) => escape(f, text)?,
                Node::Style(sheet) => f.write_str(sheet)?,
            }
        }
        write!(f, "</{}>", self.name)?;
        // White space here means nothing, and a line of a megabyte is none.
        if matches!(self.name, "div" | "figure" | "g" | "path" | "rect" | "section" | "svg" | "table" | "tr") {
            f.write_char('\n')?;
        }
        Ok(())
    }
}

fn escape(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for character in text.chars() {
        match character {
            '&' => f.write_str("&amp;")?,
            '<' => f.write_str("&lt;")?,
            '>' => f.write_str("&gt;")?,
            '"' => f.write_str("&quot;")?,
            '\n' | '\t' => f.write_char(character)?,
            // What a program wrote to its terminal means nothing on a page, and no parser has to take it.
            '\u{fffe}' | '\u{ffff}' => f.write_char(char::REPLACEMENT_CHARACTER)?,
            control if control.is_control() => f.write_char(char::REPLACEMENT_CHARACTER)?,
            character => f.write_char(character)?,
        }
    }
    Ok(())
}

/// A number with one digit after the point, if it needs it.
pub(super) struct Tenths(pub(super) f64);

impl Display for Tenths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.1}", self.0);
        f.write_str(text.strip_suffix(".0").unwrap_or(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_values_cannot_become_markup() {
        let it = element("p").with("title", "\"><script>").text("<script>alert('&')</script>\u{1b}[31m");
        assert_eq!(
            it.to_string(),
            "<p title=\"&quot;&gt;&lt;script&gt;\">&lt;script&gt;alert('&amp;')&lt;/script&gt;\u{fffd}[31m</p>"
        );
    }

    #[test]
    fn an_empty_element_is_closed_unless_html_says_that_it_has_no_end() {
        assert_eq!(element("td").to_string(), "<td></td>");
        assert_eq!(element("br").to_string(), "<br/>\n");
    }

    #[test]
    fn lengths_have_no_digits_that_nobody_can_see() {
        assert_eq!(element("i").at("x", 1.0).at("y", 2.34).to_string(), "<i x=\"1\" y=\"2.3\"></i>");
    }
}

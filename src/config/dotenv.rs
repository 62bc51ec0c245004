//! `.env`, line by line: dotenvy reads it, and here it is counted, so that messages can name the line.

use std::cell::Cell;
use std::io::{self, Read};

/// One assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub line: usize,
    pub name: String,
    pub value: String,
}

/// A line that is no assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub line: usize,
    /// The name on it, if it has one. Not the value: that may be a secret.
    pub name: String,
    pub message: &'static str,
}

/// Hands out at most one physical line a read, so that what dotenvy has consumed can be counted.
struct Lines<'a> {
    rest: &'a [u8],
    given: &'a Cell<usize>,
}

impl Read for Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let line = self.rest.iter().position(|byte| *byte == b'\n').map_or(self.rest.len(), |at| at + 1);
        let take = line.min(buffer.len());
        let (now, later) = self.rest.split_at(take);
        buffer[..take].copy_from_slice(now);
        self.rest = later;
        if now.ends_with(b"\n") {
            self.given.set(self.given.get() + 1);
        }
        Ok(take)
    }
}

/// All assignments and all malformed lines of `text`.
pub(super) fn parse(text: &str) -> (Vec<Assignment>, Vec<Malformed>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // A last line with blanks at its end and no line break is an unfinished one to dotenvy.
    let text = format!("{text}\n");
    let lines: Vec<&str> = text.lines().collect();
    let given = Cell::new(0);
    let (mut assignments, mut malformed) = (Vec::new(), Vec::new());
    let mut entries = dotenvy::Iter::new(Lines { rest: text.as_bytes(), given: &given });
    loop {
        let before = given.get().min(lines.len());
        let Some(entry) = entries.next() else { break };
        let after = given.get().min(lines.len());
        // dotenvy skips blank and comment lines on its way to an entry; the entry starts at the first other one.
        let skipped = lines[before..after].iter().take_while(|line| is_blank(line)).count();
        let line = before + skipped + 1;
        match entry {
            Ok((name, value)) => assignments.push(Assignment { line, name, value }),
            Err(_) => {
                let written = lines.get(line - 1).copied().unwrap_or_default();
                malformed.push(explain(line, written));
            }
        }
    }
    (assignments, malformed)
}

fn is_blank(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

fn explain(line: usize, written: &str) -> Malformed {
    let written = written.trim();
    let written = written.strip_prefix("export ").unwrap_or(written).trim_start();
    let Some((name, value)) = written.split_once('=') else {
        return Malformed { line, name: String::new(), message: "has no `=`: write NAME=value" };
    };
    let (name, value) = (name.trim(), value.trim());
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    if !is_name {
        return Malformed {
            line,
            name: String::new(),
            message: "does not begin with a name: write NAME=value",
        };
    }
    let quotes = |q: char| value.matches(q).count() % 2 == 1;
    let message = if quotes('"') || quotes('\'') {
        "a quotation mark is not closed"
    } else if value.contains('\\') {
        "has a backslash that escapes nothing: put the value between single quotation marks"
    } else {
        "the value has spaces: put it between quotation marks"
    };
    Malformed { line, name: name.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<(usize, String, String)> {
        let (assignments, malformed) = parse(text);
        assert_eq!(malformed, []);
        assignments.into_iter().map(|a| (a.line, a.name, a.value)).collect()
    }

    #[test]
    fn lines_are_counted_over_comments_blanks_and_quotations() {
        let text = "\u{feff}# a comment\n\nA=1\r\nexport B='two words' # why\n\n  # more\nC=\"over\ntwo lines\"\nD=\nE=last ";
        let expected = [
            (3, "A", "1"),
            (4, "B", "two words"),
            (7, "C", "over\ntwo lines"),
            (9, "D", ""),
            (10, "E", "last"),
        ];
        let expected: Vec<_> = expected.iter().map(|(l, n, v)| (*l, n.to_string(), v.to_string())).collect();
        assert_eq!(names(text), expected);
    }

    #[test]
    fn a_line_longer_than_any_buffer_is_one_line() {
        let long = "ü".repeat(20_001);
        assert_eq!(names(&format!("A={long}\nB=2")), [(1, "A".into(), long), (2, "B".into(), "2".into())]);
    }

    #[test]
    fn every_malformed_line_is_told_and_the_rest_is_read() {
        let (assignments, malformed) =
            parse("A=1\nthis is no assignment\nB=two words\n9C=1\nD=2\nE='never closed\nF=3\n");
        assert_eq!(assignments.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["A", "D"]);
        let told: Vec<_> = malformed.iter().map(|m| (m.line, m.name.as_str())).collect();
        assert_eq!(told, [(2, ""), (3, "B"), (4, ""), (6, "E")]);
        assert!(malformed[1].message.contains("spaces"), "{malformed:?}");
        assert!(malformed[3].message.contains("not closed"), "{malformed:?}");
    }
}

//! Outside text made fit for a terminal: harmless, and as wide as we believe it is.
//!
//! Titles come from strangers. [`clean`] takes out everything that could move the cursor, recolour the screen,
//! reorder the line or hide text, and everything that terminals disagree about the width of (emoji joined from
//! several, variation selectors, towers of accents), so that a width computed here is the width on the screen.

use unicode_width::UnicodeWidthChar;

/// Accents kept on one letter; Hebrew with vowel points and Vietnamese need three.
const MARKS_A_LETTER: usize = 4;

/// `text` on one line, without control characters, escape sequences, bidirectional overrides, invisible
/// characters and joined emoji; runs of white space become one space.
pub fn clean(text: &str) -> String {
    let text = console::strip_ansi_codes(text);
    let mut out = String::with_capacity(text.len());
    let mut marks = 0;
    let mut joined = false;
    for c in text.chars() {
        if c.is_whitespace() || matches!(c, '\u{2028}' | '\u{2029}') {
            if !out.is_empty() && !out.ends_with(' ') {
                out.push(' ');
            }
            (marks, joined) = (0, false);
            continue;
        }
        if c == '\u{200D}' {
            joined = true;
            continue;
        }
        if is_unsafe(c) {
            continue;
        }
        let width = c.width().unwrap_or(0);
        if width == 0 {
            marks += 1;
            // An accent needs a letter to stand on, and a tower of them would reach into other lines.
            if marks <= MARKS_A_LETTER && !out.is_empty() && !out.ends_with(' ') {
                out.push(c);
            }
            continue;
        }
        marks = 0;
        // The rest of a family or a profession: some terminals draw one picture here, others three.
        if !(std::mem::take(&mut joined) && is_pictograph(c)) {
            out.push(c);
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// As [`clean`], and at most `limit` characters: for messages that quote what a server or a tool said.
pub fn clean_message(text: &str, limit: usize) -> String {
    let text = clean(text);
    match text.char_indices().nth(limit) {
        Some((at, _)) => format!("{}…", text[..at].trim_end()),
        None => text,
    }
}

/// Characters that act on a terminal or cannot be seen.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00AD}'                  // soft hyphen: drawn by some terminals
            | '\u{034F}'                // grapheme joiner
            | '\u{061C}' | '\u{200B}' | '\u{200E}' | '\u{200F}'
            | '\u{180B}'..='\u{180F}'
            | '\u{202A}'..='\u{202E}'   // bidirectional embeddings and overrides
            | '\u{2060}'..='\u{206F}'   // isolates, invisible operators
            | '\u{FE00}'..='\u{FE0F}'   // variation selectors
            | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFC}'
            | '\u{1F3FB}'..='\u{1F3FF}' // skin tones
            | '\u{E0000}'..='\u{E0FFF}' // tags
            | '\u{E000}'..='\u{F8FF}' | '\u{F0000}'..='\u{10FFFF}' // private use
        )
}

/// Emoji and the signs that are joined to them.
fn is_pictograph(c: char) -> bool {
    matches!(c, '\u{2190}'..='\u{2BFF}' | '\u{1F000}'..='\u{1FAFF}')
}

/// Columns that `text` takes; escape sequences take none. Every character counts by itself, so the result is
/// never less than what a terminal uses.
pub fn width(text: &str) -> usize {
    console::AnsiCodeIterator::new(text)
        .filter(|(_, is_escape)| !is_escape)
        .flat_map(|(part, _)| part.chars())
        .map(|c| c.width().unwrap_or(0))
        .sum()
}

/// `text` (without escape sequences) in at most `columns`, ending in `…` where it was cut.
pub fn truncate(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    if columns == 0 {
        return String::new();
    }
    let mut used = 0;
    let mut end = 0;
    for (at, c) in text.char_indices() {
        let w = c.width().unwrap_or(0);
        if used + w > columns - 1 {
            break;
        }
        used += w;
        end = at + c.len_utf8();
    }
    format!("{}…", text[..end].trim_end())
}

/// `text` padded with spaces on the right to `columns`; longer text stays as it is.
pub fn pad(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// `text` padded with spaces on the left to `columns`.
pub fn pad_left(text: &str, columns: usize) -> String {
    format!("{}{text}", " ".repeat(columns.saturating_sub(width(text))))
}

/// `text` broken at spaces into lines of at most `columns`; a longer word stays whole.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.len() - 1;
        if !lines[line].is_empty() && width(&lines[line]) + 1 + width(word) > columns {
            lines.push(word.to_owned());
        } else {
            if !lines[line].is_empty() {
                lines[line].push(' ');
            }
            lines[line].push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_acts_on_a_terminal_survives() {
        for hostile in [
            "\u{1b}[2Jwiped",
            "\u{1b}]0;title\u{7}wiped",
            "a\rb\nc\td",
            "\u{9b}31mred",
            "abc\u{202E}fdp.exe",
            "\u{2066}x\u{2069}",
            "zero\u{200B}width\u{FEFF}",
            "\u{1b}",
            "\u{1b}[",
            "tag\u{E0041}ged",
        ] {
            let safe = clean(hostile);
            assert!(
                safe.chars().all(|c| !c.is_control() && !is_unsafe(c) && c != '\u{200D}'),
                "{hostile:?} became {safe:?}"
            );
        }
        assert_eq!(clean("\u{1b}[31mred\u{1b}[0m alert"), "red alert");
        assert_eq!(clean("  two\r\n\tlines  "), "two lines");
    }

    #[test]
    fn joined_emoji_become_their_first() {
        assert_eq!(clean("👨‍👩‍👧 family"), "👨 family");
        assert_eq!(clean("👍🏽 ok ❤️"), "👍 ok ❤");
        assert_eq!(clean("क्‍ष"), "क्ष", "a joiner between letters leaves both");
    }

    #[test]
    fn accents_stay_but_not_in_towers() {
        assert_eq!(clean("e\u{301}tude"), "e\u{301}tude");
        let tower = format!("a{}b", "\u{301}".repeat(50));
        assert_eq!(clean(&tower).chars().count(), 2 + MARKS_A_LETTER);
        assert_eq!(clean("\u{301}x"), "x");
    }

    #[test]
    fn truncation_counts_columns() {
        assert_eq!(truncate("日本語のタイトル", 7), "日本語…");
        assert_eq!(truncate("日本語のタイトル", 8), "日本語…");
        assert_eq!(truncate("日本", 4), "日本");
        assert_eq!(truncate("abc", 0), "");
        assert_eq!(truncate("abc", 1), "…");
        for columns in 0..30 {
            assert!(width(&truncate("שלום 日本 🎬 mixed e\u{301}", columns)) <= columns);
        }
    }

    #[test]
    fn escape_sequences_take_no_room() {
        assert_eq!(width("\u{1b}[1mab\u{1b}[0m"), 2);
        assert_eq!(pad("日", 4), "日  ");
        assert_eq!(pad_left("7", 3), "  7");
    }

    #[test]
    fn messages_are_bounded_and_wrapped() {
        assert_eq!(clean_message("one\ntwo three", 7), "one two…");
        assert_eq!(wrap("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("enormousword x", 5), ["enormousword", "x"]);
    }
}

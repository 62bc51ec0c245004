//! Captions: how much text is shown at once, for how long, and how it is escaped.

use unicode_normalization::char::is_combining_mark;

use crate::media::Segment;

/// How much is shown at once.
pub(super) struct Layout {
    /// Columns of a line. 42 is what broadcasters' and Netflix's guides for Latin scripts allow.
    pub columns: usize,
    /// Lines of a caption; two in the same guides.
    pub lines: usize,
}

impl Default for Layout {
    fn default() -> Self {
        Self { columns: 42, lines: 2 }
    }
}

/// What is shown at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caption {
    pub start_ms: i64,
    pub end_ms: i64,
    pub lines: Vec<String>,
}

/// Columns that a character takes on a screen: none for combining marks, two for East Asian wide forms and emoji.
fn width(c: char) -> usize {
    match c {
        '\u{20}'..='\u{7e}' => 1,
        _ if is_combining_mark(c) || matches!(c, '\u{200b}'..='\u{200f}') => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{303e}'
        | '\u{3041}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

fn columns(text: &str) -> usize {
    text.chars().map(width).sum()
}

/// True for characters of scripts written without spaces: a line may be broken between two of them.
fn breaks_anywhere(c: char) -> bool {
    width(c) == 2 || matches!(c, '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}')
}

/// Text with every run of white space and control characters made one space: a line end inside a caption, a title
/// or a text line would end it.
pub(super) fn one_line(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A stretch of text that stays on one line, and whether a space comes before it.
struct Piece {
    spaced: bool,
    text: String,
    columns: usize,
}

/// Words, or single characters of scripts without spaces; words longer than a line are cut.
fn pieces(text: &str, limit: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for word in text.split(' ').filter(|w| !w.is_empty()) {
        let mut piece = Piece { spaced: true, text: String::new(), columns: 0 };
        let mut last = None;
        for c in word.chars() {
            let wide = width(c);
            let free = last.is_some_and(breaks_anywhere) && breaks_anywhere(c);
            // A combining mark stays with its letter.
            if wide > 0 && !piece.text.is_empty() && (free || piece.columns + wide > limit) {
                let next = Piece { spaced: false, text: String::new(), columns: 0 };
                pieces.push(std::mem::replace(&mut piece, next));
            }
            piece.text.push(c);
            piece.columns += wide;
            if wide > 0 {
                last = Some(c);
            }
        }
        pieces.push(piece);
    }
    pieces
}

/// Lines of at most `limit` columns.
fn wrap(pieces: &[Piece], limit: usize) -> Vec<&[Piece]> {
    let mut lines = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (i, piece) in pieces.iter().enumerate() {
        let needed = usize::from(piece.spaced && i > start) + piece.columns;
        if i > start && used + needed > limit {
            lines.push(&pieces[start..i]);
            (start, used) = (i, piece.columns);
        } else {
            used += needed;
        }
    }
    if start < pieces.len() {
        lines.push(&pieces[start..]);
    }
    lines
}

/// As few lines as `limit` allows, and those about equally long: a second line of one word reads badly.
fn balanced(pieces: &[Piece], limit: usize) -> Vec<String> {
    let fewest = wrap(pieces, limit).len();
    let total: usize = pieces.iter().map(|p| usize::from(p.spaced) + p.columns).sum();
    // Not below the longest piece, which wrap does not cut again.
    let longest = pieces.iter().map(|p| p.columns).max().unwrap_or(0);
    let narrow = (total / fewest.max(1)).max(longest);
    let lines = (narrow..limit)
        .map(|limit| wrap(pieces, limit))
        .find(|lines| lines.len() == fewest)
        .unwrap_or_else(|| wrap(pieces, limit));
    lines.into_iter().map(line).collect()
}

fn line(pieces: &[Piece]) -> String {
    let mut text = String::new();
    for piece in pieces {
        if piece.spaced && !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&piece.text);
    }
    text
}

/// The captions of one segment. What does not fit one caption is shared between several, in time as in text.
pub(super) fn captions(segment: &Segment, layout: &Layout) -> Vec<Caption> {
    let text = one_line(&segment.text);
    let pieces = pieces(&text, layout.columns);
    let shown: Vec<Vec<String>> = {
        let lines = wrap(&pieces, layout.columns);
        let mut rest = &pieces[..];
        lines
            .chunks(layout.lines)
            .map(|chunk| {
                let (here, later) = rest.split_at(chunk.iter().map(|line| line.len()).sum());
                rest = later;
                balanced(here, layout.columns)
            })
            .collect()
    };
    let size = |lines: &[String]| lines.iter().map(|l| columns(l)).sum::<usize>().max(1) as i64;
    let total: i64 = shown.iter().map(|lines| size(lines)).sum();
    let start = segment.start_ms.max(0);
    let length = segment.end_ms.max(start) - start;
    let mut before = 0;
    shown
        .into_iter()
        .map(|lines| {
            let start_ms = start + length * before / total;
            before += size(&lines);
            Caption { start_ms, end_ms: start + length * before / total, lines }
        })
        .collect()
}

/// `HH:MM:SS` and milliseconds after `mark`: a comma in SubRip, a full stop in WebVTT. Hours may grow beyond 99.
pub(super) fn time(ms: i64, mark: char) -> String {
    let ms = ms.max(0);
    format!("{:02}:{:02}:{:02}{mark}{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

/// SubRip has no escapes. Players read `<i>` and `{\an8}` as commands and `-->` as a time line, so their signs are
/// replaced by look-alikes.
pub(super) fn escape_srt(line: &str) -> String {
    let line = line.replace("-->", "→");
    let mut safe = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // Only where a command could begin: "x < 5" stays as it is.
            '<' if chars.peek().is_some_and(|n| n.is_ascii_alphabetic() || *n == '/') => safe.push('‹'),
            '{' => safe.push('('),
            '}' => safe.push(')'),
            c => safe.push(c),
        }
    }
    safe
}

/// WebVTT's escapes; `-->` cannot occur once `>` is escaped. <https://www.w3.org/TR/webvtt1/#webvtt-cue-text>
pub(super) fn escape_vtt(line: &str) -> String {
    line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

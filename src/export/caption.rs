//! Captions: how much text is shown at once, for how long, and where it is broken.
//!
//! The pieces of all segments form one stream, which is cut where somebody pauses for long; each stretch between such
//! pauses is divided as a whole, so that the sum of what is bad about its captions is least: breaks inside a phrase, captions
//! that are gone before they are read, sentences that share one. (The line breaks of a paragraph are found likewise in Knuth and
//! Plass, "Breaking Paragraphs into Lines", 1981.)
//!
//! A caption begins to the millisecond when its first word does and ends when its last one does, as far as these times are
//! known. Its end moves in two cases only: it is shown for a second at least where there is room, and leaves a gap before the
//! next one.

use std::collections::VecDeque;

use super::piece::{End, Piece, pieces};
use crate::media::Segment;

/// Lines of a caption. Two, as in broadcasters' and Netflix's guides, which the next four are from as well:
/// <https://partnerhelp.netflixstudios.com/hc/en-us/articles/215758617>
const LINES: usize = 2;
/// Columns of a line in scripts with narrow characters.
const NARROW: usize = 42;
/// Columns of a line that is mostly Chinese, Japanese or Korean: 16 characters, as for Chinese and Korean. Words longer than
/// this are cut, whatever they are in.
const WIDE: usize = 32;
/// A caption is shown for so long, where the next one leaves room.
const SHORTEST_MS: i64 = 1_000;
/// ... and never longer.
const LONGEST_MS: i64 = 7_000;
/// Between two captions: two frames of 24 a second.
const GAP_MS: i64 = 83;

/// Where nobody says anything for so long, a caption ends in any case.
const PAUSE_MS: i64 = 1_500;
/// A caption had better end at a pause of this length.
const BREATH_MS: i64 = 350;
/// Pieces that are divided together at most. Who never pauses gets a cut behind some caption.
const STRETCH: usize = 600;
/// Columns a second that can be read: Netflix's 20 characters.
const READ: f64 = 20.0;

/// What is bad about a caption, in the units of [`seam`].
mod cost {
    /// That there is one more.
    pub(super) const CAPTION: f64 = 25.0;
    /// Shown for no time at all; less, the longer.
    pub(super) const SHORT: f64 = 500.0;
    /// Each column a second that is too many.
    pub(super) const FAST: f64 = 2.0;
    /// A sentence ends in it and another begins.
    pub(super) const SHARED: f64 = 15.0;
    /// ... and does not end in it.
    pub(super) const BEGUN: f64 = 25.0;
    /// A pause in it, a second.
    pub(super) const PAUSE: f64 = 60.0;
    /// Columns by which its lines differ.
    pub(super) const UNEVEN: f64 = 0.4;
    /// The first line is the longer one: a pyramid hides less of the picture.
    pub(super) const TOP_HEAVY: f64 = 2.0;
    /// Share of a seam's cost where a line ends, against the end of a caption.
    pub(super) const LINE: f64 = 0.6;
}

/// What is shown at once.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Caption {
    /// When it appears.
    pub start_ms: i64,
    /// When it goes.
    pub end_ms: i64,
    /// One or two lines of pieces, none of them empty.
    pub lines: Vec<Vec<Piece>>,
    /// Who speaks, where that is known.
    pub speaker: Option<String>,
}

/// Makes captions of segments as they come, in order of their start.
#[derive(Debug, Default)]
pub(super) struct Captions {
    /// Said, and not yet divided.
    stretch: Vec<Piece>,
    /// Who says it.
    speaker: Option<String>,
    /// Waits for its successor, which says when it must be gone.
    pending: Option<Caption>,
    ready: VecDeque<Caption>,
}

impl Captions {
    /// Takes the next segment.
    pub(super) fn take(&mut self, segment: &Segment) {
        if self.speaker != segment.speaker {
            self.divide(0);
            self.speaker.clone_from(&segment.speaker);
        }
        for mut piece in pieces(segment, WIDE) {
            if let Some(last) = self.stretch.last_mut() {
                // Segments may overlap; what is said later is shown later.
                piece.start_ms = piece.start_ms.max(last.start_ms);
                piece.end_ms = piece.end_ms.max(piece.start_ms);
                last.end_ms = last.end_ms.min(piece.start_ms).max(last.start_ms);
                if piece.start_ms - last.end_ms >= PAUSE_MS {
                    self.divide(0);
                }
            }
            self.stretch.push(piece);
            if self.stretch.len() >= STRETCH {
                // What the last captions look like depends on what comes.
                self.divide(STRETCH / 4);
            }
        }
    }

    /// The next caption that is complete; after the last segment, with `end`, all the rest.
    pub(super) fn next(&mut self, end: bool) -> Option<Caption> {
        if end && self.ready.is_empty() {
            self.divide(0);
            let last = self.pending.take().map(|last| timed(last, None));
            self.ready.extend(last);
        }
        self.ready.pop_front()
    }

    /// Makes captions of the stretch, of all but the last `kept` pieces or so.
    fn divide(&mut self, kept: usize) {
        let stretch = std::mem::take(&mut self.stretch);
        let ends = divide(&stretch);
        let cut = stretch.len() - kept.min(stretch.len());
        // At least one is made, or the stretch would grow.
        let done = ends.partition_point(|end| *end <= cut).max(usize::from(!ends.is_empty()));
        let mut rest = stretch.into_iter();
        let mut begun = 0;
        for end in &ends[..done] {
            let pieces: Vec<Piece> = rest.by_ref().take(end - begun).collect();
            begun = *end;
            self.show(pieces);
        }
        self.stretch = rest.collect();
    }

    fn show(&mut self, pieces: Vec<Piece>) {
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return };
        let (mut start_ms, end_ms) = (first.start_ms, last.end_ms);
        if let Some(before) = self.pending.take() {
            // Two that begin together can only follow each other.
            start_ms = start_ms.max(before.start_ms + 1);
            self.ready.push_back(timed(before, Some(start_ms)));
        }
        let mut lines = vec![pieces];
        if let Some((at, _)) = best_lines(&lines[0]) {
            let second = lines[0].split_off(at);
            lines.push(second);
        }
        let end_ms = end_ms.max(start_ms);
        self.pending = Some(Caption { start_ms, end_ms, lines, speaker: self.speaker.clone() });
    }
}

/// A caption with its time on the screen, before one that begins at `next`.
fn timed(mut caption: Caption, next: Option<i64>) -> Caption {
    caption.end_ms = shown_until(caption.start_ms, caption.end_ms, next);
    caption
}

/// When what was said from `start_ms` to `end_ms` is taken off the screen.
fn shown_until(start_ms: i64, end_ms: i64, next: Option<i64>) -> i64 {
    let wanted = end_ms.max(start_ms + SHORTEST_MS).min(start_ms + LONGEST_MS);
    let Some(next) = next else { return wanted };
    // Where there is no room for a gap, none is left.
    let room = if next - GAP_MS > start_ms + GAP_MS { next - GAP_MS } else { next };
    wanted.min(room).max(start_ms + 1)
}

/// Columns that a line of these pieces may have.
fn limit(pieces: &[Piece]) -> usize {
    let wide: usize = pieces.iter().filter(|p| p.wide).map(|p| p.columns).sum();
    let all: usize = pieces.iter().map(|p| p.columns).sum();
    if 2 * wide > all { WIDE } else { NARROW }
}

/// Columns of pieces on one line.
fn width(pieces: &[Piece]) -> usize {
    let spaces = pieces.iter().skip(1).filter(|p| p.spaced).count();
    spaces + pieces.iter().map(|p| p.columns).sum::<usize>()
}

/// How bad a break between two pieces is.
fn seam(before: &Piece, after: &Piece) -> f64 {
    let pause = (after.start_ms - before.end_ms).clamp(0, 2 * BREATH_MS) as f64 / BREATH_MS as f64;
    match before.end {
        End::Sentence => 0.0,
        End::Clause => (12.0 - 6.0 * pause).max(4.0),
        End::Inside => 150.0,
        End::Word if before.weak => 70.0,
        End::Word if after.opens => (22.0 - 8.0 * pause).max(6.0),
        End::Word if !after.spaced && begins_phrase(before, after) => (25.0 - 8.0 * pause).max(6.0),
        End::Word => (40.0 - 15.0 * pause).max(10.0),
    }
}

/// In Japanese a phrase mostly ends in hiragana and begins with something else.
fn begins_phrase(before: &Piece, after: &Piece) -> bool {
    let hiragana = |c: char| matches!(c, '\u{3041}'..='\u{309f}');
    before.text.chars().next_back().is_some_and(hiragana) && !after.text.chars().next().is_some_and(hiragana)
}

/// Where the second of two lines begins, and how bad that is; `None` where one line is enough.
fn best_lines(pieces: &[Piece]) -> Option<(usize, f64)> {
    let limit = limit(pieces);
    let total = width(pieces);
    if total <= limit || pieces.len() < 2 {
        return None;
    }
    let mut first = 0;
    let mut best: Option<(usize, f64)> = None;
    for at in 1..pieces.len() {
        let (before, after) = (&pieces[at - 1], &pieces[at]);
        first += before.columns + usize::from(at > 1 && before.spaced);
        let second = total - first - usize::from(after.spaced);
        // What does not fit is only taken where nothing does.
        let over = first.saturating_sub(limit) + second.saturating_sub(limit);
        let uneven = cost::UNEVEN * first.abs_diff(second) as f64;
        let heavy = if first > second { cost::TOP_HEAVY } else { 0.0 };
        let bad = cost::LINE * seam(before, after) + uneven + heavy + 1e6 * over as f64;
        if best.is_none_or(|(_, least)| bad < least) {
            best = Some((at, bad));
        }
    }
    best
}

/// True where the pieces fit one caption.
fn fits(pieces: &[Piece]) -> bool {
    let limit = limit(pieces);
    let total = width(pieces);
    if total <= limit {
        return true;
    }
    // Two lines lose the space between them.
    if total > LINES * limit + 1 {
        return false;
    }
    best_lines(pieces).is_some_and(|(_, bad)| bad < 1e6)
}

/// How bad a caption of these pieces is, the break after it aside. `next` is when the following piece begins.
fn badness(pieces: &[Piece], next: Option<i64>) -> f64 {
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return 0.0 };
    let shown = shown_until(first.start_ms, last.end_ms, next) - first.start_ms;
    let mut bad = cost::CAPTION + best_lines(pieces).map_or(0.0, |(_, bad)| bad);
    if shown < SHORTEST_MS {
        bad += cost::SHORT * (1.0 - shown as f64 / SHORTEST_MS as f64);
    }
    let columns: usize = pieces.iter().map(|p| p.columns).sum();
    bad += cost::FAST * (columns as f64 * 1000.0 / shown.max(1) as f64 - READ).clamp(0.0, 30.0);
    let mut shared = false;
    for pair in pieces.windows(2) {
        let pause = pair[1].start_ms - pair[0].end_ms;
        if pause > BREATH_MS {
            bad += cost::PAUSE * (pause - BREATH_MS) as f64 / 1000.0;
        }
        if pair[0].end == End::Sentence {
            bad += cost::SHARED;
            shared = true;
        }
    }
    if shared && last.end != End::Sentence {
        bad += cost::BEGUN;
    }
    bad
}

/// Divides pieces into captions, each given by its end.
fn divide(pieces: &[Piece]) -> Vec<usize> {
    // For each number of pieces: the least that is bad about captions for so many, and where the last of them begins.
    let mut least = vec![(0.0, 0); pieces.len() + 1];
    for end in 1..=pieces.len() {
        let next = pieces.get(end);
        let after = next.map_or(0.0, |next| seam(&pieces[end - 1], next));
        let mut best = (f64::INFINITY, end - 1);
        for begin in (0..end).rev() {
            let taken = &pieces[begin..end];
            // One piece alone is taken as it is: it cannot be cut.
            if taken.len() > 1
                && (pieces[end - 1].end_ms - pieces[begin].start_ms > LONGEST_MS || !fits(taken))
            {
                break;
            }
            let bad = least[begin].0 + badness(taken, next.map(|p| p.start_ms)) + after;
            if bad < best.0 {
                best = (bad, begin);
            }
        }
        least[end] = best;
    }
    let mut ends = Vec::new();
    let mut end = pieces.len();
    while end > 0 {
        ends.push(end);
        end = least[end].1;
    }
    ends.reverse();
    ends
}

#[cfg(test)]
mod tests;

//! How much of the detected speech has text, and where it has none.
//!
//! A recogniser that skips a sentence says nothing about it. Speech was detected before, independently of the model, so
//! what it left out can be seen, heard once more by itself, and if that does not help, told.

use super::{
    assemble::Piece,
    clock::{Clock, millis},
};
use crate::media::{Coverage, Dropped, Flag, Gap, SAMPLE_RATE, Segment};
use crate::speech::{MAX_WINDOW, Span};

/// Text counts as covering speech so far around it: its times are not exact.
const MARGIN_MS: i64 = 400;

/// Pieces of speech without text that lie closer together are one gap.
const JOIN_MS: i64 = 600;

/// Shorter ones are breaths, and ends of words.
const SHORTEST_GAP_MS: i64 = 1_200;

/// Sound kept before and after a gap that is heard again.
const PAD: u64 = SAMPLE_RATE as u64 / 4;

/// Longer gaps are heard again in several windows.
const LONGEST_PART_MS: i64 = 28_000;

/// At most one in so many windows of a file is added for its gaps, but always a few: sound that is taken for speech
/// all through a file (music) has no text however often one listens.
const SHARE: usize = 4;
const ALWAYS: usize = 3;

/// Words a second that people say: slow with many pauses, fast and without any. (Fluent speech has 2 to 3.5.)
const SLOWEST: f64 = 0.5;
const FASTEST: f64 = 6.0;

/// With less speech than this nothing can be said about the whole.
const ENOUGH_MS: i64 = 30_000;

/// The share of speech with text below which a transcript is flagged, and the share not believed above which it is.
const LEAST_COVERED: f64 = 0.8;
const MOST_DROPPED: f64 = 0.2;

/// Detected speech that no segment covers, in order, on the file's own clock.
pub(super) fn gaps(pieces: &[Piece], segments: &[Segment]) -> Vec<Gap> {
    let mut gaps: Vec<Gap> = Vec::new();
    for (start, end) in uncovered(pieces, segments) {
        match gaps.last_mut() {
            Some(last) if start - last.end_ms <= JOIN_MS => last.end_ms = end,
            _ => gaps.push(Gap { start_ms: start, end_ms: end }),
        }
    }
    gaps.retain(|gap| gap.end_ms - gap.start_ms >= SHORTEST_GAP_MS);
    gaps
}

/// Stretches of speech, as detected, less what text covers.
fn uncovered(pieces: &[Piece], segments: &[Segment]) -> Vec<(i64, i64)> {
    let mut rest = Vec::new();
    let mut from = 0;
    for span in pieces.iter().filter(|p| !p.gap).flat_map(|p| &p.clock.speech) {
        let (mut start, end) = (millis(span.start) as i64, millis(span.end) as i64);
        // Segments are in order, and so are the spans.
        while segments.get(from).is_some_and(|s| s.end_ms + MARGIN_MS <= start) {
            from += 1;
        }
        for segment in &segments[from..] {
            if segment.start_ms - MARGIN_MS >= end {
                break;
            }
            if segment.start_ms - MARGIN_MS > start {
                rest.push((start, segment.start_ms - MARGIN_MS));
            }
            start = start.max(segment.end_ms + MARGIN_MS);
        }
        if start < end {
            rest.push((start, end));
        }
    }
    rest
}

/// `gaps` as windows to be heard again, the longest first where they are too many.
///
/// Gaps with no text between them are one window as far as they fit: where the model gave up early in a window, the rest of
/// it is heard as a whole, not sentence by sentence.
pub(super) fn windows(gaps: &[Gap], pieces: &[Piece], segments: &[Segment]) -> Vec<Clock> {
    let file = pieces.iter().filter_map(|p| p.clock.pieces.last()).map(|span| span.end).max().unwrap_or(0);
    let mut chosen: Vec<Vec<Gap>> = Vec::new();
    for part in gaps.iter().flat_map(parts) {
        match chosen.last_mut() {
            Some(last)
                if length(last) + length(&[part]) <= LONGEST_PART_MS
                    && !text_between(last, part, segments) =>
            {
                last.push(part);
            }
            _ => chosen.push(vec![part]),
        }
    }
    chosen.sort_by_key(|gaps| -length(gaps));
    chosen.truncate(ALWAYS.max(pieces.len() / SHARE));
    chosen.sort_by_key(|gaps| gaps[0].start_ms);
    chosen.iter().map(|gaps| window(gaps, file)).collect()
}

/// Length of a window made of `gaps`, padding included.
fn length(gaps: &[Gap]) -> i64 {
    gaps.iter().map(|gap| gap.end_ms - gap.start_ms + 2 * millis(PAD) as i64).sum()
}

fn text_between(gaps: &[Gap], next: Gap, segments: &[Segment]) -> bool {
    let from = gaps.last().map_or(0, |gap| gap.end_ms);
    let first = segments.partition_point(|s| s.start_ms < from);
    segments.get(first).is_some_and(|s| s.start_ms < next.start_ms)
}

/// A window of `gaps`, with some sound around each.
fn window(gaps: &[Gap], file: u64) -> Clock {
    let samples = |ms: i64| u64::try_from(ms).unwrap_or(0) * u64::from(SAMPLE_RATE) / 1000;
    let mut room = MAX_WINDOW as u64;
    let (mut pieces, mut speech) = (Vec::<Span>::new(), Vec::new());
    for gap in gaps {
        let heard = Span { start: samples(gap.start_ms), end: samples(gap.end_ms) };
        let before = pieces.last().map_or(0, |last| last.end);
        let start = heard.start.saturating_sub(PAD).max(before);
        let end = (heard.end + PAD).min(file.max(heard.end)).min(start + room);
        if end <= start {
            break;
        }
        room -= end - start;
        pieces.push(Span { start, end });
        speech.push(Span { start: heard.start.max(start), end: heard.end.min(end) });
    }
    Clock { pieces, speech, edges: Vec::new() }
}

/// A gap in stretches that fit a window.
fn parts(gap: &Gap) -> Vec<Gap> {
    let length = gap.end_ms - gap.start_ms;
    let count = (length + LONGEST_PART_MS - 1) / LONGEST_PART_MS;
    let bound = |i: i64| gap.start_ms + length * i / count.max(1);
    (0..count).map(|i| Gap { start_ms: bound(i), end_ms: bound(i + 1) }).collect()
}

/// The account of a whole transcript, on the file's own clock.
pub(super) fn audit(pieces: &[Piece], segments: &[Segment], dropped: &[Dropped]) -> Coverage {
    let speech_ms: i64 =
        pieces.iter().filter(|p| !p.gap).map(|p| millis(p.clock.speech_samples()) as i64).sum();
    let without: i64 = uncovered(pieces, segments).iter().map(|(start, end)| end - start).sum();
    let transcribed_ms = (speech_ms - without).max(0);
    let words: usize = segments.iter().map(|s| words(&s.text)).sum();
    let dropped_ms: i64 = dropped.iter().map(|d| d.end_ms - d.start_ms).sum();
    let mut flags = Vec::new();
    if speech_ms >= ENOUGH_MS {
        if (transcribed_ms as f64) < LEAST_COVERED * speech_ms as f64 {
            flags.push(Flag::LowCoverage);
        }
        let rate = words as f64 * 1000.0 / transcribed_ms.max(1) as f64;
        if rate < SLOWEST {
            flags.push(Flag::FewWords);
        } else if rate > FASTEST {
            flags.push(Flag::ManyWords);
        }
        if dropped_ms as f64 > MOST_DROPPED * speech_ms as f64 {
            flags.push(Flag::MuchDropped);
        }
    }
    Coverage {
        transcribed_ms,
        words: u32::try_from(words).unwrap_or(u32::MAX),
        gaps: gaps(pieces, segments),
        flags,
    }
}

/// Words of a text; two characters of a script without spaces count as one.
fn words(text: &str) -> usize {
    let unspaced = |c: char| matches!(u32::from(c), 0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3040..=0x30ff | 0x3400..=0x9fff | 0xf900..=0xfaff);
    let dense = text.chars().filter(|&c| unspaced(c)).count();
    let spaced =
        text.split_whitespace().filter(|w| w.chars().any(|c| c.is_alphanumeric() && !unspaced(c))).count();
    spaced + dense.div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(speech: &[(u64, u64)]) -> Piece {
        let samples = |ms: u64| ms * u64::from(SAMPLE_RATE) / 1000;
        let speech: Vec<Span> =
            speech.iter().map(|&(a, b)| Span { start: samples(a), end: samples(b) }).collect();
        let whole = Span { start: speech[0].start, end: speech[speech.len() - 1].end };
        Piece {
            clock: Clock { pieces: vec![whole], speech, edges: Vec::new() },
            covers: 0,
            gap: false,
            text: None,
        }
    }

    fn segment(start_ms: i64, end_ms: i64, text: &str) -> Segment {
        Segment {
            start_ms,
            end_ms,
            text: text.to_owned(),
            language: "en".to_owned(),
            avg_logprob: -0.1,
            no_speech_prob: 0.0,
            words: Vec::new(),
            speaker: None,
        }
    }

    #[test]
    fn speech_without_text_is_found() {
        let pieces = [piece(&[(0, 10_000), (10_500, 20_000)]), piece(&[(21_000, 40_000)])];
        let segments = [segment(0, 6_000, "a"), segment(15_000, 39_700, "b")];
        // 6.4 to 10 and 10.5 to 14.6 are close enough to be one.
        assert_eq!(gaps(&pieces, &segments), [Gap { start_ms: 6_400, end_ms: 14_600 }]);
        assert_eq!(gaps(&pieces, &[segment(0, 40_000, "all")]), []);
        assert_eq!(gaps(&pieces, &[]).len(), 2, "a second of silence parts them");
    }

    #[test]
    fn a_gap_becomes_a_window_with_some_sound_around() {
        let pieces = [piece(&[(1_000, 20_000)])];
        let windows = windows(
            &[Gap { start_ms: 5_000, end_ms: 9_000 }, Gap { start_ms: 18_500, end_ms: 20_000 }],
            &pieces,
            &[segment(10_000, 18_000, "heard")],
        );
        let times: Vec<_> =
            windows.iter().map(|w| (millis(w.pieces[0].start), millis(w.pieces[0].end))).collect();
        assert_eq!(times, [(4_750, 9_250), (18_250, 20_000)]);
    }

    #[test]
    fn gaps_without_text_between_them_are_one_window() {
        let pieces = [piece(&[(1_000, 8_000), (20_000, 28_000), (40_000, 60_000)])];
        let gaps = gaps(&pieces, &[]);
        assert_eq!(gaps.len(), 3);
        let windows = windows(&gaps, &pieces, &[]);
        let times: Vec<Vec<_>> = windows
            .iter()
            .map(|w| w.pieces.iter().map(|p| (millis(p.start), millis(p.end))).collect())
            .collect();
        // The third does not fit.
        assert_eq!(times, [vec![(750, 8_250), (19_750, 28_250)], vec![(39_750, 60_000)]]);
        assert_eq!(windows[0].speech.len(), 2);
    }

    #[test]
    fn too_many_gaps_leave_the_longest() {
        let pieces: Vec<Piece> = (0..4).map(|i| piece(&[(i * 30_000, (i + 1) * 30_000)])).collect();
        let gaps: Vec<Gap> =
            (0..10).map(|i| Gap { start_ms: i * 5_000, end_ms: i * 5_000 + 1_300 + i * 100 }).collect();
        let heard: Vec<Segment> =
            (0..10).map(|i| segment(i * 5_000 + 3_000, i * 5_000 + 4_000, "heard")).collect();
        let starts: Vec<_> =
            windows(&gaps, &pieces, &heard).iter().map(|w| millis(w.speech[0].start)).collect();
        assert_eq!(starts, [35_000, 40_000, 45_000]);
    }

    #[test]
    fn what_looks_wrong_is_flagged() {
        let pieces = [piece(&[(0, 60_000)])];
        let fine = segment(0, 60_000, &"some words that somebody said ".repeat(30));
        assert_eq!(audit(&pieces, &[fine], &[]).flags, []);
        let half = audit(&pieces, &[segment(0, 30_000, &"words ".repeat(80))], &[]);
        assert_eq!((half.flags.as_slice(), half.transcribed_ms), ([Flag::LowCoverage].as_slice(), 30_400));
        assert_eq!(half.gaps, [Gap { start_ms: 30_400, end_ms: 60_000 }]);
        assert_eq!(audit(&pieces, &[segment(0, 60_000, "hardly anything")], &[]).flags, [Flag::FewWords]);
        assert_eq!(audit(&pieces, &[segment(0, 60_000, &"la ".repeat(600))], &[]).flags, [Flag::ManyWords]);
    }

    #[test]
    fn words_are_counted_in_every_script() {
        assert_eq!(words("Nobody's here, and 42 of them."), 6);
        assert_eq!(words("今日はいい天気です。"), 5);
        assert_eq!(words("— …"), 0);
    }
}

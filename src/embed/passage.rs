//! Joins segments into passages: what is embedded, found and shown.

use crate::media::{Passage, Segment};

/// How long passages become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassageOptions {
    /// A passage may end at a sentence's end from this length on, in milliseconds.
    pub min_ms: i64,
    /// No passage grows beyond this, in milliseconds (a single longer segment stays whole).
    pub max_ms: i64,
    /// No passage grows beyond this many words (a single longer segment stays whole). Scripts that put no spaces between
    /// words count a word a character. 200 words are about 260 tokens, well inside of what small models read (512).
    pub max_words: usize,
    /// A pause of this many milliseconds ends a passage where a sentence ends, or half of `min_ms` is reached.
    pub pause_ms: i64,
    /// A pause of this many milliseconds ends a passage in any case.
    pub long_pause_ms: i64,
}

impl Default for PassageOptions {
    /// 20 to 60 s, at most 200 words, breaks at pauses of 2 s (8 s in any case).
    fn default() -> Self {
        Self { min_ms: 20_000, max_ms: 60_000, max_words: 200, pause_ms: 2_000, long_pause_ms: 8_000 }
    }
}

/// Joins consecutive segments into passages, in order. Every segment with text is in exactly one; segments without text
/// are in none, but may lie inside the range of one. No passage is empty.
///
/// A passage ends where the language changes, at a long pause, at a shorter one where that makes sense, and otherwise
/// at the last sentence's end before it would grow too long.
pub fn passages(segments: &[Segment], options: &PassageOptions) -> Vec<Passage> {
    let mut done = Vec::new();
    let mut open: Vec<Piece> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let text = segment.text.trim();
        if text.is_empty() {
            continue;
        }
        let piece = Piece {
            index,
            start_ms: segment.start_ms,
            end_ms: segment.end_ms.max(segment.start_ms),
            text,
            language: &segment.language,
            words: words(text),
            ends_sentence: ends_sentence(text),
        };
        if let Some(last) = open.last()
            && must_break(&open, last, &piece, options)
        {
            done.push(join(&open));
            open.clear();
        }
        while !open.is_empty() && too_long(&open, &piece, options) {
            let at = split_at(&open, options);
            done.push(join(&open[..at]));
            open.drain(..at);
        }
        open.push(piece);
    }
    if !open.is_empty() {
        done.push(join(&open));
    }
    done
}

/// A segment with text.
struct Piece<'a> {
    index: usize,
    start_ms: i64,
    end_ms: i64,
    text: &'a str,
    language: &'a str,
    words: usize,
    ends_sentence: bool,
}

fn length(pieces: &[Piece]) -> i64 {
    let start = pieces.first().map_or(0, |p| p.start_ms);
    pieces.iter().map(|p| p.end_ms).max().unwrap_or(start) - start
}

fn must_break(open: &[Piece], last: &Piece, next: &Piece, options: &PassageOptions) -> bool {
    let pause = next.start_ms - last.end_ms;
    next.language != last.language
        || pause >= options.long_pause_ms
        || (pause >= options.pause_ms && (last.ends_sentence || length(open) >= options.min_ms / 2))
}

fn too_long(open: &[Piece], next: &Piece, options: &PassageOptions) -> bool {
    let start = open.first().map_or(next.start_ms, |p| p.start_ms);
    let words: usize = open.iter().map(|p| p.words).sum();
    next.end_ms - start > options.max_ms || words + next.words > options.max_words
}

/// How many of `open` make the passage when not all that follows fits: up to the last sentence's end that leaves it
/// at least `min_ms` (or half of the words) long, else all.
fn split_at(open: &[Piece], options: &PassageOptions) -> usize {
    (1..=open.len())
        .rev()
        .find(|&n| {
            let part = &open[..n];
            let enough = length(part) >= options.min_ms
                || part.iter().map(|p| p.words).sum::<usize>() >= options.max_words / 2;
            enough && part[n - 1].ends_sentence
        })
        .unwrap_or(open.len())
}

fn join(pieces: &[Piece]) -> Passage {
    let texts: Vec<_> = pieces.iter().map(|p| p.text).collect();
    let start_ms = pieces.first().map_or(0, |p| p.start_ms);
    Passage {
        start_ms,
        end_ms: start_ms + length(pieces),
        text: texts.join(" "),
        language: pieces.first().map(|p| p.language.to_owned()).unwrap_or_default(),
        first_segment: pieces.first().map_or(0, |p| p.index),
        end_segment: pieces.last().map_or(0, |p| p.index + 1),
    }
}

/// Whether `text` ends a sentence: one of `.?!…。？！` (and their relatives in other scripts), closing quotes or brackets
/// after it not counted.
fn ends_sentence(text: &str) -> bool {
    let closing = ['"', '\'', '”', '’', '»', '›', ')', ']', '」', '』', '）', '】', '“'];
    text.trim_end_matches(closing).ends_with([
        '.', '?', '!', '…', '。', '？', '！', '．', '｡', '؟', '۔', '।', '॥', '։', '።', '၊', '။', '។',
    ])
}

/// Words, more or less: as many as there are between spaces, and a word for each character of a script without spaces.
fn words(text: &str) -> usize {
    text.split_whitespace()
        .map(|w| match w.chars().filter(|c| is_unspaced(*c)).count() {
            0 => 1,
            n => n,
        })
        .sum()
}

/// Whether `c` belongs to a script that puts no spaces between words (Unicode blocks: Thai to Myanmar, Khmer, kana,
/// CJK ideographs and their extensions). Hangul has spaces.
fn is_unspaced(c: char) -> bool {
    matches!(u32::from(c),
        0x0e00..=0x109f | 0x1780..=0x17ff | 0x3040..=0x30ff | 0x3400..=0x4dbf | 0x4e00..=0x9fff
        | 0xf900..=0xfaff | 0x20000..=0x3134f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(start_s: i64, end_s: i64, text: &str) -> Segment {
        Segment {
            start_ms: start_s * 1000,
            end_ms: end_s * 1000,
            text: text.to_owned(),
            language: "en".to_owned(),
            avg_logprob: -0.2,
            no_speech_prob: 0.0,
            words: Vec::new(),
            speaker: None,
        }
    }

    /// Every segment with text in exactly one passage, in order.
    fn check(segments: &[Segment], passages: &[Passage]) {
        let mut next = 0;
        for p in passages {
            assert!(p.first_segment >= next && p.end_segment > p.first_segment);
            assert!(segments[next..p.first_segment].iter().all(|s| s.text.trim().is_empty()));
            let inside = &segments[p.first_segment..p.end_segment];
            let texts: Vec<_> = inside.iter().map(|s| s.text.trim()).filter(|t| !t.is_empty()).collect();
            assert_eq!(p.text, texts.join(" "));
            assert_eq!(p.start_ms, segments[p.first_segment].start_ms);
            assert!(p.end_ms >= p.start_ms && !p.text.is_empty());
            next = p.end_segment;
        }
        assert!(segments[next..].iter().all(|s| s.text.trim().is_empty()));
    }

    fn run(segments: &[Segment]) -> Vec<Passage> {
        let passages = passages(segments, &PassageOptions::default());
        check(segments, &passages);
        passages
    }

    #[test]
    fn nothing_makes_nothing() {
        assert!(run(&[]).is_empty());
        assert!(run(&[segment(0, 1, ""), segment(1, 2, "  ")]).is_empty());
    }

    #[test]
    fn a_long_talk_breaks_at_sentence_ends() {
        let segments: Vec<_> = (0..100)
            .map(|i| {
                segment(i * 4, i * 4 + 4, if i % 4 == 3 { "and that ends it." } else { "some words go" })
            })
            .collect();
        let passages = run(&segments);
        for p in &passages[..passages.len() - 1] {
            assert!(p.text.ends_with('.'), "{p:?}");
            let ms = p.end_ms - p.start_ms;
            assert!((20_000..=60_000).contains(&ms), "{ms}");
        }
    }

    #[test]
    fn without_any_punctuation_length_decides() {
        let segments: Vec<_> = (0..60).map(|i| segment(i * 5, i * 5 + 5, "no dots here")).collect();
        let passages = run(&segments);
        assert!(passages.iter().all(|p| p.end_ms - p.start_ms <= 60_000));
        assert_eq!(passages.len(), 5);
    }

    #[test]
    fn words_are_bounded_too() {
        let text = "word ".repeat(30);
        let segments: Vec<_> = (0..40).map(|i| segment(i, i + 1, &text)).collect();
        let passages = run(&segments);
        assert!(passages.iter().all(|p| p.text.split(' ').count() <= 200));
        // And in a script without spaces.
        let segments: Vec<_> = (0..40).map(|i| segment(i, i + 1, &"語".repeat(30))).collect();
        assert!(run(&segments).iter().all(|p| p.text.chars().filter(|c| *c == '語').count() <= 200));
    }

    #[test]
    fn a_segment_that_is_too_long_alone_stays_whole() {
        let segments =
            [segment(0, 3, "Before."), segment(3, 500, &"word ".repeat(10_000)), segment(500, 503, "After.")];
        let passages = run(&segments);
        assert_eq!(passages.len(), 3);
    }

    #[test]
    fn pauses_break_where_it_makes_sense() {
        let half = [segment(0, 2, "so then we"), segment(5, 8, "went on.")];
        assert_eq!(run(&half).len(), 1, "a pause inside a sentence");
        let whole = [segment(0, 2, "That was it."), segment(5, 8, "Next we go.")];
        assert_eq!(run(&whole).len(), 2, "a pause after a sentence");
        let long = [segment(0, 2, "so then we"), segment(12, 14, "came back.")];
        assert_eq!(run(&long).len(), 2, "a long pause");
        let short = [segment(0, 2, "That was it."), segment(3, 8, "Next we go.")];
        assert_eq!(run(&short).len(), 1, "no pause worth the name");
    }

    #[test]
    fn languages_are_kept_apart() {
        let mut segments: Vec<_> = (0..4).map(|i| segment(i * 2, i * 2 + 2, "some words.")).collect();
        segments[2].language = "es".to_owned();
        segments[3].language = "es".to_owned();
        let passages = run(&segments);
        let languages: Vec<_> = passages.iter().map(|p| p.language.as_str()).collect();
        assert_eq!(languages, ["en", "es"]);
    }

    #[test]
    fn sentences_end_in_many_scripts() {
        for text in
            ["Yes.", "Yes?\"", "«Oui!»", "Well…", "そうです。", "「何？」", "好！", "हाँ।", "نعم؟", "(Yes.)"]
        {
            assert!(ends_sentence(text), "{text}");
        }
        for text in ["yes", "yes,", "and \"so\"", "3:", ""] {
            assert!(!ends_sentence(text), "{text}");
        }
    }

    #[test]
    fn times_out_of_order_do_no_harm() {
        let segments = [
            segment(10, 5, "a"),
            segment(0, 90, "b"),
            segment(i64::MAX / 2000, 3, "c"),
            segment(-5, -4, "d."),
        ];
        run(&segments);
    }
}

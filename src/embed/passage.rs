//! Joins segments into passages: what is embedded, found and shown.

use std::borrow::Cow;
use std::ops::Range;

use crate::media::{Passage, Segment};

/// How long passages become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassageOptions {
    /// A passage may end at a sentence's end from this length on, in milliseconds.
    pub min_ms: i64,
    /// No passage grows beyond this, in milliseconds (a single longer segment stays whole, if its text fits).
    pub max_ms: i64,
    /// No passage has more tokens than this, whatever its segments are: what the embedding model reads, less what is put
    /// before the text. [`super::Embedder::room`] knows it.
    pub max_tokens: usize,
    /// A pause of this many milliseconds ends a passage where a sentence ends, or half of `min_ms` is reached.
    pub pause_ms: i64,
    /// A pause of this many milliseconds ends a passage in any case.
    pub long_pause_ms: i64,
    /// Where a passage ends only because it is long enough, the next one begins with the last sentence of it, if that is no
    /// longer than this, in milliseconds (nor than a sixth of `max_tokens`). What is said across the cut stands together in
    /// one of them. 0: never.
    pub overlap_ms: i64,
}

impl Default for PassageOptions {
    /// 20 to 60 s, at most 256 tokens, breaks at pauses of 2 s (8 s in any case), sentences of up to 8 s said twice.
    fn default() -> Self {
        Self {
            min_ms: 20_000,
            max_ms: 60_000,
            max_tokens: 256,
            pause_ms: 2_000,
            long_pause_ms: 8_000,
            overlap_ms: 8_000,
        }
    }
}

/// Joins consecutive segments into passages, in order; `tokens` counts those of a text. Every segment with text is in one,
/// the sentence around a cut in two; segments without text are in none, but may lie inside the range of one. No passage is
/// empty.
///
/// A passage ends where the language changes, at a long pause, at a shorter one where that makes sense, and otherwise
/// at the last sentence's end before it would grow too long. A segment that has too many tokens by itself is divided at its
/// sentences, clauses, words or characters, whichever are small enough; its parts name the same segment.
pub fn passages(
    segments: &[Segment],
    options: &PassageOptions,
    tokens: impl Fn(&str) -> usize,
) -> Vec<Passage> {
    let mut done = Vec::new();
    let mut open = Open::default();
    let parts = segments.iter().enumerate().flat_map(|(index, s)| pieces(index, s, options, &tokens));
    for piece in parts {
        if open.pieces.last().is_some_and(|last| must_break(&open.pieces, last, &piece, options)) {
            done.extend(open.end());
        }
        while !open.pieces.is_empty() && too_long(&open.pieces, &piece, options) {
            done.extend(open.cut(&piece, options));
        }
        open.pieces.push(piece);
    }
    done.extend(open.end());
    done
}

/// A segment with text, or a part of one.
struct Piece<'a> {
    index: usize,
    /// All of its segment.
    whole: bool,
    start_ms: i64,
    end_ms: i64,
    text: Cow<'a, str>,
    language: &'a str,
    tokens: usize,
    ends_sentence: bool,
}

/// The passage in the making.
#[derive(Default)]
struct Open<'a> {
    pieces: Vec<Piece<'a>>,
    /// So many of them stand in the passage before, too.
    carried: usize,
}

impl<'a> Open<'a> {
    /// The passage, if there is anything new in it; then begins anew.
    fn end(&mut self) -> Option<Passage> {
        let passage = (self.pieces.len() > self.carried).then(|| join(&self.pieces));
        self.pieces.clear();
        self.carried = 0;
        passage
    }

    /// Makes room for `next`: a passage of what comes before the best place to cut; what follows stays, behind the last
    /// sentence before the cut where that helps.
    fn cut(&mut self, next: &Piece, options: &PassageOptions) -> Option<Passage> {
        if self.pieces.len() == self.carried {
            // Only what was said before would be left to make a passage of.
            return self.end();
        }
        let at = split_at(&self.pieces, self.carried, options);
        let passage = join(&self.pieces[..at]);
        let repeated = self.repeats(at, next, options);
        self.pieces.drain(..if repeated { at - 1 } else { at });
        self.carried = usize::from(repeated);
        Some(passage)
    }

    /// Whether the piece before the cut at `at` is worth saying again: a whole, short sentence, and not all of the passage.
    fn repeats(&self, at: usize, next: &Piece, options: &PassageOptions) -> bool {
        let Some(before) = at.checked_sub(2).map(|n| &self.pieces[n]) else { return false };
        let last = &self.pieces[at - 1];
        let following = self.pieces.get(at).unwrap_or(next);
        let tokens: usize = self.pieces[at - 1..].iter().map(|p| p.tokens).sum();
        last.whole
            && last.ends_sentence
            && before.ends_sentence
            && last.end_ms - last.start_ms <= options.overlap_ms
            && last.tokens <= options.max_tokens / 6
            && following.start_ms - last.end_ms < options.pause_ms
            && tokens + next.tokens <= options.max_tokens
            && next.end_ms - last.start_ms <= options.max_ms
    }
}

fn length(pieces: &[Piece]) -> i64 {
    let start = pieces.first().map_or(0, |p| p.start_ms);
    pieces.iter().map(|p| p.end_ms).max().unwrap_or(start).saturating_sub(start)
}

fn must_break(open: &[Piece], last: &Piece, next: &Piece, options: &PassageOptions) -> bool {
    let pause = next.start_ms.saturating_sub(last.end_ms);
    next.language != last.language
        || pause >= options.long_pause_ms
        || (pause >= options.pause_ms && (last.ends_sentence || length(open) >= options.min_ms / 2))
}

fn too_long(open: &[Piece], next: &Piece, options: &PassageOptions) -> bool {
    let start = open.first().map_or(next.start_ms, |p| p.start_ms);
    let tokens: usize = open.iter().map(|p| p.tokens).sum();
    next.end_ms.saturating_sub(start) > options.max_ms || tokens + next.tokens > options.max_tokens
}

/// How many of `open` (more than `carried`) make the passage when not all that follows fits: up to the last sentence's end
/// that leaves it at least `min_ms` (or half of the tokens) long, else all.
fn split_at(open: &[Piece], carried: usize, options: &PassageOptions) -> usize {
    (carried + 1..=open.len())
        .rev()
        .find(|&n| {
            let part = &open[..n];
            let enough = length(part) >= options.min_ms
                || part.iter().map(|p| p.tokens).sum::<usize>() >= options.max_tokens / 2;
            enough && part[n - 1].ends_sentence
        })
        .unwrap_or(open.len())
}

fn join(pieces: &[Piece]) -> Passage {
    let mut text = String::new();
    for (n, piece) in pieces.iter().enumerate() {
        // The parts of one segment are as they stood in it.
        let apart = n.checked_sub(1).is_some_and(|before| pieces[before].index != piece.index);
        if apart {
            text.push(' ');
        }
        text.push_str(if n == 0 || apart { piece.text.trim_start() } else { &piece.text });
    }
    text.truncate(text.trim_end().len());
    let start_ms = pieces.first().map_or(0, |p| p.start_ms);
    Passage {
        start_ms,
        end_ms: start_ms.saturating_add(length(pieces)),
        text,
        language: pieces.first().map(|p| p.language.to_owned()).unwrap_or_default(),
        first_segment: pieces.first().map_or(0, |p| p.index),
        end_segment: pieces.last().map_or(0, |p| p.index + 1),
    }
}

/// A segment as one piece, or as many as it takes to keep each within the tokens; none without text.
fn pieces<'a>(
    index: usize,
    segment: &'a Segment,
    options: &PassageOptions,
    tokens: &impl Fn(&str) -> usize,
) -> Vec<Piece<'a>> {
    let text = segment.text.trim();
    if text.is_empty() {
        return Vec::new();
    }
    let (start_ms, end_ms) = (segment.start_ms, segment.end_ms.max(segment.start_ms));
    let language = segment.language.as_str();
    let count = tokens(text);
    if count <= options.max_tokens {
        let ends_sentence = ends_sentence(text);
        let text = Cow::Borrowed(text);
        return vec![Piece {
            index,
            whole: true,
            start_ms,
            end_ms,
            text,
            language,
            tokens: count,
            ends_sentence,
        }];
    }
    let parts = divide(text, options.max_tokens.max(1), tokens);
    let at = |byte: usize| moment(segment, text, byte).clamp(start_ms, end_ms);
    let mut done: Vec<Piece> = Vec::with_capacity(parts.len());
    for (range, tokens) in parts {
        let from = done.last().map_or(start_ms, |p| p.end_ms);
        let to = if range.end == text.len() { end_ms } else { at(range.end).max(from) };
        let text = &text[range];
        let ends_sentence = ends_sentence(text.trim_end());
        let text = Cow::Borrowed(text);
        done.push(Piece {
            index,
            whole: false,
            start_ms: from,
            end_ms: to,
            text,
            language,
            tokens,
            ends_sentence,
        });
    }
    done
}

/// When the byte `at` of a segment's trimmed text is said: where its words' times are known, at the end of the word before
/// it; else by its share of the text.
fn moment(segment: &Segment, text: &str, at: usize) -> i64 {
    let share = |part: usize, all: usize| {
        let ms = (segment.end_ms - segment.start_ms).max(0) as f64;
        segment.start_ms + (ms * part as f64 / all.max(1) as f64) as i64
    };
    // Both without spaces: words are stored trimmed.
    let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
    let before = letters(&text[..at]);
    if segment.words.is_empty() {
        return share(before, letters(text));
    }
    let mut passed = 0;
    for word in &segment.words {
        passed += letters(&word.text);
        if passed >= before {
            return word.end_ms;
        }
    }
    segment.end_ms
}

/// Parts of at most `most` tokens each that together are `text`, as long as they can be, and their tokens.
fn divide(text: &str, most: usize, tokens: &impl Fn(&str) -> usize) -> Vec<(Range<usize>, usize)> {
    let mut atoms = Vec::new();
    for range in words(text) {
        halve(text, range, most.div_ceil(4), tokens, &mut atoms);
    }
    let mut parts: Vec<(Range<usize>, usize)> = Vec::new();
    let mut open: Vec<(Range<usize>, usize)> = Vec::new();
    let close = |open: &[(Range<usize>, usize)]| {
        let count = open.iter().map(|(_, n)| n).sum();
        let range = open.first().map_or(0, |(r, _)| r.start)..open.last().map_or(0, |(r, _)| r.end);
        (range, count)
    };
    for atom in atoms {
        let count: usize = open.iter().map(|(_, n)| n).sum();
        if count + atom.1 > most && !open.is_empty() {
            // After the last sentence, else clause, in the second half; else as late as it can be.
            let late = |good: &dyn Fn(&str) -> bool| {
                (open.len() / 2 + 1..=open.len())
                    .rev()
                    .find(|&n| good(text[open[n - 1].0.clone()].trim_end()))
            };
            let at = late(&ends_sentence).or_else(|| late(&ends_clause)).unwrap_or(open.len());
            parts.push(close(&open[..at]));
            open.drain(..at);
        }
        open.push(atom);
    }
    if !open.is_empty() {
        parts.push(close(&open));
    }
    parts
}

/// Words with the space behind them; scripts without spaces end one at each mark.
fn words(text: &str) -> Vec<Range<usize>> {
    let mut all = Vec::new();
    let mut start = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let end = at + c.len_utf8();
        let next = chars.peek().map(|(_, c)| *c);
        let over = match next {
            None => true,
            Some(next) => {
                (c.is_whitespace() && !next.is_whitespace())
                    || (matches!(c, '。' | '！' | '？' | '、' | '，' | '；' | '｡') && !next.is_whitespace())
            }
        };
        if over {
            all.push(start..end);
            start = end;
        }
    }
    all
}

/// `range` of `text`, halved until no part has more than `most` tokens, or is a single character.
fn halve(
    text: &str,
    range: Range<usize>,
    most: usize,
    tokens: &impl Fn(&str) -> usize,
    to: &mut Vec<(Range<usize>, usize)>,
) {
    let part = &text[range.clone()];
    let count = tokens(part);
    let half = (part.len() / 2..part.len()).find(|&at| at > 0 && part.is_char_boundary(at));
    match half {
        Some(half) if count > most => {
            halve(text, range.start..range.start + half, most, tokens, to);
            halve(text, range.start + half..range.end, most, tokens, to);
        }
        _ => to.push((range, count)),
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

/// Whether `text` ends a part of a sentence.
fn ends_clause(text: &str) -> bool {
    text.ends_with([',', ';', ':', '–', '—', '、', '，', '；', '：', '،', '؛'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Word;

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

    /// Tokens as a small model might make them: four letters each, and every character of a script without spaces.
    fn tokens(text: &str) -> usize {
        let word = |w: &str| {
            let dense = w.chars().filter(|c| u32::from(*c) >= 0x3000).count();
            dense + (w.chars().count() - dense).div_ceil(4)
        };
        text.split_whitespace().map(word).sum()
    }

    /// Every segment with text in a passage, in order; no passage too long; nothing twice but sentences at cuts.
    fn check(segments: &[Segment], passages: &[Passage], options: &PassageOptions) {
        let mut next = 0;
        for (n, p) in passages.iter().enumerate() {
            assert!(p.end_segment > p.first_segment && p.end_segment <= segments.len(), "{p:?}");
            assert!(p.end_ms >= p.start_ms && !p.text.trim().is_empty() && p.text.trim() == p.text, "{p:?}");
            let before = n.checked_sub(1).map(|n| &passages[n]);
            if let Some(before) = before {
                assert!(p.first_segment >= before.first_segment && p.end_segment >= before.end_segment);
                assert!(p.first_segment + 1 >= before.end_segment, "more than one sentence twice");
            }
            let from = p.first_segment.min(next);
            assert!(segments[from..p.first_segment].iter().all(|s| s.text.trim().is_empty()), "left out");
            let inside = &segments[p.first_segment..p.end_segment];
            let texts: Vec<_> = inside.iter().map(|s| s.text.trim()).filter(|t| !t.is_empty()).collect();
            let all = texts.join(" ");
            assert!(all.contains(&p.text), "{:?} is not what its segments say: {all:?}", p.text);
            assert!(tokens(&p.text) <= options.max_tokens, "{} tokens", tokens(&p.text));
            let spoken = inside.iter().filter(|s| !s.text.trim().is_empty());
            assert!(spoken.clone().all(|s| s.language == p.language));
            let times = (p.start_ms, p.end_ms);
            if all == p.text {
                assert_eq!(p.start_ms, inside[0].start_ms);
                let single = texts.len() == 1;
                assert!(single || p.end_ms - p.start_ms <= options.max_ms, "{times:?}");
            } else {
                let whole = (inside[0].start_ms, inside.iter().map(|s| s.end_ms).max().unwrap_or(0));
                assert!(times.0 >= whole.0 && times.1 <= whole.1.max(whole.0), "{times:?} in {whole:?}");
            }
            next = p.end_segment;
        }
        assert!(segments[next..].iter().all(|s| s.text.trim().is_empty()));
    }

    fn run(segments: &[Segment]) -> Vec<Passage> {
        let options = PassageOptions::default();
        let passages = passages(segments, &options, tokens);
        check(segments, &passages, &options);
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
        // No segment is a sentence by itself, so none is said twice.
        assert!(passages.windows(2).all(|p| p[0].end_segment == p[1].first_segment));
    }

    #[test]
    fn a_short_sentence_at_a_cut_stands_on_both_sides_of_it() {
        let segments: Vec<_> = (0..60).map(|i| segment(i * 4, i * 4 + 4, "This is a sentence.")).collect();
        let passages = run(&segments);
        assert!(passages.len() > 3);
        for pair in passages.windows(2) {
            assert_eq!(pair[0].end_segment - 1, pair[1].first_segment);
            assert_eq!(pair[1].start_ms, segments[pair[1].first_segment].start_ms);
        }
        // Not over a pause, and nothing that is long.
        let apart: Vec<_> = (0..60).map(|i| segment(i * 7, i * 7 + 4, "This is a sentence.")).collect();
        assert!(run(&apart).windows(2).all(|p| p[0].end_segment == p[1].first_segment));
        let slow: Vec<_> = (0..60).map(|i| segment(i * 12, i * 12 + 12, "This is a sentence.")).collect();
        assert!(run(&slow).windows(2).all(|p| p[0].end_segment == p[1].first_segment));
    }

    #[test]
    fn without_any_punctuation_length_decides() {
        let segments: Vec<_> = (0..60).map(|i| segment(i * 5, i * 5 + 5, "no dots here")).collect();
        let passages = run(&segments);
        assert!(passages.iter().all(|p| p.end_ms - p.start_ms <= 60_000));
        assert_eq!(passages.len(), 5);
    }

    #[test]
    fn tokens_are_bounded_too() {
        let text = "word ".repeat(30);
        let segments: Vec<_> = (0..40).map(|i| segment(i, i + 1, &text)).collect();
        assert_eq!(run(&segments).len(), 5);
        // And in a script without spaces.
        let segments: Vec<_> = (0..40).map(|i| segment(i, i + 1, &"語".repeat(30))).collect();
        assert_eq!(run(&segments).len(), 5);
    }

    #[test]
    fn a_segment_that_is_too_long_alone_is_divided() {
        let long = "It goes on and on, and then it stops. ".repeat(300);
        let segments = [segment(0, 3, "Before."), segment(3, 903, &long), segment(903, 906, "After.")];
        let passages = run(&segments);
        assert!(passages.len() > 10);
        assert!(passages.iter().all(|p| p.text.ends_with('.')), "{passages:#?}");
        assert!(passages.is_sorted_by_key(|p| p.start_ms));
        let inner = &passages[2..passages.len() - 2];
        assert!(inner.windows(2).all(|p| p[0].end_ms == p[1].start_ms && p[0].end_ms > p[0].start_ms));
        // Where the times of words are known, a part ends with its last word.
        let mut spoken = segment(0, 1000, &"yes ".repeat(1000));
        spoken.words = (0..1000)
            .map(|n| Word { start_ms: n * 10, end_ms: n * 10 + 10, text: "yes".into(), prob: 1.0 })
            .collect();
        let passages = run(&[spoken]);
        assert_eq!((passages[0].start_ms, passages[0].end_ms), (0, 2_560));
        assert_eq!(passages.last().map(|p| p.end_ms), Some(1_000_000));
    }

    #[test]
    fn words_without_end_and_scripts_without_spaces_keep_the_budget() {
        let chinese = "今天我们来谈谈海洋的历史，它比任何大陆都要古老。".repeat(100);
        for text in
            ["x".repeat(10_000), format!("so {} it is", "語".repeat(10_000)), "🎬".repeat(5_000), chinese]
        {
            let passages =
                run(&[segment(0, 3, "Before."), segment(3, 600, &text), segment(600, 602, "After.")]);
            assert!(passages.len() > 3, "{}", passages.len());
            // Nothing is lost on the way.
            let said: String = passages.iter().map(|p| p.text.as_str()).collect::<Vec<_>>().concat();
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
            assert_eq!(letters(&said), letters(&text) + "Before.After.".len());
        }
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
        assert!(!passages(&segments, &PassageOptions::default(), tokens).is_empty());
    }

    /// Knuth's MMIX generator.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }
    }

    #[test]
    fn whatever_is_said_the_rules_are_kept() {
        const WORDS: [&str; 16] = [
            "yes",
            "and",
            "hippopotamus",
            "海",
            "今天我们来谈谈",
            "。",
            "สวัสดี",
            "well,",
            "no.",
            "Why?",
            "…",
            "🎬",
            "مرحبا",
            "a",
            "3.14",
            "",
        ];
        for seed in 0..400 {
            let mut dice = Dice(seed);
            let mut at = dice.below(5_000) as i64;
            let segments: Vec<Segment> = (0..dice.below(60))
                .map(|_| {
                    let count = if dice.below(12) == 0 { dice.below(900) } else { dice.below(30) };
                    let glue = ["", " ", " "][dice.below(3) as usize];
                    let words: Vec<_> = (0..count).map(|_| WORDS[dice.below(16) as usize]).collect();
                    let start_ms = at;
                    let end_ms = at + dice.below(15_000) as i64;
                    at = end_ms + [0, 0, 300, 2_500, 9_000][dice.below(5) as usize];
                    let language = if dice.below(25) == 0 { "es" } else { "en" };
                    Segment {
                        start_ms,
                        end_ms,
                        text: words.join(glue),
                        language: language.into(),
                        ..segment(0, 0, "")
                    }
                })
                .collect();
            let options = PassageOptions {
                max_tokens: [40, 100, 256][dice.below(3) as usize],
                overlap_ms: [0, 8_000][dice.below(2) as usize],
                ..PassageOptions::default()
            };
            let passages = passages(&segments, &options, tokens);
            check(&segments, &passages, &options);
            assert!(passages.is_sorted_by_key(|p| p.start_ms), "seed {seed}");
            if options.overlap_ms == 0 {
                let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
                let said: usize = passages.iter().map(|p| letters(&p.text)).sum();
                assert_eq!(said, segments.iter().map(|s| letters(&s.text)).sum::<usize>(), "seed {seed}");
            }
        }
    }
}

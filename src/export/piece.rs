//! A segment taken apart: the smallest stretches of text that stay together, and when each was said.

use super::phrase::{ends_clause, ends_sentence, is_weak, opens_phrase};
use super::width::{characters, columns, is_square, leads_on, one_line, stands_alone, stays_behind};
use crate::media::Segment;

/// A word that the model timed is cut only where it is wider than this: it is a word in a script without spaces, or
/// a piece of one.
const WHOLE: usize = 16;

/// Characters of text between two timed words (marks that belong to neither) that are passed over.
const PASSED_OVER: usize = 12;

/// What kind of place the end of a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// In the middle of a word.
    Inside,
    /// Between two words.
    Word,
    /// After a comma or the like.
    Clause,
    /// After a full stop or the like, and where the model ended a segment.
    Sentence,
}

/// A word, a character of a script without spaces, or a part of an endless word.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    /// Never empty, no white space.
    pub text: String,
    /// On a screen.
    pub columns: usize,
    /// A space comes before it, unless a line begins here.
    pub spaced: bool,
    /// When it was said, on the player's clock.
    pub start_ms: i64,
    /// Not before its start.
    pub end_ms: i64,
    /// `start_ms` is when the model heard this word, not an estimate.
    pub timed: bool,
    /// What follows it.
    pub end: End,
    /// An article or a preposition: no line should end with it.
    pub weak: bool,
    /// A conjunction or a preposition: a good word to begin a line with.
    pub opens: bool,
    /// Of Chinese, Japanese or Korean.
    pub wide: bool,
}

/// A stretch of text and its time, before it is cut.
struct Token<'a> {
    text: &'a str,
    spaced: bool,
    start_ms: i64,
    end_ms: i64,
    timed: bool,
}

/// The pieces of a segment, none wider than `limit`. Times are the words' own where they
/// are known, else shared out by the width of the text: people speak about as fast within one segment.
pub(super) fn pieces(segment: &Segment, limit: usize) -> Vec<Piece> {
    let text = one_line(&segment.text);
    let start_ms = segment.start_ms.max(0);
    let end_ms = segment.end_ms.max(start_ms);
    let untimed = || {
        let whole = Token { text: &text, spaced: true, start_ms, end_ms, timed: false };
        if text.is_empty() { Vec::new() } else { vec![whole] }
    };
    let tokens = timed(&text, segment).unwrap_or_else(untimed);
    let mut pieces = Vec::new();
    for token in &tokens {
        cut(token, limit, &segment.language, &mut pieces);
    }
    // Inside a word no line should end, wherever it was cut, nor before a mark.
    for n in 1..pieces.len() {
        let last = characters(&pieces[n - 1].text).last().unwrap_or_default();
        let first = characters(&pieces[n].text).next().unwrap_or_default();
        if !pieces[n].spaced && !parts(last, first) {
            pieces[n - 1].end = End::Inside;
        }
    }
    // Sentence by sentence, as segments are; even where one is without a mark, the model heard an end.
    if let Some(last) = pieces.last_mut() {
        last.end = End::Sentence;
    }
    pieces
}

/// True where a line may end between two characters without a space between them.
fn parts(before: &str, after: &str) -> bool {
    stands_alone(before) && stands_alone(after) && !stays_behind(after) && !leads_on(before)
}

/// The text as its timed words, each with the marks around it; `None` where they are not those of the text.
fn timed<'a>(text: &'a str, segment: &Segment) -> Option<Vec<Token<'a>>> {
    let mut tokens: Vec<Token<'a>> = Vec::with_capacity(segment.words.len());
    // Bytes of `text` that belong to a token.
    let mut done = 0;
    let mut last_ms = segment.start_ms.max(0);
    for word in &segment.words {
        let said = one_line(&word.text);
        if said.is_empty() {
            continue;
        }
        let found = text[done..].find(&said)?;
        let between = &text[done..done + found];
        if between.trim().chars().count() > PASSED_OVER {
            return None;
        }
        // Marks belong to the word that they touch; those that touch none, to the word before.
        let own = between.rfind(' ').map_or(between.len(), |space| space + 1);
        let kept = between[..own].trim_end().len();
        let start = match tokens.last_mut() {
            Some(before) => {
                if kept > 0 {
                    let begun = before.text.as_ptr() as usize - text.as_ptr() as usize;
                    before.text = &text[begun..done + kept];
                }
                done + own
            }
            None => done + between.len() - between.trim_start().len(),
        };
        let end = done + found + said.len();
        let start_ms = word.start_ms.max(last_ms);
        let end_ms = word.end_ms.max(start_ms);
        tokens.push(Token {
            text: &text[start..end],
            spaced: start == 0 || text[..start].ends_with(' '),
            start_ms,
            end_ms,
            timed: start_ms == word.start_ms,
        });
        (done, last_ms) = (end, start_ms);
    }
    let rest = text[done..].trim();
    match tokens.last_mut() {
        Some(last) if rest.chars().count() <= PASSED_OVER => {
            let begun = last.text.as_ptr() as usize - text.as_ptr() as usize;
            last.text = text[begun..].trim_end();
        }
        _ => return None,
    }
    Some(tokens)
}

/// Cuts a token at spaces, between characters of scripts without them, and where it is too wide.
fn cut(token: &Token<'_>, limit: usize, language: &str, pieces: &mut Vec<Piece>) {
    let total = columns(token.text).max(1) as i64;
    let length = token.end_ms - token.start_ms;
    let at = |passed: usize| token.start_ms + length * (passed as i64).min(total) / total;
    let whole = token.timed && columns(token.text) <= WHOLE.min(limit);
    let first = pieces.len();
    let mut passed = 0;
    for (n, word) in token.text.split(' ').filter(|w| !w.is_empty()).enumerate() {
        passed += usize::from(n > 0);
        let mut spaced = n > 0 || token.spaced;
        let mut begun = passed;
        let mut piece = String::new();
        let mut width = 0;
        let mut before = "";
        for character in characters(word) {
            let wide = columns(character);
            let between = !whole && parts(before, character);
            if !piece.is_empty() && (between || width + wide > limit) {
                pieces.push(piece_of(std::mem::take(&mut piece), spaced, (at(begun), at(passed)), language));
                (spaced, begun, width) = (false, passed, 0);
            }
            piece.push_str(character);
            width += wide;
            passed += wide;
            before = character;
        }
        pieces.push(piece_of(piece, spaced, (at(begun), at(passed)), language));
    }
    if let Some(piece) = pieces.get_mut(first) {
        piece.timed = token.timed;
    }
    if let Some(piece) = pieces[first..].last_mut() {
        piece.end_ms = token.end_ms;
    }
}

fn piece_of(text: String, spaced: bool, (start_ms, end_ms): (i64, i64), language: &str) -> Piece {
    let end = match () {
        () if ends_sentence(&text) => End::Sentence,
        () if ends_clause(&text) => End::Clause,
        () => End::Word,
    };
    Piece {
        columns: columns(&text),
        weak: end == End::Word && is_weak(&text, language),
        opens: opens_phrase(&text, language),
        wide: text.chars().any(is_square),
        text,
        spaced,
        start_ms,
        end_ms,
        timed: false,
        end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Word;

    fn segment(text: &str, words: &[(&str, i64, i64)]) -> Segment {
        Segment {
            start_ms: 1_000,
            end_ms: 3_000,
            text: text.into(),
            language: "en".into(),
            avg_logprob: 0.0,
            no_speech_prob: 0.0,
            words: words
                .iter()
                .map(|(text, start_ms, end_ms)| Word {
                    start_ms: *start_ms,
                    end_ms: *end_ms,
                    text: (*text).into(),
                    prob: 1.0,
                })
                .collect(),
            speaker: None,
        }
    }

    fn read(segment: &Segment) -> Vec<(String, bool, i64, i64, bool)> {
        let pieces = pieces(segment, 42);
        pieces.into_iter().map(|p| (p.text, p.spaced, p.start_ms, p.end_ms, p.timed)).collect()
    }

    #[test]
    fn words_bring_their_times_and_the_text_its_marks() {
        let said = segment(
            "“Well,  two… words!”",
            &[("Well,", 1_100, 1_400), ("two", 1_500, 1_800), ("words!", 1_900, 2_400)],
        );
        assert_eq!(
            read(&said),
            [
                ("“Well,".to_owned(), true, 1_100, 1_400, true),
                ("two…".to_owned(), true, 1_500, 1_800, true),
                ("words!”".to_owned(), true, 1_900, 2_400, true),
            ]
        );
    }

    #[test]
    fn words_of_another_text_are_not_believed() {
        let said = segment("one two", &[("three", 1_100, 1_400)]);
        assert_eq!(
            read(&said),
            [("one".to_owned(), true, 1_000, 1_857, false), ("two".to_owned(), true, 2_142, 3_000, false),]
        );
        // A word is missing: the text goes on without it.
        let long = segment("one and a great many words more that have no time", &[("one", 1_100, 1_400)]);
        assert!(read(&long).iter().all(|p| !p.4));
    }

    #[test]
    fn times_never_run_backwards() {
        let said = segment("a b", &[("a", 2_000, 1_500), ("b", 1_200, 1_300)]);
        assert_eq!(
            read(&said),
            [("a".to_owned(), true, 2_000, 2_000, true), ("b".to_owned(), true, 2_000, 2_000, false)]
        );
    }

    #[test]
    fn scripts_without_spaces_are_cut_but_not_before_a_full_stop() {
        let said = segment("東京（とうきょう）。", &[]);
        let texts: Vec<_> = pieces(&said, 42).into_iter().map(|p| p.text).collect();
        assert_eq!(texts, ["東", "京", "（と", "う", "きょ", "う）。"]);
        let said = segment("東京です", &[("東京", 1_000, 1_500), ("です", 1_500, 2_000)]);
        let texts: Vec<_> = pieces(&said, 42).into_iter().map(|p| (p.text, p.spaced)).collect();
        assert_eq!(texts, [("東京".to_owned(), true), ("です".to_owned(), false)]);
    }

    #[test]
    fn endless_words_are_cut_and_keep_their_characters_whole() {
        let said = segment(&"e\u{301}".repeat(100), &[]);
        let cut = pieces(&said, 42);
        assert_eq!(cut.iter().map(|p| p.columns).collect::<Vec<_>>(), [42, 42, 16]);
        assert!(cut.iter().all(|p| p.text.chars().count() == 2 * p.columns));
        assert_eq!((cut[0].end, cut[2].end), (End::Inside, End::Sentence));
    }
}

//! From tokens, and where the model attended while it wrote them, to words and when they were said.
//!
//! Attention is a rough witness: it says about where a word lies, not where it begins, and strays over pauses. Three
//! others are asked as well: the times that the model wrote around the segment, where it is quiet, and how long
//! words of this length are. [`place`] weighs them.

mod arrivals;
mod loudness;
mod place;

use std::ops::Range;

use unicode_normalization::char::is_combining_mark;

use super::engine::{TIMESTAMP_MS, TimedWord};
use place::Expected;

pub use arrivals::{FEWEST, arrivals};
pub use loudness::Loudness;

/// What reading a text again tells of each of its tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Alignment {
    /// The frame of 20 ms, counted from the window's start, at which attention comes to it.
    pub frames: Vec<u32>,
    /// Its probability.
    pub probs: Vec<f32>,
}

/// A token of text, and what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The text's bytes; a character may be spread over several tokens.
    pub bytes: Vec<u8>,
    /// The frame of 20 ms, counted from the window's start, at which attention comes to it.
    pub frame: u32,
    /// Its probability.
    pub prob: f32,
}

/// The words that `tokens`, the text of one segment from `start_ms` to `end_ms` in its window, make up. In order, none
/// before another's end, all within the segment; together their texts are the segment's, trimmed.
pub fn timed(tokens: &[Token], start_ms: u32, end_ms: u32, loudness: &Loudness) -> Vec<TimedWord> {
    let words = split(tokens);
    let expected: Vec<Expected> = words
        .iter()
        .map(|word| Expected {
            weight: weight(&word.text),
            frame: tokens[word.heard].frame,
            clause: word.text.trim_end().ends_with(ends_clause),
        })
        .collect();
    let frames = start_ms / TIMESTAMP_MS..end_ms.div_ceil(TIMESTAMP_MS);
    let times = place::place(&expected, frames, loudness);
    let ms = |frame: u32| (frame * TIMESTAMP_MS).clamp(start_ms, end_ms.max(start_ms));
    words
        .into_iter()
        .zip(times)
        .map(|(word, (start, end))| {
            let own = &tokens[word.tokens];
            TimedWord {
                start_ms: ms(start),
                end_ms: ms(end),
                text: word.text,
                prob: own.iter().map(|t| t.prob).sum::<f32>() / own.len().max(1) as f32,
            }
        })
        .collect()
}

/// Text, and the tokens it is made of.
#[derive(Debug)]
struct Piece {
    text: String,
    tokens: Range<usize>,
    /// The first token with a letter or digit; attention to punctuation says nothing.
    heard: usize,
}

impl Piece {
    /// Something that is said, or at least written for its own sake, such as `&`.
    fn said(&self) -> bool {
        self.text.chars().any(|c| c.is_alphanumeric() || is_symbol(c))
    }

    fn append(&mut self, next: Self) {
        if !self.said() {
            self.heard = next.heard;
        }
        self.text.push_str(&next.text);
        self.tokens.end = next.tokens.end;
    }
}

/// Words with the punctuation around them. The first and the last are trimmed.
fn split(tokens: &[Token]) -> Vec<Piece> {
    let mut words: Vec<Piece> = Vec::new();
    for piece in characters(tokens) {
        match words.last_mut() {
            Some(word) if !begins_word(&word.text, &piece.text) => word.append(piece),
            _ => words.push(piece),
        }
    }
    let mut words = with_punctuation(words);
    if let Some(first) = words.first_mut() {
        first.text = first.text.trim_start().to_owned();
    }
    if let Some(last) = words.last_mut() {
        last.text.truncate(last.text.trim_end().len());
    }
    words.retain(|word| !word.text.is_empty());
    words
}

/// Tokens, joined where a character is spread over several.
fn characters(tokens: &[Token]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut bytes: Vec<u8> = Vec::new();
    let mut first = 0;
    for (i, token) in tokens.iter().enumerate() {
        bytes.extend_from_slice(&token.bytes);
        let incomplete = matches!(std::str::from_utf8(&bytes), Err(e) if e.error_len().is_none());
        if (incomplete && i + 1 < tokens.len()) || bytes.is_empty() {
            continue;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        pieces.push(Piece { text, tokens: first..i + 1, heard: first });
        bytes.clear();
        first = i + 1;
    }
    pieces
}

/// Whether `piece`, which follows `word`, begins another one.
fn begins_word(word: &str, piece: &str) -> bool {
    let Some(first) = piece.chars().next() else { return false };
    if word.trim().is_empty() {
        return false;
    }
    if first.is_whitespace() {
        return true;
    }
    if continues(first) {
        return false;
    }
    let before = word.chars().rev().find(|c| c.is_alphanumeric());
    let unspaced_before = before.is_some_and(is_unspaced);
    is_unspaced(first)
        || (unspaced_before && (first.is_alphanumeric() || opens(first)))
        || (word.ends_with('—') && first.is_alphanumeric())
}

/// Gives punctuation that stands by itself to the word it belongs to.
fn with_punctuation(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut words: Vec<Piece> = Vec::new();
    let mut opening: Option<Piece> = None;
    for piece in pieces {
        let piece = match opening.take() {
            Some(mut before) => {
                before.append(piece);
                before
            }
            None => piece,
        };
        if piece.said() {
            words.push(piece);
        } else if piece.text.trim_end().ends_with(opens) || words.is_empty() {
            opening = Some(piece);
        } else if let Some(word) = words.last_mut() {
            word.append(piece);
        }
    }
    match (words.last_mut(), opening) {
        (Some(word), Some(rest)) => word.append(rest),
        (None, Some(rest)) => words.push(rest),
        (_, None) => {}
    }
    words
}

/// Scripts without spaces between words: Han, kana, Bopomofo, Thai, Lao, Burmese, Khmer.
pub(super) fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0e00}'..='\u{0eff}'
        | '\u{1000}'..='\u{109f}'
        | '\u{1780}'..='\u{17ff}'
        | '\u{3005}'..='\u{3007}'
        | '\u{3040}'..='\u{312f}'
        | '\u{31a0}'..='\u{31bf}'
        | '\u{31f0}'..='\u{31ff}'
        | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}'
        | '\u{ff66}'..='\u{ff9d}'
        | '\u{20000}'..='\u{3ffff}')
}

/// Never the beginning: marks on the letter before, and small or long kana.
pub(super) fn continues(c: char) -> bool {
    is_combining_mark(c)
        || matches!(c, 'ー' | 'ぁ' | 'ぃ' | 'ぅ' | 'ぇ' | 'ぉ' | 'っ' | 'ゃ' | 'ゅ' | 'ょ' | 'ん')
        || matches!(
            c,
            'ァ' | 'ィ'
                | 'ゥ'
                | 'ェ'
                | 'ォ'
                | 'ッ'
                | 'ャ'
                | 'ュ'
                | 'ョ'
                | 'ン'
                | 'ๅ'
                | 'ๆ'
                | 'ะ'
                | 'า'
                | 'ำ'
        )
}

/// Punctuation that belongs to the word after it.
pub(super) fn opens(c: char) -> bool {
    matches!(c, '(' | '[' | '{' | '¿' | '¡' | '“' | '‘' | '„' | '‚' | '«' | '‹')
        || matches!(c, '（' | '［' | '｛' | '「' | '『' | '【' | '《' | '〈' | '〔')
}

/// Punctuation after which speakers pause.
pub(super) fn ends_clause(c: char) -> bool {
    matches!(
        c,
        '.' | ',' | ';' | ':' | '!' | '?' | '…' | '—' | '。' | '、' | '，' | '．' | '！' | '？' | '；' | '：'
    ) || matches!(c, '،' | '؛' | '؟' | '۔' | '।' | '॥' | '։' | '။' | '၊' | '។' | '።')
}

/// What is read out although it is no letter.
fn is_symbol(c: char) -> bool {
    matches!(c, '&' | '%' | '+' | '=' | '@' | '#' | '$' | '€' | '£' | '¥' | '°' | '×' | '÷' | '±')
}

/// About how long a word takes to say, in letters of a script that writes sounds. A digit is a word, and a Han
/// character a syllable.
fn weight(word: &str) -> f32 {
    let letters: f32 = word
        .chars()
        .map(|c| match c {
            '\u{3040}'..='\u{30ff}' => 2.0,
            '\u{ac00}'..='\u{d7a3}' | '\u{3400}'..='\u{9fff}' | '\u{20000}'..='\u{3ffff}' => 3.0,
            _ if c.is_numeric() => 4.0,
            _ if is_symbol(c) => 4.0,
            _ if is_combining_mark(c) => 0.5,
            _ if c.is_alphabetic() => 1.0,
            _ => 0.0,
        })
        .sum();
    letters + 0.5
}

#[cfg(test)]
mod tests;

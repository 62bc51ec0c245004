//! Words and their times, from the tokens of a segment and the times at which the attention left them.

use super::{Token, vocabulary::Stretch};
use crate::transcribe::engine::TimedWord;

/// Languages written without spaces between words: the smallest piece of text whose time is known stands for a word.
const WITHOUT_SPACES: [&str; 6] = ["zh", "ja", "th", "lo", "my", "yue"];

/// Punctuation that belongs to the word after it, and to the word before it.
const OPENING: &str = "\"'“‘¿¡([{«-";
const CLOSING: &str = "\"'.。,，!！?？:：;；”’)]}»、…";

/// Whole characters: one token, or several that only together are text.
struct Piece {
    text: String,
    end_ms: Option<u32>,
    probs: Vec<f32>,
}

impl Piece {
    fn only(&self, marks: &str) -> bool {
        let text = self.text.trim();
        !text.is_empty() && text.chars().all(|c| marks.contains(c))
    }
}

/// Gives each segment its words. One whose tokens have no times keeps none.
pub fn attach(segments: &mut [Stretch<'_>], duration_ms: u32, language: &str) {
    for segment in segments {
        let start_ms = segment.text.start_ms;
        let end_ms = segment.text.end_ms.unwrap_or(duration_ms).max(start_ms);
        segment.text.words = timed(words(&segment.tokens, language), start_ms, end_ms).unwrap_or_default();
    }
}

/// Tokens joined to words, each as the pieces it is made of.
fn words(tokens: &[(&[u8], Token)], language: &str) -> Vec<Vec<Piece>> {
    let spaced = !WITHOUT_SPACES.contains(&language);
    let mut words: Vec<Vec<Piece>> = Vec::new();
    let mut opening = false;
    for piece in pieces(tokens) {
        let begins = !spaced || piece.text.starts_with(' ');
        let closes = piece.only(CLOSING) && !piece.text.starts_with(' ');
        let opens = piece.only(OPENING) && begins;
        match words.last_mut() {
            Some(word) if opening || closes || !begins => word.push(piece),
            _ => words.push(vec![piece]),
        }
        opening = opens;
    }
    words
}

/// Tokens that are only together whole characters, put together.
fn pieces(tokens: &[(&[u8], Token)]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut bytes: Vec<u8> = Vec::new();
    let mut probs = Vec::new();
    let mut end_ms = None;
    for (i, (text, token)) in tokens.iter().enumerate() {
        bytes.extend_from_slice(text);
        probs.push(token.prob);
        end_ms = token.end_ms.or(end_ms);
        // No character has more than four bytes; what is none by then never will be.
        if std::str::from_utf8(&bytes).is_ok() || bytes.len() > 16 || i + 1 == tokens.len() {
            let text = String::from_utf8_lossy(&std::mem::take(&mut bytes)).into_owned();
            pieces.push(Piece { text, end_ms: end_ms.take(), probs: std::mem::take(&mut probs) });
        }
    }
    pieces
}

/// Words with times between `start_ms` and `end_ms` that never go back; `None` where a piece's time is not known.
fn timed(words: Vec<Vec<Piece>>, start_ms: u32, end_ms: u32) -> Option<Vec<TimedWord>> {
    let mut timed = Vec::with_capacity(words.len());
    let mut last = start_ms;
    for word in words {
        let spoken = |p: &&Piece| !p.only(CLOSING) && !p.only(OPENING);
        // The attention wanders while punctuation is written.
        let end = word.iter().rev().find(spoken).or(word.last())?.end_ms?.clamp(last, end_ms.max(last));
        let probs: Vec<f32> = word.iter().flat_map(|p| p.probs.iter().copied()).collect();
        timed.push(TimedWord {
            start_ms: last,
            end_ms: end,
            text: word.iter().map(|p| p.text.as_str()).collect(),
            prob: probs.iter().sum::<f32>() / probs.len().max(1) as f32,
        });
        last = end;
    }
    Some(timed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(of: &[(&'static [u8], Option<u32>)]) -> Vec<(&'static [u8], Token)> {
        of.iter().map(|&(text, end_ms)| (text, Token { id: 1, prob: 0.5, end_ms })).collect()
    }

    fn told(tokens: &[(&[u8], Token)], language: &str) -> Vec<(String, u32, u32)> {
        let words = timed(words(tokens, language), 1000, 3000).unwrap();
        words.into_iter().map(|w| (w.text, w.start_ms, w.end_ms)).collect()
    }

    #[test]
    fn tokens_become_words_with_their_punctuation() {
        let tokens = tokens(&[
            (b" She", Some(1200)),
            (b" said", Some(1500)),
            (b",", Some(1900)),
            (b" \"", Some(1910)),
            (b"Hel", Some(2000)),
            (b"lo", Some(2200)),
            (b".\"", Some(9000)),
        ]);
        assert_eq!(
            told(&tokens, "en"),
            [
                (" She".to_owned(), 1000, 1200),
                (" said,".to_owned(), 1200, 1500),
                (" \"Hello.\"".to_owned(), 1500, 2200)
            ]
        );
    }

    #[test]
    fn characters_split_over_tokens_are_put_together() {
        let tokens = tokens(&[
            (b"\xe6\x97", Some(1100)),
            (b"\xa5", Some(1200)),
            ("本".as_bytes(), Some(1400)),
            ("。".as_bytes(), Some(1500)),
        ]);
        assert_eq!(told(&tokens, "ja"), [("日".to_owned(), 1000, 1200), ("本。".to_owned(), 1200, 1400)]);
    }

    #[test]
    fn times_stay_in_order_and_in_the_segment() {
        let tokens =
            tokens(&[(b" a", Some(500)), (b" b", Some(2500)), (b" c", Some(2000)), (b" d", Some(9000))]);
        let times: Vec<(u32, u32)> = told(&tokens, "en").into_iter().map(|(_, s, e)| (s, e)).collect();
        assert_eq!(times, [(1000, 1000), (1000, 2500), (2500, 2500), (2500, 3000)]);
    }

    #[test]
    fn without_a_time_there_are_no_words() {
        assert_eq!(timed(words(&tokens(&[(b" a", Some(1200)), (b" b", None)]), "en"), 1000, 3000), None);
    }
}

//! From Whisper's tokens to timed text, and the ids of the tokens that steer it.

use std::path::Path;

use tokenizers::Tokenizer;

use super::engine::{DecodeOptions, Input, TIMESTAMP_MS, TimedText};

/// The model's vocabulary: text tokens, then end of text, task tokens, and last the timestamps.
pub struct Vocabulary {
    tokenizer: Tokenizer,
    /// `<|endoftext|>`; every lower id is text.
    end_of_text: usize,
    /// `<|0.00|>`; every higher id is a later time.
    timestamp_begin: usize,
}

impl Vocabulary {
    /// Reads `tokenizer.json` of the model in `dir`.
    ///
    /// # Errors
    /// A message where the file is unreadable or not Whisper's.
    pub fn load(dir: &Path) -> Result<Self, String> {
        let path = dir.join("tokenizer.json");
        let tokenizer = Tokenizer::from_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let id = |token: &str| {
            tokenizer
                .token_to_id(token)
                .map(|id| id as usize)
                .ok_or_else(|| format!("{}: no token {token}, not a whisper tokenizer", path.display()))
        };
        let end_of_text = id("<|endoftext|>")?;
        // Older tokenizer files do not list the timestamps themselves; they follow this token in every model.
        let timestamp_begin = id("<|notimestamps|>")? + 1;
        Ok(Self { tokenizer, end_of_text, timestamp_begin })
    }

    /// The language codes of the tokens with `ids`.
    pub fn languages(&self, ids: &[u32]) -> Vec<String> {
        ids.iter()
            .filter_map(|&id| self.tokenizer.id_to_token(id))
            .filter_map(|token| language_code(&token).map(str::to_owned))
            .collect()
    }

    /// What stands before `window`'s text, at most `most` tokens: `<|startofprev|>`, hotwords, the initial prompt and what
    /// was said before. Where it is too long, the end of the latter counts most. Empty where there is nothing.
    pub fn previous(&self, window: &Input<'_>, options: &DecodeOptions, most: usize) -> Vec<String> {
        let tokens = |text: &str| -> Vec<String> {
            let text = text.trim();
            if text.is_empty() {
                return Vec::new();
            }
            // Text in mid sentence begins with a space.
            let encoded = self.tokenizer.encode_fast(format!(" {text}"), false);
            encoded.map_or(Vec::new(), |e| e.get_tokens().to_vec())
        };
        let (mut hotwords, mut before) = (Vec::new(), Vec::new());
        if window.prompted {
            hotwords = tokens(&options.hotwords);
            hotwords.truncate(most / 2);
            before = tokens(&options.initial_prompt);
        }
        before.extend(tokens(window.previous));
        let room = most.saturating_sub(hotwords.len());
        before.drain(..before.len().saturating_sub(room));
        if hotwords.is_empty() && before.is_empty() {
            return Vec::new();
        }
        let mut prompt = vec!["<|startofprev|>".to_owned()];
        prompt.append(&mut hotwords);
        prompt.append(&mut before);
        prompt
    }

    /// Cuts a window's tokens into timed text. A sentence stands between two timestamps; the last one may lack its
    /// second where the window ended in mid sentence.
    pub fn segments(&self, tokens: &[usize]) -> Vec<TimedText> {
        cut(tokens, self.timestamp_begin)
            .into_iter()
            .filter_map(|piece| {
                let ids: Vec<u32> =
                    piece.tokens.iter().filter(|&&t| t < self.end_of_text).map(|&t| t as u32).collect();
                let text = self.tokenizer.decode(&ids, true).unwrap_or_default();
                let text = text.trim();
                (!text.is_empty()).then(|| TimedText {
                    start_ms: piece.start_ms,
                    end_ms: piece.end_ms,
                    text: text.to_owned(),
                    words: Vec::new(),
                })
            })
            .collect()
    }
}

/// `en` of `<|en|>`.
pub fn language_code(token: &str) -> Option<&str> {
    token.strip_prefix("<|")?.strip_suffix("|>")
}

/// The tokens of one segment.
pub(super) struct Piece {
    /// Start, in milliseconds from the window's start.
    pub start_ms: u32,
    /// End; `None` where the window ended before the text.
    pub end_ms: Option<u32>,
    /// Everything between the timestamps.
    pub tokens: Vec<usize>,
}

/// Cuts a window's tokens at the timestamps, of which `timestamp_begin` is the first.
pub(super) fn cut(tokens: &[usize], timestamp_begin: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = Vec::new();
    // Where the text that is being collected begins; text without a start begins where the last one ended.
    let mut start_ms = 0;
    for &token in tokens {
        if token < timestamp_begin {
            text.push(token);
            continue;
        }
        let time = u32::try_from(token - timestamp_begin).unwrap_or(u32::MAX).saturating_mul(TIMESTAMP_MS);
        if !text.is_empty() {
            pieces.push(Piece {
                start_ms,
                end_ms: Some(time.max(start_ms)),
                tokens: std::mem::take(&mut text),
            });
        }
        start_ms = time.max(start_ms);
    }
    if !text.is_empty() {
        pieces.push(Piece { start_ms, end_ms: None, tokens: text });
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: usize = 1000;

    fn times(tokens: &[usize]) -> Vec<(u32, Option<u32>, usize)> {
        cut(tokens, T0).into_iter().map(|p| (p.start_ms, p.end_ms, p.tokens.len())).collect()
    }

    #[test]
    fn pairs_of_timestamps_make_segments() {
        assert_eq!(
            times(&[T0 + 10, 1, 2, T0 + 60, T0 + 75, 3, T0 + 100]),
            [(200, Some(1200), 2), (1500, Some(2000), 1)]
        );
    }

    #[test]
    fn one_timestamp_may_end_one_and_begin_the_next() {
        assert_eq!(times(&[T0, 1, T0 + 50, 2, T0 + 80]), [(0, Some(1000), 1), (1000, Some(1600), 1)]);
    }

    #[test]
    fn a_sentence_cut_by_the_window_has_no_end() {
        assert_eq!(times(&[T0, 1, T0 + 50, T0 + 60, 2, 3]), [(0, Some(1000), 1), (1200, None, 2)]);
        assert_eq!(times(&[T0, 1, T0 + 50, T0 + 60]), [(0, Some(1000), 1)]);
    }

    #[test]
    fn times_never_go_back() {
        assert_eq!(times(&[T0 + 50, 1, T0 + 20, 2, T0 + 10]), [(1000, Some(1000), 1), (1000, Some(1000), 1)]);
    }

    #[test]
    fn text_without_any_timestamp_begins_with_the_window() {
        assert_eq!(times(&[1, 2]), [(0, None, 2)]);
        assert_eq!(times(&[]), []);
    }
}

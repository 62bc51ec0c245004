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
        ids.iter().filter_map(|&id| self.language(id)).collect()
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
        self.pieces(tokens)
            .filter_map(|(piece, _, text)| {
                text.map(|text| TimedText {
                    start_ms: piece.start_ms,
                    end_ms: piece.end_ms,
                    text,
                    words: Vec::new(),
                })
            })
            .collect()
    }

    /// The text tokens of each of [`Self::segments`].
    pub fn texts(&self, tokens: &[usize]) -> Vec<TextTokens> {
        let mut skipped = 0;
        self.pieces(tokens)
            .filter_map(|(_, ids, text)| {
                if text.is_none() {
                    skipped += ids.len();
                    return None;
                }
                Some(TextTokens { skipped: std::mem::take(&mut skipped), ids })
            })
            .collect()
    }

    /// Tokens between timestamps, the ids of those that are text, and the text, trimmed, where there is any.
    fn pieces(&self, tokens: &[usize]) -> impl Iterator<Item = (Piece, Vec<u32>, Option<String>)> {
        cut(tokens, self.timestamp_begin).into_iter().map(|piece| {
            let ids: Vec<u32> =
                piece.tokens.iter().filter(|&&t| self.is_text(t)).map(|&t| t as u32).collect();
            let text = self.tokenizer.decode(&ids, true).unwrap_or_default();
            let text = text.trim();
            let text = (!text.is_empty()).then(|| text.to_owned());
            (piece, ids, text)
        })
    }

    /// The code of the language whose token has this `id`.
    pub fn language(&self, id: u32) -> Option<String> {
        language_code(&self.tokenizer.id_to_token(id)?).map(str::to_owned)
    }

    /// The id of `token`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Whether `token` is text: neither a time nor an order.
    pub fn is_text(&self, token: usize) -> bool {
        token < self.end_of_text
    }

    /// The ids of `tokens`; unknown ones are left out.
    pub fn ids(&self, tokens: &[String]) -> Vec<usize> {
        tokens.iter().filter_map(|t| self.tokenizer.token_to_id(t)).map(|id| id as usize).collect()
    }

    /// The bytes that a text token stands for.
    pub fn bytes(&self, id: u32) -> Vec<u8> {
        self.tokenizer.id_to_token(id).map_or(Vec::new(), |token| bytes(&token))
    }
}

/// The tokens of one segment's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextTokens {
    /// Text tokens between the segment before and this one that make up no text.
    pub skipped: usize,
    /// Its own.
    pub ids: Vec<u32>,
}

/// What a token's name stands for. Vocabularies of this kind (GPT-2's) write each byte as a character: itself where it
/// prints in Latin-1, else the next free one from U+0100 on.
fn bytes(token: &str) -> Vec<u8> {
    let prints = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut bytes = Vec::with_capacity(token.len());
    for c in token.chars() {
        let byte = match u8::try_from(u32::from(c)) {
            Ok(byte) => Some(byte).filter(prints),
            Err(_) => {
                let nth = (u32::from(c) - 0x100) as usize;
                (0..=u8::MAX).filter(|b| !prints(b)).nth(nth)
            }
        };
        match byte {
            Some(byte) => bytes.push(byte),
            // No such name; it stands for itself.
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
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
    fn names_of_tokens_stand_for_bytes() {
        assert_eq!(bytes("Ġthe"), b" the");
        assert_eq!(bytes("Ċ"), b"\n");
        assert_eq!(bytes("å¥½"), "好".as_bytes());
        assert_eq!(bytes("Ã±"), "ñ".as_bytes());
        assert_eq!(bytes("ł"), [0xa0]);
        assert_eq!(bytes("Ń"), [0xad]);
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

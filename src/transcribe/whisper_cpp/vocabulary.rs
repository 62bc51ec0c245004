//! The model's tokens: their texts, and what they mean.

use std::ffi::c_int;

use whisper_rs::WhisperContext;

use super::Token;
use crate::transcribe::{
    engine::{DecodeOptions, Input, TimedText},
    tokens::cut,
};

/// Most tokens of what stands before a window's text: half of the 448 text positions, less the token that begins it.
const MAX_PREVIOUS: usize = 448 / 2 - 1;

/// Texts and ids of the model's tokens.
pub struct Vocabulary {
    /// The texts of all text tokens, one after the other; often only a part of a character.
    texts: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
    /// `<|endoftext|>`; every lower id is text.
    pub end_of_text: usize,
    /// `<|0.00|>`; every higher id is a later time.
    pub timestamp_begin: usize,
    languages: usize,
}

/// A segment with the tokens it is made of.
pub struct Stretch<'a> {
    /// Text and times, still without words.
    pub text: TimedText,
    /// Text tokens in order, each with its bytes.
    pub tokens: Vec<(&'a [u8], Token)>,
}

impl Vocabulary {
    /// Reads the vocabulary of a loaded model.
    ///
    /// # Errors
    /// A message where it is not a Whisper model's.
    pub fn new(context: &WhisperContext) -> Result<Self, String> {
        let id = |token: c_int, what: &str| {
            usize::try_from(token).map_err(|_| format!("it has no token for {what}"))
        };
        let end_of_text = id(context.token_eot(), "the end of text")?;
        let timestamp_begin = id(context.token_beg(), "times")?;
        let n_vocab = id(context.n_vocab(), "anything")?;
        if !(end_of_text < timestamp_begin && timestamp_begin + 1500 < n_vocab) {
            return Err("its vocabulary is not a whisper model's".to_owned());
        }
        let (mut texts, mut ends) = (Vec::new(), Vec::with_capacity(end_of_text));
        for token in 0..end_of_text {
            texts.extend_from_slice(context.token_to_bytes(token as c_int).unwrap_or_default());
            ends.push(texts.len());
        }
        // Between the ids of <|startoftranscript|> and <|translate|> are the languages.
        let languages = (context.token_translate() - context.token_sot() - 1).max(0) as usize;
        Ok(Self { texts, ends, end_of_text, timestamp_begin, languages })
    }

    /// Codes of the languages of a multilingual model.
    pub fn languages(&self, _context: &WhisperContext) -> Vec<String> {
        (0..self.languages).filter_map(|id| whisper_rs::get_lang_str(id as i32)).map(str::to_owned).collect()
    }

    /// The bytes of a text token.
    fn text(&self, token: usize) -> &[u8] {
        let start = token.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(token).copied().unwrap_or(start);
        self.texts.get(start..end).unwrap_or_default()
    }

    /// What stands before a window's text: hotwords, the initial prompt and what was said before. Where it is too long, the end
    /// of the latter counts most. Empty where there is nothing.
    pub fn previous(
        &self,
        context: &WhisperContext,
        window: &Input<'_>,
        options: &DecodeOptions,
    ) -> Vec<c_int> {
        let tokens = |text: &str| -> Vec<c_int> {
            let text = text.trim().replace('\0', " ");
            if text.is_empty() {
                return Vec::new();
            }
            // Text in mid sentence begins with a space. A token is at least a byte.
            context.tokenize(&format!(" {text}"), text.len() + 1).unwrap_or_default()
        };
        let (mut hotwords, mut before) = (Vec::new(), Vec::new());
        if window.prompted {
            hotwords = tokens(&options.hotwords);
            hotwords.truncate(MAX_PREVIOUS / 2);
            before = tokens(&options.initial_prompt);
        }
        before.extend(tokens(window.previous));
        let room = MAX_PREVIOUS - hotwords.len();
        before.drain(..before.len().saturating_sub(room));
        hotwords.append(&mut before);
        hotwords
    }

    /// Cuts a window's tokens into timed text.
    pub fn segments(&self, tokens: &[Token]) -> Vec<Stretch<'_>> {
        let ids: Vec<usize> = tokens.iter().map(|t| t.id).collect();
        let mut rest = tokens.iter().filter(|t| t.id < self.timestamp_begin);
        cut(&ids, self.timestamp_begin)
            .into_iter()
            .filter_map(|piece| {
                let tokens: Vec<_> = rest
                    .by_ref()
                    .take(piece.tokens.len())
                    .filter(|t| t.id < self.end_of_text)
                    .map(|t| (self.text(t.id), *t))
                    .collect();
                let bytes: Vec<u8> = tokens.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
                let text = String::from_utf8_lossy(&bytes).trim().to_owned();
                let (start_ms, end_ms) = (piece.start_ms, piece.end_ms);
                (!text.is_empty()).then(|| Stretch {
                    text: TimedText { start_ms, end_ms, text, words: Vec::new() },
                    tokens,
                })
            })
            .collect()
    }
}

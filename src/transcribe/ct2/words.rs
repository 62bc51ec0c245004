//! Words of a window, from what aligning its text tells.

use super::Ct2Whisper;
use crate::transcribe::{
    engine::{Input, WindowText},
    words::{self, Alignment, Loudness, Token},
};

impl Ct2Whisper {
    /// Adds words to the segments of `text`, which was decoded from `window` to `tokens`, by the `alignment` of those that are
    /// text.
    pub(super) fn add_words(
        &self,
        window: &Input<'_>,
        tokens: &[usize],
        alignment: &Alignment,
        text: &mut WindowText,
    ) {
        let Alignment { frames, probs } = alignment;
        let loudness = Loudness::of(window.sound, window.duration_ms);
        let mut at = 0;
        for (segment, tokens) in text.segments.iter_mut().zip(self.vocabulary.texts(tokens)) {
            let here = at + tokens.skipped..at + tokens.skipped + tokens.ids.len();
            at = here.end;
            let (Some(frames), Some(probs)) = (frames.get(here.clone()), probs.get(here)) else { return };
            let tokens: Vec<Token> = tokens
                .ids
                .iter()
                .zip(frames)
                .zip(probs)
                .map(|((&id, &frame), &prob)| Token { bytes: self.vocabulary.bytes(id), frame, prob })
                .collect();
            let end_ms = segment.end_ms.unwrap_or(window.duration_ms);
            segment.words = words::timed(&tokens, segment.start_ms, end_ms, &loudness);
        }
    }
}

//! When each word of a decoded text was said: where the model's alignment heads attend while they read it again.

use std::sync::Once;

use ct2rs::sys::{StorageView, WhisperAlignmentResult};

use super::{Ct2Whisper, MAX_LENGTH, failed};
use crate::transcribe::{
    engine::{DecodeOptions, EngineError, Input, WindowText},
    mel::FRAMES,
    words::{self, Loudness, Token},
};

/// Frames of 20 ms over which attention is smoothed, as OpenAI's `timing.py` does.
const MEDIAN_FILTER: i64 = 7;

/// Spectrogram columns in one frame of attention.
const COLUMNS: usize = 2;

/// Milliseconds from one column to the next.
const COLUMN_MS: u32 = 10;

/// Attention to shorter sound than this is not looked at: the filter needs some frames on either side.
const SHORTEST: usize = 16;

/// That words get no times is said once; it would be the same for every window.
static TOLD: Once = Once::new();

impl Ct2Whisper {
    /// Adds words to the segments of `texts`, which were decoded to `tokens` from `encoded`. Where the model cannot say,
    /// segments keep their times and have no words.
    ///
    /// # Errors
    /// Only where a smaller batch may do.
    pub(super) fn add_words(
        &self,
        batch: &[Input<'_>],
        encoded: &StorageView<'_>,
        tokens: &[Vec<usize>],
        texts: &mut [WindowText],
        options: &DecodeOptions,
    ) -> Result<(), EngineError> {
        let mut languages: Vec<String> =
            texts.iter().filter(|t| !t.segments.is_empty()).map(|t| t.language.clone()).collect();
        languages.sort_unstable();
        languages.dedup();
        let columns = columns(batch);
        for language in &languages {
            // The start is the same for a whole call, and single windows cannot be taken out of what was encoded: those
            // of other languages take part with no text.
            let start = self.vocabulary.ids(&self.task(language, options.task));
            let text: Vec<Vec<usize>> = texts
                .iter()
                .zip(tokens)
                .zip(&columns)
                .map(|((text, tokens), &columns)| {
                    let tokens: Vec<usize> =
                        tokens.iter().copied().filter(|&t| self.vocabulary.is_text(t)).collect();
                    // Start, a task token, and the end of text stand beside it.
                    let fits = start.len() + tokens.len() + 2 <= MAX_LENGTH;
                    if text.language == *language && columns >= SHORTEST && fits {
                        tokens
                    } else {
                        Vec::new()
                    }
                })
                .collect();
            if text.iter().all(Vec::is_empty) {
                continue;
            }
            let aligned =
                self.whisper.align(encoded, &start, &text, &columns, MEDIAN_FILTER).map_err(failed).and_then(
                    |aligned| {
                        let complete = aligned.len() == text.len();
                        let error =
                            || EngineError::Failed(format!("{} of {} windows", aligned.len(), text.len()));
                        if complete { Ok(aligned) } else { Err(error()) }
                    },
                );
            let aligned = match aligned {
                Ok(aligned) => aligned,
                Err(error @ EngineError::OutOfMemory(_)) if batch.len() > 1 => return Err(error),
                Err(error) => {
                    TOLD.call_once(|| {
                        tracing::warn!(model = self.name, "words get no times: cannot align: {error}");
                    });
                    return Ok(());
                }
            };
            for (i, aligned) in aligned.iter().enumerate() {
                if !text[i].is_empty() {
                    let loudness = Loudness::of(batch[i].sound, batch[i].duration_ms);
                    self.window(&tokens[i], aligned, batch[i].duration_ms, &loudness, &mut texts[i]);
                }
            }
        }
        Ok(())
    }

    /// Adds words to one window.
    fn window(
        &self,
        tokens: &[usize],
        aligned: &WhisperAlignmentResult,
        duration_ms: u32,
        loudness: &Loudness,
        text: &mut WindowText,
    ) {
        let path = aligned.alignments.iter().map(|step| (step.token_x, step.frame_x));
        let Some(frames) = arrivals(path, aligned.text_token_probs.len()) else { return };
        let mut at = 0;
        for (segment, tokens) in text.segments.iter_mut().zip(self.vocabulary.texts(tokens)) {
            let here = at + tokens.skipped..at + tokens.skipped + tokens.ids.len();
            at = here.end;
            let (Some(frames), Some(probs)) = (frames.get(here.clone()), aligned.text_token_probs.get(here))
            else {
                return;
            };
            let tokens: Vec<Token> = tokens
                .ids
                .iter()
                .zip(frames)
                .zip(probs)
                .map(|((&id, &frame), &prob)| Token { bytes: self.vocabulary.bytes(id), frame, prob })
                .collect();
            let end_ms = segment.end_ms.unwrap_or(duration_ms);
            segment.words = words::timed(&tokens, segment.start_ms, end_ms, loudness);
        }
    }
}

/// Columns of each window with sound.
///
/// Where all windows of a batch have as many, CTranslate2 (4.8) normalises attention over the padding of shorter texts as
/// well; where they differ, it treats each by itself. So they differ: 20 ms of thirty seconds are not missed.
fn columns(batch: &[Input<'_>]) -> Vec<usize> {
    let mut columns: Vec<usize> =
        batch.iter().map(|w| ((w.duration_ms / COLUMN_MS) as usize).clamp(COLUMNS, FRAMES)).collect();
    if let [first, rest @ ..] = columns.as_mut_slice()
        && *first > SHORTEST + COLUMNS
        && !rest.is_empty()
        && rest.iter().all(|c| *c / COLUMNS == *first / COLUMNS)
    {
        *first -= COLUMNS;
    }
    columns
}

/// The frame at which the path through (token, frame) comes to each of `count` tokens; `None` where it leaves one out.
fn arrivals(path: impl Iterator<Item = (i64, i64)>, count: usize) -> Option<Vec<u32>> {
    let mut frames = vec![None; count];
    for (token, frame) in path {
        // The path may begin before the first token or frame, and goes on to the end of text.
        let Some(slot) = usize::try_from(token).ok().and_then(|t| frames.get_mut(t)) else { continue };
        slot.get_or_insert(u32::try_from(frame).unwrap_or(0));
    }
    frames.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcribe::engine::Sound;

    #[test]
    fn a_path_comes_to_each_token_once() {
        let path = [(-1, 0), (0, -1), (0, 0), (0, 1), (1, 2), (2, 2), (2, 3), (3, 9)];
        assert_eq!(arrivals(path.into_iter(), 3), Some(vec![0, 2, 2]));
        assert_eq!(arrivals(path.into_iter(), 5), None);
        assert_eq!(arrivals(std::iter::empty(), 0), Some(vec![]));
    }

    #[test]
    fn no_batch_has_all_windows_of_one_length() {
        let sound = Sound::Samples(Vec::new());
        let window =
            |duration_ms| Input { sound: &sound, duration_ms, language: None, previous: "", prompted: false };
        let of = |durations: &[u32]| columns(&durations.iter().map(|&d| window(d)).collect::<Vec<_>>());
        assert_eq!(of(&[30_000, 30_000]), [2998, 3000]);
        assert_eq!(of(&[30_000]), [3000]);
        assert_eq!(of(&[12_345, 20_000]), [1234, 2000]);
        assert_eq!(of(&[99_999, 0]), [3000, 2]);
    }
}

//! Text by CTranslate2.

use std::sync::Once;

use ct2rs::sys::{
    Device as Ct2Device, StorageView, Whisper, WhisperAlignmentResult, WhisperGenerationResult,
    WhisperOptions,
};

use super::{Ct2Whisper, Decoded, MAX_LENGTH, failed};
use crate::transcribe::{
    engine::{DecodeOptions, EngineError, Input, WindowText},
    mel::FRAMES,
    tokens::language_code,
    words::Alignment,
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
    /// As [`transcribe`](crate::transcribe::Engine::transcribe).
    pub(super) fn transcribe_runtime(
        &self,
        runtime: &Whisper,
        batch: &[Input<'_>],
        temperature: f32,
        options: &DecodeOptions,
    ) -> Result<Vec<WindowText>, EngineError> {
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        // The runtime wants the text to begin at the same place in the whole batch, and the binding cannot take single
        // windows out of what was encoded. Only carried-over text makes prompts of different lengths.
        if batch.iter().any(|w| (w.prompted, w.previous) != (first.prompted, first.previous)) {
            let alone = |w| self.transcribe_runtime(runtime, std::slice::from_ref(w), temperature, options);
            return Ok(batch
                .iter()
                .map(alone)
                .collect::<Result<Vec<_>, _>>()?
                .into_iter()
                .flatten()
                .collect());
        }
        let mut features = self.spectrograms(batch)?.concat();
        let view = StorageView::new(&[batch.len(), self.n_mels, FRAMES], &mut features, Ct2Device::CPU)
            .map_err(failed)?;
        let encoded = runtime.encode(&view, false).map_err(failed)?;
        let languages =
            self.languages_of(batch, &options.languages, |which| languages(runtime, &encoded, which))?;
        let prompts: Vec<Vec<String>> = batch
            .iter()
            .zip(&languages)
            .map(|(w, (language, _))| self.prompt(w, language, options))
            .collect();
        let decoded = generate(runtime, &encoded, &prompts, temperature, options)?;
        let mut texts = self.texts(&decoded, languages, temperature);
        if options.word_times {
            self.align(runtime, batch, &encoded, &decoded, &mut texts, options)?;
        }
        Ok(texts)
    }

    /// Adds words to the segments of `texts`, which were `decoded` from what was `encoded`. Where the model cannot say,
    /// segments keep their times and have no words.
    ///
    /// # Errors
    /// Only where a smaller batch may do.
    fn align(
        &self,
        runtime: &Whisper,
        batch: &[Input<'_>],
        encoded: &StorageView<'_>,
        decoded: &[Decoded],
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
                .zip(decoded)
                .zip(&columns)
                .map(|((text, decoded), &columns)| {
                    let tokens: Vec<usize> =
                        decoded.tokens.iter().copied().filter(|&t| self.vocabulary.is_text(t)).collect();
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
            let aligned = runtime
                .align(encoded, &start, &text, &columns, MEDIAN_FILTER)
                .map_err(failed)
                .and_then(|aligned| {
                    let complete = aligned.len() == text.len();
                    let error =
                        || EngineError::Failed(format!("{} of {} windows", aligned.len(), text.len()));
                    if complete { Ok(aligned) } else { Err(error()) }
                });
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
            for (i, alignment) in aligned.into_iter().map(alignment).enumerate() {
                if let Some(alignment) = alignment.filter(|_| !text[i].is_empty()) {
                    self.add_words(&batch[i], &decoded[i].tokens, &alignment, &mut texts[i]);
                }
            }
        }
        Ok(())
    }
}

/// The runtime's chances of languages in the windows with the numbers `which`.
fn languages(
    runtime: &Whisper,
    encoded: &StorageView<'_>,
    which: &[usize],
) -> Result<Vec<Vec<(String, f32)>>, EngineError> {
    let detected = runtime.detect_language(encoded).map_err(failed)?;
    let codes = which.iter().filter_map(|&n| detected.get(n)).map(|ranked| {
        ranked.iter().filter_map(|d| Some((language_code(&d.language)?.to_owned(), d.probability))).collect()
    });
    Ok(codes.collect())
}

fn generate(
    runtime: &Whisper,
    encoded: &StorageView<'_>,
    prompts: &[Vec<String>],
    temperature: f32,
    options: &DecodeOptions,
) -> Result<Vec<Decoded>, EngineError> {
    let sampling = temperature > 0.0;
    let generation = WhisperOptions {
        beam_size: if sampling { 1 } else { options.beam_size.max(1) },
        patience: options.patience,
        length_penalty: options.length_penalty,
        repetition_penalty: options.repetition_penalty,
        no_repeat_ngram_size: options.no_repeat_ngram_size,
        num_hypotheses: if sampling { options.best_of.max(1) } else { 1 },
        // Drawn from the whole distribution, or the best.
        sampling_topk: usize::from(!sampling),
        sampling_temperature: if sampling { temperature } else { 1.0 },
        max_length: MAX_LENGTH,
        return_scores: true,
        return_no_speech_prob: true,
        max_initial_timestamp_index: options.max_initial_timestamp,
        ..WhisperOptions::default()
    };
    let results = runtime.generate(encoded, prompts, &generation).map_err(failed)?;
    if results.len() != prompts.len() {
        return Err(EngineError::Failed(format!("{} texts for {} windows", results.len(), prompts.len())));
    }
    Ok(results.into_iter().map(|result| decoded(result, options.length_penalty)).collect())
}

/// What the runtime's result says.
fn decoded(result: WhisperGenerationResult, length_penalty: f32) -> Decoded {
    let tokens = result.sequences_ids.into_iter().next().unwrap_or_default();
    // The score is the sum of log-probabilities by the number of tokens to the power of the penalty; OpenAI divides by
    // the number, the end of text counted as one more.
    let score = result.scores.first().copied().unwrap_or(0.0);
    let sum = score * (tokens.len() as f32).powf(length_penalty);
    let avg_logprob = sum / (tokens.len() + 1) as f32;
    Decoded { tokens, avg_logprob, no_speech_prob: result.no_speech_prob }
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

/// What the runtime's result says of each token; `None` where its path leaves one out.
fn alignment(result: WhisperAlignmentResult) -> Option<Alignment> {
    let path = result.alignments.iter().map(|step| (step.token_x, step.frame_x));
    let frames = arrivals(path, result.text_token_probs.len())?;
    Some(Alignment { frames, probs: result.text_token_probs })
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

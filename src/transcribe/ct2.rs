//! Whisper on CTranslate2.
//!
//! A batch is encoded once; languages are detected, text is generated and words are aligned from the encoder's output. Where
//! the processor suits, encoder and decoder are our own (`own`), and only words are aligned by the runtime.

mod align;
mod load;
mod own;

use std::fmt;

use ct2rs::sys::{
    Device as Ct2Device, StorageView, Whisper, WhisperGenerationResult, WhisperOptions, get_device_count,
};

use super::{
    engine::{DecodeOptions, Engine, EngineError, Input, InputKind, Sound, Task, WindowText},
    engines::EngineInfo,
    mel::FRAMES,
    model,
    quality::compression_ratio,
    shape::Shape,
    tokens::{Vocabulary, language_code},
};

use own::Own;

/// This engine, for the table of engines.
pub static INFO: EngineInfo = EngineInfo {
    name: "ct2",
    about: "CTranslate2: 8-bit arithmetic on CPUs, batches on GPUs",
    names: model::known_names,
    recognises: model::is_ct2,
    resolve: model::resolve,
    check: |model| Shape::read(&model.path.join("model.bin")).map(drop),
    open: load::open,
};

/// Most tokens of a window's text and prompt, from the model's 448 text positions. The runtime generates at most half.
const MAX_LENGTH: usize = 448;

/// Most tokens of what stands before a window's text: half of the text positions, less the token that begins it.
const MAX_PREVIOUS: usize = MAX_LENGTH / 2 - 1;

/// A Whisper model loaded by CTranslate2.
pub struct Ct2Whisper {
    name: String,
    whisper: Whisper,
    own: Option<Own>,
    /// Threads of a replica.
    threads: usize,
    vocabulary: Vocabulary,
    languages: Vec<String>,
    multilingual: bool,
    n_mels: usize,
}

impl fmt::Debug for Ct2Whisper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ct2Whisper").field("whisper", &self.whisper).finish_non_exhaustive()
    }
}

/// CUDA devices that the linked CTranslate2 can use.
pub fn cuda_devices() -> usize {
    usize::try_from(get_device_count(Ct2Device::CUDA)).unwrap_or(0)
}

/// The runtime tells only in words that memory ran out: its CUDA allocator, cuBLAS, or the host's `std::bad_alloc`.
fn failed(message: impl fmt::Display) -> EngineError {
    let message = message.to_string();
    let memory =
        ["out of memory", "ALLOC_FAILED", "bad_alloc", "Cannot allocate memory", "failed to allocate"];
    if memory.iter().any(|sign| message.contains(sign)) {
        EngineError::OutOfMemory(message)
    } else {
        EngineError::Failed(message)
    }
}

/// One decoded text, before its tokens are cut into segments.
struct Decoded {
    tokens: Vec<usize>,
    avg_logprob: f32,
    no_speech_prob: f32,
}

impl Ct2Whisper {
    /// The spectrograms of `windows`.
    fn spectrograms<'a>(&self, windows: &[Input<'a>]) -> Result<Vec<&'a [f32]>, EngineError> {
        let size = self.n_mels * FRAMES;
        let spectrograms = windows.iter().map(|window| match window.sound {
            Sound::LogMel(mel) if mel.len() == size => Ok(&mel[..]),
            _ => Err(EngineError::Failed(format!("a window is no spectrogram of {size} values"))),
        });
        spectrograms.collect()
    }

    /// Language code and probability for each window; `detect` tells codes and probabilities of those windows whose numbers it
    /// is given.
    fn languages_of(
        &self,
        batch: &[Input<'_>],
        allowed: &[String],
        detect: impl FnOnce(&[usize]) -> Result<Vec<Vec<(String, f32)>>, EngineError>,
    ) -> Result<Vec<(String, f32)>, EngineError> {
        if !self.multilingual {
            return Ok(vec![("en".to_owned(), 1.0); batch.len()]);
        }
        let unknown: Vec<usize> = (0..batch.len()).filter(|&n| batch[n].language.is_none()).collect();
        let mut detected = if unknown.is_empty() { Vec::new() } else { detect(&unknown)? }.into_iter();
        batch
            .iter()
            .map(|window| match window.language {
                Some(language) => Ok((language.to_owned(), 1.0)),
                None => detected
                    .next()
                    .and_then(|ranked| among(ranked.iter().map(|(code, p)| (code.as_str(), *p)), allowed))
                    .ok_or_else(|| EngineError::Failed("no language was detected".to_owned())),
            })
            .collect()
    }

    /// The runtime's chances of languages in the windows with the numbers `which`.
    fn detect(
        &self,
        encoded: &StorageView<'_>,
        which: &[usize],
    ) -> Result<Vec<Vec<(String, f32)>>, EngineError> {
        let detected = self.whisper.detect_language(encoded).map_err(failed)?;
        let codes = which.iter().filter_map(|&n| detected.get(n)).map(|ranked| {
            ranked
                .iter()
                .filter_map(|d| Some((language_code(&d.language)?.to_owned(), d.probability)))
                .collect()
        });
        Ok(codes.collect())
    }

    /// The tokens before a window's text: what was said before, what to expect, and what to do.
    fn prompt(&self, window: &Input<'_>, language: &str, options: &DecodeOptions) -> Vec<String> {
        let mut prompt = self.vocabulary.previous(window, options, MAX_PREVIOUS);
        prompt.extend(self.task(language, options.task));
        prompt
    }

    /// The tokens that say what to do.
    fn task(&self, language: &str, task: Task) -> Vec<String> {
        let mut tokens = vec!["<|startoftranscript|>".to_owned()];
        if self.multilingual {
            tokens.push(format!("<|{language}|>"));
            tokens.push(
                match task {
                    Task::Transcribe => "<|transcribe|>",
                    Task::Translate => "<|translate|>",
                }
                .to_owned(),
            );
        }
        tokens
    }

    /// What was decoded, as timed text.
    fn texts(&self, decoded: &[Decoded], languages: Vec<(String, f32)>, temperature: f32) -> Vec<WindowText> {
        let texts = decoded.iter().zip(languages).map(|(decoded, (language, language_prob))| {
            let segments = self.vocabulary.segments(&decoded.tokens);
            let text = segments.iter().map(|s| s.text.as_str()).collect::<Vec<_>>().join(" ");
            WindowText {
                language,
                language_prob,
                segments,
                avg_logprob: decoded.avg_logprob,
                no_speech_prob: decoded.no_speech_prob,
                compression_ratio: compression_ratio(&text),
                temperature,
            }
        });
        texts.collect()
    }

    fn generate(
        &self,
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
        let results = self.whisper.generate(encoded, prompts, &generation).map_err(failed)?;
        if results.len() != prompts.len() {
            return Err(EngineError::Failed(format!(
                "{} texts for {} windows",
                results.len(),
                prompts.len()
            )));
        }
        Ok(results.into_iter().map(|result| decoded(result, options.length_penalty)).collect())
    }
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

/// The most probable language of `ranked`, and its probability among those that are `allowed` (all where that is empty).
pub(super) fn among<'a>(
    ranked: impl Iterator<Item = (&'a str, f32)>,
    allowed: &[String],
) -> Option<(String, f32)> {
    let mut total = 0.0;
    let mut best: Option<(&str, f32)> = None;
    for (code, probability) in
        ranked.filter(|(code, _)| allowed.is_empty() || allowed.iter().any(|a| a == code))
    {
        total += probability;
        if best.is_none_or(|(_, most)| probability > most) {
            best = Some((code, probability));
        }
    }
    best.map(|(code, probability)| (code.to_owned(), probability / total.max(f32::MIN_POSITIVE)))
}

impl Engine for Ct2Whisper {
    fn name(&self) -> &str {
        &self.name
    }

    fn input(&self) -> InputKind {
        InputKind::LogMel { bands: self.n_mels }
    }

    fn languages(&self) -> &[String] {
        &self.languages
    }

    fn transcribe(
        &self,
        batch: &[Input<'_>],
        temperature: f32,
        options: &DecodeOptions,
    ) -> Result<Vec<WindowText>, EngineError> {
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        if let Some(own) = &self.own {
            return self.transcribe_own(own, batch, temperature, options);
        }
        // The runtime wants the text to begin at the same place in the whole batch, and the binding cannot take single
        // windows out of what was encoded. Only carried-over text makes prompts of different lengths.
        if batch.iter().any(|w| (w.prompted, w.previous) != (first.prompted, first.previous)) {
            let alone = batch.iter().map(|w| self.transcribe(std::slice::from_ref(w), temperature, options));
            return Ok(alone.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect());
        }
        let mut features = self.spectrograms(batch)?.concat();
        let view = StorageView::new(&[batch.len(), self.n_mels, FRAMES], &mut features, Ct2Device::CPU)
            .map_err(failed)?;
        let encoded = self.whisper.encode(&view, false).map_err(failed)?;
        let languages = self.languages_of(batch, &options.languages, |which| self.detect(&encoded, which))?;
        let prompts: Vec<Vec<String>> = batch
            .iter()
            .zip(&languages)
            .map(|(w, (language, _))| self.prompt(w, language, options))
            .collect();
        let decoded = self.generate(&encoded, &prompts, temperature, options)?;
        let mut texts = self.texts(&decoded, languages, temperature);
        if options.word_times {
            let tokens: Vec<Vec<usize>> = decoded.into_iter().map(|d| d.tokens).collect();
            self.add_words(batch, &encoded, &tokens, &mut texts, options)?;
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_from_other_trouble() {
        for text in ["CUDA failed with error out of memory", "std::bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED"] {
            assert!(matches!(failed(text), EngineError::OutOfMemory(_)), "{text}");
        }
        assert!(matches!(
            failed("CUDA failed with error unspecified launch failure"),
            EngineError::Failed(_)
        ));
    }

    #[test]
    fn detection_keeps_to_the_allowed_languages() {
        let ranked = [("cy", 0.5), ("en", 0.3), ("es", 0.1)];
        assert_eq!(among(ranked.into_iter(), &[]).unwrap().0, "cy");
        let (code, probability) = among(ranked.into_iter(), &["es".to_owned(), "en".to_owned()]).unwrap();
        assert_eq!(code, "en");
        assert!((probability - 0.75).abs() < 1e-6);
        assert_eq!(among(ranked.into_iter(), &["ja".to_owned()]), None);
    }
}

//! Whisper on CTranslate2.
//!
//! A batch is encoded once; languages are detected, text is generated and words are aligned from the encoder's output: by
//! encoder and decoder of our own where the processor suits (`own`), else by CTranslate2 itself (`runtime`).

mod load;
mod own;
mod runtime;
mod words;

use std::fmt;

use ct2rs::sys::{Device as Ct2Device, Whisper, get_device_count};

use super::{
    engine::{DecodeOptions, Engine, EngineError, Input, InputKind, Sound, Task, WindowText},
    engines::EngineInfo,
    mel::FRAMES,
    model,
    quality::compression_ratio,
    shape::Shape,
    tokens::Vocabulary,
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

/// A Whisper model in CTranslate2's format.
pub struct Ct2Whisper {
    name: String,
    arithmetic: Arithmetic,
    /// Threads of a replica.
    threads: usize,
    vocabulary: Vocabulary,
    languages: Vec<String>,
    multilingual: bool,
    n_mels: usize,
}

/// What computes.
enum Arithmetic {
    Own(Box<Own>),
    Runtime(Whisper),
}

impl fmt::Debug for Ct2Whisper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ct2Whisper").field("name", &self.name).finish_non_exhaustive()
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
        match &self.arithmetic {
            Arithmetic::Own(own) => self.transcribe_own(own, batch, temperature, options),
            Arithmetic::Runtime(runtime) => self.transcribe_runtime(runtime, batch, temperature, options),
        }
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

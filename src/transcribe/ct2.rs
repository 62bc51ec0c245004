//! Whisper on CTranslate2.
//!
//! A batch is encoded once; languages are detected and text is generated from the encoder's output. A window whose text
//! fails the guards is decoded again by itself at rising temperatures, from an encoder pass of its own (the binding
//! cannot take single windows out of a batch's output). By itself, because each of the samples drawn at a temperature
//! holds its own copy of the attention over the 30 s: a whole batch of them would need several times a batch's memory.

use std::fmt;

use ct2rs::sys::{
    ComputeType, Config, Device as Ct2Device, LogLevel, StorageView, Whisper, WhisperGenerationResult,
    WhisperOptions, get_device_count, set_log_level,
};
use serde::Deserialize;

use super::{
    engine::{DecodeOptions, Engine, EngineError, MelWindow, TimedText, WindowText},
    mel::FRAMES,
    model::ModelDir,
    plan::{Compute, Device, Plan},
    quality::{Measure, compression_ratio},
    tokens::{Vocabulary, language_code},
};

/// Most tokens of a window's text and prompt, from the model's 448 text positions. The runtime generates at most half.
const MAX_LENGTH: usize = 448;

/// A Whisper model loaded by CTranslate2.
pub struct Ct2Whisper {
    name: String,
    whisper: Whisper,
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

/// What is read of the model's `config.json`.
#[derive(Deserialize)]
struct ModelConfig {
    #[serde(default)]
    lang_ids: Vec<u32>,
}

/// CUDA devices that the linked CTranslate2 can use.
pub fn cuda_devices() -> usize {
    usize::try_from(get_device_count(Ct2Device::CUDA)).unwrap_or(0)
}

impl Ct2Whisper {
    /// Loads the model in `dir` as `plan` says, and notes in `plan` the precision that was taken in the end.
    ///
    /// # Errors
    /// A message that names the directory, or the precision that the device cannot do.
    pub fn load(dir: &ModelDir, plan: &mut Plan) -> Result<Self, String> {
        // Errors come back as errors; the runtime's own words on stderr would break progress bars.
        set_log_level(LogLevel::Critical);
        let vocabulary = Vocabulary::load(&dir.path)?;
        let config_path = dir.path.join("config.json");
        let config: ModelConfig = std::fs::read(&config_path)
            .map_err(|e| e.to_string())
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|e| e.to_string()))
            .map_err(|e| format!("{}: {e}", config_path.display()))?;
        let whisper = load_weights(dir, plan)?;
        let multilingual = whisper.is_multilingual();
        let languages =
            if multilingual { vocabulary.languages(&config.lang_ids) } else { vec!["en".to_owned()] };
        let n_mels = whisper.n_mels();
        Ok(Self { name: dir.name.clone(), whisper, vocabulary, languages, multilingual, n_mels })
    }

    fn encode(&self, windows: &[MelWindow<'_>]) -> Result<StorageView<'static>, EngineError> {
        let size = self.n_mels * FRAMES;
        let mut features = Vec::with_capacity(windows.len() * size);
        for window in windows {
            if window.mel.len() != size {
                return Err(EngineError(format!("a window of {} values, not {size}", window.mel.len())));
            }
            features.extend_from_slice(window.mel);
        }
        let view = StorageView::new(&[windows.len(), self.n_mels, FRAMES], &mut features, Ct2Device::CPU)
            .map_err(|e| EngineError(e.to_string()))?;
        self.whisper.encode(&view, false).map_err(|e| EngineError(format!("cannot encode: {e}")))
    }

    /// Language code and probability for each window.
    fn languages(
        &self,
        batch: &[MelWindow<'_>],
        encoded: &StorageView<'_>,
    ) -> Result<Vec<(String, f32)>, EngineError> {
        if !self.multilingual {
            return Ok(vec![("en".to_owned(), 1.0); batch.len()]);
        }
        let detected = if batch.iter().any(|w| w.language.is_none()) {
            self.whisper.detect_language(encoded).map_err(|e| EngineError(e.to_string()))?
        } else {
            Vec::new()
        };
        batch
            .iter()
            .enumerate()
            .map(|(i, window)| match window.language {
                Some(language) => Ok((language.to_owned(), 1.0)),
                None => detected
                    .get(i)
                    .and_then(|ranked| ranked.first())
                    .and_then(|best| Some((language_code(&best.language)?.to_owned(), best.probability)))
                    .ok_or_else(|| EngineError("no language was detected".to_owned())),
            })
            .collect()
    }

    fn generate(
        &self,
        encoded: &StorageView<'_>,
        languages: &[&str],
        temperature: f32,
        options: &DecodeOptions,
    ) -> Result<Vec<Attempt>, EngineError> {
        let prompts: Vec<Vec<String>> = languages
            .iter()
            .map(|language| {
                let mut prompt = vec!["<|startoftranscript|>".to_owned()];
                if self.multilingual {
                    prompt.push(format!("<|{language}|>"));
                    prompt.push("<|transcribe|>".to_owned());
                }
                prompt
            })
            .collect();
        let sampling = temperature > 0.0;
        let generation = WhisperOptions {
            beam_size: if sampling { 1 } else { options.beam_size.max(1) },
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
        let results =
            self.whisper.generate(encoded, &prompts, &generation).map_err(|e| EngineError(e.to_string()))?;
        if results.len() != languages.len() {
            return Err(EngineError(format!("{} texts for {} windows", results.len(), languages.len())));
        }
        Ok(results.iter().map(|result| self.attempt(result, temperature)).collect())
    }

    /// Decodes one window at each of `temperatures` until its text is acceptable; `best` is the best text so far.
    fn retry(
        &self,
        encoded: &StorageView<'_>,
        language: &str,
        best: &mut Attempt,
        temperatures: &[f32],
        options: &DecodeOptions,
    ) -> Result<(), EngineError> {
        for &temperature in temperatures {
            for attempt in self.generate(encoded, &[language], temperature, options)? {
                let acceptable = attempt.measure.acceptable(options);
                if acceptable || attempt.measure.better_than(&best.measure, options) {
                    *best = attempt;
                }
                if acceptable {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn attempt(&self, result: &WhisperGenerationResult, temperature: f32) -> Attempt {
        let tokens = result.sequences_ids.first().map_or(&[][..], Vec::as_slice);
        // The score is the sum of log-probabilities by the number of tokens (length penalty 1); OpenAI counts the end
        // of text as one more.
        let score = result.scores.first().copied().unwrap_or(0.0);
        let avg_logprob = score * tokens.len() as f32 / (tokens.len() + 1) as f32;
        let segments = self.vocabulary.segments(tokens);
        let text = segments.iter().map(|s| s.text.as_str()).collect::<Vec<_>>().join(" ");
        let measure = Measure {
            avg_logprob,
            no_speech_prob: result.no_speech_prob,
            compression_ratio: compression_ratio(&text),
        };
        Attempt { segments, measure, temperature }
    }
}

struct Attempt {
    segments: Vec<TimedText>,
    measure: Measure,
    temperature: f32,
}

impl Engine for Ct2Whisper {
    fn name(&self) -> &str {
        &self.name
    }

    fn n_mels(&self) -> usize {
        self.n_mels
    }

    fn languages(&self) -> &[String] {
        &self.languages
    }

    fn transcribe(
        &self,
        batch: &[MelWindow<'_>],
        options: &DecodeOptions,
    ) -> Result<Vec<WindowText>, EngineError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let Some((&first, higher)) = options.temperatures.split_first() else {
            return Err(EngineError("no temperature to decode at".to_owned()));
        };
        let encoded = self.encode(batch)?;
        let languages = self.languages(batch, &encoded)?;
        let prompts: Vec<&str> = languages.iter().map(|(language, _)| language.as_str()).collect();
        let mut best = self.generate(&encoded, &prompts, first, options)?;
        let alone = (batch.len() == 1).then_some(encoded);
        for ((attempt, window), language) in best.iter_mut().zip(batch).zip(&prompts) {
            if !attempt.measure.acceptable(options) && !higher.is_empty() {
                let own = match &alone {
                    Some(encoded) => encoded,
                    None => &self.encode(std::slice::from_ref(window))?,
                };
                self.retry(own, language, attempt, higher, options)?;
            }
        }
        best.into_iter()
            .zip(languages)
            .map(|(attempt, (language, language_prob))| {
                let silent = attempt.measure.silent(options);
                Ok(WindowText {
                    language,
                    language_prob,
                    segments: if silent { Vec::new() } else { attempt.segments },
                    avg_logprob: attempt.measure.avg_logprob,
                    no_speech_prob: attempt.measure.no_speech_prob,
                    compression_ratio: attempt.measure.compression_ratio,
                    temperature: attempt.temperature,
                })
            })
            .collect()
    }
}

/// Loads the weights, in the first precision that the device can do where that is left to us.
fn load_weights(dir: &ModelDir, plan: &mut Plan) -> Result<Whisper, String> {
    let cuda = plan.device == Device::Cuda;
    let candidates: &[Compute] = match (plan.compute, cuda) {
        (Compute::Auto, false) => &[Compute::Int8, Compute::Float32],
        (Compute::Auto, true) => {
            &[Compute::Int8Float16, Compute::Int8Float32, Compute::Float16, Compute::Float32]
        }
        (chosen, _) => &[chosen],
    };
    let mut failure = String::new();
    for &compute in candidates {
        let config = Config {
            device: if cuda { Ct2Device::CUDA } else { Ct2Device::CPU },
            compute_type: compute_type(compute),
            // The same index N times: N replicas on one device that share one copy of the weights.
            device_indices: vec![0; plan.replicas],
            num_threads_per_replica: plan.threads,
            ..Config::default()
        };
        match Whisper::new(&dir.path, config) {
            Ok(whisper) => {
                if plan.compute == Compute::Auto && compute != candidates[0] {
                    plan.reasons.push(format!("{compute} because this device cannot do {}", candidates[0]));
                }
                plan.compute = compute;
                return Ok(whisper);
            }
            Err(e) => {
                failure = e.to_string();
                if !failure.contains("compute type") {
                    break;
                }
            }
        }
    }
    if failure.contains("compute type") {
        return Err(format!(
            "{} cannot compute in {}; WHISPER_COMPUTE=auto chooses what it can",
            plan.device, plan.compute
        ));
    }
    Err(format!("cannot load {}: {failure}", dir.path.display()))
}

fn compute_type(compute: Compute) -> ComputeType {
    match compute {
        Compute::Auto => ComputeType::AUTO,
        Compute::Int8 => ComputeType::INT8,
        Compute::Int8Float32 => ComputeType::INT8_FLOAT32,
        Compute::Int8Float16 => ComputeType::INT8_FLOAT16,
        Compute::Int8Bfloat16 => ComputeType::INT8_BFLOAT16,
        Compute::Float16 => ComputeType::FLOAT16,
        Compute::Bfloat16 => ComputeType::BFLOAT16,
        Compute::Float32 => ComputeType::FLOAT32,
    }
}

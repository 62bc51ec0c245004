//! What a speech recogniser is to this program: windows of sound in, timed text out.
//!
//! An engine decodes a batch at one temperature and says how sure it is. Everything around that is the same for all
//! engines and lies elsewhere: windows of many files in one batch, further temperatures for what failed, smaller
//! batches when memory runs out, guards against invented text.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::plan::Plan;

/// Milliseconds from one timestamp token to the next.
pub const TIMESTAMP_MS: u32 = 20;

/// What an engine wants to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// OpenAI's log-mel spectrogram with so many bands, see [`super::LogMel`].
    LogMel {
        /// 80, or 128 from large-v3 on.
        bands: usize,
    },
    /// The samples themselves.
    Samples,
}

/// The sound of one window.
#[derive(Clone, Debug, PartialEq)]
pub enum Sound {
    /// `bands` × 3000 values, band after band.
    LogMel(Vec<f32>),
    /// 16 kHz mono, at most 30 s.
    Samples(Vec<i16>),
}

/// One window to transcribe.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// In the kind that [`Engine::input`] asks for.
    pub sound: &'a Sound,
    /// Length of the recording in it, milliseconds, at most 30,000; silence follows.
    pub duration_ms: u32,
    /// The language, where it is known; `None` lets the engine detect it.
    pub language: Option<&'a str>,
    /// What was said just before, where text is carried over; else empty.
    pub previous: &'a str,
    /// Whether the initial prompt and the hotwords are given to the model. Not where it has just said them back.
    pub prompted: bool,
}

/// What to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// What is said, in its own language.
    #[default]
    Transcribe,
    /// What is said, in English.
    Translate,
}

/// How text is decoded, the same for every window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecodeOptions {
    /// Hypotheses that beam search follows at temperature 0; 1 is greedy search.
    pub beam_size: usize,
    /// Beam search ends when this times `beam_size` hypotheses are complete.
    pub patience: f32,
    /// Samples drawn at temperatures above 0; the most probable one counts.
    pub best_of: usize,
    /// Exponent of the length by which a hypothesis' log-probability is divided; 0 does not.
    pub length_penalty: f32,
    /// What the score of a token already said is divided by; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Sequences of so many tokens may not occur twice; 0 allows all.
    pub no_repeat_ngram_size: usize,
    /// Temperatures to try in turn until the text is acceptable; never empty.
    pub temperatures: Vec<f32>,
    /// Text that compresses better than this (bytes by deflated bytes) repeats itself and is decoded again.
    pub max_compression_ratio: f32,
    /// Text with a lower mean log-probability is decoded again.
    pub min_logprob: f32,
    /// With a higher probability of no speech and an improbable text, the window is silent.
    pub max_no_speech_prob: f32,
    /// The latest that the first segment may begin, in timestamp tokens of 20 ms.
    pub max_initial_timestamp: usize,
    /// What to write.
    pub task: Task,
    /// Text in whose manner the model goes on: spelling of names, punctuation. Empty: none.
    pub initial_prompt: String,
    /// Words to expect. Empty: none.
    pub hotwords: String,
    /// Whether a window is told what was said before it: steadier spelling, but one loop infects the rest, and a file's
    /// windows wait for each other.
    pub carry_over: bool,
    /// Codes that detection may choose from; empty: all that the model knows.
    pub languages: Vec<String>,
    /// Below this probability a detected language is a guess, and the rest of the file decides.
    pub language_threshold: f32,
    /// Whether each word gets its time.
    pub word_times: bool,
}

impl Default for DecodeOptions {
    /// The values of OpenAI's `transcribe.py`, without carry-over.
    fn default() -> Self {
        Self {
            beam_size: 5,
            patience: 1.0,
            best_of: 5,
            length_penalty: 1.0,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            max_compression_ratio: 2.4,
            min_logprob: -1.0,
            max_no_speech_prob: 0.6,
            max_initial_timestamp: 50,
            task: Task::default(),
            initial_prompt: String::new(),
            hotwords: String::new(),
            carry_over: false,
            languages: Vec::new(),
            language_threshold: 0.5,
            word_times: false,
        }
    }
}

/// What was said in a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowText {
    /// Language code (`en`, `es`, …) of what is said, also where it was translated.
    pub language: String,
    /// Probability of the language; 1 where it was given.
    pub language_prob: f32,
    /// Stretches of text in the order said; empty where the model wrote nothing.
    pub segments: Vec<TimedText>,
    /// Mean log-probability of the tokens, the end of text counted as one.
    pub avg_logprob: f32,
    /// Probability that nobody speaks.
    pub no_speech_prob: f32,
    /// Bytes of the text by bytes of the deflated text.
    pub compression_ratio: f32,
    /// Temperature at which this text was decoded.
    pub temperature: f32,
}

/// Text with its time within the window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimedText {
    /// Start, in milliseconds from the window's start.
    pub start_ms: u32,
    /// End; `None` where the window ended before the text.
    pub end_ms: Option<u32>,
    /// Trimmed; never empty.
    pub text: String,
    /// Its words with their times; empty where they are not asked for or could not be found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<TimedWord>,
}

/// A word with its time within the window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimedWord {
    /// Start, in milliseconds from the window's start.
    pub start_ms: u32,
    /// End, never before the start.
    pub end_ms: u32,
    /// The word as it stands in the text, with the space before it where there is one.
    pub text: String,
    /// Mean probability of its tokens.
    pub prob: f32,
}

/// The engine could not transcribe a batch.
#[derive(Clone, Debug, Error)]
pub enum EngineError {
    /// The device or the host has too little memory for this batch; a smaller one may do.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// A loaded model. Calls block, and may come from several threads at once.
pub trait Engine: Send + Sync {
    /// The model's name.
    fn name(&self) -> &str;

    /// What [`Input::sound`] must be.
    fn input(&self) -> InputKind;

    /// Codes of the languages it can write; `["en"]` for an English-only model.
    fn languages(&self) -> &[String];

    /// Decodes `batch` at `temperature` (0: beam search; above: the best of some samples); one text for each window, in
    /// order.
    ///
    /// # Errors
    /// Where the model fails as a whole. A window that is hard to understand is no error.
    fn transcribe(
        &self,
        batch: &[Input<'_>],
        temperature: f32,
        options: &DecodeOptions,
    ) -> Result<Vec<WindowText>, EngineError>;
}

/// A model that is ready to work, and what is known about it.
pub struct Loaded {
    /// The model.
    pub engine: Box<dyn Engine>,
    /// How it is run, and why.
    pub plan: Plan,
    /// Engine, model, size and precision: texts of models with another identity are not mixed.
    pub identity: String,
    /// What may take its place where memory does not suffice for a single window, in order.
    pub fallbacks: Vec<Fallback>,
}

/// Another way to run the same model, loaded only when it is needed.
pub struct Fallback {
    /// Device and precision, for people.
    pub label: String,
    /// Loads it.
    pub load: LoadEngine,
}

/// Loads an engine; the message of the error is for people.
pub type LoadEngine = Box<dyn FnOnce() -> Result<Box<dyn Engine>, String> + Send>;

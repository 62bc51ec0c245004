//! What a speech recogniser is to this program: spectrograms in, timed text out.

use thiserror::Error;

/// Milliseconds from one timestamp token to the next.
pub const TIMESTAMP_MS: u32 = 20;

/// One window to transcribe.
#[derive(Clone, Copy, Debug)]
pub struct MelWindow<'a> {
    /// Log-mel spectrogram, `n_mels` bands of 3000 frames each, band after band.
    pub mel: &'a [f32],
    /// The language, where it is known; `None` lets the engine detect it.
    pub language: Option<&'a str>,
}

/// How text is decoded, the same for every window.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeOptions {
    /// Hypotheses that beam search follows at temperature 0; 1 is greedy search.
    pub beam_size: usize,
    /// Samples drawn at temperatures above 0; the most probable one counts.
    pub best_of: usize,
    /// Temperatures to try in turn until the text is acceptable.
    pub temperatures: Vec<f32>,
    /// Text that compresses better than this (bytes by deflated bytes) repeats itself and is decoded again.
    pub max_compression_ratio: f32,
    /// Text with a lower mean log-probability is decoded again.
    pub min_logprob: f32,
    /// With a higher probability of no speech and an improbable text, the window is silent.
    pub max_no_speech_prob: f32,
    /// The latest that the first segment may begin, in timestamp tokens of 20 ms.
    pub max_initial_timestamp: usize,
}

impl Default for DecodeOptions {
    /// The values of OpenAI's `transcribe.py`.
    fn default() -> Self {
        Self {
            beam_size: 5,
            best_of: 5,
            temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            max_compression_ratio: 2.4,
            min_logprob: -1.0,
            max_no_speech_prob: 0.6,
            max_initial_timestamp: 50,
        }
    }
}

/// What was said in a window.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowText {
    /// Language code (`en`, `es`, …).
    pub language: String,
    /// Probability of the language; 1 where it was given.
    pub language_prob: f32,
    /// Stretches of text in the order said; empty where nothing was said.
    pub segments: Vec<TimedText>,
    /// Mean log-probability of the tokens.
    pub avg_logprob: f32,
    /// Probability that nobody speaks.
    pub no_speech_prob: f32,
    /// Bytes of the text by bytes of the deflated text.
    pub compression_ratio: f32,
    /// Temperature at which this text was accepted.
    pub temperature: f32,
}

/// Text with its time within the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimedText {
    /// Start, in milliseconds from the window's start.
    pub start_ms: u32,
    /// End; `None` where the window ended before the text.
    pub end_ms: Option<u32>,
    /// Trimmed; never empty.
    pub text: String,
}

/// The engine could not transcribe a batch.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// A loaded model. Calls block, and may come from several threads at once.
pub trait Engine: Send + Sync {
    /// The model's name.
    fn name(&self) -> &str;

    /// Mel bands that [`MelWindow::mel`] must have.
    fn n_mels(&self) -> usize;

    /// Codes of the languages it can write; `["en"]` for an English-only model.
    fn languages(&self) -> &[String];

    /// Transcribes `batch`; one text for each window, in order.
    ///
    /// # Errors
    /// Where the model fails as a whole. A window that is hard to understand is no error.
    fn transcribe(
        &self,
        batch: &[MelWindow<'_>],
        options: &DecodeOptions,
    ) -> Result<Vec<WindowText>, EngineError>;
}

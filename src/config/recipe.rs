//! What a profile of transcription makes of the settings that are left to it.

use serde::Serialize;

use super::{Config, Resolution, WhisperProfile};

/// The settings that [`WhisperProfile`] and other settings decide, all with a value. Fields are called as their keys.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// Beams of the search at temperature 0; 1 is greedy.
    pub beam_size: usize,
    /// The search ends when this times `beam_size` texts are complete.
    pub patience: f64,
    /// Samples drawn at a temperature above 0.
    pub best_of: usize,
    /// Exponent of the length by which a text's log-probability is divided.
    pub length_penalty: f64,
    /// What the score of a token already said is divided by; 1 changes nothing.
    pub repetition_penalty: f64,
    /// Sequences of so many tokens occur once in a window; 0 allows all.
    pub no_repeat_ngram_size: usize,
    /// Temperatures to try in turn, rising.
    pub temperature: Vec<f64>,
    /// With a higher probability of no speech and an improbable text, a window is silent.
    pub no_speech_threshold: f64,
    /// Text with a lower mean log-probability is tried again.
    pub logprob_threshold: f64,
    /// Text that compresses better (bytes by deflated bytes) is tried again.
    pub compression_ratio_threshold: f64,
    /// Probability above which a frame counts as speech.
    pub vad_threshold: f64,
    /// Probability from which a frame begins speech.
    pub vad_onset: f64,
    /// Probability below which a frame may end it.
    pub vad_offset: f64,
    /// Speech shorter than this is dropped, milliseconds.
    pub vad_min_speech_ms: u32,
    /// Silence shorter than this does not end speech, milliseconds.
    pub vad_min_silence_ms: u32,
    /// Added at both ends of speech, milliseconds.
    pub vad_pad_ms: u32,
    /// Longest window, seconds.
    pub chunk_length: u32,
    /// Longest segment of a transcript, seconds.
    pub segment_max_seconds: u32,
}

/// How far below the threshold speech ends; as in Silero's reference code and in `SpeechOptions`.
const HYSTERESIS: f64 = 0.15;

/// Where speech begins and ends with this threshold, to three decimals.
fn around(threshold: f64) -> (f64, f64) {
    (threshold, ((threshold - HYSTERESIS).max(0.0) * 1000.0).round() / 1000.0)
}

/// Seconds of the longest segment: a long sentence read slowly, or one window of the model.
fn longest(resolution: Resolution) -> u32 {
    match resolution {
        Resolution::Sentence => 15,
        Resolution::Chunk => 30,
    }
}

impl WhisperProfile {
    /// What this profile says where nothing else is set.
    pub fn recipe(self) -> Recipe {
        // Search, temperatures and thresholds are those of OpenAI's `transcribe.py`; the speech detector's are its own
        // (`SpeechOptions`).
        let balanced = Recipe {
            beam_size: 5,
            patience: 1.0,
            best_of: 5,
            length_penalty: 1.0,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            temperature: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            no_speech_threshold: 0.6,
            logprob_threshold: -1.0,
            compression_ratio_threshold: 2.4,
            vad_threshold: 0.5,
            vad_onset: 0.5,
            vad_offset: 0.35,
            vad_min_speech_ms: 96,
            vad_min_silence_ms: 160,
            vad_pad_ms: 200,
            chunk_length: 30,
            segment_max_seconds: longest(Resolution::Sentence),
        };
        match self {
            Self::Fast => Recipe { beam_size: 1, ..balanced },
            Self::Balanced => balanced,
            // What the detector takes for speech too often, the guards take out again; what it misses is lost.
            Self::Quality => Recipe {
                beam_size: 10,
                patience: 2.0,
                best_of: 10,
                vad_threshold: 0.3,
                vad_onset: 0.3,
                vad_offset: 0.15,
                vad_min_speech_ms: 48,
                vad_pad_ms: 400,
                ..balanced
            },
        }
    }
}

impl Config {
    /// The settings that the profile decides, in effect: what is set, and what the profile says for the rest.
    pub fn recipe(&self) -> Recipe {
        let profile = self.whisper_profile.recipe();
        let vad_threshold = self.vad_threshold.unwrap_or(profile.vad_threshold);
        let (onset, offset) = around(vad_threshold);
        Recipe {
            beam_size: self.beam_size.unwrap_or(profile.beam_size),
            patience: self.patience.unwrap_or(profile.patience),
            best_of: self.best_of.unwrap_or(profile.best_of),
            length_penalty: self.length_penalty.unwrap_or(profile.length_penalty),
            repetition_penalty: self.repetition_penalty.unwrap_or(profile.repetition_penalty),
            no_repeat_ngram_size: self.no_repeat_ngram_size.unwrap_or(profile.no_repeat_ngram_size),
            temperature: self.temperature.clone().unwrap_or(profile.temperature),
            no_speech_threshold: self.no_speech_threshold.unwrap_or(profile.no_speech_threshold),
            logprob_threshold: self.logprob_threshold.unwrap_or(profile.logprob_threshold),
            compression_ratio_threshold: self
                .compression_ratio_threshold
                .unwrap_or(profile.compression_ratio_threshold),
            vad_threshold,
            vad_onset: self.vad_onset.unwrap_or(onset),
            vad_offset: self.vad_offset.unwrap_or(offset),
            vad_min_speech_ms: self.vad_min_speech_ms.unwrap_or(profile.vad_min_speech_ms),
            vad_min_silence_ms: self.vad_min_silence_ms.unwrap_or(profile.vad_min_silence_ms),
            vad_pad_ms: self.vad_pad_ms.unwrap_or(profile.vad_pad_ms),
            chunk_length: self.chunk_length.unwrap_or(profile.chunk_length),
            segment_max_seconds: self.segment_max_seconds.unwrap_or(longest(self.segment_resolution)),
        }
    }
}

//! Whisper on whisper.cpp.
//!
//! The weights are loaded once; each replica is a state of its own with its own working memory. whisper.cpp takes one window at
//! a time, so a batch is worked off window by window on whichever state is free.
//!
//! Its program for whole files ("full") is used for one window, one temperature, no context, and stopped after the first pass
//! of its sliding window: everything it would do beyond that (falling back to other temperatures, going on where the text
//! ended, dropping silence) is the feeder's business, the same for all engines.

mod file;
mod load;
mod log;
mod model;
mod states;
mod vocabulary;
mod words;

use std::ffi::{c_int, c_void};
use std::fmt;

use whisper_rs::{
    FullParams, SamplingStrategy, WhisperContext, WhisperState, WhisperSysContext, WhisperSysState,
};

use super::{
    engine::{DecodeOptions, Engine, EngineError, Input, InputKind, Sound, Task, WindowText},
    engines::EngineInfo,
    quality::compression_ratio,
};
use states::States;
use vocabulary::Vocabulary;

/// This engine, for the table of engines.
pub static INFO: EngineInfo = EngineInfo {
    name: "whisper-cpp",
    about: "whisper.cpp: GGML models, also quantised to 5 or 8 bits",
    names: model::known_names,
    recognises: model::recognises,
    resolve: model::resolve,
    check: |model| file::Header::read(&model.path).map(drop),
    open: load::open,
};

/// Hypotheses that whisper.cpp can follow at once (`WHISPER_MAX_DECODERS`).
const MAX_DECODERS: usize = 8;

/// Samples of a window.
const WINDOW: usize = 480_000;

/// A Whisper model loaded by whisper.cpp.
pub struct WhisperCpp {
    name: String,
    context: WhisperContext,
    states: States,
    vocabulary: Vocabulary,
    languages: Vec<String>,
    multilingual: bool,
    threads: usize,
    /// Whether the model was loaded with what word times need.
    aligns: bool,
}

impl fmt::Debug for WhisperCpp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WhisperCpp")
            .field("name", &self.name)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

/// One decoded token.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Token {
    id: usize,
    /// Its probability.
    prob: f32,
    /// When it ends by its attention, milliseconds from the window's start.
    end_ms: Option<u32>,
}

/// One decoded text, before its tokens are cut into segments.
struct Decoded {
    tokens: Vec<Token>,
    avg_logprob: f32,
    no_speech_prob: f32,
}

impl WhisperCpp {
    fn window(
        &self,
        window: &Input<'_>,
        temperature: f32,
        options: &DecodeOptions,
    ) -> Result<WindowText, EngineError> {
        let Sound::Samples(samples) = window.sound else {
            return Err(EngineError::Failed("a window without samples".to_owned()));
        };
        let mut pcm: Vec<f32> = samples.iter().take(WINDOW).map(|&s| f32::from(s) / 32_768.0).collect();
        // Under 0.1 s it does nothing, and it needs at least half an analysis window.
        pcm.resize(pcm.len().max(WINDOW / 30), 0.0);
        let mut taken = self.states.take(&self.context);
        let (language, language_prob) = match window.language {
            _ if !self.multilingual => ("en".to_owned(), 1.0),
            Some(language) => (language.to_owned(), 1.0),
            None => self.detect(taken.state()?, &pcm, &options.languages)?,
        };
        // Its beam search draws candidates by lot, from a generator that lives as long as the state.
        let by_lot = temperature > 0.0 || options.beam_size > 1;
        let state = if by_lot { taken.new_state()? } else { taken.state()? };
        let decoded = self.decode(state, &pcm, window, &language, temperature, options)?;
        drop(taken);
        let mut segments = self.vocabulary.segments(&decoded.tokens);
        if options.word_times && self.aligns {
            words::attach(&mut segments, window.duration_ms, &language);
        }
        let segments: Vec<_> = segments.into_iter().map(|s| s.text).collect();
        let text = segments.iter().map(|s| s.text.as_str()).collect::<Vec<_>>().join(" ");
        Ok(WindowText {
            language,
            language_prob,
            segments,
            avg_logprob: decoded.avg_logprob,
            no_speech_prob: decoded.no_speech_prob,
            compression_ratio: compression_ratio(&text),
            temperature,
        })
    }

    /// Language code and probability.
    fn detect(
        &self,
        state: &mut WhisperState,
        pcm: &[f32],
        allowed: &[String],
    ) -> Result<(String, f32), EngineError> {
        state.pcm_to_mel(pcm, self.threads).map_err(log::failed)?;
        let (_, probabilities) = state.lang_detect(0, self.threads).map_err(log::failed)?;
        let ranked = self.languages.iter().filter_map(|code| {
            let id = whisper_rs::get_lang_id(code)?;
            Some((code.as_str(), *probabilities.get(id as usize)?))
        });
        super::ct2::among(ranked, allowed)
            .ok_or_else(|| EngineError::Failed("no language was detected".to_owned()))
    }

    fn decode(
        &self,
        state: &mut WhisperState,
        pcm: &[f32],
        window: &Input<'_>,
        language: &str,
        temperature: f32,
        options: &DecodeOptions,
    ) -> Result<Decoded, EngineError> {
        let prompt = self.vocabulary.previous(&self.context, window, options);
        let samples = if temperature > 0.0 { options.best_of } else { 1 };
        let strategy = if temperature == 0.0 && options.beam_size > 1 {
            SamplingStrategy::BeamSearch {
                beam_size: options.beam_size.min(MAX_DECODERS) as c_int,
                patience: -1.0,
            }
        } else {
            SamplingStrategy::Greedy { best_of: samples.clamp(1, MAX_DECODERS) as c_int }
        };
        let mut params = FullParams::new(strategy);
        params.set_n_threads(self.threads as c_int);
        params.set_language(Some(language));
        params.set_translate(options.task == Task::Translate);
        params.set_no_context(true);
        params.set_tokens(&prompt);
        params.set_single_segment(true);
        params.set_temperature(temperature);
        params.set_temperature_inc(0.0);
        params.set_max_initial_ts(options.max_initial_timestamp as f32 * 0.02);
        // It knows the mean log-probability (any negative number) or Google's penalty.
        params.set_length_penalty(if options.length_penalty == 1.0 { -1.0 } else { options.length_penalty });
        params.set_suppress_blank(true);
        params.set_suppress_nst(true);
        // What it would drop is for the feeder to judge.
        params.set_no_speech_thold(2.0);
        params.set_entropy_thold(0.0);
        params.set_print_special(false);
        params.set_print_progress(false);
        params.set_print_realtime(false);
        params.set_print_timestamps(false);
        let mut passes: u32 = 0;
        // SAFETY: the callback has the type that is asked for and does not unwind; its data outlives the call below, the
        // only one that uses `params`, and nothing else touches it meanwhile.
        unsafe {
            params.set_start_encoder_callback(Some(first_pass_only));
            params.set_start_encoder_callback_user_data((&raw mut passes).cast());
        }
        state.full(params, pcm).map_err(log::failed)?;
        Ok(self.read(state))
    }

    /// What the state holds after decoding.
    fn read(&self, state: &WhisperState) -> Decoded {
        let Some(segment) = state.get_segment(0) else {
            return Decoded { tokens: Vec::new(), avg_logprob: 0.0, no_speech_prob: 1.0 };
        };
        let mut tokens = Vec::new();
        let mut sum = 0.0;
        for token in (0..segment.n_tokens()).filter_map(|i| segment.get_token(i)) {
            let data = token.token_data();
            sum += data.plog;
            let end_ms = u32::try_from(data.t_dtw).ok().map(|hundredths| 10 * hundredths);
            if let Ok(id) = usize::try_from(data.id)
                && id != self.vocabulary.end_of_text
            {
                tokens.push(Token { id, prob: data.p, end_ms });
            }
        }
        // OpenAI counts the end of text as one more token.
        let avg_logprob = sum / (tokens.len() + 1) as f32;
        Decoded { tokens, avg_logprob, no_speech_prob: segment.no_speech_probability() }
    }
}

/// Lets whisper.cpp encode once: a second time would be a second window, which it begins where the text of the first ended.
unsafe extern "C" fn first_pass_only(
    _context: *mut WhisperSysContext,
    _state: *mut WhisperSysState,
    passes: *mut c_void,
) -> bool {
    // SAFETY: whoever installs this passes a valid `u32`, and whisper.cpp calls it on the thread of the call.
    let passes = unsafe { &mut *passes.cast::<u32>() };
    *passes += 1;
    *passes == 1
}

impl Engine for WhisperCpp {
    fn name(&self) -> &str {
        &self.name
    }

    fn input(&self) -> InputKind {
        InputKind::Samples
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
        batch.iter().map(|window| self.window(window, temperature, options)).collect()
    }
}

#[cfg(test)]
mod tests;

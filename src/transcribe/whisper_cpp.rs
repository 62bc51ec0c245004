//! Whisper on whisper.cpp.
//!
//! The weights are loaded once; each replica is a state of its own with its own working memory. whisper.cpp takes one window at
//! a time, so a batch is worked off window by window on whichever state is free.
//!
//! Greedy search and sampling are done here, token by token ([`decode`]). For beam search and word times whisper.cpp's program
//! for whole files ("full") is used, with one window, one temperature, no context, and stopped after the first pass of its
//! sliding window: everything it would do beyond that (falling back to other temperatures, going on where the text ended,
//! dropping silence) is the feeder's business, the same for all engines. Its beam search knows no patience, and draws its
//! candidates by lot; where the language is not given, the window is encoded a second time for it.

mod decode;
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
    ct2::among,
    engine::{DecodeOptions, Engine, EngineError, Input, InputKind, Sound, Task, WindowText},
    engines::EngineInfo,
    quality::compression_ratio,
};
use decode::{Forward, Rules, decode, log_sum_exp};
use states::{States, Taken};
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
    rules: Rules,
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
        // It needs some sound to begin with.
        pcm.resize(pcm.len().max(WINDOW / 30), 0.0);
        let aligns = options.word_times && self.aligns;
        // Several hypotheses at once, and attention, only whisper.cpp's own program has.
        let full = aligns || (temperature == 0.0 && options.beam_size > 1);
        let (language, language_prob, decoded) = self.decoded(window, &pcm, full, temperature, options)?;
        let mut segments = self.vocabulary.segments(&decoded.tokens);
        if aligns {
            words::attach(&mut segments, window);
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

    /// Language, its probability, and the text.
    fn decoded(
        &self,
        window: &Input<'_>,
        pcm: &[f32],
        full: bool,
        temperature: f32,
        options: &DecodeOptions,
    ) -> Result<(String, f32, Decoded), EngineError> {
        let previous = self.vocabulary.previous(&self.context, window, options);
        let given = match window.language {
            _ if !self.multilingual => Some("en"),
            given => given,
        };
        let mut taken = self.states.take(&self.context);
        if full && let Some(language) = given {
            let decoded = self.full(&mut taken, pcm, &previous, language, temperature, options)?;
            return Ok((language.to_owned(), 1.0, decoded));
        }
        let mut heard = self.hear(taken.state()?, pcm)?;
        let mut no_speech_prob = heard.begin(&self.vocabulary)?;
        let (language, prob) = match given {
            Some(language) => (language.to_owned(), 1.0),
            None => self.detect(heard.scores()?, &options.languages)?,
        };
        let decoded = if full {
            self.full(&mut taken, pcm, &previous, &language, temperature, options)?
        } else {
            if !previous.is_empty() {
                no_speech_prob = heard.begin_after(&previous, &self.vocabulary)?;
            }
            self.text(&mut heard, &language, temperature, options)?
        };
        Ok((language, prob, Decoded { no_speech_prob, ..decoded }))
    }

    /// Decodes with whisper.cpp's own program, which encodes the window first.
    fn full(
        &self,
        taken: &mut Taken<'_>,
        pcm: &[f32],
        previous: &[usize],
        language: &str,
        temperature: f32,
        options: &DecodeOptions,
    ) -> Result<Decoded, EngineError> {
        let previous: Vec<c_int> = previous.iter().map(|&t| t as c_int).collect();
        // Its beam search draws candidates by lot, from a generator that lives as long as the state.
        let state = taken.new_state()?;
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
        params.set_tokens(&previous);
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

    /// Encodes the window.
    fn hear<'a>(&self, state: &'a mut WhisperState, pcm: &[f32]) -> Result<Heard<'a>, EngineError> {
        state.pcm_to_mel(pcm, self.threads).map_err(log::failed)?;
        state.encode(0, self.threads).map_err(log::failed)?;
        Ok(Heard { state, threads: self.threads, past: 0 })
    }

    /// Language code and probability, from the decoder's answer to the start of a text.
    fn detect(&self, scores: &[f32], allowed: &[String]) -> Result<(String, f32), EngineError> {
        let scored: Vec<(&str, f32)> = self
            .languages
            .iter()
            .filter_map(|code| Some((code.as_str(), *scores.get(self.vocabulary.language(code)?)?)))
            .collect();
        let all = log_sum_exp(&scored.iter().map(|(_, score)| *score).collect::<Vec<_>>());
        among(scored.into_iter().map(|(code, score)| (code, (score - all).exp())), allowed)
            .ok_or_else(|| EngineError::Failed("no language was detected".to_owned()))
    }

    /// Decodes what follows the start of the text.
    fn text(
        &self,
        heard: &mut Heard<'_>,
        language: &str,
        temperature: f32,
        options: &DecodeOptions,
    ) -> Result<Decoded, EngineError> {
        let steering = &self.vocabulary.steering;
        if self.multilingual {
            let unknown =
                || EngineError::Failed(format!("the model does not know the language {language:?}"));
            let task = match options.task {
                Task::Transcribe => steering.transcribe,
                Task::Translate => steering.translate,
            };
            heard.keep(&[self.vocabulary.language(language).ok_or_else(unknown)?, task])?;
        }
        let first = heard.scores()?.to_vec();
        let past = heard.past;
        let text = decode(heard, &self.rules, past, &first, temperature, options)?;
        let avg_logprob = text.logprob / (text.tokens.len() + 1) as f32;
        let tokens = text.tokens.into_iter().map(|(id, prob)| Token { id, prob, end_ms: None }).collect();
        Ok(Decoded { tokens, avg_logprob, no_speech_prob: 0.0 })
    }

    /// What the state holds after [`Self::full`].
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

/// A state that has heard a window: the decoder can be asked.
struct Heard<'a> {
    state: &'a mut WhisperState,
    threads: usize,
    /// Tokens the decoder has been given, and will not forget.
    past: usize,
}

impl Heard<'_> {
    /// What the decoder answered last.
    fn scores(&self) -> Result<&[f32], EngineError> {
        self.state.get_logits().map_err(log::failed)
    }

    /// Gives the decoder one more token or more to keep.
    fn keep(&mut self, tokens: &[usize]) -> Result<(), EngineError> {
        let past = self.past;
        self.next(tokens, past)?;
        self.past += tokens.len();
        Ok(())
    }

    /// Begins the text; the probability that nobody speaks, which is asked at that place.
    fn begin(&mut self, vocabulary: &Vocabulary) -> Result<f32, EngineError> {
        self.past = 0;
        self.keep(&[vocabulary.steering.start])?;
        self.no_speech_prob(vocabulary)
    }

    /// Begins the text again, after what was said before; the probability that nobody speaks.
    fn begin_after(&mut self, previous: &[usize], vocabulary: &Vocabulary) -> Result<f32, EngineError> {
        self.past = 0;
        self.keep(&[vocabulary.steering.previous])?;
        self.keep(previous)?;
        self.keep(&[vocabulary.steering.start])?;
        self.no_speech_prob(vocabulary)
    }

    fn no_speech_prob(&self, vocabulary: &Vocabulary) -> Result<f32, EngineError> {
        let scores = self.scores()?;
        Ok((scores[vocabulary.steering.no_speech] - log_sum_exp(scores)).exp())
    }
}

impl Forward for Heard<'_> {
    fn next(&mut self, tokens: &[usize], past: usize) -> Result<&[f32], EngineError> {
        let ids: Vec<c_int> = tokens.iter().map(|&t| t as c_int).collect();
        let Some((last, before)) = ids.split_last() else {
            return Err(EngineError::Failed("nothing to decode".to_owned()));
        };
        // Of several tokens at once it gives the answer to the first.
        if !before.is_empty() {
            self.state.decode(before, past, self.threads).map_err(log::failed)?;
        }
        self.state.decode(&[*last], past + before.len(), self.threads).map_err(log::failed)?;
        self.scores()
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

//! One file on its way through the pool: its windows go out, their texts come back in any order, and the transcript is
//! put together when the last one is there.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::{
    clock::{Clock, millis},
    engine::WindowText,
};
use crate::event::Progress;
use crate::media::{Audio, Failure, FailureClass, SAMPLE_RATE, Segment, Transcript};
use crate::speech::{Span, Window};

/// Told once when a file is finished, whatever became of it.
pub type OnDone = Box<dyn FnOnce(Result<Transcript, Failure>) + Send>;

/// Below this probability the detected language of a window is a guess.
const SURE_OF_LANGUAGE: f32 = 0.5;

/// With less speech than this, the language must be surer.
const LITTLE_SPEECH: u64 = 3 * SAMPLE_RATE as u64;
const SURE_WITH_LITTLE_SPEECH: f32 = 0.9;

/// A file whose windows are in the pool.
pub(super) struct Job {
    /// Number of the file; earlier files have lower ones.
    pub file: u64,
    pub audio: Audio,
    pub cancel: CancellationToken,
    model: String,
    state: Mutex<State>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("file", &self.file).finish_non_exhaustive()
    }
}

struct State {
    pieces: Vec<Piece>,
    /// No more windows will come.
    cut: bool,
    /// Windows that are out and not back.
    out: usize,
    /// Uncertain languages were looked at again.
    revised: bool,
    /// End of the latest window that was cut, in samples.
    covered: u64,
    /// Samples whose transcription is finished.
    done: u64,
    progress: Progress,
    on_done: Option<OnDone>,
}

/// A window without its samples.
#[derive(Debug)]
struct Piece {
    clock: Clock,
    /// What this window adds to the progress: the time from the end of the window before to its own.
    covers: u64,
    text: Option<WindowText>,
}

/// A window to do again, in the language of the rest of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Again {
    pub index: usize,
    /// The stretches of the file that it consists of.
    pub pieces: Vec<Span>,
    pub language: String,
}

impl Job {
    pub fn new(
        file: u64,
        audio: Audio,
        model: String,
        cancel: CancellationToken,
        progress: Progress,
        on_done: OnDone,
    ) -> Self {
        let state = State {
            pieces: Vec::new(),
            cut: false,
            out: 0,
            revised: false,
            covered: 0,
            done: 0,
            progress,
            on_done: Some(on_done),
        };
        Self { file, audio, cancel, model, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True once nothing more needs to be done for this file.
    pub fn is_over(&self) -> bool {
        self.lock().on_done.is_none()
    }

    /// Notes a window that is about to go out; its index.
    pub fn add(&self, window: &Window) -> usize {
        let mut state = self.lock();
        let end = window.end_sample();
        let covers = end.saturating_sub(state.covered);
        state.covered = end;
        state.pieces.push(Piece { clock: Clock::new(window), covers, text: None });
        state.out += 1;
        state.pieces.len() - 1
    }

    /// Says that every window is out. `true` where the file is complete with that.
    pub fn all_cut(&self) -> bool {
        let mut state = self.lock();
        state.cut = true;
        state.out == 0
    }

    /// Takes a window's text. `true` where it was the last one. A window that could not be done again (`None`) keeps
    /// the text it had.
    pub fn returned(&self, index: usize, text: Option<WindowText>) -> bool {
        let mut state = self.lock();
        let first_time = !state.revised;
        if let Some(piece) = state.pieces.get_mut(index) {
            if text.is_some() {
                piece.text = text;
            }
            if first_time {
                let covers = piece.covers;
                state.done += covers;
                let (done, total) = (millis(state.done), millis(self.audio.samples));
                state.progress.set(done.min(total), Some(total));
            }
        }
        state.out -= 1;
        state.cut && state.out == 0
    }

    /// After the last text: the windows whose language was a guess that differs from the language of most of the
    /// file's speech. They count as being out. Nothing the second time.
    ///
    /// Deciding this when all is known, and not as windows come back, makes the result independent of their order.
    pub fn revise(&self, known: &dyn Fn(&str) -> bool) -> Vec<Again> {
        let mut state = self.lock();
        if state.revised || state.on_done.is_none() {
            return Vec::new();
        }
        state.revised = true;
        let Some(language) = majority(&state.pieces, true).filter(|l| known(l)) else {
            return Vec::new();
        };
        let again: Vec<Again> = state
            .pieces
            .iter()
            .enumerate()
            .filter(|(_, p)| {
                p.text.as_ref().is_some_and(|t| !sure(t, p.clock.speech_samples()) && t.language != language)
            })
            .map(|(index, p)| Again { index, pieces: p.clock.pieces.clone(), language: language.clone() })
            .collect();
        state.out += again.len();
        again
    }

    /// Puts the transcript together and tells it.
    pub fn complete(&self) {
        let (on_done, result) = {
            let mut state = self.lock();
            let Some(on_done) = state.on_done.take() else { return };
            let total = millis(self.audio.samples);
            state.progress.set(total, Some(total));
            (on_done, self.transcript(&state.pieces))
        };
        tell(on_done, result);
    }

    /// Gives the file up; only the first failure counts.
    pub fn fail(&self, failure: Failure) {
        let on_done = self.lock().on_done.take();
        if let Some(on_done) = on_done {
            tell(on_done, Err(failure));
        }
    }

    fn transcript(&self, pieces: &[Piece]) -> Result<Transcript, Failure> {
        let duration_ms = self.audio.duration_ms();
        let length = clock(duration_ms);
        if pieces.is_empty() {
            let message = if self.audio.samples == 0 {
                "the audio is empty".to_owned()
            } else {
                format!("no speech was found in {length} of audio")
            };
            return Err(Failure::new(FailureClass::NoSpeech, message));
        }
        let segments = segments(pieces, self.audio.offset_ms);
        let speech_ms = millis(pieces.iter().map(|p| p.clock.speech_samples()).sum()) as i64;
        if segments.is_empty() {
            return Err(Failure::new(
                FailureClass::NoSpeech,
                format!(
                    "{} of {length} sounded like speech, but the model heard no words in it",
                    clock(speech_ms)
                ),
            ));
        }
        let language = majority(pieces, false).unwrap_or_else(|| segments[0].language.clone());
        Ok(Transcript { segments, language, duration_ms, speech_ms, model: self.model.clone() })
    }
}

/// Tells the pipeline. Its code runs on a feeder, which must outlive a panic in it.
fn tell(on_done: OnDone, result: Result<Transcript, Failure>) {
    if catch_unwind(AssertUnwindSafe(|| on_done(result))).is_err() {
        tracing::error!("the receiver of a transcript panicked");
    }
}

fn sure(text: &WindowText, speech: u64) -> bool {
    text.language_prob >= if speech < LITTLE_SPEECH { SURE_WITH_LITTLE_SPEECH } else { SURE_OF_LANGUAGE }
}

/// The language of most of the speech that has text; only of windows that are sure of theirs where `only_sure` (all
/// of them, weighted by probability, where none is).
fn majority(pieces: &[Piece], only_sure: bool) -> Option<String> {
    let mut votes: BTreeMap<&str, f64> = BTreeMap::new();
    let mut guesses: BTreeMap<&str, f64> = BTreeMap::new();
    for piece in pieces {
        let Some(text) = piece.text.as_ref().filter(|t| !t.segments.is_empty()) else { continue };
        let votes =
            if only_sure && !sure(text, piece.clock.speech_samples()) { &mut guesses } else { &mut votes };
        *votes.entry(&text.language).or_default() +=
            piece.clock.speech_samples() as f64 * f64::from(text.language_prob);
    }
    let votes = if votes.is_empty() { guesses } else { votes };
    votes.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(language, _)| language.to_owned())
}

/// The texts of all windows on the player's clock, in order and without overlap.
fn segments(pieces: &[Piece], offset_ms: i64) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut last_end = 0;
    for piece in pieces {
        let Some(text) = &piece.text else { continue };
        for timed in &text.segments {
            let start = piece.clock.start(timed.start_ms).max(last_end);
            let end =
                timed.end_ms.map_or_else(|| piece.clock.speech_end(), |end| piece.clock.end(end)).max(start);
            last_end = end;
            segments.push(Segment {
                start_ms: start + offset_ms,
                end_ms: end + offset_ms,
                text: timed.text.clone(),
                language: text.language.clone(),
                avg_logprob: text.avg_logprob,
                no_speech_prob: text.no_speech_prob,
            });
        }
    }
    segments
}

/// `1:02:03`, `4:05`, or `0.8 s` where it is short.
fn clock(ms: i64) -> String {
    let s = ms / 1000;
    match s {
        0..10 => format!("{}.{} s", s, ms % 1000 / 100),
        10..60 => format!("{s} s"),
        60..3600 => format!("{}:{:02}", s / 60, s % 60),
        _ => format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60),
    }
}

#[cfg(test)]
mod tests;

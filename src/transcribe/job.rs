//! One file on its way through the pool: its windows go out, their texts come back in any order, and the transcript is
//! put together when the last one is there.
//!
//! Before that some windows go out again: first those whose language was a guess, in the language of the rest of the
//! file; then the stretches of speech that have no text, cut by themselves. Deciding this when all is known, and not as
//! windows come back, makes the result independent of their order.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    assemble::{self, Piece, Rules},
    believed::Believed,
    checkpoint::{Recording, WindowKey, window_key},
    clock::{Clock, millis},
    engine::WindowText,
};
use crate::event::Progress;
use crate::media::{Audio, Failure, Transcript};
use crate::speech::{Span, Window};

/// Told once when a file is finished, whatever became of it.
pub type OnDone = Box<dyn FnOnce(Result<Transcript, Failure>) + Send>;

/// How often somebody who waits for a window's text looks whether the file is given up.
const GIVE_UP_CHECK: Duration = Duration::from_millis(100);

/// Text decoded at a higher temperature than this is too wild to be carried over (as in OpenAI's `transcribe.py`).
const CALM: f32 = 0.5;

/// A file whose windows are in the pool.
pub(super) struct Job {
    /// Number of the file; earlier files have lower ones.
    pub file: u64,
    pub audio: Audio,
    pub cancel: CancellationToken,
    model: String,
    /// Spoken in this file, where that was asked for; the rules' otherwise.
    language: Option<String>,
    /// What was finished before, and where what is finished now is kept.
    recording: Option<Recording>,
    /// What another model made of it and is believed.
    believed: Option<Arc<Believed>>,
    state: Mutex<State>,
    /// A text has come back, or the file is over.
    came_back: Condvar,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("file", &self.file).finish_non_exhaustive()
    }
}

struct State {
    pieces: Vec<Piece>,
    /// What each piece is kept under.
    keys: Vec<WindowKey>,
    /// No more windows will come.
    cut: bool,
    /// Windows that are out and not back.
    out: usize,
    round: Round,
    /// End of the latest window that was cut, in samples.
    covered: u64,
    /// Samples whose transcription is finished.
    done: u64,
    /// Windows whose text was known from before.
    known: usize,
    progress: Progress,
    on_done: Option<OnDone>,
}

/// What is done once all windows are back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    First,
    Languages,
    Gaps,
}

/// What is to be done with a file whose windows are all back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// These windows are to be heard; they count as being out.
    Again(Vec<Again>),
    /// There were such windows, and their texts were known.
    Known,
    /// The transcript can be told.
    Complete,
}

/// A window to be heard again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Again {
    pub index: usize,
    /// The stretches of the file that it consists of.
    pub pieces: Vec<Span>,
    pub language: Option<String>,
}

impl Job {
    pub fn new(
        file: u64,
        audio: Audio,
        model: String,
        recording: Option<Recording>,
        cancel: CancellationToken,
        progress: Progress,
        on_done: OnDone,
    ) -> Self {
        let state = State {
            pieces: Vec::new(),
            keys: Vec::new(),
            cut: false,
            out: 0,
            round: Round::First,
            covered: 0,
            done: 0,
            known: 0,
            progress,
            on_done: Some(on_done),
        };
        let language = None;
        Self {
            file,
            audio,
            cancel,
            model,
            language,
            recording,
            believed: None,
            state: Mutex::new(state),
            came_back: Condvar::new(),
        }
    }

    /// The same, in this language whatever the rules say.
    pub fn in_language(self, language: Option<String>) -> Self {
        Self { language, ..self }
    }

    /// The same, windows that are believed as they were left out.
    pub fn believing(self, believed: Option<Arc<Believed>>) -> Self {
        Self { believed, ..self }
    }

    /// The text of a window that need not be heard.
    fn known(&self, key: &WindowKey) -> Option<WindowText> {
        let own = self.recording.as_ref().and_then(|r| r.find(key));
        own.cloned().or_else(|| self.believed.as_ref().and_then(|b| b.take(key)))
    }

    /// The language of the file, where it is given.
    pub fn language<'a>(&'a self, rules: &'a Rules) -> Option<&'a str> {
        self.language.as_deref().or(rules.language.as_deref())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True once nothing more needs to be done for this file.
    pub fn is_over(&self) -> bool {
        self.lock().on_done.is_none()
    }

    /// Notes a window that is about to go out, in the language that is given and after the text `previous`; its index,
    /// or `None` where its text is known from before and it need not go.
    pub fn add(&self, window: &Window, language: Option<&str>, previous: &str) -> Option<usize> {
        let mut state = self.lock();
        let end = window.end_sample();
        let covers = end.saturating_sub(state.covered);
        state.covered = end;
        let key = window_key(&window.pieces, language, previous);
        let text = self.known(&key);
        let known = text.is_some();
        state.pieces.push(Piece { clock: Clock::new(window), covers, gap: false, text });
        state.keys.push(key);
        if known {
            state.known += 1;
            state.advance(covers, &self.audio);
            return None;
        }
        state.out += 1;
        Some(state.pieces.len() - 1)
    }

    /// Says that every window is out. `true` where the file is complete with that.
    pub fn all_cut(&self) -> bool {
        let mut state = self.lock();
        state.cut = true;
        state.out == 0
    }

    /// The text of the window that was added last, once it is back; empty where there is none or it is not fit to be
    /// carried over. `None` where the file is over.
    pub fn text_before(&self) -> Option<String> {
        let mut state = self.lock();
        while state.out > 0 {
            if state.on_done.is_none() || self.cancel.is_cancelled() {
                return None;
            }
            state =
                self.came_back.wait_timeout(state, GIVE_UP_CHECK).unwrap_or_else(PoisonError::into_inner).0;
        }
        let text = state.pieces.last().and_then(|p| p.text.as_ref()).filter(|t| t.temperature <= CALM);
        let words = |t: &WindowText| t.segments.iter().map(|s| s.text.as_str()).collect::<Vec<_>>().join(" ");
        Some(text.map_or_else(String::new, words))
    }

    /// Takes a window's text. `true` where it was the last one. A window that could not be heard again (`None`) keeps
    /// the text it had.
    pub fn returned(&self, index: usize, text: Option<WindowText>) -> bool {
        let mut state = self.lock();
        if let (Some(recording), Some(text), Some(key)) = (&self.recording, &text, state.keys.get(index)) {
            recording.keep(*key, text);
        }
        let first_time = state.round == Round::First;
        if let Some(piece) = state.pieces.get_mut(index) {
            if text.is_some() {
                piece.text = text;
            }
            if first_time {
                let covers = piece.covers;
                state.advance(covers, &self.audio);
            }
        }
        state.out -= 1;
        self.came_back.notify_all();
        state.cut && state.out == 0
    }

    /// What is to be done now that all windows are back.
    pub fn next(&self, rules: &Rules) -> Next {
        let mut state = self.lock();
        if state.on_done.is_none() {
            return Next::Complete;
        }
        let again = loop {
            let again = match state.round {
                Round::First => {
                    state.round = Round::Languages;
                    state.doubtful(self.language(rules), rules)
                }
                Round::Languages => {
                    state.round = Round::Gaps;
                    state.gaps(self.language(rules), rules)
                }
                Round::Gaps => return Next::Complete,
            };
            if !again.is_empty() {
                break again;
            }
        };
        let mut out = Vec::new();
        for window in again {
            let key = window_key(&window.pieces, window.language.as_deref(), "");
            state.keys[window.index] = key;
            match self.known(&key) {
                Some(text) => {
                    state.known += 1;
                    state.pieces[window.index].text = Some(text);
                }
                None => out.push(window),
            }
        }
        state.out += out.len();
        if out.is_empty() { Next::Known } else { Next::Again(out) }
    }

    /// Windows so far, and how many of them were known from before.
    pub fn windows(&self) -> (usize, usize) {
        let state = self.lock();
        (state.pieces.len(), state.known)
    }

    /// Puts the transcript together and tells it.
    pub fn complete(&self, rules: &Rules) {
        let (on_done, result) = {
            let mut state = self.lock();
            let Some(on_done) = state.on_done.take() else { return };
            let total = millis(self.audio.samples);
            state.progress.set(total, Some(total));
            (on_done, assemble::transcript(&state.pieces, &self.audio, &self.model, rules))
        };
        self.came_back.notify_all();
        tell(on_done, result);
    }

    /// Gives the file up; only the first failure counts.
    pub fn fail(&self, failure: Failure) {
        let on_done = self.lock().on_done.take();
        self.came_back.notify_all();
        if let Some(on_done) = on_done {
            tell(on_done, Err(failure));
        }
    }
}

impl State {
    /// Counts the progress of a finished window.
    fn advance(&mut self, covers: u64, audio: &Audio) {
        self.done += covers;
        let (done, total) = (millis(self.done), millis(audio.samples));
        self.progress.set(done.min(total), Some(total));
    }

    /// The windows whose language was a guess that differs from the language of most of the file's speech.
    fn doubtful(&self, given: Option<&str>, rules: &Rules) -> Vec<Again> {
        if given.is_some() {
            return Vec::new();
        }
        let Some(language) =
            assemble::majority(&self.pieces, rules, true).filter(|l| rules.languages.contains(l))
        else {
            return Vec::new();
        };
        let doubtful = |p: &Piece| {
            p.text.as_ref().is_some_and(|t| !assemble::sure(t, &p.clock, rules) && t.language != language)
        };
        self.pieces
            .iter()
            .enumerate()
            .filter(|(_, p)| doubtful(p))
            .map(|(index, p)| Again {
                index,
                pieces: p.clock.pieces.clone(),
                language: Some(language.clone()),
            })
            .collect()
    }

    /// Adds the stretches of speech that have no text as windows of their own.
    fn gaps(&mut self, given: Option<&str>, rules: &Rules) -> Vec<Again> {
        let language = given.map(str::to_owned).or_else(|| assemble::majority(&self.pieces, rules, false));
        let windows = assemble::windows_of_gaps(&self.pieces, rules);
        let mut again = Vec::new();
        for clock in windows {
            let index = self.pieces.len();
            again.push(Again { index, pieces: clock.pieces.clone(), language: language.clone() });
            self.pieces.push(Piece { clock, covers: 0, gap: true, text: None });
            self.keys.push(WindowKey::default());
        }
        again
    }
}

/// Tells the pipeline. Its code runs on a feeder, which must outlive a panic in it.
fn tell(on_done: OnDone, result: Result<Transcript, Failure>) {
    if catch_unwind(AssertUnwindSafe(|| on_done(result))).is_err() {
        tracing::error!("the receiver of a transcript panicked");
    }
}

#[cfg(test)]
mod tests;

//! Whisper over the windows of all files at once.
//!
//! ```text
//! submit (ASR worker) ── speech, windows, log-mel ──►┐
//! submit (ASR worker) ── speech, windows, log-mel ──►│ pool (bounded)   ──► feeder ──► engine ──► good? ──► file complete? ──► on_done
//! submit (ASR worker) ── speech, windows, log-mel ──►┘ earliest file first ► feeder ──► engine      │            │
//!                                                    ▲                                              │ no         │ speech without text
//!                                                    └── again: next temperature, without prompt ◄──┴────────────┘
//! ```
//!
//! [`Transcriber::submit`] runs on its caller's thread and returns when all windows of the file are in the pool.
//! Feeders (one a replica) take batches from it, across files, so that one model is always busy; whichever brings the last text of
//! a file puts its transcript together and calls back. This is the ASR stage as a whole, so it is the one step that
//! uses another: [`crate::speech`], which says where to cut.
//!
//! Where to find what:
//!
//! * how the model is run here, and why: `plan`, `shape` (a model's size), `variables` (its file), `memory` (batches after
//!   memory ran out);
//! * from samples to text: `mel`, then `encoder` and `decoder` with their `kernels` (where the processor suits; else the engine's own);
//! * the engines: the trait in `engine`, their list in `engines`, one file each (`ct2`, `whisper_cpp`), which model in `model`;
//! * who is next: `pool` (batches), `feed` (the feeders, retries), `job` (one file's windows), `checkpoint` (finished ones),
//!   `believed` (those that another model finished well enough);
//! * is it any good: `quality` (one text's figures), `guard` (invented text), `coverage` (speech without text);
//! * the transcript: `tokens`, `clock` (a window's time to the file's), `assemble`.

mod assemble;
mod believed;
mod checkpoint;
mod clock;
mod coverage;
mod ct2;
#[cfg(target_arch = "x86_64")]
mod decoder;
#[cfg(not(target_arch = "x86_64"))]
#[path = "transcribe/decoder/absent.rs"]
mod decoder;
#[cfg(target_arch = "x86_64")]
mod encoder;
#[cfg(not(target_arch = "x86_64"))]
#[path = "transcribe/encoder/absent.rs"]
mod encoder;
mod engine;
mod engines;
mod feed;
mod guard;
mod job;
#[cfg(target_arch = "x86_64")]
mod kernels;
mod mel;
mod memory;
mod model;
mod plan;
mod pool;
mod quality;
mod sentences;
mod shape;
mod tokens;
mod variables;
#[cfg(feature = "whisper-cpp")]
mod whisper_cpp;
mod words;

use std::fmt;
use std::path::PathBuf;
use std::sync::{
    Arc, Mutex, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use std::thread::JoinHandle;
use std::time::Instant;

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::event::{Events, Step};
use crate::media::{Audio, Failure, FailureClass, MediaId};
use crate::speech::{self, SpeechOptions};
use crate::stage::StageMeter;

pub use believed::{Believed, Figures};
pub use checkpoint::CheckpointOptions;
pub use engine::{
    DecodeOptions, Engine, EngineError, Fallback, Input, InputKind, LoadEngine, Loaded, Sound, Task,
    TimedText, TimedWord, WindowText,
};
pub use engines::EngineKind;
pub use guard::{Evidence, GuardOptions, Verdict, judge, judge_window};
pub use job::OnDone;
pub use mel::{FRAMES, LogMel, Scratch};
pub use model::{ModelDir, ModelError, hub::Download};
pub use plan::{Compute, Device, Host, Kernels, OnOutOfMemory, Plan, Wishes};
pub use sentences::{Resolution, SegmentOptions};

use assemble::Rules;
use checkpoint::Checkpoints;
use feed::{Feeder, Hearing, Source};
use job::Job;
use memory::BatchLimit;
use pool::Pool;

/// Batches that may wait in the pool for each feeder: one to take now, one to be complete when that is done. A window
/// is 1 to 1.5 MB of spectrogram, so more would only cost memory.
const BATCHES_AHEAD: usize = 2;

/// How the model is chosen and run.
#[derive(Clone, Debug)]
pub struct TranscribeOptions {
    /// What runs the model.
    pub engine: EngineKind,
    /// A model of that engine's format on this machine (for ct2 a directory, for whisper-cpp a file), a name such as `small` or
    /// `large-v3-turbo`, or `organisation/repository` on the hub.
    pub model: String,
    /// Where fetched models are kept.
    pub models_dir: PathBuf,
    /// Device, precision, replicas, threads, batch.
    pub wishes: Wishes,
    /// Language code of all files; `None` detects it window by window.
    pub language: Option<String>,
    /// Beam search, temperatures, guards.
    pub decode: DecodeOptions,
    /// Speech detection and windows.
    pub speech: SpeechOptions,
    /// What a transcript's segments are, and how long.
    pub segments: SegmentOptions,
    /// Where finished windows are kept; `None` keeps none.
    pub checkpoints: Option<CheckpointOptions>,
}

impl Default for TranscribeOptions {
    fn default() -> Self {
        Self {
            engine: EngineKind::default(),
            model: "small".to_owned(),
            models_dir: PathBuf::from("models"),
            wishes: Wishes::default(),
            language: None,
            decode: DecodeOptions::default(),
            speech: SpeechOptions::default(),
            segments: SegmentOptions::default(),
            checkpoints: None,
        }
    }
}

/// Why transcription cannot start. All are a matter of set-up.
#[derive(Debug, Error)]
pub enum TranscribeError {
    /// The model is not to be had.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device that was asked for is not there.
    #[error("{0}")]
    Device(String),
    /// The model is there, but the engine does not load it.
    #[error("{0}")]
    Load(String),
    /// The model does not know the configured language.
    #[error("model {model} does not know language {language:?}; it knows {}", known.join(", "))]
    Language {
        /// As configured.
        language: String,
        /// The model.
        model: String,
        /// Codes it knows.
        known: Vec<String>,
    },
    /// The model knows none of the languages that are allowed.
    #[error("model {model} knows none of the allowed languages ({}); it knows {}", allowed.join(", "), known.join(", "))]
    Languages {
        /// As configured.
        allowed: Vec<String>,
        /// The model.
        model: String,
        /// Codes it knows.
        known: Vec<String>,
    },
    /// Finished windows cannot be kept where they should.
    #[error("cannot keep finished windows in {}: {error}", dir.display())]
    Checkpoints {
        /// The directory.
        dir: PathBuf,
        /// What went wrong.
        error: std::io::Error,
    },
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Checks what can be told without loading anything: that the device that was asked for is there and, with a `model` on
/// this machine, that its weights are whole and of a Whisper model. Takes milliseconds.
///
/// # Errors
/// [`TranscribeError::Device`] and [`TranscribeError::Load`], as [`Transcriber::start`] would have them.
pub fn check(options: &TranscribeOptions, model: Option<&ModelDir>) -> Result<(), TranscribeError> {
    plan::check_device(options.wishes.device, ct2::cuda_devices()).map_err(TranscribeError::Device)?;
    if let Some(model) = model {
        options.engine.check(model).map_err(TranscribeError::Load)?;
    }
    Ok(())
}

/// A loaded model with its pool and feeders. Dropping it is [`Transcriber::shutdown`].
pub struct Transcriber {
    shared: Arc<Shared>,
    speech: SpeechOptions,
    speech_meter: Arc<StageMeter>,
    plan: Plan,
    /// Languages that the model knows.
    known: Vec<String>,
    files: AtomicU64,
    checkpoints: Option<Checkpoints>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What feeders and submitters share.
struct Shared {
    /// Read while it works, written where it works alone or is replaced.
    engine: RwLock<Box<dyn Engine>>,
    /// What may replace it.
    fallbacks: Mutex<Vec<Fallback>>,
    name: String,
    input: InputKind,
    pool: Pool<feed::Task>,
    limit: BatchLimit,
    decode: DecodeOptions,
    rules: Rules,
    meter: Arc<StageMeter>,
    windows: AtomicU64,
    known: AtomicU64,
}

impl fmt::Debug for Transcriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transcriber")
            .field("model", &self.shared.name)
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

/// Windows that a [`Transcriber`] has dealt with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowCounts {
    /// Of all finished files.
    pub windows: u64,
    /// Of these, finished by an earlier run and not done again.
    pub known: u64,
}

impl Transcriber {
    /// Finds and loads the model and starts the feeders. Blocks, for minutes where the model has to be fetched;
    /// `download` hears how that goes.
    ///
    /// `speech_meter` counts the time of detection and spectrograms, `asr_meter` that of the model.
    ///
    /// # Errors
    /// See [`TranscribeError`]; each says what to change.
    pub fn start(
        options: TranscribeOptions,
        speech_meter: Arc<StageMeter>,
        asr_meter: Arc<StageMeter>,
        download: &mut dyn FnMut(Download),
    ) -> Result<Self, TranscribeError> {
        let loaded = options.engine.open(&options, download)?;
        tracing::info!(
            model = loaded.engine.name(),
            load_ms = loaded.plan.load_ms,
            "model loaded: {}",
            loaded.plan
        );
        for reason in &loaded.plan.reasons {
            tracing::info!("{reason}");
        }
        Self::with_engine(loaded, &options, speech_meter, asr_meter)
    }

    /// As [`Self::start`] with a loaded engine; of `options` only the language, decoding, speech and checkpoints count.
    ///
    /// # Errors
    /// Where the engine does not know the language, no thread can be started, or finished windows cannot be kept.
    pub fn with_engine(
        loaded: Loaded,
        options: &TranscribeOptions,
        speech_meter: Arc<StageMeter>,
        asr_meter: Arc<StageMeter>,
    ) -> Result<Self, TranscribeError> {
        let Loaded { engine, plan, identity, fallbacks } = loaded;
        let (name, known) = (engine.name().to_owned(), engine.languages().to_vec());
        if let Some(language) = options.language.clone().filter(|l| !known.contains(l)) {
            return Err(TranscribeError::Language { language, model: name, known });
        }
        let mut decode = options.decode.clone();
        if decode.temperatures.is_empty() {
            decode.temperatures.push(0.0);
        }
        let allowed = std::mem::take(&mut decode.languages);
        decode.languages = allowed.iter().filter(|l| known.contains(l)).cloned().collect();
        if decode.languages.is_empty() && !allowed.is_empty() {
            return Err(TranscribeError::Languages { allowed, model: name, known });
        }
        let checkpoints = match &options.checkpoints {
            Some(checkpoints) => Some(open_checkpoints(checkpoints, &identity, &decode)?),
            None => None,
        };
        let rules = Rules {
            language: options.language.clone(),
            languages: if decode.languages.is_empty() { known.clone() } else { decode.languages.clone() },
            decode: decode.clone(),
            guards: GuardOptions::default(),
            segments: options.segments,
        };
        asr_meter.set_workers(plan.feeders);
        let capacity = BATCHES_AHEAD * plan.batch_size * plan.feeders;
        let shared = Arc::new(Shared {
            name,
            input: engine.input(),
            engine: RwLock::new(engine),
            fallbacks: Mutex::new(fallbacks),
            pool: Pool::new(capacity, plan.feeders),
            limit: BatchLimit::new(plan.batch_size),
            decode,
            rules,
            meter: asr_meter,
            windows: AtomicU64::new(0),
            known: AtomicU64::new(0),
        });
        let transcriber = Self {
            shared,
            speech: options.speech.clone(),
            speech_meter,
            files: AtomicU64::new(0),
            checkpoints,
            threads: Mutex::new(Vec::new()),
            plan,
            known,
        };
        for i in 0..transcriber.plan.feeders {
            let feeder = Feeder::new(Arc::clone(&transcriber.shared), &transcriber.plan);
            let thread =
                std::thread::Builder::new().name(format!("asr-feeder-{i}")).spawn(move || feeder.run())?;
            transcriber.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(transcriber)
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.shared.name
    }

    /// How the model is run, and why.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Windows of the files that are finished.
    pub fn window_counts(&self) -> WindowCounts {
        WindowCounts { windows: self.shared.windows.load(Relaxed), known: self.shared.known.load(Relaxed) }
    }

    /// The most windows that the model is given at once now: less than planned after memory ran out.
    pub fn batch_limit(&self) -> usize {
        self.shared.limit.now()
    }

    /// Transcribes one file. Cuts its windows on the calling thread and returns when all are in the pool, which holds
    /// the caller back while the model is busy. `on_done` is called exactly once, on this thread or a feeder's, when
    /// the last window is finished or the file is given up; it must not block for long. The audio file must stay
    /// until then.
    ///
    /// Progress goes to `events` in milliseconds of audio. After `cancel` the file ends with an
    /// [`FailureClass::Internal`] failure, `stopped`.
    pub fn submit(
        &self,
        media_id: MediaId,
        audio: &Audio,
        events: &Events,
        cancel: &CancellationToken,
        on_done: OnDone,
    ) {
        self.submit_in(None, media_id, audio, events, cancel, on_done);
    }

    /// As [`Self::submit`], for a file of which the language is known: a code of Whisper's, `None` for what the options say. One
    /// that the model does not know fails the file.
    pub fn submit_in(
        &self,
        language: Option<&str>,
        media_id: MediaId,
        audio: &Audio,
        events: &Events,
        cancel: &CancellationToken,
        on_done: OnDone,
    ) {
        self.submit_believing(None, language, media_id, audio, events, cancel, on_done);
    }

    /// What is believed of a file that another model heard before, of the windows that were kept on this machine: see
    /// [`Believed`]. `stored` are the mean log-probabilities of its stored segments, `doubted` says which windows are to be
    /// heard again.
    pub fn believed(
        &self,
        audio: &Audio,
        stored: &[f32],
        doubted: impl Fn(Figures<'_>) -> bool,
    ) -> Arc<Believed> {
        let kept = self.checkpoints.as_ref().map(|c| c.others(&audio.hash)).unwrap_or_default();
        Arc::new(Believed::new(kept, stored, doubted))
    }

    /// As [`Self::submit_in`]; windows that are `believed` keep the text they had.
    #[expect(clippy::too_many_arguments, reason = "as submit_in, with one more")]
    pub fn submit_believing(
        &self,
        believed: Option<Arc<Believed>>,
        language: Option<&str>,
        media_id: MediaId,
        audio: &Audio,
        events: &Events,
        cancel: &CancellationToken,
        on_done: OnDone,
    ) {
        let file = self.files.fetch_add(1, Relaxed);
        let progress = events.progress(media_id, Step::Transcribe);
        let job = Arc::new(
            Job::new(
                file,
                audio.clone(),
                self.model().to_owned(),
                self.checkpoints.as_ref().map(|c| c.recording(&audio.hash)),
                cancel.clone(),
                progress,
                on_done,
            )
            .in_language(language.map(str::to_owned))
            .believing(believed),
        );
        if let Some(language) = language.filter(|l| !self.known.iter().any(|k| k == l)) {
            let message =
                format!("model {} does not know the language {language} that was asked for", self.model());
            job.fail(
                Failure::new(FailureClass::Setup, message).with_remedy(
                    "change --language of its source, or WHISPER_MODEL, then run `spoken retry`",
                ),
            );
            return;
        }
        let unfinished = Unfinished { shared: &self.shared, job: &job };
        let expected = self.shared.pool.expect();
        let cut = self.cut(&job);
        drop(expected);
        self.speech_meter.finished();
        match cut {
            Ok(()) => {
                std::mem::forget(unfinished);
                if job.all_cut() {
                    self.shared.settle(&job);
                }
            }
            // Told when it is dropped at the end, or by whoever stopped it.
            Err(Stopped::Over) => {}
            Err(Stopped::Failed(failure)) => job.fail(failure),
        }
    }

    /// Sends every window of `job` to the pool.
    fn cut(&self, job: &Arc<Job>) -> Result<(), Stopped> {
        let unreadable = |e: std::io::Error| {
            Stopped::Failed(Failure::new(
                FailureClass::Internal,
                format!("cannot read decoded audio {}: {e}", job.audio.path.display()),
            ))
        };
        let shared = &self.shared;
        let language = job.language(&shared.rules);
        let over = || {
            let cancelled = job.cancel.is_cancelled();
            if cancelled { Stopped::Failed(feed::stopped()) } else { Stopped::Over }
        };
        let mut busy = self.speech_meter.busy();
        let mut hearing = Hearing::new(shared.input);
        let mut windows = speech::windows(&job.audio, &self.speech).map_err(unreadable)?;
        loop {
            if job.cancel.is_cancelled() {
                return Err(over());
            }
            let Some(window) = windows.next() else { return Ok(()) };
            let window = window.map_err(unreadable)?;
            let previous = if shared.decode.carry_over {
                // A window must know what was said before it, so a file has one window out at a time.
                drop(busy);
                let waiting = Instant::now();
                let text = job.text_before();
                self.speech_meter.waited_out(waiting.elapsed());
                busy = self.speech_meter.busy();
                text.ok_or_else(over)?
            } else {
                String::new()
            };
            let Some(index) = job.add(&window, language, &previous) else { continue };
            let duration_ms = clock::millis(window.samples.len() as u64) as u32;
            let speech_ms = clock::millis(window.speech_samples()) as u32;
            let sound = hearing.sound(window.samples);
            drop(busy);
            let task = feed::Task {
                job: Arc::clone(job),
                index,
                source: Source::Ready(sound),
                duration_ms,
                speech_ms,
                language: language.map(str::to_owned),
                previous,
                prompted: shared.has_prompt(),
                attempt: 0,
                best: None,
            };
            let waiting = Instant::now();
            let pushed =
                shared.pool.push((job.file, index), task, || job.cancel.is_cancelled() || job.is_over());
            self.speech_meter.waited_out(waiting.elapsed());
            let (queued, capacity) = shared.pool.fill();
            shared.meter.note_queue(queued, capacity);
            if pushed.is_err() || job.is_over() {
                return Err(over());
            }
            busy = self.speech_meter.busy();
        }
    }

    /// Stops the feeders after the batches in hand and waits for them. Files that are not finished end with an
    /// [`FailureClass::Internal`] failure, `stopped`.
    pub fn shutdown(&self) {
        for task in self.shared.pool.close() {
            task.job.fail(feed::stopped());
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A feeder catches the panics of what it calls.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn has_prompt(&self) -> bool {
        !self.decode.initial_prompt.trim().is_empty() || !self.decode.hotwords.trim().is_empty()
    }

    /// Whether `text` is only the prompt, said back.
    fn echoes(&self, text: &WindowText) -> bool {
        let said = text.segments.iter().map(|s| s.text.as_str()).collect::<Vec<_>>().join(" ");
        [&self.decode.initial_prompt, &self.decode.hotwords].iter().any(|p| quality::echoes(&said, p))
    }
}

/// Opens the kept windows of this model and these ways to decode. What does not change a window's text (how long a
/// segment may be, when a language counts as sure) is not part of it.
fn open_checkpoints(
    options: &CheckpointOptions,
    identity: &str,
    decode: &DecodeOptions,
) -> Result<Checkpoints, TranscribeError> {
    let decode = DecodeOptions { language_threshold: 0.0, ..decode.clone() };
    let settings = format!("{identity}\n{decode:?}");
    Checkpoints::open(options, settings.as_bytes())
        .map_err(|error| TranscribeError::Checkpoints { dir: options.dir.clone(), error })
}

impl Drop for Transcriber {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Why no more windows are cut.
enum Stopped {
    /// The file was given up elsewhere, or the pool is closed.
    Over,
    Failed(Failure),
}

/// A file whose windows are being cut. Dropped before that is complete (an error, a panic), it takes what is in the
/// pool out again and makes sure that somebody is told.
struct Unfinished<'a> {
    shared: &'a Shared,
    job: &'a Arc<Job>,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        drop(self.shared.pool.remove(self.job.file));
        self.job.fail(if std::thread::panicking() {
            Failure::new(FailureClass::Internal, "speech detection broke off")
        } else {
            feed::stopped()
        });
    }
}

#[cfg(test)]
mod tests;

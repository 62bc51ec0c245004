//! Whisper over the windows of all files at once.
//!
//! ```text
//! submit (ASR worker)   ── speech, windows, log-mel ──►┐
//! submit (ASR worker)   ── speech, windows, log-mel ──►│ pool (bounded)   ──► feeder ──► model replica ──► on_done
//! submit (ASR worker)   ── speech, windows, log-mel ──►┘ earliest file first ► feeder ──► model replica ──► on_done
//! ```
//!
//! [`Transcriber::submit`] runs on its caller's thread and returns when all windows of the file are in the pool.
//! Feeders (one a replica) take batches from it, across files, so that one model is always busy; whichever brings the last text of
//! a file puts its transcript together and calls back. This is the ASR stage as a whole, so it is the one step that
//! uses another: [`crate::speech`], which says where to cut.

mod clock;
mod ct2;
mod engine;
mod feed;
mod guard;
mod job;
mod mel;
mod model;
mod plan;
mod pool;
mod quality;
mod tokens;

use std::fmt;
use std::path::PathBuf;
use std::sync::{
    Arc, Mutex, PoisonError,
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

pub use engine::{DecodeOptions, Engine, EngineError, MelWindow, TimedText, WindowText};
pub use guard::{Evidence, GuardOptions, Verdict, judge, judge_window};
pub use job::OnDone;
pub use mel::{FRAMES, LogMel, Scratch};
pub use model::{Download, ModelDir, ModelError, known_names, resolve};
pub use plan::{Compute, Device, Host, Plan, Wishes};

use feed::{Feeder, Input, Task};
use job::Job;
use pool::Pool;

/// Batches that may wait in the pool for each feeder: one to take now, one to be complete when that is done. A window
/// is 1 to 1.5 MB of spectrogram, so more would only cost memory.
const BATCHES_AHEAD: usize = 2;

/// How the model is chosen and run.
#[derive(Clone, Debug)]
pub struct TranscribeOptions {
    /// A CTranslate2 directory, a name such as `small` or `distil-large-v3`, or `organisation/repository` on the hub.
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
}

impl Default for TranscribeOptions {
    fn default() -> Self {
        Self {
            model: "small".to_owned(),
            models_dir: PathBuf::from("models"),
            wishes: Wishes::default(),
            language: None,
            decode: DecodeOptions::default(),
            speech: SpeechOptions::default(),
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
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// A loaded model with its pool and feeders. Dropping it is [`Transcriber::shutdown`].
pub struct Transcriber {
    shared: Arc<Shared>,
    mel: LogMel,
    speech: SpeechOptions,
    speech_meter: Arc<StageMeter>,
    plan: Plan,
    files: AtomicU64,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What feeders and submitters share.
struct Shared {
    engine: Box<dyn Engine>,
    pool: Pool<Task>,
    language: Option<String>,
    decode: DecodeOptions,
    meter: Arc<StageMeter>,
}

impl fmt::Debug for Transcriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transcriber")
            .field("model", &self.shared.engine.name())
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
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
        let model = model::resolve(&options.model, &options.models_dir, download)?;
        let host = Host::survey(ct2::cuda_devices());
        let mut plan =
            Plan::new(&options.wishes, &host, model.weights_bytes).map_err(TranscribeError::Device)?;
        let started = Instant::now();
        let engine = ct2::Ct2Whisper::load(&model, &mut plan).map_err(TranscribeError::Load)?;
        tracing::info!(
            model = model.name,
            path = %model.path.display(),
            load_ms = started.elapsed().as_millis() as u64,
            "model loaded: {plan}"
        );
        for reason in &plan.reasons {
            tracing::info!("{reason}");
        }
        Self::with_engine(Box::new(engine), plan, &options, speech_meter, asr_meter)
    }

    /// As [`Self::start`] with a loaded engine; of `options` only the language, decoding and speech count.
    ///
    /// # Errors
    /// Where the engine does not know the language, or no thread can be started.
    pub fn with_engine(
        engine: Box<dyn Engine>,
        plan: Plan,
        options: &TranscribeOptions,
        speech_meter: Arc<StageMeter>,
        asr_meter: Arc<StageMeter>,
    ) -> Result<Self, TranscribeError> {
        if let Some(language) = options.language.as_ref().filter(|l| !engine.languages().contains(l)) {
            return Err(TranscribeError::Language {
                language: language.clone(),
                model: engine.name().to_owned(),
                known: engine.languages().to_vec(),
            });
        }
        asr_meter.set_workers(plan.feeders);
        let mel = LogMel::new(engine.n_mels());
        let capacity = BATCHES_AHEAD * plan.batch_size * plan.feeders;
        let shared = Arc::new(Shared {
            engine,
            pool: Pool::new(capacity, plan.feeders),
            language: options.language.clone(),
            decode: options.decode.clone(),
            meter: asr_meter,
        });
        let transcriber = Self {
            shared,
            mel,
            speech: options.speech.clone(),
            speech_meter,
            files: AtomicU64::new(0),
            threads: Mutex::new(Vec::new()),
            plan,
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
        self.shared.engine.name()
    }

    /// How the model is run, and why.
    pub fn plan(&self) -> &Plan {
        &self.plan
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
        let file = self.files.fetch_add(1, Relaxed);
        let progress = events.progress(media_id, Step::Transcribe);
        let job = Arc::new(Job::new(
            file,
            audio.clone(),
            self.model().to_owned(),
            cancel.clone(),
            progress,
            on_done,
        ));
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
        let mut busy = self.speech_meter.busy();
        let mut scratch = self.mel.scratch();
        let mut windows = speech::windows(&job.audio, &self.speech).map_err(unreadable)?;
        loop {
            if job.cancel.is_cancelled() {
                return Err(Stopped::Failed(feed::stopped()));
            }
            let Some(window) = windows.next() else { return Ok(()) };
            let window = window.map_err(unreadable)?;
            let mut mel = Vec::new();
            self.mel.compute(&window.samples, &mut scratch, &mut mel);
            let index = job.add(&window);
            drop(window);
            drop(busy);
            let task = Task { job: Arc::clone(job), index, input: Input::Mel(mel) };
            let waiting = Instant::now();
            let pushed =
                self.shared.pool.push((job.file, index), task, || job.cancel.is_cancelled() || job.is_over());
            self.speech_meter.waited_out(waiting.elapsed());
            let (queued, capacity) = self.shared.pool.fill();
            self.shared.meter.note_queue(queued, capacity);
            if pushed.is_err() || job.is_over() {
                return Err(if job.cancel.is_cancelled() {
                    Stopped::Failed(feed::stopped())
                } else {
                    Stopped::Over
                });
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

//! The feeders: threads that take batches from the pool, run the model on them, and bring the texts home.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Shared,
    engine::{EngineError, MelWindow, WindowText},
    job::Job,
    mel::{LogMel, Scratch},
    plan::{Device, Plan},
};
use crate::media::{Audio, Failure, FailureClass};
use crate::speech::Span;

/// How long a feeder waits for a batch to fill up, where more windows are on their way. On a CPU a small batch is
/// nearly as fast; on a GPU it wastes most of it, and cutting a window takes about this long.
const LINGER_CPU: Duration = Duration::from_millis(5);
const LINGER_GPU: Duration = Duration::from_millis(25);

/// One window of one file.
#[derive(Debug)]
pub(super) struct Task {
    pub job: Arc<Job>,
    pub index: usize,
    pub input: Input,
}

/// What the model is to see.
#[derive(Debug)]
pub(super) enum Input {
    /// A spectrogram, in the configured language or one to be detected.
    Mel(Vec<f32>),
    /// These stretches of the file, again, in this language.
    Again { pieces: Vec<Span>, language: String },
}

/// The failure of a file that was not finished because the program stops.
pub(super) fn stopped() -> Failure {
    Failure::new(FailureClass::Internal, "stopped")
}

pub(super) struct Feeder {
    shared: Arc<Shared>,
    mel: LogMel,
    scratch: Scratch,
    batch_size: usize,
    linger: Duration,
}

/// A task whose spectrogram is there.
struct Ready {
    job: Arc<Job>,
    index: usize,
    mel: Vec<f32>,
    language: Option<String>,
}

impl Feeder {
    pub fn new(shared: Arc<Shared>, plan: &Plan) -> Self {
        let mel = LogMel::new(shared.engine.n_mels());
        let linger = if plan.device == Device::Cuda { LINGER_GPU } else { LINGER_CPU };
        Self { scratch: mel.scratch(), mel, shared, batch_size: plan.batch_size, linger }
    }

    /// Works until the pool is closed.
    pub fn run(mut self) {
        loop {
            let waiting = Instant::now();
            let Some(tasks) = self.shared.pool.take(self.batch_size, self.linger) else { return };
            self.shared.meter.waited_in(waiting.elapsed());
            let (queued, capacity) = self.shared.pool.fill();
            self.shared.meter.note_queue(queued, capacity);
            let batch: Vec<Ready> = tasks.into_iter().filter_map(|task| self.prepare(task)).collect();
            self.transcribe(batch);
        }
    }

    /// Makes a task ready for the model; `None` where there is nothing to do for it any more.
    fn prepare(&mut self, task: Task) -> Option<Ready> {
        let Task { job, index, input } = task;
        if job.cancel.is_cancelled() {
            job.fail(stopped());
        }
        if job.is_over() {
            return None;
        }
        match input {
            Input::Mel(mel) => {
                let language = self.shared.language.clone();
                Some(Ready { job, index, mel, language })
            }
            Input::Again { pieces, language } => match read(&job.audio, &pieces) {
                Ok(samples) => {
                    let mut mel = Vec::new();
                    self.mel.compute(&samples, &mut self.scratch, &mut mel);
                    Some(Ready { job, index, mel, language: Some(language) })
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot read a window again; its first text stays");
                    self.shared.bring_home(&job, index, None);
                    None
                }
            },
        }
    }

    fn transcribe(&self, batch: Vec<Ready>) {
        if batch.is_empty() {
            return;
        }
        match self.run_model(&batch) {
            Ok(texts) => {
                for (ready, text) in batch.into_iter().zip(texts) {
                    self.shared.bring_home(&ready.job, ready.index, Some(text));
                }
            }
            Err(error) if batch.len() > 1 => {
                tracing::warn!(%error, windows = batch.len(), "a batch failed; trying its windows one by one");
                for ready in batch {
                    if !ready.job.is_over() {
                        self.transcribe(vec![ready]);
                    }
                }
            }
            Err(error) => {
                for ready in batch {
                    drop(self.shared.pool.remove(ready.job.file));
                    ready
                        .job
                        .fail(Failure::new(FailureClass::Internal, format!("the model failed: {error}")));
                }
            }
        }
    }

    /// Runs the model, which is what the stage's busy time means.
    fn run_model(&self, batch: &[Ready]) -> Result<Vec<WindowText>, EngineError> {
        let windows: Vec<MelWindow<'_>> =
            batch.iter().map(|r| MelWindow { mel: &r.mel, language: r.language.as_deref() }).collect();
        let shared = &self.shared;
        let busy = shared.meter.busy();
        let texts = catch_unwind(AssertUnwindSafe(|| shared.engine.transcribe(&windows, &shared.decode)))
            .unwrap_or_else(|_| Err(EngineError("it panicked".to_owned())));
        drop(busy);
        let texts = texts?;
        if texts.len() != batch.len() {
            return Err(EngineError(format!("{} texts for {} windows", texts.len(), batch.len())));
        }
        Ok(texts)
    }
}

impl Shared {
    /// Hands a window's text to its file, and finishes the file with its last one.
    fn bring_home(&self, job: &Arc<Job>, index: usize, text: Option<WindowText>) {
        if job.returned(index, text) {
            self.settle(job);
        }
    }

    /// All windows of `job` are back: does the doubtful ones again, or tells the transcript.
    pub(super) fn settle(&self, job: &Arc<Job>) {
        let known = |language: &str| self.engine.languages().iter().any(|l| l == language);
        let again = if self.language.is_none() { job.revise(&known) } else { Vec::new() };
        if again.is_empty() {
            if !job.is_over() {
                self.meter.finished();
                job.complete();
            }
            return;
        }
        for window in again {
            let input = Input::Again { pieces: window.pieces, language: window.language };
            let task = Task { job: Arc::clone(job), index: window.index, input };
            if self.pool.push_back((job.file, window.index), task).is_err() {
                job.fail(stopped());
            }
        }
    }
}

/// Reads stretches of decoded audio.
fn read(audio: &Audio, pieces: &[Span]) -> io::Result<Vec<i16>> {
    let mut file = File::open(&audio.path)?;
    let mut bytes = Vec::new();
    for piece in pieces {
        file.seek(SeekFrom::Start(2 * piece.start))?;
        (&mut file).take(2 * piece.len()).read_to_end(&mut bytes)?;
    }
    Ok(bytes.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect())
}

//! The feeders: threads that take batches from the pool, run the model on them, and bring the texts home.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, atomic::Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::{
    Shared,
    clock::millis,
    engine::{Engine, EngineError, Input, InputKind, Sound, WindowText},
    guard::{Evidence, judge_window},
    job::{Job, Next},
    mel::{LogMel, Scratch},
    plan::{Device, Plan},
    pool::{Most, Waiting},
    quality::Measure,
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
    pub source: Source,
    /// Length of the recording in it, milliseconds.
    pub duration_ms: u32,
    /// Of that, detected speech.
    pub speech_ms: u32,
    /// Where it is given and not to be detected.
    pub language: Option<String>,
    /// What was said before, where text is carried over.
    pub previous: String,
    /// The prompt is given; see [`Input::prompted`].
    pub prompted: bool,
    /// Which of the temperatures comes next.
    pub attempt: usize,
    /// The best text so far, none of which was acceptable; and whether the guards had something against it.
    pub best: Option<(WindowText, bool)>,
}

/// Where a window's sound comes from.
#[derive(Debug)]
pub(super) enum Source {
    Ready(Sound),
    /// These stretches of the file.
    File(Vec<Span>),
}

impl Waiting for Task {
    fn round(&self) -> usize {
        self.attempt
    }

    fn work(&self) -> u64 {
        self.duration_ms.into()
    }
}

/// The failure of a file that was not finished because the program stops.
pub(super) fn stopped() -> Failure {
    Failure::new(FailureClass::Internal, "stopped")
}

/// Makes of samples what the engine wants to be given.
pub(super) struct Hearing {
    mel: Option<(LogMel, Scratch)>,
}

impl Hearing {
    pub fn new(kind: InputKind) -> Self {
        let mel = match kind {
            InputKind::LogMel { bands } => {
                let mel = LogMel::new(bands);
                let scratch = mel.scratch();
                Some((mel, scratch))
            }
            InputKind::Samples => None,
        };
        Self { mel }
    }

    pub fn sound(&mut self, samples: Vec<i16>) -> Sound {
        match &mut self.mel {
            Some((mel, scratch)) => {
                let mut values = Vec::new();
                mel.compute(&samples, scratch, &mut values);
                Sound::LogMel(values)
            }
            None => Sound::Samples(samples),
        }
    }
}

pub(super) struct Feeder {
    shared: Arc<Shared>,
    hearing: Hearing,
    linger: Duration,
}

impl Feeder {
    pub fn new(shared: Arc<Shared>, plan: &Plan) -> Self {
        let hearing = Hearing::new(shared.input);
        let linger = if plan.device == Device::Cuda { LINGER_GPU } else { LINGER_CPU };
        Self { hearing, shared, linger }
    }

    /// Works until the pool is closed.
    pub fn run(mut self) {
        loop {
            let waiting = Instant::now();
            let fresh = self.shared.limit.now();
            // Each of the samples drawn at a temperature holds its own copy of the attention over the window.
            let most = Most { fresh, again: (fresh / self.shared.decode.best_of.max(1)).max(1) };
            let Some(tasks) = self.shared.pool.take(most, self.linger) else { return };
            self.shared.meter.waited_in(waiting.elapsed());
            let (queued, capacity) = self.shared.pool.fill();
            self.shared.meter.note_queue(queued, capacity);
            let batch: Vec<(Task, Sound)> = tasks.into_iter().filter_map(|task| self.prepare(task)).collect();
            self.transcribe(batch);
        }
    }

    /// The task and its sound; `None` where there is nothing to do for it any more.
    fn prepare(&mut self, mut task: Task) -> Option<(Task, Sound)> {
        let job = &task.job;
        if job.cancel.is_cancelled() {
            job.fail(stopped());
        }
        if job.is_over() {
            return None;
        }
        match std::mem::replace(&mut task.source, Source::File(Vec::new())) {
            Source::Ready(sound) => Some((task, sound)),
            Source::File(pieces) => match read(&job.audio, &pieces) {
                Ok(samples) => Some((task, self.hearing.sound(samples))),
                Err(error) => {
                    tracing::warn!(%error, "cannot read a window again; what it had stays");
                    self.shared.bring_home(&task.job, task.index, None);
                    None
                }
            },
        }
    }

    fn transcribe(&self, mut batch: Vec<(Task, Sound)>) {
        if batch.is_empty() {
            return;
        }
        match self.shared.run_model(&batch) {
            Ok(texts) => {
                self.shared.limit.succeeded(batch.len());
                for ((task, sound), text) in batch.into_iter().zip(texts) {
                    self.judge(task, sound, text);
                }
            }
            Err(error) if batch.len() > 1 => {
                let rest = batch.split_off(if matches!(error, EngineError::OutOfMemory(_)) {
                    self.shared.limit.ran_out(batch.len());
                    tracing::warn!(%error, windows = batch.len(), "trying again with half as many windows");
                    batch.len() / 2
                } else {
                    tracing::warn!(%error, windows = batch.len(), "a batch failed; trying its windows one by one");
                    1
                });
                for part in [batch, rest] {
                    self.transcribe(part.into_iter().filter(|(task, _)| !task.job.is_over()).collect());
                }
            }
            Err(EngineError::OutOfMemory(message)) => {
                let texts = self.shared.run_alone(&batch, message);
                self.finish_alone(batch, texts);
            }
            Err(error) => self.finish_alone(batch, Err(error)),
        }
    }

    /// What becomes of a single window that nothing more can be tried for.
    fn finish_alone(&self, batch: Vec<(Task, Sound)>, texts: Result<Vec<WindowText>, EngineError>) {
        match texts {
            Ok(texts) => {
                for ((task, sound), text) in batch.into_iter().zip(texts) {
                    self.judge(task, sound, text);
                }
            }
            Err(error) => {
                for (task, _) in batch {
                    drop(self.shared.pool.remove(task.job.file));
                    task.job.fail(failure(&error));
                }
            }
        }
    }

    /// Accepts a text, or has its window decoded again.
    fn judge(&self, mut task: Task, sound: Sound, text: WindowText) {
        let shared = &self.shared;
        if task.prompted && shared.echoes(&text) {
            // The same once more, without what it has said back.
            task.prompted = false;
            return self.again(task, sound);
        }
        let measure = Measure::of(&text);
        let invented = !measure.silent(&shared.decode) && shared.invented(&task, &text);
        let acceptable = measure.acceptable(&shared.decode) && !invented;
        let better = |(best, was_invented): &(WindowText, bool)| match (invented, was_invented) {
            (false, true) => true,
            (true, false) => false,
            _ => measure.better_than(&Measure::of(best), &shared.decode),
        };
        if acceptable || task.best.as_ref().is_none_or(better) {
            task.best = Some((text, invented));
        }
        task.attempt += 1;
        if acceptable || task.attempt >= shared.decode.temperatures.len() {
            let text = task.best.take().map(|(text, _)| text);
            shared.bring_home(&task.job, task.index, text);
        } else {
            self.again(task, sound);
        }
    }

    fn again(&self, mut task: Task, sound: Sound) {
        task.source = Source::Ready(sound);
        let key = (task.job.file, task.index);
        if let Err(task) = self.shared.pool.push_back(key, task) {
            task.job.fail(stopped());
        }
    }
}

fn failure(error: &EngineError) -> Failure {
    let failure = Failure::new(FailureClass::Internal, format!("the model failed: {error}"));
    match error {
        EngineError::OutOfMemory(_) => failure.with_remedy(
            "free some memory, set WHISPER_PARALLEL_MODELS=1, choose a smaller model, or let WHISPER_ON_OUT_OF_MEMORY=cpu \
             fall back to the CPU",
        ),
        EngineError::Failed(_) => failure,
    }
}

impl Shared {
    /// Runs the model, which is what the stage's busy time means.
    fn run_model(&self, batch: &[(Task, Sound)]) -> Result<Vec<WindowText>, EngineError> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        self.call(&**engine, batch)
    }

    /// Not even one window fitted: waits until nobody else uses the memory and tries again, then with what may take the
    /// model's place.
    fn run_alone(&self, batch: &[(Task, Sound)], message: String) -> Result<Vec<WindowText>, EngineError> {
        let mut engine = self.engine.write().unwrap_or_else(PoisonError::into_inner);
        tracing::warn!(
            error = message,
            "out of memory with a single window; trying it while nothing else runs"
        );
        loop {
            match self.call(&**engine, batch) {
                Err(EngineError::OutOfMemory(message)) => {
                    let next = {
                        let mut fallbacks = self.fallbacks.lock().unwrap_or_else(PoisonError::into_inner);
                        if fallbacks.is_empty() { None } else { Some(fallbacks.remove(0)) }
                    };
                    let Some(next) = next else { return Err(EngineError::OutOfMemory(message)) };
                    tracing::warn!(error = message, "out of memory; going on with {}", next.label);
                    match (next.load)() {
                        Ok(loaded) => *engine = loaded,
                        Err(error) => tracing::warn!(error, "failed to load the model for {}", next.label),
                    }
                }
                other => return other,
            }
        }
    }

    fn call(&self, engine: &dyn Engine, batch: &[(Task, Sound)]) -> Result<Vec<WindowText>, EngineError> {
        let inputs: Vec<Input<'_>> = batch
            .iter()
            .map(|(task, sound)| Input {
                sound,
                duration_ms: task.duration_ms,
                language: task.language.as_deref(),
                previous: &task.previous,
                prompted: task.prompted,
            })
            .collect();
        // All tasks of a batch are in the same round.
        let attempt = batch.first().map_or(0, |(task, _)| task.attempt);
        let temperature = self.decode.temperatures.get(attempt).copied().unwrap_or(0.0);
        let busy = self.meter.busy();
        let texts = catch_unwind(AssertUnwindSafe(|| engine.transcribe(&inputs, temperature, &self.decode)))
            .unwrap_or_else(|_| Err(EngineError::Failed("it panicked".to_owned())));
        drop(busy);
        let texts = texts?;
        if texts.len() != batch.len() {
            return Err(EngineError::Failed(format!("{} texts for {} windows", texts.len(), batch.len())));
        }
        Ok(texts)
    }

    /// Whether the text of a whole window looks invented.
    fn invented(&self, task: &Task, text: &WindowText) -> bool {
        let words = text.segments.iter().map(|s| s.text.as_str()).collect::<Vec<_>>().join(" ");
        let evidence = Evidence {
            text: &words,
            language: self.rules.written(&text.language),
            duration_ms: task.duration_ms.into(),
            speech_ms: task.speech_ms.into(),
            edge: false,
            avg_logprob: text.avg_logprob,
            no_speech_prob: text.no_speech_prob,
            prompt: "",
            same: 0,
        };
        judge_window(&evidence, &self.rules.guards).is_some()
    }

    /// Hands a window's text to its file, and finishes the file with its last one.
    pub(super) fn bring_home(&self, job: &Arc<Job>, index: usize, text: Option<WindowText>) {
        if job.returned(index, text) {
            self.settle(job);
        }
    }

    /// All windows of `job` are back: has some of them heard again, or tells the transcript.
    pub(super) fn settle(&self, job: &Arc<Job>) {
        loop {
            match job.next(&self.rules) {
                Next::Again(windows) => {
                    for window in windows {
                        let duration_ms = millis(window.pieces.iter().map(Span::len).sum()) as u32;
                        let task = Task {
                            job: Arc::clone(job),
                            index: window.index,
                            duration_ms,
                            speech_ms: duration_ms,
                            source: Source::File(window.pieces),
                            language: window.language,
                            previous: String::new(),
                            prompted: false,
                            attempt: 0,
                            best: None,
                        };
                        if let Err(task) = self.pool.push_back((job.file, window.index), task) {
                            task.job.fail(stopped());
                        }
                    }
                    return;
                }
                // Found among the finished windows of an earlier run.
                Next::Known => {}
                Next::Complete => {
                    if !job.is_over() {
                        let (windows, known) = job.windows();
                        self.windows.fetch_add(windows as u64, Relaxed);
                        self.known.fetch_add(known as u64, Relaxed);
                        if known > 0 {
                            tracing::info!(windows, known, "continued a file with what was finished before");
                        }
                        self.meter.finished();
                        job.complete(&self.rules);
                    }
                    return;
                }
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

//! Three stages joined by two bounded channels: every channel, capacity and worker count stands here.
//!
//! ```text
//!              jobs            heard              said
//!   queue ──►[ 1 ]──► I/O ──►[ 2×ASR+2 ]──► ASR ──►[ 2×DB ]──► DB ──► reply to the queue
//!                     24 tasks               threads            12 tasks
//! ```
//!
//! What travels is small: an identity, then the handle of an audio file on disk, then a transcript. A full channel
//! stops the stage before it; the time spent waiting for room is what names the bottleneck. A job is answered
//! ([`Outcome`]) when its item is stored, failed or given back, and not before.
//!
//! Whoever finishes last closes: the [`Pipeline`] drops the entry, each stage ends when its input is closed and
//! empty, and nothing is lost on the way. The cancellation token is only for leaving early.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::decode::{self, DecodeOptions};
use crate::embed::{self, Embedder, PassageOptions};
use crate::event::{Event, Events, Step};
use crate::fetch::Fetcher;
use crate::media::{Audio, Failure, FailureClass, MediaId, Metadata, Transcript};
use crate::queue::Outcome;
use crate::stage::{StageMeter, StageSummary};
use crate::store::{Attempt, Claim, EmbeddingModel, SaveError, Store, Work};
use crate::transcribe::Transcriber;

pub mod spool;
use spool::Spool;

/// What each step needs, ready to work.
pub struct Steps {
    /// Brings bytes.
    pub fetcher: Fetcher,
    /// Limits of the decoder.
    pub decode: DecodeOptions,
    /// Runs the model; its pool spans all files in flight.
    pub transcriber: Transcriber,
    /// How segments become passages.
    pub passages: PassageOptions,
    /// Turns passages into vectors.
    pub embedder: Embedder,
    /// The database.
    pub store: Store,
    /// Where files lie while an item is in flight.
    pub spool: Spool,
}

/// How many workers each stage has, and how patient they are.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Items fetched or decoded at once.
    pub io_workers: usize,
    /// Files whose speech is looked for at once.
    pub asr_workers: usize,
    /// Items embedded and written at once.
    pub db_workers: usize,
    /// Attempts before a transient failure becomes final.
    pub max_attempts: u32,
}

impl Sizes {
    /// Capacity of the channel into the ASR stage: enough that a worker never waits for the network's hiccups, and
    /// little enough that downloads do not run far ahead.
    fn heard(&self) -> usize {
        2 * self.asr_workers + 2
    }

    /// Capacity of the channel into the DB stage: transcripts are small, and a waiting model is dear.
    fn said(&self) -> usize {
        2 * self.db_workers
    }

    /// Jobs to take from the queue at once: as many as the stages and channels can hold. More would keep other
    /// machines from them, fewer would let a stage run dry.
    pub fn in_flight(&self) -> usize {
        self.io_workers + self.heard() + 2 * self.asr_workers + self.said() + self.db_workers
    }
}

/// One item on its way, and who waits for it.
struct Job {
    media_id: MediaId,
    reply: oneshot::Sender<Outcome>,
}

/// An item in work: the claim that fences every write, and what to tell at the end.
struct Active {
    work: Box<Work>,
    metadata: Metadata,
    title: String,
    started: Instant,
    reply: oneshot::Sender<Outcome>,
}

/// Leaves the I/O stage: an audio file on disk.
struct Heard {
    active: Active,
    audio: Audio,
}

/// Leaves the ASR stage: the text, or why there is none.
struct Said {
    active: Active,
    transcript: Result<Transcript, Failure>,
}

/// Everything the workers share.
struct Shared {
    steps: Steps,
    sizes: Sizes,
    events: Events,
    /// Nothing new starts.
    stop: CancellationToken,
    /// Leave now; what is in flight is given back to the queue.
    cancel: CancellationToken,
    worker: String,
    runtime: tokio::runtime::Handle,
    /// Decoding is bound by the processor, unlike the rest of the I/O stage.
    decoders: Semaphore,
}

/// The running stages. See the module's page for their shape.
pub struct Pipeline {
    shared: Arc<Shared>,
    entry: Mutex<Option<Sender<Job>>>,
    io: Arc<StageMeter>,
    speech: Arc<StageMeter>,
    asr: Arc<StageMeter>,
    db: Arc<StageMeter>,
    tasks: Mutex<JoinSet<()>>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

/// The meters of the four places where work happens: the ASR stage has two, finding speech and running the model.
#[derive(Clone)]
pub struct Meters {
    /// Fetching and decoding.
    pub io: Arc<StageMeter>,
    /// Finding speech, cutting windows, computing features.
    pub speech: Arc<StageMeter>,
    /// The model.
    pub asr: Arc<StageMeter>,
    /// Embedding and writing.
    pub db: Arc<StageMeter>,
}

impl Meters {
    /// One meter a stage; `replicas` is how many feeders the model has.
    pub fn new(sizes: &Sizes, replicas: usize) -> Self {
        Self {
            io: StageMeter::new("io", sizes.io_workers),
            speech: StageMeter::new("speech", sizes.asr_workers),
            asr: StageMeter::new("asr", replicas),
            db: StageMeter::new("db", sizes.db_workers),
        }
    }
}

impl Pipeline {
    /// Starts every worker. `stop` ends intake, `cancel` ends what is in flight; `worker` is written into the rows
    /// that this process has in hand.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(
        steps: Steps,
        sizes: Sizes,
        meters: Meters,
        worker: String,
        events: Events,
        stop: CancellationToken,
        cancel: CancellationToken,
    ) -> std::io::Result<Arc<Self>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            steps,
            sizes,
            events,
            stop,
            cancel,
            worker,
            runtime: tokio::runtime::Handle::current(),
            decoders: Semaphore::new(cores.min(sizes.io_workers)),
        });
        // A job in this channel is claimed but nobody works on it: hold as few as possible.
        let (entry, jobs) = async_channel::bounded::<Job>(1);
        let (heard_tx, heard_rx) = async_channel::bounded::<Heard>(sizes.heard());
        let (said_tx, said_rx) = async_channel::bounded::<Said>(sizes.said());

        let mut tasks = JoinSet::new();
        for _ in 0..sizes.io_workers {
            tasks.spawn(io_worker(shared.clone(), meters.io.clone(), jobs.clone(), heard_tx.clone()));
        }
        let mut threads = Vec::with_capacity(sizes.asr_workers);
        for n in 0..sizes.asr_workers {
            let (shared, meter) = (shared.clone(), meters.speech.clone());
            let (from, to) = (heard_rx.clone(), said_tx.clone());
            let thread = std::thread::Builder::new().name(format!("speech-{n}"));
            threads.push(thread.spawn(move || asr_worker(&shared, &meter, &from, &to))?);
        }
        for _ in 0..sizes.db_workers {
            tasks.spawn(db_worker(shared.clone(), meters.db.clone(), said_rx.clone()));
        }
        let Meters { io, speech, asr, db } = meters;
        Ok(Arc::new(Self {
            shared,
            entry: Mutex::new(Some(entry)),
            io,
            speech,
            asr,
            db,
            tasks: Mutex::new(tasks),
            threads: Mutex::new(threads),
        }))
    }

    /// Takes one item through all stages; answers when it is stored, failed or given back.
    pub async fn process(&self, media_id: MediaId) -> Outcome {
        let entry = self.entry.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let (reply, outcome) = oneshot::channel();
        let sent = match entry {
            Some(entry) => entry.send(Job { media_id, reply }).await.is_ok(),
            None => false,
        };
        match outcome.await {
            Ok(outcome) if sent => outcome,
            _ => Outcome::Retry { after: Duration::ZERO, message: "the pipeline is closing".into() },
        }
    }

    /// What the stages counted so far, in flow order.
    pub fn stages(&self) -> Vec<StageSummary> {
        [&self.io, &self.speech, &self.asr, &self.db].map(|m| m.summary()).into()
    }

    /// Closes the entry and waits until every stage has drained.
    pub async fn close(&self) {
        drop(self.entry.lock().unwrap_or_else(|e| e.into_inner()).take());
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(|e| e.into_inner()));
        while tasks.join_next().await.is_some() {}
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(|e| e.into_inner()));
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join())));
        if joined.await.is_err() {
            tracing::error!("a speech thread panicked");
        }
    }

    /// Where files lie while items are in flight.
    pub fn spool(&self) -> &Spool {
        &self.shared.steps.spool
    }
}

/// Claims, fetches, decodes.
async fn io_worker(shared: Arc<Shared>, meter: Arc<StageMeter>, jobs: Receiver<Job>, next: Sender<Heard>) {
    while let Some(Job { media_id, reply }) = meter.recv(&jobs).await {
        if !shared.steps.spool.room(&shared.events, &shared.stop).await {
            // Told to stop before the item was touched: the queue keeps the job for the next run.
            let _ = reply.send(given_back());
            continue;
        }
        let busy = meter.busy();
        let work = match claim(&shared, media_id).await {
            Ok(work) => work,
            Err(outcome) => {
                let _ = reply.send(outcome);
                continue;
            }
        };
        let mut active = Active {
            title: work.item.title.clone(),
            metadata: Metadata::default(),
            started: Instant::now(),
            work,
            reply,
        };
        shared.events.send(Event::ItemStarted { media_id, title: active.title.clone() });
        let brought = bring(&shared, &mut active).await;
        drop(busy);
        match brought {
            Ok(audio) => {
                meter.finished();
                if let Some(heard) = hand_on(&meter, &next, Heard { active, audio }).await {
                    give_back(&shared, heard.active).await;
                }
            }
            Err(failure) => settle(&shared, active, failure).await,
        }
    }
}

/// Sends to the next stage; gives the value back where that stage is gone.
async fn hand_on<T>(meter: &StageMeter, next: &Sender<T>, value: T) -> Option<T> {
    let start = Instant::now();
    let sent = next.send(value).await;
    meter.waited_out(start.elapsed());
    sent.err().map(|e| e.0)
}

/// Makes the item this worker's, or says what to answer instead.
async fn claim(shared: &Shared, media_id: MediaId) -> Result<Box<Work>, Outcome> {
    match shared.steps.store.claim(media_id, &shared.worker).await {
        Ok(Claim::Work(work)) => Ok(work),
        // Done by a worker that died before it could delete the job, given up, or removed: nothing is left to do.
        Ok(Claim::AlreadyDone | Claim::GivenUp | Claim::Gone) => Err(Outcome::Done),
        Err(error) => {
            tracing::warn!(%media_id, %error, "failed to claim an item; trying again");
            Err(Outcome::Retry { after: Duration::from_secs(5), message: error.to_string() })
        }
    }
}

/// Fetches and decodes one item into its spool directory.
async fn bring(shared: &Arc<Shared>, active: &mut Active) -> Result<Audio, Failure> {
    let item = &active.work.item;
    let media_id = item.media_id;
    let dir = shared.steps.spool.dir(media_id)?;
    let fetched = tokio::select! {
        biased;
        () = shared.cancel.cancelled() => return Err(stopped()),
        fetched = shared.steps.fetcher.fetch(item, &dir, &shared.events, &shared.cancel) => fetched?,
    };
    active.metadata = fetched.metadata;
    if let Some(title) = &active.metadata.title {
        active.title.clone_from(title);
    }
    let expected = active.metadata.duration_ms.or(item.duration_ms);
    let Ok(_permit) = shared.decoders.acquire().await else { return Err(stopped()) };
    let (inner, input, output) = (shared.clone(), fetched.path.clone(), dir.join(spool::AUDIO));
    let audio = tokio::task::spawn_blocking(move || {
        let mut progress = inner.events.progress(media_id, Step::Decode);
        let audio =
            decode::decode(&input, &output, &inner.steps.decode, expected, &mut progress, &inner.cancel)?;
        // Whatever the header said: this is all of it, and from here on the item waits for the next stage.
        let ms = audio.duration_ms().unsigned_abs();
        progress.set(ms, Some(ms));
        Ok::<_, Failure>(audio)
    })
    .await
    .map_err(|e| Failure::new(FailureClass::Internal, format!("decoding stopped unexpectedly: {e}")))??;
    // The download has served; the samples are what the next stage reads.
    shared.steps.spool.forget_download(media_id, &fetched.path);
    shared.steps.spool.note(media_id, audio.samples * 2);
    Ok(audio)
}

/// Cuts speech into windows for the model's pool; the transcript leaves from the model's own thread.
fn asr_worker(shared: &Arc<Shared>, meter: &Arc<StageMeter>, from: &Receiver<Heard>, to: &Sender<Said>) {
    while let Some(Heard { active, audio }) = meter.recv_blocking(from) {
        let media_id = active.work.item.media_id;
        let (to, inner) = (to.clone(), shared.clone());
        let done = Box::new(move |transcript: Result<Transcript, Failure>| {
            if let Err(lost) = to.send_blocking(Said { active, transcript }) {
                inner.runtime.clone().spawn(async move { give_back(&inner, lost.0.active).await });
            }
        });
        shared.steps.transcriber.submit(media_id, &audio, &shared.events, &shared.cancel, done);
    }
}

/// Embeds and writes.
async fn db_worker(shared: Arc<Shared>, meter: Arc<StageMeter>, from: Receiver<Said>) {
    while let Some(Said { active, transcript }) = meter.recv(&from).await {
        let busy = meter.busy();
        let stored = match transcript {
            Ok(transcript) => write(&shared, &active, &transcript).await.map(|w| (w, transcript)),
            Err(failure) => Err(failure),
        };
        let media_id = active.work.item.media_id;
        match stored {
            Ok((Written::Stored, transcript)) => {
                shared.steps.spool.remove(media_id);
                meter.finished();
                shared.events.send(Event::ItemFinished {
                    media_id,
                    title: active.title,
                    audio_ms: transcript.duration_ms,
                    segments: transcript.segments.len(),
                    took_ms: active.started.elapsed().as_millis() as u64,
                });
                let _ = active.reply.send(Outcome::Done);
            }
            Ok((Written::LeaseLost, _)) => lease_lost(&shared, active),
            Err(failure) => settle(&shared, active, failure).await,
        }
        drop(busy);
    }
}

/// What became of a write.
enum Written {
    Stored,
    LeaseLost,
}

/// Passages, vectors, one transaction. A database that is away is waited for: what was transcribed is too dear to
/// throw away.
async fn write(shared: &Shared, active: &Active, transcript: &Transcript) -> Result<Written, Failure> {
    let Steps { embedder, store, passages, .. } = &shared.steps;
    let media_id = active.work.item.media_id;
    let passages = embed::passages(&transcript.segments, passages);
    let mut progress = shared.events.progress(media_id, Step::Embed);
    let total = passages.len() as u64;
    progress.set(0, Some(total));
    let vectors = embedder.embed_passages(passages.iter().map(|p| p.text.clone()).collect()).await?;
    progress.set(total, Some(total));
    shared.events.send(Event::StepStarted { media_id, step: Step::Store });
    let model = EmbeddingModel { model_id: embedder.model_id().to_owned(), dimension: embedder.dimension() };
    let mut pause = Duration::from_secs(1);
    loop {
        let saved =
            store.complete(&active.work.claimed, &active.metadata, transcript, &passages, &vectors, &model);
        match saved.await {
            Ok(()) => return Ok(Written::Stored),
            Err(SaveError::LeaseLost) => return Ok(Written::LeaseLost),
            Err(error) if error.is_transient() && !shared.cancel.is_cancelled() => {
                tracing::warn!(%media_id, %error, retry_in_s = pause.as_secs(), "failed to store an item");
                tokio::select! {
                    () = shared.cancel.cancelled() => return Err(stopped()),
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(30)),
                }
            }
            Err(error) => return Err(Failure::new(FailureClass::Internal, error.to_string())),
        }
    }
}

/// The failure of an item that was in hand when everything had to stop; never stored.
fn stopped() -> Failure {
    Failure::new(FailureClass::Internal, "stopped before it was finished")
}

/// Writes a failure: final, or another attempt later.
async fn settle(shared: &Shared, active: Active, failure: Failure) {
    let media_id = active.work.item.media_id;
    if shared.cancel.is_cancelled() {
        return give_back(shared, active).await;
    }
    let store = &shared.steps.store;
    let last = !failure.class.is_transient() || active.work.attempt >= shared.sizes.max_attempts;
    let title = active.title.clone();
    if last {
        shared.steps.spool.remove(media_id);
        match store.fail(&active.work.claimed, &failure).await {
            Ok(()) => {}
            Err(SaveError::LeaseLost) => return lease_lost(shared, active),
            Err(error) => {
                tracing::warn!(%media_id, %error, "failed to note a failure; the item will be tried again");
                let message = error.to_string();
                let _ = active.reply.send(Outcome::Retry { after: Duration::from_secs(5), message });
                return;
            }
        }
        let Failure { class, message, remedy } = failure;
        let source = active.work.item.source.clone();
        shared.events.send(Event::ItemFailed { media_id, title, source, class, message, remedy });
        let _ = active.reply.send(Outcome::Done);
        return;
    }
    let after = backoff(active.work.attempt, failure.class);
    match store.delay(&active.work.claimed, &failure, after, Attempt::Counts).await {
        Ok(_) => {}
        Err(SaveError::LeaseLost) => return lease_lost(shared, active),
        Err(error) => tracing::warn!(%media_id, %error, "failed to note a failed attempt"),
    }
    let retry_in_ms = after.as_millis() as u64;
    shared.events.send(Event::ItemDelayed { media_id, title, message: failure.message.clone(), retry_in_ms });
    let _ = active.reply.send(Outcome::Retry { after, message: failure.message });
}

/// 2, 8, 32, 128 s …, at most ten minutes: in one run a short trouble is outlived, a long one is left to the next. A
/// site that asked to slow down is left alone for ten minutes at once.
fn backoff(attempt: u32, class: FailureClass) -> Duration {
    const LONGEST: Duration = Duration::from_secs(600);
    let exponent = 2 * (attempt.max(1) - 1).min(5) + 1;
    if class == FailureClass::RateLimited { LONGEST } else { Duration::from_secs(1 << exponent).min(LONGEST) }
}

/// Another worker has the item now: what this one made is thrown away.
fn lease_lost(shared: &Shared, active: Active) {
    let media_id = active.work.item.media_id;
    shared.steps.spool.remove(media_id);
    shared.events.send(Event::ItemSkipped {
        media_id,
        title: active.title,
        reason: "another worker took it over".into(),
    });
    let _ = active.reply.send(Outcome::LeaseLost);
}

/// The answer for an item that was not finished because everything stops: the job stays, ready for the next run.
fn given_back() -> Outcome {
    Outcome::Retry { after: Duration::ZERO, message: "stopped before it was finished".into() }
}

/// Gives an unfinished item back to the queue, its attempt not counted.
async fn give_back(shared: &Shared, active: Active) {
    if let Err(error) = shared.steps.store.release(&active.work.claimed).await {
        tracing::warn!(media_id = %active.work.item.media_id, %error, "failed to release an item; the next start will");
    }
    let _ = active.reply.send(given_back());
}

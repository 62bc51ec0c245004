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

use async_channel::Sender;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::decode::DecodeOptions;
use crate::embed::{Embedder, PassageOptions};
use crate::event::Events;
use crate::fetch::Fetcher;
use crate::media::{Audio, Captions, Failure, MediaId, Metadata, Transcript};
use crate::queue::Outcome;
use crate::stage::{StageMeter, StageSummary};
use crate::store::{Store, Work};
use crate::transcribe::{Transcriber, WindowCounts};

mod asr;
mod db;
mod ending;
mod io;
pub mod spool;

use asr::asr_worker;
use db::db_worker;
use io::io_worker;
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
    captions: Option<Captions>,
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

    /// Windows of the files that were transcribed so far.
    pub fn window_counts(&self) -> WindowCounts {
        self.shared.steps.transcriber.window_counts()
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

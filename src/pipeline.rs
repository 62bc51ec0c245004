//! Three stages joined by two bounded channels: every channel, capacity and worker count stands here.
//!
//! ```text
//!              jobs            heard              said
//!   queue ──►[ 1 ]──► I/O ──►[ 2×ASR+2 ]──► ASR ──►[ 2×DB ]──► DB ──► reply to the queue
//!                     24 tasks               threads            12 tasks
//! ```
//!
//! Where the work is shared between machines, the I/O stage runs on one and the rest on another, with a store between them
//! that both reach ([`Handover`]):
//!
//! ```text
//!   fetch node:       queue ──►[ 1 ]──► I/O, upload ──► reply: the job is now one for a transcriber
//!   transcribe node:  queue ──►[ 1 ]──► download ──►[ 2×ASR+2 ]──► ASR ──►[ 2×DB ]──► DB ──► reply
//! ```
//!
//! What travels is small: an identity, then the handle of an audio file on disk, then a transcript. A full channel
//! stops the stage before it; the time spent waiting for room is what names the bottleneck. A job is answered
//! ([`Outcome`]) when its item is stored, failed or given back, and not before.
//!
//! Whoever finishes last closes: the [`Pipeline`] drops the entry, each stage ends when its input is closed and
//! empty, and nothing is lost on the way. The cancellation token is only for leaving early.
//!
//! * `io.rs`, `asr.rs`, `db.rs` — the workers of the three stages; `receive.rs` and `send.rs` those of the store between machines.
//! * `begin.rs`, `ending.rs` — how an item enters, and how it leaves when it is not stored; `backoff.rs`: when it is tried again.
//! * `hand.rs` — what this process has in hand, and whether it is still its own.
//! * [`spool`] — where files lie meanwhile; [`backlog`] — how far fetching may run ahead of other machines.
//! * [`embedders`] — the embedding model at work.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::decode::DecodeOptions;
use crate::embed::PassageOptions;
use crate::event::Events;
use crate::fetch::Fetcher;
use crate::handover::{Handover, Key};
use crate::media::{Audio, Captions, Failure, MediaId, Metadata, Transcript};
use crate::queue::{Kind, Outcome};
use crate::stage::{StageMeter, StageSummary};
use crate::store::{Store, Work};
use crate::transcribe::{Transcriber, WindowCounts};

mod asr;
mod backoff;
pub mod backlog;
mod begin;
mod db;
pub mod embedders;
mod ending;
mod hand;
mod io;
mod leftovers;
mod receive;
mod send;
pub mod spool;
mod worker;

use asr::asr_worker;
use backlog::Backlog;
use db::db_worker;
use embedders::Embedders;
use hand::{Hand, Held};
use io::io_worker;
use receive::receive_worker;
use spool::Spool;

/// Audio received at once: each waits for the store, and then for the processor.
const RECEIVERS: usize = 4;
/// Audio uploaded at once: each takes two parts of an upload in memory.
const SENDERS: usize = 4;

/// What each step needs, ready to work. A machine that only fetches has no [`Hearing`], one that only transcribes no
/// [`Bringing`]; each of the two then needs the store between them.
pub struct Steps {
    /// From sources to decoded audio.
    pub bringing: Option<Bringing>,
    /// From decoded audio to text and vectors.
    pub hearing: Option<Hearing>,
    /// The store between machines.
    pub handover: Option<Handover>,
    /// The database.
    pub store: Store,
    /// Where files lie while an item is in flight.
    pub spool: Spool,
}

/// The I/O stage's steps.
pub struct Bringing {
    /// Brings bytes.
    pub fetcher: Fetcher,
    /// Limits of the decoder.
    pub decode: DecodeOptions,
    /// How far it may run ahead of the transcribers on other machines.
    pub backlog: Backlog,
    /// A machine that was not heard of for so long is not there.
    pub lease: Duration,
}

/// The steps of the ASR and DB stages.
pub struct Hearing {
    /// Runs the model; its pool spans all files in flight.
    pub transcriber: Transcriber,
    /// How segments become passages.
    pub passages: PassageOptions,
    /// Turns passages into vectors.
    pub embedders: Embedders,
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
        self.io_workers + self.after_io()
    }

    /// As [`Self::in_flight`], for a machine that works on these kinds of jobs only, and hands on what it fetches.
    pub fn in_flight_of(&self, fetches: bool, transcribes: bool) -> usize {
        let fetching = if fetches { self.io_workers } else { 0 };
        let transcribing = if transcribes { RECEIVERS + self.after_io() } else { 0 };
        fetching + transcribing
    }

    fn after_io(&self) -> usize {
        self.heard() + 2 * self.asr_workers + self.said() + self.db_workers
    }
}

/// One item on its way, and who waits for it.
struct Job {
    media_id: MediaId,
    /// Of the item, when the job was made.
    generation: i32,
    /// Until it is begun.
    waiting: Waiting,
    reply: oneshot::Sender<Outcome>,
}

/// Counted among those handed in and not begun, for as long as it lives.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn among(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Jobs that may wait here for their turn: enough that workers that become free find the next ones, and no more, since they
/// can be begun nowhere else and nothing can be put before them. So many, or a part of the workers.
const AHEAD: usize = 2;
const AHEAD_OF_WORKERS: usize = 4;

/// An item in work: the claim that fences every write, and what to tell at the end.
struct Active {
    work: Box<Work>,
    /// Ends with the item, whichever way that ends.
    held: Held,
    metadata: Metadata,
    captions: Option<Captions>,
    title: String,
    started: Instant,
    reply: oneshot::Sender<Outcome>,
    /// The object that its audio came in, where it came from another machine.
    object: Option<Key>,
}

/// Leaves the I/O stage: an audio file on disk; none where captions do without.
struct Heard {
    active: Active,
    audio: Option<Audio>,
}

/// Leaves the ASR stage: the text, or why there is none.
struct Said {
    active: Active,
    transcript: Result<Transcript, Failure>,
}

/// Everything the workers share.
struct Shared {
    handover: Option<Handover>,
    store: Store,
    spool: Spool,
    sizes: Sizes,
    events: Events,
    /// Nothing new starts.
    stop: CancellationToken,
    /// Leave now; what is in flight is given back to the queue.
    cancel: CancellationToken,
    worker: String,
    hand: Arc<Hand>,
    runtime: tokio::runtime::Handle,
    /// Decoding is bound by the processor, unlike the rest of the I/O stage.
    decoders: Semaphore,
    senders: Semaphore,
}

/// Where jobs come in: one way in for each kind.
struct Entries {
    fetch: Option<Entry>,
    transcribe: Option<Entry>,
}

/// The way in for one kind of job.
#[derive(Clone)]
struct Entry {
    jobs: Sender<Job>,
    /// Handed in and not begun.
    waiting: Arc<AtomicUsize>,
    /// How many of these there may be.
    ahead: usize,
}

impl Entry {
    /// The way in and where it leads, to so many workers.
    fn new(workers: usize) -> (Self, Receiver<Job>) {
        // Few wait in it, for none is claimed that could not be begun soon ([`Pipeline::has_room`]); without a bound, because
        // senders that wait for room are not served in their order, and what was put first would come to stand behind others.
        let (jobs, taken) = async_channel::unbounded();
        (Self { jobs, waiting: Arc::default(), ahead: AHEAD.max(workers / AHEAD_OF_WORKERS) }, taken)
    }
}

/// The running stages. See the module's page for their shape.
pub struct Pipeline {
    shared: Arc<Shared>,
    hearing: Option<Arc<Hearing>>,
    entries: Mutex<Entries>,
    io: Arc<StageMeter>,
    speech: Arc<StageMeter>,
    asr: Arc<StageMeter>,
    db: Arc<StageMeter>,
    /// Looks after what is in hand, and what was.
    watch: AbortOnDropHandle<()>,
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
        let Steps { bringing, hearing, handover, store, spool } = steps;
        let hearing = hearing.map(Arc::new);
        let shared = Arc::new(Shared {
            handover,
            store,
            spool,
            sizes,
            events,
            // Its own, so that it can be told to take up nothing more while the run goes on.
            stop: stop.child_token(),
            cancel,
            worker,
            hand: Arc::default(),
            runtime: tokio::runtime::Handle::current(),
            decoders: Semaphore::new(cores.min(sizes.io_workers)),
            senders: Semaphore::new(SENDERS),
        });
        let (heard_tx, heard_rx) = async_channel::bounded::<Heard>(sizes.heard());
        let (said_tx, said_rx) = async_channel::bounded::<Said>(sizes.said());
        let mut tasks = JoinSet::new();
        let mut entries = Entries { fetch: None, transcribe: None };

        if let Some(bringing) = bringing {
            let (entry, jobs) = Entry::new(sizes.io_workers);
            let bringing = Arc::new(bringing);
            // Without anybody to hear it here, audio goes into the store.
            let next = hearing.is_some().then_some(&heard_tx);
            for _ in 0..sizes.io_workers {
                let (shared, bringing, meter) = (shared.clone(), bringing.clone(), meters.io.clone());
                tasks.spawn(io_worker(shared, bringing, meter, jobs.clone(), next.cloned()));
            }
            entries.fetch = Some(entry);
        }
        if hearing.is_some()
            && let Some(handover) = shared.handover.clone()
        {
            let (entry, jobs) = Entry::new(RECEIVERS);
            for _ in 0..RECEIVERS {
                let (shared, handover, meter) = (shared.clone(), handover.clone(), meters.io.clone());
                tasks.spawn(receive_worker(shared, handover, meter, jobs.clone(), heard_tx.clone()));
            }
            entries.transcribe = Some(entry);
        }
        let mut threads = Vec::with_capacity(sizes.asr_workers);
        if let Some(hearing) = &hearing {
            for n in 0..sizes.asr_workers {
                let (shared, hearing, meter) = (shared.clone(), hearing.clone(), meters.speech.clone());
                let (from, to) = (heard_rx.clone(), said_tx.clone());
                let thread = std::thread::Builder::new().name(format!("speech-{n}"));
                threads.push(thread.spawn(move || asr_worker(&shared, &hearing, &meter, &from, &to))?);
            }
            for _ in 0..sizes.db_workers {
                let (shared, hearing, meter) = (shared.clone(), hearing.clone(), meters.db.clone());
                tasks.spawn(db_worker(shared, hearing, meter, said_rx.clone()));
            }
        }
        let Meters { io, speech, asr, db } = meters;
        let watch = tokio::spawn({
            let shared = shared.clone();
            async move {
                tokio::join!(shared.hand.watch(&shared.store, &shared.worker), leftovers::clear_up(&shared),);
            }
        });
        Ok(Arc::new(Self {
            shared,
            hearing,
            entries: Mutex::new(entries),
            watch: AbortOnDropHandle::new(watch),
            io,
            speech,
            asr,
            db,
            tasks: Mutex::new(tasks),
            threads: Mutex::new(threads),
        }))
    }

    /// Takes one item through the stages that its kind of job means; answers when it is stored, handed over, failed or
    /// given back. Where the item is not of the job's `generation` any more, nothing is left to do.
    pub async fn process(&self, media_id: MediaId, generation: i32, kind: Kind) -> Outcome {
        let entry = {
            let entries = self.entries.lock().unwrap_or_else(|e| e.into_inner());
            match kind {
                Kind::Fetch => entries.fetch.clone(),
                Kind::Transcribe => entries.transcribe.clone(),
            }
        };
        let closing = || Outcome::Retry { after: Duration::ZERO, message: "the pipeline is closing".into() };
        let Some(Entry { jobs, waiting, .. }) = entry else { return closing() };
        let (reply, outcome) = oneshot::channel();
        let job = Job { media_id, generation, waiting: Waiting::among(&waiting), reply };
        if jobs.send(job).await.is_err() {
            return closing();
        }
        match outcome.await {
            Ok(outcome) => outcome,
            // Whoever had it was told to leave at once.
            Err(_) if self.shared.cancel.is_cancelled() => closing(),
            Err(_) => worker::pass_on(),
        }
    }

    /// Takes up nothing more: what waits for its turn goes back to the queue.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }

    /// True while an item that is handed in after `coming` others would be begun soon, if it is of a kind that few wait of.
    pub fn has_room(&self, coming: usize) -> bool {
        let entries = self.entries.lock().unwrap_or_else(|e| e.into_inner());
        let mut ways = [&entries.fetch, &entries.transcribe].into_iter().flatten();
        ways.any(|entry| entry.waiting.load(SeqCst) + coming < entry.ahead)
    }

    /// Items that were taken up and are not finished.
    pub fn in_hand(&self) -> usize {
        self.shared.hand.len()
    }

    /// What the stages counted so far, in flow order.
    pub fn stages(&self) -> Vec<StageSummary> {
        let hearing = [&self.speech, &self.asr, &self.db].into_iter().filter(|_| self.hearing.is_some());
        std::iter::once(&self.io).chain(hearing).map(|meter| meter.summary()).collect()
    }

    /// Windows of the files that were transcribed so far.
    pub fn window_counts(&self) -> WindowCounts {
        self.hearing.as_ref().map(|h| h.transcriber.window_counts()).unwrap_or_default()
    }

    /// The store between machines, if there is one.
    pub fn handover(&self) -> Option<&Handover> {
        self.shared.handover.as_ref()
    }

    /// How the model is run; none where there is no model.
    pub fn device(&self) -> Option<String> {
        self.hearing.as_ref().map(|h| format!("{}, {}", h.transcriber.model(), h.transcriber.plan()))
    }

    /// Closes the entry and waits until every stage has drained.
    pub async fn close(&self) {
        {
            let mut entries = self.entries.lock().unwrap_or_else(|e| e.into_inner());
            (entries.fetch, entries.transcribe) = (None, None);
        }
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(|e| e.into_inner()));
        while tasks.join_next().await.is_some() {}
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(|e| e.into_inner()));
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join())));
        if joined.await.is_err() {
            tracing::error!("a speech thread panicked");
        }
        self.watch.abort();
    }

    /// Where files lie while items are in flight.
    pub fn spool(&self) -> &Spool {
        &self.shared.spool
    }
}

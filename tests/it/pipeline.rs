//! The stages with an engine that does as it is told, on a real store, and without a queue: a test hands in jobs itself.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use spoken::decode::DecodeOptions;
use spoken::embed::{EmbedOptions, Embedder, PassageOptions};
use spoken::event::{Event, Events, Step};
use spoken::fetch::{FetchOptions, Fetcher};
use spoken::media::{Failure, FailureClass, Item, Locator, MediaId, Metadata};
use spoken::pipeline::backlog::Backlog;
use spoken::pipeline::embedders::{Embedders, LoadEmbedder};
use spoken::pipeline::spool::Spool;
use spoken::pipeline::{Bringing, Hearing, Meters, Pipeline, Sizes, Steps};
use spoken::queue::{Kind, LEASE, Outcome};
use spoken::store::{Claim, Store};
use spoken::transcribe::{
    Compute, DecodeOptions as Wanted, Device, Engine, EngineError, Input, InputKind, Loaded, Plan, TimedText,
    TranscribeOptions, Transcriber, WindowText,
};
use spoken::ytdlp::{YtDlp, YtDlpOptions};
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::cli::embedding_model;
use super::postgres::tools_dir;
use super::store;
use super::transcribe::fixtures;

/// How long anything here may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers as `call` does, whatever is said.
struct Fake {
    languages: Vec<String>,
    call: Box<dyn Fn() -> Result<(), EngineError> + Send + Sync>,
}

impl Engine for Fake {
    fn name(&self) -> &str {
        "fake"
    }
    fn input(&self) -> InputKind {
        InputKind::Samples
    }
    fn languages(&self) -> &[String] {
        &self.languages
    }
    fn transcribe(&self, batch: &[Input<'_>], _: f32, _: &Wanted) -> Result<Vec<WindowText>, EngineError> {
        (self.call)()?;
        let said = TimedText {
            start_ms: 0,
            end_ms: Some(900),
            text: "That is what was said here.".to_owned(),
            words: Vec::new(),
        };
        let text = WindowText {
            language: "en".to_owned(),
            language_prob: 1.0,
            segments: vec![said],
            avg_logprob: -0.1,
            no_speech_prob: 0.0,
            compression_ratio: 1.0,
            temperature: 0.0,
        };
        Ok(vec![text; batch.len()])
    }
}

/// A library, and a data directory.
struct Ground {
    store: Store,
    dir: TempDir,
}

impl Ground {
    async fn new() -> Self {
        Self { store: store::store().await, dir: tempfile::tempdir().unwrap() }
    }

    /// A new item: the sample recording under another name.
    async fn add(&self, name: &str) -> MediaId {
        let path = fixtures().join("media/voice-memo.wav");
        let item = Item { locator: Locator::File(path), ..store::item(name) };
        self.store.upsert(&item, "test").await.unwrap();
        item.media_id
    }

    /// Where an item's files lie.
    fn folder(&self, item: MediaId) -> PathBuf {
        self.dir.path().join("spool/worker").join(item.to_string())
    }

    /// Starts the stages: two workers for I/O and one of everything else, and room in the spool for `spool_bytes`.
    async fn start(
        self,
        spool_bytes: u64,
        load: LoadEmbedder,
        call: impl Fn() -> Result<(), EngineError> + Send + Sync + 'static,
    ) -> Stages {
        let (store, dir) = (&self.store, &self.dir);
        let sizes = Sizes { io_workers: 2, asr_workers: 1, db_workers: 1, max_attempts: 5 };
        let meters = Meters::new(&sizes, 1);
        let plan = Plan {
            device: Device::Cpu,
            devices: 1,
            load_ms: 0,
            compute: Compute::Int8,
            replicas: 1,
            threads: 1,
            batch_size: 16,
            feeders: 1,
            reasons: Vec::new(),
        };
        let engine = Box::new(Fake { languages: vec!["en".to_owned()], call: Box::new(call) });
        let loaded = Loaded { engine, plan, identity: "fake".to_owned(), fallbacks: Vec::new() };
        let (speech, asr) = (meters.speech.clone(), meters.asr.clone());
        let transcriber =
            Transcriber::with_engine(loaded, &TranscribeOptions::default(), speech, asr).unwrap();
        let model = embedding_model().display().to_string();
        let options = EmbedOptions::new(model, dir.path(), tools_dir());
        let embedder = tokio::task::spawn_blocking(move || Embedder::load(&options)).await.unwrap().unwrap();
        let fetching = FetchOptions::new(YtDlp::new(YtDlpOptions::in_tools(&tools_dir())));
        let steps = Steps {
            bringing: Some(Bringing {
                fetcher: Fetcher::new(fetching).unwrap(),
                decode: DecodeOptions::default(),
                backlog: Backlog::default(),
                lease: LEASE,
            }),
            hearing: Some(Hearing {
                transcriber,
                passages: PassageOptions::default(),
                embedders: Embedders::new(embedder, load),
            }),
            handover: None,
            store: store.clone(),
            spool: Spool::open(dir.path(), "worker", spool_bytes, 0).unwrap(),
        };
        let (events, told) = Events::channel();
        let (stop, cancel) = (CancellationToken::new(), CancellationToken::new());
        let pipeline =
            Pipeline::start(steps, sizes, meters, "worker".to_owned(), events, stop, cancel).unwrap();
        Stages { ground: self, pipeline, told }
    }
}

/// The running stages.
struct Stages {
    ground: Ground,
    pipeline: Arc<Pipeline>,
    told: UnboundedReceiver<Event>,
}

impl Stages {
    /// Hands a job in and does not wait for its end.
    fn begin(&self, item: MediaId, generation: i32) -> JoinHandle<Outcome> {
        let pipeline = self.pipeline.clone();
        tokio::spawn(async move { pipeline.process(item, generation, Kind::Fetch).await })
    }

    async fn process(&self, item: MediaId) -> Outcome {
        ended(self.begin(item, 0)).await
    }

    /// Waits until an item enters a step.
    async fn until(&mut self, wanted: Step) {
        let told = async {
            while let Some(event) = self.told.recv().await {
                if matches!(event, Event::StepStarted { step, .. } if step == wanted) {
                    return;
                }
            }
        };
        timeout(PATIENCE, told).await.expect("the step is never entered");
    }
}

/// The answer to a job.
async fn ended(job: JoinHandle<Outcome>) -> Outcome {
    timeout(PATIENCE, job).await.expect("the job is never answered").unwrap()
}

/// Nothing takes the embedding model's place.
fn no_other() -> LoadEmbedder {
    Box::new(|| unreachable!("no other model answers"))
}

fn exists(path: &Path) -> bool {
    path.try_exists().unwrap()
}

fn failing() -> Result<(), EngineError> {
    Err(EngineError::Failed("as the test wants it".to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_wait_for_another_attempt_leave_room_for_others() {
    let stages = Ground::new().await.start(1, no_other(), failing).await;
    for name in ["first", "second"] {
        let item = stages.ground.add(name).await;
        let outcome = stages.process(item).await;
        assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
        assert!(!exists(&stages.ground.folder(item)), "its audio is kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_an_item_goes_when_the_item_is_over() {
    let ground = Ground::new().await;
    let (over, waiting) = (ground.add("over").await, ground.add("waiting").await);
    sqlx::query("UPDATE media SET state = 'failed' WHERE media_id = $1")
        .bind(over.0)
        .execute(ground.store.pool())
        .await
        .unwrap();
    for item in [over, waiting] {
        std::fs::create_dir_all(ground.folder(item)).unwrap();
        std::fs::write(ground.folder(item).join("download.part"), "a part").unwrap();
    }
    let stages = ground.start(1, no_other(), failing).await;
    let gone = async {
        while exists(&stages.ground.folder(over)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("what was left of an item that is over stays");
    assert!(exists(&stages.ground.folder(waiting)), "what another attempt goes on from is gone");
}

/// Cancelled on request and asked for again: of the next generation, with a new fence.
async fn cancel_and_retry(store: &Store, item: MediaId) {
    let sql = "UPDATE media SET state = 'queued', generation = generation + 1, fence = fence + 1 WHERE media_id = $1";
    sqlx::query(sql).bind(item.0).execute(store.pool()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_an_older_generation_takes_nothing_from_the_one_that_came_after() {
    let stages = Ground::new().await.start(u64::MAX, no_other(), failing).await;
    let store = &stages.ground.store;
    let item = stages.ground.add("item").await;
    cancel_and_retry(store, item).await;
    let Claim::Work(work) = store.claim_for_job(item, 1, "elsewhere").await.unwrap() else {
        panic!("not claimed")
    };
    assert_eq!(stages.process(item).await, Outcome::Done);
    assert_eq!(store.lost(&[work.claimed]).await.unwrap(), [], "the item was taken away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_claim_leaves_the_files_of_the_next_one_in_this_process() {
    let (allow, allowed) = mpsc::channel::<()>();
    let allowed = Mutex::new(allowed);
    let call = move || {
        allowed.lock().unwrap().recv().unwrap();
        Ok(())
    };
    let mut stages = Ground::new().await.start(u64::MAX, no_other(), call).await;
    let item = stages.ground.add("item").await;
    let former = stages.begin(item, 0);
    stages.until(Step::Transcribe).await;
    cancel_and_retry(&stages.ground.store, item).await;
    let latter = stages.begin(item, 1);
    stages.until(Step::Transcribe).await;
    allow.send(()).unwrap();
    assert_eq!(ended(former).await, Outcome::LeaseLost);
    assert!(exists(&stages.ground.folder(item).join("audio.pcm")), "the files of another claim were removed");
    // As often as the model is asked.
    for _ in 0..99 {
        let _ = allow.send(());
    }
    assert_eq!(ended(latter).await, Outcome::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_kind_that_is_not_worked_on_here_is_answered() {
    let stages = Ground::new().await.start(u64::MAX, no_other(), failing).await;
    let answer = stages.pipeline.process(MediaId::new("test", "item"), 0, Kind::Transcribe);
    let outcome = timeout(PATIENCE, answer).await.expect("the job is never answered");
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_whose_step_panics_is_told_to_the_queue_and_the_next_one_is_stored() {
    let ground = Ground::new().await;
    // Another model answers searches here: the one that is loaded has to be changed.
    let known = ground.add("known").await;
    let Claim::Work(work) = ground.store.claim(known, "worker").await.unwrap() else { panic!("not claimed") };
    let results = (Metadata::default(), store::transcript(Vec::new()), store::model());
    ground.store.complete(&work.claimed, &results.0, &results.1, &[], &[], &results.2).await.unwrap();
    let asked = AtomicUsize::new(0);
    let load: LoadEmbedder = Box::new(move || {
        assert!(asked.fetch_add(1, SeqCst) > 0, "as the test wants it");
        Box::pin(async { Err(Failure::new(FailureClass::Setup, "there is no other model")) })
    });
    let stages = ground.start(u64::MAX, load, || Ok(())).await;
    let (bad, good) = (stages.ground.add("bad").await, stages.ground.add("good").await);
    let answer = timeout(PATIENCE, stages.begin(bad, 0)).await.expect("the job is never answered");
    assert!(answer.is_err_and(|error| error.is_panic()), "the queue does not hear of the panic");
    assert_eq!(stages.process(good).await, Outcome::Done);
    assert!(!exists(&stages.ground.folder(bad)), "its audio is kept");
}

//! Measures the queue itself: items that need no work, claimed and ended as `ingest` does it.
//!
//! Several of these on one database show what an item costs beside its own work, and that none is worked on twice:
//! each says on standard output when it begins and ends an item. Only on a database that holds nothing else.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::app::world::World;
use crate::cli::{DrillArgs, EXIT_OK};
use crate::media::{Coverage, Item, Locator, MediaId, Metadata, Transcript};
use crate::queue::place::Lane;
use crate::queue::{Control, Entry, Outcome, Queue, QueueOptions};
use crate::store::{Claim, EmbeddingModel, Store};

/// What the made-up items are called.
const EXTRACTOR: &str = "drill";

/// `spoken queue drill`.
pub(super) async fn drill(world: &World, control: &Control, args: &DrillArgs) -> anyhow::Result<u8> {
    let others: bool = sqlx::query_scalar("select exists (select from media where extractor <> $1)")
        .bind(EXTRACTOR)
        .fetch_one(world.store.pool())
        .await?;
    if others {
        bail!(
            "this library holds other items; measure on a database of its own (DATABASE_URL or --data-dir)"
        );
    }
    if args.add > 0 {
        add(&world.store, control, args.add).await?;
    }
    if let Some(limit) = args.work {
        work(world, limit, args.concurrency).await?;
    }
    Ok(EXIT_OK)
}

async fn add(store: &Store, control: &Control, count: u32) -> anyhow::Result<()> {
    let before: i64 = sqlx::query_scalar("select count(*) from media").fetch_one(store.pool()).await?;
    let began = Instant::now();
    let numbers: Vec<i64> = (before..before + i64::from(count)).collect();
    for batch in numbers.chunks(1000) {
        let items: Vec<Item> = batch.iter().map(|n| item(*n)).collect();
        store.upsert_many(&items, EXTRACTOR).await?;
        let entries: Vec<Entry> = items
            .iter()
            .zip(batch)
            .map(|(item, n)| Entry {
                handicap: Duration::from_secs(n.unsigned_abs() % 100_000),
                ..Entry::new(item.media_id, 0)
            })
            .collect();
        control.enqueue(&entries, Lane::Ordinary).await?;
    }
    println!("{}", json!({"added": count, "ms": began.elapsed().as_millis() as u64}));
    Ok(())
}

fn item(n: i64) -> Item {
    let name = n.to_string();
    Item {
        media_id: MediaId::new(EXTRACTOR, &name),
        extractor: EXTRACTOR.into(),
        source_id: name.clone(),
        locator: Locator::File(format!("/drill/{name}").into()),
        source: format!("/drill/{name}"),
        title: name,
        duration_ms: Some(1000),
    }
}

async fn work(world: &World, limit: u32, concurrency: usize) -> anyhow::Result<()> {
    let mut options = QueueOptions::new(world.config.data_dir.join("workers"), concurrency);
    options.poll_interval = super::super::works::TICK;
    options.record_claims = true;
    let mut queue = Queue::open(world.url(), options).await?;
    queue.bury_dead();
    let worker = queue.worker_id().to_string();
    let (stop, done) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
    let began = Instant::now();
    let handler = {
        let (store, stop, done) = (world.store.clone(), stop.clone(), done.clone());
        move |media_id: MediaId, _| {
            let (store, stop, done, worker) = (store.clone(), stop.clone(), done.clone(), worker.clone());
            async move {
                let outcome = nothing(&store, media_id, &worker).await;
                if done.fetch_add(1, Ordering::SeqCst) + 1 >= limit {
                    stop.cancel();
                }
                outcome
            }
        }
    };
    let drained = async {
        while !stop.is_cancelled() {
            if queue.drained().await.unwrap_or(false) {
                stop.cancel();
            }
            tokio::time::sleep(super::super::works::TICK).await;
        }
    };
    tokio::join!(queue.run(handler, stop.clone()), drained);
    let wall = began.elapsed();
    let times = queue.claim_times();
    queue.close().await?;
    let micros = |times: &[Duration]| times.iter().map(|t| t.as_micros() as u64).collect::<Vec<_>>();
    println!(
        "{}",
        json!({"worked": done.load(Ordering::SeqCst), "ms": wall.as_millis() as u64,
               "claims_us": micros(&times.found), "empty_us": micros(&times.none)})
    );
    Ok(())
}

/// All that the queue asks of an item, and nothing of the item itself: claim it, store an empty transcript.
async fn nothing(store: &Store, media_id: MediaId, worker: &str) -> Outcome {
    let retry = |error: String| Outcome::Retry { after: Duration::from_secs(1), message: error };
    let work = match store.claim(media_id, worker).await {
        Ok(Claim::Work(work)) => work,
        Ok(_) => return Outcome::Done,
        Err(error) => return retry(error.to_string()),
    };
    say(&json!({"began": media_id, "fence": work.claimed.fence}));
    let transcript = Transcript {
        segments: Vec::new(),
        language: "en".into(),
        duration_ms: 1000,
        speech_ms: 0,
        model: EXTRACTOR.into(),
        dropped: Vec::new(),
        coverage: Coverage::default(),
    };
    let model = EmbeddingModel { model_id: EXTRACTOR.into(), dimension: 1 };
    match store.complete(&work.claimed, &Metadata::default(), &transcript, &[], &[], &model).await {
        Ok(()) => {
            say(&json!({"ended": media_id}));
            Outcome::Done
        }
        Err(error) => retry(error.to_string()),
    }
}

/// A line of its own, at once: the process may be killed.
fn say(event: &serde_json::Value) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: the work goes on.
    let _ = writeln!(out, "{event}").and_then(|()| out.flush());
}

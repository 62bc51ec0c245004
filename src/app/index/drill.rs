//! Measures writing and searching: made transcripts through [`crate::store::Store::complete`], made questions through
//! [`crate::search::search`]. Only on a database that holds nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::json;

use super::made::{self, Speech};
use crate::app::world::World;
use crate::cli::{EXIT_OK, IndexDrillArgs};
use crate::media::Metadata;
use crate::store::{Claim, Store};

/// Items listed at a time.
const BATCH: u64 = 20;

/// `spoken index drill`.
pub(super) async fn drill(world: &World, args: &IndexDrillArgs) -> anyhow::Result<u8> {
    let others: bool = sqlx::query_scalar("select exists (select from media where extractor <> $1)")
        .bind(made::EXTRACTOR)
        .fetch_one(world.store.pool())
        .await?;
    if others {
        bail!(
            "this library holds other items; measure on a database of its own (DATABASE_URL or --data-dir)"
        );
    }
    if args.write > 0 {
        write(&world.store, args).await?;
    }
    Ok(EXIT_OK)
}

/// Passages there are. All items have the same number.
async fn passages(store: &Store) -> anyhow::Result<u64> {
    let items: i64 = sqlx::query_scalar("select count(*) from media where state = 'done'")
        .fetch_one(store.pool())
        .await?;
    Ok(items.unsigned_abs() * made::PASSAGES)
}

async fn write(store: &Store, args: &IndexDrillArgs) -> anyhow::Result<()> {
    let speech = Arc::new(Speech::new());
    let before = passages(store).await? / made::PASSAGES;
    let after = args.write.div_ceil(made::PASSAGES).max(before);
    let next = Arc::new(AtomicU64::new(before));
    let (began, making) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..args.writers.max(1) {
        let (store, speech, next, making) = (store.clone(), speech.clone(), next.clone(), making.clone());
        let pause = match args.rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(
                (BATCH * made::PASSAGES * args.writers.max(1) as u64) as f64 / rate as f64,
            ),
        };
        writers.spawn(async move {
            let mut due = tokio::time::interval(pause.max(Duration::from_micros(1)));
            loop {
                due.tick().await;
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                if first >= after {
                    return anyhow::Ok(());
                }
                for number in list(&store, first, after.min(first + BATCH)).await? {
                    let taken = one(&store, &speech, number).await?;
                    making.fetch_add(taken.as_micros() as u64, Ordering::Relaxed);
                }
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    let seconds = began.elapsed().as_secs_f64();
    let passages = (after - before) * made::PASSAGES;
    println!(
        "{}",
        json!({"written": passages, "seconds": seconds, "passages_a_second": passages as f64 / seconds,
               "making_seconds": making.load(Ordering::Relaxed) as f64 / 1e6})
    );
    Ok(())
}

async fn list(store: &Store, first: u64, end: u64) -> anyhow::Result<std::ops::Range<u64>> {
    let items: Vec<_> = (first..end).map(made::item).collect();
    store.upsert_many(&items, made::EXTRACTOR).await?;
    Ok(first..end)
}

/// Claims and completes one item, as a worker does; the time it took to make it up.
async fn one(store: &Store, speech: &Speech, number: u64) -> anyhow::Result<Duration> {
    let Claim::Work(work) = store.claim(made::item(number).media_id, made::EXTRACTOR).await? else {
        bail!("item {number} is in another hand");
    };
    let began = Instant::now();
    let made = speech.make(number, made::PASSAGES);
    let making = began.elapsed();
    let metadata = Metadata { channel: Some(made::channel(number)), ..Metadata::default() };
    store
        .complete(
            &work.claimed,
            &metadata,
            &made.transcript,
            &made.passages,
            &made.vectors,
            &made::model(),
        )
        .await?;
    Ok(making)
}

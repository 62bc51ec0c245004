//! Measures writing and searching: made transcripts through [`crate::store::Store::complete`], made questions through
//! [`crate::search::corrected`] and [`crate::search::search`], as `spoken search` asks them. Only on a database that holds
//! nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::json;

use super::made::{self, Speech};
use crate::app::world::World;
use crate::cli::{EXIT_OK, IndexDrillArgs};
use crate::media::{MediaId, Metadata};
use crate::search::{self, Filter, Mode, QueryVector, SearchRequest};
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
    if args.ask > 0 {
        ask(&world.store, args).await?;
    }
    Ok(EXIT_OK)
}

/// Passages there are. All items have the same number.
async fn passages(store: &Store) -> anyhow::Result<u64> {
    let items: i64 =
        sqlx::query_scalar("select count(*) from media where state = 'done'").fetch_one(store.pool()).await?;
    Ok(items.unsigned_abs() * made::PASSAGES)
}

async fn write(store: &Store, args: &IndexDrillArgs) -> anyhow::Result<()> {
    let speech = Arc::new(Speech::new());
    let before = passages(store).await? / made::PASSAGES;
    let after = args.write.div_ceil(made::PASSAGES).max(before);
    let next = Arc::new(AtomicU64::new(before));
    let (began, making) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let mut writers = tokio::task::JoinSet::new();
    let count = args.writers.max(1) as u32;
    for writer in 0..count {
        let (store, speech, next, making) = (store.clone(), speech.clone(), next.clone(), making.clone());
        // Items come evenly, as transcribed ones do: each writer's in the gaps between the others'.
        let apart = match args.rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(made::PASSAGES as f64 / rate as f64),
        };
        writers.spawn(async move {
            tokio::time::sleep(apart * writer).await;
            let mut due = tokio::time::interval((apart * count).max(Duration::from_micros(1)));
            loop {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                if first >= after {
                    return anyhow::Ok(());
                }
                for number in list(&store, first, after.min(first + BATCH)).await? {
                    due.tick().await;
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
    let learning = Instant::now();
    store.learn_words(Duration::MAX).await?;
    println!(
        "{}",
        json!({"written": passages, "seconds": seconds, "passages_a_second": passages as f64 / seconds,
               "making_seconds": making.load(Ordering::Relaxed) as f64 / 1e6,
               "learning_seconds": learning.elapsed().as_secs_f64()})
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
        .complete(&work.claimed, &metadata, &made.transcript, &made.passages, &made.vectors, &made::model())
        .await?;
    Ok(making)
}

/// Kinds of questions, asked in turn. All words are of one passage, so that the answer is known.
const KINDS: [&str; 5] = ["sentence", "rare", "some", "common", "question"];

/// A made question and its answer.
struct Question {
    kind: &'static str,
    text: String,
    vector: Vec<f32>,
    item: MediaId,
}

fn question(speech: &Speech, number: u64, passages: u64, wanted: impl Fn(u64) -> bool) -> Option<Question> {
    let kind = KINDS[(number % KINDS.len() as u64) as usize];
    let mut draw = made::Draw::of(11, number);
    let items = passages / made::PASSAGES;
    let item = (0..100_000).map(|_| draw.below(items)).find(|item| wanted(*item))?;
    let passage = draw.below(made::PASSAGES);
    let said = speech.words(item, passage);
    let text = match kind {
        // Six words of one segment as they were said.
        "sentence" => said[3..9].to_vec(),
        "rare" => speech.by_rank(&said, 2_000..u64::MAX, 3),
        "common" => speech.by_rank(&said, 80..1_000, 3),
        "some" => said.iter().step_by(9).copied().collect(),
        // Half of them function words, as in a question.
        _ => said.iter().skip(1).step_by(5).copied().collect(),
    };
    let vector = made::near(item, passage, &mut draw);
    Some(Question { kind, text: text.join(" "), vector, item: made::item(item).media_id })
}

async fn ask(store: &Store, args: &IndexDrillArgs) -> anyhow::Result<()> {
    let speech = Speech::new();
    let passages = passages(store).await?;
    let filter = Filter {
        channels: args.channel.iter().cloned().collect(),
        languages: args.language.iter().cloned().collect(),
        ..Filter::default()
    };
    let wanted = |item: u64| {
        args.channel.as_ref().is_none_or(|name| *name == made::channel(item))
            && args.language.as_ref().is_none_or(|code| code == made::language(item))
    };
    let model = made::model();
    let mut times: Vec<(&str, f64, f64, bool)> = Vec::new();
    for number in 0..args.warm + args.ask {
        let Some(question) = question(&speech, args.seed + number, passages, wanted) else {
            bail!("nothing that was written passes the filter");
        };
        let request = SearchRequest {
            query: question.text,
            limit: 10,
            mode: Mode::Hybrid,
            filter: filter.clone(),
            ..SearchRequest::default()
        };
        let vector = QueryVector { model: &model, vector: &question.vector };
        let began = Instant::now();
        let _ = search::corrected(store, &request.query, |_| true).await?;
        let corrected = began.elapsed();
        let answer = search::search(store, &request, Some(vector)).await?;
        let whole = began.elapsed();
        if number >= args.warm {
            let found = answer.hits.iter().any(|hit| hit.media_id == question.item);
            times.push((question.kind, whole.as_secs_f64() * 1e3, corrected.as_secs_f64() * 1e3, found));
        }
    }
    let of = |kind: Option<&str>| {
        let these: Vec<_> = times.iter().filter(|t| kind.is_none_or(|kind| kind == t.0)).collect();
        let whole: Vec<f64> = these.iter().map(|t| t.1).collect();
        json!({
            "asked": these.len(),
            "p50_ms": percentile(&whole, 0.50),
            "p95_ms": percentile(&whole, 0.95),
            "max_ms": percentile(&whole, 1.0),
            "correction_p95_ms": percentile(&these.iter().map(|t| t.2).collect::<Vec<_>>(), 0.95),
            "found_in_ten": these.iter().filter(|t| t.3).count() as f64 / these.len().max(1) as f64,
        })
    };
    let kinds: serde_json::Map<String, serde_json::Value> =
        KINDS.iter().map(|kind| ((*kind).to_owned(), of(Some(kind)))).collect();
    println!("{}", json!({"passages": passages, "all": of(None), "kinds": kinds}));
    Ok(())
}

/// The value that this share of all does not exceed.
fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

//! `spoken reembed`: another embedding model's vectors beside those that answer, and the change over to them.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use console::style;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::patience::patiently;
use super::world::World;
use super::{models, steps};
use crate::cli::{EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, ReembedArgs};
use crate::config::LogFormat;
use crate::embed::{EmbedOptions, Embedder, Heading};
use crate::media::MediaId;
use crate::report::figures;
use crate::store::{Added, EmbeddingModel, ItemLocks, Lacking, Store, Switched};
use crate::telemetry::sanitize;

/// Items in work at once: enough that short ones fill the model's batches.
const AT_ONCE: usize = 4;
/// Passages embedded and written at a time: what a kill costs at most, for each item in work.
const BATCH: u32 = 64;
/// Texts in a batch of the model.
const MODEL_BATCH: usize = 16;
/// Items asked for at a time.
const PAGE: u32 = 64;
/// How long to wait where all that is missing is in others' hands.
const OTHERS: Duration = Duration::from_millis(500);
/// How often progress is told, in lines.
const LINES: Duration = Duration::from_secs(10);
/// And to a program.
const JSON_LINES: Duration = Duration::from_secs(1);

/// `spoken reembed`.
///
/// # Errors
/// The database's; a model that cannot be had or does not work.
pub async fn reembed(world: &World, args: &ReembedArgs, stop: &CancellationToken) -> anyhow::Result<u8> {
    let store = &world.store;
    if args.status {
        return status(world, args.json).await;
    }
    let started = Instant::now();
    let former = store.answering().await?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = EmbedOptions { threads: cores, batch: MODEL_BATCH, ..steps::embed_options(&world.config) };
    let wanted = {
        let options = options.clone();
        tokio::task::spawn_blocking(move || options.model_id()).await??
    };
    let known = store.embedding_models().await?.into_iter().find(|m| m.model_id == wanted);
    // What is complete needs no model to be loaded.
    let complete = known.filter(|m| m.items == m.of && m.of > 0);
    let complete = complete
        .map(|m| EmbeddingModel { model_id: m.model_id, dimension: m.dimension.unsigned_abs() as usize });
    let mut filled = None;
    if let Some(model) = complete
        && (args.beside || !matches!(store.switch(&model).await?, Switched::Lacks(_)))
    {
        filled = Some(Filled { model, passages: 0, failed: 0, complete: true });
    }
    let filled = match filled {
        Some(filled) => filled,
        None => {
            let embedder = models::load(options).await?;
            models::note(store, &embedder, &models::setting(&world.config)).await;
            let (progress, teller) = Progress::start(world, args, embedder.model_id()).await?;
            let filling = Filling { store, embedder, progress: &progress, stop, failed: Mutex::default() };
            let result = filling.run(!args.beside).await;
            drop(teller);
            progress.end();
            result?
        }
    };
    store.name_answering().await?;
    let now = store.answering().await?;
    let answers = now.as_ref().is_some_and(|a| a.model == filled.model);
    if let (Some(former), Some(now)) = (&former, &now)
        && former.table != now.table
        && store.has_vector_index(&former.table).await?
        && !store.has_vector_index(&now.table).await?
    {
        eprintln!(
            "the former model's vectors had an index, the new one's have none yet: `spoken index build` makes it"
        );
    }
    let dropped = if args.drop_old && answers { drop_old(store).await? } else { Dropped::default() };
    let (items, of) = store.embedded(&filled.model.model_id).await?;
    if args.json {
        let summary = json!({
            "model_id": filled.model.model_id, "dimension": filled.model.dimension, "answers": answers,
            "items": items, "of": of, "passages": filled.passages, "failed": filled.failed,
            "dropped": dropped.tables, "wall_ms": started.elapsed().as_millis() as u64,
            "interrupted": stop.is_cancelled() && !filled.complete,
        });
        println!("{summary}");
    } else {
        tell(world, &filled, answers, args, (items, of), started.elapsed());
        dropped.tell();
    }
    Ok(match () {
        () if filled.failed > 0 => EXIT_FAILED,
        () if !filled.complete => EXIT_INTERRUPTED,
        () => EXIT_OK,
    })
}

/// What was done, for people.
fn tell(
    world: &World,
    filled: &Filled,
    answers: bool,
    args: &ReembedArgs,
    (items, of): (i64, i64),
    took: Duration,
) {
    let name = sanitize(&filled.model.model_id).into_owned();
    let passages = figures::count(filled.passages, "passage");
    let took = figures::duration(took.as_millis() as u64);
    if filled.passages > 0 {
        eprintln!("{passages} embedded with {name} in {took}");
    }
    if filled.complete && answers {
        eprintln!("searches are answered by {name}: {items} of {of} items");
        let said = steps::embed_options(&world.config).model;
        if args.model.is_some() {
            eprintln!(
                "{}",
                style(format!("set EMBEDDING_MODEL={said}, so that it is meant from now on"))
                    .for_stderr()
                    .dim()
            );
        }
    } else if filled.complete {
        eprintln!("{name} is complete ({items} of {of} items) and does not answer; without --beside it will");
    } else if filled.failed == 0 {
        eprintln!("stopped at {items} of {of} items; the same command goes on from there");
    } else {
        eprintln!(
            "{} could not be embedded, so {name} does not answer yet",
            figures::count(filled.failed, "item")
        );
    }
}

/// `spoken reembed --status`.
async fn status(world: &World, json: bool) -> anyhow::Result<u8> {
    let models = world.store.embedding_models().await?;
    if json {
        println!("{}", json!({ "models": models }));
        return Ok(EXIT_OK);
    }
    if models.is_empty() {
        eprintln!("nothing was embedded yet");
    }
    for model in &models {
        let state = match (model.answers, model.items == model.of) {
            (true, _) => style("answers").green(),
            (false, true) => style("complete").cyan(),
            (false, false) => style("filling").yellow(),
        };
        println!(
            "{}  {state}  {} of {} items, {} numbers a vector, {}",
            style(sanitize(&model.model_id)).bold(),
            figures::grouped(model.items.unsigned_abs()),
            figures::grouped(model.of.unsigned_abs()),
            model.dimension,
            figures::bytes(model.bytes.unsigned_abs()),
        );
    }
    let options = steps::embed_options(&world.config);
    let configured = tokio::task::spawn_blocking(move || options.model_id()).await?;
    if let Some(answering) = models.iter().find(|m| m.answers)
        && configured.as_ref().is_ok_and(|id| *id != answering.model_id)
    {
        eprintln!(
            "EMBEDDING_MODEL is {}: `spoken reembed` changes over to it",
            sanitize(&models::setting(&world.config))
        );
    }
    Ok(EXIT_OK)
}

/// Tables that were dropped, and those that were not.
#[derive(Debug, Default)]
struct Dropped {
    tables: Vec<String>,
    in_use: Vec<String>,
}

impl Dropped {
    fn tell(&self) {
        for table in &self.tables {
            eprintln!("dropped {table}");
        }
        for table in &self.in_use {
            eprintln!("{table} stays: another process uses it; the same command again drops it then");
        }
    }
}

async fn drop_old(store: &Store) -> anyhow::Result<Dropped> {
    let mut dropped = Dropped::default();
    for model in store.embedding_models().await?.into_iter().filter(|m| !m.answers) {
        if store.drop_embedding_model(&model.model_id, model.dimension).await? {
            dropped.tables.push(model.table);
        } else {
            dropped.in_use.push(model.table);
        }
    }
    Ok(dropped)
}

/// What came of filling a table.
struct Filled {
    model: EmbeddingModel,
    /// Passages embedded here.
    passages: u64,
    /// Items that could not be.
    failed: u64,
    /// Nothing is missing.
    complete: bool,
}

/// A table being filled.
struct Filling<'a> {
    store: &'a Store,
    embedder: Embedder,
    progress: &'a Progress,
    stop: &'a CancellationToken,
    /// Items that cannot be embedded.
    failed: Mutex<HashSet<MediaId>>,
}

impl Filling<'_> {
    /// Embeds until nothing is missing, or until told to stop; with `switch` the model then answers.
    async fn run(&self, switch: bool) -> anyhow::Result<Filled> {
        let model = models::identity(&self.embedder);
        let table = self.store.ensure_embedding_model(&model).await?;
        let locks = tokio::sync::Mutex::new(self.locks(&table).await?);
        let complete = loop {
            let more = self.round(&model, &table, &locks).await?;
            if self.stop.is_cancelled() {
                break false;
            }
            let lacks = if switch {
                match patiently(self.stop, || self.store.switch(&model)).await? {
                    Switched::Lacks(n) => n,
                    Switched::Yes | Switched::Already => break true,
                }
            } else {
                let (items, of) = patiently(self.stop, || self.store.embedded(&model.model_id)).await?;
                of - items
            };
            let failed = self.failed().len();
            if lacks <= 0 {
                break true;
            }
            if lacks.unsigned_abs() <= failed as u64 && !more {
                break false;
            }
            if !more {
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = tokio::time::sleep(OTHERS) => {}
                }
            }
        };
        locks.into_inner().close().await;
        Ok(Filled {
            passages: self.progress.passages.load(Relaxed),
            failed: self.failed().len() as u64,
            complete,
            model,
        })
    }

    async fn locks(&self, table: &str) -> anyhow::Result<ItemLocks> {
        Ok(patiently(self.stop, || self.store.item_locks(table)).await?)
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, HashSet<MediaId>> {
        self.failed.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Goes once through all items that lack vectors; whether anything was done.
    async fn round(
        &self,
        model: &EmbeddingModel,
        table: &str,
        locks: &tokio::sync::Mutex<ItemLocks>,
    ) -> anyhow::Result<bool> {
        let done = AtomicBool::new(false);
        let mut after = None;
        while !self.stop.is_cancelled() {
            let page = patiently(self.stop, || self.store.lacking(&model.model_id, after, PAGE)).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.media_id);
            let mut work = futures::stream::iter(page)
                .map(|item| {
                    let done = &done;
                    async move {
                        if self.stop.is_cancelled() || self.failed().contains(&item.media_id) {
                            return anyhow::Ok(());
                        }
                        if self.take(table, locks, item.media_id).await? {
                            done.store(true, Relaxed);
                            let embedded = self.item(&item, model, table).await;
                            // Gone with its connection at the latest.
                            let _ = locks.lock().await.leave(item.media_id).await;
                            embedded?;
                        }
                        Ok(())
                    }
                })
                .buffer_unordered(AT_ONCE);
            while let Some(done) = work.next().await {
                done?;
            }
        }
        Ok(done.into_inner())
    }

    /// Makes an item ours, unless it is another process's. A lock that went with a broken connection is no loss: what is
    /// written twice is written once.
    async fn take(
        &self,
        table: &str,
        locks: &tokio::sync::Mutex<ItemLocks>,
        media_id: MediaId,
    ) -> anyhow::Result<bool> {
        let mut held = locks.lock().await;
        loop {
            match held.take(media_id).await {
                Ok(taken) => return Ok(taken),
                Err(error) if error.is_transient() && !self.stop.is_cancelled() => {
                    tracing::debug!(%error, "the locks of items are gone; making new ones");
                    *held = self.locks(table).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Embeds what is missing of one item.
    async fn item(&self, item: &Lacking, model: &EmbeddingModel, table: &str) -> anyhow::Result<()> {
        let heading = Heading::new(&item.title, item.channel.as_deref());
        while !self.stop.is_cancelled() {
            let bare = patiently(self.stop, || self.store.bare_passages(item, table, BATCH)).await?;
            if bare.is_empty() {
                if patiently(self.stop, || self.store.set_embedded(item, model)).await? {
                    self.progress.items.fetch_add(1, Relaxed);
                }
                return Ok(());
            }
            let (seqs, texts): (Vec<i32>, Vec<String>) = bare.into_iter().map(|b| (b.seq, b.text)).unzip();
            let vectors = match self.embedder.embed_under(&heading, texts).await {
                Ok(vectors) => vectors,
                Err(failure) => {
                    self.progress.say(&format!("{}: {failure}", sanitize(&item.title)));
                    self.failed().insert(item.media_id);
                    return Ok(());
                }
            };
            let vectors: Vec<(i32, Vec<f32>)> = seqs.into_iter().zip(vectors).collect();
            match patiently(self.stop, || self.store.add_vectors(item, model, &vectors)).await? {
                Added::Written(n) => {
                    self.progress.passages.fetch_add(n, Relaxed);
                }
                // Stored anew meanwhile: the next round finds it with its new passages.
                Added::Replaced => return Ok(()),
            }
        }
        Ok(())
    }
}

/// What is told while it goes on: a bar, lines, or JSON lines.
struct Progress {
    /// Passages embedded here.
    passages: AtomicU64,
    /// Items completed here.
    items: AtomicU64,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins to tell; ends with the second.
    async fn start(
        world: &World,
        args: &ReembedArgs,
        model_id: &str,
    ) -> anyhow::Result<(Arc<Self>, AbortOnDropHandle<()>)> {
        let id = model_id.to_owned();
        let (had, of) = world.store.embedded(&id).await?;
        let json = world.config.log_format == LogFormat::Json;
        let watched = world.config.log_format == LogFormat::Auto && !args.no_progress;
        let bar = (watched && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(of.unsigned_abs());
            if let Ok(style) =
                ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len} items  {msg}  {eta} left")
            {
                bar.set_style(style);
            }
            bar.set_position(had.unsigned_abs());
            bar.reset_eta();
            bar
        });
        let this = Arc::new(Self { passages: AtomicU64::new(0), items: AtomicU64::new(0), bar });
        let (told, store) = (Arc::clone(&this), world.store.clone());
        let started = Instant::now();
        let every = match (&this.bar, json) {
            (Some(_), _) | (None, true) => JSON_LINES,
            (None, false) => LINES,
        };
        let teller = tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                // All processes' items; of a database that is away the last figures stand.
                let Ok((items, of)) = store.embedded(&id).await else { continue };
                let passages = told.passages.load(Relaxed);
                let rate = passages as f64 / started.elapsed().as_secs_f64();
                match &told.bar {
                    Some(bar) => {
                        bar.set_length(of.unsigned_abs());
                        bar.set_position(items.unsigned_abs());
                        bar.set_message(format!("{rate:.0} passages/s"));
                    }
                    None if json => eprintln!(
                        "{}",
                        json!({"event": "embedding", "items": items, "of": of, "passages": passages,
                               "wall_ms": started.elapsed().as_millis() as u64})
                    ),
                    None => eprintln!(
                        "{items} of {of} items, {passages} passages embedded here, {rate:.0} a second"
                    ),
                }
            }
        });
        Ok((this, AbortOnDropHandle::new(teller)))
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

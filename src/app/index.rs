//! `spoken index`: the index of the vectors. It is built on command, and by itself after a run that has brought in all there
//! was ([`after_a_run`]).

mod drill;
mod made;
mod show;

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::signals::Stopping;
use super::world::World;
use crate::cli::{EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, IndexArgs, IndexBuildArgs, IndexCommand};
use crate::config::{Auto, Config, IndexBuild};
use crate::event::{Event, Events};
use crate::report::figures;
use crate::store::Store;
use crate::store::index::{
    BuildFacts, Built, MAX_INDEXED_DIMENSION, Means, Progress, Recall, VectorTable, graph_mb,
};

pub use show::{health, status};

/// Questions that recall is measured with, and the longest that the exact answers to them may take.
const SAMPLES: (usize, Duration) = (40, Duration::from_secs(20));
/// Passages that may still come, as a share of those there are, while an index is built by itself.
const SMALL_BACKLOG: f64 = 0.1;
/// How often a build that runs is told of where nobody looks at a terminal.
const TOLD_EVERY: Duration = Duration::from_secs(15);
/// How long words may be learnt after a run; searches learn the rest.
const LEARN: Duration = Duration::from_secs(10);
/// Pause before it is looked again whether another process's build is over.
const ELSEWHERE: Duration = Duration::from_secs(1);

/// `spoken index` and its commands.
///
/// # Errors
/// The database's, or standard output's.
pub async fn index(world: &World, args: &IndexArgs) -> anyhow::Result<u8> {
    match &args.command {
        IndexCommand::Build(args) => build(world, args).await,
        IndexCommand::Status(args) => status(world, args).await,
        IndexCommand::Drop => drop_all(&world.store).await,
        IndexCommand::Drill(args) => drill::drill(world, args).await,
    }
}

/// `spoken index build`: all tables of vectors, one after the other.
async fn build(world: &World, args: &IndexBuildArgs) -> anyhow::Result<u8> {
    let stopping = Stopping::default();
    let (events, _unheard) = Events::channel();
    let listener = stopping.listen(world.config.stop_grace(), events, None, || {})?;
    let mut told = Vec::new();
    let mut code = EXIT_OK;
    let tables = world.store.vector_tables().await?;
    if tables.is_empty() {
        eprintln!("there are no vectors yet: `spoken ingest FOLDER|URL…` brings something in");
    }
    for table in &tables {
        let made = build_one(world, table, args, &stopping.stop).await?;
        match &made {
            Made::Impossible => code = EXIT_FAILED,
            Made::Interrupted => code = EXIT_INTERRUPTED,
            Made::Now(..) | Made::Already | Made::Empty => {}
        }
        told.push(made.json(table));
        if code == EXIT_INTERRUPTED {
            break;
        }
    }
    listener.abort();
    if args.json {
        println!("{}", json!({"tables": told}));
    }
    Ok(code)
}

/// What became of one table.
enum Made {
    Now(BuildFacts, Option<Recall>),
    Already,
    Empty,
    Impossible,
    Interrupted,
}

impl Made {
    fn json(&self, table: &VectorTable) -> serde_json::Value {
        let mut told = json!({"table": table.table, "model": table.model.model_id, "built": matches!(self, Self::Now(..))});
        if let (Self::Now(facts, recall), Some(told)) = (self, told.as_object_mut()) {
            told.extend([
                ("rows".to_owned(), json!(facts.rows)),
                ("build_ms".to_owned(), json!(facts.took_ms)),
                ("memory_mb".to_owned(), json!(facts.memory_mb)),
                ("workers".to_owned(), json!(facts.workers)),
                ("ef_search".to_owned(), json!(recall.map(|r| r.ef_search))),
                ("recall".to_owned(), json!(recall.map(|r| r.share))),
            ]);
        }
        told
    }
}

/// Builds one index for somebody who waits for it.
async fn build_one(
    world: &World,
    table: &VectorTable,
    args: &IndexBuildArgs,
    cancel: &CancellationToken,
) -> anyhow::Result<Made> {
    let name = &table.model.model_id;
    if table.model.dimension > MAX_INDEXED_DIMENSION {
        eprintln!(
            "{name}: vectors of {} elements cannot be indexed ({MAX_INDEXED_DIMENSION} at most); they are compared one by one",
            table.model.dimension
        );
        return Ok(Made::Impossible);
    }
    if table.bytes == 0 && !world.store.has_vectors(table).await? {
        eprintln!("{name}: no vectors yet");
        return Ok(Made::Empty);
    }
    let means = means(world, table);
    let mut bar = Bar::new();
    let began = Instant::now();
    let mut said = false;
    loop {
        let result = world
            .store
            .build_index(table, means, args.again, cancel, |at| {
                if !std::mem::replace(&mut said, true) {
                    bar.say(&format!("{name}: building the index of {}", intent(table, means)));
                }
                bar.show(at, began.elapsed());
            })
            .await;
        bar.clear();
        match result? {
            Built::Now(facts) => {
                eprintln!("{name}: {}", built(&facts));
                let recall = note(world, table, Some(facts)).await?;
                if let Some(recall) = recall {
                    eprintln!("{name}: {}", found(recall, world.config.index_recall));
                }
                return Ok(Made::Now(facts, recall));
            }
            Built::Already => {
                eprintln!("{name}: the index is there already; --again builds it anew");
                return Ok(Made::Already);
            }
            Built::Cancelled => return Ok(Made::Interrupted),
            Built::Elsewhere => {
                if !std::mem::replace(&mut said, true) {
                    bar.say(&format!("{name}: another process builds the index; waiting for it"));
                }
                if let Some(at) = world.store.build_progress(&table.table).await? {
                    bar.show(&at, began.elapsed());
                }
                tokio::select! {
                    () = tokio::time::sleep(ELSEWHERE) => {}
                    () = cancel.cancelled() => return Ok(Made::Interrupted),
                }
            }
        }
    }
}

/// Measures how well a new index finds, and notes what is known about it.
async fn note(
    world: &World,
    table: &VectorTable,
    build: Option<BuildFacts>,
) -> anyhow::Result<Option<Recall>> {
    let wanted = world.config.index_recall as f32;
    let recall = world.store.measure_recall(&table.table, wanted, SAMPLES.0, SAMPLES.1).await?;
    if let Some(recall) = recall {
        world.store.note_index(&table.table, recall, build).await?;
    }
    Ok(recall)
}

/// What a build may use: on our own server, memory for the whole graph (of what is free, at most half) and all cores; on
/// another one, as that is set, unless the configuration says more.
fn means(world: &World, table: &VectorTable) -> Means {
    let needed = graph_mb(table.rows, table.model.dimension).max(64);
    let ours = world.is_private();
    let memory_mb = match world.config.index_memory_mb {
        Auto::Set(mb) => Some(mb),
        Auto::Auto if ours => Some(needed.min((free_mb() / 2).max(64))),
        Auto::Auto => None,
    };
    let workers = ours.then(|| {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // One leads. More than eight wait for each other's locks.
        (cores as u32).saturating_sub(1).min(8)
    });
    Means { memory_mb, workers }
}

/// MiB of memory that are free.
fn free_mb() -> u64 {
    use sysinfo::{MemoryRefreshKind, RefreshKind, System};
    let system = System::new_with_specifics(
        RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()),
    );
    let mut available = system.available_memory();
    if let Some(limits) = system.cgroup_limits() {
        available = available.min(limits.total_memory.saturating_sub(limits.rss));
    }
    available >> 20
}

/// `about 1,000,000 vectors with 1536 MB of memory and 2 processes`.
fn intent(table: &VectorTable, means: Means) -> String {
    let mut text = format!("about {} vectors", figures::grouped(table.rows.unsigned_abs()));
    if let Some(memory_mb) = means.memory_mb {
        let needed = graph_mb(table.rows, table.model.dimension);
        text += &format!(" with {memory_mb} MiB of memory");
        if needed > memory_mb {
            text += &format!(" ({needed} would hold all of it: this will take longer)");
        }
    }
    if let Some(workers) = means.workers {
        text += &format!(", {}", processes(i64::from(workers)));
    }
    text
}

fn built(facts: &BuildFacts) -> String {
    format!(
        "the index of {} vectors is complete; it took {} with {} MiB of memory and {}",
        figures::grouped(facts.rows.unsigned_abs()),
        figures::duration(facts.took_ms.unsigned_abs()),
        facts.memory_mb,
        processes(i64::from(facts.workers))
    )
}

/// The leader and those beside it.
fn processes(beside: i64) -> String {
    if beside == 0 { "one process".to_owned() } else { format!("{} processes", beside + 1) }
}

fn found(recall: Recall, wanted: f64) -> String {
    let Recall { ef_search, share, samples } = recall;
    let told = format!(
        "a search finds {:.1} % of the ten nearest (ef_search {ef_search}, {samples} samples)",
        share * 100.0
    );
    if f64::from(share) < wanted {
        return format!("{told}, less than the {:.1} % wanted (INDEX_RECALL)", wanted * 100.0);
    }
    told
}

/// `spoken index drop`.
async fn drop_all(store: &Store) -> anyhow::Result<u8> {
    let mut code = EXIT_OK;
    for table in store.vector_tables().await? {
        let name = &table.model.model_id;
        match store.drop_index(&table.table).await? {
            Some(0) => eprintln!("{name}: there is no index"),
            Some(_) => {
                eprintln!(
                    "{name}: the index is removed; search by meaning compares every vector until it is built again"
                );
            }
            None => {
                eprintln!("{name}: another process builds the index at the moment; stop that first");
                code = EXIT_FAILED;
            }
        }
    }
    Ok(code)
}

/// After a run that has brought in all there was: learns the words that were said, for searches, and builds the index that is
/// missing, where that is wished for, the library is large enough to need it, and little is still to come. What fails here is
/// told and fails nothing else.
pub async fn after_a_run(world: &World, events: &Events, cancel: &CancellationToken) {
    if cancel.is_cancelled() {
        return;
    }
    if let Err(error) = world.store.learn_words(LEARN).await {
        tracing::debug!(%error, "the words of what was brought in are learnt later");
    }
    if world.config.index_build != IndexBuild::Auto || cancel.is_cancelled() {
        return;
    }
    let notice = |warning, message| events.send(Event::Noticed { warning, message });
    let due = match due(&world.store, &world.config).await {
        Ok(due) => due,
        Err(error) => {
            tracing::debug!(%error, "whether an index is needed cannot be told now");
            return;
        }
    };
    for table in due {
        let name = &table.model.model_id;
        let means = means(world, &table);
        let mut told: Option<Instant> = None;
        let result = world
            .store
            .build_index(&table, means, false, cancel, |at| match told {
                None => {
                    notice(
                        false,
                        format!(
                            "building the index of {}; Ctrl-C leaves it for later",
                            intent(&table, means)
                        ),
                    );
                    told = Some(Instant::now());
                }
                Some(last) if last.elapsed() >= TOLD_EVERY => {
                    notice(false, format!("building the index: {}", so_far(at)));
                    told = Some(Instant::now());
                }
                Some(_) => {}
            })
            .await;
        let noted = match result {
            Ok(Built::Now(facts)) => {
                notice(false, format!("{name}: {}", built(&facts)));
                note(world, &table, Some(facts)).await.map(drop)
            }
            Ok(Built::Cancelled) => return,
            Ok(Built::Already | Built::Elsewhere) => Ok(()),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = noted {
            notice(
                true,
                format!("the index could not be built ({error:#}); `spoken index build` tries again"),
            );
        }
    }
}

/// Tables that should have an index and have none, while little is still to come.
///
/// # Errors
/// The database's.
pub(super) async fn due(store: &Store, config: &Config) -> anyhow::Result<Vec<VectorTable>> {
    let least = i64::try_from(config.index_min_passages).unwrap_or(i64::MAX);
    let mut tables = store.vector_tables().await?;
    tables.retain(|t| {
        t.rows >= least
            && t.model.dimension <= MAX_INDEXED_DIMENSION
            && !t.index.as_ref().is_some_and(|index| index.valid)
    });
    if tables.is_empty() {
        return Ok(tables);
    }
    // One that is being filled beside it (`spoken reembed`) is quicker without, and has its turn when it answers.
    if let Some(answering) = store.answering().await? {
        tables.retain(|t| t.table == answering.table);
    }
    let counts = store.counts().await?;
    let to_come = (counts.queued + counts.active) as f64 / counts.done.max(1) as f64;
    if to_come > SMALL_BACKLOG {
        tables.clear();
    }
    Ok(tables)
}

/// `loading tuples, 43 %`.
fn so_far(at: &Progress) -> String {
    let phase = at.phase.strip_prefix("building index: ").unwrap_or(&at.phase);
    if at.total > 0 {
        format!("{phase}, {} %", 100 * at.done.min(at.total) / at.total)
    } else {
        phase.to_owned()
    }
}

/// Progress on standard error: one line that changes on a terminal, a line now and then elsewhere.
struct Bar {
    terminal: bool,
    shown: Option<Instant>,
}

impl Bar {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), shown: None }
    }

    fn say(&mut self, line: &str) {
        self.clear();
        eprintln!("{line}");
    }

    fn show(&mut self, at: &Progress, since: Duration) {
        let line = format!("{}, {}", so_far(at), figures::duration(since.as_millis() as u64));
        let mut err = std::io::stderr().lock();
        // Nobody reads it: the build goes on.
        let _ = if self.terminal {
            self.shown = Some(Instant::now());
            write!(err, "\r\x1b[2K{line}").and_then(|()| err.flush())
        } else if self.shown.is_none_or(|shown| shown.elapsed() >= TOLD_EVERY) {
            self.shown = Some(Instant::now());
            writeln!(err, "{line}")
        } else {
            Ok(())
        };
    }

    fn clear(&mut self) {
        if self.terminal && self.shown.take().is_some() {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[2K").and_then(|()| err.flush());
        }
    }
}

//! `spoken ingest`: list the sources, work until nothing is left, tell how it went.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::listing::Listing;
use super::patience::patiently;
use super::signals::Stopping;
use super::steps;
use super::world::World;
use crate::event::{Event, Events, RunSummary};
use crate::pipeline::Pipeline;
use crate::pipeline::spool::Spool;
use crate::queue::{Queue, QueueOptions};
use crate::stage::StageSummary;
use crate::transcribe::WindowCounts;

/// How often the database is asked whether anything is left, and the stages are shown.
const TICK: Duration = Duration::from_millis(250);

/// What to ingest.
#[derive(Debug, Default)]
pub struct Request {
    /// Sources as typed; `-` stands for `stdin`.
    pub sources: Vec<String>,
    /// The list that was read from standard input, if one was.
    pub stdin: Option<String>,
}

/// Lists the sources while working off the queue; returns when both are at their end, or when told to stop and what
/// was in flight is finished.
///
/// # Errors
/// What keeps the whole run from working: the database, the models, the tools. Failures of single items are in the
/// summary.
pub async fn ingest(
    world: &World,
    request: Request,
    events: &Events,
    stopping: &Stopping,
) -> anyhow::Result<RunSummary> {
    let started = Instant::now();
    let config = &world.config;
    // Wrong names and missing files are told before anything is listed or downloaded.
    let plan = steps::plan(config)?;
    let mut options = QueueOptions::new(config.data_dir.join("workers"), plan.sizes.in_flight());
    options.poll_interval = TICK;
    options.lease = Duration::from_secs(config.lease_seconds);
    let mut queue = Queue::open(world.url(), options).await?;
    let worker = queue.worker_id().to_string();
    let spool =
        Spool::open(&config.data_dir, &worker, config.spool_max_mb << 20, config.min_free_disk_mb << 20)?;
    adopt(world, &mut queue, &spool).await?;
    let queue = Arc::new(queue);

    let (found, mut work) = mpsc::channel(1);
    let listing = Listing::new(world, queue.clone(), events.clone(), stopping.stop.clone())?;
    let lister = tokio::spawn(async move { listing.run(request, found).await });

    // Models are loaded only when there is something to do: a cron run that finds nothing new ends at once.
    if patiently(&stopping.stop, || queue.drained()).await? {
        // The sender is dropped when the listing ends, so this never waits for nothing.
        tokio::select! { _ = work.recv() => {}, () = stopping.stop.cancelled() => {} }
    }
    let mut stages = Vec::new();
    let mut windows = WindowCounts::default();
    if stopping.stop.is_cancelled() || patiently(&stopping.stop, || queue.drained()).await? {
        spool.close();
    } else {
        let pipeline = match steps::start(world, plan, spool, worker, events, stopping).await {
            Ok(pipeline) => pipeline,
            Err(error) => {
                lister.abort();
                return Err(error);
            }
        };
        stages = drain(&queue, &pipeline, &lister, events, stopping).await;
        windows = pipeline.window_counts();
        pipeline.spool().close();
    }
    lister.await??;

    let left = patiently(&stopping.cancel, || world.store.counts()).await?;
    let summary = RunSummary {
        wall_ms: started.elapsed().as_millis() as u64,
        stages,
        windows: windows.windows,
        windows_known: windows.known,
        interrupted: stopping.stop.is_cancelled() && left.queued + left.active > 0,
        ..events.tally()
    };
    if let Some(queue) = Arc::into_inner(queue)
        && let Err(error) = queue.close().await
    {
        tracing::warn!(%error, "failed to take leave of the queue; the next start clears up");
    }
    Ok(summary)
}

/// Works off the queue until nothing is queued and nothing more is being listed, or until told to stop; then lets
/// every stage run dry.
async fn drain(
    queue: &Arc<Queue>,
    pipeline: &Arc<Pipeline>,
    lister: &JoinHandle<anyhow::Result<()>>,
    events: &Events,
    stopping: &Stopping,
) -> Vec<StageSummary> {
    let claiming = CancellationToken::new();
    let mut runner = tokio::spawn({
        let (queue, pipeline, claiming) = (queue.clone(), pipeline.clone(), claiming.clone());
        async move {
            let handler = move |media_id, _| {
                let pipeline = pipeline.clone();
                async move { pipeline.process(media_id).await }
            };
            queue.run(handler, claiming).await;
        }
    });
    let mut tick = tokio::time::interval(TICK);
    let mut stop_seen = false;
    loop {
        tokio::select! {
            ended = &mut runner => {
                if let Err(error) = ended {
                    tracing::error!(%error, "the queue's worker ended unexpectedly; what is left waits for the next run");
                }
                break;
            }
            () = stopping.stop.cancelled(), if !stop_seen => {
                stop_seen = true;
                claiming.cancel();
            }
            _ = tick.tick() => {
                events.send(Event::StagesSampled { stages: pipeline.stages() });
                // A database that is away now is asked again at the next tick.
                if lister.is_finished() && queue.drained().await.unwrap_or(false) {
                    claiming.cancel();
                }
            }
        }
    }
    pipeline.close().await;
    let stages = pipeline.stages();
    events.send(Event::StagesSampled { stages: stages.clone() });
    stages
}

/// Takes over the spool directories of processes that died on this machine, and of those that were stopped before their
/// downloads were complete.
async fn adopt(world: &World, queue: &mut Queue, spool: &Spool) -> anyhow::Result<()> {
    let mut left = queue.dead();
    left.extend(spool.others().into_iter().filter(|worker| !queue.knows(*worker)));
    if !left.is_empty() {
        let unfinished = world.store.unfinished().await?;
        let wanted: std::collections::HashSet<_> = unfinished.iter().map(|u| u.media_id).collect();
        let left: Vec<String> = left.iter().map(ToString::to_string).collect();
        spool.adopt(&left, &|id| wanted.contains(&id));
        queue.bury_dead();
    }
    Ok(())
}

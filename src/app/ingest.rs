//! `spoken ingest`: list the sources, work until nothing is left, tell how it went.

use std::time::Instant;

use tokio::sync::mpsc;

use super::listing::Listing;
use super::signals::Stopping;
use super::works::{Progress, Seat, Worked, Works};
use super::world::World;
use crate::event::{Events, RunSummary};

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
    // Wrong names and missing files are told before anything is listed or downloaded.
    let mut works = Works::open(world).await?;
    // Somebody asked for this run, so it works whether or not another process does.
    let _seat = Seat::take(&world.config).ok();

    let (found, mut work) = mpsc::channel(1);
    let listing = Listing::new(world, works.queue().clone(), events.clone(), stopping.stop.clone())?;
    let lister = tokio::spawn(async move { listing.run(request, found).await });

    // Models are loaded only when there is something to do: a cron run that finds nothing new ends at once.
    if works.queue().drained().await? {
        // The sender is dropped when the listing ends, so this never waits for nothing.
        tokio::select! { _ = work.recv() => {}, () = stopping.stop.cancelled() => {} }
    }
    let worked = if stopping.stop.is_cancelled() || works.queue().drained().await? {
        Worked::default()
    } else {
        let over = async |p: Progress<'_>| lister.is_finished() && p.queue.drained().await.unwrap_or(false);
        match works.work(world, events, stopping, over).await {
            Ok(worked) => worked,
            Err(error) => {
                lister.abort();
                return Err(error);
            }
        }
    };
    lister.await??;

    let left = world.store.counts().await?;
    let summary = RunSummary {
        wall_ms: started.elapsed().as_millis() as u64,
        stages: worked.stages,
        windows: worked.windows.windows,
        windows_known: worked.windows.known,
        interrupted: stopping.stop.is_cancelled() && left.queued + left.active > 0,
        ..events.tally()
    };
    works.close().await?;
    Ok(summary)
}

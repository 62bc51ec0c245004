//! `spoken ingest`: list the sources, work until nothing is left, tell how it went.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::index;
use super::listing::Listing;
use super::patience::patiently;
use super::signals::Stopping;
use super::works::{Progress, Seat, Worked, Works};
use super::world::World;
use crate::event::{Event, Events, RunSummary};
use crate::queue::{Pause, Queue};

/// A run stays for what is due within this time: a site that asked to be left alone for an hour is waited for.
const STAY: Duration = Duration::from_secs(3 * 3600);

/// What to ingest.
#[derive(Debug, Default)]
pub struct Request {
    /// Sources as typed; `-` stands for `stdin`.
    pub sources: Vec<String>,
    /// The list that was read from standard input, if one was.
    pub stdin: Option<String>,
    /// What is found comes before everything else that waits.
    pub first: bool,
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

    let worked = if !something_to_do(works.queue(), &mut work, &stopping.stop).await? {
        Worked::default()
    } else {
        let over = async |p: Progress<'_>| {
            // Nobody waits for the end of a pause in front of a run that would end. A database that is away now is asked
            // again at the next tick.
            if !lister.is_finished() {
                return false;
            }
            if p.queue.is_paused() && p.taken_up == 0 || p.queue.drained().await.unwrap_or(false) {
                return true;
            }
            let later = only_later(p.queue).await;
            if let Some(message) = later.clone() {
                events.send(Event::Noticed { warning: true, message });
            }
            later.is_some()
        };
        match works.work(world, events, stopping, over).await {
            Ok(worked) => worked,
            Err(error) => {
                lister.abort();
                return Err(error);
            }
        }
    };
    lister.await??;

    let left = patiently(&stopping.cancel, || world.store.counts()).await?;
    if let Some(pause) = works.queue().paused().await.ok().flatten()
        && left.queued > 0
    {
        events.send(Event::Noticed { warning: true, message: paused_message(&pause, left.queued) });
    }
    let summary = RunSummary {
        wall_ms: started.elapsed().as_millis() as u64,
        stages: worked.stages,
        windows: worked.windows.windows,
        windows_known: worked.windows.known,
        interrupted: stopping.stop.is_cancelled() && left.queued + left.active > 0,
        ..events.tally()
    };
    works.close().await?;
    index::after_a_run(world, events, &stopping.stop).await;
    Ok(summary)
}

/// Waits until there is something to work on; `false` when the listing is at its end and nothing is, or may be. Models
/// are loaded only then: a cron run that finds nothing new, or a paused queue, ends at once.
async fn something_to_do(
    queue: &Queue,
    work: &mut mpsc::Receiver<()>,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let mut listing = true;
    loop {
        if stop.is_cancelled() {
            return Ok(false);
        }
        if patiently(stop, || queue.paused()).await?.is_none() && !patiently(stop, || queue.drained()).await?
        {
            return Ok(true);
        }
        if !listing {
            return Ok(false);
        }
        // The sender is dropped when the listing ends, so this never waits for nothing.
        tokio::select! { more = work.recv() => listing = more.is_some(), () = stop.cancelled() => {} }
    }
}

/// What a run says that found the queue paused.
pub(super) fn paused_message(pause: &Pause, waiting: i64) -> String {
    let until = pause.until.map_or_else(String::new, |until| {
        format!(" until {}", until.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M"))
    });
    let wait = if waiting == 1 { "1 item waits".to_owned() } else { format!("{waiting} items wait") };
    format!("the queue is paused{until}: {wait}; `spoken queue resume` lets them go on")
}

/// What to tell where nothing is left but items whose time comes much later: a show that has not begun, a site that is left
/// alone for long. They stay queued, and the next run takes them up.
async fn only_later(queue: &Queue) -> Option<String> {
    let pending = queue.pending().await.ok()?;
    let next = pending.next_in.filter(|next| pending.ready == 0 && pending.locked == 0 && *next > STAY)?;
    let hours = next.as_secs().div_ceil(3600);
    Some(format!(
        "{} left for later, the first in about {hours} h: `spoken ingest` takes them up then, `spoken status` tells why",
        match pending.scheduled {
            1 => "1 item is".to_owned(),
            n => format!("{n} items are"),
        }
    ))
}

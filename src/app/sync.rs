//! `spoken sync`: one round of checks and the work that comes of it, for cron.
//!
//! **Overlapping runs.** Each source is checked by whoever locks it first; the others say so and go on. What is found is queued,
//! and worked on by one process of a data directory at a time ([`Seat`]): a second `sync` beside an `ingest`, a `run` or another
//! `sync` leaves its work to that one, since a second set of models would only take the memory and the cores of the first. Other
//! machines on the same database share the work as ever.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::mpsc;

use super::check::{Check, Checker, Outcome};
use super::ingest::paused_message;
use super::node::Presence;
use super::remove::{keep, retain, told};
use super::signals::Stopping;
use super::source::the_ones;
use super::works::{self, Progress, Seat, Taken, Worked, Works};
use super::world::World;
use crate::event::{Event, Events, FailedItem, RunSummary};
use crate::queue::Control;
use crate::report::figures;
use crate::telemetry::sanitize;

/// An attempt that is due within this time is waited for; what waits longer is left to a later run.
const PATIENCE: Duration = Duration::from_secs(60);
/// Jobs that are queued and cannot be had for so long are somebody else's. More than the minute after which the queue looks for
/// items that have no job.
const NOT_OURS: Duration = Duration::from_secs(65);

/// What to sync.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Sources as named; none: those that are due.
    pub names: Vec<String>,
    /// All sources, due or not.
    pub all: bool,
    /// All of each list.
    pub full: bool,
}

/// How one source's check went, as programs see it.
#[derive(Clone, Debug, Serialize)]
pub struct SourceResult {
    /// What it is called.
    pub name: String,
    /// Its address or path. Untrusted text.
    pub source: String,
    /// `unchanged`, `looked`, `failed`, `busy` (another process checks it), `settled` (another has).
    pub result: &'static str,
    /// Entries that it gave.
    pub entries: usize,
    /// Wanted of what is new.
    pub new: usize,
    /// New and not wanted.
    pub left: usize,
    /// Not there yet.
    pub waiting: usize,
    /// Files that still grow.
    pub growing: usize,
    /// Why it failed.
    pub error: Option<String>,
}

impl From<&Check> for SourceResult {
    fn from(check: &Check) -> Self {
        let mut all = Self {
            name: check.name.clone(),
            source: check.source.clone(),
            result: "looked",
            entries: 0,
            new: 0,
            left: 0,
            waiting: 0,
            growing: 0,
            error: None,
        };
        match &check.outcome {
            Outcome::Looked(n) => {
                (all.entries, all.new, all.left) = (n.entries, n.wanted, n.left);
                (all.waiting, all.growing) = (n.waiting, n.growing);
            }
            Outcome::Unchanged => all.result = "unchanged",
            Outcome::Busy => all.result = "busy",
            Outcome::Settled => all.result = "settled",
            Outcome::Failed { failure, .. } => {
                all.result = "failed";
                all.error = Some(failure.to_string());
            }
        }
        all
    }
}

/// The end of a run. What `sync --json` prints; the names are a stable interface.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Each source that was looked at or was to be.
    pub sources: Vec<SourceResult>,
    /// Sources that this run has checked.
    pub checked: usize,
    /// Of these, those that could not be.
    pub sources_failed: usize,
    /// Items taken on.
    pub new: usize,
    /// Items finished.
    pub done: usize,
    /// Items given up.
    pub failed: usize,
    /// Entries that are to be taken on and exceed the limits.
    pub left_over: u64,
    /// The process of this machine that the work was left to.
    pub left_to: Option<u32>,
    /// The work was left to another process.
    pub handed_over: bool,
    /// The queue is paused, and something waits for its end.
    pub paused: bool,
    /// Items that are kept no longer and were removed.
    pub removed: usize,
    /// What failed and why.
    pub failures: Vec<FailedItem>,
    /// From the start to the end.
    pub wall_ms: u64,
    /// Stopped before everything was done.
    pub interrupted: bool,
}

impl Summary {
    /// The one line: `sync: 3 sources checked, 2 new, 2 done, 0 failed, 41 s`.
    pub fn line(&self) -> String {
        let mut line = format!("sync: {} checked", figures::count(self.checked as u64, "source"));
        let mut add = |n: u64, what: &str| {
            if n > 0 {
                line += &format!(", {n} {what}");
            }
        };
        add(self.sources_failed as u64, "of them failed");
        let busy = self.sources.iter().filter(|s| s.result == "busy").count();
        add(busy as u64, "being checked by another process");
        line += &format!(", {} new, {} done, {} failed", self.new, self.done, self.failed);
        if self.left_over > 0 {
            line += &format!(", {} left for later runs", self.left_over);
        }
        if self.removed > 0 {
            line += &format!(", {} removed", self.removed);
        }
        match (self.handed_over, self.left_to) {
            (true, Some(pid)) => line += &format!(", the work left to process {pid}"),
            (true, None) => line += ", the work left to another process",
            _ => {}
        }
        if self.paused {
            line += ", the queue is paused";
        }
        if self.interrupted {
            line += ", interrupted";
        }
        line + ", " + &figures::duration(self.wall_ms)
    }
}

/// Checks what is due and works until nothing is left that can be worked on now.
///
/// # Errors
/// What keeps the whole run from working: the database, the models, the tools, a name that no source has.
pub async fn sync(
    world: &World,
    request: Request,
    events: &Events,
    stopping: &Stopping,
) -> anyhow::Result<(Summary, RunSummary)> {
    let started = Instant::now();
    let store = &world.store;
    let forced = request.all || !request.names.is_empty();
    let sources = match request.names.is_empty() {
        true => store.due_sources(request.all).await?,
        false => the_ones(store, &request.names).await?,
    };
    if let Some(paused) = sources.iter().find(|s| s.paused) {
        let name = sanitize(&paused.name);
        anyhow::bail!("{name} is paused; `spoken source resume {name}` lets it go on");
    }
    let checker = Checker::new(world, events.clone(), stopping.stop.clone())?;
    // What it queues may be on this machine only: it is a node before it does, though it may not come to work.
    let mut presence = Presence::begin(world).await?;
    let (found, mut work) = mpsc::channel(1);
    let taking =
        works::Taking::new(store.clone(), events.clone(), world.config.ingestion_limit, keep(&world.config));
    let full = request.full;
    let checks = tokio::spawn(async move {
        let (tell, mut told) = mpsc::channel::<Check>(16);
        let round = checker.round(sources, forced, full, tell);
        let listen = async {
            let mut results = Vec::new();
            while let Some(check) = told.recv().await {
                results.push(SourceResult::from(&check));
                if taking.take().await? {
                    let _ = found.try_send(());
                }
            }
            // What exceeded the limits of an earlier run, also where nothing was to be checked.
            if taking.take().await? {
                let _ = found.try_send(());
            }
            anyhow::Ok((results, taking.taken()))
        };
        tokio::try_join!(round, listen).map(|((), found)| found)
    });

    let mut worked = Worked::default();
    let mut left_to = None;
    loop {
        if !works::work_waits(world, PATIENCE).await? {
            // The sender is dropped when the checks end, so this never waits for nothing.
            tokio::select! { _ = work.recv() => {}, () = stopping.stop.cancelled() => {} }
        }
        if stopping.stop.is_cancelled() || !works::work_waits(world, PATIENCE).await? {
            if checks.is_finished() || stopping.stop.is_cancelled() || work.is_closed() {
                break;
            }
            continue;
        }
        let seat = match Seat::take(&world.config) {
            Ok(seat) => seat,
            Err(Taken::By(process)) => {
                left_to = Some(process);
                break;
            }
            Err(Taken::Unusable(error)) => {
                return Err(
                    anyhow::Error::from(error).context("failed to lock work.lock in the data directory")
                );
            }
        };
        let mut works = Works::open(world).await?;
        presence.end().await;
        works::tell_waiting(store, events).await?;
        let mut idle = Idle::default();
        let more = works
            .work(world, events, stopping, async |p: Progress<'_>| {
                checks.is_finished() && idle.over(world, &p).await
            })
            .await?;
        presence = Presence::begin(world).await?;
        works.close().await?;
        worked.add(more);
        // Whoever finds the seat taken has queued his work before: it is seen from here, or by him who sits next.
        drop(seat);
        if idle.others_have_it {
            break;
        }
    }
    let (results, new) = checks.await??;
    presence.end().await;
    let expired = retain(store, keep(&world.config)).await?;
    for message in told(&expired) {
        events.send(Event::Noticed { warning: false, message });
    }

    let paused = match store.unfinished_count().await? {
        0 => None,
        waiting => Control::open(store.pool()).await?.paused().await?.map(|pause| (pause, waiting)),
    };
    if let Some((pause, waiting)) = &paused {
        let message = paused_message(pause, i64::try_from(*waiting).unwrap_or(i64::MAX));
        events.send(Event::Noticed { warning: false, message });
    }
    let tally = events.tally();
    let run = RunSummary {
        wall_ms: started.elapsed().as_millis() as u64,
        stages: worked.stages,
        windows: worked.windows.windows,
        windows_known: worked.windows.known,
        interrupted: stopping.stop.is_cancelled(),
        ..tally
    };
    let ran = |r: &&SourceResult| matches!(r.result, "unchanged" | "looked" | "failed");
    let summary = Summary {
        checked: results.iter().filter(ran).count(),
        sources_failed: results.iter().filter(|r| r.result == "failed").count(),
        new,
        done: run.done,
        failed: run.failed,
        left_over: store.entries_left_over().await?,
        handed_over: left_to.is_some(),
        paused: paused.is_some(),
        left_to: left_to.flatten(),
        removed: expired.len(),
        failures: run.failures.clone(),
        wall_ms: run.wall_ms,
        interrupted: run.interrupted,
        sources: results,
    };
    if !summary.handed_over {
        super::index::after_a_run(world, events, &stopping.stop).await;
    }
    if let Some(process) = summary.left_to {
        let message = format!("process {process} works here already: what is new is left to it");
        events.send(Event::Noticed { warning: false, message });
    }
    Ok((summary, run))
}

/// When there is nothing more for this process.
#[derive(Default)]
struct Idle {
    since: Option<Instant>,
    /// What is queued is in other hands.
    others_have_it: bool,
}

impl Idle {
    /// Nothing in hand, and nothing queued that is due soon and can be had.
    async fn over(&mut self, world: &World, p: &Progress<'_>) -> bool {
        // What waits for its turn goes back into the queue.
        if p.queue.is_paused() && p.taken_up == 0 {
            return true;
        }
        if p.in_hand > 0 {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        // A database that is away now is asked again at the next tick.
        match works::work_waits(world, PATIENCE).await {
            Ok(waits) if !waits => true,
            Ok(_) if since.elapsed() > NOT_OURS => {
                self.others_have_it = p.queue.pending().await.is_ok_and(|p| p.ready == 0);
                self.others_have_it
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_tells_what_cron_needs() {
        let plain = Summary { checked: 3, new: 2, done: 2, wall_ms: 41_000, ..Summary::default() };
        assert_eq!(plain.line(), "sync: 3 sources checked, 2 new, 2 done, 0 failed, 41 s");
        let busy = SourceResult { result: "busy", ..of_nothing() };
        let all = Summary {
            sources: vec![busy],
            checked: 1,
            sources_failed: 1,
            left_over: 7,
            handed_over: true,
            left_to: Some(12),
            interrupted: true,
            wall_ms: 400,
            ..Summary::default()
        };
        assert_eq!(
            all.line(),
            "sync: 1 source checked, 1 of them failed, 1 being checked by another process, 0 new, 0 done, 0 failed, \
             7 left for later runs, the work left to process 12, interrupted, 400 ms"
        );
    }

    fn of_nothing() -> SourceResult {
        SourceResult::from(&Check { name: "n".into(), source: "s".into(), outcome: Outcome::Unchanged })
    }
}

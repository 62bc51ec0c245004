//! This process among those that work on the library: its heartbeat, and what it looks after while it lives. And
//! `spoken nodes`, which lists them all.
//!
//! Looked after are: processes of this machine that die (their work is freed at once, not only after the lease), and
//! audio in the store between machines that nobody needs any more. That is while it works; known to the others it is before.

use std::collections::HashSet;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::time::Duration;

use console::style;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::steps::Role;
use super::world::World;
use crate::cli::{EXIT_OK, NodesArgs};
use crate::event::Events;
use crate::handover::{Handover, HandoverError};
use crate::pipeline::Pipeline;
use crate::queue::{self, Queue, QueueError};
use crate::store::{Backlog, Figures, NewNode, NodeRow, Store, StoreError, this_host};
use crate::telemetry::sanitize;

/// How often a process tells that it lives, at most; more often where the lease is short.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
/// How often processes of this machine that died are looked for: a file lock each.
const LOOK_FOR_DEAD_EVERY: Duration = Duration::from_secs(2);
/// How often the store between machines is looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Objects asked about in one statement.
const BATCH: usize = 500;

/// This process among the others: what it queues may be on its machine only, so it is known before it queues anything.
pub struct Node {
    node: NewNode,
    store: Store,
    lease: Duration,
    /// What it got done; nothing before it works.
    events: Option<Events>,
    over: CancellationToken,
    tasks: JoinSet<()>,
}

impl Node {
    /// Notes the process, and from now on that it lives. `id` is its identity in the queue, or one of its own.
    pub async fn begin(world: &World, id: Uuid, role: Role) -> Self {
        let node = NewNode {
            node_id: id,
            host: this_host().to_owned(),
            pid: std::process::id(),
            role: role.as_str(),
            device: None,
        };
        let store = world.store.clone();
        if let Err(error) = store.node_started(&node).await {
            tracing::warn!(%error, "failed to note this process among the nodes; its heartbeat will");
        }
        let mut begun = Self {
            node,
            store,
            lease: Duration::from_secs(world.config.lease_seconds),
            events: None,
            over: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        begun.beat();
        begun
    }

    /// From now on it works, and looks after what is said above, until [`Self::rest`].
    pub async fn attend(&mut self, queue: &Arc<Queue>, pipeline: &Arc<Pipeline>, events: &Events) {
        self.stop().await;
        self.node.device = pipeline.device();
        self.events = Some(events.clone());
        self.beat();
        let over = self.over.clone();
        let (queue, pipeline, library) = (queue.clone(), pipeline.clone(), self.store.clone());
        let handover = pipeline.handover().cloned();
        self.tasks.spawn(repeat(LOOK_FOR_DEAD_EVERY, over.clone(), async move || {
            if let Err(error) = take_over(&queue, &pipeline, &library).await {
                tracing::warn!(%error, "failed to take over from a process that died");
            }
        }));
        if let Some(handover) = handover {
            let library = self.store.clone();
            self.tasks.spawn(repeat(SWEEP_EVERY, over, async move || {
                match sweep(&library, &handover).await {
                    Ok(0) => {}
                    Ok(removed) => {
                        tracing::info!(removed, "audio that nobody needs was removed from the store")
                    }
                    Err(error) => tracing::warn!(%error, "failed to look through the store"),
                }
            }));
        }
    }

    /// It lives, and works no more.
    pub async fn rest(&mut self) {
        self.stop().await;
        self.node.device = None;
        self.beat();
    }

    /// Tells at intervals that it lives.
    fn beat(&mut self) {
        let every = HEARTBEAT_EVERY.min(self.lease / 4);
        let (store, node, told) = (self.store.clone(), self.node.clone(), self.events.clone());
        self.tasks.spawn(repeat(every, self.over.clone(), async move || {
            if let Err(error) = store.node_lives(&node, &figures(told.as_ref(), node.role)).await {
                tracing::debug!(%error, "failed to tell that this process lives");
            }
        }));
    }

    /// Ends what goes on at intervals.
    async fn stop(&mut self) {
        self.over.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.over = CancellationToken::new();
    }

    /// Ends it in order.
    pub async fn end(mut self) {
        self.stop().await;
        let figures = figures(self.events.as_ref(), self.node.role);
        tracing::debug!(?figures, "this process is done");
        if let Err(error) = self.store.nodes_ended(&[self.node.node_id]).await {
            tracing::debug!(%error, "this process stays among the nodes until it is forgotten");
        }
    }
}

/// A process that queues and does not work, or not yet.
pub struct Presence {
    node: Node,
    identity: queue::Presence,
}

impl Presence {
    /// Notes the process.
    ///
    /// # Errors
    /// Where its identity cannot be written.
    pub async fn begin(world: &World) -> anyhow::Result<Self> {
        let identity = queue::Presence::take(&world.config.data_dir.join("workers"))?;
        Ok(Self { node: Node::begin(world, identity.id(), Role::All).await, identity })
    }

    /// Ends it in order.
    pub async fn end(self) {
        self.node.end().await;
        self.identity.give_up();
    }
}

/// Does something at once and then at intervals, until `over`.
async fn repeat(every: Duration, over: CancellationToken, work: impl AsyncFn() + Send) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = over.cancelled() => return,
            _ = ticks.tick() => {}
        }
        tokio::select! {
            biased;
            () = over.cancelled() => return,
            () = work() => {}
        }
    }
}

/// What this process got done.
fn figures(events: Option<&Events>, role: &str) -> Figures {
    let Some(tally) = events.map(Events::tally) else { return Figures::default() };
    let items = if role == Role::Fetch.as_str() { tally.handed_over } else { tally.done };
    Figures { items: items as u64, failed: tally.failed as u64, audio_ms: tally.audio_ms }
}

/// Why another process's work could not be taken over, or the store not be looked through.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Handover(#[from] HandoverError),
}

/// Takes over from processes of this machine that died: their jobs, their files, their place among the nodes.
async fn take_over(queue: &Queue, pipeline: &Pipeline, store: &Store) -> Result<(), LookError> {
    let fallen = queue.find_dead().await?;
    if fallen.is_empty() {
        return Ok(());
    }
    let wanted: HashSet<_> = store.unfinished().await?.iter().map(|u| u.media_id).collect();
    let ids: Vec<_> = fallen.iter().map(|f| f.id()).collect();
    let folders: Vec<String> = ids.iter().map(ToString::to_string).collect();
    pipeline.spool().adopt(&folders, &|id| wanted.contains(&id));
    store.nodes_ended(&ids).await?;
    fallen.into_iter().for_each(Queue::bury);
    Ok(())
}

/// Removes what nobody needs: of items that are over, of claims that were lost, of uploads that never ended. How many
/// objects there were.
async fn sweep(store: &Store, handover: &Handover) -> Result<usize, LookError> {
    store.forget_handovers().await?;
    let left = handover.list().await?;
    let mut removed = 0;
    for batch in left.chunks(BATCH) {
        let keys: Vec<_> = batch.iter().map(|l| l.key).collect();
        for (object, wanted) in batch.iter().zip(store.wanted(&keys).await?) {
            if !(wanted.held || wanted.named && !object.is_interrupted()) {
                handover.clear(object).await?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

/// `spoken nodes`.
///
/// # Errors
/// The database's, or standard output's.
pub async fn nodes(world: &World, args: &NodesArgs) -> anyhow::Result<u8> {
    let (nodes, waiting) = (world.store.nodes().await?, world.store.backlog().await?);
    let lease = world.config.lease_seconds as f64;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if args.json {
        let nodes: Vec<_> = nodes.iter().map(|node| node_json(node, lease)).collect();
        writeln!(out, "{}", json!({"nodes": nodes, "waiting": waiting}))?;
        return Ok(EXIT_OK);
    }
    if nodes.is_empty() {
        out.flush()?;
        eprintln!("nobody works on this library now; `spoken work` does");
        return Ok(EXIT_OK);
    }
    for line in table(&nodes, lease) {
        writeln!(out, "{line}")?;
    }
    if waiting != Backlog::default() {
        writeln!(
            out,
            "{} waiting for a transcriber: {} of audio, {} MB",
            if waiting.items == 1 { "1 item".to_owned() } else { format!("{} items", waiting.items) },
            hours(waiting.audio_ms as f64 / 3_600_000.0),
            waiting.bytes >> 20
        )?;
    }
    out.flush()?;
    Ok(EXIT_OK)
}

fn node_json(node: &NodeRow, lease: f64) -> serde_json::Value {
    json!({
        "node_id": node.node_id,
        "host": node.host,
        "pid": node.pid,
        "role": node.role,
        "alive": node.silent_s < lease,
        "version": node.version,
        "device": node.device,
        "started_at": node.started_at,
        "heartbeat_at": node.heartbeat_at,
        "silent_s": (node.silent_s * 10.0).round() / 10.0,
        "in_hand": node.in_hand,
        "items": node.items,
        "failed": node.failed,
        "audio_ms": node.audio_ms,
        "audio_hours_per_hour": node.throughput().map(|rate| (rate * 100.0).round() / 100.0),
    })
}

/// One line a node under a heading, in columns.
fn table(nodes: &[NodeRow], lease: f64) -> Vec<String> {
    const RIGHT: [usize; 6] = [1, 3, 4, 5, 6, 7];
    let heading = ["HOST", "PID", "ROLE", "HEARD", "HAND", "ITEMS", "AUDIO", "SPEED", "MODEL"];
    let mut rows = vec![heading.map(str::to_owned)];
    for node in nodes {
        rows.push([
            sanitize(&node.host).into_owned(),
            node.pid.to_string(),
            sanitize(&node.role).into_owned(),
            ago(node.silent_s),
            node.in_hand.to_string(),
            node.items.to_string(),
            hours(node.audio_ms as f64 / 3_600_000.0),
            node.throughput().map_or_else(|| "–".to_owned(), |rate| format!("{rate:.1}×")),
            sanitize(node.device.as_deref().unwrap_or("–")).into_owned(),
        ]);
    }
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    rows.iter()
        .enumerate()
        .map(|(n, row)| {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, &width))| {
                    if RIGHT.contains(&column) {
                        format!("{cell:>width$}")
                    } else {
                        format!("{cell:<width$}")
                    }
                })
                .collect();
            let line = cells.join("  ").trim_end().to_owned();
            match n.checked_sub(1).map(|node| nodes[node].silent_s < lease) {
                None => style(line).bold().to_string(),
                Some(true) => line,
                // Its work has gone to others.
                Some(false) => format!("{}  {}", style(line).dim(), style("silent").red()),
            }
        })
        .collect()
}

/// How long ago, in the largest unit that says enough.
fn ago(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn hours(hours: f64) -> String {
    if hours < 10.0 { format!("{hours:.2} h") } else { format!("{hours:.0} h") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::Utc;

    fn row(host: &str, silent_s: f64) -> NodeRow {
        NodeRow {
            node_id: Uuid::from_u128(1),
            host: host.to_owned(),
            pid: 17,
            role: "transcribe".to_owned(),
            version: "0.1.0".to_owned(),
            device: Some("small, cpu".to_owned()),
            started_at: Utc::now(),
            heartbeat_at: Utc::now(),
            silent_s,
            up_s: 1_800.0,
            in_hand: 2,
            items: 5,
            failed: 0,
            audio_ms: 36_000_000,
        }
    }

    #[test]
    fn a_node_is_told_with_its_speed_and_whether_it_lives() {
        let lines = table(&[row("a", 3.0), row("gpu-\u{1b}[2Jbox", 400.0)], 120.0);
        assert!(
            lines[1].contains("20.0×") && lines[1].contains("10 h") && !lines[1].contains("silent"),
            "{lines:?}"
        );
        assert!(lines[2].contains("silent") && lines[2].contains("6 min"), "{lines:?}");
        assert!(!lines[2].contains("\u{1b}[2J"), "{lines:?}");
        let json = node_json(&row("a", 400.0), 120.0);
        assert_eq!((&json["alive"], &json["audio_hours_per_hour"]), (&json!(false), &json!(20.0)));
    }
}

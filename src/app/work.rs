//! `spoken work`: works off the queue without listing anything, alone or as one of several machines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ingest::{adopt, drain};
use super::node::Node;
use super::signals::Stopping;
use super::steps::{self, Role};
use super::world::World;
use crate::cli::RoleName;
use crate::event::{Events, RunSummary};
use crate::pipeline::spool::Spool;
use crate::queue::{Kind, Queue};
use crate::store::Store;
use crate::transcribe::WindowCounts;

/// What to work on, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The part of the work.
    pub role: Role,
    /// End when nothing is left; else only when told to stop.
    pub drain: bool,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::All => Self::All,
            RoleName::Fetch => Self::Fetch,
            RoleName::Transcribe => Self::Transcribe,
        }
    }
}

/// Works until told to stop and what is in flight is finished, or until nothing is left if that was asked for.
///
/// # Errors
/// What keeps the whole run from working: the database, the store between machines, the models, the tools.
pub async fn work(
    world: &World,
    request: Request,
    events: &Events,
    stopping: &Stopping,
) -> anyhow::Result<RunSummary> {
    let started = Instant::now();
    let config = &world.config;
    let plan = steps::plan_for(config, request.role)?;
    let mut queue = Queue::open(world.url(), plan.queue_options(config)).await?;
    let worker = queue.worker_id().to_string();
    let spool =
        Spool::open(&config.data_dir, &worker, config.spool_max_mb << 20, config.min_free_disk_mb << 20)?;
    adopt(world, &mut queue, &spool).await?;
    let queue = Arc::new(queue);

    let lease = Duration::from_secs(config.lease_seconds);
    let over = async || request.drain && !left(&queue, &world.store, request.role, lease).await;
    let mut stages = Vec::new();
    let mut windows = WindowCounts::default();
    // Models are loaded only when there is something to do.
    if over().await {
        spool.close();
    } else {
        let pipeline = steps::start(world, plan, spool, worker, events, stopping).await?;
        let node = Node::start(world, &queue, &pipeline, request.role, events).await;
        stages = drain(&queue, &pipeline, events, stopping, over).await;
        windows = pipeline.window_counts();
        node.end().await;
        pipeline.spool().close();
    }
    let interrupted = request.drain
        && stopping.stop.is_cancelled()
        && left(&queue, &world.store, request.role, Duration::ZERO).await;
    let summary = RunSummary {
        wall_ms: started.elapsed().as_millis() as u64,
        stages,
        windows: windows.windows,
        windows_known: windows.known,
        interrupted,
        ..events.tally()
    };
    if let Some(queue) = Arc::into_inner(queue) {
        queue.close().await?;
    }
    Ok(summary)
}

/// Whether something is left, or is still to come, for `role`. A database that is away now is asked again at the next
/// tick.
async fn left(queue: &Queue, store: &Store, role: Role, lease: Duration) -> bool {
    if !queue.drained().await.unwrap_or(false) {
        return true;
    }
    role == Role::Transcribe
        && !queue.drained_of(&[Kind::Fetch]).await.unwrap_or(false)
        && store.somebody_fetches(lease).await.unwrap_or(true)
}

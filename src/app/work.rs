//! `spoken work`: works off the queue without listing anything, alone or as one of several machines.

use std::time::{Duration, Instant};

use super::signals::Stopping;
use super::steps::Role;
use super::works::{Progress, Worked, Works};
use super::world::World;
use crate::cli::RoleName;
use crate::event::{Events, RunSummary};
use crate::queue::{Kind, Queue};
use crate::store::Store;

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
    let Request { role, drain } = request;
    let mut works = Works::open_as(world, role).await?;
    let lease = Duration::from_secs(world.config.lease_seconds);
    let over = async |queue: &Queue| drain && !left(queue, &world.store, role, lease).await;
    // Models are loaded only when there is something to do.
    let worked = if over(works.queue()).await {
        Worked::default()
    } else {
        works.work(world, events, stopping, async |seen: Progress<'_>| over(seen.queue).await).await?
    };
    let interrupted = drain
        && stopping.stop.is_cancelled()
        && left(works.queue(), &world.store, role, Duration::ZERO).await;
    let summary = RunSummary {
        wall_ms: started.elapsed().as_millis() as u64,
        stages: worked.stages,
        windows: worked.windows.windows,
        windows_known: worked.windows.known,
        interrupted,
        ..events.tally()
    };
    works.close().await?;
    if drain && role != Role::Fetch {
        super::index::after_a_run(world, events, &stopping.stop).await;
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

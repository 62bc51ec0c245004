//! What every command that works has in common: an open queue, the running stages, and the loop that works until somebody
//! says that it is over. `ingest`, `sync`, `run` and `work` differ only in who finds the work and when it is over.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::signals::Stopping;
use super::steps::{self, Plan, Role};
use super::world::World;
use crate::config::Config;
use crate::event::{Event, Events};
use crate::govern::Governor;
use crate::media::State;
use crate::pipeline::Pipeline;
use crate::pipeline::spool::Spool;
use crate::queue::place::{self, Lane, Line};
use crate::queue::{self, Entry, JobInfo, Queue};
use crate::stage::StageSummary;
use crate::store::sources as entries;
use crate::store::{ItemFilter, Keep, Store};
use crate::transcribe::WindowCounts;

/// How often the database is asked whether anything is left, and the stages are shown.
pub const TICK: Duration = Duration::from_millis(250);

/// Everything that is needed to work, but the models. Good for one stretch of work.
pub struct Works {
    queue: Arc<Queue>,
    /// Gone where the work could not begin.
    node: Option<Node>,
    /// Gone once the stages have it.
    ready: Option<Ready>,
}

struct Ready {
    spool: Spool,
    plan: Plan,
    worker: String,
}

/// What a stretch of work came to.
#[derive(Debug, Default)]
pub struct Worked {
    /// What the stages counted.
    pub stages: Vec<StageSummary>,
    /// Windows of the files that were transcribed.
    pub windows: WindowCounts,
}

impl Worked {
    /// Adds a later stretch.
    pub fn add(&mut self, more: Self) {
        self.windows.windows += more.windows.windows;
        self.windows.known += more.windows.known;
        if self.stages.len() != more.stages.len() {
            self.stages = more.stages;
            return;
        }
        for (all, more) in self.stages.iter_mut().zip(more.stages) {
            all.busy_ms += more.busy_ms;
            all.wait_in_ms += more.wait_in_ms;
            all.wait_out_ms += more.wait_out_ms;
            all.items += more.items;
        }
    }
}

/// What there is to see while it works.
pub struct Progress<'a> {
    /// The queue.
    pub queue: &'a Queue,
    /// Jobs that this process has in hand.
    pub in_hand: usize,
    /// Those of them whose item was taken up; the others wait for their turn.
    pub taken_up: usize,
}

impl Works {
    /// Opens the queue, and takes over what processes that died on this machine left.
    ///
    /// # Errors
    /// Models that cannot be had (told before anything else), the database, or a spool that cannot be made.
    pub async fn open(world: &World) -> anyhow::Result<Self> {
        Self::open_as(world, Role::All).await
    }

    /// As [`Self::open`], for a part of the work.
    ///
    /// # Errors
    /// As for [`Self::open`]; and where the role lacks what it needs.
    pub async fn open_as(world: &World, role: Role) -> anyhow::Result<Self> {
        let config = &world.config;
        let plan = steps::plan_for(config, role)?;
        let mut options = plan.queue_options(config);
        options.poll_interval = TICK;
        let mut queue = Queue::open(world.url(), options).await?;
        // Whoever finds work does so with this queue open: what only this machine has is queued by a node.
        let node = Node::begin(world, queue.worker_id(), role).await;
        let worker = queue.worker_id().to_string();
        let spool =
            Spool::open(&config.data_dir, &worker, config.spool_max_mb << 20, config.min_free_disk_mb << 20)?;
        adopt(world, &mut queue, &spool).await?;
        if role != Role::Transcribe {
            let again = world.store.look_again().await?;
            queue.enqueue(&again, Lane::Ordinary).await?;
        }
        Ok(Self { queue: Arc::new(queue), node: Some(node), ready: Some(Ready { spool, plan, worker }) })
    }

    /// The queue, for whoever finds work.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Loads the models and works until `over` says so (asked at every tick) or until told to stop; then lets every stage
    /// run dry.
    ///
    /// # Errors
    /// Models that cannot be loaded, tools that are missing.
    pub async fn work(
        &mut self,
        world: &World,
        events: &Events,
        stopping: &Stopping,
        over: impl AsyncFnMut(Progress<'_>) -> bool,
    ) -> anyhow::Result<Worked> {
        let Some(Ready { spool, plan, worker }) = self.ready.take() else { return Ok(Worked::default()) };
        let pipeline = match steps::start(world, plan, spool, worker, events, stopping).await {
            Ok(pipeline) => pipeline,
            Err(error) => {
                self.leave().await;
                return Err(error);
            }
        };
        if let Some(node) = &mut self.node {
            node.attend(&self.queue, &pipeline, events).await;
        }
        let stages = drain(&self.queue, &pipeline, events, stopping, over).await;
        if let Some(node) = &mut self.node {
            // It must not keep the models loaded.
            node.rest().await;
        }
        let windows = pipeline.window_counts();
        pipeline.spool().close();
        Ok(Worked { stages, windows })
    }

    /// Ends being a node.
    async fn leave(&mut self) {
        if let Some(node) = self.node.take() {
            node.end().await;
        }
    }

    /// Gives the queue back, unless somebody still holds it.
    ///
    /// # Errors
    /// The database's.
    pub async fn close(mut self) -> anyhow::Result<()> {
        self.leave().await;
        if let Some(ready) = self.ready {
            ready.spool.close();
        }
        if let Some(queue) = Arc::into_inner(self.queue)
            && let Err(error) = queue.close().await
        {
            tracing::warn!(%error, "failed to take leave of the queue; the next start clears up");
        }
        Ok(())
    }
}

/// Works off the queue until it is over, or until told to stop; then lets every stage run dry.
async fn drain(
    queue: &Arc<Queue>,
    pipeline: &Arc<Pipeline>,
    events: &Events,
    stopping: &Stopping,
    mut over: impl AsyncFnMut(Progress<'_>) -> bool,
) -> Vec<StageSummary> {
    let claiming = CancellationToken::new();
    let in_hand = Arc::new(AtomicUsize::new(0));
    queue.claim_while({
        // Weak: the queue must not keep the models loaded.
        let pipeline = Arc::downgrade(pipeline);
        move |coming| pipeline.upgrade().is_none_or(|pipeline| pipeline.has_room(coming))
    });
    let mut runner = tokio::spawn({
        let (queue, pipeline, claiming) = (queue.clone(), pipeline.clone(), claiming.clone());
        let in_hand = in_hand.clone();
        async move {
            let handler = move |media_id, job: JobInfo| {
                let (pipeline, held) = (pipeline.clone(), Held::new(&in_hand));
                async move {
                    let outcome = pipeline.process(media_id, job.generation, job.kind).await;
                    drop(held);
                    outcome
                }
            };
            queue.run(handler, claiming).await;
        }
    });
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
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
                let (in_hand, taken_up) = (in_hand.load(Relaxed), pipeline.in_hand());
                if claiming.is_cancelled() {
                    continue;
                }
                // Where the database is away, the question takes longer than who wants us to stop will wait.
                let over = tokio::select! {
                    biased;
                    () = stopping.stop.cancelled() => continue,
                    over = over(Progress { queue, in_hand, taken_up }) => over,
                };
                if over {
                    claiming.cancel();
                    if queue.is_paused() {
                        // What waits for its turn would wait for the end of the pause.
                        pipeline.stop();
                    }
                }
            }
        }
    }
    pipeline.close().await;
    let stages = pipeline.stages();
    events.send(Event::StagesSampled { stages: stages.clone() });
    stages
}

/// One job in hand.
struct Held(Arc<AtomicUsize>);

impl Held {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Takes over the spool directories of processes that died on this machine, and of those that were stopped before their
/// downloads were complete.
async fn adopt(world: &World, queue: &mut Queue, spool: &Spool) -> anyhow::Result<()> {
    let dead = queue.dead();
    let mut left = dead.clone();
    left.extend(spool.others().into_iter().filter(|worker| !queue.knows(*worker)));
    if !left.is_empty() {
        Governor::forget(world.store.pool(), &dead).await?;
        let unfinished = world.store.unfinished().await?;
        let wanted: std::collections::HashSet<_> = unfinished.iter().map(|u| u.media_id).collect();
        let left: Vec<String> = left.iter().map(ToString::to_string).collect();
        spool.adopt(&left, &|id| wanted.contains(&id));
        world.store.nodes_ended(&dead).await?;
        queue.bury_dead();
    }
    Ok(())
}

/// Whether [`Works`] would find something to do now or within `patience`: see [`queue::work_waits`].
///
/// # Errors
/// The database's, or those of the directory in which processes are known.
pub async fn work_waits(world: &World, patience: Duration) -> anyhow::Result<bool> {
    let options = steps::queue_options(&world.config, Role::All, 1);
    Ok(queue::work_waits(world.store.pool(), &options, patience).await?)
}

/// Tells of the items that wait from before: they count as part of what follows.
///
/// # Errors
/// The database's.
pub async fn tell_waiting(store: &Store, events: &Events) -> anyhow::Result<()> {
    for state in [State::Queued, State::Active] {
        let mut rows = store.items(&ItemFilter { state: Some(state), ..ItemFilter::default() });
        while let Some(row) = rows.try_next().await? {
            events.send(Event::ItemQueued { media_id: row.media_id, title: row.title });
        }
    }
    Ok(())
}

/// How much later than others the items of a source of low priority stand in line.
const LOW: Duration = Duration::from_secs(7 * 24 * 3600);

/// Takes on what subscribed sources have ready, within the limit.
pub struct Taking {
    store: Store,
    events: Events,
    /// New items that may be taken on; 0: all.
    limit: usize,
    /// What is not kept is not taken on.
    keep: Keep,
    taken: AtomicUsize,
}

impl Taking {
    /// A taking of at most `limit` new items in all; 0: of all.
    pub fn new(store: Store, events: Events, limit: usize, keep: Keep) -> Self {
        Self { store, events, limit, keep, taken: AtomicUsize::new(0) }
    }

    /// How many were taken on so far.
    pub fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// Takes on what is ready now, and queues it; whether there was something.
    ///
    /// # Errors
    /// The database's.
    pub async fn take(&self) -> anyhow::Result<bool> {
        self.store.leave_expired(self.keep).await?;
        let most = (self.limit > 0).then(|| self.limit.saturating_sub(self.taken()));
        let taken = self.store.take_entries(most).await?;
        if taken.is_empty() {
            return Ok(false);
        }
        self.taken.fetch_add(taken.len(), Relaxed);
        queue::prepare(self.store.pool()).await?;
        let mut lines: HashMap<_, Line> = HashMap::new();
        let jobs: Vec<Entry> = taken
            .iter()
            .map(|item| {
                let expected = place::expected(item.duration_ms, item.bytes);
                let inline = lines.entry(item.source_id).or_default().place(expected);
                let handicap = match item.priority {
                    ..0 => Duration::ZERO,
                    0 => inline,
                    1.. => inline.saturating_add(LOW),
                };
                Entry { handicap, ..Entry::new(item.media_id, 0) }
            })
            .collect();
        let mut tx = self.store.pool().begin().await?;
        queue::enqueue_in(&mut tx, &jobs, Lane::Ordinary).await?;
        tx.commit().await?;
        for entries::Taken { media_id, title, .. } in taken {
            self.events.send(Event::ItemQueued { media_id, title });
        }
        Ok(true)
    }
}

/// Says that a process works for this data directory: `work.lock` in it, locked, with the process's id. A second set of
/// models would only take the memory and the cores of the first, so `sync` leaves its work to whoever sits here.
#[derive(Debug)]
pub struct Seat {
    locked: File,
}

impl Drop for Seat {
    /// Closing the file is not enough: a child that is just being started has it open, too.
    fn drop(&mut self) {
        let _ = self.locked.unlock();
    }
}

/// Why the seat was not had.
#[derive(Debug)]
pub enum Taken {
    /// By this process.
    By(Option<u32>),
    /// The file cannot be made or locked.
    Unusable(std::io::Error),
}

impl Seat {
    /// Sits down, if nobody else does.
    ///
    /// # Errors
    /// [`Taken`].
    pub fn take(config: &Config) -> Result<Self, Taken> {
        let path = config.data_dir.join("work.lock");
        let mut file = open(&path).map_err(Taken::Unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = file.read_to_string(&mut text);
                return Err(Taken::By(read.ok().and_then(|_| text.trim().parse().ok())));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(Taken::Unusable(error)),
        }
        // Only for people to read.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { locked: file })
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_sits_and_the_next_learns_who() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = crate::config::Config::defaults(dir.path());
        config.data_dir = dir.path().join("data");
        let first = Seat::take(&config).unwrap();
        match Seat::take(&config) {
            Err(Taken::By(Some(pid))) => assert_eq!(pid, std::process::id()),
            other => panic!("{other:?}"),
        }
        drop(first);
        Seat::take(&config).unwrap();
    }

    #[test]
    fn a_seat_is_free_at_once_though_children_are_being_started() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = crate::config::Config::defaults(dir.path());
        config.data_dir = dir.path().join("data");
        std::thread::scope(|threads| {
            let starting = threads.spawn(|| {
                for _ in 0..300 {
                    std::process::Command::new("true").status().unwrap();
                }
            });
            while !starting.is_finished() {
                drop(Seat::take(&config).unwrap());
            }
        });
    }
}

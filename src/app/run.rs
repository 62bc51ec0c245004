//! `spoken run`: the schedule and the work in one process, until it is told to stop.
//!
//! Two loops beside each other. One checks each source when it is due, takes on what is ready, and sleeps until the next is due.
//! The other waits until something is queued by this or any other process, or left by one that is gone, loads the models, works,
//! and lets go of the models when there was nothing for a while. Both outlive a database that is away, and start the private one
//! again where it died.
//!
//! SIGHUP reads the settings again. Where they have changed, what is in work is finished with the old ones first; where not, the
//! sources are looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::check::{Check, Checker, Outcome};
use super::ending::NotNow;
use super::index;
use super::node::Presence;
use super::notify::Notifier;
use super::remove::{keep, retain, told};
use super::signals::Stopping;
use super::works::{self, Progress, Seat, Taken, Taking, Worked, Works};
use super::world::World;
use super::{steps, works::TICK};
use crate::config::Config;
use crate::event::{Event, Events, RunSummary};
use crate::report::figures;

/// How often what others did is noticed: sources added, items queued, allowances used up.
const LOOK: Duration = Duration::from_secs(2);
/// The schedule is looked at so often at least, whatever it says.
const SCHEDULE: Duration = Duration::from_secs(30);
/// The models are let go after so long without anything to do: they take gigabytes that other programs may need.
const IDLE: Duration = Duration::from_secs(600);
/// First and longest pause before something that failed is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// How often the service manager hears what is done.
const STATUS: Duration = Duration::from_secs(10);

/// Reads the settings anew.
pub type Reload<'a> = &'a dyn Fn() -> anyhow::Result<Config>;

/// What the loops tell each other.
#[derive(Default)]
struct Shared {
    /// Jobs in hand.
    in_hand: AtomicUsize,
    /// True while the stages run.
    working: std::sync::atomic::AtomicBool,
    /// Look at the schedule now.
    nudge: Notify,
    /// What it queues may be on this machine only: it is a node also while it does not work.
    presence: Mutex<Option<Presence>>,
}

impl Shared {
    /// A node, though it does not work.
    async fn present(&self, world: &World) -> anyhow::Result<()> {
        *self.presence.lock().await = Some(Presence::begin(world).await?);
        Ok(())
    }

    /// The node is somebody else, or there is none any more.
    async fn absent(&self) {
        if let Some(presence) = self.presence.lock().await.take() {
            presence.end().await;
        }
    }
}

/// Runs until told to stop. `hup` is notified by SIGHUP.
///
/// # Errors
/// What keeps it from starting: settings that name what is not there, another process that works in the same data directory.
pub async fn run(
    world: &mut World,
    reload: Reload<'_>,
    hup: &Notify,
    events: &Events,
    stopping: &Stopping,
) -> anyhow::Result<RunSummary> {
    let started = Instant::now();
    // Wrong names and missing files are told before anything is done.
    steps::plan(&world.config)?;
    let _seat = match Seat::take(&world.config) {
        Ok(seat) => seat,
        Err(Taken::By(pid)) => {
            let who = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            let message = format!(
                "{who} works in this data directory already; wait for its end, or choose another SPOKEN_DATA_DIR"
            );
            return Err(NotNow(message).into());
        }
        Err(Taken::Unusable(error)) => {
            return Err(anyhow::Error::from(error).context("failed to lock work.lock in the data directory"));
        }
    };
    let notifier = Notifier::from_process();
    notifier.ready();
    let sources = world.store.sources().await?.len() as u64;
    let message =
        format!("running: {}; SIGHUP reads settings and sources again", figures::count(sources, "source"));
    events.send(Event::Noticed { warning: false, message });

    let shared = Arc::new(Shared::default());
    shared.present(world).await?;
    let mut worked = Worked::default();
    while !stopping.stop.is_cancelled() {
        // Ends when the settings have changed.
        let epoch = stopping.stop.child_token();
        let changed = {
            let over = CancellationToken::new();
            let loops = async {
                let schedule = schedule(world, &shared, events, &epoch);
                let ((), more) = tokio::join!(schedule, work(world, &shared, events, stopping, &epoch));
                over.cancel();
                more
            };
            let attending = Attending { world, shared: &shared, notifier: &notifier, reload, hup, events };
            let (more, changed) = tokio::join!(loops, attending.attend(&epoch, &over));
            worked.add(more);
            changed
        };
        if let Some(config) = changed {
            world.config = config;
            notifier.ready();
            events.send(Event::Noticed {
                warning: false,
                message: "the new settings are in effect".to_owned(),
            });
        }
    }
    shared.absent().await;
    let tally = events.tally();
    Ok(RunSummary {
        wall_ms: started.elapsed().as_millis() as u64,
        stages: worked.stages,
        windows: worked.windows.windows,
        windows_known: worked.windows.known,
        ..tally
    })
}

/// Checks what is due, takes on what is ready, sleeps; until `epoch` is over.
async fn schedule(world: &World, shared: &Shared, events: &Events, epoch: &CancellationToken) {
    let mut pause = BACKOFF.0;
    while !epoch.is_cancelled() {
        let rest = match round(world, events, epoch).await {
            Ok(rest) => {
                pause = BACKOFF.0;
                rest
            }
            Err(error) => {
                tracing::warn!(
                    error = super::in_full(&error),
                    retry_in_s = pause.as_secs(),
                    "the sources cannot be looked at"
                );
                revive(world).await;
                let rest = pause;
                pause = (pause * 2).min(BACKOFF.1);
                rest
            }
        };
        tokio::select! {
            () = epoch.cancelled() => {}
            () = shared.nudge.notified() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// One look at the schedule; how long until the next.
async fn round(world: &World, events: &Events, epoch: &CancellationToken) -> anyhow::Result<Duration> {
    let store = &world.store;
    let due = store.due_sources(false).await?;
    if !due.is_empty() {
        let checker = Checker::new(world, events.clone(), epoch.clone())?;
        let (tell, mut told) = mpsc::channel::<Check>(16);
        let listen = async {
            while let Some(check) = told.recv().await {
                if let Outcome::Failed { again_in, .. } = &check.outcome {
                    let again_in_s = again_in.as_secs();
                    tracing::debug!(source = check.name, again_in_s, "a source could not be checked");
                }
                take(world, events).await?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(checker.round(due, false, false, tell), listen)?;
    }
    // What limits held back, as room is made for it.
    take(world, events).await?;
    for message in told(&retain(store, keep(&world.config)).await?) {
        events.send(Event::Noticed { warning: false, message });
    }
    if world.config.ingestion_limit > 0 && store.entries_left_over().await? > 0 {
        // Room is made by every item that ends.
        return Ok(LOOK);
    }
    let next = store.next_source_due().await?.unwrap_or(SCHEDULE);
    Ok(next.clamp(LOOK, SCHEDULE))
}

/// Takes on what is ready. The limit of a run is that of what is on its way here: as much is taken on as was finished.
async fn take(world: &World, events: &Events) -> anyhow::Result<()> {
    let limit = world.config.ingestion_limit;
    let room = match limit {
        0 => 0,
        limit => match limit.saturating_sub(world.store.unfinished_count().await?) {
            0 => return Ok(()),
            room => room,
        },
    };
    Taking::new(world.store.clone(), events.clone(), room, keep(&world.config)).take().await.map(drop)
}

/// Works whenever something is queued, or left by a process that is gone; until `epoch` is over and what was in hand is finished.
async fn work(
    world: &World,
    shared: &Shared,
    events: &Events,
    stopping: &Stopping,
    epoch: &CancellationToken,
) -> Worked {
    let mut all = Worked::default();
    let mut pause = BACKOFF.0;
    while !epoch.is_cancelled() {
        let rest = match stretch(world, shared, events, stopping, epoch).await {
            Ok(None) => LOOK,
            Ok(Some(worked)) => {
                pause = BACKOFF.0;
                all.add(worked);
                LOOK
            }
            Err(error) => {
                let message = format!(
                    "cannot work: {}; trying again in {}",
                    super::in_full(&error),
                    figures::duration(pause.as_millis() as u64)
                );
                events.send(Event::Noticed { warning: true, message });
                let rest = pause;
                pause = (pause * 2).min(BACKOFF.1);
                rest
            }
        };
        shared.working.store(false, Relaxed);
        shared.in_hand.store(0, Relaxed);
        tokio::select! {
            () = epoch.cancelled() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
    all
}

/// One stretch of work, from the first item to the end of a long pause; none where nothing is to be done.
async fn stretch(
    world: &World,
    shared: &Shared,
    events: &Events,
    stopping: &Stopping,
    epoch: &CancellationToken,
) -> anyhow::Result<Option<Worked>> {
    if !works::work_waits(world, Duration::ZERO).await? {
        return Ok(None);
    }
    shared.working.store(true, Relaxed);
    let mut works = Works::open(world).await?;
    shared.absent().await;
    let worked = work_off(world, &mut works, shared, events, stopping, epoch).await;
    // Never without the one or the other.
    let present = shared.present(world).await;
    works.close().await?;
    present?;
    if worked.is_ok() {
        index::after_a_run(world, events, epoch).await;
    }
    worked.map(Some)
}

/// Works until there was nothing to do for a while.
async fn work_off(
    world: &World,
    works: &mut Works,
    shared: &Shared,
    events: &Events,
    stopping: &Stopping,
    epoch: &CancellationToken,
) -> anyhow::Result<Worked> {
    works::tell_waiting(&world.store, events).await?;
    let (mut busy, mut asked) = (Instant::now(), Instant::now());
    let over = async |p: Progress<'_>| {
        shared.in_hand.store(p.in_hand, Relaxed);
        if p.in_hand > 0 {
            busy = Instant::now();
        } else if asked.elapsed() >= LOOK.max(TICK) {
            asked = Instant::now();
            // Not known: as if there were something.
            if works::work_waits(world, IDLE).await.unwrap_or(true) {
                busy = Instant::now();
            }
        }
        epoch.is_cancelled() || busy.elapsed() >= IDLE
    };
    works.work(world, events, stopping, over).await
}

/// Starts the private server again, if it is ours and died.
async fn revive(world: &World) {
    if let Err(error) = world.revive().await {
        tracing::warn!(%error, "the private Postgres cannot be started");
    }
}

/// Who listens for SIGHUP and tells the service manager what is done.
struct Attending<'a> {
    world: &'a World,
    shared: &'a Shared,
    notifier: &'a Notifier,
    reload: Reload<'a>,
    hup: &'a Notify,
    events: &'a Events,
}

impl Attending<'_> {
    /// Until the loops are `over`. New settings end the `epoch` and are returned.
    async fn attend(&self, epoch: &CancellationToken, over: &CancellationToken) -> Option<Config> {
        let mut alive = self.notifier.alive_every().map(tokio::time::interval);
        let mut status = tokio::time::interval(STATUS);
        let mut changed = None;
        let mut ending = false;
        loop {
            tokio::select! {
                () = over.cancelled() => return changed,
                () = epoch.cancelled(), if !ending => {
                    ending = true;
                    // Not for new settings: then it goes on.
                    if changed.is_none() {
                        self.notifier.stopping();
                    }
                }
                _ = status.tick() => self.notifier.status(&doing(self.world, self.shared).await),
                _ = async { match &mut alive { Some(due) => due.tick().await, None => std::future::pending().await } } => {
                    self.notifier.alive();
                }
                // Once an epoch ends, the next will hear of it.
                () = self.hup.notified(), if !ending => {
                    self.notifier.reloading();
                    changed = self.read_again();
                    if changed.is_some() {
                        // Told to be ready once they are in effect.
                        epoch.cancel();
                    } else {
                        self.notifier.ready();
                        self.shared.nudge.notify_one();
                    }
                }
            }
        }
    }

    /// Reads the settings; those to go on with, if they differ.
    fn read_again(&self) -> Option<Config> {
        let tell = |warning, message: String| self.events.send(Event::Noticed { warning, message });
        match (self.reload)() {
            Ok(config) => {
                let changed = changed(&self.world.config, config, self.events);
                let what = match changed {
                    Some(_) => "they have changed; what is in work is finished first",
                    None => "nothing has changed; the sources are looked at",
                };
                tell(false, format!("settings read again: {what}"));
                changed
            }
            Err(error) => {
                tell(
                    true,
                    format!("the settings cannot be read, the old ones stay: {}", super::in_full(&error)),
                );
                None
            }
        }
    }
}

/// The settings to go on with, if they differ. What needs a new start stays as it was.
fn changed(old: &Config, new: Config, events: &Events) -> Option<Config> {
    let fixed = Config {
        database_url: old.database_url.clone(),
        data_dir: old.data_dir.clone(),
        tools_dir: old.tools_dir.clone(),
        log_format: old.log_format,
        log_level: old.log_level.clone(),
        ..new.clone()
    };
    if fixed != new {
        let message = "database_url, data_dir, tools_dir, log_format and log_level change with a new start only: the old ones stay";
        events.send(Event::Noticed { warning: true, message: message.to_owned() });
    }
    if &fixed == old {
        return None;
    }
    if let Err(error) = steps::plan(&fixed) {
        let message =
            format!("the new settings are of no use, the old ones stay: {}", super::in_full(&error));
        events.send(Event::Noticed { warning: true, message });
        return None;
    }
    Some(fixed)
}

/// What is done, in one line.
async fn doing(world: &World, shared: &Shared) -> String {
    let in_hand = shared.in_hand.load(Relaxed) as u64;
    let work = match (shared.working.load(Relaxed), in_hand) {
        (true, 0) => "models loaded, nothing to do".to_owned(),
        (true, n) => format!("{} in work", figures::count(n, "item")),
        (false, _) => "idle".to_owned(),
    };
    let next = tokio::time::timeout(Duration::from_secs(2), world.store.next_source_due()).await;
    match next {
        Ok(Ok(Some(due))) if due.is_zero() => format!("{work}; checking sources"),
        Ok(Ok(Some(due))) => format!("{work}; next check in {}", figures::remaining(due.as_millis() as u64)),
        Ok(Ok(None)) => format!("{work}; no sources"),
        Ok(Err(_)) | Err(_) => format!("{work}; the database is away"),
    }
}

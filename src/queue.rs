//! Durable work: every item is a job in Postgres until it is done or given up.
//!
//! One job is one media item; its payload is the item's id and generation, nothing else. There are two kinds of them
//! ([`Kind`]): items to be fetched, and items whose audio another machine has left for a transcriber. Which of the two an
//! item needs is what the library knows of it (a row in `handovers`), never what its job says: a job of the other kind is
//! replaced by the right one wherever it is met, so that a process that dies between two steps leaves nothing that would
//! have to be repaired. Each process claims the kinds that it can work on.
//!
//!  The machinery is
//! `graphile_worker` on the same database as the library, so that machines share work by sharing a database. What
//! this module adds, and why:
//!
//! * **One job an item.** The key is `media:<id>:<generation>`, in the mode that leaves an existing job alone, so
//!   enqueueing twice is harmless, and a retry (a higher generation) is a new job.
//! * **The library's attempt limit never strikes** ([`MAX_ATTEMPTS`]): a job that ran out of it would block its
//!   key for ever. Attempts are counted on the item.
//! * **An outage of the database does not cost what is in flight.** One failed query stops a whole worker of the
//!   library. Handlers therefore run in tasks of their own; the worker is started again with backoff and takes its
//!   predecessor's jobs along, and a job that is claimed again *attaches* to the handler that still runs for it.
//! * **After a crash work resumes at once.** Each process has an identity, a file under `workers_dir` that it
//!   keeps locked and in which the ids of its workers stand. A file that nobody holds belongs to a dead process:
//!   its jobs are unlocked at the next start. Processes on other machines are noticed by their missing heartbeat,
//!   after [`QueueOptions::lease`].
//! * **An item that kills the process is found** without giving up those that were merely near it: see
//!   `crash.rs`.
//! * **Stopping waits.** After the stop signal nothing new is claimed, and what is in flight may take as long as it
//!   needs; the caller sets deadlines. Whoever does not want to wait exits: the next start recovers.
//! * **Nothing is forgotten.** [`Queue::reconcile`] gives every unfinished item without a job a new one.
//! * **Small and new items first, none for ever last**: see [`place`]. A claim costs the same however many wait.
//! * **It can be steered** ([`Control`]): paused, an item put first or taken out, looked at ([`Overview`]).
//! * **An idle worker hardly asks**: see `claims.rs`.
//!
//! Clock times are the database's, never this machine's. Notifications are not used: workers poll.

mod claims;
mod contact;
mod control;
mod crash;
mod identity;
mod in_flight;
mod kept;
mod last_words;
mod overview;
pub mod place;
mod silent;
mod waits;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use graphile_worker::WorkerUtils;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::claims::ClaimTimes;
use self::claims::Gate;
pub use self::control::{Cancel, Control, Pause, PauseEnd, Steered};
use self::identity::{Dead, Identity};
pub use self::overview::{Dead as GivenUp, InWork, Numbers, Overview, Scheduled, Waiting, WhereIs};
use self::place::Lane;
pub use self::waits::work_waits;
use crate::media::MediaId;
use crate::store;

/// What is to be done for an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Everything from its source on, or everything up to the hand-over.
    Fetch,
    /// Everything from the audio on that was handed over.
    Transcribe,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Fetch, Self::Transcribe];

    /// The job library's name of it.
    pub const fn task(self) -> &'static str {
        match self {
            Self::Fetch => "ingest_media",
            Self::Transcribe => "transcribe_media",
        }
    }
}

/// The names of both kinds, for SQL.
const TASKS: [&str; 2] = [Kind::Fetch.task(), Kind::Transcribe.task()];
/// The name of the kind that the item `m` needs.
const NEEDED: &str = "case when exists (select from handovers h where h.media_id = m.media_id) \
    then 'transcribe_media' else 'ingest_media' end";

/// The largest number the library's column holds.
pub const MAX_ATTEMPTS: i16 = i16::MAX;
/// [`QueueOptions::lease`] unless something else is set: with the time until the next look, and the pause before a
/// recovered job runs, a dead machine's work goes on within three minutes.
pub const LEASE: Duration = Duration::from_secs(120);

/// Pause after a panic in a handler.
pub(crate) const AFTER_PANIC: Duration = Duration::from_secs(10);
/// How often items without a job are looked for.
const RECONCILE_EVERY: Duration = Duration::from_secs(60);
/// Rows of one statement when enqueueing.
const BATCH: usize = 1000;
/// Advisory lock held while jobs are added: two batches with the same keys in another order would deadlock.
const ENQUEUE_LOCK: i64 = 0x7370_6f6b_656e_0001;
/// Advisory lock held while the library's tables are made: it does not expect two at once.
const MIGRATE_LOCK: i64 = 0x7370_6f6b_656e_0002;

/// How the queue works.
#[derive(Clone, Debug)]
pub struct QueueOptions {
    /// Where identities are kept; `data_dir/workers`. Processes that share it run on one machine.
    pub workers_dir: PathBuf,
    /// Kinds of jobs to claim.
    pub kinds: Vec<Kind>,
    /// Jobs in flight at once: what the stages and the channels between them hold.
    pub concurrency: usize,
    /// How often free slots look for work. One finds out for all of them that there is none.
    pub poll_interval: Duration,
    /// Connections of the queue's own pool.
    pub connections: u32,
    /// A worker whose heartbeat is older than this is dead; its jobs go to others. A worker tells that it lives eight
    /// times as often, and looks for dead ones four times as often. The same for all that share a database.
    pub lease: Duration,
    /// Keeps the duration of every claim, for [`Queue::claim_times`].
    pub record_claims: bool,
}

impl QueueOptions {
    /// `concurrency` items to be fetched at once, polled four times a second over at most eight connections.
    pub fn new(workers_dir: impl Into<PathBuf>, concurrency: usize) -> Self {
        Self {
            workers_dir: workers_dir.into(),
            kinds: vec![Kind::Fetch],
            concurrency: concurrency.max(1),
            poll_interval: Duration::from_millis(250),
            connections: u32::try_from(concurrency.clamp(2, 8)).unwrap_or(8),
            lease: LEASE,
            record_claims: false,
        }
    }
}

/// Why the queue could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The database refused or is gone.
    #[error("the queue's database: {0}")]
    Database(#[from] sqlx::Error),
    /// The job library refused.
    #[error("the job queue: {0}")]
    Library(String),
    /// An identity could not be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// A job to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The item.
    pub media_id: MediaId,
    /// Its generation.
    pub generation: i32,
    /// How far behind its time of enqueueing it stands in line; see [`place`].
    pub handicap: Duration,
}

impl Entry {
    /// A job without a handicap.
    pub fn new(media_id: MediaId, generation: i32) -> Self {
        Self { media_id, generation, handicap: Duration::ZERO }
    }
}

/// What a handler learns about its job beside the item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobInfo {
    /// What is to be done.
    pub kind: Kind,
    /// The item's generation the job was made for.
    pub generation: i32,
    /// How often this job was claimed, 1 the first time; starts again after [`Outcome::Retry`].
    pub attempt: u32,
    /// The item's crash score (see `crash.rs`); 0 for almost all.
    pub crashes: i32,
}

/// How a handler ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is left to do, whether the item is done or given up: the job is deleted.
    Done,
    /// The job runs again, `after` from now.
    Retry {
        /// How long to wait.
        after: Duration,
        /// For the log and the job's row. Not outside text.
        message: String,
    },
    /// The other kind of job is next for the item; this one is replaced by it at once.
    Onward,
    /// Somebody else has the item now; the job is theirs.
    LeaseLost,
}

/// The jobs there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Could be claimed now.
    pub ready: u64,
    /// Claimed by a worker.
    pub locked: u64,
    /// To be claimed later.
    pub scheduled: u64,
    /// When the first of these is due, from now (the database's now).
    pub next_in: Option<Duration>,
}

/// A process of this machine that died, and whose jobs are free again.
#[derive(Debug)]
pub struct Fallen(Dead);

impl Fallen {
    /// Its identity: the name of its folder in the spool.
    pub fn id(&self) -> Uuid {
        self.0.id
    }
}

/// A process that queues and claims nothing: known on its machine, so that it is found when it dies.
#[derive(Debug)]
pub struct Presence(Identity);

impl Presence {
    /// Takes an identity in `workers_dir`.
    ///
    /// # Errors
    /// [`QueueError::Io`].
    pub fn take(workers_dir: &Path) -> Result<Self, QueueError> {
        Identity::take(workers_dir).map(Self)
    }

    /// The identity.
    pub fn id(&self) -> Uuid {
        self.0.id
    }

    /// Gives the identity back.
    pub fn give_up(self) {
        self.0.give_up();
    }
}

/// The queue of one process.
#[derive(Debug)]
pub struct Queue {
    pool: PgPool,
    options: QueueOptions,
    identity: Identity,
    dead: Vec<Dead>,
    gate: Arc<Gate>,
}

impl Queue {
    /// Connects, makes the library's tables where they are missing (several processes may do so at once), takes an
    /// identity, and frees the jobs of dead processes of this machine.
    ///
    /// The tables of the library of media must exist: run the store's migrations first.
    ///
    /// # Errors
    /// [`QueueError`]; nothing is left behind but the identity's file, which the next start clears.
    pub async fn open(url: &str, options: QueueOptions) -> Result<Self, QueueError> {
        let connect: PgConnectOptions = url.parse()?;
        let idle = options.lease / 2;
        let pool = PgPoolOptions::new()
            .max_connections(options.connections.max(2))
            .acquire_timeout(Duration::from_secs(10))
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    // A process that is stopped while it adds jobs must not keep all others from it.
                    store::end_idle_transactions(connection, idle).await?;
                    crate::postgres::mind_lost_peers(connection).await
                })
            })
            .connect_with(connect.application_name("spoken-queue"))
            .await?;
        migrate(&pool).await?;
        let identity = Identity::take(&options.workers_dir)?;
        let dead = identity::find_dead(&options.workers_dir)?;
        for process in &dead {
            crash::recover(&pool, process).await?;
        }
        let gate = Arc::new(Gate::new(options.poll_interval, options.record_claims));
        Ok(Self { pool, options, identity, dead, gate })
    }

    /// This process's identity: the name of its folder in the spool.
    pub fn worker_id(&self) -> Uuid {
        self.identity.id
    }

    /// Processes found dead: the names of folders in the spool that nobody looks after any more.
    pub fn dead(&self) -> Vec<Uuid> {
        self.dead.iter().map(|d| d.id).collect()
    }

    /// True where a process with this identity runs, or has died and was not cleared up after.
    pub fn knows(&self, worker: Uuid) -> bool {
        identity::exists(&self.options.workers_dir, worker)
    }

    /// Forgets the dead, once what they left in the spool is taken over. Until then they stay this process's
    /// business: no other process sees them, and if this one dies too, the next finds them again.
    pub fn bury_dead(&mut self) {
        self.dead.drain(..).for_each(Dead::bury);
    }

    /// Adds a job for each item that has none yet, without a handicap; they are claimed in this order.
    ///
    /// # Errors
    /// [`QueueError::Database`]; whole batches of a thousand are in or not.
    pub async fn enqueue(&self, items: &[(MediaId, i32)], lane: Lane) -> Result<(), QueueError> {
        let entries: Vec<Entry> = items.iter().map(|(id, generation)| Entry::new(*id, *generation)).collect();
        self.enqueue_entries(&entries, lane).await
    }

    /// Adds a job for each entry whose item has none yet, where its handicap puts it in its lane. What has one keeps
    /// its place.
    ///
    /// # Errors
    /// [`QueueError::Database`]; whole batches of a thousand are in or not.
    pub async fn enqueue_entries(&self, entries: &[Entry], lane: Lane) -> Result<(), QueueError> {
        enqueue_all(&self.pool, entries, lane).await
    }

    /// The pause in effect, if there is one.
    ///
    /// # Errors
    /// [`QueueError::Database`].
    pub async fn paused(&self) -> Result<Option<Pause>, QueueError> {
        Ok(control::paused(&self.pool).await?)
    }

    /// True while no job is claimed because of a pause, as this process last saw it: about a second ago.
    pub fn is_paused(&self) -> bool {
        self.gate.is_paused()
    }

    /// The queue as those see and steer it who do not work on it.
    pub fn control(&self) -> Control {
        Control { pool: self.pool.clone() }
    }

    /// From now on jobs are claimed only while `wanted` is true of the number of those that are claimed and have not come to
    /// the handler: asked before each claim, so it must be quick. Without it, as many are claimed as may be in flight.
    pub fn claim_while(&self, wanted: impl Fn(usize) -> bool + Send + Sync + 'static) {
        self.gate.claim_while(wanted);
    }

    /// How long this process's claims took, with [`QueueOptions::record_claims`].
    pub fn claim_times(&self) -> ClaimTimes {
        self.gate.times()
    }

    /// Gives a job to every item that is `queued` or `active` and has none, and deletes what interrupted
    /// reschedulings left. Returns how many jobs were added. [`Queue::run`] does this at its start and every minute.
    ///
    /// # Errors
    /// [`QueueError::Database`].
    pub async fn reconcile(&self) -> Result<u64, QueueError> {
        reconcile(&self.pool).await
    }

    /// What is waiting and running of the kinds that this process claims, of all processes on this database.
    ///
    /// # Errors
    /// [`QueueError::Database`].
    pub async fn pending(&self) -> Result<Pending, QueueError> {
        let (ready, locked, scheduled, next): (i64, i64, i64, Option<f64>) = sqlx::query_as(
            "select count(*) filter (where locked_at is null and run_at <= now()), \
                    count(*) filter (where locked_at is not null), \
                    count(*) filter (where locked_at is null and run_at > now()), \
                    extract(epoch from min(run_at) filter (where locked_at is null and run_at > now()) - now())::float8 \
             from graphile_worker._private_jobs j join graphile_worker._private_tasks t on t.id = j.task_id \
             where t.identifier = any($1) and j.key is not null",
        )
        .bind(self.options.kinds.iter().map(|kind| kind.task()).collect::<Vec<_>>())
        .fetch_one(&self.pool)
        .await?;
        Ok(Pending {
            ready: ready.unsigned_abs(),
            locked: locked.unsigned_abs(),
            scheduled: scheduled.unsigned_abs(),
            next_in: next.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
        })
    }

    /// True when no item is `queued` or `active` that needs a kind of job which this process claims: one look into a
    /// partial index.
    ///
    /// # Errors
    /// [`QueueError::Database`].
    pub async fn drained(&self) -> Result<bool, QueueError> {
        self.drained_of(&self.options.kinds).await
    }

    /// As [`Self::drained`], for other kinds.
    ///
    /// # Errors
    /// [`QueueError::Database`].
    pub async fn drained_of(&self, kinds: &[Kind]) -> Result<bool, QueueError> {
        let unfinished: bool = sqlx::query_scalar(
            "select exists (select from media m where m.state in ('queued', 'active') and \
                case when exists (select from handovers h where h.media_id = m.media_id) then $1 else $2 end)",
        )
        .bind(kinds.contains(&Kind::Transcribe))
        .bind(kinds.contains(&Kind::Fetch))
        .fetch_one(&self.pool)
        .await?;
        Ok(!unfinished)
    }

    /// Takes over from processes of this machine that died since the last look: frees their jobs, so that these can be
    /// claimed at once. Returns who they were; [`Self::bury`] them once what they left in the spool is taken over.
    ///
    /// # Errors
    /// [`QueueError`]; those found so far stay to be found again.
    pub async fn find_dead(&self) -> Result<Vec<Fallen>, QueueError> {
        let mut fallen = Vec::new();
        for process in identity::find_dead(&self.options.workers_dir)? {
            crash::recover(&self.pool, &process).await?;
            fallen.push(Fallen(process));
        }
        Ok(fallen)
    }

    /// Forgets a process found by [`Self::find_dead`]. Dropped instead, it is found again.
    pub fn bury(fallen: Fallen) {
        fallen.0.bury();
    }

    /// Works until `stop`: claims jobs and gives each to `handler`, at most `concurrency` at once. Returns when the
    /// last handler has returned. Failures of the database are logged and survived.
    ///
    /// `handler` is called once for an item in flight, however often its job is claimed meanwhile. It is not
    /// called for items that need nothing any more (done, failed, of an older generation, gone). A handler that
    /// panics counts as a crash of its item.
    ///
    /// Fatal signals of the whole process (SIGSEGV, SIGABRT, …) are noted in its identity before they take their
    /// course, so that the next start knows that this one crashed.
    pub async fn run<H, F>(&self, handler: H, stop: CancellationToken)
    where
        H: Fn(MediaId, JobInfo) -> F + Send + Sync + 'static,
        F: Future<Output = Outcome> + Send + 'static,
    {
        worker::supervise(self, handler, stop).await;
    }

    /// Gives back what this process holds and its identity. Call it after [`Queue::run`] has returned.
    ///
    /// # Errors
    /// [`QueueError::Database`]: the next start of a process on this machine clears up then.
    pub async fn close(mut self) -> Result<(), QueueError> {
        self.bury_dead();
        self.identity.note_leaving();
        crash::release(&self.pool, &self.identity.workers()).await?;
        self.pool.close().await;
        self.identity.give_up();
        Ok(())
    }
}

async fn enqueue_all(pool: &PgPool, entries: &[Entry], lane: Lane) -> Result<(), QueueError> {
    for batch in entries.chunks(BATCH) {
        let mut tx = pool.begin().await?;
        add_jobs(&mut tx, batch, lane).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Adds jobs for items to be fetched in the caller's transaction, so that items and their jobs appear together; they are
/// claimed in this order.
///
/// # Errors
/// The database's.
pub async fn enqueue_in(
    connection: &mut PgConnection,
    entries: &[Entry],
    lane: Lane,
) -> Result<(), sqlx::Error> {
    add_jobs(connection, entries, lane).await
}

/// As the library's own `add_job` in the mode `unsafe_dedupe`, for many at a time.
async fn add_jobs(connection: &mut PgConnection, entries: &[Entry], lane: Lane) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_advisory_xact_lock($1)").bind(ENQUEUE_LOCK).execute(&mut *connection).await?;
    sqlx::query(
        "select count(graphile_worker.add_job($1, \
            json_build_object('media_id', i.media_id, 'generation', i.generation), \
            run_at => case when $8 then 'epoch'::timestamptz - (now() - 'epoch'::timestamptz) \
                else now() - $7 * interval '1 second' + i.handicap * interval '1 second' end \
                + i.n * interval '1 microsecond', \
            max_attempts => $2::int, job_key => 'media:' || i.media_id || ':' || i.generation, \
            job_key_mode => 'unsafe_dedupe', priority => $3::int)) \
         from unnest($4::uuid[], $5::int[], $6::float8[]) with ordinality as i (media_id, generation, handicap, n)",
    )
    .bind(Kind::Fetch.task())
    .bind(i32::from(MAX_ATTEMPTS))
    .bind(i32::from(lane.priority()))
    .bind(entries.iter().map(|e| e.media_id.0).collect::<Vec<_>>())
    .bind(entries.iter().map(|e| e.generation).collect::<Vec<_>>())
    .bind(entries.iter().map(|e| e.handicap.min(place::WINDOW).as_secs_f64()).collect::<Vec<_>>())
    .bind(place::WINDOW.as_secs_f64())
    .bind(lane == Lane::First)
    .execute(&mut *connection)
    .await?;
    Ok(())
}

async fn reconcile(pool: &PgPool) -> Result<u64, QueueError> {
    let mut tx = pool.begin().await?;
    sqlx::query("select pg_advisory_xact_lock($1)").bind(ENQUEUE_LOCK).execute(&mut *tx).await?;
    // Where it stood in line is not known any more: what was begun goes on first, the rest by the time of its discovery.
    let added: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "with missing as materialized ( \
            select m.media_id, m.generation, m.retry_at, m.crashes, m.discovered_at, m.duration_ms, {NEEDED} as task, \
                   m.crashes = 0 and (m.state = 'active' or m.retry_at is not null) as begun from media m \
            where m.state in ('queued', 'active') and not exists ( \
                select from graphile_worker._private_jobs j \
                where j.key = 'media:' || m.media_id || ':' || m.generation)) \
         select count(graphile_worker.add_job(task, \
            json_build_object('media_id', media_id, 'generation', generation), \
            run_at => case when retry_at > now() then retry_at when begun then now() \
                else least(discovered_at, now()) - $2 * interval '1 second' + least($2 * interval '1 second', \
                    4 * coalesce(duration_ms, 600000) * interval '1 millisecond' + crashes * interval '1 hour') end, \
            max_attempts => $1::int, job_key => 'media:' || media_id || ':' || generation, \
            job_key_mode => 'unsafe_dedupe', priority => case when begun then $3::int else 0 end)) from missing",
    )))
    .bind(i32::from(MAX_ATTEMPTS))
    .bind(place::WINDOW.as_secs_f64())
    .bind(i32::from(Lane::Begun.priority()))
    .fetch_one(&mut *tx)
    .await?;
    // A process that died between rescheduling its job and ending it leaves the old one, retired and without a key.
    sqlx::query(
        "delete from graphile_worker._private_jobs j using graphile_worker._private_tasks t \
         where t.id = j.task_id and t.identifier = any($1) and j.key is null and j.locked_at is null",
    )
    .bind(TASKS)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    if added > 0 {
        tracing::info!(jobs = added, "items without a job were queued again");
    }
    Ok(added.unsigned_abs())
}

/// Makes the library's tables where they are missing, for who adds jobs ([`enqueue_in`]) and does not work on them.
///
/// # Errors
/// [`QueueError`].
pub async fn prepare(pool: &PgPool) -> Result<(), QueueError> {
    let there: bool = sqlx::query_scalar("select to_regclass('graphile_worker._private_jobs') is not null")
        .fetch_one(pool)
        .await?;
    if there { Ok(()) } else { migrate(pool).await }
}

async fn migrate(pool: &PgPool) -> Result<(), QueueError> {
    let mut connection = pool.acquire().await?.detach();
    sqlx::query("select pg_advisory_lock($1)").bind(MIGRATE_LOCK).execute(&mut connection).await?;
    let migrated = WorkerUtils::new(pool.clone(), "graphile_worker").migrate().await;
    // Ends the session, and with it the lock.
    let _ = connection.close().await;
    migrated.map_err(|e| QueueError::Library(e.to_string()))
}

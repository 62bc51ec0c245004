//! Keeps a worker of the job library running, and joins its jobs to handlers.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use graphile_worker::{
    IntoTaskHandlerResult, JobRecovery, TaskHandler, Worker, WorkerContext, WorkerOptions,
    WorkerRecoveryConfig,
};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPool;
use tokio::sync::{RwLock, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::contact::Contact;
use super::in_flight::{Ended, InFlight, Key};
use super::place::{Lane, WINDOW};
use super::{
    AFTER_PANIC, JobInfo, Kind, MAX_ATTEMPTS, NEEDED, Outcome, Queue, QueueError, RECONCILE_EVERY, claims,
    crash, kept, reconcile, silent,
};
use crate::media::MediaId;

/// First and longest pause before a failed worker is started again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// The library cuts jobs off that long after the stop signal: never, in practice. Stopping waits for handlers.
const NO_DEADLINE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long the end of an item is remembered whose job went elsewhere.
const REMEMBER_ENDED: Duration = Duration::from_secs(3600);
/// How often it is looked up whether the queue is paused, and what was put off and is due: two queries of few rows.
const LOOK_EVERY: Duration = Duration::from_secs(1);

type Handler = dyn Fn(MediaId, JobInfo) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync;

/// What all workers of one [`Queue::run`] share.
pub(super) struct Shared {
    pub(super) pool: PgPool,
    handler: Box<Handler>,
    in_flight: InFlight,
    /// Ordinary items hold it together, a suspect alone (see `crash.rs`).
    company: RwLock<()>,
    gate: Arc<claims::Gate>,
    contact: Arc<Contact>,
    stop: CancellationToken,
}

/// See [`Queue::run`].
pub(super) async fn supervise<H, F>(queue: &Queue, handler: H, stop: CancellationToken)
where
    H: Fn(MediaId, JobInfo) -> F + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    queue.identity.watch_for_crashes();
    let shared = Arc::new(Shared {
        pool: queue.pool.clone(),
        handler: Box::new(move |id, info| Box::pin(handler(id, info))),
        in_flight: InFlight::default(),
        company: RwLock::default(),
        gate: queue.gate.clone(),
        contact: Arc::new(Contact::new(queue.options.lease)),
        stop: stop.clone(),
    });
    // Known before the first claim.
    look_for_pause(queue, &shared.contact).await;
    let reconciling = reconcile_every_minute(&shared, &stop);
    let pausing = async {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(LOOK_EVERY) => {
                    look_for_pause(queue, &shared.contact).await;
                    put_back(&queue.pool).await;
                }
            }
        }
    };
    let working = async {
        let mut pause = BACKOFF.0;
        while !stop.is_cancelled() {
            let started = Instant::now();
            let Err(error) = run_worker(queue, &shared, &stop).await else { continue };
            if started.elapsed() > BACKOFF.1 {
                pause = BACKOFF.0;
            }
            tracing::warn!(%error, retry_in_ms = pause.as_millis() as u64, in_flight = "goes on", "the queue's worker stopped");
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(pause) => {}
            }
            // Sooner than others stop waiting for us (see the recovery hook).
            pause = (pause * 2).min(BACKOFF.1).min(queue.options.lease / 8);
        }
        // Handlers whose worker failed are attached to nothing; they are waited for all the same.
        shared.in_flight.all_ended().await;
        if let Err(error) = kept::clear(&shared.pool, &queue.identity.workers()).await {
            tracing::warn!(%error, "cannot delete the jobs of items that are done; the next run will");
        }
    };
    let leaving = async {
        stop.cancelled().await;
        queue.identity.note_leaving();
    };
    tokio::join!(reconciling, pausing, working, leaving);
}

/// Puts what was put off and is due back to its place in line; where the database does not answer, the next look will.
async fn put_back(pool: &PgPool) {
    let put_back = sqlx::query(
        "with due as (select id from graphile_worker._private_jobs \
            where is_available and priority = $1 and run_at <= now() and key like 'media:%' \
            limit 1000 for update skip locked) \
         update graphile_worker._private_jobs j set priority = $2, run_at = least(now(), \
            coalesce(to_timestamp((j.payload ->> 'place')::float8), now() - $3 * interval '1 second')) \
         from due where j.id = due.id",
    )
    .bind(Lane::PutOff.priority())
    .bind(Lane::Ordinary.priority())
    .bind(WINDOW.as_secs_f64())
    .execute(pool);
    if let Err(error) = put_back.await {
        tracing::debug!(%error, "cannot put jobs that are due back to their place");
    }
}

/// Opens or closes the gate before the claims; where the database does not answer, it stays as it is. Asked all the time, so
/// it is known from this whether the database answers.
async fn look_for_pause(queue: &Queue, contact: &Contact) {
    let paused = super::control::paused(&queue.pool).await;
    match &paused {
        Ok(_) => contact.answered(),
        Err(_) => contact.failed(),
    }
    match paused {
        Ok(Some(pause)) if queue.gate.set_paused(true) => {
            let until = pause.until.map(|until| until.to_rfc3339());
            tracing::info!(until, "the queue is paused: what runs is finished, nothing new is taken up");
        }
        Ok(None) if queue.gate.set_paused(false) => tracing::info!("the queue goes on"),
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "cannot tell whether the queue is paused"),
    }
}

async fn reconcile_every_minute(shared: &Shared, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = reconcile(&shared.pool).await {
            tracing::warn!(%error, "cannot look for items without a job; trying again in a minute");
        }
        shared.in_flight.forget_ended(REMEMBER_ENDED);
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(RECONCILE_EVERY) => {}
        }
    }
}

/// One worker from start to end: `Ok` after the stop signal when its last job is over, `Err` when it failed.
async fn run_worker(queue: &Queue, shared: &Arc<Shared>, stop: &CancellationToken) -> Result<(), QueueError> {
    let former = queue.identity.workers();
    let failed = CancellationToken::new();
    let options = WorkerOptions::default()
        .database(claims::behind(queue.gate.clone(), shared.pool.clone()))
        .concurrency(queue.options.concurrency)
        .poll_interval(queue.options.poll_interval)
        .use_notification_delivery(false)
        .listen_os_shutdown_signals(false)
        .shutdown_signal(stop.clone().cancelled_owned())
        .shutdown_grace_period(NO_DEADLINE)
        .worker_recovery(
            WorkerRecoveryConfig::default()
                .heartbeat_interval(queue.options.lease / 8)
                .sweep_interval(queue.options.lease / 4)
                .sweep_threshold(queue.options.lease),
        )
        .on(
            JobRecovery,
            silent::recovery_hook(
                shared.pool.clone(),
                shared.contact.clone(),
                former.clone(),
                queue.options.lease / 8,
            ),
        )
        .add_extension(Slot { shared: Arc::clone(shared), failed: failed.clone() });
    let options = queue.options.kinds.iter().fold(options, |options, kind| match kind {
        Kind::Fetch => options.define_job::<IngestMedia>(),
        Kind::Transcribe => options.define_job::<TranscribeMedia>(),
    });
    let worker = options.init().await.map_err(|e| QueueError::Library(e.to_string()))?;
    queue.identity.add_worker(worker.worker_id())?;
    // What a failed predecessor held goes on here where its handler still runs, and back into the queue where not.
    let keys = shared.in_flight.keys();
    let kept = kept::take_along(&shared.pool, keys, &former, worker.worker_id()).await?;
    crash::release(&shared.pool, &former).await?;
    for job in kept {
        let slot = Slot { shared: Arc::clone(shared), failed: failed.clone() };
        tokio::spawn(slot.finish(job, worker.worker_id().to_owned()));
    }
    let watch = watch_failure(&worker, stop.clone(), failed.clone());
    tokio::pin!(watch);
    let run = worker.run();
    tokio::pin!(run);
    // The watch never ends before the run: it only passes the failure on.
    tokio::select! {
        ended = &mut run => ended.map_err(|e| {
            // Also for the jobs that were taken along.
            failed.cancel();
            QueueError::Library(e.to_string())
        }),
        never = &mut watch => match never {},
    }
}

/// When the worker shuts down though nobody asked it to, one of its slots has failed and the others wait for their
/// jobs: lets go of these, so that a new worker can take over.
async fn watch_failure(
    worker: &Worker,
    stop: CancellationToken,
    failed: CancellationToken,
) -> std::convert::Infallible {
    worker.shutdown_signal().clone().await;
    if !stop.is_cancelled() {
        failed.cancel();
    }
    std::future::pending().await
}

/// The payload of a job of either kind.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Payload {
    pub(super) media_id: MediaId,
    generation: i32,
}

impl Payload {
    async fn run(self, kind: Kind, context: WorkerContext) -> Result<(), String> {
        let Some(slot) = context.get_ext::<Slot>() else {
            return Err("the worker was made without its handler".to_owned());
        };
        let (job, attempt) = (*context.job().id(), u32::try_from(*context.job().attempts()).unwrap_or(1));
        slot.run(kind, (self.media_id, self.generation), job, attempt, context.worker_id()).await
    }
}

/// [`Kind::Fetch`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct IngestMedia(Payload);

impl TaskHandler for IngestMedia {
    const IDENTIFIER: &'static str = Kind::Fetch.task();

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        self.0.run(Kind::Fetch, context).await
    }
}

/// [`Kind::Transcribe`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct TranscribeMedia(Payload);

impl TaskHandler for TranscribeMedia {
    const IDENTIFIER: &'static str = Kind::Transcribe.task();

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        self.0.run(Kind::Transcribe, context).await
    }
}

/// What a job finds in its worker.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) shared: Arc<Shared>,
    /// Set when the worker has failed.
    pub(super) failed: CancellationToken,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("failed", &self.failed.is_cancelled()).finish_non_exhaustive()
    }
}

impl Slot {
    /// Runs the item's handler, or waits for the one that runs already. `Err` leaves the job in the queue, if it is
    /// still ours.
    pub(super) async fn run(
        &self,
        kind: Kind,
        key: Key,
        job: i64,
        attempt: u32,
        worker_id: &str,
    ) -> Result<(), String> {
        let shared = &self.shared;
        let (mut ended, new) = shared.in_flight.attach(key);
        if let Some(tell) = new {
            tokio::spawn(Arc::clone(shared).handle(kind, key, attempt, tell));
        }
        let end = tokio::select! {
            end = ended.wait_for(Option::is_some) => match end {
                Ok(end) => end.clone(),
                // The task vanished, which only the end of the runtime explains.
                Err(_) => None,
            },
            () = self.failed.cancelled() => return Err("the worker failed; the item goes on".to_owned()),
        };
        let result = match end {
            Some(Ended::With(Outcome::Done)) => Ok(()),
            Some(Ended::With(Outcome::Retry { after, message })) => {
                // On an error the end stays known: the job comes back and finds it.
                reschedule(&shared.pool, key, job, worker_id, after, &message).await?
            }
            Some(Ended::With(Outcome::Onward)) => {
                let message = "on to its next step";
                reschedule(&shared.pool, key, job, worker_id, Duration::ZERO, message).await?
            }
            Some(Ended::With(Outcome::LeaseLost)) => Err("another worker has the item".to_owned()),
            Some(Ended::Failed(message)) => Err(message),
            None => Err("the handler vanished".to_owned()),
        };
        shared.in_flight.forget(key);
        result
    }
}

impl Shared {
    /// The life of an item in flight. Not tied to a worker: that may fail and come back meanwhile.
    async fn handle(self: Arc<Self>, kind: Kind, key: Key, attempt: u32, tell: watch::Sender<Option<Ended>>) {
        let needed = self.needed(key).await;
        // From here on whoever runs the item counts it.
        self.gate.arrived();
        let end = match needed {
            Ok(Some((task, _))) if task != kind.task() => Ended::With(Outcome::Onward),
            Ok(Some((_, crashes))) => {
                self.call(key, JobInfo { kind, generation: key.1, attempt, crashes }).await
            }
            Ok(None) => Ended::With(Outcome::Done),
            Err(error) => Ended::Failed(error.to_string()),
        };
        tell.send_replace(Some(end));
    }

    /// The kind of job that the item needs, and its crash score, if it still needs any of this generation.
    async fn needed(&self, (media_id, generation): Key) -> Result<Option<(String, i32)>, QueueError> {
        let crashes = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {NEEDED}, crashes from media m \
             where media_id = $1 and generation = $2 and state in ('queued', 'active')",
        )))
        .bind(media_id.0)
        .bind(generation)
        .fetch_optional(&self.pool)
        .await?;
        Ok(crashes)
    }

    async fn call(&self, (media_id, generation): Key, info: JobInfo) -> Ended {
        let turn = async {
            if info.crashes < crash::SUSPECT {
                return (Some(self.company.read().await), None);
            }
            let alone = self.company.write().await;
            tracing::info!(%media_id, crashes = info.crashes, "runs alone: the program has died while it had this item");
            (None, Some(alone))
        };
        let _turn = tokio::select! {
            biased;
            turn = turn => turn,
            // Not begun yet, so it does not count as in flight: back into the queue as it was.
            () = self.stop.cancelled() => {
                let message = "stopped before it began".to_owned();
                return Ended::With(Outcome::Retry { after: Duration::ZERO, message });
            }
        };
        let handled = AssertUnwindSafe(async { (self.handler)(media_id, info).await }).catch_unwind().await;
        match handled {
            Ok(outcome) => Ended::With(outcome),
            Err(_panic) => {
                // The panic's own words are in the log: the default hook printed them.
                match crash::charge_panic(&self.pool, media_id, generation).await {
                    Ok(true) => return Ended::With(Outcome::Done),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, %media_id, "cannot count a crash"),
                }
                Ended::With(Outcome::Retry { after: AFTER_PANIC, message: "the handler panicked".to_owned() })
            }
        }
    }
}

/// Replaces the running job by one that is due later, of the kind that the item needs by now; the caller then ends the
/// running one as complete. Without a delay it keeps its place in line, else it comes before those that were not begun. In
/// one statement, and only while the job is ours. Outer error: the database; inner: the job is not ours any more.
async fn reschedule(
    pool: &PgPool,
    (media_id, generation): Key,
    job: i64,
    worker_id: &str,
    after: Duration,
    message: &str,
) -> Result<Result<(), String>, String> {
    // An item that was not even tried (no attempt counts) keeps its place in line, for when it is due.
    let replaced: Option<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "with mine as materialized (select j.id, j.priority, j.run_at, coalesce({NEEDED}, 'ingest_media') as task, \
                $5 > 0 and m.attempts = 0 and j.priority >= 0 as put_off, \
                coalesce((j.payload ->> 'place')::float8, extract(epoch from j.run_at)::float8) as place \
            from graphile_worker._private_jobs j left join media m on m.media_id = $3 \
            where j.id = $1 and j.locked_by = $2 for update of j) \
         select (graphile_worker.add_job(mine.task, \
            case when put_off then json_build_object('media_id', $3::uuid, 'generation', $4::int, 'place', place) \
                else json_build_object('media_id', $3::uuid, 'generation', $4::int) end, \
            run_at => case when $5 > 0 then now() + $5 * interval '1 second' else least(mine.run_at, now()) end, \
            max_attempts => $6::int, \
            job_key => 'media:' || $3::uuid || ':' || $4::int, job_key_mode => 'replace', \
            priority => case when put_off then $8::int when $5 > 0 then least(mine.priority, $7::int) \
                else mine.priority end)).id from mine",
    )))
    .bind(job)
    .bind(worker_id)
    .bind(media_id.0)
    .bind(generation)
    .bind(after.as_secs_f64())
    .bind(i32::from(MAX_ATTEMPTS))
    .bind(i32::from(Lane::Begun.priority()))
    .bind(i32::from(Lane::PutOff.priority()))
    .fetch_optional(pool)
    .await
    .map_err(|e| format!("cannot reschedule: {e}"))?;
    tracing::debug!(%media_id, after_ms = after.as_millis() as u64, message, "job rescheduled");
    Ok(replaced.map(|_| ()).ok_or_else(|| "another worker has the item".to_owned()))
}

//! Steering the queue: pause and resume, what comes first, what is taken out.
//!
//! Everything here is a few statements on the database and works whether or not anybody is working on the queue;
//! workers look every second.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::place::Lane;
use super::{ENQUEUE_LOCK, Entry, QueueError, add_jobs, migrate};
use crate::media::{FailureClass, MediaId};

/// A queue that is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Pause {
    /// When it began, by the database's clock.
    pub since: DateTime<Utc>,
    /// When it ends by itself; `None`: when somebody resumes.
    pub until: Option<DateTime<Utc>>,
}

/// When a pause ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseEnd {
    /// When somebody resumes.
    Open,
    /// So long from now, by the database's clock.
    After(Duration),
    /// At this time.
    At(DateTime<Utc>),
}

/// What became of an item that a person wanted to move or take out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steered {
    /// It waited; now it is first, or taken out.
    Waited,
    /// It is being worked on: too late to be first; it is being stopped where it was to be taken out.
    Active,
    /// It neither waits nor runs: done, failed or unknown. Nothing changed.
    Neither,
}

/// Which items to take out of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// These, waiting or running.
    Ids(Vec<MediaId>),
    /// All that nobody works on, those that wait for their next attempt included.
    AllWaiting,
}

/// The pause in effect, if there is one.
pub(super) async fn paused(pool: &PgPool) -> Result<Option<Pause>, sqlx::Error> {
    let row: Option<(DateTime<Utc>, Option<DateTime<Utc>>)> =
        sqlx::query_as("select since, until from queue_pause where until is null or until > now()")
            .fetch_optional(pool)
            .await?;
    Ok(row.map(|(since, until)| Pause { since, until }))
}

/// The queue as somebody who does not work on it sees and steers it.
#[derive(Clone, Debug)]
pub struct Control {
    pub(super) pool: PgPool,
}

impl Control {
    /// Steers the queue in this database, whose schema must be up to date.
    ///
    /// # Errors
    /// [`QueueError`], where the job library's tables cannot be made.
    pub async fn open(pool: &PgPool) -> Result<Self, QueueError> {
        migrate(pool).await?;
        Ok(Self { pool: pool.clone() })
    }

    /// The pause in effect, if there is one.
    ///
    /// # Errors
    /// [`QueueError::Database`].
    pub async fn paused(&self) -> Result<Option<Pause>, QueueError> {
        Ok(paused(&self.pool).await?)
    }

    /// Keeps every worker from taking up anything new, within about a second; what runs is finished. A pause that is in
    /// effect gets the new end.
    ///
    /// # Errors
    /// [`QueueError::Database`].
    pub async fn pause(&self, end: PauseEnd) -> Result<Pause, QueueError> {
        let (after, at) = match end {
            PauseEnd::Open => (None, None),
            PauseEnd::After(after) => (Some(after.as_secs_f64()), None),
            PauseEnd::At(at) => (None, Some(at)),
        };
        let (since, until) = sqlx::query_as(
            "insert into queue_pause (until) values (coalesce($2, now() + make_interval(secs => $1))) \
             on conflict (only_row) do update set until = excluded.until, \
                since = case when queue_pause.until <= now() then now() else queue_pause.since end \
             returning since, until",
        )
        .bind(after)
        .bind(at)
        .fetch_one(&self.pool)
        .await?;
        Ok(Pause { since, until })
    }

    /// Lets workers go on; `false` where the queue was not paused.
    ///
    /// # Errors
    /// [`QueueError::Database`].
    pub async fn resume(&self) -> Result<bool, QueueError> {
        let was = paused(&self.pool).await?.is_some();
        sqlx::query("delete from queue_pause").execute(&self.pool).await?;
        Ok(was)
    }

    /// The time by the database's clock.
    ///
    /// # Errors
    /// [`QueueError::Database`].
    pub async fn now(&self) -> Result<DateTime<Utc>, QueueError> {
        Ok(sqlx::query_scalar("select now()").fetch_one(&self.pool).await?)
    }

    /// Adds jobs for items that have none; see [`super::Queue::enqueue_entries`].
    ///
    /// # Errors
    /// [`QueueError::Database`]; whole batches of a thousand are in or not.
    pub async fn enqueue(&self, entries: &[Entry], lane: Lane) -> Result<(), QueueError> {
        super::enqueue_all(&self.pool, entries, lane).await
    }

    /// Puts waiting items before everything else that waits, in this order; a time before which they should not have
    /// been tried again is forgotten.
    ///
    /// # Errors
    /// [`QueueError::Database`]; nothing has changed then.
    pub async fn bump(&self, ids: &[MediaId]) -> Result<Vec<Steered>, QueueError> {
        let uuids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let mut tx = self.pool.begin().await?;
        sqlx::query("select pg_advisory_xact_lock($1)").bind(ENQUEUE_LOCK).execute(&mut *tx).await?;
        let states: Vec<(Uuid, String, i32)> = sqlx::query_as(
            "select media_id, state, generation from media where media_id = any($1) order by media_id for update",
        )
        .bind(&uuids)
        .fetch_all(&mut *tx)
        .await?;
        let mut entries = Vec::new();
        let steered = ids
            .iter()
            .map(|id| match states.iter().find(|(known, ..)| *known == id.0) {
                Some((_, state, generation)) if state == "queued" => {
                    entries.push(Entry::new(*id, *generation));
                    Steered::Waited
                }
                Some((_, state, _)) if state == "active" => Steered::Active,
                _ => Steered::Neither,
            })
            .collect();
        let waiting: Vec<Uuid> = entries.iter().map(|entry| entry.media_id.0).collect();
        sqlx::query("update media set retry_at = null, updated_at = now() where media_id = any($1) and retry_at is not null")
            .bind(&waiting)
            .execute(&mut *tx)
            .await?;
        // Gives those a job that have none, and moves those that have one. A claimed one is about to begin.
        add_jobs(&mut tx, &entries, Lane::First).await?;
        sqlx::query(
            "update graphile_worker._private_jobs j set priority = $3, updated_at = now(), \
                run_at = 'epoch'::timestamptz - (now() - 'epoch'::timestamptz) + i.n * interval '1 microsecond' \
             from unnest($1::uuid[], $2::int[]) with ordinality as i (media_id, generation, n) \
             where j.key = 'media:' || i.media_id || ':' || i.generation and j.locked_at is null",
        )
        .bind(&waiting)
        .bind(entries.iter().map(|entry| entry.generation).collect::<Vec<_>>())
        .bind(Lane::First.priority())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(steered)
    }

    /// Takes items out of the queue: they fail as [`FailureClass::Cancelled`], or are done as before if they were; a
    /// retry brings them back. One that is being worked on is taken from its worker, which stops within about a second
    /// and whose results are refused. The ids of what was taken out, and whether it was being worked on.
    ///
    /// # Errors
    /// [`QueueError::Database`]; nothing has changed then.
    pub async fn cancel(&self, what: &Cancel) -> Result<Vec<(MediaId, Steered)>, QueueError> {
        let (condition, uuids) = match what {
            Cancel::Ids(ids) => {
                ("media_id = any($1) and state in ('queued', 'active')", ids.iter().map(|id| id.0).collect())
            }
            Cancel::AllWaiting => ("state = 'queued'", Vec::<Uuid>::new()),
        };
        let mut tx = self.pool.begin().await?;
        // In one order, so that two of these cannot wait for each other.
        let taken: Vec<(Uuid, bool)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "with chosen as materialized ( \
                select media_id, state = 'active' as active from media where {condition} order by media_id for update) \
             update media m set fence = fence + 1, retry_at = null, finished_at = now(), updated_at = now(), \
                state = case when segments is null then 'failed' else 'done' end, \
                error_class = case when segments is null then $2 end, \
                error = case when segments is null then 'cancelled on request' end, \
                remedy = case when segments is null then 'spoken retry ' || m.media_id || ' brings it back' end \
             from chosen c where c.media_id = m.media_id returning m.media_id, c.active"
        )))
        .bind(uuids)
        .bind(FailureClass::Cancelled.as_str())
        .fetch_all(&mut *tx)
        .await?;
        // The job of one in work belongs to its worker, which ends it.
        sqlx::query(
            "delete from graphile_worker._private_jobs j using media m where m.media_id = any($1) \
               and j.key = 'media:' || m.media_id || ':' || m.generation and j.locked_at is null",
        )
        .bind(taken.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        let steered = |active| if active { Steered::Active } else { Steered::Waited };
        Ok(taken.into_iter().map(|(id, active)| (MediaId(id), steered(active))).collect())
    }
}

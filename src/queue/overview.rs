//! What is in the queue: what runs where, what is next, what waits for its time, what was given up.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

use super::{Control, Pause, QueueError, control};
use crate::media::MediaId;

/// A process that told nothing for so long is dead or cut off.
const UNSEEN: TimeDelta = TimeDelta::seconds(60);

/// The queue at a moment. Titles, sources and errors are untrusted text; times are the database's.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    /// When this was.
    pub at: DateTime<Utc>,
    /// The pause in effect, if there is one.
    pub paused: Option<Pause>,
    /// How many items there are of each kind.
    pub counts: Numbers,
    /// What is being worked on, longest first.
    pub running: Vec<InWork>,
    /// What is next, in order; those already handed to a worker first.
    pub waiting: Vec<Waiting>,
    /// What waits for its time, next first.
    pub scheduled: Vec<Scheduled>,
    /// What was given up, latest first.
    pub dead: Vec<Dead>,
}

/// Items of each kind, whether or not they are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Numbers {
    /// Being worked on.
    pub running: i64,
    /// Could be taken up now.
    pub waiting: i64,
    /// Not before a certain time.
    pub scheduled: i64,
    /// Given up, those aside that a person took out.
    pub dead: i64,
    /// Taken out by a person.
    pub cancelled: i64,
    /// Those given up, by class of failure.
    pub dead_by_class: BTreeMap<String, i64>,
}

/// An item that is being worked on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InWork {
    /// The item.
    pub media_id: MediaId,
    /// Its title.
    pub title: String,
    /// What a person would open.
    pub source: String,
    /// When it was taken up.
    pub since: DateTime<Utc>,
    /// Counted from 1.
    pub attempt: i32,
    /// The worker's identity, as it claimed the item.
    pub worker: Option<String>,
    /// Where that worker is; none where it never told, or is gone.
    #[serde(flatten)]
    pub place: Option<WhereIs>,
}

/// What a worker told of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WhereIs {
    /// The machine's name.
    pub host: String,
    /// The process there.
    pub pid: i32,
    /// When it last told anything.
    pub seen_at: DateTime<Utc>,
    /// True where that is too long ago: dead, or cut off. Others take over what it has.
    pub unseen: bool,
    /// The step the item is in: `fetch`, `decode`, `transcribe`, `embed` or `store`.
    pub step: Option<String>,
    /// Since when.
    pub step_since: Option<DateTime<Utc>>,
}

/// An item that could be taken up now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// The item.
    pub media_id: MediaId,
    /// Its title.
    pub title: String,
    /// What a person would open.
    pub source: String,
    /// When it was found.
    pub discovered_at: DateTime<Utc>,
    /// How long it plays, where that is known.
    pub duration_ms: Option<i64>,
    /// True where a worker has taken it and is about to begin.
    pub claimed: bool,
    /// True where a person put it first.
    pub first: bool,
}

/// An item that waits for its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct Scheduled {
    /// The item.
    #[sqlx(try_from = "Uuid")]
    pub media_id: MediaId,
    /// Its title.
    pub title: String,
    /// What a person would open.
    pub source: String,
    /// Not before this time.
    pub due_at: DateTime<Utc>,
    /// Attempts so far.
    pub attempts: i32,
    /// Why it waits: the class of what failed.
    pub class: Option<String>,
    /// In words.
    pub error: Option<String>,
}

/// An item that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct Dead {
    /// The item.
    #[sqlx(try_from = "Uuid")]
    pub media_id: MediaId,
    /// Its title.
    pub title: String,
    /// What a person would open.
    pub source: String,
    /// When it was given up.
    pub failed_at: Option<DateTime<Utc>>,
    /// The class of the failure.
    pub class: Option<String>,
    /// In words.
    pub error: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
}

#[derive(FromRow)]
struct RunningRow {
    media_id: Uuid,
    title: String,
    source: String,
    since: DateTime<Utc>,
    attempts: i32,
    worker: Option<String>,
    host: Option<String>,
    pid: Option<i32>,
    heartbeat_at: Option<DateTime<Utc>>,
    told_at: Option<DateTime<Utc>>,
    step: Option<String>,
    step_ms: Option<i64>,
}

impl RunningRow {
    fn read(self, now: DateTime<Utc>) -> InWork {
        let place = self.host.zip(self.pid).zip(self.heartbeat_at).map(|((host, pid), seen_at)| WhereIs {
            host,
            pid,
            seen_at,
            unseen: now - seen_at > UNSEEN,
            step: self.step,
            step_since: self.told_at.zip(self.step_ms).map(|(at, ms)| at - TimeDelta::milliseconds(ms)),
        });
        InWork {
            media_id: MediaId(self.media_id),
            title: self.title,
            source: self.source,
            since: self.since,
            attempt: self.attempts.max(1),
            worker: self.worker,
            place,
        }
    }
}

impl Control {
    /// The queue as it is now, with at most `limit` items of each kind.
    ///
    /// # Errors
    /// [`QueueError::Database`].
    pub async fn overview(&self, limit: u32) -> Result<Overview, QueueError> {
        // One moment for all of it.
        let mut tx = self.pool.begin().await?;
        sqlx::query("set transaction isolation level repeatable read, read only").execute(&mut *tx).await?;
        let at: DateTime<Utc> = sqlx::query_scalar("select now()").fetch_one(&mut *tx).await?;
        let limit = i64::from(limit);
        let (running, waiting, scheduled): (i64, i64, i64) = sqlx::query_as(
            "select count(*) filter (where state = 'active'), \
                    count(*) filter (where state = 'queued' and (retry_at is null or retry_at <= now())), \
                    count(*) filter (where state = 'queued' and retry_at > now()) \
             from media where state <> 'done' and state in ('queued', 'active')",
        )
        .fetch_one(&mut *tx)
        .await?;
        let mut dead_by_class: BTreeMap<String, i64> = sqlx::query_as(
            "select coalesce(error_class, 'internal'), count(*) from media where state = 'failed' group by 1",
        )
        .fetch_all(&mut *tx)
        .await?
        .into_iter()
        .collect();
        let cancelled = dead_by_class.remove("cancelled").unwrap_or(0);
        let counts = Numbers {
            running,
            waiting,
            scheduled,
            dead: dead_by_class.values().sum(),
            cancelled,
            dead_by_class,
        };
        let running: Vec<RunningRow> = sqlx::query_as(
            "select m.media_id, m.title, coalesce(m.webpage_url, m.source) as source, \
                    coalesce(m.started_at, m.updated_at) as since, m.attempts, m.worker, n.host, n.pid, n.heartbeat_at, n.told_at, \
                    n.in_hand -> m.media_id::text ->> 'step' as step, \
                    (n.in_hand -> m.media_id::text ->> 'ms')::bigint as step_ms \
             from media m left join nodes n on n.node_id::text = m.worker \
             where m.state = 'active' order by since, m.media_id limit $1",
        )
        .bind(limit)
        .fetch_all(&mut *tx)
        .await?;
        let waiting = self.waiting(&mut tx, limit).await?;
        let scheduled = sqlx::query_as(
            "select media_id, title, coalesce(webpage_url, source) as source, retry_at as due_at, attempts, \
                    error_class as class, error \
             from media where state = 'queued' and retry_at > now() order by retry_at, media_id limit $1",
        )
        .bind(limit)
        .fetch_all(&mut *tx)
        .await?;
        let dead = sqlx::query_as(
            "select media_id, title, coalesce(webpage_url, source) as source, finished_at as failed_at, \
                    error_class as class, error, remedy \
             from media where state = 'failed' and error_class is distinct from 'cancelled' \
             order by finished_at desc, media_id limit $1",
        )
        .bind(limit)
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Overview {
            at,
            paused: control::paused(&self.pool).await?,
            counts,
            running: running.into_iter().map(|row| row.read(at)).collect(),
            waiting,
            scheduled,
            dead,
        })
    }

    /// In the order of claiming: one way along the index, one look at each item.
    async fn waiting(&self, tx: &mut sqlx::PgConnection, limit: i64) -> Result<Vec<Waiting>, QueueError> {
        type Row = (Uuid, String, String, DateTime<Utc>, Option<i64>, bool, bool);
        let rows: Vec<Row> = sqlx::query_as(
            "with claimed as (select key, true as claimed, priority, run_at, id from graphile_worker._private_jobs \
                where locked_at is not null and key like 'media:%'), \
             free as (select key, false, priority, run_at, id from graphile_worker._private_jobs \
                where is_available and run_at <= now() and key like 'media:%' order by priority, run_at limit $1), \
             both_kinds as (select * from claimed union all select * from free) \
             select m.media_id, m.title, coalesce(m.webpage_url, m.source), m.discovered_at, m.duration_ms, \
                    b.claimed, b.priority <= $2 \
             from both_kinds b join media m \
                on m.media_id = split_part(b.key, ':', 2)::uuid and m.generation::text = split_part(b.key, ':', 3) \
             where m.state = 'queued' \
             order by b.claimed desc, b.priority, b.run_at, b.id limit $1",
        )
        .bind(limit)
        .bind(super::place::Lane::First.priority())
        .fetch_all(tx)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(id, title, source, discovered_at, duration_ms, claimed, first)| Waiting {
                media_id: MediaId(id),
                title,
                source,
                discovered_at,
                duration_ms,
                claimed,
                first,
            })
            .collect())
    }
}

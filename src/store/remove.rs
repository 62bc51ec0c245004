//! Removing items, for good or to be found again, and what falls under the rules of retention.
//!
//! What was removed leaves its identity in `removed`: no list, feed, folder or argument brings it in again until it is
//! forgotten. Items that somebody works on are left alone.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::answering::keep_answering;
use super::{Store, StoreError, clean, retrying};
use crate::media::MediaId;

/// Items removed in one transaction: each may have thousands of rows.
const BATCH: usize = 50;

/// Which items to remove; what is not said does not matter. All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    /// These.
    pub ids: Option<Vec<MediaId>>,
    /// Taken from any of these subscribed sources.
    pub sources: Option<Vec<Uuid>>,
    /// Of this channel, whatever its case.
    pub channel: Option<String>,
    /// Published before (where that is not known: found before).
    pub before: Option<DateTime<Utc>>,
    /// Published at this time or later.
    pub since: Option<DateTime<Utc>>,
}

/// An item that may be removed. Serialised, it is an entry of `remove --json`; the names are a stable interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct Removal {
    /// Identity.
    pub media_id: Uuid,
    /// Untrusted text.
    pub title: String,
    /// Its address or path. Untrusted text.
    pub source: String,
    /// Untrusted text.
    pub channel: Option<String>,
    /// When it was published, or else found.
    pub date: DateTime<Utc>,
    /// `queued`, `active`, `done`, `failed`.
    pub state: String,
}

/// How long items of subscribed sources are kept, where the source says nothing else. 0: for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The latest so many of each source.
    pub last: u32,
    /// So many days from their publication.
    pub days: u32,
}

/// An item that falls under a rule. Serialised, it is an entry of `retention --json`; the names are a stable interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct Expired {
    /// Identity.
    pub media_id: Uuid,
    /// Untrusted text.
    pub title: String,
    /// What its source is called.
    pub source: String,
    /// The rule, in words.
    pub rule: String,
}

/// Something that was removed before. Serialised, it is an entry of `remove --list --json`; the names are a stable interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct Removed {
    /// Identity.
    pub media_id: Uuid,
    /// Untrusted text.
    pub title: String,
    /// Its address or path. Untrusted text.
    pub source: String,
    /// The rule that it fell under; none: a person removed it.
    pub rule: Option<String>,
    /// When.
    pub removed_at: DateTime<Utc>,
}

impl Store {
    /// The items that are meant, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn removable(&self, which: &Which) -> Result<Vec<Removal>, StoreError> {
        let ids: Option<Vec<Uuid>> = which.ids.as_ref().map(|ids| ids.iter().map(|id| id.0).collect());
        Ok(sqlx::query_as(
            "SELECT media_id, title, coalesce(webpage_url, source) AS source, channel,
                    coalesce(published_at, discovered_at) AS date, state
             FROM media m
             WHERE ($1::uuid[] IS NULL OR media_id = ANY($1))
               AND ($2::uuid[] IS NULL OR EXISTS (SELECT FROM source_entries e WHERE e.item_id = m.media_id
                                                  AND e.verdict = 'taken' AND e.source_id = ANY($2)))
               AND ($3::text IS NULL OR lower(channel) = lower($3))
               AND ($4::timestamptz IS NULL OR coalesce(published_at, discovered_at) < $4)
               AND ($5::timestamptz IS NULL OR coalesce(published_at, discovered_at) >= $5)
             ORDER BY date, media_id",
        )
        .bind(ids)
        .bind(&which.sources)
        .bind(which.channel.as_deref().map(clean))
        .bind(which.before)
        .bind(which.since)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Removes items with all that was said in them; those that were: not what is being worked on. With `forget` they may be
    /// found again, else not. `rule` is what they fell under; none: a person's wish.
    ///
    /// # Errors
    /// [`StoreError::Database`]; what was removed before stays removed.
    pub async fn remove(
        &self,
        ids: &[MediaId],
        forget: bool,
        rule: Option<&str>,
    ) -> Result<Vec<MediaId>, StoreError> {
        let mut gone = Vec::with_capacity(ids.len());
        for batch in ids.chunks(BATCH) {
            let batch: Vec<Uuid> = batch.iter().map(|id| id.0).collect();
            gone.extend(retrying(|| self.try_remove(&batch, forget, rule)).await?.into_iter().map(MediaId));
        }
        Ok(gone)
    }

    async fn try_remove(
        &self,
        batch: &[Uuid],
        forget: bool,
        rule: Option<&str>,
    ) -> Result<Vec<Uuid>, StoreError> {
        let mut tx = self.pool.begin().await?;
        keep_answering(&mut tx).await?;
        // Changed to what they are, and thereby locked: rows that may lie on several machines are locked by name only.
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "UPDATE media SET updated_at = updated_at WHERE media_id = ANY($1) AND state <> 'active' RETURNING media_id",
        )
        .bind(batch)
        .fetch_all(&mut *tx)
        .await?;
        if forget {
            forget_entries(&mut tx, batch).await?;
            sqlx::query("DELETE FROM known_files WHERE media_id = ANY($1)")
                .bind(&ids)
                .execute(&mut *tx)
                .await?;
        } else {
            sqlx::query(
                "INSERT INTO removed (media_id, title, source, rule)
                 SELECT media_id, title, source, $2 FROM media WHERE media_id = ANY($1)
                 ON CONFLICT (media_id) DO UPDATE SET rule = excluded.rule, removed_at = now()",
            )
            .bind(&ids)
            .bind(rule.map(clean))
            .execute(&mut *tx)
            .await?;
            sqlx::query(
                "UPDATE source_entries SET verdict = 'left', reason = 'removed' || coalesce(': ' || $2, ''), item = NULL
                 WHERE item_id = ANY($1)",
            )
            .bind(&ids)
            .bind(rule.map(clean))
            .execute(&mut *tx)
            .await?;
        }
        delete_items(&mut tx, &ids).await?;
        tx.commit().await?;
        Ok(ids)
    }

    /// What was removed and is kept from coming in again, the latest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn removed(&self) -> Result<Vec<Removed>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT media_id, title, source, rule, removed_at FROM removed ORDER BY removed_at DESC, media_id",
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Lets in again what was removed; how many of these there were.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn forget_removed(&self, ids: &[MediaId]) -> Result<u64, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let mut tx = self.pool.begin().await?;
        forget_entries(&mut tx, &ids).await?;
        let forgotten = sqlx::query("DELETE FROM removed WHERE media_id = ANY($1)")
            .bind(&ids)
            .execute(&mut *tx)
            .await?
            .rows_affected();
        tx.commit().await?;
        Ok(forgotten)
    }

    /// Items of subscribed sources that are kept no longer: of every source that they are in, and found nowhere else. Only
    /// those that are done or have failed.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn expired(&self, keep: Keep) -> Result<Vec<Expired>, StoreError> {
        if !self.has_rules(keep).await? {
            return Ok(Vec::new());
        }
        Ok(sqlx::query_as(
            "WITH ranked AS (
                 SELECT e.item_id, s.name, m.state, m.title, m.source,
                        coalesce(s.keep_last, $1) AS last, coalesce(s.keep_days, $2) AS days,
                        coalesce(m.published_at, e.published_at, m.discovered_at) AS at,
                        row_number() OVER (PARTITION BY e.source_id
                            ORDER BY coalesce(m.published_at, e.published_at, m.discovered_at) DESC, e.item_id) AS place
                 FROM source_entries e
                 JOIN sources s USING (source_id)
                 JOIN media m ON m.media_id = e.item_id
                 WHERE e.verdict = 'taken'
             ), judged AS (
                 SELECT item_id, name, state, title, source, at, CASE
                     WHEN days > 0 AND at < now() - make_interval(days => days) THEN 'older than ' || days || ' days'
                     WHEN last > 0 AND place > last THEN 'not among the last ' || last END AS rule
                 FROM ranked
             )
             SELECT item_id AS media_id, min(title) AS title, min(name) AS source, min(rule) AS rule
             FROM judged j
             WHERE NOT EXISTS (SELECT FROM media_sources l WHERE l.media_id = j.item_id AND l.source <> j.source
                               AND l.source NOT IN (SELECT s.source FROM sources s))
             GROUP BY item_id
             HAVING bool_and(rule IS NOT NULL) AND bool_and(state IN ('done', 'failed'))
             ORDER BY min(name), min(at), item_id",
        )
        .bind(i32::try_from(keep.last).unwrap_or(i32::MAX))
        .bind(i32::try_from(keep.days).unwrap_or(i32::MAX))
        .fetch_all(&self.pool)
        .await?)
    }

    /// Leaves out what is to be taken on and would be removed at once: nobody transcribes what is not kept. How many entries.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn leave_expired(&self, keep: Keep) -> Result<u64, StoreError> {
        if !self.has_rules(keep).await? {
            return Ok(0);
        }
        let left = sqlx::query(
            "WITH ranked AS (
                 SELECT e.media_id, e.source_id, e.verdict, e.published_at,
                        coalesce(s.keep_last, $1) AS last, coalesce(s.keep_days, $2) AS days,
                        row_number() OVER (PARTITION BY e.source_id
                                           ORDER BY e.published_at DESC NULLS LAST, e.place, e.media_id) AS place
                 FROM source_entries e JOIN sources s USING (source_id)
                 WHERE e.verdict IN ('ready', 'taken') AND (coalesce(s.keep_last, $1) > 0 OR coalesce(s.keep_days, $2) > 0)
             )
             UPDATE source_entries e SET verdict = 'left', item = NULL,
                 reason = CASE WHEN r.days > 0 AND r.published_at < now() - make_interval(days => r.days)
                               THEN 'older than the ' || r.days || ' days that are kept'
                               ELSE 'not among the last ' || r.last || ', which are kept' END
             FROM ranked r
             WHERE r.media_id = e.media_id AND r.source_id = e.source_id AND e.verdict = 'ready'
               AND (r.days > 0 AND r.published_at < now() - make_interval(days => r.days)
                    OR r.last > 0 AND r.place > r.last AND r.published_at IS NOT NULL)",
        )
        .bind(i32::try_from(keep.last).unwrap_or(i32::MAX))
        .bind(i32::try_from(keep.days).unwrap_or(i32::MAX))
        .execute(&self.pool)
        .await?;
        Ok(left.rows_affected())
    }

    /// Whether any source keeps its items for a time only. Most libraries keep all, and are asked often.
    async fn has_rules(&self, keep: Keep) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM sources WHERE coalesce(keep_last, $1) > 0 OR coalesce(keep_days, $2) > 0)",
        )
        .bind(i32::try_from(keep.last).unwrap_or(i32::MAX))
        .bind(i32::try_from(keep.days).unwrap_or(i32::MAX))
        .fetch_one(&self.pool)
        .await?)
    }

    /// Sets how long the items of a source are kept; `None`: as configured.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn keep_source(
        &self,
        id: Uuid,
        last: Option<u32>,
        days: Option<u32>,
    ) -> Result<(), StoreError> {
        let number = |n: Option<u32>| n.map(|n| i32::try_from(n).unwrap_or(i32::MAX));
        sqlx::query("UPDATE sources SET keep_last = $2, keep_days = $3 WHERE source_id = $1")
            .bind(id)
            .bind(number(last))
            .bind(number(days))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// How long the items of a source are kept (last, days), where it says so itself.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn source_keeps(&self, id: Uuid) -> Result<(Option<i32>, Option<i32>), StoreError> {
        let row = sqlx::query_as("SELECT keep_last, keep_days FROM sources WHERE source_id = $1")
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.unwrap_or_default())
    }
}

/// Deletes items with all that was said in them and the jobs that wait for them, in the caller's transaction, which has
/// locked their rows; how many.
pub(super) async fn delete_items(conn: &mut PgConnection, ids: &[Uuid]) -> Result<u64, sqlx::Error> {
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT table_name FROM embedding_models").fetch_all(&mut *conn).await?;
    for table in tables {
        // The names are made by this program.
        let sql = format!("DELETE FROM {table} WHERE media_id = ANY($1)");
        sqlx::query(AssertSqlSafe(sql)).bind(ids).execute(&mut *conn).await?;
    }
    // The tables of the queue are made by its first user.
    let queue: bool = sqlx::query_scalar("SELECT to_regclass('graphile_worker._private_jobs') IS NOT NULL")
        .fetch_one(&mut *conn)
        .await?;
    if queue {
        sqlx::query(
            "DELETE FROM graphile_worker._private_jobs j USING media m
             WHERE m.media_id = ANY($1) AND j.key = 'media:' || m.media_id || ':' || m.generation
               AND j.locked_at IS NULL",
        )
        .bind(ids)
        .execute(&mut *conn)
        .await?;
    }
    // Segments, passages and places go with it.
    let gone = sqlx::query("DELETE FROM media WHERE media_id = ANY($1)").bind(ids).execute(conn).await?;
    Ok(gone.rows_affected())
}

/// Lets sources find these items again: as if they had never been seen there.
async fn forget_entries(conn: &mut PgConnection, ids: &[Uuid]) -> Result<(), sqlx::Error> {
    let sources: Vec<Uuid> =
        sqlx::query_scalar("DELETE FROM source_entries WHERE item_id = ANY($1) RETURNING source_id")
            .bind(ids)
            .fetch_all(&mut *conn)
            .await?;
    // A feed that has not changed would not be read, nor the older entries of a list.
    sqlx::query(
        "UPDATE sources SET etag = NULL, last_modified = NULL, full_at = NULL WHERE source_id = ANY($1)",
    )
    .bind(sources)
    .execute(conn)
    .await?;
    Ok(())
}

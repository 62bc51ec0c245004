//! One check of a source: its lock, what is known of it, and what is written at its end.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, FromRow};
use uuid::Uuid;

use super::taking::{item_from_json, item_to_json};
use super::{Checked, DueEntry, Fate, KnownEntry, Seen, Source, SourceKind, SourceLock};
use crate::media::{Failure, MediaId};
use crate::store::{SaveError, Store, StoreError, clean, retrying};

/// Half of the key of the advisory lock of one source; the other half is of its id.
const LOCK: i64 = 0x7370_6f6b_0000_0000;
/// Entries written in one statement.
const BATCH: usize = 500;
/// A source is due again after 0.85 to 0.95 of its interval. Less than all of it, so that a cron job that runs as often finds it
/// due each time; and not the same for all, so that a hundred sources added together do not stay together.
const DUE_AFTER: (f64, f64) = (0.85, 0.1);
/// First pause after a failed check; doubles with each, up to a day (or the source's interval, where that is more).
const BACKOFF_S: f64 = 600.0;
const LONGEST_BACKOFF_S: f64 = 86_400.0;

/// What is read of each entry before a check.
#[derive(FromRow)]
struct KnownRow {
    media_id: Uuid,
    item_id: Uuid,
    size: Option<i64>,
    mtime_ns: Option<i64>,
    left_for: Option<String>,
    open: bool,
}

impl Store {
    /// Locks a source for a check; none where another process checks it right now.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn lock_source(&self, id: Uuid) -> Result<Option<SourceLock>, StoreError> {
        let mut connection = self.pool.acquire().await?.detach();
        let (high, low) = id.as_u64_pair();
        let key = LOCK ^ (high ^ low) as i64;
        let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(key)
            .fetch_one(&mut connection)
            .await?;
        if !locked {
            let _ = connection.close().await;
            return Ok(None);
        }
        Ok(Some(SourceLock { connection, number: 0, id }))
    }

    /// Draws the check's number. The source as it is now: another process may have checked it since it was found due. None where
    /// it is gone, or paused, or (unless `forced`) not due any more.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn begin_check(
        &self,
        lock: &mut SourceLock,
        seen: &Source,
        forced: bool,
    ) -> Result<Option<Source>, StoreError> {
        // A forced check is for nothing as well, if somebody else's ended meanwhile.
        let number: Option<i64> = sqlx::query_scalar(
            "UPDATE sources SET checks = checks + 1
             WHERE source_id = $1 AND NOT paused AND (next_due <= now() OR $2 AND checked_at IS NOT DISTINCT FROM $3)
             RETURNING checks",
        )
        .bind(lock.id)
        .bind(forced)
        .bind(seen.checked_at)
        .fetch_optional(&mut lock.connection)
        .await?;
        let Some(number) = number else { return Ok(None) };
        lock.number = number;
        self.source(lock.id).await
    }

    /// What was seen in a source, by what it is known by and by its item. Of thousands of entries, some hundred kilobytes.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn known_entries(&self, id: Uuid) -> Result<HashMap<MediaId, KnownEntry>, StoreError> {
        let rows: Vec<KnownRow> = sqlx::query_as(
            "SELECT media_id, item_id, size, mtime_ns, CASE WHEN verdict = 'left' THEN reason END AS left_for,
                    CASE WHEN media_id = item_id OR size IS NOT NULL THEN false
                         WHEN verdict = 'taken'
                         THEN EXISTS (SELECT FROM media m WHERE m.media_id = e.item_id AND m.state = 'failed')
                         ELSE verdict IN ('ready', 'waiting') END AS open
             FROM source_entries e WHERE source_id = $1",
        )
        .bind(id)
        .fetch_all(&self.pool)
        .await?;
        let mut known = HashMap::with_capacity(rows.len());
        for row in rows {
            let file = row.size.zip(row.mtime_ns).map(|(size, mtime_ns)| (size.unsigned_abs(), mtime_ns));
            let entry = KnownEntry { file, left: row.left_for, open: row.open };
            if row.item_id != row.media_id {
                known.entry(MediaId(row.item_id)).or_insert_with(|| entry.clone());
            }
            known.insert(MediaId(row.media_id), entry);
        }
        Ok(known)
    }

    /// Entries of a source whose time has come to be looked at again.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn due_entries(&self, id: Uuid) -> Result<Vec<DueEntry>, StoreError> {
        let rows: Vec<(Uuid, Uuid, Value, Option<DateTime<Utc>>)> = sqlx::query_as(
            "SELECT media_id, item_id, item, published_at FROM source_entries
             WHERE source_id = $1 AND verdict = 'waiting' AND look_at <= now() AND item IS NOT NULL
             ORDER BY look_at, media_id",
        )
        .bind(id)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|(key, id, item, at)| {
                Ok(DueEntry {
                    key: MediaId(key),
                    item: item_from_json(MediaId(id), &item)?,
                    published_at: at.map(|at| at.timestamp()),
                })
            })
            .collect()
    }

    /// Writes what a check found and when the next is due, in one transaction. How many entries were new.
    ///
    /// # Errors
    /// [`SaveError::LeaseLost`] without having changed anything, [`SaveError::Database`].
    pub async fn end_check(&self, lock: &SourceLock, checked: &Checked) -> Result<usize, SaveError> {
        retrying(|| self.try_end_check(lock, checked)).await
    }

    async fn try_end_check(&self, lock: &SourceLock, checked: &Checked) -> Result<usize, SaveError> {
        let mut tx = self.pool.begin().await?;
        let (etag, modified) =
            checked.validators.as_ref().map_or((None, None), |(e, m)| (e.as_deref(), m.as_deref()));
        // First, so that the row is locked and the number is right until we are through.
        let ours = sqlx::query(
            "UPDATE sources SET kind = coalesce($3, kind),
                 etag = CASE WHEN $4 THEN $5 ELSE etag END, last_modified = CASE WHEN $4 THEN $6 ELSE last_modified END,
                 checked_at = now(), full_at = CASE WHEN $7 THEN now() ELSE full_at END,
                 result = $8, failures = 0, error_class = NULL, error = NULL, remedy = NULL, allowance = at_a_time
             WHERE source_id = $1 AND checks = $2",
        )
        .bind(lock.id)
        .bind(lock.number)
        .bind(checked.kind.map(SourceKind::as_str))
        .bind(checked.validators.is_some())
        .bind(etag.map(clean))
        .bind(modified.map(clean))
        .bind(checked.full)
        .bind(&*clean(&checked.result))
        .execute(&mut *tx)
        .await?;
        if ours.rows_affected() == 0 {
            return Err(SaveError::LeaseLost);
        }
        for batch in checked.keyed.chunks(BATCH) {
            key_entries(&mut tx, lock.id, batch).await?;
        }
        let mut new = 0;
        for (n, batch) in checked.entries.chunks(BATCH).enumerate() {
            new += write_entries(&mut tx, lock.id, batch, n * BATCH).await?;
        }
        // Earlier than usual where an entry waits for less.
        sqlx::query(
            "UPDATE sources s SET next_due = least(
                 now() + make_interval(secs => s.every_s * ($2 + $3 * random())),
                 now() + make_interval(secs => $4),
                 (SELECT greatest(min(look_at), now() + interval '1 minute') FROM source_entries e
                  WHERE e.source_id = s.source_id AND e.verdict = 'waiting' HAVING count(*) > 0))
             WHERE source_id = $1",
        )
        .bind(lock.id)
        .bind(DUE_AFTER.0)
        .bind(DUE_AFTER.1)
        .bind(checked.again_within.map(|d| d.as_secs_f64()))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(new)
    }

    /// Notes that a check failed; the next comes after a pause that grows: ten minutes, twenty, …, up to a day (or the source's
    /// interval, where that is more). Of what will not change by itself the pause starts at the interval. When that is, from now.
    ///
    /// # Errors
    /// [`SaveError::LeaseLost`] without having changed anything, [`SaveError::Database`].
    pub async fn fail_check(
        &self,
        lock: &SourceLock,
        failure: &Failure,
        at_least: Option<Duration>,
    ) -> Result<Duration, SaveError> {
        let seconds: Option<f64> = sqlx::query_scalar(
            "UPDATE sources SET failures = failures + 1, checked_at = now(), error_class = $3, error = $4, remedy = $5,
                 result = 'failed',
                 next_due = now() + make_interval(secs => greatest($9, least(
                     greatest(every_s, $7),
                     CASE WHEN $8 THEN $6 ELSE greatest($6, every_s) END * 2 ^ least(failures, 20)) * (0.9 + 0.1 * random())))
             WHERE source_id = $1 AND checks = $2
             RETURNING extract(epoch FROM next_due - now())::float8",
        )
        .bind(lock.id)
        .bind(lock.number)
        .bind(failure.class.as_str())
        .bind(&*clean(&failure.message))
        .bind(failure.remedy.as_deref().map(clean))
        .bind(BACKOFF_S)
        .bind(LONGEST_BACKOFF_S)
        .bind(failure.class.is_transient())
        .bind(at_least.map_or(0.0, |d| d.as_secs_f64()))
        .fetch_optional(&self.pool)
        .await?;
        let seconds = seconds.ok_or(SaveError::LeaseLost)?;
        Ok(Duration::try_from_secs_f64(seconds).unwrap_or_default())
    }
}

/// Lets entries that were known by their items be known by other keys.
async fn key_entries(
    conn: &mut PgConnection,
    source: Uuid,
    keyed: &[(MediaId, MediaId)],
) -> Result<(), sqlx::Error> {
    let items: Vec<Uuid> = keyed.iter().map(|(item, _)| item.0).collect();
    let keys: Vec<Uuid> = keyed.iter().map(|(_, key)| key.0).collect();
    // As new rows: the key is what a table is distributed by, and stays with its row.
    sqlx::query(
        "INSERT INTO source_entries (media_id, source_id, item_id, verdict, reason, look_at, title, item, published_at, place,
                                     size, mtime_ns, seen_at)
         SELECT n.key, e.source_id, e.item_id, e.verdict, e.reason, e.look_at, e.title, e.item, e.published_at, e.place,
                e.size, e.mtime_ns, e.seen_at
         FROM unnest($2::uuid[], $3::uuid[]) AS n (item, key)
         JOIN source_entries e ON e.media_id = n.item AND e.source_id = $1
         ON CONFLICT DO NOTHING",
    )
    .bind(source)
    .bind(&items)
    .bind(&keys)
    .execute(&mut *conn)
    .await?;
    sqlx::query("DELETE FROM source_entries WHERE source_id = $1 AND media_id = ANY($2)")
        .bind(source)
        .bind(&items)
        .execute(conn)
        .await?;
    Ok(())
}

/// Writes entries; how many were not known in this source.
async fn write_entries(
    conn: &mut PgConnection,
    source: Uuid,
    batch: &[Seen],
    before: usize,
) -> Result<usize, sqlx::Error> {
    // An item that stands twice in a list is one entry; the last word about it counts.
    let mut rows: HashMap<Uuid, (usize, &Seen)> = HashMap::new();
    for (n, seen) in batch.iter().enumerate() {
        rows.insert(seen.key(), (before + n, seen));
    }
    // In one order everywhere, so that two that write the same entries cannot wait for each other.
    let mut rows: Vec<(Uuid, (usize, &Seen))> = rows.into_iter().collect();
    rows.sort_unstable_by_key(|(id, _)| *id);
    let fates: Vec<(&str, Option<String>, Option<f64>)> = rows
        .iter()
        .map(|(_, (_, seen))| match &seen.fate {
            Fate::Ready => ("ready", None, None),
            Fate::Left(reason) => ("left", Some(clean(reason).into_owned()), None),
            Fate::Waiting { reason, after } => {
                ("waiting", Some(clean(reason).into_owned()), Some(after.as_secs_f64()))
            }
            Fate::Opened => ("opened", None, None),
        })
        .collect();
    let known: i64 =
        sqlx::query_scalar("SELECT count(*) FROM source_entries WHERE source_id = $1 AND media_id = ANY($2)")
            .bind(source)
            .bind(rows.iter().map(|r| r.0).collect::<Vec<_>>())
            .fetch_one(&mut *conn)
            .await?;
    sqlx::query(
        "INSERT INTO source_entries (media_id, source_id, item_id, verdict, reason, look_at, title, item, published_at, place, size, mtime_ns)
         SELECT n.media_id, $1, n.item_id, n.verdict, n.reason, now() + make_interval(secs => n.after), n.title, n.item, n.published_at,
                n.place, n.size, n.mtime_ns
         FROM unnest($2::uuid[], $3::text[], $4::text[], $5::float8[], $6::text[], $7::jsonb[], $8::timestamptz[], $9::int[],
                     $10::bigint[], $11::bigint[], $12::uuid[])
              AS n (media_id, verdict, reason, after, title, item, published_at, place, size, mtime_ns, item_id)
         ON CONFLICT (media_id, source_id) DO UPDATE SET
             item_id = excluded.item_id, verdict = excluded.verdict, reason = excluded.reason, look_at = excluded.look_at, title = excluded.title,
             item = excluded.item, published_at = coalesce(excluded.published_at, source_entries.published_at),
             size = excluded.size, mtime_ns = excluded.mtime_ns",
    )
    .bind(source)
    .bind(rows.iter().map(|r| r.0).collect::<Vec<_>>())
    .bind(fates.iter().map(|f| f.0).collect::<Vec<_>>())
    .bind(fates.iter().map(|f| f.1.clone()).collect::<Vec<_>>())
    .bind(fates.iter().map(|f| f.2).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, (_, s))| clean(&s.item.title).into_owned()).collect::<Vec<_>>())
    .bind(
        rows.iter()
            .map(|(_, (_, s))| matches!(s.fate, Fate::Ready | Fate::Waiting { .. }).then(|| item_to_json(&s.item)))
            .collect::<Vec<_>>(),
    )
    .bind(
        rows.iter()
            .map(|(_, (_, s))| s.published_at.and_then(|s| DateTime::<Utc>::from_timestamp(s, 0)))
            .collect::<Vec<_>>(),
    )
    .bind(rows.iter().map(|(_, (n, _))| i32::try_from(*n).unwrap_or(i32::MAX)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, (_, s))| s.file.map(|(_, size, _)| i64::try_from(size).unwrap_or(i64::MAX))).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, (_, s))| s.file.map(|(.., mtime_ns)| mtime_ns)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, (_, s))| s.item.media_id.0).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(rows.len() - usize::try_from(known).unwrap_or(0).min(rows.len()))
}

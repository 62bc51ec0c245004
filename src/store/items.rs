//! Items before and between attempts: found, failed at discovery, queued again.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection, PgExecutor};
use uuid::Uuid;

use super::{Store, StoreError, clean, locator, read, retrying, text_key};
use crate::media::{Failure, FailureClass, Item, Locator, MediaId, State};

/// Items in one statement.
const BATCH: usize = 500;

/// What [`Store::upsert`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upserted {
    /// The item was not known; it is queued now (or failed, after [`Store::record_failure`]).
    New,
    /// It was known; where it stands did not change.
    Known {
        /// Where it stands.
        state: State,
        /// Why it failed last, if it did.
        class: Option<FailureClass>,
    },
    /// It was removed, and is not to come in again.
    Removed,
}

/// Which items to take up again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All that failed. What a person cancelled has not.
    Failed,
    /// All that failed in this way.
    FailedWith(FailureClass),
    /// These, if they failed or wait for their next attempt.
    Ids(Vec<MediaId>),
    /// These, as [`Selection::Ids`], and those that are done: they are done again.
    Again(Vec<MediaId>),
    /// All that are done and look incomplete: they are done again.
    Flagged,
}

/// An item that [`Store::retry`] queued again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requeued {
    /// The item.
    pub media_id: MediaId,
    /// Its new generation: part of the queue's job key.
    pub generation: i32,
}

/// An item that is neither done nor given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The item.
    pub media_id: MediaId,
    /// Queued or active.
    pub state: State,
    /// Part of the queue's job key.
    pub generation: i32,
    /// Not before this time, by the database's clock.
    pub retry_at: Option<DateTime<Utc>>,
    /// Who claimed it, while active.
    pub worker: Option<String>,
}

impl Store {
    /// Notes an item found through `listed_in` (an argument, list or path). Nothing known is ever reset.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn upsert(&self, item: &Item, listed_in: &str) -> Result<Upserted, StoreError> {
        let found = self.upsert_many(std::slice::from_ref(item), listed_in).await?;
        found.first().copied().ok_or_else(|| sqlx::Error::RowNotFound.into())
    }

    /// As [`Self::upsert`], for many at a time; one answer per item, in order. An item that stands twice in `items`
    /// is new at most once.
    ///
    /// Where the file of a known item has moved, or a queued or failed item is found at another address, the new
    /// place is noted. A row for an unreadable path (`extractor` `path`) goes away once the path's content is known.
    ///
    /// # Errors
    /// [`StoreError::Database`]; what was noted before stays.
    pub async fn upsert_many(&self, items: &[Item], listed_in: &str) -> Result<Vec<Upserted>, StoreError> {
        let mut all = Vec::with_capacity(items.len());
        for batch in items.chunks(BATCH) {
            all.extend(retrying(|| self.try_upsert(batch, listed_in, None)).await?);
        }
        Ok(all)
    }

    /// Notes an item that failed before it could be queued: an unreadable file, a private video in a list.
    /// Where it is queued or has failed, the reason is noted; where it is being worked on or done, nothing changes.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn record_failure(
        &self,
        item: &Item,
        failure: &Failure,
        listed_in: &str,
    ) -> Result<Upserted, StoreError> {
        let batch = std::slice::from_ref(item);
        let found = retrying(|| self.try_upsert(batch, listed_in, Some(failure))).await?;
        found.first().copied().ok_or_else(|| sqlx::Error::RowNotFound.into())
    }

    async fn try_upsert(
        &self,
        batch: &[Item],
        listed_in: &str,
        failure: Option<&Failure>,
    ) -> Result<Vec<Upserted>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let mut inserted = insert(&mut tx, batch, failure).await?;
        let known = rows(&mut tx, batch).await?;
        let removed = removed(&mut tx, batch, &known).await?;
        note_places(&mut tx, batch, &known, listed_in).await?;
        if let Some(failure) = failure {
            refresh_failure(&mut tx, batch, failure).await?;
        }
        tx.commit().await?;
        Ok(batch
            .iter()
            .map(|item| match known.get(&item.media_id.0) {
                _ if inserted.remove(&item.media_id.0).is_some() => Upserted::New,
                Some(row) => Upserted::Known { state: row.state, class: row.class },
                None if removed.contains(&item.media_id.0) => Upserted::Removed,
                // Deleted between the two statements; the next run finds it anew.
                None => Upserted::Known { state: State::Queued, class: None },
            })
            .collect())
    }

    /// Forgets that nothing could be found at `source` before, now that these items were: the row of such a failure is that of
    /// an address which is no item.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn forget_failed_listing(&self, source: &str, found: &[MediaId]) -> Result<(), StoreError> {
        sqlx::query(
            "DELETE FROM media WHERE source = $1 AND extractor = 'url' AND state = 'failed' AND attempts = 0
                 AND segments IS NULL AND media_id <> ALL($2)",
        )
        .bind(&*clean(source))
        .bind(found.iter().map(|id| id.0).collect::<Vec<_>>())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Where these items stand; those that are not known are missing.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn states(
        &self,
        ids: &[MediaId],
    ) -> Result<HashMap<MediaId, (State, Option<FailureClass>)>, StoreError> {
        let uuids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows: Vec<(Uuid, String, Option<String>)> =
            sqlx::query_as("SELECT media_id, state, error_class FROM media WHERE media_id = ANY($1)")
                .bind(uuids)
                .fetch_all(&self.pool)
                .await?;
        rows.into_iter()
            .map(|(id, state, class)| {
                Ok((MediaId(id), (read::state(&state)?, class.as_deref().map(read::class))))
            })
            .collect()
    }

    /// Takes items up again: queued, with a new generation, attempts and crashes at zero. Items that wait for
    /// their next attempt are made due when named by id. What is being worked on is left alone, and so is what was done,
    /// unless it is asked for; then the stored results stay, and are found, until new ones replace them.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn retry(&self, selection: &Selection) -> Result<Vec<Requeued>, StoreError> {
        let unnamed = (Vec::new(), None);
        let uuids = |ids: &[MediaId]| ids.iter().map(|id| id.0).collect::<Vec<Uuid>>();
        let (condition, (ids, class)) = match selection {
            Selection::Failed => ("state = 'failed' AND error_class IS DISTINCT FROM 'cancelled'", unnamed),
            Selection::FailedWith(class) => {
                ("state = 'failed' AND error_class = $2", (Vec::new(), Some(class.as_str())))
            }
            Selection::Ids(ids) => (
                "media_id = ANY($1) AND (state = 'failed' OR state = 'queued' AND retry_at IS NOT NULL)",
                (uuids(ids), None),
            ),
            Selection::Again(ids) => (
                "media_id = ANY($1) AND (state IN ('failed', 'done') OR state = 'queued' AND retry_at IS NOT NULL)",
                (uuids(ids), None),
            ),
            Selection::Flagged => ("state = 'done' AND flags <> '{}'", unnamed),
        };
        let sql = format!(
            "UPDATE media SET state = 'queued', generation = generation + 1, attempts = 0, crashes = 0,
                 retry_at = NULL, error_class = NULL, error = NULL, remedy = NULL, finished_at = NULL,
                 updated_at = now()
             WHERE {condition}
             RETURNING media_id, generation"
        );
        let rows: Vec<(Uuid, i32)> = retrying(|| {
            sqlx::query_as(AssertSqlSafe(sql.clone())).bind(&ids).bind(class).fetch_all(&self.pool)
        })
        .await?;
        Ok(rows.into_iter().map(|(id, generation)| Requeued { media_id: MediaId(id), generation }).collect())
    }

    /// Everything queued or active, longest known first: what should have a job.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn unfinished(&self) -> Result<Vec<Unfinished>, StoreError> {
        type Row = (Uuid, String, i32, Option<DateTime<Utc>>, Option<String>);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT media_id, state, generation, retry_at, worker FROM media
             WHERE state <> 'done' AND state IN ('queued', 'active')
             ORDER BY discovered_at, media_id",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|(id, state, generation, retry_at, worker)| {
                Ok(Unfinished {
                    media_id: MediaId(id),
                    state: read::state(&state)?,
                    generation,
                    retry_at,
                    worker,
                })
            })
            .collect()
    }

    /// The item whose content `path` held when it had this size and modification time, and so holds still.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn known_file(
        &self,
        path: &Path,
        size: u64,
        mtime_ns: i64,
    ) -> Result<Option<MediaId>, StoreError> {
        let id: Option<Uuid> = sqlx::query_scalar(
            "SELECT media_id FROM known_files WHERE path_key = $1 AND size = $2 AND mtime_ns = $3",
        )
        .bind(text_key(path.as_os_str().as_bytes()))
        .bind(size as i64)
        .bind(mtime_ns)
        .fetch_optional(&self.pool)
        .await?;
        Ok(id.map(MediaId))
    }

    /// Remembers what [`Self::known_file`] answers.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn remember_file(
        &self,
        path: &Path,
        size: u64,
        mtime_ns: i64,
        media_id: MediaId,
    ) -> Result<(), StoreError> {
        retrying(|| remember(&self.pool, path, size, mtime_ns, media_id)).await?;
        Ok(())
    }
}

/// Remembers whose content the file at `path` holds.
pub(super) async fn remember(
    at: impl PgExecutor<'_>,
    path: &Path,
    size: u64,
    mtime_ns: i64,
    media_id: MediaId,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO known_files (path_key, size, mtime_ns, media_id) VALUES ($1, $2, $3, $4)
         ON CONFLICT (path_key) DO UPDATE
         SET size = $2, mtime_ns = $3, media_id = $4, seen_at = now()",
    )
    .bind(text_key(path.as_os_str().as_bytes()))
    .bind(size as i64)
    .bind(mtime_ns)
    .bind(media_id.0)
    .execute(at)
    .await?;
    Ok(())
}

/// Queues the items that are not known, in the caller's transaction, and notes where all of them were found; the ids of those
/// that were new.
pub(super) async fn insert_new(
    conn: &mut PgConnection,
    batch: &[Item],
    listed_in: &str,
) -> Result<HashSet<MediaId>, StoreError> {
    let inserted = insert(conn, batch, None).await?;
    let known = rows(conn, batch).await?;
    note_places(conn, batch, &known, listed_in).await?;
    Ok(inserted.into_keys().map(MediaId).collect())
}

/// A known item, as far as [`Store::upsert_many`] cares.
struct Known {
    state: State,
    class: Option<FailureClass>,
    locator: Value,
}

/// Inserts what is not there; the ids of what was inserted.
async fn insert(
    conn: &mut PgConnection,
    batch: &[Item],
    failure: Option<&Failure>,
) -> Result<HashMap<Uuid, ()>, sqlx::Error> {
    // In one order everywhere, so that two that insert the same items cannot wait for each other.
    let mut sorted: Vec<&Item> = batch.iter().collect();
    sorted.sort_by_key(|item| item.media_id);
    let column = |get: fn(&Item) -> &str| -> Vec<String> {
        sorted.iter().map(|item| clean(get(item)).into_owned()).collect()
    };
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "INSERT INTO media (media_id, extractor, source_id, locator, source, title, duration_ms,
                            state, error_class, error, remedy, finished_at)
         SELECT new.*, $8, $9, $10, $11, CASE WHEN $8 = 'failed' THEN now() END
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::jsonb[], $5::text[], $6::text[], $7::bigint[])
              AS new (media_id, extractor, source_id, locator, source, title, duration_ms)
         WHERE NOT EXISTS (SELECT FROM removed r WHERE r.media_id = new.media_id)
         ON CONFLICT (media_id) DO NOTHING
         RETURNING media_id",
    )
    .bind(sorted.iter().map(|item| item.media_id.0).collect::<Vec<_>>())
    .bind(column(|item| &item.extractor))
    .bind(column(|item| &item.source_id))
    .bind(sorted.iter().map(|item| locator::to_json(&item.locator)).collect::<Vec<_>>())
    .bind(column(|item| &item.source))
    .bind(column(|item| &item.title))
    .bind(sorted.iter().map(|item| item.duration_ms).collect::<Vec<_>>())
    .bind(if failure.is_some() { "failed" } else { "queued" })
    .bind(failure.map(|f| f.class.as_str()))
    .bind(failure.map(|f| clean(&f.message).into_owned()))
    .bind(failure.and_then(|f| f.remedy.as_deref()).map(|r| clean(r).into_owned()))
    .fetch_all(conn)
    .await?;
    Ok(ids.into_iter().map(|id| (id, ())).collect())
}

async fn rows(conn: &mut PgConnection, batch: &[Item]) -> Result<HashMap<Uuid, Known>, StoreError> {
    let ids: Vec<Uuid> = batch.iter().map(|item| item.media_id.0).collect();
    let rows: Vec<(Uuid, String, Option<String>, Value)> =
        sqlx::query_as("SELECT media_id, state, error_class, locator FROM media WHERE media_id = ANY($1)")
            .bind(ids)
            .fetch_all(conn)
            .await?;
    rows.into_iter()
        .map(|(id, state, class, locator)| {
            let class = class.as_deref().map(read::class);
            Ok((id, Known { state: read::state(&state)?, class, locator }))
        })
        .collect()
}

/// Those of the items that are not known because they were removed.
async fn removed(
    conn: &mut PgConnection,
    batch: &[Item],
    known: &HashMap<Uuid, Known>,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let unknown: Vec<Uuid> =
        batch.iter().map(|item| item.media_id.0).filter(|id| !known.contains_key(id)).collect();
    if unknown.is_empty() {
        return Ok(HashSet::new());
    }
    let ids: Vec<Uuid> = sqlx::query_scalar("SELECT media_id FROM removed WHERE media_id = ANY($1)")
        .bind(unknown)
        .fetch_all(conn)
        .await?;
    Ok(ids.into_iter().collect())
}

/// Notes where each item was found, and where it is now if it has moved.
async fn note_places(
    conn: &mut PgConnection,
    batch: &[Item],
    known: &HashMap<Uuid, Known>,
    listed_in: &str,
) -> Result<(), sqlx::Error> {
    let mut listed: Vec<(Uuid, Uuid, String)> = Vec::new();
    let mut identified = Vec::new();
    for item in batch.iter().filter(|item| known.contains_key(&item.media_id.0)) {
        for source in [listed_in, &item.source] {
            let source = clean(source);
            listed.push((item.media_id.0, text_key(source.as_bytes()), source.into_owned()));
        }
        if let Locator::File(path) = &item.locator
            && item.extractor != "path"
        {
            identified.push(MediaId::new("path", &path.to_string_lossy()).0);
        }
    }
    listed.sort_unstable();
    listed.dedup();
    sqlx::query(
        "INSERT INTO media_sources (media_id, source_key, source)
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[])
         ON CONFLICT DO NOTHING",
    )
    .bind(listed.iter().map(|l| l.0).collect::<Vec<_>>())
    .bind(listed.iter().map(|l| l.1).collect::<Vec<_>>())
    .bind(listed.into_iter().map(|l| l.2).collect::<Vec<_>>())
    .execute(&mut *conn)
    .await?;
    if !identified.is_empty() {
        sqlx::query("DELETE FROM media WHERE media_id = ANY($1) AND state <> 'active'")
            .bind(identified)
            .execute(&mut *conn)
            .await?;
    }
    for item in batch {
        if let Some(row) = known.get(&item.media_id.0)
            && moved(item, row)
        {
            // Not while somebody works on it: they have read the former place.
            sqlx::query(
                "UPDATE media SET locator = $2, source = $3 WHERE media_id = $1 AND state <> 'active'",
            )
            .bind(item.media_id.0)
            .bind(locator::to_json(&item.locator))
            .bind(&*clean(&item.source))
            .execute(&mut *conn)
            .await?;
        }
    }
    Ok(())
}

/// Whether the place just found is the better one: the file that was there is gone, or it is an address (which may
/// carry a token) and the item was not fetched yet.
fn moved(item: &Item, row: &Known) -> bool {
    match locator::from_json(&row.locator) {
        Ok(locator) if locator == item.locator => false,
        Ok(Locator::File(path)) => !path.exists(),
        Ok(Locator::Url(_) | Locator::Page(_)) => row.state != State::Done,
        Err(_) => true,
    }
}

/// The latest reason is the one to tell.
async fn refresh_failure(
    conn: &mut PgConnection,
    batch: &[Item],
    failure: &Failure,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE media SET state = 'failed', error_class = $2, error = $3, remedy = $4, retry_at = NULL,
             finished_at = now(), updated_at = now()
         WHERE media_id = ANY($1) AND state IN ('queued', 'failed')",
    )
    .bind(batch.iter().map(|item| item.media_id.0).collect::<Vec<_>>())
    .bind(failure.class.as_str())
    .bind(&*clean(&failure.message))
    .bind(failure.remedy.as_deref().map(|r| clean(r).into_owned()))
    .execute(conn)
    .await?;
    Ok(())
}

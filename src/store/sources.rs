//! Subscribed sources: what they are, when they are due, what was seen in them and what is to be taken on.
//!
//! One check of a source is [`Store::lock_source`], [`Store::begin_check`], then [`Store::end_check`] or
//! [`Store::fail_check`]; what it found is taken on by [`Store::take_entries`]. The lock is the session's of one connection:
//! gone with the process, so that the next may begin at once. The number that the check drew fences what it writes, in case
//! the lock went with a broken connection while the process lived on.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, FromRow, Row};
use uuid::Uuid;

use super::{SaveError, Store, StoreError, clean, items, locator, retrying, text_key};
use crate::media::{Failure, Item, Locator, MediaId};

/// Half of the key of the advisory lock of one source; the other half is of its id.
const LOCK: i64 = 0x7370_6f6b_0000_0000;
/// Advisory lock held while entries are taken on: two at once would both use up the same allowance.
const TAKE_LOCK: i64 = 0x7370_6f6b_656e_0003;
/// Entries written in one statement.
const BATCH: usize = 500;
/// A source is due again after 0.85 to 0.95 of its interval. Less than all of it, so that a cron job that runs as often finds it
/// due each time; and not the same for all, so that a hundred sources added together do not stay together.
const DUE_AFTER: (f64, f64) = (0.85, 0.1);
/// First pause after a failed check; doubles with each, up to a day (or the source's interval, where that is more).
const BACKOFF_S: f64 = 600.0;
const LONGEST_BACKOFF_S: f64 = 86_400.0;

/// What kind of source it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// RSS, Atom or JSON Feed.
    Feed,
    /// A channel, playlist or page that yt-dlp lists.
    List,
    /// A folder of files.
    Folder,
}

impl SourceKind {
    /// The name used in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::List => "list",
            Self::Folder => "folder",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Self::Feed, Self::List, Self::Folder].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A source to subscribe to.
#[derive(Clone, Debug)]
pub struct NewSource {
    /// What to call it; made from the address where there is none.
    pub name: Option<String>,
    /// Address or absolute path.
    pub source: String,
    /// Where it is known before the first look.
    pub kind: Option<SourceKind>,
    /// How often to look.
    pub every: Duration,
    /// What is wanted of it: JSON of `source::rules::Rules`.
    pub rules: Value,
    /// New items taken on after one check.
    pub at_a_time: Option<u32>,
    /// Language spoken in it.
    pub language: Option<String>,
    /// Smaller is sooner.
    pub priority: i16,
}

/// A subscribed source.
#[derive(Clone, Debug)]
pub struct Source {
    /// Identity.
    pub id: Uuid,
    /// What a person calls it.
    pub name: String,
    /// Address or absolute path.
    pub source: String,
    /// Unknown until the first look.
    pub kind: Option<SourceKind>,
    /// How often it is looked at.
    pub every: Duration,
    /// What is wanted of it: JSON of `source::rules::Rules`.
    pub rules: Value,
    /// New items taken on after one check.
    pub at_a_time: Option<u32>,
    /// Language spoken in it.
    pub language: Option<String>,
    /// Smaller is sooner.
    pub priority: i16,
    /// Not looked at.
    pub paused: bool,
    /// Looked at next, by the database's clock.
    pub next_due: DateTime<Utc>,
    /// The same, from now.
    pub due_in: f64,
    /// Looked at last.
    pub checked_at: Option<DateTime<Utc>>,
    /// Days since all of it was listed; none: never.
    pub full_days_ago: Option<f64>,
    /// `ETag` of the feed that is known.
    pub etag: Option<String>,
    /// Its `Last-Modified`.
    pub last_modified: Option<String>,
    /// How the last check went.
    pub result: Option<String>,
    /// Failed checks in a row.
    pub failures: u32,
    /// Why the last one failed.
    pub failure: Option<Failure>,
    /// Entries by what became of them.
    pub counts: EntryCounts,
}

/// Entries of a source by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryCounts {
    /// Items taken on.
    pub taken: u64,
    /// To be taken on when limits allow.
    pub ready: u64,
    /// Not there yet.
    pub waiting: u64,
    /// Not wanted.
    pub left: u64,
}

/// What became of an entry that a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// To be taken on.
    Ready,
    /// Not wanted.
    Left(String),
    /// To be looked at again.
    Waiting {
        /// Why.
        reason: String,
        /// From now.
        after: Duration,
    },
    /// A page that led to other entries.
    Opened,
}

/// An entry that a check found.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The item; of a file without media in it, one of extractor `path`.
    pub item: Item,
    /// What becomes of it.
    pub fate: Fate,
    /// Seconds since 1970.
    pub published_at: Option<i64>,
    /// For a file: its identity as a path, its length in bytes and its last modification in nanoseconds since 1970.
    pub file: Option<(MediaId, u64, i64)>,
}

impl Seen {
    /// What the entry is known by.
    fn key(&self) -> Uuid {
        self.file.map_or(self.item.media_id, |(path, ..)| path).0
    }
}

/// An entry as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownEntry {
    /// Length in bytes and last modification (nanoseconds since 1970) of a file.
    pub file: Option<(u64, i64)>,
}

/// The outcome of a check.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// What kind of source it turned out to be.
    pub kind: Option<SourceKind>,
    /// `ETag` and `Last-Modified` of the feed; none: as before.
    pub validators: Option<(Option<String>, Option<String>)>,
    /// All of it was listed.
    pub full: bool,
    /// In the order of the source.
    pub entries: Vec<Seen>,
    /// How it went, in words.
    pub result: String,
    /// Look again after this time at the latest: a file was still growing.
    pub again_within: Option<Duration>,
}

/// An entry that was taken on.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The item.
    pub media_id: MediaId,
    /// Untrusted text.
    pub title: String,
    /// The source it came from.
    pub source_id: Uuid,
    /// Smaller is sooner.
    pub priority: i16,
}

/// The lock of one source, held by a connection of its own.
#[derive(Debug)]
pub struct SourceLock {
    connection: PgConnection,
    /// Drawn by [`Store::begin_check`].
    number: i64,
    id: Uuid,
}

impl SourceLock {
    /// Lets others check the source.
    pub async fn release(self) {
        // The lock goes with the session, whatever comes of saying goodbye.
        let _ = self.connection.close().await;
    }
}

const COLUMNS: &str =
    "source_id, name, source, kind, every_s, rules, at_a_time, language, priority, paused, next_due,
    extract(epoch FROM next_due - now())::float8 AS due_in, checked_at,
    extract(epoch FROM now() - full_at)::float8 / 86400 AS full_days_ago,
    etag, last_modified, result, failures, error_class, error, remedy";

impl Store {
    /// Subscribes to a source; what it is called, and false where it was subscribed to before (its settings are then
    /// replaced, what was seen in it stays).
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn add_source(&self, new: &NewSource) -> Result<(Source, bool), StoreError> {
        let id = source_id(&new.source);
        let mut tx = self.pool.begin().await?;
        // Names are made unique here; two that do so at once would make the same.
        sqlx::query("LOCK TABLE sources IN SHARE ROW EXCLUSIVE MODE").execute(&mut *tx).await?;
        let names: Vec<String> = sqlx::query_scalar("SELECT name FROM sources WHERE source_id <> $1")
            .bind(id)
            .fetch_all(&mut *tx)
            .await?;
        let name = match &new.name {
            Some(name) => clean(name).into_owned(),
            None => {
                let wanted = short_name(&new.source);
                let numbered = (2..).map(|n| format!("{wanted}-{n}"));
                std::iter::once(wanted.clone()).chain(numbered).find(|n| !names.contains(n)).unwrap_or(wanted)
            }
        };
        let fresh: bool = sqlx::query_scalar(
            "INSERT INTO sources (source_id, name, source, kind, every_s, rules, at_a_time, allowance, language, priority)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8, $9)
             ON CONFLICT (source_id) DO UPDATE SET
                 name = CASE WHEN $10 THEN excluded.name ELSE sources.name END,
                 every_s = excluded.every_s, rules = excluded.rules, at_a_time = excluded.at_a_time,
                 allowance = excluded.at_a_time, language = excluded.language, priority = excluded.priority,
                 paused = false, next_due = now()
             RETURNING xmax = 0",
        )
        .bind(id)
        .bind(&name)
        .bind(&*clean(&new.source))
        .bind(new.kind.map(SourceKind::as_str))
        .bind(i64::try_from(new.every.as_secs().max(1)).unwrap_or(i64::MAX))
        .bind(&new.rules)
        .bind(new.at_a_time.and_then(|n| i32::try_from(n).ok()))
        .bind(&new.language)
        .bind(new.priority)
        .bind(new.name.is_some())
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        let source = self.source(id).await?.ok_or(sqlx::Error::RowNotFound)?;
        Ok((source, fresh))
    }

    /// All sources by name.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn sources(&self) -> Result<Vec<Source>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM sources ORDER BY name");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&self.pool).await?;
        let mut sources = rows.iter().map(read_source).collect::<Result<Vec<_>, _>>()?;
        let mut counts = self.entry_counts().await?;
        for source in &mut sources {
            source.counts = counts.remove(&source.id).unwrap_or_default();
        }
        Ok(sources)
    }

    /// The sources that are due, longest due first, with as much as a check needs to know (no counts). `all`: those that are
    /// not due, too, unless they are paused.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn due_sources(&self, all: bool) -> Result<Vec<Source>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM sources WHERE NOT paused AND ($1 OR next_due <= now()) ORDER BY next_due, source_id"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(all).fetch_all(&self.pool).await?;
        rows.iter().map(|row| read_source(row).map_err(StoreError::from)).collect()
    }

    /// One source, without its counts.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn source(&self, id: Uuid) -> Result<Option<Source>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM sources WHERE source_id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(&self.pool).await?;
        Ok(row.as_ref().map(read_source).transpose()?)
    }

    /// When the next source is due, from now (zero: one is due); none without sources that are not paused.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn next_source_due(&self) -> Result<Option<Duration>, StoreError> {
        let seconds: Option<f64> = sqlx::query_scalar(
            "SELECT greatest(0, extract(epoch FROM min(next_due) - now()))::float8 FROM sources WHERE NOT paused",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(seconds.map(|s| Duration::try_from_secs_f64(s).unwrap_or_default()))
    }

    async fn entry_counts(&self) -> Result<HashMap<Uuid, EntryCounts>, StoreError> {
        let rows: Vec<(Uuid, i64, i64, i64, i64)> = sqlx::query_as(
            "SELECT source_id, count(*) FILTER (WHERE verdict = 'taken'), count(*) FILTER (WHERE verdict = 'ready'),
                    count(*) FILTER (WHERE verdict = 'waiting'), count(*) FILTER (WHERE verdict = 'left')
             FROM source_entries GROUP BY source_id",
        )
        .fetch_all(&self.pool)
        .await?;
        let count = |n: i64| n.unsigned_abs();
        Ok(rows
            .into_iter()
            .map(|(id, taken, ready, waiting, left)| {
                let counts = EntryCounts {
                    taken: count(taken),
                    ready: count(ready),
                    waiting: count(waiting),
                    left: count(left),
                };
                (id, counts)
            })
            .collect())
    }

    /// Entries of one source that were left or wait, with their titles and reasons, the latest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn passed_over(&self, id: Uuid, most: u32) -> Result<Vec<PassedOver>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT media_id, title, verdict, reason, look_at, published_at FROM source_entries
             WHERE source_id = $1 AND verdict IN ('left', 'waiting', 'ready')
             ORDER BY verdict = 'left', coalesce(published_at, seen_at) DESC, place, media_id LIMIT $2",
        )
        .bind(id)
        .bind(i64::from(most))
        .fetch_all(&self.pool)
        .await?)
    }

    /// Pauses a source, or lets it go on (it is then due at once).
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn pause_source(&self, id: Uuid, paused: bool) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE sources SET paused = $2, failures = CASE WHEN $2 THEN failures ELSE 0 END,
                 next_due = CASE WHEN paused AND NOT $2 THEN now() ELSE next_due END
             WHERE source_id = $1",
        )
        .bind(id)
        .bind(paused)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Forgets a source and what was seen in it; its items stay, unless `with_items`: then those that came from nowhere else go
    /// too, with all that was said in them, unless somebody works on them right now. How many items went.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn remove_source(&self, id: Uuid, with_items: bool) -> Result<u64, StoreError> {
        let mut tx = self.pool.begin().await?;
        let mut removed = 0;
        if with_items {
            let only: Vec<Uuid> = sqlx::query_scalar(
                "SELECT m.media_id FROM media m
                 JOIN source_entries e ON e.item_id = m.media_id AND e.source_id = $1 AND e.verdict = 'taken'
                 JOIN sources s ON s.source_id = $1
                 WHERE m.state <> 'active'
                   AND NOT EXISTS (SELECT FROM source_entries o WHERE o.item_id = m.media_id AND o.source_id <> $1)
                   AND NOT EXISTS (SELECT FROM media_sources l WHERE l.media_id = m.media_id
                                   AND l.source NOT IN (s.source, m.source))
                 FOR UPDATE OF m",
            )
            .bind(id)
            .fetch_all(&mut *tx)
            .await?;
            let tables: Vec<String> =
                sqlx::query_scalar("SELECT table_name FROM embedding_models").fetch_all(&mut *tx).await?;
            for table in tables {
                // The names are made by this program.
                let sql = format!("DELETE FROM {table} WHERE media_id = ANY($1)");
                sqlx::query(sqlx::AssertSqlSafe(sql)).bind(&only).execute(&mut *tx).await?;
            }
            sqlx::query("DELETE FROM known_files WHERE media_id = ANY($1)")
                .bind(&only)
                .execute(&mut *tx)
                .await?;
            // Segments, passages and places go with it.
            let gone = sqlx::query("DELETE FROM media WHERE media_id = ANY($1)")
                .bind(&only)
                .execute(&mut *tx)
                .await?;
            removed = gone.rows_affected();
        }
        sqlx::query("DELETE FROM source_entries WHERE source_id = $1").bind(id).execute(&mut *tx).await?;
        sqlx::query("DELETE FROM sources WHERE source_id = $1").bind(id).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(removed)
    }

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

    /// What was seen in a source. Of thousands of entries, some hundred kilobytes.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn known_entries(&self, id: Uuid) -> Result<HashMap<MediaId, KnownEntry>, StoreError> {
        let rows: Vec<(Uuid, Option<i64>, Option<i64>)> =
            sqlx::query_as("SELECT media_id, size, mtime_ns FROM source_entries WHERE source_id = $1")
                .bind(id)
                .fetch_all(&self.pool)
                .await?;
        Ok(rows
            .into_iter()
            .map(|(id, size, mtime_ns)| {
                let file = size.zip(mtime_ns).map(|(size, mtime_ns)| (size.unsigned_abs(), mtime_ns));
                (MediaId(id), KnownEntry { file })
            })
            .collect())
    }

    /// Entries of a source whose time has come to be looked at again.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn due_entries(&self, id: Uuid) -> Result<Vec<(Item, Option<i64>)>, StoreError> {
        let rows: Vec<(Uuid, Value, Option<DateTime<Utc>>)> = sqlx::query_as(
            "SELECT item_id, item, published_at FROM source_entries
             WHERE source_id = $1 AND verdict = 'waiting' AND look_at <= now() AND item IS NOT NULL
             ORDER BY look_at, media_id",
        )
        .bind(id)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|(id, item, at)| Ok((item_from_json(MediaId(id), &item)?, at.map(|at| at.timestamp()))))
            .collect()
    }

    /// The database's clock.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        Ok(sqlx::query_scalar("SELECT now()").fetch_one(&self.pool).await?)
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
                  WHERE e.source_id = s.source_id AND e.verdict = 'waiting'))
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

    /// Takes on entries that are ready, as far as the sources' allowances and `most` (new items in all) go: of each source its
    /// newest first, the sources in turn. What the library knows already is taken without counting.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn take_entries(&self, most: Option<usize>) -> Result<Vec<Taken>, StoreError> {
        retrying(|| self.try_take_entries(most)).await
    }

    async fn try_take_entries(&self, most: Option<usize>) -> Result<Vec<Taken>, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(TAKE_LOCK).execute(&mut *tx).await?;
        let known = ready(&mut tx, "EXISTS (SELECT FROM media m WHERE m.media_id = e.item_id)", None).await?;
        take(&mut tx, &known).await?;
        let most = most.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        let fresh = ready(&mut tx, "(s.allowance IS NULL OR e.turn <= s.allowance)", most).await?;
        let taken = take(&mut tx, &fresh).await?;
        tx.commit().await?;
        Ok(taken)
    }

    /// Entries that are ready, whether or not limits allow to take them.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn entries_left_over(&self) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM source_entries e JOIN sources s USING (source_id) WHERE verdict = 'ready' AND NOT s.paused",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(count.unsigned_abs())
    }

    /// Items that are queued or being worked on.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn unfinished_count(&self) -> Result<usize, StoreError> {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM media WHERE state <> 'done' AND state IN ('queued', 'active')",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Whether an item is queued that can be worked on now, or within `patience`.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn work_waits(&self, patience: Duration) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM media WHERE state = 'queued' AND state <> 'done'
                            AND (retry_at IS NULL OR retry_at <= now() + make_interval(secs => $1)))",
        )
        .bind(patience.as_secs_f64())
        .fetch_one(&self.pool)
        .await?)
    }
}

/// An entry that was not taken on, or not yet.
#[derive(Clone, Debug, FromRow)]
pub struct PassedOver {
    /// Identity of the item it would be.
    pub media_id: Uuid,
    /// Untrusted text.
    pub title: String,
    /// `left`, `waiting` or `ready`.
    pub verdict: String,
    /// Why.
    pub reason: Option<String>,
    /// When it is looked at again.
    pub look_at: Option<DateTime<Utc>>,
    /// When it was published, if known.
    pub published_at: Option<DateTime<Utc>>,
}

/// The identity of a source.
pub fn source_id(source: &str) -> Uuid {
    text_key(source.as_bytes())
}

/// What to call a source: the last part of its path, or its host.
fn short_name(source: &str) -> String {
    let (host, path) = match url::Url::parse(source) {
        Ok(url) if url.has_host() => {
            let list =
                url.query_pairs().find(|(k, _)| k == "list" || k == "playlist_id" || k == "channel_id");
            let host = url.host_str().unwrap_or_default().trim_start_matches("www.").to_owned();
            (host, list.map_or_else(|| url.path().to_owned(), |(_, id)| id.into_owned()))
        }
        _ => (String::new(), source.to_owned()),
    };
    let common = [
        "feed",
        "rss",
        "atom",
        "index",
        "videos",
        "podcast",
        "feeds",
        "rss.xml",
        "feed.xml",
        "atom.xml",
        "feed.json",
    ];
    let parts = path.split('/').filter(|p| !p.is_empty());
    let last = parts.filter(|p| !common.contains(&p.to_ascii_lowercase().as_str())).next_back();
    let name = last.map_or(host.as_str(), |p| p.trim_start_matches('@'));
    let name: String = name.chars().filter(|c| c.is_alphanumeric() || "-_.".contains(*c)).take(40).collect();
    if name.is_empty() { "source".to_owned() } else { name }
}

fn read_source(row: &sqlx::postgres::PgRow) -> Result<Source, sqlx::Error> {
    let kind: Option<String> = row.try_get("kind")?;
    let class: Option<String> = row.try_get("error_class")?;
    let failure = match class {
        Some(class) => Some(Failure {
            class: super::read::class(&class),
            message: row.try_get::<Option<String>, _>("error")?.unwrap_or_default(),
            remedy: row.try_get("remedy")?,
        }),
        None => None,
    };
    Ok(Source {
        id: row.try_get("source_id")?,
        name: row.try_get("name")?,
        source: row.try_get("source")?,
        kind: kind.as_deref().and_then(SourceKind::read),
        every: Duration::from_secs(row.try_get::<i64, _>("every_s")?.unsigned_abs()),
        rules: row.try_get("rules")?,
        at_a_time: row.try_get::<Option<i32>, _>("at_a_time")?.map(i32::unsigned_abs),
        language: row.try_get("language")?,
        priority: row.try_get("priority")?,
        paused: row.try_get("paused")?,
        next_due: row.try_get("next_due")?,
        due_in: row.try_get("due_in")?,
        checked_at: row.try_get("checked_at")?,
        full_days_ago: row.try_get("full_days_ago")?,
        etag: row.try_get("etag")?,
        last_modified: row.try_get("last_modified")?,
        result: row.try_get("result")?,
        failures: row.try_get::<i32, _>("failures")?.unsigned_abs(),
        failure,
        counts: EntryCounts::default(),
    })
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

/// An entry that is ready.
struct Ready {
    entry: Uuid,
    source_id: Uuid,
    source: String,
    language: Option<String>,
    priority: i16,
    item: Item,
    /// Length and modification of a file.
    file: Option<(u64, i64)>,
}

/// Ready entries that fulfil `condition`, in the order in which they are taken on.
async fn ready(
    conn: &mut PgConnection,
    condition: &str,
    most: Option<i64>,
) -> Result<Vec<Ready>, StoreError> {
    let sql = format!(
        "SELECT e.media_id, e.source_id, e.item_id, e.item, e.size, e.mtime_ns, s.source, s.language, s.priority
         FROM (SELECT *, row_number() OVER (PARTITION BY source_id ORDER BY published_at DESC NULLS LAST, place, media_id)
                      AS turn
               FROM source_entries WHERE verdict = 'ready') e
         JOIN sources s ON s.source_id = e.source_id
         WHERE NOT s.paused AND {condition}
         ORDER BY s.priority, e.turn, e.source_id LIMIT $1"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(most).fetch_all(conn).await?;
    rows.iter()
        .map(|row| {
            let entry: Uuid = row.try_get("media_id")?;
            let stored: Value = row.try_get("item")?;
            let item = item_from_json(MediaId(row.try_get("item_id")?), &stored)?;
            let (size, mtime): (Option<i64>, Option<i64>) = (row.try_get("size")?, row.try_get("mtime_ns")?);
            let file = size.zip(mtime).map(|(size, mtime_ns)| (size.unsigned_abs(), mtime_ns));
            Ok(Ready {
                entry,
                source_id: row.try_get("source_id")?,
                source: row.try_get("source")?,
                language: row.try_get("language")?,
                priority: row.try_get("priority")?,
                item,
                file,
            })
        })
        .collect()
}

/// Makes entries items; those that are new in the library.
async fn take(conn: &mut PgConnection, entries: &[Ready]) -> Result<Vec<Taken>, StoreError> {
    let mut taken = Vec::new();
    // A source at a time, because where an item was found is noted for all at once.
    let mut by_source: HashMap<Uuid, Vec<&Ready>> = HashMap::new();
    for entry in entries {
        by_source.entry(entry.source_id).or_default().push(entry);
    }
    let mut groups: Vec<_> = by_source.into_iter().collect();
    groups.sort_unstable_by_key(|(id, _)| *id);
    for (source_id, group) in groups {
        let Some(first) = group.first() else { continue };
        let all: Vec<Item> = group.iter().map(|r| r.item.clone()).collect();
        let mut new = 0_i32;
        for batch in all.chunks(BATCH) {
            let inserted = items::insert_new(conn, batch, &first.source).await?;
            new += i32::try_from(inserted.len()).unwrap_or(i32::MAX);
            if let Some(language) = &first.language {
                sqlx::query("UPDATE media SET language_wanted = $2 WHERE media_id = ANY($1)")
                    .bind(inserted.iter().map(|id| id.0).collect::<Vec<_>>())
                    .bind(language)
                    .execute(&mut *conn)
                    .await?;
            }
            taken.extend(group.iter().filter(|r| inserted.contains(&r.item.media_id)).map(|r| Taken {
                media_id: r.item.media_id,
                title: r.item.title.clone(),
                source_id,
                priority: r.priority,
            }));
        }
        for Ready { file, item, .. } in &group {
            if let (Some((size, mtime_ns)), Locator::File(path)) = (file, &item.locator) {
                items::remember(&mut *conn, path, *size, *mtime_ns, item.media_id).await?;
            }
        }
        sqlx::query(
            "UPDATE source_entries SET verdict = 'taken', reason = NULL, item = NULL
             WHERE source_id = $1 AND media_id = ANY($2)",
        )
        .bind(source_id)
        .bind(group.iter().map(|r| r.entry).collect::<Vec<_>>())
        .execute(&mut *conn)
        .await?;
        sqlx::query("UPDATE sources SET allowance = greatest(0, allowance - $2) WHERE source_id = $1")
            .bind(source_id)
            .bind(new)
            .execute(&mut *conn)
            .await?;
    }
    // In the order of the entries again: that is the order of their jobs.
    let order: HashMap<MediaId, usize> =
        entries.iter().enumerate().map(|(n, r)| (r.item.media_id, n)).collect();
    taken.sort_by_key(|t| order.get(&t.media_id).copied());
    taken.dedup_by_key(|t| t.media_id);
    Ok(taken)
}

fn item_to_json(item: &Item) -> Value {
    json!({
        "extractor": item.extractor, "id": item.source_id, "locator": locator::to_json(&item.locator),
        "source": item.source, "title": item.title, "duration_ms": item.duration_ms,
    })
}

fn item_from_json(media_id: MediaId, value: &Value) -> Result<Item, sqlx::Error> {
    let bad = |what: String| sqlx::Error::Decode(what.into());
    let text = |key: &str| {
        value[key].as_str().map(str::to_owned).ok_or_else(|| bad(format!("an entry without {key}: {value}")))
    };
    Ok(Item {
        media_id,
        extractor: text("extractor")?,
        source_id: text("id")?,
        locator: locator::from_json(&value["locator"]).map_err(bad)?,
        source: text("source")?,
        title: text("title")?,
        duration_ms: value["duration_ms"].as_i64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_have_short_names() {
        for (source, name) in [
            ("https://www.youtube.com/@somebody/videos", "somebody"),
            ("https://www.youtube.com/playlist?list=PLx_1-2", "PLx_1-2"),
            ("https://www.youtube.com/feeds/videos.xml?channel_id=UCx", "UCx"),
            ("https://example.org/feed.xml", "example.org"),
            ("https://example.org/shows/history/rss", "history"),
            ("/srv/media/Talks", "Talks"),
            ("/", "source"),
        ] {
            assert_eq!(short_name(source), name, "{source}");
        }
    }

    #[test]
    fn items_come_back_from_json() {
        let item = Item {
            media_id: MediaId::new("file", "abc"),
            extractor: "file".into(),
            source_id: "abc".into(),
            locator: crate::media::Locator::File("/a/b.mp4".into()),
            source: "/a/b.mp4".into(),
            title: "b".into(),
            duration_ms: Some(5),
        };
        assert_eq!(item_from_json(item.media_id, &item_to_json(&item)).unwrap(), item);
        assert!(item_from_json(item.media_id, &json!({})).is_err());
    }
}

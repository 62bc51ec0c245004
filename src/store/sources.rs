//! Subscribed sources: what they are, when they are due, what was seen in them and what is to be taken on.
//!
//! One check of a source is [`Store::lock_source`], [`Store::begin_check`], then [`Store::end_check`] or
//! [`Store::fail_check`]; what it found is taken on by [`Store::take_entries`]. The lock is the session's of one connection:
//! gone with the process, so that the next may begin at once. The number that the check drew fences what it writes, in case
//! the lock went with a broken connection while the process lived on.

mod checks;
mod nouns;
mod taking;

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, FromRow, Row};
use uuid::Uuid;

pub use self::nouns::{
    Checked, DueEntry, EntryCounts, Fate, KnownEntry, NewSource, Seen, Source, SourceKind, Taken,
};
use super::{Store, StoreError, clean, text_key};
use crate::media::Failure;

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
    /// Subscribes to a source; what it is called, and false where it was subscribed to before: its settings are then
    /// replaced, and what was seen in it stays, except what was left out where the rules are others now. A paused one stays
    /// paused.
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
        let rules: Option<Value> = sqlx::query_scalar("SELECT rules FROM sources WHERE source_id = $1")
            .bind(id)
            .fetch_optional(&mut *tx)
            .await?;
        let fresh: bool = sqlx::query_scalar(
            "INSERT INTO sources (source_id, name, source, kind, every_s, rules, at_a_time, allowance, language, priority)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8, $9)
             ON CONFLICT (source_id) DO UPDATE SET
                 name = CASE WHEN $10 THEN excluded.name ELSE sources.name END,
                 every_s = excluded.every_s, rules = excluded.rules, at_a_time = excluded.at_a_time,
                 allowance = excluded.at_a_time, language = excluded.language, priority = excluded.priority,
                 next_due = now()
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
        if rules.is_some_and(|before| before != new.rules) {
            reconsider(&mut tx, id).await?;
        }
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
            "SELECT item_id AS media_id, title, verdict, reason, look_at, published_at FROM source_entries
             WHERE source_id = $1 AND verdict IN ('left', 'waiting', 'ready')
             ORDER BY verdict = 'left', coalesce(published_at, seen_at) DESC, place, item_id LIMIT $2",
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
        super::answering::keep_answering(&mut tx).await?;
        let mut removed = 0;
        if with_items {
            let only: Vec<Uuid> = sqlx::query_scalar(
                "SELECT m.media_id FROM media m
                 JOIN source_entries e ON e.item_id = m.media_id AND e.source_id = $1 AND e.verdict = 'taken'
                 JOIN sources s ON s.source_id = $1
                 WHERE m.state <> 'active'
                   AND NOT EXISTS (SELECT FROM source_entries o WHERE o.item_id = m.media_id AND o.source_id <> $1)
                   AND NOT EXISTS (SELECT FROM media_sources l WHERE l.media_id = m.media_id
                                   AND l.source NOT IN (s.source, m.source))",
            )
            .bind(id)
            .fetch_all(&mut *tx)
            .await?;
            sqlx::query("DELETE FROM known_files WHERE media_id = ANY($1)")
                .bind(&only)
                .execute(&mut *tx)
                .await?;
            removed = super::remove::delete_items(&mut tx, &only).await?;
        }
        sqlx::query("DELETE FROM source_entries WHERE source_id = $1").bind(id).execute(&mut *tx).await?;
        sqlx::query("DELETE FROM sources WHERE source_id = $1").bind(id).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(removed)
    }

    /// The database's clock.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        Ok(sqlx::query_scalar("SELECT now()").fetch_one(&self.pool).await?)
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
}

/// Lets the next check judge anew what was left out of a source, as if it had never been seen there; what was removed stays
/// what it is.
async fn reconsider(conn: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM source_entries e WHERE source_id = $1 AND verdict = 'left'
             AND NOT EXISTS (SELECT FROM removed r WHERE r.media_id = e.item_id)",
    )
    .bind(id)
    .execute(&mut *conn)
    .await?;
    // A feed that has not changed would not be read, nor the older entries of a list. And a check that runs right now
    // judges by the old rules: with a number that is not the last, it writes nothing.
    sqlx::query(
        "UPDATE sources SET etag = NULL, last_modified = NULL, full_at = NULL, checks = checks + 1
         WHERE source_id = $1",
    )
    .bind(id)
    .execute(conn)
    .await?;
    Ok(())
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
    let mut parts = path.split('/').filter(|p| !p.is_empty());
    let last = parts.rfind(|p| !common.contains(&p.to_ascii_lowercase().as_str()));
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
            retry: None,
            free: false,
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
}

//! Reading a whole library in one go, whatever its size: pages of items in the order of discovery, and what belongs to a page
//! row by row as the server sends it. All of it is of one moment.

use chrono::{DateTime, NaiveDate, Utc};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Postgres, Transaction};
use uuid::Uuid;

use super::read::COLUMNS;
use super::{MediaRow, Store, StoreError, account};
use crate::media::{Dropped, MediaId, Passage, Segment};

/// Items of a page at most.
const PAGE_ITEMS: i64 = 256;
/// Segments after which a page ends, so that the server sorts no more than this and a long item's.
const PAGE_SEGMENTS: i64 = 10_000;

/// A day, or a while ago by the database's clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Since {
    /// The beginning of this day, UTC.
    Day(NaiveDate),
    /// So many seconds before now.
    Ago(f64),
}

/// Which transcripts to read. What is empty or absent is not asked; of several values any will do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// These items.
    pub media: Vec<MediaId>,
    /// A part of the channel's or uploader's name, case and accents aside.
    pub channels: Vec<String>,
    /// Published then or later; where nobody knows when, found then or later.
    pub after: Option<Since>,
    /// Published (or found) before.
    pub before: Option<Since>,
    /// Language codes: items in which something is said in one of them.
    pub languages: Vec<String>,
    /// Of these items all that was said, also in other languages.
    pub whole_items: bool,
}

impl Choice {
    /// Languages of which single segments and passages must be.
    fn languages_within(&self) -> Vec<String> {
        if self.whole_items { Vec::new() } else { self.languages.clone() }
    }
}

/// A library at a moment. Nothing is kept from being written or removed meanwhile; what is, is not seen here.
pub struct Reading {
    tx: Transaction<'static, Postgres>,
    choice: Choice,
    /// Where the next page begins.
    after: Option<(DateTime<Utc>, Uuid)>,
    /// Read, and not yet in a page.
    ahead: Vec<MediaRow>,
    /// The server's process.
    backend: i32,
}

/// A row of a passage with its vector.
#[derive(Clone, Debug, PartialEq)]
pub struct PassageRow {
    /// The item.
    pub media_id: MediaId,
    /// Its number in the item.
    pub seq: i32,
    /// Itself.
    pub passage: Passage,
    /// Its vector; empty where it has none or none was asked for.
    pub vector: Vec<f32>,
}

impl Store {
    /// Begins to read what `choice` names: items that have a transcript, also those that are being done again.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn read_all(&self, choice: Choice) -> Result<Reading, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *tx).await?;
        // Who takes the rows may be slow (a pipe to a pager), and no lock is held that anybody waits for.
        sqlx::query("SET LOCAL idle_in_transaction_session_timeout = 0").execute(&mut *tx).await?;
        // A page is sorted in memory.
        sqlx::query("SET LOCAL work_mem = '32MB'").execute(&mut *tx).await?;
        let backend = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *tx).await?;
        Ok(Reading { tx, choice, after: None, ahead: Vec::new(), backend })
    }

    /// Ends what the server is still doing for a [`Reading`] that was dropped; it would keep its connection busy, and who
    /// closes the store waiting.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn stop_reading(&self, backend: i32) -> Result<(), StoreError> {
        sqlx::query("SELECT pg_cancel_backend($1)").bind(backend).execute(&self.pool).await?;
        Ok(())
    }
}

impl Reading {
    /// For [`Store::stop_reading`].
    pub fn backend(&self) -> i32 {
        self.backend
    }

    /// The next items, in the order of discovery; empty after the last.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn page(&mut self) -> Result<Vec<MediaRow>, StoreError> {
        if self.ahead.is_empty() {
            self.ahead = self.fetch().await?;
            self.ahead.reverse();
        }
        let (mut page, mut segments) = (Vec::new(), 0);
        while segments < PAGE_SEGMENTS
            && let Some(row) = self.ahead.pop()
        {
            segments += i64::from(row.segments.unwrap_or(0));
            page.push(row);
        }
        Ok(page)
    }

    async fn fetch(&mut self) -> Result<Vec<MediaRow>, StoreError> {
        let Choice { media, channels, after, before, languages, whole_items: _ } = &self.choice;
        // Languages are asked of what is inside as well: an item may hold several.
        let sql = format!(
            "SELECT {COLUMNS} FROM media m
             WHERE m.segments IS NOT NULL
               AND ($1::timestamptz IS NULL OR (m.discovered_at, m.media_id) > ($1, $2))
               AND (cardinality($3::uuid[]) = 0 OR m.media_id = ANY($3))
               AND (cardinality($4::text[]) = 0 OR EXISTS (
                     SELECT FROM unnest($4) AS name WHERE position(spoken_fold(name) IN spoken_fold(m.channel)) > 0))
               AND ($5::date IS NULL OR coalesce(m.published_at, m.discovered_at) >= $5::timestamp AT TIME ZONE 'UTC')
               AND ($6::float8 IS NULL OR coalesce(m.published_at, m.discovered_at) >= now() - make_interval(secs => $6))
               AND ($7::date IS NULL OR coalesce(m.published_at, m.discovered_at) < $7::timestamp AT TIME ZONE 'UTC')
               AND ($8::float8 IS NULL OR coalesce(m.published_at, m.discovered_at) < now() - make_interval(secs => $8))
               AND (cardinality($9::text[]) = 0 OR m.language = ANY($9) OR EXISTS (
                     SELECT FROM segments s WHERE s.media_id = m.media_id AND s.model_id = m.model
                       AND s.language = ANY($9)))
             ORDER BY m.discovered_at, m.media_id
             LIMIT {PAGE_ITEMS}"
        );
        let (after_day, after_ago) = parts(*after);
        let (before_day, before_ago) = parts(*before);
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(self.after.map(|(time, _)| time))
            .bind(self.after.map(|(_, id)| id))
            .bind(media.iter().map(|id| id.0).collect::<Vec<_>>())
            .bind(channels.iter().map(|c| super::clean(c).into_owned()).collect::<Vec<_>>())
            .bind(after_day)
            .bind(after_ago)
            .bind(before_day)
            .bind(before_ago)
            .bind(languages)
            .fetch_all(&mut *self.tx)
            .await?;
        let rows: Vec<MediaRow> = rows.iter().map(MediaRow::read).collect::<Result<_, _>>()?;
        if let Some(last) = rows.last() {
            self.after = Some((last.discovered_at, last.media_id.0));
        }
        Ok(rows)
    }

    /// The segments of `page`, item by item in its order, each with its number. Their words only with `words`.
    pub fn segments(
        &mut self,
        page: &[MediaRow],
        words: bool,
    ) -> BoxStream<'_, Result<(MediaId, i32, Segment), StoreError>> {
        type Words = Option<Json<Vec<account::WordRow>>>;
        type Columns = (Uuid, i32, i64, i64, String, String, f32, f32, Words, Option<String>);
        let sql = format!(
            "SELECT media_id, seq, start_ms, end_ms, text, language, avg_logprob, no_speech_prob, {}, speaker
             FROM segments WHERE {}",
            if words { "words" } else { "NULL::jsonb" },
            OF_PAGE
        );
        let (ids, models) = keys(page);
        sqlx::query_as::<_, Columns>(AssertSqlSafe(sql))
            .bind(ids)
            .bind(models)
            .bind(self.choice.languages_within())
            .fetch(&mut *self.tx)
            .map_ok(|row| {
                let (
                    media_id,
                    seq,
                    start_ms,
                    end_ms,
                    text,
                    language,
                    avg_logprob,
                    no_speech_prob,
                    words,
                    speaker,
                ) = row;
                let words = account::words(words);
                let segment =
                    Segment { start_ms, end_ms, text, language, avg_logprob, no_speech_prob, words, speaker };
                (MediaId(media_id), seq, segment)
            })
            .map_err(StoreError::from)
            .boxed()
    }

    /// What a model wrote about an item and was not believed; see [`Store::dropped`].
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn dropped(&mut self, media_id: MediaId) -> Result<Vec<Dropped>, StoreError> {
        let stored: Option<Option<serde_json::Value>> =
            sqlx::query_scalar("SELECT dropped FROM media WHERE media_id = $1")
                .bind(media_id.0)
                .fetch_optional(&mut *self.tx)
                .await?;
        Ok(account::dropped(stored.flatten()))
    }

    /// The passages of `page`, likewise. With `vectors`, each with the vector that the item's embedding model made.
    ///
    /// # Errors
    /// [`StoreError::Database`], where the tables of vectors cannot be told.
    pub async fn passages(
        &mut self,
        page: &[MediaRow],
        vectors: bool,
    ) -> Result<BoxStream<'_, Result<PassageRow, StoreError>>, StoreError> {
        type Columns = (Uuid, i32, i64, i64, i32, i32, String, String, Option<pgvector::HalfVector>);
        let mut tables: Vec<(String, String)> = Vec::new();
        if vectors {
            let mut models: Vec<&str> = page.iter().filter_map(|m| m.embedding_model.as_deref()).collect();
            models.sort_unstable();
            models.dedup();
            tables = sqlx::query_as(
                "SELECT table_name, model_id FROM embedding_models WHERE model_id = ANY($1) ORDER BY table_name",
            )
            .bind(&models)
            .fetch_all(&mut *self.tx)
            .await?;
        }
        // There may be vectors of several models side by side; those of the item's own count.
        let (mut joins, mut vector) = (String::new(), "NULL::halfvec".to_owned());
        for (n, (table, _)) in tables.iter().enumerate() {
            joins.push_str(&format!(" LEFT JOIN {table} v{n} USING (media_id, seq)"));
            vector.push_str(&format!(
                ", CASE WHEN ($4::text[])[array_position($1, media_id)] = ($5::text[])[{}] THEN v{n}.embedding::halfvec END",
                n + 1
            ));
        }
        let embedded_by: Vec<String> =
            page.iter().map(|m| m.embedding_model.clone().unwrap_or_default()).collect();
        let known: Vec<String> = tables.into_iter().map(|(_, model)| model).collect();
        let sql = format!(
            "SELECT media_id, seq, start_ms, end_ms, first_segment, end_segment, text, language, coalesce({vector})
             FROM passages{joins} WHERE {OF_PAGE}"
        );
        let (ids, models) = keys(page);
        Ok(sqlx::query_as::<_, Columns>(AssertSqlSafe(sql))
            .bind(ids)
            .bind(models)
            .bind(self.choice.languages_within())
            .bind(embedded_by)
            .bind(known)
            .fetch(&mut *self.tx)
            .map_ok(|row| {
                let (media_id, seq, start_ms, end_ms, first, end, text, language, vector) = row;
                let number = |segment: i32| usize::try_from(segment).unwrap_or(0);
                let passage = Passage {
                    start_ms,
                    end_ms,
                    text,
                    language,
                    first_segment: number(first),
                    end_segment: number(end),
                };
                let vector =
                    vector.map_or_else(Vec::new, |v| v.to_vec().iter().map(|x| x.to_f32()).collect());
                PassageRow { media_id: MediaId(media_id), seq, passage, vector }
            })
            .map_err(StoreError::from)
            .boxed())
    }
}

/// Rows of the items $1 with the models $2 and the languages $3, in the order of $1. What another model left beside the
/// item's own is not part of its transcript.
const OF_PAGE: &str = "media_id = ANY($1) AND model_id = ($2::text[])[array_position($1, media_id)]
       AND (cardinality($3::text[]) = 0 OR language = ANY($3))
     ORDER BY array_position($1, media_id), seq";

fn keys(page: &[MediaRow]) -> (Vec<Uuid>, Vec<String>) {
    page.iter().map(|row| (row.media_id.0, row.model.clone().unwrap_or_default())).unzip()
}

fn parts(since: Option<Since>) -> (Option<NaiveDate>, Option<f64>) {
    match since {
        None => (None, None),
        Some(Since::Day(day)) => (Some(day), None),
        Some(Since::Ago(seconds)) => (None, Some(seconds)),
    }
}

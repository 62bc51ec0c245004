//! Reading: counts, listings, one item, its segments.

use std::path::Path;

use chrono::{DateTime, Utc};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::{Store, StoreError, account, clean, locator, text_key};
use crate::media::{Coverage, Dropped, FailureClass, Flag, Locator, MediaId, Segment, State};

/// Most rows that [`Store::find`] returns.
const FIND_LIMIT: i64 = 50;

pub(super) const COLUMNS: &str = "media_id, extractor, source_id, locator, source, webpage_url, title, channel, published_at, \
     state, generation, attempts, crashes, retry_at, error_class, error, remedy, duration_ms, speech_ms, language, \
     model, embedding_model, segments, coverage, dropped_count, worker, discovered_at, started_at, finished_at, updated_at";

/// Items in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Waiting.
    pub queued: i64,
    /// Being worked on.
    pub active: i64,
    /// Stored.
    pub done: i64,
    /// Given up.
    pub failed: i64,
}

/// Everything known about an item, except what was said in it. Text is untrusted.
#[derive(Clone, Debug, PartialEq)]
pub struct MediaRow {
    /// Identity.
    pub media_id: MediaId,
    /// See [`crate::media::Item::extractor`].
    pub extractor: String,
    /// The extractor's id.
    pub source_id: String,
    /// What is fetched.
    pub locator: Locator,
    /// What the user gave or a list named: an address or a path.
    pub source: String,
    /// The page that fetching found.
    pub webpage_url: Option<String>,
    /// Title.
    pub title: String,
    /// Channel or uploader.
    pub channel: Option<String>,
    /// When it was published.
    pub published_at: Option<DateTime<Utc>>,
    /// Where it stands.
    pub state: State,
    /// Counts retries by a person.
    pub generation: i32,
    /// Attempts since.
    pub attempts: i32,
    /// Attempts that ended with their process.
    pub crashes: i32,
    /// Not before this time.
    pub retry_at: Option<DateTime<Utc>>,
    /// What failed last.
    pub error_class: Option<FailureClass>,
    /// In words.
    pub error: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Length of the audio; before it is done, as the site states it.
    pub duration_ms: Option<i64>,
    /// Length of the speech.
    pub speech_ms: Option<i64>,
    /// The language of most of the speech.
    pub language: Option<String>,
    /// Whisper model of the segments.
    pub model: Option<String>,
    /// Model of the vectors.
    pub embedding_model: Option<String>,
    /// Number of segments.
    pub segments: Option<i32>,
    /// Speech heard against speech written down; none before it is done, and for items of early releases.
    pub coverage: Option<Coverage>,
    /// Pieces of text that were not believed; [`Store::dropped`] has them.
    pub dropped: i32,
    /// Who claimed it last.
    pub worker: Option<String>,
    /// When it was first found.
    pub discovered_at: DateTime<Utc>,
    /// When it was last claimed.
    pub started_at: Option<DateTime<Utc>>,
    /// When it was done or given up.
    pub finished_at: Option<DateTime<Utc>>,
    /// When anything last changed.
    pub updated_at: DateTime<Utc>,
}

impl MediaRow {
    /// What a link should open: the page, else the source.
    pub fn address(&self) -> &str {
        self.webpage_url.as_deref().unwrap_or(&self.source)
    }

    /// What looks wrong with the transcript; empty until there is one.
    pub fn flags(&self) -> &[Flag] {
        let done = self.coverage.as_ref().filter(|_| self.state == State::Done);
        done.map_or(&[], |coverage| &coverage.flags)
    }

    pub(super) fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        let at: serde_json::Value = row.try_get("locator")?;
        Ok(Self {
            media_id: MediaId(row.try_get("media_id")?),
            extractor: row.try_get("extractor")?,
            source_id: row.try_get("source_id")?,
            locator: locator::from_json(&at).map_err(|e| sqlx::Error::Decode(e.into()))?,
            source: row.try_get("source")?,
            webpage_url: row.try_get("webpage_url")?,
            title: row.try_get("title")?,
            channel: row.try_get("channel")?,
            published_at: row.try_get("published_at")?,
            state: state(row.try_get("state")?)?,
            generation: row.try_get("generation")?,
            attempts: row.try_get("attempts")?,
            crashes: row.try_get("crashes")?,
            retry_at: row.try_get("retry_at")?,
            error_class: row.try_get::<Option<&str>, _>("error_class")?.map(class),
            error: row.try_get("error")?,
            remedy: row.try_get("remedy")?,
            duration_ms: row.try_get("duration_ms")?,
            speech_ms: row.try_get("speech_ms")?,
            language: row.try_get("language")?,
            model: row.try_get("model")?,
            embedding_model: row.try_get("embedding_model")?,
            segments: row.try_get("segments")?,
            coverage: account::coverage(row.try_get("coverage")?),
            dropped: row.try_get("dropped_count")?,
            worker: row.try_get("worker")?,
            discovered_at: row.try_get("discovered_at")?,
            started_at: row.try_get("started_at")?,
            finished_at: row.try_get("finished_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}

/// Which items to list; the default is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemFilter {
    /// Only those in this state.
    pub state: Option<State>,
    /// Only those found after this one (its time of discovery and id): the next page.
    pub after: Option<(DateTime<Utc>, MediaId)>,
    /// At most so many.
    pub limit: Option<u32>,
}

impl Store {
    /// Items in each state.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT state, count(*) FROM media GROUP BY state").fetch_all(&self.pool).await?;
        let mut counts = Counts::default();
        for (name, n) in rows {
            match state(&name)? {
                State::Queued => counts.queued = n,
                State::Active => counts.active = n,
                State::Done => counts.done = n,
                State::Failed => counts.failed = n,
            }
        }
        Ok(counts)
    }

    /// Items in order of discovery, as they come from the server.
    pub fn items(&self, filter: &ItemFilter) -> BoxStream<'_, Result<MediaRow, StoreError>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM media
             WHERE ($1::text IS NULL OR state = $1)
               AND ($2::timestamptz IS NULL OR (discovered_at, media_id) > ($2, $3))
             ORDER BY discovered_at, media_id
             LIMIT $4"
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(filter.state.map(State::as_str))
            .bind(filter.after.map(|(time, _)| time))
            .bind(filter.after.map(|(_, id)| id.0))
            .bind(filter.limit.map(i64::from))
            .fetch(&self.pool)
            .map(|row| Ok(MediaRow::read(&row?)?))
            .boxed()
    }

    /// The item with this id.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn media(&self, media_id: MediaId) -> Result<Option<MediaRow>, StoreError> {
        let found = self.query("media_id = $1", |q| q.bind(media_id.0)).await?;
        Ok(found.into_iter().next())
    }

    /// The items with these ids, in no order; those that are not known are missing.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn media_many(&self, ids: &[MediaId]) -> Result<Vec<MediaRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM media WHERE media_id = ANY($1)");
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(ids).fetch_all(&self.pool).await?;
        Ok(rows.iter().map(MediaRow::read).collect::<Result<_, _>>()?)
    }

    /// The items a person may mean by `what`, up to 50: its id; else its address or path, as given, listed or found
    /// by fetching, or the site's own id; else the start of its id (four digits or more) or a part of its title,
    /// case and accents aside. More than one: let the person choose.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn find(&self, what: &str) -> Result<Vec<MediaRow>, StoreError> {
        let what = clean(what.trim()).into_owned();
        if what.is_empty() {
            return Ok(Vec::new());
        }
        if let Ok(id) = what.parse::<MediaId>()
            && let Some(row) = self.media(id).await?
        {
            return Ok(vec![row]);
        }
        let names = spellings(&what);
        let keys: Vec<Uuid> = names.iter().map(|name| text_key(name.as_bytes())).collect();
        let found = self.query("source = ANY($1) OR webpage_url = ANY($1)", |q| q.bind(&names)).await?;
        if !found.is_empty() {
            return Ok(found);
        }
        let found = self
            .query(
                "source_id = $2 OR media_id IN (SELECT media_id FROM media_sources WHERE source_key = ANY($1))",
                |q| q.bind(&keys).bind(&what),
            )
            .await?;
        if !found.is_empty() {
            return Ok(found);
        }
        let (low, high) = id_range(&what).unzip();
        self.query("media_id BETWEEN $2 AND $3 OR position(spoken_fold($1) IN spoken_fold(title)) > 0", |q| {
            q.bind(&what).bind(low).bind(high)
        })
        .await
    }

    async fn query<'q, F>(&self, condition: &str, bind: F) -> Result<Vec<MediaRow>, StoreError>
    where
        F: FnOnce(Query<'q>) -> Query<'q>,
    {
        let sql = format!(
            "SELECT {COLUMNS} FROM media WHERE {condition} ORDER BY discovered_at, media_id LIMIT {FIND_LIMIT}"
        );
        let rows = bind(sqlx::query(AssertSqlSafe(sql))).fetch_all(&self.pool).await?;
        Ok(rows.iter().map(MediaRow::read).collect::<Result<_, _>>()?)
    }

    /// The stored segments of an item in order, as they come from the server. Empty until it is done.
    pub fn segments(&self, media_id: MediaId) -> BoxStream<'_, Result<Segment, StoreError>> {
        type Columns =
            (i64, i64, String, String, f32, f32, Option<Json<Vec<account::WordRow>>>, Option<String>);
        sqlx::query_as::<_, Columns>(
            "SELECT start_ms, end_ms, text, language, avg_logprob, no_speech_prob, words, speaker
             FROM segments WHERE media_id = $1 ORDER BY model_id, seq",
        )
        .bind(media_id.0)
        .fetch(&self.pool)
        .map_ok(|(start_ms, end_ms, text, language, avg_logprob, no_speech_prob, words, speaker)| Segment {
            start_ms,
            end_ms,
            text,
            language,
            avg_logprob,
            no_speech_prob,
            words: account::words(words),
            speaker,
        })
        .map_err(StoreError::from)
        .boxed()
    }

    /// What a model wrote about an item and was not believed, in order of time; of very many only the first thousand.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn dropped(&self, media_id: MediaId) -> Result<Vec<Dropped>, StoreError> {
        let stored: Option<Option<serde_json::Value>> =
            sqlx::query_scalar("SELECT dropped FROM media WHERE media_id = $1")
                .bind(media_id.0)
                .fetch_optional(&self.pool)
                .await?;
        Ok(account::dropped(stored.flatten()))
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// The ways `what` may have been written when it was noted: as it is, as a normalised address, as a full path.
pub(crate) fn spellings(what: &str) -> Vec<String> {
    let mut names = vec![what.to_owned()];
    if let Ok(url) = what.parse::<url::Url>() {
        if url.scheme() == "file" {
            names.extend(url.to_file_path().ok().map(|p| p.to_string_lossy().into_owned()));
        }
        names.push(url.into());
    }
    if let Ok(path) = Path::new(what).canonicalize() {
        names.push(path.to_string_lossy().into_owned());
    }
    names.dedup();
    names
}

/// First and last id that start with these hexadecimal digits (at least four; hyphens aside).
fn id_range(what: &str) -> Option<(Uuid, Uuid)> {
    let digits: String = what.chars().filter(|c| *c != '-').collect();
    if !(4..=32).contains(&digits.len()) || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let fill =
        |with: char| Uuid::try_parse(&format!("{digits}{}", with.to_string().repeat(32 - digits.len())));
    Some((fill('0').ok()?, fill('f').ok()?))
}

pub(super) fn state(name: &str) -> Result<State, sqlx::Error> {
    name.parse().map_err(|e: String| sqlx::Error::Decode(e.into()))
}

/// A class that a later release wrote is shown as [`FailureClass::Internal`]; its message still says what happened.
pub(super) fn class(name: &str) -> FailureClass {
    serde_json::from_value(name.into()).unwrap_or(FailureClass::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_be_shortened() {
        let (low, high) = id_range("6f1d-2C").unwrap();
        assert_eq!(low.to_string(), "6f1d2c00-0000-0000-0000-000000000000");
        assert_eq!(high.to_string(), "6f1d2cff-ffff-ffff-ffff-ffffffffffff");
        assert!(id_range("6f1").is_none());
        assert!(id_range("6f1d-xyz").is_none());
        assert!(id_range(&"a".repeat(33)).is_none());
    }

    #[test]
    fn every_class_is_read_back() {
        assert_eq!(class(FailureClass::NotMedia.as_str()), FailureClass::NotMedia);
        assert_eq!(class(FailureClass::GeoBlocked.as_str()), FailureClass::GeoBlocked);
        assert_eq!(class("from the future"), FailureClass::Internal);
    }
}

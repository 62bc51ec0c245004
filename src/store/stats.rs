//! The library in figures.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{AssertSqlSafe, Postgres, Transaction};

use super::{Counts, Store, StoreError};

/// Runs that are told.
const RUNS: i64 = 5;
/// Nothing finished for so long, and what is next belongs to another run.
const BETWEEN_RUNS: &str = "10 minutes";
/// Names of each kind that are told; the others are added up.
const NAMES: usize = 12;

/// A library at a moment. Names are untrusted text; times are the database's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// When this was.
    pub at: DateTime<Utc>,
    /// Items in each state.
    pub items: Counts,
    /// What the transcripts come to.
    pub totals: Totals,
    /// By the language of most of an item's speech, most audio first.
    pub languages: Vec<Share>,
    /// By the site (`youtube`), or `file`, `url`, …
    pub sources: Vec<Share>,
    /// By channel or uploader.
    pub channels: Vec<Share>,
    /// By what transcribed them.
    pub models: Vec<Share>,
    /// Items given up, by class, most first.
    pub failures: Vec<Failed>,
    /// Text that the model itself was not sure of.
    pub doubtful: Doubtful,
    /// Room on the database's disk.
    pub storage: Storage,
    /// The latest runs, told by when items were begun and finished, latest first.
    pub runs: Vec<Ran>,
    /// What was finished when, in order; empty where nothing was.
    pub activity: Vec<Bucket>,
    /// How long a bucket of `activity` is.
    pub unit: Unit,
}

/// Sums over everything that has a transcript.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Totals {
    /// Items with a transcript.
    pub transcripts: i64,
    /// Length of the audio.
    pub audio_ms: i64,
    /// Detected speech.
    pub speech_ms: i64,
    /// Detected speech that has text.
    pub transcribed_ms: i64,
    /// Words (characters, in scripts without spaces).
    pub words: i64,
    /// Segments.
    pub segments: i64,
    /// Pieces of text that were not believed.
    pub dropped: i64,
    /// Items that look incomplete.
    pub flagged: i64,
}

/// What belongs to one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Share {
    /// Its name; none for what has none, and (last) for all names that are not listed.
    pub name: Option<String>,
    /// Items with a transcript.
    pub items: i64,
    /// Length of their audio.
    pub audio_ms: i64,
    /// Words in them.
    pub words: i64,
    /// Names that are not listed and added up here; 0 for a name of its own.
    pub others: i64,
}

/// Items that were given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Failed {
    /// The class of their failure.
    pub class: String,
    /// How many.
    pub items: i64,
}

/// Text whose mean log-probability is low.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Doubtful {
    /// Below this.
    pub avg_logprob: f64,
    /// Segments.
    pub segments: i64,
    /// Passages with such a segment.
    pub passages: i64,
    /// Passages in all.
    pub of_passages: i64,
    /// Items with such a segment.
    pub items: i64,
}

/// Bytes, indexes included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Storage {
    /// The whole database.
    pub database: i64,
    /// Segments and passages.
    pub text: i64,
    /// Vectors, by the model that made them.
    pub vectors: Vec<Vectors>,
}

/// The vectors of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Vectors {
    /// The model.
    pub model: String,
    /// Elements of each.
    pub dimension: i32,
    /// Bytes, indexes included.
    pub bytes: i64,
}

/// Items that were worked on without a long pause between them.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct Ran {
    /// When the first was begun.
    pub started_at: DateTime<Utc>,
    /// When the last was finished.
    pub finished_at: DateTime<Utc>,
    /// How many were finished.
    pub items: i64,
    /// Length of their audio.
    pub audio_ms: i64,
    /// How long it took.
    pub wall_ms: i64,
}

impl Ran {
    /// Audio an hour ÷ an hour; none for what took no time.
    pub fn speed(&self) -> Option<f64> {
        (self.wall_ms > 0).then(|| self.audio_ms as f64 / self.wall_ms as f64)
    }
}

/// What was finished in a stretch of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Bucket {
    /// Its beginning.
    pub from: DateTime<Utc>,
    /// Items finished.
    pub items: i64,
    /// Length of their audio.
    pub audio_ms: i64,
}

/// Lengths of buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Hours.
    Hour,
    /// Days, UTC.
    #[default]
    Day,
    /// Weeks from Monday.
    Week,
    /// Months.
    Month,
    /// Years.
    Year,
}

impl Unit {
    /// PostgreSQL's name for it, and people's.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// The shortest of which no more than `most` fit into so many seconds; never hours for more than two days.
    fn within(seconds: f64, most: usize) -> Self {
        let fits = |length: f64| seconds / length + 2.0 <= most.max(4) as f64;
        match () {
            () if seconds <= 48.0 * 3_600.0 && fits(3_600.0) => Self::Hour,
            () if fits(86_400.0) => Self::Day,
            () if fits(7.0 * 86_400.0) => Self::Week,
            () if fits(28.0 * 86_400.0) => Self::Month,
            () => Self::Year,
        }
    }
}

/// What makes [`Share::name`].
#[derive(Clone, Copy)]
enum By {
    Language,
    Extractor,
    Channel,
    Model,
}

impl By {
    fn column(self) -> &'static str {
        match self {
            Self::Language => "language",
            Self::Extractor => "extractor",
            Self::Channel => "channel",
            Self::Model => "model",
        }
    }
}

impl Store {
    /// The library in figures, all of one moment. `doubtful_below` is the mean log-probability from which text counts as
    /// believed, `buckets` how many stretches of time the activity may have. Reads every segment once.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn stats(&self, doubtful_below: f64, buckets: usize) -> Result<Stats, StoreError> {
        let items = self.counts().await?;
        let mut tx = self.pool.begin().await?;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *tx).await?;
        let at = sqlx::query_scalar("SELECT now()").fetch_one(&mut *tx).await?;
        let totals = sqlx::query_as(
            "SELECT count(*) AS transcripts, coalesce(sum(duration_ms), 0)::bigint AS audio_ms,
                 coalesce(sum(speech_ms), 0)::bigint AS speech_ms,
                 coalesce(sum((coverage ->> 'transcribed_ms')::bigint), 0)::bigint AS transcribed_ms,
                 coalesce(sum((coverage ->> 'words')::bigint), 0)::bigint AS words,
                 coalesce(sum(segments), 0)::bigint AS segments,
                 coalesce(sum(dropped_count), 0)::bigint AS dropped,
                 count(*) FILTER (WHERE flags <> '{}') AS flagged
             FROM media WHERE segments IS NOT NULL",
        )
        .fetch_one(&mut *tx)
        .await?;
        let (unit, activity) = activity(&mut tx, buckets).await?;
        let stats = Stats {
            at,
            items,
            totals,
            languages: shares(&mut tx, By::Language).await?,
            sources: shares(&mut tx, By::Extractor).await?,
            channels: shares(&mut tx, By::Channel).await?,
            models: shares(&mut tx, By::Model).await?,
            failures: sqlx::query_as(
                "SELECT coalesce(error_class, 'internal') AS class, count(*) AS items FROM media
                 WHERE state = 'failed' GROUP BY 1 ORDER BY 2 DESC, 1",
            )
            .fetch_all(&mut *tx)
            .await?,
            doubtful: doubtful(&mut tx, doubtful_below).await?,
            storage: storage(&mut tx).await?,
            runs: runs(&mut tx).await?,
            activity,
            unit,
        };
        tx.rollback().await?;
        Ok(stats)
    }
}

async fn shares(tx: &mut Transaction<'_, Postgres>, by: By) -> Result<Vec<Share>, StoreError> {
    let sql = format!(
        "SELECT {} AS name, count(*) AS items, coalesce(sum(duration_ms), 0)::bigint AS audio_ms,
             coalesce(sum((coverage ->> 'words')::bigint), 0)::bigint AS words, 0::bigint AS others
         FROM media WHERE segments IS NOT NULL GROUP BY 1 ORDER BY 3 DESC, 2 DESC, 1",
        by.column()
    );
    let mut shares: Vec<Share> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut **tx).await?;
    if shares.len() > NAMES {
        let rest = shares.split_off(NAMES - 1);
        let sum = |of: fn(&Share) -> i64| rest.iter().map(of).sum();
        shares.push(Share {
            name: None,
            items: sum(|s| s.items),
            audio_ms: sum(|s| s.audio_ms),
            words: sum(|s| s.words),
            others: rest.len() as i64,
        });
    }
    Ok(shares)
}

async fn doubtful(tx: &mut Transaction<'_, Postgres>, below: f64) -> Result<Doubtful, StoreError> {
    // Text that captions stand for has no probability of its own: 0 is not below anything that is asked for.
    let (segments, items, passages, of_passages): (i64, i64, i64, i64) = sqlx::query_as(
        "WITH low AS MATERIALIZED (
             SELECT media_id, model_id, seq FROM segments WHERE avg_logprob < $1
         )
         SELECT (SELECT count(*) FROM low), (SELECT count(DISTINCT media_id) FROM low),
             (SELECT count(*) FROM (
                 SELECT DISTINCT p.media_id, p.model_id, p.seq FROM low
                 JOIN passages p ON p.media_id = low.media_id AND p.model_id = low.model_id
                     AND p.first_segment <= low.seq AND p.end_segment > low.seq) d),
             (SELECT count(*) FROM passages)",
    )
    .bind(below as f32)
    .fetch_one(&mut **tx)
    .await?;
    Ok(Doubtful { avg_logprob: below, segments, passages, of_passages, items })
}

async fn storage(tx: &mut Transaction<'_, Postgres>) -> Result<Storage, StoreError> {
    let (database, text): (i64, i64) = sqlx::query_as(
        "SELECT pg_database_size(current_database()),
             pg_total_relation_size('segments') + pg_total_relation_size('passages')",
    )
    .fetch_one(&mut **tx)
    .await?;
    let vectors = sqlx::query_as(
        "SELECT model_id AS model, dimension, pg_total_relation_size(to_regclass(table_name)) AS bytes
         FROM embedding_models WHERE to_regclass(table_name) IS NOT NULL ORDER BY 3 DESC, 1, 2",
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(Storage { database, text, vectors })
}

async fn runs(tx: &mut Transaction<'_, Postgres>) -> Result<Vec<Ran>, StoreError> {
    // Nobody writes down when a run begins; the times of its items tell. (Items done again count once, with their last time.)
    let sql = format!(
        "WITH worked AS (
             SELECT started_at, finished_at, coalesce(duration_ms, 0) AS audio_ms FROM media
             WHERE state = 'done' AND started_at <= finished_at
         ), marked AS (
             SELECT *, CASE WHEN started_at > interval '{BETWEEN_RUNS}' + max(finished_at) OVER (
                 ORDER BY started_at, finished_at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) THEN 1 ELSE 0 END AS first
             FROM worked
         ), numbered AS (
             SELECT *, sum(first) OVER (ORDER BY started_at, finished_at) AS run FROM marked
         )
         SELECT min(started_at) AS started_at, max(finished_at) AS finished_at, count(*) AS items,
             sum(audio_ms)::bigint AS audio_ms,
             (extract(epoch FROM max(finished_at) - min(started_at)) * 1000)::bigint AS wall_ms
         FROM numbered GROUP BY run ORDER BY 1 DESC LIMIT {RUNS}"
    );
    Ok(sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut **tx).await?)
}

async fn activity(
    tx: &mut Transaction<'_, Postgres>,
    buckets: usize,
) -> Result<(Unit, Vec<Bucket>), StoreError> {
    let seconds: Option<f64> = sqlx::query_scalar(
        "SELECT extract(epoch FROM now() - min(finished_at))::float8 FROM media WHERE state = 'done'",
    )
    .fetch_one(&mut **tx)
    .await?;
    let Some(seconds) = seconds else { return Ok((Unit::default(), Vec::new())) };
    let unit = Unit::within(seconds, buckets);
    // Stretches in which nothing happened are part of the picture; it goes on until now.
    let rows = sqlx::query_as(
        "SELECT day AT TIME ZONE 'UTC' AS \"from\", count(m.media_id) AS items,
             coalesce(sum(m.duration_ms), 0)::bigint AS audio_ms
         FROM (SELECT generate_series(
                   date_trunc($1, (SELECT min(finished_at) FROM media WHERE state = 'done') AT TIME ZONE 'UTC'),
                   now() AT TIME ZONE 'UTC', ('1 ' || $1)::interval) AS day) days
         LEFT JOIN media m ON m.state = 'done' AND date_trunc($1, m.finished_at AT TIME ZONE 'UTC') = day
         GROUP BY day ORDER BY day",
    )
    .bind(unit.as_str())
    .fetch_all(&mut **tx)
    .await?;
    Ok((unit, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_as_short_as_fits() {
        let day = 86_400.0;
        assert_eq!(Unit::within(0.0, 60), Unit::Hour);
        assert_eq!(Unit::within(1.9 * day, 60), Unit::Hour);
        assert_eq!(Unit::within(1.9 * day, 20), Unit::Day);
        assert_eq!(Unit::within(50.0 * day, 60), Unit::Day);
        assert_eq!(Unit::within(100.0 * day, 60), Unit::Week);
        assert_eq!(Unit::within(1_000.0 * day, 60), Unit::Month);
        assert_eq!(Unit::within(10_000.0 * day, 60), Unit::Year);
    }
}

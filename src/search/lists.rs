//! The rankings, and what else a search reads.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::fusion::List;
use super::query::Query;
use super::scope::Scope;
use super::tsquery;
use super::words::words;
use super::{Mode, QueryVector, SearchError};
use crate::media::{Locator, MediaId};
use crate::store::Store;

/// What is fused: a passage, or a segment that belongs to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Unit {
    pub media_id: Uuid,
    /// Its segments: first ≤ seq < end.
    pub first: i32,
    pub end: i32,
}

/// An entry of a ranking.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub unit: Unit,
    /// The very segment, in rankings of segments.
    pub segment: Option<i32>,
}

/// A segment's text and time.
#[derive(Clone, Debug)]
pub(super) struct SegmentText {
    pub seq: i32,
    pub start_ms: i64,
    pub end_ms: i64,
    pub text: String,
    pub language: String,
}

/// An item, as a hit shows it.
pub(super) struct Heading {
    pub title: String,
    pub address: String,
    pub locator: Locator,
    pub channel: Option<String>,
    pub published_at: Option<DateTime<Utc>>,
}

/// Every ranking of what lies in `scope`.
pub(super) async fn fetch(
    store: &Store,
    query: &Query,
    mode: Mode,
    vector: Option<QueryVector<'_>>,
    scope: &Scope,
    depth: usize,
) -> Result<Vec<(List, Vec<Candidate>)>, SearchError> {
    let pool = store.pool();
    let depth = depth as i64;
    let queries = tsquery::ts_queries(pool, query).await?;
    let filter = if query.strict { queries.everything.as_deref() } else { queries.without.as_deref() };
    let by_vector = async {
        let Some(QueryVector { model, vector }) = vector else { return Ok(Vec::new()) };
        match store.embedding_table(model).await? {
            Some(table) => nearest(pool, &table, vector, filter, scope, depth).await,
            None => Ok(Vec::new()),
        }
    };
    if mode == Mode::Semantic {
        return Ok(vec![(List::Near, by_vector.await?)]);
    }
    let phrase = queries.phrase.as_deref().filter(|_| !query.strict && query.words.len() > 1);
    let all = queries.everything.as_deref();
    let any = queries.anything.as_deref().filter(|_| !query.strict);
    let (phrase_s, phrase_p, all_s, all_p, any_s, any_p, near) = futures::try_join!(
        segments(pool, phrase, Rank::Short, scope, depth),
        passages(pool, phrase, Rank::Short, scope, depth),
        segments(pool, all, Rank::Close, scope, depth),
        passages(pool, all, Rank::Close, scope, depth),
        segments(pool, any, Rank::Many, scope, depth),
        passages(pool, any, Rank::Many, scope, depth),
        by_vector,
    )?;
    Ok(vec![
        (List::Phrase, phrase_s),
        (List::Phrase, phrase_p),
        (List::All, all_s),
        (List::All, all_p),
        (List::Any, any_s),
        (List::Any, any_p),
        (List::Near, near),
    ])
}

/// What makes a text rank high.
#[derive(Clone, Copy)]
enum Rank {
    /// The words and little else.
    Short,
    /// The words close to each other.
    Close,
    /// Many of the words, often.
    Many,
}

impl Rank {
    /// Normalisation 1 and 2 divide by the logarithm of the length and by the length:
    /// <https://www.postgresql.org/docs/current/textsearch-controls.html#TEXTSEARCH-RANKING>
    fn sql(self) -> &'static str {
        match self {
            Self::Short => "ts_rank_cd(tsv, $1::text::tsquery, 2)",
            Self::Close => "ts_rank_cd(tsv, $1::text::tsquery, 1)",
            Self::Many => "ts_rank(tsv, $1::text::tsquery, 1)",
        }
    }
}

/// The condition that a row of `table` (its alias and a dot, or nothing) lies in a scope, whose items and languages are the
/// parameters `first` and the next.
fn scoped(table: &str, first: usize) -> String {
    let second = first + 1;
    format!(
        "(${first}::uuid[] IS NULL OR {table}media_id = ANY(${first}))
             AND (cardinality(${second}::text[]) = 0 OR {table}language = ANY(${second}))"
    )
}

async fn segments(
    pool: &PgPool,
    query: Option<&str>,
    rank: Rank,
    scope: &Scope,
    depth: i64,
) -> Result<Vec<Candidate>, SearchError> {
    let Some(query) = query else { return Ok(Vec::new()) };
    let sql = format!(
        "SELECT s.media_id, s.seq, coalesce(p.first_segment, s.seq), coalesce(p.end_segment, s.seq + 1)
         FROM (
             SELECT media_id, model_id, seq, {} AS rank FROM segments
             WHERE tsv @@ $1::text::tsquery AND {}
             ORDER BY rank DESC, media_id, seq LIMIT $2
         ) s
         LEFT JOIN LATERAL (
             SELECT first_segment, end_segment FROM passages p
             WHERE p.media_id = s.media_id AND p.model_id = s.model_id
               AND p.first_segment <= s.seq AND p.end_segment > s.seq
             ORDER BY p.seq LIMIT 1
         ) p ON true
         ORDER BY s.rank DESC, s.media_id, s.seq",
        rank.sql(),
        scoped("", 3)
    );
    let rows: Vec<(Uuid, i32, i32, i32)> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(query)
        .bind(depth)
        .bind(scope.media.as_deref())
        .bind(&scope.languages)
        .fetch_all(pool)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(media_id, seq, first, end)| Candidate {
            unit: Unit { media_id, first, end },
            segment: Some(seq),
        })
        .collect())
}

async fn passages(
    pool: &PgPool,
    query: Option<&str>,
    rank: Rank,
    scope: &Scope,
    depth: i64,
) -> Result<Vec<Candidate>, SearchError> {
    let Some(query) = query else { return Ok(Vec::new()) };
    let sql = format!(
        "SELECT media_id, first_segment, end_segment FROM passages
         WHERE tsv @@ $1::text::tsquery AND {}
         ORDER BY {} DESC, media_id, seq LIMIT $2",
        scoped("", 3),
        rank.sql()
    );
    let rows = sqlx::query_as(AssertSqlSafe(sql))
        .bind(query)
        .bind(depth)
        .bind(scope.media.as_deref())
        .bind(&scope.languages)
        .fetch_all(pool)
        .await?;
    Ok(units(rows))
}

fn units(rows: Vec<(Uuid, i32, i32)>) -> Vec<Candidate> {
    rows.into_iter()
        .map(|(media_id, first, end)| Candidate { unit: Unit { media_id, first, end }, segment: None })
        .collect()
}

/// The nearest passages by cosine distance, every vector compared; of those that `filter` lets pass.
async fn nearest(
    pool: &PgPool,
    table: &str,
    vector: &[f32],
    filter: Option<&str>,
    scope: &Scope,
    depth: i64,
) -> Result<Vec<Candidate>, SearchError> {
    // The sub-select is evaluated once; a cast in the ORDER BY may be, for every row.
    let distance = "embedding <=> (SELECT $1::text::halfvec)";
    let sql = if filter.is_some() || scope.media.is_some() || !scope.languages.is_empty() {
        format!(
            "SELECT p.media_id, p.first_segment, p.end_segment
             FROM {table} e JOIN passages p USING (media_id, seq)
             WHERE ($3::text IS NULL OR p.tsv @@ $3::text::tsquery) AND {}
             ORDER BY {distance}, media_id, seq LIMIT $2",
            scoped("p.", 4)
        )
    } else {
        format!(
            "SELECT p.media_id, p.first_segment, p.end_segment
             FROM (
                 SELECT media_id, seq, {distance} AS distance FROM {table}
                 ORDER BY distance LIMIT $2
             ) e
             JOIN passages p USING (media_id, seq)
             WHERE $3::text IS NULL AND $4::uuid[] IS NULL AND cardinality($5::text[]) = 0
             ORDER BY e.distance, media_id, seq"
        )
    };
    let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
    let rows = sqlx::query_as(AssertSqlSafe(sql))
        .bind(format!("[{}]", numbers.join(",")))
        .bind(depth)
        .bind(filter)
        .bind(scope.media.as_deref())
        .bind(&scope.languages)
        .fetch_all(pool)
        .await?;
    Ok(units(rows))
}

/// The segments of each unit, in order.
pub(super) async fn texts(
    store: &Store,
    of: &[Unit],
) -> Result<HashMap<Unit, Vec<SegmentText>>, SearchError> {
    type Row = (Uuid, i32, i32, i32, i64, i64, String, String);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT u.media_id, u.first, u.until, s.seq, s.start_ms, s.end_ms, s.text, s.language
         FROM unnest($1::uuid[], $2::integer[], $3::integer[]) AS u (media_id, first, until)
         JOIN media m ON m.media_id = u.media_id
         JOIN segments s ON s.media_id = u.media_id AND s.model_id = m.model AND s.seq >= u.first AND s.seq < u.until
         ORDER BY u.media_id, u.first, s.seq",
    )
    .bind(of.iter().map(|u| u.media_id).collect::<Vec<_>>())
    .bind(of.iter().map(|u| u.first).collect::<Vec<_>>())
    .bind(of.iter().map(|u| u.end).collect::<Vec<_>>())
    .fetch_all(store.pool())
    .await?;
    let mut texts: HashMap<Unit, Vec<SegmentText>> = HashMap::new();
    for (media_id, first, end, seq, start_ms, end_ms, text, language) in rows {
        let segment = SegmentText { seq, start_ms, end_ms, text, language };
        texts.entry(Unit { media_id, first, end }).or_default().push(segment);
    }
    Ok(texts)
}

/// Title and address of each item.
pub(super) async fn headings(
    store: &Store,
    ids: &[MediaId],
) -> Result<HashMap<MediaId, Heading>, SearchError> {
    let mut headings = HashMap::new();
    for row in store.media_many(ids).await? {
        let heading = Heading {
            address: row.address().to_owned(),
            title: row.title,
            locator: row.locator,
            channel: row.channel,
            published_at: row.published_at,
        };
        headings.insert(row.media_id, heading);
    }
    Ok(headings)
}

/// Which words of the hits are forms of the query's.
pub(super) struct Stems(HashSet<(String, String)>);

impl Stems {
    /// Whether this word of a segment in `language` is a form of a word of the query that is no stop word.
    pub(super) fn answers(&self, language: &str, folded: &str) -> bool {
        self.0.contains(&(language.to_owned(), folded.to_owned()))
    }
}

/// Asks the stemmers of the segments' languages.
pub(super) async fn stems<'a>(
    store: &Store,
    query: &Query,
    segments: impl Iterator<Item = &'a SegmentText>,
) -> Result<Stems, SearchError> {
    let mut said: HashMap<(String, String), String> = HashMap::new();
    for segment in segments {
        for word in words(&segment.text) {
            let written = segment.text[word.bytes].to_owned();
            said.entry((segment.language.clone(), word.folded)).or_insert(written);
        }
    }
    let (mut languages, mut folded, mut written) = (Vec::new(), Vec::new(), Vec::new());
    for ((language, word), as_written) in said {
        languages.push(language);
        folded.push(word);
        written.push(as_written);
    }
    let rows: Vec<(String, String)> = sqlx::query_as(
        "WITH asked AS MATERIALIZED (
             SELECT l.language, tsvector_to_array(to_tsvector(spoken_config(l.language), $4)) AS stems
             FROM (SELECT DISTINCT language FROM unnest($1::text[]) AS language) l
         ), plain AS MATERIALIZED (
             SELECT word FROM unnest($5::text[]) AS word
         )
         SELECT said.language, said.folded
         FROM unnest($1::text[], $2::text[], $3::text[]) AS said (language, folded, written)
         JOIN asked USING (language),
         LATERAL (SELECT tsvector_to_array(to_tsvector(spoken_config(said.language), said.written)) AS stems) own
         WHERE own.stems && asked.stems
            OR cardinality(own.stems) > 0 AND said.folded IN (SELECT word FROM plain)",
    )
    .bind(languages)
    .bind(folded)
    .bind(written)
    .bind(query.any.join(" "))
    .bind(query.words.iter().map(|w| w.folded.clone()).collect::<Vec<_>>())
    .fetch_all(store.pool())
    .await?;
    Ok(Stems(rows.into_iter().collect()))
}

//! The rankings, and what else a search reads.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::candidates::{Asked, Bounds, Rank, Within, by_words, nearest};
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
    pub speaker: Option<String>,
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
    let bounds = if queries.large { Bounds::LARGE } else { Bounds::SMALL };
    let within = Within { media: scope.media.as_deref(), languages: &scope.languages };
    let by_vector = async {
        match vector {
            Some(QueryVector { model, vector }) => nearest(store, model, vector, filter, within, depth).await,
            None => Ok(Vec::new()),
        }
    };
    if mode == Mode::Semantic {
        return Ok(vec![(List::Near, by_vector.await?)]);
    }
    let as_it_stands = |query| Asked { query, gates: &[], wide: false };
    let phrase =
        queries.phrase.as_deref().filter(|_| !query.strict && query.words.len() > 1).map(as_it_stands);
    let (gates, wide) = (queries.gates.as_slice(), queries.wide);
    let all = queries.everything.as_deref().map(|query| Asked { query, gates, wide });
    let any = queries.anything.as_deref().filter(|_| !query.strict).map(as_it_stands);
    let ((phrase_s, phrase_p), (all_s, all_p), (any_s, any_p), near) = futures::try_join!(
        by_words(pool, phrase, Rank::Short, bounds, within, depth),
        by_words(pool, all, Rank::Close, bounds, within, depth),
        by_words(pool, any, Rank::Many, bounds, within, depth),
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

/// The segments of each unit, in order.
pub(super) async fn texts(
    store: &Store,
    of: &[Unit],
) -> Result<HashMap<Unit, Vec<SegmentText>>, SearchError> {
    type Row = (Uuid, i32, i32, i32, i64, i64, String, String, Option<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT u.media_id, u.first, u.until, s.seq, s.start_ms, s.end_ms, s.text, s.language, s.speaker
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
    for (media_id, first, end, seq, start_ms, end_ms, text, language, speaker) in rows {
        let segment = SegmentText { seq, start_ms, end_ms, text, language, speaker };
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

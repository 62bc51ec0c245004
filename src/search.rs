//! Finding the second at which something was said.
//!
//! Several rankings are asked for at once: the words verbatim, all of them, any of them, in segments and in
//! passages, and the nearest vectors. They are fused by reciprocal rank (Cormack, Clarke and Büttcher, "Reciprocal
//! Rank Fusion outperforms Condorcet and individual Rank Learning Methods", SIGIR 2009): an entry at rank r of a
//! list adds `weight / (60 + r)`. What is fused are passages; each is then read word by word to find where in it the
//! query was said, which gives the hit its time.
//!
//! The query language is the web's: words, `"a phrase"`, `-without`, `this OR that`. Nothing in a query is an error.

mod link;
mod lists;
mod place;
mod query;
mod words;

use std::collections::HashMap;
use std::ops::Range;

use serde::Serialize;

use crate::media::MediaId;
use crate::store::{EmbeddingModel, Store, StoreError};
use lists::{Candidate, Unit};
use place::Place;
use query::Query;
use words::Word;

pub use link::link;

/// The paper's constant: how little the first ranks differ.
const K: f64 = 60.0;

/// Added to the score of a hit that holds the query word for word: a sentence that somebody remembers exactly is
/// looked for, not something like it, and no sum of ranks may overtake it.
const VERBATIM: f64 = 1.0;

/// How to search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Words and meaning.
    #[default]
    Hybrid,
    /// Words only.
    Text,
    /// Meaning only; needs a vector.
    Semantic,
}

/// What to search for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchRequest {
    /// As typed. Any text.
    pub query: String,
    /// Most hits to return.
    pub limit: usize,
    /// How to search.
    pub mode: Mode,
}

/// The query as a vector.
#[derive(Clone, Copy, Debug)]
pub struct QueryVector<'a> {
    /// The model that made it; only its own table is searched.
    pub model: &'a EmbeddingModel,
    /// `model.dimension` elements.
    pub vector: &'a [f32],
}

/// A place where it was said. Serialised, it is one line of `search --json`; the names are a stable interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// The item.
    pub media_id: MediaId,
    /// Its title. Untrusted text.
    pub title: String,
    /// Its address or path. Untrusted text.
    pub source: String,
    /// Where `text` begins: a segment's start or, where a sentence was asked for that begins within a segment, an
    /// estimate of that sentence's.
    pub start_ms: i64,
    /// End of the last segment that `text` quotes.
    pub end_ms: i64,
    /// What was said there.
    pub text: String,
    /// Opens at that second.
    pub link: String,
    /// Larger is better; comparable only within one search. Above 1 where the words stand there verbatim.
    pub score: f64,
    /// Bytes of `text` that answer the query, ascending and apart.
    #[serde(skip)]
    pub highlights: Vec<Range<usize>>,
}

/// Why a search was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// [`Mode::Semantic`] without a vector.
    #[error("a search by meaning needs an embedding model")]
    NoVector,
    /// The vector is not one of its model.
    #[error("the query's vector has {found} elements, not {needed}, or some that are not finite")]
    Vector {
        /// Elements it has.
        found: usize,
        /// Elements the model's vectors have.
        needed: usize,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for SearchError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Searches everything stored. `vector` is the embedded query; without one [`Mode::Hybrid`] looks at words only.
///
/// # Errors
/// [`SearchError::NoVector`], [`SearchError::Vector`], [`SearchError::Store`]. No query is an error; one without a
/// single word finds nothing.
pub async fn search(
    store: &Store,
    request: &SearchRequest,
    vector: Option<QueryVector<'_>>,
) -> Result<Vec<Hit>, SearchError> {
    if request.mode == Mode::Semantic && vector.is_none() {
        return Err(SearchError::NoVector);
    }
    if let Some(QueryVector { model, vector }) = vector
        && (vector.len() != model.dimension || vector.iter().any(|v| !v.is_finite()))
    {
        return Err(SearchError::Vector { found: vector.len(), needed: model.dimension });
    }
    let vector = vector.filter(|_| request.mode != Mode::Text);
    let query = Query::parse(&request.query);
    if request.limit == 0 || query.is_empty() {
        return Ok(Vec::new());
    }
    let hits = run(store, &query, request, vector).await?;
    if hits.is_empty() && query.strict {
        // Quotes and hyphens that were no operators, as in a pasted sentence.
        return run(store, &query.relaxed(), request, vector).await;
    }
    Ok(hits)
}

async fn run(
    store: &Store,
    query: &Query,
    request: &SearchRequest,
    vector: Option<QueryVector<'_>>,
) -> Result<Vec<Hit>, SearchError> {
    // Enough that a place which is only fair in every list is still seen in each.
    let depth = (request.limit * 4).clamp(100, 1000);
    let lists = lists::fetch(store, query, request.mode, vector, depth).await?;
    let mut fused = fuse(&lists);
    fused.truncate(depth);
    let mut found = located(store, query, fused, request.mode).await?;
    found.truncate(request.limit);
    hits(store, query, found).await
}

/// A passage with its sum of reciprocal ranks.
struct Fused {
    unit: Unit,
    score: f64,
    /// The segment of it that stood highest in a list of segments.
    hint: Option<i32>,
}

/// Sums up reciprocal ranks; best first.
fn fuse(lists: &[(f64, Vec<Candidate>)]) -> Vec<Fused> {
    let mut units: HashMap<Unit, Fused> = HashMap::new();
    for (weight, list) in lists {
        let mut rank = 0.0;
        let mut last = HashMap::new();
        for candidate in list {
            // Further segments of a passage that has had its rank take none away from others.
            if last.insert(candidate.unit, ()).is_some() {
                continue;
            }
            rank += 1.0;
            let fused =
                units.entry(candidate.unit).or_insert(Fused { unit: candidate.unit, score: 0.0, hint: None });
            fused.score += weight / (K + rank);
            fused.hint = fused.hint.or(candidate.segment);
        }
    }
    let mut fused: Vec<Fused> = units.into_values().collect();
    fused.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.unit.cmp(&b.unit)));
    fused
}

/// A place with its final score.
struct Found {
    unit: Unit,
    segments: Vec<lists::SegmentText>,
    place: Place,
    score: f64,
}

/// Finds where in each passage the query was said, and lets that have its say in the order.
async fn located(
    store: &Store,
    query: &Query,
    fused: Vec<Fused>,
    mode: Mode,
) -> Result<Vec<Found>, SearchError> {
    let units: Vec<Unit> = fused.iter().map(|f| f.unit).collect();
    let mut texts = lists::texts(store, &units).await?;
    let mut found: Vec<Found> = Vec::with_capacity(fused.len());
    for Fused { unit, score, hint } in fused {
        let segments = texts.remove(&unit).unwrap_or_default();
        // Replaced between the two statements.
        if segments.is_empty() {
            continue;
        }
        let words: Vec<Vec<Word>> = segments.iter().map(|s| words::words(&s.text)).collect();
        let hint = hint.and_then(|seq| segments.iter().position(|s| s.seq == seq));
        let place = place::locate(&query.words, &words, hint);
        found.push(Found { unit, segments, place, score });
    }
    if mode != Mode::Semantic {
        // One more ranking: how much of the query was said in one go. Equal closeness, equal rank.
        let mut order: Vec<f64> = found.iter().map(|f| f.place.closeness).filter(|c| *c > 0.0).collect();
        order.sort_by(|a, b| b.total_cmp(a));
        for f in &mut found {
            if f.place.closeness > 0.0 {
                let rank = order.partition_point(|c| *c > f.place.closeness) + 1;
                f.score += lists::CLOSENESS_WEIGHT / (K + rank as f64);
            }
            if f.place.verbatim && query.words.len() > 1 {
                f.score += VERBATIM;
            }
        }
    }
    found.sort_by(|a, b| {
        b.score
            .total_cmp(&a.score)
            .then(b.place.closeness.total_cmp(&a.place.closeness))
            .then(a.unit.cmp(&b.unit))
    });
    let mut seen = std::collections::HashSet::new();
    found.retain(|f| seen.insert((f.unit.media_id, f.segments[f.place.segments.start].seq)));
    Ok(found)
}

async fn hits(store: &Store, query: &Query, found: Vec<Found>) -> Result<Vec<Hit>, SearchError> {
    let ids: Vec<MediaId> = found.iter().map(|f| MediaId(f.unit.media_id)).collect();
    let headings = lists::headings(store, &ids).await?;
    let stems =
        lists::stems(store, query, found.iter().flat_map(|f| &f.segments[f.place.segments.clone()])).await?;
    let mut hits = Vec::with_capacity(found.len());
    for Found { unit, segments, place, score } in found {
        let media_id = MediaId(unit.media_id);
        let Some(heading) = headings.get(&media_id) else { continue };
        let quote = quote(&segments[place.segments.clone()], place.segments.start, &place, &stems);
        hits.push(Hit {
            media_id,
            title: heading.title.clone(),
            source: heading.address.clone(),
            start_ms: quote.start_ms,
            end_ms: quote.end_ms,
            link: link(&heading.address, &heading.locator, quote.start_ms),
            text: quote.text,
            score,
            highlights: quote.highlights,
        });
    }
    Ok(hits)
}

/// What a hit shows of its segments.
struct Quote {
    start_ms: i64,
    end_ms: i64,
    text: String,
    highlights: Vec<Range<usize>>,
}

/// Joins segments (at least one; the first is number `first` of its passage). Where a whole sentence was asked for and
/// begins within the first segment, what comes before it is left out, and its start is estimated from the share of
/// the segment's text that comes before: people speak about as fast within one segment.
fn quote(segments: &[lists::SegmentText], first: usize, place: &Place, stems: &lists::Stems) -> Quote {
    let (from, to) = (&segments[0], &segments[segments.len() - 1]);
    let mut quote =
        Quote { start_ms: from.start_ms, end_ms: to.end_ms, text: String::new(), highlights: Vec::new() };
    for (index, segment) in (first..).zip(segments) {
        let words = words::words(&segment.text);
        let skipped = if index == first
            && let Some((_, word)) = place.words.iter().filter(|(segment, _)| *segment == first).min()
        {
            let skipped = place::sentence_start(&segment.text, words[*word].bytes.start);
            let share = skipped as f64 / segment.text.len().max(1) as f64;
            quote.start_ms += ((segment.end_ms - segment.start_ms) as f64 * share) as i64;
            skipped
        } else {
            0
        };
        if !quote.text.is_empty() {
            quote.text.push(' ');
        }
        let offset = quote.text.len();
        for (number, word) in words.iter().enumerate().filter(|(_, word)| word.bytes.start >= skipped) {
            if place.words.contains(&(index, number)) || stems.answers(&segment.language, &word.folded) {
                quote.highlights.push(offset + word.bytes.start - skipped..offset + word.bytes.end - skipped);
            }
        }
        quote.text.push_str(&segment.text[skipped..]);
    }
    quote
}

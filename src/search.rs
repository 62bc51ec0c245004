//! Finding the second at which something was said.
//!
//! Several rankings are asked for at once: the words verbatim, all of them, any of them, in segments and in
//! passages, and the nearest vectors. They are fused by reciprocal rank (`fusion`). What is fused are passages; each is
//! then read word by word to find where in it the query was said, which gives the hit its time.
//!
//! The query language is the web's: words, `"a phrase"`, `begin*`, `-without`, `this OR that`. Nothing in a query is an
//! error. Words that the library does not know are [`corrected()`] to those that it does; [`alike()`] looks for more like a
//! place that was found.

mod alike;
mod candidates;
mod context;
mod correct;
mod fusion;
mod link;
mod lists;
mod place;
mod query;
mod scope;
mod tsquery;
mod words;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use chrono::{DateTime, Utc};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::media::MediaId;
use crate::store::{EmbeddingModel, Store, StoreError};
use lists::Unit;
use place::{Place, Weights};
use query::Query;
use scope::Scope;
use words::Word;

pub use alike::{Alike, alike};
pub use correct::{Correction, corrected};
pub use link::link;
pub use scope::{Filter, Moment};

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchRequest {
    /// As typed. Any text.
    pub query: String,
    /// Most hits to return.
    pub limit: usize,
    /// How to search.
    pub mode: Mode,
    /// What a hit must be part of.
    pub filter: Filter,
    /// Most hits of one item; 0: no limit.
    pub per_item: usize,
    /// Tell what was said so many milliseconds before and after; 0: do not.
    pub around_ms: i64,
}

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Best first.
    pub hits: Vec<Hit>,
    /// Why they are not quite what was asked for, or none.
    pub note: Option<Note>,
}

/// What is to be said about an [`Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Nothing obeys quotes, stars and alternatives: these hits hold the words in other ways.
    Relaxed,
    /// The filter lets no item pass.
    NothingInScope,
    /// Only what must not occur was named.
    OnlyExclusions,
    /// No word is left to look for.
    NoWords,
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
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The item.
    pub media_id: MediaId,
    /// Its title. Untrusted text.
    pub title: String,
    /// Its address or path. Untrusted text.
    pub source: String,
    /// Its channel or uploader. Untrusted text.
    pub channel: Option<String>,
    /// When it was published.
    pub published_at: Option<DateTime<Utc>>,
    /// The code of the language that is spoken there.
    pub language: String,
    /// Who speaks there, where that is known. Untrusted text.
    pub speaker: Option<String>,
    /// Where `text` begins: a segment's start or, where a sentence was asked for that begins within a segment, an
    /// estimate of that sentence's.
    pub start_ms: i64,
    /// End of the last segment that `text` quotes.
    pub end_ms: i64,
    /// What was said there.
    pub text: String,
    /// What was said before it, where that was asked for.
    pub before: Option<String>,
    /// What was said after it, where that was asked for.
    pub after: Option<String>,
    /// Opens at that second.
    pub link: String,
    /// Larger is better; comparable only within one search. Above 1 where the words stand there verbatim.
    pub score: f64,
    /// Hits in this item among all that were looked at; as many or more than are shown.
    pub item_hits: usize,
    /// Bytes of `text` that answer the query, ascending and apart. Serialised as `[[from, to], …]` in characters (code
    /// points), the form that most languages count in.
    pub highlights: Vec<Range<usize>>,
}

impl Serialize for Hit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("media_id", &self.media_id)?;
        map.serialize_entry("title", &self.title)?;
        map.serialize_entry("source", &self.source)?;
        map.serialize_entry("channel", &self.channel)?;
        map.serialize_entry("published_at", &self.published_at)?;
        map.serialize_entry("language", &self.language)?;
        map.serialize_entry("speaker", &self.speaker)?;
        map.serialize_entry("start_ms", &self.start_ms)?;
        map.serialize_entry("end_ms", &self.end_ms)?;
        map.serialize_entry("text", &self.text)?;
        if let (Some(before), Some(after)) = (&self.before, &self.after) {
            map.serialize_entry("before", before)?;
            map.serialize_entry("after", after)?;
        }
        map.serialize_entry("link", &self.link)?;
        map.serialize_entry("score", &self.score)?;
        map.serialize_entry("item_hits", &self.item_hits)?;
        map.serialize_entry("highlights", &self.marked())?;
        map.end()
    }
}

impl Hit {
    /// The highlights in characters.
    fn marked(&self) -> Vec<(usize, usize)> {
        let chars = |range: Range<usize>| self.text.get(range).map_or(0, |t| t.chars().count());
        self.highlights
            .iter()
            .map(|range| {
                let from = chars(0..range.start);
                (from, from + chars(range.clone()))
            })
            .collect()
    }
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

/// Searches what is stored. `vector` is the embedded query; without one [`Mode::Hybrid`] looks at words only.
///
/// # Errors
/// [`SearchError::NoVector`], [`SearchError::Vector`], [`SearchError::Store`]. No query is an error; one without a
/// single word finds nothing, and the answer says so.
pub async fn search(
    store: &Store,
    request: &SearchRequest,
    vector: Option<QueryVector<'_>>,
) -> Result<Answer, SearchError> {
    check(request.mode, vector)?;
    let vector = vector.filter(|_| request.mode != Mode::Text);
    let query = Query::parse(&request.query);
    let nothing = |note| Ok(Answer { hits: Vec::new(), note: Some(note) });
    if query.is_empty() {
        return nothing(if query.only_excludes() { Note::OnlyExclusions } else { Note::NoWords });
    }
    let scope = Scope::of(store, &request.filter).await?;
    if scope.is_empty() {
        return nothing(Note::NothingInScope);
    }
    if request.limit == 0 {
        return Ok(Answer::default());
    }
    let hits = run(store, &query, request, vector, &scope, |_| true).await?;
    if hits.is_empty() && query.strict {
        // Quotes and stars that were no operators, as in a pasted sentence.
        let hits = run(store, &query.relaxed(), request, vector, &scope, |_| true).await?;
        let note = (!hits.is_empty()).then_some(Note::Relaxed);
        return Ok(Answer { hits, note });
    }
    Ok(Answer { hits, note: None })
}

fn check(mode: Mode, vector: Option<QueryVector<'_>>) -> Result<(), SearchError> {
    let Some(QueryVector { model, vector }) = vector else {
        return if mode == Mode::Semantic { Err(SearchError::NoVector) } else { Ok(()) };
    };
    if vector.len() != model.dimension || vector.iter().any(|v| !v.is_finite()) {
        return Err(SearchError::Vector { found: vector.len(), needed: model.dimension });
    }
    Ok(())
}

async fn run(
    store: &Store,
    query: &Query,
    request: &SearchRequest,
    vector: Option<QueryVector<'_>>,
    scope: &Scope,
    wanted: impl Fn(&Unit) -> bool,
) -> Result<Vec<Hit>, SearchError> {
    // Enough that a place which is only fair in every list is still seen in each.
    let depth = (request.limit * 4).clamp(100, 1000);
    let lists = lists::fetch(store, query, request.mode, vector, scope, depth).await?;
    let mut fused = fusion::fuse(&lists);
    fused.retain(|f| wanted(&f.unit));
    fused.truncate(depth);
    let weights = weights(store, query).await?;
    let mut found = located(store, query, &weights, fused, request.mode, scope).await?;
    let counts = share_out(&mut found, request.per_item);
    found.truncate(request.limit);
    hits(store, query, found, &counts, request.around_ms).await
}

/// A place with its final score.
struct Found {
    unit: Unit,
    segments: Vec<lists::SegmentText>,
    place: Place,
    score: f64,
}

/// Leaves at most `per_item` places of each item (0: all); how many each had.
fn share_out(found: &mut Vec<Found>, per_item: usize) -> HashMap<MediaId, usize> {
    let mut counts = HashMap::new();
    found.retain(|f| {
        let count = counts.entry(MediaId(f.unit.media_id)).or_insert(0);
        *count += 1;
        per_item == 0 || *count <= per_item
    });
    counts
}

/// How much each word of the query tells: by how rare it is in the library, as far as its words have been counted
/// ([`Store::learn_words`]), else by its length; next to nothing where it is a stop word of a language that occurs.
async fn weights(store: &Store, query: &Query) -> Result<Weights, SearchError> {
    let words: Vec<&str> = query.words.iter().map(|w| w.folded.as_str()).collect();
    let rows: Vec<(String, Option<i64>, bool, f64)> = sqlx::query_as(
        "WITH configs AS MATERIALIZED (SELECT DISTINCT spoken_config(language) AS config FROM languages)
         SELECT w.word, v.said,
                EXISTS (SELECT FROM configs WHERE numnode(plainto_tsquery(config, w.word)) = 0),
                greatest(c.reltuples, 0)::float8
         FROM unnest($1::text[]) AS w (word) LEFT JOIN vocabulary v USING (word), pg_class c
         WHERE c.oid = 'segments'::regclass",
    )
    .bind(words)
    .fetch_all(store.pool())
    .await?;
    let mut most = rows.first().map_or(0.0, |(.., segments)| *segments);
    let (mut said, mut stop) = (HashMap::new(), HashSet::new());
    for (word, times, is_stop, _) in rows {
        if is_stop {
            stop.insert(word.clone());
        }
        if let Some(times) = times {
            // The server's own count may be old; less than one word's it cannot be.
            most = most.max(times as f64);
            said.insert(word, times);
        }
    }
    if said.is_empty() {
        return Ok(Weights::by_length(&query.words));
    }
    Ok(Weights::by_rarity(&query.words, &said, &stop, most))
}

/// Finds where in each passage the query was said, and lets that have its say in the order.
async fn located(
    store: &Store,
    query: &Query,
    weights: &Weights,
    fused: Vec<fusion::Fused>,
    mode: Mode,
    scope: &Scope,
) -> Result<Vec<Found>, SearchError> {
    let units: Vec<Unit> = fused.iter().map(|f| f.unit).collect();
    let mut texts = lists::texts(store, &units).await?;
    let mut found: Vec<Found> = Vec::with_capacity(fused.len());
    for fusion::Fused { unit, score, hint } in fused {
        let segments = texts.remove(&unit).unwrap_or_default();
        let heard = |s: &lists::SegmentText| scope.heard(s.speaker.as_deref());
        // None at all: replaced between the two statements.
        let Some(first) = segments.iter().position(heard) else { continue };
        let said = |s: &lists::SegmentText| if heard(s) { words::words(&s.text) } else { Vec::new() };
        let words: Vec<Vec<Word>> = segments.iter().map(said).collect();
        let hint = hint.and_then(|seq| segments.iter().position(|s| s.seq == seq && heard(s)));
        let place = place::locate(&query.words, weights, &words, hint.or(Some(first)));
        found.push(Found { unit, segments, place, score });
    }
    if mode != Mode::Semantic {
        // One more ranking: how much of the query was said in one go. Equal closeness, equal rank.
        let mut order: Vec<f64> = found.iter().map(|f| f.place.closeness).filter(|c| *c > 0.0).collect();
        order.sort_by(|a, b| b.total_cmp(a));
        for f in &mut found {
            if f.place.closeness > 0.0 {
                let rank = order.partition_point(|c| *c > f.place.closeness) + 1;
                f.score += fusion::share(fusion::CLOSENESS_WEIGHT, rank);
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
    let mut seen = HashSet::new();
    found.retain(|f| seen.insert((f.unit.media_id, f.segments[f.place.segments.start].seq)));
    Ok(found)
}

async fn hits(
    store: &Store,
    query: &Query,
    found: Vec<Found>,
    counts: &HashMap<MediaId, usize>,
    around_ms: i64,
) -> Result<Vec<Hit>, SearchError> {
    let ids: Vec<MediaId> = found.iter().map(|f| MediaId(f.unit.media_id)).collect();
    let headings = lists::headings(store, &ids).await?;
    let stems =
        lists::stems(store, query, found.iter().flat_map(|f| &f.segments[f.place.segments.clone()])).await?;
    let mut hits = Vec::with_capacity(found.len());
    let mut spans = Vec::with_capacity(found.len());
    for Found { unit, segments, place, score } in found {
        let media_id = MediaId(unit.media_id);
        let Some(heading) = headings.get(&media_id) else { continue };
        let quoted = &segments[place.segments.clone()];
        let quote = quote(quoted, &place, &stems, query);
        spans.push(context::Span {
            media_id: unit.media_id,
            first: quoted[0].seq,
            last: quoted[quoted.len() - 1].seq,
            start_ms: quoted[0].start_ms,
            end_ms: quote.end_ms,
            left_out: quote.left_out,
        });
        hits.push(Hit {
            media_id,
            title: heading.title.clone(),
            source: heading.address.clone(),
            channel: heading.channel.clone(),
            published_at: heading.published_at,
            language: quoted[0].language.clone(),
            speaker: quoted[0].speaker.clone(),
            start_ms: quote.start_ms,
            end_ms: quote.end_ms,
            link: link(&heading.address, &heading.locator, quote.start_ms),
            text: quote.text,
            before: None,
            after: None,
            score,
            item_hits: counts.get(&media_id).copied().unwrap_or(1),
            highlights: quote.highlights,
        });
    }
    if around_ms > 0 {
        for (hit, (before, after)) in hits.iter_mut().zip(context::around(store, &spans, around_ms).await?) {
            (hit.before, hit.after) = (Some(before), Some(after));
        }
    }
    Ok(hits)
}

/// What a hit shows of its segments.
struct Quote {
    start_ms: i64,
    end_ms: i64,
    text: String,
    /// What stands in the first segment before `text`.
    left_out: String,
    highlights: Vec<Range<usize>>,
}

/// Joins segments (at least one; those of `place`). Where a whole sentence was asked for and begins within the first
/// segment, what comes before it is left out, and its start is estimated from the share of the segment's text that comes
/// before: people speak about as fast within one segment.
fn quote(segments: &[lists::SegmentText], place: &Place, stems: &lists::Stems, query: &Query) -> Quote {
    let (from, to) = (&segments[0], &segments[segments.len() - 1]);
    let mut quote = Quote {
        start_ms: from.start_ms,
        end_ms: to.end_ms,
        text: String::new(),
        left_out: String::new(),
        highlights: Vec::new(),
    };
    let begun = |word: &Word| query.beginnings.iter().any(|b| word.folded.starts_with(b.as_str()));
    for (index, segment) in (place.segments.start..).zip(segments) {
        let words = words::words(&segment.text);
        let skipped = if index == place.segments.start
            && let Some((_, word)) = place.words.iter().filter(|(segment, _)| *segment == index).min()
        {
            let skipped = place::sentence_start(&segment.text, words[*word].bytes.start);
            let share = skipped as f64 / segment.text.len().max(1) as f64;
            quote.start_ms += ((segment.end_ms - segment.start_ms) as f64 * share) as i64;
            quote.left_out = segment.text[..skipped].trim().to_owned();
            skipped
        } else {
            0
        };
        if !quote.text.is_empty() {
            quote.text.push(' ');
        }
        let offset = quote.text.len();
        for (number, word) in words.iter().enumerate().filter(|(_, word)| word.bytes.start >= skipped) {
            if place.words.contains(&(index, number))
                || stems.answers(&segment.language, &word.folded)
                || begun(word)
            {
                quote.highlights.push(offset + word.bytes.start - skipped..offset + word.bytes.end - skipped);
            }
        }
        quote.text.push_str(&segment.text[skipped..]);
    }
    quote
}

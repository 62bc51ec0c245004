//! More like a place that was found.

use std::collections::HashMap;

use sqlx::AssertSqlSafe;

use super::query::Query;
use super::scope::Scope;
use super::words::words;
use super::{Answer, Mode, Note, QueryVector, SearchError, SearchRequest, run};
use crate::media::MediaId;
use crate::store::{EmbeddingModel, Store};

/// Words of the place that are looked for: its rarest.
const WORDS: usize = 12;
/// Shorter words tell little.
const SHORTEST: usize = 4;

/// What to look for more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alike {
    /// The item.
    pub media_id: MediaId,
    /// The place in it, in milliseconds; none: the item as a whole, and then nothing of it is found.
    pub at_ms: Option<i64>,
}

/// Finds places that are like one: near to it in meaning (by the vectors that are stored for it, so that no model has to be
/// loaded), or sharing the words that are rare elsewhere. The place itself is not among them. `request.query` is not looked
/// at.
///
/// # Errors
/// [`SearchError::NoVector`] where only meaning was asked for and none is stored; [`SearchError::Store`].
pub async fn alike(store: &Store, like: Alike, request: &SearchRequest) -> Result<Answer, SearchError> {
    let passages: Vec<(i32, i32, i32, String)> = sqlx::query_as(
        "SELECT p.seq, p.first_segment, p.end_segment, p.text
         FROM passages p JOIN media m ON m.media_id = p.media_id AND m.model = p.model_id
         WHERE p.media_id = $1
           AND ($2::bigint IS NULL OR p.seq = (
                 SELECT n.seq FROM passages n WHERE n.media_id = p.media_id AND n.model_id = p.model_id
                 ORDER BY greatest(n.start_ms - $2, $2 - n.end_ms, 0), n.seq LIMIT 1))
         ORDER BY p.seq",
    )
    .bind(like.media_id.0)
    .bind(like.at_ms)
    .fetch_all(store.pool())
    .await?;
    let vector = match request.mode {
        Mode::Text => None,
        Mode::Hybrid | Mode::Semantic => vector(store, like, &passages).await?,
    };
    if request.mode == Mode::Semantic && vector.is_none() {
        return Err(SearchError::NoVector);
    }
    let query = Query::some_of(rarest(store, passages.iter().map(|(.., text)| text.as_str())).await?);
    let nothing = |note| Ok(Answer { hits: Vec::new(), note: Some(note) });
    if query.is_empty() && vector.is_none() {
        return nothing(Note::NoWords);
    }
    let scope = Scope::of(store, &request.filter).await?;
    if scope.is_empty() {
        return nothing(Note::NothingInScope);
    }
    let itself = |first: i32, end: i32| {
        like.at_ms.is_none() || passages.iter().any(|(_, from, to, _)| first < *to && *from < end)
    };
    let near = vector.as_ref().map(|(model, vector)| QueryVector { model, vector });
    let hits = run(store, &query, request, near, &scope, |unit| {
        unit.media_id != like.media_id.0 || !itself(unit.first, unit.end)
    })
    .await?;
    Ok(Answer { hits, note: None })
}

/// The mean vector of these passages of the item and the model that made them, if there are any.
async fn vector(
    store: &Store,
    like: Alike,
    passages: &[(i32, i32, i32, String)],
) -> Result<Option<(EmbeddingModel, Vec<f32>)>, SearchError> {
    let model: Option<(String, i32)> = sqlx::query_as(
        "SELECT e.model_id, e.dimension FROM media m JOIN embedding_models e ON e.model_id = m.embedding_model
         WHERE m.media_id = $1 ORDER BY e.created_at DESC LIMIT 1",
    )
    .bind(like.media_id.0)
    .fetch_optional(store.pool())
    .await?;
    let Some((model_id, dimension)) = model else { return Ok(None) };
    let model = EmbeddingModel { model_id, dimension: usize::try_from(dimension).unwrap_or_default() };
    let Some(table) = store.embedding_table(&model).await? else { return Ok(None) };
    let sql = format!("SELECT avg(embedding)::text FROM {table} WHERE media_id = $1 AND seq = ANY($2)");
    let mean: Option<String> = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(like.media_id.0)
        .bind(passages.iter().map(|(seq, ..)| *seq).collect::<Vec<_>>())
        .fetch_one(store.pool())
        .await?;
    let read = |text: String| -> Option<Vec<f32>> {
        text.trim_matches(['[', ']']).split(',').map(|number| number.parse().ok()).collect()
    };
    let usable = |v: &Vec<f32>| v.len() == model.dimension && v.iter().any(|x| *x != 0.0);
    Ok(mean.and_then(read).filter(usable).map(|vector| (model, vector)))
}

/// The words of the place that are said least elsewhere, measured against how often they are said here. Where the
/// library's words are not known, the longest.
async fn rarest<'a>(store: &Store, texts: impl Iterator<Item = &'a str>) -> Result<Vec<String>, SearchError> {
    let mut here: HashMap<String, (String, i64)> = HashMap::new();
    for text in texts {
        for word in words(text) {
            if word.folded.chars().count() >= SHORTEST && word.folded.chars().all(char::is_alphabetic) {
                here.entry(word.folded).or_insert_with(|| (text[word.bytes].to_owned(), 0)).1 += 1;
            }
        }
    }
    let folded: Vec<String> = here.keys().cloned().collect();
    let said: HashMap<String, i64> =
        sqlx::query_as::<_, (String, i64)>("SELECT word, said FROM vocabulary WHERE word = ANY($1)")
            .bind(folded)
            .fetch_all(store.pool())
            .await?
            .into_iter()
            .collect();
    let mut rated: Vec<(f64, String)> = here
        .into_iter()
        .map(|(word, (written, times))| {
            let elsewhere = said.get(&word).map_or(1.0, |n| *n as f64);
            let length = word.chars().count().min(12) as f64;
            ((times as f64).sqrt() * length / elsewhere.sqrt(), written)
        })
        .collect();
    rated.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    Ok(rated.into_iter().take(WORDS).map(|(_, word)| word).collect())
}

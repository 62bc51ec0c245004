//! What was said around a place.

use uuid::Uuid;

use super::SearchError;
use crate::store::Store;

/// A place that is shown: segments `first` to `last`.
pub(super) struct Span {
    pub media_id: Uuid,
    pub first: i32,
    pub last: i32,
    /// Start of the first segment.
    pub start_ms: i64,
    /// End of the last segment.
    pub end_ms: i64,
    /// What the first segment says before the place.
    pub left_out: String,
}

/// What was said in the `around_ms` milliseconds before and after each place: whole segments, one statement for all.
pub(super) async fn around(
    store: &Store,
    spans: &[Span],
    around_ms: i64,
) -> Result<Vec<(String, String)>, SearchError> {
    let rows: Vec<(i64, bool, String)> = sqlx::query_as(
        "SELECT p.place, s.seq < p.first, s.text
         FROM unnest($1::uuid[], $2::integer[], $3::integer[], $4::bigint[], $5::bigint[])
              WITH ORDINALITY AS p (media_id, first, last, start_ms, end_ms, place)
         JOIN media m ON m.media_id = p.media_id
         JOIN segments s ON s.media_id = p.media_id AND s.model_id = m.model
          AND (s.seq < p.first AND s.end_ms > p.start_ms - $6 OR s.seq > p.last AND s.start_ms < p.end_ms + $6)
         ORDER BY p.place, s.seq",
    )
    .bind(spans.iter().map(|s| s.media_id).collect::<Vec<_>>())
    .bind(spans.iter().map(|s| s.first).collect::<Vec<_>>())
    .bind(spans.iter().map(|s| s.last).collect::<Vec<_>>())
    .bind(spans.iter().map(|s| s.start_ms).collect::<Vec<_>>())
    .bind(spans.iter().map(|s| s.end_ms).collect::<Vec<_>>())
    .bind(around_ms)
    .fetch_all(store.pool())
    .await?;
    let mut said: Vec<(Vec<String>, Vec<String>)> = vec![Default::default(); spans.len()];
    for (place, before, text) in rows {
        let Some((earlier, later)) = usize::try_from(place - 1).ok().and_then(|at| said.get_mut(at)) else {
            continue;
        };
        if before { earlier.push(text) } else { later.push(text) }
    }
    Ok(said
        .into_iter()
        .zip(spans)
        .map(|((mut before, after), span)| {
            before.extend((!span.left_out.is_empty()).then(|| span.left_out.clone()));
            (before.join(" "), after.join(" "))
        })
        .collect())
}

//! Items whose transcripts are doubted, to be done again by another Whisper model while they answer.

mod condition;

use sqlx::postgres::PgConnection;
use sqlx::{Postgres, QueryBuilder, Row};
use uuid::Uuid;

pub use condition::{Condition, GRAMMAR, WindowFigures};

use super::{Claimed, Store, StoreError, clean, locator};
use crate::media::{Item, MediaId};

/// An item with doubtful segments.
#[derive(Clone, Debug, PartialEq)]
pub struct Doubtful {
    /// The item.
    pub item: Item,
    /// Its channel.
    pub channel: Option<String>,
    /// The fence under which what is stored was: for [`Store::replace`].
    pub former: Claimed,
    /// The Whisper model of the stored transcript.
    pub model: String,
    /// The language that was asked for when the item was taken on.
    pub language_wanted: Option<String>,
    /// Segments that are doubted.
    pub doubted: i64,
    /// The same in milliseconds.
    pub doubted_ms: i64,
    /// All segments.
    pub segments: i64,
}

/// How an item was done again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// The Whisper model that was asked for.
    pub model: String,
    /// What the transcript named before.
    pub from_model: String,
    /// Windows of the recording that were believed as they were; the others were heard again.
    pub kept: usize,
}

impl Store {
    /// Items that are done and have segments for which `condition` holds, those with the most doubtful speech first. Left out
    /// is what `model` transcribed or did again already, unless `again`.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn doubtful(
        &self,
        condition: &Condition,
        model: &str,
        again: bool,
    ) -> Result<Vec<Doubtful>, StoreError> {
        let mut query = QueryBuilder::<Postgres>::new(
            "SELECT m.media_id, m.extractor, m.source_id, m.locator, m.source, m.title, m.duration_ms, m.channel,
                    coalesce(m.stored_fence, 0) AS former, coalesce(m.model, '') AS model, m.language_wanted,
                    d.doubted, d.doubted_ms, m.segments
             FROM media m, LATERAL (
                 SELECT count(*) AS doubted, coalesce(sum(s.end_ms - s.start_ms), 0)::bigint AS doubted_ms
                 FROM segments s WHERE s.media_id = m.media_id AND s.model_id = m.model",
        );
        condition.push(&mut query, true);
        query.push(") d WHERE m.state = 'done' AND d.doubted > 0");
        condition.push(&mut query, false);
        if !again {
            query.push(" AND m.model IS DISTINCT FROM ").push_bind(clean(model).into_owned());
            query
                .push(" AND NOT EXISTS (SELECT FROM upgrades u WHERE u.media_id = m.media_id AND u.model = ");
            query.push_bind(clean(model).into_owned()).push(")");
        }
        query.push(" ORDER BY d.doubted_ms DESC, m.media_id");
        let rows = query.build().fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok(read(row)?)).collect()
    }

    /// The mean log-probabilities of an item's stored segments, each once.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn log_probabilities(&self, media_id: MediaId) -> Result<Vec<f32>, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT DISTINCT s.avg_logprob FROM segments s JOIN media m ON m.media_id = s.media_id AND m.model = s.model_id
             WHERE s.media_id = $1",
        )
        .bind(media_id.0)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Whether what is stored of an item is still what was stored under this fence.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn is_stored(&self, former: &Claimed) -> Result<bool, StoreError> {
        let there: Option<bool> = sqlx::query_scalar(
            "SELECT state = 'done' AND coalesce(stored_fence, 0) = $2 FROM media WHERE media_id = $1",
        )
        .bind(former.media_id.0)
        .bind(former.fence)
        .fetch_optional(&self.pool)
        .await?;
        Ok(there.unwrap_or(false))
    }
}

/// Notes in the caller's transaction that an item was done again.
pub(super) async fn note(
    conn: &mut PgConnection,
    media_id: Uuid,
    upgraded: &Upgraded,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO upgrades (media_id, model, from_model, kept) VALUES ($1, $2, $3, $4)
         ON CONFLICT (media_id, model) DO UPDATE
         SET from_model = excluded.from_model, kept = excluded.kept, finished_at = now()",
    )
    .bind(media_id)
    .bind(&*clean(&upgraded.model))
    .bind(&*clean(&upgraded.from_model))
    .bind(i32::try_from(upgraded.kept).unwrap_or(i32::MAX))
    .execute(conn)
    .await
    .map(drop)
}

fn read(row: &sqlx::postgres::PgRow) -> Result<Doubtful, sqlx::Error> {
    let media_id = MediaId(row.try_get("media_id")?);
    let at: serde_json::Value = row.try_get("locator")?;
    Ok(Doubtful {
        item: Item {
            media_id,
            extractor: row.try_get("extractor")?,
            source_id: row.try_get("source_id")?,
            locator: locator::from_json(&at).map_err(|e| sqlx::Error::Decode(e.into()))?,
            source: row.try_get("source")?,
            title: row.try_get("title")?,
            duration_ms: row.try_get("duration_ms")?,
        },
        channel: row.try_get("channel")?,
        former: Claimed { media_id, fence: row.try_get("former")? },
        model: row.try_get("model")?,
        language_wanted: row.try_get("language_wanted")?,
        doubted: row.try_get("doubted")?,
        doubted_ms: row.try_get("doubted_ms")?,
        segments: i64::from(row.try_get::<Option<i32>, _>("segments")?.unwrap_or(0)),
    })
}

//! Audio between two machines: what was left in the object store, for which item, and what of it is still of use.

use sqlx::Row;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Claimed, SaveError, Store, StoreError, clean, retrying};
use crate::handover::{Key, Sent};
use crate::media::{Captions, MediaId, Metadata};

/// Audio that waits for a transcriber.
#[derive(Clone, Debug, PartialEq)]
pub struct HandedOver {
    /// Of the claim under which it was made: part of the object's name.
    pub fence: i64,
    /// The object's length and hash.
    pub sent: Sent,
    /// Samples at 16 kHz.
    pub samples: u64,
    /// What to add to a time in the audio to get the time a player shows.
    pub offset_ms: i64,
    /// BLAKE3 of the samples.
    pub audio_hash: [u8; 32],
    /// What fetching learned.
    pub metadata: Metadata,
    /// Captions that people made, where they were wanted and found.
    pub captions: Option<Captions>,
}

/// How much waits for transcribers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Backlog {
    /// Items.
    pub items: u64,
    /// Bytes in the object store.
    pub bytes: u64,
    /// Length of the audio, milliseconds.
    pub audio_ms: u64,
}

/// Whether an object may still be needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// A hand-over names it.
    pub named: bool,
    /// The claim it belongs to is still held, and may yet name it.
    pub held: bool,
}

impl Store {
    /// The library's own identity.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn library_id(&self) -> Result<Uuid, StoreError> {
        let id = sqlx::query_scalar("SELECT library_id FROM library ORDER BY created_at, library_id LIMIT 1")
            .fetch_one(self.pool())
            .await?;
        Ok(id)
    }

    /// Ends a claim by handing its audio over: the item is queued again, now for a transcriber, its attempt not consumed.
    /// Repeating the call after an unclear answer is safe.
    ///
    /// # Errors
    /// [`SaveError::LeaseLost`] without having changed anything; the object then belongs to nobody.
    pub async fn hand_over(&self, claimed: &Claimed, handed: &HandedOver) -> Result<(), SaveError> {
        retrying(|| self.try_hand_over(claimed, handed)).await
    }

    async fn try_hand_over(&self, claimed: &Claimed, handed: &HandedOver) -> Result<(), SaveError> {
        let title = handed.metadata.title.as_deref().map(clean).filter(|t| !t.trim().is_empty());
        let mut tx = self.pool().begin().await?;
        let updated = sqlx::query(
            "UPDATE media SET state = 'queued', attempts = greatest(attempts - 1, 0), worker = NULL, retry_at = NULL,
                 title = coalesce($3, title), updated_at = now()
             WHERE media_id = $1 AND fence = $2 AND state = 'active'",
        )
        .bind(claimed.media_id.0)
        .bind(claimed.fence)
        .bind(title.as_deref())
        .execute(&mut *tx)
        .await?;
        if updated.rows_affected() == 0 {
            let ours: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM handovers WHERE media_id = $1 AND fence = $2)",
            )
            .bind(claimed.media_id.0)
            .bind(claimed.fence)
            .fetch_one(&mut *tx)
            .await?;
            return if ours { Ok(()) } else { Err(SaveError::LeaseLost) };
        }
        sqlx::query(
            "INSERT INTO handovers (media_id, fence, bytes, sha256, samples, offset_ms, audio_hash, metadata, captions)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (media_id) DO UPDATE SET fence = $2, bytes = $3, sha256 = $4, samples = $5, offset_ms = $6,
                 audio_hash = $7, metadata = $8, captions = $9, handed_at = now()",
        )
        .bind(claimed.media_id.0)
        .bind(claimed.fence)
        .bind(i64::try_from(handed.sent.bytes).unwrap_or(i64::MAX))
        .bind(&handed.sent.sha256[..])
        .bind(i64::try_from(handed.samples).unwrap_or(i64::MAX))
        .bind(handed.offset_ms)
        .bind(&handed.audio_hash[..])
        .bind(Json(cleaned(&handed.metadata)))
        .bind(handed.captions.as_ref().map(|captions| Json(cleaned_captions(captions))))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// What was handed over for an item, if anything is.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn handed_over(&self, media_id: MediaId) -> Result<Option<HandedOver>, StoreError> {
        let row = sqlx::query(
            "SELECT fence, bytes, sha256, samples, offset_ms, audio_hash, metadata, captions FROM handovers
             WHERE media_id = $1",
        )
        .bind(media_id.0)
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let hash = |column: &str| -> Result<[u8; 32], sqlx::Error> {
            let bytes: Vec<u8> = row.try_get(column)?;
            bytes.try_into().map_err(|_| sqlx::Error::Decode(format!("{column} has not 32 bytes").into()))
        };
        let Json(metadata) = row.try_get("metadata")?;
        let captions: Option<Json<Captions>> = row.try_get("captions")?;
        Ok(Some(HandedOver {
            fence: row.try_get("fence")?,
            sent: Sent { bytes: row.try_get::<i64, _>("bytes")?.unsigned_abs(), sha256: hash("sha256")? },
            samples: row.try_get::<i64, _>("samples")?.unsigned_abs(),
            offset_ms: row.try_get("offset_ms")?,
            audio_hash: hash("audio_hash")?,
            metadata,
            captions: captions.map(|Json(captions)| captions),
        }))
    }

    /// Throws a hand-over away that turned out to be of no use: the item has to be fetched again. `false` when the claim
    /// is not held any more.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn discard_handover(&self, claimed: &Claimed) -> Result<bool, StoreError> {
        let held: bool = retrying(|| {
            sqlx::query_scalar(
                "WITH held AS MATERIALIZED (
                     SELECT media_id FROM media WHERE media_id = $1 AND fence = $2 AND state = 'active' FOR UPDATE),
                 gone AS (DELETE FROM handovers h USING held WHERE h.media_id = held.media_id)
                 SELECT EXISTS (SELECT FROM held)",
            )
            .bind(claimed.media_id.0)
            .bind(claimed.fence)
            .fetch_one(self.pool())
        })
        .await?;
        Ok(held)
    }

    /// Forgets hand-overs of items that are done or given up; their objects are then wanted by nobody. Returns how many
    /// there were.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn forget_handovers(&self) -> Result<u64, StoreError> {
        let gone = sqlx::query(
            "DELETE FROM handovers h USING media m
             WHERE m.media_id = h.media_id AND m.state NOT IN ('queued', 'active')",
        )
        .execute(self.pool())
        .await?;
        Ok(gone.rows_affected())
    }

    /// What waits for transcribers.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn backlog(&self) -> Result<Backlog, StoreError> {
        let (items, bytes, samples): (i64, i64, i64) = sqlx::query_as(
            "SELECT count(*), coalesce(sum(bytes), 0)::bigint, coalesce(sum(samples), 0)::bigint
             FROM handovers JOIN media USING (media_id) WHERE state IN ('queued', 'active')",
        )
        .fetch_one(self.pool())
        .await?;
        let rate = u64::from(crate::media::SAMPLE_RATE) / 1000;
        Ok(Backlog {
            items: items.unsigned_abs(),
            bytes: bytes.unsigned_abs(),
            audio_ms: samples.unsigned_abs() / rate,
        })
    }

    /// Whether these objects may still be needed; one answer each, in order. Ask after listing them: what is neither named
    /// nor held then will never be, since a hand-over is only written under a claim that is held.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn wanted(&self, keys: &[Key]) -> Result<Vec<Wanted>, StoreError> {
        let rows: Vec<(bool, bool)> = sqlx::query_as(
            "SELECT EXISTS (SELECT FROM handovers h WHERE h.media_id = k.media_id AND h.fence = k.fence),
                    EXISTS (SELECT FROM media m
                            WHERE m.media_id = k.media_id AND m.fence = k.fence AND m.state = 'active')
             FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY AS k (media_id, fence, n) ORDER BY n",
        )
        .bind(keys.iter().map(|k| k.media_id.0).collect::<Vec<_>>())
        .bind(keys.iter().map(|k| k.fence).collect::<Vec<_>>())
        .fetch_all(self.pool())
        .await?;
        Ok(rows.into_iter().map(|(named, held)| Wanted { named, held }).collect())
    }
}

/// Metadata as PostgreSQL takes it: its JSON has no NUL.
fn cleaned(metadata: &Metadata) -> Metadata {
    let text = |value: &Option<String>| value.as_deref().map(|v| clean(v).into_owned());
    Metadata {
        title: text(&metadata.title),
        webpage_url: text(&metadata.webpage_url),
        channel: text(&metadata.channel),
        ..metadata.clone()
    }
}

/// As [`cleaned`].
fn cleaned_captions(captions: &Captions) -> Captions {
    let mut captions = captions.clone();
    captions.language = clean(&captions.language).into_owned();
    for segment in &mut captions.segments {
        segment.text = clean(&segment.text).into_owned();
        segment.language = clean(&segment.language).into_owned();
    }
    captions
}

//! What a process that works has in hand, as it tells of itself, and whether that is still its own.

use std::collections::HashMap;

use serde_json::{Map, json};
use sqlx::types::Json;
use uuid::Uuid;

use super::{Claimed, Store, StoreError};
use crate::event::Step;
use crate::media::MediaId;

/// An item that a worker has in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InHand {
    /// The item.
    pub media_id: MediaId,
    /// The step it is in.
    pub step: Step,
    /// For how long, in milliseconds.
    pub ms: u64,
}

impl Store {
    /// Of these claims, those that do not stand any more: somebody else claimed the item, or it was taken out.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn lost(&self, claims: &[Claimed]) -> Result<Vec<Claimed>, StoreError> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        let fences: HashMap<Uuid, i64> =
            sqlx::query_as("SELECT media_id, fence FROM media WHERE media_id = ANY($1)")
                .bind(claims.iter().map(|claim| claim.media_id.0).collect::<Vec<_>>())
                .fetch_all(&self.pool)
                .await?
                .into_iter()
                .collect();
        let stands = |claim: &&Claimed| fences.get(&claim.media_id.0) == Some(&claim.fence);
        Ok(claims.iter().filter(|claim| !stands(claim)).copied().collect())
    }

    /// Of these items, those that nobody will work on any more: done, given up, or gone.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn over(&self, items: &[MediaId]) -> Result<Vec<MediaId>, StoreError> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let over: Vec<Uuid> = sqlx::query_scalar(
            "SELECT id FROM unnest($1::uuid[]) id WHERE NOT EXISTS (
                 SELECT FROM media m WHERE m.media_id = id AND m.state IN ('queued', 'active'))",
        )
        .bind(items.iter().map(|id| id.0).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        Ok(over.into_iter().map(MediaId).collect())
    }

    /// True while nothing new may be taken up.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn queue_paused(&self) -> Result<bool, StoreError> {
        let paused = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM queue_pause WHERE until IS NULL OR until > now())",
        );
        Ok(paused.fetch_one(&self.pool).await?)
    }

    /// Tells what the process `worker` (the identity that it claims with) has in hand; `false` where it is not among the
    /// nodes (yet).
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn note_in_hand(&self, worker: &str, in_hand: &[InHand]) -> Result<bool, StoreError> {
        let Ok(id) = worker.parse::<Uuid>() else { return Ok(false) };
        let in_hand: Map<String, serde_json::Value> = in_hand
            .iter()
            .map(|item| (item.media_id.to_string(), json!({"step": item.step, "ms": item.ms})))
            .collect();
        let noted = sqlx::query(
            "UPDATE nodes SET in_hand = $2, told_at = now(), heartbeat_at = now() WHERE node_id = $1",
        )
        .bind(id)
        .bind(Json(in_hand))
        .execute(&self.pool)
        .await?;
        Ok(noted.rows_affected() > 0)
    }
}

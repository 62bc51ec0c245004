//! The processes that work, as they tell of themselves, and whether what they hold is still theirs.

use std::collections::HashMap;

use serde_json::{Map, json};
use sqlx::types::Json;
use uuid::Uuid;

use super::{Claimed, Store, StoreError, clean};
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

    /// Notes that `worker` (the identity that it claims with) works in this process, and on what. Workers that were not
    /// heard of for a day are forgotten.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn note_worker(&self, worker: &str, in_hand: &[InHand]) -> Result<(), StoreError> {
        let Ok(id) = worker.parse::<Uuid>() else { return Ok(()) };
        let in_hand: Map<String, serde_json::Value> = in_hand
            .iter()
            .map(|item| (item.media_id.to_string(), json!({"step": item.step, "ms": item.ms})))
            .collect();
        sqlx::query(
            "WITH forgotten AS (DELETE FROM workers WHERE seen_at < now() - interval '1 day' AND worker_id <> $1)
             INSERT INTO workers (worker_id, host, pid, in_hand) VALUES ($1, $2, $3, $4)
             ON CONFLICT (worker_id) DO UPDATE
             SET host = excluded.host, pid = excluded.pid, in_hand = excluded.in_hand, seen_at = now()",
        )
        .bind(id)
        .bind(&*clean(&host()))
        .bind(i32::try_from(std::process::id()).unwrap_or(0))
        .bind(Json(in_hand))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The worker works no more.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn forget_worker(&self, worker: &str) -> Result<(), StoreError> {
        let Ok(id) = worker.parse::<Uuid>() else { return Ok(()) };
        sqlx::query("DELETE FROM workers WHERE worker_id = $1").bind(id).execute(&self.pool).await?;
        Ok(())
    }
}

/// This machine's name.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown".into() } else { name.trim().into() }
}

//! The words of the library, learnt from items that were finished since the last look.

use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{Store, StoreError, retrying};

/// Segments in one transaction: about half a second.
const BATCH_SEGMENTS: i64 = 20_000;

impl Store {
    /// Learns the words of finished items that are not known yet, for at most about `most`; whether all are known then.
    ///
    /// # Errors
    /// [`StoreError::Database`]; what was learnt before stays.
    pub async fn learn_words(&self, most: Duration) -> Result<bool, StoreError> {
        let start = Instant::now();
        loop {
            if retrying(|| self.try_learn()).await? == 0 {
                return Ok(true);
            }
            if start.elapsed() >= most {
                return Ok(false);
            }
        }
    }

    /// Learns one batch; how many items it had. Items that another process is learning are left to it.
    async fn try_learn(&self) -> Result<usize, StoreError> {
        let mut tx = self.pool.begin().await?;
        // One learner at a time; rows that may lie on several machines are not locked by a search for them.
        let alone: bool =
            // A replica cannot learn, and need not: it is told.
            sqlx::query_scalar(
                "SELECT CASE WHEN pg_is_in_recovery() THEN false
                        ELSE pg_try_advisory_xact_lock(hashtextextended('spoken vocabulary', 0)) END",
            )
                .fetch_one(&mut *tx)
                .await?;
        if !alone {
            return Ok(0);
        }
        let due: Vec<(Uuid, i32)> = sqlx::query_as(
            "SELECT media_id, coalesce(segments, 0) FROM media
             WHERE state = 'done' AND words_known_at IS DISTINCT FROM finished_at
             ORDER BY media_id LIMIT 500",
        )
        .fetch_all(&mut *tx)
        .await?;
        // At least one, however long.
        let mut total = 0;
        let batch: Vec<Uuid> = due
            .into_iter()
            .take_while(|(_, segments)| {
                let first = total == 0;
                total += i64::from(*segments).max(1);
                first || total <= BATCH_SEGMENTS
            })
            .map(|(media_id, _)| media_id)
            .collect();
        if batch.is_empty() {
            return Ok(0);
        }
        // ts_stat takes its question as text; identities are hexadecimal digits and hyphens.
        let ids: Vec<String> = batch.iter().map(Uuid::to_string).collect();
        let sql = format!(
            "INSERT INTO vocabulary AS v (word, said)
             SELECT word, ndoc FROM ts_stat($$
                 SELECT to_tsvector('pg_catalog.simple', spoken_fold(text)) FROM segments
                 WHERE media_id = ANY('{{{}}}'::uuid[])
             $$)
             WHERE char_length(word) BETWEEN 3 AND 40 AND word !~ '[[:digit:][:punct:][:space:]]'
             ORDER BY word
             ON CONFLICT (word) DO UPDATE SET said = v.said + excluded.said",
            ids.join(",")
        );
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *tx).await?;
        sqlx::query("UPDATE media SET words_known_at = finished_at WHERE media_id = ANY($1)")
            .bind(&batch)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(batch.len())
    }
}

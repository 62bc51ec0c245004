//! Looking again at what was given up: what needed an account may have been opened since.

use uuid::Uuid;

use super::{Store, StoreError, retrying};
use crate::media::{FailureClass, MediaId};

/// At most so many at once, longest given up first: the rest follows with the next runs.
const AT_ONCE: i64 = 200;

impl Store {
    /// Queues what was given up a week ago because it needed an account: videos are opened to everybody, cookies are set.
    /// Returns the items with their new generation; who calls gives them jobs.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn look_again(&self) -> Result<Vec<(MediaId, i32)>, StoreError> {
        let due: Vec<Uuid> = retrying(|| {
            sqlx::query_scalar(
                "SELECT media_id FROM media
                 WHERE state <> 'done' AND state = 'failed' AND error_class = $1
                   AND finished_at < now() - interval '7 days'
                 ORDER BY finished_at LIMIT $2",
            )
            .bind(FailureClass::Private.as_str())
            .bind(AT_ONCE)
            .fetch_all(&self.pool)
        })
        .await?;
        if due.is_empty() {
            return Ok(Vec::new());
        }
        // Named by their identities: rows that may lie on several machines are not locked by a search for them. Who comes
        // second finds them queued.
        let rows: Vec<(Uuid, i32)> = retrying(|| {
            sqlx::query_as(
                "UPDATE media SET state = 'queued', generation = generation + 1, attempts = 0, crashes = 0,
                     retry_at = NULL, finished_at = NULL, updated_at = now()
                 WHERE media_id = ANY($1) AND state = 'failed' AND error_class = $2
                   AND finished_at < now() - interval '7 days'
                 RETURNING media_id, generation",
            )
            .bind(&due)
            .bind(FailureClass::Private.as_str())
            .fetch_all(&self.pool)
        })
        .await?;
        Ok(rows.into_iter().map(|(id, generation)| (MediaId(id), generation)).collect())
    }
}

//! Filling another model's table beside the one that answers.
//!
//! An item at a time, a few passages at a time: each batch of vectors is a transaction of its own, so whoever dies loses one
//! batch at most, and the next goes on behind it. Who embeds which item is agreed upon by advisory locks of a session
//! ([`ItemLocks`]), which go with it; should one go while its process lives, two embed the same item, and the later batch
//! writes only what is still missing.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use uuid::Uuid;

use super::answering::{LACKS, keep_answering};
use super::copy::Rows;
use super::{EmbeddingModel, SaveError, Store, StoreError, clean, retrying};
use crate::media::MediaId;

/// An item without all vectors of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// The item.
    pub media_id: MediaId,
    /// Its title. Untrusted text.
    pub title: String,
    /// Its channel. Untrusted text.
    pub channel: Option<String>,
    /// While it is the same, the passages are.
    stored: Option<i64>,
}

/// A passage without a vector.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Bare {
    /// Its number.
    pub seq: i32,
    /// Its text.
    pub text: String,
}

/// What became of a batch of vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// So many were written; the others were there.
    Written(u64),
    /// The item's passages are others by now, or it is gone: nothing was written.
    Replaced,
}

/// The items that this process embeds, as far as others that do the same are concerned.
#[derive(Debug)]
pub struct ItemLocks {
    connection: PgConnection,
    what: String,
}

impl ItemLocks {
    /// Takes an item, unless another process has it.
    ///
    /// # Errors
    /// [`StoreError::Database`]; after one of the connection, all locks are gone.
    pub async fn take(&mut self, media_id: MediaId) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended($1, 0))")
            .bind(self.name(media_id))
            .fetch_one(&mut self.connection)
            .await?)
    }

    /// Leaves it to others.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn leave(&mut self, media_id: MediaId) -> Result<(), StoreError> {
        sqlx::query("SELECT pg_advisory_unlock(hashtextextended($1, 0))")
            .bind(self.name(media_id))
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    fn name(&self, media_id: MediaId) -> String {
        format!("spoken {} {media_id}", self.what)
    }

    /// Leaves all.
    pub async fn close(self) {
        // They go with the session, whatever comes of saying goodbye.
        let _ = self.connection.close().await;
    }
}

impl Store {
    /// Locks of single items, for this kind of work (`reembed …`).
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn item_locks(&self, what: impl Into<String>) -> Result<ItemLocks, StoreError> {
        // Of its own: the pool would hand it, locks and all, to whoever asks next.
        let mut connection = self.pool.acquire().await?.detach();
        let what = what.into();
        // Says that somebody is at it: a table that is being filled is not dropped.
        sqlx::query("SELECT pg_advisory_lock_shared(hashtextextended($1, 0))")
            .bind(in_use(&what))
            .execute(&mut connection)
            .await?;
        Ok(ItemLocks { connection, what })
    }

    /// Items that lack vectors of a model, in the order of their identity, from `after` on.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn lacking(
        &self,
        model_id: &str,
        after: Option<MediaId>,
        most: u32,
    ) -> Result<Vec<Lacking>, StoreError> {
        type Row = (Uuid, String, Option<String>, Option<i64>);
        let sql = format!(
            "SELECT media_id, title, channel, stored_fence FROM media
             WHERE {LACKS} AND ($2::uuid IS NULL OR media_id > $2) ORDER BY media_id LIMIT $3"
        );
        let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(&*clean(model_id))
            .bind(after.map(|id| id.0))
            .bind(i64::from(most))
            .fetch_all(&self.pool)
            .await?;
        Ok(rows
            .into_iter()
            .map(|(id, title, channel, stored)| Lacking { media_id: MediaId(id), title, channel, stored })
            .collect())
    }

    /// The first passages of an item that have no vector in `table`, in order.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn bare_passages(
        &self,
        item: &Lacking,
        table: &str,
        most: u32,
    ) -> Result<Vec<Bare>, StoreError> {
        let sql = format!(
            "SELECT p.seq, p.text FROM passages p JOIN media m ON m.media_id = p.media_id AND m.model = p.model_id
             WHERE p.media_id = $1
               AND NOT EXISTS (SELECT FROM {table} e WHERE e.media_id = p.media_id AND e.seq = p.seq)
             ORDER BY p.seq LIMIT $2"
        );
        Ok(sqlx::query_as(AssertSqlSafe(sql))
            .bind(item.media_id.0)
            .bind(i64::from(most))
            .fetch_all(&self.pool)
            .await?)
    }

    /// Writes vectors of an item's passages, unless the passages are others by now.
    ///
    /// # Errors
    /// [`SaveError::Invalid`] before asking the server; [`SaveError::Database`].
    pub async fn add_vectors(
        &self,
        item: &Lacking,
        model: &EmbeddingModel,
        vectors: &[(i32, Vec<f32>)],
    ) -> Result<Added, SaveError> {
        for (seq, vector) in vectors {
            super::claim::check_vector(*seq, vector, model)?;
        }
        let table = self.ensure_embedding_model(model).await?;
        retrying(|| self.try_add_vectors(item, &table, vectors)).await
    }

    async fn try_add_vectors(
        &self,
        item: &Lacking,
        table: &str,
        vectors: &[(i32, Vec<f32>)],
    ) -> Result<Added, SaveError> {
        let mut tx = self.pool.begin().await?;
        keep_answering(&mut tx).await?;
        if !unchanged(&mut tx, item).await? {
            return Ok(Added::Replaced);
        }
        let seqs: Vec<i32> = vectors.iter().map(|(seq, _)| *seq).collect();
        let known: Vec<i32> = sqlx::query_scalar(AssertSqlSafe(format!(
            "SELECT seq FROM {table} WHERE media_id = $1 AND seq = ANY($2)"
        )))
        .bind(item.media_id.0)
        .bind(seqs)
        .fetch_all(&mut *tx)
        .await?;
        let mut rows = Rows::new(3);
        for (seq, vector) in vectors.iter().filter(|(seq, _)| !known.contains(seq)) {
            rows.row();
            rows.uuid(item.media_id.0);
            rows.int4(*seq);
            rows.halfvec(vector);
        }
        let statement = format!("COPY {table} (media_id, seq, embedding) FROM STDIN (FORMAT binary)");
        let written = rows.send(&mut tx, &statement).await?;
        tx.commit().await?;
        Ok(Added::Written(written))
    }

    /// Says that an item has all vectors of a model, if it has; false where it has not (any more).
    ///
    /// # Errors
    /// [`SaveError::Database`].
    pub async fn set_embedded(&self, item: &Lacking, model: &EmbeddingModel) -> Result<bool, SaveError> {
        let table = self.ensure_embedding_model(model).await?;
        retrying(|| self.try_set_embedded(item, model, &table)).await
    }

    async fn try_set_embedded(
        &self,
        item: &Lacking,
        model: &EmbeddingModel,
        table: &str,
    ) -> Result<bool, SaveError> {
        let mut tx = self.pool.begin().await?;
        keep_answering(&mut tx).await?;
        if !unchanged(&mut tx, item).await? {
            return Ok(false);
        }
        // Where its first model's table was dropped, this one takes the place.
        let sql = format!(
            "UPDATE media m SET
                 embedded_also = CASE WHEN embedding_model IS NULL THEN embedded_also
                                      ELSE array_append(array_remove(embedded_also, $2), $2) END,
                 embedding_model = coalesce(embedding_model, $2)
             WHERE media_id = $1 AND embedding_model IS DISTINCT FROM $2
               AND NOT EXISTS (SELECT FROM passages p WHERE p.media_id = m.media_id AND p.model_id = m.model
                               AND NOT EXISTS (SELECT FROM {table} e
                                               WHERE e.media_id = p.media_id AND e.seq = p.seq))"
        );
        let set = sqlx::query(AssertSqlSafe(sql))
            .bind(item.media_id.0)
            .bind(&*clean(&model.model_id))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(set.rows_affected() == 1)
    }
}

/// The name of the lock that whoever works on single items shares.
pub(super) fn in_use(what: &str) -> String {
    format!("spoken works on {what}")
}

/// Locks the item's row against being stored anew; false where that has happened already.
async fn unchanged(conn: &mut PgConnection, item: &Lacking) -> Result<bool, sqlx::Error> {
    let row: Option<bool> = sqlx::query_scalar(
        "SELECT stored_fence IS NOT DISTINCT FROM $2 AND segments IS NOT NULL FROM media
         WHERE media_id = $1 FOR NO KEY UPDATE",
    )
    .bind(item.media_id.0)
    .bind(item.stored)
    .fetch_optional(conn)
    .await?;
    Ok(row.unwrap_or(false))
}

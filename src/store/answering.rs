//! Which embedding model answers searches, and the other models beside it.
//!
//! Vectors of several models may lie side by side, a table each. One of them answers: the row of `answering` names it. It is
//! changed when all of another model's vectors are there ([`Store::switch`]), under a lock that whoever stores an item's
//! results shares; so at any moment the table that answers holds the vectors of every item that is done.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::{EmbeddingModel, Store, StoreError, clean, retrying};

/// Advisory lock: shared by whoever stores vectors of whole items, had alone by whoever changes which model answers or drops
/// a table.
const LOCK: i64 = 0x7370_6f6b_656e_0008;

/// The model that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answering {
    /// The model.
    pub model: EmbeddingModel,
    /// The table of its vectors.
    pub table: String,
    /// What EMBEDDING_MODEL said where it was loaded last.
    pub setting: Option<String>,
}

/// How a model's table stands. Serialised, it is an entry of `reembed --status --json`; the names are a stable interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelState {
    /// The model's name.
    pub model_id: String,
    /// Elements of its vectors.
    pub dimension: i32,
    /// The table.
    pub table: String,
    /// What EMBEDDING_MODEL said where it was loaded last.
    pub setting: Option<String>,
    /// True for the one that answers.
    pub answers: bool,
    /// Items whose passages all have a vector of it.
    pub items: i64,
    /// Items that have passages.
    pub of: i64,
    /// Bytes on disk, indexes included.
    pub bytes: i64,
    /// When its table was made.
    pub created_at: DateTime<Utc>,
}

/// What came of [`Store::switch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switched {
    /// The model answers from now on.
    Yes,
    /// It did before.
    Already,
    /// So many items have no vectors of it.
    Lacks(i64),
}

/// Items that lack vectors of the model `$1`: a condition on `media`.
pub(super) const LACKS: &str =
    "segments IS NOT NULL AND embedding_model IS DISTINCT FROM $1 AND NOT ($1 = ANY(embedded_also))";

/// Shares the lock until the transaction ends: which model answers, and which tables there are, does not change until then.
pub(super) async fn keep_answering(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock_shared($1)").bind(LOCK).execute(conn).await.map(drop)
}

/// The model that answers, and `model` from now on where none did.
pub(super) async fn answering_or(
    conn: &mut PgConnection,
    model: &EmbeddingModel,
) -> Result<String, sqlx::Error> {
    let dimension = i32::try_from(model.dimension).unwrap_or(i32::MAX);
    let answers = "SELECT model_id FROM answering";
    if let Some(id) = sqlx::query_scalar(answers).fetch_optional(&mut *conn).await? {
        return Ok(id);
    }
    sqlx::query("INSERT INTO answering (model_id, dimension) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(&*clean(&model.model_id))
        .bind(dimension)
        .execute(&mut *conn)
        .await?;
    sqlx::query_scalar(answers).fetch_one(conn).await
}

impl Store {
    /// The model that answers searches by meaning; none before anything was embedded.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn answering(&self) -> Result<Option<Answering>, StoreError> {
        let row: Option<(String, i32, String, Option<String>)> = sqlx::query_as(
            "SELECT model_id, dimension, e.table_name, e.setting
             FROM answering JOIN embedding_models e USING (model_id, dimension)",
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|(model_id, dimension, table, setting)| Answering {
            model: EmbeddingModel { model_id, dimension: dimension.unsigned_abs() as usize },
            table,
            setting,
        }))
    }

    /// Notes what EMBEDDING_MODEL called a model that was loaded, and makes its table.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn note_embedding_setting(
        &self,
        model: &EmbeddingModel,
        setting: &str,
    ) -> Result<(), StoreError> {
        self.ensure_embedding_model(model).await?;
        sqlx::query(
            "UPDATE embedding_models SET setting = $3
             WHERE model_id = $1 AND dimension = $2 AND setting IS DISTINCT FROM $3",
        )
        .bind(&*clean(&model.model_id))
        .bind(i32::try_from(model.dimension).unwrap_or(i32::MAX))
        .bind(&*clean(setting))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Every model that has a table, the one that answers first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn embedding_models(&self) -> Result<Vec<ModelState>, StoreError> {
        type Row = (String, i32, String, Option<String>, DateTime<Utc>, bool, i64);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT e.model_id, e.dimension, e.table_name, e.setting, e.created_at, a.only_row IS NOT NULL,
                    coalesce(pg_total_relation_size(to_regclass(e.table_name)), 0)
             FROM embedding_models e LEFT JOIN answering a USING (model_id, dimension)
             ORDER BY a.only_row NULLS LAST, e.created_at, e.model_id",
        )
        .fetch_all(&self.pool)
        .await?;
        let mut all = Vec::with_capacity(rows.len());
        for (model_id, dimension, table, setting, created_at, answers, bytes) in rows {
            let (items, of) = self.embedded(&model_id).await?;
            all.push(ModelState {
                model_id,
                dimension,
                table,
                setting,
                answers,
                items,
                of,
                bytes,
                created_at,
            });
        }
        Ok(all)
    }

    /// Items that have vectors of a model, and items that should have.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn embedded(&self, model_id: &str) -> Result<(i64, i64), StoreError> {
        let sql = format!(
            "SELECT count(*) FILTER (WHERE NOT ({LACKS})), count(*) FROM media WHERE segments IS NOT NULL"
        );
        Ok(sqlx::query_as(AssertSqlSafe(sql)).bind(&*clean(model_id)).fetch_one(&self.pool).await?)
    }

    /// Lets `model` answer from now on, if every item that is done has its vectors.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn switch(&self, model: &EmbeddingModel) -> Result<Switched, StoreError> {
        retrying(|| self.try_switch(model)).await
    }

    async fn try_switch(&self, model: &EmbeddingModel) -> Result<Switched, StoreError> {
        let mut tx = self.pool.begin().await?;
        // Nobody stores an item's results while this looks: what is there now is all that the next search may ask for.
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await?;
        let sql = format!("SELECT count(*) FROM media WHERE {LACKS}");
        let id = clean(&model.model_id);
        let lacking: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).bind(&*id).fetch_one(&mut *tx).await?;
        if lacking > 0 {
            return Ok(Switched::Lacks(lacking));
        }
        let changed = sqlx::query(
            "INSERT INTO answering (model_id, dimension)
             SELECT model_id, dimension FROM embedding_models WHERE model_id = $1 AND dimension = $2
             ON CONFLICT (only_row) DO UPDATE
             SET model_id = excluded.model_id, dimension = excluded.dimension, since = now()
             WHERE (answering.model_id, answering.dimension) <> (excluded.model_id, excluded.dimension)",
        )
        .bind(&*id)
        .bind(i32::try_from(model.dimension).unwrap_or(i32::MAX))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(if changed.rows_affected() == 1 { Switched::Yes } else { Switched::Already })
    }

    /// Names the model that answers as each item's own, a thousand items at a time; what they named before becomes one of the
    /// others. Who dies on the way has done no harm: both are as good as before.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn name_answering(&self) -> Result<(), StoreError> {
        let Some(Answering { model, .. }) = self.answering().await? else { return Ok(()) };
        let id = clean(&model.model_id);
        loop {
            let ids: Vec<Uuid> = sqlx::query_scalar(
                "SELECT media_id FROM media WHERE $1 = ANY(embedded_also) AND embedding_model <> $1 LIMIT 1000",
            )
            .bind(&*id)
            .fetch_all(&self.pool)
            .await?;
            if ids.is_empty() {
                return Ok(());
            }
            retrying(|| {
                sqlx::query(
                    "UPDATE media SET embedding_model = $1,
                         embedded_also = array_append(array_remove(embedded_also, $1), embedding_model)
                     WHERE media_id = ANY($2) AND $1 = ANY(embedded_also) AND embedding_model <> $1",
                )
                .bind(&*id)
                .bind(&ids)
                .execute(&self.pool)
            })
            .await?;
        }
    }

    /// Whether a table of vectors has an index that searches may use.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn has_vector_index(&self, table: &str) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
                            WHERE i.indrelid = to_regclass($1) AND a.amname IN ('hnsw', 'ivfflat') AND i.indisvalid)",
        )
        .bind(table)
        .fetch_one(&self.pool)
        .await?)
    }

    /// Drops the table of a model that does not answer; false where it does, or somebody uses it, or there is none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn drop_embedding_model(&self, model_id: &str, dimension: i32) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await?;
        let table: Option<String> = sqlx::query_scalar(
            "DELETE FROM embedding_models e WHERE model_id = $1 AND dimension = $2
               AND NOT EXISTS (SELECT FROM answering a WHERE a.model_id = e.model_id AND a.dimension = e.dimension)
             RETURNING table_name",
        )
        .bind(&*clean(model_id))
        .bind(dimension)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(table) = table else { return Ok(false) };
        let free: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))")
            .bind(super::reembed::in_use(&table))
            .fetch_one(&mut *tx)
            .await?;
        if !free {
            return Ok(false);
        }
        // It takes the table, and for its foreign key `media`, from everybody for a moment. Behind a long export it would wait,
        // and all others behind it.
        sqlx::query("SET LOCAL lock_timeout = '5s'").execute(&mut *tx).await?;
        // Made by this program from letters and digits.
        let drop = AssertSqlSafe(format!("DROP TABLE IF EXISTS {table}"));
        if let Err(error) = sqlx::query(drop).execute(&mut *tx).await {
            let busy = error.as_database_error().is_some_and(|e| e.code().as_deref() == Some("55P03"));
            return if busy { Ok(false) } else { Err(error.into()) };
        }
        // What said that its vectors are complete would be wrong if it were made again. Who answers takes the place.
        sqlx::query(
            "UPDATE media SET
                 embedded_also = CASE WHEN embedding_model = $1 THEN array_remove(array_remove(embedded_also, $1), a.model_id)
                                      ELSE array_remove(embedded_also, $1) END,
                 embedding_model = CASE WHEN embedding_model <> $1 THEN embedding_model
                                        WHEN a.model_id = ANY(embedded_also) THEN a.model_id END
             FROM answering a WHERE embedding_model = $1 OR $1 = ANY(embedded_also)",
        )
        .bind(&*clean(model_id))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        if let Ok(mut seen) = self.seen.tables.write() {
            seen.retain(|model, _| model.model_id != model_id);
        }
        Ok(true)
    }
}

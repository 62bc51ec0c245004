//! One table of vectors per model and dimension, made when the model is first used.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::{Store, StoreError, retrying, text_key};

/// Most elements a `halfvec` may have; pgvector's `HALFVEC_MAX_DIM`.
const MAX_DIMENSION: usize = 16_000;

/// A vector this short fits a page beside its key, so it can stay in the row itself.
const INLINE_DIMENSION: usize = 3_500;

/// The model that wrote a set of vectors.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EmbeddingModel {
    /// Its name, or whatever else tells it from other models.
    pub model_id: String,
    /// Elements of a vector, 1 to 16,000.
    pub dimension: usize,
}

/// A table of vectors, as far as a search needs to know it.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct SearchTable {
    /// Its name; needs no quotes.
    pub table: String,
    /// Vectors in it, roughly; 0 where nobody has counted yet.
    pub rows: i64,
    /// How wide a search through the index looks; none: there is no index.
    pub ef_search: Option<i32>,
}

/// The table's name without regard to others: `embeddings_<model>_<dimension>`, an identifier that needs no quotes
/// and stays under PostgreSQL's 63 bytes with a suffix.
fn table_name(model: &EmbeddingModel) -> String {
    let mut slug = String::new();
    for c in model.model_id.chars() {
        match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => slug.push(c),
            _ if !slug.is_empty() && !slug.ends_with('_') => slug.push('_'),
            _ => {}
        }
        if slug.len() == 36 {
            break;
        }
    }
    let slug = slug.trim_end_matches('_');
    let slug = if slug.is_empty() { "model" } else { slug };
    format!("embeddings_{slug}_{}", model.dimension)
}

impl Store {
    /// Makes sure of the table for `model`'s vectors; its name. Called by [`Store::complete`]; harmless before.
    ///
    /// # Errors
    /// [`StoreError::Database`]; a dimension outside 1 to 16,000 is one, too.
    pub async fn ensure_embedding_model(&self, model: &EmbeddingModel) -> Result<String, StoreError> {
        if let Ok(seen) = self.seen.tables.read()
            && let Some(table) = seen.get(model)
        {
            return Ok(table.clone());
        }
        if !(1..=MAX_DIMENSION).contains(&model.dimension) {
            return Err(sqlx::Error::Protocol(format!(
                "vectors of {} elements cannot be stored (1 to {MAX_DIMENSION} can)",
                model.dimension
            ))
            .into());
        }
        let table = retrying(|| self.try_ensure(model)).await?;
        if let Ok(mut seen) = self.seen.tables.write() {
            seen.insert(model.clone(), table.clone());
        }
        Ok(table)
    }

    async fn try_ensure(&self, model: &EmbeddingModel) -> Result<String, StoreError> {
        let mut tx = self.pool.begin().await?;
        // CREATE TABLE IF NOT EXISTS fails when two run at once; one after the other it does not.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('spoken embedding models', 0))")
            .execute(&mut *tx)
            .await?;
        let known: Option<String> = sqlx::query_scalar(
            "SELECT table_name FROM embedding_models WHERE model_id = $1 AND dimension = $2",
        )
        .bind(&*super::clean(&model.model_id))
        .bind(model.dimension as i32)
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(table) = known {
            return Ok(table);
        }
        let mut table = table_name(model);
        let taken: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM embedding_models WHERE table_name = $1)")
                .bind(&table)
                .fetch_one(&mut *tx)
                .await?;
        if taken {
            // Two names that differ only in punctuation.
            let key = text_key(model.model_id.as_bytes()).simple().to_string();
            table = format!("{table}_{}", &key[..8]);
        }
        let dimension = model.dimension;
        let create = format!(
            "CREATE TABLE {table} (
                media_id  uuid NOT NULL,
                seq       integer NOT NULL,
                embedding halfvec({dimension}) NOT NULL,
                PRIMARY KEY (media_id, seq)
            )"
        );
        sqlx::query(AssertSqlSafe(create)).execute(&mut *tx).await?;
        lay_beside_media(&mut tx, &table).await?;
        if dimension <= INLINE_DIMENSION {
            // By default a vector of 1,024 and more elements is moved out of its row, and an exact search fetches
            // every one of them through the TOAST index.
            let inline = format!("ALTER TABLE {table} ALTER COLUMN embedding SET STORAGE PLAIN");
            sqlx::query(AssertSqlSafe(inline)).execute(&mut *tx).await?;
        }
        sqlx::query("INSERT INTO embedding_models (model_id, dimension, table_name) VALUES ($1, $2, $3)")
            .bind(&*super::clean(&model.model_id))
            .bind(dimension as i32)
            .bind(&table)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(table)
    }

    /// The table that a search of `model`'s vectors asks, if any were ever stored.
    pub(crate) async fn search_table(
        &self,
        model: &EmbeddingModel,
    ) -> Result<Option<SearchTable>, StoreError> {
        // An index that was made by hand has no row in vector_indexes: then wide enough for most.
        Ok(sqlx::query_as(
            "SELECT m.table_name AS table, greatest(c.reltuples, 0)::bigint AS rows,
                 (SELECT coalesce(f.ef_search, 200)
                  FROM pg_index x JOIN pg_class n ON n.oid = x.indexrelid JOIN pg_am a ON a.oid = n.relam
                  LEFT JOIN vector_indexes f ON f.table_name = m.table_name
                  WHERE x.indrelid = c.oid AND x.indisvalid AND a.amname = 'hnsw' LIMIT 1) AS ef_search
             FROM embedding_models m JOIN pg_class c ON c.oid = to_regclass(m.table_name)
             WHERE m.model_id = $1 AND m.dimension = $2",
        )
        .bind(&*super::clean(&model.model_id))
        .bind(i32::try_from(model.dimension).unwrap_or(i32::MAX))
        .fetch_optional(&self.pool)
        .await?)
    }

    /// The table of `model`'s vectors, if any were ever stored.
    pub(crate) async fn embedding_table(&self, model: &EmbeddingModel) -> Result<Option<String>, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT table_name FROM embedding_models WHERE model_id = $1 AND dimension = $2",
        )
        .bind(&*super::clean(&model.model_id))
        .bind(i32::try_from(model.dimension).unwrap_or(i32::MAX))
        .fetch_optional(&self.pool)
        .await?)
    }
}

/// Ties a new table to the items; where these are spread over several machines (Citus), it is spread in the same way first.
async fn lay_beside_media(conn: &mut PgConnection, table: &str) -> Result<(), sqlx::Error> {
    let citus: bool = sqlx::query_scalar("SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL")
        .fetch_one(&mut *conn)
        .await?;
    if citus {
        sqlx::query(
            "SELECT create_distributed_table($1::regclass, 'media_id', colocate_with => 'media')
             FROM pg_dist_partition WHERE logicalrelid = 'media'::regclass",
        )
        .bind(table)
        .execute(&mut *conn)
        .await?;
    }
    let tie = format!("ALTER TABLE {table} ADD FOREIGN KEY (media_id) REFERENCES media ON DELETE CASCADE");
    sqlx::query(AssertSqlSafe(tie)).execute(conn).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_model_name_makes_a_plain_identifier() {
        let name = |id: &str| table_name(&EmbeddingModel { model_id: id.into(), dimension: 384 });
        assert_eq!(name("intfloat/multilingual-e5-small"), "embeddings_intfloat_multilingual_e5_small_384");
        assert_eq!(name("\"; DROP TABLE media; --"), "embeddings_drop_table_media_384");
        assert_eq!(name("日本"), "embeddings_model_384");
        assert!(name(&"x".repeat(500)).len() + "_01234567".len() <= 63);
    }
}

//! The index of a table of vectors (HNSW): what there is, making it, removing it.
//!
//! There is none while much is written, because every row that is inserted has to be woven into its graph. Without one,
//! search compares every vector. It is built with `CREATE INDEX CONCURRENTLY`, which locks nobody out, by one process at a
//! time: the builder holds an advisory lock for as long as its session lives, so that whoever finds a half-made index (the
//! server was killed, say) and can have the lock knows that nobody works on it, and removes it.
//!
//! How well it finds is measured against exact search ([`Store::measure_recall`]), and the width of the search
//! (`hnsw.ef_search`) is chosen by that.

mod recall;

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, FromRow};
use tokio_util::sync::CancellationToken;

use super::{EmbeddingModel, Store, StoreError, retrying};

pub use recall::Recall;

/// Most elements of a `halfvec` that HNSW takes; pgvector's `HNSW_MAX_DIM` times two.
pub const MAX_INDEXED_DIMENSION: usize = 4_000;

/// Neighbours of an element in the graph's lowest layer are twice this; pgvector's default.
const M: usize = 16;
/// Elements looked at for the neighbours of a new one. Twice pgvector's default: a third more time to build, and searches
/// reach the same recall with less.
const EF_CONSTRUCTION: usize = 100;

/// How often a builder tells how far it is.
const TICK: Duration = Duration::from_millis(500);

/// A table of vectors and its index.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorTable {
    /// What wrote the vectors.
    pub model: EmbeddingModel,
    /// Its name; needs no quotes.
    pub table: String,
    /// Vectors in it, as the planner estimates.
    pub rows: i64,
    /// Its size on disk.
    pub bytes: i64,
    /// The index: a complete one where there is one, else what an unfinished build left, or is making.
    pub index: Option<VectorIndex>,
    /// A build that runs.
    pub building: Option<Progress>,
}

/// An index.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorIndex {
    /// Its name, quoted where that is needed.
    pub name: String,
    /// Complete: searches can use it.
    pub valid: bool,
    /// Its size on disk.
    pub bytes: i64,
    /// What was measured, if it was.
    pub facts: Option<Facts>,
}

/// What is known about an index besides that it is there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// How well it finds.
    pub recall: Recall,
    /// When that was measured.
    pub measured_at: DateTime<Utc>,
    /// How it was built, where that was done by this program.
    pub build: Option<BuildFacts>,
}

/// How an index was built.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BuildFacts {
    /// When it was complete.
    pub at: DateTime<Utc>,
    /// How long that took.
    pub took_ms: i64,
    /// Vectors then.
    pub rows: i64,
    /// `maintenance_work_mem` of the build, in MiB.
    pub memory_mb: i64,
    /// Processes beside the one that led.
    pub workers: i32,
}

/// How far a build is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// PostgreSQL's name of the phase.
    pub phase: String,
    /// What of it is done and how much there is, in whatever the phase counts; 0 of 0 where it counts nothing.
    pub done: i64,
    /// See `done`.
    pub total: i64,
}

/// What a build may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Means {
    /// Memory, in MiB; none: as the server is set.
    pub memory_mb: Option<u64>,
    /// Processes beside the one that leads; none: as the server is set.
    pub workers: Option<u32>,
}

/// How a build came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Built {
    /// The index is complete.
    Now(BuildFacts),
    /// It was before.
    Already,
    /// Another process builds it.
    Elsewhere,
    /// It was told to stop; nothing is left of it.
    Cancelled,
}

/// MiB that the graph of so many vectors takes in memory while it is built: the vector, and as pgvector's `hnsw.h` has it
/// 16 bytes for each of 2·16 neighbours in the lowest layer and as many again in all upper ones of one element in 16,
/// and the element itself. A tenth on top; measured with 384 elements.
pub fn graph_mb(rows: i64, dimension: usize) -> u64 {
    let element = 2 * dimension + 2 * M * 16 + M * 16 / M + 160;
    let bytes = rows.max(0) as f64 * element as f64 * 1.1;
    (bytes / f64::from(1 << 20)).ceil() as u64
}

#[derive(FromRow)]
struct Row {
    model_id: String,
    dimension: i32,
    table_name: String,
    rows: i64,
    bytes: i64,
    index_name: Option<String>,
    valid: Option<bool>,
    index_bytes: Option<i64>,
    ef_search: Option<i32>,
    recall: Option<f32>,
    samples: Option<i32>,
    measured_at: Option<DateTime<Utc>>,
    built_at: Option<DateTime<Utc>>,
    build_ms: Option<i64>,
    built_rows: Option<i64>,
    memory_mb: Option<i64>,
    workers: Option<i32>,
    phase: Option<String>,
    done: Option<i64>,
    total: Option<i64>,
}

impl From<Row> for VectorTable {
    fn from(row: Row) -> Self {
        let build = (|| {
            Some(BuildFacts {
                at: row.built_at?,
                took_ms: row.build_ms?,
                rows: row.built_rows?,
                memory_mb: row.memory_mb?,
                workers: row.workers?,
            })
        })();
        let facts = (|| {
            Some(Facts {
                recall: Recall { ef_search: row.ef_search?, share: row.recall?, samples: row.samples? },
                measured_at: row.measured_at?,
                build,
            })
        })();
        Self {
            model: EmbeddingModel {
                model_id: row.model_id,
                dimension: usize::try_from(row.dimension).unwrap_or_default(),
            },
            table: row.table_name,
            rows: row.rows,
            bytes: row.bytes,
            index: row.index_name.map(|name| VectorIndex {
                name,
                valid: row.valid.unwrap_or_default(),
                bytes: row.index_bytes.unwrap_or_default(),
                facts,
            }),
            building: row.phase.map(|phase| Progress {
                phase,
                done: row.done.unwrap_or_default(),
                total: row.total.unwrap_or_default(),
            }),
        }
    }
}

impl Store {
    /// Every table of vectors with its index, the model used first coming first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn vector_tables(&self) -> Result<Vec<VectorTable>, StoreError> {
        // Rows as the planner estimates them: density when last counted, times pages now; before the first count, as many
        // as fit (28 bytes of header and item pointer, 20 of key, the vector with its header, to 8).
        const SQL: &str = "
            SELECT m.model_id, m.dimension, m.table_name,
                (CASE WHEN c.reltuples >= 0 AND c.relpages > 0 THEN c.reltuples / c.relpages * (size.bytes / 8192.0)
                      ELSE floor(8168.0 / (56 + 2 * m.dimension)) * (size.bytes / 8192) END)::bigint AS rows,
                size.bytes,
                i.index_name, i.valid, i.index_bytes,
                f.ef_search, f.recall, f.samples, f.measured_at, f.built_at, f.build_ms, f.built_rows, f.memory_mb, f.workers,
                p.phase, p.done, p.total
            FROM embedding_models m
            JOIN pg_class c ON c.oid = to_regclass(m.table_name)
            CROSS JOIN LATERAL (SELECT pg_relation_size(c.oid) AS bytes) size
            LEFT JOIN LATERAL (
                SELECT x.indexrelid::regclass::text AS index_name, x.indisvalid AS valid,
                       pg_relation_size(x.indexrelid) AS index_bytes
                FROM pg_index x JOIN pg_class n ON n.oid = x.indexrelid JOIN pg_am a ON a.oid = n.relam
                WHERE x.indrelid = c.oid AND a.amname = 'hnsw'
                ORDER BY x.indisvalid DESC, x.indexrelid LIMIT 1
            ) i ON true
            LEFT JOIN vector_indexes f ON f.table_name = m.table_name
            LEFT JOIN LATERAL (
                SELECT phase, CASE WHEN tuples_total > 0 THEN tuples_done ELSE blocks_done END AS done,
                       CASE WHEN tuples_total > 0 THEN tuples_total ELSE blocks_total END AS total
                FROM pg_stat_progress_create_index p
                WHERE p.relid = c.oid AND p.datname = current_database() LIMIT 1
            ) p ON true
            ORDER BY m.created_at, m.table_name";
        let rows: Vec<Row> = retrying(|| sqlx::query_as(SQL).fetch_all(&self.pool)).await?;
        Ok(rows.into_iter().map(VectorTable::from).collect())
    }

    /// Whether there is a vector in the table, wherever its rows lie: where they are distributed, the size tells nothing.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn has_vectors(&self, table: &VectorTable) -> Result<bool, StoreError> {
        let sql = format!("SELECT EXISTS (SELECT FROM {})", table.table);
        Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.pool).await?)
    }

    /// Builds the index of a table, unless there is one; `again` replaces a complete one, which serves until then. What an
    /// interrupted build left is removed first. Any number of processes may ask for it at once.
    ///
    /// `progress` is told twice a second how far it is.
    ///
    /// # Errors
    /// [`StoreError::Database`]: the disk is full, the connection breaks. What a failed build leaves, the next one removes.
    pub async fn build_index(
        &self,
        table: &VectorTable,
        means: Means,
        again: bool,
        cancel: &CancellationToken,
        progress: impl FnMut(&Progress),
    ) -> Result<Built, StoreError> {
        // A session of its own: the lock goes with it, and its settings return to no pool.
        let mut conn = self.pool.acquire().await?.detach();
        let result = self.build_in(&mut conn, table, means, again, cancel, progress).await;
        unlock(conn, &table.table).await;
        result
    }

    async fn build_in(
        &self,
        conn: &mut PgConnection,
        table: &VectorTable,
        means: Means,
        again: bool,
        cancel: &CancellationToken,
        progress: impl FnMut(&Progress),
    ) -> Result<Built, StoreError> {
        if !lock(conn, &table.table).await? {
            return Ok(Built::Elsewhere);
        }
        remove(conn, &table.table, Which::Unfinished).await?;
        let there: Vec<String> = indexes(conn, &table.table, Which::Complete).await?;
        let statement = match there.first() {
            Some(_) if !again => return Ok(Built::Already),
            Some(name) => format!("REINDEX INDEX CONCURRENTLY {name}"),
            None => format!(
                "CREATE INDEX CONCURRENTLY ON {} USING hnsw (embedding halfvec_cosine_ops)
                 WITH (m = {M}, ef_construction = {EF_CONSTRUCTION})",
                table.table
            ),
        };
        let (memory_mb, workers) = allow(conn, means).await?;
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *conn).await?;
        let began = Instant::now();
        match self.run_build(conn, pid, &table.table, &statement, cancel, progress).await {
            Ok(()) => {}
            // Told to stop: by our own cancelling, and not by somebody else's.
            Err(sqlx::Error::Database(e))
                if cancel.is_cancelled() && e.code().as_deref() == Some("57014") =>
            {
                remove(conn, &table.table, Which::Unfinished).await?;
                return Ok(Built::Cancelled);
            }
            Err(error) => {
                // If that fails too, the next build does it.
                let _ = remove(conn, &table.table, Which::Unfinished).await;
                return Err(error.into());
            }
        }
        let took_ms = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
        let (at, rows): (DateTime<Utc>, i64) = sqlx::query_as(
            "SELECT now(), greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = to_regclass($1)",
        )
        .bind(&table.table)
        .fetch_one(&mut *conn)
        .await?;
        Ok(Built::Now(BuildFacts { at, took_ms, rows, memory_mb, workers }))
    }

    /// Runs the statement to its end, telling how far it is; told to stop, has the server cancel it.
    async fn run_build(
        &self,
        conn: &mut PgConnection,
        pid: i32,
        table: &str,
        statement: &str,
        cancel: &CancellationToken,
        mut progress: impl FnMut(&Progress),
    ) -> Result<(), sqlx::Error> {
        let mut build = std::pin::pin!(sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(conn));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut build => return done.map(drop),
                _ = tick.tick() => {
                    if cancel.is_cancelled() {
                        // Asked again at every tick: a cancel that comes between two of its transactions is lost.
                        let _ = sqlx::query("SELECT pg_cancel_backend($1)").bind(pid).execute(&self.pool).await;
                    } else if let Ok(Some(at)) = self.build_progress(table).await {
                        progress(&at);
                    }
                }
            }
        }
    }

    /// How far the build of `table`'s index is, whoever builds it; none where nobody does.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn build_progress(&self, table: &str) -> Result<Option<Progress>, StoreError> {
        let row: Option<(String, i64, i64)> = sqlx::query_as(
            "SELECT phase, CASE WHEN tuples_total > 0 THEN tuples_done ELSE blocks_done END,
                    CASE WHEN tuples_total > 0 THEN tuples_total ELSE blocks_total END
             FROM pg_stat_progress_create_index
             WHERE relid = to_regclass($1) AND datname = current_database() LIMIT 1",
        )
        .bind(table)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|(phase, done, total)| Progress { phase, done, total }))
    }

    /// Notes what was measured of an index, and how it was built where that is new.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn note_index(
        &self,
        table: &str,
        recall: Recall,
        build: Option<BuildFacts>,
    ) -> Result<(), StoreError> {
        retrying(|| {
            sqlx::query(
                "INSERT INTO vector_indexes AS v
                     (table_name, ef_search, recall, samples, measured_at, built_at, build_ms, built_rows, memory_mb, workers)
                 VALUES ($1, $2, $3, $4, now(), $5, $6, $7, $8, $9)
                 ON CONFLICT (table_name) DO UPDATE SET
                     ef_search = $2, recall = $3, samples = $4, measured_at = now(),
                     built_at = coalesce($5, v.built_at), build_ms = coalesce($6, v.build_ms),
                     built_rows = coalesce($7, v.built_rows), memory_mb = coalesce($8, v.memory_mb),
                     workers = coalesce($9, v.workers)",
            )
            .bind(table)
            .bind(recall.ef_search)
            .bind(recall.share)
            .bind(recall.samples)
            .bind(build.map(|b| b.at))
            .bind(build.map(|b| b.took_ms))
            .bind(build.map(|b| b.rows))
            .bind(build.map(|b| b.memory_mb))
            .bind(build.map(|b| b.workers))
            .execute(&self.pool)
        })
        .await?;
        Ok(())
    }

    /// Removes the index of a table, and what unfinished builds left of others; how many there were. None: somebody
    /// builds it at the moment.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn drop_index(&self, table: &str) -> Result<Option<usize>, StoreError> {
        let mut conn = self.pool.acquire().await?.detach();
        let result = async {
            if !lock(&mut conn, table).await? {
                return Ok(None);
            }
            let removed = remove(&mut conn, table, Which::All).await?;
            sqlx::query("DELETE FROM vector_indexes WHERE table_name = $1")
                .bind(table)
                .execute(&mut conn)
                .await?;
            Ok(Some(removed))
        }
        .await;
        unlock(conn, table).await;
        result
    }
}

/// Becomes the only one that builds or removes the index of `table`, until the session ends; false: somebody else is. Never
/// waits in the database: a session that waited for the lock would itself be waited for by `CREATE INDEX CONCURRENTLY`.
async fn lock(conn: &mut PgConnection, table: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended('spoken index ' || $1, 0))")
        .bind(table)
        .fetch_one(conn)
        .await
}

/// Lets others build and remove, and ends the session, which takes the server a moment.
async fn unlock(mut conn: PgConnection, table: &str) {
    // Best effort: a server that has gone has dropped the lock as well.
    let _ = sqlx::query("SELECT pg_advisory_unlock_all()").execute(&mut conn).await;
    if let Err(error) = conn.close().await {
        tracing::debug!(%error, table, "the session that built or removed an index ended badly");
    }
}

/// Which indexes of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Complete,
    /// What a build left that was interrupted.
    Unfinished,
    All,
}

async fn indexes(conn: &mut PgConnection, table: &str, which: Which) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT x.indexrelid::regclass::text
         FROM pg_index x JOIN pg_class n ON n.oid = x.indexrelid JOIN pg_am a ON a.oid = n.relam
         WHERE x.indrelid = to_regclass($1) AND a.amname = 'hnsw' AND ($2 IS NULL OR x.indisvalid = $2)
         ORDER BY x.indexrelid",
    )
    .bind(table)
    .bind(match which {
        Which::Complete => Some(true),
        Which::Unfinished => Some(false),
        Which::All => None,
    })
    .fetch_all(conn)
    .await
}

async fn remove(conn: &mut PgConnection, table: &str, which: Which) -> Result<usize, sqlx::Error> {
    let names = indexes(conn, table, which).await?;
    for name in &names {
        if which == Which::Unfinished {
            tracing::info!(index = name, "removing what an interrupted build of an index left");
        }
        let sql = format!("DROP INDEX CONCURRENTLY IF EXISTS {name}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await?;
    }
    Ok(names.len())
}

/// Gives the session what the build may use; what it then has, in MiB and processes.
async fn allow(conn: &mut PgConnection, means: Means) -> Result<(i64, i32), sqlx::Error> {
    let mut sql = "SET statement_timeout = 0; SET lock_timeout = 0;".to_owned();
    if let Some(memory_mb) = means.memory_mb {
        sql.push_str(&format!("SET maintenance_work_mem = '{memory_mb}MB';"));
    }
    if let Some(workers) = means.workers {
        sql.push_str(&format!("SET max_parallel_maintenance_workers = {workers};"));
    }
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await?;
    sqlx::query_as(
        "SELECT (pg_size_bytes(current_setting('maintenance_work_mem')) >> 20)::bigint,
                current_setting('max_parallel_maintenance_workers')::integer",
    )
    .fetch_one(conn)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_vectors_of_384_take_about_a_gigabyte_and_a_half() {
        assert!((1_400..1_800).contains(&graph_mb(1_000_000, 384)), "{}", graph_mb(1_000_000, 384));
        assert_eq!(graph_mb(0, 384), 0);
    }
}

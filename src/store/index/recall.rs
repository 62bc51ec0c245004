//! How well an index finds: the same questions asked with it and without.

use std::time::{Duration, Instant};

use half::f16;
use pgvector::HalfVector;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use uuid::Uuid;

use super::super::{Store, StoreError};

/// Nearest that are looked for.
const K: i64 = 10;
/// Widths that are tried in turn; below the first, search would see fewer entries than it asks for.
const WIDTHS: [i32; 6] = [100, 160, 250, 400, 640, 1000];
/// Fewest questions that say anything, however long each takes.
const FEWEST: usize = 8;

/// What part of the nearest vectors a search through the index finds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recall {
    /// `hnsw.ef_search` of these searches.
    pub ef_search: i32,
    /// Of the ten nearest, the share that was found; 0 to 1.
    pub share: f32,
    /// Questions it was measured with.
    pub samples: i32,
}

impl Store {
    /// Asks at most `samples` questions through the index and exactly, and finds the least width with which at least
    /// `wanted` of the nearest are found; of the widest, how many. Stops asking exactly after `budget`. None: there is
    /// nothing to ask for.
    ///
    /// Questions lie between two vectors of the library that were drawn by chance, four times nearer to the first: where
    /// the library has vectors, but on none of them.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn measure_recall(
        &self,
        table: &str,
        wanted: f32,
        samples: usize,
        budget: Duration,
    ) -> Result<Option<Recall>, StoreError> {
        let mut conn = self.pool.acquire().await?;
        let questions = questions(&mut conn, table, samples).await?;
        let began = Instant::now();
        let mut truths = Vec::new();
        for question in &questions {
            if began.elapsed() > budget && truths.len() >= FEWEST {
                break;
            }
            let distances = nearest(&mut conn, table, question, None).await?;
            truths.extend(distances.last().copied().map(|farthest| (question, distances.len(), farthest)));
        }
        if truths.is_empty() {
            return Ok(None);
        }
        let mut best = None;
        for ef_search in WIDTHS {
            let (mut found, mut all) = (0, 0);
            for (question, count, farthest) in &truths {
                let near = nearest(&mut conn, table, question, Some(ef_search)).await?;
                // By distance: of several that are equally far, any will do.
                found += near.iter().filter(|d| **d <= farthest + 1e-6).count().min(*count);
                all += count;
            }
            let share = found as f32 / all as f32;
            best = Some(Recall { ef_search, share, samples: truths.len() as i32 });
            if share >= wanted {
                break;
            }
        }
        Ok(best)
    }
}

/// Vectors to ask for.
async fn questions(
    conn: &mut PgConnection,
    table: &str,
    samples: usize,
) -> Result<Vec<HalfVector>, sqlx::Error> {
    // Identities are hashes: the first one after a random one is a random item. Its passages are counted from 0; most items
    // have some hundreds.
    let places: Vec<Uuid> = (0..=samples).map(|_| Uuid::new_v4()).collect();
    let seqs: Vec<i32> = places.iter().map(|p| i32::from(p.as_bytes()[15]) * 2).collect();
    let sql = format!(
        "SELECT e.embedding FROM unnest($1::uuid[], $2::integer[]) AS at (media_id, seq)
         CROSS JOIN LATERAL (
             SELECT embedding FROM (
                 (SELECT 0 AS later, media_id, seq, embedding FROM {table}
                  WHERE (media_id, seq) >= (at.media_id, at.seq) ORDER BY media_id, seq LIMIT 1)
                 UNION ALL
                 (SELECT 1, media_id, seq, embedding FROM {table} ORDER BY media_id, seq LIMIT 1)
             ) e ORDER BY later LIMIT 1
         ) e"
    );
    let drawn: Vec<HalfVector> =
        sqlx::query_scalar(AssertSqlSafe(sql)).bind(places).bind(seqs).fetch_all(conn).await?;
    Ok(drawn.windows(2).map(|pair| between(pair[0].as_slice(), pair[1].as_slice())).collect())
}

fn between(a: &[f16], b: &[f16]) -> HalfVector {
    let mixed: Vec<f32> = a.iter().zip(b).map(|(a, b)| 0.8 * a.to_f32() + 0.2 * b.to_f32()).collect();
    HalfVector::from_f32_slice(&mixed)
}

/// Distances of the nearest, ascending; through the index with this width, or exactly.
async fn nearest(
    conn: &mut PgConnection,
    table: &str,
    question: &HalfVector,
    ef_search: Option<i32>,
) -> Result<Vec<f64>, sqlx::Error> {
    let mut tx = conn.begin().await?;
    let settings = match ef_search {
        // An index scan is the only other way there is.
        Some(width) => format!(
            "SET LOCAL hnsw.ef_search = {width}; SET LOCAL hnsw.iterative_scan = off; SET LOCAL enable_seqscan = off"
        ),
        None => "SET LOCAL enable_indexscan = off".to_owned(),
    };
    sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut *tx).await?;
    let sql = format!("SELECT embedding <=> $1 AS distance FROM {table} ORDER BY distance LIMIT {K}");
    let distances = sqlx::query_scalar(AssertSqlSafe(sql)).bind(question).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok(distances)
}

//! Jobs whose worker failed while their handlers go on.
//!
//! One failed query stops a whole worker of the library. Its jobs must not go back into the queue then: another machine
//! would take them and begin anew what is half done here. So the next worker of this process takes them along, and what
//! the library's worker would do at their end is done here.

use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::time::sleep;

use super::in_flight::Key;
use super::worker::Slot;
use super::{Kind, QueueError};

/// Between two tries to end a job.
const PAUSE: Duration = Duration::from_secs(1);

/// A job that was taken along.
#[derive(Debug)]
pub(super) struct Kept {
    key: Key,
    job: i64,
    attempt: u32,
}

/// Makes the jobs of `keys` those of `worker` where they still are of one of the `former` workers, or nobody's: others may
/// have taken those for dead, as long as nobody has begun.
pub(super) async fn take_along(
    pool: &PgPool,
    keys: Vec<Key>,
    former: &[String],
    worker: &str,
) -> Result<Vec<Kept>, QueueError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let names = names(&keys);
    let taken: Vec<(i64, String, i32)> = sqlx::query_as(
        "update graphile_worker._private_jobs set locked_by = $1, locked_at = now() \
         where key = any($2) and (locked_by is null or locked_by = any($3)) returning id, key, attempts::int",
    )
    .bind(worker)
    .bind(&names)
    .bind(former)
    .fetch_all(pool)
    .await?;
    let of_name = |name: &String| names.iter().position(|n| n == name).and_then(|at| keys.get(at).copied());
    Ok(taken
        .into_iter()
        .filter_map(|(job, name, attempt)| {
            Some(Kept { key: of_name(&name)?, job, attempt: attempt.unsigned_abs() })
        })
        .collect())
}

/// Deletes the jobs of items that need nothing any more: those of `workers`, and those that nobody holds, because the
/// library has put back into the queue what it could not end for want of a database.
pub(super) async fn clear(pool: &PgPool, workers: &[String]) -> Result<(), QueueError> {
    sqlx::query(
        "delete from graphile_worker._private_jobs j using media m \
         where (j.locked_by is null or j.locked_by = any($1)) \
           and j.key = 'media:' || m.media_id || ':' || m.generation and m.state in ('done', 'failed')",
    )
    .bind(workers)
    .execute(pool)
    .await?;
    Ok(())
}

fn names(keys: &[Key]) -> Vec<String> {
    keys.iter().map(|(id, generation)| format!("media:{id}:{generation}")).collect()
}

impl Slot {
    /// Waits for the end of a job that was taken along, and ends it.
    pub(super) async fn finish(self, kept: Kept, worker: String) {
        let Kept { key, job, attempt } = kept;
        // Its handler runs already, whichever kind it is; where not, it is found out what the item needs.
        let ended = self.run(Kind::Fetch, key, job, attempt, &worker).await;
        loop {
            // As the library does it; the pause is e^attempts seconds.
            let sql = match &ended {
                Ok(()) => "delete from graphile_worker._private_jobs where id = $1 and locked_by = $2",
                // The next worker takes it along again.
                Err(_) if self.failed.is_cancelled() => return,
                Err(_) => {
                    "update graphile_worker._private_jobs set locked_by = null, locked_at = null, \
                        run_at = greatest(now(), run_at) + exp(least(attempts, 10)) * interval '1 second' \
                     where id = $1 and locked_by = $2"
                }
            };
            match sqlx::query(sql).bind(job).bind(&worker).execute(&self.shared.pool).await {
                Ok(_) => return,
                // Whoever releases what this process holds finds it done.
                Err(_) if self.shared.pool.is_closed() || self.failed.is_cancelled() => return,
                Err(error) => tracing::warn!(%error, media_id = %key.0, "cannot end a job; trying again"),
            }
            tokio::select! {
                () = self.failed.cancelled() => {}
                () = sleep(PAUSE) => {}
            }
        }
    }
}

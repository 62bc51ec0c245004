//! Which item kills the process?
//!
//! When a process dies, all items it was working on are suspects, and all but one (or all: somebody used `kill -9`)
//! are innocent. So an item is never given up for having been *near* deaths. It carries a score,
//! `media.crashes`:
//!
//! * a death in company adds 1, up to [`SUSPECT`];
//! * a death alone adds [`GUILTY`] when the process died from within (a fatal signal, the kernel's memory killer; see
//!   `last_words.rs`), 1 when it was killed from outside; a panic of the item's own handler adds [`GUILTY`];
//! * a process that had been asked to stop (Ctrl-C, then killed), or that went down with the machine, adds nothing;
//! * from [`SUSPECT`] on the item runs alone: nothing else is in flight in its process, and it falls back in the
//!   line. Whoever dies then was the cause;
//! * at [`LIMIT`] it is failed as `crashed`.
//!
//! So an item that crashes the program is found after three deaths, or five if the first three were in company,
//! while a program killed twenty times amid forty items gives up none of them.

use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::identity::Dead;
use super::place::{Lane, WINDOW};
use super::{QueueError, TASKS};
use crate::media::MediaId;

/// From this score on an item runs alone.
pub(super) const SUSPECT: i32 = 3;
/// What a crash adds that nobody else can have caused.
const GUILTY: i32 = 3;
/// At this score an item is given up.
const LIMIT: i32 = 9;

/// How a process came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It had been asked to stop, or the machine went down: no item is to blame.
    Excused,
    /// Somebody killed it, as far as can be told.
    FromOutside,
    /// It crashed, or took so much memory that the kernel ended it.
    FromWithin,
}

/// What a death adds to the score of an item that was in hand.
fn points(end: End, in_company: bool) -> i32 {
    match (end, in_company) {
        (End::Excused, _) => 0,
        (End::FromWithin, false) => GUILTY,
        (End::FromWithin, true) | (End::FromOutside, _) => 1,
    }
}

/// Frees the jobs of a dead process and charges its items.
pub(super) async fn recover(pool: &PgPool, dead: &Dead) -> Result<(), QueueError> {
    if dead.workers.is_empty() {
        return Ok(());
    }
    let mut tx = pool.begin().await?;
    let items = items_of(&mut tx, &dead.workers).await?;
    let in_company = items.len() > 1;
    for &(id, generation) in &items {
        charge(&mut tx, id, generation, points(dead.end, in_company), in_company).await?;
    }
    unlock(&mut tx, &dead.workers).await?;
    tx.commit().await?;
    if !items.is_empty() {
        tracing::info!(items = items.len(), how = ?dead.end, "taking over from a process that ended without finishing");
    }
    Ok(())
}

/// Gives back what our own `workers` hold, charging nobody.
pub(super) async fn release(pool: &PgPool, workers: &[String]) -> Result<(), QueueError> {
    if workers.is_empty() {
        return Ok(());
    }
    let mut tx = pool.begin().await?;
    unlock(&mut tx, workers).await?;
    tx.commit().await?;
    Ok(())
}

/// Charges the item of one job of a worker that another machine's sweep found dead.
pub(super) async fn charge_swept(pool: &PgPool, worker: &str, media_id: MediaId) -> Result<(), QueueError> {
    let mut tx = pool.begin().await?;
    let items = items_of(&mut tx, &[worker.to_owned()]).await?;
    if let Some(&(id, generation)) = items.iter().find(|(id, _)| *id == media_id.0) {
        let in_company = items.len() > 1;
        charge(&mut tx, id, generation, points(End::FromOutside, in_company), in_company).await?;
        // The library lets it wait a little and then run: before the others, since it was begun. Suspects wait longer.
        sqlx::query(
            "update graphile_worker._private_jobs j set priority = case when m.crashes < $3 then $4 else 0 end \
             from media m where j.locked_by = $1 and m.media_id = $2 \
               and j.key = 'media:' || m.media_id || ':' || m.generation",
        )
        .bind(worker)
        .bind(media_id.0)
        .bind(SUSPECT)
        .bind(Lane::Begun.priority())
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Charges an item whose own handler panicked; `true` when it was given up.
pub(super) async fn charge_panic(
    pool: &PgPool,
    media_id: MediaId,
    generation: i32,
) -> Result<bool, QueueError> {
    let mut connection = pool.acquire().await?;
    charge(&mut connection, media_id.0, generation, GUILTY, false).await
}

/// The items that `workers` were working on: jobs that waited for their turn are not among them. In one order, so that two
/// that change several items cannot wait for each other.
async fn items_of(connection: &mut PgConnection, workers: &[String]) -> Result<Vec<(Uuid, i32)>, QueueError> {
    let items = sqlx::query_as(
        "select m.media_id, m.generation from graphile_worker._private_jobs j \
         join media m on j.key = 'media:' || m.media_id || ':' || m.generation \
         where j.locked_by = any($1) and m.state = 'active' order by m.media_id",
    )
    .bind(workers)
    .fetch_all(connection)
    .await?;
    Ok(items)
}

/// Adds to the score of an item that was being worked on, and puts it back among the waiting: the next death is to
/// find only those `active` that somebody had begun. Its attempt is given back: the score counts it. A worker that still has
/// it finds its fence changed, and lets go of what it could not store any more. At the limit the item is failed (`true`).
async fn charge(
    connection: &mut PgConnection,
    id: Uuid,
    generation: i32,
    points: i32,
    in_company: bool,
) -> Result<bool, QueueError> {
    let score: Option<i32> = sqlx::query_scalar(
        "update media set crashes = case when $4 then greatest(crashes, least(crashes + $3, $5)) else crashes + $3 end, \
                state = 'queued', fence = fence + 1, attempts = greatest(attempts - 1, 0), updated_at = now() \
         where media_id = $1 and generation = $2 and state = 'active' returning crashes",
    )
    .bind(id)
    .bind(generation)
    .bind(points)
    .bind(in_company)
    .bind(SUSPECT)
    .fetch_optional(&mut *connection)
    .await?;
    if score.is_none_or(|score| score < LIMIT) {
        return Ok(false);
    }
    sqlx::query(
        "update media set state = case when segments is null then 'failed' else 'done' end, \
                error_class = 'crashed', error = $3, remedy = $4, \
                retry_at = null, finished_at = now(), updated_at = now() \
         where media_id = $1 and generation = $2",
    )
    .bind(id)
    .bind(generation)
    .bind("the program died while it had this item, several times and at last with nothing else in hand")
    .bind("see the log for the cause (often memory); once it is fixed, run spoken retry with the item's id")
    .execute(&mut *connection)
    .await?;
    tracing::warn!(media_id = %id, "an item that ends the program was given up");
    Ok(true)
}

/// Unlocks the jobs of `workers`; they can be claimed at once, and keep their place in line. Items with a score fall
/// back in it, an hour for each point, suspects a day, so that what is next is not always what ended the program last
/// time. Jobs whose item needs nothing any more are deleted.
async fn unlock(connection: &mut PgConnection, workers: &[String]) -> Result<(), QueueError> {
    sqlx::query(
        "delete from graphile_worker._private_jobs j using media m where j.locked_by = any($1) \
            and j.key = 'media:' || m.media_id || ':' || m.generation and m.state in ('done', 'failed')",
    )
    .bind(workers)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "update graphile_worker._private_jobs j set \
                run_at = case when m.crashes = 0 then least(j.run_at, now()) \
                    else least(j.run_at, now() - $3 * interval '1 second') + interval '1 hour' \
                        * case when m.crashes < $4 then m.crashes else 24 end end, \
                priority = case when m.crashes = 0 then j.priority else 0 end \
         from media m, graphile_worker._private_tasks t \
         where j.locked_by = any($1) and t.id = j.task_id and t.identifier = any($2) \
           and j.key = 'media:' || m.media_id || ':' || m.generation",
    )
    .bind(workers)
    .bind(TASKS)
    .bind(WINDOW.as_secs_f64())
    .bind(SUSPECT)
    .execute(&mut *connection)
    .await?;
    sqlx::query("select graphile_worker.force_unlock_workers($1)")
        .bind(workers)
        .execute(&mut *connection)
        .await?;
    sqlx::query("select graphile_worker.delete_stale_workers($1)")
        .bind(workers)
        .execute(&mut *connection)
        .await?;
    Ok(())
}

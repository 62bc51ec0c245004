//! Whether there is work, asked by a process that has no queue open: opening one costs connections, and what follows the models.

use std::time::Duration;

use sqlx::postgres::PgPool;

use super::{Kind, QueueError, QueueOptions, identity};

/// Whether a process that works with `options` would find something to do: an item is queued that needs a kind of job which it
/// claims, and can be worked on now or within `patience`; or such a one is in the hand of a process that is gone. Not while the
/// queue is paused.
///
/// Gone is a process of this machine whose identity nobody holds, at once; any other after a lease without a sign of life. Who
/// claims items without being among the nodes (an import, for the moment that it writes) has as long from each claim on.
///
/// # Errors
/// [`QueueError`].
pub async fn work_waits(
    pool: &PgPool,
    options: &QueueOptions,
    patience: Duration,
) -> Result<bool, QueueError> {
    let dead: Vec<String> =
        identity::dead_ids(&options.workers_dir)?.iter().map(ToString::to_string).collect();
    let waits = sqlx::query_scalar(
        "select exists (select from media m where m.state <> 'done' and m.state in ('queued', 'active') \
                and case when exists (select from handovers h where h.media_id = m.media_id) then $4 else $5 end \
                and case m.state when 'queued' then m.retry_at is null or m.retry_at <= now() + make_interval(secs => $1) \
                    else m.worker = any($2) or m.started_at < now() - make_interval(secs => $3) \
                        and not exists (select from nodes n where n.node_id::text = m.worker \
                            and n.heartbeat_at > now() - make_interval(secs => $3)) end) \
            and not exists (select from queue_pause where until is null or until > now())",
    )
    .bind(patience.as_secs_f64())
    .bind(dead)
    .bind(options.lease.as_secs_f64())
    .bind(options.kinds.contains(&Kind::Transcribe))
    .bind(options.kinds.contains(&Kind::Fetch))
    .fetch_one(pool)
    .await?;
    Ok(waits)
}

//! How an item leaves the pipeline when it does not leave as stored: failed, delayed, lost to another worker, given back.

use std::time::Duration;

use super::{Active, Shared};
use crate::event::Event;
use crate::media::{Failure, FailureClass, Retry};
use crate::queue::Outcome;
use crate::store::{Attempt, SaveError, Store};

/// The failure of an item that was in hand when everything had to stop; never stored.
pub(super) fn stopped() -> Failure {
    Failure::new(FailureClass::Internal, "stopped before it was finished")
}

/// Writes a failure: final, or another attempt later.
pub(super) async fn settle(shared: &Shared, active: Active, failure: Failure) {
    let media_id = active.work.item.media_id;
    if shared.cancel.is_cancelled() {
        return give_back(shared, active).await;
    }
    let store = &shared.steps.store;
    let last =
        !failure.free && (!failure.class.is_transient() || active.work.attempt >= shared.sizes.max_attempts);
    let title = active.title.clone();
    if last {
        shared.steps.spool.remove(media_id);
        match store.fail(&active.work.claimed, &failure).await {
            Ok(()) => {}
            Err(SaveError::LeaseLost) => return lease_lost(shared, active),
            Err(error) => {
                tracing::warn!(%media_id, %error, "failed to note a failure; the item will be tried again");
                let message = error.to_string();
                let _ = active.reply.send(Outcome::Retry { after: Duration::from_secs(5), message });
                return;
            }
        }
        let Failure { class, message, remedy, .. } = failure;
        let source = active.work.item.source.clone();
        shared.events.send(Event::ItemFailed { media_id, title, source, class, message, remedy });
        let _ = active.reply.send(Outcome::Done);
        return;
    }
    let after = match failure.retry {
        Some(Retry::In(after)) => after,
        Some(Retry::At(time)) => until(store, time).await,
        None => backoff(active.work.attempt, failure.class),
    };
    let attempt = if failure.free { Attempt::Free } else { Attempt::Counts };
    match store.delay(&active.work.claimed, &failure, after, attempt).await {
        Ok(_) => {}
        Err(SaveError::LeaseLost) => return lease_lost(shared, active),
        Err(error) => tracing::warn!(%media_id, %error, "failed to note a failed attempt"),
    }
    let (retry_in_ms, message) = (after.as_millis() as u64, failure.message.clone());
    shared.events.send(match failure.class {
        // Nothing went wrong, and the site's wait was told of once for all of its items.
        FailureClass::Paced => Event::ItemHeld { media_id, title, message, retry_in_ms },
        _ => Event::ItemDelayed { media_id, title, message, retry_in_ms },
    });
    let _ = active.reply.send(Outcome::Retry { after, message: failure.message });
}

/// From the database's now until `time` (seconds since 1970); an hour where it does not answer. At least a minute: a time
/// that has passed already was wrong.
async fn until(store: &Store, time: i64) -> Duration {
    const SHORTEST: Duration = Duration::from_secs(60);
    let wait: Result<f64, _> = sqlx::query_scalar("SELECT $1::float8 - extract(epoch FROM now())::float8")
        .bind(time as f64)
        .fetch_one(store.pool())
        .await;
    match wait {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).unwrap_or(SHORTEST).max(SHORTEST),
        Err(_) => Duration::from_secs(3600),
    }
}

/// 2, 8, 32, 128 s …, at most ten minutes: in one run a short trouble is outlived, a long one is left to the next. A
/// site that asked to slow down is left alone for ten minutes at once; one that refused media for minutes, half an hour at most,
/// because an expired address or an outrun yt-dlp is not mended in seconds.
fn backoff(attempt: u32, class: FailureClass) -> Duration {
    const LONGEST: Duration = Duration::from_secs(600);
    if class == FailureClass::Forbidden {
        return Duration::from_secs(60 * 5u64.pow(attempt.clamp(1, 4) - 1)).min(3 * LONGEST);
    }
    let exponent = 2 * (attempt.max(1) - 1).min(5) + 1;
    if class == FailureClass::RateLimited { LONGEST } else { Duration::from_secs(1 << exponent).min(LONGEST) }
}

/// Another worker has the item now: what this one made is thrown away.
pub(super) fn lease_lost(shared: &Shared, active: Active) {
    let media_id = active.work.item.media_id;
    shared.steps.spool.remove(media_id);
    shared.events.send(Event::ItemSkipped {
        media_id,
        title: active.title,
        reason: "another worker took it over".into(),
    });
    let _ = active.reply.send(Outcome::LeaseLost);
}

/// The answer for an item that was not finished because everything stops: the job stays, ready for the next run.
pub(super) fn given_back() -> Outcome {
    Outcome::Retry { after: Duration::ZERO, message: "stopped before it was finished".into() }
}

/// Gives an unfinished item back to the queue, its attempt not counted.
pub(super) async fn give_back(shared: &Shared, active: Active) {
    if let Err(error) = shared.steps.store.release(&active.work.claimed).await {
        tracing::warn!(media_id = %active.work.item.media_id, %error, "failed to release an item; the next start will");
    }
    let _ = active.reply.send(given_back());
}

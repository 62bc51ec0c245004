//! How an item leaves the pipeline when it does not leave as stored: failed, delayed, lost to another worker, given back.

use std::time::Duration;

use super::{Active, Shared};
use crate::event::Event;
use crate::media::{Failure, FailureClass};
use crate::queue::Outcome;
use crate::store::{Attempt, SaveError};

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
    let store = &shared.store;
    let last = !failure.class.is_transient() || active.work.attempt >= shared.sizes.max_attempts;
    let title = active.title.clone();
    if last {
        shared.spool.remove(media_id);
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
        if active.object.is_some() {
            remove_object(shared, &active).await;
            if let Err(error) = store.forget_handovers().await {
                tracing::debug!(%error, "hand-overs of items that are over stay until the next sweep");
            }
        }
        let Failure { class, message, remedy } = failure;
        let source = active.work.item.source.clone();
        shared.events.send(Event::ItemFailed { media_id, title, source, class, message, remedy });
        let _ = active.reply.send(Outcome::Done);
        return;
    }
    let after = backoff(active.work.attempt, failure.class);
    match store.delay(&active.work.claimed, &failure, after, Attempt::Counts).await {
        Ok(_) => {}
        Err(SaveError::LeaseLost) => return lease_lost(shared, active),
        Err(error) => tracing::warn!(%media_id, %error, "failed to note a failed attempt"),
    }
    let retry_in_ms = after.as_millis() as u64;
    shared.events.send(Event::ItemDelayed { media_id, title, message: failure.message.clone(), retry_in_ms });
    let _ = active.reply.send(Outcome::Retry { after, message: failure.message });
}

/// 2, 8, 32, 128 s …, at most ten minutes: in one run a short trouble is outlived, a long one is left to the next. A
/// site that asked to slow down is left alone for ten minutes at once.
fn backoff(attempt: u32, class: FailureClass) -> Duration {
    const LONGEST: Duration = Duration::from_secs(600);
    let exponent = 2 * (attempt.max(1) - 1).min(5) + 1;
    if class == FailureClass::RateLimited { LONGEST } else { Duration::from_secs(1 << exponent).min(LONGEST) }
}

/// Another worker has the item now: what this one made is thrown away.
pub(super) fn lease_lost(shared: &Shared, active: Active) {
    let media_id = active.work.item.media_id;
    shared.spool.remove(media_id);
    shared.events.send(Event::ItemSkipped {
        media_id,
        title: active.title,
        reason: "another worker took it over".into(),
    });
    let _ = active.reply.send(Outcome::LeaseLost);
}

/// Removes what another machine had left of an item that is done or given up. What stays because the store is away now, or
/// because this process dies here, the next sweep removes.
pub(super) async fn remove_object(shared: &Shared, active: &Active) {
    if let (Some(handover), Some(key)) = (&shared.handover, &active.object)
        && let Err(error) = handover.remove(key).await
    {
        tracing::warn!(media_id = %key.media_id, %error, "audio that was handed over is not removed yet; the next sweep will");
    }
}

/// The answer for an item that was not finished because everything stops: the job stays, ready for the next run.
pub(super) fn given_back() -> Outcome {
    Outcome::Retry { after: Duration::ZERO, message: "stopped before it was finished".into() }
}

/// Gives an unfinished item back to the queue, its attempt not counted.
pub(super) async fn give_back(shared: &Shared, active: Active) {
    if let Err(error) = shared.store.release(&active.work.claimed).await {
        tracing::warn!(media_id = %active.work.item.media_id, %error, "failed to release an item; the next start will");
    }
    let _ = active.reply.send(given_back());
}

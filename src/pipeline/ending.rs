//! How an item leaves the pipeline when it does not leave as stored: failed, delayed, lost to another worker, given back.

use std::time::Duration;

use super::{Active, Shared, backoff, leftovers};
use crate::event::Event;
use crate::media::{Failure, FailureClass, Locator, Retry, State};
use crate::queue::Outcome;
use crate::store::{Attempt, SaveError, Store};

/// How often what arrives truncated is fetched.
const FETCHES: u32 = 3;
/// How long an item waits that found no room on the disk beside others.
const WHILE_OTHERS_FINISH: Duration = Duration::from_secs(30);

/// The failure of an item that was in hand when everything had to stop; never stored.
pub(super) fn stopped() -> Failure {
    Failure::new(FailureClass::Internal, "stopped before it was finished")
}

/// Deletes what the item has on the disk, unless that is of a new claim of it.
pub(super) fn clear(shared: &Shared, active: &Active) {
    let claimed = &active.work.claimed;
    shared.hand.unless_taken(claimed, || shared.spool.remove(claimed.media_id));
}

/// Writes a failure: final, or another attempt later.
pub(super) async fn settle(shared: &Shared, active: Active, failure: Failure) {
    let media_id = active.work.item.media_id;
    if shared.cancel.is_cancelled() {
        return give_back(shared, active).await;
    }
    if active.held.cancel.is_cancelled() {
        return lease_lost(shared, active).await;
    }
    let store = &shared.store;
    let again = again(shared, &active, &failure);
    if again.is_none() || matches!(failure.class, FailureClass::NoSpace | FailureClass::Truncated) {
        // Nobody needs it any more, it fills the disk, or it is not what it should be.
        clear(shared, &active);
    } else {
        // The next attempt brings its audio anew, here or elsewhere, and waits for room before it does.
        shared.hand.unless_taken(&active.work.claimed, || shared.spool.keep_download(media_id));
    }
    if failure.class == FailureClass::NoSpace {
        // Others may have to wait for their attempts longer than this one.
        while leftovers::spare(shared) {}
    }
    let title = active.title.clone();
    let Some(counted) = again else {
        match store.fail(&active.work.claimed, &failure).await {
            Ok(()) => {}
            Err(SaveError::LeaseLost) => return lease_lost(shared, active).await,
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
        let Failure { class, mut message, remedy, .. } = failure;
        if active.work.again {
            message.push_str("; what was stored before is kept");
        }
        let source = active.work.item.source.clone();
        shared.events.send(Event::ItemFailed { media_id, title, source, class, message, remedy });
        let _ = active.reply.send(Outcome::Done);
        return;
    };
    let after = match (&failure.retry, counted) {
        (Some(Retry::In(after)), _) => *after,
        (Some(Retry::At(time)), _) => until(store, *time).await,
        (None, Attempt::Counts) => backoff::wait(active.work.attempt, failure.class),
        (None, Attempt::Free) => WHILE_OTHERS_FINISH,
    };
    match store.delay(&active.work.claimed, &failure, after, counted).await {
        Ok(_) => {}
        Err(SaveError::LeaseLost) => return lease_lost(shared, active).await,
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

/// Whether there is another attempt, and whether this one counts.
fn again(shared: &Shared, active: &Active, failure: &Failure) -> Option<Attempt> {
    if failure.free {
        return Some(Attempt::Free);
    }
    let attempts = match failure.class {
        // A connection that ends early looks like a whole answer where the server does not tell the length. The file on
        // our own disk is what it is.
        FailureClass::Truncated if !matches!(active.work.item.locator, Locator::File(_)) => FETCHES,
        // Several that share a disk too small for all of them: those that are through make room for the rest.
        FailureClass::NoSpace if shared.spool.is_shared(active.work.item.media_id) => {
            return Some(Attempt::Free);
        }
        class if class.is_transient() => u32::MAX,
        _ => return None,
    };
    (active.work.attempt < attempts.min(shared.sizes.max_attempts)).then_some(Attempt::Counts)
}

/// The item is not this worker's any more: what it made is thrown away.
pub(super) async fn lease_lost(shared: &Shared, active: Active) {
    let media_id = active.work.item.media_id;
    clear(shared, &active);
    // Taken out of the queue, it needs no job any more; taken over by another worker, the job is theirs.
    let (reason, outcome) = match shared.store.media(media_id).await {
        Ok(Some(row)) if row.error_class == Some(FailureClass::Cancelled) => ("cancelled", Outcome::Done),
        Ok(Some(row)) if row.state == State::Done && active.work.again => {
            ("cancelled; what was stored before is kept", Outcome::Done)
        }
        _ => ("another worker took it over", Outcome::LeaseLost),
    };
    shared.events.send(Event::ItemSkipped { media_id, title: active.title, reason: reason.into() });
    let _ = active.reply.send(outcome);
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

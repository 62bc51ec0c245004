//! What lies in the spool of items that nobody here works on: parts of downloads, from which the next attempt goes on. They
//! save time where that comes here, and no more than that: they go when the disk is short, or when the item is over.

use std::time::Duration;

use super::Shared;
use crate::media::MediaId;

/// How often it is asked which items are over: their next attempt may have been another machine's.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// Deletes what is left of one item; `false` where there is nothing.
pub(super) fn spare(shared: &Shared) -> bool {
    shared.spool.items().into_iter().any(|id| remove(shared, id))
}

/// Deletes what is left of an item; `false` where it is in hand.
pub(super) fn remove(shared: &Shared, media_id: MediaId) -> bool {
    shared.hand.unless_held(media_id, || shared.spool.remove(media_id)).unwrap_or(false)
}

/// Deletes what is left of items that are over, now and then; never ends.
pub(super) async fn clear_up(shared: &Shared) {
    loop {
        let mut left = shared.spool.items();
        left.retain(|id| shared.hand.unless_held(*id, || ()).is_some());
        match shared.store.over(&left).await {
            Ok(over) => {
                for id in over {
                    remove(shared, id);
                }
            }
            Err(error) => tracing::debug!(%error, "cannot tell which items are over"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

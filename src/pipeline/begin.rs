//! How an item's work begins, wherever its audio comes from: its turn, its claim, its place in this process's hand.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::ending::given_back;
use super::{Active, Job, Shared, leftovers};
use crate::event::Event;
use crate::media::{Failure, MediaId, Metadata};
use crate::queue::Outcome;
use crate::store::{Claim, Work};

/// An item that is this worker's, and who waits for it.
pub(super) struct Begun {
    pub work: Box<Work>,
    pub reply: oneshot::Sender<Outcome>,
}

/// Waits until a job's item may be taken up (no pause, room in the spool, and what `more` waits for), and claims it. Nothing
/// where the job is answered already.
pub(super) async fn begin(shared: &Shared, job: Job, more: impl Future<Output = bool>) -> Option<Begun> {
    let Job { media_id, generation, waiting, reply } = job;
    let may = shared.hand.free(&shared.stop).await
        && shared.spool.room(&shared.events, &shared.stop, || leftovers::spare(shared)).await
        && more.await;
    if !may {
        // Told to stop before the item was touched: the queue keeps the job for the next run.
        let _ = reply.send(given_back());
        return None;
    }
    drop(waiting);
    match claim(shared, media_id, generation).await {
        Ok(work) => Some(Begun { work, reply }),
        Err(outcome) => {
            let _ = reply.send(outcome);
            None
        }
    }
}

/// Makes the item this worker's, or says what to answer instead.
async fn claim(shared: &Shared, media_id: MediaId, generation: i32) -> Result<Box<Work>, Outcome> {
    match shared.store.claim_for_job(media_id, generation, &shared.worker).await {
        Ok(Claim::Work(work)) => Ok(work),
        // Done by a worker that died before it could delete the job, given up, or removed: nothing is left to do.
        Ok(Claim::AlreadyDone | Claim::GivenUp | Claim::Gone) => Err(Outcome::Done),
        Ok(Claim::Unreadable { title, source, failure }) => {
            let Failure { class, message, remedy, .. } = failure;
            shared.events.send(Event::ItemFailed { media_id, title, source, class, message, remedy });
            Err(Outcome::Done)
        }
        Err(error) => {
            tracing::warn!(%media_id, %error, "failed to claim an item; trying again");
            Err(Outcome::Retry { after: Duration::from_secs(5), message: error.to_string() })
        }
    }
}

impl Active {
    /// Takes a claimed item in hand, and tells so. `title` is what is known by now.
    pub(super) fn take(shared: &Shared, begun: Begun, title: Option<String>) -> Self {
        let Begun { work, reply } = begun;
        let title = title.unwrap_or_else(|| work.item.title.clone());
        shared.events.send(Event::ItemStarted { media_id: work.item.media_id, title: title.clone() });
        Self {
            held: shared.hand.take(work.claimed, &shared.cancel),
            metadata: Metadata::default(),
            captions: None,
            started: Instant::now(),
            object: None,
            title,
            work,
            reply,
        }
    }
}

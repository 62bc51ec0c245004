//! The I/O stage: claims an item, fetches it, decodes it into the spool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};

use super::ending::{give_back, given_back, settle, stopped};
use super::{Active, Heard, Job, Shared, spool};
use crate::decode;
use crate::event::{Event, Step};
use crate::media::{Audio, Failure, FailureClass, MediaId, Metadata};
use crate::queue::Outcome;
use crate::stage::StageMeter;
use crate::store::{Claim, Work};

/// Claims, fetches, decodes.
pub(super) async fn io_worker(
    shared: Arc<Shared>,
    meter: Arc<StageMeter>,
    jobs: Receiver<Job>,
    next: Sender<Heard>,
) {
    while let Some(Job { media_id, reply }) = meter.recv(&jobs).await {
        if !shared.steps.spool.room(&shared.events, &shared.stop).await {
            // Told to stop before the item was touched: the queue keeps the job for the next run.
            let _ = reply.send(given_back());
            continue;
        }
        let busy = meter.busy();
        let work = match claim(&shared, media_id).await {
            Ok(work) => work,
            Err(outcome) => {
                let _ = reply.send(outcome);
                continue;
            }
        };
        let mut active = Active {
            title: work.item.title.clone(),
            metadata: Metadata::default(),
            captions: None,
            started: Instant::now(),
            work,
            reply,
        };
        shared.events.send(Event::ItemStarted { media_id, title: active.title.clone() });
        let brought = bring(&shared, &mut active).await;
        drop(busy);
        match brought {
            Ok(audio) => {
                meter.finished();
                if let Some(heard) = hand_on(&meter, &next, Heard { active, audio }).await {
                    give_back(&shared, heard.active).await;
                }
            }
            Err(failure) => settle(&shared, active, failure).await,
        }
    }
}

/// Sends to the next stage; gives the value back where that stage is gone.
async fn hand_on<T>(meter: &StageMeter, next: &Sender<T>, value: T) -> Option<T> {
    let start = Instant::now();
    let sent = next.send(value).await;
    meter.waited_out(start.elapsed());
    sent.err().map(|e| e.0)
}

/// Makes the item this worker's, or says what to answer instead.
async fn claim(shared: &Shared, media_id: MediaId) -> Result<Box<Work>, Outcome> {
    match shared.steps.store.claim(media_id, &shared.worker).await {
        Ok(Claim::Work(work)) => Ok(work),
        // Done by a worker that died before it could delete the job, given up, or removed: nothing is left to do.
        Ok(Claim::AlreadyDone | Claim::GivenUp | Claim::Gone) => Err(Outcome::Done),
        Err(error) => {
            tracing::warn!(%media_id, %error, "failed to claim an item; trying again");
            Err(Outcome::Retry { after: Duration::from_secs(5), message: error.to_string() })
        }
    }
}

/// Fetches and decodes one item into its spool directory.
async fn bring(shared: &Arc<Shared>, active: &mut Active) -> Result<Audio, Failure> {
    let item = &active.work.item;
    let media_id = item.media_id;
    let dir = shared.steps.spool.dir(media_id)?;
    let fetched = tokio::select! {
        biased;
        () = shared.cancel.cancelled() => return Err(stopped()),
        fetched = shared.steps.fetcher.fetch(item, &dir, &shared.events, &shared.cancel) => fetched?,
    };
    active.metadata = fetched.metadata;
    active.captions = fetched.captions;
    if let Some(title) = &active.metadata.title {
        active.title.clone_from(title);
    }
    let expected = active.metadata.duration_ms.or(item.duration_ms);
    let Ok(_permit) = shared.decoders.acquire().await else { return Err(stopped()) };
    let (inner, input, output) = (shared.clone(), fetched.path.clone(), dir.join(spool::AUDIO));
    let audio = tokio::task::spawn_blocking(move || {
        let mut progress = inner.events.progress(media_id, Step::Decode);
        let audio =
            decode::decode(&input, &output, &inner.steps.decode, expected, &mut progress, &inner.cancel)?;
        // Whatever the header said: this is all of it, and from here on the item waits for the next stage.
        let ms = audio.duration_ms().unsigned_abs();
        progress.set(ms, Some(ms));
        Ok::<_, Failure>(audio)
    })
    .await
    .map_err(|e| Failure::new(FailureClass::Internal, format!("decoding stopped unexpectedly: {e}")))??;
    // The download has served; the samples are what the next stage reads.
    shared.steps.spool.forget_download(media_id, &fetched.path);
    shared.steps.spool.note(media_id, audio.samples * 2);
    Ok(audio)
}

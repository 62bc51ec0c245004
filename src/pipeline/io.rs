//! The I/O stage: claims an item, fetches it, decodes it into the spool; then hands it on, to the next stage or to another
//! machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};

use super::begin::begin;
use super::ending::{give_back, settle, stopped};
use super::worker::{broke, each};
use super::{Active, Bringing, Heard, Job, Shared, send, spool};
use crate::decode;
use crate::event::{Event, Step};
use crate::media::{Audio, Failure, FailureClass, Locator};
use crate::queue::Outcome;
use crate::stage::StageMeter;
use crate::store::{Attempt, SaveError, Work, this_host};

/// Claims, fetches, decodes; then sends to `next`, or where there is none into the store.
pub(super) async fn io_worker(
    shared: Arc<Shared>,
    bringing: Arc<Bringing>,
    meter: Arc<StageMeter>,
    jobs: Receiver<Job>,
    next: Option<Sender<Heard>>,
) {
    let one = |job| one(&shared, &bringing, &meter, job, next.as_ref());
    each(&meter, &jobs, one, |id, panic| broke(&shared, id, panic)).await;
}

async fn one(
    shared: &Arc<Shared>,
    bringing: &Arc<Bringing>,
    meter: &Arc<StageMeter>,
    job: Job,
    next: Option<&Sender<Heard>>,
) {
    let more = bringing.backlog.room(&shared.store, &shared.events, &shared.stop);
    let Some(begun) = begin(shared, job, more).await else { return };
    let busy = meter.busy();
    if let Some(outcome) = leave_to_others(shared, bringing, &begun.work).await {
        let _ = begun.reply.send(outcome);
        return;
    }
    let mut active = Active::take(shared, begun, None);
    match (bring(shared, bringing, &mut active).await, next) {
        (Ok(audio), Some(next)) => {
            drop(busy);
            meter.finished();
            if let Some(heard) = hand_on(meter, next, Heard { active, audio }).await {
                give_back(shared, heard.active).await;
            }
        }
        (Ok(Some(audio)), None) => {
            send::send(shared, meter, active, audio).await;
            bringing.backlog.look_again();
        }
        (Ok(None), None) => {
            let message = "there is no audio to hand over";
            settle(shared, active, Failure::new(FailureClass::Internal, message)).await;
        }
        (Err(failure), _) => settle(shared, active, failure).await,
    }
}

/// Sends to the next stage; gives the value back where that stage is gone.
pub(super) async fn hand_on<T>(meter: &StageMeter, next: &Sender<T>, value: T) -> Option<T> {
    let start = Instant::now();
    let sent = next.send(value).await;
    meter.waited_out(start.elapsed());
    sent.err().map(|e| e.0)
}

/// How often another machine's file is missed while that machine does not work, before the item is given up: with the waits
/// between, that takes five leases. Longer than a machine takes to start again, or to load its models.
const LOOKS: u32 = 5;

/// A file that is not on this machine may be on another one that works on the library: then the item is left to that. No
/// attempt is consumed, however often the wrong machine gets it. Where the file was found by a machine that does not work now,
/// the item waits for it for a while ([`LOOKS`]); with nobody else there it fails as unreadable.
async fn leave_to_others(shared: &Shared, bringing: &Bringing, work: &Work) -> Option<Outcome> {
    const LOOK_AGAIN: Duration = Duration::from_secs(15);
    let Locator::File(path) = &work.item.locator else { return None };
    if tokio::fs::try_exists(path).await.unwrap_or(true) {
        return None;
    }
    let media_id = work.item.media_id;
    let others = shared.store.other_hosts_fetch(&shared.worker, bringing.lease).await;
    let (after, counted, to) = if others.unwrap_or(false) {
        (LOOK_AGAIN, Attempt::Free, "left to the others".to_owned())
    } else {
        let host = shared.store.found_on(media_id).await.ok().flatten().filter(|host| host != this_host())?;
        if work.attempt >= LOOKS {
            return None;
        }
        (bringing.lease * 5 / 4, Attempt::Counts, format!("it was found on {host}, which does not work now"))
    };
    let message = format!("{} is not on this machine; {to}", path.display());
    let failure = Failure::new(FailureClass::Unreadable, message.clone()).with_remedy(
        "run spoken work on the machine that has the file, or share its folder under the same path",
    );
    match shared.store.delay(&work.claimed, &failure, after, counted).await {
        Ok(_) => {}
        Err(SaveError::LeaseLost) => return Some(Outcome::LeaseLost),
        Err(error) => tracing::warn!(%media_id, %error, "failed to leave an item to others"),
    }
    if counted == Attempt::Counts {
        // Nobody else tells, and a run that waits for it should say for what.
        let (title, retry_in_ms) = (work.item.title.clone(), after.as_millis() as u64);
        shared.events.send(Event::ItemDelayed { media_id, title, message, retry_in_ms });
    }
    Some(Outcome::Retry { after, message: "the file is not on this machine".into() })
}

/// Fetches and decodes one item into its spool directory. No audio where captions do without.
async fn bring(
    shared: &Arc<Shared>,
    bringing: &Arc<Bringing>,
    active: &mut Active,
) -> Result<Option<Audio>, Failure> {
    let item = &active.work.item;
    let media_id = item.media_id;
    let dir = shared.spool.dir(media_id)?;
    let fetched = tokio::select! {
        biased;
        () = active.held.cancel.cancelled() => return Err(stopped()),
        fetched = bringing.fetcher.fetch(item, &dir, &shared.events, &active.held.cancel) => fetched?,
    };
    active.metadata = fetched.metadata;
    active.captions = fetched.captions;
    if let Some(title) = &active.metadata.title {
        active.title.clone_from(title);
    }
    let Some(media) = fetched.path else { return Ok(None) };
    let expected = active.metadata.duration_ms.or(item.duration_ms);
    let Ok(_permit) = shared.decoders.acquire().await else { return Err(stopped()) };
    active.held.step(Step::Decode);
    let (inner, limits, cancel) = (shared.clone(), bringing.clone(), active.held.cancel.clone());
    let (input, output) = (media.clone(), dir.join(spool::AUDIO));
    let audio = tokio::task::spawn_blocking(move || {
        let mut progress = inner.events.progress(media_id, Step::Decode);
        let audio = decode::decode(&input, &output, &limits.decode, expected, &mut progress, &cancel)?;
        // Whatever the header said: this is all of it, and from here on the item waits for the next stage.
        let ms = audio.duration_ms().unsigned_abs();
        progress.set(ms, Some(ms));
        Ok::<_, Failure>(audio)
    })
    .await
    .map_err(|e| Failure::new(FailureClass::Internal, format!("decoding stopped unexpectedly: {e}")))??;
    if active.held.cancel.is_cancelled() {
        // It may be somebody else's by now, and the files with it.
        return Err(stopped());
    }
    // The download has served; the samples are what the next stage reads.
    shared.spool.forget_download(media_id, &media);
    shared.spool.note(media_id, audio.samples * 2);
    Ok(Some(audio))
}

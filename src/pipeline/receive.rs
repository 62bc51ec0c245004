//! Takes over audio that another machine has left: claims the item, downloads, checks, unpacks into the spool.

use std::sync::Arc;

use async_channel::{Receiver, Sender};

use super::begin::begin;
use super::ending::{clear, give_back, given_back, settle, stopped};
use super::io::hand_on;
use super::spool::{self, PACKED};
use super::worker::{broke, each};
use super::{Active, Heard, Job, Shared};
use crate::decode::{self, DecodeOptions};
use crate::event::Step;
use crate::handover::{Handover, HandoverError};
use crate::media::{Audio, Failure, FailureClass};
use crate::queue::Outcome;
use crate::stage::StageMeter;
use crate::store::HandedOver;

/// Claims and receives.
pub(super) async fn receive_worker(
    shared: Arc<Shared>,
    handover: Handover,
    meter: Arc<StageMeter>,
    jobs: Receiver<Job>,
    next: Sender<Heard>,
) {
    let one = |job| one(&shared, &handover, &meter, job, &next);
    each(&meter, &jobs, one, |id, panic| broke(&shared, id, panic)).await;
}

async fn one(
    shared: &Arc<Shared>,
    handover: &Handover,
    meter: &Arc<StageMeter>,
    job: Job,
    next: &Sender<Heard>,
) {
    let media_id = job.media_id;
    let Some(begun) = begin(shared, job, std::future::ready(true)).await else { return };
    let busy = meter.busy();
    let handed = match shared.store.handed_over(media_id).await {
        Ok(Some(handed)) => handed,
        other => {
            let _ = shared.store.release(&begun.work.claimed).await;
            let _ = begun.reply.send(match other {
                Err(error) => {
                    tracing::warn!(%media_id, %error, "failed to ask what was handed over");
                    given_back()
                }
                // Thrown away since this job was claimed: it has to be fetched.
                Ok(_) => Outcome::Onward,
            });
            return;
        }
    };
    let mut active = Active::take(shared, begun, handed.metadata.title.clone());
    active.metadata.clone_from(&handed.metadata);
    active.captions.clone_from(&handed.captions);
    active.object = Some(handover.key(media_id, handed.fence));
    let received = receive(shared, handover, &active, &handed).await;
    drop(busy);
    match received {
        Ok(audio) => {
            meter.finished();
            if let Some(heard) = hand_on(meter, next, Heard { active, audio: Some(audio) }).await {
                give_back(shared, heard.active).await;
            }
        }
        Err(Received::Failed(failure)) => settle(shared, active, failure).await,
        Err(Received::Useless(failure)) => throw_away(shared, active, failure).await,
    }
}

/// Why there is no audio.
enum Received {
    /// Another try may bring it.
    Failed(Failure),
    /// It is gone or not what was left: the item has to be fetched anew.
    Useless(Failure),
}

impl From<Failure> for Received {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

async fn receive(
    shared: &Arc<Shared>,
    handover: &Handover,
    active: &Active,
    handed: &HandedOver,
) -> Result<Audio, Received> {
    let media_id = active.work.item.media_id;
    let dir = shared.spool.dir(media_id)?;
    let packed = dir.join(PACKED);
    let key = handover.key(media_id, handed.fence);
    active.held.step(Step::Receive);
    let mut progress = shared.events.progress(media_id, Step::Receive);
    let got = tokio::select! {
        biased;
        () = active.held.cancel.cancelled() => return Err(stopped().into()),
        got = handover.get(&key, &handed.sent, &packed, &mut progress) => got,
    };
    got.map_err(|error| match error {
        HandoverError::Absent { .. } | HandoverError::Damaged(_) => {
            Received::Useless(Failure::new(FailureClass::Internal, error.to_string()))
        }
        error => Received::Failed(
            Failure::new(FailureClass::Network, error.to_string())
                .with_remedy("check HANDOVER_URL and the store's credentials on the transcribe nodes"),
        ),
    })?;
    let Ok(_permit) = shared.decoders.acquire().await else { return Err(stopped().into()) };
    active.held.step(Step::Decode);
    let (inner, input, output) = (shared.clone(), packed.clone(), dir.join(spool::AUDIO));
    let cancel = active.held.cancel.clone();
    // What was left was within the limits of the machine that fetched it.
    let limits =
        DecodeOptions { max_duration_ms: i64::MAX, max_output_bytes: u64::MAX, ..DecodeOptions::default() };
    let audio = tokio::task::spawn_blocking(move || {
        let mut progress = inner.events.progress(media_id, Step::Decode);
        decode::decode(&input, &output, &limits, None, &mut progress, &cancel)
    })
    .await
    .map_err(|e| Failure::new(FailureClass::Internal, format!("unpacking stopped unexpectedly: {e}")))?;
    let audio = match audio {
        Ok(audio) if audio.hash == handed.audio_hash && audio.samples == handed.samples => audio,
        Ok(_) => {
            let message = "the audio handed over holds other samples than were decoded";
            return Err(Received::Useless(Failure::new(FailureClass::Internal, message)));
        }
        Err(failure) if active.held.cancel.is_cancelled() => return Err(failure.into()),
        Err(failure) => return Err(Received::Useless(failure)),
    };
    let _ = tokio::fs::remove_file(&packed).await;
    shared.spool.note(media_id, audio.samples * 2);
    Ok(Audio { offset_ms: handed.offset_ms, ..audio })
}

/// What was left is of no use: the item goes back to be fetched. The attempt counts, so that this has an end.
async fn throw_away(shared: &Arc<Shared>, active: Active, failure: Failure) {
    let media_id = active.work.item.media_id;
    tracing::warn!(%media_id, reason = %failure, "a hand-over is of no use; the item is fetched again");
    match shared.store.discard_handover(&active.work.claimed).await {
        Ok(true) => super::ending::remove_object(shared, &active).await,
        // The claim is lost, which whoever ends it will find.
        Ok(false) => {}
        Err(error) => tracing::warn!(%media_id, %error, "failed to throw a hand-over away"),
    }
    clear(shared, &active);
    let failure = Failure { class: FailureClass::Internal, ..failure };
    settle(shared, active, failure).await;
}

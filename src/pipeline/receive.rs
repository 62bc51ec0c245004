//! Takes over audio that another machine has left: claims the item, downloads, checks, unpacks into the spool.

use std::sync::Arc;
use std::time::Instant;

use async_channel::{Receiver, Sender};

use super::ending::{give_back, given_back, settle, stopped};
use super::io::{claim, hand_on};
use super::{Active, Heard, Job, Shared, spool};
use crate::decode::{self, DecodeOptions};
use crate::event::{Event, Step};
use crate::handover::{Handover, HandoverError};
use crate::media::{Audio, Failure, FailureClass};
use crate::queue::Outcome;
use crate::stage::StageMeter;
use crate::store::HandedOver;

/// Name of the packed audio in an item's directory.
const PACKED: &str = "audio.flac";

/// Claims and receives.
pub(super) async fn receive_worker(
    shared: Arc<Shared>,
    handover: Handover,
    meter: Arc<StageMeter>,
    jobs: Receiver<Job>,
    next: Sender<Heard>,
) {
    while let Some(Job { media_id, reply }) = meter.recv(&jobs).await {
        let may = shared.hand.free(&shared.stop).await;
        if !may || !shared.spool.room(&shared.events, &shared.stop).await {
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
        let handed = match shared.store.handed_over(media_id).await {
            Ok(handed) => handed,
            Err(error) => {
                tracing::warn!(%media_id, %error, "failed to ask what was handed over");
                let _ = shared.store.release(&work.claimed).await;
                let _ = reply.send(given_back());
                continue;
            }
        };
        let Some(handed) = handed else {
            // Thrown away since this job was claimed: it has to be fetched.
            let _ = shared.store.release(&work.claimed).await;
            let _ = reply.send(Outcome::Onward);
            continue;
        };
        let title = handed.metadata.title.clone().unwrap_or_else(|| work.item.title.clone());
        let active = Active {
            held: shared.hand.take(work.claimed, &shared.cancel),
            metadata: handed.metadata.clone(),
            started: Instant::now(),
            captions: None,
            object: Some(handover.key(media_id, handed.fence)),
            title,
            work,
            reply,
        };
        shared.events.send(Event::ItemStarted { media_id, title: active.title.clone() });
        let received = receive(&shared, &handover, &active, &handed).await;
        drop(busy);
        match received {
            Ok(audio) => {
                meter.finished();
                if let Some(heard) = hand_on(&meter, &next, Heard { active, audio }).await {
                    give_back(&shared, heard.active).await;
                }
            }
            Err(Received::Failed(failure)) => settle(&shared, active, failure).await,
            Err(Received::Useless(failure)) => throw_away(&shared, active, failure).await,
        }
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
    shared.spool.remove(media_id);
    let failure = Failure { class: FailureClass::Internal, ..failure };
    settle(shared, active, failure).await;
}

//! Hands decoded audio over to transcribers on other machines: packed, uploaded, and only then said in the database.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::ending::{clear, give_back, lease_lost, settle, stopped};
use super::spool::PACKED;
use super::{Active, Shared};
use tokio_util::sync::CancellationToken;

use crate::event::{Event, Step};
use crate::handover::{Handover, HandoverError, Key, Sent, flac};
use crate::media::{Audio, Failure, FailureClass};
use crate::queue::Outcome;
use crate::stage::StageMeter;
use crate::store::{HandedOver, SaveError};

/// Pauses between tries to upload: what was fetched is too dear to throw away for a store that is away for some minutes.
const PAUSES: [u64; 7] = [1, 4, 15, 30, 60, 120, 120];

/// Takes an item out of this machine's hand.
pub(super) async fn send(shared: &Arc<Shared>, meter: &StageMeter, active: Active, audio: Audio) {
    let media_id = active.work.item.media_id;
    let Some(handover) = &shared.handover else {
        let failure = Failure::new(FailureClass::Setup, "there is no store to hand audio over through");
        return settle(shared, active, failure.with_remedy("set HANDOVER_URL")).await;
    };
    let key = handover.key(media_id, active.work.claimed.fence);
    let (samples, offset_ms, audio_hash, audio_ms) =
        (audio.samples, audio.offset_ms, audio.hash, audio.duration_ms());
    active.held.step(Step::HandOver);
    let sent = match upload(shared, handover, &key, audio, &active.held.cancel).await {
        Ok(sent) => sent,
        Err(failure) => return settle(shared, active, failure).await,
    };
    let (metadata, captions) = (active.metadata.clone(), active.captions.clone());
    let handed = HandedOver { fence: key.fence, sent, samples, offset_ms, audio_hash, metadata, captions };
    match commit(shared, &active, &handed).await {
        Ok(()) => {}
        Err(SaveError::LeaseLost) => {
            // No hand-over names it, and none ever will: its fence is gone.
            if let Err(error) = handover.remove(&key).await {
                tracing::debug!(%media_id, %error, "audio of a lost claim is not removed yet");
            }
            return lease_lost(shared, active).await;
        }
        Err(_) if shared.cancel.is_cancelled() => return give_back(shared, active).await,
        Err(error) => {
            let failure =
                Failure::new(FailureClass::Internal, format!("the hand-over was not noted: {error}"));
            return settle(shared, active, failure).await;
        }
    }
    clear(shared, &active);
    meter.finished();
    shared.events.send(Event::ItemHandedOver {
        media_id,
        title: active.title,
        audio_ms,
        bytes: sent.bytes,
        took_ms: active.started.elapsed().as_millis() as u64,
    });
    let _ = active.reply.send(Outcome::Onward);
}

/// Packs the audio and brings it into the store, with patience.
async fn upload(
    shared: &Arc<Shared>,
    handover: &Handover,
    key: &Key,
    audio: Audio,
    cancel: &CancellationToken,
) -> Result<Sent, Failure> {
    let packed = audio.path.with_file_name(PACKED);
    pack(shared, &audio.path, &packed, cancel).await?;
    // The samples have served: the packed ones take half the room while they wait.
    let _ = tokio::fs::remove_file(&audio.path).await;
    if let Ok(file) = tokio::fs::metadata(&packed).await {
        shared.spool.note(key.media_id, file.len());
    }
    let Ok(_permit) = shared.senders.acquire().await else { return Err(stopped()) };
    let mut progress = shared.events.progress(key.media_id, Step::HandOver);
    let mut pauses = PAUSES.iter();
    loop {
        let put = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(stopped()),
            put = handover.put(key, &packed, &mut progress) => put,
        };
        let error = match put {
            Ok(sent) => return Ok(sent),
            Err(error) => error,
        };
        let Some(&pause) = pauses.next().filter(|_| is_transient(&error)) else {
            let failure = Failure::new(FailureClass::Internal, error.to_string());
            return Err(
                failure.with_remedy("check HANDOVER_URL and the store's credentials on the fetch nodes")
            );
        };
        tracing::warn!(media_id = %key.media_id, %error, retry_in_s = pause, "failed to hand audio over");
        tokio::select! {
            () = cancel.cancelled() => return Err(stopped()),
            () = tokio::time::sleep(Duration::from_secs(pause)) => {}
        }
    }
}

async fn pack(
    shared: &Arc<Shared>,
    pcm: &Path,
    packed: &Path,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let Ok(_permit) = shared.decoders.acquire().await else { return Err(stopped()) };
    let (pcm, packed, cancel) = (pcm.to_owned(), packed.to_owned(), cancel.clone());
    tokio::task::spawn_blocking(move || flac::pack(&pcm, &packed, &cancel))
        .await
        .map_err(|e| Failure::new(FailureClass::Internal, format!("packing stopped unexpectedly: {e}")))?
}

/// Says in the database what was left. A database that is away is waited for, as with transcripts.
async fn commit(shared: &Shared, active: &Active, handed: &HandedOver) -> Result<(), SaveError> {
    let mut pause = Duration::from_secs(1);
    loop {
        match shared.store.hand_over(&active.work.claimed, handed).await {
            Err(error) if error.is_transient() && !shared.cancel.is_cancelled() => {
                let media_id = active.work.item.media_id;
                tracing::warn!(%media_id, %error, retry_in_s = pause.as_secs(), "failed to note a hand-over");
                tokio::select! {
                    () = shared.cancel.cancelled() => return Err(error),
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(30)),
                }
            }
            other => return other,
        }
    }
}

fn is_transient(error: &HandoverError) -> bool {
    matches!(error, HandoverError::Store { transient: true, .. })
}

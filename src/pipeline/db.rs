//! The DB stage: forms passages, embeds them, and writes all of an item in one transaction.

use std::sync::Arc;
use std::time::Duration;

use async_channel::Receiver;

use super::ending::{clear, lease_lost, remove_object, settle, stopped};
use super::worker::{broke, each};
use super::{Active, Hearing, Said, Shared};
use crate::embed::{self, Embedder, Heading, PassageOptions};
use crate::event::{Event, Step};
use crate::fetch::captions;
use crate::media::{Failure, FailureClass, Transcript};
use crate::queue::Outcome;
use crate::stage::StageMeter;
use crate::store::{EmbeddingModel, Results, SaveError};

/// Embeds and writes.
pub(super) async fn db_worker(
    shared: Arc<Shared>,
    hearing: Arc<Hearing>,
    meter: Arc<StageMeter>,
    from: Receiver<Said>,
) {
    let one = |said| one(&shared, &hearing, &meter, said);
    each(&meter, &from, one, |id, panic| broke(&shared, id, panic)).await;
}

async fn one(shared: &Arc<Shared>, hearing: &Hearing, meter: &Arc<StageMeter>, said: Said) {
    let Said { active, transcript } = said;
    let _busy = meter.busy();
    let stored = match or_captions(shared, &active, transcript) {
        Ok(transcript) => write(shared, hearing, &active, &transcript).await.map(|w| (w, transcript)),
        Err(failure) => Err(failure),
    };
    let media_id = active.work.item.media_id;
    match stored {
        Ok((Written::Stored, transcript)) => {
            clear(shared, &active);
            remove_object(shared, &active).await;
            meter.finished();
            if !transcript.coverage.flags.is_empty() {
                let (title, flags) = (active.title.clone(), transcript.coverage.flags.clone());
                shared.events.send(Event::ItemFlagged { media_id, title, flags });
            }
            shared.events.send(Event::ItemFinished {
                media_id,
                title: active.title,
                audio_ms: transcript.duration_ms,
                segments: transcript.segments.len(),
                took_ms: active.started.elapsed().as_millis() as u64,
            });
            let _ = active.reply.send(Outcome::Done);
        }
        Ok((Written::LeaseLost, _)) => lease_lost(shared, active).await,
        Err(failure) => settle(shared, active, failure).await,
    }
}

/// The transcript, or the captions where the model failed or found nothing and there are some.
fn or_captions(
    shared: &Shared,
    active: &Active,
    transcript: Result<Transcript, Failure>,
) -> Result<Transcript, Failure> {
    let nothing = transcript.as_ref().map_or(true, |t| t.segments.is_empty());
    let Some(captions) = active.captions.as_ref().filter(|_| nothing && !shared.cancel.is_cancelled()) else {
        return transcript;
    };
    let heard_ms = transcript.as_ref().ok().map(|t| t.duration_ms);
    let Some(stated_ms) = heard_ms.or(active.metadata.duration_ms).or(active.work.item.duration_ms) else {
        return transcript;
    };
    match captions::transcript(captions, stated_ms) {
        Some(written) => {
            let why = transcript.map_or_else(|failure| failure.message, |_| "nothing was heard".to_owned());
            tracing::info!(media_id = %active.work.item.media_id, why, "captions stand in for the transcript");
            Ok(written)
        }
        None => transcript,
    }
}

/// What became of a write.
enum Written {
    Stored,
    LeaseLost,
}

/// Passages, vectors, one transaction. A database that is away is waited for: what was transcribed is too dear to
/// throw away.
async fn write(
    shared: &Shared,
    hearing: &Hearing,
    active: &Active,
    transcript: &Transcript,
) -> Result<Written, Failure> {
    let (media_id, store) = (active.work.item.media_id, &shared.store);
    let heading = Heading::new(&active.title, active.metadata.channel.as_deref());
    let mut embedder = hearing.embedders.current();
    // Where the model that answers cannot be had, what was transcribed is kept all the same.
    let mut must_answer = true;
    let mut pause = Duration::from_secs(1);
    'embed: loop {
        active.held.step(Step::Embed);
        let passages = embed::passages(&transcript.segments, &budget(hearing, &embedder, &heading), |text| {
            embedder.tokens(text)
        });
        let mut progress = shared.events.progress(media_id, Step::Embed);
        let total = passages.len() as u64;
        progress.set(0, Some(total));
        let texts = passages.iter().map(|p| p.text.clone()).collect();
        let vectors = embedder.embed_under(&heading, texts).await?;
        progress.set(total, Some(total));
        active.held.step(Step::Store);
        shared.events.send(Event::StepStarted { media_id, step: Step::Store });
        let embedding =
            EmbeddingModel { model_id: embedder.model_id().to_owned(), dimension: embedder.dimension() };
        let (claimed, metadata) = (&active.work.claimed, &active.metadata);
        let results =
            Results { metadata, transcript, passages: &passages, vectors: &vectors, embedding: &embedding };
        loop {
            let saved = if must_answer {
                store.complete_answering(claimed, &results).await
            } else {
                store.complete(claimed, metadata, transcript, &passages, &vectors, &embedding).await
            };
            match saved {
                Ok(()) => return Ok(Written::Stored),
                Err(SaveError::LeaseLost) => return Ok(Written::LeaseLost),
                Err(SaveError::OtherModel { answers, .. }) => {
                    match hearing.embedders.change_to(&answers).await {
                        Ok(new) if new.model_id() != embedder.model_id() => embedder = new,
                        Ok(_) => must_answer = false,
                        Err(failure) => {
                            let message = format!(
                                "searches are answered by the embedding model {answers}, which cannot be loaded here \
                                 ({failure}): {} is found by its words only until `spoken reembed` was run",
                                active.title
                            );
                            shared.events.send(Event::Noticed { warning: true, message });
                            must_answer = false;
                        }
                    }
                    continue 'embed;
                }
                Err(error) if error.is_transient() && !shared.cancel.is_cancelled() => {
                    tracing::warn!(%media_id, %error, retry_in_s = pause.as_secs(), "failed to store an item");
                    tokio::select! {
                        () = shared.cancel.cancelled() => return Err(stopped()),
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(30)),
                    }
                }
                Err(error) => return Err(Failure::new(FailureClass::Internal, error.to_string())),
            }
        }
    }
}

/// How long passages may be for this model to read all of them.
fn budget(hearing: &Hearing, embedder: &Embedder, heading: &Heading) -> PassageOptions {
    let max_tokens = hearing.passages.max_tokens.min(embedder.room(heading));
    PassageOptions { max_tokens, ..hearing.passages.clone() }
}

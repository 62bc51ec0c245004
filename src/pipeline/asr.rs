//! The ASR stage: hands decoded files to the model's pool.

use std::sync::Arc;

use async_channel::{Receiver, Sender};

use super::ending::give_back;
use super::{Heard, Said, Shared};
use crate::fetch::captions;
use crate::media::{Failure, Transcript};
use crate::stage::StageMeter;

/// Cuts speech into windows for the model's pool; the transcript leaves from the model's own thread.
pub(super) fn asr_worker(
    shared: &Arc<Shared>,
    meter: &Arc<StageMeter>,
    from: &Receiver<Heard>,
    to: &Sender<Said>,
) {
    while let Some(Heard { active, audio }) = meter.recv_blocking(from) {
        let media_id = active.work.item.media_id;
        let captions = active.captions.as_ref().filter(|captions| captions.first);
        if let Some(transcript) = captions.and_then(|c| captions::transcript(c, audio.duration_ms())) {
            // Written by people: no model hears better.
            if let Err(lost) = to.send_blocking(Said { active, transcript: Ok(transcript) }) {
                let inner = shared.clone();
                shared.runtime.spawn(async move { give_back(&inner, lost.0.active).await });
            }
            continue;
        }
        let (to, inner) = (to.clone(), shared.clone());
        let done = Box::new(move |transcript: Result<Transcript, Failure>| {
            if let Err(lost) = to.send_blocking(Said { active, transcript }) {
                inner.runtime.clone().spawn(async move { give_back(&inner, lost.0.active).await });
            }
        });
        shared.steps.transcriber.submit(media_id, &audio, &shared.events, &shared.cancel, done);
    }
}

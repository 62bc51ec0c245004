//! The ASR stage: hands decoded files to the model's pool.

use std::sync::Arc;

use async_channel::{Receiver, Sender};

use super::ending::give_back;
use super::{Heard, Hearing, Said, Shared};
use crate::event::Step;
use crate::fetch::captions;
use crate::media::{Failure, Transcript};
use crate::stage::StageMeter;

/// Cuts speech into windows for the model's pool; the transcript leaves from the model's own thread.
pub(super) fn asr_worker(
    shared: &Arc<Shared>,
    hearing: &Hearing,
    meter: &Arc<StageMeter>,
    from: &Receiver<Heard>,
    to: &Sender<Said>,
) {
    while let Some(Heard { active, audio }) = meter.recv_blocking(from) {
        let (media_id, language) = (active.work.item.media_id, active.work.language.clone());
        let captions = active.captions.as_ref().filter(|captions| captions.first);
        if let Some(transcript) = captions.and_then(|c| captions::transcript(c, audio.duration_ms())) {
            // Written by people: no model hears better.
            if let Err(lost) = to.send_blocking(Said { active, transcript: Ok(transcript) }) {
                let inner = shared.clone();
                shared.runtime.spawn(async move { give_back(&inner, lost.0.active).await });
            }
            continue;
        }
        active.held.step(Step::Transcribe);
        let cancel = active.held.cancel.clone();
        let (to, inner) = (to.clone(), shared.clone());
        let done = Box::new(move |transcript: Result<Transcript, Failure>| {
            if let Err(lost) = to.send_blocking(Said { active, transcript }) {
                inner.runtime.clone().spawn(async move { give_back(&inner, lost.0.active).await });
            }
        });
        let events = &shared.events;
        hearing.transcriber.submit_in(language.as_deref(), media_id, &audio, events, &cancel, done);
    }
}

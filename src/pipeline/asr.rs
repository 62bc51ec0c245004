//! The ASR stage: hands decoded files to the model's pool.

use std::sync::Arc;

use async_channel::{Receiver, Sender};

use super::ending::give_back;
use super::worker::{broke, each_blocking};
use super::{Heard, Hearing, Said, Shared};
use crate::event::Step;
use crate::fetch::captions;
use crate::media::{Audio, Failure, FailureClass, Transcript};
use crate::stage::StageMeter;

/// Cuts speech into windows for the model's pool; the transcript leaves from the model's own thread.
pub(super) fn asr_worker(
    shared: &Arc<Shared>,
    hearing: &Hearing,
    meter: &Arc<StageMeter>,
    from: &Receiver<Heard>,
    to: &Sender<Said>,
) {
    let one = |heard| one(shared, hearing, to, heard);
    each_blocking(meter, from, one, |id, panic| broke(shared, id, panic));
}

fn one(shared: &Arc<Shared>, hearing: &Hearing, to: &Sender<Said>, heard: Heard) {
    let Heard { active, audio } = heard;
    let (media_id, language) = (active.work.item.media_id, active.work.language.clone());
    let captions = active.captions.as_ref().filter(|captions| captions.first);
    let length_ms = audio.as_ref().map(Audio::duration_ms).or(active.metadata.duration_ms);
    let written = captions.zip(length_ms).and_then(|(captions, ms)| captions::transcript(captions, ms));
    let audio = match (written, audio) {
        (None, Some(audio)) => audio,
        // Written by people: no model hears better.
        (written, _) => {
            let none = || Failure::new(FailureClass::Internal, "there is neither audio nor good captions");
            if let Err(lost) = to.send_blocking(Said { active, transcript: written.ok_or_else(none) }) {
                let inner = shared.clone();
                shared.runtime.spawn(async move { give_back(&inner, lost.0.active).await });
            }
            return;
        }
    };
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

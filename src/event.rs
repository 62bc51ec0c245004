//! What happened: typed, past tense, told by workers and drawn by [`crate::report`].
//!
//! Workers know [`Events`], a cheap handle that never blocks; who listens, and what is made of it (bars, lines,
//! JSON, figures), is no worker's business.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::media::{FailureClass, Flag, MediaId};
use crate::stage::StageSummary;

/// The step an item is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Its bytes are on their way; progress in bytes.
    Fetch,
    /// Being decoded to 16 kHz mono; progress in milliseconds of audio.
    Decode,
    /// Its audio is left for another machine; progress in bytes.
    HandOver,
    /// The audio that another machine left is on its way; progress in bytes.
    Receive,
    /// Being transcribed; progress in milliseconds of audio.
    Transcribe,
    /// Passages are being embedded; progress in passages.
    Embed,
    /// Being written.
    Store,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A source (argument) was expanded.
    SourceListed {
        /// As given by the user. Untrusted text.
        source: String,
        /// Items found in it.
        items: usize,
        /// Of these, seen for the first time.
        new: usize,
    },
    /// An item will be worked on in this run.
    ItemQueued {
        /// The item.
        media_id: MediaId,
        /// Untrusted text.
        title: String,
    },
    /// Nothing was to be done for an item.
    ItemSkipped {
        /// The item.
        media_id: MediaId,
        /// Untrusted text.
        title: String,
        /// Why: `done before`, `over the limit of this run`, ….
        reason: String,
    },
    /// A worker took the item.
    ItemStarted {
        /// The item.
        media_id: MediaId,
        /// Untrusted text.
        title: String,
    },
    /// The item entered a step.
    StepStarted {
        /// The item.
        media_id: MediaId,
        /// The step.
        step: Step,
    },
    /// The item advanced within its step.
    StepProgressed {
        /// The item.
        media_id: MediaId,
        /// The step.
        step: Step,
        /// How much is done, in the step's unit.
        done: u64,
        /// Of how much, where known.
        total: Option<u64>,
    },
    /// The item is stored.
    ItemFinished {
        /// The item.
        media_id: MediaId,
        /// Untrusted text.
        title: String,
        /// Length of its audio.
        audio_ms: i64,
        /// Segments written.
        segments: usize,
        /// From taken to stored.
        took_ms: u64,
    },
    /// A stored transcript looks incomplete; told before [`Event::ItemFinished`].
    ItemFlagged {
        /// The item.
        media_id: MediaId,
        /// Untrusted text.
        title: String,
        /// What looks wrong; never empty.
        flags: Vec<Flag>,
    },
    /// The item's audio was left for a transcriber on another machine: here nothing more is to be done for it.
    ItemHandedOver {
        /// The item.
        media_id: MediaId,
        /// Untrusted text.
        title: String,
        /// Length of its audio.
        audio_ms: i64,
        /// Bytes left.
        bytes: u64,
        /// From taken to handed over.
        took_ms: u64,
    },
    /// An attempt failed and another one is scheduled.
    ItemDelayed {
        /// The item.
        media_id: MediaId,
        /// Untrusted text.
        title: String,
        /// What went wrong.
        message: String,
        /// When the next attempt is due, from now.
        retry_in_ms: u64,
    },
    /// The item's turn at its site has not come; it was put back and lost nothing.
    ItemHeld {
        /// The item.
        media_id: MediaId,
        /// Untrusted text.
        title: String,
        /// Why.
        message: String,
        /// When its turn comes, from now.
        retry_in_ms: u64,
    },
    /// The item is given up, or was before and is still asked for.
    ItemFailed {
        /// The item.
        media_id: MediaId,
        /// Untrusted text.
        title: String,
        /// What a person would open. Untrusted text.
        source: String,
        /// Kind of failure.
        class: FailureClass,
        /// What went wrong. May quote outside text.
        message: String,
        /// What to do about it.
        remedy: Option<String>,
    },
    /// Stages were sampled (about twice a second).
    StagesSampled {
        /// One entry a stage, in flow order.
        stages: Vec<StageSummary>,
    },
    /// The machine was sampled (about once a second).
    MachineSampled(Machine),
    /// Something the operator should read that belongs to no item.
    Noticed {
        /// True for a warning, false for information.
        warning: bool,
        /// One sentence.
        message: String,
    },
    /// Stopping was asked for: what is in flight drains, nothing new starts.
    StopRequested,
    /// The run is over.
    RunFinished(RunSummary),
}

/// The machine's load.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    /// Cores busy, of `cores`.
    pub cpu_busy: f32,
    /// Cores there are.
    pub cores: usize,
    /// Resident memory of this process.
    pub rss_bytes: u64,
    /// Each GPU; empty when there is none.
    pub gpus: Vec<Gpu>,
}

/// One GPU's load.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Gpu {
    /// Marketing name.
    pub name: String,
    /// Share of time that a kernel ran, percent.
    pub sm_percent: u32,
    /// Memory in use.
    pub vram_used: u64,
    /// Memory there is.
    pub vram_total: u64,
    /// Share of the power limit, percent, where the driver tells.
    pub power_percent: Option<u32>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
}

/// A failure to list at the end of a run.
#[derive(Clone, Debug, Serialize)]
pub struct FailedItem {
    /// The item.
    pub media_id: MediaId,
    /// Untrusted text.
    pub title: String,
    /// What a person would open.
    pub source: String,
    /// Kind of failure.
    pub class: FailureClass,
    /// What went wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// A transcript that looks incomplete, to list at the end of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlaggedItem {
    /// The item.
    pub media_id: MediaId,
    /// Untrusted text.
    pub title: String,
    /// What looks wrong.
    pub flags: Vec<Flag>,
}

/// The end of a run. Serialised as the last line of `ingest --json`; the names are a stable interface.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RunSummary {
    /// Items finished in this run.
    pub done: usize,
    /// Items whose audio was left for another machine in this run.
    #[serde(skip_serializing_if = "is_zero")]
    pub handed_over: usize,
    /// Items given up in this run, or named in it and given up before.
    pub failed: usize,
    /// Items that needed nothing (done before, over the limit).
    pub skipped: usize,
    /// From the start of discovery to the last item.
    pub wall_ms: u64,
    /// Audio of the items finished, or handed over, in this run.
    pub audio_ms: u64,
    /// One entry a stage, in flow order.
    pub stages: Vec<StageSummary>,
    /// What failed and why.
    pub failures: Vec<FailedItem>,
    /// What is done and looks incomplete.
    pub flagged: Vec<FlaggedItem>,
    /// Windows of speech in the files that were transcribed in this run.
    pub windows: u64,
    /// Of these, finished by an earlier run and not done again.
    pub windows_known: u64,
    /// True when the run was stopped before everything was done.
    pub interrupted: bool,
}

/// Most runs hand nothing over, and then say nothing of it.
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Where workers tell what happened. Never blocks; events are dropped once nobody listens.
///
/// Outcomes are counted as they pass ([`Events::tally`]), so that the summary of a run is what was told, no more and
/// no less.
#[derive(Clone, Debug)]
pub struct Events {
    to: UnboundedSender<Event>,
    tally: Arc<Mutex<RunSummary>>,
}

impl Events {
    /// A handle and the receiving end.
    pub fn channel() -> (Self, UnboundedReceiver<Event>) {
        let (to, from) = unbounded_channel();
        (Self { to, tally: Arc::default() }, from)
    }

    /// Tells one event.
    pub fn send(&self, event: Event) {
        self.count(&event);
        // Nobody listening (a library user, a finished reporter) is no error of the worker.
        let _ = self.to.send(event);
    }

    /// The outcomes so far: done, failed, skipped, flagged and audio; the other fields are the caller's to fill.
    pub fn tally(&self) -> RunSummary {
        self.tally.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn count(&self, event: &Event) {
        let mut tally = self.tally.lock().unwrap_or_else(|e| e.into_inner());
        match event {
            Event::ItemFinished { audio_ms, .. } => {
                tally.done += 1;
                tally.audio_ms += u64::try_from(*audio_ms).unwrap_or(0);
            }
            Event::ItemHandedOver { audio_ms, .. } => {
                tally.handed_over += 1;
                tally.audio_ms += u64::try_from(*audio_ms).unwrap_or(0);
            }
            Event::ItemFlagged { media_id, title, flags } => tally.flagged.push(FlaggedItem {
                media_id: *media_id,
                title: title.clone(),
                flags: flags.clone(),
            }),
            Event::ItemSkipped { .. } => tally.skipped += 1,
            Event::ItemFailed { media_id, title, source, class, message, remedy } => {
                tally.failed += 1;
                tally.failures.push(FailedItem {
                    media_id: *media_id,
                    title: title.clone(),
                    source: source.clone(),
                    class: *class,
                    message: message.clone(),
                    remedy: remedy.clone(),
                });
            }
            _ => {}
        }
    }

    /// A progress reporter for one step of one item that passes on at most ten events a second.
    pub fn progress(&self, media_id: MediaId, step: Step) -> Progress {
        self.send(Event::StepStarted { media_id, step });
        Progress { events: self.clone(), media_id, step, last: None }
    }
}

/// Tells the progress of one step, at a bounded rate.
#[derive(Debug)]
pub struct Progress {
    events: Events,
    media_id: MediaId,
    step: Step,
    last: Option<std::time::Instant>,
}

impl Progress {
    /// `done` of `total` in the step's unit.
    pub fn set(&mut self, done: u64, total: Option<u64>) {
        let due = self.last.is_none_or(|t| t.elapsed() >= Duration::from_millis(100));
        if due || total == Some(done) {
            self.last = Some(std::time::Instant::now());
            self.events.send(Event::StepProgressed { media_id: self.media_id, step: self.step, done, total });
        }
    }
}

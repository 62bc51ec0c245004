//! Every event as one JSON object a line, with the `time` it came (RFC 3339, UTC). What comes many times a second
//! (progress, samples) is thinned out.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::model::Model;
use super::{Reporter, timestamp, write_line};
use crate::event::{Event, RunSummary, Step};
use crate::media::MediaId;

/// Between two progress lines of one step of one item, and between two samples of a kind.
const EVERY: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Json<W> {
    out: W,
    progress: HashMap<MediaId, (Step, Instant)>,
    stages: Option<Instant>,
    machine: Option<Instant>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event,
}

impl<W: Write + Send> Json<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, progress: HashMap::new(), stages: None, machine: None }
    }

    /// False for what was told too short a time ago.
    fn is_due(&mut self, event: &Event, now: Instant) -> bool {
        let fresh = |then: Instant| now.saturating_duration_since(then) < EVERY;
        match event {
            Event::StepProgressed { media_id, step, done, total } => {
                let told = self.progress.get(media_id);
                if told.is_some_and(|&(s, then)| s == *step && fresh(then)) && *total != Some(*done) {
                    return false;
                }
                self.progress.insert(*media_id, (*step, now));
            }
            Event::ItemFinished { media_id, .. }
            | Event::ItemDelayed { media_id, .. }
            | Event::ItemFailed { media_id, .. } => {
                self.progress.remove(media_id);
            }
            Event::StagesSampled { .. } => {
                if self.stages.is_some_and(fresh) {
                    return false;
                }
                self.stages = Some(now);
            }
            Event::MachineSampled(_) => {
                if self.machine.is_some_and(fresh) {
                    return false;
                }
                self.machine = Some(now);
            }
            _ => {}
        }
        true
    }
}

impl<W: Write + Send> Reporter for Json<W> {
    fn event(&mut self, event: &Event, _: &Model, now: Instant) {
        if self.is_due(event, now) {
            let line = Line { time: timestamp(chrono::SecondsFormat::Millis), event };
            match serde_json::to_string(&line) {
                Ok(text) => write_line(&mut self.out, &text),
                Err(error) => tracing::warn!(%error, "cannot write an event as JSON"),
            }
        }
    }

    fn tick(&mut self, _: &Model, _: Instant) {}

    /// [`Event::RunFinished`] was the last line; where it did not come, what the events came to takes its place.
    fn finish(&mut self, run: &RunSummary, model: &Model) {
        if model.finished.is_none() {
            self.event(&Event::RunFinished(run.clone()), model, Instant::now());
        }
    }
}

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
            | Event::ItemHandedOver { media_id, .. }
            | Event::ItemDelayed { media_id, .. }
            | Event::ItemHeld { media_id, .. }
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
        if model.finished.is_none() && !model.is_void() {
            self.event(&Event::RunFinished(run.clone()), model, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Machine;

    #[test]
    fn every_event_is_one_object_with_its_time() {
        let t0 = Instant::now();
        let model = Model::new(t0);
        let mut json = Json::new(Vec::new());
        let media_id = MediaId::new("t", "1");
        let progress = |done| Event::StepProgressed { media_id, step: Step::Fetch, done, total: Some(100) };
        let at = |ms| t0 + Duration::from_millis(ms);
        json.event(&Event::ItemStarted { media_id, title: "two\nlines".into() }, &model, t0);
        for (ms, done) in [(0, 1), (100, 2), (4_900, 50), (5_000, 51), (5_100, 100)] {
            json.event(&progress(done), &model, at(ms));
        }
        for ms in [0, 1_000, 5_000] {
            json.event(&Event::MachineSampled(Machine::default()), &model, at(ms));
        }
        let mut model = model;
        model.apply(&Event::ItemQueued { media_id, title: String::new() }, t0);
        json.finish(&RunSummary { done: 1, ..RunSummary::default() }, &model);
        let text = String::from_utf8(json.out).expect("utf-8");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|l| serde_json::from_str(l).expect("one object a line")).collect();
        let told: Vec<String> = lines
            .iter()
            .map(|l| format!("{} {}", l["event"].as_str().expect("an event"), l["done"]))
            .collect();
        assert_eq!(
            told,
            [
                "item_started null",
                "step_progressed 1",
                "step_progressed 51",
                "step_progressed 100",
                "machine_sampled null",
                "machine_sampled null",
                "run_finished 1",
            ]
        );
        assert_eq!(lines[0]["title"], "two\nlines");
        assert!(lines[0]["time"].as_str().is_some_and(|t| t.ends_with('Z') && t.len() == 24));
    }
}

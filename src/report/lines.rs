//! Plain lines for a file, a pipe or cron: one for each event worth reading, and a heartbeat.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use super::figures::{self, bytes, clock, count, duration, grouped, percent, rate};
use super::model::Model;
use super::style::Style;
use super::text::{clean, clean_message};
use super::{Options, Reporter, advice, frame, summary, timestamp, write_line};
use crate::event::{Event, RunSummary};

/// Between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Between two lines that say who is being waited for, while the run drains.
const WAITING: Duration = Duration::from_secs(5);
/// Characters kept of a message that may quote a server.
const MESSAGE: usize = 500;
/// Columns of the summary.
const WIDTH: usize = 100;

/// See the module.
pub(super) struct Lines<W> {
    out: W,
    options: Options,
    spoke: Option<Instant>,
    /// Skipped items not told yet: a thousand of them are one line.
    told_skips: BTreeMap<String, u64>,
}

impl<W: Write + Send> Lines<W> {
    pub(super) fn new(out: W, options: Options) -> Self {
        Self { out, options, spoke: None, told_skips: BTreeMap::new() }
    }

    fn line(&mut self, text: &str) {
        let time = timestamp(chrono::SecondsFormat::Secs);
        write_line(&mut self.out, &format!("{time} {text}"));
    }

    /// Tells how many items were skipped since it was last told.
    fn tell_skips(&mut self, model: &Model) {
        let news: Vec<String> = model
            .skip_reasons
            .iter()
            .filter_map(|(reason, &n)| {
                let new = n - self.told_skips.get(reason).copied().unwrap_or(0);
                (new > 0).then(|| format!("skipped {}: {reason}", count(new, "item")))
            })
            .collect();
        if !news.is_empty() {
            self.told_skips.clone_from(&model.skip_reasons);
            news.iter().for_each(|line| self.line(line));
        }
    }
}

impl<W: Write + Send> Reporter for Lines<W> {
    fn event(&mut self, event: &Event, model: &Model, _: Instant) {
        if !matches!(event, Event::ItemSkipped { .. } | Event::ItemQueued { .. }) {
            self.tell_skips(model);
        }
        match event {
            Event::SourceListed { source, items, new } => {
                self.line(&format!("listed {}: {}, {new} new", clean(source), count(*items as u64, "item")));
            }
            Event::ItemStarted { title, .. } => self.line(&format!("started {}", clean(title))),
            Event::ItemFinished { title, audio_ms, segments, took_ms, .. } => {
                let audio = u64::try_from(*audio_ms).unwrap_or(0);
                let speed = rate(audio, *took_ms).map_or(String::new(), |r| format!(" ({r}x realtime)"));
                self.line(&format!(
                    "finished {}: {} of audio in {}{speed}, {}",
                    clean(title),
                    clock(audio),
                    duration(*took_ms),
                    count(*segments as u64, "segment")
                ));
            }
            Event::ItemDelayed { title, message, retry_in_ms, .. } => self.line(&format!(
                "delayed {}: {}; next attempt in {}",
                clean(title),
                clean_message(message, MESSAGE),
                duration(*retry_in_ms)
            )),
            Event::ItemFailed { title, message, remedy, .. } => {
                let remedy = remedy.as_ref().map_or(String::new(), |r| format!(" ({})", clean(r)));
                let message = clean_message(message, MESSAGE);
                self.line(&format!("failed {}: {message}{remedy}", clean(title)));
            }
            Event::Noticed { warning, message } => {
                let label = if *warning { "warning" } else { "note" };
                self.line(&format!("{label}: {}", clean_message(message, MESSAGE)));
            }
            Event::StopRequested => {
                let busy = count(model.busy() as u64, "item");
                self.line(&format!("stopping: {busy} in flight; a second signal quits at once"));
                self.spoke = None;
            }
            Event::ItemQueued { .. }
            | Event::ItemSkipped { .. }
            | Event::StepStarted { .. }
            | Event::StepProgressed { .. }
            | Event::StagesSampled { .. }
            | Event::MachineSampled(_)
            | Event::RunFinished(_) => {}
        }
    }

    fn tick(&mut self, model: &Model, now: Instant) {
        let every = if model.stopping { WAITING } else { HEARTBEAT };
        // The first heartbeat comes after its time, not at once.
        let spoke = *self.spoke.get_or_insert(now);
        if now.saturating_duration_since(spoke) < every {
            return;
        }
        self.spoke = Some(now);
        self.tell_skips(model);
        if model.stopping {
            self.line(&waiting_for(model, now));
        } else {
            self.line(&heartbeat(model, now));
        }
    }

    fn finish(&mut self, run: &RunSummary, model: &Model) {
        self.tell_skips(model);
        let plain = Style { color: false, unicode: true };
        for line in summary::lines(run, WIDTH, plain, self.options.hints) {
            write_line(&mut self.out, &line);
        }
    }
}

/// Who is still being waited for: the first few by name.
fn waiting_for(model: &Model, now: Instant) -> String {
    const NAMED: usize = 5;
    let items = model.in_flight(now);
    if items.is_empty() {
        return "stopping: nothing in flight any more".into();
    }
    let mut names: Vec<String> = items
        .iter()
        .take(NAMED)
        .map(|i| {
            let progress = frame::step_progress(i.step, i.done, i.total);
            let step = frame::step_name(i.step);
            if progress.is_empty() {
                format!("{} ({step})", i.title)
            } else {
                format!("{} ({step}, {progress})", i.title)
            }
        })
        .collect();
    if items.len() > NAMED {
        names.push(format!("{} more", items.len() - NAMED));
    }
    format!("stopping: waiting for {}", names.join(", "))
}

/// Counts, speed, stages and machine in one line.
fn heartbeat(model: &Model, now: Instant) -> String {
    let mut parts = vec![format!("{} of {} done", grouped(model.done), grouped(model.total()))];
    if model.failed > 0 {
        parts.push(format!("{} failed", model.failed));
    }
    parts.push(format!("{} in flight", model.busy()));
    let waiting = model.waiting() - model.delayed().min(model.waiting());
    if waiting > 0 {
        parts.push(format!("{} waiting", grouped(waiting)));
    }
    if model.delayed() > 0 {
        parts.push(format!("{} to try again", model.delayed()));
    }
    let mut groups = vec![parts.join(", ")];
    if let Some(rate) = rate(model.transcribed_ms(), model.elapsed_ms(now)) {
        let left = model.eta_ms(now).map_or(String::new(), |ms| format!(", {} left", figures::remaining(ms)));
        groups.push(format!("{rate} audio-hours per hour{left}"));
    }
    let stages: Vec<String> = model
        .stages
        .iter()
        .map(|s| {
            let queue =
                if s.capacity > 0 { format!(" queue {}/{}", s.queued, s.capacity) } else { String::new() };
            format!("{} {}/{} busy{queue}", s.name, s.in_hand, s.workers)
        })
        .collect();
    if !stages.is_empty() {
        groups.push(stages.join(", "));
    }
    if let Some(machine) = &model.machine {
        let mut parts: Vec<String> = machine
            .gpus
            .iter()
            .enumerate()
            .map(|(n, g)| {
                format!("GPU{n} SM {} % VRAM {} %", g.sm_percent, percent(g.vram_used, g.vram_total))
            })
            .collect();
        parts.push(format!("CPU {:.1}/{} cores", machine.cpu_busy, machine.cores));
        parts.push(format!("RSS {}", bytes(machine.rss_bytes)));
        groups.push(parts.join(", "));
    }
    groups.extend(advice::raise(model, now));
    format!("progress: {}", groups.join("; "))
}

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
        let trouble = matches!(
            event,
            Event::ItemFailed { .. } | Event::ItemFlagged { .. } | Event::Noticed { warning: true, .. }
        );
        if self.options.quiet && !trouble {
            return;
        }
        if !self.options.quiet && !matches!(event, Event::ItemSkipped { .. } | Event::ItemQueued { .. }) {
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
            Event::ItemHandedOver { title, audio_ms, bytes: size, took_ms, .. } => {
                let audio = u64::try_from(*audio_ms).unwrap_or(0);
                let (took, size) = (duration(*took_ms), bytes(*size));
                self.line(&format!(
                    "handed over {}: {} of audio ({size}) in {took}",
                    clean(title),
                    clock(audio)
                ));
            }
            Event::ItemFlagged { title, flags, .. } => {
                self.line(&format!(
                    "warning: {} looks incomplete: {}",
                    clean(title),
                    summary::in_words(flags)
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
            // Told of once for all items of the site.
            | Event::ItemHeld { .. }
            | Event::StepStarted { .. }
            | Event::StepProgressed { .. }
            | Event::StagesSampled { .. }
            | Event::MachineSampled(_)
            | Event::RunFinished(_) => {}
        }
    }

    fn tick(&mut self, model: &Model, now: Instant) {
        // Nothing to do is no news, however long it lasts.
        let idle = model.busy() == 0 && model.waiting() == 0 && !model.stopping;
        if self.options.quiet || idle {
            return;
        }
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
        if self.options.quiet {
            return;
        }
        self.tell_skips(model);
        if model.is_void() {
            return;
        }
        let plain = Style { color: false, unicode: true };
        for line in summary::lines(run, WIDTH, plain, &self.options) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Step;
    use crate::media::{FailureClass, MediaId};
    use crate::stage::StageSummary;

    /// Lines without their time of day.
    fn said(out: &[u8]) -> Vec<String> {
        let text = String::from_utf8(out.to_vec()).expect("utf-8");
        assert!(!text.contains(['\r', '\u{1b}']), "plain: {text:?}");
        text.lines().map(|l| l.get(21..).unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn a_run_in_plain_lines() {
        let t0 = Instant::now();
        let mut model = Model::new(t0);
        let mut lines = Lines::new(Vec::new(), Options::default());
        let id = |n: u32| MediaId::new("t", &n.to_string());
        let title = || "A \u{1b}[31mtalk".to_owned();
        let stage = StageSummary {
            name: "asr",
            workers: 2,
            busy_ms: 0,
            wait_in_ms: 0,
            wait_out_ms: 0,
            items: 0,
            in_hand: 1,
            queued: 3,
            capacity: 4,
        };
        let mut tell = |model: &mut Model, event: Event| {
            model.apply(&event, t0);
            lines.event(&event, model, t0);
        };
        tell(&mut model, Event::SourceListed { source: "talks/".into(), items: 3, new: 2 });
        for n in 3..6 {
            let reason = "done before".into();
            tell(&mut model, Event::ItemSkipped { media_id: id(n), title: title(), reason });
        }
        for n in 0..3 {
            tell(&mut model, Event::ItemQueued { media_id: id(n), title: title() });
            tell(&mut model, Event::ItemStarted { media_id: id(n), title: title() });
        }
        let (class, message) = (FailureClass::NotFound, "404\nnot found".to_owned());
        let remedy = Some("check the address".to_owned());
        let (media_id, source) = (id(0), String::new());
        tell(&mut model, Event::ItemFailed { media_id, title: title(), source, class, message, remedy });
        let message = "connection reset".into();
        tell(
            &mut model,
            Event::ItemDelayed { media_id: id(1), title: title(), message, retry_in_ms: 90_000 },
        );
        let (step, total) = (Step::Transcribe, Some(120_000));
        tell(&mut model, Event::StepProgressed { media_id: id(2), step, done: 60_000, total });
        tell(&mut model, Event::StagesSampled { stages: vec![stage] });
        let soon = t0 + Duration::from_secs(1);
        let later = t0 + Duration::from_secs(31);
        lines.tick(&model, t0);
        lines.tick(&model, soon);
        lines.tick(&model, later);
        model.apply(&Event::StopRequested, later);
        lines.event(&Event::StopRequested, &model, later);
        lines.tick(&model, later);
        lines.tick(&model, later + Duration::from_secs(5));
        let end = Event::ItemFinished {
            media_id: id(2),
            title: title(),
            audio_ms: 120_000,
            segments: 1,
            took_ms: 40_000,
        };
        model.apply(&end, later);
        lines.event(&end, &model, later);
        assert_eq!(
            said(&lines.out),
            [
                "listed talks/: 3 items, 2 new",
                "skipped 3 items: done before",
                "started A talk",
                "started A talk",
                "started A talk",
                "failed A talk: 404 not found (check the address)",
                "delayed A talk: connection reset; next attempt in 1 min 30 s",
                "progress: 0 of 3 done, 1 failed, 1 in flight, 1 to try again; 1.9 audio-hours per hour; \
                 asr 1/2 busy queue 3/4",
                "stopping: 1 item in flight; a second signal quits at once",
                "stopping: waiting for A talk (transcribe, 1:00 of 2:00)",
                "finished A talk: 2:00 of audio in 40 s (3.0x realtime), 1 segment",
            ]
        );
        lines.finish(&model.summary(later), &model);
        let text = String::from_utf8(lines.out).expect("utf-8");
        assert!(text.contains("\nStopped after "), "{text}");
    }
}

//! Bars on a terminal: the frame is redrawn when it changed, what matters later is printed above it.

use std::time::{Duration, Instant};

use super::figures::{clock, count, duration, rate};
use super::model::Model;
use super::screen::Rows;
use super::style::{Style, Tone};
use super::text::{clean, clean_message, truncate, width};
use super::{Options, Reporter, frame, summary};
use crate::event::{Event, RunSummary};

/// Finished items are named above the bars in runs up to this size; in larger ones the counter is enough.
const NAME_FINISHED: u64 = 20;
/// Characters kept of a message that may quote a server.
const MESSAGE: usize = 400;

/// See the module.
pub(super) struct Bars {
    rows: Rows,
    style: Style,
    options: Options,
    dirty: bool,
    drawn: Option<Instant>,
}

impl Bars {
    pub(super) fn new(rows: Rows, style: Style, options: Options) -> Self {
        Self { rows, style, options, dirty: true, drawn: None }
    }

    /// Puts lines above the bars.
    fn print(&self, lines: Vec<String>) {
        let lines: Vec<String> = lines.into_iter().map(|l| self.style.spell(l)).collect();
        self.rows.print(&lines);
    }

    fn columns(&self) -> usize {
        usize::from(self.rows.size().1)
    }

    /// Something about an item that should stay on the screen.
    fn problem(&self, mark: &str, tone: Tone, title: &str, message: &str, then: Option<String>) {
        let mut lines = vec![format!(
            "{} {}: {}",
            self.style.paint(tone, mark),
            self.style.paint(Tone::Bold, &truncate(&clean(title), self.columns())),
            clean_message(message, MESSAGE)
        )];
        lines.extend(then.map(|t| format!("  {}", self.style.paint(Tone::Dim, &format!("→ {t}")))));
        self.print(lines);
    }
}

impl Reporter for Bars {
    fn event(&mut self, event: &Event, model: &Model, _: Instant) {
        self.dirty = true;
        match event {
            Event::SourceListed { source, items, new } if *items != 1 => {
                let items = count(*items as u64, "item");
                let line = format!("{}: {items}, {new} new", clean(source));
                self.print(vec![self.style.paint(Tone::Dim, &line)]);
            }
            Event::ItemFinished { title, audio_ms, took_ms, .. } if model.total() <= NAME_FINISHED => {
                let audio = u64::try_from(*audio_ms).unwrap_or(0);
                let mut facts = format!("{} of audio in {}", clock(audio), duration(*took_ms));
                if let Some(speed) = rate(audio, *took_ms) {
                    facts.push_str(&format!(", {speed}× realtime"));
                }
                let room = self.columns().saturating_sub(width(&facts) + 5).max(20);
                let title = truncate(&clean(title), room);
                let (mark, facts) = (self.style.paint(Tone::Good, "✓"), self.style.paint(Tone::Dim, &facts));
                self.print(vec![format!("{mark} {title}  {facts}")]);
            }
            Event::ItemHandedOver { title, took_ms, .. } if model.total() <= NAME_FINISHED => {
                let (title, took) = (clean(title), duration(*took_ms));
                let mark = self.style.paint(Tone::Good, "✓");
                self.print(vec![format!("{mark} {title}  handed over in {took}")]);
            }
            Event::ItemFlagged { title, flags, .. } => {
                self.problem("!", Tone::Warn, title, &summary::in_words(flags), None);
            }
            Event::ItemDelayed { title, message, retry_in_ms, .. } => {
                let then = format!("next attempt in {}", duration(*retry_in_ms));
                self.problem("↻", Tone::Warn, title, message, Some(then));
            }
            Event::ItemFailed { title, message, remedy, .. } => {
                let then = remedy.as_ref().map(|r| clean_message(r, MESSAGE));
                self.problem("✗", Tone::Bad, title, message, then);
            }
            Event::Noticed { warning, message } => {
                let (label, tone) = if *warning { ("warning", Tone::Warn) } else { ("note", Tone::Accent) };
                let label = self.style.paint(tone, label);
                self.print(vec![format!("{label}: {}", clean_message(message, MESSAGE))]);
            }
            _ => {}
        }
    }

    fn tick(&mut self, model: &Model, now: Instant) {
        let second = Duration::from_secs(1);
        // Without events the clock, the estimate and the terminal's size still move.
        let due = self.drawn.is_none_or(|t| now.saturating_duration_since(t) >= second);
        let resized = self.rows.is_resized();
        if self.dirty || due || resized {
            self.dirty = false;
            self.drawn = Some(now);
            self.rows.show(&frame::rows(model, self.rows.size(), self.style, now));
        }
    }

    fn continued(&mut self) {
        self.rows.start_below();
    }

    fn finish(&mut self, run: &RunSummary, model: &Model) {
        if model.is_void() {
            return self.rows.finish(&[]);
        }
        // A line apart from what was printed on the way.
        let mut lines = vec![String::new()];
        lines.extend(summary::lines(run, self.columns().min(120), self.style, &self.options));
        self.rows.finish(&lines);
    }
}

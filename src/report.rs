//! Draws a run from its events: bars on a terminal, plain lines in a file, JSON lines for machines.
//!
//! [`run`] consumes the events of one run until the channel closes or [`Event::RunFinished`] arrives, and prints
//! the summary. Everything goes to stderr; stdout belongs to results. The drawing knows nothing but events:
//!
//! ```text
//! events ──► model (counts, items in flight, speed, estimate)
//!              ├──► frame ──► screen      bars: rows for a size, redrawn at most ten times a second
//!              ├──► lines                 one plain line per event worth reading, a heartbeat every 30 s
//!              └──► json                  every event as one JSON line with the time
//! advice (which setting to raise, the bottleneck), summary, figures, text: pure functions under them
//! ```
//!
//! Others who write to stderr meanwhile (log lines, a panic) go through [`Terminal`], so that they never tear
//! the bars.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::event::{Event, RunSummary};

mod advice;
mod bars;
#[cfg(test)]
mod demo;
pub mod figures;
mod frame;
mod json;
mod lines;
mod model;
mod screen;
mod style;
mod summary;
pub mod text;

use model::Model;
use screen::{Rows, Screen};

/// Between two drawings.
const FRAME: Duration = Duration::from_millis(100);
/// Events taken from the channel at once.
const BATCH: usize = 256;

/// How a run is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bars that are redrawn: for a terminal.
    Bars,
    /// Plain lines: for a file, a pipe, cron.
    Lines,
    /// One JSON object a line: for machines.
    Json,
}

impl Mode {
    /// What fits stderr: bars on a terminal that can move its cursor, lines elsewhere.
    pub fn detect() -> Self {
        if io::stderr().is_terminal() && !console::is_dumb() { Self::Bars } else { Self::Lines }
    }
}

/// Runs what it is given while the bars are out of the way.
pub type Suspender = Box<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

/// What is on stderr, shared by all who write there.
#[derive(Clone)]
pub struct Terminal {
    mode: Mode,
    rows: Option<Rows>,
    style: style::Style,
}

impl Terminal {
    /// The process's stderr, to be used in `mode`. Draws nothing yet.
    pub fn stderr(mode: Mode) -> Self {
        let rows = (mode == Mode::Bars).then(|| {
            let size = || console::Term::stderr().size();
            Rows::new(Screen::new(io::stderr(), size, reflows()))
        });
        Self { mode, rows, style: style::Style::detect() }
    }

    /// How this run is shown.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Runs `f`, which may write to stderr, while the bars are out of the way.
    pub fn suspend(&self, f: &mut dyn FnMut()) {
        match &self.rows {
            Some(rows) => rows.suspend(f),
            None => f(),
        }
    }

    /// Takes the bars away for good: before leaving the process in a hurry.
    pub fn close(&self) {
        if let Some(rows) = &self.rows {
            rows.finish(&[]);
        }
    }

    /// [`Terminal::suspend`] as a function to hand to whoever writes logs.
    pub fn suspender(&self) -> Suspender {
        let terminal = self.clone();
        Box::new(move |f| terminal.suspend(f))
    }

    /// Makes the messages of panics appear above the bars instead of in them. Wraps the hook that is installed.
    pub fn guard_panics(&self) {
        let terminal = self.clone();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| terminal.suspend(&mut || before(info))));
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// True where the terminal re-wraps lines when its width changes, as most do. The exceptions say who they are.
fn reflows() -> bool {
    let set = |name| std::env::var_os(name).is_some();
    let is_console = std::env::var("TERM").is_ok_and(|term| term == "linux");
    // GNU screen sets STY; tmux, which re-wraps, sets TMUX.
    !(is_console || set("XTERM_VERSION") || (set("STY") && !set("TMUX")))
}

/// What the reporter is told besides the events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// End the summary with the commands to try next.
    pub hints: bool,
    /// What has to follow `spoken` in these commands, so that they mean the same library: `--profile sample`. Empty:
    /// nothing.
    pub flags: String,
    /// Of plain lines, only those about what went wrong, and no summary: for cron, which mails what is said.
    pub quiet: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { hints: true, flags: String::new(), quiet: false }
    }
}

/// One way of showing a run. The model has already taken note of the event it is told.
trait Reporter: Send {
    /// Something happened.
    fn event(&mut self, event: &Event, model: &Model, now: Instant);
    /// Time has passed; called every [`FRAME`].
    fn tick(&mut self, model: &Model, now: Instant);
    /// The process was stopped and goes on.
    fn continued(&mut self) {}
    /// The run is over; nothing is told after this.
    fn finish(&mut self, run: &RunSummary, model: &Model);
}

/// Shows a run on `terminal` from its `events` until they end or [`Event::RunFinished`] comes, then prints the
/// summary. Returns that summary; where the events ended without one, what they came to.
///
/// Writing may block (a terminal can be paused), so it happens on a thread of its own.
pub async fn run(terminal: Terminal, events: UnboundedReceiver<Event>, options: Options) -> RunSummary {
    let runtime = tokio::runtime::Handle::current();
    let work = tokio::task::spawn_blocking(move || {
        let mut reporter: Box<dyn Reporter> = match (terminal.mode, terminal.rows) {
            (Mode::Bars, Some(rows)) => Box::new(bars::Bars::new(rows, terminal.style, options)),
            (Mode::Json, _) => Box::new(json::Json::new(io::stderr())),
            _ => Box::new(lines::Lines::new(io::stderr(), options)),
        };
        runtime.block_on(drive(reporter.as_mut(), events))
    });
    match work.await {
        Ok(summary) => summary,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down: nobody reads the summary any more.
            Err(_) => RunSummary::default(),
        },
    }
}

/// Feeds one reporter.
async fn drive(reporter: &mut dyn Reporter, mut events: UnboundedReceiver<Event>) -> RunSummary {
    let mut model = Model::new(Instant::now());
    let mut ticks = tokio::time::interval(FRAME);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut continued = signal(SignalKind::from_raw(nix::sys::signal::Signal::SIGCONT as i32)).ok();
    let mut batch = Vec::with_capacity(BATCH);
    let mut last_second = model.started;
    let (mut last_tick, mut waited) = (model.started, false);
    while model.finished.is_none() {
        tokio::select! {
            n = events.recv_many(&mut batch, BATCH) => {
                if n == 0 {
                    break;
                }
                let now = Instant::now();
                for event in batch.drain(..) {
                    model.apply(&event, now);
                    reporter.event(&event, &model, now);
                }
            }
            _ = ticks.tick() => {
                let now = Instant::now();
                let late = now.saturating_duration_since(std::mem::replace(&mut last_tick, now)) > 4 * FRAME;
                waited = late && !waited;
                if waited {
                    // Perhaps the process was stopped and somebody else has written: one tick for that news to come.
                    continue;
                }
                if now.saturating_duration_since(last_second) >= Duration::from_secs(1) {
                    last_second = now;
                    model.tick(now);
                }
                reporter.tick(&model, now);
            }
            Some(()) = async { match &mut continued { Some(s) => s.recv().await, None => None } } => {
                reporter.continued();
            }
        }
    }
    let summary = model.summary(Instant::now());
    reporter.finish(&summary, &model);
    summary
}

/// Now, UTC, as RFC 3339 with the given precision.
fn timestamp(precision: chrono::SecondsFormat) -> String {
    chrono::Utc::now().to_rfc3339_opts(precision, true)
}

/// Writes one line in one piece, so that lines of other writers stay whole.
fn write_line(out: &mut dyn Write, line: &str) {
    // Nobody reads stderr any more: no reason to stop the work.
    let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Events;
    use crate::media::MediaId;

    fn queued() -> Event {
        Event::ItemQueued { media_id: MediaId::new("t", "1"), title: "a talk".into() }
    }

    #[tokio::test]
    async fn a_run_ends_with_its_last_event_or_with_the_channel() {
        let (events, told) = Events::channel();
        events.send(queued());
        events.send(Event::RunFinished(RunSummary { done: 1, wall_ms: 5, ..RunSummary::default() }));
        // The sender lives on: the last event alone ends it.
        let summary = drive(&mut json::Json::new(io::sink()), told).await;
        assert_eq!((summary.done, summary.wall_ms), (1, 5));

        let (events, told) = Events::channel();
        events.send(queued());
        drop(events);
        let summary = drive(&mut json::Json::new(io::sink()), told).await;
        assert_eq!((summary.done, summary.interrupted), (0, true));
    }

    #[tokio::test]
    async fn bars_leave_only_what_should_stay() {
        let terminal = screen::tests::Emulator::new(24, 80);
        let rows = Rows::new(terminal.screen());
        let style = style::Style { color: true, unicode: true };
        let mut bars = bars::Bars::new(rows, style, Options { hints: false, ..Options::default() });
        let (events, told) = Events::channel();
        let media_id = MediaId::new("t", "1");
        let title = || "a \u{1b}[2Jtalk".to_owned();
        events.send(queued());
        events.send(Event::ItemStarted { media_id, title: title() });
        events.send(Event::Noticed { warning: true, message: "the disk is nearly full".into() });
        events.send(Event::ItemFinished {
            media_id,
            title: title(),
            audio_ms: 60_000,
            segments: 1,
            took_ms: 3_000,
        });
        events.send(Event::RunFinished(RunSummary { done: 1, wall_ms: 3_000, ..RunSummary::default() }));
        drive(&mut bars, told).await;
        assert_eq!(
            terminal.lines(),
            [
                "warning: the disk is nearly full",
                "✓ a talk  1:00 of audio in 3.0 s, 20× realtime",
                "",
                "1 item done in 3.0 s",
            ]
        );
        assert_eq!(terminal.cursor(), (4, 0), "a fresh line");
    }
}

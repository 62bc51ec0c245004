//! The bars: a model and a size become rows. Pure; no row is wider than the terminal.

use std::time::Instant;

use super::advice;
use super::figures::{self, bytes, bytes_of, clock, grouped, percent};
use super::model::{InFlight, Model};
use super::style::{Style, Tone};
use super::text;
use crate::event::{Gpu, Machine, Step};
use crate::stage::StageSummary;

/// A GPU a row up to this many; more are summed up in one.
const GPU_ROWS: usize = 4;
/// What separates facts on a line.
const DOT: &str = " · ";

/// The rows for a terminal of `height` and `width`.
pub(super) fn rows(model: &Model, (height, width): (u16, u16), style: Style, now: Instant) -> Vec<String> {
    // The last column stays free (terminals differ in when they wrap), the last line is the cursor's.
    let width = usize::from(width).saturating_sub(1).max(10);
    let height = usize::from(height).saturating_sub(1).max(1);
    // What is printed above the bars stays in sight.
    let height = if height < 16 { height } else { height - height / 5 };
    let roomy = height >= 18;

    let mut rows = vec![overall(model, width, style, now)];
    if height >= 5 {
        rows.push(overall_bar(model, width, style));
    }
    if height >= 13 {
        if roomy {
            rows.push(String::new());
        }
        rows.extend(model.stages.iter().map(|s| lane(model, s, width, style, now)));
    } else if height >= 6 && !model.stages.is_empty() {
        rows.push(short_lanes(&model.stages, width));
    }
    if height >= 8 {
        if let Some(machine) = &model.machine {
            let gpu_rows = if height >= 18 { GPU_ROWS } else { 1 };
            rows.extend(machine_rows(machine, gpu_rows, width, style));
        }
        if let Some(advice) = advice::raise(model, now) {
            rows.push(style.paint(Tone::Warn, &text::truncate(&format!(" ↑ {advice}"), width)));
        }
    }
    rows.truncate(height);

    let items = model.in_flight(now);
    let mut room = height - rows.len();
    if roomy && !items.is_empty() && room > 1 {
        rows.push(String::new());
        room -= 1;
    }
    let shown = if items.len() <= room { items.len() } else { room.saturating_sub(1) };
    rows.extend(items[..shown].iter().map(|i| item(i, width, style, now)));
    if shown < items.len() && room > 0 {
        rows.push(style.paint(Tone::Dim, &format!(" … and {} more", items.len() - shown)));
    }
    rows.into_iter().map(|row| style.spell(row)).collect()
}

/// A part of a line that may be left out where room is short.
struct Part {
    text: String,
    tone: Option<Tone>,
    /// The lowest goes first.
    weight: u8,
}

impl Part {
    fn new(weight: u8, tone: Option<Tone>, text: impl Into<String>) -> Self {
        Self { text: text.into(), tone, weight }
    }
}

/// The parts that fit into `width`, joined by `between`.
fn fit(mut parts: Vec<Part>, between: &str, width: usize, style: Style) -> String {
    let gap = text::width(between);
    while parts.len() > 1
        && parts.iter().map(|p| text::width(&p.text)).sum::<usize>() + gap * (parts.len() - 1) > width
    {
        let lightest = parts.iter().enumerate().min_by_key(|(_, p)| p.weight).map_or(0, |(i, _)| i);
        parts.remove(lightest);
    }
    let parts: Vec<String> = parts
        .iter()
        .map(|p| {
            let text = text::truncate(&p.text, width);
            p.tone.map_or(text.clone(), |tone| style.paint(tone, &text))
        })
        .collect();
    parts.join(between)
}

/// Counts, speed, what is left.
fn overall(model: &Model, width: usize, style: Style, now: Instant) -> String {
    let mut parts = Vec::new();
    let ended = model.done + model.failed;
    if model.total() == 0 {
        parts.push(Part::new(9, Some(Tone::Bold), " looking for media…"));
    } else {
        let done = format!(" {} of {} done", grouped(model.done), grouped(model.total()));
        parts.push(Part::new(9, Some(Tone::Bold), done));
    }
    if model.failed > 0 {
        parts.push(Part::new(8, Some(Tone::Bad), format!("{} failed", grouped(model.failed))));
    }
    if model.stopping {
        return stopping(model, parts, width, style);
    }
    if model.delayed() > 0 {
        let text = format!("{} to try again", grouped(model.delayed()));
        parts.push(Part::new(3, Some(Tone::Warn), text));
    }
    if model.skipped > 0 {
        parts.push(Part::new(2, Some(Tone::Dim), format!("{} skipped", grouped(model.skipped))));
    }
    let elapsed = model.elapsed_ms(now);
    if model.total() > 0 {
        let rate = figures::rate(model.transcribed_ms(), elapsed).unwrap_or_else(|| "–".into());
        parts.push(Part::new(5, None, format!("{rate} audio-h/h")));
        let left = match model.eta_ms(now) {
            Some(ms) => format!("{} left", figures::remaining(ms)),
            None if ended == model.total() => "finishing".into(),
            None => "ETA –".into(),
        };
        parts.push(Part::new(7, None, left));
    }
    parts.push(Part::new(1, Some(Tone::Dim), clock(elapsed)));
    fit(parts, DOT, width, style)
}

/// The overall line while the run drains.
fn stopping(model: &Model, mut parts: Vec<Part>, width: usize, style: Style) -> String {
    let busy = model.busy();
    parts.push(Part::new(8, Some(Tone::Warn), format!("stopping: {busy} in flight")));
    let steps: Vec<String> =
        model.by_step().into_iter().map(|(step, n)| format!("{n} {}", step_name(step))).collect();
    if !steps.is_empty() && width >= 100 {
        parts.push(Part::new(2, Some(Tone::Dim), steps.join(", ")));
    }
    parts.push(Part::new(9, Some(Tone::Warn), "Ctrl-C again to quit at once"));
    fit(parts, DOT, width, style)
}

fn overall_bar(model: &Model, width: usize, style: Style) -> String {
    let share = model.share();
    let failed = if model.total() == 0 { 0.0 } else { model.failed as f64 / model.total() as f64 };
    let percent = format!("{:>3} %", (share * 100.0).floor());
    let columns = width.saturating_sub(percent.len() + 2).min(120);
    format!(" {} {percent}", style.line(columns, share - failed, failed))
}

/// One stage: workers, queue and, where there is room, what it came to so far.
fn lane(model: &Model, stage: &StageSummary, width: usize, style: Style, now: Instant) -> String {
    let name = text::pad(stage.name, 6);
    let digits = model.stages.iter().map(|s| s.workers.to_string().len()).max().unwrap_or(1);
    let busy = format!(
        "{}/{} busy",
        text::pad_left(&stage.in_hand.to_string(), digits),
        text::pad(&stage.workers.to_string(), digits)
    );
    let full = advice::is_full(stage);
    let queue =
        if stage.capacity > 0 { format!("queue {}/{}", stage.queued, stage.capacity) } else { String::new() };
    let cells = match width {
        0..50 => 0,
        50..100 => 12,
        _ => 24,
    };
    let mut row = format!(" {name} ");
    if cells > 0 {
        row.push_str(&style.gauge(cells, stage.in_hand, stage.workers));
        row.push(' ');
    }
    row.push_str(&busy);
    if !queue.is_empty() {
        row.push_str(DOT);
        let tone = if full { Tone::Warn } else { Tone::Dim };
        let queue = if full { format!("{queue} full") } else { queue };
        row.push_str(&style.paint(tone, &text::pad(&queue, 16)));
    }
    if width >= 100 {
        let elapsed = model.elapsed_ms(now);
        let mut facts = vec![
            format!("{:>3} % so far", advice::busy_percent(stage, elapsed)),
            figures::count(stage.items, "item"),
        ];
        if stage.wait_out_ms >= 1000 {
            facts.push(format!("waited {} for room", figures::duration(stage.wait_out_ms)));
        }
        let left = width.saturating_sub(text::width(&row) + 3);
        let parts = facts.into_iter().zip([9, 5, 1]).map(|(f, w)| Part::new(w, Some(Tone::Dim), f));
        row.push_str(&style.paint(Tone::Dim, DOT));
        row.push_str(&fit(parts.collect(), DOT, left, style));
    }
    row
}

/// All stages in one row.
fn short_lanes(stages: &[StageSummary], width: usize) -> String {
    let lanes: Vec<String> =
        stages.iter().map(|s| format!("{} {}/{}", s.name, s.in_hand, s.workers)).collect();
    text::truncate(&format!(" {}", lanes.join("  ")), width)
}

/// The GPUs, or the CPU where there is none.
fn machine_rows(machine: &Machine, gpu_rows: usize, width: usize, style: Style) -> Vec<String> {
    let cpu = |weight| {
        [
            Part::new(weight, None, format!("CPU {:.1}/{} cores", machine.cpu_busy, machine.cores)),
            Part::new(weight - 1, None, format!("RSS {}", bytes(machine.rss_bytes))),
        ]
    };
    if machine.gpus.is_empty() {
        return vec![format!(" {}", fit(cpu(9).into(), DOT, width - 1, style))];
    }
    let mut rows: Vec<String> = Vec::new();
    let mut row = |mut parts: Vec<Part>, last: bool| {
        if last {
            parts.extend(cpu(3));
        }
        rows.push(format!(" {}", fit(parts, "  ", width - 1, style)));
    };
    if machine.gpus.len() > gpu_rows {
        row(gpus_in_one(&machine.gpus), true);
    } else {
        for (i, gpu) in machine.gpus.iter().enumerate() {
            row(gpu_parts(i, gpu), i + 1 == machine.gpus.len());
        }
    }
    rows
}

fn gpu_parts(index: usize, gpu: &Gpu) -> Vec<Part> {
    let vram = percent(gpu.vram_used, gpu.vram_total);
    let mut parts = vec![
        Part::new(9, None, format!("GPU{index} {}", gpu_name(&gpu.name))),
        Part::new(8, None, format!("SM {:>3} %", gpu.sm_percent)),
        Part::new(7, None, format!("VRAM {vram:>2} %")),
    ];
    if let Some(power) = gpu.power_percent {
        parts.push(Part::new(6, None, format!("power {power:>3} %")));
    }
    if let Some(temperature) = gpu.temperature {
        let tone = (temperature >= 85).then_some(Tone::Warn);
        parts.push(Part::new(5, tone, format!("{temperature} °C")));
    }
    parts
}

/// Averages, and the range of the first figure: one GPU that idles among eight shows in it.
fn gpus_in_one(gpus: &[Gpu]) -> Vec<Part> {
    let n = gpus.len() as u64;
    let mean = |f: fn(&Gpu) -> u64| gpus.iter().map(f).sum::<u64>() / n.max(1);
    let low = gpus.iter().map(|g| g.sm_percent).min().unwrap_or(0);
    let high = gpus.iter().map(|g| g.sm_percent).max().unwrap_or(0);
    let name = gpus.first().map_or(String::new(), |g| gpu_name(&g.name));
    let mut parts = vec![
        Part::new(9, None, format!("{n} × {name}")),
        Part::new(8, None, format!("SM {} % ({low}–{high})", mean(|g| u64::from(g.sm_percent)))),
        Part::new(7, None, format!("VRAM {} %", mean(|g| percent(g.vram_used, g.vram_total)))),
    ];
    if gpus.iter().all(|g| g.power_percent.is_some()) {
        let power = mean(|g| g.power_percent.map_or(0, u64::from));
        parts.push(Part::new(6, None, format!("power {power} %")));
    }
    if let Some(hottest) = gpus.iter().filter_map(|g| g.temperature).max() {
        parts.push(Part::new(5, None, format!("{hottest} °C")));
    }
    parts
}

/// `NVIDIA H100 80GB HBM3` as `H100`: maker, memory and socket are no news while it runs.
fn gpu_name(name: &str) -> String {
    let words: Vec<&str> = name
        .split([' ', '-'])
        .filter(|w| !matches!(*w, "NVIDIA" | "Tesla" | "GeForce" | "Graphics" | "Generation"))
        .take_while(|w| {
            let socket = ["SXM", "PCI", "HBM", "NVL"].iter().any(|s| w.starts_with(s));
            !socket && !(w.ends_with("GB") && w.starts_with(|c: char| c.is_ascii_digit()))
        })
        .collect();
    let short = text::clean(&words.join(" "));
    if short.is_empty() { text::truncate(&text::clean(name), 20) } else { text::truncate(&short, 20) }
}

/// What a step is called.
pub(super) fn step_name(step: Option<Step>) -> &'static str {
    match step {
        None => "start",
        Some(Step::Fetch) => "fetch",
        Some(Step::Decode) => "decode",
        Some(Step::Transcribe) => "transcribe",
        Some(Step::Embed) => "embed",
        Some(Step::Store) => "store",
    }
}

/// What an item that has finished `step` waits for.
fn waits_for(step: Option<Step>) -> &'static str {
    match step {
        None | Some(Step::Fetch) => "for decoding",
        Some(Step::Decode) => "for transcription",
        Some(Step::Transcribe | Step::Embed | Step::Store) => "for storing",
    }
}

/// How far a step is, in its own unit.
pub(super) fn step_progress(step: Option<Step>, done: u64, total: Option<u64>) -> String {
    match (step, total) {
        (None, _) | (Some(Step::Store), _) => String::new(),
        (Some(Step::Fetch), Some(total)) => bytes_of(done, total),
        (Some(Step::Fetch), None) if done == 0 => String::new(),
        (Some(Step::Fetch), None) => bytes(done),
        (Some(Step::Decode | Step::Transcribe), Some(total)) => {
            format!("{} of {}", clock(done), clock(total))
        }
        (Some(Step::Decode | Step::Transcribe), None) if done == 0 => String::new(),
        (Some(Step::Decode | Step::Transcribe), None) => clock(done),
        (Some(Step::Embed), Some(total)) => format!("{done} of {total}"),
        (Some(Step::Embed), None) => String::new(),
    }
}

/// One item. The title comes last: text from right to left then moves nothing else about.
fn item(item: &InFlight, width: usize, style: Style, now: Instant) -> String {
    let waiting = item.is_waiting(now);
    let share = match item.total {
        Some(total) if total > 0 => item.done as f64 / total as f64,
        _ => 0.0,
    };
    let (name, detail) = if waiting {
        ("waiting", waits_for(item.step).to_owned())
    } else {
        (step_name(item.step), step_progress(item.step, item.done, item.total))
    };
    let name = text::pad(name, 10);
    let name = if waiting { style.paint(Tone::Dim, &name) } else { name };
    let mut row = format!(" {name} ");
    if width < 60 {
        let percent = match item.total {
            Some(total) if total > 0 && !waiting => format!("{:>3} %", percent(item.done, total)),
            _ => " ".repeat(5),
        };
        row.push_str(&percent);
    } else {
        let cells = if width < 100 { 10 } else { 24 };
        row.push_str(&style.line(cells, if waiting { 0.0 } else { share }, 0.0));
        row.push(' ');
        row.push_str(&style.paint(Tone::Dim, &text::pad(&detail, 18)));
    }
    row.push(' ');
    let left = width.saturating_sub(text::width(&row));
    let title = text::truncate(&item.title, left);
    row.push_str(&if waiting { style.paint(Tone::Dim, &title) } else { title });
    row
}

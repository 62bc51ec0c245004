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
    // Narrower than anything was laid out for: cut rather than wrapped.
    let cut = |row: String| {
        if text::width(&row) > width { console::truncate_str(&row, width, "…").into_owned() } else { row }
    };
    rows.into_iter().map(|row| style.spell(cut(row))).collect()
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
    } else if width >= 100 {
        // The columns behind stay under each other.
        row.push_str(&" ".repeat(DOT.chars().count() + 16));
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
            let is_socket = ["SXM", "PCI", "HBM", "NVL"].iter().any(|s| w.starts_with(s));
            let is_memory = w.ends_with("GB") && w.starts_with(|c: char| c.is_ascii_digit());
            !(is_socket || is_memory)
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
        Some(Step::HandOver) => "hand over",
        Some(Step::Receive) => "receive",
        Some(Step::Transcribe) => "transcribe",
        Some(Step::Embed) => "embed",
        Some(Step::Store) => "store",
    }
}

/// What an item that has finished `step` waits for.
fn waits_for(step: Option<Step>) -> &'static str {
    match step {
        None | Some(Step::Fetch | Step::Receive) => "for decoding",
        Some(Step::Decode) => "for transcription",
        Some(Step::HandOver | Step::Transcribe | Step::Embed | Step::Store) => "for storing",
    }
}

/// How far a step is, in its own unit.
pub(super) fn step_progress(step: Option<Step>, done: u64, total: Option<u64>) -> String {
    match (step, total) {
        (None, _) | (Some(Step::Store), _) => String::new(),
        (Some(Step::Fetch | Step::HandOver | Step::Receive), Some(total)) => bytes_of(done, total),
        (Some(Step::Fetch | Step::HandOver | Step::Receive), None) if done == 0 => String::new(),
        (Some(Step::Fetch | Step::HandOver | Step::Receive), None) => bytes(done),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::screen::Rows;
    use super::super::screen::tests::Emulator;
    use super::*;
    use crate::event::Event;
    use crate::media::{FailureClass, MediaId};

    const TITLES: [&str; 5] = [
        "Plain",
        "日本語のとても長いタイトル：東京の夏祭りを歩いて花火を見る、屋台の味と人の声、そして夜の帰り道",
        "שיחה ארוכה מאוד על תכנות, מוזיקה ומזג האוויר בירושלים בחורף",
        "👨‍👩‍👧 🎬🎬🎬 we moved!! ❤️ 👍🏽 and a long tail of words that does not want to end at all",
        "evil \u{1b}[2J\u{202E}txt.exe\r\nnext line",
    ];

    fn stage(name: &'static str, workers: usize, in_hand: usize, queued: usize) -> StageSummary {
        StageSummary {
            name,
            workers,
            busy_ms: 100_000,
            wait_in_ms: 0,
            wait_out_ms: 75_000,
            items: 12,
            in_hand,
            queued,
            capacity: if name == "io" { 0 } else { 4 },
        }
    }

    /// Thirty items known, `busy` of them in flight, one done, one failed, a minute gone.
    fn model(busy: usize, gpus: usize) -> (Model, Instant) {
        let t0 = Instant::now();
        let mut m = Model::new(t0);
        let now = t0 + Duration::from_secs(60);
        for n in 0..30_usize {
            let media_id = MediaId::new("t", &n.to_string());
            let title = format!("{} #{n}", TITLES[n % TITLES.len()]);
            m.apply(&Event::ItemQueued { media_id, title: title.clone() }, t0);
            if n >= busy + 2 {
                continue;
            }
            m.apply(&Event::ItemStarted { media_id, title: title.clone() }, now);
            let (step, done, total) = match n % 4 {
                0 => (Step::Transcribe, 751_000, Some(2_642_000)),
                1 => (Step::Fetch, 12_300_000, Some(118_000_000)),
                2 => (Step::Fetch, 8_100_000, None),
                _ => (Step::Decode, 3_751_000, Some(3_751_000)),
            };
            let then = if n % 4 == 3 { now - Duration::from_secs(2) } else { now };
            m.apply(&Event::StepProgressed { media_id, step, done, total }, then);
        }
        let (media_id, title) = (MediaId::new("t", "0"), String::new());
        m.apply(
            &Event::ItemFinished {
                media_id,
                title: title.clone(),
                audio_ms: 2_642_000,
                segments: 9,
                took_ms: 9,
            },
            now,
        );
        let (class, message) = (FailureClass::NoAudio, String::new());
        let media_id = MediaId::new("t", "1");
        let source = String::new();
        m.apply(&Event::ItemFailed { media_id, title, source, class, message, remedy: None }, now);
        let stages = vec![stage("io", 24, 18, 0), stage("asr", 2, 2, 4), stage("db", 12, 1, 0)];
        m.apply(&Event::StagesSampled { stages }, now);
        let gpu = Gpu {
            name: "NVIDIA H100 80GB HBM3".into(),
            sm_percent: 87,
            vram_used: 61,
            vram_total: 100,
            power_percent: Some(70),
            temperature: Some(64),
        };
        let gpus = vec![gpu; gpus];
        let machine = Machine { cpu_busy: 1.9, cores: 2, rss_bytes: 412_000_000, gpus };
        m.apply(&Event::MachineSampled(machine), now);
        m.tick(now);
        (m, now)
    }

    #[test]
    fn no_row_is_wider_and_no_frame_higher_than_the_terminal() {
        for busy in [0, 3, 26] {
            for gpus in [0, 2, 8] {
                let (mut m, now) = model(busy, gpus);
                for stopping in [false, true] {
                    m.stopping = stopping;
                    for color in [false, true] {
                        let style = Style { color, unicode: !color };
                        for (height, width) in (1..60).flat_map(|h| [(h, 20), (h, 40), (h, 80), (h, 140)]) {
                            let rows = rows(&m, (height, width), style, now);
                            assert!(rows.len() < usize::from(height).max(2), "{height}: {rows:#?}");
                            for row in &rows {
                                assert!(text::width(row) < usize::from(width), "{width}: {row:?}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_a_terminal_of_80_columns_shows() {
        let (m, now) = model(26, 1);
        let terminal = Emulator::new(24, 80);
        let shown = Rows::new(terminal.screen());
        shown.show(&rows(&m, shown.size(), Style { color: true, unicode: true }, now));
        let lines = terminal.lines();
        assert_eq!(lines[0], " 1 of 30 done · 1 failed · 119 audio-h/h · 12 min left · 1:00");
        assert!(lines[1].starts_with(" ━━━━━━╸━━━──") && lines[1].ends_with("─  12 %"), "{}", lines[1]);
        assert_eq!(lines[3], " io     ▕█████████░░░▏ 18/24 busy");
        assert_eq!(lines[4], " asr    ▕████████████▏  2/2  busy · queue 4/4 full");
        assert_eq!(lines[6], " GPU0 H100  SM  87 %  VRAM 61 %  power  70 %  64 °C  CPU 1.9/2 cores");
        assert_eq!(lines[8], " transcribe ━━━─────── 12:31 of 44:02     evil txt.exe next line #4");
        assert!(lines.iter().any(|l| l.starts_with(" fetch      ━───────── 12 of 118 MB ")), "{lines:#?}");
        assert!(lines.last().is_some_and(|l| l.starts_with(" … and ")), "{lines:#?}");
    }

    #[test]
    fn what_waits_is_said_to_wait_and_comes_last() {
        let (m, now) = model(4, 0);
        let rows = rows(&m, (40, 100), Style::PLAIN, now);
        assert!(rows.iter().any(|r| r == " CPU 1.9/2 cores · RSS 412 MB"), "{rows:#?}");
        let last = rows.last().expect("rows");
        assert!(last.starts_with(" waiting    ────────── for transcription "), "{last}");
    }

    #[test]
    fn stopping_says_so() {
        let (mut m, now) = model(3, 0);
        m.stopping = true;
        let rows = rows(&m, (24, 80), Style::PLAIN, now);
        assert_eq!(
            rows[0],
            " 1 of 30 done · 1 failed · stopping: 3 in flight · Ctrl-C again to quit at once"
        );
    }

    #[test]
    fn before_anything_is_known() {
        let t0 = Instant::now();
        let rows = rows(&Model::new(t0), (24, 80), Style::PLAIN, t0 + Duration::from_secs(3));
        assert_eq!(rows[0], " looking for media… · 0:03");
    }

    #[test]
    fn makers_and_sockets_are_left_out_of_names() {
        for (name, short) in [
            ("NVIDIA H100 80GB HBM3", "H100"),
            ("NVIDIA A100-SXM4-80GB", "A100"),
            ("NVIDIA GeForce RTX 4090", "RTX 4090"),
            ("Tesla T4", "T4"),
            ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
            ("NVIDIA", "NVIDIA"),
        ] {
            assert_eq!(gpu_name(name), short);
        }
    }
}

//! The result as a table for people.

use std::io::Write;

use super::{Configuration, Truths};
use crate::cli::BenchArgs;
use crate::report::text::{pad, pad_left, width};

/// What the columns mean, for those that do not say it themselves.
const LEGEND: &str = "\
× real time: audio by time, loading not counted (of several rounds the median one, and the range of all)
hours/h:     hours of audio in an hour of the whole process, loading counted
model busy:  share of the time that all of the model's workers were inside it; waited: their mean wait for windows";

/// Writes the table, what was noticed, and the recommendation.
pub(super) fn write(
    out: &mut impl Write,
    configurations: &[Configuration],
    best: Option<usize>,
    truths: &Truths,
    args: &BenchArgs,
) -> anyhow::Result<()> {
    let first = configurations.iter().find_map(Configuration::median);
    if let Some(first) = first {
        let report = &first.report;
        let truth = match truths.len() {
            0 if args.sources.is_empty() => "made audio, speed only".to_owned(),
            0 => "no truth beside them, so no word error rate".to_owned(),
            n if n == report.files => "with truth".to_owned(),
            n => format!("{n} with truth"),
        };
        writeln!(
            out,
            "{} {} ({truth}), {:.1} minutes of audio, {:.1} of speech\n",
            report.files,
            if report.files == 1 { "file" } else { "files" },
            report.audio_ms as f64 / 60_000.0,
            report.speech_ms as f64 / 60_000.0,
        )?;
    }
    let on_gpu =
        configurations.iter().filter_map(Configuration::median).any(|r| r.report.vram_bytes.is_some());
    let mut header =
        vec!["configuration", "× real time", "hours/h", "model busy", "waited", "loading", "peak RSS"];
    if on_gpu {
        header.extend(["VRAM", "SM"]);
    }
    header.extend(["WER", "failed"]);
    let mut rows: Vec<Vec<String>> = vec![header.iter().map(ToString::to_string).collect()];
    rows.extend(configurations.iter().map(|c| row(c, on_gpu)));
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|i| rows.iter().filter_map(|r| r.get(i)).map(|cell| width(cell)).max().unwrap_or(0))
        .collect();
    for (n, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).enumerate();
        let cells: Vec<String> =
            cells.map(|(i, (cell, &w))| if i == 0 { pad(cell, w) } else { pad_left(cell, w) }).collect();
        let mark = if best.is_some_and(|best| best + 1 == n) { "►" } else { " " };
        writeln!(out, "{mark} {}", cells.join("  ").trim_end())?;
    }
    writeln!(out, "\n{LEGEND}")?;
    for c in configurations {
        match (&c.failure, c.median()) {
            (Some(failure), _) => writeln!(out, "{}: {failure}", c.name())?,
            (None, Some(round)) => {
                writeln!(out, "{}: {} {}", c.name(), round.report.model, round.report.plan)?
            }
            (None, None) => {}
        }
    }
    recommendation(out, configurations, best, truths)
}

fn row(c: &Configuration, on_gpu: bool) -> Vec<String> {
    let Some(round) = c.median() else { return vec![c.name(), "failed".to_owned()] };
    let report = &round.report;
    let (slowest, fastest) = c
        .rounds
        .iter()
        .fold((f64::INFINITY, 0.0_f64), |(low, high), r| (low.min(r.realtime), high.max(r.realtime)));
    let speed = if c.rounds.len() > 1 {
        format!("{} ({}–{})", figure(round.realtime), figure(slowest), figure(fastest))
    } else {
        figure(round.realtime)
    };
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let megabytes = |bytes: Option<u64>| or_dash(bytes.map(|b| format!("{} MB", b / 1_000_000)));
    let waited = report.model_waited_ms as f64 / report.model_workers.max(1) as f64 / 1000.0;
    let mut cells = vec![
        c.name(),
        speed,
        figure(round.hours_per_hour),
        format!("{:.0} %", 100.0 * round.model_busy),
        format!("{waited:.1} s"),
        format!("{:.1} s", report.load_ms as f64 / 1000.0),
        megabytes(c.peak_rss()),
    ];
    if on_gpu {
        cells.push(megabytes(report.vram_bytes));
        cells.push(or_dash(report.sm_percent.map(|p| format!("{p:.0} %"))));
    }
    cells.push(or_dash(round.wer.map(|wer| format!("{wer:.2} %"))));
    cells.push(report.failed.to_string());
    cells
}

/// Three digits: `0.42`, `9.41`, `61.3`, `740`.
pub(super) fn figure(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

fn recommendation(
    out: &mut impl Write,
    configurations: &[Configuration],
    best: Option<usize>,
    truths: &Truths,
) -> anyhow::Result<()> {
    let Some(best) = best.and_then(|best| configurations.get(best)) else {
        writeln!(
            out,
            "\nnone to recommend: no configuration did all files and fits the memory that is free"
        )?;
        return Ok(());
    };
    if configurations.len() < 2 {
        return Ok(());
    }
    let why = if truths.len() > 0 {
        "the fastest of those whose word error rate is within 0.2 points of the best and that fit the memory"
    } else {
        "the fastest that fits the memory; nothing is known of accuracy, so models and beams are not to be chosen by this"
    };
    writeln!(out, "\nRecommended ({why}):\n")?;
    for line in best.environment() {
        writeln!(out, "  {line}")?;
    }
    Ok(())
}

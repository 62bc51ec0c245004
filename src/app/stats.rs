//! `spoken stats`: the library in figures, and a picture of when it grew.

mod chart;

use std::io::{BufWriter, Write};

use anyhow::Context;
use chrono::{DateTime, Local, Utc};
use console::style;

use super::world::World;
use crate::cli::{EXIT_OK, StatsArgs};
use crate::export::OutputFile;
use crate::report::figures::{bytes, count, duration, grouped, percent, rate};
use crate::store::stats::{Bucket, Doubtful, Share, Stats, Unit};
use crate::telemetry::sanitize;

/// Columns of the picture where there is no terminal.
const COLUMNS: usize = 80;
/// Columns before it.
const MARGIN: usize = 11;
/// Names of a kind that are shown; JSON has some more.
const SHOWN: usize = 6;

/// `spoken stats`.
///
/// # Errors
/// The database's, or the output's.
pub async fn stats(world: &World, args: &StatsArgs) -> anyhow::Result<u8> {
    let terminal = console::Term::stdout();
    let columns = if terminal.is_term() { terminal.size().1.into() } else { COLUMNS };
    let below = world.config.recipe().logprob_threshold;
    let stats = world.store.stats(below, columns.saturating_sub(MARGIN).clamp(10, 200)).await?;
    if let Some(path) = &args.chart {
        let write = || {
            let mut file = OutputFile::create(path)?;
            file.write_all(chart::svg(&stats).as_bytes())?;
            file.finish()
        };
        write().with_context(|| format!("failed to write {}", path.display()))?;
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&stats)?)?;
    } else if stats.items == Default::default() {
        out.flush()?;
        eprintln!("nothing here yet: `spoken ingest FOLDER|URL…` brings something in");
    } else {
        for (name, line) in lines(&stats) {
            writeln!(out, "{} {line}", style(format!("{name:<10}")).dim())?;
        }
    }
    out.flush()?;
    Ok(EXIT_OK)
}

/// What is known, each line with its name.
fn lines(stats: &Stats) -> Vec<(&'static str, String)> {
    let Stats { items, totals, doubtful, storage, .. } = stats;
    let mut lines = Vec::new();
    let mut states = vec![format!("{} done", grouped(number(items.done)))];
    for (n, state) in [(items.failed, "failed"), (items.active, "active"), (items.queued, "queued")] {
        if n > 0 {
            states.push(format!("{} {state}", grouped(number(n))));
        }
    }
    if totals.flagged > 0 {
        states.push(format!("{} incomplete by the look of it", grouped(number(totals.flagged))));
    }
    lines.push(("items", states.join(", ")));
    if totals.transcripts > 0 {
        let covered = percent(number(totals.transcribed_ms), number(totals.speech_ms));
        lines.push((
            "audio",
            format!(
                "{}, {} of it speech, {covered} % of which has text",
                hours(totals.audio_ms),
                hours(totals.speech_ms)
            ),
        ));
        lines.push((
            "text",
            format!(
                "{} in {}; {} not believed",
                count(number(totals.words), "word"),
                count(number(totals.segments), "segment"),
                count(number(totals.dropped), "text")
            ),
        ));
        lines.push(("doubtful", in_doubt(doubtful)));
    }
    for (name, shares) in [
        ("languages", &stats.languages),
        ("sources", &stats.sources),
        ("channels", &stats.channels),
        ("models", &stats.models),
    ] {
        // That no item has a channel is no news.
        if shares.iter().any(|share| share.name.is_some()) {
            lines.push((name, listed(shares)));
        }
    }
    if !stats.failures.is_empty() {
        let classes: Vec<String> =
            stats.failures.iter().map(|f| format!("{} {}", sanitize(&f.class), f.items)).collect();
        lines.push(("failures", classes.join(", ")));
    }
    let mut room = vec![format!("{} of text", bytes(number(storage.text)))];
    for vectors in &storage.vectors {
        room.push(format!("{} of vectors ({})", bytes(number(vectors.bytes)), sanitize(&vectors.model)));
    }
    lines.push(("storage", format!("{}: {}", bytes(number(storage.database)), room.join(", "))));
    for (n, run) in stats.runs.iter().enumerate() {
        let speed = rate(number(run.audio_ms), number(run.wall_ms))
            .map_or_else(String::new, |r| format!(", {r} × realtime"));
        lines.push((
            if n == 0 { "runs" } else { "" },
            format!(
                "{}  {}, {} in {}{speed}",
                local(run.started_at),
                count(number(run.items), "item"),
                hours(run.audio_ms),
                duration(number(run.wall_ms)),
            ),
        ));
    }
    if !stats.activity.is_empty() {
        lines.push(("activity", spark(&stats.activity)));
        lines.push(("", legend(&stats.activity, stats.unit)));
    }
    lines
}

fn in_doubt(doubtful: &Doubtful) -> String {
    let Doubtful { avg_logprob, segments, passages, of_passages, items } = doubtful;
    if *segments == 0 {
        return format!("nothing: no segment has a mean log-probability below {avg_logprob}");
    }
    // Not 0 % where there are some.
    let share = 100.0 * *passages as f64 / (*of_passages).max(1) as f64;
    format!(
        "{} in {} of {} ({share:.1} % of the passages) below a mean log-probability of {avg_logprob}",
        count(number(*segments), "segment"),
        count(number(*passages), "passage"),
        count(number(*items), "item"),
    )
}

fn listed(shares: &[Share]) -> String {
    let mut named: Vec<String> = Vec::new();
    let (mut others, mut rest_ms) = (0, 0);
    for share in shares {
        match &share.name {
            Some(name) if named.len() < SHOWN => {
                named.push(format!("{} {} ({})", sanitize(name), hours(share.audio_ms), share.items));
            }
            None if share.others == 0 => {}
            _ => {
                others += share.others.max(1);
                rest_ms += share.audio_ms;
            }
        }
    }
    if others > 0 {
        named.push(format!("{others} more {}", hours(rest_ms)));
    }
    named.join(", ")
}

/// `412 h`, `3.4 h`, `12 min 3 s`.
fn hours(ms: i64) -> String {
    match ms as f64 / 3_600_000.0 {
        hours if hours >= 100.0 => format!("{} h", grouped(hours.round() as u64)),
        hours if hours >= 1.0 => format!("{hours:.1} h"),
        _ => duration(number(ms)),
    }
}

/// A column for each bucket, as high as its audio; a dot where there was none.
fn spark(activity: &[Bucket]) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = activity.iter().map(|b| b.audio_ms).max().unwrap_or(0).max(1) as f64;
    activity
        .iter()
        .map(|bucket| match bucket.audio_ms {
            0 if bucket.items == 0 => '·',
            ms => LEVELS[((ms as f64 / most * 8.0).ceil() as usize).clamp(1, 8) - 1],
        })
        .collect()
}

fn legend(activity: &[Bucket], unit: Unit) -> String {
    let (Some(first), Some(last)) = (activity.first(), activity.last()) else { return String::new() };
    let most = activity.iter().map(|b| b.audio_ms).max().unwrap_or(0);
    let at = |bucket: &Bucket| match unit {
        Unit::Hour => local(bucket.from),
        Unit::Day | Unit::Week => bucket.from.format("%Y-%m-%d").to_string(),
        Unit::Month => bucket.from.format("%Y-%m").to_string(),
        Unit::Year => bucket.from.format("%Y").to_string(),
    };
    let a = if unit == Unit::Hour { "an" } else { "a" };
    format!("audio transcribed {a} {}, {} to {}; at most {}", unit.as_str(), at(first), at(last), hours(most))
}

/// Date and time on this machine's clocks.
fn local(at: DateTime<Utc>) -> String {
    at.with_timezone(&Local).format("%Y-%m-%d %H:%M").to_string()
}

fn number(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

#[cfg(test)]
mod tests;

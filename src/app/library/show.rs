//! `spoken show`: one item, how complete its transcript is, and the transcript.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};

use console::style;
use futures::TryStreamExt;
use serde_json::json;

use super::{clock, short_id, the_one};
use crate::app::world::World;
use crate::cli::{EXIT_OK, ShowArgs};
use crate::media::{Dropped, Gap, Segment, State};
use crate::store::MediaRow;
use crate::telemetry::sanitize;

/// Gaps named before the rest is only counted.
const GAPS: usize = 6;
/// Texts that were not believed that are shown before the rest is only counted.
const DROPPED: usize = 3;

/// `spoken show`.
///
/// # Errors
/// Where the item is not known or not unique, the database's, or standard output's.
pub async fn show(world: &World, args: &ShowArgs) -> anyhow::Result<u8> {
    let row = the_one(&world.store, &args.media).await?;
    let dropped = if row.dropped > 0 { world.store.dropped(row.media_id).await? } else { Vec::new() };
    let mut out = BufWriter::new(std::io::stdout().lock());
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&as_json(&row, &dropped))?)?;
        out.flush()?;
        return Ok(EXIT_OK);
    }
    facts(&mut out, &row)?;
    account(&mut out, &row)?;
    let shown = if args.dropped { usize::MAX } else { DROPPED };
    not_believed(&mut out, &row, &dropped, shown)?;
    if !args.dropped {
        let mut segments = world.store.segments(row.media_id);
        let mut first = true;
        while let Some(Segment { start_ms, text, .. }) = segments.try_next().await? {
            if std::mem::take(&mut first) {
                writeln!(out)?;
            }
            writeln!(out, "{}  {}", style(format!("{:>8}", clock(start_ms))).cyan(), sanitize(&text))?;
        }
    }
    out.flush()?;
    Ok(EXIT_OK)
}

/// A line for what is known, none for what is not.
fn field(out: &mut impl Write, name: &str, value: Option<String>) -> std::io::Result<()> {
    match value {
        Some(value) => writeln!(out, "{} {}", style(format!("{name:<10}")).dim(), sanitize(&value)),
        None => Ok(()),
    }
}

fn facts(out: &mut impl Write, row: &MediaRow) -> std::io::Result<()> {
    writeln!(out, "{}", style(sanitize(&row.title)).bold())?;
    field(out, "id", Some(row.media_id.to_string()))?;
    field(out, "source", Some(row.address().to_owned()))?;
    field(out, "channel", row.channel.clone())?;
    field(out, "published", row.published_at.map(|t| t.format("%Y-%m-%d").to_string()))?;
    field(out, "state", Some(row.state.as_str().to_owned()))?;
    field(out, "length", row.duration_ms.map(clock))?;
    field(out, "speech", row.speech_ms.map(clock))?;
    field(out, "language", row.language.clone())?;
    field(out, "model", row.model.clone())?;
    field(out, "error", row.error.clone().filter(|_| row.state != State::Done))?;
    field(out, "remedy", row.remedy.clone().filter(|_| row.state == State::Failed))
}

/// How much of the speech has text, where it has none, and what that may mean.
fn account(out: &mut impl Write, row: &MediaRow) -> std::io::Result<()> {
    let Some(coverage) = row.coverage.as_ref().filter(|_| row.state == State::Done) else { return Ok(()) };
    let share = coverage.share(row.speech_ms.unwrap_or(0));
    let words = coverage.words_a_minute().map_or_else(String::new, |n| format!(", {n:.0} words a minute"));
    // Rounded down: 100 % is all of it.
    field(
        out,
        "coverage",
        share.map(|s| format!("{:.0} % of the speech has text{words}", (100.0 * s).floor())),
    )?;
    field(out, "gaps", gaps(&coverage.gaps))?;
    for flag in row.flags() {
        writeln!(out, "{} {}", style("!").yellow().bold(), style(flag.in_words()).yellow())?;
        writeln!(out, "  {}", style(format!("→ {}", flag.remedy())).dim())?;
    }
    Ok(())
}

/// `1:02–1:09, 5:00–5:04 and 3 more (0:24 in all)`.
fn gaps(gaps: &[Gap]) -> Option<String> {
    if gaps.is_empty() {
        return None;
    }
    let named: Vec<String> =
        gaps.iter().take(GAPS).map(|gap| format!("{}–{}", clock(gap.start_ms), clock(gap.end_ms))).collect();
    let more = match gaps.len().saturating_sub(GAPS) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let all: i64 = gaps.iter().map(|gap| gap.end_ms - gap.start_ms).sum();
    Some(format!("{}{more} ({} without text)", named.join(", "), clock(all)))
}

/// What the model wrote and was not believed: how much of each kind, and `most` of it word for word.
fn not_believed(
    out: &mut impl Write,
    row: &MediaRow,
    dropped: &[Dropped],
    most: usize,
) -> std::io::Result<()> {
    if dropped.is_empty() {
        return Ok(());
    }
    let mut kinds = BTreeMap::<&str, usize>::new();
    for text in dropped {
        *kinds.entry(text.reason.in_words()).or_default() += 1;
    }
    let kinds: Vec<String> = kinds.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
    let what = if row.dropped == 1 { "text was not believed" } else { "texts were not believed" };
    field(out, "dropped", Some(format!("{} {what}: {}", row.dropped, kinds.join(", "))))?;
    for Dropped { start_ms, text, reason, .. } in dropped.iter().take(most) {
        let time = style(format!("{:>8}", clock(*start_ms))).cyan();
        let reason = style(reason.in_words()).dim();
        writeln!(out, "{time}  {}  {reason}", style(sanitize(text)).dim())?;
    }
    if dropped.len() > most {
        let more = format!(
            "          … and {} more: spoken show {} --dropped",
            row.dropped - i32::try_from(most).unwrap_or(0),
            short_id(row)
        );
        writeln!(out, "{}", style(more).dim())?;
    }
    Ok(())
}

/// Everything but the transcript, for which there is `spoken export`.
fn as_json(row: &MediaRow, dropped: &[Dropped]) -> serde_json::Value {
    json!({
        "media_id": row.media_id,
        "source": row.address(),
        "title": row.title,
        "channel": row.channel,
        "published_at": row.published_at,
        "state": row.state.as_str(),
        "duration_ms": row.duration_ms,
        "speech_ms": row.speech_ms,
        "language": row.language,
        "model": row.model,
        "segments": row.segments,
        "coverage": row.coverage,
        "dropped_count": row.dropped,
        "dropped": dropped,
        "error": row.error.as_deref().filter(|_| row.state != State::Done),
        "remedy": row.remedy.as_deref().filter(|_| row.state == State::Failed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_named_and_the_rest_is_counted() {
        let gap = |n: i64| Gap { start_ms: n * 60_000, end_ms: n * 60_000 + 4_000 };
        assert_eq!(gaps(&[]), None);
        assert_eq!(gaps(&[gap(1)]).as_deref(), Some("1:00–1:04 (0:04 without text)"));
        let many: Vec<Gap> = (1..=9).map(gap).collect();
        assert_eq!(
            gaps(&many).as_deref(),
            Some(
                "1:00–1:04, 2:00–2:04, 3:00–3:04, 4:00–4:04, 5:00–5:04, 6:00–6:04 and 3 more (0:36 without text)"
            )
        );
    }
}

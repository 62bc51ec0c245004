//! The queue, for people and for programs.

use std::io::{BufWriter, Write};

use chrono::{DateTime, Local, TimeDelta, Utc};
use console::style;

use crate::app::library::clock;
use crate::cli::EXIT_OK;
use crate::media::MediaId;
use crate::queue::{GivenUp, InWork, Overview, Scheduled, Waiting};
use crate::telemetry::sanitize;

/// Prints it.
pub(super) fn show(overview: &Overview, json: bool) -> anyhow::Result<u8> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(overview)?)?;
    } else {
        write(&mut out, overview)?;
    }
    out.flush()?;
    Ok(EXIT_OK)
}

/// Date and time on this machine's clocks.
pub(super) fn local(at: DateTime<Utc>) -> String {
    at.with_timezone(&Local).format("%Y-%m-%d %H:%M").to_string()
}

/// About how long: `12 s`, `3 min`, `2 h`, `5 d`.
fn about(time: TimeDelta) -> String {
    match time.num_seconds().max(0) {
        s @ 0..100 => format!("{s} s"),
        s @ 100..6000 => format!("{} min", s / 60),
        s @ 6000..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

fn short(id: MediaId) -> String {
    id.to_string().chars().take(8).collect()
}

fn write(out: &mut impl Write, overview: &Overview) -> std::io::Result<()> {
    let Overview { at, paused, counts, running, waiting, scheduled, dead } = overview;
    if let Some(pause) = paused {
        let until = pause.until.map_or_else(
            || "until `spoken queue resume`".to_owned(),
            |until| format!("until {} (in {})", local(until), about(until - at)),
        );
        writeln!(out, "{}", style(format!("paused since {}, {until}", local(pause.since))).yellow())?;
    }
    writeln!(
        out,
        "{} running, {} waiting, {} scheduled, {} given up, {} cancelled",
        counts.running, counts.waiting, counts.scheduled, counts.dead, counts.cancelled
    )?;
    heading(out, "running", running.len(), counts.running)?;
    running.iter().try_for_each(|item| in_work(out, item, *at))?;
    heading(out, "next", waiting.len(), counts.waiting)?;
    waiting.iter().try_for_each(|item| in_line(out, item, *at))?;
    heading(out, "scheduled", scheduled.len(), counts.scheduled)?;
    scheduled.iter().try_for_each(|item| at_its_time(out, item, *at))?;
    heading(out, "given up", dead.len(), counts.dead)?;
    dead.iter().try_for_each(|item| given_up(out, item))
}

fn heading(out: &mut impl Write, name: &str, shown: usize, all: i64) -> std::io::Result<()> {
    if shown == 0 {
        return Ok(());
    }
    let of = if i64::try_from(shown).is_ok_and(|n| n < all) {
        format!(" ({shown} of {all})")
    } else {
        String::new()
    };
    writeln!(out, "\n{}{of}", style(name).bold())
}

fn in_work(out: &mut impl Write, item: &InWork, now: DateTime<Utc>) -> std::io::Result<()> {
    let step = item.place.as_ref().and_then(|place| place.step.as_deref()).unwrap_or("–");
    let place = match &item.place {
        Some(place) if place.unseen => {
            format!("{}, not heard of for {}", sanitize(&place.host), about(now - place.seen_at))
        }
        Some(place) => format!("{} ({})", sanitize(&place.host), place.pid),
        None => "not heard of".to_owned(),
    };
    let again = if item.attempt > 1 { format!(", attempt {}", item.attempt) } else { String::new() };
    writeln!(
        out,
        "{}  {}  {}  {}  {}",
        style(short(item.media_id)).dim(),
        style(format!("{:<10}", sanitize(step))).cyan(),
        style(format!("{:>6}{again}", about(now - item.since))).dim(),
        place,
        sanitize(&item.title),
    )
}

fn in_line(out: &mut impl Write, item: &Waiting, now: DateTime<Utc>) -> std::io::Result<()> {
    let how = match item {
        Waiting { claimed: true, .. } => "  (handed to a worker)",
        Waiting { first: true, .. } => "  (put first)",
        _ => "",
    };
    writeln!(
        out,
        "{}  {:>8}  {}  {}{}",
        style(short(item.media_id)).dim(),
        item.duration_ms.map_or_else(|| "–".into(), clock),
        style(format!("found {:>6} ago", about(now - item.discovered_at))).dim(),
        sanitize(&item.title),
        style(how).dim(),
    )
}

fn at_its_time(out: &mut impl Write, item: &Scheduled, now: DateTime<Utc>) -> std::io::Result<()> {
    writeln!(
        out,
        "{}  {}  {}",
        style(short(item.media_id)).dim(),
        style(format!("in {:>6}", about(item.due_at - now))).cyan(),
        sanitize(&item.title),
    )?;
    if let Some(error) = &item.error {
        let class = item.class.as_deref().unwrap_or("internal");
        writeln!(
            out,
            "          {} {}: {}",
            style("└").dim(),
            style(sanitize(class)).yellow(),
            sanitize(error)
        )?;
    }
    Ok(())
}

fn given_up(out: &mut impl Write, item: &GivenUp) -> std::io::Result<()> {
    writeln!(out, "{}  {}", style(short(item.media_id)).dim(), sanitize(&item.title))?;
    let class = item.class.as_deref().unwrap_or("internal");
    let error = item.error.as_deref().unwrap_or_default();
    writeln!(out, "          {} {}: {}", style("└").dim(), style(sanitize(class)).red(), sanitize(error))?;
    if let Some(remedy) = &item.remedy {
        writeln!(out, "            {}", style(sanitize(remedy)).dim())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_about_right() {
        let about = |seconds| super::about(TimeDelta::seconds(seconds));
        assert_eq!(about(-3), "0 s");
        assert_eq!(about(99), "99 s");
        assert_eq!(about(100), "1 min");
        assert_eq!(about(5999), "99 min");
        assert_eq!(about(6000), "1 h");
        assert_eq!(about(200_000), "2 d");
    }
}

//! Commands about what is known: status, show, retry.
//!
//! What is asked for goes to standard output; what is said about it (hints, questions back) to standard error.

mod show;

use std::io::{BufWriter, Write};

use anyhow::bail;
use console::style;
use futures::TryStreamExt;
use serde_json::json;

pub use show::show;

use super::{limits, world::World};
use crate::cli::{EXIT_FAILED, EXIT_OK, RetryArgs, StatusArgs};
use crate::govern;
use crate::media::State;
use crate::queue::place::Lane;
use crate::queue::{Control, Entry};
use crate::store::{ItemFilter, MediaRow, Selection, Store};
use crate::telemetry::sanitize;

/// Characters of an identity that are enough to name it among thousands.
const SHORT_ID: usize = 8;

/// `spoken status`.
///
/// # Errors
/// The database's, or standard output's.
pub async fn status(world: &World, args: &StatusArgs) -> anyhow::Result<u8> {
    let counts = world.store.counts().await?;
    let state = args.failed.then_some(State::Failed);
    let mut rows = world.store.items(&ItemFilter { state, limit: args.limit, ..ItemFilter::default() });
    let mut out = BufWriter::new(std::io::stdout().lock());
    if args.json {
        // Written row by row: a library may be larger than memory is worth.
        write!(
            out,
            "{{\"counts\":{},\"items\":[",
            json!({"queued": counts.queued, "active": counts.active, "done": counts.done, "failed": counts.failed})
        )?;
        let mut separator = "";
        while let Some(row) = rows.try_next().await? {
            write!(out, "{separator}\n{}", status_json(&row))?;
            separator = ",";
        }
        writeln!(out, "]}}")?;
        return Ok(EXIT_OK);
    }
    let total = counts.queued + counts.active + counts.done + counts.failed;
    if total == 0 {
        out.flush()?;
        eprintln!("nothing here yet: `spoken ingest FOLDER|URL…` brings something in");
        return Ok(EXIT_OK);
    }
    let (mut listed, mut flagged) = (0, 0);
    while let Some(row) = rows.try_next().await? {
        listed += 1;
        writeln!(
            out,
            "{}  {}  {:>8}  {:<4}  {}",
            style(short_id(&row)).dim(),
            state_word(row.state),
            row.duration_ms.map_or_else(|| "–".into(), clock),
            row.language.as_deref().unwrap_or(""),
            sanitize(&row.title),
        )?;
        if let Some(error) = row.error.as_deref().filter(|_| row.state != State::Done) {
            writeln!(out, "          {} {}", style("└").dim(), style(sanitize(error)).red())?;
            if let Some(remedy) = row.remedy.as_deref().filter(|_| row.state == State::Failed) {
                writeln!(out, "            {}", style(sanitize(remedy)).dim())?;
            }
        }
        if let Some(error) = row.error.as_deref().filter(|_| row.state == State::Done) {
            let kept = format!("doing it again failed, this is from before: {}", sanitize(error));
            writeln!(out, "          {} {}", style("└").dim(), style(kept).yellow())?;
        }
        if !row.flags().is_empty() {
            flagged += 1;
            let flags: Vec<&str> = row.flags().iter().map(|flag| flag.in_words()).collect();
            writeln!(out, "          {} {}", style("└").dim(), style(flags.join("; ")).yellow())?;
        }
    }
    let of = if args.failed { counts.failed } else { total };
    let incomplete = match flagged {
        // Of all that are done only where all are listed.
        _ if listed < total => String::new(),
        0 => String::new(),
        1 => " (1 looks incomplete)".to_owned(),
        n => format!(" ({n} look incomplete)"),
    };
    writeln!(
        out,
        "{} done{incomplete}, {} failed, {} active, {} queued",
        counts.done, counts.failed, counts.active, counts.queued
    )?;
    out.flush()?;
    if listed < of {
        eprintln!("{listed} of {of} are listed");
    }
    if counts.queued > 0 {
        for line in limits::resting(&govern::standing(world.store.pool()).await?) {
            eprintln!("{line}");
        }
    }
    if flagged > 0 {
        eprintln!(
            "{}",
            style("spoken show ID says what looks incomplete and what may help").for_stderr().dim()
        );
    }
    if counts.failed > 0 {
        eprintln!("{}", style("spoken retry --failed queues the failed ones again").for_stderr().dim());
    }
    Ok(EXIT_OK)
}

fn status_json(row: &MediaRow) -> serde_json::Value {
    json!({
        "media_id": row.media_id,
        "source": row.address(),
        "title": row.title,
        "state": row.state.as_str(),
        "duration_ms": row.duration_ms,
        "speech_ms": row.speech_ms,
        "transcribed_ms": row.coverage.as_ref().map(|c| c.transcribed_ms),
        "words": row.coverage.as_ref().map(|c| c.words),
        "gaps": row.coverage.as_ref().map(|c| c.gaps.len()),
        "dropped": row.dropped,
        "flags": row.flags(),
        "language": row.language,
        "error": row.error.as_deref().filter(|_| row.state != State::Done),
    })
}

/// Padded to the width of the longest, before colour.
fn state_word(state: State) -> console::StyledObject<String> {
    let word = style(format!("{:<6}", state.as_str()));
    match state {
        State::Done => word.green(),
        State::Failed => word.red(),
        State::Active => word.cyan(),
        State::Queued => word.yellow(),
    }
}

fn short_id(row: &MediaRow) -> String {
    row.media_id.to_string().chars().take(SHORT_ID).collect()
}

/// Milliseconds as `m:ss` or `h:mm:ss`.
pub(super) fn clock(ms: i64) -> String {
    let s = ms.max(0) / 1000;
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

/// The one item that `what` means.
///
/// # Errors
/// When there is none, or more than one: the candidates are listed.
pub(super) async fn the_one(store: &Store, what: &str) -> anyhow::Result<MediaRow> {
    let mut found = store.find(what).await?;
    match found.len() {
        0 => bail!("no item is called {:?}; `spoken status` lists what there is", sanitize(what)),
        1 => Ok(found.remove(0)),
        n => {
            let listed: Vec<String> =
                found.iter().take(10).map(|r| format!("  {}  {}", short_id(r), sanitize(&r.title))).collect();
            bail!(
                "{n} items may be meant by {:?}; name one by its id:\n{}",
                sanitize(what),
                listed.join("\n")
            )
        }
    }
}

/// `spoken retry`: the items are queued again; the next `ingest` (or one that runs now) works on them.
///
/// # Errors
/// Where an item is not known or not unique, or the database's.
pub async fn retry(world: &World, args: &RetryArgs) -> anyhow::Result<u8> {
    let selection = match args {
        RetryArgs { failed: true, .. } => Selection::Failed,
        RetryArgs { flagged: true, .. } => Selection::Flagged,
        RetryArgs { class: Some(class), .. } => Selection::FailedWith(*class),
        _ => {
            let mut ids = Vec::with_capacity(args.media.len());
            for what in &args.media {
                ids.push(the_one(&world.store, what).await?.media_id);
            }
            if args.done { Selection::Again(ids) } else { Selection::Ids(ids) }
        }
    };
    let queued = world.store.retry(&selection).await?;
    let n = queued.len();
    if n == 0 {
        eprintln!(
            "nothing to try again: {}",
            match &selection {
                Selection::Failed => "nothing has failed",
                Selection::FailedWith(_) => "nothing has failed in that way",
                Selection::Flagged => "no transcript looks incomplete",
                Selection::Ids(_) => "what was named has not failed; --done does again what is done",
                Selection::Again(_) => "what was named waits or is being worked on",
            }
        );
        return Ok(if args.media.is_empty() { EXIT_OK } else { EXIT_FAILED });
    }
    // Whoever works now finds them at once; the next `ingest` would find them in any case.
    let entries: Vec<Entry> = queued.iter().map(|r| Entry::new(r.media_id, r.generation)).collect();
    Control::open(world.store.pool()).await?.enqueue(&entries, Lane::Ordinary).await?;
    let kept = match selection {
        Selection::Again(_) | Selection::Flagged => "; what is stored stays until it is replaced",
        _ => "",
    };
    eprintln!(
        "{n} {} queued; `spoken ingest` works on them{kept}",
        if n == 1 { "item is" } else { "items are" }
    );
    Ok(EXIT_OK)
}

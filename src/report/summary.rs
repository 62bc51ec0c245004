//! The end of a run, as text. Pure: a summary becomes lines.

use std::collections::BTreeMap;

use super::figures::{count, duration, rate};
use super::style::{Style, Tone};
use super::text::{clean, clean_message, pad, pad_left, truncate, width as text_width, wrap};
use super::{Options, advice};
use crate::event::{FailedItem, RunSummary};
use crate::media::{FailureClass, Flag};

/// Failed items named before the rest is only counted.
const FAILURES: usize = 20;
/// Items that look incomplete named before the rest is only counted.
const FLAGGED: usize = 10;
/// Characters kept of a message that may quote a server.
const MESSAGE: usize = 300;

/// The lines that close a run, for a terminal (or file) `width` columns wide.
pub(super) fn lines(run: &RunSummary, width: usize, style: Style, options: &Options) -> Vec<String> {
    let mut out = vec![headline(run, style)];
    if let Some(line) = throughput(run) {
        out.push(line);
    }
    if !run.failures.is_empty() {
        out.push(String::new());
        failures(run, width, style, &mut out);
    }
    if !run.flagged.is_empty() {
        out.push(String::new());
        flagged(run, width, style, options, &mut out);
    }
    let worked = run.stages.iter().any(|s| s.busy_ms > 0);
    if worked {
        out.push(String::new());
        out.extend(stages(run, style));
        if let Some(sentence) = advice::bottleneck(run) {
            out.extend(wrap(&sentence, width));
        }
        if let Some((busy, ratio)) = advice::overlap(run) {
            let (wall, busy) = (duration(run.wall_ms), duration(busy));
            let line =
                format!("Wall time {wall}, {ratio:.2} × the {busy} that each of its workers was busy.");
            out.extend(wrap(&line, width).iter().map(|line| style.paint(Tone::Dim, line)));
        }
    }
    if options.hints {
        out.extend(next_steps(run, style, options));
    }
    out.into_iter().map(|line| style.spell(line)).collect()
}

/// Counts and wall time.
fn headline(run: &RunSummary, style: Style) -> String {
    let mut parts = vec![style.paint(
        if run.done > 0 { Tone::Good } else { Tone::Bold },
        &format!("{} done", count(run.done as u64, "item")),
    )];
    if run.handed_over > 0 {
        parts.push(format!("{} handed over", run.handed_over));
    }
    if run.failed > 0 {
        parts.push(style.paint(Tone::Bad, &format!("{} failed", run.failed)));
    }
    if run.skipped > 0 {
        parts.push(format!("{} skipped", run.skipped));
    }
    let (parts, wall) = (parts.join(", "), duration(run.wall_ms));
    if run.interrupted { format!("Stopped after {wall}: {parts}") } else { format!("{parts} in {wall}") }
}

/// Audio, speed.
fn throughput(run: &RunSummary) -> Option<String> {
    let speed = rate(run.audio_ms, run.wall_ms)?;
    Some(format!("{} of audio: {speed}× realtime, {speed} audio-hours per hour", duration(run.audio_ms)))
}

/// What failed, the commonest reason first, the items under it.
fn failures(run: &RunSummary, width: usize, style: Style, out: &mut Vec<String>) {
    let mut groups: BTreeMap<&str, Vec<&FailedItem>> = BTreeMap::new();
    for failure in &run.failures {
        groups.entry(failure.class.as_str()).or_default().push(failure);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|g| std::cmp::Reverse(g.len()));
    let mut room = FAILURES;
    for group in groups {
        let (shown, first) = (group.len().min(room), group[0]);
        if shown == 0 {
            break;
        }
        room -= shown;
        let heading = format!("{} ({})", reason(first.class), group.len());
        out.push(style.paint(Tone::Bad, &format!("✗ {heading}")));
        // What all have in common is said once.
        let alone = group.iter().all(|f| f.remedy == first.remedy);
        let same = group.len() > 1 && group.iter().all(|f| f.message == first.message);
        if same {
            dim(&clean_message(&first.message, MESSAGE), "  ", width, style, out);
        }
        for failure in &group[..shown] {
            let title = truncate(&clean(&failure.title), width.saturating_sub(4).max(20));
            let source = clean(&failure.source);
            // Where it is, if that says more than the title and fits beside it.
            let fits = 4 + text_width(&title) + 2 + text_width(&source) <= width;
            let shown = if source.is_empty() || source == title || !fits {
                String::new()
            } else {
                format!("  {}", style.paint(Tone::Dim, &source))
            };
            out.push(format!("    {title}{shown}"));
            if !same {
                dim(&clean_message(&failure.message, MESSAGE), "      ", width, style, out);
            }
            if let (false, Some(remedy)) = (alone, &failure.remedy) {
                dim(&format!("→ {}", clean_message(remedy, MESSAGE)), "      ", width, style, out);
            }
        }
        if let (true, Some(remedy)) = (alone, &first.remedy) {
            dim(&format!("→ {}", clean_message(remedy, MESSAGE)), "  ", width, style, out);
        }
    }
    let more = run.failures.len().saturating_sub(FAILURES);
    if more > 0 {
        out.push(style.paint(Tone::Dim, &format!("… and {more} more, see `spoken status`")));
    }
}

/// What is done and looks incomplete.
fn flagged(run: &RunSummary, width: usize, style: Style, options: &Options, out: &mut Vec<String>) {
    let look = if run.flagged.len() == 1 { "looks" } else { "look" };
    // Without a library there is nothing to show.
    let show = if options.hints { format!(": `{}`", spoken("show ID", options)) } else { String::new() };
    let heading = format!("! {} {look} incomplete{show}", count(run.flagged.len() as u64, "item"));
    out.push(style.paint(Tone::Warn, &heading));
    for item in run.flagged.iter().take(FLAGGED) {
        let id: String = item.media_id.to_string().chars().take(8).collect();
        let title = truncate(&clean(&item.title), width.saturating_sub(14).max(20));
        let id = if options.hints { format!("{}  ", style.paint(Tone::Dim, &id)) } else { String::new() };
        out.push(format!("    {id}{title}"));
        dim(&in_words(&item.flags), "      ", width, style, out);
    }
    let more = run.flagged.len().saturating_sub(FLAGGED);
    if more > 0 {
        let see =
            if options.hints { format!(", see `{}`", spoken("status", options)) } else { String::new() };
        out.push(style.paint(Tone::Dim, &format!("… and {more} more{see}")));
    }
}

/// What looks wrong, in one sentence.
pub(super) fn in_words(flags: &[Flag]) -> String {
    flags.iter().map(|flag| flag.in_words()).collect::<Vec<_>>().join("; ")
}

/// A command that means the same library as this run.
fn spoken(command: &str, options: &Options) -> String {
    let space = if options.flags.is_empty() { "" } else { " " };
    format!("spoken{space}{} {command}", options.flags)
}

fn dim(text: &str, indent: &str, width: usize, style: Style, out: &mut Vec<String>) {
    for line in wrap(text, width.saturating_sub(indent.len()).max(20)) {
        out.push(format!("{indent}{}", style.paint(Tone::Dim, &line)));
    }
}

/// What kind of failure it is, for people.
pub(super) fn reason(class: FailureClass) -> &'static str {
    match class {
        FailureClass::NotMedia => "not media",
        FailureClass::Empty => "empty",
        FailureClass::NoAudio => "no audio track",
        FailureClass::NoSpeech => "nobody speaks",
        FailureClass::Truncated => "ends too early",
        FailureClass::Drm => "encrypted",
        FailureClass::Unreadable => "cannot be read",
        FailureClass::TooLarge => "over the limits",
        FailureClass::NotFound => "does not exist",
        FailureClass::Private => "needs an account",
        FailureClass::GeoBlocked => "blocked in this country",
        FailureClass::NotYet => "not available yet",
        FailureClass::Refused => "address refused",
        FailureClass::RateLimited => "the site asks to slow down",
        FailureClass::Forbidden => "the site refuses the media",
        FailureClass::Paced => "waits for its turn",
        FailureClass::Network => "network",
        FailureClass::NoSpace => "the disk is full",
        FailureClass::Setup => "set-up",
        FailureClass::Crashed => "crashed",
        FailureClass::Cancelled => "cancelled",
        FailureClass::Internal => "internal error",
    }
}

/// The table of the stages.
fn stages(run: &RunSummary, style: Style) -> Vec<String> {
    let head = ["stage", "workers", "busy", "waited for input", "waited for room", "items"].map(String::from);
    let mut table = vec![head];
    for stage in &run.stages {
        table.push([
            stage.name.to_owned(),
            stage.workers.to_string(),
            format!("{} %", advice::busy_percent(stage, run.wall_ms)),
            duration(stage.wait_in_ms),
            duration(stage.wait_out_ms),
            stage.items.to_string(),
        ]);
    }
    let widths: Vec<usize> =
        (0..6).map(|c| table.iter().map(|row| row[c].len()).max().unwrap_or(0)).collect();
    table
        .iter()
        .enumerate()
        .map(|(n, row)| {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(c, (cell, &w))| if c == 0 { pad(cell, w) } else { pad_left(cell, w) })
                .collect();
            let line = cells.join("  ");
            if n == 0 { style.paint(Tone::Dim, &line) } else { line }
        })
        .collect()
}

/// What to do next.
fn next_steps(run: &RunSummary, style: Style, options: &Options) -> Vec<String> {
    let mut steps = Vec::new();
    if run.interrupted {
        steps.push(("go on", "run the same command again".to_owned()));
    }
    if run.done > 0 || run.skipped > 0 {
        steps.push(("find what was said", spoken("search \"some words\"", options)));
    }
    if run.failed > 0 {
        steps.push(("try the failed ones again", spoken("retry --failed", options)));
    }
    if steps.is_empty() {
        return Vec::new();
    }
    let width = steps.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    let mut out = vec![String::new()];
    for (what, how) in steps {
        let what = format!("{}{}", pad(&format!("{what}:"), width + 1), "  ");
        out.push(format!("{}{}", style.paint(Tone::Dim, &what), style.paint(Tone::Bold, &how)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::FlaggedItem;
    use crate::media::MediaId;
    use crate::stage::StageSummary;

    fn failed(class: FailureClass, title: &str, message: &str, remedy: Option<&str>) -> FailedItem {
        FailedItem {
            media_id: MediaId::new("t", title),
            title: title.into(),
            source: if title == "silent film" { "films/silent.mp4".into() } else { String::new() },
            class,
            message: message.into(),
            remedy: remedy.map(Into::into),
        }
    }

    fn hints(hints: bool) -> Options {
        Options { hints, ..Options::default() }
    }

    fn stage(name: &'static str, workers: usize, busy_ms: u64, wait_out_ms: u64) -> StageSummary {
        StageSummary {
            name,
            workers,
            busy_ms,
            wait_in_ms: 1_500,
            wait_out_ms,
            items: 38,
            in_hand: 0,
            queued: 0,
            capacity: 4,
        }
    }

    #[test]
    fn reads_as_a_report() {
        let run = RunSummary {
            done: 38,
            failed: 3,
            skipped: 5,
            wall_ms: 723_000,
            audio_ms: 723_000 * 41,
            stages: vec![
                stage("io", 24, 4_000_000, 720_000),
                stage("asr", 2, 1_359_000, 0),
                stage("db", 12, 100_000, 0),
            ],
            failures: vec![
                failed(FailureClass::Network, "slow one", "connection reset", Some("check the network")),
                failed(FailureClass::NoAudio, "silent film", "there is only video in it", None),
                failed(FailureClass::NoAudio, "another\u{1b}[2J", "there is only video in it", None),
            ],
            flagged: vec![FlaggedItem {
                media_id: MediaId::new("t", "a concert"),
                title: "a concert".into(),
                flags: vec![Flag::LowCoverage, Flag::FewWords],
            }],
            ..RunSummary::default()
        };
        let options = Options { flags: "--profile sample".into(), ..Options::default() };
        let text = lines(&run, 80, Style::PLAIN, &options).join("\n");
        assert_eq!(
            text,
            "\
38 items done, 3 failed, 5 skipped in 12 min 3 s
8 h 14 min of audio: 41× realtime, 41 audio-hours per hour

✗ no audio track (2)
  there is only video in it
    silent film  films/silent.mp4
    another
✗ network (1)
    slow one
      connection reset
  → check the network

! 1 item looks incomplete: `spoken --profile sample show ID`
    af50a512  a concert
      much of the detected speech has no text; fewer words than so much speech
      holds

stage  workers  busy  waited for input  waited for room  items
io          24  23 %             1.5 s           12 min     38
asr          2  93 %             1.5 s              0 s     38
db          12   1 %             1.5 s              0 s     38
Bottleneck: transcription (its workers were busy 93 % of the time); the stage
before it waited 12 min for room.
Wall time 12 min 3 s, 1.06 × the 11 min 19 s that each of its workers was busy.

find what was said:         spoken --profile sample search \"some words\"
try the failed ones again:  spoken --profile sample retry --failed"
        );
    }

    #[test]
    fn many_failures_are_cut() {
        let failures = (0..50).map(|n| failed(FailureClass::Empty, &n.to_string(), "empty", None)).collect();
        let run = RunSummary { failed: 50, failures, ..RunSummary::default() };
        let text = lines(&run, 80, Style::PLAIN, &hints(false));
        assert_eq!(text.last().map(String::as_str), Some("… and 30 more, see `spoken status`"));
        assert!(text.len() < 50);
    }

    #[test]
    fn nothing_to_do_is_one_line() {
        let run = RunSummary { skipped: 40, wall_ms: 900, ..RunSummary::default() };
        assert_eq!(lines(&run, 80, Style::PLAIN, &hints(false)), ["0 items done, 40 skipped in 900 ms"]);
        let stopped = RunSummary { done: 1, interrupted: true, wall_ms: 61_000, ..RunSummary::default() };
        let text = lines(&stopped, 80, Style::PLAIN, &hints(true)).join("\n");
        assert!(text.starts_with("Stopped after 1 min 1 s: 1 item done"), "{text}");
        assert!(text.contains("run the same command again"));
    }
}

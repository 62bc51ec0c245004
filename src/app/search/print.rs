//! Hits for people: grouped by item, times and links, the words that answer highlighted.

use std::collections::HashMap;
use std::io::Write;

use console::style;

use super::super::library::clock;
use crate::media::MediaId;
use crate::search::Hit;
use crate::telemetry::sanitize;

/// Columns before what was said: two spaces, a time such as 1:02:03, two spaces.
const INDENT: &str = "           ";
/// Characters of an identity that are enough to name it among thousands.
const SHORT_ID: usize = 8;

/// Writes hits under the title of their item, items in the order of their best hit.
pub(super) fn grouped(out: &mut impl Write, hits: &[Hit]) -> std::io::Result<()> {
    let mut order: Vec<MediaId> = Vec::new();
    let mut groups: HashMap<MediaId, Vec<&Hit>> = HashMap::new();
    for hit in hits {
        groups.entry(hit.media_id).or_insert_with(|| {
            order.push(hit.media_id);
            Vec::new()
        });
        if let Some(group) = groups.get_mut(&hit.media_id) {
            group.push(hit);
        }
    }
    let mut separator = "";
    for group in order.iter().filter_map(|id| groups.get(id)) {
        write!(out, "{separator}")?;
        item(out, group)?;
        separator = "\n";
    }
    Ok(())
}

/// Title, channel and day; each place; how many more there are.
fn item(out: &mut impl Write, hits: &[&Hit]) -> std::io::Result<()> {
    let Some(first) = hits.first() else { return Ok(()) };
    let mut about: Vec<String> = Vec::new();
    about.extend(first.channel.as_deref().map(|c| sanitize(c).into_owned()).filter(|c| !c.trim().is_empty()));
    about.extend(first.published_at.map(|at| at.format("%Y-%m-%d").to_string()));
    let about: String = about.iter().map(|a| format!("  {a}")).collect();
    writeln!(out, "{}{}", style(sanitize(&first.title)).bold(), style(about).dim())?;
    for hit in hits {
        place(out, hit)?;
    }
    if first.item_hits > hits.len() {
        let id: String = first.media_id.to_string().chars().take(SHORT_ID).collect();
        let more = format!("{} of {} hits here; --in {id} shows all", hits.len(), first.item_hits);
        writeln!(out, "  {}", style(more).dim())?;
    }
    Ok(())
}

/// What was said before, the time and what was said then, what was said after, the link.
fn place(out: &mut impl Write, hit: &Hit) -> std::io::Result<()> {
    let context = |out: &mut dyn Write, text: Option<&String>| match text.filter(|t| !t.is_empty()) {
        Some(text) => writeln!(out, "{INDENT}{}", style(sanitize(text)).dim()),
        None => Ok(()),
    };
    context(out, hit.before.as_ref())?;
    let time = format!("{:>width$}", clock(hit.start_ms), width = INDENT.len() - 4);
    write!(out, "  {}  ", style(time).cyan())?;
    if let Some(speaker) = hit.speaker.as_deref().filter(|s| !s.trim().is_empty()) {
        write!(out, "{} ", style(format!("{}:", sanitize(speaker))).bold())?;
    }
    let mut at = 0;
    for range in &hit.highlights {
        let (Some(before), Some(word)) = (hit.text.get(at..range.start), hit.text.get(range.clone())) else {
            continue;
        };
        write!(out, "{}{}", sanitize(before), style(sanitize(word)).yellow().bold())?;
        at = range.end;
    }
    writeln!(out, "{}", sanitize(hit.text.get(at..).unwrap_or_default()))?;
    context(out, hit.after.as_ref())?;
    writeln!(out, "{INDENT}{}", style(sanitize(&hit.link)).dim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(id: &str, start_ms: i64, text: &str) -> Hit {
        Hit {
            media_id: MediaId::new("file", id),
            title: format!("Talk {id}\u{1b}[31m"),
            source: format!("/media/{id}.mp4"),
            channel: Some("The \u{202e}club".into()),
            published_at: None,
            language: "en".into(),
            speaker: None,
            start_ms,
            end_ms: start_ms + 1000,
            text: text.into(),
            before: None,
            after: None,
            link: format!("file:///media/{id}.mp4#t=1"),
            score: 1.0,
            item_hits: 1,
            highlights: std::iter::once(0..3).collect(),
        }
    }

    #[test]
    fn hits_stand_under_their_item_and_nothing_reaches_the_terminal_raw() {
        let mut hits =
            vec![hit("a", 1000, "Öne two."), hit("b", 3_723_000, "Two."), hit("a", 61_000, "More.")];
        hits[0].item_hits = 7;
        hits[1].before = Some("Well.".into());
        hits[1].after = Some(String::new());
        hits[1].speaker = Some("Ann\u{1b}a".into());
        let mut out = Vec::new();
        grouped(&mut out, &hits).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text:?}");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("Talk a") && lines[0].contains("club"), "{text}");
        assert_eq!(lines[1], "     0:01  Öne two.");
        assert_eq!(lines[2], "           file:///media/a.mp4#t=1");
        assert_eq!(lines[3], "     1:01  More.");
        assert!(lines[5].starts_with("  2 of 7 hits here; --in "), "{text}");
        assert_eq!(lines[6], "");
        assert_eq!(lines[8..10], ["           Well.", "  1:02:03  Ann\u{fffd}a: Two."]);
        assert_eq!(lines.len(), 11);
    }
}

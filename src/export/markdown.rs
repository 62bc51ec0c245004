//! A transcript for reading: chapters, paragraphs, and links that open at the second.

use std::io::{self, Write};

use super::chapter::chapters;
use super::document::Heading;
use super::escape;
use super::width::{characters, columns, one_line};
use crate::media::Segment;
use crate::search::link;

/// A chapter is called by its first words, up to so many columns.
const NAME: usize = 64;
/// A paragraph ends at a pause of this length, once it has so many columns.
const PAUSE_MS: i64 = 1_000;
/// See [`PAUSE_MS`].
const PARAGRAPH: usize = 240;
/// A paragraph ends with the sentence that makes it longer than this.
const LONGEST: usize = 700;

/// What is spoken of in a passage, for finding chapters.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// Start on the player's clock.
    pub start_ms: i64,
    /// End on the player's clock.
    pub end_ms: i64,
    /// The passage's vector; all of one transcript have the same length.
    pub vector: Vec<f32>,
}

/// Writes the whole document: title, facts, contents where there are several chapters, and the text.
pub(super) fn write(
    out: &mut impl Write,
    heading: &Heading,
    segments: &[Segment],
    topics: &[Topic],
) -> io::Result<()> {
    let title = one_line(&heading.title);
    writeln!(out, "# {}", escape::markdown(if title.is_empty() { &heading.source } else { &title }))?;
    writeln!(out)?;
    let facts: Vec<String> = [
        heading.channel.as_deref().map(|channel| escape::markdown(&one_line(channel))),
        heading.published_at.map(|at| at.format("%Y-%m-%d").to_string()),
        heading.duration_ms.map(escape::clock),
        heading.language.as_deref().map(escape::markdown),
        Some(linked(&escape::markdown(&one_line(&heading.source)), heading, 0)),
    ]
    .into_iter()
    .flatten()
    .collect();
    writeln!(out, "{}", facts.join(" · "))?;
    let starts = chapters(segments, topics);
    let several = starts.len() > 1;
    let chapters: Vec<&[Segment]> = starts
        .iter()
        .enumerate()
        .map(|(n, start)| &segments[*start..starts.get(n + 1).copied().unwrap_or(segments.len())])
        .collect();
    if several {
        writeln!(out)?;
        for chapter in &chapters {
            writeln!(out, "- {} {}", time(heading, chapter), name(chapter))?;
        }
    }
    for chapter in chapters {
        if several {
            writeln!(out, "\n## {} {}", time(heading, chapter), name(chapter))?;
        }
        for paragraph in paragraphs(chapter) {
            let speaker = paragraph
                .first()
                .and_then(|s| s.speaker.as_deref())
                .map_or_else(String::new, |name| format!("**{}:** ", escape::markdown(&one_line(name))));
            let said: Vec<String> =
                paragraph.iter().map(|s| one_line(&s.text)).filter(|text| !text.is_empty()).collect();
            if !said.is_empty() {
                writeln!(
                    out,
                    "\n{} {speaker}{}",
                    time(heading, paragraph),
                    escape::markdown(&said.join(" "))
                )?;
            }
        }
    }
    Ok(())
}

/// When it begins, as a link to there.
fn time(heading: &Heading, segments: &[Segment]) -> String {
    let start_ms = segments.first().map_or(0, |s| s.start_ms);
    linked(&escape::clock(start_ms), heading, start_ms)
}

/// `text` (already escaped) as a link to a moment; as it is where there is no address to link to.
fn linked(text: &str, heading: &Heading, ms: i64) -> String {
    let address = link(&heading.source, &heading.locator, ms);
    if address.parse::<url::Url>().is_err() {
        return text.to_owned();
    }
    format!("[{text}]({})", escape::target(&address))
}

/// The first words.
fn name(chapter: &[Segment]) -> String {
    let text = chapter.iter().map(|s| one_line(&s.text)).find(|text| !text.is_empty()).unwrap_or_default();
    if columns(&text) <= NAME {
        return escape::markdown(text.trim_end_matches(['.', '。', ',']));
    }
    let mut kept = 0;
    let mut width = 0;
    for character in characters(&text) {
        width += columns(character);
        if width > NAME {
            break;
        }
        kept += character.len();
    }
    // At a word's end, where there is one not too far back.
    let cut = text[..kept].rfind(' ').filter(|at| 2 * at > kept).unwrap_or(kept);
    format!("{}…", escape::markdown(text[..cut].trim_end_matches([',', '、', ' '])))
}

/// Stretches that are read in one go; they end at pauses, before they are too long, and where somebody else speaks.
fn paragraphs(segments: &[Segment]) -> Vec<&[Segment]> {
    let mut paragraphs = Vec::new();
    let (mut begun, mut width) = (0, 0);
    for (n, segment) in segments.iter().enumerate() {
        width += columns(&segment.text);
        let pause = segments.get(n + 1).map_or(0, |next| next.start_ms - segment.end_ms);
        let same = segments.get(n + 1).is_none_or(|next| next.speaker == segment.speaker);
        if width >= LONGEST || (width >= PARAGRAPH && pause >= PAUSE_MS) || !same {
            paragraphs.push(&segments[begun..=n]);
            (begun, width) = (n + 1, 0);
        }
    }
    if begun < segments.len() {
        paragraphs.push(&segments[begun..]);
    }
    paragraphs
}

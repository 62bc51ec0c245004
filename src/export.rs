//! A transcript as a file: plain text, SubRip, WebVTT or JSON.
//!
//! Segments are written as they come, so a day of speech needs no more memory than a minute. Titles and text are
//! data here: whatever they contain, the file stays well-formed.
//!
//! The JSON shape is a stable interface:
//! `{"media":{"media_id","source","title","language","duration_ms"},"segments":[{"start_ms","end_ms","text","words"}],
//! "coverage":{"transcribed_ms","words","gaps":[{"start_ms","end_ms"}],"flags":[…]},
//! "dropped":[{"start_ms","end_ms","text","language","reason"}]}`. The words of a segment are
//! `[{"start_ms","end_ms","text","prob"}]`, and missing where their times are not known.

mod caption;

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use serde::Serialize;

use crate::media::{Coverage, Dropped, MediaId, Segment, Transcript, Word};
use caption::{Caption, Layout};

/// How to write a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One line per segment.
    Txt,
    /// SubRip subtitles.
    Srt,
    /// Web Video Text Tracks.
    Vtt,
    /// For programs.
    Json,
}

impl Format {
    /// Every format, in the order of the help text.
    pub const ALL: [Self; 4] = [Self::Txt, Self::Srt, Self::Vtt, Self::Json];

    /// The name on the command line, and the usual file extension.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Txt => "txt",
            Self::Srt => "srt",
            Self::Vtt => "vtt",
            Self::Json => "json",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Format {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == s)
            .ok_or_else(|| format!("unknown format {s:?}; known are txt, srt, vtt and json"))
    }
}

/// What an export says about the item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Heading {
    /// The item.
    pub media_id: MediaId,
    /// Its address or path.
    pub source: String,
    /// Its title. Untrusted text.
    pub title: String,
    /// The language of most of the speech.
    pub language: Option<String>,
    /// Length of the audio.
    pub duration_ms: Option<i64>,
}

#[derive(Serialize)]
struct JsonSegment<'a> {
    start_ms: i64,
    end_ms: i64,
    text: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    words: &'a [Word],
}

/// Writes a transcript piece by piece: [`Exporter::start`], [`Exporter::segment`] for each, [`Exporter::finish`].
///
/// Every write goes to `out` as it is; hand in a buffered writer.
pub struct Exporter<W: Write> {
    format: Format,
    out: W,
    written: u64,
    /// A caption waits for its successor, which may begin before it ends.
    pending: Option<Caption>,
    coverage: Option<Coverage>,
    dropped: Vec<Dropped>,
}

impl<W: Write> Exporter<W> {
    /// Writes what comes before the first segment.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn start(format: Format, heading: &Heading, mut out: W) -> io::Result<Self> {
        match format {
            // A text is for reading and for grep: no header that somebody would have to take off.
            Format::Txt | Format::Srt => {}
            // The title after the signature is allowed on the same line, without "-->" and line ends.
            Format::Vtt => {
                let title = caption::one_line(&heading.title).replace("-->", "→");
                let space = if title.is_empty() { "" } else { " - " };
                write!(out, "WEBVTT{space}{title}\n\n")?;
            }
            Format::Json => {
                out.write_all(b"{\"media\":")?;
                serde_json::to_writer(&mut out, heading)?;
                out.write_all(b",\"segments\":[")?;
            }
        }
        Ok(Self { format, out, written: 0, pending: None, coverage: None, dropped: Vec::new() })
    }

    /// Notes how much of the speech has text and what was not believed: for programs, which read it after the segments.
    pub fn account(&mut self, coverage: Option<Coverage>, dropped: Vec<Dropped>) {
        (self.coverage, self.dropped) = (coverage, dropped);
    }

    /// Writes the next segment; they come in order of their start.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn segment(&mut self, segment: &Segment) -> io::Result<()> {
        match self.format {
            Format::Txt => {
                let text = caption::one_line(&segment.text);
                if !text.is_empty() {
                    writeln!(self.out, "{text}")?;
                }
            }
            Format::Json => {
                if self.written > 0 {
                    self.out.write_all(b",")?;
                }
                self.written += 1;
                self.out.write_all(b"\n")?;
                let Segment { start_ms, end_ms, text, words, .. } = segment;
                let line = JsonSegment { start_ms: *start_ms, end_ms: *end_ms, text, words };
                serde_json::to_writer(&mut self.out, &line)?;
            }
            Format::Srt | Format::Vtt => {
                for caption in caption::captions(segment, &Layout::default()) {
                    self.after_pending(caption)?;
                }
            }
        }
        Ok(())
    }

    /// Writes the caption that waited, cut where this one begins: overlapping captions are drawn over each other.
    /// Each is shown for a millisecond at least; two that begin together follow each other.
    fn after_pending(&mut self, mut caption: Caption) -> io::Result<()> {
        if let Some(mut before) = self.pending.take() {
            before.end_ms = before.end_ms.min(caption.start_ms).max(before.start_ms + 1);
            caption.start_ms = caption.start_ms.max(before.end_ms);
            self.write_caption(&before)?;
        }
        caption.end_ms = caption.end_ms.max(caption.start_ms + 1);
        self.pending = Some(caption);
        Ok(())
    }

    fn write_caption(&mut self, caption: &Caption) -> io::Result<()> {
        self.written += 1;
        let (mark, escape): (char, fn(&str) -> String) = match self.format {
            Format::Vtt => ('.', caption::escape_vtt),
            _ => (',', caption::escape_srt),
        };
        if self.format == Format::Srt {
            writeln!(self.out, "{}", self.written)?;
        }
        writeln!(
            self.out,
            "{} --> {}",
            caption::time(caption.start_ms, mark),
            caption::time(caption.end_ms, mark)
        )?;
        for line in &caption.lines {
            writeln!(self.out, "{}", escape(line))?;
        }
        writeln!(self.out)
    }

    /// Writes what comes after the last segment, flushes, and returns `out`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some(last) = self.pending.take() {
            self.write_caption(&last)?;
        }
        if self.format == Format::Json {
            self.out.write_all(b"\n],\"coverage\":")?;
            serde_json::to_writer(&mut self.out, &self.coverage)?;
            self.out.write_all(b",\"dropped\":")?;
            serde_json::to_writer(&mut self.out, &self.dropped)?;
            self.out.write_all(b"}\n")?;
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Writes a whole transcript.
///
/// # Errors
/// Those of `out`.
pub fn write<W: Write>(format: Format, heading: &Heading, transcript: Transcript, out: W) -> io::Result<W> {
    let mut exporter = Exporter::start(format, heading, out)?;
    for segment in &transcript.segments {
        exporter.segment(segment)?;
    }
    exporter.account(Some(transcript.coverage), transcript.dropped);
    exporter.finish()
}

#[cfg(test)]
mod tests;

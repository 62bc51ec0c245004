//! One transcript as a document, written piece by piece.

use std::io::{self, Write};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::caption::{Caption, Captions};
use super::markdown::{self, Topic};
use super::width::one_line;
use super::{Format, VERSION, escape};
use crate::media::{Coverage, Dropped, Locator, MediaId, Segment, Transcript, Word};

/// What an export says about the item.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Heading {
    /// The item.
    pub media_id: MediaId,
    /// Its address or path.
    pub source: String,
    /// Its title. Untrusted text.
    pub title: String,
    /// Its channel or uploader. Untrusted text.
    pub channel: Option<String>,
    /// When it was published.
    pub published_at: Option<DateTime<Utc>>,
    /// The language of most of the speech.
    pub language: Option<String>,
    /// Length of the audio.
    pub duration_ms: Option<i64>,
    /// What transcribed it.
    pub model: Option<String>,
    /// What links are made from where `source` is no address.
    #[serde(skip)]
    pub locator: Locator,
}

#[derive(Serialize)]
struct JsonSegment<'a> {
    start_ms: i64,
    end_ms: i64,
    text: &'a str,
    language: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    speaker: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    words: &'a [Word],
}

/// Writes a transcript piece by piece: [`Exporter::start`], [`Exporter::segment`] for each, [`Exporter::finish`].
///
/// Every write goes to `out` as it is; hand in a buffered writer.
pub struct Exporter<W: Write> {
    format: Format,
    heading: Heading,
    out: W,
    written: u64,
    captions: Captions,
    coverage: Option<Coverage>,
    dropped: Vec<Dropped>,
    /// All of them, for what is laid out at the end.
    segments: Vec<Segment>,
    topics: Vec<Topic>,
}

impl<W: Write> Exporter<W> {
    /// Writes what comes before the first segment.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn start(format: Format, heading: &Heading, mut out: W) -> io::Result<Self> {
        match format {
            // A text is for reading and for grep: no header that somebody would have to take off.
            Format::Txt | Format::Srt | Format::Md => {}
            // The title after the signature is allowed on the same line, without "-->" and line ends.
            Format::Vtt => {
                let title = one_line(&heading.title).replace("-->", "→");
                let space = if title.is_empty() { "" } else { " - " };
                write!(out, "WEBVTT{space}{title}\n\n")?;
            }
            Format::Json => {
                write!(out, "{{\"version\":{VERSION},\"media\":")?;
                serde_json::to_writer(&mut out, heading)?;
                out.write_all(b",\"segments\":[")?;
            }
        }
        Ok(Self {
            format,
            heading: heading.clone(),
            out,
            written: 0,
            captions: Captions::default(),
            coverage: None,
            dropped: Vec::new(),
            segments: Vec::new(),
            topics: Vec::new(),
        })
    }

    /// Notes how much of the speech has text and what was not believed: for programs, which read it after the segments.
    pub fn account(&mut self, coverage: Option<Coverage>, dropped: Vec<Dropped>) {
        (self.coverage, self.dropped) = (coverage, dropped);
    }

    /// Notes what is spoken of when, in order of time: for chapters.
    pub fn topics(&mut self, topics: Vec<Topic>) {
        self.topics = topics;
    }

    /// Writes the next segment; they come in order of their start.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn segment(&mut self, segment: &Segment) -> io::Result<()> {
        match self.format {
            Format::Txt => {
                let text = one_line(&segment.text);
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
                let Segment { start_ms, end_ms, text, language, words, speaker, .. } = segment;
                let (start_ms, end_ms, speaker) = (*start_ms, *end_ms, speaker.as_deref());
                let line = JsonSegment { start_ms, end_ms, text, language, speaker, words };
                serde_json::to_writer(&mut self.out, &line)?;
            }
            Format::Srt | Format::Vtt => {
                self.captions.take(segment);
                while let Some(caption) = self.captions.next(false) {
                    self.write_caption(&caption)?;
                }
            }
            // Words are not shown, and are most of it.
            Format::Md => self.segments.push(Segment { words: Vec::new(), ..segment.clone() }),
        }
        Ok(())
    }

    fn write_caption(&mut self, caption: &Caption) -> io::Result<()> {
        self.written += 1;
        let vtt = self.format == Format::Vtt;
        let mark = if vtt { '.' } else { ',' };
        if !vtt {
            writeln!(self.out, "{}", self.written)?;
        }
        let (start_ms, end_ms) = (caption.start_ms, caption.end_ms);
        writeln!(self.out, "{} --> {}", escape::time(start_ms, mark), escape::time(end_ms, mark))?;
        let mut stamped_ms = start_ms;
        for (n, line) in caption.lines.iter().enumerate() {
            let mut text = String::new();
            if let Some(speaker) = caption.speaker.as_deref().filter(|_| vtt && n == 0) {
                // An annotation ends at `>`; white space and references are as in text.
                text.push_str(&format!("<v {}>", escape::vtt(&one_line(speaker))));
            }
            // What is escaped is a whole line: `--` and `>` may come from two pieces.
            let mut plain = String::new();
            for (at, piece) in line.iter().enumerate() {
                if at > 0 && piece.spaced {
                    plain.push(' ');
                }
                // When a word is said that is not the first. Each has to be later than the one before, and the caption still
                // there. <https://www.w3.org/TR/webvtt1/#webvtt-cue-timestamp>
                if vtt && piece.timed && piece.start_ms > stamped_ms && piece.start_ms < end_ms {
                    text.push_str(&escape::vtt(&std::mem::take(&mut plain)));
                    text.push_str(&format!("<{}>", escape::time(piece.start_ms, mark)));
                    stamped_ms = piece.start_ms;
                }
                plain.push_str(&piece.text);
            }
            text.push_str(&if vtt { escape::vtt(&plain) } else { escape::srt(&plain) });
            writeln!(self.out, "{text}")?;
        }
        writeln!(self.out)
    }

    /// Writes what comes after the last segment, flushes, and returns `out`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn finish(mut self) -> io::Result<W> {
        match self.format {
            Format::Txt => {}
            Format::Srt | Format::Vtt => {
                while let Some(caption) = self.captions.next(true) {
                    self.write_caption(&caption)?;
                }
            }
            Format::Json => {
                self.out.write_all(b"\n],\"coverage\":")?;
                serde_json::to_writer(&mut self.out, &self.coverage)?;
                self.out.write_all(b",\"dropped\":")?;
                serde_json::to_writer(&mut self.out, &self.dropped)?;
                self.out.write_all(b"}\n")?;
            }
            Format::Md => markdown::write(&mut self.out, &self.heading, &self.segments, &self.topics)?,
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

//! Transcripts to take elsewhere: documents, subtitles, and tables for whole libraries.
//!
//! * [`Exporter`] — one transcript as a document ([`Format`]): plain text, SubRip, WebVTT, JSON, Markdown. Segments are written
//!   as they come, so that a day of speech needs no more memory than a minute (but for Markdown, whose chapters are found at
//!   the end). Whatever titles and text contain, the file stays well-formed.
//! * [`table`] — many transcripts as rows ([`table::Form`]): CSV, JSON lines, Parquet.
//! * [`OutputFile`] — a file that appears whole or not at all.
//!
//! The JSON forms are stable interfaces with a version: [`TRANSCRIPT_SCHEMA`] describes a transcript, [`ROWS_SCHEMA`] the rows.

mod caption;
mod chapter;
mod document;
mod escape;
mod file;
mod markdown;
mod phrase;
mod piece;
pub mod table;
mod width;

use std::fmt;

pub use document::{Exporter, Heading, write};
pub use file::{OutputFile, file_stem};
pub use markdown::Topic;

/// JSON Schema (draft 2020-12) of a transcript as JSON.
pub const TRANSCRIPT_SCHEMA: &str = include_str!("export/transcript.schema.json");

/// JSON Schema (draft 2020-12) of the JSON lines of a library.
pub const ROWS_SCHEMA: &str = include_str!("export/rows.schema.json");

/// The version of both; raised when a field changes its meaning or goes. Fields may be added without.
pub const VERSION: u32 = 1;

/// How to write a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One line per segment.
    Txt,
    /// SubRip subtitles.
    Srt,
    /// Web Video Text Tracks, with the time of each word where it is known.
    Vtt,
    /// For programs.
    Json,
    /// For reading: chapters, and links to where they were said.
    Md,
}

impl Format {
    /// Every format, in the order of the help text.
    pub const ALL: [Self; 5] = [Self::Txt, Self::Srt, Self::Vtt, Self::Json, Self::Md];

    /// The name on the command line, and the usual file extension.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Txt => "txt",
            Self::Srt => "srt",
            Self::Vtt => "vtt",
            Self::Json => "json",
            Self::Md => "md",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;

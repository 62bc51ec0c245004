//! What `spoken export` and `spoken stats` take.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum, ValueHint};

use super::sources::{Since, since};
use crate::export::Format;
use crate::export::table::{Form, Rows};

/// What `spoken export --help` says first.
pub(super) const EXPORT: &str = "\
Writes transcripts in a form that other programs read.

txt, srt, vtt, json and md make one document of one item; several items are written into the folder that --output names, a \
file for each. csv, jsonl and parquet make rows, of one item or of thousands: one for each segment, or what --rows says. If \
--output is a folder (it exists, or its name ends with /), each kind of row gets a file there.

Files appear whole or not at all: what is broken off leaves the file of before. A library is read as it was at one moment, and \
needs no more memory than a single item.";

/// Form of a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TranscriptFormat {
    /// The words only
    Txt,
    /// SubRip subtitles
    Srt,
    /// WebVTT subtitles, with the time of each word where it is known
    Vtt,
    /// {"version", "media": {…}, "segments": [{"start_ms", "end_ms", "text", "language", "words"}], "coverage", "dropped"}
    Json,
    /// Markdown for reading: chapters, and links to where they were said
    Md,
}

impl From<TranscriptFormat> for Format {
    fn from(format: TranscriptFormat) -> Self {
        match format {
            TranscriptFormat::Txt => Self::Txt,
            TranscriptFormat::Srt => Self::Srt,
            TranscriptFormat::Vtt => Self::Vtt,
            TranscriptFormat::Json => Self::Json,
            TranscriptFormat::Md => Self::Md,
        }
    }
}

/// Form of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// The words only
    Txt,
    /// SubRip subtitles
    Srt,
    /// WebVTT subtitles, with the time of each word where it is known
    Vtt,
    /// One JSON object: the item, its segments, their words
    Json,
    /// Markdown for reading: chapters, and links to where they were said
    Md,
    /// Comma-separated rows
    Csv,
    /// A JSON object a row
    Jsonl,
    /// Apache Parquet, for data frames
    Parquet,
}

/// What [`ExportFormat`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// A document for each item.
    Document(Format),
    /// Rows.
    Table(Form),
}

impl ExportFormat {
    /// What it makes.
    pub fn product(self) -> Product {
        match self {
            Self::Txt => Product::Document(Format::Txt),
            Self::Srt => Product::Document(Format::Srt),
            Self::Vtt => Product::Document(Format::Vtt),
            Self::Json => Product::Document(Format::Json),
            Self::Md => Product::Document(Format::Md),
            Self::Csv => Product::Table(Form::Csv),
            Self::Jsonl => Product::Table(Form::Jsonl),
            Self::Parquet => Product::Table(Form::Parquet),
        }
    }
}

/// What one row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RowKind {
    /// A segment: a sentence or a part of one
    Segments,
    /// A passage: what is searched by meaning
    Passages,
    /// A word whose time is known
    Words,
    /// An item
    Items,
}

impl From<RowKind> for Rows {
    fn from(kind: RowKind) -> Self {
        match kind {
            RowKind::Segments => Self::Segments,
            RowKind::Passages => Self::Passages,
            RowKind::Words => Self::Words,
            RowKind::Items => Self::Items,
        }
    }
}

/// Arguments of `spoken export`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Examples:
  spoken export 3f2a --format srt -o talk.srt
  spoken export talks/intro.mp4 --format json | jq '.segments | length'
  spoken export --all --format vtt -o subtitles/     a file for each item
  spoken export --all --format parquet -o library.parquet
  spoken export --all --format csv -o library/       items.csv, segments.csv, passages.csv, words.csv
  spoken export --all --format jsonl --after 30d --language de | jq -r .text
  spoken export --schema > transcript.schema.json    what JSON holds, as a JSON Schema

Exit codes: 0 done, 2 wrong usage or configuration, 3 not possible for now, 130 interrupted")]
#[command(group = ArgGroup::new("what").required(true).multiple(false).args(["media", "all", "schema"]))]
pub struct ExportArgs {
    /// Ids of items (their first characters will do), or the files or addresses they came from
    #[arg(value_name = "MEDIA")]
    pub media: Vec<String>,

    /// Everything that has a transcript
    #[arg(long)]
    pub all: bool,

    /// Print the JSON Schema of json, or of the rows of jsonl with --format jsonl
    #[arg(long)]
    pub schema: bool,

    /// Form of the export [default: txt; with --all: jsonl]
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<ExportFormat>,

    /// Write to this file or into this folder instead of to standard output
    #[arg(short, long, value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    pub output: Option<PathBuf>,

    /// What one row is [default: segments; into a folder: each kind, in a file of its own]
    #[arg(long, value_name = "KIND", help_heading = "Rows")]
    pub rows: Option<RowKind>,

    /// Passages with their vectors (jsonl and parquet)
    #[arg(long, help_heading = "Rows")]
    pub vectors: bool,

    /// Only channels (or uploaders) with this in their name; may be repeated, as all of these
    #[arg(long, value_name = "NAME", help_heading = "Only what")]
    pub channel: Vec<String>,

    /// Only what was published on this day or later: 2026-01-31, or 30d for the last thirty days; where that is not known, the day
    /// it was found counts
    #[arg(long, value_name = "DATE", value_parser = since, help_heading = "Only what")]
    pub after: Option<Since>,

    /// Only what was published before this day: 2026-01-31, or 30d for longer ago than thirty days
    #[arg(long, value_name = "DATE", value_parser = since, help_heading = "Only what")]
    pub before: Option<Since>,

    /// Only what is said in this language, such as en or de; of documents, items with something in it
    #[arg(short, long, value_name = "CODE", help_heading = "Only what")]
    pub language: Vec<String>,
}

impl ExportArgs {
    /// What is to be made.
    pub fn product(&self) -> Product {
        self.format.unwrap_or(if self.all { ExportFormat::Jsonl } else { ExportFormat::Txt }).product()
    }
}

/// Arguments of `spoken stats`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Examples:
  spoken stats
  spoken stats --chart activity.svg                  when how much was transcribed, as a picture
  spoken stats --json | jq '.languages[] | {name, hours: (.audio_ms / 3600000)}'")]
pub struct StatsArgs {
    /// Also draw when how much was transcribed, as an SVG picture
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub chart: Option<PathBuf>,

    /// Print JSON: {"items", "totals", "languages", "channels", "models", "failures", "doubtful", "storage", "runs", "activity", …}
    #[arg(long)]
    pub json: bool,
}

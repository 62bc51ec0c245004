//! A library as rows: one for each segment, passage, word or item, as CSV, JSON lines or Parquet.
//!
//! The columns of every kind of row stand in [`Rows::columns`]; [`super::ROWS_SCHEMA`] describes them for JSON. Rows are written
//! as they come; Parquet, which has to keep the columns of a group of rows apart, holds one such group in memory.

mod csv;
mod jsonl;
mod parquet;

use std::fmt;
use std::io::{self, Write};

use chrono::{DateTime, Utc};

use crate::media::Word;

/// What one row is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rows {
    /// A segment: a sentence or a part of one.
    #[default]
    Segments,
    /// A passage: what is searched by meaning.
    Passages,
    /// A word whose time is known.
    Words,
    /// An item.
    Items,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Comma-separated, with a line of names: <https://www.rfc-editor.org/rfc/rfc4180>
    Csv,
    /// A JSON object a line.
    Jsonl,
    /// Apache Parquet, compressed with Snappy.
    Parquet,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text that differs from row to row.
    Text,
    /// Text that is the same in many rows.
    Name,
    /// A number of up to 32 bits.
    Number,
    /// Milliseconds, on the player's clock.
    Ms,
    /// A real number.
    Real,
    /// A moment, in UTC.
    Time,
    /// Words with their times; not in CSV.
    Words,
    /// The elements of a vector; not in CSV.
    Vector,
    /// Names, in CSV joined by spaces.
    Names,
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// It may be empty.
    pub optional: bool,
}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, optional: false }
}

const fn optional(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, optional: true }
}

const SEGMENTS: &[Column] = &[
    column("media_id", Kind::Name),
    column("seq", Kind::Number),
    column("start_ms", Kind::Ms),
    column("end_ms", Kind::Ms),
    column("text", Kind::Text),
    column("language", Kind::Name),
    column("avg_logprob", Kind::Real),
    column("no_speech_prob", Kind::Real),
    optional("speaker", Kind::Name),
    column("words", Kind::Words),
    column("model", Kind::Name),
    column("title", Kind::Name),
    optional("channel", Kind::Name),
    optional("published_at", Kind::Time),
    column("source", Kind::Name),
    column("link", Kind::Text),
];

const PASSAGES: &[Column] = &[
    column("media_id", Kind::Name),
    column("seq", Kind::Number),
    column("start_ms", Kind::Ms),
    column("end_ms", Kind::Ms),
    column("first_segment", Kind::Number),
    column("end_segment", Kind::Number),
    column("text", Kind::Text),
    column("language", Kind::Name),
    column("vector", Kind::Vector),
    optional("vector_model", Kind::Name),
    column("model", Kind::Name),
    column("title", Kind::Name),
    optional("channel", Kind::Name),
    optional("published_at", Kind::Time),
    column("source", Kind::Name),
    column("link", Kind::Text),
];

const WORDS: &[Column] = &[
    column("media_id", Kind::Name),
    column("segment", Kind::Number),
    column("seq", Kind::Number),
    column("start_ms", Kind::Ms),
    column("end_ms", Kind::Ms),
    column("text", Kind::Text),
    column("prob", Kind::Real),
    column("language", Kind::Name),
];

const ITEMS: &[Column] = &[
    column("media_id", Kind::Name),
    column("title", Kind::Text),
    optional("channel", Kind::Name),
    column("source", Kind::Text),
    optional("published_at", Kind::Time),
    column("discovered_at", Kind::Time),
    optional("finished_at", Kind::Time),
    optional("duration_ms", Kind::Ms),
    optional("speech_ms", Kind::Ms),
    optional("transcribed_ms", Kind::Ms),
    optional("language", Kind::Name),
    optional("model", Kind::Name),
    optional("embedding_model", Kind::Name),
    optional("segments", Kind::Number),
    optional("words", Kind::Number),
    column("dropped", Kind::Number),
    column("flags", Kind::Names),
];

impl Rows {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Items, Self::Segments, Self::Passages, Self::Words];

    /// The columns, in order.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Segments => SEGMENTS,
            Self::Passages => PASSAGES,
            Self::Words => WORDS,
            Self::Items => ITEMS,
        }
    }

    /// The name on the command line and of a file in a folder of several.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Segments => "segments",
            Self::Passages => "passages",
            Self::Words => "words",
            Self::Items => "items",
        }
    }
}

impl Form {
    /// The name on the command line, and the usual file extension.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
        }
    }

    /// True where columns that hold more than one value can be written.
    pub fn nests(self) -> bool {
        self != Self::Csv
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A value of a row. It has to be of its column's kind; what is not counts as nothing.
#[derive(Clone, Copy, Debug)]
pub enum Cell<'a> {
    /// Nothing.
    None,
    /// For [`Kind::Text`] and [`Kind::Name`].
    Text(&'a str),
    /// For [`Kind::Number`] and [`Kind::Ms`].
    Int(i64),
    /// For [`Kind::Real`]. What is no number counts as nothing.
    Real(f32),
    /// For [`Kind::Time`].
    Time(DateTime<Utc>),
    /// For [`Kind::Words`].
    Words(&'a [Word]),
    /// For [`Kind::Vector`].
    Vector(&'a [f32]),
    /// For [`Kind::Names`].
    Names(&'a [&'a str]),
}

impl<'a> Cell<'a> {
    /// Text that may not be there.
    pub fn text(text: Option<&'a str>) -> Self {
        text.map_or(Self::None, Self::Text)
    }

    /// A number that may not be there.
    pub fn int(number: Option<i64>) -> Self {
        number.map_or(Self::None, Self::Int)
    }

    /// A moment that may not be known.
    pub fn time(time: Option<DateTime<Utc>>) -> Self {
        time.map_or(Self::None, Self::Time)
    }
}

/// Writes rows: [`TableWriter::row`] for each, [`TableWriter::finish`].
pub struct TableWriter<W: Write + Send>(Inner<W>);

enum Inner<W: Write + Send> {
    Csv(csv::Writer<W>),
    Jsonl(jsonl::Writer<W>),
    Parquet(Box<parquet::Writer<W>>),
}

impl<W: Write + Send> TableWriter<W> {
    /// Begins a table. Every write goes to `out` as it is; hand in a buffered writer.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn start(form: Form, rows: Rows, out: W) -> io::Result<Self> {
        Ok(Self(match form {
            Form::Csv => Inner::Csv(csv::Writer::start(rows.columns(), out)?),
            Form::Jsonl => Inner::Jsonl(jsonl::Writer::start(rows.columns(), out)),
            Form::Parquet => Inner::Parquet(Box::new(parquet::Writer::start(rows, out)?)),
        }))
    }

    /// Writes a row: a cell for each of [`Rows::columns`], in that order.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        match &mut self.0 {
            Inner::Csv(writer) => writer.row(cells),
            Inner::Jsonl(writer) => writer.row(cells),
            Inner::Parquet(writer) => writer.row(cells),
        }
    }

    /// Writes what comes after the last row, flushes, and returns `out`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn finish(self) -> io::Result<W> {
        let mut out = match self.0 {
            Inner::Csv(writer) => writer.finish(),
            Inner::Jsonl(writer) => writer.finish(),
            Inner::Parquet(writer) => writer.finish()?,
        };
        out.flush()?;
        Ok(out)
    }
}

/// A moment as programs read it, to the millisecond.
fn moment(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests;

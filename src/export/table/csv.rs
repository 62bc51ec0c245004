//! Comma-separated values, as RFC 4180 has them but with plain line ends.

use std::borrow::Cow;
use std::io::{self, Write};

use super::{Cell, Column, Kind, moment};

pub(super) struct Writer<W> {
    columns: &'static [Column],
    out: W,
}

/// What a cell of a flat table cannot hold.
fn left_out(column: &Column) -> bool {
    matches!(column.kind, Kind::Words | Kind::Vector)
}

impl<W: Write> Writer<W> {
    pub(super) fn start(columns: &'static [Column], mut out: W) -> io::Result<Self> {
        let names: Vec<&str> = columns.iter().filter(|c| !left_out(c)).map(|c| c.name).collect();
        writeln!(out, "{}", names.join(","))?;
        Ok(Self { columns, out })
    }

    pub(super) fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        let mut separator = "";
        for (_, cell) in self.columns.iter().zip(cells).filter(|(column, _)| !left_out(column)) {
            self.out.write_all(separator.as_bytes())?;
            separator = ",";
            match cell {
                Cell::Text(text) => self.out.write_all(quoted(text).as_bytes())?,
                Cell::Names(names) => self.out.write_all(quoted(&names.join(" ")).as_bytes())?,
                Cell::Int(number) => write!(self.out, "{number}")?,
                Cell::Real(number) if number.is_finite() => write!(self.out, "{number}")?,
                Cell::Time(time) => self.out.write_all(moment(*time).as_bytes())?,
                Cell::None | Cell::Real(_) | Cell::Words(_) | Cell::Vector(_) => {}
            }
        }
        self.out.write_all(b"\n")
    }

    pub(super) fn finish(self) -> W {
        self.out
    }
}

/// In quotes where something in it needs them.
fn quoted(text: &str) -> Cow<'_, str> {
    if text.contains([',', '"', '\n', '\r']) || text.starts_with(' ') || text.ends_with(' ') {
        format!("\"{}\"", text.replace('"', "\"\"")).into()
    } else {
        text.into()
    }
}

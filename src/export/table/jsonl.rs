//! JSON lines: an object a row, what is not there null.

use std::io::{self, Write};

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{Cell, Column, moment};

pub(super) struct Writer<W> {
    columns: &'static [Column],
    out: W,
}

impl<W: Write> Writer<W> {
    pub(super) fn start(columns: &'static [Column], out: W) -> Self {
        Self { columns, out }
    }

    pub(super) fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, &Row { columns: self.columns, cells })?;
        self.out.write_all(b"\n")
    }

    pub(super) fn finish(self) -> W {
        self.out
    }
}

struct Row<'a> {
    columns: &'static [Column],
    cells: &'a [Cell<'a>],
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.columns.len()))?;
        for (column, cell) in self.columns.iter().zip(self.cells) {
            match cell {
                Cell::None => map.serialize_entry(column.name, &())?,
                Cell::Text(text) => map.serialize_entry(column.name, text)?,
                Cell::Int(number) => map.serialize_entry(column.name, number)?,
                // Not finite: null.
                Cell::Real(number) => map.serialize_entry(column.name, number)?,
                Cell::Time(time) => map.serialize_entry(column.name, &moment(*time))?,
                Cell::Words(words) => map.serialize_entry(column.name, words)?,
                Cell::Vector(vector) => map.serialize_entry(column.name, vector)?,
                Cell::Names(names) => map.serialize_entry(column.name, names)?,
            }
        }
        map.end()
    }
}

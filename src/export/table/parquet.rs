//! Apache Parquet: the columns of a bounded group of rows at a time.
//!
//! Lists have the three levels that <https://github.com/apache/parquet-format/blob/master/LogicalTypes.md#lists> asks for.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnPath, Type};

use super::{Cell, Column, Kind, Rows};
use crate::export::VERSION;

/// Rows of a group at most; and bytes of what they hold, before compression. Either ends it, so that memory does not depend on
/// what is in the library.
const GROUP_ROWS: usize = 50_000;
/// See [`GROUP_ROWS`].
const GROUP_BYTES: usize = 16 << 20;

pub(super) struct Writer<W: Write + Send> {
    file: SerializedFileWriter<W>,
    columns: Vec<Buffer>,
    rows: usize,
    bytes: usize,
}

impl<W: Write + Send> Writer<W> {
    pub(super) fn start(rows: Rows, out: W) -> io::Result<Self> {
        let fields = rows.columns().iter().map(field).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let schema = Type::group_type_builder(rows.as_str()).with_fields(fields).build().map_err(failed)?;
        let mut properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_compression(Compression::SNAPPY)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_created_by(concat!("spoken ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_key_value_metadata(Some(vec![
                KeyValue::new("spoken.rows".to_owned(), rows.as_str().to_owned()),
                KeyValue::new("spoken.version".to_owned(), VERSION.to_string()),
            ]));
        for column in rows.columns().iter().filter(|c| c.kind == Kind::Text) {
            // A dictionary of texts that all differ is only in the way.
            properties = properties.set_column_dictionary_enabled(ColumnPath::from(column.name), false);
        }
        let file =
            SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties.build())).map_err(failed)?;
        Ok(Self { file, columns: rows.columns().iter().map(Buffer::new).collect(), rows: 0, bytes: 0 })
    }

    pub(super) fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        for (buffer, cell) in self.columns.iter_mut().zip(cells) {
            self.bytes += buffer.push(*cell);
        }
        self.rows += 1;
        if self.rows >= GROUP_ROWS || self.bytes >= GROUP_BYTES { self.write_group() } else { Ok(()) }
    }

    fn write_group(&mut self) -> io::Result<()> {
        let mut group = self.file.next_row_group().map_err(failed)?;
        for buffer in &mut self.columns {
            buffer.write(&mut group).map_err(failed)?;
            buffer.clear();
        }
        group.close().map_err(failed)?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if self.rows > 0 {
            self.write_group()?;
        }
        self.file.into_inner().map_err(failed)
    }
}

/// An error of the output is told as what it is; there are hardly others.
fn failed(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => match error.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(error) => io::Error::other(error),
        },
        error => io::Error::other(error),
    }
}

fn primitive(
    name: &str,
    physical: Physical,
    logical: Option<LogicalType>,
    repetition: Repetition,
) -> Result<Arc<Type>, ParquetError> {
    let built = Type::primitive_type_builder(name, physical)
        .with_logical_type(logical)
        .with_repetition(repetition)
        .build()?;
    Ok(Arc::new(built))
}

fn list(name: &str, element: Arc<Type>) -> Result<Arc<Type>, ParquetError> {
    let repeated = Type::group_type_builder("list")
        .with_repetition(Repetition::REPEATED)
        .with_fields(vec![element])
        .build()?;
    let list = Type::group_type_builder(name)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(Some(LogicalType::List))
        .with_fields(vec![Arc::new(repeated)])
        .build()?;
    Ok(Arc::new(list))
}

fn field(column: &Column) -> Result<Arc<Type>, ParquetError> {
    let repetition = if column.optional { Repetition::OPTIONAL } else { Repetition::REQUIRED };
    let required = Repetition::REQUIRED;
    let string = Some(LogicalType::String);
    match column.kind {
        Kind::Text | Kind::Name => primitive(column.name, Physical::BYTE_ARRAY, string, repetition),
        Kind::Number => primitive(column.name, Physical::INT32, None, repetition),
        Kind::Ms => primitive(column.name, Physical::INT64, None, repetition),
        Kind::Real => primitive(column.name, Physical::FLOAT, None, repetition),
        Kind::Time => {
            let ms = LogicalType::timestamp(true, TimeUnit::MILLIS);
            primitive(column.name, Physical::INT64, Some(ms), repetition)
        }
        Kind::Vector => list(column.name, primitive("element", Physical::FLOAT, None, required)?),
        Kind::Names => list(column.name, primitive("element", Physical::BYTE_ARRAY, string, required)?),
        Kind::Words => {
            let word = Type::group_type_builder("element")
                .with_repetition(required)
                .with_fields(vec![
                    primitive("start_ms", Physical::INT64, None, required)?,
                    primitive("end_ms", Physical::INT64, None, required)?,
                    primitive("text", Physical::BYTE_ARRAY, string, required)?,
                    primitive("prob", Physical::FLOAT, None, required)?,
                ])
                .build()?;
            list(column.name, Arc::new(word))
        }
    }
}

/// The values of one leaf column in a group. Levels say where a value is missing and where a list begins:
/// <https://parquet.apache.org/docs/file-format/nestedencoding/>
struct Leaf<T> {
    values: Vec<T>,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
}

impl<T> Default for Leaf<T> {
    fn default() -> Self {
        Self { values: Vec::new(), definitions: Vec::new(), repetitions: Vec::new() }
    }
}

impl<T> Leaf<T> {
    /// Of a column that is not a list, and has no repetitions. Definitions are ignored where it is not optional.
    fn push(&mut self, value: Option<T>) {
        self.definitions.push(value.is_some().into());
        self.values.extend(value);
    }

    /// All values of a list.
    fn push_list(&mut self, values: impl Iterator<Item = T>) {
        let before = self.values.len();
        self.values.extend(values);
        let added = self.values.len() - before;
        self.definitions.push((added > 0).into());
        self.repetitions.push(0);
        for _ in 1..added {
            self.definitions.push(1);
            self.repetitions.push(1);
        }
    }

    fn clear(&mut self) {
        self.values.clear();
        self.definitions.clear();
        self.repetitions.clear();
    }

    fn write<D: DataType<T = T>, W: Write + Send>(
        &self,
        group: &mut SerializedRowGroupWriter<'_, W>,
    ) -> Result<(), ParquetError> {
        let Some(mut column) = group.next_column()? else {
            return Err(ParquetError::General("there are more columns than the schema has".to_owned()));
        };
        let repetitions = (!self.repetitions.is_empty()).then_some(&self.repetitions[..]);
        column.typed::<D>().write_batch(&self.values, Some(&self.definitions), repetitions)?;
        column.close()
    }
}

/// The values of a column in a group.
enum Buffer {
    Text { leaf: Leaf<ByteArray>, optional: bool },
    Number { leaf: Leaf<i32>, optional: bool },
    Wide { leaf: Leaf<i64>, optional: bool },
    Real { leaf: Leaf<f32>, optional: bool },
    Vector(Leaf<f32>),
    Names(Leaf<ByteArray>),
    Words(Box<Words>),
}

#[derive(Default)]
struct Words {
    start_ms: Leaf<i64>,
    end_ms: Leaf<i64>,
    text: Leaf<ByteArray>,
    prob: Leaf<f32>,
}

impl Buffer {
    fn new(column: &Column) -> Self {
        let optional = column.optional;
        match column.kind {
            Kind::Text | Kind::Name => Self::Text { leaf: Leaf::default(), optional },
            Kind::Number => Self::Number { leaf: Leaf::default(), optional },
            Kind::Ms | Kind::Time => Self::Wide { leaf: Leaf::default(), optional },
            Kind::Real => Self::Real { leaf: Leaf::default(), optional },
            Kind::Vector => Self::Vector(Leaf::default()),
            Kind::Names => Self::Names(Leaf::default()),
            Kind::Words => Self::Words(Box::default()),
        }
    }

    /// Takes a value; about how many bytes it needs.
    fn push(&mut self, cell: Cell<'_>) -> usize {
        match self {
            Self::Text { leaf, optional } => {
                let text = match cell {
                    Cell::Text(text) => Some(text),
                    _ if *optional => None,
                    _ => Some(""),
                };
                // The same as in the row before, as titles are: shared, not copied.
                let same = text.zip(leaf.values.last()).filter(|(text, last)| text.as_bytes() == last.data());
                let bytes = match same {
                    Some((_, last)) => Some(last.clone()),
                    None => text.map(ByteArray::from),
                };
                let added = if same.is_some() { 0 } else { text.map_or(0, str::len) };
                leaf.push(bytes);
                added + size_of::<ByteArray>()
            }
            Self::Number { leaf, optional } => {
                let number = match cell {
                    Cell::Int(number) => Some(i32::try_from(number).unwrap_or(i32::MAX)),
                    _ => None,
                };
                leaf.push(number.or((!*optional).then_some(0)));
                4
            }
            Self::Wide { leaf, optional } => {
                let number = match cell {
                    Cell::Int(number) => Some(number),
                    Cell::Time(time) => Some(time.timestamp_millis()),
                    _ => None,
                };
                leaf.push(number.or((!*optional).then_some(0)));
                8
            }
            Self::Real { leaf, optional } => {
                let number = match cell {
                    Cell::Real(number) if number.is_finite() => Some(number),
                    _ => None,
                };
                // Not a number, as what it is.
                leaf.push(number.or((!*optional).then_some(f32::NAN)));
                4
            }
            Self::Vector(leaf) => {
                let Cell::Vector(vector) = cell else {
                    leaf.push_list(std::iter::empty());
                    return 4;
                };
                leaf.push_list(vector.iter().copied());
                8 * vector.len()
            }
            Self::Names(leaf) => {
                let names = if let Cell::Names(names) = cell { names } else { &[] };
                leaf.push_list(names.iter().map(|name| ByteArray::from(*name)));
                size_of::<ByteArray>() * (1 + names.len())
            }
            Self::Words(leaves) => {
                let words = if let Cell::Words(words) = cell { words } else { &[] };
                leaves.start_ms.push_list(words.iter().map(|w| w.start_ms));
                leaves.end_ms.push_list(words.iter().map(|w| w.end_ms));
                leaves.text.push_list(words.iter().map(|w| ByteArray::from(w.text.as_str())));
                leaves.prob.push_list(words.iter().map(|w| w.prob));
                words.iter().map(|w| w.text.len() + size_of::<ByteArray>() + 32).sum()
            }
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Text { leaf, .. } | Self::Names(leaf) => leaf.clear(),
            Self::Number { leaf, .. } => leaf.clear(),
            Self::Wide { leaf, .. } => leaf.clear(),
            Self::Real { leaf, .. } | Self::Vector(leaf) => leaf.clear(),
            Self::Words(leaves) => {
                leaves.start_ms.clear();
                leaves.end_ms.clear();
                leaves.text.clear();
                leaves.prob.clear();
            }
        }
    }

    fn write<W: Write + Send>(
        &self,
        group: &mut SerializedRowGroupWriter<'_, W>,
    ) -> Result<(), ParquetError> {
        match self {
            Self::Text { leaf, .. } | Self::Names(leaf) => leaf.write::<ByteArrayType, W>(group),
            Self::Number { leaf, .. } => leaf.write::<Int32Type, W>(group),
            Self::Wide { leaf, .. } => leaf.write::<Int64Type, W>(group),
            Self::Real { leaf, .. } | Self::Vector(leaf) => leaf.write::<FloatType, W>(group),
            Self::Words(leaves) => {
                leaves.start_ms.write::<Int64Type, W>(group)?;
                leaves.end_ms.write::<Int64Type, W>(group)?;
                leaves.text.write::<ByteArrayType, W>(group)?;
                leaves.prob.write::<FloatType, W>(group)
            }
        }
    }
}

//! PostgreSQL's binary COPY format, as far as this schema needs it.
//!
//! Format: <https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format": a signature, flags, the length
//! of a header extension; then per row the number of fields (16 bits) and per field its length in bytes (32 bits)
//! and its bytes as the type's `recv` function takes them; at the end −1 as a number of fields. Everything is
//! big-endian.

use half::f16;
use sqlx::PgConnection;
use uuid::Uuid;

/// Bytes handed to the socket at a time.
const CHUNK: usize = 256 * 1024;

/// Rows in the making. Fields must be written in the order and number of the COPY statement's columns.
pub(super) struct Rows {
    buffer: Vec<u8>,
    columns: i16,
}

impl Rows {
    pub(super) fn new(columns: i16) -> Self {
        let mut buffer = b"PGCOPY\n\xff\r\n\0".to_vec();
        buffer.extend_from_slice(&[0; 8]); // no flags, no header extension
        Self { buffer, columns }
    }

    pub(super) fn row(&mut self) {
        self.buffer.extend_from_slice(&self.columns.to_be_bytes());
    }

    fn field(&mut self, bytes: &[u8]) {
        // A gigabyte in one field is refused by the server as well; lengths here are far below.
        self.buffer.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
        self.buffer.extend_from_slice(bytes);
    }

    pub(super) fn uuid(&mut self, value: Uuid) {
        self.field(value.as_bytes());
    }

    pub(super) fn int4(&mut self, value: i32) {
        self.field(&value.to_be_bytes());
    }

    pub(super) fn int8(&mut self, value: i64) {
        self.field(&value.to_be_bytes());
    }

    pub(super) fn float4(&mut self, value: f32) {
        self.field(&value.to_be_bytes());
    }

    pub(super) fn text(&mut self, value: &str) {
        self.field(super::clean(value).as_bytes());
    }

    /// As `jsonb_recv` in PostgreSQL's `src/backend/utils/adt/jsonb.c` reads it: a version, 1, then the text.
    pub(super) fn jsonb(&mut self, text: &[u8]) {
        self.buffer.extend_from_slice(&(1 + text.len() as i32).to_be_bytes());
        self.buffer.push(1);
        self.buffer.extend_from_slice(text);
    }

    /// No value: a length of −1 and no bytes.
    pub(super) fn null(&mut self) {
        self.buffer.extend_from_slice(&(-1i32).to_be_bytes());
    }

    /// As `halfvec_recv` in pgvector's `src/halfvec.c` reads it: the dimension and a zero, 16 bits each, then every
    /// element as an IEEE 754 half.
    pub(super) fn halfvec(&mut self, values: &[f32]) {
        self.buffer.extend_from_slice(&(4 + 2 * values.len() as i32).to_be_bytes());
        self.buffer.extend_from_slice(&(values.len() as i16).to_be_bytes());
        self.buffer.extend_from_slice(&[0, 0]);
        for value in values {
            self.buffer.extend_from_slice(&f16::from_f32(*value).to_be_bytes());
        }
    }

    /// Sends all rows with `statement` (`COPY … FROM STDIN (FORMAT binary)`); the number of rows written.
    pub(super) async fn send(mut self, conn: &mut PgConnection, statement: &str) -> Result<u64, sqlx::Error> {
        self.buffer.extend_from_slice(&(-1i16).to_be_bytes());
        let mut copy = conn.copy_in_raw(statement).await?;
        for chunk in self.buffer.chunks(CHUNK) {
            copy.send(chunk).await?;
        }
        copy.finish().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_encoded_as_the_format_says() {
        let mut rows = Rows::new(2);
        rows.row();
        rows.int4(-2);
        rows.text("é\0");
        let mut expected = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
        expected.extend_from_slice(b"\0\x02\0\0\0\x04\xff\xff\xff\xfe\0\0\0\x05\xc3\xa9\xef\xbf\xbd");
        assert_eq!(rows.buffer, expected);
    }

    #[test]
    fn json_carries_its_version_and_nothing_is_less_than_empty() {
        let mut rows = Rows::new(2);
        rows.jsonb(b"[]");
        rows.null();
        assert_eq!(&rows.buffer[19..], b"\0\0\0\x03\x01[]\xff\xff\xff\xff");
    }

    #[test]
    fn a_halfvec_carries_its_dimension_a_zero_and_halves() {
        let mut rows = Rows::new(1);
        rows.halfvec(&[1.0, -0.5]);
        assert_eq!(&rows.buffer[19..], b"\0\0\0\x08\0\x02\0\0\x3c\x00\xb8\x00");
    }
}

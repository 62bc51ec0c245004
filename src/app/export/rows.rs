//! What is known of an item, as rows: the columns of [`Rows::columns`], in their order.

use std::io;

use super::Tables;
use crate::export::table::{Cell, Rows};
use crate::media::Segment;
use crate::search::link;
use crate::store::MediaRow;
use crate::store::bulk::PassageRow;

/// What rows say of their item.
pub(super) struct Of<'a> {
    row: &'a MediaRow,
    id: String,
}

impl<'a> Of<'a> {
    pub(super) fn new(row: &'a MediaRow) -> Self {
        Self { row, id: row.media_id.to_string() }
    }

    fn link(&self, start_ms: i64) -> String {
        link(self.row.address(), &self.row.locator, start_ms)
    }
}

pub(super) fn item_row(tables: &mut Tables, of: &Of<'_>) -> io::Result<()> {
    let row = of.row;
    let coverage = row.coverage.as_ref();
    let flags: Vec<&str> = coverage.iter().flat_map(|c| &c.flags).map(|flag| flag.as_str()).collect();
    tables.row(
        Rows::Items,
        &[
            Cell::Text(&of.id),
            Cell::Text(&row.title),
            Cell::text(row.channel.as_deref()),
            Cell::Text(row.address()),
            Cell::time(row.published_at),
            Cell::Time(row.discovered_at),
            Cell::time(row.finished_at),
            Cell::int(row.duration_ms),
            Cell::int(row.speech_ms),
            Cell::int(coverage.map(|c| c.transcribed_ms)),
            Cell::text(row.language.as_deref()),
            Cell::text(row.model.as_deref()),
            Cell::text(row.embedding_model.as_deref()),
            Cell::int(row.segments.map(i64::from)),
            Cell::int(coverage.map(|c| c.words.into())),
            Cell::Int(row.dropped.into()),
            Cell::Names(&flags),
        ],
    )
}

pub(super) fn segment_row(tables: &mut Tables, of: &Of<'_>, seq: i32, segment: &Segment) -> io::Result<()> {
    if !tables.wants(Rows::Segments) {
        return Ok(());
    }
    tables.row(
        Rows::Segments,
        &[
            Cell::Text(&of.id),
            Cell::Int(seq.into()),
            Cell::Int(segment.start_ms),
            Cell::Int(segment.end_ms),
            Cell::Text(&segment.text),
            Cell::Text(&segment.language),
            Cell::Real(segment.avg_logprob),
            Cell::Real(segment.no_speech_prob),
            Cell::text(segment.speaker.as_deref()),
            Cell::Words(&segment.words),
            Cell::Text(of.row.model.as_deref().unwrap_or_default()),
            Cell::Text(&of.row.title),
            Cell::text(of.row.channel.as_deref()),
            Cell::time(of.row.published_at),
            Cell::Text(of.row.address()),
            Cell::Text(&of.link(segment.start_ms)),
        ],
    )
}

pub(super) fn word_rows(tables: &mut Tables, of: &Of<'_>, segment: i32, said: &Segment) -> io::Result<()> {
    for (seq, word) in (0i64..).zip(&said.words) {
        tables.row(
            Rows::Words,
            &[
                Cell::Text(&of.id),
                Cell::Int(segment.into()),
                Cell::Int(seq),
                Cell::Int(word.start_ms),
                Cell::Int(word.end_ms),
                Cell::Text(&word.text),
                Cell::Real(word.prob),
                Cell::Text(&said.language),
            ],
        )?;
    }
    Ok(())
}

pub(super) fn passage_row(tables: &mut Tables, of: &Of<'_>, row: &PassageRow) -> io::Result<()> {
    let PassageRow { seq, passage, vector, .. } = row;
    let number = |n: usize| Cell::Int(i64::try_from(n).unwrap_or(i64::MAX));
    let made_by = of.row.embedding_model.as_deref().filter(|_| !vector.is_empty());
    tables.row(
        Rows::Passages,
        &[
            Cell::Text(&of.id),
            Cell::Int((*seq).into()),
            Cell::Int(passage.start_ms),
            Cell::Int(passage.end_ms),
            number(passage.first_segment),
            number(passage.end_segment),
            Cell::Text(&passage.text),
            Cell::Text(&passage.language),
            Cell::Vector(vector),
            Cell::text(made_by),
            Cell::Text(of.row.model.as_deref().unwrap_or_default()),
            Cell::Text(&of.row.title),
            Cell::text(of.row.channel.as_deref()),
            Cell::time(of.row.published_at),
            Cell::Text(of.row.address()),
            Cell::Text(&of.link(passage.start_ms)),
        ],
    )
}

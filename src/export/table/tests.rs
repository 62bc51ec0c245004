//! Rows are read back by readers that are not ours.

use std::io::{Seek, Write as _};
use std::process::{Command, Stdio};

use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::{Field, RowAccessor};
use chrono::TimeZone;

use super::*;

/// The bytes as a file, which the reader takes.
fn file(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

const HOSTILE: &str = "a \"quoted\", comma\nand line \u{1b} עברית 日本語 🎉";

fn word(start_ms: i64, text: &str) -> Word {
    Word { start_ms, end_ms: start_ms + 99, text: text.into(), prob: 0.5 }
}

fn write(form: Form, rows: Rows, lines: &[Vec<Cell<'_>>]) -> Vec<u8> {
    let mut writer = TableWriter::start(form, rows, Vec::new()).unwrap();
    for line in lines {
        assert_eq!(line.len(), rows.columns().len());
        writer.row(line).unwrap();
    }
    writer.finish().unwrap()
}

fn segment<'a>(seq: i64, text: &'a str, words: &'a [Word]) -> Vec<Cell<'a>> {
    let time = Utc.timestamp_millis_opt(1_700_000_000_123).unwrap();
    vec![
        Cell::Text("6f1d2c00-0000-0000-0000-000000000000"),
        Cell::Int(seq),
        Cell::Int(1_001 * seq),
        Cell::Int(1_001 * seq + 999),
        Cell::Text(text),
        Cell::Text("en"),
        Cell::Real(-0.25),
        Cell::Real(f32::NAN),
        Cell::Text("Anna"),
        Cell::Words(words),
        Cell::Text("micro"),
        Cell::Text("Title"),
        Cell::None,
        if seq == 0 { Cell::None } else { Cell::Time(time) },
        Cell::Text("/a.mp4"),
        Cell::Text("file:///a.mp4#t=1"),
    ]
}

#[test]
fn python_reads_the_csv() {
    let words = [word(5, "a")];
    let csv = write(Form::Csv, Rows::Segments, &[segment(0, HOSTILE, &words), segment(1, "", &[])]);
    let mut child = Command::new("python3")
        .args(["-c", "import csv,json,sys; print(json.dumps(list(csv.DictReader(open(0, newline='', encoding='utf-8')))))"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 should be installed: the set-up needs it");
    child.stdin.take().unwrap().write_all(&csv).unwrap();
    let read: serde_json::Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(read.as_array().unwrap().len(), 2);
    assert_eq!(
        (&read[0]["text"], &read[0]["end_ms"], &read[0]["avg_logprob"], &read[0]["no_speech_prob"]),
        (&HOSTILE.into(), &"999".into(), &"-0.25".into(), &"".into())
    );
    assert_eq!(
        (&read[1]["text"], &read[1]["published_at"]),
        (&"".into(), &"2023-11-14T22:13:20.123Z".into())
    );
    assert_eq!(read[0].get("words"), None);
}

#[test]
fn a_json_line_is_an_object_of_the_schema() {
    let words = [word(5, "a"), word(105, "b")];
    let lines = write(Form::Jsonl, Rows::Segments, &[segment(0, HOSTILE, &words), segment(1, "", &[])]);
    let lines = String::from_utf8(lines).unwrap();
    let rows: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["text"], &rows[0]["words"][1]["start_ms"]), (&HOSTILE.into(), &105.into()));
    assert!(rows[0]["no_speech_prob"].is_null() && rows[1]["words"].as_array().unwrap().is_empty());
    let schema: serde_json::Value = serde_json::from_str(crate::export::ROWS_SCHEMA).unwrap();
    for rows in Rows::ALL {
        let known = schema["$defs"][rows.as_str()]["properties"].as_object().unwrap();
        let columns: Vec<&str> = rows.columns().iter().map(|c| c.name).collect();
        assert!(columns.iter().all(|name| known.contains_key(*name)), "{rows:?}");
        assert_eq!(known.len(), columns.len(), "{rows:?}");
        assert_eq!(schema["$defs"][rows.as_str()]["required"], serde_json::json!(columns));
    }
}

#[test]
fn parquet_holds_the_same_values() {
    let words = [word(5, "a"), word(105, "b")];
    let file = write(Form::Parquet, Rows::Segments, &[segment(0, HOSTILE, &words), segment(1, "", &[])]);
    let reader = SerializedFileReader::new(self::file(&file)).unwrap();
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].get_string(4).unwrap(), HOSTILE);
    assert_eq!((rows[1].get_int(1).unwrap(), rows[1].get_long(2).unwrap()), (1, 1_001));
    assert!(rows[0].get_float(7).unwrap().is_nan());
    assert!(matches!(rows[0].get_column_iter().nth(13).unwrap().1, Field::Null));
    assert_eq!(rows[1].get_timestamp_millis(13).unwrap(), 1_700_000_000_123);
    let list = rows[0].get_list(9).unwrap();
    assert_eq!(list.len(), 2);
    let Field::Group(second) = &list.elements()[1] else { panic!("{list:?}") };
    assert_eq!((second.get_long(0).unwrap(), second.get_string(2).unwrap().as_str()), (105, "b"));
    assert_eq!(rows[1].get_list(9).unwrap().len(), 0);
}

#[test]
fn parquet_of_nothing_and_of_every_kind_is_read() {
    for rows in Rows::ALL {
        for count in [0, 3] {
            let lines = vec![vec![Cell::None; rows.columns().len()]; count];
            let file = write(Form::Parquet, rows, &lines);
            let reader = SerializedFileReader::new(self::file(&file)).unwrap();
            assert_eq!(reader.metadata().file_metadata().num_rows(), count as i64, "{rows:?}");
            assert_eq!(reader.get_row_iter(None).unwrap().map(Result::unwrap).count(), count);
        }
    }
}

#[test]
fn groups_of_rows_are_bounded() {
    let text = "x".repeat(1 << 20);
    let lines: Vec<_> = (0..40).map(|n| segment(n, &text[n as usize..], &[])).collect();
    let file = write(Form::Parquet, Rows::Segments, &lines);
    let reader = SerializedFileReader::new(self::file(&file)).unwrap();
    assert_eq!(reader.num_row_groups(), 3);
    let vectors = vec![0.5f32; 4];
    let passage = |n: i64| {
        let mut cells = vec![Cell::None; Rows::Passages.columns().len()];
        (cells[1], cells[8]) = (Cell::Int(n), Cell::Vector(&vectors));
        cells
    };
    let lines: Vec<_> = (0..120_000).map(passage).collect();
    let file = write(Form::Parquet, Rows::Passages, &lines);
    let reader = SerializedFileReader::new(self::file(&file)).unwrap();
    assert_eq!((reader.num_row_groups(), reader.metadata().file_metadata().num_rows()), (3, 120_000));
    let last = reader.get_row_iter(None).unwrap().last().unwrap().unwrap();
    assert_eq!((last.get_int(1).unwrap(), last.get_list(8).unwrap().len()), (119_999, 4));
}

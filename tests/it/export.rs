//! What is exported is read by readers that are not ours, and every time in it is the one that was stored.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row, RowAccessor};
use serde_json::{Value, json};
use spoken::export::{ROWS_SCHEMA, TRANSCRIPT_SCHEMA};
use spoken::media::{Coverage, Metadata, Segment, Word};
use spoken::store::{Store, StoreOptions};
use sqlx::{Connection, Executor, PgConnection};
use unicode_width::UnicodeWidthStr;

use super::cli::{Library, Ran, until};
use super::store::{claim, database, item, model, passages, transcript};

const ITEMS: usize = 20;
const SEGMENTS: usize = 30;

/// What is said in each language; the third one is what formats choke on.
const SAID: &[(&str, &[&str])] = &[
    (
        "en",
        &[
            "Good morning, everybody, and welcome to the first part of our long journey through the mountains.",
            "Yes.",
            "<i>He</i> said \"no, --> never\", {\\an8} & went [on](x) | *far*.",
        ],
    ),
    (
        "de",
        &[
            "Gestern sind wir, obwohl es regnete, mit dem Fahrrad über die Brücke nach Hause gefahren.",
            "Ja.",
            "Größe = 3 < 5; „so“ geht’s.",
        ],
    ),
    (
        "es",
        &[
            "¿Qué quieres hacer mañana por la tarde, cuando salgamos del trabajo?",
            "Nada.",
            "¡Canción! 🎉 👩\u{200d}👩\u{200d}👧",
        ],
    ),
    (
        "ja",
        &[
            "私は東京に住んでいますが、来月大阪に引っ越すつもりです。",
            "はい。",
            "「東京（とうきょう）」と言いました。",
        ],
    ),
    ("he", &["זה משפט ארוך למדי בעברית שנועד לבדוק שהכתוביות נשברות נכון.", "כן.", "הוא אמר: \"לא\"."]),
];

/// The segments of item number `n`: sentences with pauses of 0 to 2 s between them, and the times of their words but in every
/// fifth item.
fn segments(n: usize) -> Vec<Segment> {
    let (language, sentences) = SAID[n % SAID.len()];
    let mut at = 1_003 * n as i64 + 7;
    (0..SEGMENTS)
        .map(|seq| {
            let text = sentences[(seq + n) % sentences.len()];
            let start_ms = at;
            // In Japanese a "word" is a piece of a sentence.
            let pieces: Vec<String> = if language == "ja" {
                text.chars().collect::<Vec<_>>().chunks(2).map(|c| c.iter().collect()).collect()
            } else {
                text.split(' ').map(str::to_owned).collect()
            };
            let words: Vec<Word> = pieces
                .into_iter()
                .map(|text| {
                    let start_ms = at;
                    at += 61 * text.chars().count().max(2) as i64;
                    let word = Word { start_ms, end_ms: at, text, prob: 0.875 };
                    at += 43;
                    word
                })
                .collect();
            let end_ms = at - 43;
            at += 151 + 377 * (seq as i64 % 6);
            let words = if n % 5 == 4 { Vec::new() } else { words };
            let avg_logprob = if seq == 3 { -1.5 } else { -0.25 };
            Segment {
                start_ms,
                end_ms,
                text: text.into(),
                language: language.into(),
                avg_logprob,
                no_speech_prob: 0.01,
                words,
                speaker: speaker(n, seq),
            }
        })
        .collect()
}

/// In every sixth item two people talk, one of whom has a strange name.
fn speaker(n: usize, seq: usize) -> Option<String> {
    n.is_multiple_of(6).then(|| ["Anna", "B<o>b & \"C\""][seq / 3 % 2].to_owned())
}

fn title(n: usize) -> String {
    format!("talk {n:02}, \"quoted\" & <b>")
}

/// A library of `items` items.
async fn library(items: usize) -> (Library, String) {
    let url = database().await;
    let store = Store::connect(&url, &StoreOptions::default()).await.unwrap();
    store.migrate().await.unwrap();
    for n in 0..items {
        let mut item = item(&format!("talk-{n:02}"));
        item.title = title(n);
        store.upsert(&item, "x").await.unwrap();
        let work = claim(&store, &item).await;
        let segments = segments(n);
        let words = segments.iter().map(|s| s.words.len() as u32).sum();
        let speech = segments.iter().map(|s| s.end_ms - s.start_ms).sum();
        let mut transcript = transcript(segments);
        transcript.coverage = Coverage { transcribed_ms: speech, words, ..Coverage::default() };
        let passages = passages(&transcript.segments, 4);
        let vectors: Vec<Vec<f32>> =
            (0..passages.len()).map(|p| vec![1.0, p as f32, n as f32, 0.5]).collect();
        let metadata =
            Metadata { channel: n.is_multiple_of(2).then(|| "Señor Bob".to_owned()), ..Metadata::default() };
        store.complete(&work.claimed, &metadata, &transcript, &passages, &vectors, &model()).await.unwrap();
    }
    store.close().await;
    (Library::on(&url), url)
}

/// Exports everything in this form; the files by the number of their item.
fn export_all(library: &Library, format: &str) -> BTreeMap<usize, PathBuf> {
    let folder = library.folder("out").join(format);
    let ran = library.ok(&["export", "--all", "--format", format, "-o", folder.to_str().unwrap()]);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("20 items written"), "{ran}");
    let files: BTreeMap<usize, PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(name.ends_with(&format!(".{format}")) && name.starts_with("talk-"), "{name}");
            (name["talk-".len()..][..2].parse().unwrap(), path)
        })
        .collect();
    assert_eq!(files.len(), ITEMS);
    files
}

/// `[start, end]` of every caption in milliseconds, as ffmpeg reads them.
fn captions(path: &Path, demuxer: &str) -> Vec<[i64; 2]> {
    let output = Command::new("ffprobe")
        .args([
            "-v",
            "warning",
            "-f",
            demuxer,
            "-show_entries",
            "packet=pts_time,duration_time",
            "-of",
            "csv=p=0",
        ])
        .arg(path)
        .output()
        .expect("ffprobe, which comes with the ffmpeg package, should be installed");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let ms = |seconds: &str| (seconds.parse::<f64>().unwrap() * 1000.0).round() as i64;
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let mut fields = line.trim_end_matches(',').split(',');
            let (start, length) = (ms(fields.next().unwrap()), ms(fields.next().unwrap()));
            [start, start + length]
        })
        .collect()
}

fn schema(text: &str, at: &str) -> (boon::Schemas, boon::SchemaIndex) {
    let mut schemas = boon::Schemas::new();
    let mut compiler = boon::Compiler::new();
    compiler.enable_format_assertions();
    compiler.add_resource("schema.json", serde_json::from_str(text).unwrap()).unwrap();
    let index = compiler.compile(&format!("schema.json{at}"), &mut schemas).unwrap();
    (schemas, index)
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_twenty_items_are_read_with_every_time_as_it_was_stored() {
    let (library, _) = library(ITEMS).await;

    let (schemas, index) = schema(TRANSCRIPT_SCHEMA, "");
    for (n, path) in export_all(&library, "json") {
        let value: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        if let Err(error) = schemas.validate(&value, index) {
            panic!("{error:#}");
        }
        assert_eq!(value["media"]["title"], title(n));
        let read: Vec<Value> = value["segments"].as_array().unwrap().clone();
        let stored = segments(n);
        assert_eq!(read.len(), stored.len());
        for (read, stored) in read.iter().zip(&stored) {
            let words = if stored.words.is_empty() { Value::Null } else { json!(stored.words) };
            let expected = json!([stored.start_ms, stored.end_ms, stored.text, stored.language, words]);
            let read =
                json!([read["start_ms"], read["end_ms"], read["text"], read["language"], read["words"]]);
            assert_eq!(read, expected);
        }
    }

    let marks = regex::Regex::new("<(?:[0-9:.]+|v [^>]*)>").unwrap();
    for (format, demuxer) in [("srt", "srt"), ("vtt", "webvtt")] {
        for (n, path) in export_all(&library, format) {
            let stored = segments(n);
            let read = captions(&path, demuxer);
            let starts: Vec<i64> = stored.iter().flat_map(|s| s.words.iter().map(|w| w.start_ms)).collect();
            let ends: Vec<i64> = stored.iter().flat_map(|s| s.words.iter().map(|w| w.end_ms)).collect();
            assert_eq!(read[0][0], stored[0].start_ms);
            for (at, [start, end]) in read.iter().enumerate() {
                let next = read.get(at + 1).map(|next| next[0]);
                assert!((1_000..=7_000).contains(&(end - start)), "{format} {n}: {start}-{end}");
                assert!(next.is_none_or(|next| next - end >= 83), "{format} {n}: {end} {next:?}");
                if !starts.is_empty() {
                    assert!(starts.contains(start), "{format} {n}: {start} is no word's start");
                    // As the last word ends; a second at least; or just before the next one.
                    let known = ends.contains(end)
                        || *end == start + 1_000
                        || Some(*end) == next.map(|next| next - 83);
                    assert!(known, "{format} {n}: {end} is no word's end");
                }
            }
            let text = fs::read_to_string(&path).unwrap();
            let widest = text.lines().filter(|line| !line.contains("-->") && !line.starts_with("WEBVTT"));
            let shown = |line: &str| {
                let line = marks.replace_all(line, "");
                line.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").width()
            };
            assert!(widest.clone().all(|line| shown(line) <= 42), "{text}");
            if format == "vtt" {
                // Each word begins a caption or has its time.
                let stamps = marks.find_iter(&text).filter(|mark| !mark.as_str().starts_with("<v")).count();
                assert_eq!(stamps + read.len(), starts.len().max(read.len()), "{text}");
                let voices = ["<v Anna>", "<v B&lt;o&gt;b &amp; \"C\">"].map(|voice| text.contains(voice));
                assert_eq!(voices, [n.is_multiple_of(6); 2], "{text}");
            }
        }
    }

    for (n, path) in export_all(&library, "md") {
        use pulldown_cmark::{Event, Parser, Tag};
        let text = fs::read_to_string(path).unwrap();
        let (mut times, mut said) = (Vec::new(), String::new());
        for event in Parser::new(&text) {
            match event {
                Event::Start(Tag::Link { dest_url, .. }) => {
                    let (address, time) = dest_url.split_once("#t=").unwrap();
                    assert_eq!(address, format!("file:///media/talk-{n:02}.mp4"));
                    times.push(time.parse::<i64>().unwrap());
                }
                Event::Text(text) => said.push_str(&text),
                Event::Html(html) | Event::InlineHtml(html) => panic!("{html} in {text}"),
                _ => {}
            }
        }
        let stored = segments(n);
        let seconds: Vec<i64> = stored.iter().map(|s| s.start_ms / 1000).collect();
        assert!(times.len() > 3 && times[1..].iter().all(|time| seconds.contains(time)), "{times:?}");
        assert!(stored.iter().all(|s| said.contains(&s.text)), "{said}");
    }

    for (n, path) in export_all(&library, "txt") {
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            segments(n).iter().map(|s| s.text.as_str()).collect::<Vec<_>>()
        );
    }
}

fn names(of: &Value) -> Vec<&str> {
    of.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_twenty_items_are_read_with_every_time_as_it_was_stored() {
    let (library, _) = library(ITEMS).await;
    let out = library.folder("out");
    let path = |name: &str| out.join(name).to_str().unwrap().to_owned();
    let stored: Vec<Vec<Segment>> = (0..ITEMS).map(segments).collect();
    let ids: Vec<String> = (0..ITEMS).map(|n| item(&format!("talk-{n:02}")).media_id.to_string()).collect();

    // All kinds at once.
    library.ok(&["export", "--all", "--format", "parquet", "-o", &path("all/")]);
    let open =
        |name: &str| SerializedFileReader::new(fs::File::open(out.join("all").join(name)).unwrap()).unwrap();
    let rows =
        |name: &str| -> Vec<Row> { open(name).get_row_iter(None).unwrap().map(Result::unwrap).collect() };
    let read = rows("segments.parquet");
    assert_eq!(read.len(), ITEMS * SEGMENTS);
    for (at, row) in read.iter().enumerate() {
        let (n, seq) = (at / SEGMENTS, at % SEGMENTS);
        let segment = &stored[n][seq];
        assert_eq!((row.get_string(0).unwrap(), row.get_int(1).unwrap()), (&ids[n], seq as i32));
        assert_eq!((row.get_long(2).unwrap(), row.get_long(3).unwrap()), (segment.start_ms, segment.end_ms));
        assert_eq!(row.get_string(4).unwrap(), &segment.text);
        let words: Vec<(i64, i64, String)> = row
            .get_list(9)
            .unwrap()
            .elements()
            .iter()
            .map(|word| {
                let Field::Group(word) = word else { panic!("{word:?}") };
                (word.get_long(0).unwrap(), word.get_long(1).unwrap(), word.get_string(2).unwrap().clone())
            })
            .collect();
        let expected: Vec<_> = segment.words.iter().map(|w| (w.start_ms, w.end_ms, w.text.clone())).collect();
        assert_eq!(words, expected);
    }
    assert_eq!(rows("words.parquet").len(), stored.iter().flatten().map(|s| s.words.len()).sum::<usize>());
    assert_eq!(rows("passages.parquet").len(), ITEMS * SEGMENTS.div_ceil(4));
    let items = rows("items.parquet");
    assert_eq!(items.iter().map(|row| row.get_string(0).unwrap().clone()).collect::<Vec<_>>(), ids);
    assert_eq!(fs::read_dir(out.join("all")).unwrap().count(), 4);

    // CSV, as Python reads it.
    library.ok(&["export", "--all", "--format", "csv", "-o", &path("segments.csv")]);
    let python = Command::new("python3")
        .args(["-c", "import csv,json,sys; print(json.dumps(list(csv.DictReader(open(sys.argv[1], newline='', encoding='utf-8')))))"])
        .arg(path("segments.csv"))
        .output()
        .unwrap();
    let read: Vec<Value> = serde_json::from_slice(&python.stdout).unwrap();
    assert_eq!(read.len(), ITEMS * SEGMENTS);
    for (at, row) in read.iter().enumerate() {
        let segment = &stored[at / SEGMENTS][at % SEGMENTS];
        let expected = json!([
            segment.start_ms.to_string(),
            segment.end_ms.to_string(),
            segment.text,
            title(at / SEGMENTS)
        ]);
        assert_eq!(json!([row["start_ms"], row["end_ms"], row["text"], row["title"]]), expected);
    }

    // JSON lines, from standard output.
    for (kind, count) in
        [("items", ITEMS), ("segments", ITEMS * SEGMENTS), ("passages", ITEMS * SEGMENTS.div_ceil(4))]
    {
        let ran = library.ok(&["export", "--all", "--rows", kind]);
        let (schemas, index) = schema(ROWS_SCHEMA, &format!("#/$defs/{kind}"));
        let rows = ran.json_lines();
        assert_eq!(rows.len(), count);
        for row in &rows {
            if let Err(error) = schemas.validate(row, index) {
                panic!("{error:#}");
            }
        }
        if kind == "segments" {
            let times: Vec<Value> =
                rows.iter().map(|row| json!([row["start_ms"], row["end_ms"], row["words"]])).collect();
            let expected: Vec<Value> =
                stored.iter().flatten().map(|s| json!([s.start_ms, s.end_ms, s.words])).collect();
            assert_eq!(times, expected);
        }
    }
    let passages =
        library.ok(&["export", &ids[3], "--format", "jsonl", "--rows", "passages", "--vectors"]).json_lines();
    let vectors: Vec<&Value> = passages.iter().map(|row| &row["vector"]).collect();
    assert_eq!((vectors.len(), vectors[2]), (SEGMENTS.div_ceil(4), &json!([1.0, 2.0, 3.0, 0.5])));
    assert_eq!(passages[0]["vector_model"], "test/model-small");
    assert_eq!(names(&passages[0]).len(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_can_be_chosen_and_what_makes_no_sense_is_told() {
    let (library, url) = library(7).await;
    let ids = |ran: &Ran| -> Vec<String> {
        let mut ids: Vec<String> = ran
            .json_lines()
            .iter()
            .map(|row| row["title"].as_str().unwrap()["talk ".len()..][..2].to_owned())
            .collect();
        ids.dedup();
        ids
    };
    let items = |more: &[&str]| ids(&library.ok(&[&["export", "--all", "--rows", "items"], more].concat()));
    assert_eq!(items(&["--language", "de"]), ["01", "06"]);
    assert_eq!(items(&["--language", "de", "--language", "ja"]), ["01", "03", "06"]);
    assert_eq!(items(&["--channel", "senor BOB"]), ["00", "02", "04", "06"]);
    assert_eq!(items(&["--after", "1d"]).len(), 7);
    assert_eq!(items(&["--before", "2020-01-01"]), Vec::<String>::new());
    assert_eq!(ids(&library.ok(&["export", "talk 03", "talk 05", "--format", "jsonl"])), ["03", "05"]);

    // What another model left beside a transcript is not part of it; what is in another language can be left out.
    let mut connection = PgConnection::connect(&url).await.unwrap();
    connection
        .execute(
            "INSERT INTO segments (media_id, model_id, seq, start_ms, end_ms, text, language, avg_logprob, no_speech_prob)
             SELECT media_id, 'other', seq, start_ms, end_ms, 'not this', language, 0, 0 FROM segments;
             UPDATE segments SET language = 'fr' WHERE model_id = 'micro' AND seq = 5;",
        )
        .await
        .unwrap();
    let all = library.ok(&["export", "--all"]);
    assert_eq!(all.json_lines().len(), 7 * SEGMENTS);
    assert!(!all.stdout.contains("not this"));
    assert_eq!(library.ok(&["export", "--all", "--language", "fr"]).json_lines().len(), 7);
    let folder = library.folder("french");
    library.ok(&["export", "--all", "--language", "fr", "--format", "txt", "-o", folder.to_str().unwrap()]);
    let texts: Vec<usize> = fs::read_dir(&folder)
        .unwrap()
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap().lines().count())
        .collect();
    assert_eq!(texts, [SEGMENTS; 7], "documents are whole");

    for (arguments, said) in [
        (&["export"][..], "required"),
        (&["export", "--all", "talk"], "cannot be used with"),
        (&["export", "--all", "--format", "srt"], "name a folder"),
        (&["export", "talk 03", "--format", "srt", "--rows", "words"], "--rows and --vectors are for"),
        (&["export", "--all", "--format", "csv", "--rows", "passages", "--vectors"], "jsonl or parquet"),
        (&["export", "talk 03", "--language", "de"], "--all"),
        (&["export", "--all", "--after", "yesterday"], "2026-01-31"),
        (&["export", "no such talk"], "no item is called"),
        (&["export", "--all", "-o", "/no/such/folder/x.jsonl"], "failed to write /no/such/folder/x.jsonl"),
    ] {
        let ran = library.run(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {ran}");
        assert!(ran.stderr.contains(said), "{arguments:?}: {said:?} is not in {ran}");
        assert!(ran.stdout.is_empty(), "{ran}");
    }
    let schema = library.ok(&["export", "--schema"]).json();
    assert_eq!(schema["properties"]["version"]["const"], 1);
    assert_eq!(
        library.ok(&["export", "--schema", "--format", "jsonl"]).json()["title"],
        "A row of a library"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_broken_off_leaves_the_file_of_before() {
    let (library, url) = library(2).await;
    let folder = library.folder("out");
    let (file, part) = (folder.join("all.parquet"), folder.join("all.parquet.part"));
    fs::write(&file, "of before").unwrap();
    let arguments = ["export", "--all", "--format", "parquet", "-o", file.to_str().unwrap()];
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        // Held up where it has begun to write and waits for segments.
        let mut connection = PgConnection::connect(&url).await.unwrap();
        connection.execute("BEGIN; LOCK TABLE segments IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let mut child =
            library.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("it waits for the lock", || part.exists());
        waits_for_lock(&mut connection).await;
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), (signal == Signal::SIGINT).then_some(130));
        assert_eq!(fs::read(&file).unwrap(), b"of before");
        assert_eq!(part.exists(), signal == Signal::SIGKILL, "told to stop, it takes its file with it");
        connection.close().await.unwrap();
    }
    library.ok(&arguments);
    let reader = SerializedFileReader::new(fs::File::open(&file).unwrap()).unwrap();
    assert_eq!(reader.metadata().file_metadata().num_rows(), 2 * SEGMENTS as i64);
    assert!(!part.exists());
}

/// Waits until somebody waits for a lock in this database.
async fn waits_for_lock(connection: &mut PgConnection) {
    loop {
        let waiting: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
             WHERE NOT l.granted AND d.datname = current_database())",
        )
        .fetch_one(&mut *connection)
        .await
        .unwrap();
        if waiting {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_exports_as_nothing_and_counts_as_nothing() {
    let library = Library::on(&database().await);
    let stats = library.ok(&["stats"]);
    assert!(stats.stdout.is_empty() && stats.stderr.contains("nothing here yet"), "{stats}");
    let stats = library.ok(&["stats", "--json"]).json();
    assert_eq!(
        (&stats["totals"]["words"], &stats["activity"], &stats["runs"]),
        (&json!(0), &json!([]), &json!([]))
    );
    assert!(library.ok(&["export", "--all"]).stdout.is_empty());
    assert_eq!(library.ok(&["export", "--all", "--format", "csv"]).stdout.lines().count(), 1);
    let file = library.folder("out").join("none.parquet");
    library.ok(&["export", "--all", "--format", "parquet", "-o", file.to_str().unwrap()]);
    let reader = SerializedFileReader::new(fs::File::open(&file).unwrap()).unwrap();
    assert_eq!(reader.metadata().file_metadata().num_rows(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_add_up() {
    let (library, url) = library(10).await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    // Two runs: five items ten days ago, in an hour; the others, just now.
    connection
        .execute(
            "UPDATE media SET started_at = day + n * interval '12 minutes',
                 finished_at = day + (n + 1) * interval '12 minutes'
             FROM (SELECT date_trunc('day', now(), 'UTC') - interval '10 days' AS day) d, (SELECT media_id AS id, row_number() OVER (ORDER BY title) - 1 AS n FROM media) x
             WHERE id = media_id AND n < 5;
             INSERT INTO media (media_id, extractor, source_id, locator, source, title, state, error_class)
             VALUES (gen_random_uuid(), 'file', 'x', '{}', 'x', 'x', 'failed', 'network');",
        )
        .await
        .unwrap();
    let stored: Vec<Segment> = (0..10).flat_map(segments).collect();
    let words: usize = stored.iter().map(|s| s.words.len()).sum();
    let stats = library.ok(&["stats", "--json"]).json();
    let totals = &stats["totals"];
    assert_eq!(
        (&totals["transcripts"], &totals["words"], &totals["segments"]),
        (&json!(10), &json!(words), &json!(stored.len()))
    );
    let audio: i64 = (0..10).map(|n| segments(n).last().unwrap().end_ms).sum();
    assert_eq!(totals["audio_ms"], audio);
    let languages: HashMap<&str, i64> = stats["languages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| (l["name"].as_str().unwrap(), l["items"].as_i64().unwrap()))
        .collect();
    assert_eq!(languages, HashMap::from([("en", 2), ("de", 2), ("es", 2), ("ja", 2), ("he", 2)]));
    // One segment of each item, and so one passage.
    assert_eq!(
        (&stats["doubtful"]["segments"], &stats["doubtful"]["passages"], &stats["doubtful"]["items"]),
        (&json!(10), &json!(10), &json!(10))
    );
    assert_eq!(stats["failures"], json!([{"class": "network", "items": 1}]));
    assert!(stats["storage"]["database"].as_i64() > stats["storage"]["text"].as_i64());
    assert_eq!(stats["storage"]["vectors"][0]["dimension"], 4);
    let runs = stats["runs"].as_array().unwrap();
    assert_eq!((runs.len(), &runs[0]["items"], &runs[1]["items"]), (2, &json!(5), &json!(5)));
    assert_eq!(runs[1]["wall_ms"], 3_600_000);
    let activity = stats["activity"].as_array().unwrap();
    assert_eq!((&stats["unit"], activity.len()), (&json!("day"), 11));
    assert_eq!(activity.iter().map(|b| b["items"].as_i64().unwrap()).sum::<i64>(), 10);

    let chart = library.folder("out").join("chart.svg");
    let told = library.ok(&["stats", "--chart", chart.to_str().unwrap()]);
    for line in
        ["items      10 done, 1 failed", "languages  ", "channels   Señor Bob ", "runs       ", "activity   "]
    {
        assert!(told.stdout.contains(line), "{line:?} is not in {told}");
    }
    assert!(told.stdout.contains("·········"), "{told}");
    let svg = fs::read_to_string(&chart).unwrap();
    assert!(svg.starts_with("<svg") && svg.matches("<title>").count() >= 3, "{svg}");
}

//! The program as a user runs it: media in, sentences found again.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::cli::{Library, Truth, names, repository, speeches};
use super::server::{Fault, Page, Server};
use super::store::database;

/// Members of what `ingest --json` prints.
const SUMMARY: [&str; 11] = [
    "audio_ms",
    "done",
    "failed",
    "failures",
    "flagged",
    "interrupted",
    "skipped",
    "stages",
    "wall_ms",
    "windows",
    "windows_known",
];

/// Members of an item in `status --json`.
const ITEM: [&str; 13] = [
    "dropped",
    "duration_ms",
    "error",
    "flags",
    "gaps",
    "language",
    "media_id",
    "source",
    "speech_ms",
    "state",
    "title",
    "transcribed_ms",
    "words",
];

fn sample() -> PathBuf {
    repository().join("tests/fixtures/media")
}

/// The sample's files and what is said in them.
fn sample_truth() -> Vec<(String, Truth)> {
    let mut files: Vec<_> = fs::read_dir(sample()).unwrap().map(|e| e.unwrap().file_name()).collect();
    files.sort();
    let truth = repository().join("tests/fixtures/media-truth");
    files
        .into_iter()
        .map(|name| name.into_string().unwrap())
        .map(|name| (name.clone(), Truth::read(&truth.join(format!("{name}.json")))))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_could_not_be_listed_is_no_failure_once_it_could() {
    let library = Library::on(&database().await);
    let server = Server::start().await;
    let (talk, _) = speeches(&TALKS[..1]).remove(0);
    server.put("/talk.wav", Page::new("audio/wav", fs::read(talk).unwrap()));
    let player = format!(
        "<!DOCTYPE html><html><head><title>Talk</title></head><body><video src=\"{}\"></video></body></html>",
        server.url("/talk.wav")
    );
    server.put("/talk.html", Page::new("text/html", player));
    let address = server.url("/talk.html");
    server.always("/talk.html", Fault::Status(404));
    let ran = library.run(&["ingest", "--json", &address]);
    assert_eq!((ran.code, library.counts()), (1, [0, 0, 0, 1]), "{ran}");
    server.calm();
    let ran = library.run(&["ingest", "--json", &address]);
    assert_eq!((ran.code, library.counts()), (0, [0, 0, 1, 0]), "{ran}");
    library.assert_in_order();
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn whole(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("no whole number: {value}"))
}

/// `[done, failed, skipped]` of a run.
fn outcome(summary: &Value) -> [i64; 3] {
    ["done", "failed", "skipped"].map(|name| whole(&summary[name]))
}

#[test]
fn the_sample_comes_in_and_its_sentences_are_found() {
    let library = Library::with_server();
    let folder = sample();
    let folder = folder.to_str().unwrap();

    let ran = library.ok(&["ingest", "--json", folder]);
    assert_eq!(ran.stdout.lines().count(), 1, "{ran}");
    let summary = ran.json();
    assert_eq!(names(&summary), SUMMARY);
    assert_eq!(outcome(&summary), [5, 0, 0], "{ran}");
    assert_eq!(summary["interrupted"], false);
    assert!(whole(&summary["wall_ms"]) > 0);
    let truth = sample_truth();
    let seconds: f64 = truth.iter().map(|(_, truth)| truth.duration).sum();
    let said = whole(&summary["audio_ms"]) as f64 / 1000.0;
    assert!((said - seconds).abs() < 1.0, "{said} s of audio, made were {seconds} s");
    let stages = summary["stages"].as_array().unwrap();
    assert!(whole(&summary["windows"]) >= 5, "{summary}");
    assert_eq!(whole(&summary["windows_known"]), 0);
    assert_eq!(stages.iter().map(|s| text(&s["name"])).collect::<Vec<_>>(), ["io", "speech", "asr", "db"]);
    for stage in stages {
        assert_eq!(names(stage), ["busy_ms", "items", "name", "wait_in_ms", "wait_out_ms", "workers"]);
        assert!(whole(&stage["workers"]) > 0, "{stage}");
    }
    assert_eq!(whole(&stages[0]["items"]), 5, "files through the I/O stage");
    assert_eq!(whole(&stages[3]["items"]), 5, "transcripts through the DB stage");

    let status = library.status();
    assert_eq!(names(&status), ["counts", "items"]);
    assert_eq!(names(&status["counts"]), ["active", "done", "failed", "queued"]);
    assert_eq!(library.counts(), [0, 0, 5, 0]);
    let items = library.items();
    for ((name, truth), item) in truth.iter().zip(&items) {
        let title = Path::new(name).file_stem().unwrap().to_str().unwrap();
        assert_eq!(names(item), ITEM);
        assert_eq!((text(&item["title"]), text(&item["state"])), (title, "done"));
        assert_eq!(text(&item["source"]), sample().join(name).to_str().unwrap());
        assert_eq!(item["error"], Value::Null);
        let language = if name.starts_with("charla") { "es" } else { "en" };
        assert_eq!(text(&item["language"]), language, "{name}");
        let apart = whole(&item["duration_ms"]) as f64 / 1000.0 - truth.duration;
        assert!(apart.abs() < 0.1, "{name}: {apart} s longer than it was made");
        check_export(&library.export(text(&item["media_id"])), item, truth);
    }

    for (name, truth) in &truth {
        // The longest is said nowhere else.
        let sentence = truth.sentences.iter().max_by_key(|s| s.text.len()).unwrap();
        let hits = library.ok(&["search", "--json", "--limit", "3", &sentence.text]).json_lines();
        let hit = hits.first().unwrap_or_else(|| panic!("nothing found for {:?}", sentence.text));
        assert_eq!(
            names(hit),
            [
                "channel",
                "end_ms",
                "highlights",
                "item_hits",
                "language",
                "link",
                "media_id",
                "published_at",
                "score",
                "source",
                "speaker",
                "start_ms",
                "text",
                "title"
            ]
        );
        assert_eq!(text(&hit["source"]), sample().join(name).to_str().unwrap(), "{:?}", sentence.text);
        let apart = whole(&hit["start_ms"]) as f64 / 1000.0 - sentence.start;
        assert!(apart.abs() <= 1.0, "{:?} is found {apart} s late in {name}: {hit}", sentence.text);
        let end = whole(&hit["end_ms"]) as f64 / 1000.0;
        assert!(end > sentence.start && end > sentence.end - 1.0, "{sentence:?} ends after {hit}");
        assert!(hit["score"].is_f64());
        let link = text(&hit["link"]);
        assert!(link.starts_with("file:///") && link.contains("#t="), "{link}");
        let scores: Vec<f64> = hits.iter().map(|hit| hit["score"].as_f64().unwrap()).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    }
    let shown = library.ok(&["show", sample().join("voice-memo.wav").to_str().unwrap()]);
    assert!(shown.stdout.starts_with("voice-memo\n"), "{shown}");
    assert!(shown.stdout.contains(" % of the speech has text, "), "{shown}");
    let shown = library.ok(&["show", "--json", sample().join("voice-memo.wav").to_str().unwrap()]).json();
    assert!(whole(&shown["coverage"]["transcribed_ms"]) > 0, "{shown}");
    library.assert_in_order();

    // Nothing is left to do: no model is loaded for that, and nothing is asked of the files but their stamps.
    let again = library.ok(&["ingest", "--json", folder]);
    let summary = again.json();
    assert_eq!(outcome(&summary), [0, 0, 5], "{again}");
    assert_eq!(summary["stages"], Value::Array(Vec::new()), "stages started for nothing");
    println!("{:?} to find out that nothing is to be done", again.took);
}

/// Shape, order and content of one `export --format json`.
fn check_export(export: &Value, item: &Value, truth: &Truth) {
    assert_eq!(names(export), ["coverage", "dropped", "media", "segments", "version"]);
    assert_eq!(names(&export["coverage"]), ["flags", "gaps", "transcribed_ms", "words"]);
    assert_eq!(export["coverage"]["words"], item["words"]);
    assert_eq!(export["dropped"].as_array().unwrap().len() as i64, whole(&item["dropped"]));
    let facts =
        ["channel", "duration_ms", "language", "media_id", "model", "published_at", "source", "title"];
    assert_eq!(names(&export["media"]), facts);
    for name in ["duration_ms", "language", "media_id", "source", "title"] {
        assert_eq!(export["media"][name], item[name], "{name} in export and status");
    }
    let segments = export["segments"].as_array().unwrap();
    for segment in segments {
        let names: Vec<&str> = names(segment).into_iter().filter(|name| *name != "words").collect();
        assert_eq!(names, ["end_ms", "language", "start_ms", "text"]);
        assert!(whole(&segment["end_ms"]) > whole(&segment["start_ms"]), "{segment}");
        assert_eq!(text(&segment["text"]), text(&segment["text"]).trim());
    }
    assert!(segments.iter().map(|s| whole(&s["start_ms"])).is_sorted());
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
    };
    let said: Vec<String> = segments.iter().flat_map(|s| words(text(&s["text"]))).collect();
    let made: Vec<String> = truth.sentences.iter().flat_map(|s| words(&s.text)).collect();
    let wrong = distance(&said, &made);
    // Numbers may be written in digits; otherwise the model makes about one mistake in a hundred words.
    assert!(wrong * 20 <= made.len(), "{wrong} of {} words are wrong: {}", made.len(), said.join(" "));
}

/// Words to replace, insert or delete to get from `a` to `b`.
fn distance(a: &[String], b: &[String]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let best = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], best);
        }
    }
    row[b.len()]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_takes_a_few_each_run_and_twins_are_one() {
    let library = Library::on(&database().await);
    let folder = sample();
    let folder = folder.to_str().unwrap();
    let limited = |limit: &str| {
        let mut command = library.command(&["ingest", "--json", folder]);
        command.env("INGESTION_LIMIT", limit);
        let ran = super::cli::finish(command);
        assert_eq!(ran.code, 0, "{ran}");
        outcome(&ran.json())
    };
    assert_eq!(limited("2"), [2, 0, 3]);
    assert_eq!(library.counts(), [0, 0, 2, 0], "what is over the limit stays unknown");
    assert_eq!(limited("2"), [2, 0, 3]);
    assert_eq!(library.counts(), [0, 0, 4, 0]);
    assert_eq!(limited("2"), [1, 0, 4]);
    assert_eq!(limited("2"), [0, 0, 5]);

    // The same content under other names, named one by one and on standard input.
    let twins = library.folder("twins");
    for name in ["first copy.wav", "second copy.bin"] {
        fs::copy(sample().join("voice-memo.wav"), twins.join(name)).unwrap();
    }
    let (first, second) = (twins.join("first copy.wav"), twins.join("second copy.bin"));
    let ran = library.ok(&["ingest", "--json", first.to_str().unwrap(), second.to_str().unwrap()]);
    assert_eq!(outcome(&ran.json()), [0, 0, 1], "two names of one item: {ran}");
    let links = "select count(*) from media_sources join media using (media_id) where title = 'voice-memo'";
    assert_eq!(library.query(links), 4, "the folder, the file in it, and two more names");
    assert_eq!(library.query("select count(*) from media"), 5);

    let list = format!(
        "# a list\n\n{}\nfirst copy.wav\n  {}\n",
        first.display(),
        sample().join("lunch-talk.mp3").display()
    );
    let ran = library.run_with_input(&["ingest", "--json", "-"], &list);
    assert_eq!(
        (ran.code, outcome(&ran.json())),
        (1, [0, 1, 2]),
        "relative names count from the current folder: {ran}"
    );
    assert!(ran.stderr.contains("no such file or folder") && ran.stderr.contains("first copy.wav"), "{ran}");
    let listed = library.cwd().join("list.txt");
    fs::write(&listed, list.replace("\nfirst copy.wav", "\n#")).unwrap();
    let ran = library.ok(&["ingest", "--json", "--from", "list.txt"]);
    assert_eq!(outcome(&ran.json()), [0, 0, 2], "{ran}");
    library.assert_in_order();
}

/// Short talks in five formats.
pub const TALKS: [(&str, u32, u32, &[&str]); 12] = [
    ("t00.wav", 7100, 9, &[]),
    ("t01.mp3", 7101, 12, &[]),
    ("t02.m4a", 7102, 8, &[]),
    ("t03.webm", 7103, 10, &["--lang", "es"]),
    ("t04.mp4", 7104, 9, &[]),
    ("t05.wav", 7105, 14, &["--voices", "2"]),
    ("t06.mp3", 7106, 8, &[]),
    ("t07.m4a", 7107, 11, &["--noise", "25"]),
    ("t08.webm", 7108, 9, &[]),
    ("t09.mp4", 7109, 12, &["--lang", "es"]),
    ("t10.wav", 7110, 8, &[]),
    ("t11.mp3", 7111, 10, &[]),
];

/// The talks on a server, an RSS feed and an HTML page that lead to them.
async fn site() -> (Server, Vec<String>) {
    let talks = tokio::task::spawn_blocking(|| speeches(&TALKS)).await.unwrap();
    let server = Server::start().await;
    let (mut urls, mut feed, mut page) = (Vec::new(), String::new(), String::new());
    for ((name, ..), (file, _)) in TALKS.iter().zip(talks) {
        let kind = match file.extension().unwrap().to_str().unwrap() {
            "wav" => "audio/wav",
            "mp3" => "audio/mpeg",
            "m4a" => "audio/mp4",
            "webm" => "audio/webm",
            _ => "video/mp4",
        };
        let path = format!("/media/{name}");
        let url = server.url(&path);
        feed += &format!(
            "<item><title>Talk {name}</title><guid>{name}</guid><enclosure url=\"{url}\" type=\"{kind}\"/></item>"
        );
        page += &format!("<li><a href=\"{path}\">Talk {name}</a></li>");
        server.put(&path, Page::new(kind, fs::read(file).unwrap()));
        urls.push(url);
    }
    let feed = format!(
        "<?xml version=\"1.0\"?><rss version=\"2.0\"><channel><title>Talks</title>{feed}</channel></rss>"
    );
    let page =
        format!("<!DOCTYPE html><html><head><title>Talks</title></head><body><ul>{page}</ul></body></html>");
    server.put("/feed.xml", Page::new("application/rss+xml", feed));
    server.put("/talks.html", Page::new("text/html; charset=utf-8", page));
    (server, urls)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_network_costs_nothing_and_one_talk_is_one_row_however_it_is_found() {
    let (server, urls) = site().await;
    let (feed, page) = (server.url("/feed.xml"), server.url("/talks.html"));
    let mut direct = vec!["ingest", "--json"];
    direct.extend(urls.iter().map(String::as_str));
    let number = urls.len() as i64;
    let mut transcripts = Vec::new();
    // Seeds of weather that is bad from the start.
    for (seed, first, then) in [
        (20, direct.clone(), vec![vec!["ingest", "--json", &feed], vec!["ingest", "--json", &page]]),
        (17, vec!["ingest", "--json", &feed], vec![direct.clone()]),
        (39, vec!["ingest", "--json", &page], vec![vec!["ingest", "--json", &feed]]),
    ] {
        let library = Library::on(&database().await);
        server.bad_weather(10, seed);
        let before = server.faulted();
        let ran = library.run(&first);
        assert_eq!((ran.code, outcome(&ran.json())), (0, [number, 0, 0]), "{first:?}: {ran}");
        assert!(server.faulted() > before, "the weather was good");
        for again in then {
            let ran = library.run(&again);
            assert_eq!((ran.code, outcome(&ran.json())), (0, [0, 0, number]), "{again:?}: {ran}");
        }
        library.assert_in_order();
        let said: Vec<(String, Value)> = library
            .items()
            .iter()
            .map(|item| {
                (
                    text(&item["source"]).to_owned(),
                    library.export(text(&item["media_id"]))["segments"].clone(),
                )
            })
            .collect();
        assert!(said.iter().all(|(_, segments)| !segments.as_array().unwrap().is_empty()), "{said:?}");
        let mut said = said;
        said.sort_by(|a, b| a.0.cmp(&b.0));
        transcripts.push(said);
    }
    assert_eq!(
        transcripts[0].iter().map(|(source, _)| source).collect::<Vec<_>>(),
        urls.iter().collect::<Vec<_>>()
    );
    assert_eq!(transcripts[0], transcripts[1], "through the feed");
    assert_eq!(transcripts[0], transcripts[2], "through the page");
}

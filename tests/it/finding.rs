//! Finding what is meant: filters, grouping, context, more like this, words nobody says; and queries that nobody expects.

use std::fs;
use std::time::Duration;

use chrono::NaiveDate;
use serde_json::{Value, json};
use spoken::media::{Item, Metadata};
use spoken::search::{
    Alike, Answer, Correction, Filter, Hit, Mode, Moment, Note, QueryVector, SearchError, SearchRequest,
    alike, corrected, search,
};
use spoken::store::{Claim, Store};

use super::cli::Library;
use super::search::{flat, put, said};
use super::store::{item, model, passages, segment, store, transcript};

fn request(query: &str) -> SearchRequest {
    SearchRequest { query: query.into(), limit: 20, mode: Mode::Text, ..SearchRequest::default() }
}

async fn ask(store: &Store, request: &SearchRequest) -> Answer {
    search(store, request, None).await.unwrap()
}

async fn texts(store: &Store, query: &str) -> Vec<String> {
    let mut texts: Vec<String> =
        ask(store, &request(query)).await.hits.into_iter().map(|hit| hit.text).collect();
    texts.sort();
    texts
}

fn titles(hits: &[Hit]) -> Vec<&str> {
    let mut titles: Vec<&str> = hits.iter().map(|hit| hit.title.as_str()).collect();
    titles.sort_unstable();
    titles
}

/// As [`put`], with what fetching learned.
async fn put_with(
    store: &Store,
    item: &Item,
    metadata: Metadata,
    language: &str,
    lines: &[&str],
    listed: &str,
) {
    store.upsert(item, listed).await.unwrap();
    let Claim::Work(work) = store.claim(item.media_id, "worker").await.unwrap() else {
        panic!("not claimed")
    };
    let segments = said(language, lines);
    let passages = passages(&segments, 1);
    let vectors = vec![vec![0.5; 4]; passages.len()];
    store
        .complete(&work.claimed, &metadata, &transcript(segments), &passages, &vectors, &model())
        .await
        .unwrap();
}

#[tokio::test]
async fn filters_leave_only_what_was_asked_for_in_words_and_meaning() {
    let store = store().await;
    let about = |channel: &str, day: Option<&str>| Metadata {
        channel: Some(channel.into()),
        published_at: day
            .map(|d| d.parse::<NaiveDate>().unwrap().and_hms_opt(12, 0, 0).unwrap().and_utc().timestamp()),
        ..Metadata::default()
    };
    let lines = ["Tea for two.", "Nothing else."];
    put_with(&store, &item("one"), about("Café Société", Some("2024-05-01")), "en", &lines, "list://a").await;
    put_with(&store, &item("two"), about("Tea house", Some("2025-05-01")), "en", &lines, "list://b").await;
    put_with(
        &store,
        &item("three"),
        about("Tea house", None),
        "de",
        &["Tea for two.", "Sonst nichts."],
        "list://b",
    )
    .await;
    let found = async |filter: Filter| -> Vec<String> {
        let vector = [0.5; 4];
        let near = Some(QueryVector { model: &model(), vector: &vector });
        let mut all = Vec::new();
        for mode in [Mode::Text, Mode::Semantic, Mode::Hybrid] {
            let request = SearchRequest { mode, filter: filter.clone(), ..request("tea for two") };
            let hits = search(&store, &request, near).await.unwrap().hits;
            let mut titles: Vec<String> = hits.iter().map(|hit| hit.title.clone()).collect();
            titles.sort();
            titles.dedup();
            all.push(titles);
        }
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{filter:?}: {all:?}");
        all.remove(0)
    };
    let none = Filter::default;
    let day = |text: &str| Some(Moment::Day(text.parse().unwrap()));
    let everything = ["one", "three", "two"];
    assert_eq!(found(none()).await, everything);
    assert_eq!(found(Filter { channels: vec!["cafe soc".into()], ..none() }).await, ["one"]);
    assert_eq!(found(Filter { channels: vec!["HOUSE".into(), "café".into()], ..none() }).await, everything);
    assert_eq!(found(Filter { languages: vec!["DE".into()], ..none() }).await, ["three"]);
    assert_eq!(found(Filter { sources: vec!["list://b".into()], ..none() }).await, ["three", "two"]);
    assert_eq!(found(Filter { sources: vec!["/media/TWO".into()], ..none() }).await, ["two"]);
    assert_eq!(found(Filter { media: vec![item("one").media_id], ..none() }).await, ["one"]);
    // What has no date counts as of the day it was found: now.
    assert_eq!(found(Filter { after: day("2025-05-01"), ..none() }).await, ["three", "two"]);
    assert_eq!(found(Filter { after: day("2025-05-02"), ..none() }).await, ["three"]);
    assert_eq!(found(Filter { before: day("2025-05-01"), ..none() }).await, ["one"]);
    let hour = Some(Moment::Ago(Duration::from_secs(3600)));
    assert_eq!(found(Filter { after: hour, ..none() }).await, ["three"]);
    assert_eq!(found(Filter { before: hour, ..none() }).await, ["one", "two"]);
    assert_eq!(found(Filter { min_duration_ms: Some(1), ..none() }).await, everything);
    let nothing = [
        Filter { max_duration_ms: Some(1), ..none() },
        Filter { channels: vec!["%".into()], ..none() },
        Filter { sources: vec!["'; DROP TABLE media; --\0".into()], ..none() },
        Filter { channels: vec!["tea house".into()], before: day("2020-01-01"), ..none() },
    ];
    for filter in nothing {
        let request = SearchRequest { filter, ..request("tea") };
        let answer = ask(&store, &request).await;
        assert_eq!((answer.hits.len(), answer.note), (0, Some(Note::NothingInScope)), "{:?}", request.filter);
    }
    assert_eq!(found(Filter { languages: vec!["fr".into()], ..none() }).await, [] as [&str; 0]);
}

#[tokio::test]
async fn of_an_item_with_many_hits_the_best_are_shown_and_all_are_counted() {
    let store = store().await;
    let lines: Vec<String> = (0..8).map(|n| format!("The owl said {n}.")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    put(&store, &item("many"), said("en", &lines), 1, flat).await;
    put(
        &store,
        &item("few"),
        said("en", &["An owl and a cat and much else that is no owl at all."]),
        1,
        flat,
    )
    .await;
    let all = ask(&store, &request("owl")).await.hits;
    assert_eq!(all.len(), 9);
    let grouped = ask(&store, &SearchRequest { per_item: 2, ..request("owl") }).await.hits;
    assert_eq!(titles(&grouped), ["few", "many", "many"]);
    for hit in grouped {
        assert_eq!(hit.item_hits, if hit.title == "many" { 8 } else { 1 });
    }
}

#[tokio::test]
async fn what_was_said_around_a_hit_is_told_on_request() {
    let store = store().await;
    let text = "It was late. The clock struck thirteen. Nobody moved.";
    let mut segments = said("en", &["One.", "Two.", "Three."]);
    segments.push(segment(12_000, 15_500, "en", text));
    segments.extend((4..7).map(|n| segment(n * 4000, n * 4000 + 3500, "en", &format!("Line {n}."))));
    put(&store, &item("a"), segments, 7, flat).await;
    let hits = ask(&store, &request("the clock struck thirteen")).await.hits;
    assert_eq!((hits[0].before.as_deref(), hits[0].after.as_deref()), (None, None));
    let around = SearchRequest { around_ms: 5000, ..request("the clock struck thirteen") };
    let hits = ask(&store, &around).await.hits;
    assert_eq!(hits[0].text, "The clock struck thirteen. Nobody moved.");
    // Whole segments that reach into the five seconds, and what of its own segment comes before.
    assert_eq!(hits[0].before.as_deref(), Some("Two. Three. It was late."));
    assert_eq!(hits[0].after.as_deref(), Some("Line 4. Line 5."));
}

#[tokio::test]
async fn of_several_speakers_the_one_asked_for_is_heard() {
    let store = store().await;
    let mut segments = said("en", &["I like trains.", "Trains are loud.", "Trains, again and again."]);
    for (segment, speaker) in segments.iter_mut().zip([Some("Zoë Field"), Some("Adam"), None]) {
        segment.speaker = speaker.map(str::to_owned);
    }
    put(&store, &item("a"), segments, 3, flat).await;
    put(&store, &item("b"), said("en", &["Trains, and nobody knows who speaks."]), 1, flat).await;
    let by = async |speaker: &str| {
        let filter = Filter { speakers: vec![speaker.into()], ..Filter::default() };
        let hits = ask(&store, &SearchRequest { filter, ..request("trains") }).await.hits;
        hits.into_iter().map(|hit| (hit.text, hit.speaker)).collect::<Vec<_>>()
    };
    assert_eq!(by("zoe").await, [("I like trains.".to_owned(), Some("Zoë Field".to_owned()))]);
    assert_eq!(by("ADAM").await, [("Trains are loud.".to_owned(), Some("Adam".to_owned()))]);
    assert_eq!(by("eve").await, []);
}

#[tokio::test]
async fn beginnings_alternatives_and_exclusions_are_obeyed() {
    let store = store().await;
    let lines = [
        "Photography is light.",
        "Photosynthesis is slow.",
        "A photo of a dog.",
        "The phonograph played.",
        "Ein Käsekuchen, please.",
        "東京タワーは高い。",
    ];
    put(&store, &item("a"), said("en", &lines), 1, flat).await;
    assert_eq!(texts(&store, "photo*").await, [lines[2], lines[0], lines[1]]);
    assert_eq!(texts(&store, "photo* -dog").await, [lines[0], lines[1]]);
    assert_eq!(texts(&store, "photo* -photos*").await, [lines[2], lines[0]]);
    assert_eq!(texts(&store, "KASE*").await, [lines[4]]);
    assert_eq!(texts(&store, "東京*").await, [lines[5]]);
    assert_eq!(texts(&store, "phonograph OR dog").await, [lines[2], lines[3]]);
    assert_eq!(texts(&store, "is light OR slow").await, [lines[0], lines[1]]);
    assert_eq!(texts(&store, "\"is slow\" OR \"a dog\" -photo").await, [lines[1]]);
    let hits = ask(&store, &request("photos*")).await.hits;
    let marked: Vec<&str> = hits[0].highlights.iter().map(|range| &hits[0].text[range.clone()]).collect();
    assert_eq!(marked, ["Photosynthesis"]);
    // Nothing obeys: near misses, and a word about it; what must not occur does not, all the same.
    let answer = ask(&store, &request("\"photosynthesis slow\" -light")).await;
    assert_eq!((answer.hits[0].text.as_str(), answer.note), (lines[1], Some(Note::Relaxed)));
    assert_eq!(ask(&store, &request("\"dog photo\" -dog")).await.hits, []);
    for (query, note) in [
        ("-dog", Note::OnlyExclusions),
        ("-\"a dog\" -photo*", Note::OnlyExclusions),
        ("", Note::NoWords),
        ("🎉 & |", Note::NoWords),
    ] {
        let answer = ask(&store, &request(query)).await;
        assert_eq!((answer.hits.len(), answer.note), (0, Some(note)), "{query}");
    }
}

#[tokio::test]
async fn more_like_a_place_is_found_by_vectors_or_by_rare_words() {
    let store = store().await;
    let vector = |text: &str| match text {
        t if t.contains("volcano") || t.contains("lava") => vec![1.0, 0.1, 0.0, 0.0],
        t if t.contains("garden") => vec![0.0, 1.0, 0.0, 0.0],
        _ => vec![0.0, 0.1, 0.2, 1.0],
    };
    let lines = ["The volcano near Catania woke up.", "We had lunch.", "My garden is green."];
    put(&store, &item("a"), said("en", &lines), 1, vector).await;
    put(&store, &item("b"), said("en", &["Hot lava reached the road.", "It rained."]), 1, vector).await;
    put(&store, &item("c"), said("en", &["Catania has a fish market.", "A garden party."]), 1, vector).await;
    store.learn_words(Duration::from_secs(60)).await.unwrap();
    let like = |at_ms| Alike { media_id: item("a").media_id, at_ms };
    let found = async |mode, like: Alike| -> Vec<String> {
        let request = SearchRequest { mode, limit: 10, ..SearchRequest::default() };
        let hits = alike(&store, like, &request).await.unwrap().hits;
        hits.into_iter().map(|hit| hit.text).collect()
    };
    // At 1 s the volcano is spoken of; 500 s is after the end, where the last passage is the nearest.
    assert_eq!(found(Mode::Semantic, like(Some(1000))).await[0], "Hot lava reached the road.");
    assert_eq!(found(Mode::Text, like(Some(1000))).await, ["Catania has a fish market."]);
    assert_eq!(found(Mode::Semantic, like(Some(500_000))).await[0], "A garden party.");
    for mode in [Mode::Semantic, Mode::Hybrid] {
        let hits = found(mode, like(Some(1000))).await;
        assert!(!hits.contains(&lines[0].to_owned()), "{hits:?}");
        let of_all = found(mode, like(None)).await;
        assert!(of_all.len() == 4 && !of_all.iter().any(|t| lines.contains(&t.as_str())), "{of_all:?}");
    }
    let nowhere = Alike { media_id: item("never").media_id, at_ms: None };
    assert_eq!(found(Mode::Text, nowhere).await, [] as [&str; 0]);
    let request = SearchRequest { mode: Mode::Semantic, limit: 10, ..SearchRequest::default() };
    assert!(matches!(alike(&store, nowhere, &request).await, Err(SearchError::NoVector)));
}

#[tokio::test]
async fn a_word_that_nobody_says_is_taken_for_the_nearest_that_somebody_does() {
    let store = store().await;
    let lines = [
        "Arnold Schwarzenegger came by.",
        "Ada Lovelace wrote it down.",
        "La canción de Málaga.",
        "Running is healthy; so is runing, a typo of somebody.",
        "שלום לכולם",
        "東京タワー",
    ];
    put(&store, &item("a"), said("en", &lines), 1, flat).await;
    let meant = async |query: &str| -> Option<String> {
        corrected(&store, query, |_| false).await.unwrap().map(|c| c.query)
    };
    for (typed, expected) in [
        ("shwarzeneger", "schwarzenegger"),
        ("who is \"ada lovlace\"?", "who is \"ada lovelace\"?"),
        ("Malga cancoin", "malaga cancion"),
        ("לכולמ", "לכולם"),
    ] {
        assert_eq!(meant(typed).await.as_deref(), Some(expected), "{typed}");
    }
    // Said, in this or another form; too short; too far; excluded, a beginning, a number, without spaces.
    for typed in [
        "runing",
        "runs",
        "canciones",
        "ad",
        "zzzzzzzz",
        "written -lovlace",
        "lovlac*",
        "19455",
        "東京タワ",
        "",
        "\0",
    ] {
        assert_eq!(meant(typed).await, None, "{typed}");
    }
    let replaced = corrected(&store, "Lovlace", |_| false).await.unwrap();
    let expected =
        Correction { query: "lovelace".into(), replaced: vec![("Lovlace".into(), "lovelace".into())] };
    assert_eq!(replaced, Some(expected));
    assert_eq!(corrected(&store, "lovlace", |word| word == "lovlace").await.unwrap(), None, "a proper word");
    // What is said later is known from then on, and an item that is done again changes nothing.
    assert_eq!(meant("quetzalcoatl").await, None);
    put(&store, &item("b"), said("en", &["The temple of Quetzalcoatl."]), 1, flat).await;
    assert_eq!(meant("quetzalcoatl").await, None, "it is said");
    assert_eq!(meant("quetzalcotl").await.as_deref(), Some("quetzalcoatl"));
    assert!(store.learn_words(Duration::ZERO).await.unwrap());
}

#[tokio::test]
async fn every_script_is_found_and_nothing_in_a_query_is_taken_for_a_command() {
    let store = store().await;
    let long = "w".repeat(10_000);
    let lines = [
        "مرحبا بكم في مدينة القاهرة",
        "ברוכים הבאים לירושלים",
        "我们在北京大学学习中文。",
        "서울에서 만나요",
        "ไปเที่ยวกรุงเทพ",
        "Party 🎉 in the house 👨‍👩‍👧‍👦!",
        "Robert'); DROP TABLE media;-- said \"quote\" \\ back & forth | <-> !",
        &long,
        "naïve café İstanbul Straße",
    ];
    let segments: Vec<_> = lines
        .iter()
        .zip(["ar", "he", "zh", "ko", "th", "en", "en", "en", "tr"])
        .zip(0..)
        .map(|((line, language), n)| segment(n * 4000, n * 4000 + 3000, language, line))
        .collect();
    put(&store, &item("a"), segments, 1, flat).await;
    for (query, line) in [
        ("القاهرة", 0),
        ("مدينة القاهرة", 0),
        ("לירושלים", 1),
        ("北京大学", 2),
        ("\"学习中文\"", 2),
        ("서울에서", 3),
        ("กรุงเทพ", 4),
        ("party 🎉 house", 5),
        ("👨‍👩‍👧‍👦 house", 5),
        ("Robert'); DROP TABLE media;--", 6),
        ("\"quote\" \\ back & forth", 6),
        ("forth | ! <-> back", 6),
        ("(quote", 6),
        ("quote:*", 6),
        ("CAFE naive", 8),
        ("strasse OR straße", 8),
    ] {
        let answer = ask(&store, &request(query)).await;
        assert_eq!(answer.hits.first().map(|h| h.text.as_str()), Some(lines[line]), "{query}");
    }
    // A word of ten thousand letters is no word, in a query or in a text; it hides nothing else.
    for query in [long.as_str(), &format!("{long}*"), &format!("\"{long}\"")] {
        assert_eq!(ask(&store, &request(query)).await.hits, [], "{}", &query[..5]);
        corrected(&store, query, |_| false).await.unwrap();
    }
    assert_eq!(ask(&store, &request(&format!("{long} cairo القاهرة"))).await.hits[0].text, lines[0]);
    assert_eq!(store.counts().await.unwrap().done, 1);
}

/// Transcripts as their own tools write them, in a folder beside the library.
fn talks(library: &Library) -> std::path::PathBuf {
    let folder = library.folder("talks");
    let piece = |start: u64, text: &str| json!({"start_ms": start, "end_ms": start + 3000, "text": text});
    let talk = json!({
        "media": {"title": "Ocean talk", "channel": "Deep sea", "published_at": "2025-03-01", "language": "en",
                  "source": "https://www.youtube.com/watch?v=dQw4w9WgXcQ"},
        "segments": [piece(0, "Welcome."), piece(4000, "The squid called Architeuthis lives in the dark."),
                     piece(8000, "It eats fish."), piece(12_000, "Goodbye.")],
    });
    fs::write(folder.join("ocean.json"), talk.to_string()).unwrap();
    fs::write(folder.join("garden.en.srt"), "1\n00:00:01,000 --> 00:00:04,000\nRoses need water.\n").unwrap();
    fs::write(folder.join("notes.srt"), "1\n00:00:01,000 --> 00:00:04,000\nIn which language?\n").unwrap();
    fs::write(folder.join("package.json"), "{\"name\": \"no transcript\"}").unwrap();
    folder
}

#[test]
fn transcripts_are_brought_in_and_found_from_the_command_line() {
    let library = Library::with_server();
    // An empty library answers, too.
    for arguments in [
        &["search", "anything"][..],
        &["search", "--mode", "text", "any* -thing OR"],
        &["search", "-n", "1", "--", "-x"],
    ] {
        let ran = library.ok(arguments);
        assert_eq!(ran.stdout, "", "{ran}");
        assert!(!ran.stderr.is_empty() && !ran.stderr.contains("error"), "{ran}");
    }

    let folder = talks(&library);
    let folder = folder.to_str().unwrap();
    let ran = library.run(&["import", "--json", folder]);
    assert_eq!(ran.code, 1, "{ran}");
    assert_eq!(ran.json(), json!({"done": 2, "known": 0, "skipped": 1, "failed": 1, "segments": 5}));
    assert!(ran.stderr.contains("notes.srt: its language is not known"), "{ran}");
    let again = library.ok(&["import", "--json", "--language", "en", folder]);
    assert_eq!(again.json(), json!({"done": 1, "known": 2, "skipped": 1, "failed": 0, "segments": 1}));
    let named = library.run(&["import", &format!("{folder}/package.json")]);
    assert_eq!(named.code, 1, "{named}");
    assert!(named.stderr.contains("package.json: it is no transcript"), "{named}");

    let ran = library.ok(&["search", "architeutis", "--mode", "text", "--around", "4s"]);
    assert!(ran.stderr.contains("showing results for architeuthis (nobody says “architeutis”"), "{ran}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "Ocean talk  Deep sea  2025-03-01",
            "           Welcome.",
            "     0:04  The squid called Architeuthis lives in the dark.",
            "           It eats fish.",
            "           https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=4s",
        ]
    );
    let ran = library.ok(&["search", "architeutis", "--mode", "text", "--as-typed", "--json"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));

    let batch = library.run_with_input(
        &["search", "--json", "--batch", "-", "--language", "en"],
        "roses and water\n\nwhich animal has its home without light\r\n\u{0}\n",
    );
    assert_eq!(batch.code, 0, "{batch}");
    let lines = batch.json_lines();
    let best = |query: &str| lines.iter().find(|l| l["query"] == query).map(|l| l["title"].clone());
    assert_eq!(best("roses and water"), Some(Value::from("garden.en")));
    assert_eq!(best("which animal has its home without light"), Some(Value::from("Ocean talk")));

    let link = "https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=4s";
    for mode in ["hybrid", "semantic"] {
        let hits = library.ok(&["search", "--like", link, "--mode", mode, "--json"]).json_lines();
        assert!(!hits.is_empty() && hits.iter().all(|hit| hit["title"] != "Ocean talk"), "{mode}: {hits:?}");
    }
    let ran = library.ok(&["search", "roses", "--color", "always", "--mode", "text"]);
    assert!(ran.stdout.contains("\u{1b}[33m\u{1b}[1mRoses\u{1b}[0m"), "{ran}");
    let none = library.ok(&[
        "search",
        "roses",
        "--channel",
        "deep sea",
        "--after",
        "2025-01-01",
        "--source",
        "youtube",
        "--mode",
        "text",
    ]);
    assert!(none.stdout.is_empty() && none.stderr.contains("nothing found"), "{none}");
    let none = library.ok(&["search", "roses", "--before", "2025-01-01", "--longer-than", "9h", "--json"]);
    assert_eq!(none.stdout, "");

    for wrong in [
        &["search"][..],
        &["search", "x", "--around", "yesterday"],
        &["search", "x", "--after", "2025-13-01"],
        &["search", "x", "--in", "no-such-item"],
        &["search", "--like", "no-such-item@1:00"],
        &["search", "--like", "ocean", "query"],
        &["search", "--batch", "-"],
        &["search", "--json", "--batch", "/no/such/file"],
        &["import"],
    ] {
        let ran = library.run(wrong);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{wrong:?}: {ran}");
    }
}

//! Search over stored transcripts, on a real PostgreSQL.

use spoken::media::{Item, Locator, MediaId, Metadata, Segment};
use spoken::search::{Hit, Mode, QueryVector, SearchError, SearchRequest, search};
use spoken::store::{Claim, EmbeddingModel, Store};

use super::store::{item, model, passages, segment, store, transcript};

/// Stores an item with one passage per `n` segments; `vector` makes a passage's vector from its text.
pub async fn put(
    store: &Store,
    item: &Item,
    segments: Vec<Segment>,
    n: usize,
    vector: impl Fn(&str) -> Vec<f32>,
) {
    store.upsert(item, "test").await.unwrap();
    let Claim::Work(work) = store.claim(item.media_id, "worker").await.unwrap() else {
        panic!("not claimed")
    };
    let passages = passages(&segments, n);
    let vectors: Vec<_> = passages.iter().map(|p| vector(&p.text)).collect();
    store
        .complete(&work.claimed, &Metadata::default(), &transcript(segments), &passages, &vectors, &model())
        .await
        .unwrap();
}

pub fn flat(_: &str) -> Vec<f32> {
    vec![0.5; 4]
}

pub fn said(language: &str, lines: &[&str]) -> Vec<Segment> {
    (0..).zip(lines).map(|(i, line)| segment(i * 4000, i * 4000 + 3500, language, line)).collect()
}

async fn find(store: &Store, query: &str, mode: Mode) -> Vec<Hit> {
    let request = SearchRequest { query: query.into(), limit: 10, mode, ..SearchRequest::default() };
    search(store, &request, None).await.unwrap().hits
}

async fn texts(store: &Store, query: &str) -> Vec<String> {
    find(store, query, Mode::Text).await.into_iter().map(|hit| hit.text).collect()
}

#[tokio::test]
async fn the_exact_sentence_comes_before_many_that_are_almost_it() {
    let store = store().await;
    let near = [
        "The train to Hamburg leaves at nine in the evening.",
        "The train to Hamburg leaves at ten.",
        "A train to Hamburg leaves at nine in the morning from here.",
        "In the morning the train leaves Hamburg at nine.",
    ];
    for file in 0..60 {
        let mut lines: Vec<&str> = vec!["Welcome back to the station.", "Here is the news."];
        lines.extend((0..4).map(|i| near[(file + i) % 4]));
        if file == 37 {
            lines.insert(4, "The train to Hamburg leaves at nine in the morning.");
        }
        put(&store, &item(&format!("n{file}")), said("en", &lines), 3, flat).await;
    }
    for query in [
        "The train to Hamburg leaves at nine in the morning.",
        "the train to hamburg LEAVES at nine in the morning",
        "  The, train to Hamburg -- leaves at nine... in the morning?!",
    ] {
        let vector = vec![0.5; 4];
        let request =
            SearchRequest { query: query.into(), limit: 10, mode: Mode::Hybrid, ..SearchRequest::default() };
        let near = Some(QueryVector { model: &model(), vector: &vector });
        let hits = search(&store, &request, near).await.unwrap().hits;
        assert_eq!(hits.len(), 10);
        assert_eq!(hits[0].media_id, item("n37").media_id, "{query}: {:#?}", &hits[..2]);
        assert_eq!((hits[0].start_ms, hits[0].end_ms), (16_000, 19_500));
        assert!(hits[0].score > 1.0 && hits[1].score < 1.0, "{} {}", hits[0].score, hits[1].score);
        assert_eq!(hits[0].link, "file:///media/n37.mp4#t=16");
        assert!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score));
    }
}

#[tokio::test]
async fn a_sentence_is_found_though_it_was_misheard_or_cut_in_two() {
    let store = store().await;
    let lines = [
        "Good evening everybody.",
        "Tonight we will talk about the",
        "migration of monarch butterflies to Mexico.",
        "They fly for thousands of miles.",
        "Nobody knows how they find the way.",
    ];
    put(&store, &item("b"), said("en", &lines), 5, flat).await;
    for i in 0..20 {
        let other = format!("The migration of number {i} will be talked about tonight.");
        put(&store, &item(&format!("o{i}")), said("en", &["Hello.", &other]), 2, flat).await;
    }
    let hits = find(&store, "we will talk about the migration of monarch butterflies", Mode::Hybrid).await;
    assert_eq!((hits[0].media_id, hits[0].start_ms, hits[0].end_ms), (item("b").media_id, 4000, 11_500));
    assert!(hits[0].score > 1.0);
    let hits = find(&store, "nobody knew how it finds the way home", Mode::Hybrid).await;
    assert_eq!((hits[0].media_id, hits[0].start_ms), (item("b").media_id, 16_000));
}

#[tokio::test]
async fn a_sentence_within_a_segment_is_given_its_own_second() {
    let store = store().await;
    let text = "The weather is fine today. My uncle sold the wooden boat. And so on.";
    put(&store, &item("a"), vec![segment(10_000, 16_800, "en", text)], 1, flat).await;
    let hits = find(&store, "my uncle sold the wooden boat", Mode::Hybrid).await;
    assert_eq!(hits[0].text, "My uncle sold the wooden boat. And so on.");
    assert_eq!((hits[0].start_ms, hits[0].end_ms), (12_700, 16_800));
    let marked: Vec<&str> = hits[0].highlights.iter().map(|range| &hits[0].text[range.clone()]).collect();
    assert_eq!(marked, ["My", "uncle", "sold", "the", "wooden", "boat"]);
    let hits = find(&store, "weather wooden", Mode::Hybrid).await;
    assert_eq!((hits[0].text.as_str(), hits[0].start_ms), (text, 10_000));
}

#[tokio::test]
async fn words_are_found_in_other_forms_and_without_accents_and_marked() {
    let store = store().await;
    put(&store, &item("es"), said("es", &["¿Qué hora es?", "Las canciones del Árbol están aquí."]), 1, flat)
        .await;
    put(
        &store,
        &item("en"),
        said("en", &["Two houses were built.", "Don't stop running, naïve people."]),
        1,
        flat,
    )
    .await;
    put(&store, &item("ja"), said("ja", &["私は東京に住んでいます。"]), 1, flat).await;
    put(&store, &item("he"), said("he", &["שלום לכולם וברוכים הבאים"]), 1, flat).await;
    let marked = async |query: &str| -> Vec<String> {
        let hits = find(&store, query, Mode::Text).await;
        let Some(hit) = hits.first() else { return Vec::new() };
        hit.highlights.iter().map(|range| hit.text[range.clone()].to_owned()).collect()
    };
    assert_eq!(marked("canción").await, ["canciones"]);
    assert_eq!(marked("cancion arbol").await, ["canciones", "Árbol"]);
    assert_eq!(marked("house building").await, ["houses", "built"][..1]);
    assert_eq!(marked("run").await, ["running"]);
    assert_eq!(marked("naive").await, ["naïve"]);
    assert_eq!(marked("NAÏVE people").await, ["naïve", "people"]);
    assert_eq!(marked("東京").await, ["東", "京"]);
    assert_eq!(marked("לכולם").await, ["לכולם"]);
    assert_eq!(marked("qué hora").await, ["Qué", "hora"]);
    assert_eq!(marked("elephant").await, [""; 0]);
}

#[tokio::test]
async fn a_query_of_stop_words_finds_its_phrase() {
    let store = store().await;
    put(
        &store,
        &item("a"),
        said("en", &["Not to be or to be.", "To be or not to be.", "Nothing here."]),
        3,
        flat,
    )
    .await;
    let hits = find(&store, "to be or not to be", Mode::Hybrid).await;
    assert_eq!(hits[0].start_ms, 4000);
    assert_eq!(hits[0].highlights.len(), 6);
}

#[tokio::test]
async fn operators_are_obeyed_in_words_and_meaning() {
    let store = store().await;
    put(
        &store,
        &item("a"),
        said("en", &["The red cat sleeps.", "The red dog runs.", "The blue cat runs.", "Cats that are red."]),
        1,
        flat,
    )
    .await;
    assert_eq!(texts(&store, "\"red cat\"").await, ["The red cat sleeps."]);
    assert_eq!(texts(&store, "red -dogs -sleeping").await, ["Cats that are red."]);
    let mut either = texts(&store, "blue OR dog").await;
    either.sort();
    assert_eq!(either, ["The blue cat runs.", "The red dog runs."]);
    assert_eq!(texts(&store, "blue OR dog red").await, ["The red dog runs."]);
    let vector = vec![0.5; 4];
    let request = SearchRequest {
        query: "red -cat".into(),
        limit: 10,
        mode: Mode::Semantic,
        ..SearchRequest::default()
    };
    let near = Some(QueryVector { model: &model(), vector: &vector });
    let hits = search(&store, &request, near).await.unwrap().hits;
    assert_eq!(hits.iter().map(|h| h.text.as_str()).collect::<Vec<_>>(), ["The red dog runs."]);
    // A pasted sentence with quotes that nothing answers literally is searched without them.
    assert_eq!(texts(&store, "he said \"red sleeping cat\" -loudly").await[0], "The red cat sleeps.");
}

#[tokio::test]
async fn common_words_are_required_too() {
    let store = store().await;
    let many = (0..30).map(|n| format!("People talk about number {n}."));
    let few = ["A zebra eats quartz.", "People show a zebra quartz.", "A zebra of stone."].map(str::to_owned);
    let lines: Vec<String> = many.chain(few).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    put(&store, &item("a"), said("en", &lines), 1, flat).await;
    // Known to be common from here on: it is not looked up in the index any more.
    sqlx::raw_sql("ANALYZE passages; ANALYZE segments").execute(store.pool()).await.unwrap();
    assert_eq!(texts(&store, "\"zebra\" quartz people").await, ["People show a zebra quartz."]);
    assert_eq!(texts(&store, "zebra quartz people").await[0], "People show a zebra quartz.");
}

#[tokio::test]
async fn meaning_finds_what_words_do_not() {
    let store = store().await;
    let vector = |text: &str| {
        if text.contains("automobile") { vec![1.0, 0.0, 0.0, 0.0] } else { vec![0.0, 1.0, 0.2, 0.0] }
    };
    put(
        &store,
        &item("a"),
        said("en", &["It rains today.", "Speeding up an automobile.", "The garden is green."]),
        1,
        vector,
    )
    .await;
    let near = [0.9, 0.1, 0.0, 0.0];
    for mode in [Mode::Hybrid, Mode::Semantic] {
        let request =
            SearchRequest { query: "make my car faster".into(), limit: 2, mode, ..SearchRequest::default() };
        let query = Some(QueryVector { model: &model(), vector: &near });
        let hits = search(&store, &request, query).await.unwrap().hits;
        assert_eq!((hits[0].start_ms, hits[0].text.as_str()), (4000, "Speeding up an automobile."));
        assert_eq!(hits.len(), 2);
    }
    let request =
        SearchRequest { query: "car".into(), limit: 2, mode: Mode::Semantic, ..SearchRequest::default() };
    assert!(matches!(search(&store, &request, None).await, Err(SearchError::NoVector)));
    let query = Some(QueryVector { model: &model(), vector: &near[..3] });
    assert!(matches!(
        search(&store, &request, query).await,
        Err(SearchError::Vector { found: 3, needed: 4 })
    ));
    let unknown = EmbeddingModel { model_id: "never stored".into(), dimension: 4 };
    let query = Some(QueryVector { model: &unknown, vector: &near });
    assert_eq!(search(&store, &request, query).await.unwrap().hits, []);
}

#[tokio::test]
async fn no_query_is_an_error() {
    let filled = store().await;
    let lines = ["He said: don't! It's a \"test\" & more | less.", "日本語とעבריתと🎉", "x"];
    put(&filled, &item("a"), said("en", &lines), 2, flat).await;
    let empty = store().await;
    let long = "x".repeat(10_000);
    let many = "word ".repeat(10_000);
    let queries = [
        "",
        " ",
        "the",
        "the of and",
        "'",
        "\"",
        "''",
        "\\",
        "\\'",
        "a'; DROP TABLE media; --",
        "& | !",
        "!",
        "!!a",
        "a <-> b",
        "(",
        ")",
        "((a)",
        ":*",
        "a:*",
        "a:ABCD",
        "-",
        "--",
        "-a",
        "- a",
        "-\"",
        "-\"a b\"",
        "\"a",
        "a\"b\"c",
        "OR",
        "or",
        "OR OR",
        "a OR",
        "a OR -b",
        "\"\"",
        "\"!\" OR \"&\"",
        "%",
        "_",
        "\0",
        "a\0b",
        "\u{202e}abc",
        "🎉",
        "👨‍👩‍👧‍👦 family",
        "日本語",
        "日 本",
        "עברית",
        "ｆｕｌｌ",
        "ﬁne",
        "e\u{301}",
        "\u{301}",
        "1.5e10",
        "-5",
        "3-4",
        "a-b-c",
        "http://example.org/a?b=c&d#e",
        "x@y.z",
        "/a/b/c.txt",
        "<b>bold</b>",
        "a&amp;b",
        "{1,2}",
        "$1",
        "NULL",
        &long,
        &many,
    ];
    for store in [&empty, &filled] {
        for query in queries {
            for mode in [Mode::Hybrid, Mode::Text, Mode::Semantic] {
                let vector = [0.1, 0.2, 0.3, 0.4];
                let request =
                    SearchRequest { query: query.into(), limit: 5, mode, ..SearchRequest::default() };
                let near = Some(QueryVector { model: &model(), vector: &vector });
                let answer = search(store, &request, near).await.unwrap_or_else(|e| panic!("{query:?}: {e}"));
                let hits = answer.hits;
                for hit in &hits {
                    assert!(hit.highlights.iter().all(|range| hit.text.get(range.clone()).is_some()));
                    assert!(hit.highlights.windows(2).all(|pair| pair[0].end <= pair[1].start));
                }
                assert!(hits.len() <= 3);
            }
        }
    }
    assert_eq!(filled.counts().await.unwrap().done, 1);
    let request =
        SearchRequest { query: "said".into(), limit: 0, mode: Mode::Text, ..SearchRequest::default() };
    assert_eq!(search(&filled, &request, None).await.unwrap().hits, []);
}

#[tokio::test]
async fn a_hit_is_a_line_of_the_documented_shape() {
    let store = store().await;
    let page: url::Url = "https://www.youtube.com/watch?v=dQw4w9WgXcQ".parse().unwrap();
    let video = Item {
        media_id: MediaId::new("youtube", "dQw4w9WgXcQ"),
        extractor: "youtube".into(),
        source: page.to_string(),
        locator: Locator::Page(page),
        ..item("A \"title\"\n")
    };
    put(&store, &video, said("en", &["First things first.", "Something memorable."]), 2, flat).await;
    let hits = find(&store, "memorable", Mode::Hybrid).await;
    assert_eq!(hits.len(), 1);
    let line = serde_json::to_value(&hits[0]).unwrap();
    assert_eq!(
        line,
        serde_json::json!({
            "media_id": video.media_id.to_string(),
            "title": "A \"title\"\n",
            "source": "https://www.youtube.com/watch?v=dQw4w9WgXcQ",
            "channel": null,
            "published_at": null,
            "language": "en",
            "speaker": null,
            "start_ms": 4000,
            "end_ms": 7500,
            "text": "Something memorable.",
            "link": "https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=4s",
            "score": hits[0].score,
            "item_hits": 1,
            "highlights": [[10, 19]],
        })
    );
}

#[tokio::test]
async fn segments_without_a_passage_are_found_too() {
    let store = store().await;
    store.upsert(&item("a"), "test").await.unwrap();
    let Claim::Work(work) = store.claim(item("a").media_id, "w").await.unwrap() else {
        panic!("not claimed")
    };
    let segments = said("en", &["Lonely words."]);
    store
        .complete(&work.claimed, &Metadata::default(), &transcript(segments), &[], &[], &model())
        .await
        .unwrap();
    assert_eq!(texts(&store, "lonely").await, ["Lonely words."]);
}

/// Words that are as unevenly common as those of a language (Zipf), from a fixed seed.
struct MadeSpeech(u64);

impl MadeSpeech {
    fn random(&mut self) -> f64 {
        // Knuth's MMIX generator; the upper bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn word(&mut self) -> String {
        let mut rank = (20_000f64.powf(self.random())) as u64;
        let mut word = String::new();
        while word.is_empty() || rank > 0 {
            word.push_str(
                ["ba", "de", "fi", "go", "lu", "ma", "ne", "ri", "so", "tu", "ka", "pe"]
                    [(rank % 12) as usize],
            );
            rank /= 12;
        }
        word
    }

    fn sentence(&mut self) -> String {
        let words: Vec<String> = (0..12).map(|_| self.word()).collect();
        words.join(" ") + "."
    }
}

/// Prints how fast results are stored and found: `cargo test --release figures -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement of a minute or two, not a check"]
async fn figures() {
    const ITEMS: usize = 50;
    const SEGMENTS: usize = 3000;
    let store = store().await;
    let model = EmbeddingModel { model_id: "figures".into(), dimension: 384 };
    let mut speech = MadeSpeech(7);
    let mut held = Vec::new();
    let mut wrote = std::time::Duration::ZERO;
    for number in 0..ITEMS {
        let lines: Vec<String> = (0..SEGMENTS).map(|_| speech.sentence()).collect();
        held.push((number, lines[number * 7].clone()));
        let segments = said("en", &lines.iter().map(String::as_str).collect::<Vec<_>>());
        let passages = passages(&segments, 3);
        let vectors: Vec<Vec<f32>> =
            passages.iter().map(|_| (0..384).map(|_| speech.random() as f32 - 0.5).collect()).collect();
        let item = item(&format!("n{number}"));
        store.upsert(&item, "x").await.unwrap();
        let Claim::Work(work) = store.claim(item.media_id, "w").await.unwrap() else { panic!("not claimed") };
        let transcript = transcript(segments);
        let start = std::time::Instant::now();
        store
            .complete(&work.claimed, &Metadata::default(), &transcript, &passages, &vectors, &model)
            .await
            .unwrap();
        wrote += start.elapsed();
    }
    let rows = ITEMS * (SEGMENTS + 2 * SEGMENTS / 3);
    println!(
        "stored {rows} rows in {wrote:.1?}: {:.0} a second, one writer",
        rows as f64 / wrote.as_secs_f64()
    );
    sqlx::query("VACUUM ANALYZE").execute(store.pool()).await.unwrap();
    for mode in [Mode::Text, Mode::Semantic, Mode::Hybrid] {
        let mut took = Vec::new();
        for (number, sentence) in &held {
            let vector: Vec<f32> = (0..384).map(|_| speech.random() as f32 - 0.5).collect();
            let request =
                SearchRequest { query: sentence.clone(), limit: 10, mode, ..SearchRequest::default() };
            let start = std::time::Instant::now();
            let hits = search(&store, &request, Some(QueryVector { model: &model, vector: &vector }))
                .await
                .unwrap()
                .hits;
            took.push(start.elapsed());
            if mode != Mode::Semantic {
                assert_eq!(hits[0].media_id, item(&format!("n{number}")).media_id);
                assert_eq!(hits[0].start_ms, *number as i64 * 7 * 4000);
            }
        }
        took.sort_unstable();
        println!("{mode:?}: median {:.1?}, slowest {:.1?}", took[took.len() / 2], took[took.len() - 1]);
    }
}

//! The index of the vectors: built, found unfinished, measured, used by searches; on a real PostgreSQL with pgvector.

use std::time::Duration;

use spoken::media::{MediaId, Metadata};
use spoken::search::{Filter, Mode, QueryVector, SearchRequest, search};
use spoken::store::index::{Built, Means, VectorTable};
use spoken::store::{Claim, EmbeddingModel, Store, StoreOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use super::cli::Library;
use super::store::{database, item, passages, segment, transcript};

const DIMENSION: usize = 16;
const PASSAGES: usize = 10;

fn model() -> EmbeddingModel {
    EmbeddingModel { model_id: "test/indexed".into(), dimension: DIMENSION }
}

/// Numbers in −1 to 1 that follow from a seed (Knuth's MMIX generator).
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count + 4)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
        })
        .skip(4)
        .collect()
}

/// The vector of a passage: near those of its item, items in clusters of ten.
fn vector(item: usize, passage: usize) -> Vec<f32> {
    let parts = [
        numbers(item as u64 / 10, DIMENSION),
        numbers(10_000 + item as u64, DIMENSION),
        numbers(20_000 + (item * PASSAGES + passage) as u64, DIMENSION),
    ];
    (0..DIMENSION).map(|i| parts[0][i] + 0.6 * parts[1][i] + 0.4 * parts[2][i]).collect()
}

/// Items with one segment a passage; every seventh speaks Finnish.
async fn filled(items: usize) -> (Store, String) {
    let url = database().await;
    let store = Store::connect(&url, &StoreOptions::default()).await.unwrap();
    store.migrate().await.unwrap();
    let listed: Vec<_> = (0..items).map(|n| item(&format!("i{n}"))).collect();
    store.upsert_many(&listed, "test").await.unwrap();
    for (n, item) in listed.iter().enumerate() {
        let Claim::Work(work) = store.claim(item.media_id, "worker").await.unwrap() else {
            panic!("not claimed")
        };
        let language = if n % 7 == 0 { "fi" } else { "en" };
        let segments: Vec<_> = (0..PASSAGES)
            .map(|p| {
                let at = p as i64 * 20_000;
                segment(at, at + 18_000, language, &format!("Passage {p} of talk {n} about glaciers."))
            })
            .collect();
        let passages = passages(&segments, 1);
        let vectors: Vec<_> = (0..PASSAGES).map(|p| vector(n, p)).collect();
        store
            .complete(
                &work.claimed,
                &Metadata::default(),
                &transcript(segments),
                &passages,
                &vectors,
                &model(),
            )
            .await
            .unwrap();
    }
    sqlx::raw_sql("ANALYZE").execute(store.pool()).await.unwrap();
    (store, url)
}

async fn table(store: &Store) -> VectorTable {
    store.vector_tables().await.unwrap().remove(0)
}

async fn build(store: &Store, again: bool) -> Built {
    let table = table(store).await;
    let means = Means { memory_mb: Some(64), workers: Some(1) };
    store.build_index(&table, means, again, &CancellationToken::new(), |_| {}).await.unwrap()
}

/// Indexes on the table of vectors that are no B-trees, complete or not.
async fn indexes(pool: &PgPool) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_am a ON a.oid = c.relam
         WHERE a.amname = 'hnsw'",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

/// A transaction that has written to the table, for which a build waits before it begins.
async fn hold(url: &str, table: &str) -> PgConnection {
    let mut conn = PgConnection::connect(url).await.unwrap();
    let sql = format!("BEGIN; DELETE FROM {table} WHERE false; LOCK TABLE {table} IN ROW EXCLUSIVE MODE");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    conn
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited too long until {what}");
}

#[tokio::test]
async fn an_index_is_built_measured_replaced_and_removed() {
    let (store, _) = filled(200).await;
    assert_eq!(table(&store).await.index, None);
    let rows = table(&store).await.rows;
    assert!((1_500..2_500).contains(&rows), "{rows}");
    let Built::Now(facts) = build(&store, false).await else { panic!("not built") };
    assert_eq!((facts.rows, facts.memory_mb, facts.workers), (2_000, 64, 1));
    assert_eq!(build(&store, false).await, Built::Already);

    let name = table(&store).await.table;
    let recall = store.measure_recall(&name, 0.95, 20, Duration::from_secs(10)).await.unwrap().unwrap();
    assert!(recall.share >= 0.95 && recall.samples == 20, "{recall:?}");
    store.note_index(&name, recall, Some(facts)).await.unwrap();
    let index = table(&store).await.index.unwrap();
    assert!(index.valid && index.bytes > 100_000);
    assert_eq!(index.facts.unwrap().recall, recall);
    assert_eq!(index.facts.unwrap().build.unwrap().rows, 2_000);

    assert!(matches!(build(&store, true).await, Built::Now(_)));
    assert_eq!(indexes(store.pool()).await, 1);
    assert_eq!(store.drop_index(&name).await.unwrap(), Some(1));
    assert_eq!(store.drop_index(&name).await.unwrap(), Some(0));
    assert_eq!(table(&store).await.index, None);
    // With nothing to ask for, nothing is measured.
    sqlx::raw_sql(AssertSqlSafe(format!("TRUNCATE {name}"))).execute(store.pool()).await.unwrap();
    let none = store.measure_recall(&name, 0.95, 20, Duration::from_secs(10)).await.unwrap();
    assert_eq!(none, None);
}

#[tokio::test]
async fn what_a_killed_build_left_is_noticed_removed_and_built() {
    let (store, url) = filled(30).await;
    let name = table(&store).await.table;
    let blocker = hold(&url, &name).await;
    let building = tokio::spawn({
        let store = store.clone();
        async move {
            let table = table(&store).await;
            store.build_index(&table, Means::default(), false, &CancellationToken::new(), |_| {}).await
        }
    });
    until("it builds", async || table(&store).await.building.is_some()).await;
    assert!(!table(&store).await.index.unwrap().valid);
    // Nobody else builds or removes it meanwhile.
    assert_eq!(build(&store, false).await, Built::Elsewhere);
    assert_eq!(store.drop_index(&name).await.unwrap(), None);
    // As when the server kills the session; the builder's own clearing up has no session left.
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index WHERE datname = current_database()",
    )
    .execute(store.pool())
    .await
    .unwrap();
    assert!(building.await.unwrap().is_err());
    blocker.close().await.unwrap();
    let left = table(&store).await;
    assert!(!left.index.unwrap().valid && left.building.is_none());
    // A search does without it.
    let question = vector(3, 3);
    let near = Some(QueryVector { model: &model(), vector: &question });
    let request = SearchRequest { mode: Mode::Semantic, query: "x".into(), limit: 5, ..Default::default() };
    assert_eq!(search(&store, &request, near).await.unwrap().hits[0].media_id, item("i3").media_id);

    assert!(matches!(build(&store, false).await, Built::Now(_)));
    assert_eq!(indexes(store.pool()).await, 1);
    assert!(table(&store).await.index.unwrap().valid);
}

#[tokio::test]
async fn a_build_that_is_told_to_stop_leaves_nothing() {
    let (store, url) = filled(5).await;
    let blocker = hold(&url, &table(&store).await.table).await;
    let cancel = CancellationToken::new();
    let building = tokio::spawn({
        let (store, cancel) = (store.clone(), cancel.clone());
        async move {
            let table = table(&store).await;
            store.build_index(&table, Means::default(), false, &cancel, |_| {}).await
        }
    });
    until("it builds", async || table(&store).await.building.is_some()).await;
    cancel.cancel();
    // Removing what there is waits for that transaction, too.
    tokio::time::timeout(Duration::from_secs(20), async {
        until("the build is cancelled", async || table(&store).await.building.is_none()).await;
        blocker.close().await.unwrap();
        assert_eq!(building.await.unwrap().unwrap(), Built::Cancelled);
    })
    .await
    .unwrap();
    assert_eq!(indexes(store.pool()).await, 0);
}

#[tokio::test]
async fn two_builders_at_once_make_one_index() {
    let (store, _) = filled(60).await;
    let all = futures::future::join_all((0..4).map(|_| build(&store, false))).await;
    assert_eq!(all.iter().filter(|built| matches!(built, Built::Now(_))).count(), 1, "{all:?}");
    assert!(all.iter().all(|built| matches!(built, Built::Now(_) | Built::Elsewhere | Built::Already)));
    assert_eq!(indexes(store.pool()).await, 1);
}

/// The ten nearest of what passes, by comparing all.
fn exactly(items: impl Iterator<Item = usize>, question: &[f32]) -> Vec<(MediaId, i64)> {
    let cosine = |v: &[f32]| {
        let dot: f32 = v.iter().zip(question).map(|(a, b)| a * b).sum();
        dot / v.iter().map(|a| a * a).sum::<f32>().sqrt()
    };
    let mut all: Vec<(f32, MediaId, i64)> = items
        .flat_map(|n| (0..PASSAGES).map(move |p| (n, p)))
        .map(|(n, p)| (cosine(&vector(n, p)), item(&format!("i{n}")).media_id, p as i64 * 20_000))
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter().take(10).map(|(_, id, start)| (id, start)).collect()
}

#[tokio::test]
async fn through_the_index_with_filters_the_nearest_are_found() {
    const ITEMS: usize = 420;
    let (store, _) = filled(ITEMS).await;
    assert!(matches!(build(&store, false).await, Built::Now(_)));
    let many: Vec<MediaId> =
        (0..ITEMS).filter(|n| n % 3 > 0).map(|n| item(&format!("i{n}")).media_id).collect();
    type Passes = Box<dyn Fn(usize) -> bool>;
    let cases: [(&str, Filter, Passes); 5] = [
        ("open", Filter::default(), Box::new(|_| true)),
        // Few pass: all of them are compared.
        (
            "one item",
            Filter { media: vec![item("i17").media_id], ..Filter::default() },
            Box::new(|n| n == 17),
        ),
        (
            "a language of few",
            Filter { languages: vec!["fi".into()], ..Filter::default() },
            Box::new(|n| n % 7 == 0),
        ),
        // Many pass: the index goes on until there are enough.
        (
            "a language of many",
            Filter { languages: vec!["en".into()], ..Filter::default() },
            Box::new(|n| n % 7 != 0),
        ),
        ("many items", Filter { media: many, ..Filter::default() }, Box::new(|n| n % 3 > 0)),
    ];
    for (name, filter, passes) in cases {
        let (mut found, mut all) = (0, 0);
        for n in 0..20 {
            let question: Vec<f32> = vector(n * 20, n % PASSAGES)
                .iter()
                .zip(vector(n * 7, 1))
                .map(|(a, b)| 0.8 * a + 0.2 * b)
                .collect();
            let near = Some(QueryVector { model: &model(), vector: &question });
            let request = SearchRequest {
                mode: Mode::Semantic,
                query: "x".into(),
                limit: 10,
                filter: filter.clone(),
                ..Default::default()
            };
            let hits = search(&store, &request, near).await.unwrap().hits;
            let truth = exactly((0..ITEMS).filter(|n| passes(*n)), &question);
            assert_eq!(hits.len(), 10, "{name}");
            found += hits.iter().filter(|h| truth.contains(&(h.media_id, h.start_ms))).count();
            all += truth.len();
        }
        assert!(found * 100 >= all * 95, "{name}: {found} of {all}");
    }
}

#[tokio::test]
async fn common_words_and_phrases_of_them_are_answered_from_a_bounded_part() {
    // Every passage holds every word of these questions; 4,200 are more than are ranked.
    let (store, _) = filled(420).await;
    let ask = async |query: &str| {
        let request =
            SearchRequest { mode: Mode::Text, query: query.into(), limit: 10, ..Default::default() };
        search(&store, &request, None).await.unwrap().hits
    };
    assert_eq!(ask("glaciers passage").await.len(), 10);
    assert_eq!(ask("about glaciers").await.len(), 10);
    assert_eq!(ask("\"about glaciers\"").await.len(), 10);
    // One rare word among common ones decides.
    let hits = ask("talk 317 about glaciers").await;
    assert!(hits.iter().all(|hit| hit.media_id == item("i317").media_id), "{hits:#?}");
    let hits = ask("passage 4 of talk 317 about glaciers").await;
    assert_eq!((hits[0].media_id, hits[0].start_ms), (item("i317").media_id, 80_000));
}

#[test]
fn a_run_that_brought_in_all_there_was_builds_the_index() {
    let library = Library::with_server();
    let (audio, _) = super::cli::speeches(&super::ingest::TALKS[..1]).remove(0);
    let mut ingest = library.command(&["ingest", audio.to_str().unwrap()]);
    ingest.env("INDEX_MIN_PASSAGES", "1").env("INDEX_BUILD", "manual");
    assert!(super::cli::finish(ingest).code == 0);
    let status = |library: &Library| library.ok(&["index", "status", "--json"]).json()["tables"][0].clone();
    assert_eq!(status(&library)["state"], "none");
    let mut again = library.command(&["ingest"]);
    again.env("INDEX_MIN_PASSAGES", "1");
    let ran = super::cli::finish(again);
    assert!(ran.code == 0 && ran.stderr.contains("the index of"), "{ran}");
    let told = status(&library);
    assert_eq!(told["state"], "complete");
    assert!(told["recall"].as_f64().unwrap() > 0.9 && told["build_ms"].is_u64(), "{told}");
    let doctor = library.run(&["doctor", "--json"]).json();
    let checks = doctor["checks"].as_array().unwrap();
    let index = checks.iter().find(|check| check["name"] == "Index").unwrap();
    assert_eq!(index["status"], "ok", "{index}");
    let built = library.ok(&["index", "build", "--json"]).json();
    assert_eq!(built["tables"][0]["built"], false);
    library.ok(&["index", "drop"]);
    assert_eq!(status(&library)["state"], "none");
}

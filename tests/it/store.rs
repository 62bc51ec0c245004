//! The store against a real PostgreSQL with pgvector.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use futures::TryStreamExt;
use spoken::media::{
    Coverage, DropReason, Dropped, Failure, FailureClass, Flag, Gap, Item, Locator, MediaId, Metadata,
    Passage, Segment, State, Transcript, Word,
};
use spoken::postgres::{Server, ServerOptions};
use spoken::store::{
    Attempt, Claim, Claimed, EmbeddingModel, ItemFilter, SaveError, Selection, Store, StoreError,
    StoreOptions, Upserted, Work,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// The server that all tests share: `SPOKEN_TEST_DATABASE_URL`, or a private one that ends with the tests.
async fn server() -> String {
    static URL: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
    URL.get_or_init(|| async {
        if let Ok(url) = std::env::var("SPOKEN_TEST_DATABASE_URL") {
            return url;
        }
        let dir = tempfile::tempdir().unwrap();
        let server =
            Server::start(&ServerOptions::new(dir.path(), super::postgres::tools_dir())).await.unwrap();
        let url = server.url().to_owned();
        // No test lets this one crash, and the making of a hundred databases waits for the disk most of the time.
        let mut connection = PgConnection::connect(&url).await.unwrap();
        for setting in ["fsync", "full_page_writes"] {
            let sql = AssertSqlSafe(format!("ALTER SYSTEM SET {setting} = off"));
            sqlx::query(sql).execute(&mut connection).await.unwrap();
        }
        sqlx::query("SELECT pg_reload_conf()").execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        *PRIVATE.lock().unwrap() = Some((server, dir));
        // SAFETY: `atexit` takes any function of this type, and `stop_private` lives as long as the program.
        unsafe { atexit(stop_private) };
        url
    })
    .await
    .clone()
}

static PRIVATE: Mutex<Option<(Server, tempfile::TempDir)>> = Mutex::new(None);

// Statics are not dropped, and the test harness has no hook for "after the last test".
unsafe extern "C" {
    fn atexit(callback: extern "C" fn()) -> i32;
}

extern "C" fn stop_private() {
    let Some((server, dir)) = PRIVATE.lock().ok().and_then(|mut private| private.take()) else { return };
    // A thread of its own: the main thread's locals, which a runtime needs, are gone by now.
    let stopped = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(server.close()).map_err(std::io::Error::other)
    });
    if let Ok(Err(error)) = stopped.join() {
        eprintln!("the tests' server was not stopped: {error}");
    }
    drop(dir);
}

/// A fresh database on the test server; its address.
pub async fn database() -> String {
    let server = server().await;
    let name = format!("spoken_test_{}", uuid::Uuid::new_v4().simple());
    let mut conn = PgConnection::connect(&server).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")))
        .execute(&mut conn)
        .await
        .unwrap();
    conn.close().await.unwrap();
    let mut url: url::Url = server.parse().unwrap();
    url.set_path(&name);
    url.into()
}

/// A migrated store in a database of its own.
pub async fn store() -> Store {
    let store = Store::connect(&database().await, &StoreOptions::default()).await.unwrap();
    store.migrate().await.unwrap();
    store
}

pub fn item(name: &str) -> Item {
    Item {
        media_id: MediaId::new("file", name),
        extractor: "file".into(),
        source_id: name.into(),
        locator: Locator::File(PathBuf::from(format!("/media/{name}.mp4"))),
        source: format!("/media/{name}.mp4"),
        title: name.into(),
        duration_ms: None,
    }
}

pub fn segment(start_ms: i64, end_ms: i64, language: &str, text: &str) -> Segment {
    Segment {
        start_ms,
        end_ms,
        text: text.into(),
        language: language.into(),
        avg_logprob: -0.25,
        no_speech_prob: 0.01,
        words: Vec::new(),
        speaker: None,
    }
}

pub fn model() -> EmbeddingModel {
    EmbeddingModel { model_id: "test/model-small".into(), dimension: 4 }
}

pub fn transcript(segments: Vec<Segment>) -> Transcript {
    Transcript {
        language: segments.first().map_or("en".into(), |s| s.language.clone()),
        duration_ms: segments.last().map_or(0, |s| s.end_ms),
        speech_ms: segments.iter().map(|s| s.end_ms - s.start_ms).sum(),
        segments,
        model: "micro".into(),
        dropped: Vec::new(),
        coverage: Default::default(),
    }
}

/// One passage of every `n` segments.
pub fn passages(segments: &[Segment], n: usize) -> Vec<Passage> {
    (0..segments.len())
        .step_by(n)
        .map(|first| {
            let of = &segments[first..segments.len().min(first + n)];
            Passage {
                start_ms: of[0].start_ms,
                end_ms: of[of.len() - 1].end_ms,
                text: of.iter().map(|s| s.text.as_str()).collect::<Vec<_>>().join(" "),
                language: of[0].language.clone(),
                first_segment: first,
                end_segment: first + of.len(),
            }
        })
        .collect()
}

pub async fn claim(store: &Store, item: &Item) -> Work {
    match store.claim(item.media_id, "worker").await.unwrap() {
        Claim::Work(work) => *work,
        other => panic!("not claimed: {other:?}"),
    }
}

async fn save(store: &Store, claimed: &Claimed, segments: Vec<Segment>) -> Result<(), SaveError> {
    let passages = passages(&segments, 2);
    let vectors = vec![vec![0.5; 4]; passages.len()];
    store.complete(claimed, &Metadata::default(), &transcript(segments), &passages, &vectors, &model()).await
}

async fn state(store: &Store, item: &Item) -> State {
    store.media(item.media_id).await.unwrap().unwrap().state
}

async fn count(store: &Store, table: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
        .fetch_one(store.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn many_processes_may_migrate_at_once() {
    let url = database().await;
    let runs = (0..8).map(|_| {
        let url = url.clone();
        tokio::spawn(async move {
            let store =
                Store::connect(&url, &StoreOptions { max_connections: 2, ..Default::default() }).await?;
            store.migrate().await.map(|m| m.applied)
        })
    });
    let mut applied = Vec::new();
    for run in runs.collect::<Vec<_>>() {
        applied.push(run.await.unwrap().unwrap());
    }
    applied.sort_unstable();
    assert!(applied[..7].iter().all(|n| *n == 0) && applied[7] > 0, "{applied:?}");
}

#[tokio::test]
async fn a_newer_or_foreign_schema_is_refused_and_the_lock_let_go() {
    let store = store().await;
    sqlx::query(
        "INSERT INTO spoken_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'later', true, '', 0)",
    )
    .execute(store.pool())
    .await
    .unwrap();
    for _ in 0..2 {
        let error = store.migrate().await.unwrap_err();
        assert!(matches!(error, StoreError::SchemaTooNew { found: 9999, .. }), "{error}");
    }
    sqlx::query("DELETE FROM spoken_migrations WHERE version = 9999").execute(store.pool()).await.unwrap();
    sqlx::query("UPDATE spoken_migrations SET checksum = '' WHERE version = 1")
        .execute(store.pool())
        .await
        .unwrap();
    let error = store.migrate().await.unwrap_err();
    assert!(matches!(error, StoreError::SchemaForeign { version: 1 }), "{error}");
}

#[tokio::test]
async fn a_library_of_the_first_release_is_brought_up_to_date() {
    let store = Store::connect(&database().await, &StoreOptions::default()).await.unwrap();
    // As the first release left it: its only migration, an item, a segment.
    let first = tempfile::tempdir().unwrap();
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    std::fs::copy(migrations.join("0001_library.sql"), first.path().join("0001_library.sql")).unwrap();
    let mut migrator = sqlx::migrate::Migrator::new(first.path()).await.unwrap();
    migrator.dangerous_set_table_name("spoken_migrations");
    sqlx::query("CREATE EXTENSION vector").execute(store.pool()).await.unwrap();
    migrator.run(store.pool()).await.unwrap();
    let item = item("a");
    for statement in [
        "INSERT INTO media (media_id, extractor, source_id, locator, source, title, state) VALUES
         ($1, 'file', 'a', '{\"kind\": \"file\", \"at\": \"/media/a.mp4\"}', '/media/a.mp4', 'a', 'done')",
        "INSERT INTO segments VALUES ($1, 'micro', 0, 0, 1000, 'Hello.', 'en', -0.25, 0.01)",
    ] {
        sqlx::query(statement).bind(item.media_id.0).execute(store.pool()).await.unwrap();
    }

    assert!(store.migrate().await.unwrap().applied > 0);
    assert_eq!(store.migrate().await.unwrap().applied, 0);
    let row = store.media(item.media_id).await.unwrap().unwrap();
    assert_eq!((row.state, row.coverage.as_ref(), row.dropped), (State::Done, None, 0));
    assert_eq!(row.flags(), []);
    let stored: Vec<Segment> = store.segments(item.media_id).try_collect().await.unwrap();
    assert_eq!(stored, [segment(0, 1000, "en", "Hello.")]);
    assert_eq!(store.dropped(item.media_id).await.unwrap(), []);
}

#[tokio::test]
async fn words_coverage_and_what_was_dropped_come_back_as_they_were() {
    let store = store().await;
    let item = item("a");
    store.upsert(&item, "x").await.unwrap();
    let word = |start_ms, end_ms, text: &str| Word { start_ms, end_ms, text: text.into(), prob: 0.875 };
    let mut segments =
        vec![segment(0, 2_000, "en", "\"Hello\", there."), segment(3_000, 4_000, "en", "Bye.")];
    segments[0].words = vec![word(100, 900, "\"Hello\","), word(900, 1_700, "there.")];
    let dropped = |n: i64| Dropped {
        start_ms: 10 * n,
        end_ms: 10 * n + 10,
        text: format!("Thanks for watching {n}"),
        language: "en".into(),
        reason: DropReason::Phantom,
    };
    let coverage = Coverage {
        transcribed_ms: 2_900,
        words: 3,
        gaps: vec![Gap { start_ms: 2_000, end_ms: 3_000 }],
        flags: vec![Flag::LowCoverage, Flag::MuchDropped],
    };
    let full = Transcript {
        dropped: (0..1_200).map(dropped).collect(),
        coverage: coverage.clone(),
        ..transcript(segments.clone())
    };
    let passages = passages(&segments, 2);
    let complete = async |transcript: &Transcript| {
        let claimed = claim(&store, &item).await.claimed;
        store
            .complete(&claimed, &Metadata::default(), transcript, &passages, &[vec![0.5; 4]], &model())
            .await
            .unwrap();
    };
    complete(&full).await;
    let row = store.media(item.media_id).await.unwrap().unwrap();
    assert_eq!((row.coverage.as_ref(), row.dropped), (Some(&coverage), 1_200));
    assert_eq!(row.flags(), coverage.flags);
    let stored: Vec<Segment> = store.segments(item.media_id).try_collect().await.unwrap();
    assert_eq!(stored, segments);
    let kept = store.dropped(item.media_id).await.unwrap();
    assert_eq!((kept.len(), &kept[999]), (1_000, &dropped(999)));
    assert_eq!(count(&store, "media WHERE flags @> '{low_coverage,much_dropped}'").await, 1);
    assert_eq!(count(&store, "segments WHERE words IS NULL").await, 1);

    // Done once more, and better: nothing of before is left.
    sqlx::query("UPDATE media SET state = 'queued'").execute(store.pool()).await.unwrap();
    complete(&transcript(segments)).await;
    let row = store.media(item.media_id).await.unwrap().unwrap();
    assert_eq!((row.coverage, row.dropped), (Some(Coverage::default()), 0));
    assert_eq!(store.dropped(item.media_id).await.unwrap(), []);
    assert_eq!(count(&store, "media WHERE flags = '{}' AND dropped IS NULL").await, 1);
}

#[tokio::test]
async fn a_user_without_rights_is_told_so() {
    let url = database().await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let role = format!("spoken_test_{}", uuid::Uuid::new_v4().simple());
    sqlx::query(AssertSqlSafe(format!("CREATE ROLE {role} LOGIN PASSWORD 'x'")))
        .execute(&mut admin)
        .await
        .unwrap();
    let mut poor: url::Url = url.parse().unwrap();
    poor.set_username(&role).unwrap();
    poor.set_password(Some("x")).unwrap();
    let store = Store::connect(poor.as_str(), &StoreOptions::default()).await.unwrap();
    let error = store.migrate().await.unwrap_err();
    assert!(matches!(error, StoreError::PgvectorPermission), "{error}");
    sqlx::query("CREATE EXTENSION vector").execute(&mut admin).await.unwrap();
    let error = store.migrate().await.unwrap_err();
    assert!(matches!(error, StoreError::Permission(_)), "{error}");
}

#[tokio::test]
async fn a_missing_database_is_named() {
    let mut url: url::Url = database().await.parse().unwrap();
    url.set_path("no_such_database");
    let error = Store::connect(url.as_str(), &StoreOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("no_such_database"), "{error}");
}

#[tokio::test]
async fn an_item_passes_from_found_to_done_and_is_never_reset() {
    let store = store().await;
    let item = item("a");
    assert_eq!(store.upsert(&item, "list.txt").await.unwrap(), Upserted::New);
    assert_eq!(
        store.upsert(&item, "other.txt").await.unwrap(),
        Upserted::Known { state: State::Queued, class: None }
    );
    let work = claim(&store, &item).await;
    assert_eq!((work.attempt, work.crashes, &work.item), (1, 0, &item));
    assert_eq!(state(&store, &item).await, State::Active);

    let segments = vec![
        segment(120, 1500, "en", "Hello\0 there."),
        segment(1500, 2600, "es", "Canción número uno."),
        segment(9000, 9000, "xx", ""),
    ];
    let passages = passages(&segments, 2);
    let vectors = vec![vec![1.0, 0.0, -1.0, 0.1], vec![0.0, 1.0, 0.0, 0.0]];
    let metadata = Metadata {
        title: Some("T\0".repeat(100_000)),
        webpage_url: Some("https://example.org/w".into()),
        channel: Some("Ch".into()),
        published_at: Some(1_700_000_000),
        duration_ms: Some(10_000),
    };
    let transcript = transcript(segments.clone());
    for _ in 0..2 {
        // The second time as after an answer that got lost: it changes nothing and succeeds.
        store.complete(&work.claimed, &metadata, &transcript, &passages, &vectors, &model()).await.unwrap();
    }
    let row = store.media(item.media_id).await.unwrap().unwrap();
    assert_eq!((row.state, row.segments, row.language.as_deref()), (State::Done, Some(3), Some("en")));
    assert_eq!(row.title.chars().count(), 200_000);
    assert_eq!((row.address(), row.source.as_str()), ("https://example.org/w", "/media/a.mp4"));
    assert_eq!(row.published_at.unwrap().timestamp(), 1_700_000_000);
    assert_eq!(row.locator, item.locator);
    assert!(row.finished_at >= row.started_at);

    let stored: Vec<Segment> = store.segments(item.media_id).try_collect().await.unwrap();
    assert_eq!(stored[0].text, "Hello\u{fffd} there.");
    assert_eq!(stored[1..], segments[1..]);
    let (text, first, end): (String, i32, i32) =
        sqlx::query_as("SELECT text, first_segment, end_segment FROM passages WHERE seq = 0")
            .fetch_one(store.pool())
            .await
            .unwrap();
    assert_eq!((text.as_str(), first, end), ("Hello\u{fffd} there. Canción número uno.", 0, 2));
    let vector: String =
        sqlx::query_scalar("SELECT embedding::text FROM embeddings_test_model_small_4 WHERE seq = 0")
            .fetch_one(store.pool())
            .await
            .unwrap();
    assert_eq!(vector, "[1,0,-1,0.099975586]");

    assert_eq!(store.claim(item.media_id, "w").await.unwrap(), Claim::AlreadyDone);
    assert_eq!(
        store.upsert(&item, "list.txt").await.unwrap(),
        Upserted::Known { state: State::Done, class: None }
    );
    assert_eq!(store.claim(MediaId::new("file", "nothing"), "w").await.unwrap(), Claim::Gone);
    assert_eq!(count(&store, "media_sources").await, 3);
    assert_eq!(store.retry(&Selection::Failed).await.unwrap(), []);
    assert_eq!(store.retry(&Selection::Ids(vec![item.media_id])).await.unwrap(), []);
}

#[tokio::test]
async fn a_worker_that_lost_its_item_changes_nothing() {
    let store = store().await;
    let item = item("a");
    store.upsert(&item, "x").await.unwrap();
    let zombie = claim(&store, &item).await;
    let heir = claim(&store, &item).await;
    assert_eq!((heir.attempt, heir.crashes), (1, 0));
    let failure = Failure::new(FailureClass::Network, "late");
    let lost =
        |result: Result<(), SaveError>| assert!(matches!(result, Err(SaveError::LeaseLost)), "{result:?}");
    let words = || vec![segment(0, 1, "en", "zombie")];
    lost(save(&store, &zombie.claimed, words()).await);
    lost(store.fail(&zombie.claimed, &failure).await);
    lost(store.release(&zombie.claimed).await);
    lost(store.delay(&zombie.claimed, &failure, Duration::ZERO, Attempt::Counts).await.map(drop));
    assert_eq!(state(&store, &item).await, State::Active);
    save(&store, &heir.claimed, vec![segment(0, 1, "en", "heir")]).await.unwrap();
    lost(save(&store, &zombie.claimed, words()).await);
    let stored: Vec<Segment> = store.segments(item.media_id).try_collect().await.unwrap();
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].text, "heir");
}

#[tokio::test]
async fn an_item_whose_place_cannot_be_read_is_given_up_once() {
    let store = store().await;
    let item = item("a");
    store.upsert(&item, "x").await.unwrap();
    sqlx::query("UPDATE media SET locator = '{\"kind\": \"torrent\", \"at\": \"magnet:?key=secret\"}'")
        .execute(store.pool())
        .await
        .unwrap();
    match store.claim(item.media_id, "w").await.unwrap() {
        Claim::Unreadable { title, failure, .. } => {
            assert_eq!((title, failure.class), (item.title.clone(), FailureClass::Setup));
            assert!(failure.message.contains("torrent") && !failure.message.contains("secret"), "{failure}");
            assert!(failure.remedy.unwrap().contains("update"));
        }
        other => panic!("{other:?}"),
    }
    let state: String = sqlx::query_scalar("SELECT state FROM media").fetch_one(store.pool()).await.unwrap();
    assert_eq!(state, "failed");
    assert_eq!(store.claim(item.media_id, "w").await.unwrap(), Claim::GivenUp);
}

#[tokio::test]
async fn one_of_many_that_save_at_once_wins() {
    let store = store().await;
    let item = item("a");
    store.upsert(&item, "x").await.unwrap();
    let mut claims = Vec::new();
    for _ in 0..8 {
        claims.push(claim(&store, &item).await.claimed);
    }
    let runs: Vec<_> = claims
        .into_iter()
        .map(|claimed| {
            let store = store.clone();
            tokio::spawn(async move {
                let words = (0..100).map(|i| segment(i, i + 1, "en", &format!("{} word {i}", claimed.fence)));
                (claimed.fence, save(&store, &claimed, words.collect()).await)
            })
        })
        .collect();
    let mut won = Vec::new();
    for run in runs {
        let (fence, result) = run.await.unwrap();
        if result.is_ok() {
            won.push(fence);
        }
    }
    assert_eq!(won, [8]);
    assert_eq!(count(&store, "segments").await, 100);
    assert_eq!(count(&store, "segments WHERE text LIKE '8 word%'").await, 100);
}

#[tokio::test]
async fn results_that_contradict_each_other_are_refused_before_anything_is_written() {
    let store = store().await;
    let item = item("a");
    store.upsert(&item, "x").await.unwrap();
    let claimed = claim(&store, &item).await.claimed;
    let transcript = transcript(vec![segment(0, 1, "en", "word")]);
    let fits = passages(&transcript.segments, 1);
    let beyond = vec![Passage { end_segment: 2, ..fits[0].clone() }];
    for (passages, vectors) in [
        (&fits, vec![]),
        (&fits, vec![vec![1.0; 3]]),
        (&fits, vec![vec![f32::NAN; 4]]),
        (&fits, vec![vec![1e6; 4]]),
        (&beyond, vec![vec![1.0; 4]]),
    ] {
        let result =
            store.complete(&claimed, &Metadata::default(), &transcript, passages, &vectors, &model()).await;
        assert!(matches!(result, Err(SaveError::Invalid(_))), "{result:?}");
    }
    assert_eq!(state(&store, &item).await, State::Active);
}

#[tokio::test]
async fn a_failed_copy_leaves_nothing_behind_and_the_connection_usable() {
    let store = store().await;
    let item = item("a");
    store.upsert(&item, "x").await.unwrap();
    let claimed = claim(&store, &item).await.claimed;
    sqlx::query("ALTER TABLE passages ADD CONSTRAINT no CHECK (text <> 'no')")
        .execute(store.pool())
        .await
        .unwrap();
    let result = save(&store, &claimed, vec![segment(0, 1, "en", "no")]).await;
    assert!(matches!(result, Err(SaveError::Database(_))), "{result:?}");
    assert_eq!(state(&store, &item).await, State::Active);
    assert_eq!(count(&store, "segments").await, 0);
    save(&store, &claimed, vec![segment(0, 1, "en", "yes")]).await.unwrap();
    assert_eq!(count(&store, "segments").await, 1);
}

#[tokio::test]
async fn failures_delays_and_releases_are_kept_apart() {
    let store = store().await;
    let item = item("a");
    store.upsert(&item, "x").await.unwrap();
    let network = Failure::new(FailureClass::Network, "connection \0 reset").with_remedy("wait");

    let first = claim(&store, &item).await;
    store.release(&first.claimed).await.unwrap();
    store.release(&first.claimed).await.unwrap();
    let second = claim(&store, &item).await;
    assert_eq!(second.attempt, 1, "a released attempt is not consumed");
    let due =
        store.delay(&second.claimed, &network, Duration::from_secs(3600), Attempt::Counts).await.unwrap();
    let row = store.media(item.media_id).await.unwrap().unwrap();
    assert_eq!(
        (row.state, row.retry_at, row.error.as_deref()),
        (State::Queued, Some(due), Some("connection \u{fffd} reset"))
    );
    assert!((due - row.updated_at).num_seconds() == 3600);
    let third = claim(&store, &item).await;
    assert_eq!(third.attempt, 2);
    store.delay(&third.claimed, &network, Duration::ZERO, Attempt::Free).await.unwrap();
    let fourth = claim(&store, &item).await;
    assert_eq!(fourth.attempt, 2, "a free delay is not consumed");
    store.fail(&fourth.claimed, &Failure::new(FailureClass::NotFound, "gone")).await.unwrap();

    let row = store.media(item.media_id).await.unwrap().unwrap();
    assert_eq!((row.state, row.error_class, row.remedy), (State::Failed, Some(FailureClass::NotFound), None));
    assert_eq!(store.claim(item.media_id, "w").await.unwrap(), Claim::GivenUp);
    assert_eq!(
        store.upsert(&item, "x").await.unwrap(),
        Upserted::Known { state: State::Failed, class: Some(FailureClass::NotFound) }
    );

    assert_eq!(store.retry(&Selection::FailedWith(FailureClass::Drm)).await.unwrap(), []);
    let again = store.retry(&Selection::Failed).await.unwrap();
    assert_eq!((again.len(), again[0].generation), (1, 1));
    assert_eq!(store.retry(&Selection::Failed).await.unwrap(), []);
    let fifth = claim(&store, &item).await;
    assert_eq!((fifth.attempt, fifth.crashes), (1, 0));
    assert!(fifth.claimed.fence > fourth.claimed.fence);
    assert_eq!(store.unfinished().await.unwrap()[0].worker.as_deref(), Some("worker"));
}

#[tokio::test]
async fn a_batch_answers_in_order_and_counts_twins_once() {
    let store = store().await;
    let mut items: Vec<Item> = (0..1200).map(|i| item(&format!("n{i}"))).collect();
    items.insert(600, items[0].clone());
    items.insert(1, items[0].clone());
    let found = store.upsert_many(&items, "list").await.unwrap();
    assert_eq!(found.len(), items.len());
    assert_eq!(found.iter().filter(|f| **f == Upserted::New).count(), 1200);
    assert_eq!((found[0], found[1]), (Upserted::New, Upserted::Known { state: State::Queued, class: None }));
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.queued, counts.done), (1200, 0));
    assert_eq!(store.unfinished().await.unwrap().len(), 1200);

    let mut seen = Vec::new();
    let mut filter = ItemFilter { limit: Some(500), state: Some(State::Queued), after: None };
    loop {
        let page: Vec<_> = store.items(&filter).try_collect().await.unwrap();
        let Some(last) = page.last() else { break };
        filter.after = Some((last.discovered_at, last.media_id));
        seen.extend(page.iter().map(|row| row.media_id));
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 1200);
}

#[tokio::test]
async fn concurrent_discovery_of_the_same_items_adds_each_once() {
    let store = store().await;
    let runs: Vec<_> = (0..6)
        .map(|run| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut items: Vec<Item> = (0..300).map(|i| item(&format!("n{i}"))).collect();
                items.rotate_left(run * 47);
                if run % 2 == 0 {
                    items.reverse();
                }
                store.upsert_many(&items, &format!("list {run}")).await
            })
        })
        .collect();
    let mut new = 0;
    for run in runs {
        new += run.await.unwrap().unwrap().iter().filter(|f| **f == Upserted::New).count();
    }
    assert_eq!(new, 300);
    assert_eq!(count(&store, "media_sources").await, 300 * 7);
}

#[tokio::test]
async fn an_unreadable_path_makes_room_once_its_content_is_known() {
    let store = store().await;
    let path = "/media/a.mp4";
    let unread = Item {
        media_id: MediaId::new("path", path),
        extractor: "path".into(),
        source_id: path.into(),
        ..item("a")
    };
    let failure = Failure::new(FailureClass::Unreadable, "permission denied");
    assert_eq!(store.record_failure(&unread, &failure, "/media").await.unwrap(), Upserted::New);
    assert_eq!(store.counts().await.unwrap().failed, 1);
    let again = store.record_failure(&unread, &failure, "/media").await.unwrap();
    assert_eq!(again, Upserted::Known { state: State::Failed, class: Some(FailureClass::Unreadable) });
    assert_eq!(store.upsert(&item("a"), "/media").await.unwrap(), Upserted::New);
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.failed, counts.queued), (0, 1));
    assert_eq!(count(&store, "media_sources").await, 2);
}

#[tokio::test]
async fn a_failure_at_discovery_does_not_touch_what_is_worked_on_or_done() {
    let store = store().await;
    let item = item("a");
    store.upsert(&item, "x").await.unwrap();
    let work = claim(&store, &item).await;
    let failure = Failure::new(FailureClass::Private, "private now");
    store.record_failure(&item, &failure, "x").await.unwrap();
    assert_eq!(state(&store, &item).await, State::Active);
    save(&store, &work.claimed, vec![segment(0, 1, "en", "w")]).await.unwrap();
    store.record_failure(&item, &failure, "x").await.unwrap();
    let row = store.media(item.media_id).await.unwrap().unwrap();
    assert_eq!((row.state, row.error), (State::Done, None));
}

#[tokio::test]
async fn a_file_that_moved_is_found_at_its_new_place() {
    let store = store().await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = folder.path().join(name);
        Item {
            locator: Locator::File(path.clone()),
            source: path.display().to_string(),
            ..item("same content")
        }
    };
    std::fs::write(folder.path().join("a"), "x").unwrap();
    store.upsert(&at("a"), "x").await.unwrap();
    std::fs::write(folder.path().join("b"), "x").unwrap();
    store.upsert(&at("b"), "x").await.unwrap();
    let id = at("a").media_id;
    assert_eq!(store.media(id).await.unwrap().unwrap().locator, at("a").locator, "a copy changes nothing");
    std::fs::remove_file(folder.path().join("a")).unwrap();
    store.upsert(&at("b"), "x").await.unwrap();
    let row = store.media(id).await.unwrap().unwrap();
    assert_eq!((row.locator, row.source), (at("b").locator, at("b").source));
}

#[tokio::test]
async fn paths_need_not_be_utf8() {
    use std::os::unix::ffi::OsStringExt;
    let store = store().await;
    let path = PathBuf::from(std::ffi::OsString::from_vec(b"/media/\xff\xfe.mp4".to_vec()));
    let odd = Item { locator: Locator::File(path.clone()), ..item("odd") };
    store.upsert(&odd, "x").await.unwrap();
    assert_eq!(claim(&store, &odd).await.item.locator, odd.locator);
    store.remember_file(&path, 10, 20, odd.media_id).await.unwrap();
    store.remember_file(&path, 11, -20, odd.media_id).await.unwrap();
    assert_eq!(store.known_file(&path, 11, -20).await.unwrap(), Some(odd.media_id));
    assert_eq!(store.known_file(&path, 10, 20).await.unwrap(), None);
    assert_eq!(store.known_file(Path::new("/media/\u{fffd}\u{fffd}.mp4"), 11, -20).await.unwrap(), None);
}

#[tokio::test]
async fn a_person_finds_an_item_by_whatever_they_have() {
    let store = store().await;
    let page: url::Url = "https://www.youtube.com/watch?v=dQw4w9WgXcQ".parse().unwrap();
    let video = Item {
        media_id: MediaId::new("youtube", "dQw4w9WgXcQ"),
        extractor: "youtube".into(),
        source_id: "dQw4w9WgXcQ".into(),
        locator: Locator::Page(page.clone()),
        source: page.into(),
        title: "Una Canción 100% \"rara\"_".into(),
        duration_ms: Some(1000),
    };
    let long = format!("https://example.org/{}", "x".repeat(9000));
    let other = Item { source: long.clone(), title: "Another cancion".into(), ..item("b") };
    store.upsert(&video, "https://www.youtube.com/playlist?list=PL1").await.unwrap();
    store.upsert(&other, "list.txt").await.unwrap();
    let found = async |what: &str| -> Vec<MediaId> {
        store.find(what).await.unwrap().iter().map(|row| row.media_id).collect()
    };
    let id = video.media_id.to_string();
    for what in [
        &id,
        &id.to_uppercase(),
        &id[..8],
        &id[..13],
        "dQw4w9WgXcQ",
        &video.source,
        "RARA",
        "100%",
        "\"rara\"_",
    ] {
        assert_eq!(found(what).await, [video.media_id], "{what}");
    }
    assert_eq!(found("https://www.youtube.com/playlist?list=PL1").await, [video.media_id]);
    assert_eq!(found(&long).await, [other.media_id]);
    assert_eq!(found("cancion").await.len(), 2);
    assert_eq!(found("CANCIÓN").await.len(), 2);
    for nothing in ["", "  ", "%", "'; DROP TABLE media; --", "0000", "\0"] {
        assert_eq!(
            found(nothing).await,
            if nothing == "%" { vec![video.media_id] } else { vec![] },
            "{nothing:?}"
        );
    }
}

#[tokio::test]
async fn vectors_of_a_former_model_go_when_passages_are_replaced() {
    let store = store().await;
    let item = item("a");
    store.upsert(&item, "x").await.unwrap();
    let first = claim(&store, &item).await.claimed;
    save(
        &store,
        &first,
        vec![segment(0, 1, "en", "one"), segment(1, 2, "en", "two"), segment(2, 3, "en", "three")],
    )
    .await
    .unwrap();
    sqlx::query("UPDATE media SET state = 'queued'").execute(store.pool()).await.unwrap();
    let second = claim(&store, &item).await.claimed;
    let segments = vec![segment(0, 1, "en", "new")];
    let passages = passages(&segments, 1);
    // A name that makes the same identifier, and another dimension.
    for (model_id, dimension) in [("test_model-small", 4), ("test/model-small", 6)] {
        sqlx::query("UPDATE media SET state = 'active'").execute(store.pool()).await.unwrap();
        let model = EmbeddingModel { model_id: model_id.into(), dimension };
        store
            .complete(
                &second,
                &Metadata::default(),
                &transcript(segments.clone()),
                &passages,
                &[vec![0.1; dimension]],
                &model,
            )
            .await
            .unwrap();
    }
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT table_name FROM embedding_models ORDER BY created_at")
            .fetch_all(store.pool())
            .await
            .unwrap();
    assert_eq!(tables.len(), 3);
    let mut rows = Vec::new();
    for table in &tables {
        rows.push(count(&store, table).await);
    }
    assert_eq!(rows, [0, 0, 1]);
    assert_eq!(count(&store, "segments").await, 1);
}

#[tokio::test]
async fn many_workers_may_meet_a_new_model_and_language_at_once() {
    let store = store().await;
    let items: Vec<Item> = (0..12).map(|i| item(&format!("n{i}"))).collect();
    store.upsert_many(&items, "x").await.unwrap();
    let runs: Vec<_> = items
        .into_iter()
        .map(|item| {
            let store = store.clone();
            tokio::spawn(async move {
                let claimed = claim(&store, &item).await.claimed;
                save(&store, &claimed, vec![segment(0, 1, "sv", "hej"), segment(1, 2, "de", "hallo")]).await
            })
        })
        .collect();
    for run in runs {
        run.await.unwrap().unwrap();
    }
    assert_eq!(store.counts().await.unwrap().done, 12);
    let mut languages: Vec<String> =
        sqlx::query_scalar("SELECT language FROM languages").fetch_all(store.pool()).await.unwrap();
    languages.sort_unstable();
    assert_eq!(languages, ["de", "sv"]);
}

#[tokio::test]
async fn broken_connections_are_mended() {
    let url = database().await;
    let store = Store::connect(&url, &StoreOptions::default()).await.unwrap();
    store.migrate().await.unwrap();
    let items: Vec<Item> = (0..20).map(|i| item(&format!("n{i}"))).collect();
    store.upsert_many(&items, "x").await.unwrap();
    // Every connection is cut again and again while twenty workers claim, save and are done.
    let breaker = tokio::spawn(async move {
        let mut conn = PgConnection::connect(&url).await.unwrap();
        for _ in 0..8 {
            sqlx::query(
                "SELECT pg_terminate_backend(pid), pg_sleep(0.02) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .execute(&mut conn)
            .await
            .unwrap();
        }
    });
    let runs: Vec<_> = items
        .iter()
        .cloned()
        .map(|item| {
            let store = store.clone();
            tokio::spawn(async move {
                let claimed = claim(&store, &item).await.claimed;
                let words = (0..200).map(|i| segment(i, i + 1, "en", &format!("word {i}")));
                save(&store, &claimed, words.collect()).await
            })
        })
        .collect();
    for run in runs {
        run.await.unwrap().unwrap();
    }
    breaker.await.unwrap();
    assert_eq!(store.counts().await.unwrap().done, 20);
    assert_eq!(count(&store, "segments").await, 20 * 200);
    assert_eq!(count(&store, "embeddings_test_model_small_4").await, 20 * 100);
}

//! Keeping house: another embedding model, doubtful transcripts done again, items removed and kept for a time.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;
use spoken::embed::{EmbedOptions, Embedder};
use spoken::media::{Item, MediaId, Metadata, Passage, Segment, Transcript};
use spoken::store::{
    Added, Condition, EmbeddingModel, Keep, Results, SaveError, Selection, Store, StoreOptions, Switched,
    Upgraded, Upserted, Which,
};
use sqlx::AssertSqlSafe;

use super::cli::{Library, Ran, Working, embedding_model, repository, speeches, until};
use super::postgres::tools_dir;
use super::store::{claim, database, item, model, passages, segment, store, transcript};

fn other() -> EmbeddingModel {
    EmbeddingModel { model_id: "test/model-other".into(), dimension: 6 }
}

fn said(lines: &[&str]) -> Vec<Segment> {
    (0..).zip(lines).map(|(i, line)| segment(i * 4000, i * 4000 + 3500, "en", line)).collect()
}

/// Stores an item with a passage a segment, its vectors all alike.
async fn put(
    store: &Store,
    item: &Item,
    segments: Vec<Segment>,
    model: &EmbeddingModel,
) -> Result<(), SaveError> {
    store.upsert(item, "test").await.unwrap();
    let work = claim(store, item).await;
    let passages = passages(&segments, 1);
    let vectors = vec![vec![0.5; model.dimension]; passages.len()];
    let (metadata, transcript) = (Metadata::default(), transcript(segments));
    let results = Results {
        metadata: &metadata,
        transcript: &transcript,
        passages: &passages,
        vectors: &vectors,
        embedding: model,
    };
    store.complete_answering(&work.claimed, &results).await
}

async fn count(store: &Store, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(store.pool()).await.unwrap()
}

/// Fills what lacks vectors of `model`, an item's passages in two batches.
async fn fill(store: &Store, model: &EmbeddingModel) {
    for lacking in store.lacking(&model.model_id, None, 100).await.unwrap() {
        let table = store.ensure_embedding_model(model).await.unwrap();
        loop {
            let bare = store.bare_passages(&lacking, &table, 2).await.unwrap();
            if bare.is_empty() {
                break;
            }
            let vectors: Vec<_> = bare.iter().map(|b| (b.seq, vec![0.4; model.dimension])).collect();
            let added = store.add_vectors(&lacking, model, &vectors).await.unwrap();
            assert_eq!(added, Added::Written(bare.len() as u64));
            // The same again changes nothing.
            let again = store.add_vectors(&lacking, model, &vectors).await.unwrap();
            assert_eq!(again, Added::Written(0));
        }
        assert!(store.set_embedded(&lacking, model).await.unwrap());
    }
}

#[tokio::test]
async fn another_model_answers_as_soon_as_it_has_all() {
    let store = store().await;
    let (a, b, c) = (item("a"), item("b"), item("c"));
    assert!(store.answering().await.unwrap().is_none());
    put(&store, &a, said(&["one", "two", "three"]), &model()).await.unwrap();
    put(&store, &b, said(&["four"]), &model()).await.unwrap();
    assert_eq!(store.answering().await.unwrap().unwrap().model, model());

    store.ensure_embedding_model(&other()).await.unwrap();
    assert_eq!(store.switch(&other()).await.unwrap(), Switched::Lacks(2));
    let stale = store.lacking(&other().model_id, None, 1).await.unwrap().remove(0);
    // Done again meanwhile: what was computed of its former passages is refused.
    store.retry(&Selection::Again(vec![stale.media_id])).await.unwrap();
    let again = if stale.media_id == a.media_id { &a } else { &b };
    put(&store, again, said(&["five", "six"]), &model()).await.unwrap();
    let vectors = vec![(0, vec![0.1; 6])];
    assert_eq!(store.add_vectors(&stale, &other(), &vectors).await.unwrap(), Added::Replaced);
    assert!(!store.set_embedded(&stale, &other()).await.unwrap());

    fill(&store, &other()).await;
    // One that came meanwhile.
    put(&store, &c, said(&["seven"]), &model()).await.unwrap();
    assert_eq!(store.switch(&other()).await.unwrap(), Switched::Lacks(1));
    assert_eq!(store.answering().await.unwrap().unwrap().model, model());
    fill(&store, &other()).await;
    assert_eq!(store.switch(&other()).await.unwrap(), Switched::Yes);
    assert_eq!(store.switch(&other()).await.unwrap(), Switched::Already);
    assert_eq!(store.answering().await.unwrap().unwrap().model, other());
    store.name_answering().await.unwrap();
    assert_eq!(
        count(&store, "SELECT count(*) FROM media WHERE embedding_model <> 'test/model-other'").await,
        0
    );
    assert_eq!(
        count(&store, "SELECT count(*) FROM media WHERE NOT 'test/model-small' = ANY(embedded_also)").await,
        0
    );

    // Who still has the former model is told, and has changed nothing.
    let d = item("d");
    let told = put(&store, &d, said(&["eight"]), &model()).await;
    assert!(
        matches!(&told, Err(SaveError::OtherModel { answers, .. }) if *answers == other().model_id),
        "{told:?}"
    );
    assert_eq!(count(&store, "SELECT count(*) FROM media WHERE state = 'done'").await, 3);
    put(&store, &d, said(&["eight"]), &other()).await.unwrap();

    let models = store.embedding_models().await.unwrap();
    let states: Vec<_> = models.iter().map(|m| (m.model_id.as_str(), m.answers, m.items, m.of)).collect();
    assert_eq!(states, [("test/model-other", true, 4, 4), ("test/model-small", false, 3, 4)]);
    assert!(!store.drop_embedding_model(&other().model_id, 6).await.unwrap(), "it answers");
    assert!(store.drop_embedding_model(&model().model_id, 4).await.unwrap());
    let models = store.embedding_models().await.unwrap();
    assert_eq!((models.len(), models[0].items, models[0].of), (1, 4, 4));
    assert_eq!(
        count(&store, "SELECT count(*) FROM media WHERE embedding_model <> 'test/model-other'").await,
        0
    );
    // A table that was dropped under the feet of a process that knows it is made anew.
    store.ensure_embedding_model(&model()).await.unwrap();
    fill(&store, &model()).await;
    assert_eq!(store.switch(&model()).await.unwrap(), Switched::Yes);
}

#[tokio::test]
async fn a_table_that_is_being_filled_is_not_dropped() {
    let store = store().await;
    put(&store, &item("a"), said(&["one"]), &model()).await.unwrap();
    let table = store.ensure_embedding_model(&other()).await.unwrap();
    let (mut mine, mut theirs) =
        (store.item_locks(table.as_str()).await.unwrap(), store.item_locks(table.as_str()).await.unwrap());
    let a = item("a").media_id;
    assert!(mine.take(a).await.unwrap() && !theirs.take(a).await.unwrap());
    mine.leave(a).await.unwrap();
    assert!(theirs.take(a).await.unwrap());
    assert!(!store.drop_embedding_model(&other().model_id, 6).await.unwrap());
    mine.close().await;
    theirs.close().await;
    assert!(store.drop_embedding_model(&other().model_id, 6).await.unwrap());
}

#[tokio::test]
async fn what_is_doubtful_is_found_and_replaced_while_it_is_done() {
    let store = store().await;
    let mut segments = said(&["clear words", "mumbled words", "words again"]);
    segments[1].avg_logprob = -1.2;
    segments[1].language = "es".into();
    put(&store, &item("a"), segments.clone(), &model()).await.unwrap();
    put(&store, &item("b"), said(&["all clear"]), &model()).await.unwrap();
    let condition: Condition = "avg_logprob < -0.8 and language = ES and title = a".parse().unwrap();
    let doubtful = store.doubtful(&condition, "large", false).await.unwrap();
    assert_eq!(doubtful.len(), 1);
    assert_eq!((doubtful[0].doubted, doubtful[0].segments, doubtful[0].doubted_ms), (1, 3, 3_500));
    for none in
        ["avg_logprob < -2", "avg_logprob < -0.8 and language = en", "title ~ nothing", "flag = low_coverage"]
    {
        assert!(store.doubtful(&none.parse().unwrap(), "large", false).await.unwrap().is_empty(), "{none}");
    }
    assert_eq!(store.doubtful(&"title ~ A".parse().unwrap(), "large", false).await.unwrap().len(), 1);
    assert!(store.doubtful(&condition, "micro", false).await.unwrap().is_empty(), "it was that model's");

    let former = doubtful[0].former;
    let better =
        Transcript { model: "micro+large".into(), ..transcript(said(&["clear words", "spoken words"])) };
    let of = passages(&better.segments, 1);
    let vectors = vec![vec![0.3; 4]; of.len()];
    let (metadata, embedding) = (Metadata::default(), model());
    let results = Results {
        metadata: &metadata,
        transcript: &better,
        passages: &of,
        vectors: &vectors,
        embedding: &embedding,
    };
    let upgraded = Upgraded { model: "large".into(), from_model: "micro".into(), kept: 1 };
    store.replace(&former, &results, &upgraded).await.unwrap();
    // An answer that got lost: the same again is no error, and writes nothing twice.
    store.replace(&former, &results, &upgraded).await.unwrap();
    assert!(!store.is_stored(&former).await.unwrap());
    let b = item("a").media_id;
    let of_a = format!("SELECT count(*) FROM segments WHERE media_id = '{b}'");
    assert_eq!(count(&store, &of_a).await, 2);
    assert!(
        store
            .doubtful(&"avg_logprob < 0".parse().unwrap(), "large", false)
            .await
            .unwrap()
            .iter()
            .all(|d| d.item.media_id != b)
    );
    assert_eq!(store.doubtful(&"avg_logprob < 0".parse().unwrap(), "large", true).await.unwrap().len(), 2);

    // Somebody asked for it to be done again: that is not overtaken.
    let now = store.doubtful(&"title = a".parse().unwrap(), "huge", false).await.unwrap().remove(0);
    store.retry(&Selection::Again(vec![b])).await.unwrap();
    let upgraded = Upgraded { model: "huge".into(), ..upgraded };
    let other = Transcript { model: "huge".into(), ..better.clone() };
    let results = Results { transcript: &other, ..results };
    let refused = store.replace(&now.former, &results, &upgraded).await;
    assert!(matches!(refused, Err(SaveError::LeaseLost)), "{refused:?}");
}

#[tokio::test]
async fn what_was_removed_stays_away_until_it_is_forgotten() {
    let store = store().await;
    let (a, b) = (item("a"), item("b"));
    put(&store, &a, said(&["one"]), &model()).await.unwrap();
    store.upsert(&b, "test").await.unwrap();
    let work = claim(&store, &b).await;
    let gone = store.remove(&[a.media_id, b.media_id], false, None).await.unwrap();
    assert_eq!(gone, [a.media_id], "the other is being worked on");
    for table in ["segments", "passages", "embeddings_test_model_small_4"] {
        assert_eq!(count(&store, &format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    assert_eq!(store.upsert(&a, "test").await.unwrap(), Upserted::Removed);
    assert_eq!(store.removed().await.unwrap().len(), 1);
    assert_eq!(store.forget_removed(&[a.media_id]).await.unwrap(), 1);
    assert_eq!(store.upsert(&a, "test").await.unwrap(), Upserted::New);
    store.release(&work.claimed).await.unwrap();
    assert_eq!(store.remove(&[b.media_id], true, None).await.unwrap(), [b.media_id]);
    assert_eq!(store.upsert(&b, "test").await.unwrap(), Upserted::New);
    let which = Which { channel: Some("nobody".into()), ..Which::default() };
    assert!(store.removable(&which).await.unwrap().is_empty());
    assert_eq!(store.removable(&Which::default()).await.unwrap().len(), 2);
}

/// A subscribed source with items that were published so many days ago.
async fn subscribed(store: &Store, name: &str, keep: (Option<i32>, Option<i32>), days: &[i32]) {
    let address = format!("https://example.org/{name}");
    sqlx::query(
        "INSERT INTO sources (source_id, name, source, every_s, keep_last, keep_days) VALUES ($1, $2, $3, 3600, $4, $5)",
    )
    .bind(spoken::store::sources::source_id(&address))
    .bind(name)
    .bind(&address)
    .bind(keep.0)
    .bind(keep.1)
    .execute(store.pool())
    .await
    .unwrap();
    for day in days {
        let item = item(&format!("{name}-{day}"));
        if store.states(&[item.media_id]).await.unwrap().is_empty() {
            put(store, &item, said(&["one"]), &model()).await.unwrap();
        }
        sqlx::query("UPDATE media SET published_at = now() - make_interval(days => $2) WHERE media_id = $1")
            .bind(item.media_id.0)
            .bind(*day)
            .execute(store.pool())
            .await
            .unwrap();
        // Found through the source, and nowhere else.
        sqlx::query("DELETE FROM media_sources WHERE media_id = $1")
            .bind(item.media_id.0)
            .execute(store.pool())
            .await
            .unwrap();
        entry(store, &address, item.media_id).await;
    }
}

async fn entry(store: &Store, address: &str, media_id: MediaId) {
    sqlx::query(
        "INSERT INTO source_entries (media_id, source_id, item_id, verdict, title) VALUES ($1, $2, $1, 'taken', 'x')",
    )
    .bind(media_id.0)
    .bind(spoken::store::sources::source_id(address))
    .execute(store.pool())
    .await
    .unwrap();
}

#[tokio::test]
async fn items_of_sources_are_kept_as_long_as_the_rules_say() {
    let store = store().await;
    subscribed(&store, "news", (None, Some(30)), &[1, 29, 31, 90]).await;
    subscribed(&store, "show", (Some(2), None), &[5, 6, 7]).await;
    subscribed(&store, "all", (Some(0), Some(0)), &[4000]).await;
    // In two sources, one of which keeps it; and found elsewhere, too.
    entry(&store, "https://example.org/all", item("news-90").media_id).await;
    let elsewhere = item("show-7");
    let titles = |expired: &[spoken::store::Expired]| {
        expired.iter().map(|e| format!("{} {}", e.title, e.rule)).collect::<HashSet<_>>()
    };
    let expired = store.expired(Keep::default()).await.unwrap();
    assert_eq!(
        titles(&expired),
        HashSet::from(["news-31 older than 30 days".to_owned(), "show-7 not among the last 2".to_owned()])
    );
    store.upsert(&elsewhere, "a list of one's own").await.unwrap();
    assert_eq!(store.expired(Keep::default()).await.unwrap().len(), 1);
    // What is configured holds for sources that say nothing themselves.
    let stricter = store.expired(Keep { last: 0, days: 3 }).await.unwrap();
    assert_eq!(
        titles(&stricter),
        HashSet::from([
            "news-31 older than 30 days".to_owned(),
            "show-5 older than 3 days".to_owned(),
            "show-6 older than 3 days".to_owned(),
        ])
    );
}

/// A folder with the model's files under another name: another model, as far as the library knows.
fn renamed(library: &Library, model: &Path, name: &str) -> PathBuf {
    let folder = library.folder(name);
    for entry in fs::read_dir(model).unwrap() {
        let path = entry.unwrap().path();
        std::os::unix::fs::symlink(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    folder
}

fn search(library: &Library, query: &str) -> Ran {
    let ran = library.ok(&["search", "--json", query]);
    assert!(!ran.stderr.contains("words only"), "{ran}");
    assert!(!ran.stdout.is_empty(), "nothing found for {query}: {ran}");
    ran
}

/// Knuth's MMIX generator: the same seed, the same moments.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reembed_survives_kills_and_searches_are_answered_throughout() {
    const ITEMS: i64 = 24;
    const EACH: i64 = 16;
    let url = database().await;
    let library = Library::on(&url);
    let store = Store::connect(&url, &StoreOptions::default()).await.unwrap();
    store.migrate().await.unwrap();
    // Vectors that are all alike, as if the installed model had made them.
    let model_id =
        EmbedOptions::new(embedding_model().to_str().unwrap(), "/nonexistent", tools_dir()).model_id();
    let first = EmbeddingModel { model_id: model_id.unwrap(), dimension: 384 };
    for n in 0..ITEMS {
        let lines: Vec<String> = (0..EACH)
            .map(|i| format!("In talk {n} the sentence {i} is about sailing to island {}.", n * i))
            .collect();
        let segments = said(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let unit = (1.0_f32 / 384.0).sqrt();
        let passages = passages(&segments, 1);
        store.upsert(&item(&format!("talk {n}")), "test").await.unwrap();
        let work = claim(&store, &item(&format!("talk {n}"))).await;
        let vectors = vec![vec![unit; 384]; passages.len()];
        let transcript = transcript(segments);
        store
            .complete(&work.claimed, &Metadata::default(), &transcript, &passages, &vectors, &first)
            .await
            .unwrap();
    }
    let second = renamed(&library, &embedding_model(), "second-model");
    let second = second.to_str().unwrap();
    let reembed = || -> Command { library.command(&["reembed", "--model", second, "--json"]) };
    let answers = |status: &Value| -> String {
        let models = status["models"].as_array().unwrap();
        models.iter().find(|m| m["answers"] == true).unwrap()["model_id"].as_str().unwrap().to_owned()
    };

    let mut dice = Dice(7);
    let written = || async {
        let table: Option<String> =
            sqlx::query_scalar("SELECT table_name FROM embedding_models WHERE model_id LIKE 'second%'")
                .fetch_optional(store.pool())
                .await
                .unwrap();
        match table {
            Some(table) => count(&store, &format!("SELECT count(*) FROM {table}")).await,
            None => 0,
        }
    };
    for kill in 0..3 {
        let before = written().await;
        let working = Working::start(reembed());
        let wanted = (before + 1 + dice.below(90) as i64).min(ITEMS * EACH - 20);
        while written().await < wanted {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        working.signal(Signal::SIGKILL);
        assert_eq!(working.finish().code, 137, "kill {kill} came too late");
        assert!(written().await >= before, "nothing is lost");
        search(&library, "sailing to an island");
        assert_eq!(answers(&library.ok(&["reembed", "--status", "--json"]).json()), first.model_id);
    }
    // Two at once share what is left.
    let (one, two) = (Working::start(reembed()), Working::start(reembed()));
    let (one, two) = (one.finish(), two.finish());
    assert_eq!((one.code, two.code), (0, 0), "{one}\n{two}");
    let status = library.ok(&["reembed", "--status", "--json"]).json();
    assert!(answers(&status).starts_with("second-model-"), "{status}");
    assert_eq!(written().await, ITEMS * EACH);
    // EMBEDDING_MODEL still says the first: the one that answers is asked, and what to do is told.
    search(&library, "sailing to an island");
    let other: i64 = count(
        &store,
        "SELECT count(*) FROM media WHERE NOT (embedding_model || embedded_also @> \
         (SELECT array_agg(model_id) FROM embedding_models))",
    )
    .await;
    assert_eq!(other, 0, "both models have every item");

    // Back again takes no time, and then only one is left.
    let back = library.ok(&["reembed", "--json", "--drop-old"]).json();
    assert_eq!((back["answers"].as_bool(), back["passages"].as_u64()), (Some(true), Some(0)), "{back}");
    assert_eq!(back["dropped"].as_array().unwrap().len(), 1);
    search(&library, "sailing to an island");
}

/// Talks for `upgrade`.
const DOUBTED: [(&str, u32, u32, &[&str]); 3] = [
    ("d0.wav", 7400, 70, &[]),
    ("d1.mp3", 7401, 65, &["--noise", "20"]),
    ("d2.m4a", 7402, 40, &["--lang", "es"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_survives_kills_and_hears_only_what_is_doubted() {
    let url = database().await;
    let library = Library::on(&url);
    let folder = library.folder("talks");
    for (file, _) in speeches(&DOUBTED) {
        fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    library.ok(&["ingest", "--json", folder.to_str().unwrap()]);
    let before = library.transcripts();
    let query = before[0].1[0]["text"].as_str().unwrap().to_owned();

    // The same weights under another name: whatever is heard again says the same.
    let second = renamed(&library, &repository().join("tests/fixtures/whisper-micro"), "second-whisper");
    let second = second.to_str().unwrap();
    let upgrade = |condition: &str, more: &[&str]| {
        let mut arguments = vec!["upgrade", "--where", condition, "--model", second, "--log-format", "json"];
        arguments.extend(more);
        library.command(&arguments)
    };
    let dry = super::cli::finish(upgrade("avg_logprob < 0", &["--dry-run", "--json"])).json();
    assert_eq!(dry["items"].as_array().unwrap().len(), DOUBTED.len(), "{dry}");

    // Half of the windows of the first are doubted; what was made of the others is taken over.
    let store = Store::connect(&url, &StoreOptions::default()).await.unwrap();
    let d0 = library.items()[0]["media_id"].as_str().unwrap().parse().unwrap();
    let mut figures = store.log_probabilities(d0).await.unwrap();
    figures.sort_by(f32::total_cmp);
    // The same window's figure, rounded in different ways.
    figures.dedup_by(|a, b| (*a - *b).abs() < 1e-3);
    assert!(figures.len() > 1, "one window only: {figures:?}");
    let middle = (figures[0] + figures[1]) / 2.0;
    let condition = format!("avg_logprob < {middle} and title = d0");
    let ran = super::cli::finish(upgrade(&condition, &["--json"]));
    let summary = ran.json();
    assert_eq!((ran.code, summary["done"].as_u64()), (0, Some(1)), "{ran}");
    let (windows, known) = (summary["windows"].as_u64().unwrap(), summary["windows_known"].as_u64().unwrap());
    assert!(known > 0 && known < windows, "{known} of {windows} windows were known");
    assert_eq!(library.transcripts(), before);
    assert_eq!(library.query("select count(*) from media where model = 'whisper-micro+second-whisper'"), 1);

    for event in ["\"step\":\"decode\"", "\"step\":\"transcribe\"", "\"step\":\"embed\""] {
        let mut working = Working::start(upgrade("avg_logprob < 0", &["--json"]));
        working.until(event);
        working.signal(Signal::SIGKILL);
        working.finish();
        until("no process is left behind", || library.processes().is_empty());
        search(&library, &query);
        assert_eq!(library.counts(), [0, 0, DOUBTED.len() as u64, 0], "a done item stays done");
        library.assert_transcripts(&before);
    }
    let ran = super::cli::finish(upgrade("avg_logprob < 0", &["--json"]));
    assert_eq!(ran.code, 0, "{ran}");
    library.assert_transcripts(&before);
    assert_eq!(library.query("select count(*) from media where model not like '%second-whisper'"), 0);
    library.assert_in_order();
    let nothing = super::cli::finish(upgrade("avg_logprob < 0", &["--json"])).json();
    assert_eq!(nothing["done"], 0, "{nothing}");
}

impl Library {
    fn assert_transcripts(&self, expected: &[(String, Value)]) {
        assert_eq!(self.transcripts(), expected);
    }
}

#[test]
fn conditions_and_removals_that_make_no_sense_are_refused() {
    let library = Library::new();
    for arguments in [
        &["upgrade", "--where", "language = es; DROP TABLE media"][..],
        &["upgrade", "--where", "text = x"],
        &["upgrade"],
        &["remove"],
        &["remove", "--before", "soon"],
        &["reembed", "--status", "--drop-old"],
    ] {
        let ran = library.run(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {ran}");
        assert!(!ran.stderr.is_empty());
    }
    assert!(!library.server_runs(), "no server was started for it");
}

/// Talks for `remove`.
const SHORT: [(&str, u32, u32, &[&str]); 3] =
    [("r0.wav", 7500, 6, &[]), ("r1.wav", 7501, 6, &[]), ("r2.wav", 7502, 6, &[])];

#[tokio::test(flavor = "multi_thread")]
async fn removed_items_are_not_found_again_by_a_sync() {
    let library = Library::on(&database().await);
    let folder = library.folder("talks");
    for (file, _) in speeches(&SHORT) {
        let copy = folder.join(file.file_name().unwrap());
        fs::copy(&file, &copy).unwrap();
        // What was just written may still grow, and is left for the next look.
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        fs::File::options().write(true).open(&copy).unwrap().set_modified(long_ago).unwrap();
    }
    let folder = folder.to_str().unwrap();
    library.ok(&["source", "add", folder, "--name", "talks", "--every", "10s"]);
    assert_eq!(library.ok(&["sync", "--json"]).json()["done"], SHORT.len());

    let id = library.items()[0]["media_id"].as_str().unwrap().to_owned();
    let asked = library.run(&["remove", &id]);
    assert_eq!(asked.code, 2, "nobody can be asked: {asked}");
    let dry = library.ok(&["remove", &id, "--dry-run", "--json"]).json();
    assert_eq!(dry["removed"][0]["media_id"], id.as_str());
    assert_eq!(library.items().len(), 3);
    let removed = library.ok(&["remove", &id, "--yes", "--json"]).json();
    assert_eq!(removed["removed"].as_array().unwrap().len(), 1, "{removed}");
    let synced = library.ok(&["sync", "talks", "--full", "--json"]).json();
    assert_eq!((synced["new"].as_u64(), synced["done"].as_u64()), (Some(0), Some(0)), "{synced}");
    let ingested = library.ok(&["ingest", "--json", folder]).json();
    assert_eq!((ingested["done"].as_u64(), ingested["skipped"].as_u64()), (Some(0), Some(3)), "{ingested}");
    assert_eq!(library.items().len(), 2);
    let listed = library.ok(&["remove", "--list", "--json"]).json();
    assert_eq!(listed["removed"][0]["media_id"], id.as_str());

    let forgotten = library.ok(&["remove", "--forget", &id[..8], "--yes", "--json"]).json();
    assert_eq!(forgotten["forgotten"], 1, "{forgotten}");
    assert_eq!(library.ok(&["sync", "talks", "--full", "--json"]).json()["done"], 1);
    assert_eq!(library.items().len(), 3);

    // Of three, the last two are kept from now on; no sync brings the third back.
    library.ok(&["source", "add", folder, "--name", "talks", "--every", "10s", "--keep-last", "2"]);
    let dry = library.ok(&["retention", "--dry-run", "--json"]).json();
    assert_eq!(dry["removed"].as_array().unwrap().len(), 1, "{dry}");
    let synced = library.ok(&["sync", "talks", "--json"]).json();
    assert_eq!(synced["removed"], 1, "{synced}");
    let synced = library.ok(&["sync", "talks", "--full", "--json"]).json();
    assert_eq!((synced["new"].as_u64(), synced["removed"].as_u64()), (Some(0), Some(0)), "{synced}");
    assert_eq!(library.items().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn passages_fit_what_the_model_reads() {
    let options = EmbedOptions::new(embedding_model().to_str().unwrap(), "/nonexistent", tools_dir());
    let embedder = Embedder::load(&options).unwrap();
    let heading =
        spoken::embed::Heading::new("A rather long title of a talk about the sea", Some("The Channel"));
    let room = embedder.room(&heading);
    assert!((470..512).contains(&room), "{room}");
    let room = 100;
    let options = spoken::embed::PassageOptions { max_tokens: room, ..Default::default() };
    let line = "Unquestionably, the hydrodynamics of catamarans (and trimarans!) fascinate naval architects everywhere.";
    let segments: Vec<Segment> = (0..200).map(|n| segment(n * 3000, n * 3000 + 2900, "en", line)).collect();
    let long = segment(0, 1_000_000, "en", &"語".repeat(3000));
    for said in [&segments[..], &[long][..]] {
        let passages: Vec<Passage> = spoken::embed::passages(said, &options, |text| embedder.tokens(text));
        assert!(passages.len() > 5);
        for passage in &passages {
            assert!(embedder.tokens(&passage.text) <= room, "{} tokens", embedder.tokens(&passage.text));
        }
    }
    // The heading moves a vector, and its text is not lost for it.
    let text = vec!["He said that it would rain.".to_owned()];
    let plain = embedder.embed_passages(text.clone()).await.unwrap();
    let under = embedder.embed_under(&heading, text).await.unwrap();
    let dot: f32 = plain[0].iter().zip(&under[0]).map(|(a, b)| a * b).sum();
    assert!((0.2..0.99).contains(&dot), "{dot}");
}

//! The rules under which the schema can be distributed by media_id (Citus), on the real catalog after all migrations and some
//! use. Citus itself is not needed for that: <https://docs.citusdata.com/en/stable/develop/reference_ddl.html>,
//! <https://docs.citusdata.com/en/stable/develop/reference_workarounds.html>.

use std::collections::BTreeSet;
use std::time::Duration;

use spoken::media::Metadata;
use spoken::store::{Claim, EmbeddingModel, Store, StoreOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::store::{database, item, model, passages, segment, transcript};

/// Tables whose rows belong to an item: their key begins with media_id. README.md names them.
const DISTRIBUTED: [&str; 9] = [
    "media",
    "media_sources",
    "segments",
    "passages",
    "handovers",
    "source_entries",
    "governor_refusals",
    "upgrades",
    "removed",
];
/// Small ones that have a column media_id, and are asked by something else.
const SMALL_WITH_MEDIA: [&str; 1] = ["known_files"];

async fn used() -> (Store, String) {
    let url = database().await;
    let store = Store::connect(&url, &StoreOptions::default()).await.unwrap();
    store.migrate().await.unwrap();
    spoken::queue::prepare(store.pool()).await.unwrap();
    for other in [model(), EmbeddingModel { model_id: "another".into(), dimension: 4 }] {
        put(&store, &other.model_id, &other).await;
    }
    (store, url)
}

async fn put(store: &Store, name: &str, model: &EmbeddingModel) {
    store.upsert(&item(name), "test").await.unwrap();
    let Claim::Work(work) = store.claim(item(name).media_id, "worker").await.unwrap() else {
        panic!("not claimed")
    };
    let segments = vec![segment(0, 1000, "en", "Something said.")];
    let passages = passages(&segments, 1);
    store
        .complete(
            &work.claimed,
            &Metadata::default(),
            &transcript(segments),
            &passages,
            &[vec![0.5; 4]],
            model,
        )
        .await
        .unwrap();
}

async fn texts(store: &Store, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(store.pool()).await.unwrap()
}

/// Tables of the library; the queue's own stay on the coordinator.
async fn tables(store: &Store) -> Vec<String> {
    texts(
        store,
        "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
         AND relname <> 'spoken_migrations' ORDER BY 1",
    )
    .await
}

fn is_distributed(table: &str) -> bool {
    DISTRIBUTED.contains(&table) || table.starts_with("embeddings_") && table != "embedding_models"
}

#[tokio::test]
async fn what_belongs_to_an_item_is_keyed_by_it() {
    let (store, _) = used().await;
    let tables = tables(&store).await;
    assert!(tables.iter().filter(|t| t.starts_with("embeddings_")).count() == 2, "{tables:?}");
    for table in &tables {
        let columns = texts(
            &store,
            &format!(
                "SELECT attname::text FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0"
            ),
        )
        .await;
        let with_media = columns.iter().any(|c| c == "media_id");
        let known = is_distributed(table) || SMALL_WITH_MEDIA.contains(&table.as_str());
        assert_eq!(
            with_media, known,
            "{table}: a table with media_id is distributed by it; name it here, in README.md and in the migration"
        );
        // Every key of a distributed table holds the distribution column; the primary key begins with it. Others have a
        // primary key, so that they can be reference tables.
        let keys: Vec<(String, bool, Vec<String>)> = sqlx::query_as(
            "SELECT indexrelid::regclass::text, indisprimary,
                    ARRAY(SELECT attname::text FROM unnest(indkey::smallint[]) WITH ORDINALITY k (n, place)
                          JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = k.n ORDER BY place)
             FROM pg_index WHERE indrelid = to_regclass($1) AND (indisunique OR indisexclusion)",
        )
        .bind(table)
        .fetch_all(store.pool())
        .await
        .unwrap();
        assert!(keys.iter().any(|(_, primary, _)| *primary), "{table} has no primary key");
        for (key, primary, columns) in keys.iter().filter(|_| is_distributed(table)) {
            assert!(columns.iter().any(|c| c == "media_id"), "{key} of {table} lacks media_id: {columns:?}");
            assert!(!primary || columns[0] == "media_id", "{key} of {table} does not begin with media_id");
        }
    }
}

#[tokio::test]
async fn foreign_keys_stay_on_one_machine() {
    let (store, _) = used().await;
    type Key = (String, String, String, Vec<String>, Vec<String>);
    let keys: Vec<Key> = sqlx::query_as(
        "SELECT conname::text, conrelid::regclass::text, confrelid::regclass::text,
                ARRAY(SELECT attname::text FROM unnest(conkey) n JOIN pg_attribute ON attrelid = conrelid AND attnum = n),
                ARRAY(SELECT attname::text FROM unnest(confkey) n JOIN pg_attribute ON attrelid = confrelid AND attnum = n)
         FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace",
    )
    .fetch_all(store.pool())
    .await
    .unwrap();
    assert!(keys.len() >= 5, "{keys:?}");
    for (name, from, to, columns, referenced) in keys {
        match (is_distributed(&from), is_distributed(&to)) {
            (true, true) => {
                let together =
                    columns.iter().zip(&referenced).any(|(a, b)| a == "media_id" && b == "media_id");
                assert!(
                    together,
                    "{name}: {from} {columns:?} points at {to} {referenced:?} on another machine"
                );
            }
            (false, true) => panic!("{name}: {from} is on every machine, {to} on one of them"),
            (_, false) => {}
        }
    }
}

#[tokio::test]
async fn nothing_takes_its_identity_from_a_sequence_and_nothing_is_triggered() {
    let (store, _) = used().await;
    let sequences = texts(
        &store,
        "SELECT relname::text FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace",
    )
    .await;
    assert_eq!(sequences, [""; 0]);
    for table in tables(&store).await {
        let identities = texts(
            &store,
            &format!(
                "SELECT attname::text FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = attrelid AND d.adnum = attnum
                 WHERE attrelid = '{table}'::regclass AND attnum > 0
                   AND (attidentity <> '' OR pg_get_expr(adbin, adrelid) LIKE '%nextval%')"
            ),
        )
        .await;
        assert_eq!(identities, [""; 0], "{table}");
        let triggers = texts(
            &store,
            &format!(
                "SELECT tgname::text FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal"
            ),
        )
        .await;
        assert_eq!(triggers, [""; 0], "{table}");
        // What is computed on a shard is computed from the row alone.
        let changing = texts(
            &store,
            &format!(
                "SELECT p.proname::text FROM pg_attrdef d
                 JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum AND a.attgenerated <> ''
                 JOIN pg_depend n ON n.classid = 'pg_attrdef'::regclass AND n.objid = d.oid AND n.refclassid = 'pg_proc'::regclass
                 JOIN pg_proc p ON p.oid = n.refobjid
                 WHERE d.adrelid = '{table}'::regclass AND p.provolatile <> 'i'"
            ),
        )
        .await;
        assert_eq!(changing, [""; 0], "{table}");
    }
}

/// What an item's statements wait for: nothing of any other item. A lock that reached across items would reach across
/// machines.
#[tokio::test]
async fn the_work_on_one_item_waits_for_no_other() {
    let (store, url) = used().await;
    put(&store, "held", &model()).await;
    let mut holder = PgConnection::connect(&url).await.unwrap();
    let mut sql = "BEGIN;".to_owned();
    for table in tables(&store).await.iter().filter(|t| is_distributed(t)) {
        sql += &format!("SELECT FROM {table} WHERE media_id = '{}' FOR UPDATE;", item("held").media_id);
    }
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut holder).await.unwrap();
    let work = async {
        put(&store, "free", &model()).await;
        store.look_again().await.unwrap();
        store.counts().await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("it waits for the item that is held");
    holder.close().await.unwrap();
}

/// The script that spreads a library, with stand-ins for what Citus brings: it names every table that has to be, and puts all
/// keys back.
#[tokio::test]
async fn the_script_spreads_what_belongs_to_items_and_puts_the_keys_back() {
    let (store, url) = used().await;
    const KEYS: &str =
        "SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
                        WHERE contype = 'f' ORDER BY 1";
    let before = texts(&store, KEYS).await;
    sqlx::raw_sql(
        "CREATE TABLE spread (name text);
         CREATE FUNCTION create_distributed_table(t regclass, by text, colocate_with text DEFAULT 'default') RETURNS void
         LANGUAGE sql AS $$ INSERT INTO public.spread SELECT t::text WHERE by = 'media_id' $$",
    )
    .execute(store.pool())
    .await
    .unwrap();
    let script = super::cli::repository().join("scripts/deploy/citus.sql");
    let psql = super::postgres::tools_dir().join("postgres/bin/psql");
    let ran = std::process::Command::new(psql)
        .args([url.as_str(), "-X", "-v", "ON_ERROR_STOP=1", "-f"])
        .arg(script)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let spread: BTreeSet<String> = texts(&store, "SELECT name FROM spread").await.into_iter().collect();
    let due: BTreeSet<String> = tables(&store).await.into_iter().filter(|t| is_distributed(t)).collect();
    assert_eq!(spread, due);
    assert_eq!(texts(&store, KEYS).await, before);
}

/// Rows may be locked where the statement names their items: a search that locks what it finds would have to lock on all
/// machines, which Citus refuses.
#[test]
fn rows_are_locked_by_name_only() {
    let small: BTreeSet<&str> = ["governor_sites", "sources"].into();
    let mut files: Vec<_> = walkdir::WalkDir::new(super::cli::repository().join("src"))
        .into_iter()
        .chain(walkdir::WalkDir::new(super::cli::repository().join("migrations")))
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.extension().is_some_and(|e| e == "rs" || e == "sql"))
        .collect();
    files.sort();
    let mut seen = 0;
    let lock = regex::Regex::new(r"FOR (NO KEY )?UPDATE|FOR (KEY )?SHARE").unwrap();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        for found in lock.find_iter(&text) {
            // The statement: from the SELECT before it.
            let before = &text[..found.start()];
            let statement = &before[before.rfind("SELECT").unwrap()..];
            seen += 1;
            let named = statement.contains("media_id = $");
            let is_small = small.iter().any(|t| statement.contains(&format!("FROM {t}")));
            assert!(named || is_small, "{}: {statement}{}", path.display(), found.as_str());
        }
    }
    assert!(seen >= 3, "{seen}");
}

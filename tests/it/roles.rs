//! Work that several processes and machines share: fetch and transcribe nodes with a store between them.

mod network;
mod s3;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use spoken::media::{Item, Locator, MediaId};
use spoken::store::{Store, StoreOptions};
use sqlx::postgres::PgPool;

use self::network::{Machine, Network, Postgres};
use self::s3::S3;
use super::cli::{Library, speeches, until};
use super::server::{Page, Server};
use super::store::database;

/// A `spoken work` in the background, its events in a file.
struct Worker {
    library: Library,
    child: Child,
    log: PathBuf,
}

impl Worker {
    /// Starts `spoken work --role ROLE` with `settings`, on `machine` where one is given.
    fn start(library: Library, role: &str, settings: &[(String, String)], machine: Option<&Machine>) -> Self {
        let log = library.cwd().join(format!("{role}.log"));
        let mut command = library.command(&["work", "--role", role, "--log-format", "json"]);
        command.envs(settings.iter().cloned());
        let mut command = machine.map_or(command, |machine| {
            let mut inner = library.command(&["work", "--role", role, "--log-format", "json"]);
            inner.envs(settings.iter().cloned());
            machine.command(&inner)
        });
        let child = command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        Self { library, child, log }
    }

    /// The process itself: with a machine of its own, what was started becomes it.
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// All events of a name so far.
    fn events(&self, name: &str) -> Vec<Value> {
        let is = format!("\"event\":\"{name}\"");
        let log = self.log();
        // The last line may not be whole yet.
        log.lines()
            .filter(|line| line.contains(&is))
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// How often each item is in the events of a name.
    fn times(&self, name: &str) -> HashMap<String, usize> {
        let mut times = HashMap::new();
        for event in self.events(name) {
            *times.entry(event["media_id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        times
    }

    /// Stops it as a service manager does; its library, to be looked at.
    fn stop(mut self) -> (Library, i32) {
        self.signal(Signal::SIGTERM);
        let status = self.child.wait().unwrap();
        let log = self.log();
        assert!(!log.contains("panicked"), "{log}");
        let empty = Library::on("postgres://nobody@127.0.0.1:1/none");
        (std::mem::replace(&mut self.library, empty), status.code().unwrap_or(-1))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Talks on a server, noted in the library as waiting.
async fn queue_talks(url: &str, server: &Server, talks: &[PathBuf]) {
    let store = Store::connect(url, &StoreOptions::default()).await.unwrap();
    store.migrate().await.unwrap();
    let items: Vec<Item> = talks
        .iter()
        .map(|talk| {
            let name = talk.file_name().unwrap().to_str().unwrap();
            let path = format!("/{name}");
            server.put(&path, Page::new("audio/mpeg", fs::read(talk).unwrap()));
            let url = server.url(&path);
            Item {
                media_id: MediaId::new("url", name),
                extractor: "url".to_owned(),
                source_id: name.to_owned(),
                locator: Locator::Url(url.parse().unwrap()),
                source: url,
                title: name.to_owned(),
                duration_ms: None,
            }
        })
        .collect();
    store.upsert_many(&items, "test").await.unwrap();
    store.close().await;
}

/// `count` talks of `seconds`, each another.
fn talks(count: u32, seconds: u32) -> Vec<PathBuf> {
    let names: Vec<String> = (0..count).map(|n| format!("role-{n:03}.mp3")).collect();
    let wanted: Vec<(&str, u32, u32, &[&str])> =
        (0..count).zip(&names).map(|(n, name)| (name.as_str(), 8_000 + n, seconds, &[] as &[&str])).collect();
    speeches(&wanted).into_iter().map(|(file, _)| file).collect()
}

async fn one(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// Waits for something in the database, for up to `patience`.
async fn until_sql(pool: &PgPool, patience: Duration, what: &str, sql: &'static str) {
    let started = Instant::now();
    loop {
        if sqlx::query_scalar::<_, bool>(sql).fetch_one(pool).await.unwrap() {
            return;
        }
        assert!(started.elapsed() < patience, "waited {patience:?} until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(folder)
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .collect()
}

fn setting(name: &str, value: impl ToString) -> (String, String) {
    (name.to_owned(), value.to_string())
}

/// A shared directory as the store.
pub fn shared_folder() -> (tempfile::TempDir, Vec<(String, String)>) {
    let dir = tempfile::tempdir().unwrap();
    let settings = vec![setting("HANDOVER_URL", format!("file://{}", dir.path().display()))];
    (dir, settings)
}

const DONE: &str = "select not exists (select from media where state <> 'done')";
const MINUTES: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn what_two_roles_make_is_what_one_process_makes() {
    let talks = talks(4, 20);
    let server = Server::start().await;
    let mut transcripts = Vec::new();
    for roles in [&["all"][..], &["fetch", "transcribe"]] {
        let url = database().await;
        queue_talks(&url, &server, &talks).await;
        let (store, settings) = shared_folder();
        for role in roles {
            let library = Library::on(&url);
            let mut command = library.command(&["work", "--role", role, "--drain", "--json"]);
            command.envs(settings.iter().cloned());
            let ran = super::cli::finish(command);
            assert_eq!(ran.code, 0, "{role}: {ran}");
            let (done, handed) = (ran.json()["done"].as_u64().unwrap(), ran.json()["handed_over"].as_u64());
            assert_eq!(
                (done, handed),
                if *role == "fetch" { (0, Some(4)) } else { (4, None) },
                "{role}: {ran}"
            );
            assert_eq!(files(store.path()).len(), if *role == "fetch" { 4 } else { 0 }, "{role}");
            assert_eq!(library.spooled(), Vec::<PathBuf>::new(), "{role}");
            if *role == "fetch" {
                let raw: u64 = 4 * 20 * 32_000;
                let packed: u64 = files(store.path()).iter().map(|f| fs::metadata(f).unwrap().len()).sum();
                println!("{packed} bytes handed over, {raw} as samples");
                assert!(packed < raw * 7 / 10, "{packed} of {raw}");
            }
        }
        let library = Library::on(&url);
        library.assert_in_order();
        transcripts.push(library.transcripts());
    }
    assert_eq!(transcripts[0].len(), 4);
    assert_eq!(transcripts[0], transcripts[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn audio_that_is_damaged_or_gone_is_fetched_again() {
    let talks = talks(3, 8);
    let server = Server::start().await;
    let url = database().await;
    queue_talks(&url, &server, &talks).await;
    let pool = PgPool::connect(&url).await.unwrap();
    let (store, settings) = shared_folder();
    let drain = |role: &str| {
        let library = Library::on(&url);
        let mut command = library.command(&["work", "--role", role, "--drain", "--json"]);
        command.envs(settings.iter().cloned());
        super::cli::finish(command)
    };
    assert_eq!(drain("fetch").json()["handed_over"], 3);
    // One is damaged, one is gone, one is as it was; and two are nobody's.
    let mut left = files(store.path());
    left.sort();
    let mut bytes = fs::read(&left[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&left[0], bytes).unwrap();
    fs::remove_file(&left[1]).unwrap();
    let stray = left[2].with_file_name("0.flac");
    fs::write(&stray, b"made under a claim that was lost").unwrap();
    let interrupted = left[2].with_file_name("0.flac#1");
    fs::write(&interrupted, b"an upload that never ended").unwrap();

    let ran = drain("transcribe");
    assert_eq!((ran.code, &ran.json()["done"]), (0, &Value::from(1)), "{ran}");
    assert!(!stray.exists() && !interrupted.exists(), "orphans were not removed");
    assert_eq!(one(&pool, "select count(*) from media where state = 'queued' and attempts = 1").await, 2);
    assert_eq!(one(&pool, "select count(*) from handovers").await, 0);
    // Due after a pause.
    assert_eq!(drain("fetch").json()["handed_over"], 2);
    assert_eq!(drain("transcribe").json()["done"], 2);
    Library::on(&url).assert_in_order();
    assert_eq!(files(store.path()), Vec::<PathBuf>::new());

    // There is an end to that: an item whose audio is never found is given up.
    let store_of = Store::connect(&url, &StoreOptions::default()).await.unwrap();
    sqlx::query("update media set state = 'queued', segments = null where title = 'role-000.mp3'")
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("update media set attempts = 4 where title = 'role-000.mp3'").execute(&pool).await.unwrap();
    assert_eq!(drain("fetch").json()["handed_over"], 1);
    files(store.path()).iter().for_each(|file| fs::remove_file(file).unwrap());
    let ran = drain("transcribe");
    assert_eq!((ran.code, &ran.json()["failed"]), (1, &Value::from(1)), "{ran}");
    assert!(ran.stderr.contains("is not in"), "{ran}");
    store_of.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_cannot_transcribe_for_others_ends_while_their_work_waits() {
    let server = Server::start().await;
    let url = database().await;
    queue_talks(&url, &server, &talks(1, 8)).await;
    let (_store, settings) = shared_folder();
    let library = Library::on(&url);
    let mut command = library.command(&["work", "--role", "fetch", "--drain", "--json"]);
    command.envs(settings);
    assert_eq!(super::cli::finish(command).json()["handed_over"], 1);

    // Without the store it cannot have the audio.
    let log = library.cwd().join("sync.log");
    let child = library
        .command(&["sync", "--log-format", "json"])
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut sync = Worker { library, child, log };
    // Below the time after which it looks whether others have what it cannot get.
    let began = Instant::now();
    while sync.child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(60), "it does not end:\n{}", sync.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!sync.log().contains("stages_sampled"), "it loaded models for nothing:\n{}", sync.log());
    assert!(sync.child.wait().unwrap().success(), "{}", sync.log());
    assert_eq!(Library::on(&url).counts(), [1, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fetching_waits_for_transcribers_that_are_behind() {
    // A minute of speech packs to about 1 MB: five talks are well beyond the limit of one.
    let talks = talks(5, 60);
    let server = Server::start().await;
    let url = database().await;
    queue_talks(&url, &server, &talks).await;
    let pool = PgPool::connect(&url).await.unwrap();
    let (store, mut settings) = shared_folder();
    settings.extend([setting("HANDOVER_MAX_MB", 1), setting("IO_WORKERS", 1)]);
    let fetch = Worker::start(Library::on(&url), "fetch", &settings, None);
    until("it waits", || fetch.log().contains("fetching waits: "));
    let waiting = one(&pool, "select count(*) from handovers").await;
    assert!((1..=3).contains(&waiting), "{waiting} items wait");
    assert_eq!(
        one(&pool, "select count(*) from media where state = 'active'").await,
        0,
        "it holds what it does not fetch"
    );
    let transcribe = Worker::start(Library::on(&url), "transcribe", &settings, None);
    until_sql(&pool, MINUTES, "all are done", DONE).await;
    assert!(fetch.log().contains("fetching goes on"), "{}", fetch.log());
    for worker in [fetch, transcribe] {
        let (library, code) = worker.stop();
        assert_eq!((code, library.spooled()), (0, Vec::new()));
    }
    Library::on(&url).assert_in_order();
    assert_eq!(files(store.path()), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_transcriber_is_replaced_at_once_by_another_on_its_machine() {
    let talks = talks(6, 60);
    let server = Server::start().await;
    let url = database().await;
    queue_talks(&url, &server, &talks).await;
    let pool = PgPool::connect(&url).await.unwrap();
    let (store, mut settings) = shared_folder();
    let fetched = Library::on(&url);
    let mut command = fetched.command(&["work", "--role", "fetch", "--drain"]);
    command.envs(settings.iter().cloned());
    assert_eq!(super::cli::finish(command).code, 0);
    // Slow enough to be caught at it.
    settings.extend([
        setting("BEAM_SIZE", 10),
        setting("WHISPER_PARALLEL_MODELS", 1),
        setting("WHISPER_THREADS", 1),
    ]);
    let first = Worker::start(Library::on(&url), "transcribe", &settings, None);
    until_sql(&pool, MINUTES, "it works", "select exists (select from media where state = 'active')").await;
    // The other one has the same data directory, so it is on the same machine.
    let mut command = first.library.command(&["work", "--role", "transcribe", "--log-format", "json"]);
    command.envs(settings.iter().cloned());
    let log = first.library.cwd().join("second.log");
    let mut second = command.stderr(fs::File::create(&log).unwrap()).stdout(Stdio::null()).spawn().unwrap();
    until_sql(&pool, MINUTES, "both work", "select count(*) = 2 from nodes where device is not null").await;
    first.signal(Signal::SIGKILL);
    let killed = Instant::now();
    until_sql(&pool, MINUTES, "its place is taken", "select count(*) = 1 from nodes").await;
    println!("taken over {:?} after the kill", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    until_sql(&pool, MINUTES, "all are done", DONE).await;
    kill(Pid::from_raw(i32::try_from(second.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(second.wait().unwrap().success());
    first.library.assert_in_order();
    assert_eq!(files(store.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_role_without_a_store_or_with_a_wrong_one_is_told_at_once() {
    let library = Library::on("postgres://nobody@127.0.0.1:1/none");
    let with = |arguments: &[&str], url: &str| {
        let mut command = library.command(arguments);
        command.env("HANDOVER_URL", url);
        let ran = super::cli::finish(command);
        assert_eq!(ran.code, 2, "{ran}");
        ran.stderr
    };
    for url in ["nonsense", "ftp://host/x", "s3://user:secret@bucket/x"] {
        let said = with(&["work", "--role", "fetch"], url);
        assert!(said.contains("HANDOVER_URL") && said.contains("s3://bucket/prefix"), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_there_is_told_before_any_work() {
    let library = Library::on(&database().await);
    let ran = library.run(&["work", "--role", "fetch"]);
    assert_eq!(ran.code, 2, "{ran}");
    assert!(ran.stderr.contains("HANDOVER_URL does not say through what"), "{ran}");
    let mut command = library.command(&["work", "--role", "transcribe"]);
    command.env("HANDOVER_URL", "file:///no/such/directory");
    let ran = super::cli::finish(command);
    assert_eq!(ran.code, 2, "{ran}");
    assert!(ran.stderr.contains("there is no directory /no/such/directory"), "{ran}");
    let ran = library.ok(&["nodes", "--json"]);
    assert_eq!(ran.json()["nodes"], Value::Array(Vec::new()), "{ran}");
}

/// Which store lies between the two hosts.
#[derive(Clone, Copy, Debug)]
enum Between {
    SharedFolder,
    S3,
}

/// What [`two_hosts`] does.
struct Scene {
    between: Between,
    talks: Vec<PathBuf>,
    lease: u64,
    cut: Duration,
    patience: Duration,
}

/// One host fetches, another transcribes; the latter is cut off in the middle and brought back.
async fn two_hosts(scene: Scene) {
    let Some(network) = Network::make(&["fetch", "gpu"]) else { return };
    let address = network.address();
    let postgres = Postgres::start(&address).await;
    let server = Server::start_on(&address).await;
    let s3 = S3::start(&address).await;
    let (folder, in_folder) = shared_folder();
    let (mut settings, objects) = match scene.between {
        Between::SharedFolder => (in_folder, folder.path().to_owned()),
        Between::S3 => (s3.settings(), s3.objects()),
    };
    let count = scene.talks.len();
    queue_talks(postgres.url(), &server, &scene.talks).await;
    let pool = PgPool::connect(postgres.url()).await.unwrap();
    settings.push(setting("LEASE_SECONDS", scene.lease));
    // The server is nobody's site.
    let unhurried = ["VIDEOS_PER_HOUR", "REQUESTS_PER_HOUR", "MIN_INTERVAL_SECONDS", "DOWNLOADS"];
    settings.extend(unhurried.map(|limit| setting(&format!("RATE_{limit}"), 0)));

    let began = Instant::now();
    let (near, far) = (network.machine(0), network.machine(1));
    let fetch = Worker::start(Library::on(postgres.url()), "fetch", &settings, Some(&near));
    // Slow enough to be caught at it.
    let slow =
        [setting("BEAM_SIZE", 10), setting("WHISPER_PARALLEL_MODELS", 1), setting("WHISPER_THREADS", 1)];
    settings.extend(slow);
    let transcribe = Worker::start(Library::on(postgres.url()), "transcribe", &settings, Some(&far));
    until_sql(&pool, scene.patience, "some are done", "select count(*) >= 3 from media where state = 'done'")
        .await;

    // Cut off while it has something in hand: nothing of it gets through once the cable is out, so this is sure.
    let in_hand = "select count(*) from media m join nodes n on m.worker = n.node_id::text \
         where m.state = 'active' and n.role = 'transcribe'";
    let caught = loop {
        far.cut_off();
        let caught = one(&pool, in_hand).await;
        if caught > 0 {
            break caught;
        }
        far.plug();
        let left = one(&pool, "select count(*) from media where state <> 'done'").await;
        assert!(left > 0, "all done too soon");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let (cut, done_before) =
        (Instant::now(), one(&pool, "select count(*) from media where state = 'done'").await);
    println!(
        "cut off {:?} after the start: {done_before} of {count} done, {caught} in hand",
        began.elapsed()
    );
    let silent = Library::on(postgres.url());
    let taken = "select not exists (select from media m join nodes n on m.worker = n.node_id::text \
         where m.state = 'active' and n.role = 'transcribe')";
    until_sql(&pool, Duration::from_secs(180), "what it had is free again", taken).await;
    println!("what it had in hand was free again after {:?}", cut.elapsed());
    let nodes = || {
        let mut command = silent.command(&["nodes", "--json"]);
        command.env("LEASE_SECONDS", scene.lease.to_string());
        let listed = super::cli::finish(command).json();
        let of = |role: &str| {
            let found = listed["nodes"].as_array().unwrap().iter().find(|node| node["role"] == role);
            found.unwrap_or_else(|| panic!("no {role} node: {listed}")).clone()
        };
        (of("fetch"), of("transcribe"))
    };
    until("it is known to be silent", || nodes().1["alive"] == false);
    let (fetches, transcribes) = nodes();
    assert_eq!(fetches["alive"], true, "{fetches}");
    assert_eq!(
        (&fetches["host"], &transcribes["host"]),
        (&Value::from(&*near.name), &Value::from(&*far.name))
    );
    tokio::time::sleep(scene.cut.saturating_sub(cut.elapsed())).await;
    assert_eq!(
        one(&pool, "select count(*) from media where state = 'done'").await,
        done_before,
        "it was not cut off"
    );
    far.plug();
    println!("brought back after {:?}", cut.elapsed());
    until_sql(&pool, scene.patience, "all are done", DONE).await;
    println!("all {count} done {:?} after that, {:?} after the start", cut.elapsed(), began.elapsed());
    until("the queue is empty", || {
        Library::on(postgres.url()).query("select count(*) from graphile_worker._private_jobs") == 0
    });

    // Each item was handed over, and stored, once; what the host that was cut off still wanted to write was refused.
    let (handed, stored) = (fetch.times("item_handed_over"), transcribe.times("item_finished"));
    assert_eq!((handed.len(), stored.len()), (count, count));
    assert!(handed.values().chain(stored.values()).all(|&times| times == 1), "{handed:?} {stored:?}");
    let refused: Vec<Value> = transcribe
        .events("item_skipped")
        .into_iter()
        .filter(|event| event["reason"] == "another worker took it over")
        .collect();
    println!("{} of {caught} commits refused", refused.len());
    assert!(!refused.is_empty(), "nothing of what was in hand was refused");
    assert!(transcribe.events("item_failed").is_empty() && fetch.events("item_failed").is_empty());
    for worker in [fetch, transcribe] {
        let (library, code) = worker.stop();
        assert_eq!((code, library.spooled()), (0, Vec::new()));
    }
    assert_eq!(one(&pool, "select count(*) from nodes").await, 0);
    pool.close().await;
    Library::on(postgres.url()).assert_in_order();
    assert_eq!(files(&objects), Vec::<PathBuf>::new());
}

/// Two tests, so that they run beside each other.
async fn cut_off_and_brought_back(between: Between) {
    let (talks, patience) = (talks(8, 40), MINUTES);
    two_hosts(Scene { between, talks, lease: 6, cut: Duration::from_secs(12), patience }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_cut_off_and_brought_back_loses_and_doubles_nothing() {
    cut_off_and_brought_back(Between::SharedFolder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_cut_off_and_brought_back_loses_and_doubles_nothing_with_s3() {
    cut_off_and_brought_back(Between::S3).await;
}

/// `scripts/test roles::a_hundred -- --ignored --nocapture`; takes five minutes for each store.
async fn a_hundred(between: Between) {
    let (talks, patience) = (talks(100, 30), Duration::from_secs(1200));
    two_hosts(Scene { between, talks, lease: 120, cut: Duration::from_secs(180), patience }).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "three minutes' cut-off with a hundred items"]
async fn a_hundred_items_and_three_minutes_with_a_shared_folder() {
    a_hundred(Between::SharedFolder).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "three minutes' cut-off with a hundred items"]
async fn a_hundred_items_and_three_minutes_with_s3() {
    a_hundred(Between::S3).await;
}

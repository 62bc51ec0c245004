//! Random faults at random moments, as many as `scripts/test --faults` asks for; what comes out is what comes out undisturbed.
//!
//! Fifty tiny items of four kinds (files, addresses, a feed, streams through yt-dlp) on two hosts that share a database. Each
//! round does one fault to one of them, or to the database or the media server, at a moment drawn by counting events. After so
//! many rounds everything is left alone, works to its end, and every row is compared; then a fresh library is begun. The same
//! seed draws the same faults and moments; how far the program has got by then is its own.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use nix::sys::signal::Signal;
use sqlx::{Connection, PgConnection, Row};

use super::media::{hanging_tools, stream};
use super::*;
use crate::cli::speeches;

/// Rounds on one library: few enough that no item can be near nine deaths (after which it is given up, rightly).
const ROUNDS_EACH: u64 = 14;
/// Items of each kind.
const FILES: usize = 20;
const ADDRESSES: usize = 15;
const ENTRIES: usize = 10;
const STREAMS: usize = 5;

/// The fifty items, on a disk and on a server.
struct Site {
    server: Server,
    folder: PathBuf,
    /// What is listed.
    sources: Vec<String>,
    /// Paths on which single answers can go wrong.
    paths: Vec<String>,
    _dir: TempDir,
}

impl Site {
    async fn new() -> Self {
        let names: Vec<String> = (0..FILES).map(|n| format!("s{n:02}.wav")).collect();
        let wanted: Vec<(&str, u32, u32, &[&str])> = names
            .iter()
            .zip(0..)
            .map(|(name, n)| (name.as_str(), 7400 + n, 5 + n % 4, [].as_slice()))
            .collect();
        let files: Vec<PathBuf> = speeches(&wanted).into_iter().map(|(file, _)| file).collect();
        let (server, dir) = (Server::start().await, tempfile::tempdir().unwrap());
        // Read by the programs of another host, too.
        let folder = dir.path().join("talks");
        fs::create_dir(&folder).unwrap();
        for (file, name) in files.iter().zip(&names) {
            fs::copy(file, folder.join(name)).unwrap();
        }
        let (mut sources, mut paths) = (vec![folder.to_str().unwrap().to_owned()], Vec::new());
        // An item on the server is its address: the same speech again is another item.
        let talk = |n: usize| fs::read(&files[n % FILES]).unwrap();
        for n in 0..ADDRESSES {
            let path = format!("/a{n:02}.wav");
            // A third of them on servers without Range, a third on such that say nothing to recognise a file by.
            let page = Page::new("audio/wav", talk(n));
            server.put(
                &path,
                match n % 3 {
                    0 => page,
                    1 => page.without_validators(),
                    _ => page.without_ranges(),
                },
            );
            sources.push(server.url(&path));
            paths.push(path);
        }
        let mut entries = Vec::new();
        for n in 0..ENTRIES {
            let path = format!("/e{n:02}.wav");
            server.put(&path, Page::new("audio/wav", talk(n + 7)));
            entries.push((format!("Episode {n}"), server.url(&path)));
            paths.push(path);
        }
        server.put("/feed.xml", feed(&entries));
        sources.push(server.url("/feed.xml"));
        for n in 0..STREAMS {
            sources.push(stream(&server, &format!("stream{n}"), &files[n + 3]));
            paths.push(format!("/stream{n}0.ts"));
        }
        Self { server, folder, sources, paths, _dir: dir }
    }

    fn sources(&self) -> Vec<&str> {
        self.sources.iter().map(String::as_str).collect()
    }
}

/// Everything that two runs must agree about, a line for each row. Addresses and folders are the same in all libraries of one
/// site.
async fn rows(url: &str) -> Vec<String> {
    const TABLES: &[(&str, &str)] = &[
        (
            "media",
            "select concat_ws('|', media_id, extractor, source_id, source, title, state, duration_ms, speech_ms, language, model, \
                embedding_model, segments, coverage, dropped_count, flags, error_class) from media order by media_id",
        ),
        ("source", "select concat_ws('|', media_id, source) from media_sources order by media_id, source"),
        (
            "segment",
            "select concat_ws('|', media_id, model_id, seq, start_ms, end_ms, text, language, words) from segments \
             order by media_id, model_id, seq",
        ),
        (
            "passage",
            "select concat_ws('|', media_id, model_id, seq, start_ms, end_ms, first_segment, end_segment, text, language) \
             from passages order by media_id, model_id, seq",
        ),
    ];
    let mut connection = PgConnection::connect(url).await.unwrap();
    let mut rows = Vec::new();
    for &(table, sql) in TABLES {
        let mut found = sqlx::query(sql).fetch(&mut connection);
        while let Some(row) = found.try_next().await.unwrap() {
            rows.push(format!("{table} {}", row.get::<String, _>(0)));
        }
    }
    let tables: Vec<String> = sqlx::query_scalar("select table_name from embedding_models order by 1")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    for table in tables {
        let sql = format!(
            "select concat_ws('|', media_id, seq, vector_dims(embedding)) from {table} order by media_id, seq"
        );
        let found: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
        rows.extend(found.into_iter().map(|row| format!("{table} {row}")));
    }
    connection.close().await.unwrap();
    rows
}

/// What is done in a round.
#[derive(Clone, Copy, Debug)]
enum Strike {
    Kill,
    Terminate,
    Interrupt,
    InterruptTwice,
    /// Stopped for less than the lease.
    Pause,
    /// Stopped for more than the lease.
    Freeze,
    /// The server of the database ends in order, and starts again after so many milliseconds.
    Restart(u64),
    /// It crashes.
    Crash(u64),
    /// One answer in three of the media server goes wrong for a while.
    Weather,
    /// The next answers of a path stall or are cut.
    Stall,
    Cut,
    /// The next run of yt-dlp hangs.
    Hang,
    /// The second host begins, or dies if it works.
    Other,
}

impl Strike {
    fn draw(dice: &mut Dice) -> Self {
        match dice.below(20) {
            0..=4 => Self::Kill,
            5 => Self::Terminate,
            6 => Self::Interrupt,
            7 => Self::InterruptTwice,
            8 => Self::Pause,
            9 => Self::Freeze,
            10 | 11 => Self::Restart(dice.below(1500)),
            12 | 13 => Self::Crash(dice.below(1500)),
            14 => Self::Weather,
            15 => Self::Stall,
            16 => Self::Cut,
            17 => Self::Hang,
            _ => Self::Other,
        }
    }
}

/// Two hosts on one database.
struct Field<'a> {
    site: &'a Site,
    db: &'a mut Database,
    url: String,
    hosts: [Library; 2],
    runs: [Option<Run>; 2],
}

impl<'a> Field<'a> {
    async fn new(site: &'a Site, db: &'a mut Database, number: u64) -> Self {
        let mut connection = PgConnection::connect(&db.url).await.unwrap();
        let name = format!("soak_{number}");
        let sql = format!("create database {name} encoding 'UTF8' template template0");
        sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let mut url: url::Url = db.url.parse().unwrap();
        url.set_path(&name);
        let url = url.to_string();
        let hosts = [Library::on(&url), Library::on(&url)];
        Self { site, db, hosts, runs: [None, None], url }
    }

    /// Starts a host, with everything to list or for what is queued.
    fn begin(&mut self, host: usize, list: bool) {
        let sources = if list { self.site.sources() } else { Vec::new() };
        let mut command = ingest(&self.hosts[host], &sources);
        command.env("SPOKEN_TOOLS_DIR", hanging_tools(&self.hosts[host]).0).env("IO_WORKERS", "6");
        // yt-dlp may be silent for eight times as long: on a machine that is busy with other things it takes seconds to start.
        command.env("NETWORK_TIMEOUT", "4");
        self.runs[host] = Some(Run::start(command));
    }

    /// Lets the first host come to the moment of the next fault: so many events, and a little more.
    async fn come_to_the_moment(&mut self, dice: &mut Dice) {
        // Listing takes longer than everything else: it is not repeated each time once all is known.
        let again = dice.below(4) == 0;
        if self.runs[0].as_mut().is_none_or(Run::is_over) {
            if let Some(run) = self.runs[0].take() {
                check(&run.wait());
            }
            let list = again || self.count("").await < 50 || self.count("where state <> 'done'").await == 0;
            self.begin(0, list);
        }
        // Events come in bursts; the pause takes the moment off them.
        let (events, pause) = (dice.below(60), Duration::from_millis(dice.below(150)));
        let run = self.runs[0].as_mut().expect("begun above");
        for _ in 0..events {
            let told = |e: &Value| matches!(e["event"].as_str(), Some(n) if n.starts_with("item_") || n == "step_started");
            // A database that is away for long, or a hanging tool, brings no event: then this is the moment.
            if run.next_within(Duration::from_secs(4), told).is_none() {
                break;
            }
        }
        std::thread::park_timeout(pause);
    }

    /// Items of which this holds; none where there is no library yet.
    async fn count(&self, filter: &str) -> i64 {
        let made = "select count(*) from information_schema.tables where table_name = 'media'";
        match number(&self.url, made).await {
            0 => 0,
            _ => number(&self.url, &format!("select count(*) from media {filter}")).await,
        }
    }

    async fn strike(&mut self, strike: Strike, dice: &mut Dice) {
        let first = |field: &Self, signal| {
            if let Some(run) = &field.runs[0] {
                run.signal(signal);
            }
        };
        match strike {
            Strike::Kill => {
                first(self, Signal::SIGKILL);
                self.ended(0);
                // Alone it was, so that nobody else holds anything.
                if self.runs[1].as_mut().is_none_or(Run::is_over) {
                    self.ended(1);
                    invariants(&self.url, &[&self.hosts[0], &self.hosts[1]], Rest::Killed).await;
                }
            }
            Strike::Terminate => {
                first(self, Signal::SIGTERM);
                self.ended(0);
            }
            Strike::Interrupt => {
                first(self, Signal::SIGINT);
                self.ended(0);
            }
            Strike::InterruptTwice => {
                first(self, Signal::SIGINT);
                std::thread::park_timeout(Duration::from_millis(dice.below(300)));
                first(self, Signal::SIGINT);
                self.ended(0);
            }
            Strike::Pause | Strike::Freeze => {
                let ms = if matches!(strike, Strike::Pause) { 100 + dice.below(900) } else { 4000 };
                if let Some(run) = &self.runs[0] {
                    run.freeze();
                }
                std::thread::park_timeout(Duration::from_millis(ms));
                first(self, Signal::SIGCONT);
            }
            Strike::Restart(away) | Strike::Crash(away) => {
                let orderly = matches!(strike, Strike::Restart(_));
                self.db.end(if orderly { Signal::SIGINT } else { Signal::SIGKILL });
                std::thread::park_timeout(Duration::from_millis(away));
                self.db.start().await;
            }
            Strike::Weather => {
                self.site.server.bad_weather(3, dice.below(1 << 30));
                std::thread::park_timeout(Duration::from_millis(300 + dice.below(1500)));
                self.site.server.good_weather();
            }
            Strike::Stall | Strike::Cut => {
                for _ in 0..3 {
                    let path = &self.site.paths[dice.below(self.site.paths.len() as u64) as usize];
                    let at = dice.below(200_000) as usize;
                    let fault =
                        if matches!(strike, Strike::Stall) { Fault::Stall(at) } else { Fault::Cut(at) };
                    self.site.server.fail(path, [fault]);
                }
            }
            Strike::Hang => fs::write(hanging_tools(&self.hosts[0]).1, "").unwrap(),
            Strike::Other => {
                let works = self.runs[1].as_mut().is_some_and(|run| !run.is_over());
                if let Some(run) = self.runs[1].as_ref().filter(|_| works) {
                    run.signal(Signal::SIGKILL);
                }
                self.ended(1);
                if !works {
                    self.begin(1, dice.below(2) == 0);
                }
            }
        }
    }

    /// Waits for the end of a host's run, whatever it is.
    fn ended(&mut self, host: usize) {
        if let Some(run) = self.runs[host].take() {
            check(&run.wait());
        }
    }

    /// No more faults: lets everything come to its end.
    async fn finish(&mut self) -> Vec<String> {
        let _ = fs::remove_file(hanging_tools(&self.hosts[0]).1);
        self.site.server.calm();
        for host in [0, 1] {
            self.ended(host);
        }
        // What a host that died last left on its disk, its own next start takes up. The last has nobody to wait for.
        for host in [1, 0] {
            self.begin(host, true);
            let ended = self.runs[host].take().expect("just begun").wait();
            assert_eq!(ended.code, 0, "undisturbed: {ended}");
        }
        invariants(&self.url, &[&self.hosts[0], &self.hosts[1]], Rest::Finished).await;
        rows(&self.url).await
    }
}

/// Whatever was done to it, a run ends in one of these ways.
fn check(ended: &Ended) {
    // Done; some failed; the database went away at its very beginning or end; interrupted; killed.
    assert!([0, 1, 2, 3, 130, 137].contains(&ended.code), "{ended}");
    if [2, 3].contains(&ended.code) {
        assert!(ended.said.contains("database") || ended.said.contains("queue"), "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_faults_at_random_moments_change_nothing() {
    let rounds: u64 = match std::env::var("SPOKEN_TEST_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("SPOKEN_TEST_ROUNDS is a number"),
        Err(_) => {
            println!("skipped, it takes long: scripts/test --faults runs it");
            return;
        }
    };
    let seed: u64 = std::env::var("SPOKEN_TEST_SEED")
        .map_or(1, |seed| seed.parse().expect("SPOKEN_TEST_SEED is a number"));
    println!("{rounds} rounds, seed {seed}: scripts/test --faults {rounds} {seed} draws the same");
    let (mut dice, site) = (Dice(seed), Site::new().await);
    let mut db = Database::new().await;
    let undisturbed = {
        let mut field = Field::new(&site, &mut db, 0).await;
        let began = Instant::now();
        field.begin(0, true);
        let ended = field.runs[0].take().expect("just begun").wait();
        assert_eq!((ended.code, ended.outcome()), (0, [50, 0, 0]), "{ended}");
        println!("undisturbed: {:.1?}, {} rows", began.elapsed(), rows(&field.url).await.len());
        field.finish().await
    };
    assert!(site.folder.is_dir());
    let mut done = 0;
    for library in 1.. {
        if done == rounds {
            break;
        }
        let mut field = Field::new(&site, &mut db, library).await;
        let mut struck = Vec::new();
        for _ in 0..ROUNDS_EACH.min(rounds - done) {
            field.come_to_the_moment(&mut dice).await;
            let strike = Strike::draw(&mut dice);
            let finished = field.count("where state = 'done'").await;
            done += 1;
            println!("round {done}: {strike:?} with {finished} of 50 done");
            struck.push(format!("{strike:?}"));
            field.strike(strike, &mut dice).await;
        }
        let rows = field.finish().await;
        let lost: Vec<_> = undisturbed.iter().filter(|row| !rows.contains(row)).collect();
        let more: Vec<_> = rows.iter().filter(|row| !undisturbed.contains(row)).collect();
        assert!(
            lost.is_empty() && more.is_empty(),
            "seed {seed}, library {library}, after {struck:?}:\nlost {lost:#?}\nmore {more:#?}"
        );
        println!("library {library}: all {} rows as undisturbed", rows.len());
    }
    println!("{done} rounds: nothing lost, nothing doubled");
}

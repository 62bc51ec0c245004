//! Every fault that the program must survive, done to the real program with a real Postgres and a media server that
//! misbehaves; and after each the same invariants ([`invariants`]).
//!
//! | fault | where |
//! | --- | --- |
//! | SIGKILL in each stage; on the same host, on another one | `death`, `company`; at random moments: `kill` |
//! | SIGKILL between commit and the job's deletion | `death` |
//! | SIGTERM, SIGINT, and a second one | `death`; `kill`; while the database is away: `database` |
//! | two daemons, overlapping runs | `company`; `kill`; on one machine the second leaves: `sync` |
//! | a worker stopped past its lease, then continued | `company` |
//! | database restart, short and long outage | `database`; `queue` |
//! | the database's disk full, the media's disk full | `database`, `media` |
//! | a download stalls, is cut, is slow | `media`; `sources` |
//! | truncated media | `media`; `bad_input` |
//! | an item that crashes the process | `death`; `queue` |
//! | the GPU's memory runs out | unit test `transcribe::tests::memory_that_runs_out_costs_no_window_…`, with an engine that runs out of it |
//! | yt-dlp (or the ffmpeg it starts) hangs | `media`; `sources` |
//! | the same video from two lists | `company`; `ingest` |
//!
//! Moments are chosen from the program's own events, never by the clock. What takes long by its nature (real lease times,
//! minutes without a database) runs only where `SPOKEN_TEST_FAULTS=long` says so, as `scripts/test --faults` does.

mod company;
mod database;
mod death;
mod media;
mod soak;

use std::collections::HashMap;
use std::fs;
use std::io::BufRead;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use spoken::postgres::{Server as Postgres, ServerOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use super::cli::{Library, in_time, left_in, until};
use super::postgres::tools_dir;
use super::server::{Fault, Page, Server};

/// How long anything here may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whether the long variants run; says so where they do not.
fn long(what: &str) -> bool {
    let long = std::env::var("SPOKEN_TEST_FAULTS").is_ok_and(|v| v == "long");
    if !long {
        println!("skipped, it takes long: {what}; scripts/test --faults runs it");
    }
    long
}

/// Whether this is root, who may mount; says so where it is not.
fn may_mount() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: only root can make a disk that is full");
    }
    root
}

// ---- The program at work

#[derive(Default)]
struct Heard {
    lines: Vec<(Instant, String)>,
    ended: bool,
}

/// `spoken` at work. Its events are read all the time, so that it never waits for the test; killed when dropped.
struct Run {
    child: Child,
    started: Instant,
    heard: Arc<(Mutex<Heard>, Condvar)>,
    reader: Option<std::thread::JoinHandle<()>>,
    /// Lines up to here were waited for.
    seen: usize,
}

/// How a [`Run`] ended.
#[derive(Debug)]
struct Ended {
    /// Exit code, or 128 + the signal's number.
    code: i32,
    /// What `--json` printed; null where nothing was.
    summary: Value,
    /// Every event.
    events: Vec<Value>,
    /// All of standard error.
    said: String,
}

impl Run {
    /// Starts a command that writes events to standard error.
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let started = Instant::now();
        let heard: Arc<(Mutex<Heard>, Condvar)> = Arc::default();
        let from = std::io::BufReader::new(child.stderr.take().unwrap());
        let to = Arc::clone(&heard);
        let reader = std::thread::spawn(move || {
            for line in from.lines().map_while(Result::ok) {
                to.0.lock().unwrap().lines.push((Instant::now(), line));
                to.1.notify_all();
            }
            to.0.lock().unwrap().ended = true;
            to.1.notify_all();
        });
        Self { child, started, heard, reader: Some(reader), seen: 0 }
    }

    /// Waits for an event that `wanted` accepts, after those waited for before; none where the program ended before
    /// that. Returns when it came, counted from the start.
    fn next(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Option<(Duration, Value)> {
        let found = self.next_within(PATIENCE, wanted);
        assert!(
            found.is_some() || self.heard.0.lock().unwrap().ended,
            "waited too long for {what}:\n{}",
            self.said()
        );
        found
    }

    /// As [`Self::next`], but waits no longer than `patience`; none where nothing came.
    fn next_within(
        &mut self,
        patience: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Option<(Duration, Value)> {
        let until = Instant::now() + patience;
        let mut heard = self.heard.0.lock().unwrap();
        loop {
            while let Some((at, line)) = heard.lines.get(self.seen) {
                self.seen += 1;
                if let Ok(event) = serde_json::from_str::<Value>(line)
                    && wanted(&event)
                {
                    return Some((*at - self.started, event));
                }
            }
            if heard.ended {
                return None;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            heard = self.heard.1.wait_timeout(heard, left).unwrap().0;
        }
    }

    /// Waits for an event that `wanted` accepts.
    fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> (Duration, Value) {
        match self.next(what, wanted) {
            Some(found) => found,
            None => panic!("ended before {what}:\n{}", self.said()),
        }
    }

    /// Waits for an event of this name.
    fn until_event(&mut self, name: &str) -> (Duration, Value) {
        self.until(name, |e| e["event"] == name)
    }

    /// Waits until an item enters `step`.
    fn until_step(&mut self, step: &str) -> (Duration, Value) {
        self.until(step, |e| e["event"] == "step_started" && e["step"] == step)
    }

    /// Waits for an event of this name; the program may end before, and then there is none.
    fn until_said(&mut self, text: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            if self.said().contains(text) {
                return;
            }
            assert!(!self.heard.0.lock().unwrap().ended, "ended before it said {text:?}:\n{}", self.said());
            assert!(Instant::now() < until, "waited too long for {text:?}:\n{}", self.said());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Waits for something that it does elsewhere.
    fn until_true(&mut self, what: &str, mut condition: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !condition() {
            assert!(!self.is_over(), "ended before {what}:\n{}", self.said());
            assert!(Instant::now() < until, "waited too long for {what}:\n{}", self.said());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    fn said(&self) -> String {
        let heard = self.heard.0.lock().unwrap();
        heard.lines.iter().map(|(_, l)| l.as_str()).collect::<Vec<_>>().join("\n")
    }

    fn signal(&self, signal: Signal) {
        // Fails where it has ended by itself, which the end tells.
        let _ = kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal);
    }

    /// Stops it for a while, and returns when it has stopped: one thread takes the signal and stops the others, and as long
    /// as that one waits for a processor they go on.
    fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let threads = format!("/proc/{}/task", self.child.id());
        until("every thread has stopped", || {
            // Gone, or ended and not waited for yet, it stands still too.
            fs::read_dir(&threads).into_iter().flatten().flatten().all(|thread| {
                fs::read_to_string(thread.path().join("stat")).map_or(true, |stat| {
                    stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with(['T', 't', 'Z', 'X']))
                })
            })
        });
    }

    fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    fn wait(mut self) -> Ended {
        use std::os::unix::process::ExitStatusExt;
        let waiting = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(waiting.elapsed() < 2 * PATIENCE, "it does not end:\n{}", self.said());
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let status = self.child.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        let mut out = String::new();
        std::io::Read::read_to_string(&mut self.child.stdout.take().unwrap(), &mut out).unwrap();
        let said = self.said();
        assert!(!said.contains("panicked"), "{said}");
        Ended {
            code: status.code().or(status.signal().map(|s| 128 + s)).unwrap(),
            summary: serde_json::from_str(&out).unwrap_or_default(),
            events: said.lines().filter_map(|l| serde_json::from_str(l).ok()).collect(),
            said,
        }
    }

    /// Kills it and waits for its end.
    fn kill(self) -> Ended {
        self.signal(Signal::SIGKILL);
        self.wait()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// `[done, failed, skipped]`.
    fn outcome(&self) -> [i64; 3] {
        ["done", "failed", "skipped"].map(|name| self.summary[name].as_i64().unwrap_or(-1))
    }

    /// How often an event of this name came, for each item.
    fn count(&self, name: &str) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for event in self.events.iter().filter(|e| e["event"] == name) {
            let id = event["media_id"].as_str().unwrap_or_default().to_owned();
            *counts.entry(id).or_default() += 1;
        }
        counts
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code {}, {}\n{}", self.code, self.summary, self.said)
    }
}

/// `spoken ingest` with its events, one second of patience with the network, and a lease of two seconds.
fn ingest(library: &Library, sources: &[&str]) -> Command {
    let mut arguments = vec!["ingest", "--json", "--log-format", "json"];
    arguments.extend(sources);
    let mut command = library.command(&arguments);
    command.env("NETWORK_TIMEOUT", "1").env("LEASE_SECONDS", "2");
    command
}

/// A run that nobody disturbs, which must do everything.
fn finish(library: &Library, sources: &[&str]) -> Ended {
    let ended = Run::start(ingest(library, sources)).wait();
    assert_eq!(ended.code, 0, "{ended}");
    ended
}

// ---- Its database

/// A Postgres of its own that the test stops, kills and starts as it likes.
struct Database {
    options: ServerOptions,
    url: String,
    server: Option<Postgres>,
    dir: Option<TempDir>,
}

impl Database {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut database = Self::at(ServerOptions::new(dir.path().join("data"), tools_dir())).await;
        database.dir = Some(dir);
        database
    }

    async fn at(options: ServerOptions) -> Self {
        let server = Postgres::start(&options).await.unwrap();
        Self { url: server.url().to_owned(), options, server: Some(server), dir: None }
    }

    fn pid_file(&self) -> PathBuf {
        self.options.data_dir.join("postgres/data/postmaster.pid")
    }

    /// Ends the server: SIGINT is an orderly restart's beginning, SIGKILL a crash.
    fn end(&self, signal: Signal) {
        let text = fs::read_to_string(self.pid_file()).unwrap();
        let pid = Pid::from_raw(text.lines().next().unwrap().trim().parse().unwrap());
        kill(pid, signal).unwrap();
        let gone = || {
            fs::read_to_string(format!("/proc/{pid}/stat"))
                .map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, s)| s.starts_with('Z')))
        };
        until("the server has ended", gone);
    }

    /// Starts it again, whatever became of it.
    async fn start(&mut self) {
        let again = Postgres::start(&self.options).await.unwrap();
        assert_eq!(again.url(), self.url);
        drop(self.server.replace(again));
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, options) = (self.server.take(), self.options.clone());
        // The test's own runtime may be unwinding.
        let stopped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                drop(server);
                Postgres::stop(&options).await
            })
        })
        .join();
        if let Ok(Err(error)) = stopped {
            eprintln!("the test's server was left: {error}");
        }
        drop(self.dir.take());
    }
}

/// Runs a statement.
async fn execute(url: &str, sql: &'static str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// One number.
async fn number(url: &str, sql: &str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let sql = AssertSqlSafe(format!("select ({sql})::bigint"));
    let number = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    number
}

/// Waits until a condition holds in the database.
async fn until_true(url: &str, what: &str, sql: &'static str) {
    let started = Instant::now();
    loop {
        if let Ok(mut connection) = PgConnection::connect(url).await {
            let holds = sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut connection).await;
            let _ = connection.close().await;
            if holds.unwrap_or(false) {
                return;
            }
        }
        assert!(started.elapsed() < PATIENCE, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// ---- What must hold

/// How the work ended, and so what may be left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Everything was worked off.
    Finished,
    /// It was asked to stop: unfinished items wait, each with its job.
    Stopped,
    /// It was killed: the next start finds jobs that a dead process holds, its identity, and files of unfinished items.
    Killed,
}

/// What must hold after every fault, in the database and on the disk of every host that works on it. No process of
/// theirs may run.
async fn invariants(url: &str, hosts: &[&Library], rest: Rest) {
    for host in hosts {
        until("no process is left behind", || host.processes().is_empty());
    }
    // A server's session outlives its client by the statement it is at.
    until_true(
        url,
        "no session and no lock is left",
        "select not exists (select from pg_stat_activity where datname = current_database() \
            and application_name like 'spoken%' and pid <> pg_backend_pid()) \
         and not exists (select from pg_locks l join pg_database d on d.oid = l.database \
            where l.locktype = 'advisory' and d.datname = current_database())",
    )
    .await;
    const ALWAYS: &[(&str, &str)] = &[
        (
            "items in no known state",
            "select count(*) from media where state not in ('queued', 'active', 'done', 'failed')",
        ),
        (
            "done items whose segments are not all there, once",
            "select count(*) from media m where state = 'done' and (segments is distinct from \
                (select count(*) from segments s where s.media_id = m.media_id) or segments is distinct from \
                (select max(seq) + 1 from segments s where s.media_id = m.media_id))",
        ),
        (
            "done items with segments outside of passages",
            "select count(*) from segments s where not exists (select from passages p where \
                p.media_id = s.media_id and p.first_segment <= s.seq and p.end_segment > s.seq)",
        ),
        (
            "done items without length, language or models, or with an error",
            "select count(*) from media where state = 'done' and (duration_ms is null or language is null or model is null \
                or embedding_model is null or finished_at is null or error is not null or retry_at is not null)",
        ),
        (
            "segments or passages of items that are not done",
            "select count(*) from media m where state <> 'done' and (exists (select from segments s where \
                s.media_id = m.media_id) or exists (select from passages p where p.media_id = m.media_id))",
        ),
        (
            "results of nothing",
            "select count(*) from (select media_id from segments union select media_id from passages) r \
                where not exists (select from media m where m.media_id = r.media_id)",
        ),
        (
            "failed items without a reason",
            "select count(*) from media where state = 'failed' and (error is null or error_class is null)",
        ),
        (
            "items that nobody listed",
            "select count(*) from media m where not exists (select from media_sources s where s.media_id = m.media_id)",
        ),
        (
            "active items without a job",
            "select count(*) from media m where state = 'active' and not exists (select from graphile_worker._private_jobs j \
                where j.key = 'media:' || m.media_id || ':' || m.generation)",
        ),
        (
            "items with two jobs",
            "select count(*) from (select payload->>'media_id' from graphile_worker._private_jobs where key is not null \
                group by 1 having count(*) > 1) twice",
        ),
    ];
    const AT_REST: &[(&str, &str)] = &[
        ("active items", "select count(*) from media where state = 'active'"),
        (
            "waiting items without a job",
            "select count(*) from media m where state = 'queued' and not exists (select from graphile_worker._private_jobs j \
                where j.key = 'media:' || m.media_id || ':' || m.generation)",
        ),
        (
            "jobs of items that need none",
            "select count(*) from graphile_worker._private_jobs j where not exists (select from media m \
                where j.key = 'media:' || m.media_id || ':' || m.generation and m.state = 'queued')",
        ),
        (
            "jobs that somebody holds",
            "select count(*) from graphile_worker._private_jobs where locked_by is not null",
        ),
        ("workers that are said to live", "select count(*) from graphile_worker._private_workers"),
    ];
    const AT_THE_END: &[(&str, &str)] = &[
        (
            "items that are neither done nor failed",
            "select count(*) from media where state in ('queued', 'active')",
        ),
        ("jobs", "select count(*) from graphile_worker._private_jobs"),
    ];
    let mut broken = Vec::new();
    let mut connection = PgConnection::connect(url).await.unwrap();
    let more = match rest {
        Rest::Finished => [AT_REST, AT_THE_END].as_slice(),
        Rest::Stopped => &[AT_REST],
        Rest::Killed => &[],
    };
    for &(what, sql) in ALWAYS.iter().chain(more.iter().copied().flatten()) {
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
        if count != 0 {
            broken.push(format!("{count} {what}"));
        }
    }
    let tables: Vec<String> = sqlx::query_scalar("select table_name from embedding_models")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    for table in tables {
        let sql = format!(
            "select count(*) from {table} v full join passages p using (media_id, seq) \
             where v.embedding is null or p.text is null"
        );
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut connection).await.unwrap();
        if count != 0 {
            broken.push(format!("{count} passages without vectors or the reverse"));
        }
    }
    let unfinished: Vec<String> =
        sqlx::query_scalar("select media_id::text from media where state in ('queued', 'active')")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    connection.close().await.unwrap();
    for host in hosts {
        let left = host.spooled();
        let stray: Vec<_> = left
            .iter()
            .filter(|path| {
                let of_an_unfinished =
                    path.components().any(|c| unfinished.iter().any(|id| c.as_os_str() == id.as_str()));
                // The folder of a process, which may hold some.
                let folder = path.parent() == Some(&host.data().join("spool")) && path.is_dir();
                rest == Rest::Finished || !(of_an_unfinished || folder)
            })
            .collect();
        if rest != Rest::Killed && !stray.is_empty() {
            broken.push(format!("left in the spool: {stray:?}"));
        }
        if rest != Rest::Killed {
            let identities = left_in(&host.data().join("workers"));
            if !identities.is_empty() {
                broken.push(format!("identities left: {identities:?}"));
            }
        }
    }
    assert!(broken.is_empty(), "after it was {rest:?}: {broken:#?}");
}

// ---- Its media

/// A feed with these addresses.
fn feed(entries: &[(String, String)]) -> Page {
    let items: String = entries
        .iter()
        .map(|(title, url)| {
            format!("<item><title>{title}</title><enclosure url=\"{url}\" type=\"audio/wav\"/></item>")
        })
        .collect();
    Page::new(
        "application/rss+xml",
        format!(
            "<?xml version=\"1.0\"?><rss version=\"2.0\"><channel><title>F</title>{items}</channel></rss>"
        ),
    )
}

/// Lets the listing look at a file before what the test wants happens: it reads the beginning.
fn after_the_listing(server: &Server, path: &str, faults: impl IntoIterator<Item = Fault>) {
    server.fail(path, [Fault::Slow(1 << 20, Duration::ZERO)]);
    server.fail(path, faults);
}

/// Knuth's MMIX generator: the same seed, the same numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }
}

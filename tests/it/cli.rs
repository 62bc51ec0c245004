//! What the tests of the whole program share: a library of its own, the program run as a user runs it, and speech made
//! to measure with its exact truth.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use super::postgres::tools_dir;

/// How long anything here may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The embedding model that the set-up makes.
pub fn embedding_model() -> PathBuf {
    tools_dir().join("models/all-minilm-l6-v2")
}

/// A data directory of its own, with everything that a run of the program needs to know. When dropped, its server is
/// stopped and the directory removed.
pub struct Library {
    dir: TempDir,
    /// `DATABASE_URL`; the private server where there is none.
    database: Option<String>,
}

impl Library {
    /// An empty one. Nothing runs yet.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        for part in ["home", "cwd", "data"] {
            fs::create_dir(dir.path().join(part)).unwrap();
        }
        Self { dir, database: None }
    }

    /// An empty one whose database is elsewhere: no server of its own is made.
    pub fn on(database: &str) -> Self {
        let mut library = Self::new();
        library.database = Some(database.to_owned());
        library
    }

    /// As [`Self::new`], with its server started to stay: each command then costs less.
    pub fn with_server() -> Self {
        let library = Self::new();
        library.ok(&["db", "start"]);
        library
    }

    /// `SPOKEN_DATA_DIR`.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The current directory of the commands; empty at first.
    pub fn cwd(&self) -> PathBuf {
        self.dir.path().join("cwd")
    }

    /// A new folder beside the data.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// The program with these arguments: the one just built, or `SPOKEN_TEST_BINARY`. Nothing of this process's environment but the search path reaches it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let built = env!("CARGO_BIN_EXE_spoken").into();
        let mut command = Command::new(std::env::var_os("SPOKEN_TEST_BINARY").unwrap_or(built));
        command
            .args(arguments)
            .current_dir(self.cwd())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path().join("home"))
            .env("TMPDIR", self.dir.path())
            .env("SPOKEN_DATA_DIR", self.data())
            .env("SPOKEN_TOOLS_DIR", tools_dir())
            .env("WHISPER_MODEL", repository().join("tests/fixtures/whisper-micro"))
            .env("EMBEDDING_MODEL", embedding_model())
            // Greedy: what is tested here is not the search.
            .env("BEAM_SIZE", "1")
            // Servers of tests listen on this machine.
            .env("ALLOW_PRIVATE_ADDRESSES", "true")
            .stdin(Stdio::null());
        if let Some(database) = &self.database {
            command.env("DATABASE_URL", database);
        }
        command
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.command(arguments))
    }

    /// Runs it; it must succeed.
    pub fn ok(&self, arguments: &[&str]) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran}");
        ran
    }

    /// Runs it with something to read on its standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ran::from(child.wait_with_output().unwrap())
    }

    /// `spoken status --json`.
    pub fn status(&self) -> Value {
        self.ok(&["status", "--json"]).json()
    }

    /// The items of the library, by title.
    pub fn items(&self) -> Vec<Value> {
        let mut items = self.status()["items"].as_array().unwrap().clone();
        items.sort_by_key(|item| item["title"].as_str().unwrap().to_owned());
        items
    }

    /// `[queued, active, done, failed]`.
    pub fn counts(&self) -> [u64; 4] {
        let status = self.status();
        ["queued", "active", "done", "failed"].map(|state| status["counts"][state].as_u64().unwrap())
    }

    /// `spoken export … --format json`.
    pub fn export(&self, media: &str) -> Value {
        self.ok(&["export", media, "--format", "json"]).json()
    }

    /// What was said in every item, by title: what two runs must agree about.
    pub fn transcripts(&self) -> Vec<(String, Value)> {
        self.items()
            .iter()
            .map(|item| {
                let export = self.export(item["media_id"].as_str().unwrap());
                (item["title"].as_str().unwrap().to_owned(), export["segments"].clone())
            })
            .collect()
    }

    /// One number from the database. Leaves the server running.
    pub fn query(&self, sql: &'static str) -> i64 {
        let url = self.ok(&["db", "url"]).stdout;
        on_a_runtime(async move {
            let mut connection = PgConnection::connect(url.trim()).await.unwrap();
            let count = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            count
        })
    }

    /// What every library must fulfil when nothing works on it: done items are complete, nothing else is there, no job
    /// and no file is left. Leaves the server running.
    pub fn assert_in_order(&self) {
        for (what, sql) in [
            (
                "items that are neither done nor failed",
                "select count(*) from media where state in ('queued', 'active')",
            ),
            ("jobs left", "select count(*) from graphile_worker._private_jobs"),
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
                "segments or passages of items that are not done",
                "select count(*) from media m where state <> 'done' and (exists (select from segments s where \
                 s.media_id = m.media_id) or exists (select from passages p where p.media_id = m.media_id))",
            ),
        ] {
            assert_eq!(self.query(sql), 0, "{what}");
        }
        assert_eq!(self.vectors_without_passage_or_reverse(), 0, "passages without vectors or the reverse");
        assert_eq!(self.spooled(), Vec::<PathBuf>::new(), "left in the spool");
        assert_eq!(left_in(&self.data().join("workers")), Vec::<PathBuf>::new(), "identities left");
    }

    fn vectors_without_passage_or_reverse(&self) -> i64 {
        let url = self.ok(&["db", "url"]).stdout;
        on_a_runtime(async move {
            let mut connection = PgConnection::connect(url.trim()).await.unwrap();
            let table: String = sqlx::query_scalar(
                "select table_name from embedding_models join answering using (model_id, dimension)",
            )
            .fetch_one(&mut connection)
            .await
            .unwrap();
            let sql = format!(
                "select count(*) from {table} v full join passages p using (media_id, seq) \
                 where v.embedding is null or p.text is null"
            );
            let count =
                sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            count
        })
    }

    /// Files and folders in the spool.
    pub fn spooled(&self) -> Vec<PathBuf> {
        left_in(&self.data().join("spool"))
    }

    /// Processes that work for this library, told by its folder in their arguments or environment, without those that
    /// the private server consists of.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let mark = self.dir.path().to_str().unwrap().as_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            let ours = ["cmdline", "environ"]
                .iter()
                .any(|name| read(name).windows(mark.len()).any(|window| window == mark));
            let name = String::from_utf8_lossy(&read("comm")).trim().to_owned();
            let dead = String::from_utf8_lossy(&read("stat")).contains(") Z");
            if ours && !dead && name != "postgres" {
                found.push((pid, name));
            }
        }
        found
    }

    /// True while the private server runs.
    pub fn server_runs(&self) -> bool {
        let pid = fs::read_to_string(self.data().join("postgres/data/postmaster.pid")).unwrap_or_default();
        pid.lines().next().is_some_and(|pid| {
            fs::read_to_string(format!("/proc/{}/comm", pid.trim()))
                .is_ok_and(|name| name.trim() == "postgres")
        })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // A test that failed may have left something running; nothing can be done about a failure here.
        for (pid, _) in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if self.database.is_none() {
            let _ = self.command(&["db", "stop"]).output();
        }
    }
}

/// `limit` as it is on an idle machine; more where other programs want the processors as well.
pub fn in_time(limit: Duration) -> Duration {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = load.split(' ').next().and_then(|load| load.parse::<f64>().ok()).unwrap_or(0.0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    limit.mul_f64((running / cores as f64).max(1.0))
}

/// Everything below `root`, except empty folders of its own first level.
pub fn left_in(root: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(root).min_depth(1).into_iter().flatten().map(walkdir::DirEntry::into_path).collect()
}

/// Tests run in threads without a runtime, or block one on purpose.
fn on_a_runtime<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(task)
    });
    thread.join().unwrap()
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; 128 + the signal's number where a signal ended it, as shells count.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Ran {
    /// Standard output as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// Standard output as one JSON value a line.
    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self}")))
            .collect()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let ran = Self {
            code: output.status.code().or(output.status.signal().map(|s| 128 + s)).unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            took: Duration::ZERO,
        };
        // Whatever is tested, this is never right.
        assert!(!ran.stderr.contains("panicked"), "{ran}");
        ran
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code {}\n--- stdout\n{}\n--- stderr\n{}", self.code, self.stdout, self.stderr)
    }
}

/// Runs a command to its end.
pub fn finish(mut command: Command) -> Ran {
    let started = Instant::now();
    let ran = Ran::from(command.output().unwrap());
    Ran { took: started.elapsed(), ..ran }
}

/// A command at work, whose events (`--log-format json`) are read as they come. Killed when dropped.
pub struct Working {
    child: Child,
    events: std::io::Lines<std::io::BufReader<std::process::ChildStderr>>,
    said: Vec<String>,
}

impl Working {
    /// Starts it.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let events = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
        Self { child, events, said: Vec::new() }
    }

    /// The next line of standard error; none at its end.
    pub fn line(&mut self) -> Option<String> {
        let line = self.events.next()?.unwrap();
        self.said.push(line.clone());
        Some(line)
    }

    /// Reads until a line contains `text`.
    pub fn until(&mut self, text: &str) {
        loop {
            match self.line() {
                Some(line) if line.contains(text) => return,
                Some(_) => {}
                None => panic!("ended before it said {text:?}:\n{}", self.said.join("\n")),
            }
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Ran {
        let started = Instant::now();
        while self.line().is_some() {}
        let mut stdout = Vec::new();
        std::io::Read::read_to_end(&mut self.child.stdout.take().unwrap(), &mut stdout).unwrap();
        let status = self.child.wait().unwrap();
        let ran = Ran::from(Output { status, stdout, stderr: self.said.join("\n").into_bytes() });
        Ran { took: started.elapsed(), ..ran }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for something that another process does.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A sentence that is said in a file.
#[derive(Clone, Debug, Deserialize)]
pub struct Sentence {
    /// Start of its first sound, seconds.
    pub start: f64,
    /// End of its last sound, seconds.
    pub end: f64,
    /// The words.
    pub text: String,
}

/// What is said in a file.
#[derive(Clone, Debug, Deserialize)]
pub struct Truth {
    /// Length in seconds.
    pub duration: f64,
    /// In order.
    pub sentences: Vec<Sentence>,
}

impl Truth {
    /// Reads what `make_speech.py` wrote.
    pub fn read(path: &Path) -> Self {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }
}

/// Made speech: the file and its truth. The format follows the name; the same arguments give the same file, which is
/// kept in the target directory.
pub fn speech(name: &str, seed: u32, seconds: u32, more: &[&str]) -> (PathBuf, Truth) {
    let script = repository().join("tests/fixtures/make_speech.py");
    let (seed, seconds) = (seed.to_string(), seconds.to_string());
    let mut arguments = vec!["--seed", &seed, "--seconds", &seconds];
    arguments.extend(more);
    let mut key = blake3::Hasher::new();
    key.update(&fs::read(&script).unwrap()).update(format!("{name} {arguments:?}").as_bytes());
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("speech");
    let dir = kept.join(&key.finalize().to_hex()[..16]);
    if !dir.is_dir() {
        fs::create_dir_all(&kept).unwrap();
        // Made aside and renamed: tests run at the same time.
        let aside = tempfile::tempdir_in(&kept).unwrap();
        let out = aside.path().join(name);
        shell(Command::new("python3").arg(&script).args(&arguments).arg("--out").arg(&out));
        fs::set_permissions(aside.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Fails where another test was quicker, whose file is the same.
        if fs::rename(aside.path(), &dir).is_ok() {
            let _ = aside.keep();
        }
    }
    let file = dir.join(name);
    let truth = Truth::read(&dir.join(format!("{name}.json")));
    (file, truth)
}

/// Speech of several kinds, made two at a time: `(name, seed, seconds, more)`.
pub fn speeches(wanted: &[(&str, u32, u32, &[&str])]) -> Vec<(PathBuf, Truth)> {
    std::thread::scope(|scope| {
        let halves = [0, 1].map(|half| {
            scope.spawn(move || {
                let mine = wanted.iter().skip(half).step_by(2);
                mine.map(|&(name, seed, seconds, more)| speech(name, seed, seconds, more)).collect::<Vec<_>>()
            })
        });
        let [even, odd] = halves.map(|half| half.join().unwrap().into_iter());
        let (mut even, mut odd) = (even, odd);
        (0..wanted.len()).map(|n| if n % 2 == 0 { even.next() } else { odd.next() }.unwrap()).collect()
    })
}

/// Runs a tool of the test; it must succeed.
pub fn shell(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// ffmpeg with these arguments.
pub fn ffmpeg(arguments: &[&dyn AsRef<OsStr>]) {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-y"]).args(arguments.iter().map(|a| a.as_ref()));
    shell(&mut command);
}

/// The names of a JSON object's members, sorted.
pub fn names(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value
        .as_object()
        .unwrap_or_else(|| panic!("no object: {value}"))
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    names
}

//! One cluster on disk: its folder, its settings, its postmaster.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::statvfs;
use nix::unistd::{Pid, geteuid};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::account::Account;
use super::{ServerError, ServerOptions};

/// How often files are looked at while the server starts or stops.
const POLL: Duration = Duration::from_millis(20);
/// How often a line tells that it still starts.
const NOTICE_EVERY: Duration = Duration::from_secs(5);
/// A fast shutdown writes a checkpoint; this is far more than one takes.
const STOP_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest path of a Unix socket: `sun_path` has 108 bytes, one for the terminator.
const SOCKET_PATH_MAX: usize = 107;
/// Port 5432 is only the end of the socket's name: nothing listens on the network.
const PORT: u16 = 5432;

/// The folder `data_dir/postgres` and who runs what is in it.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    root: PathBuf,
    install: PathBuf,
    account: Account,
}

impl Cluster {
    /// Finds the binaries and makes the folder, with the right owner.
    pub(super) fn prepare(options: &ServerOptions) -> Result<Self, ServerError> {
        let binary = options.tools_dir.join("postgres/bin/postgres");
        if !binary.is_file() || !binary.with_file_name("initdb").is_file() {
            return Err(ServerError::MissingBinaries(options.tools_dir.join("postgres")));
        }
        make_data_dir(&options.data_dir)?;
        let root = options.data_dir.join("postgres");
        if let Err(e) = fs::DirBuilder::new().mode(0o700).create(&root)
            && e.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(ServerError::io("create", &root)(e));
        }
        let cluster = Self::resolve(&root, options)?;
        cluster.give(&cluster.root)?;
        Ok(cluster)
    }

    /// The folder if it exists, for looking and stopping; needs no binaries.
    pub(super) fn existing(options: &ServerOptions) -> Result<Option<Self>, ServerError> {
        let root = options.data_dir.join("postgres");
        if !root.join("data/PG_VERSION").try_exists().map_err(ServerError::io("look for", &root))? {
            return Ok(None);
        }
        Self::resolve(&root, options).map(Some)
    }

    fn resolve(root: &Path, options: &ServerOptions) -> Result<Self, ServerError> {
        let root = root.canonicalize().map_err(ServerError::io("resolve", root))?;
        let account = Account::choose(&root.join("data"))?;
        Ok(Self { root, install: options.tools_dir.join("postgres"), account })
    }

    pub(super) fn start_lock(&self) -> PathBuf {
        self.root.join("start.lock")
    }

    pub(super) fn users_lock(&self) -> PathBuf {
        self.root.join("users.lock")
    }

    pub(super) fn keep_marker(&self) -> PathBuf {
        self.root.join("keep")
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    fn log_dir(&self) -> PathBuf {
        self.root.join("log")
    }

    fn password_file(&self) -> PathBuf {
        self.root.join("password")
    }

    /// Makes `path` belong to whoever runs the server.
    pub(super) fn give(&self, path: &Path) -> Result<(), ServerError> {
        self.account.give(path)
    }

    pub(super) fn exists(&self) -> bool {
        self.data().join("PG_VERSION").exists()
    }

    /// Refuses a cluster of another major version. Nothing to check where there is none.
    pub(super) fn check_version(&self) -> Result<(), ServerError> {
        let path = self.data().join("PG_VERSION");
        let found = match fs::read_to_string(&path) {
            Ok(text) => text.trim().to_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(ServerError::io("read", &path)(e)),
        };
        let binary = self.install.join("bin/postgres");
        // `postgres (PostgreSQL) 18.4`; allowed for root too.
        let output = std::process::Command::new(&binary)
            .arg("--version")
            .output()
            .map_err(ServerError::io("run", &binary))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.split_whitespace().nth(2).unwrap_or_default();
        let installed = version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().to_owned();
        if found == installed {
            Ok(())
        } else {
            Err(ServerError::WrongMajor { data: self.data(), found, installed })
        }
    }

    /// `initdb`, into a folder that gets its name only when it is whole.
    pub(super) async fn create(&self) -> Result<(), ServerError> {
        let started = Instant::now();
        let fresh = self.root.join("data.new");
        // What a killed attempt left: no server ever ran on it.
        match fs::remove_dir_all(&fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(ServerError::io("remove", &fresh)(e));
            }
            _ => {}
        }
        self.write_password()?;
        let output = self
            .command(&[], "initdb")?
            .arg("--pgdata")
            .arg(&fresh)
            .arg("--pwfile")
            .arg(self.password_file())
            .args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--data-checksums"])
            // The built-in provider sorts the same on every machine, whatever its C library.
            .args(["--locale=C.UTF-8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"])
            .args(["--no-instructions"])
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(ServerError::io("run initdb for", &fresh))?;
        if !output.status.success() {
            return Err(ServerError::Init(last_lines(&String::from_utf8_lossy(&output.stderr), 10)));
        }
        fs::rename(&fresh, self.data()).map_err(ServerError::io("rename", &fresh))?;
        tracing::info!(ms = started.elapsed().as_millis() as u64, "database cluster created");
        Ok(())
    }

    /// A new random password, readable by the server's user (and root) only.
    fn write_password(&self) -> Result<(), ServerError> {
        use io::Write as _;
        let path = self.password_file();
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(ServerError::io("create", &path))?;
        // Two version 4 UUIDs: 244 random bits from the system, and no character that an address must escape.
        let password = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        file.write_all(password.as_bytes()).map_err(ServerError::io("write", &path))?;
        self.give(&path)
    }

    /// Starts the postmaster in a session of its own.
    pub(super) async fn launch(&self, timeout: Duration) -> Result<Postmaster, ServerError> {
        let logs = self.log_dir();
        make_dir(&logs)?;
        self.give(&logs)?;
        let socket_dir = self.socket_dir()?;
        let start_log = logs.join("start.log");
        let log = File::create(&start_log).map_err(ServerError::io("create", &start_log))?;
        self.give(&start_log)?;
        let to_log = || log.try_clone().map(Stdio::from).map_err(ServerError::io("open", &start_log));
        // `setsid` keeps the process id, being no group leader here; so the child is the postmaster.
        let mut command = self.command(&["setsid"], "postgres")?;
        command.arg("-D").arg(self.data()).arg("-p").arg(PORT.to_string());
        for setting in self.settings(&socket_dir) {
            command.arg("-c").arg(setting);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(to_log()?)
            .stderr(to_log()?)
            .spawn()
            .map_err(ServerError::io("start postgres on", &self.data()))?;
        let pid = child.id().unwrap_or_default();
        let mut postmaster = Postmaster { pid, socket_dir, child: Some(child) };
        postmaster.wait_ready(self, timeout).await?;
        Ok(postmaster)
    }

    /// A command of the installation, as the account that owns the cluster, in a clean environment
    /// (`PGPORT`, `PGDATA` and the like would change what it does).
    fn command(&self, before: &[&str], program: &str) -> Result<Command, ServerError> {
        let binary = self.install.join("bin").join(program);
        let binary = binary.canonicalize().map_err(|_| ServerError::MissingBinaries(self.install.clone()))?;
        let power = self.account.power(&self.root, &binary)?;
        let mut words: Vec<OsString> = before.iter().map(OsString::from).collect();
        words.extend(self.account.prefix(power));
        words.push(binary.into());
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).env_clear().current_dir(&self.root).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
        Ok(command)
    }

    /// `name=value` for everything that differs from Postgres's defaults, each with its reason.
    fn settings(&self, socket_dir: &Path) -> Vec<OsString> {
        let memory = memory_mb();
        let mut settings: Vec<OsString> = [
            // Private: one socket, in a directory that only its owner (and root) enters.
            "listen_addresses=".to_owned(),
            "unix_socket_permissions=0700".to_owned(),
            "cluster_name=spoken".to_owned(),
            // A pool for the database workers, one for the queue, and other processes (status, search, cron).
            "max_connections=100".to_owned(),
            // A search through an index of vectors reads a thousand pages at random, and each that has to come from the
            // kernel's cache takes as long as comparing two vectors: the graph of a million (1.2 GB) should fit. What no
            // library needs is never touched, and stays with the models.
            format!("shared_buffers={}MB", (memory / 8).clamp(64, 4096)),
            format!("effective_cache_size={}MB", (memory / 2).max(128)),
            // A page at random costs what any other does, in memory and on a solid-state disk; the default is a disk arm's.
            "random_page_cost=1.1".to_owned(),
            // Ordinary indexes; a build of a vector index asks for what it needs.
            format!("maintenance_work_mem={}MB", (memory / 16).clamp(64, 1024)),
            // The rows of a common word as a bitmap of rows, not of pages.
            "work_mem=16MB".to_owned(),
            // Bulk loads: fewer checkpoints, bounded recovery.
            "max_wal_size=1GB".to_owned(),
            "checkpoint_timeout=15min".to_owned(),
            // Short queries only: compiling them costs more than it saves.
            "jit=off".to_owned(),
            "timezone=UTC".to_owned(),
            "lc_messages=C".to_owned(),
            // A week of logs, then overwritten; statements are not logged, they may quote what was said.
            "logging_collector=on".to_owned(),
            "log_filename=postgres-%a.log".to_owned(),
            "log_file_mode=0600".to_owned(),
            "log_rotation_age=1d".to_owned(),
            "log_rotation_size=0".to_owned(),
            "log_truncate_on_rotation=on".to_owned(),
            "log_checkpoints=off".to_owned(),
            "log_min_error_statement=panic".to_owned(),
        ]
        .into_iter()
        .map(OsString::from)
        .collect();
        // Containers often have 64 MB of /dev/shm, which a parallel index build overflows.
        let shm = statvfs("/dev/shm").map_or(0, |s| s.blocks() * s.fragment_size());
        if shm < 1 << 30 {
            settings.push("dynamic_shared_memory_type=mmap".into());
        }
        let mut path_setting = |name: &str, path: &Path| {
            let mut setting = OsString::from(name);
            setting.push("=");
            setting.push(path);
            settings.push(setting);
        };
        path_setting("unix_socket_directories", socket_dir);
        path_setting("log_directory", &self.log_dir());
        settings
    }

    /// The cluster's folder, or where its name is too long for a socket (or holds a comma, which separates
    /// directories in the setting) a private one under `/tmp`.
    fn socket_dir(&self) -> Result<PathBuf, ServerError> {
        let bytes = self.root.as_os_str().as_encoded_bytes();
        let name = format!("/.s.PGSQL.{PORT}");
        if bytes.len() + name.len() <= SOCKET_PATH_MAX && !bytes.contains(&b',') {
            return Ok(self.root.clone());
        }
        let hash = blake3::hash(bytes).to_hex();
        let dir = PathBuf::from(format!("/tmp/spoken-{}", &hash[..16]));
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => self.give(&dir)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(ServerError::io("create", &dir)(e)),
        }
        let meta = fs::symlink_metadata(&dir).map_err(ServerError::io("look at", &dir))?;
        if !meta.is_dir() || !self.account.owns(&meta) || meta.mode() & 0o077 != 0 {
            return Err(ServerError::SocketDir(dir));
        }
        Ok(dir)
    }

    /// The postmaster that runs on this cluster, if one does.
    pub(super) fn postmaster(&self) -> Option<Postmaster> {
        let (file, data) = (self.pid_file()?, self.data());
        // A postmaster's working directory is its cluster: a stale file names no such process. In containers root
        // may not look at that (no CAP_SYS_PTRACE); the name will do there.
        let runs = match fs::read_link(format!("/proc/{}/cwd", file.pid)) {
            Ok(at) => at == data,
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                fs::read_to_string(format!("/proc/{}/comm", file.pid))
                    .is_ok_and(|name| name.trim() == "postgres")
            }
            Err(_) => false,
        };
        (runs && !is_gone(file.pid)).then(|| Postmaster {
            pid: file.pid,
            socket_dir: file.socket_dir.unwrap_or_else(|| self.root.clone()),
            child: None,
        })
    }

    fn pid_file(&self) -> Option<PidFile> {
        PidFile::parse(&fs::read_to_string(self.data().join("postmaster.pid")).ok()?)
    }

    /// The address of `database` on the running server.
    pub(super) fn url(&self, postmaster: &Postmaster, database: &str) -> Result<String, ServerError> {
        let path = self.password_file();
        let password = fs::read_to_string(&path).map_err(ServerError::io("read", &path))?;
        let host = percent_encoded(&postmaster.socket_dir);
        // `localhost` satisfies parsers that want a host; the parameter overrides it.
        Ok(format!("postgres://postgres:{}@localhost:{PORT}/{database}?host={host}", password.trim()))
    }

    /// The end of what the server wrote last.
    fn log_tail(&self) -> String {
        let newest = fs::read_dir(self.log_dir()).ok().and_then(|entries| {
            entries
                .flatten()
                .filter(|e| e.file_name() != "start.log")
                .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
                .max()
                .map(|(_, path)| path)
        });
        let mut text = fs::read_to_string(self.log_dir().join("start.log")).unwrap_or_default();
        if text.contains("redirecting log output")
            && let Some(more) = newest.and_then(|path| fs::read_to_string(path).ok())
        {
            text = more;
        }
        last_lines(&text, 8)
    }
}

/// A postmaster, ours or found.
#[derive(Debug)]
pub(super) struct Postmaster {
    pub(super) pid: u32,
    pub(super) socket_dir: PathBuf,
    /// Only where we started it just now. Dropping it does not end it; the runtime reaps it when it ends.
    child: Option<Child>,
}

impl Postmaster {
    /// Waits until it accepts connections.
    pub(super) async fn wait_ready(
        &mut self,
        cluster: &Cluster,
        timeout: Duration,
    ) -> Result<(), ServerError> {
        let (started, mut noticed) = (Instant::now(), Instant::now());
        loop {
            if cluster.pid_file().is_some_and(|file| file.pid == self.pid && file.ready) {
                return Ok(());
            }
            let ended = match self.child.as_mut().map(Child::try_wait) {
                Some(Ok(Some(_))) => true,
                Some(_) => false,
                None => is_gone(self.pid),
            };
            if ended {
                return Err(ServerError::Start(cluster.log_tail()));
            }
            if started.elapsed() > timeout {
                return Err(ServerError::Timeout { pid: self.pid, after: timeout, log: cluster.log_tail() });
            }
            if noticed.elapsed() > NOTICE_EVERY {
                noticed = Instant::now();
                tracing::info!(
                    seconds = started.elapsed().as_secs(),
                    "the database is starting; after a crash it recovers first"
                );
            }
            sleep(POLL).await;
        }
    }

    /// Fast shutdown: sessions are cut, a checkpoint is written; waits for the end.
    pub(super) async fn stop(self) -> Result<(), ServerError> {
        // An id that does not fit cannot have come from the kernel.
        let Ok(pid) = i32::try_from(self.pid) else { return Ok(()) };
        // Fails only when it is gone already, which the loop sees.
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        let started = Instant::now();
        while !is_gone(self.pid) {
            if started.elapsed() > STOP_TIMEOUT {
                return Err(ServerError::StopTimeout { pid: self.pid, after: STOP_TIMEOUT });
            }
            sleep(POLL).await;
        }
        Ok(())
    }
}

/// `postmaster.pid`: process id, data directory, start time, port, socket directory, listen address, shared
/// memory key, status (PostgreSQL's `pidfile.h`).
struct PidFile {
    pid: u32,
    socket_dir: Option<PathBuf>,
    ready: bool,
}

impl PidFile {
    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().collect();
        let socket_dir = lines.get(4).filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let ready = lines.get(7).is_some_and(|status| status.trim() == "ready");
        Some(Self { pid: lines.first()?.trim().parse().ok()?, socket_dir, ready })
    }
}

/// True when no process has the id, or only what is left of one that nobody has waited for.
fn is_gone(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    // `pid (name) state …`; the name may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// Makes the data directory. For root it can be passed by others, though not listed: the database's user has
/// to get through.
fn make_data_dir(data_dir: &Path) -> Result<(), ServerError> {
    let root = geteuid().is_root();
    if let Some(parent) = data_dir.parent() {
        fs::create_dir_all(parent).map_err(ServerError::io("create", parent))?;
    }
    match fs::DirBuilder::new().mode(if root { 0o711 } else { 0o700 }).create(data_dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let meta = fs::metadata(data_dir).map_err(ServerError::io("look at", data_dir))?;
            if root && meta.is_dir() && meta.uid() == 0 && meta.mode() & 0o001 == 0 {
                let mode = meta.mode() & 0o7777 | 0o011;
                fs::set_permissions(data_dir, fs::Permissions::from_mode(mode))
                    .map_err(ServerError::io("set permissions of", data_dir))?;
            }
            Ok(())
        }
        Err(e) => Err(ServerError::io("create", data_dir)(e)),
    }
}

fn make_dir(dir: &Path) -> Result<(), ServerError> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(ServerError::io("create", dir)(e)),
        _ => Ok(()),
    }
}

/// The machine's memory in MiB; 1024 where `/proc` does not tell.
fn memory_mb() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(1024, |kib| kib / 1024)
}

/// For a query parameter: everything but letters, digits and `/-_.~` as `%XX` (a space as `%20`, because
/// libpq does not know `+`).
fn percent_encoded(path: &Path) -> String {
    path.as_os_str().as_encoded_bytes().iter().fold(String::new(), |mut out, &byte| {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_the_address() {
        assert_eq!(percent_encoded(Path::new("/a b/ü+&/c")), "/a%20b/%C3%BC%2B%26/c");
    }

    #[test]
    fn a_pid_file_is_read_at_every_stage_of_its_life() {
        let whole = "77\n/d\n1700000000\n5432\n/s\n\n  123 4\nready   \n";
        let file = PidFile::parse(whole).unwrap();
        assert_eq!((file.pid, file.socket_dir.as_deref(), file.ready), (77, Some(Path::new("/s")), true));
        let early = PidFile::parse("77\n/d\n1700000000\n").unwrap();
        assert!(!early.ready && early.socket_dir.is_none());
        assert!(PidFile::parse("").is_none());
    }

    #[test]
    fn the_last_lines_skip_blank_ones() {
        assert_eq!(last_lines("a\n\nb\nc\n\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
    }

    #[test]
    fn this_process_is_not_gone() {
        assert!(!is_gone(std::process::id()));
        assert!(is_gone(u32::MAX));
    }
}

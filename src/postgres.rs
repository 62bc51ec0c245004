//! The private Postgres server: the default database, so that nothing has to be installed or configured.
//!
//! Without a `DATABASE_URL` the program runs PostgreSQL from `tools_dir/postgres` on
//! `data_dir/postgres`, reachable through a Unix socket only:
//!
//! ```text
//! data_dir/postgres/
//!   data/           the cluster (made as data.new/ and renamed, so it is whole or absent)
//!   password        of the superuser `postgres`, 0600
//!   log/            one file a weekday, overwritten after a week; start.log for what comes before
//!   start.lock      held while starting or stopping: two processes never do it at once
//!   users.lock      shared lock of every process that uses the server
//!   keep            present after `spoken db start` or `db url`: the last user leaves the server running
//!   .s.PGSQL.5432   the socket (in /tmp/spoken-<hash>/ where the path would be too long)
//! ```
//!
//! **Life.** [`Server::start`] adopts a server that runs, and starts one otherwise; crash recovery is
//! Postgres's own business and only waited for. The server has a session of its own: neither Ctrl-C in the
//! terminal nor `kill -9` of this program reaches it, the next process adopts it. One that dies while it is used
//! is started again by whoever uses it. [`Server::close`] stops it when no other process uses it. `postmaster.pid` is never touched: Postgres knows best whether it is stale.
//!
//! **Root.** Postgres refuses to run as root, so then it runs as the user `postgres` (or `nobody`), through
//! `setpriv`, and `data_dir/postgres` belongs to that user. Where a directory above the data or above the
//! binaries may not be passed by that user (`/root` is 0700, so is what `mktemp -d` makes), the server
//! keeps exactly one capability, `CAP_DAC_READ_SEARCH` (read and pass any directory), or in containers
//! that lack it `CAP_DAC_OVERRIDE`. `access(2)` ignores capabilities of an unprivileged user unless the
//! secure bit `no_setuid_fixup` is set, and Postgres looks for its own files with `access`; hence that bit.
//!
//! Durability is not traded for speed: `fsync`, `full_page_writes` and `synchronous_commit` stay on,
//! pages carry checksums.

mod account;
mod cluster;
mod locks;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use self::cluster::{Cluster, Postmaster};
use self::locks::Lock;

/// How often a user looks whether the server still runs, and the longest pause between two tries to start it again.
const WATCH: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The database made on first start; everything of this program is in it.
pub const DATABASE: &str = "spoken";

/// Makes the server notice within a minute when this end of a connection is cut off: until then it would keep the locks of
/// an open transaction, two hours by default, and whoever takes over the work would wait for them. For private and for other
/// servers; without effect on Unix sockets.
///
/// # Errors
/// The server's.
pub async fn mind_lost_peers(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    const SETTINGS: &str = "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; \
         SET tcp_user_timeout = 60000";
    sqlx::raw_sql(SETTINGS).execute(connection).await?;
    Ok(())
}

/// Where the server is and how long to wait for it.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Everything the program keeps; the server lives in its `postgres` folder.
    pub data_dir: PathBuf,
    /// What the set-up installed; holds `postgres/bin/{initdb,postgres}`.
    pub tools_dir: PathBuf,
    /// How long a starting server may take, crash recovery included. While it is at it, a line is logged every
    /// five seconds.
    pub start_timeout: Duration,
}

impl ServerOptions {
    /// The server of `data_dir` with the binaries of `tools_dir`; ten minutes to start.
    pub fn new(data_dir: impl Into<PathBuf>, tools_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            tools_dir: tools_dir.into(),
            start_timeout: Duration::from_secs(600),
        }
    }
}

/// What [`Server::status`] finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It runs.
    Running {
        /// Of the server, as it states it (`18.4`).
        version: String,
        /// Of the postmaster.
        pid: u32,
        /// True after `spoken db start`: it stays when the last user leaves.
        kept: bool,
    },
    /// The cluster exists, nobody runs it.
    Stopped,
    /// There is no cluster yet; it is made on first use.
    NotCreated,
}

/// Why the private server is not available.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The set-up has not been run.
    #[error("no PostgreSQL at {}: run ./scripts/setup, or set DATABASE_URL to a server of your own", .0.display())]
    MissingBinaries(PathBuf),
    /// The cluster was made by another major version.
    #[error(
        "{} was made by PostgreSQL {found}, the installed one is {installed}: move its content with pg_dump or \
         pg_upgrade of both versions, or set DATABASE_URL",
        data.display()
    )]
    WrongMajor {
        /// The cluster.
        data: PathBuf,
        /// The major version in its `PG_VERSION`.
        found: String,
        /// The major version of the binaries.
        installed: String,
    },
    /// We are root and there is no other user to run as.
    #[error(
        "postgres does not run as root and there is neither a user postgres nor nobody; set DATABASE_URL to a server of your own"
    )]
    NoAccount,
    /// We are root, the other user cannot get at the files, and the capability that would help is not ours to give.
    #[error(
        "the user {user} that postgres would run as may not enter {}: allow it (chmod o+x), choose another \
         SPOKEN_DATA_DIR or SPOKEN_TOOLS_DIR, or set DATABASE_URL",
        dir.display()
    )]
    Unreachable {
        /// Who cannot pass.
        user: String,
        /// The first directory (or file) on the way that is closed.
        dir: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// `initdb` failed.
    #[error("initdb failed: {0}")]
    Init(String),
    /// The server ended while it was starting.
    #[error("postgres did not start; its last words:\n{0}")]
    Start(String),
    /// The server still starts.
    #[error("postgres (process {pid}) is not ready after {after:?}; its last words:\n{log}")]
    Timeout {
        /// The postmaster.
        pid: u32,
        /// How long we waited.
        after: Duration,
        /// The end of its log.
        log: String,
    },
    /// It does not stop.
    #[error("postgres (process {pid}) has not stopped after {after:?}")]
    StopTimeout {
        /// The postmaster.
        pid: u32,
        /// How long we waited.
        after: Duration,
    },
    /// Stopping was asked for while other processes use it.
    #[error("the database is in use by another spoken process; stop that first")]
    InUse,
    /// A directory for the socket exists and is not ours.
    #[error("{} is not a private directory of the user that postgres runs as; remove it", .0.display())]
    SocketDir(PathBuf),
    /// It runs, but does not let us in.
    #[error("cannot connect to the private postgres in {}: {source}", socket.display())]
    Connect {
        /// Where its socket should be.
        socket: PathBuf,
        /// What the driver said.
        source: sqlx::Error,
    },
}

impl ServerError {
    /// True where the same call may succeed later without anybody doing something: memory comes free, a user of the server
    /// leaves. What is wrong with files and accounts does not pass.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Init(_)
            | Self::Start(_)
            | Self::Timeout { .. }
            | Self::StopTimeout { .. }
            | Self::InUse => true,
            Self::Connect { source, .. } => crate::store::is_transient(source),
            _ => false,
        }
    }

    /// For `map_err`: an [`io::Error`] met while doing `what` to `path`.
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// The running private server, registered as used by this process until [`Server::close`].
///
/// Dropping it without `close` (a panic, an early return) frees the registration but leaves the server
/// running; the next user adopts it and stops it in the end.
#[derive(Debug)]
pub struct Server {
    cluster: Cluster,
    url: String,
    users: Lock,
    keeper: Option<Keeper>,
}

/// What starts a server again when it dies, until it is dropped.
#[derive(Debug)]
struct Keeper {
    stop: DropGuard,
    task: AbortOnDropHandle<()>,
}

impl Server {
    /// Makes the cluster if there is none, starts the server if it does not run, waits until it answers, and
    /// registers this process as a user.
    ///
    /// # Errors
    /// Every variant of [`ServerError`] but `InUse` and `StopTimeout`.
    pub async fn start(options: &ServerOptions) -> Result<Self, ServerError> {
        let cluster = Cluster::prepare(options)?;
        let _starting = Lock::exclusive(&cluster.start_lock(), &cluster).await?;
        // Registered before the server is looked at: whoever leaves last then sees us and lets it run.
        let users = Lock::shared(&cluster.users_lock(), &cluster).await?;
        let url = ensure_running(&cluster, options.start_timeout).await?;
        Ok(Self { cluster, url, users, keeper: None })
    }

    /// From now on the server is started again when it dies (killed for want of memory, say), until [`Server::close`].
    /// Its address stays the same.
    pub fn keep_running(&mut self, options: &ServerOptions) {
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep_running(self.cluster.clone(), options.start_timeout, stop.clone()));
        self.keeper = Some(Keeper { stop: stop.drop_guard(), task: AbortOnDropHandle::new(task) });
    }

    /// Address of the database, password included: for sqlx, psql and any libpq program.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends this process's use; stops the server if nobody else uses it and it was not started to stay.
    ///
    /// Close the connection pools first: a stopping server cuts what is still connected.
    ///
    /// # Errors
    /// [`ServerError::Io`] when a lock cannot be had, [`ServerError::StopTimeout`].
    pub async fn close(self) -> Result<(), ServerError> {
        let Self { cluster, users, keeper, .. } = self;
        if let Some(Keeper { stop, task }) = keeper {
            drop(stop);
            // Not cut off: a server that is half started would be left behind.
            if task.await.is_err() {
                tracing::warn!("what watched over the private Postgres has failed");
            }
        }
        let _stopping = Lock::exclusive(&cluster.start_lock(), &cluster).await?;
        drop(users);
        if cluster.keep_marker().exists() {
            return Ok(());
        }
        let Some(_alone) = Lock::try_exclusive(&cluster.users_lock(), &cluster)? else {
            return Ok(());
        };
        match cluster.postmaster() {
            Some(postmaster) => postmaster.stop().await,
            None => Ok(()),
        }
    }

    /// Starts the server so that it stays until [`Server::stop`], and returns its address.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_kept(options: &ServerOptions) -> Result<String, ServerError> {
        let server = Self::start(options).await?;
        let marker = server.cluster.keep_marker();
        std::fs::write(&marker, b"").map_err(ServerError::io("write", &marker))?;
        Ok(server.url)
    }

    /// Stops the server, also one started to stay; `false` if it did not run.
    ///
    /// # Errors
    /// [`ServerError::InUse`] while another process uses it, [`ServerError::StopTimeout`], [`ServerError::Io`].
    pub async fn stop(options: &ServerOptions) -> Result<bool, ServerError> {
        let Some(cluster) = Cluster::existing(options)? else {
            return Ok(false);
        };
        let _stopping = Lock::exclusive(&cluster.start_lock(), &cluster).await?;
        let Some(_alone) = Lock::try_exclusive(&cluster.users_lock(), &cluster)? else {
            return Err(ServerError::InUse);
        };
        let marker = cluster.keep_marker();
        match std::fs::remove_file(&marker) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(ServerError::io("remove", &marker)(e));
            }
            _ => {}
        }
        match cluster.postmaster() {
            Some(postmaster) => postmaster.stop().await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Looks, without starting anything.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the files cannot be read, [`ServerError::Connect`] when the server runs but does
    /// not answer.
    pub async fn status(options: &ServerOptions) -> Result<Status, ServerError> {
        let Some(cluster) = Cluster::existing(options)? else {
            return Ok(Status::NotCreated);
        };
        let Some(postmaster) = cluster.postmaster() else {
            return Ok(Status::Stopped);
        };
        let url = cluster.url(&postmaster, "postgres")?;
        let failed = |source| ServerError::Connect { socket: postmaster.socket_dir.clone(), source };
        let mut connection = PgConnection::connect(&url).await.map_err(failed)?;
        let version: String =
            sqlx::query_scalar("show server_version").fetch_one(&mut connection).await.map_err(failed)?;
        // Being polite to the server's log; the answer is already here.
        let _ = connection.close().await;
        Ok(Status::Running { version, pid: postmaster.pid, kept: cluster.keep_marker().exists() })
    }
}

/// See [`Server::keep_running`]. Only while this process is registered as a user: then nobody
/// may stop it, and it can only have died.
async fn keep_running(cluster: Cluster, timeout: Duration, stop: CancellationToken) {
    let mut pause = WATCH.0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if cluster.postmaster().is_some() {
            pause = WATCH.0;
            continue;
        }
        let started = async {
            let _starting = Lock::exclusive(&cluster.start_lock(), &cluster).await?;
            // Another user may have been quicker, which this finds out.
            ensure_running(&cluster, timeout).await
        };
        match started.await {
            Ok(_) => tracing::warn!("the private Postgres had died and was started again"),
            Err(error) => {
                pause = (pause * 2).min(WATCH.1);
                tracing::warn!(%error, retry_in_s = pause.as_secs(), "the private Postgres has died and does not start");
            }
        }
    }
}

/// A server that answers, with the database in it; returns the address.
async fn ensure_running(cluster: &Cluster, timeout: Duration) -> Result<String, ServerError> {
    let mut postmaster = match cluster.postmaster() {
        Some(running) => running,
        None => {
            cluster.check_version()?;
            if !cluster.exists() {
                cluster.create().await?;
            }
            launch(cluster, timeout).await?
        }
    };
    postmaster.wait_ready(cluster, timeout).await?;
    ensure_database(cluster, &postmaster).await
}

/// Starts it, with patience for what a killed postmaster leaves: its other processes end by themselves, each at its next look
/// whether it still has a parent, and Postgres rightly refuses to start beside them.
async fn launch(cluster: &Cluster, timeout: Duration) -> Result<Postmaster, ServerError> {
    /// Between two tries.
    const PAUSE: Duration = Duration::from_millis(100);
    let began = Instant::now();
    loop {
        match cluster.launch(timeout).await {
            Err(ServerError::Start(log)) if of_former(&log) && began.elapsed() < timeout => {
                tokio::time::sleep(PAUSE).await;
            }
            launched => return launched,
        }
    }
}

/// Whether these last words say that processes of a former server still live. They are in English: the locale is ours.
fn of_former(log: &str) -> bool {
    log.contains("pre-existing shared memory block")
        || log.contains("lock file \"postmaster.pid\" already exists")
}

/// Connects to [`DATABASE`], making it on the first start.
async fn ensure_database(cluster: &Cluster, postmaster: &Postmaster) -> Result<String, ServerError> {
    let failed = |source| ServerError::Connect { socket: postmaster.socket_dir.clone(), source };
    let url = cluster.url(postmaster, DATABASE)?;
    match PgConnection::connect(&url).await {
        Ok(connection) => {
            let _ = connection.close().await;
            Ok(url)
        }
        // 3D000 invalid_catalog_name: no such database.
        Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("3D000") => {
            let mut admin =
                PgConnection::connect(&cluster.url(postmaster, "postgres")?).await.map_err(failed)?;
            sqlx::query("create database spoken").execute(&mut admin).await.map_err(failed)?;
            let _ = admin.close().await;
            Ok(url)
        }
        Err(e) => Err(failed(e)),
    }
}

//! The database: what is known, who works on it, and what was said.
//!
//! * [`Store::connect`] and [`Store::migrate`] — reach the server, bring its schema up to date.
//! * Items: [`Store::upsert_many`], [`Store::record_failure`], [`Store::retry`], [`Store::unfinished`].
//! * Work on one item: [`Store::claim`], then exactly one of [`Store::complete`], [`Store::fail`],
//!   [`Store::delay`] and [`Store::release`]. Each of the four is **fenced**: it names the number its claim
//!   drew, and changes nothing once somebody else has claimed the item ([`SaveError::LeaseLost`]).
//! * Work in hand: [`Store::note_in_hand`], [`Store::lost`].
//! * Between machines: [`Store::hand_over`] ends a claim by leaving the audio to a transcriber; [`Store::wanted`] tells
//!   which objects are of use; [`Store::nodes`] are the processes that work here.
//! * Subscriptions: [`sources`].
//! * The index of the vectors: [`mod@index`].
//! * Embedding models: [`Store::answering`] is the one that answers, [`Store::lacking`] what another one lacks,
//!   [`Store::switch`] lets that one answer.
//! * Keeping house: [`Store::doubtful`] and [`Store::replace`] (doing again what was badly understood), [`Store::remove`],
//!   [`Store::expired`].
//! * Reading: [`Store::counts`], [`Store::items`], [`Store::find`], [`Store::segments`],
//!   [`Store::dropped`]; a whole library: [`bulk`], its figures: [`stats`]. Words for searches: [`Store::learn_words`].
//!
//! Segments, passages, vectors and the state of the item change in one transaction, so `done` means complete.
//! Statements that may be repeated are repeated when the connection breaks or a deadlock is resolved against
//! us ([`is_transient`]); all clock times are the database's.
//!
//! An item that is done again ([`Selection::Again`]) keeps what is stored of it, which is found as before, until the new
//! results replace it; if the new attempt fails, it is done as before.

mod account;
mod again;
mod answering;
pub mod bulk;
mod claim;
mod copy;
mod handover;
pub mod index;
mod items;
mod locator;
mod migrate;
mod nodes;
mod read;
mod reembed;
mod remove;
pub mod sources;
mod upgrade;
pub mod stats;
mod vectors;
mod vocabulary;
mod workers;

use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use uuid::Uuid;

pub use answering::{Answering, ModelState, Switched};
pub use claim::{Attempt, Claim, Claimed, Results, SaveError, Work};
pub use handover::{Backlog, HandedOver, Wanted};
pub use items::{Requeued, Selection, Unfinished, Upserted};
pub use migrate::{Migrated, Version};
pub use nodes::{Figures, NewNode, NodeRow, this_host};
pub(crate) use read::spellings;
pub use read::{Counts, ItemFilter, MediaRow};
pub use reembed::{Added, Bare, ItemLocks, Lacking};
pub use remove::{Expired, Keep, Removal, Removed, Which};
pub use upgrade::{Condition, Doubtful, GRAMMAR, Upgraded, WindowFigures};
pub use vectors::EmbeddingModel;
pub use workers::InHand;

/// How the pool of connections is sized.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Most connections held at once.
    pub max_connections: u32,
    /// How long to wait for a server that is starting up, and for a free connection.
    pub timeout: Duration,
    /// How long a transaction may be left alone. A process that is stopped in the middle of one would keep the rows it has
    /// changed from everybody else, and so for ever what it had in hand.
    pub idle_in_transaction: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            max_connections: 16,
            timeout: Duration::from_secs(30),
            idle_in_transaction: Duration::from_secs(60),
        }
    }
}

/// Why the database cannot be used. Passwords never appear in the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The address is no `postgres://` URL.
    #[error(
        "the database address is not valid ({reason}); expected postgres://user:password@host:port/database"
    )]
    Address {
        /// What the parser disliked; never the address itself, which may hold a password.
        reason: String,
    },
    /// Nobody answers, or the server refuses us.
    #[error(
        "cannot connect to the database at {place}: {source}; check DATABASE_URL and that the server runs, or \
         unset DATABASE_URL to use the embedded server"
    )]
    Connect {
        /// `host:port/database`.
        place: String,
        /// The driver's or the server's word.
        source: sqlx::Error,
    },
    /// The server is older than the schema needs.
    #[error("the server runs PostgreSQL {found}; {needed} or later is needed")]
    ServerTooOld {
        /// Major version found.
        found: i32,
        /// Major version needed.
        needed: i32,
    },
    /// Text is stored in an encoding that cannot hold every script.
    #[error("the database's encoding is {found}; create one with ENCODING 'UTF8'")]
    Encoding {
        /// The server's name for it.
        found: String,
    },
    /// pgvector's files are not on the server.
    #[error(
        "the PostgreSQL server has no pgvector extension; install it there (Debian and Ubuntu: \
         postgresql-{major}-pgvector; Docker: an image with pgvector), or unset DATABASE_URL to use the \
         embedded server"
    )]
    PgvectorMissing {
        /// The server's major version.
        major: i32,
    },
    /// The installed pgvector lacks what search needs.
    #[error(
        "the database has pgvector {found}; {needed} or later is needed: install it on the server, then run \
         ALTER EXTENSION vector UPDATE"
    )]
    PgvectorTooOld {
        /// Found.
        found: Version,
        /// Needed.
        needed: Version,
    },
    /// We may not create the extension.
    #[error(
        "this database user may not create the pgvector extension; let an administrator run \
         CREATE EXTENSION vector in the database once"
    )]
    PgvectorPermission,
    /// We may not create tables.
    #[error("this database user may not create tables here: {0}; grant it CREATE on the schema")]
    Permission(String),
    /// A later release has been here.
    #[error(
        "the database's schema (version {found}) is newer than this program's ({known}); update the program"
    )]
    SchemaTooNew {
        /// Version in the database.
        found: i64,
        /// Latest version this program knows.
        known: i64,
    },
    /// The schema was made by another edition of the same migration.
    #[error(
        "the database's schema was made by a different build (migration {version}); use a fresh database"
    )]
    SchemaForeign {
        /// The migration that differs.
        version: i64,
    },
    /// A migration did not run.
    #[error("failed to bring the database's schema up to date: {0}")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// Anything else the server or the connection said.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}

impl StoreError {
    /// True where the same call may succeed later without anybody doing something.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database(e) | Self::Connect { source: e, .. } => is_transient(e),
            _ => false,
        }
    }
}

/// True for errors that come from the connection, a restart, a full disk or a conflict with another transaction, and
/// not from what was asked: the same statement may succeed later.
pub fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
        // https://www.postgresql.org/docs/current/errcodes-appendix.html
        sqlx::Error::Database(e) => e.code().is_some_and(|code| {
            code.starts_with("08") // connection exceptions
                || matches!(
                    &*code,
                    "40001" | "40P01"             // serialisation failure, deadlock
                    | "57P01" | "57P02" | "57P03" // shut down by the operator, by a crash; starting up
                    | "57P05"                     // idle session ended
                    | "53000" | "53100" | "53200" // resources: the disk is full, no memory
                    | "53300" | "53400"           // too many connections, a limit was reached
                    | "25006"                     // read-only: a standby during failover
                    | "25P03"                     // a transaction was left alone for too long
                    | "55P03" // lock not available
                )
        }),
        _ => false,
    }
}

/// A handle to the database; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    seen: Arc<Seen>,
}

/// What this process knows to be in the database for good, so that it need not ask again.
#[derive(Debug, Default)]
struct Seen {
    tables: RwLock<HashMap<EmbeddingModel, String>>,
    languages: RwLock<HashSet<String>>,
}

impl Store {
    /// Connects to `url` and checks that the server is recent enough. The schema is not touched.
    ///
    /// Waits for a server that is starting up; one that is not there is an error at once.
    ///
    /// # Errors
    /// [`StoreError::Address`], [`StoreError::Connect`], [`StoreError::ServerTooOld`], [`StoreError::Encoding`].
    pub async fn connect(url: &str, options: &StoreOptions) -> Result<Self, StoreError> {
        let connect = PgConnectOptions::from_str(url)
            .map_err(|e| StoreError::Address { reason: address_reason(&e) })?;
        // sqlx logs whole statements at warn level once they take a second, which an exact scan of a large
        // library may; what fails is told by the error anyway.
        let connect = connect.application_name("spoken").disable_statement_logging();
        let place = format!(
            "{}:{}/{}",
            connect.get_socket().map_or_else(|| connect.get_host().to_owned(), |p| p.display().to_string()),
            connect.get_port(),
            connect.get_database().unwrap_or(connect.get_username())
        );
        let mut probe = first_connection(&connect, options.timeout)
            .await
            .map_err(|source| StoreError::Connect { place, source })?;
        let (version, encoding): (i32, String) = sqlx::query_as(
            "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding')",
        )
        .fetch_one(&mut probe)
        .await?;
        // Best effort: the answer is there, how the probe ends changes nothing.
        let _ = probe.close().await;
        if version < 140_000 {
            return Err(StoreError::ServerTooOld { found: version / 10_000, needed: 14 });
        }
        if encoding != "UTF8" {
            return Err(StoreError::Encoding { found: encoding });
        }
        let idle = options.idle_in_transaction;
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections.max(1))
            .acquire_timeout(options.timeout)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    end_idle_transactions(connection, idle).await?;
                    crate::postgres::mind_lost_peers(connection).await
                })
            })
            .connect_lazy_with(connect);
        Ok(Self { pool, seen: Arc::default() })
    }

    /// The pool, for whoever needs the same database.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Closes every connection; waits for those in use.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Has the server end transactions of this session that are left alone for so long.
///
/// # Errors
/// The server's.
pub async fn end_idle_transactions(
    connection: &mut PgConnection,
    after: Duration,
) -> Result<(), sqlx::Error> {
    // A setting takes no parameter. 0 would mean never.
    let sql = format!("SET idle_in_transaction_session_timeout = {}", after.as_millis().max(1));
    sqlx::query(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

/// Connects once; goes on trying while the server says that it is starting up.
async fn first_connection(
    options: &PgConnectOptions,
    timeout: Duration,
) -> Result<PgConnection, sqlx::Error> {
    let attempt = async {
        loop {
            match options.connect().await {
                Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("57P03") => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                other => return other,
            }
        }
    };
    tokio::time::timeout(timeout, attempt).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// The parser's complaint without the wrapper's words.
fn address_reason(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Configuration(e) => e.to_string(),
        other => other.to_string(),
    }
}

/// Runs `op` until it succeeds, fails for good, or has failed five times; waits 0.05 to about 3 s in between.
///
/// Only for what may be repeated: an `op` whose commit was answered by a broken connection runs again.
async fn retrying<T, F, Fut, E>(op: F) -> Result<T, E>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
    E: Transient,
{
    retrying_from(Duration::from_millis(50), op).await
}

async fn retrying_from<T, F, Fut, E>(mut pause: Duration, mut op: F) -> Result<T, E>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
    E: Transient,
{
    for _ in 0..4 {
        match op().await {
            Err(e) if e.transient() => {
                tracing::debug!(error = %e, pause_ms = pause.as_millis() as u64, "database statement failed, trying again");
                // Random, so that two that collided do not collide again.
                let spread = f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0;
                tokio::time::sleep(pause.mul_f64(0.75 + spread / 2.0)).await;
                pause *= 4;
            }
            other => return other,
        }
    }
    op().await
}

/// An error that may pass by itself.
trait Transient: std::fmt::Display {
    fn transient(&self) -> bool;
}

impl Transient for StoreError {
    fn transient(&self) -> bool {
        self.is_transient()
    }
}

impl Transient for sqlx::Error {
    fn transient(&self) -> bool {
        is_transient(self)
    }
}

/// Text as PostgreSQL takes it: it has no NUL, which becomes the replacement character (a visible gap; taking
/// it out would join words).
fn clean(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// Key of a text that may be longer than an index takes.
fn text_key(text: &[u8]) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_becomes_a_visible_gap() {
        assert_eq!(clean("a\0b"), "a\u{fffd}b");
        assert!(matches!(clean("ab"), std::borrow::Cow::Borrowed(_)));
    }

    #[test]
    fn broken_connections_are_transient_and_bad_statements_are_not() {
        let io = sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(is_transient(&io));
        assert!(is_transient(&sqlx::Error::PoolTimedOut));
        assert!(!is_transient(&sqlx::Error::RowNotFound));
    }

    #[tokio::test]
    async fn retrying_gives_up_after_five_and_never_repeats_a_lasting_error() {
        let calls = std::cell::Cell::new(0);
        let result: Result<(), sqlx::Error> = retrying_from(Duration::ZERO, || {
            calls.set(calls.get() + 1);
            async { Err(sqlx::Error::PoolTimedOut) }
        })
        .await;
        assert!(result.is_err());
        assert_eq!(calls.get(), 5);
        calls.set(0);
        let result: Result<(), sqlx::Error> = retrying_from(Duration::ZERO, || {
            calls.set(calls.get() + 1);
            async { Err(sqlx::Error::RowNotFound) }
        })
        .await;
        assert!(result.is_err());
        assert_eq!(calls.get(), 1);
    }

    #[tokio::test]
    async fn a_malformed_address_is_told_without_its_password() {
        let error = Store::connect("mysql//user:secret@host", &StoreOptions::default()).await.unwrap_err();
        assert!(matches!(error, StoreError::Address { .. }), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_at_once() {
        let error =
            Store::connect("postgres://u:secret@127.0.0.1:1/d", &StoreOptions::default()).await.unwrap_err();
        assert!(matches!(error, StoreError::Connect { .. }), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(error.to_string().contains("127.0.0.1:1/d"), "{error}");
    }
}

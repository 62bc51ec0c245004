//! The schema and the extension it needs.

use std::{fmt, str::FromStr};

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Acquire, PgConnection};

use super::{Store, StoreError};

/// Where the list of applied migrations is kept. Not sqlx's default name, which another program in the same
/// database may use as well.
const TABLE: &str = "spoken_migrations";

/// Key of the advisory lock that lets one process migrate at a time: "spoken" in ASCII.
const LOCK: i64 = 0x7370_6f6b_656e;

/// Iterative index scans came with it; <https://github.com/pgvector/pgvector/blob/master/CHANGELOG.md>.
const PGVECTOR_NEEDED: Version = Version { major: 0, minor: 8, patch: 0 };
/// Fixes corruption of HNSW indexes.
const PGVECTOR_ADVISED: Version = Version { major: 0, minor: 8, patch: 4 };

/// A version of pgvector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number; 0 where it is not given.
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let mut parts = s.split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).map_or(part, |end| &part[..end]);
            digits.parse::<u32>().map_err(|_| format!("not a version: {s:?}"))
        });
        let mut next = || parts.next().unwrap_or(Ok(0));
        Ok(Self { major: next()?, minor: next()?, patch: next()? })
    }
}

/// What [`Store::migrate`] found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Migrations applied now.
    pub applied: usize,
    /// The extension in the database.
    pub pgvector: Version,
    /// Something the operator should know.
    pub warning: Option<String>,
}

impl Store {
    /// Brings the schema up to date and makes sure of pgvector. Any number of processes may do so at once; where
    /// nothing is to be done it costs one statement and takes no lock.
    ///
    /// # Errors
    /// The `Pgvector…`, `Schema…` and `Permission` variants of [`StoreError`], each saying what to do.
    pub async fn migrate(&self) -> Result<Migrated, StoreError> {
        let mut conn = self.pool.acquire().await?;
        let migrator = migrator();
        if let Some(version) = up_to_date(&mut conn, &migrator).await? {
            return finished(0, version);
        }
        // A session lock outlives errors and goes only with its connection, so on any error the connection is
        // closed instead of going back to the pool with the lock in its hand.
        let mut conn = conn.detach();
        sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK).execute(&mut conn).await?;
        let result = locked(&mut conn, &migrator).await;
        // Best effort: a server that has gone has dropped the lock as well.
        let _ = sqlx::Connection::close(conn).await;
        let (applied, version) = result?;
        finished(applied, version)
    }

    /// The versions of the server (as it names itself) and of pgvector: installed in this database, or merely
    /// available to it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn versions(&self) -> Result<(String, Option<String>, Option<String>), StoreError> {
        Ok(sqlx::query_as(
            "SELECT current_setting('server_version'),
                    (SELECT extversion FROM pg_extension WHERE extname = 'vector'),
                    (SELECT default_version FROM pg_available_extensions WHERE name = 'vector')",
        )
        .fetch_one(&self.pool)
        .await?)
    }
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.dangerous_set_table_name(TABLE);
    // Ours is taken around the extension as well.
    migrator.set_locking(false);
    migrator
}

fn finished(applied: usize, pgvector: Version) -> Result<Migrated, StoreError> {
    if pgvector < PGVECTOR_NEEDED {
        return Err(StoreError::PgvectorTooOld { found: pgvector, needed: PGVECTOR_NEEDED });
    }
    let warning = (pgvector < PGVECTOR_ADVISED).then(|| {
        format!("pgvector {pgvector} can corrupt its indexes; {PGVECTOR_ADVISED} fixes that: update it on the server")
    });
    Ok(Migrated { applied, pgvector, warning })
}

/// The version of pgvector if nothing is to be done.
async fn up_to_date(conn: &mut PgConnection, migrator: &Migrator) -> Result<Option<Version>, StoreError> {
    let (table, version): (bool, Option<String>) = sqlx::query_as(
        "SELECT to_regclass($1) IS NOT NULL, (SELECT extversion FROM pg_extension WHERE extname = 'vector')",
    )
    .bind(TABLE)
    .fetch_one(&mut *conn)
    .await?;
    let (true, Some(version)) = (table, version) else { return Ok(None) };
    let applied: Vec<(i64, bool, Vec<u8>)> =
        sqlx::query_as("SELECT version, success, checksum FROM spoken_migrations ORDER BY version")
            .fetch_all(&mut *conn)
            .await?;
    let same = applied.len() == migrator.iter().count()
        && migrator.iter().zip(&applied).all(|(ours, (version, success, checksum))| {
            ours.version == *version && *success && *ours.checksum == **checksum
        });
    Ok(if same { Some(parse(&version)?) } else { None })
}

fn parse(version: &str) -> Result<Version, StoreError> {
    version.parse().map_err(|e: String| StoreError::Database(sqlx::Error::Protocol(e)))
}

async fn locked(conn: &mut PgConnection, migrator: &Migrator) -> Result<(usize, Version), StoreError> {
    let version = ensure_extension(conn).await?;
    let before = applied(conn).await?;
    migrator.run_direct(None, conn, false).await.map_err(|e| told(e, &before, migrator))?;
    Ok((migrator.iter().count() - before.len(), version))
}

async fn applied(conn: &mut PgConnection) -> Result<Vec<i64>, StoreError> {
    let there: bool =
        sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(TABLE).fetch_one(&mut *conn).await?;
    if !there {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar("SELECT version FROM spoken_migrations ORDER BY version").fetch_all(conn).await?)
}

fn told(error: MigrateError, applied: &[i64], migrator: &Migrator) -> StoreError {
    match error {
        MigrateError::VersionMissing(found) => StoreError::SchemaTooNew {
            found: applied.last().copied().unwrap_or(found),
            known: migrator.iter().map(|m| m.version).max().unwrap_or(0),
        },
        MigrateError::VersionMismatch(version) | MigrateError::Dirty(version) => {
            StoreError::SchemaForeign { version }
        }
        MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) if code(&e) == "42501" => {
            StoreError::Permission(database_message(&e))
        }
        MigrateError::Execute(e) => StoreError::Database(e),
        other => StoreError::Migrate(other),
    }
}

fn code(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|e| e.code()).map(|c| c.into_owned()).unwrap_or_default()
}

fn database_message(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |e| e.message().to_owned())
}

async fn ensure_extension(conn: &mut PgConnection) -> Result<Version, StoreError> {
    const INSTALLED: &str = "SELECT extversion FROM pg_extension WHERE extname = 'vector'";
    if let Some(version) = sqlx::query_scalar::<_, String>(INSTALLED).fetch_optional(&mut *conn).await? {
        return checked(parse(&version)?);
    }
    let available: Option<String> =
        sqlx::query_scalar("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'")
            .fetch_optional(&mut *conn)
            .await?;
    let Some(available) = available else {
        let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::integer")
            .fetch_one(&mut *conn)
            .await?;
        return Err(StoreError::PgvectorMissing { major: version / 10_000 });
    };
    checked(parse(&available)?)?;
    // IF NOT EXISTS although we looked: another program may have created it meanwhile.
    let mut tx = conn.begin().await?;
    match sqlx::query("CREATE EXTENSION IF NOT EXISTS vector").execute(&mut *tx).await {
        Ok(_) => tx.commit().await?,
        Err(e) if code(&e) == "42501" => return Err(StoreError::PgvectorPermission),
        Err(e) => return Err(e.into()),
    }
    let version: String = sqlx::query_scalar(INSTALLED).fetch_one(&mut *conn).await?;
    checked(parse(&version)?)
}

fn checked(found: Version) -> Result<Version, StoreError> {
    if found < PGVECTOR_NEEDED {
        return Err(StoreError::PgvectorTooOld { found, needed: PGVECTOR_NEEDED });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let v = |s: &str| s.parse::<Version>().unwrap();
        assert!(v("0.10") > v("0.8.4"));
        assert_eq!(v("0.8.0-dev"), v("0.8"));
        assert!("".parse::<Version>().is_err());
        assert!("x.y".parse::<Version>().is_err());
    }

    #[test]
    fn an_old_pgvector_is_refused_and_a_risky_one_warned_of() {
        let v = |s: &str| s.parse::<Version>().unwrap();
        assert!(matches!(finished(0, v("0.7.4")), Err(StoreError::PgvectorTooOld { .. })));
        assert!(finished(0, v("0.8.1")).unwrap().warning.is_some());
        assert!(finished(0, v("0.8.5")).unwrap().warning.is_none());
    }
}

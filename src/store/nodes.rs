//! The processes that work on the library: who they are, whether they live, what they got done.

use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{Store, StoreError, clean, retrying};
use crate::media::MediaId;

/// Rows of processes that were not heard of for so long are removed: somebody else has their work since long ago.
const FORGET_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// This machine's name.
pub fn this_host() -> &'static str {
    static NAME: LazyLock<String> = LazyLock::new(|| {
        nix::sys::utsname::uname()
            .ok()
            .map_or_else(|| "unknown".to_owned(), |names| names.nodename().to_string_lossy().into_owned())
    });
    &NAME
}

/// A process that begins to work, or to queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// Its identity in the queue.
    pub node_id: Uuid,
    /// Name of its machine.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// `all`, `fetch` or `transcribe`.
    pub role: &'static str,
    /// What its model runs on; none where it has no model.
    pub device: Option<String>,
}

/// What a process got done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Items stored; for one that only fetches, handed over.
    pub items: u64,
    /// Items given up.
    pub failed: u64,
    /// Audio of the former.
    pub audio_ms: u64,
}

/// A process as the database knows it. Times are the database's.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct NodeRow {
    /// Its identity in the queue.
    pub node_id: Uuid,
    /// Name of its machine.
    pub host: String,
    /// Its process id there.
    pub pid: i32,
    /// `all`, `fetch` or `transcribe`.
    pub role: String,
    /// Of the program.
    pub version: String,
    /// What its model runs on.
    pub device: Option<String>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it was last heard of.
    pub heartbeat_at: DateTime<Utc>,
    /// How long ago that is, seconds.
    pub silent_s: f64,
    /// From its start to its last heartbeat, seconds.
    pub up_s: f64,
    /// Items it has in hand.
    pub in_hand: i64,
    /// Items stored or handed over.
    pub items: i64,
    /// Items given up.
    pub failed: i64,
    /// Audio of the former.
    pub audio_ms: i64,
}

impl NodeRow {
    /// Hours of audio in an hour since its start; none for the first seconds.
    pub fn throughput(&self) -> Option<f64> {
        (self.up_s >= 1.0).then(|| self.audio_ms as f64 / 1000.0 / self.up_s)
    }
}

impl Store {
    /// Notes a process that begins to work, and forgets those of long ago.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn node_started(&self, node: &NewNode) -> Result<(), StoreError> {
        retrying(|| async {
            sqlx::query("DELETE FROM nodes WHERE heartbeat_at < now() - make_interval(secs => $1)")
                .bind(FORGET_AFTER.as_secs_f64())
                .execute(self.pool())
                .await?;
            sqlx::query(
                "INSERT INTO nodes (node_id, host, pid, role, version, device) VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (node_id) DO NOTHING",
            )
            .bind(node.node_id)
            .bind(&*clean(&node.host))
            .bind(i32::try_from(node.pid).unwrap_or(0))
            .bind(node.role)
            .bind(env!("CARGO_PKG_VERSION"))
            .bind(node.device.as_deref().map(clean).as_deref())
            .execute(self.pool())
            .await
        })
        .await?;
        Ok(())
    }

    /// Notes that a process lives, and what it got done.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn node_lives(&self, node: &NewNode, figures: &Figures) -> Result<(), StoreError> {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        // The row may be gone: after a long silence another process may have forgotten it.
        sqlx::query(
            "INSERT INTO nodes AS n (node_id, host, pid, role, version, device, items, failed, audio_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (node_id) DO UPDATE SET heartbeat_at = now(), device = $6, items = $7, failed = $8, audio_ms = $9",
        )
        .bind(node.node_id)
        .bind(&*clean(&node.host))
        .bind(i32::try_from(node.pid).unwrap_or(0))
        .bind(node.role)
        .bind(env!("CARGO_PKG_VERSION"))
        .bind(node.device.as_deref().map(clean).as_deref())
        .bind(signed(figures.items))
        .bind(signed(figures.failed))
        .bind(signed(figures.audio_ms))
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Forgets processes that ended, or whose work was taken over on their own machine.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn nodes_ended(&self, nodes: &[Uuid]) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM nodes WHERE node_id = ANY($1)").bind(nodes).execute(self.pool()).await?;
        Ok(())
    }

    /// All processes, by host and start.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        let rows = sqlx::query_as(
            "SELECT n.*, extract(epoch FROM now() - heartbeat_at)::float8 AS silent_s,
                    extract(epoch FROM heartbeat_at - started_at)::float8 AS up_s,
                    (SELECT count(*) FROM media m WHERE m.state = 'active' AND m.worker = n.node_id::text) AS in_hand
             FROM nodes n ORDER BY host, started_at, node_id",
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }

    /// Whether a process on another machine than that of `worker` was heard of within `lease` that brings what it finds
    /// there.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn other_hosts_fetch(&self, worker: &str, lease: Duration) -> Result<bool, StoreError> {
        let any = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM nodes other, nodes own
                            WHERE own.node_id::text = $1 AND other.host <> own.host AND other.role IN ('all', 'fetch')
                                AND other.heartbeat_at > now() - make_interval(secs => $2))",
        )
        .bind(worker)
        .bind(lease.as_secs_f64())
        .fetch_one(self.pool())
        .await?;
        Ok(any)
    }

    /// The machine on which an item's file was found last; none where it is no file, or was noted by a version of the program
    /// that did not tell.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn found_on(&self, item: MediaId) -> Result<Option<String>, StoreError> {
        let host: Option<Option<String>> =
            sqlx::query_scalar("SELECT locator ->> 'on' FROM media WHERE media_id = $1")
                .bind(item.0)
                .fetch_optional(self.pool())
                .await?;
        Ok(host.flatten())
    }

    /// Whether a process that hands audio over was heard of within `lease`, so that more may come.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn somebody_fetches(&self, lease: Duration) -> Result<bool, StoreError> {
        let any = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM nodes WHERE role = 'fetch' AND heartbeat_at > now() - make_interval(secs => $1))",
        )
        .bind(lease.as_secs_f64())
        .fetch_one(self.pool())
        .await?;
        Ok(any)
    }
}

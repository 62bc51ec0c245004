//! File locks (`flock`): gone with the process, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

use super::ServerError;
use super::cluster::Cluster;

/// How often a taken lock is tried again.
const POLL: Duration = Duration::from_millis(20);

/// A held lock; released on drop.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    /// Closing the file is not enough: a child that another thread is starting shares the open file, and with it
    /// the lock, from its fork until it becomes another program.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl Lock {
    /// Waits for the lock alone.
    pub(super) async fn exclusive(path: &Path, cluster: &Cluster) -> Result<Self, ServerError> {
        Self::wait(path, cluster, File::try_lock).await
    }

    /// Waits for the lock together with others.
    pub(super) async fn shared(path: &Path, cluster: &Cluster) -> Result<Self, ServerError> {
        Self::wait(path, cluster, File::try_lock_shared).await
    }

    /// The lock alone, if nobody has it.
    pub(super) fn try_exclusive(path: &Path, cluster: &Cluster) -> Result<Option<Self>, ServerError> {
        let file = open(path, cluster)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(ServerError::io("lock", path)(e)),
        }
    }

    /// Tries until it succeeds: no thread is blocked, and dropping the future gives up.
    async fn wait(
        path: &Path,
        cluster: &Cluster,
        lock: fn(&File) -> Result<(), TryLockError>,
    ) -> Result<Self, ServerError> {
        let file = open(path, cluster)?;
        loop {
            match lock(&file) {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(POLL).await,
                Err(TryLockError::Error(e)) => return Err(ServerError::io("lock", path)(e)),
            }
        }
    }
}

/// Opens for reading, which is enough for `flock` and works whoever made the file.
fn open(path: &Path, cluster: &Cluster) -> Result<File, ServerError> {
    match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map_err(ServerError::io("create", path))?;
            cluster.give(path)?;
            Ok(file)
        }
        other => other.map_err(ServerError::io("open", path)),
    }
}

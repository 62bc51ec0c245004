//! Where files lie while an item is in flight: one directory an item, named by its identity, under one directory a
//! worker process. A dead worker's directories are taken over, so that a cut download goes on where it stopped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::event::{Event, Events};
#[cfg(doc)]
use crate::media::FailureClass;
use crate::media::{Failure, MediaId};

/// Name of the decoded audio in an item's directory.
pub const AUDIO: &str = "audio.pcm";
/// Name of the audio in an item's directory as it goes from machine to machine.
pub(super) const PACKED: &str = "audio.flac";

/// The spool of one worker process.
#[derive(Debug)]
pub struct Spool {
    root: PathBuf,
    max_bytes: u64,
    min_free: u64,
    /// Bytes each item holds.
    held: Mutex<HashMap<MediaId, u64>>,
    freed: Notify,
}

impl Spool {
    /// A spool under `data_dir/spool/worker`. Downloads wait while decoded audio holds more than `max_bytes`, or the
    /// file system has less than `min_free` bytes left.
    ///
    /// # Errors
    /// Where the directory cannot be made.
    pub fn open(data_dir: &Path, worker: &str, max_bytes: u64, min_free: u64) -> std::io::Result<Self> {
        let root = data_dir.join("spool").join(worker);
        std::fs::create_dir_all(&root)?;
        Ok(Self { root, max_bytes, min_free, held: Mutex::default(), freed: Notify::new() })
    }

    /// Processes that have a directory here, this one aside.
    pub fn others(&self) -> Vec<Uuid> {
        let entries = self.root.parent().and_then(|spools| std::fs::read_dir(spools).ok());
        let ids =
            entries.into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        ids.filter(|id: &Uuid| !self.root.ends_with(id.to_string())).collect()
    }

    /// Takes over what dead or stopped workers left: the directories of items in `wanted` (their parts of downloads are worth
    /// keeping, decoded audio is not, since it may be cut), the rest is deleted.
    pub fn adopt(&self, dead: &[String], wanted: &dyn Fn(MediaId) -> bool) {
        let Some(spools) = self.root.parent() else { return };
        for worker in dead {
            // Moved first: of two that take it over, one gets it all.
            let left = self.root.join(format!("left-{worker}"));
            if std::fs::rename(spools.join(worker), &left).is_err() {
                continue;
            }
            for entry in std::fs::read_dir(&left).into_iter().flatten().flatten() {
                let id = entry.file_name().to_str().and_then(|n| n.parse::<MediaId>().ok());
                if let Some(id) = id.filter(|id| wanted(*id)) {
                    let _ = std::fs::remove_file(entry.path().join(AUDIO));
                    // Fails where this worker has the item already; its own directory is the fresher one.
                    let _ = std::fs::rename(entry.path(), self.root.join(id.to_string()));
                }
            }
            if let Err(error) = std::fs::remove_dir_all(&left)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %left.display(), %error, "failed to remove a dead worker's spool");
            }
        }
    }

    /// The item's directory, made if need be.
    ///
    /// # Errors
    /// [`FailureClass::NoSpace`] or [`FailureClass::Internal`] where it cannot be made (a full or read-only disk).
    pub fn dir(&self, media_id: MediaId) -> Result<PathBuf, Failure> {
        let dir = self.root.join(media_id.to_string());
        std::fs::create_dir_all(&dir)
            .map_err(|e| Failure::of_disk(format_args!("failed to create {}", dir.display()), &e))?;
        Ok(dir)
    }

    /// True while other items have files here as well.
    pub fn is_shared(&self, media_id: MediaId) -> bool {
        let own = media_id.to_string();
        std::fs::read_dir(&self.root).is_ok_and(|entries| entries.flatten().any(|e| e.file_name() != *own))
    }

    /// Counts what an item holds on disk.
    pub fn note(&self, media_id: MediaId, bytes: u64) {
        self.held.lock().unwrap_or_else(|e| e.into_inner()).insert(media_id, bytes);
    }

    /// Deletes a download that has been decoded; a local file of the user's is not one.
    pub fn forget_download(&self, media_id: MediaId, path: &Path) {
        if path.starts_with(self.root.join(media_id.to_string())) {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Deletes everything of an item; `false` where that failed.
    pub fn remove(&self, media_id: MediaId) -> bool {
        let dir = self.root.join(media_id.to_string());
        let removed = match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %dir.display(), %error, "failed to clean the spool");
                false
            }
            _ => true,
        };
        self.held.lock().unwrap_or_else(|e| e.into_inner()).remove(&media_id);
        self.freed.notify_waiters();
        removed
    }

    /// Deletes of an item that is tried again what that does not begin with: all but parts of its download. Once there was
    /// audio, the download is gone, and nothing is left to go on from.
    pub fn keep_download(&self, media_id: MediaId) {
        let decoded = self.held.lock().unwrap_or_else(|e| e.into_inner()).contains_key(&media_id);
        if decoded {
            self.remove(media_id);
            return;
        }
        let dir = self.root.join(media_id.to_string());
        for name in [AUDIO, PACKED] {
            let _ = std::fs::remove_file(dir.join(name));
        }
        // Fails where there are parts.
        let _ = std::fs::remove_dir(&dir);
        self.freed.notify_waiters();
    }

    /// The items that have a directory here, those that were touched longest ago first.
    pub fn items(&self) -> Vec<MediaId> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut items: Vec<_> = entries
            .filter_map(|entry| {
                let id = entry.file_name().to_str()?.parse::<MediaId>().ok()?;
                Some((entry.metadata().and_then(|m| m.modified()).ok(), id))
            })
            .collect();
        items.sort_unstable();
        items.into_iter().map(|(_, id)| id).collect()
    }

    /// Waits for room on the disk; `false` when told to stop instead. `spare` deletes something that can be done without, and
    /// says whether there was any.
    pub async fn room(&self, events: &Events, stop: &CancellationToken, spare: impl Fn() -> bool) -> bool {
        let mut told = false;
        loop {
            if stop.is_cancelled() {
                return false;
            }
            let short = match (self.excess(), self.shortage()) {
                (Some(excess), _) => excess,
                (None, Some(_)) if spare() => continue,
                (None, Some(shortage)) => shortage,
                (None, None) => return true,
            };
            if !std::mem::replace(&mut told, true) {
                events.send(Event::Noticed { warning: true, message: format!("downloads wait: {short}") });
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = self.freed.notified() => {}
                // Others may free the disk as well.
                () = tokio::time::sleep(Duration::from_secs(5)) => {}
            }
        }
    }

    /// What of the decoded audio is too much, if it is. An empty spool never blocks itself by its own limit.
    fn excess(&self) -> Option<String> {
        let held: u64 = self.held.lock().unwrap_or_else(|e| e.into_inner()).values().sum();
        (held > self.max_bytes).then(|| {
            format!(
                "the spool holds {} MB of decoded audio (SPOOL_MAX_MB={})",
                held >> 20,
                self.max_bytes >> 20
            )
        })
    }

    /// What the disk is short of, if it is.
    fn shortage(&self) -> Option<String> {
        let stat = nix::sys::statvfs::statvfs(&self.root).ok()?;
        let free = stat.blocks_available() as u64 * stat.fragment_size() as u64;
        (free < self.min_free).then(|| {
            format!(
                "{} MB free in {} (MIN_FREE_DISK_MB={})",
                free >> 20,
                self.root.display(),
                self.min_free >> 20
            )
        })
    }

    /// Deletes the directory if nothing is left in it; parts of unfinished downloads stay for the next start.
    pub fn close(&self) {
        for entry in std::fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(entry.path().join(AUDIO));
            let _ = std::fs::remove_dir(entry.path());
        }
        let _ = std::fs::remove_dir(&self.root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(data: &Path, max_bytes: u64, min_free: u64) -> Spool {
        Spool::open(data, "worker", max_bytes, min_free).unwrap()
    }

    fn item(name: &str) -> MediaId {
        MediaId::new("test", name)
    }

    /// Whether `room` says so at once.
    fn has_room(spool: &Spool, spare: impl Fn() -> bool) -> bool {
        let (events, _) = Events::channel();
        let stop = CancellationToken::new();
        let room = spool.room(&events, &stop, spare);
        futures::FutureExt::now_or_never(room) == Some(true)
    }

    #[tokio::test]
    async fn an_item_that_is_tried_again_holds_no_room_and_keeps_its_download() {
        let data = tempfile::tempdir().unwrap();
        let spool = spool(data.path(), 10, 0);
        let (decoded, cut) = (item("decoded"), item("cut"));
        for name in [AUDIO, "download.json"] {
            std::fs::write(spool.dir(decoded).unwrap().join(name), "1").unwrap();
        }
        spool.note(decoded, 11);
        for name in [PACKED, "download.part"] {
            std::fs::write(spool.dir(cut).unwrap().join(name), "1").unwrap();
        }
        assert!(!has_room(&spool, || unreachable!("the disk is not short")));
        spool.keep_download(decoded);
        spool.keep_download(cut);
        assert!(has_room(&spool, || unreachable!("the disk is not short")));
        assert_eq!(spool.items(), [cut]);
        let left: Vec<_> =
            std::fs::read_dir(spool.dir(cut).unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["download.part"]);
    }

    #[tokio::test]
    async fn what_can_be_done_without_goes_when_the_disk_is_short() {
        let data = tempfile::tempdir().unwrap();
        let spool = spool(data.path(), 10, u64::MAX);
        for name in ["a", "b", "c"] {
            spool.dir(item(name)).unwrap();
        }
        assert!(!has_room(&spool, || spool.items().first().is_some_and(|id| spool.remove(*id))));
        assert_eq!(spool.items(), []);
    }
}

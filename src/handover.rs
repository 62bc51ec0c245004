//! Audio on its way from the machine that fetched it to the one that transcribes it, through an object store that both
//! reach: a shared directory, an S3-compatible store, Google Cloud Storage, Azure Blob Storage.
//!
//! What is left there is named by the library, the item and the fence of the claim it was made under ([`Key`]). So two
//! workers never write the same object, and whether an object is still of use can be told from the database alone, without
//! any clock: it is, if a hand-over names it, or if the claim with that fence is still held. Everything else under the
//! library's prefix is an orphan ([`Handover::list`] finds them, the store's `wanted` says which).
//!
//! Uploads and downloads are streams of pieces, so that memory does not grow with the audio. The hash of what was left
//! travels through the database, and is compared before anything is made of it.

pub mod flac;
mod place;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, buffered::BufWriter, path::Path as ObjectPath};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use crate::event::Progress;
use crate::media::MediaId;

/// Bytes of one part of an upload; smaller files go in one request. S3 takes parts of 5 MiB and more, 10,000 of them.
const PART: usize = 8 << 20;
/// Parts of one upload on their way at once.
const PARTS: usize = 2;
/// Bytes read from a file at a time.
const PIECE: usize = 256 << 10;

/// Name of one object: which library, which item, made under which claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The library's own identity: several may share a store.
    pub library: Uuid,
    /// The item.
    pub media_id: MediaId,
    /// The claim's number: whoever holds it is the only one to write this object.
    pub fence: i64,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}.flac", self.library, self.media_id, self.fence)
    }
}

impl FromStr for Key {
    type Err = String;

    /// Also understands what an interrupted upload into a directory leaves (`….flac#1`).
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} names no audio handed over");
        let mut parts = text.split('/');
        let (Some(library), Some(item), Some(file), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        let (fence, kind) = file.split_once('.').ok_or_else(bad)?;
        let kind = kind.split_once('#').map_or(kind, |(kind, _)| kind);
        if kind != "flac" {
            return Err(bad());
        }
        Ok(Self {
            library: library.parse().map_err(|_| bad())?,
            media_id: item.parse().map_err(|_| bad())?,
            fence: fence.parse().map_err(|_| bad())?,
        })
    }
}

/// What was left in the store, as the database remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Length of the object.
    pub bytes: u64,
    /// SHA-256 of the object.
    pub sha256: [u8; 32],
}

/// Why the store could not be used, or what it gave was not what had been left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandoverError {
    /// HANDOVER_URL names no store.
    #[error("HANDOVER_URL: {0}")]
    Address(String),
    /// The store refuses or is not there.
    #[error("cannot {what} in {place}: {reason}")]
    Store {
        /// What was tried.
        what: &'static str,
        /// The store, without secrets.
        place: String,
        /// The store's word, shortened.
        reason: String,
        /// False where it will not get better by itself: no such bucket, no permission.
        transient: bool,
    },
    /// There is no such object.
    #[error("the audio handed over is not in {place} any more")]
    Absent {
        /// The store.
        place: String,
    },
    /// What came is not what was left.
    #[error("the audio handed over is damaged: {0}")]
    Damaged(String),
    /// A local file could not be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The store, opened. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handover {
    store: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    /// For messages.
    place: String,
    /// Where the store is a directory: interrupted uploads are found there.
    directory: Option<PathBuf>,
    library: Uuid,
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HandoverError {
    let path = path.to_owned();
    move |source| HandoverError::Io { what, path, source }
}

impl Left {
    /// True for an upload that never ended: of use to nobody but the one who is at it.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.is_some()
    }
}

impl Handover {
    /// The store at `url`, for `library`. `variables` are those of the environment: credentials, endpoints and regions are
    /// looked up under their usual names (`AWS_…`, `GOOGLE_…`, `AZURE_…`). Nothing is connected yet.
    ///
    /// # Errors
    /// [`HandoverError::Address`] where that is no store, or what it needs is missing.
    pub fn open(
        url: &str,
        library: Uuid,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, HandoverError> {
        let place::Opened { store, prefix, place, directory } = place::open(url, variables)?;
        Ok(Self { store, prefix, place, directory, library })
    }

    /// The store for people; no secrets.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The name of what is made under a claim.
    pub fn key(&self, media_id: MediaId, fence: i64) -> Key {
        Key { library: self.library, media_id, fence }
    }

    /// Writes a small object, reads it and removes it: what is wrong with the store shows before any work is done.
    ///
    /// # Errors
    /// [`HandoverError::Store`].
    pub async fn check(&self) -> Result<(), HandoverError> {
        let path =
            self.prefix.clone().join(self.library.to_string()).join(format!("check-{}", Uuid::new_v4()));
        self.store
            .put(&path, PutPayload::from_static(b"spoken"))
            .await
            .map_err(|e| self.failed("write", e))?;
        let read = match self.store.get(&path).await {
            Ok(found) => found.bytes().await,
            Err(e) => Err(e),
        };
        self.store.delete(&path).await.map_err(|e| self.failed("delete", e))?;
        match read {
            Ok(bytes) if *bytes == *b"spoken" => Ok(()),
            Ok(_) => Err(HandoverError::Damaged(format!(
                "{} gives back something else than it was given",
                self.place
            ))),
            Err(e) => Err(self.failed("read", e)),
        }
    }

    /// Leaves `file` under `key`; progress in bytes. An object is there as a whole or not at all.
    ///
    /// # Errors
    /// [`HandoverError::Store`], [`HandoverError::Io`].
    pub async fn put(&self, key: &Key, file: &Path, progress: &mut Progress) -> Result<Sent, HandoverError> {
        let mut from = tokio::fs::File::open(file).await.map_err(io_error("open", file))?;
        let total = from.metadata().await.map_err(io_error("look at", file))?.len();
        let mut to = BufWriter::with_capacity(Arc::clone(&self.store), self.path(key), PART)
            .with_max_concurrency(PARTS);
        match self.copy(&mut from, file, &mut to, total, progress).await {
            Ok(sent) => Ok(sent),
            Err(error) => {
                // Best effort: what a store keeps of an upload that never ended is for its own rules to remove.
                let _ = to.abort().await;
                Err(error)
            }
        }
    }

    async fn copy(
        &self,
        from: &mut tokio::fs::File,
        file: &Path,
        to: &mut BufWriter,
        total: u64,
        progress: &mut Progress,
    ) -> Result<Sent, HandoverError> {
        let (mut hasher, mut bytes, mut piece) = (Sha256::new(), 0_u64, vec![0; PIECE]);
        progress.set(0, Some(total));
        loop {
            let read = from.read(&mut piece).await.map_err(io_error("read", file))?;
            if read == 0 {
                break;
            }
            hasher.update(&piece[..read]);
            to.write_all(&piece[..read]).await.map_err(|e| self.failed_io("write", e))?;
            bytes += read as u64;
            progress.set(bytes, Some(total));
        }
        to.shutdown().await.map_err(|e| self.failed_io("write", e))?;
        Ok(Sent { bytes, sha256: hasher.finalize().into() })
    }

    /// Brings what was left under `key` into `file` and checks it against `sent`; progress in bytes.
    ///
    /// # Errors
    /// [`HandoverError::Absent`] and [`HandoverError::Damaged`] where it has to be fetched anew; else
    /// [`HandoverError::Store`] and [`HandoverError::Io`]. A file that was begun stays.
    pub async fn get(
        &self,
        key: &Key,
        sent: &Sent,
        file: &Path,
        progress: &mut Progress,
    ) -> Result<(), HandoverError> {
        let found = self.store.get(&self.path(key)).await.map_err(|e| self.failed("read", e))?;
        if found.meta.size != sent.bytes {
            return Err(HandoverError::Damaged(format!(
                "{} bytes, {} were left",
                found.meta.size, sent.bytes
            )));
        }
        let mut to = tokio::fs::File::create(file).await.map_err(io_error("create", file))?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0_u64);
        let mut pieces = found.into_stream();
        while let Some(piece) = pieces.try_next().await.map_err(|e| self.failed("read", e))? {
            hasher.update(&piece);
            to.write_all(&piece).await.map_err(io_error("write", file))?;
            bytes += piece.len() as u64;
            progress.set(bytes, Some(sent.bytes));
        }
        to.flush().await.map_err(io_error("write", file))?;
        let sha256: [u8; 32] = hasher.finalize().into();
        if bytes != sent.bytes || sha256 != sent.sha256 {
            return Err(HandoverError::Damaged("its SHA-256 is not that of what was left".to_owned()));
        }
        Ok(())
    }

    /// Removes what was left under `key`; that it is gone already is no error.
    ///
    /// # Errors
    /// [`HandoverError::Store`].
    pub async fn remove(&self, key: &Key) -> Result<(), HandoverError> {
        match self.store.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.failed("delete", e)),
        }
    }

    /// All objects of this library, interrupted uploads into a directory among them. What is not named as a [`Key`]
    /// belongs to somebody else and is left out.
    ///
    /// # Errors
    /// [`HandoverError::Store`], [`HandoverError::Io`].
    pub async fn list(&self) -> Result<Vec<Left>, HandoverError> {
        let prefix = self.prefix.clone().join(self.library.to_string());
        let mut listed = self.store.list(Some(&prefix));
        let mut found = Vec::new();
        while let Some(meta) = listed.try_next().await.map_err(|e| self.failed("list", e))? {
            let name: String = meta
                .location
                .prefix_match(&self.prefix)
                .map(|parts| parts.map(|p| p.as_ref().to_owned()).collect::<Vec<_>>().join("/"))
                .unwrap_or_default();
            if let Ok(key) = name.parse() {
                found.push(Left { key, interrupted: None });
            }
        }
        found.extend(self.interrupted()?);
        Ok(found)
    }

    /// What uploads into a directory left when their process died: the library writes aside, as `name#1`, and never lists
    /// that.
    fn interrupted(&self) -> Result<Vec<Left>, HandoverError> {
        let Some(directory) = &self.directory else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for entry in walkdir::WalkDir::new(directory.join(self.library.to_string())).into_iter().flatten() {
            let name = entry.path().strip_prefix(directory).ok().and_then(Path::to_str).unwrap_or_default();
            if entry.file_type().is_file()
                && name.contains('#')
                && let Ok(key) = name.parse()
            {
                found.push(Left { key, interrupted: Some(entry.into_path()) });
            }
        }
        Ok(found)
    }

    /// Removes what [`Self::list`] found.
    ///
    /// # Errors
    /// [`HandoverError::Store`], [`HandoverError::Io`].
    pub async fn clear(&self, left: &Left) -> Result<(), HandoverError> {
        match &left.interrupted {
            None => self.remove(&left.key).await,
            Some(path) => match tokio::fs::remove_file(path).await {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(e)),
                _ => Ok(()),
            },
        }
    }

    fn path(&self, key: &Key) -> ObjectPath {
        self.prefix
            .clone()
            .join(key.library.to_string())
            .join(key.media_id.to_string())
            .join(format!("{}.flac", key.fence))
    }

    fn failed(&self, what: &'static str, error: object_store::Error) -> HandoverError {
        use object_store::Error as E;
        if matches!(error, E::NotFound { .. }) && what == "read" {
            return HandoverError::Absent { place: self.place.clone() };
        }
        let transient = !matches!(
            error,
            E::PermissionDenied { .. }
                | E::Unauthenticated { .. }
                | E::NotFound { .. }
                | E::NotSupported { .. }
                | E::NotImplemented { .. }
                | E::UnknownConfigurationKey { .. }
                | E::InvalidPath { .. }
        );
        HandoverError::Store { what, place: self.place.clone(), reason: reason(&error), transient }
    }

    fn failed_io(&self, what: &'static str, error: io::Error) -> HandoverError {
        match error.downcast::<object_store::Error>() {
            Ok(error) => self.failed(what, error),
            Err(error) => HandoverError::Store {
                what,
                place: self.place.clone(),
                reason: error.to_string(),
                transient: true,
            },
        }
    }
}

/// An object, or what is left of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Its name.
    pub key: Key,
    /// The file of an upload into a directory that never ended.
    interrupted: Option<PathBuf>,
}

/// What a store said, on one line of a bearable length: some answer with pages.
fn reason(error: &object_store::Error) -> String {
    const LONGEST: usize = 300;
    let line = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests;

//! Brings an item's bytes: a local file stays where it is, an address is downloaded, a page goes through yt-dlp.
//!
//! Downloads survive what networks do: cut connections are taken up where they broke (checked with the server's
//! validators, or by comparing the overlap where there are none), stalls are noticed, lengths are checked, and short
//! trouble is waited out here so that it costs no attempt of the item. What was fetched so far stays in the item's folder,
//! and a later call goes on from there. File names come from us, never from a server.

pub mod captions;
mod http;
mod page;
mod turn;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::event::{Events, Progress, Step};
use crate::media::{Failure, FailureClass, Fetched, Item, Locator, Metadata};
use crate::web;
use crate::ytdlp::{Preflight, YtDlp};

/// No item is fetched for longer at a stretch: a server that gives a byte now and then would hold a worker for ever.
const MAX_TIME: Duration = Duration::from_secs(12 * 3600);

/// Which captions are wanted, and what for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptionWishes {
    /// In this language; `None`: in the one that the site says is spoken.
    pub language: Option<String>,
    /// Good ones stand for the transcript; else they are kept for where nothing better can be had.
    pub first: bool,
    /// Where good ones stand for the transcript, the media is not downloaded.
    pub alone: bool,
}

/// How to fetch.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// For pages.
    pub ytdlp: YtDlp,
    /// yt-dlp's format selector.
    pub format: String,
    /// How long a connection may bring nothing.
    pub network_timeout: Duration,
    /// Largest download in bytes.
    pub max_bytes: u64,
    /// First pause before a failed request is tried again; doubles with each try in a row.
    pub backoff: Duration,
    /// Items that may wait here for their turn at a site at once; the others are put back. Fewer than the workers that
    /// fetch, so that one busy site does not keep all of them from the rest.
    pub waiting: usize,
    /// Whether captions that people made are fetched as well.
    pub captions: Option<CaptionWishes>,
    /// Ends waiting for turns: what waits is put back at once.
    pub stop: CancellationToken,
}

impl FetchOptions {
    /// The usual options: best audio, 8 GiB, yt-dlp's network timeout.
    pub fn new(ytdlp: YtDlp) -> Self {
        Self {
            format: "bestaudio/best".into(),
            network_timeout: ytdlp.options().network_timeout,
            max_bytes: 8 << 30,
            backoff: Duration::from_secs(1),
            waiting: 4,
            captions: None,
            stop: CancellationToken::new(),
            ytdlp,
        }
    }
}

/// Fetches items. Cheap to clone; use one for all, so that connections are shared.
#[derive(Clone, Debug)]
pub struct Fetcher {
    options: FetchOptions,
    client: web::Client,
    waiting: Arc<Semaphore>,
    broken: turn::Broken,
}

impl Fetcher {
    /// A fetcher with `options`; nothing is run or connected yet.
    ///
    /// # Errors
    /// [`FailureClass::Setup`] when the system's TLS cannot be initialised.
    pub fn new(options: FetchOptions) -> Result<Self, Failure> {
        let client = web::client(&options.ytdlp.options().net, options.network_timeout)?;
        let waiting = Arc::new(Semaphore::new(options.waiting));
        Ok(Self { options, client, waiting, broken: turn::Broken::default() })
    }

    /// Whether yt-dlp and its JavaScript runtime work.
    pub async fn preflight(&self) -> Preflight {
        self.options.ytdlp.preflight().await
    }

    /// Brings the bytes of `item` into the folder `dir` (made if missing), or tells where they are already.
    /// Progress is told in bytes. When `cancel` fires, what is running is stopped and an
    /// [`FailureClass::Internal`] failure is returned; what was fetched stays in `dir` for the next call.
    ///
    /// What lies on a site waits for its turn there (see [`crate::govern`]): a short time here, else the failure is
    /// [`FailureClass::Paced`] and tells when to come back. How it went is told to the site's breaker; a failure that is the
    /// site's doing rather than the item's is marked [`Failure::free`].
    ///
    /// # Errors
    /// Why the item cannot be had; transient classes were tried several times already.
    pub async fn fetch(
        &self,
        item: &Item,
        dir: &Path,
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<Fetched, Failure> {
        let mut progress = events.progress(item.media_id, Step::Fetch);
        let url = match &item.locator {
            Locator::File(path) => {
                let size = readable(path).await?;
                progress.set(size, Some(size));
                return Ok(Fetched {
                    path: Some(path.clone()),
                    metadata: Metadata::default(),
                    captions: None,
                });
            }
            Locator::Url(url) | Locator::Page(url) => url,
        };
        let dir = std::path::absolute(dir).map_err(|e| disk(dir, &e))?;
        tokio::fs::create_dir_all(&dir).await.map_err(|e| disk(&dir, &e))?;
        let permit = self.turn(item, url, events, cancel).await?;
        let fetching = self.fetch_from(item, url, &dir, permit.id(), &mut progress, cancel);
        let fetched = match tokio::time::timeout(MAX_TIME, fetching).await {
            Ok(fetched) => fetched,
            Err(_) => Err(Failure::new(
                FailureClass::Network,
                format!("not there after {} h; the next attempt goes on", MAX_TIME.as_secs() / 3600),
            )),
        };
        let fetched = self.tell(item, url, &permit, fetched, events, cancel).await;
        permit.end().await;
        fetched
    }

    async fn fetch_from(
        &self,
        item: &Item,
        url: &url::Url,
        dir: &Path,
        permit: Option<Uuid>,
        progress: &mut Progress,
        cancel: &CancellationToken,
    ) -> Result<Fetched, Failure> {
        if matches!(item.locator, Locator::Url(_)) {
            match self.download(url, dir, permit, progress, cancel).await? {
                http::Got::Media(path) => {
                    return Ok(Fetched { path: Some(path), metadata: Metadata::default(), captions: None });
                }
                http::Got::Page => {}
            }
        }
        self.fetch_page(item, url, dir, permit, progress, cancel).await
    }
}

/// The size of a local file that can be read.
async fn readable(path: &Path) -> Result<u64, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(FailureClass::Unreadable, format!("failed to read {}: {e}", path.display()))
    };
    let metadata = tokio::fs::File::open(path).await.map_err(failed)?.metadata().await.map_err(failed)?;
    if !metadata.is_file() {
        return Err(Failure::new(
            FailureClass::Unreadable,
            format!("{} is not a regular file", path.display()),
        ));
    }
    if metadata.len() == 0 {
        return Err(Failure::new(FailureClass::Empty, format!("{} is empty", path.display())));
    }
    Ok(metadata.len())
}

/// Our own disk failed.
fn disk(path: &Path, error: &std::io::Error) -> Failure {
    Failure::of_disk(format_args!("failed to write in {}", path.display()), error)
}

fn too_large(max_bytes: u64) -> Failure {
    Failure::new(FailureClass::TooLarge, format!("larger than the limit of {} MB", max_bytes / 1_000_000))
        .with_remedy("raise MAX_DOWNLOAD_MB, then run `spoken retry`")
}

fn interrupted() -> Failure {
    Failure::new(FailureClass::Internal, "interrupted while fetching")
}

/// The one file a download makes in an item's folder, by name without ending.
const NAME: &str = "download";

fn in_folder(dir: &Path, ending: &str) -> PathBuf {
    dir.join(format!("{NAME}{ending}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pipeline runs these on any of the runtime's threads: checked when this compiles.
    #[expect(dead_code, reason = "only has to compile")]
    fn futures_move_between_threads(f: &Fetcher, item: &Item, dir: &Path, e: &Events, c: &CancellationToken) {
        fn moves(_: impl Send) {}
        moves(f.fetch(item, dir, e, c));
        moves(f.preflight());
    }
}

//! What to work on: expands a source, as a person gives it, into media items.
//!
//! A source is a folder, a file, an address, a list of sources in a file, or `-` for a list on standard input. Items
//! stream out while a large source is still being listed, in the source's order; what cannot be an item streams out
//! as a failure with its reason, and the rest goes on.
//!
//! Identity is decided here (see [`Item`]): a local file is its content's BLAKE3, so a renamed copy is the same item; an
//! address of media is the address in its normal form, whether it was given directly, found in a feed or on a page; a
//! page that yt-dlp knows is the site's own id for the video.

mod entry;
mod feed;
mod files;
mod lists;
mod order;
mod pages;
pub mod rules;
mod turn;
mod youtube;

use std::{
    borrow::Cow,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_channel::Sender;

pub use entry::{About, Live};
pub use feed::{Answer, Feed, FeedEntry, Place, Validators};
pub use files::{Looked, Seen};
pub use lists::{MAX_LIST_BYTES, parse_list};
pub use pages::{Reading, facts_are_cheap, feed_item};
pub use youtube::{is_newest_first, is_no_feed};

use crate::media::{Failure, FailureClass, Item, Locator, MediaId};
use crate::web;
use crate::ytdlp::YtDlp;

/// Something found in a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An item.
    Item {
        /// The item.
        item: Item,
        /// For a local file, what to remember so that its content is not read again; see [`KnownFiles`].
        stamp: Option<FileStamp>,
        /// What the list told besides.
        about: About,
    },
    /// Something that was asked for and cannot be an item, in the form of an item whose identity is its path or address
    /// (extractor `path` or `url`).
    Failed {
        /// What it would have been.
        item: Item,
        /// Why it is not.
        failure: Failure,
    },
    /// Something to tell that costs no item: a folder that contains itself.
    Notice(String),
}

/// A file at a moment: while these three stay, its content is taken to stay.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// Absolute path.
    pub path: PathBuf,
    /// Length in bytes.
    pub size: u64,
    /// Last modification, nanoseconds since 1970.
    pub mtime_ns: i64,
}

impl FileStamp {
    /// The stamp of the file at `path`, which `metadata` is of.
    pub fn of(path: &Path, metadata: &std::fs::Metadata) -> Self {
        let since = metadata.modified().ok().and_then(|m| m.duration_since(SystemTime::UNIX_EPOCH).ok());
        Self {
            path: path.to_owned(),
            size: metadata.len(),
            mtime_ns: since.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)),
        }
    }
}

/// Remembers the content hashes of files, so that a folder of thousands is not read again at every run.
///
/// Called from blocking threads, several at a time. [`Found::Item`] carries the stamp to remember.
pub trait KnownFiles: Send + Sync {
    /// The BLAKE3 (lower-case hex) of the media file that had this stamp, if it was seen before.
    fn hash_of(&self, stamp: &FileStamp) -> Option<String>;
}

/// Knows no file.
impl KnownFiles for () {
    fn hash_of(&self, _: &FileStamp) -> Option<String> {
        None
    }
}

impl KnownFiles for std::collections::HashMap<FileStamp, String> {
    fn hash_of(&self, stamp: &FileStamp) -> Option<String> {
        self.get(stamp).cloned()
    }
}

/// Tells whether a file's content is media; the decoder's demuxers decide.
pub type IsMedia = Arc<dyn Fn(&Path) -> Result<(), Failure> + Send + Sync>;

/// What listing needs to know. Cheap to clone.
#[derive(Clone)]
pub struct SourceOptions {
    /// Tells whether a file is media, by its content.
    pub is_media: IsMedia,
    /// Files whose content is known.
    pub known: Arc<dyn KnownFiles>,
    /// Folders never descended into (the data directory with its half-fetched files).
    pub exclude: Vec<PathBuf>,
    /// Files read at a time.
    pub file_workers: usize,
    /// Addresses asked at a time.
    pub url_workers: usize,
    /// How long a connection may bring nothing.
    pub network_timeout: Duration,
    /// First pause before a failed request is tried again; doubles with each try.
    pub backoff: Duration,
    /// For pages, feeds, playlists and channels.
    pub ytdlp: YtDlp,
}

impl SourceOptions {
    /// Options with the usual numbers of workers, nothing known and nothing excluded.
    pub fn new(is_media: IsMedia, ytdlp: YtDlp) -> Self {
        Self {
            is_media,
            known: Arc::new(()),
            exclude: Vec::new(),
            file_workers: 4,
            url_workers: 6,
            network_timeout: ytdlp.options().network_timeout,
            backoff: Duration::from_millis(500),
            ytdlp,
        }
    }
}

impl fmt::Debug for SourceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceOptions")
            .field("exclude", &self.exclude)
            .field("file_workers", &self.file_workers)
            .field("url_workers", &self.url_workers)
            .field("ytdlp", &self.ytdlp)
            .finish_non_exhaustive()
    }
}

/// A source as understood from its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceArg {
    /// `-`: a list on standard input.
    Stdin,
    /// A file with one source a line.
    List(PathBuf),
    /// A folder, searched recursively.
    Folder(PathBuf),
    /// One local file.
    File(PathBuf),
    /// An address.
    Url(url::Url),
}

impl SourceArg {
    /// Understands `text`; relative paths are taken from `base`. Looks at the file system: an existing path is always a
    /// path, and a text file of sources (ending in .txt, .list, .m3u or nothing, its first line an address or an existing
    /// path) is a list.
    ///
    /// # Errors
    /// [`FailureClass::Unreadable`] when it is neither a path nor an address, [`FailureClass::Refused`] for an address that is
    /// not read.
    pub fn parse(text: &str, base: &Path) -> Result<Self, Failure> {
        let text = text.trim();
        if text == "-" {
            return Ok(Self::Stdin);
        }
        if text.is_empty() {
            return Err(Failure::new(FailureClass::Unreadable, "empty source"));
        }
        let path = base.join(text);
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => Ok(Self::Folder(path)),
            Ok(metadata) if metadata.is_file() && lists::is_list(&path) => Ok(Self::List(path)),
            Ok(_) => Ok(Self::File(path)),
            Err(_) if looks_like_address(text) => web::parse_url(text).map(Self::Url),
            // A link into nowhere, a folder we may not look into: say what the system says.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound || path.is_symlink() => Err(
                Failure::new(FailureClass::Unreadable, format!("failed to read {}: {error}", path.display())),
            ),
            Err(_) => {
                let failure = Failure::new(
                    FailureClass::Unreadable,
                    format!("no such file or folder: {}, and not a URL", path.display()),
                );
                Err(if looks_like_host(text) {
                    failure.with_remedy(format!("for an address write https://{text}"))
                } else {
                    failure.with_remedy("check the spelling; addresses start with https:// or http://")
                })
            }
        }
    }
}

/// `scheme:…` as in RFC 3986 §3.1, with more than one letter (a single one is a drive).
fn looks_like_address(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.len() > 1
            && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
            && (rest.starts_with("//") || scheme.eq_ignore_ascii_case("data"))
    })
}

/// `example.org/watch`, an address somebody typed without its scheme.
fn looks_like_host(text: &str) -> bool {
    let host = text.split(['/', '?', ':']).next().unwrap_or_default();
    let last = host.rsplit('.').next().unwrap_or_default();
    host.contains('.')
        && !host.starts_with('.')
        && !host.contains(char::is_whitespace)
        && last.len() >= 2
        && last.chars().all(|c| c.is_ascii_alphabetic())
        && !web::media_extension(host)
}

/// Finds the items of sources.
#[derive(Clone, Debug)]
pub struct Lister {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: SourceOptions,
    client: web::Client,
}

impl Lister {
    /// A lister with `options`.
    ///
    /// # Errors
    /// [`FailureClass::Setup`] when the system's TLS cannot be initialised.
    pub fn new(options: SourceOptions) -> Result<Self, Failure> {
        let client = web::client(&options.ytdlp.options().net, options.network_timeout)?;
        Ok(Self { inner: Arc::new(Inner { options, client }) })
    }

    fn options(&self) -> &SourceOptions {
        &self.inner.options
    }

    /// Sends everything found in `source` to `out`, and ends when all of it was sent or nobody receives any more.
    /// `stdin` is the list's text when the source is `-` (the caller reads it: it belongs to the process, not to a
    /// library). Dropping the future stops the listing, yt-dlp included.
    pub async fn list(&self, source: &str, stdin: Option<&str>, out: &Sender<Found>) {
        let base = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let parsed = {
            let (text, base) = (source.to_owned(), base.clone());
            tokio::task::spawn_blocking(move || SourceArg::parse(&text, &base)).await
        };
        let parsed = match parsed {
            Ok(Ok(parsed)) => parsed,
            Ok(Err(failure)) => {
                let _ = out.send(refused(source, failure)).await;
                return;
            }
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        self.list_parsed(&parsed, stdin, out).await;
    }

    /// As [`Self::list`], for a source that is understood already.
    pub async fn list_parsed(&self, source: &SourceArg, stdin: Option<&str>, out: &Sender<Found>) {
        match source {
            SourceArg::Stdin => match stdin {
                Some(text) => {
                    let base = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
                    self.list_entries(parse_list(text), base, out).await;
                }
                None => {
                    let failure = Failure::new(FailureClass::Refused, "standard input can be read only once");
                    let _ = out.send(refused("-", failure)).await;
                }
            },
            SourceArg::List(path) => self.list_file(path, out).await,
            SourceArg::Folder(path) => self.list_folder(path, out).await,
            SourceArg::File(path) => self.list_one_file(path.clone(), out).await,
            SourceArg::Url(url) => self.read_list(url.clone(), Reading::default(), out).await,
        }
    }
}

/// A failure whose identity is the path or address it was given as. Credentials in an address are not repeated.
fn refused(source: &str, failure: Failure) -> Found {
    match url::Url::parse(source) {
        Ok(mut url) if looks_like_address(source) => {
            let _ = url.set_username("");
            let _ = url.set_password(None);
            failed_url(&url, failure)
        }
        _ => failed_path(Path::new(&*without_credentials(source)), failure),
    }
}

/// A source as it may be shown and stored: an address loses its user name and password, everything else stays.
pub fn without_credentials(source: &str) -> Cow<'_, str> {
    let source = source.trim();
    let Some((scheme, rest)) = source.split_once("://").filter(|_| looks_like_address(source)) else {
        return source.into();
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{path}").into(),
        None => source.into(),
    }
}

fn failed_path(path: &Path, failure: Failure) -> Found {
    let shown = path.to_string_lossy().into_owned();
    let title = path.file_stem().map_or_else(|| shown.clone(), |s| s.to_string_lossy().into_owned());
    Found::Failed {
        item: Item {
            media_id: MediaId::new("path", &shown),
            extractor: "path".into(),
            source_id: shown.clone(),
            locator: Locator::File(path.to_owned()),
            source: shown,
            title,
            duration_ms: None,
        },
        failure,
    }
}

fn failed_url(url: &url::Url, failure: Failure) -> Found {
    Found::Failed { item: url_item(url, None, None), failure }
}

/// The item of a media address.
fn url_item(url: &url::Url, title: Option<String>, duration_ms: Option<i64>) -> Item {
    let url = web::normalise(url);
    Item {
        media_id: MediaId::new("url", url.as_str()),
        extractor: "url".into(),
        source_id: url.to_string(),
        source: url.to_string(),
        title: title.unwrap_or_else(|| web::stem(&url)),
        locator: Locator::Url(url),
        duration_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.mp4"), "x").unwrap();
        std::fs::write(dir.path().join("list.txt"), "# mine\n\nhttps://example.org/a\n").unwrap();
        std::fs::write(dir.path().join("prose.txt"), "hello world\n").unwrap();
        let parse = |text: &str| SourceArg::parse(text, dir.path());
        assert_eq!(parse("-"), Ok(SourceArg::Stdin));
        assert_eq!(parse("a.mp4"), Ok(SourceArg::File(dir.path().join("a.mp4"))));
        assert_eq!(parse("list.txt"), Ok(SourceArg::List(dir.path().join("list.txt"))));
        assert_eq!(parse("prose.txt"), Ok(SourceArg::File(dir.path().join("prose.txt"))));
        assert_eq!(parse("."), Ok(SourceArg::Folder(dir.path().join("."))));
        assert!(matches!(parse("https://example.org/x"), Ok(SourceArg::Url(_))));
        assert_eq!(parse("ftp://example.org/x").unwrap_err().class, FailureClass::Refused);
        assert_eq!(parse("file:///etc/passwd").unwrap_err().class, FailureClass::Refused);
        let missing = parse("nope.mp4").unwrap_err();
        assert_eq!(missing.class, FailureClass::Unreadable);
        assert!(missing.message.starts_with("no such file or folder"), "{missing}");
        assert!(parse("youtube.com/watch?v=x").unwrap_err().remedy.unwrap().contains("https://youtube.com"));
    }

    /// Sources are listed on any of the runtime's threads: checked when this compiles.
    #[expect(dead_code, reason = "only has to compile")]
    fn futures_move_between_threads(lister: &Lister, out: &Sender<Found>) {
        fn moves(_: impl Send) {}
        moves(lister.list("-", None, out));
    }

    #[test]
    fn refused_addresses_do_not_keep_credentials() {
        let text = "https://anna:geheim@example.org/x";
        let found = refused(text, web::parse_url(text).unwrap_err());
        assert!(!format!("{found:?}").contains("geheim"), "{found:?}");
        // No URL at all, and yet somebody's password.
        let text = "https://anna:geheim@exa mple.org/x";
        let found = refused(text, web::parse_url(text).unwrap_err());
        assert!(!format!("{found:?}").contains("geheim"), "{found:?}");
        for (text, shown) in [
            ("https://anna:geheim@example.org/x@y?a=b@c", "https://example.org/x@y?a=b@c"),
            ("ftp://anna@example.org", "ftp://example.org"),
            ("https://example.org/@channel/videos", "https://example.org/@channel/videos"),
            ("talks/me@home.mp4", "talks/me@home.mp4"),
            ("-", "-"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }
}

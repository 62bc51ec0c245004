//! Addresses: media itself, or a page, feed, playlist or channel that yt-dlp lists.

use std::{collections::HashSet, ffi::OsString, pin::Pin, time::Duration};

use async_channel::{Sender, bounded, unbounded};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    Found, Lister,
    entry::{Entry, Meaning, TEMPLATE},
    failed_url, order, url_item,
};
use crate::govern::{Ask, Permit, Turn};
use crate::media::{Failure, FailureClass, Item, Locator, MediaId};
use crate::web::{self, Probed};
use crate::ytdlp::{End, Line};

/// Lists within lists within lists: a channel's tabs' playlists.
const MAX_DEPTH: usize = 3;

/// Bytes that yt-dlp may read to list a page: a channel of ten thousand videos takes a tenth of it, and a page without end
/// would be kept in memory.
const MAX_LISTING: u64 = 512 << 20;

/// What a list already told about an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) title: Option<String>,
    pub(super) duration_ms: Option<i64>,
}

/// The id of the one YouTube video an address shows, if it does: so that a list of five hundred videos needs no request
/// at all before they are fetched (the site counts them). A video shown within a playlist is that video; to take all
/// of it, give the playlist's own address.
fn youtube_id(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    let mut path = url.path_segments()?;
    let first = path.next()?;
    let id = match host {
        "youtu.be" => first.to_owned(),
        _ if !is_youtube(host) => return None,
        _ => match first {
            "watch" => url.query_pairs().find(|(k, _)| k == "v")?.1.into_owned(),
            "shorts" | "live" | "embed" | "v" => path.next()?.to_owned(),
            _ => return None,
        },
    };
    // `/embed/videoseries?list=` has as many letters as an id.
    (is_youtube_id(&id) && id != "videoseries" && id != "live_stream").then_some(id)
}

fn is_youtube(host: &str) -> bool {
    ["youtube.com", "youtube-nocookie.com", "youtu.be"]
        .iter()
        .any(|site| host.strip_suffix(site).is_some_and(|sub| sub.is_empty() || sub.ends_with('.')))
}

fn is_youtube_id(id: &str) -> bool {
    id.len() == 11 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The page of a YouTube video.
pub(super) fn watch_url(id: &str) -> Option<Url> {
    is_youtube_id(id).then(|| Url::parse(&format!("https://www.youtube.com/watch?v={id}")).ok()).flatten()
}

impl Lister {
    /// Lists the address `url`, found `depth` lists deep. Boxed, because lists hold lists.
    pub(super) fn list_url(
        &self,
        url: Url,
        hint: Hint,
        depth: usize,
        out: Sender<Found>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            if let Some((id, page)) = youtube_id(&url).and_then(|id| watch_url(&id).map(|page| (id, page))) {
                let item = Item {
                    media_id: MediaId::new("youtube", &id),
                    extractor: "youtube".into(),
                    title: hint.title.unwrap_or_else(|| id.clone()),
                    source_id: id,
                    source: page.to_string(),
                    locator: Locator::Page(page),
                    duration_ms: hint.duration_ms,
                };
                let _ = out.send(Found::Item { item, stamp: None }).await;
                return;
            }
            let probed = if url.host_str().is_some_and(is_youtube) {
                Ok(Probed::Page { html: false })
            } else {
                web::probe(&self.inner.client, &url, self.options().backoff).await
            };
            let probed = match probed {
                // An unknown kind of answer to an address that promises media: the decoder will tell.
                Ok(probed)
                    if probed == Probed::Media
                        || (probed == Probed::Unknown && web::media_extension(url.path())) =>
                {
                    let item = url_item(&url, hint.title, hint.duration_ms);
                    let _ = out.send(Found::Item { item, stamp: None }).await;
                    return;
                }
                Ok(probed) => probed,
                // Pages that turn programs away may open to yt-dlp, which knows cookies and disguises.
                Err(failure)
                    if matches!(failure.class, FailureClass::Private | FailureClass::RateLimited)
                        && !web::media_extension(url.path()) =>
                {
                    Probed::Page { html: false }
                }
                // What is media by its name needs no look now: it is fetched when the site is ready again.
                Err(failure)
                    if matches!(failure.class, FailureClass::RateLimited | FailureClass::Paced)
                        && web::media_extension(url.path()) =>
                {
                    let item = url_item(&url, hint.title, hint.duration_ms);
                    let _ = out.send(Found::Item { item, stamp: None }).await;
                    return;
                }
                Err(failure) => {
                    let _ = out.send(failed_url(&url, failure)).await;
                    return;
                }
            };
            self.list_page(url, probed, depth, out).await;
        })
    }

    /// Has yt-dlp list `url`. Where it finds nothing, the media files that the page links to are taken (a plain list of
    /// links, an Atom feed); where it finds several players on a page, the linked files are taken besides. A page with
    /// one player is about that one, whatever else it links to.
    async fn list_page(&self, url: Url, probed: Probed, depth: usize, out: Sender<Found>) {
        let mut backoff = web::Backoff::new(self.options().backoff);
        let listed = loop {
            let listed = self.list_with_ytdlp(&url, probed, depth, &out).await;
            let again = match &listed.failure {
                // What was found was passed on already; asking again would find it twice.
                Some(failure) => {
                    listed.entries == 0 && failure.class == FailureClass::Network && backoff.tries() < 3
                }
                None => false,
            };
            if !again {
                break listed;
            }
            tokio::time::sleep(backoff.pause()).await;
        };
        let nothing =
            listed.entries == 0 && listed.failure.as_ref().is_none_or(|f| f.class == FailureClass::NotMedia);
        let collection = listed.players.len() > 1 && listed.players.len() == listed.entries;
        let mut linked = 0;
        let may_link = match probed {
            Probed::Page { html } => html || nothing,
            _ => false,
        };
        if may_link && (nothing || collection) {
            match web::linked_media(&self.inner.client, &url, self.options().backoff).await {
                Ok(links) => {
                    for link in links {
                        if !listed.players.contains(&link) {
                            linked += 1;
                            let item = url_item(&link, None, None);
                            if out.send(Found::Item { item, stamp: None }).await.is_err() {
                                return;
                            }
                        }
                    }
                }
                Err(failure) => {
                    let _ = out.send(failed_url(&url, failure)).await;
                    return;
                }
            }
        }
        if nothing && linked > 0 {
            return;
        }
        let failure = match listed.failure {
            Some(failure) => failure,
            None if nothing => Failure::new(FailureClass::NotMedia, "nothing to fetch there"),
            None => return,
        };
        let failure = match failure.class {
            FailureClass::NotMedia => Failure::new(
                FailureClass::NotMedia,
                format!(
                    "no media found at {}: neither media itself nor a page with media that yt-dlp knows",
                    web::shown(&url)
                ),
            ),
            _ => failure,
        };
        // Of a feed's articles some have no media: nothing that was asked for is missing then.
        let found = match failure.class {
            FailureClass::NotMedia if depth > 0 => Found::Notice(format!("{failure}; left out")),
            _ => failed_url(&url, failure),
        };
        let _ = out.send(found).await;
    }

    /// One run of yt-dlp. Entries are passed on while it runs.
    async fn list_with_ytdlp(&self, url: &Url, probed: Probed, depth: usize, out: &Sender<Found>) -> Listed {
        let arguments: Vec<OsString> = [
            "--flat-playlist",
            // Entries come out one by one, not when the last page of a channel was read.
            "--lazy-playlist",
            "--simulate",
            // Which of several forms of a video is its address must not depend on what is configured for fetching.
            "--format",
            "bestaudio/best",
            "--print",
            TEMPLATE,
        ]
        .map(OsString::from)
        .to_vec();
        let ytdlp = &self.options().ytdlp;
        let permit = match self.listing_turn(url).await {
            Ok(permit) => permit,
            Err(failure) => return Listed { failure: Some(failure), ..Listed::default() },
        };
        let leash = match ytdlp.start(&arguments, url, &std::env::temp_dir(), permit.id(), MAX_LISTING) {
            Ok(leash) => leash,
            Err(failure) => return Listed { failure: Some(failure), ..Listed::default() },
        };
        let gate = leash.gate();
        // Without a limit: yt-dlp must not be taken for silent because those who take its entries are busy.
        let (entries_in, entries) = unbounded::<Entry>();
        let run = async {
            // Moved, so that the channel closes when the run ends.
            let entries_in = entries_in;
            let cancel = CancellationToken::new();
            let silence = ytdlp.silence();
            leash
                .follow(
                    silence,
                    &cancel,
                    || Some(0),
                    |line| match line {
                        Line::Out(text) if text.starts_with('{') => match serde_json::from_str(text) {
                            // Closed when nobody wants them any more.
                            Ok(entry) => entries_in.try_send(entry).is_ok(),
                            Err(_) => true,
                        },
                        _ => true,
                    },
                )
                .await
        };
        let mut listed = Listed::default();
        let pass_on = async {
            let (lister, page) = (self.clone(), url.clone());
            let (work_in, work) = bounded(8);
            let sort = async {
                let work_in = work_in;
                while let Ok(entry) = entries.recv().await {
                    // What yt-dlp took for media because it is no page, although it does not look like media either.
                    if entry.is_guess() && probed == Probed::Unknown {
                        continue;
                    }
                    listed.entries += 1;
                    if entry.is_of_any_page()
                        && let Some(player) = entry.url()
                    {
                        listed.players.insert(web::normalise(&player));
                    }
                    if work_in.send(entry).await.is_err() {
                        entries.close();
                        return;
                    }
                }
            };
            let work = order::in_order(work, self.options().url_workers, out, move |entry: Entry, out| {
                let (lister, page) = (lister.clone(), page.clone());
                async move { lister.pass_on(&entry, &page, depth, out).await }
            });
            tokio::join!(sort, work);
        };
        let (ended, ()) = tokio::join!(run, pass_on);
        listed.failure = match ended {
            Ok(End::Exited { status, .. }) if status.success() => None,
            Ok(End::Exited { status, errors }) => Some(ytdlp.failure(status.code(), &errors)),
            Ok(End::Silent { .. }) => Some(Failure::new(
                FailureClass::Network,
                format!(
                    "yt-dlp showed no sign of life for {} s on {}",
                    ytdlp.silence().as_secs(),
                    web::shown(url)
                ),
            )),
            Ok(End::Stopped | End::Cancelled) => None,
            Err(e) => Some(Failure::new(FailureClass::Internal, format!("failed to follow yt-dlp: {e}"))),
        };
        listed.failure = listed.failure.map(|failure| match &gate {
            Some(gate) => gate.explain(failure),
            None => failure,
        });
        let outcome = listed.failure.as_ref().map_or(Ok(()), Err);
        if let Err(error) = ytdlp.options().net.governor.tell(url, permit.id(), outcome).await {
            tracing::debug!(%error, "failed to note how a site answered");
        }
        permit.end().await;
        listed
    }

    /// Waits until a page of this site may be listed; not for long.
    async fn listing_turn(&self, url: &Url) -> Result<Permit, Failure> {
        /// A listing waits in its place; beyond this it is better begun again later.
        const PATIENCE: Duration = Duration::from_secs(120);
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.options().ytdlp.options().net.governor.ask(url, Ask::Listing).await {
                Ok(Turn::Go(permit)) => return Ok(permit),
                Ok(Turn::Wait(wait)) if tokio::time::Instant::now() + wait.after < until => {
                    tokio::time::sleep(wait.after).await;
                }
                Ok(Turn::Wait(wait)) => return Err(wait.failure()),
                Err(error) => {
                    return Err(Failure::new(
                        FailureClass::Internal,
                        format!("cannot ask the database whose turn it is: {error}"),
                    ));
                }
            }
        }
    }

    /// Sends what `entry` of the list at `page` is. Boxed, because lists hold lists.
    fn pass_on(
        &self,
        entry: &Entry,
        page: &Url,
        depth: usize,
        out: Sender<Found>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let too_deep = |url: &Url| {
            failed_url(
                url,
                Failure::new(FailureClass::Refused, format!("a list more than {MAX_DEPTH} lists deep")),
            )
        };
        let found = match entry.meaning(page) {
            Meaning::Item(item) => Found::Item { item, stamp: None },
            Meaning::Failed(failure) => failed_url(page, failure),
            Meaning::Resolve(url, _) | Meaning::Expand(url) if depth + 1 >= MAX_DEPTH || url == *page => {
                too_deep(&url)
            }
            Meaning::Resolve(url, hint) => return self.list_url(url, hint, depth + 1, out),
            Meaning::Expand(url) => {
                return Box::pin(self.list_page(url, Probed::Page { html: false }, depth + 1, out));
            }
        };
        Box::pin(async move {
            let _ = out.send(found).await;
        })
    }
}

/// What a run of yt-dlp gave.
#[derive(Debug, Default)]
struct Listed {
    entries: usize,
    /// Normalised addresses of the media of players on a page of any site.
    players: HashSet<Url>,
    failure: Option<Failure>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn youtube_videos_are_known_by_their_address() {
        let id = |s: &str| youtube_id(&Url::parse(s).unwrap());
        let expected = Some("aqz-KE-bpKQ".to_owned());
        for url in [
            "https://www.youtube.com/watch?v=aqz-KE-bpKQ",
            "https://youtube.com/watch?t=3&v=aqz-KE-bpKQ&list=PLx",
            "https://m.youtube.com/watch?v=aqz-KE-bpKQ",
            "https://youtu.be/aqz-KE-bpKQ?si=x",
            "https://www.youtube.com/shorts/aqz-KE-bpKQ",
            "https://www.youtube.com/live/aqz-KE-bpKQ?feature=share",
            "https://www.youtube-nocookie.com/embed/aqz-KE-bpKQ",
        ] {
            assert_eq!(id(url), expected, "{url}");
        }
        for url in [
            "https://www.youtube.com/playlist?list=PLx",
            "https://www.youtube.com/@x/videos",
            "https://www.youtube.com/embed/videoseries?list=PLx",
            "https://www.youtube.com/watch?v=short",
            "https://notyoutube.com/watch?v=aqz-KE-bpKQ",
            "https://example.org/watch?v=aqz-KE-bpKQ",
        ] {
            assert_eq!(id(url), None, "{url}");
        }
    }
}

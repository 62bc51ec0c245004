//! Addresses: media itself, or a page, feed, playlist or channel that yt-dlp lists.

use std::{collections::HashSet, ffi::OsString, fmt, pin::Pin, sync::Arc};

use async_channel::{Sender, bounded, unbounded};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    About, Answer, Feed, FeedEntry, Found, Lister, Place, Validators,
    entry::{Entry, Meaning, TEMPLATE},
    failed_url, feed, order,
    turn::Patience,
    url_item,
    youtube::{is_no_feed, is_short, youtube_item},
};
use crate::govern::{Ask, Permit, Turn};
use crate::media::{Failure, FailureClass, Item, Locator, MediaId};
use crate::web::{self, Probed};
use crate::ytdlp::{End, Line};

/// Lists within lists within lists: a channel's tabs' playlists.
const MAX_DEPTH: usize = 3;
/// A list that gives so many known items in a row holds nothing new below: more than one, because a channel may pin old ones
/// to its head.
const KNOWN_IN_A_ROW: usize = 4;

/// Bytes that yt-dlp may read to list a page: a channel of ten thousand videos takes a tenth of it, and a page without end
/// would be kept in memory.
const MAX_LISTING: u64 = 512 << 20;

/// What a list already told about an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) title: Option<String>,
    pub(super) duration_ms: Option<i64>,
    pub(super) about: About,
}

/// How much of a list is read.
#[derive(Clone, Default)]
pub struct Reading {
    /// Entries of each list, from its head; all of them where it is none.
    pub first: Option<usize>,
    /// Each list is left after four items in a row for which this says yes: newest first, that is where the known ones begin.
    pub known: Option<Arc<dyn Fn(MediaId) -> bool + Send + Sync>>,
    /// A channel's list of short videos is not opened.
    pub no_shorts: bool,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("first", &self.first)
            .field("known", &self.known.is_some())
            .field("no_shorts", &self.no_shorts)
            .finish_non_exhaustive()
    }
}

/// How something was come by.
#[derive(Clone, Debug, Default)]
pub(super) struct Way {
    depth: usize,
    reading: Reading,
}

impl Way {
    fn deeper(&self) -> Self {
        Self { depth: self.depth + 1, reading: self.reading.clone() }
    }
}

/// The item that an entry of a feed is known by. Where it leads to a page of which nothing is known
/// ([`About::unopened`]), that page's address.
pub fn feed_item(entry: FeedEntry) -> (Item, About) {
    let mut about = About { published_at: entry.published_at, short: entry.short, ..About::default() };
    let url = match entry.place {
        Place::Media(url) => url,
        Place::Page(url) => {
            let hint =
                Hint { title: entry.title.clone(), duration_ms: entry.duration_ms, about: About::default() };
            if let Some(item) = youtube_item(&url, hint) {
                return (item, about);
            }
            about.unopened = !web::media_extension(url.path());
            url
        }
    };
    (url_item(&url, entry.title, entry.duration_ms), about)
}

/// Whether asking for the facts of an item can tell more than its list did: for sites that yt-dlp knows. A plain file on a
/// server has none.
pub fn facts_are_cheap(item: &Item) -> bool {
    matches!(item.locator, Locator::Page(_)) && item.extractor != "generic"
}

impl Lister {
    /// Sends everything that the address `url` stands for, as far as `reading` says.
    pub async fn read_list(&self, url: Url, reading: Reading, out: &Sender<Found>) {
        self.list_url(url, Hint::default(), Way { depth: 0, reading }, out.clone()).await;
    }

    /// Asks for the feed at `url`; `known` is what an earlier answer brought. The site's ledger hears how it went.
    ///
    /// # Errors
    /// The failure that the answer stands for.
    pub async fn read_feed(&self, url: &Url, known: &Validators) -> Result<Answer, Failure> {
        let client = &self.inner.client;
        let answer = feed::ask(client, url, known, self.options().backoff).await;
        web::tell_of_look(client, url, answer.as_ref().map(drop)).await;
        answer
    }

    /// Lists the address `url`, come by on `way`. Boxed, because lists hold lists.
    pub(super) fn list_url(
        &self,
        url: Url,
        hint: Hint,
        way: Way,
        out: Sender<Found>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            if let Some(item) = youtube_item(&url, hint.clone()) {
                let about = About { short: is_short(&url) || hint.about.short, ..hint.about };
                let _ = out.send(Found::Item { item, stamp: None, about }).await;
                return;
            }
            let probed = if is_no_feed(&url) {
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
                    let _ = out.send(Found::Item { item, stamp: None, about: hint.about }).await;
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
                    let _ = out.send(Found::Item { item, stamp: None, about: hint.about }).await;
                    return;
                }
                Err(failure) => {
                    let _ = out.send(failed_url(&url, failure)).await;
                    return;
                }
            };
            self.list_page(url, probed, way, out).await;
        })
    }

    /// What the entries of a feed are, in its order. Pages that they lead to are opened.
    async fn list_feed(&self, feed: Feed, way: &Way, out: &Sender<Found>) {
        let (lister, way) = (self.clone(), way.deeper());
        let work = order::all(feed.entries);
        order::in_order(work, self.options().url_workers, out, move |entry: FeedEntry, out| {
            let (lister, way) = (lister.clone(), way.clone());
            async move {
                let (title, duration_ms) = (entry.title.clone(), entry.duration_ms);
                let (item, about) = feed_item(entry);
                match item.locator {
                    Locator::Url(url) if about.unopened => {
                        lister.list_url(url, Hint { title, duration_ms, about }, way, out).await;
                    }
                    _ => {
                        let _ = out.send(Found::Item { item, stamp: None, about }).await;
                    }
                }
            }
        })
        .await;
    }

    /// Has yt-dlp list `url`. Where it finds nothing, the media files that the page links to are taken (a plain list of
    /// links, an Atom feed); where it finds several players on a page, the linked files are taken besides. A page with
    /// one player is about that one, whatever else it links to.
    async fn list_page(&self, url: Url, probed: Probed, way: Way, out: Sender<Found>) {
        // Feeds are read here: with one request, whatever their kind, and at once.
        if probed == (Probed::Page { html: false }) && !is_no_feed(&url) && !is_stream(&url) {
            match self.read_feed(&url, &Validators::default()).await {
                Ok(Answer::Feed(feed)) if feed.entries.is_empty() && feed.empty > 0 => {
                    let message = format!(
                        "no entry of the feed at {} leads anywhere: only http and https are fetched",
                        web::shown(&url)
                    );
                    let _ = out.send(failed_url(&url, Failure::new(FailureClass::Refused, message))).await;
                    return;
                }
                Ok(Answer::Feed(feed)) => return self.list_feed(feed, &way, &out).await,
                // yt-dlp has the last word about what is no feed or does not answer us.
                Ok(Answer::Other(_) | Answer::Unchanged) => {}
                Err(failure)
                    if failure.class == FailureClass::Refused || failure.class == FailureClass::TooLarge =>
                {
                    let _ = out.send(failed_url(&url, failure)).await;
                    return;
                }
                Err(_) => {}
            }
        }
        let mut backoff = web::Backoff::new(self.options().backoff);
        let listed = loop {
            let listed = self.list_with_ytdlp(&url, probed, &way, &out).await;
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
                            let about = About::default();
                            if out.send(Found::Item { item, stamp: None, about }).await.is_err() {
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
            FailureClass::NotMedia if way.depth > 0 => Found::Notice(format!("{failure}; left out")),
            _ => failed_url(&url, failure),
        };
        let _ = out.send(found).await;
    }

    /// One run of yt-dlp. Entries are passed on while it runs.
    async fn list_with_ytdlp(&self, url: &Url, probed: Probed, way: &Way, out: &Sender<Found>) -> Listed {
        let mut arguments: Vec<OsString> = [
            "--flat-playlist",
            // Entries come out one by one, not when the last page of a channel was read.
            "--lazy-playlist",
            "--simulate",
            // Which of several forms of a video is its address must not depend on what is configured for fetching.
            "--format",
            "bestaudio/best",
            "--print",
            TEMPLATE,
            // Without a request for each video, a channel's list tells their age in words ("3 weeks ago").
            "--extractor-args",
            "youtubetab:approximate_date",
        ]
        .map(OsString::from)
        .to_vec();
        if let Some(first) = way.reading.first {
            arguments.extend(["--playlist-items".into(), format!("1:{first}").into()]);
        }
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
            let mut in_a_row = 0;
            let (sorted_page, sort_way) = (page.clone(), way.clone());
            let sort = async {
                let (work_in, page, way) = (work_in, sorted_page, sort_way);
                while let Ok(entry) = entries.recv().await {
                    // What yt-dlp took for media because it is no page, although it does not look like media either.
                    if entry.is_guess() && probed == Probed::Unknown {
                        continue;
                    }
                    listed.entries += 1;
                    if let Some(known) = &way.reading.known
                        && let Meaning::Item(item) = entry.meaning(&page)
                    {
                        in_a_row = if known(item.media_id) { in_a_row + 1 } else { 0 };
                        if in_a_row >= KNOWN_IN_A_ROW {
                            entries.close();
                            return;
                        }
                    }
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
            let way = way.clone();
            let work = order::in_order(work, self.options().url_workers, out, move |entry: Entry, out| {
                let (lister, page, way) = (lister.clone(), page.clone(), way.clone());
                async move { lister.pass_on(&entry, &page, way, out).await }
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
        self.note_answer(url, permit, listed.failure.as_ref().map_or(Ok(()), Err)).await;
        listed
    }

    /// Waits until a page of this site may be listed; not for long where the site rests.
    async fn listing_turn(&self, url: &Url) -> Result<Permit, Failure> {
        let mut patience = Patience::default();
        loop {
            match self.options().ytdlp.options().net.governor.ask(url, Ask::Listing).await {
                Ok(Turn::Go(permit)) => return Ok(permit),
                Ok(Turn::Wait(wait)) if patience.bears(&wait, tokio::time::Instant::now()) => {
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
        way: Way,
        out: Sender<Found>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let too_deep = |url: &Url| {
            failed_url(
                url,
                Failure::new(FailureClass::Refused, format!("a list more than {MAX_DEPTH} lists deep")),
            )
        };
        let about = entry.about();
        let found = match entry.meaning(page) {
            Meaning::Item(item) => Found::Item { item, stamp: None, about },
            Meaning::Failed(failure) => failed_url(page, failure),
            Meaning::Expand(url) if way.reading.no_shorts && url.path().ends_with("/shorts") => {
                return Box::pin(async {});
            }
            Meaning::Resolve(url, _) | Meaning::Expand(url) if way.depth + 1 >= MAX_DEPTH || url == *page => {
                too_deep(&url)
            }
            Meaning::Resolve(url, hint) => {
                return self.list_url(url, Hint { about, ..hint }, way.deeper(), out);
            }
            Meaning::Expand(url) => {
                return Box::pin(self.list_page(url, Probed::Page { html: false }, way.deeper(), out));
            }
        };
        Box::pin(async move {
            let _ = out.send(found).await;
        })
    }

    /// What the site tells of the one item at `page`, without fetching it: also of one that cannot be fetched yet.
    ///
    /// # Errors
    /// What yt-dlp's errors stand for.
    pub async fn facts(&self, page: &Url) -> Result<About, Failure> {
        let arguments: Vec<OsString> =
            ["--simulate", "--no-playlist", "--ignore-no-formats-error", "--print", TEMPLATE]
                .map(OsString::from)
                .to_vec();
        let ytdlp = &self.options().ytdlp;
        let permit = self.listing_turn(page).await?;
        let leash = ytdlp.start(&arguments, page, &std::env::temp_dir(), permit.id(), MAX_LISTING)?;
        let gate = leash.gate();
        let mut about = None;
        let ended = leash
            .follow(
                ytdlp.silence(),
                &CancellationToken::new(),
                || Some(0),
                |line| {
                    if let Line::Out(text) = line
                        && let Ok(entry) = serde_json::from_str::<Entry>(text)
                    {
                        about = Some(entry.about());
                    }
                    true
                },
            )
            .await;
        let told = match (about, ended) {
            (Some(about), _) => Ok(about),
            (None, Ok(End::Exited { status, errors })) => Err(ytdlp.failure(status.code(), &errors)),
            (None, Ok(_)) => Err(Failure::new(
                FailureClass::Network,
                format!("yt-dlp showed no sign of life on {}", web::shown(page)),
            )),
            (None, Err(e)) => {
                Err(Failure::new(FailureClass::Internal, format!("failed to follow yt-dlp: {e}")))
            }
        };
        let told = told.map_err(|failure| match &gate {
            Some(gate) => gate.explain(failure),
            None => failure,
        });
        self.note_answer(page, permit, told.as_ref().map(drop)).await;
        told
    }

    /// Tells the site's ledger how it answered, and ends the turn.
    async fn note_answer(&self, url: &Url, permit: Permit, outcome: Result<(), &Failure>) {
        let governor = &self.options().ytdlp.options().net.governor;
        if let Err(error) = governor.tell(url, permit.id(), outcome).await {
            tracing::debug!(%error, "failed to note how a site answered");
        }
        permit.end().await;
    }
}

/// A list of the pieces of a stream, by its name.
fn is_stream(url: &Url) -> bool {
    [".m3u8", ".mpd", ".m3u", ".pls"].iter().any(|ending| url.path().ends_with(ending))
}

/// What a run of yt-dlp gave.
#[derive(Debug, Default)]
struct Listed {
    entries: usize,
    /// Normalised addresses of the media of players on a page of any site.
    players: HashSet<Url>,
    failure: Option<Failure>,
}

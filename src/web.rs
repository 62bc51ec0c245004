//! The web as the steps meet it: addresses, one HTTP client, what an answer is, and what an HTTP error means.
//!
//! A tool, not a step: [`crate::source`] asks with it what an address is, [`crate::fetch`] downloads with it. What may be
//! reached is decided in [`guard`], for our own requests and, in the [`Gate`], for those of yt-dlp.

mod address;
mod client;
mod content;
mod gate;
pub mod guard;

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use reqwest::{Response, StatusCode, header};
use url::Url;

pub use address::{media_extension, normalise, parse_url, shown, stem};
pub use client::{Client, Net, Request, client};
pub(crate) use client::{PATIENCE, doubted, is_challenge};
pub use content::{Content, classify};
pub use gate::Gate;
pub use guard::Guard;

use crate::media::{self, Failure, FailureClass};

/// What a reader can do about an address that wants an account.
pub(crate) const COOKIE_REMEDY: &str = "export your browser's cookies for this site in Netscape format and set COOKIES_FILE to that file, \
     then run `spoken retry`";

/// What a reader can do about a site that doubts us.
pub(crate) const DOUBTED_REMEDY: &str = "the site is left alone for a while and tried again by itself; if it goes on, set COOKIES_FILE to a \
     browser's cookies for it, lower RATE_VIDEOS_PER_HOUR, or update yt-dlp (`spoken doctor` shows its age)";

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// An HTTP request failed before or while its answer arrived.
pub fn transport_failure(url: &Url, error: &reqwest::Error) -> Failure {
    if let Some(blocked) = guard::blocked(error) {
        return blocked.failure();
    }
    let host = url.host_str().unwrap_or_default();
    if error.is_dns() {
        return Failure::new(FailureClass::Network, format!("host not found: {host}"))
            .with_remedy("check the spelling of the address and this machine's name resolution");
    }
    let what = if error.is_timeout() {
        format!("nothing arrived from {host} for too long")
    } else if error.is_connect() {
        format!("failed to connect to {host}: {}", innermost(error))
    } else {
        format!("the connection to {host} broke: {}", innermost(error))
    };
    Failure::new(FailureClass::Network, what)
}

/// Whether the same request may be answered a moment later.
pub fn is_transient(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 425)
}

/// What an answer that is no success means for the item.
pub fn status_failure(url: &Url, status: StatusCode) -> Failure {
    let at = shown(url);
    let said = format!("{at} answered {status}").trim_end().to_owned();
    match status.as_u16() {
        404 | 410 => Failure::new(FailureClass::NotFound, said),
        401 | 403 | 407 => Failure::new(FailureClass::Private, said).with_remedy(COOKIE_REMEDY),
        300..=399 => Failure::new(
            FailureClass::Refused,
            format!("{at} leads to an address that is not followed ({status})"),
        ),
        429 => Failure::new(FailureClass::RateLimited, said)
            .with_remedy(
                "the site is left alone for a while and tried again by itself; if it goes on, lower RATE_REQUESTS_PER_HOUR",
            ),
        451 => Failure::new(FailureClass::GeoBlocked, said)
            .with_remedy("fetch it from a machine in another country"),
        _ if is_transient(status) => Failure::new(FailureClass::Network, said),
        _ => Failure::new(FailureClass::Internal, said),
    }
}

/// How a server asked to wait: in seconds, or until a time (which its own `Date` is subtracted from, so that no clock of ours
/// has to be right).
pub fn retry_after(response: &Response) -> Option<Duration> {
    let text = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    parse_retry_after(text(header::RETRY_AFTER)?, text(header::DATE))
}

pub(crate) fn parse_retry_after(value: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let time = |text: &str| chrono::DateTime::parse_from_rfc2822(text).ok();
    (time(value)? - time(date?)?).to_std().ok()
}

/// What an answer that is no success means, told by its status and headers.
pub(crate) fn answer_failure(url: &Url, response: &Response) -> Failure {
    let retry = retry_after(response).map(media::Retry::In);
    if is_challenge(response.headers(), b"") {
        return doubted(url, retry);
    }
    let failure = status_failure(url, response.status());
    match retry {
        Some(retry) => failure.with_retry(retry),
        None => failure,
    }
}

/// Growing pauses between tries: `base`, twice that, four times, … each up to half as long again by chance, so that
/// many workers cut off together do not come back together. Never longer than 30 s.
#[derive(Debug)]
pub struct Backoff {
    base: Duration,
    tries: u32,
}

impl Backoff {
    /// Pauses that start at `base`.
    pub fn new(base: Duration) -> Self {
        Self { base, tries: 0 }
    }

    /// Failed tries since the last [`Self::reset`].
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Something succeeded: start over.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// Counts a failed try and tells how long to wait before the next.
    pub fn pause(&mut self) -> Duration {
        let pause = self.base.saturating_mul(1 << self.tries.min(10)).min(Duration::from_secs(30));
        self.tries += 1;
        // A new `RandomState` differs each time: chance enough for jitter, without another dependency.
        let chance = RandomState::new().hash_one(self.tries) % 512;
        pause + pause.mul_f64(chance as f64 / 1024.0)
    }
}

/// What an address turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// Media itself: download it.
    Media,
    /// A page, feed or playlist; `html` when it is the kind that has links.
    Page {
        /// The answer is HTML (and not a feed or a playlist).
        html: bool,
    },
    /// Neither can be told from type and first bytes.
    Unknown,
}

/// How much of an answer is looked at to tell what it is.
const PROBE_BYTES: usize = 4096;

/// Asks `url` for its first bytes and tells what it is, trying again where that may help.
///
/// # Errors
/// The failure the answer stands for: [`FailureClass::NotFound`], [`FailureClass::Private`],
/// [`FailureClass::NotMedia`] (an image, a document), [`FailureClass::Empty`], [`FailureClass::Network`], ….
pub async fn probe(client: &Client, url: &Url, backoff: Duration) -> Result<Probed, Failure> {
    let probed = probe_patiently(client, url, backoff).await;
    tell_of_look(client, url, probed.as_ref().map(drop)).await;
    probed
}

/// Lets the site's breaker know how a look of our own went, without cookies and under our own name: that it is doubted says
/// nothing of how yt-dlp will fare.
pub(crate) async fn tell_of_look(client: &Client, url: &Url, outcome: Result<(), &Failure>) {
    if outcome.is_err_and(|failure| failure.remedy.as_deref() == Some(DOUBTED_REMEDY)) {
        return;
    }
    tell(client, url, outcome).await;
}

/// Lets the site's breaker know.
async fn tell(client: &Client, url: &Url, outcome: Result<(), &Failure>) {
    if let Err(error) = client.net().governor.tell(url, None, outcome).await {
        tracing::debug!(%error, "failed to note how a site answered");
    }
}

async fn probe_patiently(client: &Client, url: &Url, backoff: Duration) -> Result<Probed, Failure> {
    let mut backoff = Backoff::new(backoff);
    loop {
        let retry = match probe_once(client, url).await {
            Ok(probed) => return Ok(probed),
            Err(Retry::Never(failure)) => return Err(failure),
            Err(Retry::Soon(failure)) => failure,
        };
        if backoff.tries() >= 4 {
            return Err(retry);
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// A failed request, and whether the same request may succeed in a moment.
#[derive(Debug)]
pub(crate) enum Retry {
    /// Worth another try.
    Soon(Failure),
    /// The answer will not change.
    Never(Failure),
}

impl Retry {
    /// A broken connection: worth another try unless the redirects were refused.
    pub(crate) fn transport(url: &Url, error: &reqwest::Error) -> Self {
        let failure = transport_failure(url, error);
        if failure.class == FailureClass::Network { Self::Soon(failure) } else { Self::Never(failure) }
    }

    /// An answer that is no success; its beginning is read where it may be the question whether we are human.
    pub(crate) async fn answer(url: &Url, response: &mut Response) -> Self {
        let mut failure = answer_failure(url, response);
        if matches!(response.status().as_u16(), 401 | 403 | 503) && failure.class != FailureClass::RateLimited
        {
            let mut start = Vec::new();
            while let Ok(Some(chunk)) = response.chunk().await {
                start.extend_from_slice(&chunk);
                if start.len() > PROBE_BYTES {
                    break;
                }
            }
            if is_challenge(response.headers(), &start) {
                failure = doubted(url, failure.retry);
            }
        }
        // Who asks to slow down is not asked again at once, however soon it may be: the site's breaker waits for it.
        if is_transient(response.status()) && failure.class != FailureClass::RateLimited {
            Self::Soon(failure)
        } else {
            Self::Never(failure)
        }
    }
}

pub(crate) async fn probe_once(client: &Client, url: &Url) -> Result<Probed, Retry> {
    let mut response = client
        .get(url.clone())
        .header(header::RANGE, format!("bytes=0-{}", PROBE_BYTES - 1))
        .header(header::ACCEPT_ENCODING, "identity")
        .send()
        .await?;
    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        // Only an empty file has no first byte.
        return Err(Retry::Never(Failure::new(FailureClass::Empty, format!("{} is empty", shown(url)))));
    }
    if !response.status().is_success() {
        return Err(Retry::answer(url, &mut response).await);
    }
    let declared = content_type(&response);
    let mut start = Vec::with_capacity(PROBE_BYTES);
    while start.len() < PROBE_BYTES {
        match response.chunk().await {
            Ok(Some(chunk)) => start.extend_from_slice(&chunk),
            Ok(None) => break,
            // A cut connection matters only if too little arrived to tell.
            Err(_) if start.len() >= 512 => break,
            Err(e) => return Err(Retry::transport(url, &e)),
        }
    }
    if start.is_empty() {
        return Err(Retry::Never(Failure::new(FailureClass::Empty, format!("{} is empty", shown(url)))));
    }
    match classify(declared.as_deref(), &start) {
        Content::Page { html: true } if is_challenge(response.headers(), &start) => {
            Err(Retry::Never(doubted(url, None)))
        }
        Content::Media => Ok(Probed::Media),
        Content::Page { html } => Ok(Probed::Page { html }),
        Content::Unknown => Ok(Probed::Unknown),
        Content::Other => Err(Retry::Never(Failure::new(
            FailureClass::NotMedia,
            format!("{} is neither media nor a page: {}", shown(url), declared.unwrap_or_default()),
        ))),
    }
}

/// The answer's media type, lower-case, without parameters.
pub(crate) fn content_type(response: &Response) -> Option<String> {
    let value = response.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    (!essence.is_empty()).then_some(essence)
}

/// Media files that the HTML page at `url` links to, in the page's order, each once.
///
/// # Errors
/// As [`probe`]; a page over 8 MiB is [`FailureClass::TooLarge`].
pub async fn linked_media(client: &Client, url: &Url, backoff: Duration) -> Result<Vec<Url>, Failure> {
    let links = linked_media_patiently(client, url, backoff).await;
    tell(client, url, links.as_ref().map(drop)).await;
    links
}

async fn linked_media_patiently(client: &Client, url: &Url, backoff: Duration) -> Result<Vec<Url>, Failure> {
    let mut backoff = Backoff::new(backoff);
    loop {
        let retry = match linked_media_once(client, url).await {
            Ok(links) => return Ok(links),
            Err(Retry::Never(failure)) => return Err(failure),
            Err(Retry::Soon(failure)) => failure,
        };
        if backoff.tries() >= 4 {
            return Err(retry);
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn linked_media_once(client: &Client, url: &Url) -> Result<Vec<Url>, Retry> {
    const MAX_PAGE: usize = 8 << 20;
    let (base, page) = whole(client, url, MAX_PAGE).await?;
    Ok(content::media_links(&base, &page))
}

/// The text at `url`, asked for once.
///
/// # Errors
/// As [`probe`]; one of more than `max` bytes is [`FailureClass::TooLarge`].
pub(crate) async fn text(client: &Client, url: &Url, max: usize) -> Result<String, Failure> {
    match whole(client, url, max).await {
        Ok((_, text)) => Ok(text),
        Err(Retry::Soon(failure) | Retry::Never(failure)) => Err(failure),
    }
}

/// Where a text was found in the end, and the text.
async fn whole(client: &Client, url: &Url, max: usize) -> Result<(Url, String), Retry> {
    let mut response = client.get(url.clone()).send().await?;
    if !response.status().is_success() {
        return Err(Retry::answer(url, &mut response).await);
    }
    let base = response.url().clone();
    let mut page = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| Retry::transport(url, &e))? {
        page.extend_from_slice(&chunk);
        if page.len() > max {
            let message = format!("the page at {} is over {} MiB", shown(url), max >> 20);
            return Err(Retry::Never(Failure::new(FailureClass::TooLarge, message)));
        }
    }
    Ok((base, String::from_utf8_lossy(&page).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_with_bounded_jitter() {
        let base = Duration::from_millis(100);
        let mut backoff = Backoff::new(base);
        for i in 0..4 {
            let pause = backoff.pause();
            assert!(pause >= base * (1 << i) && pause <= base * (1 << i) * 3 / 2, "{i}: {pause:?}");
        }
        assert_eq!(backoff.tries(), 4);
        backoff.reset();
        assert!(backoff.pause() <= base * 3 / 2);
    }

    #[test]
    fn a_time_to_wait_is_read_in_both_forms() {
        let read = |value, date| parse_retry_after(value, date).map(|d| d.as_secs());
        assert_eq!(read("120", None), Some(120));
        let date = Some("Wed, 21 Oct 2015 07:28:00 GMT");
        assert_eq!(read("Wed, 21 Oct 2015 07:29:30 GMT", date), Some(90));
        assert_eq!(read("Wed, 21 Oct 2015 07:27:00 GMT", date), None);
        assert_eq!(read("Wed, 21 Oct 2015 07:29:30 GMT", None), None);
        assert_eq!(read("soon", date), None);
    }

    #[test]
    fn statuses_say_what_to_do() {
        let url = Url::parse("http://example.org/a?token=secret").unwrap();
        let class = |code: u16| status_failure(&url, StatusCode::from_u16(code).unwrap()).class;
        assert_eq!(class(404), FailureClass::NotFound);
        assert_eq!(class(410), FailureClass::NotFound);
        assert_eq!(class(403), FailureClass::Private);
        assert_eq!(class(429), FailureClass::RateLimited);
        assert_eq!(class(451), FailureClass::GeoBlocked);
        assert_eq!(class(503), FailureClass::Network);
        assert_eq!(class(418), FailureClass::Internal);
        let said = status_failure(&url, StatusCode::FORBIDDEN);
        assert!(!said.message.contains("secret"), "{}", said.message);
        assert!(said.remedy.unwrap().contains("COOKIES_FILE"));
    }
}

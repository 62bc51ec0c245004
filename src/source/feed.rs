//! Feeds (RSS, Atom, JSON Feed), read with one request that costs the server nothing when there is nothing new.

use std::collections::HashMap;
use std::time::Duration;

use feed_rs::model;
use reqwest::{StatusCode, header};
use url::Url;

use super::youtube::{is_short, youtube_id};
use crate::media::{Failure, FailureClass};
use crate::web::{self, Client, Content, Probed, Retry};

/// A feed larger than this is none. The largest podcasts, thousands of episodes with their notes, come to some 20 MiB.
const MAX_BYTES: usize = 32 << 20;
/// Elements within elements: feeds have some ten. The parser goes one call deeper for each.
const MAX_NESTING: usize = 128;
/// Entries read of one feed.
const MAX_ENTRIES: usize = 100_000;
/// How much of an answer is looked at to tell what it is.
const START: usize = 4096;
/// Tries of one request.
const TRIES: u32 = 4;

/// How a server names the state of a feed: to be given back at the next request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`, as it was sent.
    pub etag: Option<String>,
    /// `Last-Modified`, as it was sent.
    pub last_modified: Option<String>,
}

/// What the request for a feed brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What the validators name is still the state of things.
    Unchanged,
    /// The feed.
    Feed(Feed),
    /// Something that is no feed.
    Other(Probed),
}

/// A feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Feed {
    /// For the next request.
    pub validators: Validators,
    /// Its title. Untrusted text.
    pub title: Option<String>,
    /// In the feed's order.
    pub entries: Vec<FeedEntry>,
    /// Entries without any address.
    pub empty: usize,
}

/// An entry of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEntry {
    /// What the feed calls it, where it does and calls no other entry so. Untrusted text.
    pub id: Option<String>,
    /// Untrusted text.
    pub title: Option<String>,
    /// Seconds since 1970.
    pub published_at: Option<i64>,
    /// As the feed states it.
    pub duration_ms: Option<i64>,
    /// Where it leads.
    pub place: Place,
    /// A short vertical video, by its address.
    pub short: bool,
}

/// Where an entry leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// To media: an enclosure.
    Media(Url),
    /// To a page.
    Page(Url),
}

/// Asks for the feed at `url`; `known` is what an earlier answer brought. Tries again where that may help.
///
/// # Errors
/// The failure that the answer stands for; [`FailureClass::TooLarge`] for a feed over 32 MiB, [`FailureClass::Refused`] for one
/// that is built to harm its reader.
pub(super) async fn ask(
    client: &Client,
    url: &Url,
    known: &Validators,
    backoff: Duration,
) -> Result<Answer, Failure> {
    let mut backoff = web::Backoff::new(backoff);
    loop {
        let retry = match ask_once(client, url, known).await {
            Ok(answer) => return Ok(answer),
            Err(Retry::Never(failure)) => return Err(failure),
            Err(Retry::Soon(failure)) => failure,
        };
        if backoff.tries() + 1 >= TRIES {
            return Err(retry);
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn ask_once(client: &Client, url: &Url, known: &Validators) -> Result<Answer, Retry> {
    let mut request = client.get(url.clone()).header(header::ACCEPT_ENCODING, "identity");
    for (name, value) in
        [(header::IF_NONE_MATCH, &known.etag), (header::IF_MODIFIED_SINCE, &known.last_modified)]
    {
        // One that was stored and is no header any more is simply not sent.
        if let Some(value) = value {
            request = request.header(name, value);
        }
    }
    let mut response = request.send().await?;
    if response.status() == StatusCode::NOT_MODIFIED {
        return Ok(Answer::Unchanged);
    }
    if !response.status().is_success() {
        return Err(Retry::answer(url, &mut response).await);
    }
    let declared = web::content_type(&response);
    let validators = Validators {
        etag: text_header(&response, header::ETAG),
        last_modified: text_header(&response, header::LAST_MODIFIED),
    };
    // What relative addresses in it start from.
    let base = response.url().clone();
    let mut body = Vec::new();
    let mut looked_at = false;
    loop {
        if !looked_at && body.len() >= START {
            looked_at = true;
            if let Some(other) = other_than_feed(declared.as_deref(), &body) {
                return Ok(Answer::Other(other));
            }
        }
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(e) => return Err(Retry::transport(url, &e)),
        }
        if body.len() > MAX_BYTES {
            let message = format!("the feed at {} is over {} MiB", web::shown(url), MAX_BYTES >> 20);
            return Err(Retry::Never(Failure::new(FailureClass::TooLarge, message)));
        }
    }
    if body.is_empty() {
        let empty = Failure::new(FailureClass::Empty, format!("{} is empty", web::shown(url)));
        return Err(Retry::Never(empty));
    }
    if let Some(other) = other_than_feed(declared.as_deref(), &body) {
        return Ok(Answer::Other(other));
    }
    let shown = web::shown(url);
    // Megabytes of text to take apart, by code that meets whatever the server sends.
    let parsed = tokio::task::spawn_blocking(move || parse(&body, &base)).await;
    match parsed {
        Ok(Ok(Some(mut feed))) => {
            feed.validators = validators;
            Ok(Answer::Feed(feed))
        }
        Ok(Ok(None)) => Ok(Answer::Other(Probed::Page { html: false })),
        Ok(Err(failure)) => Err(Retry::Never(failure)),
        Err(_panic) => Err(Retry::Never(Failure::new(
            FailureClass::Refused,
            format!("the feed at {shown} cannot be read: its parser broke off"),
        ))),
    }
}

fn text_header(response: &reqwest::Response, name: header::HeaderName) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?.trim();
    // A server that answers with a kilobyte of state would get it back with every request.
    (!value.is_empty() && value.len() <= 512).then(|| value.to_owned())
}

/// What bytes are that are certainly no feed.
fn other_than_feed(declared: Option<&str>, start: &[u8]) -> Option<Probed> {
    let start = &start[..start.len().min(START)];
    match web::classify(declared, start) {
        Content::Media => Some(Probed::Media),
        Content::Page { html: true } => Some(Probed::Page { html: true }),
        Content::Page { html: false } => {
            let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
            // Lists of pieces of a stream are text as well.
            (!text.starts_with(b"<") && !text.starts_with(b"{")).then_some(Probed::Page { html: false })
        }
        Content::Unknown | Content::Other => {
            let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
            (!text.starts_with(b"<") && !text.starts_with(b"{")).then_some(Probed::Unknown)
        }
    }
}

/// The feed in `body`; none where it is no feed.
fn parse(body: &[u8], base: &Url) -> Result<Option<Feed>, Failure> {
    if nesting(body) > MAX_NESTING {
        return Err(Failure::new(
            FailureClass::Refused,
            format!(
                "the feed at {} has more than {MAX_NESTING} elements within each other",
                web::shown(base)
            ),
        ));
    }
    let parser = feed_rs::parser::Builder::new()
        .base_uri(Some(base.as_str()))
        // One that is made up from an entry's address says no more than the address.
        .id_generator(|_, _, _| String::new())
        .build();
    let Ok(parsed) = parser.parse(body) else { return Ok(None) };
    let all = parsed.entries.len();
    let mut entries: Vec<Option<FeedEntry>> =
        parsed.entries.into_iter().take(MAX_ENTRIES).map(|entry| read(entry, base)).collect();
    let leads_to_media = |entry: &FeedEntry| matches!(entry.place, Place::Media(_));
    // The parser lets an item's enclosure go where Media RSS gives the item as little as its author's picture.
    if !entries.iter().all(|entry| entry.as_ref().is_some_and(leads_to_media))
        && let Some(body) = without_media_rss(body)
        && let Ok(again) = parser.parse(&body[..])
        && again.entries.len() == all
    {
        for (entry, again) in entries.iter_mut().zip(again.entries) {
            if entry.as_ref().is_some_and(leads_to_media) {
                continue;
            }
            let Some(again) = read(again, base).filter(leads_to_media) else { continue };
            match entry {
                Some(entry) => entry.place = again.place,
                None => *entry = Some(again),
            }
        }
    }
    let mut times: HashMap<String, usize> = HashMap::new();
    for id in entries.iter().flatten().filter_map(|entry| entry.id.clone()) {
        *times.entry(id).or_default() += 1;
    }
    for entry in entries.iter_mut().flatten() {
        entry.id = entry.id.take().filter(|id| times[id] == 1);
    }
    let empty = entries.iter().filter(|entry| entry.is_none()).count();
    let title = parsed.title.map(|t| t.content);
    let entries = entries.into_iter().flatten().collect();
    Ok(Some(Feed { validators: Validators::default(), title, entries, empty }))
}

/// A feed that has enclosures and Media RSS, with the latter in a namespace that nobody knows; none for other feeds. By its
/// bytes, whatever its encoding and prefixes: what is quoted elsewhere in the feed may change with it, and is not used.
fn without_media_rss(body: &[u8]) -> Option<Vec<u8>> {
    const KNOWN: &[u8] = b"http://search.yahoo.com/mrss/";
    const UNKNOWN: &[u8; KNOWN.len()] = b"http://search.yahoo.com/none/";
    const ENCLOSURE: &[u8] = b"<enclosure";
    if !body.windows(ENCLOSURE.len()).any(|bytes| bytes == ENCLOSURE) {
        return None;
    }
    let mut changed = body.to_vec();
    let mut found = false;
    for (at, _) in body.windows(KNOWN.len()).enumerate().filter(|(_, bytes)| *bytes == KNOWN) {
        changed[at..at + UNKNOWN.len()].copy_from_slice(UNKNOWN);
        found = true;
    }
    found.then_some(changed)
}

/// How deep elements lie within each other, roughly: comments and the like are skipped, names are not compared. JSON has
/// none; its parser has a limit of its own.
fn nesting(body: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut rest = body;
    let after =
        |rest: &'_ [u8], end: &[u8]| rest.windows(end.len()).position(|w| w == end).map(|at| at + end.len());
    while let Some(at) = rest.iter().position(|&b| b == b'<') {
        rest = &rest[at + 1..];
        let end: &[u8] = match rest {
            [b'!', b'-', b'-', ..] => b"-->",
            [b'!', b'[', ..] => b"]]>",
            _ => b">",
        };
        let Some(length) = after(rest, end) else { break };
        let tag = &rest[..length];
        match tag {
            [b'/', ..] => depth = depth.saturating_sub(1),
            [b'!' | b'?', ..] | [.., b'/', b'>'] => {}
            _ => depth += 1,
        }
        deepest = deepest.max(depth);
        rest = &rest[length..];
    }
    deepest
}

fn read(entry: model::Entry, base: &Url) -> Option<FeedEntry> {
    let objects = &entry.media;
    let duration =
        objects.iter().flat_map(|o| o.content.iter().filter_map(|c| c.duration).chain(o.duration)).next();
    let id = Some(entry.id.trim().to_owned()).filter(|id| !id.is_empty());
    let title = entry.title.as_ref().map(|t| t.content.trim().to_owned()).filter(|t| !t.is_empty());
    let published = entry.published.or(entry.updated).map(|t| t.timestamp());

    let links = || {
        entry.links.iter().filter_map(|l| Some((l, web::parse_url(base.join(&l.href).ok()?.as_str()).ok()?)))
    };
    // Where the page is a video's own, that is what it is known by, whatever else the entry offers.
    let known = links().map(|(_, url)| url).find(|url| youtube_id(url).is_some());
    let short = known.as_ref().is_some_and(is_short);
    let enclosed = objects
        .iter()
        .flat_map(|o| &o.content)
        .filter_map(|c| Some((c.content_type.as_ref().map(ToString::to_string), c.url.clone()?)))
        .filter_map(|(kind, url)| Some((kind, web::parse_url(url.as_str()).ok()?)));
    // Atom's `rel="enclosure"`, JSON Feed's attachments.
    let attached = links()
        .filter(|(l, _)| l.rel.as_deref() == Some("enclosure") || l.media_type.is_some())
        .map(|(l, url)| (l.media_type.clone(), url));
    let media =
        enclosed.chain(attached).find(|(kind, url)| is_media(kind.as_deref(), url)).map(|(_, url)| url);
    let page = || {
        let own = |rel: &Option<String>| rel.as_deref().is_none_or(|rel| rel == "alternate");
        links()
            .find(|(l, _)| own(&l.rel) && l.media_type.as_deref().is_none_or(|t| t.contains("html")))
            .map(|(_, url)| url)
    };
    let place = match (known, media) {
        (Some(video), _) => Place::Page(video),
        (None, Some(url)) => Place::Media(web::normalise(&url)),
        (None, None) => Place::Page(web::normalise(&page()?)),
    };
    Some(FeedEntry {
        id,
        title,
        published_at: published,
        duration_ms: duration.and_then(|d| i64::try_from(d.as_millis()).ok()).filter(|&ms| ms > 0),
        place,
        short,
    })
}

/// Whether an enclosure is sound or film: by its declared type, or without one by its name.
fn is_media(kind: Option<&str>, url: &Url) -> bool {
    match kind.map(|k| k.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()) {
        Some(kind) if kind.starts_with("audio/") || kind.starts_with("video/") => true,
        Some(kind) if kind.starts_with("image/") || kind.starts_with("text/") => false,
        _ => web::media_extension(url.path()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(text: &str) -> Feed {
        parse(text.as_bytes(), &Url::parse("http://h/dir/feed").unwrap()).unwrap().unwrap()
    }

    fn media(url: &str) -> Place {
        Place::Media(Url::parse(url).unwrap())
    }

    #[test]
    fn a_podcast() {
        let got = feed(
            r#"<?xml version="1.0"?><rss version="2.0" xmlns:itunes="http://www.itunes.com/dtds/podcast-1.0.dtd"><channel>
            <title>P</title>
            <item><title> One </title><guid isPermaLink="false">x</guid><link>http://h/1</link><pubDate>Sat, 31 Jan 2026 10:00:00 GMT</pubDate>
              <itunes:duration>1:02:03</itunes:duration><itunes:summary>s</itunes:summary><enclosure url="a.mp3?utm_source=f" type="audio/mpeg" length="5"/></item>
            <item><title>No type</title><enclosure url="http://h/b.m4a"/></item>
            <item><title>Picture</title><link>/post/3</link><enclosure url="http://h/c.jpg" type="image/jpeg"/></item>
            <item><title>Nothing</title></item>
            </channel></rss>"#,
        );
        assert_eq!(got.title.as_deref(), Some("P"));
        assert_eq!(got.empty, 1);
        let places: Vec<&Place> = got.entries.iter().map(|e| &e.place).collect();
        assert_eq!(
            places,
            [
                &media("http://h/dir/a.mp3"),
                &media("http://h/b.m4a"),
                &Place::Page(Url::parse("http://h/post/3").unwrap())
            ]
        );
        let first = &got.entries[0];
        assert_eq!((first.title.as_deref(), first.duration_ms), (Some("One"), Some(3_723_000)));
        assert_eq!(first.published_at, Some(1_769_853_600));
        assert_eq!((first.id.as_deref(), got.entries[1].id.as_deref()), (Some("x"), None));
    }

    #[test]
    fn a_name_that_stands_for_several_entries_stands_for_none() {
        let got = feed(
            r#"<rss version="2.0"><channel><title>P</title>
            <item><guid>a</guid><enclosure url="http://h/1.mp3"/></item>
            <item><guid>b</guid><enclosure url="http://h/2.mp3"/></item>
            <item><guid> a </guid><enclosure url="http://h/3.mp3"/></item>
            <item><link>http://h/4.mp3</link></item>
            </channel></rss>"#,
        );
        let ids: Vec<Option<&str>> = got.entries.iter().map(|e| e.id.as_deref()).collect();
        assert_eq!(ids, [None, Some("b"), None, None]);
    }

    #[test]
    fn an_enclosure_counts_beside_a_picture() {
        let got = feed(
            r#"<rss version="2.0" xmlns:media="http://search.yahoo.com/mrss/"><channel><title>http://search.yahoo.com/mrss/</title>
            <item><title>Picture</title><link>http://h/1</link><enclosure url="http://h/1.mp3" type="audio/mpeg"/>
              <media:content url="https://secure.gravatar.com/avatar/x?s=96" medium="image"><media:title type="html">me</media:title></media:content></item>
            <item><title>No page</title><media:content url="http://h/2.jpg" type="image/jpeg"/><enclosure url="http://h/2.mp3"/></item>
            <item><title>Quoted</title><link>http://h/3</link><description><![CDATA[<enclosure url="http://h/3.mp3"/>]]></description>
              <media:content url="http://h/3.jpg" medium="image"/></item>
            <item><title>Film</title><enclosure url="http://h/4.mp3" type="audio/mpeg"/><media:content url="http://h/4.mp4" type="video/mp4"/></item>
            <item><title>Nothing</title><media:content url="http://h/5.jpg" medium="image"/></item>
            </channel></rss>"#,
        );
        let places: Vec<&Place> = got.entries.iter().map(|e| &e.place).collect();
        assert_eq!(
            places,
            [
                &media("http://h/1.mp3"),
                &media("http://h/2.mp3"),
                &Place::Page(Url::parse("http://h/3").unwrap()),
                &media("http://h/4.mp4"),
            ]
        );
        assert_eq!((got.title.as_deref(), got.empty), (Some("http://search.yahoo.com/mrss/"), 1));
        assert!(without_media_rss(b"<rss><enclosure/></rss>").is_none());
        assert!(without_media_rss(b"\xff http://search.yahoo.com/mrss/").is_none());
        let bytes =
            without_media_rss(b"\xff<enclosure http://search.yahoo.com/mrss/ http://search.yahoo.com/mrss/");
        let other = b"\xff<enclosure http://search.yahoo.com/none/ http://search.yahoo.com/none/";
        assert_eq!(bytes.as_deref(), Some(&other[..]));
    }

    #[test]
    fn atom_and_a_channel() {
        let got = feed(
            r#"<feed xmlns="http://www.w3.org/2005/Atom" xmlns:media="http://search.yahoo.com/mrss/"><title>C</title><id>c</id><updated>2026-01-01T00:00:00Z</updated>
            <entry><id>yt:video:aqz-KE-bpKQ</id><title>Film</title><link rel="alternate" href="https://www.youtube.com/watch?v=aqz-KE-bpKQ"/>
              <published>2026-01-02T00:00:00+00:00</published><updated>2026-01-03T00:00:00Z</updated>
              <media:group><media:content url="https://www.youtube.com/v/aqz-KE-bpKQ?version=3" type="application/x-shockwave-flash"/></media:group></entry>
            <entry><id>s</id><title>Short</title><link rel="alternate" href="https://www.youtube.com/shorts/bqz-KE-bpKQ"/><updated>2026-01-03T00:00:00Z</updated></entry>
            <entry><id>e</id><title>E</title><link rel="enclosure" type="audio/ogg" href="x"/><link href="/page"/><updated>2026-01-03T00:00:00Z</updated></entry>
            </feed>"#,
        );
        let watch = Url::parse("https://www.youtube.com/watch?v=aqz-KE-bpKQ").unwrap();
        assert_eq!(got.entries[0].place, Place::Page(watch));
        assert_eq!((got.entries[0].short, got.entries[1].short), (false, true));
        assert_eq!(got.entries[0].published_at, Some(1_767_312_000));
        assert_eq!(got.entries[2].place, media("http://h/dir/x"));
    }

    #[test]
    fn json_feed() {
        let got = feed(
            r#"{"version":"https://jsonfeed.org/version/1.1","title":"J","items":[
            {"id":"1","title":"A","url":"http://h/a","date_published":"2026-01-02T00:00:00Z",
             "attachments":[{"url":"http://h/a.bin","mime_type":"audio/mpeg","size_in_bytes":5}]},
            {"id":"2","url":"http://h/b"}]}"#,
        );
        assert_eq!(got.entries[0].place, media("http://h/a.bin"));
        assert_eq!(got.entries[1].place, Place::Page(Url::parse("http://h/b").unwrap()));
    }

    #[test]
    fn what_is_no_feed() {
        let base = Url::parse("http://h/").unwrap();
        for text in
            ["<MPD/>", "{\"a\":1}", "<?xml version=\"1.0\"?><x/>", "<rss version=\"2.0\">", "#EXTM3U\n"]
        {
            assert!(
                matches!(parse(text.as_bytes(), &base), Ok(None) | Ok(Some(Feed { entries: _, .. }))),
                "{text}"
            );
        }
        assert_eq!(other_than_feed(Some("audio/mpeg"), b"ID3"), Some(Probed::Media));
        assert_eq!(other_than_feed(None, b"<!DOCTYPE html><html>"), Some(Probed::Page { html: true }));
        assert_eq!(
            other_than_feed(Some("application/x-mpegurl"), b"#EXTM3U\n"),
            Some(Probed::Page { html: false })
        );
        assert_eq!(other_than_feed(Some("text/plain"), b"<rss>"), None);
        assert_eq!(other_than_feed(Some("application/octet-stream"), b"\0\0"), Some(Probed::Unknown));
    }

    #[test]
    fn hostile_feeds_are_refused_or_cost_one_entry() {
        let base = Url::parse("http://h/").unwrap();
        let deep = format!(
            "<rss version=\"2.0\" xmlns:media=\"http://search.yahoo.com/mrss/\"><channel><item>{}</item></channel></rss>",
            "<media:group>".repeat(200_000)
        );
        assert_eq!(parse(deep.as_bytes(), &base).unwrap_err().class, FailureClass::Refused);
        let bad = feed(
            "<rss version=\"2.0\"><channel><title>x</title><item><enclosure url=\"file:///etc/passwd\" type=\"audio/mpeg\"/></item>\
             <item><enclosure url=\"http://a:b@h/x.mp3\" type=\"audio/mpeg\"/></item><item><link>javascript:x</link></item></channel></rss>",
        );
        assert_eq!((bad.entries.len(), bad.empty), (0, 3));
    }

    #[test]
    fn nesting_is_counted() {
        assert_eq!(nesting(b"<?xml?><a><!-- <b><c> --><b/><c><![CDATA[<d><e>]]></c></a>"), 2);
        assert_eq!(nesting(b"plain"), 0);
        assert_eq!(nesting(b"<a><b"), 1);
    }
}

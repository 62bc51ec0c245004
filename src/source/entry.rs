//! One line of yt-dlp's listing, and what it is to us.

use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::{pages::Hint, url_item};
use crate::media::{Failure, FailureClass, Item, Locator, MediaId};
use crate::web;

/// The template that makes yt-dlp print an [`Entry`] a line.
pub(super) const TEMPLATE: &str = "%(.{_type,id,title,url,ie_key,extractor_key,webpage_url,duration,direct,protocol,\
     playlist_index,manifest_url,live_status,availability,timestamp,upload_date,release_timestamp})j";

/// What a list tells of an item besides what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Seconds since 1970; from a list of a channel only roughly.
    pub published_at: Option<i64>,
    /// Where it stands as a live stream, if it is told.
    pub live: Option<Live>,
    /// When an announced stream or film begins, seconds since 1970.
    pub begins_at: Option<i64>,
    /// For those who pay or have an account only.
    pub members_only: bool,
    /// A short vertical video.
    pub short: bool,
    /// An address that has not been looked at: what it leads to has to be found out.
    pub unopened: bool,
    /// What it is known by in its source, where that is not the item: the item may have another address tomorrow.
    pub key: Option<MediaId>,
}

/// Where an item stands as a live stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// It was never one.
    Never,
    /// Announced.
    Upcoming,
    /// Going on.
    Now,
    /// Over, and the site still works on the recording.
    Ending,
    /// Over: a recording.
    Was,
}

/// What yt-dlp tells about an entry. Entries of `_type` `url` and `url_transparent` were not looked at by yt-dlp yet: their
/// `extractor_key` is the list's, their `ie_key` (if any) their own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Entry {
    #[serde(rename = "_type")]
    kind: Option<String>,
    id: Value,
    title: Option<String>,
    url: Option<String>,
    ie_key: Option<String>,
    extractor_key: Option<String>,
    webpage_url: Option<String>,
    duration: Value,
    direct: Option<bool>,
    protocol: Option<String>,
    playlist_index: Value,
    manifest_url: Option<String>,
    live_status: Option<String>,
    availability: Option<String>,
    timestamp: Value,
    upload_date: Option<String>,
    release_timestamp: Value,
}

/// What an entry is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// An item.
    Item(Item),
    /// An address to look at as if it had been given as a source.
    Resolve(Url, Hint),
    /// A list within the list: yt-dlp opens it.
    Expand(Url),
    /// Nothing that can be fetched.
    Failed(Failure),
}

/// Endings of yt-dlp's extractor keys that open lists (`YoutubeTab`, `SoundcloudSet`, `VimeoChannel`).
const LISTS: &[&str] = &[
    "Tab",
    "Playlist",
    "Channel",
    "User",
    "Series",
    "Season",
    "Show",
    "Album",
    "Search",
    "Feed",
    "Collection",
    "Category",
    "Podcast",
    "Podcasts",
    "Set",
    "Profile",
    "List",
    "Folder",
    "Group",
    "Program",
    "Course",
    "Artist",
];

/// Extractors that describe a page of any site: their ids are made up, so the media's address identifies the item.
fn is_generic(key: &str) -> bool {
    matches!(key, "Generic" | "HTML5MediaEmbed")
}

impl Entry {
    /// Of an entry that yt-dlp has not looked at: nothing but its place.
    fn is_reference(&self) -> bool {
        matches!(self.kind.as_deref(), Some("url" | "url_transparent"))
    }

    fn id(&self) -> Option<String> {
        match &self.id {
            Value::String(id) if !id.is_empty() => Some(id.clone()),
            Value::Number(id) => Some(id.to_string()),
            _ => None,
        }
    }

    fn hint(&self) -> Hint {
        let seconds = self.duration.as_f64().filter(|s| s.is_finite() && *s > 0.0);
        let title = self.title.as_deref().map(str::trim).filter(|t| !t.is_empty());
        Hint {
            title: title.map(str::to_owned),
            duration_ms: seconds.map(|s| (s * 1000.0) as i64),
            about: About::default(),
        }
    }

    /// What it tells besides.
    pub(super) fn about(&self) -> About {
        let seconds = |value: &Value| value.as_f64().filter(|s| s.is_finite()).map(|s| s as i64);
        let day = || {
            let day = chrono::NaiveDate::parse_from_str(self.upload_date.as_deref()?, "%Y%m%d").ok()?;
            Some(day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp())
        };
        About {
            published_at: seconds(&self.timestamp).or_else(day),
            live: match self.live_status.as_deref() {
                Some("not_live") => Some(Live::Never),
                Some("is_upcoming") => Some(Live::Upcoming),
                Some("is_live") => Some(Live::Now),
                Some("post_live") => Some(Live::Ending),
                Some("was_live") => Some(Live::Was),
                _ => None,
            },
            begins_at: seconds(&self.release_timestamp),
            members_only: matches!(
                self.availability.as_deref(),
                Some("private" | "premium_only" | "subscriber_only" | "needs_auth")
            ),
            short: self.url().as_ref().is_some_and(super::youtube::is_short),
            unopened: false,
            key: None,
        }
    }

    /// True for what a page of any site was found to hold, as opposed to a site that yt-dlp knows.
    pub(super) fn is_of_any_page(&self) -> bool {
        !self.is_reference() && self.extractor_key.as_deref().is_some_and(is_generic)
    }

    /// The media's address, where it was one.
    pub(super) fn url(&self) -> Option<Url> {
        self.url.as_deref().and_then(|u| web::parse_url(u).ok())
    }

    /// What the entry of the list (or page) at `page` is.
    pub(super) fn meaning(&self, page: &Url) -> Meaning {
        if self.is_reference() { self.reference() } else { self.video(page) }
    }

    fn reference(&self) -> Meaning {
        let Some(text) = &self.url else {
            return Meaning::Failed(Failure::new(FailureClass::NotMedia, "an entry without an address"));
        };
        // yt-dlp's own notes travel in the fragment (`#__youtubedl_smuggle=`); the normal form has none.
        let url = match web::parse_url(text) {
            Ok(url) => web::normalise(&url),
            Err(failure) => return Meaning::Failed(failure),
        };
        let hint = self.hint();
        match (self.ie_key.as_deref(), self.id()) {
            (None | Some("Generic"), _) if web::media_extension(url.path()) => {
                Meaning::Item(url_item(&url, hint.title, hint.duration_ms))
            }
            (Some(key), _) if LISTS.iter().any(|ending| key.ends_with(ending)) => Meaning::Expand(url),
            (Some(key), Some(id)) if !is_generic(key) => Meaning::Item(site_item(key, id, url, hint)),
            _ => Meaning::Resolve(url, hint),
        }
    }

    fn video(&self, page: &Url) -> Meaning {
        let key = self.extractor_key.as_deref().unwrap_or("Generic");
        let webpage = self.webpage_url.as_deref().and_then(|u| web::parse_url(u).ok());
        let webpage = webpage.unwrap_or_else(|| page.clone());
        let in_list = !self.playlist_index.is_null();
        let Hint { title, duration_ms, .. } = self.hint();
        if !is_generic(key) {
            return match self.id() {
                Some(id) => {
                    Meaning::Item(site_item(key, id, webpage, Hint { title, duration_ms, ..Hint::default() }))
                }
                None => {
                    Meaning::Failed(Failure::new(FailureClass::Internal, "yt-dlp gave no id for an entry"))
                }
            };
        }
        // `My page (3)` says less than the media's own name; of a page's only video it is the page's title that counts.
        let title = match key {
            "HTML5MediaEmbed" if in_list => None,
            "HTML5MediaEmbed" => title.map(|t| t.strip_suffix(" (1)").unwrap_or(&t).to_owned()),
            _ => title,
        };
        let plain = matches!(self.protocol.as_deref(), None | Some("http" | "https"));
        if let (true, Some(url)) = (plain, self.url()) {
            return Meaning::Item(url_item(&url, title, duration_ms));
        }
        // A stream of pieces: only yt-dlp puts it together. Of several on a page each is fetched by its own manifest.
        let manifest =
            self.manifest_url.as_deref().or(self.url.as_deref()).and_then(|u| web::parse_url(u).ok());
        let place = if in_list { manifest.unwrap_or_else(|| webpage.clone()) } else { webpage.clone() };
        let id = format!("{}#{}", web::normalise(&webpage), self.id().unwrap_or_default());
        Meaning::Item(Item {
            media_id: MediaId::new("generic", &id),
            extractor: "generic".into(),
            source_id: id,
            source: webpage.to_string(),
            title: title.unwrap_or_else(|| web::stem(&place)),
            locator: Locator::Page(place),
            duration_ms,
        })
    }

    /// Whether yt-dlp took this for media only because it did not look like a page.
    pub(super) fn is_guess(&self) -> bool {
        self.direct == Some(true)
    }
}

/// An item of a site that yt-dlp knows.
fn site_item(key: &str, id: String, page: Url, hint: Hint) -> Item {
    let extractor = key.to_lowercase();
    let page = match extractor.as_str() {
        "youtube" => super::youtube::watch_url(&id).unwrap_or(page),
        _ => page,
    };
    Item {
        media_id: MediaId::new(&extractor, &id),
        title: hint.title.unwrap_or_else(|| id.clone()),
        extractor,
        source_id: id,
        source: page.to_string(),
        locator: Locator::Page(page),
        duration_ms: hint.duration_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(line: &str) -> Meaning {
        let entry: Entry = serde_json::from_str(line).unwrap();
        entry.meaning(&Url::parse("http://h/page.html").unwrap())
    }

    fn item(line: &str) -> Item {
        match meaning(line) {
            Meaning::Item(item) => item,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_enclosure_is_its_address() {
        let got = item(
            r#"{"_type":"url_transparent","title":"Ep A","url":"http://h/a.mp3?utm_source=f#__youtubedl_smuggle=%7B%7D",
                "extractor_key":"Generic","duration":3,"playlist_index":1}"#,
        );
        assert_eq!(got, url_item(&Url::parse("http://h/a.mp3").unwrap(), Some("Ep A".into()), Some(3000)));
        assert_eq!(got.media_id, MediaId::new("url", "http://h/a.mp3"));
    }

    #[test]
    fn players_on_a_page_are_their_media() {
        let got = item(
            r#"{"id":"page-2","title":"My page (2)","url":"http://h/d/b.m4a","extractor_key":"HTML5MediaEmbed",
                "webpage_url":"http://h/page.html","protocol":"http","playlist_index":2}"#,
        );
        assert_eq!(
            (got.extractor.as_str(), got.source_id.as_str(), got.title.as_str()),
            ("url", "http://h/d/b.m4a", "b")
        );
        let only = item(
            r#"{"id":"page-1","title":"One (1)","url":"http://h/d.mp4","extractor_key":"HTML5MediaEmbed",
                "webpage_url":"http://h/page.html","protocol":"http","playlist_index":null}"#,
        );
        assert_eq!(only.title, "One");
    }

    #[test]
    fn a_stream_is_its_page_and_id() {
        let line = |index: &str| {
            format!(
                r#"{{"id":"p-1","title":"S (1)","url":"http://h/s.m3u8","extractor_key":"HTML5MediaEmbed",
                "webpage_url":"http://h/page.html?utm_id=1","protocol":"m3u8_native","playlist_index":{index}}}"#
            )
        };
        let only = item(&line("null"));
        assert_eq!((only.extractor.as_str(), only.source_id.as_str()), ("generic", "http://h/page.html#p-1"));
        assert_eq!(only.locator, Locator::Page(Url::parse("http://h/page.html?utm_id=1").unwrap()));
        let one_of_many = item(&line("1"));
        assert_eq!(one_of_many.locator, Locator::Page(Url::parse("http://h/s.m3u8").unwrap()));
        assert_eq!(one_of_many.media_id, only.media_id);
    }

    #[test]
    fn entries_of_sites() {
        let video = item(
            r#"{"_type":"url","ie_key":"Youtube","id":"aqz-KE-bpKQ","url":"https://www.youtube.com/shorts/aqz-KE-bpKQ",
                "title":"T","duration":634.5,"extractor_key":"YoutubeTab"}"#,
        );
        assert_eq!(video.media_id, MediaId::new("youtube", "aqz-KE-bpKQ"));
        assert_eq!(video.source, "https://www.youtube.com/watch?v=aqz-KE-bpKQ");
        assert_eq!(video.duration_ms, Some(634_500));
        assert_eq!(
            meaning(
                r#"{"_type":"url","ie_key":"YoutubeTab","id":"UCx","url":"https://www.youtube.com/@x/videos"}"#
            ),
            Meaning::Expand(Url::parse("https://www.youtube.com/@x/videos").unwrap())
        );
        // Without an id only the page itself can tell.
        assert!(matches!(
            meaning(r#"{"_type":"url","ie_key":"Vimeo","url":"https://vimeo.com/1"}"#),
            Meaning::Resolve(..)
        ));
        assert!(matches!(meaning(r#"{"_type":"url","url":"https://h/post/1"}"#), Meaning::Resolve(..)));
        let number =
            item(r#"{"id":12,"extractor_key":"Vimeo","webpage_url":"https://vimeo.com/12","title":" "}"#);
        assert_eq!((number.source_id.as_str(), number.title.as_str()), ("12", "12"));
    }

    #[test]
    fn what_a_list_tells_besides() {
        let about = |line: &str| serde_json::from_str::<Entry>(line).unwrap().about();
        let announced = about(
            r#"{"_type":"url","id":"x","live_status":"is_upcoming","release_timestamp":1769853600,"timestamp":null}"#,
        );
        assert_eq!((announced.live, announced.begins_at), (Some(Live::Upcoming), Some(1_769_853_600)));
        let old = about(r#"{"upload_date":"20260131","availability":"subscriber_only","live_status":null}"#);
        assert_eq!((old.published_at, old.members_only, old.live), (Some(1_769_817_600), true, None));
        assert!(about(r#"{"url":"https://www.youtube.com/shorts/aqz-KE-bpKQ"}"#).short);
        assert_eq!(about(r#"{"upload_date":"long ago","timestamp":"x"}"#), About::default());
    }

    #[test]
    fn hostile_entries_fail_alone() {
        for line in [
            r#"{"_type":"url"}"#,
            r#"{"_type":"url","url":"file:///etc/passwd"}"#,
            r#"{"_type":"url","url":"http://a:b@h/x.mp3"}"#,
            r#"{"extractor_key":"Vimeo"}"#,
        ] {
            assert!(matches!(meaning(line), Meaning::Failed(_)), "{line}");
        }
    }
}

//! Addresses of YouTube, which say more than those of other sites: no request need be spent on them (the site counts them).

use url::Url;

use super::pages::Hint;
use crate::media::{Item, Locator, MediaId};

/// The id of the one YouTube video an address shows, if it does: so that a list of five hundred videos needs no request
/// at all before they are fetched (the site counts them). A video shown within a playlist is that video; to take all
/// of it, give the playlist's own address.
pub(super) fn youtube_id(url: &Url) -> Option<String> {
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

/// The item of a YouTube video's address.
pub(super) fn youtube_item(url: &Url, hint: Hint) -> Option<Item> {
    let id = youtube_id(url)?;
    let page = watch_url(&id)?;
    Some(Item {
        media_id: MediaId::new("youtube", &id),
        extractor: "youtube".into(),
        title: hint.title.unwrap_or_else(|| id.clone()),
        source_id: id,
        source: page.to_string(),
        locator: Locator::Page(page),
        duration_ms: hint.duration_ms,
    })
}

/// A YouTube video's address that says that it is a short one.
pub(super) fn is_short(url: &Url) -> bool {
    url.host_str().is_some_and(is_youtube) && url.path().starts_with("/shorts/")
}

/// Whether a list at this address is in the order of its videos' age, the newest first: a tab of a channel. The channel's
/// own address is not one list: yt-dlp gives its tabs one after the other, and new streams come after all of its films. The
/// order within its playlists, podcasts and courses is their owner's choice.
pub fn is_newest_first(url: &Url) -> bool {
    let mut parts = url.path_segments().into_iter().flatten().filter(|part| !part.is_empty());
    let first = parts.next().unwrap_or_default();
    let channel = match first {
        "channel" | "c" | "user" => parts.next().is_some(),
        _ => first.starts_with('@'),
    };
    let tab = parts.next_back().unwrap_or_default();
    url.host_str().is_some_and(is_youtube) && channel && matches!(tab, "videos" | "streams" | "shorts")
}

/// Whether the address is certainly not a feed's, so that no request need find out: a page of YouTube, whose feeds have
/// addresses of their own.
pub fn is_no_feed(url: &Url) -> bool {
    url.host_str().is_some_and(is_youtube) && !url.path().starts_with("/feeds/")
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

    #[test]
    fn only_a_channels_tabs_are_newest_first() {
        let newest_first = |s: &str| is_newest_first(&Url::parse(s).unwrap());
        for url in [
            "https://www.youtube.com/@x/videos",
            "https://www.youtube.com/@x/streams/",
            "https://m.youtube.com/channel/UCx/shorts?app=desktop",
            "https://www.youtube.com/c/x/videos",
            "https://www.youtube.com/user/x/videos",
        ] {
            assert!(newest_first(url), "{url}");
        }
        for url in [
            // All tabs in one stream: what is new may stand far below what is known.
            "https://www.youtube.com/@x",
            "https://www.youtube.com/@x/",
            "https://www.youtube.com/@x/featured",
            "https://www.youtube.com/channel/UCx",
            "https://www.youtube.com/user/videos",
            // Lists in the order that their owner gave them.
            "https://www.youtube.com/@x/playlists",
            "https://www.youtube.com/@x/podcasts",
            "https://www.youtube.com/@x/releases",
            "https://www.youtube.com/@x/courses",
            "https://www.youtube.com/playlist?list=PLx",
            "https://example.org/@x/videos",
        ] {
            assert!(!newest_first(url), "{url}");
        }
    }
}

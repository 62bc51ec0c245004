//! What an answer is, from its declared type and first bytes; and the media a page links to.

use std::collections::HashSet;

use url::Url;

use super::address::{media_extension, normalise};

/// What bytes from the web are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Media itself.
    Media,
    /// A page, feed or playlist, which yt-dlp may understand.
    Page {
        /// HTML, which may hold links to media.
        html: bool,
    },
    /// Certainly something else: an image, a document.
    Other,
    /// Cannot be told.
    Unknown,
}

/// Tells what an answer is. The first bytes win where they are certain, because servers often declare a wrong type:
/// HTML with `video/mp4` for an expired link, `text/plain` or `application/octet-stream` for media.
///
/// `declared` is the media type in lower case without parameters; `start` the first bytes, 512 or more if there are.
pub fn classify(declared: Option<&str>, start: &[u8]) -> Content {
    match text_kind(start) {
        Some(kind) => return kind,
        None if has_media_magic(start) => return Content::Media,
        None => {}
    }
    let declared = declared.unwrap_or("application/octet-stream");
    match declared {
        "audio/mpegurl"
        | "audio/x-mpegurl"
        | "audio/x-scpls"
        | "audio/x-pn-realaudio"
        | "video/vnd.mpeg.dash.mpd"
        | "application/vnd.apple.mpegurl"
        | "application/x-mpegurl"
        | "application/mpegurl"
        | "application/dash+xml" => Content::Page { html: false },
        "application/ogg" | "application/mp4" | "application/x-matroska" | "application/vnd.rn-realmedia" => {
            Content::Media
        }
        "text/html" | "application/xhtml+xml" => Content::Page { html: true },
        "application/json" | "application/xml" | "text/xml" => Content::Page { html: false },
        "application/pdf" | "application/zip" | "application/gzip" | "application/x-tar" => Content::Other,
        other if other.starts_with("audio/") || other.starts_with("video/") => Content::Media,
        other if other.starts_with("image/") || other.starts_with("font/") => Content::Other,
        other if other.ends_with("+xml") || other.ends_with("+json") => Content::Page { html: false },
        _ => Content::Unknown,
    }
}

/// True where a page's beginning is the question whether its reader is human. Only sentences that such pages are known by:
/// many an honest page carries a captcha for its comments.
pub(super) fn asks_for_a_human(start: &[u8]) -> bool {
    const SENTENCES: &[&str] = &[
        "you're not a bot",
        "you’re not a bot",
        "you are not a bot",
        "you're not a robot",
        "you are not a robot",
        "are you a robot",
        "are you a human",
        "verify you are human",
        "verify that you are human",
        "verifying you are human",
        "unusual traffic from your computer network",
        "complete the captcha",
        "<title>just a moment...</title>",
        "<title>attention required! | cloudflare</title>",
        "checking your browser before accessing",
    ];
    let text = String::from_utf8_lossy(start).to_lowercase();
    !text.contains("<video") && !text.contains("<audio") && SENTENCES.iter().any(|said| text.contains(said))
}

/// Pages, feeds and playlists by their first characters.
fn text_kind(start: &[u8]) -> Option<Content> {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let lower: Vec<u8> = start.iter().take(256).map(u8::to_ascii_lowercase).collect();
    let begins = |with: &str| lower.starts_with(with.as_bytes());
    if begins("<!doctype html") || begins("<html") || begins("<head") || begins("<body") {
        return Some(Content::Page { html: true });
    }
    if begins("<?xml") || begins("<rss") || begins("<feed") || begins("<mpd") || begins("#extm3u") {
        // XHTML pages declare themselves as XML first.
        let html = lower.windows(5).any(|w| w == b"<html");
        return Some(Content::Page { html });
    }
    None
}

/// First bytes that only media has: the containers that the decoder reads.
fn has_media_magic(b: &[u8]) -> bool {
    let at = |offset: usize, magic: &[u8]| b.get(offset..offset + magic.len()) == Some(magic);
    let riff = at(0, b"RIFF") || at(0, b"RF64");
    let transport_stream = |offset: usize| (0..3).all(|i| b.get(offset + i * (188 + offset)) == Some(&0x47));
    at(4, b"ftyp")
        || at(4, b"moov")
        || at(0, &[0x1a, 0x45, 0xdf, 0xa3])
        || at(0, b"OggS")
        || at(0, b"ID3")
        || at(0, b"fLaC")
        || at(0, b"FLV\x01")
        || at(0, b"caff")
        || at(0, b"#!AMR")
        || at(0, &[0x30, 0x26, 0xb2, 0x75, 0x8e, 0x66, 0xcf, 0x11])
        || (riff && (at(8, b"WAVE") || at(8, b"AVI ")))
        || (at(0, b"FORM") && (at(8, b"AIFF") || at(8, b"AIFC")))
        || is_mpeg_audio(b)
        || transport_stream(0)
        || transport_stream(4)
}

/// Two MPEG audio (layer I to III) or ADTS frame headers in a row; a single sync word occurs in any data.
fn is_mpeg_audio(b: &[u8]) -> bool {
    let Some(length) = mpeg_frame_length(b) else { return false };
    b.get(length..).is_some_and(|next| mpeg_frame_length(next).is_some())
}

/// Length of the frame whose header `b` starts with (ISO/IEC 11172-3 §2.4.2.3 and 13818-7 §6.2 for ADTS).
fn mpeg_frame_length(b: &[u8]) -> Option<usize> {
    let &[b0, b1, b2, b3, ..] = b else { return None };
    if b0 != 0xff || b1 & 0xe0 != 0xe0 {
        return None;
    }
    let layer = b1 >> 1 & 3;
    if layer == 0 {
        let (&b4, &b5) = (b.get(4)?, b.get(5)?);
        let length = usize::from(b3 & 3) << 11 | usize::from(b4) << 3 | usize::from(b5) >> 5;
        return (b1 & 0xf0 == 0xf0 && length >= 7).then_some(length);
    }
    // Kilobits a second of layer III: MPEG-1, then MPEG-2 and 2.5.
    const BITRATES: [[usize; 15]; 2] = [
        [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
        [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    ];
    let version = b1 >> 3 & 3;
    if layer != 1 || version == 1 {
        return None;
    }
    let mpeg1 = version == 3;
    let bitrate = *BITRATES[usize::from(!mpeg1)].get(usize::from(b2 >> 4)).filter(|&&r| r > 0)?;
    let rate = *[44_100, 48_000, 32_000].get(usize::from(b2 >> 2 & 3))? >> (3 - version.max(1)).min(2);
    let padding = usize::from(b2 >> 1 & 1);
    Some(if mpeg1 { 144_000 } else { 72_000 } * bitrate / rate + padding)
}

/// The media files that a page links to (`<a href>`, `<source src>`, `<enclosure url>`, Atom's `<link href>`), by their
/// endings, in the page's order, each once and normalised.
pub(super) fn media_links(base: &Url, page: &str) -> Vec<Url> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for value in link_attributes(page) {
        let Ok(url) = base.join(&unescape(value)) else { continue };
        let plain =
            matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
        if plain && media_extension(url.path()) {
            let url = normalise(&url);
            if seen.insert(url.clone()) {
                found.push(url);
            }
        }
    }
    found
}

/// Values of `href`, `src` and `url` attributes inside tags.
fn link_attributes(page: &str) -> impl Iterator<Item = &str> {
    page.split('<').skip(1).flat_map(|tag| {
        let mut rest = tag.split_once(char::is_whitespace).map_or("", |(_, attributes)| attributes);
        std::iter::from_fn(move || {
            loop {
                rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
                let end = rest.find(|c: char| c == '=' || c == '>' || c.is_whitespace())?;
                let (name, tail) = rest.split_at(end);
                let Some(tail) = tail.trim_start().strip_prefix('=') else {
                    // An attribute without a value, or the end of the tag.
                    rest = tail.trim_start();
                    if rest.is_empty() || rest.starts_with('>') {
                        return None;
                    }
                    continue;
                };
                let tail = tail.trim_start();
                let (value, after) = match tail.chars().next()? {
                    quote @ ('"' | '\'') => tail[1..].split_once(quote)?,
                    _ => tail
                        .split_at(tail.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(tail.len())),
                };
                rest = after;
                if ["href", "src", "url"].iter().any(|n| name.eq_ignore_ascii_case(n)) {
                    return Some(value.trim());
                }
            }
        })
    })
}

/// The character references that occur in addresses.
fn unescape(value: &str) -> String {
    let mut plain = value.to_owned();
    for (reference, character) in [
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&apos;", "'"),
        ("&#38;", "&"),
        ("&#x26;", "&"),
        ("&amp;", "&"),
    ] {
        if plain.contains(reference) {
            plain = plain.replace(reference, character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_wins_over_the_declared_type() {
        let html = b"<!DOCTYPE html><html>";
        assert_eq!(classify(Some("video/mp4"), html), Content::Page { html: true });
        assert_eq!(classify(Some("text/plain"), b"OggS\0\0\0\0"), Content::Media);
        assert_eq!(classify(None, b"\0\0\0\x20ftypisom"), Content::Media);
        assert_eq!(classify(Some("audio/mpeg"), &[0; 64]), Content::Media);
        assert_eq!(classify(Some("audio/mpegurl"), b"http://x/y"), Content::Page { html: false });
        assert_eq!(classify(Some("video/mp4"), b"#EXTM3U\n#EXT-X"), Content::Page { html: false });
        assert_eq!(
            classify(Some("text/html"), b"<?xml version=\"1.0\"?>\n<rss>"),
            Content::Page { html: false }
        );
        assert_eq!(classify(Some("image/png"), b"\x89PNG"), Content::Other);
        assert_eq!(classify(Some("application/octet-stream"), b"whatever"), Content::Unknown);
        assert_eq!(classify(Some("text/html"), b""), Content::Page { html: true });
    }

    #[test]
    fn mp3_is_known_by_two_frames() {
        // 44.1 kHz, 128 kbit/s, layer III: 417 bytes without padding.
        let mut frames = vec![0; 2 * 417];
        for start in [0, 417] {
            frames[start..start + 4].copy_from_slice(&[0xff, 0xfb, 0x90, 0x00]);
        }
        assert_eq!(classify(None, &frames), Content::Media);
        frames[417] = 0;
        assert_eq!(classify(None, &frames), Content::Unknown);
        // 22.05 kHz, 64 kbit/s, MPEG-2: 72 000 × 64 / 22 050 = 208.
        assert_eq!(mpeg_frame_length(&[0xff, 0xf3, 0x80, 0x00]), Some(208));
    }

    #[test]
    fn links_of_a_page() {
        let base = Url::parse("http://h/dir/page.html").unwrap();
        let page = r##"<a href="a.mp3">A</a> <A class=x HREF='/b.MP4?x=1&amp;y=2'>b</A><a href=c.ogg>c</a>
            <a href="a.mp3#t=3">again</a><a href="page2.html">no</a><img src="x.png"><enclosure url="http://k/e.m4a" length="5"/>
            <a data-x download href="d.wav">d</a><a href="ftp://h/x.mp3">no</a> 3 < 4 <a href="#
        "##;
        let links: Vec<String> = media_links(&base, page).iter().map(Url::to_string).collect();
        assert_eq!(
            links,
            [
                "http://h/dir/a.mp3",
                "http://h/b.MP4?x=1&y=2",
                "http://h/dir/c.ogg",
                "http://k/e.m4a",
                "http://h/dir/d.wav"
            ]
        );
    }
}

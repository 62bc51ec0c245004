//! Links that open a player at a second.

use url::{Host, Url};

use crate::media::Locator;

/// The link that opens `address` (a page, a media file on the web, a path) at `start_ms`, rounded down to a second.
///
/// YouTube takes `&t=…s`; everything else gets a media fragment (<https://www.w3.org/TR/media-frags/>, `#t=`), which
/// browsers' players obey. A path is percent-encoded; where it is not UTF-8, `locator` knows its bytes.
pub fn link(address: &str, locator: &Locator, start_ms: i64) -> String {
    let seconds = start_ms.max(0) / 1000;
    let page = match address.parse::<Url>() {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Some(url),
        _ => match locator {
            Locator::File(_) => None,
            Locator::Url(url) | Locator::Page(url) => Some(url.clone()),
        },
    };
    if let Some(mut url) = page {
        if let Some(id) = youtube_id(&url) {
            return format!("https://www.youtube.com/watch?v={id}&t={seconds}s");
        }
        url.set_fragment(Some(&format!("t={seconds}")));
        return url.into();
    }
    let path = match locator {
        Locator::File(path) => path.as_path(),
        Locator::Url(_) | Locator::Page(_) => std::path::Path::new(address),
    };
    match Url::from_file_path(path) {
        Ok(mut url) => {
            url.set_fragment(Some(&format!("t={seconds}")));
            url.into()
        }
        // Not absolute: nothing to make a link of but the name.
        Err(()) => address.to_owned(),
    }
}

/// The video's id, in any of the forms that YouTube's addresses have.
fn youtube_id(url: &Url) -> Option<String> {
    let Some(Host::Domain(host)) = url.host() else { return None };
    let host =
        host.strip_prefix("www.").or(host.strip_prefix("m.")).or(host.strip_prefix("music.")).unwrap_or(host);
    let mut path = url.path_segments()?;
    let id = match (host, path.next()?) {
        ("youtu.be", id) => id.to_owned(),
        ("youtube.com" | "youtube-nocookie.com", "watch") => {
            url.query_pairs().find(|(key, _)| key == "v")?.1.into_owned()
        }
        ("youtube.com" | "youtube-nocookie.com", "shorts" | "embed" | "live" | "v") => {
            path.next()?.to_owned()
        }
        _ => return None,
    };
    let valid = id.len() == 11 && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    valid.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(address: &str) -> String {
        link(address, &Locator::Page("https://example.org/".parse().unwrap()), 83_999)
    }

    #[test]
    fn youtube_in_all_its_forms() {
        for address in [
            "https://www.youtube.com/watch?v=dQw4w9WgXcQ",
            "https://youtube.com/watch?app=desktop&v=dQw4w9WgXcQ&t=5s&list=PL1",
            "https://m.youtube.com/shorts/dQw4w9WgXcQ?x=1",
            "https://music.youtube.com/watch?v=dQw4w9WgXcQ#t=1",
            "https://youtu.be/dQw4w9WgXcQ?t=3",
            "https://www.youtube-nocookie.com/embed/dQw4w9WgXcQ",
        ] {
            assert_eq!(page(address), "https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=83s", "{address}");
        }
        assert_eq!(
            page("https://www.youtube.com/watch?v=a%22b"),
            "https://www.youtube.com/watch?v=a%22b#t=83"
        );
        assert_eq!(
            page("https://youtube.com.evil.org/watch?v=dQw4w9WgXcQ"),
            "https://youtube.com.evil.org/watch?v=dQw4w9WgXcQ#t=83"
        );
    }

    #[test]
    fn other_pages_get_a_fragment() {
        assert_eq!(page("https://example.org/a.mp4?x=1#old"), "https://example.org/a.mp4?x=1#t=83");
        assert_eq!(page("not an address"), "https://example.org/#t=83");
    }

    #[test]
    fn files_are_percent_encoded() {
        let file = |path: &str| link(path, &Locator::File(path.into()), 1000);
        assert_eq!(file("/a b/ü #1?%.mp4"), "file:///a%20b/%C3%BC%20%231%3F%25.mp4#t=1");
        assert_eq!(file("relative.mp4"), "relative.mp4");
        use std::os::unix::ffi::OsStringExt;
        let odd = Locator::File(std::ffi::OsString::from_vec(b"/m/\xff.mp4".to_vec()).into());
        assert_eq!(link("/m/\u{fffd}.mp4", &odd, -5), "file:///m/%FF.mp4#t=0");
    }
}

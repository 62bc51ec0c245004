//! Addresses: which are accepted, when two are the same, how one is shown.

use std::path::Path;

use url::Url;

use crate::media::{Failure, FailureClass};

/// File name endings that promise media. Only a promise: what counts is the content.
const MEDIA_EXTENSIONS: &[&str] = &[
    "3g2", "3gp", "aac", "aif", "aifc", "aiff", "amr", "asf", "avi", "caf", "f4v", "flac", "flv", "m2ts",
    "m4a", "m4b", "m4v", "mka", "mkv", "mov", "mp2", "mp3", "mp4", "mpeg", "mpg", "mts", "oga", "ogg", "ogv",
    "opus", "qt", "ts", "wav", "wave", "webm", "wma", "wmv",
];

/// Whether the name (a file's, or an address's path) ends like media: `talk.MP4`.
pub fn media_extension(name: &str) -> bool {
    Path::new(name)
        .extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| MEDIA_EXTENSIONS.contains(&e.to_ascii_lowercase().as_str()))
}

/// Reads an address given by a person or a site.
///
/// # Errors
/// [`FailureClass::Refused`] for schemes other than http and https, for a missing host, and for credentials in the
/// address (they would end up in the database and in links). The message never repeats the credentials.
pub fn parse_url(text: &str) -> Result<Url, Failure> {
    let refused = |message: String| Failure::new(FailureClass::Refused, message);
    let url = Url::parse(text).map_err(|e| refused(format!("not a valid URL: {e}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refused(format!(
            "addresses starting with {}: are not read, only http and https",
            url.scheme()
        ))
        .with_remedy("give a local file or folder by its path"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused(format!(
            "the address of {} holds a user name or password",
            url.host_str().unwrap_or("?")
        ))
        .with_remedy("leave them out, and set COOKIES_FILE for sites that need a login"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(refused("not a valid URL: no host".to_owned()));
    }
    Ok(url)
}

/// The form of an address under which it is known: no fragment, no default port, host in lower case (the parser sees
/// to both), no `utm_*` parameters. The other parameters keep their order and spelling: servers may care.
pub fn normalise(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_fragment(None);
    if let Some(query) = url.query() {
        let kept: Vec<&str> = query
            .split('&')
            .filter(|p| !p.is_empty() && !p.to_ascii_lowercase().starts_with("utm_"))
            .collect();
        let kept = kept.join("&");
        url.set_query((!kept.is_empty()).then_some(&kept));
    }
    url
}

/// The address as it may stand in a message: without its parameters, which may be a signature.
pub fn shown(url: &Url) -> String {
    let mut plain = url.clone();
    plain.set_query(None);
    plain.set_fragment(None);
    format!("{plain}{}", if url.query().is_some() { "?…" } else { "" })
}

/// A title for an address that has none: its last path segment, decoded, without a media ending; else the host.
pub fn stem(url: &Url) -> String {
    let last = url.path_segments().and_then(|mut s| s.rfind(|s| !s.is_empty())).unwrap_or_default();
    let decoded = percent_decode(last);
    let stem = if media_extension(&decoded) {
        Path::new(&decoded).file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
    } else {
        decoded
    };
    if stem.trim().is_empty() { url.host_str().unwrap_or_default().to_owned() } else { stem }
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .and_then(|h| std::str::from_utf8(h).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_one_form() {
        let norm = |s: &str| normalise(&Url::parse(s).unwrap()).to_string();
        assert_eq!(norm("HTTP://Example.ORG:80/A.mp3#t=5"), "http://example.org/A.mp3");
        assert_eq!(norm("https://example.org:443"), "https://example.org/");
        assert_eq!(norm("http://h/a?utm_source=x&b=2&UTM_medium=y&a=1%20"), "http://h/a?b=2&a=1%20");
        assert_eq!(norm("http://h/a?utm_source=x"), "http://h/a");
        assert_eq!(norm("http://h:8080/a?"), "http://h:8080/a");
    }

    #[test]
    fn only_plain_web_addresses_are_read() {
        assert!(parse_url("https://example.org/x").is_ok());
        for bad in
            ["file:///etc/passwd", "ftp://h/x", "rtmp://h/x", "data:text/plain,x", "http://", "https://?x"]
        {
            assert_eq!(parse_url(bad).unwrap_err().class, FailureClass::Refused, "{bad}");
        }
        let secret = parse_url("https://anna:geheim@example.org/x").unwrap_err();
        assert_eq!(secret.class, FailureClass::Refused);
        assert!(!secret.message.contains("geheim") && !secret.message.contains("anna"), "{secret}");
    }

    #[test]
    fn titles_from_addresses() {
        let stem = |s: &str| stem(&Url::parse(s).unwrap());
        assert_eq!(stem("http://h/d/My%20talk%20%C3%A9.mp3?x=1"), "My talk é");
        assert_eq!(stem("http://h/episode/v1.2/"), "v1.2");
        assert_eq!(stem("http://h/"), "h");
        assert_eq!(stem("http://h/100%"), "100%");
    }

    #[test]
    fn media_endings() {
        assert!(media_extension("a.MP4") && media_extension("/x/y.webm"));
        assert!(!media_extension("mp4") && !media_extension("a.html") && !media_extension("a.m3u8"));
    }

    #[test]
    fn parameters_are_not_shown() {
        assert_eq!(shown(&Url::parse("http://h/a?sig=1#x").unwrap()), "http://h/a?…");
    }
}

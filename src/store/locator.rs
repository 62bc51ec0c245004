//! A [`Locator`] as JSON. Its own derive cannot write a path that is not UTF-8, and Linux allows those.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::nodes::this_host;
use crate::media::Locator;

/// As stored in `media.locator`. A file's says on which machine it was found: the same path on another may be nothing.
pub(super) fn to_json(locator: &Locator) -> Value {
    let on = this_host();
    match locator {
        Locator::File(path) => match path.to_str() {
            Some(path) => json!({"kind": "file", "at": path, "on": on}),
            None => json!({"kind": "file", "at_bytes": hex(path), "on": on}),
        },
        Locator::Url(url) => json!({"kind": "url", "at": url.as_str()}),
        Locator::Page(url) => json!({"kind": "page", "at": url.as_str()}),
    }
}

/// The machine on which a file was found, as stored.
pub(super) fn found_on(value: &Value) -> Option<&str> {
    value.get("on").and_then(Value::as_str)
}

/// The inverse of [`to_json`]. The error names the kind and no more: the address may hold a secret.
pub(super) fn from_json(value: &Value) -> Result<Locator, String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let kind = text("kind").unwrap_or_default();
    let bad = || format!("where it is, is stored in a way that this version does not know ({kind:?})");
    match (kind, text("at"), text("at_bytes")) {
        ("file", Some(at), _) => Ok(Locator::File(PathBuf::from(at))),
        ("file", None, Some(bytes)) => unhex(bytes).map(Locator::File).ok_or_else(bad),
        ("url", Some(at), _) => at.parse().map(Locator::Url).map_err(|e| format!("stored address: {e}")),
        ("page", Some(at), _) => at.parse().map(Locator::Page).map_err(|e| format!("stored address: {e}")),
        _ => Err(bad()),
    }
}

fn hex(path: &Path) -> String {
    path.as_os_str().as_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<PathBuf> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    Some(PathBuf::from(OsString::from_vec(digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_locator_comes_back() {
        for locator in [
            Locator::File("/a/ü b.mp4".into()),
            Locator::File(PathBuf::from(OsString::from_vec(b"/a/\xff\xfe.mp4".to_vec()))),
            Locator::Url("https://example.org/a?b=%00".parse().unwrap()),
            Locator::Page("https://example.org/watch?v=1".parse().unwrap()),
        ] {
            let stored = to_json(&locator);
            assert_eq!(from_json(&stored).unwrap(), locator);
            let file = matches!(locator, Locator::File(_));
            assert_eq!(found_on(&stored), file.then(this_host));
        }
        // What serde's derive would write is read as well.
        let derived = serde_json::to_value(Locator::File("/x".into())).unwrap();
        assert_eq!(from_json(&derived).unwrap(), Locator::File("/x".into()));
        assert!(from_json(&json!({"kind": "tape", "at": "x"})).is_err());
    }
}

//! A place in an item, as people write it: `talk.mp4@12:34`, or a link that a search gave.

use url::Url;

use super::super::library::the_one;
use crate::search::Alike;
use crate::store::Store;

/// The place that `text` names.
///
/// # Errors
/// Where the item is not known, or not the only one that may be meant.
pub(super) async fn read(store: &Store, text: &str) -> anyhow::Result<Alike> {
    let (what, at_ms) = split(text);
    Ok(Alike { media_id: the_one(store, &what).await?.media_id, at_ms })
}

/// What is named, and the time in it in milliseconds.
fn split(text: &str) -> (String, Option<i64>) {
    let text = text.trim();
    if let Some((what, time)) = text.rsplit_once('@')
        && let Some(ms) = clock(time)
        && !what.is_empty()
    {
        return (what.to_owned(), Some(ms));
    }
    if let Some((what, ms)) = link(text) {
        return (what, Some(ms));
    }
    (text.to_owned(), None)
}

/// `12:34`, `1:02:03`, `83`, `83s`, `12:34.5`.
fn clock(text: &str) -> Option<i64> {
    let text = text.trim();
    let text = text.strip_suffix('s').unwrap_or(text);
    let parts: Vec<&str> = text.split(':').collect();
    let (last, first) = parts.split_last()?;
    if first.len() > 2 || !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let mut seconds = 0u64;
    for part in first {
        seconds = seconds.checked_mul(60)?.checked_add(part.parse::<u32>().ok()?.into())?;
    }
    let (whole, fraction) = last.split_once('.').unwrap_or((last, "0"));
    let whole: u32 = whole.parse().ok()?;
    let fraction: f64 = format!("0.{fraction}").parse().ok()?;
    let ms = seconds.checked_mul(60)?.checked_add(whole.into())?.checked_mul(1000)?;
    i64::try_from(ms).ok()?.checked_add((fraction * 1000.0) as i64)
}

/// An address with its time in the fragment or as a parameter: the forms that [`crate::search::link`] gives.
fn link(text: &str) -> Option<(String, i64)> {
    let mut url: Url = text.parse().ok()?;
    if let Some(ms) = url.fragment().and_then(|f| f.strip_prefix("t=")).and_then(clock) {
        url.set_fragment(None);
        return Some((url.into(), ms));
    }
    let ms = url.query_pairs().find(|(key, _)| key == "t").and_then(|(_, value)| clock(&value))?;
    let rest: Vec<(String, String)> =
        url.query_pairs().filter(|(key, _)| key != "t").map(|(k, v)| (k.into(), v.into())).collect();
    url.set_query(None);
    if !rest.is_empty() {
        url.query_pairs_mut().extend_pairs(rest);
    }
    Some((url.into(), ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_people_write_them() {
        for (text, what, ms) in [
            ("talk.mp4@12:34", "talk.mp4", Some(754_000)),
            ("3f2a@1:02:03.5", "3f2a", Some(3_723_500)),
            ("3f2a@83s", "3f2a", Some(83_000)),
            (" 3f2a ", "3f2a", None),
            ("https://example.org/@channel", "https://example.org/@channel", None),
            ("https://example.org/@channel@0:05", "https://example.org/@channel", Some(5000)),
            (
                "https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=83s",
                "https://www.youtube.com/watch?v=dQw4w9WgXcQ",
                Some(83_000),
            ),
            ("file:///media/a%20b.mp4#t=7", "file:///media/a%20b.mp4", Some(7000)),
            ("https://example.org/x.mp3#t=12.5", "https://example.org/x.mp3", Some(12_500)),
            ("a@b", "a@b", None),
            ("@12:34", "@12:34", None),
            ("a@1:2:3:4", "a@1:2:3:4", None),
            ("a@99999999999", "a@99999999999", None),
        ] {
            assert_eq!(split(text), (what.to_owned(), ms), "{text}");
        }
    }
}

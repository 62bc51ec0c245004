//! Lists of sources: one a line, empty lines and lines that start with `#` skipped.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use async_channel::Sender;

use super::{Found, Lister, Reading, SourceArg, failed_path, looks_like_address, order, refused};
use crate::media::{Failure, FailureClass};

/// A list larger than this is no list.
pub const MAX_LIST_BYTES: u64 = 64 << 20;

/// The sources in a list's text. A byte order mark and Windows line ends are no part of them.
pub fn parse_list(text: &str) -> Vec<String> {
    text.trim_start_matches('\u{feff}')
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// Whether the file is a list of sources and not (broken) media: named .txt, .list, .m3u or without an ending, text, and
/// its first entry is an address or an existing path. A playlist of stream pieces (HLS) is none.
pub(super) fn is_list(path: &Path) -> bool {
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    if !matches!(ending.as_deref(), None | Some("txt" | "list" | "m3u")) {
        return false;
    }
    let mut start = Vec::new();
    let Ok(file) = File::open(path) else { return false };
    if file.take(64 << 10).read_to_end(&mut start).is_err() {
        return false;
    }
    let text = match std::str::from_utf8(&start) {
        Ok(text) => text,
        // The last character may be cut by the limit.
        Err(e) if e.error_len().is_none() => {
            std::str::from_utf8(&start[..e.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    if text.contains('\0') || text.contains("#EXT-X-") {
        return false;
    }
    let base = path.parent().unwrap_or(Path::new("/"));
    parse_list(text).first().is_some_and(|first| looks_like_address(first) || base.join(first).exists())
}

impl Lister {
    pub(super) async fn list_file(&self, path: &Path, out: &Sender<Found>) {
        let failed = match tokio::fs::metadata(path).await {
            Ok(metadata) if metadata.len() > MAX_LIST_BYTES => Failure::new(
                FailureClass::TooLarge,
                format!("the list {} is over {} MiB", path.display(), MAX_LIST_BYTES >> 20),
            ),
            Ok(_) => match tokio::fs::read(path).await.map(String::from_utf8) {
                Ok(Ok(text)) => {
                    let base = path.parent().unwrap_or(Path::new("/")).to_owned();
                    return self.list_entries(parse_list(&text), base, out).await;
                }
                Ok(Err(_)) => Failure::new(
                    FailureClass::NotMedia,
                    format!("the list {} is not UTF-8 text", path.display()),
                ),
                Err(e) => Failure::new(
                    FailureClass::Unreadable,
                    format!("failed to read the list {}: {e}", path.display()),
                ),
            },
            Err(e) => Failure::new(
                FailureClass::Unreadable,
                format!("failed to read the list {}: {e}", path.display()),
            ),
        };
        let _ = out.send(failed_path(path, failed)).await;
    }

    /// Lists the sources of a list; relative paths are taken from `base`. A list in a list is not followed.
    pub(super) async fn list_entries(&self, entries: Vec<String>, base: PathBuf, out: &Sender<Found>) {
        let lister = self.clone();
        order::in_order(order::all(entries), self.options().url_workers, out, move |entry, out| {
            let (lister, base) = (lister.clone(), base.clone());
            async move { lister.list_entry(entry, base, out).await }
        })
        .await;
    }

    async fn list_entry(&self, entry: String, base: PathBuf, out: Sender<Found>) {
        let text = entry.clone();
        let parsed = match tokio::task::spawn_blocking(move || SourceArg::parse(&text, &base)).await {
            Ok(parsed) => parsed,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        match parsed {
            Ok(SourceArg::Url(url)) => self.read_list(url, Reading::default(), &out).await,
            Ok(SourceArg::Folder(path)) => self.list_folder(&path, &out).await,
            Ok(SourceArg::File(path)) => self.list_one_file(path, &out).await,
            Ok(SourceArg::List(path)) => {
                let failure = Failure::new(FailureClass::Refused, "a list within a list is not followed")
                    .with_remedy("name it as a source of its own");
                let _ = out.send(failed_path(&path, failure)).await;
            }
            Ok(SourceArg::Stdin) => {
                let failure = Failure::new(FailureClass::Refused, "a list cannot name standard input");
                let _ = out.send(refused(&entry, failure)).await;
            }
            Err(failure) => {
                let _ = out.send(refused(&entry, failure)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_list() {
        assert_eq!(
            parse_list("\u{feff}# c\r\n\r\n  a b.mp4 \r\nhttps://h/x#t\n#x\n"),
            ["a b.mp4", "https://h/x#t"]
        );
    }

    #[test]
    fn lists_are_told_from_media() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let media = file("a.mp3", b"ID3");
        assert!(!is_list(&media));
        assert!(is_list(&file("l1.txt", b"a.mp3\n")));
        assert!(is_list(&file("l2", b"# x\nhttp://h/x\n")));
        assert!(is_list(&file("l3.m3u", b"#EXTM3U\n#EXTINF:3,x\na.mp3\n")));
        assert!(!is_list(&file("hls.m3u", b"#EXTM3U\n#EXT-X-TARGETDURATION:3\na.mp3\n")));
        assert!(!is_list(&file("l4.mp4", b"a.mp3\n")));
        assert!(!is_list(&file("l5.txt", b"ffconcat version 1.0\nfile 'a.mp3'\n")));
        assert!(!is_list(&file("l6.txt", b"\xff\xfe\n")));
        assert!(!is_list(&file("l7.txt", b"")));
    }
}

//! Downloading an address with Range requests, checked and resumable.
//!
//! Three files in the item's folder: `download.part` grows, `download.json` holds what it is a part of (so that a later
//! process may go on), `download` is complete.

use std::{
    io::SeekFrom,
    path::{Path, PathBuf},
};

use reqwest::{Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::{
    fs::{self, File, OpenOptions},
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufWriter},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use super::{Fetcher, disk, in_folder, interrupted, too_large};
use crate::event::Progress;
use crate::media::{Failure, FailureClass};
use crate::web::{self, Backoff, Content, Retry, shown};

/// Tries in a row that bring nothing before a download is given up for now.
const FRUITLESS_TRIES: u32 = 5;
/// Tries of any kind: a server that gives one byte at a time is not waited for.
const MAX_TRIES: u32 = 200;
/// How much is asked for again, to compare, when the server gave nothing to recognise the file by.
const OVERLAP: u64 = 4096;
/// How much is looked at to tell media from a page.
const LOOK: usize = 1024;

/// What an address turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// Media, complete, in this file.
    Media(PathBuf),
    /// A page or playlist; nothing was kept.
    Page,
}

/// What a part file is a part of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Note {
    url: String,
    /// A strong entity tag, or the date of the last change: what may stand in `If-Range` (RFC 9110 §13.1.5).
    validator: Option<String>,
    total: Option<u64>,
    /// Bytes of the complete file, once it is.
    complete: Option<u64>,
}

/// How one request ended that did not fail.
enum Round {
    Complete,
    Page,
}

impl Fetcher {
    pub(super) async fn download(
        &self,
        url: &Url,
        dir: &Path,
        permit: Option<Uuid>,
        progress: &mut Progress,
        cancel: &CancellationToken,
    ) -> Result<Got, Failure> {
        let mut download = Download {
            fetcher: self,
            client: self.client.for_permit(permit),
            url,
            part: in_folder(dir, ".part"),
            note_path: in_folder(dir, ".json"),
            note: Note::default(),
        };
        let done = in_folder(dir, "");
        if let Some(size) = download.recall(&done).await {
            progress.set(size, Some(size));
            return Ok(Got::Media(done));
        }
        let mut backoff = Backoff::new(self.options.backoff);
        let mut furthest = download.have().await;
        for _ in 0..MAX_TRIES {
            let round = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(interrupted()),
                round = download.round(progress) => round,
            };
            let failure = match round {
                Ok(Round::Complete) => {
                    download.finish(&done).await.map_err(|e| disk(dir, &e))?;
                    return Ok(Got::Media(done));
                }
                Ok(Round::Page) => {
                    download.discard().await.map_err(|e| disk(dir, &e))?;
                    return Ok(Got::Page);
                }
                Err(Retry::Never(failure)) => return Err(failure),
                Err(Retry::Soon(failure)) => failure,
            };
            // Only what goes beyond all earlier tries counts: a server without Range may cut at the same place forever.
            let have = download.have().await;
            if have > furthest {
                furthest = have;
                backoff.reset();
            }
            if backoff.tries() >= FRUITLESS_TRIES {
                return Err(failure);
            }
            let pause = backoff.pause();
            tracing::debug!(
                url = shown(url),
                have,
                pause_ms = pause.as_millis() as u64,
                "{failure}; trying again"
            );
            tokio::select! {
                () = cancel.cancelled() => return Err(interrupted()),
                () = tokio::time::sleep(pause) => {}
            }
        }
        Err(Failure::new(FailureClass::Network, format!("{} broke off {MAX_TRIES} times", shown(url))))
    }
}

struct Download<'a> {
    fetcher: &'a Fetcher,
    client: web::Client,
    url: &'a Url,
    part: PathBuf,
    note_path: PathBuf,
    note: Note,
}

impl Download<'_> {
    /// Reads what an earlier call left. Gives the size of a complete file; removes what belongs to another address.
    async fn recall(&mut self, done: &Path) -> Option<u64> {
        let note =
            fs::read(&self.note_path).await.ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
        match note {
            Some(note) if note.url == self.url.as_str() => {
                let size = fs::metadata(done).await.map(|m| m.len()).ok();
                if size.is_some() && size == note.complete {
                    return size;
                }
                self.note = note;
            }
            _ => {
                // No note, or a foreign one: whatever lies there cannot be trusted. Missing files are what is wanted.
                let _ = fs::remove_file(&self.part).await;
                let _ = fs::remove_file(done).await;
                self.note = Note { url: self.url.to_string(), ..Note::default() };
            }
        }
        None
    }

    async fn have(&self) -> u64 {
        fs::metadata(&self.part).await.map_or(0, |m| m.len())
    }

    async fn write_note(&self) -> std::io::Result<()> {
        let text = serde_json::to_vec(&self.note)?;
        fs::write(&self.note_path, text).await
    }

    async fn finish(&mut self, done: &Path) -> std::io::Result<()> {
        self.note.complete = Some(self.have().await);
        self.write_note().await?;
        fs::rename(&self.part, done).await
    }

    async fn discard(&mut self) -> std::io::Result<()> {
        self.note = Note { url: self.url.to_string(), ..Note::default() };
        for path in [&self.part, &self.note_path] {
            match fs::remove_file(path).await {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// One request: asks for what is missing and appends it.
    async fn round(&mut self, progress: &mut Progress) -> Result<Round, Retry> {
        let have = self.have().await;
        if have > 0 && self.note.total == Some(have) {
            return Ok(Round::Complete);
        }
        let overlap = if self.note.validator.is_some() { 0 } else { have.min(OVERLAP) };
        let from = have - overlap;
        let mut request = self.client.get(self.url.clone()).header(header::ACCEPT_ENCODING, "identity");
        if have > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
            if let Some(validator) = &self.note.validator {
                request = request.header(header::IF_RANGE, validator);
            }
        }
        let patience = self.fetcher.options.network_timeout;
        // Beside the site's own time, the one that may pass until it is our turn.
        let mut response = match timeout(patience * 2 + web::PATIENCE, request.send()).await {
            Ok(response) => response?,
            Err(_) => return Err(Retry::Soon(self.stalled())),
        };
        match response.status() {
            StatusCode::PARTIAL_CONTENT if have > 0 => self.resume(response, have, overlap, progress).await,
            StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
                // Either all of it is here already, or the file is another one now.
                let total = content_range(&response).and_then(|(_, total)| total);
                if total == Some(have) && self.note.validator.is_some() {
                    return Ok(Round::Complete);
                }
                self.restart("the server has another file there now").await
            }
            status if status.is_success() => self.begin(response, progress).await,
            _ => match Retry::answer(self.url, &mut response).await {
                // It was shown when it was listed: the address has expired, or the site is cross.
                Retry::Never(failure)
                    if response.status() == StatusCode::FORBIDDEN
                        && failure.class == FailureClass::Private =>
                {
                    let mut forbidden = Failure::new(FailureClass::Forbidden, failure.message);
                    forbidden.remedy = failure.remedy;
                    Err(Retry::Never(forbidden))
                }
                other => Err(other),
            },
        }
    }

    fn stalled(&self) -> Failure {
        let seconds = self.fetcher.options.network_timeout.as_secs_f32();
        Failure::new(
            FailureClass::Network,
            format!("nothing arrived from {} for {seconds} s", shown(self.url)),
        )
    }

    async fn restart<T>(&mut self, why: &str) -> Result<T, Retry> {
        self.discard().await.map_err(|e| Retry::Never(disk(&self.part, &e)))?;
        Err(Retry::Soon(Failure::new(FailureClass::Network, format!("{}: {why}", shown(self.url)))))
    }

    /// The server sends what comes after `have`, `overlap` bytes earlier.
    async fn resume(
        &mut self,
        mut response: Response,
        have: u64,
        overlap: u64,
        progress: &mut Progress,
    ) -> Result<Round, Retry> {
        let Some((start, total)) = content_range(&response) else {
            return self.restart("a part without its place").await;
        };
        let other_size = matches!((self.note.total, total), (Some(a), Some(b)) if a != b);
        if start != have - overlap || other_size || (total.is_some_and(|t| t < have)) {
            return self.restart("the server sent another part than asked for").await;
        }
        self.note.total = self.note.total.or(total);
        let mut first = Vec::new();
        while (first.len() as u64) < overlap {
            match self.chunk(&mut response).await? {
                Some(chunk) => first.extend_from_slice(&chunk),
                None => break,
            }
        }
        let compared = (first.len() as u64).min(overlap);
        let tail =
            self.tail(have - overlap, compared).await.map_err(|e| Retry::Never(disk(&self.part, &e)))?;
        if first.get(..tail.len()) != Some(&tail[..]) {
            return self.restart("the file changed meanwhile").await;
        }
        let rest = first.split_off(compared as usize);
        let file = OpenOptions::new().append(true).open(&self.part).await;
        let file = file.map_err(|e| Retry::Never(disk(&self.part, &e)))?;
        self.pour(response, file, have, rest, progress).await
    }

    async fn tail(&self, from: u64, length: u64) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&self.part).await?;
        file.seek(SeekFrom::Start(from)).await?;
        let mut tail = vec![0; length as usize];
        file.read_exact(&mut tail).await?;
        Ok(tail)
    }

    /// The server sends the file from its first byte.
    async fn begin(&mut self, mut response: Response, progress: &mut Progress) -> Result<Round, Retry> {
        let failed = |path: &Path, e: std::io::Error| Retry::Never(disk(path, &e));
        let declared = web::content_type(&response);
        let total = match content_range(&response) {
            Some((_, total)) => total,
            None => response.content_length(),
        };
        if total.is_some_and(|t| t > self.fetcher.options.max_bytes) {
            return Err(Retry::Never(too_large(self.fetcher.options.max_bytes)));
        }
        self.note =
            Note { url: self.url.to_string(), validator: validator(&response), total, complete: None };
        let mut start = Vec::new();
        let mut cut = None;
        while start.len() < LOOK {
            match self.chunk(&mut response).await {
                Ok(Some(chunk)) => start.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(retry) => {
                    cut = Some(retry);
                    break;
                }
            }
        }
        if start.is_empty() {
            let empty = Failure::new(FailureClass::Empty, format!("{} is empty", shown(self.url)));
            return Err(cut.unwrap_or(Retry::Never(empty)));
        }
        match web::classify(declared.as_deref(), &start) {
            Content::Page { html: true } if web::is_challenge(response.headers(), &start) => {
                return Err(Retry::Never(web::doubted(self.url, None)));
            }
            Content::Page { .. } => return Ok(Round::Page),
            Content::Other => {
                let what = declared.unwrap_or_default();
                return Err(Retry::Never(Failure::new(
                    FailureClass::NotMedia,
                    format!("{} is no media: {what}", shown(self.url)),
                )));
            }
            Content::Media | Content::Unknown => {}
        }
        // The old part goes first: a note must never describe another file's bytes.
        let file = File::create(&self.part).await.map_err(|e| failed(&self.part, e))?;
        self.write_note().await.map_err(|e| failed(&self.note_path, e))?;
        match cut {
            Some(retry) => {
                let mut file = file;
                file.write_all(&start).await.map_err(|e| failed(&self.part, e))?;
                file.flush().await.map_err(|e| failed(&self.part, e))?;
                Err(retry)
            }
            None => self.pour(response, file, 0, start, progress).await,
        }
    }

    /// Appends `first` and the rest of the response to `file`, which holds `have` bytes.
    async fn pour(
        &mut self,
        mut response: Response,
        file: File,
        mut have: u64,
        first: Vec<u8>,
        progress: &mut Progress,
    ) -> Result<Round, Retry> {
        let part = self.part.clone();
        let failed = |e: std::io::Error| Retry::Never(disk(&part, &e));
        let max_bytes = self.fetcher.options.max_bytes;
        let mut file = BufWriter::with_capacity(256 << 10, file);
        file.write_all(&first).await.map_err(failed)?;
        have += first.len() as u64;
        let end = loop {
            progress.set(have, self.note.total);
            if have > max_bytes {
                drop(file);
                self.discard().await.map_err(failed)?;
                return Err(Retry::Never(too_large(max_bytes)));
            }
            match self.chunk(&mut response).await {
                Ok(Some(chunk)) => {
                    file.write_all(&chunk).await.map_err(failed)?;
                    have += chunk.len() as u64;
                }
                Ok(None) => break None,
                Err(retry) => break Some(retry),
            }
        };
        // What arrived is kept, however it ended.
        file.flush().await.map_err(failed)?;
        if let Some(retry) = end {
            return Err(retry);
        }
        match self.note.total {
            Some(total) if have < total => Err(Retry::Soon(Failure::new(
                FailureClass::Network,
                format!("{} ended after {have} of {total} bytes", shown(self.url)),
            ))),
            Some(total) if have > total => self.restart("more arrived than was announced").await,
            _ => Ok(Round::Complete),
        }
    }

    async fn chunk(
        &self,
        response: &mut Response,
    ) -> Result<Option<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]>>, Retry> {
        match timeout(self.fetcher.options.network_timeout, response.chunk()).await {
            Ok(chunk) => chunk.map_err(|e| Retry::transport(self.url, &e)),
            Err(_) => Err(Retry::Soon(self.stalled())),
        }
    }
}

/// What may stand in `If-Range`: a strong entity tag, else the date of the last change.
fn validator(response: &Response) -> Option<String> {
    let text = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    text(header::ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| text(header::LAST_MODIFIED))
}

/// First byte and total of `Content-Range: bytes 0-9/100` (start 0 for `bytes */100`).
fn content_range(response: &Response) -> Option<(u64, Option<u64>)> {
    parse_content_range(response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?)
}

fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    match range.trim() {
        "*" => Some((0, total)),
        range => Some((range.split_once('-')?.0.trim().parse().ok()?, total)),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_content_range;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/100"), Some((5, Some(100))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((5, None)));
        assert_eq!(parse_content_range("bytes */100"), Some((0, Some(100))));
        assert_eq!(parse_content_range("items 5-9/100"), None);
        assert_eq!(parse_content_range("bytes x-9/100"), None);
    }
}

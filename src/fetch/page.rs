//! Fetching a page's media with yt-dlp, in the item's folder.

use std::{
    ffi::OsString,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use super::{Fetcher, NAME, captions, disk, interrupted, too_large};
use crate::event::Progress;
use crate::media::{Captions, Failure, FailureClass, Fetched, Item, Locator, Metadata, Retry};
use crate::web::{self, Backoff};
use crate::ytdlp::{End, Line};

/// Each kind of line that yt-dlp is made to print starts with its own word; what follows is one JSON value.
const INFO: &str = "SPOKEN-INFO ";
const PROGRESS: &str = "SPOKEN-PROGRESS ";
const FILE: &str = "SPOKEN-FILE ";

/// Quick tries more of a run that failed for the network's sake; within a run yt-dlp tries several times too.
const TRIES: u32 = 2;

/// What yt-dlp tells of a video before it downloads it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Info {
    id: Value,
    title: Option<String>,
    extractor_key: Option<String>,
    webpage_url: Option<String>,
    channel: Option<String>,
    uploader: Option<String>,
    duration: Value,
    timestamp: Value,
    release_timestamp: Value,
    live_status: Option<String>,
    playlist_index: Value,
    playlist_count: Value,
    language: Value,
    /// What people made (`captions::Form` by language); `automatic_captions` are not asked for.
    subtitles: Value,
}

impl Info {
    const TEMPLATE: &str = "%(.{id,title,extractor_key,webpage_url,channel,uploader,duration,timestamp,\
         release_timestamp,live_status,playlist_index,playlist_count,language,subtitles})j";

    fn id(&self) -> Option<String> {
        match &self.id {
            Value::String(id) => Some(id.clone()),
            Value::Number(id) => Some(id.to_string()),
            _ => None,
        }
    }

    /// Part of a list, unless that is known to hold nothing else.
    fn is_one_of_many(&self) -> bool {
        !self.playlist_index.is_null() && self.playlist_count.as_u64() != Some(1)
    }

    /// Live or upcoming: there is no recording yet, and a live stream has no end to wait for.
    fn not_yet(&self) -> Option<Failure> {
        /// The recording is there a little after the show.
        const MARGIN: i64 = 15 * 60;
        const HOUR: u64 = 3600;
        let (what, retry) = match self.live_status.as_deref()? {
            "is_live" => (
                "is live now; it can be fetched when the recording is complete",
                Retry::In(Duration::from_secs(6 * HOUR)),
            ),
            "is_upcoming" => {
                let length =
                    self.duration.as_f64().filter(|s| s.is_finite() && *s > 0.0).unwrap_or(0.0) as i64;
                let retry = match self.release_timestamp.as_i64().filter(|t| *t > 0) {
                    Some(release) => Retry::At(release.saturating_add(length).saturating_add(MARGIN)),
                    None => Retry::In(Duration::from_secs(6 * HOUR)),
                };
                ("has not begun", retry)
            }
            "post_live" => {
                ("was live; the site still prepares the recording", Retry::In(Duration::from_secs(2 * HOUR)))
            }
            _ => return None,
        };
        Some(not_yet(what, retry))
    }

    fn duration_ms(&self) -> Option<i64> {
        let seconds = self.duration.as_f64().filter(|s| s.is_finite() && *s > 0.0);
        seconds.map(|s| (s * 1000.0) as i64)
    }

    fn metadata(self, handed_over: bool) -> Metadata {
        let duration_ms = self.duration_ms();
        let date = self.timestamp.as_i64().or(self.release_timestamp.as_i64());
        // What yt-dlp makes of a page of any site, listing made something better of: `page (1)`, the host as uploader,
        // the file's date.
        let generic = matches!(self.extractor_key.as_deref(), Some("Generic" | "HTML5MediaEmbed") | None);
        Metadata {
            title: self.title.filter(|t| !t.trim().is_empty() && (!generic || handed_over)),
            webpage_url: self.webpage_url.filter(|u| web::parse_url(u).is_ok()),
            channel: self.channel.or(self.uploader).filter(|_| !generic),
            published_at: date.filter(|_| !generic),
            duration_ms,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Downloaded {
    downloaded_bytes: Option<f64>,
    total_bytes: Option<f64>,
    total_bytes_estimate: Option<f64>,
}

/// Which of a page's videos to take.
#[derive(Clone, Copy)]
enum Pick<'a> {
    /// The first; stops when it turns out to be one of several and another one than wanted.
    First,
    /// The one with this id.
    Id(&'a str),
}

/// What a run is to bring, and on whose turn.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    pick: Pick<'a>,
    /// Stops before the download where there are captions.
    may_do_without: bool,
    permit: Option<Uuid>,
}

/// How one run ended that did not fail.
enum Run {
    /// The media is there; captions are not looked for yet.
    Done(Fetched, Box<Info>),
    /// The page holds several, and the first is not the one.
    OneOfMany,
    /// Stopped before the download: captions may do without it.
    Captioned(Box<Info>),
}

impl Fetcher {
    pub(super) async fn fetch_page(
        &self,
        item: &Item,
        url: &Url,
        dir: &Path,
        permit: Option<Uuid>,
        progress: &mut Progress,
        cancel: &CancellationToken,
    ) -> Result<Fetched, Failure> {
        let mut extracted_again = false;
        let mut backoff = Backoff::new(self.options.backoff);
        let mut pick = Pick::First;
        let mut looked: Option<Option<Captions>> = None;
        let mut may_do_without = self.options.captions.as_ref().is_some_and(|wishes| wishes.alone);
        loop {
            let wanted = Wanted { pick, may_do_without, permit };
            let failure = match self.run_ytdlp(item, url, dir, wanted, progress, cancel).await {
                Ok(Run::Done(fetched, info)) => {
                    let captions = match looked {
                        Some(captions) => captions,
                        None => self.captions(&info, permit).await,
                    };
                    return Ok(Fetched { captions, ..fetched });
                }
                Ok(Run::Captioned(info)) => {
                    let captions = self.captions(&info, permit).await;
                    if let Some(fetched) = without_media(item, *info, captions.as_ref()) {
                        return Ok(fetched);
                    }
                    (looked, may_do_without) = (Some(captions), false);
                    continue;
                }
                Ok(Run::OneOfMany) => match pick {
                    Pick::First if filterable(&item.source_id) && item.extractor != "url" => {
                        pick = Pick::Id(&item.source_id);
                        continue;
                    }
                    _ => {
                        return Err(Failure::new(
                            FailureClass::NotMedia,
                            format!("{} is a page with several videos", web::shown(url)),
                        )
                        .with_remedy("ingest the page itself, then each of its videos is an item"));
                    }
                },
                Err(failure) => failure,
            };
            let failure = shown_before(failure);
            match failure.class {
                // The media's address may just have expired: extracted again, it is another one. Once.
                FailureClass::Forbidden if !std::mem::replace(&mut extracted_again, true) => {
                    remove_downloads(dir).map_err(|e| disk(dir, &e))?;
                }
                FailureClass::Network if backoff.tries() < TRIES => {}
                // A page that had media when it was listed may have become the question whether we are human.
                FailureClass::NotMedia => return Err(self.challenged(url, permit).await.unwrap_or(failure)),
                _ => return Err(failure),
            }
            tokio::select! {
                () = cancel.cancelled() => return Err(interrupted()),
                () = tokio::time::sleep(backoff.pause()) => {}
            }
        }
    }

    /// The captions that are wanted, where there are any. That they cannot be had is no failure: they are an extra.
    async fn captions(&self, info: &Info, permit: Option<Uuid>) -> Option<Captions> {
        let wishes = self.options.captions.as_ref()?;
        let tracks = serde_json::from_value(info.subtitles.clone()).ok()?;
        let track = captions::choose(&tracks, wishes.language.as_deref(), info.language.as_str())?;
        let text = match web::text(&self.client.for_permit(permit), &track.url, captions::MAX_BYTES).await {
            Ok(text) => text,
            Err(failure) => {
                tracing::warn!(
                    url = web::shown(&track.url),
                    "failed to fetch captions, going on without: {failure}"
                );
                return None;
            }
        };
        let segments = captions::parse(&text, &track.language);
        (!segments.is_empty()).then_some(Captions { language: track.language, segments, first: wishes.first })
    }

    /// Whether captions may do without the media, before they are read: there are some, and it is known how long they have
    /// to last.
    fn may_do_without(&self, item: &Item, info: &Info) -> bool {
        let Some(wishes) = &self.options.captions else { return false };
        let tracks = serde_json::from_value(info.subtitles.clone()).unwrap_or_default();
        (item.duration_ms.is_some() || info.duration_ms().is_some())
            && captions::choose(&tracks, wishes.language.as_deref(), info.language.as_str()).is_some()
    }

    /// Looks whether a page in which yt-dlp found nothing asks whether we are human.
    async fn challenged(&self, url: &Url, permit: Option<Uuid>) -> Option<Failure> {
        match web::probe_once(&self.client.for_permit(permit), url).await {
            Err(web::Retry::Never(failure)) if failure.class == FailureClass::RateLimited => Some(failure),
            _ => None,
        }
    }

    fn arguments(&self, pick: Pick<'_>) -> Vec<OsString> {
        let print_info = format!("pre_process:{INFO}{}", Info::TEMPLATE);
        let print_file = format!("after_move:{FILE}%(filepath)j");
        let print_progress =
            format!("download:{PROGRESS}%(progress.{{downloaded_bytes,total_bytes,total_bytes_estimate}})j");
        let output = format!("{NAME}.%(ext)s");
        // Other programs would speak these, past the gate.
        let mut filters: Vec<String> =
            ["rtmp", "rtsp", "mms", "ws", "ftp"].map(|scheme| format!("protocol!^=?{scheme}")).to_vec();
        if let Pick::Id(id) = pick {
            filters.push(format!("id='{id}'"));
        }
        let filter = filters.join(" & ");
        let mut arguments = vec![
            "--no-simulate",
            "--format",
            &self.options.format,
            "--no-playlist",
            "--output",
            &output,
            "--continue",
            "--retries",
            "5",
            "--fragment-retries",
            "4",
            "--extractor-retries",
            "3",
            "--retry-sleep",
            "exp=0.3:2",
            "--retry-sleep",
            "fragment:exp=0.3:2",
            // The default leaves pieces out in silence, and with them what was said there. For the same reason there is no
            // `--max-filesize`: of a stream it drops every piece that is larger. The limit is kept here instead.
            "--abort-on-unavailable-fragments",
            // It would run ffmpeg over the download with all its demuxers, some of which open files that a fake one names. Our
            // decoder needs nothing mended.
            "--fixup",
            "never",
            "--progress",
            "--newline",
            "--progress-delta",
            "0.2",
            "--progress-template",
            &print_progress,
            "--print",
            &print_info,
            "--print",
            &print_file,
        ];
        if matches!(pick, Pick::First) {
            arguments.extend(["--playlist-items", "1"]);
        }
        arguments.extend(["--match-filters", &filter]);
        arguments.into_iter().map(OsString::from).collect()
    }

    async fn run_ytdlp(
        &self,
        item: &Item,
        url: &Url,
        dir: &Path,
        Wanted { pick, may_do_without, permit }: Wanted<'_>,
        progress: &mut Progress,
        cancel: &CancellationToken,
    ) -> Result<Run, Failure> {
        let ytdlp = &self.options.ytdlp;
        let max_bytes = self.options.max_bytes;
        let leash = ytdlp.start(
            &self.arguments(pick),
            url,
            dir,
            permit,
            max_bytes.saturating_mul(2).saturating_add(64 << 20),
        )?;
        let gate = leash.gate();
        let explain = |failure: Failure| match &gate {
            Some(gate) => gate.explain(failure),
            None => failure,
        };
        let mut info: Option<Info> = None;
        let mut file: Option<String> = None;
        let (mut one_of_many, mut captioned) = (false, false);
        let mut refused: Option<Failure> = None;
        let over_limit = AtomicBool::new(false);
        let on_disk = || {
            let bytes = folder_bytes(dir);
            // Joining pieces needs room for two copies.
            over_limit.fetch_or(bytes > max_bytes.saturating_mul(2).saturating_add(64 << 20), Relaxed);
            (!over_limit.load(Relaxed)).then_some(bytes)
        };
        let on_line = |line: &Line| {
            let Line::Out(text) = line else { return true };
            if let Some(json) = text.strip_prefix(PROGRESS) {
                let Ok(now) = serde_json::from_str::<Downloaded>(json) else { return true };
                let done = now.downloaded_bytes.unwrap_or(0.0).max(0.0) as u64;
                // An estimate is good enough for a bar, not to refuse something for.
                let total = now.total_bytes.map(|t| t as u64);
                over_limit.fetch_or(done.max(total.unwrap_or(0)) > max_bytes, Relaxed);
                progress.set(done, total.or(now.total_bytes_estimate.map(|t| t as u64)));
                return !over_limit.load(Relaxed);
            }
            if let Some(json) = text.strip_prefix(INFO) {
                let Ok(told) = serde_json::from_str::<Info>(json) else { return true };
                refused = told.not_yet();
                let many = told.is_one_of_many();
                one_of_many = many
                    && matches!(pick, Pick::First)
                    && told.id().as_deref() != Some(item.source_id.as_str());
                captioned =
                    may_do_without && refused.is_none() && !one_of_many && self.may_do_without(item, &told);
                info = Some(told);
                return refused.is_none() && !one_of_many && !captioned;
            }
            if let Some(json) = text.strip_prefix(FILE) {
                file = serde_json::from_str(json).ok();
            }
            true
        };
        let end = leash.follow(ytdlp.silence(), cancel, on_disk, on_line).await;
        if over_limit.load(Relaxed) {
            remove_downloads(dir).map_err(|e| disk(dir, &e))?;
            return Err(too_large(max_bytes));
        }
        match end {
            Err(e) => Err(Failure::new(FailureClass::Internal, format!("failed to follow yt-dlp: {e}"))),
            Ok(End::Cancelled) => Err(interrupted()),
            Ok(End::Silent { errors }) => {
                let last = errors.last().map(|l| format!("; it said last: {l}")).unwrap_or_default();
                let seconds = ytdlp.silence().as_secs();
                Err(explain(Failure::new(
                    FailureClass::Network,
                    format!("yt-dlp showed no sign of life for {seconds} s{last}"),
                )))
            }
            Ok(End::Stopped) => match (refused, info.filter(|_| captioned)) {
                (Some(failure), _) => Err(failure),
                (None, Some(info)) => Ok(Run::Captioned(Box::new(info))),
                (None, None) => {
                    remove_downloads(dir).map_err(|e| disk(dir, &e))?;
                    Ok(Run::OneOfMany)
                }
            },
            Ok(End::Exited { status, errors }) => {
                let handed_over = matches!(item.locator, Locator::Url(_));
                match file {
                    Some(file) if status.success() => {
                        let info = info.unwrap_or_default();
                        let done = finished(dir, &file, info.clone().metadata(handed_over))?;
                        Ok(Run::Done(done, Box::new(info)))
                    }
                    _ if !status.success() => Err(explain(ytdlp.failure(status.code(), &errors))),
                    _ => Err(explain(Failure::new(
                        FailureClass::NotFound,
                        format!(
                            "yt-dlp found nothing to download at {}, or only over protocols that are not used (rtmp, rtsp, …)",
                            web::shown(url)
                        ),
                    ))),
                }
            }
        }
    }
}

/// An item that needs no media, because its captions are good.
fn without_media(item: &Item, info: Info, captions: Option<&Captions>) -> Option<Fetched> {
    let captions = captions?.clone();
    let mut metadata = info.metadata(matches!(item.locator, Locator::Url(_)));
    metadata.duration_ms = metadata.duration_ms.or(item.duration_ms);
    let good = captions::are_good(&captions.segments, metadata.duration_ms);
    good.then_some(Fetched { path: None, metadata, captions: Some(captions) })
}

/// A page that was shown when it was listed and is refused without a word now: the site is cross, or its door has changed.
/// It says otherwise where it wants an account.
fn shown_before(failure: Failure) -> Failure {
    let bare = failure.message.contains("HTTP Error 403") && failure.message.contains("download webpage");
    if failure.class == FailureClass::Private && bare {
        Failure { class: FailureClass::Forbidden, ..failure }
    } else {
        failure
    }
}

/// What is not there yet is looked at again by itself, and that costs it nothing.
fn not_yet(what: &str, retry: Retry) -> Failure {
    let mut failure = Failure::new(FailureClass::NotYet, what).with_retry(retry);
    failure.free = true;
    failure.with_remedy("it is looked at again by itself when it should be there")
}

/// Checks the file that yt-dlp says it made: in the item's folder, under our name, not empty.
fn finished(dir: &Path, file: &str, metadata: Metadata) -> Result<Fetched, Failure> {
    let path = dir.join(file);
    let ours = path.parent() == Some(dir)
        && path.file_stem().is_some_and(|s| s == NAME)
        && path.symlink_metadata().is_ok_and(|m| m.is_file());
    if !ours {
        return Err(Failure::new(
            FailureClass::Internal,
            "yt-dlp's download is not where it was asked to be",
        ));
    }
    match path.metadata().map(|m| m.len()) {
        Ok(0) => Err(Failure::new(FailureClass::Empty, "the downloaded file is empty")),
        Ok(_) => Ok(Fetched { path: Some(path), metadata, captions: None }),
        Err(e) => Err(disk(&path, &e)),
    }
}

/// Ids that need no quoting in yt-dlp's filter language.
fn filterable(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
}

/// Bytes in the files of a folder: grows while anything downloads into it.
fn folder_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.flatten().filter_map(|e| e.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
}

fn remove_downloads(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(NAME) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(json: &str) -> Info {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn metadata_of_sites_is_taken_and_of_any_page_is_not() {
        let site = info(
            r#"{"id":"a","title":"T","extractor_key":"Youtube","webpage_url":"https://www.youtube.com/watch?v=a",
                "channel":"C","uploader":"U","duration":12.5,"timestamp":1700000000,"live_status":"not_live"}"#,
        );
        assert!(site.not_yet().is_none());
        let metadata = site.metadata(false);
        assert_eq!(metadata.title.as_deref(), Some("T"));
        assert_eq!(metadata.channel.as_deref(), Some("C"));
        assert_eq!(metadata.duration_ms, Some(12_500));
        assert_eq!(metadata.published_at, Some(1_700_000_000));
        let any = info(
            r#"{"id":"p-1","title":"p (1)","extractor_key":"HTML5MediaEmbed","uploader":"h","timestamp":1}"#,
        );
        assert_eq!(any.metadata(false), Metadata::default());
    }

    #[test]
    fn what_is_live_is_not_there_yet() {
        for status in ["is_live", "is_upcoming", "post_live"] {
            let failure = info(&format!(r#"{{"live_status":"{status}"}}"#)).not_yet().unwrap();
            assert_eq!(failure.class, FailureClass::NotYet);
            assert!(failure.free && failure.retry.is_some());
        }
        let premiere = r#"{"live_status":"is_upcoming","release_timestamp":1700000000,"duration":600}"#;
        assert_eq!(info(premiere).not_yet().unwrap().retry, Some(Retry::At(1_700_001_500)));
        assert!(info(r#"{"live_status":"was_live"}"#).not_yet().is_none());
        assert!(info("{}").not_yet().is_none());
    }

    #[test]
    fn only_our_own_file_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("download.webm"), "x").unwrap();
        std::fs::write(dir.path().join("download.mp3"), "").unwrap();
        std::fs::write(dir.path().join("other.webm"), "x").unwrap();
        let class = |file: &str| finished(dir.path(), file, Metadata::default()).map_err(|f| f.class);
        assert!(class("download.webm").is_ok());
        assert_eq!(class("download.mp3").unwrap_err(), FailureClass::Empty);
        for bad in ["other.webm", "../download.webm", "/etc/passwd", "download.nope", ""] {
            assert_eq!(class(bad).unwrap_err(), FailureClass::Internal, "{bad}");
        }
    }

    #[test]
    fn filters_hold_plain_ids_only() {
        assert!(filterable("aqz-KE_b.1:2"));
        assert!(!filterable("a'b") && !filterable("a & b") && !filterable(""));
    }
}

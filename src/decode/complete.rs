//! Whether all of a file's audio was there.

use std::path::Path;

use ffmpeg_next::{Error, Packet};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    input::{Input, to_ns},
    run::{MAX_READ_ERRORS, Outcome, Run, SLACK_MS},
};
use crate::media::{Failure, FailureClass, SAMPLE_RATE};

/// The share of a stated duration that must be there.
const COMPLETE: f64 = 0.98;

/// What may be missing of a site's duration: most sites state whole seconds, of the video.
const SITE_SLACK_MS: i64 = 1500;

impl Run<'_> {
    /// Whether what was decoded is what was stated. ffmpeg reports no error for a file that simply ends.
    pub fn check_complete(&self, outcome: &Outcome, path: &Path) -> Result<(), Failure> {
        if outcome.errors > outcome.packets / 2 {
            return Err(Failure::new(
                FailureClass::Truncated,
                format!(
                    "damaged: {} of {} audio packets could not be decoded",
                    outcome.errors, outcome.packets
                ),
            )
            .with_remedy("download or copy the file again"));
        }
        let decoded_ms = (outcome.samples * 1000 / u64::from(SAMPLE_RATE)) as i64;
        // Some containers count their duration from 0, some from where they begin: what reaches it either way is
        // complete.
        let start_ms = outcome.start_ns.unwrap_or(0) / 1_000_000;
        let end_ms = decoded_ms.saturating_add(self.offset_ms(outcome).max(start_ms));
        let mov = self.input.demuxer().starts_with("mov");
        let mut reached = None;
        let mut furthest = || -> Result<i64, Failure> {
            // The audio may end before the video: then the file is complete if any stream goes on to the end.
            let ms = match reached {
                Some(ms) => ms,
                None if self.input.has_other_streams() => last_ms(path, self.cancel)?,
                None => 0,
            };
            reached = Some(ms);
            Ok(ms.max(end_ms))
        };
        let truncated = |what: &str, stated: i64, found: i64| {
            debug!(errors = outcome.errors, stopped_by = ?outcome.stopped_by, "incomplete");
            Failure::new(
                FailureClass::Truncated,
                format!("incomplete: {} of the {} that {what}", super::clock(found), super::clock(stated)),
            )
            .with_remedy("download or copy the file again")
        };
        if let Some(stated) = self.input.stated_bytes
            && (self.input.bytes as f64) < COMPLETE * stated as f64
        {
            return Err(Failure::new(
                FailureClass::Truncated,
                format!("incomplete: {} of the {stated} bytes that the file states", self.input.bytes),
            )
            .with_remedy("download or copy the file again"));
        }
        if self.input.duration_is_stated() {
            // mp4 states each track's length; elsewhere the container's may be the video's.
            if let Some(stated) = outcome.stated_ms.filter(|_| mov) {
                if is_short(end_ms, stated, SLACK_MS) {
                    return Err(truncated("the file states", stated, decoded_ms));
                }
            } else if let Some(stated) = self.input.duration_ms()
                && is_short(end_ms, stated, SLACK_MS)
                && is_short(furthest()?, stated, SLACK_MS)
            {
                return Err(truncated("the file states", stated, end_ms));
            }
        }
        if let Some(stated) = self.expected_ms
            && is_short(end_ms, stated, SITE_SLACK_MS)
            && is_short(furthest()?, stated, SITE_SLACK_MS)
        {
            return Err(truncated("the site states", stated, end_ms));
        }
        Ok(())
    }
}

/// Whether `found` misses too much of `stated`.
fn is_short(found: i64, stated: i64, slack: i64) -> bool {
    let missing = stated - found;
    missing > slack && (found as f64) < COMPLETE * stated as f64
}

/// The end of the last packet of any stream, in milliseconds on the player's clock. Reads the whole file.
fn last_ms(path: &Path, cancel: &CancellationToken) -> Result<i64, Failure> {
    let mut input = Input::open(path, cancel)?;
    let start = input.start_ns().unwrap_or(0);
    let bases: Vec<_> = input.context.streams().map(|s| s.time_base()).collect();
    let mut last = i64::MIN;
    let mut errors = 0;
    while errors < MAX_READ_ERRORS {
        if cancel.is_cancelled() {
            return Err(super::stopped());
        }
        let mut packet = Packet::empty();
        match packet.read(&mut input.context) {
            Ok(()) => {}
            Err(e) if e == Error::InvalidData || super::is_again(e) => {
                errors += 1;
                continue;
            }
            Err(_) => break,
        }
        let (Some(base), Some(ts)) = (bases.get(packet.stream()), packet.pts().or(packet.dts())) else {
            continue;
        };
        last = last.max(to_ns(ts.saturating_add(packet.duration().max(0)), *base));
    }
    Ok(last.saturating_sub(start) / 1_000_000)
}

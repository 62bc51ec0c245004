//! Decodes whatever ffmpeg reads to 16 kHz mono.
//!
//! [`recognise`] says what a file is, from its content and not from its name; [`decode`] turns its audio into raw
//! samples on disk, packet by packet, so that memory does not grow with the file. Both block: call them from
//! a thread that may.
//!
//! # What is let in
//!
//! Files come from strangers. ffmpeg gets the bytes of the one file and nothing else: no path, no protocol, only
//! demuxers that keep their media inside the file (an mp4 that is really a playlist naming other files is refused),
//! and no rare video decoder. Channels, rates, duration and output are bounded by [`DecodeOptions`].
//!
//! # Times
//!
//! A time in the decoded file plus [`Audio::offset_ms`] is the time a player shows. Players show 0 where the
//! container's clock starts (`AVFormatContext.start_time`: the earliest of its streams), whatever that clock says: an
//! mpegts recording that begins at 10 h plays from 0:00. So the offset is *first audio timestamp − container start*:
//! 0 for nearly all files, 4 s where the video begins 4 s before the audio. Where the audio is alone, its start is
//! the container's, and the offset 0. Gaps inside the stream are filled with silence, overlaps cut (see `timeline`),
//! so that times stay right behind them.

use std::{io, path::Path, sync::Once};

use ffmpeg_next::{self as ffmpeg, Error, ffi};
use tokio_util::sync::CancellationToken;

use crate::{
    event::Progress,
    media::{Audio, Failure, FailureClass},
};

mod complete;
mod input;
mod resample;
mod run;
mod sink;
mod sniff;
mod timeline;

#[cfg(test)]
mod tests;

use input::Input;
use run::Run;
use sink::Sink;

/// Bounds on what is decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Longest audio in milliseconds, checked against the stated duration and while decoding.
    pub max_duration_ms: i64,
    /// Most bytes of decoded audio (32,000 a second).
    pub max_output_bytes: u64,
    /// Most channels.
    pub max_channels: u32,
    /// Highest sample rate, per second.
    pub max_sample_rate: u32,
}

impl Default for DecodeOptions {
    /// 24 hours, 64 channels, 768 kHz.
    fn default() -> Self {
        Self {
            max_duration_ms: 24 * 3_600_000,
            max_output_bytes: 24 * 3600 * 32_000,
            max_channels: 64,
            max_sample_rate: 768_000,
        }
    }
}

/// What a media file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// ffmpeg's name of the container (`matroska,webm`).
    pub container: String,
    /// Length in milliseconds, where the container tells; for mp3 without a header an estimate.
    pub duration_ms: Option<i64>,
    /// The audio streams, in the file's order.
    pub audio: Vec<AudioStream>,
    /// Which of `audio` would be decoded; `None` where none can be.
    pub chosen: Option<usize>,
}

/// One audio stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioStream {
    /// Number among all streams of the file.
    pub index: usize,
    /// ffmpeg's name of the codec.
    pub codec: String,
    /// Channels; 0 where only decoding would tell.
    pub channels: u32,
    /// Samples per second; 0 where only decoding would tell.
    pub sample_rate: u32,
    /// Language tag, where there is one. Untrusted text.
    pub language: Option<String>,
    /// Marked as the one to play.
    pub default: bool,
    /// Marked as a commentary, an audio description or the like: not what people came to hear.
    pub accessory: bool,
    /// Whether this ffmpeg has a decoder for it.
    pub decodable: bool,
    /// Encrypted: nothing but noise would come out.
    pub encrypted: bool,
}

/// Says what `path` is, from its content. Reads a few hundred kilobytes of most files, 5 MB at the most.
///
/// # Errors
/// [`FailureClass::Unreadable`], [`Empty`](FailureClass::Empty), [`NotMedia`](FailureClass::NotMedia) for all that is
/// not in an allowed container, [`Truncated`](FailureClass::Truncated) for an mp4 whose index is missing,
/// [`Drm`](FailureClass::Drm) for containers that cannot even be opened without a key. A file without audio, or with
/// encrypted audio, is recognised: [`decode`] refuses it.
pub fn recognise(path: &Path) -> Result<Probe, Failure> {
    let input = Input::open(path, &CancellationToken::new())?;
    let audio = input.audio();
    Ok(Probe {
        container: input.demuxer().to_owned(),
        duration_ms: input.duration_ms(),
        chosen: preference(&audio).first().copied(),
        audio,
    })
}

/// Positions in `audio` of what can be decoded, best first: what is marked as default, then what is not marked as
/// an extra, then the file's order.
fn preference(audio: &[AudioStream]) -> Vec<usize> {
    let mut order: Vec<_> = (0..audio.len()).filter(|&i| audio[i].decodable && !audio[i].encrypted).collect();
    order.sort_by_key(|&i| (!audio[i].default, audio[i].accessory, i));
    order
}

/// Decodes the audio of `input` into `output`: raw 16-bit little-endian samples, mono, 16 kHz.
///
/// `output` appears only when it is complete (it is written as `output` + `.part`). `expected_ms` is the duration that
/// the site stated, if it did; progress is told in milliseconds of audio.
///
/// Single packets that do not decode are skipped (their place is kept). Should the preferred stream hold no audio at
/// all, the next one is tried.
///
/// # Errors
/// Those of [`recognise`], and [`NoAudio`](FailureClass::NoAudio), [`Drm`](FailureClass::Drm),
/// [`TooLarge`](FailureClass::TooLarge) beyond `options`, [`Truncated`](FailureClass::Truncated) where less than 98 % of
/// the stated duration is there (or most packets are damaged), [`Internal`](FailureClass::Internal) when `output`
/// cannot be written or `cancel` was called.
pub fn decode(
    input: &Path,
    output: &Path,
    options: &DecodeOptions,
    expected_ms: Option<i64>,
    progress: &mut Progress,
    cancel: &CancellationToken,
) -> Result<Audio, Failure> {
    let mut opened = Input::open(input, cancel)?;
    let audio = opened.audio();
    let order = preference(&audio);
    if order.is_empty() {
        return Err(no_stream(&audio));
    }
    if let Some(ms) = opened.duration_ms().filter(|ms| *ms > options.max_duration_ms)
        && opened.duration_is_stated()
    {
        return Err(too_long(ms, options));
    }
    let mut sink = Sink::create(output).map_err(|e| cannot_write(&e))?;
    let mut empty = None;
    for (attempt, &choice) in order.iter().enumerate() {
        if attempt > 0 {
            opened = Input::open(input, cancel)?;
            sink.restart().map_err(|e| cannot_write(&e))?;
        }
        let mut run = Run { options, expected_ms, progress, cancel, input: opened, sink: &mut sink };
        let outcome = run.decode(audio[choice].index)?;
        if outcome.samples == 0 {
            empty.get_or_insert(outcome);
            opened = run.input;
            continue;
        }
        run.check_complete(&outcome, input)?;
        let offset_ms = run.offset_ms(&outcome);
        let (samples, hash) = sink.finish().map_err(|e| cannot_write(&e))?;
        return Ok(Audio { path: output.to_owned(), samples, offset_ms, hash });
    }
    Err(match empty {
        Some(outcome) => outcome.without_audio(opened.duration_ms()),
        None => no_stream(&audio),
    })
}

/// Why none of `audio` can be decoded.
fn no_stream(audio: &[AudioStream]) -> Failure {
    if audio.is_empty() {
        Failure::new(FailureClass::NoAudio, "the file has no audio track")
    } else if audio.iter().any(|s| s.encrypted) {
        Failure::new(FailureClass::Drm, "the audio is encrypted (DRM)")
    } else {
        let codecs: Vec<_> = audio.iter().map(|s| s.codec.as_str()).collect();
        Failure::new(FailureClass::NotMedia, format!("no decoder for the audio ({})", codecs.join(", ")))
            .with_remedy("convert the file with a tool that reads it")
    }
}

fn too_long(ms: i64, options: &DecodeOptions) -> Failure {
    Failure::new(
        FailureClass::TooLarge,
        format!("{} long, the limit is {}", clock(ms), clock(options.max_duration_ms)),
    )
    .with_remedy("raise MAX_DURATION_HOURS")
}

fn cannot_write(error: &io::Error) -> Failure {
    Failure::of_disk("the decoded audio cannot be written", error)
}

fn stopped() -> Failure {
    Failure::new(FailureClass::Internal, "stopped while decoding")
}

/// Milliseconds as a person reads them: `1:02:03.4`.
fn clock(ms: i64) -> String {
    let tenths = ms.max(0) / 100;
    format!("{}:{:02}:{:02}.{}", tenths / 36_000, tenths / 600 % 60, tenths / 10 % 60, tenths % 10)
}

/// Once per process: ffmpeg keeps off the terminal, and refuses single allocations of a size that only broken or
/// hostile files ask for.
fn quieten() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        ffmpeg::util::error::register_all();
        ffmpeg::util::log::set_level(ffmpeg::util::log::Level::Quiet);
        // SAFETY: sets one atomic.
        unsafe { ffi::av_max_alloc(1 << 30) };
    });
}

/// True for errors after which a demuxer or decoder can go on.
fn is_again(error: Error) -> bool {
    matches!(error, Error::Other { errno } if errno == ffmpeg::error::EAGAIN)
}

//! Who talks when: finds speech in decoded audio and cuts it into windows that fit Whisper's 30 seconds.
//!
//! [`windows`] reads the audio once, in small blocks, and yields a [`Window`] as soon as its end is decided. What is
//! held in memory is one window and a little look-ahead (under 1.5 MB), whatever the length of the file.
//!
//! ```text
//! samples ──► detector (one score per 16 ms) ──► spans ──► packer (cut at pauses) ──► windows ≤ 30 s
//! ```

mod detect;
mod pack;

use std::{
    fs::File,
    io::{self, Read},
    time::Duration,
};

use crate::media::{Audio, SAMPLE_RATE};

use detect::Detector;
use pack::{Packer, Params};

/// Samples in one window of the detector (16 ms), the finest step of every boundary found here.
pub const FRAME: usize = 256;

/// The most samples a [`Window`] may hold: Whisper's 30 seconds.
pub const MAX_WINDOW: usize = 30 * SAMPLE_RATE as usize;

/// Read at a time: 0.26 s of audio.
const BLOCK: usize = 16 * FRAME;

/// How speech is detected and windows are cut.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeechOptions {
    /// Score, between 0 and 1, from which a frame begins speech. Speech ends below this minus 0.15.
    pub threshold: f32,
    /// Speech shorter than this is dropped as a click or a cough.
    pub min_speech: Duration,
    /// Silence shorter than this does not end a span.
    pub min_silence: Duration,
    /// Audio kept before and after speech, so that soft consonants are not cut.
    pub pad: Duration,
    /// The longest window; values above 30 s count as 30 s, values under 1 s as 1 s.
    pub chunk: Duration,
}

impl Default for SpeechOptions {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            min_speech: Duration::from_millis(96),
            min_silence: Duration::from_millis(160),
            pad: Duration::from_millis(200),
            chunk: Duration::from_secs(30),
        }
    }
}

/// A stretch of samples, end excluded, counted from the start of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First sample.
    pub start: u64,
    /// Sample after the last.
    pub end: u64,
}

impl Span {
    /// Length in samples.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// True where nothing lies in it.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }
}

/// A contiguous stretch of audio that holds speech; what the recogniser sees at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Position of the first sample in the file.
    pub start_sample: u64,
    /// 16 kHz mono, at most [`MAX_WINDOW`] samples.
    pub samples: Vec<i16>,
    /// Where speech was detected, without padding, in order; never empty, never outside the window.
    pub speech: Vec<Span>,
}

impl Window {
    /// Position after the last sample in the file.
    pub fn end_sample(&self) -> u64 {
        self.start_sample + self.samples.len() as u64
    }

    /// Samples of detected speech.
    pub fn speech_samples(&self) -> u64 {
        self.speech.iter().map(Span::len).sum()
    }
}

/// Opens `audio` and returns an iterator over its windows, in order of time, without overlap.
///
/// # Errors
/// Where the file cannot be opened; reading errors come from the iterator, which ends after the first.
pub fn windows(audio: &Audio, options: &SpeechOptions) -> io::Result<Windows<File>> {
    Ok(Windows::new(File::open(&audio.path)?, options))
}

/// Iterator over the windows of one recording.
#[derive(Debug)]
pub struct Windows<R> {
    source: R,
    detector: Detector,
    packer: Packer,
    bytes: Vec<u8>,
    block: Vec<i16>,
    ended: bool,
}

impl<R: Read> Windows<R> {
    /// Windows of `source`: raw little-endian 16-bit samples, mono, 16 kHz. An odd last byte is ignored.
    pub fn new(source: R, options: &SpeechOptions) -> Self {
        Self {
            source,
            detector: Detector::new(options),
            packer: Packer::new(Params::new(options)),
            bytes: vec![0; 2 * BLOCK],
            block: Vec::with_capacity(BLOCK),
            ended: false,
        }
    }

    /// Samples read so far.
    pub fn position(&self) -> u64 {
        self.packer.position()
    }

    /// Reads one block into `self.block`; shorter than [`BLOCK`] only at the end.
    fn fill(&mut self) -> io::Result<()> {
        let mut filled = 0;
        while filled < self.bytes.len() {
            match self.source.read(&mut self.bytes[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.block.clear();
        self.block.extend(self.bytes[..filled].chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])));
        Ok(())
    }
}

impl<R: Read> Iterator for Windows<R> {
    type Item = io::Result<Window>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(window) = self.packer.next_window() {
                return Some(Ok(window));
            }
            if self.ended {
                return None;
            }
            if let Err(e) = self.fill() {
                self.ended = true;
                return Some(Err(e));
            }
            let packer = &mut self.packer;
            packer.push_samples(&self.block);
            let mut frames = self.block.chunks_exact(FRAME);
            for frame in &mut frames {
                let decision = self.detector.feed(frame);
                packer.push_frame(decision.voiced);
                if let Some(span) = decision.finished {
                    packer.push_span(span);
                }
            }
            if self.block.len() < BLOCK {
                let rest = frames.remainder();
                if !rest.is_empty() {
                    let mut last = [0i16; FRAME];
                    last[..rest.len()].copy_from_slice(rest);
                    let decision = self.detector.feed(&last);
                    packer.push_frame(decision.voiced);
                    if let Some(span) = decision.finished {
                        packer.push_span(span);
                    }
                }
                let end = packer.position();
                if let Some(span) = self.detector.finish(end) {
                    packer.push_span(span);
                }
                packer.end();
                self.ended = true;
            }
            packer.note_open(self.detector.open_since());
        }
    }
}

/// Milliseconds to samples.
fn samples_of(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX / 32).saturating_mul(u64::from(SAMPLE_RATE)) / 1_000_000
}

#[cfg(test)]
mod tests;

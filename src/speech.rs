//! Who talks when: finds speech in decoded audio and cuts it into windows that fit Whisper's 30 seconds.
//!
//! [`windows`] reads the audio once, in small blocks, and yields a [`Window`] as soon as its end is decided. What is
//! held in memory is one window and a little look-ahead (under 1.7 MB), whatever the length of the file.
//!
//! ```text
//! samples ──► score (one per 16 ms) ──► gate (faint and steady sounds) ──► detector (spans)
//!         ──► timeline (long silences out) ──► packer (cut at pauses) ──► windows
//! ```

mod detect;
mod gate;
mod pack;
mod spectrum;
mod timeline;

use std::{
    fs::File,
    io::{self, Read},
    time::Duration,
};

use crate::media::{Audio, SAMPLE_RATE};

pub use gate::{GateReason, Gated};

use detect::{Detector, Scorer};
use gate::{Gate, Judged};
use pack::{Cut, Packer, Params};
use timeline::Timeline;

/// Samples in one window of the detector (16 ms), the finest step of every boundary found here.
pub const FRAME: usize = 256;

/// The most samples a [`Window`] may hold: Whisper's 30 seconds.
pub const MAX_WINDOW: usize = 30 * SAMPLE_RATE as usize;

/// Read at a time: 0.26 s of audio.
const BLOCK: usize = 16 * FRAME;

/// After so much silence a new window begins, room or not: what follows is another scene, perhaps another language. A
/// window for every 30 s is no more than there would be without any detection.
const NEW_SCENE: u64 = 30 * SAMPLE_RATE as u64;

/// What a gate leaves of a sound is shorter than this, and the sound itself is not.
const EDGE: u64 = SAMPLE_RATE as u64;

/// How near to the sound it lies.
const EDGE_NEAR: u64 = SAMPLE_RATE as u64 / 2;

/// How far below the score that begins speech a score must fall to end it, as in Silero's reference code: syllables
/// between the two do not chop a word.
const HYSTERESIS: f32 = 0.15;

/// How speech is detected and windows are cut.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeechOptions {
    /// Score, between 0 and 1, that tells speech from the rest, where the two below do not say it in detail.
    pub threshold: f32,
    /// Score from which a frame begins speech; `None` is the threshold.
    pub onset: Option<f32>,
    /// Score below which a frame may end it; `None` is the threshold minus 0.15. Never above the onset.
    pub offset: Option<f32>,
    /// Whether sounds that are steady (noise, hum, tones, chords) are kept out although they score as speech.
    pub gate: bool,
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
            onset: None,
            offset: None,
            gate: true,
            min_speech: Duration::from_millis(96),
            min_silence: Duration::from_millis(160),
            pad: Duration::from_millis(200),
            chunk: Duration::from_secs(30),
        }
    }
}

impl SpeechOptions {
    /// The scores that begin and end speech.
    fn onset_and_offset(&self) -> (f32, f32) {
        let onset = self.onset.unwrap_or(self.threshold).clamp(0.01, 0.99);
        let offset = self.offset.unwrap_or(self.threshold - HYSTERESIS);
        (onset, offset.clamp(0.005, onset))
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

/// Audio that holds speech, the longest silences taken out; what the recogniser sees at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// 16 kHz mono, at most [`MAX_WINDOW`] samples.
    pub samples: Vec<i16>,
    /// The stretches of the file that `samples` consists of, in order; their lengths add up to its length. Never empty.
    pub pieces: Vec<Span>,
    /// Where in the file speech was detected, without padding, in order; never empty, never outside the pieces.
    pub speech: Vec<Span>,
    /// Those of `speech` that may be what a gate left of another sound, see [`Windows::gated`].
    pub edges: Vec<Span>,
}

impl Window {
    /// Position in the file of the first sample.
    pub fn start_sample(&self) -> u64 {
        self.pieces.first().map_or(0, |p| p.start)
    }

    /// Position in the file after the last sample.
    pub fn end_sample(&self) -> u64 {
        self.pieces.last().map_or(0, |p| p.end)
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
    scorer: Scorer,
    gate: Gate,
    detector: Detector,
    timeline: Timeline,
    packer: Packer,
    bytes: Vec<u8>,
    block: Vec<i16>,
    /// Samples read.
    read: u64,
    /// Samples that came through the gate.
    judged: u64,
    ended: bool,
    gated: Vec<Gated>,
}

impl<R: Read> Windows<R> {
    /// Windows of `source`: raw little-endian 16-bit samples, mono, 16 kHz. An odd last byte is ignored.
    pub fn new(source: R, options: &SpeechOptions) -> Self {
        let params = Params::new(options);
        Self {
            source,
            scorer: Scorer::new(),
            gate: Gate::new(options.onset_and_offset().1, options.gate),
            detector: Detector::new(options),
            timeline: Timeline::new(params.pad),
            packer: Packer::new(params),
            bytes: vec![0; 2 * BLOCK],
            block: Vec::with_capacity(BLOCK),
            read: 0,
            judged: 0,
            ended: false,
            gated: Vec::new(),
        }
    }

    /// Samples read so far.
    pub fn position(&self) -> u64 {
        self.read
    }

    /// What sounded like speech to the detector and was kept out so far, in order of time. Stretches that follow each other
    /// within a second for the same reason are one.
    pub fn gated(&self) -> &[Gated] {
        &self.gated
    }

    /// Whether a stretch of speech is so short and so near to a longer gated sound that it may be a part of it.
    fn is_edge(&self, speech: Span) -> bool {
        let near = speech.start.saturating_sub(EDGE_NEAR)..speech.end + EDGE_NEAR;
        speech.len() < EDGE
            && self
                .gated
                .iter()
                .rev()
                .skip_while(|g| g.span.start > near.end)
                .take_while(|g| g.span.end >= near.start)
                .any(|g| g.span.len() >= EDGE)
    }

    fn note_gated(&mut self, span: Span, reason: GateReason) {
        match self.gated.last_mut() {
            Some(last) if last.reason == reason && span.start - last.span.end <= u64::from(SAMPLE_RATE) => {
                last.span.end = span.end;
            }
            _ => self.gated.push(Gated { span, reason }),
        }
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

impl<R: Read> Windows<R> {
    /// Scores the next frame: [`FRAME`] samples, or what is left at the end.
    fn frame(&mut self, from: usize, to: usize) {
        let length = to - from;
        let mut samples = [0; FRAME];
        samples[..length].copy_from_slice(&self.block[from..to]);
        self.read += length as u64;
        let score = self.scorer.score(&samples);
        if let Some(judged) = self.gate.push(samples, length, score) {
            self.take(&judged);
        }
    }

    /// Takes a frame that is judged.
    fn take(&mut self, frame: &Judged) {
        let samples = &frame.samples[..frame.length];
        if let Some(reason) = frame.gated {
            self.note_gated(Span { start: self.judged, end: self.judged + samples.len() as u64 }, reason);
        }
        let decision = self.detector.feed(frame);
        let open = self.detector.open_since();
        let packer = &mut self.packer;
        // A span is only known to have ended some frames later; until then its frames count as speech.
        let speaking = open.is_some() || decision.finished.is_some();
        self.timeline.feed(self.judged, samples, decision.voiced, speaking, |kept, voiced| {
            packer.push_samples(kept);
            packer.push_frame(voiced);
        });
        self.judged += samples.len() as u64;
        if let Some(span) = decision.finished {
            packer.push_span(self.timeline.shorten(span));
        }
        packer.note_open(open.map(|start| self.timeline.shorten(Span { start, end: start }).start));
        if self.timeline.quiet_for(self.judged) == NEW_SCENE / FRAME as u64 * FRAME as u64 {
            packer.flush();
        }
    }

    /// What was cut, in terms of the file.
    fn window(&self, cut: Cut) -> Window {
        let pieces = self.timeline.real(cut.span);
        let speech: Vec<Span> = cut.speech.into_iter().flat_map(|span| self.timeline.real(span)).collect();
        let edges = speech.iter().copied().filter(|&span| self.is_edge(span)).collect();
        Window { samples: cut.samples, pieces, speech, edges }
    }
}

impl<R: Read> Iterator for Windows<R> {
    type Item = io::Result<Window>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(cut) = self.packer.next_window() {
                return Some(Ok(self.window(cut)));
            }
            if self.ended {
                return None;
            }
            if let Err(e) = self.fill() {
                self.ended = true;
                return Some(Err(e));
            }
            self.timeline.forget_before(self.packer.base());
            let length = self.block.len();
            for from in (0..length).step_by(FRAME) {
                self.frame(from, length.min(from + FRAME));
            }
            if length < BLOCK {
                self.ended = true;
                while let Some(judged) = self.gate.pop() {
                    self.take(&judged);
                }
                if let Some(span) = self.detector.finish(self.judged) {
                    self.packer.push_span(self.timeline.shorten(span));
                }
                self.packer.note_open(None);
                self.packer.end();
            }
        }
    }
}

/// Milliseconds to samples.
fn samples_of(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX / 32).saturating_mul(u64::from(SAMPLE_RATE)) / 1_000_000
}

#[cfg(test)]
mod tests;

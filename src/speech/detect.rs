//! From samples to spans of speech: one score a frame, hysteresis, shortest speech and silence.

use std::fmt;

use super::{FRAME, Span, SpeechOptions, samples_of};

/// How far below the threshold of onset a score must fall to end speech, as in Silero's reference code: syllables
/// between the two do not chop a word.
const HYSTERESIS: f32 = 0.15;

/// Frames whose root mean square is below this many steps of 16-bit audio (−80 dBFS) are silence whatever the
/// detector says: its features are logarithmic and normalised, so that it also hears dither and digital silence.
const SILENCE_RMS: f64 = 3.2;

/// What one frame changed.
pub(super) struct Decision {
    /// How much the frame is like speech; used to find the best place for a cut inside long speech.
    pub voiced: f32,
    /// A span that is now known to have ended.
    pub finished: Option<Span>,
}

/// The streaming detector: `earshot`'s network and a small state machine over its scores.
pub(super) struct Detector {
    net: Box<earshot::Detector>,
    onset: f32,
    offset: f32,
    min_speech: u64,
    min_silence: u64,
    /// Samples seen.
    position: u64,
    /// Start of the speech that is going on.
    open: Option<u64>,
    /// Where the pause began that may end it.
    pause: Option<u64>,
}

impl fmt::Debug for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detector")
            .field("position", &self.position)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

impl Detector {
    pub fn new(options: &SpeechOptions) -> Self {
        let onset = options.threshold.clamp(0.01, 0.99);
        Self {
            net: Box::default(),
            onset,
            offset: (onset - HYSTERESIS).max(0.005),
            min_speech: samples_of(options.min_speech),
            min_silence: samples_of(options.min_silence).max(FRAME as u64),
            position: 0,
            open: None,
            pause: None,
        }
    }

    /// Takes the next [`FRAME`] samples.
    pub fn feed(&mut self, frame: &[i16]) -> Decision {
        let score = self.net.predict_i16(frame);
        let energy = frame.iter().map(|&s| f64::from(s) * f64::from(s)).sum::<f64>() / FRAME as f64;
        let score = if energy < SILENCE_RMS * SILENCE_RMS { 0.0 } else { score };
        let start = self.position;
        self.position += FRAME as u64;
        let finished = self.step(score, start);
        // The network's word first, loudness to tell equals apart: −96 dBFS … 0 dBFS becomes 0 … 0.25.
        let loudness = (energy.max(1.0).log10() / 9.03) as f32;
        Decision { voiced: score + 0.25 * loudness, finished }
    }

    fn step(&mut self, score: f32, start: u64) -> Option<Span> {
        if score >= self.onset {
            self.open.get_or_insert(start);
            self.pause = None;
        } else if let Some(open) = self.open
            && score < self.offset
        {
            let pause = *self.pause.get_or_insert(start);
            if self.position - pause >= self.min_silence {
                self.open = None;
                self.pause = None;
                return (pause - open >= self.min_speech).then_some(Span { start: open, end: pause });
            }
        }
        None
    }

    /// Start of the speech that is going on, if any.
    pub fn open_since(&self) -> Option<u64> {
        self.open
    }

    /// The span that was open when the recording ended at sample `end`.
    pub fn finish(&mut self, end: u64) -> Option<Span> {
        let open = self.open.take()?;
        let end = self.pause.take().unwrap_or(end).min(end);
        (end.saturating_sub(open) >= self.min_speech).then_some(Span { start: open, end })
    }
}

//! From samples to spans of speech: one score a frame, gates, hysteresis, shortest speech and silence.

use std::fmt;

use super::{FRAME, Span, SpeechOptions, gate::Judged, samples_of};

/// What one frame changed.
pub(super) struct Decision {
    /// How much the frame is like speech; used to find the best place for a cut inside long speech.
    pub voiced: f32,
    /// A span that is now known to have ended.
    pub finished: Option<Span>,
}

/// `earshot`'s network: one score a frame.
pub(super) struct Scorer(Box<earshot::Detector>);

impl Scorer {
    pub fn new() -> Self {
        Self(Box::default())
    }

    /// How much the next [`FRAME`] samples are like speech, 0 to 1.
    pub fn score(&mut self, frame: &[i16; FRAME]) -> f32 {
        self.0.predict_i16(frame)
    }
}

impl fmt::Debug for Scorer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scorer").finish_non_exhaustive()
    }
}

/// A small state machine over the scores.
#[derive(Debug)]
pub(super) struct Detector {
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

impl Detector {
    pub fn new(options: &SpeechOptions) -> Self {
        let (onset, offset) = options.onset_and_offset();
        Self {
            onset,
            offset,
            min_speech: samples_of(options.min_speech),
            min_silence: samples_of(options.min_silence).max(FRAME as u64),
            position: 0,
            open: None,
            pause: None,
        }
    }

    /// Takes the next frame.
    pub fn feed(&mut self, frame: &Judged) -> Decision {
        let start = self.position;
        self.position += FRAME as u64;
        let finished = self.step(frame.score, start);
        // The network's word first, loudness to tell equals apart: −96 dBFS … 0 dBFS becomes 0 … 0.25.
        let loudness = (frame.energy.max(1.0).log10() / 9.03) as f32;
        Decision { voiced: frame.score + 0.25 * loudness, finished }
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

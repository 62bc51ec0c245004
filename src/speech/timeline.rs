//! Long silences taken out, and the way back to the file's own clock.
//!
//! Recognisers lose what is said after a long silence within their 30 s, and each pass over a window costs the same
//! however little it holds. So a silence longer than twice [`KEEP`] is shortened to that before
//! windows are cut. What is left is a timeline of its own, made of runs that are contiguous in the file.

use std::collections::VecDeque;

use super::{FRAME, Span};
use crate::media::SAMPLE_RATE;

/// Silence kept after speech and before speech; twice this, and what the detector waits before it believes in a silence, is
/// the longest pause in a window: half a second, as between sentences. (Over four hours of made speech the word error rate is
/// the same with 2 s kept, 1 s, and this, within a tenth of a point; 0.4 s and less lose. This takes a sixth fewer windows
/// than 2 s where people pause, and nothing is lost after the pauses of 5 to 14 s that cost half of the words if they are
/// left as they are.)
const KEEP: u64 = SAMPLE_RATE as u64 / 5;

/// A frame held back until it is known whether speech follows.
#[derive(Debug)]
struct Held {
    position: u64,
    samples: [i16; FRAME],
    voiced: f32,
}

/// A run of frames: where it begins on the shortened timeline and in the file.
#[derive(Clone, Copy, Debug)]
struct Run {
    short: u64,
    real: u64,
}

/// Decides which frames stay, and knows where they came from.
#[derive(Debug)]
pub(super) struct Timeline {
    /// Silence kept on each side of speech.
    keep: u64,
    runs: VecDeque<Run>,
    /// The last frames of a silence.
    held: VecDeque<Held>,
    /// Length of the shortened timeline.
    length: u64,
    /// Position in the file after the last frame that stayed.
    reached: u64,
    /// Where the silence began, if anybody has spoken before.
    quiet_since: Option<u64>,
}

impl Timeline {
    /// `pad` is what a window wants to have around its speech: so much silence stays at least.
    pub fn new(pad: u64) -> Self {
        Self {
            keep: pad.max(KEEP),
            runs: VecDeque::new(),
            held: VecDeque::new(),
            length: 0,
            reached: 0,
            quiet_since: None,
        }
    }

    /// Takes the frame at `position` in the file (the last one of a file may be short) and hands on what stays.
    pub fn feed(
        &mut self,
        position: u64,
        samples: &[i16],
        voiced: f32,
        speaking: bool,
        mut keep: impl FnMut(&[i16], f32),
    ) {
        if speaking {
            self.quiet_since = Some(position + samples.len() as u64);
            while let Some(held) = self.held.pop_front() {
                self.stay(held.position, FRAME as u64);
                keep(&held.samples, held.voiced);
            }
        }
        if speaking || self.quiet_for(position) < self.keep {
            self.stay(position, samples.len() as u64);
            keep(samples, voiced);
        } else if let Ok(samples) = samples.try_into() {
            if self.held.len() as u64 * FRAME as u64 >= self.keep {
                self.held.pop_front();
            }
            self.held.push_back(Held { position, samples, voiced });
        }
    }

    /// For how long nobody has spoken at `position`; since for ever, if nobody has yet.
    pub fn quiet_for(&self, position: u64) -> u64 {
        self.quiet_since.map_or(u64::MAX, |since| position.saturating_sub(since))
    }

    fn stay(&mut self, position: u64, samples: u64) {
        if self.runs.is_empty() || position != self.reached {
            self.runs.push_back(Run { short: self.length, real: position });
        }
        self.length += samples;
        self.reached = position + samples;
    }

    /// Forgets runs that end before `short`.
    pub fn forget_before(&mut self, short: u64) {
        while self.runs.get(1).is_some_and(|next| next.short <= short) {
            self.runs.pop_front();
        }
    }

    /// A stretch of the file that stayed, on the shortened timeline. What is forgotten of it is left out.
    pub fn shorten(&self, span: Span) -> Span {
        let start = self.short(span.start);
        Span { start, end: if span.is_empty() { start } else { self.short(span.end - 1) + 1 } }
    }

    fn short(&self, real: u64) -> u64 {
        let run = self.runs.iter().rev().find(|run| run.real <= real).or(self.runs.front());
        run.map_or(real, |run| run.short + real.saturating_sub(run.real))
    }

    /// The stretches of the file that `span` of the shortened timeline is made of, in order.
    pub fn real(&self, span: Span) -> Vec<Span> {
        let mut pieces = Vec::new();
        for (i, run) in self.runs.iter().enumerate() {
            let run_end = self.runs.get(i + 1).map_or(self.length, |next| next.short);
            let (start, end) = (span.start.max(run.short), span.end.min(run_end));
            if start < end {
                pieces
                    .push(Span { start: run.real + (start - run.short), end: run.real + (end - run.short) });
            }
        }
        pieces
    }
}

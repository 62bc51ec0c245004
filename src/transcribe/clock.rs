//! From times within a window to times in its file.

use crate::media::SAMPLE_RATE;
use crate::speech::{Span, Window};

/// Where a window's samples come from, without the samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    /// Stretches of the file that the window consists of; see [`Window::pieces`].
    pub pieces: Vec<Span>,
    /// Where speech was detected.
    pub speech: Vec<Span>,
    /// The parts of it that may be no speech; see [`Window::edges`].
    pub edges: Vec<Span>,
}

impl Clock {
    pub fn new(window: &Window) -> Self {
        Self { pieces: window.pieces.clone(), speech: window.speech.clone(), edges: window.edges.clone() }
    }

    /// Samples of speech.
    pub fn speech_samples(&self) -> u64 {
        self.speech.iter().map(Span::len).sum()
    }

    /// Milliseconds of speech between two moments of the file, milliseconds too.
    pub fn speech_between(&self, start_ms: i64, end_ms: i64) -> i64 {
        between(&self.speech, start_ms, end_ms)
    }

    /// Whether what speech there is between two moments may be none.
    pub fn only_edges_between(&self, start_ms: i64, end_ms: i64) -> bool {
        let speech = self.speech_between(start_ms, end_ms);
        speech > 0 && speech == between(&self.edges, start_ms, end_ms)
    }

    /// Milliseconds in the file at which the window's speech ends.
    pub fn speech_end(&self) -> i64 {
        millis(self.speech.last().or(self.pieces.last()).map_or(0, |s| s.end)) as i64
    }

    /// Milliseconds in the file at which text begins that begins `ms` into the window.
    ///
    /// A start that is a little early and so falls into the silence before a join would be off by all the silence
    /// that was taken out; it belongs to the speech after the join.
    pub fn start(&self, ms: u32) -> i64 {
        let Some((i, position)) = self.locate(ms, false) else { return self.end_of_last() };
        let piece = self.pieces[i];
        let spoken_later = self.speech.iter().any(|s| s.end > position && s.start < piece.end);
        let position = match self.pieces.get(i + 1) {
            Some(next) if !spoken_later => {
                self.speech.iter().map(|s| s.start).find(|&start| start >= next.start).unwrap_or(next.start)
            }
            _ => position,
        };
        millis(position) as i64
    }

    /// Milliseconds in the file at which text ends that ends `ms` into the window; a little late is too early here.
    pub fn end(&self, ms: u32) -> i64 {
        let Some((i, position)) = self.locate(ms, true) else { return self.end_of_last() };
        let piece = self.pieces[i];
        let spoken_before = self.speech.iter().any(|s| s.start < position && s.end > piece.start);
        let position = match i.checked_sub(1).map(|before| self.pieces[before]) {
            Some(before) if !spoken_before => {
                self.speech.iter().rev().map(|s| s.end).find(|&end| end <= before.end).unwrap_or(before.end)
            }
            _ => position,
        };
        millis(position) as i64
    }

    /// The piece and the position in the file of `ms` into the window. A moment between two pieces belongs to the
    /// earlier one where `end`. `None` after the last.
    fn locate(&self, ms: u32, end: bool) -> Option<(usize, u64)> {
        let mut left = u64::from(ms) * u64::from(SAMPLE_RATE) / 1000;
        for (i, piece) in self.pieces.iter().enumerate() {
            if left < piece.len() || (end && left == piece.len()) {
                return Some((i, piece.start + left));
            }
            left -= piece.len();
        }
        None
    }

    fn end_of_last(&self) -> i64 {
        millis(self.pieces.last().map_or(0, |p| p.end)) as i64
    }
}

fn between(spans: &[Span], start_ms: i64, end_ms: i64) -> i64 {
    let overlap = |s: &Span| (millis(s.end) as i64).min(end_ms) - (millis(s.start) as i64).max(start_ms);
    spans.iter().map(|s| overlap(s).max(0)).sum()
}

/// Samples in milliseconds.
pub(super) fn millis(samples: u64) -> u64 {
    samples * 1000 / u64::from(SAMPLE_RATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(seconds: &[(f64, f64)]) -> Vec<Span> {
        let at = |s: f64| (s * f64::from(SAMPLE_RATE)) as u64;
        seconds.iter().map(|&(a, b)| Span { start: at(a), end: at(b) }).collect()
    }

    /// 5 s from 10 s on, speech till 14.5; 8 s from 100 s on, speech from 100.5.
    fn joined() -> Clock {
        Clock {
            pieces: spans(&[(10.0, 15.0), (100.0, 108.0)]),
            speech: spans(&[(10.2, 12.0), (12.5, 14.5), (100.5, 107.0)]),
            edges: spans(&[(10.2, 12.0)]),
        }
    }

    #[test]
    fn times_find_their_piece() {
        let clock = joined();
        assert_eq!((clock.start(0), clock.start(2_600), clock.start(6_000)), (10_000, 12_600, 101_000));
        assert_eq!((clock.end(4_400), clock.end(9_000)), (14_400, 104_000));
        assert_eq!((clock.speech_end(), millis(clock.speech_samples())), (107_000, 10_300));
    }

    #[test]
    fn a_start_in_the_silence_before_a_join_belongs_to_what_follows() {
        let clock = joined();
        assert_eq!((clock.start(4_700), clock.start(5_000)), (100_500, 100_000));
        // An end there is one.
        assert_eq!((clock.end(4_700), clock.end(5_000)), (14_700, 15_000));
    }

    #[test]
    fn an_end_in_the_silence_after_a_join_belongs_to_what_was_before() {
        let clock = joined();
        assert_eq!((clock.end(5_300), clock.end(5_600)), (14_500, 100_600));
        assert_eq!(clock.start(5_300), 100_300);
    }

    #[test]
    fn times_after_the_end_are_the_end() {
        let clock = joined();
        assert_eq!((clock.start(29_000), clock.end(29_000), clock.end(13_000)), (108_000, 108_000, 108_000));
    }
}

//! Where in its segment each word lies: the cheapest way to cut the segment's sound into as many stretches as there are
//! words, found by dynamic programming.
//!
//! Pauses are taken out first, so that a word is as long as it is said and a boundary on either side of a pause is the same
//! one; a word that goes on over a pause pays for it. Costs are squares of deviations by their usual size, as if these were
//! normally distributed; those of attention grow ever slower (Student's distribution), because now and then it is far off.

use std::ops::Range;

use super::Loudness;

/// Usual deviation of attention from a word's start, in frames of 20 ms. (Measured on made speech: median 2 to 3 frames, one in
/// ten over 12.)
const ATTENTION: f32 = 5.0;

/// A deviation of attention costs `STRAY ln(1 + d²/STRAY)`: its square where it is small, hardly more where it is large.
const STRAY: f32 = 3.0;

/// Usual deviation of a word's length from the one expected: a share of it, and so many frames.
const LENGTH_SHARE: f32 = 0.45;
const LENGTH_FRAMES: f32 = 3.0;

/// A quiet stretch of so many frames inside a segment is a pause; shorter ones are stops and hisses within words.
const PAUSE: u32 = 6;

/// Quiet at the ends of a segment is not its words' from so many frames on.
const EDGE: u32 = 2;

/// What a word pays for each ten frames of pause that it goes on over, up to twice that.
const OVER_PAUSE: f32 = 6.0;

/// What a boundary after a comma or full stop pays where there is no pause.
const NO_PAUSE: f32 = 1.0;

/// A word is at most so many times as long as expected, and so many frames.
const LONGEST_SHARE: f32 = 4.0;
const LONGEST_FRAMES: f32 = 25.0;

/// What is known of a word beforehand.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Its length beside that of the others; over 0.
    pub weight: f32,
    /// The frame at which attention comes to it.
    pub frame: u32,
    /// Speakers pause after it.
    pub clause: bool,
}

/// The sound of a segment without its pauses.
struct Speech {
    /// The frames that are left.
    kept: Vec<u32>,
    /// Frames of pause before each of these, and after the last.
    pause: Vec<u32>,
}

impl Speech {
    fn new(frames: Range<u32>, words: usize, loudness: &Loudness) -> Self {
        let mut speech = Self { kept: Vec::with_capacity(frames.len()), pause: vec![0] };
        let mut at = frames.start;
        while at < frames.end {
            let quiet = (at..frames.end).take_while(|&f| loudness.is_quiet(f)).count() as u32;
            let edge = at == frames.start || at + quiet == frames.end;
            let is_pause = quiet >= if edge { EDGE } else { PAUSE };
            if is_pause {
                *speech.pause.last_mut().unwrap_or(&mut 0) += quiet;
            } else {
                for f in at..at + quiet {
                    speech.push(f);
                }
            }
            at += quiet;
            if at < frames.end {
                speech.push(at);
                at += 1;
            }
        }
        if speech.kept.len() < words {
            // Hardly anything is left; better not to believe in pauses.
            let kept: Vec<u32> = frames.collect();
            speech = Self { pause: vec![0; kept.len() + 1], kept };
        }
        speech
    }

    fn push(&mut self, frame: u32) {
        self.kept.push(frame);
        self.pause.push(0);
    }

    fn len(&self) -> usize {
        self.kept.len()
    }

    /// How many of the frames that are left lie before `frame`.
    fn position(&self, frame: u32) -> usize {
        self.kept.partition_point(|&f| f < frame)
    }
}

/// First frame and frame after the last of each of `words`, in order and within `frames`.
pub fn place(words: &[Expected], frames: Range<u32>, loudness: &Loudness) -> Vec<(u32, u32)> {
    if frames.is_empty() {
        return vec![(frames.start, frames.start); words.len()];
    }
    let speech = Speech::new(frames.clone(), words.len(), loudness);
    let bounds = bounds(words, &speech);
    bounds
        .windows(2)
        .map(|pair| {
            let (from, to) = (pair[0], pair[1]);
            let at = |i: usize| speech.kept.get(i).copied();
            let start = at(from).unwrap_or(frames.end);
            let end = if to > from { at(to - 1).map_or(start, |f| f + 1) } else { start };
            (start, end)
        })
        .collect()
}

/// The cheapest boundaries: one more than there are words, the first 0 and the last the length of `speech`.
fn bounds(words: &[Expected], speech: &Speech) -> Vec<usize> {
    let length = speech.len();
    let total: f32 = words.iter().map(|w| w.weight).sum();
    // What a word pays that goes on over all pauses before a position.
    let mut over = Vec::with_capacity(length + 2);
    let mut sum = 0.0;
    over.push(0.0);
    for &pause in &speech.pause {
        sum += OVER_PAUSE * (pause as f32 / 10.0).min(2.0);
        over.push(sum);
    }
    let mut cost = vec![f32::INFINITY; length + 1];
    cost[0] = 0.0;
    let mut best: Vec<Vec<usize>> = Vec::with_capacity(words.len());
    for (i, word) in words.iter().enumerate() {
        let expected = word.weight * length as f32 / total;
        let usual = LENGTH_SHARE * expected + LENGTH_FRAMES;
        let longest = (LONGEST_SHARE * expected + LONGEST_FRAMES) as usize;
        let next = words.get(i + 1).map(|w| speech.position(w.frame) as f32);
        let mut reached = vec![f32::INFINITY; length + 1];
        let mut from = vec![0; length + 1];
        for end in if next.is_some() { 0..length + 1 } else { length..length + 1 } {
            let boundary = next.map_or(0.0, |aligned| {
                let off = (end as f32 - aligned) / ATTENTION;
                STRAY * (off * off / STRAY).ln_1p()
                    + if word.clause && speech.pause[end] == 0 { NO_PAUSE } else { 0.0 }
            });
            for start in end.saturating_sub(longest)..=end {
                let off = ((end - start) as f32 - expected) / usual;
                // Pauses at its ends are not within it.
                let within = if end > start { over[end] - over[start + 1] } else { 0.0 };
                let cost = cost[start] + off * off + within + boundary;
                if cost < reached[end] {
                    (reached[end], from[end]) = (cost, start);
                }
            }
        }
        best.push(from);
        cost = reached;
    }
    let mut bounds = vec![length; words.len() + 1];
    for (i, from) in best.iter().enumerate().rev() {
        bounds[i] = from[bounds[i + 1]];
    }
    bounds
}

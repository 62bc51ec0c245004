//! What the detector takes for speech and is not: sounds too faint, and sounds too steady.
//!
//! The detector's features follow the shape of a spectrum, not what becomes of it, so it also hears speech in hum,
//! tones, held chords and even noise. [`Gate`] holds frames back for three seconds and looks at what is before and
//! after each one that the detector believes in. The judgement is about the surroundings of a frame, one second or three
//! to either side, never about the frame itself: a vowel is as steady as a tone, but not for that long. At the edges of
//! such a sound, up to a second of it may remain.

use std::collections::VecDeque;

use super::spectrum::{BANDS, Figures, Spectrum};
use super::{FRAME, Span};

/// Frames with a root mean square below this many steps of 16-bit audio (−80 dBFS) are silence whatever the
/// detector says: its features are logarithmic and normalised, so that it also hears dither and digital silence.
const SILENCE_RMS: f64 = 3.2;

/// So much fainter (in power) than the loudest of the last minutes is no part of the same recording: 60 dB.
const FAINT: f64 = 1e-6;

/// The loudest is forgotten by half (3 dB) in six seconds.
const FORGET: f64 = 0.998_15;

/// Frames before and after a frame that decide about it (1 s), and those that decide where these do not (3 s).
const NEAR: usize = 64;
const FAR: usize = 192;

/// Surroundings of fewer frames than this decide nothing: half a second.
const LEAST: usize = 32;

/// Frames of sound that no syllable lasts, however it is drawn out (0.7 s).
const LONG: usize = 44;

/// Frames to either side in which words would show, about two syllables (0.4 s), and the fewest that show anything.
const HERE: usize = 24;
const FEW: usize = 8;

/// Mean deviation of the bands' loudness, in dB, below which a sound is stationary. (White, pink and brown noise 1.4
/// to 1.7, hum under 0.5; 99.9 % of speech over noise 10 dB below it at least 3.7, over hum as loud as itself 2.8.)
const STATIONARY_DB: f32 = 2.3;

/// The same of their loudness against each other, which also sees through wind and motors that wax and wane. (Noise
/// 1.4 to 1.7; 99.9 % of speech over any of these at least 3.1.)
const SHAPE_DB: f32 = 2.3;

/// Of few frames both are less certain by this.
const HERE_DB: f32 = 0.4;

/// Bands this much below the loudest do not count.
const BAND_RANGE_DB: f32 = 40.0;

/// Cosine between spectra 64 ms apart, over what is fresh and loud, from which the partials of a sound stand still. (Speech,
/// clean or over noise, hum or music 10 dB below it: 99.9 % of moments are below 0.78 within a second to each side;
/// struck chords and melodies 0.75 to 0.95.)
const FROZEN_NEAR: f32 = 0.75;
const FROZEN_FAR: f32 = 0.70;
const FROZEN_HERE: f32 = 0.62;

/// The same for short sounds between silences, such as beeps, of which there is less to judge by.
const FROZEN_SHORT: f32 = 0.93;

/// Pauses do not count: what is fainter than the loudest by this factor of power (26 dB) is between words and notes.
const QUIET: f32 = 400.0;

/// Share of the loud frames that must be a single partial, or two, for a sound to be a tone, however it glides.
const TONAL: f32 = 0.85;

/// Why frames that sounded like speech to the detector are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GateReason {
    /// Below −80 dBFS, or 60 dB below the loudest of the last minutes.
    Faint,
    /// The same all the time: noise, hum, a held tone.
    Stationary,
    /// One or two partials and nothing else: a tone, a sweep, a signal.
    Tonal,
    /// Partials that stand still while they sound: chords, strings, organs.
    Frozen,
}

impl GateReason {
    /// A name for logs and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Faint => "faint",
            Self::Stationary => "stationary",
            Self::Tonal => "tonal",
            Self::Frozen => "frozen",
        }
    }
}

/// A stretch that the detector took for speech and a gate did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gated {
    /// Where in the file.
    pub span: Span,
    /// Why.
    pub reason: GateReason,
}

/// A frame with its score, judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judged {
    pub samples: [i16; FRAME],
    /// How many of them are the recording's; fewer than all only at its end.
    pub length: usize,
    /// The detector's score, or 0 where a gate says no.
    pub score: f32,
    /// Mean square of the samples.
    pub energy: f64,
    /// Why the score is 0.
    pub gated: Option<GateReason>,
}

/// Holds frames back until their surroundings are known.
#[derive(Debug)]
pub(super) struct Gate {
    /// None where steady sounds are let through.
    spectrum: Option<Spectrum>,
    /// Scores below this are not speech anyway.
    offset: f32,
    /// The loudest mean square, fading.
    loudest: f64,
    /// Figures of the frames around the ones held, oldest first, and whether the detector believes in each.
    figures: VecDeque<(Figures, bool)>,
    /// Frames that wait.
    held: VecDeque<Judged>,
    /// Index in `figures` of the first frame held.
    next: usize,
}

impl Gate {
    pub fn new(offset: f32, steady: bool) -> Self {
        Self {
            spectrum: steady.then(Spectrum::new),
            offset,
            loudest: 0.0,
            figures: VecDeque::with_capacity(2 * FAR + 1),
            held: VecDeque::with_capacity(FAR + 1),
            next: 0,
        }
    }

    /// Takes the next frame (padded with zeros behind `length` samples), and gives the one that is decided by it.
    pub fn push(&mut self, samples: [i16; FRAME], length: usize, score: f32) -> Option<Judged> {
        let energy = samples.iter().map(|&s| f64::from(s) * f64::from(s)).sum::<f64>() / FRAME as f64;
        self.loudest = (self.loudest * FORGET).max(energy);
        let faint = energy < SILENCE_RMS * SILENCE_RMS || energy < self.loudest * FAINT;
        let gated = (faint && score >= self.offset).then_some(GateReason::Faint);
        self.held.push_back(Judged {
            samples,
            length,
            score: if faint { 0.0 } else { score },
            energy,
            gated,
        });
        let Some(spectrum) = &mut self.spectrum else { return self.held.pop_front() };
        self.figures.push_back((spectrum.feed(&samples), !faint && score >= self.offset));
        if self.held.len() > FAR { self.pop() } else { None }
    }

    /// The oldest frame that waits, judged by what is known; for the end of the recording.
    pub fn pop(&mut self) -> Option<Judged> {
        let mut frame = self.held.pop_front()?;
        let at = self.next;
        if frame.score >= self.offset
            && let Some(reason) = self.judge(at)
        {
            frame.score = 0.0;
            frame.gated = Some(reason);
        }
        if at >= FAR {
            self.figures.pop_front();
        } else {
            self.next += 1;
        }
        Some(frame)
    }

    /// Whether the surroundings of the frame whose figures are at `at` are no speech.
    fn judge(&self, at: usize) -> Option<GateReason> {
        let length = self.figures.len();
        let within = |from: usize, to: usize| Surroundings::of(self.figures.range(from..to.min(length)));
        let near = within(at.saturating_sub(NEAR), at + NEAR);
        let reason = if near.frames < LEAST {
            return None;
        } else if near.louds >= LONG && near.is_stationary(STATIONARY_DB, SHAPE_DB) {
            GateReason::Stationary
        } else if near.is_tonal() {
            GateReason::Tonal
        } else if near.pairs.is_frozen(FROZEN_NEAR)
            || Pairs::of(self.figures.range(at.saturating_sub(FAR)..(at + FAR).min(length)))
                .is_frozen(FROZEN_FAR)
        {
            GateReason::Frozen
        } else {
            return None;
        };
        // A few words in the midst of it are not outvoted: right here, before and after, all must stand still.
        let here =
            [(at.saturating_sub(HERE), at + HERE), (at.saturating_sub(2 * HERE), at), (at, at + 2 * HERE)];
        here.into_iter()
            .map(|(from, to)| within(from, to))
            .all(|here| here.louds < FEW || here.agrees(reason))
            .then_some(reason)
    }
}

/// How much the partials in some frames stand still.
struct Pairs {
    /// Frames that the detector believes in.
    believed: usize,
    /// Those that are loud as well as the ones they are compared with, and the mean cosine of their fresh parts.
    count: usize,
    same_fresh: f32,
}

impl Pairs {
    fn of<'a>(figures: impl Iterator<Item = &'a (Figures, bool)> + Clone) -> Self {
        let loud = figures.clone().fold(0.0f32, |freshest, (f, _)| freshest.max(f.fresh)) / QUIET;
        let mut before = [false; 4];
        let (mut believed, mut count, mut same_fresh) = (0, 0, 0.0);
        for (i, (f, is_believed)) in figures.enumerate() {
            believed += usize::from(*is_believed);
            let counts = *is_believed && f.fresh > loud;
            if std::mem::replace(&mut before[i % 4], counts) && counts {
                count += 1;
                same_fresh += f.same_fresh;
            }
        }
        Self { believed, count, same_fresh: same_fresh / count.max(1) as f32 }
    }

    fn is_frozen(&self, limit: f32) -> bool {
        let most = |share: usize| 10 * self.count >= share * self.believed;
        (self.count >= LEAST && most(5) && self.same_fresh > limit)
            || (self.count >= FEW && most(7) && self.same_fresh > FROZEN_SHORT)
    }
}

/// What the frames around one have in common.
struct Surroundings {
    frames: usize,
    /// Those that are no pause. All figures but the two counts below are about them.
    louds: usize,
    /// Mean deviation of the bands that matter, dB.
    deviation: f32,
    /// The same of their loudness against each other: what is left when all wax and wane together.
    shape: f32,
    /// Share of the energy that is fresh.
    fresh: f32,
    /// Mean cosine of whole spectra.
    same: f32,
    /// What stands still.
    pairs: Pairs,
    /// Share of loud frames with one partial, with two.
    one_partial: f32,
    two_partials: f32,
}

impl Surroundings {
    fn of<'a>(figures: impl ExactSizeIterator<Item = &'a (Figures, bool)> + Clone) -> Self {
        let frames = figures.len();
        let pairs = Pairs::of(figures.clone());
        let loud = figures.clone().fold(0.0f32, |loudest, (f, _)| loudest.max(f.energy)) / QUIET;
        let (mut energy, mut fresh, mut same) = (0.0, 0.0, 0.0);
        let (mut sums, mut squares, mut shapes) = ([0.0f32; BANDS], [0.0f32; BANDS], [0.0f32; BANDS]);
        let (mut louds, mut one, mut two) = (0usize, 0usize, 0usize);
        for (f, _) in figures {
            if f.energy <= loud {
                continue;
            }
            louds += 1;
            energy += f.energy;
            fresh += f.fresh;
            same += f.same;
            one += usize::from(f.one_partial > 0.9);
            two += usize::from(f.two_partials > 0.95);
            let level = f.level();
            for i in 0..BANDS {
                sums[i] += f.bands[i];
                squares[i] += f.bands[i] * f.bands[i];
                shapes[i] += (f.bands[i] - level) * (f.bands[i] - level);
            }
        }
        let n = louds.max(1) as f32;
        let top = sums.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b / n));
        let level = sums.iter().sum::<f32>() / (n * BANDS as f32);
        let (mut weights, mut deviation, mut shape) = (0.0, 0.0, 0.0);
        for i in 0..BANDS {
            let mean = sums[i] / n;
            let weight = (mean - top + BAND_RANGE_DB).max(0.0);
            weights += weight;
            deviation += weight * (squares[i] / n - mean * mean).max(0.0).sqrt();
            shape += weight * (shapes[i] / n - (mean - level) * (mean - level)).max(0.0).sqrt();
        }
        let weights = f32::max(weights, f32::MIN_POSITIVE);
        Self {
            frames,
            louds,
            deviation: deviation / weights,
            shape: shape / weights,
            fresh: fresh / f32::max(energy, f32::MIN_POSITIVE),
            same: same / n,
            pairs,
            one_partial: one as f32 / n,
            two_partials: two as f32 / n,
        }
    }

    /// The bands keep their loudness, or what they have of it against each other, or there is nothing new in them.
    fn is_stationary(&self, deviation: f32, shape: f32) -> bool {
        self.deviation < deviation || self.shape < shape || (self.fresh < 0.1 && self.same > 0.9)
    }

    fn is_tonal(&self) -> bool {
        self.one_partial > TONAL || self.two_partials > TONAL
    }

    /// Whether these few frames fit what the wider surroundings are taken for.
    fn agrees(&self, reason: GateReason) -> bool {
        let frozen = self.pairs.count >= FEW && self.pairs.same_fresh > FROZEN_NEAR;
        match reason {
            GateReason::Stationary => {
                self.is_stationary(STATIONARY_DB + HERE_DB, SHAPE_DB + HERE_DB) || frozen
            }
            GateReason::Tonal => self.is_tonal() || frozen,
            // Too few to tell: a note between rests.
            GateReason::Frozen => self.pairs.count < FEW || self.pairs.same_fresh > FROZEN_HERE,
            GateReason::Faint => true,
        }
    }
}

#[cfg(test)]
mod tests;

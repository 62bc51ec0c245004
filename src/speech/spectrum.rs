//! What a frame sounds like, in the few figures that tell speech from steadier sounds.
//!
//! Speech changes its fine spectrum all the time: pitch glides, formants move, consonants break in. A string that
//! rings, a held chord or a hum may come and go in loudness as syllables do, but while it sounds its partials stay where they
//! are. So each frame's spectrum is compared with the one 64 ms before: the cosine between the two is about 0.45 for
//! speech, 0.78 for any noise (two independent Rayleigh-distributed spectra: π/4), and above 0.85 for chords.
//!
//! A steady background would make speech look steady too. What has been there for a second (the least of every bin) is
//! therefore taken off first.

use std::collections::VecDeque;
use std::f32::consts::PI;
use std::fmt;
use std::sync::Arc;

use realfft::{RealFftPlanner, RealToComplex, num_complex::Complex};

use super::FRAME;

/// Samples in a spectrum (64 ms): fine enough to tell the partials of a low voice apart.
const SIZE: usize = 1024;

/// Bins looked at: 94 Hz to 5 kHz.
const FROM: usize = 6;
const TO: usize = 320;
const BINS: usize = TO - FROM;

/// Frames between two spectra that share no samples.
const APART: usize = SIZE / FRAME;

/// Edges of the bands in bins: 100 Hz to 5 kHz, widening like a mel scale.
const EDGES: [usize; 14] = [6, 13, 19, 26, 33, 42, 54, 68, 85, 107, 134, 170, 214, 269];

/// Bands whose loudness is followed.
pub(super) const BANDS: usize = EDGES.len();

/// Below this level (dB below full scale) a band is silent, so that dither does not count as modulation.
const BAND_FLOOR: f32 = -85.0;

/// How far above the least of the last second a bin must be to be something new.
const ABOVE_FLOOR: f32 = 1.5;

/// Frames in which the least is sought.
const FLOOR_BLOCK: usize = 8;
const FLOOR_BLOCKS: usize = 8;

/// The figures of one frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figures {
    /// Loudness of each band, dB below full scale.
    pub bands: [f32; BANDS],
    /// Energy, treble raised.
    pub energy: f32,
    /// Energy of what was not there in all of the last second.
    pub fresh: f32,
    /// Cosine of this spectrum and the one 64 ms before, 0 to 1.
    pub same: f32,
    /// The same of what is fresh.
    pub same_fresh: f32,
    /// Share of the energy in the strongest partial.
    pub one_partial: f32,
    /// Share in the two strongest.
    pub two_partials: f32,
}

impl Figures {
    /// Mean loudness of the bands, dB below full scale.
    pub fn level(&self) -> f32 {
        self.bands.iter().sum::<f32>() / BANDS as f32
    }
}

/// Magnitudes of the bins looked at.
type Bins = Box<[f32; BINS]>;

/// Computes [`Figures`] frame by frame.
pub(super) struct Spectrum {
    fft: Arc<dyn RealToComplex<f32>>,
    window: Vec<f32>,
    weights: Bins,
    /// The last [`SIZE`] samples.
    samples: Vec<f32>,
    input: Vec<f32>,
    output: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
    /// Power of each bin, unweighted.
    power: Bins,
    /// The last spectra, oldest first, with their norms; fresh parts likewise.
    spectra: VecDeque<(Bins, f32)>,
    fresh: VecDeque<(Bins, f32)>,
    /// Sum of the last spectra.
    smooth: Bins,
    /// Least of the block that is being filled, and of those before.
    least: Bins,
    in_block: usize,
    blocks: VecDeque<Bins>,
    /// Least of all blocks.
    floor: Bins,
}

impl fmt::Debug for Spectrum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spectrum").finish_non_exhaustive()
    }
}

fn bins(value: f32) -> Bins {
    Box::new([value; BINS])
}

impl Spectrum {
    pub fn new() -> Self {
        let fft = RealFftPlanner::new().plan_fft_forward(SIZE);
        let mut weights = bins(0.0);
        for (i, w) in weights.iter_mut().enumerate() {
            // Treble is raised by 6 dB an octave up to 2 kHz, as pre-emphasis does: vowels alone do not decide.
            *w = ((FROM + i) as f32 * 16_000.0 / SIZE as f32 / 1000.0).min(2.0);
        }
        Self {
            window: (0..SIZE).map(|i| 0.5 - 0.5 * (2.0 * PI * i as f32 / SIZE as f32).cos()).collect(),
            input: vec![0.0; SIZE],
            output: fft.make_output_vec(),
            scratch: fft.make_scratch_vec(),
            fft,
            weights,
            power: bins(0.0),
            samples: vec![0.0; SIZE],
            spectra: (0..APART).map(|_| (bins(0.0), 0.0)).collect(),
            fresh: (0..APART).map(|_| (bins(0.0), 0.0)).collect(),
            smooth: bins(0.0),
            least: bins(f32::INFINITY),
            in_block: 0,
            blocks: VecDeque::with_capacity(FLOOR_BLOCKS),
            floor: bins(f32::INFINITY),
        }
    }

    /// Takes the next [`FRAME`] samples. The figures are those of the 64 ms that end with them.
    pub fn feed(&mut self, frame: &[i16]) -> Figures {
        self.samples.copy_within(FRAME.., 0);
        for (sample, &s) in self.samples[SIZE - FRAME..].iter_mut().zip(frame) {
            *sample = f32::from(s);
        }
        for ((x, s), w) in self.input.iter_mut().zip(&self.samples).zip(&self.window) {
            *x = s * w;
        }
        // Lengths are those that the plan asks for, so this cannot fail; a spectrum of nothing would be harmless.
        if self.fft.process_with_scratch(&mut self.input, &mut self.output, &mut self.scratch).is_err() {
            self.output.fill(Complex::default());
        }
        for (power, x) in self.power.iter_mut().zip(&self.output[FROM..TO]) {
            *power = x.norm_sqr();
        }
        let bands = self.bands();

        let (mut now, old_norm) = self.spectra.pop_front().unwrap_or_else(|| (bins(0.0), 0.0));
        for (s, old) in self.smooth.iter_mut().zip(now.iter()) {
            *s = (*s - old).max(0.0);
        }
        // `old` above is the oldest spectrum, which is what this one is compared with as well.
        let magnitudes: [f32; BINS] = std::array::from_fn(|i| self.power[i].sqrt() * self.weights[i]);
        let product = dot(&magnitudes, &now[..]);
        let energy = dot(&magnitudes, &magnitudes);
        *now = magnitudes;
        let same = cosine(product, old_norm, energy);

        for ((s, x), l) in self.smooth.iter_mut().zip(now.iter()).zip(self.least.iter_mut()) {
            *s += x;
            *l = l.min(*s);
        }
        let (mut fresh, fresh_norm) = self.fresh.pop_front().unwrap_or_else(|| (bins(0.0), 0.0));
        let news: [f32; BINS] = std::array::from_fn(|i| {
            let floor = self.floor[i].min(self.least[i]) * (ABOVE_FLOOR / APART as f32);
            (now[i] - floor).max(0.0)
        });
        let fresh_product = dot(&news, &fresh[..]);
        let fresh_energy = dot(&news, &news);
        *fresh = news;
        let same_fresh = cosine(fresh_product, fresh_norm, fresh_energy);
        let (one, two) = partials(&now);
        self.fresh.push_back((fresh, fresh_energy));
        self.spectra.push_back((now, energy));
        self.turn_block();
        Figures {
            bands,
            energy,
            fresh: fresh_energy,
            same,
            same_fresh,
            one_partial: one / energy.max(f32::MIN_POSITIVE),
            two_partials: two / energy.max(f32::MIN_POSITIVE),
        }
    }

    fn bands(&self) -> [f32; BANDS] {
        // A full-scale sine has this much power in its bins: (32768 · SIZE / 4)² times the window's spread of 1.5.
        const FULL: f32 = 32_768.0 * 32_768.0 * (SIZE * SIZE) as f32 / 16.0 * 1.5;
        std::array::from_fn(|i| {
            let to = EDGES.get(i + 1).copied().unwrap_or(TO);
            let power: f32 = self.power[EDGES[i] - FROM..to - FROM].iter().sum();
            (10.0 * (power / FULL).max(1e-12).log10()).max(BAND_FLOOR)
        })
    }

    fn turn_block(&mut self) {
        self.in_block += 1;
        if self.in_block < FLOOR_BLOCK {
            return;
        }
        self.in_block = 0;
        let empty = if self.blocks.len() == FLOOR_BLOCKS { self.blocks.pop_front() } else { None };
        let mut next = empty.unwrap_or_else(|| bins(0.0));
        next.fill(f32::INFINITY);
        self.blocks.push_back(std::mem::replace(&mut self.least, next));
        self.floor.fill(f32::INFINITY);
        for block in &self.blocks {
            for (floor, least) in self.floor.iter_mut().zip(block.iter()) {
                *floor = floor.min(*least);
            }
        }
    }
}

/// Values that are summed, or compared, side by side: floating point in one strand keeps its order, and a processor waiting.
const STRANDS: usize = 8;

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; STRANDS];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<STRANDS>(), b.as_chunks::<STRANDS>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// The greatest of values that are not negative.
fn greatest(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = values.as_chunks::<STRANDS>();
    let mut best = [0.0f32; STRANDS];
    for chunk in chunks {
        for (best, &x) in best.iter_mut().zip(chunk) {
            *best = larger(*best, x);
        }
    }
    best.iter().chain(rest).copied().fold(0.0, larger)
}

/// Of two spectra with this scalar product and these squared norms.
fn cosine(product: f32, a: f32, b: f32) -> f32 {
    let norms = (a * b).sqrt();
    if norms > 0.0 { (product / norms).min(1.0) } else { 0.0 }
}

/// How far a partial that glides may spread, in bins (±375 Hz: 12 kHz a second).
const GLIDE: usize = 24;

/// Energy in the strongest partial, and in the two strongest. A partial reaches to where its magnitude has fallen to a
/// twentieth.
fn partials(magnitudes: &[f32; BINS]) -> (f32, f32) {
    let strongest = |without: &std::ops::Range<usize>| {
        let peak = greatest(&magnitudes[..without.start]).max(greatest(&magnitudes[without.end..]));
        let at = (0..BINS).find(|i| magnitudes[*i] == peak && !without.contains(i)).unwrap_or(0);
        let low = |i: &usize| magnitudes[*i] < peak / 20.0 || without.contains(i);
        let from = (at.saturating_sub(GLIDE)..at).rev().find(low).map_or(at.saturating_sub(GLIDE), |i| i + 1);
        let to = (at + 1..(at + GLIDE + 1).min(BINS)).find(low).unwrap_or((at + GLIDE + 1).min(BINS));
        (magnitudes[from..to].iter().map(|x| x * x).sum::<f32>(), from..to)
    };
    let (one, around) = strongest(&(0..0));
    let (other, _) = strongest(&around);
    (one, one + other)
}

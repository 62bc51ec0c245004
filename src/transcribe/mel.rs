//! The log-mel spectrogram Whisper was trained on.
//!
//! As in OpenAI's `audio.py`: frames of 400 samples every 160, periodic Hann window, centred with reflection at the
//! edges of the 30 s (zeros of *audio* after the recording's end), power spectrum, Slaney mel bands, `log10`, floor at
//! the window's maximum minus 8, `(x + 4) / 4`. Values agree with it to better than 1e-4.

use std::fmt;
use std::sync::Arc;

use realfft::{RealFftPlanner, RealToComplex, num_complex::Complex};

use crate::media::SAMPLE_RATE;

/// Samples under one frame.
const N_FFT: usize = 400;
/// Samples from frame to frame: 10 ms.
const HOP: usize = 160;
/// Bins of the power spectrum.
const BINS: usize = N_FFT / 2 + 1;
/// Samples of a full window: 30 s.
pub const WINDOW_SAMPLES: usize = 30 * SAMPLE_RATE as usize;
/// Frames of a full window.
pub const FRAMES: usize = WINDOW_SAMPLES / HOP;
/// Least power, and with it what silence is: `log10(1e-10)`.
const FLOOR: f32 = 1e-10;
/// Frames computed before their columns are written to the band-major output: 16 neighbours share a cache line.
const TILE: usize = 16;

/// One band: the first bin it hears and the weights from there on.
struct Band {
    first: usize,
    weights: Vec<f32>,
}

/// Computes spectrograms of one band count. Shareable; each thread brings its own [`Scratch`].
pub struct LogMel {
    n_mels: usize,
    bands: Vec<Band>,
    hann: [f32; N_FFT],
    fft: Arc<dyn RealToComplex<f32>>,
}

impl fmt::Debug for LogMel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogMel").field("n_mels", &self.n_mels).finish_non_exhaustive()
    }
}

/// Buffers of one thread, so that no frame allocates.
pub struct Scratch {
    padded: Vec<f32>,
    frame: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    fft: Vec<Complex<f32>>,
    power: [f32; BINS],
    tile: Vec<f32>,
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

impl LogMel {
    /// For models with `n_mels` bands (80, or 128 from large-v3 on).
    pub fn new(n_mels: usize) -> Self {
        let mut hann = [0.0; N_FFT];
        for (i, h) in hann.iter_mut().enumerate() {
            let phase = 2.0 * std::f64::consts::PI * i as f64 / N_FFT as f64;
            *h = (0.5 - 0.5 * phase.cos()) as f32;
        }
        Self { n_mels, bands: bands(n_mels), hann, fft: RealFftPlanner::new().plan_fft_forward(N_FFT) }
    }

    /// Bands.
    pub fn n_mels(&self) -> usize {
        self.n_mels
    }

    /// Length of the output: bands × [`FRAMES`].
    pub fn output_len(&self) -> usize {
        self.n_mels * FRAMES
    }

    /// Buffers for one thread.
    pub fn scratch(&self) -> Scratch {
        Scratch {
            padded: Vec::new(),
            frame: self.fft.make_input_vec(),
            spectrum: self.fft.make_output_vec(),
            fft: self.fft.make_scratch_vec(),
            power: [0.0; BINS],
            tile: vec![0.0; TILE * self.n_mels],
        }
    }

    /// Writes the spectrogram of `samples` (16-bit, 16 kHz; what exceeds 30 s is ignored) to `out`, band after band,
    /// [`FRAMES`] values each. `out` is resized to [`Self::output_len`].
    pub fn compute(&self, samples: &[i16], scratch: &mut Scratch, out: &mut Vec<f32>) {
        let n_mels = self.n_mels;
        out.resize(self.output_len(), 0.0);
        let samples = &samples[..samples.len().min(WINDOW_SAMPLES)];
        // Frame t covers samples 160 t − 200 … 160 t + 200; later frames hear only zeros.
        let active = (samples.len() + N_FFT / 2).div_ceil(HOP).min(FRAMES);
        pad(samples, active, &mut scratch.padded);

        let silence = FLOOR.log10();
        let mut max = silence;
        for first in (0..active).step_by(TILE) {
            let count = TILE.min(active - first);
            for t in 0..count {
                let at = (first + t) * HOP;
                self.power(
                    &scratch.padded[at..at + N_FFT],
                    &mut scratch.frame,
                    &mut scratch.spectrum,
                    &mut scratch.fft,
                    &mut scratch.power,
                );
                let column = &mut scratch.tile[t * n_mels..(t + 1) * n_mels];
                for (value, band) in column.iter_mut().zip(&self.bands) {
                    let bins = &scratch.power[band.first..band.first + band.weights.len()];
                    *value = dot(bins, &band.weights).max(FLOOR);
                }
                for value in column.iter_mut() {
                    *value = log10(*value);
                    max = max.max(*value);
                }
            }
            for band in 0..n_mels {
                let row = &mut out[band * FRAMES + first..][..count];
                for (t, value) in row.iter_mut().enumerate() {
                    *value = scratch.tile[t * n_mels + band];
                }
            }
        }
        let floor = max - 8.0;
        let rest = (silence.max(floor) + 4.0) / 4.0;
        for row in out.chunks_exact_mut(FRAMES) {
            let (heard, padding) = row.split_at_mut(active);
            for value in heard {
                *value = (value.max(floor) + 4.0) / 4.0;
            }
            padding.fill(rest);
        }
    }

    fn power(
        &self,
        samples: &[f32],
        frame: &mut [f32],
        spectrum: &mut [Complex<f32>],
        scratch: &mut [Complex<f32>],
        power: &mut [f32; BINS],
    ) {
        for ((x, &s), &h) in frame.iter_mut().zip(samples).zip(&self.hann) {
            *x = s * h;
        }
        // Only wrong buffer lengths are an error, and the buffers were made by the same plan.
        let transformed = self.fft.process_with_scratch(frame, spectrum, scratch);
        debug_assert!(transformed.is_ok());
        for (p, c) in power.iter_mut().zip(spectrum.iter()) {
            *p = c.re * c.re + c.im * c.im;
        }
    }
}

/// Copies `samples` as floats in −1 … 1 with 200 before (reflected) and what `frames` frames need after.
fn pad(samples: &[i16], frames: usize, out: &mut Vec<f32>) {
    const HALF: usize = N_FFT / 2;
    let float = |s: i16| f32::from(s) * (1.0 / 32768.0);
    let at = |i: usize| samples.get(i).copied().map_or(0.0, float);
    out.clear();
    out.extend((1..=HALF).rev().map(at));
    out.extend(samples.iter().copied().map(float));
    let needed = frames.saturating_sub(1) * HOP + N_FFT;
    // Within the 30 s zeros follow; the end of the 30 s is a mirror again.
    out.resize(needed.clamp(out.len(), HALF + WINDOW_SAMPLES).max(out.len()), 0.0);
    while out.len() < needed {
        let beyond = out.len() - HALF - WINDOW_SAMPLES;
        out.push(at(WINDOW_SAMPLES - 2 - beyond));
    }
}

/// Sum of products with eight partial sums, so that the compiler can use vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for ((s, x), y) in sums.iter_mut().zip(x).zip(y) {
            *s += x * y;
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// Decimal logarithm of a positive, normal number; error under 2e-7 of its range, and it vectorises, which the
/// library's does not. `log2(m)` on √½ … √2 by the series of `atanh` in `(m − 1) / (m + 1)`.
fn log10(x: f32) -> f32 {
    const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
    let shifted = x.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let exponent = (shifted as i32 >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007f_ffff).wrapping_add(SQRT_HALF_BITS));
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    // atanh(s) = s + s³/3 + s⁵/5 + …; |s| ≤ 0.172, so the first term left out is below 4e-10.
    let series = s * (1.0 + s2 * (1.0 / 3.0 + s2 * (1.0 / 5.0 + s2 * (1.0 / 7.0 + s2 * (1.0 / 9.0)))));
    exponent * std::f32::consts::LOG10_2 + series * (2.0 * std::f32::consts::LOG10_E)
}

/// Triangular filters at equal distances on Slaney's mel scale (linear to 1 kHz, logarithmic above), each of unit area
/// over frequency in Hz, from 0 to 8 kHz.
fn bands(n_mels: usize) -> Vec<Band> {
    const HZ_PER_MEL: f64 = 200.0 / 3.0;
    const BREAK_HZ: f64 = 1000.0;
    const BREAK_MEL: f64 = BREAK_HZ / HZ_PER_MEL;
    // 27 mels from 1 kHz to 6.4 kHz.
    let step = 6.4f64.ln() / 27.0;
    let hz = |mel: f64| {
        if mel < BREAK_MEL { mel * HZ_PER_MEL } else { BREAK_HZ * (step * (mel - BREAK_MEL)).exp() }
    };
    let nyquist = f64::from(SAMPLE_RATE) / 2.0;
    let top = BREAK_MEL + (nyquist / BREAK_HZ).ln() / step;
    let edges: Vec<f64> = (0..n_mels + 2).map(|i| hz(top * i as f64 / (n_mels + 1) as f64)).collect();
    edges
        .windows(3)
        .map(|e| {
            let (low, centre, high) = (e[0], e[1], e[2]);
            let weight = |bin: usize| {
                let f = bin as f64 * f64::from(SAMPLE_RATE) / N_FFT as f64;
                let rise = (f - low) / (centre - low);
                let fall = (high - f) / (high - centre);
                (rise.min(fall).max(0.0) * 2.0 / (high - low)) as f32
            };
            let first = (0..BINS).find(|&b| weight(b) > 0.0).unwrap_or(0);
            let end = (first..BINS).rfind(|&b| weight(b) > 0.0).map_or(first, |b| b + 1);
            Band { first, weights: (first..end).map(weight).collect() }
        })
        .collect()
}

#[cfg(test)]
mod tests;

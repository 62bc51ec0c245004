//! Where a window is quiet.

use crate::media::SAMPLE_RATE;
use crate::transcribe::engine::{Sound, TIMESTAMP_MS};
use crate::transcribe::mel::FRAMES;

/// Samples of one frame.
const FRAME_SAMPLES: usize = (SAMPLE_RATE * TIMESTAMP_MS / 1000) as usize;

/// Columns of a spectrogram in one frame.
const COLUMNS: usize = 2;

/// What is so far up from the softest to the loudest is quiet, and the shares of frames that count as these two.
const QUIET: f32 = 0.25;
const SOFT: f32 = 0.05;
const LOUD: f32 = 0.9;

/// Softest and loudest must differ by so many bels for softness to mean silence.
const CONTRAST: f32 = 1.0;

/// Whether each frame of 20 ms of a window is quiet, compared with the rest of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loudness {
    quiet: Vec<bool>,
}

impl Loudness {
    /// Of the first `duration_ms` of a window.
    pub fn of(sound: &Sound, duration_ms: u32) -> Self {
        let frames = duration_ms.div_ceil(TIMESTAMP_MS) as usize;
        Self::from_bels(&match sound {
            Sound::LogMel(mel) => of_mel(mel, frames),
            Sound::Samples(samples) => of_samples(samples, frames),
        })
    }

    /// From the logarithm of each frame's power.
    pub fn from_bels(bels: &[f32]) -> Self {
        let mut sorted = bels.to_vec();
        sorted.sort_by(f32::total_cmp);
        let at = |share: f32| sorted.get((sorted.len() as f32 * share) as usize).copied().unwrap_or(0.0);
        let (soft, loud) = (at(SOFT), at(LOUD));
        if loud - soft < CONTRAST {
            return Self { quiet: vec![false; bels.len()] };
        }
        let threshold = soft + QUIET * (loud - soft);
        Self { quiet: bels.iter().map(|&b| b < threshold).collect() }
    }

    /// Whether nothing is to be heard in a frame; what comes after the window's sound is not quiet but unknown.
    pub fn is_quiet(&self, frame: u32) -> bool {
        self.quiet.get(frame as usize).copied().unwrap_or(false)
    }
}

/// The mean over the lower seven eighths of the bands: above, speech is hard to tell from noise.
fn of_mel(mel: &[f32], frames: usize) -> Vec<f32> {
    let frames = frames.min(FRAMES / COLUMNS);
    let bands = (mel.len() / FRAMES * 7 / 8).max(1);
    let mut sums = vec![0.0f32; frames];
    for band in mel.chunks_exact(FRAMES).take(bands) {
        for (sum, columns) in sums.iter_mut().zip(band.chunks_exact(COLUMNS)) {
            *sum += columns.iter().sum::<f32>();
        }
    }
    // The spectrogram is (bels + 4) / 4; what is added does not matter here.
    let scale = 4.0 / (bands * COLUMNS) as f32;
    sums.iter_mut().for_each(|sum| *sum *= scale);
    sums
}

fn of_samples(samples: &[i16], frames: usize) -> Vec<f32> {
    samples
        .chunks(FRAME_SAMPLES)
        .take(frames)
        .map(|frame| {
            let power: f32 = frame.iter().map(|&s| f32::from(s) * f32::from(s)).sum();
            (power / frame.len() as f32 + 1.0).log10()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_what_is_soft_beside_the_rest() {
        let mut samples = vec![8i16; 16_000];
        for (i, s) in samples.iter_mut().enumerate().take(12_800).skip(3_200) {
            *s = if i % 20 < 10 { 4_000 } else { -4_000 };
        }
        let loudness = Loudness::of(&Sound::Samples(samples), 1_000);
        let quiet: Vec<u32> = (0..50).filter(|&f| loudness.is_quiet(f)).collect();
        assert_eq!(quiet, (0..10).chain(40..50).collect::<Vec<_>>());
        assert!(!loudness.is_quiet(50) && !loudness.is_quiet(9_999));
    }

    #[test]
    fn even_sound_is_never_quiet() {
        let loudness = Loudness::of(&Sound::Samples(vec![500; 16_000]), 1_000);
        assert!((0..50).all(|f| !loudness.is_quiet(f)));
    }

    #[test]
    fn a_spectrogram_tells_the_same() {
        let mut mel = vec![-1.0f32; 80 * FRAMES];
        for band in mel.chunks_exact_mut(FRAMES) {
            band[40..100].fill(0.8);
        }
        let loudness = Loudness::of(&Sound::LogMel(mel), 1_500);
        let loud: Vec<u32> = (0..75).filter(|&f| !loudness.is_quiet(f)).collect();
        assert_eq!(loud, (20..50).collect::<Vec<_>>());
    }
}

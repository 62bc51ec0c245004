//! Audio to measure speed with where there is no other: babble, with the rhythm and the formants of a voice but without
//! words. Speech detection takes it for speech and the model works on it; what the model writes means nothing.

use std::f32::consts::PI;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::media::SAMPLE_RATE;

/// Longest file, seconds.
const LONGEST: u32 = 120;

/// The first three formants of some vowels, Hz (Peterson and Barney, 1952, men).
const VOWELS: [[f32; 3]; 8] = [
    [270.0, 2290.0, 3010.0],
    [390.0, 1990.0, 2550.0],
    [530.0, 1840.0, 2480.0],
    [660.0, 1720.0, 2410.0],
    [730.0, 1090.0, 2440.0],
    [570.0, 840.0, 2410.0],
    [300.0, 870.0, 2240.0],
    [490.0, 1350.0, 1690.0],
];

/// Writes `minutes` of babble to `folder`, as wav files of two minutes at most.
///
/// # Errors
/// Where they cannot be written.
pub(super) fn make(folder: &Path, minutes: u32) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut left = minutes * 60;
    while left > 0 {
        let seconds = left.min(LONGEST);
        left -= seconds;
        let path = folder.join(format!("babble-{}.wav", files.len()));
        let samples = Babble::new(files.len() as u32).samples(seconds);
        write_wav(&path, &samples).with_context(|| format!("failed to write {}", path.display()))?;
        files.push(path);
    }
    Ok(files)
}

fn write_wav(path: &Path, samples: &[i16]) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    let bytes = 2 * samples.len() as u32;
    out.write_all(b"RIFF")?;
    out.write_all(&(36 + bytes).to_le_bytes())?;
    out.write_all(b"WAVEfmt ")?;
    out.write_all(&16_u32.to_le_bytes())?;
    // PCM, one channel.
    out.write_all(&[1, 0, 1, 0])?;
    out.write_all(&SAMPLE_RATE.to_le_bytes())?;
    out.write_all(&(2 * SAMPLE_RATE).to_le_bytes())?;
    out.write_all(&[2, 0, 16, 0])?;
    out.write_all(b"data")?;
    out.write_all(&bytes.to_le_bytes())?;
    for sample in samples {
        out.write_all(&sample.to_le_bytes())?;
    }
    out.flush()
}

/// A voice that says nothing.
struct Babble {
    random: u32,
    /// Where in a period of the voice it is, 0 to 1.
    phase: f32,
    /// Pitch of the voice, Hz.
    pitch: f32,
}

impl Babble {
    fn new(seed: u32) -> Self {
        let mut babble = Self { random: seed.wrapping_mul(747_796_405) | 1, phase: 0.0, pitch: 0.0 };
        babble.pitch = babble.between(95.0, 210.0);
        babble
    }

    /// Evenly from `low` to `high` (Marsaglia's xorshift).
    fn between(&mut self, low: f32, high: f32) -> f32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        low + (high - low) * (self.random >> 8) as f32 / (1 << 24) as f32
    }

    /// Phrases of one to four seconds with pauses between them.
    fn samples(&mut self, seconds: u32) -> Vec<i16> {
        let wanted = (seconds * SAMPLE_RATE) as usize;
        let mut out = Vec::with_capacity(wanted);
        while out.len() < wanted {
            let pause = self.between(0.3, 1.2);
            out.resize(out.len() + (pause * SAMPLE_RATE as f32) as usize, 0);
            for syllable in 0..self.between(6.0, 20.0) as u32 {
                self.syllable(syllable, &mut out);
            }
        }
        out.truncate(wanted);
        out
    }

    /// A consonant's noise, then a vowel whose pitch falls over the phrase.
    fn syllable(&mut self, place: u32, out: &mut Vec<i16>) {
        let rate = SAMPLE_RATE as f32;
        let noise = (self.between(0.02, 0.07) * rate) as usize;
        let mut before = 0.0;
        for i in 0..noise {
            let white = self.between(-1.0, 1.0);
            let shape = (PI * i as f32 / noise as f32).sin();
            // The difference of neighbours: high frequencies, as in an s.
            out.push((2500.0 * shape * (white - before)) as i16);
            before = white;
        }
        let length = (self.between(0.09, 0.22) * rate) as usize;
        let vowel = VOWELS[self.between(0.0, VOWELS.len() as f32) as usize % VOWELS.len()];
        let pitch = self.pitch * (1.1 - 0.012 * place as f32) * self.between(0.95, 1.05);
        let mut formants = [0, 1, 2].map(|i| Formant::new(vowel[i], [70.0, 100.0, 150.0][i]));
        for i in 0..length {
            self.phase = (self.phase + pitch / rate).fract();
            // An open phase of 60 % whose flow rises and falls, as a voice's does; its derivative is what is heard.
            let glottis = if self.phase < 0.6 { (PI * self.phase / 0.6).cos() } else { 0.0 };
            let breath = self.between(-0.02, 0.02);
            let [first, second, third] = &mut formants;
            let heard = first.next(glottis + breath)
                + 0.6 * second.next(glottis + breath)
                + 0.3 * third.next(glottis + breath);
            let shape = (PI * (i as f32 + 0.5) / length as f32).sin().sqrt();
            out.push((5000.0 * shape * heard).clamp(-30_000.0, 30_000.0) as i16);
        }
    }
}

/// A resonance: a filter with two poles.
struct Formant {
    a: f32,
    b: f32,
    gain: f32,
    last: [f32; 2],
}

impl Formant {
    fn new(frequency: f32, bandwidth: f32) -> Self {
        let rate = SAMPLE_RATE as f32;
        let radius = (-PI * bandwidth / rate).exp();
        let a = 2.0 * radius * (2.0 * PI * frequency / rate).cos();
        Self { a, b: -radius * radius, gain: (1.0 - radius) * 2.0, last: [0.0; 2] }
    }

    fn next(&mut self, input: f32) -> f32 {
        let [one, two] = self.last;
        let out = self.gain * input + self.a * one + self.b * two;
        self.last = [out, one];
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;

    #[test]
    fn babble_is_audio_of_the_length_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let files = make(dir.path(), 3).unwrap();
        let lengths: Vec<_> = files.iter().map(|f| decode::recognise(f).unwrap().duration_ms).collect();
        assert_eq!(lengths, [Some(120_000), Some(60_000)]);
        let (one, other) = (Babble::new(0).samples(5), Babble::new(1).samples(5));
        assert_ne!(one, other);
        assert_eq!(one, Babble::new(0).samples(5));
        let loud = one.iter().filter(|s| s.unsigned_abs() > 500).count();
        assert!(loud * 4 > one.len() && one.contains(&0), "{loud} of {}", one.len());
    }
}

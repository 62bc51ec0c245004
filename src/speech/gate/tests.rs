use std::f64::consts::TAU;
use std::io;

use super::super::{SpeechOptions, Window, Windows};
use super::*;
use crate::media::SAMPLE_RATE;

const RATE: f64 = SAMPLE_RATE as f64;

/// Seconds to samples.
fn at(seconds: f64) -> usize {
    (seconds * RATE) as usize
}

struct Dice(u64);

impl Dice {
    /// Uniform, −1 to 1.
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

fn made(seconds: f64, mut sample: impl FnMut(f64) -> f64) -> Vec<f64> {
    (0..at(seconds)).map(|i| sample(i as f64 / RATE)).collect()
}

/// A tone of this frequency with harmonics that fall off.
fn tone(f: f64, harmonics: u32, t: f64) -> f64 {
    (1..=harmonics).map(|k| (TAU * f * f64::from(k) * t).sin() / f64::from(k)).sum()
}

fn chord(root: f64, t: f64) -> f64 {
    [1.0, 1.26, 1.498].iter().map(|interval| tone(root * interval, 8, t)).sum()
}

/// Sounds that nobody speaks in.
fn sounds(seconds: f64) -> Vec<(&'static str, Vec<f64>)> {
    let mut dice = Dice(1);
    let mut brown = 0.0;
    let mut phase = 0.0;
    vec![
        ("white noise", made(seconds, |_| dice.roll())),
        (
            "brown noise",
            made(seconds, |_| {
                brown = 0.98 * brown + dice.roll();
                brown
            }),
        ),
        (
            "wind that waxes and wanes",
            made(seconds, |t| {
                brown = 0.9 * brown + dice.roll();
                brown * (1.05 + (TAU * 0.7 * t).sin())
            }),
        ),
        ("hum", made(seconds, |t| tone(100.0, 20, t))),
        ("a sine", made(seconds, |t| (TAU * 440.0 * t).sin())),
        ("an alarm", made(seconds, |t| if t % 0.5 < 0.25 { (TAU * 800.0 * t).sin() } else { 0.0 })),
        (
            "a siren",
            made(seconds, |t| {
                phase += TAU * (600.0 + 400.0 * (TAU * 0.3 * t).sin()) / RATE;
                phase.sin()
            }),
        ),
        ("held chords", made(seconds, |t| chord([130.8, 174.6, 196.0][(t / 2.5) as usize % 3], t))),
        (
            "struck chords",
            made(seconds, |t| {
                (-4.0 * (t % 0.6)).exp() * chord([130.8, 164.8, 174.6, 196.0][(t / 0.6) as usize % 4], t)
            }),
        ),
        (
            "a tune",
            made(seconds, |t| {
                let notes = [262.0, 294.0, 330.0, 349.0, 392.0, 330.0, 294.0, 247.0];
                (-6.0 * (t % 0.3)).exp() * tone(notes[(t / 0.3) as usize % 8], 6, t)
            }),
        ),
    ]
}

/// To bytes, at this root mean square in dB below full scale.
fn pcm(sound: &[f64], dbfs: f64) -> Vec<u8> {
    let rms = (sound.iter().map(|x| x * x).sum::<f64>() / sound.len() as f64).sqrt();
    let gain = 32_768.0 * 10f64.powf(dbfs / 20.0) / rms;
    sound.iter().flat_map(|x| ((x * gain).clamp(-32_768.0, 32_767.0) as i16).to_le_bytes()).collect()
}

fn memo() -> Vec<f64> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/media/voice-memo.wav");
    let wav = std::fs::read(path).unwrap();
    let data = wav.windows(4).position(|w| w == b"data").unwrap() + 8;
    wav[data..].chunks_exact(2).map(|b| f64::from(i16::from_le_bytes([b[0], b[1]]))).collect()
}

fn rms(x: &[f64]) -> f64 {
    (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt()
}

fn heard(pcm: &[u8], gate: bool) -> (Vec<Window>, Vec<Gated>) {
    let options = SpeechOptions { gate, ..SpeechOptions::default() };
    let mut windows = Windows::new(pcm, &options);
    let heard = windows.by_ref().collect::<io::Result<_>>().unwrap();
    (heard, windows.gated().to_vec())
}

/// Seconds of detected speech.
fn speech(windows: &[Window]) -> f64 {
    windows.iter().map(Window::speech_samples).sum::<u64>() as f64 / RATE
}

#[test]
fn steady_sounds_are_no_speech() {
    let mut taken = 0;
    for (name, sound) in sounds(20.0) {
        for level in [-40.0, -20.0] {
            let pcm = pcm(&sound, level);
            let without = speech(&heard(&pcm, false).0);
            taken += usize::from(without > 5.0);
            let (windows, gated) = heard(&pcm, true);
            assert!(speech(&windows) <= 0.3, "{name} at {level} dB: {:.1} s of speech", speech(&windows));
            // What the detector believed in is told.
            let told: u64 = gated.iter().map(|g| g.span.len()).sum();
            assert!(
                told as f64 / RATE >= 0.5 * without,
                "{name} at {level} dB: {gated:?}, without {without:.1} s"
            );
        }
    }
    // Else this test would pass without any gate.
    assert!(taken >= 8, "the detector takes only {taken} of these for speech by itself");
}

#[test]
fn speech_over_steady_sounds_stays() {
    let memo = memo();
    let seconds = memo.len() as f64 / RATE;
    let whole = speech(&heard(&pcm(&memo, -25.0), false).0);
    for (name, sound) in sounds(seconds + 0.1) {
        for below in [10.0, 20.0] {
            let gain = rms(&memo) / rms(&sound) * 10f64.powf(-below / 20.0);
            let mixed: Vec<f64> = memo.iter().zip(&sound).map(|(a, b)| a + gain * b).collect();
            let mixed = pcm(&mixed, -25.0);
            let (without, with) = (heard(&mixed, false).0, heard(&mixed, true).0);
            // Every frame of speech that the detector finds in the clean recording and in this one.
            let covers = |windows: &[Window], sample: u64| {
                windows.iter().flat_map(|w| &w.pieces).any(|p| p.start <= sample && sample < p.end)
            };
            let clean = heard(&pcm(&memo, -25.0), false).0;
            let (mut all, mut lost) = (0, 0);
            for span in clean.iter().flat_map(|w| &w.speech) {
                for sample in (span.start..span.end).step_by(FRAME) {
                    all += usize::from(covers(&without, sample));
                    lost += usize::from(covers(&without, sample) && !covers(&with, sample));
                }
            }
            assert!(all as f64 * FRAME as f64 / RATE > 0.95 * whole, "{name}: {all} frames");
            assert!(lost == 0, "{name} {below} dB below: {lost} of {all} frames lost");
        }
    }
}

#[test]
fn words_between_long_pauses_stay() {
    // Half a second of speech every three seconds, in noise and in hum 10 dB below it.
    let memo = memo();
    let word = &memo[at(2.0)..at(2.5)];
    assert!(rms(word) > 100.0, "a pause");
    for (name, sound) in sounds(30.0).into_iter().filter(|(n, _)| n.contains("noise") || *n == "hum") {
        let gain = rms(word) / rms(&sound) * 10f64.powf(-10.0 / 20.0);
        let mut mixed: Vec<f64> = sound.iter().map(|x| x * gain).collect();
        for k in 0..9 {
            for (x, w) in mixed[at(1.0 + 3.0 * f64::from(k))..].iter_mut().zip(word) {
                *x += w;
            }
        }
        let windows = heard(&pcm(&mixed, -25.0), true).0;
        for k in 0..9 {
            let middle = at(1.25 + 3.0 * f64::from(k)) as u64;
            let found = windows.iter().flat_map(|w| &w.speech).any(|s| s.start <= middle && middle < s.end);
            assert!(found, "{name}: word {k}");
        }
    }
}

#[test]
fn what_is_gated_is_told_with_its_place_and_reason() {
    let (hum, memo) = (made(8.0, |t| tone(100.0, 20, t)), memo());
    let mut sound = vec![0.0; at(4.0)];
    sound.extend(hum.iter().map(|x| x * 1500.0));
    sound.extend(vec![0.0; at(4.0)]);
    sound.extend(&memo);
    let bytes: Vec<u8> = sound.iter().flat_map(|&x| (x as i16).to_le_bytes()).collect();
    let (windows, gated) = heard(&bytes, true);
    let early = windows.iter().flat_map(|w| &w.speech).filter(|s| s.start < at(15.0) as u64);
    assert_eq!(early.map(Span::len).sum::<u64>(), 0);
    let hum: Vec<&Gated> = gated.iter().filter(|g| g.span.end < at(13.0) as u64).collect();
    assert!(hum.iter().all(|g| g.span.start >= at(3.9) as u64), "{hum:?}");
    let hum = hum.iter().filter(|g| g.reason == GateReason::Stationary);
    assert!(hum.map(|g| g.span.len()).sum::<u64>() > at(7.0) as u64, "{gated:?}");
}

#[test]
fn faint_sounds_next_to_loud_ones_are_none_of_the_recording() {
    let memo = memo();
    let loud = pcm(&memo, -12.0);
    let faint: Vec<f64> = memo.iter().take(at(8.0)).copied().collect();
    let alone = pcm(&faint, -74.0);
    assert!(speech(&heard(&alone, true).0) > 1.0, "by itself it is heard");
    let mut both = loud.clone();
    both.extend(&alone);
    let (windows, _) = heard(&both, true);
    let late = windows.iter().flat_map(|w| &w.speech).filter(|s| s.start > loud.len() as u64 / 2 + 8000);
    assert_eq!(late.count(), 0);
}

#[test]
fn figures_tell_noise_tones_and_glides_apart() {
    let figures = |sound: &[f64]| {
        let mut spectrum = Spectrum::new();
        let bytes = pcm(sound, -20.0);
        let samples: Vec<i16> = bytes.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect();
        let all: Vec<Figures> = samples.chunks_exact(FRAME).map(|f| spectrum.feed(f)).collect();
        let steady = &all[100..];
        let mean = |f: &dyn Fn(&Figures) -> f32| steady.iter().map(f).sum::<f32>() / steady.len() as f32;
        [mean(&|f| f.same), mean(&|f| f.fresh / f.energy), mean(&|f| f.one_partial)]
    };
    let sounds = sounds(6.0);
    let of = |name: &str| figures(&sounds.iter().find(|(n, _)| *n == name).unwrap().1);
    // Two independent Rayleigh-distributed spectra: π/4.
    let [same, fresh, one] = of("white noise");
    assert!((same - 0.785).abs() < 0.01 && fresh > 0.2 && one < 0.2, "{same} {fresh} {one}");
    let [same, fresh, one] = of("a sine");
    assert!(same > 0.99 && fresh < 0.01 && one > 0.99, "{same} {fresh} {one}");
    let [same, fresh, one] = of("a siren");
    assert!(same < 0.9 && fresh > 0.5 && one > 0.95, "{same} {fresh} {one}");
    let [same, fresh, one] = of("hum");
    assert!(same > 0.99 && fresh < 0.05 && one < 0.5, "{same} {fresh} {one}");
}

#[test]
fn frames_come_out_as_they_went_in() {
    for steady in [true, false] {
        let mut gate = Gate::new(0.35, steady);
        let mut out = Vec::new();
        for i in 0..500i16 {
            out.extend(gate.push([i; FRAME], if i == 499 { 7 } else { FRAME }, 0.2));
        }
        out.extend(std::iter::from_fn(|| gate.pop()));
        assert_eq!(out.len(), 500);
        for (i, frame) in out.iter().enumerate() {
            assert_eq!((frame.samples[0], frame.score), (i as i16, if i < 4 { 0.0 } else { 0.2 }), "{i}");
            assert_eq!(frame.length, if i == 499 { 7 } else { FRAME });
        }
        assert!(gate.figures.len() <= 2 * FAR + 1, "{}", gate.figures.len());
    }
}

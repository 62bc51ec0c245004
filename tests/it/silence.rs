//! Where nobody speaks, nothing is written; and what is said next to such sounds still is.
//!
//! `scripts/bench/silence` does the same with an hour of them, beside faster-whisper.

use std::f64::consts::TAU;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use spoken::event::Events;
use spoken::media::{Audio, Failure, FailureClass, MediaId, SAMPLE_RATE, Transcript};
use spoken::stage::StageMeter;
use spoken::transcribe::{EngineKind, TranscribeOptions, Transcriber};
use tokio_util::sync::CancellationToken;

const RATE: f64 = SAMPLE_RATE as f64;

/// Length of each sound.
const SECONDS: f64 = 12.0;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn model(engine: EngineKind) -> PathBuf {
    fixtures().join(if engine == EngineKind::default() { "whisper-micro" } else { "whisper-micro-ggml" })
}

fn note(midi: f64) -> f64 {
    440.0 * 2f64.powf((midi - 69.0) / 12.0)
}

fn tone(f: f64, harmonics: u32, t: f64) -> f64 {
    (1..=harmonics).map(|k| (TAU * f * f64::from(k) * t).sin() / f64::from(k)).sum()
}

fn chord(root: f64, t: f64) -> f64 {
    [0.0, 4.0, 7.0].iter().map(|i| tone(note(root + i), 8, t)).sum()
}

/// Two minutes in ten parts, at levels from −45 to −12 dB below full scale.
fn sounds() -> Vec<i16> {
    let mut dice = 7u64;
    let mut roll = move || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    let (mut brown, mut phase) = (0.0, 0.0);
    let mut all = Vec::new();
    for part in 0..10 {
        let sound: Vec<f64> = (0..(SECONDS * RATE) as usize)
            .map(|i| i as f64 / RATE)
            .map(|t| match part {
                0 => 0.0,
                1 => roll(),
                2 => {
                    brown = 0.98 * brown + roll();
                    brown
                }
                3 => tone(50.0, 25, t) + 0.05 * roll(),
                4 => (TAU * 440.0 * t).sin(),
                5 => {
                    phase += TAU * 100.0 * 40f64.powf((t / 4.0) % 1.0) / RATE;
                    phase.sin()
                }
                6 => chord([48.0, 53.0, 55.0, 45.0][(t / 3.0) as usize % 4], t),
                7 => (-4.0 * (t % 0.5)).exp() * chord([48.0, 53.0, 55.0, 45.0][(t / 0.5) as usize % 4], t),
                8 => {
                    let step = [60.0, 62.0, 64.0, 65.0, 67.0, 64.0][(t / 0.25) as usize % 6];
                    (-5.0 * (t % 0.25)).exp() * tone(note(step), 6, t)
                }
                _ => f64::from(u8::from(t % 1.0 < 0.5)) * (TAU * 1000.0 * t).sin(),
            })
            .collect();
        let rms = (sound.iter().map(|x| x * x).sum::<f64>() / sound.len() as f64).sqrt();
        let level = [-45.0, -20.0, -30.0, -12.0, -25.0][part % 5];
        let gain = if rms > 0.0 { 32_768.0 * 10f64.powf(level / 20.0) / rms } else { 0.0 };
        all.extend(sound.iter().map(|x| (x * gain).clamp(-32_768.0, 32_767.0) as i16));
    }
    all
}

fn memo() -> Vec<i16> {
    let wav = std::fs::read(fixtures().join("media/voice-memo.wav")).unwrap();
    let data = wav.windows(4).position(|w| w == b"data").unwrap() + 8;
    wav[data..].chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect()
}

fn transcribe(transcriber: &Transcriber, samples: &[i16], dir: &Path) -> Result<Transcript, Failure> {
    let path = dir.join(format!("{}.pcm", samples.len()));
    std::fs::write(&path, samples.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    let audio = Audio { path, samples: samples.len() as u64, offset_ms: 0, hash: [0; 32] };
    let (events, _keep) = Events::channel();
    let (told, result) = mpsc::channel();
    let done = Box::new(move |r| told.send(r).unwrap());
    transcriber.submit(MediaId::new("test", "1"), &audio, &events, &CancellationToken::new(), done);
    result.recv().unwrap()
}

#[test]
fn nothing_is_written_where_nobody_speaks() {
    let dir = tempfile::tempdir().unwrap();
    let (sounds, memo) = (sounds(), memo());
    for engine in EngineKind::all() {
        let options = TranscribeOptions {
            engine,
            model: model(engine).display().to_string(),
            ..TranscribeOptions::default()
        };
        let (speech, asr) = (StageMeter::new("speech", 1), StageMeter::new("asr", 1));
        let transcriber = Transcriber::start(options, speech, asr, &mut |_| {}).unwrap();
        let failure = transcribe(&transcriber, &sounds, dir.path()).unwrap_err();
        assert_eq!(failure.class, FailureClass::NoSpeech, "{engine}: {failure}");

        // The same with somebody in it: all that is heard is where they are, and is what is heard without the rest.
        let alone = transcribe(&transcriber, &memo, dir.path()).unwrap();
        let both = transcribe(&transcriber, &[&sounds[..], &memo].concat(), dir.path()).unwrap();
        let before = (sounds.len() as f64 / RATE * 1000.0) as i64;
        let words = |t: &Transcript| t.segments.iter().flat_map(|s| s.text.split(' ')).count();
        assert!(both.segments.iter().all(|s| s.start_ms >= before), "{engine}: {:?}", both.segments);
        let (one, two) = (words(&alone), words(&both));
        assert!(
            one > 20 && two * 20 >= one * 19,
            "{engine}: {one} words alone, {two} behind two minutes of sounds"
        );
    }
}

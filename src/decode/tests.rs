//! Real files, made by the ffmpeg command line, against the truth they were made from.

use std::{
    f64::consts::PI,
    fs,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use super::*;
use crate::{
    event::{Event, Events, Step},
    media::{MediaId, SAMPLE_RATE},
};

mod bad;
mod formats;
mod times;

/// Length of the pattern in seconds.
const SECONDS: usize = 6;

/// The pattern, as ffmpeg makes it: second `k` has a tone of `300 + 200 k` Hz in its first half and silence in the
/// second one, so that both what is heard and when can be checked.
const PATTERN: &str = "aevalsrc='0.5*sin(2*PI*(300+200*floor(t))*t)*lt(mod(t\\,1)\\,0.5)':s=48000:d=6";

/// Decoded samples that do not fill the screen when they are printed.
struct Samples(Vec<i16>);

impl std::ops::Deref for Samples {
    type Target = [i16];
    fn deref(&self) -> &[i16] {
        &self.0
    }
}

impl std::fmt::Debug for Samples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} samples", self.0.len())
    }
}

/// A directory with tools to make and decode files in it.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the ffmpeg command line in the directory; arguments are separated by spaces.
    fn ffmpeg(&self, arguments: &str) {
        self.ffmpeg_args(&arguments.split_whitespace().collect::<Vec<_>>());
    }

    fn ffmpeg_args(&self, arguments: &[&str]) {
        let output = Command::new("ffmpeg")
            .args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"])
            .args(arguments)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ffmpeg {arguments:?}: {stderr}");
    }

    /// Makes `name` from the pattern, encoded with `arguments`.
    fn make(&self, name: &str, arguments: &str) -> PathBuf {
        self.ffmpeg(&format!("-f lavfi -i {PATTERN} {arguments} {name}"));
        self.path(name)
    }

    /// Decodes what must decode.
    fn decoded(&self, name: &str) -> (Audio, Samples) {
        self.decode(&self.path(name)).unwrap_or_else(|f| panic!("{name}: {f}"))
    }

    fn decode(&self, path: &Path) -> Result<(Audio, Samples), Failure> {
        self.decode_expecting(path, None)
    }

    fn decode_expecting(&self, path: &Path, expected_ms: Option<i64>) -> Result<(Audio, Samples), Failure> {
        decode_with(path, &self.path("out.pcm"), &DecodeOptions::default(), expected_ms)
    }
}

fn progress() -> (Progress, tokio::sync::mpsc::UnboundedReceiver<Event>) {
    let (events, receiver) = Events::channel();
    (events.progress(MediaId::new("file", "test"), Step::Decode), receiver)
}

fn decode_with(
    path: &Path,
    output: &Path,
    options: &DecodeOptions,
    expected_ms: Option<i64>,
) -> Result<(Audio, Samples), Failure> {
    let (mut progress, _receiver) = progress();
    let audio = decode(path, output, options, expected_ms, &mut progress, &CancellationToken::new())?;
    let samples: Vec<_> =
        fs::read(&audio.path).unwrap().chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect();
    assert_eq!(samples.len() as u64, audio.samples);
    Ok((audio, Samples(samples)))
}

/// Mean square of the samples from `from` to `to`, in seconds.
fn power(samples: &[i16], from: f64, to: f64) -> f64 {
    let at = |s: f64| ((s * f64::from(SAMPLE_RATE)) as usize).min(samples.len());
    let part = &samples[at(from)..at(to)];
    part.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / part.len().max(1) as f64
}

/// Share of the power from `from` to `to` that is at `hz` (Goertzel's algorithm).
fn share(samples: &[i16], from: f64, to: f64, hz: f64) -> f64 {
    let at = |s: f64| ((s * f64::from(SAMPLE_RATE)) as usize).min(samples.len());
    let part = &samples[at(from)..at(to)];
    let w = 2.0 * PI * hz / f64::from(SAMPLE_RATE);
    let (mut a, mut b) = (0.0, 0.0);
    for s in part {
        let next = f64::from(*s) + 2.0 * w.cos() * a - b;
        (a, b) = (next, a);
    }
    let at_hz = 2.0 * (a * a + b * b - 2.0 * w.cos() * a * b) / (part.len() as f64).powi(2);
    at_hz / power(samples, from, to).max(1e-9)
}

/// Checks that `samples` hold seconds `first..end` of the pattern, beginning `at` seconds into the samples, with tones
/// and pauses within 40 ms of where they belong.
fn check_pattern(what: &str, samples: &[i16], at: f64, first: usize, end: usize) {
    const EDGE: f64 = 0.04;
    for k in first..end {
        let start = at + (k - first) as f64;
        let hz = 300.0 + 200.0 * k as f64;
        let tone = power(samples, start + EDGE, start + 0.5 - EDGE);
        let pause = power(samples, start + 0.5 + EDGE, start + 1.0 - EDGE);
        assert!(tone > 1e5, "{what}: second {k} is too quiet: {tone}");
        assert!(pause < tone * 0.02, "{what}: second {k} has no pause: {pause} beside {tone}");
        let share = share(samples, start + EDGE, start + 0.5 - EDGE, hz);
        assert!(share > 0.8, "{what}: second {k}: only {share:.2} of the power is at {hz} Hz");
    }
}

fn check_whole(what: &str, audio: &Audio, samples: &[i16], slack_ms: i64) {
    let ms = audio.duration_ms();
    assert!((ms - SECONDS as i64 * 1000).abs() <= slack_ms, "{what}: {ms} ms");
    check_pattern(what, samples, 0.0, 0, SECONDS);
}

//! The pool and its feeders with engines that misbehave on command.

use std::path::Path;
use std::sync::{Condvar, mpsc};

use super::*;
use crate::media::Transcript;
use crate::stage::StageMeter;

type Call = Box<dyn Fn(&[Input<'_>]) -> Result<Vec<WindowText>, EngineError> + Send + Sync>;

struct Fake {
    languages: Vec<String>,
    call: Call,
}

impl Engine for Fake {
    fn name(&self) -> &str {
        "fake"
    }
    fn input(&self) -> InputKind {
        InputKind::LogMel { bands: 80 }
    }
    fn languages(&self) -> &[String] {
        &self.languages
    }
    fn transcribe(
        &self,
        batch: &[Input<'_>],
        _: f32,
        _: &DecodeOptions,
    ) -> Result<Vec<WindowText>, EngineError> {
        (self.call)(batch)
    }
}

fn heard(window: &Input<'_>, detected: (&str, f32)) -> WindowText {
    let (language, language_prob) = window.language.map_or(detected, |l| (l, 1.0));
    WindowText {
        language: language.to_owned(),
        language_prob,
        segments: vec![TimedText {
            start_ms: 0,
            end_ms: Some(500),
            text: format!("in {language}"),
            words: Vec::new(),
        }],
        avg_logprob: -0.1,
        no_speech_prob: 0.0,
        compression_ratio: 1.0,
        temperature: 0.0,
    }
}

fn started(feeders: usize, batch_size: usize, call: Call) -> Transcriber {
    let plan = Plan {
        device: Device::Cpu,
        devices: 1,
        load_ms: 0,
        compute: Compute::Int8,
        replicas: feeders,
        threads: 1,
        batch_size,
        feeders,
        reasons: Vec::new(),
    };
    let engine = Box::new(Fake { languages: vec!["en".to_owned(), "es".to_owned()], call });
    let options = TranscribeOptions {
        // A threshold that takes the noise of `recording` for speech, in windows of a second.
        speech: SpeechOptions { chunk: std::time::Duration::from_secs(1), ..SpeechOptions::default() },
        ..TranscribeOptions::default()
    };
    let (speech, asr) = (StageMeter::new("speech", 1), StageMeter::new("asr", feeders));
    let loaded = Loaded { engine, plan, identity: "fake".to_owned(), fallbacks: Vec::new() };
    Transcriber::with_engine(loaded, &options, speech, asr).unwrap()
}

/// The sample recording: about thirty windows of a second at most.
fn recording(dir: &Path) -> Audio {
    let wav = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/media/voice-memo.wav");
    let wav = std::fs::read(wav).unwrap();
    let data = wav.windows(4).position(|w| w == b"data").unwrap() + 8;
    let path = dir.join("audio.pcm");
    std::fs::write(&path, &wav[data..]).unwrap();
    Audio { path, samples: (wav.len() - data) as u64 / 2, offset_ms: 0, hash: [0; 32] }
}

fn submit(transcriber: &Transcriber, audio: &Audio) -> mpsc::Receiver<Result<Transcript, Failure>> {
    let (told, result) = mpsc::channel();
    let (events, _) = Events::channel();
    let done = Box::new(move |r| {
        let _ = told.send(r);
    });
    transcriber.submit(MediaId::new("test", "1"), audio, &events, &CancellationToken::new(), done);
    result
}

#[test]
fn a_failed_batch_is_tried_window_by_window() {
    let dir = tempfile::tempdir().unwrap();
    let call: Call = Box::new(|batch| match batch {
        [window] => Ok(vec![heard(window, ("en", 0.99))]),
        _ => Err(EngineError::Failed("too many".into())),
    });
    let transcriber = started(2, 4, call);
    let transcript = submit(&transcriber, &recording(dir.path())).recv().unwrap().unwrap();
    assert!(transcript.segments.len() > 10);
}

#[test]
fn an_engine_that_panics_fails_the_file_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let audio = recording(dir.path());
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let now = Arc::clone(&broken);
    let call: Call = Box::new(move |batch| {
        assert!(!now.load(Relaxed), "broken on command");
        Ok(batch.iter().map(|w| heard(w, ("en", 0.99))).collect())
    });
    let transcriber = started(2, 4, call);
    let failure = submit(&transcriber, &audio).recv().unwrap().unwrap_err();
    assert_eq!(failure.class, FailureClass::Internal);
    assert!(failure.message.contains("panicked"), "{failure}");
    broken.store(false, Relaxed);
    assert!(submit(&transcriber, &audio).recv().unwrap().is_ok());
}

#[test]
fn a_doubtful_window_is_heard_again_in_the_language_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let calls = AtomicU64::new(0);
    let call: Call = Box::new(move |batch| {
        // Every third window is a guess, whoever asks.
        let text = |w| {
            if calls.fetch_add(1, Relaxed) % 3 == 2 { heard(w, ("es", 0.3)) } else { heard(w, ("en", 0.99)) }
        };
        Ok(batch.iter().map(text).collect())
    });
    let transcriber = started(1, 1, call);
    let transcript = submit(&transcriber, &recording(dir.path())).recv().unwrap().unwrap();
    assert!(transcript.segments.iter().all(|s| s.text == "in en"), "{:?}", transcript.segments);
}

#[test]
fn stopping_while_the_model_runs_tells_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let audio = recording(dir.path());
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let (entered, running) = mpsc::channel();
    let call: Call = {
        let (gate, entered) = (Arc::clone(&gate), Mutex::new(entered));
        Box::new(move |batch| {
            let _ = entered.lock().unwrap().send(());
            let mut open = gate.0.lock().unwrap();
            while !*open {
                open = gate.1.wait(open).unwrap();
            }
            Ok(batch.iter().map(|w| heard(w, ("en", 0.99))).collect())
        })
    };
    let transcriber = started(1, 1, call);
    std::thread::scope(|scope| {
        // The pool holds two windows, so this one waits for room.
        let submitted = scope.spawn(|| submit(&transcriber, &audio));
        running.recv().unwrap();
        let stopping = scope.spawn(|| transcriber.shutdown());
        // Released only once the pool is closed: what is told can then only be that.
        let result = submitted.join().unwrap();
        let failure = result.recv().unwrap().unwrap_err();
        assert_eq!(failure.message, "stopped");
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        stopping.join().unwrap();
        assert!(result.recv().is_err(), "told once");
    });
    // After the end nothing is accepted, and that is told too.
    assert_eq!(submit(&transcriber, &audio).recv().unwrap().unwrap_err().message, "stopped");
}

//! The pool and its feeders with engines that misbehave on command.

use std::path::Path;
use std::sync::{Condvar, mpsc};

use super::*;
use crate::media::Transcript;
use crate::stage::StageMeter;

type Call = Box<dyn Fn(&[Input<'_>], f32) -> Result<Vec<WindowText>, EngineError> + Send + Sync>;

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
        t: f32,
        _: &DecodeOptions,
    ) -> Result<Vec<WindowText>, EngineError> {
        (self.call)(batch, t)
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

/// A plan for so many feeders and windows.
fn plan(feeders: usize, batch_size: usize) -> Plan {
    Plan {
        device: Device::Cpu,
        devices: 1,
        load_ms: 0,
        compute: Compute::Int8,
        replicas: feeders,
        threads: 1,
        batch_size,
        feeders,
        reasons: Vec::new(),
    }
}

fn fake(call: Call) -> Box<dyn Engine> {
    Box::new(Fake { languages: vec!["en".to_owned(), "es".to_owned()], call })
}

fn options() -> TranscribeOptions {
    TranscribeOptions {
        // A threshold that takes the noise of `recording` for speech, in windows of a second.
        speech: SpeechOptions { chunk: std::time::Duration::from_secs(1), ..SpeechOptions::default() },
        ..TranscribeOptions::default()
    }
}

fn started(feeders: usize, batch_size: usize, call: Call) -> Transcriber {
    started_with(plan(feeders, batch_size), call, Vec::new(), &options())
}

fn started_with(
    plan: Plan,
    call: Call,
    fallbacks: Vec<Fallback>,
    options: &TranscribeOptions,
) -> Transcriber {
    let (speech, asr) = (StageMeter::new("speech", 1), StageMeter::new("asr", plan.feeders));
    let loaded = Loaded { engine: fake(call), plan, identity: "fake".to_owned(), fallbacks };
    Transcriber::with_engine(loaded, options, speech, asr).unwrap()
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
    let call: Call = Box::new(|batch, _| match batch {
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
    let call: Call = Box::new(move |batch, _| {
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
    let call: Call = Box::new(move |batch, _| {
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
        Box::new(move |batch, _| {
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

fn out_of_memory() -> EngineError {
    EngineError::OutOfMemory("on command".to_owned())
}

#[test]
fn memory_that_runs_out_costs_no_window_and_the_batch_grows_again() {
    let dir = tempfile::tempdir().unwrap();
    let audio = recording(dir.path());
    let (calls, largest) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let call: Call = {
        let (calls, largest) = (Arc::clone(&calls), Arc::clone(&largest));
        Box::new(move |batch, _| {
            // From the third call on somebody else holds the memory, for a while.
            if (2..12).contains(&calls.fetch_add(1, Relaxed)) && batch.len() > 1 {
                return Err(out_of_memory());
            }
            largest.fetch_max(batch.len() as u64, Relaxed);
            Ok(batch.iter().map(|w| heard(w, ("en", 0.99))).collect())
        })
    };
    let transcriber = started(1, 4, call);
    let windows = submit(&transcriber, &audio).recv().unwrap().unwrap().segments.len();
    assert!(transcriber.batch_limit() < 4, "{}", transcriber.batch_limit());
    // What is held back for long enough comes back: a few dozen batches without trouble for each step.
    for _ in 0..200 {
        assert_eq!(submit(&transcriber, &audio).recv().unwrap().unwrap().segments.len(), windows);
        if transcriber.batch_limit() == 4 {
            break;
        }
    }
    assert_eq!(transcriber.batch_limit(), 4);
    assert_eq!(largest.load(Relaxed), 4);
}

#[test]
fn a_window_that_never_fits_goes_to_what_may_take_the_models_place() {
    let dir = tempfile::tempdir().unwrap();
    let audio = recording(dir.path());
    let full = || -> Call { Box::new(|_, _| Err(out_of_memory())) };
    let spare = Fallback {
        label: "a smaller one".to_owned(),
        load: Box::new(|| {
            Ok(fake(Box::new(|batch, _| Ok(batch.iter().map(|w| heard(w, ("en", 0.9))).collect()))))
        }),
    };
    let broken = Fallback { label: "nothing".to_owned(), load: Box::new(|| Err("not there".to_owned())) };
    let transcriber = started_with(plan(2, 2), full(), vec![broken, spare], &options());
    assert!(submit(&transcriber, &audio).recv().unwrap().is_ok());

    let alone = started(1, 2, full());
    let failure = submit(&alone, &audio).recv().unwrap().unwrap_err();
    assert_eq!(failure.class, FailureClass::Internal, "another attempt may find more memory");
    assert!(failure.remedy.is_some_and(|r| r.contains("WHISPER_ON_OUT_OF_MEMORY")));
}

#[test]
fn what_failed_is_decoded_again_with_its_like() {
    let dir = tempfile::tempdir().unwrap();
    let mixed = Arc::new(Mutex::new(Vec::new()));
    let call: Call = {
        let mixed = Arc::clone(&mixed);
        Box::new(move |batch, temperature| {
            mixed.lock().unwrap().push((temperature, batch.len()));
            let text = |w: &Input<'_>| {
                let improbable = temperature < 0.3 && w.duration_ms.is_multiple_of(2);
                WindowText {
                    avg_logprob: if improbable { -2.0 } else { -0.1 },
                    temperature,
                    ..heard(w, ("en", 0.99))
                }
            };
            Ok(batch.iter().map(text).collect())
        })
    };
    let options = TranscribeOptions {
        decode: DecodeOptions { temperatures: vec![0.0, 0.2, 0.4], best_of: 1, ..DecodeOptions::default() },
        ..options()
    };
    let transcriber = started_with(plan(1, 4), call, Vec::new(), &options);
    let transcript = submit(&transcriber, &recording(dir.path())).recv().unwrap().unwrap();
    assert!(transcript.segments.iter().all(|s| s.avg_logprob > -1.0));
    let calls = mixed.lock().unwrap();
    let at = |t: f32| calls.iter().filter(|(u, _)| *u == t).map(|(_, n)| n).sum::<usize>();
    assert!(at(0.2) > 0 && at(0.2) == at(0.4) && at(0.4) < at(0.0), "{calls:?}");
    assert!(calls.iter().any(|(t, n)| *t > 0.0 && *n > 1), "in batches: {calls:?}");
}

#[test]
fn text_is_carried_over_in_order_where_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let count = AtomicU64::new(0);
    let call: Call = Box::new(move |batch, _| {
        let text = |w: &Input<'_>| {
            let mut text = heard(w, ("en", 0.99));
            let before = w.previous.split(' ').next().unwrap_or_default();
            text.segments[0].text = format!("{} after {before:?}", count.fetch_add(1, Relaxed));
            text
        };
        Ok(batch.iter().map(text).collect())
    });
    let options = TranscribeOptions {
        decode: DecodeOptions { carry_over: true, ..DecodeOptions::default() },
        ..options()
    };
    let transcriber = started_with(plan(2, 4), call, Vec::new(), &options);
    let transcript = submit(&transcriber, &recording(dir.path())).recv().unwrap().unwrap();
    assert_eq!(transcript.segments[0].text, "0 after \"\"");
    for (i, segment) in transcript.segments.iter().enumerate().skip(1) {
        assert_eq!(segment.text, format!("{i} after \"{}\"", i - 1));
    }
}

#[test]
fn a_prompt_said_back_is_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let call: Call = Box::new(|batch, _| {
        let text = |w: &Input<'_>| {
            let mut text = heard(w, ("en", 0.99));
            if w.prompted && w.duration_ms.is_multiple_of(2) {
                text.segments[0].text = "A talk about tea.".to_owned();
            }
            text
        };
        Ok(batch.iter().map(text).collect())
    });
    let prompt = "A talk about tea.".to_owned();
    let options = TranscribeOptions {
        decode: DecodeOptions { initial_prompt: prompt, ..DecodeOptions::default() },
        ..options()
    };
    let transcriber = started_with(plan(1, 4), call, Vec::new(), &options);
    let transcript = submit(&transcriber, &recording(dir.path())).recv().unwrap().unwrap();
    assert!(transcript.segments.iter().all(|s| s.text == "in en"), "{:?}", transcript.segments);
}

#[test]
fn speech_without_text_is_heard_once_more() {
    let dir = tempfile::tempdir().unwrap();
    // Whole windows of 5 s; one of them is lost at first.
    let speech = SpeechOptions { chunk: std::time::Duration::from_secs(5), ..SpeechOptions::default() };
    let options = TranscribeOptions { speech, ..options() };
    let run = |again: bool| {
        let count = AtomicU64::new(0);
        let call: Call = Box::new(move |batch, _| {
            let text = |w: &Input<'_>| {
                let n = count.fetch_add(1, Relaxed);
                let mut text = heard(w, ("en", 0.99));
                text.segments[0].end_ms = None;
                // The gap is heard by itself, in the language of the file.
                if n == 2 || (w.language.is_some() && !again) {
                    text.segments.clear();
                }
                text
            };
            Ok(batch.iter().map(text).collect())
        });
        let transcriber = started_with(plan(1, 1), call, Vec::new(), &options);
        submit(&transcriber, &recording(dir.path())).recv().unwrap().unwrap()
    };
    let healed = run(true);
    assert_eq!(healed.coverage.gaps, []);
    let left = run(false);
    assert!(!left.coverage.gaps.is_empty());
    assert!(left.coverage.transcribed_ms < healed.coverage.transcribed_ms);
    assert!(left.segments.len() < healed.segments.len());
}

#[test]
fn what_was_finished_before_is_not_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let audio = recording(dir.path());
    let options = TranscribeOptions {
        checkpoints: Some(CheckpointOptions { dir: dir.path().join("windows"), max_bytes: 1 << 20 }),
        ..options()
    };
    let done = Arc::new(AtomicU64::new(0));
    let transcriber = |breaks_at: u64, options: &TranscribeOptions| {
        let done = Arc::clone(&done);
        let call: Call = Box::new(move |batch, _| {
            if done.fetch_add(batch.len() as u64, Relaxed) >= breaks_at {
                return Err(EngineError::Failed("the power went out".to_owned()));
            }
            Ok(batch.iter().map(|w| heard(w, ("en", 0.99))).collect())
        });
        started_with(plan(1, 1), call, Vec::new(), options)
    };
    let broken = transcriber(10, &options);
    assert!(submit(&broken, &audio).recv().unwrap().is_err());
    done.store(0, Relaxed);
    let whole = transcriber(u64::MAX, &options);
    let transcript = submit(&whole, &audio).recv().unwrap().unwrap();
    let counts = whole.window_counts();
    assert_eq!(counts.known, 10);
    assert_eq!(done.load(Relaxed), counts.windows - 10);
    assert_eq!(transcript.segments.len() as u64, counts.windows);

    done.store(0, Relaxed);
    let other = TranscribeOptions {
        decode: DecodeOptions { beam_size: 2, ..DecodeOptions::default() },
        ..options.clone()
    };
    assert!(submit(&transcriber(u64::MAX, &other), &audio).recv().unwrap().is_ok());
    assert_eq!(done.load(Relaxed), counts.windows, "another way to decode begins anew");

    done.store(0, Relaxed);
    let threshold = TranscribeOptions {
        decode: DecodeOptions { language_threshold: 0.7, ..DecodeOptions::default() },
        ..options
    };
    assert!(submit(&transcriber(u64::MAX, &threshold), &audio).recv().unwrap().is_ok());
    assert_eq!(done.load(Relaxed), 0, "nothing that was decoded depends on it");
}

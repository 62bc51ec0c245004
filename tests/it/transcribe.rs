//! Transcription with the real engine and the small model of the fixtures.
//!
//! `corpus` measures a folder of recordings that carry their truth beside them (`x.wav`, `x.wav.json`, as
//! `tests/fixtures/make_speech.py` writes them), and is run by hand:
//!
//! ```sh
//! CORPUS=/tmp/corpus cargo test --release --test it -- transcribe::corpus --ignored --nocapture
//! ```

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use spoken::event::{Event, Events, Step};
use spoken::media::{Audio, Failure, FailureClass, MediaId, Segment, Transcript};
use spoken::stage::StageMeter;
use spoken::transcribe::{TranscribeError, TranscribeOptions, Transcriber};
use tokio_util::sync::CancellationToken;

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub fn options() -> TranscribeOptions {
    TranscribeOptions {
        model: fixtures().join("whisper-micro").display().to_string(),
        ..TranscribeOptions::default()
    }
}

pub fn start(
    options: TranscribeOptions,
) -> Result<(Transcriber, Arc<StageMeter>, Arc<StageMeter>), TranscribeError> {
    let (speech, asr) = (StageMeter::new("speech", 1), StageMeter::new("asr", 1));
    let transcriber = Transcriber::start(options, Arc::clone(&speech), Arc::clone(&asr), &mut |_| {})?;
    Ok((transcriber, speech, asr))
}

/// The samples of a 16 kHz mono wav as the decoder would leave them.
pub fn decoded(wav: &Path, dir: &Path) -> Audio {
    let bytes = std::fs::read(wav).unwrap();
    let data = bytes.windows(4).position(|w| w == b"data").unwrap() + 8;
    raw(&bytes[data..], &dir.join(format!("{}.pcm", wav.file_name().unwrap().to_str().unwrap())))
}

pub fn raw(samples: &[u8], path: &Path) -> Audio {
    std::fs::write(path, samples).unwrap();
    Audio { path: path.to_owned(), samples: samples.len() as u64 / 2, offset_ms: 0, hash: [0; 32] }
}

/// Transcribes files all at once, two submitters as in the pipeline; results in the order given.
pub fn transcribe(transcriber: &Transcriber, files: &[Audio]) -> Vec<Result<Transcript, Failure>> {
    let (events, _keep) = Events::channel();
    let cancel = CancellationToken::new();
    let (told, results) = mpsc::channel();
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(audio) = files.get(i) else { break };
                    let told = told.clone();
                    let id = MediaId::new("test", &i.to_string());
                    let done = Box::new(move |result| told.send((i, result)).unwrap());
                    transcriber.submit(id, audio, &events, &cancel, done);
                }
            });
        }
    });
    let mut all: Vec<_> = (0..files.len()).map(|_| results.recv().unwrap()).collect();
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, result)| result).collect()
}

pub struct Sentence {
    pub start: f64,
    pub text: String,
}

pub fn truth(json: &Path) -> Vec<Sentence> {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    json["sentences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| Sentence {
            start: s["start"].as_f64().unwrap(),
            text: s["text"].as_str().unwrap().to_owned(),
        })
        .collect()
}

/// Lower-case words without punctuation.
pub fn words(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|w| !w.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Insertions, deletions and substitutions between two word sequences.
pub fn word_errors(truth: &[String], heard: &[String]) -> usize {
    let mut row: Vec<usize> = (0..=heard.len()).collect();
    for (i, word) in truth.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in heard.iter().enumerate() {
            let cost = (diagonal + usize::from(word != other)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = cost;
        }
    }
    row[heard.len()]
}

/// For each true sentence, how far the nearest segment's start is from its own.
pub fn start_errors(truth: &[Sentence], segments: &[Segment]) -> Vec<f64> {
    truth
        .iter()
        .map(|s| {
            segments
                .iter()
                .map(|x| (x.start_ms as f64 / 1000.0 - s.start).abs())
                .fold(f64::INFINITY, f64::min)
        })
        .collect()
}

pub fn all_words(segments: &[Segment]) -> Vec<String> {
    segments.iter().flat_map(|s| words(&s.text)).collect()
}

#[test]
fn a_recording_is_written_down_with_its_times() {
    let dir = tempfile::tempdir().unwrap();
    let mut audio = decoded(&fixtures().join("media/voice-memo.wav"), dir.path());
    audio.offset_ms = 4_000;
    let sentences = truth(&fixtures().join("media-truth/voice-memo.wav.json"));
    let (transcriber, speech, asr) = start(options()).unwrap();
    let (events, mut heard) = Events::channel();
    let (told, result) = mpsc::channel();
    let id = MediaId::new("test", "memo");
    transcriber.submit(
        id,
        &audio,
        &events,
        &CancellationToken::new(),
        Box::new(move |result| told.send(result).unwrap()),
    );
    let mut transcript = result.recv().unwrap().unwrap();
    assert!(transcript.segments.iter().all(|s| s.start_ms >= 4_000), "the container's offset is added");
    for segment in &mut transcript.segments {
        segment.start_ms -= 4_000;
        segment.end_ms -= 4_000;
    }
    let spoken: Vec<String> = sentences.iter().flat_map(|s| words(&s.text)).collect();
    let errors = word_errors(&spoken, &all_words(&transcript.segments));
    assert!(
        errors * 10 <= spoken.len(),
        "{errors} of {} words wrong: {:?}",
        spoken.len(),
        transcript.segments
    );
    let late = start_errors(&sentences, &transcript.segments).into_iter().filter(|e| *e > 0.5).count();
    assert!(late <= 1, "{late} of {} starts are off: {:?}", sentences.len(), transcript.segments);
    assert!(transcript.segments.windows(2).all(|w| w[0].end_ms <= w[1].start_ms));
    assert_eq!((transcript.language.as_str(), transcript.model.as_str()), ("en", "whisper-micro"));
    assert_eq!(transcript.duration_ms, audio.duration_ms());
    assert!(transcript.speech_ms > 0 && transcript.speech_ms <= transcript.duration_ms);

    // Dropping the transcriber joins the feeders, so that everything was counted.
    drop(transcriber);
    assert_eq!((speech.summary().items, asr.summary().items), (1, 1));
    assert!(asr.summary().busy_ms > 0 && asr.summary().in_hand == 0);
    let mut last = None;
    while let Ok(event) = heard.try_recv() {
        if let Event::StepProgressed { step: Step::Transcribe, done, total, .. } = event {
            last = Some((done, total));
        }
    }
    let length = audio.duration_ms() as u64;
    assert_eq!(last, Some((length, Some(length))));
}

#[test]
fn silence_and_a_tone_are_no_speech() {
    let dir = tempfile::tempdir().unwrap();
    let silent = raw(&vec![0; 2 * 16_000 * 3], &dir.path().join("silent"));
    let empty = raw(&[], &dir.path().join("empty"));
    // A steady tone, which the detector takes for a voice, and the gate before it does not.
    let tone: Vec<u8> = (0..16_000 * 5)
        .map(|i| ((f64::from(i) * 440.0 * std::f64::consts::TAU / 16_000.0).sin() * 8000.0) as i16)
        .flat_map(i16::to_le_bytes)
        .collect();
    let tone = raw(&tone, &dir.path().join("tone"));
    let missing = Audio { path: dir.path().join("missing"), samples: 16_000, offset_ms: 0, hash: [0; 32] };
    let (transcriber, ..) = start(options()).unwrap();
    let failures: Vec<Failure> = transcribe(&transcriber, &[silent, empty, tone, missing])
        .into_iter()
        .map(|r| r.unwrap_err())
        .collect();
    assert_eq!(failures[0].class, FailureClass::NoSpeech);
    assert!(failures[0].message.contains("3.0 s"), "{}", failures[0]);
    assert_eq!(
        (failures[1].class, failures[1].message.as_str()),
        (FailureClass::NoSpeech, "the audio is empty")
    );
    assert_eq!(failures[2].class, FailureClass::NoSpeech);
    assert!(failures[2].message.contains("no speech was found in 5.0 s"), "{}", failures[2]);
    assert_eq!(failures[3].class, FailureClass::Internal);
}

#[test]
fn a_configured_language_is_checked_against_the_model() {
    let error = start(TranscribeOptions { language: Some("xx".into()), ..options() }).unwrap_err();
    assert!(matches!(error, TranscribeError::Language { .. }), "{error}");
    assert!(error.to_string().contains("es"));
}

#[test]
fn weights_that_are_none_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "vocabulary.json"] {
        std::fs::copy(fixtures().join("whisper-micro").join(file), dir.path().join(file)).unwrap();
    }
    std::fs::write(dir.path().join("model.bin"), "no weights").unwrap();
    let error =
        start(TranscribeOptions { model: dir.path().display().to_string(), ..options() }).unwrap_err();
    assert!(matches!(error, TranscribeError::Load(_)), "{error}");
    assert!(error.to_string().contains(dir.path().to_str().unwrap()));
}

#[test]
fn what_is_in_flight_is_told_when_the_program_stops() {
    let dir = tempfile::tempdir().unwrap();
    let audio = decoded(&fixtures().join("media/voice-memo.wav"), dir.path());
    let (transcriber, ..) = start(options()).unwrap();
    let (events, _keep) = Events::channel();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let (told, result) = mpsc::channel();
    let done = Box::new(move |result| told.send(result).unwrap());
    transcriber.submit(MediaId::new("test", "stop"), &audio, &events, &cancel, done);
    let failure = result.recv().unwrap().unwrap_err();
    assert_eq!((failure.class, failure.message.as_str()), (FailureClass::Internal, "stopped"));
    assert!(result.recv().is_err(), "told once");
}

/// Two runs of the same files give the same segments, however their windows met in batches.
#[test]
fn results_do_not_depend_on_batches() {
    let dir = tempfile::tempdir().unwrap();
    let one = decoded(&fixtures().join("media/voice-memo.wav"), dir.path());
    let (transcriber, ..) = start(options()).unwrap();
    let alone = transcribe(&transcriber, std::slice::from_ref(&one)).remove(0).unwrap();
    let crowd = transcribe(&transcriber, &vec![one; 7]);
    for transcript in crowd {
        let transcript = transcript.unwrap();
        let plain = |t: &Transcript| -> Vec<(i64, i64, String)> {
            t.segments.iter().map(|s| (s.start_ms, s.end_ms, s.text.clone())).collect()
        };
        assert_eq!(plain(&transcript), plain(&alone));
    }
}

#[test]
#[ignore = "measures the recordings in $CORPUS"]
fn corpus() {
    let folder = PathBuf::from(std::env::var("CORPUS").expect("CORPUS names a folder of wav files"));
    let dir = tempfile::tempdir().unwrap();
    let var = |name: &str| std::env::var(name).ok();
    let mut options = options();
    if let Some(model) = var("WHISPER_MODEL") {
        options.model = model;
    }
    options.engine = var("WHISPER_ENGINE").map_or_else(Default::default, |v| v.parse().unwrap());
    options.language = var("WHISPER_LANGUAGE");
    options.decode.word_times = var("WORD_TIMES").is_some();
    options.decode.beam_size = var("BEAM_SIZE").map_or(5, |v| v.parse().unwrap());
    options.wishes.batch_size = var("WHISPER_BATCH_SIZE").map(|v| v.parse().unwrap());
    options.wishes.parallel_models = var("WHISPER_PARALLEL_MODELS").map(|v| v.parse().unwrap());
    options.wishes.threads = var("WHISPER_THREADS").map(|v| v.parse().unwrap());
    options.wishes.compute = var("WHISPER_COMPUTE").map_or_else(Default::default, |v| v.parse().unwrap());
    options.wishes.device = var("WHISPER_DEVICE").map_or_else(Default::default, |v| v.parse().unwrap());
    let mut wavs: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "wav"))
        .collect();
    wavs.sort();
    let files: Vec<Audio> = wavs.iter().map(|wav| decoded(wav, dir.path())).collect();
    let (transcriber, speech, asr) = start(options).unwrap();
    println!("{}", transcriber.plan());
    let started = Instant::now();
    let results = transcribe(&transcriber, &files);
    let wall = started.elapsed().as_secs_f64();
    let (mut errors, mut spoken, mut starts) = (0, 0, Vec::new());
    for (wav, result) in wavs.iter().zip(&results) {
        let sentences = truth(&PathBuf::from(format!("{}.json", wav.display())));
        let true_words: Vec<String> = sentences.iter().flat_map(|s| words(&s.text)).collect();
        let segments = result.as_ref().map_or(&[][..], |t| &t.segments[..]);
        let wrong = word_errors(&true_words, &all_words(segments));
        let file_starts = start_errors(&sentences, segments);
        let late = file_starts.iter().filter(|e| **e > 0.5).count();
        let language = result.as_ref().map_or_else(|e| e.to_string(), |t| t.language.clone());
        println!(
            "{:30} {:4} words {:3} wrong, {:3} sentences {late:2} starts off, {language}",
            wav.file_name().unwrap().display(),
            true_words.len(),
            wrong,
            sentences.len()
        );
        if var("VERBOSE").is_some() {
            for s in segments {
                println!(
                    "    {:8.2} {:8.2} {:.2} {:.2} {} {}",
                    s.start_ms as f64 / 1e3,
                    s.end_ms as f64 / 1e3,
                    s.avg_logprob,
                    s.no_speech_prob,
                    s.language,
                    s.text
                );
            }
        }
        errors += wrong;
        spoken += true_words.len();
        starts.extend(file_starts);
    }
    starts.sort_by(f64::total_cmp);
    let at = |p: f64| starts.get((starts.len() as f64 * p) as usize).copied().unwrap_or(0.0);
    let within = starts.iter().filter(|e| **e <= 0.5).count() as f64 / starts.len().max(1) as f64;
    let audio: f64 = files.iter().map(|f| f.samples as f64 / 16_000.0).sum();
    let (speech, asr) = (speech.summary(), asr.summary());
    println!(
        "WER {:.2} % of {spoken} words; starts within 0.5 s {:.1} %, median {:.3} p95 {:.3}; {audio:.0} s in {wall:.2} s = {:.0} × real time",
        100.0 * errors as f64 / spoken.max(1) as f64,
        100.0 * within,
        at(0.5),
        at(0.95),
        audio / wall
    );
    println!(
        "speech busy {} ms, held back {} ms; model busy {} ms, starved {} ms",
        speech.busy_ms, speech.wait_out_ms, asr.busy_ms, asr.wait_in_ms
    );
}

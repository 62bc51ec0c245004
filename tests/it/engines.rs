//! What holds for every engine, tested with each: the same speech, the same small model in the engine's own format.

use std::path::PathBuf;

use spoken::decode;
use spoken::event::{Events, Step};
use spoken::media::{Audio, FailureClass, MediaId, Transcript};
use spoken::transcribe::{EngineKind, TranscribeError, TranscribeOptions, Transcriber};
use tokio_util::sync::CancellationToken;

use super::transcribe::{
    all_words, decoded, fixtures, raw, start, start_errors, transcribe, truth, word_errors, words,
};

/// Where the fixtures have the model for an engine.
fn model(engine: EngineKind) -> PathBuf {
    fixtures().join(match engine.name() {
        "ct2" => "whisper-micro",
        "whisper-cpp" => "whisper-micro-ggml",
        other => panic!("no model for {other}"),
    })
}

fn options(engine: EngineKind) -> TranscribeOptions {
    TranscribeOptions { engine, model: model(engine).display().to_string(), ..TranscribeOptions::default() }
}

fn started(engine: EngineKind, change: impl FnOnce(&mut TranscribeOptions)) -> Transcriber {
    let mut options = options(engine);
    change(&mut options);
    start(options).unwrap().0
}

/// The sample recordings, decoded, with the words that are said in each.
fn samples(dir: &std::path::Path) -> Vec<(String, Audio, Vec<String>)> {
    let media = fixtures().join("media");
    let (events, _keep) = Events::channel();
    let mut names: Vec<String> = std::fs::read_dir(&media)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let pcm = dir.join(format!("{name}.pcm"));
            let options = decode::DecodeOptions::default();
            let mut progress = events.progress(MediaId::new("test", &name), Step::Decode);
            let cancel = CancellationToken::new();
            let audio =
                decode::decode(&media.join(&name), &pcm, &options, None, &mut progress, &cancel).unwrap();
            let truth = truth(&fixtures().join(format!("media-truth/{name}.json")));
            let spoken = truth.iter().flat_map(|s| words(&s.text)).collect();
            (name, audio, spoken)
        })
        .collect()
}

fn plain(transcript: &Transcript) -> Vec<(i64, i64, String)> {
    transcript.segments.iter().map(|s| (s.start_ms, s.end_ms, s.text.clone())).collect()
}

fn a_recording_is_written_down_with_its_times(engine: EngineKind) {
    let dir = tempfile::tempdir().unwrap();
    let audio = decoded(&fixtures().join("media/voice-memo.wav"), dir.path());
    let sentences = truth(&fixtures().join("media-truth/voice-memo.wav.json"));
    let transcriber = started(engine, |_| {});
    let transcript = transcribe(&transcriber, &[audio]).remove(0).unwrap();
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
    assert!(
        transcript.segments.iter().all(|s| s.avg_logprob < 0.0 && s.avg_logprob > -1.0),
        "{transcript:?}"
    );
    assert_eq!(transcript.language, "en");
}

/// A file in Spanish beside files in English, and a window of each in one file.
fn every_window_has_its_own_language(engine: EngineKind) {
    let dir = tempfile::tempdir().unwrap();
    let samples = samples(dir.path());
    let pcm = |name: &str| {
        let (_, audio, _) = samples.iter().find(|(n, ..)| n.starts_with(name)).unwrap();
        std::fs::read(&audio.path).unwrap()
    };
    let both = [pcm("voice-memo"), pcm("charla")].concat();
    let both = raw(&both, &dir.path().join("both"));
    let files: Vec<Audio> = samples.iter().map(|(_, audio, _)| audio.clone()).chain([both]).collect();
    let transcriber = started(engine, |_| {});
    let transcripts = transcribe(&transcriber, &files);
    for ((name, ..), transcript) in samples.iter().zip(&transcripts) {
        let language = if name.starts_with("charla") { "es" } else { "en" };
        assert_eq!(transcript.as_ref().unwrap().language, language, "{name}");
    }
    let both = transcripts.last().unwrap().as_ref().unwrap();
    assert!(
        both.segments.iter().any(|s| s.language == "en") && both.segments.iter().any(|s| s.language == "es")
    );
    // Told what to choose from, it does.
    let transcriber = started(engine, |o| o.decode.languages = vec!["es".to_owned()]);
    let transcript = transcribe(&transcriber, &files[4..5]).remove(0).unwrap();
    assert!(transcript.segments.iter().all(|s| s.language == "es"), "{transcript:?}");
}

fn silence_and_tones_have_no_words(engine: EngineKind) {
    let dir = tempfile::tempdir().unwrap();
    let tone = |hertz: f64, path: &str| {
        let samples: Vec<u8> = (0..16_000 * 20)
            .map(|i| ((f64::from(i) * hertz * std::f64::consts::TAU / 16_000.0).sin() * 8000.0) as i16)
            .flat_map(i16::to_le_bytes)
            .collect();
        raw(&samples, &dir.path().join(path))
    };
    let silent = raw(&vec![0; 2 * 16_000 * 3], &dir.path().join("silent"));
    let transcriber = started(engine, |_| {});
    for result in
        transcribe(&transcriber, &[silent, tone(440.0, "a4"), tone(150.0, "hum"), tone(1000.0, "beep")])
    {
        let failure = result.unwrap_err();
        assert_eq!(failure.class, FailureClass::NoSpeech, "{failure}");
    }
}

/// Neither how many replicas there are, nor which windows met in one, nor what was done before changes the text.
fn replicas_give_the_same_text(engine: EngineKind) {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<Audio> = samples(dir.path()).into_iter().map(|(_, audio, _)| audio).take(2).collect();
    let texts = |replicas: usize, beam_size: usize, files: &[Audio]| -> Vec<_> {
        let transcriber = started(engine, |o| {
            o.wishes.parallel_models = Some(replicas);
            o.wishes.threads = Some(1);
            o.decode.beam_size = beam_size;
        });
        assert_eq!(transcriber.plan().replicas, replicas);
        transcribe(&transcriber, files).into_iter().map(|t| plain(&t.unwrap())).collect()
    };
    for beam_size in [1, 5] {
        let one = texts(1, beam_size, &files);
        let crowd: Vec<Audio> = files.iter().cloned().chain(files.iter().rev().cloned()).collect();
        let two = texts(2, beam_size, &crowd);
        assert_eq!(two[..2], one, "beam {beam_size}");
        assert!(two[2..].iter().rev().eq(&one), "beam {beam_size}");
    }
}

fn words_have_times_in_order(engine: EngineKind) {
    let dir = tempfile::tempdir().unwrap();
    let audio = decoded(&fixtures().join("media/voice-memo.wav"), dir.path());
    let transcriber = started(engine, |o| o.decode.word_times = true);
    let transcript = transcribe(&transcriber, &[audio]).remove(0).unwrap();
    for segment in &transcript.segments {
        let text = segment.words.iter().map(|w| w.text.as_str()).collect::<Vec<_>>().join(" ");
        assert_eq!(words(&text), words(&segment.text));
        assert!(segment.words.iter().all(|w| w.start_ms <= w.end_ms && (0.0..=1.0).contains(&w.prob)));
        assert!(segment.words.windows(2).all(|w| w[0].end_ms <= w[1].start_ms), "{segment:?}");
        let (first, last) = (segment.words.first().unwrap(), segment.words.last().unwrap());
        assert!(first.start_ms >= segment.start_ms && last.end_ms <= segment.end_ms, "{segment:?}");
    }
}

fn what_cannot_be_loaded_is_named(engine: EngineKind) {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(model(engine)).unwrap() {
        let from = entry.unwrap().path();
        let to = dir.path().join(from.file_name().unwrap());
        if from.extension().is_some_and(|e| e == "bin") {
            let whole = std::fs::read(&from).unwrap();
            std::fs::write(to, &whole[..whole.len() / 3]).unwrap();
        } else {
            std::fs::copy(&from, to).unwrap();
        }
    }
    let load = |model: String| start(TranscribeOptions { model, ..options(engine) }).unwrap_err();
    let error = load(dir.path().display().to_string());
    assert!(matches!(error, TranscribeError::Load(_)), "{error}");
    assert!(
        error.to_string().contains("cut off") && error.to_string().contains(dir.path().to_str().unwrap()),
        "{error}"
    );
    let error = load("/no/such/model".to_owned()).to_string();
    assert!(error.contains("/no/such/model") && error.contains("WHISPER_MODEL"), "{error}");
    let other = EngineKind::all().find(|other| *other != engine);
    if let Some(other) = other {
        let error = load(model(other).display().to_string()).to_string();
        assert!(error.contains(&format!("set WHISPER_ENGINE={other}")), "{error}");
    }
    let error = start(TranscribeOptions { language: Some("xx".into()), ..options(engine) }).unwrap_err();
    assert!(matches!(error, TranscribeError::Language { .. }), "{error}");
    assert!(error.to_string().contains("es"));
}

/// Words wrong in a hundred, over all samples.
fn error_rate(engine: EngineKind, files: &[(String, Audio, Vec<String>)]) -> f64 {
    let audio: Vec<Audio> = files.iter().map(|(_, audio, _)| audio.clone()).collect();
    let transcripts = transcribe(&started(engine, |_| {}), &audio);
    let wrong: usize = transcripts
        .iter()
        .zip(files)
        .map(|(t, (.., spoken))| word_errors(spoken, &all_words(&t.as_ref().unwrap().segments)))
        .sum();
    100.0 * wrong as f64 / files.iter().map(|(.., spoken)| spoken.len()).sum::<usize>() as f64
}

#[test]
fn all_engines_hear_the_same_words() {
    let dir = tempfile::tempdir().unwrap();
    let files = samples(dir.path());
    let reference = error_rate(EngineKind::default(), &files);
    for engine in EngineKind::all() {
        let rate = error_rate(engine, &files);
        println!("{engine}: {rate:.2} %");
        assert!(
            (rate - reference).abs() <= 1.0,
            "{engine}: {rate:.2} %, {reference:.2} % of the default engine"
        );
    }
}

macro_rules! with_each_engine {
    ($($test:ident),* $(,)?) => {
        mod ct2 {
            $(#[test] fn $test() { super::$test("ct2".parse().unwrap()) })*
        }
        #[cfg(feature = "whisper-cpp")]
        mod whisper_cpp {
            $(#[test] fn $test() { super::$test("whisper-cpp".parse().unwrap()) })*
        }
    };
}

with_each_engine!(
    a_recording_is_written_down_with_its_times,
    every_window_has_its_own_language,
    silence_and_tones_have_no_words,
    replicas_give_the_same_text,
    words_have_times_in_order,
    what_cannot_be_loaded_is_named,
);

//! Word times with the real engine and the small model of the fixtures, against the truth.
//!
//! `corpus` measures a folder with `media/` and `truth/` as the benchmarks make them, with the engine's time beside
//! that without word times, and is run by hand:
//!
//! ```sh
//! CORPUS=/tmp/corpus cargo test --release --test it -- words::corpus --ignored --nocapture
//! ```

use std::path::{Path, PathBuf};

use spoken::decode::{self, decode};
use spoken::event::{Events, Step};
use spoken::media::{Audio, MediaId, Segment, Transcript, Word};
use spoken::transcribe::TranscribeOptions;
use tokio_util::sync::CancellationToken;

use crate::transcribe::{fixtures, options, start, transcribe};

/// As the pipeline decodes it.
fn audio(media: &Path, dir: &Path) -> Audio {
    let (events, _keep) = Events::channel();
    let name = media.file_name().unwrap().to_str().unwrap();
    let mut progress = events.progress(MediaId::new("test", name), Step::Decode);
    let output = dir.join(format!("{name}.pcm"));
    let limits = decode::DecodeOptions::default();
    decode(media, &output, &limits, None, &mut progress, &CancellationToken::new()).unwrap()
}

/// A word as it was said; times in milliseconds.
struct Said {
    text: String,
    start: f64,
    end: f64,
}

/// The words of the truth whose start is known.
fn truth(json: &Path) -> Vec<Said> {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let sentences = json["sentences"].as_array().unwrap();
    let words = sentences.iter().flat_map(|s| s["words"].as_array().unwrap());
    words
        .filter_map(|word| {
            Some(Said {
                text: bare(word[0].as_str().unwrap()),
                start: word[1].as_f64()? * 1e3,
                end: word[2].as_f64()? * 1e3,
            })
        })
        .collect()
}

fn bare(word: &str) -> String {
    word.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect()
}

/// Pairs of the longest common subsequence: words that were heard right.
fn heard_right<'a>(said: &'a [Said], heard: &'a [Word]) -> Vec<(&'a Said, &'a Word)> {
    let text: Vec<String> = heard.iter().map(|w| bare(&w.text)).collect();
    let mut longest = vec![vec![0u32; heard.len() + 1]; said.len() + 1];
    for i in (0..said.len()).rev() {
        for j in (0..heard.len()).rev() {
            longest[i][j] = if said[i].text == text[j] {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < said.len() && j < heard.len() {
        if said[i].text == text[j] {
            pairs.push((&said[i], &heard[j]));
            (i, j) = (i + 1, j + 1);
        } else if longest[i + 1][j] >= longest[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

/// What holds for every transcript: words in order, within their segments, and saying what the segment says.
fn check(segments: &[Segment]) {
    let mut at = i64::MIN;
    for segment in segments {
        assert!(!segment.words.is_empty(), "no words: {segment:?}");
        for word in &segment.words {
            assert!(word.start_ms >= at.max(segment.start_ms), "{word:?} in {segment:?}");
            assert!(word.end_ms >= word.start_ms && word.end_ms <= segment.end_ms, "{word:?} in {segment:?}");
            assert_eq!(word.text, word.text.trim());
            at = word.end_ms;
        }
        let words: Vec<&str> = segment.words.iter().map(|w| w.text.as_str()).collect();
        assert_eq!(words.concat(), segment.text.split_whitespace().collect::<String>());
    }
}

/// Errors of starts and of ends, milliseconds, sorted, and how many words were said.
#[derive(Default)]
struct Errors {
    starts: Vec<f64>,
    ends: Vec<f64>,
    said: usize,
}

impl Errors {
    fn add(&mut self, said: &[Said], transcript: &Transcript) {
        check(&transcript.segments);
        let heard: Vec<Word> = transcript.segments.iter().flat_map(|s| s.words.clone()).collect();
        for (said, heard) in heard_right(said, &heard) {
            self.starts.push((heard.start_ms as f64 - said.start).abs());
            self.ends.push((heard.end_ms as f64 - said.end).abs());
        }
        self.said += said.len();
        self.starts.sort_by(f64::total_cmp);
        self.ends.sort_by(f64::total_cmp);
    }

    fn summary(&self) -> String {
        let line = |errors: &[f64]| {
            let at = |share: f64| errors[((errors.len() - 1) as f64 * share) as usize];
            let near = errors.iter().filter(|e| **e <= 300.0).count() as f64 / errors.len() as f64;
            format!("median {:.0} ms, 95 % {:.0} ms, within 300 ms {:.2} %", at(0.5), at(0.95), near * 100.0)
        };
        let (starts, ends) = (line(&self.starts), line(&self.ends));
        format!("{} of {} words heard right; starts: {starts}; ends: {ends}", self.starts.len(), self.said)
    }
}

fn with_words() -> TranscribeOptions {
    let mut options = options();
    options.decode.word_times = true;
    options
}

#[test]
fn words_are_timed_as_they_were_said() {
    let dir = tempfile::tempdir().unwrap();
    let names = [
        "voice-memo.wav",
        "lunch-talk.mp3",
        "travel-plans.mp4",
        "noisy-market.m4a",
        "charla-en-la-oficina.webm",
    ];
    let files: Vec<Audio> =
        names.iter().map(|name| audio(&fixtures().join("media").join(name), dir.path())).collect();
    let (transcriber, ..) = start(with_words()).unwrap();
    let mut errors = Errors::default();
    for ((name, audio), result) in names.iter().zip(&files).zip(transcribe(&transcriber, &files)) {
        let mut transcript = result.unwrap();
        for word in transcript.segments.iter_mut().flat_map(|s| &mut s.words) {
            assert!((0.0..=1.0).contains(&word.prob), "{word:?}");
        }
        // The truth counts from the first sample.
        for segment in &mut transcript.segments {
            segment.start_ms -= audio.offset_ms;
            segment.end_ms -= audio.offset_ms;
            for word in &mut segment.words {
                word.start_ms -= audio.offset_ms;
                word.end_ms -= audio.offset_ms;
            }
        }
        errors.add(&truth(&fixtures().join(format!("media-truth/{name}.json"))), &transcript);
    }
    let summary = errors.summary();
    assert!(errors.starts.len() * 10 >= errors.said * 9, "{summary}");
    assert!(errors.starts[errors.starts.len() / 2] <= 80.0, "{summary}");
    assert!(errors.starts[errors.starts.len() * 95 / 100] <= 300.0, "{summary}");
    assert!(errors.ends[errors.ends.len() / 2] <= 80.0, "{summary}");
}

#[test]
fn word_times_change_neither_text_nor_segments() {
    let dir = tempfile::tempdir().unwrap();
    let file = audio(&fixtures().join("media/voice-memo.wav"), dir.path());
    let of = |options| {
        let (transcriber, ..) = start(options).unwrap();
        transcribe(&transcriber, std::slice::from_ref(&file)).remove(0).unwrap()
    };
    let (mut with, without) = (of(with_words()), of(options()));
    assert!(with.segments.iter().all(|s| !s.words.is_empty()));
    with.segments.iter_mut().for_each(|s| s.words.clear());
    assert_eq!(with, without);
}

#[test]
fn a_model_without_alignment_heads_still_writes() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for file in std::fs::read_dir(fixtures().join("whisper-micro")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
    let config = model.join("config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    assert!(json.as_object_mut().unwrap().remove("alignment_heads").is_some());
    std::fs::write(&config, json.to_string()).unwrap();
    let file = audio(&fixtures().join("media/voice-memo.wav"), dir.path());
    let (transcriber, ..) =
        start(TranscribeOptions { model: model.display().to_string(), ..with_words() }).unwrap();
    let transcript = transcribe(&transcriber, &[file]).remove(0).unwrap();
    assert!(transcript.segments.len() > 5);
    assert!(transcript.segments.iter().all(|s| s.words.is_empty()));
}

#[test]
#[ignore = "measures the media in $CORPUS"]
fn corpus() {
    let folder = PathBuf::from(std::env::var("CORPUS").expect("CORPUS names a folder with media and truth"));
    let dir = tempfile::tempdir().unwrap();
    let mut media: Vec<PathBuf> =
        std::fs::read_dir(folder.join("media")).unwrap().map(|e| e.unwrap().path()).collect();
    media.sort();
    let files: Vec<Audio> = media.iter().map(|path| audio(path, dir.path())).collect();
    let model = std::env::var("WHISPER_MODEL").ok();
    let mut busy = Vec::new();
    for round in 0..4 {
        let mut options = if round % 2 == 0 { options() } else { with_words() };
        if let Some(model) = &model {
            options.model.clone_from(model);
            options.decode.temperatures = vec![0.0];
        }
        options.decode.beam_size = std::env::var("BEAM_SIZE").map_or(5, |v| v.parse().unwrap());
        let (transcriber, _, asr) = start(options).unwrap();
        let results = transcribe(&transcriber, &files);
        drop(transcriber);
        busy.push(asr.summary().busy_ms as f64);
        if round == 1 && model.is_none() {
            let mut errors = Errors::default();
            for (path, result) in media.iter().zip(results) {
                let name = path.file_name().unwrap().to_str().unwrap();
                errors.add(&truth(&folder.join(format!("truth/{name}.json"))), &result.unwrap());
            }
            println!("{}", errors.summary());
        }
    }
    println!("engine: {busy:?} ms without, with, without, with word times");
    println!("word times cost {:.1} %", ((busy[1] + busy[3]) / (busy[0] + busy[2]) - 1.0) * 100.0);
}

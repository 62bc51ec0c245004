use std::path::PathBuf;
use std::sync::mpsc;

use super::super::engine::{DecodeOptions, TimedText};
use super::*;
use crate::event::{Events, Step};
use crate::media::{FailureClass, MediaId, SAMPLE_RATE};
use crate::transcribe::guard::GuardOptions;

const SECOND: u64 = SAMPLE_RATE as u64;

fn text(language: &str, prob: f32, said: &[(u32, Option<u32>, &str)]) -> WindowText {
    WindowText {
        language: language.to_owned(),
        language_prob: prob,
        segments: said
            .iter()
            .map(|&(start_ms, end_ms, text)| TimedText {
                start_ms,
                end_ms,
                text: text.to_owned(),
                words: Vec::new(),
            })
            .collect(),
        avg_logprob: -0.2,
        no_speech_prob: 0.1,
        compression_ratio: 1.0,
        temperature: 0.0,
    }
}

fn window(from: u64, to: u64, speech: &[(u64, u64)]) -> Window {
    Window {
        pieces: vec![Span { start: from * SECOND, end: to * SECOND }],
        samples: vec![0; ((to - from) * SECOND) as usize],
        speech: speech.iter().map(|&(a, b)| Span { start: a * SECOND, end: b * SECOND }).collect(),
        edges: Vec::new(),
    }
}

fn job(seconds: u64, offset_ms: i64) -> (Job, mpsc::Receiver<Result<Transcript, Failure>>) {
    let (events, _) = Events::channel();
    let (told, result) = mpsc::channel();
    let audio = Audio { path: PathBuf::new(), samples: seconds * SECOND, offset_ms, hash: [0; 32] };
    let progress = events.progress(MediaId::new("test", "1"), Step::Transcribe);
    let on_done = Box::new(move |r| told.send(r).unwrap());
    (Job::new(0, audio, "model".to_owned(), None, CancellationToken::new(), progress, on_done), result)
}

/// Detected among these languages.
fn rules(languages: &[&str]) -> Rules {
    Rules {
        language: None,
        languages: languages.iter().map(|&l| l.to_owned()).collect(),
        decode: DecodeOptions::default(),
        guards: GuardOptions::default(),
        segments: crate::transcribe::SegmentOptions::default(),
    }
}

fn again(job: &Job, rules: &Rules) -> Vec<Again> {
    match job.next(rules) {
        Next::Again(windows) => windows,
        Next::Known => panic!("nothing is known"),
        Next::Complete => Vec::new(),
    }
}

#[test]
fn windows_in_any_order_make_segments_in_order() {
    let (job, result) = job(60, 1_500);
    assert_eq!(job.add(&window(1, 20, &[(2, 19)]), None, ""), Some(0));
    assert_eq!(job.add(&window(20, 45, &[(21, 40), (41, 44)]), None, ""), Some(1));
    assert!(!job.returned(1, Some(text("en", 1.0, &[(1_000, Some(3_000), "b"), (4_000, None, "c")]))));
    assert!(!job.all_cut(), "one is still out");
    assert!(job.returned(0, Some(text("en", 1.0, &[(0, Some(30_000), "a")]))));
    assert_eq!(again(&job, &rules(&[])), []);
    job.complete(&rules(&[]));
    let transcript = result.recv().unwrap().unwrap();
    let said: Vec<_> = transcript.segments.iter().map(|s| (s.start_ms, s.end_ms, s.text.as_str())).collect();
    // "a" may not leave its window; "c" has no end, so it ends with the window's speech; all moved by the offset.
    assert_eq!(said, [(2_500, 21_500, "a"), (22_500, 24_500, "b"), (25_500, 45_500, "c")]);
    assert_eq!((transcript.duration_ms, transcript.speech_ms), (60_000, 39_000));
    assert!(job.is_over());
}

#[test]
fn no_window_and_no_words_are_told_apart() {
    let (silent, result) = job(75, 0);
    assert!(silent.all_cut());
    silent.complete(&rules(&[]));
    let failure = result.recv().unwrap().unwrap_err();
    assert_eq!(
        (failure.class, failure.message.as_str()),
        (FailureClass::NoSpeech, "no speech was found in 1:15 of audio")
    );

    let (mumbled, result) = job(4_000, 0);
    mumbled.add(&window(0, 10, &[(1, 9)]), None, "");
    mumbled.all_cut();
    assert!(mumbled.returned(0, Some(text("en", 1.0, &[]))));
    mumbled.complete(&rules(&[]));
    let failure = result.recv().unwrap().unwrap_err();
    assert_eq!(failure.class, FailureClass::NoSpeech);
    assert_eq!(failure.message, "8.0 s of 1:06:40 sounded like speech, but the model heard no words in it");
}

#[test]
fn a_doubtful_language_gives_way_to_that_of_the_file() {
    let (job, result) = job(100, 0);
    for (i, seconds) in [20, 20, 20, 2].into_iter().enumerate() {
        let from = 25 * i as u64;
        job.add(&window(from, from + seconds, &[(from, from + seconds)]), None, "");
    }
    job.all_cut();
    job.returned(0, Some(text("es", 0.9, &[(0, None, "uno")])));
    job.returned(1, Some(text("en", 0.99, &[(0, None, "a language of its own")])));
    job.returned(2, Some(text("pt", 0.4, &[(0, None, "a guess")])));
    // Sure enough for a long window, not for two seconds.
    assert!(job.returned(3, Some(text("gl", 0.8, &[(0, None, "too short to be sure")]))));
    let again_in = again(&job, &rules(&["en", "es"]));
    let wanted: Vec<_> = again_in
        .iter()
        .map(|a| (a.index, a.language.as_deref().unwrap(), a.pieces[0].start / SECOND))
        .collect();
    assert_eq!(wanted, [(2, "en", 50), (3, "en", 75)]);
    assert!(!job.returned(2, Some(text("en", 1.0, &[(0, None, "in english")]))));
    assert!(job.returned(3, None), "a window that cannot be read again keeps its text");
    assert_eq!(again(&job, &rules(&["en", "es", "gl"])), [], "once is enough");
    job.complete(&rules(&[]));
    let transcript = result.recv().unwrap().unwrap();
    let mut languages: Vec<_> = transcript.segments.iter().map(|s| s.language.as_str()).collect();
    languages.dedup(); // long segments were divided
    assert_eq!(languages, ["es", "en", "gl"]);
    assert_eq!(transcript.language, "en");
}

#[test]
fn only_the_first_end_counts() {
    let (job, result) = job(10, 0);
    job.fail(Failure::new(FailureClass::Internal, "first"));
    job.fail(Failure::new(FailureClass::Internal, "second"));
    job.complete(&rules(&[]));
    assert_eq!(result.recv().unwrap().unwrap_err().message, "first");
    assert!(result.recv().is_err());
}

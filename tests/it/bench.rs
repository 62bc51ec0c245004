//! What needs no library: `spoken bench` and `spoken transcribe`, on the sample recordings.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::cli::{Library, repository};

fn sample(name: &str) -> String {
    repository().join("tests/fixtures/media").join(name).display().to_string()
}

fn number(of: &Value, key: &str) -> f64 {
    of[key].as_f64().unwrap_or_else(|| panic!("{key} is no number in {of}"))
}

/// Nothing may be left of a run without a library but what is kept of recordings that were not finished.
fn left(data: &Path) -> Vec<String> {
    let spool = data.join("spool");
    fs::read_dir(spool).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn configurations_are_measured_and_one_is_recommended() {
    let library = Library::new();
    let truth = repository().join("tests/fixtures/media-truth").display().to_string();
    let (memo, talk) = (sample("voice-memo.wav"), sample("lunch-talk.mp3"));
    let ran = library.ok(&[
        "bench",
        &memo,
        &talk,
        "--truth",
        &truth,
        "--beam-size",
        "1,2",
        "--rounds",
        "2",
        "--json",
        "--texts",
    ]);
    let lines = ran.json_lines();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines.iter().filter(|line| line["recommended"] == true).count(), 1, "{ran}");
    for (line, beam) in lines.iter().zip(["1", "2"]) {
        assert_eq!(line["configuration"]["beam_size"], beam);
        assert_eq!(line["environment"][0], format!("BEAM_SIZE={beam}"));
        assert_eq!(line["realtime"].as_array().unwrap().len(), 2);
        let median = &line["median"];
        assert_eq!((&median["files"], &median["failed"]), (&2.into(), &0.into()));
        // 30.5 s and 45 s of audio.
        assert!((70_000.0..80_000.0).contains(&number(median, "audio_ms")), "{median}");
        assert!(number(median, "speech_ms") <= number(median, "audio_ms"));
        let realtime = number(median, "audio_ms") / number(median, "wall_ms");
        assert!((number(median, "realtime") - realtime).abs() < 0.01 * realtime);
        assert!(number(median, "hours_per_hour") < realtime);
        let busy = number(median, "model_busy");
        assert!(busy > 0.05 && busy <= 1.0, "{median}");
        assert!(number(line, "peak_rss_bytes") > 50e6);
        let wer = number(median, "wer");
        assert!((0.0..10.0).contains(&wer), "{median}");
        let texts = line["texts"].as_array().unwrap();
        assert_eq!(texts.len(), 2);
        assert!(texts[0]["path"].as_str().unwrap().ends_with("voice-memo.wav"));
        assert!(!texts[1]["segments"].as_array().unwrap().is_empty());
    }
    assert!(left(&library.data()).is_empty());
}

#[test]
fn made_audio_is_taken_for_speech() {
    let library = Library::new();
    let ran = library.ok(&["bench", "--minutes", "1", "--rounds", "1"]);
    assert!(ran.stdout.contains("1 file (made audio, speed only), 1.0 minutes of audio"), "{ran}");
    let speech = ran.stdout.split("of audio, ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(speech.parse::<f64>().unwrap() > 0.4, "{ran}");
}

#[test]
fn a_configuration_that_cannot_run_is_told() {
    let library = Library::new();
    let ran = library.run(&["bench", "--minutes", "1", "--beam-size", "0"]);
    assert_eq!(ran.code, 2, "{ran}");
    assert!(ran.stderr.contains("beam_size") && !ran.stderr.contains("round 1"), "{ran}");
    let ran = library.run(&["bench", "--vary", "no_such_key=1"]);
    assert_eq!(ran.code, 2, "{ran}");
    // The other one still counts.
    let memo = sample("voice-memo.wav");
    let broken = library.folder("broken");
    fs::write(broken.join("model.bin"), "nothing").unwrap();
    let models =
        format!("{},{}", broken.display(), repository().join("tests/fixtures/whisper-micro").display());
    let ran = library.run(&["bench", &memo, "--model", &models, "--rounds", "1", "--json"]);
    assert_eq!(ran.code, 1, "{ran}");
    let lines = ran.json_lines();
    assert!(lines[0]["failure"].is_string() && lines[0]["recommended"] == false, "{ran}");
    assert!(lines[1]["failure"].is_null() && lines[1]["recommended"] == true, "{ran}");
}

#[test]
fn files_become_text_without_a_library() {
    let library = Library::new();
    let (memo, talk) = (sample("voice-memo.wav"), sample("lunch-talk.mp3"));
    let ran = library.ok(&["transcribe", &memo]);
    assert!(ran.stdout.starts_with("Give the coat to Frank, please.\n"), "{ran}");
    let ran = library.run(&["transcribe", &memo, "--format", "srt", &talk]);
    assert_eq!(ran.code, 2, "{ran}");
    assert!(ran.stderr.contains("--output-dir"), "{ran}");

    let notes = library.folder("notes");
    fs::write(notes.join("notes.txt"), "no media").unwrap();
    let out = library.folder("out");
    let (notes, folder) = (notes.join("notes.txt").display().to_string(), out.display().to_string());
    let ran = library.run(&["transcribe", &talk, &notes, &memo, "--format", "srt", "--output-dir", &folder]);
    assert_eq!(ran.code, 1, "{ran}");
    assert!(ran.stderr.contains("notes.txt") && ran.stdout.is_empty(), "{ran}");
    let mut written: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    written.sort();
    assert_eq!(written, ["lunch-talk.srt", "voice-memo.srt"]);
    assert!(fs::read_to_string(out.join("voice-memo.srt")).unwrap().starts_with("1\n00:00:0"));
    assert!(left(&library.data()).is_empty());
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let library = Library::new();
    let mut command = library.command(&["transcribe", &sample("voice-memo.wav"), &sample("lunch-talk.mp3")]);
    // Nobody reads: the pipe's other end is closed before the first text.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdout(writer);
    let child = command.stderr(std::process::Stdio::null()).status().unwrap();
    assert!(child.success(), "{child}");
}

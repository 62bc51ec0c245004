//! What players and parsers would choke on.

use super::*;

fn heading() -> Heading {
    Heading {
        media_id: MediaId::new("file", "x"),
        source: "/tmp/\"a\".mp4".into(),
        title: "Evil\n\n00:00:00.000 --> 00:01:00.000\nTitle </b>\u{1b}[31m \"quoted\"".into(),
        language: Some("en".into()),
        duration_ms: Some(61_000),
    }
}

fn segment(start_ms: i64, end_ms: i64, text: &str) -> Segment {
    Segment {
        start_ms,
        end_ms,
        text: text.into(),
        language: "en".into(),
        avg_logprob: -0.2,
        no_speech_prob: 0.0,
        words: Vec::new(),
    }
}

fn export(format: Format, segments: &[Segment]) -> String {
    let mut exporter = Exporter::start(format, &heading(), Vec::new()).unwrap();
    segments.iter().for_each(|segment| exporter.segment(segment).unwrap());
    String::from_utf8(exporter.finish().unwrap()).unwrap()
}

/// Lines of text, without numbers and times.
fn text_lines(captions: &str) -> Vec<&str> {
    captions.lines().filter(|l| !l.is_empty() && !l.contains("-->") && l.parse::<u32>().is_err()).collect()
}

fn parse(time: &str) -> i64 {
    let n: Vec<i64> = time.split([':', ',']).map(|p| p.parse().unwrap()).collect();
    ((n[0] * 60 + n[1]) * 60 + n[2]) * 1000 + n[3]
}

#[test]
fn txt_has_a_line_per_segment() {
    let text = export(Format::Txt, &[segment(0, 1, "One\ntwo"), segment(1, 2, "  "), segment(2, 3, "three")]);
    assert_eq!(text, "One two\nthree\n");
}

#[test]
fn srt_counts_from_one_and_uses_commas() {
    let text = export(Format::Srt, &[segment(0, 1500, "Hello."), segment(3_661_001, 3_662_000, "Later.")]);
    assert_eq!(
        text,
        "1\n00:00:00,000 --> 00:00:01,500\nHello.\n\n2\n01:01:01,001 --> 01:01:02,000\nLater.\n\n"
    );
}

#[test]
fn vtt_escapes_and_its_title_stays_on_its_line() {
    let text = export(Format::Vtt, &[segment(0, 1500, "a < b && c --> d <i>x</i>")]);
    let mut lines = text.lines();
    let first = lines.next().unwrap();
    assert!(first.starts_with("WEBVTT - Evil 00:00:00.000 → 00:01:00.000 Title"), "{first}");
    assert!(!first.contains('\u{1b}'), "{first}");
    assert_eq!(lines.next(), Some(""));
    assert_eq!(lines.next(), Some("00:00:00.000 --> 00:00:01.500"));
    assert_eq!(lines.next(), Some("a &lt; b &amp;&amp; c --&gt; d &lt;i&gt;x&lt;/i&gt;"));
    assert_eq!(text.matches("-->").count(), 1);
}

#[test]
fn srt_neutralises_commands_and_time_lines() {
    let text = export(Format::Srt, &[segment(0, 1500, "<font color=red>x --> y</font> {\\an8} 3 < 5")]);
    assert_eq!(text.matches("-->").count(), 1);
    assert_eq!(text_lines(&text).join(" "), "‹font color=red>x → y‹/font> (\\an8) 3 < 5");
}

#[test]
fn json_has_the_documented_shape() {
    let text = export(Format::Json, &[segment(0, 1500, "a \"b\" \u{1}"), segment(1500, 1600, "c")]);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["segments"][1], serde_json::json!({"start_ms": 1500, "end_ms": 1600, "text": "c"}));
    assert_eq!(value["media"]["duration_ms"], 61_000);
    assert_eq!(value["media"]["title"], heading().title);
    assert_eq!(value["media"].as_object().unwrap().len(), 5);
    let empty: serde_json::Value = serde_json::from_str(&export(Format::Json, &[])).unwrap();
    assert_eq!(
        (&empty["segments"], &empty["coverage"], &empty["dropped"]),
        (&serde_json::json!([]), &serde_json::Value::Null, &serde_json::json!([]))
    );
}

#[test]
fn json_has_words_coverage_and_what_was_dropped() {
    let mut said = segment(0, 1500, "Hello.");
    said.words = vec![Word { start_ms: 100, end_ms: 900, text: "Hello.".into(), prob: 0.875 }];
    let transcript = Transcript {
        segments: vec![said],
        language: "en".into(),
        duration_ms: 3_000,
        speech_ms: 1_500,
        model: "m".into(),
        dropped: vec![Dropped {
            start_ms: 2_000,
            end_ms: 3_000,
            text: "Thank you \"all\"".into(),
            language: "en".into(),
            reason: crate::media::DropReason::Phantom,
        }],
        coverage: Coverage { transcribed_ms: 1_500, words: 1, ..Coverage::default() },
    };
    let json = write(Format::Json, &heading(), transcript, Vec::new()).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        value["segments"][0]["words"],
        serde_json::json!([{"start_ms": 100, "end_ms": 900, "text": "Hello.", "prob": 0.875}])
    );
    assert_eq!(
        value["coverage"],
        serde_json::json!({"transcribed_ms": 1500, "words": 1, "gaps": [], "flags": []})
    );
    assert_eq!(value["dropped"][0]["reason"], "phantom");
}

#[test]
fn captions_never_overlap_and_always_last() {
    let text = export(
        Format::Srt,
        &[segment(0, 5000, "first"), segment(3000, 6000, "second"), segment(3000, 6000, "third")],
    );
    assert!(text.contains("00:00:00,000 --> 00:00:03,000\nfirst"), "{text}");
    assert!(text.contains("00:00:03,001 --> 00:00:06,000\nthird"), "{text}");
    let mut end = 0;
    for line in text.lines().filter(|l| l.contains("-->")) {
        let (from, to) = line.split_once(" --> ").unwrap();
        assert!(end <= parse(from) && parse(from) < parse(to), "{text}");
        end = parse(to);
    }
}

#[test]
fn long_text_is_shared_between_captions_of_two_lines() {
    let words = "the quick brown fox jumps over the lazy dog and then ".repeat(8);
    let text = export(Format::Srt, &[segment(10_000, 30_000, &words)]);
    let mut last_end = 10_000;
    let blocks: Vec<&str> = text.trim_end().split("\n\n").collect();
    assert!(blocks.len() >= 5, "{text}");
    for block in blocks {
        let lines: Vec<&str> = block.lines().collect();
        assert!(lines.len() == 3 || lines.len() == 4, "{block}");
        assert!(lines[2..].iter().all(|l| l.chars().count() <= 42), "{block}");
        let (from, to) = lines[1].split_once(" --> ").unwrap();
        assert_eq!(parse(from), last_end);
        last_end = parse(to);
    }
    assert_eq!(last_end, 30_000);
    assert_eq!(text_lines(&text).join(" "), words.trim());
}

#[test]
fn two_lines_are_about_equally_long() {
    let text = export(Format::Srt, &[segment(0, 1000, "one two three four five six seven eight nine ten")]);
    let lines: Vec<usize> = text_lines(&text).iter().map(|l| l.chars().count()).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].abs_diff(lines[1]) <= 8, "{text}");
}

#[test]
fn scripts_without_spaces_and_endless_words_are_broken_too() {
    let japanese = "私は東京に住んでいますが来月大阪に引っ越すつもりですよろしくお願いいたします".repeat(2);
    let text = export(Format::Srt, &[segment(0, 9000, &japanese)]);
    assert!(text_lines(&text).iter().all(|l| l.chars().count() <= 21), "{text}");
    assert_eq!(text_lines(&text).concat(), japanese);
    let text = export(Format::Srt, &[segment(0, 9000, &"a".repeat(10_000))]);
    assert_eq!(text_lines(&text).concat(), "a".repeat(10_000));
}

#[test]
fn ffmpeg_reads_what_was_written() {
    use std::process::{Command, Stdio};
    let hostile = [
        segment(0, 1000, "Plain."),
        segment(900, 900, "no --> time"),
        segment(
            1000,
            4000,
            "<i>{\\b1}ünïcödé 日本語 🎉 עברית & <c.x>\n\n5\n00:00:00,000 --> 00:00:01,000\nnot a cue",
        ),
        segment(4000, 400_000_000, &"very long words and many of them ".repeat(40)),
    ];
    for (format, demuxer) in [(Format::Srt, "srt"), (Format::Vtt, "webvtt")] {
        let text = export(format, &hostile);
        let cues = text.lines().filter(|l| l.contains(" --> ")).count();
        let mut child = Command::new("ffprobe")
            .args(["-v", "error", "-f", demuxer, "-show_entries", "packet=pts_time", "-of", "csv=p=0", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ffprobe, which comes with the ffmpeg package, should be installed");
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), cues, "{format}");
    }
}

//! What players and parsers would choke on.

use std::io::Write;

use super::*;
use crate::media::{Coverage, Dropped, Locator, MediaId, Segment, Transcript, Word};

fn heading() -> Heading {
    Heading {
        media_id: MediaId::new("file", "x"),
        source: "/tmp/\"a\" (1).mp4".into(),
        title: "Evil\n\n00:00:00.000 --> 00:01:00.000\nTitle </b>\u{1b}[31m \"quoted\"".into(),
        channel: Some("# A [channel](x)".into()),
        published_at: None,
        language: Some("en".into()),
        duration_ms: Some(61_000),
        model: Some("micro".into()),
        locator: Locator::File("/tmp/\"a\" (1).mp4".into()),
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
        speaker: None,
    }
}

fn word(start_ms: i64, end_ms: i64, text: &str) -> Word {
    Word { start_ms, end_ms, text: text.into(), prob: 0.875 }
}

fn export(format: Format, segments: &[Segment]) -> String {
    let mut exporter = Exporter::start(format, &heading(), Vec::new()).unwrap();
    segments.iter().for_each(|segment| exporter.segment(segment).unwrap());
    String::from_utf8(exporter.finish().unwrap()).unwrap()
}

#[test]
fn txt_has_a_line_per_segment() {
    let text = export(Format::Txt, &[segment(0, 1, "One\ntwo"), segment(1, 2, "  "), segment(2, 3, "three")]);
    assert_eq!(text, "One two\nthree\n");
}

#[test]
fn srt_counts_from_one_and_uses_commas() {
    let text = export(Format::Srt, &[segment(0, 1500, "Hello."), segment(3_661_001, 3_662_500, "Later.")]);
    assert_eq!(
        text,
        "1\n00:00:00,000 --> 00:00:01,500\nHello.\n\n2\n01:01:01,001 --> 01:01:02,500\nLater.\n\n"
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
fn vtt_says_when_each_word_begins() {
    let mut said = segment(1_000, 2_500, "Hello, “wide” world.");
    said.words = vec![word(1_010, 1_400, "Hello,"), word(1_500, 1_800, "wide"), word(2_001, 2_480, "world.")];
    let text = export(Format::Vtt, &[said.clone()]);
    let cue = "00:00:01.010 --> 00:00:02.480\nHello, <00:00:01.500>“wide” <00:00:02.001>world.\n";
    assert!(text.contains(cue), "{text}");
    // SubRip has no such thing; times that run backwards are no times.
    assert!(
        export(Format::Srt, &[said.clone()])
            .contains("00:00:01,010 --> 00:00:02,480\nHello, “wide” world.\n")
    );
    said.words[1].start_ms = 900;
    let text = export(Format::Vtt, &[said]);
    assert!(text.contains("Hello, “wide” <00:00:02.001>world."), "{text}");
}

#[test]
fn srt_neutralises_commands_and_time_lines() {
    let text = export(Format::Srt, &[segment(0, 1500, "<font color=red>x --> y</font> {\\an8} 3 < 5")]);
    assert_eq!(text.matches("-->").count(), 1);
    assert!(text.replace('\n', " ").contains("‹font color=red>x → y‹/font> (\\an8) 3 < 5"), "{text}");
}

#[test]
fn json_has_the_documented_shape() {
    let text = export(Format::Json, &[segment(0, 1500, "a \"b\" \u{1}"), segment(1500, 1600, "c")]);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["version"], VERSION);
    assert_eq!(
        value["segments"][1],
        serde_json::json!({"start_ms": 1500, "end_ms": 1600, "text": "c", "language": "en"})
    );
    assert_eq!(value["media"]["duration_ms"], 61_000);
    assert_eq!(value["media"]["title"], heading().title);
    assert_eq!(value["media"].as_object().unwrap().len(), 8);
    let empty: serde_json::Value = serde_json::from_str(&export(Format::Json, &[])).unwrap();
    assert_eq!(
        (&empty["segments"], &empty["coverage"], &empty["dropped"]),
        (&serde_json::json!([]), &serde_json::Value::Null, &serde_json::json!([]))
    );
}

#[test]
fn json_has_words_coverage_and_what_was_dropped() {
    let mut said = segment(0, 1500, "Hello.");
    said.words = vec![word(100, 900, "Hello.")];
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
    let mut schemas = boon::Schemas::new();
    let mut compiler = boon::Compiler::new();
    compiler.add_resource("schema.json", serde_json::from_str(TRANSCRIPT_SCHEMA).unwrap()).unwrap();
    let schema = compiler.compile("schema.json", &mut schemas).unwrap();
    schemas.validate(&value, schema).unwrap();
    let mut wrong = value;
    wrong["segments"][0]["words"][0]["start_ms"] = "100".into();
    assert!(schemas.validate(&wrong, schema).is_err(), "the schema tells right from wrong");
}

#[test]
fn markdown_has_links_and_nothing_that_was_said_is_markup() {
    use pulldown_cmark::{Event, Parser, Tag};
    let evil = "<script>alert(1)</script> *no* [link](http://evil) `code` # none &amp; ~~x~~ \\ ![i](x)";
    let text = export(Format::Md, &[segment(0, 5_000, "Good morning."), segment(65_000, 70_000, evil)]);
    let (mut links, mut said) = (Vec::new(), String::new());
    for event in Parser::new(&text) {
        match event {
            Event::Start(Tag::Link { dest_url, .. }) => links.push(dest_url.into_string()),
            Event::Text(text) => said.push_str(&text),
            Event::SoftBreak => said.push(' '),
            Event::Start(Tag::Heading { .. } | Tag::Paragraph) | Event::End(_) => {}
            other => panic!("{other:?} in {text}"),
        }
    }
    assert!(said.contains(evil), "{said}");
    assert!(said.contains("# A [channel](x)"), "{said}");
    assert_eq!(links, ["file:///tmp/%22a%22%20%281%29.mp4#t=0"; 2]);
}

#[test]
fn markdown_has_chapters_where_there_is_much() {
    use pulldown_cmark::{Event, HeadingLevel, Parser, Tag};
    let segments: Vec<Segment> = (0..200)
        .map(|n| {
            segment(
                n * 5_000 + n / 80 * 4_000,
                n * 5_000 + n / 80 * 4_000 + 4_900,
                &format!("Sentence {n} is about nothing in particular."),
            )
        })
        .collect();
    let text = export(Format::Md, &segments);
    let count = |wanted: fn(&Tag<'_>) -> bool| {
        Parser::new(&text).filter(|event| matches!(event, Event::Start(tag) if wanted(tag))).count()
    };
    assert_eq!(count(|tag| matches!(tag, Tag::Heading { level: HeadingLevel::H2, .. })), 3);
    assert_eq!(count(|tag| matches!(tag, Tag::Item)), 3);
    assert!(
        text.contains(
            "## [6:44](file:///tmp/%22a%22%20%281%29.mp4#t=404) Sentence 80 is about nothing in particular"
        ),
        "{text}"
    );
}

#[test]
fn ffmpeg_reads_what_was_written() {
    use std::process::{Command, Stdio};
    let mut timed = segment(500_000_000, 500_003_000, "Words with times.");
    timed.words = vec![
        word(500_000_123, 500_000_900, "Words"),
        word(500_001_000, 500_001_500, "with"),
        word(500_001_600, 500_002_987, "times."),
    ];
    let hostile = [
        segment(0, 1000, "Plain."),
        segment(900, 900, "no --> time"),
        segment(
            1000,
            4000,
            "<i>{\\b1}ünïcödé 日本語 🎉 עברית & <c.x>\n\n5\n00:00:00,000 --> 00:00:01,000\nnot a cue",
        ),
        segment(4000, 400_000_000, &"very long words and many of them ".repeat(40)),
        timed,
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
        let times = String::from_utf8_lossy(&output.stdout);
        assert_eq!(times.lines().count(), cues, "{format}");
        assert_eq!(times.lines().last().unwrap().trim(), "500000.123000", "{format}");
    }
}

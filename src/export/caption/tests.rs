//! What subtitles must be like, on speech with times.

use unicode_width::UnicodeWidthStr;

use super::*;
use crate::media::Word;

/// A segment whose words follow each other; each takes 60 ms a letter, and 40 ms pass between two.
fn said(start_ms: i64, text: &str, language: &str) -> Segment {
    let mut at = start_ms;
    let words: Vec<Word> = text
        .split(' ')
        .map(|text| {
            let start_ms = at;
            at += 60 * text.chars().count() as i64;
            let word = Word { start_ms, end_ms: at, text: text.into(), prob: 1.0 };
            at += 40;
            word
        })
        .collect();
    Segment { end_ms: at - 40, words, ..untimed(start_ms, at, text, language) }
}

fn untimed(start_ms: i64, end_ms: i64, text: &str, language: &str) -> Segment {
    Segment {
        start_ms,
        end_ms,
        text: text.into(),
        language: language.into(),
        avg_logprob: 0.0,
        no_speech_prob: 0.0,
        words: Vec::new(),
        speaker: None,
    }
}

fn captions(segments: &[Segment]) -> Vec<Caption> {
    let mut captions = Captions::default();
    let mut all = Vec::new();
    for segment in segments {
        captions.take(segment);
        all.extend(std::iter::from_fn(|| captions.next(false)));
    }
    all.extend(std::iter::from_fn(|| captions.next(true)));
    all
}

fn text(line: &[Piece]) -> String {
    let mut text = String::new();
    for piece in line {
        if piece.spaced && !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&piece.text);
    }
    text
}

fn lines(captions: &[Caption]) -> Vec<Vec<String>> {
    captions.iter().map(|c| c.lines.iter().map(|line| text(line)).collect()).collect()
}

/// What holds for any speech; whether captions last a second, only where it leaves them the time.
fn check(captions: &[Caption]) {
    for caption in captions {
        assert!((1..=LINES).contains(&caption.lines.len()), "{caption:?}");
        assert!(caption.lines.iter().all(|line| !line.is_empty() && width(line) <= NARROW), "{caption:?}");
        assert!((1..=LONGEST_MS).contains(&(caption.end_ms - caption.start_ms)), "{caption:?}");
    }
    for pair in captions.windows(2) {
        assert!(pair[0].end_ms <= pair[1].start_ms, "{pair:?}");
    }
}

const TALK: &str = "Well, when I first came to the mountains in the north of the country, I had no idea of how cold \
    it would be in the winter. Yes. We had a small house by the river, and every morning one of us went out to break the \
    ice, which was as thick as my arm. After a while, you get used to it, but my brother never did. No.";

#[test]
fn speech_becomes_readable_captions() {
    let mut at = 5_000;
    let segments: Vec<Segment> = TALK
        .split_inclusive(". ")
        .map(|sentence| {
            let segment = said(at, sentence.trim(), "en");
            at = segment.end_ms + 300;
            segment
        })
        .collect();
    let captions = captions(&segments);
    check(&captions);
    assert_eq!(
        lines(&captions).concat().join(" "),
        TALK.split_whitespace().collect::<Vec<_>>().join(" "),
        "nothing is lost"
    );
    for pair in captions.windows(2) {
        assert!(pair[1].start_ms - pair[0].end_ms >= GAP_MS, "{pair:?}");
    }
    for caption in &captions {
        assert!(caption.end_ms - caption.start_ms >= SHORTEST_MS, "{caption:?}");
        for line in &caption.lines {
            assert!(!line.last().unwrap().weak, "{:?}", lines(&captions));
        }
        // To the millisecond, as the words are timed.
        assert_eq!(caption.start_ms, caption.lines[0][0].start_ms);
        assert!(caption.lines[0][0].timed);
    }
    let ends_well =
        captions.iter().filter(|c| c.lines.last().unwrap().last().unwrap().end >= End::Clause).count();
    assert!(ends_well * 2 > captions.len(), "{:?}", lines(&captions));
}

#[test]
fn a_caption_ends_with_its_last_word() {
    // Long enough, and nothing comes for a while.
    let captions =
        captions(&[said(1_000, "This is said and then nothing.", "en"), said(9_000, "More.", "en")]);
    let [first, second] = &captions[..] else { panic!("{captions:?}") };
    assert_eq!((first.start_ms, first.end_ms), (1_000, 1_000 + 60 * 25 + 5 * 40));
    // Too short by itself: a second.
    assert_eq!((second.start_ms, second.end_ms), (9_000, 10_000));
}

#[test]
fn what_is_short_shares_a_caption_rather_than_flash() {
    let captions = captions(&[said(0, "Yes.", "en"), said(300, "No.", "en"), said(550, "Maybe I do.", "en")]);
    assert_eq!(lines(&captions), [["Yes. No. Maybe I do."]]);
}

#[test]
fn a_long_pause_ends_a_caption() {
    let captions = captions(&[said(0, "One moment", "en"), said(3_000, "please wait.", "en")]);
    assert_eq!(lines(&captions), [["One moment"], ["please wait."]]);
}

#[test]
fn nothing_is_shown_for_longer_than_seven_seconds() {
    let slow = untimed(0, 60_000, "one two three four five six", "en");
    let captions = captions(&[slow, untimed(60_000, 60_001, "seven", "en")]);
    check(&captions);
    // Each word takes six seconds or more: only the last is said with the one before it.
    assert_eq!(captions.len(), 6);
}

#[test]
fn lines_break_between_phrases() {
    let text = "I went to the house of my oldest friend because he had asked me";
    let captions = captions(&[untimed(0, 4_500, text, "en")]);
    assert_eq!(lines(&captions), [["I went to the house of my oldest friend", "because he had asked me"]]);
}

#[test]
fn chinese_japanese_and_korean_lines_hold_sixteen_characters() {
    let japanese = "私は東京に住んでいますが、来月大阪に引っ越すつもりです。よろしくお願いいたします。";
    let chinese = "我住在北京，但是下个月我打算搬到上海去。请多多关照，谢谢大家的帮助和支持。";
    let korean = "저는 서울에 살고 있지만 다음 달에 부산으로 이사할 계획입니다. 잘 부탁드립니다.";
    for (text, language) in [(japanese, "ja"), (chinese, "zh"), (korean, "ko")] {
        let captions = captions(&[untimed(0, 12_000, &text.repeat(3), language)]);
        check(&captions);
        let lines = lines(&captions).concat();
        assert!(lines.iter().all(|line| line.width() <= WIDE), "{lines:?}");
        assert!(!lines.iter().any(|line| line.starts_with(['。', '、', '，'])), "{lines:?}");
        assert_eq!(lines.concat().replace(' ', ""), text.repeat(3).replace(' ', ""));
    }
}

#[test]
fn right_to_left_text_is_left_as_it_is() {
    let text = "זה משפט ארוך למדי בעברית שנועד לבדוק שהכתוביות נשברות נכון, ולא משנות שום דבר בטקסט עצמו.";
    let captions = captions(&[untimed(0, 6_000, text, "he")]);
    check(&captions);
    assert_eq!(lines(&captions).concat().join(" "), text);
}

#[test]
fn hostile_speech_makes_captions_all_the_same() {
    let mut segments = vec![
        untimed(0, 0, "all at once and far too much for no time at all, as broken files have it", "en"),
        untimed(0, 0, "again, in the very same millisecond", "en"),
        untimed(100, 50, "", "en"),
        untimed(200, 90_000_000, &"a".repeat(10_000), "en"),
        untimed(300, 400, &"漢".repeat(500), "zh"),
        untimed(300, 400, &"。".repeat(200), "zh"),
        untimed(90_000_000, 90_000_001, "👩\u{200d}👩\u{200d}👧 e\u{301}", "en"),
    ];
    segments.extend((0..2_000).map(|n| untimed(90_001_000 + n, 90_001_001 + n, "word", "en")));
    let captions = captions(&segments);
    check(&captions);
    let shown: usize =
        lines(&captions).concat().iter().map(|line| line.chars().filter(|c| *c == 'a').count()).sum();
    assert_eq!(shown, 10_000 + segments[0].text.matches('a').count() + segments[1].text.matches('a').count());
}

#[test]
fn who_never_pauses_is_divided_like_anybody_else() {
    // Longer than one stretch: nothing is lost at the cut, and nothing waits for the end.
    let text = "these are words without any stop at all ".repeat(200);
    let segment = said(0, text.trim(), "en");
    let mut stream = Captions::default();
    stream.take(&segment);
    let early: Vec<Caption> = std::iter::from_fn(|| stream.next(false)).collect();
    assert!(early.len() > 50, "{}", early.len());
    let all = captions(&[segment]);
    check(&all);
    assert_eq!(lines(&all).concat().join(" "), text.trim());
}

#[test]
fn speakers_do_not_share_a_caption() {
    let mut captions = Captions::default();
    captions.take(&Segment { speaker: Some("Anna".into()), ..said(0, "Hello.", "en") });
    captions.take(&Segment { speaker: Some("Ben".into()), ..said(500, "Hi there.", "en") });
    let all: Vec<_> = std::iter::from_fn(|| captions.next(true)).map(|c| c.speaker).collect();
    assert_eq!(all, [Some("Anna".to_owned()), Some("Ben".to_owned())]);
}

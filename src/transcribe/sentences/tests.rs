use super::*;

fn segment(start_ms: i64, end_ms: i64, text: &str) -> Segment {
    Segment {
        start_ms,
        end_ms,
        text: text.to_owned(),
        language: "en".to_owned(),
        avg_logprob: -0.25,
        no_speech_prob: 0.5,
        words: Vec::new(),
        speaker: None,
    }
}

/// With a word each `each` milliseconds, said without pauses.
fn timed(start_ms: i64, each: i64, text: &str) -> Segment {
    let words: Vec<Word> = text
        .split_whitespace()
        .zip(0..)
        .map(|(word, i)| Word {
            start_ms: start_ms + i * each,
            end_ms: start_ms + (i + 1) * each,
            text: word.to_owned(),
            prob: 0.5,
        })
        .collect();
    Segment { words: words.clone(), ..segment(start_ms, start_ms + each * words.len() as i64, text) }
}

fn sentences(segments: Vec<Segment>) -> Vec<Segment> {
    let cut = cut(segments.clone(), &SegmentOptions::default());
    check(&segments, &cut);
    cut
}

/// Nothing is lost, times are in order, words lie within.
fn check(before: &[Segment], after: &[Segment]) {
    let letters = |segments: &[Segment]| -> String {
        segments.iter().flat_map(|s| s.text.chars()).filter(|c| !c.is_whitespace()).collect()
    };
    assert_eq!(letters(before), letters(after));
    assert!(after.windows(2).all(|w| w[0].end_ms <= w[1].start_ms), "{after:?}");
    let words = |segments: &[Segment]| segments.iter().map(|s| s.words.len()).sum::<usize>();
    assert_eq!(words(before), words(after));
    for segment in after {
        assert!(segment.start_ms <= segment.end_ms && segment.text == segment.text.trim());
        assert!(segment.words.iter().all(|w| w.start_ms >= segment.start_ms && w.end_ms <= segment.end_ms));
        let said: String = segment.words.iter().map(|w| w.text.as_str()).collect();
        assert!(said.is_empty() || said == segment.text.split_whitespace().collect::<String>());
    }
}

fn texts(segments: &[Segment]) -> Vec<&str> {
    segments.iter().map(|s| s.text.as_str()).collect()
}

/// The sentences of one model segment.
fn of(language: &str, text: &str) -> Vec<String> {
    let one = Segment { language: language.to_owned(), ..segment(0, 9_000, text) };
    sentences(vec![one]).into_iter().map(|s| s.text).collect()
}

#[test]
fn one_sentence_stays_as_it_is() {
    let segments = vec![
        timed(130, 300, "When Nora came home, the key was cold."),
        timed(2_540, 250, "Are you angry?"),
        segment(4_000, 4_900, "Yes"),
        segment(9_000, 9_100, "Dr. Smith lives at 3.5 Mr. St. Main."),
    ];
    assert_eq!(sentences(segments.clone()), segments);
    assert_eq!(sentences(Vec::new()), []);
}

#[test]
fn sentences_end_where_they_do_in_every_script() {
    let table: &[(&str, &str, &[&str])] = &[
        ("en", "It is cold. Are you ready? Yes! Go.", &["It is cold.", "Are you ready?", "Yes!", "Go."]),
        (
            "en",
            "Mr. Smith met Dr. Jones, e.g. in St. Ives. Good.",
            &["Mr. Smith met Dr. Jones, e.g. in St. Ives.", "Good."],
        ),
        (
            "en",
            "J. R. Tolkien paid 3.50 dollars. So do I. Then he left.",
            &["J. R. Tolkien paid 3.50 dollars.", "So do I.", "Then he left."],
        ),
        ("en", "\"What?\" he said. \"Go!\" And so on.", &["\"What?\" he said.", "\"Go!\"", "And so on."]),
        ("en", "Well... maybe. Hm… Yes.", &["Well... maybe.", "Hm…", "Yes."]),
        (
            "en",
            "The U.S. Army came at 5 p.m. today. Look at page 47. The end.",
            &["The U.S. Army came at 5 p.m. today.", "Look at page 47.", "The end."],
        ),
        ("en", "1. First of all. 2. Then.", &["1. First of all.", "2. Then."]),
        (
            "de",
            "Am 3. Oktober kam Prof. Weiß, z.B. nach Bonn. Gut.",
            &["Am 3. Oktober kam Prof. Weiß, z.B. nach Bonn.", "Gut."],
        ),
        ("es", "¿Dónde está? ¡Aquí! La Sra. Ruiz vino.", &["¿Dónde está?", "¡Aquí!", "La Sra. Ruiz vino."]),
        ("zh", "他说你好。我们走吧！好吗？好", &["他说你好。", "我们走吧！", "好吗？", "好"]),
        (
            "ja",
            "「行こう。」と彼は言った。コーヒーです。",
            &["「行こう。」", "と彼は言った。", "コーヒーです。"],
        ),
        ("hi", "यह ठंडा है। क्या तुम तैयार हो?", &["यह ठंडा है।", "क्या तुम तैयार हो?"]),
        ("ar", "هل أنت جاهز؟ نعم.", &["هل أنت جاهز؟", "نعم."]),
        ("ru", "Холодно. Вы готовы?", &["Холодно.", "Вы готовы?"]),
        ("th", "สวัสดีครับ ผมชื่อสมชาย", &["สวัสดีครับ ผมชื่อสมชาย"]),
    ];
    for (language, text, expected) in table {
        assert_eq!(of(language, text), *expected, "{text}");
    }
}

#[test]
fn times_of_a_split_are_those_of_the_words() {
    let cut = sentences(vec![timed(1_000, 400, "It is cold. Are you ready?")]);
    let times: Vec<(i64, i64)> = cut.iter().map(|s| (s.start_ms, s.end_ms)).collect();
    assert_eq!(times, [(1_000, 2_200), (2_200, 3_400)]);
    assert_eq!(cut[1].words.iter().map(|w| w.text.as_str()).collect::<Vec<_>>(), ["Are", "you", "ready?"]);
    assert_eq!((cut[0].avg_logprob, cut[0].no_speech_prob), (-0.25, 0.5));
    // Without words, by the share of the text: 8 of 20 letters.
    let cut = sentences(vec![segment(0, 2_000, "Abcdefg. Hijk lmnopqr.")]);
    assert_eq!((cut[0].end_ms, cut[1].start_ms), (800, 800));
}

#[test]
fn a_sentence_over_several_segments_is_put_together() {
    let mut last = timed(1_000, 300, "came home and slept. Then he left.");
    last.avg_logprob = -1.0;
    let cut = sentences(vec![timed(0, 300, "When Nora"), last]);
    assert_eq!(texts(&cut), ["When Nora came home and slept.", "Then he left."]);
    assert_eq!((cut[0].start_ms, cut[0].end_ms, cut[0].words.len()), (0, 2_200, 6));
    assert!(cut[0].avg_logprob < -0.5 && cut[0].avg_logprob > -1.0);
    assert_eq!(cut[1].avg_logprob, -1.0);
    // Not over a long pause, nor in another language, nor where one has words and the other does not.
    let apart = vec![timed(0, 300, "When Nora"), timed(1_700, 300, "came home.")];
    assert_eq!(sentences(apart).len(), 2);
    let mut other = timed(700, 300, "llegó a casa.");
    other.language = "es".to_owned();
    assert_eq!(sentences(vec![timed(0, 300, "When Nora"), other]).len(), 2);
    assert_eq!(sentences(vec![timed(0, 300, "When Nora"), segment(700, 900, "came home.")]).len(), 2);
}

#[test]
fn scripts_without_spaces_are_joined_without() {
    let zh = |start, end, text| Segment { language: "zh".to_owned(), ..segment(start, end, text) };
    let cut = sentences(vec![zh(0, 900, "我们"), zh(1_000, 1_900, "走吧。好。")]);
    assert_eq!(texts(&cut), ["我们走吧。", "好。"]);
}

#[test]
fn a_model_without_full_stops_ends_its_segments_itself() {
    let segments: Vec<Segment> = (0..5).map(|i| timed(i * 900, 300, "nobody stops here")).collect();
    assert_eq!(sentences(segments.clone()), segments);
}

#[test]
fn what_is_too_long_is_cut_where_one_breathes() {
    // 60 words of 400 ms: 24 s. A pause of a second after the 28th, a comma after the 35th.
    let text: Vec<String> = (1..=60).map(|i| format!("w{i}{}", if i == 35 { "," } else { "" })).collect();
    let mut long = timed(0, 400, &text.join(" "));
    for word in &mut long.words[28..] {
        word.start_ms += 1_000;
        word.end_ms += 1_000;
    }
    long.end_ms += 1_000;
    let cut = sentences(vec![long.clone()]);
    assert_eq!(cut.iter().map(|s| s.words.len()).collect::<Vec<_>>(), [28, 32]);
    // Within whatever limits, as long as words fit.
    for (max_ms, max_chars) in [(15_000, 40), (2_000, 200), (900, 9), (7_777, 33)] {
        let options = SegmentOptions { resolution: Resolution::Sentence, max_ms, max_chars };
        let parts = super::cut(vec![long.clone()], &options);
        check(std::slice::from_ref(&long), &parts);
        for part in &parts {
            let chars: usize = part.words.iter().map(|w| w.text.chars().count()).sum();
            assert!(
                part.end_ms - part.start_ms <= max_ms && chars <= max_chars,
                "{max_ms} {max_chars} {part:?}"
            );
        }
    }
    // One word is never cut.
    let word = timed(0, 40_000, "Hmmm.");
    assert_eq!(sentences(vec![word.clone()]), [word]);
}

#[test]
fn chunks_are_speech_without_a_long_pause() {
    let segments = vec![
        timed(0, 300, "It is cold."),
        timed(2_000, 300, "Are you ready?"),
        timed(8_000, 300, "Yes."),
        timed(8_400, 300, "No."),
    ];
    let chunks = super::cut(segments.clone(), &SegmentOptions::of(Resolution::Chunk));
    check(&segments, &chunks);
    assert_eq!(texts(&chunks), ["It is cold. Are you ready?", "Yes. No."]);
    assert_eq!((chunks[0].start_ms, chunks[0].end_ms, chunks[0].words.len()), (0, 2_900, 6));
    // Longer ones end with a sentence.
    let long: Vec<Segment> = (0..20)
        .map(|i| timed(i * 4_000, 350, "This sentence is said in under four seconds, I think so."))
        .collect();
    let chunks = super::cut(long.clone(), &SegmentOptions::of(Resolution::Chunk));
    check(&long, &chunks);
    assert!(chunks.len() <= 4 && chunks.iter().all(|c| c.text.ends_with("so.")), "{chunks:?}");
    assert!(chunks.iter().all(|c| c.end_ms - c.start_ms <= 30_000));
}

#[test]
fn words_that_are_not_the_texts_do_not_count() {
    let mut odd = timed(0, 300, "It is cold. Yes.");
    odd.words[1].text = "was".to_owned();
    let cut = cut(vec![odd], &SegmentOptions::default());
    assert_eq!(texts(&cut), ["It is cold.", "Yes."]);
    assert!(cut.iter().all(|s| s.words.is_empty()));
}

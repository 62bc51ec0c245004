use super::*;

/// Tokens of one letter group each, attended to every `step` frames.
fn tokens(parts: &[&str], step: u32) -> Vec<Token> {
    parts
        .iter()
        .enumerate()
        .map(|(i, part)| Token { bytes: part.as_bytes().to_vec(), frame: i as u32 * step, prob: 0.5 })
        .collect()
}

fn texts(parts: &[&str]) -> Vec<String> {
    split(&tokens(parts, 1)).into_iter().map(|w| w.text).collect()
}

/// Power of 20 ms frames: loud but where it is `quiet`.
fn loudness(frames: u32, quiet: &[Range<u32>]) -> Loudness {
    let bels: Vec<f32> =
        (0..frames).map(|f| if quiet.iter().any(|q| q.contains(&f)) { 1.0 } else { 5.0 }).collect();
    Loudness::from_bels(&bels)
}

#[test]
fn words_are_split_in_every_script() {
    let table: &[(&[&str], &[&str])] = &[
        (&[" The", " key", " was", " cold", "."], &["The", " key", " was", " cold."]),
        (&[" unbeliev", "able", ",", " o", "'", "clock", "!"], &["unbelievable,", " o'clock!"]),
        (&[" \"", "Yes", ",\"", " he", " said"], &["\"Yes,\"", " he", " said"]),
        (&[" ¿", "Dónde", " est", "á", "?"], &["¿Dónde", " está?"]),
        // A dash by itself belongs to the word before it.
        (&[" (", "well", ")", " -", " no"], &["(well) -", " no"]),
        (&[" one", "—", "two"], &["one—", "two"]),
        (&[" 3", ".", "5", "%", " &", " more"], &["3.5%", " &", " more"]),
        (&["他", "说", "「", "你好", "」", "。"], &["他", "说", "「你好」。"]),
        (&["コ", "ー", "ヒ", "ー", "を", "飲", "む"], &["コー", "ヒー", "を", "飲", "む"]),
        (&["ส", "วั", "ส", "ดี"], &["ส", "วั", "ส", "ดี"]),
        (&[" 안녕", "하세요", ",", " 여러분"], &["안녕하세요,", " 여러분"]),
        (&[" in", "東京", " today"], &["in", "東京", " today"]),
        (&["用", "Rust", "写"], &["用", "Rust", "写"]),
        (&[" -", " Hello", " “"], &["- Hello “"]),
        (&["..."], &["..."]),
        (&[" "], &[]),
        (&[], &[]),
    ];
    for (parts, expected) in table {
        assert_eq!(texts(parts), *expected, "{parts:?}");
        assert_eq!(texts(parts).concat(), parts.concat().trim(), "{parts:?}");
    }
}

#[test]
fn characters_spread_over_tokens_are_joined() {
    let bytes = "é好".as_bytes();
    let mut tokens = tokens(&["a", "", "", "", "", ""], 1);
    for (token, byte) in tokens[1..].iter_mut().zip(bytes) {
        token.bytes = vec![*byte];
    }
    let words = split(&tokens);
    assert_eq!(words.iter().map(|w| w.text.as_str()).collect::<Vec<_>>(), ["aé", "好"]);
    assert_eq!(words[1].tokens, 3..6);
    // One that never becomes whole is not lost.
    tokens.truncate(5);
    assert_eq!(split(&tokens).last().unwrap().text, "aé\u{fffd}");
}

#[test]
fn words_are_in_order_and_within_their_segment() {
    let parts = [" The", " key", " was", " very", " cold", "."];
    let loudness = loudness(500, &[0..20, 220..500]);
    // Attention in order, all too early, all too late, backwards.
    for frames in [[25, 40, 70, 90, 120, 150], [0; 6], [499; 6], [150, 120, 90, 70, 40, 25]] {
        for (start, end) in [(0, 10_000), (400, 4_400), (1_010, 1_030), (2_000, 2_000), (9_990, 10_500)] {
            let mut tokens = tokens(&parts, 0);
            for (token, frame) in tokens.iter_mut().zip(frames) {
                token.frame = frame;
            }
            let words = timed(&tokens, start, end, &loudness);
            assert_eq!(words.len(), 5);
            let mut at = start;
            for word in &words {
                assert!(at <= word.start_ms && word.start_ms <= word.end_ms, "{start} {end} {words:?}");
                at = word.end_ms;
            }
            assert!(at <= end, "{words:?}");
        }
    }
}

#[test]
fn no_word_lies_over_a_pause() {
    // Two words of half a second on either side of a second of silence, in which attention to the second begins.
    let loudness = loudness(150, &[0..10, 35..85, 110..150]);
    let mut tokens = tokens(&[" Hello", ",", " world", "."], 0);
    (tokens[0].frame, tokens[1].frame, tokens[2].frame, tokens[3].frame) = (2, 30, 50, 100);
    let words = timed(&tokens, 0, 3_000, &loudness);
    let times: Vec<(u32, u32)> = words.iter().map(|w| (w.start_ms, w.end_ms)).collect();
    assert_eq!(times, [(200, 700), (1_700, 2_200)]);
}

#[test]
fn attention_far_off_gives_way_to_lengths() {
    let loudness = loudness(200, &[]);
    let mut tokens = tokens(&[" aaaa", " bbbb", " cccc", " dddd"], 50);
    let even = timed(&tokens, 0, 4_000, &loudness);
    assert_eq!(even.iter().map(|w| w.start_ms).collect::<Vec<_>>(), [0, 1_000, 2_000, 3_000]);
    // Attention to the third comes as the text ends.
    tokens[2].frame = 195;
    let strayed = timed(&tokens, 0, 4_000, &loudness);
    assert!((1_900..2_300).contains(&strayed[2].start_ms), "{strayed:?}");
    assert!((2_900..3_100).contains(&strayed[3].start_ms), "{strayed:?}");
    // A little off, it is believed.
    tokens[2].frame = 95;
    tokens[3].frame = 150;
    let near = timed(&tokens, 0, 4_000, &loudness);
    assert!((1_900..2_000).contains(&near[2].start_ms), "{near:?}");
}

#[test]
fn probabilities_are_those_of_the_words_tokens() {
    let mut tokens = tokens(&[" un", "able", " now"], 10);
    (tokens[0].prob, tokens[1].prob, tokens[2].prob) = (1.0, 0.5, 0.25);
    let words = timed(&tokens, 0, 1_000, &Loudness::default());
    assert_eq!(words.iter().map(|w| w.prob).collect::<Vec<_>>(), [0.75, 0.25]);
}

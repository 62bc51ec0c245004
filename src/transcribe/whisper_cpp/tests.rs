use std::path::Path;

use super::*;
use crate::transcribe::{TranscribeOptions, engine::Loaded};

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn loaded(word_times: bool) -> Loaded {
    let mut options = TranscribeOptions {
        engine: "whisper-cpp".parse().unwrap(),
        model: fixtures().join("whisper-micro-ggml").display().to_string(),
        ..TranscribeOptions::default()
    };
    options.wishes.parallel_models = Some(1);
    options.decode.word_times = word_times;
    load::open(&options, &mut |_| {}).unwrap()
}

/// The first half minute of a recording of the fixtures, which is a wav of that length.
fn memo() -> Sound {
    let bytes = std::fs::read(fixtures().join("media/voice-memo.wav")).unwrap();
    let data = bytes.windows(4).position(|w| w == b"data").unwrap() + 8;
    let samples = bytes[data..].chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]]));
    Sound::Samples(samples.take(WINDOW).collect())
}

fn input<'a>(sound: &'a Sound, language: Option<&'a str>) -> Input<'a> {
    Input { sound, duration_ms: 30_000, language, previous: "", prompted: false }
}

fn texts(text: &WindowText) -> Vec<&str> {
    text.segments.iter().map(|s| s.text.as_str()).collect()
}

#[test]
fn both_ways_of_decoding_agree() {
    let engine = loaded(false).engine;
    let sound = memo();
    let decode = |language, beam_size, temperature: f32| {
        let options = DecodeOptions { beam_size, ..DecodeOptions::default() };
        engine.transcribe(&[input(&sound, language)], temperature, &options).unwrap().remove(0)
    };
    let greedy = decode(None, 1, 0.0);
    assert_eq!((greedy.language.as_str(), greedy.segments.len()), ("en", 8), "{greedy:?}");
    assert!(
        greedy.language_prob > 0.9 && greedy.no_speech_prob < 0.1 && greedy.avg_logprob > -0.5,
        "{greedy:?}"
    );
    let beam = decode(None, 5, 0.0);
    assert_eq!(texts(&beam), texts(&greedy));
    assert!(
        (beam.avg_logprob - greedy.avg_logprob).abs() < 0.05,
        "{} {}",
        beam.avg_logprob,
        greedy.avg_logprob
    );
    let given = decode(Some("en"), 1, 0.0);
    assert_eq!((given.language_prob, &given.segments), (1.0, &greedy.segments));
    // Samples are as reproducible as the rest.
    let sampled = decode(None, 1, 0.6);
    assert_eq!(sampled, decode(None, 1, 0.6));
    assert_eq!(sampled.temperature, 0.6);
}

#[test]
fn a_prompt_is_heeded_and_not_said() {
    let engine = loaded(false).engine;
    let sound = memo();
    let options = DecodeOptions {
        initial_prompt: "The bread is cold.".to_owned(),
        beam_size: 1,
        ..DecodeOptions::default()
    };
    let window = |prompted, previous| Input { prompted, previous, ..input(&sound, None) };
    let decode =
        |input, options: &DecodeOptions| engine.transcribe(&[input], 0.0, options).unwrap().remove(0);
    let plain = decode(window(false, ""), &options);
    for prompted in [window(true, ""), window(false, "Anna likes the red car. The bread is cold.")] {
        let text = decode(prompted, &options);
        assert_ne!(text.avg_logprob, plain.avg_logprob, "it makes a difference");
        assert!(!texts(&text).join(" ").contains("bread"), "{text:?}");
        let beam = decode(prompted, &DecodeOptions { beam_size: 5, ..options.clone() });
        assert!(!texts(&beam).join(" ").contains("bread") && !beam.segments.is_empty(), "{beam:?}");
    }
}

#[test]
fn words_have_times_in_their_segments() {
    let engine = loaded(true).engine;
    let sound = memo();
    for beam_size in [1, 5] {
        let options = DecodeOptions { word_times: true, beam_size, ..DecodeOptions::default() };
        let text = engine.transcribe(&[input(&sound, None)], 0.0, &options).unwrap().remove(0);
        assert_eq!(text.segments.len(), 8, "{text:?}");
        for segment in &text.segments {
            let words: String = segment.words.iter().map(|w| w.text.as_str()).collect();
            assert_eq!(words.trim(), segment.text, "{segment:?}");
            assert!(segment.words.windows(2).all(|w| w[0].end_ms <= w[1].start_ms), "{segment:?}");
            let (first, last) = (&segment.words[0], &segment.words[segment.words.len() - 1]);
            assert!(
                first.start_ms >= segment.start_ms && segment.end_ms.is_none_or(|end| last.end_ms <= end)
            );
        }
    }
}

#[test]
fn what_is_no_speech_is_known_by_its_tokens() {
    let context = {
        log::capture();
        let path = fixtures().join("whisper-micro-ggml/ggml-micro-q8_0.bin");
        WhisperContext::new_with_params(path, whisper_rs::WhisperContextParameters::default()).unwrap()
    };
    let vocabulary = Vocabulary::new(&context).unwrap();
    // The same list, as the conversion for the other engine has it; there the steering tokens are in it too.
    let config = std::fs::read(fixtures().join("whisper-micro/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let listed: Vec<usize> = config["suppress_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as usize)
        .filter(|id| *id < vocabulary.end_of_text)
        .collect();
    assert_eq!(vocabulary.not_speech, listed);
    assert_eq!(vocabulary.languages().len(), 99);
    assert_eq!((vocabulary.language("en"), vocabulary.language("xx")), (Some(50_259), None));
}

#[test]
fn states_come_back() {
    let engine = loaded(false).engine;
    let sound = Sound::LogMel(Vec::new());
    let options = DecodeOptions::default();
    for _ in 0..3 {
        assert!(matches!(
            engine.transcribe(&[input(&sound, None)], 0.0, &options),
            Err(EngineError::Failed(_))
        ));
    }
    let sound = memo();
    for _ in 0..2 {
        assert!(
            !engine.transcribe(&[input(&sound, Some("en"))], 0.0, &options).unwrap()[0].segments.is_empty()
        );
    }
    // Less than it can work on is silence.
    let sound = Sound::Samples(vec![0; 10]);
    assert!(engine.transcribe(&[input(&sound, None)], 0.0, &options).unwrap()[0].segments.is_empty());
}

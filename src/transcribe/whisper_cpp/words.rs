//! The times of words, from when whisper.cpp says that attention left each token.

use super::vocabulary::Stretch;
use crate::transcribe::{
    engine::{Input, TIMESTAMP_MS},
    words::{Loudness, Token, timed},
};

/// Gives the segments of `window` their words. Where a time is missing, that segment and the later ones keep none.
pub fn attach(segments: &mut [Stretch<'_>], window: &Input<'_>) {
    let loudness = Loudness::of(window.sound, window.duration_ms);
    // Attention comes to a token when it leaves the one before.
    let mut frame = 0;
    for segment in segments {
        let mut tokens = Vec::with_capacity(segment.tokens.len());
        for (bytes, token) in &segment.tokens {
            let Some(end_ms) = token.end_ms else { return };
            tokens.push(Token { bytes: bytes.to_vec(), frame, prob: token.prob });
            frame = end_ms / TIMESTAMP_MS;
        }
        let end_ms = segment.text.end_ms.unwrap_or(window.duration_ms);
        segment.text.words = timed(&tokens, segment.text.start_ms, end_ms, &loudness);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcribe::engine::{Sound, TimedText};

    fn stretch(start_ms: u32, of: &[(&'static [u8], Option<u32>)]) -> Stretch<'static> {
        let text =
            TimedText { start_ms, end_ms: Some(start_ms + 1000), text: "…".to_owned(), words: Vec::new() };
        let tokens =
            of.iter().map(|&(bytes, end_ms)| (bytes, super::super::Token { id: 1, prob: 0.5, end_ms }));
        Stretch { text, tokens: tokens.collect() }
    }

    #[test]
    fn a_token_begins_where_the_one_before_ended() {
        let sound = Sound::Samples(vec![1000; 48_000]);
        let window =
            Input { sound: &sound, duration_ms: 3000, language: None, previous: "", prompted: false };
        let mut segments = [
            stretch(0, &[(b" He", Some(400)), (b"llo", Some(500)), (b" there", Some(1000))]),
            stretch(2000, &[(b" Again", Some(2500)), (b".", None)]),
        ];
        attach(&mut segments, &window);
        let words = &segments[0].text.words;
        let texts: Vec<&str> = words.iter().map(|w| w.text.trim()).collect();
        assert_eq!(texts, ["Hello", "there"]);
        assert!(words[0].end_ms.abs_diff(500) <= 200 && words[1].end_ms <= 1000, "{words:?}");
        assert!(segments[1].text.words.is_empty(), "a time is missing");
    }
}

//! Is a text worth keeping? The guards of OpenAI's `transcribe.py`.

use std::io::Write;

use flate2::{Compression, write::ZlibEncoder};

use super::engine::{DecodeOptions, WindowText};

/// What is known about an attempt at a window's text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// Mean log-probability of the tokens.
    pub avg_logprob: f32,
    /// Probability that nobody speaks.
    pub no_speech_prob: f32,
    /// Bytes of the text by bytes of the deflated text.
    pub compression_ratio: f32,
}

impl Measure {
    /// What is known about `text`.
    pub fn of(text: &WindowText) -> Self {
        Self {
            avg_logprob: text.avg_logprob,
            no_speech_prob: text.no_speech_prob,
            compression_ratio: text.compression_ratio,
        }
    }

    /// Nobody speaks: the model says so, and is not sure of its text.
    pub fn silent(&self, options: &DecodeOptions) -> bool {
        self.no_speech_prob > options.max_no_speech_prob && self.avg_logprob < options.min_logprob
    }

    /// Good enough, or silence, where another temperature would only invent something.
    pub fn acceptable(&self, options: &DecodeOptions) -> bool {
        self.silent(options) || (!self.repeats(options) && self.avg_logprob >= options.min_logprob)
    }

    fn repeats(&self, options: &DecodeOptions) -> bool {
        self.compression_ratio > options.max_compression_ratio
    }

    /// Of two attempts that both failed, whether this is the better: one that does not repeat itself, then the more
    /// probable one.
    pub fn better_than(&self, other: &Self, options: &DecodeOptions) -> bool {
        match (self.repeats(options), other.repeats(options)) {
            (false, true) => true,
            (true, false) => false,
            _ => self.avg_logprob > other.avg_logprob,
        }
    }
}

/// How many times smaller zlib makes `text`: about 1 for a short sentence, above 2.4 for a loop.
pub fn compression_ratio(text: &str) -> f32 {
    if text.is_empty() {
        return 0.0;
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // Writing to a vector cannot fail.
    let deflated =
        encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()).map_or(text.len(), |v| v.len());
    text.len() as f32 / deflated.max(1) as f32
}

/// Whether `text` is a piece of `prompt`, or begins with all of it: at least three words, case and punctuation aside.
pub fn echoes(text: &str, prompt: &str) -> bool {
    let words = |s: &str| -> Vec<String> {
        s.to_lowercase()
            .split(|c: char| !c.is_alphanumeric())
            .filter(|w| !w.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let (text, prompt) = (words(text), words(prompt));
    if text.len() < 3 || prompt.len() < 3 {
        return false;
    }
    text.starts_with(&prompt) || prompt.windows(text.len()).any(|piece| piece == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_compress_and_sentences_do_not() {
        assert!(compression_ratio("The train from Boston arrives in twenty three minutes.") < 1.1);
        assert!(compression_ratio(&"so much for that. ".repeat(20)) > 8.0);
        assert_eq!(compression_ratio(""), 0.0);
    }

    #[test]
    fn silence_is_accepted_and_told() {
        let options = DecodeOptions::default();
        let silence = Measure { avg_logprob: -1.5, no_speech_prob: 0.9, compression_ratio: 3.0 };
        assert!(silence.silent(&options) && silence.acceptable(&options));
        let mumble = Measure { no_speech_prob: 0.1, ..silence };
        assert!(!mumble.acceptable(&options));
    }

    #[test]
    fn a_loop_is_worse_than_an_improbable_text() {
        let options = DecodeOptions::default();
        let looping = Measure { avg_logprob: -0.1, no_speech_prob: 0.0, compression_ratio: 6.0 };
        let unsure = Measure { avg_logprob: -1.4, no_speech_prob: 0.0, compression_ratio: 1.2 };
        assert!(!looping.acceptable(&options) && !unsure.acceptable(&options));
        assert!(unsure.better_than(&looping, &options) && !looping.better_than(&unsure, &options));
    }

    #[test]
    fn a_prompt_said_back_is_recognised() {
        let prompt = "A talk about Kubernetes, Grafana and Postgres.";
        assert!(echoes("a talk about kubernetes grafana and postgres", prompt));
        assert!(echoes("Kubernetes, Grafana and Postgres.", prompt));
        assert!(echoes("A talk about Kubernetes, Grafana and Postgres. And then more.", prompt));
        assert!(!echoes("We run Postgres on Kubernetes.", prompt));
        assert!(!echoes("Postgres.", prompt), "one word of it is likely to be said");
        assert!(!echoes("", "") && !echoes("some three words", ""));
    }
}

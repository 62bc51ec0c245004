//! Windows that need not be heard again although another model hears the file: what was made of them is believed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::checkpoint::WindowKey;
use super::engine::WindowText;

/// Figures that stand in the database and in a kept window are the same number, written twice.
const SAME: f32 = 1e-5;

/// The figures of a window by which a text is doubted.
#[derive(Clone, Copy, Debug)]
pub struct Figures<'a> {
    /// Mean log-probability of its tokens.
    pub avg_logprob: f32,
    /// Probability that nobody speaks.
    pub no_speech_prob: f32,
    /// The language it was taken for.
    pub language: &'a str,
}

/// The windows of a file that are believed as another model heard them, where they were kept.
#[derive(Debug)]
pub struct Believed {
    windows: HashMap<WindowKey, WindowText>,
    used: AtomicUsize,
}

impl Believed {
    /// Of what was `kept` of a file, the windows that became its stored transcript (whose segments have the mean
    /// log-probabilities `stored`) and are not `doubted`. A window without text is believed where its neighbours are from the
    /// same hearing.
    pub(super) fn new(
        kept: Vec<HashMap<WindowKey, WindowText>>,
        stored: &[f32],
        doubted: impl Fn(Figures<'_>) -> bool,
    ) -> Self {
        let mut stored = stored.to_vec();
        stored.sort_by(f32::total_cmp);
        let is_stored = |text: &WindowText| {
            let at = stored.partition_point(|x| *x < text.avg_logprob - SAME);
            stored.get(at).is_some_and(|x| (x - text.avg_logprob).abs() <= SAME)
        };
        let mut windows = HashMap::new();
        for hearing in kept {
            if !hearing.values().any(|text| !text.segments.is_empty() && is_stored(text)) {
                continue;
            }
            for (key, text) in hearing {
                let figures = Figures {
                    avg_logprob: text.avg_logprob,
                    no_speech_prob: text.no_speech_prob,
                    language: &text.language,
                };
                let silent = text.segments.is_empty();
                if silent || (is_stored(&text) && !doubted(figures)) {
                    windows.insert(key, text);
                }
            }
        }
        Self { windows, used: AtomicUsize::new(0) }
    }

    /// True where there is nothing to believe: all of the file is heard.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Windows whose text was taken over.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// The text of a window, if it is believed.
    pub(super) fn take(&self, key: &WindowKey) -> Option<WindowText> {
        let text = self.windows.get(key).cloned();
        if text.is_some() {
            self.used.fetch_add(1, Relaxed);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::TimedText;
    use super::*;

    fn text(words: &str, avg_logprob: f32) -> WindowText {
        let said = TimedText { start_ms: 0, end_ms: None, text: words.to_owned(), words: Vec::new() };
        WindowText {
            language: "en".to_owned(),
            language_prob: 0.9,
            segments: if words.is_empty() { Vec::new() } else { vec![said] },
            avg_logprob,
            no_speech_prob: 0.1,
            compression_ratio: 1.0,
            temperature: 0.0,
        }
    }

    fn key(n: u8) -> WindowKey {
        [n; 16]
    }

    #[test]
    fn only_what_became_the_transcript_and_is_not_doubted_is_believed() {
        let heard = HashMap::from([
            (key(1), text("good", -0.2)),
            (key(2), text("bad", -0.9)),
            (key(3), text("", -1.5)),
            (key(4), text("replaced since", -0.4)),
        ]);
        let foreign = HashMap::from([(key(5), text("from another run", -0.7)), (key(6), text("", -0.1))]);
        let stored = [-0.2, -0.9, -0.900_001];
        let believed = Believed::new(vec![heard, foreign], &stored, |f| f.avg_logprob < -0.8);
        let known: Vec<u8> = (1..=6).filter(|n| believed.take(&key(*n)).is_some()).collect();
        assert_eq!((known, believed.used()), (vec![1, 3], 2));
        assert!(Believed::new(Vec::new(), &stored, |_| false).is_empty());
    }
}

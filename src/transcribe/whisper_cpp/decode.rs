//! Decoding one window token by token: greedy, or by drawing samples.
//!
//! whisper.cpp's own program for this encodes the window again after a language was detected, and draws from a generator
//! whose state depends on what was decoded before. Here one encoder pass serves for all, the same window always gives the
//! same text, and the rules are those of OpenAI's `decoding.py`, as in the other engine.

use crate::transcribe::engine::{DecodeOptions, EngineError};

/// Most tokens of a text: half of the model's 448 text positions.
const MAX_TOKENS: usize = 224;

/// The model after its encoder has run.
pub trait Forward {
    /// Takes `tokens` after the first `past` tokens of before; the scores of what may come next.
    fn next(&mut self, tokens: &[usize], past: usize) -> Result<&[f32], EngineError>;
}

/// Which tokens may come when.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// `<|endoftext|>`; every lower id is text.
    pub end_of_text: usize,
    /// `<|0.00|>`; every higher id is a later time.
    pub timestamp_begin: usize,
    /// Text tokens that are not speech (brackets, notes, …).
    pub not_speech: Vec<usize>,
}

/// A decoded text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hypothesis {
    /// Tokens without the end of text, each with its probability.
    pub tokens: Vec<(usize, f32)>,
    /// Sum of the log-probabilities, with the end of text.
    pub logprob: f32,
}

impl Hypothesis {
    fn score(&self, length_penalty: f32) -> f32 {
        self.logprob / (self.tokens.len().max(1) as f32).powf(length_penalty)
    }
}

/// Decodes what follows the first `past` tokens, whose last one gave the scores `first`. At temperature 0 the most probable
/// token counts at each place, above it the best of some samples.
///
/// # Errors
/// Those of the model.
pub fn decode(
    model: &mut impl Forward,
    rules: &Rules,
    past: usize,
    first: &[f32],
    temperature: f32,
    options: &DecodeOptions,
) -> Result<Hypothesis, EngineError> {
    let samples = if temperature > 0.0 { options.best_of.max(1) } else { 1 };
    let mut best: Option<Hypothesis> = None;
    for sample in 0..samples {
        let mut lots = Lots::new(sample as u64, temperature);
        let text = one(model, rules, past, first, &mut lots, options)?;
        if best.as_ref().is_none_or(|b| text.score(options.length_penalty) > b.score(options.length_penalty))
        {
            best = Some(text);
        }
    }
    Ok(best.unwrap_or_default())
}

fn one(
    model: &mut impl Forward,
    rules: &Rules,
    past: usize,
    first: &[f32],
    lots: &mut Lots,
    options: &DecodeOptions,
) -> Result<Hypothesis, EngineError> {
    let mut ids: Vec<usize> = Vec::new();
    let mut text = Hypothesis::default();
    let mut scores = first.to_vec();
    loop {
        rules.apply(&mut scores, &ids, options);
        let normal = log_sum_exp(&scores);
        let token = lots.choose(&scores);
        let logprob = scores[token] - normal;
        text.logprob += logprob;
        if token == rules.end_of_text {
            return Ok(text);
        }
        ids.push(token);
        text.tokens.push((token, logprob.exp()));
        if ids.len() == MAX_TOKENS {
            return Ok(text);
        }
        scores.copy_from_slice(model.next(&[token], past + ids.len() - 1)?);
    }
}

const NEVER: f32 = f32::NEG_INFINITY;

impl Rules {
    /// Takes away what may not follow `ids`.
    fn apply(&self, scores: &mut [f32], ids: &[usize], options: &DecodeOptions) {
        let (eot, times) = (self.end_of_text, self.timestamp_begin);
        if options.repetition_penalty != 1.0 {
            penalise(scores, ids, options.repetition_penalty);
        }
        forbid_repeats(scores, ids, options.no_repeat_ngram_size);
        // Tokens that steer, and those that are not said.
        scores[eot + 1..times].fill(NEVER);
        for &token in &self.not_speech {
            scores[token] = NEVER;
        }
        if ids.is_empty() {
            // A text begins with a time, and soon.
            scores[..times].fill(NEVER);
            let latest = (times + options.max_initial_timestamp + 1).min(scores.len());
            scores[latest..].fill(NEVER);
            return;
        }
        // Times come in pairs, except before the end of text.
        let is_time = |token: Option<&usize>| token.is_none_or(|&t| t >= times);
        let last_was = is_time(ids.last());
        let before_was = is_time(ids.len().checked_sub(2).and_then(|i| ids.get(i)));
        match (last_was, before_was) {
            (true, true) => scores[times..].fill(NEVER),
            (true, false) => scores[..eot].fill(NEVER),
            (false, _) => {}
        }
        // They never go back, and no segment is empty.
        if let Some(&latest) = ids.iter().rev().find(|&&t| t >= times) {
            let from = if last_was && !before_was { latest } else { latest + 1 };
            let end = from.min(scores.len());
            scores[times..end].fill(NEVER);
        }
        // Where all times together are more probable than any text, it is a time.
        let (text, time) = scores.split_at(times);
        if log_sum_exp(time) > text.iter().copied().fold(NEVER, f32::max) {
            scores[..times].fill(NEVER);
        }
    }
}

fn penalise(scores: &mut [f32], ids: &[usize], penalty: f32) {
    let mut said = ids.to_vec();
    said.sort_unstable();
    said.dedup();
    for token in said {
        let score = &mut scores[token];
        *score = if *score > 0.0 { *score / penalty } else { *score * penalty };
    }
}

/// Takes away each token that would complete a sequence of `size` that was there before.
fn forbid_repeats(scores: &mut [f32], ids: &[usize], size: usize) {
    if size == 0 || ids.len() < size {
        return;
    }
    let tail = &ids[ids.len() - (size - 1)..];
    for before in ids.windows(size).filter(|w| w[..size - 1] == *tail) {
        scores[before[size - 1]] = NEVER;
    }
}

/// The logarithm of the sum of the exponentials; minus infinity for nothing.
pub fn log_sum_exp(scores: &[f32]) -> f32 {
    let most = scores.iter().copied().fold(NEVER, f32::max);
    if most == NEVER {
        return NEVER;
    }
    most + scores.iter().map(|&s| (s - most).exp()).sum::<f32>().ln()
}

/// Chooses tokens: the best one, or one by lot. The lots depend on nothing but the temperature and the sample's number.
struct Lots {
    temperature: f32,
    state: u64,
}

impl Lots {
    fn new(sample: u64, temperature: f32) -> Self {
        Self {
            temperature,
            state: sample.wrapping_mul(0xA076_1D64_78BD_642F) ^ u64::from(temperature.to_bits()),
        }
    }

    /// A number in [0, 1): SplitMix64 (Steele, Lea and Flood, 2014).
    fn draw(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn choose(&mut self, scores: &[f32]) -> usize {
        let best = (0..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best });
        if self.temperature == 0.0 {
            return best;
        }
        let most = scores[best];
        let temperature = self.temperature;
        let weight = |score: f32| f64::from((score - most) / temperature).exp();
        let mut left = self.draw() * scores.iter().map(|&s| weight(s)).sum::<f64>();
        for (token, &score) in scores.iter().enumerate() {
            left -= weight(score);
            if left < 0.0 {
                return token;
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens 0–9 are text, 10 ends it, 11–14 steer, 15 and up are times.
    const RULES: Rules = Rules { end_of_text: 10, timestamp_begin: 15, not_speech: Vec::new() };
    const VOCABULARY: usize = 15 + 101;

    /// A model that wants to say the given tokens, whatever came before them.
    struct Wants(Vec<usize>, Vec<f32>);

    impl Forward for Wants {
        fn next(&mut self, _tokens: &[usize], past: usize) -> Result<&[f32], EngineError> {
            self.1 = scores(self.0.get(past + 1).copied().unwrap_or(10));
            Ok(&self.1)
        }
    }

    fn scores(wanted: usize) -> Vec<f32> {
        let mut scores = vec![0.0; VOCABULARY];
        scores[wanted] = 12.0;
        scores
    }

    fn told(wanted: &[usize], temperature: f32, options: &DecodeOptions) -> Hypothesis {
        let first = scores(wanted[0]);
        decode(&mut Wants(wanted.to_vec(), Vec::new()), &RULES, 0, &first, temperature, options).unwrap()
    }

    fn ids(text: &Hypothesis) -> Vec<usize> {
        text.tokens.iter().map(|t| t.0).collect()
    }

    #[test]
    fn what_obeys_the_rules_is_said() {
        let wanted = [15, 1, 2, 3, 40, 40, 4, 5, 60];
        let text = told(&wanted, 0.0, &DecodeOptions::default());
        assert_eq!(ids(&text), wanted);
        assert!(text.logprob < 0.0 && text.logprob > -0.2, "{text:?}");
        assert!(text.tokens.iter().all(|t| t.1 > 0.9));
    }

    #[test]
    fn times_come_first_in_pairs_and_in_order() {
        let options = DecodeOptions::default();
        // Neither text, nor the end, nor a late time may begin.
        for begin in [1, 10, 12, 80] {
            let text = told(&[begin, 1], 0.0, &options);
            assert!((15..=15 + 50).contains(&text.tokens[0].0), "{text:?}");
        }
        // After a closing time no text; after a pair no third; never back; no control tokens.
        let text = told(&[20, 1, 30, 2, 40, 3, 18, 4, 12, 50], 0.0, &options);
        let said = ids(&text);
        let times: Vec<usize> = said.iter().copied().filter(|t| *t >= 15).collect();
        assert!(times.windows(2).all(|w| w[0] <= w[1]), "{said:?}");
        assert!(said.iter().all(|t| !(10..15).contains(t)), "{said:?}");
        assert!(said.windows(3).all(|w| !w.iter().all(|t| *t >= 15)), "{said:?}");
    }

    #[test]
    fn a_text_ends_in_the_end() {
        let endless: Vec<usize> = std::iter::once(15).chain((0..1000).map(|i| 1 + i % 3)).collect();
        assert_eq!(told(&endless, 0.0, &DecodeOptions::default()).tokens.len(), MAX_TOKENS);
    }

    #[test]
    fn repetitions_can_be_forbidden() {
        let wanted = [15, 1, 2, 1, 2, 1, 2];
        let options = DecodeOptions { no_repeat_ngram_size: 2, ..DecodeOptions::default() };
        let said = ids(&told(&wanted, 0.0, &options));
        assert_eq!(said[..4], [15, 1, 2, 1]);
        assert_ne!(said[4], 2);
        let mut scores = vec![4.0, -4.0, 4.0];
        penalise(&mut scores, &[1, 0, 1], 2.0);
        assert_eq!(scores, [2.0, -8.0, 4.0]);
    }

    #[test]
    fn samples_are_drawn_alike_each_time() {
        let wanted = [15, 1, 2, 3, 4, 5, 40];
        let options = DecodeOptions::default();
        assert_eq!(told(&wanted, 0.8, &options), told(&wanted, 0.8, &options));
        // The best of many is what is most probable.
        let many = DecodeOptions { best_of: 50, ..options };
        assert_eq!(ids(&told(&wanted, 0.8, &many)), wanted);
        let mut lots = Lots::new(1, 1.0);
        let ones = (0..2000).filter(|_| lots.choose(&[0.0, 2.0]) == 1).count();
        // e² to 1.
        assert!((1700..1820).contains(&ones), "{ones}");
    }

    #[test]
    fn probabilities_are_normal() {
        assert!((log_sum_exp(&[0.0, 0.0]) - 2.0_f32.ln()).abs() < 1e-6);
        assert_eq!(log_sum_exp(&[NEVER, NEVER]), NEVER);
        assert_eq!(log_sum_exp(&[]), NEVER);
    }
}

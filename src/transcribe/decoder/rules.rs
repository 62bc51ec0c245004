//! Which tokens may come next: OpenAI's rules for timestamps, and what the model's configuration and the user forbid.

use std::ops::Range;

use super::logits::{Block, NEVER, Scored, Tally, insert};
use super::options::{Options, Special};
use super::sample::Chance;

/// What may come next.
pub(super) struct Next<'a> {
    /// The most probable, best first.
    pub(super) best: &'a [Scored],
    /// Those that were drawn by chance.
    pub(super) drawn: &'a [Scored],
    /// Logit less log-probability.
    pub(super) total: f32,
}

/// What the rules make of one row, block by block.
#[derive(Default)]
pub(super) struct Judge {
    /// Before the rules, at the start of the transcript alone.
    raw: Option<Tally>,
    no_speech: f32,
    text: Tally,
    times: Tally,
    /// Tokens said before, each once, where that is a disadvantage; the last first.
    again: Vec<u32>,
    /// Tokens that may not come; the last first.
    never: Vec<u32>,
}

impl Judge {
    /// Begins with a row that follows the tokens `said`, of whose successors the `wanted` most probable are asked for. At the
    /// `start` of the transcript the probability of no speech is told.
    pub(super) fn begin(
        &mut self,
        special: &Special,
        options: &Options,
        said: &[u32],
        wanted: usize,
        start: bool,
        all: usize,
    ) {
        self.raw = start.then(|| {
            let mut raw = Tally::default();
            raw.begin(0..all, 1);
            raw
        });
        let (text, times) = allowed(special, options, said, all);
        self.text.begin(text, wanted);
        self.times.begin(times, wanted);
        self.again.clear();
        if options.repetition_penalty != 1.0 {
            self.again.extend(said);
            self.again.sort_unstable_by(|a, b| b.cmp(a));
            self.again.dedup();
        }
        self.never.clear();
        self.never.extend(repeated(said, options.no_repeat_ngram));
        self.never.extend(&special.suppressed);
        self.never.push(special.no_timestamps);
        if said.is_empty() {
            self.never.extend(&special.suppressed_first);
        }
        self.never.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// Takes the next block; each of `chances` may draw a token.
    #[target_feature(enable = "avx512f")]
    pub(super) fn take(
        &mut self,
        special: &Special,
        options: &Options,
        block: &mut Block<'_>,
        chances: &mut [Chance],
    ) {
        if let Some(raw) = &mut self.raw {
            raw.add(block, 1.0, &mut []);
            self.no_speech = block.logit(special.no_speech).unwrap_or(self.no_speech);
        }
        // First, since what is forbidden stays so.
        let penalty = options.repetition_penalty;
        let end = block.tokens().end as u32;
        while let Some(id) = self.again.pop_if(|id| *id < end) {
            block.change(id, |logit| if logit < 0.0 { logit * penalty } else { logit / penalty });
        }
        while let Some(id) = self.never.pop_if(|id| *id < end) {
            block.change(id, |_| NEVER);
        }
        let sharpness = sharpness(options);
        self.text.add(block, sharpness, chances);
        self.times.add(block, sharpness, chances);
    }

    /// The probability that nobody speaks, where it was asked for.
    pub(super) fn no_speech(&self) -> Option<f32> {
        self.raw.as_ref().map(|raw| (self.no_speech - raw.total()).exp())
    }

    /// What all blocks together say.
    pub(super) fn end(&mut self, options: &Options, chances: &mut [Chance]) -> Next<'_> {
        let Self { text, times, .. } = self;
        // All times together against the single best word.
        if text.best.is_empty() || times.total() > text.most() {
            return Next { best: &times.best, drawn: &times.drawn, total: times.total() };
        }
        let total = both(text.total(), times.total());
        if !times.best.is_empty() {
            let sharpness = sharpness(options);
            let (words, times_too) = (text.drawn_total(sharpness), times.drawn_total(sharpness));
            let share = (times_too - both(words, times_too)).exp();
            for ((word, time), chance) in text.drawn.iter_mut().zip(&times.drawn).zip(chances) {
                if chance.draw() < share {
                    *word = *time;
                }
            }
            times.best.iter().for_each(|&time| insert(&mut text.best, text.wanted, time));
        }
        Next { best: &text.best, drawn: &text.drawn, total }
    }
}

/// What logits are multiplied by before a token is drawn.
fn sharpness(options: &Options) -> f32 {
    if options.temperature > 0.0 { 1.0 / options.temperature } else { 1.0 }
}

/// ln(e^a + e^b), from the larger.
fn both(a: f32, b: f32) -> f32 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    high + (low - high).exp().ln_1p()
}

/// The text (and orders) and the times that may follow `said`.
pub(super) fn allowed(
    special: &Special,
    options: &Options,
    said: &[u32],
    all: usize,
) -> (Range<usize>, Range<usize>) {
    let first = special.no_timestamps as usize + 1;
    let is_time = |token: &&u32| **token as usize >= first;
    let Some(last) = said.last() else {
        // A text begins with a time.
        return (0..0, first..(first + options.max_initial_timestamp + 1).min(all));
    };
    if !is_time(&last) {
        // Times go on; a segment is longer than nothing.
        let from = said.iter().rfind(is_time).map_or(first, |&time| time as usize + 1);
        return (0..first, from..all);
    }
    let before = said.len().checked_sub(2).map_or(last, |at| &said[at]);
    if is_time(&before) {
        return (0..first, all..all);
    }
    // Times come in pairs, but for the last.
    (special.end as usize..first, *last as usize..all)
}

/// Tokens that would end a sequence of `size` that was said before.
pub(super) fn repeated(said: &[u32], size: usize) -> impl Iterator<Item = u32> {
    let begun = (size > 0).then(|| said.len().checked_sub(size)).flatten().map(|at| &said[at + 1..]);
    said.windows(size.max(1)).filter_map(move |window| {
        let (end, beginning) = window.split_last()?;
        (Some(beginning) == begun).then_some(*end)
    })
}

//! Which tokens may come next: OpenAI's rules for timestamps, and what the model's configuration and the user forbid.

use std::ops::Range;

use super::logits::{NEVER, Row, Scored, insert, largest, sum};
use super::options::{Options, Special};

/// What may come next.
pub(super) struct Next<'a> {
    /// The most probable, best first.
    pub(super) best: &'a [Scored],
    /// Where the logits are that may come.
    pub(super) ranges: &'a [Range<usize>],
    /// Logit less log-probability.
    pub(super) total: f32,
}

/// Working memory.
#[derive(Default)]
pub(super) struct Room {
    text: Vec<Scored>,
    times: Vec<Scored>,
    ranges: Vec<Range<usize>>,
}

/// What the rules leave of `row` (which they change) after the tokens `said`: the `most` most probable, and how they add up.
#[target_feature(enable = "avx512f")]
pub(super) fn next<'a>(
    special: &Special,
    options: &Options,
    said: &[u32],
    row: &mut Row<'_>,
    most: usize,
    room: &'a mut Room,
) -> Next<'a> {
    // First, since what is forbidden stays so.
    if options.repetition_penalty != 1.0 {
        penalise(said, options.repetition_penalty, row);
    }
    let mut never = |id: u32| row.set(id, NEVER);
    repeated(said, options.no_repeat_ngram).for_each(&mut never);
    special.suppressed.iter().copied().for_each(&mut never);
    never(special.no_timestamps);
    if said.is_empty() {
        special.suppressed_first.iter().copied().for_each(&mut never);
    }
    let (text, times) = allowed(special, options, said, row.logits.len());
    let Room { text: best, times: best_times, ranges } = room;
    largest(row, text.clone(), most, best);
    largest(row, times.clone(), most, best_times);
    ranges.clear();
    let mut total = f32::NEG_INFINITY;
    let mut add = |range: Range<usize>, top: Option<&Scored>| {
        if let Some(&(top, _)) = top {
            let log = top + sum(row.logits, range.clone(), top, 1.0).ln();
            // ln(e^a + e^b) from the larger.
            let (high, low) = if log > total { (log, total) } else { (total, log) };
            total = high + (low - high).exp().ln_1p();
            ranges.push(range);
        }
        total
    };
    let all_times = add(times, best_times.first());
    // All times together against the single best word.
    if best.first().is_none_or(|top| all_times > top.0) {
        best.clear();
    } else {
        add(text, best.first());
    }
    best_times.iter().for_each(|&time| insert(best, most, time));
    Next { best, ranges, total }
}

/// The text (and orders) and the times that may follow `said`.
fn allowed(special: &Special, options: &Options, said: &[u32], all: usize) -> (Range<usize>, Range<usize>) {
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

/// Divides what `said` has by the penalty, each token once.
fn penalise(said: &[u32], penalty: f32, row: &mut Row<'_>) {
    for (i, &token) in said.iter().enumerate() {
        if !said[..i].contains(&token) {
            let logit = row.logits[token as usize];
            row.set(token, if logit < 0.0 { logit * penalty } else { logit / penalty });
        }
    }
}

/// Tokens that would end a sequence of `size` that was said before.
fn repeated(said: &[u32], size: usize) -> impl Iterator<Item = u32> {
    let begun = (size > 0).then(|| said.len().checked_sub(size)).flatten().map(|at| &said[at + 1..]);
    said.windows(size.max(1)).filter_map(move |window| {
        let (end, beginning) = window.split_last()?;
        (Some(beginning) == begun).then_some(*end)
    })
}

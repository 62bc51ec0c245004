//! When each token of a text was said: the decoder reads the text again, all at once, and is watched where some of its heads look.

use super::batch::{ROWS, Room};
use super::cache::Heard;
use super::logits::{self, Block, Tally};
use super::options::{Head, Reading};
use super::step::{self, Row, shares};
use super::{Decoder, LONGEST};
use crate::transcribe::kernels::matrix::{PANEL, parts};
use crate::transcribe::kernels::positions::{KEYS, POSITIONS};
use crate::transcribe::kernels::vector::{LANES, layer_norm, quantise};
use crate::transcribe::words::{Alignment, FEWEST, arrivals};

/// Notes where some heads look; by default none.
#[derive(Default)]
pub(super) struct Watch<'a> {
    heads: &'a [Head],
    /// Frames that count.
    frames: usize,
    /// Rows of the whole text.
    rows: usize,
    /// Those that went before the ones at hand.
    first: usize,
    /// Where the rows at hand are.
    pub(super) layer: usize,
    /// `[head][row][frame]`.
    attention: &'a mut [f32],
}

impl Watch<'_> {
    /// Notes what rows from the `first` of those at hand look at with `head` of the layer: their `scores`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn look(&mut self, head: usize, first: usize, scores: &[f32], count: usize) {
        let Some(nth) = self.heads.iter().position(|&known| known == (self.layer, head)) else { return };
        let mut row = [0.0; KEYS];
        for (n, scores) in scores.chunks_exact(KEYS).take(count).enumerate() {
            let row = &mut row[..self.frames.next_multiple_of(LANES)];
            row.copy_from_slice(&scores[..row.len()]);
            let share = shares(row, self.frames);
            let at = (nth * self.rows + self.first + first + n) * self.frames;
            let out = &mut self.attention[at..at + self.frames];
            out.iter_mut().zip(row).for_each(|(out, weight)| *out = *weight * share);
        }
    }
}

impl Decoder {
    /// Looks up a text in the window that was `heard`; `None` where the text is too long or the window too short.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni,avx512bf16")]
    pub(super) fn align(
        &self,
        heard: &Heard,
        reading: &Reading<'_>,
        heads: &[Head],
        room: &mut Room,
    ) -> Option<Alignment> {
        let Reading { task, text, frames, .. } = *reading;
        let frames = frames.min(POSITIONS);
        let (before, after) = ([self.special.no_timestamps], [self.special.end]);
        let tokens = [task, &before, text, &after].concat();
        let known = tokens.iter().all(|&token| (token as usize) < self.tokens)
            && text.iter().all(|&token| token < self.special.end);
        if !known || tokens.len() > LONGEST || frames < FEWEST || text.is_empty() {
            return None;
        }
        // A token is written by the row before its own.
        let writing = task.len()..task.len() + text.len();
        let mut attention = std::mem::take(&mut room.attention);
        attention.resize(heads.len() * tokens.len() * frames, 0.0);
        let mut watch =
            Watch { heads, frames, rows: tokens.len(), first: 0, layer: 0, attention: &mut attention };
        room.said.clear();
        room.said.reserve(tokens.len(), std::iter::empty());
        let entries: Vec<u32> = (0..tokens.len()).map_while(|_| room.said.entry()).collect();
        let mut probs = Vec::with_capacity(text.len());
        room.row.resize(self.width, 0.0);
        for (from, size) in parts(tokens.len(), ROWS) {
            room.x.resize(size * self.width, 0.0);
            for (position, x) in (from..).zip(room.x.chunks_exact_mut(self.width)) {
                self.embed(tokens[position], position, x);
            }
            let rows: Vec<Row<'_>> =
                (from..from + size).map(|position| Row { heard, said: &entries[..=position] }).collect();
            watch.first = from;
            step::step(&self.layers, &rows, &mut room.x, &mut room.said, &mut room.step, &mut watch);
            let here = writing.start.max(from)..writing.end.min(from + size);
            if !here.is_empty() {
                self.probabilities(
                    here.start - from..here.end - from,
                    &tokens[here.start + 1..],
                    room,
                    &mut probs,
                );
            }
        }
        let frames = arrivals(&mut attention, tokens.len(), frames, writing);
        room.attention = attention;
        Some(Alignment { frames, probs })
    }

    /// The probability of each of the first of `next` after the rows `rows` of `room.x`, among all tokens of text.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni,avx512bf16")]
    fn probabilities(
        &self,
        rows: std::ops::Range<usize>,
        next: &[u32],
        room: &mut Room,
        probs: &mut Vec<f32>,
    ) {
        let (width, count) = (self.width, rows.len());
        room.ready.resize(count * width, 0);
        room.worth.resize(count, 0.0);
        let x = room.x[rows.start * width..rows.end * width].chunks_exact(width);
        for ((x, bytes), worth) in x.zip(room.ready.chunks_exact_mut(width)).zip(&mut room.worth) {
            layer_norm(x, &self.last.gamma, &self.last.beta, &mut room.row);
            *worth = quantise(&room.row, bytes);
        }
        room.fit(count, logits::PANELS * PANEL);
        let text = self.special.end as usize;
        let mut tallies: Vec<(Tally, f32)> = Vec::new();
        tallies.resize_with(count, || (Tally::default(), logits::NEVER));
        tallies.iter_mut().for_each(|(tally, _)| tally.begin(0..text, 1));
        let all = text.div_ceil(PANEL);
        for first in (0..all).step_by(logits::PANELS) {
            let panels = first..(first + logits::PANELS).min(all);
            let outputs = panels.len() * PANEL;
            let (logits, most) = (&mut room.logits[..count * outputs], &mut room.most[..count * outputs / 4]);
            self.vocabulary.measure(panels, &room.ready, &room.worth, logits, most);
            let held = logits.chunks_exact_mut(outputs).zip(most.chunks_exact_mut(outputs / 4));
            for (((logits, most), (tally, logit)), &next) in held.zip(&mut tallies).zip(next) {
                let block = Block { first: first * PANEL, logits, most };
                tally.add(&block, 1.0, &mut []);
                *logit = block.logit(next).unwrap_or(*logit);
            }
        }
        probs.extend(tallies.iter().map(|(tally, logit)| (logit - tally.total()).exp()));
    }
}

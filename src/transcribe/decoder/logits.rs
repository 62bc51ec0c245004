//! What the model holds of each token of its vocabulary. It is computed for all rows at once and a block of tokens at a time,
//! and is gone when the next block comes: a [`Tally`] keeps what is asked for.

use std::arch::x86_64::{
    __m512, __mmask16, _CMP_GT_OQ, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_mask_loadu_ps, _mm512_mul_ps,
    _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_sub_ps,
};
use std::ops::Range;

use super::sample::Chance;
use crate::transcribe::kernels::matrix::PANEL;
use crate::transcribe::kernels::vector::{LANES, exp_below, load};

/// What a token that may not come is worth.
pub(super) const NEVER: f32 = f32::MIN;

/// Panels of tokens in a block: a row's 1984 logits stay in the first cache, those of twenty rows in the second.
pub(super) const PANELS: usize = 31;

/// Sixty-four tokens that lie so far below the best add nothing to a sum: all of a vocabulary, 1e-6 of it.
const FAR: f32 = 25.0;

/// A token and its logit.
pub(super) type Scored = (f32, u32);

/// A row's part of a block.
pub(super) struct Block<'a> {
    /// The first token.
    pub(super) first: usize,
    /// What each is worth.
    pub(super) logits: &'a mut [f32],
    /// At least as much as the largest of each 64 of them, in sixteen parts.
    pub(super) most: &'a mut [f32],
}

impl Block<'_> {
    /// The tokens in it.
    pub(super) fn tokens(&self) -> Range<usize> {
        self.first..self.first + self.logits.len()
    }

    /// Changes a token's logit, if it is in this block.
    pub(super) fn change(&mut self, id: u32, change: impl Fn(f32) -> f32) {
        let Some(at) = (id as usize).checked_sub(self.first) else { return };
        let Some(logit) = self.logits.get_mut(at) else { return };
        *logit = change(*logit);
        let most = &mut self.most[at / PANEL * LANES + at % LANES];
        *most = most.max(*logit);
    }

    /// What a token is worth, if it is in this block.
    pub(super) fn logit(&self, id: u32) -> Option<f32> {
        self.logits.get((id as usize).checked_sub(self.first)?).copied()
    }
}

/// What is known of some tokens.
#[derive(Default)]
pub(super) struct Tally {
    /// Which.
    range: Range<usize>,
    /// How many of the most probable are asked for.
    pub(super) wanted: usize,
    /// They, the largest first, of equals the first.
    pub(super) best: Vec<Scored>,
    /// The sum of e to the power of each logit less the best.
    sum: f32,
    /// Tokens that were drawn by chance, and the sum they were drawn from: as `sum`, at the temperature.
    pub(super) drawn: Vec<Scored>,
    drawn_sum: f32,
}

impl Tally {
    /// Begins anew with the tokens of `range`.
    pub(super) fn begin(&mut self, range: Range<usize>, wanted: usize) {
        self.best.clear();
        self.drawn.clear();
        (self.range, self.wanted, self.sum, self.drawn_sum) = (range, wanted, 0.0, 0.0);
    }

    /// The largest logit.
    pub(super) fn most(&self) -> f32 {
        self.best.first().map_or(f32::NEG_INFINITY, |best| best.0)
    }

    /// The logarithm of the sum of e to the power of each logit.
    pub(super) fn total(&self) -> f32 {
        self.most() + self.sum.ln()
    }

    /// As [`Self::total`] of logits by the temperature.
    pub(super) fn drawn_total(&self, sharpness: f32) -> f32 {
        self.most() * sharpness + self.drawn_sum.ln()
    }

    /// Takes a block; of its tokens each of `chances` may draw one, with the logits times `sharpness`.
    #[target_feature(enable = "avx512f")]
    pub(super) fn add(&mut self, block: &Block<'_>, sharpness: f32, chances: &mut [Chance]) {
        let tokens = block.tokens();
        let range = self.range.start.max(tokens.start)..self.range.end.min(tokens.end);
        if range.is_empty() {
            return;
        }
        let before = self.most();
        self.rank(block, range.clone());
        let most = self.most();
        if most <= NEVER {
            return;
        }
        let less = before - most;
        self.sum = self.sum * less.exp() + sum(block, range.clone(), most, 1.0);
        if !chances.is_empty() {
            let here = sum(block, range.clone(), most, sharpness);
            self.drawn_sum = self.drawn_sum * (less * sharpness).exp() + here;
            self.drawn.resize(chances.len(), (NEVER, 0));
            for (drawn, chance) in self.drawn.iter_mut().zip(chances) {
                let from_here = chance.draw() * self.drawn_sum < here;
                if let Some(one) =
                    from_here.then(|| draw(block, range.clone(), most, sharpness, chance.draw() * here))
                {
                    *drawn = one;
                }
            }
        }
    }

    /// Looks for tokens that are among the best.
    #[target_feature(enable = "avx512f")]
    fn rank(&mut self, block: &Block<'_>, range: Range<usize>) {
        let mut least = self.least();
        for (bound, part) in parts(block, range) {
            if _mm512_cmp_ps_mask::<_CMP_GT_OQ>(bound, _mm512_set1_ps(least)) == 0 {
                continue;
            }
            for from in part.clone().step_by(LANES) {
                let values = some(block, from, part.end);
                let mut larger = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(values, _mm512_set1_ps(least));
                while larger != 0 {
                    let id = from + larger.trailing_zeros() as usize;
                    larger &= larger - 1;
                    insert(&mut self.best, self.wanted, (block.logits[id - block.first], id as u32));
                }
                least = self.least();
            }
        }
    }

    /// What a token has to exceed.
    fn least(&self) -> f32 {
        self.best.last().filter(|_| self.best.len() == self.wanted).map_or(NEVER, |last| last.0)
    }
}

/// Puts a token in its place among the `wanted` best, if it has one.
pub(super) fn insert(best: &mut Vec<Scored>, wanted: usize, one: Scored) {
    if best.len() == wanted {
        if best.last().is_none_or(|last| one.0 <= last.0) {
            return;
        }
        best.pop();
    }
    let place = best.partition_point(|other| other.0 >= one.0);
    best.insert(place, one);
}

/// The sum of e to the power of each of `range` less `most`, which none of them exceeds, times `sharpness`.
#[target_feature(enable = "avx512f")]
fn sum(block: &Block<'_>, range: Range<usize>, most: f32, sharpness: f32) -> f32 {
    let far = _mm512_set1_ps(most - FAR / sharpness);
    let (most, sharpness) = (_mm512_set1_ps(most), _mm512_set1_ps(sharpness));
    let mut sums = [_mm512_setzero_ps(); 2];
    for (bound, part) in parts(block, range) {
        if _mm512_cmp_ps_mask::<_CMP_GT_OQ>(bound, far) == 0 {
            continue;
        }
        for from in part.clone().step_by(LANES) {
            let off = _mm512_sub_ps(some(block, from, part.end), most);
            let sum = &mut sums[from / LANES % 2];
            *sum = _mm512_add_ps(*sum, exp_below(_mm512_mul_ps(off, sharpness)));
        }
    }
    _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]))
}

/// The token at which the sum of e to the power of the logits of `range` less `most`, times `sharpness`, comes to `left`.
fn draw(block: &Block<'_>, range: Range<usize>, most: f32, sharpness: f32, mut left: f32) -> Scored {
    let mut last = (NEVER, range.start as u32);
    for id in range {
        let logit = block.logits[id - block.first];
        if logit > NEVER {
            last = (logit, id as u32);
            left -= ((logit - most) * sharpness).exp();
            if left <= 0.0 {
                break;
            }
        }
    }
    last
}

/// The parts of `range` that lie in one panel each, and their bounds.
#[inline]
#[target_feature(enable = "avx512f")]
fn parts(block: &Block<'_>, range: Range<usize>) -> impl Iterator<Item = (__m512, Range<usize>)> {
    let first = block.first;
    let panels = (range.start - first) / PANEL..(range.end - first).div_ceil(PANEL);
    panels.map(move |panel| {
        let from = first + panel * PANEL;
        let part = range.start.max(from)..range.end.min(from + PANEL);
        (load(block.most, panel * LANES), part)
    })
}

/// Up to sixteen logits from the token `at`, those from `end` on as what never comes.
#[inline]
#[target_feature(enable = "avx512f")]
fn some(block: &Block<'_>, at: usize, end: usize) -> __m512 {
    let count = (end - at).min(LANES);
    let mask = ((1_u32 << count) - 1) as __mmask16;
    let elements = &block.logits[at - block.first..][..count];
    // SAFETY: only as many are read as there are.
    unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(NEVER), mask, elements.as_ptr()) }
}

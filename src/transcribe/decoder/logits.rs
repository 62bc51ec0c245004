//! What the model holds of each token of its vocabulary: computed for all rows at once, then read row by row.

use std::arch::x86_64::{
    __m512, __mmask16, _CMP_GT_OQ, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_mask_loadu_ps, _mm512_mul_ps,
    _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_sub_ps,
};
use std::ops::Range;

use crate::transcribe::kernels::matrix::PANEL;
use crate::transcribe::kernels::vector::{LANES, exp_below, load};

/// What a token that may not come is worth.
pub(super) const NEVER: f32 = f32::MIN;

/// Tokens whose chances are summed up together when one is drawn.
const BLOCK: usize = 256;

/// A token and its logit.
pub(super) type Scored = (f32, u32);

/// A row: what each token is worth, and at least as much as the largest of each 64 of them, in sixteen parts.
pub(super) struct Row<'a> {
    pub(super) logits: &'a mut [f32],
    pub(super) most: &'a mut [f32],
}

impl Row<'_> {
    /// Sets a token's logit.
    pub(super) fn set(&mut self, id: u32, logit: f32) {
        let id = id as usize;
        self.logits[id] = logit;
        let most = &mut self.most[id / PANEL * LANES + id % LANES];
        *most = most.max(logit);
    }
}

/// Puts the `most` largest of `range` that may come into `best`, the largest first, of equals the first.
#[target_feature(enable = "avx512f")]
pub(super) fn largest(row: &Row<'_>, range: Range<usize>, most: usize, best: &mut Vec<Scored>) {
    best.clear();
    let mut least = _mm512_set1_ps(NEVER);
    let mut at = range.start;
    while at < range.end {
        let end = (at / PANEL * PANEL + PANEL).min(range.end);
        let bound = load(row.most, at / PANEL * LANES);
        if _mm512_cmp_ps_mask::<_CMP_GT_OQ>(bound, least) != 0 {
            for from in (at..end).step_by(LANES) {
                let values = some(row.logits, from, end);
                let mut larger = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(values, least);
                while larger != 0 {
                    let id = from + larger.trailing_zeros() as usize;
                    larger &= larger - 1;
                    insert(best, most, (row.logits[id], id as u32));
                }
                if best.len() == most {
                    least = _mm512_set1_ps(best.last().map_or(NEVER, |last| last.0));
                }
            }
        }
        at = end;
    }
}

/// Puts a token in its place among the `most` best, if it has one.
pub(super) fn insert(best: &mut Vec<Scored>, most: usize, one: Scored) {
    if best.len() == most {
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
pub(super) fn sum(logits: &[f32], range: Range<usize>, most: f32, sharpness: f32) -> f32 {
    let (most, sharpness) = (_mm512_set1_ps(most), _mm512_set1_ps(sharpness));
    let mut sums = [_mm512_setzero_ps(); 2];
    for at in range.clone().step_by(LANES) {
        let values = some(logits, at, range.end);
        let sum = &mut sums[at / LANES % 2];
        *sum = _mm512_add_ps(*sum, exp_below(_mm512_mul_ps(_mm512_sub_ps(values, most), sharpness)));
    }
    _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]))
}

/// Draws one of the tokens of `ranges`, whose largest logit is `most`: each as likely as e to the power of its logit times
/// `sharpness`, `chance` in 0 to 1.
#[target_feature(enable = "avx512f")]
pub(super) fn draw(
    logits: &[f32],
    ranges: &[Range<usize>],
    most: f32,
    sharpness: f32,
    chance: f64,
) -> Option<u32> {
    let blocks = || {
        let block = |range: &Range<usize>, from: usize| from..(from + BLOCK).min(range.end);
        ranges.iter().flat_map(move |range| range.clone().step_by(BLOCK).map(move |from| block(range, from)))
    };
    let of = |range: Range<usize>| f64::from(sum(logits, range, most, sharpness));
    let mut left = blocks().map(of).sum::<f64>() * chance;
    let mut drawn = None;
    for block in blocks() {
        let all = of(block.clone());
        if left > all {
            left -= all;
            continue;
        }
        for id in block.filter(|&id| logits[id] > NEVER) {
            drawn = Some(id as u32);
            left -= f64::from(((logits[id] - most) * sharpness).exp());
            if left <= 0.0 {
                return drawn;
            }
        }
        left = 0.0;
    }
    // Sums of blocks and of single tokens differ in the last places.
    drawn.or_else(|| blocks().flatten().rfind(|&id| logits[id] > NEVER).map(|id| id as u32))
}

/// Up to sixteen elements from `at`, those from `end` on as what never comes.
#[inline]
#[target_feature(enable = "avx512f")]
fn some(logits: &[f32], at: usize, end: usize) -> __m512 {
    let count = (end - at).min(LANES);
    let mask = ((1_u32 << count) - 1) as __mmask16;
    let elements = &logits[at..at + count];
    // SAFETY: only as many are read as there are.
    unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(NEVER), mask, elements.as_ptr()) }
}

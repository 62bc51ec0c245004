//! Keys and values of a window's 1500 positions in bfloat16, laid out for products with rows that look at them.

use std::arch::x86_64::{
    __mmask16, _mm256_storeu_si256, _mm512_add_ps, _mm512_cvtepu16_epi32, _mm512_mask_add_ps,
    _mm512_mask_max_ps, _mm512_max_ps, _mm512_or_si512, _mm512_reduce_add_ps, _mm512_reduce_max_ps,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_si512, _mm512_sub_ps,
};

use super::HEAD;
use super::matrix::PANEL;
use super::vector::{LANES, bf16, exp, load, to_bf16};

/// Positions of a window.
pub const POSITIONS: usize = 1500;
/// Keys, filled up to whole panels; those beyond the last are zero and never counted.
pub const KEYS: usize = POSITIONS.next_multiple_of(PANEL);
/// Pairs of bfloat16 in a row of weights.
pub const WEIGHT_PAIRS: usize = POSITIONS.next_multiple_of(2 * LANES) / 2;
/// Pairs of a head's keys.
pub const HEAD_KEYS: usize = KEYS * HEAD / 2;
/// Pairs of a head's values.
pub const HEAD_VALUES: usize = POSITIONS * HEAD / 2;

/// Keys and values of one window and layer.
pub struct Positions {
    /// `[head][position / 64][32][64]` pairs: a panel's 64 positions side by side.
    pub keys: Vec<u32>,
    /// `[head][position / 2][64]`: pairs of two positions' values.
    pub values: Vec<u32>,
}

impl Positions {
    /// Room for them, all zero.
    pub fn new(heads: usize) -> Self {
        Self { keys: vec![0; heads * HEAD_KEYS], values: vec![0; heads * HEAD_VALUES] }
    }

    /// Takes keys and values, each as many as there are `heads` · 64, which stand side by side at `from` in each of `rows`, a
    /// row every `stride`. `first` is an even number; `row` has room for a row's keys.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub fn take(&mut self, first: usize, rows: &[f32], stride: usize, from: usize, row: &mut [u16]) {
        let width = row.len();
        for (i, keys) in rows.chunks_exact(stride).enumerate() {
            let position = first + i;
            to_bf16(&keys[from..from + width], 1.0, row);
            for (head, key) in row.chunks_exact(HEAD).enumerate() {
                let at = head * HEAD_KEYS + position / PANEL * PANEL * HEAD / 2 + position % PANEL;
                pairs(key).zip(self.keys[at..].iter_mut().step_by(PANEL)).for_each(|(pair, out)| *out = pair);
            }
        }
        for (i, two) in rows.chunks_exact(2 * stride).enumerate() {
            let (one, other) = (&two[from + width..stride], &two[stride + from + width..]);
            for at in (0..width).step_by(LANES) {
                let low = _mm512_cvtepu16_epi32(bf16(load(one, at)));
                let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bf16(load(other, at))));
                let to = at / HEAD * HEAD_VALUES + (first / 2 + i) * HEAD + at % HEAD;
                let room = &mut self.values[to..to + LANES];
                // SAFETY: there is room for sixteen.
                unsafe { _mm512_storeu_si512(room.as_mut_ptr().cast(), _mm512_or_si512(low, high)) };
            }
        }
    }
}

/// e to the power of each score less the largest, in bfloat16; their sum.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub fn softmax(scores: &[f32], weights: &mut [u32]) -> f32 {
    const WHOLE: usize = POSITIONS / LANES * LANES;
    const REST: __mmask16 = (1 << (POSITIONS - WHOLE)) - 1;
    let mut largest = [_mm512_set1_ps(f32::MIN); 4];
    for at in (0..WHOLE).step_by(LANES) {
        let most = &mut largest[at / LANES % 4];
        *most = _mm512_max_ps(*most, load(scores, at));
    }
    largest[0] = _mm512_mask_max_ps(largest[0], REST, largest[0], load(scores, WHOLE));
    let largest = _mm512_max_ps(_mm512_max_ps(largest[0], largest[1]), _mm512_max_ps(largest[2], largest[3]));
    let largest = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    let mut sums = [_mm512_setzero_ps(); 2];
    for (i, room) in weights.as_chunks_mut::<{ LANES / 2 }>().0.iter_mut().enumerate() {
        let weight = exp(_mm512_sub_ps(load(scores, i * LANES), largest));
        let sum = &mut sums[i % 2];
        // The last vector holds what lies beyond the last position; those pairs are never read.
        *sum = match i * LANES {
            WHOLE.. => _mm512_mask_add_ps(*sum, REST, *sum, weight),
            _ => _mm512_add_ps(*sum, weight),
        };
        // SAFETY: `room` has room for eight pairs, sixteen halves.
        unsafe { _mm256_storeu_si256(room.as_mut_ptr().cast(), bf16(weight)) };
    }
    _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]))
}

/// Neighbours in one word, the first in the lower half.
pub fn pairs(halves: &[u16]) -> impl Iterator<Item = u32> {
    halves.as_chunks::<2>().0.iter().map(|&[low, high]| u32::from(low) | u32::from(high) << 16)
}

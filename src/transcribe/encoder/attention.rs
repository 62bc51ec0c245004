//! Every position's look at every other, in bfloat16 with sums in single precision, a head and twelve positions at a time: the
//! scores of twelve positions stay in the processor's cache, where a runtime that computes whole matrices writes 1500 × 1500
//! of them a head to memory and reads them back three times.

use std::arch::x86_64::{
    __mmask16, _mm256_storeu_si256, _mm512_add_ps, _mm512_cvtepu16_epi32, _mm512_mask_add_ps,
    _mm512_mask_max_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_or_si512, _mm512_reduce_add_ps,
    _mm512_reduce_max_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_si512,
    _mm512_sub_ps,
};

use super::POSITIONS;
use super::matrix::{PANEL, TILE, tile_pairs};
use super::vector::{LANES, bf16, exp, load, store, to_bf16};

/// Values of a head. All of Whisper's models have this many.
pub(super) const HEAD: usize = 64;
/// Positions that look at once.
const LOOKING: usize = 2 * TILE;
/// Keys, filled up to whole panels; those beyond the last are zero and never counted.
const KEYS: usize = POSITIONS.next_multiple_of(PANEL);
/// Pairs of bfloat16 in a row of weights.
const WEIGHT_PAIRS: usize = POSITIONS.next_multiple_of(2 * LANES) / 2;

/// Queries, keys and values of one window and layer.
pub(super) struct Attention {
    /// `[head][position][32]` pairs.
    queries: Vec<u32>,
    /// `[head][position / 64][32][64]` pairs: a panel's 64 positions side by side.
    keys: Vec<u32>,
    /// `[head][position / 2][64]`: pairs of two positions' values.
    values: Vec<u32>,
    /// `[12][1536]` scores.
    scores: Vec<f32>,
    /// `[12][752]` pairs.
    weights: Vec<u32>,
    row: Vec<u16>,
}

impl Attention {
    pub(super) fn new(heads: usize) -> Self {
        Self {
            queries: vec![0; heads * POSITIONS * HEAD / 2],
            keys: vec![0; heads * KEYS * HEAD / 2],
            values: vec![0; heads * POSITIONS * HEAD / 2],
            scores: vec![0.0; LOOKING * KEYS],
            weights: vec![0; LOOKING * WEIGHT_PAIRS],
            row: vec![0; heads * HEAD],
        }
    }

    /// Takes the projections of the positions from `first` (an even number of them): `rows[position][3 · width]`, queries, keys
    /// and values side by side.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn take(&mut self, first: usize, rows: &[f32]) {
        let width = self.row.len();
        for (i, row) in rows.chunks_exact(3 * width).enumerate() {
            let position = first + i;
            // Queries are divided by the root of the head's size, a power of two.
            to_bf16(&row[..width], 0.125, &mut self.row);
            for (head, query) in self.row.chunks_exact(HEAD).enumerate() {
                let at = (head * POSITIONS + position) * HEAD / 2;
                pairs(query).zip(&mut self.queries[at..]).for_each(|(pair, out)| *out = pair);
            }
            to_bf16(&row[width..2 * width], 1.0, &mut self.row);
            for (head, key) in self.row.chunks_exact(HEAD).enumerate() {
                let at = (head * KEYS + position / PANEL * PANEL) * HEAD / 2 + position % PANEL;
                pairs(key).zip(self.keys[at..].iter_mut().step_by(PANEL)).for_each(|(pair, out)| *out = pair);
            }
        }
        for (i, two) in rows.chunks_exact(6 * width).enumerate() {
            let (one, other) = (&two[2 * width..3 * width], &two[5 * width..]);
            for at in (0..width).step_by(LANES) {
                let low = _mm512_cvtepu16_epi32(bf16(load(one, at)));
                let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bf16(load(other, at))));
                let to = (at / HEAD * POSITIONS / 2 + first / 2 + i) * HEAD + at % HEAD;
                let room = &mut self.values[to..to + LANES];
                // SAFETY: there is room for sixteen.
                unsafe { _mm512_storeu_si512(room.as_mut_ptr().cast(), _mm512_or_si512(low, high)) };
            }
        }
    }

    /// What each position sees: `out[position][width]`.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512bf16")]
    pub(super) fn look(&mut self, out: &mut [f32]) {
        let width = self.row.len();
        for head in 0..width / HEAD {
            let queries = &self.queries[head * POSITIONS * HEAD / 2..][..POSITIONS * HEAD / 2];
            let keys = &self.keys[head * KEYS * HEAD / 2..][..KEYS * HEAD / 2];
            let values = &self.values[head * POSITIONS * HEAD / 2..][..POSITIONS * HEAD / 2];
            for first in (0..POSITIONS).step_by(LOOKING) {
                for (p, panel) in keys.chunks_exact(PANEL * HEAD / 2).enumerate() {
                    for tile in 0..LOOKING / TILE {
                        let rows = &queries[(first + tile * TILE) * HEAD / 2..];
                        let sums = tile_pairs(rows, HEAD / 2, panel, HEAD / 2);
                        for (r, sums) in sums.iter().enumerate() {
                            let row = &mut self.scores[(tile * TILE + r) * KEYS + p * PANEL..][..PANEL];
                            sums.iter().enumerate().for_each(|(v, sum)| store(row, v * LANES, *sum));
                        }
                    }
                }
                let mut shares = [0.0; LOOKING];
                for (r, share) in shares.iter_mut().enumerate() {
                    let weights = &mut self.weights[r * WEIGHT_PAIRS..][..WEIGHT_PAIRS];
                    *share = 1.0 / softmax(&self.scores[r * KEYS..][..KEYS], weights);
                }
                for tile in 0..LOOKING / TILE {
                    let rows = &self.weights[tile * TILE * WEIGHT_PAIRS..];
                    let sums = tile_pairs(rows, WEIGHT_PAIRS, values, POSITIONS / 2);
                    for (r, sums) in sums.iter().enumerate() {
                        let share = _mm512_set1_ps(shares[tile * TILE + r]);
                        let row = &mut out[(first + tile * TILE + r) * width + head * HEAD..][..HEAD];
                        sums.iter()
                            .enumerate()
                            .for_each(|(v, sum)| store(row, v * LANES, _mm512_mul_ps(*sum, share)));
                    }
                }
            }
        }
    }
}

/// e to the power of each score less the largest, in bfloat16; their sum.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn softmax(scores: &[f32], weights: &mut [u32]) -> f32 {
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
fn pairs(halves: &[u16]) -> impl Iterator<Item = u32> {
    halves.as_chunks::<2>().0.iter().map(|&[low, high]| u32::from(low) | u32::from(high) << 16)
}

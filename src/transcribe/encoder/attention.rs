//! Every position's look at every other, in bfloat16 with sums in single precision, a head and twelve positions at a time: the
//! scores of twelve positions stay in the processor's cache, where a runtime that computes whole matrices writes 1500 × 1500
//! of them a head to memory and reads them back three times.

use std::arch::x86_64::{_mm512_mul_ps, _mm512_set1_ps};

use crate::transcribe::kernels::HEAD;
use crate::transcribe::kernels::matrix::{PANEL, TILE, tile_pairs};
use crate::transcribe::kernels::positions::{
    HEAD_KEYS, HEAD_VALUES, KEYS, POSITIONS, Positions, WEIGHT_PAIRS, pairs, softmax,
};
use crate::transcribe::kernels::vector::{LANES, store, to_bf16};

/// Positions that look at once.
const LOOKING: usize = 2 * TILE;

/// Queries, keys and values of one window and layer.
pub(super) struct Attention {
    /// `[head][position][32]` pairs.
    queries: Vec<u32>,
    positions: Positions,
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
            positions: Positions::new(heads),
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
            // Queries are divided by the root of the head's size, a power of two.
            to_bf16(&row[..width], 0.125, &mut self.row);
            for (head, query) in self.row.chunks_exact(HEAD).enumerate() {
                let at = (head * POSITIONS + first + i) * HEAD / 2;
                pairs(query).zip(&mut self.queries[at..]).for_each(|(pair, out)| *out = pair);
            }
        }
        self.positions.take(first, rows, 3 * width, width, &mut self.row);
    }

    /// What each position sees: `out[position][width]`.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512bf16")]
    pub(super) fn look(&mut self, out: &mut [f32]) {
        let width = self.row.len();
        for head in 0..width / HEAD {
            let queries = &self.queries[head * POSITIONS * HEAD / 2..][..POSITIONS * HEAD / 2];
            let keys = &self.positions.keys[head * HEAD_KEYS..][..HEAD_KEYS];
            let values = &self.positions.values[head * HEAD_VALUES..][..HEAD_VALUES];
            for first in (0..POSITIONS).step_by(LOOKING) {
                for (p, panel) in keys.chunks_exact(PANEL * HEAD / 2).enumerate() {
                    for tile in 0..LOOKING / TILE {
                        let rows = &queries[(first + tile * TILE) * HEAD / 2..];
                        let sums: [_; TILE] = tile_pairs(rows, HEAD / 2, panel, HEAD / 2);
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
                    let sums: [_; TILE] = tile_pairs(rows, WEIGHT_PAIRS, values, POSITIONS / 2);
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

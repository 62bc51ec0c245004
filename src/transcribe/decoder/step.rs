//! Rows of tokens through the decoder's layers.

use std::arch::x86_64::{
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_reduce_add_ps, _mm512_reduce_max_ps,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_sub_ps,
};

use super::align::Watch;
use super::cache::{Heard, Said};
use super::{Layer, Norm};
use crate::transcribe::kernels::HEAD;
use crate::transcribe::kernels::matrix::{Linear, PANEL, TILE, Then, tile_pairs, tiles};
use crate::transcribe::kernels::positions::{
    HEAD_KEYS, HEAD_VALUES, KEYS, POSITIONS, Positions, WEIGHT_PAIRS, pairs, softmax,
};
use crate::transcribe::kernels::vector::{LANES, exp_below, layer_norm, load, quantise, store, to_bf16};

/// A token on its way through the layers.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    /// What it hears.
    pub(super) heard: &'a Heard,
    /// Entries of what was said before it, its own last.
    pub(super) said: &'a [u32],
}

/// Working memory.
#[derive(Default)]
pub(super) struct Room {
    /// `[rows][4 · width]` and less.
    wide: Vec<f32>,
    seen: Vec<f32>,
    row: Vec<f32>,
    halves: Vec<u16>,
    bytes: Vec<u8>,
    worth: Vec<f32>,
    /// `[rows][width / 2]` pairs.
    queries: Vec<u32>,
    scores: Vec<f32>,
    weights: Vec<u32>,
}

impl Room {
    fn fit(&mut self, rows: usize, width: usize) {
        self.wide.resize(rows * 4 * width, 0.0);
        self.seen.resize(rows * width, 0.0);
        self.row.resize(width, 0.0);
        self.halves.resize(width, 0);
        self.bytes.resize(rows * 4 * width, 0);
        self.worth.resize(rows, 0.0);
        self.queries.resize(rows * width / 2, 0);
        self.scores.resize(TILE * KEYS, 0.0);
        self.weights.resize(TILE * WEIGHT_PAIRS, 0);
    }
}

/// Takes `rows`, whose tokens stand in `x[rows][width]`, through all `layers`. A row may look back at rows before it. What is
/// watched is noted in `watch`.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni,avx512bf16")]
pub(super) fn step(
    layers: &[Layer],
    rows: &[Row<'_>],
    x: &mut [f32],
    said: &mut Said,
    room: &mut Room,
    watch: &mut Watch<'_>,
) {
    let width = x.len() / rows.len().max(1);
    room.fit(rows.len(), width);
    for (n, layer) in layers.iter().enumerate() {
        normalised(x, width, &layer.before_said, room);
        apply(&layer.projections, width, room, 3 * width);
        for (row, wide) in rows.iter().zip(room.wide.chunks_exact(3 * width)) {
            if let Some(&own) = row.said.last() {
                said.note(n, own, &wide[width..]);
            }
        }
        for (r, row) in rows.iter().enumerate() {
            let query = &room.wide[r * 3 * width..][..width];
            let seen = &mut room.seen[r * width..][..width];
            look_back(query, said.layer(n), row.said, &mut room.scores, seen);
        }
        add_seen(&layer.attended, x, width, room);

        normalised(x, width, &layer.before_heard, room);
        apply(&layer.query, width, room, width);
        for (query, out) in
            room.wide.chunks_exact(width).zip(room.queries.chunks_exact_mut(width / 2)).take(rows.len())
        {
            // Queries are divided by the root of the head's size, a power of two.
            to_bf16(query, 0.125, &mut room.halves);
            pairs(&room.halves).zip(out).for_each(|(pair, out)| *out = pair);
        }
        watch.layer = n;
        let mut first = 0;
        for same in rows.chunk_by(|a, b| std::ptr::eq(a.heard, b.heard)) {
            for (from, size) in tiles(same.len()) {
                let positions = &same[0].heard.layers[n];
                match size {
                    1 => listen::<1>(positions, first + from, width, room, watch),
                    2 => listen::<2>(positions, first + from, width, room, watch),
                    3 => listen::<3>(positions, first + from, width, room, watch),
                    4 => listen::<4>(positions, first + from, width, room, watch),
                    5 => listen::<5>(positions, first + from, width, room, watch),
                    _ => listen::<TILE>(positions, first + from, width, room, watch),
                }
            }
            first += same.len();
        }
        add_seen(&layer.heard, x, width, room);

        normalised(x, width, &layer.before_hidden, room);
        let Room { wide, bytes, worth, .. } = room;
        let count = rows.len();
        layer.hidden.apply(&bytes[..count * width], worth, Then::Gelu, wide);
        for ((wide, bytes), worth) in
            wide.chunks_exact(4 * width).zip(bytes.chunks_exact_mut(4 * width)).zip(&mut *worth)
        {
            *worth = quantise(wide, bytes);
        }
        layer.out.apply(bytes, worth, Then::Add, x);
    }
}

/// The rows of `x`, normalised and in bytes.
#[target_feature(enable = "avx512f,avx512bw")]
fn normalised(x: &[f32], width: usize, norm: &Norm, room: &mut Room) {
    let rows = x.chunks_exact(width).zip(room.bytes.chunks_exact_mut(width));
    for ((x, bytes), worth) in rows.zip(&mut room.worth) {
        layer_norm(x, &norm.gamma, &norm.beta, &mut room.row);
        *worth = quantise(&room.row, bytes);
    }
}

/// What a layer makes of the rows in bytes, `outputs` each, in `room.wide`.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni")]
fn apply(linear: &Linear, width: usize, room: &mut Room, outputs: usize) {
    let count = room.worth.len();
    linear.apply(&room.bytes[..count * width], &room.worth, Then::Store, &mut room.wide[..count * outputs]);
}

/// Adds to `x` what `linear` makes of what was seen.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni")]
fn add_seen(linear: &Linear, x: &mut [f32], width: usize, room: &mut Room) {
    let Room { seen, bytes, worth, .. } = room;
    let count = worth.len();
    for ((seen, bytes), worth) in seen.chunks_exact(width).zip(bytes.chunks_exact_mut(width)).zip(&mut *worth)
    {
        *worth = quantise(seen, bytes);
    }
    linear.apply(&bytes[..count * width], worth, Then::Add, x);
}

/// What a query sees of what was said: entries `said` of `both[entry][2 · width]`, keys and values.
#[target_feature(enable = "avx512f")]
fn look_back(query: &[f32], both: &[f32], said: &[u32], scores: &mut [f32], seen: &mut [f32]) {
    let width = query.len();
    let count = said.len();
    let scores = &mut scores[..count.next_multiple_of(LANES)];
    for head in (0..width).step_by(HEAD) {
        let query = [0, 1, 2, 3].map(|v| _mm512_mul_ps(load(query, head + v * LANES), _mm512_set1_ps(0.125)));
        for (score, &entry) in scores.iter_mut().zip(said) {
            let key = &both[entry as usize * 2 * width + head..][..HEAD];
            let mut sum = _mm512_mul_ps(query[0], load(key, 0));
            for (v, query) in query.iter().enumerate().skip(1) {
                sum = _mm512_fmadd_ps(*query, load(key, v * LANES), sum);
            }
            *score = _mm512_reduce_add_ps(sum);
        }
        let share = _mm512_set1_ps(shares(scores, count));
        let mut sums = [_mm512_setzero_ps(); HEAD / LANES];
        for (&weight, &entry) in scores.iter().zip(said) {
            let value = &both[(entry as usize * 2 + 1) * width + head..][..HEAD];
            let weight = _mm512_set1_ps(weight);
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_fmadd_ps(weight, load(value, v * LANES), *sum);
            }
        }
        for (v, sum) in sums.iter().enumerate() {
            store(seen, head + v * LANES, _mm512_mul_ps(*sum, share));
        }
    }
}

/// Makes the first `count` scores e to the power of each less the largest, and those behind them nothing; by what they are to be
/// multiplied to add up to 1.
#[target_feature(enable = "avx512f")]
pub(super) fn shares(scores: &mut [f32], count: usize) -> f32 {
    scores[count..].fill(f32::MIN);
    let mut largest = _mm512_set1_ps(f32::MIN);
    for at in (0..scores.len()).step_by(LANES) {
        largest = _mm512_max_ps(largest, load(scores, at));
    }
    let largest = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    let mut total = _mm512_setzero_ps();
    for at in (0..scores.len()).step_by(LANES) {
        let weight = exp_below(_mm512_sub_ps(load(scores, at), largest));
        total = _mm512_add_ps(total, weight);
        store(scores, at, weight);
    }
    1.0 / _mm512_reduce_add_ps(total)
}

/// What `R` rows of the same window, from the row `first`, see of its positions.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512bf16")]
fn listen<const R: usize>(
    positions: &Positions,
    first: usize,
    width: usize,
    room: &mut Room,
    watch: &mut Watch<'_>,
) {
    let Room { queries, scores, weights, seen, .. } = room;
    for head in 0..width / HEAD {
        let queries = &queries[first * width / 2 + head * HEAD / 2..];
        let keys = &positions.keys[head * HEAD_KEYS..][..HEAD_KEYS];
        let values = &positions.values[head * HEAD_VALUES..][..HEAD_VALUES];
        for (p, panel) in keys.chunks_exact(PANEL * HEAD / 2).enumerate() {
            let sums: [_; R] = tile_pairs(queries, width / 2, panel, HEAD / 2);
            for (r, sums) in sums.iter().enumerate() {
                let row = &mut scores[r * KEYS + p * PANEL..][..PANEL];
                sums.iter().enumerate().for_each(|(v, sum)| store(row, v * LANES, *sum));
            }
        }
        watch.look(head, first, scores, R);
        let mut shares = [0.0; R];
        for (r, share) in shares.iter_mut().enumerate() {
            let weights = &mut weights[r * WEIGHT_PAIRS..][..WEIGHT_PAIRS];
            *share = 1.0 / softmax(&scores[r * KEYS..][..KEYS], weights);
        }
        let sums: [_; R] = tile_pairs(weights, WEIGHT_PAIRS, values, POSITIONS / 2);
        for (r, sums) in sums.iter().enumerate() {
            let share = _mm512_set1_ps(shares[r]);
            let row = &mut seen[(first + r) * width + head * HEAD..][..HEAD];
            sums.iter().enumerate().for_each(|(v, sum)| store(row, v * LANES, _mm512_mul_ps(*sum, share)));
        }
    }
}

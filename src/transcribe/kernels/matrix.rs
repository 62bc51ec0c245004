//! Products of matrices: activations, row by row, with weights that were packed into panels of 64 columns.
//!
//! A panel holds, for each step along the inner dimension, the 64 columns' values side by side: four registers. A tile of at most
//! six rows and one panel keeps its 24 sums in registers; each step loads the panel's four vectors and six broadcast activations.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtepi32_ps, _mm512_dpbf16_ps, _mm512_dpbusd_epi32,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_max_ps, _mm512_mul_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_sub_epi32,
};
use std::mem::transmute;
use std::ops::Range;

use super::vector::{LANES, gelu, load, quantise, store};

/// Columns of a panel.
pub const PANEL: usize = 64;
/// Most rows of a tile.
pub const TILE: usize = 6;

const VECTORS: usize = PANEL / LANES;

/// What becomes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is stored.
    Store,
    /// Its GELU is stored.
    Gelu,
    /// It is added to what is there.
    Add,
}

/// A linear layer in 8 bits: a scale for each output, inputs in 8 bits with a scale for each row.
pub struct Linear {
    inputs: usize,
    /// `[outputs / 64][inputs / 4][64][4]`.
    panels: Vec<i8>,
    /// What a step of each output's weights is worth.
    steps: Vec<f32>,
    /// 128 times the sum of each output's weights, which inputs that were moved by 128 give too much.
    excess: Vec<i32>,
    bias: Vec<f32>,
}

impl Linear {
    /// From `weights[output][input]`, rounded to 8 bits by the largest of each output, and `bias[output]`.
    ///
    /// Outputs have to be a multiple of 64, inputs of 16.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn new(weights: &[f32], bias: Vec<f32>) -> Self {
        let inputs = weights.len() / bias.len();
        let mut bytes = vec![0; weights.len()];
        let rows = weights.chunks_exact(inputs).zip(bytes.chunks_exact_mut(inputs));
        let steps = rows.map(|(row, bytes)| quantise(row, bytes)).collect();
        let rounded: Vec<i8> = bytes.into_iter().map(|byte| (byte ^ 128).cast_signed()).collect();
        Self::of_bytes(&rounded, steps, bias)
    }

    /// From weights that are in 8 bits already; `steps[output]` is what a step is worth.
    pub fn of_bytes(weights: &[i8], steps: Vec<f32>, bias: Vec<f32>) -> Self {
        let outputs = bias.len();
        let inputs = weights.len() / outputs;
        assert!(
            outputs.is_multiple_of(PANEL) && inputs.is_multiple_of(LANES),
            "a layer of {inputs} × {outputs}"
        );
        let mut panels = Vec::with_capacity(weights.len());
        for panel in weights.chunks_exact(inputs * PANEL) {
            for at in (0..inputs).step_by(4) {
                for row in panel.chunks_exact(inputs) {
                    panels.extend_from_slice(&row[at..at + 4]);
                }
            }
        }
        let excess = weights
            .chunks_exact(inputs)
            .map(|row| 128 * row.iter().map(|&w| i32::from(w)).sum::<i32>())
            .collect();
        Self { inputs, panels, steps, excess, bias }
    }

    /// Values of an output row.
    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// The weights of one output, as floats.
    pub fn output(&self, output: usize) -> impl Iterator<Item = f32> {
        let panel = &self.panels[output / PANEL * PANEL * self.inputs..];
        let fours = panel[output % PANEL * 4..].chunks(4 * PANEL).take(self.inputs / 4);
        let step = self.steps[output];
        fours.flat_map(move |four| four[..4].iter().map(move |&w| f32::from(w) * step))
    }

    /// The layer's outputs for `rows` (as `quantise` made them), row by row into `out`.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni")]
    pub fn apply(&self, rows: &[u8], worth: &[f32], then: Then, out: &mut [f32]) {
        let outputs = self.outputs();
        assert!(out.len() == worth.len() * outputs, "room for {} rows", worth.len());
        self.multiply(0..outputs / PANEL, rows, worth, |row, at, values| {
            let row = &mut out[row * outputs..][..outputs];
            values.iter().enumerate().for_each(|(v, value)| finish(row, at + v * LANES, *value, then));
        });
    }

    /// Of the layer's outputs only those in `panels`, 64 each; the largest of every fourth of a panel's go to `most`, sixteen
    /// for each panel.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni")]
    pub fn measure(
        &self,
        panels: Range<usize>,
        rows: &[u8],
        worth: &[f32],
        out: &mut [f32],
        most: &mut [f32],
    ) {
        let (first, outputs) = (panels.start * PANEL, panels.len() * PANEL);
        let fourth = outputs / VECTORS;
        assert!(
            out.len() == worth.len() * outputs && most.len() == worth.len() * fourth,
            "room for {} rows",
            worth.len()
        );
        self.multiply(panels, rows, worth, |row, at, values| {
            let [a, b, c, d] = values;
            let largest = _mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d));
            let at = at - first;
            store(&mut most[row * fourth..], at / VECTORS, largest);
            let row = &mut out[row * outputs..][..outputs];
            values.iter().enumerate().for_each(|(v, value)| store(row, at + v * LANES, *value));
        });
    }

    /// Tells `then` 64 outputs of a row at a time: the row, the first of the outputs, and their values.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni")]
    fn multiply(
        &self,
        panels: Range<usize>,
        rows: &[u8],
        worth: &[f32],
        mut then: impl FnMut(usize, usize, [__m512; VECTORS]),
    ) {
        assert!(rows.len() == worth.len() * self.inputs, "rows of {} values", self.inputs);
        for panel in panels {
            for (first, size) in tiles(worth.len()) {
                let rows = &rows[first * self.inputs..][..size * self.inputs];
                let worth = &worth[first..first + size];
                let then = |row, at, values| then(first + row, at, values);
                match size {
                    1 => self.tile::<1>(panel, rows, worth, then),
                    2 => self.tile::<2>(panel, rows, worth, then),
                    3 => self.tile::<3>(panel, rows, worth, then),
                    4 => self.tile::<4>(panel, rows, worth, then),
                    5 => self.tile::<5>(panel, rows, worth, then),
                    _ => self.tile::<TILE>(panel, rows, worth, then),
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni")]
    fn tile<const R: usize>(
        &self,
        panel: usize,
        rows: &[u8],
        worth: &[f32],
        mut then: impl FnMut(usize, usize, [__m512; VECTORS]),
    ) {
        let from = panel * PANEL;
        let sums: [_; R] = tile_bytes(rows, &self.panels[from * self.inputs..], self.inputs);
        for (row, (sums, worth)) in sums.iter().zip(worth).enumerate() {
            let worth = _mm512_set1_ps(*worth);
            let values = std::array::from_fn(|v| {
                let at = from + v * LANES;
                let excess = &self.excess[at..at + LANES];
                // SAFETY: there are sixteen.
                let excess = unsafe { _mm512_loadu_si512(excess.as_ptr().cast()) };
                let exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[v], excess));
                let step = _mm512_mul_ps(load(&self.steps, at), worth);
                _mm512_fmadd_ps(exact, step, load(&self.bias, at))
            });
            then(row, from, values);
        }
    }
}

/// Where tiles begin and how many of `rows` each has.
#[inline]
pub fn tiles(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    parts(rows, TILE)
}

/// Parts of at most `most` of `count`: where each begins, and how many it has. As few parts as can be, and as even as can be.
#[inline]
pub fn parts(count: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let parts = count.div_ceil(most);
    (0..parts).map(move |n| {
        let first = n * count / parts;
        (first, (n + 1) * count / parts - first)
    })
}

/// Sums of rows of bytes and a panel of 64 columns, over `inputs` values.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn tile_bytes<const R: usize>(rows: &[u8], panel: &[i8], inputs: usize) -> [[__m512i; VECTORS]; R] {
    assert!(
        rows.len() >= R * inputs && panel.len() >= PANEL * inputs && inputs.is_multiple_of(4),
        "whole tiles"
    );
    let mut sums = [[_mm512_setzero_si512(); VECTORS]; R];
    let (row, mut column) = (rows.as_ptr(), panel.as_ptr());
    for at in (0..inputs).step_by(4) {
        // SAFETY: the panel has 64 · inputs bytes, of which each turn reads the next 256; each row has `inputs` bytes, of which
        // it reads the four from `at`.
        unsafe {
            let columns: [__m512i; VECTORS] =
                std::array::from_fn(|v| _mm512_loadu_si512(column.add(v * 64).cast()));
            for (r, sums) in sums.iter_mut().enumerate() {
                let four = _mm512_set1_epi32(row.add(r * inputs + at).cast::<i32>().read_unaligned());
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = _mm512_dpbusd_epi32(*sum, four, column);
                }
            }
            column = column.add(4 * PANEL);
        }
    }
    sums
}

/// Sums of rows of pairs of bfloat16 (each row `stride` pairs from the last) and a panel of 64 columns, over `pairs` pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn tile_pairs<const R: usize>(
    rows: &[u32],
    stride: usize,
    panel: &[u32],
    pairs: usize,
) -> [[__m512; VECTORS]; R] {
    assert!(rows.len() >= (R - 1) * stride + pairs && panel.len() >= PANEL * pairs, "whole tiles");
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; R];
    let (row, mut column) = (rows.as_ptr(), panel.as_ptr());
    for at in 0..pairs {
        // SAFETY: the panel has 64 · pairs values, of which each turn reads the next 64; `rows` reaches to the last row's last
        // pair. A vector of pairs of bfloat16 is 512 bits like any other.
        unsafe {
            let columns: [__m512i; VECTORS] =
                std::array::from_fn(|v| _mm512_loadu_si512(column.add(v * LANES).cast()));
            for (r, sums) in sums.iter_mut().enumerate() {
                let pair = _mm512_set1_epi32(row.add(r * stride + at).cast::<i32>().read());
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = _mm512_dpbf16_ps(
                        *sum,
                        transmute::<__m512i, __m512bh>(pair),
                        transmute::<__m512i, __m512bh>(column),
                    );
                }
            }
            column = column.add(PANEL);
        }
    }
    sums
}

/// A linear layer in single precision; its inputs may overlap, so that a convolution is one as well.
pub struct Single {
    inputs: usize,
    /// `[outputs / 64][inputs][64]`.
    panels: Vec<f32>,
    bias: Vec<f32>,
}

impl Single {
    /// From `weight(output, input)`; outputs a multiple of 64.
    pub fn new(inputs: usize, bias: Vec<f32>, weight: impl Fn(usize, usize) -> f32) -> Self {
        assert!(bias.len().is_multiple_of(PANEL), "a layer of {} outputs", bias.len());
        let mut panels = Vec::with_capacity(inputs * bias.len());
        for from in (0..bias.len()).step_by(PANEL) {
            for input in 0..inputs {
                panels.extend((from..from + PANEL).map(|output| weight(output, input)));
            }
        }
        Self { inputs, panels, bias }
    }

    /// GELU of the outputs for rows that begin every `stride` values of `rows`, into `out`, as many as fit there.
    #[target_feature(enable = "avx512f,avx512dq")]
    pub fn apply(&self, rows: &[f32], stride: usize, out: &mut [f32]) {
        let (inputs, outputs) = (self.inputs, self.bias.len());
        let count = out.len() / outputs;
        assert!(
            count.is_multiple_of(TILE) && rows.len() >= (count - 1) * stride + inputs,
            "whole tiles of rows"
        );
        for (n, panel) in self.panels.chunks_exact(inputs * PANEL).enumerate() {
            for first in (0..count).step_by(TILE) {
                let sums = tile_singles(&rows[first * stride..], stride, panel, inputs);
                for (r, sums) in sums.iter().enumerate() {
                    let row = &mut out[(first + r) * outputs..][..outputs];
                    for (v, sum) in sums.iter().enumerate() {
                        let at = n * PANEL + v * LANES;
                        finish(row, at, _mm512_add_ps(*sum, load(&self.bias, at)), Then::Gelu);
                    }
                }
            }
        }
    }
}

/// Sums of six rows (each `stride` values from the last) and a panel of 64 columns, over `inputs` values.
#[inline]
#[target_feature(enable = "avx512f")]
fn tile_singles(rows: &[f32], stride: usize, panel: &[f32], inputs: usize) -> [[__m512; VECTORS]; TILE] {
    assert!(rows.len() >= (TILE - 1) * stride + inputs && panel.len() >= PANEL * inputs, "whole tiles");
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; TILE];
    let (row, mut column) = (rows.as_ptr(), panel.as_ptr());
    for at in 0..inputs {
        // SAFETY: the panel has 64 · inputs values, of which each turn reads the next 64; `rows` reaches to the last row's last
        // value.
        unsafe {
            let columns: [__m512; VECTORS] = std::array::from_fn(|v| _mm512_loadu_ps(column.add(v * LANES)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(row.add(r * stride + at).read());
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = _mm512_fmadd_ps(value, column, *sum);
                }
            }
            column = column.add(PANEL);
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn finish(row: &mut [f32], at: usize, value: __m512, then: Then) {
    let value = match then {
        Then::Store => value,
        Then::Gelu => gelu(value),
        Then::Add => _mm512_add_ps(value, load(row, at)),
    };
    store(row, at, value);
}

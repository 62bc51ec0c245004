//! Arithmetic on rows of floats, sixteen at a time.
//!
//! Lengths of rows are multiples of sixteen (a model's width and four times of it).

use std::arch::x86_64::{
    __m256i, __m512, __m512i, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm_storeu_si128,
    _mm256_storeu_si256, _mm512_abs_ps, _mm512_add_epi32, _mm512_add_ps, _mm512_castps_si512,
    _mm512_cvtepi32_epi8, _mm512_cvtneps_pbh, _mm512_cvtps_epi32, _mm512_div_ps, _mm512_fmadd_ps,
    _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_mask_sub_ps, _mm512_max_ps, _mm512_movepi32_mask,
    _mm512_mul_ps, _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_roundscale_ps, _mm512_scalef_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps, _mm512_sub_ps,
};

/// Floats of a vector.
pub const LANES: usize = 16;

/// e to the power of each element; below −87 zero or nearly. Relative error below 2e-7: ln 2 is taken off in two parts, the rest,
/// at most ln 2 / 2, goes into the first seven terms of the series.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn exp(x: __m512) -> __m512 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    let n = _mm512_roundscale_ps::<NEAREST>(_mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)));
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693_359_4), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.121_944_4e-4), r);
    let mut sum = _mm512_set1_ps(1.0 / 720.0);
    for term in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(term));
    }
    _mm512_scalef_ps(sum, n)
}

/// As [`exp`], of elements that are not positive, however far below zero.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn exp_below(x: __m512) -> __m512 {
    exp(_mm512_max_ps(x, _mm512_set1_ps(-100.0)))
}

/// x Φ(x), Φ the normal distribution; its error function after Abramowitz and Stegun 7.1.26 (absolute error below 1.5e-7).
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub fn gelu(x: __m512) -> __m512 {
    let z = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(std::f32::consts::FRAC_1_SQRT_2));
    let one = _mm512_set1_ps(1.0);
    let t = _mm512_div_ps(one, _mm512_fmadd_ps(z, _mm512_set1_ps(0.327_591_1), one));
    let mut sum = _mm512_set1_ps(1.061_405_4);
    for term in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(term));
    }
    // Half of what the error function lacks to one: Φ(−|x|).
    let tail = _mm512_mul_ps(_mm512_mul_ps(sum, t), exp(_mm512_fnmadd_ps(z, z, _mm512_setzero_ps())));
    let tail = _mm512_mul_ps(tail, _mm512_set1_ps(0.5));
    let positive = !_mm512_movepi32_mask(_mm512_castps_si512(x));
    let phi = _mm512_mask_sub_ps(tail, positive, one, tail);
    _mm512_mul_ps(x, phi)
}

/// The row made to mean 0 and variance 1 (plus 1e-5), then stretched by `gamma` and moved by `beta`.
#[target_feature(enable = "avx512f")]
pub fn layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], out: &mut [f32]) {
    let n = x.len();
    assert!(
        n.is_multiple_of(LANES) && gamma.len() == n && beta.len() == n && out.len() == n,
        "rows of equal length"
    );
    let mut sum = _mm512_setzero_ps();
    for at in (0..n).step_by(LANES) {
        sum = _mm512_add_ps(sum, load(x, at));
    }
    let mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / n as f32);
    let mut squares = _mm512_setzero_ps();
    for at in (0..n).step_by(LANES) {
        let off = _mm512_sub_ps(load(x, at), mean);
        squares = _mm512_fmadd_ps(off, off, squares);
    }
    let spread = _mm512_set1_ps(1.0 / (_mm512_reduce_add_ps(squares) / n as f32 + 1e-5).sqrt());
    for at in (0..n).step_by(LANES) {
        let y = _mm512_mul_ps(_mm512_sub_ps(load(x, at), mean), spread);
        store(out, at, _mm512_fmadd_ps(y, load(gamma, at), load(beta, at)));
    }
}

/// The row in 8 bits: each element by the largest magnitude, times 127, rounded to nearest, and 128 added, since the processor
/// multiplies unsigned by signed bytes. Returns what a step is worth.
#[target_feature(enable = "avx512f,avx512bw")]
pub fn quantise(x: &[f32], out: &mut [u8]) -> f32 {
    assert!(x.len().is_multiple_of(LANES) && out.len() == x.len(), "rows of equal length");
    let mut largest = _mm512_setzero_ps();
    for at in (0..x.len()).step_by(LANES) {
        largest = _mm512_max_ps(largest, _mm512_abs_ps(load(x, at)));
    }
    let largest = _mm512_reduce_max_ps(largest);
    let scale = if largest > 0.0 { 127.0 / largest } else { 1.0 };
    let by = _mm512_set1_ps(scale);
    let shift = _mm512_set1_epi32(128);
    for (at, bytes) in (0..x.len()).step_by(LANES).zip(out.as_chunks_mut::<LANES>().0) {
        let steps: __m512i = _mm512_cvtps_epi32(_mm512_mul_ps(load(x, at), by));
        let narrow = _mm512_cvtepi32_epi8(_mm512_add_epi32(steps, shift));
        // SAFETY: `bytes` has room for sixteen.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), narrow) };
    }
    1.0 / scale
}

/// The elements times `by`, in bfloat16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn to_bf16(x: &[f32], by: f32, out: &mut [u16]) {
    assert!(x.len().is_multiple_of(LANES) && out.len() == x.len(), "rows of equal length");
    let by = _mm512_set1_ps(by);
    for (at, halves) in (0..x.len()).step_by(LANES).zip(out.as_chunks_mut::<LANES>().0) {
        let narrow = bf16(_mm512_mul_ps(load(x, at), by));
        // SAFETY: `halves` has room for sixteen.
        unsafe { _mm256_storeu_si256(halves.as_mut_ptr().cast(), narrow) };
    }
}

/// The elements in bfloat16, as bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn bf16(x: __m512) -> __m256i {
    // SAFETY: both are 256 bits; the one type only names what the other holds.
    unsafe { std::mem::transmute(_mm512_cvtneps_pbh(x)) }
}

/// Sixteen elements from `at`.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn load(row: &[f32], at: usize) -> __m512 {
    let elements = &row[at..at + LANES];
    // SAFETY: there are sixteen.
    unsafe { _mm512_loadu_ps(elements.as_ptr()) }
}

/// Sixteen elements to `at`.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn store(row: &mut [f32], at: usize, x: __m512) {
    let elements = &mut row[at..at + LANES];
    // SAFETY: there is room for sixteen.
    unsafe { _mm512_storeu_ps(elements.as_mut_ptr(), x) };
}

//! The encoder against the plain formulas of the published architecture, in single precision and unblocked.

use std::path::Path;

use super::*;
use crate::transcribe::kernels::vector;

fn micro() -> Variables {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/whisper-micro/model.bin");
    Variables::open(&path).unwrap()
}

/// Something with the range and the unevenness of a spectrogram.
fn spectrogram(bands: usize) -> Vec<f32> {
    let at = |band: usize, frame: usize| {
        let (b, t) = (band as f32, frame as f32);
        let voice = (0.13 * b + 2.0 * (0.011 * t).sin()).sin() * (0.05 * t).sin();
        let noise = ((band * 7919 + frame * 104_729) % 1013) as f32 / 1013.0 - 0.5;
        (0.7 * voice + 0.3 * noise).clamp(-1.0, 1.5)
    };
    (0..bands).flat_map(|band| (0..FRAMES).map(move |frame| at(band, frame))).collect()
}

/// `x[rows][inputs]` times `weights[outputs][inputs]` plus bias.
fn product(x: &[f32], weights: &[f32], bias: &[f32]) -> Vec<f32> {
    let inputs = weights.len() / bias.len();
    let rows = x.chunks_exact(inputs);
    let dot = |a: &[f32], b: &[f32]| {
        // Eight sums, so that the compiler can use vectors.
        let mut sums = [0.0_f32; 8];
        for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
            (0..8).for_each(|i| sums[i] += a[i] * b[i]);
        }
        sums.iter().sum::<f32>()
    };
    rows.flat_map(|row| weights.chunks_exact(inputs).zip(bias).map(move |(w, b)| dot(row, w) + b)).collect()
}

/// x Φ(x), the error function by Simpson's rule over its integral.
fn plain_gelu(x: f32) -> f32 {
    let z = f64::from(x.abs().min(8.0)) / std::f64::consts::SQRT_2;
    let step = z / 200.0;
    let sum: f64 = (0..=200)
        .map(|i| {
            let weight = if i == 0 || i == 200 {
                1.0
            } else if i % 2 == 1 {
                4.0
            } else {
                2.0
            };
            weight * (-(step * f64::from(i)).powi(2)).exp()
        })
        .sum();
    let erf = (sum * step / 3.0 * 2.0 / std::f64::consts::PI.sqrt()) as f32 * x.signum();
    0.5 * x * (1.0 + erf)
}

fn plain_norm(x: &[f32], norm: &Norm) -> Vec<f32> {
    let width = norm.gamma.len();
    let rows = x.chunks_exact(width);
    rows.flat_map(|row| {
        let mean = row.iter().sum::<f32>() / width as f32;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / width as f32;
        let spread = 1.0 / (variance + 1e-5).sqrt();
        row.iter().zip(norm.gamma.iter().zip(&norm.beta)).map(move |(v, (g, b))| (v - mean) * spread * g + b)
    })
    .collect()
}

/// Whisper's encoder by the book.
fn plain(variables: &Variables, mel: &[f32], heads: usize) -> Vec<f32> {
    let floats = |name: &str| variables.floats(&format!("encoder/{name}")).unwrap();
    let norm = |name: &str| {
        let name = format!("encoder/{name}");
        let width = variables.shape(&format!("{name}/gamma")).unwrap()[0];
        Norm::read(variables, &name, width).unwrap()
    };
    // [channel][time] by weights [out][channel][3] to [out][time].
    let convolution = |x: &[f32], frames: usize, stride: usize, name: &str| -> Vec<f32> {
        let (weights, bias) = (floats(&format!("{name}/weight")), floats(&format!("{name}/bias")));
        let channels = weights.len() / bias.len() / 3;
        let mut rows = Vec::new();
        for t in (0..frames).step_by(stride) {
            for channel in 0..channels {
                for tap in 0..3 {
                    let at = (t + tap).checked_sub(1).filter(|&at| at < frames);
                    rows.push(at.map_or(0.0, |at| x[channel * frames + at]));
                }
            }
        }
        let y = product(&rows, &weights, &bias);
        let (outputs, times) = (bias.len(), frames / stride);
        (0..outputs)
            .flat_map(|o| (0..times).map(|t| plain_gelu(y[t * outputs + o])).collect::<Vec<_>>())
            .collect()
    };
    let y = convolution(mel, FRAMES, 1, "conv1");
    let y = convolution(&y, FRAMES, 2, "conv2");
    let width = y.len() / POSITIONS;
    let places = floats("position_encodings/encodings");
    let mut x: Vec<f32> = (0..y.len()).map(|i| y[i % width * POSITIONS + i / width] + places[i]).collect();
    for n in
        (0..).take_while(|n| variables.shape(&format!("encoder/layer_{n}/ffn/linear_0/weight")).is_some())
    {
        let linear = |x: &[f32], part: &str| {
            let name = format!("layer_{n}/{part}");
            product(x, &floats(&format!("{name}/weight")), &floats(&format!("{name}/bias")))
        };
        let projected = linear(
            &plain_norm(&x, &norm(&format!("layer_{n}/self_attention/layer_norm"))),
            "self_attention/linear_0",
        );
        let column = |from: usize| -> Vec<Vec<f32>> {
            projected.chunks_exact(3 * width).map(|row| row[from..from + width / heads].to_vec()).collect()
        };
        let mut seen = vec![0.0; x.len()];
        for head in 0..heads {
            let size = width / heads;
            let (queries, keys, values) =
                (column(head * size), column(width + head * size), column(2 * width + head * size).concat());
            let turned: Vec<f32> = (0..size)
                .flat_map(|j| values[j..].iter().step_by(size).copied().collect::<Vec<_>>())
                .collect();
            let scores = product(&queries.concat(), &keys.concat(), &[0.0; POSITIONS]);
            let weights: Vec<f32> = scores
                .chunks_exact(POSITIONS)
                .flat_map(|row| {
                    let scaled = || row.iter().map(|s| s / (size as f32).sqrt());
                    let most = scaled().fold(f32::MIN, f32::max);
                    let sum: f32 = scaled().map(|s| (s - most).exp()).sum();
                    scaled().map(|s| (s - most).exp() / sum).collect::<Vec<_>>()
                })
                .collect();
            for (position, value) in product_of(&weights, &turned, POSITIONS).chunks_exact(size).enumerate() {
                seen[position * width + head * size..][..size].copy_from_slice(value);
            }
        }
        let seen = linear(&seen, "self_attention/linear_1");
        x.iter_mut().zip(&seen).for_each(|(x, s)| *x += s);
        let hidden = linear(&plain_norm(&x, &norm(&format!("layer_{n}/ffn/layer_norm"))), "ffn/linear_0");
        let hidden: Vec<f32> = hidden.into_iter().map(plain_gelu).collect();
        let out = linear(&hidden, "ffn/linear_1");
        x.iter_mut().zip(&out).for_each(|(x, o)| *x += o);
    }
    plain_norm(&x, &norm("layer_norm"))
}

/// As `product`, rows of `inputs` that need not be a multiple of eight.
fn product_of(x: &[f32], weights: &[f32], inputs: usize) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    x.chunks_exact(inputs).flat_map(|row| weights.chunks_exact(inputs).map(move |w| dot(row, w))).collect()
}

/// Size of the difference to the size of what is right.
fn off(right: &[f32], other: &[f32]) -> f32 {
    assert_eq!(right.len(), other.len());
    let size = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let difference = size(&mut right.iter().zip(other).map(|(a, b)| a - b));
    (difference / size(&mut right.iter().copied())).sqrt() as f32
}

#[test]
fn it_computes_what_the_formulas_say() {
    let variables = micro();
    let Some(encoder) = Encoder::load(&variables).unwrap() else {
        eprintln!("skipped: this processor lacks AVX-512 VNNI or bfloat16");
        return;
    };
    let mel = spectrogram(encoder.bands);
    let right = plain(&variables, &mel, encoder.heads);
    let own = encoder.encode(&[&mel], 1);
    // Weights and inputs of 8 bits: each about half a step in 127 off, through eight residual additions.
    let off = off(&right, &own);
    assert!(off < 0.03, "{off}");
    assert!(off > 1e-5, "8 bits are never exact: was the formula compared with itself?");
}

#[test]
fn windows_are_the_same_alone_together_and_on_threads() {
    let Some(encoder) = Encoder::load(&micro()).unwrap() else { return };
    let one = spectrogram(encoder.bands);
    let other: Vec<f32> = one.iter().rev().copied().collect();
    let silence = vec![-1.0; one.len()];
    let alone: Vec<f32> = [&one, &other, &silence].iter().flat_map(|mel| encoder.encode(&[mel], 1)).collect();
    for threads in [1, 2, 5] {
        assert_eq!(encoder.encode(&[&one, &other, &silence], threads), alone, "{threads} threads");
    }
    assert!(alone.iter().all(|v| v.is_finite()));
    assert!(encoder.encode(&[], 2).is_empty());
}

#[test]
fn rows_of_zeros_and_of_large_values_come_out_finite() {
    let Some(encoder) = Encoder::load(&micro()).unwrap() else { return };
    for level in [0.0, 1e4, -1e4] {
        let mel = vec![level; encoder.bands * FRAMES];
        assert!(encoder.encode(&[&mel], 1).iter().all(|v| v.is_finite()), "{level}");
    }
}

#[test]
fn the_functions_are_close_to_the_libraries() {
    if !is_supported() {
        return;
    }
    let values: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.01).collect();
    let mut out = vec![0.0; values.len()];
    let each = |f: &dyn Fn(&[f32], usize) -> [f32; 16], out: &mut [f32]| {
        for at in (0..values.len()).step_by(16) {
            out[at..at + 16].copy_from_slice(&f(&values, at));
        }
    };
    // SAFETY: the processor has the instructions.
    each(&|x, at| unsafe { exp_at(x, at) }, &mut out);
    for (x, y) in values.iter().zip(&out) {
        assert!((y / x.exp() - 1.0).abs() < 1e-6, "e^{x}: {y}");
    }
    // SAFETY: the processor has the instructions.
    each(&|x, at| unsafe { gelu_at(x, at) }, &mut out);
    for (x, y) in values.iter().zip(&out) {
        assert!((y - plain_gelu(*x)).abs() < 1e-6 * (1.0 + x.abs()), "{x}: {y} and {}", plain_gelu(*x));
    }
}

#[target_feature(enable = "avx512f,avx512dq")]
fn exp_at(x: &[f32], at: usize) -> [f32; 16] {
    let mut out = [0.0; 16];
    vector::store(&mut out, 0, vector::exp(vector::load(x, at)));
    out
}

#[target_feature(enable = "avx512f,avx512dq")]
fn gelu_at(x: &[f32], at: usize) -> [f32; 16] {
    let mut out = [0.0; 16];
    vector::store(&mut out, 0, vector::gelu(vector::load(x, at)));
    out
}

#[test]
fn a_layer_is_exact_where_8_bits_are() {
    if !is_supported() {
        return;
    }
    // Whole numbers up to 127, the largest in each row: nothing is rounded.
    let (inputs, outputs) = (64, 128);
    let number = |i: usize, most: i32| (i * 2_654_435_761 % 1009) as i32 % (2 * most + 1) - most;
    let row = |seed: usize| {
        let mut row: Vec<f32> = (0..inputs).map(|i| number(seed * 131 + i, 127) as f32).collect();
        row[seed % inputs] = 127.0;
        row
    };
    let weights: Vec<f32> = (0..outputs).flat_map(|o| row(1000 + o)).collect();
    let bias: Vec<f32> = (0..outputs).map(|o| number(o, 50) as f32).collect();
    let x: Vec<f32> = (0..TILE).flat_map(row).collect();
    let (mut bytes, mut worth) = (vec![0; x.len()], vec![0.0; TILE]);
    let mut out = vec![1.0; TILE * outputs];
    // SAFETY: the processor has the instructions.
    unsafe {
        let layer = Linear::new(&weights, bias.clone());
        for ((x, bytes), worth) in x.chunks_exact(inputs).zip(bytes.chunks_exact_mut(inputs)).zip(&mut worth)
        {
            *worth = quantise(x, bytes);
        }
        layer.apply(&bytes, &worth, Then::Add, &mut out);
    }
    let right: Vec<f32> = product(&x, &weights, &bias).iter().map(|y| y + 1.0).collect();
    assert!(off(&right, &out) < 1e-6, "{}", off(&right, &out));
}

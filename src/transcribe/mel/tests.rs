use std::path::Path;

use super::*;

/// As in `tests/fixtures/mel/make_reference.py`.
const KEPT: [usize; 19] =
    [0, 1, 2, 3, 40, 100, 101, 250, 335, 336, 337, 338, 339, 340, 1000, 2500, 2997, 2998, 2999];

fn signal(length: usize) -> Vec<i16> {
    let (mut state, mut smooth) = (1i64, 0i64);
    (0..length as i64)
        .map(|i| {
            state = (state * 1_103_515_245 + 12_345) % (1 << 31);
            let noise = (state >> 16) % 4001 - 2000;
            smooth += (noise - smooth).div_euclid(4);
            let loudness = (i % 32_000 - 16_000).abs() / 160;
            let tone = if (i / 23) % 2 == 0 { 1500 } else { -1500 };
            (smooth * loudness + tone * (100 - loudness)).div_euclid(100) as i16
        })
        .collect()
}

fn reference(name: &str) -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/mel").join(name);
    std::fs::read(path)
        .unwrap()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

#[test]
fn agrees_with_the_reference_implementation() {
    for (name, length) in [("short", 54_000), ("full", WINDOW_SAMPLES)] {
        for bands in [80, 128] {
            let mel = LogMel::new(bands);
            let mut out = Vec::new();
            mel.compute(&signal(length), &mut mel.scratch(), &mut out);
            assert_eq!(out.len(), bands * FRAMES);
            let wanted = reference(&format!("{name}-{bands}.f32"));
            assert_eq!(wanted.len(), KEPT.len() * bands);
            let worst = KEPT
                .iter()
                .enumerate()
                .flat_map(|(i, &frame)| (0..bands).map(move |band| (i, frame, band)))
                .map(|(i, frame, band)| {
                    ((out[band * FRAMES + frame] - wanted[i * bands + band]).abs(), frame, band)
                })
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .unwrap();
            assert!(
                worst.0 < 1e-4,
                "{name} {bands}: off by {} in frame {}, band {}",
                worst.0,
                worst.1,
                worst.2
            );
        }
    }
}

#[test]
fn silence_and_nothing_are_the_floor() {
    let mel = LogMel::new(80);
    let mut out = vec![7.0; 3];
    for samples in [&[][..], &[0; 4000][..]] {
        mel.compute(samples, &mut mel.scratch(), &mut out);
        assert_eq!(out.len(), mel.output_len());
        assert!(out.iter().all(|&x| (x - -1.5).abs() < 1e-6));
    }
}

#[test]
fn a_buffer_can_be_used_again() {
    let mel = LogMel::new(80);
    let mut scratch = mel.scratch();
    let (mut fresh, mut used) = (Vec::new(), Vec::new());
    mel.compute(&signal(WINDOW_SAMPLES), &mut scratch, &mut used);
    mel.compute(&signal(9_000), &mut scratch, &mut used);
    mel.compute(&signal(9_000), &mut mel.scratch(), &mut fresh);
    assert_eq!(used, fresh);
}

#[test]
fn the_logarithm_is_exact_enough() {
    let mut x = 1e-10f32;
    while x < 1e8 {
        assert!((log10(x) - x.log10()).abs() < 2e-6, "{x}: {} {}", log10(x), x.log10());
        x *= 1.000_37;
    }
    assert_eq!(log10(1.0), 0.0);
}

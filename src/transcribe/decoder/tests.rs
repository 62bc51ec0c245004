//! The decoder against the plain formulas of the published architecture, in single precision, and its search against itself.

use std::path::Path;

use super::batch::Work;
use super::beam::Search;
use super::cache::Said;
use super::logits::Block;
use super::rules::{allowed, repeated};
use super::*;
use crate::transcribe::encoder::Encoder;

fn micro() -> Variables {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/whisper-micro/model.bin");
    Variables::open(&path).unwrap()
}

/// The steering tokens of the small model of the tests, whose vocabulary is that of OpenAI's multilingual ones.
fn special() -> Special {
    Special {
        start: 50258,
        end: 50257,
        no_speech: 50362,
        no_timestamps: 50363,
        languages: (50259..50358).collect(),
        suppressed: (50358..50363).chain([50258]).collect(),
        suppressed_first: vec![220, 50257],
    }
}

/// `None` where the processor lacks the instructions.
fn decoder() -> Option<Decoder> {
    let decoder = Decoder::load(&micro(), special()).unwrap();
    if decoder.is_none() {
        eprintln!("skipped: this processor lacks AVX-512 VNNI or bfloat16");
    }
    decoder
}

/// What the encoder makes of `count` windows with something like voices in them.
fn features(count: usize) -> Vec<f32> {
    let encoder = Encoder::load(&micro()).unwrap().unwrap();
    let at = |seed: usize, band: usize, frame: usize| {
        let (b, t) = (band as f32, frame as f32);
        let voice = (0.13 * b + 2.0 * (0.011 * t + seed as f32).sin()).sin() * (0.05 * t).sin();
        let noise = ((band * 7919 + frame * 104_729 + seed) % 1013) as f32 / 1013.0 - 0.5;
        (0.7 * voice + 0.3 * noise).clamp(-1.0, 1.5)
    };
    let mels: Vec<Vec<f32>> = (0..count)
        .map(|seed| (0..80).flat_map(|b| (0..2 * POSITIONS).map(move |t| at(seed, b, t))).collect())
        .collect();
    encoder.encode(&mels.iter().map(Vec::as_slice).collect::<Vec<_>>(), 1)
}

const PROMPT: [u32; 3] = [50258, 50259, 50359];

fn prompts(count: usize) -> Vec<Vec<u32>> {
    vec![PROMPT.to_vec(); count]
}

/// `x[rows][inputs]` times `weights[outputs][inputs]` plus bias.
fn product(x: &[f32], weights: &[f32], bias: &[f32]) -> Vec<f32> {
    let inputs = weights.len() / bias.len();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let rows = x.chunks_exact(inputs);
    rows.flat_map(|row| weights.chunks_exact(inputs).zip(bias).map(move |(w, b)| dot(row, w) + b)).collect()
}

/// x Φ(x), in Abramowitz and Stegun's formula 7.1.28.
fn gelu(x: f32) -> f32 {
    let z = x.abs() / std::f32::consts::SQRT_2;
    let terms =
        [0.000_043_063_8, 0.000_276_567_2, 0.000_152_014_3, 0.009_270_527, 0.042_282_01, 0.070_523_08];
    let sum = terms.iter().fold(0.0, |sum, term| (sum + term) * z) + 1.0;
    let erf = (1.0 - sum.powi(-16)).copysign(x);
    0.5 * x * (1.0 + erf)
}

fn normed(x: &[f32], norm: &Norm) -> Vec<f32> {
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

/// What each of `queries` sees of keys and values (rows of `width` each), of the first as many as `reach` says.
fn attention(queries: &[f32], both: &[f32], width: usize, reach: impl Fn(usize) -> usize) -> Vec<f32> {
    let mut seen = vec![0.0; queries.len()];
    for (n, query) in queries.chunks_exact(width).enumerate() {
        for head in (0..width).step_by(HEAD) {
            let rows = || both.chunks_exact(2 * width).take(reach(n));
            let score = |row: &[f32]| {
                let products = query[head..head + HEAD].iter().zip(&row[head..]).map(|(q, k)| q * k);
                (products.sum::<f32>() / (HEAD as f32).sqrt()).exp()
            };
            let scores: Vec<f32> = rows().map(score).collect();
            let total: f32 = scores.iter().sum();
            for (row, score) in rows().zip(&scores) {
                for j in head..head + HEAD {
                    seen[n * width + j] += score / total * row[width + j];
                }
            }
        }
    }
    seen
}

/// Whisper's decoder by the book: the logits after the last of `tokens`.
fn plain(variables: &Variables, features: &[f32], tokens: &[u32]) -> Vec<f32> {
    let floats = |name: &str| variables.floats(&format!("decoder/{name}")).unwrap();
    let embeddings = floats("embeddings/weight");
    let places = floats("position_encodings/encodings");
    let width = places.len() / LONGEST;
    let norm = |name: &str| Norm::read(variables, &format!("decoder/{name}"), width).unwrap();
    let linear = |x: &[f32], name: &str| {
        product(x, &floats(&format!("{name}/weight")), &floats(&format!("{name}/bias")))
    };
    let add = |x: &mut [f32], y: Vec<f32>| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    let mut x: Vec<f32> = tokens
        .iter()
        .enumerate()
        .flat_map(|(n, &token)| {
            let embedding = &embeddings[token as usize * width..][..width];
            embedding.iter().zip(&places[n * width..]).map(|(e, p)| e + p).collect::<Vec<_>>()
        })
        .collect();
    for layer in (0..)
        .map(|n| format!("layer_{n}"))
        .take_while(|layer| variables.shape(&format!("decoder/{layer}/ffn/linear_0/weight")).is_some())
    {
        let all = linear(
            &normed(&x, &norm(&format!("{layer}/self_attention/layer_norm"))),
            &format!("{layer}/self_attention/linear_0"),
        );
        let rows = || all.chunks_exact(3 * width);
        let queries: Vec<f32> = rows().flat_map(|row| row[..width].to_vec()).collect();
        let both: Vec<f32> = rows().flat_map(|row| row[width..].to_vec()).collect();
        let seen = attention(&queries, &both, width, |n| n + 1);
        add(&mut x, linear(&seen, &format!("{layer}/self_attention/linear_1")));

        let queries = linear(
            &normed(&x, &norm(&format!("{layer}/attention/layer_norm"))),
            &format!("{layer}/attention/linear_0"),
        );
        let both = linear(features, &format!("{layer}/attention/linear_1"));
        let seen = attention(&queries, &both, width, |_| POSITIONS);
        add(&mut x, linear(&seen, &format!("{layer}/attention/linear_2")));

        let hidden =
            linear(&normed(&x, &norm(&format!("{layer}/ffn/layer_norm"))), &format!("{layer}/ffn/linear_0"));
        let hidden: Vec<f32> = hidden.into_iter().map(gelu).collect();
        add(&mut x, linear(&hidden, &format!("{layer}/ffn/linear_1")));
    }
    let last = normed(&x[x.len() - width..], &norm("layer_norm"));
    product(&last, &embeddings, &vec![0.0; embeddings.len() / width])
}

/// The decoder's logits after the last of `tokens`.
fn own(decoder: &Decoder, features: &[f32], tokens: &[u32]) -> Vec<f32> {
    let listened = decoder.listen(features, 1);
    let options = Options::default();
    let window = Window { heard: &listened.heard[0], prompt: tokens, seed: 0 };
    let search = Search::new(&decoder.special, &options, 1, 0);
    let mut works = vec![Work { nth: 0, window, search, no_speech: 0.0 }];
    let (mut rows, outputs) = (Vec::new(), decoder.vocabulary.outputs());
    let (mut logits, mut most) = (vec![0.0; outputs], vec![0.0; outputs / 4]);
    decoder.with_room(|room| {
        decoder.gather(&mut works, &mut room.said, &mut rows);
        // SAFETY: there is a decoder.
        unsafe {
            decoder.run(&works, &rows, room);
            // The start of the transcript is the first row that is ready, the last token the other.
            let (bytes, worth) = (&room.ready[decoder.width..], &room.worth[1..]);
            decoder.vocabulary.measure(0..outputs / PANEL, bytes, worth, &mut logits, &mut most);
        }
    });
    for (n, part) in logits.chunks_exact(PANEL).enumerate() {
        let largest = part.iter().copied().fold(f32::MIN, f32::max);
        assert_eq!(most[n * 16..][..16].iter().copied().fold(f32::MIN, f32::max), largest);
    }
    logits.truncate(decoder.tokens);
    logits
}

#[test]
fn it_computes_what_the_formulas_say() {
    let Some(decoder) = decoder() else { return };
    let features = features(1);
    // More than go through the layers at once.
    let text = (0..30_u32).map(|n| n * 1_511 % 50_000);
    let tokens: Vec<u32> = PROMPT.into_iter().chain([50_364]).chain(text).collect();
    let (right, other) = (plain(&micro(), &features, &tokens), own(&decoder, &features, &tokens));
    assert_eq!(right.len(), other.len());
    let size = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let difference = size(&mut right.iter().zip(&other).map(|(a, b)| a - b));
    let off = (difference / size(&mut right.iter().copied())).sqrt();
    // Weights and inputs of 8 bits: each about half a step in 127 off.
    assert!(off < 0.03, "{off}");
    assert!(off > 1e-5, "8 bits are never exact: was the formula compared with itself?");
}

#[test]
fn windows_are_the_same_alone_together_and_on_threads() {
    let Some(decoder) = decoder() else { return };
    let features = features(5);
    let size = features.len() / 5;
    // Texts that went before: prompts of different lengths.
    let before = |n: u32| std::iter::once(50_361).chain((0..n * 9).map(|i| 400 + 37 * i));
    let prompts: Vec<Vec<u32>> =
        (0..5).map(|n| before(n).filter(|_| n > 0).chain(PROMPT).collect()).collect();
    let beams = Options { beams: 5, ..Options::default() };
    let drawn = Options { temperature: 0.8, samples: 3, ..Options::default() };
    for options in [Options::default(), beams, drawn] {
        let alone: Vec<Text> = features
            .chunks_exact(size)
            .zip(&prompts)
            .map(|(features, prompt)| {
                let texts = decoder.listen(features, 1).texts(std::slice::from_ref(prompt), &options);
                texts.unwrap().remove(0)
            })
            .collect();
        assert!(alone.iter().all(|text| !text.tokens.is_empty() && text.sum < 0.0), "{alone:?}");
        for threads in [1, 2, 4] {
            let listened = decoder.listen(&features, threads);
            assert_eq!(listened.texts(&prompts, &options).unwrap(), alone, "{threads} threads, {options:?}");
        }
    }
    let languages = decoder.listen(&features, 2).languages(&[3, 1]);
    let one = decoder.listen(&features[size..2 * size], 1).languages(&[0]);
    assert_eq!((languages.len(), &languages[1]), (2, &one[0]));
    assert!((one[0].iter().map(|(_, chance)| chance).sum::<f32>() - 1.0).abs() < 1e-4);
    assert!(decoder.listen(&[], 1).texts(&[], &beams).unwrap().is_empty());
}

#[test]
fn texts_are_looked_up_alone_as_together() {
    let Some(decoder) = decoder() else { return };
    let features = features(3);
    let size = features.len() / 3;
    // More tokens than go through the layers at once.
    let text: Vec<u32> = (0..40_u32).map(|n| n * 1_511 % 50_000).collect();
    let reading = |window: usize, length: usize| Reading {
        window,
        task: &PROMPT,
        text: &text[..length],
        frames: 1_500 - 100 * window,
    };
    let heads = [(2, 1), (0, 0)];
    let readings = [reading(2, 40), reading(0, 7), reading(1, 23)];
    let alone: Vec<Alignment> = readings
        .iter()
        .map(|reading| {
            let listened = decoder.listen(&features[reading.window * size..][..size], 1);
            listened.align(&[Reading { window: 0, ..reading.clone() }], &heads).remove(0)
        })
        .collect();
    for (one, reading) in alone.iter().zip(&readings) {
        assert_eq!((one.frames.len(), one.probs.len()), (reading.text.len(), reading.text.len()));
        assert!(one.frames.is_sorted() && one.frames.iter().all(|&f| (f as usize) < reading.frames));
        assert!(one.probs.iter().all(|p| (0.0..=1.0).contains(p)), "{one:?}");
    }
    for threads in [1, 2, 4] {
        assert_eq!(decoder.listen(&features, threads).align(&readings, &heads), alone);
    }
    // What a token's probability is: its logit among those of text.
    let tokens: Vec<u32> = PROMPT.into_iter().chain([50_363]).chain(text[..9].iter().copied()).collect();
    let logits = own(&decoder, &features[2 * size..], &tokens);
    let most = logits[..50_257].iter().copied().fold(f32::MIN, f32::max);
    let total: f32 = logits[..50_257].iter().map(|logit| (logit - most).exp()).sum();
    let right = (logits[text[9] as usize] - most).exp() / total;
    assert!((alone[0].probs[9] - right).abs() < 1e-3 * right.max(1e-6), "{} {right}", alone[0].probs[9]);
}

#[test]
fn what_cannot_be_looked_up_is_left_out() {
    let Some(decoder) = decoder() else { return };
    let features = features(1);
    let listened = decoder.listen(&features, 1);
    let long = vec![400; 445];
    let whole = Reading { window: 0, task: &PROMPT, text: &long[..10], frames: 1_500 };
    let others = [
        Reading { window: 1, ..whole.clone() },
        Reading { text: &long, ..whole.clone() },
        Reading { text: &[], ..whole.clone() },
        Reading { text: &[50_257], ..whole.clone() },
        Reading { frames: 7, ..whole.clone() },
    ];
    for reading in others {
        assert_eq!(listened.align(&[reading], &[(0, 0)]), [Alignment::default()]);
    }
    assert_eq!(listened.align(&[whole], &[(0, 0)])[0].frames.len(), 10);
    assert!(decoder.has((2, 1)) && !decoder.has((3, 0)) && !decoder.has((0, 2)));
}

#[test]
fn chance_repeats_itself_and_is_chance() {
    let Some(decoder) = decoder() else { return };
    let features = features(1);
    let draw = |temperature: f32, samples: usize| {
        let options = Options { temperature, samples, ..Options::default() };
        decoder.listen(&features, 1).texts(&prompts(1), &options).unwrap().remove(0)
    };
    assert_eq!(draw(1.0, 1), draw(1.0, 1));
    assert_ne!(draw(1.0, 1), draw(0.9, 1), "other temperatures draw anew");
    // The first of more samples is the same; the best is at least as good.
    let mean = |text: &Text| text.sum / text.tokens.len() as f32;
    assert!(mean(&draw(1.0, 5)) >= mean(&draw(1.0, 1)));
    // Next to nothing is left to chance.
    let greedy = decoder.listen(&features, 1).texts(&prompts(1), &Options::default()).unwrap().remove(0);
    assert_eq!(draw(0.001, 1).tokens, greedy.tokens);
}

#[test]
fn each_token_is_drawn_as_often_as_its_probability_says() {
    if !is_supported() {
        return;
    }
    // Three hundred tokens, of which three may come, in different blocks and panels.
    let mut logits = vec![logits::NEVER; 320];
    let likely = [(3, 1.0_f32), (70, 2.0), (300, 0.5)];
    likely.iter().for_each(|&(id, logit)| logits[id] = logit);
    let mut most: Vec<f32> = logits
        .chunks_exact(PANEL)
        .flat_map(|panel| (0..16).map(|lane| (0..4).map(|v| panel[v * 16 + lane]).fold(f32::MIN, f32::max)))
        .collect();
    let total: f32 = likely.iter().map(|(_, logit)| (2.0 * logit).exp()).sum();
    let mut counts = [0_u32; 3];
    for nth in 0..20_000 {
        let mut tally = logits::Tally::default();
        tally.begin(2..310, 2);
        for first in [0, 256] {
            let (here, end) = (first / 4, (first + 256).min(320));
            let block = Block { first, logits: &mut logits[first..end], most: &mut most[here..end / 4] };
            // SAFETY: the processor has the instructions.
            unsafe { tally.add(&block, 2.0, &mut [sample::Chance::new(7, nth)]) };
        }
        assert_eq!(tally.best, [(2.0, 70), (1.0, 3)]);
        counts[likely.iter().position(|&(id, _)| id as u32 == tally.drawn[0].1).unwrap()] += 1;
    }
    for (count, (_, logit)) in counts.iter().zip(likely) {
        let (share, right) = (f64::from(*count) / 20_000.0, f64::from((2.0 * logit).exp() / total));
        // Five standard deviations.
        assert!((share - right).abs() < 5.0 * (right * (1.0 - right) / 20_000.0).sqrt(), "{share} {right}");
    }
}

#[test]
fn times_come_in_pairs_and_go_on() {
    let (special, all) = (special(), 51_865);
    let options = Options { max_initial_timestamp: 50, ..Options::default() };
    let may = |said: &[u32]| {
        let (text, times) = allowed(&special, &options, said, all);
        let (text, times) = ((text.start, text.end), (times.start, times.end));
        (text, times)
    };
    const T0: usize = 50_364;
    const T: u32 = T0 as u32;
    assert_eq!(may(&[]), ((0, 0), (T0, T0 + 51)), "a time first, of the first second");
    assert_eq!(may(&[T + 4]), ((0, T0), (all, all)), "text after it");
    assert_eq!(may(&[T + 4, 7]), ((0, T0), (T0 + 5, all)), "a later time");
    assert_eq!(may(&[T + 4, 7, T + 9]), ((50_257, T0), (T0 + 9, all)), "the end, or where the next begins");
    assert_eq!(may(&[T + 4, 7, T + 9, T + 9]), ((0, T0), (all, all)), "text again");
    assert_eq!(may(&[T + 4, 7, T + 9, T + 9, 8]), ((0, T0), (T0 + 10, all)));
    assert_eq!(may(&[7, 8]), ((0, T0), (T0, all)), "no time yet");
    assert_eq!(may(&[T + 1500, 3]), ((0, T0), (all, all)), "no time is left");
}

#[test]
fn a_sequence_that_was_said_is_not_ended_again() {
    let again = |said: &[u32], size| repeated(said, size).collect::<Vec<_>>();
    assert_eq!(again(&[1, 2, 3, 1, 2], 3), [3]);
    assert_eq!(again(&[1, 2, 3, 1, 2, 4, 1, 2], 3), [3, 4]);
    assert_eq!(again(&[1, 1], 2), [1]);
    assert_eq!(again(&[5, 6], 1), [5, 6]);
    assert!(again(&[1, 2], 3).is_empty() && again(&[1, 2, 1], 0).is_empty() && again(&[], 1).is_empty());
    let Some(decoder) = decoder() else { return };
    let features = features(1);
    let options = Options { no_repeat_ngram: 2, beams: 3, ..Options::default() };
    let text = decoder.listen(&features, 1).texts(&prompts(1), &options).unwrap().remove(0);
    let mut pairs: Vec<&[u32]> = text.tokens.windows(2).collect();
    pairs.sort_unstable();
    assert!(pairs.windows(2).all(|two| two[0] != two[1]), "{text:?}");
}

#[test]
fn what_cannot_be_decoded_is_told() {
    let Some(decoder) = decoder() else { return };
    let features = features(1);
    let listened = decoder.listen(&features, 1);
    let error = |prompts: &[Vec<u32>]| listened.texts(prompts, &Options::default()).unwrap_err();
    assert!(error(&[]).contains("0 prompts for 1 windows"));
    assert!(error(&[vec![1, 2]]).contains("start of the transcript"));
    assert!(error(&[vec![50_258; 449]]).contains("449 tokens"));
    assert!(error(&[vec![50_258, 51_865]]).contains("token 51865"));
    // The longest prompt there is room for leaves room for a token.
    let longest: Vec<u32> = std::iter::repeat_n(400, 445).chain(PROMPT).collect();
    let text = listened.texts(&[longest], &Options::default()).unwrap().remove(0);
    assert_eq!(text.tokens.len(), 1);
    // A model of another vocabulary is left to the engine.
    let other = Special { no_timestamps: 50_362, ..special() };
    assert!(Decoder::load(&micro(), other).unwrap().is_none());
}

#[test]
fn entries_of_dropped_hypotheses_are_used_again() {
    let mut said = Said::new(2, 64);
    let mut alive: Vec<u32> = Vec::new();
    for step in 0..400 {
        said.reserve(5, std::iter::once(&alive[..]));
        let taken: Vec<u32> = (0..5).map(|_| said.entry().unwrap()).collect();
        assert!(taken.iter().all(|entry| !alive.contains(entry)), "step {step}");
        alive.push(taken[step % 5]);
    }
    assert!(said.layer(0).len() < 2 * 64 * 1_000, "{} floats for 400 entries", said.layer(0).len());
}

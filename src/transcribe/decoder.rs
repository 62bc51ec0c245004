//! Whisper's text decoder in 8 bits, for processors that multiply bytes (AVX-512 VNNI) and bfloat16.
//!
//! A text is written a token at a time, and each token goes through every layer and is measured against the whole vocabulary, for
//! every beam: with small models that is most of the work. The runtime computes operation by operation over whole batches, copies
//! what beams look back at when they change places, and sorts the whole vocabulary to find ten tokens. Here beams share what they
//! have in common, a window's keys and values are read once for all its beams, rows of finished windows leave at once, and the
//! best tokens are found in passing. Prompts may be of different lengths. What is computed is the same: weights and inputs in 8
//! bits, CTranslate2's search and OpenAI's rules for timestamps; attention to the window is in bfloat16, as the encoder's is.
//! Texts that are drawn at a temperature are the same whenever the same window is drawn from. Where words are wanted, the
//! decoder reads its text again (`align`).
//!
//! `scripts/bench/kernels` measures it beside the runtime.

use std::sync::{Mutex, MutexGuard, PoisonError};

use batch::{Room, Window};
use cache::Heard;

use super::kernels::layer::{Norm, linear, weights};
use super::kernels::matrix::{Linear, PANEL};
use super::kernels::positions::POSITIONS;
use super::kernels::{HEAD, is_supported, share};
use super::shape::Shape;
use super::variables::Variables;
use super::words::Alignment;

pub use options::{Head, Options, Reading, Special, Text};

mod align;
mod batch;
mod beam;
mod cache;
mod logits;
mod options;
mod rules;
mod sample;
mod step;

/// The runtime's number for GELU.
const GELU: usize = 3;

/// Positions of a text and what stands before it. Half of them are for the text.
const LONGEST: usize = 448;

/// Tokens of the smallest vocabulary of a multilingual model; the English models' is one less.
const MULTILINGUAL: usize = 51_865;

/// A decoder and its weights.
pub struct Decoder {
    width: usize,
    heads: usize,
    special: Special,
    /// Tokens of the vocabulary; their embeddings are the weights of `vocabulary`, whose outputs are filled up to whole panels.
    tokens: usize,
    vocabulary: Linear,
    positions: Vec<f32>,
    layers: Vec<Layer>,
    last: Norm,
    /// What earlier calls worked in.
    heard: Mutex<Vec<Heard>>,
    rooms: Mutex<Vec<Room>>,
}

struct Layer {
    before_said: Norm,
    /// To queries, keys and values.
    projections: Linear,
    attended: Linear,
    before_heard: Norm,
    query: Linear,
    /// From the encoder's output to keys and values.
    memory: Linear,
    heard: Linear,
    before_hidden: Norm,
    hidden: Linear,
    out: Linear,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { width, heads, layers, tokens, .. } = self;
        write!(f, "Decoder {{ width: {width}, heads: {heads}, layers: {}, tokens: {tokens} }}", layers.len())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Decoder {
    /// Whether this processor has the instructions and the model has heads of 64 values, as all of OpenAI's have.
    pub fn suits(shape: &Shape) -> bool {
        is_supported() && shape.d_model.is_multiple_of(PANEL) && shape.heads * HEAD == shape.d_model
    }

    /// Reads the decoder's weights. `Ok(None)` where this processor lacks the instructions or the model is of another shape
    /// than Whisper's (see [`Self::suits`]; GELU, norms before layers, times after all other tokens).
    ///
    /// # Errors
    /// A message that names the variable that is missing or cannot be read.
    pub fn load(variables: &Variables, mut special: Special) -> Result<Option<Self>, String> {
        let (Some(&[tokens, width]), Some(&[positions, encoded])) = (
            variables.shape("decoder/embeddings/weight"),
            variables.shape("decoder/position_encodings/encodings"),
        ) else {
            return Ok(None);
        };
        let heads = variables.integer("decoder/num_heads")?;
        let flag = |name: &str| variables.integer(&format!("decoder/{name}"));
        let plain = flag("activation") == Ok(GELU)
            && flag("pre_norm") == Ok(1)
            && ["scale_embeddings", "start_from_zero_embedding", "alibi"].iter().all(|f| flag(f) == Ok(0));
        let others =
            ["layernorm_embedding/gamma", "project_in/weight", "project_out/weight", "projection/bias"];
        let more = others.iter().any(|name| variables.shape(&format!("decoder/{name}")).is_some());
        let times = tokens.checked_sub(special.no_timestamps as usize + 1);
        if !is_supported()
            || !plain
            || more
            || !width.is_multiple_of(PANEL)
            || heads * HEAD != width
            || encoded != width
            || positions < LONGEST
            || times != Some(POSITIONS + 1)
            || special.end >= special.start
            || special.start.max(special.no_speech) >= special.no_timestamps
        {
            return Ok(None);
        }
        let known = |ids: &mut Vec<u32>| ids.retain(|&id| (id as usize) < tokens);
        known(&mut special.suppressed);
        known(&mut special.suppressed_first);
        known(&mut special.languages);
        let layers = (0..)
            .take_while(|n| variables.shape(&format!("decoder/layer_{n}/ffn/linear_0/weight")).is_some());
        let layers = layers.map(|n| Layer::read(variables, &format!("decoder/layer_{n}"), width));
        let no_bias = vec![0.0; tokens.next_multiple_of(PANEL)];
        Ok(Some(Self {
            width,
            heads,
            special,
            tokens,
            vocabulary: weights(variables, "decoder/projection/weight", width, no_bias)?,
            positions: variables.floats("decoder/position_encodings/encodings")?,
            layers: layers.collect::<Result<_, _>>()?,
            last: Norm::read(variables, "decoder/layer_norm", width)?,
            heard: Mutex::default(),
            rooms: Mutex::default(),
        }))
    }

    /// Whether it knows languages besides English.
    pub fn is_multilingual(&self) -> bool {
        self.tokens >= MULTILINGUAL
    }

    /// Whether there is such a head.
    pub fn has(&self, (layer, number): Head) -> bool {
        layer < self.layers.len() && number < self.heads
    }

    /// Takes in what the encoder made of some windows, `features[window][1500][width]`, on as many as `threads` threads.
    pub fn listen<'a>(&'a self, features: &'a [f32], threads: usize) -> Listened<'a> {
        let size = POSITIONS * self.width;
        let kept = || lock(&self.heard).pop();
        let mut heard: Vec<Heard> = (0..features.len() / size)
            .map(|_| kept().unwrap_or_else(|| Heard::new(self.layers.len(), self.heads)))
            .collect();
        share(heard.iter_mut().zip(features.chunks_exact(size)).collect(), threads, |(heard, features)| {
            self.with_room(|room| {
                let projections = self.layers.iter().map(|layer| &layer.memory);
                // SAFETY: there is no decoder where the processor lacks these instructions.
                unsafe { heard.take(features, projections, &mut room.take) };
            });
        });
        Listened { decoder: self, features, heard, threads }
    }

    fn with_room<T>(&self, work: impl FnOnce(&mut Room) -> T) -> T {
        let kept = lock(&self.rooms).pop();
        let mut room = kept.unwrap_or_else(|| Room::new(self));
        let done = work(&mut room);
        lock(&self.rooms).push(room);
        done
    }

    /// Puts the embedding of `token` at `position` into `x`.
    fn embed(&self, token: u32, position: usize, x: &mut [f32]) {
        let places = &self.positions[position * self.width..][..self.width];
        let embedding = self.vocabulary.output(token as usize);
        x.iter_mut().zip(embedding.zip(places)).for_each(|(x, (e, p))| *x = e + p);
    }
}

/// Windows that were listened to.
pub struct Listened<'a> {
    decoder: &'a Decoder,
    features: &'a [f32],
    heard: Vec<Heard>,
    threads: usize,
}

impl Listened<'_> {
    /// Tokens and chances of the model's languages in each of the windows whose numbers are `which`.
    pub fn languages(&self, which: &[usize]) -> Vec<Vec<(u32, f32)>> {
        let prompt = [self.decoder.special.start];
        let windows: Vec<Window<'_>> = which
            .iter()
            .filter_map(|&n| self.heard.get(n))
            .map(|heard| Window { heard, prompt: &prompt, seed: 0 })
            .collect();
        // SAFETY: there is no decoder where the processor lacks these instructions.
        self.split(&windows, |windows, room| unsafe { self.decoder.detect(windows, room) })
    }

    /// The text of each window, after its prompt.
    ///
    /// # Errors
    /// A message where there are not as many prompts as windows, or one is too long, has tokens that the model does not know,
    /// or no start of the transcript.
    pub fn texts(&self, prompts: &[Vec<u32>], options: &Options) -> Result<Vec<Text>, String> {
        let Decoder { special, tokens, width, .. } = self.decoder;
        if prompts.len() != self.heard.len() {
            return Err(format!("{} prompts for {} windows", prompts.len(), self.heard.len()));
        }
        for prompt in prompts {
            if prompt.len() > LONGEST {
                return Err(format!("a prompt of {} tokens, where {LONGEST} find room", prompt.len()));
            }
            if let Some(id) = prompt.iter().find(|&&id| id as usize >= *tokens) {
                return Err(format!("token {id} of a prompt is none of the model's {tokens}"));
            }
            if !prompt.contains(&special.start) {
                return Err("a prompt without the start of the transcript".to_owned());
            }
        }
        let features = self.features.chunks_exact(POSITIONS * width);
        let windows = self.heard.iter().zip(prompts).zip(features);
        let windows: Vec<Window<'_>> = windows
            .map(|((heard, prompt), features)| {
                let drawn = options.temperature > 0.0;
                let seed = if drawn { sample::seed(features, options.temperature) } else { 0 };
                Window { heard, prompt, seed }
            })
            .collect();
        // SAFETY: there is no decoder where the processor lacks these instructions.
        Ok(self.split(&windows, |windows, room| unsafe { self.decoder.decode(windows, options, room) }))
    }

    /// Where each token of each text is in its window, as far as some `heads` of the decoder tell; nothing of a text that is
    /// too long, or a window that is too short or unknown.
    pub fn align(&self, readings: &[Reading<'_>], heads: &[Head]) -> Vec<Alignment> {
        self.split(readings, |readings, room| {
            let one = |reading: &Reading<'_>| {
                let heard = self.heard.get(reading.window)?;
                // SAFETY: there is no decoder where the processor lacks these instructions.
                unsafe { self.decoder.align(heard, reading, heads, room) }
            };
            readings.iter().map(one).map(Option::unwrap_or_default).collect()
        })
    }

    /// Does `work` with windows (or texts), as many at a time as there are for each thread.
    fn split<I: Sync, T: Send + Clone>(
        &self,
        items: &[I],
        work: impl Fn(&[I], &mut Room) -> Vec<T> + Sync,
    ) -> Vec<T> {
        let most = items.len().div_ceil(self.threads.max(1)).max(1);
        let mut done: Vec<Vec<T>> = vec![Vec::new(); items.len().div_ceil(most)];
        share(items.chunks(most).zip(&mut done).collect(), self.threads, |(items, done)| {
            *done = self.decoder.with_room(|room| work(items, room));
        });
        done.into_iter().flatten().collect()
    }
}

impl Drop for Listened<'_> {
    fn drop(&mut self) {
        lock(&self.decoder.heard).append(&mut self.heard);
    }
}

impl Layer {
    fn read(variables: &Variables, name: &str, width: usize) -> Result<Self, String> {
        let linear = |part: &str, inputs: usize, outputs: usize| {
            linear(variables, &format!("{name}/{part}"), inputs, outputs)
        };
        let norm = |part: &str| Norm::read(variables, &format!("{name}/{part}/layer_norm"), width);
        Ok(Self {
            before_said: norm("self_attention")?,
            projections: linear("self_attention/linear_0", width, 3 * width)?,
            attended: linear("self_attention/linear_1", width, width)?,
            before_heard: norm("attention")?,
            query: linear("attention/linear_0", width, width)?,
            memory: linear("attention/linear_1", width, 2 * width)?,
            heard: linear("attention/linear_2", width, width)?,
            before_hidden: norm("ffn")?,
            hidden: linear("ffn/linear_0", width, 4 * width)?,
            out: linear("ffn/linear_1", 4 * width, width)?,
        })
    }
}

#[cfg(test)]
mod tests;

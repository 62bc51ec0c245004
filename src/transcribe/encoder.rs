//! Whisper's audio encoder in 8 bits, for processors that multiply bytes (AVX-512 VNNI) and bfloat16.
//!
//! The encoder is most of the work on a CPU: a window's 1500 positions go through every layer, whatever is said in it. The
//! runtime's own encoder computes layer by layer over whole batches and keeps all 1500 × 1500 attention scores of all heads in
//! memory. This one takes one window at a time and, within it, blocks of rows that stay in the processor's cache: what follows a
//! product (scale, bias, GELU, residual) is done while it is in registers, attention goes over twelve positions at a time. The
//! arithmetic is the same (8-bit weights with a scale for each output, inputs with a scale for each row), but attention multiplies
//! in bfloat16 where the runtime uses single precision. The output goes to the decoder.
//!
//! `scripts/bench/kernels` measures both.

use std::sync::{Mutex, PoisonError};

use attention::Attention;

use super::kernels::layer::{Norm, linear};
use super::kernels::matrix::{Linear, PANEL, Single, TILE, Then};
use super::kernels::positions::POSITIONS;
use super::kernels::vector::{layer_norm, quantise};
use super::kernels::{HEAD, is_supported, share};
use super::shape::Shape;
use super::variables::Variables;

mod attention;

/// Frames of a window's spectrogram: two for each position.
const FRAMES: usize = 2 * POSITIONS;
/// Rows of a block: what a layer makes of them (four times the width each) stays in the second cache.
const BLOCK: usize = 10 * TILE;

/// An encoder and its weights.
pub struct Encoder {
    bands: usize,
    width: usize,
    heads: usize,
    first: Single,
    second: Single,
    positions: Vec<f32>,
    layers: Vec<Layer>,
    last: Norm,
    /// What earlier calls worked in.
    rooms: Mutex<Vec<Room>>,
}

struct Layer {
    before_attention: Norm,
    /// To queries, keys and values.
    projections: Linear,
    attended: Linear,
    before_hidden: Norm,
    hidden: Linear,
    out: Linear,
}

/// Working memory of one window.
struct Room {
    /// `[3002][bands]`: the spectrogram, a frame a row, with a row of zeros on either side.
    frames: Vec<f32>,
    /// `[3002][width]`: what the first convolution makes of it, likewise.
    convolved: Vec<f32>,
    attention: Attention,
    /// `[1500][width]`.
    seen: Vec<f32>,
    /// `[60][4 · width]` and less.
    wide: Vec<f32>,
    row: Vec<f32>,
    bytes: Vec<u8>,
    worth: Vec<f32>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { width, heads, layers, .. } = self;
        write!(f, "Encoder {{ width: {width}, heads: {heads}, layers: {} }}", layers.len())
    }
}

impl Encoder {
    /// Whether this processor has the instructions and the model has heads of 64 values and a width of whole panels, as all
    /// of OpenAI's have.
    pub fn suits(shape: &Shape) -> bool {
        is_supported() && shape.d_model.is_multiple_of(PANEL) && shape.heads * HEAD == shape.d_model
    }

    /// Reads the encoder's weights. `Ok(None)` where this processor lacks the instructions or the model is of another shape
    /// than Whisper's (see [`Self::suits`]; 1500 positions, two frames each).
    ///
    /// # Errors
    /// A message that names the variable that is missing or cannot be read.
    pub fn load(variables: &Variables) -> Result<Option<Self>, String> {
        if !is_supported() {
            return Ok(None);
        }
        let (Some(conv), Some(positions)) = (
            variables.shape("encoder/conv1/weight"),
            variables.shape("encoder/position_encodings/encodings"),
        ) else {
            return Ok(None);
        };
        let heads = variables.integer("encoder/num_heads")?;
        let (&[width, bands, 3], &[POSITIONS, encoded]) = (conv, positions) else { return Ok(None) };
        if !width.is_multiple_of(PANEL)
            || encoded != width
            || heads * HEAD != width
            || !bands.is_multiple_of(16)
        {
            return Ok(None);
        }
        let layers = (0..)
            .take_while(|n| variables.shape(&format!("encoder/layer_{n}/ffn/linear_0/weight")).is_some());
        let layers = layers.map(|n| Layer::read(variables, &format!("encoder/layer_{n}"), width));
        Ok(Some(Self {
            bands,
            width,
            heads,
            first: convolution(variables, "encoder/conv1", bands)?,
            second: convolution(variables, "encoder/conv2", width)?,
            positions: variables.floats("encoder/position_encodings/encodings")?,
            layers: layers.collect::<Result<_, _>>()?,
            last: Norm::read(variables, "encoder/layer_norm", width)?,
            rooms: Mutex::default(),
        }))
    }

    /// Mel bands of a window's spectrogram.
    pub fn bands(&self) -> usize {
        self.bands
    }

    /// Encodes windows on as many as `threads` threads; `spectrograms` are `[bands][3000]` each, the output is
    /// `[window][1500][width]`.
    pub fn encode(&self, spectrograms: &[&[f32]], threads: usize) -> Vec<f32> {
        let size = POSITIONS * self.width;
        let mut out = vec![0.0; spectrograms.len() * size];
        let windows = spectrograms.iter().zip(out.chunks_exact_mut(size)).collect();
        share(windows, threads, |(spectrogram, out)| self.window(spectrogram, out));
        out
    }

    fn window(&self, spectrogram: &[f32], out: &mut [f32]) {
        let rooms = || self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = rooms().pop();
        let mut room = kept.unwrap_or_else(|| Room::new(self));
        // SAFETY: there is no encoder where the processor lacks these instructions.
        unsafe { self.run(spectrogram, out, &mut room) };
        rooms().push(room);
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni,avx512bf16")]
    fn run(&self, spectrogram: &[f32], x: &mut [f32], room: &mut Room) {
        let (bands, width) = (self.bands, self.width);
        for (band, row) in spectrogram.chunks_exact(FRAMES).enumerate() {
            let column = room.frames[bands + band..].iter_mut().step_by(bands);
            column.zip(row).for_each(|(to, from)| *to = *from);
        }
        self.first.apply(&room.frames, bands, &mut room.convolved[width..][..FRAMES * width]);
        self.second.apply(&room.convolved, 2 * width, x);
        x.iter_mut().zip(&self.positions).for_each(|(x, position)| *x += position);
        for layer in &self.layers {
            layer.attend(x, width, room);
            layer.transform(x, width, room);
        }
        for row in x.chunks_exact_mut(width) {
            layer_norm(row, &self.last.gamma, &self.last.beta, &mut room.row);
            row.copy_from_slice(&room.row);
        }
    }
}

impl Layer {
    fn read(variables: &Variables, name: &str, width: usize) -> Result<Self, String> {
        let linear = |part: &str, inputs: usize, outputs: usize| {
            linear(variables, &format!("{name}/{part}"), inputs, outputs)
        };
        let norm = |part: &str| Norm::read(variables, &format!("{name}/{part}/layer_norm"), width);
        Ok(Self {
            before_attention: norm("self_attention")?,
            projections: linear("self_attention/linear_0", width, 3 * width)?,
            attended: linear("self_attention/linear_1", width, width)?,
            before_hidden: norm("ffn")?,
            hidden: linear("ffn/linear_0", width, 4 * width)?,
            out: linear("ffn/linear_1", 4 * width, width)?,
        })
    }

    /// Every position's queries, keys and values; what it sees goes to `room.seen`.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni,avx512bf16")]
    fn attend(&self, x: &[f32], width: usize, room: &mut Room) {
        let Room { attention, seen, wide, row, bytes, worth, .. } = room;
        for (n, block) in x.chunks_exact(BLOCK * width).enumerate() {
            let bytes = &mut bytes[..BLOCK * width];
            for ((x, bytes), worth) in
                block.chunks_exact(width).zip(bytes.chunks_exact_mut(width)).zip(&mut *worth)
            {
                layer_norm(x, &self.before_attention.gamma, &self.before_attention.beta, row);
                *worth = quantise(row, bytes);
            }
            let wide = &mut wide[..BLOCK * 3 * width];
            self.projections.apply(bytes, worth, Then::Store, wide);
            attention.take(n * BLOCK, wide);
        }
        attention.look(seen);
    }

    /// Adds to each position what it saw, then what the layer makes of it by itself.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni")]
    fn transform(&self, x: &mut [f32], width: usize, room: &mut Room) {
        let Room { seen, wide, row, bytes, worth, .. } = room;
        for (x, seen) in x.chunks_exact_mut(BLOCK * width).zip(seen.chunks_exact(BLOCK * width)) {
            let narrow = &mut bytes[..BLOCK * width];
            for ((seen, bytes), worth) in
                seen.chunks_exact(width).zip(narrow.chunks_exact_mut(width)).zip(&mut *worth)
            {
                *worth = quantise(seen, bytes);
            }
            self.attended.apply(narrow, worth, Then::Add, x);
            for ((x, bytes), worth) in
                x.chunks_exact(width).zip(narrow.chunks_exact_mut(width)).zip(&mut *worth)
            {
                layer_norm(x, &self.before_hidden.gamma, &self.before_hidden.beta, row);
                *worth = quantise(row, bytes);
            }
            self.hidden.apply(narrow, worth, Then::Gelu, wide);
            for ((wide, bytes), worth) in
                wide.chunks_exact(4 * width).zip(bytes.chunks_exact_mut(4 * width)).zip(&mut *worth)
            {
                *worth = quantise(wide, bytes);
            }
            self.out.apply(bytes, worth, Then::Add, x);
        }
    }
}

impl Room {
    fn new(encoder: &Encoder) -> Self {
        let Encoder { bands, width, heads, .. } = *encoder;
        Self {
            frames: vec![0.0; (FRAMES + 2) * bands],
            convolved: vec![0.0; (FRAMES + 2) * width],
            attention: Attention::new(heads),
            seen: vec![0.0; POSITIONS * width],
            wide: vec![0.0; BLOCK * 4 * width],
            row: vec![0.0; width],
            bytes: vec![0; BLOCK * 4 * width],
            worth: vec![0.0; BLOCK],
        }
    }
}

/// A convolution over three rows of `channels` values, as a layer whose inputs are those rows side by side.
fn convolution(variables: &Variables, name: &str, channels: usize) -> Result<Single, String> {
    let weights = variables.floats(&format!("{name}/weight"))?;
    let bias = variables.floats(&format!("{name}/bias"))?;
    let at =
        |output: usize, input: usize| weights[(output * channels + input % channels) * 3 + input / channels];
    Ok(Single::new(3 * channels, bias, at))
}

#[cfg(test)]
mod tests;

//! What the decoder looks back at: keys and values of the window's positions, and of what it has said itself.

use crate::transcribe::kernels::matrix::{Linear, Then};
use crate::transcribe::kernels::positions::{POSITIONS, Positions};
use crate::transcribe::kernels::vector::quantise;

/// Rows of a block while a window is taken in: what is made of them stays in the second cache.
const BLOCK: usize = 60;

/// Keys and values of a window's positions in every layer. All beams of a window share them.
pub(super) struct Heard {
    pub(super) layers: Vec<Positions>,
}

/// Working memory for taking a window in.
#[derive(Default)]
pub(super) struct Room {
    bytes: Vec<u8>,
    worth: Vec<f32>,
    wide: Vec<f32>,
    row: Vec<u16>,
}

impl Heard {
    pub(super) fn new(layers: usize, heads: usize) -> Self {
        Self { layers: (0..layers).map(|_| Positions::new(heads)).collect() }
    }

    /// Takes in what the encoder made of a window, `features[1500][width]`, by each layer's `projections` to keys and values.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni,avx512bf16")]
    pub(super) fn take<'a>(
        &mut self,
        features: &[f32],
        projections: impl Iterator<Item = &'a Linear>,
        room: &mut Room,
    ) {
        let width = features.len() / POSITIONS;
        room.bytes.resize(features.len(), 0);
        room.worth.resize(POSITIONS, 0.0);
        room.wide.resize(BLOCK * 2 * width, 0.0);
        room.row.resize(width, 0);
        // All layers read the same: it is made bytes once.
        let rows = features.chunks_exact(width).zip(room.bytes.chunks_exact_mut(width));
        for ((row, bytes), worth) in rows.zip(&mut room.worth) {
            *worth = quantise(row, bytes);
        }
        for (positions, projection) in self.layers.iter_mut().zip(projections) {
            let blocks = room.bytes.chunks_exact(BLOCK * width).zip(room.worth.chunks_exact(BLOCK));
            for (n, (bytes, worth)) in blocks.enumerate() {
                projection.apply(bytes, worth, Then::Store, &mut room.wide);
                positions.take(n * BLOCK, &room.wide, 2 * width, 0, &mut room.row);
            }
        }
    }
}

/// Keys and values of tokens that were said, in every layer; a hypothesis is a list of entries, so that beams share what they
/// have in common and nothing is copied when one goes on from another's.
pub(super) struct Said {
    width: usize,
    /// For each layer `[entry][2 · width]`: keys, then values.
    layers: Vec<Vec<f32>>,
    /// Entries there is room for.
    entries: usize,
    free: Vec<u32>,
    used: Vec<bool>,
}

impl Said {
    pub(super) fn new(layers: usize, width: usize) -> Self {
        Self { width, layers: vec![Vec::new(); layers], entries: 0, free: Vec::new(), used: Vec::new() }
    }

    /// Nothing is said any more.
    pub(super) fn clear(&mut self) {
        self.free.clear();
        self.free.extend((0..self.entries as u32).rev());
    }

    /// Sees to it that `count` entries can be taken; `alive` are those that some hypothesis still looks back at.
    pub(super) fn reserve<'a>(&mut self, count: usize, alive: impl Iterator<Item = &'a [u32]>) {
        if self.free.len() >= count {
            return;
        }
        self.used.clear();
        self.used.resize(self.entries, false);
        alive.flatten().for_each(|&entry| self.used[entry as usize] = true);
        self.free.clear();
        self.free.extend((0..self.entries as u32).rev().filter(|&entry| !self.used[entry as usize]));
        // Not again at the next step.
        if self.free.len() < count + self.entries / 4 {
            let more = count + self.entries / 2;
            self.free.splice(0..0, (self.entries..self.entries + more).rev().map(|entry| entry as u32));
            self.entries += more;
            for layer in &mut self.layers {
                layer.resize(self.entries * 2 * self.width, 0.0);
            }
        }
    }

    /// A free entry; there is one after [`Self::reserve`].
    pub(super) fn entry(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Notes a token's keys and values in `layer`.
    pub(super) fn note(&mut self, layer: usize, entry: u32, both: &[f32]) {
        self.layers[layer][entry as usize * 2 * self.width..][..2 * self.width].copy_from_slice(both);
    }

    /// `[entry][2 · width]`.
    pub(super) fn layer(&self, layer: usize) -> &[f32] {
        &self.layers[layer]
    }
}

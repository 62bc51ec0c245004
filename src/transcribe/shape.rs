//! What a model's file says about its size: layers, width, heads, bytes; read from the list of its variables without
//! reading the weights.

use std::path::Path;

use super::variables::Variables;

/// The shape of a Whisper model, from which its memory and the best way to run it are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Width of the model.
    pub d_model: usize,
    /// Attention heads of an encoder layer.
    pub heads: usize,
    /// Encoder layers.
    pub encoder_layers: usize,
    /// Decoder layers.
    pub decoder_layers: usize,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Whether this program's own encoder and decoder are going to be used.
    pub own_kernels: bool,
}

/// Encoder positions of a 30 s window.
const POSITIONS: u64 = 1500;

impl Shape {
    /// Reads the list of variables of CTranslate2's `model.bin`.
    ///
    /// # Errors
    /// A message that names the file: see [`Variables::open`], or it lists no encoder or no decoder.
    pub fn read(path: &Path) -> Result<Self, String> {
        Self::of(&Variables::open(path)?).ok_or_else(|| {
            format!(
                "{} is no whisper model in ctranslate2's format (it lists no encoder or no decoder)",
                path.display()
            )
        })
    }

    /// From a list of variables; `None` where it is no Whisper model's.
    pub fn of(variables: &Variables) -> Option<Self> {
        let mut shape = Self { bytes: variables.file_bytes(), ..Self::default() };
        for (name, dimensions) in variables.stored() {
            if !dimensions.is_empty() {
                shape.parameters += dimensions.iter().map(|&d| d as u64).product::<u64>();
            }
            let layer = |part: &str| {
                let rest = name.strip_prefix(part)?.strip_prefix("/layer_")?;
                rest.split('/').next()?.parse::<usize>().ok().map(|n| n + 1)
            };
            if let Some(layers) = layer("encoder") {
                shape.encoder_layers = shape.encoder_layers.max(layers);
            } else if let Some(layers) = layer("decoder") {
                shape.decoder_layers = shape.decoder_layers.max(layers);
            }
        }
        // Not the bias: equal variables are written once, and a bias of zeros is equal to many.
        shape.d_model = *variables.shape("encoder/conv1/weight")?.first()?;
        shape.heads = variables.integer("encoder/num_heads").ok()?;
        let complete =
            shape.heads > 0 && shape.d_model > 0 && shape.encoder_layers > 0 && shape.decoder_layers > 0;
        complete.then_some(shape)
    }

    /// Working memory of one window: in the encoder two matrices of attention scores, 1500 × 1500 floats a head, and after
    /// that, in their place, the keys and values of the decoder's attention over the window, which beams share.
    /// (Measured with "small", 12 heads: 0.15 to 0.2 GB a window.) The encoder of our own has no such matrices, only a dozen
    /// rows of the model's width for each position; it and the decoder, whose keys and values are half as large, keep theirs
    /// for the next window. Where words are aligned, what ten heads look at is added, 1500 floats for each of some 230 tokens.
    pub fn window_bytes(&self) -> u64 {
        let row = 4 * POSITIONS * self.d_model as u64;
        if self.own_kernels {
            13 * row + row * self.decoder_layers as u64 + 10 * 230 * 4 * POSITIONS
        } else {
            let decoder = 2 * row * self.decoder_layers as u64 + 2 * row;
            (2 * 4 * POSITIONS * POSITIONS * self.heads as u64).max(decoder)
        }
    }

    /// Working memory of one beam in the decoder: keys and values of the text at its longest, in floats. (Measured with
    /// "small" and 90 tokens: 7 MB a beam.)
    pub fn beam_bytes(&self) -> u64 {
        2 * 4 * 448 * self.d_model as u64 * self.decoder_layers as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micro() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/whisper-micro/model.bin")
    }

    #[test]
    fn the_small_model_of_the_tests_is_what_its_maker_says() {
        let shape = Shape::read(&micro()).unwrap();
        assert_eq!((shape.d_model, shape.heads, shape.encoder_layers, shape.decoder_layers), (128, 2, 4, 3));
        assert!((8_400_000..8_700_000).contains(&shape.parameters), "{shape:?}");
    }

    #[test]
    fn a_cut_file_and_another_file_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.bin");
        let whole = std::fs::read(micro()).unwrap();
        for length in [3, 300, whole.len() / 2, whole.len() - 100_000] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = Shape::read(&path).unwrap_err();
            assert!(error.contains("cut off"), "{length}: {error}");
        }
        std::fs::write(&path, b"ggml and then something else that is long enough").unwrap();
        assert!(Shape::read(&path).unwrap_err().contains("no whisper model"));
    }
}

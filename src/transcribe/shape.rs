//! What a model's file says about its size: layers, width, heads, bytes; read from the list of its variables without
//! reading the weights.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

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
}

/// Encoder positions of a 30 s window.
const POSITIONS: u64 = 1500;

impl Shape {
    /// Reads the list of variables of CTranslate2's `model.bin` (format version 2 to 6), skipping their values.
    ///
    /// # Errors
    /// A message that names the file: unreadable, of another format, or shorter than its own list of variables.
    pub fn read(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let bytes = file.metadata().map(|m| m.len()).unwrap_or(0);
        variables(BufReader::with_capacity(4096, file), bytes).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => format!(
                "{} is cut off at {bytes} bytes, so the model cannot be loaded; fetch or convert it again",
                path.display()
            ),
            io::ErrorKind::InvalidData => {
                format!("{} is no whisper model in ctranslate2's format ({e})", path.display())
            }
            _ => format!("cannot read {}: {e}", path.display()),
        })
    }

    /// Working memory of one window: in the encoder two matrices of attention scores, 1500 × 1500 floats a head, and after
    /// that, in their place, the keys and values of the decoder's attention over the window, which beams share.
    /// (Measured with "small", 12 heads: 0.15 to 0.2 GB a window.)
    pub fn window_bytes(&self) -> u64 {
        let scores = 2 * 4 * POSITIONS * POSITIONS * self.heads as u64;
        scores.max(2 * 4 * POSITIONS * self.d_model as u64 * self.decoder_layers as u64)
    }

    /// Working memory of one beam in the decoder: keys and values of the text at its longest, in floats. (Measured with
    /// "small" and 90 tokens: 7 MB a beam.)
    pub fn beam_bytes(&self) -> u64 {
        2 * 4 * 448 * self.d_model as u64 * self.decoder_layers as u64
    }
}

fn variables(mut file: impl Read + Seek, bytes: u64) -> io::Result<Shape> {
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let version = u32::from_le_bytes(take(&mut file)?);
    if !(2..=6).contains(&version) {
        return Err(wrong(format!("version {version}")));
    }
    let kind = name(&mut file)?;
    if kind != "WhisperSpec" {
        return Err(wrong(format!("it is a {kind:?}")));
    }
    let _revision: [u8; 4] = take(&mut file)?;
    let count = u32::from_le_bytes(take(&mut file)?);
    let mut shape = Shape { bytes, ..Shape::default() };
    for _ in 0..count {
        let name = name(&mut file)?;
        let [rank] = take(&mut file)?;
        let mut values = 1;
        let mut first = 0;
        for i in 0..rank {
            let dimension = u32::from_le_bytes(take(&mut file)?);
            if i == 0 {
                first = dimension as usize;
            }
            values *= u64::from(dimension);
        }
        let size = if version >= 4 {
            let _type: [u8; 1] = take(&mut file)?;
            u64::from(u32::from_le_bytes(take(&mut file)?))
        } else {
            let [item] = take(&mut file)?;
            u64::from(item) * u64::from(u32::from_le_bytes(take(&mut file)?))
        };
        if file.stream_position()? + size > bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if rank > 0 {
            shape.parameters += values;
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
        match name.as_str() {
            "encoder/num_heads" if (1..=8).contains(&size) => {
                let mut value = [0; 8];
                file.read_exact(&mut value[..size as usize])?;
                shape.heads = usize::try_from(u64::from_le_bytes(value)).unwrap_or(0);
                continue;
            }
            // Not the bias: equal variables are written once, and a bias of zeros is equal to many.
            "encoder/conv1/weight" => shape.d_model = first,
            _ => {}
        }
        file.seek_relative(size as i64)?;
    }
    if shape.heads == 0 || shape.d_model == 0 || shape.encoder_layers == 0 || shape.decoder_layers == 0 {
        return Err(wrong("it lists no encoder or no decoder".to_owned()));
    }
    Ok(shape)
}

fn take<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A name of at most 64 KiB that ends in a zero byte.
fn name(file: &mut impl Read) -> io::Result<String> {
    let length = u16::from_le_bytes(take(file)?);
    let mut bytes = vec![0; length.into()];
    file.read_exact(&mut bytes)?;
    bytes.pop();
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a name is no text"))
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

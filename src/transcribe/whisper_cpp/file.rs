//! What a GGML file says about its model. The file is walked from end to end (its weights skipped) before whisper.cpp sees it:
//! that program takes sizes as it finds them, and ends the whole process over some of what a broken file can hold.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use crate::transcribe::shape::Shape;

/// The first four bytes of a whisper.cpp model.
const MAGIC: [u8; 4] = *b"lmgg";

/// What the head of a model's file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Width, heads, layers, weights, bytes.
    pub shape: Shape,
    /// Tokens in the vocabulary.
    pub n_vocab: usize,
    /// Attention heads of a decoder layer.
    pub text_heads: usize,
    /// Mel bands.
    pub n_mels: usize,
    /// Format of the big matrices: `f16`, `q5_1`, …
    pub weights: &'static str,
}

/// Whether `path` begins as a whisper.cpp model does.
pub fn has_magic(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == MAGIC
}

impl Header {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// A message that names the file: unreadable, another format, cut off, or not as whisper.cpp expects it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let file = File::open(path).map_err(|e| format!("cannot read {shown}: {e}"))?;
        let bytes = file.metadata().map(|m| m.len()).unwrap_or(0);
        walk(BufReader::with_capacity(1 << 14, file), bytes).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                format!("{shown} is cut off at {bytes} bytes, so the model cannot be loaded; fetch or convert it again")
            }
            io::ErrorKind::InvalidData => {
                format!("{shown} is no whisper model in whisper.cpp's format ({e}); WHISPER_MODEL wants a ggml-*.bin")
            }
            _ => format!("cannot read {shown}: {e}"),
        })
    }
}

/// Names of ggml's formats by the number in the file's head, as whisper.cpp's conversions use them.
const WEIGHTS: [(u32, &str); 12] = [
    (0, "f32"),
    (1, "f16"),
    (2, "q4_0"),
    (3, "q4_1"),
    (7, "q8_0"),
    (8, "q5_0"),
    (9, "q5_1"),
    (10, "q2_k"),
    (11, "q3_k"),
    (12, "q4_k"),
    (13, "q5_k"),
    (14, "q6_k"),
];

/// For the number of a tensor's type: how many values a block holds, and its bytes (`ggml_type` and the block structs of
/// `ggml-common.h`).
fn block(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 => (1, 4),
        1 => (1, 2),
        2 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        _ => return None,
    })
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn take<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn number(file: &mut impl Read) -> io::Result<u32> {
    take(file).map(u32::from_le_bytes)
}

/// A size from the file's head, where it is one that a Whisper model can have.
fn size(file: &mut impl Read, what: &str, most: u32) -> io::Result<usize> {
    match number(file)? {
        n if (1..=most).contains(&n) => Ok(n as usize),
        n => Err(wrong(format!("{what} is {n}"))),
    }
}

fn walk(mut file: impl Read + Seek, bytes: u64) -> io::Result<Header> {
    let magic: [u8; 4] = take(&mut file)?;
    if magic != MAGIC {
        return Err(wrong(match &magic {
            b"GGUF" => "it is a GGUF file",
            b"PK\x03\x04" => "it is a PyTorch checkpoint",
            _ => "it begins otherwise",
        }));
    }
    let n_vocab = size(&mut file, "the vocabulary", 60_000)?;
    let audio_ctx = size(&mut file, "the audio context", 1500)?;
    let d_model = size(&mut file, "the width", 8192)?;
    let heads = size(&mut file, "the number of heads", 128)?;
    let encoder_layers = size(&mut file, "the number of encoder layers", 128)?;
    let text_ctx = size(&mut file, "the text context", 448)?;
    let text_width = size(&mut file, "the decoder's width", 8192)?;
    let text_heads = size(&mut file, "the number of decoder heads", 128)?;
    let decoder_layers = size(&mut file, "the number of decoder layers", 128)?;
    let n_mels = size(&mut file, "the number of mel bands", 128)?;
    // Thousands count versions of the quantised formats.
    let format = number(&mut file)? % 1000;
    let weights = WEIGHTS.iter().find(|(n, _)| *n == format).map(|(_, name)| *name);
    let weights = weights.ok_or_else(|| wrong(format!("unknown format of weights {format}")))?;
    if (audio_ctx, text_ctx, text_width) != (1500, 448, d_model)
        || n_vocab < 51_864
        || ![80, 128].contains(&n_mels)
    {
        return Err(wrong("its sizes are not a whisper model's"));
    }
    let filters = u64::from(number(&mut file)?) * u64::from(number(&mut file)?);
    if filters != 201 * n_mels as u64 {
        return Err(wrong("its mel filters are not a whisper model's"));
    }
    skip(&mut file, 4 * filters, bytes)?;
    let tokens = number(&mut file)?;
    if !(50_000..=n_vocab as u32).contains(&tokens) {
        return Err(wrong(format!("it lists {tokens} tokens")));
    }
    for _ in 0..tokens {
        let length = number(&mut file)?;
        skip(&mut file, length.into(), bytes)?;
    }
    let (mut parameters, mut tensors) = (0, 0);
    while file.stream_position()? < bytes {
        parameters += tensor(&mut file, bytes)?;
        tensors += 1;
    }
    // Two convolutions, two position tables, two norms and the embedding; then 15 and 24 a layer.
    if tensors != 11 + 15 * encoder_layers + 24 * decoder_layers {
        return Err(match tensors {
            // A download that stopped just between two tensors.
            n if n < 11 + 15 * encoder_layers + 24 * decoder_layers => io::ErrorKind::UnexpectedEof.into(),
            n => wrong(format!("it holds {n} tensors")),
        });
    }
    let shape =
        Shape { d_model, heads, encoder_layers, decoder_layers, parameters, bytes, own_kernels: false };
    Ok(Header { shape, n_vocab, text_heads, n_mels, weights })
}

/// Skips one tensor; its number of values.
fn tensor(file: &mut (impl Read + Seek), bytes: u64) -> io::Result<u64> {
    let (rank, name, kind) = (number(file)?, number(file)?, number(file)?);
    if !(1..=3).contains(&rank) || name > 256 {
        return Err(wrong("its list of tensors is damaged"));
    }
    let mut values = 1_u64;
    for _ in 0..rank {
        values = values.saturating_mul(number(file)?.into());
    }
    skip(file, name.into(), bytes)?;
    let (count, size) = block(kind).ok_or_else(|| wrong(format!("a tensor of unknown type {kind}")))?;
    if !values.is_multiple_of(count) {
        return Err(wrong("a tensor of broken blocks"));
    }
    skip(file, values / count * size, bytes)?;
    Ok(values)
}

fn skip(file: &mut impl Seek, length: u64, bytes: u64) -> io::Result<()> {
    if file.stream_position()?.saturating_add(length) > bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    file.seek_relative(i64::try_from(length).map_err(|_| io::ErrorKind::UnexpectedEof)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micro() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/whisper-micro-ggml/ggml-micro-q8_0.bin")
    }

    #[test]
    fn the_small_model_of_the_tests_is_what_its_maker_says() {
        let header = Header::read(&micro()).unwrap();
        let shape = header.shape;
        assert_eq!((shape.d_model, shape.heads, shape.encoder_layers, shape.decoder_layers), (128, 2, 4, 3));
        assert!((8_400_000..8_800_000).contains(&shape.parameters), "{shape:?}");
        assert_eq!((header.n_vocab, header.n_mels, header.text_heads), (51_865, 80, 2));
        assert!(has_magic(&micro()));
    }

    #[test]
    fn a_file_that_is_cut_off_anywhere_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ggml-cut.bin");
        let whole = std::fs::read(micro()).unwrap();
        for length in [0, 3, 40, 5_000, 400_000, 1_000_000, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = Header::read(&path).unwrap_err();
            assert!(error.contains("cut off") && error.contains("ggml-cut.bin"), "{length}: {error}");
        }
    }

    #[test]
    fn other_formats_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.bin");
        let head = |numbers: [u32; 12]| numbers.map(u32::to_le_bytes).concat();
        let magic = u32::from_le_bytes(MAGIC);
        for (bytes, what) in [
            (b"GGUF and then something".to_vec(), "GGUF"),
            (b"PK\x03\x04 and then something".to_vec(), "PyTorch"),
            (b"<!DOCTYPE html><html>".to_vec(), "begins otherwise"),
            (head([magic, 51865, 1500, 0, 6, 4, 448, 384, 6, 4, 80, 1]), "the width is 0"),
            (head([magic, 51865, 1500, 384, 6, 4, 448, 512, 6, 4, 80, 1]), "sizes"),
            (head([magic, 51865, 1500, 384, 6, 4, 448, 384, 6, 4, 80, 99]), "format of weights 99"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = Header::read(&path).unwrap_err();
            assert!(error.contains(what) && error.contains("WHISPER_MODEL"), "{error}");
        }
        assert!(Header::read(&dir.path().join("none.bin")).unwrap_err().contains("cannot read"));
    }
}

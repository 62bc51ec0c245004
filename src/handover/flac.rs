//! Decoded audio made smaller without loss: what travels is FLAC.
//!
//! Speech at 16 kHz comes to 40 % of its samples' size where it is clean, to 75 % in much noise; silence to nearly nothing.
//! The encoder is libavcodec's own; its frames are written here, behind the header that every FLAC file begins with, so
//! that no path is given to the library. Reading it back is the decoder's business: any FLAC reader gives the same samples,
//! bit for bit.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use ffmpeg_next::{self as ffmpeg, ChannelLayout, Packet, Rational, codec, ffi, format, frame};
use tokio_util::sync::CancellationToken;

use crate::media::{Failure, FailureClass, SAMPLE_RATE};

/// `fLaC`, then the header of the only metadata block: the last one (0x80), of type 0, 34 bytes long (RFC 9639, sections 6
/// and 8).
const HEAD: [u8; 8] = [b'f', b'L', b'a', b'C', 0x80, 0, 0, STREAMINFO as u8];
/// Length of the block that states rate, channels, number of samples and their MD5.
const STREAMINFO: usize = 34;
/// libavcodec's effort, 0 to 12; its usual. More makes speech less than 1 % smaller.
const EFFORT: usize = 5;
/// Samples of a frame where the encoder takes any number.
const FRAME: usize = 4096;

/// Writes the 16-bit mono samples of `pcm` as FLAC to `flac`. Blocks; takes about a thousandth of the audio's length.
///
/// # Errors
/// [`FailureClass::Setup`] where this ffmpeg has no FLAC encoder, [`FailureClass::Internal`] where a file cannot be read
/// or written, or `cancel` was called.
pub fn pack(pcm: &Path, flac: &Path, cancel: &CancellationToken) -> Result<(), Failure> {
    let no_encoder = |e: ffmpeg::Error| {
        Failure::new(FailureClass::Setup, format!("audio cannot be packed for the hand-over: {e}"))
            .with_remedy("install an ffmpeg with its FLAC encoder on the fetch nodes")
    };
    let unwritten =
        |e: io::Error| Failure::new(FailureClass::Internal, format!("audio cannot be packed: {e}"));
    let mut samples = BufReader::with_capacity(256 << 10, File::open(pcm).map_err(unwritten)?);
    let mut encoder = open().map_err(no_encoder)?;
    let frame_size = match encoder.frame_size() as usize {
        0 => FRAME,
        size => size,
    };
    let mut out = Out::create(flac, &encoder).map_err(unwritten)?;
    let mut bytes = vec![0; 2 * frame_size];
    let mut at = 0;
    loop {
        if cancel.is_cancelled() {
            return Err(Failure::new(FailureClass::Internal, "stopped while packing audio"));
        }
        let read = fill(&mut samples, &mut bytes).map_err(unwritten)?;
        if read < 2 {
            break;
        }
        let mut frame = frame::Audio::new(
            format::Sample::I16(format::sample::Type::Packed),
            read / 2,
            ChannelLayout::MONO,
        );
        frame.set_rate(SAMPLE_RATE);
        frame.set_pts(Some(at));
        // The samples of the file and those of the frame are both little-endian: the program runs on nothing else.
        frame.data_mut(0)[..read & !1].copy_from_slice(&bytes[..read & !1]);
        at += (read / 2) as i64;
        encoder.send_frame(&frame).map_err(no_encoder)?;
        out.take(&mut encoder).map_err(unwritten)?;
    }
    encoder.send_eof().map_err(no_encoder)?;
    out.take(&mut encoder).map_err(unwritten)?;
    out.finish().map_err(unwritten)
}

/// An encoder for 16 kHz mono.
fn open() -> Result<codec::encoder::audio::Encoder, ffmpeg::Error> {
    let codec = codec::encoder::find(codec::Id::FLAC).ok_or(ffmpeg::Error::EncoderNotFound)?;
    let mut encoder = codec::Context::new_with_codec(codec).encoder().audio()?;
    encoder.set_rate(SAMPLE_RATE as i32);
    encoder.set_format(format::Sample::I16(format::sample::Type::Packed));
    encoder.set_channel_layout(ChannelLayout::MONO);
    encoder.set_time_base(Rational::new(1, SAMPLE_RATE as i32));
    encoder.set_compression(Some(EFFORT));
    // SAFETY: the context is alive and not opened yet; the function only fills the one field.
    unsafe { ffi::av_channel_layout_default(&raw mut (*encoder.as_mut_ptr()).ch_layout, 1) };
    encoder.open_as(codec)
}

/// Reads until `bytes` is full or the file ends.
fn fill(from: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match from.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// The file being written.
struct Out {
    file: BufWriter<File>,
    /// The block as it is known so far; the encoder tells the rest with its last packet.
    info: [u8; STREAMINFO],
}

impl Out {
    fn create(path: &Path, encoder: &codec::encoder::audio::Encoder) -> io::Result<Self> {
        let mut info = [0; STREAMINFO];
        // SAFETY: an opened encoder's extradata has the stated size and stays as it is; only read here.
        let known = unsafe {
            let context = &*encoder.as_ptr();
            let size = usize::try_from(context.extradata_size).unwrap_or(0);
            if context.extradata.is_null() {
                &[][..]
            } else {
                std::slice::from_raw_parts(context.extradata, size)
            }
        };
        if known.len() != STREAMINFO {
            return Err(io::Error::other("the FLAC encoder does not tell its parameters"));
        }
        info.copy_from_slice(known);
        let mut file = BufWriter::with_capacity(256 << 10, File::create(path)?);
        file.write_all(&HEAD)?;
        file.write_all(&info)?;
        Ok(Self { file, info })
    }

    /// Writes what the encoder has.
    fn take(&mut self, encoder: &mut codec::encoder::audio::Encoder) -> io::Result<()> {
        let mut packet = Packet::empty();
        // An error is "nothing more now" or "that was all": a lossless encoder has no other.
        while encoder.receive_packet(&mut packet).is_ok() {
            for side in packet.side_data() {
                if side.kind() == codec::packet::side_data::Type::NewExtraData
                    && side.data().len() == STREAMINFO
                {
                    self.info.copy_from_slice(side.data());
                }
            }
            if let Some(data) = packet.data() {
                self.file.write_all(data)?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(HEAD.len() as u64))?;
        self.file.write_all(&self.info)?;
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{DecodeOptions, decode};
    use crate::event::{Events, Step};
    use crate::media::MediaId;

    /// Packs and decodes `samples`; gives the packed size.
    fn there_and_back(samples: &[i16]) -> u64 {
        let dir = tempfile::tempdir().unwrap();
        let [pcm, flac, back] = ["a.pcm", "a: %d.flac", "b.pcm"].map(|name| dir.path().join(name));
        let bytes: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
        std::fs::write(&pcm, &bytes).unwrap();
        let cancel = CancellationToken::new();
        pack(&pcm, &flac, &cancel).unwrap();
        let (events, _told) = Events::channel();
        let mut progress = events.progress(MediaId::new("test", "1"), Step::Decode);
        let audio = decode(&flac, &back, &DecodeOptions::default(), None, &mut progress, &cancel).unwrap();
        assert_eq!((audio.samples, audio.offset_ms), (samples.len() as u64, 0));
        assert_eq!(std::fs::read(&back).unwrap(), bytes);
        assert_eq!(audio.hash, *blake3::hash(&bytes).as_bytes());
        std::fs::metadata(&flac).unwrap().len()
    }

    #[test]
    fn every_sample_comes_back() {
        // Loud noise (Knuth's MMIX generator) hardly packs, a tone does, silence all but vanishes.
        let mut state = 1_u64;
        let noise: Vec<i16> = (0..50_001)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 48) as i16
            })
            .collect();
        let packed = there_and_back(&noise);
        assert!(packed < 2 * 50_001 + 5_000, "{packed}");
        let tone: Vec<i16> =
            (0..160_000).map(|n| (f64::from(n) / 7.0).sin().mul_add(8_000.0, 0.0) as i16).collect();
        let packed = there_and_back(&tone);
        assert!(packed < 160_000, "{packed}");
        let packed = there_and_back(&vec![0; 1_600_000]);
        assert!(packed < 20_000, "{packed}");
        there_and_back(&[i16::MIN, i16::MAX, 1]);
    }

    #[test]
    fn a_stop_is_heeded_and_a_missing_file_told() {
        let dir = tempfile::tempdir().unwrap();
        let [pcm, flac] = ["a.pcm", "a.flac"].map(|name| dir.path().join(name));
        let cancel = CancellationToken::new();
        assert!(pack(&pcm, &flac, &cancel).is_err());
        std::fs::write(&pcm, [0; 64]).unwrap();
        cancel.cancel();
        let failure = pack(&pcm, &flac, &cancel).unwrap_err();
        assert!(failure.message.contains("stopped"), "{failure}");
    }
}

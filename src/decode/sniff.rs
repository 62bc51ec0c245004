//! Why a file could not be opened, in words that help.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use ffmpeg_next::{Error, ffi};

use crate::media::{Failure, FailureClass};

/// Bytes that are looked at to name a format.
const HEAD: usize = 4096;

/// Turns ffmpeg's refusal to open `file` into a failure.
pub(super) fn explain(mut file: File, error: Error) -> Failure {
    // Nothing here decides anything but words, so what cannot be read is taken for absent.
    let mut head = Vec::new();
    let _ = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| Read::by_ref(&mut file).take(HEAD as u64).read_to_end(&mut head));
    if matches!(head.get(4..12), Some(b"ftypaax " | b"ftypaaxc")) {
        return Failure::new(FailureClass::Drm, "an Audible file, encrypted");
    }
    if let Some(Boxes { moov, cut }) = boxes(&mut file).ok().flatten() {
        match (moov, cut) {
            (false, Some(kind)) => {
                return Failure::new(
                    FailureClass::Truncated,
                    format!(
                        "the mp4 file ends inside its {kind:?} box, before its index (moov atom not found)"
                    ),
                )
                .with_remedy("download or copy the file again");
            }
            (false, None) => {
                return Failure::new(
                    FailureClass::Truncated,
                    "the mp4 file has no index (moov atom not found): it was never finished, or its end is missing",
                )
                .with_remedy("record or download the file again");
            }
            (true, Some("moov")) => {
                return Failure::new(
                    FailureClass::Truncated,
                    "the mp4 file ends inside its index (moov atom)",
                )
                .with_remedy("download or copy the file again");
            }
            _ => {}
        }
    }
    // "Invalid argument" is how ffmpeg says that the demuxer is not on the list.
    let why = match error {
        Error::Other { errno } if errno == ffmpeg_next::error::EINVAL => String::new(),
        e => format!(" ({e})"),
    };
    match looks_like(&head) {
        Some(format) => Failure::new(
            FailureClass::NotMedia,
            format!("not media that is read here: the content looks like `{format}`{why}"),
        ),
        None => {
            Failure::new(FailureClass::NotMedia, format!("not media: the content is in no known format{why}"))
        }
    }
}

/// The length that a RIFF (wav, avi), Wave64 or ASF header states for the whole file; ffmpeg silently shortens such files
/// to what is there. `None` where the header states none, or means "unknown" because it was written into a pipe.
pub(super) fn stated_bytes(file: &mut File) -> io::Result<Option<u64>> {
    /// "riff" of Sony Wave64.
    const W64: [u8; 16] = *b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0";
    /// ASF header object, 75B22630-668E-11CF-A6D9-00AA0062CE6C.
    const ASF: [u8; 16] = *b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c";
    /// ASF file properties object, 8CABDCA1-A947-11CF-8EE4-00C00C205365.
    const PROPERTIES: [u8; 16] = *b"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11\x8e\xe4\0\xc0\x0c\x20\x53\x65";
    let mut head = Vec::new();
    file.rewind()?;
    Read::by_ref(file).take(HEAD as u64).read_to_end(&mut head)?;
    let u32_at =
        |at: usize| head.get(at..at + 4).map(|b| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    let u64_at = |at: usize| Some(u32_at(at)? | u32_at(at + 4)? << 32);
    if head.starts_with(b"RIFF") && matches!(head.get(8..12), Some(b"WAVE" | b"AVI ")) {
        // Written into a pipe: the largest number that the writer knew, less its header.
        let unknown = |n: u64| {
            n == 0 || [u64::from(u32::MAX), i32::MAX as u64].iter().any(|max| n.abs_diff(*max) <= 65_536)
        };
        Ok(u32_at(4).filter(|n| !unknown(*n)).map(|n| n + 8))
    } else if matches!(head.get(..4), Some(b"RF64" | b"BW64")) && head.get(12..16) == Some(b"ds64") {
        Ok(u64_at(20).filter(|n| (1..1 << 48).contains(n)).map(|n| n + 8))
    } else if head.starts_with(&W64) {
        Ok(u64_at(16).filter(|n| (1..1 << 48).contains(n)))
    } else if head.starts_with(&ASF) {
        let at = head.windows(16).position(|w| w == PROPERTIES);
        // Object: id 16, size 8, file id 16, file size 8, …, flags at 88, whose lowest bit says "broadcast".
        let broadcast = at.and_then(|at| u32_at(at + 88)).is_none_or(|flags| flags & 1 != 0);
        Ok(at.and_then(|at| u64_at(at + 40)).filter(|n| !broadcast && (1..1 << 48).contains(n)))
    } else {
        Ok(None)
    }
}

/// What a walk over an mp4 file's outermost boxes showed.
struct Boxes {
    moov: bool,
    /// The box that is longer than what is left of the file.
    cut: Option<&'static str>,
}

/// Walks the outermost boxes (ISO/IEC 14496-12, 4.2); `None` where the file does not begin like an mp4 file.
fn boxes(file: &mut File) -> io::Result<Option<Boxes>> {
    const KNOWN: [&str; 8] = ["ftyp", "moov", "mdat", "free", "skip", "wide", "moof", "sidx"];
    let len = file.metadata()?.len();
    if len < 8 {
        return Ok(None);
    }
    let mut at = 0u64;
    let mut found = Boxes { moov: false, cut: None };
    // A file of a thousand boxes and still no index is not worth a better explanation.
    for _ in 0..1000 {
        if at + 8 > len {
            break;
        }
        let mut header = [0u8; 16];
        file.seek(SeekFrom::Start(at))?;
        let wanted = (len - at).min(16) as usize;
        file.read_exact(&mut header[..wanted])?;
        let [a, b, c, d, kind @ .., _, _, _, _, _, _, _, _] = header;
        let kind = KNOWN.into_iter().find(|k| k.as_bytes() == kind);
        if at == 0 && kind.is_none() {
            return Ok(None);
        }
        let size = match u32::from_be_bytes([a, b, c, d]) {
            0 => len - at,
            1 => {
                let mut large = [0u8; 8];
                large.copy_from_slice(&header[8..]);
                u64::from_be_bytes(large)
            }
            n => u64::from(n),
        };
        found.moov |= kind == Some("moov");
        if size < 8 {
            break;
        }
        match at.checked_add(size) {
            Some(end) if end <= len => at = end,
            _ => {
                found.cut = Some(kind.unwrap_or("last"));
                break;
            }
        }
    }
    Ok(Some(found))
}

/// ffmpeg's name for what the first bytes look like. Only looks: no demuxer is started.
fn looks_like(head: &[u8]) -> Option<String> {
    let mut padded = head.to_vec();
    padded.resize(head.len() + ffi::AVPROBE_PADDING_SIZE as usize, 0);
    let data = ffi::AVProbeData {
        filename: c"".as_ptr(),
        buf: padded.as_mut_ptr(),
        buf_size: i32::try_from(head.len()).ok()?,
        mime_type: std::ptr::null(),
    };
    let mut score = 0;
    // SAFETY: the buffer is padded as the function demands and outlives the call; names are static C strings.
    unsafe {
        let format = ffi::av_probe_input_format3(&data, 1, &mut score);
        (!format.is_null()).then(|| CStr::from_ptr((*format).name).to_string_lossy().into_owned())
    }
}

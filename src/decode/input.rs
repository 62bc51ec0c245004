//! Opening a file so that nothing but this file is read, and describing what is in it.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    ptr,
    sync::LazyLock,
};

use ffmpeg_next::{
    self as ffmpeg, Dictionary, Error, codec, ffi, format,
    format::{context::StreamIo, stream::Disposition},
    media,
};
use tokio_util::sync::CancellationToken;

use super::AudioStream;
use crate::media::{Failure, FailureClass};

/// Demuxers that may read what strangers made, by the names of ffmpeg 5.1. Each holds its media in the one file;
/// what is not here includes everything that names other files (concat, hls, dash, sdp, image sequences, …).
const DEMUXERS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,ogg,mp3,wav,w64,flac,aac,mpegts,mpeg,flv,asf,avi,\
                        caf,aiff,amr,ac3,eac3,au";

/// Of these, the ones whose timestamps tell more than the number of samples before. Ogg's are such a number, and of the
/// wrong unit after a change of the sample rate.
const TIMESTAMPED: [&str; 6] = ["mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts", "mpeg", "flv", "asf"];

/// Video decoders that may be opened while a file is examined: without them the first timestamps of a video, and so the
/// start of the container's clock, stay unknown. The usual codecs only; the hundreds of rare ones are where the holes are.
const VIDEO_DECODERS: &str = "h264,hevc,vp8,vp9,libdav1d,av1,mpeg4,mpeg2video,mpeg1video,h263,flv,theora,vc1,wmv1,wmv2,wmv3,msmpeg4,mjpeg";

/// The decoders that may be opened: all of this ffmpeg's for audio, and [`VIDEO_DECODERS`].
static DECODERS: LazyLock<String> = LazyLock::new(|| {
    let mut names = vec![VIDEO_DECODERS.into()];
    let mut state = ptr::null_mut();
    // SAFETY: the iterator's state belongs to this loop, codecs are static, and their names are C strings.
    unsafe {
        loop {
            let codec = ffi::av_codec_iterate(&mut state);
            if codec.is_null() {
                break;
            }
            if ffi::av_codec_is_decoder(codec) != 0 && (*codec).type_ == ffi::AVMediaType::AVMEDIA_TYPE_AUDIO
            {
                names.push(CStr::from_ptr((*codec).name).to_string_lossy());
            }
        }
    }
    names.join(",")
});

/// The bytes that ffmpeg sees. It gets no path: names with colons, dashes or foreign bytes mean nothing to it, and
/// there is nothing that another file's address could be relative to.
struct Source {
    file: File,
    cancel: CancellationToken,
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::from_raw_os_error(ffmpeg::error::ECANCELED));
        }
        self.file.read(buf)
    }
}

impl Seek for Source {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.file.seek(pos)
    }
}

/// An opened container.
pub(super) struct Input {
    pub context: format::context::Input,
    /// Length of the file.
    pub bytes: u64,
    /// Length that the file's header states for the whole file, where it does.
    pub stated_bytes: Option<u64>,
}

impl Input {
    /// Opens `path` with the allowed demuxers only and reads as much as it takes to know the streams (at most
    /// 5 MB and 5 s of media).
    pub fn open(path: &Path, cancel: &CancellationToken) -> Result<Self, Failure> {
        super::quieten();
        let unreadable = |e: io::Error| {
            Failure::new(FailureClass::Unreadable, format!("the file cannot be read: {e}"))
                .with_remedy("check that the file is there and that this user may read it")
        };
        // Asked of the path first: opening a pipe would wait for its other end.
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(Failure::new(FailureClass::NotMedia, "not a regular file"));
        }
        if metadata.len() == 0 {
            return Err(Failure::new(FailureClass::Empty, "the file is empty"));
        }
        let mut file = File::open(path).map_err(unreadable)?;
        let mut head = file.try_clone().map_err(unreadable)?;
        let stated_bytes = super::sniff::stated_bytes(&mut head).map_err(unreadable)?;
        file.rewind().map_err(unreadable)?;
        let options = Dictionary::from_iter([
            ("format_whitelist", DEMUXERS),
            ("codec_whitelist", DECODERS.as_str()),
            // The bytes come from `Source`, so no protocol at all is needed.
            ("protocol_whitelist", ""),
            ("enable_drefs", "0"),
            ("use_absolute_path", "0"),
            ("probesize", "5000000"),
            ("analyzeduration", "5000000"),
        ]);
        let io = StreamIo::from_read_seek_with_capacity(Source { file, cancel: cancel.clone() }, 64 << 10)
            .map_err(|e| Failure::new(FailureClass::Internal, format!("ffmpeg: {e}")))?;
        match format::input_from_stream(io, None, Some(options)) {
            Ok(context) => Ok(Self { context, bytes: metadata.len(), stated_bytes }),
            Err(_) if cancel.is_cancelled() => Err(super::stopped()),
            Err(Error::Other { errno }) if errno == ffmpeg::error::EIO => {
                Err(unreadable(io::Error::from_raw_os_error(errno)))
            }
            Err(e) => Err(super::sniff::explain(head, e)),
        }
    }

    /// The demuxer's name, as ffmpeg calls it (`mov,mp4,m4a,3gp,3g2,mj2`).
    pub fn demuxer(&self) -> &str {
        // SAFETY: an opened context has a demuxer, whose name is a static C string.
        unsafe { CStr::from_ptr((*(*self.context.as_ptr()).iformat).name).to_str().unwrap_or_default() }
    }

    /// Whether timestamps may move audio.
    pub fn has_timestamps(&self) -> bool {
        TIMESTAMPED.contains(&self.demuxer())
    }

    /// Start of the container's clock in nanoseconds: what a player shows as 0. A negative start is an encoder's
    /// run-in that nobody hears, and not the player's 0.
    pub fn start_ns(&self) -> Option<i64> {
        // SAFETY: the context is open.
        let start = unsafe { (*self.context.as_ptr()).start_time };
        (start != ffi::AV_NOPTS_VALUE).then(|| start.saturating_mul(1000).max(0))
    }

    /// Duration of the whole container in milliseconds, where it states (or its timestamps tell) one.
    pub fn duration_ms(&self) -> Option<i64> {
        let d = self.context.duration();
        (d != ffi::AV_NOPTS_VALUE && d > 0).then_some(d / 1000)
    }

    /// True where the container states its duration; false where it is the file's size divided by a bit rate, or the
    /// difference of two timestamps, which proves nothing about what should be there. ASF's own is wrong by the start
    /// offset in files that ffmpeg wrote; its stated size is checked instead.
    /// An avi file that was written into a pipe states numbers of no meaning, and Ogg states nothing: its duration is
    /// the last page's timestamp.
    pub fn duration_is_stated(&self) -> bool {
        // SAFETY: the context is open.
        let method = unsafe { (*self.context.as_ptr()).duration_estimation_method };
        method == ffi::AVDurationEstimationMethod::AVFMT_DURATION_FROM_STREAM
            && !matches!(self.demuxer(), "asf" | "ogg")
            && (self.demuxer() != "avi" || self.stated_bytes.is_some())
    }

    /// Duration of one stream in milliseconds, where the container states one.
    pub fn stream_duration_ms(&self, index: usize) -> Option<i64> {
        let stream = self.context.stream(index)?;
        let d = stream.duration();
        (d != ffi::AV_NOPTS_VALUE && d > 0).then(|| to_ns(d, stream.time_base()) / 1_000_000)
    }

    /// Every audio stream, in the file's order.
    pub fn audio(&self) -> Vec<AudioStream> {
        let protected = self.context.metadata().iter().any(|(key, _)| key == "ASF_Protection_Type");
        self.context
            .streams()
            .filter(|s| s.parameters().medium() == media::Type::Audio)
            .map(|s| {
                let parameters = s.parameters();
                // SAFETY: the parameters keep their owner alive while they are read.
                let (tag, rate, channels) = unsafe {
                    let p = &*parameters.as_ptr();
                    (p.codec_tag.to_le_bytes(), p.sample_rate, p.ch_layout.nb_channels)
                };
                let metadata = s.metadata();
                AudioStream {
                    index: s.index(),
                    codec: codec_name(&parameters),
                    channels: u32::try_from(channels).unwrap_or(0),
                    sample_rate: u32::try_from(rate).unwrap_or(0),
                    language: metadata.get("language").filter(|l| *l != "und").map(str::to_owned),
                    default: s.disposition().contains(Disposition::DEFAULT),
                    accessory: s.disposition().intersects(
                        Disposition::COMMENT
                            | Disposition::VISUAL_IMPAIRED
                            | Disposition::DESCRIPTIONS
                            | Disposition::KARAOKE
                            | Disposition::CLEAN_EFFECTS
                            | Disposition::LYRICS,
                    ),
                    decodable: codec::decoder::find(parameters.id()).is_some(),
                    // enca: MPEG common encryption; drms: FairPlay; aavd: Audible. Matroska names the key.
                    encrypted: protected
                        || matches!(&tag, b"enca" | b"drms" | b"aavd")
                        || metadata.get("enc_key_id").is_some(),
                }
            })
            .collect()
    }

    /// Whether there is a stream besides audio.
    pub fn has_other_streams(&self) -> bool {
        self.context.streams().any(|s| s.parameters().medium() != media::Type::Audio)
    }

    /// Tells the demuxer to skip every stream but `index`.
    pub fn keep_only(&mut self, index: usize) {
        // SAFETY: the context is open, `nb_streams` is the length of `streams`, and no reference into it is held.
        unsafe {
            let context = self.context.as_mut_ptr();
            for i in 0..(*context).nb_streams as usize {
                let stream = *(*context).streams.add(i);
                (*stream).discard = if i == index {
                    ffi::AVDiscard::AVDISCARD_DEFAULT
                } else {
                    ffi::AVDiscard::AVDISCARD_ALL
                };
            }
        }
    }
}

/// The name of a codec, `unknown` where ffmpeg has none.
fn codec_name(parameters: &codec::Parameters) -> String {
    // SAFETY: the parameters are alive, and the answer is a static string, never null.
    unsafe { CStr::from_ptr(ffi::avcodec_get_name((*parameters.as_ptr()).codec_id)) }
        .to_string_lossy()
        .into_owned()
}

/// A timestamp in nanoseconds; one that does not fit is the nearest that does.
pub(super) fn to_ns(ts: i64, base: ffmpeg::Rational) -> i64 {
    let den = i128::from(base.denominator().max(1));
    let ns = i128::from(ts) * i128::from(base.numerator()) * 1_000_000_000 / den;
    ns.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_allowed_demuxer_exists() {
        let mut names = Vec::new();
        let mut state = ptr::null_mut();
        loop {
            // SAFETY: the iterator's state belongs to this loop; demuxers and their names are static.
            let demuxer = unsafe { ffi::av_demuxer_iterate(&mut state) };
            if demuxer.is_null() {
                break;
            }
            // SAFETY: as above.
            let name = unsafe { CStr::from_ptr((*demuxer).name) }.to_str().unwrap();
            names.extend(name.split(','));
        }
        for name in DEMUXERS.split(',') {
            assert!(names.contains(&name), "{name}");
        }
        for forbidden in ["concat", "hls", "dash", "sdp", "image2", "lavfi", "imf", "rtsp", "tty"] {
            assert!(!DEMUXERS.split(',').any(|d| d == forbidden));
        }
    }

    #[test]
    fn rare_video_decoders_are_not_opened() {
        let names: Vec<_> = DECODERS.split(',').collect();
        assert!(names.contains(&"aac") && names.contains(&"opus") && names.contains(&"mp3float"));
        assert!(names.contains(&"h264"));
        assert!(!names.contains(&"cinepak") && !names.contains(&"tiff") && !names.contains(&"ass"));
    }

    #[test]
    fn timestamps_convert_without_overflow() {
        assert_eq!(to_ns(90_000, ffmpeg::Rational(1, 90_000)), 1_000_000_000);
        assert_eq!(to_ns(i64::MAX, ffmpeg::Rational(i32::MAX, 1)), i64::MAX);
        assert_eq!(to_ns(i64::MIN, ffmpeg::Rational(1, 1)), i64::MIN);
    }
}

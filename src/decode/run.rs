//! One pass over one stream: demux, decode, place, resample, write; and whether all of it was there.

use ffmpeg_next::{self as ffmpeg, Error, Packet, codec, ffi, frame};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    DecodeOptions,
    input::{Input, to_ns},
    resample::{Resampler, Shape},
    sink::Sink,
    timeline::{Action, Stamped, Timeline},
};
use crate::{
    event::Progress,
    media::{Failure, FailureClass, SAMPLE_RATE},
};

/// What may be missing of a container's own duration in any case: encoder padding and rounding of short files.
pub(super) const SLACK_MS: i64 = 500;

/// Errors of the demuxer after which a file is given up; each of them skips at least a packet.
pub(super) const MAX_READ_ERRORS: u64 = 10_000;

/// Silence that gaps may add beyond the stated duration.
const BEYOND_STATED_NS: i64 = 1_000_000_000;

/// One pass over one stream.
pub(super) struct Run<'a> {
    pub options: &'a DecodeOptions,
    pub expected_ms: Option<i64>,
    pub progress: &'a mut Progress,
    pub cancel: &'a CancellationToken,
    pub input: Input,
    pub sink: &'a mut Sink,
}

/// What came out of a pass.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Samples written.
    pub samples: u64,
    /// Timestamp of the first of them.
    pub start_ns: Option<i64>,
    /// Packets of the stream.
    pub packets: u64,
    /// Packets and frames that did not decode.
    pub errors: u64,
    /// What ended the reading, where it was not the end of the file.
    pub stopped_by: Option<Error>,
    /// What the container states for the stream.
    pub stated_ms: Option<i64>,
}

impl Outcome {
    /// Why there is no audio.
    pub fn without_audio(&self, container_ms: Option<i64>) -> Failure {
        let stated = self.stated_ms.or(container_ms).filter(|ms| *ms > SLACK_MS);
        if self.errors > 0 {
            Failure::new(
                FailureClass::Truncated,
                format!("none of the {} audio packets could be decoded", self.packets),
            )
            .with_remedy("download or copy the file again")
        } else if let Some(ms) = stated.filter(|_| self.packets == 0) {
            Failure::new(
                FailureClass::Truncated,
                format!("the file states {} of audio and holds none", super::clock(ms)),
            )
            .with_remedy("download or copy the file again")
        } else {
            Failure::new(FailureClass::NoAudio, "the audio track is empty")
        }
    }
}

impl Run<'_> {
    /// Decodes stream `index` into the sink.
    pub fn decode(&mut self, index: usize) -> Result<Outcome, Failure> {
        let broken =
            |e: Error| Failure::new(FailureClass::NotMedia, format!("the audio cannot be decoded: {e}"));
        self.input.keep_only(index);
        let stream = self.input.context.stream(index).ok_or_else(|| broken(Error::StreamNotFound))?;
        let base = stream.time_base();
        let mut context = codec::Context::from_parameters(stream.parameters()).map_err(broken)?.decoder();
        context.set_packet_time_base(base);
        let mut decoder = context.audio().map_err(broken)?;

        let stated = self.input.duration_is_stated();
        let stated_ms = self.input.stream_duration_ms(index).filter(|_| stated);
        let container_ms = self.input.duration_ms().filter(|_| stated);
        let total =
            stated_ms.or(self.input.duration_ms()).or(self.expected_ms).and_then(|ms| u64::try_from(ms).ok());
        let end_ns = self.end_ns(container_ms);
        let mut feed = Feed {
            options: self.options,
            sink: self.sink,
            timeline: Timeline::new(self.input.has_timestamps(), end_ns),
            resampler: None,
            base,
        };
        let mut outcome =
            Outcome { samples: 0, start_ns: None, packets: 0, errors: 0, stopped_by: None, stated_ms };
        let mut read_errors = 0;
        loop {
            if self.cancel.is_cancelled() {
                return Err(super::stopped());
            }
            let mut packet = Packet::empty();
            match packet.read(&mut self.input.context) {
                Ok(()) => {}
                Err(Error::Eof) => break,
                Err(_) if self.cancel.is_cancelled() => return Err(super::stopped()),
                Err(e) => {
                    read_errors += 1;
                    let skips = e == Error::InvalidData || super::is_again(e);
                    if !skips || read_errors > MAX_READ_ERRORS {
                        outcome.stopped_by = Some(e);
                        break;
                    }
                    continue;
                }
            }
            if packet.stream() != index {
                continue;
            }
            outcome.packets += 1;
            if is_encrypted(&packet) {
                return Err(Failure::new(FailureClass::Drm, "the audio is encrypted (DRM)"));
            }
            if let Err(e) = decoder.send_packet(&packet) {
                outcome.errors += 1;
                debug!(error = %e, packet = outcome.packets, "audio packet not decoded");
            }
            outcome.errors += feed.receive(&mut decoder)?;
            self.progress.set(feed.sink.samples() * 1000 / u64::from(SAMPLE_RATE), total);
        }
        // Nothing can be done about a decoder that refuses to be drained; its frames are out already.
        let _ = decoder.send_eof();
        outcome.errors += feed.receive(&mut decoder)?;
        outcome.start_ns = feed.finish()?;
        outcome.samples = self.sink.samples();
        Ok(outcome)
    }

    /// Where the stated duration ends, on the streams' clock.
    fn end_ns(&self, container_ms: Option<i64>) -> Option<i64> {
        let stated = container_ms.or(self.expected_ms)?;
        let ns = stated.max(self.expected_ms.unwrap_or(0)).saturating_mul(1_000_000);
        Some(self.input.start_ns().unwrap_or(0).saturating_add(ns).saturating_add(BEYOND_STATED_NS))
    }

    /// What to add to a time in the decoded file to get the player's time.
    pub fn offset_ms(&self, outcome: &Outcome) -> i64 {
        let (Some(audio), Some(container)) = (outcome.start_ns, self.input.start_ns()) else { return 0 };
        let offset = audio.saturating_sub(container) / 1_000_000;
        // A start outside of the file is a wrong timestamp, not an offset.
        let limit = self.input.duration_ms().unwrap_or(0).max(self.expected_ms.unwrap_or(0));
        if (0..=limit).contains(&offset) { offset } else { 0 }
    }
}

/// From decoded frames to the sink.
struct Feed<'a> {
    options: &'a DecodeOptions,
    sink: &'a mut Sink,
    timeline: Timeline<frame::Audio>,
    resampler: Option<Resampler>,
    base: ffmpeg::Rational,
}

impl Feed<'_> {
    /// Takes every frame that the decoder has; returns the number of errors on the way.
    fn receive(&mut self, decoder: &mut codec::decoder::Audio) -> Result<u64, Failure> {
        let mut errors = 0;
        loop {
            let mut frame = frame::Audio::empty();
            match decoder.receive_frame(&mut frame) {
                Ok(()) => self.push(frame)?,
                Err(Error::Eof) => return Ok(errors),
                Err(e) if super::is_again(e) => return Ok(errors),
                Err(e) => {
                    debug!(error = %e, "audio frame not decoded");
                    errors += 1;
                    // A decoder may not say "again" after an error; the next packet brings it back.
                    return Ok(errors);
                }
            }
        }
    }

    fn push(&mut self, frame: frame::Audio) -> Result<(), Failure> {
        let shape = Shape::of(&frame);
        let too_large = |what: String| Failure::new(FailureClass::TooLarge, what);
        if u32::try_from(shape.rate).is_ok_and(|r| r > self.options.max_sample_rate) {
            return Err(too_large(format!(
                "{} samples a second, the limit is {}",
                shape.rate, self.options.max_sample_rate
            )));
        }
        if u32::try_from(shape.channels).is_ok_and(|c| c > self.options.max_channels) {
            return Err(too_large(format!(
                "{} channels, the limit is {}",
                shape.channels, self.options.max_channels
            )));
        }
        if shape.rate <= 0 || shape.channels <= 0 || frame.samples() == 0 {
            return Ok(());
        }
        // SAFETY: the frame is alive.
        let pts = unsafe { (*frame.as_ptr()).best_effort_timestamp };
        let stamped = Stamped {
            pts_ns: (pts != ffi::AV_NOPTS_VALUE).then(|| to_ns(pts, self.base)),
            duration_ns: (frame.samples() as i64).saturating_mul(1_000_000_000) / i64::from(shape.rate),
            frame,
        };
        let Self { options, sink, timeline, resampler, .. } = self;
        timeline.push(stamped, &mut |action| act(action, options, sink, resampler))
    }

    /// Writes what is held back and what is in the filter; returns the first frame's timestamp.
    fn finish(self) -> Result<Option<i64>, Failure> {
        let Self { options, sink, mut timeline, mut resampler, .. } = self;
        timeline.finish(&mut |action| act(action, options, sink, &mut resampler))?;
        drain(sink, &mut resampler)?;
        Ok(timeline.start_ns())
    }
}

fn act(
    action: Action<frame::Audio>,
    options: &DecodeOptions,
    sink: &mut Sink,
    resampler: &mut Option<Resampler>,
) -> Result<(), Failure> {
    let samples = |ns: i64| (i128::from(ns) * i128::from(SAMPLE_RATE) / 1_000_000_000) as u64;
    match action {
        Action::Silence(ns) => {
            drain(sink, resampler)?;
            let n = samples(ns);
            bounded(options, sink.samples().saturating_add(n))?;
            sink.silence(n).map_err(|e| super::cannot_write(&e))
        }
        Action::Cut(ns) => {
            drain(sink, resampler)?;
            sink.cut(samples(ns));
            Ok(())
        }
        Action::Frame(frame) => {
            let failed = |e: Error| {
                Failure::new(FailureClass::NotMedia, format!("the audio cannot be resampled: {e}"))
            };
            if resampler.as_ref().is_some_and(|r| !r.fits(Shape::of(&frame))) {
                drain(sink, resampler)?;
            }
            let resampler = match resampler {
                Some(r) => r,
                None => resampler.insert(Resampler::new(&frame).map_err(failed)?),
            };
            let out = resampler.convert(&frame).map_err(failed)?;
            sink.write(out).map_err(|e| super::cannot_write(&e))?;
            bounded(options, sink.samples())
        }
    }
}

/// Empties the filter, so that what comes next does not bleed into what was before.
fn drain(sink: &mut Sink, resampler: &mut Option<Resampler>) -> Result<(), Failure> {
    if let Some(mut resampler) = resampler.take() {
        let rest = resampler.drain().map_err(|e| {
            Failure::new(FailureClass::Internal, format!("the audio cannot be resampled: {e}"))
        })?;
        sink.write(rest).map_err(|e| super::cannot_write(&e))?;
    }
    Ok(())
}

fn bounded(options: &DecodeOptions, samples: u64) -> Result<(), Failure> {
    let ms = (samples / u64::from(SAMPLE_RATE)) as i64 * 1000;
    if ms > options.max_duration_ms {
        return Err(super::too_long(ms, options));
    }
    if samples.saturating_mul(2) > options.max_output_bytes {
        return Err(Failure::new(
            FailureClass::TooLarge,
            format!("more than {} bytes of decoded audio", options.max_output_bytes),
        ));
    }
    Ok(())
}

/// Whether the demuxer marked the packet as one that it had no key for.
fn is_encrypted(packet: &Packet) -> bool {
    use ffmpeg::packet::Ref;
    // SAFETY: the packet is alive; only whether there is such data is asked.
    unsafe {
        !ffi::av_packet_get_side_data(
            packet.as_ptr(),
            ffi::AVPacketSideDataType::AV_PKT_DATA_ENCRYPTION_INFO,
            std::ptr::null_mut(),
        )
        .is_null()
    }
}

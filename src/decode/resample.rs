//! From whatever the decoder gives to 16 kHz mono, with libswresample.

use std::{ffi::c_int, mem::MaybeUninit, ptr};

use ffmpeg_next::{Error, ffi, frame};

use crate::media::SAMPLE_RATE;

/// What a frame's samples look like; a resampler serves exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Samples per second.
    pub rate: c_int,
    /// Channels.
    pub channels: c_int,
    /// `AVSampleFormat`, as a number.
    pub format: c_int,
    /// Bit mask of the speakers, or 0 where they are not named.
    pub speakers: u64,
}

impl Shape {
    /// The shape of a decoded frame.
    pub fn of(frame: &frame::Audio) -> Self {
        // SAFETY: the frame is alive; the mask is only read where the layout's order says that it is one.
        unsafe {
            let f = &*frame.as_ptr();
            let native = f.ch_layout.order == ffi::AVChannelOrder::AV_CHANNEL_ORDER_NATIVE;
            Self {
                rate: f.sample_rate,
                channels: f.ch_layout.nb_channels,
                format: f.format,
                speakers: if native { f.ch_layout.u.mask } else { 0 },
            }
        }
    }
}

/// Converts frames of one [`Shape`] to 16 kHz mono 16-bit samples.
///
/// Channels whose speakers are known are mixed as libswresample mixes them (front channels and centre, surround
/// 3 dB lower, no subwoofer, scaled so that it cannot clip); unknown ones all count the same.
pub(super) struct Resampler {
    context: *mut ffi::SwrContext,
    shape: Shape,
    out: Vec<i16>,
}

// SAFETY: the context is owned by this value alone and libswresample keeps no thread-local state.
unsafe impl Send for Resampler {}

impl Resampler {
    /// A resampler for frames that look like `frame`.
    pub fn new(frame: &frame::Audio) -> Result<Self, Error> {
        let shape = Shape::of(frame);
        // SAFETY: both layouts are initialised before they are passed on; the context is checked for null and
        // owned by the value built from it at once, so that it is freed on every path.
        unsafe {
            let mut mono = MaybeUninit::<ffi::AVChannelLayout>::zeroed();
            ffi::av_channel_layout_default(mono.as_mut_ptr(), 1);
            let mut mono = mono.assume_init();
            let mut layout = MaybeUninit::<ffi::AVChannelLayout>::zeroed();
            if shape.speakers == 0
                || ffi::av_channel_layout_from_mask(layout.as_mut_ptr(), shape.speakers) < 0
            {
                ffi::av_channel_layout_default(layout.as_mut_ptr(), shape.channels);
            }
            let mut layout = layout.assume_init();
            let format = (*frame.as_ptr()).format;
            let mut context = ptr::null_mut();
            let rc = ffi::swr_alloc_set_opts2(
                &mut context,
                &raw mut mono,
                ffi::AVSampleFormat::AV_SAMPLE_FMT_S16,
                SAMPLE_RATE as c_int,
                &raw mut layout,
                // The decoder filled this field with one of the library's own values.
                std::mem::transmute::<c_int, ffi::AVSampleFormat>(format),
                shape.rate,
                0,
                ptr::null_mut(),
            );
            if rc < 0 || context.is_null() {
                return Err(Error::from(rc));
            }
            let resampler = Self { context, shape, out: Vec::new() };
            let known = layout.order == ffi::AVChannelOrder::AV_CHANNEL_ORDER_NATIVE;
            if !known {
                // No rule says which speaker is which (more than 8 channels, ambisonics): the mean of all.
                let weights = vec![1.0 / f64::from(shape.channels.max(1)); shape.channels.max(1) as usize];
                let rc = ffi::swr_set_matrix(context, weights.as_ptr(), shape.channels);
                if rc < 0 {
                    return Err(Error::from(rc));
                }
            }
            match ffi::swr_init(context) {
                rc if rc < 0 => Err(Error::from(rc)),
                _ => Ok(resampler),
            }
        }
    }

    /// Whether frames of `shape` may be given to it.
    pub fn fits(&self, shape: Shape) -> bool {
        self.shape == shape
    }

    /// Converts a frame; what comes out lags behind by the filter's length.
    pub fn convert(&mut self, frame: &frame::Audio) -> Result<&[i16], Error> {
        // SAFETY: `extended_data` holds a plane a channel (or one, interleaved) of `nb_samples` samples in the
        // shape that this context was made for; the caller checked it with `fits`.
        unsafe {
            let f = &*frame.as_ptr();
            self.run(f.extended_data as *mut *const u8, f.nb_samples)
        }
    }

    /// What is left in the filter. The resampler is of no use afterwards.
    pub fn drain(&mut self) -> Result<&[i16], Error> {
        // SAFETY: no input means "drain".
        unsafe { self.run(ptr::null_mut(), 0) }
    }

    /// # Safety
    /// `input` is null or points to planes of `samples` samples in the context's input shape.
    unsafe fn run(&mut self, input: *mut *const u8, samples: c_int) -> Result<&[i16], Error> {
        // SAFETY: the context is initialised; `out` has room for as many samples as are announced, and the one
        // plane that mono needs is passed.
        unsafe {
            let most = ffi::swr_get_out_samples(self.context, samples);
            if most < 0 {
                return Err(Error::from(most));
            }
            // Enough even where the estimate is a sample short.
            self.out.resize(most as usize + 64, 0);
            let mut plane = self.out.as_mut_ptr().cast::<u8>();
            let n =
                ffi::swr_convert(self.context, &mut plane, self.out.len() as c_int, input.cast(), samples);
            if n < 0 {
                return Err(Error::from(n));
            }
            Ok(&self.out[..n as usize])
        }
    }
}

impl Drop for Resampler {
    fn drop(&mut self) {
        // SAFETY: the context was allocated by `swr_alloc_set_opts2` and is freed once.
        unsafe { ffi::swr_free(&mut self.context) }
    }
}

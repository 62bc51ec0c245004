//! From spans to windows: as few as possible, cut where nobody speaks.
//!
//! Every window costs the recogniser a full 30 s pass of its encoder, however little speech it holds, so spans are
//! packed until the next would not fit; but words cut in two cost more than a pass. Where not everything fits, the
//! window ends at the longest pause of its last third, else of its last two thirds, else anywhere; pauses beyond
//! [`LONG_PAUSE`] count as equally long, and the later one wins. Speech without any pause is cut at the least
//! speech-like moment of its last seconds.

use std::collections::VecDeque;

use super::{FRAME, MAX_WINDOW, Span, SpeechOptions, samples_of};
use crate::media::SAMPLE_RATE;

/// Longer pauses are no better a place to cut.
const LONG_PAUSE: u64 = SAMPLE_RATE as u64 * 3 / 10;

/// Speech without a pause is cut within this much of the window's end.
const FORCED_CUT_RANGE: u64 = 6 * SAMPLE_RATE as u64;

/// Frames averaged on each side when the least speech-like moment is sought (±48 ms: a short stop between words).
const FORCED_CUT_SMOOTH: usize = 3;

/// The packer's settings in samples.
#[derive(Clone, Debug)]
pub(super) struct Params {
    pub chunk: u64,
    pub pad: u64,
    pub min_silence: u64,
}

impl Params {
    pub fn new(options: &SpeechOptions) -> Self {
        let chunk = samples_of(options.chunk).clamp(u64::from(SAMPLE_RATE), MAX_WINDOW as u64);
        Self {
            chunk,
            pad: samples_of(options.pad).min(chunk / 8),
            min_silence: samples_of(options.min_silence),
        }
    }
}

/// Holds the samples from the next window's start on, and decides where it ends.
#[derive(Debug)]
pub(super) struct Packer {
    params: Params,
    samples: VecDeque<i16>,
    /// Position of `samples[0]`; a multiple of [`FRAME`].
    base: u64,
    /// One entry per frame from `base` on: how speech-like it is.
    voiced: VecDeque<f32>,
    /// Finished spans that are in no window yet.
    spans: VecDeque<Span>,
    /// Start of speech that still goes on.
    open: Option<u64>,
    /// End of the last window: the next may not begin before it.
    floor: u64,
    /// What is there goes out now, because nothing follows for long.
    due: bool,
    ended: bool,
}

/// A window on the packer's own timeline.
#[derive(Debug)]
pub(super) struct Cut {
    /// Where it lies; as long as `samples`.
    pub span: Span,
    pub samples: Vec<i16>,
    /// Speech in it, never empty.
    pub speech: Vec<Span>,
}

impl Packer {
    pub fn new(params: Params) -> Self {
        Self {
            params,
            samples: VecDeque::new(),
            base: 0,
            voiced: VecDeque::new(),
            spans: VecDeque::new(),
            open: None,
            floor: 0,
            due: false,
            ended: false,
        }
    }

    pub fn position(&self) -> u64 {
        self.base + self.samples.len() as u64
    }

    /// Samples in memory.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.samples.len()
    }

    pub fn push_samples(&mut self, block: &[i16]) {
        self.samples.extend(block);
    }

    pub fn push_frame(&mut self, voiced: f32) {
        self.voiced.push_back(voiced);
    }

    pub fn push_span(&mut self, span: Span) {
        // Speech that was cut by force has its beginning in the window before.
        let span = Span { start: span.start.max(self.floor), end: span.end.max(self.floor) };
        if !span.is_empty() {
            self.spans.push_back(span);
        }
    }

    /// Tells whether speech goes on at the end of what was pushed, and since when.
    pub fn note_open(&mut self, since: Option<u64>) {
        self.open = since.map(|s| s.max(self.floor));
    }

    /// Lets out what is there without waiting for more.
    pub fn flush(&mut self) {
        self.due = true;
    }

    /// Says that nothing follows at all.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Where the oldest sample in memory lies.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The next window, if its end can be decided with what was pushed so far.
    pub fn next_window(&mut self) -> Option<Cut> {
        let Some(first) = self.spans.front().map(|s| s.start).or(self.open) else {
            self.due = false;
            self.forget_before(self.position().saturating_sub(self.params.pad + 4 * FRAME as u64));
            return None;
        };
        let start = first.saturating_sub(self.params.pad).max(self.floor);
        self.forget_before(start);
        let limit = start + self.params.chunk;

        // Spans that lie in the window as a whole. Speech that ends with the window sounds cut off, and its last
        // sentence is easily lost, so there must be room for its padding.
        let mut fitting = self.spans.iter().take_while(|span| span.end + self.params.pad <= limit).count();
        if fitting == 0 && self.spans.front().is_some_and(|span| span.end <= limit) {
            fitting = 1;
        }
        let following = self.spans.get(fitting).map(|s| s.start).or(self.open);
        let decided = self.ended
            || self.due
            // One more silence than the window: whatever began inside it has begun, whatever ended has ended.
            || self.position() >= limit + self.params.min_silence + FRAME as u64;
        if !decided {
            return None;
        }

        if fitting == 0 {
            let cut = self.quietest(limit);
            if let Some(front) = self.spans.front_mut() {
                front.start = cut;
                if front.is_empty() {
                    self.spans.pop_front();
                }
            } else if let Some(open) = self.open.as_mut() {
                *open = cut;
            }
            return Some(self.emit(start, cut, vec![Span { start: first, end: cut }]));
        }
        // Where the next speech does not fit but begins inside, choose the pause to end at.
        let crosses = following.is_some_and(|next| next < limit);
        let take = if crosses { self.best_pause(start, fitting, following) } else { fitting };
        let speech: Vec<Span> = self.spans.drain(..take).collect();
        let last = speech.last().map_or(first, |s| s.end);
        let next = self.spans.front().map(|s| s.start).or(self.open);
        let end = (last + self.params.pad)
            .min(next.map_or(u64::MAX, |next| last + (next - last) / 2))
            .min(limit)
            .min(self.position());
        Some(self.emit(start, end, speech))
    }

    /// How many spans to take so that the window ends at its best pause.
    fn best_pause(&self, start: u64, fitting: usize, following: Option<u64>) -> usize {
        let chunk = self.params.chunk;
        for from in [start + chunk * 2 / 3, start + chunk / 3, 0] {
            let best = (0..fitting).filter(|&i| self.spans[i].end >= from).max_by_key(|&i| {
                let next = self.spans.get(i + 1).map(|s| s.start).or(following);
                let pause = next.map_or(u64::MAX, |next| next - self.spans[i].end);
                (pause.min(LONG_PAUSE), i)
            });
            if let Some(best) = best {
                return best + 1;
            }
        }
        fitting
    }

    /// The least speech-like moment of the last seconds before `limit`; the middle of that frame.
    fn quietest(&self, limit: u64) -> u64 {
        let frame = FRAME as u64;
        let limit = limit.min(self.position());
        let range = FORCED_CUT_RANGE.min(self.params.chunk / 3);
        let last = ((limit - self.base) / frame) as usize;
        let first = ((limit.saturating_sub(range).saturating_sub(self.base)) / frame) as usize;
        let score = |i: usize| {
            let from = i.saturating_sub(FORCED_CUT_SMOOTH);
            let to = (i + FORCED_CUT_SMOOTH + 1).min(self.voiced.len());
            self.voiced.range(from..to).sum::<f32>() / (to - from).max(1) as f32
        };
        let best = (first..last.min(self.voiced.len()))
            .map(|i| (i, score(i)))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map_or(limit, |(i, _)| self.base + i as u64 * frame + frame / 2);
        best.min(limit)
    }

    fn emit(&mut self, start: u64, end: u64, speech: Vec<Span>) -> Cut {
        let from = (start - self.base) as usize;
        let to = ((end - self.base) as usize).min(self.samples.len());
        let samples: Vec<i16> = self.samples.range(from..to).copied().collect();
        self.floor = end;
        self.forget_before(end);
        let speech =
            speech.into_iter().map(|s| Span { start: s.start.max(start), end: s.end.min(end) }).collect();
        Cut { span: Span { start, end: start + samples.len() as u64 }, samples, speech }
    }

    /// Drops what lies before `position`, in whole frames.
    fn forget_before(&mut self, position: u64) {
        let frames = (position.saturating_sub(self.base) / FRAME as u64) as usize;
        let frames = frames.min(self.voiced.len()).min(self.samples.len() / FRAME);
        self.voiced.drain(..frames);
        self.samples.drain(..frames * FRAME);
        self.base += (frames * FRAME) as u64;
    }
}

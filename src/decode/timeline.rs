//! Where each decoded frame belongs on the clock: what is a gap, what an overlap, what a wrong timestamp.
//!
//! Containers with real timestamps may jump: a packet was lost, a recorder paused, two recordings were glued
//! together. Samples alone would then drift away from what a player shows. [`Timeline`] compares each frame's
//! timestamp with the end of what was written so far:
//!
//! * up to [`TOLERANCE_NS`] off: jitter and rounding, ignored (the comparison is with the absolute position, so
//!   a slow drift is noticed once it adds up);
//! * later: a gap, filled with silence, as far as the stated duration has room for it;
//! * earlier by up to [`OVERLAP_NS`]: the recorder's clock ran slower than its samples, or packets repeat; the
//!   overlap is cut off;
//! * earlier by more: the clock was reset (glued recordings); the audio goes on without a break.
//!
//! Corrections that are small and many come from a drift, and a drift of more than 1 % is no drift but a wrong clock (a glued
//! recording of another sample rate counts with the first one's): it is not followed, or the audio would be chopped up.
//!
//! One wrong timestamp must not move all that follows, so a jump is believed only when the next frame agrees
//! with it: the frame that jumps is held back until then.

use std::mem;

/// Deviation that is taken for jitter: 100 ms, the figure ffmpeg's own `aresample=async` uses (`min_hard_comp`).
pub(super) const TOLERANCE_NS: i64 = 100_000_000;

/// Backward deviation that is cut off rather than taken for a new clock.
pub(super) const OVERLAP_NS: i64 = 500_000_000;

/// Drift that is followed: this share of the audio …
const DRIFT: f64 = 0.01;

/// … beyond this much.
const DRIFT_NS: i64 = 500_000_000;

/// Silence that may be inserted in all where no duration is stated: 10 minutes.
const UNSTATED_ROOM_NS: i64 = 600_000_000_000;

/// What to do next, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action<F> {
    /// Insert this much silence, in nanoseconds.
    Silence(i64),
    /// Drop this much of what is written next, in nanoseconds.
    Cut(i64),
    /// Write the frame.
    Frame(F),
}

/// A decoded frame and its place.
#[derive(Debug)]
pub(super) struct Stamped<F> {
    /// Timestamp on the stream's clock, where the container gives one.
    pub pts_ns: Option<i64>,
    /// Length.
    pub duration_ns: i64,
    /// The frame.
    pub frame: F,
}

/// Follows one stream's clock.
#[derive(Debug)]
pub(super) struct Timeline<F> {
    /// False where timestamps are counted from the bytes anyway (wav, mp3, …): then nothing is corrected.
    trust: bool,
    /// Where the next sample belongs, on the stream's clock.
    next_ns: i64,
    /// Timestamp of the first frame that was written.
    start_ns: Option<i64>,
    /// The stream may not be made to end after this, on the stream's clock.
    end_ns: Option<i64>,
    /// How much silence may still be inserted where `end_ns` is unknown.
    room_ns: i64,
    /// Where the last frame ended by its own timestamp.
    last_end_ns: Option<i64>,
    /// Length of the frames written.
    written_ns: i64,
    /// What was corrected for drift.
    corrected_ns: i64,
    /// A frame whose jump is not believed yet.
    held: Option<Held<F>>,
}

/// A frame that waits for the next one to confirm its jump.
#[derive(Debug)]
struct Held<F> {
    frame: Stamped<F>,
    /// Whether the jump happened at this frame, rather than adding up over many.
    sudden: bool,
}

impl<F> Timeline<F> {
    /// A timeline of a stream whose stated end is `end_ns` (on the stream's clock), if it is stated.
    pub fn new(trust: bool, end_ns: Option<i64>) -> Self {
        Self {
            trust,
            next_ns: 0,
            start_ns: None,
            end_ns,
            room_ns: UNSTATED_ROOM_NS,
            last_end_ns: None,
            written_ns: 0,
            corrected_ns: 0,
            held: None,
        }
    }

    /// Timestamp of the first frame; `None` before there was one, and where it had none.
    pub fn start_ns(&self) -> Option<i64> {
        self.start_ns
    }

    /// Takes the next frame; `act` is called with what is to be done.
    pub fn push<E>(
        &mut self,
        frame: Stamped<F>,
        act: &mut impl FnMut(Action<F>) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(held) = self.held.take() {
            self.release(held, frame.pts_ns, act)?;
        }
        let Some(pts) = frame.pts_ns else {
            self.last_end_ns = None;
            return self.write(frame, act);
        };
        let end = pts.saturating_add(frame.duration_ns);
        let step = pts.saturating_sub(self.last_end_ns.replace(end).unwrap_or(pts));
        if self.start_ns.is_none() {
            self.start_ns = Some(pts);
            self.next_ns = pts;
        }
        if !self.trust || pts.saturating_sub(self.next_ns).saturating_abs() <= TOLERANCE_NS {
            return self.write(frame, act);
        }
        self.held = Some(Held { frame, sudden: step.saturating_abs() > TOLERANCE_NS / 2 });
        Ok(())
    }

    /// Ends the stream. A last frame after a gap is placed where it says, if it can be.
    pub fn finish<E>(&mut self, act: &mut impl FnMut(Action<F>) -> Result<(), E>) -> Result<(), E> {
        match mem::take(&mut self.held) {
            Some(held) => self.release(held, None, act),
            None => Ok(()),
        }
    }

    /// Writes the frame that was held back, its jump believed or not.
    fn release<E>(
        &mut self,
        Held { frame: held, sudden }: Held<F>,
        following: Option<i64>,
        act: &mut impl FnMut(Action<F>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(pts) = held.pts_ns else { return self.write(held, act) };
        let jump = pts.saturating_sub(self.next_ns);
        let end = pts.saturating_add(held.duration_ns);
        if jump > 0 {
            // Time only has to go on from here: in sparse streams every frame follows a gap.
            let believed = following.is_none_or(|f| f >= end.saturating_sub(TOLERANCE_NS));
            if believed {
                if self.has_room(jump, end) && (sudden || self.follows_drift(jump)) {
                    self.room_ns = self.room_ns.saturating_sub(jump);
                    act(Action::Silence(jump))?;
                }
                self.next_ns = pts;
            }
        } else {
            let believed = following.is_some_and(|f| f.saturating_sub(end).saturating_abs() <= TOLERANCE_NS);
            if believed {
                if jump >= -OVERLAP_NS && self.follows_drift(-jump) {
                    act(Action::Cut(-jump))?;
                }
                self.next_ns = pts;
            }
        }
        self.write(held, act)
    }

    /// Whether `jump` of silence before a frame that ends at `end` stays within what the container states.
    fn has_room(&self, jump: i64, end: i64) -> bool {
        match self.end_ns {
            Some(limit) => end <= limit,
            None => jump <= self.room_ns,
        }
    }

    /// Whether another correction by `ns` is still a drift; counts it if so.
    fn follows_drift(&mut self, ns: i64) -> bool {
        let most = DRIFT_NS.saturating_add((self.written_ns as f64 * DRIFT) as i64);
        let sum = self.corrected_ns.saturating_add(ns);
        if sum <= most {
            self.corrected_ns = sum;
        }
        sum <= most
    }

    fn write<E>(
        &mut self,
        frame: Stamped<F>,
        act: &mut impl FnMut(Action<F>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.next_ns = self.next_ns.saturating_add(frame.duration_ns);
        self.written_ns = self.written_ns.saturating_add(frame.duration_ns);
        act(Action::Frame(frame.frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    /// Runs frames of 20 ms with the given timestamps (ms); returns what was done, with frames by index.
    fn run(end_ms: Option<i64>, trust: bool, pts_ms: &[Option<i64>]) -> Vec<Action<usize>> {
        run_ns(end_ms, trust, pts_ms.iter().map(|pts| pts.map(|p| p * MS)))
    }

    fn run_ns(
        end_ms: Option<i64>,
        trust: bool,
        pts_ns: impl Iterator<Item = Option<i64>>,
    ) -> Vec<Action<usize>> {
        let mut timeline = Timeline::new(trust, end_ms.map(|e| e * MS));
        let mut done = Vec::new();
        let mut act = |a: Action<usize>| -> Result<(), ()> {
            done.push(a);
            Ok(())
        };
        for (i, pts_ns) in pts_ns.enumerate() {
            timeline.push(Stamped { pts_ns, duration_ns: 20 * MS, frame: i }, &mut act).unwrap();
        }
        timeline.finish(&mut act).unwrap();
        done
    }

    /// Silence inserted and audio cut, in milliseconds.
    fn corrections(done: &[Action<usize>]) -> (i64, i64) {
        done.iter().fold((0, 0), |(silence, cut), a| match a {
            Action::Silence(ns) => (silence + ns / MS, cut),
            Action::Cut(ns) => (silence, cut + ns / MS),
            Action::Frame(_) => (silence, cut),
        })
    }

    fn frames(n: usize) -> Vec<Action<usize>> {
        (0..n).map(Action::Frame).collect()
    }

    #[test]
    fn contiguous_and_jittering_frames_pass_unchanged() {
        assert_eq!(run(None, true, &[Some(0), Some(20), Some(40)]), frames(3));
        assert_eq!(run(None, true, &[Some(7), Some(90), Some(3), Some(66)]), frames(4));
        assert_eq!(run(None, true, &[None, None, Some(40)]), frames(3));
    }

    #[test]
    fn a_gap_is_filled() {
        let done = run(Some(2000), true, &[Some(0), Some(1020), Some(1040)]);
        assert_eq!(done, [Action::Frame(0), Action::Silence(1000 * MS), Action::Frame(1), Action::Frame(2)]);
    }

    #[test]
    fn every_gap_of_a_sparse_stream_is_filled() {
        let done = run(None, true, &[Some(0), Some(500), Some(1000), Some(1500)]);
        assert_eq!(corrections(&done), (1500 - 3 * 20, 0));
        assert_eq!(done.iter().filter(|a| matches!(a, Action::Frame(_))).count(), 4);
    }

    #[test]
    fn one_wrong_timestamp_moves_nothing() {
        assert_eq!(run(None, true, &[Some(0), Some(5020), Some(40), Some(60)]), frames(4));
        assert_eq!(run(None, true, &[Some(1000), Some(20), Some(1040), Some(1060)]), frames(4));
    }

    #[test]
    fn slow_drift_is_followed_once_it_adds_up() {
        // 60,000 frames of 20 ms, 0.5 % too few or too many for their timestamps: 6 s in 20 minutes.
        for (step_us, late, early) in [(20_100, true, false), (19_900, false, true)] {
            let done = run_ns(None, true, (0..60_000).map(|i| Some(i * step_us * 1000)));
            let (silence, cut) = corrections(&done);
            assert_eq!((5800..=6000).contains(&silence), late, "{silence}");
            assert_eq!((5800..=6000).contains(&cut), early, "{cut}");
        }
    }

    #[test]
    fn a_clock_of_another_rate_is_not_followed() {
        for step_us in [9_187, 43_537] {
            let done = run_ns(None, true, (0..6000).map(|i| Some(i * step_us * 1000)));
            let (silence, cut) = corrections(&done);
            assert!(silence + cut < 2000, "{silence} {cut}");
            assert_eq!(done.iter().filter(|a| matches!(a, Action::Frame(_))).count(), 6000);
        }
    }

    #[test]
    fn a_reset_clock_goes_on_without_a_break() {
        let pts = [Some(9000), Some(9020), Some(0), Some(20), Some(40), Some(60)];
        assert_eq!(run(None, true, &pts), frames(6));
        // A gap after the reset is measured on the new clock.
        let done = run(None, true, &[Some(9000), Some(0), Some(20), Some(540), Some(560)]);
        assert!(done.contains(&Action::Silence(500 * MS)), "{done:?}");
    }

    #[test]
    fn silence_never_passes_the_stated_end() {
        let hostile = [Some(0), Some(100_000_000), Some(100_000_020)];
        assert_eq!(run(Some(5000), true, &hostile), frames(3));
        assert_eq!(run(None, true, &hostile), frames(3));
        let many: Vec<_> = (0..100).map(|i| Some(i * 60_000)).collect();
        let done = run(None, true, &many);
        assert!(corrections(&done).0 * MS <= UNSTATED_ROOM_NS);
    }

    #[test]
    fn extreme_timestamps_do_not_overflow() {
        let max = i64::MAX / MS;
        run(None, true, &[Some(-max), Some(max), Some(-max), Some(max), None]);
        run(Some(max), true, &[Some(0), Some(max), Some(-max)]);
    }

    #[test]
    fn counted_timestamps_are_not_corrected() {
        assert_eq!(run(None, false, &[Some(0), Some(5000), Some(40)]), frames(3));
    }

    #[test]
    fn the_last_frame_after_a_gap_is_placed() {
        let done = run(Some(2000), true, &[Some(0), Some(1020)]);
        assert_eq!(done, [Action::Frame(0), Action::Silence(1000 * MS), Action::Frame(1)]);
    }
}

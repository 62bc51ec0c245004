//! What the events have told so far, and what follows from it. No drawing, no clock of its own.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::text;
use crate::event::{Event, FailedItem, FlaggedItem, Machine, RunSummary, Step};
use crate::media::MediaId;
use crate::stage::StageSummary;

/// How far back the speed behind the estimate is measured.
const SPEED_WINDOW: Duration = Duration::from_secs(120);
/// No estimate before this: the first numbers are start-up, not speed.
const SETTLE: Duration = Duration::from_secs(5);
/// An item that has not moved for this long is listed after those that move.
const IDLE: Duration = Duration::from_secs(15);

/// An item that a worker has.
#[derive(Clone, Debug)]
pub struct InFlight {
    /// Cleaned title.
    pub title: String,
    /// The step it is in, once it entered one.
    pub step: Option<Step>,
    /// How much of the step is done, in the step's unit.
    pub done: u64,
    /// Of how much, where known.
    pub total: Option<u64>,
    /// Length of its audio in milliseconds, where a step has told it.
    pub audio_ms: Option<u64>,
    /// Milliseconds of it that were transcribed.
    pub transcribed_ms: u64,
    /// When it last moved.
    pub active: Instant,
    /// Place in the order of starting.
    pub order: u64,
}

impl InFlight {
    /// True once the step is finished and the next one has not begun: the item stands in a queue.
    pub fn is_waiting(&self, now: Instant) -> bool {
        self.total == Some(self.done) && now.saturating_duration_since(self.active) >= Duration::from_secs(1)
    }

    /// Share of the whole item that is done, 0 to 1; transcription is nearly all of it.
    fn share(&self) -> f64 {
        match self.audio_ms {
            Some(audio) if audio > 0 => 0.97 * (self.transcribed_ms as f64 / audio as f64).min(1.0),
            _ => 0.0,
        }
    }
}

/// The run as far as events have told it.
#[derive(Debug)]
pub struct Model {
    /// When the run began.
    pub started: Instant,
    /// Items finished.
    pub done: u64,
    /// Items given up.
    pub failed: u64,
    /// Items that needed nothing.
    pub skipped: u64,
    /// Audio of the finished items, milliseconds.
    pub audio_ms: u64,
    /// Latest sample of each stage, in flow order.
    pub stages: Vec<StageSummary>,
    /// Latest sample of the machine.
    pub machine: Option<Machine>,
    /// Stopping was asked for.
    pub stopping: bool,
    /// Reasons of skipped items and how often each was given.
    pub skip_reasons: BTreeMap<String, u64>,
    /// What failed.
    pub failures: Vec<FailedItem>,
    /// What is done and looks incomplete.
    pub flagged: Vec<FlaggedItem>,
    /// Set by [`Event::RunFinished`].
    pub finished: Option<RunSummary>,
    known: HashSet<MediaId>,
    delayed: HashSet<MediaId>,
    in_flight: HashMap<MediaId, InFlight>,
    next_order: u64,
    /// Audio transcribed, milliseconds, part of unfinished items included. Never falls.
    transcribed_ms: u64,
    speed: VecDeque<(Instant, u64)>,
    eta: Option<(Instant, f64)>,
    low_since: Option<Instant>,
}

impl Model {
    /// Nothing has happened yet.
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            done: 0,
            failed: 0,
            skipped: 0,
            audio_ms: 0,
            stages: Vec::new(),
            machine: None,
            stopping: false,
            skip_reasons: BTreeMap::new(),
            failures: Vec::new(),
            flagged: Vec::new(),
            finished: None,
            known: HashSet::new(),
            delayed: HashSet::new(),
            in_flight: HashMap::new(),
            next_order: 0,
            transcribed_ms: 0,
            speed: VecDeque::from([(now, 0)]),
            eta: None,
            low_since: None,
        }
    }

    /// Takes note of one event that arrived at `now`.
    pub fn apply(&mut self, event: &Event, now: Instant) {
        match event {
            Event::SourceListed { .. } | Event::Noticed { .. } => {}
            Event::ItemQueued { media_id, .. } => {
                self.known.insert(*media_id);
            }
            Event::ItemSkipped { reason, .. } => {
                self.skipped += 1;
                *self.skip_reasons.entry(text::clean_message(reason, 80)).or_default() += 1;
            }
            Event::ItemStarted { media_id, title } => {
                self.known.insert(*media_id);
                self.delayed.remove(media_id);
                self.enter(*media_id, now).title = text::clean(title);
            }
            Event::StepStarted { media_id, step } => {
                let item = self.enter(*media_id, now);
                (item.step, item.done, item.total) = (Some(*step), 0, None);
            }
            Event::StepProgressed { media_id, step, done, total } => {
                let before = self.in_flight.get(media_id).map(|i| (i.step, i.done, i.total, i.active));
                let item = self.enter(*media_id, now);
                (item.step, item.done, item.total) = (Some(*step), *done, *total);
                if let Some((step, done, total, active)) = before
                    && (step, done, total) == (item.step, item.done, item.total)
                {
                    // Told again what was known: nothing moved.
                    item.active = active;
                }
                match step {
                    Step::Decode | Step::Transcribe => item.audio_ms = total.or(item.audio_ms),
                    Step::Fetch | Step::HandOver | Step::Receive | Step::Embed | Step::Store => {}
                }
                if *step == Step::Transcribe && *done > item.transcribed_ms {
                    let more = *done - item.transcribed_ms;
                    item.transcribed_ms = *done;
                    self.transcribed_ms += more;
                }
            }
            Event::ItemFinished { media_id, audio_ms, .. } => {
                self.known.insert(*media_id);
                let audio = u64::try_from(*audio_ms).unwrap_or(0);
                let seen = self.in_flight.remove(media_id).map_or(0, |i| i.transcribed_ms);
                self.transcribed_ms += audio.saturating_sub(seen);
                self.audio_ms += audio;
                self.done += 1;
            }
            // Done, as far as this run is concerned.
            Event::ItemHandedOver { media_id, audio_ms, .. } => {
                self.known.insert(*media_id);
                self.in_flight.remove(media_id);
                self.audio_ms += u64::try_from(*audio_ms).unwrap_or(0);
                self.done += 1;
            }
            Event::ItemFlagged { media_id, title, flags } => self.flagged.push(FlaggedItem {
                media_id: *media_id,
                title: title.clone(),
                flags: flags.clone(),
            }),
            Event::ItemDelayed { media_id, .. } | Event::ItemHeld { media_id, .. } => {
                self.in_flight.remove(media_id);
                self.delayed.insert(*media_id);
            }
            Event::ItemFailed { media_id, title, source, class, message, remedy } => {
                self.known.insert(*media_id);
                self.delayed.remove(media_id);
                self.in_flight.remove(media_id);
                self.failed += 1;
                self.failures.push(FailedItem {
                    media_id: *media_id,
                    title: title.clone(),
                    source: source.clone(),
                    class: *class,
                    message: message.clone(),
                    remedy: remedy.clone(),
                });
            }
            Event::StagesSampled { stages } => self.stages.clone_from(stages),
            Event::MachineSampled(machine) => self.sampled(machine, now),
            Event::StopRequested => self.stopping = true,
            Event::RunFinished(summary) => self.finished = Some(summary.clone()),
        }
    }

    fn enter(&mut self, media_id: MediaId, now: Instant) -> &mut InFlight {
        let next = &mut self.next_order;
        let item = self.in_flight.entry(media_id).or_insert_with(|| {
            *next += 1;
            InFlight {
                title: String::new(),
                step: None,
                done: 0,
                total: None,
                audio_ms: None,
                transcribed_ms: 0,
                active: now,
                order: *next,
            }
        });
        item.active = now;
        item
    }

    fn sampled(&mut self, machine: &Machine, now: Instant) {
        let gpus = machine.gpus.len() as u32;
        let low = gpus > 0 && machine.gpus.iter().map(|g| g.sm_percent).sum::<u32>() < 40 * gpus;
        if !(low && self.waiting() > 0 && !self.stopping) {
            self.low_since = None;
        } else if self.low_since.is_none() {
            self.low_since = Some(now);
        }
        self.machine = Some(machine.clone());
    }

    /// How long the GPUs have been under 40 % on average while items were waiting.
    pub fn gpu_low_for(&self, now: Instant) -> Duration {
        self.low_since.map_or(Duration::ZERO, |t| now.saturating_duration_since(t))
    }

    /// Items of this run, as far as they are known.
    pub fn total(&self) -> u64 {
        (self.known.len() as u64).max(self.done + self.failed)
    }

    /// Items that no worker has taken yet, those to be tried again included.
    pub fn waiting(&self) -> u64 {
        self.total().saturating_sub(self.done + self.failed + self.in_flight.len() as u64)
    }

    /// Items that failed once and will be tried again.
    pub fn delayed(&self) -> u64 {
        self.delayed.len() as u64
    }

    /// Number of items that workers have.
    pub fn busy(&self) -> usize {
        self.in_flight.len()
    }

    /// Time since the beginning, milliseconds.
    pub fn elapsed_ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_millis() as u64
    }

    /// Audio transcribed, milliseconds, parts of unfinished items included.
    pub fn transcribed_ms(&self) -> u64 {
        self.transcribed_ms
    }

    /// Share of the run that is done, 0 to 1, counting parts of items.
    pub fn share(&self) -> f64 {
        let total = self.total();
        if total == 0 {
            return 0.0;
        }
        let parts: f64 = self.in_flight.values().map(InFlight::share).sum();
        (((self.done + self.failed) as f64 + parts) / total as f64).min(1.0)
    }

    /// The items that workers have: those being worked on before those that wait, then by step (the furthest
    /// first) and by age, so that a row stays where it is while its numbers move.
    pub fn in_flight(&self, now: Instant) -> Vec<&InFlight> {
        let mut items: Vec<&InFlight> = self.in_flight.values().collect();
        items.sort_by_key(|i| {
            let idle = i.is_waiting(now) || now.saturating_duration_since(i.active) >= IDLE;
            (idle, std::cmp::Reverse(i.step.map_or(0, |s| s as u8 + 1)), i.order)
        });
        items
    }

    /// How many items are in each step, furthest step first.
    pub fn by_step(&self) -> Vec<(Option<Step>, usize)> {
        let mut counts: BTreeMap<std::cmp::Reverse<u8>, (Option<Step>, usize)> = BTreeMap::new();
        for item in self.in_flight.values() {
            let key = std::cmp::Reverse(item.step.map_or(0, |s| s as u8 + 1));
            counts.entry(key).or_insert((item.step, 0)).1 += 1;
        }
        counts.into_values().collect()
    }

    /// To be called about once a second: keeps the measured speed and the estimate up to date.
    pub fn tick(&mut self, now: Instant) {
        self.speed.push_back((now, self.transcribed_ms));
        while self.speed.len() > 2 && now.saturating_duration_since(self.speed[1].0) >= SPEED_WINDOW {
            self.speed.pop_front();
        }
        self.eta = match (self.raw_eta(now), self.eta) {
            (None, _) => None,
            (Some(new), None) => Some((now, new)),
            (Some(new), Some((then, old))) => {
                // Runs down by itself; what is measured pulls at it gently, and replaces it when it is far off.
                let dt = now.saturating_duration_since(then).as_secs_f64();
                let expected = (old - dt).max(0.0);
                let far = new > 2.0 * expected + 30.0 || expected > 2.0 * new + 30.0;
                let pull = if far { 1.0 } else { 1.0 - (-dt / 15.0).exp() };
                Some((now, expected + pull * (new - expected)))
            }
        };
    }

    /// Estimated milliseconds left; `None` until there is something to estimate from.
    pub fn eta_ms(&self, now: Instant) -> Option<u64> {
        let (then, seconds) = self.eta?;
        let passed = now.saturating_duration_since(then).as_secs_f64();
        Some(((seconds - passed).max(0.0) * 1000.0) as u64)
    }

    /// Seconds left, from the audio that is left (items of unknown length count as long as the known ones are
    /// on average) at the speed of the last minutes; from the number of items where no length is known.
    fn raw_eta(&self, now: Instant) -> Option<f64> {
        let elapsed = now.saturating_duration_since(self.started);
        if elapsed < SETTLE || self.stopping {
            return None;
        }
        let left = self.waiting() + self.in_flight.len() as u64;
        if left == 0 {
            return None;
        }
        let known: Vec<u64> = self.in_flight.values().filter_map(|i| i.audio_ms).collect();
        let lengths = self.done + known.len() as u64;
        let mean = (self.audio_ms + known.iter().sum::<u64>()) as f64 / lengths.max(1) as f64;
        let &(since, before) = self.speed.front()?;
        let speed =
            (self.transcribed_ms - before) as f64 / now.saturating_duration_since(since).as_secs_f64();
        if mean > 0.0 && speed > 0.0 {
            let in_hand: f64 = self
                .in_flight
                .values()
                .map(|i| (i.audio_ms.map_or(mean, |a| a as f64) - i.transcribed_ms as f64).max(0.0))
                .sum();
            return Some((self.waiting() as f64 * mean + in_hand) / speed);
        }
        let ended = self.done + self.failed;
        (mean == 0.0 && ended > 0).then(|| elapsed.as_secs_f64() / ended as f64 * left as f64)
    }

    /// True where the run ended before it began: whoever ended it says why, and there is nothing to sum up.
    pub fn is_void(&self) -> bool {
        self.finished.is_none() && self.total() == 0 && self.skipped == 0
    }

    /// What this run came to, as its own end told it or, where the channel closed before, as far as events go.
    pub fn summary(&self, now: Instant) -> RunSummary {
        self.finished.clone().unwrap_or_else(|| RunSummary {
            done: self.done as usize,
            failed: self.failed as usize,
            skipped: self.skipped as usize,
            wall_ms: self.elapsed_ms(now),
            audio_ms: self.audio_ms,
            stages: self.stages.clone(),
            failures: self.failures.clone(),
            flagged: self.flagged.clone(),
            interrupted: self.stopping || self.waiting() > 0 || !self.in_flight.is_empty(),
            ..RunSummary::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Gpu;
    use crate::media::FailureClass;

    fn id(n: u32) -> MediaId {
        MediaId::new("test", &n.to_string())
    }

    fn queued(n: u32) -> Event {
        Event::ItemQueued { media_id: id(n), title: format!("item {n}") }
    }

    fn started(n: u32) -> Event {
        Event::ItemStarted { media_id: id(n), title: format!("item {n}") }
    }

    fn progress(n: u32, step: Step, done: u64, total: u64) -> Event {
        Event::StepProgressed { media_id: id(n), step, done, total: Some(total) }
    }

    fn finished(n: u32, audio_ms: i64) -> Event {
        Event::ItemFinished { media_id: id(n), title: format!("item {n}"), audio_ms, segments: 3, took_ms: 9 }
    }

    #[test]
    fn counts_each_item_once() {
        let t0 = Instant::now();
        let mut m = Model::new(t0);
        for n in 0..5 {
            m.apply(&queued(n), t0);
        }
        m.apply(&queued(0), t0);
        m.apply(&started(0), t0);
        m.apply(&started(1), t0);
        m.apply(&finished(0, 60_000), t0);
        m.apply(
            &Event::ItemDelayed {
                media_id: id(1),
                title: "x".into(),
                message: "reset".into(),
                retry_in_ms: 5,
            },
            t0,
        );
        assert_eq!((m.total(), m.done, m.waiting(), m.delayed(), m.busy()), (5, 1, 4, 1, 0));
        m.apply(&started(1), t0);
        assert_eq!((m.waiting(), m.delayed(), m.busy()), (3, 0, 1));
        m.apply(
            &Event::ItemFailed {
                media_id: id(1),
                title: "x".into(),
                source: "/x".into(),
                class: FailureClass::NoAudio,
                message: "no audio".into(),
                remedy: None,
            },
            t0,
        );
        assert_eq!((m.failed, m.busy(), m.failures.len()), (1, 0, 1));
        let s = m.summary(t0 + Duration::from_secs(2));
        assert_eq!((s.done, s.failed, s.audio_ms, s.wall_ms, s.interrupted), (1, 1, 60_000, 2_000, true));
    }

    #[test]
    fn transcribed_audio_counts_once_however_it_is_told() {
        let t0 = Instant::now();
        let mut m = Model::new(t0);
        m.apply(&started(0), t0);
        m.apply(&progress(0, Step::Transcribe, 30_000, 60_000), t0);
        m.apply(&progress(0, Step::Transcribe, 30_000, 60_000), t0);
        assert_eq!(m.transcribed_ms(), 30_000);
        m.apply(&finished(0, 60_000), t0);
        assert_eq!((m.transcribed_ms(), m.audio_ms), (60_000, 60_000));
    }

    #[test]
    fn the_estimate_follows_the_audio_left() {
        let t0 = Instant::now();
        let mut m = Model::new(t0);
        for n in 0..10 {
            m.apply(&queued(n), t0);
        }
        assert_eq!(m.eta_ms(t0), None);
        // Ten items of 100 s, one after the other, at 10 times real time: 100 s in all.
        let mut now = t0;
        for n in 0..10 {
            m.apply(&started(n), now);
            for s in 1..=10_u64 {
                now += Duration::from_secs(1);
                m.apply(&progress(n, Step::Transcribe, s * 10_000, 100_000), now);
                m.tick(now);
                let elapsed = now.duration_since(t0).as_secs();
                if elapsed > 5 && elapsed < 100 {
                    let eta = m.eta_ms(now).expect("known by now") as f64 / 1000.0;
                    let truth = (100 - elapsed) as f64;
                    assert!((eta - truth).abs() < 2.0, "at {elapsed} s: {eta} instead of {truth}");
                }
            }
            m.apply(&finished(n, 100_000), now);
        }
        m.tick(now);
        assert_eq!(m.eta_ms(now), None);
        assert!((m.share() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn one_hiccup_does_not_throw_the_estimate() {
        let t0 = Instant::now();
        let mut m = Model::new(t0);
        m.apply(&started(0), t0);
        let mut now = t0;
        for s in 1..=60_u64 {
            now += Duration::from_secs(1);
            m.apply(&progress(0, Step::Transcribe, s * 10_000, 6_000_000), now);
            m.tick(now);
        }
        let before = m.eta_ms(now).expect("known");
        for _ in 0..10 {
            now += Duration::from_secs(1);
            m.tick(now);
        }
        let after = m.eta_ms(now).expect("known");
        assert!(after < before + 60_000, "{before} -> {after}");
    }

    #[test]
    fn rows_keep_their_place() {
        let t0 = Instant::now();
        let mut m = Model::new(t0);
        for n in 0..4 {
            m.apply(&started(n), t0);
            m.apply(&Event::StepStarted { media_id: id(n), step: Step::Fetch }, t0);
        }
        m.apply(&Event::StepStarted { media_id: id(2), step: Step::Transcribe }, t0);
        let later = t0 + Duration::from_secs(20);
        for n in [3, 2, 1] {
            m.apply(
                &Event::StepProgressed { media_id: id(n), step: Step::Fetch, done: 1, total: None },
                later,
            );
        }
        m.apply(&progress(2, Step::Transcribe, 1, 2), later);
        let order: Vec<&str> = m.in_flight(later).iter().map(|i| i.title.as_str()).collect();
        assert_eq!(
            order,
            ["item 2", "item 1", "item 3", "item 0"],
            "the idle one last, the others by step and age"
        );
        assert_eq!(m.by_step(), [(Some(Step::Transcribe), 1), (Some(Step::Fetch), 3)]);
    }

    #[test]
    fn a_low_gpu_counts_only_while_work_waits() {
        let t0 = Instant::now();
        let mut m = Model::new(t0);
        let low = Event::MachineSampled(Machine {
            gpus: vec![Gpu { sm_percent: 20, ..Gpu::default() }],
            ..Machine::default()
        });
        m.apply(&low, t0);
        let later = t0 + Duration::from_secs(40);
        assert_eq!(m.gpu_low_for(later), Duration::ZERO);
        m.apply(&queued(0), t0);
        m.apply(&low, t0);
        m.apply(&low, later);
        assert_eq!(m.gpu_low_for(later), Duration::from_secs(40));
        m.apply(&started(0), later);
        m.apply(&low, later);
        assert_eq!(m.gpu_low_for(later), Duration::ZERO);
    }
}

//! Who is next: small and new items first, and nobody waits for ever.
//!
//! The job library claims by `priority` (smaller first), then by `run_at` (earlier first), along an index: the cost of
//! a claim must not depend on how many wait, so the order has to be a value that is written once, with the job. It is
//!
//! * a [`Lane`], of which only the middle one is ever long: what a person put first; what was begun (a retry that is
//!   due), since it has stood in line before; everything else;
//! * within the lane a **virtual time**: the time of enqueueing plus a handicap. Who comes later with a small handicap
//!   overtakes who came earlier with a large one, but only until the earlier one's handicap has passed. So the
//!   handicap is also the longest that newcomers can hold anybody up, and at most [`WINDOW`]: that is the ageing, and
//!   it costs no update.
//!
//! The handicap ([`Line`]) is four times the item's own length, plus the length of what stands before it in the same
//! source. The first term lets small ones pass large ones. The second is fair queueing among sources with one second
//! of audio for each second of time: a backlog of five hundred videos is spread over as many hours as it plays, and a
//! video found today stands before all of the backlog that a machine working at the speed of playing would not have
//! reached by now. Faster machines are always beyond that point, so that there what is new comes first; in a slower
//! one it still comes long before the end of the backlog. Lists are in the order of their source, which for channels and
//! feeds is the newest first.
//!
//! `run_at` must have passed for a job to be claimed, so virtual times are written [`WINDOW`] early. A job that is put off
//! until some time has that time there, and its place in its payload; once it is due, the next worker that looks puts it
//! back to its place.

use std::time::Duration;

/// The largest handicap: 30 days. Larger backlogs end in a part where all stand level, in order.
pub const WINDOW: Duration = Duration::from_secs(30 * 24 * 3600);
/// How much an item's own length counts in its handicap.
const OWN: u32 = 4;
/// Length of an item of which nothing is known: what a video on the web has on average, roughly.
const UNKNOWN: Duration = Duration::from_secs(600);
/// Bytes a second of a file whose length is unknown: half a megabit a second, between a podcast's and a film's.
const BYTES_A_SECOND: u64 = 64 << 10;

/// Which line a job stands in. Lower numbers are claimed first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Put first by a person; the last one put there is the first.
    First,
    /// Tried before, and due again. Attempts are limited, so this lane empties.
    Begun,
    /// All others.
    #[default]
    Ordinary,
    /// Put off before it was tried (the site wants a rest, the file is on another machine), and due again: goes back to its
    /// place among the ordinary ones within a second.
    PutOff,
}

impl Lane {
    /// The number in the job's row.
    pub fn priority(self) -> i16 {
        match self {
            Self::First => -100,
            Self::Begun => -10,
            Self::Ordinary => 0,
            Self::PutOff => 10,
        }
    }
}

/// How long an item plays, as far as can be told before it is fetched: the stated duration, else by the size of
/// its file, else ten minutes.
pub fn expected(duration_ms: Option<i64>, bytes: Option<u64>) -> Duration {
    match (duration_ms, bytes) {
        (Some(ms), _) => Duration::from_millis(ms.max(0).unsigned_abs()),
        (None, Some(bytes)) => Duration::from_secs(bytes / BYTES_A_SECOND),
        (None, None) => UNKNOWN,
    }
}

/// The items of one source, one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line {
    before: Duration,
}

impl Line {
    /// The handicap of the next item, which plays for `expected`.
    pub fn place(&mut self, expected: Duration) -> Duration {
        let handicap = self.before.saturating_add(expected.saturating_mul(OWN)).min(WINDOW);
        self.before = self.before.saturating_add(expected);
        handicap
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    /// A machine that plays at `speed` while items come in; who was served when, in minutes.
    struct Machine {
        speed: u32,
        now: Duration,
        /// (virtual time, arrival, length, name)
        waiting: BTreeSet<(Duration, Duration, Duration, String)>,
        served: Vec<(String, Duration)>,
    }

    impl Machine {
        fn new(speed: u32) -> Self {
            Self { speed, now: Duration::ZERO, waiting: BTreeSet::new(), served: Vec::new() }
        }

        fn add(&mut self, line: &mut Line, length: Duration, name: &str) {
            let time = self.now + line.place(length);
            self.waiting.insert((time, self.now, length, name.to_owned()));
        }

        fn serve_one(&mut self) {
            match self.waiting.pop_first() {
                Some((_, _, length, name)) => {
                    self.served.push((name, self.now));
                    self.now += length / self.speed;
                }
                None => self.now += MINUTE,
            }
        }

        fn began(&self, name: &str) -> Option<Duration> {
            self.served.iter().find(|(served, _)| served == name).map(|(_, at)| *at)
        }
    }

    #[test]
    fn small_ones_pass_large_ones_of_the_same_source() {
        let mut line = Line::default();
        let lengths = [8 * HOUR, 10 * MINUTE, 10 * MINUTE, HOUR];
        let places: Vec<Duration> = lengths.iter().map(|l| line.place(*l)).collect();
        let mut order: Vec<usize> = (0..4).collect();
        order.sort_by_key(|n| places[*n]);
        assert_eq!(order, [1, 2, 3, 0]);
    }

    #[test]
    fn equal_items_keep_the_order_of_their_source() {
        let mut line = Line::default();
        let places: Vec<Duration> = (0..100).map(|_| line.place(HOUR)).collect();
        assert!(places.is_sorted() && places[0] < places[99]);
    }

    #[test]
    fn what_is_new_passes_a_backlog() {
        // 500 hours of backlog on a machine of five times real time, which needs 100 hours for it; after a day one new
        // video of an hour, in another run.
        let mut machine = Machine::new(5);
        let mut backlog = Line::default();
        for n in 0..500 {
            machine.add(&mut backlog, HOUR, &format!("old {n}"));
        }
        while machine.now < 24 * HOUR {
            machine.serve_one();
        }
        let found = machine.now;
        machine.add(&mut Line::default(), HOUR, "new");
        while machine.began("new").is_none() {
            machine.serve_one();
        }
        assert!(machine.now - found < HOUR, "it waited {:?}", machine.now - found);
    }

    #[test]
    fn a_large_item_is_served_though_small_ones_never_end() {
        // As much comes in as can be done, all of it small: the large one waits no longer than its handicap.
        let mut machine = Machine::new(10);
        machine.add(&mut Line::default(), 10 * HOUR, "large");
        let mut n = 0;
        while machine.began("large").is_none() {
            while Duration::from_secs(60 * n) <= machine.now {
                machine.add(&mut Line::default(), 12 * MINUTE, "small");
                n += 1;
            }
            machine.serve_one();
            assert!(machine.now <= 41 * HOUR, "overtaken for ever");
        }
        assert!(machine.began("large").unwrap() > HOUR, "small ones go first for a while");
    }

    #[test]
    fn two_backlogs_share() {
        let mut machine = Machine::new(1);
        let (mut a, mut b) = (Line::default(), Line::default());
        for n in 0..50 {
            machine.add(&mut a, HOUR, &format!("a{n}"));
        }
        for n in 0..50 {
            machine.add(&mut b, HOUR, &format!("b{n}"));
        }
        for _ in 0..20 {
            machine.serve_one();
        }
        let of_b = machine.served.iter().filter(|(name, _)| name.starts_with('b')).count();
        assert!((8..=12).contains(&of_b), "{of_b} of 20");
    }

    #[test]
    fn no_handicap_is_beyond_the_window() {
        let mut line = Line::default();
        for _ in 0..3 {
            assert_eq!(line.place(Duration::MAX), WINDOW);
        }
        assert_eq!(Line::default().place(HOUR), 4 * HOUR);
    }

    #[test]
    fn lengths_are_guessed_from_what_is_known() {
        assert_eq!(expected(Some(90_000), Some(1)), Duration::from_secs(90));
        assert_eq!(expected(None, Some(64 << 20)), Duration::from_secs(1024));
        assert_eq!(expected(None, None), UNKNOWN);
        assert_eq!(expected(Some(-5), None), Duration::ZERO);
    }

    #[test]
    fn lanes_are_claimed_in_their_order() {
        let mut lanes = [Lane::Ordinary, Lane::PutOff, Lane::First, Lane::Begun];
        lanes.sort_by_key(|lane| lane.priority());
        assert_eq!(lanes, [Lane::First, Lane::Begun, Lane::Ordinary, Lane::PutOff]);
    }
}

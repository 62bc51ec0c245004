//! The pool of windows of all files in flight, from which batches are formed.
//!
//! Not a channel, because a batch wants more than the next window: the windows of the file that came first, as many as
//! are there, of like length, and a short wait where more are on their way. Windows whose text failed wait apart, by
//! the temperature they are to be decoded at, so that they fill a batch of their own.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Order of a window: its file's number, then its own.
pub type Key = (u64, usize);

/// How often a blocked [`Pool::push`] looks whether it should give up.
const GIVE_UP_CHECK: Duration = Duration::from_millis(100);

/// Windows to be decoded again wait at most this long for others while the model has fresh ones to do.
const AGAIN_PATIENCE: Duration = Duration::from_secs(1);

/// A batch is chosen from so many times its size of the earliest windows.
const CHOICE: usize = 2;

/// What the pool must know of a window.
pub trait Waiting {
    /// 0 for a window that comes for the first time; windows of another number are only batched with their like.
    fn round(&self) -> usize;
    /// How much work it will be; like works with like.
    fn work(&self) -> u64;
}

/// The most windows in a batch.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// That come for the first time.
    pub fresh: usize,
    /// That come again.
    pub again: usize,
}

/// A bounded pool of `T`, handed out lowest [`Key`] first.
#[derive(Debug)]
pub struct Pool<T> {
    state: Mutex<State<T>>,
    work: Condvar,
    room: Condvar,
    capacity: usize,
    feeders: usize,
}

#[derive(Debug)]
struct State<T> {
    fresh: BTreeMap<Key, T>,
    again: BTreeMap<(usize, Key), T>,
    /// Since when something has been waiting in `again`.
    again_since: Option<Instant>,
    /// Files whose windows are still being cut: more will come.
    sources: usize,
    closed: bool,
}

impl<T> State<T> {
    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.again.is_empty()
    }

    fn insert(&mut self, key: Key, round: usize, item: T) {
        if round == 0 {
            self.fresh.insert(key, item);
        } else {
            self.again.insert((round, key), item);
            self.again_since.get_or_insert_with(Instant::now);
        }
    }

    /// Whether windows that come again are to be taken now.
    fn again_is_due(&self, most: usize) -> bool {
        let Some(&(round, _)) = self.again.keys().next() else { return false };
        self.fresh.is_empty()
            || self.closed
            || self.again.range((round, (0, 0))..(round + 1, (0, 0))).take(most).count() >= most
            || self.again_since.is_some_and(|since| since.elapsed() >= AGAIN_PATIENCE)
    }

    /// Up to `most` windows of the lowest round.
    fn take_again(&mut self, most: usize) -> Vec<T> {
        let mut taken = Vec::new();
        if let Some(&(round, _)) = self.again.keys().next() {
            while taken.len() < most.max(1)
                && let Some(entry) = self.again.first_entry()
                && entry.key().0 == round
            {
                taken.push(entry.remove());
            }
        }
        self.again_since = (!self.again.is_empty()).then(Instant::now);
        taken
    }
}

impl<T: Waiting> State<T> {
    /// The earliest window, and of those that follow the ones most like it, in their order.
    fn take_fresh(&mut self, count: usize) -> Vec<T> {
        let Some(first) = self.fresh.values().next().map(T::work) else { return Vec::new() };
        let mut near: Vec<(u64, Key)> = self
            .fresh
            .iter()
            .take(CHOICE * count)
            .map(|(key, item)| (item.work().abs_diff(first), *key))
            .collect();
        // The first differs from itself by nothing, and stays first among equals.
        near.sort_unstable();
        near.truncate(count);
        near.sort_unstable_by_key(|(_, key)| *key);
        near.iter().filter_map(|(_, key)| self.fresh.remove(key)).collect()
    }
}

impl<T: Waiting> Pool<T> {
    /// Room for `capacity` windows, shared by `feeders` takers.
    pub fn new(capacity: usize, feeders: usize) -> Self {
        Self {
            state: Mutex::new(State {
                fresh: BTreeMap::new(),
                again: BTreeMap::new(),
                again_since: None,
                sources: 0,
                closed: false,
            }),
            work: Condvar::new(),
            room: Condvar::new(),
            capacity: capacity.max(1),
            feeders: feeders.max(1),
        }
    }

    /// The state is consistent between any two statements here, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Windows waiting, and room for them.
    pub fn fill(&self) -> (usize, usize) {
        let state = self.lock();
        (state.fresh.len() + state.again.len(), self.capacity)
    }

    /// Says that windows of one more file are coming, until the guard is dropped.
    pub fn expect(&self) -> Expected<'_, T> {
        self.lock().sources += 1;
        Expected(self)
    }

    /// Adds a window, waiting for room. Gives it back where the pool is closed or `give_up` says so.
    pub fn push(&self, key: Key, item: T, give_up: impl Fn() -> bool) -> Result<(), T> {
        let mut state = self.lock();
        while state.fresh.len() >= self.capacity && !state.closed {
            if give_up() {
                return Err(item);
            }
            state = self.room.wait_timeout(state, GIVE_UP_CHECK).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.closed {
            return Err(item);
        }
        state.insert(key, item.round(), item);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Adds a window at once, full or not: for takers, who must not wait for themselves.
    pub fn push_back(&self, key: Key, item: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed {
            return Err(item);
        }
        state.insert(key, item.round(), item);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Takes up to `most` windows, waiting for the first; `None` once the pool is closed and empty.
    ///
    /// Where fewer are there and more are expected, it waits up to `linger` for them. Where none are expected, the last
    /// windows are shared evenly between the takers instead of leaving all of them to the first. Windows that come
    /// again go before as soon as they fill a batch, have waited for long, or nothing else is there.
    pub fn take(&self, most: Most, linger: Duration) -> Option<Vec<T>> {
        let fresh = most.fresh.max(1);
        let mut state = self.lock();
        let taken = loop {
            while state.is_empty() {
                if state.closed {
                    return None;
                }
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.again_is_due(most.again) {
                break state.take_again(most.again);
            }
            let deadline = Instant::now() + linger;
            while state.fresh.len() < fresh && state.sources > 0 && !state.closed {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                state = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            let there = state.fresh.len();
            let share = if state.sources == 0 { there.div_ceil(self.feeders) } else { there };
            // Another taker may have been faster.
            if share > 0 {
                break state.take_fresh(share.min(fresh));
            }
        };
        let more = !state.is_empty();
        drop(state);
        self.room.notify_all();
        if more {
            self.work.notify_one();
        }
        Some(taken)
    }

    /// Takes the windows of file `file` out.
    pub fn remove(&self, file: u64) -> Vec<T> {
        let mut state = self.lock();
        let mut out: Vec<T> =
            state.fresh.extract_if((file, 0)..(file + 1, 0), |_, _| true).map(|(_, t)| t).collect();
        out.extend(state.again.extract_if(.., |(_, key), _| key.0 == file).map(|(_, t)| t));
        drop(state);
        self.room.notify_all();
        out
    }

    /// Accepts nothing more and gives back what waits; takers end.
    pub fn close(&self) -> Vec<T> {
        let mut state = self.lock();
        state.closed = true;
        let again = std::mem::take(&mut state.again).into_values();
        let left = std::mem::take(&mut state.fresh).into_values().chain(again).collect();
        drop(state);
        self.work.notify_all();
        self.room.notify_all();
        left
    }
}

/// While this lives, [`Pool::take`] may wait for more.
#[derive(Debug)]
pub struct Expected<'a, T: Waiting>(&'a Pool<T>);

impl<T: Waiting> Drop for Expected<'_, T> {
    fn drop(&mut self) {
        self.0.lock().sources -= 1;
        self.0.work.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};
    use std::thread;

    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn most(fresh: usize) -> Most {
        Most { fresh, again: 1 }
    }

    impl Waiting for Key {
        fn round(&self) -> usize {
            0
        }
        fn work(&self) -> u64 {
            1
        }
    }

    impl Waiting for char {
        fn round(&self) -> usize {
            0
        }
        fn work(&self) -> u64 {
            1
        }
    }

    /// A window of some length that comes for the so-manieth time.
    impl Waiting for (usize, u64) {
        fn round(&self) -> usize {
            self.0
        }
        fn work(&self) -> u64 {
            self.1
        }
    }

    #[test]
    fn like_works_with_like_and_nobody_is_passed_over() {
        let pool = Pool::new(16, 1);
        let _coming = pool.expect();
        for (i, length) in [30, 5, 29, 30, 6, 30].into_iter().enumerate() {
            pool.push((0, i), (0, length), || false).unwrap();
        }
        let lengths = |batch: Vec<(usize, u64)>| batch.into_iter().map(|(_, l)| l).collect::<Vec<_>>();
        assert_eq!(lengths(pool.take(most(2), NOW).unwrap()), [30, 30]);
        assert_eq!(lengths(pool.take(most(2), NOW).unwrap()), [5, 6], "the next in line leads its batch");
        assert_eq!(lengths(pool.take(most(2), NOW).unwrap()), [29, 30]);
    }

    #[test]
    fn what_comes_again_goes_by_rounds() {
        let pool = Pool::new(16, 1);
        for (i, round) in [0_usize, 1, 2, 1, 1].into_iter().enumerate() {
            pool.push((0, i), (round, 1_u64), || false).unwrap();
        }
        let rounds = |most| pool.take(most, NOW).unwrap().into_iter().map(|(r, _)| r).collect::<Vec<_>>();
        // Two are enough for a batch, so they go first; a single one waits for the fresh.
        assert_eq!(rounds(Most { fresh: 4, again: 2 }), [1, 1]);
        assert_eq!(rounds(Most { fresh: 4, again: 2 }), [0]);
        assert_eq!(rounds(Most { fresh: 4, again: 2 }), [1]);
        assert_eq!(rounds(Most { fresh: 4, again: 2 }), [2]);
    }

    #[test]
    fn the_earliest_file_goes_first() {
        let pool = Pool::new(8, 1);
        for key in [(2, 0), (1, 1), (2, 1), (1, 0)] {
            pool.push(key, key, || false).unwrap();
        }
        assert_eq!(pool.take(most(3), NOW).unwrap(), [(1, 0), (1, 1), (2, 0)]);
        assert_eq!(pool.take(most(3), NOW).unwrap(), [(2, 1)]);
    }

    #[test]
    fn the_last_windows_are_shared() {
        let pool = Pool::new(8, 2);
        for i in 0..5 {
            pool.push((0, i), (0, i as u64), || false).unwrap();
        }
        {
            let _coming = pool.expect();
            assert_eq!(pool.take(most(1), NOW).unwrap(), [(0, 0)]);
        }
        assert_eq!(pool.take(most(4), NOW).unwrap(), [(0, 1), (0, 2)]);
        assert_eq!(pool.take(most(4), NOW).unwrap(), [(0, 3)]);
        assert_eq!(pool.take(most(4), NOW).unwrap(), [(0, 4)]);
    }

    #[test]
    fn a_full_pool_holds_the_sender_until_there_is_room() {
        let pool = Arc::new(Pool::new(1, 1));
        pool.push((0, 0), 'a', || false).unwrap();
        let started = Arc::new(Barrier::new(2));
        let sender = {
            let (pool, started) = (Arc::clone(&pool), Arc::clone(&started));
            thread::spawn(move || {
                started.wait();
                pool.push((0, 1), 'b', || false)
            })
        };
        started.wait();
        assert_eq!(pool.take(most(1), NOW).unwrap(), ['a']);
        assert_eq!(pool.take(most(1), NOW).unwrap(), ['b']);
        assert_eq!(sender.join().unwrap(), Ok(()));
    }

    #[test]
    fn a_sender_that_gives_up_gets_its_window_back() {
        let pool = Pool::new(1, 1);
        pool.push((0, 0), 'a', || false).unwrap();
        assert_eq!(pool.push((0, 1), 'b', || true), Err('b'));
        assert_eq!(pool.push_back((0, 1), 'b'), Ok(()));
    }

    #[test]
    fn one_files_windows_can_be_taken_out() {
        let pool = Pool::new(8, 1);
        for key in [(0, 0), (1, 0), (1, 5), (2, 0)] {
            pool.push(key, key, || false).unwrap();
        }
        assert_eq!(pool.remove(1), [(1, 0), (1, 5)]);
        assert_eq!(pool.take(most(8), NOW).unwrap(), [(0, 0), (2, 0)]);
    }

    #[test]
    fn closing_wakes_everybody() {
        let pool = Arc::new(Pool::<char>::new(1, 1));
        let taker = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.take(most(4), NOW))
        };
        assert!(pool.close().is_empty());
        assert_eq!(taker.join().unwrap(), None);
        assert_eq!(pool.push((0, 0), 'a', || false), Err('a'));
    }
}

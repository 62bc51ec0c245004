//! The pool of windows of all files in flight, from which batches are formed.
//!
//! Not a channel, because a batch wants more than the next window: the windows of the file that came first, as many as
//! are there, and a short wait where more are on their way.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Order of a window: its file's number, then its own.
pub type Key = (u64, usize);

/// How often a blocked [`Pool::push`] looks whether it should give up.
const GIVE_UP_CHECK: Duration = Duration::from_millis(100);

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
    waiting: BTreeMap<Key, T>,
    /// Files whose windows are still being cut: more will come.
    sources: usize,
    closed: bool,
}

impl<T> Pool<T> {
    /// Room for `capacity` windows, shared by `feeders` takers.
    pub fn new(capacity: usize, feeders: usize) -> Self {
        Self {
            state: Mutex::new(State { waiting: BTreeMap::new(), sources: 0, closed: false }),
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
        (self.lock().waiting.len(), self.capacity)
    }

    /// Says that windows of one more file are coming, until the guard is dropped.
    pub fn expect(&self) -> Expected<'_, T> {
        self.lock().sources += 1;
        Expected(self)
    }

    /// Adds a window, waiting for room. Gives it back where the pool is closed or `give_up` says so.
    pub fn push(&self, key: Key, item: T, give_up: impl Fn() -> bool) -> Result<(), T> {
        let mut state = self.lock();
        while state.waiting.len() >= self.capacity && !state.closed {
            if give_up() {
                return Err(item);
            }
            state = self.room.wait_timeout(state, GIVE_UP_CHECK).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.closed {
            return Err(item);
        }
        state.waiting.insert(key, item);
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
        state.waiting.insert(key, item);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Takes up to `most` windows, waiting for the first; `None` once the pool is closed and empty.
    ///
    /// Where fewer are there and more are expected, it waits up to `linger` for them. Where none are expected, the last
    /// windows are shared evenly between the takers instead of leaving all of them to the first.
    pub fn take(&self, most: usize, linger: Duration) -> Option<Vec<T>> {
        let mut state = self.lock();
        loop {
            while state.waiting.is_empty() {
                if state.closed {
                    return None;
                }
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let deadline = Instant::now() + linger;
            while state.waiting.len() < most && state.sources > 0 && !state.closed {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                state = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            // Another taker may have been faster.
            if !state.waiting.is_empty() {
                break;
            }
        }
        let share =
            if state.sources == 0 { state.waiting.len().div_ceil(self.feeders) } else { state.waiting.len() };
        let mut taken = Vec::with_capacity(share.clamp(1, most));
        while taken.len() < share.clamp(1, most)
            && let Some((_, item)) = state.waiting.pop_first()
        {
            taken.push(item);
        }
        let more = !state.waiting.is_empty();
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
        let mut later = state.waiting.split_off(&(file, 0));
        let mut rest = later.split_off(&(file + 1, 0));
        state.waiting.append(&mut rest);
        drop(state);
        self.room.notify_all();
        later.into_values().collect()
    }

    /// Accepts nothing more and gives back what waits; takers end.
    pub fn close(&self) -> Vec<T> {
        let mut state = self.lock();
        state.closed = true;
        let left = std::mem::take(&mut state.waiting);
        drop(state);
        self.work.notify_all();
        self.room.notify_all();
        left.into_values().collect()
    }
}

/// While this lives, [`Pool::take`] may wait for more.
#[derive(Debug)]
pub struct Expected<'a, T>(&'a Pool<T>);

impl<T> Drop for Expected<'_, T> {
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

    #[test]
    fn the_earliest_file_goes_first() {
        let pool = Pool::new(8, 1);
        for key in [(2, 0), (1, 1), (2, 1), (1, 0)] {
            pool.push(key, key, || false).unwrap();
        }
        assert_eq!(pool.take(3, NOW).unwrap(), [(1, 0), (1, 1), (2, 0)]);
        assert_eq!(pool.take(3, NOW).unwrap(), [(2, 1)]);
    }

    #[test]
    fn the_last_windows_are_shared() {
        let pool = Pool::new(8, 2);
        for i in 0..5 {
            pool.push((0, i), i, || false).unwrap();
        }
        {
            let _coming = pool.expect();
            assert_eq!(pool.take(1, NOW).unwrap(), [0]);
        }
        assert_eq!(pool.take(4, NOW).unwrap(), [1, 2]);
        assert_eq!(pool.take(4, NOW).unwrap(), [3]);
        assert_eq!(pool.take(4, NOW).unwrap(), [4]);
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
        assert_eq!(pool.take(1, NOW).unwrap(), ['a']);
        assert_eq!(pool.take(1, NOW).unwrap(), ['b']);
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
        assert_eq!(pool.take(8, NOW).unwrap(), [(0, 0), (2, 0)]);
    }

    #[test]
    fn closing_wakes_everybody() {
        let pool = Arc::new(Pool::<u8>::new(1, 1));
        let taker = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.take(4, NOW))
        };
        assert!(pool.close().is_empty());
        assert_eq!(taker.join().unwrap(), None);
        assert_eq!(pool.push((0, 0), 1, || false), Err(1));
    }
}

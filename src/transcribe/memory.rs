//! How many windows the model is given at once: fewer after memory ran out, and slowly more again.

use std::sync::{Mutex, PoisonError};

/// Batches of the full size that must succeed before a larger one is tried.
const GROW_AFTER: usize = 16;

/// The size of a batch, shared by everybody who uses the same memory.
#[derive(Debug)]
pub struct BatchLimit {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    now: usize,
    /// Batches of this size in a row that succeeded.
    good: usize,
    /// The smallest size that is known to have failed, until a larger one succeeds.
    failed: Option<usize>,
}

impl BatchLimit {
    /// Begins with `most`, which it never exceeds.
    pub fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { most, state: Mutex::new(State { now: most, good: 0, failed: None }) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most windows to take now.
    pub fn now(&self) -> usize {
        self.lock().now
    }

    /// Memory ran out with a batch of `windows`: half of that from now on.
    pub fn ran_out(&self, windows: usize) {
        let mut state = self.lock();
        // Several batches may fail at once; each halves its own size, and the smallest counts.
        state.now = state.now.min((windows / 2).max(1));
        state.failed = Some(state.failed.map_or(windows, |f| f.min(windows)));
        state.good = 0;
    }

    /// A batch of `windows` succeeded. After many of the full size, the next may be a quarter larger; the size that
    /// failed is only tried again after four times as many, since what filled the memory may be gone.
    pub fn succeeded(&self, windows: usize) {
        let mut state = self.lock();
        if windows < state.now || state.now == self.most {
            return;
        }
        state.good += 1;
        let larger = (state.now + (state.now / 4).max(1)).min(self.most);
        let wait =
            if state.failed.is_some_and(|failed| larger >= failed) { 4 * GROW_AFTER } else { GROW_AFTER };
        if state.good >= wait {
            state.failed = state.failed.filter(|&failed| larger < failed);
            state.now = larger;
            state.good = 0;
            tracing::info!(windows = larger, "memory suffices; larger batches again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_at_once_and_grows_slowly() {
        let limit = BatchLimit::new(16);
        limit.ran_out(16);
        assert_eq!(limit.now(), 8);
        limit.ran_out(8);
        limit.ran_out(16);
        assert_eq!(limit.now(), 4, "the smallest counts");
        for _ in 0..100 {
            limit.succeeded(1);
        }
        assert_eq!(limit.now(), 4, "a small batch says nothing about a larger one");
        let mut sizes = vec![limit.now()];
        for _ in 0..2_000 {
            limit.succeeded(limit.now());
            if *sizes.last().unwrap() != limit.now() {
                sizes.push(limit.now());
            }
        }
        assert_eq!(sizes, [4, 5, 6, 7, 8, 10, 12, 15, 16]);
    }

    #[test]
    fn what_failed_is_tried_again_only_after_long() {
        let limit = BatchLimit::new(4);
        limit.ran_out(4);
        limit.ran_out(2);
        assert_eq!(limit.now(), 1);
        let until = |size: usize| {
            let mut batches = 0;
            while limit.now() < size {
                limit.succeeded(limit.now());
                batches += 1;
            }
            batches
        };
        assert_eq!(until(2), 4 * GROW_AFTER, "two failed before");
        assert_eq!(until(3), GROW_AFTER);
    }
}

//! Whether the database has answered all along.
//!
//! A worker whose heartbeat is old is dead, or the database was away and nobody could tell of himself. Whoever could not reach
//! it either leaves the others the time to come back before he takes one of them for dead.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two answers lies more than this only where there was none between them, however short the lease: the question
/// is put every second.
const SHORTEST_GAP: Duration = Duration::from_secs(5);
/// Two tries of a pool to connect lie up to two seconds apart, and it may be busy with others first.
const CONNECTING: Duration = Duration::from_secs(3);

/// What this process knows of the database, from a question that it puts all the time.
#[derive(Debug)]
pub(super) struct Contact {
    lease: Duration,
    heard: Mutex<Heard>,
}

#[derive(Debug)]
struct Heard {
    /// When it last answered.
    last: Instant,
    /// The last question failed.
    failed: bool,
    /// When it answered for the first time after it had not.
    back: Option<Instant>,
}

impl Contact {
    /// It answers now. A worker tells that it lives eight times in `lease`.
    pub(super) fn new(lease: Duration) -> Self {
        Self { lease, heard: Mutex::new(Heard { last: Instant::now(), failed: false, back: None }) }
    }

    /// It has answered.
    pub(super) fn answered(&self) {
        self.answered_at(Instant::now());
    }

    /// It has not answered.
    pub(super) fn failed(&self) {
        self.lock().failed = true;
    }

    /// Whether it has answered for so long that every worker that lives has told so.
    pub(super) fn is_steady(&self) -> bool {
        self.is_steady_at(Instant::now())
    }

    fn answered_at(&self, now: Instant) {
        let gap = self.gap();
        let mut heard = self.lock();
        // A question that waited for an outage to end was not answered in between, though it did not fail.
        if heard.failed || now.saturating_duration_since(heard.last) > gap {
            heard.back = Some(now);
        }
        (heard.last, heard.failed) = (now, false);
    }

    fn is_steady_at(&self, now: Instant) -> bool {
        let heard = self.lock();
        let since = |then: Instant| now.saturating_duration_since(then);
        // Two heartbeats: one may just have been missed.
        let settled = |back: Instant| since(back) >= self.lease / 4 + CONNECTING;
        !heard.failed && since(heard.last) <= self.gap() && heard.back.is_none_or(settled)
    }

    /// Silence of ours that others may have taken for death, with something to spare.
    fn gap(&self) -> Duration {
        (self.lease / 2).max(SHORTEST_GAP)
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(120);
    /// See [`Contact::is_steady_at`].
    const GRACE: Duration = Duration::from_secs(33);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn what_answers_every_second_is_steady() {
        let contact = Contact::new(LEASE);
        let start = Instant::now();
        for n in 0..100 {
            contact.answered_at(start + seconds(n));
            assert!(contact.is_steady_at(start + seconds(n + 1)), "{n}");
        }
    }

    #[test]
    fn after_a_failure_the_others_get_time_to_come_back() {
        let contact = Contact::new(LEASE);
        let start = Instant::now();
        contact.failed();
        assert!(!contact.is_steady_at(start), "it is away");
        contact.answered_at(start + seconds(1));
        for n in 2..34 {
            assert!(!contact.is_steady_at(start + seconds(n)), "{n}");
            contact.answered_at(start + seconds(n));
        }
        assert!(contact.is_steady_at(start + seconds(1) + GRACE));
    }

    #[test]
    fn an_answer_that_came_late_is_the_end_of_an_outage() {
        let contact = Contact::new(LEASE);
        let start = Instant::now();
        contact.answered_at(start);
        let back = start + LEASE;
        assert!(!contact.is_steady_at(back), "before the first question is answered");
        contact.answered_at(back);
        assert!(!contact.is_steady_at(back + GRACE - seconds(1)));
        contact.answered_at(back + GRACE - seconds(1));
        assert!(contact.is_steady_at(back + GRACE));
    }

    #[test]
    fn a_slow_answer_is_no_outage() {
        let contact = Contact::new(seconds(2));
        let start = Instant::now();
        contact.answered_at(start);
        contact.answered_at(start + seconds(4));
        assert!(contact.is_steady_at(start + seconds(5)));
    }
}

//! The items whose handlers run in this process, so that a job claimed again finds its handler.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Outcome;
use crate::media::MediaId;

/// An item's job: the item and its generation.
pub(super) type Key = (MediaId, i32);

/// How a handler's task ended.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    /// The handler (or, for an item that needs none, nobody) said so.
    With(Outcome),
    /// The handler could not be run; the job's row gets this message.
    Failed(String),
}

#[derive(Debug)]
struct Entry {
    ended: watch::Receiver<Option<Ended>>,
    since: Instant,
}

/// What is in flight.
#[derive(Debug, Default)]
pub(super) struct InFlight(Mutex<HashMap<Key, Entry>>);

impl InFlight {
    /// Attaches to `key`; where it is new, also returns the end through which its task must tell how it ended.
    pub(super) fn attach(
        &self,
        key: Key,
    ) -> (watch::Receiver<Option<Ended>>, Option<watch::Sender<Option<Ended>>>) {
        let mut entries = self.lock();
        if let Some(entry) = entries.get(&key) {
            return (entry.ended.clone(), None);
        }
        let (sender, receiver) = watch::channel(None);
        entries.insert(key, Entry { ended: receiver.clone(), since: Instant::now() });
        (receiver, Some(sender))
    }

    /// Everything that is in flight, or has ended without having been acted upon.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.lock().keys().copied().collect()
    }

    /// Forgets an item whose end has been acted upon.
    pub(super) fn forget(&self, key: Key) {
        self.lock().remove(&key);
    }

    /// Forgets items that ended and whose job never came back (another process took it), after `age`.
    pub(super) fn forget_ended(&self, age: Duration) {
        self.lock().retain(|_, e| e.ended.borrow().is_none() || e.since.elapsed() < age);
    }

    /// Waits until no handler runs.
    pub(super) async fn all_ended(&self) {
        loop {
            let running = self.lock().values().find(|e| e.ended.borrow().is_none()).map(|e| e.ended.clone());
            let Some(mut ended) = running else { return };
            // An error means that the sender is gone: its task has ended without a word, and so says the watch.
            if ended.wait_for(Option::is_some).await.is_err() {
                self.lock().retain(|_, e| !e.ended.same_channel(&ended));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

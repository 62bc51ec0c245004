//! What this process has in hand: which items, in which step, and whether each is still its own.
//!
//! An item can be taken from a worker: a person cancels it, or another worker takes it over because this one was silent
//! for too long. What is written then is refused by the fence; so that nobody works for that, the database is asked every
//! second whether the fences still stand, and what lost its own is stopped. It is asked, too, whether the queue is paused:
//! an item that waits for its turn in this process is not taken up then. In the same breath the process tells where
//! it is and what it does, for `spoken queue`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::event::Step;
use crate::media::MediaId;
use crate::store::{Claimed, InHand, Store};

/// How often the fences are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a process that has nothing new to tell says that it is there.
const TELL_EVERY: Duration = Duration::from_secs(15);

/// The items in hand.
#[derive(Debug)]
pub(super) struct Hand {
    entries: Mutex<HashMap<MediaId, Entry>>,
    /// Nothing may be taken in hand; what is, is finished.
    paused: watch::Sender<bool>,
}

impl Default for Hand {
    fn default() -> Self {
        Self { entries: Mutex::default(), paused: watch::Sender::new(false) }
    }
}

#[derive(Debug)]
struct Entry {
    fence: i64,
    taken: CancellationToken,
    step: Step,
    since: Instant,
}

/// An item in hand, for as long as this lives.
#[derive(Debug)]
pub(super) struct Held {
    hand: Arc<Hand>,
    claimed: Claimed,
    /// Cancelled when everything stops, or when the item is not this worker's any more.
    pub cancel: CancellationToken,
}

impl Held {
    /// The item enters a step.
    pub fn step(&self, step: Step) {
        if let Some(entry) = self.hand.lock().get_mut(&self.claimed.media_id) {
            (entry.step, entry.since) = (step, Instant::now());
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut entries = self.hand.lock();
        // Claimed anew in the same process meanwhile: that is another's.
        if entries.get(&self.claimed.media_id).is_some_and(|entry| entry.fence == self.claimed.fence) {
            entries.remove(&self.claimed.media_id);
        }
    }
}

impl Hand {
    /// Takes an item in hand; `cancel` stops everything.
    pub fn take(self: &Arc<Self>, claimed: Claimed, cancel: &CancellationToken) -> Held {
        let cancel = cancel.child_token();
        let entry =
            Entry { fence: claimed.fence, taken: cancel.clone(), step: Step::Fetch, since: Instant::now() };
        if let Some(former) = self.lock().insert(claimed.media_id, entry) {
            former.taken.cancel();
        }
        Held { hand: Arc::clone(self), claimed, cancel }
    }

    /// Does `act` unless this process has claimed the item anew since `claimed`: then its files are that claim's. Nobody can
    /// take it meanwhile.
    pub fn unless_taken<T>(&self, claimed: &Claimed, act: impl FnOnce() -> T) -> Option<T> {
        let entries = self.lock();
        entries.get(&claimed.media_id).is_none_or(|entry| entry.fence == claimed.fence).then(act)
    }

    /// Does what must not happen to an item in hand, which nobody can take meanwhile.
    pub fn unless_held<T>(&self, media_id: MediaId, act: impl FnOnce() -> T) -> Option<T> {
        let entries = self.lock();
        (!entries.contains_key(&media_id)).then(act)
    }

    /// Waits while the queue is paused; `false` when told to stop instead.
    pub async fn free(&self, stop: &CancellationToken) -> bool {
        let mut paused = self.paused.subscribe();
        tokio::select! {
            biased;
            () = stop.cancelled() => false,
            // An error means that the sender is gone, and that is us.
            free = paused.wait_for(|paused| !paused) => free.is_ok(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Watches over what is in hand; never ends. What cannot be asked or told is asked and told again.
    pub async fn watch(&self, store: &Store, worker: &str) {
        let mut told: Option<(Vec<(MediaId, Step)>, Instant)> = None;
        loop {
            match store.queue_paused().await {
                Ok(paused) => drop(self.paused.send_replace(paused)),
                Err(error) => tracing::debug!(%error, "cannot tell whether the queue is paused"),
            }
            if let Err(error) = self.let_go_of_what_was_taken(store).await {
                tracing::debug!(%error, "cannot tell whether what is in hand is still ours");
            }
            let steps = self.steps();
            let due = told.as_ref().is_none_or(|(last, at)| *last != steps || at.elapsed() >= TELL_EVERY);
            if due {
                match store.note_in_hand(worker, &self.in_hand()).await {
                    Ok(true) => told = Some((steps, Instant::now())),
                    // Before its first heartbeat.
                    Ok(false) => {}
                    Err(error) => tracing::debug!(%error, "cannot tell what is in hand"),
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn let_go_of_what_was_taken(&self, store: &Store) -> Result<(), crate::store::StoreError> {
        let claims: Vec<Claimed> = self
            .lock()
            .iter()
            .map(|(media_id, entry)| Claimed { media_id: *media_id, fence: entry.fence })
            .collect();
        for lost in store.lost(&claims).await? {
            if let Some(entry) = self.lock().get(&lost.media_id).filter(|entry| entry.fence == lost.fence)
                && !entry.taken.is_cancelled()
            {
                tracing::info!(media_id = %lost.media_id, "the item is not ours any more; it is let go");
                entry.taken.cancel();
            }
        }
        Ok(())
    }

    fn steps(&self) -> Vec<(MediaId, Step)> {
        let mut steps: Vec<_> = self.lock().iter().map(|(id, entry)| (*id, entry.step)).collect();
        steps.sort_unstable_by_key(|(id, _)| *id);
        steps
    }

    fn in_hand(&self) -> Vec<InHand> {
        let told = |(id, entry): (&MediaId, &Entry)| InHand {
            media_id: *id,
            step: entry.step,
            ms: u64::try_from(entry.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        self.lock().iter().map(told).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MediaId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(fence: i64) -> Claimed {
        Claimed { media_id: MediaId::new("test", "a"), fence }
    }

    #[test]
    fn an_item_is_in_hand_until_it_is_dropped() {
        let (hand, all) = (Arc::new(Hand::default()), CancellationToken::new());
        let held = hand.take(claimed(1), &all);
        held.step(Step::Transcribe);
        assert_eq!(hand.steps(), [(claimed(1).media_id, Step::Transcribe)]);
        all.cancel();
        assert!(held.cancel.is_cancelled());
        drop(held);
        assert_eq!(hand.len(), 0);
    }

    #[test]
    fn a_new_claim_of_the_same_item_outlives_the_old_one() {
        let (hand, all) = (Arc::new(Hand::default()), CancellationToken::new());
        let old = hand.take(claimed(1), &all);
        let new = hand.take(claimed(2), &all);
        assert!(old.cancel.is_cancelled() && !new.cancel.is_cancelled());
        assert_eq!(hand.unless_taken(&claimed(1), || ()), None);
        drop(old);
        assert_eq!(hand.len(), 1);
        assert_eq!(hand.unless_taken(&claimed(1), || ()), None);
        assert_eq!(hand.unless_taken(&claimed(2), || ()), Some(()));
        assert_eq!(hand.unless_held(claimed(2).media_id, || ()), None);
        drop(new);
        assert_eq!(hand.len(), 0);
        assert_eq!(hand.unless_taken(&claimed(1), || ()), Some(()));
        assert_eq!(hand.unless_held(claimed(2).media_id, || ()), Some(()));
    }
}

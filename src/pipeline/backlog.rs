//! How far fetching may run ahead of transcribing on other machines: by what waits in the store between them.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::event::{Event, Events};
use crate::store::Store;

/// How long an answer of the database is good for.
const FRESH: Duration = Duration::from_secs(2);
/// How often it is asked while there is too much.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// The limits, and what was seen last.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Most bytes that may wait; 0: any number.
    max_bytes: u64,
    /// Longest audio that may wait, milliseconds; 0: any.
    max_ms: u64,
    /// Asked once for all workers; the lock is held while asking.
    seen: tokio::sync::Mutex<Option<(Instant, Option<String>)>>,
    /// What is told once, and taken back once.
    told: Mutex<bool>,
}

impl Backlog {
    /// Fetching waits while more than `max_bytes` in the store, or `max_ms` of audio, wait for transcribers; 0 stands for
    /// no limit. What is in hand when a limit is reached is finished, so it may be passed by as many items as are
    /// fetched at once.
    pub fn new(max_bytes: u64, max_ms: u64) -> Self {
        Self { max_bytes, max_ms, ..Self::default() }
    }

    /// Waits until there is room; `false` when told to stop instead. Where the database does not answer, the item's own
    /// claim will find out.
    pub async fn room(&self, store: &Store, events: &Events, stop: &CancellationToken) -> bool {
        if self.max_bytes == 0 && self.max_ms == 0 {
            return true;
        }
        loop {
            if stop.is_cancelled() {
                return false;
            }
            let excess = self.excess(store).await;
            self.tell(excess.as_deref(), events);
            if excess.is_none() {
                return true;
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Something was added: the next look asks the database.
    pub fn look_again(&self) {
        if let Ok(mut seen) = self.seen.try_lock() {
            *seen = None;
        }
    }

    /// What there is too much of, if anything.
    async fn excess(&self, store: &Store) -> Option<String> {
        let mut seen = self.seen.lock().await;
        if let Some((when, excess)) = &*seen
            && when.elapsed() < FRESH
        {
            return excess.clone();
        }
        let excess = match store.backlog().await {
            Ok(waiting) if self.max_bytes > 0 && waiting.bytes > self.max_bytes => Some(format!(
                "{} MB of audio wait for transcribers (HANDOVER_MAX_MB={})",
                waiting.bytes >> 20,
                self.max_bytes >> 20
            )),
            Ok(waiting) if self.max_ms > 0 && waiting.audio_ms > self.max_ms => Some(format!(
                "{:.1} h of audio wait for transcribers (HANDOVER_MAX_HOURS={})",
                waiting.audio_ms as f64 / 3_600_000.0,
                self.max_ms as f64 / 3_600_000.0
            )),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(%error, "failed to ask how much waits for transcribers");
                None
            }
        };
        *seen = Some((Instant::now(), excess.clone()));
        excess
    }

    fn tell(&self, excess: Option<&str>, events: &Events) {
        let mut told = self.told.lock().unwrap_or_else(|e| e.into_inner());
        let message = match excess {
            Some(excess) if !*told => format!("fetching waits: {excess}"),
            None if *told => "fetching goes on: transcribers have caught up".to_owned(),
            _ => return,
        };
        *told = excess.is_some();
        events.send(Event::Noticed { warning: false, message });
    }
}

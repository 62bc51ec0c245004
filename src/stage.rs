//! How a stage is doing: measured where items pass, so that the bottleneck is named from numbers.
//!
//! Each stage has one [`StageMeter`]. Its workers receive and send through it, and hold a [`Busy`] guard while
//! they work; what is left of their time is waiting for input or for room in the next stage.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use serde::Serialize;

/// Counts a stage's work. Cheap to share; every figure is a sum over the stage's workers.
#[derive(Debug)]
pub struct StageMeter {
    name: &'static str,
    workers: AtomicUsize,
    busy_us: AtomicU64,
    wait_in_us: AtomicU64,
    wait_out_us: AtomicU64,
    items: AtomicU64,
    in_hand: AtomicUsize,
    queued: AtomicUsize,
    capacity: AtomicUsize,
}

/// What a [`StageMeter`] has counted. Times are sums over the stage's workers, so
/// `busy_ms / (workers × wall time)` is the share of the stage that was busy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StageSummary {
    /// `io`, `speech`, `asr` or `db`.
    pub name: &'static str,
    /// Workers of the stage.
    pub workers: usize,
    /// Milliseconds spent working.
    pub busy_ms: u64,
    /// Milliseconds spent waiting for something to do.
    pub wait_in_ms: u64,
    /// Milliseconds spent waiting for room in the next stage.
    pub wait_out_ms: u64,
    /// Items that left the stage.
    pub items: u64,
    /// Workers busy at this moment.
    #[serde(skip)]
    pub in_hand: usize,
    /// Items waiting in the stage's input channel at this moment.
    #[serde(skip)]
    pub queued: usize,
    /// Capacity of that channel.
    #[serde(skip)]
    pub capacity: usize,
}

impl StageMeter {
    /// A meter for `workers` workers.
    pub fn new(name: &'static str, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            name,
            workers: AtomicUsize::new(workers),
            busy_us: AtomicU64::new(0),
            wait_in_us: AtomicU64::new(0),
            wait_out_us: AtomicU64::new(0),
            items: AtomicU64::new(0),
            in_hand: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            capacity: AtomicUsize::new(0),
        })
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.workers.load(Relaxed)
    }

    /// Sets the number of workers, for a stage that knows it only once it runs.
    pub fn set_workers(&self, workers: usize) {
        self.workers.store(workers, Relaxed);
    }

    /// Marks the calling worker busy until the guard is dropped.
    pub fn busy(self: &Arc<Self>) -> Busy {
        self.in_hand.fetch_add(1, Relaxed);
        Busy { meter: Arc::clone(self), since: Instant::now() }
    }

    /// Counts one item out of the stage.
    pub fn finished(&self) {
        self.items.fetch_add(1, Relaxed);
    }

    /// Notes how full the stage's input is.
    pub fn note_queue(&self, queued: usize, capacity: usize) {
        self.queued.store(queued, Relaxed);
        self.capacity.store(capacity, Relaxed);
    }

    /// Adds time spent waiting for input.
    pub fn waited_in(&self, d: Duration) {
        self.wait_in_us.fetch_add(d.as_micros() as u64, Relaxed);
    }

    /// Adds time spent waiting for room downstream.
    pub fn waited_out(&self, d: Duration) {
        self.wait_out_us.fetch_add(d.as_micros() as u64, Relaxed);
    }

    /// Receives, counting the wait; `None` when the channel is closed and empty.
    pub async fn recv<T>(&self, from: &Receiver<T>) -> Option<T> {
        let start = Instant::now();
        let got = from.recv().await.ok();
        self.waited_in(start.elapsed());
        self.note_queue(from.len(), from.capacity().unwrap_or(0));
        got
    }

    /// As [`Self::recv`], for a worker that is a thread.
    pub fn recv_blocking<T>(&self, from: &Receiver<T>) -> Option<T> {
        let start = Instant::now();
        let got = from.recv_blocking().ok();
        self.waited_in(start.elapsed());
        self.note_queue(from.len(), from.capacity().unwrap_or(0));
        got
    }

    /// Sends, counting the wait; `false` when nobody receives any more.
    pub async fn send<T>(&self, to: &Sender<T>, value: T) -> bool {
        let start = Instant::now();
        let sent = to.send(value).await.is_ok();
        self.waited_out(start.elapsed());
        sent
    }

    /// As [`Self::send`], for a worker that is a thread.
    pub fn send_blocking<T>(&self, to: &Sender<T>, value: T) -> bool {
        let start = Instant::now();
        let sent = to.send_blocking(value).is_ok();
        self.waited_out(start.elapsed());
        sent
    }

    /// What was counted so far.
    pub fn summary(&self) -> StageSummary {
        StageSummary {
            name: self.name,
            workers: self.workers(),
            busy_ms: self.busy_us.load(Relaxed) / 1000,
            wait_in_ms: self.wait_in_us.load(Relaxed) / 1000,
            wait_out_ms: self.wait_out_us.load(Relaxed) / 1000,
            items: self.items.load(Relaxed),
            in_hand: self.in_hand.load(Relaxed),
            queued: self.queued.load(Relaxed),
            capacity: self.capacity.load(Relaxed),
        }
    }
}

/// A worker is busy for as long as this lives.
#[derive(Debug)]
pub struct Busy {
    meter: Arc<StageMeter>,
    since: Instant,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.meter.in_hand.fetch_sub(1, Relaxed);
        self.meter.busy_us.fetch_add(self.since.elapsed().as_micros() as u64, Relaxed);
    }
}

//! Between the job library and the database: decides when a claim is worth a query.
//!
//! Every free slot of the library's worker asks for a job at every tick, each with a query of its own: seventy slots
//! four times a second, also while there is nothing to do. This layer passes everything on but claims. Of these
//!
//! * none is made while the queue is paused, or while this process has no use for another job
//!   ([`super::Queue::claim_while`]): a job that is claimed and waits here could be begun elsewhere, and nothing that is
//!   put first can come before it any more. Those that are claimed and have not come to their handlers yet count, too;
//! * at most [`AT_ONCE`] are made at a time: more would only meet each other's locked rows;
//! * once one has found nothing, the others of the same tick are answered with nothing.
//!
//! A claim is told by its text. Should another version of the library write it differently, nothing is ever paused or
//! saved; the tests of the queue would tell.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use graphile_worker::sqlx::SqlxDatabase;
use graphile_worker::{
    BoxFuture, Database, DatabaseDriver, DbError, DbExecutor, DbParams, DbRow, DbTransaction,
    NotificationStream,
};
use sqlx::postgres::PgPool;
use tokio::sync::Semaphore;

/// Claims of one process that the database sees at a time.
const AT_ONCE: usize = 2;
/// A claimed job that has not come to its handler after this long never will: the library could not run it.
const COMES_WITHIN: Duration = Duration::from_secs(2);

/// When claims are let through, and how long they took.
#[derive(Debug)]
pub(super) struct Gate {
    paused: AtomicBool,
    wanted: Mutex<Wanted>,
    turns: Semaphore,
    /// When claims began whose jobs have not come to their handlers.
    coming: Mutex<VecDeque<Instant>>,
    /// When a claim last found nothing.
    empty: Mutex<Option<Instant>>,
    /// How long that is believed.
    believed: Duration,
    /// Duration of each claim that found a job, and of each that found none; kept only where somebody wants to know.
    times: Option<Mutex<ClaimTimes>>,
}

/// Whether another job is wanted.
struct Wanted(Box<dyn Fn(usize) -> bool + Send + Sync>);

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted").finish_non_exhaustive()
    }
}

/// How long claims took, in the order in which they were made: the statement with its commit, and the wait for a
/// connection.
#[derive(Clone, Debug, Default)]
pub struct ClaimTimes {
    /// Those that found a job.
    pub found: Vec<Duration>,
    /// Those that found none.
    pub none: Vec<Duration>,
}

impl Gate {
    /// For workers that look every `poll_interval`; with `record`, durations are kept.
    pub(super) fn new(poll_interval: Duration, record: bool) -> Self {
        Self {
            paused: AtomicBool::new(false),
            wanted: Mutex::new(Wanted(Box::new(|_| true))),
            turns: Semaphore::new(AT_ONCE),
            coming: Mutex::default(),
            empty: Mutex::new(None),
            // Less than a tick, so that the next one asks again.
            believed: poll_interval.mul_f32(0.6),
            times: record.then(Mutex::default),
        }
    }

    /// From now on no claim is made, or claims are made again; `true` where that is new.
    pub(super) fn set_paused(&self, paused: bool) -> bool {
        self.paused.swap(paused, Ordering::SeqCst) != paused
    }

    /// From now on claims are made only while `wanted` is true of the number of jobs that are on their way to their handlers.
    pub(super) fn claim_while(&self, wanted: impl Fn(usize) -> bool + Send + Sync + 'static) {
        *locked(&self.wanted) = Wanted(Box::new(wanted));
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// What was recorded.
    pub(super) fn times(&self) -> ClaimTimes {
        self.times.as_ref().map(|times| locked(times).clone()).unwrap_or_default()
    }

    fn closed(&self) -> bool {
        self.is_paused()
            || !locked(&self.wanted).0(self.coming())
            || locked(&self.empty).is_some_and(|at| at.elapsed() < self.believed)
    }

    /// A claimed job has come to its handler.
    pub(super) fn arrived(&self) {
        locked(&self.coming).pop_front();
    }

    /// Jobs on their way.
    fn coming(&self) -> usize {
        let mut coming = locked(&self.coming);
        while coming.front().is_some_and(|began| began.elapsed() >= COMES_WITHIN) {
            coming.pop_front();
        }
        coming.len()
    }

    fn note(&self, found: bool, took: Duration) {
        *locked(&self.empty) = (!found).then(Instant::now);
        if let Some(times) = &self.times {
            let mut times = locked(times);
            if found { &mut times.found } else { &mut times.none }.push(took);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The database as the library sees it.
#[derive(Debug)]
struct Claims {
    database: SqlxDatabase,
    gate: Arc<Gate>,
}

/// `pool` behind `gate`.
pub(super) fn behind(gate: Arc<Gate>, pool: PgPool) -> Database {
    Database::new(Claims { database: SqlxDatabase::new(pool), gate })
}

/// The statements that take jobs are the only ones that skip locked rows of the table of jobs.
fn is_claim(sql: &str) -> bool {
    sql.contains("skip locked") && sql.contains("is_available")
}

impl DbExecutor for Claims {
    fn execute<'a>(&'a self, sql: &'a str, params: DbParams) -> BoxFuture<'a, Result<u64, DbError>> {
        self.database.execute(sql, params)
    }

    fn fetch_all<'a>(&'a self, sql: &'a str, params: DbParams) -> BoxFuture<'a, Result<Vec<DbRow>, DbError>> {
        if !is_claim(sql) {
            return self.database.fetch_all(sql, params);
        }
        Box::pin(async move {
            if self.gate.closed() {
                return Ok(Vec::new());
            }
            // Never closed, so that an error cannot be.
            let _turn = self.gate.turns.acquire().await;
            if self.gate.closed() {
                return Ok(Vec::new());
            }
            let asked = Instant::now();
            locked(&self.gate.coming).push_back(asked);
            let claimed = self.database.fetch_all(sql, params).await;
            if claimed.as_ref().map_or(true, Vec::is_empty) {
                locked(&self.gate.coming).pop_back();
            }
            let claimed = claimed?;
            self.gate.note(!claimed.is_empty(), asked.elapsed());
            Ok(claimed)
        })
    }
}

impl DatabaseDriver for Claims {
    fn as_any(&self) -> &dyn Any {
        &self.database
    }

    fn begin<'a>(&'a self) -> BoxFuture<'a, Result<DbTransaction, DbError>> {
        self.database.begin()
    }

    fn listen<'a>(&'a self, channel: &'a str) -> BoxFuture<'a, Result<Option<NotificationStream>, DbError>> {
        self.database.listen(channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_queue_is_believed_for_less_than_a_tick() {
        let gate = Gate::new(Duration::from_millis(50), true);
        assert!(!gate.closed());
        gate.note(false, Duration::from_millis(1));
        assert!(gate.closed());
        gate.note(true, Duration::from_millis(2));
        assert!(!gate.closed(), "one was found meanwhile");
        gate.note(false, Duration::from_millis(3));
        let noted = Instant::now();
        while gate.closed() {
            assert!(noted.elapsed() < Duration::from_millis(50));
            std::thread::yield_now();
        }
        let times = gate.times();
        assert_eq!((times.found.len(), times.none.len()), (1, 2));
    }

    #[test]
    fn nothing_is_claimed_that_is_not_wanted() {
        let (gate, wanted) = (Gate::new(Duration::from_secs(1), false), Arc::new(AtomicBool::new(false)));
        gate.claim_while({
            let wanted = wanted.clone();
            move |coming| wanted.load(Ordering::SeqCst) && coming < 2
        });
        assert!(gate.closed());
        wanted.store(true, Ordering::SeqCst);
        assert!(!gate.closed());
        locked(&gate.coming).extend([Instant::now(), Instant::now()]);
        assert!(gate.closed(), "two are on their way");
        gate.arrived();
        assert!(!gate.closed());
    }

    #[test]
    fn a_change_of_the_pause_is_told_once() {
        let gate = Gate::new(Duration::from_secs(1), false);
        assert!(gate.set_paused(true) && !gate.set_paused(true) && gate.closed());
        assert!(gate.set_paused(false) && !gate.closed());
        gate.note(true, Duration::ZERO);
        assert!(gate.times().found.is_empty(), "nobody wanted to know");
    }
}

//! The durable queue on the real private server.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use spoken::media::MediaId;
use spoken::postgres::{Server, ServerOptions};
use spoken::queue::place::Lane;
use spoken::queue::{JobInfo, Kind, Outcome, Pending, Queue, QueueOptions, work_waits};
use spoken::store::{NewNode, Store, StoreOptions};
use sqlx::postgres::{PgPool, PgPoolOptions};
use tempfile::TempDir;
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::postgres::tools_dir;

/// A server of its own with an empty library, ended with the test whatever its result.
struct Database {
    server: Option<Server>,
    options: ServerOptions,
    url: String,
    pool: PgPool,
    dir: TempDir,
}

impl Database {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = ServerOptions::new(dir.path().join("data"), tools_dir());
        let server = Server::start(&options).await.unwrap();
        let url = server.url().to_owned();
        let pool = PgPoolOptions::new().max_connections(8).connect(&url).await.unwrap();
        let store = Store::connect(&url, &StoreOptions::default()).await.unwrap();
        store.migrate().await.unwrap();
        store.close().await;
        Self { server: Some(server), options, url, pool, dir }
    }

    fn workers_dir(&self) -> PathBuf {
        self.dir.path().join("data/workers")
    }

    fn quick(&self, concurrency: usize) -> QueueOptions {
        let mut options = QueueOptions::new(self.workers_dir(), concurrency);
        options.poll_interval = Duration::from_millis(50);
        options
    }

    async fn queue(&self, concurrency: usize) -> Queue {
        Queue::open(&self.url, self.quick(concurrency)).await.unwrap()
    }

    async fn add_media(&self, count: usize) -> Vec<(MediaId, i32)> {
        let items: Vec<_> = (0..count).map(|n| (MediaId::new("test", &n.to_string()), 0)).collect();
        let ids: Vec<Uuid> = items.iter().map(|(id, _)| id.0).collect();
        add(&self.pool, &ids).await;
        items
    }

    async fn states(&self) -> HashMap<String, i64> {
        sqlx::query_as("select state, count(*) from media group by state")
            .fetch_all(&self.pool)
            .await
            .unwrap()
            .into_iter()
            .collect()
    }

    async fn crashes(&self, item: MediaId) -> (String, i32) {
        sqlx::query_as("select state, crashes from media where media_id = $1")
            .bind(item.0)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    async fn jobs(&self) -> i64 {
        sqlx::query_scalar("select count(*) from graphile_worker._private_jobs")
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    async fn until(&self, what: &str, sql: &'static str) {
        let started = Instant::now();
        while !sqlx::query_scalar::<_, bool>(sql).fetch_one(&self.pool).await.unwrap_or(false) {
            assert!(started.elapsed() < Duration::from_secs(60), "waited too long until {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let server = self.server.take();
        let options = self.options.clone();
        // The test's own runtime may be unwinding.
        let stopped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                drop(server);
                Server::stop(&options).await
            })
        })
        .join();
        if let Ok(Err(error)) = stopped {
            eprintln!("the test's server was left: {error}");
        }
    }
}

/// Items as the queue sees them.
async fn add(pool: &PgPool, ids: &[Uuid]) {
    sqlx::query(
        "insert into media (media_id, extractor, source_id, locator, source, title) \
         select id, 'test', id::text, '{}', id::text, id::text from unnest($1::uuid[]) id",
    )
    .bind(ids)
    .execute(pool)
    .await
    .unwrap();
}

/// What the store does; a claim (`active`) of a waiting item counts an attempt.
async fn set_state(pool: &PgPool, item: MediaId, state: &'static str) {
    sqlx::query(
        "update media set state = $2, fence = fence + 1, updated_at = now(), \
         attempts = attempts + case when $2 = 'active' and state = 'queued' then 1 else 0 end where media_id = $1",
    )
        .bind(item.0)
        .bind(state)
        .execute(pool)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_do_each_of_five_hundred_jobs_once() {
    let db = Database::new().await;
    let items = db.add_media(500).await;
    let queues = [Arc::new(db.queue(16).await), Arc::new(db.queue(16).await)];
    assert_ne!(queues[0].worker_id(), queues[1].worker_id());
    assert!(queues[1].dead().is_empty(), "the first lives");
    let enqueueing = Instant::now();
    queues[0].enqueue(&items, Lane::Ordinary).await.unwrap();
    println!("enqueued 500 in {:?}", enqueueing.elapsed());

    let calls: Arc<Mutex<HashMap<MediaId, usize>>> = Arc::default();
    let (stop, began) = (CancellationToken::new(), Instant::now());
    let running: Vec<_> = queues
        .iter()
        .map(|queue| {
            let (queue, calls, pool, stop) = (queue.clone(), calls.clone(), db.pool.clone(), stop.clone());
            tokio::spawn(async move {
                let handler = move |id: MediaId, _: JobInfo| {
                    let (calls, pool) = (calls.clone(), pool.clone());
                    async move {
                        *calls.lock().unwrap().entry(id).or_default() += 1;
                        set_state(&pool, id, "done").await;
                        Outcome::Done
                    }
                };
                queue.run(handler, stop).await;
            })
        })
        .collect();
    db.until("all are done", "select count(*) = 500 from media where state = 'done'").await;
    println!("500 jobs in {:?} (poll every 50 ms, 2 × 16 slots)", began.elapsed());
    assert!(queues[0].drained().await.unwrap());
    db.until("all jobs are gone", "select count(*) = 0 from graphile_worker._private_jobs").await;
    stop.cancel();
    for run in running {
        run.await.unwrap();
    }
    let calls = std::mem::take(&mut *calls.lock().unwrap());
    assert_eq!(calls.len(), 500);
    assert!(calls.values().all(|&n| n == 1), "some ran twice");
    assert_eq!(queues[0].pending().await.unwrap(), Pending::default());
    for queue in queues {
        Arc::into_inner(queue).unwrap().close().await.unwrap();
    }
    assert_eq!(std::fs::read_dir(db.workers_dir()).unwrap().count(), 0, "identities are gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn enqueueing_again_adds_nothing_and_never_deadlocks() {
    let db = Database::new().await;
    let items = db.add_media(300).await;
    let backwards: Vec<_> = items.iter().rev().copied().collect();
    let queue = db.queue(2).await;
    for _ in 0..5 {
        let (a, b, c) = tokio::join!(
            queue.enqueue(&items, Lane::Ordinary),
            queue.enqueue(&backwards, Lane::Ordinary),
            queue.reconcile()
        );
        a.unwrap();
        b.unwrap();
        c.unwrap();
    }
    assert_eq!(db.jobs().await, 300);
    assert_eq!(queue.pending().await.unwrap().ready, 300);
    // Another generation is another job.
    queue.enqueue(&[(items[0].0, 1)], Lane::Ordinary).await.unwrap();
    assert_eq!(db.jobs().await, 301);
    queue.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_comes_back_after_its_time() {
    let db = Database::new().await;
    let items = db.add_media(1).await;
    let queue = Arc::new(db.queue(2).await);
    queue.enqueue(&items, Lane::Ordinary).await.unwrap();
    let calls: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let stop = CancellationToken::new();
    let run = tokio::spawn({
        let (queue, calls, pool, stop) = (queue.clone(), calls.clone(), db.pool.clone(), stop.clone());
        async move {
            let handler = move |id: MediaId, _: JobInfo| {
                let (calls, pool) = (calls.clone(), pool.clone());
                async move {
                    let first = {
                        let mut calls = calls.lock().unwrap();
                        calls.push(Instant::now());
                        calls.len() == 1
                    };
                    if first {
                        return Outcome::Retry {
                            after: Duration::from_millis(1500),
                            message: "once more".into(),
                        };
                    }
                    set_state(&pool, id, "done").await;
                    Outcome::Done
                }
            };
            queue.run(handler, stop).await;
        }
    });
    db.until(
        "it is scheduled",
        "select count(*) = 1 and bool_and(run_at > now() and key is not null) from graphile_worker._private_jobs",
    )
    .await;
    let pending = queue.pending().await.unwrap();
    assert_eq!((pending.ready, pending.locked, pending.scheduled), (0, 0, 1));
    assert!(pending.next_in.is_some_and(|d| d <= Duration::from_millis(1500)), "{pending:?}");
    db.until("it is done", "select bool_and(state = 'done') from media").await;
    stop.cancel();
    run.await.unwrap();
    let calls = calls.lock().unwrap();
    let waited = calls[1] - calls[0];
    assert_eq!(calls.len(), 2);
    assert!(waited >= Duration::from_millis(1450) && waited < Duration::from_secs(30), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_leaves_the_job_to_its_new_owner() {
    let db = Database::new().await;
    let items = db.add_media(2).await;
    let queue = Arc::new(db.queue(2).await);
    queue.enqueue(&items, Lane::Ordinary).await.unwrap();
    let stop = CancellationToken::new();
    let run = tokio::spawn({
        let (queue, pool, stop) = (queue.clone(), db.pool.clone(), stop.clone());
        let retrying = items[0].0;
        async move {
            let handler = move |id: MediaId, _: JobInfo| {
                let pool = pool.clone();
                async move {
                    sqlx::query("update graphile_worker._private_jobs set locked_by = 'thief' where key like 'media:' || $1 || ':%'")
                        .bind(id.0)
                        .execute(&pool)
                        .await
                        .unwrap();
                    if id == retrying {
                        Outcome::Retry { after: Duration::ZERO, message: "not mine to retry".into() }
                    } else {
                        Outcome::LeaseLost
                    }
                }
            };
            queue.run(handler, stop).await;
        }
    });
    db.until(
        "both are stolen",
        "select count(*) = 2 from graphile_worker._private_jobs where locked_by = 'thief'",
    )
    .await;
    stop.cancel();
    run.await.unwrap();
    let kept: i64 = sqlx::query_scalar(
        "select count(*) from graphile_worker._private_jobs where locked_by = 'thief' and key is not null",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert_eq!((kept, db.jobs().await), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_waits_for_what_is_in_flight_and_takes_nothing_new() {
    let db = Database::new().await;
    let items = db.add_media(10).await;
    let queue = Arc::new(db.queue(3).await);
    queue.enqueue(&items, Lane::Ordinary).await.unwrap();
    let (started, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let stop = CancellationToken::new();
    let run = tokio::spawn({
        let (queue, started, go, pool, stop) =
            (queue.clone(), started.clone(), go.clone(), db.pool.clone(), stop.clone());
        async move {
            let handler = move |id: MediaId, _: JobInfo| {
                let (started, go, pool) = (started.clone(), go.clone(), pool.clone());
                async move {
                    set_state(&pool, id, "active").await;
                    started.fetch_add(1, Ordering::SeqCst);
                    go.acquire().await.unwrap().forget();
                    set_state(&pool, id, "done").await;
                    Outcome::Done
                }
            };
            queue.run(handler, stop).await;
        }
    });
    db.until("three are active", "select count(*) = 3 from media where state = 'active'").await;
    stop.cancel();
    // Longer than the library's own deadline of five seconds would let them live.
    tokio::time::sleep(Duration::from_millis(5500)).await;
    assert!(!run.is_finished());
    go.add_permits(10);
    run.await.unwrap();
    assert_eq!(started.load(Ordering::SeqCst), 3);
    assert_eq!(db.states().await, HashMap::from([("done".into(), 3), ("queued".into(), 7)]));
    let pending = queue.pending().await.unwrap();
    assert_eq!((pending.ready, pending.locked), (7, 0));
    Arc::into_inner(queue).unwrap().close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn items_without_a_job_come_back() {
    let db = Database::new().await;
    let items = db.add_media(5).await;
    set_state(&db.pool, items[1].0, "active").await;
    set_state(&db.pool, items[2].0, "done").await;
    set_state(&db.pool, items[3].0, "failed").await;
    sqlx::query("update media set retry_at = now() + interval '1 hour' where media_id = $1")
        .bind(items[4].0.0)
        .execute(&db.pool)
        .await
        .unwrap();
    let queue = db.queue(2).await;
    assert_eq!(queue.reconcile().await.unwrap(), 3);
    assert_eq!(queue.reconcile().await.unwrap(), 0);
    let pending = queue.pending().await.unwrap();
    assert_eq!((pending.ready, pending.scheduled), (2, 1));
    assert!(pending.next_in.is_some_and(|d| d > Duration::from_secs(3500)));
    assert!(!queue.drained().await.unwrap());
    queue.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_item_is_given_up_in_the_end() {
    let db = Database::new().await;
    let items = db.add_media(1).await;
    // Two panics before this one.
    sqlx::query("update media set crashes = 6").execute(&db.pool).await.unwrap();
    let queue = Arc::new(db.queue(2).await);
    let stop = CancellationToken::new();
    let run = tokio::spawn({
        let (queue, pool, stop) = (queue.clone(), db.pool.clone(), stop.clone());
        async move {
            let handler = move |id: MediaId, _: JobInfo| {
                let pool = pool.clone();
                async move {
                    set_state(&pool, id, "active").await;
                    panic!("as the test wants it")
                }
            };
            queue.run(handler, stop).await;
        }
    });
    db.until("it is given up", "select bool_and(state = 'failed' and error_class = 'crashed') from media")
        .await;
    stop.cancel();
    run.await.unwrap();
    assert_eq!(db.crashes(items[0].0).await, ("failed".into(), 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_database_costs_nothing_in_flight() {
    let db = Database::new().await;
    let items = db.add_media(4).await;
    // Six slots: four are busy, two ask the database and find it gone.
    let queue = Arc::new(db.queue(6).await);
    queue.enqueue(&items, Lane::Ordinary).await.unwrap();
    let (calls, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let stop = CancellationToken::new();
    let run = tokio::spawn({
        let (queue, calls, go, pool, stop) =
            (queue.clone(), calls.clone(), go.clone(), db.pool.clone(), stop.clone());
        async move {
            let handler = move |id: MediaId, _: JobInfo| {
                let (calls, go, pool) = (calls.clone(), go.clone(), pool.clone());
                async move {
                    set_state(&pool, id, "active").await;
                    calls.fetch_add(1, Ordering::SeqCst);
                    go.acquire().await.unwrap().forget();
                    set_state(&pool, id, "done").await;
                    Outcome::Done
                }
            };
            queue.run(handler, stop).await;
        }
    });
    db.until("four are active", "select count(*) = 4 from media where state = 'active'").await;
    sqlx::query("create table before as select locked_by from graphile_worker._private_jobs where locked_by is not null")
        .execute(&db.pool)
        .await
        .unwrap();
    // Behind the server's back: a fast shutdown, then a start.
    let pid_file = db.options.data_dir.join("postgres/data/postmaster.pid");
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().lines().next().unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT).unwrap();
    let outage = Instant::now();
    while pid_file.exists() {
        assert!(outage.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // An outage of a second; a shorter one can pass between two queries and is not even noticed.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let again = Server::start(&db.options).await.unwrap();
    db.until(
        "a new worker has the same jobs",
        "select count(*) = 4 from graphile_worker._private_jobs where locked_by is not null \
         and locked_by not in (select locked_by from before)",
    )
    .await;
    println!("workers were back {:?} after the shutdown", outage.elapsed());
    assert_eq!(calls.load(Ordering::SeqCst), 4, "attached, not started again");
    go.add_permits(5);
    db.until("all are done", "select count(*) = 4 from media where state = 'done'").await;
    db.until("no job is left", "select count(*) = 0 from graphile_worker._private_jobs").await;
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    let late = MediaId::new("test", "late");
    add(&db.pool, &[late.0]).await;
    queue.enqueue(&[(late, 0)], Lane::Ordinary).await.unwrap();
    db.until("new work is done too", "select count(*) = 5 from media where state = 'done'").await;
    stop.cancel();
    run.await.unwrap();
    again.close().await.unwrap();
}

/// Not a test: what the tests of sudden death run in a process of its own. One item, named by `KILLER`, ends the
/// process with the signal `SIGNAL` as soon as it has it; others take a moment. With `HOLD`, all are held for ever.
#[tokio::test(flavor = "multi_thread")]
async fn child_process() {
    let Ok(url) = std::env::var("SPOKEN_TEST_CHILD_URL") else { return };
    let workers_dir = std::env::var("SPOKEN_TEST_CHILD_WORKERS").unwrap();
    let killer: Option<MediaId> =
        std::env::var("SPOKEN_TEST_CHILD_KILLER").ok().map(|id| id.parse().unwrap());
    let signal: nix::sys::signal::Signal = std::env::var("SPOKEN_TEST_CHILD_SIGNAL")
        .map_or(nix::sys::signal::Signal::SIGKILL, |s| s.parse().unwrap());
    let hold = std::env::var("SPOKEN_TEST_CHILD_HOLD").is_ok();
    let takes: u64 = std::env::var("SPOKEN_TEST_CHILD_TAKES_MS").map_or(200, |ms| ms.parse().unwrap());
    let pool = PgPoolOptions::new().max_connections(4).connect(&url).await.unwrap();
    let mut options = QueueOptions::new(workers_dir, 8);
    options.poll_interval = Duration::from_millis(50);
    let mut queue = Queue::open(&url, options).await.unwrap();
    queue.bury_dead();
    let stop = CancellationToken::new();
    let ended = stop.clone();
    let handler = move |id: MediaId, _: JobInfo| {
        let pool = pool.clone();
        async move {
            set_state(&pool, id, "active").await;
            if hold {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(takes)).await;
            if killer == Some(id) {
                if signal == nix::sys::signal::Signal::SIGSEGV {
                    // A real fault: the standard library's handler lets a raised one pass.
                    // SAFETY: not safe, and meant to end the process; nothing is read, the page is never mapped.
                    unsafe { std::hint::black_box(std::ptr::null::<u8>()).read_volatile() };
                }
                let _ = nix::sys::signal::raise(signal);
            }
            set_state(&pool, id, "done").await;
            Outcome::Done
        }
    };
    let watch = async {
        while !queue.drained().await.unwrap_or(false) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.cancel();
    };
    tokio::join!(queue.run(handler, ended), watch);
    queue.close().await.unwrap();
}

fn child(db: &Database) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["queue::child_process", "--exact", "--nocapture"])
        .env("SPOKEN_TEST_CHILD_URL", &db.url)
        .env("SPOKEN_TEST_CHILD_WORKERS", db.workers_dir())
        .stdout(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_sudden_death_work_resumes_at_once() {
    let db = Database::new().await;
    let items = db.add_media(3).await;
    let queue = db.queue(3).await;
    queue.enqueue(&items, Lane::Ordinary).await.unwrap();
    queue.close().await.unwrap();
    let mut dying = child(&db).env("SPOKEN_TEST_CHILD_HOLD", "1").spawn().unwrap();
    db.until("all are active", "select count(*) = 3 from media where state = 'active'").await;
    dying.kill().unwrap();
    dying.wait().unwrap();

    let opening = Instant::now();
    let mut queue = db.queue(3).await;
    let dead = queue.dead();
    assert_eq!(dead.len(), 1);
    let second = db.queue(3).await;
    assert!(second.dead().is_empty(), "one heir is enough");
    second.close().await.unwrap();
    queue.bury_dead();
    assert_eq!(identities(&db.workers_dir()), 1);
    assert_eq!(queue.pending().await.unwrap().ready, 3);
    assert_eq!(db.crashes(items[0].0).await, ("queued".into(), 1));

    let (stop, all) = (CancellationToken::new(), Arc::new(Notify::new()));
    let left = Arc::new(AtomicUsize::new(3));
    let handler = {
        let (pool, left, all) = (db.pool.clone(), left.clone(), all.clone());
        move |id: MediaId, info: JobInfo| {
            let (pool, left, all) = (pool.clone(), left.clone(), all.clone());
            async move {
                assert_eq!(info.crashes, 1);
                set_state(&pool, id, "done").await;
                if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                    all.notify_one();
                }
                Outcome::Done
            }
        }
    };
    let finish = async {
        all.notified().await;
        println!("resumed and done {:?} after the next start", opening.elapsed());
        stop.cancel();
    };
    tokio::join!(queue.run(handler, stop.clone()), finish);
    assert_eq!(db.jobs().await, 0);
    queue.close().await.unwrap();
}

fn identities(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// Runs children until one ends in order; returns how many died, and checks that all but the killer were done.
async fn deaths_by(signal: nix::sys::signal::Signal) -> usize {
    let db = Database::new().await;
    let items = db.add_media(12).await;
    let killer = items[5].0;
    let queue = db.queue(2).await;
    queue.enqueue(&items, Lane::Ordinary).await.unwrap();
    queue.close().await.unwrap();
    let mut deaths = 0;
    loop {
        let status = child(&db)
            .env("SPOKEN_TEST_CHILD_KILLER", killer.to_string())
            .env("SPOKEN_TEST_CHILD_SIGNAL", signal.as_str())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        if status.success() {
            break;
        }
        assert_eq!(status.signal(), Some(signal as i32), "{status}");
        deaths += 1;
        assert!(deaths < 20, "it never ends");
    }
    assert_eq!(db.states().await, HashMap::from([("done".into(), 11), ("failed".into(), 1)]));
    assert!(db.crashes(killer).await.1 >= 9);
    let remedy: Option<String> = sqlx::query_scalar("select remedy from media where error_class = 'crashed'")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert!(remedy.is_some_and(|r| r.contains("spoken retry")));
    assert_eq!((db.jobs().await, identities(&db.workers_dir())), (0, 0));
    deaths
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_crashes_the_process_is_found_and_the_others_are_done() {
    // Three in company (eight slots), then two alone; fewer where a death finds the item alone by chance.
    for signal in [nix::sys::signal::Signal::SIGABRT, nix::sys::signal::Signal::SIGSEGV] {
        let deaths = deaths_by(signal).await;
        assert!((3..=5).contains(&deaths), "{deaths} by {signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_gets_the_process_killed_is_found_later() {
    assert_eq!(deaths_by(nix::sys::signal::Signal::SIGKILL).await, 9);
}

/// Twenty times `kill -9`, at moments spread over the first second of each run: forty innocent items are all done.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_killed_twenty_times_gives_up_nothing() {
    let db = Database::new().await;
    let items = db.add_media(40).await;
    let queue = db.queue(2).await;
    queue.enqueue(&items, Lane::Ordinary).await.unwrap();
    queue.close().await.unwrap();
    for kill in 0..20u64 {
        // Most runs end before any item is done.
        let mut dying = child(&db).env("SPOKEN_TEST_CHILD_TAKES_MS", "700").spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(kill * 617 % 1000)).await;
        dying.kill().unwrap();
        dying.wait().unwrap();
    }
    assert!(child(&db).status().unwrap().success());
    assert_eq!(db.states().await, HashMap::from([("done".into(), 40)]));
    let (worst, attempts): (i32, i32) =
        sqlx::query_as("select max(crashes), max(attempts) from media").fetch_one(&db.pool).await.unwrap();
    println!("worst score {worst}");
    assert_eq!(attempts, 1, "a death costs no attempt");
    assert_eq!((db.jobs().await, identities(&db.workers_dir())), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn deaths_in_company_and_deaths_on_request_give_up_nobody() {
    let db = Database::new().await;
    let items = db.add_media(4).await;
    let queue = db.queue(2).await;
    queue.enqueue(&items, Lane::Ordinary).await.unwrap();
    queue.close().await.unwrap();
    for death in 1..=3 {
        let mut dying = child(&db).env("SPOKEN_TEST_CHILD_HOLD", "1").spawn().unwrap();
        let held = "select count(*) = 4 from graphile_worker._private_jobs j where locked_by is not null \
                    and exists (select from graphile_worker._private_workers w where w.id = j.locked_by)";
        db.until("all are held", held).await;
        db.until("all are active", "select bool_and(state = 'active') from media").await;
        dying.kill().unwrap();
        dying.wait().unwrap();
        db.queue(1).await.close().await.unwrap();
        assert_eq!(db.crashes(items[0].0).await.1, death);
    }
    assert_eq!(db.states().await, HashMap::from([("queued".into(), 4)]));

    // A process that was asked to stop and then killed: its identity says so.
    let queue = Arc::new(AsyncMutex::new(Some(db.queue(4).await)));
    let stop = CancellationToken::new();
    let run = tokio::spawn({
        let (queue, pool, stop) = (queue.clone(), db.pool.clone(), stop.clone());
        async move {
            let handler = move |id: MediaId, _: JobInfo| {
                let pool = pool.clone();
                async move {
                    set_state(&pool, id, "active").await;
                    std::future::pending().await
                }
            };
            let queue = queue.lock().await.take().unwrap();
            queue.run(handler, stop).await;
        }
    });
    // Suspects run one at a time.
    db.until("one is active", "select count(*) = 1 from media where state = 'active'").await;
    stop.cancel();
    let leaving = Instant::now();
    let noted = || {
        std::fs::read_dir(db.workers_dir())
            .unwrap()
            .flatten()
            .any(|entry| std::fs::read_to_string(entry.path()).unwrap_or_default().contains("leaving"))
    };
    while !noted() {
        assert!(leaving.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The others had not begun and went back at once.
    db.until(
        "the rest is back",
        "select count(*) = 1 from graphile_worker._private_jobs where locked_by is not null",
    )
    .await;
    run.abort();
    let _ = run.await;
    let heir = db.queue(1).await;
    assert_eq!(heir.dead().len(), 1);
    let worst: i32 = sqlx::query_scalar("select max(crashes) from media").fetch_one(&db.pool).await.unwrap();
    assert_eq!(worst, 3, "a wanted death is not charged");
    heir.close().await.unwrap();
}

/// Processor time of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    // Fields 14 and 15 of proc(5), in hundredths.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Prints what a claim costs; asserts that it is not absurd, and that idle slots do not all ask.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_quick_and_idling_is_cheap() {
    let db = Database::new().await;
    let queue = Arc::new(Queue::open(&db.url, QueueOptions::new(db.workers_dir(), 64)).await.unwrap());
    let seen = Arc::new(Notify::new());
    let stop = CancellationToken::new();
    let run = tokio::spawn({
        let (queue, seen, pool, stop) = (queue.clone(), seen.clone(), db.pool.clone(), stop.clone());
        async move {
            let handler = move |id: MediaId, _: JobInfo| {
                let (seen, pool) = (seen.clone(), pool.clone());
                async move {
                    seen.notify_one();
                    set_state(&pool, id, "done").await;
                    Outcome::Done
                }
            };
            queue.run(handler, stop).await;
        }
    });
    let mut waits = Vec::new();
    for n in 0..=20 {
        let item = MediaId::new("test", &n.to_string());
        add(&db.pool, &[item.0]).await;
        let asked = Instant::now();
        queue.enqueue(&[(item, 0)], Lane::Ordinary).await.unwrap();
        seen.notified().await;
        waits.push(asked.elapsed());
    }
    waits.remove(0);
    waits.sort();
    let (began, used) = (Instant::now(), cpu_seconds());
    let queries = "select xact_commit from pg_stat_database where datname = current_database()";
    let before: i64 = sqlx::query_scalar(queries).fetch_one(&db.pool).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after: i64 = sqlx::query_scalar(queries).fetch_one(&db.pool).await.unwrap();
    let seconds = began.elapsed().as_secs_f64();
    let rate = (after - before) as f64 / seconds;
    println!(
        "64 idle slots: {rate:.0} transactions/s, {:.1} % of a core here (the server uses about as much)",
        (cpu_seconds() - used) * 100.0 / seconds
    );
    // Four ticks a second, one or two claims each; the pause, heartbeats. Each slot for itself: 256.
    assert!(rate < 60.0, "{rate} transactions a second for nothing");
    println!(
        "from enqueue to handler: median {:?}, worst {:?}",
        waits[waits.len() / 2],
        waits[waits.len() - 1]
    );
    assert!(waits[waits.len() - 1] < Duration::from_secs(60));
    stop.cancel();
    run.await.unwrap();
}

#[tokio::test]
async fn work_waits_where_no_living_process_has_it() {
    let database = Database::new().await;
    let store = Store::connect(&database.url, &StoreOptions::default()).await.unwrap();
    let options = database.quick(1);
    let waits = async || work_waits(&database.pool, &options, Duration::ZERO).await.unwrap();
    let execute = async |sql: &'static str| {
        sqlx::query(sql).execute(&database.pool).await.unwrap();
    };
    assert!(!waits().await, "there is nothing");
    database.add_media(1).await;
    assert!(waits().await, "it is queued");

    // An import is not among the nodes, and lives for as long as its claim is young.
    execute("update media set state = 'active', worker = 'import', started_at = now()").await;
    assert!(!waits().await, "it was claimed just now");
    execute("update media set started_at = now() - interval '119 seconds'").await;
    assert!(!waits().await, "within the lease");
    execute("update media set started_at = now() - interval '121 seconds'").await;
    assert!(waits().await, "nobody has it");

    // A node has it for as long as it is heard of.
    let node_id = Uuid::now_v7();
    let node = NewNode { node_id, host: "far".into(), pid: 1, role: "all", device: None };
    store.node_started(&node).await.unwrap();
    execute("update media set worker = (select node_id::text from nodes)").await;
    assert!(!waits().await, "its worker lives");
    execute("update nodes set heartbeat_at = now() - interval '121 seconds'").await;
    assert!(waits().await, "its worker was not heard of for a lease");

    // On this machine the dead are known at once.
    execute("update nodes set heartbeat_at = now()").await;
    assert!(!waits().await);
    std::fs::create_dir_all(database.workers_dir()).unwrap();
    let identity = std::fs::File::create(database.workers_dir().join(format!("{node_id}.lock"))).unwrap();
    identity.lock().unwrap();
    assert!(!waits().await, "somebody holds the identity");
    drop(identity);
    assert!(waits().await, "nobody does");
    store.close().await;
}

#[tokio::test]
async fn what_others_have_to_do_is_no_work_for_this_process() {
    let database = Database::new().await;
    let items = database.add_media(3).await;
    let mut options = database.quick(1);
    options.kinds = vec![Kind::Transcribe];
    let queue = Queue::open(&database.url, options.clone()).await.unwrap();
    queue.enqueue(&items, Lane::Ordinary).await.unwrap();
    assert_eq!(queue.pending().await.unwrap(), Pending::default(), "they are to be fetched");
    assert!(!work_waits(&database.pool, &options, Duration::ZERO).await.unwrap());
    options.kinds = vec![Kind::Fetch];
    assert!(work_waits(&database.pool, &options, Duration::ZERO).await.unwrap());
    queue.close().await.unwrap();
    let queue = Queue::open(&database.url, options).await.unwrap();
    assert_eq!(queue.pending().await.unwrap().ready, 3);
    queue.close().await.unwrap();
}

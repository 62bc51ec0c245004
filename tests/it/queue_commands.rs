//! Steering the queue: order, pause, cancel, retry, and what `spoken queue` shows.

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use spoken::media::{Coverage, Failure, FailureClass, Flag, MediaId, Metadata, State};
use spoken::queue::place::Lane;
use spoken::queue::{Cancel, Control, Entry, JobInfo, Outcome, PauseEnd, Queue, QueueOptions, Steered};
use spoken::store::{Attempt, SaveError, Selection, Store, StoreOptions};
use tokio_util::sync::CancellationToken;

use super::cli::{Library, Working, names, speeches, until};
use super::ingest::TALKS;
use super::server::{Fault, Page, Server};
use super::store::{claim, database, item, model, passages, segment, transcript};

/// A library without the program: its store, its queue's controls, and a place for identities.
struct Bare {
    url: String,
    store: Store,
    control: Control,
    dir: tempfile::TempDir,
}

impl Bare {
    async fn new() -> Self {
        let url = database().await;
        let store = Store::connect(&url, &StoreOptions::default()).await.unwrap();
        store.migrate().await.unwrap();
        let control = Control::open(store.pool()).await.unwrap();
        Self { url, store, control, dir: tempfile::tempdir().unwrap() }
    }

    async fn add(&self, names: &[&str]) -> Vec<MediaId> {
        let items: Vec<_> = names.iter().map(|name| item(name)).collect();
        self.store.upsert_many(&items, "test").await.unwrap();
        items.iter().map(|item| item.media_id).collect()
    }

    async fn queue(&self, concurrency: usize) -> Queue {
        let mut options = QueueOptions::new(self.dir.path().join("workers"), concurrency);
        options.poll_interval = Duration::from_millis(20);
        options.record_claims = true;
        Queue::open(&self.url, options).await.unwrap()
    }

    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.store.pool()).await.unwrap()
    }

    async fn until(&self, what: &str, sql: &'static str) {
        let started = Instant::now();
        while self.number(sql).await != 0 {
            assert!(started.elapsed() < Duration::from_secs(60), "waited too long until {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

const UNFINISHED: &str = "select count(*) from media where state in ('queued', 'active')";
const JOBS: &str = "select count(*) from graphile_worker._private_jobs";

/// Works everything off, one at a time; in which order that was.
async fn order(bare: &Bare) -> Vec<String> {
    let queue = bare.queue(1).await;
    let served: Arc<Mutex<Vec<String>>> = Arc::default();
    let stop = CancellationToken::new();
    let handler = {
        let (store, served) = (bare.store.clone(), served.clone());
        move |id: MediaId, _: JobInfo| {
            let (store, served) = (store.clone(), served.clone());
            async move {
                let row = store.media(id).await.unwrap().unwrap();
                served.lock().unwrap().push(row.title);
                sqlx::query("update media set state = 'done' where media_id = $1")
                    .bind(id.0)
                    .execute(store.pool())
                    .await
                    .unwrap();
                Outcome::Done
            }
        }
    };
    let end = async {
        bare.until("all are done", UNFINISHED).await;
        stop.cancel();
    };
    tokio::join!(queue.run(handler, stop.clone()), end);
    queue.close().await.unwrap();
    Arc::into_inner(served).unwrap().into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_claimed_by_lane_then_by_handicap() {
    let bare = Bare::new().await;
    let names = ["long", "short", "middle", "begun", "bumped", "first", "rest 1", "rest 2"];
    let ids = bare.add(&names).await;
    let entry = |n: usize, minutes: u64| Entry {
        handicap: Duration::from_secs(60 * minutes),
        ..Entry::new(ids[n], 0)
    };
    bare.control.enqueue(&[entry(0, 600), entry(1, 1), entry(2, 60)], Lane::Ordinary).await.unwrap();
    bare.control.enqueue(&[entry(3, 0)], Lane::Begun).await.unwrap();
    bare.control.enqueue(&[entry(6, 90), entry(7, 90)], Lane::Ordinary).await.unwrap();
    // Asked for twice, nobody moves.
    bare.control.enqueue(&[entry(2, 0), entry(0, 0)], Lane::First).await.unwrap();
    bare.control.enqueue(&[entry(5, 0)], Lane::First).await.unwrap();
    // Not queued at all before.
    assert_eq!(bare.control.bump(&[ids[4]]).await.unwrap(), [Steered::Waited]);
    assert_eq!(
        order(&bare).await,
        ["bumped", "first", "begun", "short", "middle", "rest 1", "rest 2", "long"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_bumped_is_first_and_a_scheduled_one_need_not_wait() {
    let bare = Bare::new().await;
    let ids = bare.add(&["a", "b", "c", "d"]).await;
    let entries: Vec<Entry> = ids.iter().map(|id| Entry::new(*id, 0)).collect();
    bare.control.enqueue(&entries, Lane::Ordinary).await.unwrap();
    let work = claim(&bare.store, &item("d")).await;
    let failure = Failure::new(FailureClass::Network, "gone");
    bare.store.delay(&work.claimed, &failure, Duration::from_secs(3600), Attempt::Counts).await.unwrap();
    sqlx::query("update graphile_worker._private_jobs set run_at = now() + interval '1 hour' where key like '%' || $1 || '%'")
        .bind(ids[3].0)
        .execute(bare.store.pool())
        .await
        .unwrap();

    let overview = bare.control.overview(10).await.unwrap();
    assert_eq!((overview.counts.waiting, overview.counts.scheduled), (3, 1));
    assert_eq!(overview.waiting.iter().map(|w| w.title.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    let scheduled = &overview.scheduled[0];
    assert_eq!((scheduled.title.as_str(), scheduled.class.as_deref()), ("d", Some("network")));
    let wait = (scheduled.due_at - overview.at).num_seconds();
    assert!((3500..=3600).contains(&wait), "{wait}");

    bare.control.bump(&[ids[1]]).await.unwrap();
    let steered = bare.control.bump(&[ids[3], ids[2], MediaId::new("test", "unknown")]).await.unwrap();
    assert_eq!(steered, [Steered::Waited, Steered::Waited, Steered::Neither]);
    let overview = bare.control.overview(10).await.unwrap();
    assert_eq!(
        overview.waiting.iter().map(|w| (w.title.as_str(), w.first)).collect::<Vec<_>>(),
        [("d", true), ("c", true), ("b", true), ("a", false)]
    );
    assert_eq!(order(&bare).await, ["d", "c", "b", "a"]);
}

/// In which order an item comes back that was delayed for a second at its first turn, when nobody else was there: ten of
/// less handicap came meanwhile, of which the fifth waits until the delay is over, and five of more. `attempts` is what the
/// store counted.
async fn comes_back(attempts: i32) -> Vec<String> {
    let bare = Bare::new().await;
    let names: Vec<String> =
        (0..10).map(|n| format!("before {n}")).chain((0..5).map(|n| format!("after {n}"))).collect();
    let entry = |id: MediaId, minutes: u64| Entry {
        handicap: Duration::from_secs(60 * minutes),
        ..Entry::new(id, 0)
    };
    let delayed = bare.add(&["delayed"]).await[0];
    sqlx::query("update media set attempts = $1").bind(attempts).execute(bare.store.pool()).await.unwrap();
    bare.control.enqueue(&[entry(delayed, 60)], Lane::Ordinary).await.unwrap();
    let others: Vec<_> = names.iter().map(|name| item(name)).collect();
    let entries: Vec<Entry> =
        (0..).zip(&others).map(|(n, item)| entry(item.media_id, if n < 10 { n } else { 90 })).collect();
    let queue = bare.queue(1).await;
    let served: Arc<Mutex<Vec<String>>> = Arc::default();
    let stop = CancellationToken::new();
    let handler = {
        let (store, control, served) = (bare.store.clone(), bare.control.clone(), served.clone());
        move |id: MediaId, _: JobInfo| {
            let (store, control, served) = (store.clone(), control.clone(), served.clone());
            let (others, entries) = (others.clone(), entries.clone());
            async move {
                let title = store.media(id).await.unwrap().unwrap().title;
                let first = served.lock().unwrap().is_empty();
                served.lock().unwrap().push(title.clone());
                if first {
                    // Jobs first, so that the reconciler gives them none.
                    control.enqueue(&entries, Lane::Ordinary).await.unwrap();
                    store.upsert_many(&others, "test").await.unwrap();
                    return Outcome::Retry { after: Duration::from_secs(1), message: "later".into() };
                }
                if title == "before 4" {
                    let due = "select count(*) from graphile_worker._private_jobs j join media m \
                        on j.key = 'media:' || m.media_id || ':0' \
                        where m.title = 'delayed' and (j.run_at > now() or j.priority > 0)";
                    let asked = Instant::now();
                    while sqlx::query_scalar::<_, i64>(due).fetch_one(store.pool()).await.unwrap() != 0 {
                        assert!(asked.elapsed() < Duration::from_secs(60), "it is never due");
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                sqlx::query("update media set state = 'done' where media_id = $1")
                    .bind(id.0)
                    .execute(store.pool())
                    .await
                    .unwrap();
                Outcome::Done
            }
        }
    };
    let end = async {
        bare.until("all are done", UNFINISHED).await;
        stop.cancel();
    };
    tokio::join!(queue.run(handler, stop.clone()), end);
    queue.close().await.unwrap();
    Arc::into_inner(served).unwrap().into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_tried_comes_back_first_and_what_was_put_off_to_its_place() {
    let others = |from: &str, numbers: std::ops::Range<usize>| {
        numbers.map(|n| format!("{from} {n}")).collect::<Vec<_>>()
    };
    let again = ["delayed".to_owned()];
    let (tried, put_off) = (comes_back(1).await, comes_back(0).await);
    assert_eq!(
        tried,
        [&again[..], &others("before", 0..5), &again, &others("before", 5..10), &others("after", 0..5)]
            .concat()
    );
    assert_eq!(put_off, [&again[..], &others("before", 0..10), &again, &others("after", 0..5)].concat());
}

/// Counts what it is given, and sets it done.
fn counting(
    store: &Store,
    calls: &Arc<Mutex<HashMap<MediaId, usize>>>,
) -> impl Fn(MediaId, JobInfo) -> Handled + use<> {
    let (store, calls) = (store.clone(), calls.clone());
    move |id, _| {
        let (store, calls) = (store.clone(), calls.clone());
        Box::pin(async move {
            *calls.lock().unwrap().entry(id).or_default() += 1;
            sqlx::query("update media set state = 'done' where media_id = $1")
                .bind(id.0)
                .execute(store.pool())
                .await
                .unwrap();
            Outcome::Done
        })
    }
}

type Handled = std::pin::Pin<Box<dyn Future<Output = Outcome> + Send>>;

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_every_worker_and_ends_by_itself_or_on_request() {
    let bare = Bare::new().await;
    let calls = Arc::default();
    let queues = [Arc::new(bare.queue(8).await), Arc::new(bare.queue(8).await)];
    let stop = CancellationToken::new();
    let runs: Vec<_> = queues
        .iter()
        .map(|queue| {
            let (queue, stop, handler) = (queue.clone(), stop.clone(), counting(&bare.store, &calls));
            tokio::spawn(async move { queue.run(handler, stop).await })
        })
        .collect();
    let seen = async |paused: bool| {
        let began = Instant::now();
        while queues.iter().any(|queue| queue.is_paused() != paused) {
            assert!(began.elapsed() < Duration::from_secs(30), "not seen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        began.elapsed()
    };

    let pause = bare.control.pause(PauseEnd::Open).await.unwrap();
    assert_eq!((pause.until, bare.control.paused().await.unwrap()), (None, Some(pause)));
    let took = seen(true).await;
    assert!(took < Duration::from_secs(3), "seen after {took:?}");
    let ids = bare.add(&["a", "b", "c"]).await;
    let entries: Vec<Entry> = ids.iter().map(|id| Entry::new(*id, 0)).collect();
    let asked =
        || queues.iter().map(|q| q.claim_times()).map(|t| t.found.len() + t.none.len()).sum::<usize>();
    let before = asked();
    queues[0].enqueue_entries(&entries, Lane::Ordinary).await.unwrap();
    // Fifty ticks: without the pause, all would be done after one.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        (calls.lock().unwrap().len(), asked()),
        (0, before),
        "nothing is asked for while it is paused"
    );
    assert_eq!(bare.control.overview(10).await.unwrap().counts.waiting, 3);

    assert!(bare.control.resume().await.unwrap());
    assert!(!bare.control.resume().await.unwrap());
    bare.until("the three are done", UNFINISHED).await;

    // By itself, and with a new end given meanwhile.
    let first = bare.control.pause(PauseEnd::Open).await.unwrap();
    seen(true).await;
    let second = bare.control.pause(PauseEnd::After(Duration::from_secs(2))).await.unwrap();
    assert_eq!(first.since, second.since, "it is the same pause");
    let late = bare.add(&["d"]).await;
    queues[0].enqueue(&[(late[0], 0)], Lane::Ordinary).await.unwrap();
    bare.until("the late one is done", UNFINISHED).await;
    assert_eq!(bare.control.paused().await.unwrap(), None);
    let now = bare.control.now().await.unwrap();
    assert!(second.until.is_some_and(|until| until <= now), "not before its end");
    let third = bare.control.pause(PauseEnd::At(now + chrono::TimeDelta::hours(1))).await.unwrap();
    assert!(third.since >= now, "a pause that is over is not taken up again");

    stop.cancel();
    for run in runs {
        run.await.unwrap();
    }
    assert!(calls.lock().unwrap().values().all(|n| *n == 1));
    for queue in queues {
        Arc::into_inner(queue).unwrap().close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_is_refused_and_comes_back_only_when_asked_for() {
    let bare = Bare::new().await;
    let ids = bare.add(&["waiting", "running", "done", "other"]).await;
    let entries: Vec<Entry> = ids.iter().map(|id| Entry::new(*id, 0)).collect();
    bare.control.enqueue(&entries, Lane::Ordinary).await.unwrap();
    let running = claim(&bare.store, &item("running")).await;
    let save = async |work: &spoken::store::Work, text: &str| {
        let segments = vec![segment(0, 1000, "en", text)];
        let passages = passages(&segments, 1);
        let vectors = vec![vec![0.5; 4]];
        let metadata = Metadata::default();
        bare.store
            .complete(&work.claimed, &metadata, &transcript(segments), &passages, &vectors, &model())
            .await
    };
    let done = claim(&bare.store, &item("done")).await;
    save(&done, "kept").await.unwrap();

    let mut taken = bare.control.cancel(&Cancel::Ids(ids[..3].to_vec())).await.unwrap();
    taken.sort_by_key(|(id, _)| ids.iter().position(|known| known == id));
    assert_eq!(taken, [(ids[0], Steered::Waited), (ids[1], Steered::Active)]);
    assert!(matches!(save(&running, "too late").await, Err(SaveError::LeaseLost)));
    let late = bare.store.fail(&running.claimed, &Failure::new(FailureClass::Network, "x")).await;
    assert!(matches!(late, Err(SaveError::LeaseLost)));
    for name in ["waiting", "running"] {
        let row = bare.store.media(item(name).media_id).await.unwrap().unwrap();
        assert_eq!((row.state, row.error_class), (State::Failed, Some(FailureClass::Cancelled)), "{name}");
        assert!(row.remedy.is_some_and(|remedy| remedy.contains(&row.media_id.to_string())));
    }
    assert_eq!(bare.store.lost(&[running.claimed, done.claimed]).await.unwrap(), [running.claimed]);

    let overview = bare.control.overview(10).await.unwrap();
    assert_eq!((overview.counts.cancelled, overview.counts.dead, overview.counts.waiting), (2, 0, 1));
    assert!(overview.dead.is_empty() && overview.counts.dead_by_class.is_empty());

    // A retry of all that failed leaves them; one by class or by name does not.
    assert_eq!(bare.store.retry(&Selection::Failed).await.unwrap(), []);
    let named = bare.store.retry(&Selection::Ids(vec![ids[0]])).await.unwrap();
    assert_eq!((named.len(), named[0].generation), (1, 1));
    assert_eq!(bare.store.retry(&Selection::FailedWith(FailureClass::Cancelled)).await.unwrap().len(), 1);
    let everything = bare.control.cancel(&Cancel::AllWaiting).await.unwrap();
    assert_eq!(everything.len(), 3);
    assert_eq!(bare.control.cancel(&Cancel::AllWaiting).await.unwrap(), []);

    // Being done again and cancelled: it is done as it was.
    let again = bare.store.retry(&Selection::Again(vec![ids[2]])).await.unwrap();
    bare.control.enqueue(&[Entry::new(ids[2], again[0].generation)], Lane::Ordinary).await.unwrap();
    assert_eq!(bare.control.cancel(&Cancel::AllWaiting).await.unwrap(), [(ids[2], Steered::Waited)]);
    let row = bare.store.media(ids[2]).await.unwrap().unwrap();
    assert_eq!((row.state, row.error_class, row.segments), (State::Done, None, Some(1)));
    bare.until(
        "only the job of what was in work is left",
        "select count(*) - 1 from graphile_worker._private_jobs",
    )
    .await;

    // The worker that had it ends that job, whatever it finds.
    let queue = bare.queue(1).await;
    let stop = CancellationToken::new();
    let end = async {
        bare.until("the job is gone", JOBS).await;
        stop.cancel();
    };
    let never = |_: MediaId, _: JobInfo| async { panic!("nothing is to be done") };
    tokio::join!(queue.run(never, stop.clone()), end);
    queue.close().await.unwrap();
}

#[tokio::test]
async fn done_again_keeps_what_is_stored_until_it_is_replaced() {
    let bare = Bare::new().await;
    let ids = bare.add(&["a"]).await;
    let save = async |text: &str, flags: Vec<Flag>| {
        let work = claim(&bare.store, &item("a")).await;
        let segments = vec![segment(0, 1000, "en", text), segment(1000, 2000, "en", "the end")];
        let (passages, vectors) = (passages(&segments, 1), vec![vec![0.5; 4]; 2]);
        let mut transcript = transcript(segments);
        transcript.coverage = Coverage { flags, ..Coverage::default() };
        let metadata = Metadata::default();
        bare.store
            .complete(&work.claimed, &metadata, &transcript, &passages, &vectors, &model())
            .await
            .unwrap();
        work
    };
    let stored = async || {
        use futures::TryStreamExt;
        let segments: Vec<_> = bare.store.segments(ids[0]).try_collect().await.unwrap();
        segments.into_iter().map(|s| s.text).collect::<Vec<_>>()
    };
    let first = save("first", vec![Flag::FewWords]).await;
    assert!(!first.again);
    assert_eq!(bare.store.retry(&Selection::Ids(ids.clone())).await.unwrap(), [], "done is done");

    // The new attempt fails: nothing is lost, and it is told.
    assert_eq!(bare.store.retry(&Selection::Flagged).await.unwrap()[0].generation, 1);
    assert_eq!(stored().await, ["first", "the end"]);
    let work = claim(&bare.store, &item("a")).await;
    assert!(work.again);
    let failure = Failure::new(FailureClass::NotFound, "it is not there any more");
    bare.store.fail(&work.claimed, &failure).await.unwrap();
    bare.store.fail(&work.claimed, &failure).await.unwrap();
    let row = bare.store.media(ids[0]).await.unwrap().unwrap();
    assert_eq!((row.state, row.error_class), (State::Done, Some(FailureClass::NotFound)));
    assert_eq!(stored().await, ["first", "the end"]);

    // One that succeeds replaces everything at once.
    assert_eq!(bare.store.retry(&Selection::Again(ids.clone())).await.unwrap()[0].generation, 2);
    assert!(bare.store.retry(&Selection::Again(ids.clone())).await.unwrap().is_empty(), "it waits already");
    save("second", Vec::new()).await;
    let row = bare.store.media(ids[0]).await.unwrap().unwrap();
    assert_eq!((row.state, row.error_class, row.error), (State::Done, None, None));
    assert_eq!(stored().await, ["second", "the end"]);
    assert_eq!(bare.store.retry(&Selection::Flagged).await.unwrap(), []);
}

/// The talks on a web server, and `spoken ingest` of their addresses.
async fn served(count: usize) -> (Server, Vec<String>) {
    let server = Server::start().await;
    let mut urls = Vec::new();
    for (n, (talk, _)) in speeches(&TALKS[..count]).into_iter().enumerate() {
        let path = format!("/talk{n}.wav");
        server.put(&path, Page::new("audio/wav", fs::read(talk).unwrap()));
        urls.push(server.url(&path));
    }
    (server, urls)
}

fn ingest(library: &Library, urls: &[String]) -> Command {
    let mut command = library.command(&["ingest", "--json", "--log-format", "json"]);
    command.args(urls);
    command
}

fn queue(library: &Library) -> Value {
    library.ok(&["queue", "--json"]).json()
}

fn titles<'a>(queue: &'a Value, kind: &str) -> Vec<&'a str> {
    queue[kind].as_array().unwrap().iter().map(|item| item["title"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_item_is_shown_where_it_runs_and_stops_when_cancelled() {
    let library = Library::on(&database().await);
    let (server, urls) = served(2).await;
    server.always("/talk0.wav", Fault::Stall(5000));
    let mut working = Working::start(ingest(&library, &urls));
    working.until("\"event\":\"item_finished\"");
    until("the step is told", || queue(&library)["running"][0]["step"] == "fetch");
    let shown = queue(&library);
    assert_eq!(names(&shown), ["at", "counts", "dead", "paused", "running", "scheduled", "waiting"]);
    assert_eq!(
        names(&shown["running"][0]),
        [
            "attempt",
            "host",
            "media_id",
            "pid",
            "seen_at",
            "since",
            "source",
            "step",
            "step_since",
            "title",
            "unseen",
            "worker"
        ]
    );
    let running = &shown["running"][0];
    assert_eq!(
        (running["source"].as_str().unwrap(), &running["unseen"]),
        (urls[0].as_str(), &Value::Bool(false))
    );
    assert_eq!(running["host"], fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    let text = library.ok(&["queue"]).stdout;
    assert!(
        text.starts_with("1 running, 0 waiting, 0 scheduled, 0 given up") && text.contains("fetch"),
        "{text}"
    );

    let too_late = library.ok(&["queue", "bump", &urls[0]]);
    assert!(too_late.stderr.contains("being worked on already"), "{too_late}");
    let cancelled = Instant::now();
    let ran = library.ok(&["queue", "cancel", &urls[0]]);
    assert!(ran.stderr.contains("work on it stops now"), "{ran}");
    working.until("\"reason\":\"cancelled\"");
    assert!(cancelled.elapsed() < Duration::from_secs(10), "{:?}", cancelled.elapsed());
    let ran = working.finish();
    assert_eq!(ran.code, 0, "{ran}");
    let summary = ran.json();
    assert_eq!((&summary["done"], &summary["failed"]), (&Value::from(1), &Value::from(0)), "{ran}");
    assert_eq!(library.counts(), [0, 0, 1, 1]);
    library.assert_in_order();
    assert_eq!(library.query("select count(*) from nodes"), 0, "the worker took its leave");

    // Named again it stays out, until it is asked for.
    let ran = library.ok(&["ingest", "--json", &urls[0]]);
    assert_eq!((&ran.json()["skipped"], &ran.json()["failed"]), (&Value::from(1), &Value::from(0)), "{ran}");
    let ran = library.run(&["queue", "cancel", &urls[0]]);
    assert_eq!(ran.code, 1, "nothing was taken out: {ran}");
    server.always("/talk0.wav", Fault::Slow(1 << 20, Duration::ZERO));
    library.ok(&["retry", "--class", "cancelled"]);
    assert_eq!(library.ok(&["ingest", "--json"]).json()["done"], 1);
    library.assert_in_order();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_finishes_what_runs_and_leaves_the_rest() {
    let library = Library::on(&database().await);
    let (server, urls) = served(2).await;
    // About five seconds, whichever comes first.
    for path in ["/talk0.wav", "/talk1.wav"] {
        let slow = Fault::Slow(32 << 10, Duration::from_millis(500));
        server.fail(path, [Fault::Slow(1 << 20, Duration::ZERO), slow]);
    }
    let mut command = ingest(&library, &urls);
    command.env("IO_WORKERS", "1");
    let mut working = Working::start(command);
    working.until("\"event\":\"item_started\"");
    library.ok(&["queue", "pause", "--for", "2h"]);
    let ran = working.finish();
    assert_eq!(ran.code, 0, "{ran}");
    assert_eq!(ran.json()["done"], 1, "{ran}");
    assert!(ran.stderr.contains("the queue is paused until"), "{ran}");
    let shown = queue(&library);
    assert_eq!(
        (&shown["counts"]["running"], &shown["counts"]["waiting"]),
        (&Value::from(0), &Value::from(1))
    );
    assert!(shown["paused"]["until"].is_string());
    assert!(library.ok(&["queue"]).stdout.starts_with("paused since "));

    // A run in the pause takes in what is new and ends at once.
    let more = library.folder("more");
    let (talk, _) = speeches(&TALKS[2..3]).remove(0);
    fs::copy(&talk, more.join("late.wav")).unwrap();
    let ran = library.ok(&["ingest", "--json", more.to_str().unwrap()]);
    assert_eq!(ran.json()["done"], 0, "{ran}");
    library.ok(&["queue", "bump", "late"]);
    assert_eq!(titles(&queue(&library), "waiting")[0], "late");

    assert!(library.ok(&["queue", "resume"]).stderr.contains("goes on"));
    assert_eq!(library.ok(&["ingest", "--json"]).json()["done"], 2);
    library.assert_in_order();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_no_more_than_it_can_begin_so_that_what_is_bumped_is_next() {
    let library = Library::on(&database().await);
    let (server, urls) = served(12).await;
    let slow = Fault::Slow(32 << 10, Duration::from_millis(500));
    server.fail("/talk0.wav", [Fault::Slow(1 << 20, Duration::ZERO), slow]);
    // All are listed before anything begins, and the slow one is the first.
    library.ok(&["queue", "pause"]);
    let sources: Vec<&str> = std::iter::once("ingest").chain(urls.iter().map(String::as_str)).collect();
    library.ok(&sources);
    library.ok(&["queue", "bump", &urls[0]]);
    library.ok(&["queue", "resume"]);
    let mut command = ingest(&library, &[]);
    command.env("IO_WORKERS", "1");
    let mut working = Working::start(command);
    working.until("\"event\":\"item_started\"");
    let shown = library.ok(&["queue", "--json", "-n", "50"]).json();
    let waiting = shown["waiting"].as_array().unwrap();
    let claimed = waiting.iter().filter(|item| item["claimed"] == true).count();
    // Two, and what was claimed in the moment before they were counted.
    assert!(claimed <= 4, "{claimed} of 11 were taken by a worker that can begin one");
    let last = waiting.last().unwrap()["source"].as_str().unwrap();
    library.ok(&["queue", "bump", last]);
    let shown = library.ok(&["queue", "--json", "-n", "50"]).json();
    let open = shown["waiting"].as_array().unwrap().iter().filter(|item| item["claimed"] == false).count();
    // Begun or taken by the time it was put first, at most.
    let before = 12 - open;
    let ran = working.finish();
    assert_eq!(ran.json()["done"], 12, "{ran}");
    let id = waiting.last().unwrap()["media_id"].as_str().unwrap();
    let started: Vec<&str> =
        ran.stderr.lines().filter(|line| line.contains("\"event\":\"item_started\"")).collect();
    let place = started.iter().position(|line| line.contains(id)).unwrap();
    assert!(
        place <= before + 1,
        "it was begun as number {place}, {before} were begun or claimed when it was put first"
    );
    library.assert_in_order();
}

#[test]
fn what_is_done_again_is_found_meanwhile_and_survives_a_failure() {
    let library = Library::with_server();
    let folder = library.folder("talks");
    let (talk, _) = speeches(&TALKS[..1]).remove(0);
    let file = folder.join("talk.wav");
    fs::copy(&talk, &file).unwrap();
    library.ok(&["ingest", folder.to_str().unwrap()]);
    let before = library.transcripts();

    let ran = library.ok(&["retry", "--done", "talk"]);
    assert!(ran.stderr.contains("what is stored stays"), "{ran}");
    assert_eq!(library.counts(), [1, 0, 0, 0]);
    assert_eq!(library.transcripts(), before, "while it waits");

    fs::remove_file(&file).unwrap();
    let ran = library.run(&["ingest", "--json"]);
    assert_eq!(ran.code, 1, "{ran}");
    let message = ran.json()["failures"][0]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("what was stored before is kept"), "{ran}");
    assert_eq!(library.counts(), [0, 0, 1, 0]);
    assert_eq!(library.transcripts(), before);
    assert!(library.ok(&["status"]).stdout.contains("doing it again failed"));
    library.assert_in_order();

    fs::copy(&talk, &file).unwrap();
    library.ok(&["retry", "--done", "talk"]);
    assert_eq!(library.ok(&["ingest", "--json"]).json()["done"], 1);
    assert_eq!(library.transcripts(), before);
    assert!(!library.ok(&["status"]).stdout.contains("doing it again failed"));
    library.assert_in_order();

    let ran = library.run(&["retry", "talk"]);
    assert!(ran.code == 1 && ran.stderr.contains("--done"), "{ran}");
    library.ok(&["retry", "--flagged"]);
    library.ok(&["retry", "--class", "network"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_meant_is_refused() {
    let library = Library::on(&database().await);
    for (arguments, said) in [
        (["queue", "bump", "nothing"].as_slice(), "no item is called"),
        (&["queue", "cancel", "nothing"], "no item is called"),
        (&["queue", "pause", "--until", "2001-01-01"], "is over"),
        (&["queue", "pause", "--for", "soon"], "write 90s"),
        (&["retry", "--class", "bad"], "rate_limited"),
    ] {
        let ran = library.run(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {ran}");
        assert!(ran.stderr.contains(said), "{arguments:?}: {ran}");
    }
    assert_eq!(queue(&library)["paused"], Value::Null);
    assert!(library.ok(&["queue", "resume"]).stderr.contains("was not paused"));
    library.ok(&["queue", "cancel", "--all-waiting"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn four_processes_work_on_each_item_once() {
    let library = Library::on(&database().await);
    library.ok(&["queue", "drill", "--add", "200"]);
    let outputs: Vec<_> = (0..4)
        .map(|_| {
            let mut command = library.command(&["queue", "drill", "--work", "1000000"]);
            std::thread::spawn(move || String::from_utf8(command.output().unwrap().stdout).unwrap())
        })
        .collect();
    let mut began: HashMap<String, usize> = HashMap::new();
    let mut workers = 0;
    for output in outputs {
        let events: Vec<Value> =
            output.join().unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        workers += usize::from(events.iter().any(|event| event["began"].is_string()));
        for event in events.iter().filter_map(|event| event["began"].as_str()) {
            *began.entry(event.to_owned()).or_default() += 1;
        }
    }
    assert_eq!((began.len(), began.values().max()), (200, Some(&1)));
    assert!(workers > 1, "one did it all");
    assert_eq!(library.query(JOBS), 0);
    assert_eq!(library.query("select count(*) - 200 from media where state = 'done' and fence = 1"), 0);
}

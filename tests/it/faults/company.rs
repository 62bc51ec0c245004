//! Several at once: runs that overlap, hosts that die or stop while others work.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::*;
use crate::cli::{speech, speeches};
use crate::store::database;

/// The lease in [`ingest`], and the longest that work then takes to go on elsewhere: the lease, a quarter of it until
/// somebody looks, and the pause before a recovered job (2.7 s after the first attempt).
const LEASE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_runs_on_two_hosts_do_each_item_once() {
    const TALKS: [(&str, u32, u32, &[&str]); 6] = [
        ("o0.wav", 7320, 4, &[]),
        ("o1.wav", 7321, 4, &[]),
        ("o2.wav", 7322, 4, &[]),
        ("o3.wav", 7323, 4, &[]),
        ("o4.wav", 7324, 4, &[]),
        ("o5.wav", 7325, 4, &[]),
    ];
    let url = database().await;
    let hosts = [Library::on(&url), Library::on(&url)];
    let folder = hosts[0].folder("talks");
    for (file, _) in speeches(&TALKS) {
        fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    let folder = folder.to_str().unwrap();
    // Both on the first host, and one on the second: as cron would start them.
    let runs = [&hosts[0], &hosts[0], &hosts[1]].map(|host| Run::start(ingest(host, &[folder])));
    let mut started = HashMap::<String, usize>::new();
    let mut done = 0;
    for run in runs {
        let ended = run.wait();
        assert_eq!((ended.code, ended.summary["failed"].as_i64()), (0, Some(0)), "{ended}");
        done += ended.summary["done"].as_i64().unwrap();
        for (item, times) in ended.count("item_started") {
            *started.entry(item).or_default() += times;
        }
    }
    assert_eq!(done, 6);
    assert_eq!(started.len(), 6);
    assert!(started.values().all(|&times| times == 1), "{started:?}");
    invariants(&url, &[&hosts[0], &hosts[1]], Rest::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_that_follow_the_same_source_do_each_item_once() {
    const TALKS: usize = 6;
    let url = database().await;
    let hosts = [Library::on(&url), Library::on(&url)];
    let server = Server::start().await;
    let talk = fs::read(speech("talk.wav", 7201, 9, &[]).0).unwrap();
    let entries = |count: usize| {
        let of = |n: usize| (format!("Episode {n}"), server.url(&format!("/{n}.wav")));
        feed(&(0..count).map(of).collect::<Vec<_>>())
    };
    for n in 0..TALKS {
        server.put(&format!("/{n}.wav"), Page::new("audio/wav", talk.clone()));
    }
    server.put("/feed.xml", entries(TALKS / 2));
    hosts[0].ok(&["source", "add", &server.url("/feed.xml"), "--every", "10s"]);
    let runs = hosts.each_ref().map(|host| {
        let mut command = host.command(&["run", "--log-format", "json"]);
        command.env("LEASE_SECONDS", "2");
        Run::start(command)
    });
    until_true(&url, "what was there is done", "select count(*) = 3 from media where state = 'done'").await;
    server.put("/feed.xml", entries(TALKS));
    execute(&url, "update sources set next_due = now()").await;
    until_true(&url, "what came is done", "select count(*) = 6 from media where state = 'done'").await;
    let mut started = HashMap::<String, usize>::new();
    for run in runs {
        run.signal(Signal::SIGTERM);
        let ended = run.wait();
        assert_eq!(ended.code, 0, "{ended}");
        for (item, times) in ended.count("item_started") {
            *started.entry(item).or_default() += times;
        }
    }
    assert!(started.len() == TALKS && started.values().all(|&times| times == 1), "{started:?}");
    assert_eq!(number(&url, "select count(*) from media where fence <> 1 or attempts <> 1").await, 0);
    invariants(&url, &[&hosts[0], &hosts[1]], Rest::Finished).await;
}

/// A host that downloads a talk, which takes until the server is calm: it has work in hand for as long as a test needs.
async fn at_work(host: &Library, lease: Duration) -> (Server, Run) {
    let server = Server::start().await;
    let body = fs::read(speech("talk.wav", 7201, 9, &[]).0).unwrap();
    let crawl = Fault::Slow(body.len() / 400, Duration::from_millis(500));
    server.put("/talk.wav", Page::new("audio/wav", body));
    server.fail("/talk.wav", [Fault::Slow(1 << 20, Duration::ZERO)]);
    server.always("/talk.wav", crawl);
    let mut command = ingest(host, &[&server.url("/talk.wav")]);
    command.env("LEASE_SECONDS", lease.as_secs().to_string());
    let mut run = Run::start(command);
    run.until_step("fetch");
    until("it downloads", || server.requests("/talk.wav") >= 2);
    (server, run)
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_past_its_lease_it_finds_its_work_done_by_another() {
    let url = database().await;
    let hosts = [Library::on(&url), Library::on(&url)];
    let (server, mut zombie) = at_work(&hosts[0], LEASE).await;
    zombie.freeze();
    server.calm();
    let began = Instant::now();
    let other = finish(&hosts[1], &[]);
    println!("done by the other {:?} after the stop", began.elapsed());
    assert_eq!(other.outcome(), [1, 0, 0], "{other}");
    let before = hosts[1].transcripts();
    let fence = number(&url, "select fence from media").await;
    server.cut_off();
    zombie.signal(Signal::SIGCONT);
    // It goes on where it was, and is refused.
    zombie.until("what it wrote is refused", |e| {
        e["event"] == "item_skipped" && e["reason"] == "another worker took it over"
    });
    let ended = zombie.wait();
    assert_eq!((ended.code, ended.summary["done"].as_i64()), (0, Some(0)), "{ended}");
    assert_eq!(number(&url, "select fence from media").await, fence, "claimed once more");
    assert_eq!(hosts[0].transcripts(), before);
    invariants(&url, &[&hosts[0], &hosts[1]], Rest::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_past_its_lease_it_lets_go_of_what_nobody_has_begun_yet() {
    let url = database().await;
    let hosts = [Library::on(&url), Library::on(&url)];
    let (server, mut zombie) = at_work(&hosts[0], LEASE).await;
    hosts[0].ok(&["queue", "pause"]);
    zombie.until_said("the queue is paused");
    zombie.freeze();
    let mut command = hosts[1].command(&["work", "--log-format", "json"]);
    command.env("LEASE_SECONDS", LEASE.as_secs().to_string());
    let other = Run::start(command);
    until_true(&url, "it is taken for dead", "select bool_and(state = 'queued' and crashes = 1) from media")
        .await;
    // Its download goes on for minutes.
    zombie.signal(Signal::SIGCONT);
    let awake = Instant::now();
    zombie.until("it lets go", |e| {
        e["event"] == "item_skipped" && e["reason"] == "another worker took it over"
    });
    println!("let go {:?} after it went on", awake.elapsed());
    assert!(awake.elapsed() < in_time(Duration::from_secs(5)), "{:?}", awake.elapsed());
    let ended = zombie.wait();
    assert_eq!((ended.code, ended.summary["done"].as_i64()), (0, Some(0)), "{ended}");
    server.calm();
    server.cut_off();
    hosts[0].ok(&["queue", "resume"]);
    until_true(&url, "the other has done it", "select bool_and(state = 'done') from media").await;
    other.signal(Signal::SIGTERM);
    let other = other.wait();
    assert_eq!((other.code, other.count("item_started").len()), (0, 1), "{other}");
    invariants(&url, &[&hosts[0], &hosts[1]], Rest::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_in_the_middle_of_writing_it_does_not_keep_the_rows() {
    let url = database().await;
    let hosts = [Library::on(&url), Library::on(&url)];
    let (talk, _) = speech("talk.wav", 7201, 9, &[]);
    finish(&hosts[0], &[]);
    let mut guard = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("begin; lock table languages in exclusive mode").execute(&mut guard).await.unwrap();
    let mut zombie = Run::start(ingest(&hosts[0], &[talk.to_str().unwrap()]));
    until_true(
        &url,
        "everything is written and the last statement waits",
        "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' \
            and query like 'INSERT INTO languages%')",
    )
    .await;
    zombie.freeze();
    // Now the statement succeeds, and the transaction waits for a client that does not go on.
    guard.close().await.unwrap();
    let began = Instant::now();
    let other = finish(&hosts[1], &[]);
    println!("done by the other {:?} after the stop", began.elapsed());
    assert_eq!(other.outcome(), [1, 0, 0], "{other}");
    zombie.signal(Signal::SIGCONT);
    zombie.until("what it wrote is refused", |e| {
        e["event"] == "item_skipped" && e["reason"] == "another worker took it over"
    });
    let ended = zombie.wait();
    assert_eq!((ended.code, ended.summary["done"].as_i64()), (0, Some(0)), "{ended}");
    invariants(&url, &[&hosts[0], &hosts[1]], Rest::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_for_less_than_its_lease_it_keeps_its_work() {
    let url = database().await;
    let hosts = [Library::on(&url), Library::on(&url)];
    let (server, run) = at_work(&hosts[0], Duration::from_secs(60)).await;
    run.freeze();
    let mut command = ingest(&hosts[1], &[]);
    command.env("LEASE_SECONDS", "60");
    let mut other = Run::start(command);
    other.until_event("stages_sampled");
    server.calm();
    server.cut_off();
    run.signal(Signal::SIGCONT);
    let (ended, other) = (run.wait(), other.wait());
    assert_eq!((ended.code, ended.outcome()), (0, [1, 0, 0]), "{ended}");
    assert_eq!((other.code, other.count("item_started").len()), (0, 0), "{other}");
    invariants(&url, &[&hosts[0], &hosts[1]], Rest::Finished).await;
}

/// Kills a host in the middle of its work; how long until another has it.
async fn taken_over_after(lease: Duration) -> Duration {
    let url = database().await;
    let hosts = [Library::on(&url), Library::on(&url)];
    let (server, run) = at_work(&hosts[0], lease).await;
    let mut command = ingest(&hosts[1], &[]);
    command.env("LEASE_SECONDS", lease.as_secs().to_string());
    let mut other = Run::start(command);
    other.until_event("stages_sampled");
    run.kill();
    let died = Instant::now();
    server.calm();
    // The longest lease is longer than what is waited for anywhere else.
    let taken = loop {
        if other.said().contains("\"item_started\"") {
            break died.elapsed();
        }
        assert!(died.elapsed() < lease + PATIENCE, "nobody takes it over: {}", other.said());
        std::thread::park_timeout(Duration::from_millis(20));
    };
    let ended = other.wait();
    assert_eq!((ended.code, ended.outcome()), (0, [1, 0, 0]), "{ended}");
    // What the dead left on its own disk is removed by its own next start.
    finish(&hosts[0], &[]);
    invariants(&url, &[&hosts[0], &hosts[1]], Rest::Finished).await;
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_hosts_work_goes_on_elsewhere() {
    let taken = taken_over_after(LEASE).await;
    println!("taken over after {taken:?}, with a lease of {LEASE:?}");
    assert!(taken < in_time(LEASE * 5 / 4 + Duration::from_secs(6)), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_with_nothing_to_do_takes_over_from_a_dead_host() {
    let url = database().await;
    let hosts = [Library::on(&url), Library::on(&url)];
    let (server, run) = at_work(&hosts[0], LEASE).await;
    let mut command = hosts[1].command(&["run", "--log-format", "json"]);
    command.env("LEASE_SECONDS", LEASE.as_secs().to_string());
    let mut idle = Run::start(command);
    idle.until_said("running: ");
    run.kill();
    let died = Instant::now();
    server.calm();
    until_true(&url, "it is done", "select count(*) = 1 from media where state = 'done'").await;
    println!("done by the other {:?} after the death", died.elapsed());
    idle.signal(Signal::SIGTERM);
    let ended = idle.wait();
    assert_eq!(ended.code, 0, "{ended}");
    finish(&hosts[0], &[]);
    invariants(&url, &[&hosts[0], &hosts[1]], Rest::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_hosts_work_goes_on_elsewhere_within_three_minutes() {
    if !long("the real lease of two minutes") {
        return;
    }
    let taken = taken_over_after(spoken::queue::LEASE).await;
    println!("taken over after {taken:?}, with the usual lease");
    assert!(taken < Duration::from_secs(180), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_video_from_two_lists_is_one_item_with_two_links() {
    let url = database().await;
    let library = Library::on(&url);
    let server = Server::start().await;
    let (talk, _) = speech("talk.wav", 7201, 9, &[]);
    server.put("/talk.wav", Page::new("audio/wav", fs::read(talk).unwrap()));
    let entry = |title: &str| feed(&[(title.to_owned(), server.url("/talk.wav"))]);
    server.put("/one.xml", entry("One"));
    server.put("/two.xml", entry("Two"));
    let lists = [server.url("/one.xml"), server.url("/two.xml")];
    let ended = finish(&library, &[&lists[0], &lists[1]]);
    assert_eq!((ended.outcome(), ended.count("item_started").len()), ([1, 0, 0], 1), "{ended}");
    assert_eq!(number(&url, "select count(*) from media").await, 1);
    for list in &lists {
        let sql = format!("select count(*) from media_sources where source = '{list}'");
        assert_eq!(number(&url, &sql).await, 1, "{list}");
    }
    invariants(&url, &[&library], Rest::Finished).await;
}

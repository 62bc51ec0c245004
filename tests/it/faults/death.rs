//! The program dies, or is told to.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sqlx::{Connection, PgConnection};

use super::media::{hanging_tools, stream};
use super::*;
use crate::cli::{speech, speeches};
use crate::store::database;

/// How soon work goes on after a death on the same host: from the start of the next process to its first claim.
const RESUMES_WITHIN: Duration = Duration::from_secs(5);
/// Far longer than that: nobody waits for it on the same host.
const LEASE: &str = "120";

/// Nine seconds of speech at an address.
async fn one_talk(seconds: u32) -> (Server, String, usize) {
    let server = Server::start().await;
    let (talk, _) = speech("talk.wav", 7201, seconds, &[]);
    let talk = fs::read(talk).unwrap();
    let length = talk.len();
    server.put("/talk.wav", Page::new("audio/wav", talk));
    let address = server.url("/talk.wav");
    (server, address, length)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_downloading_it_goes_on_with_the_part() {
    let url = database().await;
    let library = Library::on(&url);
    let (server, address, length) = one_talk(27).await;
    let part = length / 2;
    assert!(part > 256 << 10, "{part} bytes stay in the buffer until the connection is given up");
    after_the_listing(&server, "/talk.wav", [Fault::Stall(part)]);
    let mut command = ingest(&library, &[&address]);
    command.env("NETWORK_TIMEOUT", "60").env("LEASE_SECONDS", LEASE);
    let mut run = Run::start(command);
    run.until_step("fetch");
    // Written through a buffer of 256 KiB, which is full before the half.
    until("a part is on the disk", || {
        library
            .spooled()
            .iter()
            .any(|p| p.ends_with("download.part") && fs::metadata(p).is_ok_and(|m| m.len() > 0))
    });
    let sent = server.sent("/talk.wav");
    assert_eq!(run.kill().code, 137);
    invariants(&url, &[&library], Rest::Killed).await;
    assert_eq!(number(&url, "select count(*) from media where state = 'active'").await, 1);

    let mut command = ingest(&library, &[]);
    command.env("LEASE_SECONDS", LEASE);
    let mut again = Run::start(command);
    let (resumed, _) = again.until_event("item_started");
    println!("resumed {resumed:?} after the start of the next process");
    assert!(resumed < in_time(RESUMES_WITHIN), "{resumed:?}");
    let ended = again.wait();
    assert_eq!((ended.code, ended.outcome()), (0, [1, 0, 0]), "{ended}");
    let more = (server.sent("/talk.wav") - sent) as usize;
    assert!(more < length, "{more} bytes of {length} were sent again");
    invariants(&url, &[&library], Rest::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_tool_downloads_it_takes_the_tool_and_its_children_along() {
    let url = database().await;
    let library = Library::on(&url);
    let server = Server::start().await;
    let address = stream(&server, "talk", &speech("talk.wav", 7201, 9, &[]).0);
    let (tools, hang) = hanging_tools(&library);
    let command = || {
        let mut command = ingest(&library, &[&address]);
        command.env("SPOKEN_TOOLS_DIR", &tools).env("NETWORK_TIMEOUT", "600");
        command
    };
    fs::write(&hang, "").unwrap();
    let mut run = Run::start(command());
    run.until_step("fetch");
    until("ffmpeg works for yt-dlp", || library.processes().iter().any(|(_, name)| name == "ffmpeg"));
    assert_eq!(run.kill().code, 137);
    // Nobody is left, says this.
    invariants(&url, &[&library], Rest::Killed).await;
    let ended = Run::start(command()).wait();
    assert_eq!((ended.code, ended.outcome()), (0, [1, 0, 0]), "{ended}");
    invariants(&url, &[&library], Rest::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_any_step_it_goes_on() {
    // Three windows, so that one can be finished before the death.
    let (talk, _) = speech("long.mp3", 7301, 75, &[]);
    let talk = talk.to_str().unwrap();
    let undisturbed = {
        let library = Library::on(&database().await);
        finish(&library, &[talk]);
        library.transcripts()
    };
    let command = |library: &Library| {
        let mut command = ingest(library, &[talk]);
        command.env("LEASE_SECONDS", LEASE);
        command
    };
    for step in ["decode", "transcribe", "embed", "store"] {
        let url = database().await;
        let library = Library::on(&url);
        let mut run = Run::start(command(&library));
        run.until_step(step);
        if step == "transcribe" {
            until("a window is finished", || {
                left_in(&library.data().join("windows"))
                    .iter()
                    .any(|p| fs::metadata(p).is_ok_and(|m| m.len() > 0))
            });
        }
        let ended = run.kill();
        invariants(&url, &[&library], Rest::Killed).await;
        let mut again = Run::start(command(&library));
        let resumed = again.next("the item", |e| e["event"] == "item_started").map(|(after, _)| after);
        let last = again.wait();
        assert_eq!((last.code, last.summary["failed"].as_i64()), (0, Some(0)), "{step}: {last}");
        if step != "store" {
            // The moment after a commit is the next test's.
            assert_eq!((ended.code, last.outcome()), (137, [1, 0, 0]), "{step}: {last}");
            assert!(resumed.is_some_and(|r| r < in_time(RESUMES_WITHIN)), "{step}: {resumed:?}");
        }
        if step == "transcribe" {
            assert!(last.summary["windows_known"].as_i64() > Some(0), "{last}");
        }
        println!("killed in {step}: resumed after {resumed:?}");
        invariants(&url, &[&library], Rest::Finished).await;
        assert_eq!(library.transcripts(), undisturbed, "{step}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_writing_it_leaves_nothing_of_it() {
    let url = database().await;
    let library = Library::on(&url);
    let (talk, _) = speech("talk.wav", 7201, 9, &[]);
    let talk = talk.to_str().unwrap();
    // Everything is there but an item; the segments can then be kept from being written.
    finish(&library, &[]);
    let mut guard = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("begin; lock table languages in exclusive mode").execute(&mut guard).await.unwrap();
    let mut run = Run::start(ingest(&library, &[talk]));
    run.until_step("store");
    until_true(
        &url,
        "segments, passages and vectors are written, and the last statement waits",
        "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' \
            and query like 'INSERT INTO languages%')",
    )
    .await;
    run.kill();
    // The session does not notice its client's death while it waits.
    execute(
        &url,
        "select pg_terminate_backend(pid) from pg_stat_activity where query like 'INSERT INTO languages%' \
        and wait_event_type = 'Lock' and datname = current_database()",
    )
    .await;
    guard.close().await.unwrap();
    invariants(&url, &[&library], Rest::Killed).await;
    assert_eq!(number(&url, "select count(*) from segments").await, 0);
    let ended = finish(&library, &[]);
    assert_eq!(ended.outcome(), [1, 0, 0], "{ended}");
    invariants(&url, &[&library], Rest::Finished).await;
}

/// Kills it when an item is stored and its job is not deleted yet. The dead process's library.
async fn dead_before_the_job_is_deleted(url: &str) -> Library {
    let library = Library::on(url);
    let (talk, _) = speech("talk.wav", 7201, 9, &[]);
    finish(&library, &[]);
    execute(
        url,
        "create function wait_for_the_test() returns trigger language plpgsql as \
            $$ begin perform pg_advisory_xact_lock_shared(7); return old; end $$; \
         create trigger wait_for_the_test before delete on graphile_worker._private_jobs \
            for each row execute function wait_for_the_test()",
    )
    .await;
    let mut guard = PgConnection::connect(url).await.unwrap();
    sqlx::query("select pg_advisory_lock(7)").execute(&mut guard).await.unwrap();
    let run = Run::start(ingest(&library, &[talk.to_str().unwrap()]));
    until_true(
        url,
        "it is stored and its job waits to be deleted",
        "select (select count(*) = 1 from media where state = 'done') and exists (select from pg_stat_activity \
            where datname = current_database() and wait_event = 'advisory')",
    )
    .await;
    run.kill();
    execute(
        url,
        "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'advisory' \
        and datname = current_database()",
    )
    .await;
    guard.close().await.unwrap();
    execute(url, "drop trigger wait_for_the_test on graphile_worker._private_jobs").await;
    assert_eq!(number(url, "select count(*) from graphile_worker._private_jobs").await, 1);
    library
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_commit_and_the_end_of_the_job_nothing_is_done_again() {
    let url = database().await;
    let library = dead_before_the_job_is_deleted(&url).await;
    invariants(&url, &[&library], Rest::Killed).await;
    let began = Instant::now();
    let ended = finish(&library, &[]);
    println!("a run that finds it done: {:?}", began.elapsed());
    assert_eq!((ended.outcome(), ended.count("item_started").len()), ([0, 0, 0], 0), "{ended}");
    invariants(&url, &[&library], Rest::Finished).await;
    assert_eq!(number(&url, "select fence from media").await, 1, "claimed once");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_finds_it_done_too() {
    let url = database().await;
    let dead = dead_before_the_job_is_deleted(&url).await;
    // Something to do, so that the other host does not leave before the job's turn comes: the lease, a look, 2.7 seconds.
    let (server, address, length) = one_talk(9).await;
    after_the_listing(&server, "/talk.wav", [Fault::Slow(length / 16, Duration::from_millis(500))]);
    let other = Library::on(&url);
    let mut run = Run::start(ingest(&other, &[&address]));
    run.until_step("fetch");
    until_true(
        &url,
        "the dead one's job is gone",
        "select count(*) = 0 from graphile_worker._private_jobs j join media m \
            on j.key = 'media:' || m.media_id || ':0' where m.state = 'done'",
    )
    .await;
    let ended = run.wait();
    assert_eq!(
        (ended.code, ended.outcome(), ended.count("item_started").len()),
        (0, [1, 0, 0], 1),
        "{ended}"
    );
    assert_eq!(number(&url, "select max(fence) from media").await, 1, "claimed once");
    // The identity of the dead is on its own disk.
    finish(&dead, &[]);
    invariants(&url, &[&other, &dead], Rest::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_it_leaves_in_time_and_no_attempt_is_lost() {
    const GRACE: Duration = Duration::from_secs(2);
    let url = database().await;
    let library = Library::on(&url);
    let (server, address, _) = one_talk(9).await;
    after_the_listing(&server, "/talk.wav", [Fault::Stall(100_000)]);
    let mut command = ingest(&library, &[&address]);
    command.env("NETWORK_TIMEOUT", "600").env("STOP_GRACE_SECONDS", GRACE.as_secs().to_string());
    let mut run = Run::start(command);
    run.until_step("fetch");
    until("it hangs", || server.sent("/talk.wav") > 100_000);
    let told = Instant::now();
    run.signal(Signal::SIGTERM);
    let ended = run.wait();
    println!("left {:?} after SIGTERM", told.elapsed());
    // As much more as there is between the usual 25 s and the 30 that a service manager waits.
    assert!(told.elapsed() < in_time(GRACE + Duration::from_secs(5)), "{:?}", told.elapsed());
    assert_eq!((ended.code, &ended.summary["interrupted"]), (130, &Value::Bool(true)), "{ended}");
    invariants(&url, &[&library], Rest::Stopped).await;
    assert_eq!(number(&url, "select attempts + crashes from media where state = 'queued'").await, 0);
    let ended = finish(&library, &[]);
    assert_eq!(ended.outcome(), [1, 0, 0], "{ended}");
    invariants(&url, &[&library], Rest::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_twice_it_leaves_at_once_and_no_attempt_is_lost() {
    for (first, second) in [(Signal::SIGINT, Signal::SIGINT), (Signal::SIGTERM, Signal::SIGINT)] {
        let url = database().await;
        let library = Library::on(&url);
        let (server, address, _) = one_talk(9).await;
        after_the_listing(&server, "/talk.wav", [Fault::Stall(100_000)]);
        let mut command = ingest(&library, &[&address]);
        command.env("NETWORK_TIMEOUT", "600");
        let mut run = Run::start(command);
        run.until_step("fetch");
        run.signal(first);
        run.until_event("stop_requested");
        // A person is not quicker than this line.
        run.until_true("it has noted that it leaves", || {
            left_in(&library.data().join("workers"))
                .iter()
                .any(|path| fs::read_to_string(path).is_ok_and(|facts| facts.contains("leaving")))
        });
        let told = Instant::now();
        run.signal(second);
        let ended = run.wait();
        assert_eq!(ended.code, 130, "{ended}");
        assert!(told.elapsed() < in_time(Duration::from_secs(5)), "{:?} after the second", told.elapsed());
        invariants(&url, &[&library], Rest::Killed).await;
        let ended = finish(&library, &[]);
        assert_eq!(ended.outcome(), [1, 0, 0], "{ended}");
        // One for the attempt that succeeded.
        assert_eq!(number(&url, "select attempts * 100 + crashes from media").await, 100);
        invariants(&url, &[&library], Rest::Finished).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_ends_the_program_is_given_up_and_the_rest_is_done() {
    const TALKS: [(&str, u32, u32, &[&str]); 4] = [
        ("f0.wav", 7310, 4, &[]),
        ("f1.wav", 7311, 4, &[]),
        ("f2.wav", 7312, 4, &[]),
        ("f3.wav", 7313, 4, &[]),
    ];
    let url = database().await;
    let library = Library::on(&url);
    let folder = library.folder("talks");
    for (file, _) in speeches(&TALKS) {
        fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    // No decoder can be relied upon to crash: the test sends the signal that a crash would raise, whenever the program
    // has the item, whose download goes on and on.
    let (server, address, length) = one_talk(9).await;
    server.fail("/talk.wav", [Fault::Slow(1 << 20, Duration::ZERO)]);
    server.always("/talk.wav", Fault::Slow(length / 100, Duration::from_millis(500)));
    let mut deaths = 0;
    let last = loop {
        // The sources are read once; then what is queued is known.
        let sources = if deaths == 0 { vec![address.as_str(), folder.to_str().unwrap()] } else { vec![] };
        let mut run = Run::start(ingest(&library, &sources));
        let killer = run.next("the killer", |e| e["event"] == "item_started" && e["title"] == "talk");
        if killer.is_none() {
            break run.wait();
        }
        run.signal(Signal::SIGSEGV);
        let ended = run.wait();
        assert_eq!(ended.code, 139, "{ended}");
        deaths += 1;
        assert!(deaths < 10, "it never ends: {ended}");
        invariants(&url, &[&library], Rest::Killed).await;
    };
    // Three in company at most, then two alone.
    assert!((3..=5).contains(&deaths), "{deaths} deaths");
    // It is given up by the start that counts its last death.
    assert!(last.said.contains("an item that ends the program was given up"), "{last}");
    assert_eq!(library.counts(), [0, 0, 4, 1], "{last}");
    assert_eq!(
        number(&url, "select count(*) from media where error_class = 'crashed' and remedy like '%retry%'")
            .await,
        1
    );
    invariants(&url, &[&library], Rest::Finished).await;
    assert!(library.ok(&["retry", "--failed"]).stderr.contains("1 item is queued"));
    server.calm();
    let ended = finish(&library, &[]);
    assert_eq!(ended.outcome(), [1, 0, 0], "it was innocent: {ended}");
    invariants(&url, &[&library], Rest::Finished).await;
}

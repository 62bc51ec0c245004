//! The database is restarted, crashes, stays away, or has no room.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::media::Disk;
use super::*;
use crate::cli::{speech, speeches};

const TALKS: [(&str, u32, u32, &[&str]); 4] =
    [("d0.wav", 7330, 4, &[]), ("d1.wav", 7331, 4, &[]), ("d2.wav", 7332, 4, &[]), ("d3.wav", 7333, 4, &[])];

/// A folder with short talks and a long one, and a talk at an address that takes `slow` to arrive.
async fn sources(library: &Library, slow: Duration) -> (Server, String, String) {
    let folder = library.folder("talks");
    for (file, _) in speeches(&TALKS) {
        fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    fs::copy(speech("long.mp3", 7301, 75, &[]).0, folder.join("long.mp3")).unwrap();
    let server = Server::start().await;
    let talk = fs::read(speech("talk.wav", 7201, 9, &[]).0).unwrap();
    let pieces = slow.as_millis() as usize / 250 + 1;
    let fault = Fault::Slow(talk.len() / pieces + 1, Duration::from_millis(250));
    server.put("/talk.wav", Page::new("audio/wav", talk));
    after_the_listing(&server, "/talk.wav", [fault]);
    let address = server.url("/talk.wav");
    (server, folder.to_str().unwrap().to_owned(), address)
}

/// Takes the database away while items are in all stages; they are done when it is back, each in its first attempt.
async fn outage(signal: Signal, away: Duration) {
    let mut db = Database::new().await;
    let library = Library::on(&db.url);
    let (_server, folder, address) = sources(&library, away + Duration::from_secs(2)).await;
    let mut run = Run::start(ingest(&library, &[&address, &folder]));
    run.until_step("transcribe");
    db.end(signal);
    // How long it is away is what is tested.
    tokio::time::sleep(away).await;
    assert!(!run.is_over(), "it gave up: {}", run.said());
    db.start().await;
    let back = Instant::now();
    let ended = run.wait();
    println!("{signal}, away for {away:?}: all done {:?} after it was back", back.elapsed());
    assert_eq!((ended.code, ended.outcome()), (0, [6, 0, 0]), "{ended}");
    let started = ended.count("item_started");
    assert!(started.values().all(|&times| times == 1), "{started:?}: {ended}");
    invariants(&db.url, &[&library], Rest::Finished).await;
    let again = "select count(*) from media where fence <> 1 or attempts <> 1 or crashes <> 0";
    assert_eq!(number(&db.url, again).await, 0, "claimed again: {ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_costs_nothing() {
    outage(Signal::SIGINT, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_costs_nothing() {
    outage(Signal::SIGKILL, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_outage_costs_nothing() {
    outage(Signal::SIGINT, Duration::from_secs(3)).await;
}

/// Two hosts that are cut off together: each has what it had when they are back, though neither was heard of for longer
/// than the lease. With `paused`, they ask for nothing new meanwhile, and the second is back a little later than the first.
async fn cut_off_together(paused: bool) {
    const TALKS: usize = 4;
    let mut db = Database::new().await;
    let server = Server::start().await;
    let talk = fs::read(speech("talk.wav", 7201, 9, &[]).0).unwrap();
    let crawl = Fault::Slow(talk.len() / 400, Duration::from_millis(500));
    let hosts = [Library::on(&db.url), Library::on(&db.url)];
    let mut runs = Vec::new();
    for (n, host) in hosts.iter().enumerate() {
        let addresses: Vec<String> = (0..TALKS)
            .map(|i| {
                let path = format!("/{n}{i}.wav");
                server.put(&path, Page::new("audio/wav", talk.clone()));
                server.fail(&path, [Fault::Slow(1 << 20, Duration::ZERO)]);
                server.always(&path, crawl.clone());
                server.url(&path)
            })
            .collect();
        let mut command = ingest(host, &addresses.iter().map(String::as_str).collect::<Vec<_>>());
        command.env("LEASE_SECONDS", "10").env("LOG_LEVEL", "info,spoken::queue=debug");
        let mut run = Run::start(command);
        // The first host has its own before the other finds more, and would like to have those as well: it is kept from
        // asking by a stop that is much shorter than its lease.
        for _ in 0..TALKS {
            run.until_step("fetch");
        }
        if n == 0 {
            run.freeze();
        }
        runs.push(run);
    }
    runs[0].signal(Signal::SIGCONT);
    if paused {
        hosts[0].ok(&["queue", "pause"]);
        for run in &mut runs {
            run.until_said("the queue is paused");
        }
    }
    db.end(Signal::SIGINT);
    tokio::time::sleep(Duration::from_secs(11)).await;
    if paused {
        runs[1].freeze();
    }
    db.start().await;
    if paused {
        // Until the first has looked who is dead: it does so four times in a lease.
        let back = Instant::now();
        while !runs[0].said().contains("not taken for dead yet") && back.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        runs[1].signal(Signal::SIGCONT);
        // Each is heard of again.
        let heard = "select count(*) = 2 from graphile_worker._private_workers where last_heartbeat_at > now() - interval '3 s'";
        until_true(&db.url, "both are heard of", heard).await;
        hosts[0].ok(&["queue", "resume"]);
    }
    // What they have in hand goes on only now.
    server.calm();
    server.cut_off();
    let mut done = 0;
    for run in runs {
        let ended = run.wait();
        assert_eq!((ended.code, ended.summary["failed"].as_i64()), (0, Some(0)), "{ended}");
        let started = ended.count("item_started");
        assert!(started.len() == TALKS && started.values().all(|&times| times == 1), "{started:?}: {ended}");
        done += ended.summary["done"].as_i64().unwrap();
    }
    assert_eq!(done, 2 * TALKS as i64);
    let again = "select count(*) from media where fence <> 1 or attempts <> 1 or crashes <> 0";
    assert_eq!(number(&db.url, again).await, 0, "claimed again");
    invariants(&db.url, &[&hosts[0], &hosts[1]], Rest::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_longer_than_the_lease_leaves_each_host_its_work() {
    cut_off_together(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_longer_than_the_lease_leaves_each_host_its_work_while_the_queue_is_paused() {
    cut_off_together(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_while_it_is_away_it_leaves_in_time_and_nothing_is_lost() {
    const GRACE: Duration = Duration::from_secs(2);
    let mut db = Database::new().await;
    let library = Library::on(&db.url);
    let (_server, folder, address) = sources(&library, Duration::from_secs(60)).await;
    let mut command = ingest(&library, &[&address, &folder]);
    command.env("STOP_GRACE_SECONDS", GRACE.as_secs().to_string());
    let mut run = Run::start(command);
    run.until_step("transcribe");
    // Its socket stays: connections are refused, and tried again for as long as somebody waits.
    db.end(Signal::SIGKILL);
    // So that the run is about to ask whether it is over, and has no answer.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!run.is_over(), "it gave up: {}", run.said());
    let told = Instant::now();
    run.signal(Signal::SIGTERM);
    let ended = run.wait();
    println!("left {:?} after SIGTERM", told.elapsed());
    // As much more as there is between the usual 25 s and the 30 that a service manager waits.
    assert!(told.elapsed() < in_time(GRACE + Duration::from_secs(5)), "{:?}: {ended}", told.elapsed());
    assert_eq!(ended.code, 130, "{ended}");
    assert!(ended.said.contains("nothing is lost"), "{ended}");
    until("nobody is left", || library.processes().is_empty());
    db.start().await;
    invariants(&db.url, &[&library], Rest::Killed).await;
    let ended = finish(&library, &[]);
    assert_eq!(ended.summary["failed"], 0, "{ended}");
    assert_eq!(library.counts(), [0, 0, 6, 0], "{ended}");
    // It had noted that it leaves.
    assert_eq!(number(&db.url, "select count(*) from media where attempts <> 1 or crashes <> 0").await, 0);
    invariants(&db.url, &[&library], Rest::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_outage_costs_nothing() {
    if !long("ten seconds, and then a minute, without a database") {
        return;
    }
    outage(Signal::SIGINT, Duration::from_secs(10)).await;
    let minute = std::env::var("SPOKEN_TEST_OUTAGE").map_or(60, |seconds| seconds.parse().unwrap());
    outage(Signal::SIGKILL, Duration::from_secs(minute)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_while_it_was_away_is_noted_when_it_is_back() {
    let mut db = Database::new().await;
    let library = Library::on(&db.url);
    let (server, folder, address) = sources(&library, Duration::ZERO).await;
    let second = server.url("/second.wav");
    server.put("/second.wav", Page::new("audio/wav", fs::read(speech("e.wav", 7340, 4, &[]).0).unwrap()));
    // The answer to the first look comes when the database is gone.
    server.fail("/second.wav", [Fault::Stall(0)]);
    let mut run = Run::start(ingest(&library, &[&address, &folder, &second]));
    until("the listing waits", || server.requests("/second.wav") == 1);
    run.until_event("item_queued");
    db.end(Signal::SIGINT);
    run.until_true("the listing has its answer", || server.requests("/second.wav") >= 2);
    // Longer than a statement is repeated for.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(!run.is_over(), "it gave up: {}", run.said());
    db.start().await;
    let ended = run.wait();
    assert_eq!((ended.code, ended.outcome()), (0, [7, 0, 0]), "{ended}");
    invariants(&db.url, &[&library], Rest::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_private_server_is_started_again_when_it_dies() {
    let library = Library::new();
    let (_server, folder, address) = sources(&library, Duration::from_secs(2)).await;
    let mut run = Run::start(ingest(&library, &[&address, &folder]));
    run.until_step("transcribe");
    let pid_file = library.data().join("postgres/data/postmaster.pid");
    let pid: i32 = fs::read_to_string(pid_file).unwrap().lines().next().unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let ended = run.wait();
    assert_eq!((ended.code, ended.outcome()), (0, [6, 0, 0]), "{ended}");
    let started = ended.count("item_started");
    assert!(started.values().all(|&times| times == 1), "{started:?}: {ended}");
    assert!(!library.server_runs(), "it is stopped in the end all the same");
    let url = library.ok(&["db", "url"]).stdout.trim().to_owned();
    invariants(&url, &[&library], Rest::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_database_is_waited_out() {
    if !may_mount() {
        return;
    }
    let disk = Disk::of(160);
    let db = Database::at(ServerOptions::new(disk.path().join("data"), tools_dir())).await;
    let library = Library::on(&db.url);
    finish(&library, &[]);
    let (_server, folder, _) = sources(&library, Duration::ZERO).await;
    let mut run = Run::start(ingest(&library, &[&folder]));
    run.until_step("transcribe");
    let filler = disk.fill(0);
    run.until_said("failed to store an item");
    assert!(!run.is_over(), "it gave up: {}", run.said());
    fs::remove_file(filler).unwrap();
    let ended = run.wait();
    assert_eq!((ended.code, ended.outcome()), (0, [5, 0, 0]), "{ended}");
    invariants(&db.url, &[&library], Rest::Finished).await;
    assert_eq!(number(&db.url, "select count(*) from media where attempts <> 1").await, 0, "{ended}");
}

//! Ends of all kinds in the middle of the work: killed, interrupted, told to stop, and two at the same time.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::cli::{Library, Working, speeches, until};
use super::ingest::TALKS;
use super::server::{Fault, Page, Server};
use super::store::database;

/// A folder with the talks.
fn talks(library: &Library) -> PathBuf {
    let folder = library.folder("talks");
    for (file, _) in speeches(&TALKS) {
        fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    folder
}

/// `spoken ingest` of a folder, with every event as a line.
fn ingest(library: &Library, source: &str) -> Command {
    library.command(&["ingest", "--json", "--log-format", "json", source])
}

/// What an uninterrupted run makes of the talks.
async fn undisturbed() -> Vec<(String, Value)> {
    let library = Library::on(&database().await);
    let ran = library.ok(&["ingest", "--json", talks(&library).to_str().unwrap()]);
    assert_eq!(ran.json()["done"], TALKS.len(), "{ran}");
    library.transcripts()
}

/// Knuth's MMIX generator: the same seed, the same moments.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_goes_on_and_nothing_is_lost_or_doubled() {
    let library = Library::new();
    let folder = talks(&library);
    let folder = folder.to_str().unwrap();
    let nobody_left = || until("no process is left behind", || library.processes().is_empty());

    // While the private server is being made.
    let made_first = Working::start(ingest(&library, folder));
    until("the server is being made", || library.data().join("postgres").is_dir());
    drop(made_first);
    nobody_left();

    let mut dice = Dice(20_261);
    let mut killed = Vec::new();
    while killed.len() < 6 {
        let mut working = Working::start(ingest(&library, folder));
        // Events come in bursts; the pause takes the moment off them.
        let (events, pause) = (dice.below(30), Duration::from_millis(dice.below(120)));
        let mut seen = 0;
        while seen < events {
            let Some(line) = working.line() else { break };
            seen +=
                u64::from(line.contains("\"event\":\"item_") || line.contains("\"event\":\"step_started"));
        }
        std::thread::park_timeout(pause);
        working.signal(Signal::SIGKILL);
        let ended = working.finish();
        killed.push((events, pause, ended.code));
        nobody_left();
        if library.server_runs() {
            let [queued, active, done, failed] = library.counts();
            assert_eq!(failed, 0, "{killed:?}");
            assert!(queued + active + done <= TALKS.len() as u64, "{killed:?}");
        }
    }
    assert!(
        killed.iter().filter(|(.., code)| *code == 137).count() >= 5,
        "it was too quick to be killed: {killed:?}"
    );

    let last = library.ok(&["ingest", "--json", folder]);
    let summary = last.json();
    assert_eq!(
        summary["done"].as_u64().unwrap() + summary["skipped"].as_u64().unwrap(),
        TALKS.len() as u64,
        "{killed:?}: {last}"
    );
    assert!(!library.server_runs(), "the server that the killed left was not stopped by the last");
    nobody_left();
    assert_eq!(library.counts(), [0, 0, TALKS.len() as u64, 0]);
    library.assert_in_order();
    assert_eq!(library.transcripts(), undisturbed().await, "{killed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_takes_ytdlp_along() {
    let library = Library::on(&database().await);
    let server = Server::start().await;
    let (talk, _) = speeches(&TALKS[..1]).remove(0);
    server.put("/talk.wav", Page::new("audio/wav", fs::read(talk).unwrap()));
    let page = format!(
        "<!DOCTYPE html><html><head><title>Talk</title></head><body><video src=\"{}\"></video></body></html>",
        server.url("/talk.wav")
    );
    server.put("/talk.html", Page::new("text/html", page));
    // The first look is answered; then yt-dlp hangs.
    server.fail("/talk.html", [Fault::Slow(1000, Duration::from_millis(1)), Fault::Stall(20)]);
    let address = server.url("/talk.html");
    let working = Working::start(ingest(&library, &address));
    until("yt-dlp asks", || server.requests("/talk.html") >= 2);
    let running = library.processes();
    assert!(running.iter().any(|(_, name)| name != "spoken"), "yt-dlp is not seen: {running:?}");
    drop(working);
    until("no process is left behind", || library.processes().is_empty());

    let ran = library.ok(&["ingest", "--json", &address]);
    assert_eq!(ran.json()["done"], 1, "{ran}");
    library.assert_in_order();
}

/// Interrupts a run once the first talk is in work; what it said then.
async fn stopped_by(signal: Signal) {
    let library = Library::on(&database().await);
    let folder = talks(&library);
    let folder = folder.to_str().unwrap();
    let mut command = ingest(&library, folder);
    command.env("IO_WORKERS", "1");
    let mut working = Working::start(command);
    working.until("\"event\":\"item_started\"");
    working.signal(signal);
    let ran = working.finish();
    assert_eq!(ran.code, 130, "{ran}");
    let summary = ran.json();
    assert_eq!(summary["interrupted"], true, "{ran}");
    assert_eq!(summary["failed"], 0, "{ran}");
    let [queued, active, done, failed] = library.counts();
    assert!(done >= 1, "what was in work is finished: {ran}");
    assert_eq!(summary["done"], done, "{ran}");
    assert_eq!((queued > 0, active, failed), (true, 0, 0), "{ran}");
    assert_eq!(library.spooled(), Vec::<PathBuf>::new());

    // Not the folder again: what is queued is known.
    let ran = library.ok(&["ingest", "--json"]);
    assert_eq!(ran.json()["done"], queued, "{ran}");
    let ran = library.ok(&["ingest", "--json", folder]);
    assert_eq!(library.counts(), [0, 0, TALKS.len() as u64, 0], "{ran}");
    library.assert_in_order();
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_finishes_what_is_in_work() {
    stopped_by(Signal::SIGINT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_may_stop_it() {
    stopped_by(Signal::SIGTERM).await;
}

/// The command as `nohup` starts it.
fn nohup(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' HUP; exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(command.get_current_dir().unwrap())
        .env_clear()
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(Stdio::null());
    shell
}

#[tokio::test(flavor = "multi_thread")]
async fn under_nohup_it_outlives_its_terminal() {
    let library = Library::on(&database().await);
    let folder = talks(&library);
    let mut command = ingest(&library, folder.to_str().unwrap());
    command.env("IO_WORKERS", "1");
    let mut working = Working::start(nohup(&command));
    working.until("\"event\":\"item_started\"");
    working.signal(Signal::SIGHUP);
    let ran = working.finish();
    assert_eq!(ran.code, 0, "{ran}");
    let summary = ran.json();
    assert_eq!((&summary["interrupted"], &summary["done"]), (&json!(false), &json!(TALKS.len())), "{ran}");
    library.assert_in_order();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_ctrl_c_leaves_at_once() {
    let library = Library::on(&database().await);
    let server = Server::start().await;
    let (talk, _) = speeches(&TALKS[..1]).remove(0);
    server.put("/talk.wav", Page::new("audio/wav", fs::read(talk).unwrap()));
    let address = server.url("/talk.wav");
    // Listing asks once, then the download hangs.
    server.fail("/talk.wav", [Fault::Slow(1 << 20, Duration::ZERO), Fault::Stall(5000)]);
    let mut working = Working::start(ingest(&library, &address));
    working.until("\"event\":\"item_started\"");
    until("the download hangs", || server.requests("/talk.wav") >= 2);
    working.signal(Signal::SIGINT);
    working.until("\"event\":\"stop_requested\"");
    working.signal(Signal::SIGINT);
    let ran = working.finish();
    assert_eq!(ran.code, 130, "{ran}");
    assert!(ran.took < Duration::from_secs(20), "{:?} to leave", ran.took);

    let ran = library.ok(&["ingest", "--json"]);
    assert_eq!(ran.json()["done"], 1, "{ran}");
    library.assert_in_order();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_share_the_work() {
    let library = Library::new();
    let folder = talks(&library);
    let folder = folder.to_str().unwrap();
    let both = [Working::start(ingest(&library, folder)), Working::start(ingest(&library, folder))];
    let mut done = 0;
    for working in both {
        let ran = working.finish();
        assert_eq!(ran.code, 0, "{ran}");
        let summary = ran.json();
        assert_eq!(summary["failed"], 0, "{ran}");
        done += summary["done"].as_u64().unwrap();
    }
    assert_eq!(done, TALKS.len() as u64, "each item is done by one of them");
    assert!(!library.server_runs(), "the last one stops the server");
    assert_eq!(library.counts(), [0, 0, TALKS.len() as u64, 0]);
    library.assert_in_order();
    assert_eq!(library.transcripts(), undisturbed().await);
}

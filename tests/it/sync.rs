//! Subscriptions: the program as cron and a service manager run it, against feeds, lists and folders that grow.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use super::cli::{Library, Ran, Working, finish, in_time, names, repository, speeches, until};
use super::server::{Fault, Page, Server};
use super::store::database;

/// Short talks, one after the other in a feed.
const TALKS: [(&str, u32, u32, &[&str]); 6] = [
    ("s0.wav", 7300, 6, &[]),
    ("s1.mp3", 7301, 7, &[]),
    ("s2.m4a", 7302, 6, &[]),
    ("s3.wav", 7303, 7, &[]),
    ("s4.mp3", 7304, 6, &[]),
    ("s5.wav", 7305, 8, &[]),
];

/// A server that has the talks, and a podcast that tells of the first so many.
struct Podcast {
    server: Server,
}

impl Podcast {
    async fn new() -> Self {
        let talks = tokio::task::spawn_blocking(|| speeches(&TALKS)).await.unwrap();
        let server = Server::start().await;
        for ((name, ..), (file, _)) in TALKS.iter().zip(talks) {
            server.put(&format!("/m/{name}"), Page::new("application/octet-stream", fs::read(file).unwrap()));
        }
        Self { server }
    }

    /// The newest first, as podcasts have it; published on consecutive days from 2026-01-01 on.
    fn grow_to(&self, talks: usize) {
        let items: String = TALKS[..talks]
            .iter()
            .enumerate()
            .rev()
            .map(|(n, (name, ..))| {
                let url = self.server.url(&format!("/m/{name}"));
                format!(
                    "<item><title>Talk {n}</title><guid>{name}</guid><pubDate>{} Jan 2026 08:00:00 GMT</pubDate>\
                     <enclosure url=\"{url}\" type=\"audio/mpeg\" length=\"1\"/></item>",
                    n + 1
                )
            })
            .collect();
        let feed = format!(
            "<?xml version=\"1.0\"?><rss version=\"2.0\"><channel><title>Talks</title>{items}</channel></rss>"
        );
        self.server.put("/feed.xml", Page::new("application/rss+xml", feed));
    }

    fn url(&self) -> String {
        self.server.url("/feed.xml")
    }
}

/// Members of what `sync --json` prints.
const SUMMARY: [&str; 14] = [
    "checked",
    "done",
    "failed",
    "failures",
    "handed_over",
    "interrupted",
    "left_over",
    "left_to",
    "new",
    "paused",
    "removed",
    "sources",
    "sources_failed",
    "wall_ms",
];

fn whole(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("no whole number: {value}"))
}

/// `[checked, new, done, failed]` of a run.
fn outcome(ran: &Ran) -> [i64; 4] {
    let summary = ran.json();
    assert_eq!(names(&summary), SUMMARY);
    ["checked", "new", "done", "failed"].map(|name| whole(&summary[name]))
}

fn titles(library: &Library) -> Vec<String> {
    library.items().iter().map(|item| item["title"].as_str().unwrap().to_owned()).collect()
}

/// Everything one after the other on a blocking thread: the programs that are run block.
async fn blocking<T: Send + 'static>(task: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(task).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_grows_is_followed_and_nothing_new_costs_one_conditional_request() {
    let podcast = Podcast::new().await;
    podcast.grow_to(2);
    let url = podcast.url();
    // The private server, so that what is measured is all that a cron job does.
    blocking(move || {
        let library = Library::new();
        let added = library.ok(&["source", "add", &url, "--name", "talks", "--every", "1h", "--json"]).json();
        assert_eq!(added["source"], Value::String(url.clone()));
        let first = library.ok(&["sync", "--json"]);
        assert_eq!(outcome(&first), [1, 2, 2, 0], "{first}");
        assert_eq!(podcast.server.requests("/feed.xml"), 1, "the first look is one request");

        // Not due: not looked at. Its time is the database's.
        let at_once = library.ok(&["sync"]);
        assert!(
            at_once.stdout.starts_with("sync: 0 sources checked, 0 new, 0 done, 0 failed, "),
            "{at_once}"
        );
        assert_eq!(at_once.stderr, "", "quiet where nobody watches");
        assert_eq!(podcast.server.requests("/feed.xml"), 1);

        let all = podcast.server.all_requests();
        let mut fastest = Duration::MAX;
        for n in 1..=3 {
            let again = library.ok(&["sync", "--all"]);
            assert!(again.stdout.starts_with("sync: 1 source checked, 0 new, 0 done, 0 failed, "), "{again}");
            assert_eq!((again.stdout.lines().count(), again.stderr.as_str()), (1, ""), "{again}");
            assert_eq!(
                podcast.server.unchanged("/feed.xml"),
                n,
                "a conditional request that was answered 304"
            );
            assert_eq!(podcast.server.all_requests(), all + n, "and nothing else");
            println!("{:?} with nothing new, the private server started and stopped", again.took);
            fastest = fastest.min(again.took);
        }
        assert!(fastest < in_time(Duration::from_secs(2)), "{fastest:?} for nothing");
        assert!(!library.server_runs(), "the private server is stopped");

        podcast.grow_to(4);
        let grown = library.ok(&["sync", "talks", "--json"]);
        assert_eq!(outcome(&grown), [1, 2, 2, 0], "{grown}");
        assert_eq!(titles(&library), ["Talk 0", "Talk 1", "Talk 2", "Talk 3"]);
        library.assert_in_order();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_and_again_and_again_take_each_item_once() {
    let podcast = Podcast::new().await;
    let url = podcast.url();
    let database = database().await;
    blocking(move || {
        let library = Library::on(&database);
        podcast.grow_to(1);
        library.ok(&["source", "add", &url, "--every", "10s"]);
        let mut done = 0;
        let mut new = 0;
        for talks in 1..=TALKS.len() {
            podcast.grow_to(talks);
            let runs: Vec<_> = (0..2)
                .map(|_| {
                    let command = library.command(&["sync", "--all", "--json"]);
                    std::thread::spawn(move || finish(command))
                })
                .collect();
            for run in runs {
                let ran = run.join().unwrap();
                assert_eq!(ran.code, 0, "{ran}");
                let [_, taken, finished, failed] = outcome(&ran);
                assert_eq!(failed, 0);
                new += taken;
                done += finished;
            }
            let last = library.ok(&["sync", "--all", "--json"]);
            let [_, taken, finished, _] = outcome(&last);
            new += taken;
            done += finished;
            assert_eq!((new, done), (talks as i64, talks as i64), "each once, told once: {last}");
        }
        // By what happened, not by what is there: each was claimed once.
        assert_eq!(library.query("select sum(fence)::bigint from media"), TALKS.len() as i64);
        assert_eq!(
            library.query("select count(*) from source_entries where verdict = 'taken'"),
            TALKS.len() as i64
        );
        library.assert_in_order();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_back_and_nothing_is_forgotten() {
    let podcast = Podcast::new().await;
    podcast.grow_to(5);
    let url = podcast.url();
    let database = database().await;
    blocking(move || {
        let library = Library::on(&database);
        library.ok(&["source", "add", &url, "--name", "a", "--limit", "2", "--since", "2026-01-02"]);
        let limited = library.ok(&["sync", "--json", "--limit", "1"]);
        assert_eq!(outcome(&limited), [1, 1, 1, 0], "{limited}");
        assert_eq!(whole(&limited.json()["left_over"]), 3);
        assert_eq!(titles(&library), ["Talk 4"], "the newest first");
        // Not due any more, and the server will not tell of them again: what is left over is known here.
        let second = library.ok(&["sync", "--json"]);
        assert_eq!(outcome(&second), [0, 1, 1, 0], "one more of the two after a check: {second}");
        let third = library.ok(&["sync", "--json"]);
        assert_eq!(outcome(&third), [0, 0, 0, 0], "{third}");
        let forced = library.ok(&["sync", "--all", "--json"]);
        assert_eq!(outcome(&forced), [1, 2, 2, 0], "unchanged, but two more are allowed: {forced}");
        assert_eq!(titles(&library), ["Talk 1", "Talk 2", "Talk 3", "Talk 4"]);

        let shown = library.ok(&["source", "show", "a", "--json"]).json();
        assert_eq!((whole(&shown["items"]), whole(&shown["left"])), (4, 1));
        let passed = &shown["passed_over"][0];
        assert_eq!(passed["title"], "Talk 0");
        assert_eq!(passed["reason"], "published on 2026-01-01, before 2026-01-02");
        let text = library.ok(&["source", "show", "a"]);
        assert!(text.stdout.contains("Talk 0  published on 2026-01-01, before 2026-01-02"), "{text}");

        // Paused sources are left alone; removed ones leave their items.
        library.ok(&["source", "pause", "a"]);
        let asked = podcast.server.all_requests();
        assert_eq!(outcome(&library.ok(&["sync", "--all", "--json"])), [0, 0, 0, 0]);
        assert_eq!(podcast.server.all_requests(), asked);
        library.ok(&["source", "resume", "a"]);
        assert_eq!(outcome(&library.ok(&["sync", "--json"])), [1, 0, 0, 0], "resumed, it is due");
        library.ok(&["source", "remove", "a"]);
        assert_eq!(library.query("select count(*) from source_entries"), 0);
        assert_eq!(library.counts(), [0, 0, 4, 0], "removed without its items");
        // Subscribed to anew, it finds what is known.
        library.ok(&["source", "add", &url, "--name", "b"]);
        assert_eq!(outcome(&library.ok(&["sync", "--json"])), [1, 1, 1, 0], "only what is not there yet");
        let removed = library.ok(&["source", "remove", "b", "--with-items", "--json"]).json();
        assert_eq!(whole(&removed["items_removed"]), 5, "{removed}");
        assert_eq!(library.counts(), [0, 0, 0, 0]);
        assert_eq!(library.query("select count(*) from segments"), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_rules_bring_in_what_the_old_ones_left_out() {
    let podcast = Podcast::new().await;
    podcast.grow_to(3);
    let url = podcast.url();
    let database = database().await;
    blocking(move || {
        let library = Library::on(&database);
        library.ok(&["source", "add", &url, "--name", "a", "--since", "2026-01-03"]);
        assert_eq!(outcome(&library.ok(&["sync", "--json"])), [1, 1, 1, 0]);
        assert_eq!(titles(&library), ["Talk 2"]);
        // The same again changes nothing: what was left out stays out, and the server has nothing to send.
        library.ok(&["source", "add", &url, "--since", "2026-01-03"]);
        assert_eq!(outcome(&library.ok(&["sync", "--json"])), [1, 0, 0, 0]);
        assert_eq!(podcast.server.unchanged("/feed.xml"), 1);
        // The feed has not changed, but what is wanted of it has.
        library.ok(&["source", "add", &url, "--since", "2026-01-02"]);
        assert_eq!(outcome(&library.ok(&["sync", "--json"])), [1, 1, 1, 0]);
        assert_eq!(titles(&library), ["Talk 1", "Talk 2"]);
        // What a person removed is not wanted by any rule.
        let removed = library.items()[0]["media_id"].as_str().unwrap().to_owned();
        library.ok(&["remove", &removed, "--yes"]);
        library.ok(&["source", "add", &url, "--since", "2026-01-01"]);
        assert_eq!(outcome(&library.ok(&["sync", "--json"])), [1, 1, 1, 0]);
        assert_eq!(titles(&library), ["Talk 0", "Talk 2"]);
        library.assert_in_order();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_podcast_whose_addresses_change_is_not_taken_twice() {
    let podcast = Podcast::new().await;
    let database = database().await;
    blocking(move || {
        let tell = |items: &[(&str, &str)]| {
            let items: String = items
                .iter()
                .map(|(id, path)| {
                    let url = podcast.server.url(path);
                    format!(
                        "<item><title>{id}</title><guid isPermaLink=\"false\">{id}</guid>\
                         <enclosure url=\"{url}\" type=\"audio/mpeg\" length=\"1\"/></item>"
                    )
                })
                .collect();
            let feed = format!("<rss version=\"2.0\"><channel><title>Talks</title>{items}</channel></rss>");
            podcast.server.put("/feed.xml", Page::new("application/rss+xml", feed));
        };
        let library = Library::on(&database);
        library.ok(&["source", "add", &podcast.url()]);
        tell(&[("one", "/m/s0.wav"), ("two", "/gone/s1.mp3")]);
        let first = library.run(&["sync", "--json"]);
        assert_eq!(outcome(&first), [1, 2, 1, 1], "{first}");
        // One has moved; the other's address was wrong, and is mended.
        tell(&[("one", "/m/s0.wav?updated=2"), ("two", "/m/s1.mp3")]);
        let moved = library.ok(&["sync", "--all", "--json"]);
        assert_eq!(outcome(&moved), [1, 1, 1, 0], "{moved}");
        assert_eq!(library.counts(), [0, 0, 2, 1]);
        assert_eq!(library.query("select count(*) from source_entries"), 2);

        // As it was noted before entries had names of their own: known by its items, it is given them at the next look.
        let noted = "with noted as (update source_entries set media_id = item_id returning 1) select count(*) from noted";
        assert_eq!(library.query(noted), 2);
        tell(&[("one", "/m/s0.wav"), ("two", "/m/s1.mp3")]);
        assert_eq!(outcome(&library.ok(&["sync", "--all", "--json"])), [1, 0, 0, 0]);
        assert_eq!(library.query("select count(*) from source_entries where media_id <> item_id"), 2);
        tell(&[("one", "/m/s0.wav?updated=3"), ("two", "/m/s1.mp3?updated=3")]);
        assert_eq!(outcome(&library.ok(&["sync", "--all", "--json"])), [1, 0, 0, 0]);
        assert_eq!(library.query("select count(*) from source_entries"), 2);
        library.assert_in_order();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn adding_again_changes_what_is_given_and_nothing_else() {
    let database = database().await;
    blocking(move || {
        let library = Library::on(&database);
        let url = "http://127.0.0.1:9/feed.xml";
        let settings = |given: &[&str]| -> Value {
            let words = [["source", "add", url, "--json"].as_slice(), given].concat();
            let added = library.ok(&words).json();
            ["every_s", "rules", "limit", "language", "priority", "paused"]
                .iter()
                .map(|name| added[*name].clone())
                .collect()
        };
        let first = settings(&["--every", "1h", "--since", "2026-01-02", "--match", "talk", "--limit", "5"]);
        let mut rules = json!({
            "since": "2026-01-02", "matching": "talk", "shorts": true, "live": true, "members": false,
        });
        assert_eq!(first, json!([3600, rules, 5, null, "normal", false]));
        settings(&["--no-shorts", "--language", "de", "--priority", "high", "--keep-last", "7"]);
        library.ok(&["source", "pause", url]);
        rules["shorts"] = false.into();
        assert_eq!(settings(&["--keep-days", "30"]), json!([3600, rules, 5, "de", "high", true]));
        let kept = "select count(*) from sources where keep_last = 7 and keep_days = 30";
        assert_eq!(library.query(kept), 1);
        let said = library.ok(&["source", "add", url]);
        assert!(said.stdout.starts_with("changed ") && said.stdout.contains(" (paused)"), "{said}");

        let back = settings(&[
            "--since",
            "none",
            "--match",
            "",
            "--limit",
            "0",
            "--language",
            "auto",
            "--priority",
            "normal",
            "--no-shorts=no",
            "--keep-last",
            "none",
        ]);
        let rules = json!({ "shorts": true, "live": true, "members": false });
        assert_eq!(back, json!([3600, rules, null, null, "normal", true]));
        let kept = "select count(*) from sources where keep_last is null and keep_days = 30";
        assert_eq!(library.query(kept), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_source_is_told_and_put_off_and_the_others_go_on() {
    let podcast = Podcast::new().await;
    podcast.grow_to(1);
    let (url, gone, page) = (podcast.url(), podcast.server.url("/gone.xml"), podcast.server.url("/m/s0.wav"));
    let database = database().await;
    blocking(move || {
        let library = Library::on(&database);
        library.ok(&["source", "add", &url, "--name", "good"]);
        library.ok(&["source", "add", &gone, "--name", "gone"]);
        library.ok(&["source", "add", &page, "--name", "one-file"]);
        let ran = library.run(&["sync", "--json"]);
        assert_eq!(ran.code, 1, "a source that cannot be checked is told by the exit code: {ran}");
        assert_eq!(outcome(&ran), [3, 1, 1, 0], "{ran}");
        assert!(ran.stderr.contains("gone: ") && ran.stderr.contains("404"), "{ran}");
        assert!(ran.stderr.contains("one media file, not a source of many"), "{ran}");
        let listed = library.ok(&["source", "list", "--json"]).json();
        let of = |name: &str| {
            listed["sources"].as_array().unwrap().iter().find(|s| s["name"] == name).cloned().unwrap()
        };
        assert_eq!((whole(&of("gone")["failures"]), of("good")["error"].clone()), (1, Value::Null));
        assert_eq!(of("gone")["error"]["class"], "not_found");
        let again = library.ok(&["sync", "--json"]);
        assert_eq!(outcome(&again), [0, 0, 0, 0], "failed ones have to wait: {again}");

        // A server that is down for a moment is asked again in minutes, and each time later.
        let pauses: Vec<i64> = (0..3)
            .map(|_| {
                podcast.server.fail("/feed.xml", (0..4).map(|_| Fault::Status(503)));
                assert_eq!(library.run(&["sync", "good"]).code, 1);
                library.query(
                    "select extract(epoch from next_due - now())::bigint from sources where name = 'good'",
                )
            })
            .collect();
        assert!(pauses[0] > 400 && pauses[0] <= 600, "{pauses:?}");
        assert!(pauses[1] > pauses[0] && pauses[2] > pauses[1], "{pauses:?}");
        let back = library.ok(&["sync", "good", "--json"]);
        assert_eq!(outcome(&back), [1, 0, 0, 0], "{back}");
        let failures = library.query("select failures::bigint from sources where name = 'good'");
        assert_eq!(failures, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_is_filled_and_left_alone() {
    let podcast = Podcast::new().await;
    podcast.grow_to(2);
    let url = podcast.url();
    let database = database().await;
    blocking(move || {
        let library = Library::on(&database);
        library.ok(&["source", "add", &url]);
        library.ok(&["queue", "pause"]);
        let paused = library.ok(&["sync", "--json"]);
        assert_eq!(outcome(&paused), [1, 2, 0, 0], "{paused}");
        assert_eq!(paused.json()["paused"], true);
        assert_eq!(library.counts(), [2, 0, 0, 0]);
        let line = library.ok(&["sync"]);
        assert!(line.stdout.contains(", the queue is paused, "), "{line}");
        library.ok(&["queue", "resume"]);
        assert_eq!(outcome(&library.ok(&["sync", "--json"])), [0, 0, 2, 0]);
        library.assert_in_order();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_words_are_refused_with_what_to_do() {
    let database = database().await;
    blocking(move || {
        let library = Library::on(&database);
        for (arguments, says) in [
            (vec!["source", "add", "nowhere"], "no such file or folder"),
            (vec!["source", "add", "-"], "standard input"),
            (vec!["source", "add", "ftp://h/x"], "only http and https"),
            (vec!["source", "add", "https://a:b@h/x"], "user name or password"),
            (vec!["source", "add", "http://h/", "--match", "("], "no regular expression"),
            (vec!["source", "add", "http://h/", "--language", "klingon"], "language code"),
            (vec!["source", "add", "http://h/", "--every", "often"], "30m, 6h or 1d"),
            (vec!["source", "add", "http://h/", "--since", "soon"], "2026-01-31"),
            (vec!["source", "show", "nothing"], "no source is called"),
            (vec!["sync", "nothing"], "no source is called"),
            (vec!["sync", "x", "--all"], "cannot be used with"),
        ] {
            let ran = library.run(&arguments);
            assert_eq!(ran.code, 2, "{arguments:?}: {ran}");
            assert!(ran.stderr.contains(says), "{arguments:?}: {ran}");
            assert!(!ran.stderr.contains("a:b@"), "{ran}");
        }
        let nothing = library.ok(&["sync"]);
        assert!(nothing.stdout.starts_with("sync: 0 sources checked"), "{nothing}");
    })
    .await;
}

/// Lets a file look as if nobody had written to it for an hour.
fn settle(path: &Path) {
    let file = fs::File::options().append(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_watched_and_what_still_grows_waits() {
    let database = database().await;
    blocking(move || {
        let library = Library::on(&database);
        let folder = library.folder("recordings");
        let media = repository().join("tests/fixtures/media");
        let put = |from: &str, to: &str| {
            fs::copy(media.join(from), folder.join(to)).unwrap();
            settle(&folder.join(to));
        };
        put("voice-memo.wav", "first.wav");
        fs::write(folder.join("notes.txt"), "prose").unwrap();
        settle(&folder.join("notes.txt"));
        let source = folder.to_str().unwrap();
        library.ok(&["source", "add", source, "--name", "folder", "--every", "1h", "--language", "en"]);
        assert_eq!(outcome(&library.ok(&["sync", "--json"])), [1, 1, 1, 0]);
        assert_eq!(titles(&library), ["first"]);

        // A recorder writes to this one.
        fs::copy(media.join("lunch-talk.mp3"), folder.join("second.mp3")).unwrap();
        let growing = library.ok(&["sync", "--all", "--json"]);
        assert_eq!(outcome(&growing), [1, 0, 0, 0], "{growing}");
        assert_eq!(whole(&growing.json()["sources"][0]["growing"]), 1);
        let soon = library.query("select extract(epoch from next_due - now())::bigint from sources");
        assert!(soon <= 60, "looked at again in {soon} s");
        settle(&folder.join("second.mp3"));
        // The same content under another name is no new item.
        put("voice-memo.wav", "copy of first.wav");
        assert_eq!(outcome(&library.ok(&["sync", "--all", "--json"])), [1, 1, 1, 0]);
        assert_eq!(titles(&library), ["first", "second"]);
        let wanted = "select count(*) from media where language_wanted = 'en' and language = 'en'";
        assert_eq!(library.query(wanted), 2, "the language asked for is the one written");
        fs::rename(&folder, folder.with_file_name("elsewhere")).unwrap();
        let gone = library.run(&["sync", "--all"]);
        assert_eq!(gone.code, 1, "{gone}");
        assert!(gone.stderr.contains("folder: failed to read"), "{gone}");
        library.assert_in_order();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_links_of_a_feed_are_opened_once() {
    let podcast = Podcast::new().await;
    let server = &podcast.server;
    for n in 0..2 {
        let page = format!(
            "<!DOCTYPE html><html><head><title>Page {n}</title></head><body><audio src=\"/m/s{n}.{}\"></audio></body></html>",
            ["wav", "mp3"][n]
        );
        server.put(&format!("/p{n}.html"), Page::new("text/html", page));
    }
    server.put("/article.html", Page::new("text/html", "<!DOCTYPE html><html><body>words</body></html>"));
    let links: String = ["p0", "article", "p1"]
        .iter()
        .map(|name| {
            let url = server.url(&format!("/{name}.html"));
            format!("<entry><id>{name}</id><title>{name}</title><link href=\"{url}\"/><updated>2026-01-01T00:00:00Z</updated></entry>")
        })
        .collect();
    let atom = format!(
        "<feed xmlns=\"http://www.w3.org/2005/Atom\"><id>f</id><title>F</title><updated>2026-01-01T00:00:00Z</updated>{links}</feed>"
    );
    server.put("/atom", Page::new("application/atom+xml", atom.clone()));
    let url = server.url("/atom");
    let database = database().await;
    blocking(move || {
        let server = &podcast.server;
        let library = Library::on(&database);
        library.ok(&["source", "add", &url, "--match", "p[01]|article"]);
        assert_eq!(outcome(&library.ok(&["sync", "--json"])), [1, 2, 2, 0]);
        let before = server.all_requests();
        // The feed has changed, its entries have not.
        server.put("/atom", Page::new("application/atom+xml", atom + "\n"));
        assert_eq!(outcome(&library.ok(&["sync", "--all", "--json"])), [1, 0, 0, 0]);
        assert_eq!(server.all_requests(), before + 1, "known pages are not asked again");
        let shown = library.ok(&["source", "list", "--json"]).json();
        assert_eq!((whole(&shown["sources"][0]["items"]), whole(&shown["sources"][0]["left"])), (2, 1));
        library.assert_in_order();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_yt_dlp_lists_is_a_source_too() {
    let podcast = Podcast::new().await;
    let page = |players: usize| {
        let players: String =
            TALKS[..players].iter().map(|(name, ..)| format!("<audio src=\"/m/{name}\"></audio>")).collect();
        Page::new(
            "text/html",
            format!("<!DOCTYPE html><html><head><title>Talks</title></head><body>{players}</body></html>"),
        )
    };
    podcast.server.put("/talks.html", page(2));
    let url = podcast.server.url("/talks.html");
    let database = database().await;
    blocking(move || {
        let library = Library::on(&database);
        library.ok(&["source", "add", &url]);
        assert_eq!(outcome(&library.ok(&["sync", "--json"])), [1, 2, 2, 0]);
        podcast.server.put("/talks.html", page(4));
        assert_eq!(outcome(&library.ok(&["sync", "--all", "--json"])), [1, 2, 2, 0]);
        let listed = library.ok(&["source", "list", "--json"]).json();
        assert_eq!(listed["sources"][0]["kind"], "list");
        library.assert_in_order();
    })
    .await;
}

/// What a service manager hears, until it hears `text`.
fn hear(socket: &UnixDatagram, text: &str) -> String {
    let mut all = String::new();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    loop {
        let mut buffer = [0; 1024];
        let n = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{e}: waited for {text}, heard {all}"));
        all += std::str::from_utf8(&buffer[..n]).unwrap();
        all += "\n";
        if all.contains(text) {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_follows_reloads_tells_and_stops() {
    let podcast = Podcast::new().await;
    podcast.grow_to(1);
    let url = podcast.url();
    let database = database().await;
    blocking(move || {
        let library = Library::on(&database);
        let manager = library.folder("manager").join("notify");
        let socket = UnixDatagram::bind(&manager).unwrap();
        // Of its own, since its `.env` is changed.
        let cwd = library.folder("daemon");
        let mut command = library.command(&["run", "--log-format", "text"]);
        command
            .current_dir(&cwd)
            .env("NOTIFY_SOCKET", &manager)
            // Rarely, so that what is not read for a while is still taken in.
            .env("WATCHDOG_USEC", "60000000")
            .stdin(Stdio::null());
        let daemon = Working::start(command);
        hear(&socket, "READY=1");
        hear(&socket, "WATCHDOG=1");
        library.ok(&["source", "add", &url, "--every", "10s"]);
        let done = || library.query("select count(*) from media where state = 'done'");
        until("the first talk is done", || done() == 1);
        // Its schedule goes on by itself.
        podcast.grow_to(3);
        until("what came later is done", || done() == 3);
        assert!(podcast.server.requests("/feed.xml") >= 2);

        // Another that wants to work here leaves it to the daemon; one that checks, too.
        podcast.grow_to(4);
        let beside = library.run(&["sync", "--all", "--json"]);
        assert_eq!(beside.code, 0, "{beside}");
        assert_eq!(whole(&beside.json()["done"]), 0, "{beside}");
        until("what the other found is done", || done() == 4);
        let second = library.run(&["run"]);
        assert_eq!(second.code, 3, "it may work here later: {second}");
        assert!(second.stderr.contains("works in this data directory already"), "{second}");

        fs::write(cwd.join(".env"), "INGESTION_LIMIT=1\n").unwrap();
        daemon.signal(Signal::SIGHUP);
        let heard = hear(&socket, "READY=1");
        assert!(heard.contains("RELOADING=1"), "{heard}");
        fs::write(cwd.join(".env"), "INGESTION_LIMIT=none\n").unwrap();
        daemon.signal(Signal::SIGHUP);
        hear(&socket, "READY=1");
        podcast.grow_to(6);
        until("one at a time, all are done", || done() == 6);

        daemon.signal(Signal::SIGTERM);
        hear(&socket, "STOPPING=1");
        let ran = daemon.finish();
        assert_eq!(ran.code, 0, "{ran}");
        assert!(
            ran.stderr.contains("they have changed") && ran.stderr.contains("the old ones stay"),
            "{ran}"
        );
        library.assert_in_order();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_hand_when_it_was_killed_is_done_though_nothing_is_new() {
    let podcast = Podcast::new().await;
    let url = podcast.url();
    let database = database().await;
    blocking(move || {
        let server = &podcast.server;
        let library = Library::on(&database);
        library.ok(&["source", "add", &url, "--name", "talks", "--every", "1h"]);
        // Killed while its only item comes, byte by byte, until the server is calm.
        let kill_at_work = |arguments: &[&str], talk: &str, before: u64| {
            server.always(talk, Fault::Slow(500, Duration::from_millis(500)));
            let mut working = Working::start(library.command(arguments));
            working.until("\"step_started\"");
            working.signal(Signal::SIGKILL);
            working.finish();
            server.calm();
            assert_eq!(library.counts(), [0, 1, before, 0]);
        };
        podcast.grow_to(1);
        kill_at_work(&["sync", "--log-format", "json"], "/m/s0.wav", 0);
        let next = library.ok(&["sync", "--json"]);
        assert_eq!(outcome(&next), [0, 0, 1, 0], "{next}");
        assert_eq!(outcome(&library.ok(&["sync", "--json"])), [0, 0, 0, 0], "and that is all");

        podcast.grow_to(2);
        library.ok(&["source", "pause", "talks"]);
        library.ok(&["source", "resume", "talks"]);
        kill_at_work(&["run", "--log-format", "json"], "/m/s1.mp3", 1);
        // What is in nobody's hand would leave no room for more.
        podcast.grow_to(3);
        library.ok(&["source", "pause", "talks"]);
        library.ok(&["source", "resume", "talks"]);
        let mut command = library.command(&["run", "--log-format", "json"]);
        command.env("INGESTION_LIMIT", "1");
        let daemon = Working::start(command);
        until("it has done what the last one left, and what is new", || library.counts() == [0, 0, 3, 0]);
        daemon.signal(Signal::SIGTERM);
        let ran = daemon.finish();
        assert_eq!(ran.code, 0, "{ran}");
        library.assert_in_order();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_known_to_others_before_it_queues_anything() {
    let database = database().await;
    let library = Library::on(&database);
    library.ok(&["source", "list"]);
    let mut connection = PgConnection::connect(&database).await.unwrap();
    sqlx::raw_sql(
        "create table witnesses (nodes bigint); \
         create function witness() returns trigger language plpgsql as \
            $$ begin insert into witnesses select count(*) from nodes where heartbeat_at > now() - interval '1 minute'; \
               return new; end $$; \
         create trigger witness after insert on media for each row execute function witness()",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    blocking(move || {
        let folder = library.folder("recordings");
        let put = |from: &str| {
            fs::copy(repository().join("tests/fixtures/media").join(from), folder.join(from)).unwrap();
            settle(&folder.join(from));
        };
        let source = folder.to_str().unwrap();
        let witnesses = || library.query("select count(*) from witnesses where nodes = 1");
        put("voice-memo.wav");
        library.ok(&["ingest", source]);
        assert_eq!(witnesses(), 1, "an ingest");
        library.ok(&["source", "add", source, "--name", "folder", "--every", "1h"]);
        put("lunch-talk.mp3");
        library.ok(&["sync"]);
        assert_eq!(witnesses(), 2, "a sync");
        let gone = "select count(*) from nodes";
        assert_eq!(library.query(gone), 0, "they took their leave");

        let daemon = Working::start(library.command(&["run", "--log-format", "json"]));
        until("it is known though it has nothing to do", || library.query(gone) == 1);
        put("noisy-market.m4a");
        library.ok(&["source", "pause", "folder"]);
        library.ok(&["source", "resume", "folder"]);
        until("what is new is done", || library.counts() == [0, 0, 3, 0]);
        assert_eq!(witnesses(), 3, "a daemon that did nothing yet");
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.finish().code, 0);
        assert_eq!(library.query(gone), 0);
        library.assert_in_order();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_another_machine_found_is_waited_for_before_it_is_given_up() {
    let database = database().await;
    blocking(move || {
        let library = Library::on(&database);
        let folder = library.folder("recordings");
        for name in ["voice-memo.wav", "lunch-talk.mp3"] {
            fs::copy(repository().join("tests/fixtures/media").join(name), folder.join(name)).unwrap();
            settle(&folder.join(name));
        }
        // Queued and left alone. One of the two was found by a machine that does not work here now, though this one takes it on.
        library.ok(&["source", "add", folder.to_str().unwrap(), "--every", "1h"]);
        library.ok(&["queue", "pause"]);
        library.ok(&["sync", "--limit", "1"]);
        let elsewhere = "with far as (update source_entries set item = jsonb_set(item, '{locator,on}', '\"far\"') \
            where verdict = 'ready' returning 1) select count(*) from far";
        assert_eq!(library.query(elsewhere), 1);
        library.ok(&["sync"]);
        assert_eq!(library.counts(), [2, 0, 0, 0]);
        assert_eq!(library.query("select count(*) from media where locator ->> 'on' = 'far'"), 1);
        library.ok(&["queue", "resume"]);

        let away = folder.with_file_name("elsewhere");
        fs::rename(&folder, &away).unwrap();
        let work = || {
            let mut command = library.command(&["work", "--drain", "--json", "--log-format", "json"]);
            command.env("LEASE_SECONDS", "2");
            command
        };
        let working = Working::start(work());
        until("the other machine's file is missed", || {
            library.query("select count(*) from media where state = 'queued' and error like '%found on far%'") == 1
        });
        until("this machine's own is given up", || library.counts() == [1, 0, 0, 1]);
        assert_eq!(library.query("select attempts::bigint from media where state = 'failed'"), 1);
        fs::rename(&away, &folder).unwrap();
        let ran = working.finish();
        assert_eq!([&ran.json()["done"], &ran.json()["failed"]], [1, 1], "{ran}");

        // It is not waited for without end.
        let moved = "with far as (update media set locator = jsonb_set(locator, '{on}', '\"far\"') where state = 'failed' \
            returning 1) select count(*) from far";
        assert_eq!(library.query(moved), 1);
        library.ok(&["retry", "--failed"]);
        fs::rename(&folder, &away).unwrap();
        let ran = finish(work());
        assert_eq!((ran.code, &ran.json()["failed"]), (1, &Value::from(1)), "{ran}");
        assert!(ran.took > Duration::from_secs(4 * 2), "{ran}");
        assert_eq!(library.query("select attempts::bigint from media where state = 'failed'"), 5);
        library.assert_in_order();
    })
    .await;
}

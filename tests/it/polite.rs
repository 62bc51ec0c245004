//! Sites are asked at their pace: the ledger on the real private server, and the program against a site that refuses in
//! every way.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use spoken::govern::{Ask, Governor, Permit, Rules, Turn, Wait, standing};
use spoken::media::{Failure, FailureClass, Item, Locator, MediaId, Retry};
use spoken::store::{Store, StoreOptions};
use sqlx::postgres::PgPool;
use url::Url;
use uuid::Uuid;

use super::cli::{Library, Working, ffmpeg, finish, speeches, until};
use super::ingest::TALKS;
use super::roles::shared_folder;
use super::server::{Fault, Page, Server};
use super::store::{database, store};

/// A governor of a process of its own.
fn governor(pool: &PgPool, sites: &str) -> Governor {
    let rules = Rules { sites: Rules::parse_sites(sites).unwrap(), ..Rules::default() };
    Governor::new(pool.clone(), rules, "none".to_owned(), Uuid::new_v4())
}

fn url() -> Url {
    Url::parse("http://127.0.0.1/talk.mp3").unwrap()
}

async fn ask(governor: &Governor, what: Ask) -> Result<Permit, Wait> {
    match governor.ask(&url(), what).await.unwrap() {
        Turn::Go(permit) => Ok(permit),
        Turn::Wait(wait) => Err(wait),
    }
}

/// Waits for a turn as long as it takes.
async fn turn(governor: &Governor, what: Ask) -> Permit {
    loop {
        match ask(governor, what).await {
            Ok(permit) => return permit,
            Err(wait) => tokio::time::sleep(wait.after).await,
        }
    }
}

fn refused() -> Failure {
    Failure::new(FailureClass::RateLimited, "429 Too Many Requests").with_remedy("wait")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_holds_so_many_and_no_more_whoever_asks() {
    let store = store().await;
    let sites = "127.0.0.1 videos=5 requests=100 interval=0 downloads=0 window=2";
    let start = Instant::now();
    // Four processes, eight askers each.
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let governor = Arc::new(governor(store.pool(), sites));
        for _ in 0..8 {
            let governor = governor.clone();
            asking.spawn(async move { ask(&governor, Ask::Video).await.map(drop) });
        }
    }
    let answers = asking.join_all().await;
    assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 5, "{answers:?}");
    let wait = answers.into_iter().find_map(Result::err).unwrap();
    assert!(wait.why.contains("5 videos") && !wait.resting, "{wait:?}");
    assert!(wait.remedy.as_deref().unwrap().contains("RATE_VIDEOS_PER_HOUR"));
    assert!(wait.after <= Duration::from_secs(3), "{wait:?}");

    // A new process finds the ledger as it was, and goes on when the window has passed.
    let next = governor(store.pool(), sites);
    assert!(ask(&next, Ask::Video).await.is_err(), "the ledger was forgotten");
    drop(turn(&next, Ask::Video).await);
    assert!(start.elapsed() >= Duration::from_secs(2), "after {:?}", start.elapsed());
    let seen = standing(store.pool()).await.unwrap();
    assert_eq!((seen.len(), seen[0].videos, seen[0].open_s), (1, 6, None), "{seen:?}");

    // Other cookies are another account, and other sites are other sites.
    let rules = Rules { sites: Rules::parse_sites(sites).unwrap(), ..Rules::default() };
    let account = Governor::new(store.pool().clone(), rules, "cookies-1".to_owned(), Uuid::new_v4());
    for _ in 0..5 {
        assert!(ask(&account, Ask::Video).await.is_ok());
    }
    assert!(ask(&account, Ask::Video).await.is_err());
    assert!(matches!(next.ask(&"https://example.org/".parse().unwrap(), Ask::Video).await, Ok(Turn::Go(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn distance_downloads_and_turns() {
    let store = store().await;
    let spaced = governor(store.pool(), "127.0.0.1 videos=0 requests=0 interval=0.4 downloads=2");
    let start = Instant::now();
    let first = turn(&spaced, Ask::Video).await;
    let wait = ask(&spaced, Ask::Video).await.unwrap_err();
    assert!(wait.why.contains("between two videos") && wait.after <= Duration::from_millis(601), "{wait:?}");
    let second = turn(&spaced, Ask::Video).await;
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
    // Two run: a third waits for one of them, however long ago they began.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let wait = ask(&spaced, Ask::Video).await.unwrap_err();
    assert!(wait.why.contains("2 downloads"), "{wait:?}");
    first.end().await;
    let third = ask(&spaced, Ask::Video).await.expect("one has ended");
    // Dropped and not ended, as when a task is cancelled.
    drop(second);
    tokio::time::timeout(Duration::from_secs(20), turn(&spaced, Ask::Video))
        .await
        .expect("a dropped one ends, too");
    drop(third);

    // What is put off comes one after another.
    let slow = governor(store.pool(), "127.0.0.1 videos=0 requests=0 interval=10 downloads=0");
    let mut turns = Vec::new();
    for _ in 0..5 {
        turns.push(slow.put_off(&url(), Duration::from_secs(60)).await.unwrap().as_secs_f64());
    }
    for pair in turns.windows(2) {
        assert!((9.0..11.0).contains(&(pair[1] - pair[0])), "{turns:?}");
    }
    assert!((59.0..61.0).contains(&turns[0]), "{turns:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_process_frees_what_it_held() {
    let store = store().await;
    let sites = "127.0.0.1 videos=0 requests=0 interval=0 downloads=1";
    let rules = Rules { sites: Rules::parse_sites(sites).unwrap(), ..Rules::default() };
    let dead = Uuid::new_v4();
    let killed = Governor::new(store.pool().clone(), rules, "none".to_owned(), dead);
    std::mem::forget(turn(&killed, Ask::Video).await);
    let next = governor(store.pool(), sites);
    assert!(ask(&next, Ask::Video).await.is_err());
    Governor::forget(store.pool(), &[dead]).await.unwrap();
    assert!(ask(&next, Ask::Video).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_opens_rests_and_lets_one_try() {
    let store = store().await;
    let sites = "127.0.0.1 videos=0 requests=0 interval=0 downloads=0 rest=1";
    let (one, other) = (governor(store.pool(), sites), governor(store.pool(), sites));
    let late = turn(&one, Ask::Video).await;
    let permit = turn(&one, Ask::Video).await;
    let told = one.tell(&url(), permit.id(), Err(&refused())).await.unwrap();
    assert!(told.opened && told.open_for.unwrap() <= Duration::from_millis(1101), "{told:?}");
    // Others that were on their way add nothing, and their success proves nothing.
    assert!(!one.tell(&url(), None, Err(&refused())).await.unwrap().opened);
    one.tell(&url(), late.id(), Ok(())).await.unwrap();
    for what in [Ask::Video, Ask::Listing, Ask::Request(None), Ask::Request(late.id())] {
        let wait = ask(&other, what).await.unwrap_err();
        assert!(wait.resting && wait.why.contains("left alone") && wait.why.contains("429"), "{wait:?}");
        assert_eq!(wait.remedy.as_deref(), Some("wait"));
        let failure = wait.failure();
        assert!(failure.free && failure.class == FailureClass::Paced && failure.retry.is_some());
    }
    let seen = standing(store.pool()).await.unwrap();
    assert!(
        seen[0].open_s.is_some() && seen[0].reason.as_deref() == Some("429 Too Many Requests"),
        "{seen:?}"
    );

    // One goes ahead; the others wait for what it finds; its own requests pass.
    let probe = turn(&other, Ask::Video).await;
    assert!(probe.is_trial());
    assert!(ask(&one, Ask::Video).await.unwrap_err().why.contains("tried with one item"));
    assert!(ask(&other, Ask::Request(probe.id())).await.is_ok());
    // It finds the same: twice the rest.
    let told = other.tell(&url(), probe.id(), Err(&refused())).await.unwrap();
    let open = told.open_for.unwrap();
    assert!(
        told.opened && open > Duration::from_millis(1900) && open < Duration::from_millis(2300),
        "{told:?}"
    );
    probe.end().await;
    // One that dies leaves the trial to the next.
    let probe = turn(&one, Ask::Video).await;
    assert!(probe.is_trial());
    probe.end().await;
    let probe = ask(&other, Ask::Video).await.expect("the trial is free again");
    assert!(probe.is_trial());
    assert_eq!(other.tell(&url(), probe.id(), Ok(())).await.unwrap().open_for, None);
    assert!(ask(&one, Ask::Video).await.is_ok() && ask(&one, Ask::Video).await.is_ok());
    // Soon again: it is still the same trouble, and rests longer. What the site asks for is given.
    let told = one.tell(&url(), None, Err(&refused())).await.unwrap();
    assert!(told.open_for.unwrap() > Duration::from_millis(3900), "{told:?}");
    let told = one
        .tell(&url(), None, Err(&refused().with_retry(Retry::In(Duration::from_secs(500)))))
        .await
        .unwrap();
    assert!(told.open_for.unwrap() > Duration::from_secs(490), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rests_double_for_one_kind_of_trouble_and_a_network_is_tried_again_within_the_half_hour() {
    let store = store().await;
    let governor = governor(store.pool(), "127.0.0.1 videos=0 requests=0 interval=0 downloads=0 rest=7200");
    let network = Failure::new(FailureClass::Network, "no such name");
    let refused = refused();
    for _ in 0..3 {
        governor.tell(&url(), None, Err(&network)).await.unwrap();
    }
    // Its rest is over, and one item finds this.
    let tried = async |failure: &Failure| {
        sqlx::query("UPDATE governor_sites SET open_until = clock_timestamp() - interval '1 second'")
            .execute(store.pool())
            .await
            .unwrap();
        let probe = turn(&governor, Ask::Video).await;
        let told = governor.tell(&url(), probe.id(), Err(failure)).await.unwrap();
        probe.end().await;
        assert!(told.opened, "{told:?}");
        told.open_for.unwrap().as_secs()
    };
    // Each up to a tenth longer by chance.
    for (failure, rest) in [
        (&network, 1200),
        (&network, 1800),
        (&network, 1800),
        (&refused, 7200),
        (&refused, 14_400),
        (&network, 600),
        (&refused, 7200),
    ] {
        let open = tried(failure).await;
        assert!((rest - 5..=rest + rest / 10).contains(&open), "{open} s for {failure:?}, not {rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_troubles_in_a_row_open_it_and_success_in_between_does_not() {
    let store = store().await;
    let governor = governor(store.pool(), "127.0.0.1 rest=60");
    let trouble = Failure::new(FailureClass::Network, "503 Service Unavailable");
    let forbidden = Failure::new(FailureClass::Forbidden, "403");
    let tell = async |outcome: Result<(), &Failure>| governor.tell(&url(), None, outcome).await.unwrap();
    for _ in 0..3 {
        assert!(!tell(Err(&trouble)).await.opened);
        assert!(!tell(Err(&forbidden)).await.opened);
        assert_eq!(tell(Ok(())).await.open_for, None);
    }
    assert!(!tell(Err(&trouble)).await.opened);
    // Neither success nor trouble of the site: our own disk.
    assert!(!tell(Err(&Failure::new(FailureClass::Internal, "disk"))).await.opened);
    assert!(!tell(Err(&forbidden)).await.opened);
    let told = tell(Err(&trouble)).await;
    assert!(
        told.opened && told.open_for.unwrap() < Duration::from_secs(6),
        "a network is back sooner: {told:?}"
    );
    // A refusal of one item's media is the site's doing a few times, then its own.
    let id = MediaId::new("test", "1");
    let forgiven: Vec<bool> = {
        let mut forgiven = Vec::new();
        for _ in 0..5 {
            forgiven.push(governor.forgives(&url(), id).await.unwrap());
        }
        forgiven
    };
    assert_eq!(forgiven, [true, true, true, false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_busy_gets_the_rest_that_it_asks_for_and_its_site_too() {
    let library = Library::on(&database().await);
    let server = Server::start().await;
    let feed = "<rss version=\"2.0\"><channel><title>x</title></channel></rss>";
    for name in ["a", "b"] {
        let path = format!("/{name}.xml");
        server.put(&path, Page::new("application/rss+xml", feed));
        library.ok(&["source", "add", &server.url(&path), "--name", name]);
    }
    server.fail("/a.xml", [Fault::Busy(Some(2000))]);
    let sync = |source: &str| {
        let mut command = library.command(&["sync", source]);
        command.env("RATE_SITES", "127.0.0.1 interval=0 rest=60");
        finish(command)
    };
    let busy = sync("a");
    assert_eq!((busy.code, server.requests("/a.xml")), (1, 1), "{busy}");
    let other = sync("b");
    assert_eq!((other.code, server.requests("/b.xml")), (1, 0), "the site is left alone: {other}");
    assert!(other.stderr.contains("left alone"), "{other}");
    let due = library.query("select extract(epoch from max(next_due) - now())::bigint from sources");
    assert!((1800..=2000).contains(&due), "both are looked at again when it is over: {due} s");
}

/// Pages with a stream of pieces, which only yt-dlp puts together, and addresses of media.
async fn site(talks: &[std::path::PathBuf]) -> (Server, Vec<Item>) {
    let server = Server::start().await;
    let mut items = Vec::new();
    let item = |id: String, locator: Locator, title: String| Item {
        media_id: MediaId::new("test", &id),
        extractor: "generic".into(),
        source: id.clone(),
        source_id: id,
        locator,
        title,
        duration_ms: None,
    };
    for (n, talk) in talks.iter().enumerate() {
        if n % 2 == 0 {
            let path = format!("/direct/{n}.wav");
            let out = tempfile::tempdir().unwrap();
            let wav = out.path().join("talk.wav");
            ffmpeg(&[&"-i", &talk, &"-ac", &"1", &"-ar", &"16000", &wav]);
            server.put(&path, Page::new("audio/wav", fs::read(wav).unwrap()));
            let url = server.url(&path);
            items.push(item(url.clone(), Locator::Url(url.parse().unwrap()), format!("direct {n}")));
            continue;
        }
        let out = tempfile::tempdir().unwrap();
        let list = out.path().join("s.m3u8");
        ffmpeg(&[
            &"-i",
            &talk,
            &"-vn",
            &"-c:a",
            &"aac",
            &"-f",
            &"hls",
            &"-hls_time",
            &"6",
            &"-hls_list_size",
            &"0",
            &list,
        ]);
        for file in fs::read_dir(out.path()).unwrap().flatten() {
            let name = file.file_name().into_string().unwrap();
            let kind = if name.ends_with("m3u8") { "application/vnd.apple.mpegurl" } else { "video/mp2t" };
            server.put(&format!("/stream/{n}/{name}"), Page::new(kind, fs::read(file.path()).unwrap()));
        }
        let page = format!(
            "<!DOCTYPE html><html><head><title>Talk {n}</title></head><body><video><source src='/stream/{n}/s.m3u8' \
             type='application/x-mpegURL'></video></body></html>"
        );
        let path = format!("/page/{n}.html");
        server.put(&path, Page::new("text/html", page));
        let url = server.url(&path);
        items.push(item(format!("{url}#{n}-1"), Locator::Page(url.parse().unwrap()), format!("page {n}")));
    }
    (server, items)
}

/// A page with a talk in pieces, and with captions that somebody made for it.
async fn captioned(talk: &std::path::Path, captions: &str) -> (Server, Item) {
    let (server, mut items) = site(&[talk.to_owned(), talk.to_owned()]).await;
    let mut item = items.remove(1);
    server.put(
        "/page/1.html",
        Page::new(
            "text/html",
            "<!DOCTYPE html><html><head><title>Talk</title></head><body><video><source src='/stream/1/s.m3u8' \
             type='application/x-mpegURL'><track kind='captions' srclang='en' src='/c/en.vtt'></video></body></html>",
        ),
    );
    server.put("/c/en.vtt", Page::new("text/vtt", captions));
    item.title = "captioned".into();
    (server, item)
}

#[tokio::test(flavor = "multi_thread")]
async fn captions_that_people_made_stand_for_a_transcript_where_they_are_wanted_and_good() {
    let (talk, truth) = tokio::task::spawn_blocking(|| speeches(&TALKS[..1]).remove(0)).await.unwrap();
    let whole = format!(
        "WEBVTT\n\n00:00.200 --> 00:04.000\n<v Anna>People wrote this</v>\n\n00:04.000 --> {:02}:{:06.3}\nand this\n",
        truth.duration as u64 / 60,
        truth.duration % 60.0 - 0.3
    );
    let title = "WEBVTT\n\n00:00.200 --> 00:01.000\nTitle only\n";
    let length = Some((truth.duration * 1000.0) as i64);
    // What is wanted, what is there, whether the length is known; whose transcript it is in the end.
    for (wanted, captions, length, written) in [
        ("first", whole.as_str(), None, true),
        ("first", &whole, length, true),
        ("ignore", &whole, length, false),
        ("fallback", &whole, length, false),
        ("first", title, length, false),
    ] {
        let url = database().await;
        let library = Library::on(&url);
        let (server, item) = captioned(&talk, captions).await;
        let item = Item { duration_ms: length, ..item };
        let store = Store::connect(&url, &StoreOptions::default()).await.unwrap();
        store.migrate().await.unwrap();
        store.upsert_many(std::slice::from_ref(&item), "test").await.unwrap();
        let mut command = library.command(&["ingest", "--json"]);
        command.env("CAPTIONS", wanted);
        let ran = finish(command);
        assert_eq!((ran.code, ran.json()["done"].as_u64()), (0, Some(1)), "{wanted}: {ran}");
        assert_eq!(server.requests("/c/en.vtt"), usize::from(wanted != "ignore"), "{wanted}");
        let fetched = server.requests("/stream/1/s0.ts") > 0;
        assert_eq!(
            fetched,
            !(written && length.is_some()),
            "{wanted}: the media is needless where captions do"
        );
        let (model, text): (String, String) = sqlx::query_as(
            "select model, (select string_agg(text, ' ' order by seq) from segments s where s.media_id = m.media_id) \
             from media m",
        )
        .fetch_one(store.pool())
        .await
        .unwrap();
        if written {
            assert_eq!((model.as_str(), text.as_str()), ("captions:en", "People wrote this and this"));
            let hits = library.ok(&["search", "--json", "people", "wrote"]).json_lines();
            assert_eq!(hits[0]["start_ms"], 200, "{hits:?}");
        } else {
            assert!(
                !model.starts_with("captions") && !text.contains("People wrote"),
                "{wanted}: {model}: {text}"
            );
        }
        library.assert_in_order();
    }

    // Where nothing is heard, they stand in.
    let url = database().await;
    let library = Library::on(&url);
    let out = tempfile::tempdir().unwrap();
    let silence = out.path().join("silence.wav");
    ffmpeg(&[&"-f", &"lavfi", &"-i", &"anullsrc=r=16000:cl=mono", &"-t", &"9", &silence]);
    let (_server, item) =
        captioned(&silence, "WEBVTT\n\n00:00.000 --> 00:08.500\nA sign language talk\n").await;
    let store = Store::connect(&url, &StoreOptions::default()).await.unwrap();
    store.migrate().await.unwrap();
    store.upsert_many(&[Item { duration_ms: Some(9000), ..item }], "test").await.unwrap();
    let mut command = library.command(&["ingest", "--json"]);
    command.env("CAPTIONS", "fallback");
    let ran = finish(command);
    assert_eq!((ran.code, ran.json()["done"].as_u64()), (0, Some(1)), "{ran}");
    let model: String = sqlx::query_scalar("select model from media").fetch_one(store.pool()).await.unwrap();
    assert_eq!(model, "captions:en");
    library.assert_in_order();
}

#[tokio::test(flavor = "multi_thread")]
async fn captions_travel_with_the_audio_to_another_machine() {
    let (talk, truth) = tokio::task::spawn_blocking(|| speeches(&TALKS[..1]).remove(0)).await.unwrap();
    let end = truth.duration - 0.3;
    let captions =
        format!("WEBVTT\n\n00:00.200 --> {:02}:{:06.3}\nPeople wrote this\n", end as u64 / 60, end % 60.0);
    let url = database().await;
    let (server, item) = captioned(&talk, &captions).await;
    let store = Store::connect(&url, &StoreOptions::default()).await.unwrap();
    store.migrate().await.unwrap();
    store.upsert_many(&[item], "test").await.unwrap();
    let (_folder, settings) = shared_folder();
    for role in ["fetch", "transcribe"] {
        let library = Library::on(&url);
        let mut command = library.command(&["work", "--role", role, "--drain", "--json"]);
        command.envs(settings.iter().cloned()).env("CAPTIONS", "first");
        let ran = finish(command);
        assert_eq!(ran.code, 0, "{role}: {ran}");
    }
    assert_eq!(server.requests("/c/en.vtt"), 1);
    let (model, text): (String, String) =
        sqlx::query_as("select m.model, s.text from media m join segments s using (media_id)")
            .fetch_one(store.pool())
            .await
            .unwrap();
    assert_eq!((model.as_str(), text.as_str()), ("captions:en", "People wrote this"));
    Library::on(&url).assert_in_order();
}

/// Most requests that came within `window`.
fn most_within(times: &[Instant], window: Duration) -> usize {
    let mut most = 0;
    for (n, start) in times.iter().enumerate() {
        most = most.max(times[n..].iter().take_while(|t| **t - *start < window).count());
    }
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_refuses_in_every_way_gets_its_rest_and_all_are_done() {
    const REQUESTS: usize = 14;
    const WINDOW: Duration = Duration::from_secs(3);
    let url = database().await;
    let library = Library::on(&url);
    let talks: Vec<_> = {
        let made = tokio::task::spawn_blocking(|| speeches(&TALKS[..8])).await.unwrap();
        made.into_iter().map(|(file, _)| file).collect()
    };
    let (server, items) = site(&talks).await;
    let store = Store::connect(&url, &StoreOptions::default()).await.unwrap();
    store.migrate().await.unwrap();
    store.upsert_many(&items, "test").await.unwrap();

    // 429, then doubts whether we are human, then 403, then good again.
    let storm = [
        Fault::Busy(Some(2)),
        Fault::Busy(None),
        Fault::Challenge,
        Fault::Doubt,
        Fault::Challenge,
        Fault::Status(403),
        Fault::Status(403),
        Fault::Status(403),
    ];
    server.storm(storm);
    let command = || {
        let mut command = library.command(&["ingest", "--json", "--log-format", "json"]);
        command.env(
            "RATE_SITES",
            format!(
                "127.0.0.1 videos=100 requests={REQUESTS} interval=0.1 downloads=2 rest=1 window={}",
                WINDOW.as_secs()
            ),
        );
        command.env("IO_WORKERS", "6");
        command
    };
    // Killed in the middle of it: the ledger and the breaker outlive the process.
    let mut working = Working::start(command());
    working.until("nothing is asked of it for");
    until("the storm is half over", || server.storm_left() <= 4);
    working.signal(Signal::SIGKILL);
    let killed = working.finish();
    assert_eq!(killed.code, 137, "{killed}");
    let told = killed.stderr.lines().filter(|l| l.contains("nothing is asked of it for")).count();
    let (trips, granted): (i32, i64) = sqlx::query_as(
        "select (select trips from governor_sites where site = '127.0.0.1'), \
                (select sum(requests) from governor_ledger where site = '127.0.0.1')",
    )
    .fetch_one(store.pool())
    .await
    .unwrap();
    assert!(trips >= 2 && told >= 2, "{trips} openings, {told} told: {killed}");
    assert!(
        granted as usize >= server.times().len(),
        "{granted} in the ledger, {} came",
        server.times().len()
    );

    let ran = finish(command());
    assert_eq!(ran.code, 0, "{ran}");
    assert_eq!(server.storm_left(), 0, "{ran}");
    assert_eq!(library.counts(), [0, 0, items.len() as u64, 0], "{ran}");
    let burnt: i64 = sqlx::query_scalar("select count(*) from media where attempts <> 1")
        .fetch_one(store.pool())
        .await
        .unwrap();
    assert_eq!(burnt, 0, "attempts were burnt: {ran}");
    let times = server.times();
    let most = most_within(&times, WINDOW);
    println!(
        "{} requests in {:.1} s, at most {most} of {REQUESTS} within {WINDOW:?}",
        times.len(),
        (times[times.len() - 1] - times[0]).as_secs_f64()
    );
    assert!(most <= REQUESTS, "{most} requests within {WINDOW:?}");
    assert!(most > REQUESTS / 2, "the limit was never near: {most}");
    library.assert_in_order();
    let limits = library.ok(&["limits", "--json"]).json();
    let site = &limits["sites"][0];
    assert_eq!((site["site"].as_str(), site["open_s"].is_null()), (Some("127.0.0.1"), true), "{limits}");
}

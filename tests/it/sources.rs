//! Sources and fetching against a server that misbehaves, with the real yt-dlp.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use spoken::{
    event::{Event, Events},
    fetch::{FetchOptions, Fetcher},
    media::{Failure, FailureClass, Item, Locator, MediaId},
    source::{Found, Lister, SourceOptions},
    web::Net,
    ytdlp::{YtDlp, YtDlpOptions},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::server::{Fault, Page, Server};

/// yt-dlp of the tools directory that `scripts/test` makes.
fn ytdlp(network_timeout: Duration) -> YtDlp {
    let tools = std::env::var_os("SPOKEN_TOOLS_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").map(PathBuf::from).expect("HOME");
        home.join(".cache/spoken/tools")
    });
    let mut options = YtDlpOptions::in_tools(&tools);
    options.network_timeout = network_timeout;
    options.net = Net::open();
    YtDlp::new(options)
}

fn fetcher(network_timeout: Duration) -> Fetcher {
    let mut options = FetchOptions::new(ytdlp(network_timeout));
    options.backoff = Duration::from_millis(20);
    Fetcher::new(options).expect("a fetcher")
}

fn patient() -> Fetcher {
    fetcher(Duration::from_secs(20))
}

/// Takes everything that begins like media.
fn lister() -> Lister {
    let is_media = Arc::new(|path: &Path| match std::fs::read(path) {
        Ok(content) if content.starts_with(b"RIFF") => Ok(()),
        _ => Err(Failure::new(FailureClass::NotMedia, "no media")),
    });
    let mut options = SourceOptions::new(is_media, ytdlp(Duration::from_secs(20)));
    options.backoff = Duration::from_millis(20);
    Lister::new(options).expect("a lister")
}

async fn list(source: &str) -> Vec<Found> {
    let (tx, rx) = async_channel::unbounded();
    lister().list(source, None, &tx).await;
    drop(tx);
    rx.collect().await
}

fn items(found: &[Found]) -> Vec<&Item> {
    found
        .iter()
        .map(|f| match f {
            Found::Item { item, .. } => item,
            other => panic!("no item: {other:?}"),
        })
        .collect()
}

fn only_failure(found: &[Found]) -> &Failure {
    match found {
        [Found::Failed { failure, .. }] => failure,
        other => panic!("not one failure: {other:?}"),
    }
}

fn url_item(address: &str) -> Item {
    let url = Url::parse(address).expect("an address");
    Item {
        media_id: MediaId::new("url", address),
        extractor: "url".into(),
        source_id: address.into(),
        locator: Locator::Url(url),
        source: address.into(),
        title: "t".into(),
        duration_ms: None,
    }
}

fn page_item(address: &str) -> Item {
    Item { locator: Locator::Page(Url::parse(address).expect("an address")), ..url_item(address) }
}

/// Bytes that begin like a WAVE file and are otherwise all different.
fn wave(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = b"RIFF\0\0\0\0WAVEfmt ".to_vec();
    let mut state = seed;
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A file's bytes, told by their number and hash in a failed assertion.
#[derive(PartialEq, Eq)]
struct Bytes(Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, {}", self.0.len(), blake3::hash(&self.0))
    }
}

async fn fetch_into(fetcher: &Fetcher, item: &Item, dir: &Path) -> Result<Bytes, Failure> {
    let (events, _listen) = Events::channel();
    let fetched = fetcher.fetch(item, dir, &events, &CancellationToken::new()).await?;
    let path = fetched.path.expect("a file");
    assert!(path.starts_with(dir), "{path:?}");
    Ok(Bytes(std::fs::read(path).expect("the fetched file")))
}

async fn fetch(fetcher: &Fetcher, item: &Item) -> Result<Bytes, Failure> {
    let dir = TempDir::new().expect("a folder");
    fetch_into(fetcher, item, dir.path()).await
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "still not: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

// ---- Downloads

/// Forty downloads, 24 at a time, of servers with and without Range and validators; one answer in `one_in` goes wrong.
async fn forty_downloads(one_in: u64, seed: u64) {
    let server = Server::start().await;
    let files: Vec<(String, Vec<u8>)> =
        (0..40).map(|i| (format!("/talks/{i}.wav"), wave(200_000 + 40_000 * i, i as u64))).collect();
    for (i, (path, body)) in files.iter().enumerate() {
        let page = Page::new("audio/wav", body.clone());
        server.put(
            path,
            match i % 4 {
                0 | 1 => page,
                2 => page.without_validators(),
                _ => page.without_ranges(),
            },
        );
    }
    server.bad_weather(one_in, seed);
    // At least these, whatever the weather.
    server.fail("/talks/0.wav", [Fault::Cut(100_000), Fault::Status(503)]);
    server.fail("/talks/2.wav", [Fault::Cut(150_000)]);
    server.fail("/talks/3.wav", [Fault::Cut(10), Fault::Hangup]);
    let fetcher = patient();
    let total: usize = files.iter().map(|(_, body)| body.len()).sum();
    let start = Instant::now();
    let outcomes: Vec<(String, Result<bool, Failure>)> = futures::stream::iter(files)
        .map(|(path, body)| {
            let (fetcher, item) = (fetcher.clone(), url_item(&server.url(&path)));
            async move { (path, fetch(&fetcher, &item).await.map(|got| got.0 == body)) }
        })
        .buffer_unordered(24)
        .collect()
        .await;
    println!(
        "40 downloads, {total} bytes: {} requests, {} of them faulted, {} bytes sent, {:?}",
        server.all_requests(),
        server.faulted(),
        server.total_sent(),
        start.elapsed()
    );
    assert_eq!(outcomes.len(), 40);
    for (path, outcome) in outcomes {
        assert_eq!(outcome, Ok(true), "{path}, seed {seed}");
    }
    assert!(server.faulted() >= 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_downloads_in_bad_weather_arrive_byte_by_byte() {
    for seed in 0..5 {
        forty_downloads(10, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_downloads_in_a_storm_arrive_too() {
    forty_downloads(3, 1).await;
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_broke() {
    let server = Server::start().await;
    let body = wave(1_000_000, 1);
    server.put("/a.wav", Page::new("audio/wav", body.clone()));
    server.fail("/a.wav", [Fault::Cut(600_000), Fault::Cut(300_000)]);
    assert_eq!(fetch(&patient(), &url_item(&server.url("/a.wav"))).await, Ok(Bytes(body.clone())));
    assert_eq!(server.requests("/a.wav"), 3);
    // What was sent and lost in the cut connections' buffers is little.
    assert!(server.sent("/a.wav") < 1_400_000, "{}", server.sent("/a.wav"));
}

#[tokio::test]
async fn a_later_call_goes_on_with_the_part_file() {
    let server = Server::start().await;
    let body = wave(800_000, 2);
    for (path, page) in [
        ("/etag.wav", Page::new("audio/wav", body.clone())),
        ("/bare.wav", Page::new("audio/wav", body.clone()).without_validators()),
    ] {
        server.put(path, page);
        server.fail(path, [Fault::Cut(500_000)]);
        server.fail(path, vec![Fault::Status(503); 6]);
        let dir = TempDir::new().unwrap();
        let item = url_item(&server.url(path));
        let failure = fetch_into(&patient(), &item, dir.path()).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Network);
        let part = std::fs::metadata(dir.path().join("download.part")).unwrap().len();
        let sent = server.sent(path);
        assert_eq!(fetch_into(&patient(), &item, dir.path()).await, Ok(Bytes(body.clone())), "{path}");
        let more = server.sent(path) - sent;
        assert!(more <= body.len() as u64 - part + 4096, "{path}: {more} more bytes after {part}");
        // And once it is complete, nothing is asked any more.
        let requests = server.requests(path);
        assert_eq!(fetch_into(&patient(), &item, dir.path()).await, Ok(Bytes(body.clone())));
        assert_eq!(server.requests(path), requests);
    }
}

#[tokio::test]
async fn a_file_that_changed_is_fetched_anew() {
    let server = Server::start().await;
    for (path, bare) in [("/etag.wav", false), ("/bare.wav", true)] {
        let page = |seed| {
            let page = Page::new("audio/wav", wave(300_000, seed));
            if bare { page.without_validators() } else { page }
        };
        server.put(path, page(1));
        server.fail(path, [Fault::Cut(200_000)]);
        server.fail(path, vec![Fault::Status(503); 6]);
        let dir = TempDir::new().unwrap();
        let item = url_item(&server.url(path));
        assert!(fetch_into(&patient(), &item, dir.path()).await.is_err());
        server.put(path, page(2));
        assert_eq!(fetch_into(&patient(), &item, dir.path()).await, Ok(Bytes(wave(300_000, 2))), "{path}");
    }
}

#[tokio::test]
async fn a_stalled_connection_is_left_and_taken_up_again() {
    let server = Server::start().await;
    let body = wave(400_000, 3);
    server.put("/a.wav", Page::new("audio/wav", body.clone()));
    server.fail("/a.wav", [Fault::Stall(100_000), Fault::Stall(0)]);
    let start = Instant::now();
    let got = fetch(&fetcher(Duration::from_millis(400)), &url_item(&server.url("/a.wav"))).await;
    assert_eq!(got, Ok(Bytes(body.clone())));
    assert_eq!(server.requests("/a.wav"), 3);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_slow_server_is_waited_for() {
    let server = Server::start().await;
    let body = wave(100_000, 4);
    server.put("/a.wav", Page::new("audio/wav", body.clone()));
    // Two seconds in all, more than the time without progress that is allowed.
    server.fail("/a.wav", [Fault::Slow(5_000, Duration::from_millis(100))]);
    let got = fetch(&fetcher(Duration::from_millis(1000)), &url_item(&server.url("/a.wav"))).await;
    assert_eq!(got, Ok(Bytes(body.clone())));
    assert_eq!(server.requests("/a.wav"), 1);
}

#[tokio::test]
async fn lengths_are_checked_and_hopeless_servers_given_up() {
    let server = Server::start().await;
    server.put("/long.wav", Page::new("audio/wav", wave(50_000, 5)).without_ranges());
    server.always("/long.wav", Fault::TooLong(1000));
    let failure = fetch(&patient(), &url_item(&server.url("/long.wav"))).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Network, "{failure}");
    assert!(server.requests("/long.wav") <= 8, "{}", server.requests("/long.wav"));
    server.always("/500.wav", Fault::Status(500));
    let failure = fetch(&patient(), &url_item(&server.url("/500.wav"))).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Network);
    assert_eq!(server.requests("/500.wav"), 6);
    // Without a length the end of the connection is the end of the file.
    server.put("/open.wav", Page::new("audio/wav", wave(50_000, 6)).without_length().without_ranges());
    assert_eq!(fetch(&patient(), &url_item(&server.url("/open.wav"))).await, Ok(Bytes(wave(50_000, 6))));
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let server = Server::start().await;
    for (code, class) in [
        (404, FailureClass::NotFound),
        (410, FailureClass::NotFound),
        (401, FailureClass::Private),
        (403, FailureClass::Forbidden),
        (429, FailureClass::RateLimited),
        (451, FailureClass::GeoBlocked),
    ] {
        let path = format!("/{code}.wav");
        server.always(&path, Fault::Status(code));
        let failure = fetch(&patient(), &url_item(&server.url(&path))).await.unwrap_err();
        assert_eq!(failure.class, class, "{failure}");
        assert_eq!(server.requests(&path), 1);
    }
    server.put("/image.wav", Page::new("image/png", *b"\x89PNG\r\n\x1a\n"));
    server.put("/empty.wav", Page::new("audio/wav", Vec::new()));
    let class = async |path: &str| fetch(&patient(), &url_item(&server.url(path))).await.unwrap_err().class;
    assert_eq!(class("/image.wav").await, FailureClass::NotMedia);
    assert_eq!(class("/empty.wav").await, FailureClass::Empty);
    server.always("/loop.wav", Fault::Redirect(server.url("/loop.wav")));
    assert_eq!(class("/loop.wav").await, FailureClass::Refused);
    assert_eq!(server.requests("/loop.wav"), 11);
    server.always("/file.wav", Fault::Redirect("file:///etc/passwd".into()));
    assert_eq!(class("/file.wav").await, FailureClass::Refused);
    let unknown = fetch(&patient(), &url_item("http://no-such-host.invalid/a.wav")).await.unwrap_err();
    assert_eq!(unknown.class, FailureClass::Network);
    assert!(unknown.message.contains("host not found: no-such-host.invalid"), "{unknown}");
}

#[tokio::test]
async fn what_is_too_large_is_not_kept() {
    let server = Server::start().await;
    let mut options = FetchOptions::new(ytdlp(Duration::from_secs(20)));
    options.max_bytes = 100_000;
    let fetcher = Fetcher::new(options).unwrap();
    server.put("/said.wav", Page::new("audio/wav", wave(5_000_000, 8)));
    server.put("/silent.wav", Page::new("audio/wav", wave(5_000_000, 8)).without_length());
    for path in ["/said.wav", "/silent.wav"] {
        let dir = TempDir::new().unwrap();
        let failure = fetch_into(&fetcher, &url_item(&server.url(path)), dir.path()).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::TooLarge);
        assert!(failure.remedy.unwrap().contains("MAX_DOWNLOAD_MB"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{path}");
    }
}

#[tokio::test]
async fn cancelling_keeps_what_was_fetched() {
    let server = Server::start().await;
    server.put("/a.wav", Page::new("audio/wav", wave(400_000, 9)));
    server.fail("/a.wav", [Fault::Stall(200_000)]);
    let dir = TempDir::new().unwrap();
    let (events, _listen) = Events::channel();
    let cancel = CancellationToken::new();
    let (fetcher, item) = (patient(), url_item(&server.url("/a.wav")));
    let fetching = fetcher.fetch(&item, dir.path(), &events, &cancel);
    let stop = async {
        until("sent", || server.sent("/a.wav") >= 200_000).await;
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(fetching, stop);
    assert_eq!(outcome.unwrap_err().class, FailureClass::Internal);
    assert_eq!(fetch_into(&fetcher, &item, dir.path()).await, Ok(Bytes(wave(400_000, 9))));
}

#[tokio::test]
async fn local_files_stay_where_they_are() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.wav");
    std::fs::write(&path, wave(1000, 1)).unwrap();
    let (events, mut listen) = Events::channel();
    let mut item = url_item("http://h/");
    item.locator = Locator::File(path.clone());
    let cancel = CancellationToken::new();
    let spool = dir.path().join("spool");
    assert_eq!(patient().fetch(&item, &spool, &events, &cancel).await.unwrap().path, Some(path));
    assert!(!spool.exists());
    assert!(matches!(listen.recv().await, Some(Event::StepStarted { .. })));
    item.locator = Locator::File(dir.path().join("gone.wav"));
    let failure = patient().fetch(&item, &spool, &events, &cancel).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Unreadable);
}

// ---- Listing

/// A site with the same three files as direct addresses, in a feed, in players and as links.
async fn site() -> Server {
    let server = Server::start().await;
    for (i, name) in ["a.wav", "b.wav", "c.wav"].iter().enumerate() {
        server.put(&format!("/m/{name}"), Page::new("audio/wav", wave(30_000, i as u64)));
    }
    let host = server.host();
    let entries: String = ["a", "b", "c"]
        .iter()
        .map(|n| {
            format!(
                "<item><title>Episode {n}</title><guid>g-{n}</guid>\
                 <enclosure url=\"http://{host}/m/{n}.wav?utm_source=feed\" type=\"audio/wav\" length=\"30000\"/></item>"
            )
        })
        .collect();
    let feed = format!(
        "<?xml version=\"1.0\"?><rss version=\"2.0\"><channel><title>F</title>{entries}</channel></rss>"
    );
    server.put("/feed.xml", Page::new("application/rss+xml", feed));
    let html = |body: &str| {
        Page::new(
            "text/html; charset=utf-8",
            format!("<!DOCTYPE html><html><head><title>My page</title></head><body>{body}</body></html>"),
        )
    };
    server.put("/players.html", html("<audio src='m/a.wav'></audio><audio><source src='/m/b.wav' type='audio/wav'></audio> <a href='m/c.wav'>c</a><a href='m/a.wav'>a</a>"));
    server.put(
        "/links.html",
        html(
            "<ul><li><a href='m/a.wav'>A</a><li><a href='m/b.wav#t=3'>B</a><li><a href='m/c.wav'>C</a></ul>",
        ),
    );
    let atom: String = ["a", "b", "c"]
        .iter()
        .map(|n| {
            format!(
                "<entry><title>{n}</title><link rel=\"enclosure\" href=\"http://{host}/m/{n}.wav\"/></entry>"
            )
        })
        .collect();
    let atom = format!("<?xml version=\"1.0\"?><feed xmlns=\"http://www.w3.org/2005/Atom\">{atom}</feed>");
    server.put("/atom.xml", Page::new("application/atom+xml", atom));
    server.put("/one.html", html("<audio src='m/a.wav'></audio> <a href='other.html'>x</a>"));
    server.put("/none.html", html("<p>nothing here</p>"));
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_has_one_identity_however_it_is_found() {
    let server = site().await;
    let ids = |found: &[Found]| items(found).iter().map(|i| i.media_id).collect::<Vec<_>>();
    let mut direct = Vec::new();
    for name in ["a", "b", "c"] {
        direct.extend(ids(&list(&server.url(&format!("/m/{name}.wav#x"))).await));
    }
    assert_eq!(direct[0], MediaId::new("url", &server.url("/m/a.wav")));
    let feed = list(&server.url("/feed.xml")).await;
    assert_eq!(ids(&feed), direct);
    assert_eq!(items(&feed)[1].title, "Episode b");
    assert_eq!(items(&feed)[1].locator, Locator::Url(Url::parse(&server.url("/m/b.wav")).unwrap()));
    assert_eq!(ids(&list(&server.url("/players.html")).await), direct);
    assert_eq!(ids(&list(&server.url("/links.html")).await), direct);
    assert_eq!(ids(&list(&server.url("/atom.xml")).await), direct);
    let one = list(&server.url("/one.html")).await;
    assert_eq!(ids(&one), direct[..1]);
    assert_eq!(items(&one)[0].title, "My page");
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_survives_short_trouble() {
    let server = site().await;
    server.fail("/feed.xml", [Fault::Status(500), Fault::Hangup]);
    assert_eq!(items(&list(&server.url("/feed.xml")).await).len(), 3);
    // The probe passes, yt-dlp meets the trouble.
    server.fail("/players.html", [Fault::Slow(1000, Duration::from_millis(1)), Fault::Status(500)]);
    assert_eq!(items(&list(&server.url("/players.html")).await).len(), 3);
    server.fail("/links.html", [Fault::Slow(1000, Duration::from_millis(1)), Fault::Cut(20)]);
    assert_eq!(items(&list(&server.url("/links.html")).await).len(), 3);
    server.fail("/m/a.wav", [Fault::Status(502), Fault::Cut(5), Fault::Hangup]);
    assert_eq!(items(&list(&server.url("/m/a.wav")).await).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_source_is_said_clearly() {
    let server = site().await;
    server.put("/paper.pdf", Page::new("application/pdf", *b"%PDF-1.7"));
    server.put("/prose.txt", Page::new("text/plain", *b"hello world"));
    server.always("/secret.wav", Fault::Status(403));
    server.always("/secret", Fault::Status(403));
    server.always("/down.wav", Fault::Status(503));
    for (path, class, says) in [
        ("/none.html", FailureClass::NotMedia, "no media found"),
        ("/missing.wav", FailureClass::NotFound, "404"),
        ("/missing", FailureClass::NotFound, "404"),
        ("/paper.pdf", FailureClass::NotMedia, "application/pdf"),
        ("/prose.txt", FailureClass::NotMedia, "no media found"),
        ("/secret.wav", FailureClass::Private, "403"),
        ("/secret", FailureClass::Private, "403"),
        ("/down.wav", FailureClass::Network, "503"),
    ] {
        let found = list(&server.url(path)).await;
        let failure = only_failure(&found);
        assert_eq!(failure.class, class, "{path}: {failure}");
        assert!(failure.message.contains(says), "{path}: {failure}");
    }
    let found = list("http://no-such-host.invalid/feed").await;
    assert_eq!(only_failure(&found).class, FailureClass::Network);
    assert!(only_failure(&found).message.contains("host not found"), "{found:?}");
    for refused in ["ftp://h/x", "file:///etc/passwd", "https://a:b@h/x"] {
        assert_eq!(only_failure(&list(refused).await).class, FailureClass::Refused);
    }
    assert_eq!(only_failure(&list("/no/such/folder").await).class, FailureClass::Unreadable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_addresses_keeps_its_order() {
    let server = site().await;
    let text = format!(
        "# mine\n{}\n\n{}\n{}\n",
        server.url("/m/c.wav"),
        server.url("/feed.xml"),
        server.url("/missing")
    );
    let (tx, rx) = async_channel::unbounded();
    lister().list("-", Some(&text), &tx).await;
    drop(tx);
    let found: Vec<Found> = rx.collect().await;
    let names: Vec<&str> = found
        .iter()
        .map(|f| match f {
            Found::Item { item, .. } => item.title.as_str(),
            Found::Failed { failure, .. } => failure.class.as_str(),
            Found::Notice(_) => "notice",
        })
        .collect();
    assert_eq!(names, ["c", "Episode a", "Episode b", "Episode c", "not_found"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_of_forty_in_bad_weather_is_listed_and_fetched() {
    let server = Server::start().await;
    let host = server.host();
    let mut entries = String::new();
    for i in 0..40 {
        server.put(&format!("/e/{i}.wav"), Page::new("audio/wav", wave(100_000 + i, i as u64)));
        entries += &format!("<item><title>E {i}</title><enclosure url=\"http://{host}/e/{i}.wav\"/></item>");
    }
    let feed = format!(
        "<?xml version=\"1.0\"?><rss version=\"2.0\"><channel><title>F</title>{entries}</channel></rss>"
    );
    server.put("/feed", Page::new("text/xml", feed));
    server.bad_weather(10, 11);
    let found = list(&server.url("/feed")).await;
    let items = items(&found);
    assert_eq!(items.len(), 40);
    let fetcher = patient();
    for (i, item) in items.into_iter().enumerate() {
        assert_eq!(fetch(&fetcher, item).await, Ok(Bytes(wave(100_000 + i, i as u64))), "{i}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_nobody_wants_any_more_ends() {
    let server = site().await;
    server.put("/slow.html", Page::new("text/html", format!("<html>{}</html>", " ".repeat(100_000))));
    // The probe is answered, then yt-dlp hangs.
    server.fail("/slow.html", [Fault::Slow(50_000, Duration::from_millis(1)), Fault::Stall(2000)]);
    let address = server.url("/slow.html");
    let listing = {
        let address = address.clone();
        tokio::spawn(async move { list(&address).await })
    };
    until("asked by yt-dlp", || server.requests("/slow.html") >= 2).await;
    assert!(running(&address) > 0);
    listing.abort();
    until("ended", || running(&address) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_feed_is_listed_in_full() {
    let server = Server::start().await;
    let host = server.host();
    let entries: String = (0..5000)
        .map(|i| format!("<item><title>E {i}</title><enclosure url=\"http://{host}/e/{i}.mp3\"/></item>"))
        .collect();
    let feed = format!(
        "<?xml version=\"1.0\"?><rss version=\"2.0\"><channel><title>F</title>{entries}</channel></rss>"
    );
    server.put("/feed", Page::new("text/xml", feed));
    let found = list(&server.url("/feed")).await;
    let titles: Vec<&str> = items(&found).iter().map(|i| i.title.as_str()).collect();
    assert_eq!(titles.len(), 5000);
    assert_eq!((titles[0], titles[4999]), ("E 0", "E 4999"));
    // Nothing but the feed was asked for.
    assert_eq!(server.all_requests(), server.requests("/feed"));
}

// ---- yt-dlp downloads

/// A stream of pieces made with ffmpeg: its files, the list first.
fn hls() -> Vec<(String, Vec<u8>)> {
    let dir = TempDir::new().unwrap();
    let made = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            "sine=240:d=12",
            "-c:a",
            "aac",
            "-f",
            "hls",
            "-hls_time",
            "4",
        ])
        .args(["-hls_list_size", "0", "s.m3u8"])
        .current_dir(dir.path())
        .status()
        .expect("ffmpeg");
    assert!(made.success());
    let mut files: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| (format!("/{}", e.file_name().to_string_lossy()), std::fs::read(e.path()).unwrap()))
        .collect();
    files.sort_by_key(|(name, _)| !name.ends_with("m3u8"));
    files
}

async fn streaming_site() -> (Server, Vec<String>) {
    let server = Server::start().await;
    let mut pieces = Vec::new();
    for (path, body) in hls() {
        if path.ends_with("m3u8") {
            server.put(&path, Page::new("application/vnd.apple.mpegurl", body));
        } else {
            server.put(&path, Page::new("video/mp2t", body));
            pieces.push(path);
        }
    }
    server.put(
        "/page.html",
        Page::new("text/html", "<html><head><title>Stream</title></head><video><source src='s.m3u8' type='application/x-mpegURL'></video></html>"),
    );
    pieces.sort();
    (server, pieces)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_listed_and_put_together() {
    let (server, pieces) = streaming_site().await;
    let found = list(&server.url("/page.html")).await;
    let [item] = items(&found)[..] else { panic!("{found:?}") };
    assert_eq!(item.extractor, "generic");
    assert_eq!(item.locator, Locator::Page(Url::parse(&server.url("/page.html")).unwrap()));
    server.fail(&pieces[1], [Fault::Status(500), Fault::Cut(100)]);
    let dir = TempDir::new().unwrap();
    let (events, mut listen) = Events::channel();
    let fetched = patient().fetch(item, dir.path(), &events, &CancellationToken::new()).await.unwrap();
    let path = fetched.path.unwrap();
    assert_eq!(path.parent(), Some(dir.path()));
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0"])
        .arg(&path)
        .output()
        .unwrap();
    let seconds: f64 = String::from_utf8(probe.stdout).unwrap().trim().parse().unwrap();
    assert!((11.8..12.3).contains(&seconds), "{seconds} s");
    let mut progressed = 0;
    while let Ok(event) = listen.try_recv() {
        progressed += usize::from(matches!(event, Event::StepProgressed { done: 1.., .. }));
    }
    assert!(progressed > 0);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    // The stream's own address gives the same through the same hands.
    let direct = list(&server.url("/s.m3u8")).await;
    assert_eq!(items(&direct)[0].extractor, "generic");
    assert!(!fetch(&patient(), items(&direct)[0]).await.unwrap().0.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_piece_is_a_failure_and_not_a_gap() {
    let (server, pieces) = streaming_site().await;
    server.always(&pieces[1], Fault::Status(404));
    let failure = fetch(&patient(), &page_item(&server.url("/s.m3u8"))).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Network, "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn media_that_is_refused_is_extracted_again_once() {
    let (server, pieces) = streaming_site().await;
    server.always(&pieces[1], Fault::Status(403));
    let before = server.requests("/s.m3u8");
    let failure = fetch(&patient(), &page_item(&server.url("/s.m3u8"))).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Forbidden, "{failure}");
    assert!(failure.remedy.as_deref().unwrap().contains("pip install --upgrade"), "{failure:?}");
    // Looked at twice in each extraction: as a page, and as a list of pieces.
    let extraction = {
        let (server, _) = streaming_site().await;
        fetch(&patient(), &page_item(&server.url("/s.m3u8"))).await.unwrap();
        server.requests("/s.m3u8")
    };
    assert_eq!(server.requests("/s.m3u8") - before, 2 * extraction);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yt_dlp_that_does_not_run_stops_all_pages() {
    let dir = TempDir::new().unwrap();
    let fake = dir.path().join("yt-dlp");
    let runs = dir.path().join("runs");
    let script = format!(
        "#!/bin/sh\necho x >> {}\necho 'yt-dlp: error: no such option: --x' >&2\nexit 2\n",
        runs.display()
    );
    std::fs::write(&fake, script).unwrap();
    std::fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut options = ytdlp(Duration::from_secs(20)).options().clone();
    options.program = fake;
    let fetcher = Fetcher::new(FetchOptions::new(YtDlp::new(options))).unwrap();
    let (events, mut told) = Events::channel();
    let spool = TempDir::new().unwrap();
    let fetch = async |address: &str| {
        fetcher
            .fetch(&page_item(address), spool.path(), &events, &CancellationToken::new())
            .await
            .unwrap_err()
    };
    let first = fetch("http://127.0.0.1:9/a").await;
    assert_eq!(first.class, FailureClass::Setup, "{first}");
    for other in ["http://127.0.0.1:9/b", "http://127.0.0.2:9/c"] {
        let later = fetch(other).await;
        assert!(later.class == FailureClass::Paced && later.free && later.retry.is_some(), "{later:?}");
    }
    assert_eq!(std::fs::read_to_string(&runs).unwrap(), "x\n", "it was run again");
    let mut loud = 0;
    while let Ok(event) = told.try_recv() {
        if let Event::Noticed { warning: true, message } = event {
            assert!(message.contains("no more pages") && message.contains("no such option"), "{message}");
            loud += 1;
        }
    }
    assert_eq!(loud, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_stream_is_not_there_yet() {
    let (server, _) = streaming_site().await;
    let ended = String::from_utf8(hls().swap_remove(0).1).unwrap();
    server.put("/live.m3u8", Page::new("application/vnd.apple.mpegurl", ended.replace("#EXT-X-ENDLIST", "")));
    let failure = fetch(&patient(), &page_item(&server.url("/live.m3u8"))).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::NotYet, "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_a_page_is_handed_to_yt_dlp() {
    let server = site().await;
    let (one, many, none) = (server.url("/one.html"), server.url("/players.html"), server.url("/none.html"));
    assert_eq!(fetch(&patient(), &url_item(&one)).await, Ok(Bytes(wave(30_000, 0))));
    let failure = fetch(&patient(), &url_item(&many)).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::NotMedia);
    assert!(failure.message.contains("several"), "{failure}");
    let failure = fetch(&patient(), &url_item(&none)).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::NotMedia, "{failure}");
    // Of several, the one whose id is known is taken.
    let second = Item { extractor: "some_site".into(), source_id: "players-2".into(), ..page_item(&many) };
    assert_eq!(fetch(&patient(), &second).await, Ok(Bytes(wave(30_000, 1))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_over_the_limit_is_refused_at_once() {
    let server = site().await;
    let mut options = FetchOptions::new(ytdlp(Duration::from_secs(20)));
    options.max_bytes = 10_000;
    let dir = TempDir::new().unwrap();
    let item = page_item(&server.url("/one.html"));
    let failure = fetch_into(&Fetcher::new(options).unwrap(), &item, dir.path()).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::TooLarge);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pages_at_once_in_bad_weather() {
    let server = Server::start().await;
    for i in 0..12 {
        server.put(&format!("/m/{i}.wav"), Page::new("audio/wav", wave(300_000 + i, i as u64)));
        let page = format!(
            "<!DOCTYPE html><html><head><title>P {i}</title></head><audio src='/m/{i}.wav'></audio></html>"
        );
        server.put(&format!("/p/{i}.html"), Page::new("text/html", page));
    }
    server.bad_weather(8, 3);
    let fetcher = patient();
    let outcomes: Vec<_> = futures::stream::iter(0..12)
        .map(|i| {
            let (fetcher, item) = (fetcher.clone(), page_item(&server.url(&format!("/p/{i}.html"))));
            async move { (i, fetch(&fetcher, &item).await) }
        })
        .buffer_unordered(6)
        .collect()
        .await;
    println!("12 pages: {} requests, {} faulted", server.all_requests(), server.faulted());
    for (i, outcome) in outcomes {
        assert_eq!(outcome, Ok(Bytes(wave(300_000 + i, i as u64))), "{i}");
    }
}

/// Processes whose command line names `text`.
fn running(text: &str) -> usize {
    let Ok(processes) = std::fs::read_dir("/proc") else { return 0 };
    processes
        .flatten()
        .filter(|p| p.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|p| std::fs::read(p.path().join("cmdline")).ok())
        .filter(|c| String::from_utf8_lossy(c).contains(text))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_ends_yt_dlp_and_its_watcher() {
    let (server, pieces) = streaming_site().await;
    server.always(&pieces[1], Fault::Stall(10));
    let address = server.url("/s.m3u8");
    let (events, _listen) = Events::channel();
    let (cancel, dir, item) = (CancellationToken::new(), TempDir::new().unwrap(), page_item(&address));
    let fetcher = patient();
    let fetching = fetcher.fetch(&item, dir.path(), &events, &cancel);
    let stop = async {
        until("stalled", || server.requests(&pieces[1]) > 0).await;
        assert!(running(&address) > 0);
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(fetching, stop);
    assert_eq!(outcome.unwrap_err().class, FailureClass::Internal);
    until("ended", || running(&address) == 0).await;
}

/// The process that is killed in the test below; does nothing by itself.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by killing_us_leaves_no_yt_dlp"]
async fn helper_fetching() {
    let Ok(address) = std::env::var("SPOKEN_TEST_FETCH") else { return };
    let dir = TempDir::new().unwrap();
    let _ = fetch_into(&patient(), &page_item(&address), dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_us_leaves_no_yt_dlp() {
    let (server, pieces) = streaming_site().await;
    server.always(&pieces[1], Fault::Stall(10));
    let address = server.url("/s.m3u8");
    let mut helper = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "sources::helper_fetching"])
        .env("SPOKEN_TEST_FETCH", &address)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("stalled", || server.requests(&pieces[1]) > 0).await;
    assert!(running(&address) > 0);
    // SIGKILL: nothing of ours runs afterwards.
    helper.kill().unwrap();
    helper.wait().unwrap();
    until("ended", || running(&address) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_yt_dlp_is_killed() {
    let (server, pieces) = streaming_site().await;
    server.always(&pieces[1], Fault::Stall(10));
    let dir = TempDir::new().unwrap();
    // A stand-in that hangs the way a broken yt-dlp would, with a child of its own.
    let fake = dir.path().join("yt-dlp");
    std::fs::write(&fake, "#!/bin/sh\nsleep 600 &\nwait\n").unwrap();
    std::fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut options = ytdlp(Duration::from_millis(50)).options().clone();
    options.program = fake.clone();
    let mut options = FetchOptions::new(YtDlp::new(options));
    options.backoff = Duration::from_millis(1);
    let fetcher = Fetcher::new(options).unwrap();
    let spool = TempDir::new().unwrap();
    let failure = fetch_into(&fetcher, &page_item("http://127.0.0.1:9/x"), spool.path()).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Network);
    assert!(failure.message.contains("no sign of life"), "{failure}");
    until("ended", || running(&fake.to_string_lossy()) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_are_copied_and_the_copy_removed() {
    let server = site().await;
    let dir = TempDir::new().unwrap();
    let cookies = dir.path().join("cookies.txt");
    let text = format!("# Netscape HTTP Cookie File\n{}\tFALSE\t/\tFALSE\t0\tkey\tvalue\n", "127.0.0.1");
    std::fs::write(&cookies, &text).unwrap();
    let mut options = ytdlp(Duration::from_secs(20)).options().clone();
    options.cookies = Some(cookies.clone());
    let fetcher = Fetcher::new(FetchOptions::new(YtDlp::new(options))).unwrap();
    let spool = TempDir::new().unwrap();
    let item = page_item(&server.url("/one.html"));
    assert_eq!(fetch_into(&fetcher, &item, spool.path()).await, Ok(Bytes(wave(30_000, 0))));
    assert_eq!(std::fs::read_to_string(&cookies).unwrap(), text, "yt-dlp must not write to the original");
    let left: Vec<_> = std::fs::read_dir(spool.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn the_tools_are_there() {
    let found = patient().preflight().await;
    assert!(found.ytdlp.is_ok(), "{found:?}");
    assert!(found.js_runtime.as_ref().is_ok_and(|v| v.starts_with("deno ")), "{found:?}");
}

//! A web server for tests that misbehaves on demand: cuts, stalls, lies about lengths, answers 500 once.
//!
//! It listens on a free port of the loopback interface, counts requests and bytes, and ends when dropped.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// What a path answers.
#[derive(Clone, Debug)]
pub struct Page {
    /// `Content-Type`; none is sent when empty.
    pub content_type: String,
    /// The whole body.
    pub body: Arc<Vec<u8>>,
    /// Answers Range requests with 206.
    pub ranges: bool,
    /// `ETag`, with its quotes.
    pub etag: Option<String>,
    /// `Last-Modified`.
    pub last_modified: Option<String>,
    /// Sends `Content-Length`; else the body ends with the connection.
    pub length: bool,
}

impl Page {
    /// A well-behaved file.
    pub fn new(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let etag = format!("\"{}\"", blake3::hash(&body).to_hex().get(..16).unwrap_or_default());
        Self {
            content_type: content_type.into(),
            body: Arc::new(body),
            ranges: true,
            etag: Some(etag),
            last_modified: None,
            length: true,
        }
    }

    /// As a server without Range support.
    pub fn without_ranges(mut self) -> Self {
        self.ranges = false;
        self
    }

    /// Without anything to recognise the file by.
    pub fn without_validators(mut self) -> Self {
        self.etag = None;
        self.last_modified = None;
        self
    }

    /// Without its length.
    pub fn without_length(mut self) -> Self {
        self.length = false;
        self
    }
}

/// How one answer goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, with a short text.
    Status(u16),
    /// 429, with so many seconds to wait where they are given.
    Busy(Option<u64>),
    /// 403 and a page that asks whether the reader is human, as a gatekeeper before the site sends it.
    Challenge,
    /// 200 and a page that asks whether the reader is human, whatever was asked for.
    Doubt,
    /// A redirect to this address.
    Redirect(String),
    /// The connection closes after this many bytes of the body.
    Cut(usize),
    /// Nothing more comes after this many bytes of the body; the connection stays open.
    Stall(usize),
    /// This many bytes of the body at a time, with a pause after each.
    Slow(usize, Duration),
    /// The length announced is this much too large.
    TooLong(usize),
    /// The connection closes before anything was sent.
    Hangup,
}

/// One fault in so many requests, drawn from a seeded sequence.
#[derive(Debug)]
struct Weather {
    one_in: u64,
    state: u64,
}

#[derive(Debug, Default)]
struct State {
    pages: Mutex<HashMap<String, Page>>,
    faults: Mutex<HashMap<String, VecDeque<Fault>>>,
    always: Mutex<HashMap<String, Fault>>,
    weather: Mutex<Option<Weather>>,
    storm: Mutex<VecDeque<Fault>>,
    times: Mutex<Vec<Instant>>,
    requests: Mutex<HashMap<String, usize>>,
    unchanged: Mutex<HashMap<String, usize>>,
    sent: Mutex<HashMap<String, u64>>,
    faulted: AtomicUsize,
    total_sent: AtomicU64,
    cut: tokio::sync::Notify,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    state: Arc<State>,
    _task: AbortOnDropHandle<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics while it holds the server's state")
}

impl Server {
    /// Starts on a free port.
    pub async fn start() -> Self {
        Self::start_on("127.0.0.1").await
    }

    /// As [`Self::start`], on another address of this machine.
    pub async fn start_on(address: &str) -> Self {
        let listener = TcpListener::bind((address, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            // Dropped with the task, and the connections with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                connections.spawn(async move {
                    let cut = Arc::clone(&state);
                    tokio::select! {
                        () = cut.cut.notified() => {}
                        () = answer(stream, state) => {}
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, state, _task: AbortOnDropHandle::new(task) }
    }

    /// The address of a path (`/a.mp3`).
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// `host:port`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// What `path` answers from now on.
    pub fn put(&self, path: &str, page: Page) {
        lock(&self.state.pages).insert(path.into(), page);
    }

    /// The next answers of `path` go wrong like this, one request each.
    pub fn fail(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.state.faults).entry(path.into()).or_default().extend(faults);
    }

    /// Every answer of `path` goes wrong like this.
    pub fn always(&self, path: &str, fault: Fault) {
        lock(&self.state.always).insert(path.into(), fault);
    }

    /// From now on one request in `one_in`, whatever its path, is cut, slow, dropped or answered 500.
    pub fn bad_weather(&self, one_in: u64, seed: u64) {
        *lock(&self.state.weather) = Some(Weather { one_in, state: seed });
    }

    /// The weather is good again.
    pub fn good_weather(&self) {
        *lock(&self.state.weather) = None;
    }

    /// From now on nothing goes wrong, whatever was planned.
    pub fn calm(&self) {
        self.good_weather();
        lock(&self.state.faults).clear();
        lock(&self.state.always).clear();
    }

    /// Cuts every answer that is on its way.
    pub fn cut_off(&self) {
        self.state.cut.notify_waiters();
    }

    /// The next answers go wrong like this, one request each, whatever their paths.
    pub fn storm(&self, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.state.storm).extend(faults);
    }

    /// Faults of the storm that are still to come.
    pub fn storm_left(&self) -> usize {
        lock(&self.state.storm).len()
    }

    /// When each request came.
    pub fn times(&self) -> Vec<Instant> {
        lock(&self.state.times).clone()
    }

    /// Requests that `path` got.
    pub fn requests(&self, path: &str) -> usize {
        lock(&self.state.requests).get(path).copied().unwrap_or(0)
    }

    /// Conditional requests of `path` that were answered 304.
    pub fn unchanged(&self, path: &str) -> usize {
        lock(&self.state.unchanged).get(path).copied().unwrap_or(0)
    }

    /// Requests of all paths.
    pub fn all_requests(&self) -> usize {
        lock(&self.state.requests).values().sum()
    }

    /// Bytes of body that `path` sent.
    pub fn sent(&self, path: &str) -> u64 {
        lock(&self.state.sent).get(path).copied().unwrap_or(0)
    }

    /// Bytes of body sent.
    pub fn total_sent(&self) -> u64 {
        self.state.total_sent.load(SeqCst)
    }

    /// Answers that went wrong on purpose.
    pub fn faulted(&self) -> usize {
        self.state.faulted.load(SeqCst)
    }
}

impl State {
    fn fault_for(&self, path: &str, length: usize) -> Option<Fault> {
        let fault = lock(&self.faults)
            .get_mut(path)
            .and_then(VecDeque::pop_front)
            .or_else(|| lock(&self.always).get(path).cloned())
            .or_else(|| lock(&self.storm).pop_front())
            .or_else(|| self.chance(length));
        if fault.is_some() {
            self.faulted.fetch_add(1, SeqCst);
        }
        fault
    }

    fn chance(&self, length: usize) -> Option<Fault> {
        let mut weather = lock(&self.weather);
        let weather = weather.as_mut()?;
        // A linear congruential generator (Knuth's MMIX constants): the same seed, the same weather.
        let mut draw = |below: u64| {
            weather.state =
                weather.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (weather.state >> 33) % below.max(1)
        };
        if draw(weather.one_in) != 0 {
            return None;
        }
        let somewhere = draw(length as u64) as usize;
        Some(match draw(4) {
            0 => Fault::Status(500),
            1 => Fault::Hangup,
            2 => Fault::Slow((length / 8).max(1), Duration::from_millis(20)),
            _ => Fault::Cut(somewhere),
        })
    }
}

async fn answer(stream: TcpStream, state: Arc<State>) {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        match stream.read_line(&mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) if line == "\r\n" => break,
            Ok(_) => head.push(line.trim_end().to_owned()),
        }
    }
    let target = head.first().and_then(|l| l.split(' ').nth(1)).unwrap_or("/").to_owned();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let header = |name: &str| {
        head.iter()
            .skip(1)
            .filter_map(|l| l.split_once(':'))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim().to_owned())
    };
    *lock(&state.requests).entry(path.clone()).or_default() += 1;
    lock(&state.times).push(Instant::now());
    let page = lock(&state.pages).get(&path).cloned();
    let fault = state.fault_for(&path, page.as_ref().map_or(0, |p| p.body.len()));
    let mut stream = stream.into_inner();
    match (&fault, page) {
        (Some(Fault::Hangup), _) => {}
        (Some(Fault::Status(code)), _) => short(&mut stream, *code, "").await,
        (Some(Fault::Busy(seconds)), _) => {
            let wait = seconds.map_or(String::new(), |s| format!("Retry-After: {s}\r\n"));
            short(&mut stream, 429, &wait).await;
        }
        (Some(Fault::Challenge), _) => {
            let more = "cf-mitigated: challenge\r\nServer: cloudflare\r\n";
            human(&mut stream, "403 Forbidden", more).await;
        }
        (Some(Fault::Doubt), _) => human(&mut stream, "200 OK", "").await,
        (Some(Fault::Redirect(to)), _) => short(&mut stream, 302, &format!("Location: {to}\r\n")).await,
        (_, None) => short(&mut stream, 404, "").await,
        (_, Some(page)) if is_known(&page, header("if-none-match"), header("if-modified-since")) => {
            *lock(&state.unchanged).entry(path.clone()).or_default() += 1;
            let _ = stream.write_all(b"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n").await;
        }
        (_, Some(page)) => {
            let range = header("range").filter(|_| page.ranges);
            let same = header("if-range")
                .is_none_or(|v| Some(v) == page.etag.clone().or(page.last_modified.clone()));
            serve(&mut stream, &path, &page, range.filter(|_| same), fault, &state).await;
        }
    }
    let _ = stream.shutdown().await;
}

/// Whether the client has what the page is now (RFC 9110 §13.1: the tag counts before the time).
fn is_known(page: &Page, tag: Option<String>, since: Option<String>) -> bool {
    match (tag, since) {
        (Some(tag), _) => Some(tag) == page.etag,
        (None, Some(since)) => Some(since) == page.last_modified,
        (None, None) => false,
    }
}

/// A page that asks whether the reader is human.
async fn human(stream: &mut TcpStream, status: &str, more: &str) {
    let page = "<!DOCTYPE html><html><head><title>Just a moment...</title></head>\
        <body>Sign in to confirm you're not a bot.</body></html>";
    let text = format!(
        "HTTP/1.1 {status}\r\n{more}Content-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    let _ = stream.write_all(text.as_bytes()).await;
}

async fn short(stream: &mut TcpStream, code: u16, more: &str) {
    let text = format!(
        "HTTP/1.1 {code} Test\r\n{more}Content-Type: text/plain\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    );
    let _ = stream.write_all(text.as_bytes()).await;
}

async fn serve(
    stream: &mut TcpStream,
    path: &str,
    page: &Page,
    range: Option<String>,
    fault: Option<Fault>,
    state: &State,
) {
    let total = page.body.len();
    let wanted = range.and_then(|r| {
        let (from, to) =
            r.strip_prefix("bytes=")?.split_once('-').map(|(a, b)| (a.to_owned(), b.to_owned()))?;
        let to = to.parse().map_or(total, |t: usize| (t + 1).min(total));
        Some((from.parse::<usize>().ok()?, to))
    });
    let mut head = String::new();
    let body = match wanted {
        Some((from, _)) if from >= total => {
            let head = format!("Content-Range: bytes */{total}\r\n");
            return short(stream, 416, &head).await;
        }
        Some((from, to)) => {
            head += &format!("HTTP/1.1 206 Part\r\nContent-Range: bytes {from}-{}/{total}\r\n", to - 1);
            &page.body[from..to]
        }
        None => {
            head += "HTTP/1.1 200 OK\r\n";
            &page.body[..]
        }
    };
    let extra = match fault {
        Some(Fault::TooLong(extra)) => extra,
        _ => 0,
    };
    if page.length {
        head += &format!("Content-Length: {}\r\n", body.len() + extra);
    }
    for (name, value) in [
        ("ETag", &page.etag),
        ("Last-Modified", &page.last_modified),
        ("Content-Type", &Some(page.content_type.clone())),
    ] {
        if let Some(value) = value
            && !value.is_empty()
        {
            head += &format!("{name}: {value}\r\n");
        }
    }
    if page.ranges {
        head += "Accept-Ranges: bytes\r\n";
    }
    head += "Connection: close\r\n\r\n";
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    let (until, piece, pause) = match fault {
        Some(Fault::Cut(n) | Fault::Stall(n)) => (n.min(body.len()), 16 << 10, None),
        Some(Fault::Slow(piece, pause)) => (body.len(), piece.max(1), Some(pause)),
        _ => (body.len(), 64 << 10, None),
    };
    for piece in body[..until].chunks(piece) {
        if stream.write_all(piece).await.is_err() {
            return;
        }
        *lock(&state.sent).entry(path.to_owned()).or_default() += piece.len() as u64;
        state.total_sent.fetch_add(piece.len() as u64, SeqCst);
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
    if matches!(fault, Some(Fault::Stall(_))) {
        let _ = stream.flush().await;
        std::future::pending::<()>().await;
    }
}

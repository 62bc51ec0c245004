//! The gate that yt-dlp's connections go through: a forward proxy on the loopback interface, one for each run.
//!
//! yt-dlp and what it starts (ffmpeg for some streams) make their own connections, follow redirects and resolve names, so
//! no check made beforehand holds. They are told of this proxy in their environment and of no other. It judges each host
//! where it is connected to (see [`super::guard`]), asks for the site's turn for each request (each connection, where
//! it is encrypted), and remembers what it refused, so that the run's failure can be told by its reason.
//!
//! It listens on a free port for one run, and wants a password that only that run knows.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use url::{Host, Url};
use uuid::Uuid;

use super::{client::Net, guard, guard::Blocked};
use crate::govern::Wait;
use crate::media::{Failure, FailureClass, Retry};

/// A request's or an answer's head is no longer than this.
const MAX_HEAD: usize = 64 << 10;
/// Connections of one run at once; each downloads some pieces at a time at most.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection through the gate may carry nothing before it is closed.
const IDLE: Duration = Duration::from_secs(600);

/// What the gate met in its run.
#[derive(Debug, Default)]
struct Met {
    blocked: Option<Blocked>,
    waits: Option<Wait>,
    unreachable: Option<String>,
    /// The longest `Retry-After` of a 429 or 503, where answers can be seen.
    retry_after: Option<Duration>,
    requests: u64,
}

#[derive(Debug)]
struct Inner {
    net: Net,
    permit: Option<Uuid>,
    patience: Duration,
    max_bytes: u64,
    /// Bytes that came from outside.
    brought: AtomicU64,
    /// `Basic …`, as it has to stand in the request.
    password: String,
    met: Mutex<Met>,
}

/// A gate for one run; closed when dropped, its connections with it.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    secret: String,
    inner: Arc<Inner>,
    _task: AbortOnDropHandle<()>,
}

impl Gate {
    /// Opens one. `patience` is how long a request may be kept waiting for its turn; the program behind the gate must not
    /// give up before. After `max_bytes` from outside nothing more is let in.
    ///
    /// # Errors
    /// Where there is no free port. Must be called within a runtime.
    pub fn open(net: &Net, permit: Option<Uuid>, patience: Duration, max_bytes: u64) -> io::Result<Self> {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let secret = Uuid::new_v4().simple().to_string();
        let password = format!("Basic {}", base64(format!("spoken:{secret}").as_bytes()));
        let met = Mutex::default();
        let inner = Arc::new(Inner {
            net: net.clone(),
            permit,
            patience,
            max_bytes,
            password,
            brought: AtomicU64::new(0),
            met,
        });
        let shared = inner.clone();
        let task = tokio::spawn(async move {
            // Dropped with the task, and the connections with it.
            let mut connections = JoinSet::new();
            loop {
                while connections.len() >= MAX_CONNECTIONS {
                    connections.join_next().await;
                }
                match listener.accept().await {
                    Ok((stream, _)) => {
                        connections.spawn(serve(stream, shared.clone()));
                    }
                    // Out of descriptors, most likely: they come back.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, secret, inner, _task: AbortOnDropHandle::new(task) })
    }

    /// The address that the run gets as its proxy, password included.
    pub fn address(&self) -> String {
        format!("http://spoken:{}@{}", self.secret, self.address)
    }

    /// Requests (connections, where encrypted) that were let through.
    pub fn requests(&self) -> u64 {
        self.inner.met().requests
    }

    /// Why the run failed, where the gate knows better than the program behind it: what it was kept from, what had to wait,
    /// who could not be reached. `failure` is what the program said.
    pub fn explain(&self, failure: Failure) -> Failure {
        let met = self.inner.met();
        if let Some(blocked) = &met.blocked {
            return blocked.failure();
        }
        if let Some(wait) = &met.waits {
            return wait.failure();
        }
        if self.inner.is_full() {
            return Failure::new(
                FailureClass::TooLarge,
                format!("it brought more than {} MB", self.inner.max_bytes / 1_000_000),
            );
        }
        if failure.class == FailureClass::Network
            && let Some(why) = &met.unreachable
        {
            let mut better = Failure::new(FailureClass::Network, why.clone());
            better.remedy = failure.remedy;
            return better;
        }
        match met.retry_after {
            Some(after) if failure.class == FailureClass::RateLimited && failure.retry.is_none() => {
                failure.with_retry(Retry::In(after))
            }
            _ => failure,
        }
    }
}

impl Inner {
    fn met(&self) -> MutexGuard<'_, Met> {
        self.met.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Counts bytes from outside; false when there have been enough.
    fn takes(&self, bytes: u64) -> bool {
        self.brought.fetch_add(bytes, Relaxed);
        !self.is_full()
    }

    fn is_full(&self) -> bool {
        self.brought.load(Relaxed) > self.max_bytes
    }

    /// Connects to where the request goes, if it may and it is its turn.
    async fn connect(&self, url: &Url, host: &str, port: u16) -> Result<TcpStream, Refusal> {
        let addresses =
            self.net.guard.resolve(host, port).await.map_err(|error| match guard::blocked(&error) {
                Some(blocked) => {
                    self.met().blocked.get_or_insert_with(|| blocked.clone());
                    Refusal::new(403, "Blocked", &blocked.to_string())
                }
                None => self.unreachable(format!("host not found: {host}")),
            })?;
        if self.is_full() {
            return Err(Refusal::new(403, "Enough", "this run has brought more than it may"));
        }
        if let Err(wait) = self.net.turn(url, self.permit, self.patience).await {
            let refusal = Refusal::new(429, "Not Yet", &wait.why);
            self.met().waits.get_or_insert(wait);
            return Err(refusal);
        }
        self.met().requests += 1;
        let mut last = None;
        for address in addresses {
            match timeout(Duration::from_secs(15), TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Small requests should not wait for one another.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = Some(error.to_string()),
                Err(_) => last = Some("no answer within 15 s".to_owned()),
            }
        }
        Err(self.unreachable(format!("failed to connect to {host}: {}", last.unwrap_or_default())))
    }

    fn unreachable(&self, why: String) -> Refusal {
        let refusal = Refusal::new(502, "Bad Gateway", &why);
        self.met().unreachable.get_or_insert(why);
        refusal
    }
}

/// An answer of the gate itself.
#[derive(Debug)]
struct Refusal(String);

impl Refusal {
    fn new(code: u16, reason: &str, why: &str) -> Self {
        let why: String = why.chars().filter(|c| !c.is_control()).collect();
        let authenticate = if code == 407 { "Proxy-Authenticate: Basic realm=\"spoken\"\r\n" } else { "" };
        Self(format!(
            "HTTP/1.1 {code} {reason}\r\n{authenticate}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{why}",
            why.len()
        ))
    }
}

/// The head of a request or an answer: its first line, and the others as they came.
#[derive(Debug)]
struct Head {
    first: String,
    lines: Vec<String>,
    /// What came after it in the same reads.
    rest: Vec<u8>,
}

impl Head {
    /// Reads one; `None` where the other side has nothing (more) to say, or no HTTP.
    async fn read(stream: &mut TcpStream) -> Option<Self> {
        let mut bytes = Vec::new();
        loop {
            if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                let rest = bytes.split_off(end + 4);
                // Bytes beyond ASCII are passed on as they came only in bodies; in a head they are nobody's business here.
                let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
                let mut lines = text.split("\r\n").map(str::to_owned);
                let first = lines.next()?;
                return Some(Self { first, lines: lines.collect(), rest });
            }
            if bytes.len() > MAX_HEAD {
                return None;
            }
            let read = timeout(IDLE, stream.read_buf(&mut bytes)).await.ok()?.ok()?;
            if read == 0 {
                return None;
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.lines
            .iter()
            .filter_map(|line| line.split_once(':'))
            .find(|(n, _)| n.trim().eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }

    /// How long the body of this answer to a request by `method` is, where it is said (RFC 9112 §6.3).
    fn body_bytes(&self, method: &str) -> Option<u64> {
        let status = self.first.split(' ').nth(1).unwrap_or_default();
        if method.eq_ignore_ascii_case("HEAD") || matches!(status, "204" | "304") {
            return Some(0);
        }
        if self.get("transfer-encoding").is_some() {
            return None;
        }
        self.get("content-length")?.parse().ok()
    }

    /// The lines that belong to the message and not to this hop.
    fn onward(&self) -> impl Iterator<Item = &str> {
        const OF_THE_HOP: &[&str] = &[
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "proxy-authenticate",
            "te",
            "trailer",
            "upgrade",
            "expect",
        ];
        self.lines.iter().map(String::as_str).filter(|line| {
            let name = line.split(':').next().unwrap_or_default().trim().to_ascii_lowercase();
            !OF_THE_HOP.contains(&name.as_str())
        })
    }
}

async fn serve(mut client: TcpStream, inner: Arc<Inner>) {
    if let Err(Refusal(answer)) = pass(&mut client, &inner).await {
        // Who does not listen any more needs no answer.
        let _ = client.write_all(answer.as_bytes()).await;
        let _ = client.shutdown().await;
    }
}

async fn pass(client: &mut TcpStream, inner: &Inner) -> Result<(), Refusal> {
    let Some(head) = Head::read(client).await else { return Ok(()) };
    if head.get("proxy-authorization") != Some(&inner.password) {
        return Err(Refusal::new(407, "Proxy Authentication Required", "this proxy is for one program only"));
    }
    let mut words = head.first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if method.eq_ignore_ascii_case("CONNECT") {
        tunnel(client, inner, &head, target).await
    } else {
        forward(client, inner, &head, method, target).await
    }
}

/// An encrypted connection: only where it leads can be seen.
async fn tunnel(client: &mut TcpStream, inner: &Inner, head: &Head, target: &str) -> Result<(), Refusal> {
    let bad = || Refusal::new(400, "Bad Request", "no host and port");
    let url = Url::parse(&format!("https://{target}/")).map_err(|_| bad())?;
    let (host, port) = place(&url).ok_or_else(bad)?;
    let mut server = inner.connect(&url, &host, port).await?;
    if client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_err()
        || server.write_all(&head.rest).await.is_err()
    {
        return Ok(());
    }
    relay(client, &mut server, inner).await;
    Ok(())
}

/// A request in plain sight: one on a connection, so that none goes where it was not judged for.
async fn forward(
    client: &mut TcpStream,
    inner: &Inner,
    head: &Head,
    method: &str,
    target: &str,
) -> Result<(), Refusal> {
    let bad = || Refusal::new(400, "Bad Request", "not the address of a page");
    let url = Url::parse(target).map_err(|_| bad())?;
    if url.scheme() != "http" {
        return Err(bad());
    }
    let (host, port) = place(&url).ok_or_else(bad)?;
    let mut server = inner.connect(&url, &host, port).await?;
    let mut request = format!("{method} {} HTTP/1.1\r\n", origin_form(target));
    if head.get("host").is_none() {
        request += &format!("Host: {}\r\n", &url[url::Position::BeforeHost..url::Position::AfterPort]);
    }
    for line in head.onward() {
        request += line;
        request += "\r\n";
    }
    request += "Connection: close\r\n\r\n";
    if server.write_all(request.as_bytes()).await.is_err() || server.write_all(&head.rest).await.is_err() {
        return Ok(());
    }
    let mut body = head.get("content-length").and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    body = body.saturating_sub(head.rest.len() as u64);
    if body > 0 && tokio::io::copy(&mut (&mut *client).take(body), &mut server).await.is_err() {
        return Ok(());
    }
    let Some(answer) = Head::read(&mut server).await else {
        // Closed without an answer: so is this side, and the program behind the gate sees what it would have seen.
        return Ok(());
    };
    inner.note_answer(&answer);
    let mut text = format!("{}\r\n", answer.first);
    for line in answer.onward() {
        text += line;
        text += "\r\n";
    }
    text += "Connection: close\r\n\r\n";
    if client.write_all(text.as_bytes()).await.is_err() || client.write_all(&answer.rest).await.is_err() {
        return Ok(());
    }
    let left = answer.body_bytes(method).map(|all| all.saturating_sub(answer.rest.len() as u64));
    deliver(client, &mut server, inner, left).await;
    Ok(())
}

/// What follows the host, as it was written: servers may care.
fn origin_form(target: &str) -> String {
    let after = target.split_once("://").map_or(target, |(_, after)| after);
    let from_path = after.find(['/', '?', '#']).map_or("", |at| &after[at..]);
    let plain = from_path.split('#').next().unwrap_or_default();
    if plain.starts_with('/') { plain.to_owned() } else { format!("/{plain}") }
}

impl Inner {
    fn note_answer(&self, answer: &Head) {
        let status = answer.first.split(' ').nth(1).unwrap_or_default();
        if matches!(status, "429" | "503")
            && let Some(value) = answer.get("retry-after")
            && let Some(after) = super::parse_retry_after(value, answer.get("date"))
        {
            let mut met = self.met();
            met.retry_after = met.retry_after.max(Some(after));
        }
    }
}

/// Host (as the resolver takes it) and port of an address.
fn place(url: &Url) -> Option<(String, u16)> {
    let host = match url.host()? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(ip) => ip.to_string(),
        Host::Ipv6(ip) => ip.to_string(),
    };
    Some((host, url.port_or_known_default()?))
}

/// Carries the rest of an answer, `left` bytes of it where that is known; what the program says meanwhile has no reader.
async fn deliver(client: &mut TcpStream, server: &mut TcpStream, inner: &Inner, left: Option<u64>) {
    let (mut from_client, mut to_client) = client.split();
    let (from_server, _) = server.split();
    let mut body = from_server.take(left.unwrap_or(u64::MAX));
    let down = async {
        carry(&mut body, &mut to_client, |bytes| inner.takes(bytes)).await;
        let _ = to_client.shutdown().await;
    };
    let gone = async {
        let mut ignored = [0; 1024];
        while matches!(from_client.read(&mut ignored).await, Ok(1..)) {}
    };
    tokio::select! {
        () = down => {}
        // Who has hung up is not waited for.
        () = gone => {}
    }
}

/// Carries bytes both ways until both sides have ended, or either has gone.
async fn relay(client: &mut TcpStream, server: &mut TcpStream, inner: &Inner) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let up = async {
        let carried = carry(&mut from_client, &mut to_server, |_| true).await;
        let _ = to_server.shutdown().await;
        carried
    };
    let down = async {
        carry(&mut from_server, &mut to_client, |bytes| inner.takes(bytes)).await;
        let _ = to_client.shutdown().await;
    };
    tokio::pin!(up, down);
    // Once the server has said all, nothing that the program still says has a reader.
    tokio::select! {
        () = &mut down => {}
        all_said = &mut up => {
            if all_said {
                down.await;
            }
        }
    }
}

/// Carries bytes until the end (true), a failure, or until `goes_on` has had enough of them (false).
async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    goes_on: impl Fn(u64) -> bool,
) -> bool {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match timeout(IDLE, from.read(&mut buffer)).await {
            Ok(Ok(0)) => return true,
            Ok(Ok(read)) => {
                if !goes_on(read as u64) || to.write_all(&buffer[..read]).await.is_err() {
                    return false;
                }
            }
            Ok(Err(_)) | Err(_) => return false,
        }
    }
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let all = three.iter().fold(0u32, |all, &b| all << 8 | u32::from(b)) << (8 * (3 - three.len()));
        for at in 0..4 {
            if at <= three.len() {
                text.push(char::from(LETTERS[(all >> (18 - 6 * at)) as usize & 63]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncBufReadExt;

    #[test]
    fn base64_as_the_standard_has_it() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn paths_stay_as_they_are_written() {
        for (target, path) in [
            ("http://h/a%20b/../c?x=[1]#f", "/a%20b/../c?x=[1]"),
            ("http://h:80", "/"),
            ("http://h?x", "/?x"),
            ("http://h/#x", "/"),
        ] {
            assert_eq!(origin_form(target), path);
        }
    }

    /// A server that answers each connection once with its number and what it was asked, and keeps the connection open.
    async fn server() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let noted = noted.clone();
                tokio::spawn(async move {
                    while let Some(head) = Head::read(&mut stream).await {
                        noted.lock().unwrap().push(format!("{} {:?}", head.first, head.lines));
                        let answer = "HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        (address, asked)
    }

    /// What the gate answers to `request`, `@` standing for the password.
    async fn through(gate: &Gate, request: &str) -> String {
        let mut stream = TcpStream::connect(gate.address).await.unwrap();
        let password = format!("Proxy-Authorization: {}\r\n", gate.inner.password);
        stream.write_all(request.replace('@', &password).as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn requests_go_through_once_and_without_what_is_ours() {
        let (address, asked) = server().await;
        let gate = Gate::open(&Net::open(), None, Duration::from_secs(1), u64::MAX).unwrap();
        let answer = through(
            &gate,
            &format!("GET http://{address}/a?b#c HTTP/1.1\r\nHost: {address}\r\n@Accept: x\r\nConnection: keep-alive\r\n\r\n"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 429 Slow\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
        assert!(answer.contains("Connection: close") && !answer.contains("keep-alive"), "{answer}");
        let asked = asked.lock().unwrap().clone();
        assert_eq!(asked.len(), 1);
        assert!(asked[0].starts_with("GET /a?b HTTP/1.1") && asked[0].contains("Accept: x"), "{asked:?}");
        assert!(!asked[0].contains("Authorization"), "{asked:?}");
        let said = gate.explain(Failure::new(FailureClass::RateLimited, "429"));
        assert_eq!(said.retry, Some(Retry::In(Duration::from_secs(7))));
        assert_eq!(gate.requests(), 1);
    }

    #[tokio::test]
    async fn nobody_passes_without_the_password() {
        let (address, asked) = server().await;
        let gate = Gate::open(&Net::open(), None, Duration::from_secs(1), u64::MAX).unwrap();
        for request in [
            format!("GET http://{address}/ HTTP/1.1\r\n\r\n"),
            format!("CONNECT {address} HTTP/1.1\r\nProxy-Authorization: Basic eDp5\r\n\r\n"),
        ] {
            assert!(through(&gate, &request).await.starts_with("HTTP/1.1 407 "), "{request}");
        }
        assert!(asked.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_may_not_be_reached_is_not() {
        let (address, asked) = server().await;
        let port = address.port();
        for request in [
            format!("GET http://{address}/ HTTP/1.1\r\n@\r\n"),
            format!("CONNECT {address} HTTP/1.1\r\n@\r\n"),
            format!("CONNECT localhost:{port} HTTP/1.1\r\n@\r\n"),
            format!("CONNECT 2130706433:{port} HTTP/1.1\r\n@\r\n"),
            format!("CONNECT [::ffff:127.0.0.1]:{port} HTTP/1.1\r\n@\r\n"),
        ] {
            let gate = Gate::open(&Net::default(), None, Duration::from_secs(1), u64::MAX).unwrap();
            assert!(through(&gate, &request).await.starts_with("HTTP/1.1 403 "), "{request}");
            let said = gate.explain(Failure::new(FailureClass::Network, "HTTP Error 403"));
            assert_eq!(said.class, FailureClass::Refused, "{request}");
            assert_eq!(gate.requests(), 0);
        }
        assert!(asked.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_has_no_end_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = Head::read(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
        });
        let gate = Gate::open(&Net::open(), None, Duration::from_secs(1), 1 << 20).unwrap();
        let answer = through(&gate, &format!("GET http://{address}/ HTTP/1.1\r\n@\r\n")).await;
        assert!(answer.len() < 2 << 20, "{} bytes", answer.len());
        assert_eq!(gate.explain(Failure::new(FailureClass::Network, "cut")).class, FailureClass::TooLarge);
    }

    #[tokio::test]
    async fn tunnels_carry_both_ways() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = tokio::io::BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            stream.write_all(format!("heard {line}").as_bytes()).await.unwrap();
        });
        let gate = Gate::open(&Net::open(), None, Duration::from_secs(1), u64::MAX).unwrap();
        let answer = through(&gate, &format!("CONNECT {address} HTTP/1.1\r\n@\r\nhello\n")).await;
        assert_eq!(answer, "HTTP/1.1 200 Connection established\r\n\r\nheard hello\n");
    }

    #[tokio::test]
    async fn who_cannot_be_reached_is_named() {
        let gate = Gate::open(&Net::open(), None, Duration::from_secs(1), u64::MAX).unwrap();
        let answer = through(&gate, "GET http://no-such-host.invalid/ HTTP/1.1\r\n@\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        let said = gate.explain(Failure::new(FailureClass::Network, "HTTP Error 502"));
        assert_eq!(said.message, "host not found: no-such-host.invalid");
    }
}

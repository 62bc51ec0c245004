//! The gate that yt-dlp's connections go through: a forward proxy on the loopback interface, one for each run.
//!
//! yt-dlp and what it starts (ffmpeg for some streams) make their own connections, follow redirects and resolve names, so
//! no check made beforehand holds. They are told of this proxy in their environment and of no other. It judges each host
//! where it is connected to (see [`super::guard`]), asks for the site's turn for each request (each connection, where
//! it is encrypted), and remembers what it refused, so that the run's failure can be told by its reason.
//!
//! It listens on a free port for one run, and wants a password that only that run knows.

mod message;

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

use self::message::{Head, Refusal};
use super::{client::Net, guard, guard::Blocked};
use crate::govern::Wait;
use crate::media::{Failure, FailureClass, Retry};

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
mod tests;

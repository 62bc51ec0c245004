//! What passes the gate: the heads of requests and answers, and the gate's own answers.

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use super::IDLE;

/// A request's or an answer's head is no longer than this.
const MAX_HEAD: usize = 64 << 10;

/// An answer of the gate itself.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) String);

impl Refusal {
    pub(super) fn new(code: u16, reason: &str, why: &str) -> Self {
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
pub(super) struct Head {
    pub(super) first: String,
    pub(super) lines: Vec<String>,
    /// What came after it in the same reads.
    pub(super) rest: Vec<u8>,
}

impl Head {
    /// Reads one; `None` where the other side has nothing (more) to say, or no HTTP.
    pub(super) async fn read(stream: &mut TcpStream) -> Option<Self> {
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

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.lines
            .iter()
            .filter_map(|line| line.split_once(':'))
            .find(|(n, _)| n.trim().eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }

    /// How long the body of this answer to a request by `method` is, where it is said (RFC 9112 §6.3).
    pub(super) fn body_bytes(&self, method: &str) -> Option<u64> {
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
    pub(super) fn onward(&self) -> impl Iterator<Item = &str> {
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

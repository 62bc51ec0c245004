//! Telling systemd how the service is: `sd_notify(3)`'s protocol, one datagram of `KEY=value` lines to the socket that
//! `NOTIFY_SOCKET` names. Without one nothing is told.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Where the service manager listens.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says: `NOTIFY_SOCKET`, and `WATCHDOG_USEC` where the watchdog is for this process (`WATCHDOG_PID`).
    pub fn from_process() -> Self {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|&us| ours && us > 0).map(Duration::from_micros);
        match open(&path) {
            Ok(socket) => Self { socket: Some(socket), watchdog },
            Err(error) => {
                tracing::warn!(%error, "cannot tell the service manager anything: NOTIFY_SOCKET is of no use");
                Self::default()
            }
        }
    }

    /// How often [`Self::alive`] is due: half of what the service manager waits for.
    pub fn alive_every(&self) -> Option<Duration> {
        self.watchdog.map(|wait| wait / 2)
    }

    /// The service works.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The settings are being read again; [`Self::ready`] follows.
    pub fn reloading(&self) {
        // Needed by Type=notify-reload, ignored by others.
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
        let us = now.map_or(0, |t| t.tv_sec() * 1_000_000 + t.tv_nsec() / 1000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={us}"));
    }

    /// The service ends.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// The service lives.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// What it does, in one line.
    pub fn status(&self, text: &str) {
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.tell(&format!("STATUS={line}"));
    }

    fn tell(&self, message: &str) {
        if let Some((socket, to)) = &self.socket
            && let Err(error) = socket.send_to_addr(message.as_bytes(), to)
        {
            tracing::debug!(%error, "the service manager was not told");
        }
    }
}

fn open(path: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let to = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(path)?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold us up for long.
    socket.set_write_timeout(Some(Duration::from_millis(250)))?;
    Ok((socket, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_arrive_at_both_kinds_of_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listening = UnixDatagram::bind(&path).unwrap();
        let told = |notifier: &Notifier, listening: &UnixDatagram| {
            notifier.status("two\nlines");
            notifier.reloading();
            let mut all = String::new();
            for _ in 0..2 {
                let mut buffer = [0; 256];
                let n = listening.recv(&mut buffer).unwrap();
                all += std::str::from_utf8(&buffer[..n]).unwrap();
                all += "|";
            }
            all
        };
        let notifier = Notifier { socket: Some(open(path.as_os_str()).unwrap()), watchdog: None };
        let all = told(&notifier, &listening);
        assert!(all.starts_with("STATUS=two lines|RELOADING=1\nMONOTONIC_USEC="), "{all}");

        let name = format!("spoken-test-{}", std::process::id());
        let listening = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notifier =
            Notifier { socket: Some(open(OsStr::new(&format!("@{name}"))).unwrap()), watchdog: None };
        assert!(told(&notifier, &listening).starts_with("STATUS=two lines|"));
        assert!(open(OsStr::new("relative")).is_err());
        Notifier::default().ready();
    }
}

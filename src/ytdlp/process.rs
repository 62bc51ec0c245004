//! A child program on a leash: whatever ends us, it and its children end too.
//!
//! yt-dlp starts ffmpeg and a JavaScript runtime. All of them are in one process group of their own. In that group
//! runs a watcher (a shell waiting in `read`) whose standard input is a pipe held by us. When the pipe closes, be it
//! because the leash was dropped or because this process was killed with SIGKILL, the watcher kills the group.
//!
//! The parent-death signal of Linux would not do: it is not inherited by the grandchildren, and it fires when the
//! *thread* that started the child ends, which a runtime's threads do. While the watcher lives, the group's number
//! cannot be given to somebody else, so killing by it is safe.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::media::{Failure, FailureClass};
use crate::web::Gate;

/// `$1` is a file to remove at the end (or empty), the rest the program and its arguments. The watcher keeps none of
/// the program's pipes, or their end would never be seen; it survives the SIGTERM that asks the group to end.
const SCRIPT: &str = r#"
secret=$1; shift
exec 3<&0
{ trap '' TERM; read -r _ <&3; [ -z "$secret" ] || rm -f -- "$secret"; kill -KILL 0; } </dev/null >/dev/null 2>&1 &
exec "$@" </dev/null 3<&-
"#;

/// A line longer than this is dropped: nothing that is read here comes close.
const MAX_LINE: usize = 16 << 20;
/// How many lines of standard error are kept for the error message.
const KEPT_ERRORS: usize = 60;
/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// A file that only we can read, removed when dropped (or by the watcher when we are killed).
#[derive(Debug)]
pub(super) struct PrivateCopy(PathBuf);

impl PrivateCopy {
    /// A copy of `original` in `folder`, mode 0600.
    pub(super) fn of(original: &Path, folder: &Path) -> Result<Self, Failure> {
        let failed = |e: io::Error| {
            Failure::new(
                FailureClass::Setup,
                format!("failed to copy the cookies in {}: {e}", original.display()),
            )
            .with_remedy("check COOKIES_FILE")
        };
        let content = fs::read(original).map_err(failed)?;
        let copy = Self(folder.join(format!("cookies-{}.txt", Uuid::new_v4().simple())));
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&copy.0).map_err(failed)?;
        io::Write::write_all(&mut file, &content).map_err(failed)?;
        Ok(copy)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateCopy {
    fn drop(&mut self) {
        // The watcher may have removed it already.
        let _ = fs::remove_file(&self.0);
    }
}

/// What the program said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// On standard output.
    Out(String),
    /// On standard error.
    Err(String),
}

/// How a program ended.
#[derive(Debug)]
pub enum End {
    /// By itself.
    Exited {
        /// Its status.
        status: ExitStatus,
        /// The last lines of its standard error.
        errors: Vec<String>,
    },
    /// It showed no sign of life for too long and was killed.
    Silent {
        /// The last lines of its standard error.
        errors: Vec<String>,
    },
    /// Its lines were no longer wanted, and it was killed.
    Stopped,
    /// We were asked to stop, and it was killed.
    Cancelled,
}

/// A running program whose whole process group is killed when this is dropped.
#[derive(Debug)]
pub struct Leash {
    child: Child,
    group: Pid,
    lines: mpsc::Receiver<Line>,
    /// Where its connections go through; closed with it.
    pub(super) gate: Option<Arc<Gate>>,
    /// Closing it makes the watcher kill the group.
    _lifeline: Option<ChildStdin>,
    _secret: Option<PrivateCopy>,
}

impl Leash {
    pub(super) fn start(
        program: &Path,
        arguments: &[OsString],
        secret: Option<PrivateCopy>,
        environment: &[(OsString, OsString)],
        folder: &Path,
    ) -> io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(SCRIPT).arg("sh");
        command.arg(secret.as_ref().map_or(OsStr::new(""), |s| s.path().as_os_str()));
        command.arg(program).args(arguments);
        command.env_clear().envs(environment.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.current_dir(folder).process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        let id = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .ok_or_else(|| io::Error::other("no process id"))?;
        let (tell, lines) = mpsc::channel(256);
        if let Some(out) = child.stdout.take() {
            tokio::spawn(read_lines(out, tell.clone(), Line::Out));
        }
        if let Some(err) = child.stderr.take() {
            tokio::spawn(read_lines(err, tell, Line::Err));
        }
        Ok(Self {
            _lifeline: child.stdin.take(),
            child,
            group: Pid::from_raw(id),
            lines,
            gate: None,
            _secret: secret,
        })
    }

    /// The process group, which is also the program's process id.
    pub fn group(&self) -> i32 {
        self.group.as_raw()
    }

    /// The gate that its connections go through, if any: what it met outlives the program.
    pub fn gate(&self) -> Option<Arc<Gate>> {
        self.gate.clone()
    }

    /// Reads what the program says until it ends. `on_line` gets every line and may stop the program by returning
    /// `false`. After `silence` without a line, and without `alive` returning something new, the program is killed:
    /// give a figure that grows with its work, such as the bytes in its folder. `None` stops the program.
    pub async fn follow(
        mut self,
        silence: Duration,
        cancel: &CancellationToken,
        mut alive: impl FnMut() -> Option<u64>,
        mut on_line: impl FnMut(&Line) -> bool,
    ) -> io::Result<End> {
        let mut errors = VecDeque::new();
        let mut last_sign = Instant::now();
        let mut last_figure = alive();
        let mut look =
            tokio::time::interval((silence / 8).clamp(Duration::from_millis(50), Duration::from_secs(5)));
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    self.terminate().await;
                    return Ok(End::Cancelled);
                }
                line = self.lines.recv() => {
                    let Some(line) = line else { break };
                    last_sign = Instant::now();
                    if let Line::Err(text) = &line {
                        errors.push_back(text.clone());
                        if errors.len() > KEPT_ERRORS {
                            errors.pop_front();
                        }
                    }
                    if !on_line(&line) {
                        self.terminate().await;
                        return Ok(End::Stopped);
                    }
                }
                _ = look.tick() => {
                    let figure = alive();
                    if figure.is_none() {
                        self.terminate().await;
                        return Ok(End::Stopped);
                    }
                    if figure != last_figure {
                        last_figure = figure;
                        last_sign = Instant::now();
                    } else if last_sign.elapsed() >= silence {
                        self.terminate().await;
                        return Ok(End::Silent { errors: errors.into() });
                    }
                }
            }
        }
        // Both pipes are closed, so it ends now; one that closed its pipes and stays is not waited for.
        let status = match tokio::time::timeout(silence, self.child.wait()).await {
            Ok(status) => status?,
            Err(_) => {
                self.terminate().await;
                return Ok(End::Silent { errors: errors.into() });
            }
        };
        Ok(End::Exited { status, errors: errors.into() })
    }

    /// Asks the group to end, then makes it.
    async fn terminate(&mut self) {
        let _ = killpg(self.group, Signal::SIGTERM);
        let _ = tokio::time::timeout(GRACE, self.child.wait()).await;
        let _ = killpg(self.group, Signal::SIGKILL);
        let _ = self.child.wait().await;
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        // The group still exists: its watcher lives until `_lifeline` is closed, after this.
        let _ = killpg(self.group, Signal::SIGKILL);
    }
}

/// Sends each line of `from`, until it ends or nobody listens. Bytes that are not UTF-8 are replaced.
async fn read_lines(mut from: impl AsyncRead + Unpin, to: mpsc::Sender<Line>, make: fn(String) -> Line) {
    let mut pending: Vec<u8> = Vec::new();
    let mut overlong = false;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        // Progress bars end their lines with a carriage return.
        for part in buffer[..read].split_inclusive(|&b| b == b'\n' || b == b'\r') {
            let (text, ended) = match part.split_last() {
                Some((b'\n' | b'\r', text)) => (text, true),
                _ => (part, false),
            };
            if pending.len() + text.len() > MAX_LINE {
                overlong = true;
                pending.clear();
            } else if !overlong {
                pending.extend_from_slice(text);
            }
            if ended {
                let line = String::from_utf8_lossy(&pending).trim_end().to_owned();
                pending.clear();
                if !std::mem::take(&mut overlong) && !line.is_empty() && to.send(make(line)).await.is_err() {
                    return;
                }
            }
        }
    }
    let rest = String::from_utf8_lossy(&pending).trim_end().to_owned();
    if !overlong && !rest.is_empty() {
        let _ = to.send(make(rest)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, secret: Option<PrivateCopy>) -> Leash {
        let environment = [(OsString::from("PATH"), std::env::var_os("PATH").unwrap())];
        Leash::start(
            Path::new("/bin/sh"),
            &["-c".into(), script.into()],
            secret,
            &environment,
            Path::new("/"),
        )
        .unwrap()
    }

    fn group_is_gone(group: i32) -> bool {
        killpg(Pid::from_raw(group), None).is_err()
    }

    async fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(20), "still not: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn lines_and_status_arrive() {
        let leash = sh("echo one; echo two >&2; printf 'three\\rfour'; exit 3", None);
        let group = leash.group();
        let mut out = Vec::new();
        let end = leash
            .follow(
                Duration::from_secs(20),
                &CancellationToken::new(),
                || Some(0),
                |line| {
                    if let Line::Out(text) = line {
                        out.push(text.clone());
                    }
                    true
                },
            )
            .await
            .unwrap();
        assert_eq!(out, ["one", "three", "four"]);
        match end {
            End::Exited { status, errors } => {
                assert_eq!(status.code(), Some(3));
                assert_eq!(errors, ["two"]);
            }
            other => panic!("{other:?}"),
        }
        until("group gone", || group_is_gone(group)).await;
    }

    #[tokio::test]
    async fn a_silent_program_is_killed_with_its_children() {
        // It ignores SIGTERM, and so do its children.
        let leash = sh("trap '' TERM; sleep 600 & sleep 600 & echo up; wait", None);
        let group = leash.group();
        let end = leash
            .follow(Duration::from_millis(200), &CancellationToken::new(), || Some(0), |_| true)
            .await
            .unwrap();
        assert!(matches!(end, End::Silent { .. }), "{end:?}");
        until("group gone", || group_is_gone(group)).await;
    }

    #[tokio::test]
    async fn growing_figures_count_as_life() {
        let leash = sh("sleep 1", None);
        let mut figure = 0;
        let end = leash
            .follow(
                Duration::from_millis(400),
                &CancellationToken::new(),
                || {
                    figure += 1;
                    Some(figure)
                },
                |_| true,
            )
            .await
            .unwrap();
        assert!(matches!(end, End::Exited { .. }), "{end:?}");
    }

    #[tokio::test]
    async fn cancelling_stops_it() {
        let cancel = CancellationToken::new();
        let leash = sh("sleep 600 & echo up; wait", None);
        let group = leash.group();
        let trigger = cancel.clone();
        let end = leash
            .follow(
                Duration::from_secs(600),
                &cancel,
                || Some(0),
                move |_| {
                    trigger.cancel();
                    true
                },
            )
            .await
            .unwrap();
        assert!(matches!(end, End::Cancelled), "{end:?}");
        until("group gone", || group_is_gone(group)).await;
    }

    #[tokio::test]
    async fn dropping_kills_the_group_and_removes_the_secret() {
        let dir = tempfile::tempdir().unwrap();
        let original = dir.path().join("cookies");
        fs::write(&original, "# Netscape HTTP Cookie File\n").unwrap();
        let copy = PrivateCopy::of(&original, dir.path()).unwrap();
        let path = copy.path().to_owned();
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let leash = sh("sleep 600", Some(copy));
        let group = leash.group();
        drop(leash);
        until("group gone", || group_is_gone(group)).await;
        assert!(!path.exists() && original.exists());
    }

    #[tokio::test]
    async fn the_watcher_alone_kills_the_group_and_removes_the_secret() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        fs::write(&secret, "x").unwrap();
        let mut leash = sh("trap '' TERM HUP; sleep 600 & echo up; wait", Some(PrivateCopy(secret.clone())));
        let group = leash.group();
        assert_eq!(leash.lines.recv().await, Some(Line::Out("up".into())));
        // What the kernel does to our descriptors when we are killed.
        leash._lifeline = None;
        until("group gone", || {
            // Our child must be reaped to be gone.
            let _ = leash.child.try_wait();
            group_is_gone(group)
        })
        .await;
        assert!(!secret.exists());
    }
}

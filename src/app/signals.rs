//! What Ctrl-C and SIGTERM mean: first drain, then leave.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::event::{Event, Events};

/// Exit code of a process that was interrupted: 128 + SIGINT, as shells count.
pub const INTERRUPTED: u8 = 130;
/// What was given back may take so long to be noted: with the usual grace of 25 s, the process is gone in less than the 30 s
/// that service managers wait.
const LAST_NOTES: Duration = Duration::from_secs(4);

/// How a run is told to end.
#[derive(Clone, Debug, Default)]
pub struct Stopping {
    /// Nothing new starts; what is in flight is finished.
    pub stop: CancellationToken,
    /// What is in flight is given back to the queue.
    pub cancel: CancellationToken,
}

impl Stopping {
    /// Listens for signals from now on: Ctrl-C stops, a second one leaves at once (after `last`, which cleans the
    /// screen); SIGTERM and SIGHUP stop, give back what is not finished after `grace`, and leave as well where even that does
    /// not come to an end. With `reload`, SIGHUP only notifies that; without it, it stays ignored where this process was
    /// started so. Abort the task when the run is over: it holds on to `events`.
    ///
    /// # Errors
    /// Where the handlers cannot be installed.
    pub fn listen(
        &self,
        grace: Duration,
        events: Events,
        reload: Option<Arc<Notify>>,
        last: impl Fn() + Send + Sync + 'static,
    ) -> std::io::Result<AbortHandle> {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // `nohup` ignores the signal for its program, which then outlives its terminal.
        let mut hangup = match reload.is_none() && is_ignored(SignalKind::hangup()) {
            true => None,
            false => Some(signal(SignalKind::hangup())?),
        };
        let Self { stop, cancel } = self.clone();
        let last = Arc::new(last);
        let task = tokio::spawn(async move {
            // Ends with this task: who is at an end in order is not to be hurried.
            let mut hurrying: Option<AbortOnDropHandle<()>> = None;
            loop {
                let term = tokio::select! {
                    _ = interrupt.recv() => false,
                    _ = terminate.recv() => true,
                    () = next(&mut hangup) => match &reload {
                        Some(reload) => {
                            reload.notify_one();
                            continue;
                        }
                        // The terminal was closed.
                        None => true,
                    },
                };
                if stop.is_cancelled() && !term {
                    // Everything on the way is recoverable, and somebody is waiting at the keyboard.
                    leave(&*last);
                }
                if !stop.is_cancelled() {
                    stop.cancel();
                    events.send(Event::StopRequested);
                }
                if term && hurrying.is_none() {
                    let (cancel, last) = (cancel.clone(), Arc::clone(&last));
                    hurrying = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                        tokio::time::sleep(grace).await;
                        cancel.cancel();
                        tokio::time::sleep(LAST_NOTES).await;
                        tracing::warn!(
                            "what was in hand could not be given back in time, as when the database does not answer: leaving \
                             at once; nothing is lost, the next start takes it up"
                        );
                        leave(&*last);
                    })));
                }
            }
        });
        Ok(task.abort_handle())
    }
}

/// The next signal; never, where nobody listens for it.
async fn next(listening: &mut Option<Signal>) {
    match listening {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Whether this process ignores the signal. Until a handler is installed, that is what it was started with.
fn is_ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    (mask >> (signal.as_raw_value() - 1)) & 1 == 1
}

/// Ends the process at once, after `last`. What it has in hand is as after a kill: programs that it started end with it, its
/// part of the spool and its jobs are found by the next start, and the private server, which has a session of its own, is
/// adopted by it.
fn leave(last: &dyn Fn()) -> ! {
    last();
    // Not `exit`: the destructors of the C++ libraries would run under the feet of their threads, which ends in a crash now
    // and then.
    // SAFETY: it ends the process at once and runs nothing of it.
    unsafe { nix::libc::_exit(INTERRUPTED.into()) }
}

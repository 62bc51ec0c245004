//! What every worker does: one item after the other, until none comes any more.
//!
//! A panic ends the item that it came from, and not the worker, which others wait for. The item's reply goes with it, which
//! is how its handler learns of the panic and passes it on to the queue ([`pass_on`]): that counts it as a crash of the item.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use async_channel::Receiver;
use futures::FutureExt;

use super::{Heard, Job, Said, Shared, leftovers};
use crate::event::Event;
use crate::media::MediaId;
use crate::queue::AFTER_PANIC;
use crate::stage::StageMeter;

/// What comes to a worker.
pub(super) trait Coming {
    /// The item that it is about.
    fn media_id(&self) -> MediaId;
}

impl Coming for Job {
    fn media_id(&self) -> MediaId {
        self.media_id
    }
}

impl Coming for Heard {
    fn media_id(&self) -> MediaId {
        self.active.work.item.media_id
    }
}

impl Coming for Said {
    fn media_id(&self) -> MediaId {
        self.active.work.item.media_id
    }
}

/// Does `one` with each that comes; `broke` is told of panics.
pub(super) async fn each<T: Coming, F: Future<Output = ()>>(
    meter: &StageMeter,
    from: &Receiver<T>,
    one: impl Fn(T) -> F,
    broke: impl Fn(MediaId, &str),
) {
    while let Some(coming) = meter.recv(from).await {
        let media_id = coming.media_id();
        if let Err(panic) = AssertUnwindSafe(one(coming)).catch_unwind().await {
            broke(media_id, words(&*panic));
        }
    }
}

/// As [`each`], for a worker that is a thread.
pub(super) fn each_blocking<T: Coming>(
    meter: &StageMeter,
    from: &Receiver<T>,
    one: impl Fn(T),
    broke: impl Fn(MediaId, &str),
) {
    while let Some(coming) = meter.recv_blocking(from) {
        let media_id = coming.media_id();
        if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| one(coming))) {
            broke(media_id, words(&*panic));
        }
    }
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

/// Clears up after an item whose step panicked, and tells of it.
pub(super) fn broke(shared: &Arc<Shared>, media_id: MediaId, panic: &str) {
    tracing::error!(%media_id, panic, "a step panicked; the item is tried again, and given up after several times");
    // What is in hand still is with the next stage, or claimed anew.
    leftovers::remove(shared, media_id);
    let shared = Arc::clone(shared);
    shared.runtime.clone().spawn(async move {
        let title = match shared.store.media(media_id).await {
            Ok(Some(row)) => row.title,
            _ => media_id.to_string(),
        };
        let message = "the program failed on it; see the log".to_owned();
        let retry_in_ms = AFTER_PANIC.as_millis() as u64;
        shared.events.send(Event::ItemDelayed { media_id, title, message, retry_in_ms });
    });
}

/// What becomes of a job whose reply was lost: its step panicked, and now its handler does. The panic hook has told of it
/// already, and is not asked again.
pub(super) fn pass_on() -> ! {
    panic::resume_unwind(Box::new("a step of the pipeline panicked"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::oneshot;

    use super::*;
    use crate::queue::Outcome;

    /// What a step is told to do, and who waits for it.
    struct Task(MediaId, Option<&'static str>, oneshot::Sender<Outcome>);

    impl Coming for Task {
        fn media_id(&self) -> MediaId {
            self.0
        }
    }

    fn step(Task(_, panics, reply): Task) {
        if let Some(panics) = panics {
            panic!("{panics}");
        }
        let _ = reply.send(Outcome::Done);
    }

    /// One that panics and one after it, in a closed channel, and their answers.
    fn tasks() -> (Receiver<Task>, [oneshot::Receiver<Outcome>; 2]) {
        let (to, from) = async_channel::unbounded();
        let answers = [("bad", Some("as the test wants it")), ("good", None)].map(|(name, panics)| {
            let (reply, answer) = oneshot::channel();
            to.try_send(Task(MediaId::new("test", name), panics, reply)).unwrap();
            answer
        });
        (from, answers)
    }

    fn check(told: Mutex<Vec<(MediaId, String)>>, [mut bad, mut good]: [oneshot::Receiver<Outcome>; 2]) {
        let expected = (MediaId::new("test", "bad"), "as the test wants it".to_owned());
        assert_eq!(told.into_inner().unwrap(), [expected]);
        assert!(bad.try_recv().is_err(), "an answer to what was not done");
        assert_eq!(good.try_recv(), Ok(Outcome::Done));
    }

    #[tokio::test]
    async fn a_worker_outlives_the_panic_of_an_item() {
        let (from, answers) = tasks();
        let told = Mutex::new(Vec::new());
        let tell = |id, panic: &str| told.lock().unwrap().push((id, panic.to_owned()));
        each(&StageMeter::new("test", 1), &from, async |task| step(task), tell).await;
        check(told, answers);
    }

    #[test]
    fn a_thread_outlives_the_panic_of_an_item() {
        let (from, answers) = tasks();
        let told = Mutex::new(Vec::new());
        let tell = |id, panic: &str| told.lock().unwrap().push((id, panic.to_owned()));
        std::thread::scope(|scope| {
            scope.spawn(|| each_blocking(&StageMeter::new("test", 1), &from, step, tell));
        });
        check(told, answers);
    }
}

//! Several at a time, yet in order.

use std::future::Future;

use async_channel::{Receiver, Sender, bounded};
use tokio_util::task::AbortOnDropHandle;

use super::Found;

/// How much one input may find ahead of its turn.
const AHEAD: usize = 64;

/// Runs `work` on each input, `width` at a time, and passes on what they find in the order of the inputs. Ends early when
/// nobody receives. A panic in `work` is passed on.
pub(super) async fn in_order<T, F, W>(inputs: Receiver<T>, width: usize, out: &Sender<Found>, work: F)
where
    F: Fn(T, Sender<Found>) -> W,
    W: Future<Output = ()> + Send + 'static,
{
    // The forwarder holds one more, so the channel has room for the rest.
    let (queue, turns) = bounded::<(Receiver<Found>, AbortOnDropHandle<()>)>(width.saturating_sub(1).max(1));
    let start = async {
        while let Ok(input) = inputs.recv().await {
            let (tx, rx) = bounded(AHEAD);
            let task = AbortOnDropHandle::new(tokio::spawn(work(input, tx)));
            if queue.send((rx, task)).await.is_err() {
                break;
            }
        }
        queue.close();
    };
    let forward = async {
        while let Ok((found, task)) = turns.recv().await {
            while let Ok(one) = found.recv().await {
                if out.send(one).await.is_err() {
                    turns.close();
                    inputs.close();
                    return;
                }
            }
            if let Err(error) = task.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    };
    tokio::join!(start, forward);
}

/// A closed channel that holds `items`.
pub(super) fn all<T>(items: Vec<T>) -> Receiver<T> {
    let (tx, rx) = bounded(items.len().max(1));
    for item in items {
        // There is room for each, and the receiver is held here.
        let _ = tx.try_send(item);
    }
    rx
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };
    use tokio::sync::Barrier;

    #[tokio::test]
    async fn order_is_kept_and_work_overlaps() {
        let (tx, rx) = async_channel::unbounded();
        // Each waits for its two neighbours, so this only ends if three run at once.
        let barrier = Arc::new(Barrier::new(3));
        let started = Arc::new(AtomicUsize::new(0));
        in_order(all((0..9).collect()), 3, &tx, |i: i32, out| {
            let (barrier, started) = (Arc::clone(&barrier), Arc::clone(&started));
            async move {
                started.fetch_add(1, SeqCst);
                barrier.wait().await;
                for n in 0..2 {
                    let _ = out.send(Found::Notice(format!("{i}.{n}"))).await;
                }
            }
        })
        .await;
        drop(tx);
        let mut got = Vec::new();
        while let Ok(found) = rx.recv().await {
            got.push(found);
        }
        let expected: Vec<Found> =
            (0..9).flat_map(|i| (0..2).map(move |n| Found::Notice(format!("{i}.{n}")))).collect();
        assert_eq!(got, expected);
        assert_eq!(started.load(SeqCst), 9);
    }

    #[tokio::test]
    async fn it_ends_when_nobody_receives() {
        let (tx, rx) = async_channel::bounded(1);
        rx.close();
        in_order(all((0..100).collect()), 2, &tx, |i: i32, out| async move {
            let _ = out.send(Found::Notice(i.to_string())).await;
        })
        .await;
    }
}

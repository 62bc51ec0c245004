//! Waiting for a database that is away.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::queue::QueueError;
use crate::store::{SaveError, StoreError, is_transient};

/// First and longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// An error of the database that says whether it may pass by itself.
pub(super) trait MayPass: std::fmt::Display {
    fn may_pass(&self) -> bool;
}

impl MayPass for StoreError {
    fn may_pass(&self) -> bool {
        self.is_transient()
    }
}

impl MayPass for SaveError {
    fn may_pass(&self) -> bool {
        self.is_transient()
    }
}

impl MayPass for QueueError {
    fn may_pass(&self) -> bool {
        matches!(self, Self::Database(error) if is_transient(error))
    }
}

/// Asks the database until it answers, or until `stop`: neither a list that took minutes to get nor what is in flight is
/// thrown away for a restart.
pub(super) async fn patiently<T, E: MayPass, F: Future<Output = Result<T, E>>>(
    stop: &CancellationToken,
    mut ask: impl FnMut() -> F,
) -> Result<T, E> {
    let mut pause = PAUSE.0;
    loop {
        let error = match ask().await {
            Err(error) if error.may_pass() && !stop.is_cancelled() => error,
            answer => return answer,
        };
        tracing::warn!(%error, retry_in_s = pause.as_secs(), "the database does not answer");
        tokio::select! {
            () = stop.cancelled() => return Err(error),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
        }
    }
}

//! What a turn is: the right to go ahead, renewed while it is used, and given back.

use std::sync::Arc;

use tokio::task::AbortHandle;
use uuid::Uuid;

use super::{Inner, Site};

/// The right to go ahead, until dropped.
#[derive(Debug, Default)]
pub struct Permit(pub(super) Option<Held>);

#[derive(Debug)]
pub(super) struct Held {
    pub(super) governor: Arc<Inner>,
    pub(super) site: Site,
    pub(super) id: Uuid,
    /// Says that the download still runs.
    pub(super) renewal: Option<AbortHandle>,
    /// This is the one item that tries whether a site has calmed down.
    pub(super) trial: bool,
}

impl Permit {
    /// Its id, for [`super::Ask::Request`]; `None` where nothing is counted.
    pub fn id(&self) -> Option<Uuid> {
        self.0.as_ref().map(|held| held.id)
    }

    /// True for the one item that tries whether a site which refused has calmed down.
    pub fn is_trial(&self) -> bool {
        self.0.as_ref().is_some_and(|held| held.trial)
    }

    /// Ends it and waits for that; dropping does the same when it gets round to it.
    pub async fn end(mut self) {
        if let Some(held) = self.0.take() {
            held.end().await;
        }
    }
}

impl Held {
    async fn end(self) {
        if let Some(renewal) = &self.renewal {
            renewal.abort();
        }
        if self.renewal.is_none() && !self.trial {
            return;
        }
        let done = self.governor.end(&self.site, self.id).await;
        if let Err(error) = done {
            tracing::debug!(site = %self.site, %error, "failed to end a permit; it lapses by itself");
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(held) = self.0.take() else { return };
        if let Some(renewal) = &held.renewal {
            renewal.abort();
        }
        // Without a runtime the process is ending, and the permit lapses.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(held.end());
        }
    }
}

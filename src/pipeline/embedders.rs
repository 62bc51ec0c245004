//! The embedding model at work, and how another one takes its place: while a run goes on, `spoken reembed` may let another
//! model answer, and from then on items need that one's vectors.

use std::sync::{PoisonError, RwLock};

use futures::future::BoxFuture;

use crate::embed::Embedder;
use crate::media::Failure;

/// Loads the model that answers searches now.
pub type LoadEmbedder = Box<dyn Fn() -> BoxFuture<'static, Result<Embedder, Failure>> + Send + Sync>;

/// The embedding model at work.
pub struct Embedders {
    current: RwLock<Embedder>,
    load: LoadEmbedder,
    changing: tokio::sync::Mutex<()>,
}

impl Embedders {
    /// Begins with `current`; `load` brings what takes its place.
    pub fn new(current: Embedder, load: LoadEmbedder) -> Self {
        Self { current: RwLock::new(current), load, changing: tokio::sync::Mutex::default() }
    }

    /// The model at work.
    pub fn current(&self) -> Embedder {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The model that answers now, where `answers` names it; loaded once, however many ask.
    ///
    /// # Errors
    /// Where it cannot be loaded here; says why.
    pub async fn change_to(&self, answers: &str) -> Result<Embedder, Failure> {
        let _alone = self.changing.lock().await;
        let current = self.current();
        if current.model_id() == answers {
            return Ok(current);
        }
        let new = (self.load)().await?;
        tracing::info!(model = new.model_id(), "another embedding model answers; items are embedded with it");
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new.clone();
        Ok(new)
    }
}

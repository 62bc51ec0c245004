//! Which embedding model a command works with: the one that answers searches, whatever EMBEDDING_MODEL says meanwhile.
//!
//! A library answers with one model's vectors at a time (see [`Store::answering`]). Where EMBEDDING_MODEL names another one,
//! `spoken reembed` changes over to it; until it has, everything goes on with the model that answers, which is loaded from where
//! it was loaded last.

use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use super::patience::patiently;
use super::steps;
use super::world::World;
use crate::config::{Config, ModelRef};
use crate::embed::{EmbedOptions, Embedder};
use crate::event::{Event, Events};
use crate::media::{Failure, FailureClass};
use crate::pipeline::embedders::Embedders;
use crate::store::{Answering, EmbeddingModel, Store};

/// A model to load, and what to say about the choice.
#[derive(Clone, Debug)]
pub struct Choice {
    /// How to load it.
    pub options: EmbedOptions,
    /// What it was called: a name or a directory.
    pub setting: String,
    /// That EMBEDDING_MODEL means another model than the one that answers, and what to do about it.
    pub notice: Option<String>,
    /// What the model has to be, where a directory was taken at its word: reading all of it twice would take as long as a
    /// search.
    expected: Option<String>,
}

/// The model that answers searches, or the configured one where nothing was embedded yet.
///
/// # Errors
/// A model that is not there; and where the one that answers cannot be had on this machine, which is told
/// with both ways out.
pub async fn choose(config: &Config, answering: Option<Answering>) -> anyhow::Result<Choice> {
    let options = steps::embed_options(config);
    let setting = setting(config);
    let Some(Answering { model, setting: last, .. }) = answering else {
        return Ok(Choice { options, setting, notice: None, expected: None });
    };
    if last.as_ref() == Some(&setting) {
        return Ok(Choice { options, setting, notice: None, expected: Some(model.model_id) });
    }
    let configured = {
        let options = options.clone();
        // Of a directory, the network's file is read: far from nothing.
        tokio::task::spawn_blocking(move || options.model_id()).await?
    };
    if configured.as_ref().is_ok_and(|id| *id == model.model_id) {
        return Ok(Choice { options, setting, notice: None, expected: None });
    }
    // A name on the hub is its own setting.
    let last = last.unwrap_or_else(|| model.model_id.clone());
    let former = EmbedOptions { model: last.clone(), ..options };
    let there = {
        let former = former.clone();
        tokio::task::spawn_blocking(move || former.model_id()).await?
    };
    let wanted = match configured {
        Ok(_) => setting,
        Err(error) => format!("{setting} ({error})"),
    };
    match there {
        Ok(id) if id == model.model_id => {
            let notice = format!(
                "EMBEDDING_MODEL is {wanted}, but searches are answered by {}: that one is used until `spoken reembed` has \
                 filled the table of the other; to keep it, set EMBEDDING_MODEL={last}",
                model.model_id
            );
            Ok(Choice { options: former, setting: last, notice: Some(notice), expected: None })
        }
        found => {
            let why = match found {
                Ok(other) => format!("{last} holds {other} now"),
                Err(error) => error.to_string(),
            };
            Err(other_model(&model.model_id, &wanted, &why))
        }
    }
}

/// That the model which answers cannot be had, with both ways out.
fn other_model(answers: &str, wanted: &str, why: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "the library's vectors are of the embedding model {answers}, EMBEDDING_MODEL is {wanted}: let EMBEDDING_MODEL name the \
         former ({why}), or run `spoken reembed` to change over to the latter"
    )
}

/// What EMBEDDING_MODEL says, a directory as a full path.
pub fn setting(config: &Config) -> String {
    match &config.embedding_model {
        ModelRef::Name(name) => name.clone(),
        ModelRef::Path(path) => {
            std::path::absolute(path).unwrap_or_else(|_| path.clone()).to_string_lossy().into_owned()
        }
    }
}

/// The model of an [`Embedder`], as the database knows it.
pub fn identity(embedder: &Embedder) -> EmbeddingModel {
    EmbeddingModel { model_id: embedder.model_id().to_owned(), dimension: embedder.dimension() }
}

/// Loads a model without keeping the runtime from its work.
///
/// # Errors
/// What is wrong with it.
pub async fn load(options: EmbedOptions) -> anyhow::Result<Embedder> {
    Ok(tokio::task::spawn_blocking(move || Embedder::load(&options)).await??)
}

/// Loads the model that a search is asked with.
///
/// # Errors
/// The database's; as for [`choose`]; a model that does not work.
pub async fn for_search(world: &World) -> anyhow::Result<Embedder> {
    load_chosen(&choose(&world.config, world.store.answering().await?).await?).await
}

/// Loads the model that items are embedded with, for a command that ends before another one could take its place.
///
/// # Errors
/// As for [`for_search`].
pub async fn for_writing(world: &World) -> anyhow::Result<Embedder> {
    load_and_note(choose(&world.config, world.store.answering().await?).await?, &world.store).await
}

/// Loads the model that items are embedded with, and says where it is not the configured one; another one takes its place
/// as soon as that one answers.
///
/// # Errors
/// As for [`for_search`].
pub async fn embedders(
    world: &World,
    events: &Events,
    stop: &CancellationToken,
) -> anyhow::Result<Embedders> {
    let (config, store) = (world.config.clone(), world.store.clone());
    let choice = choose(&config, patiently(stop, || store.answering()).await?).await?;
    if let Some(message) = choice.notice.clone() {
        events.send(Event::Noticed { warning: true, message });
    }
    let first = load_and_note(choice, &store).await?;
    let load = move || {
        let (config, store) = (config.clone(), store.clone());
        async move {
            let loaded =
                async { load_and_note(choose(&config, store.answering().await?).await?, &store).await };
            loaded.await.map_err(|error| Failure::new(FailureClass::Setup, format!("{error:#}")))
        }
        .boxed()
    };
    Ok(Embedders::new(first, Box::new(load)))
}

async fn load_chosen(choice: &Choice) -> anyhow::Result<Embedder> {
    let embedder = load(choice.options.clone()).await?;
    match &choice.expected {
        Some(answers) if answers != embedder.model_id() => {
            let why = format!("{} holds {} now", choice.setting, embedder.model_id());
            Err(other_model(answers, &choice.setting, &why))
        }
        _ => Ok(embedder),
    }
}

async fn load_and_note(choice: Choice, store: &Store) -> anyhow::Result<Embedder> {
    let embedder = load_chosen(&choice).await?;
    note(store, &embedder, &choice.setting).await;
    Ok(embedder)
}

/// Notes where a model was loaded from, so that it can be found when EMBEDDING_MODEL says something else.
pub async fn note(store: &Store, embedder: &Embedder, setting: &str) {
    if let Err(error) = store.note_embedding_setting(&identity(embedder), setting).await {
        tracing::debug!(%error, "cannot note where the embedding model is");
    }
}

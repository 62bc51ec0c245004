//! Forms passages from segments, and vectors from passages.
//!
//! [`passages`] joins segments at sentence ends. An [`Embedder`] turns their text into vectors of length 1 with an ONNX
//! model: one thread owns it and forms batches of whatever all callers have waiting; a search's query goes first. What a
//! passage is from (a [`Heading`]: title, channel, who speaks) is told to the model before its text and stored nowhere: a
//! passage that names nothing is still near a question that does.
//!
//! A network that quantises its activations while it runs ("dynamic" int8) scales them by all that is in the batch, so
//! that a text's vector would depend on its neighbours (measured with all-MiniLM-L6-v2: by up to 0.02 a number, a cosine
//! of 0.993). Such a network gets its texts one by one: the same text then always has the same vector, at the same speed
//! on a CPU and with a fraction of the memory.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use async_channel::Sender;
use tokenizers::Tokenizer;
use tokio::sync::oneshot;

use crate::media::{Failure, FailureClass};

mod heading;
mod model;
mod passage;
mod prompts;
mod runtime;
mod worker;

#[cfg(test)]
mod tests;

pub use heading::Heading;
pub use passage::{PassageOptions, passages};

use prompts::Prompts;
use worker::{Request, Worker};

/// Requests that may wait for the thread; each holds the texts of one item, and whoever sends more waits.
const QUEUE: usize = 64;

/// What to embed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbedOptions {
    /// A local directory with an ONNX model and its tokenizer, or a model's name on the hub
    /// (`intfloat/multilingual-e5-small`), or fastembed's name for it (`MultilingualE5Small`).
    pub model: String,
    /// Where models from the hub are kept. `HF_HOME` in the environment goes before it.
    pub cache_dir: PathBuf,
    /// Where the set-up put ONNX Runtime (`lib/libonnxruntime.so` below it). `ORT_DYLIB_PATH` in the environment goes
    /// before it.
    pub tools_dir: PathBuf,
    /// Threads that one batch is computed with. On a host without a GPU they compete with Whisper's.
    pub threads: usize,
    /// Most texts in a batch.
    pub batch: usize,
    /// Draw a download's progress on the terminal.
    pub show_progress: bool,
}

impl EmbedOptions {
    /// Options for `model` with one thread, batches of 8, and no progress drawn.
    pub fn new(
        model: impl Into<String>,
        cache_dir: impl Into<PathBuf>,
        tools_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            model: model.into(),
            cache_dir: cache_dir.into(),
            tools_dir: tools_dir.into(),
            threads: 1,
            batch: 8,
            show_progress: false,
        }
    }

    /// Checks what can be checked at once and without a network: that ONNX Runtime loads, and that the model is a directory
    /// with the files of one, or a known name.
    ///
    /// # Errors
    /// [`EmbedError`], as [`Embedder::load`] would give it.
    pub fn check(&self) -> Result<(), EmbedError> {
        Embedder::check_runtime(&self.tools_dir)?;
        model::check(&self.model)
    }

    /// The name that [`Embedder::model_id`] will have, without loading the model.
    ///
    /// # Errors
    /// Where there is no such model, or its file cannot be read.
    pub fn model_id(&self) -> Result<String, EmbedError> {
        model::id(&self.model)
    }
}

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbedError {
    /// ONNX Runtime is missing, no library, or too old.
    #[error(
        "ONNX Runtime cannot be loaded from {path}: {why}; run ./scripts/setup, or let ORT_DYLIB_PATH name a libonnxruntime.so of version 1.24 or later"
    )]
    Runtime {
        /// Where it was looked for.
        path: PathBuf,
        /// What was wrong.
        why: String,
    },
    /// A path that leads nowhere.
    #[error("EMBEDDING_MODEL names the directory {path}, which does not exist")]
    NoDirectory {
        /// The path.
        path: PathBuf,
    },
    /// A directory without a network.
    #[error("no ONNX model in {path} (looked for {names})")]
    NoNetwork {
        /// The directory.
        path: PathBuf,
        /// The file names tried.
        names: String,
    },
    /// A file of a local model cannot be read.
    #[error("the embedding model's file {path} cannot be read: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name that nobody knows.
    #[error("unknown embedding model {name:?}; the nearest known ones are {nearest}")]
    UnknownModel {
        /// The name.
        name: String,
        /// Like it.
        nearest: String,
    },
    /// The hub did not give it.
    #[error(
        "the embedding model {model} cannot be fetched: {why}; without a network, let EMBEDDING_MODEL name a directory that holds model.onnx, tokenizer.json, tokenizer_config.json, special_tokens_map.json and config.json of such a model"
    )]
    Unavailable {
        /// The model.
        model: String,
        /// Why.
        why: String,
    },
    /// It is there, but does not work.
    #[error("the embedding model {model} does not work: {why}")]
    Broken {
        /// The model.
        model: String,
        /// What it did.
        why: String,
    },
    /// No thread could be started.
    #[error("the embedding thread cannot be started: {0}")]
    Thread(io::Error),
}

impl From<EmbedError> for Failure {
    fn from(error: EmbedError) -> Self {
        Self::new(FailureClass::Setup, error.to_string())
    }
}

/// A loaded model. Cheap to clone; the model is unloaded when the last clone is gone.
#[derive(Clone, Debug)]
pub struct Embedder {
    requests: Sender<Request>,
    dimension: usize,
    id: Arc<str>,
    prompts: Arc<Prompts>,
    tokenizer: Arc<Tokenizer>,
    max_tokens: usize,
}

impl Embedder {
    /// Loads the model, fetching it first if it has to be, and tries it on a sentence. Blocks, for minutes where there is
    /// much to fetch.
    ///
    /// # Errors
    /// All of [`EmbedError`]; each message says what to do.
    pub fn load(options: &EmbedOptions) -> Result<Self, EmbedError> {
        let environment = runtime::environment(&runtime::library(&options.tools_dir))?;
        let mut model = model::load(options, environment)?;
        let broken = |why: String| EmbedError::Broken { model: options.model.clone(), why };
        let probe = format!("{}What was said, and when?", model.prompts.passage);
        let mut vectors = worker::run_model(&mut model.network, &[&probe]).map_err(broken)?;
        let dimension = vectors[0].len();
        worker::normalise(&mut vectors[0], dimension).map_err(broken)?;

        // Texts are cut off at what the network reads; counted is all of them.
        let mut tokenizer = model.network.tokenizer.clone();
        let max_tokens = tokenizer.get_truncation().map_or(model::MAX_TOKENS, |t| t.max_length);
        tokenizer.with_truncation(None).map_err(|e| broken(e.to_string()))?;
        tokenizer.with_padding(None);

        let (requests, receiver) = async_channel::bounded(QUEUE);
        let batch = if model.alone { 1 } else { options.batch };
        let worker = Worker::new(model.network, batch, dimension);
        thread::Builder::new()
            .name("embed".to_owned())
            .spawn(move || worker.run(&receiver))
            .map_err(EmbedError::Thread)?;
        Ok(Self {
            requests,
            dimension,
            id: model.id.into(),
            prompts: model.prompts.into(),
            tokenizer: tokenizer.into(),
            max_tokens,
        })
    }

    /// Checks without a model that ONNX Runtime can be loaded; returns the library's path.
    ///
    /// # Errors
    /// [`EmbedError::Runtime`].
    pub fn check_runtime(tools_dir: &Path) -> Result<PathBuf, EmbedError> {
        let library = runtime::library(tools_dir);
        runtime::environment(&library).map(|_| library)
    }

    /// Numbers in a vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// A name that stays the same for the same vectors: the hub's, or for a directory its name and a short hash of the
    /// model file.
    pub fn model_id(&self) -> &str {
        &self.id
    }

    /// Whether the model knows `word` as a whole: what it learnt to write with one token is a word that people use, while
    /// a mistyped one falls into pieces. Rare words do so, too.
    pub fn is_word(&self, word: &str) -> bool {
        self.tokenizer.encode(word, false).is_ok_and(|encoded| {
            let unknown = ["[UNK]", "<unk>"];
            matches!(encoded.get_tokens(), [token] if !unknown.contains(&token.as_str()))
        })
    }

    /// Tokens of a text, as this model reads it.
    pub fn tokens(&self, text: &str) -> usize {
        // What its tokenizer cannot take is counted as the worst: a token a character.
        self.tokenizer.encode(text, false).map_or_else(|_| text.chars().count(), |encoding| encoding.len())
    }

    /// Tokens of a passage under `heading` that the model reads to their end; at least 16.
    pub fn room(&self, heading: &Heading) -> usize {
        let prompt = heading.opening(&self.prompts.passage);
        // A beginning and an end, which every model adds.
        self.max_tokens.saturating_sub(self.tokens(&prompt) + 2).max(16)
    }

    /// Vectors of passages without a heading, in order, each of length 1.
    ///
    /// # Errors
    /// [`FailureClass::Internal`], naming the text that could not be embedded.
    pub async fn embed_passages(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, Failure> {
        self.embed(texts, &self.prompts.passage, false).await
    }

    /// As [`Self::embed_passages`], of passages of one item, which `heading` tells about.
    ///
    /// # Errors
    /// As [`Self::embed_passages`].
    pub async fn embed_under(&self, heading: &Heading, texts: Vec<String>) -> Result<Vec<Vec<f32>>, Failure> {
        self.embed(texts, &heading.opening(&self.prompts.passage), false).await
    }

    /// The vector of a query, of length 1. Goes before passages that wait.
    ///
    /// # Errors
    /// As [`Self::embed_passages`].
    pub async fn embed_query(&self, text: &str) -> Result<Vec<f32>, Failure> {
        let mut vectors = self.embed(vec![text.to_owned()], &self.prompts.query, true).await?;
        vectors.pop().ok_or_else(ended)
    }

    async fn embed(
        &self,
        mut texts: Vec<String>,
        prompt: &str,
        urgent: bool,
    ) -> Result<Vec<Vec<f32>>, Failure> {
        if !prompt.is_empty() {
            texts.iter_mut().for_each(|t| t.insert_str(0, prompt));
        }
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request { texts, urgent, reply }).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

fn ended() -> Failure {
    Failure::new(FailureClass::Internal, "the embedding thread has ended")
}

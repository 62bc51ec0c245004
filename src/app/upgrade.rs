//! `spoken upgrade`: doubtful transcripts are done again, usually by a larger model.
//!
//! Nothing goes through the queue: its workers may run other models. An item stays done, and what is stored of it answers, until
//! the new results take its place in one transaction; who dies before has changed nothing, and finds the windows that were
//! heard in the checkpoints. Several of these share the work by locks that go with their processes.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use console::style;
use futures::StreamExt;
use serde_json::json;
use tokio::sync::{Mutex, Semaphore, oneshot};
use uuid::Uuid;

use super::models::{self, identity};
use super::offline::Room;
use super::patience::patiently;
use super::signals::Stopping;
use super::steps::{self, Role};
use super::world::World;
use crate::cli::{EXIT_OK, UpgradeArgs};
use crate::config::{Config, ModelRef, Task};
use crate::decode::{self, DecodeOptions};
use crate::embed::{self, Heading, PassageOptions};
use crate::event::{Event, Events, RunSummary, Step};
use crate::fetch::Fetcher;
use crate::media::{Audio, Failure, FailureClass, MediaId, Metadata, Transcript};
use crate::pipeline::embedders::Embedders;
use crate::pipeline::{Meters, Sizes};
use crate::report::figures;
use crate::store::{
    Condition, Doubtful, ItemLocks, Results, SaveError, Store, StoreError, Upgraded, WindowFigures,
};
use crate::telemetry::sanitize;
use crate::transcribe::Transcriber;

/// Items in work at once: one is heard, one is fetched, one is written.
const AT_ONCE: usize = 4;

/// What `upgrade` is to do.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is doubtful.
    pub condition: Condition,
    /// At most so many items.
    pub limit: Option<usize>,
    /// Also what was done again before.
    pub again: bool,
}

impl From<&UpgradeArgs> for Request {
    fn from(args: &UpgradeArgs) -> Self {
        let condition = args.condition.iter().cloned().fold(Condition::default(), Condition::and);
        Self { condition, limit: args.limit, again: args.again }
    }
}

impl Request {
    /// The items that are meant.
    async fn items(&self, store: &Store, model: &str) -> anyhow::Result<Vec<Doubtful>> {
        let mut items = store.doubtful(&self.condition, model, self.again).await?;
        items.truncate(self.limit.unwrap_or(usize::MAX));
        Ok(items)
    }
}

/// What the configured Whisper model will be called, without loading it.
fn target(config: &Config) -> String {
    match &config.whisper_model {
        ModelRef::Name(name) => name.clone(),
        ModelRef::Path(path) => {
            let name =
                path.canonicalize().ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
            name.unwrap_or_else(|| path.to_string_lossy().into_owned())
        }
    }
}

/// Says what would be done.
///
/// # Errors
/// The database's, or standard output's.
pub async fn dry_run(world: &World, request: &Request, json: bool) -> anyhow::Result<u8> {
    let model = target(&world.config);
    let items = request.items(&world.store, &model).await?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if json {
        let listed: Vec<_> = items
            .iter()
            .map(|d| {
                json!({"media_id": d.item.media_id, "title": d.item.title, "source": d.item.source, "model": d.model,
                       "doubted": d.doubted, "doubted_ms": d.doubted_ms, "segments": d.segments})
            })
            .collect();
        writeln!(out, "{}", json!({ "model": model, "items": listed }))?;
        return Ok(out.flush().map(|()| EXIT_OK)?);
    }
    for d in &items {
        let id: String = d.item.media_id.to_string().chars().take(8).collect();
        writeln!(
            out,
            "{}  {:>4} of {:>4} segments, {:>8}  {:<12}  {}",
            style(id).dim(),
            d.doubted,
            d.segments,
            figures::clock(d.doubted_ms.unsigned_abs()),
            sanitize(&d.model),
            sanitize(&d.item.title),
        )?;
    }
    out.flush()?;
    let doubted: i64 = items.iter().map(|d| d.doubted_ms).sum();
    eprintln!(
        "{} with {} of doubtful speech would be done again with {}",
        figures::count(items.len() as u64, "item"),
        figures::clock(doubted.unsigned_abs()),
        sanitize(&model)
    );
    Ok(EXIT_OK)
}

/// Does the doubtful items again.
///
/// # Errors
/// What keeps all of it from working: the database, the models. Failures of single items are in the summary.
pub async fn upgrade(
    world: &World,
    request: &Request,
    events: &Events,
    stopping: &Stopping,
) -> anyhow::Result<RunSummary> {
    let started = Instant::now();
    let store = &world.store;
    let notice = |message: String| events.send(Event::Noticed { warning: false, message });
    let options = steps::transcribe_options(&world.config)?;
    let expected = request.items(store, &target(&world.config)).await?;
    if expected.is_empty() {
        notice("nothing is doubtful in that way (or all of it was done again before)".to_owned());
        return Ok(RunSummary::default());
    }
    let sizes = Sizes {
        io_workers: AT_ONCE,
        asr_workers: steps::asr_workers(&world.config),
        db_workers: AT_ONCE,
        max_attempts: 1,
    };
    let meters = Meters::new(&sizes, 1);
    let transcriber = steps::load_transcriber(options, &meters, events);
    let embedders = models::embedders(world, events, &stopping.stop);
    let (transcriber, embedders) = tokio::try_join!(transcriber, embedders)?;
    // Only now is it known for certain what the model is called.
    let items = request.items(store, transcriber.model()).await?;
    for Doubtful { item, .. } in &items {
        events.send(Event::ItemQueued { media_id: item.media_id, title: item.title.clone() });
    }
    let net = steps::net(world, &Uuid::new_v4().to_string())?;
    let mut fetch = steps::fetch_options(&world.config, Role::All, &net, &stopping.stop);
    // Captions are no reason to leave the audio where it is.
    fetch.captions = None;
    let work = Upgrade {
        store,
        config: &world.config,
        condition: &request.condition,
        fetcher: Fetcher::new(fetch)?,
        decode: steps::decode_options(&world.config),
        room: Room::make(&world.config.data_dir.join("spool"))?,
        hearing: Semaphore::new(sizes.asr_workers),
        transcriber: Arc::new(transcriber),
        embedders,
        locks: Mutex::new(store.item_locks(LOCKS).await?),
        meters: &meters,
        events,
        stopping,
    };
    let mut all = futures::stream::iter(items).map(|item| work.item(item)).buffer_unordered(AT_ONCE);
    let mut result = Ok(());
    while let Some(done) = all.next().await {
        if let Err(error) = done {
            stopping.stop.cancel();
            result = result.and(Err(error));
        }
    }
    drop(all);
    let windows = work.transcriber.window_counts();
    work.locks.into_inner().close().await;
    result?;
    Ok(RunSummary {
        wall_ms: started.elapsed().as_millis() as u64,
        stages: vec![meters.io.summary(), meters.speech.summary(), meters.asr.summary(), meters.db.summary()],
        windows: windows.windows,
        windows_known: windows.known,
        interrupted: stopping.stop.is_cancelled(),
        ..events.tally()
    })
}

/// The name of the items' locks.
const LOCKS: &str = "upgrade";

/// What is needed to do an item again.
struct Upgrade<'a> {
    store: &'a Store,
    config: &'a Config,
    condition: &'a Condition,
    fetcher: Fetcher,
    decode: DecodeOptions,
    room: Room,
    /// Files whose speech is looked for at once.
    hearing: Semaphore,
    transcriber: Arc<Transcriber>,
    embedders: Embedders,
    locks: Mutex<ItemLocks>,
    meters: &'a Meters,
    events: &'a Events,
    stopping: &'a Stopping,
}

impl Upgrade<'_> {
    /// Does one item again, unless another process has it in hand or has done it.
    async fn item(&self, doubtful: Doubtful) -> anyhow::Result<()> {
        let stop = &self.stopping.stop;
        if stop.is_cancelled() {
            return Ok(());
        }
        let (media_id, title) = (doubtful.item.media_id, doubtful.item.title.clone());
        let skipped = |reason: &str| {
            let (title, reason) = (title.clone(), reason.to_owned());
            self.events.send(Event::ItemSkipped { media_id, title, reason });
        };
        if !self.take(&doubtful).await? {
            skipped("another process has it in hand");
            return Ok(());
        }
        let is_stored = patiently(stop, || self.store.is_stored(&doubtful.former)).await?;
        if !is_stored {
            self.leave(&doubtful).await;
            skipped("it was done again meanwhile");
            return Ok(());
        }
        let started = Instant::now();
        self.events.send(Event::ItemStarted { media_id, title: title.clone() });
        let dir = self.room.path().join(media_id.to_string());
        let done = self.again(&doubtful, &dir).await;
        let _ = std::fs::remove_dir_all(&dir);
        self.leave(&doubtful).await;
        match done {
            Ok(Some(transcript)) => {
                let (audio_ms, segments) = (transcript.duration_ms, transcript.segments.len());
                let flags = transcript.coverage.flags.clone();
                if !flags.is_empty() {
                    self.events.send(Event::ItemFlagged { media_id, title: title.clone(), flags });
                }
                let took_ms = started.elapsed().as_millis() as u64;
                self.events.send(Event::ItemFinished { media_id, title, audio_ms, segments, took_ms });
            }
            Ok(None) => skipped("it was done again meanwhile"),
            Err(_) if self.stopping.stop.is_cancelled() => {
                skipped("stopped before its end; it stays as it was")
            }
            Err(failure) => {
                let message = format!("{}; the transcript stays as it was", failure.message);
                let (class, remedy, source) = (failure.class, failure.remedy, doubtful.item.source.clone());
                self.events.send(Event::ItemFailed { media_id, title, source, class, message, remedy });
            }
        }
        Ok(())
    }

    async fn take(&self, doubtful: &Doubtful) -> anyhow::Result<bool> {
        let mut locks = self.locks.lock().await;
        loop {
            match locks.take(doubtful.item.media_id).await {
                Ok(taken) => return Ok(taken),
                Err(error) if error.is_transient() && !self.stopping.stop.is_cancelled() => {
                    tracing::debug!(%error, "the locks of items are gone; making new ones");
                    *locks = patiently(&self.stopping.stop, || self.store.item_locks(LOCKS)).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn leave(&self, doubtful: &Doubtful) {
        // Gone with its connection at the latest.
        let _ = self.locks.lock().await.leave(doubtful.item.media_id).await;
    }

    /// Fetches, hears what is doubted, embeds, and puts it in the place of what is stored; none where others were faster.
    async fn again(&self, doubtful: &Doubtful, dir: &Path) -> Result<Option<Transcript>, Failure> {
        let stop = &self.stopping.stop;
        let item = &doubtful.item;
        let media_id = item.media_id;
        let busy = self.meters.io.busy();
        let fetched = self.fetcher.fetch(item, dir, self.events, stop).await?;
        std::fs::create_dir_all(dir)
            .map_err(|e| Failure::of_disk(format_args!("failed to create {}", dir.display()), &e))?;
        let expected = fetched.metadata.duration_ms.or(item.duration_ms);
        // Only captions, which were not asked for, do without.
        let path =
            fetched.path.ok_or_else(|| Failure::new(FailureClass::Internal, "no audio was brought"))?;
        let audio = self.decode(item.media_id, path, dir.join("audio.pcm"), expected).await?;
        drop(busy);
        self.meters.io.finished();
        let (transcript, upgraded) = self.hear(doubtful, &audio).await?;
        let busy = self.meters.db.busy();
        let stored = self.write(doubtful, &fetched.metadata, &transcript, &upgraded).await?;
        drop(busy);
        self.meters.db.finished();
        tracing::debug!(%media_id, kept = upgraded.kept, "done again");
        Ok(stored.then_some(transcript))
    }

    async fn decode(
        &self,
        media_id: MediaId,
        input: PathBuf,
        output: PathBuf,
        expected: Option<i64>,
    ) -> Result<Audio, Failure> {
        let (events, limits) = (self.events.clone(), self.decode.clone());
        let cancel = self.stopping.stop.clone();
        tokio::task::spawn_blocking(move || {
            let mut progress = events.progress(media_id, Step::Decode);
            decode::decode(&input, &output, &limits, expected, &mut progress, &cancel)
        })
        .await
        .map_err(|e| Failure::new(FailureClass::Internal, format!("decoding stopped unexpectedly: {e}")))?
    }

    /// Hears the windows that are doubted, or all of them where the others were not kept.
    async fn hear(&self, doubtful: &Doubtful, audio: &Audio) -> Result<(Transcript, Upgraded), Failure> {
        let media_id = doubtful.item.media_id;
        let database = |e: StoreError| Failure::new(FailureClass::Internal, e.to_string());
        let stored = patiently(&self.stopping.stop, || self.store.log_probabilities(media_id))
            .await
            .map_err(database)?;
        let written_in_english = self.config.whisper_task == Task::Translate;
        let believed = self.transcriber.believed(audio, &stored, |figures| {
            self.condition.doubts(&WindowFigures {
                avg_logprob: figures.avg_logprob,
                no_speech_prob: figures.no_speech_prob,
                language: if written_in_english { "en" } else { figures.language },
            })
        });
        let believed = Some(believed).filter(|b| self.condition.is_of_segments() && !b.is_empty());
        let Ok(_permit) = self.hearing.acquire().await else {
            return Err(Failure::new(FailureClass::Internal, "stopped"));
        };
        let (told, heard) = oneshot::channel();
        let submit = {
            let (transcriber, audio) = (self.transcriber.clone(), audio.clone());
            let (events, cancel) = (self.events.clone(), self.stopping.stop.clone());
            let (believed, language) = (believed.clone(), doubtful.language_wanted.clone());
            move || {
                // Who asked waits for the answer, and has gone only with the whole program.
                let done = Box::new(move |transcript| drop(told.send(transcript)));
                transcriber.submit_believing(
                    believed,
                    language.as_deref(),
                    media_id,
                    &audio,
                    &events,
                    &cancel,
                    done,
                );
            }
        };
        let submitted = tokio::task::spawn_blocking(submit).await;
        submitted.map_err(|e| Failure::new(FailureClass::Internal, format!("transcribing stopped: {e}")))?;
        let mut transcript: Transcript =
            heard.await.map_err(|_| Failure::new(FailureClass::Internal, "transcribing stopped"))??;
        let kept = believed.map_or(0, |b| b.used());
        let model = transcript.model.clone();
        if kept > 0 {
            transcript.model = joined(&doubtful.model, &model);
        }
        let upgraded = Upgraded { model, from_model: doubtful.model.clone(), kept };
        Ok((transcript, upgraded))
    }

    /// Embeds and stores; false where what was to be replaced is not there any more.
    async fn write(
        &self,
        doubtful: &Doubtful,
        metadata: &Metadata,
        transcript: &Transcript,
        upgraded: &Upgraded,
    ) -> Result<bool, Failure> {
        let (media_id, stop) = (doubtful.item.media_id, &self.stopping.stop);
        let title = metadata.title.as_deref().unwrap_or(&doubtful.item.title);
        let channel = metadata.channel.as_deref().or(doubtful.channel.as_deref());
        let heading = Heading::new(title, channel);
        let mut embedder = self.embedders.current();
        loop {
            let usual = PassageOptions::default();
            let max_tokens = usual.max_tokens.min(embedder.room(&heading));
            let options = PassageOptions { max_tokens, ..usual };
            let passages = embed::passages(&transcript.segments, &options, |text| embedder.tokens(text));
            let mut progress = self.events.progress(media_id, Step::Embed);
            let total = passages.len() as u64;
            progress.set(0, Some(total));
            let texts = passages.iter().map(|p| p.text.clone()).collect();
            let vectors = embedder.embed_under(&heading, texts).await?;
            progress.set(total, Some(total));
            let embedding = identity(&embedder);
            let results = Results {
                metadata,
                transcript,
                passages: &passages,
                vectors: &vectors,
                embedding: &embedding,
            };
            let replaced = patiently(stop, || self.store.replace(&doubtful.former, &results, upgraded)).await;
            match replaced {
                Ok(()) => return Ok(true),
                Err(SaveError::LeaseLost) => return Ok(false),
                Err(SaveError::OtherModel { answers, .. }) => {
                    embedder = self.embedders.change_to(&answers).await?;
                }
                Err(error) => return Err(Failure::new(FailureClass::Internal, error.to_string())),
            }
        }
    }
}

/// What a transcript names as its model of which `new` heard some windows and `former` the others: `small+large-v3`.
fn joined(former: &str, new: &str) -> String {
    if former.split('+').any(|part| part == new) { former.to_owned() } else { format!("{former}+{new}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_of_two_models_names_both() {
        assert_eq!(joined("small", "large-v3"), "small+large-v3");
        assert_eq!(joined("small+large-v3", "large-v3"), "small+large-v3");
        assert_eq!(joined("small+medium", "large-v3"), "small+medium+large-v3");
    }
}

//! `spoken import`: transcripts that exist already, by the same path into the library as all others.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use async_channel::unbounded;
use futures::StreamExt;
use serde::Serialize;
use walkdir::WalkDir;

use super::{listing, models, world::World};
use crate::cli::{EXIT_FAILED, EXIT_OK, ImportArgs};
use crate::embed::{self, Embedder, Heading, PassageOptions};
use crate::import::{self, ImportError, Imported};
use crate::media::{Item, Locator, MediaId, State};
use crate::source::{Found, Lister};
use crate::store::{Claim, Claimed, Results, SaveError, Selection, Upserted};
use crate::telemetry::sanitize;
use crate::web::media_extension;

/// Files read, embedded and written at a time.
const AT_A_TIME: usize = 4;

/// How long the words of what was brought in may be learnt at the end; searches learn the rest.
const LEARN: Duration = Duration::from_secs(20);

/// What became of all files.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Summary {
    done: usize,
    known: usize,
    skipped: usize,
    failed: usize,
    segments: usize,
}

/// `spoken import`.
///
/// # Errors
/// The embedding model's, the database's, or standard output's; what is wrong with single files is told and counted.
pub async fn import(world: &World, args: &ImportArgs) -> anyhow::Result<u8> {
    let embedder = models::for_writing(world).await?;
    let lister = Lister::new(listing::source_options(world, &uuid::Uuid::new_v4().to_string())?)?;
    let (mut summary, mut files) = (Summary::default(), Vec::new());
    for source in &args.sources {
        match files_in(source) {
            Ok(found) => files.extend(found.into_iter().map(|file| (source, file))),
            Err(error) => {
                summary.failed += 1;
                eprintln!("{}", sanitize(&format!("{error:#}")));
            }
        }
    }
    let bringer = Bringer { world, embedder: &embedder, lister: &lister, language: args.language.as_deref() };
    let mut brought = futures::stream::iter(files)
        .map(|(source, file)| {
            let bringer = &bringer;
            async move { (bringer.bring(source, &file).await, *source != file, file) }
        })
        .buffered(AT_A_TIME);
    while let Some((outcome, met, file)) = brought.next().await {
        match outcome {
            Ok(Some(segments)) => {
                summary.done += 1;
                summary.segments += segments;
            }
            Ok(None) => summary.known += 1,
            // Folders hold JSON of many kinds.
            Err(error) if met && matches!(error.downcast_ref(), Some(ImportError::Json(_))) => {
                summary.skipped += 1;
            }
            Err(error) => {
                summary.failed += 1;
                eprintln!("{}", sanitize(&format!("failed to bring in {}: {error:#}", file.display())));
            }
        }
    }
    if summary.done > 0 {
        world.store.learn_words(LEARN).await?;
    }
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        let Summary { done, known, skipped, failed, segments } = summary;
        let skipped = if skipped > 0 { format!(", {skipped} no transcripts") } else { String::new() };
        eprintln!("{done} brought in ({segments} segments), {known} known before{skipped}, {failed} failed");
    }
    Ok(if summary.failed > 0 { EXIT_FAILED } else { EXIT_OK })
}

/// The file itself, or what a folder holds, in the order of names.
fn files_in(source: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let metadata =
        std::fs::metadata(source).with_context(|| format!("failed to read {}", source.display()))?;
    if !metadata.is_dir() {
        return Ok(vec![source.to_owned()]);
    }
    let ours = |path: &Path| {
        path.extension()
            .and_then(|e| e.to_str())
            .is_some_and(|e| import::ENDINGS.iter().any(|ending| e.eq_ignore_ascii_case(ending)))
    };
    let entries = WalkDir::new(source).sort_by_file_name().into_iter();
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("failed to look through {}", source.display()))?;
        if entry.file_type().is_file() && ours(entry.path()) {
            files.push(entry.into_path());
        }
    }
    Ok(files)
}

/// What every file needs.
struct Bringer<'a> {
    world: &'a World,
    embedder: &'a Embedder,
    lister: &'a Lister,
    language: Option<&'a str>,
}

impl Bringer<'_> {
    /// Brings one file in; its number of segments, or `None` where the item is done or in work already.
    async fn bring(&self, source: &Path, file: &Path) -> anyhow::Result<Option<usize>> {
        let imported = self.read(file).await?;
        let item = match beside(file) {
            Some(medium) => self.medium(&medium).await?,
            None => item(file, &imported)?,
        };
        let store = &self.world.store;
        let listed_in = std::path::absolute(source).unwrap_or_else(|_| source.to_owned());
        match store.upsert(&item, &listed_in.to_string_lossy()).await? {
            Upserted::Known { state: State::Done | State::Active, .. } => return Ok(None),
            Upserted::Known { state: State::Failed, .. } => {
                store.retry(&Selection::Ids(vec![item.media_id])).await?;
            }
            Upserted::Removed => {
                anyhow::bail!(
                    "it was removed before; `spoken remove --forget {}` lets it in again",
                    item.media_id
                )
            }
            Upserted::New | Upserted::Known { state: State::Queued, .. } => {}
        }
        let Claim::Work(work) = store.claim(item.media_id, "import").await? else { return Ok(None) };
        let stored = self.write(&item.title, &work.claimed, &imported).await;
        if stored.is_err() {
            // Best effort: whoever claims it next takes it over in any case.
            let _ = store.release(&work.claimed).await;
        }
        stored.map(|()| Some(imported.transcript.segments.len()))
    }

    async fn read(&self, file: &Path) -> anyhow::Result<Imported> {
        let size = tokio::fs::metadata(file).await?.len();
        anyhow::ensure!(size <= import::MAX_BYTES, "it is larger than {} MiB", import::MAX_BYTES >> 20);
        let bytes = tokio::fs::read(file).await?;
        Ok(import::read(file, &String::from_utf8_lossy(&bytes), self.language)?)
    }

    /// The item that a medium is.
    async fn medium(&self, path: &Path) -> anyhow::Result<Item> {
        let (out, found) = unbounded();
        self.lister.list(&path.to_string_lossy(), None, &out).await;
        out.close();
        while let Ok(found) = found.recv().await {
            match found {
                Found::Item { item, .. } => return Ok(item),
                Found::Failed { failure, .. } => anyhow::bail!("the medium beside it: {}", failure.message),
                Found::Notice(_) => {}
            }
        }
        anyhow::bail!("the medium beside it, {}, cannot be read", path.display())
    }

    async fn write(&self, title: &str, claimed: &Claimed, imported: &Imported) -> anyhow::Result<()> {
        let Imported { transcript, metadata, .. } = imported;
        let embedder = self.embedder;
        let heading = Heading::new(metadata.title.as_deref().unwrap_or(title), metadata.channel.as_deref());
        let usual = PassageOptions::default();
        let options = PassageOptions { max_tokens: usual.max_tokens.min(embedder.room(&heading)), ..usual };
        let passages = embed::passages(&transcript.segments, &options, |text| embedder.tokens(text));
        let texts = passages.iter().map(|p| p.text.clone()).collect();
        let vectors = embedder.embed_under(&heading, texts).await?;
        let embedding = models::identity(embedder);
        let results =
            Results { metadata, transcript, passages: &passages, vectors: &vectors, embedding: &embedding };
        match self.world.store.complete_answering(claimed, &results).await {
            Ok(()) => Ok(()),
            Err(SaveError::LeaseLost) => anyhow::bail!("another process is working on the same item"),
            Err(error) => Err(error.into()),
        }
    }
}

/// The medium of the same name, if one lies beside the file: `talk.mp4` of `talk.srt` or `talk.en.srt`.
fn beside(file: &Path) -> Option<PathBuf> {
    let stem = file.file_stem()?;
    let stems = [Path::new(stem), Path::new(Path::new(stem).file_stem()?)];
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut media: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| media_extension(&path.to_string_lossy()) && path.is_file())
        .collect();
    media.sort();
    stems.iter().find_map(|stem| {
        media.iter().find(|path| path.file_stem().is_some_and(|s| Path::new(s) == *stem)).cloned()
    })
}

/// The item that a transcript without a medium stands for: the one it names, else itself.
fn item(file: &Path, imported: &Imported) -> anyhow::Result<Item> {
    let path = std::path::absolute(file).with_context(|| format!("failed to find {}", file.display()))?;
    let title = imported.metadata.title.clone();
    let stem = || file.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    let named = imported.locator();
    let source = match (&named, &imported.source) {
        (Some(_), Some(source)) => source.clone(),
        _ => path.to_string_lossy().into_owned(),
    };
    let (media_id, source_id) = match imported.media_id {
        Some(id) => (id, id.to_string()),
        None => {
            // What was said, and where: the same file in another folder is the same item.
            let mut hash = blake3::Hasher::new();
            for segment in &imported.transcript.segments {
                hash.update(&segment.start_ms.to_le_bytes()).update(segment.text.as_bytes());
            }
            let id = hash.finalize().to_hex().to_string();
            (MediaId::new("transcript", &id), id)
        }
    };
    Ok(Item {
        media_id,
        extractor: "transcript".into(),
        source_id,
        locator: named.unwrap_or(Locator::File(path)),
        source,
        title: title.unwrap_or_else(stem),
        duration_ms: Some(imported.transcript.duration_ms),
    })
}

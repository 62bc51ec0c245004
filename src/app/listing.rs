//! Between the sources and the queue: what is found becomes rows and jobs, once each, within the limit of the run.

use std::collections::{HashMap, HashSet};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::Relaxed},
};
use std::time::Duration;

use async_channel::Receiver;
use futures::{StreamExt, TryStreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ingest::Request;
use super::patience::{MayPass, patiently};
use super::steps;
use super::world::World;
use crate::decode;
use crate::event::{Event, Events};
use crate::media::{Failure, FailureClass, Item, MediaId, State};
use crate::queue::place::{self, Lane, Line};
use crate::queue::{Entry, Queue};
use crate::source::{FileStamp, Found, KnownFiles, Lister, SourceOptions, without_credentials};
use crate::store::{ItemFilter, Selection, Store, Upserted};

/// Items noted in one statement.
const BATCH: usize = 200;

/// Sources listed at once. One that is slow to answer does not hold up the others.
const SOURCES: usize = 6;

/// Lists the sources of one run.
pub struct Listing {
    lister: Lister,
    store: Store,
    queue: Arc<Queue>,
    events: Events,
    stop: CancellationToken,
    /// New items this run may take, and how many it took.
    limit: usize,
    taken: AtomicUsize,
    /// Told of in this run already: an item found through two sources is one item.
    told: Mutex<HashSet<MediaId>>,
    /// How far each source reaches so far.
    lines: Mutex<HashMap<String, Line>>,
}

impl Listing {
    /// A listing that fills `queue`; ends early when `stop` is cancelled.
    ///
    /// # Errors
    /// Where the HTTP client cannot be made.
    pub fn new(
        world: &World,
        queue: Arc<Queue>,
        events: Events,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            lister: Lister::new(source_options(world, &queue.worker_id().to_string())?)?,
            store: world.store.clone(),
            queue,
            events,
            stop,
            limit: world.config.ingestion_limit,
            taken: AtomicUsize::new(0),
            told: Mutex::default(),
            lines: Mutex::default(),
        })
    }

    /// Lists everything; a message goes to `work` as soon as there is something to do.
    ///
    /// # Errors
    /// The database's. What is wrong with a source or an item is an event and a row.
    pub async fn run(self, request: Request, work: mpsc::Sender<()>) -> anyhow::Result<()> {
        self.tell_waiting().await?;
        let Request { sources, stdin, first } = request;
        let lane = if first { Lane::First } else { Lane::Ordinary };
        let listing = futures::stream::iter(sources).map(Ok).try_for_each_concurrent(SOURCES, |source| {
            let (this, stdin, work) = (&self, stdin.as_deref(), work.clone());
            async move { this.source(&source, stdin, lane, &work).await }
        });
        tokio::select! {
            listed = listing => listed,
            () = self.stop.cancelled() => Ok(()),
        }
    }

    /// What earlier runs left counts as part of this one.
    async fn tell_waiting(&self) -> anyhow::Result<()> {
        for state in [State::Queued, State::Active] {
            let mut rows = self.store.items(&ItemFilter { state: Some(state), ..ItemFilter::default() });
            while let Some(row) = rows.try_next().await? {
                self.tell_queued(row.media_id, row.title);
            }
        }
        Ok(())
    }

    async fn source(
        &self,
        source: &str,
        stdin: Option<&str>,
        lane: Lane,
        work: &mpsc::Sender<()>,
    ) -> anyhow::Result<()> {
        // What is told and stored of it. The lister sees, and refuses, credentials.
        let shown = without_credentials(source);
        // Little room: hashing and asking go no further ahead than what is noted.
        let (out, found) = async_channel::bounded(BATCH);
        let noting = async {
            let (mut items, mut new) = (0, 0);
            while let Some(batch) = next_batch(&found).await {
                let (more_items, more_new) = self.note(&shown, batch, lane, work).await?;
                items += more_items;
                new += more_new;
            }
            anyhow::Ok((items, new))
        };
        let listing = async {
            self.lister.list(source, stdin, &out).await;
            out.close();
        };
        let ((), noted) = tokio::join!(listing, noting);
        let (items, new) = noted?;
        self.events.send(Event::SourceListed { source: shown.into_owned(), items, new });
        Ok(())
    }

    /// Notes a batch; how many items there were, and how many of them were new.
    async fn note(
        &self,
        source: &str,
        batch: Vec<Found>,
        lane: Lane,
        work: &mpsc::Sender<()>,
    ) -> anyhow::Result<(usize, usize)> {
        let (mut items, mut stamps) = (Vec::new(), Vec::new());
        for found in batch {
            match found {
                Found::Item { item, stamp, .. } => {
                    stamps.extend(stamp.map(|s| (s, item.media_id)));
                    items.push(item);
                }
                Found::Failed { item, failure } => self.note_failure(&item, failure, source).await?,
                Found::Notice(message) => self.events.send(Event::Noticed { warning: true, message }),
            }
        }
        let found = items.len();
        let items = self.within_limit(items).await?;
        let noted = self.patiently(|| self.store.upsert_many(&items, source)).await?;
        if !items.is_empty() && source.contains("://") {
            let ids: Vec<MediaId> = items.iter().map(|item| item.media_id).collect();
            self.patiently(|| self.store.forget_failed_listing(source, &ids)).await?;
        }
        for (FileStamp { path, size, mtime_ns }, media_id) in &stamps {
            self.patiently(|| self.store.remember_file(path, *size, *mtime_ns, *media_id)).await?;
        }
        let sizes: HashMap<MediaId, u64> = stamps.iter().map(|(stamp, id)| (*id, stamp.size)).collect();
        let (mut jobs, mut again, mut waiting, mut new) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (item, noted) in items.into_iter().zip(noted) {
            match noted {
                Upserted::New => {
                    new += 1;
                    let expected = place::expected(item.duration_ms, sizes.get(&item.media_id).copied());
                    jobs.push(Entry {
                        handicap: self.place(source, expected),
                        ..Entry::new(item.media_id, 0)
                    });
                    self.tell_queued(item.media_id, item.title);
                }
                Upserted::Known { state: State::Queued | State::Active, .. } => {
                    waiting.push(item.media_id);
                    self.tell_queued(item.media_id, item.title);
                }
                Upserted::Known { class: Some(FailureClass::Cancelled), .. } => {
                    self.tell_skipped(item, "cancelled; `spoken retry` brings it back")
                }
                Upserted::Known { state: State::Done, .. } => self.tell_skipped(item, "done before"),
                Upserted::Known { state: State::Failed, class } if class.is_none_or(worth_another_try) => {
                    again.push(item.media_id);
                    self.tell_queued(item.media_id, item.title);
                }
                Upserted::Known { state: State::Failed, class } => {
                    self.tell_failed_before(item, class).await?
                }
                Upserted::Removed => {
                    let reason = format!(
                        "removed before; `spoken remove --forget {}` lets it in again",
                        item.media_id
                    );
                    self.tell_skipped(item, &reason);
                }
            }
        }
        let again = Selection::Ids(again);
        let again = self.patiently(|| self.store.retry(&again)).await?;
        jobs.extend(again.iter().map(|r| Entry::new(r.media_id, r.generation)));
        if lane == Lane::First && !waiting.is_empty() {
            let control = self.queue.control();
            self.patiently(|| control.bump(&waiting)).await?;
        }
        if !jobs.is_empty() {
            self.patiently(|| self.queue.enqueue_entries(&jobs, lane)).await?;
            let _ = work.try_send(());
        }
        Ok((found, new))
    }

    /// Where the next item of `source`, which plays for `expected`, stands in line.
    fn place(&self, source: &str, expected: Duration) -> Duration {
        let mut lines = self.lines.lock().unwrap_or_else(|e| e.into_inner());
        lines.entry(source.to_owned()).or_default().place(expected)
    }

    /// Leaves out new items beyond the limit of this run; they stay unknown, so that the next run finds them new.
    async fn within_limit(&self, items: Vec<Item>) -> anyhow::Result<Vec<Item>> {
        if self.limit == 0 {
            return Ok(items);
        }
        let ids: Vec<MediaId> = items.iter().map(|i| i.media_id).collect();
        let known = self.patiently(|| self.store.states(&ids)).await?;
        let mut known: HashSet<MediaId> = known.into_keys().collect();
        let mut kept = Vec::with_capacity(items.len());
        for item in items {
            let within = known.contains(&item.media_id)
                || self.taken.fetch_update(Relaxed, Relaxed, |n| (n < self.limit).then_some(n + 1)).is_ok();
            if within {
                known.insert(item.media_id);
                kept.push(item);
            } else {
                self.tell_skipped(
                    item,
                    &format!("over the limit of this run (INGESTION_LIMIT={})", self.limit),
                );
            }
        }
        Ok(kept)
    }

    /// A source that cannot be an item: noted, so that `status` shows it and a later success replaces it.
    async fn note_failure(&self, item: &Item, failure: Failure, source: &str) -> anyhow::Result<()> {
        let noted = self.patiently(|| self.store.record_failure(item, &failure, source)).await?;
        if let Upserted::Known { state: State::Done, .. } = noted {
            let message = format!("{}: {failure}; it was stored earlier", item.source);
            self.events.send(Event::Noticed { warning: true, message });
        } else if noted != Upserted::Removed && self.first_time(item.media_id) {
            let Failure { class, message, remedy, .. } = failure;
            let (media_id, title, source) = (item.media_id, item.title.clone(), item.source.clone());
            self.events.send(Event::ItemFailed { media_id, title, source, class, message, remedy });
        }
        Ok(())
    }

    async fn tell_failed_before(&self, item: Item, class: Option<FailureClass>) -> anyhow::Result<()> {
        if !self.first_time(item.media_id) {
            return Ok(());
        }
        let row = self.patiently(|| self.store.media(item.media_id)).await?;
        let (error, remedy) = row.map_or((None, None), |r| (r.error, r.remedy));
        self.events.send(Event::ItemFailed {
            media_id: item.media_id,
            title: item.title,
            source: item.source,
            class: class.unwrap_or(FailureClass::Internal),
            message: format!("failed before: {}", error.unwrap_or_default()),
            remedy: remedy.or_else(|| Some(format!("spoken retry {}", item.media_id))),
        });
        Ok(())
    }

    /// As [`patiently`], until this listing is to stop.
    async fn patiently<T, E: MayPass, F: Future<Output = Result<T, E>>>(
        &self,
        ask: impl FnMut() -> F,
    ) -> Result<T, E> {
        patiently(&self.stop, ask).await
    }

    fn tell_queued(&self, media_id: MediaId, title: String) {
        if self.first_time(media_id) {
            self.events.send(Event::ItemQueued { media_id, title });
        }
    }

    fn tell_skipped(&self, item: Item, reason: &str) {
        if self.first_time(item.media_id) {
            let (media_id, title) = (item.media_id, item.title);
            self.events.send(Event::ItemSkipped { media_id, title, reason: reason.to_owned() });
        }
    }

    fn first_time(&self, media_id: MediaId) -> bool {
        self.told.lock().unwrap_or_else(|e| e.into_inner()).insert(media_id)
    }
}

/// Asked for again by name, an item is tried again where time or a repaired set-up may have helped.
fn worth_another_try(class: FailureClass) -> bool {
    class.is_transient()
        || matches!(class, FailureClass::Setup | FailureClass::Unreadable | FailureClass::NotYet)
}

/// How sources are listed, as configured, by a worker of this name.
///
/// # Errors
/// Cookies that cannot be read, limits of sites that cannot be understood.
pub(super) fn source_options(world: &World, worker: &str) -> anyhow::Result<SourceOptions> {
    let config = &world.config;
    let net = steps::net(world, worker)?;
    let mut options =
        SourceOptions::new(Arc::new(|path| decode::recognise(path).map(drop)), steps::ytdlp(config, &net));
    options.exclude.push(config.data_dir.clone());
    options.known = Arc::new(Known { store: world.store.clone(), runtime: Handle::current() });
    Ok(options)
}

/// Waits for one, then takes what is there.
async fn next_batch(found: &Receiver<Found>) -> Option<Vec<Found>> {
    let mut batch = vec![found.recv().await.ok()?];
    while batch.len() < BATCH
        && let Ok(next) = found.try_recv()
    {
        batch.push(next);
    }
    Some(batch)
}

/// The store's memory of files, for the blocking threads that hash.
struct Known {
    store: Store,
    runtime: Handle,
}

impl KnownFiles for Known {
    fn hash_of(&self, stamp: &FileStamp) -> Option<String> {
        self.runtime.block_on(async {
            let known = self.store.known_file(&stamp.path, stamp.size, stamp.mtime_ns).await;
            let row = match known {
                Ok(Some(media_id)) => self.store.media(media_id).await.ok().flatten()?,
                Ok(None) => return None,
                Err(error) => {
                    tracing::debug!(%error, "failed to look up a file; its content is read again");
                    return None;
                }
            };
            (row.extractor == "file").then_some(row.source_id)
        })
    }
}

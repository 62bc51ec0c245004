//! One look into a source of each kind, and what becomes of each entry that is new there.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::StreamExt;
use url::Url;

use super::known::{feed_entry, is_for_members, newly_keyed, unseen};
use super::{Checker, Looked, Numbers, Stop};
use crate::event::Event;
use crate::media::{Failure, FailureClass, Item, Locator, MediaId};
use crate::source::rules::{Judge, Rules, Verdict};
use crate::source::{About, Answer, FileStamp, Found, Reading, Validators, facts_are_cheap, is_newest_first};
use crate::store::sources::{Checked, DueEntry, Fate, KnownEntry, Seen, Source, SourceKind};
use crate::web::{self, Probed};

/// All of a long list is read after so many days.
const FULL_EVERY_DAYS: f64 = 30.0;
/// Entries read of a list that is not read whole.
const RECENT: usize = 100;
/// Lists that are in no known order are read whole each time up to so many entries: what is new may stand at their end.
const WHOLE_UP_TO: usize = 200;
/// Pages of new entries asked or opened in one check; the others' turn comes at a later one.
const PAGES: usize = 20;
/// When that is, at the earliest: a site notices who asks for page after page.
const MORE_PAGES: Duration = Duration::from_secs(1800);
/// Pages asked at once.
const PAGES_AT_ONCE: usize = 3;
/// A file that was written to within this time may still grow.
const SETTLE: Duration = Duration::from_secs(30);
/// When a folder in which files grow is looked at again.
const GROWN: Duration = Duration::from_secs(60);
/// When a page that did not answer is asked again.
const PAGE_AGAIN: Duration = Duration::from_secs(3600);
/// One check.
pub(super) struct Looking<'a> {
    checker: &'a Checker,
    judge: Judge,
    rules: Rules,
    /// The database's clock.
    now: DateTime<Utc>,
    /// Pages that may still be asked.
    pages: AtomicUsize,
}

impl<'a> Looking<'a> {
    /// A check by these rules, at the time `now` of the database's clock.
    ///
    /// # Errors
    /// Rules that cannot be applied.
    pub(super) fn new(checker: &'a Checker, rules: Rules, now: DateTime<Utc>) -> Result<Self, Failure> {
        let judge = Judge::new(rules.clone()).map_err(|e| Failure::new(FailureClass::Setup, e))?;
        Ok(Self { checker, judge, rules, now, pages: AtomicUsize::new(PAGES) })
    }
}

impl Looking<'_> {
    pub(super) async fn feed(&self, source: &Source, url: &Url, full: bool) -> Result<Looked, Stop> {
        let known = Validators { etag: source.etag.clone(), last_modified: source.last_modified.clone() };
        // Asked to look at all of it, we want to see it.
        let known = if full { Validators::default() } else { known };
        match self.checker.lister.read_feed(url, &known).await? {
            Answer::Unchanged => {
                // What waits is looked at all the same.
                let mut looked = self.decide(source, Vec::new()).await?;
                looked.checked.result = match looked.checked.entries.is_empty() {
                    true => "unchanged".to_owned(),
                    false => looked.numbers.in_words(),
                };
                looked.unchanged = true;
                Ok(looked)
            }
            Answer::Feed(feed) => {
                let validators = (feed.validators.etag.clone(), feed.validators.last_modified.clone());
                let entries: Vec<(Item, About)> = feed.entries.into_iter().map(feed_entry).collect();
                let mut looked = self.decide(source, entries).await?;
                looked.checked.kind = Some(SourceKind::Feed);
                looked.checked.validators = Some(validators);
                looked.checked.full = true;
                Ok(looked)
            }
            Answer::Other(Probed::Media) => Err(Failure::new(
                FailureClass::NotMedia,
                format!("{} is one media file, not a source of many", web::shown(url)),
            )
            .with_remedy("bring it in with `spoken ingest`, and remove the source")
            .into()),
            Answer::Other(_) if source.kind == Some(SourceKind::Feed) => Err(Failure::new(
                FailureClass::NotMedia,
                format!("{} was a feed and now answers with something else", web::shown(url)),
            )
            .with_remedy("look at the address in a browser; if the feed has moved, add its new address")
            .into()),
            Answer::Other(_) => self.list(source, url, full).await,
        }
    }

    pub(super) async fn list(&self, source: &Source, url: &Url, full: bool) -> Result<Looked, Stop> {
        let known = self.checker.store.known_entries(source.id).await?;
        let newest_first = is_newest_first(url);
        let overdue = source.full_days_ago.is_none_or(|days| days >= FULL_EVERY_DAYS);
        let whole = full || overdue || (!newest_first && known.len() <= WHOLE_UP_TO);
        let known = Arc::new(known);
        let reading = Reading {
            first: (!whole).then_some(RECENT),
            known: (!whole && newest_first).then(|| {
                let known = known.clone();
                // One that waits to be for all does not tell where the known ones begin.
                Arc::new(move |id: MediaId| known.get(&id).is_some_and(|entry| !is_for_members(entry)))
                    as Arc<dyn Fn(MediaId) -> bool + Send + Sync>
            }),
            no_shorts: !self.rules.shorts,
        };
        let (out, found) = async_channel::bounded(256);
        let listing = async {
            self.checker.lister.read_list(url.clone(), reading, &out).await;
            out.close();
        };
        let sorting = async {
            let (mut items, mut failed) = (Vec::new(), Vec::new());
            while let Ok(one) = found.recv().await {
                match one {
                    Found::Item { item, about, .. } => items.push((item, about)),
                    Found::Failed { item, failure } => failed.push((item, failure)),
                    Found::Notice(message) => {
                        self.checker.events.send(Event::Noticed { warning: false, message });
                    }
                }
            }
            (items, failed)
        };
        let ((), (items, failed)) = tokio::join!(listing, sorting);
        let mut items = items;
        let own = web::normalise(url);
        let mut trouble = None;
        for (item, failure) in failed {
            let itself =
                matches!(&item.locator, Locator::Url(at) | Locator::Page(at) if web::normalise(at) == own);
            if itself {
                trouble = Some(failure);
            } else {
                // As unopened: what became of it is noted, and asked again where that may help.
                items.push((item, About { unopened: true, ..About::default() }));
            }
        }
        if let Some(failure) = trouble {
            // Part of a list is worth as much as it holds, but nobody may think that this was all.
            if items.is_empty() {
                return Err(failure.into());
            }
            let message = format!("{}: listed in part: {failure}", source.name);
            self.checker.events.send(Event::Noticed { warning: true, message });
            let mut looked = self.decide_known(source, items, &known).await?;
            looked.checked.kind = Some(SourceKind::List);
            return Ok(looked);
        }
        let mut looked = self.decide_known(source, items, &known).await?;
        looked.checked.kind = Some(SourceKind::List);
        looked.checked.full = whole;
        Ok(looked)
    }

    pub(super) async fn folder(&self, source: &Source, path: &Path) -> Result<Looked, Stop> {
        let known = self.checker.store.known_entries(source.id).await?;
        let seen = |stamp: &FileStamp| {
            known
                .get(&path_id(&stamp.path))
                .is_some_and(|entry| entry.file == Some((stamp.size, stamp.mtime_ns)))
        };
        let looked = self.checker.lister.look_through(path, &seen, SETTLE).await?;
        for problem in looked.problems {
            let message = match problem {
                Found::Failed { failure, .. } => format!("{}: {failure}", source.name),
                Found::Notice(message) => message,
                Found::Item { .. } => continue,
            };
            self.checker.events.send(Event::Noticed { warning: true, message });
        }
        let mut numbers = Numbers { entries: looked.files, growing: looked.growing, ..Numbers::default() };
        let mut entries = Vec::new();
        for (stamp, found) in looked.new {
            let file = Some((path_id(&stamp.path), stamp.size, stamp.mtime_ns));
            let published_at = Some(stamp.mtime_ns.div_euclid(1_000_000_000));
            let (item, fate) = match found {
                Some(Found::Item { item, .. }) => {
                    let about = About { published_at, ..About::default() };
                    let fate = match self.judge.judge(&item.title, &about, self.now, true) {
                        Verdict::Take | Verdict::Ask => Fate::Ready,
                        Verdict::Leave(reason) => Fate::Left(reason),
                        Verdict::Wait { reason, after } => Fate::Waiting { reason, after },
                    };
                    (item, fate)
                }
                Some(Found::Failed { item, failure }) => (item, Fate::Left(failure.message)),
                Some(Found::Notice(_)) => continue,
                None => (path_item(&stamp.path), Fate::Left("no media in it".to_owned())),
            };
            // What is no media by its name either is no news.
            if fate == Fate::Ready {
                numbers.wanted += 1;
            } else if web::media_extension(&item.source) {
                numbers.left += 1;
            }
            entries.push(Seen { item, fate, published_at, key: None, file });
        }
        let again_within = (looked.growing > 0).then_some(GROWN);
        let checked = Checked {
            kind: Some(SourceKind::Folder),
            full: true,
            result: Numbers { new: numbers.wanted, ..numbers }.in_words(),
            entries,
            again_within,
            ..Checked::default()
        };
        Ok(Looked { checked, numbers, unchanged: false })
    }

    async fn decide(&self, source: &Source, found: Vec<(Item, About)>) -> Result<Looked, Stop> {
        // Where nothing was found, nothing has to be known: only what waits.
        let mut known = match found.is_empty() {
            true => HashMap::new(),
            false => self.checker.store.known_entries(source.id).await?,
        };
        // A feed never says what is for members only: that it does not is no news.
        known.values_mut().for_each(|entry| entry.left = None);
        self.decide_known(source, found, &known).await
    }

    /// What becomes of the entries that were not seen before, of those that were for members only and are not any more, and
    /// of those whose time has come.
    async fn decide_known(
        &self,
        source: &Source,
        found: Vec<(Item, About)>,
        known: &HashMap<MediaId, KnownEntry>,
    ) -> Result<Looked, Stop> {
        let mut numbers = Numbers { entries: found.len(), ..Numbers::default() };
        let mut keyed = newly_keyed(&found, known);
        let fresh = unseen(found, known);
        let new = fresh.iter().filter(|(.., again)| !again).count();
        let keys: HashSet<MediaId> = fresh.iter().filter_map(|(_, about, _)| about.key).collect();
        let due = self.checker.store.due_entries(source.id).await?;
        // One whose turn it is keeps its key until it is settled.
        let waited: HashSet<MediaId> = due.iter().map(|entry| entry.key).collect();
        keyed.retain(|(item, _)| !waited.contains(item));
        // Of one that has another address by now, only that counts.
        let due = due.into_iter().filter(|entry| !keys.contains(&entry.key));
        let again = due.map(|DueEntry { key, item, published_at }| {
            let unopened = matches!(item.locator, Locator::Url(ref at) if !web::media_extension(at.path()));
            (item, About { published_at, unopened, key: Some(key), ..About::default() }, true)
        });
        let work: Vec<(Item, About, bool)> = fresh.into_iter().chain(again).collect();
        let entries: Vec<Seen> = futures::stream::iter(work)
            .map(|(item, about, again)| self.fate(item, about, again))
            .buffered(PAGES_AT_ONCE)
            .concat()
            .await;
        for seen in &entries {
            match seen.fate {
                Fate::Ready => numbers.wanted += 1,
                Fate::Left(_) => numbers.left += 1,
                Fate::Waiting { .. } => numbers.waiting += 1,
                Fate::Opened => {}
            }
        }
        let result = Numbers { new, ..numbers }.in_words();
        let checked = Checked { entries, keyed, result, ..Checked::default() };
        Ok(Looked { checked, numbers, unchanged: false })
    }

    /// What becomes of one entry; several where it is a page that leads to more. `again`: it had to wait or was left out, so
    /// what was known of it is old.
    async fn fate(&self, item: Item, about: About, again: bool) -> Vec<Seen> {
        let askable = facts_are_cheap(&item);
        let title = &item.title;
        let verdict = match self.judge.judge(title, &about, self.now, !askable && !about.unopened) {
            // The page of what had to wait is asked what it is now.
            Verdict::Take if again && askable => Verdict::Ask,
            verdict => verdict,
        };
        match verdict {
            Verdict::Take if about.unopened => self.open(item, about).await,
            Verdict::Ask if about.unopened => self.open(item, about).await,
            Verdict::Ask => {
                if !self.may_ask() {
                    return vec![later(item, about)];
                }
                let Locator::Page(page) = &item.locator else {
                    return vec![seen(item, &about, Fate::Ready)];
                };
                let fate = match self.checker.lister.facts(page).await {
                    Ok(facts) => {
                        let about = About {
                            published_at: facts.published_at.or(about.published_at),
                            short: facts.short || about.short,
                            key: about.key,
                            ..facts
                        };
                        let fate = fate_of(self.judge.judge(&item.title, &about, self.now, true));
                        return vec![seen(item, &about, fate)];
                    }
                    Err(failure) => after_failure(failure),
                };
                vec![seen(item, &about, fate)]
            }
            verdict => vec![seen(item, &about, fate_of(verdict))],
        }
    }

    /// Opens a page: what it leads to takes its place.
    async fn open(&self, page: Item, about: About) -> Vec<Seen> {
        if !self.may_ask() {
            return vec![later(page, about)];
        }
        let Locator::Url(url) = &page.locator else { return vec![seen(page, &about, Fate::Ready)] };
        let (out, found) = async_channel::unbounded();
        self.checker.lister.read_list(url.clone(), Reading::default(), &out).await;
        drop(out);
        let (mut all, mut failed) = (Vec::new(), None);
        while let Ok(one) = found.recv().await {
            match one {
                Found::Item { item, about: told, .. } => {
                    // The page itself keeps the place that it has in its list.
                    let key = about.key.filter(|_| item.media_id == page.media_id);
                    let told = About { published_at: told.published_at.or(about.published_at), key, ..told };
                    // By the title that the list has for it.
                    let fate = fate_of(self.judge.judge(&page.title, &told, self.now, true));
                    all.push(seen(item, &told, fate));
                }
                Found::Failed { failure, .. } => failed = Some(failure),
                Found::Notice(_) => {}
            }
        }
        let itself = all.iter().any(|s| s.item.media_id == page.media_id);
        match (all.is_empty(), failed) {
            (true, Some(failure)) => vec![seen(page, &about, after_failure(failure))],
            (true, None) => vec![seen(page, &about, Fate::Left("no media found there".to_owned()))],
            (false, _) if itself => all,
            (false, _) => {
                all.push(seen(page, &about, Fate::Opened));
                all
            }
        }
    }

    fn may_ask(&self) -> bool {
        self.pages.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok()
    }
}

fn seen(item: Item, about: &About, fate: Fate) -> Seen {
    Seen { item, fate, published_at: about.published_at, key: about.key, file: None }
}

/// Its page is one too many for this check.
fn later(item: Item, about: About) -> Seen {
    let reason = format!("its page is asked at a later check (this one asked {PAGES})");
    seen(item, &about, Fate::Waiting { reason, after: MORE_PAGES })
}

fn fate_of(verdict: Verdict) -> Fate {
    match verdict {
        Verdict::Take | Verdict::Ask => Fate::Ready,
        Verdict::Leave(reason) => Fate::Left(reason),
        Verdict::Wait { reason, after } => Fate::Waiting { reason, after },
    }
}

/// A page that did not tell: asked again where that may help.
fn after_failure(failure: Failure) -> Fate {
    match failure.class {
        class if class.is_transient() || matches!(class, FailureClass::NotYet | FailureClass::Setup) => {
            Fate::Waiting { reason: failure.message, after: PAGE_AGAIN }
        }
        _ => Fate::Left(failure.message),
    }
}

/// What a file is known by before it is read.
fn path_id(path: &Path) -> MediaId {
    MediaId::new("path", &path.to_string_lossy())
}

/// A file that is no media.
fn path_item(path: &Path) -> Item {
    let shown = path.to_string_lossy().into_owned();
    let title = path.file_name().map_or_else(|| shown.clone(), |n| n.to_string_lossy().into_owned());
    Item {
        media_id: path_id(path),
        extractor: "path".into(),
        source_id: shown.clone(),
        locator: Locator::File(path.to_owned()),
        source: shown,
        title,
        duration_ms: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_failed_are_asked_again_where_that_may_help() {
        let of = |class| after_failure(Failure::new(class, "x"));
        assert!(matches!(of(FailureClass::Network), Fate::Waiting { .. }));
        assert!(matches!(of(FailureClass::NotYet), Fate::Waiting { .. }));
        assert_eq!(of(FailureClass::NotMedia), Fate::Left("x".into()));
    }
}

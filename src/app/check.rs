//! Looking into subscribed sources: what is new there, and what of it is wanted.
//!
//! A check costs as little as the source allows: a feed one conditional request, a folder a look at the times of its files, a
//! channel its first entries until known ones come, a longer list all of its entries once in a while. Only what is new is
//! looked at itself, and only where a rule needs to know more than the list tells.

mod known;
mod looking;

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::looking::Looking;
use super::listing;
use super::world::World;
use crate::event::{Event, Events};
use crate::media::{Failure, FailureClass, Retry};
use crate::source::rules::Rules;
use crate::source::{Lister, is_no_feed};
use crate::store::sources::{Checked, Source, SourceKind, SourceLock};
use crate::store::{SaveError, Store};
use crate::web;

/// Sources checked at once.
pub const AT_ONCE: usize = 6;
/// What no check takes, unless something hangs. The first listing of the largest channels takes minutes.
const LONGEST: Duration = Duration::from_secs(2 * 3600);
/// No source is left alone longer than this because its site asks for it.
const LONGEST_WISH: Duration = Duration::from_secs(24 * 3600);

/// How one source's check went.
#[derive(Clone, Debug)]
pub struct Check {
    /// What the source is called.
    pub name: String,
    /// Its address or path.
    pub source: String,
    /// How it went.
    pub outcome: Outcome,
}

/// How a check went.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The server says that nothing has changed.
    Unchanged,
    /// It was looked through.
    Looked(Numbers),
    /// It could not be.
    Failed {
        /// Why not.
        failure: Failure,
        /// When it is tried again, from now.
        again_in: Duration,
    },
    /// Another process checks it right now.
    Busy,
    /// Another process has checked it meanwhile, or somebody paused or removed it.
    Settled,
}

/// What a check found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Entries that the source gave.
    pub entries: usize,
    /// Of these, seen for the first time.
    pub new: usize,
    /// Wanted now: new ones, and those that had to wait.
    pub wanted: usize,
    /// New ones that are not wanted.
    pub left: usize,
    /// Not there yet.
    pub waiting: usize,
    /// Files that still grow.
    pub growing: usize,
}

impl Numbers {
    fn in_words(&self) -> String {
        let mut words = format!("{} new of {}", self.new, self.entries);
        let mut add = |n: usize, what: &str| {
            if n > 0 {
                words += &format!(", {n} {what}");
            }
        };
        add(self.wanted.saturating_sub(self.new), "there now");
        add(self.left, "not wanted");
        add(self.waiting, "not there yet");
        add(self.growing, "still growing");
        words
    }
}

/// Looks into sources.
#[derive(Clone)]
pub struct Checker {
    lister: Lister,
    store: Store,
    events: Events,
    stop: CancellationToken,
}

/// What looking into a source came to.
struct Looked {
    checked: Checked,
    numbers: Numbers,
    unchanged: bool,
}

impl Checker {
    /// A checker that ends early when `stop` is cancelled.
    ///
    /// # Errors
    /// Where the HTTP client cannot be made.
    pub fn new(world: &World, events: Events, stop: CancellationToken) -> anyhow::Result<Self> {
        Ok(Self {
            lister: Lister::new(listing::source_options(world, &uuid::Uuid::new_v4().to_string())?)?,
            store: world.store.clone(),
            events,
            stop,
        })
    }

    /// Checks the sources, several at once; `told` hears of each as it ends. `forced`: also those that are not due. `full`: all of
    /// each list is read.
    ///
    /// # Errors
    /// The database's.
    pub async fn round(
        &self,
        sources: Vec<Source>,
        forced: bool,
        full: bool,
        told: mpsc::Sender<Check>,
    ) -> anyhow::Result<()> {
        let this = self.clone();
        let mut checks = futures::stream::iter(sources)
            .map(move |source| {
                let this = this.clone();
                async move { this.check(source, forced, full).await }
            })
            .buffer_unordered(AT_ONCE);
        loop {
            tokio::select! {
                biased;
                // What is being checked is dropped, and its lock with it; it stays due.
                () = self.stop.cancelled() => return Ok(()),
                check = checks.next() => match check {
                    // Nobody who stopped listening wants more.
                    Some(check) => if told.send(check?).await.is_err() { return Ok(()) },
                    None => return Ok(()),
                },
            }
        }
    }

    /// Checks one source.
    ///
    /// # Errors
    /// The database's.
    pub async fn check(&self, source: Source, forced: bool, full: bool) -> anyhow::Result<Check> {
        let Source { id, name, source: address, .. } = source.clone();
        let outcome = match self.store.lock_source(id).await? {
            None => Outcome::Busy,
            Some(mut lock) => {
                let outcome = self.locked(&mut lock, &source, forced, full).await;
                lock.release().await;
                outcome?
            }
        };
        match &outcome {
            Outcome::Looked(numbers) => self.events.send(Event::SourceListed {
                source: name.clone(),
                items: numbers.entries,
                new: numbers.wanted,
            }),
            Outcome::Failed { failure, .. } => self.events.send(Event::Noticed {
                warning: true,
                message: match &failure.remedy {
                    Some(remedy) => format!("{name}: {failure} ({remedy})"),
                    None => format!("{name}: {failure}"),
                },
            }),
            Outcome::Unchanged | Outcome::Busy | Outcome::Settled => {}
        }
        Ok(Check { name, source: address, outcome })
    }

    async fn locked(
        &self,
        lock: &mut SourceLock,
        source: &Source,
        forced: bool,
        full: bool,
    ) -> anyhow::Result<Outcome> {
        let Some(source) = self.store.begin_check(lock, source, forced).await? else {
            return Ok(Outcome::Settled);
        };
        let looked = tokio::time::timeout(LONGEST, self.look(&source, full)).await.unwrap_or_else(|_| {
            let message = format!("not listed within {} hours", LONGEST.as_secs() / 3600);
            Err(Stop::Failed(Failure::new(FailureClass::Network, message), None))
        });
        let settled = match looked {
            Ok(Looked { checked, mut numbers, unchanged }) => {
                self.store.end_check(lock, &checked).await.map(|new| {
                    numbers.new = new;
                    if unchanged && checked.entries.is_empty() {
                        Outcome::Unchanged
                    } else {
                        Outcome::Looked(numbers)
                    }
                })
            }
            Err(Stop::Failed(failure, at_least)) => self
                .store
                .fail_check(lock, &failure, at_least)
                .await
                .map(|again_in| Outcome::Failed { failure, again_in }),
            Err(Stop::Database(error)) => return Err(error),
        };
        match settled {
            Ok(outcome) => Ok(outcome),
            // The lock was lost with its connection, and somebody else has checked.
            Err(SaveError::LeaseLost) => Ok(Outcome::Settled),
            Err(error) => Err(error.into()),
        }
    }

    async fn look(&self, source: &Source, full: bool) -> Result<Looked, Stop> {
        let rules: Rules = serde_json::from_value(source.rules.clone()).map_err(|e| {
            Failure::new(FailureClass::Setup, format!("the rules of the source cannot be read: {e}"))
        })?;
        let looking = Looking::new(self, rules, self.store.now().await?)?;
        let path = Path::new(&source.source);
        if source.kind == Some(SourceKind::Folder) || path.is_absolute() {
            return looking.folder(source, path).await;
        }
        let url = web::parse_url(&source.source)?;
        match source.kind {
            Some(SourceKind::List) => looking.list(source, &url, full).await,
            None if is_no_feed(&url) => looking.list(source, &url, full).await,
            _ => looking.feed(source, &url, full).await,
        }
    }
}

/// Why a check ended early.
enum Stop {
    /// It failed, and is not to be tried again before this time, from now.
    Failed(Failure, Option<Duration>),
    Database(anyhow::Error),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        let at_least = match failure.retry {
            Some(Retry::In(after)) => Some(after.min(LONGEST_WISH)),
            _ => None,
        };
        Self::Failed(failure, at_least)
    }
}

impl From<crate::store::StoreError> for Stop {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Database(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_that_asks_to_wait_is_given_its_time_within_reason() {
        let waits = |retry: Option<Retry>| {
            let failure = Failure { retry, ..Failure::new(FailureClass::RateLimited, "429") };
            match Stop::from(failure) {
                Stop::Failed(_, at_least) => at_least,
                Stop::Database(error) => panic!("{error}"),
            }
        };
        let hour = Duration::from_secs(3600);
        assert_eq!(waits(Some(Retry::In(hour))), Some(hour));
        assert_eq!(waits(Some(Retry::In(Duration::MAX))), Some(24 * hour));
        assert_eq!(waits(None), None);
    }

    #[test]
    fn numbers_in_words() {
        assert_eq!(Numbers { entries: 5, ..Numbers::default() }.in_words(), "0 new of 5");
        let all = Numbers { entries: 9, new: 3, wanted: 4, left: 1, waiting: 1, growing: 2 };
        assert_eq!(all.in_words(), "3 new of 9, 1 there now, 1 not wanted, 1 not there yet, 2 still growing");
    }
}

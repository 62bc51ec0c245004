//! Waiting for a turn at a site, and telling how it went.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use url::Url;

use super::{Fetcher, interrupted};
use crate::event::{Event, Events};
use crate::govern::{Ask, Permit, Site, Turn, Wait};
use crate::media::{Failure, FailureClass, Fetched, Item, Locator, Retry};

/// A turn that comes within this is waited for; a later one puts the item back.
const SHORT: Duration = Duration::from_secs(20);
/// How often the operator is told that a site makes its items wait.
const TELL_EVERY: Duration = Duration::from_secs(600);
/// While yt-dlp does not work, its items are put off for so long: somebody has to do something first.
const BROKEN_FOR: Duration = Duration::from_secs(6 * 3600);

/// Why yt-dlp does not work, at all (`None`) or for a site, and when the operator was last told of a site's waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Broken(Arc<Mutex<Notes>>);

#[derive(Debug, Default)]
struct Notes {
    broken: HashMap<Option<Site>, Failure>,
    told: HashMap<(Site, bool), tokio::time::Instant>,
}

impl Broken {
    fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn why(&self, site: &Site) -> Option<Failure> {
        let notes = self.notes();
        notes.broken.get(&None).or_else(|| notes.broken.get(&Some(site.clone()))).cloned()
    }
}

impl Fetcher {
    /// Waits for the item's turn at its site; see [`Self::fetch`].
    pub(super) async fn turn(
        &self,
        item: &Item,
        url: &Url,
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<Permit, Failure> {
        let governor = &self.client.net().governor;
        let site = Site::of(url);
        if matches!(item.locator, Locator::Page(_))
            && let Some(why) = self.broken.why(&site)
        {
            return Err(put_off(&why));
        }
        let mut seat = None;
        loop {
            let wait = match governor.ask(url, Ask::Video).await {
                Ok(Turn::Go(permit)) => return Ok(permit),
                Ok(Turn::Wait(wait)) => wait,
                Err(error) => {
                    let mut failure = Failure::new(
                        FailureClass::Paced,
                        format!("cannot ask the database whose turn it is: {error}"),
                    )
                    .with_retry(Retry::In(Duration::from_secs(5)));
                    failure.free = true;
                    return Err(failure);
                }
            };
            if seat.is_none() && wait.after <= SHORT {
                seat = self.waiting.clone().try_acquire_owned().ok();
            }
            if seat.is_none() || wait.after > SHORT {
                self.announce(&wait, events);
                return Err(self.later(url, wait).await);
            }
            tokio::select! {
                () = cancel.cancelled() => return Err(interrupted()),
                // Nothing was begun: it is the next run's.
                () = self.options.stop.cancelled() => {
                    let mut failure = wait.failure();
                    failure.retry = Some(Retry::In(Duration::ZERO));
                    return Err(failure);
                }
                () = tokio::time::sleep(wait.after) => {}
            }
        }
    }

    /// A time of its own for an item that has to wait.
    async fn later(&self, url: &Url, mut wait: Wait) -> Failure {
        match self.client.net().governor.put_off(url, wait.after).await {
            Ok(after) => wait.after = after,
            Err(error) => tracing::debug!(%error, "failed to give a turn; it comes when the site is free"),
        }
        wait.failure()
    }

    /// Tells the operator that a site makes its items wait, now and then.
    fn announce(&self, wait: &Wait, events: &Events) {
        let now = tokio::time::Instant::now();
        let key = (wait.site.clone(), wait.resting);
        {
            let mut notes = self.broken.notes();
            if notes.told.get(&key).is_some_and(|told| now - *told < TELL_EVERY) {
                return;
            }
            notes.told.insert(key, now);
        }
        let remedy = wait.remedy.as_ref().map_or(String::new(), |r| format!(" ({r})"));
        let message = format!("{}; its items wait {}{remedy}", wait.why, spoken_time(wait.after));
        events.send(Event::Noticed { warning: wait.resting, message });
    }

    /// Tells the site's breaker how it went, and what that means for the item.
    pub(super) async fn tell(
        &self,
        item: &Item,
        url: &Url,
        permit: &Permit,
        fetched: Result<Fetched, Failure>,
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<Fetched, Failure> {
        if cancel.is_cancelled() {
            return fetched;
        }
        let governor = &self.client.net().governor;
        let told = match governor.tell(url, permit.id(), fetched.as_ref().map(drop)).await {
            Ok(told) => told,
            Err(error) => {
                tracing::debug!(%error, "failed to note how a site answered");
                return fetched;
            }
        };
        let mut failure = match fetched {
            Ok(fetched) => return Ok(fetched),
            Err(failure) => failure,
        };
        if told.opened
            && let Some(open) = told.open_for
        {
            let remedy = failure.remedy.as_ref().map_or(String::new(), |r| format!(" ({r})"));
            let message = format!(
                "{} refuses: {failure}; nothing is asked of it for {}, then one item tries{remedy}",
                Site::of(url),
                spoken_time(open)
            );
            events.send(Event::Noticed { warning: true, message });
        }
        match failure.class {
            FailureClass::RateLimited | FailureClass::Network | FailureClass::Forbidden => {
                // While all of the site is left alone, none of its items is to blame.
                if let Some(open) = told.open_for {
                    failure.free = true;
                    let after = governor.put_off(url, open).await.unwrap_or(open);
                    failure.retry = Some(Retry::In(after));
                } else if failure.class == FailureClass::RateLimited {
                    failure.free = governor.limits(url).is_some();
                } else if failure.class == FailureClass::Forbidden {
                    failure.free = governor.forgives(url, item.media_id).await.unwrap_or(false);
                }
            }
            FailureClass::Paced => {
                if let Some(Retry::In(after)) = failure.retry {
                    failure.retry = Some(Retry::In(governor.put_off(url, after).await.unwrap_or(after)));
                }
            }
            FailureClass::Setup => self.note_broken(&failure, url, events),
            _ => {}
        }
        Err(failure)
    }

    /// yt-dlp does not work: nothing more is tried with it, and that is said aloud.
    fn note_broken(&self, failure: &Failure, url: &Url, events: &Events) {
        let Some(of_the_site) = breaks(failure) else { return };
        let site = of_the_site.then(|| Site::of(url));
        let where_ = site.as_ref().map_or(String::new(), |site| format!(" of {site}"));
        if self.broken.notes().broken.insert(site, failure.clone()).is_none() {
            let remedy = failure.remedy.as_ref().map_or(String::new(), |r| format!(" ({r})"));
            let message = format!("no more pages{where_} are fetched in this run: {failure}{remedy}");
            events.send(Event::Noticed { warning: true, message });
        }
    }
}

/// Whether a failure of the set-up stops all pages (`false`) or those of its site (`true`); `None` where it is about the
/// item or this moment only.
fn breaks(failure: &Failure) -> Option<bool> {
    let said = &failure.message;
    if said.starts_with("yt-dlp does not run") || said.starts_with("failed to run yt-dlp") {
        Some(false)
    } else {
        said.contains("JavaScript runtime").then_some(true)
    }
}

/// An item that needs what does not work.
fn put_off(why: &Failure) -> Failure {
    let mut failure =
        Failure::new(FailureClass::Paced, why.message.clone()).with_retry(Retry::In(BROKEN_FOR));
    failure.remedy.clone_from(&why.remedy);
    failure.free = true;
    failure
}

/// `40 s`, `12 min`, `1 h 5 min`.
fn spoken_time(time: Duration) -> String {
    let seconds = time.as_secs_f64().ceil() as u64;
    match (seconds / 3600, seconds % 3600 / 60) {
        (0, 0) => format!("{seconds} s"),
        (0, minutes) => format!("{minutes} min"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stops_the_stage_is_told_from_what_does_not() {
        let setup = |text: &str| breaks(&Failure::new(FailureClass::Setup, text));
        assert_eq!(setup("yt-dlp does not run: error: no such option"), Some(false));
        assert_eq!(setup("failed to run yt-dlp (/x): not found"), Some(false));
        assert_eq!(setup("yt-dlp found no JavaScript runtime, which this site needs"), Some(true));
        assert_eq!(setup("unable to write data: no space left on device"), None);
    }

    #[test]
    fn times_are_said_as_people_do() {
        for (seconds, said) in
            [(0.2, "1 s"), (59.0, "59 s"), (61.0, "1 min"), (3600.0, "1 h"), (3900.0, "1 h 5 min")]
        {
            assert_eq!(spoken_time(Duration::from_secs_f64(seconds)), said);
        }
    }
}

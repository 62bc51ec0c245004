//! How hard sites are asked: limits, a ledger of what was granted, and a breaker for sites that refuse.
//!
//! A tool, not a step: [`crate::fetch`] asks for a turn before each extraction or download, [`crate::web`] and the gate
//! that yt-dlp goes through ask for each request, and all of them tell how it went.
//!
//! * The ledger lies in Postgres, for each [`Site`] and each identity (the cookies that are sent, or none): all processes
//!   share it, and a restart forgets nothing. One question is one statement, and locks one row for as long.
//! * **Limits** ([`Rules`]): videos and requests an hour, distance between videos, downloads at once. This machine costs
//!   nothing unless it is named.
//! * **The breaker** opens when a site asks to slow down or doubts that we are human, and after three troubles in a row
//!   (5xx, timeouts, names not found; media refused). Nothing is asked of the site until its rest is over; then one item
//!   goes ahead, and its success lets the others follow. Each opening in a row for the same kind of trouble rests twice as
//!   long; a network that is away is tried again within half an hour.
//!
//! What has to wait is not an error of the item: it is put back with the time of its turn, and keeps its attempts.

mod permit;
mod rules;
mod site;
mod standing;

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::task::AbortHandle;
use url::Url;
use uuid::Uuid;

pub use permit::Permit;
pub use rules::{Limits, Rules, Wishes};
pub use site::Site;
pub use standing::{Standing, standing};

use crate::media::{Failure, FailureClass, Retry};
use permit::Held;

/// A running download says that it lives three times in this; what a dead process held is free again after it.
const LEASE: Duration = Duration::from_secs(60);
/// Requests that must be left for a video to begin: a page, the player, the media's address and the media.
const HEADROOM: u32 = 4;
/// Troubles in a row that open the breaker.
const STRIKES: i32 = 3;
/// Turns are given out at most so far ahead, so that capacity that others do not use after all is not lost for long.
const HORIZON: Duration = Duration::from_secs(3600);
/// No site is left alone longer than this for a `Retry-After`.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);
/// How often a site may refuse an item's media before that is held against the item.
const FREE_REFUSALS: i32 = 3;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// An item's extraction and download: counts as a video, and holds one of the site's downloads until its
    /// [`Permit`] ends.
    Video,
    /// An extraction that lists a page: keeps the distance, counts no video.
    Listing,
    /// One request, for the sake of the permit with this id, if any.
    Request(Option<Uuid>),
}

/// The answer.
#[derive(Debug)]
pub enum Turn {
    /// Go ahead.
    Go(Permit),
    /// Not yet.
    Wait(Wait),
}

/// Why something has to wait, and how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Wait {
    /// Where.
    pub site: Site,
    /// From now.
    pub after: Duration,
    /// Why, for people.
    pub why: String,
    /// What they can do about it.
    pub remedy: Option<String>,
    /// True where the site is left alone because it refused, false where our own limits are used up.
    pub resting: bool,
}

impl Wait {
    /// What it means for an item: its turn comes later.
    pub fn failure(&self) -> Failure {
        let mut failure = Failure::new(FailureClass::Paced, self.why.clone());
        failure.remedy.clone_from(&self.remedy);
        failure.retry = Some(Retry::In(self.after));
        failure.free = true;
        failure
    }
}

/// How the breaker of a site stands after [`Governor::tell`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// How long it stays open from now; `None` while it is closed.
    pub open_for: Option<Duration>,
    /// This very report opened it.
    pub opened: bool,
}

/// Grants turns. Cheap to clone; one for a process.
#[derive(Clone, Debug, Default)]
pub struct Governor(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    rules: Rules,
    identity: String,
    worker: Uuid,
}

/// Which cookies a process sends: a hash of the file, or `none`. An account shut out must not be asked for under another
/// name, and a guest has nothing to do with it.
pub fn identity(cookies: Option<&std::path::Path>) -> std::io::Result<String> {
    match cookies {
        None => Ok("none".to_owned()),
        Some(path) => {
            let hash = blake3::hash(&std::fs::read(path)?);
            Ok(format!("cookies-{}", &hash.to_hex()[..12]))
        }
    }
}

impl Governor {
    /// One that lets everything pass: for commands without a database.
    pub fn free() -> Self {
        Self(None)
    }

    /// One on the ledger in this database (the store's migrations must have run). `worker` names this process.
    pub fn new(pool: PgPool, rules: Rules, identity: String, worker: Uuid) -> Self {
        Self(Some(Arc::new(Inner { pool, rules, identity, worker })))
    }

    /// The limits of the site that `url` belongs to; `None` where there are none.
    pub fn limits(&self, url: &Url) -> Option<Limits> {
        self.0.as_ref()?.rules.limits(&Site::of(url))
    }

    /// Asks for a turn at the site of `url`, once: the answer comes at once, whatever it is.
    ///
    /// # Errors
    /// The database's.
    pub async fn ask(&self, url: &Url, ask: Ask) -> Result<Turn, sqlx::Error> {
        let site = Site::of(url);
        let Some((inner, limits)) = self.0.as_ref().and_then(|i| Some((i, i.rules.limits(&site)?))) else {
            return Ok(Turn::Go(Permit(None)));
        };
        inner.ask(site, limits, ask).await
    }

    /// Tells how something at the site of `url` went; `permit` is the one it had. Failures that say nothing of the site
    /// (our own set-up, disk or limits) change nothing.
    ///
    /// # Errors
    /// The database's.
    pub async fn tell(
        &self,
        url: &Url,
        permit: Option<Uuid>,
        outcome: Result<(), &Failure>,
    ) -> Result<Told, sqlx::Error> {
        let site = Site::of(url);
        match self.0.as_ref().and_then(|i| Some((i, i.rules.limits(&site)?))) {
            Some((inner, limits)) => inner.tell(&site, &limits, permit, outcome).await,
            None => Ok(Told::default()),
        }
    }

    /// A turn of its own for something that has to wait `at_least`: after those who were put off before, at the pace
    /// that the site's limits allow.
    ///
    /// # Errors
    /// The database's.
    pub async fn put_off(&self, url: &Url, at_least: Duration) -> Result<Duration, sqlx::Error> {
        let site = Site::of(url);
        let Some((inner, limits)) = self.0.as_ref().and_then(|i| Some((i, i.rules.limits(&site)?))) else {
            return Ok(at_least);
        };
        let a_video = if limits.videos > 0 { limits.window / limits.videos } else { Duration::ZERO };
        let wait: f64 = sqlx::query_scalar(
            "UPDATE governor_sites SET promised_until = least(
                 greatest(clock_timestamp() + make_interval(secs => $3), promised_until + make_interval(secs => $4)),
                 clock_timestamp() + make_interval(secs => $3 + $5))
             WHERE site = $1 AND identity = $2
             RETURNING extract(epoch FROM promised_until - clock_timestamp())::float8",
        )
        .bind(site.as_str())
        .bind(&inner.identity)
        .bind(at_least.as_secs_f64())
        .bind(limits.interval.max(a_video).as_secs_f64())
        .bind(HORIZON.as_secs_f64())
        .fetch_optional(&inner.pool)
        .await?
        .unwrap_or(at_least.as_secs_f64());
        Ok(Duration::try_from_secs_f64(wait).unwrap_or(at_least))
    }

    /// Counts a refusal of an item's media whose page was shown; true while that is taken for the site's doing and not
    /// held against the item.
    ///
    /// # Errors
    /// The database's.
    pub async fn forgives(&self, url: &Url, media_id: crate::media::MediaId) -> Result<bool, sqlx::Error> {
        let Some(inner) = self.0.as_ref().filter(|i| i.rules.limits(&Site::of(url)).is_some()) else {
            return Ok(false);
        };
        let times: i32 = sqlx::query_scalar(
            "INSERT INTO governor_refusals AS r (media_id, times, last_at) VALUES ($1, 1, now())
             ON CONFLICT (media_id) DO UPDATE SET
                 times = CASE WHEN r.last_at < now() - interval '7 days' THEN 1 ELSE r.times + 1 END, last_at = now()
             RETURNING times",
        )
        .bind(media_id.0)
        .fetch_one(&inner.pool)
        .await?;
        Ok(times <= FREE_REFUSALS)
    }

    /// Frees what processes that are known to be dead were downloading.
    ///
    /// # Errors
    /// The database's.
    pub async fn forget(pool: &PgPool, dead: &[Uuid]) -> Result<(), sqlx::Error> {
        if dead.is_empty() {
            return Ok(());
        }
        // A dead probe tells nothing any more: the next item may try.
        sqlx::query(
            "WITH gone AS (DELETE FROM governor_downloads WHERE worker = ANY($1) RETURNING site, identity, permit)
             UPDATE governor_sites s SET probe = NULL, probe_until = NULL FROM gone
             WHERE s.site = gone.site AND s.identity = gone.identity AND s.probe = gone.permit",
        )
        .bind(dead)
        .execute(pool)
        .await
        .map(drop)
    }
}

impl Inner {
    async fn ask(self: &Arc<Self>, site: Site, limits: Limits, ask: Ask) -> Result<Turn, sqlx::Error> {
        let (id, video, spaced, requests, headroom) = match ask {
            Ask::Video => (Uuid::new_v4(), true, true, 0, HEADROOM.min(limits.requests)),
            Ask::Listing => (Uuid::new_v4(), false, true, 0, HEADROOM.min(limits.requests)),
            Ask::Request(permit) => (permit.unwrap_or_else(Uuid::new_v4), false, false, 1, 0),
        };
        let row: (f64, Option<String>, Option<String>, Option<String>, bool) = sqlx::query_as(
            "SELECT wait_s, why, said, advice, trial
             FROM governor_ask($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        )
        .bind(site.as_str())
        .bind(&self.identity)
        .bind(id)
        .bind(self.worker)
        .bind(video)
        .bind(spaced)
        .bind(requests)
        .bind(headroom as i32)
        .bind(i32::try_from(limits.videos).unwrap_or(i32::MAX))
        .bind(i32::try_from(limits.requests).unwrap_or(i32::MAX))
        .bind(i32::try_from(limits.downloads).unwrap_or(i32::MAX))
        .bind(limits.window.as_secs_f64())
        .bind(limits.interval.as_secs_f64() * (1.0 + chance(id) / 2.0))
        .bind(LEASE.as_secs_f64())
        .fetch_one(&self.pool)
        .await?;
        let (wait, why, said, advice, trial) = row;
        if let Some(why) = why {
            let after = Duration::try_from_secs_f64(wait).unwrap_or(LEASE);
            return Ok(Turn::Wait(explain(site, &limits, after, &why, said, advice)));
        }
        let renewal = video.then(|| self.keep_renewing(site.clone(), id));
        // A request on behalf of a permit is that permit's; a lone one may be the trial.
        let owned = !matches!(ask, Ask::Request(Some(_)));
        Ok(Turn::Go(Permit(owned.then(|| Held { governor: self.clone(), site, id, renewal, trial }))))
    }

    fn keep_renewing(self: &Arc<Self>, site: Site, id: Uuid) -> AbortHandle {
        let inner = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LEASE / 3).await;
                let renewed = sqlx::query(
                    "UPDATE governor_downloads SET until = clock_timestamp() + make_interval(secs => $4)
                     WHERE site = $1 AND identity = $2 AND permit = $3",
                )
                .bind(site.as_str())
                .bind(&inner.identity)
                .bind(id)
                .bind(LEASE.as_secs_f64())
                .execute(&inner.pool)
                .await;
                if let Err(error) = renewed {
                    tracing::debug!(%site, %error, "failed to renew a permit; trying again");
                }
            }
        })
        .abort_handle()
    }

    async fn end(&self, site: &Site, id: Uuid) -> Result<(), sqlx::Error> {
        // A probe that ends without having told anything leaves the trial to the next.
        sqlx::query(
            "WITH ended AS (DELETE FROM governor_downloads WHERE site = $1 AND identity = $2 AND permit = $3)
             UPDATE governor_sites SET probe = NULL, probe_until = NULL
             WHERE site = $1 AND identity = $2 AND probe = $3",
        )
        .bind(site.as_str())
        .bind(&self.identity)
        .bind(id)
        .execute(&self.pool)
        .await
        .map(drop)
    }

    async fn tell(
        &self,
        site: &Site,
        limits: &Limits,
        permit: Option<Uuid>,
        outcome: Result<(), &Failure>,
    ) -> Result<Told, sqlx::Error> {
        let Some((told, rest)) = verdict(outcome, limits.rest) else { return Ok(Told::default()) };
        let failure = outcome.err();
        let retry_after = failure.and_then(|f| match f.retry {
            Some(Retry::In(after)) => Some(after.min(LONGEST_RETRY_AFTER).as_secs_f64()),
            _ => None,
        });
        let row: (Option<f64>, bool) = sqlx::query_as(
            "SELECT open_s::float8, opened FROM governor_tell($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(site.as_str())
        .bind(&self.identity)
        .bind(permit)
        .bind(told)
        .bind(STRIKES)
        .bind(rest.as_secs_f64())
        .bind(retry_after)
        .bind(failure.map(|f| f.class.as_str()))
        .bind(failure.map(|f| f.message.replace('\0', "\u{fffd}")))
        .bind(failure.and_then(|f| f.remedy.as_deref()))
        .fetch_one(&self.pool)
        .await?;
        Ok(Told {
            open_for: row.0.and_then(|s| Duration::try_from_secs_f64(s).ok()).filter(|d| !d.is_zero()),
            opened: row.1,
        })
    }
}

/// What an outcome says of the site, and the first rest that it may bring.
fn verdict(outcome: Result<(), &Failure>, rest: Duration) -> Option<(&'static str, Duration)> {
    let Err(failure) = outcome else { return Some(("fine", rest)) };
    match failure.class {
        FailureClass::RateLimited => Some(("refused", rest)),
        // A network that is away is back sooner than a site that is cross; it may be ours.
        FailureClass::Network => Some(("trouble", rest / 12)),
        FailureClass::Forbidden => Some(("trouble", rest / 4)),
        FailureClass::Paced
        | FailureClass::Setup
        | FailureClass::Internal
        | FailureClass::Refused
        | FailureClass::Unreadable
        | FailureClass::Crashed => None,
        // It answered, and as one would expect.
        _ => Some(("fine", rest)),
    }
}

/// 0 to 1, by chance.
fn chance(id: Uuid) -> f64 {
    f64::from(id.as_bytes()[15]) / 255.0
}

fn explain(
    site: Site,
    limits: &Limits,
    after: Duration,
    why: &str,
    said: Option<String>,
    advice: Option<String>,
) -> Wait {
    let hour = match limits.window.as_secs() {
        3600 => "an hour".to_owned(),
        seconds => format!("in {seconds} s"),
    };
    let said = said.unwrap_or_default();
    let (text, remedy) = match why {
        "breaker" => (format!("{site} is left alone for now: {said}"), advice),
        "probe" => (format!("{site} is being tried with one item after it refused: {said}"), advice),
        "videos" => (
            format!("{site}: {} videos {hour} were taken", limits.videos),
            Some(
                "RATE_VIDEOS_PER_HOUR and RATE_SITES set the limit; sites shut out whoever takes too many"
                    .into(),
            ),
        ),
        "requests" => (
            format!("{site}: {} requests {hour} were made", limits.requests),
            Some(
                "RATE_REQUESTS_PER_HOUR and RATE_SITES set the limit; sites shut out whoever makes too many"
                    .into(),
            ),
        ),
        "downloads" => (
            format!("{site}: {} downloads are running", limits.downloads),
            Some("RATE_DOWNLOADS and RATE_SITES set the limit".into()),
        ),
        _ => (
            format!("{site}: {} s lie between two videos", limits.interval.as_secs_f64()),
            Some("RATE_MIN_INTERVAL_SECONDS and RATE_SITES set the distance".into()),
        ),
    };
    Wait { site, after, why: text, remedy, resting: matches!(why, "breaker" | "probe") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_site_did_counts() {
        let rest = Duration::from_secs(3600);
        let told = |class| verdict(Err(&Failure::new(class, "x")), rest).map(|(told, _)| told);
        assert_eq!(verdict(Ok(()), rest), Some(("fine", rest)));
        assert_eq!(told(FailureClass::RateLimited), Some("refused"));
        assert_eq!(told(FailureClass::Network), Some("trouble"));
        assert_eq!(told(FailureClass::Forbidden), Some("trouble"));
        assert_eq!(told(FailureClass::NotFound), Some("fine"));
        for ours in [FailureClass::Paced, FailureClass::Setup, FailureClass::Internal, FailureClass::Refused]
        {
            assert_eq!(told(ours), None, "{ours:?}");
        }
    }

    #[tokio::test]
    async fn without_a_ledger_everything_passes() {
        let governor = Governor::free();
        let url = Url::parse("https://www.youtube.com/watch?v=x").unwrap();
        for ask in [Ask::Video, Ask::Listing, Ask::Request(None)] {
            assert!(matches!(governor.ask(&url, ask).await, Ok(Turn::Go(_))));
        }
        assert_eq!(governor.put_off(&url, Duration::from_secs(3)).await.unwrap(), Duration::from_secs(3));
    }

    #[test]
    fn identities_tell_cookies_apart_and_hold_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cookies.txt");
        std::fs::write(&path, "secret").unwrap();
        assert_eq!(identity(None).unwrap(), "none");
        let first = identity(Some(&path)).unwrap();
        assert!(first.starts_with("cookies-") && !first.contains("secret"));
        std::fs::write(&path, "another").unwrap();
        assert_ne!(identity(Some(&path)).unwrap(), first);
        assert!(identity(Some(&dir.path().join("none"))).is_err());
    }
}

//! How sites stand, for people.

use serde::Serialize;
use sqlx::postgres::PgPool;

/// How a site stands with an identity.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// Which site.
    pub site: String,
    /// The cookies that are sent to it, as a hash; `none`.
    pub identity: String,
    /// Videos begun in the last hour.
    pub videos: i64,
    /// Requests made in the last hour.
    pub requests: i64,
    /// Downloads that run.
    pub downloads: i64,
    /// For how long the site is left alone, seconds; `None` while it is not.
    pub open_s: Option<f64>,
    /// The rest is over, and the first item has to show whether the site has calmed down.
    pub half_open: bool,
    /// Why it is left alone. May quote outside text.
    pub reason: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// How all sites stand that were asked for something in the last hour or are left alone, by name.
///
/// # Errors
/// The database's.
pub async fn standing(pool: &PgPool) -> Result<Vec<Standing>, sqlx::Error> {
    type Row = (String, String, i64, i64, i64, Option<f64>, Option<String>, Option<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT s.site, s.identity, coalesce(l.videos, 0), coalesce(l.requests, 0), coalesce(d.running, 0),
                extract(epoch FROM s.open_until - now())::float8,
                CASE WHEN s.open_until IS NOT NULL THEN s.reason END,
                CASE WHEN s.open_until IS NOT NULL THEN s.remedy END
         FROM governor_sites s
         LEFT JOIN LATERAL (
             SELECT sum(videos)::bigint AS videos, sum(requests)::bigint AS requests FROM governor_ledger l
             WHERE l.site = s.site AND l.identity = s.identity AND l.second > now() - interval '1 hour') l ON true
         LEFT JOIN LATERAL (
             SELECT count(*) AS running FROM governor_downloads d
             WHERE d.site = s.site AND d.identity = s.identity AND d.until > now()) d ON true
         WHERE s.open_until IS NOT NULL OR l.videos IS NOT NULL OR d.running > 0
         ORDER BY s.site, s.identity",
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(site, identity, videos, requests, downloads, open, reason, remedy)| Standing {
            site,
            identity,
            videos,
            requests,
            downloads,
            open_s: open.filter(|s| *s > 0.0),
            half_open: open.is_some_and(|s| s <= 0.0),
            reason,
            remedy,
        })
        .collect())
}

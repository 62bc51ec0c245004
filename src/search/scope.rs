//! Which items a search looks at.

use std::time::Duration;

use chrono::NaiveDate;
use uuid::Uuid;

use super::SearchError;
use super::words::words;
use crate::media::MediaId;
use crate::store::Store;

/// A day, or a while ago by the database's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The beginning of this day, UTC.
    Day(NaiveDate),
    /// So long before now.
    Ago(Duration),
}

/// What a hit must be part of. What is empty or absent is not asked; of several values in one list any will do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Subscriptions by name or address, lists or folders that were brought in, sites (`youtube`), or a part of the
    /// item's address or path; case and accents aside.
    pub sources: Vec<String>,
    /// A part of the channel's or uploader's name, case and accents aside.
    pub channels: Vec<String>,
    /// Published then or later; where nobody knows when, found then or later.
    pub after: Option<Moment>,
    /// Published (or found) before.
    pub before: Option<Moment>,
    /// Language codes of what was said at that place.
    pub languages: Vec<String>,
    /// Parts of the name of who speaks at that place, case and accents aside; only where that is known.
    pub speakers: Vec<String>,
    /// Items of at least this length, in milliseconds.
    pub min_duration_ms: Option<i64>,
    /// Items of at most this length, in milliseconds.
    pub max_duration_ms: Option<i64>,
    /// These items.
    pub media: Vec<MediaId>,
}

impl Filter {
    /// Whether anything is asked of the item as a whole.
    fn asks_of_items(&self) -> bool {
        let Self {
            sources,
            channels,
            after,
            before,
            languages: _,
            speakers,
            min_duration_ms,
            max_duration_ms,
            media,
        } = self;
        !(sources.is_empty() && channels.is_empty() && speakers.is_empty() && media.is_empty())
            || after.is_some()
            || before.is_some()
            || min_duration_ms.is_some()
            || max_duration_ms.is_some()
    }
}

/// A filter as the rankings apply it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scope {
    /// The only items that count, ascending; none: all.
    pub media: Option<Vec<Uuid>>,
    /// The only languages that count; empty: all.
    pub languages: Vec<String>,
    /// Parts of the names of the only speakers that count, folded; empty: all.
    speakers: Vec<String>,
}

impl Scope {
    /// Finds the items that `filter` lets pass. One statement, and none where nothing is asked of items.
    pub(super) async fn of(store: &Store, filter: &Filter) -> Result<Self, SearchError> {
        let languages: Vec<String> =
            filter.languages.iter().map(|code| text(code).to_lowercase()).filter(|c| !c.is_empty()).collect();
        let speakers: Vec<String> = filter.speakers.iter().map(|name| folded(name)).collect();
        if !filter.asks_of_items() {
            return Ok(Self { media: None, languages, speakers });
        }
        let (after_day, after_ago) = parts(filter.after);
        let (before_day, before_ago) = parts(filter.before);
        let sources: Vec<String> = filter.sources.iter().map(|given| text(given)).collect();
        let spellings: Vec<String> = sources.iter().flat_map(|s| crate::store::spellings(s)).collect();
        let media: Vec<Uuid> = sqlx::query_scalar(
            "SELECT media_id FROM media m
             WHERE m.segments IS NOT NULL
               AND (cardinality($1::uuid[]) = 0 OR m.media_id = ANY($1))
               AND (cardinality($2::text[]) = 0 OR m.channel IN (
                     SELECT channel FROM (SELECT DISTINCT channel FROM media) AS channels, unnest($2) AS name
                     WHERE position(spoken_fold(name) IN spoken_fold(channel)) > 0))
               AND ($3::date IS NULL OR coalesce(m.published_at, m.discovered_at) >= $3::timestamp AT TIME ZONE 'UTC')
               AND ($4::float8 IS NULL OR coalesce(m.published_at, m.discovered_at) >= now() - make_interval(secs => $4))
               AND ($5::date IS NULL OR coalesce(m.published_at, m.discovered_at) < $5::timestamp AT TIME ZONE 'UTC')
               AND ($6::float8 IS NULL OR coalesce(m.published_at, m.discovered_at) < now() - make_interval(secs => $6))
               AND ($7::bigint IS NULL OR m.duration_ms >= $7)
               AND ($8::bigint IS NULL OR m.duration_ms <= $8)
               AND (cardinality($9::text[]) = 0
                    OR m.extractor = ANY($9)
                    OR m.media_id IN (SELECT media_id FROM media_sources WHERE source = ANY($10))
                    OR m.media_id IN (
                         SELECT e.item_id FROM sources s JOIN source_entries e USING (source_id)
                         WHERE e.verdict = 'taken' AND (s.source = ANY($10) OR spoken_fold(s.name) IN (
                             SELECT spoken_fold(name) FROM unnest($9) AS name)))
                    OR EXISTS (
                         SELECT FROM unnest($9) AS name
                         WHERE position(spoken_fold(name) IN spoken_fold(m.source)) > 0
                            OR position(spoken_fold(name) IN spoken_fold(m.webpage_url)) > 0))
               AND (cardinality($11::text[]) = 0 OR EXISTS (
                     SELECT FROM segments s, unnest($11) AS name
                     WHERE s.media_id = m.media_id AND s.model_id = m.model
                       AND position(spoken_fold(name) IN spoken_fold(s.speaker)) > 0))
             ORDER BY media_id",
        )
        .bind(filter.media.iter().map(|id| id.0).collect::<Vec<_>>())
        .bind(filter.channels.iter().map(|c| text(c)).collect::<Vec<_>>())
        .bind(after_day)
        .bind(after_ago)
        .bind(before_day)
        .bind(before_ago)
        .bind(filter.min_duration_ms)
        .bind(filter.max_duration_ms)
        .bind(sources)
        .bind(spellings)
        .bind(filter.speakers.iter().map(|name| text(name)).collect::<Vec<_>>())
        .fetch_all(store.pool())
        .await?;
        Ok(Self { media: Some(media), languages, speakers })
    }

    /// Whether what `speaker` says counts.
    pub(super) fn heard(&self, speaker: Option<&str>) -> bool {
        self.speakers.is_empty()
            || speaker
                .map(folded)
                .is_some_and(|name| self.speakers.iter().any(|part| name.contains(part.as_str())))
    }

    /// Whether nothing can be found in it.
    pub(super) fn is_empty(&self) -> bool {
        self.media.as_ref().is_some_and(Vec::is_empty)
    }
}

fn parts(moment: Option<Moment>) -> (Option<NaiveDate>, Option<f64>) {
    match moment {
        None => (None, None),
        Some(Moment::Day(day)) => (Some(day), None),
        Some(Moment::Ago(while_ago)) => (None, Some(while_ago.as_secs_f64())),
    }
}

/// A name as names are compared.
fn folded(name: &str) -> String {
    words(name).into_iter().map(|word| word.folded).collect::<Vec<_>>().join(" ")
}

/// Text as PostgreSQL takes it.
fn text(given: &str) -> String {
    given.trim().replace('\0', "\u{fffd}")
}

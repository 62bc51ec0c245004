//! What sources are made of: the subscription, what was seen in it, and what a check found.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::media::{Failure, Item, MediaId};

/// What kind of source it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// RSS, Atom or JSON Feed.
    Feed,
    /// A channel, playlist or page that yt-dlp lists.
    List,
    /// A folder of files.
    Folder,
}

impl SourceKind {
    /// The name used in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::List => "list",
            Self::Folder => "folder",
        }
    }

    pub(super) fn read(text: &str) -> Option<Self> {
        [Self::Feed, Self::List, Self::Folder].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A source to subscribe to.
#[derive(Clone, Debug)]
pub struct NewSource {
    /// What to call it; made from the address where there is none.
    pub name: Option<String>,
    /// Address or absolute path.
    pub source: String,
    /// Where it is known before the first look.
    pub kind: Option<SourceKind>,
    /// How often to look.
    pub every: Duration,
    /// What is wanted of it: JSON of `source::rules::Rules`.
    pub rules: Value,
    /// New items taken on after one check.
    pub at_a_time: Option<u32>,
    /// Language spoken in it.
    pub language: Option<String>,
    /// Smaller is sooner.
    pub priority: i16,
}

/// A subscribed source.
#[derive(Clone, Debug)]
pub struct Source {
    /// Identity.
    pub id: Uuid,
    /// What a person calls it.
    pub name: String,
    /// Address or absolute path.
    pub source: String,
    /// Unknown until the first look.
    pub kind: Option<SourceKind>,
    /// How often it is looked at.
    pub every: Duration,
    /// What is wanted of it: JSON of `source::rules::Rules`.
    pub rules: Value,
    /// New items taken on after one check.
    pub at_a_time: Option<u32>,
    /// Language spoken in it.
    pub language: Option<String>,
    /// Smaller is sooner.
    pub priority: i16,
    /// Not looked at.
    pub paused: bool,
    /// Looked at next, by the database's clock.
    pub next_due: DateTime<Utc>,
    /// The same, from now.
    pub due_in: f64,
    /// Looked at last.
    pub checked_at: Option<DateTime<Utc>>,
    /// Days since all of it was listed; none: never.
    pub full_days_ago: Option<f64>,
    /// `ETag` of the feed that is known.
    pub etag: Option<String>,
    /// Its `Last-Modified`.
    pub last_modified: Option<String>,
    /// How the last check went.
    pub result: Option<String>,
    /// Failed checks in a row.
    pub failures: u32,
    /// Why the last one failed.
    pub failure: Option<Failure>,
    /// Entries by what became of them.
    pub counts: EntryCounts,
}

/// Entries of a source by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryCounts {
    /// Items taken on.
    pub taken: u64,
    /// To be taken on when limits allow.
    pub ready: u64,
    /// Not there yet.
    pub waiting: u64,
    /// Not wanted.
    pub left: u64,
}

/// What became of an entry that a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// To be taken on.
    Ready,
    /// Not wanted.
    Left(String),
    /// To be looked at again.
    Waiting {
        /// Why.
        reason: String,
        /// From now.
        after: Duration,
    },
    /// A page that led to other entries.
    Opened,
}

/// An entry that a check found.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The item; of a file without media in it, one of extractor `path`.
    pub item: Item,
    /// What becomes of it.
    pub fate: Fate,
    /// Seconds since 1970.
    pub published_at: Option<i64>,
    /// What it is known by in this source, where that is not the item.
    pub key: Option<MediaId>,
    /// For a file: its identity as a path, its length in bytes and its last modification in nanoseconds since 1970.
    pub file: Option<(MediaId, u64, i64)>,
}

impl Seen {
    /// What the entry is known by.
    pub(super) fn key(&self) -> Uuid {
        self.file.map(|(path, ..)| path).or(self.key).unwrap_or(self.item.media_id).0
    }
}

/// An entry as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownEntry {
    /// Length in bytes and last modification (nanoseconds since 1970) of a file.
    pub file: Option<(u64, i64)>,
    /// Why it was left out, where it was.
    pub left: Option<String>,
    /// Its item was not taken on yet, or could not be had: if it has another address now, that is worth a try.
    pub open: bool,
}

/// An entry whose time has come to be looked at again.
#[derive(Clone, Debug)]
pub struct DueEntry {
    /// What it is known by.
    pub key: MediaId,
    /// The item as it was seen last.
    pub item: Item,
    /// Seconds since 1970.
    pub published_at: Option<i64>,
}

/// The outcome of a check.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// What kind of source it turned out to be.
    pub kind: Option<SourceKind>,
    /// `ETag` and `Last-Modified` of the feed; none: as before.
    pub validators: Option<(Option<String>, Option<String>)>,
    /// All of it was listed.
    pub full: bool,
    /// In the order of the source.
    pub entries: Vec<Seen>,
    /// Entries that were known by their items, and what they are known by from now on.
    pub keyed: Vec<(MediaId, MediaId)>,
    /// How it went, in words.
    pub result: String,
    /// Look again after this time at the latest: a file was still growing.
    pub again_within: Option<Duration>,
}

/// An entry that was taken on.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The item.
    pub media_id: MediaId,
    /// Untrusted text.
    pub title: String,
    /// The source it came from.
    pub source_id: Uuid,
    /// Smaller is sooner.
    pub priority: i16,
    /// As its source states it.
    pub duration_ms: Option<i64>,
    /// Of a file.
    pub bytes: Option<u64>,
}

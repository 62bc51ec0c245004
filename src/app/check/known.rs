//! What of a source was seen before, and what of that is worth another look.

use std::collections::{HashMap, HashSet};

use crate::media::{Item, Locator, MediaId};
use crate::source::rules::MEMBERS_ONLY;
use crate::source::{About, FeedEntry, feed_item};
use crate::store::sources::KnownEntry;

/// An entry of a feed: known by what the feed calls it, so that it stays the same when its enclosure moves to another
/// address. A video has an id of its own that serves better.
pub(super) fn feed_entry(entry: FeedEntry) -> (Item, About) {
    let key = entry.id.as_deref().map(|id| MediaId::new("feed entry", id));
    let (item, about) = feed_item(entry);
    let key = key.filter(|_| matches!(item.locator, Locator::Url(_)));
    (item, About { key, ..about })
}

/// Entries that are known by their items only, and the keys that they have by now.
pub(super) fn newly_keyed(
    found: &[(Item, About)],
    known: &HashMap<MediaId, KnownEntry>,
) -> Vec<(MediaId, MediaId)> {
    let mut met = HashSet::new();
    found
        .iter()
        .filter_map(|(item, about)| Some((item.media_id, about.key?)))
        .filter(|(item, key)| known.contains_key(item) && !known.contains_key(key) && met.insert(*item))
        .collect()
}

/// The entries that were not seen before, and (`true`) those that were and are worth another look: that were for members only
/// and are not any more, or that have another address and could not be had at the old one. Each once.
pub(super) fn unseen(
    found: Vec<(Item, About)>,
    known: &HashMap<MediaId, KnownEntry>,
) -> Vec<(Item, About, bool)> {
    let mut met = HashSet::new();
    let wanted = |item: &Item, about: &About| match known.get(&item.media_id) {
        Some(entry) => (is_for_members(entry) && !about.members_only).then_some(true),
        None => match about.key.and_then(|key| known.get(&key)) {
            Some(entry) => entry.open.then_some(true),
            None => Some(false),
        },
    };
    found
        .into_iter()
        .filter(|(item, _)| met.insert(item.media_id))
        .filter_map(|(item, about)| wanted(&item, &about).map(|again| (item, about, again)))
        .collect()
}

/// Whether it was left out because it was for members only.
pub(super) fn is_for_members(entry: &KnownEntry) -> bool {
    entry.left.as_deref() == Some(MEMBERS_ONLY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(place: &str) -> Item {
        Item {
            media_id: MediaId::new("url", place),
            extractor: "url".into(),
            source_id: place.into(),
            locator: Locator::File(place.into()),
            source: place.into(),
            title: place.into(),
            duration_ms: None,
        }
    }

    #[test]
    fn what_was_for_members_only_is_looked_at_again_when_it_is_for_all() {
        let left = |reason: &str| KnownEntry { left: Some(reason.into()), ..KnownEntry::default() };
        let known = HashMap::from([
            (item("early").media_id, left(MEMBERS_ONLY)),
            (item("exclusive").media_id, left(MEMBERS_ONLY)),
            (item("short").media_id, left("a short video")),
            (item("taken").media_id, KnownEntry::default()),
        ]);
        let members = About { members_only: true, ..About::default() };
        let found = ["early", "short", "taken", "new", "new"]
            .map(|name| (item(name), About::default()))
            .into_iter()
            .chain([(item("exclusive"), members)])
            .collect();
        let unseen: Vec<(String, bool)> =
            unseen(found, &known).into_iter().map(|(item, _, again)| (item.title, again)).collect();
        assert_eq!(unseen, [("early".to_owned(), true), ("new".to_owned(), false)]);
    }

    #[test]
    fn an_entry_that_moved_is_the_same() {
        let key = |name: &str| MediaId::new("feed entry", name);
        let id = |place: &str| item(place).media_id;
        let open = KnownEntry { open: true, ..KnownEntry::default() };
        let known = HashMap::from([
            (key("moved"), KnownEntry::default()),
            (key("mended"), open),
            (id("/old/stays"), KnownEntry::default()),
            (key("stays so"), KnownEntry::default()),
            (id("/old/stays so"), KnownEntry::default()),
        ]);
        let found: Vec<(Item, About)> = [
            ("/new/moved", "moved"),
            ("/new/mended", "mended"),
            ("/old/stays", "stays"),
            ("/old/stays so", "stays so"),
            ("/new/new", "new"),
        ]
        .map(|(place, name)| (item(place), About { key: Some(key(name)), ..About::default() }))
        .into();
        assert_eq!(newly_keyed(&found, &known), [(id("/old/stays"), key("stays"))]);
        let unseen: Vec<(String, bool)> =
            unseen(found, &known).into_iter().map(|(item, _, again)| (item.title, again)).collect();
        assert_eq!(unseen, [("/new/mended".to_owned(), true), ("/new/new".to_owned(), false)]);
    }
}

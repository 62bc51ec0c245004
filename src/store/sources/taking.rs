//! What is ready becomes items, within what the sources and the run allow.

use std::collections::HashMap;

use serde_json::{Value, json};
use sqlx::Row;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::Taken;
use crate::media::{Item, Locator, MediaId};
use crate::store::{Store, StoreError, items, locator, retrying, this_host};

/// Advisory lock held while entries are taken on: two at once would both use up the same allowance.
const TAKE_LOCK: i64 = 0x7370_6f6b_656e_0003;
/// Items noted in one statement.
const BATCH: usize = 500;

impl Store {
    /// Takes on entries that are ready, as far as the sources' allowances and `most` (new items in all) go: of each source its
    /// newest first, the sources in turn. What the library knows already is taken without counting.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn take_entries(&self, most: Option<usize>) -> Result<Vec<Taken>, StoreError> {
        retrying(|| self.try_take_entries(most)).await
    }

    async fn try_take_entries(&self, most: Option<usize>) -> Result<Vec<Taken>, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(TAKE_LOCK).execute(&mut *tx).await?;
        let known = ready(&mut tx, "EXISTS (SELECT FROM media m WHERE m.media_id = e.item_id)", None).await?;
        take(&mut tx, &known).await?;
        let most = most.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        let fresh = ready(&mut tx, "(s.allowance IS NULL OR e.turn <= s.allowance)", most).await?;
        let taken = take(&mut tx, &fresh).await?;
        tx.commit().await?;
        Ok(taken)
    }

    /// Entries that are ready, whether or not limits allow to take them.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn entries_left_over(&self) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM source_entries e JOIN sources s USING (source_id) WHERE verdict = 'ready' AND NOT s.paused",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(count.unsigned_abs())
    }
}

/// An entry that is ready.
struct Ready {
    entry: Uuid,
    source_id: Uuid,
    source: String,
    language: Option<String>,
    priority: i16,
    item: Item,
    /// Where the item is, as stored by another machine that checked the source.
    elsewhere: Option<Value>,
    /// Length and modification of a file.
    file: Option<(u64, i64)>,
}

/// Ready entries that fulfil `condition`, in the order in which they are taken on.
async fn ready(
    conn: &mut PgConnection,
    condition: &str,
    most: Option<i64>,
) -> Result<Vec<Ready>, StoreError> {
    let sql = format!(
        "SELECT e.media_id, e.source_id, e.item_id, e.item, e.size, e.mtime_ns, s.source, s.language, s.priority
         FROM (SELECT *, row_number() OVER (PARTITION BY source_id ORDER BY published_at DESC NULLS LAST, place, media_id)
                      AS turn
               FROM source_entries WHERE verdict = 'ready') e
         JOIN sources s ON s.source_id = e.source_id
         WHERE NOT s.paused AND {condition}
         ORDER BY s.priority, e.turn, e.source_id LIMIT $1"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(most).fetch_all(conn).await?;
    rows.iter()
        .map(|row| {
            let entry: Uuid = row.try_get("media_id")?;
            let stored: Value = row.try_get("item")?;
            let item = item_from_json(MediaId(row.try_get("item_id")?), &stored)?;
            let at = &stored["locator"];
            let elsewhere = locator::found_on(at).is_some_and(|host| host != this_host()).then(|| at.clone());
            let (size, mtime): (Option<i64>, Option<i64>) = (row.try_get("size")?, row.try_get("mtime_ns")?);
            let file = size.zip(mtime).map(|(size, mtime_ns)| (size.unsigned_abs(), mtime_ns));
            Ok(Ready {
                entry,
                source_id: row.try_get("source_id")?,
                source: row.try_get("source")?,
                language: row.try_get("language")?,
                priority: row.try_get("priority")?,
                item,
                elsewhere,
                file,
            })
        })
        .collect()
}

/// Makes entries items; those that are new in the library.
async fn take(conn: &mut PgConnection, entries: &[Ready]) -> Result<Vec<Taken>, StoreError> {
    let mut taken = Vec::new();
    // A source at a time, because where an item was found is noted for all at once.
    let mut by_source: HashMap<Uuid, Vec<&Ready>> = HashMap::new();
    for entry in entries {
        by_source.entry(entry.source_id).or_default().push(entry);
    }
    let mut groups: Vec<_> = by_source.into_iter().collect();
    groups.sort_unstable_by_key(|(id, _)| *id);
    for (source_id, group) in groups {
        let Some(first) = group.first() else { continue };
        let all: Vec<Item> = group.iter().map(|r| r.item.clone()).collect();
        let mut new = 0_i32;
        for batch in all.chunks(BATCH) {
            let inserted = items::insert_new(conn, batch, &first.source).await?;
            new += i32::try_from(inserted.len()).unwrap_or(i32::MAX);
            if let Some(language) = &first.language {
                sqlx::query("UPDATE media SET language_wanted = $2 WHERE media_id = ANY($1)")
                    .bind(inserted.iter().map(|id| id.0).collect::<Vec<_>>())
                    .bind(language)
                    .execute(&mut *conn)
                    .await?;
            }
            taken.extend(group.iter().filter(|r| inserted.contains(&r.item.media_id)).map(|r| Taken {
                media_id: r.item.media_id,
                title: r.item.title.clone(),
                source_id,
                priority: r.priority,
                duration_ms: r.item.duration_ms,
                bytes: r.file.map(|(bytes, _)| bytes),
            }));
        }
        note_elsewhere(conn, &group).await?;
        for Ready { file, item, .. } in &group {
            if let (Some((size, mtime_ns)), Locator::File(path)) = (file, &item.locator) {
                items::remember(&mut *conn, path, *size, *mtime_ns, item.media_id).await?;
            }
        }
        sqlx::query(
            "UPDATE source_entries e SET item = NULL,
                 verdict = CASE WHEN r.known THEN 'left' ELSE 'taken' END, reason = CASE WHEN r.known THEN 'removed before' END
             FROM (SELECT s.media_id, EXISTS (SELECT FROM removed r WHERE r.media_id = s.item_id) AS known
                   FROM source_entries s WHERE source_id = $1 AND media_id = ANY($2)) r
             WHERE e.source_id = $1 AND e.media_id = r.media_id",
        )
        .bind(source_id)
        .bind(group.iter().map(|r| r.entry).collect::<Vec<_>>())
        .execute(&mut *conn)
        .await?;
        sqlx::query("UPDATE sources SET allowance = CASE WHEN allowance IS NOT NULL THEN greatest(0, allowance - $2) END WHERE source_id = $1")
            .bind(source_id)
            .bind(new)
            .execute(&mut *conn)
            .await?;
    }
    // In the order of the entries again: that is the order of their jobs.
    let order: HashMap<MediaId, usize> =
        entries.iter().enumerate().map(|(n, r)| (r.item.media_id, n)).collect();
    taken.sort_by_key(|t| order.get(&t.media_id).copied());
    taken.dedup_by_key(|t| t.media_id);
    Ok(taken)
}

/// Files that another machine has found are where that found them, whoever takes them on.
async fn note_elsewhere(conn: &mut PgConnection, entries: &[&Ready]) -> Result<(), sqlx::Error> {
    let (ids, places): (Vec<Uuid>, Vec<&Value>) =
        entries.iter().filter_map(|r| Some((r.item.media_id.0, r.elsewhere.as_ref()?))).unzip();
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE media m SET locator = n.locator FROM unnest($1::uuid[], $2::jsonb[]) AS n (media_id, locator)
         WHERE m.media_id = n.media_id AND m.locator - 'on' = n.locator - 'on'",
    )
    .bind(ids)
    .bind(places)
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) fn item_to_json(item: &Item) -> Value {
    json!({
        "extractor": item.extractor, "id": item.source_id, "locator": locator::to_json(&item.locator),
        "source": item.source, "title": item.title, "duration_ms": item.duration_ms,
    })
}

pub(super) fn item_from_json(media_id: MediaId, value: &Value) -> Result<Item, sqlx::Error> {
    let bad = |what: String| sqlx::Error::Decode(what.into());
    let text = |key: &str| {
        value[key].as_str().map(str::to_owned).ok_or_else(|| bad(format!("an entry without {key}: {value}")))
    };
    Ok(Item {
        media_id,
        extractor: text("extractor")?,
        source_id: text("id")?,
        locator: locator::from_json(&value["locator"]).map_err(bad)?,
        source: text("source")?,
        title: text("title")?,
        duration_ms: value["duration_ms"].as_i64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_back_from_json() {
        let item = Item {
            media_id: MediaId::new("file", "abc"),
            extractor: "file".into(),
            source_id: "abc".into(),
            locator: crate::media::Locator::File("/a/b.mp4".into()),
            source: "/a/b.mp4".into(),
            title: "b".into(),
            duration_ms: Some(5),
        };
        assert_eq!(item_from_json(item.media_id, &item_to_json(&item)).unwrap(), item);
        assert!(item_from_json(item.media_id, &json!({})).is_err());
    }
}

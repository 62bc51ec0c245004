//! `spoken remove` and `spoken retention`: what goes, and stays away.

use std::collections::BTreeMap;
use std::io::{BufRead, BufWriter, IsTerminal, Write};

use anyhow::bail;
use chrono::{DateTime, NaiveTime, Utc};
use console::style;
use serde_json::json;

use super::library::the_one;
use super::source::the_ones;
use super::world::World;
use crate::cli::{EXIT_FAILED, EXIT_OK, RemoveArgs, RetentionArgs, Since};
use crate::config::Config;
use crate::media::MediaId;
use crate::report::figures;
use crate::store::{Expired, Keep, Removal, Removed, Store, StoreError, Which};
use crate::telemetry::sanitize;

/// Items shown before it is asked; the others are counted.
const SHOWN: usize = 20;

/// `spoken remove`.
///
/// # Errors
/// Where an item or source is not known or not unique, where nobody can be asked, the database's, or standard output's.
pub async fn remove(world: &World, args: &RemoveArgs) -> anyhow::Result<u8> {
    let store = &world.store;
    if args.list {
        return list(&store.removed().await?, args.json);
    }
    let (which, known) = which(store, args).await?;
    let items = match &which.ids {
        Some(ids) if ids.is_empty() => Vec::new(),
        _ => store.removable(&which).await?,
    };
    if args.dry_run {
        return print(&items, &known, args.json);
    }
    if items.is_empty() && known.is_empty() {
        eprintln!("nothing to remove: no item is meant");
        if args.json {
            println!("{}", json!({ "removed": [], "kept": [], "forgotten": 0 }));
        }
        return Ok(EXIT_OK);
    }
    if !items.is_empty() && !args.yes && !asked(&items, args.forget)? {
        eprintln!("nothing was removed");
        return Ok(EXIT_FAILED);
    }
    let ids: Vec<MediaId> = items.iter().map(|item| MediaId(item.media_id)).collect();
    let gone = store.remove(&ids, args.forget, None).await?;
    let forgotten = store.forget_removed(&known).await?;
    let (removed, kept): (Vec<Removal>, Vec<Removal>) =
        items.into_iter().partition(|item| gone.contains(&MediaId(item.media_id)));
    if args.json {
        println!("{}", json!({ "removed": removed, "kept": kept, "forgotten": forgotten }));
    } else {
        if !removed.is_empty() {
            let again = if args.forget { "may be found again" } else { "will not be found again" };
            eprintln!("{} removed; what is gone {again}", figures::count(removed.len() as u64, "item"));
        }
        if forgotten > 0 {
            eprintln!(
                "{} may be found again: `spoken sync` brings in what a source has, `spoken ingest` the rest",
                figures::count(forgotten, "item")
            );
        }
        for item in &kept {
            eprintln!(
                "{} stays: it is being worked on (`spoken queue cancel` stops that)",
                sanitize(&item.title)
            );
        }
    }
    Ok(if kept.is_empty() { EXIT_OK } else { EXIT_FAILED })
}

/// What the arguments mean: items that are there, and with `--forget` those that were removed before.
async fn which(store: &Store, args: &RemoveArgs) -> anyhow::Result<(Which, Vec<MediaId>)> {
    let mut which = Which { channel: args.channel.clone(), ..Which::default() };
    let mut known = Vec::new();
    if !args.media.is_empty() {
        let removed = if args.forget { store.removed().await? } else { Vec::new() };
        let mut ids = Vec::new();
        for what in &args.media {
            match before(&removed, what) {
                Some(id) => known.push(id),
                None => ids.push(the_one(store, what).await?.media_id),
            }
        }
        which.ids = Some(ids);
    }
    if !args.source.is_empty() {
        which.sources = Some(the_ones(store, &args.source).await?.iter().map(|s| s.id).collect());
    }
    which.before = moment(store, args.before).await?;
    which.since = moment(store, args.since).await?;
    Ok((which, known))
}

/// The one that was removed and is called so.
fn before(removed: &[Removed], what: &str) -> Option<MediaId> {
    let exact = |r: &&Removed| r.source == what || r.title == what || r.media_id.to_string() == what;
    let begins = |r: &&Removed| what.len() >= 4 && r.media_id.to_string().starts_with(what);
    let mut found = removed.iter().filter(exact).peekable();
    if found.peek().is_some() {
        return found.next().map(|r| MediaId(r.media_id));
    }
    let mut found = removed.iter().filter(begins);
    found.next().filter(|_| found.next().is_none()).map(|r| MediaId(r.media_id))
}

async fn moment(store: &Store, since: Option<Since>) -> anyhow::Result<Option<DateTime<Utc>>> {
    Ok(match since {
        None => None,
        Some(Since::Day(day)) => Some(day.and_time(NaiveTime::MIN).and_utc()),
        Some(Since::Ago(ago)) => Some(store.now().await? - chrono::Duration::from_std(ago)?),
    })
}

/// Shows what would go, and asks.
fn asked(items: &[Removal], forget: bool) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!(
            "{} would be removed; --yes removes, --dry-run lists them",
            figures::count(items.len() as u64, "item")
        );
    }
    for item in items.iter().take(SHOWN) {
        eprintln!("  {}", line(item));
    }
    if items.len() > SHOWN {
        eprintln!("  … and {} more", items.len() - SHOWN);
    }
    let again = if forget { "" } else { ", for good" };
    eprint!("remove {} with all that was said{again}? [y/N] ", figures::count(items.len() as u64, "item"));
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

fn line(item: &Removal) -> String {
    let id: String = item.media_id.to_string().chars().take(8).collect();
    let channel = item.channel.as_deref().map(|c| format!(" ({})", sanitize(c))).unwrap_or_default();
    format!("{}  {}  {}{channel}", style(id).dim(), item.date.format("%Y-%m-%d"), sanitize(&item.title))
}

/// What would be removed.
fn print(items: &[Removal], known: &[MediaId], json: bool) -> anyhow::Result<u8> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    if json {
        writeln!(out, "{}", json!({ "removed": items, "kept": [], "forgotten": known.len() }))?;
        return Ok(out.flush().map(|()| EXIT_OK)?);
    }
    for item in items {
        writeln!(out, "{}", line(item))?;
    }
    out.flush()?;
    eprintln!("{} would be removed", figures::count(items.len() as u64, "item"));
    Ok(EXIT_OK)
}

fn list(removed: &[Removed], json: bool) -> anyhow::Result<u8> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    if json {
        writeln!(out, "{}", json!({ "removed": removed }))?;
        return Ok(out.flush().map(|()| EXIT_OK)?);
    }
    for item in removed {
        let id: String = item.media_id.to_string().chars().take(8).collect();
        let rule = item.rule.as_deref().map(|r| format!("  {r}")).unwrap_or_default();
        writeln!(
            out,
            "{}  {}  {}{}",
            style(id).dim(),
            item.removed_at.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M"),
            sanitize(&item.title),
            style(rule).dim()
        )?;
    }
    out.flush()?;
    if removed.is_empty() {
        eprintln!("nothing was removed so far");
    }
    Ok(EXIT_OK)
}

/// How long items of sources are kept, as configured.
pub fn keep(config: &Config) -> Keep {
    Keep { last: config.keep_last, days: config.keep_days }
}

/// Removes what is kept no longer; what that was.
///
/// # Errors
/// The database's.
pub async fn retain(store: &Store, keep: Keep) -> Result<Vec<Expired>, StoreError> {
    let expired = store.expired(keep).await?;
    let mut rules: BTreeMap<&str, Vec<MediaId>> = BTreeMap::new();
    for item in &expired {
        rules.entry(&item.rule).or_default().push(MediaId(item.media_id));
    }
    let mut gone = Vec::new();
    for (rule, ids) in rules {
        gone.extend(store.remove(&ids, false, Some(rule)).await?);
    }
    Ok(expired.into_iter().filter(|item| gone.contains(&MediaId(item.media_id))).collect())
}

/// What was removed, a line for each source and rule.
pub fn told(expired: &[Expired]) -> Vec<String> {
    let mut by: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for item in expired {
        *by.entry((&item.source, &item.rule)).or_default() += 1;
    }
    by.into_iter()
        .map(|((source, rule), n)| {
            format!("{} of {} removed: {rule}", figures::count(n, "item"), sanitize(source))
        })
        .collect()
}

/// `spoken retention`.
///
/// # Errors
/// The database's, or standard output's.
pub async fn retention(world: &World, args: &RetentionArgs) -> anyhow::Result<u8> {
    let keep = keep(&world.config);
    let expired = match args.dry_run {
        true => world.store.expired(keep).await?,
        false => retain(&world.store, keep).await?,
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    if args.json {
        writeln!(out, "{}", json!({ "removed": expired }))?;
        return Ok(out.flush().map(|()| EXIT_OK)?);
    }
    for item in &expired {
        let id: String = item.media_id.to_string().chars().take(8).collect();
        writeln!(
            out,
            "{}  {}  {}",
            style(id).dim(),
            sanitize(&item.title),
            style(format!("{}, {}", sanitize(&item.source), item.rule)).dim()
        )?;
    }
    out.flush()?;
    let what = if args.dry_run { "would be removed" } else { "removed" };
    eprintln!("{} {what}", figures::count(expired.len() as u64, "item"));
    Ok(EXIT_OK)
}

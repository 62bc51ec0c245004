//! `spoken source`: what is subscribed to.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use console::style;
use serde_json::{Value, json};

use super::world::World;
use crate::cli::{
    EXIT_OK, OrNone, Since, SourceAddArgs, SourceArgs, SourceCommand, SourceListArgs, SourceNameArgs,
    SourcePriority, SourceRemoveArgs, SourceShowArgs,
};
use crate::config::Key;
use crate::report::figures;
use crate::source::rules::{Judge, Rules};
use crate::source::{SourceArg, without_credentials};
use crate::store::Store;
use crate::store::sources::{NewSource, PassedOver, Source, SourceKind, source_id};
use crate::telemetry::sanitize;

/// How often a source is looked at, where nothing is said.
const EVERY: Duration = Duration::from_secs(6 * 3600);

/// What `source add` understood, before a database is needed for it.
pub struct Addition {
    source: String,
    kind: Option<SourceKind>,
}

impl Addition {
    /// Looks at the arguments: a folder must be there, an address must be one that is read.
    ///
    /// # Errors
    /// What is wrong with the source, the language or the regular expression.
    pub fn read(args: &SourceAddArgs) -> anyhow::Result<Self> {
        let base = std::env::current_dir().context("failed to find the current directory")?;
        let (source, kind) = match SourceArg::parse(&args.source, &base) {
            Ok(SourceArg::Url(url)) => (crate::web::normalise(&url).to_string(), None),
            Ok(SourceArg::Folder(path)) => (folder(&path)?, Some(SourceKind::Folder)),
            Ok(SourceArg::Stdin) => {
                bail!("standard input cannot be subscribed to; give an address or a folder")
            }
            Ok(SourceArg::File(path) | SourceArg::List(path)) => bail!(
                "{} is a file, and one file does not grow new items: subscribe to its folder, or bring it in with `spoken ingest`",
                path.display()
            ),
            Err(failure) => match failure.remedy {
                Some(remedy) => {
                    bail!("{}: {} ({remedy})", without_credentials(&args.source), failure.message)
                }
                None => bail!("{}: {}", without_credentials(&args.source), failure.message),
            },
        };
        if let Some(language) = &args.language {
            let key = Key::find("language").context("there is no setting for the language")?;
            key.accepts(language).map_err(|e| anyhow::anyhow!("--language {language}: {e}"))?;
        }
        if args.name.as_deref().is_some_and(|n| n.trim().is_empty() || n.len() > 100) {
            bail!("--name: give a name of 1 to 100 characters");
        }
        let rules = Rules { matching: args.matching.clone(), ..Rules::default() };
        Judge::new(rules).map_err(|e| anyhow::anyhow!("--match: {e}"))?;
        Ok(Self { source, kind })
    }
}

/// A folder's one name: absolute, links left as they are.
fn folder(path: &Path) -> anyhow::Result<String> {
    let path = std::path::absolute(path).with_context(|| format!("failed to resolve {}", path.display()))?;
    let plain: std::path::PathBuf = path.components().collect();
    let named = plain.to_str().with_context(|| format!("{} is not UTF-8", plain.display()))?;
    Ok(named.to_owned())
}

/// `spoken source …`.
///
/// # Errors
/// Where a source is not known or not unique, the database's, or standard output's.
pub async fn source(world: &World, args: &SourceArgs, addition: Option<Addition>) -> anyhow::Result<u8> {
    let store = &world.store;
    match (&args.command, addition) {
        (SourceCommand::Add(args), Some(addition)) => add(store, args, addition).await,
        (SourceCommand::Add(args), None) => add(store, args, Addition::read(args)?).await,
        (SourceCommand::List(args), _) => list(store, args).await,
        (SourceCommand::Show(args), _) => show(store, args).await,
        (SourceCommand::Pause(args), _) => pause(store, args, true).await,
        (SourceCommand::Resume(args), _) => pause(store, args, false).await,
        (SourceCommand::Remove(args), _) => remove(store, args).await,
    }
}

async fn add(store: &Store, args: &SourceAddArgs, addition: Addition) -> anyhow::Result<u8> {
    let before = store.source(source_id(&addition.source)).await?;
    // What is not given stays as it was.
    let rules = before.as_ref().map(rules_of).unwrap_or_default();
    let since = match args.since {
        None => rules.since,
        Some(OrNone::None) => None,
        Some(OrNone::Some(Since::Day(day))) => Some(day),
        Some(OrNone::Some(Since::Ago(ago))) => {
            Some((store.now().await? - chrono::Duration::from_std(ago)?).date_naive())
        }
    };
    let rules = Rules {
        since,
        matching: match &args.matching {
            Some(text) => Some(text.clone()).filter(|text| !text.is_empty()),
            None => rules.matching,
        },
        shorts: args.no_shorts.map_or(rules.shorts, |no| !no),
        live: args.no_live.map_or(rules.live, |no| !no),
        members: args.members.unwrap_or(rules.members),
    };
    if let Some(name) = &args.name
        && let Some(other) =
            store.sources().await?.into_iter().find(|s| &s.name == name && s.source != addition.source)
    {
        bail!("{} is called {} already; choose another --name", sanitize(&other.source), sanitize(name));
    }
    let new = NewSource {
        name: args.name.clone(),
        source: addition.source,
        kind: addition.kind,
        every: args.every.or(before.as_ref().map(|s| s.every)).unwrap_or(EVERY),
        rules: serde_json::to_value(&rules)?,
        at_a_time: match args.limit {
            Some(limit) => Some(limit).filter(|&n| n > 0),
            None => before.as_ref().and_then(|s| s.at_a_time),
        },
        language: match &args.language {
            Some(code) => Some(code.to_lowercase()).filter(|code| code != "auto"),
            None => before.as_ref().and_then(|s| s.language.clone()),
        },
        priority: match args.priority {
            Some(priority) => priority.number(),
            None => before.as_ref().map_or(SourcePriority::default().number(), |s| s.priority),
        },
    };
    let (source, fresh) = store.add_source(&new).await?;
    let (last, days) = store.source_keeps(source.id).await?;
    let kept = |given: Option<OrNone<u32>>, before: Option<i32>| match given {
        Some(given) => given.into_option(),
        None => before.map(i32::unsigned_abs),
    };
    store.keep_source(source.id, kept(args.keep_last, last), kept(args.keep_days, days)).await?;
    if args.json {
        println!("{}", to_json(&source));
    } else {
        let what = if fresh { "subscribed to" } else { "changed" };
        let paused = if source.paused { " (paused)" } else { "" };
        println!("{what} {}: {}{paused}", sanitize(&source.name), sanitize(&source.source));
        let next = match source.paused {
            true => "`spoken source resume` lets it be looked at again",
            false => "`spoken sync` brings in what is there now; cron or `spoken run` what comes",
        };
        eprintln!("{}", style(next).for_stderr().dim());
    }
    Ok(EXIT_OK)
}

async fn list(store: &Store, args: &SourceListArgs) -> anyhow::Result<u8> {
    let sources = store.sources().await?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if args.json {
        let all: Vec<Value> = sources.iter().map(to_json).collect();
        writeln!(out, "{}", json!({ "sources": all }))?;
        return Ok(out.flush().map(|()| EXIT_OK)?);
    }
    if sources.is_empty() {
        eprintln!("no sources yet: `spoken source add URL|FOLDER` subscribes to one");
        return Ok(EXIT_OK);
    }
    let width = sources.iter().map(|s| sanitize(&s.name).chars().count()).max().unwrap_or(0);
    for source in &sources {
        let name = sanitize(&source.name);
        let state = match (&source.failure, source.paused) {
            (_, true) => style("paused".to_owned()).yellow(),
            (Some(_), _) => style(format!("failed {}×", source.failures)).red(),
            _ if source.due_in <= 0.0 => style("due now".to_owned()).cyan(),
            _ => style(format!("in {}", figures::remaining((source.due_in * 1000.0) as u64))).green(),
        };
        let counts = &source.counts;
        let mut items = figures::count(counts.taken, "item");
        for (n, what) in
            [(counts.ready, "to come"), (counts.waiting, "not there yet"), (counts.left, "left out")]
        {
            if n > 0 {
                items += &format!(", {n} {what}");
            }
        }
        writeln!(out, "{name:width$}  {state:<12}  {items}  {}", style(sanitize(&source.source)).dim())?;
        if let Some(failure) = &source.failure {
            writeln!(out, "{:width$}  {} {}", "", style("└").dim(), style(sanitize(&failure.message)).red())?;
            if let Some(remedy) = &failure.remedy {
                writeln!(out, "{:width$}    {}", "", style(sanitize(remedy)).dim())?;
            }
        }
    }
    Ok(out.flush().map(|()| EXIT_OK)?)
}

async fn show(store: &Store, args: &SourceShowArgs) -> anyhow::Result<u8> {
    let source = the_one(store, &args.source).await?;
    let passed = store.passed_over(source.id, args.limit).await?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if args.json {
        let mut all = to_json(&source);
        all["passed_over"] = passed.iter().map(passed_json).collect();
        writeln!(out, "{all}")?;
        return Ok(out.flush().map(|()| EXIT_OK)?);
    }
    writeln!(out, "{}", style(sanitize(&source.name)).bold())?;
    writeln!(out, "  {}", sanitize(&source.source))?;
    let kind = source.kind.map_or("not looked at yet", SourceKind::as_str);
    writeln!(out, "  {kind}, every {}", figures::duration(source.every.as_millis() as u64))?;
    for line in wishes(&source) {
        writeln!(out, "  {line}")?;
    }
    for line in keeps(store.source_keeps(source.id).await?) {
        writeln!(out, "  {line}")?;
    }
    if source.paused {
        writeln!(out, "  paused")?;
    } else {
        writeln!(out, "  next look: {}", local(source.next_due))?;
    }
    if let Some(at) = source.checked_at {
        writeln!(out, "  last look: {}, {}", local(at), sanitize(source.result.as_deref().unwrap_or("")))?;
    }
    if let Some(failure) = &source.failure {
        writeln!(
            out,
            "  failed {}: {}",
            figures::count(source.failures.into(), "time"),
            style(sanitize(&failure.message)).red()
        )?;
        if let Some(remedy) = &failure.remedy {
            writeln!(out, "  {}", style(sanitize(remedy)).dim())?;
        }
    }
    let counts = &source.counts;
    writeln!(
        out,
        "  {}, {} to come, {} not there yet, {} left out",
        figures::count(counts.taken, "item"),
        counts.ready,
        counts.waiting,
        counts.left
    )?;
    for entry in &passed {
        let reason = match (&entry.reason, entry.look_at) {
            (Some(reason), Some(at)) => format!("{reason}; looked at again {}", local(at)),
            (Some(reason), None) => reason.clone(),
            (None, _) => "to come: over a limit for now".to_owned(),
        };
        writeln!(out, "    {}  {}", sanitize(&entry.title), style(sanitize(&reason)).dim())?;
    }
    Ok(out.flush().map(|()| EXIT_OK)?)
}

fn rules_of(source: &Source) -> Rules {
    serde_json::from_value(source.rules.clone()).unwrap_or_default()
}

/// What is asked of a source, in words.
fn wishes(source: &Source) -> Vec<String> {
    let rules = rules_of(source);
    let mut all = Vec::new();
    all.extend(rules.since.map(|day| format!("published since {day}")));
    all.extend(rules.matching.map(|text| format!("titles that match {}", sanitize(&text))));
    all.extend(source.at_a_time.map(|n| format!("at most {n} new items after each look")));
    all.extend(source.language.as_ref().map(|l| format!("spoken in {l}")));
    if source.priority != 0 {
        all.push(format!("{} priority", SourcePriority::word(source.priority)));
    }
    for (left_out, what) in [
        (!rules.shorts, "no short videos"),
        (!rules.live, "no recordings of live streams"),
        (rules.members, "also for members only"),
    ] {
        if left_out {
            all.push(what.to_owned());
        }
    }
    all
}

/// How long the items of a source are kept, where it says so itself.
fn keeps((last, days): (Option<i32>, Option<i32>)) -> Vec<String> {
    let last = last.map(|n| match n {
        0 => "all items are kept".to_owned(),
        n => format!("the latest {} kept", figures::count(n.unsigned_abs().into(), "item")),
    });
    let days = days.map(|n| match n {
        0 => "items are kept for ever".to_owned(),
        n => format!("items are kept for {}", figures::count(n.unsigned_abs().into(), "day")),
    });
    last.into_iter().chain(days).collect()
}

async fn pause(store: &Store, args: &SourceNameArgs, paused: bool) -> anyhow::Result<u8> {
    let sources = the_ones(store, &args.sources).await?;
    for source in &sources {
        store.pause_source(source.id, paused).await?;
    }
    let names: Vec<&str> = sources.iter().map(|s| s.name.as_str()).collect();
    if args.json {
        println!("{}", json!({ "sources": names }));
    } else {
        println!("{} {}", if paused { "paused" } else { "resumed" }, sanitize(&names.join(", ")));
    }
    Ok(EXIT_OK)
}

async fn remove(store: &Store, args: &SourceRemoveArgs) -> anyhow::Result<u8> {
    let sources = the_ones(store, &args.sources).await?;
    let mut items = 0;
    for source in &sources {
        items += store.remove_source(source.id, args.with_items).await?;
    }
    let names: Vec<&str> = sources.iter().map(|s| s.name.as_str()).collect();
    if args.json {
        println!("{}", json!({ "sources": names, "items_removed": items }));
    } else {
        let fate = match args.with_items {
            true => format!("and {}", figures::count(items, "item")),
            false => "; their items stay".to_owned(),
        };
        println!("removed {} {fate}", sanitize(&names.join(", ")));
    }
    Ok(EXIT_OK)
}

/// The sources that these words mean, each once.
///
/// # Errors
/// Where one is not known or not unique.
pub async fn the_ones(store: &Store, names: &[String]) -> anyhow::Result<Vec<Source>> {
    let mut all: Vec<Source> = Vec::new();
    for name in names {
        let source = the_one(store, name).await?;
        if all.iter().all(|s| s.id != source.id) {
            all.push(source);
        }
    }
    Ok(all)
}

async fn the_one(store: &Store, what: &str) -> anyhow::Result<Source> {
    let mut sources = store.sources().await?;
    let place = match SourceArg::parse(what, &std::env::current_dir()?) {
        Ok(SourceArg::Url(url)) => Some(crate::web::normalise(&url).to_string()),
        Ok(SourceArg::Folder(path)) => folder(&path).ok(),
        _ => None,
    };
    let exact = |s: &Source| s.name == what || s.source == what || Some(&s.source) == place.as_ref();
    if let Some(at) = sources.iter().position(exact) {
        return Ok(sources.swap_remove(at));
    }
    let begins = |s: &Source| what.len() >= 4 && s.id.to_string().starts_with(what);
    match sources.iter().filter(|s| begins(s)).count() {
        1 => {}
        0 => bail!("no source is called {:?}; `spoken source list` shows what there is", sanitize(what)),
        n => bail!("{n} sources have an id that begins with {:?}; write more of it", sanitize(what)),
    }
    let at = sources.iter().position(begins).context("the source is gone")?;
    Ok(sources.swap_remove(at))
}

fn local(at: DateTime<Utc>) -> String {
    at.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M").to_string()
}

/// A source as programs see it.
fn to_json(source: &Source) -> Value {
    json!({
        "source_id": source.id,
        "name": source.name,
        "source": source.source,
        "kind": source.kind.map(SourceKind::as_str),
        "every_s": source.every.as_secs(),
        "rules": source.rules,
        "limit": source.at_a_time,
        "language": source.language,
        "priority": SourcePriority::word(source.priority),
        "paused": source.paused,
        "next_due": source.next_due,
        "checked_at": source.checked_at,
        "result": source.result,
        "failures": source.failures,
        "error": source.failure.as_ref().map(|f| json!({
            "class": f.class.as_str(), "message": f.message, "remedy": f.remedy,
        })),
        "items": source.counts.taken,
        "to_come": source.counts.ready,
        "waiting": source.counts.waiting,
        "left": source.counts.left,
    })
}

fn passed_json(entry: &PassedOver) -> Value {
    json!({
        "media_id": entry.media_id,
        "title": entry.title,
        "verdict": entry.verdict,
        "reason": entry.reason,
        "look_at": entry.look_at,
        "published_at": entry.published_at,
    })
}

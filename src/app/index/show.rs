//! `spoken index status`, and what `spoken doctor` says about the index.

use anyhow::Context;
use console::style;
use serde_json::json;

use super::super::doctor::Check;
use super::super::world::World;
use super::{due, note, so_far};
use crate::cli::{EXIT_OK, IndexStatusArgs};
use crate::config::Config;
use crate::report::figures;
use crate::store::Store;
use crate::store::index::VectorTable;
use crate::telemetry::sanitize;

/// Vectors since the index was measured, as a share of those then, from which it should be measured again.
const GROWN: f64 = 0.5;

/// `spoken index status`.
///
/// # Errors
/// The database's, or standard output's.
pub async fn status(world: &World, args: &IndexStatusArgs) -> anyhow::Result<u8> {
    let mut tables = world.store.vector_tables().await?;
    if args.measure {
        for table in tables.iter().filter(|t| t.index.as_ref().is_some_and(|index| index.valid)) {
            note(world, table, None).await.context("failed to measure the recall")?;
        }
        tables = world.store.vector_tables().await?;
    }
    if args.json {
        println!("{}", json!({"tables": tables.iter().map(told).collect::<Vec<_>>()}));
        return Ok(EXIT_OK);
    }
    if tables.is_empty() {
        eprintln!("there are no vectors yet: `spoken ingest FOLDER|URL…` brings something in");
    }
    let due = due(&world.store, &world.config).await?;
    for table in &tables {
        println!("{}", style(sanitize(&table.model.model_id)).bold());
        println!(
            "  vectors  about {} of {} elements, {}",
            figures::grouped(table.rows.unsigned_abs()),
            table.model.dimension,
            size(table.bytes)
        );
        let due = due.iter().any(|t| t.table == table.table);
        println!("  index    {}", in_words(table, due, &world.config));
        if let Some(facts) = table.index.as_ref().filter(|i| i.valid).and_then(|i| i.facts) {
            println!(
                "  recall   {:.1} % of the ten nearest with ef_search {} ({} samples, {})",
                facts.recall.share * 100.0,
                facts.recall.ef_search,
                facts.recall.samples,
                facts.measured_at.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M")
            );
            if let Some(build) = facts.build {
                println!(
                    "  built    {}, in {} with {} MiB of memory",
                    build.at.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M"),
                    figures::duration(build.took_ms.unsigned_abs()),
                    build.memory_mb
                );
            }
        }
    }
    Ok(EXIT_OK)
}

/// In a word, for programs.
fn state(table: &VectorTable) -> &'static str {
    match (&table.index, &table.building) {
        (Some(index), _) if index.valid => "complete",
        (_, Some(_)) => "building",
        (Some(_), None) => "interrupted",
        (None, None) => "none",
    }
}

fn told(table: &VectorTable) -> serde_json::Value {
    let index = table.index.as_ref();
    let facts = index.filter(|i| i.valid).and_then(|i| i.facts);
    let build = facts.and_then(|f| f.build);
    json!({
        "table": table.table,
        "model": table.model.model_id,
        "dimension": table.model.dimension,
        "passages": table.rows,
        "table_bytes": table.bytes,
        "state": state(table),
        "bytes": index.map(|i| i.bytes),
        "done": table.building.as_ref().map(|p| p.done),
        "total": table.building.as_ref().map(|p| p.total),
        "recall": facts.map(|f| f.recall.share),
        "ef_search": facts.map(|f| f.recall.ef_search),
        "samples": facts.map(|f| f.recall.samples),
        "measured_at": facts.map(|f| f.measured_at),
        "built_at": build.map(|b| b.at),
        "build_ms": build.map(|b| b.took_ms),
        "built_rows": build.map(|b| b.rows),
        "memory_mb": build.map(|b| b.memory_mb),
        "workers": build.map(|b| b.workers),
    })
}

fn in_words(table: &VectorTable, due: bool, config: &Config) -> String {
    match (&table.index, &table.building) {
        (Some(index), _) if index.valid => format!("complete, {}", size(index.bytes)),
        (_, Some(at)) => format!("being built: {}", so_far(at)),
        (Some(_), None) => {
            "left unfinished by an interrupted build; `spoken index build` starts over".to_owned()
        }
        (None, None) if due => {
            "none; every vector is compared, which takes long by now: `spoken index build`".to_owned()
        }
        (None, None) => format!(
            "none; every vector is compared (one is built from {} passages on, when little is left to bring in)",
            figures::grouped(config.index_min_passages)
        ),
    }
}

fn size(bytes: i64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.0} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

/// What `spoken doctor` says; none where there are no vectors.
///
/// # Errors
/// The database's.
pub async fn health(store: &Store, config: &Config) -> anyhow::Result<Option<Check>> {
    const NAME: &str = "Index";
    let tables = store.vector_tables().await?;
    let due = due(store, config).await?;
    let (mut said, mut advice) = (Vec::new(), None);
    for table in &tables {
        let due = due.iter().any(|t| t.table == table.table);
        let index = table.index.as_ref();
        let facts = index.filter(|i| i.valid).and_then(|i| i.facts);
        let mut line = format!(
            "{}: about {} passages, {}",
            table.model.model_id,
            figures::grouped(table.rows.unsigned_abs()),
            match facts {
                Some(facts) => format!("complete, finds {:.1} % of the nearest", facts.recall.share * 100.0),
                None => state(table).to_owned(),
            }
        );
        if state(table) == "none" && !due {
            line.push_str(" needed yet");
        }
        said.push(line);
        let wrong = match facts {
            _ if state(table) == "interrupted" => {
                Some("an index build was interrupted; `spoken index build` starts over".to_owned())
            }
            _ if due && state(table) == "none" => {
                Some("search by meaning compares every vector: `spoken index build`".to_owned())
            }
            Some(facts) if f64::from(facts.recall.share) < config.index_recall => Some(format!(
                "less than the {:.1} % wanted: `spoken index build --again`, or a lower INDEX_RECALL",
                config.index_recall * 100.0
            )),
            Some(facts)
                if facts.build.is_some_and(|b| table.rows as f64 > b.rows as f64 * (1.0 + GROWN))
                    && facts.build.is_some_and(|b| b.at >= facts.measured_at - chrono::TimeDelta::hours(1)) =>
            {
                Some("the library has grown much since: `spoken index status --measure` tells whether it still finds".to_owned())
            }
            _ => None,
        };
        advice = advice.or(wrong);
    }
    if said.is_empty() {
        return Ok(None);
    }
    let detail = said.join("; ");
    Ok(Some(match advice {
        Some(advice) => Check::warn(NAME, detail, advice),
        None => Check::ok(NAME, detail),
    }))
}

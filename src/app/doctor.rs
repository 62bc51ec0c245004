//! `spoken doctor`: is everything there, and if not, what to do.
//!
//! A check looks and never changes anything. What only other parts of the program can find out (the database) comes in
//! as [`Facts`].

mod engines;
mod machine;
mod models;
mod tools;

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use console::Style;
use serde::Serialize;

use crate::config::Config;
use crate::telemetry::sanitize;

pub use engines::{Build, CudaBuild};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, but something is missing or will cost time.
    Warn,
    /// Something that is needed does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was found. May quote other programs' output.
    pub detail: String,
    /// What to do about it, where there is something to do.
    pub advice: Option<String>,
}

impl Check {
    /// As it should be.
    pub fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, detail: detail.into(), advice: None }
    }

    /// Works, but `advice` would make it better.
    pub fn warn(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, status: Status::Warn, detail: detail.into(), advice: Some(advice.into()) }
    }

    /// Does not work; `advice` says what to do.
    pub fn fail(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, status: Status::Fail, detail: detail.into(), advice: Some(advice.into()) }
    }
}

/// What is known about the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// It answered.
    Reached {
        /// `server_version`.
        postgres: String,
        /// Version of the extension that is installed or could be; none: pgvector is missing.
        pgvector: Option<String>,
    },
    /// The private server does not run at the moment; it is started when it is needed.
    Idle,
    /// It could not be reached, and why.
    Failed(String),
}

/// What the checks go by.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The effective settings.
    pub config: &'a Config,
    /// The database, as far as it was reached.
    pub database: Database,
    /// What is to be said about the index of the vectors; none where there are none.
    pub index: Option<Check>,
    /// The store between machines where one is set: its place, or why it cannot be used.
    pub handover: Option<Result<String, String>>,
    /// `ORT_DYLIB_PATH`, which goes before the library in `tools_dir`.
    pub onnx_runtime: Option<PathBuf>,
    /// Where the hub's own cache is (`HF_HOME`, else `~/.cache/huggingface`), besides `data_dir/models`.
    pub hub_home: Option<PathBuf>,
    /// What this binary can run models with.
    pub build: Build,
    /// To tell how old yt-dlp is.
    pub now: DateTime<Utc>,
}

/// What to do where something that the set-up installs is missing.
const RUN_SETUP: &str =
    "run ./scripts/setup in the repository, or set SPOKEN_TOOLS_DIR to where it put the tools";

/// Looks at everything. Starts a few programs to ask for their versions, each for at most 20 s; blocks meanwhile.
pub fn checks(facts: &Facts<'_>) -> Vec<Check> {
    let config = facts.config;
    let mut checks = vec![
        tools::yt_dlp(&config.tools_dir, facts.now),
        tools::javascript(&config.tools_dir),
        tools::ffmpeg_libraries(),
        tools::ffmpeg_program(),
        tools::onnx_runtime(facts.onnx_runtime.as_deref(), &config.tools_dir),
        models::whisper(config, facts.hub_home.as_deref()),
        models::embedding(config, facts.hub_home.as_deref()),
    ];
    if config.database_url.is_none() {
        checks.push(tools::postgres_programs(&config.tools_dir));
    }
    checks.push(database(&facts.database, config));
    checks.extend(facts.index.clone());
    match &facts.handover {
        Some(Ok(place)) => checks.push(Check::ok("Hand-over", format!("{place} can be written and read"))),
        Some(Err(error)) => checks.push(Check::fail(
            "Hand-over",
            error,
            "fetch and transcribe nodes need this store; without them leave HANDOVER_URL out",
        )),
        None => {}
    }
    checks.push(machine::data_dir(&config.data_dir));
    checks.push(machine::disk(&config.data_dir, config.min_free_disk_mb));
    checks.push(machine::processor());
    checks.push(machine::memory());
    checks.push(engines::engines(&facts.build));
    checks.push(engines::gpu(crate::gpu::inventory(), config.whisper_device, &facts.build));
    if let Some(path) = &config.cookies_file {
        checks.push(machine::cookies(path));
    }
    checks
}

/// The worst of all.
pub fn worst(checks: &[Check]) -> Status {
    checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok)
}

/// For a terminal; `styled` puts colours in. Outside text is made safe.
pub fn render(checks: &[Check], styled: bool) -> String {
    let style = |style: Style| style.force_styling(styled);
    let widest = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for check in checks {
        let (word, color) = match check.status {
            Status::Ok => ("ok  ", style(Style::new().green())),
            Status::Warn => ("warn", style(Style::new().yellow())),
            Status::Fail => ("FAIL", style(Style::new().red().bold())),
        };
        let detail = sanitize(&check.detail);
        out.push_str(&format!("{}  {:widest$}  {detail}\n", color.apply_to(word), check.name));
        if let Some(advice) = &check.advice {
            let arrow = color.apply_to("→");
            out.push_str(&format!("      {:widest$}  {arrow} {}\n", "", sanitize(advice)));
        }
    }
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    out.push_str(&match (count(Status::Fail), count(Status::Warn)) {
        (0, 0) => "\nEverything is there.\n".to_owned(),
        (0, warnings) => format!("\nNothing is broken; {} to look at.\n", counted(warnings, "warning")),
        (failures, 0) => format!("\n{} to put right.\n", counted(failures, "failure")),
        (failures, warnings) => {
            format!(
                "\n{} to put right, {} to look at.\n",
                counted(failures, "failure"),
                counted(warnings, "warning")
            )
        }
    });
    out
}

fn counted(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// The oldest pgvector whose index scans go on when filters leave too few rows (`hnsw.iterative_scan`).
const PGVECTOR_REQUIRED: (u64, u64, u64) = (0, 8, 0);
/// Index corruption was fixed in this one.
const PGVECTOR_SOUND: (u64, u64, u64) = (0, 8, 4);

fn database(database: &Database, config: &Config) -> Check {
    const NAME: &str = "Database";
    let place = match &config.database_url {
        Some(url) => url.to_string(),
        None => format!("private server in {}", config.data_dir.join("postgres").display()),
    };
    match database {
        Database::Idle => Check::ok(NAME, format!("{place}, not running; it starts when it is needed")),
        Database::Failed(error) if config.database_url.is_some() => Check::fail(
            NAME,
            format!("{place}: {error}"),
            "check DATABASE_URL and that the server runs; without DATABASE_URL a private server is used",
        ),
        Database::Failed(error) => Check::fail(
            NAME,
            format!("{place}: {error}"),
            "`spoken db start` tells more; or set DATABASE_URL to a Postgres of your own",
        ),
        Database::Reached { postgres, pgvector: None } => Check::fail(
            NAME,
            format!("{place}: PostgreSQL {postgres} without pgvector"),
            "install pgvector 0.8 or later on the server (Debian: postgresql-NN-pgvector), or leave DATABASE_URL out",
        ),
        Database::Reached { postgres, pgvector: Some(pgvector) } => {
            let detail = format!("{place}: PostgreSQL {postgres}, pgvector {pgvector}");
            match version(pgvector) {
                Some(found) if found < PGVECTOR_REQUIRED => {
                    Check::fail(NAME, detail, "upgrade pgvector on the server to 0.8 or later")
                }
                Some(found) if found < PGVECTOR_SOUND => Check::warn(
                    NAME,
                    detail,
                    "upgrade pgvector to 0.8.4 or later: earlier ones can corrupt an index",
                ),
                _ => Check::ok(NAME, detail),
            }
        }
    }
}

/// The first three numbers of a version; missing ones are 0.
fn version(text: &str) -> Option<(u64, u64, u64)> {
    let mut parts = text.trim().split(['.', '-', '+', ' ']).map_while(|part| part.parse().ok());
    Some((parts.next()?, parts.next().unwrap_or(0), parts.next().unwrap_or(0)))
}

/// `path`, or the nearest directory above it that exists.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|ancestor| ancestor.exists())
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    let mib = bytes as f64 / MIB;
    if mib < 1024.0 { format!("{mib:.0} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

#[cfg(test)]
mod tests;

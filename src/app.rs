//! Composes the parts into commands: settings, logging, a runtime, the command, an exit code.
//!
//! * [`main`] — the whole program.
//! * [`ingest`], [`listing`] — `spoken ingest`: sources into jobs, jobs through the pipeline.
//! * [`works`] — the open queue and the running stages: what all that work have in common.
//! * [`work`] — `spoken work`: the queue alone, or a part of the work that other machines share.
//! * [`node`] — this process among those that work on the library, and what it looks after; `spoken nodes`.
//! * [`source`], [`mod@check`], [`sync`], [`mod@run`] — subscriptions: kept, looked into, once for cron or by a daemon.
//! * [`notify`] — telling systemd.
//! * [`steps`] — settings into running steps.
//! * [`offline`] — files to transcripts without a database: [`transcribe`] and [`mod@bench`].
//! * [`limits`] — `spoken limits`: how sites stand.
//! * [`index`] — `spoken index`: the index of the vectors.
//! * [`library`] — commands that read: status, show, and retry.
//! * [`import`] — transcripts that exist already.
//! * [`mod@search`] — finding it again; [`mod@export`] — transcripts to take elsewhere; [`stats`] — the library in figures.
//! * [`models`] — which embedding model a command works with; [`mod@reembed`] changes over to another one.
//! * [`mod@upgrade`] — doubtful transcripts done again; [`mod@remove`] — what goes, and how long items are kept.
//! * [`mod@queue`] — looking at the queue and steering it.
//! * [`world`] — the open database that commands share.
//! * [`doctor`] — is everything there?
//! * [`ending`] — an error into an exit code.
//! * [`signals`] — Ctrl-C and SIGTERM.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::cli::{
    Cli, Command, DbCommand, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, IngestArgs, ReembedArgs, SourceCommand,
    SyncArgs, TranscribeArgs, UpgradeArgs, WorkArgs,
};
use crate::config::{self, Inputs, Loaded, LogFormat};
use crate::event::{self, Event, Events};
use crate::gpu::Monitor;
use crate::postgres::Server;
use crate::report::{self, Mode, Terminal};
use crate::telemetry::{self, Output, TelemetryOptions};

pub mod bench;
pub mod check;
pub mod doctor;
pub mod ending;
pub mod export;
pub mod import;
pub mod index;
pub mod ingest;
pub mod library;
pub mod limits;
pub mod listing;
pub mod node;
pub mod models;
pub mod notify;
pub mod offline;
mod patience;
pub mod queue;
pub mod reembed;
pub mod remove;
pub mod run;
pub mod search;
pub mod signals;
pub mod source;
pub mod stats;
pub mod steps;
pub mod sync;
pub mod transcribe;
pub mod upgrade;
pub mod work;
pub mod works;
pub mod world;

use signals::Stopping;
use world::World;

/// Connections of one-shot readers.
const READER_CONNECTIONS: u32 = 2;
/// Connections of `spoken reembed`, which embeds several items at once.
const REEMBED_CONNECTIONS: u32 = 8;
/// Connections of `spoken queue`, whose drill works.
const QUEUE_CONNECTIONS: u32 = 8;

/// Connections of `spoken index`, whose drill writes with as many as `ingest` by default.
const INDEX_CONNECTIONS: u32 = 16;

/// Runs the command line of this process to its end.
pub fn main() -> ExitCode {
    let cli = Cli::from_process();
    match start(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // A reader that left (`spoken status | head`) is no error.
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
            {
                return ExitCode::SUCCESS;
            }
            let text = in_full(&error);
            eprintln!("error: {}", text.lines().map(telemetry::sanitize).collect::<Vec<_>>().join("\n"));
            ExitCode::from(ending::exit_code(&error))
        }
    }
}

/// An error and what it came from, each said once: many errors repeat their cause in their own text.
fn in_full(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        _ if said.contains(&cause) => said,
        _ => format!("{said}: {cause}"),
    })
}

fn start(cli: &Cli) -> anyhow::Result<u8> {
    if let Command::Completions(args) = &cli.command {
        std::io::stdout().write_all(&args.script())?;
        return Ok(EXIT_OK);
    }
    let loaded = config::load(&Inputs::from_process(cli.overrides())?)?;
    loaded.export_library_variables()?;
    widest_vectors();
    let output = telemetry::init(&TelemetryOptions {
        json: loaded.config.log_format == LogFormat::Json,
        filter: log_level(cli, &loaded),
        color: cli.global.color,
    })?;
    if let Command::Config(args) = &cli.command {
        return show_config(args, &loaded);
    }
    if let Command::Export(args) = &cli.command
        && args.schema
    {
        return export::schema(args);
    }
    if let Command::Bench(args) = &cli.command {
        // Only starts processes, or is one of them: nothing here waits for the network.
        return if args.child {
            bench::child(&loaded).map(|()| EXIT_OK)
        } else {
            bench::bench(cli, args, &loaded)
        };
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(run_cli(cli, loaded, &output));
    // A blocking read of a terminal or a stuck name look-up must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// What is logged: as set; where that is the default, `sync` keeps to warnings when nobody watches, since cron mails every line.
fn log_level(cli: &Cli, loaded: &Loaded) -> String {
    let quiet = matches!(cli.command, Command::Sync(_)) && !std::io::stderr().is_terminal();
    // The repository's default.toml writes the default down: that is no wish for it.
    let set = !matches!(loaded.origin("log_level").layer, "default" | "file");
    let usual = config::Config::defaults(std::path::Path::new("/")).log_level == loaded.config.log_level;
    match quiet && usual && !set {
        true => "warn".to_owned(),
        false => loaded.config.log_level.clone(),
    }
}

/// Lets CTranslate2 use AVX-512, which it does on demand only because early processors slowed down for it; those that know the
/// 8-bit instructions (VNNI) hardly do. Worth 3 to 7 % of the processor time, in softmax and layer norms. Whoever sets the
/// variable has the last word.
fn widest_vectors() {
    #[cfg(target_arch = "x86_64")]
    {
        const VARIABLE: &str = "CT2_FORCE_CPU_ISA";
        let known = std::arch::is_x86_feature_detected!("avx512vnni")
            && std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vl");
        let threads = std::fs::read_dir("/proc/self/task").map_or(usize::MAX, Iterator::count);
        if known && threads == 1 && std::env::var_os(VARIABLE).is_none() {
            // SAFETY: this is the only thread of the process (counted above, and only this one could start another), so nobody
            // reads the environment while it changes.
            unsafe { std::env::set_var(VARIABLE, "AVX512") };
        }
    }
}

async fn run_cli(cli: &Cli, loaded: Loaded, output: &Output) -> anyhow::Result<u8> {
    match &cli.command {
        Command::Ingest(args) => ingest_command(args, cli.global.library_flags(), loaded, output).await,
        Command::Work(args) => work_command(args, loaded, output).await,
        Command::Nodes(args) => {
            let world = World::open(loaded.config, READER_CONNECTIONS).await?;
            let done = node::nodes(&world, args).await;
            world.close().await;
            done
        }
        Command::Doctor(args) => doctor_command(args.json, &loaded).await,
        Command::Db(args) => db_command(args.command, loaded).await,
        Command::Status(args) => {
            let world = World::open(loaded.config, READER_CONNECTIONS).await?;
            let done = library::status(&world, args).await;
            world.close().await;
            done
        }
        Command::Stats(args) => {
            let world = World::open(loaded.config, READER_CONNECTIONS).await?;
            let done = stats::stats(&world, args).await;
            world.close().await;
            done
        }
        Command::Retry(args) => {
            let world = World::open(loaded.config, READER_CONNECTIONS).await?;
            let done = library::retry(&world, args).await;
            world.close().await;
            done
        }
        Command::Queue(args) => {
            let world = World::open(loaded.config, QUEUE_CONNECTIONS).await?;
            let done = queue::queue(&world, args).await;
            world.close().await;
            done
        }
        Command::Index(args) => {
            let world = World::open(loaded.config, INDEX_CONNECTIONS).await?;
            let done = index::index(&world, args).await;
            world.close().await;
            done
        }
        Command::Limits(args) => {
            let world = World::open(loaded.config, READER_CONNECTIONS).await?;
            let done = limits::limits(&world, args).await;
            world.close().await;
            done
        }
        Command::Import(args) => {
            let world = World::open(loaded.config, QUEUE_CONNECTIONS).await?;
            let done = import::import(&world, args).await;
            world.close().await;
            done
        }
        Command::Search(args) => {
            let world = World::open(loaded.config, READER_CONNECTIONS).await?;
            let done = search::search(&world, args).await;
            world.close().await;
            done
        }
        Command::Show(args) => {
            let world = World::open(loaded.config, READER_CONNECTIONS).await?;
            let done = library::show(&world, args).await;
            world.close().await;
            done
        }
        Command::Export(args) => {
            // A mistake in the arguments is told without starting a server for it.
            let plan = export::Plan::read(args)?;
            let world = World::open(loaded.config, READER_CONNECTIONS).await?;
            let done = export::export(&world, plan).await;
            world.close().await;
            done
        }
        Command::Transcribe(args) => transcribe_command(args.clone(), loaded, output).await,
        Command::Source(args) => {
            // A mistake in the arguments is told without starting a server for it.
            let addition = match &args.command {
                SourceCommand::Add(args) => Some(source::Addition::read(args)?),
                _ => None,
            };
            let world = World::open(loaded.config, READER_CONNECTIONS).await?;
            let done = source::source(&world, args, addition).await;
            world.close().await;
            done
        }
        Command::Upgrade(args) => upgrade_command(args, loaded, output).await,
        Command::Reembed(args) => reembed_command(args, loaded).await,
        Command::Remove(args) => {
            let world = World::open(loaded.config, READER_CONNECTIONS).await?;
            let done = remove::remove(&world, args).await;
            world.close().await;
            done
        }
        Command::Retention(args) => {
            let world = World::open(loaded.config, READER_CONNECTIONS).await?;
            let done = remove::retention(&world, args).await;
            world.close().await;
            done
        }
        Command::Sync(args) => sync_command(args, loaded, output).await,
        Command::Run(_) => run_command(cli, loaded, output).await,
        // Answered before the runtime started.
        Command::Config(_) | Command::Completions(_) | Command::Bench(_) => Ok(EXIT_OK),
    }
}

/// What watches a run: the reporter, which has the last word, the machine's figures, and who may stop it.
struct Watch {
    events: Events,
    stopping: Stopping,
    reporter: tokio::task::JoinHandle<event::RunSummary>,
    listener: tokio::task::AbortHandle,
    monitor: Monitor,
}

impl Watch {
    fn start(loaded: &Loaded, output: &Output, bars: bool, options: report::Options) -> anyhow::Result<Self> {
        Self::start_reloading(loaded, output, bars, options, None)
    }

    /// As [`Self::start`]; SIGHUP notifies `reload`, where there is one.
    fn start_reloading(
        loaded: &Loaded,
        output: &Output,
        bars: bool,
        options: report::Options,
        reload: Option<Arc<tokio::sync::Notify>>,
    ) -> anyhow::Result<Self> {
        let mode = match loaded.config.log_format {
            LogFormat::Json => Mode::Json,
            LogFormat::Text => Mode::Lines,
            LogFormat::Auto if bars => Mode::detect(),
            LogFormat::Auto => Mode::Lines,
        };
        let terminal = Terminal::stderr(mode);
        output.set_suspender(terminal.suspender());
        terminal.guard_panics();
        let (events, told) = Events::channel();
        let reporter = tokio::spawn(report::run(terminal.clone(), told, options));
        let stopping = Stopping::default();
        let listener =
            stopping.listen(loaded.config.stop_grace(), events.clone(), reload, move || terminal.close())?;
        let monitor = Monitor::start(events.clone(), Duration::from_secs(1))?;
        Ok(Self { events, stopping, reporter, listener, monitor })
    }

    /// Lets the reporter close the run; the exit code that its outcome means.
    async fn end(
        self,
        result: anyhow::Result<event::RunSummary>,
        output: &Output,
    ) -> anyhow::Result<(event::RunSummary, u8)> {
        let Self { events, reporter, listener, monitor, .. } = self;
        drop(monitor);
        listener.abort();
        if let Ok(summary) = &result {
            events.send(Event::RunFinished(summary.clone()));
        }
        drop(events);
        reporter.await?;
        output.clear_suspender();
        let summary = result?;
        let code = match () {
            () if summary.interrupted => EXIT_INTERRUPTED,
            () if summary.failed > 0 => EXIT_FAILED,
            () => EXIT_OK,
        };
        Ok((summary, code))
    }
}

/// `spoken ingest`: the reporter listens to events while the run goes on, and has the last word.
async fn ingest_command(
    args: &IngestArgs,
    flags: String,
    loaded: Loaded,
    output: &Output,
) -> anyhow::Result<u8> {
    let request = read_request(args)?;
    let watch = Watch::start(&loaded, output, true, report::Options { hints: true, flags, quiet: false })?;
    let connections = u32::try_from(loaded.config.db_workers).unwrap_or(12) + 4;
    let result = match World::open(loaded.config, connections).await {
        Ok(world) => {
            let result = ingest::ingest(&world, request, &watch.events, &watch.stopping).await;
            world.close().await;
            result
        }
        Err(error) => Err(error),
    };
    let (summary, code) = watch.end(result, output).await?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    }
    Ok(code)
}

/// `spoken work`: as `ingest`, without anything to list.
async fn work_command(args: &WorkArgs, loaded: Loaded, output: &Output) -> anyhow::Result<u8> {
    let watch = Watch::start(&loaded, output, true, report::Options::default())?;
    let connections = u32::try_from(loaded.config.db_workers).unwrap_or(12) + 6;
    let result = match World::open(loaded.config, connections).await {
        Ok(world) => {
            let request = work::Request { role: args.role.into(), drain: args.drain };
            let result = work::work(&world, request, &watch.events, &watch.stopping).await;
            world.close().await;
            result
        }
        Err(error) => Err(error),
    };
    let (summary, code) = watch.end(result, output).await?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    }
    // Who works until told to stop did what was asked for, whatever became of single items.
    Ok(if args.drain { code } else { EXIT_OK })
}

/// `spoken upgrade`: as `ingest`, of what is doubtful.
async fn upgrade_command(args: &UpgradeArgs, loaded: Loaded, output: &Output) -> anyhow::Result<u8> {
    let request = upgrade::Request::from(args);
    if args.dry_run {
        let world = World::open(loaded.config, READER_CONNECTIONS).await?;
        let done = upgrade::dry_run(&world, &request, args.json).await;
        world.close().await;
        return done;
    }
    let watch = Watch::start(&loaded, output, true, report::Options::default())?;
    let connections = work_connections(&loaded);
    let result = match World::open(loaded.config, connections).await {
        Ok(world) => {
            let result = upgrade::upgrade(&world, &request, &watch.events, &watch.stopping).await;
            world.close().await;
            result
        }
        Err(error) => Err(error),
    };
    let (summary, code) = watch.end(result, output).await?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    }
    Ok(code)
}

/// `spoken reembed`: a bar of its own, since it knows neither audio nor stages.
async fn reembed_command(args: &ReembedArgs, loaded: Loaded) -> anyhow::Result<u8> {
    let (events, mut told) = Events::channel();
    let stopping = Stopping::default();
    let listener = stopping.listen(loaded.config.stop_grace(), events.clone(), None, || ())?;
    let teller = tokio::spawn(async move {
        while let Some(event) = told.recv().await {
            if matches!(event, Event::StopRequested) {
                eprintln!("stopping after the passages in work");
            }
        }
    });
    let world = World::open(loaded.config, REEMBED_CONNECTIONS).await?;
    let done = reembed::reembed(&world, args, &stopping.stop).await;
    world.close().await;
    listener.abort();
    drop(events);
    teller.abort();
    done
}

/// `spoken sync`: bars for who watches; else one line, and what went wrong.
async fn sync_command(args: &SyncArgs, loaded: Loaded, output: &Output) -> anyhow::Result<u8> {
    let request = sync::Request { names: args.sources.clone(), all: args.all, full: args.full };
    let quiet = !std::io::stderr().is_terminal();
    let options = report::Options { hints: false, quiet, ..report::Options::default() };
    let watch = Watch::start(&loaded, output, true, options)?;
    let connections = work_connections(&loaded);
    let result = match World::open(loaded.config, connections).await {
        Ok(world) => {
            let result = sync::sync(&world, request, &watch.events, &watch.stopping).await;
            world.close().await;
            result
        }
        Err(error) => Err(error),
    };
    let (summary, run) = match result {
        Ok((summary, run)) => (Some(summary), Ok(run)),
        Err(error) => (None, Err(error)),
    };
    let (_, code) = watch.end(run, output).await?;
    let Some(summary) = summary else { return Ok(code) };
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!("{}", summary.line());
    }
    Ok(if code == EXIT_OK && summary.sources_failed > 0 { EXIT_FAILED } else { code })
}

/// `spoken run`: told to stop, it has done what it should.
async fn run_command(cli: &Cli, loaded: Loaded, output: &Output) -> anyhow::Result<u8> {
    let reload = Arc::new(tokio::sync::Notify::new());
    let options = report::Options { hints: false, ..report::Options::default() };
    let watch = Watch::start_reloading(&loaded, output, true, options, Some(reload.clone()))?;
    let connections = work_connections(&loaded);
    let again = || Ok(config::load(&Inputs::from_process(cli.overrides())?)?.config);
    let result = match World::open(loaded.config, connections).await {
        Ok(mut world) => {
            let result = run::run(&mut world, &again, &reload, &watch.events, &watch.stopping).await;
            world.close().await;
            result
        }
        Err(error) => Err(error),
    };
    watch.end(result, output).await?;
    Ok(EXIT_OK)
}

/// Connections that the stages, the schedule and the locks of checks need together.
fn work_connections(loaded: &Loaded) -> u32 {
    u32::try_from(loaded.config.db_workers + check::AT_ONCE).unwrap_or(18) + 4
}

/// `spoken transcribe`: as `ingest`, but what was said goes to standard output. Ctrl-C stops what is in work.
async fn transcribe_command(args: TranscribeArgs, loaded: Loaded, output: &Output) -> anyhow::Result<u8> {
    // The hints are about a library, which there is none of.
    let bars = !transcribe::shares_the_terminal(&args);
    let watch =
        Watch::start(&loaded, output, bars, report::Options { hints: false, ..report::Options::default() })?;
    let (events, cancel) = (watch.events.clone(), watch.stopping.stop.clone());
    let result =
        tokio::task::spawn_blocking(move || transcribe::transcribe(&loaded.config, &args, &events, &cancel))
            .await?;
    Ok(watch.end(result, output).await?.1)
}

/// The sources of the command line, of `--from` files and of standard input.
fn read_request(args: &IngestArgs) -> anyhow::Result<ingest::Request> {
    let mut sources = args.sources.clone();
    for list in &args.from {
        let text =
            std::fs::read_to_string(list).with_context(|| format!("failed to read {}", list.display()))?;
        sources.extend(crate::source::parse_list(&text));
    }
    let stdin = if sources.iter().any(|s| s == "-") {
        let mut stdin = std::io::stdin().lock();
        if stdin.is_terminal() {
            eprintln!("reading sources from the terminal, one a line; Ctrl-D ends the list");
        }
        let mut text = String::new();
        stdin
            .by_ref()
            .take(crate::source::MAX_LIST_BYTES)
            .read_to_string(&mut text)
            .context("failed to read standard input")?;
        Some(text)
    } else {
        None
    };
    Ok(ingest::Request { sources, stdin, first: args.first })
}

fn show_config(args: &crate::cli::ConfigArgs, loaded: &Loaded) -> anyhow::Result<u8> {
    let mut out = std::io::stdout().lock();
    if args.defaults {
        out.write_all(config::DEFAULT_TOML.as_bytes())?;
    } else if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&loaded.to_json())?)?;
    } else {
        write!(out, "{}", loaded.to_table(console::colors_enabled()))?;
    }
    Ok(EXIT_OK)
}

async fn db_command(command: DbCommand, loaded: Loaded) -> anyhow::Result<u8> {
    let config = loaded.config;
    if matches!(command, DbCommand::Start | DbCommand::Stop) && config.database_url.is_some() {
        anyhow::bail!(
            "DATABASE_URL names a server that is not ours to start or stop; unset it for the private one"
        );
    }
    let options = world::server_options(&config);
    match command {
        DbCommand::Start => {
            Server::start_kept(&options).await?;
            eprintln!(
                "the private Postgres runs and stays; `spoken db stop` ends it, `spoken db url` tells its address"
            );
        }
        DbCommand::Stop => {
            let stopped = Server::stop(&options).await?;
            eprintln!(
                "{}",
                if stopped {
                    "the private Postgres was stopped"
                } else {
                    "the private Postgres does not run"
                }
            );
        }
        DbCommand::Url => {
            // The address is of no use without a server behind it.
            let url = match &config.database_url {
                Some(url) => url.expose().to_owned(),
                None => Server::start_kept(&options).await?,
            };
            println!("{url}");
        }
        DbCommand::Migrate => {
            let world = World::connect(config, READER_CONNECTIONS).await?;
            let migrated = world.store.migrate().await;
            world.close().await;
            let migrated = migrated?;
            eprintln!("{} applied; pgvector {}", migrated.applied, migrated.pgvector);
            if let Some(warning) = migrated.warning {
                eprintln!("warning: {warning}");
            }
        }
    }
    Ok(EXIT_OK)
}

/// `spoken doctor`: the database is asked here, everything else looks for itself.
async fn doctor_command(json: bool, loaded: &Loaded) -> anyhow::Result<u8> {
    let config = &loaded.config;
    let (database, index) = database_facts(config).await;
    let facts = doctor::Facts {
        config,
        database,
        index,
        handover: match &config.handover_url {
            Some(url) => {
                // Any library's name will do: what is written is removed at once.
                let opened = steps::store_between(url, uuid::Uuid::nil()).await;
                Some(opened.map(|store| store.place().to_owned()).map_err(|e| in_full(&e)))
            }
            None => None,
        },
        onnx_runtime: std::env::var_os("ORT_DYLIB_PATH").map(Into::into),
        hub_home: std::env::var_os("HF_HOME").map(Into::into),
        build: doctor::Build::this(),
        now: chrono::Utc::now(),
    };
    // Programs are asked for their versions; that blocks.
    let checks = tokio::task::block_in_place(|| doctor::checks(&facts));
    if json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "checks": checks }))?);
    } else {
        print!("{}", doctor::render(&checks, console::colors_enabled()));
    }
    Ok(if doctor::worst(&checks) == doctor::Status::Fail { EXIT_FAILED } else { EXIT_OK })
}

/// What the database says of itself. The private server is not started for it.
async fn database_facts(config: &config::Config) -> (doctor::Database, Option<doctor::Check>) {
    use crate::postgres::Status;
    if config.database_url.is_none() {
        match Server::status(&world::server_options(config)).await {
            Ok(Status::Running { .. }) => {}
            Ok(Status::Stopped | Status::NotCreated) => return (doctor::Database::Idle, None),
            Err(error) => return (doctor::Database::Failed(error.to_string()), None),
        }
    }
    let asked = async {
        let world = World::connect(config.clone(), 1).await?;
        let versions = world.store.versions().await;
        // A database that nobody has used yet has no tables to ask about.
        let index = index::health(&world.store, config).await.ok().flatten();
        world.close().await;
        anyhow::Ok((versions?, index))
    };
    match asked.await {
        Ok(((postgres, installed, available), index)) => {
            (doctor::Database::Reached { postgres, pgvector: installed.or(available) }, index)
        }
        Err(error) => (doctor::Database::Failed(format!("{error:#}")), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let refused = || std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "refused");
        assert_eq!(
            in_full(&anyhow::Error::from(refused()).context("failed to ask")),
            "failed to ask: refused"
        );
        let repeated = anyhow::Error::from(refused()).context("failed to ask: refused; ask later");
        assert_eq!(in_full(&repeated), "failed to ask: refused; ask later");
    }
}

//! The command line: what can be typed, and what `--help` says about it.
//!
//! A flag that sets something has a configuration key ([`Cli::overrides`]), so that there is one place where a value
//! is checked and one order in which the places win.

mod args;
mod export;
mod house;
mod import;
mod index;
mod offline;
mod queue;
mod search;
mod sources;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};

pub use args::{
    CompletionsArgs, ConfigArgs, DbArgs, DbCommand, DoctorArgs, IngestArgs, LimitsArgs, NodesArgs, RetryArgs,
    RoleName, ShowArgs, StatusArgs, WorkArgs,
};
pub use export::{ExportArgs, ExportFormat, Product, RowKind, StatsArgs, TranscriptFormat};
pub use house::{ReembedArgs, RemoveArgs, RetentionArgs, UpgradeArgs};
pub use import::ImportArgs;
pub use index::{IndexArgs, IndexBuildArgs, IndexCommand, IndexDrillArgs, IndexStatusArgs};
pub use offline::{BenchArgs, TranscribeArgs};
pub use queue::{
    BumpArgs, CancelArgs, DrillArgs, Moment, PauseArgs, QueueArgs, QueueCommand, parse_duration,
};
pub use search::{SearchArgs, SearchMode};
pub use sources::{
    OrNone, RunArgs, Since, SourceAddArgs, SourceArgs, SourceCommand, SourceListArgs, SourceNameArgs,
    SourcePriority, SourceRemoveArgs, SourceShowArgs, SyncArgs,
};

use crate::config::{LogFormat, Override};
use crate::telemetry::Color;

/// Exit code when everything was done.
pub const EXIT_OK: u8 = 0;
/// Exit code when some items failed, or a check found something broken.
pub const EXIT_FAILED: u8 = 1;
/// Exit code when the command line or the configuration is wrong.
pub const EXIT_USAGE: u8 = 2;
/// Exit code when nothing could be done for now, through no fault of the command: the database, the network or another process
/// stands in the way.
pub const EXIT_NOT_NOW: u8 = 3;
/// Exit code when the run was interrupted (128 + SIGINT).
pub const EXIT_INTERRUPTED: u8 = 130;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// The commands as `spoken --help` lists them; `help` itself need not be listed there.
const GROUPS: &[(&str, &[&str])] = &[
    ("Bring in", &["ingest", "import", "status", "queue", "retry", "limits"]),
    ("Keep up", &["source", "sync", "run"]),
    ("Find and read", &["search", "show", "export", "stats"]),
    ("Keep house", &["upgrade", "reembed", "remove", "retention"]),
    ("Share the work", &["work", "nodes"]),
    ("Without a library", &["transcribe", "bench"]),
    ("Set up", &["doctor", "config", "db", "index", "completions"]),
];

const AFTER_HELP: &str = "\
Start here:
  spoken doctor                                      is everything there?
  spoken ingest talks/ https://youtu.be/…            bring in a folder and a video
  spoken search \"how do plants make sugar\"           find the second where it was said

Everything can also be set in the environment, in .env or in a file: `spoken config` shows what is in effect.

Exit codes: 0 all done, 1 some items failed, 2 wrong usage or configuration, 3 not possible for now (the database, the \
network or another process stands in the way), 130 interrupted";

/// Turns videos into searchable speech: downloads, transcribes with Whisper, and finds what was said.
#[derive(Clone, Debug, Parser)]
#[command(name = "spoken", version, styles = STYLES, max_term_width = 110, after_help = AFTER_HELP)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Use the settings of a profile: gpu, cpu or a file of your own
    ///
    /// `gpu` and `cpu` are built in; any other NAME is NAME.toml in the configuration directory (SPOKEN_CONFIG_DIR,
    /// else ./config if it holds a default.toml, ~/.config/spoken or /etc/spoken); what .env says wins over it. [env: SPOKEN_PROFILE]
    #[arg(long, value_name = "NAME", global = true)]
    pub profile: Option<String>,

    /// Set any setting, as in --set beam_size=1; may be repeated
    ///
    /// The keys are those of config/default.toml; `spoken config` lists them, `spoken config --defaults` explains
    /// them.
    #[arg(long = "set", value_name = "KEY=VALUE", global = true, value_parser = key_value)]
    pub set: Vec<(String, String)>,

    /// Keep database, spool and models here [env: SPOKEN_DATA_DIR]
    #[arg(long, value_name = "DIR", global = true, value_hint = ValueHint::DirPath)]
    pub data_dir: Option<PathBuf>,

    /// Form of log and progress [env: LOG_FORMAT]
    ///
    /// auto: progress bars on a terminal, plain lines elsewhere. text: plain lines. json: one JSON object a line.
    #[arg(long, value_name = "FORMAT", global = true, value_parser = clap::builder::PossibleValuesParser::new(LogFormat::NAMES))]
    pub log_format: Option<String>,

    /// Log more; twice for everything [env: LOG_LEVEL]
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// Log errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// Colour the output
    #[arg(
        long,
        value_name = "WHEN",
        global = true,
        default_value = "auto",
        hide_possible_values = true,
        help = "Colour the output: auto, always, never [default: auto]",
        hide_default_value = true
    )]
    pub color: Color,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Bring in files, folders, addresses, playlists and channels
    #[command(long_about = args::INGEST)]
    Ingest(Box<IngestArgs>),
    /// Bring in transcripts that exist already: SubRip, WebVTT, JSON
    #[command(long_about = import::IMPORT)]
    Import(ImportArgs),
    /// Say what is queued, in work, done and failed
    Status(StatusArgs),
    /// Show and steer what runs and what waits: pause, put first, take out
    #[command(long_about = queue::QUEUE)]
    Queue(QueueArgs),
    /// Try failed items again, or do again what is done
    #[command(long_about = args::RETRY)]
    Retry(RetryArgs),
    /// Subscribe to channels, podcasts, feeds and folders
    #[command(long_about = sources::SOURCE)]
    Source(Box<SourceArgs>),
    /// Check what is due and bring in what is new, once: for cron
    #[command(long_about = sources::SYNC)]
    Sync(SyncArgs),
    /// Check and bring in until told to stop: a daemon
    #[command(long_about = sources::RUN)]
    Run(RunArgs),
    /// Say how hard sites were asked in the last hour, and which are left alone and why
    Limits(LimitsArgs),
    /// Find what was said
    #[command(long_about = search::SEARCH)]
    Search(Box<SearchArgs>),
    /// Print what was said in one item, with times
    Show(ShowArgs),
    /// Write transcripts as text, subtitles, JSON, Markdown or tables
    #[command(long_about = export::EXPORT)]
    Export(ExportArgs),
    /// Say what the library holds: hours, words, languages, doubts, room, speed
    Stats(StatsArgs),
    /// Build, look at or remove the index that large libraries are searched with
    #[command(long_about = index::INDEX)]
    Index(IndexArgs),
    /// Do again what was badly understood, with another Whisper model
    #[command(long_about = house::UPGRADE)]
    Upgrade(UpgradeArgs),
    /// Change over to another embedding model
    #[command(long_about = house::REEMBED)]
    Reembed(ReembedArgs),
    /// Remove items for good
    #[command(long_about = house::REMOVE)]
    Remove(RemoveArgs),
    /// Remove what is kept no longer
    #[command(long_about = house::RETENTION)]
    Retention(RetentionArgs),
    /// Work off the queue, as one of several machines
    #[command(long_about = args::WORK)]
    Work(WorkArgs),
    /// List the processes that work on the library
    Nodes(NodesArgs),
    /// Turn files into text or subtitles
    #[command(long_about = offline::TRANSCRIBE)]
    Transcribe(TranscribeArgs),
    /// Measure configurations on this machine and recommend one
    #[command(long_about = offline::BENCH)]
    Bench(BenchArgs),
    /// Check tools, models, database, disk and GPU, and say what to do
    Doctor(DoctorArgs),
    /// Show every setting and where it comes from
    #[command(long_about = args::CONFIG)]
    Config(ConfigArgs),
    /// Start, stop or reach the private Postgres
    #[command(long_about = args::DB)]
    Db(DbArgs),
    /// Print the completion script of a shell
    Completions(CompletionsArgs),
}

impl CompletionsArgs {
    /// The script for the shell.
    pub fn script(self) -> Vec<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command(), "spoken", &mut script);
        script
    }
}

impl Cli {
    /// Reads this process's arguments. Ends the process after `--help` and `--version` (0) and on wrong usage (2).
    pub fn from_process() -> Self {
        Self::try_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads `arguments`, the first of which is the program.
    ///
    /// # Errors
    /// Wrong usage, and `--help` and `--version`, which clap counts as errors too.
    pub fn try_from(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let matches = command().try_get_matches_from(arguments)?;
        Self::from_arg_matches(&matches)
    }

    /// What flags say about settings, in the order in which they win: `--set`, then dedicated flags.
    pub fn overrides(&self) -> Vec<Override> {
        let mut all = Vec::new();
        let global = &self.global;
        all.extend(global.set.iter().map(|(key, value)| Override::new(key, value, "--set")));
        let mut set = |key: &str, value: Option<String>, flag: &str| {
            all.extend(value.map(|value| Override::new(key, value, flag)));
        };
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());

        set("profile", global.profile.clone(), "--profile");
        set("data_dir", path(&global.data_dir), "--data-dir");
        set("log_format", global.log_format.clone(), "--log-format");
        let level = match (global.quiet, global.verbose) {
            (true, _) => Some(("error", "--quiet")),
            (false, 0) => None,
            (false, 1) => Some(("info,spoken=debug", "-v")),
            (false, _) => Some(("debug,spoken=trace", "-vv")),
        };
        if let Some((level, flag)) = level {
            set("log_level", Some(level.to_owned()), flag);
        }
        if let Command::Transcribe(args) = &self.command {
            set("language", args.language.clone(), "--language");
            set("whisper_task", args.task.clone(), "--task");
            set("whisper_engine", args.engine.clone(), "--engine");
            set("whisper_model", args.model.clone(), "--model");
            set("whisper_profile", args.quality.clone(), "--quality");
            set("beam_size", args.beam_size.clone(), "--beam-size");
        }
        if let Command::Reembed(args) = &self.command {
            set("embedding_model", args.model.clone(), "--model");
        }
        if let Command::Upgrade(args) = &self.command {
            set("whisper_model", args.model.clone(), "--model");
            if args.no_progress && global.log_format.is_none() {
                set("log_format", Some("text".to_owned()), "--no-progress");
            }
        }
        if let Command::Work(args) = &self.command
            && args.no_progress
            && global.log_format.is_none()
        {
            set("log_format", Some("text".to_owned()), "--no-progress");
        }
        if let Command::Sync(args) = &self.command {
            set("ingestion_limit", args.limit.clone(), "--limit");
        }
        if let Command::Ingest(args) = &self.command {
            set("ingestion_limit", args.limit.clone(), "--limit");
            set("language", args.language.clone(), "--language");
            set("whisper_task", args.task.clone(), "--task");
            set("whisper_engine", args.engine.clone(), "--engine");
            set("whisper_model", args.model.clone(), "--model");
            set("whisper_profile", args.quality.clone(), "--quality");
            set("whisper_device", args.device.clone(), "--device");
            set("whisper_compute", args.compute.clone(), "--compute");
            set("whisper_parallel_models", args.parallel_models.clone(), "--parallel-models");
            set("whisper_batch_size", args.batch_size.clone(), "--batch-size");
            set("beam_size", args.beam_size.clone(), "--beam-size");
            set("io_workers", args.io_workers.clone(), "--io-workers");
            set("asr_workers", args.asr_workers.clone(), "--asr-workers");
            set("db_workers", args.db_workers.clone(), "--db-workers");
            set("cookies_file", path(&args.cookies), "--cookies");
            let allowed = args.allow_private_addresses.then(|| "true".to_owned());
            set("allow_private_addresses", allowed, "--allow-private-addresses");
            // Bars are what `auto` adds on a terminal; JSON lines never had any.
            if args.no_progress && global.log_format.is_none() {
                set("log_format", Some("text".to_owned()), "--no-progress");
            }
        }
        all
    }
}

impl Global {
    /// The flags that another command needs to mean the same library as this one, as typed; empty where there are none.
    pub fn library_flags(&self) -> String {
        let data_dir = self.data_dir.as_ref().map(|path| path.to_string_lossy().into_owned());
        let flags = [("--profile", self.profile.clone()), ("--data-dir", data_dir)];
        let typed = flags.into_iter().filter_map(|(flag, value)| Some(format!("{flag} {}", quoted(&value?))));
        typed.collect::<Vec<_>>().join(" ")
    }
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The command with its help put in order.
pub fn command() -> clap::Command {
    let command = Cli::command();
    let (header, literal) = (STYLES.get_header(), STYLES.get_literal());
    let widest = command.get_subcommands().map(|sub| sub.get_name().len()).max().unwrap_or(0);
    let mut groups = String::new();
    for (heading, names) in GROUPS {
        groups.push_str(&format!("{header}{heading}:{header:#}\n"));
        for sub in names.iter().filter_map(|name| command.find_subcommand(name)) {
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            groups.push_str(&format!("  {literal}{:widest$}{literal:#}  {about}\n", sub.get_name()));
        }
        groups.push('\n');
    }
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{groups}{header}Options:{header:#}\n{{options}}{{after-help}}"
    );
    command.help_template(template)
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("write KEY=VALUE, as in --set beam_size=1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap_complete::Shell;

    fn parse(arguments: &str) -> Cli {
        Cli::try_from(std::iter::once("spoken").chain(arguments.split_whitespace())).unwrap()
    }

    fn help(arguments: &[&str]) -> String {
        let error = Cli::try_from(std::iter::once(&"spoken").chain(arguments)).unwrap_err();
        assert_eq!(error.exit_code(), 0, "{error}");
        error.render().to_string()
    }

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn help_lists_every_command_in_a_group() {
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let mut commands: Vec<String> =
            command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        let help = help(&["--help"]);
        for name in &commands {
            assert!(help.contains(&format!("\n  {name} ")), "{name} is missing in\n{help}");
        }
        commands.sort();
        let mut sorted = grouped.clone();
        sorted.sort_unstable();
        assert_eq!(commands, sorted);
        assert!(help.contains("Exit codes: 0 all done, 1 some items failed, 2"), "{help}");
    }

    #[test]
    fn help_fits_a_terminal_of_110_columns() {
        let commands: Vec<String> = command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        for name in commands.iter().map(String::as_str).chain([""]) {
            let arguments: Vec<&str> = [name, "--help"].into_iter().filter(|a| !a.is_empty()).collect();
            for line in help(&arguments).lines() {
                assert!(line.chars().count() <= 110, "{name}: {line}");
            }
        }
    }

    #[test]
    fn each_flag_sets_its_key() {
        let cli = parse(
            "ingest a b --limit 7 --language de --model tiny --device cpu --compute int8 --parallel-models 2 \
             --batch-size 3 --beam-size 1 --io-workers 4 --asr-workers 5 --db-workers 6 --cookies c.txt \
             --task translate --engine ct2 --quality fast --no-progress --profile cpu --set beam_size=2 --set IO_WORKERS=9 --data-dir /d -v",
        );
        let overrides = cli.overrides();
        let shown: Vec<String> =
            overrides.iter().map(|o| format!("{}={} {}", o.key, o.value, o.flag)).collect();
        assert_eq!(shown[..2], ["beam_size=2 --set", "IO_WORKERS=9 --set"]);
        for expected in [
            "profile=cpu --profile",
            "data_dir=/d --data-dir",
            "log_level=info,spoken=debug -v",
            "ingestion_limit=7 --limit",
            "language=de --language",
            "whisper_model=tiny --model",
            "whisper_task=translate --task",
            "whisper_engine=ct2 --engine",
            "whisper_profile=fast --quality",
            "log_format=text --no-progress",
            "cookies_file=c.txt --cookies",
        ] {
            assert!(shown.iter().any(|s| s == expected), "{expected} is not in {shown:?}");
        }
        for given in &overrides {
            let known = given.key == "profile" || crate::config::Key::find(&given.key).is_some();
            assert!(known, "{} is no key", given.key);
        }
    }

    #[test]
    fn a_hint_repeats_what_chose_the_library() {
        let flags = |arguments: &str| parse(arguments).global.library_flags();
        assert_eq!(flags("ingest a"), "");
        assert_eq!(flags("ingest a --profile sample -v"), "--profile sample");
        let cli = Cli::try_from(["spoken", "--data-dir", "/my data/it's", "status"]).unwrap();
        assert_eq!(cli.global.library_flags(), r"--data-dir '/my data/it'\''s'");
    }

    #[test]
    fn a_command_explains_itself_at_length() {
        let help = help(&["ingest", "--help"]);
        assert!(help.starts_with("Brings in everything that SOURCE stands for"), "{help}");
        assert!(help.contains("Without a SOURCE") && help.contains("Examples:"), "{help}");
    }

    #[test]
    fn help_may_be_asked_for_in_words() {
        assert!(help(&["help"]).contains("Start here:"));
        assert!(help(&["help", "ingest"]).starts_with("Brings in everything that SOURCE stands for"));
        assert!(help(&["help", "queue", "pause"]).contains("--until"));
    }

    #[test]
    fn what_means_the_same_may_be_called_the_same() {
        let Command::Remove(args) = parse("remove --after 2026-01-31").command else { panic!() };
        assert!(args.since.is_some());
        let Command::Bench(args) = parse("bench --quality fast,balanced --asr-workers 2").command else {
            panic!()
        };
        let keys: Vec<String> = args.varied().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["whisper_profile", "asr_workers"]);
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        assert_eq!(parse("--profile gpu status").global.profile.as_deref(), Some("gpu"));
        assert_eq!(parse("status --profile gpu").global.profile.as_deref(), Some("gpu"));
    }

    #[test]
    fn a_query_needs_no_quotation_marks() {
        let Command::Search(args) = parse("search why is the sky blue --limit 3").command else { panic!() };
        assert_eq!((args.text().as_str(), args.limit), ("why is the sky blue", 3));
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        for arguments in [
            "",
            "nonsense",
            "search",
            "retry",
            "retry x --failed",
            "retry --done",
            "retry --failed --flagged",
            "retry --class nonsense",
            "ingest --set x",
            "show",
            "db",
            "queue cancel",
            "queue bump",
            "queue cancel x --all-waiting",
            "queue pause --for 2",
            "queue pause --for 2h --until 07:00",
            "queue --json resume",
        ] {
            let error =
                Cli::try_from(std::iter::once("spoken").chain(arguments.split_whitespace())).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{arguments}: {error}");
        }
    }

    #[test]
    fn completions_know_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(CompletionsArgs { shell }.script()).unwrap();
            assert!(script.contains("ingest") && script.contains("log-format"), "{shell}");
        }
    }
}

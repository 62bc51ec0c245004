//! What each command takes.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use crate::media::FailureClass;

/// What `spoken ingest --help` says first.
pub(super) const INGEST: &str = "\
Brings in everything that SOURCE stands for and works until all of it is searchable.

SOURCE is a file, a folder (searched with all below it; media are told by content, not by name), the address of a \
media file, or the address of any page, playlist, channel or feed that yt-dlp understands. `-` reads a list of \
sources from standard input, one a line; blank lines and lines that begin with # are skipped.

What is known already is not brought in twice, so the same command can be run again and again. Ctrl-C finishes what \
is in work and stops; a second Ctrl-C stops at once. Closing the terminal stops it in good order, too (what is in \
work has STOP_GRACE_SECONDS); for a night use tmux, nohup or systemd-run. However it ends, nothing is lost: the same command \
goes on from there.

Without a SOURCE, that is all that `spoken ingest` does.";

/// What `spoken retry --help` says first.
pub(super) const RETRY: &str = "\
Puts failed items back into the queue with all their attempts, and with --done or --flagged items that are done: their \
transcripts stay and are found until new ones replace them, also if the new attempt fails. `spoken ingest` then works \
on them, as does one that is running.";

/// What `spoken work --help` says first.
pub(super) const WORK: &str = "\
Works on what is queued until Ctrl-C or SIGTERM, listing nothing itself; `spoken ingest` and others fill the queue. Any \
number of processes, on any number of machines that reach the same database (DATABASE_URL), share the work.

With --role fetch a machine near the network downloads and decodes, and leaves the audio in the store that HANDOVER_URL \
names; with --role transcribe a machine with a GPU takes it from there. What a machine has in hand that dies or is cut \
off goes to others after LEASE_SECONDS.";

/// What `spoken config --help` says first.
pub(super) const CONFIG: &str = "\
Shows every setting in effect and where it comes from. Passwords are not shown.

Settings are looked up in this order, the later winning: built-in defaults, default.toml in the configuration \
directory, the profile (--profile or SPOKEN_PROFILE), .env in the current directory, the environment, flags. What .env \
says therefore wins over a profile.

The configuration directory is SPOKEN_CONFIG_DIR, else ./config if it holds a default.toml, else ~/.config/spoken, else \
/etc/spoken.";

/// What `spoken db --help` says first.
pub(super) const DB: &str = "\
Without DATABASE_URL, spoken keeps a Postgres of its own in its data directory and starts it when it is needed. These \
commands start it for other programs, stop it, and tell how to reach it. Once `start` or `url` has been asked for, it goes on \
running until `stop`. Its own psql and pg_dump lie in SPOKEN_TOOLS_DIR/postgres/bin.";

/// Arguments of `spoken ingest`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Examples:
  spoken ingest ~/Videos
  spoken ingest https://www.youtube.com/@channel/videos --limit 20
  spoken ingest --from sources.txt --json > summary.json
  find /archive -name '*.mp4' | spoken ingest -
  spoken ingest                                      go on with what is queued

Exit codes: 0 all done, 1 some items failed, 2 wrong usage or configuration, 3 not possible for now, 130 interrupted")]
pub struct IngestArgs {
    /// File, folder, address, playlist or channel; - reads a list from standard input
    #[arg(value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    pub sources: Vec<String>,

    /// Read sources from a file, one a line (# begins a comment)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub from: Vec<PathBuf>,

    /// Take on at most N new items in this run; 0: all [env: INGESTION_LIMIT]
    #[arg(short = 'n', long, value_name = "N")]
    pub limit: Option<String>,

    /// Work on these before everything else that waits
    #[arg(long)]
    pub first: bool,

    /// Language spoken, such as en or de; auto finds it out [env: WHISPER_LANGUAGE]
    #[arg(short, long, value_name = "CODE", help_heading = "Transcription")]
    pub language: Option<String>,

    /// Write what is said in its own language, or in English: transcribe, translate [env: WHISPER_TASK]
    #[arg(long, value_name = "TASK", help_heading = "Transcription")]
    pub task: Option<String>,

    /// What runs the model: ct2, whisper-cpp [env: WHISPER_ENGINE]
    #[arg(long, value_name = "ENGINE", help_heading = "Transcription")]
    pub engine: Option<String>,

    /// Whisper model: a name such as small or large-v3-turbo, or a path [env: WHISPER_MODEL]
    #[arg(short, long, value_name = "MODEL", help_heading = "Transcription", value_hint = ValueHint::AnyPath)]
    pub model: Option<String>,

    /// How much time accuracy is worth: fast, balanced, quality [env: WHISPER_PROFILE]
    ///
    /// Decides beams, temperatures, thresholds and speech detection, as far as they are not set themselves: `spoken
    /// config --set whisper_profile=quality` shows what it comes to. (--profile is something else: a file of settings.)
    #[arg(long, value_name = "LEVEL", help_heading = "Transcription")]
    pub quality: Option<String>,

    /// Where the model runs: auto, cpu, cuda [env: WHISPER_DEVICE]
    #[arg(long, value_name = "DEVICE", help_heading = "Transcription")]
    pub device: Option<String>,

    /// Number format of the model: auto, int8, int8_float16, float16, … [env: WHISPER_COMPUTE]
    #[arg(long, value_name = "FORMAT", help_heading = "Transcription")]
    pub compute: Option<String>,

    /// Replicas of the model: auto or a number [env: WHISPER_PARALLEL_MODELS]
    #[arg(long, value_name = "N", help_heading = "Transcription")]
    pub parallel_models: Option<String>,

    /// Windows in one call of the model: auto or a number [env: WHISPER_BATCH_SIZE]
    #[arg(long, value_name = "N", help_heading = "Transcription")]
    pub batch_size: Option<String>,

    /// Beams of the search: auto or a number; 1 is fastest [env: BEAM_SIZE]
    #[arg(long, value_name = "N", help_heading = "Transcription")]
    pub beam_size: Option<String>,

    /// Downloads and decodes at the same time [env: IO_WORKERS]
    #[arg(long, value_name = "N", help_heading = "Workers")]
    pub io_workers: Option<String>,

    /// Threads that find speech and queue it for the model: auto or a number [env: ASR_WORKERS]
    #[arg(long, value_name = "N", help_heading = "Workers")]
    pub asr_workers: Option<String>,

    /// Transcripts embedded and written at the same time [env: DB_WORKERS]
    #[arg(long, value_name = "N", help_heading = "Workers")]
    pub db_workers: Option<String>,

    /// Cookies for sites that want a login, Netscape format [env: COOKIES_FILE]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub cookies: Option<PathBuf>,

    /// Reach addresses that are not of the public internet, such as a server at home [env: ALLOW_PRIVATE_ADDRESSES]
    #[arg(long)]
    pub allow_private_addresses: bool,

    /// Print a summary as one JSON object on standard output at the end
    #[arg(long)]
    pub json: bool,

    /// Plain lines instead of progress bars
    #[arg(long)]
    pub no_progress: bool,
}

/// Which part of the work `spoken work` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// All of it
    #[default]
    All,
    /// Download and decode; needs HANDOVER_URL
    Fetch,
    /// Transcribe, embed, store; needs HANDOVER_URL
    Transcribe,
}

/// Arguments of `spoken work`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Examples:
  spoken work
  HANDOVER_URL=s3://bucket/audio spoken work --role fetch
  HANDOVER_URL=s3://bucket/audio spoken work --role transcribe --profile gpu
  spoken work --drain --json > summary.json

Exit codes: 0 told to stop, 2 wrong usage or configuration, 3 not possible for now; with --drain also 0 all done, 1 some \
items failed, 130 interrupted")]
pub struct WorkArgs {
    /// Part of the work to do
    #[arg(long, value_name = "ROLE", default_value = "all")]
    pub role: RoleName,

    /// End when nothing is left that this role can do
    ///
    /// A transcribe node stays as long as there is something to fetch and a fetch node that lives.
    #[arg(long)]
    pub drain: bool,

    /// Print a summary as one JSON object on standard output at the end
    #[arg(long)]
    pub json: bool,

    /// Plain lines instead of progress bars
    #[arg(long)]
    pub no_progress: bool,
}

/// Arguments of `spoken nodes`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Examples:
  spoken nodes
  spoken nodes --json | jq '.nodes[] | {host, role, in_hand, audio_hours_per_hour}'")]
pub struct NodesArgs {
    /// Print JSON: {"nodes": [{"node_id", "host", "pid", "role", "alive", …}], "waiting": {"items", "bytes", "audio_ms"}}
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `spoken status`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Examples:
  spoken status
  spoken status --failed                             what was given up, why, and what to do
  spoken status --json | jq -r '.items[] | select(.flags != []) | .title'")]
pub struct StatusArgs {
    /// List only what has failed
    #[arg(long)]
    pub failed: bool,

    /// List at most N items, those that were found first
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,

    /// Print JSON: {"counts": {…}, "items": [{"media_id", "source", "title", "state", …}]}
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `spoken limits`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Examples:
  spoken limits
  RATE_SITES='youtube.com videos=30 interval=60' spoken limits    what that would allow
  spoken limits --json | jq '.sites[] | select(.open_s)'")]
pub struct LimitsArgs {
    /// Print JSON: {"sites": [{"site", "identity", "videos", "requests", "downloads", "limits", "open_s", "reason", "remedy"}]}
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `spoken show`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  spoken show talk.mp4
  spoken show 3f2a --dropped                         what the model wrote and was not believed
  spoken show https://youtu.be/… --json | jq .coverage")]
pub struct ShowArgs {
    /// Id of an item (its first characters will do), or the file or address it came from
    #[arg(value_name = "MEDIA")]
    pub media: String,

    /// Instead of the transcript, list all that the model wrote and was not believed, and why
    #[arg(long)]
    pub dropped: bool,

    /// Print JSON: {"media_id", …, "coverage": {…}, "dropped": […]}; `spoken export` has the transcript
    #[arg(long, conflicts_with = "dropped")]
    pub json: bool,
}

/// Arguments of `spoken retry`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Examples:
  spoken retry 3f2a 77b0 && spoken ingest
  spoken retry --failed && spoken ingest
  spoken retry --class rate_limited
  spoken retry --done talk.mp4 && spoken ingest --quality quality

Exit codes: 0 done, 1 nothing of what was named can be tried again, 2 wrong usage or configuration, 3 not possible for now")]
#[command(group = clap::ArgGroup::new("which").required(true).args(["media", "failed", "flagged", "class"]))]
pub struct RetryArgs {
    /// Ids of items (their first characters will do), or the files or addresses they came from
    #[arg(value_name = "MEDIA")]
    pub media: Vec<String>,

    /// Also what is done: it is done again
    #[arg(long, requires = "media")]
    pub done: bool,

    /// All that failed; what was cancelled has not
    #[arg(long)]
    pub failed: bool,

    /// All that failed in this way: network, rate_limited, cancelled, … (the class that `spoken queue` shows)
    #[arg(long, value_name = "CLASS", value_parser = parse_class)]
    pub class: Option<FailureClass>,

    /// All that are done and look incomplete
    #[arg(long)]
    pub flagged: bool,
}

fn parse_class(name: &str) -> Result<FailureClass, String> {
    serde_json::from_value(name.into()).map_err(|_| {
        let known: Vec<&str> = FailureClass::ALL.iter().map(|class| class.as_str()).collect();
        format!("there is no class of failures called {name:?}; there are {}", known.join(", "))
    })
}

/// Arguments of `spoken config`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Examples:
  spoken config
  spoken config --profile gpu --set io_workers=48
  spoken config --defaults > ~/.config/spoken/default.toml")]
pub struct ConfigArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Print default.toml: every setting with its default and what it is for
    #[arg(long, conflicts_with = "json")]
    pub defaults: bool,
}

/// Arguments of `spoken db`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  psql \"$(spoken db url)\"
  ~/.cache/spoken/tools/postgres/bin/psql \"$(spoken db url)\"
  spoken db stop")]
pub struct DbArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: DbCommand,
}

/// What to do with the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum DbCommand {
    /// Start the private Postgres
    Start,
    /// Stop the private Postgres
    Stop,
    /// Print the address of the database, its password included; the private one is started and goes on running
    Url,
    /// Bring the tables up to date
    Migrate,
}

/// Arguments of `spoken doctor`.
#[derive(Clone, Debug, Default, Args)]
#[command(
    after_long_help = "Exit codes: 0 nothing is broken, 1 something is, 2 wrong usage or configuration"
)]
pub struct DoctorArgs {
    /// Print JSON: {"checks": [{"name", "status", "detail", "advice"}]}
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `spoken completions`.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_long_help = "\
Examples:
  spoken completions bash > ~/.local/share/bash-completion/completions/spoken
  spoken completions zsh > ~/.zfunc/_spoken
  spoken completions fish > ~/.config/fish/completions/spoken.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

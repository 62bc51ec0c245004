//! What `reembed`, `upgrade`, `remove` and `retention` take.

use clap::{Args, ValueHint};

use super::sources::{Since, since};
use crate::store::Condition;

/// What `spoken reembed --help` says first.
pub(super) const REEMBED: &str = "\
Changes over to another embedding model: makes its vectors of all that is stored, in a table of its own, and lets it answer as \
soon as none is missing. Until then searches go on with the former model, also for what comes in meanwhile. It can be stopped \
or killed at any moment and goes on there; several of it, on several machines, share the work.

The former model's vectors stay, so that changing back takes no time; --drop-old removes them.";

/// What `spoken upgrade --help` says first.
pub(super) const UPGRADE: &str = "\
Does again what was badly understood, usually with a larger Whisper model (--model). A transcript answers until the new one is \
complete, and stays if that fails. Of an item only the doubtful windows of at most 30 s are heard again, where what was made of \
the others is still kept on this machine (CHECKPOINT_MAX_MB); else all of it. What was done again with a model is not done \
twice with it.";

/// What `spoken remove --help` says first.
pub(super) const REMOVE: &str = "\
Removes items with all that was said in them. Several conditions must all hold. What was removed is not brought in again by a \
list, feed or folder that has it, nor by its own address, unless --forget says so.";

/// What `spoken retention --help` says first.
pub(super) const RETENTION: &str = "\
Removes the items of subscribed sources that are kept no longer: by KEEP_LAST and KEEP_DAYS, or what a source says itself \
(`spoken source add … --keep-last N --keep-days N`). `spoken sync` and `spoken run` do so by themselves. An item of several \
sources stays as long as one of them keeps it; what was brought in otherwise always stays.";

/// Arguments of `spoken reembed`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Examples:
  spoken reembed --model intfloat/multilingual-e5-base
  EMBEDDING_MODEL=~/models/bge-m3 spoken reembed
  spoken reembed --status
  spoken reembed --drop-old                          only the model that answers is left

Exit codes: 0 done, 1 some items could not be embedded, 2 wrong usage or configuration, 3 not possible for now, 130 interrupted")]
pub struct ReembedArgs {
    /// The model: a name or a directory [env: EMBEDDING_MODEL]
    #[arg(short, long, value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub model: Option<String>,

    /// Only list the models, what they lack and which one answers
    #[arg(long, conflicts_with_all = ["model", "drop_old", "beside"])]
    pub status: bool,

    /// Fill the model's table, and let the other go on answering
    #[arg(long)]
    pub beside: bool,

    /// At the end drop the tables of all models but the one that answers
    #[arg(long, conflicts_with = "beside")]
    pub drop_old: bool,

    /// Print JSON: {"model_id", "answers", "items", "passages", "dropped", …}; with --status {"models": [{"model_id", "answers", …}]}
    #[arg(long)]
    pub json: bool,

    /// Plain lines instead of a progress bar
    #[arg(long)]
    pub no_progress: bool,
}

/// Arguments of `spoken upgrade`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  spoken upgrade --where 'avg_logprob < -0.8' --model large-v3 --dry-run
  spoken upgrade --where 'avg_logprob < -0.8 and language = es' --model large-v3
  spoken upgrade --where 'flag = low_coverage' --where 'duration < 1h'

A condition is COLUMN COMPARISON VALUE, joined by `and`. Of segments: avg_logprob, no_speech_prob, language. Of items: model, \
title, channel, duration (90s, 1h30m), published (2026-01-31), flag. Comparisons: < <= = != >= > and ~ (contains).

Exit codes: 0 done, 1 some items failed, 2 wrong usage or configuration, 3 not possible for now, 130 interrupted")]
pub struct UpgradeArgs {
    /// What is doubtful; given several times, all must hold
    #[arg(long = "where", value_name = "CONDITION", required = true, value_parser = condition)]
    pub condition: Vec<Condition>,

    /// Whisper model to do it with: a name such as small or large-v3-turbo, or a path [env: WHISPER_MODEL]
    #[arg(short, long, value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub model: Option<String>,

    /// Do at most N items, those with the most doubtful speech
    #[arg(short = 'n', long, value_name = "N")]
    pub limit: Option<usize>,

    /// Also what was done again with this model before
    #[arg(long)]
    pub again: bool,

    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,

    /// Print JSON: a summary as `ingest --json`; with --dry-run {"model", "items": [{"media_id", "doubted", "segments", …}]}
    #[arg(long)]
    pub json: bool,

    /// Plain lines instead of progress bars
    #[arg(long)]
    pub no_progress: bool,
}

fn condition(text: &str) -> Result<Condition, String> {
    text.parse()
}

/// Arguments of `spoken remove`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Examples:
  spoken remove 3f2a 77b0
  spoken remove --source podcast --before 2025-01-01 --dry-run
  spoken remove --channel \"Some Channel\" --yes
  spoken remove --list                               what was removed
  spoken remove --forget 3f2a                        what --list names: let it in again

Exit codes: 0 done, 1 some items are being worked on and stay, or the answer was no, 2 wrong usage or configuration, \
3 not possible for now")]
#[command(override_usage = "spoken remove [OPTIONS] [MEDIA]...")]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["media", "source", "channel", "before", "since", "list"]))]
pub struct RemoveArgs {
    /// Ids of items (their first characters will do), or the files or addresses they came from
    #[arg(value_name = "MEDIA")]
    pub media: Vec<String>,

    /// What was taken from a subscribed source; may be repeated
    #[arg(long, value_name = "SOURCE")]
    pub source: Vec<String>,

    /// What is of this channel
    #[arg(long, value_name = "NAME")]
    pub channel: Option<String>,

    /// What was published before this day: 2026-01-31, or 30d for longer ago than thirty days; where that is not known, the day
    /// it was found counts
    #[arg(long, value_name = "DATE", value_parser = since)]
    pub before: Option<Since>,

    /// What was published on this day or later: 2026-01-31, or 30d for the last thirty days
    #[arg(long, visible_alias = "after", value_name = "DATE", value_parser = since)]
    pub since: Option<Since>,

    /// Remove without remembering, so that a source may bring it in again; what was removed before is only let in again
    #[arg(long)]
    pub forget: bool,

    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,

    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,

    /// List what was removed and is kept from coming in again
    #[arg(long, conflicts_with_all = ["media", "source", "channel", "before", "since", "forget", "dry_run", "yes"])]
    pub list: bool,

    /// Print JSON: {"removed": [{"media_id", "title", "source", …}], "kept": […], "forgotten": n}
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `spoken retention`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Examples:
  spoken retention --dry-run
  KEEP_DAYS=90 spoken retention
  spoken source add https://example.org/news.xml --keep-last 20

Exit codes: 0 done, also with nothing to remove, 2 wrong usage or configuration, 3 not possible for now")]
pub struct RetentionArgs {
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,

    /// Print JSON: {"removed": [{"media_id", "title", "source", "rule"}]}
    #[arg(long)]
    pub json: bool,
}

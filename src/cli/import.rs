//! What `spoken import` takes.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// What `spoken import --help` says first.
pub(super) const IMPORT: &str = "\
Brings in transcripts that exist already: SubRip, WebVTT, and JSON as `spoken export --format json` or Whisper's own tools \
write it. They are searched like everything else; nothing is downloaded or transcribed.

Where a medium of the same name lies beside the file (talk.mp4 beside talk.srt or talk.en.srt), the transcript is that \
medium's. What is known already stays as it is.";

/// Arguments of `spoken import`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  spoken import talk.en.srt
  spoken import ~/Subtitles --language de
  spoken export talk.mp4 --format json > talk.json; spoken --data-dir /other import talk.json

Exit codes: 0 all done, 1 some files failed, 2 wrong usage or configuration, 3 not possible for now")]
pub struct ImportArgs {
    /// Files, and folders searched for .srt, .vtt and .json with all below them
    #[arg(value_name = "FILE", required = true, value_hint = ValueHint::AnyPath)]
    pub sources: Vec<PathBuf>,

    /// Language of what is said, such as en or de; otherwise as the file or its name (talk.en.srt) says
    #[arg(short, long, value_name = "CODE")]
    pub language: Option<String>,

    /// Print JSON at the end: {"done", "known", "skipped", "failed", "segments"}
    #[arg(long)]
    pub json: bool,
}

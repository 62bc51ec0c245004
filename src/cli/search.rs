//! What `spoken search` takes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use super::queue::parse_duration;
use super::sources::{Since, since};

/// What `spoken search --help` says first.
pub(super) const SEARCH: &str = "\
Finds passages by their words and by their meaning, best first. Each comes with its title, its time, a link that \
opens at that second, and the words around it.

In a QUERY, \"several words\" in quotation marks stand one after the other, photo* finds all words that begin so, \
-word must not occur, and of this OR that one will do. All but exclusions are left aside where nothing obeys them, \
and you are told. Case and accents do not matter; other forms of a word are found, too. A word that nobody says is \
looked for in the nearest spelling that somebody does (--as-typed: it is not).";

/// How `spoken search` looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SearchMode {
    /// By words and by meaning, the ranks joined
    #[default]
    Hybrid,
    /// By words only
    Text,
    /// By meaning only
    #[value(alias = "vector")]
    Semantic,
}

/// Arguments of `spoken search`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  spoken search photosynthesis
  spoken search why is the sky blue --limit 3 --around 30s
  spoken search '\"red shift\" OR dopplers -police' --mode text
  spoken search budget --channel council --after 2026-01-01 --language de
  spoken search 'photo*' --in talk.mp4               every place in one item
  spoken search --like talk.mp4@12:34                more like what is said there; a link from a search will do, too
  spoken search -- ice -cream                        after --, a word may begin with a hyphen
  spoken search '\"exact phrase\"' --json | jq -r .link

Exit codes: 0 done, also with nothing found, 2 wrong usage or configuration, 3 not possible for now")]
pub struct SearchArgs {
    /// What to look for; several words need no quotation marks
    #[arg(value_name = "QUERY", required_unless_present_any = ["like", "batch"], num_args = 1..)]
    pub query: Vec<String>,

    /// Show at most N hits
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,

    /// Show at most N hits of one item; 0: all [default: 3, or all with --in]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub per_item: Option<u32>,

    /// How to look
    #[arg(long, value_name = "MODE", default_value = "hybrid")]
    pub mode: SearchMode,

    /// Show what was said so long before and after, as in 30s
    #[arg(long, value_name = "TIME", value_parser = around)]
    pub around: Option<Duration>,

    /// Instead of a query: more like what is said in an item, at a time such as 12:34 (without one: like all of it)
    #[arg(long, value_name = "MEDIA[@TIME]", conflicts_with_all = ["query", "batch"])]
    pub like: Option<String>,

    /// Leave the words of the query as they are
    #[arg(long)]
    pub as_typed: bool,

    /// Only what came through this: a subscription (its name or address), a list or folder, a site such as youtube, or a part
    /// of the address or path; may be repeated, as all of these
    #[arg(long, value_name = "SOURCE", help_heading = "Only what")]
    pub source: Vec<String>,

    /// Only channels (or uploaders) with this in their name
    #[arg(long, value_name = "NAME", help_heading = "Only what")]
    pub channel: Vec<String>,

    /// Only what was published on this day or later: 2026-01-31, or 30d for the last thirty days; where that is not known, the day
    /// it was found counts
    #[arg(long, value_name = "DATE", value_parser = since, help_heading = "Only what")]
    pub after: Option<Since>,

    /// Only what was published before this day: 2026-01-31, or 30d for longer ago than thirty days
    #[arg(long, value_name = "DATE", value_parser = since, help_heading = "Only what")]
    pub before: Option<Since>,

    /// Only what is said in this language, such as en or de
    #[arg(short, long, value_name = "CODE", help_heading = "Only what")]
    pub language: Vec<String>,

    /// Only what somebody with this in their name says, where it is known who speaks
    #[arg(long, value_name = "NAME", help_heading = "Only what")]
    pub speaker: Vec<String>,

    /// Only items that last at least so long, as in 10m
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Only what")]
    pub longer_than: Option<Duration>,

    /// Only items that last at most so long, as in 1h30m
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Only what")]
    pub shorter_than: Option<Duration>,

    /// Only this item: its id (the first characters will do), or the file or address it came from
    #[arg(long = "in", value_name = "MEDIA", help_heading = "Only what")]
    pub within: Vec<String>,

    /// Print one JSON object a hit: {"media_id", "title", "source", "start_ms", "end_ms", "text", "link", "score", …}
    #[arg(long)]
    pub json: bool,

    /// Search for every line of a file (-: standard input); needs --json, whose objects then name their "query"
    #[arg(long, value_name = "FILE", requires = "json", conflicts_with = "query", value_hint = ValueHint::FilePath)]
    pub batch: Option<PathBuf>,
}

impl SearchArgs {
    /// The query as one text.
    pub fn text(&self) -> String {
        self.query.join(" ")
    }
}

/// Context beyond a quarter of an hour is no context.
fn around(text: &str) -> Result<Duration, String> {
    let time = match text.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => parse_duration(text)?,
    };
    if time <= Duration::from_secs(900) { Ok(time) } else { Err("at most 15m".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_is_seconds_or_a_time() {
        assert_eq!(around("30"), Ok(Duration::from_secs(30)));
        assert_eq!(around("1m30s"), Ok(Duration::from_secs(90)));
        assert!(around("16m").is_err() && around("-1").is_err() && around("soon").is_err());
    }
}

//! What `source`, `sync` and `run` take.

use std::time::Duration;

use chrono::NaiveDate;
use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand, ValueEnum, ValueHint};

/// What `spoken source --help` says first.
pub(super) const SOURCE: &str = "\
Subscribes to channels, playlists, podcasts, feeds, pages and folders. `spoken sync` (for cron) and `spoken run` (a daemon) look \
at each when it is due and bring in what is new.";

/// What `spoken sync --help` says first.
pub(super) const SYNC: &str = "\
Checks the sources that are due and works until all that is new is searchable (at most INGESTION_LIMIT new items), then ends: \
made for cron. Prints one line at the end. Several runs at once are safe: each source is checked by one, and where another \
process works in the same data directory, what was found is left to it.";

/// What `spoken run --help` says first.
pub(super) const RUN: &str = "\
Goes on until it is told to stop: checks each source when it is due, and works on what is queued, by whomever. SIGHUP reads the \
settings again and looks at the sources; SIGTERM ends it. Under systemd it tells when it is ready, what it does and that it \
lives (Type=notify, WatchdogSec).";

/// Arguments of `spoken source`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  spoken source add https://example.org/podcast.xml --every 6h
  spoken source add https://www.youtube.com/@channel/videos --since 2026-01-01 --no-shorts --limit 5
  spoken source add ~/Recordings --every 10m --language de
  spoken source list
  spoken source show podcast                         what was left out, and why")]
pub struct SourceArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: SourceCommand,
}

/// What to do with sources.
#[derive(Clone, Debug, Subcommand)]
pub enum SourceCommand {
    /// Subscribe to an address or a folder; again: change the settings that are given
    Add(SourceAddArgs),
    /// List what is subscribed to
    List(SourceListArgs),
    /// Tell all about one source: its settings, how its checks go, what was left out and why
    Show(SourceShowArgs),
    /// Look at a source no more, until it is resumed
    Pause(SourceNameArgs),
    /// Look at a paused source again
    Resume(SourceNameArgs),
    /// Forget a source; its items stay
    Remove(SourceRemoveArgs),
}

/// When the items of a source come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SourcePriority {
    /// Before others
    High,
    /// In between
    #[default]
    Normal,
    /// After others
    Low,
}

impl SourcePriority {
    /// Smaller is sooner.
    pub fn number(self) -> i16 {
        match self {
            Self::High => -1,
            Self::Normal => 0,
            Self::Low => 1,
        }
    }

    /// The word for a number.
    pub fn word(number: i16) -> &'static str {
        match number {
            ..0 => "high",
            0 => "normal",
            1.. => "low",
        }
    }
}

/// Arguments of `spoken source add`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Again with the same address or folder it changes what is given, and only that. --since none, --match '', --limit 0, --language \
auto, --keep-last none, --keep-days none, --no-shorts=no, --no-live=no and --members=no take a setting back. What other rules \
had left out is judged anew at the next look. A paused source stays paused until `spoken source resume`.")]
pub struct SourceAddArgs {
    /// Address of a feed, podcast, channel, playlist or page, or a folder
    #[arg(value_name = "URL|FOLDER", value_hint = ValueHint::AnyPath)]
    pub source: String,

    /// What to call it; made from the address if not given
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// How often to look: 30m, 6h, 1d, 2w; between 10s and 366d [default: 6h]
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub every: Option<Duration>,

    /// Only what was published on this day or later: 2026-01-31, or 30d for the last thirty days; none: whatever its age
    #[arg(long, value_name = "DATE", value_parser = since_or_none)]
    pub since: Option<OrNone<Since>>,

    /// Only what has a title that matches this regular expression, whatever its case; '': any title
    #[arg(long = "match", value_name = "REGEX")]
    pub matching: Option<String>,

    /// Take on at most N new items after each check, the newest first; the others follow after later ones; 0: all
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub limit: Option<u32>,

    /// Keep the latest N of its items; what was there before is removed; 0: all; none: as KEEP_LAST says
    #[arg(long, value_name = "N", value_parser = number_or_none)]
    pub keep_last: Option<OrNone<u32>>,

    /// Keep its items for N days from their publication; 0: for ever; none: as KEEP_DAYS says
    #[arg(long, value_name = "N", value_parser = number_or_none)]
    pub keep_days: Option<OrNone<u32>>,

    /// Language spoken in it, such as en or de; auto: as configured
    #[arg(short, long, value_name = "CODE")]
    pub language: Option<String>,

    /// When its items come: high, normal, low [default: normal]
    #[arg(long, value_name = "WHEN", hide_possible_values = true)]
    pub priority: Option<SourcePriority>,

    /// Leave out short vertical videos
    #[arg(long, value_name = "no", num_args = 0..=1, require_equals = true, default_missing_value = "yes",
        hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub no_shorts: Option<bool>,

    /// Leave out recordings of live streams
    #[arg(long, value_name = "no", num_args = 0..=1, require_equals = true, default_missing_value = "yes",
        hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub no_live: Option<bool>,

    /// Take what is for members only, too (needs their cookies: COOKIES_FILE)
    #[arg(long, value_name = "no", num_args = 0..=1, require_equals = true, default_missing_value = "yes",
        hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub members: Option<bool>,

    /// Print JSON: the source as `source list --json` has it
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `spoken source list`.
#[derive(Clone, Debug, Default, Args)]
pub struct SourceListArgs {
    /// Print JSON: {"sources": [{"name", "source", "kind", "every_s", "next_due", "items", "error", …}]}
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `spoken source show`.
#[derive(Clone, Debug, Args)]
pub struct SourceShowArgs {
    /// Its name, its address or folder, or the first characters of its id
    #[arg(value_name = "SOURCE")]
    pub source: String,

    /// List at most N entries that were left out or wait
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub limit: u32,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `spoken source pause` and `resume`.
#[derive(Clone, Debug, Args)]
pub struct SourceNameArgs {
    /// Names, addresses or folders, or the first characters of ids
    #[arg(value_name = "SOURCE", required = true)]
    pub sources: Vec<String>,

    /// Print JSON: {"sources": ["name", …]}
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `spoken source remove`.
#[derive(Clone, Debug, Args)]
pub struct SourceRemoveArgs {
    /// Names, addresses or folders, or the first characters of ids
    #[arg(value_name = "SOURCE", required = true)]
    pub sources: Vec<String>,

    /// Remove its items too, with all that was said in them, unless they came from elsewhere as well
    #[arg(long)]
    pub with_items: bool,

    /// Print JSON: {"sources": ["name", …], "items_removed": n}
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `spoken sync`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Examples:
  spoken sync
  spoken sync podcast --full
  */10 * * * *  spoken sync                          in a crontab

Exit codes: 0 done, also with nothing new; 1 items failed or a source could not be checked; 2 wrong usage or \
configuration; 3 not possible for now; 130 interrupted")]
pub struct SyncArgs {
    /// Check these now, due or not; without any, those that are due
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,

    /// Check all sources that are not paused, due or not
    #[arg(long, conflicts_with = "sources")]
    pub all: bool,

    /// Read all of each list, not only what is recent, and each feed whether or not it has changed
    #[arg(long)]
    pub full: bool,

    /// Take on at most N new items in this run; 0: all [env: INGESTION_LIMIT]
    #[arg(short = 'n', long, value_name = "N")]
    pub limit: Option<String>,

    /// Print JSON: {"sources": […], "checked", "new", "done", "failed", "failures": […], "wall_ms", …}
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `spoken run`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Examples:
  spoken run
  systemctl reload spoken                            settings and sources again (SIGHUP)

What needs a new start: DATABASE_URL, the places (SPOKEN_DATA_DIR, SPOKEN_TOOLS_DIR), the form of the log, and what the \
environment of the process says. Everything else is taken from the files when it is told to reload, and what is in work is \
finished first. Sources are read anew at every look.

Exit codes: 0 told to stop, 2 wrong usage or configuration, 3 not possible for now")]
pub struct RunArgs {}

/// A day, or so many days back from today (the database's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// This day.
    Day(NaiveDate),
    /// So long ago.
    Ago(Duration),
}

/// A value, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrNone<T> {
    /// `none`: there shall be none, whatever there was before.
    None,
    /// This.
    Some(T),
}

impl<T> OrNone<T> {
    /// As an option.
    pub fn into_option(self) -> Option<T> {
        match self {
            Self::None => None,
            Self::Some(value) => Some(value),
        }
    }

    fn read(text: &str, value: impl FnOnce(&str) -> Result<T, String>) -> Result<Self, String> {
        match text.trim() {
            "none" => Ok(Self::None),
            text => value(text).map(Self::Some),
        }
    }
}

fn since_or_none(text: &str) -> Result<OrNone<Since>, String> {
    OrNone::read(text, |text| since(text).map_err(|e| format!("{e}, or none")))
}

fn number_or_none(text: &str) -> Result<OrNone<u32>, String> {
    OrNone::read(text, |text| text.parse().map_err(|_| "write a number, or none".to_owned()))
}

/// `90s`, `30m`, `6h`, `1d`, `2w`, from ten seconds to 366 days.
fn interval(text: &str) -> Result<Duration, String> {
    let allowed = "write a number and s, m, h, d or w, as in 30m, 6h or 1d";
    let text = text.trim();
    let unit = text.chars().next_back().ok_or(allowed)?;
    let number: u64 = text[..text.len() - unit.len_utf8()].trim().parse().map_err(|_| allowed)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(allowed.to_owned()),
    };
    let all = number.checked_mul(seconds).ok_or(allowed)?;
    if !(10..=366 * 86_400).contains(&all) {
        return Err("between 10s and 366d".to_owned());
    }
    Ok(Duration::from_secs(all))
}

/// Reads `2026-01-31` or `30d`.
pub(super) fn since(text: &str) -> Result<Since, String> {
    if let Ok(day) = text.trim().parse::<NaiveDate>() {
        return Ok(Since::Day(day));
    }
    interval(text)
        .map(Since::Ago)
        .map_err(|_| "write a day as in 2026-01-31, or 30d for the last thirty days".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals() {
        assert_eq!(interval("6h"), Ok(Duration::from_secs(21_600)));
        assert_eq!(interval(" 30m "), Ok(Duration::from_secs(1800)));
        assert_eq!(interval("2w"), Ok(Duration::from_secs(1_209_600)));
        for bad in ["", "6", "h", "1s", "-1h", "1.5h", "6 hours", "400d", "99999999999999999999d", "6ü"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
        assert_eq!(since("2026-01-31"), Ok(Since::Day(NaiveDate::from_ymd_opt(2026, 1, 31).unwrap())));
        assert_eq!(since("7d"), Ok(Since::Ago(Duration::from_secs(604_800))));
        assert!(since("2026-02-30").is_err() && since("yesterday").is_err());
    }

    #[test]
    fn settings_can_be_taken_back() {
        assert_eq!(since_or_none("none"), Ok(OrNone::None));
        assert_eq!(since_or_none("7d"), Ok(OrNone::Some(Since::Ago(Duration::from_secs(604_800)))));
        assert_eq!((number_or_none("none"), number_or_none("0")), (Ok(OrNone::None), Ok(OrNone::Some(0))));
        assert!(since_or_none("soon").unwrap_err().contains("2026-01-31"));
        assert!(number_or_none("-1").is_err() && number_or_none("").is_err());
    }
}

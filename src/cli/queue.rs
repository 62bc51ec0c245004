//! What `spoken queue` takes, and how a person writes times.

use std::time::Duration;

use chrono::{DateTime, Days, Local, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Utc};
use clap::{Args, Subcommand};

/// What `spoken queue --help` says first.
pub(super) const QUEUE: &str = "\
Shows what is running where, what is next, what waits for its time and why, and what was given up. The commands pause \
the queue, put an item first, and take items out of it; they work for all machines that share the database, whether or \
not anything is running.

Small and new items come first: a long one is passed by those that are shorter, and a large backlog by what was found \
since, but nothing is passed for longer than it plays itself or the part of the backlog before it plays (30 days at most).";

/// Arguments of `spoken queue`.
#[derive(Clone, Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_long_help = "\
Examples:
  spoken queue
  spoken queue pause --for 2h                        running items are finished, nothing new begins
  spoken queue resume
  spoken queue bump https://youtu.be/…               next, before everything else
  spoken queue cancel 3f2a
  spoken queue --json | jq '.running[] | {title, host, step}'

Exit codes: 0 done, 1 nothing of what was named waits or runs, 2 wrong usage or configuration, 3 not possible for now"
)]
pub struct QueueArgs {
    /// What to do; without it, the queue is shown.
    #[command(subcommand)]
    pub command: Option<QueueCommand>,

    /// Show at most N items of each kind
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,

    /// Print JSON: {"paused", "counts": {…}, "running": […], "waiting": […], "scheduled": […], "dead": […]}
    #[arg(long)]
    pub json: bool,
}

/// What to do with the queue.
#[derive(Clone, Debug, Subcommand)]
pub enum QueueCommand {
    /// Begin nothing new; what runs is finished
    Pause(PauseArgs),
    /// Go on
    Resume,
    /// Put waiting items first
    Bump(BumpArgs),
    /// Take items out; `spoken retry` brings them back
    Cancel(CancelArgs),
    /// Measure the queue itself, on a database made for that
    #[command(hide = true)]
    Drill(DrillArgs),
}

/// Arguments of `spoken queue pause`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Examples:
  spoken queue pause                                 until `spoken queue resume`
  spoken queue pause --for 2h
  spoken queue pause --until 07:00")]
pub struct PauseArgs {
    /// Go on by itself after this time: 90s, 30m, 2h, 1h30m, 2d
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration, conflicts_with = "until")]
    pub after: Option<Duration>,

    /// Go on by itself at this time: 07:00, 2026-12-24 07:00 or 2026-12-24T07:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub until: Option<Moment>,
}

/// Arguments of `spoken queue bump`.
#[derive(Clone, Debug, Args)]
pub struct BumpArgs {
    /// Ids of items (their first characters will do), or the files or addresses they came from
    #[arg(value_name = "MEDIA", required = true)]
    pub media: Vec<String>,
}

/// Arguments of `spoken queue cancel`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Examples:
  spoken queue cancel 3f2a 77b0
  spoken queue cancel --all-waiting                  what is in work goes on
  spoken retry --class cancelled                     brings it back")]
pub struct CancelArgs {
    /// Ids of items (their first characters will do), or the files or addresses they came from
    #[arg(value_name = "MEDIA", required_unless_present = "all_waiting", conflicts_with = "all_waiting")]
    pub media: Vec<String>,

    /// All that nobody works on yet
    #[arg(long)]
    pub all_waiting: bool,
}

/// Arguments of `spoken queue drill`: made-up items that need nothing, through the queue as `ingest` uses it.
#[derive(Clone, Debug, Default, Args)]
pub struct DrillArgs {
    /// Add so many items
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub add: u32,

    /// Work until nothing is left, or until so many were done
    #[arg(long, value_name = "N")]
    pub work: Option<u32>,

    /// Items in flight at once; as many as `ingest` takes by default
    #[arg(long, value_name = "N", default_value_t = 70)]
    pub concurrency: usize,

    /// Go on asking for so many seconds when nothing is left
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub linger: u64,
}

/// A time as a person writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// With its date.
    At(DateTime<Utc>),
    /// The next time that this machine's clocks show it.
    Clock(NaiveTime),
}

impl Moment {
    /// The moment, seen from `now`.
    pub fn after(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(at) => at,
            Self::Clock(time) => {
                let today = now.with_timezone(&Local).date_naive();
                let next = [0, 1, 2]
                    .iter()
                    .filter_map(|days| today.checked_add_days(Days::new(*days)))
                    .filter_map(|day| local(day.and_time(time)))
                    .find(|at| *at > now);
                // A day later than no day: the end of the calendar.
                next.unwrap_or(now)
            }
        }
    }
}

/// The first moment at which this machine's clocks show it; none in the hour that is skipped in spring.
fn local(time: NaiveDateTime) -> Option<DateTime<Utc>> {
    Local.from_local_datetime(&time).earliest().map(|at| at.with_timezone(&Utc))
}

/// Reads `90s`, `30m`, `2h`, `1h30m`, `2d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; write 90s, 30m, 2h, 1h30m or 2d");
    let (mut total, mut rest) = (0u64, text.trim());
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = rest.split_at(digits);
        let letters = unit.find(|c: char| c.is_ascii_digit() || c == ' ').unwrap_or(unit.len());
        let seconds = match &unit[..letters] {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total = number.checked_mul(seconds).and_then(|s| total.checked_add(s)).ok_or_else(wrong)?;
        rest = unit[letters..].trim_start();
    }
    // What an interval of the database holds with ease.
    match total {
        0 => Err("the time must be longer than nothing".to_owned()),
        1..=315_360_000 => Ok(Duration::from_secs(total)),
        _ => Err(format!("{text:?} is more than ten years")),
    }
}

/// Reads `07:00`, `2026-12-24`, `2026-12-24 07:00` (this machine's time) or a full time with its zone.
fn parse_moment(text: &str) -> Result<Moment, String> {
    let text = text.trim();
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(Moment::At(at.with_timezone(&Utc)));
    }
    for format in ["%H:%M", "%H:%M:%S"] {
        if let Ok(time) = NaiveTime::parse_from_str(text, format) {
            return Ok(Moment::Clock(time));
        }
    }
    let written = ["%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .or_else(|| Some(NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_time(NaiveTime::MIN)));
    let wrong = || format!("{text:?} is no time; write 07:00, 2026-12-24 07:00 or 2026-12-24T07:00:00Z");
    let at = local(written.ok_or_else(wrong)?);
    at.map(Moment::At).ok_or_else(|| format!("the clocks here never show {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let read = |text: &str| parse_duration(text).map(|d| d.as_secs());
        assert_eq!(read("90s"), Ok(90));
        assert_eq!(read("30m"), Ok(1800));
        assert_eq!(read(" 1h30m "), Ok(5400));
        assert_eq!(read("1h 30min"), Ok(5400));
        assert_eq!(read("2d"), Ok(172_800));
        for wrong in ["", "2", "h", "2x", "-2h", "0s", "2 hours", "99999999999999999999h", "20000d", "2h-"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_of_day_is_the_next_one() {
        let now = Utc::now();
        let Ok(moment) = parse_moment("07:00") else { panic!("not read") };
        let at = moment.after(now);
        // 25 hours and a skipped one at the change of the clocks.
        assert!(at > now && at - now < chrono::TimeDelta::hours(50));
        assert_eq!(at.with_timezone(&Local).time(), NaiveTime::from_hms_opt(7, 0, 0).unwrap());
    }

    #[test]
    fn dates_are_read_with_and_without_their_zone() {
        let zoned = parse_moment("2026-12-24T07:00:00+01:00").unwrap();
        assert_eq!(zoned, Moment::At("2026-12-24T06:00:00Z".parse().unwrap()));
        let Ok(Moment::At(local)) = parse_moment("2026-12-24 07:00") else { panic!("not read") };
        assert_eq!(local.with_timezone(&Local).format("%F %R").to_string(), "2026-12-24 07:00");
        assert!(parse_moment("2026-12-24").is_ok());
        for wrong in ["", "tomorrow", "25:00", "2026-13-01", "7"] {
            assert!(parse_moment(wrong).is_err(), "{wrong}");
        }
    }
}

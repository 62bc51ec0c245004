//! `spoken bench`: how fast is which configuration here, what does it need, and how well does it hear?
//!
//! Each configuration runs in a child process of its own ([`child`]), so that its peak of memory, the state of its allocator
//! and the loading of its model are its own. The rounds go through all configurations in turn (every second one backwards), so
//! that a machine that warms up or gets busy does so for all of them.

mod child;
mod made;
mod table;
mod truth;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde::Serialize;

use super::offline::{self, Room};
use crate::cli::{BenchArgs, Cli, EXIT_FAILED, EXIT_OK};
use crate::config::{self, Inputs, Key, Loaded, Override};
use crate::transcribe::Host;

pub use child::{FileReport, Report, child};

use table::figure;
use truth::Truths;

/// A configuration whose word error rate is at most this much above the best, in points, counts as equally good.
const EQUALLY_GOOD: f64 = 0.2;
/// Speeds that differ by less than this share are taken for equal, and the smaller memory decides.
const EQUALLY_FAST: f64 = 0.02;
/// Share of the free memory that a configuration may take.
const ROOM: f64 = 0.9;

/// One setting of a configuration: key and value as typed.
type Setting = (&'static Key, String);

/// One configuration and how its rounds went.
#[derive(Debug)]
struct Configuration {
    settings: Vec<Setting>,
    rounds: Vec<Round>,
    /// Why it did not run to its end, if so.
    failure: Option<String>,
}

/// One run of a configuration.
#[derive(Clone, Debug, Serialize)]
struct Round {
    #[serde(flatten)]
    report: Report,
    /// Audio by wall time, loading not counted.
    realtime: f64,
    /// Hours of audio in an hour of the whole process, loading counted.
    hours_per_hour: f64,
    /// Share of the time that the model worked, of all the time it could have.
    model_busy: f64,
    /// Word error rate in percent, over the files whose truth is known.
    wer: Option<f64>,
}

impl Round {
    fn new(report: Report, truths: &Truths) -> Self {
        let (audio, wall) = (report.audio_ms as f64, report.wall_ms.max(1) as f64);
        Self {
            realtime: audio / wall,
            hours_per_hour: audio / (wall + report.load_ms as f64),
            model_busy: (report.model_busy_ms as f64 / (report.model_workers.max(1) as f64 * wall)).min(1.0),
            wer: truths.word_error_rate(&report.texts),
            report,
        }
    }
}

impl Configuration {
    /// As a person reads it: `whisper_model=tiny beam_size=1`.
    fn name(&self) -> String {
        match self.settings.as_slice() {
            [] => "as configured".to_owned(),
            settings => {
                let shown = |(key, value): &Setting| {
                    // Of a model's directory the last part tells it apart.
                    let path = value.contains('/') && Path::new(value).is_dir();
                    let short = Path::new(value).file_name().filter(|_| path).map(|n| n.to_string_lossy());
                    format!("{}={}", key.name, short.as_deref().unwrap_or(value))
                };
                settings.iter().map(shown).collect::<Vec<_>>().join(" ")
            }
        }
    }

    /// The round of median speed (the slower one of two in the middle); `None` where a round failed.
    fn median(&self) -> Option<&Round> {
        let mut rounds: Vec<&Round> = self.rounds.iter().collect();
        rounds.sort_by(|a, b| a.realtime.total_cmp(&b.realtime));
        rounds.get(rounds.len().checked_sub(1)? / 2).copied().filter(|_| self.failure.is_none())
    }

    /// The largest of the rounds' peaks of memory.
    fn peak_rss(&self) -> Option<u64> {
        self.rounds.iter().filter_map(|r| r.report.peak_rss_bytes).max()
    }

    /// What to put into the environment to have it.
    fn environment(&self) -> Vec<String> {
        self.settings.iter().map(|(key, value)| format!("{}={value}", key.env)).collect()
    }
}

/// Runs every configuration, and prints what came out on standard output.
///
/// # Errors
/// Wrong settings, media that are not there, or a child that cannot be started. A configuration that fails is part of the
/// result, and of the exit code.
pub fn bench(cli: &Cli, args: &BenchArgs, loaded: &Loaded) -> anyhow::Result<u8> {
    let mut configurations = configurations(&axes(args)?);
    for configuration in &configurations {
        // What is wrong is told before an hour is spent on what is right.
        config::load(&Inputs::from_process(overrides(cli, configuration))?)?;
    }
    let data_dir = &loaded.config.data_dir;
    let room = Room::make(&data_dir.join("spool"))
        .with_context(|| format!("failed to make room in {}", data_dir.display()))?;
    let files = if args.sources.is_empty() {
        eprintln!("no media named: making {} of babble; it shows speed, not accuracy", minutes(args.minutes));
        made::make(room.path(), args.minutes)?
    } else {
        offline::media_in(&args.sources)?
    };
    if files.is_empty() {
        bail!(
            "there is no media in {}",
            args.sources.iter().map(|s| s.display().to_string()).collect::<Vec<_>>().join(", ")
        );
    }
    let truths = Truths::find(&files, args.truth.as_deref())?;
    let memory = Host::survey(0).memory;
    let count = configurations.len();
    for round in 0..args.rounds {
        let backwards = round % 2 == 1;
        for step in 0..count {
            let configuration = &mut configurations[if backwards { count - 1 - step } else { step }];
            if configuration.failure.is_some() {
                continue;
            }
            eprint!("round {} of {}, {}: ", round + 1, args.rounds, configuration.name());
            let keep = Room::make(room.path())?;
            match run_child(&overrides(cli, configuration), &files, keep.path())? {
                Ok(report) => {
                    let done = Round::new(report, &truths);
                    eprintln!("{} × real time", figure(done.realtime));
                    configuration.rounds.push(done);
                }
                Err(failure) => {
                    eprintln!("{failure}");
                    configuration.failure = Some(failure);
                }
            }
        }
    }
    let best = recommend(&configurations, memory);
    let mut out = std::io::stdout().lock();
    if args.json {
        write_json(&mut out, &configurations, best, args)?;
    } else {
        table::write(&mut out, &configurations, best, &truths, args)?;
    }
    let failed =
        configurations.iter().any(|c| c.failure.is_some() || c.rounds.iter().any(|r| r.report.failed > 0));
    Ok(if failed { EXIT_FAILED } else { EXIT_OK })
}

fn minutes(n: u32) -> String {
    if n == 1 { "a minute".to_owned() } else { format!("{n} minutes") }
}

/// What is varied: the flags' keys, then those of `--vary`.
fn axes(args: &BenchArgs) -> anyhow::Result<Vec<(&'static Key, Vec<String>)>> {
    let mut axes: Vec<(&'static Key, Vec<String>)> = Vec::new();
    for (name, values) in args.varied() {
        let Some(key) = Key::find(&name) else {
            bail!("there is no setting {name:?} to vary; `spoken config` lists all of them");
        };
        if axes.iter().any(|(known, _)| known.name == key.name) {
            bail!("{} is varied twice; give all its values at once", key.name);
        }
        axes.push((key, values));
    }
    Ok(axes)
}

/// Every combination, the first axis changing slowest.
fn configurations(axes: &[(&'static Key, Vec<String>)]) -> Vec<Configuration> {
    let mut all: Vec<Vec<Setting>> = vec![Vec::new()];
    for (key, values) in axes {
        let with = |settings: &Vec<Setting>| {
            let settings = settings.clone();
            values
                .iter()
                .map(move |value| [settings.as_slice(), &[(*key, value.clone())]].concat())
                .collect::<Vec<_>>()
        };
        all = all.iter().flat_map(with).collect();
    }
    all.into_iter().map(|settings| Configuration { settings, rounds: Vec::new(), failure: None }).collect()
}

/// What the command line set, then the configuration.
fn overrides(cli: &Cli, configuration: &Configuration) -> Vec<Override> {
    let mut all = cli.overrides();
    all.extend(configuration.settings.iter().map(|(key, value)| Override::new(key.name, value, "bench")));
    all
}

/// Runs one configuration in a process of its own. The inner error is the configuration's.
fn run_child(
    overrides: &[Override],
    files: &[PathBuf],
    keep: &Path,
) -> anyhow::Result<Result<Report, String>> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let mut command = Command::new(program);
    // Only errors: what goes on is told by this process.
    command.args(["bench", "--child", "--set", "log_format=text", "--set", "log_level=error"]);
    for Override { key, value, .. } in overrides {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start a process for a configuration")?;
    if let Some(mut stdin) = child.stdin.take() {
        let request = child::Request { files: files.to_vec(), keep: keep.to_owned() };
        // A child that has ended already says why by its exit code.
        let _ = stdin.write_all(&serde_json::to_vec(&request)?);
    }
    let ended = child.wait_with_output().context("failed to wait for a configuration's process")?;
    use std::os::unix::process::ExitStatusExt as _;
    Ok(match ended.status.signal() {
        Some(9) => Err("was killed, as the system does when memory runs out".to_owned()),
        Some(signal) => Err(format!("ended by signal {signal}")),
        None if !ended.status.success() => {
            Err(format!("did not run (exit code {})", ended.status.code().unwrap_or(-1)))
        }
        None => serde_json::from_slice(&ended.stdout).map_err(|e| format!("gave no report: {e}")),
    })
}

/// Position of the configuration to take: of those whose word error rate is as good as the best and that fit the memory, the
/// fastest; of those as fast as that one, the smallest.
fn recommend(configurations: &[Configuration], memory: u64) -> Option<usize> {
    let fits = |c: &Configuration| c.peak_rss().is_none_or(|peak| peak as f64 <= ROOM * memory as f64);
    let ran: Vec<(usize, &Round, u64)> = configurations
        .iter()
        .enumerate()
        .filter(|(_, c)| fits(c))
        .filter_map(|(i, c)| Some((i, c.median()?, c.peak_rss().unwrap_or(0))))
        .filter(|(_, round, _)| round.report.failed == 0)
        .collect();
    let best = ran.iter().filter_map(|(_, r, _)| r.wer).min_by(f64::total_cmp);
    let good = |r: &Round| best.is_none_or(|best| r.wer.is_some_and(|wer| wer <= best + EQUALLY_GOOD));
    let good: Vec<_> = ran.into_iter().filter(|(_, r, _)| good(r)).collect();
    let fastest = good.iter().map(|(_, r, _)| r.realtime).max_by(f64::total_cmp)?;
    let fast = good.into_iter().filter(|(_, r, _)| r.realtime >= fastest * (1.0 - EQUALLY_FAST));
    fast.min_by_key(|&(i, _, rss)| (rss, i)).map(|(i, _, _)| i)
}

/// One line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    /// Keys and values that make the configuration.
    configuration: std::collections::BTreeMap<&'static str, &'a str>,
    /// The round of median speed.
    median: Option<&'a Round>,
    /// All rounds' speeds, in the order run.
    realtime: Vec<f64>,
    /// The largest of the rounds' peaks.
    peak_rss_bytes: Option<u64>,
    failure: Option<&'a str>,
    recommended: bool,
    /// What to put into the environment to have it.
    environment: Vec<String>,
    /// The files' transcripts in the median round, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    texts: Option<&'a [FileReport]>,
}

fn write_json(
    out: &mut impl Write,
    configurations: &[Configuration],
    best: Option<usize>,
    args: &BenchArgs,
) -> anyhow::Result<()> {
    for (i, c) in configurations.iter().enumerate() {
        let median = c.median();
        let line = Line {
            configuration: c.settings.iter().map(|(key, value)| (key.name, value.as_str())).collect(),
            median,
            realtime: c.rounds.iter().map(|r| r.realtime).collect(),
            peak_rss_bytes: c.peak_rss(),
            failure: c.failure.as_deref(),
            recommended: best == Some(i),
            environment: c.environment(),
            texts: median.filter(|_| args.texts).map(|r| r.report.texts.as_slice()),
        };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! One configuration, in a process of its own: asked on standard input, answered on standard output.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::app::offline::Offline;
use crate::config::Loaded;
use crate::event::{Event, Events};
use crate::gpu::{self, Monitor};
use crate::media::{FailureClass, Segment};
use crate::transcribe::Device;

/// Between two looks at the GPUs.
const SAMPLE: Duration = Duration::from_millis(250);

/// What the child is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Media files.
    pub files: Vec<PathBuf>,
    /// A directory that is removed afterwards: nothing done in another round may help in this one.
    pub keep: PathBuf,
}

/// How a run went. Times in milliseconds; those of workers are sums over them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The model's name.
    pub model: String,
    /// How it was run, in words.
    pub plan: String,
    /// Why it was run so.
    pub reasons: Vec<String>,
    /// Files given.
    pub files: usize,
    /// Files in which nobody speaks.
    pub silent: usize,
    /// Files that could not be transcribed.
    pub failed: usize,
    /// Loading the model.
    pub load_ms: u64,
    /// From the first file to the last transcript, loading not counted.
    pub wall_ms: u64,
    /// Audio of all files that could be decoded.
    pub audio_ms: u64,
    /// Speech detected in it.
    pub speech_ms: u64,
    /// Windows that the model was given, second tries not counted.
    pub windows: u64,
    /// Calls of the model that can be under way at once.
    pub model_workers: usize,
    /// Inside the model.
    pub model_busy_ms: u64,
    /// The model's workers waiting for windows.
    pub model_waited_ms: u64,
    /// Finding speech and making spectrograms.
    pub speech_busy_ms: u64,
    /// Decoding files.
    pub decode_busy_ms: u64,
    /// Largest resident memory of the process, loading included, where the system tells.
    pub peak_rss_bytes: Option<u64>,
    /// Largest memory in use on the GPUs, less what was in use before.
    pub vram_bytes: Option<u64>,
    /// Mean share of time that a kernel ran on the GPUs, percent.
    pub sm_percent: Option<f64>,
    /// What became of each file, in order.
    pub texts: Vec<FileReport>,
}

/// What became of one file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// Length of its audio.
    pub audio_ms: Option<i64>,
    /// Speech detected in it.
    pub speech_ms: i64,
    /// When it was finished, from the start of the run.
    pub finished_ms: u64,
    /// Language of most of its speech.
    pub language: Option<String>,
    /// What was said.
    pub segments: Vec<Segment>,
    /// Why there is no transcript, if so.
    pub error: Option<String>,
}

impl FileReport {
    /// The segments' text.
    pub fn text(&self) -> String {
        self.segments.iter().map(|s| s.text.as_str()).collect::<Vec<_>>().join(" ")
    }
}

/// The child's whole work: reads a request, runs the configuration of this process, prints the report.
///
/// # Errors
/// A request that cannot be read, or a model that cannot be loaded.
pub fn child(loaded: &Loaded) -> anyhow::Result<()> {
    let mut asked = Vec::new();
    std::io::stdin().read_to_end(&mut asked)?;
    let Request { files, keep } = serde_json::from_slice(&asked)?;
    println!("{}", serde_json::to_string(&run(loaded, &files, &keep)?)?);
    Ok(())
}

fn run(loaded: &Loaded, files: &[PathBuf], keep: &Path) -> anyhow::Result<Report> {
    let gpus = GpuWatch::start()?;
    // Nobody draws anything here.
    let (events, _) = Events::channel();
    let offline = Offline::start(&loaded.config, keep, &events)?;
    let plan = offline.plan().clone();
    let mut texts = Vec::with_capacity(files.len());
    let (mut silent, mut failed) = (0, 0);
    let started = Instant::now();
    offline.run(files, &events, &CancellationToken::new(), &mut |heard| {
        let mut file = FileReport {
            path: files[heard.index].clone(),
            audio_ms: heard.audio_ms,
            finished_ms: heard.at.as_millis() as u64,
            ..FileReport::default()
        };
        match heard.result {
            Ok(transcript) => {
                file.speech_ms = transcript.speech_ms;
                file.language = Some(transcript.language);
                file.segments = transcript.segments;
            }
            Err(failure) => {
                *if failure.class == FailureClass::NoSpeech { &mut silent } else { &mut failed } += 1;
                file.error = Some(failure.to_string());
            }
        }
        texts.push(file);
    });
    let wall = started.elapsed();
    let (vram_bytes, sm_percent) = gpus.figures(started, started + wall);
    let stages = offline.stages();
    let stage = |name: &str| stages.iter().find(|s| s.name == name);
    let (asr, speech, io) = (stage("asr"), stage("speech"), stage("io"));
    let workers = asr.map_or(1, |s| s.workers);
    Ok(Report {
        model: offline.model().to_owned(),
        plan: plan.to_string(),
        // A GPU has one feeder more than it can serve, so that the next batch is ready.
        model_workers: if plan.device == Device::Cuda { workers.saturating_sub(1).max(1) } else { workers },
        reasons: plan.reasons,
        windows: offline.windows().windows,
        files: files.len(),
        silent,
        failed,
        load_ms: offline.load_time().as_millis() as u64,
        wall_ms: wall.as_millis() as u64,
        audio_ms: texts.iter().filter_map(|t| t.audio_ms).sum::<i64>().unsigned_abs(),
        speech_ms: texts.iter().map(|t| t.speech_ms).sum::<i64>().unsigned_abs(),
        model_busy_ms: asr.map_or(0, |s| s.busy_ms),
        model_waited_ms: asr.map_or(0, |s| s.wait_in_ms),
        speech_busy_ms: speech.map_or(0, |s| s.busy_ms),
        decode_busy_ms: io.map_or(0, |s| s.busy_ms),
        peak_rss_bytes: peak_rss(),
        vram_bytes,
        sm_percent,
        texts,
    })
}

/// The largest resident memory this process had so far (`VmHWM`), where the system tells.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Listens to the machine's samples.
struct GpuWatch {
    /// In use before anything was loaded; `None` without a GPU.
    before: Option<u64>,
    samples: Arc<Mutex<Vec<Sample>>>,
    /// Samples until it is dropped.
    _monitor: Option<Monitor>,
}

struct Sample {
    at: Instant,
    vram: u64,
    sm_percent: f64,
}

impl GpuWatch {
    fn start() -> std::io::Result<Self> {
        let before = gpu::inventory().ok().filter(|found| !found.gpus.is_empty());
        let before = before.map(|found| found.gpus.iter().map(|g| g.vram_used).sum());
        let samples = Arc::new(Mutex::new(Vec::new()));
        let mut monitor = None;
        if before.is_some() {
            let (events, mut told) = Events::channel();
            monitor = Some(Monitor::start(events, SAMPLE)?);
            let samples = Arc::clone(&samples);
            // Ends with the monitor, which holds the only sender.
            std::thread::Builder::new().name("gpus".into()).spawn(move || {
                while let Some(event) = told.blocking_recv() {
                    let Event::MachineSampled(machine) = event else { continue };
                    let n = machine.gpus.len().max(1) as f64;
                    let sample = Sample {
                        at: Instant::now(),
                        vram: machine.gpus.iter().map(|g| g.vram_used).sum(),
                        sm_percent: machine.gpus.iter().map(|g| f64::from(g.sm_percent)).sum::<f64>() / n,
                    };
                    samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                }
            })?;
        }
        Ok(Self { before, samples, _monitor: monitor })
    }

    /// The largest memory in use since the start, less what was there before, and the mean share of time in kernels between
    /// the two moments.
    fn figures(&self, from: Instant, to: Instant) -> (Option<u64>, Option<f64>) {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let vram = samples.iter().map(|s| s.vram).max();
        let busy: Vec<f64> =
            samples.iter().filter(|s| s.at >= from && s.at <= to).map(|s| s.sm_percent).collect();
        let mean = (!busy.is_empty()).then(|| busy.iter().sum::<f64>() / busy.len() as f64);
        (self.before.zip(vram).map(|(before, most)| most.saturating_sub(before)), mean)
    }
}

//! From settings to running steps: the only place where a configuration becomes the steps' own options.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ending::NotNow;
use super::models;
use super::signals::Stopping;
use super::world::World;
use crate::config::{self, Config, ModelRef};
use crate::decode::DecodeOptions;
use crate::embed::{EmbedOptions, PassageOptions};
use crate::event::{Event, Events};
use crate::fetch::{CaptionWishes, FetchOptions, Fetcher};
use crate::govern::{self, Governor, Rules};
use crate::handover::Handover;
use crate::pipeline::backlog::Backlog;
use crate::pipeline::spool::Spool;
use crate::pipeline::{Bringing, Hearing, Meters, Pipeline, Sizes, Steps};
use crate::queue::{Kind, QueueOptions};
use crate::speech::SpeechOptions;
use crate::transcribe::{
    self, CheckpointOptions, Compute, Device, Download, EngineKind, Kernels, OnOutOfMemory, Resolution,
    SegmentOptions, TranscribeOptions, Transcriber, Wishes,
};
use crate::web::{Guard, Net};
use crate::ytdlp::{YtDlp, YtDlpOptions};

/// Channels and sample rates beyond these are no recordings of speech.
const MAX_CHANNELS: u32 = 64;
const MAX_SAMPLE_RATE: u32 = 768_000;

/// How long the store between machines may take to be tried out at the start.
const STORE_TIMEOUT: Duration = Duration::from_secs(60);

/// Which part of the work a process does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// All of it, and what other machines handed over.
    #[default]
    All,
    /// From sources to decoded audio, which is handed over.
    Fetch,
    /// From audio handed over to stored text.
    Transcribe,
}

impl Role {
    /// The name on the command line and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Fetch => "fetch",
            Self::Transcribe => "transcribe",
        }
    }
}

/// What is known before anything is loaded.
pub struct Plan {
    /// The part of the work.
    pub role: Role,
    /// Workers of the stages.
    pub sizes: Sizes,
    /// Nothing for a process that only fetches.
    hearing: Option<TranscribeOptions>,
}

impl Plan {
    /// How the queue is used: the kinds of jobs that this role works on, as many at once as the stages hold.
    pub fn queue_options(&self, config: &Config) -> QueueOptions {
        let concurrency = match self.role {
            Role::Fetch => self.sizes.in_flight_of(true, false),
            Role::Transcribe => self.sizes.in_flight_of(false, true),
            Role::All => self.sizes.in_flight(),
        };
        queue_options(config, self.role, concurrency)
    }
}

/// How the queue is used by a role, `concurrency` jobs at once.
pub fn queue_options(config: &Config, role: Role, concurrency: usize) -> QueueOptions {
    let mut options = QueueOptions::new(config.data_dir.join("workers"), concurrency);
    options.kinds = match role {
        Role::Fetch => vec![Kind::Fetch],
        Role::Transcribe => vec![Kind::Transcribe],
        Role::All if config.handover_url.is_some() => Kind::ALL.into(),
        Role::All => vec![Kind::Fetch],
    };
    options.lease = Duration::from_secs(config.lease_seconds);
    options
}

/// Decides the numbers of workers and checks what can be checked for nothing: that local models are there and whole, that
/// names are known, and that a GPU that was asked for can be used.
///
/// # Errors
/// A model that cannot be had, with what would do instead.
pub fn plan(config: &Config) -> anyhow::Result<Plan> {
    plan_for(config, Role::All)
}

/// As [`plan`], for a part of the work: what the others need is not looked at.
///
/// # Errors
/// As for [`plan`]; and where the role needs a store to hand audio over through and none is set.
pub fn plan_for(config: &Config, role: Role) -> anyhow::Result<Plan> {
    if role != Role::All && config.handover_url.is_none() {
        anyhow::bail!(
            "--role {} hands audio from machine to machine, and HANDOVER_URL does not say through what: set it, the same \
             on all of them, as in HANDOVER_URL=file:///shared/directory or s3://bucket/prefix",
            role.as_str()
        );
    }
    let hearing = if role == Role::Fetch { None } else { Some(plan_hearing(config)?) };
    if role != Role::Transcribe
        && let Some(path) = &config.cookies_file
        && !path.is_file()
    {
        anyhow::bail!(
            "there is no file {} (COOKIES_FILE); export the cookies again, or unset it",
            path.display()
        );
    }
    if role != Role::Transcribe
        && let Some(path) = &config.cookies_file
        && let Ok(metadata) = path.metadata()
        && metadata.permissions().mode() & 0o077 != 0
    {
        tracing::warn!(
            "others on this machine can read the cookies in {0}: chmod 600 {0} (COOKIES_FILE)",
            path.display()
        );
    }
    let sizes = Sizes {
        io_workers: config.io_workers,
        asr_workers: asr_workers(config),
        db_workers: config.db_workers,
        max_attempts: config.max_attempts,
    };
    Ok(Plan { role, sizes, hearing })
}

/// What is needed to transcribe and to embed, checked as far as that costs nothing.
fn plan_hearing(config: &Config) -> anyhow::Result<TranscribeOptions> {
    let transcribe = transcribe_options(config)?;
    let needs_network = match &config.whisper_model {
        ModelRef::Path(_) => false,
        ModelRef::Name(name) => {
            name.contains('/') || transcribe.engine.known_names().contains(&name.as_str())
        }
    };
    let model = if needs_network {
        None
    } else {
        Some(transcribe.engine.resolve(&transcribe.model, &transcribe.models_dir, &mut |_| {})?)
    };
    transcribe::check(&transcribe, model.as_ref())?;
    embed_options(config).check()?;
    Ok(transcribe)
}

/// Threads that find speech. It runs at a thousand times real time: two keep any model fed, and more only take its cores.
pub(super) fn asr_workers(config: &Config) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    config.asr_workers.set().unwrap_or_else(|| cores.min(2))
}

/// Loads the models (fetching them if need be) and starts the stages.
///
/// # Errors
/// Models that cannot be had or loaded, tools that are missing; each says what to do.
pub async fn start(
    world: &World,
    plan: Plan,
    spool: Spool,
    worker: String,
    events: &Events,
    stopping: &Stopping,
) -> anyhow::Result<Arc<Pipeline>> {
    let config = &world.config;
    let Plan { role, sizes, hearing } = plan;
    let handover = handover(world).await?;
    // How many feeders the model has shows when it is loaded.
    let meters = Meters::new(&sizes, 1);
    let hearing = match hearing {
        Some(options) => Some(load(world, options, &meters, events, &stopping.stop).await?),
        None => None,
    };
    let bringing = if role == Role::Transcribe {
        None
    } else {
        // What goes to the next stage in memory is held back by that stage.
        let backlog = if role == Role::Fetch {
            Backlog::new(config.handover_max_mb << 20, config.handover_max_hours * 3_600_000)
        } else {
            Backlog::default()
        };
        Some(Bringing {
            fetcher: Fetcher::new(fetch_options(config, role, &net(world, &worker)?, &stopping.stop))?,
            decode: decode_options(config),
            backlog,
            lease: Duration::from_secs(config.lease_seconds),
        })
    };
    let steps = Steps { bringing, hearing, handover, store: world.store.clone(), spool };
    let Stopping { stop, cancel } = stopping.clone();
    Ok(Pipeline::start(steps, sizes, meters, worker, events.clone(), stop, cancel)?)
}

/// Loads both models at the same time: of those that embed, the one that answers searches.
async fn load(
    world: &World,
    transcribe: TranscribeOptions,
    meters: &Meters,
    events: &Events,
    stop: &CancellationToken,
) -> anyhow::Result<Hearing> {
    let transcriber = load_transcriber(transcribe, meters, events);
    let (transcriber, embedders) = tokio::try_join!(transcriber, models::embedders(world, events, stop))?;
    Ok(Hearing { transcriber, passages: PassageOptions::default(), embedders })
}

/// Loads the Whisper model, telling of its download.
pub(super) async fn load_transcriber(
    options: TranscribeOptions,
    meters: &Meters,
    events: &Events,
) -> anyhow::Result<Transcriber> {
    let (speech, asr, told) = (meters.speech.clone(), meters.asr.clone(), events.clone());
    let transcriber = tokio::task::spawn_blocking(move || {
        let mut shown = None;
        Transcriber::start(options, speech, asr, &mut |d| tell_download(&told, &mut shown, &d))
    });
    Ok(transcriber.await??)
}

/// The store between machines, if one is set, opened and tried out.
///
/// # Errors
/// Where it cannot be used; says why.
async fn handover(world: &World) -> anyhow::Result<Option<Handover>> {
    match &world.config.handover_url {
        Some(url) => Ok(Some(store_between(url, world.store.library_id().await?).await?)),
        None => Ok(None),
    }
}

/// The store at `url`, tried out, for a library.
///
/// # Errors
/// Where it cannot be used; says why.
pub async fn store_between(url: &str, library: Uuid) -> anyhow::Result<Handover> {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let handover = Handover::open(url, library, variables)?;
    let advice = "check HANDOVER_URL, and the AWS_…, GOOGLE_… or AZURE_… variables that it needs";
    match tokio::time::timeout(STORE_TIMEOUT, handover.check()).await {
        Ok(Ok(())) => Ok(handover),
        Ok(Err(error)) => {
            let message = format!("{error}; {advice}");
            Err(anyhow::Error::from(error).context(message))
        }
        Err(_) => Err(NotNow(format!("{} does not answer; {advice}", handover.place())).into()),
    }
}

/// What may be reached, and at what pace. `worker` is this process's id in the queue.
///
/// # Errors
/// Cookies that cannot be read.
pub fn net(world: &World, worker: &str) -> anyhow::Result<Net> {
    let config = &world.config;
    let identity = govern::identity(config.cookies_file.as_deref()).with_context(|| {
        format!(
            "failed to read the cookies ({})",
            config.cookies_file.as_deref().unwrap_or(Path::new("")).display()
        )
    })?;
    let worker = worker.parse().unwrap_or_default();
    let governor = Governor::new(world.store.pool().clone(), rules(config)?, identity, worker);
    Ok(Net { guard: Guard { allow_private: config.allow_private_addresses }, governor })
}

/// How hard sites are asked, as configured.
///
/// # Errors
/// Limits of single sites that cannot be read.
pub fn rules(config: &Config) -> anyhow::Result<Rules> {
    let sites = Rules::parse_sites(config.rate_sites.as_deref().unwrap_or_default());
    Ok(Rules {
        all: govern::Wishes {
            videos: config.rate_videos_per_hour.set(),
            requests: config.rate_requests_per_hour.set(),
            interval: config.rate_min_interval_seconds.set().map(Duration::from_secs_f64),
            downloads: config.rate_downloads.set(),
            rest: Some(Duration::from_secs(60 * u64::from(config.rate_rest_minutes))),
            window: None,
        },
        sites: sites.map_err(|why| anyhow::anyhow!("RATE_SITES: {why}"))?,
    })
}

/// yt-dlp as configured, its connections made through `net`.
pub fn ytdlp(config: &Config, net: &Net) -> YtDlp {
    let mut options = YtDlpOptions::in_tools(&config.tools_dir);
    options.cookies.clone_from(&config.cookies_file);
    options.cache_dir = Some(config.data_dir.join("yt-dlp"));
    options.network_timeout = Duration::from_secs(config.network_timeout);
    options.net = net.clone();
    YtDlp::new(options)
}

/// The embedding model as configured.
pub fn embed_options(config: &Config) -> EmbedOptions {
    EmbedOptions::new(model_name(&config.embedding_model), config.data_dir.join("models"), &config.tools_dir)
}

pub(super) fn fetch_options(
    config: &Config,
    role: Role,
    net: &Net,
    stop: &CancellationToken,
) -> FetchOptions {
    let mut options = FetchOptions::new(ytdlp(config, net));
    // Half of the workers may wait for busy sites; the others go on with the rest.
    options.waiting = config.io_workers / 2;
    options.stop = stop.clone();
    options.captions = match config.captions {
        config::CaptionUse::Ignore => None,
        wanted => Some(CaptionWishes {
            language: match config.whisper_task {
                config::Task::Translate => Some("en".to_owned()),
                config::Task::Transcribe => config.language.as_deref().map(str::to_owned),
            },
            first: wanted == config::CaptionUse::First,
            // What is handed over is audio.
            alone: wanted == config::CaptionUse::First && role == Role::All,
        }),
    };
    options.format.clone_from(&config.ytdlp_format);
    options.max_bytes = config.max_download_mb << 20;
    options
}

pub(super) fn decode_options(config: &Config) -> DecodeOptions {
    let seconds = config.max_duration_hours * 3600;
    DecodeOptions {
        max_duration_ms: i64::try_from(seconds * 1000).unwrap_or(i64::MAX),
        max_output_bytes: seconds * 2 * u64::from(crate::media::SAMPLE_RATE),
        max_channels: MAX_CHANNELS,
        max_sample_rate: MAX_SAMPLE_RATE,
    }
}

/// The ASR stage as configured.
///
/// # Errors
/// Where this build lacks the engine.
pub(super) fn transcribe_options(config: &Config) -> anyhow::Result<TranscribeOptions> {
    let recipe = config.recipe();
    let ms = |ms: u32| Duration::from_millis(ms.into());
    let engine: EngineKind = config.whisper_engine.as_str().parse().map_err(anyhow::Error::msg)?;
    Ok(TranscribeOptions {
        engine,
        model: model_name(&config.whisper_model),
        models_dir: config.data_dir.join("models"),
        wishes: Wishes {
            device: match config.whisper_device {
                config::Device::Auto => Device::Auto,
                config::Device::Cpu => Device::Cpu,
                config::Device::Cuda => Device::Cuda,
            },
            compute: match config.whisper_compute {
                config::Compute::Auto => Compute::Auto,
                config::Compute::Int8 => Compute::Int8,
                config::Compute::Int8Float32 => Compute::Int8Float32,
                config::Compute::Int8Float16 => Compute::Int8Float16,
                config::Compute::Int8Bfloat16 => Compute::Int8Bfloat16,
                config::Compute::Float16 => Compute::Float16,
                config::Compute::Bfloat16 => Compute::Bfloat16,
                config::Compute::Float32 => Compute::Float32,
            },
            parallel_models: config.whisper_parallel_models.set(),
            threads: config.whisper_threads.set(),
            batch_size: config.whisper_batch_size.set(),
            kernels: match config.whisper_kernels {
                config::Kernels::Auto => Kernels::Auto,
                config::Kernels::Engine => Kernels::Engine,
            },
            on_out_of_memory: match config.whisper_on_out_of_memory {
                config::OnOutOfMemory::Fail => OnOutOfMemory::Fail,
                config::OnOutOfMemory::Compute => OnOutOfMemory::Compute,
                config::OnOutOfMemory::Cpu => OnOutOfMemory::Cpu,
            },
        },
        language: config.language.as_deref().map(str::to_owned),
        decode: transcribe::DecodeOptions {
            beam_size: recipe.beam_size,
            patience: recipe.patience as f32,
            best_of: recipe.best_of,
            length_penalty: recipe.length_penalty as f32,
            repetition_penalty: recipe.repetition_penalty as f32,
            no_repeat_ngram_size: recipe.no_repeat_ngram_size,
            temperatures: recipe.temperature.iter().map(|&t| t as f32).collect(),
            max_compression_ratio: recipe.compression_ratio_threshold as f32,
            min_logprob: recipe.logprob_threshold as f32,
            max_no_speech_prob: recipe.no_speech_threshold as f32,
            task: match config.whisper_task {
                config::Task::Transcribe => transcribe::Task::Transcribe,
                config::Task::Translate => transcribe::Task::Translate,
            },
            initial_prompt: config.initial_prompt.clone().unwrap_or_default(),
            hotwords: config.hotwords.clone().unwrap_or_default(),
            carry_over: config.carry_over,
            languages: config.languages.clone(),
            language_threshold: config.language_threshold as f32,
            word_times: config.word_times,
            ..transcribe::DecodeOptions::default()
        },
        speech: SpeechOptions {
            threshold: recipe.vad_threshold as f32,
            onset: Some(recipe.vad_onset as f32),
            offset: Some(recipe.vad_offset as f32),
            min_speech: ms(recipe.vad_min_speech_ms),
            min_silence: ms(recipe.vad_min_silence_ms),
            pad: ms(recipe.vad_pad_ms),
            chunk: Duration::from_secs(recipe.chunk_length.into()),
            ..SpeechOptions::default()
        },
        segments: SegmentOptions {
            max_ms: i64::from(recipe.segment_max_seconds) * 1000,
            ..SegmentOptions::of(match config.segment_resolution {
                config::Resolution::Sentence => Resolution::Sentence,
                config::Resolution::Chunk => Resolution::Chunk,
            })
        },
        checkpoints: (config.checkpoint_max_mb > 0).then(|| CheckpointOptions {
            dir: config.data_dir.join("windows"),
            max_bytes: config.checkpoint_max_mb << 20,
        }),
    })
}

/// A model as the steps take it: a directory's path or a name.
fn model_name(model: &ModelRef) -> String {
    match model {
        ModelRef::Path(path) => path.to_string_lossy().into_owned(),
        ModelRef::Name(name) => name.clone(),
    }
}

/// One line for each file and each tenth of it.
pub(super) fn tell_download(events: &Events, shown: &mut Option<(String, u64)>, d: &Download) {
    let tenth = 10 * d.done / d.total.max(1);
    let now = (d.file.clone(), tenth);
    if shown.as_ref() != Some(&now) {
        let message =
            format!("fetching the Whisper model: {} {} of {} MB", d.file, d.done >> 20, d.total >> 20);
        events.send(Event::Noticed { warning: false, message });
        *shown = Some(now);
    }
}

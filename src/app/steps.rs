//! From settings to running steps: the only place where a configuration becomes the steps' own options.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::signals::Stopping;
use super::world::World;
use crate::config::{self, Config, ModelRef};
use crate::decode::DecodeOptions;
use crate::embed::{EmbedOptions, Embedder, PassageOptions};
use crate::event::{Event, Events};
use crate::fetch::{CaptionWishes, FetchOptions, Fetcher};
use crate::govern::{self, Governor, Rules};
use crate::pipeline::spool::Spool;
use crate::pipeline::{Meters, Pipeline, Sizes, Steps};
use crate::speech::SpeechOptions;
use crate::transcribe::{
    self, CheckpointOptions, Compute, Device, Download, EncoderChoice, EngineKind, OnOutOfMemory, Resolution,
    SegmentOptions, TranscribeOptions, Transcriber, Wishes,
};
use crate::web::{Guard, Net};
use crate::ytdlp::{YtDlp, YtDlpOptions};

/// Channels and sample rates beyond these are no recordings of speech.
const MAX_CHANNELS: u32 = 64;
const MAX_SAMPLE_RATE: u32 = 768_000;

/// What is known before anything is loaded.
pub struct Plan {
    /// Workers of the stages.
    pub sizes: Sizes,
    transcribe: TranscribeOptions,
    embed: EmbedOptions,
}

/// Decides the numbers of workers and checks what can be checked for nothing: that local models are there and whole, that
/// names are known, and that a GPU that was asked for can be used.
///
/// # Errors
/// A model that cannot be had, with what would do instead.
pub fn plan(config: &Config) -> anyhow::Result<Plan> {
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
    let embed = embed_options(config);
    embed.check()?;
    if let Some(path) = &config.cookies_file
        && let Ok(metadata) = path.metadata()
        && metadata.permissions().mode() & 0o077 != 0
    {
        tracing::warn!(
            "others on this machine can read the cookies in {0}: chmod 600 {0} (COOKIES_FILE)",
            path.display()
        );
    }
    if let Some(path) = &config.cookies_file
        && !path.is_file()
    {
        anyhow::bail!(
            "there is no file {} (COOKIES_FILE); export the cookies again, or unset it",
            path.display()
        );
    }
    let sizes = Sizes {
        io_workers: config.io_workers,
        asr_workers: asr_workers(config),
        db_workers: config.db_workers,
        max_attempts: config.max_attempts,
    };
    Ok(Plan { sizes, transcribe, embed })
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
    let Plan { sizes, transcribe, embed } = plan;
    // How many feeders the model has shows when it is loaded.
    let meters = Meters::new(&sizes, 1);
    let (speech, asr, told) = (meters.speech.clone(), meters.asr.clone(), events.clone());
    let transcriber = tokio::task::spawn_blocking(move || {
        let mut shown = None;
        Transcriber::start(transcribe, speech, asr, &mut |d| tell_download(&told, &mut shown, &d))
    });
    let embedder = tokio::task::spawn_blocking(move || Embedder::load(&embed));
    let (transcriber, embedder) = tokio::try_join!(transcriber, embedder)?;
    let steps = Steps {
        fetcher: Fetcher::new(fetch_options(config, &net(world, &worker)?, &stopping.stop))?,
        decode: decode_options(config),
        transcriber: transcriber?,
        passages: PassageOptions::default(),
        embedder: embedder?,
        store: world.store.clone(),
        spool,
    };
    let Stopping { stop, cancel } = stopping.clone();
    Ok(Pipeline::start(steps, sizes, meters, worker, events.clone(), stop, cancel)?)
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

fn fetch_options(config: &Config, net: &Net, stop: &CancellationToken) -> FetchOptions {
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
            encoder: match config.whisper_encoder {
                config::Encoder::Auto => EncoderChoice::Auto,
                config::Encoder::Engine => EncoderChoice::Engine,
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

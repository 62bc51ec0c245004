//! Every setting, where it may come from, and what it came from.
//!
//! Settings are flat: one key, one value. They are looked up in this order, the later winning:
//!
//! 1. the defaults in this file ([`Config::defaults`]),
//! 2. `default.toml` in the configuration directory,
//! 3. the profile, `<profile>.toml` there (`gpu` and `cpu` are built in),
//! 4. `.env` in the current directory,
//! 5. the environment,
//! 6. flags.
//!
//! The configuration directory is `SPOKEN_CONFIG_DIR`, else `./config` if it holds a `default.toml`, else
//! `~/.config/spoken`, else `/etc/spoken`. Without any of them the built-in profiles are used, and the
//! defaults, which equal the `config/default.toml` of the repository.
//!
//! An environment name is the key in upper case. A `SPOKEN_` prefix is always understood and beats the plain
//! name (`SPOKEN_LOG_LEVEL` over `LOG_LEVEL`); a few keys need it, or another name, because the plain one means
//! something else to other programs ([`Key::env`]).
//!
//! [`load`] tells everything that is wrong at once, each with its origin. figment merges the layers and keeps,
//! for every value, where it came from; values are checked before that, one by one, against [`KEYS`].

mod dotenv;
mod keys;
mod layers;
mod problem;
mod recipe;
mod show;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::Serialized;
use serde::{Deserialize, Serialize};

pub use keys::{Group, KEYS, Key};
pub use layers::BUILT_IN_PROFILES;
pub use problem::{ConfigError, Problem};
pub use recipe::Recipe;
pub use show::{Shown, ShownSetting};
pub use value::{
    Auto, CaptionUse, Compute, DatabaseUrl, Device, Engine, IndexBuild, Kernels, LogFormat, ModelRef,
    OnOutOfMemory, REDACTED, Resolution, Task, WhisperProfile,
};

use layers::Layers;

/// The repository's `config/default.toml`: every key with its default and what it is for.
pub const DEFAULT_TOML: &str = include_str!("../config/default.toml");

/// Where the data lies unless something else is set.
pub const DEFAULT_DATA_DIR: &str = "~/.local/share/spoken";

/// Where the tools lie unless something else is set; the set-up scripts use the same place.
pub const DEFAULT_TOOLS_DIR: &str = "~/.cache/spoken/tools";

/// All settings, checked. Paths are absolute once [`load`] returned them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Postgres to use; none: a private one under `data_dir`.
    pub database_url: Option<DatabaseUrl>,
    /// Everything the program keeps: the private Postgres, the spool, downloaded models.
    pub data_dir: PathBuf,
    /// What the set-up scripts installed: yt-dlp, deno, ONNX Runtime, PostgreSQL.
    pub tools_dir: PathBuf,

    /// What runs the Whisper model.
    pub whisper_engine: Engine,
    /// The Whisper model: a path to one in the engine's format, or a name.
    pub whisper_model: ModelRef,
    /// Where the model runs.
    pub whisper_device: Device,
    /// Number format the model computes in.
    pub whisper_compute: Compute,
    /// Replicas of the model; on a CPU they share one copy of the weights.
    pub whisper_parallel_models: Auto<usize>,
    /// Threads of one replica (CPU).
    pub whisper_threads: Auto<usize>,
    /// Windows in one call of the model, from all files in flight.
    pub whisper_batch_size: Auto<usize>,
    /// Whose arithmetic runs the model.
    pub whisper_kernels: Kernels,
    /// What may change where memory does not suffice for a single window.
    pub whisper_on_out_of_memory: OnOutOfMemory,
    /// `auto`: detected for each window; else a Whisper language code in lower case.
    pub language: Auto<String>,
    /// Codes that detection may choose from; empty: all that the model knows.
    pub languages: Vec<String>,
    /// A language detected with less probability (0 to 1) is a guess.
    pub language_threshold: f64,
    /// What is written down.
    pub whisper_task: Task,
    /// Text in whose manner the model goes on.
    pub initial_prompt: Option<String>,
    /// Words to expect.
    pub hotwords: Option<String>,
    /// Whether a window is told what was said before it.
    pub carry_over: bool,
    /// Whether each word gets its time.
    pub word_times: bool,
    /// What a segment of a transcript is.
    pub segment_resolution: Resolution,
    /// Longest segment, seconds; `auto` is 15 for sentences, 30 for chunks.
    pub segment_max_seconds: Auto<u32>,
    /// Finished windows that are kept, MiB; 0 keeps none.
    pub checkpoint_max_mb: u64,

    /// What becomes of the settings below that are `auto`; [`Config::recipe`] has the outcome.
    pub whisper_profile: WhisperProfile,
    /// Beams of the search; 1 is greedy.
    pub beam_size: Auto<usize>,
    /// The search ends when so many times the beams' number of texts are complete.
    pub patience: Auto<f64>,
    /// Samples drawn at a temperature above 0.
    pub best_of: Auto<usize>,
    /// Exponent of the length by which a text's log-probability is divided.
    pub length_penalty: Auto<f64>,
    /// What the score of a token already said is divided by; 1 changes nothing.
    pub repetition_penalty: Auto<f64>,
    /// Sequences of so many tokens occur once in a window; 0 allows all.
    pub no_repeat_ngram_size: Auto<usize>,
    /// Temperatures to try in turn, rising; never empty.
    pub temperature: Auto<Vec<f64>>,
    /// With a higher probability of no speech and an improbable text, a window is silent.
    pub no_speech_threshold: Auto<f64>,
    /// Text with a lower mean log-probability is tried again.
    pub logprob_threshold: Auto<f64>,
    /// Text that compresses better (bytes by deflated bytes) is tried again.
    pub compression_ratio_threshold: Auto<f64>,

    /// Probability (0 to 1) above which a frame counts as speech.
    pub vad_threshold: Auto<f64>,
    /// Probability from which a frame begins speech; `auto` is the threshold.
    pub vad_onset: Auto<f64>,
    /// Probability below which a frame may end it; `auto` is the threshold less 0.15.
    pub vad_offset: Auto<f64>,
    /// Speech shorter than this is dropped, milliseconds.
    pub vad_min_speech_ms: Auto<u32>,
    /// Silence shorter than this does not end a stretch of speech, milliseconds.
    pub vad_min_silence_ms: Auto<u32>,
    /// Added at both ends of a stretch of speech, milliseconds.
    pub vad_pad_ms: Auto<u32>,
    /// Longest window given to the model, seconds; Whisper itself sees 30.
    pub chunk_length: Auto<u32>,

    /// The embedding model: a directory in ONNX form or a name that fastembed knows.
    pub embedding_model: ModelRef,
    /// When the index of the vectors is built.
    pub index_build: IndexBuild,
    /// Passages from which a library is worth an index; fewer are compared one by one.
    pub index_min_passages: u64,
    /// Memory that building it may take, MiB.
    pub index_memory_mb: Auto<u64>,
    /// Of the nearest passages, the share (0 to 1) that a search through the index shall find.
    pub index_recall: f64,

    /// The latest so many items of each subscribed source are kept; 0: all.
    pub keep_last: u32,
    /// Items of subscribed sources are kept for so many days; 0: for ever.
    pub keep_days: u32,

    /// Downloads and decodes at the same time.
    pub io_workers: usize,
    /// Threads that find speech in decoded audio and queue its windows for the model.
    pub asr_workers: Auto<usize>,
    /// Transcripts embedded and written at the same time.
    pub db_workers: usize,
    /// New items taken on in one run; 0: all.
    pub ingestion_limit: usize,
    /// Attempts before an item is given up.
    pub max_attempts: u32,
    /// A worker that was not heard of for so many seconds is dead, and others take over what it had in hand.
    pub lease_seconds: u64,
    /// What is in work when a service manager ends the process may go on for so many seconds; then it is given back.
    pub stop_grace_seconds: u64,

    /// yt-dlp's format selection.
    pub ytdlp_format: String,
    /// Cookies for sites that want a login, Netscape format.
    pub cookies_file: Option<PathBuf>,
    /// What captions that people made are used for.
    pub captions: CaptionUse,
    /// Addresses that are not of the public internet may be reached.
    pub allow_private_addresses: bool,
    /// Videos of one site an hour; 0: any number. `auto`: [`crate::govern`] knows.
    pub rate_videos_per_hour: Auto<u32>,
    /// Requests to one site an hour; 0: any number.
    pub rate_requests_per_hour: Auto<u32>,
    /// Least time between two videos of one site, seconds.
    pub rate_min_interval_seconds: Auto<f64>,
    /// Downloads from one site at a time; 0: any number.
    pub rate_downloads: Auto<u32>,
    /// How long a site that refuses is left alone at first, minutes.
    pub rate_rest_minutes: u32,
    /// Limits of single sites, as [`crate::govern::Rules::parse_sites`] reads them.
    pub rate_sites: Option<String>,
    /// A download without a byte for so long is broken off, seconds.
    pub network_timeout: u64,
    /// Largest download, MiB.
    pub max_download_mb: u64,
    /// Longest item, hours.
    pub max_duration_hours: u64,
    /// Bytes that items in flight may occupy, MiB.
    pub spool_max_mb: u64,
    /// Downloads wait while the disk has less than this, MiB.
    pub min_free_disk_mb: u64,

    /// The store through which fetch nodes hand audio over to transcribe nodes.
    pub handover_url: Option<String>,
    /// Fetch nodes wait while more than this waits for transcribers, MiB; 0: no limit.
    pub handover_max_mb: u64,
    /// Fetch nodes wait while more audio than this waits for transcribers, hours; 0: no limit.
    pub handover_max_hours: u64,

    /// Form of log and progress.
    pub log_format: LogFormat,
    /// What is logged, as `tracing`'s directives: `warn,spoken=debug`.
    pub log_level: String,
}

impl Config {
    /// How long what is in work may take after SIGTERM.
    pub fn stop_grace(&self) -> Duration {
        Duration::from_secs(self.stop_grace_seconds)
    }

    /// The defaults, with `home` in the place of `~`.
    pub fn defaults(home: &Path) -> Self {
        Self {
            database_url: None,
            data_dir: value::expand_home(DEFAULT_DATA_DIR, Some(home)),
            tools_dir: value::expand_home(DEFAULT_TOOLS_DIR, Some(home)),
            whisper_engine: Engine::Ct2,
            whisper_model: ModelRef::Name("small".into()),
            whisper_device: Device::Auto,
            whisper_compute: Compute::Auto,
            whisper_parallel_models: Auto::Auto,
            whisper_threads: Auto::Auto,
            whisper_batch_size: Auto::Auto,
            whisper_kernels: Kernels::Auto,
            whisper_on_out_of_memory: OnOutOfMemory::Fail,
            language: Auto::Auto,
            languages: Vec::new(),
            language_threshold: 0.5,
            whisper_task: Task::Transcribe,
            initial_prompt: None,
            hotwords: None,
            carry_over: false,
            word_times: true,
            segment_resolution: Resolution::Sentence,
            segment_max_seconds: Auto::Auto,
            checkpoint_max_mb: 256,
            whisper_profile: WhisperProfile::Balanced,
            beam_size: Auto::Auto,
            patience: Auto::Auto,
            best_of: Auto::Auto,
            length_penalty: Auto::Auto,
            repetition_penalty: Auto::Auto,
            no_repeat_ngram_size: Auto::Auto,
            temperature: Auto::Auto,
            no_speech_threshold: Auto::Auto,
            logprob_threshold: Auto::Auto,
            compression_ratio_threshold: Auto::Auto,
            vad_threshold: Auto::Auto,
            vad_onset: Auto::Auto,
            vad_offset: Auto::Auto,
            vad_min_speech_ms: Auto::Auto,
            vad_min_silence_ms: Auto::Auto,
            vad_pad_ms: Auto::Auto,
            chunk_length: Auto::Auto,
            embedding_model: ModelRef::Name("intfloat/multilingual-e5-small".into()),
            index_build: IndexBuild::Auto,
            index_min_passages: 20_000,
            index_memory_mb: Auto::Auto,
            index_recall: 0.95,
            keep_last: 0,
            keep_days: 0,
            io_workers: 24,
            asr_workers: Auto::Auto,
            db_workers: 12,
            ingestion_limit: 0,
            max_attempts: 5,
            lease_seconds: 120,
            // Service managers kill after 30 s or more.
            stop_grace_seconds: 25,
            ytdlp_format: "bestaudio/best".into(),
            cookies_file: None,
            captions: CaptionUse::Ignore,
            allow_private_addresses: false,
            rate_videos_per_hour: Auto::Auto,
            rate_requests_per_hour: Auto::Auto,
            rate_min_interval_seconds: Auto::Auto,
            rate_downloads: Auto::Auto,
            rate_rest_minutes: 60,
            rate_sites: None,
            network_timeout: 30,
            max_download_mb: 8192,
            max_duration_hours: 24,
            spool_max_mb: 20_480,
            min_free_disk_mb: 1024,
            handover_url: None,
            handover_max_mb: 20_480,
            handover_max_hours: 0,
            log_format: LogFormat::Auto,
            log_level: "warn,spoken=info".into(),
        }
    }

    /// Puts `data_dir` and `tools_dir` where a path names them in braces.
    fn expand_places(&mut self) {
        let (data, tools) = (self.data_dir.clone(), self.tools_dir.clone());
        let expand = |path: &mut PathBuf| *path = value::expand_places(path, &data, &tools);
        if let Some(path) = &mut self.cookies_file {
            expand(path);
        }
        for model in [&mut self.whisper_model, &mut self.embedding_model] {
            if let ModelRef::Path(path) = model {
                expand(path);
            }
        }
    }
}

/// A value given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The key (`io_workers`; `IO_WORKERS` and `io-workers` are understood too), or `profile`, `config_dir`.
    pub key: String,
    /// The value as typed.
    pub value: String,
    /// What the user typed, for messages: `--limit`, `--set`.
    pub flag: String,
}

impl Override {
    /// `flag` sets `key` to `value`.
    pub fn new(key: impl Into<String>, value: impl Into<String>, flag: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into(), flag: flag.into() }
    }
}

/// All that [`load`] looks at, so that a test can give it another world.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// From flags, later ones winning.
    pub overrides: Vec<Override>,
    /// The process environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Where `.env` and `config/` are looked for, and what relative paths start from.
    pub cwd: PathBuf,
    /// What `~` stands for.
    pub home: Option<PathBuf>,
}

impl Inputs {
    /// This process's environment, directory and home, with the values given by flags.
    ///
    /// # Errors
    /// When the current directory is gone or cannot be reached.
    pub fn from_process(overrides: Vec<Override>) -> std::io::Result<Self> {
        let home = std::env::home_dir().filter(|home| home.is_absolute()).or_else(|| {
            // cron and containers may leave HOME out.
            nix::unistd::User::from_uid(nix::unistd::Uid::effective()).ok().flatten().map(|user| user.dir)
        });
        Ok(Self {
            overrides,
            environment: std::env::vars_os().collect(),
            cwd: std::env::current_dir()?,
            home,
        })
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Provenance {
    /// `default`, `file`, `profile`, `dotenv`, `environment` or `flag`.
    pub layer: &'static str,
    /// For people: `default`, `config/gpu.toml:4`, `.env:3`, `IO_WORKERS in the environment`, `--limit`.
    pub from: String,
}

/// The configuration and how it came about.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// The profile in use.
    pub profile: Option<String>,
    /// The configuration directory, where there is one.
    pub config_dir: Option<PathBuf>,
    origins: BTreeMap<&'static str, Provenance>,
    library_variables: Vec<(String, String)>,
}

impl Loaded {
    /// Where the value of `key` came from; `default` for an unknown key.
    pub fn origin(&self, key: &str) -> Provenance {
        self.origins
            .get(key)
            .cloned()
            .unwrap_or_else(|| Provenance { layer: "default", from: "default".into() })
    }

    /// Lines of `.env` that are meant for libraries (`ORT_DYLIB_PATH`, `HTTPS_PROXY`, `HF_TOKEN`, …) and that
    /// the environment does not set already.
    pub fn library_variables(&self) -> &[(String, String)] {
        &self.library_variables
    }

    /// Puts [`Self::library_variables`] into the environment of this process. Call it first thing in `main`,
    /// before a runtime or a logger starts threads.
    ///
    /// # Errors
    /// [`ThreadsRunning`] when the process has more than one thread already: another thread may be reading the
    /// environment, and nothing was changed.
    pub fn export_library_variables(&self) -> Result<(), ThreadsRunning> {
        if self.library_variables.is_empty() {
            return Ok(());
        }
        let threads = std::fs::read_dir("/proc/self/task").map_or(usize::MAX, Iterator::count);
        if threads != 1 {
            return Err(ThreadsRunning);
        }
        for (name, value) in &self.library_variables {
            // SAFETY: this is the only thread of the process (counted above, and only this one could start
            // another), so nobody reads the environment while it changes.
            unsafe { std::env::set_var(name, value) };
        }
        Ok(())
    }
}

/// Variables could not be passed on to libraries, because threads run already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to pass variables from .env on to libraries: threads are running already")]
pub struct ThreadsRunning;

/// Reads all layers, checks every value in them, and merges.
///
/// # Errors
/// Everything that is wrong, at once: unknown keys, values out of range, lines that cannot be read, a profile
/// that does not exist, settings that contradict each other. Secrets are not repeated in the messages.
pub fn load(inputs: &Inputs) -> Result<Loaded, ConfigError> {
    let mut problems = Vec::new();
    let layers = Layers::read(inputs, &mut problems);

    let home = inputs.home.clone().unwrap_or_else(|| inputs.cwd.clone());
    let mut figment = Figment::from(Serialized::defaults(Config::defaults(&home)));
    for given in &layers.given {
        figment = figment.merge(given);
    }
    let needs_home = |key: &str| !layers.given.iter().any(|given| given.key.name == key);
    if inputs.home.is_none() {
        for key in ["data_dir", "tools_dir"].into_iter().filter(|key| needs_home(key)) {
            problems.push(Problem::new(key, "there is no home directory to put it in: set HOME or this key"));
        }
    }
    let origins: BTreeMap<_, _> =
        KEYS.iter().filter_map(|key| Some((key.name, layers::provenance(&figment, key)?))).collect();

    match figment.extract::<Config>() {
        Ok(mut config) => {
            config.expand_places();
            problems.extend(contradictions(&config, &origins));
            if problems.is_empty() {
                return Ok(Loaded {
                    config,
                    profile: layers.profile,
                    config_dir: layers.config_dir,
                    origins,
                    library_variables: layers.library_variables,
                });
            }
        }
        // Values were checked one by one, so this tells of a mistake in this module; still better told than hidden.
        Err(error) => {
            problems.extend(error.into_iter().map(|e| Problem::new(e.path.join("."), e.kind.to_string())))
        }
    }
    Err(ConfigError { problems })
}

/// Settings that are fine alone but not together.
fn contradictions(config: &Config, origins: &BTreeMap<&'static str, Provenance>) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut wrong = |key: &'static str, value: String, message: String| {
        let mut problem = Problem::new(key, message).value(value);
        if let Some(origin) = origins.get(key) {
            problem = problem.origin(origin.from.clone());
        }
        found.push(problem);
    };
    let half = matches!(
        config.whisper_compute,
        Compute::Float16 | Compute::Bfloat16 | Compute::Int8Float16 | Compute::Int8Bfloat16
    );
    // CTranslate2 has 16-bit floats on CUDA only (`mayiuse_float16`, `mayiuse_bfloat16` in its types.cc).
    if config.whisper_device == Device::Cpu && half {
        wrong(
            "whisper_compute",
            config.whisper_compute.to_string(),
            "a CPU cannot compute in 16-bit floats: use int8, int8_float32, float32 or auto, or whisper_device = cuda"
                .to_owned(),
        );
    }
    let recipe = config.recipe();
    if recipe.vad_offset > recipe.vad_onset {
        let key = if config.vad_offset == Auto::Auto { "vad_onset" } else { "vad_offset" };
        let value = if key == "vad_onset" { recipe.vad_onset } else { recipe.vad_offset };
        wrong(
            key,
            value.to_string(),
            format!(
                "speech would end before it begins: vad_offset ({}) must not be above vad_onset ({})",
                recipe.vad_offset, recipe.vad_onset
            ),
        );
    }
    if let Auto::Set(language) = &config.language
        && !config.languages.is_empty()
        && !config.languages.contains(language)
    {
        let allowed = config.languages.join(", ");
        wrong(
            "language",
            language.clone(),
            format!(
                "is not among the languages allowed by languages ({allowed}): add it there, or leave one of them out"
            ),
        );
    }
    if let (Task::Translate, ModelRef::Name(name)) = (config.whisper_task, &config.whisper_model)
        && cannot_translate(name)
    {
        wrong(
            "whisper_task",
            config.whisper_task.to_string(),
            format!("the model {name} never learned to translate: use small, medium, large-v2 or large-v3"),
        );
    }
    found
}

/// Models of which it is known: those for English alone, and those trained on transcripts only (the model cards of
/// large-v3-turbo and of distil-whisper).
fn cannot_translate(name: &str) -> bool {
    name.ends_with(".en") || name == "turbo" || name == "large-v3-turbo" || name.starts_with("distil-")
}

#[cfg(test)]
mod tests;

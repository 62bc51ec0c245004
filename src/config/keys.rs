//! The table of keys: names, what is allowed, what each is for.

use std::path::Path;

use figment::value::{Empty, Num, Tag, Value};

use super::problem::nearest;
use super::value::{
    CaptionUse, Compute, DatabaseUrl, Device, Engine, IndexBuild, Kernels, LogFormat, ModelRef,
    OnOutOfMemory, Resolution, Task, WhisperProfile, expand_home,
};

/// A heading under which keys are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Places on this machine and the database.
    Places,
    /// The Whisper model, and what it is told.
    Transcription,
    /// How hard text is looked for, and when it is believed.
    Quality,
    /// Which audio counts as speech.
    Speech,
    /// The embedding model, and the index of what it makes.
    Embedding,
    /// How long items are kept.
    Keeping,
    /// How much at a time.
    Workers,
    /// Downloads and their limits.
    Downloads,
    /// Work that several machines share.
    Machines,
    /// Log and progress.
    Output,
}

impl Group {
    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Places => "Places",
            Self::Transcription => "Transcription",
            Self::Quality => "Quality",
            Self::Speech => "Speech detection",
            Self::Embedding => "Embedding",
            Self::Keeping => "Keeping",
            Self::Workers => "Workers",
            Self::Downloads => "Downloads",
            Self::Machines => "Several machines",
            Self::Output => "Output",
        }
    }
}

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// A whole number in the range, ends included.
    Int(u64, u64),
    /// `auto` or a whole number in the range, ends included.
    AutoInt(u64, u64),
    /// A number in the range, ends included.
    Real(f64, f64),
    /// `auto` or a number in the range, ends included.
    AutoReal(f64, f64),
    /// `auto` or temperatures, rising from the first that is tried to the last.
    Temperatures,
    /// Yes or no.
    Bool,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Any text but an empty one.
    Text,
    /// A path, made absolute.
    Path,
    /// A path or a name ([`ModelRef`]).
    Model,
    /// `auto` or a Whisper language code.
    Language,
    /// Whisper language codes; none stands for all.
    Languages,
    /// Limits of single sites ([`crate::govern::Rules::parse_sites`]).
    RateSites,
    /// Directives of `tracing`'s `EnvFilter`.
    LogFilter,
    /// A Postgres address; never repeated in a message.
    DatabaseUrl,
    /// The address of a store that machines share.
    StoreUrl,
}

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    /// Its name in a TOML file and after `--set`; also the field of [`super::Config`].
    pub name: &'static str,
    /// Its name in the environment and in `.env`. The key in upper case, except: `data_dir` and `tools_dir` have a
    /// `SPOKEN_` prefix, and `language` and `languages` begin with `WHISPER_`, because gettext owns `LANGUAGE`.
    pub env: &'static str,
    /// Where it is listed.
    pub group: Group,
    /// What it is for, in one line.
    pub about: &'static str,
    pub(super) kind: Kind,
    /// May be empty, which means none.
    pub(super) optional: bool,
}

/// What a relative path starts from and what `~` stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base<'a> {
    pub directory: &'a Path,
    pub home: Option<&'a Path>,
}

impl Base<'_> {
    pub fn resolve(&self, text: &str) -> Result<String, String> {
        if text.starts_with('{') {
            let known = ["{data_dir}", "{tools_dir}"];
            let closed = known
                .iter()
                .any(|k| text.strip_prefix(k).is_some_and(|r| r.is_empty() || r.starts_with('/')));
            return if closed {
                Ok(text.to_owned())
            } else {
                Err("may begin with {data_dir}/ or {tools_dir}/, with nothing else in braces".to_owned())
            };
        }
        if text.starts_with('~') {
            if !(text == "~" || text.starts_with("~/")) {
                return Err("names somebody else's home: write the whole path".to_owned());
            }
            if self.home.is_none() {
                return Err("cannot tell where ~ is: set HOME, or write the whole path".to_owned());
            }
        }
        let path = self.directory.join(expand_home(text, self.home));
        // `./` is noise in a table of settings; `..` stays, since it may lead through a link.
        let path: std::path::PathBuf = path.components().collect();
        Ok(path.to_string_lossy().into_owned())
    }
}

impl Key {
    /// The key called `written`: in a file, after `--set`, or in the environment, in any case and with `-` for `_`.
    pub fn find(written: &str) -> Option<&'static Self> {
        let name = written.to_ascii_lowercase().replace('-', "_");
        KEYS.iter().find(|key| key.name == name || key.env.eq_ignore_ascii_case(&name))
    }

    /// What a value must be, to follow "must be".
    pub fn allowed(&self) -> String {
        match self.kind {
            Kind::Int(low, high) => format!("a whole number from {low} to {high}"),
            Kind::AutoInt(low, high) => format!("auto or a whole number from {low} to {high}"),
            Kind::Real(low, high) => format!("a number from {low} to {high}"),
            Kind::AutoReal(low, high) => format!("auto or a number from {low} to {high}"),
            Kind::Temperatures => "auto or rising numbers from 0 to 1, as in 0,0.2,0.4".to_owned(),
            Kind::Bool => "true or false".to_owned(),
            Kind::OneOf(words) => format!("one of {}", words.join(", ")),
            Kind::Text => "a text".to_owned(),
            Kind::Path => "a path".to_owned(),
            Kind::Model => "a path or the name of a model".to_owned(),
            Kind::Language => "auto or a language code that Whisper knows, such as en, de or es".to_owned(),
            Kind::Languages => {
                "language codes that Whisper knows, as in en,de (empty: all of them)".to_owned()
            }
            Kind::RateSites => {
                "limits such as youtube.com videos=30 interval=60; example.org downloads=8".to_owned()
            }
            Kind::LogFilter => {
                "a level (error, warn, info, debug, trace) or a list such as warn,spoken=debug".to_owned()
            }
            Kind::DatabaseUrl => "a Postgres address".to_owned(),
            Kind::StoreUrl => {
                "file:///directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
                    .to_owned()
            }
        }
    }

    /// True where a TOML file may give an array.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.kind, Kind::Temperatures | Kind::Languages)
    }

    /// True where the value must not be repeated.
    pub fn is_secret(&self) -> bool {
        self.kind == Kind::DatabaseUrl
    }

    /// True where a wrong value may be repeated in the message about it: it holds no secret, not even a misplaced one.
    pub(super) fn may_repeat(&self, text: &str) -> bool {
        !self.is_secret() && (self.kind != Kind::StoreUrl || !text.contains('@'))
    }

    /// Whether `text` is a value of this key (no path).
    ///
    /// # Errors
    /// What it must be.
    pub fn accepts(&self, text: &str) -> Result<(), String> {
        self.check(text, Base { directory: Path::new("/"), home: None }).map(drop)
    }

    /// The typed value of `text`, or what is wrong with it.
    pub(super) fn check(&self, text: &str, base: Base<'_>) -> Result<Value, String> {
        let text = text.trim();
        if text.is_empty() {
            return if self.kind == Kind::Languages {
                Ok(Value::Array(Tag::Default, Vec::new()))
            } else if self.optional {
                Ok(Value::Empty(Tag::Default, Empty::None))
            } else {
                Err(format!("must be {}, not empty", self.allowed()))
            };
        }
        let must_be = || format!("must be {}", self.allowed());
        let whole = |low: u64, high: u64| {
            text.parse::<u64>().ok().filter(|n| (low..=high).contains(n)).map(Value::from).ok_or_else(must_be)
        };
        let takes_auto =
            matches!(self.kind, Kind::AutoInt(..) | Kind::AutoReal(..) | Kind::Temperatures | Kind::Language);
        if takes_auto && text.eq_ignore_ascii_case("auto") {
            return Ok(Value::from("auto"));
        }
        match self.kind {
            Kind::Int(low, high) | Kind::AutoInt(low, high) => whole(low, high),
            Kind::Real(low, high) | Kind::AutoReal(low, high) => {
                number(text, low, high).map(real).ok_or_else(must_be)
            }
            Kind::Temperatures => temperatures(text).ok_or_else(must_be),
            Kind::Bool => truth(text).map(Value::from).ok_or_else(must_be),
            Kind::OneOf(words) => one_of(text, words).ok_or_else(|| hinted(must_be(), text, words)),
            Kind::Text => Ok(Value::from(text)),
            Kind::Path => base.resolve(text).map(Value::from),
            Kind::Model if ModelRef::is_path(text, base.directory) => base.resolve(text).map(Value::from),
            Kind::Model if text.chars().any(|c| c.is_whitespace() || c.is_control()) => Err(format!(
                "must be {}: a name has no spaces, and a path begins with ./, / or ~",
                self.allowed()
            )),
            Kind::Model => Ok(Value::from(text)),
            Kind::Language => one_of(text, LANGUAGES).ok_or_else(must_be),
            Kind::Languages => text
                .split(',')
                .map(|code| {
                    let code = code.trim();
                    one_of(code, LANGUAGES).ok_or_else(|| format!("{}; {code:?} is none", must_be()))
                })
                .collect::<Result<Vec<_>, _>>()
                .map(|codes| Value::Array(Tag::Default, codes)),
            Kind::RateSites => crate::govern::Rules::parse_sites(text).map(|_| Value::from(text)),
            Kind::LogFilter => check_filter(text).map(|()| Value::from(text)),
            Kind::DatabaseUrl => DatabaseUrl::parse(text).map(|url| Value::from(url.expose())),
            Kind::StoreUrl => store_url(text).map(Value::from).map_err(|why| format!("{}{why}", must_be())),
        }
    }
}

/// A number in the range, ends included.
fn number(text: &str, low: f64, high: f64) -> Option<f64> {
    text.parse::<f64>().ok().filter(|number| (low..=high).contains(number))
}

fn real(number: f64) -> Value {
    Value::Num(Tag::Default, Num::F64(number))
}

/// The address of a store, or what is wrong with it beyond its form.
fn store_url(text: &str) -> Result<String, &'static str> {
    let url = url::Url::parse(text).map_err(|_| "")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(", without credentials: these belong into AWS_…, GOOGLE_… or AZURE_… variables");
    }
    match (url.scheme(), url.host_str()) {
        ("file", None) if url.path().len() > 1 => Ok(url.into()),
        ("s3" | "s3a" | "gs" | "az" | "azure" | "abfs" | "abfss" | "adl", Some(_)) => Ok(url.into()),
        _ => Err(""),
    }
}

/// A list in which each is higher than the one before: a lower one after a higher one could only fail again.
fn temperatures(text: &str) -> Option<Value> {
    let list: Option<Vec<f64>> = text.split(',').map(|t| number(t.trim(), 0.0, 1.0)).collect();
    let list = list.filter(|list| list.is_sorted_by(|a, b| a < b))?;
    Some(Value::Array(Tag::Default, list.into_iter().map(real).collect()))
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn one_of(text: &str, words: &[&'static str]) -> Option<Value> {
    words.iter().find(|word| word.eq_ignore_ascii_case(text)).map(|word| Value::from(*word))
}

fn hinted(message: String, text: &str, words: &[&'static str]) -> String {
    match nearest(text, words.iter().copied()) {
        Some(word) if !text.is_empty() => format!("{message}; did you mean {word}?"),
        _ => message,
    }
}

/// Accepts what `EnvFilter` accepts, less a lone word that is no level: `EnvFilter` would take it for a target, so
/// `debgu` would silently mean "everything of a crate called debgu".
fn check_filter(text: &str) -> Result<(), String> {
    const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];
    for directive in text.split(',').map(str::trim).filter(|d| !d.is_empty()) {
        if !directive.contains(['=', '['])
            && !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(directive))
        {
            let message = format!("{directive:?} is no level: use one of {}", LEVELS.join(", "));
            return Err(match nearest(directive, LEVELS.iter().copied()) {
                Some(level) => format!("{message}; did you mean {level}?"),
                None => format!("{message}, or {directive}=LEVEL for one module"),
            });
        }
    }
    tracing_subscriber::EnvFilter::builder()
        .parse(text)
        .map(drop)
        .map_err(|error| format!("cannot be read ({error}); write for example warn,spoken=debug"))
}

macro_rules! key {
    ($group:ident, $name:literal, $env:literal, $kind:expr, $about:literal) => {
        Key { name: $name, env: $env, group: Group::$group, about: $about, kind: $kind, optional: false }
    };
    ($group:ident, $name:literal, $env:literal, optional $kind:expr, $about:literal) => {
        Key { name: $name, env: $env, group: Group::$group, about: $about, kind: $kind, optional: true }
    };
}

/// Every key, in the order in which they are listed.
#[rustfmt::skip] // one line a key reads as the table it is
pub const KEYS: &[Key] = &[
    key!(Places, "database_url", "DATABASE_URL", optional Kind::DatabaseUrl, "Postgres to use; empty: a private one under data_dir"),
    key!(Places, "data_dir", "SPOKEN_DATA_DIR", Kind::Path, "everything the program keeps"),
    key!(Places, "tools_dir", "SPOKEN_TOOLS_DIR", Kind::Path, "what the set-up scripts installed"),

    key!(Transcription, "whisper_engine", "WHISPER_ENGINE", Kind::OneOf(Engine::NAMES), "what runs the model, in whose format it has to be"),
    key!(Transcription, "whisper_model", "WHISPER_MODEL", Kind::Model, "Whisper model: a name or a path"),
    key!(Transcription, "whisper_device", "WHISPER_DEVICE", Kind::OneOf(Device::NAMES), "where the model runs"),
    key!(Transcription, "whisper_compute", "WHISPER_COMPUTE", Kind::OneOf(Compute::NAMES), "number format of the model"),
    key!(Transcription, "whisper_parallel_models", "WHISPER_PARALLEL_MODELS", Kind::AutoInt(1, 64), "replicas; they share the weights on a CPU"),
    key!(Transcription, "whisper_threads", "WHISPER_THREADS", Kind::AutoInt(1, 256), "threads of one replica (CPU)"),
    key!(Transcription, "whisper_batch_size", "WHISPER_BATCH_SIZE", Kind::AutoInt(1, 512), "windows in one call of the model"),
    key!(Transcription, "whisper_kernels", "WHISPER_KERNELS", Kind::OneOf(Kernels::NAMES), "this program's arithmetic where it suits, or the engine's"),
    key!(Transcription, "whisper_on_out_of_memory", "WHISPER_ON_OUT_OF_MEMORY", Kind::OneOf(OnOutOfMemory::NAMES), "what may change where memory lacks for a single window"),
    key!(Transcription, "language", "WHISPER_LANGUAGE", Kind::Language, "language spoken; auto: detected window by window"),
    key!(Transcription, "languages", "WHISPER_LANGUAGES", optional Kind::Languages, "languages that detection may choose from; empty: all"),
    key!(Transcription, "language_threshold", "LANGUAGE_THRESHOLD", Kind::Real(0.0, 1.0), "a less probable language is a guess: the file's other windows decide"),
    key!(Transcription, "whisper_task", "WHISPER_TASK", Kind::OneOf(Task::NAMES), "write what is said in its own language or in English"),
    key!(Transcription, "initial_prompt", "INITIAL_PROMPT", optional Kind::Text, "text in whose manner the model goes on"),
    key!(Transcription, "hotwords", "HOTWORDS", optional Kind::Text, "names and terms to expect"),
    key!(Transcription, "carry_over", "CARRY_OVER", Kind::Bool, "tell each window what was said before it"),
    key!(Transcription, "word_times", "WORD_TIMES", Kind::Bool, "find out when each word was said"),
    key!(Transcription, "segment_resolution", "SEGMENT_RESOLUTION", Kind::OneOf(Resolution::NAMES), "what a segment is: a sentence, or as much as fits"),
    key!(Transcription, "segment_max_seconds", "SEGMENT_MAX_SECONDS", Kind::AutoInt(1, 600), "longest segment"),
    key!(Transcription, "checkpoint_max_mb", "CHECKPOINT_MAX_MB", Kind::Int(0, 1_048_576), "finished windows kept to go on from, MiB; 0: none"),

    key!(Quality, "whisper_profile", "WHISPER_PROFILE", Kind::OneOf(WhisperProfile::NAMES), "what the keys set to auto below and under speech detection become"),
    key!(Quality, "beam_size", "BEAM_SIZE", Kind::AutoInt(1, 20), "beams of the search; 1: greedy, fastest"),
    key!(Quality, "patience", "PATIENCE", Kind::AutoReal(0.1, 10.0), "the search ends when so many times beam_size texts are complete"),
    key!(Quality, "best_of", "BEST_OF", Kind::AutoInt(1, 20), "samples drawn at a temperature above 0"),
    key!(Quality, "length_penalty", "LENGTH_PENALTY", Kind::AutoReal(0.0, 10.0), "above 1 prefers long texts, below 1 short ones"),
    key!(Quality, "repetition_penalty", "REPETITION_PENALTY", Kind::AutoReal(0.1, 10.0), "above 1 avoids what was just said; 1: off"),
    key!(Quality, "no_repeat_ngram_size", "NO_REPEAT_NGRAM_SIZE", Kind::AutoInt(0, 100), "no sequence of so many tokens twice in a window; 0: off"),
    key!(Quality, "temperature", "TEMPERATURE", Kind::Temperatures, "tried in turn until a window's text is acceptable"),
    key!(Quality, "no_speech_threshold", "NO_SPEECH_THRESHOLD", Kind::AutoReal(0.0, 1.0), "more probable silence, and an improbable text, is silence"),
    key!(Quality, "logprob_threshold", "LOGPROB_THRESHOLD", Kind::AutoReal(-20.0, 0.0), "a less probable text (mean log-probability) is tried again"),
    key!(Quality, "compression_ratio_threshold", "COMPRESSION_RATIO_THRESHOLD", Kind::AutoReal(1.0, 100.0), "a text that compresses better repeats itself: tried again"),

    key!(Speech, "vad_threshold", "VAD_THRESHOLD", Kind::AutoReal(0.0, 1.0), "probability above which a frame is speech"),
    key!(Speech, "vad_onset", "VAD_ONSET", Kind::AutoReal(0.0, 1.0), "probability from which speech begins"),
    key!(Speech, "vad_offset", "VAD_OFFSET", Kind::AutoReal(0.0, 1.0), "probability below which it may end"),
    key!(Speech, "vad_min_speech_ms", "VAD_MIN_SPEECH_MS", Kind::AutoInt(0, 10_000), "shorter speech is dropped"),
    key!(Speech, "vad_min_silence_ms", "VAD_MIN_SILENCE_MS", Kind::AutoInt(0, 10_000), "shorter silence does not end speech"),
    key!(Speech, "vad_pad_ms", "VAD_PAD_MS", Kind::AutoInt(0, 2_000), "added at both ends of speech"),
    key!(Speech, "chunk_length", "CHUNK_LENGTH", Kind::AutoInt(1, 30), "longest window for the model, seconds"),

    key!(Embedding, "embedding_model", "EMBEDDING_MODEL", Kind::Model, "embedding model: a name or a directory"),
    key!(Embedding, "index_build", "INDEX_BUILD", Kind::OneOf(IndexBuild::NAMES), "when the index of the vectors is built"),
    key!(Embedding, "index_min_passages", "INDEX_MIN_PASSAGES", Kind::Int(1, 1_000_000_000), "passages from which a library is worth an index"),
    key!(Embedding, "index_memory_mb", "INDEX_MEMORY_MB", Kind::AutoInt(16, 4_194_304), "memory for building it, MiB"),
    key!(Embedding, "index_recall", "INDEX_RECALL", Kind::Real(0.5, 1.0), "share of the nearest passages that a search through it shall find"),

    key!(Keeping, "keep_last", "KEEP_LAST", Kind::Int(0, 10_000_000), "latest items of each source that are kept; 0: all"),
    key!(Keeping, "keep_days", "KEEP_DAYS", Kind::Int(0, 1_000_000), "days that a source's items are kept; 0: for ever"),

    key!(Workers, "io_workers", "IO_WORKERS", Kind::Int(1, 512), "items downloaded and decoded at a time"),
    key!(Workers, "asr_workers", "ASR_WORKERS", Kind::AutoInt(1, 64), "threads that find speech and queue it for the model"),
    key!(Workers, "db_workers", "DB_WORKERS", Kind::Int(1, 256), "transcripts embedded and written at a time"),
    key!(Workers, "ingestion_limit", "INGESTION_LIMIT", Kind::Int(0, 10_000_000), "new items taken on in one run; 0: all"),
    key!(Workers, "max_attempts", "MAX_ATTEMPTS", Kind::Int(1, 100), "attempts before an item is given up"),
    key!(Workers, "lease_seconds", "LEASE_SECONDS", Kind::Int(2, 3_600), "silence after which a machine's work goes to others"),
    key!(Workers, "stop_grace_seconds", "STOP_GRACE_SECONDS", Kind::Int(0, 3_600), "what is in work may take so long after SIGTERM"),

    key!(Downloads, "ytdlp_format", "YTDLP_FORMAT", Kind::Text, "yt-dlp's format selection"),
    key!(Downloads, "cookies_file", "COOKIES_FILE", optional Kind::Path, "cookies for sites that want a login"),
    key!(Downloads, "captions", "CAPTIONS", Kind::OneOf(CaptionUse::NAMES), "what captions that people made are used for"),
    key!(Downloads, "allow_private_addresses", "ALLOW_PRIVATE_ADDRESSES", Kind::Bool, "reach addresses that are not of the public internet"),
    key!(Downloads, "rate_videos_per_hour", "RATE_VIDEOS_PER_HOUR", Kind::AutoInt(0, 100_000), "videos of one site an hour, by all processes; 0: any number"),
    key!(Downloads, "rate_requests_per_hour", "RATE_REQUESTS_PER_HOUR", Kind::AutoInt(0, 10_000_000), "requests to one site an hour; 0: any number"),
    key!(Downloads, "rate_min_interval_seconds", "RATE_MIN_INTERVAL_SECONDS", Kind::AutoReal(0.0, 86_400.0), "least time between two videos of one site"),
    key!(Downloads, "rate_downloads", "RATE_DOWNLOADS", Kind::AutoInt(0, 512), "downloads from one site at a time; 0: any number"),
    key!(Downloads, "rate_rest_minutes", "RATE_REST_MINUTES", Kind::Int(1, 1_440), "how long a site that refuses is left alone at first"),
    key!(Downloads, "rate_sites", "RATE_SITES", optional Kind::RateSites, "limits of single sites"),
    key!(Downloads, "network_timeout", "NETWORK_TIMEOUT", Kind::Int(1, 3_600), "seconds without a byte until a download is broken off"),
    key!(Downloads, "max_download_mb", "MAX_DOWNLOAD_MB", Kind::Int(1, 1_048_576), "largest download, MiB"),
    key!(Downloads, "max_duration_hours", "MAX_DURATION_HOURS", Kind::Int(1, 1_000), "longest item"),
    key!(Downloads, "spool_max_mb", "SPOOL_MAX_MB", Kind::Int(64, 1_073_741_824), "room for items in flight, MiB"),
    key!(Downloads, "min_free_disk_mb", "MIN_FREE_DISK_MB", Kind::Int(0, 1_073_741_824), "downloads wait below this, MiB"),

    key!(Machines, "handover_url", "HANDOVER_URL", optional Kind::StoreUrl, "store through which fetch and transcribe nodes share audio"),
    key!(Machines, "handover_max_mb", "HANDOVER_MAX_MB", Kind::Int(0, 1_073_741_824), "fetch nodes wait beyond this, MiB; 0: no limit"),
    key!(Machines, "handover_max_hours", "HANDOVER_MAX_HOURS", Kind::Int(0, 1_000_000), "fetch nodes wait beyond this much audio; 0: no limit"),

    key!(Output, "log_format", "LOG_FORMAT", Kind::OneOf(LogFormat::NAMES), "form of log and progress"),
    key!(Output, "log_level", "LOG_LEVEL", Kind::LogFilter, "what is logged"),
];

/// The languages of Whisper's multilingual models (its tokenizer's language tokens, `large-v3` included).
const LANGUAGES: &[&str] = &[
    "af", "am", "ar", "as", "az", "ba", "be", "bg", "bn", "bo", "br", "bs", "ca", "cs", "cy", "da", "de",
    "el", "en", "es", "et", "eu", "fa", "fi", "fo", "fr", "gl", "gu", "ha", "haw", "he", "hi", "hr", "ht",
    "hu", "hy", "id", "is", "it", "ja", "jw", "ka", "kk", "km", "kn", "ko", "la", "lb", "ln", "lo", "lt",
    "lv", "mg", "mi", "mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl", "nn", "no", "oc", "pa", "pl",
    "ps", "pt", "ro", "ru", "sa", "sd", "si", "sk", "sl", "sn", "so", "sq", "sr", "su", "sv", "sw", "ta",
    "te", "tg", "th", "tk", "tl", "tr", "tt", "uk", "ur", "uz", "vi", "yi", "yo", "yue", "zh",
];

//! The types of values that are more than a number or a text.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use url::Url;

/// What stands in the place of a secret.
pub const REDACTED: &str = "***";

/// A value, or the program's own choice for this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auto<T> {
    /// Chosen when the machine is known, or by the profile.
    Auto,
    /// Set.
    Set(T),
}

impl<T> Auto<T> {
    /// The value, if one was set.
    pub fn set(self) -> Option<T> {
        match self {
            Self::Auto => None,
            Self::Set(value) => Some(value),
        }
    }

    /// The value, or `other`.
    pub fn unwrap_or(self, other: T) -> T {
        self.set().unwrap_or(other)
    }

    /// The value, or what `choose` makes of the machine.
    pub fn unwrap_or_else(self, choose: impl FnOnce() -> T) -> T {
        self.set().unwrap_or_else(choose)
    }
}

impl<T> Auto<T>
where
    T: std::ops::Deref,
{
    /// The value, borrowed, if one was set.
    pub fn as_deref(&self) -> Option<&T::Target> {
        match self {
            Self::Auto => None,
            Self::Set(value) => Some(value),
        }
    }
}

impl<T: Serialize> Serialize for Auto<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Set(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Word {
            Auto,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either<T> {
            Word(Word),
            Value(T),
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::Word(Word::Auto) => Self::Auto,
            Either::Value(value) => Self::Set(value),
        })
    }
}

impl<T: fmt::Display> fmt::Display for Auto<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Set(value) => value.fmt(f),
        }
    }
}

/// An enum whose variants have the names people write.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vmeta])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// The names, as they are written in a configuration.
            pub const NAMES: &[&str] = &[$($text),+];

            /// The name as it is written in a configuration.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

named! {
    /// What runs the Whisper model.
    Engine {
        /// CTranslate2.
        Ct2 = "ct2",
        /// whisper.cpp.
        WhisperCpp = "whisper-cpp",
    }
}

named! {
    /// What captions that people made are used for.
    CaptionUse {
        /// Nothing.
        Ignore = "ignore",
        /// Where the model fails or hears nothing.
        Fallback = "fallback",
        /// Instead of the model, where they are good.
        First = "first",
    }
}

named! {
    /// When the index of the vectors is built.
    IndexBuild {
        /// After a run that has brought in all there was, where the library is large enough.
        Auto = "auto",
        /// By `spoken index build`.
        Manual = "manual",
    }
}

named! {
    /// Where the Whisper model runs.
    Device {
        /// A GPU if the build and the machine have one, else the CPU.
        Auto = "auto",
        /// The CPU.
        Cpu = "cpu",
        /// An NVIDIA GPU; no GPU is an error.
        Cuda = "cuda",
    }
}

named! {
    /// Number format the Whisper model computes in (CTranslate2's compute types).
    Compute {
        /// The fastest that the device has without losing accuracy.
        Auto = "auto",
        /// 8-bit weights; the rest as in the model.
        Int8 = "int8",
        /// 8-bit weights, 16-bit floats (CUDA).
        Int8Float16 = "int8_float16",
        /// 8-bit weights, 32-bit floats.
        Int8Float32 = "int8_float32",
        /// 8-bit weights, bfloat16 (CUDA, compute capability 8.0 on).
        Int8Bfloat16 = "int8_bfloat16",
        /// 16-bit floats (CUDA).
        Float16 = "float16",
        /// bfloat16 (CUDA, compute capability 8.0 on).
        Bfloat16 = "bfloat16",
        /// 32-bit floats.
        Float32 = "float32",
    }
}

named! {
    /// How much time accuracy is worth. What each makes of the settings that are left to it: [`super::Recipe`].
    WhisperProfile {
        /// Greedy search.
        Fast = "fast",
        /// Five beams, as OpenAI's own program has them.
        Balanced = "balanced",
        /// Ten patient beams, and speech detection that would rather hear too much.
        Quality = "quality",
    }
}

named! {
    /// What is written down.
    Task {
        /// What is said, in its own language.
        Transcribe = "transcribe",
        /// What is said, in English.
        Translate = "translate",
    }
}

named! {
    /// What a segment of a transcript is.
    Resolution {
        /// A sentence.
        Sentence = "sentence",
        /// Speech without a long pause, as much as fits.
        Chunk = "chunk",
    }
}

named! {
    /// Whose arithmetic runs the model.
    Kernels {
        /// This program's own where it suits processor and model.
        Auto = "auto",
        /// The engine's.
        Engine = "engine",
    }
}

named! {
    /// What may change where memory does not suffice for a single window.
    OnOutOfMemory {
        /// Nothing: the item fails, and is tried again later.
        Fail = "fail",
        /// The model is loaded again with 8-bit weights.
        Compute = "compute",
        /// The same, then the CPU.
        Cpu = "cpu",
    }
}

named! {
    /// Form of log and progress on stderr.
    LogFormat {
        /// Bars on a terminal, plain lines elsewhere.
        Auto = "auto",
        /// Plain lines, on a terminal too.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

/// A model: a directory or file here, or a name to look up.
///
/// A text is a path if it begins with `/`, `./`, `../`, `~` or `{` (or is `.` or `..`), or if it has a slash in it
/// and exists; everything else is a name. So `small` and `Systran/faster-whisper-small` are
/// names, and `models/mine` is a path where there is such a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// A directory or a file, absolute.
    Path(PathBuf),
    /// `small`, `org/repository`.
    Name(String),
}

impl ModelRef {
    /// Tells a path from a name; a relative path would start from `base`.
    pub(super) fn is_path(text: &str, base: &Path) -> bool {
        matches!(text, "." | "..")
            || ["/", "./", "../", "~", "{"].iter().any(|start| text.starts_with(start))
            || (text.contains('/') && base.join(text).exists())
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Serialize for ModelRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModelRef {
    /// Paths were made absolute (or begin with a place in braces) before values are merged.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(if text.starts_with(['/', '{']) { Self::Path(text.into()) } else { Self::Name(text) })
    }
}

/// Address of a Postgres; its password appears neither in `Display` nor in `Debug` nor when serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(Url);

impl DatabaseUrl {
    /// Reads `postgres://user:password@host:port/database`. The error tells what is wrong without repeating the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "postgres://user:password@host:5432/database";
        let url = Url::parse(text).map_err(|error| format!("is no address ({error}); write {FORM}"))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(format!("must begin with postgres:// or postgresql://, as in {FORM}"));
        }
        if url.cannot_be_a_base() {
            return Err(format!("names no server; write {FORM}"));
        }
        Ok(Self(url))
    }

    /// The whole address, password included: for the database driver only.
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        if url.password().is_some() && url.set_password(Some(REDACTED)).is_err() {
            return f.write_str(REDACTED);
        }
        // Postgres addresses may carry secrets as parameters too; only parameters known to be harmless are shown.
        const SHOWN: &[&str] =
            &["host", "port", "dbname", "user", "sslmode", "application_name", "options", "sslrootcert"];
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        url.set_query(None);
        f.write_str(url.as_str())?;
        for (i, (name, value)) in pairs.iter().enumerate() {
            let value = if SHOWN.contains(&name.as_str()) { value } else { REDACTED };
            write!(f, "{}{name}={value}", if i == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DatabaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// `~` and `~/…` with `home` in its place; the text as it is where there is no home.
pub(super) fn expand_home(text: &str, home: Option<&Path>) -> PathBuf {
    match (text.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.to_path_buf(),
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(text),
    }
}

/// A path that begins with `{data_dir}` or `{tools_dir}`, with the place put in.
pub(super) fn expand_places(path: &Path, data_dir: &Path, tools_dir: &Path) -> PathBuf {
    for (name, place) in [("{data_dir}", data_dir), ("{tools_dir}", tools_dir)] {
        if let Ok(rest) = path.strip_prefix(name) {
            return if rest.as_os_str().is_empty() { place.to_path_buf() } else { place.join(rest) };
        }
    }
    path.to_path_buf()
}

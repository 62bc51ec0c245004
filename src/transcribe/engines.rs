//! The engines there are. Each describes itself in its own file with an [`EngineInfo`]; another one is its file and a line in
//! [`ALL`].

use std::{fmt, path::Path, str::FromStr};

#[cfg(feature = "whisper-cpp")]
use super::whisper_cpp;
use super::{
    Download, TranscribeError, TranscribeOptions, ct2,
    engine::Loaded,
    model::{self, ModelDir, ModelError},
};

/// Every engine of this build; the first is the default.
static ALL: &[&EngineInfo] = &[
    &ct2::INFO,
    #[cfg(feature = "whisper-cpp")]
    &whisper_cpp::INFO,
];

/// Engines that a build may lack, and the feature that brings them.
const OPTIONAL: [(&str, &str); 1] = [("whisper-cpp", "whisper-cpp")];

/// What the rest of the program knows of an engine before a model is loaded.
pub struct EngineInfo {
    /// The value of WHISPER_ENGINE.
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    /// The short names of models that it knows.
    pub names: fn() -> Vec<&'static str>,
    /// Whether a file or directory looks like one of its models.
    pub recognises: fn(&Path) -> bool,
    /// Finds a model by path or name, fetching it if need be.
    pub resolve: fn(&str, &Path, Progress) -> Result<ModelDir, ModelError>,
    /// Whether the weights of a model on this machine are whole, without reading them.
    pub check: fn(&ModelDir) -> Result<(), String>,
    /// Finds the model, decides how to run it, and loads it.
    pub open: fn(&TranscribeOptions, Progress) -> Result<Loaded, TranscribeError>,
}

/// Called as the bytes of a model come in.
pub type Progress<'a> = &'a mut dyn FnMut(Download);

/// One of the engines of this build, by name (`ct2`, `whisper-cpp`).
#[derive(Clone, Copy)]
pub struct EngineKind(&'static EngineInfo);

impl EngineKind {
    /// The engines of this build, the default first.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.iter().map(|info| Self(info))
    }

    /// The value of WHISPER_ENGINE.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// What it is, for people.
    pub fn about(self) -> &'static str {
        self.0.about
    }

    /// The short names of models that it knows.
    pub fn known_names(self) -> Vec<&'static str> {
        (self.0.names)()
    }

    /// Finds `model`, a path or a name, without loading it. What was fetched before is taken from `models_dir` (or the
    /// user's own hub cache) without any network; otherwise it is downloaded into `models_dir`, and `progress` hears of it.
    /// Blocks; fails within about ten seconds where there is no network.
    ///
    /// # Errors
    /// See [`ModelError`]; each says what would help. A model of another engine is told as that.
    pub fn resolve(
        self,
        model: &str,
        models_dir: &Path,
        progress: &mut dyn FnMut(Download),
    ) -> Result<ModelDir, ModelError> {
        let path = model::expand_home(model);
        if model::is_path(model)
            && path.exists()
            && !(self.0.recognises)(&path)
            && let Some(other) = ALL.iter().find(|other| (other.recognises)(&path))
        {
            return Err(ModelError::OtherEngine { path, engine: self.name(), its: other.name });
        }
        (self.0.resolve)(model, models_dir, progress)
    }

    /// Whether the weights of `model` are whole, and of a Whisper model.
    pub(super) fn check(self, model: &ModelDir) -> Result<(), String> {
        (self.0.check)(model)
    }

    /// Finds the model that `options` names, decides how to run it, and loads it.
    pub(super) fn open(
        self,
        options: &TranscribeOptions,
        download: &mut dyn FnMut(Download),
    ) -> Result<Loaded, TranscribeError> {
        (self.0.open)(options, download)
    }
}

impl Default for EngineKind {
    fn default() -> Self {
        Self(&ct2::INFO)
    }
}

impl PartialEq for EngineKind {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for EngineKind {}

impl fmt::Debug for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for EngineKind {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        if let Some(kind) = Self::all().find(|kind| kind.name() == s) {
            return Ok(kind);
        }
        if let Some((name, feature)) = OPTIONAL.iter().find(|(name, _)| *name == s) {
            return Err(format!(
                "this binary was built without the engine {name}; build it with --features {feature}"
            ));
        }
        let names: Vec<&str> = ALL.iter().map(|info| info.name).collect();
        Err(format!("unknown engine {s:?}; one of {}", names.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip() {
        for kind in EngineKind::all() {
            assert_eq!(kind.to_string().parse::<EngineKind>().unwrap(), kind);
            assert!(!kind.known_names().is_empty() && !kind.about().is_empty());
        }
        assert_eq!(EngineKind::default().name(), "ct2");
        assert!("whisperx".parse::<EngineKind>().unwrap_err().contains("one of ct2"));
    }

    #[cfg(feature = "whisper-cpp")]
    #[test]
    fn a_model_of_another_engine_is_told_as_that() {
        let models = tempfile::tempdir().unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let (ct2, ggml) = (fixtures.join("whisper-micro"), fixtures.join("whisper-micro-ggml"));
        let resolve = |engine: &str, path: &Path| {
            let engine: EngineKind = engine.parse().unwrap();
            engine.resolve(path.to_str().unwrap(), models.path(), &mut |_| {}).map_err(|e| e.to_string())
        };
        assert!(resolve("ct2", &ct2).is_ok());
        assert!(resolve("whisper-cpp", &ggml).is_ok());
        assert!(resolve("whisper-cpp", &ct2).unwrap_err().contains("set WHISPER_ENGINE=ct2"));
        for path in [ggml.clone(), ggml.join("ggml-micro-q8_0.bin")] {
            assert!(resolve("ct2", &path).unwrap_err().contains("set WHISPER_ENGINE=whisper-cpp"));
        }
    }
}

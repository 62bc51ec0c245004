//! Which model: a directory on this machine, or a name that is fetched from the Hugging Face hub once.

pub mod hub;

use std::path::{Path, PathBuf};

use thiserror::Error;

use hub::Download;

/// Files without which a CTranslate2 Whisper model does not run. The vocabulary is `vocabulary.json` or, in older
/// conversions, `vocabulary.txt`.
const REQUIRED: [&str; 3] = ["model.bin", "config.json", "tokenizer.json"];
const VOCABULARIES: [&str; 2] = ["vocabulary.json", "vocabulary.txt"];
/// Fetched along when the repository has them.
const OPTIONAL: [&str; 1] = ["preprocessor_config.json"];

/// Short names and where their CTranslate2 conversions are; the repositories that faster-whisper 1.2 uses.
const NAMES: [(&str, &str); 19] = [
    ("tiny", "Systran/faster-whisper-tiny"),
    ("tiny.en", "Systran/faster-whisper-tiny.en"),
    ("base", "Systran/faster-whisper-base"),
    ("base.en", "Systran/faster-whisper-base.en"),
    ("small", "Systran/faster-whisper-small"),
    ("small.en", "Systran/faster-whisper-small.en"),
    ("medium", "Systran/faster-whisper-medium"),
    ("medium.en", "Systran/faster-whisper-medium.en"),
    ("large", "Systran/faster-whisper-large-v3"),
    ("large-v1", "Systran/faster-whisper-large-v1"),
    ("large-v2", "Systran/faster-whisper-large-v2"),
    ("large-v3", "Systran/faster-whisper-large-v3"),
    ("large-v3-turbo", "mobiuslabsgmbh/faster-whisper-large-v3-turbo"),
    ("turbo", "mobiuslabsgmbh/faster-whisper-large-v3-turbo"),
    ("distil-small.en", "Systran/faster-distil-whisper-small.en"),
    ("distil-medium.en", "Systran/faster-distil-whisper-medium.en"),
    ("distil-large-v2", "Systran/faster-distil-whisper-large-v2"),
    ("distil-large-v3", "Systran/faster-distil-whisper-large-v3"),
    ("distil-large-v3.5", "distil-whisper/distil-large-v3.5-ct2"),
];

/// What to write in place of a name where the hub cannot be reached.
const LOCAL_ADVICE: &str = "set WHISPER_MODEL=/path/to/dir, a directory with model.bin, config.json, tokenizer.json and \
                            vocabulary.json (or vocabulary.txt)";

/// Why a model cannot be had.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The path does not exist or is no directory.
    #[error("{} is not a directory; {LOCAL_ADVICE}, or a model's name", path.display())]
    NotADirectory {
        /// As configured.
        path: PathBuf,
    },
    /// The path does not exist, or there is no single model of the configured engine in it.
    #[error("{} {what}; {advice}", path.display())]
    NoModel {
        /// As configured.
        path: PathBuf,
        /// What is wrong, to be read after the path.
        what: String,
        /// What would do instead.
        advice: &'static str,
    },
    /// The model is one of another engine.
    #[error("{} is a model for {its}, and WHISPER_ENGINE={engine}: set WHISPER_ENGINE={its}, or another WHISPER_MODEL", path.display())]
    OtherEngine {
        /// As configured.
        path: PathBuf,
        /// The configured engine.
        engine: &'static str,
        /// The engine that can load it.
        its: &'static str,
    },
    /// The directory is not a complete CTranslate2 Whisper model.
    #[error("{} is no complete whisper model for ctranslate2: {} missing{}", path.display(), missing.join(" and "), hint.unwrap_or(""))]
    Incomplete {
        /// The directory.
        path: PathBuf,
        /// Names of the files that are not there.
        missing: Vec<String>,
        /// What the directory seems to be instead.
        hint: Option<&'static str>,
    },
    /// No model has this name.
    #[error("unknown model {name:?}; did you mean {}? known names: {}", nearest.join(" or "), known.join(", "))]
    UnknownName {
        /// As configured.
        name: String,
        /// Known names like it.
        nearest: Vec<&'static str>,
        /// All names the engine knows.
        known: Vec<&'static str>,
    },
    /// The hub cannot be reached, or does not answer.
    #[error("model {name:?} is not in {} and cannot be fetched from {endpoint}: {reason}; without a network {advice}", cache.display())]
    Offline {
        /// As configured.
        name: String,
        /// Where it would be cached.
        cache: PathBuf,
        /// Address of the hub.
        endpoint: String,
        /// What went wrong.
        reason: String,
        /// What would do instead.
        advice: &'static str,
    },
    /// The hub answered, but not with the model.
    #[error("cannot fetch model {name:?} ({repository}) from {endpoint}: {reason}")]
    Fetch {
        /// As configured.
        name: String,
        /// `organisation/repository` on the hub.
        repository: String,
        /// Address of the hub.
        endpoint: String,
        /// What went wrong.
        reason: String,
    },
}

/// A complete model on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelDir {
    /// The directory; for an engine whose models are single files, the file.
    pub path: PathBuf,
    /// What to call it: the configured name, or the directory's own.
    pub name: String,
    /// Size of the weights' file.
    pub weights_bytes: u64,
}

/// The short names that [`resolve`] knows.
pub fn known_names() -> Vec<&'static str> {
    NAMES.iter().map(|(name, _)| *name).collect()
}

/// Whether `model` is written as a path: it begins with `/`, `.` or `~`. Anything else is a name, even where something in
/// the current directory is called like it.
pub fn is_path(model: &str) -> bool {
    model.starts_with(['/', '.', '~'])
}

/// Finds `model`: a directory (see [`is_path`]), a short name (`small`, `distil-large-v3`, …) or `organisation/repository`
/// on the hub.
///
/// What was fetched before is taken from `models_dir` (or the user's own hub cache) without any network. Otherwise the
/// files are downloaded into `models_dir`, and `progress` hears of it. Blocks; fails within about ten seconds where
/// there is no network.
///
/// # Errors
/// See [`ModelError`]; each says what would help.
pub fn resolve(
    model: &str,
    models_dir: &Path,
    progress: &mut dyn FnMut(Download),
) -> Result<ModelDir, ModelError> {
    let path = expand_home(model);
    if is_path(model) && path.is_dir() {
        let name = path
            .canonicalize()
            .ok()
            .and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()))
            .unwrap_or_else(|| model.to_owned());
        return complete(path, name);
    }
    if let Some((name, repository)) = NAMES.iter().find(|(name, _)| *name == model) {
        return hub::fetch(name, repository, models_dir, wanted(name), progress);
    }
    let slashes = model.matches('/').count();
    if is_path(model) || slashes > 1 || model.ends_with('/') {
        return Err(ModelError::NotADirectory { path });
    }
    if slashes == 1 {
        return hub::fetch(model, model, models_dir, wanted(model), progress);
    }
    Err(unknown_name(model, known_names()))
}

/// No model is called `name`; `known` are those there are.
pub fn unknown_name(name: &str, known: Vec<&'static str>) -> ModelError {
    ModelError::UnknownName { name: name.to_owned(), nearest: nearest(name, &known), known }
}

/// Whether `path` is a directory with the weights of a CTranslate2 model.
pub fn is_ct2(path: &Path) -> bool {
    path.join(REQUIRED[0]).is_file()
}

/// The files of a CTranslate2 model on the hub, which is to be called `name`.
fn wanted(name: &str) -> hub::Wanted {
    let name = name.to_owned();
    hub::Wanted {
        choose: Box::new(choose),
        found: Box::new(move |dir| complete(dir, name.clone()).ok()),
        advice: LOCAL_ADVICE,
    }
}

/// The model's files among those that are `there`.
fn choose(there: &[String]) -> Result<Vec<String>, String> {
    let has = |file: &str| there.iter().any(|f| f == file);
    let vocabulary = VOCABULARIES.into_iter().find(|f| has(f));
    let missing = REQUIRED.into_iter().find(|f| !has(f)).or(vocabulary.is_none().then_some(VOCABULARIES[0]));
    if let Some(missing) = missing {
        return Err(format!("the repository holds no ctranslate2 model (no {missing})"));
    }
    let optional = OPTIONAL.into_iter().filter(|f| has(f));
    let files = REQUIRED[1..].iter().copied().chain(vocabulary).chain(optional).chain([REQUIRED[0]]);
    Ok(files.map(str::to_owned).collect())
}

/// `path` as a model, or what is missing in it.
fn complete(path: PathBuf, name: String) -> Result<ModelDir, ModelError> {
    let mut missing: Vec<String> =
        REQUIRED.iter().filter(|f| !path.join(f).is_file()).map(|&f| f.to_owned()).collect();
    if !VOCABULARIES.iter().any(|f| path.join(f).is_file()) {
        missing.push(VOCABULARIES[0].to_owned());
    }
    match std::fs::metadata(path.join(REQUIRED[0])) {
        Ok(weights) if missing.is_empty() => Ok(ModelDir { path, name, weights_bytes: weights.len() }),
        _ => {
            let hint = other_format(&path);
            Err(ModelError::Incomplete { path, missing, hint })
        }
    }
}

/// Recognises models of other runtimes, which is what people have at hand.
fn other_format(path: &Path) -> Option<&'static str> {
    let has = |wanted: &dyn Fn(&str) -> bool| {
        std::fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.file_name().to_str().is_some_and(wanted))
    };
    if has(&|f| f.ends_with(".safetensors") || f == "pytorch_model.bin") {
        Some(
            "; this looks like a transformers checkpoint: convert it with ct2-transformers-converter --copy_files tokenizer.json preprocessor_config.json",
        )
    } else if has(&|f| f.starts_with("ggml") && f.ends_with(".bin")) {
        Some("; this looks like a whisper.cpp model, which WHISPER_ENGINE=whisper-cpp runs")
    } else {
        None
    }
}

/// The three of `known` most like `name`, best first.
fn nearest(name: &str, known: &[&'static str]) -> Vec<&'static str> {
    let wanted = name.to_lowercase();
    let mut scored: Vec<(f64, &'static str)> =
        known.iter().map(|known| (strsim::jaro_winkler(known, &wanted), *known)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(3).map(|(_, known)| known).collect()
}

/// `path` with `~/` taken for the user's home.
pub fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve_quietly(model: &str, dir: &Path) -> Result<ModelDir, ModelError> {
        resolve(model, dir, &mut |_| {})
    }

    #[test]
    fn a_directory_without_weights_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        std::fs::write(dir.path().join("model.safetensors"), "").unwrap();
        let error = resolve_quietly(dir.path().to_str().unwrap(), dir.path()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("model.bin and tokenizer.json and vocabulary.json missing"), "{text}");
        assert!(text.contains("ct2-transformers-converter"), "{text}");
    }

    #[test]
    fn a_complete_directory_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["model.bin", "config.json", "tokenizer.json", "vocabulary.txt"] {
            std::fs::write(dir.path().join(file), "12345").unwrap();
        }
        let model = resolve_quietly(dir.path().to_str().unwrap(), dir.path()).unwrap();
        assert_eq!(model.weights_bytes, 5);
        assert_eq!(model.name, dir.path().canonicalize().unwrap().file_name().unwrap().to_str().unwrap());
    }

    #[test]
    fn a_missing_path_is_no_hub_name() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["/no/such/model", "./model", "models/whisper/small"] {
            let error = resolve_quietly(path, dir.path()).unwrap_err();
            assert!(matches!(error, ModelError::NotADirectory { .. }), "{path}: {error}");
        }
    }

    #[test]
    fn an_unknown_name_suggests_the_nearest() {
        let dir = tempfile::tempdir().unwrap();
        let error = resolve_quietly("large-v3-trubo", dir.path()).unwrap_err();
        let ModelError::UnknownName { nearest, .. } = &error else { panic!("{error}") };
        assert_eq!(nearest[0], "large-v3-turbo");
        assert!(error.to_string().contains("distil-large-v3.5"));
    }

    #[test]
    fn what_was_fetched_before_needs_no_network() {
        let models = tempfile::tempdir().unwrap();
        let repository = models.path().join("models--Systran--faster-whisper-tiny");
        let snapshot = repository.join("snapshots/abc");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        std::fs::write(repository.join("refs/main"), "abc").unwrap();
        for file in ["model.bin", "config.json", "tokenizer.json", "vocabulary.txt"] {
            std::fs::write(snapshot.join(file), "1").unwrap();
        }
        let model = resolve_quietly("tiny", models.path()).unwrap();
        assert_eq!((model.name.as_str(), model.path), ("tiny", snapshot));
    }
}

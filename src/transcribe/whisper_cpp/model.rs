//! Which GGML file: one on this machine, or one of the hub repository of whisper.cpp's own conversions.

use std::path::{Path, PathBuf};

use super::file;
use crate::transcribe::{
    Download,
    model::{ModelDir, ModelError, expand_home, hub, is_path, unknown_name},
};

/// Where whisper.cpp's conversions of OpenAI's models lie, as `ggml-<name>.bin`.
const REPOSITORY: &str = "ggerganov/whisper.cpp";

/// The conversions there are; `-q5_0`, `-q5_1` and `-q8_0` are quantised to 5 and 8 bits.
const NAMES: [&str; 35] = [
    "tiny",
    "tiny-q5_1",
    "tiny-q8_0",
    "tiny.en",
    "tiny.en-q5_1",
    "tiny.en-q8_0",
    "base",
    "base-q5_1",
    "base-q8_0",
    "base.en",
    "base.en-q5_1",
    "base.en-q8_0",
    "small",
    "small-q5_1",
    "small-q8_0",
    "small.en",
    "small.en-q5_1",
    "small.en-q8_0",
    "medium",
    "medium-q5_0",
    "medium-q8_0",
    "medium.en",
    "medium.en-q5_0",
    "medium.en-q8_0",
    "large-v1",
    "large-v2",
    "large-v2-q5_0",
    "large-v2-q8_0",
    "large-v3",
    "large-v3-q5_0",
    "large-v3-turbo",
    "large-v3-turbo-q5_0",
    "large-v3-turbo-q8_0",
    "large",
    "turbo",
];

/// Names that stand for another.
const ALIASES: [(&str, &str); 2] = [("large", "large-v3"), ("turbo", "large-v3-turbo")];

/// What to write in place of a name.
const LOCAL_ADVICE: &str = "set WHISPER_MODEL=/path/to/ggml-small.bin, a model in whisper.cpp's format, or a directory that holds exactly one";

/// The short names that [`resolve`] knows.
pub fn known_names() -> Vec<&'static str> {
    NAMES.to_vec()
}

/// Whether `path` is a GGML model of whisper.cpp, or a directory with some.
pub fn recognises(path: &Path) -> bool {
    if path.is_dir() { !models_in(path).is_empty() } else { file::has_magic(path) }
}

/// Finds `model` (a path begins with `/`, `.` or `~`): a file, a directory with one `ggml-*.bin`, a short name (`small-q5_1`, `large-v3-turbo`, …), or on the
/// hub `organisation/repository/file.bin` or an `organisation/repository` with one such file.
///
/// # Errors
/// See [`ModelError`]; each says what would help.
pub fn resolve(
    model: &str,
    models_dir: &Path,
    progress: &mut dyn FnMut(Download),
) -> Result<ModelDir, ModelError> {
    let path = expand_home(model);
    let no_model = |path: PathBuf, what: String| ModelError::NoModel { path, what, advice: LOCAL_ADVICE };
    // A name is a name, even where something here is called like it.
    let local = is_path(model);
    if local && path.is_file() {
        return Ok(found(path));
    }
    if local && path.is_dir() {
        let mut models = models_in(&path);
        return match (models.len(), models.pop()) {
            (1, Some(model)) => Ok(found(model)),
            (0, _) | (_, None) => Err(no_model(path, "holds no ggml-*.bin".to_owned())),
            (count, Some(last)) => {
                models.push(last);
                let names: Vec<String> = models.iter().map(|m| file_name(m)).collect();
                Err(no_model(path, format!("holds {count} models ({}): name one of them", names.join(", "))))
            }
        };
    }
    if NAMES.contains(&model) {
        let full = ALIASES.iter().find(|(alias, _)| *alias == model).map_or(model, |(_, name)| name);
        return hub::fetch(
            model,
            REPOSITORY,
            models_dir,
            wanted(model, Some(format!("ggml-{full}.bin"))),
            progress,
        );
    }
    let parts: Vec<&str> = model.split('/').collect();
    match parts[..] {
        _ if local || model.ends_with('/') => Err(no_model(path, "is not there".to_owned())),
        [_] if model.ends_with(".bin") => Err(no_model(path, "is not there".to_owned())),
        [_] => Err(unknown_name(model, known_names())),
        [owner, repository] => {
            let repository = format!("{owner}/{repository}");
            hub::fetch(model, &repository, models_dir, wanted(model, None), progress)
        }
        [owner, repository, file] if file.ends_with(".bin") => {
            let repository = format!("{owner}/{repository}");
            hub::fetch(model, &repository, models_dir, wanted(model, Some(file.to_owned())), progress)
        }
        _ => Err(no_model(path, "is not there".to_owned())),
    }
}

/// A model's name without what every file has in common: `small` of `ggml-small.bin`.
fn found(path: PathBuf) -> ModelDir {
    let file = file_name(&path);
    let name = file.strip_prefix("ggml-").unwrap_or(&file);
    let name = name.strip_suffix(".bin").unwrap_or(name).to_owned();
    let weights_bytes = std::fs::metadata(&path).map_or(0, |m| m.len());
    ModelDir { path, name, weights_bytes }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn is_model_name(name: &str) -> bool {
    name.starts_with("ggml-") && name.ends_with(".bin")
}

/// The models in a directory, by name.
fn models_in(dir: &Path) -> Vec<PathBuf> {
    let mut models: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_model_name(&file_name(path)) && path.is_file())
        .collect();
    models.sort();
    models
}

/// `file` of a repository, or its only model; to be called `name`.
fn wanted(name: &str, file: Option<String>) -> hub::Wanted {
    let (name, local) = (name.to_owned(), file.clone());
    hub::Wanted {
        choose: Box::new(move |there| choose(there, file.as_deref())),
        found: Box::new(move |dir| {
            let path = match &local {
                Some(file) => Some(dir.join(file)).filter(|path| path.is_file()),
                None => {
                    let models = models_in(&dir);
                    if models.len() == 1 { models.into_iter().next() } else { None }
                }
            };
            path.map(|path| ModelDir { name: name.clone(), ..found(path) })
        }),
        advice: LOCAL_ADVICE,
    }
}

fn choose(there: &[String], file: Option<&str>) -> Result<Vec<String>, String> {
    match file {
        Some(file) if there.iter().any(|f| f == file) => Ok(vec![file.to_owned()]),
        Some(file) => Err(format!("the repository holds no {file}")),
        None => {
            let models: Vec<&String> = there.iter().filter(|f| is_model_name(f)).collect();
            match models[..] {
                [model] => Ok(vec![model.clone()]),
                [] => Err("the repository holds no ggml-*.bin".to_owned()),
                _ => Err(format!(
                    "the repository holds {} models; name one as owner/repository/file.bin",
                    models.len()
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quietly(model: &str, dir: &Path) -> Result<ModelDir, ModelError> {
        resolve(model, dir, &mut |_| {})
    }

    /// What [`file::has_magic`] asks for.
    const MAGIC: &[u8] = b"lmgg and more";

    #[test]
    fn a_file_and_a_directory_with_one_file_are_models() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ggml-small-q5_1.bin");
        std::fs::write(&file, MAGIC).unwrap();
        for path in [&file, dir.path()] {
            assert!(recognises(path));
            let model = quietly(path.to_str().unwrap(), dir.path()).unwrap();
            assert_eq!(
                model,
                ModelDir { path: file.clone(), name: "small-q5_1".to_owned(), weights_bytes: 13 }
            );
        }
        std::fs::write(dir.path().join("ggml-tiny.bin"), MAGIC).unwrap();
        let error = quietly(dir.path().to_str().unwrap(), dir.path()).unwrap_err().to_string();
        assert!(error.contains("2 models (ggml-small-q5_1.bin, ggml-tiny.bin)"), "{error}");
    }

    #[test]
    fn what_is_not_there_says_what_would_do() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "/no/such/model",
            "./ggml-small.bin",
            "ggml-small.bin",
            "models/",
            "a/b/c/d",
            dir.path().to_str().unwrap(),
        ] {
            let error = quietly(path, dir.path()).unwrap_err();
            assert!(matches!(error, ModelError::NoModel { .. }), "{path}: {error}");
            assert!(error.to_string().contains("WHISPER_MODEL=/path/to/ggml-small.bin"), "{error}");
        }
        let error = quietly("small-q5_2", dir.path()).unwrap_err().to_string();
        assert!(error.contains("did you mean small-q5_1"), "{error}");
    }

    #[test]
    fn what_was_fetched_before_needs_no_network() {
        let models = tempfile::tempdir().unwrap();
        for (repository, file) in
            [("ggerganov--whisper.cpp", "ggml-large-v3-turbo.bin"), ("maker--mine", "ggml-mine.bin")]
        {
            let repository = models.path().join(format!("models--{repository}"));
            let snapshot = repository.join("snapshots/abc");
            std::fs::create_dir_all(&snapshot).unwrap();
            std::fs::create_dir_all(repository.join("refs")).unwrap();
            std::fs::write(repository.join("refs/main"), "abc").unwrap();
            std::fs::write(snapshot.join(file), MAGIC).unwrap();
        }
        for name in ["turbo", "large-v3-turbo", "maker/mine", "maker/mine/ggml-mine.bin"] {
            let model = quietly(name, models.path()).unwrap();
            assert_eq!((model.name.as_str(), model.weights_bytes), (name, 13));
        }
    }

    #[test]
    fn files_of_a_repository_are_chosen() {
        let there = ["README.md", "ggml-tiny.bin", "ggml-base.bin"].map(str::to_owned);
        assert_eq!(choose(&there, Some("ggml-base.bin")).unwrap(), ["ggml-base.bin"]);
        assert!(choose(&there, Some("ggml-small.bin")).unwrap_err().contains("no ggml-small.bin"));
        assert!(choose(&there, None).unwrap_err().contains("2 models"));
        assert_eq!(choose(&there[..2], None).unwrap(), ["ggml-tiny.bin"]);
        assert!(choose(&there[..1], None).is_err());
    }
}

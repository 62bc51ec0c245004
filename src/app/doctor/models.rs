//! The models: here already, or fetched at first use?

use std::path::{Path, PathBuf};

use super::Check;
use crate::config::{Config, ModelRef};

pub(super) fn whisper(config: &Config, hub_home: Option<&Path>) -> Check {
    const NAME: &str = "Whisper model";
    const ADVICE: &str =
        "set WHISPER_MODEL to a name such as small, or to a directory with a model in CTranslate2 form";
    match &config.whisper_model {
        ModelRef::Path(path) => directory(NAME, path, &missing_of_whisper(path), ADVICE),
        ModelRef::Name(name) => {
            let cached = cached(config, hub_home, name, |snapshot| missing_of_whisper(snapshot).is_empty());
            named(NAME, name, cached, "WHISPER_MODEL")
        }
    }
}

pub(super) fn embedding(config: &Config, hub_home: Option<&Path>) -> Check {
    const NAME: &str = "Embedding model";
    const ADVICE: &str =
        "set EMBEDDING_MODEL to a name that fastembed knows, or to a directory with an ONNX model";
    match &config.embedding_model {
        ModelRef::Path(path) => directory(NAME, path, &missing_of_embedding(path), ADVICE),
        ModelRef::Name(name) => {
            let cached = cached(config, hub_home, name, has_onnx);
            named(NAME, name, cached, "EMBEDDING_MODEL")
        }
    }
}

fn directory(name: &'static str, path: &Path, missing: &[&str], advice: &str) -> Check {
    let shown = path.display();
    if !path.is_dir() {
        return Check::fail(name, format!("{shown} is no directory"), advice);
    }
    if !missing.is_empty() {
        return Check::fail(name, format!("{shown} has no {}", missing.join(", no ")), advice);
    }
    Check::ok(name, shown.to_string())
}

fn named(check: &'static str, name: &str, cached: Option<PathBuf>, key: &str) -> Check {
    match cached {
        Some(path) => Check::ok(check, format!("{name} ({})", path.display())),
        None => Check::warn(
            check,
            format!("{name}, not on this machine yet"),
            format!(
                "it will be downloaded from the hub at first use; without a network set {key} to a directory"
            ),
        ),
    }
}

fn missing_of_whisper(directory: &Path) -> Vec<&'static str> {
    let mut missing: Vec<&str> = ["model.bin", "config.json", "tokenizer.json"]
        .into_iter()
        .filter(|f| !directory.join(f).is_file())
        .collect();
    if !["vocabulary.json", "vocabulary.txt"].iter().any(|file| directory.join(file).is_file()) {
        missing.push("vocabulary.json");
    }
    missing
}

fn missing_of_embedding(directory: &Path) -> Vec<&'static str> {
    let mut missing: Vec<&str> =
        ["tokenizer.json", "config.json"].into_iter().filter(|f| !directory.join(f).is_file()).collect();
    if !has_onnx(directory) {
        missing.push("model.onnx");
    }
    missing
}

fn has_onnx(directory: &Path) -> bool {
    [directory.to_path_buf(), directory.join("onnx")]
        .iter()
        .flat_map(|place| std::fs::read_dir(place).into_iter().flatten().flatten())
        .any(|file| file.path().extension().is_some_and(|extension| extension == "onnx"))
}

/// The snapshot of a model in a hub cache: `models--ORGANISATION--REPOSITORY/snapshots/REVISION`.
///
/// A short name stands for a repository that ends with it (`small`: `Systran/faster-whisper-small`); which one exactly is
/// the business of those who load it.
fn cached(
    config: &Config,
    hub_home: Option<&Path>,
    name: &str,
    complete: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let folder = name.replace('/', "--").to_lowercase();
    let matches = |found: &str| {
        let found = found.to_lowercase();
        let Some(repository) = found.strip_prefix("models--") else { return false };
        repository == folder
            || (!name.contains('/')
                && repository.strip_suffix(&folder).is_some_and(|start| {
                    // `small` is not `distil-small`, and `large-v3` is not `distil-large-v3`.
                    start.ends_with("whisper-") && (folder.starts_with("distil") || !start.contains("distil"))
                        || start.ends_with("--")
                        || start.ends_with("faster-") && folder.starts_with("distil")
                }))
            // Conversions for ONNX keep the model's own name: `Qdrant/all-MiniLM-L6-v2-onnx`.
            || folder.rsplit("--").next().is_some_and(|own| {
                name.contains('/') && repository.rsplit("--").next().is_some_and(|r| r.strip_suffix("-onnx") == Some(own))
            })
    };
    [Some(config.data_dir.join("models")), hub_home.map(|home| home.join("hub"))]
        .into_iter()
        .flatten()
        .flat_map(|cache| std::fs::read_dir(cache).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name().to_str().is_some_and(matches))
        .flat_map(|entry| std::fs::read_dir(entry.path().join("snapshots")).into_iter().flatten().flatten())
        .map(|snapshot| snapshot.path())
        .find(|snapshot| complete(snapshot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::doctor::Status;

    fn touch(directory: &Path, files: &[&str]) {
        for file in files {
            let path = directory.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
    }

    const WHISPER: &[&str] = &["model.bin", "config.json", "tokenizer.json", "vocabulary.txt"];

    #[test]
    fn a_directory_must_be_complete() {
        let place = tempfile::tempdir().unwrap();
        let mut config = Config::defaults(place.path());
        config.whisper_model = ModelRef::Path(place.path().join("m"));
        assert!(whisper(&config, None).detail.ends_with("is no directory"));
        touch(&place.path().join("m"), &WHISPER[1..]);
        assert!(whisper(&config, None).detail.ends_with("has no model.bin"));
        touch(&place.path().join("m"), WHISPER);
        assert_eq!(whisper(&config, None).status, Status::Ok);
        config.embedding_model = ModelRef::Path(place.path().join("e"));
        touch(&place.path().join("e"), &["tokenizer.json", "config.json"]);
        assert!(embedding(&config, None).detail.ends_with("has no model.onnx"));
        touch(&place.path().join("e"), &["model_quantized.onnx"]);
        assert_eq!(embedding(&config, None).status, Status::Ok);
    }

    #[test]
    fn a_name_is_looked_up_in_the_caches() {
        let place = tempfile::tempdir().unwrap();
        let mut config = Config::defaults(place.path());
        config.data_dir = place.path().join("data");
        let models = config.data_dir.join("models");
        let mut status = |name: &str| {
            config.whisper_model = ModelRef::Name(name.into());
            whisper(&config, Some(&place.path().join("hf"))).status
        };
        touch(&models.join("models--Systran--faster-distil-whisper-large-v3/snapshots/abc"), WHISPER);
        touch(&models.join("models--Systran--faster-whisper-small/snapshots/abc"), &WHISPER[1..]);
        assert_eq!(status("distil-large-v3"), Status::Warn, "a short name with a repository of another form");
        assert_eq!(status("large-v3"), Status::Warn);
        assert_eq!(status("small"), Status::Warn, "incomplete");
        touch(&models.join("models--Systran--faster-whisper-small/snapshots/abc"), WHISPER);
        assert_eq!(status("small"), Status::Ok);
        assert_eq!(status("Systran/faster-whisper-small"), Status::Ok);
        assert_eq!(status("large-v3-turbo"), Status::Warn);
        touch(&place.path().join("hf/hub/models--org--faster-whisper-large-v3-turbo/snapshots/abc"), WHISPER);
        assert_eq!(status("large-v3-turbo"), Status::Ok);
        touch(&models.join("models--Qdrant--all-MiniLM-L6-v2-onnx/snapshots/abc"), &["model.onnx"]);
        config.embedding_model = ModelRef::Name("sentence-transformers/all-MiniLM-L6-v2".into());
        assert_eq!(embedding(&config, None).status, Status::Ok);
    }
}

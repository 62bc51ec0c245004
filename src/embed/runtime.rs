//! ONNX Runtime, loaded from a shared library at run time.
//!
//! `ort` panics when it cannot load its library on first use. So the library is looked for and loaded here, with an error
//! for everything that can be wrong, before any other part of `ort` is touched.

use std::{
    env,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use ort::{environment::Environment, logging::LogLevel};
use tracing::debug;

use super::EmbedError;

/// The one environment that a process may have; created by the first model and never released.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// Where the library is: `ORT_DYLIB_PATH`, else what the set-up put into the tools directory.
pub(super) fn library(tools_dir: &Path) -> PathBuf {
    match env::var_os("ORT_DYLIB_PATH").filter(|v| !v.is_empty()) {
        Some(path) => path.into(),
        None => tools_dir.join("lib/libonnxruntime.so"),
    }
}

/// Loads the library, unless one is loaded already.
pub(super) fn environment(library: &Path) -> Result<Environment, EmbedError> {
    let broken = |why: String| EmbedError::Runtime { path: library.to_owned(), why };
    // Asked for first: a relative or missing path would be looked up by the dynamic linker in its own places.
    let path = library.canonicalize().map_err(|e| broken(e.to_string()))?;
    if !path.is_file() {
        return Err(broken("not a file".to_owned()));
    }
    let mut current = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = current.as_ref() {
        return Ok(environment.clone());
    }
    let environment = ort::init_from(&path)
        .map_err(|e| broken(e.to_string()))?
        .with_name("spoken")
        .with_telemetry(false)
        .with_logger(Arc::new(|level, category, _id, place, message| {
            debug!(?level, category, place, "onnxruntime: {message}");
        }))
        .build()
        .map_err(|e| broken(e.to_string()))?;
    environment.set_log_level(LogLevel::Warning);
    *current = Some(environment.clone());
    Ok(environment)
}

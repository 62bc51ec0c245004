//! Reading the layers: files, `.env`, environment and flags become checked values that know where they stood.

mod files;
mod names;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use super::keys::{Base, Key};
use super::problem::Problem;
use super::{Inputs, Override, Provenance, dotenv};
use files::reading_failed;
use names::{CONFIG_DIR, Name, PROFILE, Spelling, is_for_libraries, looks_like_ours, unknown};

pub use files::BUILT_IN_PROFILES;

/// A checked value and where it stood: one figment provider, so that figment's metadata leads back to the line.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub key: &'static Key,
    value: Value,
    origin: Provenance,
}

impl Provider for Given {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.layer).source(Source::Custom(self.origin.from.clone()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let dict = Dict::from([(self.key.name.to_owned(), self.value.clone())]);
        Ok(Map::from([(Profile::Default, dict)]))
    }
}

/// Where the value of `key` in `figment` came from; `None` for a default.
pub(super) fn provenance(figment: &Figment, key: &Key) -> Option<Provenance> {
    let metadata = figment.find_metadata(key.name)?;
    let layer = match &*metadata.name {
        "file" => "file",
        "profile" => "profile",
        "dotenv" => "dotenv",
        "environment" => "environment",
        "flag" => "flag",
        _ => return None,
    };
    Some(Provenance { layer, from: metadata.source.as_ref()?.custom()?.to_owned() })
}

/// All layers, lowest first.
#[derive(Debug, Default)]
pub(super) struct Layers {
    pub given: Vec<Given>,
    pub profile: Option<String>,
    pub config_dir: Option<PathBuf>,
    pub library_variables: Vec<(String, String)>,
}

impl Layers {
    pub fn read(inputs: &Inputs, problems: &mut Vec<Problem>) -> Self {
        let mut reader = Reader { inputs, problems: Vec::new() };
        let dotenv = reader.dotenv();
        let environment = reader.environment();
        let flags = reader.flags();

        let chosen = |name: &str| {
            [&flags, &environment, &dotenv].into_iter().find_map(|layer| layer.selectors.get(name)).cloned()
        };
        let config_dir = reader.config_dir(chosen(CONFIG_DIR));
        let (upper, mut given) = (std::mem::take(&mut reader.problems), Vec::new());
        if let Some(directory) = &config_dir {
            given.extend(reader.optional_file(&directory.join("default.toml"), "file"));
        }
        let profile = chosen(PROFILE);
        if let Some((name, origin)) = &profile {
            given.extend(reader.profile(name, origin, config_dir.as_deref()));
        }
        // Told in the order of the layers, lowest first.
        problems.append(&mut reader.problems);
        problems.extend(upper);

        for layer in [dotenv.given, environment.given, flags.given] {
            given.extend(layer);
        }
        Self {
            given,
            profile: profile.map(|(name, _)| name),
            config_dir,
            library_variables: dotenv.library_variables,
        }
    }
}

/// What one of the upper layers holds.
#[derive(Debug, Default)]
struct Layer {
    given: Vec<Given>,
    /// `SPOKEN_PROFILE` and `SPOKEN_CONFIG_DIR`, which choose the lower layers, with their origins.
    selectors: BTreeMap<&'static str, (String, String)>,
    library_variables: Vec<(String, String)>,
}

struct Reader<'a> {
    inputs: &'a Inputs,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn check(
        &mut self,
        key: &'static Key,
        written: &str,
        text: &str,
        directory: &Path,
        origin: Provenance,
    ) -> Option<Given> {
        let base = Base { directory, home: self.inputs.home.as_deref() };
        match key.check(text, base) {
            Ok(value) => Some(Given { key, value, origin }),
            Err(message) => {
                // `IO_WORKERS in the environment` begins with what the problem is headed by already.
                let place = origin.from.strip_prefix(written).map_or(origin.from.as_str(), str::trim_start);
                let mut problem = Problem::new(written, message).origin(place);
                if key.may_repeat(text) {
                    problem = problem.value(text);
                }
                self.problems.push(problem);
                None
            }
        }
    }

    // ---- .env --------------------------------------------------------------------------------------------

    fn dotenv(&mut self) -> Layer {
        let path = self.inputs.cwd.join(".env");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Layer::default(),
            Err(error) => {
                self.problems.push(Problem::new("", reading_failed(&error)).origin(".env"));
                return Layer::default();
            }
        };
        let (assignments, malformed) = dotenv::parse(&text);
        for line in malformed {
            let origin = format!(".env:{}", line.line);
            self.problems.push(Problem::new(line.name, line.message).origin(origin));
        }
        let mut layer = Layer::default();
        let mut lines = BTreeMap::new();
        for assignment in &assignments {
            let origin = format!(".env:{}", assignment.line);
            if let Some(first) = lines.insert(&assignment.name, assignment.line) {
                let message = format!("is set a second time, after line {first}");
                self.problems.push(Problem::new(&assignment.name, message).origin(origin));
                continue;
            }
            self.variable(&mut layer, "dotenv", &assignment.name, &assignment.value, origin.clone());
            let known = Name::find(&assignment.name).is_some();
            if is_for_libraries(&assignment.name) {
                if !self.inputs.environment.iter().any(|(name, _)| *name == *assignment.name) {
                    layer.library_variables.push((assignment.name.clone(), assignment.value.clone()));
                }
            } else if !known {
                self.problems.push(unknown(&assignment.name, Spelling::Environment).origin(origin));
            }
        }
        layer
    }

    // ---- environment -------------------------------------------------------------------------------------

    fn environment(&mut self) -> Layer {
        let mut layer = Layer::default();
        let inputs = self.inputs;
        // Sorted, so that messages have an order; and the prefixed name comes to stand after the plain one.
        let mut variables: Vec<(Cow<'_, str>, &OsStr)> = inputs
            .environment
            .iter()
            .map(|(name, value)| (name.to_string_lossy(), value.as_os_str()))
            .collect();
        variables.sort_by(|a, b| (a.0.starts_with("SPOKEN_"), &a.0).cmp(&(b.0.starts_with("SPOKEN_"), &b.0)));
        for (name, value) in variables {
            let origin = format!("{name} in the environment");
            match value.to_str() {
                Some(value) => self.variable(&mut layer, "environment", &name, value, origin.clone()),
                None if Name::find(&name).is_some() => {
                    self.problems.push(Problem::new(&*name, "is not UTF-8").origin("the environment"));
                }
                None => {}
            }
            if Name::find(&name).is_none() && looks_like_ours(&name) {
                self.problems.push(unknown(&name, Spelling::Environment).origin("in the environment"));
            }
        }
        layer
    }

    /// Takes one variable into `layer`, if it is one of ours.
    fn variable(&mut self, layer: &mut Layer, kind: &'static str, name: &str, value: &str, origin: String) {
        if name == "RUST_LOG" {
            return self.rust_log(layer, kind, value, origin);
        }
        let Some(known) = Name::find(name) else { return };
        match known {
            Name::Selector(selector) => {
                if !value.trim().is_empty() {
                    layer.selectors.insert(selector, (value.trim().to_owned(), origin));
                }
            }
            Name::Key(key) => {
                // `NAME=` is how a variable is unset in a file that is a list of variables.
                if value.trim().is_empty() && !key.optional {
                    return;
                }
                // The prefixed name exists so that somebody else's variable can be overruled, whatever it holds.
                let prefixed = format!("SPOKEN_{}", key.name.to_uppercase());
                let overruled = kind == "environment"
                    && name != prefixed
                    && self.inputs.environment.iter().any(|(other, _)| *other == *prefixed);
                if !overruled {
                    let directory = self.inputs.cwd.clone();
                    let origin = Provenance { layer: kind, from: origin };
                    layer.given.extend(self.check(key, name, value, &directory, origin));
                }
            }
        }
    }

    /// Every Rust program reads `RUST_LOG`; here it is `log_level`, unless `LOG_LEVEL` is set beside it. One that
    /// cannot be read was meant for somebody else.
    fn rust_log(&mut self, layer: &mut Layer, kind: &'static str, value: &str, origin: String) {
        let readable =
            !value.trim().is_empty() && tracing_subscriber::EnvFilter::builder().parse(value).is_ok();
        let Some(key) = Key::find("log_level").filter(|_| readable) else { return };
        let value = Value::from(value.trim());
        layer.given.insert(0, Given { key, value, origin: Provenance { layer: kind, from: origin } });
    }

    // ---- flags -------------------------------------------------------------------------------------------

    fn flags(&mut self) -> Layer {
        let mut layer = Layer::default();
        for Override { key: written, value, flag } in &self.inputs.overrides {
            let name = written.to_ascii_lowercase().replace('-', "_");
            let selector = match name.as_str() {
                "profile" | "spoken_profile" => Some(PROFILE),
                "config_dir" | "spoken_config_dir" => Some(CONFIG_DIR),
                _ => None,
            };
            if let Some(selector) = selector {
                layer.selectors.insert(selector, (value.trim().to_owned(), flag.clone()));
            } else if let Some(key) = Key::find(written) {
                let directory = self.inputs.cwd.clone();
                let origin = Provenance { layer: "flag", from: flag.clone() };
                layer.given.extend(self.check(key, written, value, &directory, origin));
            } else {
                self.problems.push(unknown(written, Spelling::File).origin(flag.clone()));
            }
        }
        layer
    }
}

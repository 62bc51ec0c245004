//! The lower layers: `default.toml` and the profile.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::names::{CONFIG_DIR, Spelling, unknown};
use super::{Given, Reader};
use crate::config::Provenance;
use crate::config::keys::{Base, KEYS};
use crate::config::problem::{Problem, nearest};

/// Profiles that need no file.
pub const BUILT_IN_PROFILES: &[(&str, &str)] =
    &[("gpu", include_str!("../../../config/gpu.toml")), ("cpu", include_str!("../../../config/cpu.toml"))];

impl Reader<'_> {
    pub(super) fn config_dir(&mut self, chosen: Option<(String, String)>) -> Option<PathBuf> {
        if let Some((text, origin)) = chosen {
            let base = Base { directory: &self.inputs.cwd, home: self.inputs.home.as_deref() };
            match base.resolve(&text).map(PathBuf::from) {
                Ok(directory) if directory.is_dir() => return Some(directory),
                Ok(_) => {
                    self.problems
                        .push(Problem::new(CONFIG_DIR, "is no directory").value(text).origin(origin));
                }
                Err(message) => {
                    self.problems.push(Problem::new(CONFIG_DIR, message).value(text).origin(origin));
                }
            }
            return None;
        }
        let here = self.inputs.cwd.join("config");
        if here.join("default.toml").is_file() {
            return Some(here);
        }
        let home = self.inputs.home.as_ref().map(|home| home.join(".config/spoken"));
        home.into_iter().chain([PathBuf::from("/etc/spoken")]).find(|directory| directory.is_dir())
    }

    pub(super) fn optional_file(&mut self, path: &Path, layer: &'static str) -> Vec<Given> {
        match fs::read_to_string(path) {
            Ok(text) => self.toml(&text, &self.shown(path), path.parent().unwrap_or(path), layer),
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                self.problems.push(Problem::new("", reading_failed(&error)).origin(self.shown(path)));
                Vec::new()
            }
        }
    }

    pub(super) fn profile(&mut self, name: &str, origin: &str, config_dir: Option<&Path>) -> Vec<Given> {
        let complain = |message: String| Problem::new("profile", message).value(name).origin(origin);
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
            self.problems.push(complain("must be a word of letters, digits, - and _".into()));
            return Vec::new();
        }
        let file =
            config_dir.map(|directory| directory.join(format!("{name}.toml"))).filter(|path| path.is_file());
        if let Some(path) = file {
            return self.optional_file(&path, "profile");
        }
        if let Some((_, text)) = BUILT_IN_PROFILES.iter().find(|(known, _)| *known == name) {
            return self.toml(text, &format!("built-in profile {name}"), &self.inputs.cwd.clone(), "profile");
        }
        let known = self.profiles_known(config_dir);
        let hint = nearest(name, known.iter().map(String::as_str))
            .map(|known| format!("; did you mean {known}?"))
            .unwrap_or_default();
        let place = match config_dir {
            Some(directory) => format!("a file {}", self.shown(&directory.join(format!("{name}.toml")))),
            None => "a configuration directory (SPOKEN_CONFIG_DIR)".to_owned(),
        };
        self.problems.push(complain(format!(
            "there is no such profile: use {}, or make {place}{hint}",
            known.join(", ")
        )));
        Vec::new()
    }

    fn profiles_known(&self, config_dir: Option<&Path>) -> Vec<String> {
        let mut known: Vec<String> = BUILT_IN_PROFILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        let files =
            config_dir.and_then(|directory| fs::read_dir(directory).ok()).into_iter().flatten().flatten();
        for path in files.map(|file| file.path()).filter(|path| path.extension() == Some(OsStr::new("toml")))
        {
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            if stem != "default" && !known.contains(&stem) {
                known.push(stem);
            }
        }
        known.sort();
        known
    }

    fn toml(&mut self, text: &str, name: &str, directory: &Path, layer: &'static str) -> Vec<Given> {
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut told = Vec::new();
        for error in &errors {
            let line = error.span().map(|span| format!(":{}", line_of(span.start))).unwrap_or_default();
            // Further errors on a line are mostly the first one's echo.
            if told.contains(&line) {
                continue;
            }
            let message = format!("not TOML: {}", error.message().replace('\n', ", "));
            self.problems.push(Problem::new("", message).origin(format!("{name}{line}")));
            told.push(line);
        }
        if !errors.is_empty() {
            // What was recovered around a syntax error may not be what was meant.
            return Vec::new();
        }
        let mut entries: Vec<_> = table.into_inner().into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut given = Vec::new();
        for (written, value) in entries {
            let origin = Provenance { layer, from: format!("{name}:{}", line_of(written.span().start)) };
            let written: &str = written.get_ref();
            if let DeValue::Table(inner) = value.get_ref() {
                let inside: Vec<&str> = inner.keys().map(|key| &**key.get_ref()).collect();
                self.problems.push(table_for_key(written, &inside).origin(origin.from));
                continue;
            }
            let Some(key) = KEYS.iter().find(|key| key.name == written) else {
                self.problems.push(unknown(written, Spelling::File).origin(origin.from));
                continue;
            };
            let list = value.get_ref().as_array().filter(|_| key.is_list());
            let text = match list {
                Some(list) => list.iter().map(|one| plain_text(one.get_ref())).collect::<Option<Vec<_>>>(),
                None => plain_text(value.get_ref()).map(|one| vec![one]),
            };
            match text.map(|text| text.join(",")) {
                Some(text) => given.extend(self.check(key, written, &text, directory, origin)),
                None => {
                    let message = format!("must be {}, not {}", key.allowed(), value.get_ref().type_str());
                    self.problems.push(Problem::new(written, message).origin(origin.from));
                }
            }
        }
        given
    }

    /// A path as short as it can be said.
    fn shown(&self, path: &Path) -> String {
        if let Ok(below) = path.strip_prefix(&self.inputs.cwd) {
            return below.display().to_string();
        }
        match self.inputs.home.as_ref().and_then(|home| path.strip_prefix(home).ok()) {
            Some(below) => format!("~/{}", below.display()),
            None => path.display().to_string(),
        }
    }
}

/// The text of a TOML value that is one value.
fn plain_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
        }
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(yes) => Some(yes.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

pub(super) fn reading_failed(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::InvalidData => "cannot be read: it is not UTF-8".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

fn table_for_key(written: &str, inside: &[&str]) -> Problem {
    let flat = inside.iter().find_map(|inner| {
        let joined = format!("{written}_{inner}");
        KEYS.iter().find(|key| key.name == joined || key.name == *inner)
    });
    let example =
        flat.map(|key| format!(": write {} = … at the top of the file", key.name)).unwrap_or_default();
    Problem::new(format!("[{written}]"), format!("there are no sections, keys are flat{example}"))
}

//! Reading the layers: files, `.env`, environment and flags become checked values that know where they stood.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};
use toml::de::{DeTable, DeValue};

use super::keys::{Base, KEYS, Key};
use super::problem::{Problem, nearest};
use super::{Inputs, Override, Provenance, dotenv};

/// Profiles that need no file.
pub const BUILT_IN_PROFILES: &[(&str, &str)] =
    &[("gpu", include_str!("../../config/gpu.toml")), ("cpu", include_str!("../../config/cpu.toml"))];

const PROFILE: &str = "SPOKEN_PROFILE";
const CONFIG_DIR: &str = "SPOKEN_CONFIG_DIR";

/// Beginnings of names that are this program's in the environment: one that is not known is a mistake.
const OUR_PREFIXES: &[&str] = &["WHISPER_", "SPOKEN_", "VAD_", "EMBEDDING_", "INGESTION_", "YTDLP_"];

/// Names and beginnings of names under `SPOKEN_` that belong to the scripts and tests of the repository.
const SCRIPT_NAMES: &[&str] =
    &["SPOKEN_PYTHON", "SPOKEN_SKIP_PACKAGES", "SPOKEN_TEST_", "SPOKEN_BENCH_", "SPOKEN_SETUP_"];

/// Keys whose misspellings are looked for in the environment. The others (`DATABASE_URL`, `LOG_LEVEL`,
/// `BEAM_SIZE`) have too many honest neighbours there: `DATABASE_URI`, `LOGLEVEL`, `TEAM_SIZE`.
const DISTINCTIVE: &[&str] = &[
    "WHISPER_",
    "ASR_",
    "IO_WORKERS",
    "DB_WORKERS",
    "EMBEDDING_",
    "INGESTION_",
    "VAD_",
    "SPOKEN_",
    "YTDLP_",
];

/// Names in `.env` that are meant for libraries and tools, and are passed on to them. Keep in step with the comment at the end of `.env.example`.
const LIBRARY_NAMES: &[&str] = &[
    "ORT_",
    "HF_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "CUDA_",
    "CT2_",
    "OMP_",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NO_COLOR",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "PGSSLROOTCERT",
    "PGPASSFILE",
    "PGPASSWORD",
    "TMPDIR",
    "TZ",
];

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

/// A written name, in the environment or `.env`.
enum Name {
    Key(&'static Key),
    Selector(&'static str),
}

impl Name {
    fn find(name: &str) -> Option<Self> {
        if let Some(selector) = [PROFILE, CONFIG_DIR].into_iter().find(|selector| *selector == name) {
            return Some(Self::Selector(selector));
        }
        let prefixed =
            |key: &&Key| name.strip_prefix("SPOKEN_").is_some_and(|rest| rest == key.name.to_uppercase());
        KEYS.iter().find(|key| key.env == name).or_else(|| KEYS.iter().find(prefixed)).map(Self::Key)
    }
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
                let mut problem = Problem::new(written, message).origin(origin.from);
                if !key.is_secret() {
                    problem = problem.value(text);
                }
                self.problems.push(problem);
                None
            }
        }
    }

    // ---- files -------------------------------------------------------------------------------------------

    fn config_dir(&mut self, chosen: Option<(String, String)>) -> Option<PathBuf> {
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

    fn optional_file(&mut self, path: &Path, layer: &'static str) -> Vec<Given> {
        match fs::read_to_string(path) {
            Ok(text) => self.toml(&text, &self.shown(path), path.parent().unwrap_or(path), layer),
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                self.problems.push(Problem::new("", reading_failed(&error)).origin(self.shown(path)));
                Vec::new()
            }
        }
    }

    fn profile(&mut self, name: &str, origin: &str, config_dir: Option<&Path>) -> Vec<Given> {
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
            match plain_text(value.get_ref()) {
                Some(text) => given.extend(self.check(key, written, &text, directory, origin)),
                None => {
                    let message = format!("must be {}, not {}", key.allowed(), value.get_ref().type_str());
                    self.problems.push(Problem::new(written, message).origin(origin.from));
                }
            }
        }
        given
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
                    let shown =
                        if kind == "environment" { "in the environment".to_owned() } else { origin.clone() };
                    let before = self.problems.len();
                    let given =
                        self.check(key, name, value, &directory, Provenance { layer: kind, from: origin });
                    layer.given.extend(given);
                    for problem in &mut self.problems[before..] {
                        problem.origin = Some(shown.clone());
                    }
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

fn reading_failed(error: &std::io::Error) -> String {
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

/// How keys are spelled where an unknown one stood.
#[derive(Clone, Copy, PartialEq)]
enum Spelling {
    File,
    Environment,
}

fn unknown(written: &str, spelling: Spelling) -> Problem {
    let selectors = [("profile", PROFILE), ("config_dir", CONFIG_DIR)];
    if spelling == Spelling::File
        && let Some((_, name)) = selectors.iter().find(|(key, name)| *key == written || *name == written)
    {
        return Problem::new(
            written,
            format!("cannot be set in a file of the configuration: use {name} or a flag"),
        );
    }
    let name = |key: &Key| if spelling == Spelling::File { key.name } else { key.env };
    // The right key in the other spelling (IO_WORKERS in a TOML file, LANGUAGE in .env) is nearest of all.
    let meant = Key::find(written).map(name).or_else(|| {
        let candidates = KEYS.iter().map(name);
        let selectors = selectors.iter().map(|(_, name)| *name).filter(|_| spelling == Spelling::Environment);
        nearest(written, candidates.chain(selectors))
    });
    Problem::new(
        written,
        match meant {
            Some(meant) => format!("unknown key; did you mean {meant}?"),
            None => "unknown key; `spoken config` lists all of them".to_owned(),
        },
    )
}

fn is_for_libraries(name: &str) -> bool {
    listed(LIBRARY_NAMES, &name.to_ascii_uppercase())
}

/// True for a name on the list; one that ends in `_` stands for all that begin so.
fn listed(list: &[&str], name: &str) -> bool {
    list.iter().any(|known| if known.ends_with('_') { name.starts_with(known) } else { name == *known })
}

/// True for a name in the environment that is no key but was surely meant for this program.
fn looks_like_ours(name: &str) -> bool {
    if listed(SCRIPT_NAMES, name) {
        return false;
    }
    if OUR_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return true;
    }
    let distinctive = |key: &&Key| DISTINCTIVE.iter().any(|start| key.env.starts_with(start));
    KEYS.iter().filter(distinctive).map(|key| key.env).chain([PROFILE, CONFIG_DIR]).any(|known| {
        // One slip in a short name, two in a long one; the first letter is rarely the slip, and `WEB_WORKERS` and
        // `UI_WORKERS` are other people's.
        let slips = if known.len() > 11 { 2 } else { 1 };
        name.as_bytes().first() == known.as_bytes().first()
            && strsim::damerau_levenshtein(name, known) <= slips
    })
}

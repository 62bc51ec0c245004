//! Names in the environment and in `.env`: whose is this one, and which was meant?

use crate::config::keys::{KEYS, Key};
use crate::config::problem::{Problem, nearest};

pub(super) const PROFILE: &str = "SPOKEN_PROFILE";
pub(super) const CONFIG_DIR: &str = "SPOKEN_CONFIG_DIR";

/// Beginnings of names that are this program's in the environment: one that is not known is a mistake.
const OUR_PREFIXES: &[&str] =
    &["WHISPER_", "SPOKEN_", "VAD_", "EMBEDDING_", "INGESTION_", "YTDLP_", "HANDOVER_"];

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

/// Names in `.env` that are meant for libraries and tools, and are passed on to them. Keep in step with the
/// comment at the end of `.env.example`.
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
    "AWS_",
    "GOOGLE_",
    "AZURE_",
];

/// A written name, in the environment or `.env`.
pub(super) enum Name {
    Key(&'static Key),
    Selector(&'static str),
}

impl Name {
    pub(super) fn find(name: &str) -> Option<Self> {
        if let Some(selector) = [PROFILE, CONFIG_DIR].into_iter().find(|selector| *selector == name) {
            return Some(Self::Selector(selector));
        }
        let prefixed =
            |key: &&Key| name.strip_prefix("SPOKEN_").is_some_and(|rest| rest == key.name.to_uppercase());
        KEYS.iter().find(|key| key.env == name).or_else(|| KEYS.iter().find(prefixed)).map(Self::Key)
    }
}

/// How keys are spelled where an unknown one stood.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Spelling {
    File,
    Environment,
}

pub(super) fn unknown(written: &str, spelling: Spelling) -> Problem {
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

pub(super) fn is_for_libraries(name: &str) -> bool {
    listed(LIBRARY_NAMES, &name.to_ascii_uppercase())
}

/// True for a name on the list; one that ends in `_` stands for all that begin so.
fn listed(list: &[&str], name: &str) -> bool {
    list.iter().any(|known| if known.ends_with('_') { name.starts_with(known) } else { name == *known })
}

/// True for a name in the environment that is no key but was surely meant for this program.
pub(super) fn looks_like_ours(name: &str) -> bool {
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

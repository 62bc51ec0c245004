//! Running yt-dlp: which options it gets, how its process group is kept on a leash, and what its errors mean.
//!
//! A tool, not a step: [`crate::source`] lists pages with it, [`crate::fetch`] downloads with it. yt-dlp is an outside
//! program that talks to hostile servers: it gets no configuration files, plugins, remote components or shell, an
//! environment without our secrets, a [`Gate`] that its connections have to go through, and its output is read as JSON
//! lines only.

mod classify;
mod process;

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use url::Url;
use uuid::Uuid;

pub use classify::classify;
pub use process::{End, Leash, Line};

use crate::media::{Failure, FailureClass};
use crate::web::{self, Gate, Net};

/// The oldest version that is known to work with the options used here.
const OLDEST: &str = "2025.11.12";

/// Where yt-dlp and its helpers are, and how it may use the network.
#[derive(Clone, Debug)]
pub struct YtDlpOptions {
    /// The program.
    pub program: PathBuf,
    /// The JavaScript runtime that YouTube needs (`deno`, `node`, `bun` or `qjs`, by its file name); without one yt-dlp looks
    /// for `deno` in PATH.
    pub js_runtime: Option<PathBuf>,
    /// ffmpeg, or the folder it is in; without it yt-dlp looks in PATH.
    pub ffmpeg: Option<PathBuf>,
    /// Cookies in Netscape format. Each run gets a private copy, since yt-dlp writes back to the file it is given.
    pub cookies: Option<PathBuf>,
    /// Where yt-dlp keeps what it may use again (YouTube's player code); without it nothing is kept.
    pub cache_dir: Option<PathBuf>,
    /// What its connections may reach, and at what pace.
    pub net: Net,
    /// How long one connection may bring nothing. A run of yt-dlp that shows no sign of life for eight times as long
    /// is killed.
    pub network_timeout: Duration,
}

impl YtDlpOptions {
    /// The programs of a tools directory (`python/bin/yt-dlp`, `python/bin/deno`), or those in PATH where it has none.
    pub fn in_tools(tools_dir: &Path) -> Self {
        let bin = tools_dir.join("python/bin");
        let own = |name: &str| Some(bin.join(name)).filter(|p| p.is_file());
        Self {
            program: own("yt-dlp").unwrap_or_else(|| PathBuf::from("yt-dlp")),
            js_runtime: own("deno"),
            ffmpeg: None,
            cookies: None,
            cache_dir: None,
            net: Net::default(),
            network_timeout: Duration::from_secs(30),
        }
    }
}

/// What [`YtDlp::preflight`] found. Each failure carries what to do.
#[derive(Clone, Debug)]
pub struct Preflight {
    /// yt-dlp's version (`2026.01.31`).
    pub ytdlp: Result<String, Failure>,
    /// The JavaScript runtime's name and version (`deno 2.5.6`). Only YouTube (and a few other sites) need one.
    pub js_runtime: Result<String, Failure>,
}

/// yt-dlp, ready to run.
#[derive(Clone, Debug)]
pub struct YtDlp {
    options: YtDlpOptions,
}

impl YtDlp {
    /// yt-dlp with `options`; nothing is run yet.
    pub fn new(mut options: YtDlpOptions) -> Self {
        // It runs in another folder. A bare name is looked for in PATH, and stays.
        let fix = |path: &mut PathBuf| {
            if path.components().count() > 1
                && let Ok(absolute) = std::path::absolute(&*path)
            {
                *path = absolute;
            }
        };
        fix(&mut options.program);
        options.js_runtime.iter_mut().for_each(fix);
        options.ffmpeg.iter_mut().for_each(fix);
        options.cache_dir.iter_mut().for_each(fix);
        Self { options }
    }

    /// The options it was made with.
    pub fn options(&self) -> &YtDlpOptions {
        &self.options
    }

    /// How long a run may show no sign of life.
    pub fn silence(&self) -> Duration {
        self.options.network_timeout * 8
    }

    /// Starts yt-dlp on `address` in the existing folder `folder`, with `arguments` added to the ones every run gets. The
    /// cookies' private copy, if any, is made in that folder. Its requests are made for the sake of `permit`, if any, and
    /// bring at most `max_bytes` in all.
    ///
    /// # Errors
    /// [`FailureClass::Refused`] for an address that may not be reached; [`FailureClass::Setup`] when yt-dlp cannot be
    /// started or the cookies cannot be read.
    pub fn start(
        &self,
        arguments: &[OsString],
        address: &Url,
        folder: &Path,
        permit: Option<Uuid>,
        max_bytes: u64,
    ) -> Result<Leash, Failure> {
        self.options.net.guard.check_url(address).map_err(|blocked| blocked.failure())?;
        let gate = self.gate(permit, max_bytes)?;
        let cookies = match &self.options.cookies {
            Some(original) => Some(process::PrivateCopy::of(original, folder)?),
            None => None,
        };
        let mut all = self.common_arguments();
        if let Some(copy) = &cookies {
            all.push("--cookies".into());
            all.push(copy.path().into());
        }
        all.extend_from_slice(arguments);
        // Nothing after `--` is an option, whatever it starts with.
        all.push("--".into());
        all.push(address.as_str().into());
        let environment = self.kept_environment(gate.as_ref());
        let mut leash = Leash::start(&self.options.program, &all, cookies, &environment, folder)
            .map_err(|e| self.cannot_start(&e.to_string()))?;
        leash.gate = gate.map(Arc::new);
        Ok(leash)
    }

    /// The gate of a run; none where the operator has a proxy, which then decides what may be reached.
    fn gate(&self, permit: Option<Uuid>, max_bytes: u64) -> Result<Option<Gate>, Failure> {
        if !web::guard::proxy_hosts().is_empty() {
            return Ok(None);
        }
        // yt-dlp gives a silent connection up after its timeout; a turn must come before that.
        let patience = (self.options.network_timeout / 2).min(Duration::from_secs(20));
        Gate::open(&self.options.net, permit, patience, max_bytes).map(Some).map_err(|e| {
            Failure::new(
                FailureClass::Setup,
                format!("failed to open a port on this machine for yt-dlp: {e}"),
            )
        })
    }

    fn common_arguments(&self) -> Vec<OsString> {
        let timeout = self.options.network_timeout.as_secs().max(1).to_string();
        let mut arguments: Vec<OsString> = [
            "--ignore-config",
            "--no-plugin-dirs",
            "--no-remote-components",
            "--no-exec",
            "--no-update",
            "--default-search",
            "error",
            "--no-cookies-from-browser",
            "--color",
            "never",
            "--quiet",
            "--socket-timeout",
            &timeout,
        ]
        .map(OsString::from)
        .to_vec();
        match &self.options.cache_dir {
            Some(dir) => arguments.extend(["--cache-dir".into(), dir.into()]),
            None => arguments.push("--no-cache-dir".into()),
        }
        if let Some(path) = &self.options.js_runtime {
            let mut runtime = OsString::from(runtime_name(path));
            runtime.push(":");
            runtime.push(path);
            arguments.extend(["--no-js-runtimes".into(), "--js-runtimes".into(), runtime]);
        }
        if let Some(path) = &self.options.ffmpeg {
            arguments.extend(["--ffmpeg-location".into(), path.into()]);
        }
        arguments
    }

    /// The environment yt-dlp gets: what programs need to run and to reach the network, nothing of ours.
    fn kept_environment(&self, gate: Option<&Gate>) -> Vec<(OsString, OsString)> {
        const KEPT: &[&str] = &[
            "PATH",
            "HOME",
            "USER",
            "LANG",
            "LC_ALL",
            "LC_CTYPE",
            "TZ",
            "TMPDIR",
            "XDG_CACHE_HOME",
            "LD_LIBRARY_PATH",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
        ];
        const PROXIES: &[&str] = &["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
        let mut kept: Vec<(OsString, OsString)> = std::env::vars_os()
            .filter(|(name, _)| {
                name.to_str()
                    .is_some_and(|n| KEPT.contains(&n) || PROXIES.contains(&n.to_ascii_lowercase().as_str()))
            })
            .collect();
        if let Some(gate) = gate {
            // In the environment, which only its owner can read, and not among the arguments, which everybody can. `all` is
            // for the schemes that no proxy carries (ftp, ws, …): they fail instead of passing by. Nothing is exempt.
            kept.retain(|(name, _)| !name.to_string_lossy().to_ascii_lowercase().ends_with("_proxy"));
            let address = gate.address();
            for name in ["http_proxy", "https_proxy", "all_proxy", "ftp_proxy"] {
                kept.push((name.into(), address.clone().into()));
            }
        }
        kept.push(("PYTHONNOUSERSITE".into(), "1".into()));
        kept.push(("PYTHONIOENCODING".into(), "utf-8".into()));
        kept.push(("DENO_NO_UPDATE_CHECK".into(), "1".into()));
        kept
    }

    /// What yt-dlp's exit code and last lines of standard error mean ([`classify`]), with the command that updates it
    /// where a newer one may do.
    pub fn failure(&self, exit_code: Option<i32>, errors: &[String]) -> Failure {
        let mut failure = classify(exit_code, errors);
        let python = self.options.program.with_file_name("python");
        if failure.remedy.as_deref() == Some(classify::UPDATE) && python.is_file() {
            failure.remedy = Some(format!(
                "sites change, and yt-dlp with them: update it with {} -m pip install --upgrade 'yt-dlp[default]', then run \
                 `spoken retry`",
                python.display()
            ));
        }
        failure
    }

    fn cannot_start(&self, why: &str) -> Failure {
        Failure::new(
            FailureClass::Setup,
            format!("failed to run yt-dlp ({}): {why}", self.options.program.display()),
        )
        .with_remedy(INSTALL)
    }

    /// Asks yt-dlp and the JavaScript runtime for their versions.
    pub async fn preflight(&self) -> Preflight {
        let (ytdlp, js_runtime) = tokio::join!(self.own_version(), self.runtime_version());
        Preflight { ytdlp, js_runtime }
    }

    async fn own_version(&self) -> Result<String, Failure> {
        let said = first_line(&self.options.program, &["--ignore-config", "--no-plugin-dirs", "--version"])
            .await
            .map_err(|why| self.cannot_start(&why))?;
        // Versions are dates, `2026.01.31`, so they compare as text.
        if !said.starts_with("20") || said.as_str() < OLDEST {
            return Err(Failure::new(
                FailureClass::Setup,
                format!("yt-dlp {said} is too old, {OLDEST} is needed"),
            )
            .with_remedy(INSTALL));
        }
        Ok(said)
    }

    async fn runtime_version(&self) -> Result<String, Failure> {
        let program = self.options.js_runtime.clone().unwrap_or_else(|| PathBuf::from("deno"));
        let name = runtime_name(&program);
        let said = first_line(&program, &["--version"]).await.map_err(|why| {
            Failure::new(
                FailureClass::Setup,
                format!("no JavaScript runtime for yt-dlp ({}): {why}", program.display()),
            )
            .with_remedy("run ./scripts/setup, it installs one; until then YouTube will not work")
        })?;
        let version = said
            .split_whitespace()
            .find(|w| w.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()));
        Ok(format!("{name} {}", version.unwrap_or(&said).trim_start_matches('v')))
    }
}

const INSTALL: &str =
    "run ./scripts/setup, it installs yt-dlp; or set SPOKEN_TOOLS_DIR to a folder that has python/bin/yt-dlp";

/// yt-dlp's name for a runtime, from the program's file name.
fn runtime_name(program: &Path) -> &'static str {
    match program.file_stem().and_then(OsStr::to_str).unwrap_or_default() {
        "node" | "nodejs" => "node",
        "bun" => "bun",
        "qjs" | "quickjs" => "quickjs",
        _ => "deno",
    }
}

/// First line that `program` prints, or why there is none.
async fn first_line(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(Duration::from_secs(60), command.output()).await {
        Ok(output) => output.map_err(|e| e.to_string())?,
        Err(_) => return Err("no answer within 60 s".to_owned()),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next().map(str::trim).filter(|l| !l.is_empty() && output.status.success()) {
        Some(line) => Ok(line.chars().take(80).collect()),
        None => Err(format!("it ended with {}", output.status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_by_file_name() {
        assert_eq!(runtime_name(Path::new("/t/python/bin/deno")), "deno");
        assert_eq!(runtime_name(Path::new("node")), "node");
        assert_eq!(runtime_name(Path::new("/usr/bin/qjs")), "quickjs");
    }

    #[tokio::test]
    async fn a_missing_program_is_a_setup_failure_with_a_remedy() {
        let mut options = YtDlpOptions::in_tools(Path::new("/nonexistent"));
        options.program = "/nonexistent/yt-dlp".into();
        options.js_runtime = Some("/nonexistent/deno".into());
        let found = YtDlp::new(options).preflight().await;
        for failure in [found.ytdlp.unwrap_err(), found.js_runtime.unwrap_err()] {
            assert_eq!(failure.class, FailureClass::Setup);
            assert!(failure.message.contains("/nonexistent/"), "{failure}");
            assert!(failure.remedy.is_some());
        }
    }
}

//! Programs and libraries that the set-up or the system installs.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{Check, RUN_SETUP, version};

/// Sites change every few weeks, and yt-dlp with them.
const OLD_AFTER_DAYS: i64 = 60;

/// How long a program may take to tell its version: a cold Python on a busy machine needs some seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The oldest ONNX Runtime that the embedder's bindings accept: fastembed asks `ort` for its API 24.
const ONNX_REQUIRED: (u64, u64, u64) = (1, 24, 0);

pub(super) fn yt_dlp(tools_dir: &Path, now: DateTime<Utc>) -> Check {
    const NAME: &str = "yt-dlp";
    const WITHOUT: &str = "only local files and direct addresses of media can be brought in";
    let program = tools_dir.join("python/bin/yt-dlp");
    let version = match first_line(&program, ["--version"]) {
        Ok(version) => version,
        Err(error) => return Check::fail(NAME, format!("{error}: {WITHOUT}"), RUN_SETUP),
    };
    if !has_python_package(tools_dir, "yt_dlp_ejs") {
        return Check::warn(
            NAME,
            format!("{version}, without its package yt-dlp-ejs: YouTube's formats may be missing"),
            RUN_SETUP,
        );
    }
    match released(&version).map(|day| (now.date_naive() - day).num_days()) {
        Some(days) if days > OLD_AFTER_DAYS => Check::warn(
            NAME,
            format!("{version}, {days} days old"),
            format!(
                "sites change often: if downloads fail, update it with {} -m pip install --upgrade 'yt-dlp[default]'",
                tools_dir.join("python/bin/python").display()
            ),
        ),
        Some(days) => Check::ok(NAME, format!("{version}, {} days old", days.max(0))),
        None => Check::ok(NAME, version),
    }
}

/// The day in a version such as `2025.10.22` or `2025.10.22.232956`.
fn released(version: &str) -> Option<NaiveDate> {
    let mut parts = version.split('.').map(str::parse::<u32>);
    let (year, month, day) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)
}

fn has_python_package(tools_dir: &Path, package: &str) -> bool {
    let libraries = std::fs::read_dir(tools_dir.join("python/lib")).into_iter().flatten().flatten();
    libraries.into_iter().any(|python| python.path().join("site-packages").join(package).is_dir())
}

pub(super) fn javascript(tools_dir: &Path) -> Check {
    const NAME: &str = "JavaScript runtime";
    match first_line(&tools_dir.join("python/bin/deno"), ["--version"]) {
        Ok(line) => Check::ok(NAME, line),
        Err(error) => {
            Check::fail(NAME, format!("{error}: yt-dlp cannot read YouTube without one"), RUN_SETUP)
        }
    }
}

pub(super) fn ffmpeg_libraries() -> Check {
    // FFmpeg packs its libraries' versions as major << 16 | minor << 8 | micro (AV_VERSION_INT).
    let shown = |packed: u32| format!("{}.{}.{}", packed >> 16, (packed >> 8) & 0xff, packed & 0xff);
    let detail = format!(
        "libavformat {}, libavcodec {}, libavutil {}",
        shown(ffmpeg_next::format::version()),
        shown(ffmpeg_next::codec::version()),
        shown(ffmpeg_next::util::version())
    );
    // The program would not have started without them.
    Check::ok("ffmpeg libraries", detail)
}

pub(super) fn ffmpeg_program() -> Check {
    const NAME: &str = "ffmpeg program";
    match first_line(Path::new("ffmpeg"), ["-hide_banner", "-version"]) {
        Ok(line) => {
            let version = line.strip_prefix("ffmpeg version ").and_then(|rest| rest.split(' ').next());
            Check::ok(NAME, version.unwrap_or(&line).to_owned())
        }
        Err(error) => Check::warn(
            NAME,
            format!("{error}: yt-dlp needs it for media that come in pieces"),
            "install the package ffmpeg",
        ),
    }
}

pub(super) fn onnx_runtime(chosen: Option<&Path>, tools_dir: &Path) -> Check {
    const NAME: &str = "ONNX Runtime";
    let path = chosen.map_or_else(|| tools_dir.join("lib/libonnxruntime.so"), Path::to_path_buf);
    let advice = if chosen.is_some() {
        "set ORT_DYLIB_PATH to a libonnxruntime.so, or leave it out to use the one that ./scripts/setup installs"
    } else {
        RUN_SETUP
    };
    let file = match path.canonicalize() {
        Ok(file) if file.is_file() => file,
        Ok(_) => {
            return Check::fail(
                NAME,
                format!("{} is no file: nothing can be embedded", path.display()),
                advice,
            );
        }
        Err(error) => {
            return Check::fail(
                NAME,
                format!("{}: {error}: nothing can be embedded", path.display()),
                advice,
            );
        }
    };
    // The library's own file carries its version, the link that programs open does not.
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match name.split_once(".so.").and_then(|(_, text)| Some((text, version(text)?))) {
        Some((text, found)) if found < ONNX_REQUIRED => {
            let (major, minor, _) = ONNX_REQUIRED;
            Check::fail(
                NAME,
                format!("{text} is too old, {major}.{minor} is needed ({})", path.display()),
                advice,
            )
        }
        Some((text, _)) => Check::ok(NAME, format!("{text} ({})", path.display())),
        None => Check::ok(NAME, format!("{} (its name does not tell its version)", path.display())),
    }
}

pub(super) fn postgres_programs(tools_dir: &Path) -> Check {
    const NAME: &str = "Postgres programs";
    const OTHERWISE: &str = "or set DATABASE_URL to a Postgres of your own";
    let root = tools_dir.join("postgres");
    let missing: Vec<&str> = ["initdb", "pg_ctl", "postgres"]
        .into_iter()
        .filter(|name| !root.join("bin").join(name).is_file())
        .collect();
    let advice = format!("{RUN_SETUP}, {OTHERWISE}");
    if !missing.is_empty() {
        return Check::fail(
            NAME,
            format!("no {} in {}", missing.join(", "), root.join("bin").display()),
            advice,
        );
    }
    match first_line(&root.join("bin/postgres"), ["--version"]) {
        Ok(line) => {
            let version = line.strip_prefix("postgres (PostgreSQL) ").unwrap_or(&line);
            Check::ok(NAME, format!("PostgreSQL {version} ({})", root.display()))
        }
        Err(error) => Check::fail(NAME, error, advice),
    }
}

/// The first line that a program writes to its standard output; else what went wrong, for people.
fn first_line<const N: usize>(program: &Path, arguments: [&str; N]) -> Result<String, String> {
    let shown = program.display();
    let child = Command::new(program)
        .args(arguments.map(OsStr::new))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Its own group, so that whatever it starts ends with it.
        .process_group(0)
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound if program.components().count() == 1 => format!("{shown} is not on the PATH"),
            ErrorKind::NotFound => format!("{shown} is not there"),
            _ => format!("{shown} cannot be started ({error})"),
        })?;
    let group = i32::try_from(child.id()).ok().map(Pid::from_raw);
    let (tell, told) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        // The receiver is gone only when it has given up already.
        let _ = tell.send(child.wait_with_output());
    });
    let output = match told.recv_timeout(PATIENCE) {
        Ok(output) => output,
        Err(_) => {
            if let Some(group) = group {
                // It may have ended this very moment, which is what is wanted.
                let _ = killpg(group, Signal::SIGKILL);
            }
            let _ = waiter.join();
            return Err(format!("{shown} did not answer within {} s", PATIENCE.as_secs()));
        }
    };
    let output = output.map_err(|error| format!("{shown} cannot be read ({error})"))?;
    let line =
        |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().trim().to_owned();
    let last =
        |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().lines().last().unwrap_or_default().to_owned();
    match line(&output.stdout) {
        _ if !output.status.success() => {
            Err(format!("{shown} failed ({}) {}", output.status, last(&output.stderr)))
        }
        text if text.is_empty() => Err(format!("{shown} said nothing")),
        text => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use crate::app::doctor::Status;

    fn script(path: &Path, body: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn on(day: &str) -> DateTime<Utc> {
        format!("{day}T12:00:00Z").parse().unwrap()
    }

    #[test]
    fn an_old_yt_dlp_is_a_warning() {
        let tools = tempfile::tempdir().unwrap();
        script(&tools.path().join("python/bin/yt-dlp"), "echo 2025.10.22");
        assert_eq!(yt_dlp(tools.path(), on("2025-10-30")).status, Status::Warn);
        std::fs::create_dir_all(tools.path().join("python/lib/python3.11/site-packages/yt_dlp_ejs")).unwrap();
        assert_eq!(yt_dlp(tools.path(), on("2025-10-30")), Check::ok("yt-dlp", "2025.10.22, 8 days old"));
        assert_eq!(yt_dlp(tools.path(), on("2025-12-21")).status, Status::Ok);
        let old = yt_dlp(tools.path(), on("2025-12-22"));
        assert_eq!((old.status, old.detail.as_str()), (Status::Warn, "2025.10.22, 61 days old"));
    }

    #[test]
    fn what_is_missing_or_broken_is_a_failure_with_advice() {
        let tools = tempfile::tempdir().unwrap();
        let missing = yt_dlp(tools.path(), on("2025-10-30"));
        assert_eq!(missing.status, Status::Fail);
        assert!(missing.detail.contains("python/bin/yt-dlp is not there"), "{missing:?}");
        assert!(missing.advice.unwrap().contains("./scripts/setup"));
        script(&tools.path().join("python/bin/deno"), "echo oops >&2; exit 3");
        let broken = javascript(tools.path());
        assert_eq!(broken.status, Status::Fail);
        assert!(broken.detail.contains("(exit status: 3) oops"), "{broken:?}");
    }

    #[test]
    fn the_version_of_onnx_runtime_is_read_from_its_file() {
        let tools = tempfile::tempdir().unwrap();
        assert_eq!(onnx_runtime(None, tools.path()).status, Status::Fail);
        std::fs::create_dir_all(tools.path().join("lib")).unwrap();
        let link = tools.path().join("lib/libonnxruntime.so");
        for (file, status) in
            [("libonnxruntime.so.1.31.1", Status::Ok), ("libonnxruntime.so.1.17.3", Status::Fail)]
        {
            std::fs::write(tools.path().join(file), "").unwrap();
            let _ = std::fs::remove_file(&link);
            symlink(tools.path().join(file), &link).unwrap();
            let check = onnx_runtime(None, tools.path());
            assert_eq!(check.status, status, "{check:?}");
        }
        let elsewhere = tools.path().join("libonnxruntime.so.1.31.1");
        assert_eq!(onnx_runtime(Some(&elsewhere), Path::new("/nowhere")).status, Status::Ok);
    }

    #[test]
    fn the_private_server_needs_its_programs() {
        let tools = tempfile::tempdir().unwrap();
        let bin = tools.path().join("postgres/bin");
        script(&bin.join("postgres"), "echo 'postgres (PostgreSQL) 18.4'");
        script(&bin.join("initdb"), "");
        let check = postgres_programs(tools.path());
        assert!(check.detail.starts_with("no pg_ctl in "), "{check:?}");
        script(&bin.join("pg_ctl"), "");
        let check = postgres_programs(tools.path());
        assert!(check.status == Status::Ok && check.detail.starts_with("PostgreSQL 18.4 ("), "{check:?}");
    }
}

//! The machine: room, processor, memory.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::{Check, existing, size};

pub(super) fn data_dir(path: &Path) -> Check {
    const NAME: &str = "Data directory";
    const ADVICE: &str = "set SPOKEN_DATA_DIR to a directory of yours, or make this one writable";
    let shown = path.display();
    let Some(nearest) = existing(path) else {
        return Check::fail(NAME, format!("{shown} cannot be reached"), ADVICE);
    };
    if !nearest.is_dir() {
        return Check::fail(NAME, format!("{} is no directory", nearest.display()), ADVICE);
    }
    match access(nearest, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) if nearest == path => Check::ok(NAME, format!("{shown}")),
        Ok(()) => Check::ok(NAME, format!("{shown}, not there yet; it is made when it is needed")),
        Err(error) => {
            Check::fail(NAME, format!("{} is not writable ({})", nearest.display(), error.desc()), ADVICE)
        }
    }
}

pub(super) fn disk(path: &Path, min_free_mb: u64) -> Check {
    const NAME: &str = "Disk";
    let Some(nearest) = existing(path) else {
        return Check::fail(NAME, format!("{} cannot be reached", path.display()), "set SPOKEN_DATA_DIR");
    };
    match statvfs(nearest) {
        Ok(found) => {
            // Types differ between platforms; here both are 64 bits.
            let free = found.blocks_available() * found.fragment_size();
            let needed = min_free_mb.saturating_mul(1024 * 1024);
            let detail = format!("{} free for {}", size(free), path.display());
            if free < needed {
                let advice = format!(
                    "downloads wait until {} are free: make room, move SPOKEN_DATA_DIR, or lower MIN_FREE_DISK_MB",
                    size(needed)
                );
                Check::fail(NAME, detail, advice)
            } else {
                Check::ok(NAME, detail)
            }
        }
        Err(error) => Check::warn(
            NAME,
            format!("the free space of {} is unknown ({})", nearest.display(), error.desc()),
            "look at the disk yourself",
        ),
    }
}

pub(super) fn processor() -> Check {
    const NAME: &str = "Processor";
    let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
    let brand = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let features = features();
    let mut detail = format!("{cores} core{}", if cores == 1 { "" } else { "s" });
    if !brand.is_empty() {
        detail.push_str(&format!(", {brand}"));
    }
    if !features.is_empty() {
        detail.push_str(&format!(", {}", features.join(" ")));
    }
    if cfg!(target_arch = "x86_64") && !features.contains(&"avx2") {
        return Check::warn(
            NAME,
            detail,
            "without AVX2 models run several times slower: use another machine or a GPU",
        );
    }
    Check::ok(NAME, detail)
}

/// The instruction sets that decide how fast 8-bit models run.
fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let found = [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("avx512", std::arch::is_x86_feature_detected!("avx512f")),
            ("avx512-vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
            ("avx-vnni", std::arch::is_x86_feature_detected!("avxvnni")),
        ];
        found.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

pub(super) fn memory() -> Check {
    const NAME: &str = "Memory";
    /// The small model with two replicas peaks at 1.5 to 1.9 GB, Postgres and the embedder beside it.
    const TIGHT: u64 = 3 << 30;
    let system = System::new_with_specifics(
        RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()),
    );
    let (mut total, mut available) = (system.total_memory(), system.available_memory());
    if let Some(limits) = system.cgroup_limits() {
        // A container may have less than its host. What it holds of files in the cache counts as used, but is given up when
        // memory is asked for: only what programs hold is taken off.
        total = total.min(limits.total_memory);
        available = available.min(limits.total_memory.saturating_sub(limits.rss));
    }
    let detail = format!("{}, {} available", size(total), size(available));
    if available < TIGHT {
        return Check::warn(
            NAME,
            detail,
            "use a smaller WHISPER_MODEL (base, tiny) or WHISPER_PARALLEL_MODELS=1 with WHISPER_BATCH_SIZE=1",
        );
    }
    Check::ok(NAME, detail)
}

pub(super) fn cookies(path: &Path) -> Check {
    const NAME: &str = "Cookies";
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            Check::fail(NAME, format!("{shown} is no file"), "set COOKIES_FILE to a file in Netscape format")
        }
        Ok(found) if found.permissions().mode() & 0o077 != 0 => Check::warn(
            NAME,
            format!("{shown} can be read by others: whoever has it is logged in as you"),
            format!("chmod 600 {shown}"),
        ),
        Ok(_) => Check::ok(NAME, shown.to_string()),
        Err(error) => Check::fail(
            NAME,
            format!("{shown}: {error}"),
            "export the cookies again, or leave COOKIES_FILE out",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::doctor::Status;

    #[test]
    fn a_data_directory_need_not_exist_but_must_be_possible() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(data_dir(place.path()).status, Status::Ok);
        assert_eq!(data_dir(&place.path().join("not/yet")).status, Status::Ok);
        std::fs::write(place.path().join("file"), "").unwrap();
        assert_eq!(data_dir(&place.path().join("file/below")).status, Status::Fail);
    }

    #[test]
    fn too_little_room_is_a_failure() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(disk(&place.path().join("x"), 0).status, Status::Ok);
        let full = disk(place.path(), u64::MAX);
        assert_eq!(full.status, Status::Fail);
        assert!(full.advice.unwrap().contains("MIN_FREE_DISK_MB"));
    }

    #[test]
    fn cookies_that_others_can_read_are_a_warning() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("cookies.txt");
        assert_eq!(cookies(&path).status, Status::Fail);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(cookies(&path).status, Status::Warn);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(cookies(&path).status, Status::Ok);
    }

    #[test]
    fn this_machine_can_be_described() {
        assert!(processor().detail.contains("core"));
        assert!(memory().detail.contains("available"));
    }
}

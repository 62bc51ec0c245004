//! The engines of this binary and the GPUs they may run on.

use super::{Check, size};
use crate::config::Device;
use crate::gpu::{Installed, Inventory};

/// What this binary can run models with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// True where the second engine, whisper.cpp, is in it.
    pub whisper_cpp: bool,
    /// CUDA, where it is in it.
    pub cuda: Option<CudaBuild>,
}

/// The CUDA of this binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaBuild {
    /// The toolkit's version, such as (13, 0); `None` where the build did not tell.
    pub version: Option<(u64, u64)>,
    /// The compute capabilities that there are kernels for, such as (9, 0); empty: the toolkit's common ones.
    pub compute: Vec<(i32, i32)>,
    /// Why cuBLAS, which is opened when a model goes to a GPU, cannot be opened.
    pub cublas: Result<(), String>,
}

impl Build {
    /// This binary's.
    pub fn this() -> Self {
        let cuda = cfg!(feature = "cuda").then(|| {
            let version = option_env!("SPOKEN_CUDA").and_then(parts);
            CudaBuild {
                version,
                compute: capabilities(option_env!("SPOKEN_CUDA_ARCH").unwrap_or_default()),
                cublas: version.map_or(Ok(()), |(major, _)| cublas(major)),
            }
        });
        Self { whisper_cpp: cfg!(feature = "whisper-cpp"), cuda }
    }
}

/// `13.0` in numbers; what does not begin with two is none.
fn parts(version: &str) -> Option<(u64, u64)> {
    let mut numbers = version.split('.').map(|part| part.trim().parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// A list as `CUDA_ARCH_LIST` has it (`8.6;9.0`, `90`); names of families are passed over.
fn capabilities(list: &str) -> Vec<(i32, i32)> {
    list.split(|c: char| c == ';' || c == ',' || c.is_whitespace())
        .filter_map(|item| match item.split_once('.') {
            Some((major, minor)) => {
                let minor: String = minor.chars().take_while(char::is_ascii_digit).collect();
                Some((major.parse().ok()?, minor.parse().ok()?))
            }
            None => item.parse().ok().filter(|n| *n >= 10).map(|n: i32| (n / 10, n % 10)),
        })
        .collect()
}

/// Opens cuBLAS the way CTranslate2 does: by name, through the program's own search path and the system's.
fn cublas(major: u64) -> Result<(), String> {
    let name = format!("libcublas.so.{major}");
    let Ok(library) = std::ffi::CString::new(name.as_str()) else { return Ok(()) };
    // SAFETY: the name is a C string, and what is opened is the library that the engine opens as well.
    let handle = unsafe { nix::libc::dlopen(library.as_ptr(), nix::libc::RTLD_LAZY) };
    if handle.is_null() { Err(name) } else { Ok(()) }
}

/// `Engines`: what is in this binary.
pub(super) fn engines(build: &Build) -> Check {
    const NAME: &str = "Engines";
    let devices = match &build.cuda {
        None => "CPU".to_owned(),
        Some(CudaBuild { version: None, .. }) => "CPU, CUDA".to_owned(),
        Some(CudaBuild { version: Some((major, minor)), compute, .. }) if compute.is_empty() => {
            format!("CPU, CUDA {major}.{minor}")
        }
        Some(CudaBuild { version: Some((major, minor)), compute, .. }) => {
            format!("CPU, CUDA {major}.{minor} for compute capability {}", listed(compute))
        }
    };
    let engines = if build.whisper_cpp { "CTranslate2 and whisper.cpp" } else { "CTranslate2" };
    Check::ok(NAME, format!("{engines}; {devices}"))
}

fn listed(compute: &[(i32, i32)]) -> String {
    compute.iter().map(|(major, minor)| format!("{major}.{minor}")).collect::<Vec<_>>().join(", ")
}

/// `GPU`: is there one, and do driver and binary fit?
pub(super) fn gpu(found: Result<Inventory, String>, device: Device, build: &Build) -> Check {
    const NAME: &str = "GPU";
    let usable = found.and_then(|inventory| match &inventory {
        Inventory { installed: 0, .. } => Err("the NVIDIA driver knows of none".to_owned()),
        Inventory { gpus, .. } if gpus.is_empty() => Err("CUDA_VISIBLE_DEVICES hides all".to_owned()),
        _ => Ok(inventory),
    });
    let inventory = match usable {
        Ok(inventory) => inventory,
        Err(reason) if device == Device::Cuda => {
            let advice = if reason.starts_with("CUDA_VISIBLE") {
                "change CUDA_VISIBLE_DEVICES, or set WHISPER_DEVICE=auto"
            } else {
                "install the NVIDIA driver, or set WHISPER_DEVICE=auto"
            };
            return Check::fail(NAME, format!("none: {reason}"), advice);
        }
        Err(reason) => return Check::ok(NAME, format!("none ({reason}); models run on the CPU")),
    };
    let detail = described(&inventory);
    if device == Device::Cpu {
        return Check::ok(NAME, format!("{detail}; not used, WHISPER_DEVICE is cpu"));
    }
    let misfit = match &build.cuda {
        Some(cuda) => misfit(&inventory, cuda),
        None => Some((
            "this binary was built without CUDA".to_owned(),
            "build one with CUDA, many times faster: ./scripts/setup --cuda in the repository".to_owned(),
        )),
    };
    match misfit {
        None => Check::ok(NAME, detail),
        Some((what, advice)) if device == Device::Cuda => {
            Check::fail(NAME, format!("{detail}; but {what}"), format!("{advice}; or set WHISPER_DEVICE=cpu"))
        }
        Some((what, advice)) => Check::warn(NAME, format!("{detail}; not used, {what}"), advice),
    }
}

fn described(inventory: &Inventory) -> String {
    let of = |gpu: &Installed| {
        let compute =
            gpu.compute.map_or(String::new(), |(major, minor)| format!(", compute {major}.{minor}"));
        let free = gpu.vram_total.saturating_sub(gpu.vram_used);
        format!("{}, {} of {} free{compute}", gpu.name, size(free), size(gpu.vram_total))
    };
    let gpus = inventory.gpus.iter().map(of).collect::<Vec<_>>().join("; ");
    let cuda =
        if inventory.cuda.is_empty() { String::new() } else { format!(" for CUDA {}", inventory.cuda) };
    format!("{gpus}; driver {}{cuda}", inventory.driver)
}

/// What keeps a binary with CUDA from the GPUs, and what to do.
///
/// A driver runs what was built for its own major version of CUDA or an older one ("minor version compatibility"); kernels run
/// on GPUs of the compute capability they were built for and of later ones with the same major number.
fn misfit(inventory: &Inventory, build: &CudaBuild) -> Option<(String, String)> {
    if let (Some(built), Some(driver)) = (build.version, parts(&inventory.cuda))
        && driver.0 < built.0
    {
        let needed = oldest_driver(built.0).map_or(String::new(), |driver| format!(" to {driver} or later"));
        return Some((
            format!(
                "the driver is too old for this binary, which was built for CUDA {}.{}",
                built.0, built.1
            ),
            format!(
                "upgrade the NVIDIA driver{needed}, or build with the toolkit of CUDA {} (CUDA_PATH, ./scripts/setup --cuda)",
                driver.0
            ),
        ));
    }
    let runs = |(major, minor): (i32, i32)| {
        build.compute.is_empty() || build.compute.iter().any(|built| built.0 == major && built.1 <= minor)
    };
    if let Some((gpu, compute)) =
        inventory.gpus.iter().find_map(|gpu| gpu.compute.filter(|c| !runs(*c)).map(|compute| (gpu, compute)))
    {
        return Some((
            format!("this binary has no kernels for the {} (compute {}.{})", gpu.name, compute.0, compute.1),
            format!("build it for that: CUDA_ARCH_LIST={}.{} ./scripts/setup --cuda", compute.0, compute.1),
        ));
    }
    build.cublas.as_ref().err().map(|library| {
        (
            format!("{library} cannot be opened"),
            "run ./scripts/setup --cuda, or name the directory with that library in LD_LIBRARY_PATH"
                .to_owned(),
        )
    })
}

/// The oldest driver for a major version of CUDA, on Linux (table 2 of the CUDA toolkit's release notes).
fn oldest_driver(cuda: u64) -> Option<u64> {
    match cuda {
        11 => Some(450),
        12 => Some(525),
        13 => Some(580),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn inventory(cuda: &str, compute: Option<(i32, i32)>) -> Inventory {
        let card = Installed {
            name: "Card".into(),
            uuid: "GPU-1".into(),
            vram_total: 80 << 30,
            vram_used: 1 << 30,
            compute,
        };
        Inventory { driver: "580.65.06".into(), cuda: cuda.into(), gpus: vec![card], installed: 1 }
    }

    fn with_cuda() -> Build {
        let cuda = CudaBuild { version: Some((13, 0)), compute: vec![(8, 6), (9, 0)], cublas: Ok(()) };
        Build { whisper_cpp: true, cuda: Some(cuda) }
    }

    fn without() -> Build {
        Build { whisper_cpp: false, cuda: None }
    }

    #[test]
    fn a_gpu_is_judged_by_what_was_asked_for() {
        let one = || Ok(inventory("13.0", Some((9, 0))));
        let none = || Err("no NVIDIA driver".to_owned());
        for (found, device, build, expected) in [
            (none(), Device::Auto, without(), Status::Ok),
            (none(), Device::Cuda, with_cuda(), Status::Fail),
            (
                Ok(Inventory { gpus: vec![], ..inventory("13.0", None) }),
                Device::Cuda,
                with_cuda(),
                Status::Fail,
            ),
            (one(), Device::Auto, with_cuda(), Status::Ok),
            (one(), Device::Auto, without(), Status::Warn),
            (one(), Device::Cuda, without(), Status::Fail),
            (one(), Device::Cpu, without(), Status::Ok),
        ] {
            let check = gpu(found.clone(), device, &build);
            assert_eq!(check.status, expected, "{found:?} {device:?} {build:?}: {check:?}");
            assert_eq!(check.advice.is_none(), expected == Status::Ok, "{check:?}");
        }
    }

    #[test]
    fn driver_binary_and_gpu_must_fit() {
        for (cuda, compute, expected) in [
            ("13.0", Some((9, 0)), None),
            // Newer and older minor versions, a newer major one.
            ("13.4", Some((9, 0)), None),
            ("14.0", Some((9, 0)), None),
            ("", None, None),
            ("12.8", Some((9, 0)), Some("580 or later")),
            ("13.0", Some((8, 9)), None),
            ("13.0", Some((8, 0)), Some("CUDA_ARCH_LIST=8.0")),
            ("13.0", Some((12, 0)), Some("CUDA_ARCH_LIST=12.0")),
        ] {
            let check = gpu(Ok(inventory(cuda, compute)), Device::Auto, &with_cuda());
            match expected {
                None => assert_eq!(check.status, Status::Ok, "{check:?}"),
                Some(advice) => {
                    assert!(check.advice.as_ref().is_some_and(|a| a.contains(advice)), "{check:?}");
                }
            }
        }
        let mut build = with_cuda();
        build.cuda.as_mut().unwrap().cublas = Err("libcublas.so.13".into());
        let check = gpu(Ok(inventory("13.0", Some((9, 0)))), Device::Cuda, &build);
        assert_eq!(check.status, Status::Fail);
        assert!(check.detail.contains("libcublas.so.13"), "{check:?}");
    }

    #[test]
    fn lists_of_architectures_are_read_as_the_builds_read_them() {
        assert_eq!(capabilities("8.6;9.0"), [(8, 6), (9, 0)]);
        assert_eq!(capabilities("90, 12.0+PTX"), [(9, 0), (12, 0)]);
        assert_eq!(capabilities("Common"), []);
        assert_eq!(parts("13.0"), Some((13, 0)));
        assert_eq!(parts(""), None);
    }

    #[test]
    fn this_binary_says_what_is_in_it() {
        assert!(engines(&Build::this()).detail.starts_with("CTranslate2"));
        let detail = engines(&with_cuda()).detail;
        assert_eq!(detail, "CTranslate2 and whisper.cpp; CPU, CUDA 13.0 for compute capability 8.6, 9.0");
    }
}

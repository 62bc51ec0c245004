//! A build with the feature `cuda`: where the program finds the toolkit's libraries, and what `spoken doctor` says it was built with.

use std::env;
use std::path::PathBuf;

/// Where the engines' own builds look for a toolkit, in their order.
const VARIABLES: [&str; 3] = ["CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"];
const PLACES: [&str; 4] = ["/usr", "/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for variable in VARIABLES.iter().chain(&["CUDA_ARCH_LIST"]) {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let named = VARIABLES.iter().filter_map(env::var_os).map(PathBuf::from);
    let root =
        named.chain(PLACES.iter().map(PathBuf::from)).find(|root| root.join("include/cuda.h").is_file());
    let Some(root) = root else { return };
    // cuBLAS is opened by its name alone when a model goes to a GPU: this is where it is looked for, besides the system's places.
    for lib in ["lib64", "lib"].map(|lib| root.join(lib)).iter().filter(|lib| lib.is_dir()) {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    }
    let header = std::fs::read_to_string(root.join("include/cuda.h")).unwrap_or_default();
    // `#define CUDA_VERSION 13000`: thousands are the major version, tens the minor.
    let version = header
        .lines()
        .find_map(|line| line.strip_prefix("#define CUDA_VERSION ")?.trim().parse::<u32>().ok());
    if let Some(version) = version {
        println!("cargo::rustc-env=SPOKEN_CUDA={}.{}", version / 1000, version % 1000 / 10);
    }
    if let Ok(list) = env::var("CUDA_ARCH_LIST") {
        println!("cargo::rustc-env=SPOKEN_CUDA_ARCH={list}");
    }
}

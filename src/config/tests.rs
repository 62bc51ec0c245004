use std::ffi::OsString;
use std::path::Path;

use figment::error::Kind;

use super::*;

/// A world with nothing in it but what a test puts there.
struct World {
    directory: tempfile::TempDir,
    inputs: Inputs,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cwd = directory.path().to_path_buf();
        // `/etc/spoken` may exist on the machine that runs the tests.
        std::fs::create_dir_all(cwd.join("empty")).unwrap();
        let inputs = Inputs { cwd, home: Some("/home/somebody".into()), ..Inputs::default() };
        Self { directory, inputs }.environment("SPOKEN_CONFIG_DIR", "empty")
    }

    fn environment(mut self, name: &str, value: &str) -> Self {
        self.inputs.environment.retain(|(known, _)| known != name);
        self.inputs.environment.push((OsString::from(name), OsString::from(value)));
        self
    }

    fn flag(mut self, key: &str, value: &str) -> Self {
        self.inputs.overrides.push(Override::new(key, value, "--set"));
        self
    }

    fn file(self, name: &str, text: &str) -> Self {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn load(&self) -> Loaded {
        load(&self.inputs).unwrap()
    }

    fn problems(&self) -> Vec<String> {
        load(&self.inputs).unwrap_err().problems.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn the_table_of_keys_and_the_struct_hold_the_same() {
    // serde lists a struct's fields when it meets a foreign one.
    let error = Figment::from(("no_such_key", 1)).extract::<Config>().unwrap_err();
    let Kind::UnknownField(_, fields) = error.kind else { panic!("{error:?}") };
    assert_eq!(fields, KEYS.iter().map(|key| key.name).collect::<Vec<_>>());
}

#[test]
fn default_toml_holds_every_key_with_its_default() {
    let loaded = World::new().file("empty/default.toml", DEFAULT_TOML).load();
    assert_eq!(loaded.config, Config::defaults(Path::new("/home/somebody")));
    for key in KEYS {
        let origin = loaded.origin(key.name);
        assert_eq!(origin.layer, "file", "{} is not in config/default.toml", key.name);
        let line: usize = origin.from.rsplit(':').next().unwrap().parse().unwrap();
        let lines: Vec<&str> = DEFAULT_TOML.lines().collect();
        assert!(lines[line - 1].starts_with(&format!("{} =", key.name)), "{origin:?}");
        assert!(lines[line - 2].starts_with('#'), "{} has no comment", key.name);
    }
}

#[test]
fn built_in_profiles_are_valid() {
    for (name, _) in BUILT_IN_PROFILES {
        let loaded = World::new().flag("profile", name).load();
        assert_eq!(loaded.profile.as_deref(), Some(*name));
        assert_eq!(loaded.origin("whisper_device").layer, "profile");
        assert!(loaded.origin("whisper_device").from.starts_with(&format!("built-in profile {name}:")));
    }
}

#[test]
fn environment_names_are_one_of_a_kind_and_upper_case() {
    let mut names: Vec<&str> = KEYS.iter().map(|key| key.env).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), KEYS.len());
    for key in KEYS {
        let upper = key.name.to_uppercase();
        let plain =
            key.env == upper || key.env == format!("SPOKEN_{upper}") || key.name.starts_with("language");
        assert!(plain, "{}", key.env);
    }
}

#[test]
fn a_variable_of_somebody_elses_is_no_error() {
    let mut world = World::new();
    for name in [
        "DB_HOST",
        "IO_URING",
        "DATABASE_URI",
        "LOGLEVEL",
        "TEAM_SIZE",
        "WEB_WORKERS",
        "UI_WORKERS",
        "NUM_WORKERS",
        "MAX_WORKERS",
        "LANGUAGE",
        "ASR",
        "DATA_DIR",
        "PROFILE",
        "EMBED_MODEL",
        "WORKERS",
        "CONFIG_DIR",
        "HF_TOKEN",
        "SPOKEN_TEST_ONLY",
        "SPOKEN_PYTHON",
        "SPOKEN_SETUP_SKIP_BUILD",
    ] {
        world = world.environment(name, "whatever=, it/holds");
    }
    let loaded = world.load();
    assert_eq!(loaded.config, Config::defaults(Path::new("/home/somebody")));
}

#[test]
fn a_slip_of_the_pen_in_the_environment_is_told() {
    for (written, meant) in [
        ("WHISPER_MODLE", "WHISPER_MODEL"),
        ("ASR_WORKER", "ASR_WORKERS"),
        ("IO_WORKER", "IO_WORKERS"),
        ("DB_WORKERSS", "DB_WORKERS"),
        ("INGESTION_LIMITS", "INGESTION_LIMIT"),
        ("WISPER_COMPUTE", "WHISPER_COMPUTE"),
        ("SPOKEN_DATADIR", "SPOKEN_DATA_DIR"),
        ("SPOKEN_PROFIL", "SPOKEN_PROFILE"),
        ("EMBEDING_MODEL", "EMBEDDING_MODEL"),
        ("YTDLP_FORMATS", "YTDLP_FORMAT"),
    ] {
        let problems = World::new().environment(written, "1").problems();
        assert_eq!(problems, [format!("{written} (in the environment): unknown key; did you mean {meant}?")]);
    }
}

#[test]
fn a_prefixed_name_overrules_the_plain_one_whatever_that_holds() {
    let loaded =
        World::new().environment("LOG_FORMAT", "logfmt").environment("SPOKEN_LOG_FORMAT", "json").load();
    assert_eq!(loaded.config.log_format, LogFormat::Json);
    assert_eq!(loaded.origin("log_format").from, "SPOKEN_LOG_FORMAT in the environment");
}

#[test]
fn an_empty_variable_is_not_set_and_an_empty_address_is_none() {
    let world = World::new()
        .file("empty/default.toml", "database_url = \"postgres://localhost/x\"\nio_workers = 3")
        .environment("IO_WORKERS", "")
        .environment("DATABASE_URL", "");
    let config = world.load().config;
    assert_eq!((config.io_workers, config.database_url), (3, None));
}

#[test]
fn rust_log_is_understood_and_log_level_beats_it() {
    let world = World::new().environment("RUST_LOG", "debug");
    assert_eq!(world.load().config.log_level, "debug");
    assert_eq!(world.load().origin("log_level").from, "RUST_LOG in the environment");
    let world = world.environment("LOG_LEVEL", "info");
    assert_eq!(world.load().config.log_level, "info");
    assert_eq!(world.flag("log_level", "error").load().config.log_level, "error");
}

#[test]
fn only_levels_stand_alone_in_a_log_filter() {
    assert_eq!(
        World::new().environment("LOG_LEVEL", "debgu").problems(),
        [
            r#"LOG_LEVEL = "debgu" (in the environment): "debgu" is no level: use one of off, error, warn, info, debug, trace; did you mean debug?"#
        ]
    );
}

#[test]
fn models_are_told_from_paths() {
    let world = || World::new().file("models/mine/model.bin", "");
    let model = |text: &str| world().environment("WHISPER_MODEL", text);
    for name in ["small", "large-v3-turbo", "Systran/faster-whisper-small"] {
        assert_eq!(model(name).load().config.whisper_model, ModelRef::Name(name.into()));
    }
    for (text, below_cwd) in
        [("models/mine", "models/mine"), ("./small", "small"), ("./models/../x", "models/../x")]
    {
        let world = model(text);
        let expected = ModelRef::Path(world.directory.path().join(below_cwd));
        assert_eq!(world.load().config.whisper_model, expected, "{text}");
    }
    assert_eq!(model("~/m").load().config.whisper_model, ModelRef::Path("/home/somebody/m".into()));
    assert_eq!(model("/m").load().config.whisper_model, ModelRef::Path("/m".into()));
    let world = model("{tools_dir}/models/m").environment("SPOKEN_TOOLS_DIR", "/tools");
    assert_eq!(world.load().config.whisper_model, ModelRef::Path("/tools/models/m".into()));
    assert!(model("{toolsdir}/m").problems()[0].contains("may begin with {data_dir}/ or {tools_dir}/"));
    assert!(model("a model").problems()[0].contains("a name has no spaces"));
}

#[test]
fn relative_paths_start_at_their_file_or_at_the_current_directory() {
    let world = World::new()
        .file("empty/default.toml", "cookies_file = \"c.txt\"\ndata_dir = \"../d\"")
        .file(".env", "SPOKEN_TOOLS_DIR=t");
    let here = world.directory.path().to_path_buf();
    let config = world.load().config;
    assert_eq!(config.cookies_file, Some(here.join("empty/c.txt")));
    assert_eq!(config.data_dir, here.join("empty/../d"));
    assert_eq!(config.tools_dir, here.join("t"));
    assert_eq!(
        world.flag("cookies_file", "here.txt").load().config.cookies_file,
        Some(here.join("here.txt"))
    );
}

#[test]
fn a_database_address_never_shows_its_password() {
    let url = "postgres://me:s3cret@db.example.org:5433/x?sslmode=require&password=s3cret&sslpassword=s3cret";
    let world = World::new().environment("DATABASE_URL", url);
    let loaded = world.load();
    assert_eq!(loaded.config.database_url.as_ref().unwrap().expose(), url);
    let shown = [
        format!("{loaded:?}"),
        loaded.to_table(false),
        serde_json::to_string(&loaded.to_json()).unwrap(),
        loaded.config.database_url.as_ref().unwrap().to_string(),
        serde_json::to_string(&loaded.config).unwrap(),
    ];
    for text in shown {
        assert!(!text.contains("s3cret"), "{text}");
        assert!(text.contains("me:***@db.example.org:5433/x?sslmode=require&password=***"), "{text}");
    }
    for wrong in ["mysql://me:s3cret@h/x", "me:s3cret@h", "postgres://me:s3cret@h:99999/x", "s3cret"] {
        let problems = World::new().environment("DATABASE_URL", wrong).problems().join("\n");
        assert!(!problems.contains("s3cret"), "{problems}");
        assert!(problems.starts_with("DATABASE_URL (in the environment): "), "{problems}");
    }
}

#[test]
fn a_malformed_line_does_not_repeat_what_may_be_a_password() {
    let problems = World::new().file(".env", "A=1\nDATABASE_URL='postgres://me:s3cret@h/x\n").problems();
    let all = problems.join("\n");
    assert!(all.contains("DATABASE_URL (.env:2): a quotation mark is not closed"), "{all}");
    assert!(!all.contains("s3cret"), "{all}");
}

#[test]
fn what_contradicts_is_told_with_its_origin() {
    let problems = World::new()
        .environment("WHISPER_DEVICE", "cpu")
        .environment("WHISPER_COMPUTE", "INT8_Float16")
        .problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with(
            "whisper_compute = \"int8_float16\" (WHISPER_COMPUTE in the environment): a CPU cannot compute"
        ),
        "{problems:?}"
    );
}

#[test]
fn libraries_get_their_variables_from_env_files_unless_they_have_them() {
    let world = World::new()
        .file(".env", "ORT_DYLIB_PATH=/x.so\nHF_TOKEN=abc\nhttps_proxy=http://p:1\nRUST_LOG=debug\n")
        .environment("HF_TOKEN", "mine");
    let loaded = world.load();
    let names: Vec<&str> = loaded.library_variables().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ORT_DYLIB_PATH", "https_proxy", "RUST_LOG"]);
    // Tests run in threads, so the environment must not be touched here.
    assert_eq!(loaded.export_library_variables(), Err(ThreadsRunning));
    assert_eq!(std::env::var_os("ORT_DYLIB_PATH").filter(|path| path == "/x.so"), None);
}

#[test]
fn without_a_home_the_places_must_be_named() {
    let mut world = World::new();
    world.inputs.home = None;
    assert_eq!(world.problems().len(), 2);
    let world = world.flag("data_dir", "/d").environment("SPOKEN_TOOLS_DIR", "/t");
    assert_eq!(world.load().config.data_dir, Path::new("/d"));
}

#[test]
fn numbers_may_be_quoted_and_floats_stay_short() {
    let world =
        World::new().file("empty/default.toml", "io_workers = \"7\"\nvad_threshold = 0.3\nbeam_size = 0x2");
    let loaded = world.load();
    assert_eq!((loaded.config.io_workers, loaded.config.beam_size), (7, Auto::Set(2)));
    let json = serde_json::to_string(&loaded.to_json()).unwrap();
    assert!(json.contains("\"value\":0.3,"), "{json}");
}

#[test]
fn a_profile_decides_what_is_left_to_it_and_nothing_else() {
    let profile = |name: &str| World::new().environment("WHISPER_PROFILE", name);
    let recipe = |name: &str| profile(name).load().config.recipe();
    assert_eq!((recipe("fast").beam_size, recipe("balanced").beam_size), (1, 5));
    assert_eq!(World::new().load().config.recipe(), recipe("balanced"));
    let quality = recipe("quality");
    assert_eq!((quality.beam_size, quality.best_of, quality.patience), (10, 10, 2.0));
    assert!(quality.vad_threshold < recipe("balanced").vad_threshold);
    assert!(quality.vad_pad_ms > recipe("balanced").vad_pad_ms);
    // Every field can be set, and then the profile has no say in it.
    for (field, value) in serde_json::to_value(&quality).unwrap().as_object().unwrap() {
        let other = if field == "temperature" { "0,1".to_owned() } else { "1".to_owned() };
        let other = match field.as_str() {
            "logprob_threshold" => "-0.5".to_owned(),
            "vad_offset" => "0.1".to_owned(),
            _ => other,
        };
        let set = profile("quality").flag(field, &other).load().config.recipe();
        let set = serde_json::to_value(set).unwrap();
        assert_ne!(set, *value);
        assert_eq!(set[field].to_string().replace(".0", "").trim_matches(['[', ']']), other, "{field}");
    }
}

#[test]
fn what_auto_comes_to_is_shown_with_who_decided() {
    let loaded = World::new().flag("whisper_profile", "quality").environment("BEST_OF", "3").load();
    let table = loaded.to_table(false);
    let line = |key: &str| {
        let line = table.lines().find(|line| line.trim_start().starts_with(&format!("{key} "))).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("beam_size"), "beam_size auto: 10 whisper_profile = quality, --set");
    assert_eq!(line("best_of"), "best_of 3 BEST_OF in the environment");
    assert_eq!(line("temperature"), "temperature auto: 0,0.2,0.4,0.6,0.8,1 whisper_profile = quality, --set");
    assert_eq!(line("whisper_threads"), "whisper_threads auto default");
    assert_eq!(line("languages"), "languages (all) default");
    assert_eq!(line("segment_max_seconds"), "segment_max_seconds auto: 15 segment_resolution = sentence");
    let chunks = World::new().flag("segment_resolution", "chunk").load().config.recipe();
    assert_eq!(chunks.segment_max_seconds, 30);
    assert_eq!(line("vad_offset"), "vad_offset auto: 0.15 vad_threshold = 0.3");
    let json = serde_json::to_value(loaded.to_json()).unwrap();
    let find =
        |key: &str| json["settings"].as_array().unwrap().iter().find(|s| s["key"] == key).unwrap().clone();
    assert_eq!(
        (find("beam_size")["value"].as_str(), find("beam_size")["effective"].as_u64()),
        (Some("auto"), Some(10))
    );
    assert_eq!(find("beam_size")["because"], "whisper_profile = quality, --set");
    assert_eq!((find("best_of")["value"].as_u64(), find("best_of").get("effective")), (Some(3), None));
}

#[test]
fn lists_and_truths_are_read_from_every_place() {
    let world = World::new().file(
        "empty/default.toml",
        "temperature = [0, 0.5]\nlanguages = [\"EN\", \"de\"]\ncarry_over = true\n",
    );
    let config = world.load().config;
    assert_eq!(config.temperature, Auto::Set(vec![0.0, 0.5]));
    assert_eq!((config.languages, config.carry_over), (vec!["en".to_owned(), "de".to_owned()], true));
    let world = world
        .environment("TEMPERATURE", "0, 0.2,1")
        .environment("WHISPER_LANGUAGES", "")
        .environment("CARRY_OVER", "no");
    let config = world.load().config;
    assert_eq!(config.temperature, Auto::Set(vec![0.0, 0.2, 1.0]));
    assert_eq!((config.languages.len(), config.carry_over), (0, false));
    for (name, value, says) in [
        ("TEMPERATURE", "0.4,0.2", "must be auto or rising numbers from 0 to 1, as in 0,0.2,0.4"),
        ("TEMPERATURE", "0,2", "must be auto or rising numbers from 0 to 1, as in 0,0.2,0.4"),
        (
            "WHISPER_LANGUAGES",
            "en,xx",
            "must be language codes that Whisper knows, as in en,de (empty: all of them); \"xx\" is none",
        ),
        ("CARRY_OVER", "maybe", "must be true or false"),
        ("WHISPER_PROFILE", "balancd", "must be one of fast, balanced, quality; did you mean balanced?"),
        ("LOGPROB_THRESHOLD", "1", "must be auto or a number from -20 to 0"),
    ] {
        let problems = World::new().environment(name, value).problems();
        assert_eq!(problems, [format!("{name} = {value:?} (in the environment): {says}")]);
    }
    let problems = World::new().file("empty/default.toml", "io_workers = [1]\n").problems();
    assert!(problems[0].ends_with("must be a whole number from 1 to 512, not array"), "{problems:?}");
}

#[test]
fn speech_begins_above_where_it_ends() {
    let recipe = World::new().flag("vad_threshold", "0.45").load().config.recipe();
    assert_eq!((recipe.vad_onset, recipe.vad_offset), (0.45, 0.3));
    let problems = World::new().environment("VAD_OFFSET", "0.6").problems();
    assert!(
        problems[0].starts_with("vad_offset = \"0.6\" (VAD_OFFSET in the environment): speech would end"),
        "{problems:?}"
    );
    let problems = World::new().environment("VAD_ONSET", "0.2").problems();
    assert!(problems[0].starts_with("vad_onset = \"0.2\""), "{problems:?}");
}

#[test]
fn languages_tasks_and_models_must_agree() {
    let problems = World::new()
        .environment("WHISPER_LANGUAGE", "fr")
        .environment("WHISPER_LANGUAGES", "en,de")
        .problems();
    assert!(
        problems[0].starts_with("language = \"fr\" (WHISPER_LANGUAGE in the environment): is not among"),
        "{problems:?}"
    );
    let translate = |model: &str| {
        World::new().environment("WHISPER_TASK", "translate").environment("WHISPER_MODEL", model)
    };
    assert_eq!(translate("small").load().config.whisper_task, Task::Translate);
    for model in ["large-v3-turbo", "small.en", "distil-large-v3"] {
        assert!(translate(model).problems()[0].contains("never learned to translate"), "{model}");
    }
}

use super::*;

fn facts(config: &Config, database: Database) -> Facts<'_> {
    Facts {
        config,
        database,
        index: None,
        handover: None,
        onnx_runtime: None,
        hub_home: None,
        build: Build { whisper_cpp: true, cuda: None },
        now: "2025-11-01T00:00:00Z".parse().unwrap(),
    }
}

fn reached(pgvector: Option<&str>) -> Database {
    Database::Reached { postgres: "18.4".into(), pgvector: pgvector.map(str::to_owned) }
}

#[test]
fn pgvector_must_be_there_and_sound() {
    let config = Config::defaults(Path::new("/home/somebody"));
    let status = |found: Database| database(&found, &config).status;
    assert_eq!(status(reached(None)), Status::Fail);
    assert_eq!(status(reached(Some("0.7.4"))), Status::Fail);
    assert_eq!(status(reached(Some("0.8.0"))), Status::Warn);
    assert_eq!(status(reached(Some("0.8.5"))), Status::Ok);
    assert_eq!(status(reached(Some("1.0"))), Status::Ok);
    assert_eq!(status(Database::Idle), Status::Ok);
    assert_eq!(status(Database::Failed("refused".into())), Status::Fail);
}

#[test]
fn an_empty_machine_is_described_with_something_to_do_for_every_failure() {
    let place = tempfile::tempdir().unwrap();
    let config = Config::defaults(place.path());
    let checks = checks(&facts(&config, Database::Idle));
    assert_eq!(worst(&checks), Status::Fail);
    let find = |name: &str| checks.iter().find(|check| check.name == name).unwrap();
    for name in ["yt-dlp", "JavaScript runtime", "ONNX Runtime", "Postgres programs"] {
        assert_eq!(find(name).status, Status::Fail, "{name}");
    }
    for check in &checks {
        assert_eq!(check.advice.is_none(), check.status == Status::Ok, "{check:?}");
    }
    let text = render(&checks, false);
    assert!(!text.contains('\u{1b}'));
    assert_eq!(text.lines().filter(|line| line.starts_with("FAIL")).count(), 4, "{text}");
    assert!(text.contains("4 failures to put right"), "{text}");
}

#[test]
fn outside_text_is_made_safe_and_colours_are_optional() {
    let checks = [Check::fail("Database", "\u{1b}[2Jgone", "look")];
    assert!(!render(&checks, false).contains('\u{1b}'));
    assert!(!render(&checks, true).contains("\u{1b}[2J"));
    assert!(render(&checks, true).contains('\u{1b}'));
}

#[test]
fn json_has_stable_names() {
    let json = serde_json::to_string(&Check::warn("GPU", "none", "buy one")).unwrap();
    assert_eq!(json, r#"{"name":"GPU","status":"warn","detail":"none","advice":"buy one"}"#);
}

#[test]
fn versions_are_read() {
    assert_eq!(version("0.8.5"), Some((0, 8, 5)));
    assert_eq!(version("18.4 (Debian 18.4-1)"), Some((18, 4, 0)));
    assert_eq!(version("1.31.1-rc1"), Some((1, 31, 1)));
    assert_eq!(version("unknown"), None);
}

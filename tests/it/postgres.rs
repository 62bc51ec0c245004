//! The private Postgres server, with the real binaries of the tools directory.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use spoken::postgres::{Server, ServerError, ServerOptions, Status};
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;

/// Where the set-up put PostgreSQL.
pub(crate) fn tools_dir() -> PathBuf {
    std::env::var_os("SPOKEN_TOOLS_DIR").map_or_else(
        || {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()))
                .join(".cache/spoken/tools")
        },
        PathBuf::from,
    )
}

fn options(dir: &Path) -> ServerOptions {
    ServerOptions::new(dir.join("data"), tools_dir())
}

/// A temporary directory that only its owner enters: what `mktemp -d` makes.
fn private_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

async fn pid(options: &ServerOptions) -> u32 {
    match Server::status(options).await.unwrap() {
        Status::Running { pid, .. } => pid,
        other => panic!("not running: {other:?}"),
    }
}

async fn execute(url: &str, sql: &'static str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    connection.execute(sql).await.unwrap();
    connection.close().await.unwrap();
}

async fn count(url: &str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let count = sqlx::query_scalar("select count(*) from t").fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    count
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(60), "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_made_used_stopped_and_started_again() {
    let dir = private_dir();
    let options = options(dir.path());
    assert_eq!(Server::status(&options).await.unwrap(), Status::NotCreated);

    let cold = Instant::now();
    let server = Server::start(&options).await.unwrap();
    let cold = cold.elapsed();
    execute(server.url(), "create extension vector; create table t (x int); insert into t values (1)").await;
    let data = options.data_dir.join("postgres/data");
    let password = fs::metadata(options.data_dir.join("postgres/password")).unwrap();
    assert_eq!(password.mode() & 0o777, 0o600);
    assert_eq!(password.uid(), fs::metadata(&data).unwrap().uid());
    server.close().await.unwrap();
    assert_eq!(Server::status(&options).await.unwrap(), Status::Stopped);
    assert!(!data.join("postmaster.pid").exists(), "shut down in order");

    let warm = Instant::now();
    let server = Server::start(&options).await.unwrap();
    let warm = warm.elapsed();
    assert_eq!(count(server.url()).await, 1);
    let closing = Instant::now();
    server.close().await.unwrap();
    println!("cold start {cold:?}, warm start {warm:?}, stop {:?}", closing.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_user_stops_it_unless_it_was_started_to_stay() {
    let dir = private_dir();
    let options = options(dir.path());
    // Two at once: one starts it, the other waits and adopts it.
    let (first, second) = tokio::join!(Server::start(&options), Server::start(&options));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.url(), second.url());
    let started = pid(&options).await;
    assert!(matches!(Server::stop(&options).await, Err(ServerError::InUse)));
    first.close().await.unwrap();
    assert_eq!(pid(&options).await, started, "the second still uses it");
    second.close().await.unwrap();
    assert_eq!(Server::status(&options).await.unwrap(), Status::Stopped);

    let url = Server::start_kept(&options).await.unwrap();
    let user = Server::start(&options).await.unwrap();
    assert_eq!(user.url(), url);
    user.close().await.unwrap();
    assert!(matches!(Server::status(&options).await.unwrap(), Status::Running { kept: true, .. }));
    assert!(Server::stop(&options).await.unwrap());
    assert!(!Server::stop(&options).await.unwrap());
    assert_eq!(Server::status(&options).await.unwrap(), Status::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_recovers_and_a_left_one_is_adopted() {
    let dir = private_dir();
    let options = options(dir.path());
    let server = Server::start(&options).await.unwrap();
    execute(server.url(), "create table t (x int); insert into t select generate_series(1, 1000)").await;
    // As after `kill -9` of this program: the registration is gone, the server runs on.
    drop(server);
    let left = pid(&options).await;
    let server = Server::start(&options).await.unwrap();
    assert_eq!(pid(&options).await, left);

    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(left).unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    until("the postmaster is dead", || {
        fs::read_to_string(format!("/proc/{left}/stat")).map_or(true, |stat| stat.contains(") Z"))
    })
    .await;
    assert!(options.data_dir.join("postgres/data/postmaster.pid").exists(), "left behind by the dead");
    let recovering = Instant::now();
    let again = Server::start(&options).await.unwrap();
    println!("start with crash recovery {:?}", recovering.elapsed());
    assert_ne!(pid(&options).await, left);
    assert_eq!(count(again.url()).await, 1000);
    server.close().await.unwrap();
    again.close().await.unwrap();
    assert_eq!(Server::status(&options).await.unwrap(), Status::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_path_with_odd_characters_still_works() {
    let dir = private_dir();
    let deep = dir.path().join("a folder, with ünusual & long + names".repeat(3)).join("x".repeat(60));
    fs::create_dir_all(&deep).unwrap();
    let options = options(&deep);
    let server = Server::start(&options).await.unwrap();
    assert!(server.url().contains("host=/tmp/spoken-"), "{}", server.url());
    execute(server.url(), "create table t (x int)").await;
    server.close().await.unwrap();
    for entry in fs::read_dir("/tmp").unwrap().flatten() {
        // Only an empty directory is left: remove ours.
        if entry.file_name().to_string_lossy().starts_with("spoken-") {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_with_a_space_works_in_place() {
    let dir = private_dir();
    let spaced = dir.path().join("a b");
    fs::create_dir(&spaced).unwrap();
    let options = options(&spaced);
    let server = Server::start(&options).await.unwrap();
    assert!(server.url().contains("/a%20b/"), "{}", server.url());
    server.close().await.unwrap();
}

#[tokio::test]
async fn what_is_missing_or_foreign_is_named() {
    let dir = private_dir();
    let nowhere = ServerOptions::new(dir.path().join("data"), dir.path().join("tools"));
    let missing = Server::start(&nowhere).await.unwrap_err();
    assert!(matches!(missing, ServerError::MissingBinaries(_)));
    assert!(missing.to_string().contains("./scripts/setup") && missing.to_string().contains("DATABASE_URL"));

    let options = options(dir.path());
    fs::create_dir_all(options.data_dir.join("postgres/data")).unwrap();
    fs::write(options.data_dir.join("postgres/data/PG_VERSION"), "13\n").unwrap();
    let foreign = Server::start(&options).await.unwrap_err();
    assert!(matches!(&foreign, ServerError::WrongMajor { found, .. } if found == "13"), "{foreign}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_start_says_why() {
    let dir = private_dir();
    let options = options(dir.path());
    Server::start(&options).await.unwrap().close().await.unwrap();
    fs::write(options.data_dir.join("postgres/data/postgresql.conf"), "no_such_setting = 1\n").unwrap();
    let failed = Server::start(&options).await.unwrap_err();
    assert!(matches!(failed, ServerError::Start(_)));
    assert!(failed.to_string().contains("no_such_setting"), "{failed}");
}

/// Root in a container has few capabilities: above all, it may not look into other users' processes, nor read
/// what it likes (`CAP_DAC_READ_SEARCH`). The life of a server once more, so.
#[test]
fn root_in_a_container_is_enough() {
    if !nix::unistd::geteuid().is_root() {
        println!("not root: nothing to give up");
        return;
    }
    let output = std::process::Command::new("setpriv")
        .arg("--bounding-set=-dac_read_search,-sys_ptrace,-sys_admin,-sys_resource,-net_admin")
        .arg("--inh-caps=-all")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "postgres::a_server_is_made_used_stopped_and_started_again"])
        .args(["postgres::a_killed_server_recovers_and_a_left_one_is_adopted"])
        .args(["postgres::the_last_user_stops_it_unless_it_was_started_to_stay"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("3 passed"), "{text}");
}

//! What cannot work is said so that it can be put right: the thing is named, the exit code is right, everything else goes
//! on, and no file is read that nobody named.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::Value;
use spoken::postgres::{Server as Postgres, ServerOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::cli::{Library, Ran, embedding_model, ffmpeg, finish, repository, shell, speech};
use super::postgres::tools_dir;
use super::server::{Fault, Page, Server};
use super::store::database;

/// A source that comes to nothing.
struct Bad {
    /// The source as typed; what names it in messages is its last part.
    source: String,
    /// `FailureClass`.
    class: &'static str,
    /// In the message or its remedy.
    says: &'static str,
}

impl Bad {
    fn name(&self) -> &str {
        self.source.trim_end_matches('/').rsplit(['/', '@']).next().unwrap()
    }
}

/// Tells whether a file was opened since.
struct Watch(Inotify);

impl Watch {
    fn on(path: &Path) -> Self {
        let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        watch.add_watch(path, AddWatchFlags::IN_OPEN | AddWatchFlags::IN_ACCESS).unwrap();
        Self(watch)
    }

    fn opened(&self) -> bool {
        self.0.read_events().is_ok_and(|events| !events.is_empty())
    }
}

/// Files that are not what they seem. `canary` is a talk that none of them may bring in.
fn bad_files(dir: &Path, talk: &Path, canary: &Path) -> Vec<Bad> {
    let at = |name: &str| dir.join(name);
    let write = |name: &str, content: &[u8]| fs::write(at(name), content).unwrap();
    let cut = |name: &str, share: usize| {
        let whole = fs::read(at(name)).unwrap();
        write(name, &whole[..whole.len() * share / 100]);
    };
    write("empty.mp4", b"");
    write("prose.mp4", b"It was a dark and stormy night.\n");
    write("zeros.mp3", &[0; 8192]);
    write("archive.mp4", b"PK\x03\x04\x14\x00\x00\x00\x08\x00 not a video");
    write("concat.mp4", format!("ffconcat version 1.0\nfile '{}'\n", canary.display()).as_bytes());
    let hls = format!(
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:20\n#EXTINF:9.0,\n{}\n#EXT-X-ENDLIST\n",
        canary.display()
    );
    write("hls.mp4", hls.as_bytes());
    write("hls-by-name.m3u8", hls.as_bytes());
    let dash = format!(
        "<?xml version=\"1.0\"?><MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"static\"><Period><AdaptationSet \
         mimeType=\"audio/mp4\"><Representation id=\"1\"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>",
        canary.display()
    );
    write("dash.mp4", dash.as_bytes());
    write(
        "session.mp4",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n",
    );
    ffmpeg(&[&"-i", &talk, &"-c:a", &"aac", &"-movflags", &"+faststart", &at("cut-after-its-index.mp4")]);
    ffmpeg(&[&"-i", &talk, &"-c:a", &"aac", &at("cut-before-its-index.mp4")]);
    ffmpeg(&[&"-i", &talk, &"-c:a", &"pcm_s16le", &at("cut.wav")]);
    cut("cut-after-its-index.mp4", 60);
    cut("cut-before-its-index.mp4", 60);
    cut("cut.wav", 60);
    ffmpeg(&[&"-f", &"lavfi", &"-i", &"color=c=gray:s=64x64:r=5", &"-t", &"2", &at("no-sound.mp4")]);
    ffmpeg(&[
        &"-f",
        &"lavfi",
        &"-i",
        &"anullsrc=r=16000:cl=mono",
        &"-t",
        &"1",
        &at("one-second-of-silence.wav"),
    ]);
    symlink(at("nowhere.mp4"), at("dangling.mp4")).unwrap();
    symlink(at("ring.mp4"), at("ring.mp4")).unwrap();
    nix::unistd::mkfifo(&at("pipe.mp4"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut rows = vec![
        ("empty.mp4", "empty", "is empty"),
        ("prose.mp4", "not_media", "not media"),
        ("zeros.mp3", "not_media", "not media"),
        ("archive.mp4", "not_media", "not media"),
        ("concat.mp4", "not_media", "concat"),
        ("hls.mp4", "not_media", "hls"),
        ("hls-by-name.m3u8", "not_media", "hls"),
        ("dash.mp4", "not_media", "not media"),
        ("session.mp4", "not_media", "not media"),
        ("cut-after-its-index.mp4", "truncated", "incomplete"),
        ("cut-before-its-index.mp4", "truncated", "moov atom not found"),
        ("cut.wav", "truncated", "incomplete"),
        ("no-sound.mp4", "no_audio", "no audio track"),
        ("one-second-of-silence.wav", "no_speech", "speech"),
        ("dangling.mp4", "unreadable", "No such file"),
        ("ring.mp4", "unreadable", "symbolic links"),
        ("pipe.mp4", "not_media", "not a regular file"),
        ("never-there.mp4", "unreadable", "no such file or folder"),
    ];
    if !nix::unistd::geteuid().is_root() {
        fs::copy(talk, at("locked.wav")).unwrap();
        fs::set_permissions(at("locked.wav"), fs::Permissions::from_mode(0o000)).unwrap();
        rows.push(("locked.wav", "unreadable", "Permission denied"));
    }
    rows.into_iter()
        .map(|(name, class, says)| Bad { source: at(name).to_str().unwrap().to_owned(), class, says })
        .collect()
}

/// Addresses that lead to nothing.
fn bad_addresses(server: &Server, talk: &Path, canary: &Path) -> Vec<Bad> {
    let wave = fs::read(talk).unwrap();
    server.put("/hang-up.wav", Page::new("audio/wav", wave.clone()));
    server.always("/hang-up.wav", Fault::Hangup);
    server.always("/forbidden.mp4", Fault::Status(403));
    server.always("/members", Fault::Status(403));
    server.always("/broken.mp4", Fault::Status(500));
    server.always("/round.mp4", Fault::Redirect(server.url("/and-round.mp4")));
    server.always("/and-round.mp4", Fault::Redirect(server.url("/round.mp4")));
    server.always("/to-a-file.mp4", Fault::Redirect(format!("file://{}", canary.display())));
    server.put("/empty.wav", Page::new("audio/wav", ""));
    server.put("/no-video.mp4", Page::new("video/mp4", "PK\x03\x04 this is an archive".repeat(50)));
    server.put(
        "/nothing.html",
        Page::new("text/html", "<!DOCTYPE html><html><head><title>N</title></head><body>none</body></html>"),
    );
    let hls = format!(
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:20\n#EXTINF:9.0,\nfile://{}\n#EXT-X-ENDLIST\n",
        canary.display()
    );
    server.put("/stream.m3u8", Page::new("application/vnd.apple.mpegurl", hls));
    let page = format!(
        "<!DOCTYPE html><html><head><title>C</title></head><body><audio src=\"file://{0}\"></audio><a href=\"file://{0}\">c</a></body></html>",
        canary.display()
    );
    server.put("/to-a-file.html", Page::new("text/html", page));
    let host = server.host();
    [
        (server.url("/not-there.mp4"), "not_found", "404"),
        (server.url("/forbidden.mp4"), "private", "403"),
        (server.url("/members"), "private", "403"),
        (server.url("/broken.mp4"), "network", "500"),
        (server.url("/hang-up.wav"), "network", "connection"),
        (server.url("/round.mp4"), "refused", "redirect"),
        (server.url("/to-a-file.mp4"), "refused", "not followed"),
        (server.url("/empty.wav"), "empty", "is empty"),
        (server.url("/no-video.mp4"), "not_media", "not"),
        (server.url("/nothing.html"), "not_media", "no media found"),
        (server.url("/to-a-file.html"), "refused", "file://"),
        (server.url("/stream.m3u8"), "refused", "file://"),
        ("http://no-such-host.invalid/talk.mp4".to_owned(), "network", "host not found"),
        ("http://127.0.0.1:1/talk-behind-a-closed-port.mp4".to_owned(), "network", "127.0.0.1"),
        (format!("http://anna:geheim@{host}/with-password.wav"), "refused", "password"),
        (format!("ftp://{host}/by-ftp.wav"), "refused", "http"),
        (format!("file://{}", canary.display()), "refused", "http"),
    ]
    .into_iter()
    .map(|(source, class, says)| Bad { source, class, says })
    .collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_items_are_named_and_the_rest_goes_on() {
    let library = Library::on(&database().await);
    let server = Server::start().await;
    let (talk, _) = speech("talk.wav", 7201, 9, &[]);
    let (canary, _) = speech("canary.wav", 7202, 9, &[]);
    let (dir, apart) = (library.folder("bad"), library.folder("apart").join("canary.wav"));
    fs::copy(&canary, &apart).unwrap();
    let watch = Watch::on(&apart);
    let mut rows = bad_files(&dir, &talk, &apart);
    rows.extend(bad_addresses(&server, &talk, &apart));

    // All at once, with a good one among them.
    let mut arguments = vec!["ingest", "--json"];
    let middle = rows.len() / 2;
    for (n, row) in rows.iter().enumerate() {
        if n == middle {
            arguments.push(talk.to_str().unwrap());
        }
        arguments.push(&row.source);
    }
    let all = library.run(&arguments);
    let summary = all.json();
    assert!(!watch.opened(), "a file that nobody named was opened: {all}");
    let failures = summary["failures"].as_array().unwrap();
    let mut wrong = Vec::new();
    for row in &rows {
        let matching: Vec<&Value> =
            failures.iter().filter(|f| text(&f["source"]).ends_with(row.name())).collect();
        match matching.as_slice() {
            [failure] => wrong.extend(complaint(row, failure, &all)),
            other => wrong.push(format!("{}: {} failures", row.source, other.len())),
        }
    }
    assert!(wrong.is_empty(), "{}\n{all}", wrong.join("\n"));
    assert_eq!(all.code, 1, "{all}");
    assert_eq!((summary["done"].as_u64(), summary["failed"].as_u64()), (Some(1), Some(rows.len() as u64)));
    assert!(
        !all.stderr.contains("geheim") && !all.stdout.contains("geheim"),
        "a password is repeated: {all}"
    );
    library.assert_in_order();

    // Each alone, with the good one; a few at a time, because some wait for the network.
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Relaxed)) {
                    alone(&library, &talk, row);
                }
            });
        }
    });
    assert!(!watch.opened(), "a file that nobody named was opened");
    library.assert_in_order();
    let [queued, active, done, failed] = library.counts();
    assert_eq!([queued, active, done, failed], [0, 0, 1, rows.len() as u64]);
    let listed = library.ok(&["status", "--failed", "--json"]).json();
    let states: Vec<&str> = listed["items"].as_array().unwrap().iter().map(|i| text(&i["state"])).collect();
    assert_eq!(states, vec!["failed"; rows.len()]);
    let first = library.ok(&["status", "--failed", "--limit", "2"]);
    assert!(first.stderr.contains(&format!("2 of {failed} are listed")), "{first}");
    assert!(first.stdout.contains(&format!("1 done, {failed} failed")), "{first}");
    // The watch works.
    fs::read(&apart).unwrap();
    assert!(watch.opened());
}

/// A bad source beside a good one that is done already.
fn alone(library: &Library, good: &Path, row: &Bad) {
    let ran = library.run(&["ingest", "--json", good.to_str().unwrap(), &row.source]);
    assert_eq!(ran.code, 1, "{}: {ran}", row.source);
    let summary = ran.json();
    assert_eq!((summary["skipped"].as_u64(), summary["failed"].as_u64()), (Some(1), Some(1)), "{ran}");
    let wrong = complaint(row, &summary["failures"][0], &ran);
    assert_eq!(wrong, None, "{ran}");
}

/// What is wrong with how a failure was told.
fn complaint(row: &Bad, failure: &Value, ran: &Ran) -> Option<String> {
    let said = format!("{} {}", text(&failure["message"]), text(&failure["remedy"]));
    let right = text(&failure["class"]) == row.class && said.contains(row.says);
    if !right {
        return Some(format!(
            "{}: expected {:?} saying {:?}, but it is {:?}: {said}",
            row.source,
            row.class,
            row.says,
            text(&failure["class"])
        ));
    }
    let told = ran.stderr.lines().any(|line| line.contains(row.name()));
    (!told).then(|| format!("{} is not named on standard error", row.source))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_contains_itself_is_taken_once() {
    let library = Library::on(&database().await);
    let (talk, _) = speech("talk.wav", 7201, 9, &[]);
    let folder = library.folder("loop");
    fs::create_dir_all(folder.join("a/b")).unwrap();
    fs::copy(talk, folder.join("a/talk.wav")).unwrap();
    symlink(&folder, folder.join("a/b/up")).unwrap();
    symlink(".", folder.join("a/self")).unwrap();
    fs::create_dir(folder.join("hollow.mp4")).unwrap();
    let ran = library.ok(&["ingest", "--json", folder.to_str().unwrap()]);
    assert_eq!((ran.json()["done"].as_u64(), ran.json()["failed"].as_u64()), (Some(1), Some(0)), "{ran}");
    assert!(ran.stderr.contains("leads back to"), "{ran}");
    let ran = library.ok(&["ingest", folder.join("hollow.mp4").to_str().unwrap()]);
    assert!(ran.stderr.contains("hollow.mp4: 0 items"), "{ran}");
}

/// A set-up that cannot work.
struct Wrong {
    what: &'static str,
    /// Arguments instead of `ingest` and the talk.
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    dotenv: &'static str,
    /// The exit code: 3 for what may go away by itself.
    code: i32,
    /// All of these on standard error.
    says: Vec<String>,
}

impl Wrong {
    fn new(what: &'static str, says: &[&str]) -> Self {
        let says = says.iter().map(|&s| s.to_owned()).collect();
        Self { what, arguments: Vec::new(), environment: Vec::new(), dotenv: "", code: 2, says }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    fn dotenv(self, dotenv: &'static str) -> Self {
        Self { dotenv, ..self }
    }

    fn passing(self) -> Self {
        Self { code: 3, ..self }
    }

    fn typed(self, arguments: &str) -> Self {
        Self { arguments: arguments.split(' ').map(str::to_owned).collect(), ..self }
    }
}

/// A server whose PostgreSQL has no pgvector, as a distribution's own has none.
async fn plain_postgres(library: &Library) -> Postgres {
    let tools = library.folder("tools-without-pgvector");
    // The programs find their libraries beside the package that they came in.
    let installed = tools_dir().join("postgres").canonicalize().unwrap();
    let package = installed.parent().unwrap();
    let copy = tools.join("site").join(package.file_name().unwrap());
    fs::create_dir_all(&copy).unwrap();
    shell(Command::new("cp").arg("-a").arg(&installed).arg(&copy));
    for beside in fs::read_dir(package.parent().unwrap()).unwrap().flatten() {
        let name = beside.file_name();
        if name.to_str().unwrap().starts_with(package.file_name().unwrap().to_str().unwrap())
            && name.to_str().unwrap().ends_with(".libs")
        {
            symlink(beside.path(), tools.join("site").join(name)).unwrap();
        }
    }
    symlink(copy.join(installed.file_name().unwrap()), tools.join("postgres")).unwrap();
    let mut hidden = 0;
    for entry in walkdir::WalkDir::new(tools.join("site")).into_iter().flatten() {
        if entry.file_name() == "vector.control" {
            fs::remove_file(entry.path()).unwrap();
            hidden += 1;
        }
    }
    assert_eq!(hidden, 1);
    Postgres::start(&ServerOptions::new(library.folder("plain"), tools)).await.unwrap()
}

/// The same database, for a user who may only look.
async fn as_a_guest(database: &str) -> String {
    let mut url: url::Url = database.parse().unwrap();
    let guest = format!("guest_{}", uuid::Uuid::new_v4().simple());
    let mut connection = PgConnection::connect(database).await.unwrap();
    let sql = format!("create role {guest} login password 'knock-knock'");
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
    connection.close().await.unwrap();
    url.set_username(&guest).unwrap();
    url.set_password(Some("knock-knock")).unwrap();
    url.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_set_up_is_refused_with_advice() {
    let library = Library::on(&database().await);
    let (talk, _) = speech("talk.wav", 7201, 9, &[]);
    let talk = talk.to_str().unwrap().to_owned();
    let plain = plain_postgres(&library).await;
    let guest = as_a_guest(&database().await).await;

    let models = library.folder("models");
    let folder = |name: &str| {
        let path = models.join(name);
        fs::create_dir_all(&path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let copy = |from: &Path, name: &str, without: &str| {
        let to = PathBuf::from(folder(name));
        for entry in fs::read_dir(from).unwrap().flatten() {
            if entry.file_name() != without {
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
        to
    };
    let whisper = repository().join("tests/fixtures/whisper-micro");
    let headless = copy(&whisper, "whisper-without-model", "model.bin");
    let cut = copy(&whisper, "whisper-cut", "");
    let whole = fs::read(cut.join("model.bin")).unwrap();
    fs::write(cut.join("model.bin"), &whole[..whole.len() / 2]).unwrap();
    let garbled = copy(&whisper, "whisper-garbled", "");
    fs::write(garbled.join("tokenizer.json"), "{").unwrap();
    let mute = copy(&embedding_model(), "embedding-without-tokenizer", "tokenizer.json");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let file = models.join("a-file");
    fs::write(&file, "x").unwrap();

    // A folder that is called like a model is not meant by the name.
    fs::create_dir(library.cwd().join("smal")).unwrap();

    let mut rows = vec![
        Wrong::new("no such model directory", &["/no/such/model", "WHISPER_MODEL"])
            .with("WHISPER_MODEL", "/no/such/model"),
        Wrong::new("an unknown model", &["smal", "small"]).with("WHISPER_MODEL", "smal"),
        Wrong::new("a model without weights", &["whisper-without-model", "model.bin"])
            .with("WHISPER_MODEL", path(&headless)),
        Wrong::new("a model cut in half", &["whisper-cut", "cut off"]).with("WHISPER_MODEL", path(&cut)),
        Wrong::new("a garbled tokenizer", &["whisper-garbled", "tokenizer"])
            .with("WHISPER_MODEL", path(&garbled)),
        Wrong::new("no such embedding directory", &["/no/such/embedder", "EMBEDDING_MODEL"])
            .with("EMBEDDING_MODEL", "/no/such/embedder"),
        Wrong::new("an unknown embedding model", &["multilingual-e5-smal", "intfloat/multilingual-e5-small"])
            .with("EMBEDDING_MODEL", "intfloat/multilingual-e5-smal"),
        Wrong::new("an empty embedding directory", &["embedder-empty", "model.onnx"])
            .with("EMBEDDING_MODEL", folder("embedder-empty")),
        Wrong::new(
            "an embedding model without tokenizer",
            &["embedding-without-tokenizer", "tokenizer.json"],
        )
        .with("EMBEDDING_MODEL", path(&mute)),
        Wrong::new("a line of .env that is none", &[".env:2", "NAME=value"])
            .dotenv("IO_WORKERS=3\nwhat is this\n"),
        Wrong::new("an open quotation mark in .env", &[".env:1"]).dotenv("COOKIES_FILE=\"cookies.txt\n"),
        Wrong::new("a typing error in .env", &[".env:1", "WHISPER_MODLE", "WHISPER_MODEL"])
            .dotenv("WHISPER_MODLE=small\n"),
        Wrong::new("a word for a number", &["IO_WORKERS", "many", "environment"]).with("IO_WORKERS", "many"),
        Wrong::new("a device that is none", &["WHISPER_DEVICE", "gpuu", "cuda"])
            .with("WHISPER_DEVICE", "gpuu"),
        Wrong::new("a list that falls", &["TEMPERATURE", "rising numbers"]).with("TEMPERATURE", "0.4,0.2"),
        Wrong::new("a quality that is none", &["--quality", "hihg", "fast, balanced, quality"])
            .typed("ingest --quality hihg x"),
        Wrong::new("a language that is not allowed", &["WHISPER_LANGUAGE", "de, es"])
            .with("WHISPER_LANGUAGE", "en")
            .with("WHISPER_LANGUAGES", "de,es"),
        Wrong::new("a model that cannot translate", &["large-v3-turbo", "translate"])
            .with("WHISPER_MODEL", "large-v3-turbo")
            .with("WHISPER_TASK", "translate"),
        Wrong::new("an unknown profile", &["gpux", "gpu"]).with("SPOKEN_PROFILE", "gpux"),
        Wrong::new("an unknown key", &["--set", "beam_sise", "beam_size"])
            .typed("ingest --set beam_sise=1 x"),
        Wrong::new("nobody at the database's address", &["127.0.0.1:1", "DATABASE_URL"])
            .with("DATABASE_URL", "postgres://me:geheim@127.0.0.1:1/spoken")
            .passing(),
        Wrong::new("an address of another database", &["DATABASE_URL", "postgres://"])
            .with("DATABASE_URL", "mysql://me:geheim@127.0.0.1/spoken"),
        Wrong::new("a server without pgvector", &["pgvector", "DATABASE_URL"])
            .with("DATABASE_URL", plain.url()),
        Wrong::new("a guest in the database", &["may not create", "CREATE"]).with("DATABASE_URL", guest),
        Wrong::new("no tools", &["./scripts/setup"]).with("SPOKEN_TOOLS_DIR", folder("no-tools")),
        Wrong::new("a file for a data directory", &["a-file"]).with("SPOKEN_DATA_DIR", path(&file)),
        Wrong::new("no cookies", &["/no/cookies.txt", "COOKIES_FILE"])
            .with("COOKIES_FILE", "/no/cookies.txt"),
        Wrong::new("no list", &["no-list.txt"]).typed("ingest --from no-list.txt"),
        Wrong::new("an unknown command", &["ingets", "ingest"]).typed("ingets x"),
        Wrong::new("an unknown option", &["--limitt", "--limit"]).typed("ingest --limitt 3 x"),
        Wrong::new("something nobody knows", &["nonesuch", "spoken status"]).typed("show nonesuch"),
        Wrong::new("the text of something nobody knows", &["nonesuch"]).typed("export nonesuch"),
        Wrong::new("nothing to look for", &["QUERY"]).typed("search"),
    ];
    if !cfg!(feature = "cuda") {
        let row = Wrong::new("a GPU, without CUDA", &["built without CUDA", "WHISPER_DEVICE=auto"]);
        rows.push(row.with("WHISPER_DEVICE", "cuda"));
    }
    let mut wrong = Vec::new();
    for row in &rows {
        let arguments: Vec<&str> = if row.arguments.is_empty() {
            vec!["ingest", &talk]
        } else {
            row.arguments.iter().map(String::as_str).collect()
        };
        fs::write(library.cwd().join(".env"), row.dotenv).unwrap();
        let mut command = library.command(&arguments);
        command.envs(row.environment.iter().map(|(name, value)| (name, value)));
        let ran = finish(command);
        let missing: Vec<&String> = row.says.iter().filter(|said| !ran.stderr.contains(*said)).collect();
        if ran.code != row.code
            || !missing.is_empty()
            || !ran.stdout.is_empty()
            || ran.stderr.contains("geheim")
        {
            wrong.push(format!("=== {}: {missing:?} is not said, or {ran}", row.what));
        }
    }
    fs::remove_file(library.cwd().join(".env")).unwrap();
    plain.close().await.unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(library.processes(), []);
    // Models are read after the listing: the talk may be known, but nothing was tried.
    let [_, active, done, failed] = library.counts();
    assert_eq!([active, done, failed], [0, 0, 0], "a run that was refused worked on something");
}

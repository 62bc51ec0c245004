//! Media that do not come as they should, a disk that is full, and tools that hang.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::cli::{ffmpeg, shell, speech};
use crate::store::database;

/// A file system of a few megabytes in memory; gone when dropped. Only for root.
pub(super) struct Disk {
    dir: PathBuf,
    own: Option<TempDir>,
}

impl Disk {
    /// With room for so many MiB, in a directory of its own.
    pub(super) fn of(mib: u32) -> Self {
        let own = tempfile::tempdir().unwrap();
        let mut disk = Self::at(&own.path().join("disk"), mib);
        disk.own = Some(own);
        disk
    }

    /// With room for so many MiB, in `dir`.
    pub(super) fn at(dir: &Path, mib: u32) -> Self {
        fs::create_dir_all(dir).unwrap();
        let options = format!("size={mib}m,mode=0711");
        shell(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir));
        Self { dir: dir.to_owned(), own: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.dir
    }

    /// Writes a file that leaves so many KiB.
    pub(super) fn fill(&self, leave_kib: usize) -> PathBuf {
        let path = self.dir.join("filler");
        let reserve = self.dir.join("reserve");
        fs::write(&reserve, vec![1; leave_kib << 10]).unwrap();
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        fs::remove_file(reserve).unwrap();
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open there keeps it until it ends.
        let _ = Command::new("umount").arg("-l").arg(&self.dir).output();
        drop(self.own.take());
    }
}

/// Nine seconds of speech.
fn talk(seed: u32) -> Vec<u8> {
    fs::read(speech("talk.wav", seed, 9, &[]).0).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_that_stall_break_or_crawl_arrive_in_the_first_attempt() {
    let url = database().await;
    let library = Library::on(&url);
    let server = Server::start().await;
    let mut lengths = Vec::new();
    for (n, path) in ["/stalls.wav", "/breaks.wav", "/crawls.wav"].iter().enumerate() {
        let body = talk(7201 + n as u32);
        lengths.push(body.len());
        server.put(path, Page::new("audio/wav", body));
    }
    after_the_listing(&server, "/stalls.wav", [Fault::Stall(lengths[0] / 2)]);
    after_the_listing(&server, "/breaks.wav", [Fault::Cut(lengths[1] / 2), Fault::Cut(lengths[1] / 4)]);
    // Longer in all than the time without a byte that is allowed.
    let crawl = Fault::Slow(lengths[2] / 6, Duration::from_millis(300));
    after_the_listing(&server, "/crawls.wav", [crawl]);
    let addresses = ["/stalls.wav", "/breaks.wav", "/crawls.wav"].map(|path| server.url(path));
    let ended = finish(&library, &addresses.each_ref().map(String::as_str));
    assert_eq!(ended.outcome(), [3, 0, 0], "{ended}");
    assert!(ended.count("item_delayed").is_empty(), "{ended}");
    for (n, (path, requests)) in
        [("/stalls.wav", 3), ("/breaks.wav", 4), ("/crawls.wav", 2)].iter().enumerate()
    {
        assert_eq!(server.requests(path), *requests, "{path}");
        // The listing's look may have brought a whole file; what is lost in a broken connection is little.
        assert!(server.sent(path) < lengths[n] as u64 * 5 / 2, "{path}: begun again instead of resumed");
    }
    assert_eq!(number(&url, "select max(attempts) from media").await, 1);
    invariants(&url, &[&library], Rest::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_truncated_is_fetched_again() {
    let url = database().await;
    let library = Library::on(&url);
    let server = Server::start().await;
    let (wave, _) = speech("talk.wav", 7201, 9, &[]);
    let mp4 = library.folder("made").join("talk.mp4");
    ffmpeg(&[&"-i", &wave, &"-c:a", &"aac", &"-movflags", &"+faststart", &mp4]);
    // Without its length, a cut answer ends like a whole one.
    let pages = [("/talk.wav", "audio/wav", wave), ("/talk.mp4", "video/mp4", mp4)];
    let mut addresses = Vec::new();
    for (path, kind, file) in pages {
        let body = fs::read(file).unwrap();
        let length = body.len();
        server.put(path, Page::new(kind, body).without_length().without_ranges());
        after_the_listing(&server, path, [Fault::Cut(length * 6 / 10)]);
        addresses.push(server.url(path));
    }
    let ended = finish(&library, &[&addresses[0], &addresses[1]]);
    assert_eq!(ended.outcome(), [2, 0, 0], "{ended}");
    assert_eq!(ended.count("item_delayed").len(), 2, "{ended}");
    invariants(&url, &[&library], Rest::Finished).await;
    assert_eq!(number(&url, "select count(*) from media where attempts = 2 and duration_ms > 8000").await, 2);

    // What never comes whole is given up.
    server.put("/never.wav", Page::new("audio/wav", talk(7202)).without_length().without_ranges());
    server.always("/never.wav", Fault::Cut(200_000));
    let mut command = ingest(&library, &[&server.url("/never.wav")]);
    command.env("MAX_ATTEMPTS", "2");
    let ended = Run::start(command).wait();
    assert_eq!(
        (ended.code, &ended.summary["failures"][0]["class"]),
        (1, &Value::from("truncated")),
        "{ended}"
    );
    assert_eq!(server.requests("/never.wav"), 3, "the listing's look and two attempts");
    invariants(&url, &[&library], Rest::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_pauses_downloads_until_there_is_room() {
    if !may_mount() {
        return;
    }
    let url = database().await;
    let library = Library::on(&url);
    let disk = Disk::at(&library.data().join("spool"), 8);
    let server = Server::start().await;
    let addresses = [("/a.wav", 7201), ("/b.wav", 7202)].map(|(path, seed)| {
        server.put(path, Page::new("audio/wav", talk(seed)));
        server.url(path)
    });
    let filler = disk.fill(512);
    let mut command = ingest(&library, &[&addresses[0], &addresses[1]]);
    command.env("MIN_FREE_DISK_MB", "2");
    let mut run = Run::start(command);
    run.until("it says that it waits", |e| {
        e["event"] == "noticed" && e["message"].as_str().is_some_and(|m| m.starts_with("downloads wait"))
    });
    assert_eq!(number(&url, "select count(*) from media where attempts > 0").await, 0, "nothing was begun");
    fs::remove_file(filler).unwrap();
    let ended = run.wait();
    assert_eq!((ended.code, ended.outcome()), (0, [2, 0, 0]), "{ended}");
    assert_eq!(number(&url, "select max(attempts) from media").await, 1);
    invariants(&url, &[&library], Rest::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_costs_what_was_fetched_and_no_more() {
    if !may_mount() {
        return;
    }
    let url = database().await;
    let library = Library::on(&url);
    let disk = Disk::at(&library.data().join("spool"), 8);
    let server = Server::start().await;
    server.put("/a.wav", Page::new("audio/wav", talk(7201)));
    let filler = disk.fill(256);
    let mut command = ingest(&library, &[&server.url("/a.wav")]);
    command.env("MIN_FREE_DISK_MB", "0");
    let mut run = Run::start(command);
    let (_, delayed) = run.until_event("item_delayed");
    assert!(delayed["message"].as_str().is_some_and(|m| m.contains("No space")), "{delayed}");
    let left: Vec<_> = library.spooled().into_iter().filter(|p| p.is_file() && *p != filler).collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "what fills the disk stays there");
    fs::remove_file(filler).unwrap();
    let ended = run.wait();
    assert_eq!((ended.code, ended.outcome()), (0, [1, 0, 0]), "{ended}");
    invariants(&url, &[&library], Rest::Finished).await;
}

/// Puts a talk on the server as a stream in pieces, which only yt-dlp can fetch; its address.
pub(super) fn stream(server: &Server, name: &str, talk: &Path) -> String {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join(format!("{name}.m3u8"));
    ffmpeg(&[
        &"-i",
        &talk,
        &"-c:a",
        &"aac",
        &"-f",
        &"hls",
        &"-hls_time",
        &"4",
        &"-hls_list_size",
        &"0",
        &list,
    ]);
    for entry in fs::read_dir(dir.path()).unwrap().flatten() {
        let path = format!("/{}", entry.file_name().to_str().unwrap());
        let kind = if path.ends_with("m3u8") { "application/vnd.apple.mpegurl" } else { "video/mp2t" };
        server.put(&path, Page::new(kind, fs::read(entry.path()).unwrap()));
    }
    server.url(&format!("/{name}.m3u8"))
}

/// The tools, with a yt-dlp that hangs, with a child called ffmpeg, at a download for as long as there is a file `hang`.
pub(super) fn hanging_tools(library: &Library) -> (PathBuf, PathBuf) {
    let (real, tools) = (tools_dir(), library.folder("tools"));
    let hang = tools.join("hang");
    let bin = tools.join("python/bin");
    if !bin.is_dir() {
        fs::create_dir_all(&bin).unwrap();
        for part in ["postgres", "lib", "models"] {
            symlink(real.join(part), tools.join(part)).unwrap();
        }
        symlink(real.join("python/bin/deno"), bin.join("deno")).unwrap();
        fs::copy("/bin/sleep", tools.join("ffmpeg")).unwrap();
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *--no-simulate*)\n  if rm '{}' 2>/dev/null; then '{}' 600 & wait; fi;;\nesac\n\
             exec '{}' \"$@\"\n",
            hang.display(),
            tools.join("ffmpeg").display(),
            real.join("python/bin/yt-dlp").display()
        );
        fs::write(bin.join("yt-dlp"), script).unwrap();
        fs::set_permissions(bin.join("yt-dlp"), fs::Permissions::from_mode(0o755)).unwrap();
    }
    (tools, hang)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_hangs_is_ended_with_its_children_and_tried_again() {
    let url = database().await;
    let library = Library::on(&url);
    let server = Server::start().await;
    let address = stream(&server, "talk", &speech("talk.wav", 7201, 9, &[]).0);
    let (tools, hang) = hanging_tools(&library);
    fs::write(&hang, "").unwrap();
    let mut command = ingest(&library, &[&address]);
    // Silent for eight times as long; on a busy machine it takes seconds to start.
    command.env("SPOKEN_TOOLS_DIR", &tools).env("NETWORK_TIMEOUT", "2");
    let mut run = Run::start(command);
    run.until_step("fetch");
    until("ffmpeg hangs", || library.processes().iter().any(|(_, name)| name == "ffmpeg"));
    let hung = Instant::now();
    until("it is ended", || !library.processes().iter().any(|(_, name)| name == "ffmpeg"));
    println!("ended after {:?}", hung.elapsed());
    let ended = run.wait();
    assert_eq!((ended.code, ended.outcome()), (0, [1, 0, 0]), "{ended}");
    assert_eq!(number(&url, "select max(attempts) from media").await, 1, "it cost no attempt");
    invariants(&url, &[&library], Rest::Finished).await;
}

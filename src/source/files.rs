//! Local files and folders. Media is recognised by its content; a name only decides whether a file without media in it
//! is worth a word.

use std::{
    collections::HashSet,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use async_channel::{Sender, bounded};
use futures::StreamExt;
use walkdir::WalkDir;

use super::{About, FileStamp, Found, Lister, SourceOptions, failed_path, order};
use crate::media::{Failure, FailureClass, Item, Locator, MediaId};
use crate::web::media_extension;

/// Answers whether a file was looked at already, in this state.
pub type Seen<'a> = &'a (dyn Fn(&FileStamp) -> bool + Send + Sync);

/// What looking through a folder again brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Files that were not seen before, in the order of names. What has no media in it is `None`.
    pub new: Vec<(FileStamp, Option<Found>)>,
    /// Files there are.
    pub files: usize,
    /// Of these, left for another time because something still writes to them.
    pub growing: usize,
    /// Folders that could not be looked into, and the like.
    pub problems: Vec<Found>,
}

/// What the walk through a folder meets.
enum Met {
    File(PathBuf),
    Other(Box<Found>),
}

impl Lister {
    pub(super) async fn list_one_file(&self, path: PathBuf, out: &Sender<Found>) {
        if let Some(found) = self.inspect(path, true).await {
            let _ = out.send(found).await;
        }
    }

    pub(super) async fn list_folder(&self, root: &Path, out: &Sender<Found>) {
        let (met, paths) = bounded(256);
        let (root, exclude) = (root.to_owned(), self.options().exclude.clone());
        let walk =
            tokio::task::spawn_blocking(move || walk(&root, &exclude, |m| met.send_blocking(m).is_ok()));
        let lister = self.clone();
        order::in_order(paths, self.options().file_workers, out, move |met, out| {
            let lister = lister.clone();
            async move {
                let found = match met {
                    Met::File(path) => lister.inspect(path, false).await,
                    Met::Other(found) => Some(*found),
                };
                if let Some(found) = found {
                    let _ = out.send(found).await;
                }
            }
        })
        .await;
        if let Err(error) = walk.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }

    /// Looks through `root` for what is new: of a file for which `seen` says yes nothing is read but its size and time. A file
    /// that was written to less than `settle` ago, or while it was read, counts as growing.
    ///
    /// # Errors
    /// [`FailureClass::Unreadable`] where the folder itself cannot be entered.
    pub async fn look_through(
        &self,
        root: &Path,
        seen: Seen<'_>,
        settle: Duration,
    ) -> Result<Looked, Failure> {
        let entered = root.to_owned();
        let (looked, exclude) = (root.to_owned(), self.options().exclude.clone());
        let walked = tokio::task::spawn_blocking(move || {
            fs::read_dir(&entered).map_err(|e| unreadable(&entered, &e))?;
            let (mut stamps, mut problems) = (Vec::new(), Vec::new());
            walk(&looked, &exclude, |met| {
                match met {
                    // Gone since the walk met it.
                    Met::File(path) => stamps.extend(stamp(&path)),
                    Met::Other(found) => problems.push(*found),
                }
                true
            });
            Ok::<_, Failure>((stamps, problems))
        });
        let (stamps, problems) = match walked.await {
            Ok(walked) => walked?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down.
            Err(_) => return Ok(Looked::default()),
        };
        let mut looked = Looked { files: stamps.len(), problems, ..Looked::default() };
        let now = SystemTime::now();
        let fresh: Vec<FileStamp> = stamps.into_iter().filter(|stamp| !seen(stamp)).collect();
        let (growing, still): (Vec<_>, Vec<_>) =
            fresh.into_iter().partition(|stamp| written_within(stamp, now, settle));
        looked.growing = growing.len();
        let mut inspected = futures::stream::iter(still)
            .map(|before| async move {
                let found = self.inspect(before.path.clone(), false).await;
                let path = before.path.clone();
                let after = tokio::task::spawn_blocking(move || stamp(&path)).await.ok().flatten();
                (after.as_ref() == Some(&before)).then_some((before, found))
            })
            .buffered(self.options().file_workers);
        while let Some(one) = inspected.next().await {
            match one {
                Some(new) => looked.new.push(new),
                None => looked.growing += 1,
            }
        }
        Ok(looked)
    }

    async fn inspect(&self, path: PathBuf, named: bool) -> Option<Found> {
        let options = self.options().clone();
        match tokio::task::spawn_blocking(move || inspect(&path, named, &options)).await {
            Ok(found) => found,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down.
            Err(_) => None,
        }
    }
}

/// Walks through `root` in the order of names, following links, and tells `to` of every file. Hidden files and folders
/// and those in `exclude` are left out, a folder that two links lead to is entered once. Stops when `to` returns `false`.
fn walk(root: &Path, exclude: &[PathBuf], mut to: impl FnMut(Met) -> bool) {
    let exclude: Vec<PathBuf> = exclude.iter().filter_map(|p| p.canonicalize().ok()).collect();
    let mut entered = HashSet::new();
    let entries =
        WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter().filter_entry(move |entry| {
            let hidden = entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".");
            if hidden {
                return false;
            }
            if !entry.file_type().is_dir() {
                return true;
            }
            // The root itself is never excluded: it was asked for by name.
            let left_out = entry.depth() > 0
                && !exclude.is_empty()
                && entry.path().canonicalize().is_ok_and(|path| exclude.contains(&path));
            let first_time = entry.metadata().map_or(true, |m| entered.insert((m.dev(), m.ino())));
            first_time && !left_out
        });
    for entry in entries {
        let met = match entry {
            Ok(entry) if entry.file_type().is_file() => Met::File(entry.into_path()),
            Ok(_) => continue,
            Err(error) => match broken(&error) {
                Some(found) => Met::Other(Box::new(found)),
                None => continue,
            },
        };
        if !to(met) {
            return;
        }
    }
}

/// The stamp of the file at `path`, under its absolute path; none where it is gone.
fn stamp(path: &Path) -> Option<FileStamp> {
    let path = absolute(path);
    fs::metadata(&path).ok().filter(Metadata::is_file).map(|m| FileStamp::of(&path, &m))
}

/// Whether something was written to the file less than `settle` before `now`. By the clock of this machine, as far as the file
/// system's agrees with it: a time more than `settle` in the future says nothing about now.
fn written_within(stamp: &FileStamp, now: SystemTime, settle: Duration) -> bool {
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX));
    let settle = i64::try_from(settle.as_nanos()).unwrap_or(i64::MAX);
    now.saturating_sub(stamp.mtime_ns).unsigned_abs() < settle.unsigned_abs()
}

/// What to say of something the walk could not enter; nothing of a link into nowhere that does not look like media.
fn broken(error: &walkdir::Error) -> Option<Found> {
    let path = error.path()?;
    if let Some(ancestor) = error.loop_ancestor() {
        let notice =
            format!("{} leads back to {}; its files are taken once", path.display(), ancestor.display());
        return Some(Found::Notice(notice));
    }
    let cause = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
    let is_link = path.is_symlink();
    if is_link && error.io_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound) {
        let failure = Failure::new(
            FailureClass::Unreadable,
            format!("{} is a link to a file that is not there", path.display()),
        );
        return media_extension(&path.to_string_lossy()).then(|| failed_path(&absolute(path), failure));
    }
    let failure =
        Failure::new(FailureClass::Unreadable, format!("failed to look into {}: {cause}", path.display()))
            .with_remedy("give this user the right to read it");
    Some(failed_path(&absolute(path), failure))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What the file at `path` is: an item, a failure, or nothing to speak of (when it was not `named`, only found). Reads the
/// whole file, unless it is known.
fn inspect(path: &Path, named: bool, options: &SourceOptions) -> Option<Found> {
    // One spelling for one file, as far as that does not cost its name: links are what people named.
    let path = &absolute(path);
    let failed = |failure: Failure| Some(failed_path(path, failure));
    let worth_a_word = named || media_extension(&path.to_string_lossy());
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if worth_a_word => return failed(unreadable(path, &e)),
        Err(_) => return None,
    };
    if !metadata.is_file() {
        let failure =
            Failure::new(FailureClass::NotMedia, format!("{} is not a regular file", path.display()));
        return if named { failed(failure) } else { None };
    }
    let stamp = FileStamp::of(path, &metadata);
    if let Some(hash) = options.known.hash_of(&stamp) {
        return Some(item(path, hash, stamp));
    }
    match identify(path, &metadata, options) {
        Ok(hash) => Some(item(path, hash, stamp)),
        Err(failure) if worth_a_word => failed(failure),
        Err(_) => None,
    }
}

fn identify(path: &Path, metadata: &Metadata, options: &SourceOptions) -> Result<String, Failure> {
    if metadata.len() == 0 {
        return Err(Failure::new(FailureClass::Empty, format!("{} is empty", path.display())));
    }
    let file = File::open(path).map_err(|e| unreadable(path, &e))?;
    (options.is_media)(path)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(|e| unreadable(path, &e))?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let failure =
        Failure::new(FailureClass::Unreadable, format!("failed to read {}: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::PermissionDenied => failure.with_remedy("give this user the right to read it"),
        _ => failure,
    }
}

fn item(path: &Path, hash: String, stamp: FileStamp) -> Found {
    let source = path.to_string_lossy().into_owned();
    let title = path.file_stem().map_or_else(|| source.clone(), |s| s.to_string_lossy().into_owned());
    Found::Item {
        item: Item {
            media_id: MediaId::new("file", &hash),
            extractor: "file".into(),
            source_id: hash,
            locator: Locator::File(path.to_owned()),
            source,
            title,
            duration_ms: None,
        },
        stamp: Some(stamp),
        about: About::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ytdlp::{YtDlp, YtDlpOptions};
    use std::{
        os::unix::fs::symlink,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
    };

    fn options(opened: &Arc<AtomicUsize>) -> SourceOptions {
        let opened = Arc::clone(opened);
        let is_media = Arc::new(move |path: &Path| {
            opened.fetch_add(1, SeqCst);
            match fs::read(path) {
                Ok(content) if content.starts_with(b"MEDIA") => Ok(()),
                Ok(_) => Err(Failure::new(FailureClass::NotMedia, format!("{} is no media", path.display()))),
                Err(e) => Err(unreadable(path, &e)),
            }
        });
        SourceOptions::new(is_media, YtDlp::new(YtDlpOptions::in_tools(Path::new("/nonexistent"))))
    }

    async fn found_in(source: &Path, options: SourceOptions) -> Vec<Found> {
        let (tx, rx) = async_channel::unbounded();
        Lister::new(options).unwrap().list(&source.to_string_lossy(), None, &tx).await;
        drop(tx);
        let mut all = Vec::new();
        while let Ok(found) = rx.recv().await {
            all.push(found);
        }
        all
    }

    fn name(found: &Found) -> String {
        match found {
            Found::Item { item, .. } => format!("item {}", item.title),
            Found::Failed { item, failure } => format!("{} {}", failure.class.as_str(), item.title),
            Found::Notice(_) => "notice".into(),
        }
    }

    #[tokio::test]
    async fn a_folder_gives_what_is_media_and_tells_what_pretends() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("sub/deep")).unwrap();
        fs::create_dir_all(at("data")).unwrap();
        for (name, content) in [
            ("b.mp4", "MEDIA b"),
            ("a.bin", "MEDIA a"),
            ("notes.txt", "hello"),
            ("fake.mp4", "hello"),
            ("empty.mp3", ""),
            (".hidden.mp4", "MEDIA h"),
            ("sub/c.webm", "MEDIA c"),
            ("sub/deep/copy of b.mp4", "MEDIA b"),
            ("data/part.mp4", "MEDIA part"),
        ] {
            fs::write(at(name), content).unwrap();
        }
        symlink(at("sub"), at("sub/deep/loop")).unwrap();
        symlink(at("nowhere"), at("dangling.mp4")).unwrap();
        symlink(at("nowhere"), at("dangling.txt")).unwrap();
        let opened = Arc::new(AtomicUsize::new(0));
        let mut options = options(&opened);
        options.exclude = vec![at("data")];
        let found = found_in(dir.path(), options).await;
        let names: Vec<String> = found.iter().map(name).collect();
        assert_eq!(
            names,
            [
                "item a",
                "item b",
                "unreadable dangling",
                "empty empty",
                "not_media fake",
                "item c",
                "item copy of b",
                "notice",
            ]
        );
        let id = |i: usize| match &found[i] {
            Found::Item { item, .. } => item.media_id,
            other => panic!("{other:?}"),
        };
        assert_eq!(id(1), id(6), "the same content is the same item");
        assert_ne!(id(0), id(1));
    }

    #[tokio::test]
    async fn a_named_file_is_always_answered() {
        let dir = tempfile::tempdir().unwrap();
        let opened = Arc::new(AtomicUsize::new(0));
        let prose = dir.path().join("prose.txt");
        fs::write(&prose, "hello").unwrap();
        let found = found_in(&prose, options(&opened)).await;
        assert_eq!(found.iter().map(name).collect::<Vec<_>>(), ["not_media prose"]);
        let missing = found_in(&dir.path().join("missing.mp4"), options(&opened)).await;
        assert_eq!(missing.iter().map(name).collect::<Vec<_>>(), ["unreadable missing"]);
        let fifo = dir.path().join("fifo.mp4");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let found = found_in(&fifo, options(&opened)).await;
        assert_eq!(found.iter().map(name).collect::<Vec<_>>(), ["not_media fifo"]);
    }

    #[tokio::test]
    async fn known_files_are_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..20 {
            fs::write(dir.path().join(format!("{i:02}.mp4")), format!("MEDIA {i}")).unwrap();
        }
        let opened = Arc::new(AtomicUsize::new(0));
        let first = found_in(dir.path(), options(&opened)).await;
        assert_eq!(opened.load(SeqCst), 20);
        let known: std::collections::HashMap<FileStamp, String> = first
            .iter()
            .filter_map(|f| match f {
                Found::Item { item, stamp: Some(stamp), .. } => Some((stamp.clone(), item.source_id.clone())),
                _ => None,
            })
            .collect();
        fs::write(dir.path().join("05.mp4"), "MEDIA five, changed").unwrap();
        let mut again = options(&opened);
        again.known = Arc::new(known);
        let second = found_in(dir.path(), again).await;
        assert_eq!(opened.load(SeqCst), 21, "only the changed file was opened");
        assert_eq!(first.len(), second.len());
        let changed: Vec<usize> = (0..20).filter(|&i| first[i] != second[i]).collect();
        assert_eq!(changed, [5]);
    }

    #[tokio::test]
    async fn a_folder_is_looked_through_for_what_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let settle = Duration::from_secs(60);
        let old = |name: &str, content: &str| {
            let file = File::create(dir.path().join(name)).unwrap();
            io::Write::write_all(&mut &file, content.as_bytes()).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
        };
        old("a.mp4", "MEDIA a");
        old("b.txt", "prose");
        fs::write(dir.path().join("c.mp4"), "MEDIA c, so far").unwrap();
        let opened = Arc::new(AtomicUsize::new(0));
        let lister = Lister::new(options(&opened)).unwrap();
        let first = lister.look_through(dir.path(), &|_| false, settle).await.unwrap();
        assert_eq!((first.files, first.growing, first.problems.len()), (3, 1, 0));
        let names: Vec<_> = first.new.iter().map(|(_, found)| found.as_ref().map(name)).collect();
        assert_eq!(names, [Some("item a".to_owned()), None]);
        assert_eq!(opened.load(SeqCst), 2, "what grows is not opened");

        let seen: HashSet<FileStamp> = first.new.into_iter().map(|(stamp, _)| stamp).collect();
        old("c.mp4", "MEDIA c, all of it");
        let second = lister.look_through(dir.path(), &|s| seen.contains(s), settle).await.unwrap();
        assert_eq!((second.files, second.growing, second.new.len()), (3, 0, 1));
        assert_eq!(opened.load(SeqCst), 3, "only the new one was opened");
        let missing = lister.look_through(&dir.path().join("nope"), &|_| false, settle).await;
        assert_eq!(missing.unwrap_err().class, FailureClass::Unreadable);
    }

    #[tokio::test]
    async fn a_list_names_files_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/x.mp4"), "MEDIA x").unwrap();
        fs::write(dir.path().join("y.mp4"), "MEDIA y").unwrap();
        fs::write(dir.path().join("l.txt"), "# two\ny.mp4\nd\n-\nl.txt\nnope.mp4\nftp://h/z\n").unwrap();
        let opened = Arc::new(AtomicUsize::new(0));
        let found = found_in(&dir.path().join("l.txt"), options(&opened)).await;
        assert_eq!(
            found.iter().map(name).collect::<Vec<_>>(),
            ["item y", "item x", "refused -", "refused l", "unreadable nope", "refused z"]
        );
    }

    #[test]
    fn content_has_its_standard_blake3() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.mp4");
        fs::write(&path, "MEDIA").unwrap();
        let found = inspect(&path, true, &options(&Arc::new(AtomicUsize::new(0))));
        match found {
            Some(Found::Item { item, .. }) => {
                assert_eq!(item.source_id, blake3::hash(b"MEDIA").to_hex().as_str())
            }
            other => panic!("{other:?}"),
        }
    }
}

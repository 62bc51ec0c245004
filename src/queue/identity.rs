//! Who is alive on this machine: one locked file a process.
//!
//! `workers_dir/<uuid>.lock` holds one line a fact: `worker <id>` for each worker of the job library that ran
//! in the process (ids as they stand in `locked_by`), `boot <id>` and `memory-kills <count>` as they were at its
//! start, `leaving` once it was asked to stop, `crashed` if it died of itself. The lock is the kernel's
//! (`flock`), so it is gone with the process, however that ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use uuid::Uuid;

use super::QueueError;
use super::crash::End;
use super::last_words;

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> QueueError {
    let path = path.to_owned();
    move |source| QueueError::Io { what, path, source }
}

/// This process.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) id: Uuid,
    path: PathBuf,
    file: File,
    workers: Mutex<Vec<String>>,
}

impl Identity {
    /// Makes a file and locks it; it gets its name only then, so that nobody takes it for a dead one's.
    pub(super) fn take(dir: &Path) -> Result<Self, QueueError> {
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let id = Uuid::now_v7();
        let path = dir.join(format!("{id}.lock"));
        let nameless = dir.join(format!("{id}.new"));
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&nameless)
            .map_err(failed("create", &nameless))?;
        file.lock().map_err(failed("lock", &nameless))?;
        let facts = format!("boot {}\nmemory-kills {}\n", last_words::boot_id(), last_words::memory_kills());
        (&file).write_all(facts.as_bytes()).map_err(failed("write", &nameless))?;
        fs::rename(&nameless, &path).map_err(failed("rename", &nameless))?;
        Ok(Self { id, path, file, workers: Mutex::new(Vec::new()) })
    }

    /// Must be told before the worker claims its first job.
    pub(super) fn add_worker(&self, worker: &str) -> Result<(), QueueError> {
        self.note(&format!("worker {worker}\n")).map_err(failed("write", &self.path))?;
        self.lock_workers().push(worker.to_owned());
        Ok(())
    }

    /// From now on a crash of the process is noted.
    pub(super) fn watch_for_crashes(&self) {
        last_words::note_in(&self.file);
    }

    /// All workers of this process so far.
    pub(super) fn workers(&self) -> Vec<String> {
        self.lock_workers().clone()
    }

    /// From now on, a death is nobody's fault: somebody wanted us to stop.
    pub(super) fn note_leaving(&self) {
        if let Err(error) = self.note("leaving\n") {
            tracing::warn!(%error, path = %self.path.display(), "cannot note that this process is stopping");
        }
    }

    /// Ends the identity.
    pub(super) fn give_up(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove this process's identity");
        }
    }

    fn note(&self, line: &str) -> io::Result<()> {
        (&self.file).write_all(line.as_bytes())
    }

    fn lock_workers(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.workers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        last_words::forget(&self.file);
    }
}

/// A process that is gone. Its file is locked by us until it is buried.
#[derive(Debug)]
pub(super) struct Dead {
    pub(super) id: Uuid,
    /// Its workers of the job library.
    pub(super) workers: Vec<String>,
    /// How it ended.
    pub(super) end: End,
    path: PathBuf,
    _file: File,
}

impl Dead {
    /// Removes the file: nothing of it is left to be looked after.
    pub(super) fn bury(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove a dead process's identity");
        }
    }
}

/// Whether there is a file of this process.
pub(super) fn exists(dir: &Path, id: Uuid) -> bool {
    dir.join(format!("{id}.lock")).exists()
}

/// Who is gone and looked after by nobody; it stays so.
pub(super) fn dead_ids(dir: &Path) -> Result<Vec<Uuid>, QueueError> {
    // Made by the first process that works.
    if !dir.exists() {
        return Ok(Vec::new());
    }
    Ok(find_dead(dir)?.iter().map(|dead| dead.id).collect())
}

/// All processes of `dir` that are gone and that no other process looks after.
pub(super) fn find_dead(dir: &Path) -> Result<Vec<Dead>, QueueError> {
    let mut dead = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let path = entry.map_err(failed("list", dir))?.path();
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        let Ok(id) = stem.parse() else { continue };
        if path.extension().is_none_or(|e| e != "lock") {
            continue;
        }
        let mut file = match File::open(&path) {
            Ok(file) => file,
            // Buried by another process meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(failed("open", &path)(e)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(e)) => return Err(failed("lock", &path)(e)),
        }
        // Between opening and locking another process may have buried it.
        let opened = file.metadata().map_err(failed("look at", &path))?.ino();
        if !fs::metadata(&path).is_ok_and(|named| named.ino() == opened) {
            continue;
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed("read", &path))?;
        dead.push(Dead {
            id,
            workers: text.lines().filter_map(|l| l.strip_prefix("worker ")).map(str::to_owned).collect(),
            end: how_it_ended(&text, &last_words::boot_id(), last_words::memory_kills()),
            path,
            _file: file,
        });
    }
    Ok(dead)
}

/// Reads a dead process's facts, with the boot and the count of memory kills as they are now.
fn how_it_ended(text: &str, boot: &str, memory_kills: u64) -> End {
    let fact = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let noted = |line: &str| text.lines().any(|l| l == line);
    if noted("leaving") || fact("boot ").is_some_and(|then| then != boot) {
        return End::Excused;
    }
    let kills_then = fact("memory-kills ").and_then(|count| count.parse().ok()).unwrap_or(memory_kills);
    if noted(last_words::LINE) || memory_kills > kills_then { End::FromWithin } else { End::FromOutside }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let facts = "boot b\nmemory-kills 2\nworker w\n";
        assert_eq!(how_it_ended(facts, "b", 2), End::FromOutside);
        assert_eq!(how_it_ended(facts, "b", 3), End::FromWithin);
        assert_eq!(how_it_ended(&format!("{facts}crashed\n"), "b", 2), End::FromWithin);
        assert_eq!(how_it_ended(&format!("{facts}leaving\ncrashed\n"), "b", 2), End::Excused);
        assert_eq!(how_it_ended(facts, "another", 0), End::Excused);
        assert_eq!(how_it_ended("", "b", 7), End::FromOutside);
    }

    #[test]
    fn a_living_process_is_not_dead_and_a_dead_one_is_found_once() {
        let dir = tempfile::tempdir().unwrap();
        let living = Identity::take(dir.path()).unwrap();
        let gone = Identity::take(dir.path()).unwrap();
        gone.add_worker("w1").unwrap();
        gone.add_worker("w2").unwrap();
        let id = gone.id;
        assert!(find_dead(dir.path()).unwrap().is_empty());
        assert!(dead_ids(dir.path()).unwrap().is_empty());
        assert!(dead_ids(&dir.path().join("none")).unwrap().is_empty(), "nobody ever worked");

        drop(gone);
        assert_eq!(dead_ids(dir.path()).unwrap(), [id], "looking changes nothing");
        let found = find_dead(dir.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].id, found[0].end), (id, End::FromOutside));
        assert_eq!(found[0].workers, ["w1", "w2"]);
        assert!(find_dead(dir.path()).unwrap().is_empty(), "whoever found it holds it");

        // The finder dies before it is done: found again.
        drop(found);
        for dead in find_dead(dir.path()).unwrap() {
            dead.bury();
        }
        assert!(find_dead(dir.path()).unwrap().is_empty());
        living.give_up();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_process_that_was_asked_to_stop_is_known_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let leaving = Identity::take(dir.path()).unwrap();
        leaving.note_leaving();
        drop(leaving);
        assert_eq!(find_dead(dir.path()).unwrap()[0].end, End::Excused);
    }
}

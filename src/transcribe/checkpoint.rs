//! Finished windows, kept on disk, so that a long file continues where it was and a change of settings repeats only
//! what it must.
//!
//! One file for each recording and way to decode it (model, precision, beams, …), a line of JSON for each window, keyed by
//! which stretches of the recording it holds. So another threshold of speech detection finds again the windows that it
//! cuts alike, while another beam size finds none. Lines are only ever appended: a program that dies leaves at worst a
//! torn last line, which is skipped.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::engine::WindowText;
use crate::speech::Span;

/// Where windows are kept, and how much of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// The directory; made when it is needed.
    pub dir: PathBuf,
    /// Beyond so many bytes the recordings not used for longest are forgotten. An hour of speech takes about half a
    /// megabyte.
    pub max_bytes: u64,
}

/// Which window of a recording, in which language (if given), after which text (if carried over).
pub type WindowKey = [u8; 16];

/// The key of the window that consists of `pieces`.
pub fn window_key(pieces: &[Span], language: Option<&str>, previous: &str) -> WindowKey {
    let mut hasher = blake3::Hasher::new();
    for piece in pieces {
        hasher.update(&piece.start.to_le_bytes());
        hasher.update(&piece.end.to_le_bytes());
    }
    // Neither can be mistaken for the other: a language holds no line feed.
    hasher.update(language.unwrap_or("").as_bytes());
    hasher.update(b"\n");
    hasher.update(previous.as_bytes());
    let mut key = WindowKey::default();
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    key
}

/// All checkpoints.
#[derive(Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    /// Part of each file's name: what must be the same for a text to be used again.
    settings: String,
}

#[derive(Serialize, Deserialize)]
struct Line<K, T> {
    key: K,
    text: T,
}

impl Checkpoints {
    /// Opens the directory for texts that are decoded as `settings` says (any bytes that differ where texts would), and
    /// forgets what is too much.
    ///
    /// # Errors
    /// Where the directory cannot be made or read.
    pub fn open(options: &CheckpointOptions, settings: &[u8]) -> io::Result<Self> {
        fs::create_dir_all(&options.dir)?;
        forget(&options.dir, options.max_bytes)?;
        let settings = blake3::hash(settings).to_hex()[..16].to_owned();
        Ok(Self { dir: options.dir.clone(), settings })
    }

    /// What is known of the recording with this hash. A file that cannot be read is begun anew: nothing is lost but time.
    pub fn recording(&self, hash: &[u8; 32]) -> Recording {
        let name = format!("{}.{}.jsonl", blake3::Hash::from_bytes(*hash).to_hex(), self.settings);
        let path = self.dir.join(name);
        let known = read(&path).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, path = %path.display(), "cannot read finished windows; doing them again");
            }
            HashMap::new()
        });
        Recording { path, known, file: Mutex::new(None) }
    }

    /// What was finished of the recording with this hash in other ways (by other models, with other beams), a map for each.
    pub fn others(&self, hash: &[u8; 32]) -> Vec<HashMap<WindowKey, WindowText>> {
        let begins = format!("{}.", blake3::Hash::from_bytes(*hash).to_hex());
        let own = format!("{begins}{}.jsonl", self.settings);
        let mut paths: Vec<PathBuf> = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                name.starts_with(&begins) && name.ends_with(".jsonl") && name != own
            })
            .collect();
        paths.sort();
        // One that cannot be read is of no use; its windows are heard again.
        paths.iter().filter_map(|path| read(path).ok()).collect()
    }
}

/// The finished windows of one recording.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    known: HashMap<WindowKey, WindowText>,
    /// Opened with the first window to be kept.
    file: Mutex<Option<File>>,
}

impl Recording {
    /// The text of a window that was finished before.
    pub fn find(&self, key: &WindowKey) -> Option<&WindowText> {
        self.known.get(key)
    }

    /// Keeps a window's text. A full disk costs no more than the work of this window, should the program die.
    pub fn keep(&self, key: WindowKey, text: &WindowText) {
        let line = Line { key: u128::from_le_bytes(key).to_string(), text };
        let Ok(mut line) = serde_json::to_vec(&line) else { return };
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match &mut *file {
            Some(file) => file.write_all(&line),
            none => append(&self.path).and_then(|opened| none.insert(opened).write_all(&line)),
        };
        if let Err(error) = written {
            tracing::warn!(%error, path = %self.path.display(), "cannot keep a finished window");
        }
    }
}

/// Opens a file to append whole lines to.
fn append(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    // A torn line must not swallow the next one.
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

fn read(path: &Path) -> io::Result<HashMap<WindowKey, WindowText>> {
    let file = File::open(path)?;
    // What is used is not forgotten first.
    let _ = file.set_modified(SystemTime::now());
    let mut known = HashMap::new();
    for line in BufReader::new(file).split(b'\n') {
        if let Ok(Line { key, text }) = serde_json::from_slice::<Line<String, WindowText>>(&line?)
            && let Ok(key) = key.parse::<u128>()
        {
            known.insert(key.to_le_bytes(), text);
        }
    }
    Ok(known)
}

/// Removes the files not used for longest until no more than `most` bytes are left.
fn forget(dir: &Path, most: u64) -> io::Result<()> {
    let mut files = Vec::new();
    let mut total = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "jsonl") {
            let about = entry.metadata()?;
            total += about.len();
            files.push((about.modified().unwrap_or(SystemTime::UNIX_EPOCH), about.len(), path));
        }
    }
    files.sort();
    for (_, size, path) in files {
        if total <= most {
            break;
        }
        match fs::remove_file(&path) {
            // Another process may clean up as well.
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => total -= size,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcribe::engine::TimedText;

    fn text(words: &str) -> WindowText {
        WindowText {
            language: "en".to_owned(),
            language_prob: 0.9,
            segments: vec![TimedText {
                start_ms: 1,
                end_ms: None,
                text: words.to_owned(),
                words: Vec::new(),
            }],
            avg_logprob: -0.25,
            no_speech_prob: 0.125,
            compression_ratio: 1.5,
            temperature: 0.0,
        }
    }

    fn span(start: u64, end: u64) -> Vec<Span> {
        vec![Span { start, end }]
    }

    fn options(dir: &Path, max_bytes: u64) -> CheckpointOptions {
        CheckpointOptions { dir: dir.join("windows"), max_bytes }
    }

    #[test]
    fn what_is_kept_is_found_again_by_the_same_settings_only() {
        let dir = tempfile::tempdir().unwrap();
        let key = window_key(&span(0, 480_000), None, "");
        let open = |settings: &[u8]| Checkpoints::open(&options(dir.path(), 1 << 20), settings).unwrap();
        open(b"beam 5").recording(&[7; 32]).keep(key, &text("hello"));
        assert_eq!(open(b"beam 5").recording(&[7; 32]).find(&key), Some(&text("hello")));
        assert_eq!(open(b"beam 1").recording(&[7; 32]).find(&key), None);
        assert_eq!(open(b"beam 5").recording(&[8; 32]).find(&key), None);
        for other in [
            window_key(&span(0, 480_001), None, ""),
            window_key(&span(0, 480_000), Some("en"), ""),
            window_key(&span(0, 480_000), None, "en"),
        ] {
            assert_eq!(open(b"beam 5").recording(&[7; 32]).find(&other), None);
        }
    }

    #[test]
    fn a_torn_line_costs_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(&options(dir.path(), 1 << 20), b"").unwrap();
        let keys: Vec<_> = (0..3).map(|i| window_key(&span(i, i + 1), None, "")).collect();
        let first = checkpoints.recording(&[1; 32]);
        first.keep(keys[0], &text("one"));
        first.keep(keys[1], &text("two"));
        let path = first.path.clone();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        checkpoints.recording(&[1; 32]).keep(keys[2], &text("three"));
        let again = checkpoints.recording(&[1; 32]);
        assert_eq!(again.find(&keys[0]), Some(&text("one")));
        assert_eq!(again.find(&keys[1]), None);
        assert_eq!(again.find(&keys[2]), Some(&text("three")));
    }

    #[test]
    fn the_oldest_are_forgotten_when_it_is_too_much() {
        let dir = tempfile::tempdir().unwrap();
        let wide = options(dir.path(), 1 << 20);
        let checkpoints = Checkpoints::open(&wide, b"").unwrap();
        let key = window_key(&span(0, 1), None, "");
        for n in 0..3 {
            let recording = checkpoints.recording(&[n; 32]);
            recording.keep(key, &text("some words"));
            let age = std::time::Duration::from_secs(1_000 - u64::from(n));
            File::options()
                .write(true)
                .open(&recording.path)
                .unwrap()
                .set_modified(SystemTime::now() - age)
                .unwrap();
        }
        // Reading the first makes it the latest.
        assert!(checkpoints.recording(&[0; 32]).find(&key).is_some());
        let size = fs::metadata(checkpoints.recording(&[1; 32]).path).unwrap().len();
        File::options()
            .write(true)
            .open(checkpoints.recording(&[1; 32]).path)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH)
            .unwrap();
        let narrow = CheckpointOptions { max_bytes: 2 * size, ..wide };
        let left = Checkpoints::open(&narrow, b"").unwrap();
        let found: Vec<bool> = (0..3).map(|n| left.recording(&[n; 32]).find(&key).is_some()).collect();
        assert_eq!(found, [true, false, true]);
    }
}

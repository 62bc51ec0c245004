//! Files on disk to transcripts, without a database: what `spoken transcribe` and `spoken bench` have in common.
//!
//! ```text
//! files ──► decoders ──► (bounded) ──► submitters ──► Transcriber ──► results, in the order of the files
//!           threads, a core each       find speech
//! ```
//!
//! Decoded audio lies in a directory of its own until its file is finished; no more of it waits than the channel holds.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::steps;
use crate::config::Config;
use crate::decode::{self, DecodeOptions};
use crate::event::{Event, Events, Step};
use crate::media::{Audio, Failure, FailureClass, MediaId, Transcript};
use crate::stage::{StageMeter, StageSummary};
use crate::transcribe::{Plan, Transcriber, WindowCounts};

/// Decoded files that may wait for each submitter: one to take when the file in hand is cut.
const DECODED_AHEAD: usize = 1;

/// Beginning of the names of directories for decoded audio; the rest is the process that made them.
const ROOM: &str = "offline-";

/// A loaded model and the workers around it.
pub struct Offline {
    transcriber: Transcriber,
    decode: DecodeOptions,
    decoders: usize,
    submitters: usize,
    io: Arc<StageMeter>,
    speech: Arc<StageMeter>,
    asr: Arc<StageMeter>,
    load: Duration,
    room: Room,
}

/// What is known of a file at the end.
pub struct Heard {
    /// Position of the file in the list that was given.
    pub index: usize,
    /// Length of its audio, where it could be decoded.
    pub audio_ms: Option<i64>,
    /// Its transcript, or why there is none.
    pub result: Result<Transcript, Failure>,
    /// When it was finished, from the start of the run.
    pub at: Duration,
    /// How long that took, from the start of its decoding; waiting for other files included.
    pub took: Duration,
}

impl Offline {
    /// Loads the configured model, fetching it if need be. Decoded audio, and what the transcriber keeps of unfinished files,
    /// goes under `keep` (the data directory, or a passing one).
    ///
    /// # Errors
    /// A model that cannot be had or loaded, or a directory that cannot be made; each says what to do.
    pub fn start(config: &Config, keep: &Path, events: &Events) -> anyhow::Result<Self> {
        let mut options = steps::transcribe_options(&Config { data_dir: keep.to_owned(), ..config.clone() })?;
        options.models_dir = config.data_dir.join("models");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let decoders = cores.min(config.io_workers);
        let submitters = steps::asr_workers(config);
        let (io, speech) = (StageMeter::new("io", decoders), StageMeter::new("speech", submitters));
        let asr = StageMeter::new("asr", 1);
        let room = Room::make(&keep.join("spool")).context("failed to make room for decoded audio")?;
        let started = Instant::now();
        let mut shown = None;
        let transcriber = Transcriber::start(options, speech.clone(), asr.clone(), &mut |d| {
            steps::tell_download(events, &mut shown, &d)
        })?;
        let decode = steps::decode_options(config);
        Ok(Self { transcriber, decode, decoders, submitters, io, speech, asr, load: started.elapsed(), room })
    }

    /// How the model is run, and why.
    pub fn plan(&self) -> &Plan {
        self.transcriber.plan()
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        self.transcriber.model()
    }

    /// How long the model took to load, and to be fetched.
    pub fn load_time(&self) -> Duration {
        self.load
    }

    /// Windows of the finished files, and how many of them an earlier run had finished.
    pub fn windows(&self) -> WindowCounts {
        self.transcriber.window_counts()
    }

    /// What the stages did so far, in flow order: `io`, `speech`, `asr`.
    pub fn stages(&self) -> Vec<StageSummary> {
        vec![self.io.summary(), self.speech.summary(), self.asr.summary()]
    }

    /// Transcribes `files` all together. `each` hears of every one, in the order given, on this thread.
    ///
    /// Events carry the identity of [`media_id`]. After `cancel` what is not finished ends with an
    /// [`FailureClass::Internal`] failure.
    pub fn run(
        &self,
        files: &[PathBuf],
        events: &Events,
        cancel: &CancellationToken,
        each: &mut dyn FnMut(Heard),
    ) {
        let started = Instant::now();
        let next = AtomicUsize::new(0);
        let (decoded, to_cut) = async_channel::bounded(self.submitters * DECODED_AHEAD);
        let (told, results) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..self.decoders.min(files.len()) {
                let (decoded, told, next) = (decoded.clone(), told.clone(), &next);
                scope.spawn(move || {
                    loop {
                        let index = next.fetch_add(1, Relaxed);
                        let Some(path) = files.get(index) else { return };
                        let begun = Instant::now();
                        match self.decode(index, path, events, cancel) {
                            Ok(audio) => {
                                self.io.finished();
                                if !self.io.send_blocking(&decoded, (index, begun, audio)) {
                                    return;
                                }
                            }
                            Err(failure) => {
                                // Received until the last sender is gone.
                                let _ =
                                    told.send(Told { index, begun, audio_ms: None, result: Err(failure) });
                            }
                        }
                    }
                });
            }
            for _ in 0..self.submitters {
                let (to_cut, told) = (to_cut.clone(), told.clone());
                scope.spawn(move || {
                    while let Some((index, begun, audio)) = self.speech.recv_blocking(&to_cut) {
                        let (told, pcm, audio_ms) =
                            (told.clone(), audio.path.clone(), Some(audio.duration_ms()));
                        let done = Box::new(move |result| {
                            // What was decoded has served.
                            let _ = fs::remove_file(&pcm);
                            let _ = told.send(Told { index, begun, audio_ms, result });
                        });
                        self.transcriber.submit(media_id(&files[index]), &audio, events, cancel, done);
                    }
                });
            }
            // What is left are the workers' own ends: the channels close behind the last of them.
            drop((decoded, to_cut, told));
            let mut waiting = BTreeMap::new();
            let mut turn = 0;
            for Told { index, begun, audio_ms, result } in results {
                let (at, took) = (started.elapsed(), begun.elapsed());
                waiting.insert(index, Heard { index, audio_ms, result, at, took });
                while let Some(heard) = waiting.remove(&turn) {
                    each(heard);
                    turn += 1;
                }
            }
        });
    }

    fn decode(
        &self,
        index: usize,
        path: &Path,
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<Audio, Failure> {
        if cancel.is_cancelled() {
            return Err(Failure::new(FailureClass::Internal, "stopped"));
        }
        let _busy = self.io.busy();
        let media_id = media_id(path);
        events.send(Event::ItemStarted { media_id, title: title(path) });
        let mut progress = events.progress(media_id, Step::Decode);
        let output = self.room.0.join(format!("{index}.pcm"));
        decode::decode(path, &output, &self.decode, None, &mut progress, cancel)
    }
}

/// What a worker knows of a file at its end.
struct Told {
    index: usize,
    begun: Instant,
    audio_ms: Option<i64>,
    result: Result<Transcript, Failure>,
}

/// The identity of a file that is in no library: of its path.
pub fn media_id(path: &Path) -> MediaId {
    MediaId::new("path", &path.to_string_lossy())
}

/// What a person calls the file.
pub fn title(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The media files that `paths` name: files as they are, and of folders everything below that is media, in the order of
/// names. Hidden files and folders are left out.
///
/// # Errors
/// Where a path is not there or a folder cannot be read.
pub fn media_in(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        let there = fs::metadata(path).with_context(|| format!("failed to read {}", path.display()))?;
        if !there.is_dir() {
            found.push(path.clone());
            continue;
        }
        let visible = |entry: &walkdir::DirEntry| {
            entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b".")
        };
        for entry in walkdir::WalkDir::new(path).sort_by_file_name().into_iter().filter_entry(visible) {
            let entry = entry.with_context(|| format!("failed to read {}", path.display()))?;
            if entry.file_type().is_file() && decode::recognise(entry.path()).is_ok() {
                found.push(entry.into_path());
            }
        }
    }
    Ok(found)
}

/// A directory that goes with its process.
#[derive(Debug)]
pub struct Room(PathBuf);

impl Room {
    /// Makes one in `parent`, and removes those that dead processes left there.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn make(parent: &Path) -> io::Result<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        fs::create_dir_all(parent)?;
        for entry in fs::read_dir(parent)?.flatten() {
            let name = entry.file_name();
            let maker =
                name.to_str().and_then(|n| n.strip_prefix(ROOM)?.split('-').next()?.parse::<i32>().ok());
            if maker.is_some_and(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err())
            {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let room = parent.join(format!("{ROOM}{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed)));
        fs::create_dir(&room)?;
        Ok(Self(room))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_goes_with_its_process() {
        let parent = tempfile::tempdir().unwrap();
        // No process has the highest number there can be.
        let left = parent.path().join(format!("{ROOM}{}-0", i32::MAX));
        let foreign = parent.path().join("offline-notes");
        fs::create_dir(&left).unwrap();
        fs::create_dir(&foreign).unwrap();
        let (first, second) = (Room::make(parent.path()).unwrap(), Room::make(parent.path()).unwrap());
        assert_ne!(first.path(), second.path());
        assert!(first.path().is_dir() && !left.exists() && foreign.is_dir());
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists() && second.path().is_dir());
    }

    #[test]
    fn folders_are_searched_for_media() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let found = media_in(&[fixtures.join("media"), fixtures.join("README.md")]).unwrap();
        assert_eq!(found.len(), 6, "{found:?}");
        assert!(found[..5].is_sorted() && found[5].ends_with("README.md"));
        assert!(media_in(&[fixtures.join("nothing")]).unwrap_err().to_string().contains("nothing"));
    }
}

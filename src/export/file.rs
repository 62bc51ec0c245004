//! Files that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use uuid::Uuid;

use super::width::one_line;

/// Most characters of a title in a file's name.
const STEM: usize = 60;
/// Digits of an identity that tell items of the same title apart.
const ID: usize = 12;

/// A file in the making. It gets its name with [`OutputFile::finish`]; until then, and if the process is killed, what was there
/// before stays as it is. Dropped unfinished, it leaves nothing behind.
///
/// What is no plain file (a pipe, `/dev/stdout`) is written to as it is.
#[derive(Debug)]
pub struct OutputFile {
    out: BufWriter<Target>,
    /// Where it lies meanwhile, and where it belongs.
    rename: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug)]
enum Target {
    /// Locked, so that a second process does not write into the same.
    Part(Flock<File>),
    Other(File),
}

impl Target {
    fn file(&mut self) -> &mut File {
        match self {
            Self::Part(file) => file,
            Self::Other(file) => file,
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

impl OutputFile {
    /// Begins to write what will be `path`.
    ///
    /// # Errors
    /// Where nothing can be written there, or another process is just writing it.
    pub fn create(path: &Path) -> io::Result<Self> {
        // A link stays one: what it leads to is written.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if let Ok(known) = fs::metadata(&path)
            && (known.file_type().is_fifo()
                || known.file_type().is_char_device()
                || known.file_type().is_socket())
        {
            let file = OpenOptions::new().write(true).open(&path)?;
            return Ok(Self { out: BufWriter::new(Target::Other(file)), rename: None });
        }
        let mut name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
        if path.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        name.push(".part");
        let part = path.with_file_name(name);
        // What a killed process left is written over.
        let file = loop {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&part)?;
            let file =
                Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
                    nix::errno::Errno::EWOULDBLOCK => io::Error::new(
                        io::ErrorKind::ResourceBusy,
                        format!("another process is writing {}", path.display()),
                    ),
                    error => error.into(),
                })?;
            // Between opening and locking another one may have finished it: then this is the file with the final name.
            let same = fs::metadata(&part).is_ok_and(|there| {
                file.metadata().is_ok_and(|here| (here.dev(), here.ino()) == (there.dev(), there.ino()))
            });
            if same {
                break file;
            }
        };
        file.set_len(0)?;
        Ok(Self { out: BufWriter::with_capacity(1 << 18, Target::Part(file)), rename: Some((part, path)) })
    }

    /// Makes sure that all is on the disk, and gives it its name.
    ///
    /// # Errors
    /// Those of the disk; nothing has the name then that had not before.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()?;
        if let Some((part, path)) = &self.rename {
            self.out.get_mut().file().sync_all()?;
            fs::rename(part, path)?;
            self.rename = None;
        }
        Ok(())
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some((part, _)) = self.rename.take() {
            // Best effort: it would be written over the next time.
            let _ = fs::remove_file(part);
        }
    }
}

/// A file's name, without extension, for what is exported of an item: letters and digits of its title and the beginning of its
/// identity, so that any title gives a harmless name and no two items the same.
pub fn file_stem(title: &str, media_id: Uuid) -> String {
    let mut stem = String::new();
    for c in one_line(title).chars().flat_map(char::to_lowercase) {
        if stem.chars().count() >= STEM {
            break;
        }
        if c.is_alphanumeric() {
            stem.push(c);
        } else if !stem.is_empty() && !stem.ends_with('-') {
            stem.push('-');
        }
    }
    let stem = stem.trim_end_matches('-');
    let id = media_id.simple().to_string();
    let between = if stem.is_empty() { "" } else { "-" };
    format!("{stem}{between}{}", &id[..ID])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        fs::write(&path, "before").unwrap();
        fs::write(dir.path().join("a.txt.part"), "left by a process that was killed").unwrap();
        let mut file = OutputFile::create(&path).unwrap();
        file.write_all(b"after").unwrap();
        file.flush().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        let busy = OutputFile::create(&path).unwrap_err();
        assert!(busy.to_string().contains("another process"), "{busy}");
        file.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        drop(OutputFile::create(&path).unwrap());
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["a.txt"]);
        assert!(OutputFile::create(dir.path()).is_err());
        assert!(OutputFile::create(&dir.path().join("no/such/folder.txt")).is_err());
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("a.txt"), dir.path().join("link"));
        fs::write(&path, "before").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mut file = OutputFile::create(&link).unwrap();
        file.write_all(b"after").unwrap();
        file.finish().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
    }

    #[test]
    fn any_title_makes_a_harmless_name() {
        let id = Uuid::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0);
        let stem = |title: &str| file_stem(title, id);
        assert_eq!(stem("Hello, World!"), "hello-world-123456789abc");
        assert_eq!(stem("../../etc/passwd\0"), "etc-passwd-123456789abc");
        assert_eq!(stem("…"), "123456789abc");
        assert_eq!(stem("日本語 の"), "日本語-の-123456789abc");
        assert!(stem(&"字".repeat(500)).len() < 200);
    }
}

//! The decoded file: written under a temporary name, renamed when it is complete.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Silence of at least this many samples is left as a hole in the file instead of being written: it reads as
/// zeros and takes no disk, so that a hostile timestamp cannot fill it.
const HOLE_SAMPLES: u64 = 1 << 16;

/// Writes 16-bit little-endian samples; what was written is removed unless [`Sink::finish`] is reached.
pub(super) struct Sink {
    file: BufWriter<File>,
    temporary: PathBuf,
    output: PathBuf,
    samples: u64,
    /// Samples still to be dropped from what comes.
    skip: u64,
    bytes: Vec<u8>,
    hasher: blake3::Hasher,
}

impl Sink {
    /// Starts a file that will be `output`.
    pub fn create(output: &Path) -> io::Result<Self> {
        let mut name = OsString::from(output);
        name.push(".part");
        let temporary = PathBuf::from(name);
        let file = BufWriter::with_capacity(256 << 10, File::create(&temporary)?);
        Ok(Self {
            file,
            temporary,
            output: output.to_owned(),
            samples: 0,
            skip: 0,
            bytes: Vec::new(),
            hasher: blake3::Hasher::new(),
        })
    }

    /// Samples so far.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Appends samples.
    pub fn write(&mut self, samples: &[i16]) -> io::Result<()> {
        let drop = self.skip.min(samples.len() as u64);
        self.skip -= drop;
        let samples = &samples[drop as usize..];
        self.bytes.clear();
        self.bytes.extend(samples.iter().flat_map(|s| s.to_le_bytes()));
        self.hasher.update(&self.bytes);
        self.file.write_all(&self.bytes)?;
        self.samples += samples.len() as u64;
        Ok(())
    }

    /// Appends silence.
    pub fn silence(&mut self, samples: u64) -> io::Result<()> {
        let drop = self.skip.min(samples);
        self.skip -= drop;
        let mut left = samples - drop;
        self.samples += left;
        let hole = left >= HOLE_SAMPLES;
        static ZEROS: [u8; 1 << 15] = [0; 1 << 15];
        while left > 0 {
            let n = left.min(ZEROS.len() as u64 / 2);
            let zeros = &ZEROS[..n as usize * 2];
            self.hasher.update(zeros);
            if !hole {
                self.file.write_all(zeros)?;
            }
            left -= n;
        }
        if hole {
            self.file.seek(SeekFrom::Start(self.samples * 2))?;
        }
        Ok(())
    }

    /// Drops the next `samples` samples.
    pub fn cut(&mut self, samples: u64) {
        self.skip += samples;
    }

    /// Starts over with an empty file.
    pub fn restart(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.get_ref().set_len(0)?;
        (self.samples, self.skip) = (0, 0);
        self.hasher.reset();
        Ok(())
    }

    /// Gives the file its name; returns the number of samples in it and the BLAKE3 of their bytes.
    pub fn finish(mut self) -> io::Result<(u64, [u8; 32])> {
        self.file.flush()?;
        // A hole at the very end does not count until the length says so.
        self.file.get_ref().set_len(self.samples * 2)?;
        fs::rename(&self.temporary, &self.output)?;
        self.temporary.clear();
        Ok((self.samples, *self.hasher.finalize().as_bytes()))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if !self.temporary.as_os_str().is_empty() {
            // Whoever owns the directory removes it as a whole; this only keeps it small until then.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_silence_and_cuts_add_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcm");
        let mut sink = Sink::create(&path).unwrap();
        sink.write(&[1, -2]).unwrap();
        sink.silence(3).unwrap();
        sink.cut(2);
        sink.write(&[7]).unwrap();
        sink.write(&[8, 9]).unwrap();
        sink.silence(HOLE_SAMPLES).unwrap();
        sink.write(&[5]).unwrap();
        sink.silence(2 * HOLE_SAMPLES).unwrap();
        assert!(!path.exists());
        let (samples, _) = sink.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(samples, 6 + 3 * HOLE_SAMPLES + 1);
        assert_eq!(bytes.len() as u64, samples * 2);
        assert_eq!(&bytes[..12], &[1, 0, 254, 255, 0, 0, 0, 0, 0, 0, 9, 0]);
        let at = (6 + HOLE_SAMPLES as usize) * 2;
        assert_eq!(&bytes[at..at + 4], &[5, 0, 0, 0]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = Sink::create(&dir.path().join("a.pcm")).unwrap();
        sink.write(&[1; 100]).unwrap();
        drop(sink);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

//! The variables of CTranslate2's `model.bin` (format version 2 to 6): a list of names, shapes and where the values stand.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Float32,
    Int8,
    Int16,
    Int32,
    Float16,
    Bfloat16,
    /// As old files have it: only the size of an item is known.
    Unknown,
}

/// One variable.
#[derive(Clone, Debug)]
struct Variable {
    shape: Vec<usize>,
    kind: Kind,
    at: u64,
    size: u64,
}

/// An open file's list of variables.
#[derive(Debug)]
pub struct Variables {
    path: PathBuf,
    file: File,
    /// Bytes of the file.
    bytes: u64,
    list: HashMap<String, Variable>,
    /// Other names: equal variables are written once.
    aliases: HashMap<String, String>,
}

impl Variables {
    /// Reads the list, skipping the values.
    ///
    /// # Errors
    /// A message that names the file: unreadable, of another format, or shorter than its own list of variables.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let bytes = file.metadata().map(|m| m.len()).unwrap_or(0);
        let mut this =
            Self { path: path.to_owned(), file, bytes, list: HashMap::new(), aliases: HashMap::new() };
        this.read_list().map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => format!(
                "{} is cut off at {bytes} bytes, so the model cannot be loaded; fetch or convert it again",
                path.display()
            ),
            io::ErrorKind::InvalidData => {
                format!("{} is no whisper model in ctranslate2's format ({e})", path.display())
            }
            _ => format!("cannot read {}: {e}", path.display()),
        })?;
        Ok(this)
    }

    fn read_list(&mut self) -> io::Result<()> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut file = BufReader::with_capacity(4096, &self.file);
        let version = u32::from_le_bytes(take(&mut file)?);
        if !(2..=6).contains(&version) {
            return Err(wrong(format!("version {version}")));
        }
        let kind = name(&mut file)?;
        if kind != "WhisperSpec" {
            return Err(wrong(format!("it is a {kind:?}")));
        }
        let _revision: [u8; 4] = take(&mut file)?;
        let count = u32::from_le_bytes(take(&mut file)?);
        for _ in 0..count {
            let name = name(&mut file)?;
            let [rank] = take(&mut file)?;
            let mut shape = Vec::with_capacity(rank.into());
            for _ in 0..rank {
                shape.push(u32::from_le_bytes(take(&mut file)?) as usize);
            }
            let [kind] = take(&mut file)?;
            let number = u64::from(u32::from_le_bytes(take(&mut file)?));
            let (kind, size) = match (version, kind) {
                (..=3, item) => (Kind::Unknown, u64::from(item) * number),
                (_, 0) => (Kind::Float32, number),
                (_, 1) => (Kind::Int8, number),
                (_, 2) => (Kind::Int16, number),
                (_, 3) => (Kind::Int32, number),
                (_, 4) => (Kind::Float16, number),
                (_, 5) => (Kind::Bfloat16, number),
                (_, other) => return Err(wrong(format!("{name} is of the unknown type {other}"))),
            };
            let at = file.stream_position()?;
            if at + size > self.bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file.seek_relative(size as i64)?;
            self.list.insert(name, Variable { shape, kind, at, size });
        }
        if version >= 3 {
            let count = u32::from_le_bytes(take(&mut file)?);
            for _ in 0..count {
                let alias = name(&mut file)?;
                self.aliases.insert(alias, name(&mut file)?);
            }
        }
        Ok(())
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.bytes
    }

    /// Names and shapes of the variables that are stored, in no order.
    pub fn stored(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.list.iter().map(|(name, variable)| (name.as_str(), variable.shape.as_slice()))
    }

    /// A variable's shape.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.find(name).map(|variable| variable.shape.as_slice())
    }

    /// A single number.
    ///
    /// # Errors
    /// A message that names what is missing.
    pub fn integer(&self, name: &str) -> Result<usize, String> {
        let variable = self.named(name)?;
        let bytes = self.read(name, variable)?;
        let mut value = [0; 8];
        match value.get_mut(..bytes.len()) {
            Some(room) if variable.shape.is_empty() => room.copy_from_slice(&bytes),
            _ => return Err(format!("{name} in {} is no number", self.path.display())),
        }
        usize::try_from(u64::from_le_bytes(value)).map_err(|e| format!("{name}: {e}"))
    }

    /// Values of single or half precision, all as single.
    ///
    /// # Errors
    /// A message that names what is missing or stored in another way.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, String> {
        let variable = self.named(name)?;
        let bytes = self.read(name, variable)?;
        let halves = || bytes.as_chunks().0.iter().copied();
        match variable.kind {
            Kind::Float32 => Ok(bytes.as_chunks().0.iter().copied().map(f32::from_le_bytes).collect()),
            Kind::Float16 => Ok(halves().map(|h| half::f16::from_le_bytes(h).to_f32()).collect()),
            Kind::Bfloat16 => Ok(halves().map(|h| half::bf16::from_le_bytes(h).to_f32()).collect()),
            kind => Err(format!("{name} in {} is stored as {kind:?}", self.path.display())),
        }
    }

    /// Values that are stored as bytes; `None` where they are stored in another way.
    ///
    /// # Errors
    /// A message that names what is missing.
    pub fn bytes(&self, name: &str) -> Result<Option<Vec<i8>>, String> {
        let variable = self.named(name)?;
        if variable.kind != Kind::Int8 {
            return Ok(None);
        }
        Ok(Some(self.read(name, variable)?.into_iter().map(u8::cast_signed).collect()))
    }

    fn find(&self, name: &str) -> Option<&Variable> {
        let name = self.aliases.get(name).map_or(name, String::as_str);
        self.list.get(name)
    }

    fn named(&self, name: &str) -> Result<&Variable, String> {
        self.find(name).ok_or_else(|| format!("{} has no variable {name}", self.path.display()))
    }

    fn read(&self, name: &str, variable: &Variable) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; variable.size as usize];
        self.file
            .read_exact_at(&mut bytes, variable.at)
            .map_err(|e| format!("cannot read {name} in {}: {e}", self.path.display()))?;
        Ok(bytes)
    }
}

fn take<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A name of at most 64 KiB that ends in a zero byte.
fn name(file: &mut impl Read) -> io::Result<String> {
    let length = u16::from_le_bytes(take(file)?);
    let mut bytes = vec![0; length.into()];
    file.read_exact(&mut bytes)?;
    bytes.pop();
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a name is no text"))
}

//! SHA-256 of files.

use std::{fmt::Write as _, fs::File, io::Read as _, path::Path};

use sha2::{Digest as _, Sha256};

use crate::Error;

const CHUNK: usize = 1 << 20;

/// What identifies a file's contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDigest {
    /// The file's length in bytes.
    pub bytes: u64,
    /// The SHA-256 of its contents: 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// Reads a file through, with memory that does not grow with the file.
///
/// # Errors
///
/// [`Error::Io`] when the file cannot be opened or read.
pub fn file_digest(path: impl AsRef<Path>) -> Result<FileDigest, Error> {
    let path = path.as_ref();
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut hasher = Hasher::default();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk).map_err(Error::io("read", path))? {
            0 => return Ok(hasher.finish()),
            length => hasher.update(&chunk[..length]),
        }
    }
}

/// A [`FileDigest`] in the making.
#[derive(Default)]
pub(crate) struct Hasher {
    sha256: Sha256,
    bytes: u64,
}

impl Hasher {
    pub(crate) fn update(&mut self, chunk: &[u8]) {
        self.sha256.update(chunk);
        self.bytes += chunk.len() as u64;
    }

    pub(crate) fn finish(self) -> FileDigest {
        FileDigest {
            bytes: self.bytes,
            sha256: hex(&self.sha256.finalize()),
        }
    }
}

/// The digest of bytes in memory.
pub(crate) fn digest(bytes: &[u8]) -> FileDigest {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.finish()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Formatting into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_the_published_one() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(
            digest(b"abc"),
            FileDigest {
                bytes: 3,
                sha256: expected.to_owned()
            }
        );
    }

    #[test]
    fn file_longer_than_a_chunk_is_read_through() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let contents: Vec<u8> = (0..CHUNK + 17).map(|index| (index % 251) as u8).collect();
        std::fs::write(&path, &contents).unwrap();
        assert_eq!(file_digest(&path).unwrap(), digest(&contents));
    }

    #[test]
    fn missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let error = file_digest(&missing).unwrap_err();
        assert!(
            matches!(&error, Error::Io { action: "open", path, .. } if *path == missing),
            "{error}"
        );
    }
}

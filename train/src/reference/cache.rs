use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crc::{CRC_32_ISO_HDLC, Crc};

use crate::{Error, Result};

const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Bytes of a record before its numbers: the digest, and how many tokens either answer has.
const HEAD: usize = 32 + 4 + 4;

/// Log-probabilities of one model in a file to which records are only appended, so that what is there when the process is
/// killed is there when it is started again.
///
/// A record is the digest of a pair, the numbers of tokens of both answers as u32, a log-probability of each token as f32,
/// and the CRC-32 of all that; integers and floats are little-endian.
pub(super) struct ReferenceCache {
    path: PathBuf,
    file: File,
    /// Where the numbers of a pair begin, and how many each answer has.
    places: HashMap<[u8; 32], (u64, [usize; 2])>,
    /// Where the last whole record ends.
    end: u64,
}

impl ReferenceCache {
    /// Opens the file of the model with this digest in `folder`, for this process alone. A record that was cut short is
    /// taken off.
    ///
    /// # Errors
    /// A file that cannot be read or written, or another process that has it.
    pub(super) fn open(folder: &Path, model: &str) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join(format!("{model}.logps"));
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)
            .map_err(Error::io(&path))?;
        if file.try_lock().is_err() {
            return Err(Error::ReferenceInUse(path));
        }
        let mut cache = Self {
            path,
            file,
            places: HashMap::new(),
            end: 0,
        };
        cache.read().map_err(Error::io(&cache.path))?;
        cache.file.set_len(cache.end).map_err(Error::io(&cache.path))?;
        Ok(cache)
    }

    fn read(&mut self) -> std::io::Result<()> {
        let mut reader = BufReader::with_capacity(1 << 20, self.file.try_clone()?);
        while let Some((digest, counts, length)) = read_record(&mut reader)? {
            self.places.insert(digest, (self.end + HEAD as u64, counts));
            self.end += length;
        }
        Ok(())
    }

    /// Lets other processes open it. Nothing must be appended afterwards.
    ///
    /// # Errors
    /// A disk that cannot keep what was written.
    pub(super) fn release(&self) -> Result<()> {
        let released = self.file.sync_data().and_then(|()| self.file.unlock());
        released.map_err(Error::io(&self.path))
    }

    /// The digests of all pairs that are there, in no order.
    pub(super) fn digests(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.places.keys()
    }

    /// Whether the pair with this digest is there.
    pub(super) fn contains(&self, digest: &[u8; 32]) -> bool {
        self.places.contains_key(digest)
    }

    /// The pair with this digest.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub(super) fn get(&self, digest: &[u8; 32]) -> Result<Option<[Vec<f64>; 2]>> {
        let Some(&(place, counts)) = self.places.get(digest) else {
            return Ok(None);
        };
        let mut bytes = vec![0; 4 * (counts[0] + counts[1])];
        self.file
            .read_exact_at(&mut bytes, place)
            .map_err(Error::io(&self.path))?;
        let (chosen, rejected) = bytes.split_at(4 * counts[0]);
        Ok(Some([chosen, rejected].map(numbers)))
    }

    /// Adds a pair.
    ///
    /// # Errors
    /// A full disk.
    pub(super) fn append(&mut self, digest: &[u8; 32], logps: &[Vec<f64>; 2]) -> Result<()> {
        let mut record = digest.to_vec();
        for answer in logps {
            record.extend((answer.len() as u32).to_le_bytes());
        }
        for logp in logps.iter().flatten() {
            // They were computed in f32 or less, so nothing is lost.
            record.extend((*logp as f32).to_le_bytes());
        }
        record.extend(CHECKSUM.checksum(&record).to_le_bytes());
        self.file.write_all(&record).map_err(Error::io(&self.path))?;
        let counts = [logps[0].len(), logps[1].len()];
        self.places.insert(*digest, (self.end + HEAD as u64, counts));
        self.end += record.len() as u64;
        Ok(())
    }
}

fn numbers(bytes: &[u8]) -> Vec<f64> {
    let (floats, _) = bytes.as_chunks::<4>();
    floats
        .iter()
        .map(|bytes| f64::from(f32::from_le_bytes(*bytes)))
        .collect()
}

type Record = ([u8; 32], [usize; 2], u64);

/// The next record's digest, counts and bytes; none at the end, or where a record is cut short or damaged.
fn read_record(reader: &mut impl Read) -> std::io::Result<Option<Record>> {
    let mut record = vec![0; HEAD];
    if !fill(reader, &mut record)? {
        return Ok(None);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(&record[..32]);
    let count = |place: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&record[place..place + 4]);
        u32::from_le_bytes(bytes) as usize
    };
    let counts = [count(32), count(36)];
    let mut rest = Vec::new();
    let length = 4 * (counts[0] + counts[1]) + 4;
    reader.by_ref().take(length as u64).read_to_end(&mut rest)?;
    if rest.len() < length {
        return Ok(None);
    }
    record.extend(&rest[..length - 4]);
    let is_whole = CHECKSUM.checksum(&record).to_le_bytes() == rest[length - 4..];
    Ok(is_whole.then_some((digest, counts, (record.len() + 4) as u64)))
}

/// Whether `bytes` could be filled.
fn fill(reader: &mut impl Read, bytes: &mut [u8]) -> std::io::Result<bool> {
    match reader.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(seed: f64) -> [Vec<f64>; 2] {
        [vec![-seed, -2.5], vec![-0.125, -seed, -4.0]]
    }

    #[test]
    fn what_is_appended_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = ReferenceCache::open(dir.path(), "m").unwrap();
        assert_eq!(cache.digests().count(), 0);
        cache.append(&[1; 32], &pair(1.0)).unwrap();
        cache.append(&[2; 32], &pair(2.0)).unwrap();
        assert_eq!(cache.get(&[1; 32]).unwrap(), Some(pair(1.0)));
        drop(cache);
        let cache = ReferenceCache::open(dir.path(), "m").unwrap();
        assert_eq!(cache.get(&[2; 32]).unwrap(), Some(pair(2.0)));
        assert_eq!(cache.get(&[3; 32]).unwrap(), None);
        let other = ReferenceCache::open(dir.path(), "other").unwrap();
        assert_eq!(other.digests().count(), 0);
    }

    #[test]
    fn a_record_that_was_cut_short_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = ReferenceCache::open(dir.path(), "m").unwrap();
        cache.append(&[1; 32], &pair(1.0)).unwrap();
        cache.append(&[2; 32], &pair(2.0)).unwrap();
        let length = cache.end;
        drop(cache);
        let path = dir.path().join("m.logps");
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(length - 3)
            .unwrap();
        let mut cache = ReferenceCache::open(dir.path(), "m").unwrap();
        assert!(cache.contains(&[1; 32]) && !cache.contains(&[2; 32]));
        cache.append(&[2; 32], &pair(2.0)).unwrap();
        drop(cache);
        let cache = ReferenceCache::open(dir.path(), "m").unwrap();
        assert_eq!(cache.get(&[2; 32]).unwrap(), Some(pair(2.0)));
        assert_eq!(std::fs::metadata(path).unwrap().len(), length);
    }

    #[test]
    fn damage_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        ReferenceCache::open(dir.path(), "m")
            .unwrap()
            .append(&[1; 32], &pair(1.0))
            .unwrap();
        let path = dir.path().join("m.logps");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[HEAD] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let cache = ReferenceCache::open(dir.path(), "m").unwrap();
        assert_eq!(cache.digests().count(), 0);
    }

    #[test]
    fn two_processes_do_not_fill_it_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = ReferenceCache::open(dir.path(), "m").unwrap();
        assert!(matches!(
            ReferenceCache::open(dir.path(), "m"),
            Err(Error::ReferenceInUse(_))
        ));
        first.release().unwrap();
        ReferenceCache::open(dir.path(), "m").unwrap();
    }
}

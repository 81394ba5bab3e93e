use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Inner, Result};
use crate::file_hash::hash_bytes;

/// Hexadecimal digits of a line's checksum.
const CHECKSUM_DIGITS: usize = 16;

/// A file of numbered records, appended to and never overwritten.
///
/// A record is a line: `NUMBER LENGTH CHECKSUM JSON`. The numbers grow by one, the length is that of the JSON in bytes, and
/// the checksum is the first 64 bits of the SHA-256 of number and JSON. What was half written, zeroed or changed on the
/// disk fits none of these, and all before it stays readable, for people too.
///
/// While a journal is open its file is locked, so no other process appends.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    next: u64,
    bytes: u64,
}

/// A record of a journal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<R> {
    pub(crate) number: u64,
    pub(crate) record: R,
    /// Where the next line begins.
    pub(crate) end: usize,
}

impl Journal {
    /// A new, empty journal.
    ///
    /// # Errors
    /// The file is there already or cannot be made.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        Self::lock(path, OpenOptions::new().read(true).append(true).create_new(true))
    }

    /// Opens a journal, which is empty if there is none, and reads all bytes of the file.
    ///
    /// # Errors
    /// Another process has it open, or the file cannot be read.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<u8>)> {
        let mut journal = Self::lock(path, OpenOptions::new().read(true).append(true).create(true))?;
        let mut bytes = Vec::new();
        let read = journal.file.read_to_end(&mut bytes);
        read.map_err(|source| Inner::ReadDraft {
            path: path.to_owned(),
            source,
        })?;
        journal.bytes = bytes.len() as u64;
        Ok((journal, bytes))
    }

    fn lock(path: &Path, options: &OpenOptions) -> Result<Self> {
        let failed = |source| Inner::WriteDraft {
            path: path.to_owned(),
            source,
        };
        let file = options.open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Inner::DraftInUse {
                    path: path.to_owned(),
                }
                .into());
            }
            Err(TryLockError::Error(source)) => return Err(failed(source).into()),
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            next: 0,
            bytes: 0,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the next record.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Appends behind the first `bytes` bytes, what follows is dropped; the next record's number is `next`.
    ///
    /// # Errors
    /// The file cannot be cut.
    pub(crate) fn go_on(&mut self, bytes: usize, next: u64) -> Result<()> {
        (self.bytes, self.next) = (bytes as u64, next);
        self.cut().map_err(|source| self.failed(source))
    }

    /// Appends a record and waits until it is on the disk. Where that fails, the journal is as before.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn append(&mut self, record: &impl Serialize) -> Result<()> {
        let line = line(self.next, record)?;
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // Half a line would hide all that is appended later.
            let _ = self.cut();
            return Err(self.failed(source));
        }
        self.bytes += line.len() as u64;
        self.next += 1;
        Ok(())
    }

    fn cut(&self) -> io::Result<()> {
        if self.file.metadata()?.len() == self.bytes {
            return Ok(());
        }
        self.file.set_len(self.bytes)?;
        self.file.sync_data()
    }

    fn failed(&self, source: io::Error) -> crate::Error {
        let path = self.path.clone();
        Inner::WriteDraft { path, source }.into()
    }
}

/// A record as it stands in a journal.
///
/// # Errors
/// It cannot be written as JSON.
pub(crate) fn line(number: u64, record: &impl Serialize) -> Result<Vec<u8>> {
    let json = serde_json::to_string(record).map_err(|e| Inner::Record(e.to_string()))?;
    Ok(frame(number, &json).into_bytes())
}

fn frame(number: u64, json: &str) -> String {
    let checksum = hash_bytes(format!("{number} {json}").as_bytes());
    format!(
        "{number} {} {} {json}\n",
        json.len(),
        &checksum[..CHECKSUM_DIGITS]
    )
}

/// Reads records up to the first that is damaged or out of order.
pub(crate) fn read_lines<R: DeserializeOwned>(bytes: &[u8]) -> Vec<Line<R>> {
    let mut lines: Vec<Line<R>> = Vec::new();
    loop {
        let start = lines.last().map_or(0, |line| line.end);
        let next = read_line(&bytes[start..]);
        let in_order = |line: &Line<R>| lines.last().is_none_or(|last| last.number + 1 == line.number);
        let Some(line) = next.filter(in_order) else {
            return lines;
        };
        lines.push(Line {
            end: start + line.end,
            ..line
        });
    }
}

/// The record at the start of `bytes`.
fn read_line<R: DeserializeOwned>(bytes: &[u8]) -> Option<Line<R>> {
    let end = bytes.iter().position(|byte| *byte == b'\n')? + 1;
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut parts = text.trim_end_matches('\n').splitn(4, ' ');
    let number = parts.next()?.parse().ok()?;
    let json = parts.nth(2)?;
    // Whatever is wrong, it is not what would have been written.
    (frame(number, json) == text).then_some(())?;
    let record = serde_json::from_str(json).ok()?;
    Some(Line { number, record, end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn journal_of(records: &[&str]) -> Vec<u8> {
        let lines = records
            .iter()
            .zip(0..)
            .map(|(record, number)| line(number, record).unwrap());
        lines.collect::<Vec<_>>().concat()
    }

    fn texts(bytes: &[u8]) -> Vec<String> {
        read_lines(bytes).into_iter().map(|line| line.record).collect()
    }

    const RECORDS: [&str; 4] = ["one", "two\n河 \u{0} lines", "", "four"];

    #[test]
    fn records_are_lines_that_people_can_read() {
        let bytes = journal_of(&RECORDS);
        assert!(bytes.starts_with(b"0 5 ") && bytes.iter().filter(|b| **b == b'\n').count() == 4);
        assert_eq!(texts(&bytes), RECORDS);
    }

    #[test]
    fn every_beginning_reads_as_the_records_that_are_whole() {
        let bytes = journal_of(&RECORDS);
        for length in 0..=bytes.len() {
            let whole = bytes[..length].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(texts(&bytes[..length]), RECORDS[..whole]);
            let mut zeroed = bytes.clone();
            zeroed[length..].fill(0);
            assert_eq!(texts(&zeroed), RECORDS[..whole], "zeroed from {length}");
        }
    }

    #[test]
    fn a_changed_byte_ends_what_is_read_before_its_record() {
        let bytes = journal_of(&RECORDS);
        for at in 0..bytes.len() {
            let before = bytes[..at].iter().filter(|byte| **byte == b'\n').count();
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(texts(&changed), RECORDS[..before], "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn a_record_that_was_left_out_ends_what_is_read() {
        let mut lines: Vec<Vec<u8>> = RECORDS
            .iter()
            .zip(0..)
            .map(|(r, n)| line(n, r).unwrap())
            .collect();
        lines.remove(1);
        assert_eq!(texts(&lines.concat()), ["one"]);
    }

    #[test]
    fn one_writer_at_a_time_appends_behind_what_is_good() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = Journal::create(&path).unwrap();
        journal.append(&"one").unwrap();
        let error = Journal::open(&path).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Draft);
        assert!(error.to_string().contains("another process"), "{error}");
        drop(journal);
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"1 4 torn")
            .unwrap();
        let (mut journal, bytes) = Journal::open(&path).unwrap();
        let lines = read_lines::<String>(&bytes);
        assert_eq!((lines.len(), bytes.len() - lines[0].end), (1, 8));
        journal.go_on(lines[0].end, 1).unwrap();
        journal.append(&"two").unwrap();
        assert_eq!(texts(&std::fs::read(&path).unwrap()), ["one", "two"]);
        assert!(Journal::create(&path).is_err(), "it is there");
    }
}

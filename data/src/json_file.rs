use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::json_list::ListScanner;
use crate::media::MediaDir;
use crate::{Conversation, Error, Origin, Pair, Place, Problem, Result, record};

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A file of JSON records: one a line, or one list of them. Only where they stand is kept in memory.
#[derive(Debug)]
pub(crate) struct JsonFile {
    path: PathBuf,
    media: MediaDir,
    records: Vec<Record>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    offset: u64,
    length: u64,
    line: u64,
}

impl JsonFile {
    /// Finds the records. Their contents are not looked at.
    pub(crate) fn open(path: &Path, media: MediaDir) -> Result<Self> {
        let file = File::open(path).map_err(|source| read_error(path, source))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let start = skip_mark(&mut reader).map_err(|source| read_error(path, source))?;
        let is_list =
            first_byte(&mut reader, start).map_err(|source| read_error(path, source))? == Some(b'[');
        let records = if is_list {
            list_items(&mut reader, start, path)?
        } else {
            lines(&mut reader, start).map_err(|source| read_error(path, source))?
        };
        Ok(Self {
            path: path.to_owned(),
            media,
            records,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Reads one record anew, as a conversation.
    pub(crate) fn get(&self, index: usize) -> Result<Conversation> {
        self.parsed(index, |value, media, origin| {
            record::draft(value, media)?.finish(origin)
        })
    }

    /// Reads one record anew, as a pair.
    pub(crate) fn pair(&self, index: usize) -> Result<Pair> {
        self.parsed(index, Pair::read)
    }

    /// Reads one record anew, as what `parse` makes of it, the folder of pictures and where it stands.
    pub(crate) fn parsed<T>(
        &self,
        index: usize,
        parse: impl Fn(&Value, &MediaDir, Origin) -> std::result::Result<T, Problem>,
    ) -> Result<T> {
        let record = self.records[index];
        let bytes = self
            .read(record)
            .map_err(|source| read_error(&self.path, source))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| self.json_error(record, &error))?;
        let origin = self.origin(record.line);
        parse(&value, &self.media, origin.clone()).map_err(|problem| problem.at(&origin))
    }

    fn read(&self, record: Record) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(record.offset))?;
        let mut bytes = Vec::new();
        file.take(record.length).read_to_end(&mut bytes)?;
        // So that a record that breaks off does so in its own line.
        bytes.truncate(bytes.trim_ascii_end().len());
        Ok(bytes)
    }

    fn origin(&self, line: u64) -> Origin {
        Origin {
            file: self.path.clone(),
            place: Place::Line(line),
        }
    }

    /// The parser counts lines from the record's first.
    fn json_error(&self, record: Record, error: &serde_json::Error) -> Error {
        let (line, column) = (error.line(), error.column());
        let message = error.to_string();
        let reason = message
            .strip_suffix(&format!(" at line {line} column {column}"))
            .unwrap_or(&message);
        let line = record.line + (line as u64).saturating_sub(1);
        Problem::Json(format!("{reason} at column `{column}`")).at(&self.origin(line))
    }
}

fn read_error(path: &Path, source: std::io::Error) -> Error {
    Error::Read {
        path: path.to_owned(),
        source,
    }
}

/// Skips a byte order mark, which is no JSON. Gives the place after it.
fn skip_mark(reader: &mut (impl BufRead + Seek)) -> std::io::Result<u64> {
    let length = if reader.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
        BYTE_ORDER_MARK.len()
    } else {
        0
    };
    reader.consume(length);
    Ok(length as u64)
}

/// The first byte that is not blank; the reader stands at `start` again afterwards.
fn first_byte(reader: &mut (impl BufRead + Seek), start: u64) -> std::io::Result<Option<u8>> {
    let mut first = None;
    for byte in reader.by_ref().bytes() {
        let byte = byte?;
        if !byte.is_ascii_whitespace() {
            first = Some(byte);
            break;
        }
    }
    reader.seek(SeekFrom::Start(start))?;
    Ok(first)
}

/// The lines that are not blank.
fn lines(reader: &mut impl BufRead, start: u64) -> std::io::Result<Vec<Record>> {
    let (mut records, mut offset, mut line, mut bytes) = (Vec::new(), start, 0, Vec::new());
    loop {
        bytes.clear();
        let length = reader.read_until(b'\n', &mut bytes)? as u64;
        if length == 0 {
            return Ok(records);
        }
        line += 1;
        if !bytes.trim_ascii().is_empty() {
            records.push(Record { offset, length, line });
        }
        offset += length;
    }
}

/// The items of a list.
fn list_items(reader: &mut impl BufRead, start: u64, path: &Path) -> Result<Vec<Record>> {
    let mut scanner = ListScanner::new(start);
    let mut records = Vec::new();
    let list_error = |(line, message)| Error::List {
        path: path.to_owned(),
        line,
        message,
    };
    for byte in reader.bytes() {
        let byte = byte.map_err(|source| read_error(path, source))?;
        if let Some((bytes, line)) = scanner.push(byte).map_err(list_error)? {
            let (offset, length) = (bytes.start, bytes.end - bytes.start);
            records.push(Record { offset, length, line });
        }
    }
    scanner.finish().map_err(list_error)?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(content: &str) -> (tempfile::TempDir, Result<JsonFile>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        std::fs::write(&path, content).unwrap();
        let file = JsonFile::open(&path, MediaDir("".into()));
        (folder, file)
    }

    const GOOD: &str = r#"{"instruction": "a", "output": "b"}"#;

    /// The message of sample `index`, without the folder.
    fn error(content: &str, index: usize) -> String {
        let (folder, file) = open(content);
        let error = file.and_then(|file| file.get(index)).unwrap_err().to_string();
        error.replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn lines_and_lists_are_the_same_samples() {
        for content in [
            format!("{GOOD}\n\n{GOOD}"),
            format!("[{GOOD},\n\n{GOOD}]"),
            format!("\u{feff}\n[\n{GOOD},{GOOD}\n]\n"),
        ] {
            let (_folder, file) = open(&content);
            let file = file.unwrap();
            assert_eq!(file.len(), 2, "{content}");
            let (first, second) = (file.get(0).unwrap(), file.get(1).unwrap());
            assert_eq!(first.messages, second.messages);
            assert_eq!(first.answers().collect::<Vec<_>>(), ["b"]);
            assert!(
                second.origin.to_string().ends_with("x.json:3"),
                "{}",
                second.origin
            );
        }
    }

    #[test]
    fn bad_lines_are_named() {
        let broken = format!("{GOOD}\n{{\"instruction\": \n{GOOD}\n");
        assert_eq!(
            error(&broken, 1),
            "`x.json:2`: not valid JSON: EOF while parsing a value at column `15`"
        );
        let unknown = format!("{GOOD}\n\n{{\"text\": \"x\"}}\n");
        assert!(
            error(&unknown, 1).starts_with("`x.json:3`: no known format: "),
            "{}",
            error(&unknown, 1)
        );
        let empty = r#"{"instruction": "a", "output": " "}"#;
        assert_eq!(
            error(empty, 0),
            "`x.json:1`: the answer in message `1` (from `0`) is empty; write it or take the sample out"
        );
    }

    #[test]
    fn bad_lists_are_named() {
        let inside = format!("[{GOOD},\n{{\"a\":\n tru}}]");
        assert!(
            error(&inside, 1).starts_with("`x.json:3`: not valid JSON: expected ident at column"),
            "{}",
            error(&inside, 1)
        );
        assert_eq!(
            error(&format!("[{GOOD},\n{{"), 0),
            "`x.json:2`: the record that begins here does not end"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = JsonFile::open(Path::new("/nonexistent/x.json"), MediaDir("".into())).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot read `/nonexistent/x.json`: "),
            "{error}"
        );
    }
}
